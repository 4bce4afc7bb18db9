//! Filling the equation: from a declared total, or from a device snapshot.

use super::basis::Basis;
use super::polled::NO_RECORDER;
use super::sum::{Reserves, Solved, Sum};
use super::{Origin, Term, TermName, balanced, polled};
use crate::engine::Vllm;
use crate::error::{Error, Result};
use crate::model::Layout;
use crate::snapshot::DeviceSnapshot;
use crate::units::{Blocks, Bytes, CostCurve};
use serde::Serialize;

/// The capacity equation of one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Envelope {
    /// Whether the device is simulated; see [`Self::mark_simulated`].
    pub simulated: bool,
    /// Terms in the order of the equation.
    pub terms: Vec<Term>,
    /// Bytes for the KV cache.
    pub kv_capacity_bytes: Bytes,
    /// The same in whole blocks.
    pub kv_capacity_blocks: Blocks,
    /// Bytes of a block.
    pub block_bytes: Bytes,
    /// Bytes by which the driver rounds every allocation up.
    pub page_bytes: Bytes,
    /// Blocks of a sequence, as a function of its length.
    pub curve: CostCurve,
}

/// What a person declares; each has a documented default.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Declared {
    /// Tokens a block holds. Default 16, vLLM's usual block.
    pub block_tokens: u32,
    /// Bytes for activations and workspaces, if known better than the default: 8192 tokens in
    /// flight through the widest layer, and the logits of 256 sequences.
    pub activations: Option<Bytes>,
    /// Bytes of context; default: what was measured, 512 MiB until it was. Where a balance is, the
    /// larger of the two counts.
    pub context: Option<Bytes>,
    /// Bytes kept away from the engine on purpose: what `--gpu-memory-utilization` leaves.
    pub withheld: Option<Bytes>,
    /// Runtime reserve; default 2 % of total - withheld.
    pub runtime_reserve: Option<Bytes>,
    /// Safety reserve; default 1 % of total - withheld.
    pub safety_reserve: Option<Bytes>,
    /// Bytes by which every KV slab is rounded up by the driver (2 MiB on current GPUs).
    pub page_bytes: Bytes,
    /// Whether all that a caching allocator caches is taken off the capacity, also what it could
    /// give back. Default: no. To be set where the KV cache is not allocated through that allocator,
    /// which gives nothing back because somebody else runs out.
    pub keeps_cached: bool,
    /// Whether the weights are loaded, by code that tags nothing or before the session attached.
    /// Default: no. The weights that no tag shows are then taken to be among the untagged bytes, as
    /// far as those go, and not counted beside them.
    pub is_loaded: bool,
    /// Bytes of the KV cache that are allocated already and carry no tag (an engine that took its
    /// whole cache at the start). Default: none. They are among the untagged bytes, and part of the
    /// capacity.
    pub kv_untagged: Option<Bytes>,
}

impl Default for Declared {
    fn default() -> Self {
        Self {
            block_tokens: 16,
            activations: None,
            context: None,
            withheld: None,
            runtime_reserve: None,
            safety_reserve: None,
            page_bytes: Bytes(2 << 20),
            keeps_cached: false,
            is_loaded: false,
            kv_untagged: None,
        }
    }
}

impl Envelope {
    /// Plans from a declared total, before anything runs: every term Assumed or Derived.
    ///
    /// This is the arithmetic of models whose every layer keeps every token, without any engine's
    /// rounding; [`Self::plan_engine`] plans all others, too.
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`]; [`crate::Error::ReadConfig`] if a block has no tokens;
    /// [`crate::Error::ReadModel`] if the layers keep caches of several kinds.
    pub fn plan(total: Bytes, layout: &Layout, declared: &Declared) -> Result<Self> {
        plan_terms(total, &Basis::plain(layout, declared)?)
    }

    /// As [`Self::plan`], in the blocks of an engine: `weights` are those of one rank, and
    /// [`Self::block_bytes`] and [`Self::curve`] are what the engine makes of the model
    /// ([`Vllm::cost_curve`]).
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`].
    pub fn plan_engine(
        total: Bytes,
        layout: &Layout,
        engine: &Vllm,
        weights: Bytes,
        declared: &Declared,
    ) -> Result<Self> {
        plan_terms(total, &Basis::engine(layout, engine, weights, declared))
    }

    /// As [`Self::plan_engine`] where nothing is rounded: a block is one token of `per_token` bytes
    /// in the layers that keep every token (one byte, where there are none).
    pub(super) fn plan_tokens(
        total: Bytes,
        layout: &Layout,
        per_token: Bytes,
        ranks: u32,
        weights: Bytes,
        declared: &Declared,
    ) -> Result<Self> {
        plan_terms(total, &Basis::tokens(layout, per_token, ranks, weights, declared)?)
    }

    /// Fills the equation from a device snapshot (weights loaded, no KV yet, or some).
    ///
    /// What is in use comes from the snapshot's balance, line by line. What is taken off the capacity
    /// is the same, but for these: weights are the larger of what is live and what was computed, so
    /// that no room is promised that the rest of them will take; activations the larger of the peak
    /// seen and what was assumed; of what is cached, only what cannot be given back
    /// ([`Declared::keeps_cached`]); of the runtime reserve, what graphs, libraries and modules have
    /// not used up meanwhile. The safety reserve covers the error bars of all lines, as far as
    /// what is unaccounted for does not, and is raised where it would not.
    ///
    /// Without a balance the context is what this process uses beyond the ledger. Where single
    /// allocations go unseen, what is in use cannot be told apart: the computed terms are then taken
    /// to be in it as far as it goes, so that nothing is counted twice, and the rest is unaccounted
    /// for, which lowers the capacity.
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`], also when the driver told no total; [`crate::Error::ReadConfig`]
    /// if a block has no tokens; [`crate::Error::ReadModel`] as in [`Self::plan`].
    pub fn measured(device: &DeviceSnapshot, layout: &Layout, declared: &Declared) -> Result<Self> {
        measured_terms(device, &Basis::plain(layout, declared)?)?.with_room()
    }

    /// The term of that name.
    #[must_use]
    pub fn term(&self, name: TermName) -> Option<&Term> {
        self.terms.iter().find(|term| term.name == name)
    }

    /// Says better where a term comes from.
    pub(super) fn restate(&mut self, name: TermName, origin: Origin, note: impl Into<String>) {
        if let Some(term) = self.terms.iter_mut().find(|term| term.name == name) {
            (term.origin, term.note) = (origin, note.into());
        }
    }

    /// Says whether the numbers come from a simulated device; the table and the JSON then say so.
    #[must_use]
    pub const fn mark_simulated(mut self, simulated: bool) -> Self {
        self.simulated = simulated;
        self
    }
}

fn plan_terms(total: Bytes, basis: &Basis) -> Result<Envelope> {
    let mut sum = Sum::new(basis);
    sum.put(TermName::Total, signed(total), Origin::Assumed, "as declared");
    match basis.withheld {
        Some(bytes) => {
            let note = "not given to the engine (its share of the device)";
            sum.put(TermName::Withheld, bytes, Origin::Derived, note);
        }
        None => sum.absent(TermName::Withheld, "nothing is known to be withheld"),
    }
    let mut put = |name, (bytes, note): (i64, String), origin| sum.put(name, bytes, origin, note);
    put(TermName::Weights, basis.weights.clone(), Origin::Derived);
    put(TermName::Activations, basis.activations.clone(), Origin::Assumed);
    sum.absent(TermName::Graphs, "none seen; those captured later need the runtime reserve");
    let (context, note) = basis.context.clone();
    sum.put(TermName::Context, context, Origin::Assumed, note);
    sum.absent(TermName::Recorder, NO_RECORDER);
    sum.absent(TermName::Libraries, "none seen; later ones need the runtime reserve");
    for name in [TermName::Rounding, TermName::AwaitingStream, TermName::Cached] {
        sum.absent(name, "nothing runs yet");
    }
    sum.absent(TermName::OpeningBalance, "nothing runs yet");
    sum.absent(TermName::OtherProcesses, "nobody was asked about other processes");
    sum.reserves(Reserves::default());
    sum.absent(TermName::KvCache, "nothing runs yet");
    sum.absent(TermName::Unaccounted, "no device plane to compare with");
    sum.solve().with_room()
}

/// The equation of a device as it is, whether or not it leaves room.
pub(super) fn measured_terms(device: &DeviceSnapshot, basis: &Basis) -> Result<Solved> {
    let Some(total) = device.total_bytes.map(signed) else {
        let hint = "the driver told no total for this device; plan with a declared one".into();
        return Err(Error::NoRoom { total_bytes: 0, taken_bytes: 0, hint });
    };
    let mut sum = Sum::new(basis);
    sum.put(TermName::Total, total, Origin::Measured, "as the driver tells");
    match &device.balance {
        // Where the driver's allocations go unseen, an allocator may still tell of its own.
        Some(balance) if !device.allocations_unseen || device.framework.is_some() => {
            balanced::fill(&mut sum, device, balance);
        }
        _ => polled::fill(&mut sum, device),
    }
    Ok(sum.solve())
}

/// Bytes as a term; no device has 2^63.
pub(super) fn signed(bytes: Bytes) -> i64 {
    i64::try_from(bytes.0).unwrap_or(i64::MAX)
}
