//! The last readings of every plane, and what was told about a device from outside.

use super::lazy::Unwitnessed;
use crate::event::{AllocKind, Body, DeviceIndex, Event};
use crate::framework::Framework;
use crate::ledger::DeviceTotals;
use crate::snapshot::{DevicePlane, Epoch, HostSnapshot, opening_balance};
use crate::source::driver::DeviceInfo;
use crate::source::nvml::Processes;
use crate::units::{Bytes, Nanos};
use std::collections::VecDeque;
use std::time::Instant;

/// The last readings.
#[derive(Debug, Default)]
pub(super) struct Planes {
    pub(super) devices: Vec<DevicePlane>,
    pub(super) host: Option<HostSnapshot>,
    /// When requests were last made to weigh less.
    pub(super) faded: Nanos,
    /// Whatever this process holds was seen allocated: what it used before is nothing, and need not
    /// be read from planes that belong to another moment.
    pub(super) is_from_start: bool,
    /// Beside `devices`, what is not for snapshots; in the same order.
    sides: Vec<Side>,
}

/// What is kept of a device besides its plane.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// What NVML listed last, and when.
    pub(super) processes: Option<(Instant, Processes)>,
    /// What the framework plane was told to be outside of an epoch.
    pub(super) told: Option<Told>,
    /// What nothing explains in the last epoch that was not torn, other processes included.
    pub(super) unexplained: Option<i64>,
    /// Of it, what came without a witness so far.
    pub(super) unwitnessed: Unwitnessed,
    /// The page that the driver's memory comes in, once it was asked.
    pub(super) page: Option<Bytes>,
    /// When epochs were read, and what was unaccounted for in them, oldest first.
    pub(super) points: VecDeque<(Nanos, i64)>,
    /// [`DeviceTotals::found_bytes`] as they were when the opening balance was taken: of this process,
    /// and of the device. What is found later was in it.
    found: [Bytes; 2],
    /// Nobody watched for a while: contexts that are there may be from before.
    has_gap: bool,
    /// When the plane's epoch was read. (Its own time is of a clock that may be set.)
    read: Option<Instant>,
    /// Since when the device has not answered, on the recorder's clock, and why.
    pub(super) silent: Option<(Nanos, String)>,
}

/// Points of what is unaccounted for, a minute of them at the usual period: enough to tell a trend.
const POINTS_MAX: usize = 60;

impl Side {
    /// Takes a point, once an epoch.
    pub(super) fn note_point(&mut self, time: Nanos, unaccounted: i64) {
        if self.points.back().is_some_and(|(last, _)| *last >= time) {
            return;
        }
        if self.points.len() >= POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back((time, unaccounted));
    }
}

/// The framework plane as somebody told it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) framework: Framework,
    /// Where the ledger stood: while it stands there, no segment has come or gone.
    pub(super) mark: Mark,
}

/// Where the ledger stands for a device: live VRAM, and how much has come and gone. Where two are
/// equal, nothing happened in between.
pub(super) type Mark = (Bytes, u64);

impl Planes {
    /// Enters devices as the driver describes them.
    pub(super) fn know(&mut self, devices: &[DeviceInfo]) {
        for device in devices {
            let plane = self.plane(device.index);
            plane.uuid.clone_from(&device.uuid);
            plane.name.clone_from(&device.name);
            plane.total_bytes.get_or_insert(device.total_bytes);
        }
    }

    /// Nobody watched for a while: what is there now is the next opening balance.
    pub(super) fn forget_openings(&mut self) {
        self.is_from_start = false;
        for plane in &mut self.devices {
            (plane.opening_bytes, plane.opening_own_bytes) = (None, None);
            // CUPTI was not there, so what it has of a context is in what is used by then.
            plane.context_is_recorded = None;
        }
        for side in &mut self.sides {
            // What this process itself uses is asked for with the next reading.
            side.processes = None;
            side.has_gap = true;
            // What grew meanwhile is no module's.
            (side.unexplained, side.unwitnessed) = (None, Unwitnessed::default());
        }
    }

    /// Notes whether the device's primary context is there; `was_before`: it was when CUPTI was
    /// attached, and as long as it stays it is that one.
    pub(super) fn note_context(&mut self, device: DeviceIndex, is_active: bool, was_before: bool) {
        let was_before = was_before || self.side(device).has_gap;
        let plane = self.plane(device);
        plane.context_is_recorded = match (is_active, plane.context_is_recorded) {
            (false, _) => Some(false),
            (true, None) => {
                if was_before {
                    None
                } else {
                    Some(true)
                }
            }
            (true, Some(_)) => Some(true),
        };
    }

    /// Takes an epoch. The first one of a device tells its opening balance: what is used beyond
    /// what was seen to be taken by then. Where something moved meanwhile, less of that is taken
    /// off: too high a balance costs capacity, too low a one promises what is not there. One that was
    /// read before the last one comes too late: two threads may read at one time.
    pub(super) fn note_epoch(&mut self, device: DeviceIndex, epoch: Epoch, read: Instant) {
        let is_from_start = self.is_from_start;
        let found = epoch.totals.found_bytes;
        let at = self.place(device);
        let (side, plane) = (&mut self.sides[at], &mut self.devices[at]);
        if side.read.is_some_and(|last| last > read) {
            return;
        }
        side.read = Some(read);
        side.silent = None;
        plane.total_bytes = Some(epoch.total_bytes);
        plane.free_bytes = Some(epoch.free_bytes);
        plane.reads += 1;
        // Where nobody sees pools being allocated from, what is told of them later may be new.
        let is_new = plane.opening_bytes.is_some()
            && epoch.totals.by_kind[AllocKind::PoolUsed as usize].allocated_count == 0;
        if plane.opening_bytes.is_none() {
            let used = epoch.total_bytes.saturating_sub(epoch.free_bytes);
            let seen = Bytes(u64::try_from(seen_of(&epoch.totals)).unwrap_or(0));
            let seen = seen.saturating_sub(epoch.moved_bytes);
            plane.opening_bytes = Some(opening_balance(used, seen));
            side.found[1] = found;
            if is_from_start {
                plane.opening_own_bytes = Some(Bytes::ZERO);
            }
        }
        // What pools and graphs are found to hold has lines of its own from now on.
        for (opening, known) in [&mut plane.opening_own_bytes, &mut plane.opening_bytes]
            .into_iter()
            .zip(&mut side.found)
        {
            let more = if is_new { Bytes::ZERO } else { found.saturating_sub(*known) };
            *known = found.max(*known);
            *opening = opening.map(|bytes| bytes.saturating_sub(more));
        }
        plane.epoch = Some(epoch);
    }

    /// Takes what NVML listed; `seen` is the least that was seen to be taken by then, and `found` what
    /// pools and graphs were found to hold. Returns what the other processes moved by since the last look, if that can be told.
    pub(super) fn note_processes(
        &mut self,
        device: DeviceIndex,
        processes: Processes,
        seen: Bytes,
        found: Bytes,
    ) -> Option<Bytes> {
        let at = self.place(device);
        let (side, plane) = (&mut self.sides[at], &mut self.devices[at]);
        let former = side.processes.replace((Instant::now(), processes));
        plane.others_moved_bytes = match (former, processes.is_alone()) {
            (_, true) => former.map_or(Some(Bytes::ZERO), |(_, it)| moved(&it, &processes)),
            (former, false) => former.and_then(|(_, former)| moved(&former, &processes)),
        };
        // The list was there: not to be in it is to use nothing. One that is listed without a
        // number uses something, and nobody knows how much.
        let own = processes.own.or(processes.uses_nothing().then_some(Bytes::ZERO));
        if plane.opening_own_bytes.is_none() && plane.opening_bytes.is_none() {
            plane.opening_own_bytes = own.map(|own| opening_balance(own, seen));
            side.found[0] = found;
        }
        plane.others_moved_bytes
    }

    /// Notes that a device did not answer; the last good epoch stays.
    pub(super) fn note_silence(&mut self, device: DeviceIndex, now: Nanos, why: String) {
        let side = self.side(device);
        let since = side.silent.as_ref().map_or(now, |(since, _)| *since);
        side.silent = Some((since, why));
    }

    /// One sentence for each device that does not answer.
    pub(super) fn silences(&self, now: Nanos) -> Vec<String> {
        let silent = self.devices.iter().zip(&self.sides);
        silent
            .filter_map(|(plane, side)| {
                let (since, why) = side.silent.as_ref()?;
                let age = |then: Nanos| now.0.saturating_sub(then.0) as f64 / 1e9;
                let epoch = plane.epoch.as_ref();
                let last = epoch.map_or("it was never read".to_owned(), |epoch| {
                    format!("what is shown was read {:.1} s ago", age(epoch.time))
                });
                Some(format!("device {} since {:.1} s: {why}; {last}", plane.device.0, age(*since)))
            })
            .collect()
    }

    /// Takes a reading; other events are ignored.
    pub(super) fn accept(&mut self, event: &Event) {
        match event.body {
            Body::DeviceMemory { device, total, free } => {
                let plane = self.plane(device);
                plane.total_bytes = Some(total);
                plane.free_bytes = Some(free);
            }
            Body::DeviceUse { device, used, reserved, process_used, others, others_untold } => {
                let plane = self.plane(device);
                plane.nvml_used_bytes = Some(used);
                plane.reserved_bytes = reserved;
                plane.process_used_bytes = process_used;
                plane.others_bytes = others;
                plane.others_untold = others_untold;
            }
            Body::HostMemory { limit, current, peak, oom_kills } => {
                self.host = Some(HostSnapshot {
                    limit_bytes: limit,
                    current_bytes: current,
                    peak_bytes: peak,
                    oom_kills,
                });
            }
            Body::Allocated(_)
            | Body::AllocationFailed(_)
            | Body::FreeEntered { .. }
            | Body::FreeReturned { .. }
            | Body::Mapped { .. }
            | Body::Unmapped { .. }
            | Body::Retained { .. }
            | Body::Exported { .. }
            | Body::Imported { .. }
            | Body::ExportClosed { .. }
            | Body::Bound { .. }
            | Body::Unbound { .. }
            | Body::PoolCreated { .. }
            | Body::PoolDestroyed { .. }
            | Body::PoolDestroyReturned { .. }
            | Body::ContextGrew(_)
            | Body::GraphMemory { .. }
            | Body::ContextDestroyed { .. }
            | Body::Kernel(_)
            | Body::Copy(_)
            | Body::Memset(_)
            | Body::Sync(_)
            | Body::MemoryRecord(_)
            | Body::PoolRecord(_)
            | Body::GraphLaunch(_)
            | Body::ApiCall(_)
            | Body::Overhead(_)
            | Body::DriverCall(_)
            | Body::Span(_)
            | Body::Pool { .. }
            | Body::Dropped { .. } => {}
        }
    }

    /// The points of every device, see [`Side::points`].
    pub(super) fn points(&self) -> Vec<(DeviceIndex, Vec<(Nanos, i64)>)> {
        let both = self.devices.iter().zip(&self.sides);
        both.map(|(plane, side)| (plane.device, side.points.iter().copied().collect())).collect()
    }

    /// What is kept of a device besides its plane.
    pub(super) fn side(&mut self, device: DeviceIndex) -> &mut Side {
        let at = self.place(device);
        &mut self.sides[at]
    }

    pub(super) fn plane(&mut self, device: DeviceIndex) -> &mut DevicePlane {
        let at = self.place(device);
        &mut self.devices[at]
    }

    fn place(&mut self, device: DeviceIndex) -> usize {
        let at = self.devices.iter().position(|plane| plane.device == device);
        at.unwrap_or_else(|| {
            self.devices.push(DevicePlane { device, ..DevicePlane::default() });
            self.sides.push(Side::default());
            self.devices.len() - 1
        })
    }
}

/// What others moved by between two looks; `None` where some of them are not told.
fn moved(former: &Processes, now: &Processes) -> Option<Bytes> {
    if former.is_alone() && now.is_alone() {
        return Some(Bytes::ZERO);
    }
    let is_told = former.others_untold == 0 && now.others_untold == 0;
    let (was, is) = former.others.zip(now.others).filter(|_| is_told)?;
    Some(Bytes(was.0.abs_diff(is.0)))
}

/// Physical bytes that were seen to be taken: allocations, pools and graphs in whole pages, and what
/// contexts grew by.
pub(super) fn seen_of(totals: &DeviceTotals) -> i64 {
    let held = totals.vram.live_bytes.saturating_add(totals.rounding.bytes);
    let held = i64::try_from(held.0).unwrap_or(i64::MAX);
    totals.growth.iter().fold(held, |sum, growth| sum.saturating_add(growth.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes epochs of (used, found, allocations from pools seen), and gives the opening balance of
    /// this process and of the device after each.
    fn check(own: Option<u64>, epochs: &[(u64, u64, u64)], expect: &[(Option<u64>, u64)]) {
        let (mut planes, device) = (Planes::default(), DeviceIndex(0));
        let processes = Processes { own: own.map(Bytes), ..Processes::default() };
        planes.note_processes(device, processes, Bytes::ZERO, Bytes::ZERO);
        for ((used, found, seen), expect) in epochs.iter().zip(expect) {
            let mut epoch = Epoch {
                total_bytes: Bytes(1000),
                free_bytes: Bytes(1000 - used),
                ..Epoch::default()
            };
            epoch.totals.found_bytes = Bytes(*found);
            // What is found is told, and so seen.
            epoch.totals.vram.live_bytes = Bytes(*found);
            epoch.totals.by_kind[AllocKind::PoolUsed as usize].allocated_count = *seen;
            planes.note_epoch(device, epoch, Instant::now());
            let plane = planes.plane(device);
            let found = (plane.opening_own_bytes.map(|own| own.0), plane.opening_bytes.unwrap().0);
            assert_eq!(found, *expect, "{epochs:?}");
        }
    }

    #[test]
    fn what_pools_are_found_to_hold_leaves_the_opening_balance() {
        // NVML told of this process before anybody asked its pools; the device was read after that.
        check(Some(300), &[(500, 100, 0)], &[(Some(200), 400)]);
        // A pool that is met later, before what is allocated from it then.
        check(
            Some(300),
            &[(500, 0, 0), (540, 70, 1), (540, 70, 2)],
            &[(Some(300), 500), (Some(230), 430), (Some(230), 430)],
        );
        // Polling: it may have been made since.
        check(None, &[(500, 0, 0), (570, 70, 0)], &[(None, 500), (None, 500)]);
        check(None, &[(500, 30, 0), (570, 999, 5)], &[(None, 470), (None, 0)]);
    }

    #[test]
    fn a_reading_that_comes_late_does_not_replace_a_later_one() {
        let (mut planes, device) = (Planes::default(), DeviceIndex(0));
        let read = |free: u64| {
            let (total_bytes, free_bytes) = (Bytes(1000), Bytes(free));
            Epoch { total_bytes, free_bytes, ..Epoch::default() }
        };
        let first = Instant::now();
        let second = first + std::time::Duration::from_millis(1);
        for (at, free, expect) in [(second, 500, 500), (first, 900, 500), (second, 400, 400)] {
            planes.note_epoch(device, read(free), at);
            let plane = planes.plane(device);
            assert_eq!(plane.free_bytes, Some(Bytes(expect)));
            assert_eq!(plane.epoch.as_ref().map(|epoch| epoch.free_bytes), Some(Bytes(expect)));
        }
    }

    #[test]
    fn what_moved_meanwhile_is_not_taken_off_the_opening_balance() {
        let (mut planes, device) = (Planes::default(), DeviceIndex(0));
        let (total_bytes, free_bytes) = (Bytes(1000), Bytes(500));
        let moved_bytes = Bytes(40);
        let mut epoch = Epoch { total_bytes, free_bytes, moved_bytes, ..Epoch::default() };
        epoch.totals.vram.live_bytes = Bytes(100);
        planes.note_epoch(device, epoch, Instant::now());
        assert_eq!(planes.plane(device).opening_bytes, Some(Bytes(440)));
    }
}
