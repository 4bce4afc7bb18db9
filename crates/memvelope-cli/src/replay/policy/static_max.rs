//! Static reservation: every sequence gets the blocks of the longest one that the server takes, as
//! engines did before paged caches.

use super::{Answer, Policy, View};
use crate::replay::sequence::Sequence;

/// See the module.
#[derive(Debug)]
pub(crate) struct StaticMax {
    sequence_tokens: u32,
}

impl StaticMax {
    /// Reserves so many tokens for each.
    pub(crate) const fn new(sequence_tokens: u32) -> Self {
        Self { sequence_tokens }
    }
}

impl Policy for StaticMax {
    fn admit(&mut self, _head: &Sequence, view: &View<'_>) -> Answer {
        let each = u64::from(self.sequence_tokens.div_ceil(view.block_tokens));
        let wanted = each * (view.running.len() as u64 + 1);
        if wanted <= u64::from(view.total_blocks) { Answer::Admit } else { Answer::Wait }
    }
}
