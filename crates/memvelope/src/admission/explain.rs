//! Why a gate decides as it does, and what would have changed it: for logs, and for 3 a.m.

use super::answer::{Reason, Rejection};
use super::books::{Ask, Books, Refusal, State};
use super::gate::{Fault, Gate, Keeper};
use super::guaranteed::Shortage;
use super::lease::{Home, Lease};
use super::request::Request;
use crate::units::{Blocks, CostCurve, Nanos, Tokens};
use serde::Serialize;
use std::fmt;

/// What the gate would answer to a request now, and from which numbers. Nothing is changed by
/// asking, and nothing is counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    /// Whether it would be admitted.
    pub is_admitted: bool,
    /// Why not.
    pub reason: Option<Reason>,
    /// Capacity of its pool in force.
    pub capacity_blocks: Blocks,
    /// What is held there, shared blocks once, and what all leases together may come to hold.
    pub held_blocks: Blocks,
    /// Sum of claims, shared blocks once.
    pub claimed_blocks: Blocks,
    /// Capacity under which the promises to the leases hold: above the capacity in force, the pool
    /// is overcommitted.
    pub required_blocks: Blocks,
    /// What other pools could lend.
    pub lendable_blocks: Blocks,
    /// Blocks the request takes at once, and may come to hold.
    pub first_blocks: Blocks,
    /// Its claim.
    pub claim_blocks: Blocks,
    /// Blocks that lack for it.
    pub short_blocks: Blocks,
    /// Expected peak of what runs, without the request; absent without an estimate.
    pub expected_peak_blocks: Option<f64>,
    /// The same with the margin that is kept.
    pub kept_peak_blocks: Option<f64>,
    /// Live leases of the pool.
    pub leases: u64,
    /// Requests that wait in its queue, and come first.
    pub waiting: u64,
    /// When to ask again.
    pub retry_after: Option<Nanos>,
    /// What would have changed the answer.
    pub admitted_if: Vec<Change>,
}

/// A change after which a request would have been admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It declared no more new tokens than this.
    MaxNewTokens(Tokens),
    /// The capacity of its pool were larger by so many blocks.
    MoreCapacityBlocks(Blocks),
    /// So many requests before it in the queue were served.
    QueueAhead(u64),
}

/// What a lease would be answered that grows now, and from which numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GrowthExplanation {
    /// Whether it would be granted.
    pub is_granted: bool,
    /// Tokens past the declared maximum: refused for good.
    pub past_maximum_tokens: Tokens,
    /// Blocks that it would draw.
    pub blocks: Blocks,
    /// What it may still draw in all, and the smallest such need of its pool.
    pub need_blocks: Blocks,
    /// The lease with this need is never made to wait.
    pub smallest_need_blocks: Blocks,
    /// Blocks free in its pool; negative after the budget shrank.
    pub free_blocks: i64,
    /// Blocks that must come back, or be added to the capacity, before it is granted.
    pub short_blocks: Blocks,
    /// Whether the budget shrank below what is held or safe.
    pub is_overcommitted: bool,
}

impl Gate {
    /// Why a request would be admitted now or not, and what would have changed it. Searches for the
    /// changes: tens of microseconds, not for the hot path.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let inner = self.inner();
        let ask = match inner.ask_as(request, Books::known_class) {
            Ok(ask) => ask,
            Err(fault) => return Explanation::of_fault(request, &fault),
        };
        let mut explanation = match &inner.keeper {
            Keeper::Books(books) => match books.lock() {
                Some(mut state) => state.explain(&ask, &books.curve),
                None => Explanation::default(),
            },
            Keeper::LockFree(gate) => {
                let usage = gate.usage(usize::from(ask.pool));
                let mut explanation = Explanation {
                    is_admitted: true,
                    capacity_blocks: usage.capacity_blocks,
                    held_blocks: usage.held_blocks,
                    claimed_blocks: usage.claimed_blocks,
                    required_blocks: usage.claimed_blocks,
                    leases: usage.leases,
                    waiting: usage.waiting,
                    ..Explanation::default()
                };
                if let Some(short) = inner.short_of(gate, &ask) {
                    let total = Tokens(ask.max_tokens);
                    let rejection = gate.rejection(usize::from(ask.pool), total, short);
                    explanation.refuse(&rejection);
                    if short == Shortage::Queued {
                        explanation.admitted_if.push(Change::QueueAhead(usage.waiting));
                    } else {
                        let free = usage.capacity_blocks.saturating_sub(usage.claimed_blocks);
                        explanation.short_blocks = Blocks(ask.claim).saturating_sub(free);
                        explanation.change_linear(&ask, &gate.curve, free);
                    }
                }
                explanation
            }
        };
        explanation.first_blocks = Blocks(ask.held.into());
        explanation.claim_blocks = Blocks(ask.claim);
        explanation
    }
}

impl Explanation {
    /// A request that no account was asked about.
    fn of_fault(request: &Request<'_>, fault: &Fault) -> Self {
        let mut explanation = Self::default();
        explanation.refuse(&Rejection::never(fault.reason, fault.short_by));
        if fault.reason == Reason::TooLong
            && let Some(new) = request.max_new_tokens
        {
            let fitting = new.saturating_sub(fault.short_by);
            if fitting.0 > 0 {
                explanation.admitted_if.push(Change::MaxNewTokens(fitting));
            }
        }
        explanation
    }

    fn refuse(&mut self, rejection: &Rejection) {
        self.is_admitted = false;
        self.reason = Some(rejection.reason);
        self.retry_after = rejection.retry_after;
    }

    /// What would have changed the answer where claims alone count.
    fn change_linear(&mut self, ask: &Ask, curve: &CostCurve, free: Blocks) {
        let fitting = curve.tokens(free).0.saturating_sub(ask.prompt_tokens);
        if fitting > 0 {
            self.admitted_if.push(Change::MaxNewTokens(Tokens(fitting)));
        }
        self.admitted_if.push(Change::MoreCapacityBlocks(self.short_blocks));
    }
}

impl State {
    fn would(&mut self, ask: &Ask) -> Result<(), Refusal> {
        if self.queue.len_of(usize::from(ask.pool)) > 0 {
            return Err(Refusal { reason: Reason::Queued, short: 0 });
        }
        self.try_out(|state| {
            let shared = state.share_prefix(ask);
            let outcome = state.check(ask, shared);
            state.unshare_prefix(ask, shared);
            match outcome {
                Err(_) if shared > 0 => state.check(&Ask { prefix: None, ..*ask }, 0),
                outcome => outcome,
            }
        })
    }

    fn explain(&mut self, ask: &Ask, curve: &CostCurve) -> Explanation {
        let pool = usize::from(ask.pool);
        let outcome = self.would(ask);
        let margin = self.outlook.as_ref().map(super::outlook::Outlook::margin);
        let account = &self.accounts[pool];
        let peaks = self.outlook.as_ref().zip(margin).map(|(outlook, margin)| {
            let (mean, most) = outlook.forecast(pool).peaks(margin);
            let shared = account.shared as f64;
            (f64::from(mean) + shared, f64::from(most) + shared)
        });
        let mut explanation = Explanation {
            is_admitted: outcome.is_ok(),
            capacity_blocks: Blocks(account.capacity),
            held_blocks: Blocks(account.held()),
            claimed_blocks: Blocks(account.claimed + account.shared),
            required_blocks: Blocks(self.rule.required(account)),
            lendable_blocks: Blocks(self.lendable(pool)),
            expected_peak_blocks: peaks.map(|(mean, _)| mean),
            kept_peak_blocks: peaks.map(|(_, most)| most),
            leases: account.leases,
            waiting: self.queue.len_of(pool) as u64,
            ..Explanation::default()
        };
        if let Err(refusal) = outcome {
            explanation.refuse(&self.rejection(ask, refusal, curve));
            explanation.short_blocks = Blocks(refusal.short);
            self.changes(ask, curve, &mut explanation);
        }
        explanation
    }

    /// What would have changed a refusal. Fewer tokens are never refused where more are admitted,
    /// nor a smaller capacity enough where a larger is not: so the edges are found by halving.
    fn changes(&mut self, ask: &Ask, curve: &CostCurve, explanation: &mut Explanation) {
        if explanation.waiting > 0 {
            explanation.admitted_if.push(Change::QueueAhead(explanation.waiting));
            return;
        }
        let fewer = last_true(ask.max_tokens - ask.prompt_tokens, |new| {
            let max_tokens = ask.prompt_tokens + new;
            let claim = curve.blocks(Tokens(max_tokens)).0;
            self.would(&Ask { max_tokens, claim, ..*ask }).is_ok()
        });
        if fewer > 0 {
            explanation.admitted_if.push(Change::MaxNewTokens(Tokens(fewer)));
        }
        let pool = usize::from(ask.pool);
        let (before, best) = (self.accounts[pool].capacity, self.accounts[pool].capacity_best);
        let room = super::settings::CAPACITY_BLOCKS_MAX.saturating_sub(before);
        // The largest addition that is not enough, and one more.
        let lacking = last_true(room, |more| {
            self.accounts[pool].capacity = before + more;
            self.accounts[pool].capacity_best = best.max(before + more);
            self.would(ask).is_err()
        });
        (self.accounts[pool].capacity, self.accounts[pool].capacity_best) = (before, best);
        if lacking < room {
            explanation.admitted_if.push(Change::MoreCapacityBlocks(Blocks(lacking + 1)));
        }
    }
}

/// The largest number up to `most` for which a condition holds that holds up to some number and not
/// beyond; 0 if it holds for none.
fn last_true(most: u64, mut holds: impl FnMut(u64) -> bool) -> u64 {
    let (mut true_at, mut beyond) = (0, most.saturating_add(1));
    while beyond - true_at > 1 {
        let middle = u64::midpoint(true_at, beyond);
        if holds(middle) {
            true_at = middle;
        } else {
            beyond = middle;
        }
    }
    true_at
}

impl Lease {
    /// What this lease would be answered if it grew by `tokens` now, and from which numbers.
    #[must_use]
    pub fn explain(&self, tokens: Tokens) -> GrowthExplanation {
        let left = self.max_tokens.saturating_sub(self.tokens);
        let mut explanation = GrowthExplanation {
            past_maximum_tokens: Tokens(tokens.0.saturating_sub(left)),
            need_blocks: self.need(),
            ..GrowthExplanation::default()
        };
        if tokens.0 > left {
            return explanation;
        }
        let grown = self.tokens + tokens.0;
        match &self.home {
            Home::Sums(account) if account.is_forked() => {}
            Home::Sums(account) => {
                let blocks = account.blocks_of(grown).0.saturating_sub(self.held.into());
                let reading = account.reading();
                let free = reading.capacity as i64 - reading.held as i64;
                explanation.is_overcommitted = reading.claimed > reading.capacity;
                explanation.blocks = Blocks(blocks);
                explanation.free_blocks = free;
                explanation.smallest_need_blocks = self.need();
                let short = u64::try_from(blocks as i64 - free).unwrap_or(0);
                explanation.short_blocks = Blocks(short);
                explanation.is_granted = blocks == 0 || !explanation.is_overcommitted || short == 0;
            }
            Home::Books(books, slot) => {
                let held = books.curve.blocks(Tokens(grown)).0;
                let blocks = held.saturating_sub(self.held.into());
                explanation.blocks = Blocks(blocks);
                if let Some(mut state) = books.lock() {
                    state.explain_growth(*slot, blocks as u32, &mut explanation);
                }
            }
        }
        explanation
    }
}

impl State {
    fn explain_growth(&mut self, slot: u32, blocks: u32, explanation: &mut GrowthExplanation) {
        let entry = self.roster[slot];
        if entry.is_expired {
            return; // It is granted nothing any more.
        }
        let pool = usize::from(entry.pool);
        let account = &self.accounts[pool];
        let smallest = account.needs.smallest();
        explanation.smallest_need_blocks = Blocks(smallest.unwrap_or(0).into());
        explanation.free_blocks = account.free();
        explanation.is_overcommitted = self.is_overcommitted(pool);
        let short = if explanation.is_overcommitted {
            match smallest == Some(entry.need()) && i64::from(blocks) <= account.free() {
                true => 0,
                false => self.rule.required(account).saturating_sub(account.capacity).max(1),
            }
        } else {
            self.rule.short_to_grow(account, entry.need(), blocks)
        };
        explanation.short_blocks = Blocks(short);
        explanation.is_granted =
            blocks == 0 || self.try_out(|state| state.may_draw(pool, entry.need(), blocks));
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            None => write!(f, "admitted")?,
            Some(reason) => write!(f, "rejected: {reason}")?,
        }
        let Self { capacity_blocks, held_blocks, claimed_blocks, .. } = self;
        write!(f, "\n  pool: capacity {capacity_blocks}, held {held_blocks}")?;
        write!(f, ", claimed {claimed_blocks}, required {}", self.required_blocks)?;
        if let (Some(mean), Some(kept)) = (self.expected_peak_blocks, self.kept_peak_blocks) {
            write!(f, "\n  expected peak: {mean:.0} blocks, with margin {kept:.0}")?;
        }
        write!(f, "\n  request: {} at once, claim {}", self.first_blocks, self.claim_blocks)?;
        if self.short_blocks.0 > 0 {
            write!(f, ", short by {}", self.short_blocks)?;
        }
        for change in &self.admitted_if {
            match change {
                Change::MaxNewTokens(tokens) => {
                    write!(f, "\n  admitted with max_new_tokens <= {}", tokens.0)?
                }
                Change::MoreCapacityBlocks(blocks) => {
                    write!(f, "\n  admitted with {blocks} more capacity")?;
                }
                Change::QueueAhead(waiting) => {
                    write!(f, "\n  admitted after {waiting} in the queue")?;
                }
            }
        }
        match self.retry_after {
            Some(wait) => write!(f, "\n  ask again in {wait}"),
            None => Ok(()),
        }
    }
}
