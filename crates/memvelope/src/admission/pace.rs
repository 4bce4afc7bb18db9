//! How long a step takes, from the ticks a gate is given.

use crate::units::Nanos;

/// Weight of the newest step: the pace of the last twenty or so.
const NEWEST: f64 = 0.05;
/// A pause in the traffic is no step: longer ones are left out.
const STEP_MAX: Nanos = Nanos(10 * Nanos::SECOND);

/// A moving average of the time between ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    last: Option<Nanos>,
    step_ns: Option<f64>,
}

impl Pace {
    /// It is `now`, one step after the last tick. Time that stands still or runs backwards is
    /// ignored.
    pub(crate) fn tick(&mut self, now: Nanos) {
        if let Some(last) = self.last {
            if now <= last {
                return;
            }
            let step = now.0 - last.0;
            if step <= STEP_MAX.0 {
                let step = step as f64;
                let before = self.step_ns.unwrap_or(step);
                self.step_ns = Some(before + NEWEST * (step - before));
            }
        }
        self.last = Some(now);
    }

    /// How long so many steps take; `None` before two ticks.
    pub(crate) fn time_of(&self, steps: u32) -> Option<Nanos> {
        // The cast saturates.
        self.step_ns.map(|step| Nanos((step * f64::from(steps)) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_recent_steps() {
        let mut pace = Pace::default();
        assert_eq!(pace.time_of(10), None);
        for step in 0..100 {
            pace.tick(Nanos(step * 20 * Nanos::MILLI));
        }
        assert_eq!(pace.time_of(10), Some(Nanos(200 * Nanos::MILLI)));
        pace.tick(Nanos(0));
        pace.tick(Nanos(3600 * Nanos::SECOND));
        assert_eq!(pace.time_of(10), Some(Nanos(200 * Nanos::MILLI)));
    }
}
