//! The poll thread: asks cgroup, NVML and driver what they say is used.

use super::attach::{self, Links};
use super::epoch::{self, Whence};
use super::session;
use super::state::{self, Inner};
use super::{follow, publish};
use crate::config::Record;
use crate::error::Error;
use crate::source::cgroup;
use crate::source::cupti::Recorder;
use crate::source::driver::{DeviceInfo, Driver};
use crate::units::Bytes;
use std::time::{Duration, Instant};

/// How soon everybody is asked at first; later questions come at twice the distance each, up to the
/// poll period. A driver may still be inside `cuInit`, and a program may be over soon.
const FIRST_PERIOD: Duration = Duration::from_millis(5);

/// How long a caller waits for another thread that is finishing the attachment.
const COMPLETE_WAIT_MAX: Duration = Duration::from_millis(200);

/// NVML's list of processes takes milliseconds under the driver's global lock.
const PROCESSES_PERIOD: Duration = Duration::from_secs(1);

/// What device memory comes in where the driver does not say: so on every device of today.
pub(super) const PAGE: Bytes = Bytes(2 << 20);

/// Allocations up to this size share pages.
const SHARED_MAX: Bytes = Bytes(1 << 20);

/// Runs until told to end.
pub(super) fn run(inner: &Inner) {
    let poll_period = Duration::from_millis(inner.config.poll_period_ms);
    let mut period = FIRST_PERIOD.min(poll_period);
    // Whoever asks soon learns at least that there is a session.
    publish::tick(inner);
    loop {
        if inner.control.sleep(period) {
            break;
        }
        period = period.saturating_mul(2).min(poll_period);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            inner.leave_captures_alone();
            tend(inner);
            sample(inner, false);
            publish::tick(inner);
        }));
        if outcome.is_err() {
            inner.break_off("polling panicked");
        }
        inner.check();
        follow::tick(inner);
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
///
/// What is allocated between this and the first callback is in the next reading, and so in the opening
/// balance. A call that is under way just then, whose entry was not seen, is told when it returns, if
/// CUPTI delivers that; if not, it is in the opening balance or, where it took its bytes after the
/// reading, unaccounted for: by one call a thread at most, and once.
pub(super) fn begin_anew(inner: &Inner) {
    inner.ledger.forget_live(inner.now());
    inner.planes().forget_openings();
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
        {
            let mut planes = inner.planes();
            planes.know(&links.devices);
            planes.is_from_start = links.is_from_start;
        }
        let recorder = links.recorder.filter(|_| !was_attached);
        if !inner.complete_links(links)
            && let Some(Err(error)) = recorder.map(Recorder::stop)
        {
            inner.note_problem(&error);
        }
    }
    is_complete
}

/// Asks every plane now; with `here`, the driver in the calling thread's context where it has one
/// of the device. No lock is held while anything foreign is called.
pub(super) fn sample(inner: &Inner, here: bool) {
    if inner.config.record == Record::Off || (inner.is_incomplete() && !complete(inner)) {
        return;
    }
    if let Some(event) = cgroup::memory() {
        inner.planes().accept(&event);
    }
    let links = inner.links();
    let driver = links.driver.filter(|_| inner.may_call());
    // On the host's thread its captures are none of our business.
    let _relaxed = driver.filter(|_| here).and_then(Driver::relaxed);
    for device in links.devices.iter() {
        note_page(inner, &links, device);
        note_context(inner, &links, device);
        ask_nvml(inner, &links, device);
        let whence = if here { Whence::Here } else { Whence::Primary };
        epoch::read(inner, &links, device, whence, None);
    }
    inner.note_points();
    inner.fade_requests();
}

/// Asks once by which pages the device takes memory, and tells the ledger.
fn note_page(inner: &Inner, links: &Links, device: &DeviceInfo) {
    let is_known = inner.planes().side(device.index).page.is_some();
    let Some(driver) = links.driver.filter(|_| !is_known && inner.may_call()) else { return };
    // A driver without these calls has 2 MiB, as the ledger presumes.
    let page = noted(inner, driver.page_of(device.index)).flatten().unwrap_or(PAGE);
    inner.planes().side(device.index).page = Some(page);
    if page != PAGE {
        inner.ledger.set_pages(device.index, page, Bytes(page.0.min(SHARED_MAX.0)));
    }
}

/// Whether the primary context is there, and was when CUPTI was attached.
fn note_context(inner: &Inner, links: &Links, device: &DeviceInfo) {
    let Some(driver) = links.driver.filter(|_| inner.may_call()) else { return };
    let Some(is_active) = noted(inner, driver.is_active(device.index)) else { return };
    let was_before = links.active_before.contains(&device.index);
    inner.planes().note_context(device.index, is_active, was_before);
}

/// Asks NVML about one device: its memory, and at most once a second who uses it.
fn ask_nvml(inner: &Inner, links: &Links, device: &DeviceInfo) {
    let nvml = || links.nvml.as_ref().filter(|_| inner.may_call());
    let known = inner.planes().side(device.index).processes;
    let is_due = known.is_none_or(|(asked, _)| asked.elapsed() >= PROCESSES_PERIOD);
    if let Some(nvml) = nvml().filter(|_| is_due) {
        let (seen, found) = epoch::seen(inner, device.index);
        if let Some(processes) = noted(inner, nvml.processes_of(device)) {
            // Of what comes and goes meanwhile, only what surely was there is taken off.
            let seen = seen.min(epoch::seen(inner, device.index).0);
            let moved = inner.planes().note_processes(device.index, processes, seen, found);
            if let Some(recorder) = links.recorder {
                recorder.note_others(device.index, moved);
            }
        }
    }
    let Some(nvml) = nvml() else { return };
    let processes = inner.planes().side(device.index).processes.map(|(_, processes)| processes);
    if let Some(Some(event)) = noted(inner, nvml.use_of(device, processes.as_ref())) {
        inner.planes().accept(&event);
        inner.ledger.accept(&event);
    }
}

/// What was answered; an error is kept for the snapshot's `unseen`.
pub(super) fn noted<T>(inner: &Inner, answer: Result<T, Error>) -> Option<T> {
    answer.map_err(|error| inner.note_problem(&error)).ok()
}
