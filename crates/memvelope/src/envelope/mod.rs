//! The envelope: the capacity equation, one named term a line, each with its origin.
//!
//! capacity for KV = total - withheld - weights - activations - graphs - context - libraries
//! - opening balance of others - runtime reserve - safety reserve

use crate::error::Result;
use crate::model::Layout;
use crate::snapshot::DeviceSnapshot;
use crate::units::{Blocks, Bytes, CostCurve};
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
    /// Other libraries (NCCL, cuBLAS …).
    Libraries,
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

/// One line of the equation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Term {
    /// Which.
    pub name: TermName,
    /// Bytes; `None` is *absent* (nobody could be asked), which is not zero. Signed because
    /// [`TermName::Unaccounted`] is.
    pub bytes: Option<i64>,
    /// Where the number comes from.
    pub origin: Origin,
    /// One sentence on how it came about.
    pub note: String,
}

/// The capacity equation of one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Envelope {
    /// Terms in the order of the equation.
    pub terms: Vec<Term>,
    /// Bytes for the KV cache.
    pub kv_capacity_bytes: Bytes,
    /// The same in whole blocks.
    pub kv_capacity_blocks: Blocks,
    /// Bytes of a block.
    pub block_bytes: Bytes,
    /// Tokens to blocks.
    pub curve: CostCurve,
}

/// What a person declares; each has a documented default.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Declared {
    /// Tokens a block holds. Default 16, vLLM's usual block.
    pub block_tokens: u32,
    /// Bytes for activations and workspaces, if known better than the default.
    pub activations: Option<Bytes>,
    /// Bytes of context; default 512 MiB until measured.
    pub context: Option<Bytes>,
    /// Runtime reserve; default 2 % of total.
    pub runtime_reserve: Option<Bytes>,
    /// Safety reserve; default 1 % of total.
    pub safety_reserve: Option<Bytes>,
    /// Bytes by which every KV slab is rounded up by the driver (2 MiB on current GPUs).
    pub page_bytes: Bytes,
}

impl Default for Declared {
    fn default() -> Self {
        Self {
            block_tokens: 16,
            activations: None,
            context: None,
            runtime_reserve: None,
            safety_reserve: None,
            page_bytes: Bytes(2 << 20),
        }
    }
}

impl Envelope {
    /// Plans from a declared total, before anything runs: every term Assumed or Derived.
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`].
    pub fn plan(_total: Bytes, _layout: &Layout, _declared: &Declared) -> Result<Self> {
        todo!()
    }

    /// Fills the equation from a device snapshot (weights loaded, no KV yet, or some): terms that
    /// the snapshot knows are Measured, the rest as in [`Self::plan`].
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`].
    pub fn measured(
        _device: &DeviceSnapshot,
        _layout: &Layout,
        _declared: &Declared,
    ) -> Result<Self> {
        todo!()
    }

    /// The term of that name.
    #[must_use]
    pub fn term(&self, name: TermName) -> Option<&Term> {
        self.terms.iter().find(|term| term.name == name)
    }
}
