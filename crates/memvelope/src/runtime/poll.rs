//! The poll thread: asks cgroup, NVML and driver what they say is used.

use super::attach;
use super::session;
use super::state::{self, Inner};
use crate::config::Record;
use crate::error::Error;
use crate::event::{Body, DeviceIndex, Event};
use crate::snapshot::{DevicePlane, HostSnapshot, opening_balance};
use crate::source::cgroup;
use crate::source::driver::DeviceInfo;
use std::time::{Duration, Instant};

/// How soon a driver that is still inside `cuInit` is asked whether it is done; later questions
/// come at twice the distance each, up to the poll period.
const INIT_PERIOD_MIN: Duration = Duration::from_millis(5);

/// How long a caller waits for another thread that is finishing the attachment.
const COMPLETE_WAIT_MAX: Duration = Duration::from_millis(200);

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
    let is_complete = inner.may_call()
        && attach::complete(&inner.config, session::sink(), inner.names, &mut links);
    if is_complete {
        inner.planes().know(&links.devices);
        inner.set_links(links);
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
        if let Some(nvml) = links.nvml.as_ref().filter(|_| inner.may_call()) {
            take(inner, nvml.use_of(device).map(Some));
        }
        let Some(driver) = links.driver else { continue };
        if inner.may_call() {
            take(inner, driver.memory_of(device.index));
        }
        if inner.may_call() {
            take(inner, driver.default_pool_of(device.index));
        }
    }
    if let Some(driver) = links.driver.filter(|_| here && inner.may_call()) {
        take(inner, driver.memory_here());
    }
    note_opening(inner);
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
fn note_opening(inner: &Inner) {
    let mut planes = inner.planes();
    for plane in planes.devices.iter_mut().filter(|plane| plane.opening_bytes.is_none()) {
        let by_driver = plane.total_bytes.zip(plane.free_bytes);
        let used =
            plane.nvml_used_bytes.or(by_driver.map(|(total, free)| total.saturating_sub(free)));
        // The ledger's lock is a leaf: it may be taken under the planes'.
        plane.opening_bytes =
            used.map(|used| opening_balance(used, inner.ledger.vram_bytes(plane.device)));
    }
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
            | Body::ContextDestroyed { .. }
            | Body::Kernel(_)
            | Body::Copy(_)
            | Body::Memset(_)
            | Body::Sync(_)
            | Body::MemoryRecord(_)
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
