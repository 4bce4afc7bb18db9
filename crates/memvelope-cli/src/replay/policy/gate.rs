//! The gate that memvelope ships, behind the interface of the others: one lease for each running
//! sequence, taken by `try_admit`, grown block by block, released when the sequence leaves.

use super::{Answer, Growth, Leaving, Policy, Setup, View};
use crate::failure::{Failure, Outcome};
use crate::replay::sequence::Sequence;
use memvelope::admission::{Gate, GateConfig, Lease, Reason};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};

/// See the module.
#[derive(Debug)]
pub(crate) struct Gated {
    gate: Gate,
    /// By number of the request.
    leases: Vec<Option<Lease>>,
}

impl Gated {
    /// Policy `Guaranteed`: all claims fit.
    ///
    /// # Errors
    /// The gate refuses its configuration.
    pub(crate) fn guaranteed(setup: &Setup) -> Outcome<Self> {
        Self::open(setup, config(setup)?)
    }

    fn open(setup: &Setup, config: GateConfig) -> Outcome<Self> {
        let leases = (0..setup.jobs).map(|_| None).collect();
        Ok(Self { gate: Gate::new(config)?, leases })
    }
}

/// What every policy of the gate is told: the whole cache, and the longest sequence.
fn config(setup: &Setup) -> Outcome<GateConfig> {
    let curve = CostCurve::new(setup.block_tokens, 0)
        .ok_or_else(|| Failure::bad("--block-tokens: 0 is no block\nhint: 16 is usual"))?;
    Ok(GateConfig {
        max_tokens: Some(Tokens(u64::from(setup.sequence_tokens))),
        ..GateConfig::new(Blocks(u64::from(setup.total_blocks)), curve)
    })
}

/// What a refusal means for the queue.
fn answer(reason: Reason) -> Answer {
    match reason {
        Reason::NoCapacity | Reason::Overcommitted => Answer::Wait,
        _ => Answer::Never,
    }
}

impl Policy for Gated {
    fn tick(&mut self, now_s: f64, _running: &[Sequence]) {
        self.gate.tick(Nanos((now_s * Nanos::SECOND as f64) as u64));
    }

    fn admit(&mut self, head: &Sequence, _view: &View<'_>) -> Answer {
        let declared = Tokens(u64::from(head.declared_left()));
        match self.gate.try_admit(Tokens(u64::from(head.target)), Some(declared), None) {
            Ok(lease) => {
                self.leases[head.job as usize] = Some(lease);
                Answer::Admit
            }
            Err(rejection) => answer(rejection.reason),
        }
    }

    fn grow(&mut self, sequence: &Sequence) -> Growth {
        let Some(lease) = &mut self.leases[sequence.job as usize] else { return Growth::Wait };
        // The gate hears of tokens when they need a block, as engines have it.
        let tokens = Tokens(u64::from(sequence.kv) + 1).saturating_sub(lease.tokens());
        match lease.grow(tokens) {
            Ok(_) => Growth::Granted,
            // Not before the declared maximum, which outputs keep to.
            Err(_) => Growth::Wait,
        }
    }

    fn leaves(&mut self, sequence: &Sequence, _leaving: Leaving) {
        self.leases[sequence.job as usize] = None;
    }
}
