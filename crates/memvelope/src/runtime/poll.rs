//! The poll thread: asks cgroup, NVML and driver what they say is used.

use super::attach::{self, Links};
use super::session;
use super::state::{self, Inner};
use crate::config::Record;
use crate::error::Error;
use crate::event::{Body, DeviceIndex, Event};
use crate::snapshot::{DevicePlane, HostSnapshot, opening_balance};
use crate::source::cgroup;
use crate::source::cupti::Recorder;
use crate::source::driver::DeviceInfo;
use crate::units::Bytes;
use std::time::{Duration, Instant};

/// How soon a driver that is still inside `cuInit` is asked whether it is done; later questions
/// come at twice the distance each, up to the poll period.
const INIT_PERIOD_MIN: Duration = Duration::from_millis(5);

/// How long a caller waits for another thread that is finishing the attachment.
const COMPLETE_WAIT_MAX: Duration = Duration::from_millis(200);

/// How often a device is asked for its opening balance while the program allocates meanwhile.
const OPENING_TRIES: u32 = 8;

/// Runs until told to end.
pub(super) fn run(inner: &Inner) {
    let poll_period = Duration::from_millis(inner.config.poll_period_ms);
    let mut init_period = INIT_PERIOD_MIN;
    loop {
        let period = if inner.is_incomplete() { init_period.min(poll_period) } else { poll_period };
        init_period = init_period.saturating_mul(2);
        if inner.control.sleep(period) {
            break;
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            inner.leave_captures_alone();
            tend(inner);
            sample(inner, false);
        }));
        if outcome.is_err() {
            inner.break_off("polling panicked");
        }
        inner.check();
        inner.note_cpu(state::POLL);
    }
    inner.note_cpu(state::POLL);
}

/// Sees whether CUPTI is still ours, or again.
fn tend(inner: &Inner) {
    let Some(recorder) = inner.recorder().filter(|_| inner.may_call() && !inner.is_incomplete())
    else {
        return;
    };
    recorder.tend(&mut || begin_anew(inner));
}

/// Nobody watched for a while: what is there now is the opening balance. Called when recording is
/// about to go on, before the first event can come.
pub(super) fn begin_anew(inner: &Inner) {
    inner.ledger.forget_live(inner.now());
    for plane in &mut inner.planes().devices {
        plane.opening_bytes = None;
    }
}

/// Finishes an attachment that began inside `cuInit`; false while the driver does not answer.
pub(super) fn complete(inner: &Inner) -> bool {
    let Some(_turn) = inner.begin_completing() else {
        // Somebody else is at it; a moment is enough, and waiting for longer helps nobody.
        let deadline = Instant::now() + COMPLETE_WAIT_MAX;
        while inner.is_incomplete() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        return !inner.is_incomplete();
    };
    let mut links = inner.links();
    if !links.is_incomplete {
        return true;
    }
    let was_attached = links.recorder.is_some();
    let is_complete = inner.may_call()
        && attach::complete(&inner.config, session::sink(), inner.names, &mut links);
    if is_complete {
        inner.planes().know(&links.devices);
        let recorder = links.recorder.filter(|_| !was_attached);
        if !inner.complete_links(links)
            && let Some(Err(error)) = recorder.map(Recorder::stop)
        {
            inner.note_problem(&error);
        }
    }
    is_complete
}

/// Asks every plane now; with `here`, also the driver in the calling thread's context. No lock is
/// held while anything foreign is called.
pub(super) fn sample(inner: &Inner, here: bool) {
    if inner.config.record == Record::Off || (inner.is_incomplete() && !complete(inner)) {
        return;
    }
    if let Some(event) = cgroup::memory() {
        inner.planes().accept(&event);
    }
    let links = inner.links();
    for device in links.devices.iter() {
        let mut tries = OPENING_TRIES;
        loop {
            let before = inner.ledger.vram_and_turnover(device.index);
            ask(inner, &links, device);
            tries -= 1;
            if note_opening(inner, device.index, before, tries == 0) || tries == 0 {
                break;
            }
        }
    }
    if let Some(driver) = links.driver.filter(|_| here && inner.may_call()) {
        take(inner, driver.memory_here());
        // Without NVML and without a primary context this is the first reading of its device.
        for device in links.devices.iter() {
            let seen = inner.ledger.vram_and_turnover(device.index);
            note_opening(inner, device.index, seen, true);
        }
    }
}

/// Asks NVML and the driver about one device.
fn ask(inner: &Inner, links: &Links, device: &DeviceInfo) {
    if let Some(nvml) = links.nvml.as_ref().filter(|_| inner.may_call()) {
        take(inner, nvml.use_of(device).map(Some));
    }
    let Some(driver) = links.driver else { return };
    if inner.may_call() {
        let answer = driver.memory_of(device.index);
        if let Ok(seen) = &answer {
            let was_before = links.active_before.contains(&device.index);
            inner.planes().note_context(device.index, seen.is_some(), was_before);
        }
        take(inner, answer);
    }
    if inner.may_call() {
        take(inner, driver.default_pool_of(device.index));
    }
}

fn take(inner: &Inner, answer: Result<Option<Event>, Error>) {
    match answer {
        Ok(Some(event)) => {
            inner.planes().accept(&event);
            inner.ledger.accept(&event);
        }
        Ok(None) => {}
        Err(error) => inner.note_problem(&error),
    }
}

/// The first reading of a device is its opening balance, less what was seen allocated by then.
/// False if the program allocated or freed while the plane was asked (NVML takes milliseconds):
/// the two then belong to different moments, and the question is worth repeating. `is_last`: take
/// the reading all the same, less only what was surely in it; too high a balance costs capacity,
/// too low a one promises what is not there.
fn note_opening(inner: &Inner, device: DeviceIndex, before: (Bytes, u64), is_last: bool) -> bool {
    let mut planes = inner.planes();
    let plane = planes.plane(device);
    let by_driver = plane.total_bytes.zip(plane.free_bytes);
    let used = plane.nvml_used_bytes.or(by_driver.map(|(total, free)| total.saturating_sub(free)));
    let Some(used) = used.filter(|_| plane.opening_bytes.is_none()) else { return true };
    // The ledger's lock is a leaf: it may be taken under the planes'.
    let after = inner.ledger.vram_and_turnover(device);
    let is_still = before.1 == after.1;
    if is_still || is_last {
        let seen = if is_still { after.0 } else { before.0.min(after.0) };
        plane.opening_bytes = Some(opening_balance(used, seen));
    }
    is_still
}

/// The last readings.
#[derive(Debug, Default)]
pub(super) struct Planes {
    pub(super) devices: Vec<DevicePlane>,
    pub(super) host: Option<HostSnapshot>,
}

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

    /// Notes whether the device's primary context is there; `was_before`: it was when CUPTI was
    /// attached, and as long as it stays it is that one.
    fn note_context(&mut self, device: DeviceIndex, is_active: bool, was_before: bool) {
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

    /// Takes a reading; other events are ignored.
    pub(super) fn accept(&mut self, event: &Event) {
        match event.body {
            Body::DeviceMemory { device, total, free } => {
                let plane = self.plane(device);
                plane.total_bytes = Some(total);
                plane.free_bytes = Some(free);
            }
            Body::DeviceUse { device, used, process_used, .. } => {
                let plane = self.plane(device);
                plane.nvml_used_bytes = Some(used);
                plane.process_used_bytes = process_used;
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
            | Body::CallEntered
            | Body::CallReturned
            | Body::Retained { .. }
            | Body::Exported { .. }
            | Body::ExportClosed { .. }
            | Body::Bound { .. }
            | Body::Unbound { .. }
            | Body::PoolCreated { .. }
            | Body::PoolDestroyed { .. }
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

    fn plane(&mut self, device: DeviceIndex) -> &mut DevicePlane {
        let at = match self.devices.iter().position(|plane| plane.device == device) {
            Some(at) => at,
            None => {
                self.devices.push(DevicePlane { device, ..DevicePlane::default() });
                self.devices.len() - 1
            }
        };
        &mut self.devices[at]
    }
}
