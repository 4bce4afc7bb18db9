//! The timeline: what the GPU did with its time, in bounded memory.

use crate::event::{Direction, Event, NameId, Names, SyncKind};
use crate::units::{Bytes, Nanos};
use serde::Serialize;

/// Accumulates kernels, copies, memsets and syncs. Fed by the drain thread alone.
#[derive(Debug, Default)]
pub struct Timeline {
    _todo: (),
}

/// Everything accumulated so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Kernels, most total time first.
    pub kernels: Vec<KernelTotals>,
    /// Copies by direction, absent directions left out.
    pub copies: Vec<CopyTotals>,
    /// Memsets.
    pub memsets: OpTotals,
    /// Host waits by kind, absent kinds left out.
    pub syncs: Vec<SyncTotals>,
    /// First start seen on any device.
    pub first: Option<Nanos>,
    /// Last end seen on any device.
    pub last: Option<Nanos>,
}

/// Count and times of one kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OpTotals {
    /// How many.
    pub count: u64,
    /// Sum of durations.
    pub total_ns: Nanos,
    /// Shortest.
    pub min_ns: Nanos,
    /// Longest.
    pub max_ns: Nanos,
}

/// One kernel name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelTotals {
    /// Name as recorded (mangled).
    pub name: String,
    /// Its id.
    #[serde(skip)]
    pub id: NameId,
    /// Count and times.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// One copy direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CopyTotals {
    /// Direction.
    pub direction: Direction,
    /// Bytes moved.
    pub bytes: Bytes,
    /// Count and times.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// One kind of host wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SyncTotals {
    /// Kind.
    pub kind: SyncKind,
    /// Count and host time.
    #[serde(flatten)]
    pub totals: OpTotals,
}

impl Timeline {
    /// Takes an event; those that are not about time are ignored.
    pub fn accept(&mut self, _event: &Event) {
        todo!()
    }

    /// What was accumulated, with names resolved.
    #[must_use]
    pub fn summary(&self, _names: &Names) -> Summary {
        todo!()
    }
}
