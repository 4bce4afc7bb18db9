//! The process's one session: how it starts, how it ends, and what outlives it.
//!
//! **Ends.** `stop` joins the threads. A process that exits without it runs [`on_exit`], which
//! tells them to end and waits a moment. A forked child has no threads: there a session is inert.

#![expect(unsafe_code, reason = "atexit and clock_gettime are foreign")]

use super::attach::Links;
use super::client::{Client, NoClient};
use super::control::deadline_after;
use super::requests::Requests;
use super::state::{FORKED, Inner, Last};
use super::{Role, Session, drain, epoch, poll, publish, table};
use crate::config::{Config, Record};
use crate::error::{Error, Result};
use crate::event::{Body, DeviceIndex, Event, Names, Scopes, Seen, Sink};
use crate::fork;
use crate::ledger::Ledger;
use crate::snapshot::Snapshot;
use crate::source::cupti::Recorder;
use crate::source::peers;
use crate::source::signals::without_signals;
use crate::timeline::CallTimes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long an exiting process waits for our threads. They are mostly asleep and end at once; one
/// that hangs inside a dying driver must not hang its host.
const EXIT_WAIT_MAX: Duration = Duration::from_millis(250);

/// How long `stop` waits for the threads after its flush, at least.
const END_WAIT_MIN: Duration = Duration::from_millis(250);

/// How long a pause waits for what is complete to be decoded.
const PAUSE_FLUSH_MAX: Duration = Duration::from_secs(2);

/// What the process has once, whatever the number of sessions: callbacks may still be under way
/// when a session has ended, so what they touch is never freed.
#[derive(Debug)]
struct Process {
    slot: Mutex<Slot>,
    ledger: OnceLock<Ledger>,
    names: OnceLock<Names>,
    scopes: OnceLock<Scopes>,
    calls: CallTimes,
    requests: Requests,
    is_recording: AtomicBool,
    /// A session runs that is not off, here or in another copy.
    is_active: AtomicBool,
    is_exiting: AtomicBool,
}

#[derive(Debug)]
enum Slot {
    Empty,
    /// Libraries are being loaded; no lock is held meanwhile.
    Starting,
    Running(Session),
}

impl Slot {
    fn is_active(&self) -> bool {
        let Self::Running(session) = self else { return false };
        session.own().is_none_or(|inner| inner.config.record != Record::Off)
    }
}

static PROCESS: Process = Process {
    slot: Mutex::new(Slot::Empty),
    ledger: OnceLock::new(),
    names: OnceLock::new(),
    scopes: OnceLock::new(),
    calls: CallTimes::new(),
    requests: Requests::new(),
    is_recording: AtomicBool::new(false),
    is_active: AtomicBool::new(false),
    is_exiting: AtomicBool::new(false),
};

impl Process {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names outlive sessions, so that an id means one name for the life of the process; the
    /// first session's limits hold.
    fn names(&self, config: &Config) -> &Names {
        self.names.get_or_init(|| {
            let limit = usize::try_from(config.names_max).unwrap_or(usize::MAX);
            Names::new(limit, usize::try_from(config.name_bytes_max).unwrap_or(usize::MAX))
        })
    }

    /// Scopes outlive sessions too: their work may come out of CUPTI late. The first session's limit
    /// holds.
    fn scopes(&self, config: &Config) -> &Scopes {
        let limit = usize::try_from(config.scopes_max).unwrap_or(usize::MAX);
        self.scopes.get_or_init(|| Scopes::new(limit))
    }

    /// An empty ledger: what a former session knew has aged while nobody looked.
    fn fresh_ledger(&self, config: &Config) -> &Ledger {
        let entries = usize::try_from(config.allocations_max).unwrap_or(usize::MAX);
        let points = usize::try_from(config.history_points_max).unwrap_or(usize::MAX);
        if let Some(ledger) = self.ledger.get() {
            ledger.reset(entries, points);
        }
        self.ledger.get_or_init(|| Ledger::with_history(entries, points))
    }
}

impl Sink for Process {
    fn accept(&self, event: &Event) {
        if !self.is_recording.load(Ordering::Acquire) || fork::in_child() {
            return;
        }
        // Times of calls have a place without a lock.
        if let Body::DriverCall(call) = &event.body {
            self.calls.accept(call);
            return;
        }
        self.requests.accept(&event.body);
        if let Some(ledger) = self.ledger.get() {
            ledger.accept(event);
        }
    }

    fn seen(&self, device: DeviceIndex) -> Option<Seen> {
        let ledger = self.ledger.get().filter(|_| !fork::in_child())?;
        Some(epoch::seen_in(ledger, device))
    }
}

/// Where driver callbacks send their events.
pub(super) fn sink() -> &'static dyn Sink {
    &PROCESS
}

/// Host time in allocation calls since the session began.
pub(super) fn calls() -> &'static CallTimes {
    &PROCESS.calls
}

/// How often which sizes are asked for.
pub(super) fn requests() -> &'static Requests {
    &PROCESS.requests
}

/// Whether the process is on its way out: nothing foreign is called any more.
pub(super) fn is_exiting() -> bool {
    PROCESS.is_exiting.load(Ordering::Acquire)
}

/// Whether a session runs that is not off.
pub(super) fn is_active() -> bool {
    PROCESS.is_active.load(Ordering::Acquire) && !fork::in_child()
}

/// The running session.
pub(super) fn current() -> Option<Session> {
    if fork::in_child() {
        return None;
    }
    match &*PROCESS.slot() {
        Slot::Running(session) => Some(session.clone()),
        Slot::Empty | Slot::Starting => None,
    }
}

/// The slot while a session starts: holds `Starting` until it drops, then what came of it.
struct Claim {
    outcome: Slot,
}

impl Claim {
    fn new() -> Result<Self> {
        let mut slot = PROCESS.slot();
        match *slot {
            Slot::Empty => {
                *slot = Slot::Starting;
                Ok(Self { outcome: Slot::Empty })
            }
            Slot::Starting | Slot::Running(_) => Err(Error::SessionExists),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Slot::Empty);
        let mut slot = PROCESS.slot();
        PROCESS.is_active.store(outcome.is_active(), Ordering::Release);
        *slot = outcome;
    }
}

/// Takes the process's slot, builds the session with `attach`, and starts its threads.
pub(super) fn start(
    config: &Config,
    attach: impl FnOnce(&Config, &'static dyn Sink, &'static Names) -> Links,
) -> Result<Session> {
    let config = &config.within_limits();
    if fork::in_child() {
        return Ok(inert(config));
    }
    let names = PROCESS.names(config);
    let mut claim = Claim::new()?;
    peers::serve(&table::FUNCTIONS);
    // Two copies of us in one process would take each other's records: the second asks the first.
    let taken_by = match if config.record == Record::Auto { take_process() } else { Taken::Ours } {
        Taken::Client(client) => {
            let session = Session { role: Role::Client(client) };
            claim.outcome = Slot::Running(session.clone());
            return Ok(session);
        }
        Taken::By(path) => Some(path),
        Taken::Ours => None,
    };
    let polling = Config { record: Record::Poll, ..config.clone() };
    let config = if taken_by.is_some() { &polling } else { config };
    if config.record != Record::Off {
        fork::watch();
    }
    let ledger = PROCESS.fresh_ledger(config);
    PROCESS.calls.reset();
    PROCESS.requests.reset();
    PROCESS.is_recording.store(config.record != Record::Off, Ordering::Release);
    // A bug of ours must not unwind into a host that only wanted to be looked at.
    let attached = std::panic::AssertUnwindSafe(|| attach(config, sink(), names));
    let links = std::panic::catch_unwind(attached).unwrap_or_else(|_| {
        Links::blind("attaching panicked, nothing is recorded; this is a bug of memvelope's")
    });
    let links = match taken_by {
        Some(path) => links.with_peer(&path),
        None => links,
    };
    if config.record != Record::Off {
        watch_exit();
    }
    let scopes = PROCESS.scopes(config);
    let inner = Arc::new(Inner::new(config, ledger, names, scopes, links));
    if config.record != Record::Off {
        if !inner.is_incomplete() {
            poll::sample(&inner, true);
            inner.clock_origin();
        }
        if let Err(error) = start_threads(&inner) {
            end(&inner, Duration::ZERO);
            return Err(error);
        }
    }
    let session = Session { role: Role::Own(inner) };
    claim.outcome = Slot::Running(session.clone());
    Ok(session)
}

/// Whose the process is.
enum Taken {
    Ours,
    /// Another copy's, whose client we are.
    Client(Arc<Client>),
    /// Another copy's that has no clients; its path.
    By(String),
}

/// Takes the process, or becomes the client of the copy that has it. That one's session may end in
/// between: then all begins anew, as often as sessions can come and go while one starts.
fn take_process() -> Taken {
    const TRIES: u32 = 8;
    for _ in 0..TRIES {
        let Err(owner) = peers::claim() else { return Taken::Ours };
        match Client::attach(owner) {
            Ok(client) => return Taken::Client(client),
            Err(NoClient::Unable(path)) => return Taken::By(path),
            Err(NoClient::Gone) => {}
        }
    }
    Taken::By("which ends and begins again and again".into())
}

/// A session in a forked child. Ledger and names are its own: a thread that is not there may hold
/// the locks of the process's.
fn inert(config: &Config) -> Session {
    static LEDGER: OnceLock<Ledger> = OnceLock::new();
    static NAMES: OnceLock<Names> = OnceLock::new();
    static SCOPES: OnceLock<Scopes> = OnceLock::new();
    let ledger = LEDGER.get_or_init(|| Ledger::new(1));
    let names = NAMES.get_or_init(|| Names::new(1, 16));
    let scopes = SCOPES.get_or_init(|| Scopes::new(1));
    let inner = Inner::new(config, ledger, names, scopes, Links::blind(FORKED));
    Session { role: Role::Own(Arc::new(inner)) }
}

fn start_threads(inner: &Arc<Inner>) -> Result<()> {
    if inner.recorder().is_some() || inner.is_incomplete() {
        start_thread(inner, "memvelope-drain", true, drain::run)?;
    }
    start_thread(inner, "memvelope-poll", false, poll::run)
}

fn start_thread(
    inner: &Arc<Inner>,
    thread: &'static str,
    is_drain: bool,
    run: fn(&Inner),
) -> Result<()> {
    // Counted before it starts, so that nobody sees a session whose thread is still to come.
    let running = inner.control.running(is_drain);
    let own = Arc::clone(inner);
    let body = move || {
        let _running = own.control.adopt(is_drain);
        run(&own);
    };
    let builder = std::thread::Builder::new().name(thread.into());
    let handle = without_signals(|| builder.spawn(body))
        .map_err(|source| Error::StartThread { thread, source })?;
    running.hand_over();
    inner.keep_thread(handle);
    Ok(())
}

/// Leaves CUPTI to others: see [`Session::pause`].
pub(super) fn pause(inner: &Inner, why: &str) -> Result<()> {
    let recorder = inner.recorder().filter(|_| !inner.is_frozen() && inner.may_call());
    let Some(recorder) = recorder else { return Ok(()) };
    let is_flushed = inner.control.flush(PAUSE_FLUSH_MAX);
    let outcome = recorder.pause(why);
    // What detaching brought back.
    if is_flushed && outcome.is_ok() {
        inner.control.flush(PAUSE_FLUSH_MAX);
    }
    outcome
}

/// Takes CUPTI again: see [`Session::resume`].
pub(super) fn resume(inner: &Inner) -> bool {
    let recorder = inner.recorder().filter(|_| !inner.is_frozen() && inner.may_call());
    recorder.is_some_and(|recorder| {
        let is_recording = recorder.resume(&mut || poll::begin_anew(inner));
        poll::sample(inner, false);
        is_recording
    })
}

/// Stops a session: see [`Session::stop`].
pub(super) fn stop(session: &Session, timeout: Duration) -> Result<Snapshot> {
    let outcome = match &session.role {
        Role::Own(inner) => stop_own(inner, timeout),
        Role::Client(client) => client.detach(timeout),
    };
    if fork::in_child() {
        return outcome;
    }
    let mut slot = PROCESS.slot();
    if matches!(&*slot, Slot::Running(running) if running.is_same(session)) {
        PROCESS.is_active.store(false, Ordering::Release);
        *slot = Slot::Empty;
    }
    drop(slot);
    outcome
}

fn stop_own(inner: &Inner, timeout: Duration) -> Result<Snapshot> {
    let waited_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    if fork::in_child() {
        return Ok(inner.snapshot());
    }
    let deadline = deadline_after(timeout);
    if !inner.begin_stop() {
        // Somebody else is stopping it, or has.
        return if inner.control.wait_closed(timeout.saturating_add(END_WAIT_MIN)) {
            Ok(inner.snapshot())
        } else {
            Err(Error::FlushTimeout { waited_ms })
        };
    }
    let is_flushed = inner.control.flush(timeout);
    if is_flushed {
        poll::sample(inner, false);
    }
    let is_ended = end(inner, deadline.saturating_duration_since(Instant::now()));
    if is_flushed && is_ended {
        Ok(inner.snapshot())
    } else {
        Err(Error::FlushTimeout { waited_ms })
    }
}

/// Detaches, ends the threads and freezes what is known. False if CUPTI or a thread did not end in
/// time; it is then left to itself and ends when it next looks.
fn end(inner: &Inner, timeout: Duration) -> bool {
    inner.leave_recorder();
    // After that: an attachment that is being finished on another thread is kept out.
    let recorder = inner.recorder();
    let mut is_detached = true;
    if let Some(recorder) = recorder.filter(|_| inner.may_call())
        && let Err(error) = recorder.stop_within(timeout.max(END_WAIT_MIN))
    {
        is_detached = !matches!(error, Error::FlushTimeout { .. });
        inner.note_problem(&error);
    }
    inner.control.stop();
    let is_ended = inner.control.wait_ended(timeout.max(END_WAIT_MIN));
    if is_ended {
        inner.join_threads();
        // Stopping may have brought the last buffers back. Not where CUPTI may be gone: it is CUPTI
        // that steps through them.
        if let Some(recorder) = recorder.filter(|_| inner.may_call()) {
            drain::decode_late(inner, recorder);
        }
    }
    // Finalizing takes the records' clock with it.
    let time = inner.now();
    if let Some(recorder) = recorder.filter(|_| is_ended && is_detached) {
        finalize(inner, recorder);
    }
    PROCESS.is_recording.store(false, Ordering::Release);
    if inner.config.record == Record::Auto {
        peers::release();
    }
    inner.freeze(Last {
        state: recorder.map(Recorder::state).unwrap_or_default(),
        snapshot: Snapshot { time_ns: time, ..inner.snapshot() },
        history: inner.history(),
        cost: inner.self_cost(),
    });
    publish::finish(inner);
    inner.control.close();
    is_ended && is_detached
}

/// Finalizes CUPTI where that was asked for.
fn finalize(inner: &Inner, recorder: &Recorder) {
    let timeout = Duration::from_millis(inner.config.finalize_ms);
    if timeout.is_zero() || !inner.may_call() {
        return;
    }
    if let Err(why) = recorder.finalize(timeout) {
        inner.note_unfinalized(why);
    }
}

/// Once a process: an exiting process ends our threads. Exit handlers run in the reverse order of
/// their registration, so this comes after the libraries were loaded: our threads are then gone
/// before driver and CUPTI take themselves down.
fn watch_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `on_exit` is an `extern "C" fn()` that lives as long as this object; libc
        // unregisters it should the object be unloaded. Its only failure is a full table: then
        // the threads are ended by the process's end itself, as those of any library are.
        let _ = unsafe { libc::atexit(on_exit) };
    });
}

extern "C" fn on_exit() {
    // A panic must not cross into libc; there is nothing left to do about one here.
    let _ = std::panic::catch_unwind(|| {
        if fork::in_child() {
            return;
        }
        PROCESS.is_exiting.store(true, Ordering::Release);
        // Not `slot()`: the thread that holds it may be gone already.
        let session = match PROCESS.slot.try_lock() {
            Ok(slot) => match &*slot {
                Slot::Running(session) => session.own().cloned(),
                Slot::Empty | Slot::Starting => return,
            },
            Err(_) => return,
        };
        // A client has no threads.
        let Some(inner) = session else { return };
        inner.control.stop();
        inner.control.wait_ended(EXIT_WAIT_MAX);
    });
}

/// CPU time of the calling thread so far.
pub(super) fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, which is ours.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return 0;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Stands for the exit handler of a library that attaching loads. Ends the process with what
    /// the test wants to know: whether our own handler ran before.
    extern "C" fn library_exit() {
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(if is_exiting() { 42 } else { 43 }) }
    }

    #[test]
    fn our_threads_end_before_the_libraries_do() {
        const CHILD: &str = "EXIT_ORDER_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let attach = |_: &Config, _: &'static dyn Sink, _: &'static Names| {
                // SAFETY: the handler is a function of this program.
                assert_eq!(unsafe { libc::atexit(library_exit) }, 0);
                Links::blind("a test")
            };
            start(&Config::default(), attach).unwrap();
            return;
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["runtime::session::tests::our_threads_end_before_the_libraries_do", "--exact"])
            .env(CHILD, "1")
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(42));
    }
}
