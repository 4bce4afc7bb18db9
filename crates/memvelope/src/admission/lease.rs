//! Leases: the right to use blocks, released exactly once.

use super::answer::{Growth, PastMaximum};
use super::books::{Books, Draw, End};
use super::guaranteed::Guaranteed;
use crate::units::{Blocks, Tokens};
use std::fmt;
use std::sync::Arc;

/// Where a lease is kept account of.
pub(super) enum Home {
    /// In sums alone: a gate that takes no lock.
    Sums(&'static Guaranteed),
    /// In the books, in this slot.
    Books(Arc<Books>, u32),
}

/// The right to use blocks, released exactly once: when dropped, also while a panic unwinds.
///
/// It may outlive its gate and may be dropped on any thread. In a forked child it is inert: the
/// blocks are the parent's.
#[must_use = "a lease that is dropped at once has released its blocks"]
pub struct Lease {
    pub(super) home: Home,
    pub(super) tokens: u64,
    /// Tokens that the blocks it holds have room for.
    pub(super) room_tokens: u64,
    pub(super) max_tokens: u64,
    pub(super) prompt_tokens: u64,
    /// Tokens of the prompt that are in the cache.
    pub(super) filled_tokens: u64,
    // At most the capacity of a gate, which fits 30 bits.
    pub(super) held: u32,
    pub(super) claim: u32,
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<Lease>();
};

impl Lease {
    /// The sequence grows by `tokens`: blocks are drawn from the claim as needed. Under
    /// `Guaranteed` they are granted unless the budget shrank; under `Banker` if everybody can
    /// still complete after it; under `Optimistic` if they are free. Growing says that the
    /// prompt is in the cache.
    ///
    /// # Errors
    /// [`PastMaximum`]; nothing changed.
    #[inline]
    pub fn grow(&mut self, tokens: Tokens) -> Result<Growth, PastMaximum> {
        let left = self.max_tokens.saturating_sub(self.tokens);
        if tokens.0 > left {
            return Err(PastMaximum {
                max_tokens: Tokens(self.max_tokens),
                past_by_tokens: Tokens(tokens.0.saturating_sub(left)),
            });
        }
        let grown = self.tokens + tokens.0;
        if grown <= self.room_tokens {
            self.tokens = grown;
            return Ok(Growth::Granted(Blocks::ZERO));
        }
        Ok(self.draw(grown))
    }

    fn draw(&mut self, grown: u64) -> Growth {
        let (blocks, room_tokens) = match &self.home {
            // The blocks are the parent's.
            Home::Sums(account) if account.is_forked() => return Growth::Wait,
            Home::Sums(account) => account.blocks_of(grown),
            Home::Books(books, _) => {
                let blocks = books.curve.blocks(Tokens(grown));
                (blocks.0, books.curve.tokens(blocks).0)
            }
        };
        // At most the claim, because the curve never falls.
        let held = u32::try_from(blocks).unwrap_or(u32::MAX).min(self.claim);
        let drawn = held.saturating_sub(self.held);
        let draw = match &self.home {
            Home::Sums(account) if account.draw(drawn) => Draw::Granted,
            Home::Sums(_) => Draw::Wait,
            Home::Books(books, slot) => books.grow(*slot, grown, held),
        };
        match draw {
            Draw::Granted => {}
            Draw::Wait => return Growth::Wait,
            Draw::Expired => return Growth::Expired,
        }
        self.tokens = grown;
        self.room_tokens = room_tokens;
        self.held = held;
        self.filled_tokens = self.prompt_tokens;
        Growth::Granted(Blocks(drawn.into()))
    }

    /// Prefill put `tokens` more of the prompt into the cache: their blocks, reserved at admission,
    /// are now in use. Never waits; more than the prompt has is taken for the rest of it. Engines
    /// that do not say so lose nothing but the count of reserved blocks.
    pub fn prefill(&mut self, tokens: Tokens) {
        let filled = self.filled_tokens.saturating_add(tokens.0).min(self.prompt_tokens);
        if let Home::Books(books, slot) = &self.home {
            let blocks = |tokens: u64| books.curve.blocks(Tokens(tokens)).0;
            let reached = blocks(filled).saturating_sub(blocks(self.filled_tokens));
            if reached > 0 {
                books.prefill(*slot, u32::try_from(reached).unwrap_or(u32::MAX));
            }
        }
        self.filled_tokens = filled;
    }

    /// Tokens of the sequence so far: the prompt and what it grew by.
    #[must_use]
    pub const fn tokens(&self) -> Tokens {
        Tokens(self.tokens)
    }

    /// Tokens it may come to have: the prompt and the declared maximum of new ones.
    #[must_use]
    pub const fn max_tokens(&self) -> Tokens {
        Tokens(self.max_tokens)
    }

    /// Blocks of its sequence that are granted, shared ones included.
    #[must_use]
    pub const fn held(&self) -> Blocks {
        Blocks(self.held as u64)
    }

    /// Blocks its sequence may come to have, shared ones included.
    #[must_use]
    pub const fn claim(&self) -> Blocks {
        Blocks(self.claim as u64)
    }

    /// Blocks that it may still draw: claim - held.
    #[must_use]
    pub const fn need(&self) -> Blocks {
        Blocks(self.claim as u64 - self.held as u64)
    }

    /// Its number among all admissions of the gate, by which [`super::Victim`] names it; `None`
    /// where the gate keeps no books.
    #[must_use]
    pub fn serial(&self) -> Option<u64> {
        match &self.home {
            Home::Sums(_) => None,
            Home::Books(books, slot) => books.lock().map(|state| state.roster[*slot].serial),
        }
    }

    /// Gives everything back now; the same as dropping it, but readable at the end of a request.
    pub fn release(self) {}

    /// Gives everything back because the engine takes the blocks for others: counted as such, and
    /// no evidence of how long outputs become. How many tokens are to be computed again.
    pub fn preempt(mut self) -> Tokens {
        // Given back once, also if whoever is woken by it unwinds and this is dropped on the way.
        let (held, claim) = (std::mem::take(&mut self.held), std::mem::take(&mut self.claim));
        self.end(held, claim, End::Preempted);
        let grown = self.tokens - self.prompt_tokens;
        let filled = if grown > 0 { self.prompt_tokens } else { self.filled_tokens };
        Tokens(filled + grown)
    }

    #[inline]
    fn end(&self, held: u32, claim: u32, end: End) {
        match &self.home {
            Home::Sums(account) => account.release(held, claim),
            Home::Books(books, slot) => self.end_in(books, *slot, end),
        }
    }

    /// Out of line, so that the other way is short.
    #[inline(never)]
    fn end_in(&self, books: &Books, slot: u32, end: End) {
        books.release(slot, self.tokens, end);
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        // A claim has at least a block; only a preempted lease has none, and nothing to give back.
        if self.claim > 0 {
            self.end(self.held, self.claim, End::Released);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("tokens", &self.tokens)
            .field("max_tokens", &self.max_tokens)
            .field("held_blocks", &self.held)
            .field("claim_blocks", &self.claim)
            .finish()
    }
}
