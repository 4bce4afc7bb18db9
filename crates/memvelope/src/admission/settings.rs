//! How a gate is set up, and what of it is refused.

use super::needs::NEED_MAX;
use crate::error::{Error, Result};
use crate::units::{Blocks, CostCurve, Nanos, Tokens};

/// Largest capacity of a gate in blocks, 2^30 - 1: what the trees of needs count with. With the
/// smallest usual block (16 tokens) that is 17 billion tokens, far beyond any device.
pub(crate) const CAPACITY_BLOCKS_MAX: u64 = NEED_MAX as u64;

/// Largest token count that is not absurd: what fits 63 bits, so that a negative number of a
/// foreign language never passes for a large one.
pub(crate) const TOKENS_MAX: u64 = i64::MAX as u64;

/// Pools are found by comparing names one by one, so there is an end to their number.
const POOLS_MAX: usize = 64;

/// Most leases that books are kept on unless told otherwise: a hundred times what a replica runs
/// at once; the books of so many take 120 MB, and are only as large as they ever had to be.
pub const LEASES_MAX_DEFAULT: u32 = 1 << 20;

/// Most requests that wait in a queue unless told otherwise: at 100 requests a second more than ten
/// minutes of them, which nobody waits for.
pub const QUEUE_MAX_DEFAULT: u32 = 1 << 16;

/// Who may run, and which lease may grow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Policy {
    /// The claims of all leases fit the capacity, so none ever waits. Without borrowing between
    /// pools an admission is one compare-and-swap and takes no lock; such a gate keeps no list of
    /// its leases and names no victims.
    Guaranteed,
    /// A request is admitted, and a lease may grow, while some order of completion lets every lease
    /// reach its claim. Growth may have to wait; the lease with the smallest need never does.
    #[default]
    Banker,
    /// A request is admitted if what it takes at once leaves the watermark free; growth is granted
    /// while anything is free. No guarantee: for engines that preempt by themselves.
    Optimistic {
        /// Share of the capacity kept free at admission, 0 to 1. An empty pool ignores it.
        watermark: f64,
    },
}

impl Policy {
    /// As configured, e.g. `banker`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Guaranteed => "guaranteed",
            Self::Banker => "banker",
            Self::Optimistic { .. } => "optimistic",
        }
    }
}

/// What is expected of output lengths, on top of [`Policy::Banker`]: admission stops where the
/// predicted peak of what runs would not fit, so that waits stay rare. It never lets in what the
/// policy alone would refuse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Standard deviations of the predicted peak that are kept free.
    pub margin: f64,
}

impl Default for Estimate {
    fn default() -> Self {
        Self { margin: MARGIN_DEFAULT }
    }
}

/// Standard deviations kept free. By `memvelope replay` of the Azure trace at load 1.3, where it
/// matters most: 1.6 gains 0.7 % of goodput, and the worst gap of one request in a hundred is 3.4 s
/// instead of 1.9; 2.5 loses 0.7 %, for 1.5 s.
const MARGIN_DEFAULT: f64 = 2.0;

/// How a gate is set up.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// Blocks to hand out, at most 2^30 - 1.
    pub capacity: Blocks,
    /// Tokens to blocks.
    pub curve: CostCurve,
    /// Who may run, and which lease may grow.
    pub policy: Policy,
    /// Longest sequence (prompt + output) ever admitted. A request that declares no maximum is
    /// taken to claim up to here, unless [`Self::max_new_tokens_default`] says less.
    pub max_model_len: Option<Tokens>,
    /// The cap on new tokens of requests that declare none.
    pub max_new_tokens_default: Option<Tokens>,
    /// What is expected of output lengths; `None`: the policy alone decides. Only `Banker` has it.
    pub estimate: Option<Estimate>,
    /// Named sub-budgets and their shares of capacity; empty: one pool, named `default`.
    pub pools: Vec<PoolConfig>,
    /// Most requests that wait in the queue.
    pub queue_max: u32,
    /// How long, on the clock of [`super::Gate::tick`], a lease may not be heard of before its
    /// blocks are taken back; `None`, the default: for ever. A lease is heard of at admission, when
    /// prefill reaches a block, and when it asks for a new block, so this must be longer than a
    /// block takes to fill. For engines that lose requests: a sequence that only seemed lost goes
    /// on writing into blocks that are no longer its own until it hears [`super::Growth::Expired`].
    pub silent_max: Option<Nanos>,
    /// Keep books even where the policy needs none: `Guaranteed` without borrowing then takes a
    /// lock, and has histograms, victims, and growth of the smallest need first after the budget
    /// shrank.
    pub keeps_books: bool,
    /// Most live leases that books are kept on. `Guaranteed` without borrowing keeps none.
    pub leases_max: u32,
}

impl GateConfig {
    /// One pool under [`Policy::Banker`], with what the policy asks for: a length that no sequence
    /// exceeds.
    #[must_use]
    pub fn new(capacity: Blocks, curve: CostCurve, max_model_len: Tokens) -> Self {
        Self {
            capacity,
            curve,
            policy: Policy::Banker,
            max_model_len: Some(max_model_len),
            max_new_tokens_default: None,
            estimate: Some(Estimate::default()),
            pools: Vec::new(),
            queue_max: QUEUE_MAX_DEFAULT,
            silent_max: None,
            keeps_books: false,
            leases_max: LEASES_MAX_DEFAULT,
        }
    }

    /// Whether an admission needs no lock: nothing but its own account is looked at.
    pub(crate) fn is_lock_free(&self) -> bool {
        self.policy == Policy::Guaranteed
            && self.silent_max.is_none()
            && !self.keeps_books
            && self.pools.iter().all(|pool| pool.floor_percent >= 100)
    }

    /// Refuses a configuration that could not do what it says.
    pub(crate) fn check(&self) -> Result<()> {
        if self.capacity.0 > CAPACITY_BLOCKS_MAX {
            let given = self.capacity.0;
            let text = format!("{given} blocks; a gate counts at most {CAPACITY_BLOCKS_MAX}");
            return Err(wrong("capacity", text));
        }
        for (argument, tokens) in [
            ("max_new_tokens_default", self.max_new_tokens_default),
            ("max_model_len", self.max_model_len),
        ] {
            if tokens.is_some_and(|tokens| !(1..=TOKENS_MAX).contains(&tokens.0)) {
                return Err(wrong(argument, format!("not between 1 and {TOKENS_MAX}")));
            }
        }
        self.check_policy()?;
        self.check_pools()
    }

    fn check_policy(&self) -> Result<()> {
        let has_cap = self.max_model_len.is_some() || self.max_new_tokens_default.is_some();
        match self.policy {
            Policy::Guaranteed | Policy::Banker if !has_cap => {
                return Err(wrong(
                    "max_model_len",
                    format!(
                        "policy {} needs a cap for requests that declare no maximum: give \
                         max_model_len or max_new_tokens_default",
                        self.policy.label()
                    ),
                ));
            }
            Policy::Optimistic { watermark } if !(0.0..=1.0).contains(&watermark) => {
                return Err(wrong("watermark", format!("{watermark} is not between 0 and 1")));
            }
            _ => {}
        }
        match self.estimate {
            Some(Estimate { margin }) if !(0.0..=100.0).contains(&margin) => {
                Err(wrong("margin", format!("{margin} is not between 0 and 100 deviations")))
            }
            _ if self.leases_max == 0 => Err(wrong("leases_max", "0 leases; use 1 or more")),
            _ => Ok(()),
        }
    }

    fn check_pools(&self) -> Result<()> {
        if self.pools.len() > POOLS_MAX {
            let given = self.pools.len();
            return Err(wrong("pools", format!("{given} of them; at most {POOLS_MAX}")));
        }
        for (index, pool) in self.pools.iter().enumerate() {
            let name = &pool.name;
            if name.is_empty() {
                return Err(wrong("pools", format!("pool {index} has an empty name")));
            }
            if pool.share == 0 {
                return Err(wrong("pools", format!("pool {name:?} has share 0; use 1 or more")));
            }
            if pool.floor_percent > 100 {
                let floor = pool.floor_percent;
                let text = format!("pool {name:?} keeps {floor} % of its share; at most 100");
                return Err(wrong("pools", text));
            }
            if self.pools[..index].iter().any(|other| other.name == *name) {
                return Err(wrong("pools", format!("two pools are named {name:?}")));
            }
        }
        Ok(())
    }
}

/// A named sub-budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// Its share of capacity; shares are relative to their sum.
    pub share: u32,
    /// Percent of its share that it never lends to other pools: 100 lends nothing, 0 everything
    /// that it does not need to keep its own promises.
    pub floor_percent: u8,
}

impl PoolConfig {
    /// A pool that lends nothing.
    #[must_use]
    pub fn new(name: impl Into<String>, share: u32) -> Self {
        Self { name: name.into(), share, floor_percent: 100 }
    }
}

/// An unusable argument, and what would be right.
pub(crate) fn wrong(argument: &'static str, problem: impl Into<String>) -> Error {
    Error::ConfigureGate { argument, problem: problem.into() }
}
