//! CUPTI: activity records and driver-API callbacks, turned into events.

use crate::config::Config;
use crate::error::Result;
use crate::event::{Event, Names, Sink};
use crate::source::driver::Driver;
use crate::source::loader::LoadReport;
use serde::Serialize;

/// A running CUPTI recorder. At most one a process; its buffers live as long as the process.
#[derive(Debug)]
pub struct Recorder {
    _todo: (),
}

/// What the recorder sees, and what it does not, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// What the recorder lost and what it costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Buffers handed to CUPTI.
    pub buffers_requested: u64,
    /// Buffers that came back.
    pub buffers_completed: u64,
    /// Records decoded.
    pub records: u64,
    /// Records by CUPTI's own count that never reached a buffer.
    pub dropped_by_cupti: u64,
    /// Buffer requests that found the arena empty.
    pub arena_exhausted: u64,
    /// Completed buffers that found the queue full.
    pub queue_full: u64,
    /// Records that could not be decoded.
    pub bad_records: u64,
    /// Records without valid timestamps.
    pub bad_timestamps: u64,
    /// Records of kinds nobody asked for.
    pub unknown_kinds: u64,
    /// Allocation-family callbacks taken.
    pub callbacks: u64,
    /// Unwinds caught at a C edge: always a bug of ours.
    pub caught_panics: u64,
    /// Bytes of the buffer arena.
    pub arena_bytes: u64,
    /// Host nanoseconds spent decoding.
    pub decode_ns: u64,
}

impl Recorder {
    /// Attaches. The driver must be initialised. `sink` gets callback events at once, on the
    /// calling threads; activity events come out of [`Self::drain`].
    pub fn start(
        _config: &Config,
        _driver: &'static Driver,
        _sink: &'static dyn Sink,
        _names: &'static Names,
    ) -> (Result<&'static Self>, LoadReport) {
        todo!()
    }

    /// What is recorded.
    pub fn coverage(&self) -> Coverage {
        todo!()
    }

    /// Asks CUPTI for its buffers: all that are complete, or (`forced`) all.
    ///
    /// # Errors
    /// [`crate::Error::CuptiCall`].
    pub fn flush(&self, _forced: bool) -> Result<()> {
        todo!()
    }

    /// Decodes every buffer that came back so far. One thread at a time; a second gets nothing.
    /// Returns how many records were decoded.
    pub fn drain(&self, _on_event: &mut dyn FnMut(&Event)) -> u64 {
        todo!()
    }

    /// CUPTI's clock now, or the system's if it cannot be asked.
    pub fn now(&self) -> crate::units::Nanos {
        todo!()
    }

    /// Turns kinds and callbacks off and unsubscribes. No finalize, no dlclose.
    ///
    /// # Errors
    /// [`crate::Error::CuptiCall`], the first one; the rest is attempted all the same.
    pub fn stop(&self) -> Result<()> {
        todo!()
    }

    /// What was lost and what it cost.
    pub fn counters(&self) -> Counters {
        todo!()
    }
}
