//! How fast blocks come back, and hence when a rejected request may try again.

use crate::units::Nanos;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// What `retry_after` is before anything was released: long enough not to be a busy loop, short
/// enough that an idle server is not left idle.
pub(crate) const RETRY_DEFAULT: Nanos = Nanos(Nanos::SECOND);
/// Shortest `retry_after`: less than a decode step of a large model, so asking sooner is useless.
pub(crate) const RETRY_MIN: Nanos = Nanos(10 * Nanos::MILLI);
/// Longest `retry_after`: beyond a minute the estimate is worth less than another question.
pub(crate) const RETRY_MAX: Nanos = Nanos(60 * Nanos::SECOND);

/// Time constant of the moving average: releases come in bursts of a step, traffic changes over
/// tens of seconds; five seconds smooth the first and follow the second.
const TIME_CONSTANT_NS: f64 = 5.0 * Nanos::SECOND as f64;

/// An exponentially weighted moving average of released blocks per nanosecond.
#[derive(Debug)]
pub(crate) struct ReleaseRate {
    state: Mutex<State>,
    /// Blocks per nanosecond as the bits of an `f64`; NaN until something was released.
    published: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Time and blocks released in all, as of the last tick.
    last: Option<(Nanos, u64)>,
    /// The average, not yet divided by its weight.
    sum: f64,
    /// How much of the window is filled, 0 to 1: corrects the start, when history is short.
    weight: f64,
}

impl ReleaseRate {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State::default()), published: AtomicU64::new(f64::NAN.to_bits()) }
    }

    /// At `now`, `released` blocks had come back since the gate exists. Time that stands still or
    /// runs backwards is ignored, and so is a tick while another thread ticks.
    pub(crate) fn tick(&self, now: Nanos, released: u64) {
        let Ok(mut state) = self.state.try_lock() else { return };
        let Some((last, before)) = state.last else {
            state.last = Some((now, released));
            return;
        };
        if now <= last {
            return;
        }
        let elapsed_ns = (now.0 - last.0) as f64;
        let alpha = -(-elapsed_ns / TIME_CONSTANT_NS).exp_m1();
        let current = released.saturating_sub(before) as f64 / elapsed_ns;
        state.sum += alpha * (current - state.sum);
        state.weight += alpha * (1.0 - state.weight);
        state.last = Some((now, released));
        if released > 0 {
            self.published.store((state.sum / state.weight).to_bits(), Relaxed);
        }
    }

    /// When `blocks` will have come back at this rate.
    pub(crate) fn time_to_release(&self, blocks: u64) -> Nanos {
        let rate = f64::from_bits(self.published.load(Relaxed));
        if rate.is_nan() {
            return RETRY_DEFAULT;
        }
        // The cast saturates, also for the infinity of a rate that decayed to nothing.
        let wait_ns = blocks.max(1) as f64 / rate;
        Nanos((wait_ns as u64).clamp(RETRY_MIN.0, RETRY_MAX.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = Nanos::SECOND;

    /// A rate after `steps` ticks of 100 ms with `blocks` each.
    fn steady(blocks: u64, steps: u64) -> ReleaseRate {
        let rate = ReleaseRate::new();
        for step in 0..=steps {
            rate.tick(Nanos(7 + step * SECOND / 10), step * blocks);
        }
        rate
    }

    #[test]
    fn before_history_the_default_answers() {
        let rate = ReleaseRate::new();
        assert_eq!(rate.time_to_release(1), RETRY_DEFAULT);
        rate.tick(Nanos(5), 0);
        rate.tick(Nanos(SECOND), 0);
        assert_eq!(rate.time_to_release(1_000_000), RETRY_DEFAULT);
    }

    #[test]
    fn a_steady_rate_is_found_at_once_and_kept() {
        for steps in [1, 3, 50, 1000] {
            let wait = steady(20, steps).time_to_release(400).0 as f64 / SECOND as f64;
            assert!((wait - 2.0).abs() < 1e-3, "{steps} steps: {wait} s, expected 2 s");
        }
    }

    #[test]
    fn more_blocks_never_wait_less_and_bounds_hold() {
        let rate = steady(20, 100);
        let mut before = Nanos::ZERO;
        for blocks in (0..=64).map(|bit| 1u64.checked_shl(bit).unwrap_or(u64::MAX)) {
            let wait = rate.time_to_release(blocks);
            assert!(wait >= before && (RETRY_MIN..=RETRY_MAX).contains(&wait));
            before = wait;
        }
        assert_eq!(rate.time_to_release(1), RETRY_MIN);
        assert_eq!(rate.time_to_release(u64::MAX), RETRY_MAX);
    }

    #[test]
    fn a_faster_release_never_waits_longer() {
        let waits: Vec<_> = (1..50).map(|n| steady(n, 30).time_to_release(500)).collect();
        assert!(waits.is_sorted_by(|slow, fast| slow >= fast), "{waits:?}");
    }

    #[test]
    fn a_rate_dries_up_to_the_longest_wait() {
        let rate = steady(20, 100);
        rate.tick(Nanos(100_000 * SECOND), 2000);
        assert_eq!(rate.time_to_release(1), RETRY_MAX);
    }

    #[test]
    fn time_running_backwards_changes_nothing() {
        let rate = steady(20, 100);
        let before = rate.time_to_release(400);
        for now in [0, 1, 10 * SECOND + 7] {
            rate.tick(Nanos(now), u64::MAX);
        }
        assert_eq!(rate.time_to_release(400), before);
    }
}
