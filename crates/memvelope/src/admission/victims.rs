//! Whom to preempt when the budget shrank: the leases whose blocks cost least to win back.

use super::books::State;
use super::gate::{Gate, Keeper};
use super::roster::Entry;
use crate::units::{Blocks, Tokens};
use serde::Serialize;

/// A lease that could be preempted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// Which lease ([`super::Lease::serial`]).
    pub serial: u64,
    /// Its pool.
    pub pool: String,
    /// Blocks that come back; those of a shared prefix do not.
    pub held_blocks: Blocks,
    /// Tokens that are to be computed again if it resumes.
    pub lost_tokens: Tokens,
    /// Whether the pool is within its budget again once this one and all before it are gone.
    pub is_enough: bool,
}

impl Gate {
    /// Leases of pools that are overcommitted (under `Optimistic`: or full), cheapest first: those
    /// with the fewest tokens to compute again for a block, at equal cost the newest. The lease
    /// that may still grow, the one with the smallest need, comes last. Empty if none is, and of a
    /// gate that keeps no books (`Guaranteed` without borrowing).
    ///
    /// Looks at every lease: not for the hot path.
    #[must_use]
    pub fn victims(&self) -> Vec<Victim> {
        let Keeper::Books(books) = &self.inner().keeper else { return Vec::new() };
        let Some(state) = books.lock() else { return Vec::new() };
        let mut victims = Vec::new();
        for (pool, name) in self.pool_names().iter().enumerate() {
            state.victims(pool, name, &mut victims);
        }
        victims
    }
}

impl State {
    fn victims(&self, pool: usize, name: &str, victims: &mut Vec<Victim>) {
        let account = &self.accounts[pool];
        let is_full = !self.rule.bounds_claims() && account.free() <= 0;
        if !self.is_overcommitted(pool) && !is_full {
            return;
        }
        let all = self.roster.iter().map(|(_, entry)| entry);
        let mut leases: Vec<&Entry> =
            all.filter(|entry| usize::from(entry.pool) == pool && entry.held > 0).collect();
        let (smallest, block_tokens) = (account.needs.smallest(), self.block_tokens());
        leases.sort_by(|a, b| {
            // Tokens a block, compared crosswise; a full prompt of 2^63 tokens does not overflow.
            let cost = |one: &Entry, other: &Entry| {
                lost(one, block_tokens) as u128 * u128::from(other.held)
            };
            let goes_on = |entry: &Entry| Some(entry.need()) == smallest;
            goes_on(a)
                .cmp(&goes_on(b))
                .then(cost(a, b).cmp(&cost(b, a)))
                .then(b.serial.cmp(&a.serial))
        });
        let (mut needs, mut claimed) = (account.needs.clone(), account.claimed);
        for entry in leases {
            needs.remove(entry.need(), entry.held);
            claimed -= u64::from(entry.claim);
            let required = self.rule.required_of(&needs, claimed, account.shared);
            victims.push(Victim {
                serial: entry.serial,
                pool: name.to_owned(),
                held_blocks: Blocks(entry.held.into()),
                lost_tokens: Tokens(lost(entry, block_tokens)),
                is_enough: match self.rule.bounds_claims() {
                    true => required <= account.capacity,
                    // Full is not yet enough for the next block of anybody.
                    false => required < account.capacity,
                },
            });
        }
    }
}

/// Tokens that are computed and would be lost, to the block; what the engine did not say that
/// prefill reached is not.
fn lost(entry: &Entry, block_tokens: u32) -> u64 {
    if entry.generated() > 0 {
        return entry.tokens;
    }
    entry.prompt_tokens.saturating_sub(u64::from(entry.reserved) * u64::from(block_tokens))
}
