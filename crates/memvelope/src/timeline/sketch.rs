//! Quantiles of durations in little memory.
//!
//! A histogram whose buckets are exact below 32 ns and then 32 to an octave, so that the middle of a
//! bucket is at most 1/64 (1.6 %) away from anything in it. Two histograms add up bucket by bucket,
//! whatever they saw, in any order.

use crate::units::Nanos;

/// Buckets to an octave, as a power of two.
const FINE_BITS: u32 = 5;
const FINE: usize = 1 << FINE_BITS;

/// Buckets up to 2^64 ns.
#[cfg(test)]
const BUCKETS: usize = bucket_of(u64::MAX) + 1;

/// The bucket of a duration.
#[inline]
pub(super) const fn bucket_of(ns: u64) -> usize {
    if ns < FINE as u64 {
        return ns as usize;
    }
    let octave = ns.ilog2();
    let within = (ns >> (octave - FINE_BITS)) as usize & (FINE - 1);
    (octave - FINE_BITS + 1) as usize * FINE + within
}

/// The middle of a bucket, rounded down.
pub(super) const fn middle_of(bucket: usize) -> u64 {
    if bucket < FINE {
        return bucket as u64;
    }
    let shift = (bucket / FINE - 1) as u32;
    let begin = ((FINE + bucket % FINE) as u64) << shift;
    begin + ((1_u64 << shift) - 1) / 2
}

/// The value at `rank` (from 1) of counted buckets, lowest first.
pub(super) fn at_rank(counts: impl Iterator<Item = (usize, u64)>, rank: u64) -> Option<u64> {
    let mut seen = 0_u64;
    for (bucket, count) in counts {
        seen = seen.saturating_add(count);
        if seen >= rank && count > 0 {
            return Some(middle_of(bucket));
        }
    }
    None
}

/// The rank of a quantile in parts per thousand: the smallest value that so many are not above.
pub(super) const fn rank_of(count: u64, per_mille: u64) -> u64 {
    let exact = (count as u128 * per_mille as u128).div_ceil(1000);
    if exact == 0 { 1 } else { exact as u64 }
}

/// Counts by bucket. Holds only the stretch of buckets between the shortest and the longest
/// duration: a kernel's span a few octaves. At most 1,920 counts of eight bytes: four would be full
/// after some days of a serving process, and quantiles wrong from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch {
    /// Bucket of the first count.
    first: usize,
    /// A count stays at its largest value once it is reached.
    counts: Vec<u64>,
}

impl Sketch {
    /// Counts one duration.
    #[inline]
    pub fn add(&mut self, duration: Nanos) {
        let bucket = bucket_of(duration.0);
        match bucket.checked_sub(self.first).and_then(|at| self.counts.get_mut(at)) {
            Some(count) => *count = count.saturating_add(1),
            None => self.add_outside(bucket, 1),
        }
    }

    #[cold]
    fn add_outside(&mut self, bucket: usize, more: u64) {
        if self.counts.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let missing = self.first - bucket;
            self.counts.splice(0..0, std::iter::repeat_n(0, missing));
            self.first = bucket;
        }
        let at = bucket - self.first;
        if at >= self.counts.len() {
            // Exactly as much as is needed: a `Vec`'s own doubling would be half empty.
            self.counts.reserve_exact(at + 1 - self.counts.len());
            self.counts.resize(at + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(more);
        }
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts() {
            if count > 0 {
                self.add_outside(bucket, count);
            }
        }
    }

    /// The duration that `per_mille` of a thousand are not above, within 1.6 %; `None` where
    /// nothing was counted.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<Nanos> {
        let total = self.counts().fold(0_u64, |sum, (_, count)| sum.saturating_add(count));
        at_rank(self.counts(), rank_of(total, per_mille)).map(Nanos)
    }

    /// Bytes of host memory it holds beside itself.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        (self.counts.capacity() * size_of::<u64>()) as u64
    }

    fn counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (self.first..).zip(self.counts.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_in_order_and_hold_their_middles() {
        let mut last = 0;
        for ns in (0..100_000_u64).chain((17..64).flat_map(|bit| {
            let power = 1_u64 << bit;
            [power - 1, power, power + 1, power + power / 3]
        })) {
            let bucket = bucket_of(ns);
            assert!(bucket >= last, "{ns}");
            last = bucket;
            let middle = middle_of(bucket);
            assert_eq!(bucket_of(middle), bucket, "{ns}");
            assert!(middle.abs_diff(ns) <= ns / 64 + 1, "{ns} stands for {middle}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn nothing_has_no_quantile_and_one_value_is_every_quantile() {
        assert_eq!(Sketch::default().quantile(500), None);
        let mut one = Sketch::default();
        one.add(Nanos(17));
        assert_eq!([0, 500, 990, 1000].map(|q| one.quantile(q)), [Some(Nanos(17)); 4]);
    }

    #[test]
    fn the_extremes_are_held_in_bounded_memory() {
        let mut sketch = Sketch::default();
        [u64::MAX, 0, 1 << 40].into_iter().for_each(|ns| sketch.add(Nanos(ns)));
        assert!(sketch.host_bytes() <= (BUCKETS * 8 * 2) as u64);
        assert_eq!(sketch.quantile(1), Some(Nanos(0)));
        assert!(sketch.quantile(1000).unwrap().0 > u64::MAX - u64::MAX / 60);
    }

    #[test]
    fn shares_stay_true_however_many_are_counted() {
        let mut sketch = sketch_of(&[&[10; 97][..], &[20; 3]].concat());
        for doublings in 0..50 {
            let found = [970, 971].map(|q| sketch.quantile(q));
            assert_eq!(found, [Some(Nanos(10)), Some(Nanos(20))], "{doublings}");
            let same = sketch.clone();
            sketch.merge(&same);
        }
        // Past 2^64 in all, and in one bucket.
        (0..20).for_each(|_| sketch.merge(&sketch.clone()));
        assert_eq!(sketch.quantile(1), Some(Nanos(10)));
    }

    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let one = prop_oneof![0..100_u64, 1_000..10_000_u64, any::<u64>()];
        proptest::collection::vec(one, 1..200)
    }

    fn sketch_of(values: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|ns| sketch.add(Nanos(*ns)));
        sketch
    }

    proptest! {
        #[test]
        fn quantiles_are_close_to_the_exact_ones(mut values in durations(), q in 0..=1000_u64) {
            let found = sketch_of(&values).quantile(q).unwrap().0;
            values.sort_unstable();
            let exact = values[rank_of(values.len() as u64, q) as usize - 1];
            prop_assert!(found.abs_diff(exact) <= exact / 64 + 1, "{} for {}", found, exact);
        }

        #[test]
        fn merging_is_counting_both(a in durations(), b in durations(), q in 0..=1000_u64) {
            let mut merged = sketch_of(&a);
            merged.merge(&sketch_of(&b));
            let both = sketch_of(&[a, b].concat());
            prop_assert_eq!(merged.quantile(q), both.quantile(q));
        }
    }
}
