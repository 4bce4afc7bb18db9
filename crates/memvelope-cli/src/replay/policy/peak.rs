//! How many blocks a set of sequences will hold at most, if each emits a token in every step until
//! its (true, declared or estimated) end and nobody joins.

use crate::replay::sequence::Sequence;

/// Collects sequences, then tells their peak. Kept between questions for its memory.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    /// Steps to the end in the upper half, tokens held now in the lower: sorting the words sorts by
    /// end.
    entries: Vec<u64>,
    /// Sequences still there, by how many tokens their last block holds.
    by_rest: Vec<u32>,
}

/// A prompt that will not be through in its first step.
#[derive(Clone, Copy, Debug)]
struct Late {
    /// In which step it is, and what it holds until then.
    ready_step: u32,
    tokens: u32,
}

impl Peak {
    /// Forgets the sequences of the last question.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// A running sequence that will emit `left` tokens, the first in the coming step: it decodes,
    /// or its prompt is through by then.
    pub(crate) fn running(&mut self, sequence: &Sequence, left: u32) {
        // The last token emitted is not in the cache yet.
        self.push(sequence.prompt + sequence.generated - 1, left);
    }

    fn push(&mut self, tokens: u32, steps: u32) {
        self.entries.push(u64::from(steps) << 32 | u64::from(tokens));
    }

    /// Most blocks that the running sequences and `head` hold at once. `head` will emit `left`
    /// tokens, and its prompt is through after as many steps as the budget needs.
    pub(crate) fn with(&mut self, head: &Sequence, left: u32, view: &super::View<'_>) -> u64 {
        let rest = head.target.saturating_sub(view.prefill_left_tokens);
        let ready_step = 1 + rest.div_ceil(view.prefill_budget_tokens);
        self.push(head.target - ready_step.min(head.target), ready_step + left.max(1) - 1);
        self.blocks(view.block_tokens, Some(Late { ready_step, tokens: head.target }))
    }

    /// Between two ends usage only grows, so the peak is just before one of them.
    fn blocks(&mut self, block_tokens: u32, late: Option<Late>) -> u64 {
        self.entries.sort_unstable();
        self.by_rest.clear();
        self.by_rest.resize(block_tokens as usize, 0);
        let (mut whole, mut peak) = (0_u64, 0_u64);
        for (above, entry) in self.entries.iter().rev().enumerate() {
            let (steps, tokens) = ((entry >> 32) as u32, (entry & u64::from(u32::MAX)) as u32);
            whole += u64::from(tokens / block_tokens);
            self.by_rest[(tokens % block_tokens) as usize] += 1;
            // Who is still there after `steps` more tokens: this one and those before it. Each has
            // its whole blocks, and those that its last tokens and `steps` make together.
            let count = above as u64 + 1;
            let (turns, part) = (steps / block_tokens, (steps % block_tokens) as usize);
            let mut used = whole + count * u64::from(turns);
            used += if part == 0 {
                count - u64::from(self.by_rest[0])
            } else {
                let over = &self.by_rest[block_tokens as usize - part + 1..];
                count + u64::from(over.iter().sum::<u32>())
            };
            if let Some(late) = late.filter(|late| steps < late.ready_step) {
                let counted =
                    (late.tokens + steps).saturating_sub(late.ready_step).div_ceil(block_tokens);
                used += u64::from(late.tokens.div_ceil(block_tokens) - counted);
            }
            peak = peak.max(used);
        }
        peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::policy::tests::{running, view, waiting};
    use rand::RngExt;
    use rand_pcg::Pcg64;
    use rand_pcg::rand_core::SeedableRng;

    /// Step by step, as the engine does it.
    fn walked(all: &[Sequence], head: &Sequence, left: u32, budget_left: u32, budget: u32) -> u64 {
        let mut todo = head.target.saturating_sub(budget_left);
        let mut ready_step = 1;
        while todo > 0 {
            todo = todo.saturating_sub(budget);
            ready_step += 1;
        }
        let mut peak = 0;
        for step in 1..1000_u32 {
            let held = |tokens: u32| u64::from(tokens.div_ceil(16));
            let mut used = 0;
            for sequence in all {
                if step <= sequence.output - sequence.generated {
                    used += held(sequence.prompt + sequence.generated - 1 + step);
                }
            }
            if step < ready_step + left {
                used += held(head.target + step.saturating_sub(ready_step));
            }
            peak = peak.max(used);
        }
        peak
    }

    #[test]
    fn the_peak_is_what_a_walk_finds() {
        let mut random = Pcg64::seed_from_u64(1);
        for _ in 0..500 {
            let count = random.random_range(0..12);
            let all: Vec<_> = (0..count)
                .map(|_| {
                    let output = random.random_range(2..200_u32);
                    running(random.random_range(1..100), output, random.random_range(1..output))
                })
                .collect();
            let head = waiting(random.random_range(1..100), random.random_range(1..100));
            let budget_left = random.random_range(1..40);
            let mut peak = Peak::default();
            for sequence in &all {
                peak.running(sequence, sequence.output - sequence.generated);
            }
            let mut seen = view(&all, 1000, 1000);
            (seen.prefill_left_tokens, seen.prefill_budget_tokens) = (budget_left, 40);
            let got = peak.with(&head, head.output, &seen);
            assert_eq!(got, walked(&all, &head, head.output, budget_left, 40), "{all:?} {head:?}");
        }
    }
}
