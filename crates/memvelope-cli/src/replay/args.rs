//! Arguments of `memvelope replay`, and what they come to.

use super::engine::Rules;
use super::machine::Machine;
use super::policy::Kind;
use super::workload::Limits;
use crate::failure::{Failure, Outcome};
use std::path::PathBuf;

/// Prompt tokens of a step. Servers differ (2,048 to 16,384 on large devices); a small budget keeps
/// the time between tokens even, and is what the published comparison of policies used.
const PREFILL_BUDGET_TOKENS: u32 = 1024;

/// The same for the built-in workload: what vLLM's server takes on a device of this size.
const PREFILL_BUDGET_SYNCHRONISED_TOKENS: u32 = 8192;

/// Longest sequence of a server: what models of the day take.
const MAX_MODEL_LEN_TOKENS: u32 = 131_072;

/// The same for the built-in workload, as its benchmark was run.
const MAX_MODEL_LEN_SYNCHRONISED_TOKENS: u32 = 8192;

/// Most requests of a run, and most runs of a policy at a load: an hour's work.
const REQUESTS_MAX: usize = 10_000_000;
const SEEDS_MAX: u32 = 1000;

/// Most KV tokens of a machine, tokens of a block and sequences of a batch: past every device, and
/// products of them fit.
const KV_TOKENS_MAX: u32 = 1 << 30;
const BLOCK_TOKENS_MAX: u32 = 1 << 16;
const BATCH_MAX: u32 = 1 << 20;

/// Workloads that need no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Builtin {
    /// Many long outputs at once, lengths known: the benchmark of vLLM's pull request 44594.
    Synchronised,
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = super::table::policies())]
pub(crate) struct Args {
    /// Requests as CSV: `timestamp_s,prompt_tokens,output_tokens[,class]`.
    #[arg(value_name = "FILE.csv", conflicts_with_all = ["workload", "check_external"])]
    pub(crate) file: Option<PathBuf>,
    /// Replay a built-in workload instead of a file.
    #[arg(long, conflicts_with = "check_external")]
    pub(crate) workload: Option<Builtin>,
    /// Hold the simulation against preemptions that were measured on vLLM; exit code 1 if it
    /// misses.
    #[arg(long)]
    pub(crate) check_external: bool,
    /// Policies to compare, by name, separated by commas. Default: all.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub(crate) policies: Vec<String>,
    /// Loads, as multiples of what the oracle achieves on a backlog of the same requests.
    #[arg(long, value_name = "L,L,L", value_delimiter = ',', default_value = "0.7,1.0,1.3")]
    pub(crate) load: Vec<f64>,
    /// Requests of a run: a slice of the file.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub(crate) requests: usize,
    /// Runs of each policy at each load; each has another slice of the file.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) seeds: u32,
    /// What every client declares, and where outputs are cut; `none`: clients declare nothing.
    #[arg(long, value_name = "N|none", default_value = "4096")]
    pub(crate) max_tokens: String,
    /// What the server declares for clients that declare nothing.
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    pub(crate) server_cap: u32,
    /// Longest sequence, prompt and output, that the server takes, if its KV cache holds it.
    /// Default: 131072; for the built-in workload 8192.
    #[arg(long, value_name = "N")]
    pub(crate) max_model_len: Option<u32>,
    /// The replica: 8b-h100, 70b-tp4-h100, 32b-h100 or 7b-gb200.
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Option<String>,
    /// Tokens that the KV cache holds.
    #[arg(long, value_name = "N")]
    pub(crate) kv_tokens: Option<u32>,
    /// Milliseconds of every step.
    #[arg(long, value_name = "MS")]
    pub(crate) step_ms: Option<f64>,
    /// Microseconds a step for every sequence that decodes.
    #[arg(long, value_name = "US")]
    pub(crate) sequence_us: Option<f64>,
    /// Nanoseconds a step for every KV token that is read.
    #[arg(long, value_name = "NS")]
    pub(crate) kv_token_ns: Option<f64>,
    /// Microseconds for every prompt token.
    #[arg(long, value_name = "US")]
    pub(crate) prefill_token_us: Option<f64>,
    /// Nanoseconds for every pair of a prompt token and one before it.
    #[arg(long, value_name = "NS")]
    pub(crate) prefill_context_ns: Option<f64>,
    /// Mean time per output token that clients accept, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub(crate) tpot_ms: Option<f64>,
    /// Tokens of a KV block.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) block_tokens: u32,
    /// Most sequences at once.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_batch: u32,
    /// Prompt tokens of a step. Default: 1024; for the built-in workload 8192.
    #[arg(long, value_name = "N")]
    pub(crate) prefill_budget: Option<u32>,
    /// vLLM's watermark, as a share of all blocks.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) watermark: f64,
    /// A request that was never started leaves the queue after F times the time to the first token
    /// that its client accepts.
    #[arg(long, value_name = "F", default_value_t = super::run::TIMEOUT_FACTOR)]
    pub(crate) timeout_factor: f64,
    /// Write the numbers as JSON; `-` prints them instead of the table.
    #[arg(long, value_name = "FILE|-")]
    pub(crate) json: Option<PathBuf>,
}

impl Args {
    /// Whether the workload is the built-in one.
    pub(crate) fn is_synchronised(&self) -> bool {
        self.check_external || self.workload.is_some()
    }

    /// The machine, with what was set on the command line.
    ///
    /// # Errors
    /// An unknown name, or a number that is no cost.
    pub(crate) fn machine(&self) -> Outcome<Machine> {
        let default = if self.is_synchronised() { "7b-gb200" } else { "8b-h100" };
        let mut machine = Machine::named(self.machine.as_deref().unwrap_or(default))?;
        for (name, given, number) in [
            ("--step-ms", self.step_ms, &mut machine.step_ms),
            ("--sequence-us", self.sequence_us, &mut machine.sequence_us),
            ("--kv-token-ns", self.kv_token_ns, &mut machine.kv_token_ns),
            ("--prefill-token-us", self.prefill_token_us, &mut machine.prefill_token_us),
            ("--prefill-context-ns", self.prefill_context_ns, &mut machine.prefill_context_ns),
            ("--tpot-ms", self.tpot_ms, &mut machine.tpot_limit_ms),
        ] {
            let Some(given) = given else { continue };
            // A million seconds a step is a unit mistake.
            if !(0.0..=1e9).contains(&given) {
                return Err(bad(name, given, "a time of zero or more"));
            }
            *number = given;
        }
        // Time must pass in a step, or a run would never end.
        if machine.step_ms <= 0.0 {
            return Err(bad("--step-ms", machine.step_ms, "a time above zero"));
        }
        machine.kv_tokens = self.kv_tokens.unwrap_or(machine.kv_tokens);
        within("--kv-tokens", machine.kv_tokens, KV_TOKENS_MAX)?;
        Ok(machine)
    }

    /// What the replica is allowed to do.
    ///
    /// # Errors
    /// A number that is none of its kind.
    pub(crate) fn rules(&self, machine: &Machine) -> Outcome<Rules> {
        let usual = if self.is_synchronised() {
            PREFILL_BUDGET_SYNCHRONISED_TOKENS
        } else {
            PREFILL_BUDGET_TOKENS
        };
        let prefill_budget_tokens = self.prefill_budget.unwrap_or(usual);
        within("--prefill-budget", prefill_budget_tokens, KV_TOKENS_MAX)?;
        within("--block-tokens", self.block_tokens, BLOCK_TOKENS_MAX)?;
        within("--max-batch", self.max_batch, BATCH_MAX)?;
        let total_blocks = machine.kv_tokens / self.block_tokens;
        if total_blocks == 0 {
            return Err(bad("--kv-tokens", machine.kv_tokens, "one block or more"));
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(bad("--watermark", self.watermark, "a share from 0 to below 1"));
        }
        if !(self.timeout_factor > 0.0 && self.timeout_factor.is_finite()) {
            return Err(bad("--timeout-factor", self.timeout_factor, "a number above zero"));
        }
        Ok(Rules {
            block_tokens: self.block_tokens,
            total_blocks,
            max_batch: self.max_batch,
            prefill_budget_tokens,
            timeout_factor: (!self.is_synchronised()).then_some(self.timeout_factor),
        })
    }

    /// What bounds a request's lengths.
    ///
    /// # Errors
    /// A number that is none of its kind.
    pub(crate) fn limits(&self, rules: &Rules) -> Outcome<Limits> {
        within("--server-cap", self.server_cap, KV_TOKENS_MAX)?;
        let usual = if self.is_synchronised() {
            MAX_MODEL_LEN_SYNCHRONISED_TOKENS
        } else {
            MAX_MODEL_LEN_TOKENS
        };
        let max_model_len = self.max_model_len.unwrap_or(usual);
        within("--max-model-len", max_model_len, KV_TOKENS_MAX)?;
        let declared_tokens = match &*self.max_tokens {
            "none" => self.server_cap,
            text => {
                text.parse().ok().filter(|tokens| (1..=KV_TOKENS_MAX).contains(tokens)).ok_or_else(
                    || bad("--max-tokens", text, "a number of tokens above zero or none"),
                )?
            }
        };
        let held_tokens = rules.total_blocks * rules.block_tokens;
        Ok(Limits { declared_tokens, sequence_tokens: max_model_len.min(held_tokens) })
    }

    /// The policies to compare, in the order of the table.
    ///
    /// # Errors
    /// An unknown name.
    pub(crate) fn kinds(&self) -> Outcome<Vec<Kind>> {
        let wanted = self.policies.iter().map(|name| Kind::named(name.trim()));
        let wanted = wanted.collect::<Outcome<Vec<_>>>()?;
        let all = Kind::ALL.iter().map(|(kind, ..)| *kind);
        // Without its estimate the gate admits what can only wait: a lesson, not a choice.
        let is_usual = |kind: &Kind| wanted.is_empty() && *kind != Kind::BankerAlone;
        Ok(all.filter(|kind| is_usual(kind) || wanted.contains(kind)).collect())
    }

    /// Checks loads, seeds and the number of requests.
    ///
    /// # Errors
    /// A number that is none of its kind.
    pub(crate) fn check_counts(&self) -> Outcome<()> {
        if let Some(load) = self.load.iter().find(|load| !(0.01..=100.0).contains(*load)) {
            return Err(bad("--load", load, "a multiple from 0.01 to 100"));
        }
        if !(1..=REQUESTS_MAX).contains(&self.requests) {
            return Err(bad("--requests", self.requests, "a number from 1 to 10,000,000"));
        }
        within("--seeds", self.seeds, SEEDS_MAX)
    }
}

fn bad(name: &str, given: impl std::fmt::Display, expected: &str) -> Failure {
    Failure::bad(format!("{name}: {given} is not {expected}\nhint: `memvelope replay --help`"))
}

fn within(name: &str, given: u32, most: u32) -> Outcome<()> {
    if (1..=most).contains(&given) {
        return Ok(());
    }
    Err(bad(name, given, &format!("a number from 1 to {most}")))
}
