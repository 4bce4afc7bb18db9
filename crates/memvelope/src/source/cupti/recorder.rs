//! The one recorder of the process.
//!
//! Its life is told in [`super::lifecycle`]. One thread at a time moves it on (the *turn*); nobody
//! waits for that thread while holding a lock, and whoever waits for it does so for a bounded time,
//! because what it calls may hang.

use super::absence::Absence;
use super::attributes::DeviceBuffers;
use super::lifecycle::{Life, State, Step};
use super::session::{self, Attached, Run, Setup};
use super::state::{Inside, STATE};
use super::turn::{Left, Turn, on_own_thread};
use super::{Counters, Coverage, Loaded, buffers, counters, drain, finalize, lock};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{DeviceIndex, Event, Growth, Names, Sink};
use crate::source::clock;
use crate::source::driver::{Asked, Driver};
use crate::source::loader::LoadReport;
use crate::units::{Bytes, Nanos};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long [`Recorder::stop`] waits for CUPTI, and how long anybody waits for the turn.
const DETACH_MAX: Duration = Duration::from_secs(5);
const TURN_MAX: Duration = Duration::from_millis(250);

/// A CUPTI recorder. At most one a process; its buffers live as long as the process.
#[derive(Debug)]
pub struct Recorder {
    life: Life,
    setup: Mutex<Option<Setup>>,
    /// The current attachment, and after its end the last one.
    run: Mutex<Option<Arc<Run>>>,
    drain: drain::Drain,
    /// What had been counted when this recording began.
    baseline: Mutex<Counters>,
    absence: Mutex<Absence>,
    /// Kinds and callbacks are on, and nobody has begun to turn them off.
    is_on: AtomicBool,
    /// A session wants it: false once it was to be stopped, even where nobody could do that yet.
    is_wanted: AtomicBool,
    /// The user wants CUPTI left alone: it is not tried again.
    is_paused: AtomicBool,
    /// Times that the subscription was taken from us.
    losses: AtomicU64,
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
    setup: Mutex::new(None),
    run: Mutex::new(None),
    drain: drain::Drain::new(),
    baseline: Mutex::new(Counters::ZERO),
    absence: Mutex::new(Absence::NONE),
    is_on: AtomicBool::new(false),
    is_wanted: AtomicBool::new(false),
    is_paused: AtomicBool::new(false),
    losses: AtomicU64::new(0),
};

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
        let Some(turn) = Turn::take(TURN_MAX) else {
            report.hint = "CUPTI has not come back from the last session's end yet".into();
            return (Err(report.to_error()), report);
        };
        if !RECORDER.is_wanted.load(Ordering::SeqCst) && RECORDER.state() == State::Yielded {
            // A session ended while CUPTI was still being given back for it.
            RECORDER.life.step(Step::Stopped);
        }
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
        RECORDER.is_paused.store(false, Ordering::SeqCst);
        RECORDER.is_wanted.store(true, Ordering::SeqCst);
        let setup = Setup { config: config.clone(), driver, sink, names, is_first: true };
        *lock(&RECORDER.setup) = Some(Setup { is_first: false, ..setup.clone() });
        *lock(&RECORDER.run) = None;
        let outcome = RECORDER.attach(&setup, &mut report, &mut || {});
        if outcome.is_err() {
            RECORDER.is_wanted.store(false, Ordering::SeqCst);
        }
        drop(turn);
        Self::catch_up();
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
        let (mut since, mut former) = (Nanos::ZERO, None);
        let ready = &mut || {
            since = clock::now();
            // Until its own decoder is there, nothing of the new recording is decoded by the old one.
            former = lock(&self.run).take();
            self.drain.turn_over();
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
                if former.is_some() {
                    *lock(&self.run) = former;
                }
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
        if is_back && !Turn::is_taken() && self.life.step(Step::Drained) {
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
        let found = match self.state() {
            State::Recording => self.look_after(),
            State::Yielded if !self.is_paused() && lock(&self.absence).is_due() => {
                self.try_again(on_ready)
            }
            _ => Tended::Same,
        };
        Self::catch_up();
        found
    }

    /// Does what was wanted while another thread had the turn: a stop, or a pause. To be called by
    /// whoever gave it back. Else CUPTI would stay on, and nobody would ever turn it off.
    pub(super) fn catch_up() {
        let is_wanted = RECORDER.is_wanted.load(Ordering::SeqCst);
        let is_due = match RECORDER.life.state() {
            State::Recording => !is_wanted || RECORDER.is_paused(),
            State::Yielded => !is_wanted,
            State::Failed => !is_wanted && RECORDER.is_on.load(Ordering::Acquire),
            State::Off | State::Attached | State::Draining | State::Detached => false,
        };
        // Who wanted it was told that it takes longer, and waits no more.
        if is_due && is_wanted {
            let _ = RECORDER.pause("a pause was asked for while it was being attached");
        } else if is_due {
            let _ = RECORDER.stop();
        }
    }

    fn look_after(&self) -> Tended {
        if Inside::is_inside() {
            return Tended::Same;
        }
        // Before asking: the handle must not be used while another thread gives it back.
        let Some(_turn) = Turn::take(Duration::ZERO) else { return Tended::Same };
        let Some(run) = self.running().filter(|run| !run.is_alive()) else { return Tended::Same };
        let why = "CUPTI's subscription was taken by another tool: nothing of it is touched, and \
                   recording goes on when it is free";
        if !self.life.step_because(Step::Lost, why) {
            return Tended::Same;
        }
        self.is_on.store(false, Ordering::Release);
        self.lose(&run);
        let period = lock(&self.setup).as_ref().map_or(1000, |it| it.config.poll_period_ms);
        lock(&self.absence).begin(Duration::from_millis(period));
        Tended::Lost
    }

    /// Another tool has taken the subscription: nothing of CUPTI's is touched any more.
    fn lose(&self, run: &Run) {
        run.abandon();
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    fn try_again(&self, on_ready: &mut dyn FnMut()) -> Tended {
        let Some(_turn) = Turn::take(Duration::ZERO) else { return Tended::Same };
        let Some(setup) = lock(&self.setup).clone() else { return Tended::Same };
        let is_due = self.is_wanted.load(Ordering::SeqCst) && !self.is_paused();
        if !is_due || self.life.state() != State::Yielded || !setup.driver.is_initialized() {
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
        self.is_paused.load(Ordering::SeqCst)
    }

    /// Leaves CUPTI to others until [`Self::resume`]. What it has handed back can still be drained.
    ///
    /// # Errors
    /// [`crate::Error::CuptiCall`], [`crate::Error::FlushTimeout`]; it is left alone all the same.
    pub fn pause(&self, why: &str) -> Result<()> {
        // First: should an attachment be under way, it is undone when it is there.
        self.is_paused.store(true, Ordering::SeqCst);
        let Some(turn) = self.turn_unless_forked()? else { return Ok(()) };
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
        if self.is_paused.swap(false, Ordering::SeqCst) && self.state() == State::Yielded {
            self.try_again(on_ready);
            Self::catch_up();
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
        let may_ask = self.running().is_some() && run.may_be_called();
        self.drain.run(&run, may_ask, on_event)
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
        // First: should an attachment be under way, it is undone when it is there.
        self.is_wanted.store(false, Ordering::SeqCst);
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
            // What is on by now may be its new owner's.
            if !run.is_alive() {
                RECORDER.lose(&run);
                return Ok(());
            }
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

    /// Modules that the driver loaded by itself on a device since the last call.
    pub fn take_loaded(&self, device: DeviceIndex) -> Loaded {
        STATE.lazy.take(device)
    }

    /// The handle of the context that CUPTI calls `uid`; 0 if it is not known. Where nothing was
    /// allocated in it, it is not known by that number, and the only one of its device is taken.
    pub fn context_of(&self, uid: u32, device: DeviceIndex) -> usize {
        let known = STATE.contexts.handle_of(uid);
        known.or_else(|| STATE.growth.only_context_of(device)).unwrap_or(0)
    }

    /// Takes a growth that was told by somebody else: it is given back when that context ends.
    pub fn note_growth(&self, growth: &Growth, context: usize) {
        STATE.growth.note(growth, context);
    }

    /// Which pools of the program's own may be asked.
    pub fn pools(&self) -> &'static dyn Asked {
        STATE.pools()
    }

    /// A number that grows whenever an allocation or set-up call is entered, and when all is told of
    /// it. Odd while one is under way, on whatever thread: what it takes or gives back is not told
    /// yet. Where two readings are equal and even, what was read in between belongs together. Takes
    /// no lock.
    pub fn moment(&self) -> u64 {
        STATE.under_way.moment()
    }

    /// Allocation and set-up calls that are under way.
    pub(crate) fn calls_under_way(&self) -> u64 {
        STATE.under_way.count()
    }

    /// Tells what other processes moved by on a device between two looks; `None` if nobody can tell.
    /// Measured growth has it as its error bar.
    pub fn note_others(&self, device: DeviceIndex, moved: Option<Bytes>) {
        STATE.growth.note_others(device, moved);
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

    /// The attachment of the process, while CUPTI may be called for it.
    pub(super) fn current() -> Option<Arc<Run>> {
        RECORDER.running()
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
