//! Progress to stderr: a bar on a terminal, a line now and then elsewhere.

use super::serve::Counts;
use crate::output;
use indicatif::{ProgressBar, ProgressStyle};
use memvelope::admission::Gate;
use memvelope::units::Blocks;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A terminal is redrawn, and elsewhere a line written, at most so often.
const REDRAW: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(10);

/// The clock is looked at every so many steps; a step takes microseconds on the simulated driver.
const STEPS_PER_LOOK: u64 = 64;

/// Shows how far a run is.
pub(crate) struct Progress {
    total: u64,
    capacity: Blocks,
    bar: Option<ProgressBar>,
    shown_at: Instant,
}

impl Progress {
    /// Progress over `total` requests.
    pub(crate) fn new(total: u64, capacity: Blocks) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} requests, {msg}");
            let bar = ProgressBar::new(total);
            // The template is ours; should it be wrong, the default style serves.
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { total, capacity, bar, shown_at: Instant::now() }
    }

    /// Hears of a step.
    pub(crate) fn show(&mut self, counts: &Counts, gate: &Gate) {
        if !counts.steps.is_multiple_of(STEPS_PER_LOOK) {
            return;
        }
        let period = if self.bar.is_some() { REDRAW } else { LINE };
        if self.shown_at.elapsed() < period {
            return;
        }
        self.shown_at = Instant::now();
        let usage = gate.usage();
        let share = |blocks: Blocks| blocks.0 * 100 / self.capacity.0.max(1);
        let message = format!(
            "{} refusals, {} CUDA OOMs, held {} %, claimed {} % of the budget",
            counts.rejected,
            counts.cuda_ooms,
            share(usage.held_blocks),
            share(usage.claimed_blocks)
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(counts.settled());
                bar.set_message(message);
            }
            None => {
                output::remark(&format!("{}/{} requests, {message}", counts.settled(), self.total));
            }
        }
    }

    /// Ends the display.
    pub(crate) fn finish(&self, counts: &Counts) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => output::remark(&format!("{}/{} requests", counts.settled(), self.total)),
        }
    }
}
