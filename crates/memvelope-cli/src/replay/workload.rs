//! What is replayed: a slice of a file at a chosen load, or a built-in workload.

use crate::requests::{Request, Requests};
use rand::RngExt;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;

/// One request, with the counts that the replica uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    /// When it arrives; a closed loop does not look at it.
    pub(crate) arrival_s: f64,
    /// Tokens of its prompt, at least one.
    pub(crate) prompt_tokens: u32,
    /// Tokens it produces, at least one and at most the declared.
    pub(crate) output_tokens: u32,
    /// What its client declares as the most.
    pub(crate) declared_tokens: u32,
    /// Index of its class.
    pub(crate) class: Option<u32>,
}

/// Requests, and how they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workload {
    /// In order of arrival.
    pub(crate) jobs: Vec<Job>,
    /// `Some`: a closed loop, in which the next request comes when one of so many is done.
    pub(crate) concurrency: Option<u32>,
    /// Rows that say nothing an engine could run: a count that is zero, negative or absurd.
    pub(crate) senseless: u64,
    /// Rows whose prompt leaves no room for output within the longest sequence.
    pub(crate) too_long: u64,
}

/// What bounds a request's lengths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// What every client declares; the server's cap where clients declare nothing.
    pub(crate) declared_tokens: u32,
    /// Longest sequence, prompt and output, that the server takes: the smaller of its
    /// `max_model_len` and what its KV cache holds.
    pub(crate) sequence_tokens: u32,
}

impl Workload {
    /// `count` rows of a file from where `seed` of `seeds` begins: the first at the start, the
    /// others spread over the rest.
    pub(crate) fn slice(
        requests: &Requests,
        count: usize,
        (seed, seeds): (u32, u32),
        limits: Limits,
    ) -> Self {
        let spare = requests.rows.len().saturating_sub(count);
        let start = (spare as u64 * u64::from(seed) / u64::from(seeds.max(1))) as usize;
        let rows = &requests.rows[start..requests.rows.len().min(start + count)];
        let mut workload = Self::default();
        for row in rows {
            match job(row, limits) {
                Ok(job) => workload.jobs.push(job),
                Err(Unfit::Senseless) => workload.senseless += 1,
                Err(Unfit::TooLong) => workload.too_long += 1,
            }
        }
        let first_s = workload.jobs.first().map_or(0.0, |job| job.arrival_s);
        for job in &mut workload.jobs {
            job.arrival_s -= first_s;
        }
        workload
    }

    /// Many long outputs at once, their lengths known exactly: the benchmark of vLLM's pull request
    /// 44594 (`--ignore-eos`; input 1000 and output 5000 tokens, each ± 20 %; 450 prompts; at most
    /// 128 at once).
    pub(crate) fn synchronised(seed: u64) -> Self {
        const PROMPT_TOKENS: std::ops::RangeInclusive<u32> = 800..=1200;
        const OUTPUT_TOKENS: std::ops::RangeInclusive<u32> = 4000..=6000;
        const PROMPTS: usize = 450;
        const CONCURRENCY: u32 = 128;
        let mut random = Pcg64::seed_from_u64(seed);
        let mut draw = || {
            let output_tokens = random.random_range(OUTPUT_TOKENS);
            Job {
                arrival_s: 0.0,
                prompt_tokens: random.random_range(PROMPT_TOKENS),
                output_tokens,
                declared_tokens: output_tokens,
                class: None,
            }
        };
        Self {
            jobs: (0..PROMPTS).map(|_| draw()).collect(),
            concurrency: Some(CONCURRENCY),
            ..Self::default()
        }
    }

    /// The same requests, all present at once: what a replica makes of them is its throughput.
    pub(crate) fn backlog(&self) -> Self {
        let mut all = self.clone();
        for job in &mut all.jobs {
            job.arrival_s = 0.0;
        }
        all
    }

    /// The same requests with arrivals stretched to `rate` requests a second.
    pub(crate) fn at_rate(&self, rate_per_s: f64) -> Self {
        let mut all = self.clone();
        let span_s = all.jobs.last().map_or(0.0, |job| job.arrival_s);
        let wanted_s = all.jobs.len() as f64 / rate_per_s;
        if span_s > 0.0 {
            for job in &mut all.jobs {
                job.arrival_s *= wanted_s / span_s;
            }
        }
        all
    }
}

enum Unfit {
    Senseless,
    TooLong,
}

fn job(row: &Request, limits: Limits) -> Result<Job, Unfit> {
    let is_sane = |count: u64| (1..=u64::MAX >> 1).contains(&count);
    if !is_sane(row.prompt_tokens) || !is_sane(row.output_tokens) {
        return Err(Unfit::Senseless);
    }
    let prompt_tokens = u32::try_from(row.prompt_tokens).map_err(|_| Unfit::TooLong)?;
    let room = limits.sequence_tokens.saturating_sub(prompt_tokens);
    if room == 0 {
        return Err(Unfit::TooLong);
    }
    let declared_tokens = limits.declared_tokens.min(room);
    Ok(Job {
        arrival_s: row.arrival_s,
        prompt_tokens,
        // At most `declared_tokens`, which fits.
        output_tokens: row.output_tokens.min(u64::from(declared_tokens)) as u32,
        declared_tokens,
        class: row.class,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lengths: &[(u64, u64)]) -> Requests {
        let rows = lengths.iter().enumerate().map(|(index, (prompt, output))| Request {
            arrival_s: 10.0 + index as f64,
            prompt_tokens: *prompt,
            output_tokens: *output,
            class: None,
        });
        Requests { rows: rows.collect(), classes: Vec::new() }
    }

    const LIMITS: Limits = Limits { declared_tokens: 50, sequence_tokens: 100 };

    #[test]
    fn lengths_are_cut_where_a_server_cuts_them() {
        let huge = u64::MAX;
        let file = rows(&[(10, 20), (10, 70), (80, 70), (100, 1), (0, 5), (5, 0), (huge, 1)]);
        let workload = Workload::slice(&file, 7, (0, 1), LIMITS);
        let lengths: Vec<_> = workload
            .jobs
            .iter()
            .map(|job| (job.prompt_tokens, job.output_tokens, job.declared_tokens))
            .collect();
        assert_eq!(lengths, [(10, 20, 50), (10, 50, 50), (80, 20, 20)]);
        assert_eq!((workload.too_long, workload.senseless), (1, 3));
    }

    #[test]
    fn slices_are_spread_and_rates_are_met() {
        let file = rows(&(1..=99).map(|prompt| (prompt, 1)).collect::<Vec<_>>());
        let first = |seed| {
            let workload = Workload::slice(&file, 20, (seed, 4), LIMITS);
            assert_eq!((workload.jobs.len(), workload.jobs[0].arrival_s), (20, 0.0));
            workload.jobs[0].prompt_tokens
        };
        assert_eq!([0, 1, 2, 3].map(first), [1, 20, 40, 60]);
        // More than there are: all, from the start.
        assert_eq!(Workload::slice(&file, 1000, (3, 4), LIMITS).jobs.len(), 99);
        let fast = Workload::slice(&file, 20, (0, 1), LIMITS).at_rate(4.0);
        assert!((fast.jobs[19].arrival_s - 5.0).abs() < 1e-9);
        assert!(fast.backlog().jobs.iter().all(|job| job.arrival_s == 0.0));
    }

    #[test]
    fn the_synchronised_workload_repeats_itself() {
        let workload = Workload::synchronised(3);
        assert_eq!(workload.jobs, Workload::synchronised(3).jobs);
        assert_ne!(workload.jobs, Workload::synchronised(4).jobs);
        assert_eq!(workload.jobs.len(), 450);
        assert!(workload.jobs.iter().all(|job| (4000..=6000).contains(&job.output_tokens)));
    }
}
