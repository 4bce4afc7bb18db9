//! The joint between books and policies: what a policy must answer about one account.
//!
//! All of a policy is in how much capacity an account *requires*. From that follow who may come in,
//! who may grow, what can be lent, and whether the account is overcommitted.

use super::account::Account;
use super::needs::Needs;
use super::settings::Policy;
use std::fmt::Debug;

/// Decides over the blocks of one account. Amounts are in blocks; answers are how much *more*
/// capacity it would take, so that the same number tells whether, how much to borrow, and why not.
///
/// The contract: if [`Self::required`] is within the capacity before a change that was answered
/// with 0, it is so after it, and then held is within the capacity.
pub(crate) trait Rule: Debug + Send + Sync {
    /// Capacity under which promises hold to leases that have `needs` and exclusive claims of
    /// `claimed`, where `shared` blocks are nobody's to give back.
    fn required_of(&self, needs: &Needs, claimed: u64, shared: u64) -> u64;
    /// The same of an account.
    #[inline]
    fn required(&self, account: &Account) -> u64 {
        self.required_of(&account.needs, account.claimed, account.shared)
    }
    /// Capacity lacking for a lease that takes `held` at once and may come to hold `claim`. Asked
    /// of accounts that are not overcommitted.
    fn short_to_admit(&self, account: &Account, held: u32, claim: u32) -> u64;
    /// Capacity lacking for a lease with `need` to draw `blocks` of it. Asked of accounts that are
    /// not overcommitted.
    fn short_to_grow(&self, account: &Account, need: u32, blocks: u32) -> u64;
    /// Whether a claim beyond the whole capacity is refused.
    fn bounds_claims(&self) -> bool;
}

/// A number of blocks if it is one, else none.
fn positive(blocks: i64) -> u64 {
    u64::try_from(blocks).unwrap_or(0)
}

/// [`Policy::Guaranteed`] where pools lend: claims fit.
#[derive(Debug)]
struct Claims;

impl Rule for Claims {
    fn required_of(&self, _: &Needs, claimed: u64, shared: u64) -> u64 {
        claimed + shared
    }
    fn short_to_admit(&self, account: &Account, _held: u32, claim: u32) -> u64 {
        (self.required(account) + u64::from(claim)).saturating_sub(account.capacity)
    }
    fn short_to_grow(&self, _: &Account, _need: u32, _blocks: u32) -> u64 {
        0
    }
    fn bounds_claims(&self) -> bool {
        true
    }
}

/// [`Policy::Banker`]: the state stays safe.
#[derive(Debug)]
struct Safety;

impl Rule for Safety {
    #[inline]
    fn required_of(&self, needs: &Needs, _claimed: u64, shared: u64) -> u64 {
        needs.held() as u64 + shared + positive(i64::from(needs.due()))
    }
    #[inline]
    fn short_to_admit(&self, account: &Account, held: u32, claim: u32) -> u64 {
        let due = i64::from(account.needs.due_up_to(claim - held));
        positive(due.max(0) + i64::from(held) - account.free())
    }
    #[inline]
    fn short_to_grow(&self, account: &Account, need: u32, blocks: u32) -> u64 {
        // The lease itself is found beyond `need - blocks`, so this is the due of the others and
        // of what it becomes. Those with larger needs are not worse off: what it takes from the
        // free, it holds before them.
        let due = i64::from(account.needs.due_up_to(need - blocks));
        positive(due.max(0) + i64::from(blocks) - account.free())
    }
    fn bounds_claims(&self) -> bool {
        true
    }
}

/// [`Policy::Optimistic`]: what is taken now fits.
#[derive(Debug)]
struct Watermark {
    share: f64,
}

impl Rule for Watermark {
    fn required_of(&self, needs: &Needs, _claimed: u64, shared: u64) -> u64 {
        needs.held() as u64 + shared
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of at most 2^30 blocks"
    )]
    fn short_to_admit(&self, account: &Account, held: u32, _claim: u32) -> u64 {
        let kept = match account.leases {
            0 => 0,
            _ => (self.share * account.capacity as f64) as u64,
        };
        (account.held() + u64::from(held) + kept).saturating_sub(account.capacity)
    }
    fn short_to_grow(&self, account: &Account, _need: u32, blocks: u32) -> u64 {
        positive(i64::from(blocks) - account.free())
    }
    fn bounds_claims(&self) -> bool {
        false
    }
}

/// The rule of a policy.
pub(crate) fn rule(policy: Policy) -> Box<dyn Rule> {
    match policy {
        Policy::Guaranteed => Box::new(Claims),
        Policy::Banker => Box::new(Safety),
        Policy::Optimistic { watermark } => Box::new(Watermark { share: watermark }),
    }
}
