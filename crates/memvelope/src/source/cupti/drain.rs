//! The way out: completed buffers become events, on one thread at a time.

#![expect(unsafe_code, reason = "CUPTI steps through buffers and names kernels by pointer")]

use super::buffers::Completed;
use super::decode::{Decoder, MemoryRecords, Outside, Step, Tally};
use super::session::Run;
use super::state::STATE;
use crate::event::{Body, DropReason, Event, NameId, Names, SeenBy};
use crate::source::clock;
use cupti_sys::{Cupti, result};
use std::ffi::{CStr, c_char, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Buffers decoded in one call at most, so that a producer faster than we are cannot hold the
/// drain thread: four times the largest arena.
const BUFFERS_MAX: usize = 4096;

/// The single consumer's place, and what it has counted since the process began.
#[derive(Debug)]
pub(super) struct Drain {
    busy: AtomicBool,
    /// Taken out while it works, so that no lock is held across CUPTI's stepping.
    decoder: Mutex<Option<Decoder>>,
    /// Losses that have been told as events.
    told: Mutex<[u64; 5]>,
    pub(super) records: AtomicU64,
    pub(super) bad_records: AtomicU64,
    pub(super) bad_timestamps: AtomicU64,
    pub(super) unknown_kinds: AtomicU64,
    pub(super) dropped_by_cupti: AtomicU64,
    pub(super) decode_ns: AtomicU64,
}

/// Gives the consumer's place up, whatever the consumer's callback does.
struct Place<'a>(&'a AtomicBool);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Drain {
    pub(super) const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            decoder: Mutex::new(None),
            told: Mutex::new([0; 5]),
            records: AtomicU64::new(0),
            bad_records: AtomicU64::new(0),
            bad_timestamps: AtomicU64::new(0),
            unknown_kinds: AtomicU64::new(0),
            dropped_by_cupti: AtomicU64::new(0),
            decode_ns: AtomicU64::new(0),
        }
    }

    /// What MEMORY2 records are for from now on. Losses of an earlier recording that nobody
    /// drained are not this one's.
    pub(super) fn expect(&self, memory_records: MemoryRecords) {
        *super::lock(&self.decoder) = Some(Decoder::new(memory_records));
        *super::lock(&self.told) = self.losses().map(|(_, count)| count);
    }

    /// Throws away what came back and was never decoded: it belongs to the recording before.
    pub(super) fn discard(&self) {
        if self.busy.swap(true, Ordering::Acquire) {
            return;
        }
        let _place = Place(&self.busy);
        let Some(arena) = STATE.arena() else { return };
        while let Some(buffer) = arena.next_completed() {
            drop(buffer);
        }
    }

    /// Decodes what came back. `may_ask`: CUPTI is attached and can be asked for its own losses.
    pub(super) fn run(&self, run: &Run, may_ask: bool, on_event: &mut dyn FnMut(&Event)) -> u64 {
        if self.busy.swap(true, Ordering::Acquire) {
            return 0;
        }
        let _place = Place(&self.busy);
        let decoder = super::lock(&self.decoder).take();
        let mut decoder = decoder.unwrap_or_else(|| Decoder::new(run.memory_records()));
        let mut decoded = 0;
        for _ in 0..BUFFERS_MAX {
            let Some(buffer) = STATE.arena().and_then(super::buffers::Arena::next_completed) else {
                break;
            };
            let begin = Instant::now();
            let tally = decode(&mut decoder, &buffer, &run.cupti, run.names, on_event);
            decoded += tally.records;
            self.count(&tally, begin);
        }
        *super::lock(&self.decoder) = Some(decoder);
        if may_ask {
            self.ask_losses(&run.cupti);
        }
        self.tell_losses(on_event);
        decoded
    }

    fn count(&self, tally: &Tally, begin: Instant) {
        let add = |counter: &AtomicU64, more| counter.fetch_add(more, Ordering::Relaxed);
        add(&self.records, tally.records);
        add(&self.bad_records, tally.bad_records);
        add(&self.bad_timestamps, tally.bad_timestamps);
        add(&self.unknown_kinds, tally.unknown_kinds);
        add(&self.decode_ns, u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// CUPTI counts records that found no buffer, per queue; all of ours are in the global one,
    /// which has no context and no stream.
    pub(super) fn ask_losses(&self, cupti: &Cupti) {
        let Ok(ask) = cupti.activity_get_num_dropped_records else { return };
        let mut dropped = 0;
        // SAFETY: CUPTI is attached; it writes one size_t.
        let code = unsafe { ask(std::ptr::null_mut(), 0, &raw mut dropped) };
        if code == result::SUCCESS {
            self.dropped_by_cupti.fetch_add(dropped as u64, Ordering::Relaxed);
        }
    }

    fn losses(&self) -> [(DropReason, u64); 5] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let arena = STATE.arena();
        [
            (DropReason::CuptiDropped, read(&self.dropped_by_cupti)),
            (DropReason::ArenaExhausted, arena.map_or(0, |arena| read(&arena.exhausted))),
            (DropReason::QueueFull, arena.map_or(0, |arena| read(&arena.queue_full))),
            (DropReason::BadRecord, read(&self.bad_records)),
            (DropReason::BadTimestamp, read(&self.bad_timestamps)),
        ]
    }

    fn tell_losses(&self, on_event: &mut dyn FnMut(&Event)) {
        let losses = self.losses();
        let told = std::mem::replace(&mut *super::lock(&self.told), losses.map(|(_, count)| count));
        for ((reason, count), before) in losses.into_iter().zip(told) {
            let count = count.saturating_sub(before);
            if count > 0 {
                let body = Body::Dropped { reason, count };
                on_event(&Event { time: clock::now(), seen_by: SeenBy::Activity, body });
            }
        }
    }
}

fn decode(
    decoder: &mut Decoder,
    buffer: &Completed<'_>,
    cupti: &Cupti,
    names: &Names,
    on_event: &mut dyn FnMut(&Event),
) -> Tally {
    let bytes = buffer.bytes();
    // SAFETY: the buffer is one that CUPTI filled with so many bytes and handed back; it is ours
    // until it is dropped.
    let step = unsafe { stepper(cupti, buffer.pointer(), bytes.len()) };
    let mut outside = Outside {
        // SAFETY: the address stands in a kernel record that CUPTI wrote.
        name_at: &mut |address| unsafe { name_at(names, address) },
        next_token: &|| STATE.next_token(),
        on_event,
    };
    decoder.decode(bytes, step, &mut outside)
}

/// Steps through the `valid` bytes at `base` as CUPTI does.
///
/// # Safety
/// They are records as the library behind `cupti` lays them out, and stay as long as the stepper
/// does. Only offsets that it gave are given to it.
pub(super) unsafe fn stepper(
    cupti: &Cupti,
    base: *mut u8,
    valid: usize,
) -> impl FnMut(Option<usize>) -> Step + use<> {
    let next = cupti.activity_get_next_record;
    move |last: Option<usize>| {
        let Ok(next) = next else { return Step::Lost };
        let mut record: *mut c_void =
            last.map_or(std::ptr::null_mut(), |at| base.wrapping_add(at).cast());
        // SAFETY: the caller's promise; `record` is null or the record that CUPTI gave last.
        match unsafe { next(base, valid, &raw mut record) } {
            result::SUCCESS => match (record as usize).checked_sub(base as usize) {
                Some(at) if !record.is_null() => Step::Record(at),
                _ => Step::Lost,
            },
            result::ERROR_MAX_LIMIT_REACHED => Step::End,
            _ => Step::Lost,
        }
    }
}

/// # Safety
/// `address` is 0 or that of a NUL-terminated string that CUPTI keeps.
unsafe fn name_at(names: &Names, address: u64) -> NameId {
    if address == 0 {
        return names.intern("(unnamed kernel)");
    }
    // SAFETY: the caller's promise; CUPTI keeps kernel names at least as long as the records that
    // point to them.
    let text = unsafe { CStr::from_ptr(address as *const c_char) };
    names.intern(&text.to_string_lossy())
}
