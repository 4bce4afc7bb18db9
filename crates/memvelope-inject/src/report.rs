//! Keeping the report: a thread that rewrites it, and the last word at exit.

use memvelope::error::{Error, say};
use memvelope::export::write_atomically;
use memvelope::runtime::Session;
use memvelope::source::signals::without_signals;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, TryLockError};
use std::time::{Duration, Instant};

/// How long an exiting program waits for records that are still on their way.
const EXIT_FLUSH_MAX: Duration = Duration::from_secs(1);

/// How long it waits for a report that is being written at that moment.
const EXIT_WRITE_MAX: Duration = Duration::from_millis(500);

struct Keeper {
    session: Session,
    path: PathBuf,
    /// A forked child inherits the exit handler, but neither the threads nor the report.
    pid: u32,
    /// Held while writing: the temporary file has one name.
    writing: Mutex<()>,
    is_over: AtomicBool,
    has_failed: AtomicBool,
}

static KEEPER: OnceLock<Keeper> = OnceLock::new();

/// Starts keeping the report of `session` at `path`.
pub(crate) fn keep(session: Session, path: PathBuf, period_ms: u64) {
    let keeper = KEEPER.get_or_init(|| Keeper {
        session,
        path,
        pid: std::process::id(),
        writing: Mutex::new(()),
        is_over: AtomicBool::new(false),
        has_failed: AtomicBool::new(false),
    });
    // SAFETY: `on_exit` is an `extern "C" fn()` of this object, which the driver never unloads.
    // Registered after the session's own handler, it runs before it. Should libc's table be full,
    // the last periodic report stands.
    let _ = unsafe { libc::atexit(on_exit) };
    let period = Duration::from_millis(period_ms);
    let body = move || {
        loop {
            std::thread::sleep(period);
            if keeper.is_over.load(Ordering::Acquire) {
                return;
            }
            if let Ok(_turn) = keeper.writing.lock() {
                keeper.write(false);
            }
        }
    };
    let builder = std::thread::Builder::new().name("memvelope-rept".into());
    let outcome = without_signals(|| builder.spawn(body));
    if let Err(source) = outcome {
        let error = Error::StartThread { thread: "memvelope-rept", source };
        say(&format_args!("the report is written at exit only: {error}"));
    }
}

extern "C" fn on_exit() {
    // A panic must not cross into libc; there is nothing left to do about one here.
    let _ = std::panic::catch_unwind(|| {
        let Some(keeper) = KEEPER.get().filter(|keeper| keeper.pid == std::process::id()) else {
            return;
        };
        keeper.is_over.store(true, Ordering::Release);
        // Asks the driver first: one that is torn down already says so, and is then left alone.
        keeper.session.sample();
        // Too late for some records is no reason to write nothing.
        let _ = keeper.session.flush(EXIT_FLUSH_MAX);
        let deadline = Instant::now() + EXIT_WRITE_MAX;
        loop {
            match keeper.writing.try_lock() {
                Ok(_turn) => return keeper.write(true),
                Err(TryLockError::Poisoned(_)) => return,
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
}

impl Keeper {
    fn write(&self, is_final: bool) {
        let snapshot = self.session.snapshot();
        let report = serde_json::json!({
            "simulated": snapshot.simulated,
            "pid": self.pid,
            "final": is_final,
            "mode": self.session.mode(),
            "self_cost": self.session.self_cost(),
            "load_reports": self.session.load_reports(),
            "snapshot": snapshot,
        });
        let outcome = write_atomically(&self.path, |out| {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            out.write_all(b"\n")
        });
        if let Err(error) = outcome {
            // Said once: the next period would only repeat it.
            if !self.has_failed.swap(true, Ordering::AcqRel) {
                say(&error);
            }
        }
    }
}
