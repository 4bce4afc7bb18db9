//! The state of a session.
//!
//! **Locks.** Each of `links`, `recorded`, `spans`, `planes`, `highest`, `problems`, `threads` and the
//! control's is taken for a bounded time, and none is held across a CUDA, CUPTI or NVML call. Three may
//! be taken under another because they are leaves: the ledger's (under `planes`), the names' and
//! `spans` (under `recorded`). No other two are held together. Driver callbacks take the ledger's and no other.

mod picture;

use super::attach::Links;
use super::control::Control;
use super::follow::Followers;
use super::local::LocalMemory;
use super::planes::Planes;
use super::requests::Requests;
use super::sampler::Sampler;
use super::session;
use super::{Mode, SelfCost};
use crate::config::Config;
use crate::error::Error;
use crate::event::{DeviceIndex, Event, Names, Scopes};
use crate::fork;
use crate::ledger::{HistoryPoint, Ledger};
use crate::snapshot::{Balance, Epoch, Snapshot};
use crate::source::clock;
use crate::source::cupti::{Counters, Recorder, State};
use crate::timeline::Timeline;
use crate::units::Nanos;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// `CUDA_ERROR_DEINITIALIZED`: the driver is being torn down, no call may follow.
const DEINITIALIZED: u32 = 4;

/// Index of the drain thread's CPU time.
pub(super) const DRAIN: usize = 0;
/// Index of the poll thread's CPU time.
pub(super) const POLL: usize = 1;

/// Spans that wait to be taken in before the thread that ends one tries to do so itself.
const SPANS_TRIED: usize = 256;

/// Spans that wait at most, 8 MiB: past them, who ends one waits for whoever reads the trace.
const SPANS_MAX: usize = 1 << 16;

/// Why a session in a forked child sees nothing.
pub(super) const FORKED: &str =
    "this process was forked from one that recorded, and CUDA does not survive fork (use spawn)";

/// Timeline, trace and local memory, fed together.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) timeline: Timeline,
    pub(super) sampler: Sampler,
    pub(super) local: LocalMemory,
}

/// What stays of a session that has ended: the ledger goes on to the next one.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) state: State,
    pub(super) snapshot: Snapshot,
    pub(super) history: Vec<HistoryPoint>,
    pub(super) cost: SelfCost,
}

/// Problems met on the way, the last of each source, so that they cannot pile up.
#[derive(Debug, Default)]
struct Problems {
    driver: Option<String>,
    cupti: Option<String>,
    nvml: Option<String>,
    /// Why CUPTI was not finalized, where it was to be.
    unfinalized: Option<String>,
    /// Why `memvelope snapshot` does not find this session.
    unpublished: Option<String>,
    /// Why recording was switched off.
    broken: Option<String>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) ledger: &'static Ledger,
    pub(super) names: &'static Names,
    pub(super) scopes: &'static Scopes,
    pub(super) control: Control,
    pub(super) followers: Followers,
    links: Mutex<Links>,
    recorded: Mutex<Recorded>,
    /// Spans that are not in there yet: the host's threads, which end them, do not wait for a reader
    /// of the trace or for the decoder. They may hold locks of their own, the interpreter's say.
    spans: Mutex<Vec<Event>>,
    planes: Mutex<Planes>,
    /// By device, the balance with most bytes used so far.
    highest: Mutex<Vec<(DeviceIndex, Balance)>>,
    problems: Mutex<Problems>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What the names had counted before this session: they outlive it.
    names_refused_before: u64,
    is_driver_gone: AtomicBool,
    is_broken: AtomicBool,
    is_stopping: AtomicBool,
    /// The recorder has been given back.
    is_ended: AtomicBool,
    is_completing: AtomicBool,
    epoch: AtomicU64,
    thread_cpu_ns: [AtomicU64; 2],
    /// Records' clock and time of day at the beginning, once the clock is chosen.
    origin: OnceLock<clock::Origin>,
    last: OnceLock<Last>,
}

impl Inner {
    pub(super) fn new(
        config: &Config,
        ledger: &'static Ledger,
        names: &'static Names,
        scopes: &'static Scopes,
        links: Links,
    ) -> Self {
        let names_max = usize::try_from(config.names_max).unwrap_or(usize::MAX);
        let window = Nanos(config.trace_window_ms.saturating_mul(Nanos::MILLI));
        let mut planes = Planes::default();
        planes.know(&links.devices);
        Self {
            config: config.clone(),
            ledger,
            names,
            scopes,
            control: Control::default(),
            followers: Followers::default(),
            links: Mutex::new(links),
            recorded: Mutex::new(Recorded {
                timeline: Timeline::new(names_max),
                sampler: Sampler::new(config.trace_events_max, window),
                local: LocalMemory::default(),
            }),
            spans: Mutex::default(),
            planes: Mutex::new(planes),
            highest: Mutex::default(),
            problems: Mutex::default(),
            threads: Mutex::default(),
            names_refused_before: names.refused(),
            is_driver_gone: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            is_ended: AtomicBool::new(false),
            is_completing: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            thread_cpu_ns: Default::default(),
            origin: OnceLock::new(),
            last: OnceLock::new(),
        }
    }

    pub(super) fn links(&self) -> Links {
        lock(&self.links).clone()
    }

    /// Takes the links of an attachment that is complete; false once the session has ended, whose
    /// recorder nobody would stop any more.
    pub(super) fn complete_links(&self, complete: Links) -> bool {
        let mut links = lock(&self.links);
        let is_taken = !self.is_ended.load(Ordering::Acquire);
        if is_taken {
            *links = complete;
        }
        is_taken
    }

    pub(super) fn recorder(&self) -> Option<&'static Recorder> {
        lock(&self.links).recorder
    }

    pub(super) fn is_simulated(&self) -> bool {
        lock(&self.links).simulated
    }

    pub(super) fn is_incomplete(&self) -> bool {
        lock(&self.links).is_incomplete
    }

    pub(super) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        let mut recorded = lock(&self.recorded);
        self.take_spans_in(&mut recorded);
        recorded
    }

    /// Takes a span of the host's, whose thread does not wait for anybody.
    pub(super) fn accept_span(&self, span: Event) {
        let waiting = {
            let mut spans = lock(&self.spans);
            spans.push(span);
            spans.len()
        };
        if waiting >= SPANS_MAX {
            drop(self.recorded());
        } else if waiting.is_multiple_of(SPANS_TRIED)
            && let Ok(mut recorded) = self.recorded.try_lock()
        {
            self.take_spans_in(&mut recorded);
        }
    }

    fn take_spans_in(&self, recorded: &mut Recorded) {
        let spans = std::mem::take(&mut *lock(&self.spans));
        for span in &spans {
            recorded.timeline.accept(span);
            recorded.sampler.accept(span);
        }
    }

    /// What was asked for long ago weighs less: half of it a minute.
    pub(super) fn fade_requests(&self) {
        const HALF_LIFE: Nanos = Nanos(60_000_000_000);
        let now = self.now();
        let mut planes = self.planes();
        let is_due = now.0.saturating_sub(planes.faded.0) >= HALF_LIFE.0;
        if is_due && std::mem::replace(&mut planes.faded, now) != Nanos::ZERO {
            self.requests().fade();
        }
    }

    /// The last epoch of each device.
    pub(super) fn epochs(&self) -> Vec<(DeviceIndex, Epoch)> {
        let planes = self.planes();
        let read = planes.devices.iter().filter_map(|it| Some((it.device, it.epoch.clone()?)));
        read.collect()
    }

    /// What is asked for, and how often.
    pub(super) fn requests(&self) -> &'static Requests {
        session::requests()
    }

    pub(super) fn planes(&self) -> MutexGuard<'_, Planes> {
        lock(&self.planes)
    }

    /// Whether this process may take our locks: in a forked child, threads that are not there may
    /// hold them.
    pub(super) fn is_awake(&self) -> bool {
        !fork::in_child()
    }

    /// Whether driver, CUPTI and NVML may still be called.
    pub(super) fn may_call(&self) -> bool {
        !self.is_driver_gone.load(Ordering::Acquire)
            && !self.is_broken.load(Ordering::Acquire)
            && !session::is_exiting()
            && !fork::in_child()
    }

    /// To be called by our own threads before they ask the driver anything.
    pub(super) fn leave_captures_alone(&self) {
        let links = self.links();
        if let Some(driver) = links.driver.filter(|_| !links.is_incomplete && self.may_call()) {
            // A driver without this has no stream capture to disturb.
            let _ = driver.leave_captures_alone();
        }
    }

    pub(super) fn note_cpu(&self, thread: usize) {
        if let Some(slot) = self.thread_cpu_ns.get(thread) {
            slot.store(session::thread_cpu_ns(), Ordering::Relaxed);
        }
    }

    pub(super) fn keep_thread(&self, handle: JoinHandle<()>) {
        lock(&self.threads).push(handle);
    }

    pub(super) fn join_threads(&self) {
        let handles = std::mem::take(&mut *lock(&self.threads));
        for handle in handles {
            if handle.join().is_err() {
                self.break_off("a thread of ours panicked");
            }
        }
    }

    /// True for the one caller that is to stop the session.
    pub(super) fn begin_stop(&self) -> bool {
        !self.is_stopping.swap(true, Ordering::AcqRel)
    }

    /// The turn to finish attaching; `None` while another thread has it.
    pub(super) fn begin_completing(&self) -> Option<Completing<'_>> {
        let is_taken = self.is_completing.swap(true, Ordering::AcqRel);
        (!is_taken).then_some(Completing { inner: self })
    }

    pub(super) fn freeze(&self, last: Last) {
        // Frozen once, by the one that stops.
        let _ = self.last.set(last);
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.last.get().is_some()
    }

    /// Keeps an error of a foreign call for the snapshot's `unseen`.
    pub(super) fn note_problem(&self, error: &Error) {
        let mut problems = lock(&self.problems);
        match error {
            Error::DriverCall { code, .. } => {
                if *code == DEINITIALIZED {
                    self.is_driver_gone.store(true, Ordering::Release);
                }
                problems.driver = Some(format!("the driver's own figures: {error}"));
            }
            Error::CuptiCall { .. } => problems.cupti = Some(format!("some records: {error}")),
            Error::NvmlCall { .. } => {
                problems.nvml = Some(format!("the device plane as NVML tells it: {error}"));
            }
            // Nothing else comes out of polling and flushing.
            _ => {}
        }
    }

    pub(super) fn note_unfinalized(&self, why: String) {
        lock(&self.problems).unfinalized = Some(why);
    }

    /// Keeps why nobody else can look at this session; the first time stands.
    pub(super) fn note_unpublished(&self, why: String) {
        let sentence = format!("this session to `memvelope snapshot`: {why}");
        lock(&self.problems).unpublished.get_or_insert(sentence);
    }

    /// Checks our own books; a broken invariant ends the recording.
    pub(super) fn check(&self) {
        if self.ledger.findings().underflows > 0 {
            self.break_off("the ledger's totals went below zero");
        } else if self.counters().caught_panics > 0 {
            self.break_off("a callback panicked");
        }
    }

    /// Whether recording was switched off.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    /// Switches recording off, loudly and once.
    pub(super) fn break_off(&self, what: &str) {
        let recorder = self.recorder().filter(|_| self.may_call());
        if self.is_broken.swap(true, Ordering::AcqRel) {
            return;
        }
        let why = format!("recording was switched off: {what}; this is a bug of memvelope's");
        crate::error::say(&why);
        if let Some(recorder) = recorder
            && let Err(error) = recorder.stop()
        {
            self.note_problem(&error);
        }
        lock(&self.problems).broken = Some(why);
    }

    pub(super) fn mode(&self) -> Mode {
        if !self.is_awake() {
            return Mode::Blind(FORKED.into());
        }
        if let Some(why) = lock(&self.problems).broken.clone() {
            return Mode::Blind(why);
        }
        let (mode, recorder) = {
            let links = lock(&self.links);
            (links.mode.clone(), links.recorder)
        };
        // The recorder of a session that has ended may be another session's by now.
        match recorder.filter(|_| !self.is_frozen() && !self.is_ended.load(Ordering::Acquire)) {
            None => mode,
            Some(recorder) => match recorder.state() {
                State::Yielded | State::Failed => Mode::Polling(recorder.why()),
                _ => Mode::Cupti(recorder.coverage()),
            },
        }
    }

    /// Where the recorder is in its life.
    pub(super) fn recorder_state(&self) -> State {
        if let Some(last) = self.last.get() {
            return last.state;
        }
        let recorder = if self.is_awake() { self.recorder() } else { None };
        recorder.map(Recorder::state).unwrap_or_default()
    }

    /// From now on the recorder is not this session's: what it says of itself stands.
    pub(super) fn leave_recorder(&self) {
        let mode = self.mode();
        let mut links = lock(&self.links);
        links.mode = mode;
        self.is_ended.store(true, Ordering::Release);
    }

    /// Records' clock and time of day, taken together when it was first known which clock that is.
    pub(super) fn clock_origin(&self) -> Option<clock::Origin> {
        if !self.is_awake() {
            return None;
        }
        if self.origin.get().is_none() && !self.is_incomplete() && self.may_call() {
            let _ = self.origin.set(clock::Origin::here(self.is_simulated()));
        }
        self.origin.get().copied()
    }

    /// The recorder's counters since this session began.
    fn counters(&self) -> Counters {
        self.recorder().map(Recorder::counters).unwrap_or_default()
    }

    /// Now, on the recorder's clock; no CUPTI call while it may not be called.
    pub(super) fn now(&self) -> Nanos {
        if self.may_call() && !self.is_incomplete() { clock::now() } else { clock::system_now() }
    }

    pub(super) fn history(&self) -> Vec<HistoryPoint> {
        match self.last.get() {
            Some(last) => last.history.clone(),
            None => self.ledger.history(),
        }
    }

    pub(super) fn self_cost(&self) -> SelfCost {
        if let Some(last) = self.last.get() {
            return last.cost;
        }
        if !self.is_awake() {
            return SelfCost::default();
        }
        let recorder = self.counters();
        let ledger_bytes = self.ledger.host_bytes();
        let recorded = self.recorded();
        let recorded_bytes = recorded.timeline.host_bytes() + recorded.sampler.host_bytes();
        SelfCost {
            recorder,
            thread_cpu_ns: self.thread_cpu_ns.iter().map(|ns| ns.load(Ordering::Relaxed)).sum(),
            host_bytes: recorder.arena_bytes
                + ledger_bytes
                + recorded_bytes
                + self.names.host_bytes()
                + self.scopes.host_bytes(),
            trace_events: recorded.sampler.events().len() as u64,
        }
    }
}

/// Gives the turn back when dropped.
pub(super) struct Completing<'a> {
    inner: &'a Inner,
}

impl Drop for Completing<'_> {
    fn drop(&mut self) {
        self.inner.is_completing.store(false, Ordering::Release);
    }
}

/// What our locks guard is consistent after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
