//! Policy `Guaranteed` where pools do not lend: the claims of all live leases fit the capacity, so
//! no lease ever waits.
//!
//! One word holds capacity and claims together, so that one compare-and-swap decides an admission
//! and linearises it with every change of capacity. No lock, no allocation, and no list of leases:
//! after the budget shrank, growth is first come, first served within what is free.

use super::lockfree::LockFree;
use super::settings::CAPACITY_BLOCKS_MAX;
use super::sync::{AtomicU32, AtomicU64};
use crate::units::{Blocks, CostCurve};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Mutex, PoisonError, Weak};

/// Set in the word once the gate is gone; the lease that then takes the claims to zero is the last
/// user of the account.
const CLOSED: u64 = 1 << 63;
/// Set in the word while somebody waits in the queue. One word with the claims, so that a release
/// that makes room and a newcomer that finds none cannot miss each other: whichever of the two
/// changes comes second sees the first.
const WAITING: u64 = 1 << 62;
const CAPACITY_SHIFT: u32 = 32;
const LOW: u64 = u32::MAX as u64;
/// A lease, in the upper half of the book.
const ONE_LEASE: u64 = 1 << 32;

/// How often a reading is retried while others write, before it settles for the last one. A retry
/// takes nanoseconds; a thousand in a row means that the caller outlives its usefulness.
const READING_TRIES_MAX: u32 = 1000;

/// Accounts that nobody uses any more, for the next gate. Leases point at their account for as long
/// as they live, without counting references on the hot path (two atomic operations out of eight);
/// accounts are therefore never freed but used again, and there are as many as the process ever had
/// pools at the same time.
static SPARE: Mutex<Vec<&'static Guaranteed>> = Mutex::new(Vec::new());

/// A refusal, with the state that it was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Claims beyond the capacity.
    Claims {
        /// Capacity in force.
        capacity: u64,
        /// Sum of claims.
        claimed: u64,
    },
    /// Others wait, and come first.
    Queued,
}

/// State and history of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) capacity: u64,
    pub(crate) claimed: u64,
    pub(crate) claimed_peak: u64,
    pub(crate) held: u64,
    pub(crate) held_peak: u64,
    pub(crate) leases: u64,
    pub(crate) admitted: u64,
    /// Claims of all leases that ended so far, in blocks.
    pub(crate) released: u64,
    pub(crate) waits: u64,
}

/// What is rarely looked at: away from the line that every admission writes.
#[derive(Debug, Default)]
struct Aside {
    curve: Mutex<Option<CostCurve>>,
    /// Whose account it is: who is told when blocks come back and somebody waits.
    owner: Mutex<Weak<LockFree>>,
    waits: AtomicU64,
    /// Of the process that opened it.
    generation: AtomicU32,
}

/// The account of one pool. Everything that an admission writes is on one cache line; 128 bytes,
/// because adjacent lines are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Guaranteed {
    /// `{closed: 1, waiting: 1, capacity: 30, claimed: 32}`. The sum of claims never exceeds 30
    /// bits, so adding to it never carries into the capacity.
    word: AtomicU64,
    /// `{leases: 32, held: 32}`. A lease claims at least one block, so leases fit as claims do.
    book: AtomicU64,
    admitted: AtomicU64,
    released: AtomicU64,
    claimed_peak: AtomicU64,
    held_peak: AtomicU64,
    aside: Box<Aside>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Each holds one value that is set whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guaranteed {
    /// An empty account, held at [`CAPACITY_BLOCKS_MAX`]. It belongs to the caller until
    /// [`Self::close`].
    pub(crate) fn open(capacity: Blocks, curve: CostCurve) -> &'static Self {
        // Never wait: a fork may have left the lock taken, and a fresh account is as good.
        let spare = SPARE.try_lock().ok().and_then(|mut spare| spare.pop());
        // Nor one of the parent's, whose own locks may have been left taken.
        let spare = spare.filter(|account| !account.is_forked());
        let account = spare.unwrap_or_else(|| Box::leak(Box::default()));
        for counter in [
            &account.book,
            &account.admitted,
            &account.released,
            &account.claimed_peak,
            &account.held_peak,
            &account.aside.waits,
        ] {
            counter.store(0, Relaxed);
        }
        account.aside.generation.store(crate::fork::generation(), Relaxed);
        *locked(&account.aside.curve) = Some(curve);
        *locked(&account.aside.owner) = Weak::new();
        account.word.store(capacity.0.min(CAPACITY_BLOCKS_MAX) << CAPACITY_SHIFT, Release);
        account
    }

    /// The gate is gone: nothing more will be admitted. Live leases keep the account until the last
    /// of them ends.
    pub(crate) fn close(&'static self) {
        let before = self.word.fetch_or(CLOSED, AcqRel);
        if claimed_of(before) == 0 {
            self.retire();
        }
    }

    #[cold]
    fn retire(&'static self) {
        if self.is_forked() {
            return; // A lock of it may be held by a thread that is not there.
        }
        if let Ok(mut spare) = SPARE.try_lock() {
            spare.push(self);
        }
    }

    /// Names who is told when blocks come back and somebody waits.
    pub(crate) fn set_owner(&self, owner: Weak<LockFree>) {
        *locked(&self.aside.owner) = owner;
    }

    /// Whether this process was forked off the one that opened it: the blocks are the parent's, and
    /// locks may be held by threads that are not there.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.aside.generation.load(Relaxed) != crate::fork::generation()
    }

    /// Blocks of a sequence, as its gate counts.
    #[cold]
    pub(crate) fn blocks_of(&self, tokens: u64) -> (u64, u64) {
        let curve = *locked(&self.aside.curve);
        curve.map_or((u64::MAX, 0), |curve| {
            let blocks = curve.blocks(crate::units::Tokens(tokens));
            (blocks.0, curve.tokens(blocks).0)
        })
    }

    /// Whether anybody waits from now on. Called by whoever has the lock of the queue.
    pub(crate) fn set_waiting(&self, waiting: usize) {
        match (self.has_waiting(), waiting > 0) {
            (false, true) => self.word.fetch_or(WAITING, AcqRel),
            (true, false) => self.word.fetch_and(!WAITING, AcqRel),
            _ => return,
        };
    }

    /// Whether somebody waits, and comes first.
    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        self.word.load(Relaxed) & WAITING != 0
    }

    #[cold]
    fn tell_owner(&self) {
        if self.is_forked() {
            return;
        }
        let owner = locked(&self.aside.owner).upgrade();
        if let Some(owner) = owner {
            owner.dispatch();
        }
    }

    /// Forgets the accounts of an earlier run of the model checker, whose atomics went with it.
    #[cfg(all(test, loom))]
    pub(crate) fn forget_spares() {
        locked(&SPARE).clear();
    }

    /// How often it is among those that nobody uses.
    #[cfg(all(test, loom))]
    pub(crate) fn spares(&'static self) -> usize {
        locked(&SPARE).iter().filter(|spare| std::ptr::eq(**spare, self)).count()
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn set_counters(&self, value: u64) {
        for counter in [&self.admitted, &self.released, &self.aside.waits] {
            counter.store(value, Relaxed);
        }
    }

    #[cfg(all(test, not(loom)))]
    fn is_spare(&'static self) -> bool {
        locked(&SPARE).iter().any(|spare| std::ptr::eq(*spare, self))
    }
}

const fn claimed_of(word: u64) -> u64 {
    word & LOW
}

const fn capacity_of(word: u64) -> u64 {
    (word & !(CLOSED | WAITING)) >> CAPACITY_SHIFT
}

/// Raises a peak. The common case is a load.
#[inline]
fn raise(peak: &AtomicU64, value: u64) {
    if value > peak.load(Relaxed) {
        peak.fetch_max(value, Relaxed);
    }
}

/// Where another thread may come in between. Nothing in a build for use; in tests it gives way now
/// and then, so that the windows of a few nanoseconds are really entered.
#[cfg(any(not(test), loom))]
#[inline(always)]
const fn interleave() {}

#[cfg(all(test, not(loom)))]
fn interleave() {
    use std::cell::Cell;
    thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
    let calls = CALLS.get();
    CALLS.set(calls.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    if calls >> 28 == 0 {
        std::thread::yield_now();
    }
}

impl Guaranteed {
    /// Takes in a lease that holds `first` blocks now and may come to hold `claim`. Whoever waits
    /// comes first.
    #[inline]
    pub(crate) fn admit(&self, first: Blocks, claim: Blocks) -> Result<(), Shortage> {
        self.enter(first, claim, WAITING)
    }

    /// [`Self::admit`] for whoever is next in the queue.
    #[inline]
    pub(crate) fn admit_next(&self, first: Blocks, claim: Blocks) -> Result<(), Shortage> {
        self.enter(first, claim, 0)
    }

    /// Takes in a lease unless one of `barriers` is up.
    #[inline]
    fn enter(&self, first: Blocks, claim: Blocks, barriers: u64) -> Result<(), Shortage> {
        debug_assert!(0 < claim.0 && first <= claim);
        let mut seen = self.word.load(Acquire);
        let claimed = loop {
            if seen & barriers != 0 {
                return Err(Shortage::Queued);
            }
            let (capacity, claimed) = (capacity_of(seen), claimed_of(seen));
            // Subtract rather than add: a claim may be as large as 2^63 blocks.
            if capacity.checked_sub(claimed).is_none_or(|free| claim.0 > free) {
                return Err(Shortage::Claims { capacity, claimed });
            }
            interleave();
            match self.word.compare_exchange_weak(seen, seen + claim.0, AcqRel, Acquire) {
                Ok(_) => break claimed + claim.0,
                Err(now) => seen = now,
            }
        };
        raise(&self.claimed_peak, claimed);
        // Claim first, then hold; a release goes the other way. So held <= claimed at any instant.
        interleave();
        let book = self.book.fetch_add(ONE_LEASE + first.0, AcqRel) + first.0;
        raise(&self.held_peak, book & LOW);
        self.admitted.fetch_add(1, Relaxed);
        Ok(())
    }

    /// A lease draws `blocks` more from its claim. False: the budget shrank below the claims, and
    /// so much is not free.
    #[inline]
    pub(crate) fn draw(&self, blocks: u32) -> bool {
        let word = self.word.load(Acquire);
        if claimed_of(word) > capacity_of(word) {
            return self.draw_scarce(blocks);
        }
        let book = self.book.fetch_add(u64::from(blocks), AcqRel) + u64::from(blocks);
        raise(&self.held_peak, book & LOW);
        true
    }

    #[cold]
    fn draw_scarce(&self, blocks: u32) -> bool {
        let mut book = self.book.load(Acquire);
        loop {
            let held = (book & LOW) + u64::from(blocks);
            if held > capacity_of(self.word.load(Acquire)) {
                self.aside.waits.fetch_add(1, Relaxed);
                return false;
            }
            match self.book.compare_exchange_weak(book, book + u64::from(blocks), AcqRel, Acquire) {
                Ok(_) => {
                    raise(&self.held_peak, held);
                    return true;
                }
                Err(now) => book = now,
            }
        }
    }

    /// A lease ends: what it held and claimed is free again.
    #[inline]
    pub(crate) fn release(&'static self, held: u32, claim: u32) {
        let claim = u64::from(claim);
        self.book.fetch_sub(ONE_LEASE + u64::from(held), AcqRel);
        self.released.fetch_add(claim, Relaxed);
        interleave();
        // Last: from here on the account may serve another gate.
        let before = self.word.fetch_sub(claim, AcqRel);
        if before & (CLOSED | WAITING) != 0 {
            self.end(before, claim);
        }
    }

    /// A claim was given back that somebody waits for, or that was the last one.
    #[cold]
    fn end(&'static self, before: u64, claim: u64) {
        if before & CLOSED == 0 {
            self.tell_owner();
        } else if claimed_of(before) == claim {
            self.retire();
        }
    }

    /// Sets the capacity. Linearises with `admit`: a grant that begins after this returned sees it.
    pub(crate) fn set_capacity(&self, capacity: Blocks) {
        const KEPT: u64 = CLOSED | WAITING | LOW;
        let field = capacity.0.min(CAPACITY_BLOCKS_MAX) << CAPACITY_SHIFT;
        let mut seen = self.word.load(Relaxed);
        while let Err(now) =
            self.word.compare_exchange_weak(seen, (seen & KEPT) | field, AcqRel, Relaxed)
        {
            seen = now;
        }
    }

    /// One consistent reading.
    pub(crate) fn reading(&self) -> Reading {
        let mut word = self.word.load(Acquire);
        let mut book = self.book.load(Acquire);
        for _ in 0..READING_TRIES_MAX {
            let again = self.word.load(Acquire);
            if again == word && book & LOW <= claimed_of(word) {
                break;
            }
            word = again;
            book = self.book.load(Acquire);
        }
        let held = book & LOW;
        Reading {
            capacity: capacity_of(word),
            // Only after a thousand retries can this still be below held.
            claimed: claimed_of(word).max(held),
            claimed_peak: self.claimed_peak.load(Acquire),
            held,
            held_peak: self.held_peak.load(Acquire),
            leases: book >> 32,
            admitted: self.admitted.load(Acquire),
            released: self.released.load(Acquire),
            waits: self.aside.waits.load(Relaxed),
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn open(capacity: u64) -> &'static Guaranteed {
        Guaranteed::open(Blocks(capacity), CostCurve::new(16, 0).unwrap())
    }

    fn admit(account: &Guaranteed, first: u64, claim: u64) -> Result<(), Shortage> {
        account.admit(Blocks(first), Blocks(claim))
    }

    #[test]
    fn the_last_block_is_granted_and_no_more() {
        let account = open(10);
        admit(account, 2, 7).unwrap();
        assert_eq!(admit(account, 1, 4), Err(Shortage::Claims { capacity: 10, claimed: 7 }));
        admit(account, 3, 3).unwrap();
        assert_eq!(
            admit(account, 1, u64::MAX),
            Err(Shortage::Claims { capacity: 10, claimed: 10 })
        );
        assert!(account.draw(5));
        account.release(7, 7);
        account.release(3, 3);
        let reading = account.reading();
        assert_eq!((reading.held, reading.held_peak), (0, 10));
        assert_eq!((reading.claimed, reading.claimed_peak), (0, 10));
        assert_eq!((reading.leases, reading.admitted, reading.released), (0, 2, 10));
        account.close();
    }

    #[test]
    fn capacity_moves_without_touching_claims() {
        let account = open(10);
        admit(account, 1, 8).unwrap();
        for (capacity, expected) in [(3, 3), (0, 0), (u64::MAX, CAPACITY_BLOCKS_MAX), (12, 12)] {
            account.set_capacity(Blocks(capacity));
            assert_eq!((account.reading().capacity, account.reading().claimed), (expected, 8));
        }
        account.set_capacity(Blocks(3));
        assert_eq!(admit(account, 1, 1), Err(Shortage::Claims { capacity: 3, claimed: 8 }));
        account.release(1, 8);
        assert!(admit(account, 1, 3).is_ok());
        account.release(1, 3);
        account.close();
    }

    #[test]
    fn the_largest_capacity_can_be_claimed_whole() {
        let account = open(CAPACITY_BLOCKS_MAX);
        admit(account, CAPACITY_BLOCKS_MAX, CAPACITY_BLOCKS_MAX).unwrap();
        assert!(admit(account, 1, 1).is_err());
        assert_eq!(account.reading().held, CAPACITY_BLOCKS_MAX);
        account.release(CAPACITY_BLOCKS_MAX as u32, CAPACITY_BLOCKS_MAX as u32);
        assert_eq!(account.reading().claimed, 0);
        account.close();
    }

    #[test]
    fn an_account_is_used_again_only_after_its_last_lease() {
        let account = open(10);
        admit(account, 1, 2).unwrap();
        admit(account, 1, 3).unwrap();
        account.close();
        assert!(!account.is_spare());
        account.release(1, 2);
        assert!(!account.is_spare());
        let other = open(10);
        assert!(!std::ptr::eq(account, other));
        account.release(1, 3);
        other.close();
    }
}
