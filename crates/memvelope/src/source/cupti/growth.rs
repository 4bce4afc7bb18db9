//! What contexts, modules and limits take on the device: measured around the calls that do it, on
//! the host's own thread, and never a remainder of anything.
//!
//! **How.** When a call that sets something up is entered, the device's free bytes are read, and what
//! the ledger has seen to be taken; the same when it returns. The growth is by what free memory fell
//! beyond what was seen to be taken meanwhile. Free bytes come from `cuMemGetInfo` where the thread
//! has a context of that device, else from NVML, in both places alike. Of two threads that set
//! something up on one device at once, the one that returns last subtracts what the other one told:
//! the sum is right, whose is whose may be mixed up.
//!
//! **The error bar** has two parts. *Others:* around the making of a context (hundreds of
//! milliseconds) NVML lists the processes before and after, and the bar is what the others moved by;
//! around other calls, where its list would take longer than the call, it is the most that they moved
//! by between two looks of the poller. It is 0 only where NVML lists nobody else, and all that was
//! measured where nobody can tell. *Own threads:* allocations that were made meanwhile may have been
//! under way at either end, so that their bytes are in the bar; where one still is when the call
//! returns, all that was measured is.
//!
//! **Ends.** A context that is destroyed gives back what it was seen to take, cause by cause; that is
//! known, not measured.

#![expect(unsafe_code, reason = "arguments of C calls, read through CUPTI's pointers")]

use super::call::Call;
use super::state::STATE;
use crate::event::{Body, DeviceIndex, Event, Growth, GrowthCause, Seen, SeenBy};
use crate::source::clock;
use crate::source::driver::Driver;
use crate::source::nvml::Processes;
use crate::source::nvml_meter::METER;
use crate::units::Bytes;
use cupti_sys::{cbid, params};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// Contexts whose sums are kept; the rest is not given back when they end, which is then
/// unaccounted for with the opposite sign.
const CONTEXTS: usize = 64;

/// Devices that others' movements are known of.
const DEVICES: usize = 16;

/// How often a reading is repeated while the program allocates.
const TRIES: u32 = 4;

/// How long a thread waits for others: that one tells its growth takes some hundred nanoseconds, a
/// call some microseconds.
const SPINS: u32 = 10_000;

/// Nobody can tell whether anybody else moved anything.
const UNKNOWN: u64 = u64::MAX;

/// What setting up is watched for.
pub(super) const WATCHED: &[u32] = &[
    cbid::DEVICE_PRIMARY_CTX_RETAIN,
    cbid::DEVICE_PRIMARY_CTX_RELEASE,
    cbid::DEVICE_PRIMARY_CTX_RELEASE_V2,
    cbid::DEVICE_PRIMARY_CTX_RESET,
    cbid::DEVICE_PRIMARY_CTX_RESET_V2,
    cbid::CTX_CREATE,
    cbid::CTX_CREATE_V2,
    cbid::CTX_CREATE_V3,
    cbid::CTX_CREATE_V4,
    cbid::CTX_DESTROY_V2,
    cbid::CTX_SET_LIMIT,
    cbid::MODULE_LOAD,
    cbid::MODULE_LOAD_DATA,
    cbid::MODULE_LOAD_DATA_EX,
    cbid::MODULE_LOAD_FAT_BINARY,
    cbid::MODULE_UNLOAD,
    cbid::LIBRARY_LOAD_DATA,
    cbid::LIBRARY_LOAD_FROM_FILE,
    cbid::LIBRARY_UNLOAD,
];

/// What a call sets up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A context on the device whose ordinal lies there; its handle is written to where the pointer
    /// at the beginning points.
    Make { device_at: usize },
    /// A context ends, or loses an owner: what goes is known.
    End,
    /// Something in the current context.
    Within(GrowthCause),
}

fn step(id: u32) -> Option<Step> {
    Some(match id {
        cbid::DEVICE_PRIMARY_CTX_RETAIN => {
            Step::Make { device_at: params::device_primary_ctx_retain::DEVICE }
        }
        cbid::CTX_CREATE => Step::Make { device_at: params::ctx_create::DEVICE },
        cbid::CTX_CREATE_V2 => Step::Make { device_at: params::ctx_create_v2::DEVICE },
        cbid::CTX_CREATE_V3 => Step::Make { device_at: params::ctx_create_v3::DEVICE },
        cbid::CTX_CREATE_V4 => Step::Make { device_at: params::ctx_create_v4::DEVICE },
        cbid::DEVICE_PRIMARY_CTX_RELEASE
        | cbid::DEVICE_PRIMARY_CTX_RELEASE_V2
        | cbid::DEVICE_PRIMARY_CTX_RESET
        | cbid::DEVICE_PRIMARY_CTX_RESET_V2
        | cbid::CTX_DESTROY_V2 => Step::End,
        cbid::CTX_SET_LIMIT => Step::Within(GrowthCause::Limit),
        cbid::MODULE_LOAD
        | cbid::MODULE_LOAD_DATA
        | cbid::MODULE_LOAD_DATA_EX
        | cbid::MODULE_LOAD_FAT_BINARY
        | cbid::MODULE_UNLOAD
        | cbid::LIBRARY_LOAD_DATA
        | cbid::LIBRARY_LOAD_FROM_FILE
        | cbid::LIBRARY_UNLOAD => Step::Within(GrowthCause::Module),
        _ => return None,
    })
}

/// Whether this thread is inside of a call that is measured.
pub(super) fn is_measuring() -> bool {
    STARTED.with(Cell::get).is_some_and(|start| start.is_of_now())
}

/// Whether that call sets something up.
pub(super) fn is_setup(id: u32) -> bool {
    step(id).is_some()
}

/// What was read when a call was entered.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// In which recording: the end of a call that was under way when one ended is not seen.
    recording: u64,
    device: DeviceIndex,
    by_nvml: bool,
    reading: Reading,
    /// Others, where a context is made.
    processes: Option<Processes>,
}

impl Start {
    fn is_of_now(&self) -> bool {
        self.recording == STATE.under_way.recording()
    }
}

/// Free bytes and what was seen, of one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    free: Bytes,
    seen: Seen,
}

thread_local! {
    // const-initialised, without a destructor: usable in a callback at any time of a thread's life.
    static STARTED: Cell<Option<Start>> = const { Cell::new(None) };
}

/// Process-wide state of measuring.
#[derive(Debug)]
pub(super) struct Meters {
    is_on: AtomicBool,
    /// A thread is telling its growth.
    is_telling: AtomicBool,
    /// The most that others moved by between two looks, by device.
    others_moved: [AtomicU64; DEVICES],
    known: [Sums; CONTEXTS],
}

/// What one context was seen to take.
#[derive(Debug)]
struct Sums {
    /// Its handle; 0 is free.
    context: AtomicUsize,
    device: AtomicU64,
    bytes: [AtomicI64; GrowthCause::COUNT],
}

impl Meters {
    pub(super) const fn new() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            is_telling: AtomicBool::new(false),
            others_moved: [const { AtomicU64::new(UNKNOWN) }; DEVICES],
            known: [const { Sums::new() }; CONTEXTS],
        }
    }

    /// Whether anything is measured.
    pub(super) fn switch(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Release);
    }

    /// A recording begins; nothing is measured yet.
    pub(super) fn reset(&self) {
        self.switch(false);
        for sums in &self.known {
            sums.clear();
        }
    }

    /// The poller has looked who else is there: `None` if nobody can tell.
    pub(super) fn note_others(&self, device: DeviceIndex, moved: Option<Bytes>) {
        if let Some(place) = self.others_moved.get(device.0 as usize) {
            place.store(moved.map_or(UNKNOWN, |moved| moved.0), Ordering::Relaxed);
        }
    }

    fn others_moved(&self, device: DeviceIndex) -> u64 {
        let place = self.others_moved.get(device.0 as usize);
        place.map_or(UNKNOWN, |place| place.load(Ordering::Relaxed))
    }

    /// The device of a context that was seen to take something.
    pub(super) fn device_of(&self, context: usize) -> Option<DeviceIndex> {
        let sums = self.sums_of(context)?;
        u32::try_from(sums.device.load(Ordering::Acquire)).ok().map(DeviceIndex)
    }

    /// The one context of a device that was seen to take something, if there is one alone.
    pub(super) fn only_context_of(&self, device: DeviceIndex) -> Option<usize> {
        let handles = self.known.iter().map(|it| it.context.load(Ordering::Acquire));
        let mut there = handles.filter(|handle| self.device_of(*handle) == Some(device));
        let only = there.next();
        only.filter(|_| there.next().is_none())
    }

    /// A growth that was not measured here, of a context that has not ended.
    pub(super) fn note(&self, growth: &Growth, context: usize) {
        if self.sums_of(context).is_some() || STATE.contexts.device_at(context).is_some() {
            self.remember(context, growth.device, growth.cause, growth.bytes);
        }
    }

    fn sums_of(&self, context: usize) -> Option<&Sums> {
        let is_it = |sums: &&Sums| sums.context.load(Ordering::Acquire) == context;
        self.known.iter().find(is_it).filter(|_| context != 0)
    }

    fn remember(&self, context: usize, device: DeviceIndex, cause: GrowthCause, bytes: i64) {
        if context == 0 {
            return;
        }
        let known = self.sums_of(context);
        let taken = |it: &&Sums| {
            let free = it.context.compare_exchange(0, context, Ordering::AcqRel, Ordering::Acquire);
            free.is_ok()
        };
        let Some(sums) = known.or_else(|| self.known.iter().find(taken)) else { return };
        sums.device.store(device.0.into(), Ordering::Release);
        if let Some(sum) = sums.bytes.get(cause as usize) {
            sum.fetch_add(bytes, Ordering::AcqRel);
        }
    }
}

impl Sums {
    const fn new() -> Self {
        Self {
            context: AtomicUsize::new(0),
            device: AtomicU64::new(0),
            bytes: [const { AtomicI64::new(0) }; GrowthCause::COUNT],
        }
    }

    /// What was in it.
    fn clear(&self) -> [i64; GrowthCause::COUNT] {
        let bytes = std::array::from_fn(|cause| {
            self.bytes.get(cause).map_or(0, |sum| sum.swap(0, Ordering::AcqRel))
        });
        self.context.store(0, Ordering::Release);
        bytes
    }
}

/// A call that sets something up, at one of its two sites.
///
/// # Safety
/// `call` describes the current callback, in the driver-API domain.
pub(super) unsafe fn on_call(call: &Call) {
    let Some(step) = step(call.id) else { return };
    if !STATE.growth.is_on.load(Ordering::Acquire) || call.arguments.is_null() {
        return;
    }
    let Some(driver) = STATE.driver().filter(|driver| !driver.is_gone()) else { return };
    let entered = if call.at_exit { STARTED.with(Cell::take) } else { None };
    let entered = entered.filter(Start::is_of_now);
    // SAFETY: the caller's promise.
    let device = || unsafe { device_of(step, call, driver) };
    match (step, call.at_exit, entered) {
        (Step::End, ..) | (_, true, None) => {}
        (_, false, _) => {
            let started = device().and_then(|device| start(step, driver, device));
            STARTED.with(|cell| cell.set(started));
        }
        (Step::Make { .. }, true, Some(start)) => {
            // SAFETY: the call has returned; where it succeeded it has written a handle there.
            let context = unsafe { call.arguments.read_through::<usize>(0) };
            finish(call, driver, &start, GrowthCause::Context, context.unwrap_or(0));
        }
        (Step::Within(cause), true, Some(start)) => {
            finish(call, driver, &start, cause, call.context);
        }
    }
}

/// The device that a call is about; `None` where nothing will grow, or nobody can tell.
///
/// # Safety
/// The arguments are those of the call's function.
unsafe fn device_of(step: Step, call: &Call, driver: &Driver) -> Option<DeviceIndex> {
    let Step::Make { device_at } = step else { return driver.current_device().ok().flatten() };
    // SAFETY: an ordinal lies there.
    let ordinal: i32 = unsafe { call.arguments.read(device_at) };
    let device = DeviceIndex(u32::try_from(ordinal).ok()?);
    let is_retain = call.id == cbid::DEVICE_PRIMARY_CTX_RETAIN;
    // One more owner of a context that is there is a matter of nanoseconds, and takes nothing.
    let is_there = is_retain && driver.is_active(device).unwrap_or(true);
    (!is_there).then_some(device)
}

fn start(step: Step, driver: &Driver, device: DeviceIndex) -> Option<Start> {
    let _relaxed = driver.relaxed();
    let by_nvml = driver.current_device().ok().flatten() != Some(device);
    if by_nvml && !METER.knows(device) {
        // Attached inside `cuInit`, where the driver could not be asked yet. It answers by now.
        let info = driver.describe(device).ok()?;
        METER.know(device, &info.uuid);
    }
    let is_making = matches!(step, Step::Make { .. });
    let processes = if is_making { METER.processes(device) } else { None };
    let (reading, _) = read(driver, device, by_nvml)?;
    let recording = STATE.under_way.recording();
    Some(Start { recording, device, by_nvml, reading, processes })
}

/// Reads free bytes and what was seen, together; whether something moved in every try.
fn read(driver: &Driver, device: DeviceIndex, by_nvml: bool) -> Option<(Reading, bool)> {
    let sink = STATE.sink()?;
    let mut last = None;
    for _ in 0..TRIES {
        wait_for_quiet();
        let before = sink.seen(device)?;
        let free =
            if by_nvml { METER.free(device) } else { driver.free_here(device).ok().flatten() };
        let seen = sink.seen(device)?;
        last = Some((Reading { free: free?, seen }, before != seen));
        if before == seen {
            break;
        }
    }
    last
}

/// Waits a moment for other threads' calls to return: what those take is told then. They do not wait
/// for this thread, which is inside of no lock of the driver's.
fn wait_for_quiet() {
    for _ in 0..SPINS {
        if STATE.under_way.count() <= 1 {
            return;
        }
        std::hint::spin_loop();
    }
}

fn finish(call: &Call, driver: &Driver, start: &Start, cause: GrowthCause, context: usize) {
    let _relaxed = driver.relaxed();
    let after = start.processes.as_ref().and_then(|_| METER.processes(start.device));
    let others = match (start.processes, after) {
        (Some(before), Some(after)) => others_between(&before, &after),
        _ => STATE.growth.others_moved(start.device),
    };
    for last in (0..TRIES).rev() {
        let Some((reading, is_torn)) = read(driver, start.device, start.by_nvml) else { return };
        // What another thread tells from here on, it tells after us.
        let _turn = Telling::begin();
        let is_same = STATE.sink().and_then(|sink| sink.seen(start.device)) == Some(reading.seen);
        if !is_same && last > 0 {
            continue;
        }
        let growth = growth_of(call, start, cause, &reading, is_torn || !is_same, others);
        if growth.bytes != 0 {
            emit(growth);
            STATE.growth.remember(context, start.device, cause, growth.bytes);
        }
        return;
    }
}

/// By what free memory fell beyond what was seen to be taken.
fn growth_of(
    call: &Call,
    start: &Start,
    cause: GrowthCause,
    end: &Reading,
    is_torn: bool,
    others: u64,
) -> Growth {
    let sum = |reading: &Reading| i128::from(reading.free.0) + i128::from(reading.seen.bytes);
    let bytes = i64::try_from(sum(&start.reading) - sum(end)).unwrap_or(0);
    let whole = bytes.unsigned_abs();
    // This call is one of those that are under way.
    let own = if is_torn || STATE.under_way.count() > 1 {
        whole
    } else if end.seen.turnover != start.reading.seen.turnover {
        // What was allocated or freed meanwhile, as far as it shows.
        end.seen.bytes.abs_diff(start.reading.seen.bytes).max(1)
    } else {
        0
    };
    let error = Bytes(own.saturating_add(if others == UNKNOWN { whole } else { others }));
    Growth { device: start.device, context: call.context_uid, cause, bytes, error }
}

/// What others moved by, as listed before and after.
fn others_between(before: &Processes, after: &Processes) -> u64 {
    match (before.others, after.others) {
        _ if before.is_alone() && after.is_alone() => 0,
        (Some(was), Some(is)) if before.others_untold + after.others_untold == 0 => {
            was.0.abs_diff(is.0)
        }
        _ => UNKNOWN,
    }
}

/// A context is about to end: it gives back what it was seen to take.
pub(super) fn context_gone(context: usize) {
    let Some(sums) = STATE.growth.sums_of(context) else { return };
    let device = DeviceIndex(u32::try_from(sums.device.load(Ordering::Acquire)).unwrap_or(0));
    for (cause, bytes) in GrowthCause::ALL.into_iter().zip(sums.clear()) {
        if bytes != 0 {
            let bytes = bytes.saturating_neg();
            emit(Growth { device, context: 0, cause, bytes, error: Bytes::ZERO });
        }
    }
}

fn emit(growth: Growth) {
    STATE.emit(&Event {
        time: clock::now(),
        seen_by: SeenBy::Callback,
        body: Body::ContextGrew(growth),
    });
}

/// One thread at a time reads what was seen and adds to it.
struct Telling(bool);

impl Telling {
    /// Waits a moment; a thread that does not get it goes on without, and its number may be told
    /// twice.
    fn begin() -> Self {
        for _ in 0..SPINS {
            if !STATE.growth.is_telling.swap(true, Ordering::AcqRel) {
                return Self(true);
            }
            std::hint::spin_loop();
        }
        Self(false)
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if self.0 {
            STATE.growth.is_telling.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_a_former_recording_is_not_measured_for_ever() {
        let seen = Seen { bytes: 0, turnover: 0 };
        let start = |recording| Start {
            recording,
            device: DeviceIndex(0),
            by_nvml: false,
            reading: Reading { free: Bytes::ZERO, seen },
            processes: None,
        };
        assert!(!is_measuring());
        // No recording has the number 0.
        STARTED.with(|started| started.set(Some(start(0))));
        assert!(!is_measuring());
        STARTED.with(Cell::take);
    }
}
