//! The names of what a device's bytes are for, and where a number comes from.

use serde::{Deserialize, Serialize};

/// Where a number comes from. Never mixed up, always shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Read from a device, a ledger or a file.
    Measured,
    /// Computed from numbers that have an origin themselves.
    Derived,
    /// Declared by a person or a default of ours.
    #[default]
    Assumed,
}

impl Origin {
    /// As shown and serialised.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Derived => "derived",
            Self::Assumed => "assumed",
        }
    }
}

/// A term of the equation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TermName {
    /// Usable memory of the device.
    Total,
    /// Kept away from us on purpose (`--vram`).
    Withheld,
    /// Model weights.
    Weights,
    /// Activations and workspaces.
    Activations,
    /// Captured graphs.
    Graphs,
    /// Context: what the driver took for itself in this process.
    Context,
    /// CUPTI's own buffers on the device, while memvelope records.
    Recorder,
    /// Other libraries (NCCL, cuBLAS …) and the program: allocations that nobody tagged.
    Libraries,
    /// What driver and allocators round sizes up by.
    Rounding,
    /// Freed in a caching allocator, but another stream may still use it.
    AwaitingStream,
    /// In no use, but kept for the next request by a caching allocator or a memory pool.
    Cached,
    /// In use in this process before we attached: unattributed.
    OpeningBalance,
    /// In use by other processes.
    OtherProcesses,
    /// What the runtime will still need.
    RuntimeReserve,
    /// What we keep against surprise.
    SafetyReserve,
    /// What is left for the KV cache.
    KvCapacity,
    /// KV bytes in use now.
    KvCache,
    /// Signed difference between the device plane and the sum of what we know.
    Unaccounted,
}

impl TermName {
    /// Every term, in the order of the equation.
    pub const ALL: [Self; 18] = [
        Self::Total,
        Self::Withheld,
        Self::Weights,
        Self::Activations,
        Self::Graphs,
        Self::Context,
        Self::Recorder,
        Self::Libraries,
        Self::Rounding,
        Self::AwaitingStream,
        Self::Cached,
        Self::OpeningBalance,
        Self::OtherProcesses,
        Self::RuntimeReserve,
        Self::SafetyReserve,
        Self::KvCapacity,
        Self::KvCache,
        Self::Unaccounted,
    ];

    /// As shown to people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Withheld => "withheld",
            Self::Weights => "weights",
            Self::Activations => "activations",
            Self::Graphs => "graphs",
            Self::Context => "context",
            Self::Recorder => "recorder",
            Self::Libraries => "libraries",
            Self::Rounding => "rounding",
            Self::AwaitingStream => "awaiting-stream",
            Self::Cached => "cached",
            Self::OpeningBalance => "opening balance",
            Self::OtherProcesses => "other processes",
            Self::RuntimeReserve => "runtime reserve",
            Self::SafetyReserve => "safety reserve",
            Self::KvCapacity => "KV capacity",
            Self::KvCache => "KV cache",
            Self::Unaccounted => "unaccounted",
        }
    }

    /// Whether the term is taken off the total.
    #[must_use]
    pub const fn is_taken(self) -> bool {
        match self {
            Self::Withheld
            | Self::Weights
            | Self::Activations
            | Self::Graphs
            | Self::Context
            | Self::Recorder
            | Self::Libraries
            | Self::Rounding
            | Self::AwaitingStream
            | Self::Cached
            | Self::OpeningBalance
            | Self::OtherProcesses
            | Self::RuntimeReserve
            | Self::SafetyReserve => true,
            Self::Total | Self::KvCapacity | Self::KvCache | Self::Unaccounted => false,
        }
    }
}
