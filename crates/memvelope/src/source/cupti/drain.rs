//! The way out: completed buffers become events, on one thread at a time.

#![expect(unsafe_code, reason = "CUPTI steps through buffers by pointer")]

use super::buffers::Completed;
use super::decode::{Decoder, MemoryRecords, Outside, Step, Tally};
use super::known_names::KnownNames;
use super::session::Run;
use super::state::STATE;
use crate::event::{Body, DropReason, Event, Names, SeenBy};
use crate::source::clock;
use crate::units::Nanos;
use cupti_sys::{Cupti, result};
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Buffers decoded in one call at most, so that a producer faster than we are cannot hold the
/// drain thread: four times the largest arena.
const BUFFERS_MAX: usize = 4096;

/// Kinds of losses that are told.
const LOSSES: usize = 8;

/// Buffers that are looked through for scopes before the first of them is decoded, while scopes are
/// in use: the largest arena.
const BATCH_MAX: usize = 1024;

/// The single consumer's place, and what it has counted since the process began.
#[derive(Debug)]
pub(super) struct Drain {
    busy: AtomicBool,
    /// Which recording: a thread that still decodes an earlier one leaves the rest alone.
    recording: AtomicU64,
    /// Buffers that came back before this position are an earlier session's.
    begin: AtomicUsize,
    /// Taken out while it works, so that no lock is held across CUPTI's stepping.
    decoder: Mutex<Option<Decoder>>,
    /// Taken out like it.
    known: Mutex<KnownNames>,
    watch: Mutex<Option<ClockWatch>>,
    /// Losses that have been told as events.
    told: Mutex<[u64; LOSSES]>,
    pub(super) records: AtomicU64,
    pub(super) bad_records: AtomicU64,
    pub(super) bad_timestamps: AtomicU64,
    pub(super) unknown_kinds: AtomicU64,
    pub(super) before_attach: AtomicU64,
    pub(super) unpaired_ranges: AtomicU64,
    pub(super) uncorrelated: AtomicU64,
    pub(super) clock_steps: AtomicU64,
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
            recording: AtomicU64::new(0),
            begin: AtomicUsize::new(0),
            decoder: Mutex::new(None),
            known: Mutex::new(KnownNames::new()),
            watch: Mutex::new(None),
            told: Mutex::new([0; LOSSES]),
            records: AtomicU64::new(0),
            bad_records: AtomicU64::new(0),
            bad_timestamps: AtomicU64::new(0),
            unknown_kinds: AtomicU64::new(0),
            before_attach: AtomicU64::new(0),
            unpaired_ranges: AtomicU64::new(0),
            uncorrelated: AtomicU64::new(0),
            clock_steps: AtomicU64::new(0),
            dropped_by_cupti: AtomicU64::new(0),
            decode_ns: AtomicU64::new(0),
        }
    }

    /// What MEMORY2 records are for from now on. Losses of an earlier recording that nobody
    /// drained are not this one's.
    pub(super) fn expect(&self, memory_records: MemoryRecords, since: Nanos) {
        let mut decoder = super::lock(&self.decoder);
        self.turn_over();
        *decoder = Some(Decoder::new(memory_records, since));
        drop(decoder);
        *super::lock(&self.watch) = None;
        // Ids are those of the recording's own table of names.
        *super::lock(&self.known) = KnownNames::new();
        *super::lock(&self.told) = self.losses().map(|(_, count)| count);
    }

    /// Another recording is about to begin: whoever decodes stops after what was taken out.
    pub(super) fn turn_over(&self) {
        self.recording.fetch_add(1, Ordering::AcqRel);
    }

    /// Throws away what came back and was never decoded: it belongs to the session before. Where a
    /// thread of that one is still at it, the rest is thrown away once somebody comes upon it.
    pub(super) fn discard(&self) {
        self.turn_over();
        let Some(arena) = STATE.arena() else { return };
        self.begin.store(arena.next_position(), Ordering::Release);
        if self.busy.swap(true, Ordering::Acquire) {
            return;
        }
        let _place = Place(&self.busy);
        // Nothing is on, so that no more comes back than CUPTI still held.
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
        let (recording, decoder) = {
            let mut decoder = super::lock(&self.decoder);
            (self.recording.load(Ordering::Acquire), decoder.take())
        };
        let mut decoder =
            decoder.unwrap_or_else(|| Decoder::new(run.memory_records(), Nanos::ZERO));
        if may_ask {
            self.watch_clock(&mut decoder);
        }
        let is_current = || self.recording.load(Ordering::Acquire) == recording;
        let decoded = self.decode_all(&mut decoder, run, &is_current, on_event);
        self.uncorrelated.fetch_add(decoder.take_unmatched(), Ordering::Relaxed);
        {
            let mut place = super::lock(&self.decoder);
            if !is_current() {
                // The place has the decoder of the recording that has begun meanwhile.
                return decoded;
            }
            *place = Some(decoder);
        }
        if may_ask {
            self.ask_losses(&run.cupti);
        }
        self.tell_losses(on_event);
        decoded
    }

    /// While scopes are in use, all that came back is looked through for them first: the record
    /// that ties a call to its scope and the record of the call's work stand in different buffers.
    fn decode_all(
        &self,
        decoder: &mut Decoder,
        run: &Run,
        is_current: &dyn Fn() -> bool,
        on_event: &mut dyn FnMut(&Event),
    ) -> u64 {
        let begin = self.begin.load(Ordering::Acquire);
        let next = || loop {
            let buffer = STATE.arena()?.next_completed()?;
            if !buffer.is_before(begin) {
                return Some(buffer);
            }
        };
        let (mut decoded, mut buffers) = (0, 0);
        let mut batch = std::collections::VecDeque::new();
        let mut known = std::mem::take(&mut *super::lock(&self.known));
        // What was taken out is decoded to the end: nobody else will come upon it.
        while !batch.is_empty() || (buffers < BUFFERS_MAX && is_current()) {
            if batch.is_empty() {
                let begin = Instant::now();
                let room = if STATE.has_scopes() { BATCH_MAX } else { 1 };
                // Work of calls whose own records CUPTI was not asked for yet may come back
                // meanwhile: it waits for the next flush.
                if room > 1 && buffers > 0 {
                    break;
                }
                batch.extend(std::iter::from_fn(next).take(room));
                if room > 1 {
                    decoder.ignore_scopes(super::scopes::ended_before());
                    batch.iter().for_each(|buffer| {
                        decoder.correlate(buffer.bytes(), stepper(&run.cupti, buffer));
                    });
                }
                self.decode_ns.fetch_add(nanos_since(begin), Ordering::Relaxed);
            }
            let Some(buffer) = batch.pop_front() else { break };
            let begin = Instant::now();
            let tally = decode(decoder, &mut known, &buffer, &run.cupti, run.names, on_event);
            decoded += tally.records;
            self.count(&tally, begin);
            buffers += 1;
        }
        // Of another recording the ids may be another table's.
        if is_current() {
            *super::lock(&self.known) = known;
        }
        decoded
    }

    /// Whether the records' clock was put forward or back since the last look.
    fn watch_clock(&self, decoder: &mut Decoder) {
        let now = ClockWatch { records: clock::now(), steady: Instant::now() };
        let before = super::lock(&self.watch).replace(now);
        if let Some(before) = before.filter(|before| now.has_stepped_since(before)) {
            self.clock_steps.fetch_add(1, Ordering::Relaxed);
            // Put back at some time since the last look: records were made in between.
            let since = Nanos::from_duration(now.steady.duration_since(before.steady));
            decoder.rebase(now.records.saturating_sub(since));
        }
    }

    fn count(&self, tally: &Tally, begin: Instant) {
        let add = |counter: &AtomicU64, more| counter.fetch_add(more, Ordering::Relaxed);
        add(&self.records, tally.records);
        add(&self.bad_records, tally.bad_records);
        add(&self.bad_timestamps, tally.bad_timestamps);
        add(&self.unknown_kinds, tally.unknown_kinds);
        add(&self.before_attach, tally.before_attach);
        add(&self.unpaired_ranges, tally.unpaired);
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

    fn losses(&self) -> [(DropReason, u64); LOSSES] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let arena = STATE.arena();
        [
            (DropReason::CuptiDropped, read(&self.dropped_by_cupti)),
            (DropReason::ArenaExhausted, arena.map_or(0, |arena| read(&arena.exhausted))),
            (DropReason::QueueFull, arena.map_or(0, |arena| read(&arena.queue_full))),
            (DropReason::BadRecord, read(&self.bad_records)),
            (DropReason::BadTimestamp, read(&self.bad_timestamps)),
            (DropReason::BeforeAttach, read(&self.before_attach)),
            (DropReason::RangeUnpaired, read(&self.unpaired_ranges)),
            (DropReason::Uncorrelated, read(&self.uncorrelated)),
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

/// What CUPTI's clock said, and the one that nobody puts forward or back.
#[derive(Clone, Copy, Debug)]
struct ClockWatch {
    records: Nanos,
    steady: Instant,
}

impl ClockWatch {
    /// More than a clock is slewed by between two looks, and less than a step that matters. The
    /// simulated clock counts work and not time: of that one only a step back can be told.
    const STEP_MIN: Nanos = Nanos(100_000_000);

    fn has_stepped_since(&self, before: &Self) -> bool {
        if self.records < before.records {
            return true;
        }
        let real = STATE.driver().is_some_and(|driver| driver.simulator_version().is_none());
        let steady = Nanos::from_duration(self.steady.duration_since(before.steady));
        let by_records = self.records.saturating_sub(before.records);
        real && by_records.0.abs_diff(steady.0) > Self::STEP_MIN.0
    }
}

fn nanos_since(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// CUPTI's own stepping through a buffer.
fn stepper<'a>(
    cupti: &Cupti,
    buffer: &'a Completed<'_>,
) -> impl FnMut(Option<usize>) -> Step + use<'a> {
    // SAFETY: the buffer is one that CUPTI filled with so many bytes and handed back; it is
    // borrowed for as long as the stepper is there.
    unsafe { steps(cupti, buffer.pointer(), buffer.bytes().len()) }
}

/// The same through the `valid` bytes at `base`.
///
/// # Safety
/// CUPTI may read them, as records that it laid out, for as long as the stepper is there; what the
/// stepper is given are offsets that it gave.
pub(super) unsafe fn steps(
    cupti: &Cupti,
    base: *mut u8,
    valid: usize,
) -> impl FnMut(Option<usize>) -> Step + use<> {
    let next = cupti.activity_get_next_record;
    move |last| {
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

fn decode(
    decoder: &mut Decoder,
    known: &mut KnownNames,
    buffer: &Completed<'_>,
    cupti: &Cupti,
    names: &Names,
    on_event: &mut dyn FnMut(&Event),
) -> Tally {
    known.begin();
    let mut outside = Outside {
        name_at: &mut |address| known.id(names, address),
        next_token: &|| STATE.next_token(),
        on_event,
    };
    decoder.decode(buffer.bytes(), stepper(cupti, buffer), &mut outside)
}
