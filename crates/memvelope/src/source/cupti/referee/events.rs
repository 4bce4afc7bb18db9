//! What the decoder must make of each record, by what C reads in it: our events said a second time.

use super::reader::Fields;
use crate::event::{
    AllocKind, Allocation, ApiCall, Body, Copied, DeviceIndex, Direction, Event, FreeKind,
    GraphLaunch, Kernel, MemoryRecord, Memset, NameId, Overhead, OverheadKind, PoolChange,
    PoolRecord, ScopeId, SeenBy, Span, SpanOrigin, Sync, SyncKind, Tag,
};
use crate::source::cupti::correlate::Correlations;
use crate::source::cupti::decode::MemoryRecords;
use crate::source::cupti::ranges::{Open, Ranges};
use crate::units::{Bytes, Nanos};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// What must become of one record.
#[derive(Debug, PartialEq)]
pub(super) enum Expect {
    /// These events, or none yet.
    Events(Vec<Event>),
    /// These events, at a time that is not the record's own; it counts as without a time.
    Timeless(Vec<Body>),
    /// Nothing: it has no valid time.
    NoTime,
    /// Nothing: its name cannot be read.
    Unreadable,
    /// Nothing: not a record that we know.
    Unknown,
    /// Nothing: the end of a range that never began.
    Unpaired,
}

/// What is remembered from record to record. The tables are the decoder's own, which have their own
/// tests; here they are fed by what C reads.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) names: RefCell<HashMap<u64, NameId>>,
    scopes: RefCell<Correlations>,
    ranges: RefCell<Ranges>,
}

/// One record as C sees it.
pub(super) struct Seen<'a> {
    pub(super) fields: &'a Fields,
    pub(super) constants: &'a HashMap<String, u64>,
    pub(super) memory_records: MemoryRecords,
    pub(super) memory: &'a Memory,
    /// What the decoder is given as the token of this record's free call.
    pub(super) token: u64,
    /// Fields that were looked at.
    pub(super) used: RefCell<BTreeSet<&'static str>>,
}

impl Seen<'_> {
    fn u64(&self, name: &'static str) -> u64 {
        self.used.borrow_mut().insert(name);
        self.fields[name]
    }

    fn u32(&self, name: &'static str) -> u32 {
        u32::try_from(self.u64(name)).unwrap_or_else(|_| panic!("{name} is wider than 32 bits"))
    }

    fn device(&self) -> DeviceIndex {
        DeviceIndex(self.u32("deviceId"))
    }

    /// Whether a field has the value of a C constant.
    fn is(&self, name: &'static str, constant: &str) -> bool {
        self.u64(name) == self.constants[constant]
    }

    /// Whether a field has the bit of a C constant.
    fn has(&self, name: &'static str, constant: &str) -> bool {
        self.u64(name) & self.constants[constant] != 0
    }

    /// What the field's value means, by C's constants.
    fn meaning<T: Copy>(&self, name: &'static str, table: &[(&str, T)], other: T) -> T {
        let found = table.iter().find(|(constant, _)| self.is(name, constant));
        found.map_or(other, |(_, meaning)| *meaning)
    }

    /// The id that the decoder was given for this name, if the name can be read.
    fn name(&self) -> Option<NameId> {
        let address = self.u64("name");
        let known = self.memory.names.borrow().get(&address).copied();
        // One that nobody has, where the decoder never asked.
        (address != super::rows::UNREADABLE).then(|| known.unwrap_or(NameId(u32::MAX)))
    }

    /// The scope of the call that launched this.
    fn scope(&self) -> ScopeId {
        self.memory.scopes.borrow_mut().scope_of(self.u32("correlationId"))
    }

    /// What is learned from a record before any of its buffer is decoded.
    pub(super) fn learn(&self) {
        if self.is("externalKind", "CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2") {
            let scope = ScopeId(self.u64("externalId"));
            self.memory.scopes.borrow_mut().learn(self.u32("correlationId"), scope);
        }
    }

    /// A valid start and end.
    fn times(&self) -> Option<(Nanos, Nanos)> {
        let (start, end) = (Nanos(self.u64("start")), Nanos(self.u64("end")));
        (start != Nanos(0) && end >= start).then_some((start, end))
    }

    /// The one event of a record with a start and an end.
    fn interval(&self, body: impl Fn(Nanos, Nanos) -> Body) -> Expect {
        self.times().map_or(Expect::NoTime, |(start, end)| event(end, body(start, end)))
    }
}

fn event(time: Nanos, body: Body) -> Expect {
    Expect::Events(vec![Event { time, seen_by: SeenBy::Activity, body }])
}

pub(super) fn kernel(seen: &Seen<'_>) -> Expect {
    let Some((start, end)) = seen.times() else { return Expect::NoTime };
    let Some(name) = seen.name() else { return Expect::Unreadable };
    let kernel = Kernel {
        device: seen.device(),
        context: seen.u32("contextId"),
        stream: seen.u32("streamId"),
        name,
        correlation: seen.u32("correlationId"),
        graph: seen.u32("graphId"),
        graph_node: seen.u64("graphNodeId"),
        scope: seen.scope(),
        start,
        end,
        grid: ["gridX", "gridY", "gridZ"].map(|name| seen.u32(name)),
        block: ["blockX", "blockY", "blockZ"].map(|name| seen.u32(name)),
        local_per_thread: seen.u32("localMemoryPerThread"),
        local_bytes: Bytes(seen.u64("localMemoryTotal_v2")),
    };
    event(end, Body::Kernel(kernel))
}

fn copied(seen: &Seen<'_>, direction: impl Fn() -> Direction) -> Expect {
    seen.interval(|start, end| {
        Body::Copy(Copied {
            device: seen.device(),
            stream: seen.u32("streamId"),
            direction: direction(),
            bytes: Bytes(seen.u64("bytes")),
            correlation: seen.u32("correlationId"),
            graph: seen.u32("graphId"),
            scope: seen.scope(),
            start,
            end,
        })
    })
}

pub(super) fn copy(seen: &Seen<'_>) -> Expect {
    let table = [
        ("CUPTI_ACTIVITY_MEMCPY_KIND_HTOD", Direction::HostToDevice),
        ("CUPTI_ACTIVITY_MEMCPY_KIND_DTOH", Direction::DeviceToHost),
        ("CUPTI_ACTIVITY_MEMCPY_KIND_DTOD", Direction::DeviceToDevice),
        ("CUPTI_ACTIVITY_MEMCPY_KIND_HTOH", Direction::HostToHost),
        ("CUPTI_ACTIVITY_MEMCPY_KIND_PTOP", Direction::PeerToPeer),
    ];
    copied(seen, || seen.meaning("copyKind", &table, Direction::Other))
}

pub(super) fn peer_copy(seen: &Seen<'_>) -> Expect {
    copied(seen, || Direction::PeerToPeer)
}

pub(super) fn memset(seen: &Seen<'_>) -> Expect {
    seen.interval(|start, end| {
        Body::Memset(Memset {
            device: seen.device(),
            stream: seen.u32("streamId"),
            bytes: Bytes(seen.u64("bytes")),
            correlation: seen.u32("correlationId"),
            graph: seen.u32("graphId"),
            scope: seen.scope(),
            start,
            end,
        })
    })
}

pub(super) fn graph(seen: &Seen<'_>) -> Expect {
    seen.interval(|start, end| {
        Body::GraphLaunch(GraphLaunch {
            device: seen.device(),
            context: seen.u32("contextId"),
            stream: seen.u32("streamId"),
            graph: seen.u32("graphId"),
            correlation: seen.u32("correlationId"),
            scope: seen.scope(),
            start,
            end,
        })
    })
}

fn call(seen: &Seen<'_>, is_runtime: bool) -> Expect {
    seen.interval(|start, end| {
        Body::ApiCall(ApiCall {
            cbid: seen.u32("cbid"),
            is_runtime,
            thread: seen.u32("threadId"),
            correlation: seen.u32("correlationId"),
            result: seen.u32("returnValue"),
            start,
            end,
        })
    })
}

pub(super) fn driver_call(seen: &Seen<'_>) -> Expect {
    call(seen, false)
}

pub(super) fn runtime_call(seen: &Seen<'_>) -> Expect {
    call(seen, true)
}

pub(super) fn sync(seen: &Seen<'_>) -> Expect {
    let table = [
        ("CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE", SyncKind::Event),
        ("CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT", SyncKind::StreamWait),
        ("CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE", SyncKind::Stream),
        ("CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE", SyncKind::Context),
    ];
    seen.interval(|start, end| {
        Body::Sync(Sync {
            kind: seen.meaning("type", &table, SyncKind::Other),
            context: seen.u32("contextId"),
            stream: seen.u32("streamId"),
            correlation: seen.u32("correlationId"),
            start,
            end,
        })
    })
}

pub(super) fn overhead(seen: &Seen<'_>) -> Expect {
    let table = [
        ("CUPTI_ACTIVITY_OVERHEAD_DRIVER_COMPILER", OverheadKind::DriverCompiler),
        ("CUPTI_ACTIVITY_OVERHEAD_CUPTI_BUFFER_FLUSH", OverheadKind::BufferFlush),
        ("CUPTI_ACTIVITY_OVERHEAD_CUPTI_INSTRUMENTATION", OverheadKind::Instrumentation),
        ("CUPTI_ACTIVITY_OVERHEAD_CUPTI_RESOURCE", OverheadKind::Resource),
        ("CUPTI_ACTIVITY_OVERHEAD_RUNTIME_TRIGGERED_MODULE_LOADING", OverheadKind::ModuleLoading),
        ("CUPTI_ACTIVITY_OVERHEAD_LAZY_FUNCTION_LOADING", OverheadKind::LazyLoading),
        ("CUPTI_ACTIVITY_OVERHEAD_COMMAND_BUFFER_FULL", OverheadKind::CommandBufferFull),
        ("CUPTI_ACTIVITY_OVERHEAD_ACTIVITY_BUFFER_REQUEST", OverheadKind::BufferRequest),
        ("CUPTI_ACTIVITY_OVERHEAD_UVM_ACTIVITY_INIT", OverheadKind::UvmInit),
    ];
    seen.interval(|start, end| {
        let kind = seen.meaning("overheadKind", &table, OverheadKind::Other);
        Body::Overhead(Overhead { kind, start, end })
    })
}

/// Learned before ([`Seen::learn`]).
pub(super) fn external_correlation(_seen: &Seen<'_>) -> Expect {
    Expect::Events(Vec::new())
}

pub(super) fn pool(seen: &Seen<'_>) -> Expect {
    let table = [
        ("CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_CREATED", PoolChange::Created),
        ("CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_DESTROYED", PoolChange::Destroyed),
        ("CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_TRIMMED", PoolChange::Trimmed),
    ];
    let time = Nanos(seen.u64("timestamp"));
    if time == Nanos(0) {
        return Expect::NoTime;
    }
    let record = PoolRecord {
        device: seen.device(),
        change: seen.meaning("memoryPoolOperationType", &table, PoolChange::Other),
        pool: seen.u64("address"),
        reserved: Bytes(seen.u64("size")),
        used: Bytes(seen.u64("utilizedSize")),
        correlation: seen.u32("correlationId"),
    };
    event(time, Body::PoolRecord(record))
}

/// A mark is a span without length, and so is a range once its end has come.
pub(super) fn marker(seen: &Seen<'_>) -> Expect {
    let time = Nanos(seen.u64("timestamp"));
    if time == Nanos(0) {
        return Expect::NoTime;
    }
    let span = |open: Open| {
        let (origin, scope) = (SpanOrigin::Nvtx, ScopeId::NONE);
        let Open { name, start, thread } = open;
        event(time, Body::Span(Span { name, origin, thread, scope, start, end: time }))
    };
    let mut ranges = seen.memory.ranges.borrow_mut();
    if seen.has("flags", "CUPTI_ACTIVITY_FLAG_MARKER_END") {
        return match ranges.end(seen.u32("id")) {
            Some(open) if open.start <= time => span(open),
            Some(_) => Expect::NoTime,
            None => Expect::Unpaired,
        };
    }
    let Some(name) = seen.name() else { return Expect::Unreadable };
    let is_thread = seen.is("objectKind", "CUPTI_ACTIVITY_OBJECT_THREAD");
    let thread = if is_thread { seen.u32("objectId.pt.threadId") } else { 0 };
    let open = Open { name, start: time, thread };
    if !seen.has("flags", "CUPTI_ACTIVITY_FLAG_MARKER_START") {
        return span(open);
    }
    if ranges.begin(seen.u32("id"), open) { Expect::Events(Vec::new()) } else { Expect::Unpaired }
}

pub(super) fn memory(seen: &Seen<'_>) -> Expect {
    let operations = [
        ("CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION", Some(false)),
        ("CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE", Some(true)),
    ];
    let Some(is_free) = seen.meaning("memoryOperationType", &operations, None) else {
        return Expect::Unknown;
    };
    let bodies = match seen.memory_records {
        MemoryRecords::CrossCheck => vec![memory_record(seen, is_free)],
        MemoryRecords::Ledger => ledger_entries(seen, is_free),
    };
    match Nanos(seen.u64("timestamp")) {
        Nanos(0) => Expect::Timeless(bodies),
        time => {
            let event = |body| Event { time, seen_by: SeenBy::Activity, body };
            Expect::Events(bodies.into_iter().map(event).collect())
        }
    }
}

fn memory_record(seen: &Seen<'_>, is_free: bool) -> Body {
    let is_local =
        seen.is("memoryPoolConfig.memoryPoolType", "CUPTI_ACTIVITY_MEMORY_POOL_TYPE_LOCAL");
    Body::MemoryRecord(MemoryRecord {
        device: seen.device(),
        is_free,
        memory_kind: seen.u32("memoryKind"),
        address: seen.u64("address"),
        bytes: Bytes(seen.u64("bytes")),
        correlation: seen.u32("correlationId"),
        pool: if is_local { seen.u64("memoryPoolConfig.address") } else { 0 },
        pool_bytes: is_local.then(|| Bytes(seen.u64("memoryPoolConfig.pool.size"))),
    })
}

fn ledger_entries(seen: &Seen<'_>, is_free: bool) -> Vec<Body> {
    let pooled =
        !seen.is("memoryPoolConfig.memoryPoolType", "CUPTI_ACTIVITY_MEMORY_POOL_TYPE_INVALID");
    let device = if pooled {
        (AllocKind::PoolUsed, FreeKind::PoolUsed)
    } else {
        (AllocKind::Device, FreeKind::Device)
    };
    let families = [
        ("CUPTI_ACTIVITY_MEMORY_KIND_DEVICE", Some(device)),
        ("CUPTI_ACTIVITY_MEMORY_KIND_MANAGED", Some((AllocKind::Managed, FreeKind::Device))),
        ("CUPTI_ACTIVITY_MEMORY_KIND_PINNED", Some((AllocKind::PinnedHost, FreeKind::PinnedHost))),
    ];
    let Some((kind, free_kind)) = seen.meaning("memoryKind", &families, None) else {
        return vec![memory_record(seen, is_free)];
    };
    let address = seen.u64("address");
    if is_free {
        return vec![
            Body::FreeEntered { address, kind: free_kind, token: seen.token },
            Body::FreeReturned { token: seen.token, succeeded: true },
        ];
    }
    vec![Body::Allocated(Allocation {
        device: seen.device(),
        context: seen.u32("contextId"),
        kind,
        address,
        bytes: Bytes(seen.u64("bytes")),
        stream: seen.u64("streamId"),
        pool: if pooled { seen.u64("memoryPoolConfig.address") } else { 0 },
        tag: Tag::Untagged,
        library: crate::event::LibraryId::UNKNOWN,
    })]
}
