//! The step loop of one replica with a paged KV cache and chunked prefill.
//!
//! A step decodes one token of every sequence whose prompt is through, then spends its prefill
//! budget on prompts: on those that hold KV first, then on the head of the queue, if the policy
//! lets it in. A request is bound to KV only in a step that has prefill budget left for it: binding
//! earlier holds memory that nobody uses yet, and makes policies that look at memory alone admit
//! until every client has given up.

use super::machine::Machine;
use super::metrics::Tally;
use super::policy::{Answer, Growth, Leaving, Policy, View};
use super::sequence::{Sequence, Turn};
use super::workload::Workload;
use std::collections::VecDeque;

/// What the replica is allowed to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Tokens of a block, and blocks that there are.
    pub(crate) block_tokens: u32,
    pub(crate) total_blocks: u32,
    /// Most sequences that run at once.
    pub(crate) max_batch: u32,
    /// Prompt tokens of a step. Decoded tokens are not taken from it.
    pub(crate) prefill_budget_tokens: u32,
    /// A request that never held KV leaves the queue after so many times the time to the first
    /// token that its client accepts; `None`: clients wait for ever.
    pub(crate) timeout_factor: Option<f64>,
}

/// What a step has to compute.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    batch: u32,
    kv_tokens: u64,
    prefill_tokens: u32,
    prefill_s: f64,
    emits: u32,
}

/// The replica and all it holds.
pub(crate) struct Engine<'a> {
    rules: Rules,
    machine: &'a Machine,
    workload: &'a Workload,
    policy: &'a mut dyn Policy,
    now_s: f64,
    /// First job that has not arrived.
    next: usize,
    queue: VecDeque<Sequence>,
    /// Bound sequences, in the order in which they were admitted.
    running: Vec<Sequence>,
    used_blocks: u32,
    /// How many of the running ones still have prompt to do.
    prefilling: u32,
    tally: Tally,
}

impl<'a> Engine<'a> {
    /// A replica at time zero.
    pub(crate) fn new(
        rules: Rules,
        machine: &'a Machine,
        workload: &'a Workload,
        policy: &'a mut dyn Policy,
    ) -> Self {
        Self {
            rules,
            machine,
            workload,
            policy,
            now_s: 0.0,
            next: 0,
            queue: VecDeque::new(),
            running: Vec::new(),
            used_blocks: 0,
            prefilling: 0,
            tally: Tally::new(rules.total_blocks, workload),
        }
    }

    /// Serves every request to its end.
    pub(crate) fn run(mut self) -> Tally {
        while self.advance() {}
        self.tally.end_s = self.now_s;
        self.tally
    }

    /// One step, or one jump to the next arrival. False: everything is done.
    fn advance(&mut self) -> bool {
        self.arrive();
        if self.running.is_empty() && self.queue.is_empty() {
            let Some(job) = self.workload.jobs.get(self.next) else { return false };
            self.now_s = job.arrival_s;
            return true;
        }
        self.policy.tick(self.now_s, &self.running);
        let has_preempted = self.take_blocks();
        let mut work = Work::default();
        let mut budget = self.rules.prefill_budget_tokens;
        self.continue_prefill(&mut budget, &mut work);
        if !has_preempted {
            self.admit(&mut budget, &mut work);
        }
        self.collect_decodes(&mut work);
        if work.batch > 0 || work.prefill_tokens > 0 {
            self.emit(&work);
        } else {
            self.resolve_standstill(has_preempted);
        }
        true
    }

    fn free_blocks(&self) -> u32 {
        self.rules.total_blocks - self.used_blocks
    }

    /// Queues whoever arrived by now; in a closed loop, whoever a finished one makes room for.
    fn arrive(&mut self) {
        while let Some(job) = self.workload.jobs.get(self.next) {
            let arrival_s = match self.workload.concurrency {
                Some(most) if self.queue.len() + self.running.len() < most as usize => self.now_s,
                None if job.arrival_s <= self.now_s => job.arrival_s,
                _ => break,
            };
            self.queue.push_back(Sequence::new(self.next as u32, job, arrival_s));
            self.next += 1;
        }
    }

    /// Sequences whose next token starts a block ask for it, in order; then the blocks are taken.
    /// If there are too few, the policy's victims are preempted first. True: somebody was.
    fn take_blocks(&mut self) -> bool {
        let mut wanted = 0;
        for sequence in &mut self.running {
            sequence.turn = Turn::Rest;
            if !sequence.is_decoding() {
                continue;
            }
            if sequence.room > 0 {
                sequence.turn = Turn::Decode;
                continue;
            }
            match self.policy.grow(sequence) {
                Growth::Granted => {
                    (sequence.turn, sequence.takes_block) = (Turn::Decode, true);
                    wanted += 1;
                }
                Growth::Wait => self.tally.paused += 1,
            }
        }
        let is_short = wanted > self.free_blocks();
        if is_short {
            self.tally.overruns += 1;
            wanted = self.make_room();
        }
        if wanted > 0 {
            for sequence in self.running.iter_mut().filter(|sequence| sequence.takes_block) {
                sequence.takes_block = false;
                sequence.blocks += 1;
                sequence.room = self.rules.block_tokens;
            }
            self.used_blocks += wanted;
        }
        is_short
    }

    /// Preempts until the blocks that are wanted exist. Returns how many are wanted by then.
    fn make_room(&mut self) -> u32 {
        let mut is_first = true;
        loop {
            let wanted = self.running.iter().filter(|sequence| sequence.takes_block).count() as u32;
            let block_tokens = self.rules.block_tokens;
            let spare = self.policy.spare_blocks(&self.running, block_tokens);
            let is_enough = wanted <= self.free_blocks();
            // The spare ones are asked for only while somebody else is left.
            let is_roomy = wanted.max(spare) <= self.free_blocks() || self.running.len() <= 1;
            if self.running.is_empty() || (is_enough && is_roomy && !is_first) {
                self.policy.retracted(&self.running);
                return wanted;
            }
            is_first = false;
            let victim = self.policy.victim(&self.running);
            self.preempt(victim);
        }
    }

    /// Takes a sequence's KV from it and puts it at the head of the queue.
    fn preempt(&mut self, index: usize) {
        let mut sequence = self.running.remove(index);
        self.used_blocks -= sequence.blocks;
        self.prefilling -= u32::from(!sequence.is_decoding());
        self.policy.leaves(&sequence, Leaving::Preempted);
        sequence.unbind();
        self.queue.push_front(sequence);
        self.tally.preemptions += 1;
    }

    /// Goes on with prompts that were begun in earlier steps.
    fn continue_prefill(&mut self, budget: &mut u32, work: &mut Work) {
        if self.prefilling == 0 {
            return;
        }
        for sequence in self.running.iter_mut().filter(|sequence| !sequence.is_decoding()) {
            self.prefilling -= prefill(sequence, self.machine, budget, work);
            if *budget == 0 {
                break;
            }
        }
    }

    /// Lets the head of the queue in while the budget, the batch and the policy allow it.
    fn admit(&mut self, budget: &mut u32, work: &mut Work) {
        let mut new = 0;
        while *budget > 0 && self.running.len() < self.rules.max_batch as usize {
            let Some(head) = self.queue.front() else { break };
            if self.is_timed_out(head) {
                self.queue.pop_front();
                self.tally.shed += 1;
                continue;
            }
            let view = View {
                running: &self.running,
                new,
                free_blocks: self.rules.total_blocks - self.used_blocks,
                total_blocks: self.rules.total_blocks,
                block_tokens: self.rules.block_tokens,
                prefill_left_tokens: *budget,
                prefill_budget_tokens: self.rules.prefill_budget_tokens,
            };
            match self.policy.admit(head, &view) {
                Answer::Wait if self.running.is_empty() => self.refuse_head(),
                Answer::Wait => break,
                Answer::Never => self.refuse_head(),
                Answer::Admit => {
                    let blocks = head.target.div_ceil(self.rules.block_tokens);
                    if blocks > self.free_blocks() {
                        // The policy gave away what is not there.
                        self.tally.overruns += 1;
                        self.policy.leaves(head, Leaving::Preempted);
                        break;
                    }
                    self.bind_head(blocks, budget, work);
                    new += 1;
                }
            }
        }
    }

    /// An empty replica that refuses will refuse for ever.
    fn refuse_head(&mut self) {
        self.queue.pop_front();
        self.tally.refused += 1;
    }

    fn is_timed_out(&self, head: &Sequence) -> bool {
        let Some(factor) = self.rules.timeout_factor else { return false };
        let waited_s = self.now_s - head.arrival_s;
        !head.is_started && waited_s > factor * self.ttft_limit_s(head)
    }

    fn ttft_limit_s(&self, sequence: &Sequence) -> f64 {
        self.machine.ttft_limit_s(sequence.prompt, self.rules.prefill_budget_tokens)
    }

    fn bind_head(&mut self, blocks: u32, budget: &mut u32, work: &mut Work) {
        let Some(mut sequence) = self.queue.pop_front() else { return };
        sequence.bind(blocks, self.rules.block_tokens);
        self.used_blocks += blocks;
        self.prefilling += 1;
        self.prefilling -= prefill(&mut sequence, self.machine, budget, work);
        self.running.push(sequence);
        self.tally.running_peak = self.tally.running_peak.max(self.running.len() as u32);
    }

    fn collect_decodes(&self, work: &mut Work) {
        for sequence in &self.running {
            if sequence.turn == Turn::Decode {
                work.batch += 1;
                work.kv_tokens += u64::from(sequence.kv);
            }
        }
        work.emits += work.batch;
    }

    /// The step runs: time passes, tokens come out, who is done leaves.
    fn emit(&mut self, work: &Work) {
        let step_s = self.machine.step_s(work.batch, work.kv_tokens, work.prefill_s);
        self.now_s += step_s;
        self.tally.step(self.now_s, step_s, self.used_blocks, work.emits);
        if !self.queue.is_empty() {
            self.tally.crowded(self.now_s);
        }
        let mut has_ended = false;
        for sequence in &mut self.running {
            match sequence.turn {
                Turn::Rest => continue,
                Turn::First => {}
                Turn::Decode => {
                    sequence.kv += 1;
                    sequence.room -= 1;
                }
            }
            if sequence.generated == 0 {
                sequence.first_s = self.now_s;
            } else {
                let gap_s = self.now_s - sequence.latest_s;
                sequence.worst_gap_s = sequence.worst_gap_s.max(gap_s);
            }
            sequence.latest_s = self.now_s;
            sequence.generated += 1;
            has_ended |= sequence.generated >= sequence.output;
        }
        if has_ended {
            self.retire();
        }
    }

    fn retire(&mut self) {
        let is_done = |sequence: &mut Sequence| sequence.generated >= sequence.output;
        for sequence in self.running.extract_if(.., is_done) {
            self.used_blocks -= sequence.blocks;
            self.policy.leaves(&sequence, Leaving::Finished);
            let prefill_budget = self.rules.prefill_budget_tokens;
            let ttft_limit_s = self.machine.ttft_limit_s(sequence.prompt, prefill_budget);
            self.tally.finish(&sequence, ttft_limit_s, self.machine.tpot_limit_ms * 1e-3);
        }
    }

    /// Nothing can run. If sequences wait for each other's blocks, one has to give way; if a step
    /// only preempted, or the head was only refused, the next one goes on.
    fn resolve_standstill(&mut self, has_preempted: bool) {
        if !has_preempted && !self.running.is_empty() {
            self.tally.standstills += 1;
            let victim = self.policy.victim(&self.running);
            self.preempt(victim);
        }
    }
}

/// Gives a prompt its part of the budget. Returns 1 if it is through.
fn prefill(sequence: &mut Sequence, machine: &Machine, budget: &mut u32, work: &mut Work) -> u32 {
    let tokens = (sequence.target - sequence.kv).min(*budget);
    work.prefill_s += machine.prefill_s(sequence.kv, tokens);
    work.prefill_tokens += tokens;
    sequence.kv += tokens;
    *budget -= tokens;
    if sequence.kv < sequence.target {
        return 0;
    }
    sequence.turn = Turn::First;
    work.emits += 1;
    1
}

#[cfg(test)]
mod tests;
