//! What a run came to.

use super::sequence::Sequence;
use super::workload::Workload;
use serde::Serialize;

/// Counted while a run goes on.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    total_blocks: u32,
    /// When the last request arrives; `None`: no time of arrivals (a closed loop, or all at once).
    window_s: Option<f64>,
    /// Steps that computed something.
    pub(crate) steps: u64,
    /// Requests that had all their output, and those of them within both limits of their client.
    pub(crate) completed: u64,
    pub(crate) good: u64,
    /// Requests that left the queue because their time was up.
    pub(crate) shed: u64,
    /// Requests that the policy would never let in.
    pub(crate) refused: u64,
    /// Sequences whose KV was taken from them.
    pub(crate) preemptions: u64,
    /// Steps that needed more blocks than there are.
    pub(crate) overruns: u64,
    /// Steps in which every sequence waited for another.
    pub(crate) standstills: u64,
    /// Sequences that paused in a step, added up.
    pub(crate) paused: u64,
    pub(crate) output_tokens: u64,
    pub(crate) running_peak: u32,
    /// Integral of blocks in use over the time of arrivals, as far as steps ran, and that time.
    used_block_s: f64,
    busy_s: f64,
    /// When the last request ended.
    pub(crate) end_s: f64,
    /// When somebody last waited, and the output tokens by then.
    crowded_s: f64,
    crowded_tokens: u64,
    ttft_s: Vec<f64>,
    worst_gap_s: Vec<f64>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new(total_blocks: u32, workload: &Workload) -> Self {
        // Arrivals count from the first one, so the last one is also how long they take.
        let last_s = workload.jobs.last().map(|job| job.arrival_s);
        let is_open = workload.concurrency.is_none() && workload.jobs.len() > 1;
        Self {
            total_blocks,
            window_s: last_s.filter(|last_s| is_open && *last_s > 0.0),
            steps: 0,
            completed: 0,
            good: 0,
            shed: 0,
            refused: 0,
            preemptions: 0,
            overruns: 0,
            standstills: 0,
            paused: 0,
            output_tokens: 0,
            running_peak: 0,
            used_block_s: 0.0,
            busy_s: 0.0,
            end_s: 0.0,
            crowded_s: 0.0,
            crowded_tokens: 0,
            ttft_s: Vec::new(),
            worst_gap_s: Vec::new(),
        }
    }

    /// A step of so many seconds until `now_s`, with so many blocks in use and tokens emitted.
    pub(crate) fn step(&mut self, now_s: f64, step_s: f64, used_blocks: u32, emitted: u32) {
        self.steps += 1;
        self.output_tokens += u64::from(emitted);
        // Not while the last requests run dry: that says how long the trace is.
        if self.window_s.is_none_or(|window_s| now_s <= window_s) {
            self.used_block_s += f64::from(used_blocks) * step_s;
            self.busy_s += step_s;
        }
    }

    /// Somebody waits: until now the replica had all the work that it can take.
    pub(crate) fn crowded(&mut self, now_s: f64) {
        (self.crowded_s, self.crowded_tokens) = (now_s, self.output_tokens);
    }

    /// Requests a second of a replica that always had somebody waiting, from its output tokens.
    ///
    /// Until the last one waited, that is: while the last requests run dry the replica is ever
    /// emptier, for as long as the longest output, which says nothing of what it can take.
    pub(crate) fn backlog_rate(&self) -> f64 {
        let all = self.output_tokens.max(1) as f64;
        if self.crowded_tokens > 0 {
            self.crowded_tokens as f64 / all * self.completed as f64 / self.crowded_s
        } else {
            self.completed as f64 / self.end_s
        }
    }

    /// A request has all its output.
    pub(crate) fn finish(&mut self, done: &Sequence, ttft_limit_s: f64, tpot_limit_s: f64) {
        let ttft_s = done.first_s - done.arrival_s;
        let between = f64::from(done.generated.saturating_sub(1));
        let is_quick = done.latest_s - done.first_s <= tpot_limit_s * between;
        self.completed += 1;
        self.good += u64::from(ttft_s <= ttft_limit_s && is_quick);
        self.ttft_s.push(ttft_s);
        if done.generated > 1 {
            self.worst_gap_s.push(done.worst_gap_s);
        }
    }

    /// The numbers of the table.
    pub(crate) fn figures(mut self) -> Figures {
        let window_s = self.window_s.unwrap_or(self.end_s);
        self.ttft_s.sort_unstable_by(f64::total_cmp);
        self.worst_gap_s.sort_unstable_by(f64::total_cmp);
        let capacity_s = f64::from(self.total_blocks) * self.busy_s;
        let rate = |count: f64, seconds: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        Figures {
            goodput_req_per_s: rate(self.good as f64, window_s),
            good: self.good as f64,
            completed: self.completed as f64,
            shed: self.shed as f64,
            refused: self.refused as f64,
            preemptions: self.preemptions as f64,
            overruns: self.overruns as f64,
            standstills: self.standstills as f64,
            kv_used_percent: 100.0 * rate(self.used_block_s, capacity_s),
            ttft_p50_s: percentile(&self.ttft_s, 50.0),
            ttft_p99_s: percentile(&self.ttft_s, 99.0),
            worst_gap_p99_s: percentile(&self.worst_gap_s, 99.0),
            worst_gap_max_s: self.worst_gap_s.last().copied().unwrap_or_default(),
            output_tokens_per_s: rate(self.output_tokens as f64, self.end_s),
            paused_per_100_tokens: 100.0 * rate(self.paused as f64, self.output_tokens as f64),
            running_peak: f64::from(self.running_peak),
            makespan_s: self.end_s,
            steps: self.steps as f64,
        }
    }
}

/// The nearest-rank percentile of sorted values; 0 of none.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// What a policy came to: of one run, or the mean of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Requests a second that were answered within both limits, over the time from the first
    /// arrival to the last; in a closed loop over all of it.
    pub(crate) goodput_req_per_s: f64,
    /// Those requests.
    pub(crate) good: f64,
    /// Requests that had all their output, in time or not.
    pub(crate) completed: f64,
    /// Requests that left the queue because their time was up.
    pub(crate) shed: f64,
    /// Requests that the policy would never let in.
    pub(crate) refused: f64,
    /// Sequences whose KV was taken from them, to be computed again.
    pub(crate) preemptions: f64,
    /// Steps that needed more blocks than there are.
    pub(crate) overruns: f64,
    /// Steps in which every sequence waited for another.
    pub(crate) standstills: f64,
    /// Blocks in use, over the steps of the same time.
    pub(crate) kv_used_percent: f64,
    /// Time to the first token, of completed requests.
    pub(crate) ttft_p50_s: f64,
    pub(crate) ttft_p99_s: f64,
    /// Longest time between two tokens of a request: over requests, the 99th percentile and the
    /// longest.
    pub(crate) worst_gap_p99_s: f64,
    pub(crate) worst_gap_max_s: f64,
    /// Output tokens a second, from the first arrival to the end of the last request.
    pub(crate) output_tokens_per_s: f64,
    /// Sequences that paused in a step, added up over the steps, for 100 output tokens.
    pub(crate) paused_per_100_tokens: f64,
    /// Most sequences at once.
    pub(crate) running_peak: f64,
    /// From the first arrival to the end of the last request.
    pub(crate) makespan_s: f64,
    /// Steps.
    pub(crate) steps: f64,
}

impl Figures {
    /// Means of several runs; but the longest gap is the longest of all.
    pub(crate) fn mean(runs: &[Self]) -> Self {
        let mean =
            |of: fn(&Self) -> f64| runs.iter().map(of).sum::<f64>() / runs.len().max(1) as f64;
        Self {
            goodput_req_per_s: mean(|run| run.goodput_req_per_s),
            good: mean(|run| run.good),
            completed: mean(|run| run.completed),
            shed: mean(|run| run.shed),
            refused: mean(|run| run.refused),
            preemptions: mean(|run| run.preemptions),
            overruns: mean(|run| run.overruns),
            standstills: mean(|run| run.standstills),
            kv_used_percent: mean(|run| run.kv_used_percent),
            ttft_p50_s: mean(|run| run.ttft_p50_s),
            ttft_p99_s: mean(|run| run.ttft_p99_s),
            worst_gap_p99_s: mean(|run| run.worst_gap_p99_s),
            worst_gap_max_s: runs.iter().map(|run| run.worst_gap_max_s).fold(0.0, f64::max),
            output_tokens_per_s: mean(|run| run.output_tokens_per_s),
            paused_per_100_tokens: mean(|run| run.paused_per_100_tokens),
            running_peak: mean(|run| run.running_peak),
            makespan_s: mean(|run| run.makespan_s),
            steps: mean(|run| run.steps),
        }
    }
}
