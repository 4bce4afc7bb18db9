//! Prefixes that several leases share.
//!
//! While one lease has a prefix, its blocks are that lease's own. From the second on they are in
//! the account's common part, which no lease gives back: whoever completes leaves them to the
//! others, so the order of completion may not count on them. When one lease is left they are its
//! own again.

use super::books::{Ask, State};
use super::request::Prefix;
use super::roster::NOBODY_ELSE;
use std::collections::HashMap;

/// A prefix that at least one live lease has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    /// Whole blocks of it.
    blocks: u32,
    /// How many leases have it, and one of them.
    leases: u32,
    first: u32,
}

/// Prefixes by pool and id. Each has a live lease, so there are no more than leases.
#[derive(Debug, Default)]
pub(crate) struct Prefixes(HashMap<(u16, u64), Shared>);

impl State {
    /// Makes the prefix of a newcomer common, if another lease has it. How many of its blocks
    /// the newcomer need not bring; [`Self::unshare_prefix`] takes it back.
    pub(crate) fn share_prefix(&mut self, ask: &Ask) -> u32 {
        let Some(prefix) = ask.prefix else { return 0 };
        let Some(&shared) = self.prefixes.0.get(&(ask.pool, prefix.id)) else { return 0 };
        // A shorter one is taken to be another: its leases do not have all of these blocks.
        if whole_blocks(prefix, ask, self.block_tokens()) < shared.blocks || shared.blocks == 0 {
            return 0;
        }
        if shared.leases == 1 {
            self.set_shared(shared.first, shared.blocks);
        }
        shared.blocks
    }

    /// Undoes [`Self::share_prefix`].
    pub(crate) fn unshare_prefix(&mut self, ask: &Ask, shared: u32) {
        let Some(prefix) = ask.prefix.filter(|_| shared > 0) else { return };
        if let Some(&entry) = self.prefixes.0.get(&(ask.pool, prefix.id))
            && entry.leases == 1
        {
            self.set_shared(entry.first, 0);
        }
    }

    /// Enters a lease among those who have its prefix.
    pub(crate) fn join_prefix(&mut self, slot: u32, prefix: Prefix, ask: &Ask) {
        let key = (ask.pool, prefix.id);
        let blocks = whole_blocks(prefix, ask, self.block_tokens());
        match self.prefixes.0.get_mut(&key) {
            Some(shared) if self.roster[slot].shared > 0 => {
                let first = shared.first;
                (shared.leases, shared.first) = (shared.leases + 1, slot);
                self.roster[first].previous = slot;
                self.roster[slot].next = first;
            }
            // Others have one of this name, but not these blocks.
            Some(_) => return,
            None => {
                self.prefixes.0.insert(key, Shared { blocks, leases: 1, first: slot });
            }
        }
        self.roster[slot].prefix = Some(prefix.id);
    }

    /// A lease no longer has its prefix; the last one but it gets the blocks for its own.
    pub(crate) fn leave_prefix(&mut self, slot: u32) {
        let entry = self.roster[slot];
        let Some(id) = entry.prefix else { return };
        let key = (entry.pool, id);
        let Some(shared) = self.prefixes.0.get_mut(&key) else { return };
        if entry.previous == NOBODY_ELSE {
            shared.first = entry.next;
        } else {
            self.roster[entry.previous].next = entry.next;
        }
        if entry.next != NOBODY_ELSE {
            self.roster[entry.next].previous = entry.previous;
        }
        shared.leases -= 1;
        let left = *shared;
        match left.leases {
            0 => drop(self.prefixes.0.remove(&key)),
            1 => self.set_shared(left.first, 0),
            _ => {}
        }
        let entry = &mut self.roster[slot];
        (entry.prefix, entry.shared) = (None, 0);
        (entry.previous, entry.next) = (NOBODY_ELSE, NOBODY_ELSE);
    }

    /// So many blocks of a lease are common; the others are its own. What it needs stays the same.
    fn set_shared(&mut self, slot: u32, shared: u32) {
        let entry = &mut self.roster[slot];
        let account = &mut self.accounts[usize::from(entry.pool)];
        account.needs.remove(entry.need(), entry.held);
        account.claimed -= u64::from(entry.claim);
        account.shared -= u64::from(entry.shared);
        entry.held = entry.held + entry.shared - shared;
        entry.claim = entry.claim + entry.shared - shared;
        entry.shared = shared;
        account.needs.insert(entry.need(), entry.held);
        account.claimed += u64::from(entry.claim);
        account.shared += u64::from(shared);
        if let Some(outlook) = &mut self.outlook {
            outlook.recount(entry);
        }
    }
}

/// Whole blocks of a prefix; the last, partly filled one belongs to each lease.
fn whole_blocks(prefix: Prefix, ask: &Ask, block_tokens: u32) -> u32 {
    let tokens = prefix.tokens.0.min(ask.prompt_tokens);
    u32::try_from(tokens.checked_div(block_tokens.into()).unwrap_or(0))
        .unwrap_or(u32::MAX)
        .min(ask.held)
}
