//! Activity records to events: a pure function on a byte slice.
//!
//! Fields are read by the offsets of [`cupti_sys::layout`], which hold for CUPTI 12.0 to 13.5;
//! stepping is CUPTI's own business (`cuptiActivityGetNextRecord` knows its record sizes) and comes
//! in as a function, as does the look-up of names, so that none of this needs a driver. Whatever
//! the bytes are, decoding ends, touches nothing outside them and counts what it could not read.

use crate::event::{
    AllocKind, Allocation, Body, Copied, DeviceIndex, Direction, Event, FreeKind, Kernel,
    MemoryRecord, Memset, NameId, SeenBy, Sync, SyncKind, Tag,
};
use crate::units::{Bytes, Nanos};
use cupti_sys::layout::{kernel, memcpy, memcpy2, memory2, memset, synchronization};
use cupti_sys::{copy_kind, memory_kind, memory_operation, pool_type, sync_type};

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
}

/// What a decoder needs from outside.
pub(super) struct Outside<'a> {
    /// Name of the kernel at this address (of CUPTI's, or 0).
    pub(super) name_at: &'a mut dyn FnMut(u64) -> NameId,
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
    /// Time of the latest record that had one.
    time: Nanos,
}

impl Decoder {
    pub(super) fn new(memory_records: MemoryRecords) -> Self {
        Self { memory_records, names: NameCache::new(), time: Nanos::ZERO }
    }

    /// Decodes `buffer`. `step` is given the offset of the last record (`None` at first).
    pub(super) fn decode(
        &mut self,
        buffer: &[u8],
        mut step: impl FnMut(Option<usize>) -> Step,
        outside: &mut Outside<'_>,
    ) -> Tally {
        // Names are CUPTI's: an address may name another kernel once a module was unloaded, so it
        // is trusted within one buffer only.
        self.names.forget();
        let mut tally = Tally::default();
        let mut last = None;
        loop {
            match step(last) {
                Step::End => return tally,
                // Not past the end and not backwards, whatever the stepper says: this loop ends.
                Step::Record(at) if at < buffer.len() && last.is_none_or(|last| at > last) => {
                    self.record(&buffer[at..], outside, &mut tally);
                    last = Some(at);
                }
                Step::Record(_) | Step::Lost => {
                    tally.bad_records += 1;
                    return tally;
                }
            }
        }
    }

    fn record(&mut self, bytes: &[u8], outside: &mut Outside<'_>, tally: &mut Tally) {
        let Some(kind) = bytes.first_chunk::<4>().map(|kind| u32::from_ne_bytes(*kind)) else {
            tally.bad_records += 1;
            return;
        };
        let decoded = match kind {
            kernel::KIND => match bytes.first_chunk() {
                Some(record) => self.kernel(record, outside),
                None => Decoded::Truncated,
            },
            memcpy::KIND => bytes.first_chunk().map_or(Decoded::Truncated, copy),
            memcpy2::KIND => bytes.first_chunk().map_or(Decoded::Truncated, peer_copy),
            memset::KIND => bytes.first_chunk().map_or(Decoded::Truncated, set),
            synchronization::KIND => bytes.first_chunk().map_or(Decoded::Truncated, sync),
            memory2::KIND => match bytes.first_chunk() {
                Some(record) => self.memory(record, outside, tally),
                None => Decoded::Truncated,
            },
            _ => Decoded::Unknown,
        };
        match decoded {
            Decoded::Event(time, body) => {
                self.time = self.time.max(time);
                tally.records += 1;
                (outside.on_event)(&Event { time, seen_by: SeenBy::Activity, body });
            }
            Decoded::Done => tally.records += 1,
            Decoded::NoTime => tally.bad_timestamps += 1,
            Decoded::Truncated => tally.bad_records += 1,
            Decoded::Unknown => tally.unknown_kinds += 1,
        }
    }

    fn kernel(&mut self, r: &[u8; kernel::PREFIX], outside: &mut Outside<'_>) -> Decoded {
        let Some((start, end)) =
            interval(u64_at::<{ kernel::START }, _>(r), u64_at::<{ kernel::END }, _>(r))
        else {
            return Decoded::NoTime;
        };
        let name = self.names.id(u64_at::<{ kernel::NAME }, _>(r), outside.name_at);
        Decoded::Event(
            end,
            Body::Kernel(Kernel {
                device: DeviceIndex(u32_at::<{ kernel::DEVICE_ID }, _>(r)),
                context: u32_at::<{ kernel::CONTEXT_ID }, _>(r),
                stream: u32_at::<{ kernel::STREAM_ID }, _>(r),
                name,
                correlation: u32_at::<{ kernel::CORRELATION_ID }, _>(r),
                start,
                end,
                grid: [
                    u32_at::<{ kernel::GRID_X }, _>(r),
                    u32_at::<{ kernel::GRID_Y }, _>(r),
                    u32_at::<{ kernel::GRID_Z }, _>(r),
                ],
                block: [
                    u32_at::<{ kernel::BLOCK_X }, _>(r),
                    u32_at::<{ kernel::BLOCK_Y }, _>(r),
                    u32_at::<{ kernel::BLOCK_Z }, _>(r),
                ],
            }),
        )
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
            MemoryRecords::CrossCheck => Decoded::Event(time, memory_record(r, is_free)),
            MemoryRecords::Ledger => ledger_entry(r, is_free, time, outside),
        }
    }
}

/// What became of one record.
enum Decoded {
    Event(Nanos, Body),
    /// Its events have been handed on.
    Done,
    NoTime,
    Truncated,
    Unknown,
}

fn u32_at<const AT: usize, const N: usize>(record: &[u8; N]) -> u32 {
    const { assert!(AT + 4 <= N, "the field lies within the record") };
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[AT..AT + 4]);
    u32::from_ne_bytes(bytes)
}

fn u64_at<const AT: usize, const N: usize>(record: &[u8; N]) -> u64 {
    const { assert!(AT + 8 <= N, "the field lies within the record") };
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[AT..AT + 8]);
    u64::from_ne_bytes(bytes)
}

/// A valid interval: CUPTI leaves zeroes where its timestamp buffers overflowed, and hands back
/// unfinished records (end = 0) on a forced flush.
fn interval(start: u64, end: u64) -> Option<(Nanos, Nanos)> {
    (start != 0 && end >= start).then_some((Nanos(start), Nanos(end)))
}

fn direction(kind: u8) -> Direction {
    match u32::from(kind) {
        copy_kind::HTOD => Direction::HostToDevice,
        copy_kind::DTOH => Direction::DeviceToHost,
        copy_kind::DTOD => Direction::DeviceToDevice,
        copy_kind::HTOH => Direction::HostToHost,
        copy_kind::PTOP => Direction::PeerToPeer,
        _ => Direction::Other,
    }
}

fn copy(r: &[u8; memcpy::PREFIX]) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ memcpy::START }, _>(r), u64_at::<{ memcpy::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let copied = Copied {
        device: DeviceIndex(u32_at::<{ memcpy::DEVICE_ID }, _>(r)),
        stream: u32_at::<{ memcpy::STREAM_ID }, _>(r),
        direction: direction(r[memcpy::COPY_KIND]),
        bytes: Bytes(u64_at::<{ memcpy::BYTES }, _>(r)),
        correlation: u32_at::<{ memcpy::CORRELATION_ID }, _>(r),
        start,
        end,
    };
    Decoded::Event(end, Body::Copy(copied))
}

fn peer_copy(r: &[u8; memcpy2::PREFIX]) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ memcpy2::START }, _>(r), u64_at::<{ memcpy2::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let copied = Copied {
        device: DeviceIndex(u32_at::<{ memcpy2::DEVICE_ID }, _>(r)),
        stream: u32_at::<{ memcpy2::STREAM_ID }, _>(r),
        direction: Direction::PeerToPeer,
        bytes: Bytes(u64_at::<{ memcpy2::BYTES }, _>(r)),
        correlation: u32_at::<{ memcpy2::CORRELATION_ID }, _>(r),
        start,
        end,
    };
    Decoded::Event(end, Body::Copy(copied))
}

fn set(r: &[u8; memset::PREFIX]) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ memset::START }, _>(r), u64_at::<{ memset::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let memset = Memset {
        device: DeviceIndex(u32_at::<{ memset::DEVICE_ID }, _>(r)),
        stream: u32_at::<{ memset::STREAM_ID }, _>(r),
        bytes: Bytes(u64_at::<{ memset::BYTES }, _>(r)),
        correlation: u32_at::<{ memset::CORRELATION_ID }, _>(r),
        start,
        end,
    };
    Decoded::Event(end, Body::Memset(memset))
}

fn sync(r: &[u8; synchronization::PREFIX]) -> Decoded {
    let Some((start, end)) = interval(
        u64_at::<{ synchronization::START }, _>(r),
        u64_at::<{ synchronization::END }, _>(r),
    ) else {
        return Decoded::NoTime;
    };
    let sync = Sync {
        kind: match u32_at::<{ synchronization::SYNC_TYPE }, _>(r) {
            sync_type::EVENT_SYNCHRONIZE => SyncKind::Event,
            sync_type::STREAM_WAIT_EVENT => SyncKind::StreamWait,
            sync_type::STREAM_SYNCHRONIZE => SyncKind::Stream,
            sync_type::CONTEXT_SYNCHRONIZE => SyncKind::Context,
            _ => SyncKind::Other,
        },
        context: u32_at::<{ synchronization::CONTEXT_ID }, _>(r),
        stream: u32_at::<{ synchronization::STREAM_ID }, _>(r),
        correlation: u32_at::<{ synchronization::CORRELATION_ID }, _>(r),
        start,
        end,
    };
    Decoded::Event(end, Body::Sync(sync))
}

fn memory_record(r: &[u8; memory2::PREFIX], is_free: bool) -> Body {
    Body::MemoryRecord(MemoryRecord {
        device: DeviceIndex(u32_at::<{ memory2::DEVICE_ID }, _>(r)),
        is_free,
        memory_kind: u32_at::<{ memory2::MEMORY_KIND }, _>(r),
        address: u64_at::<{ memory2::ADDRESS }, _>(r),
        bytes: Bytes(u64_at::<{ memory2::BYTES }, _>(r)),
        correlation: u32_at::<{ memory2::CORRELATION_ID }, _>(r),
    })
}

/// The record as what the callbacks would have said. Arrays, pageable and static memory have no
/// family in the ledger and stay cross-check records.
fn ledger_entry(
    r: &[u8; memory2::PREFIX],
    is_free: bool,
    time: Nanos,
    outside: &mut Outside<'_>,
) -> Decoded {
    let pooled = u32_at::<{ memory2::POOL_TYPE }, _>(r) != pool_type::INVALID;
    let (kind, free_kind) = match u32_at::<{ memory2::MEMORY_KIND }, _>(r) {
        memory_kind::DEVICE if pooled => (AllocKind::PoolUsed, FreeKind::PoolUsed),
        memory_kind::DEVICE => (AllocKind::Device, FreeKind::Device),
        memory_kind::MANAGED => (AllocKind::Managed, FreeKind::Device),
        memory_kind::PINNED => (AllocKind::PinnedHost, FreeKind::PinnedHost),
        _ => return Decoded::Event(time, memory_record(r, is_free)),
    };
    let address = u64_at::<{ memory2::ADDRESS }, _>(r);
    if is_free {
        let token = (outside.next_token)();
        for body in [
            Body::FreeEntered { address, kind: free_kind, token },
            Body::FreeReturned { token, succeeded: true },
        ] {
            (outside.on_event)(&Event { time, seen_by: SeenBy::Activity, body });
        }
        return Decoded::Done;
    }
    let allocation = Allocation {
        device: DeviceIndex(u32_at::<{ memory2::DEVICE_ID }, _>(r)),
        context: u32_at::<{ memory2::CONTEXT_ID }, _>(r),
        kind,
        address,
        bytes: Bytes(u64_at::<{ memory2::BYTES }, _>(r)),
        stream: u64::from(u32_at::<{ memory2::STREAM_ID }, _>(r)),
        pool: if pooled { u64_at::<{ memory2::POOL_ADDRESS }, _>(r) } else { 0 },
        // Records come from another thread, later: whose tag was in force is not known.
        tag: Tag::Untagged,
    };
    Decoded::Event(time, Body::Allocated(allocation))
}

/// Ids of the names met in this buffer, by address: reading and interning a mangled C++ name costs
/// several times what the rest of a record does. A collision only costs that again.
#[derive(Debug)]
struct NameCache {
    entries: Box<[(u64, NameId)]>,
}

impl NameCache {
    /// A serving process runs some tens to hundreds of distinct kernels in a buffer's time.
    const ENTRIES: usize = 512;

    fn new() -> Self {
        Self { entries: vec![(0, NameId::OTHER); Self::ENTRIES].into() }
    }

    fn forget(&mut self) {
        self.entries.fill((0, NameId::OTHER));
    }

    fn id(&mut self, address: u64, name_at: &mut dyn FnMut(u64) -> NameId) -> NameId {
        // Fibonacci hashing: addresses differ in their low and middle bits, the product's top ones
        // depend on all of them.
        let hash = (address >> 3).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let slot = (hash >> 55) as usize;
        match self.entries.get_mut(slot) {
            Some((known, id)) if *known == address && address != 0 => *id,
            Some(entry) => {
                let id = name_at(address);
                *entry = (address, id);
                id
            }
            None => name_at(address),
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
