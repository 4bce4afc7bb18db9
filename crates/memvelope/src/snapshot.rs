//! A snapshot: one epoch of everything, immutable, internally consistent.

use crate::ledger::{DeviceTotals, Findings};
use crate::timeline::Summary;
use crate::units::{Bytes, Nanos};
use serde::Serialize;

/// One epoch of ledger, timeline and the planes around them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Counts snapshots of this session, from 1.
    pub epoch: u64,
    /// When, on the recorder's clock.
    pub time_ns: Nanos,
    /// Whether the driver is memvelope's simulator.
    pub simulated: bool,
    /// Devices in the order of their index.
    pub devices: Vec<DeviceSnapshot>,
    /// Host plane, where the cgroup tells.
    pub host: Option<HostSnapshot>,
    /// What the GPU did with its time.
    pub timeline: Summary,
    /// What the ledger noticed.
    pub findings: Findings,
    /// What was lost, by [`crate::event::DropReason`]; absent reasons are zero losses seen.
    pub dropped: Vec<(crate::event::DropReason, u64)>,
    /// What is not recorded and why, one sentence each.
    pub unseen: Vec<String>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceSnapshot {
    /// What the driver plane handed out.
    pub totals: DeviceTotals,
    /// `GPU-…` or `MIG-…`; empty if the driver could not be asked.
    pub uuid: String,
    /// Marketing name.
    pub name: String,
    /// Usable total as the driver told (`cuMemGetInfo`, else `cuDeviceTotalMem`).
    pub total_bytes: Option<Bytes>,
    /// Free as `cuMemGetInfo` told last.
    pub free_bytes: Option<Bytes>,
    /// Used by all processes as NVML told last.
    pub nvml_used_bytes: Option<Bytes>,
    /// Used by this process as NVML told last.
    pub process_used_bytes: Option<Bytes>,
    /// In use on the device when the session attached, beyond what it saw allocated: unattributed,
    /// never zero. `None` until a plane was asked.
    pub opening_bytes: Option<Bytes>,
}

/// The container's RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostSnapshot {
    /// Limit; `None` without one.
    pub limit_bytes: Option<Bytes>,
    /// Current use.
    pub current_bytes: Bytes,
    /// Highest use so far.
    pub peak_bytes: Option<Bytes>,
    /// OOM kills so far.
    pub oom_kills: u64,
}
