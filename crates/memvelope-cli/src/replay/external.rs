//! The external check: preemptions that were measured on vLLM against those that the simulation
//! finds, with nothing tuned to them.
//!
//! Measured: <https://github.com/vllm-project/vllm/pull/44594>, Qwen2.5-7B on one GB200.

use super::Args;
use super::report::{Report, Speed};
use super::run::Plan;
use crate::failure::Outcome;
use serde::Serialize;
use std::time::Instant;

/// Watermark, preemptions and output tokens a second, as measured.
const MEASURED: [(f64, f64, f64); 4] = [
    (0.0, 1065.0, 11_582.0),
    (0.02, 400.0, 12_134.0),
    (0.05, 187.0, 12_167.0),
    (0.10, 168.0, 11_835.0),
];

/// How far a simulated number of preemptions may be off. One run was measured at each watermark,
/// and runs of the simulation differ by some 5 % between seeds.
const TOLERANCE: f64 = 0.25;

/// What the check came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct External {
    pub(crate) rows: Vec<Row>,
    /// Every number of preemptions within the tolerance, and all in the measured order.
    pub(crate) is_close: bool,
    pub(crate) tolerance_percent: f64,
}

/// One watermark.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) watermark: f64,
    pub(crate) preemptions_measured: f64,
    pub(crate) preemptions: f64,
    pub(crate) output_tokens_per_s_measured: f64,
    pub(crate) output_tokens_per_s: f64,
}

impl Row {
    /// How far the preemptions are off, in percent.
    pub(crate) fn preemptions_off_percent(&self) -> f64 {
        100.0 * (self.preemptions / self.preemptions_measured - 1.0)
    }
}

/// Runs the check.
///
/// # Errors
/// Bad input.
pub(crate) fn check(args: &Args) -> Outcome<Report> {
    let mut plan = Plan::new(args)?;
    let begin = Instant::now();
    let mut steps = 0.0;
    let mut rows = Vec::new();
    for (watermark, preemptions_measured, output_tokens_per_s_measured) in MEASURED {
        let figures = plan.vllm_at(watermark)?;
        steps += figures.steps * f64::from(args.seeds);
        rows.push(Row {
            watermark,
            preemptions_measured,
            preemptions: figures.preemptions,
            output_tokens_per_s_measured,
            output_tokens_per_s: figures.output_tokens_per_s,
        });
    }
    let is_ordered = rows.is_sorted_by(|a, b| a.preemptions > b.preemptions);
    let is_near = |row: &Row| row.preemptions_off_percent().abs() <= 100.0 * TOLERANCE;
    let is_close = is_ordered && rows.iter().all(is_near);
    let speed = Speed::new(std::iter::once(("vllm", steps, begin.elapsed())));
    let mut report = plan.report(speed);
    report.external = Some(External { rows, is_close, tolerance_percent: 100.0 * TOLERANCE });
    Ok(report)
}
