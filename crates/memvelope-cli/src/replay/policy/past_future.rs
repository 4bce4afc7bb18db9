//! Past-Future (arXiv 2507.10150): the length of each running sequence is drawn, in every step,
//! from the lengths of past outputs that are longer than what it has; the head starts when the peak
//! of the drawn future fits. Where the past says nothing, the declared maximum counts.

use super::peak::Peak;
use super::{Answer, Leaving, Policy, Setup, View};
use crate::replay::sequence::Sequence;
use rand::RngExt;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;
use std::collections::VecDeque;

/// Share of the blocks that the paper keeps back in its safer setting.
pub(crate) const KEPT: f64 = 0.05;

/// Past outputs that are remembered: the paper's window.
const PAST_MAX: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(crate) struct PastFuture {
    usable_blocks: u64,
    random: Pcg64,
    /// Past output lengths in order of time, and sorted.
    past: VecDeque<u32>,
    sorted: Vec<u32>,
    peak: Peak,
}

impl PastFuture {
    /// Keeps a share of the blocks back.
    pub(crate) fn new(kept: f64, setup: &Setup) -> Self {
        Self {
            usable_blocks: (f64::from(setup.total_blocks) * (1.0 - kept)) as u64,
            random: Pcg64::seed_from_u64(setup.seed),
            past: VecDeque::new(),
            sorted: Vec::new(),
            peak: Peak::default(),
        }
    }

    /// Output tokens that the sequence is drawn to have left.
    fn draw_left(&mut self, sequence: &Sequence) -> u32 {
        let first = self.sorted.partition_point(|output| *output <= sequence.generated);
        let longer = &self.sorted[first..];
        let output = if longer.is_empty() {
            sequence.declared
        } else {
            // A high product instead of a remainder: the bias is one in 2^32 / 1000.
            let at = (u64::from(self.random.random::<u32>()) * longer.len() as u64) >> 32;
            longer[at as usize].min(sequence.declared)
        };
        output.saturating_sub(sequence.generated).max(1)
    }

    fn remember(&mut self, output: u32) {
        if self.past.len() == PAST_MAX
            && let Some(oldest) = self.past.pop_front()
        {
            let at = self.sorted.partition_point(|known| *known < oldest);
            self.sorted.remove(at);
        }
        self.past.push_back(output);
        let at = self.sorted.partition_point(|known| *known < output);
        self.sorted.insert(at, output);
    }
}

impl Policy for PastFuture {
    fn admit(&mut self, head: &Sequence, view: &View<'_>) -> Answer {
        if !view.fits_now(head) {
            return Answer::Wait;
        }
        if view.running.is_empty() {
            return Answer::Admit;
        }
        self.peak.clear();
        for sequence in view.running {
            let left = self.draw_left(sequence);
            self.peak.running(sequence, left);
        }
        let left = self.draw_left(head);
        let peak = self.peak.with(head, left, view);
        if peak <= self.usable_blocks { Answer::Admit } else { Answer::Wait }
    }

    fn leaves(&mut self, sequence: &Sequence, leaving: Leaving) {
        if leaving == Leaving::Finished {
            self.remember(sequence.generated);
        }
    }
}
