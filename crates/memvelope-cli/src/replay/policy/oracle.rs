//! The oracle: first come first served, and it knows how long every output will be. The head starts
//! when the exact future peak of all, step by step, fits. Nothing can run out. It is the yardstick
//! of the table, not an upper bound: another order may do better.

use super::peak::Peak;
use super::{Answer, Policy, View};
use crate::replay::sequence::Sequence;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    peak: Peak,
}

impl Policy for Oracle {
    fn admit(&mut self, head: &Sequence, view: &View<'_>) -> Answer {
        if !view.fits_now(head) {
            return Answer::Wait;
        }
        self.peak.clear();
        for sequence in view.running {
            self.peak.running(sequence, sequence.output - sequence.generated);
        }
        let peak = self.peak.with(head, head.output - head.generated, view);
        if peak <= u64::from(view.total_blocks) { Answer::Admit } else { Answer::Wait }
    }
}
