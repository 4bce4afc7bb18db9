//! Questions about single allocations, asked by threads of our own: in small portions, so that a
//! driver call of the program never waits for a walk over all of them. Between two portions things
//! may move; [`super::Ledger::changes`] tells.

use super::mappings;
use super::table::{Entry, Slot, Space};
use super::{Ledger, books::Books};
use crate::event::{AllocKind, DeviceIndex, LibraryId, Tag};
use crate::framework::Segment;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// Segments or slots looked at while the lock is held once: microseconds.
const PORTION: usize = 512;

/// A framework segment as the driver plane knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Matched {
    /// Bytes of driver allocations inside of it that count as VRAM, by [`crate::event::Tag`]
    /// in its order; all zero if the ledger never saw it.
    pub by_tag: [Bytes; Tag::COUNT],
    /// Bytes inside of it that stream-ordered pools handed out, likewise: they are in the pools'
    /// reserve, which is counted by itself.
    pub pooled_by_tag: [Bytes; Tag::COUNT],
    /// Allocations inside of it, of whatever kind: none if the ledger never saw it.
    pub count: u64,
    /// The library that asked for them.
    pub library: LibraryId,
}

/// A live allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Its address; of a VMM allocation the handle.
    pub address: u64,
    /// Its bytes, as they were asked for.
    pub bytes: Bytes,
    /// Which family.
    pub kind: AllocKind,
    /// What it is for.
    pub tag: Tag,
    /// Who asked for it.
    pub library: LibraryId,
    /// The pool that it is from; 0 if none, or not known.
    pub pool: u64,
}

/// A VMM allocation of a segment that was counted already, and for whom.
type Counted = (Slot, usize);

impl Ledger {
    /// For each segment the driver allocations inside of it: one at its address, or those mapped
    /// into it, each once whatever it is mapped at, and for the first segment that has it.
    #[must_use]
    pub fn matched(&self, device: DeviceIndex, segments: &[Segment]) -> Vec<Matched> {
        let mut matched = Vec::with_capacity(segments.len());
        let mut seen = Vec::new();
        for portion in segments.chunks(PORTION) {
            // Made outside the lock: callbacks must not wait for the allocator.
            let mut found: Vec<(usize, Slot, Entry)> = Vec::with_capacity(4 * PORTION);
            let mut next = 0;
            while let Some(segment) = portion.get(next) {
                let is_whole = {
                    let books = self.lock();
                    let room = found.capacity() - found.len();
                    books.inside(device, segment, matched.len() + next, room, &mut found)
                };
                if is_whole {
                    next += 1;
                } else {
                    found.reserve(2 * found.capacity());
                }
            }
            matched.resize(matched.len() + portion.len(), Matched::default());
            seen.extend(found);
        }
        // The same allocation: next to each other, the first segment that has it first.
        seen.sort_unstable_by_key(|(segment, slot, _)| (*slot, *segment));
        let mut last: Option<Counted> = None;
        for (segment, slot, entry) in seen {
            let is_counted = last.is_some_and(|(known, _)| known == slot);
            last = Some((slot, segment));
            if let Some(matched) = matched.get_mut(segment).filter(|_| !is_counted) {
                matched.add(&entry);
            }
        }
        matched
    }

    /// The largest live allocations of a device, at most `max`, largest first.
    #[must_use]
    pub fn live(&self, device: DeviceIndex, max: usize) -> Vec<Live> {
        let mut portion = Vec::with_capacity(PORTION);
        let mut found: Vec<Live> = Vec::new();
        let mut from = 0;
        loop {
            portion.clear();
            let end = self.lock().live_in(device, from, &mut portion);
            found.extend_from_slice(&portion);
            // Cut down now and then, so that a million allocations need not be held.
            if end || found.len() >= max.saturating_mul(2).max(PORTION) {
                found.sort_unstable_by_key(|live| (std::cmp::Reverse(live.bytes), live.address));
                found.truncate(max);
            }
            if end {
                return found;
            }
            from += PORTION;
        }
    }
}

impl Matched {
    fn add(&mut self, entry: &Entry) {
        if self.count == 0 {
            self.library = entry.library;
        }
        self.count += 1;
        let by_tag = match entry.kind {
            kind if kind.counts_as_vram() => &mut self.by_tag,
            AllocKind::PoolUsed => &mut self.pooled_by_tag,
            _ => return,
        };
        let bytes = &mut by_tag[entry.tag as usize];
        *bytes = bytes.saturating_add(Bytes(entry.bytes));
    }
}

impl Books {
    /// Adds what is inside a segment; false, and nothing added, where there is not enough room.
    fn inside(
        &self,
        device: DeviceIndex,
        segment: &Segment,
        number: usize,
        room: usize,
        found: &mut Vec<(usize, Slot, Entry)>,
    ) -> bool {
        let before = found.len();
        let mut add = |slot: Slot| {
            let Some(entry) = self.table.get(slot) else { return true };
            let is_there = u32::from(entry.device) == device.0 && entry.is_counted();
            if !is_there {
                return true;
            }
            let has_room = found.len() - before < room;
            if has_room {
                found.push((number, slot, *entry));
            }
            has_room
        };
        let mut is_whole = true;
        if let Some(slot) = self.table.find(Space::Address, segment.address) {
            is_whole = add(slot);
        } else {
            let end = segment.address.saturating_add(segment.bytes.0);
            let mut from = segment.address;
            while let Some(mapping) = mappings::first_in(&self.table, from, end)
                .and_then(|slot| self.table.get(slot))
                .filter(|_| is_whole)
            {
                is_whole = add(mapping.link);
                from = mapping.address.saturating_add(mapping.bytes);
                if from >= end {
                    break;
                }
            }
        }
        if !is_whole {
            found.truncate(before);
        }
        is_whole
    }

    /// What is live in a portion of the slots; true if it was the last one.
    fn live_in(&self, device: DeviceIndex, from: usize, into: &mut Vec<Live>) -> bool {
        let slots = self.table.slots() as usize;
        for slot in from..slots.min(from + PORTION) {
            let entry = Slot::try_from(slot).ok().and_then(|slot| self.table.get(slot));
            let Some(entry) = entry.filter(|entry| entry.is_counted()) else { continue };
            if u32::from(entry.device) == device.0 && entry.space != Space::Mapping {
                into.push(Live {
                    address: entry.address,
                    bytes: Bytes(entry.bytes),
                    kind: entry.kind,
                    tag: entry.tag,
                    library: entry.library,
                    pool: self.pool_handle(entry),
                });
            }
        }
        from + PORTION >= slots
    }
}
