//! The serving loop: arrivals, the gate, prefill, decode, release.
//!
//! The clock is the device's: every step advances it by what the step took between two CUDA
//! events, and when nothing runs it jumps to the next arrival. So the same loop gives the same
//! decisions however slow the host is, on a GPU and on the simulated driver.

use super::device::{AllocError, Device, Work};
use super::kv::{KvCache, Page};
use crate::requests::Request;
use anyhow::Context;
use memvelope::admission::{Gate, Lease, Reason, Rejection, Request as Ask};
use memvelope::runtime::Session;
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The gate is asked no more in a step after so many refusals in a row: nothing is released in
/// between, so a long queue would only burn host time that the next step needs.
const REFUSALS_PER_STEP: u32 = 8;

/// Requests that may wait for another try; past it new ones are dropped and counted.
const WAITING_MAX: usize = 1 << 16;

/// When a gate that refuses for now names no time: about a decode step.
const RETRY_DEFAULT: Nanos = Nanos(20 * Nanos::MILLI);

/// A page's key is its request's number and its own number within it. 2^24 pages of 16 tokens are
/// more than any context.
const KEY_SHIFT: u32 = 24;

/// How requests are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// What every client declares, and where outputs are cut.
    pub(crate) max_new_tokens: u64,
    /// Arrival times are divided by it.
    pub(crate) speed: f64,
    /// Whether the gate is asked; without it everything is admitted at once.
    pub(crate) is_gated: bool,
    /// Tokens to blocks.
    pub(crate) curve: CostCurve,
}

/// What happened.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// Requests that were let in.
    pub(crate) admitted: u64,
    /// Refusals; a request that comes back may be refused again.
    pub(crate) rejected: u64,
    /// Refusals by reason.
    pub(crate) rejected_by_reason: BTreeMap<&'static str, u64>,
    /// Requests that got all their output.
    pub(crate) completed: u64,
    /// Requests that were let in and lost their memory to a CUDA out-of-memory.
    pub(crate) failed: u64,
    /// Requests that can never be served, by reason.
    pub(crate) dropped: BTreeMap<&'static str, u64>,
    /// Allocations that the driver refused for want of memory.
    pub(crate) cuda_ooms: u64,
    /// Steps of the loop: one launch of each kernel.
    pub(crate) steps: u64,
    /// Prompt tokens written into the cache.
    pub(crate) prompt_tokens: u64,
    /// Output tokens written into the cache.
    pub(crate) output_tokens: u64,
    /// Most sequences running at once.
    pub(crate) running_peak: u64,
    /// Most requests waiting for another try at once.
    pub(crate) waiting_peak: u64,
    /// Highest sum of claims, in blocks.
    pub(crate) claimed_peak_blocks: Blocks,
    /// Sum and longest of the times from arrival to admission.
    pub(crate) wait_total_ns: u64,
    /// Longest time from arrival to admission.
    pub(crate) wait_max_ns: u64,
    /// The serving clock at the end.
    pub(crate) virtual_ns: u64,
}

impl Counts {
    fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Requests that are done with, one way or the other.
    pub(crate) fn settled(&self) -> u64 {
        self.completed + self.failed + self.dropped_total()
    }
}

/// A request that is being served.
#[derive(Debug)]
struct Sequence {
    /// `None` without a gate.
    lease: Option<Lease>,
    pages: Vec<Page>,
    /// Key of its first page; those after it count up.
    key: u64,
    /// Tokens in the cache.
    tokens: u64,
    /// Output tokens still to come.
    remaining: u64,
    claim: Blocks,
    is_prefilled: bool,
}

/// A request that comes back: ordered by the time it does, then by arrival.
type Waiting = Reverse<(u64, u32)>;

/// The loop and all it holds.
pub(crate) struct Server<'a> {
    settings: Settings,
    device: &'a mut Device,
    session: &'a Session,
    gate: &'a Gate,
    kv: &'a mut KvCache,
    requests: &'a [Request],
    /// First request that has not arrived yet.
    next: usize,
    waiting: BinaryHeap<Waiting>,
    running: Vec<Sequence>,
    /// What this step does; kept between steps for its memory.
    work: Work,
    now_ns: u64,
    claimed: Blocks,
    counts: Counts,
}

impl<'a> Server<'a> {
    /// A server at time zero.
    pub(crate) fn new(
        settings: Settings,
        device: &'a mut Device,
        session: &'a Session,
        gate: &'a Gate,
        kv: &'a mut KvCache,
        requests: &'a [Request],
    ) -> Self {
        Self {
            settings,
            device,
            session,
            gate,
            kv,
            requests,
            next: 0,
            waiting: BinaryHeap::new(),
            running: Vec::new(),
            work: Work::default(),
            now_ns: 0,
            claimed: Blocks::ZERO,
            counts: Counts::default(),
        }
    }

    /// Serves every request to its end. `on_step` hears the counts after every step.
    ///
    /// # Errors
    /// A driver call other than an allocation failed.
    pub(crate) fn run(mut self, on_step: &mut dyn FnMut(&Counts)) -> anyhow::Result<Counts> {
        loop {
            self.gate.tick(Nanos(self.now_ns));
            self.admit_due()?;
            if self.running.is_empty() {
                match self.next_due_ns() {
                    Some(due_ns) => self.now_ns = self.now_ns.max(due_ns),
                    None => break,
                }
                continue;
            }
            self.step()?;
            self.retire();
            self.kv.trim(self.device)?;
            on_step(&self.counts);
        }
        self.counts.virtual_ns = self.now_ns;
        Ok(self.counts)
    }

    fn arrival_ns(&self, request: usize) -> u64 {
        (self.requests[request].arrival_s / self.settings.speed * Nanos::SECOND as f64) as u64
    }

    /// When the next request arrives or comes back; `None` when there is none.
    fn next_due_ns(&self) -> Option<u64> {
        let arriving = (self.next < self.requests.len()).then(|| self.arrival_ns(self.next));
        let returning = self.waiting.peek().map(|Reverse((due_ns, _))| *due_ns);
        match (arriving, returning) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Asks the gate for whoever arrived or came back by now, earliest first.
    fn admit_due(&mut self) -> anyhow::Result<()> {
        let mut refusals = 0;
        while refusals < REFUSALS_PER_STEP
            && self.next_due_ns().is_some_and(|due_ns| due_ns <= self.now_ns)
        {
            let request = self.take_due();
            if self.settings.is_gated {
                match self.ask(request) {
                    Ok(lease) => {
                        refusals = 0;
                        let claim = lease.claim();
                        self.begin(request, Some(lease), claim)?;
                    }
                    Err(rejection) => {
                        refusals += 1;
                        self.refused(request, &rejection);
                    }
                }
            } else {
                self.begin_ungated(request)?;
            }
        }
        Ok(())
    }

    /// The request that is due first: a returning one before one that arrives at the same time.
    fn take_due(&mut self) -> u32 {
        let returning = self.waiting.peek().map(|Reverse((due_ns, _))| *due_ns);
        let arriving = (self.next < self.requests.len()).then(|| self.arrival_ns(self.next));
        let is_returning = match (returning, arriving) {
            (Some(returning), Some(arriving)) => returning <= arriving,
            (returning, _) => returning.is_some(),
        };
        if is_returning && let Some(Reverse((_, request))) = self.waiting.pop() {
            return request;
        }
        self.next += 1;
        self.next as u32 - 1
    }

    fn ask(&self, request: u32) -> Result<Lease, Rejection> {
        let asked = &self.requests[request as usize];
        let declared = Some(Tokens(self.declared(asked)));
        self.gate.try_admit(&Ask::new(Tokens(asked.prompt_tokens), declared))
    }

    /// What the client declares. A count that is no count is declared as it is: the gate says so.
    fn declared(&self, request: &Request) -> u64 {
        if request.output_tokens > u64::MAX >> 1 {
            request.output_tokens
        } else {
            self.settings.max_new_tokens
        }
    }

    fn refused(&mut self, request: u32, rejection: &Rejection) {
        let reason = rejection.reason.label();
        self.counts.rejected += 1;
        *self.counts.rejected_by_reason.entry(reason).or_default() += 1;
        if !rejection.reason.is_for_now() || self.running.is_empty() {
            // An empty gate that refuses will refuse for ever.
            *self.counts.dropped.entry(reason).or_default() += 1;
        } else if self.waiting.len() >= WAITING_MAX {
            *self.counts.dropped.entry("queue_full").or_default() += 1;
        } else {
            let after = rejection.retry_after.unwrap_or(RETRY_DEFAULT).0.max(1);
            self.waiting.push(Reverse((self.now_ns.saturating_add(after), request)));
            self.counts.waiting_peak = self.counts.waiting_peak.max(self.waiting.len() as u64);
        }
    }

    /// The counterfactual: everybody is let in, and the driver is the judge. Only counts that make
    /// no sense are kept out, which every server does.
    fn begin_ungated(&mut self, request: u32) -> anyhow::Result<()> {
        let asked = &self.requests[request as usize];
        let tokens = asked.prompt_tokens.checked_add(self.declared(asked));
        match tokens.filter(|tokens| *tokens <= u64::MAX >> 1 && asked.prompt_tokens > 0) {
            Some(tokens) => {
                let claim = self.settings.curve.blocks(Tokens(tokens));
                self.begin(request, None, claim)
            }
            None => {
                *self.counts.dropped.entry(Reason::BadTokenCount.label()).or_default() += 1;
                Ok(())
            }
        }
    }

    /// Takes an admitted request in: its prompt's pages at once.
    fn begin(&mut self, request: u32, lease: Option<Lease>, claim: Blocks) -> anyhow::Result<()> {
        let asked = &self.requests[request as usize];
        let waited = self.now_ns.saturating_sub(self.arrival_ns(request as usize));
        self.counts.admitted += 1;
        self.counts.wait_total_ns += waited;
        self.counts.wait_max_ns = self.counts.wait_max_ns.max(waited);
        let mut sequence = Sequence {
            lease,
            pages: Vec::new(),
            key: u64::from(request) << KEY_SHIFT,
            tokens: asked.prompt_tokens,
            remaining: asked.output_tokens.min(self.settings.max_new_tokens),
            claim,
            is_prefilled: false,
        };
        self.claimed = self.claimed.saturating_add(claim);
        self.counts.claimed_peak_blocks = self.counts.claimed_peak_blocks.max(self.claimed);
        if back(&mut sequence, self.settings.curve, self.kv, self.device, &mut self.counts)? {
            self.running.push(sequence);
            let running = self.running.len() as u64;
            self.counts.running_peak = self.counts.running_peak.max(running);
        } else {
            self.fail(sequence);
        }
        Ok(())
    }

    fn fail(&mut self, sequence: Sequence) {
        self.counts.failed += 1;
        self.release(sequence);
    }

    fn release(&mut self, sequence: Sequence) {
        for page in sequence.pages {
            self.kv.release(page);
        }
        self.claimed = self.claimed.saturating_sub(sequence.claim);
        drop(sequence.lease);
    }

    /// One step: prompts of the new, one token of everybody else, then all pages are read.
    fn step(&mut self) -> anyhow::Result<()> {
        self.work.clear();
        let mut index = 0;
        while index < self.running.len() {
            if !self.running[index].is_prefilled {
                self.prefill(index);
            } else if !self.decode(index)? {
                let sequence = self.running.swap_remove(index);
                self.fail(sequence);
                continue;
            }
            index += 1;
        }
        if self.running.is_empty() {
            return Ok(());
        }
        let _span = self.session.scope("step", None);
        let elapsed = self.device.step(self.kv, &self.work)?;
        self.now_ns = self.now_ns.saturating_add(elapsed.0);
        self.counts.steps += 1;
        Ok(())
    }

    /// Writes a prompt: its full pages are sealed, the rest is the sequence's tail.
    fn prefill(&mut self, index: usize) {
        let block_tokens = self.settings.curve.block_tokens();
        let sequence = &mut self.running[index];
        sequence.is_prefilled = true;
        self.counts.prompt_tokens += sequence.tokens;
        let mut left = sequence.tokens;
        for (key, page) in (sequence.key..).zip(&sequence.pages) {
            let tokens = left.min(u64::from(block_tokens)) as u32;
            left -= u64::from(tokens);
            let span = self.kv.span(*page, key, 0, tokens);
            self.work.prompts.push(span);
            if tokens == block_tokens {
                self.kv.seal(*page, key);
            } else {
                self.work.tails.push(span);
            }
        }
    }

    /// Grows a sequence by one token. False: the driver is out of memory.
    fn decode(&mut self, index: usize) -> anyhow::Result<bool> {
        let sequence = &mut self.running[index];
        if let Some(lease) = &mut sequence.lease {
            let growth = lease.grow(Tokens(1)).context("the gate broke its guarantee")?;
            // Under `Guaranteed`, with a budget that nobody shrinks, no lease is made to wait.
            anyhow::ensure!(growth.is_granted(), "the gate broke its guarantee: a lease waits");
        }
        sequence.tokens += 1;
        sequence.remaining -= 1;
        let curve = self.settings.curve;
        if !back(sequence, curve, self.kv, self.device, &mut self.counts)? {
            return Ok(false);
        }
        self.counts.output_tokens += 1;
        let Some(page) = sequence.pages.last() else { return Ok(true) };
        let key = sequence.key + sequence.pages.len() as u64 - 1;
        let slot = ((sequence.tokens - 1) % u64::from(curve.block_tokens())) as u32;
        self.work.tokens.push(self.kv.span(*page, key, slot, 1));
        if slot + 1 == curve.block_tokens() {
            self.kv.seal(*page, key);
        } else {
            self.work.tails.push(self.kv.span(*page, key, 0, slot + 1));
        }
        Ok(true)
    }

    /// Ends whoever has all its output.
    fn retire(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &self.running[index];
            if sequence.is_prefilled && sequence.remaining == 0 {
                let sequence = self.running.swap_remove(index);
                self.counts.completed += 1;
                self.release(sequence);
            } else {
                index += 1;
            }
        }
    }
}

/// Takes pages until the sequence's tokens have room. False: the driver is out of memory.
fn back(
    sequence: &mut Sequence,
    curve: CostCurve,
    kv: &mut KvCache,
    device: &Device,
    counts: &mut Counts,
) -> anyhow::Result<bool> {
    let needed = curve.blocks(Tokens(sequence.tokens)).0 as usize;
    while sequence.pages.len() < needed {
        match kv.take(device) {
            Ok(page) => sequence.pages.push(page),
            Err(AllocError::OutOfMemory) => {
                counts.cuda_ooms += 1;
                return Ok(false);
            }
            Err(AllocError::Other(error)) => return Err(error),
        }
    }
    Ok(true)
}
