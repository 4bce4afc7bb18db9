//! The report as JSON: field names end in their unit.

use super::Args;
use super::engine::Rules;
use super::external::External;
use super::machine::Machine;
use super::metrics::Figures;
use super::workload::{Limits, Workload};
use serde::Serialize;
use std::time::Duration;

/// Everything that was run, and what it came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// What was replayed.
    pub(crate) source: Source,
    /// On what.
    pub(crate) machine: Machine,
    /// Under which rules.
    pub(crate) settings: Settings,
    /// Means over the seeds, by load.
    pub(crate) loads: Vec<Load>,
    /// The comparison with measurements, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) external: Option<External>,
    /// How fast the simulation was: all else here is the same in every run.
    pub(crate) speed: Speed,
}

impl Report {
    /// As indented JSON.
    ///
    /// # Errors
    /// Never, as far as we know: every field is plain.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// What was replayed. Lengths are those after cutting; counts are sums over the seeds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Source {
    /// The file, or the built-in workload.
    pub(crate) name: String,
    /// Requests that were replayed by each policy at each load.
    pub(crate) requests: u64,
    /// Rows left out because a count is zero, negative or absurd.
    pub(crate) senseless: u64,
    /// Rows left out because the prompt leaves no room for output.
    pub(crate) too_long: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    /// What the oracle makes of a backlog: load 1.0. Mean over the seeds; 0 in a closed loop.
    pub(crate) backlog_req_per_s: f64,
}

impl Source {
    /// Counts one seed's requests.
    pub(crate) fn add(&mut self, workload: &Workload) {
        self.requests += workload.jobs.len() as u64;
        self.senseless += workload.senseless;
        self.too_long += workload.too_long;
        for job in &workload.jobs {
            self.prompt_tokens += u64::from(job.prompt_tokens);
            self.output_tokens += u64::from(job.output_tokens);
        }
    }

    /// Rows that were left out.
    pub(crate) const fn skipped(&self) -> u64 {
        self.senseless + self.too_long
    }
}

/// Under which rules.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) block_tokens: u32,
    pub(crate) total_blocks: u32,
    pub(crate) max_batch: u32,
    pub(crate) prefill_budget_tokens: u32,
    /// Absent: clients wait for ever.
    pub(crate) timeout_factor: Option<f64>,
    /// What every client declares; absent where clients declare nothing, or each what it needs.
    pub(crate) max_tokens: Option<u32>,
    /// What the policies count with where clients declare nothing; outputs are cut there.
    pub(crate) server_cap_tokens: Option<u32>,
    /// Longest sequence that the server takes.
    pub(crate) sequence_tokens: u32,
    pub(crate) vllm_watermark: f64,
    pub(crate) seeds: u32,
}

impl Settings {
    /// From what was given.
    pub(crate) fn new(args: &Args, rules: &Rules, limits: Limits) -> Self {
        let is_declared = args.max_tokens != "none";
        let cut = (!args.is_synchronised()).then_some(limits.declared_tokens);
        Self {
            block_tokens: rules.block_tokens,
            total_blocks: rules.total_blocks,
            max_batch: rules.max_batch,
            prefill_budget_tokens: rules.prefill_budget_tokens,
            timeout_factor: rules.timeout_factor,
            max_tokens: cut.filter(|_| is_declared),
            server_cap_tokens: cut.filter(|_| !is_declared),
            sequence_tokens: limits.sequence_tokens,
            vllm_watermark: args.watermark,
            seeds: args.seeds,
        }
    }
}

/// Every policy at one load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Load {
    /// Arrivals as a multiple of the oracle's backlog throughput; absent in a closed loop.
    pub(crate) load: Option<f64>,
    pub(crate) policies: Vec<PolicyFigures>,
}

/// One policy at one load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PolicyFigures {
    pub(crate) policy: &'static str,
    /// Goodput as a share of the oracle's; absent where that is zero.
    pub(crate) goodput_of_oracle: Option<f64>,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// How fast the simulation was.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Speed {
    pub(crate) steps: f64,
    pub(crate) wall_s: f64,
    pub(crate) steps_per_s: f64,
    pub(crate) policies: Vec<PolicySpeed>,
}

/// How fast one policy was.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PolicySpeed {
    pub(crate) policy: &'static str,
    pub(crate) steps_per_s: f64,
}

impl Speed {
    /// Of so many steps in so much time, by policy.
    pub(crate) fn new(rows: impl Iterator<Item = (&'static str, f64, Duration)>) -> Self {
        let per_second = |steps: f64, wall_s: f64| if wall_s > 0.0 { steps / wall_s } else { 0.0 };
        let mut speed = Self::default();
        for (policy, steps, time) in rows {
            let wall_s = time.as_secs_f64();
            speed.steps += steps;
            speed.wall_s += wall_s;
            speed.policies.push(PolicySpeed { policy, steps_per_s: per_second(steps, wall_s) });
        }
        speed.steps_per_s = per_second(speed.steps, speed.wall_s);
        speed
    }
}
