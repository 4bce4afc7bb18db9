//! vLLM's V1 scheduler, first come first served: a waiting or preempted request starts when the
//! blocks of everything it has so far (not its maximum) fit, with a watermark of blocks left over
//! if something already runs. When a running sequence finds no block, the newest one is preempted
//! and recomputed later; a step that preempted admits nobody.

use super::{Answer, Policy, View};
use crate::replay::sequence::Sequence;

/// See the module.
#[derive(Debug)]
pub(crate) struct Vllm {
    watermark_blocks: u32,
}

impl Vllm {
    /// `watermark` is a share of all blocks; vLLM's default is 0.
    pub(crate) fn new(watermark: f64, total_blocks: u32) -> Self {
        Self { watermark_blocks: (watermark * f64::from(total_blocks)) as u32 }
    }
}

impl Policy for Vllm {
    fn admit(&mut self, head: &Sequence, view: &View<'_>) -> Answer {
        let kept = if view.running.is_empty() { 0 } else { self.watermark_blocks };
        let needed = head.target.div_ceil(view.block_tokens) + kept;
        if needed <= view.free_blocks { Answer::Admit } else { Answer::Wait }
    }
}
