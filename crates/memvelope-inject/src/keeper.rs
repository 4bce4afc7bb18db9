//! Keeping report, slot and trace current: one thread that writes, and the last word at exit.
//!
//! **What it costs.** The slot is updated every drain period, but after an update that took `t` of
//! CPU time not before 99 `t` have passed: at most a hundredth of one core. The trace is written at
//! least 10 s apart, and 50 times as long as the last writing took: at most a fiftieth of the time.
//!
//! Files are only ever written on this thread, also at exit: signals that belong to writing
//! (`SIGXFSZ`, where the size of files is limited) are blocked here, and would end the host there.

use crate::place::Places;
use memvelope::config::Config;
use memvelope::error::{Error, say};
use memvelope::export::summary::{Identity, Slot, Summary, fitting, process_document, vitals};
use memvelope::export::write_atomically;
use memvelope::runtime::{Mode, Session};
use memvelope::snapshot::Snapshot;
use memvelope::source::signals::without_signals;
use memvelope::units::Nanos;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long an exiting program waits for records that are still on their way.
const EXIT_FLUSH_MAX: Duration = Duration::from_secs(1);

/// How long it waits for what is written then: a trace of 30 MB on a slow disk.
const EXIT_WRITE_MAX: Duration = Duration::from_secs(2);

/// How long it waits for room in the summary, if it never had any: the parent makes room often.
const EXIT_SLOT_MAX: Duration = Duration::from_millis(500);

/// The first update comes soon, for programs that are over soon; later ones at twice the distance
/// each, up to the drain period.
const FIRST_PERIOD: Duration = Duration::from_millis(5);

/// How the names of our threads begin.
const OUR_THREADS: &str = "memvelope-";

/// Idle time after an update, in multiples of its CPU time.
const IDLE_PER_UPDATE: u32 = 99;

/// Least distance of periodic traces.
const TRACE_PERIOD_MIN: Duration = Duration::from_secs(10);

/// Idle time after a trace, in multiples of the time it took.
const IDLE_PER_TRACE: u32 = 50;

/// How far the keeping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The program exits: everything once more.
    Ending,
    Ended,
}

struct Keeper {
    session: Session,
    identity: Identity,
    drain_period: Duration,
    poll_period: Duration,
    phase: Mutex<Phase>,
    changed: Condvar,
}

static KEEPER: OnceLock<Keeper> = OnceLock::new();

/// Starts keeping what `places` asks for.
pub(crate) fn keep(session: Session, places: Places, config: &Config) {
    let keeper = KEEPER.get_or_init(|| Keeper {
        session,
        identity: Identity::current(),
        drain_period: Duration::from_millis(config.drain_period_ms),
        poll_period: Duration::from_millis(config.poll_period_ms),
        phase: Mutex::new(Phase::Running),
        changed: Condvar::new(),
    });
    let body = move || {
        let run = std::panic::AssertUnwindSafe(|| keeper.run(places));
        if std::panic::catch_unwind(run).is_err() {
            say(&"reporting panicked, the last report stands; this is a bug of memvelope's");
        }
        keeper.enter(Phase::Ended);
        if is_alone() {
            // The last thread to end is what libc takes for the end of the program.
            let _ = keeper.session.stop(EXIT_FLUSH_MAX);
        }
    };
    let builder = std::thread::Builder::new().name("memvelope-rept".into());
    if let Err(source) = without_signals(|| builder.spawn(body)) {
        let error = Error::StartThread { thread: "memvelope-rept", source };
        say(&format_args!("nothing is reported: {error}"));
        return;
    }
    // SAFETY: `on_exit` is an `extern "C" fn()` of this object, which the driver never unloads.
    // Registered after the session's own handler, it runs before it. Should libc's table be full,
    // the last periodic report stands.
    let _ = unsafe { libc::atexit(on_exit) };
}

extern "C" fn on_exit() {
    // A panic must not cross into libc; there is nothing left to do about one here.
    let _ = std::panic::catch_unwind(|| {
        // A forked child inherits the handler, but neither the thread nor the slot.
        let own = |keeper: &&Keeper| keeper.identity.pid == std::process::id();
        let Some(keeper) = KEEPER.get().filter(own) else { return };
        // Asks the driver first: one that is torn down already says so, and is then left alone.
        keeper.session.sample();
        // Too late for some records is no reason to write nothing.
        let _ = keeper.session.flush(EXIT_FLUSH_MAX);
        keeper.end();
    });
}

/// What the writing thread knows.
#[derive(Default)]
struct Last {
    places: Places,
    snapshot: Option<Snapshot>,
    has_failed: Vec<&'static str>,
    report_cpu_ns: u64,
}

impl Keeper {
    /// Until the program exits.
    fn run(&self, places: Places) {
        let mut last = Last { places, ..Last::default() };
        let mut period = FIRST_PERIOD;
        let mut update_at = Instant::now() + period;
        let mut report_at = Instant::now() + self.poll_period;
        let mut trace_at = Instant::now() + TRACE_PERIOD_MIN;
        loop {
            let next = update_at.min(report_at).min(trace_at);
            let mut is_ending = self.wait_until(next);
            if !is_ending && is_alone() {
                let _ = self.session.flush(EXIT_FLUSH_MAX);
                is_ending = true;
            }
            let (now, cpu) = (Instant::now(), thread_cpu());
            let is_due = is_ending || now >= update_at;
            if is_due {
                self.update(&mut last, is_ending);
            }
            if is_ending || now >= report_at {
                self.write_report(&mut last, is_ending);
                report_at = Instant::now() + self.poll_period;
            }
            let used = thread_cpu().saturating_sub(cpu);
            last.report_cpu_ns += Nanos::from_duration(used).0;
            if is_due {
                period = (period * 2).min(self.drain_period);
                update_at = Instant::now() + period.max(used * IDLE_PER_UPDATE);
            }
            if is_ending || now >= trace_at {
                self.write_trace(&mut last);
                trace_at = Instant::now() + TRACE_PERIOD_MIN.max(now.elapsed() * IDLE_PER_TRACE);
            }
            if is_ending {
                return;
            }
        }
    }

    /// Brings the slot up to date.
    fn update(&self, last: &mut Last, is_final: bool) {
        let deadline = Instant::now() + if is_final { EXIT_SLOT_MAX } else { Duration::ZERO };
        while !last.places.has_slot() {
            let is_hopeless = last.places.summary.as_ref().is_none_or(Summary::is_closed);
            if is_hopeless || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let (Some(summary), Some(slot)) = (&last.places.summary, &last.places.slot) else { return };
        // A slot that was taken back, or that nobody reads any more, is nobody's to write into.
        if summary.is_closed() || !slot.is_ours() {
            return;
        }
        let mut snapshot = self.session.snapshot();
        let is_recording = matches!(self.session.mode(), Mode::Cupti(_));
        let vitals = vitals(is_recording, &snapshot);
        let is_news = last.snapshot.as_mut().is_none_or(|known| {
            (known.epoch, known.time_ns) = (snapshot.epoch, snapshot.time_ns);
            *known != snapshot
        });
        if is_news || is_final {
            let report = self.session.report_of(&snapshot);
            let document = process_document(report, &self.identity, is_final, last.report_cpu_ns);
            // What does not fit was left out; it is never longer.
            let _ = slot.report(&fitting(document, Slot::REPORT_BYTES_MAX));
            last.snapshot = Some(std::mem::take(&mut snapshot));
        }
        slot.tell(&vitals);
    }

    fn write_report(&self, last: &mut Last, is_final: bool) {
        let Some(path) = &last.places.report else { return };
        let report = self.session.report_of(&self.session.snapshot());
        let document = process_document(report, &self.identity, is_final, last.report_cpu_ns);
        let outcome = write_atomically(path, |out| {
            serde_json::to_writer_pretty(&mut *out, &document)?;
            out.write_all(b"\n")
        });
        note(last, "report", outcome.err());
    }

    fn write_trace(&self, last: &mut Last) {
        let Some((path, bytes_max)) = &last.places.trace else { return };
        // A parent that has ended took its directory away: nobody wants this one any more.
        if !path.parent().is_some_and(Path::is_dir) {
            return;
        }
        let outcome = self.session.write_trace(path, *bytes_max);
        note(last, "trace", outcome.err());
    }

    /// Asks for everything once more, and waits for it, within bounds.
    fn end(&self) {
        if *self.lock() != Phase::Running {
            return;
        }
        self.enter(Phase::Ending);
        let deadline = Instant::now() + EXIT_WRITE_MAX;
        let mut phase = self.lock();
        while *phase != Phase::Ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            phase =
                self.changed.wait_timeout(phase, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// True once the program exits.
    fn wait_until(&self, when: Instant) -> bool {
        let mut phase = self.lock();
        while *phase == Phase::Running {
            let left = when.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            phase =
                self.changed.wait_timeout(phase, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn enter(&self, phase: Phase) {
        *self.lock() = phase;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says once for each kind of file that it cannot be written: the next period would only repeat it.
fn note(last: &mut Last, what: &'static str, error: Option<Error>) {
    if let Some(error) = error
        && !last.has_failed.contains(&what)
    {
        last.has_failed.push(what);
        say(&error);
    }
}

/// Whether every thread of the program has left by `pthread_exit`, so that ours alone keep the
/// process: it would have ended without them.
fn is_alone() -> bool {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    // The state of the first thread, which stays in the list until the process ends.
    let stat = read(Path::new("/proc/self/stat"));
    if !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')) {
        return false;
    }
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return false };
    let first = std::process::id().to_string();
    threads.flatten().filter(|thread| *thread.file_name() != *first).all(|thread| {
        // One that is gone by now has no name.
        let name = read(&thread.path().join("comm"));
        name.is_empty() || name.starts_with(OUR_THREADS)
    })
}

/// CPU time of the calling thread so far.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, which is ours.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}
