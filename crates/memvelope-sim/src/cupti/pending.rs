//! Records between the moment work is queued and the moment it is complete in virtual time.

use crate::cupti::layout::{self, Record};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Copies between devices (MEMCPY2). They can be asked for and none is ever written: no simulated
/// call makes one.
const PEER_COPIES: u32 = 22;

/// Turns a kind on or off; `false` when the simulator does not write it.
pub(crate) fn switch(kind: u32, on: bool) -> bool {
    if layout::layout_of(kind).is_none() && kind != PEER_COPIES {
        return false;
    }
    let bit = 1_u64 << kind;
    if on {
        KINDS.fetch_or(bit, Ordering::Relaxed);
    } else {
        KINDS.fetch_and(!bit, Ordering::Relaxed);
    }
    true
}

/// Records that were made and not yet handed to a buffer.
#[derive(Debug)]
pub(crate) struct Pending {
    /// CUPTI version as major * 100 + minor.
    pub(crate) version: u32,
    /// Added to every time stamp (a client's own clock).
    pub(crate) clock_offset: i64,
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
    pub(crate) fn new(version: u32) -> Self {
        Self {
            version,
            clock_offset: 0,
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
        time.saturating_add_signed(self.clock_offset)
    }

    /// Adds a record of work that runs from `start` to `end`.
    pub(crate) fn push(&mut self, start: u64, end: u64, now: u64, record: Record) {
        *self.made.entry(record.kind()).or_default() += 1;
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
