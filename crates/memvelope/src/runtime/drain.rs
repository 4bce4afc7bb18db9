//! The drain thread: asks CUPTI for its buffers, decodes them, and feeds timeline, trace and ledger.

use super::control::Order;
use super::poll;
use super::state::{self, Inner};
use crate::event::{Body, Event};
use crate::source::cupti::Recorder;
use std::time::{Duration, Instant};

/// Events applied under one lock: long enough to make the lock invisible, short enough that a
/// snapshot never waits for a whole buffer.
const BATCH: usize = 512;

/// Allocations and frees put in order at one time: more than a drain period brings, 8 MiB at most.
const CHANGES_MAX: usize = 1 << 16;

/// Completed buffers may arrive a beat after a flush returned; how long a flush waits for them.
const ARRIVAL_MAX: Duration = Duration::from_millis(20);

/// Runs until told to end.
pub(super) fn run(inner: &Inner) {
    let period = Duration::from_millis(inner.config.drain_period_ms);
    loop {
        let order = inner.control.next_order(period);
        if order == Order::Stop {
            break;
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Between the driver's call into us and its own answer nobody but that call may touch
            // CUPTI: `cuInit` may yet fail, and some versions then crash.
            let is_usable = inner.may_call() && (!inner.is_incomplete() || poll::complete(inner));
            inner.leave_captures_alone();
            let Some(recorder) = inner.recorder().filter(|_| is_usable) else { return };
            match order {
                Order::Flush(_) => flush(inner, recorder),
                Order::Tick | Order::Stop => {
                    ask(inner, recorder, false);
                    decode(inner, recorder);
                }
            }
        }));
        if let Order::Flush(number) = order {
            inner.control.flushed(number);
        }
        if outcome.is_err() {
            inner.break_off("decoding panicked");
        }
        inner.check();
        inner.note_cpu(state::DRAIN);
    }
    inner.note_cpu(state::DRAIN);
}

/// Everything that is complete on the device, decoded. Buffers that CUPTI holds back because a
/// record in them is unfinished are taken by force.
fn flush(inner: &Inner, recorder: &Recorder) {
    ask(inner, recorder, false);
    decode(inner, recorder);
    if recorder.outstanding() > 0 {
        ask(inner, recorder, true);
    }
    decode_late(inner, recorder);
}

/// Decodes what came back, and waits a moment for what CUPTI still holds.
pub(super) fn decode_late(inner: &Inner, recorder: &Recorder) {
    let deadline = Instant::now() + ARRIVAL_MAX;
    loop {
        // Looked at before decoding, so that what has arrived by then is decoded.
        let is_last = recorder.outstanding() == 0 || Instant::now() >= deadline;
        decode(inner, recorder);
        if is_last {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ask(inner: &Inner, recorder: &Recorder, forced: bool) {
    if let Err(error) = recorder.flush(forced) {
        inner.note_problem(&error);
    }
}

/// Decodes what came back so far. A thread that was left to itself because it hung, and whose
/// session has ended meanwhile, leaves the buffers to the session that runs now.
fn decode(inner: &Inner, recorder: &Recorder) {
    if inner.is_frozen() {
        return;
    }
    let mut intake = Intake::new(inner);
    recorder.drain(&mut |event| intake.take(event));
    intake.finish();
}

/// Events on their way in: the many a batch at a time, allocations and frees in order.
pub(super) struct Intake<'a> {
    inner: &'a Inner,
    batch: Vec<Event>,
    changes: Vec<Event>,
}

impl<'a> Intake<'a> {
    pub(super) fn new(inner: &'a Inner) -> Self {
        Self { inner, batch: Vec::with_capacity(BATCH), changes: Vec::new() }
    }

    pub(super) fn take(&mut self, event: &Event) {
        if changes_the_ledger(&event.body) {
            self.changes.push(*event);
            if self.changes.len() >= CHANGES_MAX {
                book(self.inner, &mut self.changes);
            }
            return;
        }
        self.batch.push(*event);
        if self.batch.len() >= BATCH {
            apply(self.inner, &self.batch);
            self.batch.clear();
        }
    }

    pub(super) fn finish(mut self) {
        book(self.inner, &mut self.changes);
        apply(self.inner, &self.batch);
    }
}

/// Books allocations and frees in the order in which they happened. CUPTI fills a buffer per
/// thread, so that what one thread allocated and another freed stands in two buffers, which come
/// back in any order: a free that is booked first frees nothing, and its allocation stays for ever.
fn book(inner: &Inner, changes: &mut Vec<Event>) {
    if inner.is_frozen() {
        return changes.clear();
    }
    // Stable: the two halves of a free have one time.
    changes.sort_by_key(|event| event.time);
    changes.drain(..).for_each(|event| inner.ledger.accept(&event));
}

fn apply(inner: &Inner, batch: &[Event]) {
    // The ledger may be the next session's by now.
    if batch.is_empty() || inner.is_frozen() {
        return;
    }
    // CUPTI's own memory records are counted only.
    let is_counted = |event: &&Event| matches!(event.body, Body::MemoryRecord(_));
    batch.iter().filter(is_counted).for_each(|event| inner.ledger.accept(event));
    let mut recorded = inner.recorded();
    for event in batch {
        recorded.timeline.accept(event);
        recorded.sampler.accept(event);
        if let Body::Kernel(kernel) = &event.body {
            recorded.local.accept(kernel);
        }
    }
}

/// Whether it changes the ledger: without callbacks the source turns CUPTI's memory records into
/// allocations and frees. Kernels are the many: they are not to take its lock.
fn changes_the_ledger(body: &Body) -> bool {
    match body {
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
        | Body::Pool { .. } => true,
        Body::MemoryRecord(_)
        | Body::PoolRecord(_)
        | Body::GraphLaunch(_)
        | Body::ApiCall(_)
        | Body::Overhead(_)
        | Body::DriverCall(_)
        | Body::Kernel(_)
        | Body::Copy(_)
        | Body::Memset(_)
        | Body::Sync(_)
        | Body::Span(_)
        | Body::DeviceMemory { .. }
        | Body::DeviceUse { .. }
        | Body::HostMemory { .. }
        // Losses are read from the recorder's counters.
        | Body::Dropped { .. } => false,
    }
}
