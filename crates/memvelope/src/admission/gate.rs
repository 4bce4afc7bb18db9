//! The gate: checks a request, asks whoever keeps account, hands out the lease.

use super::answer::{Reason, Rejection, Usage};
use super::books::{Ask, Books};
use super::guaranteed::Shortage;
use super::lease::{Home, Lease};
use super::lockfree::LockFree;
use super::pool::DEFAULT_POOL;
use super::queue::Settled;
use super::request::Request;
use super::settings::{GateConfig, PoolConfig, TOKENS_MAX};
use super::ticket::Ticket;
use crate::error::Result;
use crate::units::{Blocks, CostCurve, Nanos, Tokens};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

/// Hands out leases on blocks. Clone it freely: clones share one budget.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<Gate>();
};

/// Who keeps account.
#[derive(Debug)]
pub(super) enum Keeper {
    LockFree(Arc<LockFree>),
    Books(Arc<Books>),
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) keeper: Keeper,
    curve: CostCurve,
    max_model_len: Tokens,
    /// Of requests that declare no maximum.
    cap: Option<Tokens>,
    /// Of the process that made the gate.
    generation: u32,
    pools: Box<[PoolConfig]>,
    unknown_pool: AtomicU64,
}

/// What is wrong with a request, before any account was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// In which pool it is counted.
    pool: Option<usize>,
    pub(super) reason: Reason,
    pub(super) short_by: Tokens,
}

/// A request in blocks.
#[derive(Clone, Copy, Debug)]
struct Size {
    pool: usize,
    prompt_tokens: u64,
    max_tokens: u64,
    held: u32,
    claim: u64,
}

impl Gate {
    /// A gate with the policy of its configuration.
    ///
    /// # Errors
    /// [`crate::Error::ConfigureGate`].
    pub fn new(mut config: GateConfig) -> Result<Self> {
        config.check()?;
        if config.pools.is_empty() {
            config.pools = vec![PoolConfig::new(DEFAULT_POOL, 1)];
        }
        crate::fork::watch();
        let keeper = match config.is_lock_free() {
            true => Keeper::LockFree(LockFree::new(&config)),
            false => Keeper::Books(Arc::new(Books::new(&config))),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                keeper,
                curve: config.curve,
                max_model_len: config.max_model_len.unwrap_or(Tokens(TOKENS_MAX)),
                cap: config.max_new_tokens_default,
                generation: crate::fork::generation(),
                pools: config.pools.into(),
                unknown_pool: AtomicU64::new(0),
            }),
        })
    }

    /// Admits a request now, or says why not. The lease holds the prompt's blocks at once and may
    /// grow to its claim. Allocates nothing once the books are as large as they have to be; under
    /// `Guaranteed` without borrowing it takes no lock.
    ///
    /// # Errors
    /// A [`Rejection`].
    #[inline]
    pub fn try_admit(&self, request: &Request<'_>) -> Result<Lease, Rejection> {
        let inner = &*self.inner;
        match &inner.keeper {
            Keeper::LockFree(gate) => {
                let size = match inner.size(request) {
                    Ok(size) => size,
                    Err(fault) => return Err(inner.refuse(&fault)),
                };
                let account = gate.pool(size.pool).account;
                match account.admit(Blocks(size.held.into()), Blocks(size.claim)) {
                    Ok(()) => Ok(inner.lease_of(&size, Home::Sums(account))),
                    Err(short) => Err(gate.refuse_short(size.pool, Tokens(size.max_tokens), short)),
                }
            }
            Keeper::Books(books) => inner.admit_to(books, request),
        }
    }

    /// Puts a request into the queue of its pool. Each step of `priority` counts as a second of
    /// earlier arrival ([`super::PRIORITY_STEP`]) on the clock of [`Self::tick`], and a step
    /// without a time ([`Self::step`]) as 25 ms, so that nobody is overtaken for ever. At
    /// `deadline`, on the clock of [`Self::tick`], it is rejected as [`Reason::Expired`]. Requests
    /// of one pool are let in strictly in order, and [`Self::try_admit`] lets nobody pass them;
    /// only those that ask for more than the budget shrank to are passed, until it is larger again.
    ///
    /// # Errors
    /// A [`Rejection`]: the queue is full, or the request can never be admitted.
    pub fn enqueue(
        &self,
        request: &Request<'_>,
        priority: u8,
        deadline: Option<Nanos>,
    ) -> Result<Ticket, Rejection> {
        let ask = self.inner.ask(request).map_err(|fault| self.inner.refuse(&fault))?;
        let number = match &self.inner.keeper {
            Keeper::LockFree(gate) => gate.enqueue(&ask, priority, deadline)?,
            Keeper::Books(books) => books.enqueue(&ask, priority, deadline)?,
        };
        Ok(Ticket::new(Arc::clone(&self.inner), number))
    }

    /// Sets the capacity in blocks. Epochs order concurrent writers: a stale epoch (not above the
    /// one in force; a new gate is at 0) changes nothing and returns false. No lease is revoked;
    /// below what is held or safe the gate is overcommitted: it admits nothing, lets only the lease
    /// with the smallest need grow while anything is free, names [`Self::victims`], and recovers by
    /// itself. Under `Guaranteed` without borrowing, which keeps no list of leases, whoever asks
    /// first grows and there are no victims to name: all may come to wait until the caller ends
    /// one.
    ///
    /// Pools keep their shares; the parts add up to `blocks` exactly. At most 2^30 - 1 blocks are
    /// used; more is held at that. An admission that begins after this returned sees it.
    pub fn set_capacity(&self, blocks: Blocks, epoch: u64) -> bool {
        if self.inner.is_forked() {
            return false;
        }
        match &self.inner.keeper {
            Keeper::LockFree(gate) => gate.set_capacity(blocks, epoch),
            Keeper::Books(books) => {
                let pools = self.inner.pools.iter().map(|pool| (pool.share, pool.floor_percent));
                books.set_capacity(blocks, epoch, &pools.collect::<Vec<_>>())
            }
        }
    }

    /// A step of the engine begins, at `now` on any steady clock: `retry_after`, deadlines, and
    /// once a step the estimate are made of it. Until the first two ticks and the first release
    /// `retry_after` is one second; it is never below 10 ms nor above a minute.
    pub fn tick(&self, now: Nanos) {
        if self.inner.is_forked() {
            return;
        }
        match &self.inner.keeper {
            Keeper::LockFree(gate) => gate.tick(now),
            Keeper::Books(books) => books.step(Some(now)),
        }
    }

    /// A step of the engine begins, at no time in particular: brings the estimate up to date, as
    /// [`Self::tick`] does, too. Where nobody tells the time, a step counts as 25 ms in the order
    /// of the queue.
    pub fn step(&self) {
        match &self.inner.keeper {
            _ if self.inner.is_forked() => {}
            Keeper::LockFree(gate) => gate.step(),
            Keeper::Books(books) => books.step(None),
        }
    }

    /// What is handed out, over all pools. Peaks of several pools need not have coincided: their
    /// sum is an upper bound; [`Self::pool_usage`] is exact. In a forked child: nothing.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut all = Usage::default();
        if self.inner.is_forked() {
            return all;
        }
        match &self.inner.keeper {
            Keeper::LockFree(gate) => {
                for pool in 0..self.inner.pools.len() {
                    let usage = gate.usage(pool);
                    all.epoch = usage.epoch;
                    all.add(&usage);
                }
            }
            // One reading for all pools: what one lent another is counted once.
            Keeper::Books(books) => {
                if let Some(state) = books.lock() {
                    all.epoch = state.epoch;
                    (0..self.inner.pools.len()).for_each(|pool| all.add(&state.usage(pool)));
                }
            }
        }
        all.rejected[Reason::UnknownPool as usize] += self.inner.unknown_pool.load(Relaxed);
        all
    }

    /// What is handed out in one pool; `None` if there is none of that name. In a forked child:
    /// nothing.
    #[must_use]
    pub fn pool_usage(&self, name: &str) -> Option<Usage> {
        let pool = self.inner.pool(name)?;
        match &self.inner.keeper {
            _ if self.inner.is_forked() => Some(Usage::default()),
            Keeper::LockFree(gate) => Some(gate.usage(pool)),
            Keeper::Books(books) => books.lock().map(|state| state.usage(pool)),
        }
    }

    /// Names of the pools, the default first.
    #[must_use]
    pub fn pool_names(&self) -> Vec<&str> {
        self.inner.pools.iter().map(|pool| &*pool.name).collect()
    }

    /// Tokens to blocks, as this gate counts.
    #[must_use]
    pub fn curve(&self) -> CostCurve {
        self.inner.curve
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }
}

impl Inner {
    #[inline]
    pub(super) fn is_forked(&self) -> bool {
        self.generation != crate::fork::generation()
    }

    fn pool(&self, name: &str) -> Option<usize> {
        self.pools.iter().position(|pool| *pool.name == *name)
    }

    /// Out of line, so that the path without a lock stays small where it is inlined.
    fn admit_to(&self, books: &Arc<Books>, request: &Request<'_>) -> Result<Lease, Rejection> {
        let ask = self.ask(request).map_err(|fault| self.refuse(&fault))?;
        let slot = books.admit(&ask)?;
        Ok(self.lease(&ask, slot))
    }

    /// Checks a request, and counts it in blocks; finds its class.
    fn ask(&self, request: &Request<'_>) -> Result<Ask, Fault> {
        self.ask_as(request, Books::class)
    }

    /// The same, with the class found by `class`.
    pub(super) fn ask_as(
        &self,
        request: &Request<'_>,
        class: impl FnOnce(&Books, &str) -> u16,
    ) -> Result<Ask, Fault> {
        let size = self.size(request)?;
        let class = match (&self.keeper, request.class) {
            (Keeper::Books(books), Some(name)) => class(books, name),
            _ => 0,
        };
        Ok(Ask {
            pool: size.pool as u16,
            class,
            prompt_tokens: size.prompt_tokens,
            max_tokens: size.max_tokens,
            held: size.held,
            claim: size.claim,
            prefix: request.prefix,
        })
    }

    /// Checks a request, and counts it in blocks.
    #[inline]
    fn size(&self, request: &Request<'_>) -> Result<Size, Fault> {
        let fault = |pool, reason, short_by| Err(Fault { pool, reason, short_by });
        if self.is_forked() {
            return fault(None, Reason::Forked, Tokens::ZERO);
        }
        let pool = match request.pool {
            None => 0,
            Some(name) => match self.pool(name) {
                Some(pool) => pool,
                None => return fault(None, Reason::UnknownPool, Tokens::ZERO),
            },
        };
        let prompt = request.prompt_tokens;
        let new = request.max_new_tokens.unwrap_or_else(|| self.cap(prompt));
        // Each fits 63 bits, so the sum fits 64.
        let is_sane = |tokens: Tokens| (1..=TOKENS_MAX).contains(&tokens.0);
        if !is_sane(prompt) || !is_sane(new) || !is_sane(Tokens(prompt.0 + new.0)) {
            return fault(Some(pool), Reason::BadTokenCount, Tokens::ZERO);
        }
        let total = Tokens(prompt.0 + new.0);
        if total > self.max_model_len {
            let short_by = total.saturating_sub(self.max_model_len);
            return fault(Some(pool), Reason::TooLong, short_by);
        }
        let (held, claim) = (self.curve.blocks(prompt), self.curve.blocks(total));
        Ok(Size {
            pool,
            prompt_tokens: prompt.0,
            max_tokens: total.0,
            // More than 32 bits is more than any capacity, and refused by its claim.
            held: u32::try_from(held.0).unwrap_or(u32::MAX),
            claim: claim.0,
        })
    }

    /// Counts a fault, and makes the rejection of it.
    #[cold]
    fn refuse(&self, fault: &Fault) -> Rejection {
        let Fault { pool, reason, short_by } = *fault;
        match (&self.keeper, pool) {
            (_, None) if reason == Reason::UnknownPool => {
                self.unknown_pool.fetch_add(1, Relaxed);
            }
            (_, None) => {}
            (Keeper::LockFree(gate), Some(pool)) => gate.count(pool, reason),
            (Keeper::Books(books), Some(pool)) => books.count(pool, reason),
        }
        Rejection::never(reason, short_by)
    }

    /// The cap on new tokens of a request that declares none: what is configured, and in any case
    /// what the longest sequence leaves (under `Optimistic` without a length, all there can be). A
    /// prompt that leaves no room for any is refused as too long.
    fn cap(&self, prompt: Tokens) -> Tokens {
        let room = Tokens(self.max_model_len.saturating_sub(prompt).0.max(1));
        self.cap.map_or(room, |cap| cap.min(room))
    }

    /// The lease of an admitted request.
    pub(super) fn lease(&self, ask: &Ask, slot: u32) -> Lease {
        let pool = usize::from(ask.pool);
        let home = match &self.keeper {
            Keeper::LockFree(gate) => Home::Sums(gate.pool(pool).account),
            Keeper::Books(books) => Home::Books(Arc::clone(books), slot),
        };
        let &Ask { prompt_tokens, max_tokens, held, claim, .. } = ask;
        self.lease_of(&Size { pool, prompt_tokens, max_tokens, held, claim }, home)
    }

    /// Inlined where its home is known: put together from parts that were just stored, it costs as
    /// much as all else that an admission does.
    #[inline(always)]
    fn lease_of(&self, size: &Size, home: Home) -> Lease {
        Lease {
            home,
            tokens: size.prompt_tokens,
            room_tokens: self.curve.tokens(Blocks(size.held.into())).0,
            max_tokens: size.max_tokens,
            prompt_tokens: size.prompt_tokens,
            filled_tokens: 0,
            held: size.held,
            // It fitted a capacity, or under `Optimistic` is held at the largest.
            claim: u32::try_from(size.claim).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn poll_ticket(&self, number: u32, waker: &Waker) -> Option<(Ask, Settled)> {
        match &self.keeper {
            Keeper::LockFree(gate) => gate.poll(number, waker),
            Keeper::Books(books) => books.poll(number, waker),
        }
    }

    pub(super) fn cancel_ticket(&self, number: u32, reason: Reason) -> Option<(Ask, Settled)> {
        match &self.keeper {
            _ if self.is_forked() => None,
            Keeper::LockFree(gate) => gate.cancel(number, reason),
            Keeper::Books(books) => books.cancel(number, reason),
        }
    }

    /// Why a request would not be admitted to a gate that takes no lock; nothing is counted.
    pub(super) fn short_of(&self, gate: &LockFree, ask: &Ask) -> Option<Shortage> {
        let account = gate.pool(usize::from(ask.pool)).account;
        if account.has_waiting() {
            return Some(Shortage::Queued);
        }
        let reading = account.reading();
        let (capacity, claimed) = (reading.capacity, reading.claimed);
        let fits = capacity.checked_sub(claimed).is_some_and(|free| ask.claim <= free);
        (!fits).then_some(Shortage::Claims { capacity, claimed })
    }
}
