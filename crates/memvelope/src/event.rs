//! The closed event enum: all that sources can say, and all that ledger and timeline hear.
//!
//! An event is a small `Copy` value with a time and an origin. Adding a variant to [`Body`] makes
//! the compiler list everyone who must care, because nobody matches it with a wildcard.
//!
//! **The recorder's clock.** Times are nanoseconds on the clock CUPTI stamps its records with:
//! `CLOCK_REALTIME` since the Unix epoch on a real driver, the virtual clock (since its own start)
//! on the simulated one. Sources that stamp events themselves read the same clock.

use crate::units::{Bytes, Nanos};
use serde::{Deserialize, Serialize};

mod library;
mod memory;
mod names;
mod scope;
mod tag;
mod work;

pub use library::{Libraries, LibraryId};
pub use memory::{
    AllocKind, Allocation, AllocationFailure, FreeKind, Growth, GrowthCause, MemoryRecord,
};
pub use names::{NameId, Names};
pub use scope::{ParseTraceparent, Scope, ScopeId, Scopes, TraceContext, unread_traceparents};
pub(crate) use tag::look_elsewhere;
pub use tag::{ParseTag, Tag, TagGuard, Tagged, current_tag, own_tag, replace_tag, tagged};
pub use work::{
    ApiCall, CallKind, Copied, Direction, DriverCall, GraphLaunch, Kernel, Memset, Overhead,
    OverheadKind, PoolChange, PoolRecord, Span, SpanOrigin, Sync, SyncKind,
};

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// When, on the recorder's clock. For bodies with a start and an end: the end.
    pub time: Nanos,
    /// Who saw it.
    pub seen_by: SeenBy,
    /// What it was.
    pub body: Body,
}

/// Which source saw an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenBy {
    /// A CUPTI activity record, decoded some time after the fact.
    Activity,
    /// A CUPTI driver-API callback, on the calling thread while the call was made.
    Callback,
    /// A periodic question to the driver, NVML or the cgroup.
    Poll,
    /// The host program itself, through our API.
    Host,
}

/// A device as this process sees it: its CUDA ordinal. The UUID is in the snapshot.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct DeviceIndex(pub u32);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Body {
    /// Physical bytes (or, for [`AllocKind::PoolUsed`], bytes inside a pool) were handed out.
    Allocated(Allocation),
    /// An allocation call returned an error.
    AllocationFailed(AllocationFailure),
    /// A free call was entered: the entry leaves the ledger now, before the address can be reused.
    FreeEntered {
        /// What is being freed: the address (for VMM the handle).
        address: u64,
        /// Which family the freeing call belongs to.
        kind: FreeKind,
        /// Unique per call within the process; repeated by the matching [`Body::FreeReturned`].
        token: u64,
    },
    /// That free call returned; on failure the entry is put back.
    FreeReturned {
        /// Token of the matching [`Body::FreeEntered`].
        token: u64,
        /// Whether the driver said success.
        succeeded: bool,
    },
    /// A VMM handle was mapped at an address range: a view, no new bytes.
    Mapped {
        /// The VMM allocation handle.
        handle: u64,
        /// First address of the mapping.
        address: u64,
        /// Length of the mapping.
        bytes: Bytes,
    },
    /// A range was unmapped.
    Unmapped {
        /// First address of the range.
        address: u64,
        /// Length of the range.
        bytes: Bytes,
    },
    /// One more reference to a VMM handle (`cuMemRetainAllocationHandle`): it takes one more release.
    Retained {
        /// The VMM allocation handle.
        handle: u64,
        /// The address by which it was asked for, inside a mapping.
        address: u64,
    },
    /// A VMM allocation was exported as a file descriptor, which keeps the bytes while it is open.
    Exported {
        /// The VMM allocation handle.
        handle: u64,
        /// The descriptor in this process.
        descriptor: i32,
    },
    /// A descriptor of an export is closed in this process. Copies of it elsewhere may keep the
    /// bytes: they are then charged to whoever holds them.
    ExportClosed {
        /// The descriptor.
        descriptor: i32,
    },
    /// A handle was made of a descriptor that this process exported itself: until it and its mappings
    /// are gone, it keeps the bytes of what was exported. Comes after its [`Body::Allocated`].
    Imported {
        /// The handle, of [`AllocKind::ImportedHandle`].
        handle: u64,
        /// The descriptor in this process.
        descriptor: i32,
    },
    /// A VMM allocation was bound to a multicast object, which keeps the bytes.
    Bound {
        /// The multicast handle.
        multicast: u64,
        /// The VMM allocation handle; 0 where it was bound by address.
        handle: u64,
        /// The address, inside a mapping; 0 where it was bound by handle.
        address: u64,
        /// The device whose memory it is.
        device: DeviceIndex,
        /// Where in the multicast object.
        offset: u64,
        /// Length of the binding.
        bytes: Bytes,
    },
    /// A binding of a multicast object ended.
    Unbound {
        /// The multicast handle.
        multicast: u64,
        /// The device whose memory it was.
        device: DeviceIndex,
        /// Where in the multicast object.
        offset: u64,
        /// Length of the binding.
        bytes: Bytes,
    },
    /// A stream-ordered pool was made.
    PoolCreated {
        /// Its device; pools in host memory are not told.
        device: DeviceIndex,
        /// The driver's pool handle.
        pool: u64,
    },
    /// A stream-ordered pool is about to be destroyed: its handle is asked no more. What was
    /// allocated from it stays until it is freed, and with the last of it goes what it reserved.
    PoolDestroyed {
        /// The driver's pool handle.
        pool: u64,
    },
    /// The call that was to destroy a pool returned.
    PoolDestroyReturned {
        /// The driver's pool handle.
        pool: u64,
        /// Whether it is destroyed; else it is what it was before.
        succeeded: bool,
    },
    /// A context took or gave back memory for itself, and we know when: it was measured around the
    /// call that did it.
    ContextGrew(Growth),
    /// A context is gone with everything allocated in it.
    ContextDestroyed {
        /// Its device.
        device: DeviceIndex,
        /// CUPTI's context id, unique within the process.
        context: u32,
    },
    /// A kernel ran.
    Kernel(Kernel),
    /// A copy ran.
    Copy(Copied),
    /// A memset ran.
    Memset(Memset),
    /// The host waited in a synchronising call.
    Sync(Sync),
    /// CUPTI's own record of an allocation or free (MEMORY2): a cross-check, never a second entry.
    MemoryRecord(MemoryRecord),
    /// CUPTI's own record of a change of a stream-ordered pool.
    PoolRecord(PoolRecord),
    /// A graph ran, recorded as a whole.
    GraphLaunch(GraphLaunch),
    /// A launching call of the host, recorded because scopes were open.
    ApiCall(ApiCall),
    /// Host time that CUPTI or the driver took for itself.
    Overhead(Overhead),
    /// Host time in an allocation-family call.
    DriverCall(DriverCall),
    /// A span of host time that the program named itself.
    Span(Span),
    /// What a stream-ordered pool holds.
    Pool {
        /// Device of the pool.
        device: DeviceIndex,
        /// The driver's pool handle.
        pool: u64,
        /// Physical bytes the pool took from the device.
        reserved: Bytes,
        /// Bytes of it handed out.
        used: Bytes,
    },
    /// What graphs hold on a device for the allocations inside of them.
    GraphMemory {
        /// The device.
        device: DeviceIndex,
        /// Physical bytes taken for graphs (`CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT`).
        reserved: Bytes,
        /// Bytes of it in use (`CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT`).
        used: Bytes,
    },
    /// What the device plane says, as `cuMemGetInfo` tells this process.
    DeviceMemory {
        /// The device.
        device: DeviceIndex,
        /// Usable total.
        total: Bytes,
        /// Free, for all processes together; not guaranteed allocatable.
        free: Bytes,
    },
    /// What NVML says about a device and about this process on it.
    DeviceUse {
        /// The device.
        device: DeviceIndex,
        /// Used by all processes, driver reserve apart.
        used: Bytes,
        /// Reserved by driver and firmware; `None` if the driver does not tell it apart.
        reserved: Option<Bytes>,
        /// Used by this process; `None` if NVML does not list it (containers, WSL, MIG), or was
        /// not asked this time: its list of processes takes the driver's global lock.
        process_used: Option<Bytes>,
        /// Used by the other processes that NVML lists, together; `None` likewise.
        others: Option<Bytes>,
        /// Of the others, those whose bytes NVML does not tell.
        others_untold: u32,
    },
    /// What the cgroup says about host RAM.
    HostMemory {
        /// The limit; `None` without one.
        limit: Option<Bytes>,
        /// Current use.
        current: Bytes,
        /// Highest use so far, where the kernel keeps it.
        peak: Option<Bytes>,
        /// OOM kills counted by the cgroup.
        oom_kills: u64,
    },
    /// Something was lost.
    Dropped {
        /// Why.
        reason: DropReason,
        /// How many.
        count: u64,
    },
}

/// Why something was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum DropReason {
    /// CUPTI said so itself (`cuptiActivityGetNumDroppedRecords`).
    CuptiDropped,
    /// No buffer was free in the arena; the records of that period are lost.
    ArenaExhausted,
    /// The queue to the drain thread was full; a whole buffer went undecoded.
    QueueFull,
    /// A record could not be stepped over; the rest of its buffer is unread.
    BadRecord,
    /// A record came without valid timestamps.
    BadTimestamp,
    /// The table of live allocations is at its limit.
    LedgerFull,
    /// The table of names is at its limit; such kernels count under [`NameId::OTHER`].
    NamesFull,
    /// A trace event was left out by sampling.
    TraceSampled,
    /// A scope was forgotten before its work was decoded: the work counts without its trace id.
    ScopeForgotten,
    /// Work launched inside a scope whose id CUPTI told too late, or not at all.
    Uncorrelated,
    /// A marked range (NVTX) whose begin or end was not seen.
    RangeUnpaired,
    /// Events stamped before the recording began: another recording's.
    BeforeAttach,
}

impl DropReason {
    /// Every reason, in the order of its discriminants.
    pub const ALL: [Self; 12] = [
        Self::CuptiDropped,
        Self::ArenaExhausted,
        Self::QueueFull,
        Self::BadRecord,
        Self::BadTimestamp,
        Self::LedgerFull,
        Self::NamesFull,
        Self::TraceSampled,
        Self::ScopeForgotten,
        Self::Uncorrelated,
        Self::RangeUnpaired,
        Self::BeforeAttach,
    ];
}

/// Where events go. Implemented by `runtime`, called by `source`.
///
/// `accept` runs inside CUDA calls of the host program: it must not call back into CUDA, CUPTI or
/// Python, must not do I/O, and may hold no lock but the ledger's own leaf lock.
pub trait Sink: Send + std::marker::Sync {
    /// Takes one event.
    fn accept(&self, event: &Event);

    /// What was seen to be taken of a device so far; `None` where nobody counts. May take the
    /// ledger's own leaf lock and no other.
    fn seen(&self, device: DeviceIndex) -> Option<Seen> {
        let _ = device;
        None
    }
}

/// What was seen to be taken of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Physical bytes of allocations in whole pages, and what contexts took. Without what pools and
    /// graphs hold: that is told at other times than it moves.
    pub bytes: i64,
    /// Allocations and frees so far: where two such numbers are equal, there were none in between.
    pub turnover: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stay_small() {
        // They travel by value through queues; two cache lines is the limit.
        assert!(std::mem::size_of::<Event>() <= 128, "{}", std::mem::size_of::<Event>());
    }
}
