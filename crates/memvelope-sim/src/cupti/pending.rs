//! Records between the moment work is queued and the moment it is complete in virtual time.

use crate::cupti::device_buffers::DeviceBuffers;
use crate::cupti::layout::{self, Record};
use crate::scenario::Scenario;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Kinds that are on, one bit each; read on every call without a lock.
static KINDS: AtomicU64 = AtomicU64::new(0);

/// Whether records of `kind` are wanted.
pub(crate) fn is_on(kind: u32) -> bool {
    KINDS.load(Ordering::Relaxed) & (1 << kind) != 0
}

/// Whether any kind is on.
pub(crate) fn any_on() -> bool {
    KINDS.load(Ordering::Relaxed) != 0
}

/// RUNTIME: may be on, and nothing is written, because nobody here calls the runtime.
const RUNTIME: u32 = 5;

/// Turns a kind on or off; `false` when the simulator does not write it.
pub(crate) fn switch(kind: u32, on: bool) -> bool {
    if layout::layout_of(kind).is_none() && kind != RUNTIME {
        return false;
    }
    let bit = 1_u64 << kind;
    if on && kind == layout::graph_trace::LAYOUT.kind {
        GRAPH_LEVEL.store(true, Ordering::Relaxed);
    }
    if on {
        KINDS.fetch_or(bit, Ordering::Relaxed);
    } else {
        KINDS.fetch_and(!bit, Ordering::Relaxed);
    }
    true
}

/// Set when GRAPH_TRACE was ever turned on: from then on, graphs are seen as a whole, and turning
/// it off brings no nodes back.
static GRAPH_LEVEL: AtomicBool = AtomicBool::new(false);

/// Whether graphs that are instantiated now are seen as a whole.
pub(crate) fn traces_graphs() -> bool {
    GRAPH_LEVEL.load(Ordering::Relaxed)
}

/// Turns every kind off, as when CUPTI was never there.
pub(crate) fn switch_all_off() {
    KINDS.store(0, Ordering::Relaxed);
    GRAPH_LEVEL.store(false, Ordering::Relaxed);
}

/// A record whose work is not complete.
#[derive(Clone, Debug)]
struct Running {
    start: u64,
    record: Record,
    /// The context in whose device buffers it has a place; 0 for none.
    context_uid: u32,
}

/// Records that were made and not yet handed to a buffer.
#[derive(Debug)]
pub(crate) struct Pending {
    /// CUPTI version as major * 100 + minor.
    pub(crate) version: u32,
    /// Added to every time stamp (a client's own clock).
    pub(crate) clock_offset: i64,
    /// A fault: from this time on, so much is added too.
    pub(crate) clock_step: (u64, i64),
    /// Activity attributes that were set.
    pub(crate) attributes: BTreeMap<u32, u64>,
    /// CUPTI's buffers on the device, by context.
    pub(crate) device_buffers: HashMap<u32, DeviceBuffers>,
    /// Records that found no place in them.
    pub(crate) without_place: u64,
    running: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// Records of `running`, by index; empty ones are reused.
    slab: Vec<Option<Running>>,
    vacant: Vec<usize>,
    complete: VecDeque<Record>,
    sequence: u64,
    made: BTreeMap<u32, u64>,
}

impl Pending {
    pub(crate) fn of(scenario: &Scenario) -> Self {
        let faults = &scenario.cupti_faults;
        let step_at = scenario.start_ns.saturating_add(faults.clock_step_at_ns);
        Self {
            version: scenario.cupti_version().0,
            clock_offset: 0,
            clock_step: (step_at, faults.clock_step_ns),
            attributes: BTreeMap::new(),
            device_buffers: HashMap::new(),
            without_place: 0,
            running: BinaryHeap::new(),
            slab: Vec::new(),
            vacant: Vec::new(),
            complete: VecDeque::new(),
            sequence: 0,
            made: BTreeMap::new(),
        }
    }

    /// A time as records state it.
    pub(crate) fn stamp(&self, time: u64) -> u64 {
        let (at, step) = self.clock_step;
        let step = if time >= at { step } else { 0 };
        time.saturating_add_signed(self.clock_offset).saturating_add_signed(step)
    }

    /// Counts a record that its maker delivers itself.
    pub(crate) fn count(&mut self, record: &Record) {
        *self.made.entry(record.kind()).or_default() += 1;
    }

    /// Adds a record of work that runs from `start` to `end`.
    pub(crate) fn push(&mut self, start: u64, end: u64, now: u64, record: Record) {
        if end <= now && self.running.is_empty() {
            self.count(&record);
            self.complete.push_back(record);
            return;
        }
        self.push_running(end, Running { start, record, context_uid: 0 });
    }

    /// Adds a record of work on the GPU, with its place in its context's device buffers.
    pub(crate) fn push_placed(&mut self, start: u64, end: u64, record: Record, context_uid: u32) {
        self.push_running(end, Running { start, record, context_uid });
    }

    fn push_running(&mut self, end: u64, running: Running) {
        self.count(&running.record);
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() - 1
        });
        self.slab[index] = Some(running);
        self.sequence += 1;
        self.running.push(Reverse((end, self.sequence, index)));
    }

    /// Takes a record out of its place.
    fn leave(&mut self, index: usize) -> Option<Running> {
        self.vacant.push(index);
        let running = self.slab[index].take()?;
        if let Some(buffers) = self.device_buffers.get_mut(&running.context_uid) {
            buffers.release();
        }
        Some(running)
    }

    /// Moves what is complete at `now` to the ready line.
    fn settle(&mut self, now: u64) {
        while let Some(Reverse((end, _, index))) = self.running.peek().copied() {
            if end > now {
                break;
            }
            self.running.pop();
            if let Some(running) = self.leave(index) {
                self.complete.push_back(running.record);
            }
        }
    }

    /// Takes the records that are complete at `now`.
    pub(crate) fn take_complete(&mut self, now: u64) -> VecDeque<Record> {
        self.settle(now);
        std::mem::take(&mut self.complete)
    }

    /// Takes everything. Work that is not complete at `now` has no end, and no start if it has
    /// not begun; it is never delivered again, as with a forced flush of the real library.
    pub(crate) fn take_all(&mut self, now: u64) -> VecDeque<Record> {
        let mut records = self.take_complete(now);
        while let Some(Reverse((_, _, index))) = self.running.pop() {
            let Some(Running { start, mut record, .. }) = self.leave(index) else { continue };
            if let Some((start_field, end_field)) = layout::times_of(record.kind()) {
                record.set(end_field, 0);
                if start > now {
                    record.set(start_field, 0);
                }
            }
            records.push_back(record);
        }
        records
    }

    /// Records made so far, by kind.
    pub(crate) fn made(&self) -> BTreeMap<&'static str, u64> {
        let name = |kind: u32| layout::layout_of(kind).map_or("?", |layout| layout.name);
        self.made.iter().map(|(kind, count)| (name(*kind), *count)).collect()
    }
}
