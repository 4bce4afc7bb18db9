//! The table of live entries: a slab with an index of slot numbers over it.
//!
//! Everything is allocated when the table is made. 40 bytes of slab, 4 of free list and 20 of
//! index make at most 64 bytes an entry; slots are reused last in, first out, so that a process
//! with few live entries stays in few cache lines whatever its limit is.

use crate::event::{AllocKind, Tag};
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

/// One live allocation or mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Address, or VMM handle.
    pub(super) address: u64,
    /// Its bytes.
    pub(super) bytes: u64,
    /// CUPTI's context id, 0 if unknown.
    pub(super) context: u32,
    /// Device ordinal.
    pub(super) device: u32,
    /// For [`Space::Handle`]: mappings that keep the bytes alive. For [`Space::Mapping`]: the slot
    /// of what it maps.
    pub(super) link: u32,
    pub(super) space: Space,
    pub(super) kind: AllocKind,
    pub(super) tag: Tag,
    /// Whether the index leads here: the address (or handle) has not been freed.
    pub(super) is_open: bool,
    /// Whether the bytes are in the totals.
    pub(super) is_counted: bool,
    /// Whether a free was entered and has not returned: the slot stays reserved for putting back.
    pub(super) is_pending: bool,
    is_vacant: bool,
}

impl Entry {
    pub(super) fn new(space: Space, address: u64, bytes: u64) -> Self {
        Self {
            address,
            bytes,
            context: 0,
            device: 0,
            link: 0,
            space,
            kind: AllocKind::Device,
            tag: Tag::Untagged,
            is_open: true,
            is_counted: false,
            is_pending: false,
            is_vacant: false,
        }
    }

    /// Whether the bytes are taken: something can still free or reach them.
    pub(super) fn is_live(&self) -> bool {
        self.is_open || (self.space == Space::Handle && self.link > 0)
    }
}

#[derive(Debug)]
pub(super) struct Table {
    slab: Vec<Entry>,
    free: Vec<Slot>,
    index: HashTable<Slot>,
    limit: usize,
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
        self.add_to_index(slot, &entry);
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
        self.get_mut(slot)?.is_open = false;
        Some(slot)
    }

    /// Takes the entry out of the index; its slot stays until [`Self::release`].
    pub(super) fn close(&mut self, slot: Slot) {
        let slab = &self.slab;
        let Some(entry) = slab.get(slot as usize).filter(|entry| entry.is_open) else { return };
        if let Ok(found) =
            self.index.find_entry(hash(entry.space, entry.address), |other| *other == slot)
        {
            found.remove();
        }
        if let Some(entry) = self.get_mut(slot) {
            entry.is_open = false;
        }
    }

    /// Puts a closed entry back into the index.
    pub(super) fn reopen(&mut self, slot: Slot) {
        let Some(entry) = self.get_mut(slot).filter(|entry| !entry.is_open) else { return };
        entry.is_open = true;
        let entry = *entry;
        self.add_to_index(slot, &entry);
    }

    /// Gives the slot of a closed entry back.
    pub(super) fn release(&mut self, slot: Slot) {
        if let Some(entry) = self.get_mut(slot).filter(|entry| !entry.is_vacant) {
            entry.is_vacant = true;
            self.free.push(slot);
        }
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Entry> {
        self.slab.get(slot as usize).filter(|entry| !entry.is_vacant)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.slab.get_mut(slot as usize).filter(|entry| !entry.is_vacant)
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
