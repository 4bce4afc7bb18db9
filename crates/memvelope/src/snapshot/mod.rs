//! A snapshot: one epoch of everything, immutable, internally consistent.

mod again;
mod balance;
mod fit;
mod reconcile;
mod term;
mod text;

pub use balance::{Balance, Finding, FindingKind, Line, Part};
pub use fit::{
    Fit, FitSource, Fragmentation, Remedy, RemedyKind, SpaceFragmentation, Via, fragmentation,
    would_fit,
};
pub use reconcile::{Reconcile, reconcile};
pub use term::{Origin, TermName};
pub use text::fit_text;

use crate::event::{DeviceIndex, DropReason, Libraries, LibraryId};
use crate::framework::{Demand, Framework};
pub use crate::ledger::Matched;
use crate::ledger::{DeviceTotals, Findings};
use crate::timeline::Summary;
use crate::units::{Bytes, Nanos};
use serde::{Deserialize, Serialize};

/// Version of the snapshot as JSON. It changes when a field changes its meaning or goes; new fields
/// may come at any time.
pub const SCHEMA: u32 = 1;

/// One epoch of ledger, timeline and the planes around them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// [`SCHEMA`].
    pub schema: u32,
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
    /// What was lost, by [`DropReason`]; absent reasons are zero losses seen.
    pub dropped: Vec<(DropReason, u64)>,
    /// What is not recorded and why, one sentence each.
    pub unseen: Vec<String>,
    /// Names of the libraries that [`crate::event::LibraryId`]s stand for, by number.
    pub libraries: Vec<String>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    /// How often the driver told that so far: where it stands still, nobody told anything new.
    pub reads: u64,
    /// Used by all processes as NVML told last.
    pub nvml_used_bytes: Option<Bytes>,
    /// Used by this process as NVML told last.
    pub process_used_bytes: Option<Bytes>,
    /// In use on the device when the session attached, beyond what it saw allocated: unattributed,
    /// never zero. `None` until a plane was asked.
    pub opening_bytes: Option<Bytes>,
    /// What CUPTI's own buffers take at least, in the contexts made while it was attached. `None`
    /// while nothing is recorded, or where CUPTI does not say.
    pub recorder_bytes: Option<Bytes>,
    /// What they take at most.
    pub recorder_bytes_max: Option<Bytes>,
    /// Whether single allocations go unseen (polling only, or blind): `totals` then says nothing
    /// about what is in use, and its zeros are absences.
    pub allocations_unseen: bool,
    /// Kept by driver and firmware beside `total_bytes`, as NVML tells; `None` if it does not.
    pub reserved_bytes: Option<Bytes>,
    /// Used by other processes, as NVML told last; `None` if it does not list them.
    pub others_bytes: Option<Bytes>,
    /// The most that the others moved by, either way, between the last looks: their error bar.
    pub others_moved_bytes: Option<Bytes>,
    /// Of the other processes, those whose bytes NVML does not tell.
    pub others_untold: u32,
    /// Of `opening_bytes`, what this process itself used then; `None` where NVML does not list it.
    pub opening_own_bytes: Option<Bytes>,
    /// The framework plane, as it was told last.
    pub framework: Option<Framework>,
    /// What is used, term by term; `None` until the device plane was asked.
    pub balance: Option<Balance>,
    /// The balance with most bytes used, of those that were read so far and are not torn.
    pub highest: Option<Balance>,
    /// How fragmented what is free is; `None` likewise.
    pub fragmentation: Option<Fragmentation>,
}

/// The container's RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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

/// What a snapshot is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    /// Counts snapshots of this session, from 1.
    pub epoch: u64,
    /// When, on the recorder's clock.
    pub time: Nanos,
    /// Whether the driver is memvelope's simulator.
    pub simulated: bool,
    /// The ledger's totals, by device.
    pub totals: Vec<DeviceTotals>,
    /// The ledger's findings, of the same moment.
    pub findings: Findings,
    /// The timeline.
    pub timeline: Summary,
    /// What the device planes said last, by device.
    pub planes: Vec<DevicePlane>,
    /// What the host plane said last.
    pub host: Option<HostSnapshot>,
    /// Losses outside the ledger, in any order; several entries of one reason add up.
    pub dropped: Vec<(DropReason, u64)>,
    /// What is not recorded and why.
    pub unseen: Vec<String>,
    /// Names of libraries, by number.
    pub libraries: Vec<String>,
    /// Whether single allocations go unseen.
    pub allocations_unseen: bool,
    /// By device, when earlier balances were read and what was unaccounted for, oldest first.
    pub earlier: Vec<(DeviceIndex, Vec<(Nanos, i64)>)>,
    /// By device, which sizes were asked for lately.
    pub demand: Vec<(DeviceIndex, Demand)>,
}

/// The last readings of a device; the fields are those of [`DeviceSnapshot`].
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "documented once, in DeviceSnapshot")]
pub struct DevicePlane {
    pub device: DeviceIndex,
    pub uuid: String,
    pub name: String,
    pub total_bytes: Option<Bytes>,
    pub free_bytes: Option<Bytes>,
    pub reads: u64,
    pub nvml_used_bytes: Option<Bytes>,
    pub process_used_bytes: Option<Bytes>,
    pub opening_bytes: Option<Bytes>,
    pub recorder_bytes: Option<Bytes>,
    pub recorder_bytes_max: Option<Bytes>,
    pub reserved_bytes: Option<Bytes>,
    pub others_bytes: Option<Bytes>,
    pub others_moved_bytes: Option<Bytes>,
    pub others_untold: u32,
    pub opening_own_bytes: Option<Bytes>,
    /// Whether the primary context was made while CUPTI was attached; `None` until known.
    pub context_is_recorded: Option<bool>,
    /// The planes as they were read together, for the balance.
    pub epoch: Option<Epoch>,
}

/// The planes of a device, read together: nothing moved in between, or [`Self::is_torn`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Epoch {
    /// When, on the recorder's clock.
    pub time: Nanos,
    /// Total as the driver told.
    pub total_bytes: Bytes,
    /// Free as the driver told.
    pub free_bytes: Bytes,
    /// The driver plane.
    pub totals: DeviceTotals,
    /// The framework plane, if it was told in this epoch.
    pub framework: Option<Framework>,
    /// Framework segments that the driver plane handed out, in the order of
    /// [`Framework::segments`]: whose bytes are counted once, by the framework.
    pub matched: Vec<Matched>,
    /// Whether something moved in every try.
    pub is_torn: bool,
    /// Bytes that moved meanwhile, when it is torn.
    pub moved_bytes: Bytes,
    /// Used by other processes, as NVML told last; `None` if it does not list them.
    pub others_bytes: Option<Bytes>,
}

impl Snapshot {
    /// Puts the parts together: a device is in the snapshot if the ledger or a plane knows it.
    #[must_use]
    pub fn assemble(parts: Parts) -> Self {
        let called_allocations = called_allocations(&parts);
        let Parts { mut totals, mut planes, findings, dropped, libraries, .. } = parts;
        let mut indices: Vec<_> =
            totals.iter().map(|t| t.device).chain(planes.iter().map(|p| p.device)).collect();
        indices.sort_unstable();
        indices.dedup();
        let balances = |plane: &DevicePlane| {
            let epoch = plane.epoch.as_ref()?;
            let earlier = parts.earlier.iter().find(|(device, _)| *device == plane.device);
            let recent = parts.demand.iter().find(|(device, _)| *device == plane.device);
            // Before anything was noted, what is in use tells what is asked for.
            let held = epoch.framework.as_ref().map(|framework| &framework.requests);
            let recent = recent.map(|(_, demand)| demand).filter(|demand| demand.total() > 0);
            let demand = recent.or(held).cloned().unwrap_or_default();
            let fragmentation = fragmentation(epoch, &demand);
            let balance = reconcile(&Reconcile {
                epoch,
                plane,
                findings: &findings,
                called_allocations,
                allocations_unseen: parts.allocations_unseen,
                library_name: &|library| library_name(&libraries, library),
                earlier: earlier.map_or(&[], |(_, points)| points),
                fragmentation: Some(&fragmentation),
            });
            (!balance.lines.is_empty()).then_some((balance, fragmentation))
        };
        let devices = indices
            .into_iter()
            .map(|device| {
                let plane = planes.iter_mut().find(|plane| plane.device == device);
                let plane = plane.map(std::mem::take).unwrap_or_default();
                let known = totals.iter_mut().find(|totals| totals.device == device);
                let known = known.map(std::mem::take).unwrap_or_default();
                let (balance, fragmentation) = balances(&plane).unzip();
                let snapshot = device_snapshot(plane, known, device, parts.allocations_unseen);
                DeviceSnapshot { balance, fragmentation, ..snapshot }
            })
            .collect();
        Self {
            schema: SCHEMA,
            epoch: parts.epoch,
            time_ns: parts.time,
            simulated: parts.simulated,
            devices,
            host: parts.host,
            timeline: parts.timeline,
            findings,
            dropped: losses(&dropped, findings.refused),
            unseen: parts.unseen,
            libraries,
        }
    }

    /// The device with that index, if it was seen.
    #[must_use]
    pub fn device(&self, index: DeviceIndex) -> Option<&DeviceSnapshot> {
        self.devices.iter().find(|device| device.totals.device == index)
    }
}

/// What was in use at attach beyond what the session itself saw allocated. Held at zero: the plane
/// and the ledger are not read at one instant.
#[must_use]
pub fn opening_balance(used: Bytes, seen: Bytes) -> Bytes {
    used.saturating_sub(seen)
}

/// Allocations that callbacks told of, of any kind, to compare with CUPTI's own records; `None`
/// where there are none of those.
fn called_allocations(parts: &Parts) -> Option<u64> {
    let kinds = parts.totals.iter().flat_map(|device| &device.by_kind);
    let called =
        kinds.fold(parts.findings.refused, |sum, kind| sum.saturating_add(kind.allocated_count));
    (parts.findings.recorded_allocations > 0 && !parts.allocations_unseen).then_some(called)
}

fn library_name(names: &[String], library: LibraryId) -> String {
    let known = names.get(usize::from(library.0)).cloned();
    known.unwrap_or_else(|| Libraries::fixed_name(library).into())
}

fn device_snapshot(
    plane: DevicePlane,
    totals: DeviceTotals,
    device: DeviceIndex,
    allocations_unseen: bool,
) -> DeviceSnapshot {
    DeviceSnapshot {
        totals: DeviceTotals { device, ..totals },
        uuid: plane.uuid,
        name: plane.name,
        total_bytes: plane.total_bytes,
        free_bytes: plane.free_bytes,
        reads: plane.reads,
        nvml_used_bytes: plane.nvml_used_bytes,
        process_used_bytes: plane.process_used_bytes,
        opening_bytes: plane.opening_bytes,
        recorder_bytes: plane.recorder_bytes,
        recorder_bytes_max: plane.recorder_bytes_max,
        allocations_unseen,
        reserved_bytes: plane.reserved_bytes,
        others_bytes: plane.others_bytes,
        others_moved_bytes: plane.others_moved_bytes,
        others_untold: plane.others_untold,
        opening_own_bytes: plane.opening_own_bytes,
        framework: plane.epoch.and_then(|epoch| epoch.framework),
        balance: None,
        highest: None,
        fragmentation: None,
    }
}

/// One entry a reason that lost something, in the order of [`DropReason::ALL`].
fn losses(dropped: &[(DropReason, u64)], refused_by_ledger: u64) -> Vec<(DropReason, u64)> {
    DropReason::ALL
        .into_iter()
        .map(|reason| {
            let own = if reason == DropReason::LedgerFull { refused_by_ledger } else { 0 };
            let others = dropped.iter().filter(|(known, _)| *known == reason);
            (reason, others.fold(own, |sum, (_, count)| sum.saturating_add(*count)))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_ledger_and_planes_are_joined() {
        let parts = Parts {
            totals: vec![DeviceTotals { device: DeviceIndex(1), ..DeviceTotals::default() }],
            findings: Findings { refused: 2, ..Findings::default() },
            planes: vec![DevicePlane {
                device: DeviceIndex(0),
                uuid: "GPU-0".into(),
                opening_bytes: Some(opening_balance(Bytes(5), Bytes(7))),
                ..DevicePlane::default()
            }],
            dropped: vec![
                (DropReason::TraceSampled, 1),
                (DropReason::BadRecord, 0),
                (DropReason::TraceSampled, 3),
            ],
            ..Parts::default()
        };
        let snapshot = Snapshot::assemble(parts);
        let seen: Vec<_> = snapshot.devices.iter().map(|d| d.totals.device.0).collect();
        assert_eq!(seen, [0, 1]);
        assert_eq!(snapshot.device(DeviceIndex(0)).unwrap().opening_bytes, Some(Bytes::ZERO));
        assert_eq!(snapshot.device(DeviceIndex(1)).unwrap().opening_bytes, None);
        assert_eq!(snapshot.dropped, [(DropReason::LedgerFull, 2), (DropReason::TraceSampled, 4)]);
    }
}
