//! The injection library: `CUDA_INJECTION64_PATH=libmemvelope_inject.so ./program` records a
//! program that was never changed.
//!
//! The driver loads this library and calls [`InitializeInjection`] from within `cuInit`. It starts
//! the process's session, configured by `MEMVELOPE_*`, and keeps what was asked for: a slot in the
//! summary file of `memvelope run` (`MEMVELOPE_SUMMARY`), a report (`MEMVELOPE_REPORT`), a trace
//! (`MEMVELOPE_TRACE_DIR`), each renewed now and then and once more at exit. Nothing here changes how
//! the host program runs or what it returns; what goes wrong is said once on standard error.

#![expect(unsafe_code, reason = "exports a C symbol and registers an exit handler")]

mod keeper;
mod place;

use memvelope::config::Config;
use memvelope::error::say;
use memvelope::runtime::Session;
use place::Places;
use std::ffi::c_int;
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
    // Nobody reads: the program runs as if it had never been recorded.
    let Ok(places) = Places::from_env() else { return };
    let (mut config, problems) = Config::from_env();
    // Whoever asks finds the slot.
    config.publish &= places.slot.is_none();
    for problem in problems {
        say(&problem);
    }
    match Session::start_inside_init(&config) {
        Ok(session) => keeper::keep(session, places, &config),
        Err(error) => say(&format_args!("nothing is recorded: {error}")),
    }
}
