//! Admission policies: each decides from what its original sees, at the original's defaults. All
//! run in the same engine, so that they differ in their decisions alone.

pub(crate) mod gate;
pub(crate) mod lightllm;
pub(crate) mod oracle;
pub(crate) mod past_future;
pub(crate) mod peak;
pub(crate) mod sglang;
pub(crate) mod static_max;
pub(crate) mod sum_max;
pub(crate) mod vllm;

use super::sequence::Sequence;
use crate::failure::{Failure, Outcome};
use gate::Gated;
use lightllm::LightLlm;
use memvelope::admission::Estimate;
use oracle::Oracle;
use past_future::PastFuture;
use sglang::SgLang;
use static_max::StaticMax;
use sum_max::SumMax;
use vllm::Vllm;

/// What a policy may look at when it is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// Bound sequences, in the order in which they were admitted.
    pub(crate) running: &'a [Sequence],
    /// How many of them, the last, were admitted in this step.
    pub(crate) new: usize,
    /// Blocks that nobody holds.
    pub(crate) free_blocks: u32,
    /// Blocks that there are.
    pub(crate) total_blocks: u32,
    /// Tokens of a block.
    pub(crate) block_tokens: u32,
    /// Prompt tokens that this step still has room for, and that a whole step has.
    pub(crate) prefill_left_tokens: u32,
    pub(crate) prefill_budget_tokens: u32,
}

impl View<'_> {
    /// Whether the head's prompt fits what is free.
    pub(crate) fn fits_now(&self, head: &Sequence) -> bool {
        head.target.div_ceil(self.block_tokens) <= self.free_blocks
    }

    /// Whether nobody runs and the head fits: servers let such a request in whatever they estimate,
    /// for it would wait for ever.
    pub(crate) fn is_alone(&self, head: &Sequence) -> bool {
        self.running.is_empty() && self.fits_now(head)
    }
}

/// Whether the head of the queue may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It may; the engine binds its prompt's blocks.
    Admit,
    /// Not in this step.
    Wait,
    /// Never: it is dropped.
    Never,
}

/// Whether a sequence may take one block more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// It may, if there is one.
    Granted,
    /// It pauses for this step, keeps what it has, and asks again in the next one.
    Wait,
}

/// Why a sequence no longer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It has all its output.
    Finished,
    /// Its KV was taken from it; it is at the head of the queue again.
    Preempted,
}

/// An admission policy of a single replica.
pub(crate) trait Policy {
    /// A step begins at this time.
    fn tick(&mut self, _now_s: f64, _running: &[Sequence]) {}

    /// May the head of the queue start in this step? Asked only while prefill budget is left.
    fn admit(&mut self, head: &Sequence, view: &View<'_>) -> Answer;

    /// May this sequence take one more block? Those that preempt always say yes.
    fn grow(&mut self, _sequence: &Sequence) -> Growth {
        Growth::Granted
    }

    /// Which of the running sequences to preempt when a step needs more blocks than there are: the
    /// newest, unless the original has another rule.
    fn victim(&self, running: &[Sequence]) -> usize {
        running.len() - 1
    }

    /// Blocks that must be free before preemption ends, beside those that the step needs.
    fn spare_blocks(&self, _running: &[Sequence], _block_tokens: u32) -> u32 {
        0
    }

    /// The step preempted: these go on.
    fn retracted(&mut self, _left: &[Sequence]) {}

    /// A sequence no longer runs.
    fn leaves(&mut self, _sequence: &Sequence, _leaving: Leaving) {}
}

/// The policies by name, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    StaticMax,
    SumMax,
    LightLlmZero,
    LightLlm,
    SgLang,
    Vllm,
    PastFuture,
    PastFutureKept,
    Guaranteed,
    Optimistic,
    Banker,
    BankerAlone,
    Oracle,
}

/// What policies are set up with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Blocks that there are, and tokens of one.
    pub(crate) total_blocks: u32,
    pub(crate) block_tokens: u32,
    /// Longest sequence that the server takes.
    pub(crate) sequence_tokens: u32,
    /// vLLM's watermark, a share of all blocks.
    pub(crate) watermark: f64,
    /// Seed of what a policy draws.
    pub(crate) seed: u64,
    /// Requests of the workload.
    pub(crate) jobs: usize,
}

impl Kind {
    /// Every policy, with its name and what it does.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 13] = [
        (Self::StaticMax, "static", "reserve the longest sequence the server takes"),
        (Self::SumMax, "sum", "reserve prompt + declared maximum (TensorRT-LLM, no evict)"),
        (Self::LightLlmZero, "lightllm-0", "LightLLM, ratio 0: peak of declared maxima"),
        (Self::LightLlm, "lightllm", "LightLLM, default: peak at the average output length"),
        (Self::SgLang, "sglang", "SGLang: a share of what is declared; retracts"),
        (Self::Vllm, "vllm", "vLLM: the prompt must fit; preempts the newest"),
        (Self::PastFuture, "past-future", "Past-Future: peak of outputs drawn from the past"),
        (Self::PastFutureKept, "past-future-5", "the same, 5 % of the blocks kept back"),
        (Self::Guaranteed, "guaranteed", "memvelope's gate, policy Guaranteed"),
        (
            Self::Optimistic,
            "optimistic",
            "memvelope's gate, policy Optimistic; preempts the newest",
        ),
        (Self::Banker, "banker", "memvelope's gate, policy Banker with its estimate"),
        (Self::BankerAlone, "banker-alone", "the same without the estimate"),
        (Self::Oracle, "oracle", "first come first served, knowing every length"),
    ];

    /// As `--policies` takes it and the table shows it.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("?", |(_, name, _)| name)
    }

    /// The policy of a name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(name: &str) -> Outcome<Self> {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == name);
        found.map(|(kind, ..)| *kind).ok_or_else(|| {
            let known = Self::ALL.map(|(_, name, _)| name).join(",");
            Failure::bad(format!(
                "--policies: there is no policy {name:?}\nhint: known: {known}; or leave the \
                 option out for all of them"
            ))
        })
    }

    /// A fresh policy of this kind.
    ///
    /// # Errors
    /// The gate refuses its configuration.
    pub(crate) fn open(self, setup: &Setup) -> Outcome<Box<dyn Policy>> {
        Ok(match self {
            Self::StaticMax => Box::new(StaticMax::new(setup.sequence_tokens)),
            Self::SumMax => Box::new(SumMax::default()),
            Self::LightLlmZero => Box::new(LightLlm::new(0.0)),
            Self::LightLlm => Box::new(LightLlm::new(lightllm::BUSY_RATIO)),
            Self::SgLang => Box::new(SgLang::default()),
            Self::Vllm => Box::new(Vllm::new(setup.watermark, setup.total_blocks)),
            Self::PastFuture => Box::new(PastFuture::new(0.0, setup)),
            Self::PastFutureKept => Box::new(PastFuture::new(past_future::KEPT, setup)),
            Self::Guaranteed => Box::new(Gated::guaranteed(setup)?),
            Self::Optimistic => Box::new(Gated::optimistic(setup)?),
            Self::Banker => Box::new(Gated::banker(setup, Some(Estimate::default()))?),
            Self::BankerAlone => Box::new(Gated::banker(setup, None)?),
            Self::Oracle => Box::new(Oracle::default()),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
