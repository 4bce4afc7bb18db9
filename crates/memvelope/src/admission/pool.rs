//! Pools: named sub-budgets, each with an account of its own.

use super::guaranteed::Guaranteed;
use super::policy::{Policy, Shortage};
use super::rate::{RETRY_MAX, ReleaseRate};
use super::{Reason, Rejection, Usage};
use crate::units::{Blocks, CostCurve, Tokens};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Name of the only pool of a gate without declared pools.
pub(crate) const DEFAULT_POOL: &str = "default";

/// One pool of a gate.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) name: Box<str>,
    pub(crate) share: u32,
    pub(crate) account: &'static Guaranteed,
    /// Highest capacity so far: what the pool could ever hold, as far as anyone knows.
    capacity_best: AtomicU64,
    rate: ReleaseRate,
    refusals: Refusals,
}

/// Rejections by [`Reason`], in its order. Away from the account's cache line, which admissions
/// write.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Refusals([AtomicU64; 6]);

impl Pool {
    pub(crate) fn open(name: &str, share: u32, capacity: Blocks) -> Self {
        Self {
            name: name.into(),
            share,
            account: Guaranteed::open(capacity),
            capacity_best: AtomicU64::new(capacity.0),
            rate: ReleaseRate::new(),
            refusals: Refusals::default(),
        }
    }

    pub(crate) fn set_capacity(&self, capacity: Blocks) {
        self.capacity_best.fetch_max(capacity.0, Relaxed);
        self.account.set_capacity(capacity);
    }

    pub(crate) fn tick(&self, now: crate::units::Nanos) {
        self.rate.tick(now, self.account.reading().released);
    }

    /// Counts a rejection and makes it.
    #[cold]
    pub(crate) fn refuse(&self, reason: Reason, short_by_tokens: Tokens) -> Rejection {
        self.count(reason);
        Rejection { reason, short_by_tokens, retry_after: None }
    }

    /// A request of `total` tokens did not fit: which reason, how much too long, when again.
    #[cold]
    pub(crate) fn refuse_short(
        &self,
        total: Tokens,
        claim: Blocks,
        curve: CostCurve,
        short: Shortage,
    ) -> Rejection {
        let best = Blocks(self.capacity_best.load(Relaxed).max(short.capacity));
        if claim > best {
            return self.refuse(Reason::TooLong, total.saturating_sub(curve.tokens(best)));
        }
        let free = short.capacity.saturating_sub(short.claimed);
        let reason = if short.claimed > short.capacity || claim.0 > short.capacity {
            Reason::Overcommitted
        } else {
            Reason::NoCapacity
        };
        let retry_after = if claim.0 > short.capacity {
            RETRY_MAX // No release helps; only a larger budget does.
        } else {
            self.rate.time_to_release(short.claimed + claim.0 - short.capacity)
        };
        self.count(reason);
        Rejection {
            reason,
            short_by_tokens: total.saturating_sub(curve.tokens(Blocks(free))),
            retry_after: Some(retry_after),
        }
    }

    fn count(&self, reason: Reason) {
        self.refusals.0[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        let reading = self.account.reading();
        Usage {
            capacity_blocks: Blocks(reading.capacity),
            claimed_blocks: Blocks(reading.claimed),
            claimed_peak_blocks: Blocks(reading.claimed_peak),
            held_blocks: Blocks(reading.held),
            held_peak_blocks: Blocks(reading.held_peak),
            leases: reading.leases,
            admitted: reading.admitted,
            rejected: self.refusals.0.each_ref().map(|count| count.load(Relaxed)),
            epoch: 0,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.account.close();
    }
}

/// Splits `capacity` by `shares` so that the parts add up to it exactly: each gets its whole part,
/// what is left goes to the largest remainders, at equal remainders to the earlier pool.
pub(crate) fn split(capacity: Blocks, shares: &[u32]) -> Vec<Blocks> {
    let whole: u128 = shares.iter().map(|&share| u128::from(share)).sum();
    if whole == 0 {
        return vec![Blocks::ZERO; shares.len()];
    }
    let ideal = |share: u32| u128::from(capacity.0) * u128::from(share);
    // Each part is at most `capacity`, so the casts lose nothing.
    let mut parts: Vec<_> = shares.iter().map(|&s| Blocks((ideal(s) / whole) as u64)).collect();
    let given: Blocks = parts.iter().copied().sum();
    let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
    by_remainder.sort_by_key(|&pool| std::cmp::Reverse(ideal(shares[pool]) % whole));
    for &pool in by_remainder.iter().take(capacity.saturating_sub(given).0 as usize) {
        parts[pool] = parts[pool].saturating_add(Blocks(1));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn remainders_go_to_the_largest_then_to_the_first() {
        let check = |capacity, shares: &[u32], expected: &[u64]| {
            let parts: Vec<_> = split(Blocks(capacity), shares).iter().map(|p| p.0).collect();
            assert_eq!(parts, expected, "{capacity} by {shares:?}");
        };
        check(10, &[1], &[10]);
        check(10, &[1, 1, 1], &[4, 3, 3]);
        check(10, &[1, 2], &[3, 7]);
        check(1, &[1, 1], &[1, 0]);
        check(0, &[5, 1], &[0, 0]);
        check(7, &[0, 3], &[0, 7]);
        check(u64::MAX, &[u32::MAX, u32::MAX], &[1 << 63, (1 << 63) - 1]);
    }

    proptest! {
        #[test]
        fn parts_add_up_and_stay_within_one_block_of_their_share(
            capacity: u64,
            shares in prop::collection::vec(1u32.., 1..20),
        ) {
            let parts = split(Blocks(capacity), &shares);
            let sum: u128 = parts.iter().map(|part| u128::from(part.0)).sum();
            prop_assert_eq!(sum, u128::from(capacity));
            let whole: u128 = shares.iter().map(|&share| u128::from(share)).sum();
            for (part, &share) in parts.iter().zip(&shares) {
                let floor = u128::from(capacity) * u128::from(share) / whole;
                prop_assert!((floor..=floor + 1).contains(&u128::from(part.0)));
            }
        }
    }
}
