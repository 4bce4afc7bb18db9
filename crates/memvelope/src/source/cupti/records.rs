//! What stands in a record: one function a kind, from bytes to an event's body.

use super::correlate::Correlations;
use super::decode::Outside;
use super::ranges::{Open, Ranges};
use crate::event::{
    AllocKind, Allocation, ApiCall, Body, Copied, DeviceIndex, Direction, Event, FreeKind,
    GraphLaunch, Kernel, LibraryId, MemoryRecord, Memset, NameId, Overhead, OverheadKind,
    PoolChange, PoolRecord, ScopeId, SeenBy, Span, SpanOrigin, Sync, SyncKind, Tag,
};
use crate::units::{Bytes, Nanos};
use cupti_sys::layout::{
    api, graph_trace, kernel, marker, memcpy, memcpy2, memory_pool, memory2, memset, overhead,
    synchronization,
};
use cupti_sys::{
    copy_kind, marker_flag, memory_kind, object_kind, overhead_kind, pool_operation, pool_type,
    sync_type,
};

/// What became of one record.
pub(super) enum Decoded {
    /// Handed on where it stands: it is a hundred bytes long.
    Event(Event),
    /// Its events have been handed on, or are to come.
    Done,
    NoTime,
    Truncated,
    Unknown,
    /// A range's end without a begin, or a begin that found no room.
    Unpaired,
}

impl Decoded {
    #[inline(always)]
    pub(super) fn event(time: Nanos, body: Body) -> Self {
        Self::Event(Event { time, seen_by: SeenBy::Activity, body })
    }
}

pub(super) fn u32_at<const AT: usize, const N: usize>(record: &[u8; N]) -> u32 {
    const { assert!(AT + 4 <= N, "the field lies within the record") };
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[AT..AT + 4]);
    u32::from_ne_bytes(bytes)
}

pub(super) fn u64_at<const AT: usize, const N: usize>(record: &[u8; N]) -> u64 {
    const { assert!(AT + 8 <= N, "the field lies within the record") };
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[AT..AT + 8]);
    u64::from_ne_bytes(bytes)
}

/// A valid interval: CUPTI leaves zeroes where its timestamp buffers overflowed, and hands back
/// unfinished records (end = 0) on a forced flush.
pub(super) fn interval(start: u64, end: u64) -> Option<(Nanos, Nanos)> {
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

pub(super) fn copy(r: &[u8; memcpy::PREFIX], scopes: &mut Correlations) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ memcpy::START }, _>(r), u64_at::<{ memcpy::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let correlation = u32_at::<{ memcpy::CORRELATION_ID }, _>(r);
    let scope = scopes.scope_of(correlation);
    let copied = Copied {
        device: DeviceIndex(u32_at::<{ memcpy::DEVICE_ID }, _>(r)),
        graph: u32_at::<{ memcpy::GRAPH_ID }, _>(r),
        scope,
        stream: u32_at::<{ memcpy::STREAM_ID }, _>(r),
        direction: direction(r[memcpy::COPY_KIND]),
        bytes: Bytes(u64_at::<{ memcpy::BYTES }, _>(r)),
        correlation,
        start,
        end,
    };
    Decoded::event(end, Body::Copy(copied))
}

pub(super) fn peer_copy(r: &[u8; memcpy2::PREFIX], scopes: &mut Correlations) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ memcpy2::START }, _>(r), u64_at::<{ memcpy2::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let correlation = u32_at::<{ memcpy2::CORRELATION_ID }, _>(r);
    let scope = scopes.scope_of(correlation);
    let copied = Copied {
        device: DeviceIndex(u32_at::<{ memcpy2::DEVICE_ID }, _>(r)),
        graph: u32_at::<{ memcpy2::GRAPH_ID }, _>(r),
        scope,
        stream: u32_at::<{ memcpy2::STREAM_ID }, _>(r),
        direction: Direction::PeerToPeer,
        bytes: Bytes(u64_at::<{ memcpy2::BYTES }, _>(r)),
        correlation,
        start,
        end,
    };
    Decoded::event(end, Body::Copy(copied))
}

pub(super) fn set(r: &[u8; memset::PREFIX], scopes: &mut Correlations) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ memset::START }, _>(r), u64_at::<{ memset::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let correlation = u32_at::<{ memset::CORRELATION_ID }, _>(r);
    let scope = scopes.scope_of(correlation);
    let memset = Memset {
        graph: u32_at::<{ memset::GRAPH_ID }, _>(r),
        scope,
        device: DeviceIndex(u32_at::<{ memset::DEVICE_ID }, _>(r)),
        stream: u32_at::<{ memset::STREAM_ID }, _>(r),
        bytes: Bytes(u64_at::<{ memset::BYTES }, _>(r)),
        correlation,
        start,
        end,
    };
    Decoded::event(end, Body::Memset(memset))
}

pub(super) fn sync(r: &[u8; synchronization::PREFIX]) -> Decoded {
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
    Decoded::event(end, Body::Sync(sync))
}

pub(super) fn memory_record(r: &[u8; memory2::PREFIX], is_free: bool) -> Body {
    // Of an imported pool the record has the process in place of the size, and its bytes are
    // another's.
    let is_local = u32_at::<{ memory2::POOL_TYPE }, _>(r) == pool_type::LOCAL;
    Body::MemoryRecord(MemoryRecord {
        device: DeviceIndex(u32_at::<{ memory2::DEVICE_ID }, _>(r)),
        is_free,
        memory_kind: u32_at::<{ memory2::MEMORY_KIND }, _>(r),
        address: u64_at::<{ memory2::ADDRESS }, _>(r),
        bytes: Bytes(u64_at::<{ memory2::BYTES }, _>(r)),
        correlation: u32_at::<{ memory2::CORRELATION_ID }, _>(r),
        pool: if is_local { u64_at::<{ memory2::POOL_ADDRESS }, _>(r) } else { 0 },
        pool_bytes: is_local.then(|| Bytes(u64_at::<{ memory2::POOL_SIZE }, _>(r))),
    })
}

/// The record as what the callbacks would have said. Arrays, pageable and static memory have no
/// family in the ledger and stay cross-check records.
pub(super) fn ledger_entry(
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
        _ => return Decoded::event(time, memory_record(r, is_free)),
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
        library: LibraryId::UNKNOWN,
    };
    Decoded::event(time, Body::Allocated(allocation))
}

pub(super) fn kernel(
    r: &[u8; kernel::PREFIX],
    name: impl FnOnce(u64) -> Option<NameId>,
    scopes: &mut Correlations,
) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ kernel::START }, _>(r), u64_at::<{ kernel::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let Some(name) = name(u64_at::<{ kernel::NAME }, _>(r)) else { return Decoded::Truncated };
    let correlation = u32_at::<{ kernel::CORRELATION_ID }, _>(r);
    Decoded::event(
        end,
        Body::Kernel(Kernel {
            device: DeviceIndex(u32_at::<{ kernel::DEVICE_ID }, _>(r)),
            context: u32_at::<{ kernel::CONTEXT_ID }, _>(r),
            stream: u32_at::<{ kernel::STREAM_ID }, _>(r),
            name,
            correlation,
            graph: u32_at::<{ kernel::GRAPH_ID }, _>(r),
            graph_node: u64_at::<{ kernel::GRAPH_NODE_ID }, _>(r),
            scope: scopes.scope_of(correlation),
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
            local_per_thread: u32_at::<{ kernel::LOCAL_PER_THREAD }, _>(r),
            local_bytes: Bytes(u64_at::<{ kernel::LOCAL_BYTES }, _>(r)),
        }),
    )
}

pub(super) fn graph(r: &[u8; graph_trace::PREFIX], scopes: &mut Correlations) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ graph_trace::START }, _>(r), u64_at::<{ graph_trace::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let correlation = u32_at::<{ graph_trace::CORRELATION_ID }, _>(r);
    let launch = GraphLaunch {
        device: DeviceIndex(u32_at::<{ graph_trace::DEVICE_ID }, _>(r)),
        context: u32_at::<{ graph_trace::CONTEXT_ID }, _>(r),
        stream: u32_at::<{ graph_trace::STREAM_ID }, _>(r),
        graph: u32_at::<{ graph_trace::GRAPH_ID }, _>(r),
        correlation,
        scope: scopes.scope_of(correlation),
        start,
        end,
    };
    Decoded::event(end, Body::GraphLaunch(launch))
}

pub(super) fn api_call(r: &[u8; api::PREFIX], is_runtime: bool) -> Decoded {
    let Some((start, end)) = interval(u64_at::<{ api::START }, _>(r), u64_at::<{ api::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let call = ApiCall {
        cbid: u32_at::<{ api::CBID }, _>(r),
        is_runtime,
        thread: u32_at::<{ api::THREAD_ID }, _>(r),
        correlation: u32_at::<{ api::CORRELATION_ID }, _>(r),
        result: u32_at::<{ api::RETURN_VALUE }, _>(r),
        start,
        end,
    };
    Decoded::event(end, Body::ApiCall(call))
}

pub(super) fn overhead(r: &[u8; overhead::PREFIX]) -> Decoded {
    let Some((start, end)) =
        interval(u64_at::<{ overhead::START }, _>(r), u64_at::<{ overhead::END }, _>(r))
    else {
        return Decoded::NoTime;
    };
    let kind = match u32_at::<{ overhead::OVERHEAD_KIND }, _>(r) {
        overhead_kind::DRIVER_COMPILER => OverheadKind::DriverCompiler,
        overhead_kind::CUPTI_BUFFER_FLUSH => OverheadKind::BufferFlush,
        overhead_kind::CUPTI_INSTRUMENTATION => OverheadKind::Instrumentation,
        overhead_kind::CUPTI_RESOURCE => OverheadKind::Resource,
        overhead_kind::RUNTIME_TRIGGERED_MODULE_LOADING => OverheadKind::ModuleLoading,
        overhead_kind::LAZY_FUNCTION_LOADING => OverheadKind::LazyLoading,
        overhead_kind::COMMAND_BUFFER_FULL => OverheadKind::CommandBufferFull,
        overhead_kind::ACTIVITY_BUFFER_REQUEST => OverheadKind::BufferRequest,
        overhead_kind::UVM_ACTIVITY_INIT => OverheadKind::UvmInit,
        _ => OverheadKind::Other,
    };
    Decoded::event(end, Body::Overhead(Overhead { kind, start, end }))
}

pub(super) fn pool(r: &[u8; memory_pool::PREFIX]) -> Decoded {
    let time = Nanos(u64_at::<{ memory_pool::TIMESTAMP }, _>(r));
    if time == Nanos::ZERO {
        return Decoded::NoTime;
    }
    let record = PoolRecord {
        device: DeviceIndex(u32_at::<{ memory_pool::DEVICE_ID }, _>(r)),
        change: match u32_at::<{ memory_pool::OPERATION }, _>(r) {
            pool_operation::CREATED => PoolChange::Created,
            pool_operation::DESTROYED => PoolChange::Destroyed,
            pool_operation::TRIMMED => PoolChange::Trimmed,
            _ => PoolChange::Other,
        },
        pool: u64_at::<{ memory_pool::ADDRESS }, _>(r),
        reserved: Bytes(u64_at::<{ memory_pool::SIZE }, _>(r)),
        used: Bytes(u64_at::<{ memory_pool::UTILIZED_SIZE }, _>(r)),
        correlation: u32_at::<{ memory_pool::CORRELATION_ID }, _>(r),
    };
    Decoded::event(time, Body::PoolRecord(record))
}

/// A marker; its range becomes a span once both ends are known.
pub(super) fn marker(
    r: &[u8; marker::PREFIX],
    name: impl FnOnce(u64) -> Option<NameId>,
    ranges: &mut Ranges,
) -> Decoded {
    let time = Nanos(u64_at::<{ marker::TIMESTAMP }, _>(r));
    if time == Nanos::ZERO {
        return Decoded::NoTime;
    }
    let thread = match u32_at::<{ marker::OBJECT_KIND }, _>(r) {
        // The object id of a thread: its process, then the thread.
        object_kind::THREAD => u32_at::<{ marker::OBJECT_ID + 4 }, _>(r),
        _ => 0,
    };
    let (flags, id) = (u32_at::<{ marker::FLAGS }, _>(r), u32_at::<{ marker::ID }, _>(r));
    let span = |name, start, thread| {
        Body::Span(Span {
            name,
            origin: SpanOrigin::Nvtx,
            thread,
            scope: ScopeId::NONE,
            start,
            end: time,
        })
    };
    let name = |at| name(u64_at::<{ marker::NAME }, _>(at));
    if flags & marker_flag::END != 0 {
        return match ranges.end(id) {
            Some(open) if open.start <= time => {
                Decoded::event(time, span(open.name, open.start, open.thread))
            }
            Some(_) => Decoded::NoTime,
            None => Decoded::Unpaired,
        };
    }
    let Some(name) = name(r) else { return Decoded::Truncated };
    if flags & marker_flag::START != 0 {
        let is_kept = ranges.begin(id, Open { name, start: time, thread });
        return if is_kept { Decoded::Done } else { Decoded::Unpaired };
    }
    Decoded::event(time, span(name, time, thread))
}
