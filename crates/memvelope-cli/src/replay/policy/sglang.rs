//! SGLang: the head starts when its prompt and its maximum (at most [`CLIP_TOKENS`]) are less than
//! what is free beyond a share of what the running sequences may still produce. The share decays
//! while nothing goes wrong. When a step finds no blocks, sequences with the fewest output tokens
//! are retracted until the others have room for [`RETRACT_STEPS`] steps.

use super::{Answer, Policy, View};
use crate::replay::sequence::Sequence;
use std::cmp::Reverse;

/// Most output tokens that a request is estimated at: `SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION`.
const CLIP_TOKENS: u32 = 4096;

/// The share at the start, at its lowest, and the steps from one to the other:
/// `SGLANG_INIT_NEW_TOKEN_RATIO`, times `..._MIN_NEW_TOKEN_RATIO_FACTOR` (0.14), and
/// `..._NEW_TOKEN_RATIO_DECAY_STEPS`.
const RATIO_FIRST: f64 = 0.7;
const RATIO_LAST: f64 = 0.098;
const DECAY_STEPS: f64 = 600.0;

/// Steps for which a retraction makes room: `SGLANG_RETRACT_DECODE_STEPS`.
const RETRACT_STEPS: u32 = 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct SgLang {
    ratio: f64,
}

impl Default for SgLang {
    fn default() -> Self {
        Self { ratio: RATIO_FIRST }
    }
}

fn may_produce(sequence: &Sequence) -> u64 {
    u64::from(sequence.declared_left().min(CLIP_TOKENS))
}

impl Policy for SgLang {
    fn tick(&mut self, _now_s: f64, running: &[Sequence]) {
        self.ratio = if running.is_empty() {
            RATIO_FIRST
        } else {
            (self.ratio - (RATIO_FIRST - RATIO_LAST) / DECAY_STEPS).max(RATIO_LAST)
        };
    }

    fn admit(&mut self, head: &Sequence, view: &View<'_>) -> Answer {
        if view.is_alone(head) {
            return Answer::Admit;
        }
        let (older, new) = view.running.split_at(view.running.len() - view.new);
        // What was admitted in this very step counts whole.
        let expected = self.ratio * older.iter().map(may_produce).sum::<u64>() as f64
            + new.iter().map(may_produce).sum::<u64>() as f64;
        let prompt = u64::from(head.target.next_multiple_of(view.block_tokens));
        let free = u64::from(view.free_blocks) * u64::from(view.block_tokens);
        let wanted = (prompt + may_produce(head)) as f64;
        if wanted < free as f64 - expected { Answer::Admit } else { Answer::Wait }
    }

    fn victim(&self, running: &[Sequence]) -> usize {
        // Fewest output tokens; among those the longest prompt, and then the newest.
        let order = |index: &usize| {
            let sequence = &running[*index];
            (sequence.generated, Reverse(sequence.prompt), Reverse(*index))
        };
        (0..running.len()).min_by_key(order).unwrap_or_default()
    }

    fn spare_blocks(&self, running: &[Sequence], block_tokens: u32) -> u32 {
        (running.len() as u32 * RETRACT_STEPS).div_ceil(block_tokens)
    }

    fn retracted(&mut self, left: &[Sequence]) {
        let emitted: u64 = left.iter().map(|sequence| u64::from(sequence.generated)).sum();
        let soon = u64::from(RETRACT_STEPS) * left.len() as u64;
        let declared: u64 = left.iter().map(|sequence| u64::from(sequence.declared)).sum();
        self.ratio = ((emitted + soon) as f64 / (declared + 1) as f64).min(1.0);
    }
}

#[cfg(test)]
impl SgLang {
    pub(crate) fn ratio(&self) -> f64 {
        self.ratio
    }
}
