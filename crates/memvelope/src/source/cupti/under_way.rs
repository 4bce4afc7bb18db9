//! Calls that are under way: what they take or give back is told when they return, so what the
//! device says meanwhile and what was seen may belong to different moments.

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Low bits: how many are under way. More threads than this are never inside of driver calls.
const CALL_BITS: u32 = 14;
/// Above them: which recording they belong to, from 1.
const RECORDING_BITS: u32 = 10;
const RECORDINGS: u64 = (1 << RECORDING_BITS) - 1;
/// The rest counts beginnings and ends: a thousand thousand million.
const STEP: u64 = 1 << (CALL_BITS + RECORDING_BITS);

fn calls(word: u64) -> u64 {
    word & ((1 << CALL_BITS) - 1)
}

fn recording(word: u64) -> u64 {
    word >> CALL_BITS & RECORDINGS
}

/// The number of such calls, of how many it was told, and in which recording: one atomic, because
/// every allocation pays for it twice.
#[derive(Debug)]
pub(super) struct UnderWay(AtomicU64);

impl UnderWay {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(1 << CALL_BITS))
    }

    /// A recording begins: exits that belong to the last one end nothing any more.
    pub(super) fn reset(&self) {
        self.change(|word| {
            let next = recording(word) % RECORDINGS + 1;
            word / STEP * STEP + (next << CALL_BITS)
        });
    }

    /// A call is entered: from now on the driver's books may move before ours do. In which recording
    /// that was, for [`Self::leave`], and a number that no other call has.
    pub(super) fn enter(&self) -> (u64, u64) {
        // Relaxed would let the change itself be seen before this; what is changed is behind locks
        // (the ledger's, the driver's), and what is before a lock is seen by who takes it later.
        let before = self.0.fetch_add(STEP + 1, Ordering::AcqRel);
        (recording(before), before / STEP)
    }

    /// All is told of a call. One whose beginning was not seen in this recording (0: never) counts as
    /// a change alone.
    pub(super) fn leave(&self, entered_in: u64) {
        self.change(|word| {
            let is_counted = recording(word) == entered_in && calls(word) > 0;
            word.wrapping_add(STEP) - u64::from(is_counted)
        });
    }

    /// The recording that there is: never 0.
    pub(super) fn recording(&self) -> u64 {
        recording(self.0.load(Ordering::Acquire))
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        calls(self.0.load(Ordering::Acquire))
    }

    /// Beginnings and ends that were told so far.
    pub(super) fn told(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / STEP
    }

    /// Odd while a call is under way. Where two readings are equal and even, no call began, ended or
    /// was under way in between: what was read meanwhile belongs together.
    pub(super) fn moment(&self) -> u64 {
        // Acquire: with an end, all that it ended is seen. And what is read between two readings
        // is read under locks, so that the second one sees the beginning of whatever was read.
        let word = self.0.load(Ordering::Acquire);
        word >> CALL_BITS << 1 | u64::from(calls(word) > 0)
    }

    fn change(&self, next: impl Fn(u64) -> u64) {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let next = next(now);
            match self.0.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_is_odd_while_a_call_is_under_way() {
        let calls = UnderWay::new();
        let before = calls.moment();
        let (of, first) = calls.enter();
        assert_ne!(calls.enter().1, first);
        assert_eq!((calls.count(), calls.moment() & 1), (2, 1));
        calls.leave(of);
        assert_eq!((calls.count(), calls.moment() & 1), (1, 1));
        calls.leave(of);
        assert_eq!((calls.count(), calls.moment() & 1), (0, 0));
        assert!(calls.moment() > before && calls.told() == 4);
        let before = calls.moment();
        calls.leave(0);
        assert!(calls.moment() > before && calls.count() == 0, "an end alone");
    }

    #[test]
    fn calls_of_a_former_recording_do_not_count() {
        let calls = UnderWay::new();
        let ((former, _), before) = (calls.enter(), calls.moment());
        calls.reset();
        assert!(calls.count() == 0 && calls.moment() != before);
        let (of, _) = calls.enter();
        calls.leave(former);
        assert_eq!(calls.count(), 1, "not ended by an end of another recording");
        calls.leave(of);
        assert_eq!(calls.count(), 0);
        // Recordings are counted round, and none has the number 0.
        for _ in 0..2 * RECORDINGS {
            calls.reset();
            assert_ne!(calls.enter().0, 0);
            assert_ne!(calls.recording(), 0);
        }
    }

    #[test]
    fn the_count_of_changes_may_pass_its_end() {
        let calls = UnderWay(AtomicU64::new(u64::MAX / STEP * STEP + (7 << CALL_BITS)));
        let (of, _) = calls.enter();
        assert_eq!((of, calls.count(), calls.told()), (7, 1, 0));
        calls.leave(of);
        assert_eq!((calls.count(), calls.told()), (0, 1));
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p memvelope --lib loom_` (or `cargo xtask lane loom`).
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    /// The driver's bytes and the ledger's, each behind its own lock, and the number beside them.
    struct Planes {
        calls: UnderWay,
        driver: Mutex<u64>,
        ledger: Mutex<u64>,
    }

    impl Planes {
        /// As an allocation does it: entered, done by the driver, booked, returned.
        fn allocate(&self) {
            let (of, _) = self.calls.enter();
            *self.driver.lock().unwrap() += 1;
            *self.ledger.lock().unwrap() += 1;
            self.calls.leave(of);
        }

        /// As a free does it: booked before the driver takes the bytes back.
        fn free(&self) {
            let (of, _) = self.calls.enter();
            *self.ledger.lock().unwrap() -= 1;
            *self.driver.lock().unwrap() -= 1;
            self.calls.leave(of);
        }
    }

    fn check(writers: &'static [fn(&Planes)]) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let planes =
                Planes { calls: UnderWay::new(), driver: Mutex::new(1), ledger: Mutex::new(1) };
            let planes = Arc::new(planes);
            let threads: Vec<_> = writers
                .iter()
                .map(|write| {
                    let planes = Arc::clone(&planes);
                    thread::spawn(move || write(&planes))
                })
                .collect();
            let before = planes.calls.moment();
            let ledger = *planes.ledger.lock().unwrap();
            let driver = *planes.driver.lock().unwrap();
            let after = planes.calls.moment();
            if before == after && before & 1 == 0 {
                assert_eq!(ledger, driver, "nothing moved, so the planes agree");
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(planes.calls.moment() & 1, 0);
            assert_eq!(*planes.ledger.lock().unwrap(), *planes.driver.lock().unwrap());
        });
    }

    #[test]
    fn loom_an_allocation_is_seen_whole_or_as_torn() {
        check(&[Planes::allocate]);
    }

    #[test]
    fn loom_two_threads_are_seen_whole_or_as_torn() {
        check(&[Planes::allocate, Planes::free]);
    }
}
