//! The one recorder of the process.
//!
//! Its life is told in [`super::lifecycle`]. One thread at a time moves it on (the *turn*); nobody
//! waits for that thread while holding a lock, and whoever waits for it does so for a bounded time,
//! because what it calls may hang.

use super::attributes::DeviceBuffers;
use super::lifecycle::{Life, State, Step};
use super::session::{self, Attached, Run, Setup};
use super::state::{Inside, STATE};
use super::{Counters, Coverage, buffers, counters, drain, finalize, lock};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{Event, Names, ScopeId, Sink};
use crate::source::clock;
use crate::source::driver::Driver;
use crate::source::loader::LoadReport;
use crate::source::signals::without_signals;
use crate::units::Nanos;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long [`Recorder::stop`] waits for CUPTI, and how long anybody waits for the turn.
const DETACH_MAX: Duration = Duration::from_secs(5);
const TURN_MAX: Duration = Duration::from_millis(250);

/// The longest time between two looks whether CUPTI is free.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A CUPTI recorder. At most one a process; its buffers live as long as the process.
#[derive(Debug)]
pub struct Recorder {
    life: Life,
    /// One thread attaches or detaches at this moment.
    is_turning: AtomicBool,
    setup: Mutex<Option<Setup>>,
    /// The current attachment, and after its end the last one.
    run: Mutex<Option<Arc<Run>>>,
    drain: drain::Drain,
    /// What had been counted when this recording began.
    baseline: Mutex<Counters>,
    absence: Mutex<Absence>,
    /// Kinds and callbacks are on, and nobody has begun to turn them off.
    is_on: AtomicBool,
    /// The user wants CUPTI left alone: it is not tried again.
    is_paused: AtomicBool,
    /// Times that the subscription was taken from us.
    losses: AtomicU64,
}

/// When CUPTI was others' while a session ran.
#[derive(Clone, Debug)]
struct Absence {
    /// Stretches that are over, and how long they were in all.
    count: u64,
    total: Duration,
    /// Since when, and when to look again, after how long a wait.
    now: Option<(Instant, Instant, Duration)>,
}

impl Absence {
    const NONE: Self = Self { count: 0, total: Duration::ZERO, now: None };

    fn begin(&mut self, wait: Duration) {
        let now = Instant::now();
        self.now = Some((now, now + wait, wait));
    }

    fn is_due(&self) -> bool {
        self.now.is_some_and(|(_, due, _)| Instant::now() >= due)
    }

    fn wait_longer(&mut self) {
        if let Some((_, due, wait)) = &mut self.now {
            *wait = wait.saturating_mul(2).min(RETRY_MAX);
            *due = Instant::now() + *wait;
        }
    }

    fn end(&mut self) {
        if let Some((since, ..)) = self.now.take() {
            self.count += 1;
            self.total = self.total.saturating_add(since.elapsed());
        }
    }

    fn sentence(&self) -> Option<String> {
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

/// What [`Recorder::tend`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tended {
    /// All is as it was.
    Same,
    /// The subscription was taken from us.
    Lost,
    /// CUPTI was free, and is ours again.
    Regained,
}

/// Process-wide, as everything that CUPTI's callbacks reach.
static RECORDER: Recorder = Recorder {
    life: Life::new(),
    is_turning: AtomicBool::new(false),
    setup: Mutex::new(None),
    run: Mutex::new(None),
    drain: drain::Drain::new(),
    baseline: Mutex::new(Counters::ZERO),
    absence: Mutex::new(Absence::NONE),
    is_on: AtomicBool::new(false),
    is_paused: AtomicBool::new(false),
    losses: AtomicU64::new(0),
};

/// The right to move the recorder on; given back when dropped, by whichever thread.
#[derive(Debug)]
struct Turn(());

impl Turn {
    fn take(wait: Duration) -> Option<Self> {
        let deadline = Instant::now() + wait;
        while RECORDER.is_turning.swap(true, Ordering::AcqRel) {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(Self(()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        RECORDER.is_turning.store(false, Ordering::Release);
    }
}

impl Recorder {
    /// Attaches. The driver must be initialised ([`Driver::is_initialized`]). `sink` gets callback
    /// events at once, on the calling threads; activity events come out of [`Self::drain`]. Where
    /// another tool has CUPTI, the recorder is there all the same, [`State::Yielded`], and
    /// [`Self::tend`] tries again.
    ///
    /// After [`Self::stop`] it may be started again, with another sink.
    pub fn start(
        config: &Config,
        driver: &'static Driver,
        sink: &'static dyn Sink,
        names: &'static Names,
    ) -> (Result<&'static Self>, LoadReport) {
        let mut report = LoadReport::new("libcupti");
        if !driver.is_initialized() {
            report.hint =
                "libcupti is not touched before cuInit returned 0: some versions crash".into();
            return (Err(report.to_error()), report);
        }
        if RECORDER.state() == State::Failed {
            report.hint = RECORDER.why();
            return (Err(report.to_error()), report);
        }
        let Some(_turn) = Turn::take(TURN_MAX) else {
            report.hint = "CUPTI has not come back from the last session's end yet".into();
            return (Err(report.to_error()), report);
        };
        match RECORDER.state() {
            State::Attached | State::Recording | State::Yielded | State::Failed => {
                report.hint = "a recorder is already attached in this process".into();
                return (Err(Error::SessionExists), report);
            }
            State::Off | State::Draining | State::Detached => {}
        }
        RECORDER.drain.discard();
        *lock(&RECORDER.baseline) = RECORDER.totals();
        *lock(&RECORDER.absence) = Absence::NONE;
        RECORDER.is_paused.store(false, Ordering::Release);
        let setup = Setup { config: config.clone(), driver, sink, names };
        *lock(&RECORDER.setup) = Some(setup.clone());
        *lock(&RECORDER.run) = None;
        let outcome = RECORDER.attach(&setup, &mut report, &mut || {});
        (outcome.map(|()| &RECORDER), report)
    }

    /// To be done with the turn. `on_ready` is called before the first event can come.
    fn attach(
        &self,
        setup: &Setup,
        report: &mut LoadReport,
        on_ready: &mut dyn FnMut(),
    ) -> Result<()> {
        // Before anything is turned on: attaching may take seconds in a busy process.
        let mut since = Nanos::ZERO;
        let ready = &mut || {
            since = clock::now();
            self.life.step(Step::Subscribed);
            on_ready();
        };
        match session::attach(setup, report, ready) {
            Ok(Attached::Busy(why)) => {
                report.hint.clone_from(&why);
                self.life.step_because(Step::Busy, why);
                let mut absence = lock(&self.absence);
                if absence.now.is_none() {
                    absence.begin(Duration::from_millis(setup.config.poll_period_ms));
                }
                Ok(())
            }
            Ok(Attached::Recording(run)) => {
                self.drain.expect(run.memory_records(), since);
                *lock(&self.run) = Some(Arc::from(run));
                lock(&self.absence).end();
                self.is_on.store(true, Ordering::Release);
                self.life.step(Step::Enabled);
                Ok(())
            }
            Err(error) => {
                self.life.step(Step::Stopped);
                Err(error)
            }
        }
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        if STATE.broken.load(Ordering::Acquire) {
            self.life.step_because(Step::Failed, BROKEN);
        }
        let state = self.life.state();
        let is_back = state == State::Draining && self.outstanding() == 0;
        if is_back && !self.is_turning.load(Ordering::Acquire) && self.life.step(Step::Drained) {
            return State::Detached;
        }
        state
    }

    /// Why it yielded or failed; empty where there is nothing to explain.
    pub fn why(&self) -> String {
        self.life.why()
    }

    /// What is recorded.
    pub fn coverage(&self) -> Coverage {
        let run = lock(&self.run).clone();
        let known = run.map(|run| (run.coverage.clone(), run.correlation.problem()));
        let (mut coverage, problem) = known.unwrap_or_default();
        coverage.state = self.state();
        coverage.missing.extend(problem);
        coverage.missing.extend(lock(&self.absence).sentence());
        if coverage.state == State::Failed {
            coverage.callbacks = false;
            coverage.missing.push(self.why());
        }
        coverage
    }

    /// To be called once a poll period: sees whether the subscription is still ours, and where it
    /// is not, whether it can be had (after waits that grow to a minute). `on_ready` is called when
    /// it was had again, before the first event can come.
    pub fn tend(&self, on_ready: &mut dyn FnMut()) -> Tended {
        if crate::fork::in_child() {
            return Tended::Same;
        }
        match self.state() {
            State::Recording => self.look_after(),
            State::Yielded if !self.is_paused() && lock(&self.absence).is_due() => {
                self.try_again(on_ready)
            }
            _ => Tended::Same,
        }
    }

    fn look_after(&self) -> Tended {
        let Some(run) = self.running().filter(|_| !Inside::is_inside()) else {
            return Tended::Same;
        };
        if run.is_alive() {
            return Tended::Same;
        }
        let Some(_turn) = Turn::take(Duration::ZERO) else { return Tended::Same };
        let why = "CUPTI's subscription was taken by another tool: nothing of it is touched, and \
                   recording goes on when it is free";
        if !self.life.step_because(Step::Lost, why) {
            return Tended::Same;
        }
        self.is_on.store(false, Ordering::Release);
        run.abandon();
        self.losses.fetch_add(1, Ordering::Relaxed);
        let period = lock(&self.setup).as_ref().map_or(1000, |it| it.config.poll_period_ms);
        lock(&self.absence).begin(Duration::from_millis(period));
        Tended::Lost
    }

    fn try_again(&self, on_ready: &mut dyn FnMut()) -> Tended {
        let Some(_turn) = Turn::take(Duration::ZERO) else { return Tended::Same };
        let Some(setup) = lock(&self.setup).clone() else { return Tended::Same };
        if self.life.state() != State::Yielded || !setup.driver.is_initialized() {
            return Tended::Same;
        }
        let mut report = LoadReport::new("libcupti");
        let outcome = self.attach(&setup, &mut report, on_ready);
        if outcome.is_ok() && self.life.state() == State::Recording {
            return Tended::Regained;
        }
        if let Err(error) = outcome {
            self.life.step_because(Step::Busy, error.to_string());
        }
        lock(&self.absence).wait_longer();
        Tended::Same
    }

    /// Whether the user wants CUPTI left alone.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// Leaves CUPTI to others until [`Self::resume`]. What it has handed back can still be drained.
    ///
    /// # Errors
    /// [`crate::Error::CuptiCall`], [`crate::Error::FlushTimeout`]; it is left alone all the same.
    pub fn pause(&self, why: &str) -> Result<()> {
        let Some(turn) = self.turn_unless_forked()? else { return Ok(()) };
        self.is_paused.store(true, Ordering::Release);
        if !self.life.step_because(Step::Paused, format!("CUPTI is left to others: {why}")) {
            return Ok(());
        }
        let mut absence = lock(&self.absence);
        if absence.now.is_none() {
            absence.begin(Duration::ZERO);
        }
        drop(absence);
        self.detach_within(turn, DETACH_MAX)
    }

    /// Ends a [`Self::pause`]: attaches, or waits for whoever has CUPTI now. Whether it records.
    pub fn resume(&self, on_ready: &mut dyn FnMut()) -> bool {
        if crate::fork::in_child() {
            return false;
        }
        if self.is_paused.swap(false, Ordering::AcqRel) && self.state() == State::Yielded {
            self.try_again(on_ready);
        }
        self.state() == State::Recording
    }

    /// Asks CUPTI for its buffers: all that are complete, or (`forced`) all. Does nothing on a
    /// thread that is inside one of our callbacks, after [`Self::stop`], and in a forked child.
    ///
    /// # Errors
    /// [`crate::Error::CuptiCall`].
    pub fn flush(&self, forced: bool) -> Result<()> {
        match self.running() {
            Some(run) if !Inside::is_inside() => run.flush(forced),
            _ => Ok(()),
        }
    }

    /// Decodes every buffer that came back so far. One thread at a time; a second gets nothing.
    /// Returns how many records were decoded.
    ///
    /// What was lost since the last call comes out as [`crate::event::Body::Dropped`] events.
    pub fn drain(&self, on_event: &mut dyn FnMut(&Event)) -> u64 {
        let Some(run) = lock(&self.run).clone() else { return 0 };
        if self.life.state() == State::Failed {
            return 0;
        }
        self.drain.run(&run, self.running().is_some(), on_event)
    }

    /// Ties what the calling thread launches from now on to `scope`, until [`Self::leave_scope`].
    /// False if that cannot be had; then there is nothing to leave.
    pub fn enter_scope(&self, scope: ScopeId) -> bool {
        match self.running() {
            Some(run) if !Inside::is_inside() => run.correlation.push(&run.cupti, scope),
            _ => false,
        }
    }

    /// Ends a scope that [`Self::enter_scope`] began on this thread. On any other thread, and after
    /// [`Self::stop`], it does nothing.
    pub fn leave_scope(&self, scope: ScopeId) {
        if let Some(run) = self.running() {
            run.correlation.pop(&run.cupti, scope);
        }
    }

    /// CUPTI's clock now, or the system's if it cannot be asked.
    pub fn now(&self) -> crate::units::Nanos {
        clock::now()
    }

    /// Turns kinds and callbacks off and unsubscribes. No finalize, no dlclose. What CUPTI has
    /// handed back by then can still be drained.
    ///
    /// # Errors
    /// [`crate::Error::CuptiCall`], the first one; the rest is attempted all the same.
    pub fn stop(&self) -> Result<()> {
        self.stop_within(DETACH_MAX)
    }

    /// The same, waiting at most so long for CUPTI. What hangs is left to itself.
    ///
    /// # Errors
    /// As [`Self::stop`], and [`crate::Error::FlushTimeout`].
    pub fn stop_within(&self, timeout: Duration) -> Result<()> {
        let Some(turn) = self.turn_unless_forked()? else { return Ok(()) };
        // One that failed stays so, and is taken off the process all the same.
        self.life.step(Step::Stopped);
        *lock(&self.absence) = Absence::NONE;
        self.detach_within(turn, timeout)
    }

    /// `None` in a forked child, where there is nothing to move: callbacks go nowhere there.
    fn turn_unless_forked(&self) -> Result<Option<Turn>> {
        if crate::fork::in_child() {
            return Ok(None);
        }
        match Turn::take(TURN_MAX) {
            Some(turn) => Ok(Some(turn)),
            None => Err(Error::FlushTimeout { waited_ms: TURN_MAX.as_millis() as u64 }),
        }
    }

    /// Detaches, if there is anything to detach from: on a thread of its own, which keeps the turn
    /// for as long as CUPTI takes.
    fn detach_within(&self, turn: Turn, timeout: Duration) -> Result<()> {
        let run = lock(&self.run).clone();
        let Some(run) = run.filter(|_| self.is_on.swap(false, Ordering::AcqRel)) else {
            return Ok(());
        };
        let work = move || {
            let outcome = run.detach();
            // What was lost since the last drain: nobody will ask for it later.
            if run.may_be_called() {
                RECORDER.drain.ask_losses(&run.cupti);
            }
            outcome
        };
        match on_own_thread(turn, timeout, work) {
            Ok(outcome) => outcome,
            Err(Left::Hanging) => Err(Error::FlushTimeout { waited_ms: millis(timeout) }),
            // What is on must go off, however long it takes.
            Err(Left::NoThread(work)) => work(),
        }
    }

    /// Finalizes CUPTI, once [`Self::stop`] is done and everything is decoded.
    ///
    /// # Errors
    /// Why it is not finalized, in a sentence; if it does not come back in time, the recorder has
    /// failed for good.
    pub fn finalize(&self, timeout: Duration) -> Result<(), String> {
        let run = lock(&self.run).clone();
        let Some(run) = run.filter(|run| run.may_be_called()) else { return Ok(()) };
        if let Some(why) = finalize::refusal(run.coverage.cupti_version) {
            return Err(why);
        }
        let Ok(Some(turn)) = self.turn_unless_forked() else {
            return Err("CUPTI is not finalized: it has not come back from the end yet".into());
        };
        if !matches!(self.life.state(), State::Draining | State::Detached) {
            return Err("CUPTI is not finalized: it is in use".into());
        }
        match on_own_thread(turn, timeout, move || finalize::run(&run)) {
            Ok(outcome) => outcome,
            Err(Left::NoThread(_)) => Err("CUPTI is not finalized: no thread to wait on".into()),
            Err(Left::Hanging) => {
                let why = format!("cuptiFinalize did not return within {} ms", millis(timeout));
                clock::use_system();
                self.life.step_because(Step::Failed, format!("{why}: CUPTI is called no more"));
                Err(why)
            }
        }
    }

    /// What was lost and what it cost, since this recording began.
    pub fn counters(&self) -> Counters {
        let baseline = *lock(&self.baseline);
        self.totals().since(&baseline)
    }

    /// CUPTI's own buffers on the device, while it records.
    pub fn device_buffers(&self) -> Option<DeviceBuffers> {
        self.running().and_then(|run| run.device_buffers)
    }

    /// Buffers that CUPTI holds. Not by [`Self::counters`], which begin anew with each recording
    /// while CUPTI may hold buffers of the last one, and which count requests that got none.
    pub(crate) fn outstanding(&self) -> u64 {
        STATE.arena().map_or(0, buffers::Arena::outstanding)
    }

    fn totals(&self) -> Counters {
        let subscriptions_lost = self.losses.load(Ordering::Relaxed);
        Counters { subscriptions_lost, ..counters::totals(&STATE, &self.drain) }
    }

    /// The attachment, while CUPTI may be called for it.
    fn running(&self) -> Option<Arc<Run>> {
        let running = self.life.state() == State::Recording;
        if !running || crate::fork::in_child() {
            return None;
        }
        lock(&self.run).clone()
    }
}

/// Why a caught unwind ends recording for good.
const BROKEN: &str =
    "an internal error was caught in a callback: recording is off for good (please report it)";

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Work that was not done on a thread of its own.
enum Left<W> {
    /// It takes too long: the thread is left to itself.
    Hanging,
    /// There was no thread to be had; the turn is given back.
    NoThread(W),
}

/// Runs `work` on a thread of its own, which keeps the turn until it is done: it may hang inside
/// CUPTI.
fn on_own_thread<T, W>(turn: Turn, timeout: Duration, work: W) -> Result<T, Left<W>>
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_others_grows_to_a_minute() {
        let mut absence = Absence::NONE;
        assert!(!absence.is_due() && absence.sentence().is_none());
        absence.begin(Duration::ZERO);
        assert!(absence.is_due());
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
