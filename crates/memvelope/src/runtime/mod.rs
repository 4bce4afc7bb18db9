//! The runtime owns the threads, the clock and the CUPTI session. One session a process.

mod ask;
mod attach;
#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub mod bench;
mod client;
mod control;
pub mod doctor;
mod drain;
mod epoch;
mod follow;
mod lazy;
mod local;
mod planes;
mod poll;
mod publish;
mod report;
mod requests;
mod sampler;
mod scope;
mod session;
mod state;
mod table;
mod trace;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::snapshot::Snapshot;
use crate::source::cupti::{Counters, Coverage, State};
use crate::source::loader::LoadReport;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use client::meet_recorder;
pub use follow::{Follow, FollowConfig, FollowStatus};
pub use scope::{Instrumented, OpenScope, ScopeGuard, ScopeName};

/// A handle to the process's session. Cheap to clone; the session ends with [`Session::stop`].
///
/// Where another copy of memvelope in this process has a session already (the injection library, say,
/// when this is the Python module), the handle is a client of that one: it asks that copy, and its
/// end is not the end of the recording.
#[derive(Clone, Debug)]
pub struct Session {
    role: Role,
}

#[derive(Clone, Debug)]
enum Role {
    /// This copy records.
    Own(Arc<state::Inner>),
    /// Another copy does.
    Client(Arc<client::Client>),
}

/// How a session records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    /// Kept events left out because the file was at its limit.
    pub events_left_out: u64,
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
    /// Sessions follow one another in a process, but share its table of kernel names: the first
    /// session's limits on names hold.
    ///
    /// # Errors
    /// [`Error::SessionExists`], [`Error::StartThread`].
    pub fn start(config: &Config) -> Result<Self> {
        session::start(config, attach::attach)
    }

    /// The same from within `InitializeInjection`, which the driver calls inside `cuInit`: CUPTI is
    /// attached at once, the driver is asked nothing until it answers by itself.
    ///
    /// # Errors
    /// [`Error::SessionExists`], [`Error::StartThread`].
    pub fn start_inside_init(config: &Config) -> Result<Self> {
        session::start(config, attach::attach_inside_init)
    }

    /// The running session, if there is one.
    #[must_use]
    pub fn current() -> Option<Self> {
        session::current()
    }

    fn is_same(&self, other: &Self) -> bool {
        match (&self.role, &other.role) {
            (Role::Own(own), Role::Own(other)) => Arc::ptr_eq(own, other),
            (Role::Client(own), Role::Client(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    const fn own(&self) -> Option<&Arc<state::Inner>> {
        match &self.role {
            Role::Own(inner) => Some(inner),
            Role::Client(_) => None,
        }
    }

    const fn client(&self) -> Option<&Arc<client::Client>> {
        match &self.role {
            Role::Own(_) => None,
            Role::Client(client) => Some(client),
        }
    }

    /// How it records.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match &self.role {
            Role::Own(inner) => inner.mode(),
            Role::Client(client) => client.mode(),
        }
    }

    /// Where the CUPTI recorder is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.role {
            Role::Own(inner) => inner.recorder_state(),
            Role::Client(client) => client.state(),
        }
    }

    /// How the libraries were found: libcuda, libcupti, libnvidia-ml, as far as they were needed.
    /// Empty where another copy has the session: its report has them.
    #[must_use]
    pub fn load_reports(&self) -> Vec<LoadReport> {
        match self.own() {
            Some(inner) if inner.is_awake() => inner.links().reports,
            _ => Vec::new(),
        }
    }

    /// Whether the driver is memvelope's simulator.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        match &self.role {
            Role::Own(inner) => inner.is_awake() && inner.is_simulated(),
            Role::Client(client) => client.snapshot().simulated,
        }
    }

    /// One epoch of everything recorded and decoded so far. Does not flush.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        match &self.role {
            Role::Own(inner) => inner.snapshot(),
            Role::Client(client) => client.snapshot(),
        }
    }

    /// Asks the planes now: cgroup, NVML and, in the calling thread's context, the driver. Does
    /// nothing once the session has ended.
    pub fn sample(&self) {
        match &self.role {
            Role::Own(inner) if !inner.is_frozen() && inner.is_awake() => poll::sample(inner, true),
            Role::Own(_) => {}
            Role::Client(client) => client.sample(),
        }
    }

    /// Waits until every record of work that is complete on the device is decoded. Work that is
    /// still running loses its record (counted as [`crate::event::DropReason::BadTimestamp`]) if
    /// CUPTI has to be forced to give up a buffer with both in it.
    ///
    /// # Errors
    /// [`Error::FlushTimeout`].
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        let inner = match &self.role {
            Role::Own(inner) => inner,
            Role::Client(client) => return client.flush(timeout),
        };
        if inner.is_frozen() || !inner.is_awake() || inner.control.flush(timeout) {
            return Ok(());
        }
        let waited_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Err(Error::FlushTimeout { waited_ms })
    }

    /// Leaves CUPTI to somebody else, say to a run of `torch.profiler`, until [`Self::resume`]: what
    /// was recorded is decoded and kept, and the session polls meanwhile ([`Mode::Polling`], with
    /// `why` as the reason). What happens in between is not seen.
    ///
    /// # Errors
    /// [`Error::FlushTimeout`], [`Error::CuptiCall`]; CUPTI is left alone all the same.
    pub fn pause(&self, why: &str) -> Result<()> {
        match &self.role {
            Role::Own(inner) => session::pause(inner, why),
            Role::Client(client) => client.pause(why),
        }
    }

    /// Ends a [`Self::pause`]: records again, with a new opening balance, or as soon as whoever has
    /// CUPTI gives it back. True if it records now.
    pub fn resume(&self) -> bool {
        match &self.role {
            Role::Own(inner) => session::resume(inner),
            Role::Client(client) => client.resume(),
        }
    }

    /// Our own cost.
    #[must_use]
    pub fn self_cost(&self) -> SelfCost {
        match &self.role {
            Role::Own(inner) => inner.self_cost(),
            Role::Client(client) => client.self_cost(),
        }
    }

    /// Writes the sampled trace as Chrome trace JSON, at most `bytes_max` long (4096 at least),
    /// first under a temporary name in the same directory.
    ///
    /// # Errors
    /// [`Error::WriteFile`].
    pub fn write_trace(&self, path: &Path, bytes_max: u64) -> Result<TraceStats> {
        match &self.role {
            Role::Own(inner) => trace::write(inner, path, bytes_max),
            Role::Client(client) => client.write_trace(path, bytes_max),
        }
    }

    /// Flushes, detaches, joins the threads and returns the last snapshot. Later calls on any
    /// handle see that snapshot. A new session may be started afterwards.
    ///
    /// Takes no longer than `timeout` and 0.75 s (the turn, detaching and the threads have a quarter
    /// each): what hangs in CUPTI is left to itself.
    ///
    /// # Errors
    /// [`Error::FlushTimeout`]; the session is stopped all the same.
    pub fn stop(&self, timeout: Duration) -> Result<Snapshot> {
        session::stop(self, timeout)
    }
}

#[cfg(test)]
mod tests;
