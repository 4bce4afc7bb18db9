//! The account of one pool in the books: capacity, what is held, needs in order, counts.

use super::answer::{REASONS, Reason, Usage};
use super::histogram::Outcomes;
use super::needs::Needs;
use super::rate::ReleaseRate;
use crate::units::Blocks;

/// One pool's blocks. Amounts fit 31 bits and their sums 64.
#[derive(Debug)]
pub(crate) struct Account {
    /// Capacity in force, with what was borrowed and without what was lent.
    pub(crate) capacity: u64,
    /// Its share of the whole capacity, and the part of it that is never lent.
    pub(crate) nominal: u64,
    pub(crate) floor: u64,
    /// Highest capacity that it could ever have had, all borrowing included.
    pub(crate) capacity_best: u64,
    /// Blocks of prefixes that several leases share: no lease gives them back.
    pub(crate) shared: u64,
    /// Sum of the claims on exclusive blocks.
    pub(crate) claimed: u64,
    /// Blocks of prompts that prefill has not reached.
    pub(crate) reserved: u64,
    pub(crate) leases: u64,
    /// The needs of its leases, and what they hold exclusively.
    pub(crate) needs: Needs,
    pub(crate) held_peak: u64,
    pub(crate) claimed_peak: u64,
    pub(crate) admitted: u64,
    pub(crate) rejected: [u64; REASONS],
    pub(crate) granted: u64,
    pub(crate) waits: u64,
    pub(crate) released: u64,
    pub(crate) preempted: u64,
    pub(crate) expired: u64,
    /// Claims of all leases that ended so far, in blocks.
    pub(crate) released_blocks: u64,
    pub(crate) rate: ReleaseRate,
    pub(crate) outcomes: Outcomes,
}

impl Account {
    pub(crate) fn new(nominal: u64, floor: u64) -> Self {
        Self {
            capacity: nominal,
            nominal,
            floor,
            capacity_best: nominal,
            shared: 0,
            claimed: 0,
            reserved: 0,
            leases: 0,
            needs: Needs::default(),
            held_peak: 0,
            claimed_peak: 0,
            admitted: 0,
            rejected: [0; REASONS],
            granted: 0,
            waits: 0,
            released: 0,
            preempted: 0,
            expired: 0,
            released_blocks: 0,
            rate: ReleaseRate::new(),
            outcomes: Outcomes::default(),
        }
    }

    /// Blocks in use, shared ones once.
    #[inline]
    pub(crate) fn held(&self) -> u64 {
        self.needs.held() as u64 + self.shared
    }

    /// Capacity less what is in use; negative after the budget shrank.
    #[inline]
    pub(crate) fn free(&self) -> i64 {
        self.capacity as i64 - self.held() as i64
    }

    /// Counts a rejection.
    pub(crate) fn count(&mut self, reason: Reason) {
        let count = &mut self.rejected[reason as usize];
        *count = count.saturating_add(1);
    }

    #[inline]
    pub(crate) fn raise_peaks(&mut self) {
        self.held_peak = self.held_peak.max(self.held());
        self.claimed_peak = self.claimed_peak.max(self.claimed + self.shared);
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            capacity_blocks: Blocks(self.capacity),
            claimed_blocks: Blocks(self.claimed + self.shared),
            claimed_peak_blocks: Blocks(self.claimed_peak),
            held_blocks: Blocks(self.held()),
            held_peak_blocks: Blocks(self.held_peak),
            shared_blocks: Blocks(self.shared),
            reserved_blocks: Blocks(self.reserved),
            leases: self.leases,
            admitted: self.admitted,
            rejected: self.rejected,
            granted: self.granted,
            waits: self.waits,
            released: self.released,
            preempted: self.preempted,
            expired: self.expired,
            ..Usage::default()
        }
    }
}
