//! What a line of the equation is.

use serde::Serialize;

/// Where a number comes from. Never mixed up, always shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Read from a device, a ledger or a file.
    Measured,
    /// Computed from numbers that have an origin themselves.
    Derived,
    /// Declared by a person or a default of ours.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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
    /// Other libraries (NCCL, cuBLAS …): allocations that nobody tagged, and pool reserves.
    Libraries,
    /// In use by others, or before we attached: unattributed.
    OpeningBalance,
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
    pub const ALL: [Self; 14] = [
        Self::Total,
        Self::Withheld,
        Self::Weights,
        Self::Activations,
        Self::Graphs,
        Self::Context,
        Self::Recorder,
        Self::Libraries,
        Self::OpeningBalance,
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
            Self::OpeningBalance => "opening balance",
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
            | Self::OpeningBalance
            | Self::RuntimeReserve
            | Self::SafetyReserve => true,
            Self::Total | Self::KvCapacity | Self::KvCache | Self::Unaccounted => false,
        }
    }
}

/// One line of the equation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Term {
    /// Which.
    pub name: TermName,
    /// Bytes; `None` is *absent* (nobody could be asked), which is not zero. Signed because
    /// [`TermName::Unaccounted`] is.
    pub bytes: Option<i64>,
    /// Of these, bytes in use now, as far as they were told apart. Over all terms they add up to
    /// total - free; `None` adds nothing.
    pub in_use_bytes: Option<i64>,
    /// Where the number comes from.
    pub origin: Origin,
    /// One sentence on how it came about.
    pub note: String,
}
