//! How the threads are told what to do, and how one waits for them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a waiting thread shall do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Its period is over.
    Tick,
    /// Everything, now; to be acknowledged with this number.
    Flush(u64),
    /// End.
    Stop,
}

#[derive(Debug, Default)]
struct State {
    is_stopping: bool,
    is_closed: bool,
    flush_wanted: u64,
    flush_done: u64,
    /// Threads that have not ended.
    running: u32,
    /// Of those, threads that answer flushes.
    draining: u32,
}

/// Orders and answers. A leaf lock: nothing is called under it.
#[derive(Debug, Default)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    /// For the drain thread: waits for its period, a flush or the end. Flushes go before the end.
    pub(super) fn next_order(&self, period: Duration) -> Order {
        let deadline = deadline_after(period);
        let mut state = self.lock();
        loop {
            if state.flush_wanted > state.flush_done {
                return Order::Flush(state.flush_wanted);
            }
            if state.is_stopping {
                return Order::Stop;
            }
            let Some(left) = left_until(deadline) else { return Order::Tick };
            state = self.wait(state, left);
        }
    }

    /// For every other thread: waits for its period; true at the end.
    pub(super) fn sleep(&self, period: Duration) -> bool {
        let deadline = deadline_after(period);
        let mut state = self.lock();
        while !state.is_stopping {
            let Some(left) = left_until(deadline) else { return false };
            state = self.wait(state, left);
        }
        true
    }

    /// Asks the drain thread for everything; true once it is done, false after `timeout`. Without
    /// a drain thread there is nothing to wait for.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let deadline = deadline_after(timeout);
        let mut state = self.lock();
        state.flush_wanted += 1;
        let wanted = state.flush_wanted;
        self.changed.notify_all();
        while state.flush_done < wanted && state.draining > 0 {
            let Some(left) = left_until(deadline) else { return false };
            state = self.wait(state, left);
        }
        true
    }

    /// The drain thread's answer to [`Order::Flush`].
    pub(super) fn flushed(&self, number: u64) {
        let mut state = self.lock();
        state.flush_done = state.flush_done.max(number);
        self.changed.notify_all();
    }

    /// Tells every thread to end.
    pub(super) fn stop(&self) {
        self.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Waits until every thread has ended; false after `timeout`.
    pub(super) fn wait_ended(&self, timeout: Duration) -> bool {
        self.wait_for(timeout, |state| state.running == 0)
    }

    /// Says that the session's last snapshot stands.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits for [`Self::close`]; false after `timeout`.
    pub(super) fn wait_closed(&self, timeout: Duration) -> bool {
        self.wait_for(timeout, |state| state.is_closed)
    }

    /// Counts a thread until the guard drops, whatever it dies of.
    pub(super) fn running(&self, is_drain: bool) -> Running<'_> {
        let mut state = self.lock();
        state.running += 1;
        state.draining += u32::from(is_drain);
        drop(state);
        self.adopt(is_drain)
    }

    /// Takes over a count made with [`Self::running`] by whoever started this thread.
    pub(super) fn adopt(&self, is_drain: bool) -> Running<'_> {
        Running { control: self, is_drain, is_handed_over: false }
    }

    fn wait_for(&self, timeout: Duration, done: impl Fn(&State) -> bool) -> bool {
        let deadline = deadline_after(timeout);
        let mut state = self.lock();
        while !done(&state) {
            let Some(left) = left_until(deadline) else { return false };
            state = self.wait(state, left);
        }
        true
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When `timeout` from now is over. `Instant` panics where its sum overflows, and callers say
/// "wait for ever" with `Duration::MAX`: a year is as good.
pub(super) fn deadline_after(timeout: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + timeout.min(LONGEST)
}

fn left_until(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// A thread that runs, or is about to.
#[derive(Debug)]
pub(super) struct Running<'a> {
    control: &'a Control,
    is_drain: bool,
    is_handed_over: bool,
}

impl Running<'_> {
    /// Leaves the count to the thread itself, which has adopted it or will.
    pub(super) fn hand_over(mut self) {
        self.is_handed_over = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.is_handed_over {
            return;
        }
        let mut state = self.control.lock();
        state.running = state.running.saturating_sub(1);
        state.draining = state.draining.saturating_sub(u32::from(self.is_drain));
        self.control.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_answered_or_times_out() {
        let control = Control::default();
        assert!(control.flush(Duration::from_secs(60)), "nobody to wait for");
        let poller = control.running(false);
        assert!(control.flush(Duration::from_secs(60)), "the poller does not drain");
        drop(poller);
        std::thread::scope(|scope| {
            let running = control.running(true);
            assert!(!control.flush(Duration::from_millis(5)), "nobody answers yet");
            scope.spawn(|| {
                let _running = running;
                loop {
                    match control.next_order(Duration::from_secs(60)) {
                        Order::Flush(number) => control.flushed(number),
                        Order::Stop => break,
                        Order::Tick => {}
                    }
                }
            });
            assert!(control.flush(Duration::from_secs(60)));
            control.stop();
            assert!(control.wait_ended(Duration::from_secs(60)));
        });
        assert!(control.sleep(Duration::from_secs(60)), "returns at once after the end");
        assert!(!control.wait_closed(Duration::from_millis(1)));
        control.close();
        assert!(control.wait_closed(Duration::ZERO));
    }
}
