//! Activity records to events: a pure function on a byte slice.
//!
//! Fields are read by the offsets of [`cupti_sys::layout`], which hold for CUPTI 12.0 to 13.5;
//! stepping is CUPTI's own business (`cuptiActivityGetNextRecord` knows its record sizes) and comes
//! in as a function, as does the look-up of names, so that none of this needs a driver. Whatever
//! the bytes are, decoding ends, touches nothing outside them and counts what it could not read.

use super::correlate::Correlations;
use super::ranges::Ranges;
use super::records::{self, Decoded, u32_at, u64_at};
use crate::event::{Body, Event, NameId, ScopeId};
use crate::units::Nanos;
use cupti_sys::layout::{
    api, external_correlation, graph_trace, kernel, marker, memcpy, memcpy2, memory_pool, memory2,
    memset, overhead, synchronization,
};
use cupti_sys::{activity_kind, external_kind, memory_operation};

/// Whose stack of ids is ours: profilers are known to use the first two kinds for clients.
pub(super) const EXTERNAL_KIND: u32 = external_kind::CUSTOM2;

/// How much earlier than the attachment a record may end and still be of this recording: times of
/// the device are converted to the host's clock and are off by microseconds.
const BEFORE_ATTACH_SLACK: Nanos = Nanos(1_000_000);

/// How much earlier work may have begun. What was launched before the recording has no record, so
/// this tells times of another clock from times that are a little off: one such record would make
/// the device busy since 1970.
const START_SLACK: Nanos = Nanos(1_000_000_000);

/// Where the next record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// At this offset.
    Record(usize),
    /// There is none.
    End,
    /// CUPTI cannot tell: the rest of the buffer is lost.
    Lost,
}

/// What is done with MEMORY2 records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryRecords {
    /// Callbacks feed the ledger; the records are a cross-check.
    CrossCheck,
    /// No callbacks: the records feed the ledger.
    Ledger,
}

/// What became of the records of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Decoded into events.
    pub(super) records: u64,
    /// Unreadable.
    pub(super) bad_records: u64,
    /// Without valid timestamps.
    pub(super) bad_timestamps: u64,
    /// Of kinds nobody asked for.
    pub(super) unknown_kinds: u64,
    /// From before the recording began.
    pub(super) before_attach: u64,
    /// Ends of ranges without a begin, or begins that found no room.
    pub(super) unpaired: u64,
}

/// What a decoder needs from outside.
pub(super) struct Outside<'a> {
    /// The name at this address (of CUPTI's, or 0); `None` where nothing can be read.
    pub(super) name_at: &'a mut dyn FnMut(u64) -> Option<NameId>,
    /// A number unique in the process, for free calls.
    pub(super) next_token: &'a dyn Fn() -> u64,
    /// Takes the events.
    pub(super) on_event: &'a mut dyn FnMut(&Event),
}

/// The state of decoding one buffer after the other.
#[derive(Debug)]
pub(super) struct Decoder {
    memory_records: MemoryRecords,
    names: NameCache,
    correlations: Correlations,
    ranges: Ranges,
    /// When the recording began, on the clock of the records.
    since: Nanos,
    /// Time of the latest record that had one, or `since`.
    time: Nanos,
}

impl Decoder {
    pub(super) fn new(memory_records: MemoryRecords, since: Nanos) -> Self {
        Self {
            memory_records,
            names: NameCache::new(),
            correlations: Correlations::default(),
            ranges: Ranges::default(),
            since,
            // Allocations without a time, of which the ledger must know, are from now at the latest.
            time: since,
        }
    }

    /// The clock was put back: records from this time on are younger than they look.
    pub(super) fn rebase(&mut self, since: Nanos) {
        self.since = self.since.min(since);
    }

    /// Calls in scopes whose work was not seen in time, since last asked.
    pub(super) fn take_unmatched(&mut self) -> u64 {
        self.correlations.take_unmatched()
    }

    /// Ids that CUPTI may still tell of scopes that are over.
    pub(super) fn ignore_scopes(&mut self, over: Vec<ScopeId>) {
        self.correlations.ignore(over);
    }

    /// Learns which calls in `buffer` were made in which scopes. To be done for all buffers that
    /// came back before any is decoded: calls and their work stand in different ones.
    pub(super) fn correlate(&mut self, buffer: &[u8], step: impl FnMut(Option<usize>) -> Step) {
        let correlations = &mut self.correlations;
        walk(buffer, step, |bytes| {
            let kind = bytes.first_chunk::<4>().map(|kind| u32::from_ne_bytes(*kind));
            let record = bytes.first_chunk::<{ external_correlation::PREFIX }>();
            let (Some(external_correlation::KIND), Some(r)) = (kind, record) else { return };
            if u32_at::<{ external_correlation::EXTERNAL_KIND }, _>(r) == EXTERNAL_KIND {
                let scope = ScopeId(u64_at::<{ external_correlation::EXTERNAL_ID }, _>(r));
                let id = u32_at::<{ external_correlation::CORRELATION_ID }, _>(r);
                correlations.learn(id, scope);
            }
        });
    }

    /// Decodes `buffer`. `step` is given the offset of the last record (`None` at first).
    pub(super) fn decode(
        &mut self,
        buffer: &[u8],
        step: impl FnMut(Option<usize>) -> Step,
        outside: &mut Outside<'_>,
    ) -> Tally {
        // Names are CUPTI's: an address may name another kernel once a module was unloaded, so it
        // is trusted within one buffer only.
        self.names.forget();
        let mut tally = Tally::default();
        let is_whole = walk(buffer, step, |bytes| self.record(bytes, outside, &mut tally));
        tally.bad_records += u64::from(!is_whole);
        tally
    }

    fn record(&mut self, bytes: &[u8], outside: &mut Outside<'_>, tally: &mut Tally) {
        match &self.decoded(bytes, outside, tally) {
            Decoded::Event(event)
                if event.time.saturating_add(BEFORE_ATTACH_SLACK) < self.since =>
            {
                tally.before_attach += 1;
            }
            Decoded::Event(event)
                if work_start(&event.body)
                    .is_some_and(|start| start.saturating_add(START_SLACK) < self.since) =>
            {
                tally.bad_timestamps += 1;
            }
            Decoded::Event(event) => {
                self.time = self.time.max(event.time);
                tally.records += 1;
                (outside.on_event)(event);
            }
            Decoded::Done => tally.records += 1,
            Decoded::NoTime => tally.bad_timestamps += 1,
            Decoded::Truncated => tally.bad_records += 1,
            Decoded::Unknown => tally.unknown_kinds += 1,
            Decoded::Unpaired => tally.unpaired += 1,
        }
    }

    fn decoded(&mut self, bytes: &[u8], outside: &mut Outside<'_>, tally: &mut Tally) -> Decoded {
        let Some(kind) = bytes.first_chunk::<4>().map(|kind| u32::from_ne_bytes(*kind)) else {
            return Decoded::Truncated;
        };
        let Self { names, correlations, ranges, .. } = self;
        let name = |address| names.id(address, outside.name_at);
        match kind {
            kernel::KIND => whole(bytes, |record| records::kernel(record, name, correlations)),
            memcpy::KIND => whole(bytes, |record| records::copy(record, correlations)),
            memcpy2::KIND => whole(bytes, |record| records::peer_copy(record, correlations)),
            memset::KIND => whole(bytes, |record| records::set(record, correlations)),
            synchronization::KIND => whole(bytes, records::sync),
            graph_trace::KIND => whole(bytes, |record| records::graph(record, correlations)),
            api::KIND => whole(bytes, |record| records::api_call(record, false)),
            // Laid out as a driver call.
            activity_kind::RUNTIME => whole(bytes, |record| records::api_call(record, true)),
            // Learned in [`Self::correlate`].
            external_correlation::KIND => Decoded::Done,
            overhead::KIND => whole(bytes, records::overhead),
            marker::KIND => whole(bytes, |record| records::marker(record, name, ranges)),
            memory_pool::KIND => whole(bytes, records::pool),
            memory2::KIND => whole(bytes, |record| self.memory(record, outside, tally)),
            _ => Decoded::Unknown,
        }
    }

    /// MEMORY2. The ledger's needs come before the clock's: without a timestamp the latest one
    /// seen stands in, and that is counted.
    fn memory(
        &self,
        r: &[u8; memory2::PREFIX],
        outside: &mut Outside<'_>,
        tally: &mut Tally,
    ) -> Decoded {
        let operation = u32_at::<{ memory2::OPERATION }, _>(r);
        let is_free = match operation {
            memory_operation::ALLOCATION => false,
            memory_operation::RELEASE => true,
            _ => return Decoded::Unknown,
        };
        let stamp = Nanos(u64_at::<{ memory2::TIMESTAMP }, _>(r));
        let time = if stamp == Nanos::ZERO {
            tally.bad_timestamps += 1;
            self.time
        } else {
            stamp
        };
        match self.memory_records {
            MemoryRecords::CrossCheck => Decoded::event(time, records::memory_record(r, is_free)),
            MemoryRecords::Ledger => records::ledger_entry(r, is_free, time, outside),
        }
    }
}

/// Decodes a record of which there is at least as much as every version's has.
#[inline(always)]
fn whole<const N: usize>(bytes: &[u8], decode: impl FnOnce(&[u8; N]) -> Decoded) -> Decoded {
    bytes.first_chunk().map_or(Decoded::Truncated, decode)
}

/// When the device began with it; `None` for what the host does.
fn work_start(body: &Body) -> Option<Nanos> {
    match body {
        Body::Kernel(kernel) => Some(kernel.start),
        Body::Copy(copy) => Some(copy.start),
        Body::Memset(memset) => Some(memset.start),
        Body::GraphLaunch(graph) => Some(graph.start),
        _ => None,
    }
}

/// Goes through the records of a buffer; false if the rest of it could not be reached. Not past the
/// end and not backwards, whatever the stepper says: it comes to an end.
fn walk(
    buffer: &[u8],
    mut step: impl FnMut(Option<usize>) -> Step,
    mut each: impl FnMut(&[u8]),
) -> bool {
    let mut last = None;
    loop {
        match step(last) {
            Step::End => return true,
            Step::Record(at) if at < buffer.len() && last.is_none_or(|last| at > last) => {
                each(&buffer[at..]);
                last = Some(at);
            }
            Step::Record(_) | Step::Lost => return false,
        }
    }
}

/// Ids of the names met in this buffer, by address: asking for a name costs more than the rest of a
/// record does. A collision only costs that again.
#[derive(Debug)]
struct NameCache {
    entries: Box<[(u64, NameId)]>,
}

impl NameCache {
    /// A serving process runs some tens to hundreds of distinct kernels in a buffer's time: of 200,
    /// one in ten shares its place with another.
    const ENTRIES: usize = 1 << Self::BITS;
    const BITS: u32 = 11;

    fn new() -> Self {
        Self { entries: vec![(0, NameId::OTHER); Self::ENTRIES].into() }
    }

    fn forget(&mut self) {
        self.entries.fill((0, NameId::OTHER));
    }

    fn id(
        &mut self,
        address: u64,
        name_at: &mut dyn FnMut(u64) -> Option<NameId>,
    ) -> Option<NameId> {
        // Fibonacci hashing: addresses differ in their low and middle bits, the product's top ones
        // depend on all of them.
        let hash = (address >> 3).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let slot = (hash >> (u64::BITS - Self::BITS)) as usize;
        match self.entries.get_mut(slot) {
            Some((known, id)) if *known == address && address != 0 => Some(*id),
            Some(entry) => {
                let id = name_at(address)?;
                *entry = (address, id);
                Some(id)
            }
            None => name_at(address),
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
