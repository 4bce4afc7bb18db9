//! The injection library: `CUDA_INJECTION64_PATH=libmemvelope_inject.so ./program` records a
//! program that was never changed.
//!
//! The driver loads this library and calls [`InitializeInjection`] from within `cuInit`. It starts
//! the process's session, configured by `MEMVELOPE_*`, and with `MEMVELOPE_REPORT` keeps a report:
//! rewritten every poll period and once more at exit. Nothing here changes how the host program
//! runs or what it returns; what goes wrong is said once on standard error.

#![expect(unsafe_code, reason = "exports a C symbol and registers an exit handler")]

mod report;

use memvelope::config::{self, Config};
use memvelope::error::say;
use memvelope::runtime::Session;
use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

memvelope::export_session_table!();

/// What the driver calls inside `cuInit`. Always returns 1, success: a recorder that could not
/// start is no reason for the program not to.
#[unsafe(no_mangle)]
pub extern "C" fn InitializeInjection() -> c_int {
    // The driver calls once; a second call (another thread's cuInit, or one made by our own
    // libraries inside this one) finds everything under way.
    static IS_ENTERED: AtomicBool = AtomicBool::new(false);
    if !IS_ENTERED.swap(true, Ordering::AcqRel) && std::panic::catch_unwind(begin).is_err() {
        say(&"starting panicked, nothing is recorded; this is a bug of memvelope's");
    }
    1
}

fn begin() {
    let (config, problems) = Config::from_env();
    for problem in problems {
        say(&problem);
    }
    match Session::start_inside_init(&config) {
        Ok(session) => {
            if let Some(path) = report_path() {
                report::keep(session, path, config.poll_period_ms);
            }
        }
        Err(error) => say(&format_args!("nothing is recorded: {error}")),
    }
}

/// `MEMVELOPE_REPORT`, with `%p` replaced by the process id, so that a program which starts others
/// does not have them overwrite each other's.
fn report_path() -> Option<PathBuf> {
    let text = std::env::var(config::REPORT.name).ok().filter(|text| !text.is_empty())?;
    let path = PathBuf::from(text.replace("%p", &std::process::id().to_string()));
    if path.is_absolute() {
        return Some(path);
    }
    // The program may change its directory before the report is written.
    say(&format_args!(
        "{}={text} is not usable: expected an absolute path; no report is written",
        config::REPORT.name
    ));
    None
}
