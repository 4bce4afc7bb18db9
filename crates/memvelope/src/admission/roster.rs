//! The live leases of a gate that keeps books: one entry each, in a slab that grows to what it ever
//! had to hold.

use super::forecast::Share;
use crate::units::Nanos;

/// No entry: the end of a list of leases that share a prefix.
pub(crate) const NOBODY_ELSE: u32 = u32::MAX;

/// What the books know of a lease. The lease itself counts tokens between two blocks; here they are
/// as of the last block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) is_live: bool,
    /// It was silent for too long and its blocks were taken back; the slot is its until it is
    /// dropped.
    pub(crate) is_expired: bool,
    /// Account and class by number.
    pub(crate) pool: u16,
    pub(crate) class: u16,
    /// Blocks that it alone holds, and may come to hold.
    pub(crate) held: u32,
    pub(crate) claim: u32,
    /// Blocks of its prefix that others hold, too.
    pub(crate) shared: u32,
    /// Of `held` + `shared`, what prefill has not reached.
    pub(crate) reserved: u32,
    pub(crate) prompt_tokens: u64,
    pub(crate) tokens: u64,
    pub(crate) max_tokens: u64,
    /// Its number among all admissions of the gate: its name, and its age.
    pub(crate) serial: u64,
    /// How often it was told to wait, and when it was last heard of, on the gate's clock.
    pub(crate) waits: u32,
    pub(crate) heard: Nanos,
    /// Which prefix it has, by its key, and its neighbours among those who have it.
    pub(crate) prefix: Option<u64>,
    pub(crate) previous: u32,
    pub(crate) next: u32,
    /// As it stands in the forecast: what it adds, and the output it had.
    pub(crate) counted: Share,
    pub(crate) counted_generated: u64,
}

impl Entry {
    /// Blocks that it may still draw.
    #[inline]
    pub(crate) const fn need(&self) -> u32 {
        self.claim - self.held
    }

    /// Tokens of output so far.
    #[inline]
    pub(crate) const fn generated(&self) -> u64 {
        self.tokens - self.prompt_tokens
    }

    /// What it adds to a forecast.
    #[inline]
    pub(crate) fn share(&self) -> Share {
        let left = u32::try_from(self.max_tokens - self.tokens).unwrap_or(u32::MAX);
        Share { held: self.held, claim: self.claim, left_tokens: left }
    }
}

/// The entries.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    entries: Vec<Entry>,
    spare: Vec<u32>,
    serial: u64,
}

impl Roster {
    /// How many leases live.
    pub(crate) const fn len(&self) -> usize {
        self.entries.len() - self.spare.len()
    }

    /// Enters a lease and returns its slot. Its serial is made here.
    #[inline]
    pub(crate) fn insert(&mut self, entry: Entry) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        let entry = Entry { is_live: true, serial: self.serial, ..entry };
        if let Some(slot) = self.spare.pop() {
            self.entries[slot as usize] = entry;
            return slot;
        }
        self.entries.push(entry);
        // The gate admits no more than `leases_max`, which fits 32 bits.
        (self.entries.len() - 1) as u32
    }

    /// Takes a lease out.
    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) {
        self.entries[slot as usize].is_live = false;
        self.spare.push(slot);
    }

    /// Every live lease with its slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0..).zip(&self.entries).filter(|(_, entry)| entry.is_live)
    }

    /// Every live lease, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().filter(|entry| entry.is_live)
    }
}

impl std::ops::Index<u32> for Roster {
    type Output = Entry;
    #[inline]
    fn index(&self, slot: u32) -> &Entry {
        &self.entries[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Roster {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[slot as usize]
    }
}
