//! The runs: every policy at every load on every slice.

use super::Args;
use super::engine::{Engine, Rules};
use super::machine::Machine;
use super::metrics::{Figures, Tally};
use super::policy::{Kind, Setup};
use super::report::{Load, PolicyFigures, Report, Settings, Source, Speed};
use super::workload::{Limits, Workload};
use crate::failure::{Failure, Outcome};
use crate::requests::{self, Requests};
use std::time::{Duration, Instant};

/// A request that was never started leaves the queue after so many times the time to its first
/// token that its client accepts. Tuned once, on the oracle at load 1.0: of 0.3 to 1.2, its goodput
/// is highest from 0.7 to 0.9 on both of a trace of long outputs and a trace of conversations, and
/// falls fast above 1, where requests are started that are late already.
pub(crate) const TIMEOUT_FACTOR: f64 = 0.8;

/// Where requests come from.
#[derive(Debug)]
enum Origin {
    File(Requests),
    Synchronised,
}

/// Everything settled before the first run.
#[derive(Debug)]
pub(crate) struct Plan {
    machine: Machine,
    rules: Rules,
    limits: Limits,
    kinds: Vec<Kind>,
    origin: Origin,
    loads: Vec<f64>,
    requests: usize,
    seeds: u32,
    watermark: f64,
    settings: Settings,
    source: Source,
}

impl Plan {
    /// Reads and checks what was given.
    ///
    /// # Errors
    /// Bad input, by name.
    pub(crate) fn new(args: &Args) -> Outcome<Self> {
        args.check_counts()?;
        let machine = args.machine()?;
        let rules = args.rules(&machine)?;
        let limits = args.limits(&rules)?;
        let kinds = args.kinds()?;
        let (origin, name) = match &args.file {
            Some(path) => (Origin::File(requests::read_csv(path)?), path.display().to_string()),
            None if args.is_synchronised() => (Origin::Synchronised, "synchronised".to_owned()),
            None => {
                return Err(Failure::bad(
                    "there is nothing to replay\nhint: give a file of requests, `--workload \
                     synchronised` or `--check-external`",
                ));
            }
        };
        let source = Source { name, ..Source::default() };
        let settings = Settings::new(args, &rules, limits);
        Ok(Self {
            machine,
            rules,
            limits,
            kinds,
            origin,
            loads: args.load.clone(),
            requests: args.requests,
            seeds: args.seeds,
            watermark: args.watermark,
            settings,
            source,
        })
    }

    /// The requests of a seed.
    fn workload(&self, seed: u32) -> Workload {
        match &self.origin {
            Origin::File(requests) => {
                Workload::slice(requests, self.requests, (seed, self.seeds), self.limits)
            }
            Origin::Synchronised => Workload::synchronised(u64::from(seed)),
        }
    }

    /// One policy on one workload.
    ///
    /// # Errors
    /// The gate refuses its configuration.
    fn run_one(&self, kind: Kind, workload: &Workload, rules: Rules, seed: u32) -> Outcome<Tally> {
        let setup = Setup {
            total_blocks: rules.total_blocks,
            block_tokens: rules.block_tokens,
            sequence_tokens: self.limits.sequence_tokens,
            watermark: self.watermark,
            seed: u64::from(seed),
            jobs: workload.jobs.len(),
        };
        let mut policy = kind.open(&setup)?;
        Ok(Engine::new(rules, &self.machine, workload, policy.as_mut()).run())
    }

    /// Requests a second of the oracle when all are there at once and wait for ever.
    fn backlog_rate(&self, workload: &Workload, seed: u32) -> Outcome<f64> {
        let rules = Rules { timeout_factor: None, ..self.rules };
        let tally = self.run_one(Kind::Oracle, &workload.backlog(), rules, seed)?;
        Ok(tally.backlog_rate())
    }

    /// Runs everything.
    ///
    /// # Errors
    /// No request of a slice can be replayed, or the gate refuses its configuration.
    pub(crate) fn run(mut self, remark: &mut dyn FnMut(&str)) -> Outcome<Report> {
        let mut cells = Cells::new(self.kinds.clone(), self.loads.len());
        for seed in 0..self.seeds {
            let base = self.workload(seed);
            self.source.add(&base);
            if base.jobs.is_empty() {
                return Err(Failure::bad(format!(
                    "{}: no request of slice {seed} can be replayed: {} have a count that is zero, \
                     negative or absurd, the prompts of {} leave no room for output\nhint: look at \
                     --max-model-len and --kv-tokens",
                    self.source.name, base.senseless, base.too_long
                )));
            }
            if base.concurrency.is_some() {
                cells.run(&self, 0, seed, &base)?;
                continue;
            }
            let backlog_rate = self.backlog_rate(&base, seed)?;
            self.source.backlog_req_per_s += backlog_rate / f64::from(self.seeds);
            for (index, load) in self.loads.iter().enumerate() {
                cells.run(&self, index, seed, &base.at_rate(load * backlog_rate))?;
            }
        }
        if self.source.skipped() > 0 {
            remark(&format!(
                "warning: {} requests were left out: {} with a count that is zero, negative or \
                 absurd, {} whose prompt leaves no room for output",
                self.source.skipped(),
                self.source.senseless,
                self.source.too_long
            ));
        }
        let loads = match self.origin {
            Origin::File(_) => self.loads.iter().map(|load| Some(*load)).collect(),
            Origin::Synchronised => vec![None],
        };
        let (loads, speed) = cells.report(loads);
        let (source, machine, settings) = (self.source, self.machine, self.settings);
        Ok(Report { source, machine, settings, loads, external: None, speed })
    }

    /// vLLM's figures at a watermark, means over the seeds, and the steps they took.
    ///
    /// # Errors
    /// Never; the policy has no configuration to refuse.
    pub(crate) fn vllm_at(&mut self, watermark: f64) -> Outcome<Figures> {
        self.watermark = watermark;
        let runs = (0..self.seeds).map(|seed| {
            let workload = self.workload(seed);
            let tally = self.run_one(Kind::Vllm, &workload, self.rules, seed)?;
            Ok(tally.figures())
        });
        Ok(Figures::mean(&runs.collect::<Outcome<Vec<_>>>()?))
    }

    /// An empty report of this plan.
    pub(crate) fn report(self, speed: Speed) -> Report {
        let (source, machine, settings) = (self.source, self.machine, self.settings);
        Report { source, machine, settings, loads: Vec::new(), external: None, speed }
    }
}

/// Figures by load and policy, one for each seed.
struct Cells {
    /// What is shown; the oracle runs in any case, as the yardstick.
    shown: Vec<Kind>,
    kinds: Vec<Kind>,
    figures: Vec<Vec<Vec<Figures>>>,
    spent: Vec<(f64, Duration)>,
}

impl Cells {
    fn new(shown: Vec<Kind>, loads: usize) -> Self {
        let mut kinds = shown.clone();
        if !kinds.contains(&Kind::Oracle) {
            kinds.push(Kind::Oracle);
        }
        let figures = vec![vec![Vec::new(); kinds.len()]; loads.max(1)];
        let spent = vec![(0.0, Duration::ZERO); kinds.len()];
        Self { shown, kinds, figures, spent }
    }

    /// Every policy on one workload.
    fn run(&mut self, plan: &Plan, load: usize, seed: u32, workload: &Workload) -> Outcome<()> {
        for (index, kind) in self.kinds.iter().enumerate() {
            let begin = Instant::now();
            let tally = plan.run_one(*kind, workload, plan.rules, seed)?;
            self.spent[index].0 += tally.steps as f64;
            self.spent[index].1 += begin.elapsed();
            self.figures[load][index].push(tally.figures());
        }
        Ok(())
    }

    fn report(self, loads: Vec<Option<f64>>) -> (Vec<Load>, Speed) {
        let oracle = self.kinds.iter().position(|kind| *kind == Kind::Oracle);
        let cells = loads.into_iter().zip(&self.figures).map(|(load, row)| {
            let means: Vec<_> = row.iter().map(|runs| Figures::mean(runs)).collect();
            let best = oracle.map_or(0.0, |oracle| means[oracle].goodput_req_per_s);
            let shown = self.kinds.iter().zip(means);
            let shown = shown.filter(|(kind, _)| self.shown.contains(kind));
            let policies = shown.map(|(kind, figures)| PolicyFigures {
                policy: kind.name(),
                goodput_of_oracle: (best > 0.0).then(|| figures.goodput_req_per_s / best),
                figures,
            });
            Load { load, policies: policies.collect() }
        });
        let loads = cells.collect();
        let rows = self.kinds.iter().zip(&self.spent);
        let speed = Speed::new(rows.map(|(kind, (steps, time))| (kind.name(), *steps, *time)));
        (loads, speed)
    }
}
