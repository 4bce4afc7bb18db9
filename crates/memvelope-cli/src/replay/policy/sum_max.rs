//! Sum of maxima: blocks for the prompt and the declared maximum of every running sequence fit.
//! TensorRT-LLM's `GUARANTEED_NO_EVICT`. Nothing can run out.

use super::{Answer, Leaving, Policy, View};
use crate::replay::sequence::Sequence;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SumMax {
    /// Blocks reserved.
    reserved: u64,
    /// Tokens of a block, as the last question had it.
    block_tokens: u32,
}

fn claim(sequence: &Sequence, block_tokens: u32) -> u64 {
    u64::from((sequence.prompt + sequence.declared).div_ceil(block_tokens))
}

impl Policy for SumMax {
    fn admit(&mut self, head: &Sequence, view: &View<'_>) -> Answer {
        self.block_tokens = view.block_tokens;
        let claim = claim(head, view.block_tokens);
        if self.reserved + claim > u64::from(view.total_blocks) {
            return Answer::Wait;
        }
        self.reserved += claim;
        Answer::Admit
    }

    fn leaves(&mut self, sequence: &Sequence, _leaving: Leaving) {
        self.reserved -= claim(sequence, self.block_tokens);
    }
}
