//! CUPTI: activity records and driver-API callbacks, turned into events.
//!
//! * `find`: where libcupti is, and never a second one
//! * `session`: attaching and detaching
//! * `callbacks`, `state`, `contexts`: what runs inside the host's CUDA calls, lock-free
//! * `buffers`: memory that CUPTI fills; `drain`: the way out; `decode`, `records`: what stands in it
//! * `correlate`, `ranges`: what needs more than one record: scopes and marked ranges
//! * `foreign_text`, `known_names`: texts by address, not trusted
//! * `counters`: what was lost and what it cost

#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub mod bench;
mod buffers;
mod callbacks;
mod contexts;
mod correlate;
mod counters;
mod decode;
mod drain;
mod find;
mod foreign_text;
mod known_names;
mod ranges;
mod records;
#[cfg(test)]
mod referee;
mod scopes;
mod session;
mod state;

pub use counters::Counters;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::{DeviceIndex, Event, Names, ScopeId, Sink};
use crate::source::clock;
use crate::source::driver::Driver;
use crate::source::loader::LoadReport;
use serde::Serialize;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Stands for the device of an allocation whose context neither CUPTI nor the driver could name.
pub const UNKNOWN_DEVICE: DeviceIndex = DeviceIndex(u32::MAX);

/// A running CUPTI recorder. At most one a process; its buffers live as long as the process.
#[derive(Debug)]
pub struct Recorder {
    phase: AtomicU8,
    /// The current attachment, and after [`Self::stop`] the last one.
    run: Mutex<Option<Arc<session::Run>>>,
    drain: drain::Drain,
    /// What had been counted when this recording began.
    baseline: Mutex<Counters>,
}

/// What the recorder sees, and what it does not, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// CUPTI's version as `cuptiGetVersion` states it (API number); 0 if it cannot be asked.
    pub cupti_version: u32,
    /// Activity kinds that are on, by CUPTI's names.
    pub kinds: Vec<&'static str>,
    /// Whether allocation-family driver callbacks are on. When not, the ledger lives on MEMORY2
    /// records, which miss VMM.
    pub callbacks: bool,
    /// What is missing and why, one sentence each.
    pub missing: Vec<String>,
}

/// Nothing is recorded.
const IDLE: u8 = 0;
/// One thread is attaching or detaching.
const BUSY: u8 = 1;
/// Records and callbacks come in.
const RUNNING: u8 = 2;

/// Process-wide, as everything that CUPTI's callbacks reach.
static RECORDER: Recorder = Recorder {
    phase: AtomicU8::new(IDLE),
    run: Mutex::new(None),
    drain: drain::Drain::new(),
    baseline: Mutex::new(Counters::ZERO),
};

impl Recorder {
    /// Attaches. The driver must be initialised ([`Driver::is_initialized`]). `sink` gets callback
    /// events at once, on the calling threads; activity events come out of [`Self::drain`].
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
        if RECORDER.phase.compare_exchange(IDLE, BUSY, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            report.hint = "a recorder is already attached in this process".into();
            return (Err(Error::SessionExists), report);
        }
        RECORDER.drain.discard();
        let before = RECORDER.totals();
        match session::attach(config, driver, sink, names, &mut report) {
            Ok(run) => {
                RECORDER.drain.expect(run.memory_records());
                *lock(&RECORDER.baseline) = before;
                *lock(&RECORDER.run) = Some(Arc::new(run));
                RECORDER.phase.store(RUNNING, Ordering::Release);
                (Ok(&RECORDER), report)
            }
            Err(error) => {
                RECORDER.phase.store(IDLE, Ordering::Release);
                (Err(error), report)
            }
        }
    }

    /// What is recorded.
    pub fn coverage(&self) -> Coverage {
        let known =
            lock(&self.run).as_ref().map(|run| (run.coverage.clone(), run.correlation.problem()));
        let (mut coverage, problem) = known.unwrap_or_default();
        coverage.missing.extend(problem);
        if state::STATE.broken.load(Ordering::Acquire) {
            coverage.callbacks = false;
            coverage.missing.push(
                "an internal error was caught in a callback: callbacks are off for good (please \
                 report it)"
                    .into(),
            );
        }
        coverage
    }

    /// Asks CUPTI for its buffers: all that are complete, or (`forced`) all. Does nothing on a
    /// thread that is inside one of our callbacks, after [`Self::stop`], and in a forked child.
    ///
    /// # Errors
    /// [`crate::Error::CuptiCall`].
    pub fn flush(&self, forced: bool) -> Result<()> {
        match self.running() {
            Some(run) if !state::Inside::is_inside() => run.flush(forced),
            _ => Ok(()),
        }
    }

    /// Decodes every buffer that came back so far. One thread at a time; a second gets nothing.
    /// Returns how many records were decoded.
    ///
    /// What was lost since the last call comes out as [`crate::event::Body::Dropped`] events.
    pub fn drain(&self, on_event: &mut dyn FnMut(&Event)) -> u64 {
        let Some(run) = lock(&self.run).clone() else { return 0 };
        self.drain.run(&run, self.running().is_some(), on_event)
    }

    /// Ties what the calling thread launches from now on to `scope`, until [`Self::leave_scope`].
    /// False if that cannot be had; then there is nothing to leave.
    pub fn enter_scope(&self, scope: ScopeId) -> bool {
        match self.running() {
            Some(run) if !state::Inside::is_inside() => run.correlation.push(&run.cupti, scope),
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
        let running =
            self.phase.compare_exchange(RUNNING, BUSY, Ordering::AcqRel, Ordering::Acquire);
        if running.is_err() {
            return Ok(());
        }
        let run = lock(&self.run).clone();
        let outcome = run.map_or(Ok(()), |run| {
            let outcome = run.detach();
            // What was lost since the last drain: nobody will ask for it later.
            if run.may_be_called() {
                self.drain.ask_losses(&run.cupti);
            }
            outcome
        });
        self.phase.store(IDLE, Ordering::Release);
        outcome
    }

    /// What was lost and what it cost, since this recording began.
    pub fn counters(&self) -> Counters {
        let baseline = *lock(&self.baseline);
        self.totals().since(&baseline)
    }

    /// Buffers that CUPTI holds. Not by [`Self::counters`], which begin anew with each recording
    /// while CUPTI may hold buffers of the last one, and which count requests that got none.
    pub(crate) fn outstanding(&self) -> u64 {
        state::STATE.arena().map_or(0, buffers::Arena::outstanding)
    }

    fn totals(&self) -> Counters {
        counters::totals(&state::STATE, &self.drain)
    }

    /// The attachment, while CUPTI may be called for it.
    fn running(&self) -> Option<Arc<session::Run>> {
        let running = self.phase.load(Ordering::Acquire) == RUNNING;
        if !running || crate::fork::in_child() {
            return None;
        }
        lock(&self.run).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to do about one of CUPTI's result codes.
fn hint(code: u32) -> String {
    use cupti_sys::result;
    let text = match code {
        result::ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED => {
            "another tool (Nsight, cuda-gdb, a PyTorch profiler) holds CUPTI's only subscription: \
             stop it, or go without callbacks"
        }
        result::ERROR_NOT_INITIALIZED | result::ERROR_UNKNOWN => {
            "CUPTI could not initialise on this driver: use the libcupti of the driver's CUDA \
             version or an older one"
        }
        result::ERROR_INSUFFICIENT_PRIVILEGES
        | result::ERROR_VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES => {
            "the driver restricts profiling: set NVreg_RestrictProfilingToAdminUsers=0, or run \
             with CAP_SYS_ADMIN"
        }
        result::ERROR_VIRTUALIZED_DEVICE_NOT_SUPPORTED => {
            "this virtual GPU does not allow tracing: set MEMVELOPE_RECORD=poll"
        }
        result::ERROR_WSL_DEVICE_NOT_SUPPORTED => {
            "tracing is not available in this WSL set-up: set MEMVELOPE_RECORD=poll"
        }
        result::ERROR_CONFIDENTIAL_COMPUTING_NOT_SUPPORTED => {
            "confidential computing must be in devtools mode to allow tracing"
        }
        result::ERROR_NOT_COMPATIBLE | result::ERROR_CUDA_COMPILER_NOT_COMPATIBLE => {
            "libcupti and the driver do not fit together: update the older one"
        }
        result::ERROR_OUT_OF_MEMORY => "too little memory is left for CUPTI's own buffers",
        _ => "set MEMVELOPE_RECORD=poll to go without CUPTI",
    };
    text.into()
}

/// A failed CUPTI call as an error.
fn failed(call: &'static str, code: u32) -> Error {
    Error::CuptiCall { call, code, name: cupti_sys::result_name(code), hint: hint(code) }
}
