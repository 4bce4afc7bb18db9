//! The table of live entries: a slab with an index of slot numbers over it.
//!
//! Everything is allocated when the table is made. 40 bytes of slab, 4 of free list and 20 of
//! index make at most 64 bytes an entry; slots are reused last in, first out, so that a process
//! with few live entries stays in few cache lines whatever its limit is. Mappings are not in the
//! index but in a tree by address, see [`super::mappings`].

use crate::event::{AllocKind, LibraryId, Tag};
use hashbrown::HashTable;

/// Which numbers an entry's address is unique among. A VMM handle may be the same number as an
/// address, and a mapped address is no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Space {
    /// Addresses of allocations: unified addressing makes them unique across families and devices.
    Address,
    /// VMM handles.
    Handle,
    /// First addresses of mappings.
    Mapping,
}

/// A slot of the slab.
pub(super) type Slot = u32;

/// No slot: one past the highest that can be.
pub(super) const NOWHERE: Slot = u32::MAX;

/// One live allocation or mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Address, or VMM handle.
    pub(super) address: u64,
    /// Its bytes.
    pub(super) bytes: u64,
    /// CUPTI's context id, 0 if unknown. Of a mapping: its left child in the tree.
    pub(super) context: u32,
    /// For [`Space::Handle`]: mappings and bindings that keep the bytes alive. For
    /// [`Space::Mapping`]: the slot of what it maps.
    pub(super) link: u32,
    /// Frees it takes until the address or handle is gone. Of a mapping: its right child.
    pub(super) references: u32,
    /// Who asked for it.
    pub(super) library: LibraryId,
    /// One more than the row of its pool, 0 without one.
    pub(super) pool: u16,
    /// Open descriptors that keep the bytes.
    pub(super) exports: u16,
    /// Device ordinal, below [`super::DEVICES_MAX`].
    pub(super) device: u8,
    pub(super) space: Space,
    pub(super) kind: AllocKind,
    pub(super) tag: Tag,
    /// Frees that were entered and have not returned: the slot stays reserved for putting back.
    pub(super) pending: u8,
    flags: u8,
}

const OPEN: u8 = 1;
const COUNTED: u8 = 2;
const EXPORT_ONLY: u8 = 4;
const VACANT: u8 = 8;
const EXPORTED: u8 = 16;

impl Entry {
    pub(super) fn new(space: Space, address: u64, bytes: u64) -> Self {
        Self {
            address,
            bytes,
            context: 0,
            link: 0,
            references: 1,
            library: LibraryId::UNKNOWN,
            pool: 0,
            exports: 0,
            device: 0,
            space,
            kind: AllocKind::Device,
            tag: Tag::Untagged,
            pending: 0,
            flags: OPEN,
        }
    }

    /// Whether the index leads here: the address (or handle) has not been freed.
    pub(super) fn is_open(&self) -> bool {
        self.flags & OPEN != 0
    }

    /// Whether the bytes are in the totals.
    pub(super) fn is_counted(&self) -> bool {
        self.flags & COUNTED != 0
    }

    /// Whether the bytes are in the sum of what exports alone keep.
    pub(super) fn is_counted_as_export(&self) -> bool {
        self.flags & EXPORT_ONLY != 0
    }

    pub(super) fn set_counted(&mut self, counted: bool, as_export: bool) {
        self.flags = self.flags & !(COUNTED | EXPORT_ONLY)
            | if counted { COUNTED } else { 0 }
            | if as_export { EXPORT_ONLY } else { 0 };
    }

    /// Whether a descriptor of it was ever made.
    pub(super) fn was_exported(&self) -> bool {
        self.flags & EXPORTED != 0
    }

    pub(super) fn note_export(&mut self) {
        self.flags |= EXPORTED;
    }

    fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    fn is_vacant(&self) -> bool {
        self.flags & VACANT != 0
    }

    /// Whether the bytes are taken: something can still free or reach them.
    pub(super) fn is_live(&self) -> bool {
        self.is_open() || (self.space == Space::Handle && (self.link > 0 || self.exports > 0))
    }

    /// Whether an exported descriptor alone keeps the bytes.
    pub(super) fn is_export_only(&self) -> bool {
        !self.is_open() && self.link == 0 && self.exports > 0
    }
}

#[derive(Debug)]
pub(super) struct Table {
    slab: Vec<Entry>,
    free: Vec<Slot>,
    index: HashTable<Slot>,
    limit: usize,
    /// Root of the tree of mappings.
    pub(super) root: Slot,
    pub(super) mappings: usize,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        // A slot number must fit, and the largest is never used.
        let limit = limit.clamp(1, (u32::MAX - 1) as usize);
        Self {
            slab: Vec::with_capacity(limit),
            free: Vec::with_capacity(limit),
            // Twice the limit: hashbrown then cleans up after removals in place and never
            // allocates, which a driver callback must not.
            index: HashTable::with_capacity(2 * limit),
            limit,
            root: NOWHERE,
            mappings: 0,
        }
    }

    /// Bytes allocated for the table.
    pub(super) fn host_bytes(&self) -> u64 {
        let slab = self.slab.capacity() * std::mem::size_of::<Entry>();
        let free = self.free.capacity() * std::mem::size_of::<Slot>();
        (slab + free + self.index.allocation_size()) as u64
    }

    pub(super) fn find(&self, space: Space, address: u64) -> Option<Slot> {
        let slab = &self.slab;
        self.index.find(hash(space, address), |slot| is_at(slab, *slot, space, address)).copied()
    }

    /// Enters an open entry whose place is free; `None` when the table is full.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Slot> {
        let slot = self.store(entry)?;
        self.add_to_index(slot, &entry);
        Some(slot)
    }

    /// Puts an entry into the slab alone.
    pub(super) fn store(&mut self, entry: Entry) -> Option<Slot> {
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.slab.get_mut(slot as usize)? = entry;
                slot
            }
            None if self.slab.len() < self.limit => {
                self.slab.push(entry);
                Slot::try_from(self.slab.len() - 1).ok()?
            }
            None => return None,
        };
        Some(slot)
    }

    fn add_to_index(&mut self, slot: Slot, entry: &Entry) {
        let slab = &self.slab;
        let hasher = |slot: &Slot| slab.get(*slot as usize).map_or(0, |e| hash(e.space, e.address));
        self.index.insert_unique(hash(entry.space, entry.address), slot, hasher);
    }

    /// Finds an open entry and takes it out of the index, as [`Self::close`] does.
    pub(super) fn close_at(&mut self, space: Space, address: u64) -> Option<Slot> {
        let slab = &self.slab;
        let (slot, _) = self
            .index
            .find_entry(hash(space, address), |slot| is_at(slab, *slot, space, address))
            .ok()?
            .remove();
        self.get_mut(slot)?.set(OPEN, false);
        Some(slot)
    }

    /// Finds an open entry and takes one of its references; with the last one it leaves the index, as
    /// with [`Self::close`].
    pub(super) fn take_reference(&mut self, space: Space, address: u64) -> Option<Slot> {
        let slab = &self.slab;
        let found = self
            .index
            .find_entry(hash(space, address), |slot| is_at(slab, *slot, space, address))
            .ok()?;
        let slot = *found.get();
        let entry = self.slab.get_mut(slot as usize)?;
        entry.references = entry.references.saturating_sub(1);
        if entry.references == 0 {
            found.remove();
            entry.set(OPEN, false);
        }
        Some(slot)
    }

    /// Takes the entry out of the index; its slot stays until [`Self::release`].
    pub(super) fn close(&mut self, slot: Slot) {
        let slab = &self.slab;
        let Some(entry) = slab.get(slot as usize).filter(|entry| entry.is_open()) else { return };
        if let Ok(found) =
            self.index.find_entry(hash(entry.space, entry.address), |other| *other == slot)
        {
            found.remove();
        }
        if let Some(entry) = self.get_mut(slot) {
            entry.set(OPEN, false);
        }
    }

    /// Puts a closed entry back into the index.
    pub(super) fn reopen(&mut self, slot: Slot) {
        let Some(entry) = self.get_mut(slot).filter(|entry| !entry.is_open()) else { return };
        entry.set(OPEN, true);
        let entry = *entry;
        self.add_to_index(slot, &entry);
    }

    /// Gives the slot of a closed entry back.
    pub(super) fn release(&mut self, slot: Slot) {
        if let Some(entry) = self.get_mut(slot).filter(|entry| !entry.is_vacant()) {
            entry.set(VACANT, true);
            self.free.push(slot);
        }
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Entry> {
        self.slab.get(slot as usize).filter(|entry| !entry.is_vacant())
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.slab.get_mut(slot as usize).filter(|entry| !entry.is_vacant())
    }

    /// The entry in a slot that is known to be taken; for walks of the tree.
    pub(super) fn at(&self, slot: Slot) -> Option<&Entry> {
        self.slab.get(slot as usize)
    }

    /// One past the highest slot in use, for walks over the whole table.
    pub(super) fn slots(&self) -> Slot {
        // The limit fits, see `new`.
        self.slab.len() as Slot
    }
}

fn is_at(slab: &[Entry], slot: Slot, space: Space, address: u64) -> bool {
    slab.get(slot as usize).is_some_and(|entry| entry.address == address && entry.space == space)
}

/// Addresses are multiples of 512 at least and near each other; one folded multiplication by the
/// golden ratio spreads them over the high bits (hashbrown's tags) and the low ones (its buckets).
fn hash(space: Space, address: u64) -> u64 {
    let key = address ^ ((space as u64) << 62);
    let product = u128::from(key) * 0x9E37_79B9_7F4A_7C15_u128;
    ((product >> 64) as u64) ^ (product as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_64_bytes_at_most() {
        assert_eq!(std::mem::size_of::<Entry>(), 40);
        let table = Table::new(1 << 16);
        let per_entry = table.host_bytes() as f64 / f64::from(1 << 16);
        assert!(per_entry <= 64.1, "{per_entry}");
    }

    #[test]
    fn nothing_is_allocated_after_the_start() {
        let mut table = Table::new(1000);
        let bytes = table.host_bytes();
        for round in 0..200_000u64 {
            let address = round.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            if let Some(slot) = table.insert(Entry::new(Space::Address, address, 1)) {
                if round % 2 == 0 {
                    table.close(slot);
                    table.release(slot);
                }
            } else {
                for slot in 0..table.slots() {
                    table.close(slot);
                    table.release(slot);
                }
            }
        }
        assert_eq!(table.host_bytes(), bytes);
    }

    #[test]
    fn neighbours_spread() {
        // 4096 addresses 2 MiB apart: near the ideal in the low bits and in the top seven.
        let mut low = vec![0u32; 4096];
        let mut high = [0u32; 128];
        for i in 0..4096u64 {
            let h = hash(Space::Address, 0x7f00_0000_0000 + (i << 21));
            low[(h & 4095) as usize] += 1;
            high[(h >> 57) as usize] += 1;
        }
        assert!(low.iter().filter(|n| **n > 0).count() > 2400);
        assert!(high.iter().all(|n| (8..80).contains(n)), "{high:?}");
    }
}
