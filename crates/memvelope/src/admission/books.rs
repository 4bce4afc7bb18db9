//! The books of a gate: accounts, leases, prefixes, estimate and queue, under one lock.
//!
//! The lock is a leaf, and nothing foreign is called under it. An admission, a growth or a release
//! holds it for a fraction of a microsecond; once a step there is a pass over the leases; letting
//! in whoever waits takes as long as there are who fit, and `explain` and `victims` look at every
//! lease. What a lease does between two blocks needs no lock at all.

use super::account::Account;
use super::answer::{Reason, Usage};
use super::outlook::Outlook;
use super::policy::{Rule, rule};
use super::pool::split;
use super::prefixes::Prefixes;
use super::queue::Queue;
use super::request::Prefix;
use super::roster::{Entry, NOBODY_ELSE, Roster};
use super::settings::{CAPACITY_BLOCKS_MAX, GateConfig, Policy};
use crate::units::{Blocks, CostCurve, Nanos};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Blocks short of its maximum at which an output counts as cut there; but no more than a part of
/// what it might produce, or where blocks are as long as outputs nothing would ever be learned.
const CUT_BLOCKS: u64 = 2;
const CUT_PART: u64 = 4;

/// What is behind the lock, and what never changes.
#[derive(Debug)]
pub(crate) struct Books {
    /// Of the process that made the gate; in a forked child the lock may be held by a thread that
    /// is not there, and is never touched.
    generation: u32,
    pub(crate) curve: CostCurve,
    state: Mutex<State>,
}

/// An admission as the books see it: checked, in blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) pool: u16,
    pub(crate) class: u16,
    pub(crate) prompt_tokens: u64,
    pub(crate) max_tokens: u64,
    /// Blocks of the prompt, and of the whole sequence.
    pub(crate) held: u32,
    pub(crate) claim: u64,
    pub(crate) prefix: Option<Prefix>,
}

/// Why not, with the blocks that lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) short: u64,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was released: it ended by itself, or at its maximum.
    Released,
    /// The engine took its blocks to let others go on.
    Preempted,
    /// It was silent for too long.
    Expired,
}

/// What a lease is told that draws blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    Granted,
    Wait,
    /// It has no blocks any more: it was silent for too long.
    Expired,
}

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) rule: Box<dyn Rule>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) roster: Roster,
    pub(crate) prefixes: Prefixes,
    pub(crate) outlook: Option<Outlook>,
    pub(crate) queue: Queue,
    pub(crate) epoch: u64,
    pub(crate) now: Nanos,
    /// Steps and their time since the first tick: how long a token takes.
    pub(crate) pace: super::pace::Pace,
    /// Tokens of a block that leases can share; 0 where a curve is no plain one, and nothing is
    /// shared.
    block_tokens: u32,
    /// Tokens of [`CUT_BLOCKS`], whatever the curve.
    cut_tokens: u64,
    leases_max: usize,
    /// After how long a lease that is not heard of is taken back.
    silent_max: Option<Nanos>,
    is_lending: bool,
}

impl Books {
    pub(crate) fn new(config: &GateConfig) -> Self {
        let shares: Vec<u32> = config.pools.iter().map(|pool| pool.share).collect();
        let floors = config.pools.iter().map(|pool| u64::from(pool.floor_percent));
        let parts = split(config.capacity, &shares);
        let mut accounts: Vec<_> = parts
            .iter()
            .zip(floors)
            .map(|(part, percent)| Account::new(part.0, part.0 * percent / 100))
            .collect();
        raise_best(&mut accounts, config.capacity.0);
        let outlook = config.estimate.filter(|_| config.policy == Policy::Banker);
        // A block that only some layers fill, or that a window frees, is no one's to share.
        let block_tokens = if config.curve.is_plain() { config.curve.block_tokens() } else { 0 };
        Self {
            generation: crate::fork::generation(),
            curve: config.curve,
            state: Mutex::new(State {
                rule: rule(config.policy),
                outlook: outlook
                    .map(|e| Outlook::new(e, accounts.len(), blocks_per_token(&config.curve))),
                queue: Queue::new(config.queue_max, accounts.len()),
                accounts,
                roster: Roster::default(),
                prefixes: Prefixes::default(),
                epoch: 0,
                now: Nanos::ZERO,
                pace: super::pace::Pace::default(),
                block_tokens,
                cut_tokens: CUT_BLOCKS * u64::from(config.curve.block_tokens()),
                leases_max: config.leases_max as usize,
                silent_max: config.silent_max,
                is_lending: config.pools.iter().any(|pool| pool.floor_percent < 100),
            }),
        }
    }

    /// The state; `None` in a forked child.
    #[inline]
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, State>> {
        if self.generation != crate::fork::generation() {
            return None;
        }
        // Nothing under the lock unwinds but a bug of ours, and then the sums are as they were
        // before or after one change: each is made whole before the next.
        Some(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Blocks that one more token takes while every layer grows: in the long run, of all sequences.
fn blocks_per_token(curve: &CostCurve) -> f32 {
    curve.terms().map(|term| term.count as f32 / term.block_tokens as f32).sum()
}

/// Blocks that an admission must find in its pool, whatever else is there.
pub(crate) fn bound_of(rule: &dyn Rule, ask: &Ask) -> u64 {
    // A prompt of 2^32 blocks and more was cut; its claim was not.
    if rule.bounds_claims() || ask.held == u32::MAX { ask.claim } else { ask.held.into() }
}

/// Highest capacity that each account could ever have, if the others lent all they may.
fn raise_best(accounts: &mut [Account], capacity: u64) {
    let floors: u64 = accounts.iter().map(|account| account.floor).sum();
    for account in accounts {
        let possible = (capacity + account.floor).saturating_sub(floors).max(account.nominal);
        account.capacity_best = account.capacity_best.max(possible);
    }
}

impl State {
    /// Whether any pool may lend.
    #[inline]
    pub(crate) const fn is_lending(&self) -> bool {
        self.is_lending
    }

    pub(crate) const fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Whether there are, or before the last release were, as many leases as there may be: what
    /// ends in one pool then lets somebody into another.
    pub(crate) const fn is_crowded(&self) -> bool {
        self.roster.len() + 1 >= self.leases_max
    }

    /// Whether the budget of a pool is below what its promises need.
    #[inline]
    pub(crate) fn is_overcommitted(&self, pool: usize) -> bool {
        let account = &self.accounts[pool];
        self.rule.required(account) > account.capacity
    }

    /// Takes a lease in, or says why not. Its slot.
    pub(crate) fn admit(&mut self, ask: &Ask) -> Result<u32, Refusal> {
        let shared = self.share_prefix(ask);
        let outcome = self.check(ask, shared);
        if outcome.is_err() {
            self.unshare_prefix(ask, shared);
            if shared > 0 {
                // Counting its prefix a second time asks for more, but of nobody else.
                return self.admit(&Ask { prefix: None, ..*ask });
            }
        }
        outcome?;
        Ok(self.enter(ask, shared))
    }

    /// Why a lease can never come in, as far as anyone knows.
    pub(crate) fn never(&self, ask: &Ask) -> Option<Refusal> {
        let best = self.accounts[usize::from(ask.pool)].capacity_best;
        let short = bound_of(&*self.rule, ask).checked_sub(best).filter(|short| *short > 0)?;
        Some(Refusal { reason: Reason::TooLong, short })
    }

    /// Whether a lease may come in now. What lacks is borrowed if it can be.
    pub(crate) fn check(&mut self, ask: &Ask, shared: u32) -> Result<(), Refusal> {
        let refuse = |reason, short| Err(Refusal { reason, short });
        if self.roster.len() >= self.leases_max {
            return refuse(Reason::TooManyLeases, 0);
        }
        let pool = usize::from(ask.pool);
        let account = &self.accounts[pool];
        if let Some(refusal) = self.never(ask) {
            return Err(refusal);
        }
        let bound = bound_of(&*self.rule, ask);
        let (held, claim) = (ask.held - shared, ask.claim.min(CAPACITY_BLOCKS_MAX) as u32 - shared);
        let lacking = self.rule.required(account).saturating_sub(account.capacity);
        if lacking > 0 && !self.borrow(pool, lacking) {
            let own = self.rule.short_to_admit(&self.accounts[pool], held, claim);
            return refuse(Reason::Overcommitted, lacking.max(own));
        }
        let short = self.rule.short_to_admit(&self.accounts[pool], held, claim);
        if short > 0 && short > self.lendable(pool) {
            let is_shrunk = bound > self.possible(pool);
            return refuse(
                if is_shrunk { Reason::Overcommitted } else { Reason::NoCapacity },
                short,
            );
        }
        match self.expected_to_borrow(ask, held, claim, short) {
            None => refuse(Reason::Predicted, 0),
            Some(0) => Ok(()),
            Some(blocks) => {
                self.borrow(pool, blocks);
                Ok(())
            }
        }
    }

    /// How much to borrow, at least `short`, so that a lease is expected to make nobody wait;
    /// hardly more than that. `None` if all there is to lend is not enough.
    fn expected_to_borrow(&mut self, ask: &Ask, held: u32, claim: u32, short: u64) -> Option<u64> {
        if self.is_expected_to_fit(ask, held, claim, short) {
            return Some(short);
        }
        let most = self.lendable(usize::from(ask.pool));
        if most <= short || !self.is_expected_to_fit(ask, held, claim, most) {
            return None;
        }
        let (mut lacking, mut enough) = (short, most);
        while enough - lacking > 1 + most / 64 {
            let middle = u64::midpoint(lacking, enough);
            match self.is_expected_to_fit(ask, held, claim, middle) {
                true => enough = middle,
                false => lacking = middle,
            }
        }
        Some(enough)
    }

    fn is_expected_to_fit(&mut self, ask: &Ask, held: u32, claim: u32, borrowed: u64) -> bool {
        let Some(outlook) = &mut self.outlook else { return true };
        let leases = self.roster.len();
        if outlook.is_stale(leases) {
            outlook.refresh(&mut self.roster);
        }
        let pool = usize::from(ask.pool);
        let account = &self.accounts[pool];
        let left = ask.max_tokens - ask.prompt_tokens;
        let left_tokens = u32::try_from(left).unwrap_or(u32::MAX);
        let share = super::forecast::Share { held, claim, left_tokens };
        outlook.fits(account, pool, &share, ask.class, account.capacity + borrowed)
    }

    fn enter(&mut self, ask: &Ask, shared: u32) -> u32 {
        let (held, claim) = (ask.held - shared, ask.claim.min(CAPACITY_BLOCKS_MAX) as u32 - shared);
        let slot = self.roster.insert(Entry {
            pool: ask.pool,
            class: ask.class,
            held,
            claim,
            shared,
            reserved: held,
            prompt_tokens: ask.prompt_tokens,
            tokens: ask.prompt_tokens,
            max_tokens: ask.max_tokens,
            heard: self.now,
            previous: NOBODY_ELSE,
            next: NOBODY_ELSE,
            ..Entry::default()
        });
        let account = &mut self.accounts[usize::from(ask.pool)];
        account.needs.insert(claim - held, held);
        account.claimed += u64::from(claim);
        account.reserved += u64::from(held);
        account.leases += 1;
        account.admitted = account.admitted.saturating_add(1);
        account.raise_peaks();
        if let Some(outlook) = &mut self.outlook {
            outlook.add(&mut self.roster[slot]);
        }
        if let Some(prefix) = ask.prefix {
            self.join_prefix(slot, prefix, ask);
        }
        slot
    }

    /// A lease wants to hold `held` blocks of its own sequence, for `tokens` of it.
    pub(crate) fn grow(&mut self, slot: u32, tokens: u64, held: u32) -> Draw {
        let entry = self.roster[slot];
        if entry.is_expired {
            return Draw::Expired;
        }
        self.roster[slot].heard = self.now;
        let (pool, blocks) = (usize::from(entry.pool), held - entry.shared - entry.held);
        if blocks > 0 && !self.may_draw(pool, entry.need(), blocks) {
            let account = &mut self.accounts[pool];
            account.waits = account.waits.saturating_add(1);
            let entry = &mut self.roster[slot];
            entry.waits = entry.waits.saturating_add(1);
            if let Some(outlook) = &mut self.outlook {
                outlook.waited();
            }
            return Draw::Wait;
        }
        self.settle_prefill(slot, entry.reserved);
        let account = &mut self.accounts[pool];
        account.needs.shift(entry.need(), entry.held, blocks);
        account.granted = account.granted.saturating_add(1);
        account.raise_peaks();
        let entry = &mut self.roster[slot];
        entry.held += blocks;
        entry.tokens = tokens;
        if let Some(outlook) = &mut self.outlook {
            outlook.grew();
        }
        Draw::Granted
    }

    /// Whether a lease with `need` may draw `blocks` now; borrows what lacks if it can be.
    pub(crate) fn may_draw(&mut self, pool: usize, need: u32, blocks: u32) -> bool {
        let account = &self.accounts[pool];
        let lacking = self.rule.required(account).saturating_sub(account.capacity);
        if lacking > 0 && !self.borrow(pool, lacking) {
            // Overcommitted: the one that is nearest to its claim goes on while anything is free.
            let account = &self.accounts[pool];
            return account.needs.smallest() == Some(need) && i64::from(blocks) <= account.free();
        }
        let short = self.rule.short_to_grow(&self.accounts[pool], need, blocks);
        short == 0 || self.borrow(pool, short)
    }

    /// Prefill reached `blocks` more blocks of a prompt.
    pub(crate) fn settle_prefill(&mut self, slot: u32, blocks: u32) {
        let now = self.now;
        let entry = &mut self.roster[slot];
        let blocks = blocks.min(entry.reserved);
        entry.reserved -= blocks;
        entry.heard = now;
        self.accounts[usize::from(entry.pool)].reserved -= u64::from(blocks);
    }

    /// A lease ends with so many tokens.
    pub(crate) fn release(&mut self, slot: u32, tokens: u64, end: End) {
        if !self.roster[slot].is_expired {
            self.take_back(slot, tokens, end);
        }
        self.roster.remove(slot);
    }

    /// Leases that were not heard of for too long lose their blocks. Each keeps its slot until it
    /// is dropped, so that none is released twice.
    pub(crate) fn expire_silent(&mut self) {
        let Some(silent_max) = self.silent_max else { return };
        let is_silent = |entry: &Entry| self.now.saturating_sub(entry.heard) > silent_max;
        let silent = self.roster.iter().filter(|(_, entry)| is_silent(entry));
        for slot in silent.map(|(slot, _)| slot).collect::<Vec<_>>() {
            self.take_back(slot, self.roster[slot].tokens, End::Expired);
            let entry = &mut self.roster[slot];
            (entry.is_live, entry.is_expired) = (false, true);
        }
    }

    /// The blocks of a lease are free again, and what is to be learned of it is.
    fn take_back(&mut self, slot: u32, tokens: u64, end: End) {
        self.settle_prefill(slot, u32::MAX);
        if self.roster[slot].prefix.is_some() {
            self.leave_prefix(slot);
        }
        let entry = self.roster[slot];
        if let Some(outlook) = &mut self.outlook {
            // At its maximum it was cut: how long it would have become, nobody saw. Engines count
            // the last token differently (its KV is never written), or tell the gate of blocks
            // alone.
            let left = entry.max_tokens - tokens;
            let part = (entry.max_tokens - entry.prompt_tokens) / CUT_PART;
            let has_ended = end == End::Released && left > self.cut_tokens.min(part);
            outlook.remove(&entry, tokens - entry.prompt_tokens, has_ended);
        }
        let account = &mut self.accounts[usize::from(entry.pool)];
        account.needs.remove(entry.need(), entry.held);
        account.claimed -= u64::from(entry.claim);
        account.leases -= 1;
        account.released = account.released.saturating_add(1);
        account.preempted = account.preempted.saturating_add(u64::from(end == End::Preempted));
        account.expired = account.expired.saturating_add(u64::from(end == End::Expired));
        account.outcomes.released(&entry, tokens, end);
        account.released_blocks = account.released_blocks.wrapping_add(u64::from(entry.held));
    }

    /// Blocks that other pools could lend to one, all of them together.
    pub(crate) fn lendable(&self, pool: usize) -> u64 {
        if !self.is_lending {
            return 0;
        }
        let others = self.accounts.iter().enumerate().filter(|(other, _)| *other != pool);
        others.map(|(_, account)| self.spare_of(account)).sum()
    }

    /// Capacity that a pool has if the others lend all they may, whatever they promised.
    pub(crate) fn possible(&self, pool: usize) -> u64 {
        let capacity = self.accounts[pool].capacity;
        if !self.is_lending {
            return capacity;
        }
        let others = self.accounts.iter().enumerate().filter(|(other, _)| *other != pool);
        capacity + others.map(|(_, a)| a.capacity.saturating_sub(a.floor)).sum::<u64>()
    }

    fn spare_of(&self, account: &Account) -> u64 {
        account.capacity.saturating_sub(self.rule.required(account).max(account.floor))
    }

    /// Moves `blocks` of capacity from other pools to one, all or nothing, from the richest first;
    /// what they keep is what their promises need, and their floor.
    pub(crate) fn borrow(&mut self, pool: usize, blocks: u64) -> bool {
        if !self.is_lending || self.lendable(pool) < blocks {
            return false;
        }
        let mut left = blocks;
        while left > 0 {
            let others = (0..self.accounts.len()).filter(|other| *other != pool);
            let Some(richest) = others.max_by_key(|&other| self.spare_of(&self.accounts[other]))
            else {
                break;
            };
            let part = self.spare_of(&self.accounts[richest]).min(left);
            if part == 0 {
                break;
            }
            self.accounts[richest].capacity -= part;
            self.accounts[pool].capacity += part;
            left -= part;
        }
        debug_assert_eq!(left, 0, "it was lendable");
        left == 0
    }

    /// Tries something out: what it borrowed goes back.
    pub(crate) fn try_out<T>(&mut self, attempt: impl FnOnce(&mut Self) -> T) -> T {
        let before: Vec<u64> = self.accounts.iter().map(|account| account.capacity).collect();
        let outcome = attempt(self);
        for (account, capacity) in self.accounts.iter_mut().zip(before) {
            account.capacity = capacity;
        }
        outcome
    }

    /// Sets the capacity of the whole gate; a stale epoch changes nothing.
    pub(crate) fn set_capacity(&mut self, blocks: Blocks, epoch: u64, pools: &[(u32, u8)]) -> bool {
        if epoch <= self.epoch {
            return false;
        }
        self.epoch = epoch;
        let shares: Vec<u32> = pools.iter().map(|(share, _)| *share).collect();
        let capacity = blocks.0.min(CAPACITY_BLOCKS_MAX);
        for ((account, part), (_, percent)) in
            self.accounts.iter_mut().zip(split(Blocks(capacity), &shares)).zip(pools)
        {
            account.nominal = part.0;
            account.capacity = part.0;
            account.floor = part.0 * u64::from(*percent) / 100;
        }
        raise_best(&mut self.accounts, capacity);
        self.queue.unpark();
        // What was borrowed went back with the new parts; who still needs it borrows again.
        for pool in 0..self.accounts.len() {
            let account = &self.accounts[pool];
            let lacking = self.rule.required(account).saturating_sub(account.capacity);
            if lacking > 0 {
                let part = lacking.min(self.lendable(pool));
                self.borrow(pool, part);
            }
        }
        true
    }

    pub(crate) fn usage(&self, pool: usize) -> Usage {
        Usage {
            is_overcommitted: self.is_overcommitted(pool),
            waiting: self.queue.waiting_of(pool) as u64,
            epoch: self.epoch,
            ..self.accounts[pool].usage()
        }
    }
}
