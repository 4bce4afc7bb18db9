//! Leases: the right to use blocks, released exactly once.

use super::PastMaximum;
use super::guaranteed::Guaranteed;
use super::policy::Policy;
use crate::units::{Blocks, CostCurve, Tokens};
use std::fmt;

/// The right to use blocks, released exactly once: when dropped, also while a panic unwinds.
///
/// It may outlive its gate and may be dropped on any thread.
#[must_use = "a lease that is dropped at once has released its blocks"]
pub struct Lease {
    pub(super) account: &'static Guaranteed,
    pub(super) curve: CostCurve,
    pub(super) tokens: Tokens,
    pub(super) max_tokens: Tokens,
    // At most the capacity of a gate, which fits 31 bits.
    pub(super) held: u32,
    pub(super) claim: u32,
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<Lease>();
};

impl Lease {
    /// The sequence grew by `tokens`: blocks are drawn from the claim as needed. Under `Guaranteed`
    /// this cannot fail before the declared maximum. Returns how many blocks are newly held.
    ///
    /// # Errors
    /// [`PastMaximum`]; nothing changed.
    #[inline]
    pub fn grow(&mut self, tokens: Tokens) -> Result<Blocks, PastMaximum> {
        let room = self.max_tokens.saturating_sub(self.tokens);
        if tokens > room {
            return Err(PastMaximum {
                max_tokens: self.max_tokens,
                past_by_tokens: tokens.saturating_sub(room),
            });
        }
        let grown = Tokens(self.tokens.0 + tokens.0);
        // At most the claim, because the curve rises with the tokens.
        let held = self.curve.blocks(grown).0 as u32;
        let drawn = held.saturating_sub(self.held);
        if drawn > 0 {
            self.account.draw(drawn);
            self.held = held;
        }
        self.tokens = grown;
        Ok(Blocks(u64::from(drawn)))
    }

    /// Tokens of the sequence so far: the prompt and what it grew by.
    #[must_use]
    pub const fn tokens(&self) -> Tokens {
        self.tokens
    }

    /// Tokens it may come to have: the prompt and the declared maximum of new ones.
    #[must_use]
    pub const fn max_tokens(&self) -> Tokens {
        self.max_tokens
    }

    /// Blocks granted.
    #[must_use]
    pub const fn held(&self) -> Blocks {
        Blocks(self.held as u64)
    }

    /// Blocks it may come to hold.
    #[must_use]
    pub const fn claim(&self) -> Blocks {
        Blocks(self.claim as u64)
    }

    /// Gives everything back now; the same as dropping it, but readable at the end of a request.
    pub fn release(self) {}
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        self.account.release(self.held, self.claim);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("tokens", &self.tokens.0)
            .field("max_tokens", &self.max_tokens.0)
            .field("held_blocks", &self.held)
            .field("claim_blocks", &self.claim)
            .finish()
    }
}
