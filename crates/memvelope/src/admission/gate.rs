//! The gate: checks a request, asks the policy, hands out the lease.

use super::guaranteed::CAPACITY_BLOCKS_MAX;
use super::policy::Policy;
use super::pool::{DEFAULT_POOL, Pool, split};
use super::{GateConfig, Lease, PoolConfig, Reason, Rejection, Usage};
use crate::error::{Error, Result};
use crate::units::{Blocks, CostCurve, Nanos, Tokens};
use std::cmp::Reverse;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, PoisonError};

/// Pools are found by comparing names one by one, so there is an end to their number.
const POOLS_MAX: usize = 64;

/// Largest token count that is not absurd: what fits 63 bits, so that a negative number of a
/// foreign language never passes for a large one.
const TOKENS_MAX: u64 = i64::MAX as u64;

/// Hands out leases on blocks. Clone it freely: clones share one budget.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<Gate>();
};

#[derive(Debug)]
struct Inner {
    first: Pool,
    more: Box<[Pool]>,
    curve: CostCurve,
    max_new_tokens_default: Option<Tokens>,
    max_tokens: Tokens,
    unknown_pool: AtomicU64,
    /// Epoch of the capacity in force.
    epoch: AtomicU64,
    /// Taken by whoever changes the capacity; never by an admission.
    resize: Mutex<()>,
}

impl Inner {
    fn pools(&self) -> impl Iterator<Item = &Pool> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

impl Gate {
    /// A gate with policy `Guaranteed`: the claims of all live leases fit the capacity.
    ///
    /// # Errors
    /// [`crate::Error::ConfigureGate`].
    pub fn new(config: GateConfig) -> Result<Self> {
        check(&config)?;
        let pools = if config.pools.is_empty() {
            vec![PoolConfig { name: DEFAULT_POOL.into(), share: 1 }]
        } else {
            config.pools
        };
        let shares: Vec<_> = pools.iter().map(|pool| pool.share).collect();
        let mut opened = pools
            .iter()
            .zip(split(config.capacity, &shares))
            .map(|(pool, capacity)| Pool::open(&pool.name, pool.share, capacity));
        let Some(first) = opened.next() else {
            return Err(wrong("pools", "there is none; declare one, or leave the list empty"));
        };
        Ok(Self {
            inner: Arc::new(Inner {
                first,
                more: opened.collect(),
                curve: config.curve,
                max_new_tokens_default: config.max_new_tokens_default,
                max_tokens: config.max_tokens.unwrap_or(Tokens(TOKENS_MAX)),
                unknown_pool: AtomicU64::new(0),
                epoch: AtomicU64::new(0),
                resize: Mutex::new(()),
            }),
        })
    }

    /// Admits a sequence of `prompt_tokens` that will produce at most `max_new_tokens`, in pool
    /// `pool` (default: the first). The lease holds the prompt's blocks at once and claims the
    /// rest. Lock-free, and without allocation.
    ///
    /// # Errors
    /// A [`Rejection`].
    #[inline]
    pub fn try_admit(
        &self,
        prompt_tokens: Tokens,
        max_new_tokens: Option<Tokens>,
        pool: Option<&str>,
    ) -> Result<Lease, Rejection> {
        let inner = &*self.inner;
        let pool = match pool {
            None => &inner.first,
            Some(name) => self.pool(name).ok_or_else(|| self.refuse_pool())?,
        };
        let Some(new) = max_new_tokens.or(inner.max_new_tokens_default) else {
            return Err(pool.refuse(Reason::NoMaximum, Tokens::ZERO));
        };
        // Each fits 63 bits, so the sum fits 64.
        let is_sane = |tokens: Tokens| (1..=TOKENS_MAX).contains(&tokens.0);
        if !is_sane(prompt_tokens) || !is_sane(new) || !is_sane(Tokens(prompt_tokens.0 + new.0)) {
            return Err(pool.refuse(Reason::BadTokenCount, Tokens::ZERO));
        }
        let total = Tokens(prompt_tokens.0 + new.0);
        if total > inner.max_tokens {
            return Err(pool.refuse(Reason::TooLong, total.saturating_sub(inner.max_tokens)));
        }
        let (held, claim) = (inner.curve.blocks(prompt_tokens), inner.curve.blocks(total));
        match pool.account.admit(held, claim) {
            Ok(()) => Ok(Lease {
                account: pool.account,
                curve: inner.curve,
                tokens: prompt_tokens,
                max_tokens: total,
                // Both fit the capacity, and so 31 bits.
                held: held.0 as u32,
                claim: claim.0 as u32,
            }),
            Err(short) => Err(pool.refuse_short(total, claim, inner.curve, short)),
        }
    }

    /// Sets the capacity in blocks. Epochs order concurrent writers: a stale epoch (not above the
    /// one in force; a new gate is at 0) changes nothing and returns false. No lease is revoked;
    /// below the sum of claims the gate is overcommitted and admits nothing until leases end.
    ///
    /// Pools keep their shares; the parts add up to `blocks` exactly. At most 2^31 - 1 blocks are
    /// used; more is held at that. An admission that begins after this returned sees it.
    pub fn set_capacity(&self, blocks: Blocks, epoch: u64) -> bool {
        let inner = &*self.inner;
        // Nothing under this lock can panic; poisoned or not, it still orders the writers.
        let _order = inner.resize.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch <= inner.epoch.load(Relaxed) {
            return false;
        }
        let shares: Vec<_> = inner.pools().map(|pool| pool.share).collect();
        let parts = split(Blocks(blocks.0.min(CAPACITY_BLOCKS_MAX)), &shares);
        let mut moves: Vec<_> = inner
            .pools()
            .zip(parts)
            .map(|(pool, to)| (pool, to, Blocks(pool.account.reading().capacity)))
            .collect();
        // Shrinking pools first, so that their sum is never above the old or the new capacity.
        moves.sort_by_key(|&(_, to, from)| Reverse(from.saturating_sub(to)));
        for (pool, to, _) in moves {
            pool.set_capacity(to);
        }
        inner.epoch.store(epoch, Release);
        true
    }

    /// Tells the gate the time (any steady clock), once per step or so: `retry_after` is made of
    /// it, from a moving average over some seconds. Before the first two ticks and the first
    /// release `retry_after` is one second; it is never below 10 ms nor above a minute.
    pub fn tick(&self, now: Nanos) {
        for pool in self.inner.pools() {
            pool.tick(now);
        }
    }

    /// What is handed out, over all pools. Peaks of several pools need not have coincided: their
    /// sum is an upper bound; [`Self::pool_usage`] is exact.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut all = Usage { epoch: self.inner.epoch.load(Acquire), ..Usage::default() };
        for pool in self.inner.pools() {
            let usage = pool.usage();
            for (sum, part) in [
                (&mut all.capacity_blocks, usage.capacity_blocks),
                (&mut all.claimed_blocks, usage.claimed_blocks),
                (&mut all.claimed_peak_blocks, usage.claimed_peak_blocks),
                (&mut all.held_blocks, usage.held_blocks),
                (&mut all.held_peak_blocks, usage.held_peak_blocks),
            ] {
                *sum = sum.saturating_add(part);
            }
            all.leases += usage.leases;
            all.admitted += usage.admitted;
            for (sum, part) in all.rejected.iter_mut().zip(usage.rejected) {
                *sum += part;
            }
        }
        all.rejected[Reason::UnknownPool as usize] += self.inner.unknown_pool.load(Relaxed);
        all
    }

    /// What is handed out in one pool; `None` if there is none of that name.
    #[must_use]
    pub fn pool_usage(&self, name: &str) -> Option<Usage> {
        let epoch = self.inner.epoch.load(Acquire);
        self.pool(name).map(|pool| Usage { epoch, ..pool.usage() })
    }

    /// Names of the pools, the default first.
    #[must_use]
    pub fn pool_names(&self) -> Vec<&str> {
        self.inner.pools().map(|pool| &*pool.name).collect()
    }

    /// Tokens to blocks, as this gate counts.
    #[must_use]
    pub fn curve(&self) -> CostCurve {
        self.inner.curve
    }

    fn pool(&self, name: &str) -> Option<&Pool> {
        self.inner.pools().find(|pool| *pool.name == *name)
    }

    #[cold]
    fn refuse_pool(&self) -> Rejection {
        self.inner.unknown_pool.fetch_add(1, Relaxed);
        Rejection { reason: Reason::UnknownPool, short_by_tokens: Tokens::ZERO, retry_after: None }
    }
}

fn wrong(argument: &'static str, problem: impl Into<String>) -> Error {
    Error::ConfigureGate { argument, problem: problem.into() }
}

/// Refuses a configuration that could not do what it says.
fn check(config: &GateConfig) -> Result<()> {
    if config.capacity.0 > CAPACITY_BLOCKS_MAX {
        let given = config.capacity.0;
        return Err(wrong(
            "capacity",
            format!("{given} blocks; a gate counts at most {CAPACITY_BLOCKS_MAX}"),
        ));
    }
    for (argument, tokens) in [
        ("max_new_tokens_default", config.max_new_tokens_default),
        ("max_tokens", config.max_tokens),
    ] {
        if tokens.is_some_and(|tokens| !(1..=TOKENS_MAX).contains(&tokens.0)) {
            return Err(wrong(argument, format!("not between 1 and {TOKENS_MAX}")));
        }
    }
    if config.pools.len() > POOLS_MAX {
        let given = config.pools.len();
        return Err(wrong("pools", format!("{given} of them; at most {POOLS_MAX}")));
    }
    for (index, pool) in config.pools.iter().enumerate() {
        if pool.name.is_empty() {
            return Err(wrong("pools", format!("pool {index} has an empty name")));
        }
        if pool.share == 0 {
            return Err(wrong("pools", format!("pool {:?} has share 0; use 1 or more", pool.name)));
        }
        if config.pools[..index].iter().any(|other| other.name == pool.name) {
            return Err(wrong("pools", format!("two pools are named {:?}", pool.name)));
        }
    }
    Ok(())
}
