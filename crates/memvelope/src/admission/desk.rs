//! What callers do with the books: one lock a call, and whoever is to be woken is woken after it.

use super::answer::{Reason, Rejection};
use super::books::{Ask, Books, Draw, End, Refusal, State, bound_of};
use super::queue::{Settled, wake};
use super::rate::{RETRY_MAX, RETRY_MIN};
use crate::units::{Blocks, CostCurve, Nanos, Tokens};
use std::task::Waker;

/// Whom to wake once the lock is free. Empty, it takes no memory.
type Wakers = Vec<Waker>;

/// The answer of a gate in a forked child.
const FORKED: Rejection = Rejection::never(Reason::Forked, Tokens::ZERO);

impl Books {
    /// Takes a lease in: its slot. Whoever waits in the queue comes first.
    pub(crate) fn admit(&self, ask: &Ask) -> Result<u32, Rejection> {
        let Some(mut state) = self.lock() else { return Err(FORKED) };
        let refusal = match state.ask(ask) {
            Ok(slot) => return Ok(slot),
            Err(refusal) => refusal,
        };
        Err(state.reject(ask, refusal, &self.curve))
    }

    /// Counts a rejection of a request that never reached the books.
    pub(crate) fn count(&self, pool: usize, reason: Reason) {
        if let Some(mut state) = self.lock() {
            state.accounts[pool].count(reason);
        }
    }

    /// The number of a class.
    pub(crate) fn class(&self, name: &str) -> u16 {
        let state = self.lock();
        state.and_then(|mut s| s.outlook.as_mut().map(|o| o.class(name))).unwrap_or(0)
    }

    /// The number of a class, if it has one; else that of all.
    pub(crate) fn known_class(&self, name: &str) -> u16 {
        let state = self.lock();
        state.and_then(|s| s.outlook.as_ref().and_then(|o| o.known_class(name))).unwrap_or(0)
    }

    /// Whether a lease may hold `held` blocks for `tokens`. In a forked child it waits for ever.
    #[inline]
    pub(crate) fn grow(&self, slot: u32, tokens: u64, held: u32) -> Draw {
        self.lock().map_or(Draw::Wait, |mut state| state.grow(slot, tokens, held))
    }

    /// Prefill reached `blocks` more of a lease.
    pub(crate) fn prefill(&self, slot: u32, blocks: u32) {
        if let Some(mut state) = self.lock() {
            state.settle_prefill(slot, blocks);
        }
    }

    /// A lease ends. In a forked child nothing happens: the blocks are the parent's.
    pub(crate) fn release(&self, slot: u32, tokens: u64, end: End) {
        let Some(mut state) = self.lock() else { return };
        let pool = usize::from(state.roster[slot].pool);
        state.release(slot, tokens, end);
        let wakers = state.dispatch_after(pool, &self.curve);
        drop(state);
        wake(wakers);
    }

    /// Sets the capacity; `pools` has their shares and floors.
    pub(crate) fn set_capacity(&self, blocks: Blocks, epoch: u64, pools: &[(u32, u8)]) -> bool {
        let Some(mut state) = self.lock() else { return false };
        let is_new = state.set_capacity(blocks, epoch, pools);
        let wakers = state.dispatch_all(&self.curve);
        drop(state);
        wake(wakers);
        is_new
    }

    /// A step of the engine begins; at `now`, if the caller says.
    pub(crate) fn step(&self, now: Option<Nanos>) {
        let Some(mut state) = self.lock() else { return };
        if let Some(outlook) = &mut state.outlook {
            outlook.step();
        }
        if now.is_none() {
            state.queue.step();
        }
        if let Some(now) = now {
            state.pace.tick(now);
            state.now = state.now.max(now);
            state.expire_silent();
            for account in &mut state.accounts {
                account.rate.tick(now, account.released_blocks);
            }
        }
        let wakers = state.dispatch_all(&self.curve);
        drop(state);
        wake(wakers);
    }

    /// Puts a request into the queue: the number of its ticket.
    pub(crate) fn enqueue(
        &self,
        ask: &Ask,
        priority: u8,
        deadline: Option<Nanos>,
    ) -> Result<u32, Rejection> {
        let Some(mut state) = self.lock() else { return Err(FORKED) };
        if let Some(refusal) = state.never(ask) {
            return Err(state.reject(ask, refusal, &self.curve));
        }
        let now = state.now;
        let Some(number) = state.queue.push(*ask, now, priority, deadline) else {
            return Err(state.reject(
                ask,
                Refusal { reason: Reason::QueueFull, short: 0 },
                &self.curve,
            ));
        };
        let wakers = state.dispatch_after(usize::from(ask.pool), &self.curve);
        drop(state);
        wake(wakers);
        Ok(number)
    }

    /// What became of a ticket; else `waker` is woken when something does.
    pub(crate) fn poll(&self, number: u32, waker: &Waker) -> Option<(Ask, Settled)> {
        // Foreign code runs when a waker is cloned or dropped: before and after the lock.
        let mut waker = Some(waker.clone());
        let mut state = self.lock()?;
        let ask = state.queue.ask_of(number)?;
        state.queue.take(number, &mut waker).map(|settled| (ask, settled))
    }

    /// A ticket is given back, for `reason`. If something became of it already, that is returned:
    /// a lease is to be used or released.
    pub(crate) fn cancel(&self, number: u32, reason: Reason) -> Option<(Ask, Settled)> {
        let mut state = self.lock()?;
        let ask = state.queue.ask_of(number)?;
        if let Some(settled) = state.queue.take(number, &mut None) {
            return Some((ask, settled));
        }
        let pool = usize::from(ask.pool);
        state.accounts[pool].count(reason);
        let gone = Settled::Rejected(Rejection::never(reason, Tokens::ZERO));
        let own = state.queue.settle(number, gone);
        state.queue.take(number, &mut None);
        // The next may fit where this one did not.
        let wakers = state.dispatch_after(pool, &self.curve);
        drop(state);
        drop(own);
        wake(wakers);
        None
    }
}

impl State {
    fn ask(&mut self, ask: &Ask) -> Result<u32, Refusal> {
        if self.queue.len_of(usize::from(ask.pool)) > 0 {
            return Err(Refusal { reason: Reason::Queued, short: 0 });
        }
        self.admit(ask)
    }

    /// Counts a refusal and says when to come back.
    #[cold]
    pub(crate) fn reject(&mut self, ask: &Ask, refusal: Refusal, curve: &CostCurve) -> Rejection {
        let account = &mut self.accounts[usize::from(ask.pool)];
        account.count(refusal.reason);
        if refusal.short > 0 {
            account.outcomes.short_blocks.record(refusal.short);
        }
        self.rejection(ask, refusal, curve)
    }

    /// A refusal in words of the caller: tokens and time.
    pub(crate) fn rejection(&self, ask: &Ask, refusal: Refusal, curve: &CostCurve) -> Rejection {
        let Refusal { reason, short } = refusal;
        let fitting = curve.tokens(Blocks(ask.claim.saturating_sub(short)));
        let short_by_tokens = match short {
            0 => Tokens::ZERO,
            _ => Tokens(ask.max_tokens).saturating_sub(fitting),
        };
        let retry_after = reason.is_for_now().then(|| self.retry_after(ask, short));
        Rejection { reason, short_by_tokens, retry_after }
    }

    /// When so much is expected to be free: from the forecast and the pace of steps, else from the
    /// recent rate of release.
    fn retry_after(&self, ask: &Ask, short: u64) -> Nanos {
        let pool = usize::from(ask.pool);
        let account = &self.accounts[pool];
        if bound_of(&*self.rule, ask) > self.possible(pool) {
            return RETRY_MAX; // No release helps; only a larger budget does.
        }
        // Those who wait come first.
        let ahead = self.queue.len_of(pool) as u64 + 1;
        let predicted = self.outlook.as_ref().and_then(|outlook| {
            let blocks = account.free().max(0) as f32 + short.max(u64::from(ask.held)) as f32;
            let capacity = account.capacity as f32 - account.shared as f32;
            let tokens = outlook.forecast(pool).tokens_until_free(blocks, capacity)?;
            self.pace.time_of(tokens)
        });
        let alone = predicted.unwrap_or_else(|| account.rate.time_to_release(short.max(1)));
        Nanos(alone.0.saturating_mul(ahead).clamp(RETRY_MIN.0, RETRY_MAX.0))
    }

    /// Lets in whoever waits and fits, after something changed in a pool.
    #[inline]
    fn dispatch_after(&mut self, pool: usize, curve: &CostCurve) -> Wakers {
        if self.queue.is_empty() {
            return Wakers::new();
        }
        // What is lent, and the number of leases, is common to all pools.
        if self.is_lending() || self.is_crowded() {
            return self.dispatch_all(curve);
        }
        let mut wakers = Wakers::new();
        self.expire(&mut wakers);
        self.dispatch(pool, curve, &mut wakers);
        wakers
    }

    /// Rejects those whose deadline is past.
    fn expire(&mut self, wakers: &mut Wakers) {
        while let Some(number) = self.queue.expired(self.now) {
            let pool = usize::from(self.queue.pool_of(number).unwrap_or(0));
            self.accounts[pool].count(Reason::Expired);
            let late = Rejection::never(Reason::Expired, Tokens::ZERO);
            wakers.extend(self.queue.settle(number, Settled::Rejected(late)));
        }
    }

    fn dispatch_all(&mut self, curve: &CostCurve) -> Wakers {
        let mut wakers = Wakers::new();
        if self.queue.is_empty() {
            return wakers;
        }
        self.expire(&mut wakers);
        for pool in 0..self.accounts.len() {
            self.dispatch(pool, curve, &mut wakers);
        }
        wakers
    }

    fn dispatch(&mut self, pool: usize, curve: &CostCurve, wakers: &mut Wakers) {
        while let Some((number, ask)) = self.queue.head(pool) {
            let settled = match self.admit(&ask) {
                Ok(slot) => {
                    let came = self.queue.came(number).unwrap_or(self.now);
                    let waited = self.now.saturating_sub(came);
                    self.accounts[pool].outcomes.queue_ns.record(waited.0);
                    Settled::Admitted(slot)
                }
                Err(refusal) if !refusal.reason.is_for_now() => {
                    Settled::Rejected(self.reject(&ask, refusal, curve))
                }
                // Whoever ends, it does not fit: those behind it need not wait for that.
                Err(_) if bound_of(&*self.rule, &ask) > self.possible(pool) => {
                    self.queue.park(number);
                    continue;
                }
                Err(_) => break,
            };
            wakers.extend(self.queue.settle(number, settled));
        }
    }
}
