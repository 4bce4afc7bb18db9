//! When CUPTI was others' while a session ran, and when to look for it again.

use std::time::{Duration, Instant};

/// The shortest and the longest time between two looks whether CUPTI is free.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// When CUPTI was others' while a session ran.
#[derive(Clone, Debug)]
pub(super) struct Absence {
    /// Stretches that are over, and how long they were in all.
    pub(super) count: u64,
    total: Duration,
    /// Since when, and when to look again, after how long a wait.
    pub(super) now: Option<(Instant, Instant, Duration)>,
}

impl Absence {
    pub(super) const NONE: Self = Self { count: 0, total: Duration::ZERO, now: None };

    pub(super) fn begin(&mut self, wait: Duration) {
        let now = Instant::now();
        self.now = Some((now, now + wait, wait));
    }

    pub(super) fn is_due(&self) -> bool {
        self.now.is_some_and(|(_, due, _)| Instant::now() >= due)
    }

    pub(super) fn wait_longer(&mut self) {
        if let Some((_, due, wait)) = &mut self.now {
            *wait = (*wait).max(RETRY_MIN).saturating_mul(2).min(RETRY_MAX);
            *due = Instant::now() + *wait;
        }
    }

    pub(super) fn end(&mut self) {
        if let Some((since, ..)) = self.now.take() {
            self.count += 1;
            self.total = self.total.saturating_add(since.elapsed());
        }
    }

    pub(super) fn sentence(&self) -> Option<String> {
        (self.count > 0).then(|| {
            format!(
                "what happened while CUPTI was not ours: {:.1} s in {} stretches; what was \
                 allocated in them and is still there is in the opening balance",
                self.total.as_secs_f64(),
                self.count
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_others_grows_to_a_minute() {
        let mut absence = Absence::NONE;
        assert!(!absence.is_due() && absence.sentence().is_none());
        // As a pause begins: the first try comes with the wish, and later ones wait like any.
        absence.begin(Duration::ZERO);
        assert!(absence.is_due());
        absence.wait_longer();
        assert!(!absence.is_due());
        absence.begin(Duration::from_secs(1));
        let waits: Vec<_> = (0..8)
            .map(|_| {
                absence.wait_longer();
                absence.now.map_or(0, |(.., wait)| wait.as_secs())
            })
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(!absence.is_due());
        absence.end();
        absence.end();
        assert_eq!(absence.count, 1);
        assert!(absence.sentence().is_some_and(|text| text.contains("opening balance")));
    }
}
