//! What the scenario's CUPTI does wrong (`[cupti_faults]`): to records, to buffers, to the
//! subscription, and to calls. Everything follows from counts and the seed.

use crate::cupti::layout::{self, Record, kernel};
use crate::cupti::{buffers, callbacks};
use crate::scenario::{CuptiFaults, Scenario};
use crate::world;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// A name that is no UTF-8.
const BAD_NAME: &CStr = c"\xff\xfe\x80decode";

/// Whether libcuda calls have to be counted here.
static CALLS_MATTER: AtomicBool = AtomicBool::new(false);
/// Whether records have to be looked at at all.
static TAMPERS: AtomicBool = AtomicBool::new(false);
static POISONED: AtomicBool = AtomicBool::new(false);
static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct State {
    spec: CuptiFaults,
    random: u64,
    /// When the first kind was turned on.
    attached_at: Option<u64>,
    /// A registered clock has spoiled the times of the GPU.
    clock_is_broken: bool,
    gpu_records: u64,
    kernels: u64,
    dropped: u64,
    buffers: u64,
    names: HashMap<(u64, u64), &'static CStr>,
    fired: BTreeMap<&'static str, u64>,
}

/// What happens to a buffer on its way back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// The seed of the garbage.
    pub(crate) garbage: Option<u64>,
    pub(crate) truncate: bool,
    pub(crate) duplicate: bool,
    pub(crate) after_stop: bool,
    pub(crate) reorder: bool,
    pub(crate) late: u64,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads a scenario's faults.
pub(crate) fn arm(scenario: &Scenario) {
    let spec = scenario.cupti_faults.clone().for_version(scenario.cupti_version().0);
    buffers::set_per_thread(spec.per_thread_buffers == Some(true));
    callbacks::set_other(scenario.subscriber.is_some());
    let at_calls = [
        spec.steal_subscriber_at_call,
        spec.release_subscriber_at_call,
        spec.subscriber_leaves_at_call,
    ];
    CALLS_MATTER.store(at_calls.iter().any(|at| *at != 0), Ordering::Release);
    let counts = [
        spec.zero_timestamps_every,
        spec.reversed_timestamps_every,
        spec.null_names_every,
        spec.bad_names_every,
        spec.distinct_names,
        spec.older_than_attach,
        spec.drop_records,
    ];
    TAMPERS.store(counts.iter().any(|count| *count != 0), Ordering::Release);
    let random = scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    *state() = State { spec, random, ..State::default() };
}

/// How often each fault came true, for the books.
pub(crate) fn fired() -> BTreeMap<&'static str, u64> {
    state().fired.clone()
}

impl State {
    fn fire(&mut self, name: &'static str) {
        *self.fired.entry(name).or_default() += 1;
    }

    /// Whether it is the turn of a fault that comes true each `every`-th time.
    fn is_due(&mut self, name: &'static str, every: u64, count: u64) -> bool {
        let is_due = every != 0 && count.is_multiple_of(every);
        if is_due {
            self.fire(name);
        }
        is_due
    }
}

/// Says that a kind was turned on at `now`.
pub(crate) fn attached(now: u64) {
    state().attached_at.get_or_insert(now);
}

/// Says that the client registered a clock of its own.
pub(crate) fn clock_registered() {
    let mut state = state();
    if state.spec.timestamp_callback_zeroes == Some(true) {
        state.clock_is_broken = true;
        TAMPERS.store(true, Ordering::Release);
    }
}

/// Looks at records that are about to be delivered. Returns how many were dropped.
pub(crate) fn tamper(records: &mut VecDeque<Record>) -> usize {
    if !TAMPERS.load(Ordering::Acquire) {
        return 0;
    }
    let mut state = state();
    let mut dropped = 0;
    while state.dropped < state.spec.drop_records && records.pop_front().is_some() {
        state.dropped += 1;
        state.fire("drop_records");
        dropped += 1;
    }
    for record in records {
        spoil_times(&mut state, record);
        if record.kind() == kernel::LAYOUT.kind {
            spoil_name(&mut state, record);
        }
    }
    dropped
}

/// Nanoseconds between the records that are older than the recording.
const OLDER_NS: u64 = 1_000;

fn spoil_times(state: &mut State, record: &mut Record) {
    let Some((start, end)) = layout::times_of(record.kind()) else { return };
    state.gpu_records += 1;
    let count = state.gpu_records;
    if let Some(attached_at) = state.attached_at
        && count <= state.spec.older_than_attach
    {
        let took = record.get(end).saturating_sub(record.get(start));
        let before = (state.spec.older_than_attach + 1 - count).saturating_mul(OLDER_NS);
        let at = attached_at.saturating_sub(before);
        record.set(end, at);
        record.set(start, at.saturating_sub(took));
        state.fire("older_than_attach");
    }
    if state.is_due("reversed_timestamps_every", state.spec.reversed_timestamps_every, count) {
        let (from, until) = (record.get(start), record.get(end));
        record.set(start, if from == until { from + 1 } else { until });
        record.set(end, from);
    }
    if state.is_due("zero_timestamps_every", state.spec.zero_timestamps_every, count) {
        record.set(start, 0);
        record.set(end, 0);
    }
    if state.clock_is_broken {
        record.set(start, 0);
        record.set(end, 0);
        state.fire("timestamp_callback_zeroes");
    }
}

fn spoil_name(state: &mut State, record: &mut Record) {
    let count = state.kernels;
    state.kernels += 1;
    if let Some(number) = count.checked_rem(state.spec.distinct_names) {
        let name = numbered(state, record.get(kernel::NAME), number);
        record.set(kernel::NAME, name.as_ptr() as u64);
    }
    if state.is_due("bad_names_every", state.spec.bad_names_every, count + 1) {
        record.set(kernel::NAME, BAD_NAME.as_ptr() as u64);
    }
    if state.is_due("null_names_every", state.spec.null_names_every, count + 1) {
        record.set(kernel::NAME, 0);
    }
}

/// A kernel's name with a number. Lives as long as the process, as CUPTI's names do.
#[expect(unsafe_code, reason = "reads back a name of the simulator's own")]
fn numbered(state: &mut State, base: u64, number: u64) -> &'static CStr {
    if let Some(name) = state.names.get(&(base, number)) {
        return name;
    }
    // SAFETY: the pointer comes from the record of a launch, which points at an interned name
    // that is never freed.
    let text = unsafe { CStr::from_ptr(base as *const std::ffi::c_char) };
    let mut bytes = text.to_bytes().to_vec();
    bytes.extend_from_slice(format!("_{number}").as_bytes());
    let name = CString::new(bytes).unwrap_or_default();
    let name: &'static CStr = Box::leak(name.into_boxed_c_str());
    // Without a limit no number comes again, and there is nothing to look up.
    if state.spec.distinct_names != u64::MAX {
        state.names.insert((base, number), name);
    }
    state.fire("distinct_names");
    name
}

/// Decides about a completed buffer that holds records.
pub(crate) fn fate() -> Fate {
    let mut state = state();
    state.buffers += 1;
    let (count, spec) = (state.buffers, state.spec.clone());
    let mut fate =
        Fate { reorder: spec.reorder_buffers, late: spec.late_buffers, ..Fate::default() };
    if state.is_due("garbage_every", spec.garbage_every, count) {
        fate.garbage = Some(draw(&mut state.random));
    }
    fate.truncate = state.is_due("truncate_every", spec.truncate_every, count);
    fate.duplicate = state.is_due("duplicate_buffer_every", spec.duplicate_buffer_every, count);
    let every = if spec.complete_after_stop { 2 } else { 0 };
    fate.after_stop = state.is_due("complete_after_stop", every, count);
    fate
}

/// The next number of a seeded line: xorshift64*.
pub(crate) fn draw(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Counts a libcuda call: other clients of CUPTI come and go by its number.
pub(crate) fn driver_called(number: u64) {
    if !CALLS_MATTER.load(Ordering::Acquire) {
        return;
    }
    let mut state = state();
    if number == state.spec.steal_subscriber_at_call {
        callbacks::steal();
        state.fire("steal_subscriber_at_call");
    }
    if number == state.spec.release_subscriber_at_call {
        callbacks::set_other(false);
        state.fire("release_subscriber_at_call");
    }
    if number == state.spec.subscriber_leaves_at_call {
        callbacks::set_other(false);
        state.fire("subscriber_leaves_at_call");
    }
}

/// Runs before every CUPTI call: some versions crash before the driver is ready.
pub(crate) fn cupti_called(name: &'static str) {
    if (world::is_ready() && !world::is_injecting()) || world::is_forked() {
        return;
    }
    // The scenario may not be read yet: this can be the first call of all.
    drop(world::machine());
    let crashes = {
        let spec = &state().spec;
        let early = !world::is_ready() && spec.crash_before_init == Some(true);
        early || (world::is_injecting() && spec.crash_in_injection)
    };
    if crashes {
        crash(&format!("{name} before cuInit returned 0"));
    }
}

/// Runs when a client answers a request with no buffer.
pub(crate) fn null_buffer() {
    let crashes = state().spec.null_buffer_crashes == Some(true);
    if crashes {
        crash("a buffer request was answered with null");
    }
}

/// Ends the process as a crash of the real library would.
#[expect(unsafe_code, reason = "ends the process on purpose: the crash is what is simulated")]
fn crash(why: &str) {
    eprintln!("memvelope-sim: CRASH as this version of CUPTI does: {why}");
    // SAFETY: no memory is touched.
    unsafe { libc::abort() };
}

/// Hangs in a flush, in real time.
pub(crate) fn flushing() {
    let ms = state().spec.flush_hangs_ms;
    hang("flush_hangs_ms", ms);
}

/// Hangs in `cuptiFinalize`, in real time, and poisons what comes after.
pub(crate) fn finalizing() {
    let (ms, poisons) = {
        let spec = &state().spec;
        (spec.finalize_hangs_ms, spec.finalize_poisons)
    };
    hang("finalize_hangs_ms", ms);
    POISONED.fetch_or(poisons, Ordering::Relaxed);
}

/// Whether a former `cuptiFinalize` left CUPTI unusable.
pub(crate) fn is_poisoned() -> bool {
    POISONED.load(Ordering::Relaxed)
}

fn hang(name: &'static str, ms: u64) {
    if ms != 0 {
        state().fire(name);
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
}
