//! The gate again, naively: a list of leases, from which every sum and the safety of every state
//! are computed anew for each question.

use super::super::pool::split;
use super::super::{Growth, Policy, Reason};
use crate::units::{Blocks, CostCurve, Tokens};

/// Shares of the three pools.
pub(super) const SHARES: [u32; 3] = [1, 2, 1];
/// Names of the pools; the last one does not exist.
pub(super) const NAMES: [&str; 4] = ["a", "b", "c", "missing"];
pub(super) const MAX_MODEL_LEN: u64 = 500;

/// A prefix: its id, and its whole blocks.
pub(super) type Group = (u64, u64);

#[derive(Clone, Copy, Debug)]
pub(super) struct NaiveLease {
    pub(super) serial: u64,
    pub(super) pool: usize,
    pub(super) tokens: u64,
    pub(super) max: u64,
    prompt: u64,
    filled: u64,
    reserved: u64,
    group: Option<Group>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct NaiveAsk {
    pub(super) prompt: u64,
    pub(super) new: u64,
    pub(super) pool: usize,
    /// Id and tokens.
    pub(super) prefix: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) policy: Policy,
    pub(super) curve: CostCurve,
    pub(super) floors: [u8; 3],
    pub(super) capacity: [u64; 3],
    floor: [u64; 3],
    /// Capacity that the pool of the next to be admitted came to have: how much more than it lacks
    /// an estimate borrows is not for a naive double to say.
    pub(super) found: Option<u64>,
    best: [u64; 3],
    epoch: u64,
    pub(super) leases: Vec<NaiveLease>,
    serial: u64,
    leases_max: usize,
    /// A newcomer that makes the blocks of its group common while it is judged.
    forced: Option<(usize, u64)>,
    pub(super) waits: u64,
    pub(super) preempted: u64,
}

impl Naive {
    pub(super) fn new(
        policy: Policy,
        curve: CostCurve,
        floors: [u8; 3],
        capacity: u64,
        leases_max: usize,
    ) -> Self {
        let mut naive = Self {
            policy,
            curve,
            floors,
            capacity: [0; 3],
            floor: [0; 3],
            found: None,
            best: [0; 3],
            epoch: 0,
            leases: Vec::new(),
            serial: 0,
            leases_max,
            forced: None,
            waits: 0,
            preempted: 0,
        };
        naive.assign(capacity);
        naive
    }

    pub(super) fn is_lock_free(&self) -> bool {
        self.policy == Policy::Guaranteed && self.floors == [100; 3]
    }

    fn blocks(&self, tokens: u64) -> u64 {
        self.curve.blocks(Tokens(tokens)).0
    }

    fn members(&self, pool: usize, id: u64) -> usize {
        let is_in = |l: &&NaiveLease| l.pool == pool && l.group.is_some_and(|g| g.0 == id);
        self.leases.iter().filter(is_in).count()
    }

    /// Blocks of a lease that others have, too.
    fn common(&self, lease: &NaiveLease) -> u64 {
        let Some((id, blocks)) = lease.group else { return 0 };
        let is_forced = self.forced == Some((lease.pool, id));
        if self.members(lease.pool, id) > 1 || is_forced { blocks } else { 0 }
    }

    fn held(&self, lease: &NaiveLease) -> u64 {
        self.blocks(lease.tokens) - self.common(lease)
    }

    fn claim(&self, lease: &NaiveLease) -> u64 {
        self.blocks(lease.max) - self.common(lease)
    }

    pub(super) fn need(&self, lease: &NaiveLease) -> u64 {
        self.blocks(lease.max) - self.blocks(lease.tokens)
    }

    pub(super) fn of(&self, pool: usize) -> impl Iterator<Item = &NaiveLease> {
        self.leases.iter().filter(move |lease| lease.pool == pool)
    }

    /// Blocks of prefixes that several leases have, each once.
    pub(super) fn shared(&self, pool: usize) -> u64 {
        let mut groups: Vec<Group> =
            self.of(pool).filter(|l| self.common(l) > 0).filter_map(|l| l.group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.iter().map(|group| group.1).sum()
    }

    pub(super) fn held_in(&self, pool: usize) -> u64 {
        self.of(pool).map(|l| self.held(l)).sum::<u64>() + self.shared(pool)
    }

    pub(super) fn claimed_in(&self, pool: usize) -> u64 {
        self.of(pool).map(|l| self.claim(l)).sum::<u64>() + self.shared(pool)
    }

    pub(super) fn reserved_in(&self, pool: usize) -> u64 {
        self.of(pool).map(|l| l.reserved).sum()
    }

    /// Whether the promises to the leases of a pool hold in so many blocks: under `Banker`, by
    /// completing one after the other.
    pub(super) fn is_ok(&self, pool: usize, capacity: u64) -> bool {
        if self.policy == Policy::Guaranteed {
            return self.claimed_in(pool) <= capacity;
        }
        let Some(mut free) = capacity.checked_sub(self.held_in(pool)) else { return false };
        if self.policy != Policy::Banker {
            return true;
        }
        let mut left: Vec<_> = self.of(pool).map(|l| (self.need(l), self.held(l))).collect();
        while let Some(next) = left.iter().position(|(need, _)| *need <= free) {
            free += left.swap_remove(next).1;
        }
        left.is_empty()
    }

    /// The smallest capacity in which they hold.
    fn required(&self, pool: usize) -> u64 {
        let (mut low, mut high) = (0, self.claimed_in(pool).max(self.held_in(pool)));
        while low < high {
            let middle = u64::midpoint(low, high);
            if self.is_ok(pool, middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        high
    }

    pub(super) fn is_overcommitted(&self, pool: usize) -> bool {
        !self.is_ok(pool, self.capacity[pool])
    }

    fn spare(&self, pool: usize) -> u64 {
        self.capacity[pool].saturating_sub(self.required(pool).max(self.floor[pool]))
    }

    pub(super) fn lendable(&self, pool: usize) -> u64 {
        if self.floors == [100; 3] {
            return 0;
        }
        (0..3).filter(|other| *other != pool).map(|other| self.spare(other)).sum()
    }

    /// What the pool has if the others keep their floors and nothing else.
    fn possible(&self, pool: usize) -> u64 {
        let others = (0..3).filter(|other| *other != pool && self.floors != [100; 3]);
        let lent = others.map(|other| self.capacity[other].saturating_sub(self.floor[other]));
        self.capacity[pool] + lent.sum::<u64>()
    }

    fn borrow(&mut self, pool: usize, blocks: u64) -> bool {
        if self.lendable(pool) < blocks {
            return false;
        }
        let mut left = blocks;
        while left > 0 {
            let others = (0..3).filter(|other| *other != pool);
            let richest = others.max_by_key(|&other| self.spare(other)).unwrap();
            let part = self.spare(richest).min(left);
            self.capacity[richest] -= part;
            self.capacity[pool] += part;
            left -= part;
        }
        true
    }

    /// What a pool lacks for what it has.
    fn lacking(&self, pool: usize) -> u64 {
        self.required(pool).saturating_sub(self.capacity[pool])
    }

    fn shares_with(&self, ask: &NaiveAsk) -> Option<Group> {
        let whole = |tokens: u64| {
            let tokens = tokens.min(ask.prompt) / u64::from(self.curve.block_tokens());
            tokens.min(self.blocks(ask.prompt))
        };
        let (id, tokens) = ask.prefix.filter(|_| !self.is_lock_free())?;
        let group = self.of(ask.pool).filter_map(|l| l.group).find(|g| g.0 == id)?;
        (group.1 > 0 && whole(tokens) >= group.1).then_some(group)
    }

    /// The group that a newcomer founds.
    fn founds(&self, ask: &NaiveAsk) -> Option<Group> {
        let (id, tokens) = ask.prefix.filter(|_| !self.is_lock_free())?;
        let whole = tokens.min(ask.prompt) / u64::from(self.curve.block_tokens());
        (self.members(ask.pool, id) == 0).then_some((id, whole.min(self.blocks(ask.prompt))))
    }

    /// Admits, or says why not. `is_predicted`: the gate said that it would admit, but for its
    /// estimate; then nothing comes in.
    pub(super) fn admit(&mut self, ask: &NaiveAsk, is_predicted: bool) -> Result<(), Reason> {
        let total = ask.prompt + ask.new;
        match () {
            () if ask.pool > 2 => return Err(Reason::UnknownPool),
            () if ask.prompt == 0 || ask.new == 0 => return Err(Reason::BadTokenCount),
            () if total > MAX_MODEL_LEN => return Err(Reason::TooLong),
            () => {}
        }
        if let Some(group) = self.shares_with(ask) {
            self.forced = Some((ask.pool, group.0));
            let judged = self.judge(ask, Some(group), is_predicted);
            self.forced = None;
            if judged.is_ok() {
                return judged;
            }
            return self.judge(&NaiveAsk { prefix: None, ..*ask }, None, is_predicted);
        }
        let group = self.founds(ask);
        self.judge(ask, group, is_predicted)
    }

    fn judge(
        &mut self,
        ask: &NaiveAsk,
        group: Option<Group>,
        is_predicted: bool,
    ) -> Result<(), Reason> {
        let pool = ask.pool;
        if !self.is_lock_free() && self.leases.len() >= self.leases_max {
            return Err(Reason::TooManyLeases);
        }
        let total = ask.prompt + ask.new;
        let is_bounded = !matches!(self.policy, Policy::Optimistic { .. });
        let bound = self.blocks(if is_bounded { total } else { ask.prompt });
        if bound > self.best[pool] {
            return Err(Reason::TooLong);
        }
        let lacking = self.lacking(pool);
        if lacking > 0 && !self.borrow(pool, lacking) {
            return Err(Reason::Overcommitted);
        }
        let kept = match self.policy {
            Policy::Optimistic { watermark } if self.of(pool).next().is_some() => {
                (watermark * self.capacity[pool] as f64) as u64
            }
            _ => 0,
        };
        let lease = NaiveLease {
            serial: self.serial + 1,
            pool,
            tokens: ask.prompt,
            max: total,
            prompt: ask.prompt,
            filled: 0,
            reserved: 0,
            group,
        };
        self.leases.push(lease);
        let short = self.lacking_and(pool, kept);
        // What prefill reached is for books to count.
        let reserved = if self.is_lock_free() { 0 } else { self.held(&lease) };
        let newcomer = self.leases.pop().unwrap();
        let available = if short > 0 { self.lendable(pool) } else { 0 };
        if short > available {
            let is_shrunk = bound > self.possible(pool);
            return Err(if is_shrunk { Reason::Overcommitted } else { Reason::NoCapacity });
        }
        if is_predicted {
            return Err(Reason::Predicted);
        }
        let more = self.found.take().map_or(short, |found| found - self.capacity[pool]);
        assert!(more >= short && self.borrow(pool, more));
        self.serial += 1;
        self.leases.push(NaiveLease { reserved, ..newcomer });
        Ok(())
    }

    fn lacking_and(&self, pool: usize, kept: u64) -> u64 {
        (self.required(pool) + kept).saturating_sub(self.capacity[pool])
    }

    /// `None`: past the maximum.
    pub(super) fn grow(&mut self, index: usize, tokens: u64) -> Option<Growth> {
        let lease = self.leases[index];
        let grown = lease.tokens + tokens;
        if grown > lease.max {
            return None;
        }
        let blocks = self.blocks(grown) - self.blocks(lease.tokens);
        if blocks > 0 && !self.may_draw(index, grown, blocks) {
            self.waits += 1;
            return Some(Growth::Wait);
        }
        self.leases[index].tokens = grown;
        if blocks > 0 {
            (self.leases[index].reserved, self.leases[index].filled) = (0, lease.prompt);
        }
        Some(Growth::Granted(Blocks(blocks)))
    }

    fn may_draw(&mut self, index: usize, grown: u64, blocks: u64) -> bool {
        let lease = self.leases[index];
        let pool = lease.pool;
        let is_free = self.held_in(pool) + blocks <= self.capacity[pool];
        let lacking = self.lacking(pool);
        if lacking > 0 && self.is_lock_free() {
            return is_free;
        }
        if lacking > 0 && !self.borrow(pool, lacking) {
            let smallest = self.of(pool).map(|l| self.need(l)).min();
            return smallest == Some(self.need(&lease)) && is_free;
        }
        self.leases[index].tokens = grown;
        let short = self.lacking(pool);
        self.leases[index].tokens = lease.tokens;
        short == 0 || self.borrow(pool, short)
    }

    pub(super) fn prefill(&mut self, index: usize, tokens: u64) {
        let lease = self.leases[index];
        let filled = (lease.filled + tokens).min(lease.prompt);
        let reached = self.blocks(filled).saturating_sub(self.blocks(lease.filled));
        let lease = &mut self.leases[index];
        (lease.filled, lease.reserved) = (filled, lease.reserved.saturating_sub(reached));
    }

    fn assign(&mut self, blocks: u64) {
        for (pool, part) in split(Blocks(blocks), &SHARES).into_iter().enumerate() {
            self.capacity[pool] = part.0;
            self.floor[pool] = part.0 * u64::from(self.floors[pool]) / 100;
        }
        let floors: u64 = self.floor.iter().sum();
        for pool in 0..3 {
            let possible = (blocks + self.floor[pool] - floors).max(self.capacity[pool]);
            self.best[pool] = self.best[pool].max(possible);
        }
    }

    pub(super) fn resize(&mut self, blocks: u64, epoch: u64) -> bool {
        if epoch <= self.epoch {
            return false;
        }
        self.epoch = epoch;
        self.assign(blocks);
        for pool in 0..3 {
            let part = self.lacking(pool).min(self.lendable(pool));
            self.borrow(pool, part);
        }
        true
    }
}
