//! LightLLM's router: the peak of the running sequences and the head, each at its estimated length,
//! must fit. The estimate is the moving average of finished outputs, or 1.1 times what the sequence
//! has by now; above a ratio of blocks in use it is the declared maximum. With ratio 0 it always
//! is, and nothing can run out.

use super::peak::Peak;
use super::{Answer, Leaving, Policy, View};
use crate::replay::sequence::Sequence;

/// LightLLM's default for the share of the cache in use above which maxima count.
pub(crate) const BUSY_RATIO: f64 = 0.85;

/// The moving average: where it begins, how much a finished output weighs at first, at last, and
/// how the weight shrinks; shorter outputs count as this long.
const AVERAGE_FIRST: f64 = 2048.0;
const WEIGHT_FIRST: f64 = 0.5;
const WEIGHT_LAST: f64 = 0.04;
const WEIGHT_SHRINK: f64 = 0.8;
const OUTPUT_TOKENS_MIN: u32 = 64;

/// A running sequence is estimated at no less than so much of what it has.
const OUTGROWN: f64 = 1.1;

/// See the module.
#[derive(Debug)]
pub(crate) struct LightLlm {
    busy_ratio: f64,
    average: f64,
    weight: f64,
    peak: Peak,
}

impl LightLlm {
    /// With so much in use, maxima count.
    pub(crate) fn new(busy_ratio: f64) -> Self {
        let (average, weight) = (AVERAGE_FIRST, WEIGHT_FIRST);
        Self { busy_ratio, average, weight, peak: Peak::default() }
    }

    fn left(&self, sequence: &Sequence, is_busy: bool) -> u32 {
        if is_busy {
            return sequence.declared_left();
        }
        let outgrown = (OUTGROWN * f64::from(sequence.generated)) as u32;
        let output = outgrown.max(self.average as u32).min(sequence.declared);
        output.saturating_sub(sequence.generated).max(1)
    }
}

impl Policy for LightLlm {
    fn admit(&mut self, head: &Sequence, view: &View<'_>) -> Answer {
        if !view.fits_now(head) {
            return Answer::Wait;
        }
        if view.running.is_empty() {
            return Answer::Admit;
        }
        let used = view.total_blocks - view.free_blocks;
        let is_busy = f64::from(used) > self.busy_ratio * f64::from(view.total_blocks);
        self.peak.clear();
        for sequence in view.running {
            let left = self.left(sequence, is_busy);
            self.peak.running(sequence, left);
        }
        let left = self.left(head, is_busy);
        let peak = self.peak.with(head, left, view);
        if peak <= u64::from(view.total_blocks) { Answer::Admit } else { Answer::Wait }
    }

    fn leaves(&mut self, sequence: &Sequence, leaving: Leaving) {
        if leaving == Leaving::Finished {
            let output = f64::from(sequence.generated.max(OUTPUT_TOKENS_MIN));
            self.average += (output - self.average) * self.weight;
            self.weight = (self.weight * WEIGHT_SHRINK).max(WEIGHT_LAST);
        }
    }
}
