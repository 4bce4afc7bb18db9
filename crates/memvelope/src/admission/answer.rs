//! What a gate answers: growth, rejections with their reasons, and what is handed out.

use crate::units::{Blocks, Nanos, Tokens};
use serde::Serialize;
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $text:literal;)*) => {
        /// Why a request was not admitted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason, in the order of its discriminants.
            pub const ALL: [Self; REASONS] = [$(Self::$name),*];

            /// As serialised, e.g. `no_capacity`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }

        impl fmt::Display for Reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

/// How many reasons there are.
pub(crate) const REASONS: usize = 12;

reasons! {
    /// It fits an empty gate, but not now: come back after `retry_after`.
    NoCapacity = "no_capacity", "no capacity now";
    /// Prompt + maximum is longer than the gate ever admits, or than its pool could ever hold: more
    /// than its highest capacity so far.
    TooLong = "too_long", "longer than can ever fit";
    /// The prompt or the maximum has no tokens, or a count is absurd (does not fit 63 bits, or
    /// negative).
    BadTokenCount = "bad_token_count", "a token count is zero, negative or absurd";
    /// There is no pool of that name.
    UnknownPool = "unknown_pool", "no pool of that name";
    /// The budget shrank: below what is held or safe, and nothing is admitted until leases end; or
    /// below what this request alone needs, which it once could have had.
    Overcommitted = "overcommitted", "the budget shrank below what is in use or asked for";
    /// It would fit and be safe, but what runs already is expected to need the room: admitting it
    /// would make leases wait.
    Predicted = "predicted", "what runs already is expected to need the room";
    /// Others wait in the queue of the pool, and have the first call on what is free.
    Queued = "queued", "others wait in the queue, and come first";
    /// The queue has as many as it may.
    QueueFull = "queue_full", "the queue is full";
    /// Its deadline passed in the queue.
    Expired = "expired", "its deadline passed in the queue";
    /// Its ticket was dropped or cancelled in the queue.
    Cancelled = "cancelled", "cancelled while it waited";
    /// There are as many leases as the gate keeps books on.
    TooManyLeases = "too_many_leases", "the gate keeps books on no more leases";
    /// This process was forked off: the budget belongs to its parent.
    Forked = "forked", "this process was forked off the gate's; the budget is the parent's";
}

impl Reason {
    /// Whether the same request may be admitted later, without anybody changing it or the gate.
    #[must_use]
    pub const fn is_for_now(self) -> bool {
        matches!(
            self,
            Self::NoCapacity
                | Self::Overcommitted
                | Self::Predicted
                | Self::Queued
                | Self::QueueFull
                | Self::TooManyLeases
        )
    }
}

/// A refused request: a value, not a failure of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("rejected: {reason}{}{}", short_text(*.short_by_tokens), retry_text(*.retry_after))]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// How many tokens too many the request asks for: the blocks that lack, as tokens; zero where
    /// that is not the reason. Under `Guaranteed` a request with so many less fits; under `Banker`
    /// fewer may do, which [`super::Gate::explain`] says.
    pub short_by_tokens: Tokens,
    /// When to come back, from the predicted curve of release, else from its recent rate; `None`:
    /// never, as it stands.
    pub retry_after: Option<Nanos>,
}

impl Rejection {
    /// A rejection that no waiting helps.
    #[must_use]
    pub const fn never(reason: Reason, short_by_tokens: Tokens) -> Self {
        Self { reason, short_by_tokens, retry_after: None }
    }
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

/// What a lease is told that wants to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a sequence that must wait may not write its next token"]
pub enum Growth {
    /// The sequence has the tokens; so many blocks are newly held.
    Granted(Blocks),
    /// Not in this step: the sequence pauses, keeps what it holds, and asks again. Nothing changed.
    Wait,
    /// Never: the lease was silent for longer than the gate was told to bear, and its blocks were
    /// given to others. The sequence must stop.
    Expired,
}

impl Growth {
    /// Whether the tokens were granted.
    #[must_use]
    pub const fn is_granted(self) -> bool {
        matches!(self, Self::Granted(_))
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
    /// Sum of claims, shared blocks once.
    pub claimed_blocks: Blocks,
    /// Highest sum of claims so far.
    pub claimed_peak_blocks: Blocks,
    /// Blocks granted to leases, shared ones once.
    pub held_blocks: Blocks,
    /// Highest sum of held so far.
    pub held_peak_blocks: Blocks,
    /// Of these, blocks of prefixes that several leases share.
    pub shared_blocks: Blocks,
    /// Of these, blocks of prompts that prefill has not reached yet.
    pub reserved_blocks: Blocks,
    /// Whether the budget shrank below what is held or safe.
    pub is_overcommitted: bool,
    /// Live leases.
    pub leases: u64,
    /// Requests in the queue.
    pub waiting: u64,
    /// Requests admitted so far.
    pub admitted: u64,
    /// Requests rejected so far, by reason in the order of [`Reason`].
    pub rejected: [u64; REASONS],
    /// Growths that crossed into a new block and were granted, so far. Not counted by a gate that
    /// takes no lock (`Guaranteed` without borrowing), whose growths never wait.
    pub granted: u64,
    /// Growths that were told to wait so far.
    pub waits: u64,
    /// Leases released so far, preempted ones included.
    pub released: u64,
    /// Leases preempted so far.
    pub preempted: u64,
    /// Leases taken back so far because nobody had heard of them
    /// ([`super::GateConfig::silent_max`]).
    pub expired: u64,
    /// Epoch of the capacity in force.
    pub epoch: u64,
}

impl Usage {
    /// Adds what is handed out in another pool. Peaks need not have coincided: their sum is an
    /// upper bound.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.capacity_blocks, other.capacity_blocks),
            (&mut self.claimed_blocks, other.claimed_blocks),
            (&mut self.claimed_peak_blocks, other.claimed_peak_blocks),
            (&mut self.held_blocks, other.held_blocks),
            (&mut self.held_peak_blocks, other.held_peak_blocks),
            (&mut self.shared_blocks, other.shared_blocks),
            (&mut self.reserved_blocks, other.reserved_blocks),
        ] {
            *sum = sum.saturating_add(part);
        }
        for (sum, part) in [
            (&mut self.leases, other.leases),
            (&mut self.waiting, other.waiting),
            (&mut self.admitted, other.admitted),
            (&mut self.granted, other.granted),
            (&mut self.waits, other.waits),
            (&mut self.released, other.released),
            (&mut self.preempted, other.preempted),
            (&mut self.expired, other.expired),
        ] {
            *sum = sum.saturating_add(part);
        }
        for (sum, part) in self.rejected.iter_mut().zip(other.rejected) {
            *sum = sum.saturating_add(part);
        }
        self.is_overcommitted |= other.is_overcommitted;
    }
}
