//! The runtime owns the threads, the clock and the CUPTI session. One session a process.

use crate::config::Config;
use crate::error::Result;
use crate::snapshot::Snapshot;
use crate::source::cupti::{Counters, Coverage};
use crate::source::loader::LoadReport;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// A handle to the process's session. Cheap to clone; the session ends with [`Session::stop`].
#[derive(Clone, Debug)]
pub struct Session {
    _todo: (),
}

/// How a session records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// CUPTI activity and callbacks.
    Cupti(Coverage),
    /// Driver and NVML polling only; why.
    Polling(String),
    /// Nothing can be seen; why (no driver, or recording is off).
    Blind(String),
}

/// Our own cost since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SelfCost {
    /// CUPTI's buffers and our own counters.
    pub recorder: Counters,
    /// CPU time of our threads.
    pub thread_cpu_ns: u64,
    /// Host bytes we hold: arena, ledger, names, trace.
    pub host_bytes: u64,
    /// Events kept for the trace.
    pub trace_events: u64,
}

/// How a trace file was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TraceStats {
    /// Events in the file.
    pub events: u64,
    /// Events seen.
    pub events_seen: u64,
    /// Every how many-th window of the run is in it (1: all).
    pub window_stride: u64,
    /// Size of the file.
    pub bytes: u64,
}

impl Session {
    /// Starts the process's session: loads the libraries, initialises the driver (`cuInit`),
    /// attaches CUPTI, starts drain and poll threads. Without a usable driver the session is
    /// [`Mode::Blind`] and says why; that is not an error.
    ///
    /// # Errors
    /// [`crate::Error::SessionExists`], [`crate::Error::StartThread`].
    pub fn start(_config: &Config) -> Result<Self> {
        todo!()
    }

    /// The running session, if there is one.
    #[must_use]
    pub fn current() -> Option<Self> {
        todo!()
    }

    /// How it records.
    #[must_use]
    pub fn mode(&self) -> Mode {
        todo!()
    }

    /// How the libraries were found: libcuda, libcupti, libnvidia-ml.
    #[must_use]
    pub fn load_reports(&self) -> Vec<LoadReport> {
        todo!()
    }

    /// One epoch of everything recorded and decoded so far. Does not flush.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }

    /// Asks the planes now: cgroup, NVML and, in the calling thread's context, the driver.
    pub fn sample(&self) {
        todo!()
    }

    /// Waits until every record of work that is complete on the device is decoded.
    ///
    /// # Errors
    /// [`crate::Error::FlushTimeout`].
    pub fn flush(&self, _timeout: Duration) -> Result<()> {
        todo!()
    }

    /// Names the host time until the guard drops; it becomes a span in the trace.
    pub fn span(&self, _name: &str) -> SpanGuard {
        todo!()
    }

    /// Our own cost.
    #[must_use]
    pub fn self_cost(&self) -> SelfCost {
        todo!()
    }

    /// Writes the sampled trace as Chrome trace JSON, at most `bytes_max` long, first under a
    /// temporary name in the same directory.
    ///
    /// # Errors
    /// [`crate::Error::WriteFile`].
    pub fn write_trace(&self, _path: &Path, _bytes_max: u64) -> Result<TraceStats> {
        todo!()
    }

    /// Flushes, detaches, joins the threads and returns the last snapshot. Later calls on any
    /// handle see that snapshot. A new session may be started afterwards.
    ///
    /// # Errors
    /// [`crate::Error::FlushTimeout`]; the session is stopped all the same.
    pub fn stop(&self, _timeout: Duration) -> Result<Snapshot> {
        todo!()
    }
}

/// Ends its span when dropped.
#[derive(Debug)]
pub struct SpanGuard {
    _todo: (),
}
