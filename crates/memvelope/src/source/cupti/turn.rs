//! The turn: who may move the recorder on, one thread at a time.

use super::lock;
use super::recorder::Recorder;
use crate::source::signals::without_signals;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// One thread attaches or detaches at this moment.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The right to move the recorder on; given back when dropped, by whichever thread.
///
/// Whoever gives it back then looks whether the recorder was to be stopped meanwhile
/// ([`Recorder::catch_up`]): who wants that says so, and only then tries to take the turn. Both
/// orders are sequentially consistent, so that one of the two sees the other.
#[derive(Debug)]
pub(super) struct Turn(());

impl Turn {
    pub(super) fn take(wait: Duration) -> Option<Self> {
        let deadline = Instant::now() + wait;
        while IS_TAKEN.swap(true, Ordering::SeqCst) {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(Self(()))
    }

    /// Whether somebody has it.
    pub(super) fn is_taken() -> bool {
        IS_TAKEN.load(Ordering::Acquire)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IS_TAKEN.store(false, Ordering::SeqCst);
    }
}

/// Work that was not done on a thread of its own.
pub(super) enum Left<W> {
    /// It takes too long: the thread is left to itself.
    Hanging,
    /// There was no thread to be had; the turn is given back.
    NoThread(W),
}

/// Runs `work` on a thread of its own, which keeps the turn until it is done: it may hang inside
/// CUPTI.
pub(super) fn on_own_thread<T, W>(turn: Turn, timeout: Duration, work: W) -> Result<T, Left<W>>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    let (done, answer) = mpsc::sync_channel(1);
    // Where both can be had back, should the thread not start.
    let load = Arc::new(Mutex::new(Some((turn, work))));
    let taken = Arc::clone(&load);
    let body = move || {
        let Some((turn, work)) = lock(&taken).take() else { return };
        let outcome = work();
        drop(turn);
        Recorder::catch_up();
        // Nobody may be waiting any more.
        let _ = done.send(outcome);
    };
    let builder = std::thread::Builder::new().name("memvelope-stop".into());
    if without_signals(|| builder.spawn(body)).is_err()
        && let Some((_turn, work)) = lock(&load).take()
    {
        return Err(Left::NoThread(work));
    }
    answer.recv_timeout(timeout).map_err(|_| Left::Hanging)
}
