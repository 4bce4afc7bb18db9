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
use std::cell::Cell;
use std::sync::OnceLock;

mod names;
mod scope;
mod work;

pub use names::{NameId, Names};
pub use scope::{ParseTraceparent, Scope, ScopeId, Scopes, TraceContext};
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
        /// Used by this process; `None` if NVML does not list it (containers, WSL, MIG).
        process_used: Option<Bytes>,
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

/// Bytes handed out by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Device that holds the bytes (also for pinned memory: the current device of the call).
    pub device: DeviceIndex,
    /// CUPTI's context id of the call, 0 if unknown.
    pub context: u32,
    /// Which family.
    pub kind: AllocKind,
    /// Address; for [`AllocKind::Vmm`] the handle.
    pub address: u64,
    /// Requested size. Rounding by the driver is a term of its own.
    pub bytes: Bytes,
    /// Stream or 0.
    pub stream: u64,
    /// Pool handle for [`AllocKind::PoolUsed`], else 0.
    pub pool: u64,
    /// What the allocating code said it was for.
    pub tag: Tag,
}

/// An allocation call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocationFailure {
    /// Device of the call.
    pub device: DeviceIndex,
    /// Which family.
    pub kind: AllocKind,
    /// Requested size.
    pub bytes: Bytes,
    /// The driver's result code (`CUresult`); 2 is out of memory.
    pub result: u32,
    /// What the allocating code said it was for.
    pub tag: Tag,
}

/// Families of driver allocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum AllocKind {
    /// `cuMemAlloc`.
    Device,
    /// `cuMemAllocPitch`.
    Pitch,
    /// `cuMemAllocManaged`: may live on either side.
    Managed,
    /// `cuMemHostAlloc`, `cuMemAllocHost`: host plane.
    PinnedHost,
    /// `cuMemAllocAsync`, `cuMemAllocFromPoolAsync`: inside a pool's reserve, never added to it.
    PoolUsed,
    /// `cuMemCreate`: physical bytes behind a handle.
    Vmm,
}

impl AllocKind {
    /// Every kind, in the order of its discriminants.
    pub const ALL: [Self; 6] =
        [Self::Device, Self::Pitch, Self::Managed, Self::PinnedHost, Self::PoolUsed, Self::Vmm];

    /// Whether live bytes of this kind are physical VRAM to be summed. Pool suballocations are
    /// inside a reserve that is counted once by itself, pinned memory is host RAM.
    #[must_use]
    pub const fn counts_as_vram(self) -> bool {
        match self {
            Self::Device | Self::Pitch | Self::Managed | Self::Vmm => true,
            Self::PinnedHost | Self::PoolUsed => false,
        }
    }
}

/// Families of free calls; an address and a VMM handle may be the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreeKind {
    /// `cuMemFree`.
    Device,
    /// `cuMemFreeHost`.
    PinnedHost,
    /// `cuMemFreeAsync`.
    PoolUsed,
    /// `cuMemRelease`: the handle is dropped; the bytes go with the last mapping.
    Vmm,
}

/// What an allocation is for, as far as the allocating code said so with [`tagged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Tag {
    /// Nobody said.
    #[default]
    Untagged,
    /// Model weights.
    Weights,
    /// KV cache.
    KvCache,
    /// Activations and workspaces of the running step.
    Activations,
    /// Captured graphs.
    Graphs,
    /// Kept away from us on purpose, so that only a part of the device is used.
    Withheld,
}

impl Tag {
    /// Every tag, in the order of its discriminants.
    pub const ALL: [Self; 6] = [
        Self::Untagged,
        Self::Weights,
        Self::KvCache,
        Self::Activations,
        Self::Graphs,
        Self::Withheld,
    ];
}

thread_local! {
    // const-initialised and without a destructor: reading it in a driver callback neither
    // allocates nor touches a lock, even while the thread is being torn down.
    static CURRENT_TAG: Cell<Tag> = const { Cell::new(Tag::Untagged) };
}

/// Sets the tag in force in the copy of memvelope that records, if that is another one; returns the
/// former.
pub(crate) type ForwardTag = fn(Tag) -> Option<Tag>;

/// Set once by a copy that becomes the client of another.
static FORWARD: OnceLock<ForwardTag> = OnceLock::new();

/// From now on tags are also told to the copy that records.
pub(crate) fn forward_tags(forward: ForwardTag) {
    // A second time it is the same function.
    let _ = FORWARD.set(forward);
}

fn forwarded(tag: Tag) -> Option<Tag> {
    FORWARD.get().and_then(|forward| forward(tag))
}

/// Driver allocations made by this thread until the guard drops carry `tag`. Nests.
///
/// ```
/// use memvelope::event::{Tag, current_tag, tagged};
/// let outer = tagged(Tag::Weights);
/// assert_eq!(current_tag(), Tag::Weights);
/// drop(outer);
/// assert_eq!(current_tag(), Tag::Untagged);
/// ```
#[must_use = "the tag ends when the guard drops"]
pub fn tagged(tag: Tag) -> TagGuard {
    let before = set_current_tag(tag);
    TagGuard { before, forwarded: forwarded(tag), _not_send: std::marker::PhantomData }
}

/// The tag in force on this thread.
#[must_use]
pub fn current_tag() -> Tag {
    CURRENT_TAG.with(Cell::get)
}

/// Puts `tag` in force on this thread; returns the former.
pub(crate) fn set_current_tag(tag: Tag) -> Tag {
    CURRENT_TAG.with(|cell| cell.replace(tag))
}

/// Restores the former tag when dropped. Belongs to its thread.
#[derive(Debug)]
pub struct TagGuard {
    before: Tag,
    /// The former tag of the copy that records.
    forwarded: Option<Tag>,
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for TagGuard {
    fn drop(&mut self) {
        set_current_tag(self.before);
        if let Some(before) = self.forwarded {
            forwarded(before);
        }
    }
}

/// CUPTI's own record of a memory operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRecord {
    /// Device.
    pub device: DeviceIndex,
    /// Whether bytes were released rather than allocated.
    pub is_free: bool,
    /// `CUpti_ActivityMemoryKind`: 3 device, 4 array, 5 managed, 2 pinned.
    pub memory_kind: u32,
    /// Address.
    pub address: u64,
    /// Size.
    pub bytes: Bytes,
    /// Correlation id of the call.
    pub correlation: u32,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_nest() {
        let outer = tagged(Tag::Weights);
        {
            let _inner = tagged(Tag::KvCache);
            assert_eq!(current_tag(), Tag::KvCache);
        }
        assert_eq!(current_tag(), Tag::Weights);
        drop(outer);
        assert_eq!(current_tag(), Tag::Untagged);
    }

    #[test]
    fn events_stay_small() {
        // They travel by value through queues; two cache lines is the limit.
        assert!(std::mem::size_of::<Event>() <= 128, "{}", std::mem::size_of::<Event>());
    }
}
