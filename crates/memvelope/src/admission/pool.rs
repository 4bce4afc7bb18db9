//! How a capacity is split between pools.

use crate::units::Blocks;

/// Name of the only pool of a gate without declared pools.
pub(crate) const DEFAULT_POOL: &str = "default";

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
