//! A number that tells whether anything moved, read without a lock.

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Low bits: how many are changing something now. More threads than this are never inside of
/// driver calls at one time.
const UNDER_WAY: u64 = (1 << 16) - 1;
/// The other bits count beginnings and ends.
const STEP: u64 = UNDER_WAY + 1;

/// Counts changes, each when it begins and when it has ended.
#[derive(Debug)]
pub(super) struct Changes(AtomicU64);

impl Changes {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Something is about to change: a change of the driver's begins when its call is entered.
    pub(super) fn begin(&self) {
        // Relaxed would let the change itself be seen before this; what is changed is behind locks
        // (the ledger's, the driver's), and what is before a lock is seen by who takes it later.
        self.0.fetch_add(STEP + 1, Ordering::AcqRel);
    }

    /// It has changed. An end without a beginning (we came in between) counts as a change alone.
    pub(super) fn end(&self) {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let next = if now & UNDER_WAY == 0 { now + STEP } else { now + STEP - 1 };
            match self.0.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    /// Nothing that began before is waited for any more: its end will not be seen.
    pub(super) fn forget(&self) {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let next = (now & !UNDER_WAY) + STEP;
            match self.0.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    /// Odd while something is changing. Where two readings are equal and even, nothing began,
    /// ended or was under way in between.
    pub(super) fn read(&self) -> u64 {
        // Acquire: with an end, all that it ended is seen. And what is read between two readings
        // was read under locks, so that the second one sees the beginning of whatever was read.
        let now = self.0.load(Ordering::Acquire);
        (now / STEP) << 1 | u64::from(now & UNDER_WAY != 0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_is_odd_while_something_changes() {
        let changes = Changes::new();
        let seen = |step: &dyn Fn()| {
            step();
            changes.read() & 1
        };
        assert_eq!(seen(&|| ()), 0);
        assert_eq!(seen(&|| changes.begin()), 1);
        assert_eq!(seen(&|| changes.begin()), 1);
        assert_eq!(seen(&|| changes.end()), 1);
        assert_eq!(seen(&|| changes.end()), 0);
        let before = changes.read();
        changes.end();
        assert!(changes.read() > before && changes.read() & 1 == 0, "an end alone");
        changes.begin();
        changes.forget();
        assert_eq!(changes.read() & 1, 0);
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p memvelope --lib loom_` (or `cargo xtask lane loom`).
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    /// The driver's bytes and the ledger's, each behind its own lock, and the number between them.
    struct Planes {
        changes: Changes,
        driver: Mutex<u64>,
        ledger: Mutex<u64>,
    }

    impl Planes {
        /// As a driver call does it: entered, done by the driver, booked, returned.
        fn allocate(&self) {
            self.changes.begin();
            *self.driver.lock().unwrap() += 1;
            self.changes.begin();
            *self.ledger.lock().unwrap() += 1;
            self.changes.end();
            self.changes.end();
        }

        /// As a free does it: booked before the driver takes the bytes back.
        fn free(&self) {
            self.changes.begin();
            *self.ledger.lock().unwrap() -= 1;
            *self.driver.lock().unwrap() -= 1;
            self.changes.end();
        }
    }

    fn check(writers: &'static [fn(&Planes)]) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let planes =
                Planes { changes: Changes::new(), driver: Mutex::new(1), ledger: Mutex::new(1) };
            let planes = Arc::new(planes);
            let threads: Vec<_> = writers
                .iter()
                .map(|write| {
                    let planes = Arc::clone(&planes);
                    thread::spawn(move || write(&planes))
                })
                .collect();
            let before = planes.changes.read();
            let ledger = *planes.ledger.lock().unwrap();
            let driver = *planes.driver.lock().unwrap();
            let after = planes.changes.read();
            if before == after && before & 1 == 0 {
                assert_eq!(ledger, driver, "nothing moved, so the planes agree");
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(planes.changes.read() & 1, 0);
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
