//! Records between the moment work is queued and the moment it is complete in virtual time.

use crate::cupti::layout::{self, Record};
use crate::scenario::Scenario;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
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

/// Set when GRAPH_TRACE was ever turned on: from then on, graphs are seen as a whole, and turning it
/// off brings no nodes back.
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
    running: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// Records of `running`, by index; empty ones are reused.
    slab: Vec<Option<(u64, Record)>>,
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
        self.count(&record);
        if end <= now && self.running.is_empty() {
            self.complete.push_back(record);
            return;
        }
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() - 1
        });
        self.slab[index] = Some((start, record));
        self.sequence += 1;
        self.running.push(Reverse((end, self.sequence, index)));
    }

    /// Moves what is complete at `now` to the ready line.
    fn settle(&mut self, now: u64) {
        while let Some(Reverse((end, _, index))) = self.running.peek().copied() {
            if end > now {
                break;
            }
            self.running.pop();
            if let Some((_, record)) = self.slab[index].take() {
                self.complete.push_back(record);
            }
            self.vacant.push(index);
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
            self.vacant.push(index);
            let Some((start, mut record)) = self.slab[index].take() else { continue };
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
