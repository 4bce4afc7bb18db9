//! Admission: does this sequence still fit? The hot path of somebody else's server.
//!
//! The gate is told its capacity and a cost curve; it reads no clock and asks nobody.
//!
//! [`Gate`] checks a request and finds its pool; a policy (today `Guaranteed`) decides over the
//! blocks of that pool; [`Lease`] is what the caller keeps. The policy owns the atomics and never
//! sees tokens, names or reasons; the gate owns those and never sees an atomic of the policy.

mod gate;
mod guaranteed;
mod lease;
mod needs;
mod policy;
mod pool;
mod rate;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;

pub use gate::Gate;
pub use lease::Lease;

use crate::units::{Blocks, CostCurve, Nanos, Tokens};
use serde::Serialize;
use std::fmt;

/// How a gate is set up.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// Blocks to hand out, at most 2^31 - 1.
    pub capacity: Blocks,
    /// Tokens to blocks.
    pub curve: CostCurve,
    /// `max_new_tokens` for requests that declare none; without it such requests are rejected.
    pub max_new_tokens_default: Option<Tokens>,
    /// Longest sequence (prompt + output) ever admitted; `None`: only capacity bounds it.
    pub max_tokens: Option<Tokens>,
    /// Named sub-budgets and their shares of capacity; empty: one pool, named `default`.
    pub pools: Vec<PoolConfig>,
}

/// A named sub-budget.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// Its share of capacity; shares are relative to their sum.
    pub share: u32,
}

impl GateConfig {
    /// One pool, no cap on length, no default for `max_new_tokens`.
    #[must_use]
    pub const fn new(capacity: Blocks, curve: CostCurve) -> Self {
        Self { capacity, curve, max_new_tokens_default: None, max_tokens: None, pools: Vec::new() }
    }
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It fits an empty gate, but not now: come back after `retry_after`.
    NoCapacity,
    /// Prompt + maximum is longer than the gate ever admits, or than its pool could ever hold: more
    /// than its highest capacity so far.
    TooLong,
    /// The prompt or the maximum has no tokens, or a count is absurd (does not fit 63 bits, or
    /// negative).
    BadTokenCount,
    /// No maximum was declared and the gate has no default.
    NoMaximum,
    /// There is no pool of that name.
    UnknownPool,
    /// The budget shrank: below what is claimed, and nothing is admitted until leases end; or below
    /// what this request alone needs, which it once could have had.
    Overcommitted,
}

impl Reason {
    /// Every reason, in the order of its discriminants.
    pub const ALL: [Self; 6] = [
        Self::NoCapacity,
        Self::TooLong,
        Self::BadTokenCount,
        Self::NoMaximum,
        Self::UnknownPool,
        Self::Overcommitted,
    ];

    /// As serialised, e.g. `no_capacity`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoCapacity => "no_capacity",
            Self::TooLong => "too_long",
            Self::BadTokenCount => "bad_token_count",
            Self::NoMaximum => "no_maximum",
            Self::UnknownPool => "unknown_pool",
            Self::Overcommitted => "overcommitted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCapacity => "no capacity now",
            Self::TooLong => "longer than can ever fit",
            Self::BadTokenCount => "a token count is zero, negative or absurd",
            Self::NoMaximum => "no max_new_tokens, and the gate has no default",
            Self::UnknownPool => "no pool of that name",
            Self::Overcommitted => "the budget shrank below what is in use or asked for",
        })
    }
}

/// A refused request: a value, not a failure of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("rejected: {reason}{}{}", short_text(*.short_by_tokens), retry_text(*.retry_after))]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// How many tokens too many the request asks for; zero where that is not the reason.
    pub short_by_tokens: Tokens,
    /// When to come back, from the recent rate of release; `None`: never, as it stands.
    pub retry_after: Option<Nanos>,
}

fn short_text(short_by_tokens: Tokens) -> String {
    match short_by_tokens {
        Tokens::ZERO => String::new(),
        tokens => format!(", short by {tokens}"),
    }
}

fn retry_text(retry_after: Option<Nanos>) -> String {
    match retry_after {
        Some(wait) => format!(", try again in {wait}"),
        None => ", not as it stands".into(),
    }
}

/// A lease could not grow: the sequence reached the maximum it declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is at its declared maximum of {max_tokens} (asked for {past_by_tokens} more)")]
pub struct PastMaximum {
    /// Prompt + declared maximum of new tokens.
    pub max_tokens: Tokens,
    /// How many tokens past it.
    pub past_by_tokens: Tokens,
}

/// What a gate has handed out, one consistent reading per pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Capacity in force.
    pub capacity_blocks: Blocks,
    /// Sum of claims.
    pub claimed_blocks: Blocks,
    /// Highest sum of claims so far.
    pub claimed_peak_blocks: Blocks,
    /// Blocks granted to leases.
    pub held_blocks: Blocks,
    /// Highest sum of held so far.
    pub held_peak_blocks: Blocks,
    /// Live leases.
    pub leases: u64,
    /// Requests admitted so far.
    pub admitted: u64,
    /// Requests rejected so far, by reason in the order of [`Reason`].
    pub rejected: [u64; 6],
    /// Epoch of the capacity in force.
    pub epoch: u64,
}
