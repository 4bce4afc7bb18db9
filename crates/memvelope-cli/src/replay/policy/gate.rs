//! The gate that memvelope ships, behind the interface of the others: one lease for each running
//! sequence, taken by `try_admit`, grown block by block, released when the sequence leaves.

use super::{Answer, Growth, Leaving, Policy, Setup, View};
use crate::failure::{Failure, Outcome};
use crate::replay::sequence::Sequence;
use memvelope::admission::{self, Estimate, Gate, GateConfig, Lease, Rejection, Request};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};

/// See the module.
#[derive(Debug)]
pub(crate) struct Gated {
    gate: Gate,
    /// By number of the request.
    leases: Vec<Option<Lease>>,
    /// Names of classes by number: the gate tells them apart, and needs no better ones.
    classes: Vec<String>,
    /// The engine preempts when a lease must wait, instead of pausing its sequence; those that wait
    /// for that in this step, with the tokens that they want.
    is_preempting: bool,
    waiting: Vec<(u32, Tokens)>,
}

fn name_of(classes: &mut Vec<String>, class: usize) -> &str {
    while classes.len() <= class {
        classes.push(classes.len().to_string());
    }
    &classes[class]
}

impl Gated {
    /// Policy `Guaranteed`: all claims fit.
    ///
    /// # Errors
    /// The gate refuses its configuration.
    pub(crate) fn guaranteed(setup: &Setup) -> Outcome<Self> {
        let policy = admission::Policy::Guaranteed;
        Self::open(setup, GateConfig { policy, ..config(setup)? })
    }

    /// Policy `Banker`, with the estimate or without.
    ///
    /// # Errors
    /// The gate refuses its configuration.
    pub(crate) fn banker(setup: &Setup, estimate: Option<Estimate>) -> Outcome<Self> {
        Self::open(setup, GateConfig { estimate, ..config(setup)? })
    }

    /// Policy `Optimistic`, which leaves it to the engine to preempt.
    ///
    /// # Errors
    /// The gate refuses its configuration.
    pub(crate) fn optimistic(setup: &Setup) -> Outcome<Self> {
        let policy = admission::Policy::Optimistic { watermark: setup.watermark };
        let gated = Self::open(setup, GateConfig { policy, ..config(setup)? })?;
        Ok(Self { is_preempting: true, ..gated })
    }

    fn open(setup: &Setup, config: GateConfig) -> Outcome<Self> {
        let leases = (0..setup.jobs).map(|_| None).collect();
        let (classes, waiting) = (Vec::new(), Vec::new());
        Ok(Self { gate: Gate::new(config)?, leases, classes, is_preempting: false, waiting })
    }
}

/// What every policy of the gate is told: the whole cache, and the longest sequence.
fn config(setup: &Setup) -> Outcome<GateConfig> {
    let curve = CostCurve::new(setup.block_tokens, 0)
        .ok_or_else(|| Failure::bad("--block-tokens: 0 is no block\nhint: 16 is usual"))?;
    let longest = Tokens(u64::from(setup.sequence_tokens));
    Ok(GateConfig::new(Blocks(u64::from(setup.total_blocks)), curve, longest))
}

/// What a refusal means for the queue.
fn answer(rejection: &Rejection) -> Answer {
    if rejection.reason.is_for_now() { Answer::Wait } else { Answer::Never }
}

impl Policy for Gated {
    fn tick(&mut self, now_s: f64, _running: &[Sequence]) {
        self.gate.tick(Nanos((now_s * Nanos::SECOND as f64) as u64));
    }

    fn admit(&mut self, head: &Sequence, _view: &View<'_>) -> Answer {
        let declared = Tokens(u64::from(head.declared_left()));
        let request = Request::new(Tokens(u64::from(head.target)), Some(declared));
        let request = match head.class {
            Some(class) => request.of_class(name_of(&mut self.classes, class as usize)),
            None => request,
        };
        match self.gate.try_admit(&request) {
            Ok(lease) => {
                self.leases[head.job as usize] = Some(lease);
                Answer::Admit
            }
            Err(rejection) => answer(&rejection),
        }
    }

    fn grow(&mut self, sequence: &Sequence) -> Growth {
        let Some(lease) = &mut self.leases[sequence.job as usize] else { return Growth::Wait };
        // The gate hears of tokens when they need a block, as engines have it.
        let tokens = Tokens(u64::from(sequence.kv) + 1).saturating_sub(lease.tokens());
        match lease.grow(tokens) {
            Ok(growth) if growth.is_granted() => Growth::Granted,
            _ if self.is_preempting => {
                self.waiting.push((sequence.job, tokens));
                Growth::Granted
            }
            // Not for the declared maximum, which outputs keep to.
            _ => Growth::Wait,
        }
    }

    fn leaves(&mut self, sequence: &Sequence, leaving: Leaving) {
        let Some(mut lease) = self.leases[sequence.job as usize].take() else { return };
        match leaving {
            Leaving::Preempted => {
                lease.preempt();
                let leases = &mut self.leases;
                self.waiting.retain(|&(job, tokens)| {
                    let lease = leases[job as usize].as_mut();
                    lease.is_some_and(|lease| lease.grow(tokens).is_ok_and(|g| !g.is_granted()))
                });
            }
            Leaving::Finished => {
                // The tokens in its last block, which the gate has not heard of yet: its length is
                // evidence for others. They have their block, so this neither waits nor fails.
                let tokens = Tokens(u64::from(sequence.kv)).saturating_sub(lease.tokens());
                let _ = lease.grow(tokens);
                lease.release();
            }
        }
    }
}
