//! What the leases of one pool are expected to hold, and what they would hold at worst.
//!
//! Two curves over the future, which is counted in tokens that every lease generates from now on:
//!
//! * *expected*: mean and variance of the blocks held at [`AHEAD_TOKENS`], each lease being there
//!   with the probability that its class survives so long, and never longer than its maximum;
//! * *worst*: the peak if nobody ends before its maximum, which is exact up to the width of its
//!   bins: whoever needs more is still there, and has grown by as much as the others.

use super::survival::{AHEAD_TOKENS, POINTS, Row};

/// Bins of need of the worst case: with 128, a lease is off by less than a percent of the largest
/// need.
const WORST_BINS: usize = 128;

/// What one lease adds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    /// Blocks it holds, and may come to hold.
    pub(crate) held: u32,
    pub(crate) claim: u32,
    /// Tokens until its maximum.
    pub(crate) left_tokens: u32,
}

/// [`AHEAD_TOKENS`] as the arithmetic needs them, and the point before each.
const AHEAD: Row = {
    let (mut ahead, mut point) = ([0.0; POINTS], 0);
    while point < POINTS {
        ahead[point] = AHEAD_TOKENS[point] as f32;
        point += 1;
    }
    ahead
};
const BEFORE: Row = {
    let (mut before, mut point) = ([-1.0; POINTS], 1);
    while point < POINTS {
        before[point] = AHEAD[point - 1];
        point += 1;
    }
    before
};

/// Blocks held at each point ahead: expected, its variance, and if nobody ends by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Curve {
    mean: Row,
    variance: Row,
    most: Row,
}

impl Curve {
    const ZERO: Self = Self { mean: [0.0; POINTS], variance: [0.0; POINTS], most: [0.0; POINTS] };
}

/// The curves of one pool.
#[derive(Clone, Debug)]
pub(crate) struct Forecast {
    curve: Curve,
    /// Blocks that a token takes.
    blocks_per_token: f32,
    /// By need: how many leases, what they hold, what they claim.
    count: [i64; WORST_BINS],
    held: [i64; WORST_BINS],
    claim: [i64; WORST_BINS],
    /// Blocks of need to a bin, and the largest need since it was chosen. Larger ones are in the
    /// last bin, where all count with their claims at once: too much rather than too little.
    width: u32,
    largest: u32,
}

/// What a lease holds at each point ahead.
#[inline]
fn outlook(share: &Share, row: &Row, blocks_per_token: f32) -> Curve {
    let mut curve = Curve::ZERO;
    let (held, claim, left) = (share.held as f32, share.claim as f32, share.left_tokens as f32);
    for point in 0..POINTS {
        // Who reaches its maximum between two points holds its claim until then.
        let is_there = if BEFORE[point] < left { 1.0 } else { 0.0 };
        let most = (held + AHEAD[point] * blocks_per_token).min(claim) * is_there;
        let mean = row[point] * most;
        curve.most[point] = most;
        curve.mean[point] = mean;
        // p (1 - p) most^2, with p = mean / most.
        curve.variance[point] = mean * (most - mean);
    }
    curve
}

impl Forecast {
    /// Nobody is there.
    pub(crate) fn new(blocks_per_token: f32) -> Self {
        Self {
            curve: Curve::ZERO,
            blocks_per_token,
            count: [0; WORST_BINS],
            held: [0; WORST_BINS],
            claim: [0; WORST_BINS],
            width: 1,
            largest: 0,
        }
    }

    /// Begins anew, with bins for needs as they were.
    pub(crate) fn clear(&mut self) {
        self.curve = Curve::ZERO;
        self.count = [0; WORST_BINS];
        self.held = [0; WORST_BINS];
        self.claim = [0; WORST_BINS];
        self.width = self.largest / WORST_BINS as u32 + 1;
        self.largest = 0;
    }

    #[inline]
    fn bin(&self, share: &Share) -> usize {
        ((share.claim - share.held) / self.width).min(WORST_BINS as u32 - 1) as usize
    }

    /// What a lease holds at each point ahead, of whose class the shares of `row` still run.
    #[inline]
    pub(crate) fn curve_of(&self, share: &Share, row: &Row) -> Curve {
        outlook(share, row, self.blocks_per_token)
    }

    /// A lease is there.
    #[inline]
    pub(crate) fn add(&mut self, share: &Share, own: &Curve) {
        let sum = &mut self.curve;
        for point in 0..POINTS {
            sum.mean[point] += own.mean[point];
            sum.variance[point] += own.variance[point];
            sum.most[point] += own.most[point];
        }
        self.change_worst(share, 1);
    }

    /// A lease that was there, as it was added, is not.
    #[inline]
    pub(crate) fn remove(&mut self, share: &Share, own: &Curve) {
        let sum = &mut self.curve;
        for point in 0..POINTS {
            sum.mean[point] -= own.mean[point];
            sum.variance[point] -= own.variance[point];
            sum.most[point] -= own.most[point];
        }
        self.change_worst(share, -1);
    }

    #[inline]
    fn change_worst(&mut self, share: &Share, sign: i64) {
        let bin = self.bin(share);
        self.largest = self.largest.max(share.claim - share.held);
        self.count[bin] += sign;
        self.held[bin] += sign * i64::from(share.held);
        self.claim[bin] += sign * i64::from(share.claim);
    }

    /// Whether the expected peak, with a newcomer and `margin` standard deviations, stays within
    /// `limit` blocks.
    #[inline]
    pub(crate) fn fits(&self, own: &Curve, limit: f32, margin: f32) -> bool {
        let (sum, margin) = (&self.curve, margin * margin);
        let mut is_fitting = true;
        for point in 0..POINTS {
            let room = limit - sum.mean[point] - own.mean[point];
            let spread = margin * (sum.variance[point] + own.variance[point]);
            // However wide the spread, nobody holds more than if all stayed.
            let is_certain = sum.most[point] + own.most[point] <= limit;
            is_fitting &= is_certain | ((room >= 0.0) & (room * room >= spread));
        }
        is_fitting
    }

    /// The expected peak in blocks, and the largest with `margin` standard deviations.
    pub(crate) fn peaks(&self, margin: f32) -> (f32, f32) {
        let mut peaks = (0.0f32, 0.0f32);
        let Curve { mean, variance, most } = &self.curve;
        for ((&mean, &variance), &most) in mean.iter().zip(variance).zip(most) {
            peaks.0 = peaks.0.max(mean);
            peaks.1 = peaks.1.max((mean + margin * variance.max(0.0).sqrt()).min(most));
        }
        peaks
    }

    /// The peak if nobody ends before its maximum, with a newcomer, in blocks.
    pub(crate) fn worst_peak(&self, newcomer: Option<&Share>) -> u64 {
        let own_bin = newcomer.map(|share| self.bin(share));
        let (mut count, mut held, mut peak) = (0, 0, 0);
        for bin in (0..WORST_BINS).rev() {
            let grown = (bin as i64 + 1) * i64::from(self.width);
            let (mut at, mut own) = (held + count * grown + self.claim[bin], 0);
            if let (Some(share), Some(own_bin)) = (newcomer, own_bin) {
                own = match bin.cmp(&own_bin) {
                    std::cmp::Ordering::Less => i64::from(share.held) + grown,
                    std::cmp::Ordering::Equal => i64::from(share.claim),
                    std::cmp::Ordering::Greater => 0,
                };
            }
            at += own;
            peak = peak.max(at);
            count += self.count[bin];
            held += self.held[bin];
        }
        // Before anybody grew.
        let now = held + newcomer.map_or(0, |share| i64::from(share.held));
        u64::try_from(peak.max(now)).unwrap_or(0)
    }

    /// After how many tokens the expected amount held leaves `blocks` of `capacity` free; `None` if
    /// it does so nowhere on the curve.
    pub(crate) fn tokens_until_free(&self, blocks: f32, capacity: f32) -> Option<u32> {
        let mean = &self.curve.mean;
        let point = mean.iter().position(|&mean| capacity - mean >= blocks)?;
        let Some(before) = point.checked_sub(1) else { return Some(0) };
        let (early, late) = (mean[before], mean[point]);
        let (from, to) = (AHEAD_TOKENS[before] as f32, AHEAD_TOKENS[point] as f32);
        let part = (early - (capacity - blocks)) / (early - late).max(f32::EPSILON);
        Some((from + part.clamp(0.0, 1.0) * (to - from)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::survival::ALL_STAY;
    use super::*;
    use proptest::prelude::*;

    fn share(held: u32, need: u32) -> Share {
        Share { held, claim: held + need, left_tokens: need * 16 }
    }

    fn add(forecast: &mut Forecast, lease: &Share, row: &Row) {
        let own = forecast.curve_of(lease, row);
        forecast.add(lease, &own);
    }

    /// The peak by looking at every block of growth.
    fn naive(leases: &[Share]) -> u64 {
        let longest = leases.iter().map(|l| l.claim - l.held).max().unwrap_or(0);
        let at = |grown: u32| {
            let there = leases.iter().filter(|l| l.claim - l.held >= grown);
            there.map(|l| u64::from(l.held + grown)).sum::<u64>()
        };
        (0..=longest).map(at).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn the_worst_peak_is_never_too_low_and_hardly_too_high(
            leases in prop::collection::vec((1u32..300, 0u32..3000), 1..60),
        ) {
            let leases: Vec<_> = leases.into_iter().map(|(h, n)| share(h, n)).collect();
            let most = leases.iter().map(|l| l.claim - l.held).max().unwrap_or(0);
            let (newcomer, others) = leases.split_last().unwrap();
            let mut forecast = Forecast::new(1.0 / 16.0);
            forecast.largest = most;
            forecast.clear();
            others.iter().for_each(|lease| add(&mut forecast, lease, &ALL_STAY));
            let (found, exact) = (forecast.worst_peak(Some(newcomer)), naive(&leases));
            prop_assert!(found >= exact, "{found} < {exact}");
            let slack = leases.len() as u64 * u64::from(forecast.width);
            prop_assert!(found <= exact + slack, "{found} > {exact} + {slack}");
            add(&mut forecast, newcomer, &ALL_STAY);
            prop_assert_eq!(forecast.worst_peak(None), found);
            for lease in &leases {
                let own = forecast.curve_of(lease, &ALL_STAY);
                forecast.remove(lease, &own);
            }
            prop_assert_eq!(forecast.worst_peak(None), 0);
        }
    }

    #[test]
    fn certain_leases_have_no_variance_and_uncertain_ones_do() {
        let mut forecast = Forecast::new(1.0 / 16.0);
        forecast.largest = 100;
        forecast.clear();
        add(&mut forecast, &share(10, 100), &ALL_STAY);
        assert_eq!(forecast.peaks(3.0), (110.0, 110.0));
        let half = [0.5; POINTS];
        add(&mut forecast, &share(100, 100), &half);
        let (mean, most) = forecast.peaks(1.0);
        // Half of the second at its claim beside all of the first; then half of it more.
        assert_eq!((mean, most), (210.0, 310.0));
        // However wide the margin, no more is held than if all stayed.
        assert_eq!(forecast.peaks(9.0).1, 310.0);
    }

    #[test]
    fn a_newcomer_fits_while_the_expected_peak_does() {
        let mut forecast = Forecast::new(1.0 / 16.0);
        forecast.largest = 100;
        forecast.clear();
        add(&mut forecast, &share(10, 90), &ALL_STAY);
        assert!(forecast.fits(&forecast.curve_of(&share(10, 90), &ALL_STAY), 200.0, 3.0));
        assert!(!forecast.fits(&forecast.curve_of(&share(10, 90), &ALL_STAY), 199.0, 3.0));
        // One that ends soon, in all likelihood.
        let mut soon = [0.0; POINTS];
        soon[0] = 1.0;
        assert!(forecast.fits(&forecast.curve_of(&share(10, 90), &soon), 120.0, 3.0));
    }

    #[test]
    fn room_comes_when_leases_are_expected_to_end() {
        let mut forecast = Forecast::new(1.0 / 16.0);
        forecast.largest = 0;
        forecast.clear();
        let mut row = [0.0; POINTS];
        row[..5].copy_from_slice(&[1.0, 0.8, 0.6, 0.4, 0.2]); // over 64 tokens
        add(&mut forecast, &Share { held: 100, claim: 100, left_tokens: 1000 }, &row);
        assert_eq!(forecast.tokens_until_free(50.0, 150.0), Some(0));
        let half = forecast.tokens_until_free(50.0, 100.0).unwrap();
        assert!((36..=44).contains(&half), "{half}");
        assert_eq!(forecast.tokens_until_free(200.0, 100.0), None);
    }
}
