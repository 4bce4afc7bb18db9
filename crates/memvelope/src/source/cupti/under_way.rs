//! Calls that are under way: what they take or give back is told when they return, so what the
//! device says meanwhile and what was seen may belong to different moments.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of such calls, and whose recording they belong to: `recording << 32 | calls`.
#[derive(Debug)]
pub(super) struct UnderWay(AtomicU64);

thread_local! {
    // const-initialised, without a destructor: usable in a callback at any time of a thread's life.
    /// The recording in which this thread entered the call that it is in; 0 outside of calls.
    static ENTERED_IN: Cell<u32> = const { Cell::new(0) };
}

impl UnderWay {
    pub(super) const fn new() -> Self {
        // No recording has the number 0.
        Self(AtomicU64::new(1 << 32))
    }

    /// A recording begins: exits that belong to the last one count no more.
    pub(super) fn reset(&self) {
        let next = |word: u64| Some(u64::from((word >> 32) as u32 % u32::MAX + 1) << 32);
        // The closure never refuses.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// This thread enters a call. (Calls do not nest: what the driver calls itself has no callback.)
    pub(super) fn enter(&self) {
        let word = self.0.fetch_add(1, Ordering::AcqRel);
        ENTERED_IN.with(|entered| entered.set((word >> 32) as u32));
    }

    /// It leaves the call.
    pub(super) fn leave(&self) {
        let entered = ENTERED_IN.with(|entered| entered.replace(0));
        let gone = |word: u64| {
            let is_same = (word >> 32) as u32 == entered && word as u32 > 0;
            is_same.then(|| word - 1)
        };
        // Refused where it was entered before this recording began.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, gone);
    }

    /// The recording that there is: never 0.
    pub(super) fn recording(&self) -> u32 {
        (self.0.load(Ordering::Acquire) >> 32) as u32
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_former_recording_do_not_count() {
        let calls = UnderWay::new();
        calls.leave();
        assert_eq!(calls.count(), 0, "attached between the two sites");
        calls.enter();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                calls.enter();
                assert_eq!(calls.count(), 2);
                calls.leave();
            });
        });
        assert_eq!(calls.count(), 1);
        let former = calls.recording();
        calls.reset();
        assert_eq!((calls.count(), calls.recording()), (0, former + 1));
        calls.leave();
        assert_eq!(calls.count(), 0);
        calls.enter();
        calls.leave();
        assert_eq!(calls.count(), 0);
    }
}
