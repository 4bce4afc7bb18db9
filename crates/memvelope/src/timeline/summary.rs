//! What a timeline tells: plain values, serialised into reports under the names they have here.

use crate::event::{
    CallKind, DeviceIndex, Direction, NameId, OverheadKind, PoolChange, SpanOrigin, SyncKind,
};
use crate::units::{Bytes, Nanos};
use serde::{Deserialize, Serialize};

/// Everything accumulated so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Kernels, most total time first.
    pub kernels: Vec<KernelTotals>,
    /// Copies by direction, absent directions left out.
    pub copies: Vec<CopyTotals>,
    /// Memsets.
    pub memsets: MemsetTotals,
    /// Graphs that ran, where they are recorded as a whole; their kernels are then not told apart.
    pub graphs: OpTotals,
    /// Waits by kind, absent kinds left out. Host time, but for
    /// [`SyncKind::StreamWait`], where a stream waits and no host does.
    pub syncs: Vec<SyncTotals>,
    /// Host time in allocation-family calls, by kind.
    pub allocation_calls: Vec<CallTotals>,
    /// Host time in launching calls, by function; recorded only once scopes are in use.
    pub launch_calls: Vec<LaunchCallTotals>,
    /// Host time of named spans, by name, most total time first.
    pub spans: Vec<SpanTotals>,
    /// Work launched inside scopes, by the scope's name, most kernel time first.
    pub scopes: Vec<ScopeTotals>,
    /// Changes of stream-ordered memory pools, by kind, absent kinds left out.
    pub pool_changes: Vec<PoolChanges>,
    /// Host time that CUPTI and the driver took for themselves, by kind: what recording costs.
    pub overheads: Vec<OverheadTotals>,
    /// Time each device was busy, devices that did nothing left out.
    pub busy: Vec<DeviceBusy>,
    /// First start seen on any device.
    pub first: Option<Nanos>,
    /// Last end seen on any device.
    pub last: Option<Nanos>,
}

/// Count and times of one kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpTotals {
    /// How many.
    pub count: u64,
    /// Sum of durations.
    pub total_ns: Nanos,
    /// Shortest; 0 where there is none.
    pub min_ns: Nanos,
    /// Longest.
    pub max_ns: Nanos,
    /// Half of them took no longer, within 1.6 %.
    pub p50_ns: Nanos,
    /// 99 of 100 took no longer, within 1.6 %.
    pub p99_ns: Nanos,
}

/// One kernel name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyTotals {
    /// Direction.
    pub direction: Direction,
    /// Bytes moved.
    pub bytes: Bytes,
    /// Bytes a second while such a copy was under way: bytes over the sum of durations. `None`
    /// where they took no time.
    pub bytes_per_second: Option<u64>,
    /// Count and times.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// Memsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemsetTotals {
    /// Bytes written.
    pub bytes: Bytes,
    /// Bytes a second while one was under way, as for copies.
    pub bytes_per_second: Option<u64>,
    /// Count and times.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// One kind of wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTotals {
    /// Kind.
    pub kind: SyncKind,
    /// Count and time.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// One kind of allocation-family call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallTotals {
    /// Kind.
    pub call: CallKind,
    /// How many of them failed.
    pub failed: u64,
    /// Count (failed ones among them) and host time.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// One function that launches work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchCallTotals {
    /// Its C name.
    pub function: String,
    /// How many returned an error.
    pub failed: u64,
    /// Count and host time.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// One name of spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanTotals {
    /// Name.
    pub name: String,
    /// Who named them.
    pub origin: SpanOrigin,
    /// Count and host time.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// Work on the device that was launched inside scopes of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeTotals {
    /// The scope's name.
    pub name: String,
    /// Kernels.
    pub kernels: WorkTotals,
    /// Copies.
    pub copies: WorkTotals,
    /// Memsets.
    pub memsets: WorkTotals,
    /// Graphs that are recorded as a whole.
    pub graphs: WorkTotals,
}

/// Work of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkTotals {
    /// How many.
    pub count: u64,
    /// Sum of durations.
    pub total_ns: Nanos,
    /// Bytes moved or written; 0 for kernels and graphs.
    pub bytes: Bytes,
}

/// Changes of pools of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolChanges {
    /// Kind.
    pub change: PoolChange,
    /// How many.
    pub count: u64,
}

/// One kind of overhead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverheadTotals {
    /// Kind.
    pub kind: OverheadKind,
    /// Count and host time.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// How long a device was busy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceBusy {
    /// Device.
    pub device: DeviceIndex,
    /// Time with at least one kernel, copy, memset or graph under way. Exact where `late_ns` is 0,
    /// else too low by at most that.
    pub busy_ns: Nanos,
    /// From the first start to the last end on this device.
    pub span_ns: Nanos,
    /// `busy_ns / span_ns`; `None` for a span of 0.
    pub ratio: Option<f64>,
    /// Time of work whose record came in so late that nobody knows any more whether other work
    /// overlapped it.
    pub late_ns: Nanos,
}
