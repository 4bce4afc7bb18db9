//! A gate that takes no lock to admit: policy `Guaranteed`, and no pool lends.

use super::answer::{REASONS, Reason, Rejection, Usage};
use super::books::Ask;
use super::guaranteed::{Guaranteed, Shortage};
use super::pool::split;
use super::queue::{Queue, Settled, wake};
use super::rate::{RETRY_MAX, ReleaseRate};
use super::settings::{CAPACITY_BLOCKS_MAX, GateConfig};
use super::sync::{Mutex, MutexGuard};
use crate::units::{Blocks, CostCurve, Nanos, Tokens};
use std::cmp::Reverse;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, PoisonError};
use std::task::Waker;

/// One pool.
#[derive(Debug)]
pub(crate) struct LonePool {
    share: u32,
    pub(crate) account: &'static Guaranteed,
    /// Highest capacity so far: what the pool could ever hold, as far as anyone knows.
    capacity_best: AtomicU64,
    rate: ReleaseRate,
    refusals: Refusals,
}

/// Rejections by [`Reason`], in its order. Away from the account's cache line, which admissions
/// write.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Refusals([AtomicU64; REASONS]);

impl LonePool {
    fn count(&self, reason: Reason) {
        self.refusals.0[reason as usize].fetch_add(1, Relaxed);
    }
}

impl Drop for LonePool {
    fn drop(&mut self) {
        self.account.close();
    }
}

/// The gate behind its configuration.
#[derive(Debug)]
pub(crate) struct LockFree {
    pub(crate) first: LonePool,
    more: Box<[LonePool]>,
    pub(crate) curve: CostCurve,
    /// Epoch of the capacity in force.
    epoch: AtomicU64,
    /// Taken by whoever waits, changes the capacity or tells the time; never by an admission.
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    queue: Queue,
    now: Nanos,
}

impl LockFree {
    pub(crate) fn new(config: &GateConfig) -> Arc<Self> {
        let shares: Vec<_> = config.pools.iter().map(|pool| pool.share).collect();
        let mut parts = shares.iter().copied().zip(split(config.capacity, &shares));
        let open = |(share, capacity): (u32, Blocks)| LonePool {
            share,
            account: Guaranteed::open(capacity, config.curve),
            capacity_best: AtomicU64::new(capacity.0),
            rate: ReleaseRate::new(),
            refusals: Refusals::default(),
        };
        // `Gate::new` saw to it that there is one.
        let first = open(parts.next().unwrap_or((1, config.capacity)));
        let more: Box<[_]> = parts.map(open).collect();
        let queue = Queue::new(config.queue_max, 1 + more.len());
        let gate = Arc::new(Self {
            first,
            more,
            curve: config.curve,
            epoch: AtomicU64::new(0),
            line: Mutex::new(Line { queue, now: Nanos::ZERO }),
        });
        for pool in gate.pools() {
            pool.account.set_owner(Arc::downgrade(&gate));
        }
        gate
    }

    fn pools(&self) -> impl Iterator<Item = &LonePool> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// A pool by its number.
    #[inline]
    pub(crate) fn pool(&self, number: usize) -> &LonePool {
        match number.checked_sub(1) {
            None => &self.first,
            Some(more) => &self.more[more],
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing under this lock unwinds but a bug of ours; poisoned or not, it orders the
        // callers.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a rejection.
    pub(crate) fn count(&self, pool: usize, reason: Reason) {
        self.pool(pool).count(reason);
    }

    /// A request of `total` tokens did not fit: counted, with its reason.
    #[cold]
    pub(crate) fn refuse_short(&self, pool: usize, total: Tokens, short: Shortage) -> Rejection {
        let rejection = self.rejection(pool, total, short);
        self.pool(pool).count(rejection.reason);
        rejection
    }

    /// Which reason, how much too long, when again.
    pub(crate) fn rejection(&self, number: usize, total: Tokens, short: Shortage) -> Rejection {
        let (pool, curve) = (self.pool(number), &self.curve);
        let claim = curve.blocks(total);
        let Shortage::Claims { capacity, claimed } = short else {
            let ahead = self.line().queue.len_of(number) as u64 + 1;
            let wait = pool.rate.time_to_release(claim.0.saturating_mul(ahead));
            let (reason, short_by_tokens) = (Reason::Queued, Tokens::ZERO);
            return Rejection { reason, short_by_tokens, retry_after: Some(wait) };
        };
        let best = Blocks(pool.capacity_best.load(Relaxed).max(capacity));
        if claim > best {
            let short_by = total.saturating_sub(curve.tokens(best));
            return Rejection::never(Reason::TooLong, short_by);
        }
        let reason = if claimed > capacity || claim.0 > capacity {
            Reason::Overcommitted
        } else {
            Reason::NoCapacity
        };
        let retry_after = if claim.0 > capacity {
            RETRY_MAX // No release helps; only a larger budget does.
        } else {
            pool.rate.time_to_release(claimed + claim.0 - capacity)
        };
        let free = Blocks(capacity.saturating_sub(claimed));
        let short_by_tokens = total.saturating_sub(curve.tokens(free));
        Rejection { reason, short_by_tokens, retry_after: Some(retry_after) }
    }

    pub(crate) fn set_capacity(&self, blocks: Blocks, epoch: u64) -> bool {
        let mut line = self.line();
        if epoch <= self.epoch.load(Relaxed) {
            return false;
        }
        line.queue.unpark();
        for (number, pool) in self.pools().enumerate() {
            pool.account.set_waiting(line.queue.len_of(number));
        }
        let shares: Vec<_> = self.pools().map(|pool| pool.share).collect();
        let parts = split(Blocks(blocks.0.min(CAPACITY_BLOCKS_MAX)), &shares);
        let mut moves: Vec<_> = self
            .pools()
            .zip(parts)
            .map(|(pool, to)| (pool, to, Blocks(pool.account.reading().capacity)))
            .collect();
        // Shrinking pools first, so that their sum is never above the old or the new capacity.
        moves.sort_by_key(|&(_, to, from)| Reverse(from.saturating_sub(to)));
        for (pool, to, _) in moves {
            pool.capacity_best.fetch_max(to.0, Relaxed);
            pool.account.set_capacity(to);
        }
        self.epoch.store(epoch, Release);
        drop(line);
        self.dispatch();
        true
    }

    /// A step, at no time in particular.
    pub(crate) fn step(&self) {
        self.line().queue.step();
    }

    pub(crate) fn tick(&self, now: Nanos) {
        for pool in self.pools() {
            pool.rate.tick(now, pool.account.reading().released);
        }
        let mut line = self.line();
        line.now = line.now.max(now);
        let is_empty = line.queue.is_empty();
        drop(line);
        if !is_empty {
            self.dispatch();
        }
    }

    pub(crate) fn usage(&self, number: usize) -> Usage {
        let pool = self.pool(number);
        let reading = pool.account.reading();
        Usage {
            capacity_blocks: Blocks(reading.capacity),
            claimed_blocks: Blocks(reading.claimed),
            claimed_peak_blocks: Blocks(reading.claimed_peak),
            held_blocks: Blocks(reading.held),
            held_peak_blocks: Blocks(reading.held_peak),
            is_overcommitted: reading.claimed > reading.capacity,
            leases: reading.leases,
            waiting: self.line().queue.waiting_of(number) as u64,
            admitted: reading.admitted,
            released: reading.admitted.saturating_sub(reading.leases),
            waits: reading.waits,
            rejected: pool.refusals.0.each_ref().map(|count| count.load(Relaxed)),
            epoch: self.epoch.load(Acquire),
            ..Usage::default()
        }
    }

    pub(crate) fn enqueue(
        &self,
        ask: &Ask,
        priority: u8,
        deadline: Option<Nanos>,
    ) -> Result<u32, Rejection> {
        let pool = usize::from(ask.pool);
        let reading = self.pool(pool).account.reading();
        let (capacity, claimed) = (reading.capacity, reading.claimed);
        if ask.claim > self.pool(pool).capacity_best.load(Relaxed).max(capacity) {
            let short = Shortage::Claims { capacity, claimed };
            return Err(self.refuse_short(pool, Tokens(ask.max_tokens), short));
        }
        let mut line = self.line();
        let now = line.now;
        let number = line.queue.push(*ask, now, priority, deadline);
        self.pool(pool).account.set_waiting(line.queue.len_of(pool));
        drop(line);
        let Some(number) = number else {
            self.pool(pool).count(Reason::QueueFull);
            let retry_after = Some(self.pool(pool).rate.time_to_release(ask.claim));
            let (reason, short_by_tokens) = (Reason::QueueFull, Tokens::ZERO);
            return Err(Rejection { reason, short_by_tokens, retry_after });
        };
        self.dispatch();
        Ok(number)
    }

    pub(crate) fn poll(&self, number: u32, waker: &Waker) -> Option<(Ask, Settled)> {
        // Foreign code runs when a waker is cloned or dropped: before and after the lock.
        let mut waker = Some(waker.clone());
        let mut line = self.line();
        let ask = line.queue.ask_of(number)?;
        line.queue.take(number, &mut waker).map(|settled| (ask, settled))
    }

    /// A ticket is given back, for `reason`. If something became of it already, that is returned:
    /// blocks are to be used or released.
    pub(crate) fn cancel(&self, number: u32, reason: Reason) -> Option<(Ask, Settled)> {
        let mut line = self.line();
        let ask = line.queue.ask_of(number)?;
        if let Some(settled) = line.queue.take(number, &mut None) {
            return Some((ask, settled));
        }
        let pool = usize::from(ask.pool);
        self.pool(pool).count(reason);
        let gone = Settled::Rejected(Rejection::never(reason, Tokens::ZERO));
        let own = line.queue.settle(number, gone);
        line.queue.take(number, &mut None);
        self.pool(pool).account.set_waiting(line.queue.len_of(pool));
        drop(line);
        drop(own);
        self.dispatch();
        None
    }

    /// Lets in whoever waits and fits; wakes them when the lock is free.
    pub(crate) fn dispatch(&self) {
        let mut wakers: Vec<Waker> = Vec::new();
        let mut line = self.line();
        let now = line.now;
        while let Some(number) = line.queue.expired(now) {
            let pool = usize::from(line.queue.pool_of(number).unwrap_or(0));
            self.pool(pool).count(Reason::Expired);
            let late = Rejection::never(Reason::Expired, Tokens::ZERO);
            wakers.extend(line.queue.settle(number, Settled::Rejected(late)));
        }
        for (number, pool) in self.pools().enumerate() {
            while let Some((ticket, ask)) = line.queue.head(number) {
                let settled =
                    match pool.account.admit_next(Blocks(ask.held.into()), Blocks(ask.claim)) {
                        Ok(()) => Settled::Admitted(0),
                        Err(short @ Shortage::Claims { capacity, .. })
                            if ask.claim > pool.capacity_best.load(Relaxed).max(capacity) =>
                        {
                            let total = Tokens(ask.max_tokens);
                            Settled::Rejected(self.refuse_short(number, total, short))
                        }
                        // The capacity changes under this lock only.
                        Err(Shortage::Claims { capacity, .. }) if ask.claim > capacity => {
                            line.queue.park(ticket);
                            continue;
                        }
                        Err(_) => break,
                    };
                wakers.extend(line.queue.settle(ticket, settled));
            }
            pool.account.set_waiting(line.queue.len_of(number));
        }
        drop(line);
        wake(wakers);
    }
}
