//! One row for each kind of record: what C calls it, and which event its fields make.

use crate::event::{
    AllocKind, Allocation, Body, Copied, DeviceIndex, Direction, Event, FreeKind, Kernel,
    MemoryRecord, Memset, NameId, SeenBy, Sync, SyncKind, Tag,
};
use crate::source::cupti::decode::MemoryRecords;
use crate::units::{Bytes, Nanos};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// One kind of record.
#[derive(Debug)]
pub(super) struct Row {
    /// CUPTI's name, without `CUPTI_ACTIVITY_KIND_`.
    pub(super) name: &'static str,
    /// The newest struct, by the first version (major * 100 + minor) that has it.
    pub(super) structs: &'static [(u32, &'static str)],
    /// What the decoder must make of it; `None` for kinds that it does not read.
    pub(super) expect: Option<fn(&Seen<'_>) -> Expect>,
    /// Fields whose values are drawn from those that mean something, more often than not.
    pub(super) draw: &'static [(&'static str, &'static [u64])],
}

/// What must become of one record.
#[derive(Debug, PartialEq)]
pub(super) enum Expect {
    /// These events.
    Events(Vec<Event>),
    /// These events, at a time that is not the record's own; it counts as without a time.
    Timeless(Vec<Body>),
    /// Nothing: it has no valid time.
    NoTime,
    /// Nothing: not a record that we know.
    Unknown,
}

/// One record as C sees it.
pub(super) struct Seen<'a> {
    pub(super) fields: &'a HashMap<String, u64>,
    pub(super) constants: &'a HashMap<String, u64>,
    pub(super) memory_records: MemoryRecords,
    /// Ids of kernel names by address.
    pub(super) names: &'a HashMap<u64, NameId>,
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

    fn device(&self, name: &'static str) -> DeviceIndex {
        DeviceIndex(self.u32(name))
    }

    /// The id that the decoder was given for this name; one that nobody has if it never asked.
    fn name(&self, name: &'static str) -> NameId {
        self.names.get(&self.u64(name)).copied().unwrap_or(NameId(u32::MAX))
    }

    /// Whether a field has the value of a C constant.
    fn is(&self, name: &'static str, constant: &str) -> bool {
        self.u64(name) == self.constants[constant]
    }

    /// What the field's value means, by C's constants.
    fn meaning<T: Copy>(&self, name: &'static str, table: &[(&str, T)], other: T) -> T {
        let found = table.iter().find(|(constant, _)| self.is(name, constant));
        found.map_or(other, |(_, meaning)| *meaning)
    }

    /// The one event of a record with a start and an end.
    fn interval(&self, body: impl Fn(Nanos, Nanos) -> Body) -> Expect {
        let (start, end) = (Nanos(self.u64("start")), Nanos(self.u64("end")));
        if start == Nanos(0) || end < start {
            return Expect::NoTime;
        }
        Expect::Events(vec![event(end, body(start, end))])
    }

    /// The events of a record with one time.
    fn stamped(&self, bodies: Vec<Body>) -> Expect {
        match self.u64("timestamp") {
            0 => Expect::Timeless(bodies),
            time => {
                Expect::Events(bodies.into_iter().map(|body| event(Nanos(time), body)).collect())
            }
        }
    }
}

fn event(time: Nanos, body: Body) -> Event {
    Event { time, seen_by: SeenBy::Activity, body }
}

/// Constants that give numbers a meaning, by C name.
pub(super) const CONSTANTS: &[&str] = &[
    "CUPTI_ACTIVITY_MEMCPY_KIND_HTOD",
    "CUPTI_ACTIVITY_MEMCPY_KIND_DTOH",
    "CUPTI_ACTIVITY_MEMCPY_KIND_DTOD",
    "CUPTI_ACTIVITY_MEMCPY_KIND_HTOH",
    "CUPTI_ACTIVITY_MEMCPY_KIND_PTOP",
    "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE",
    "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT",
    "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE",
    "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE",
    "CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION",
    "CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE",
    "CUPTI_ACTIVITY_MEMORY_KIND_PINNED",
    "CUPTI_ACTIVITY_MEMORY_KIND_DEVICE",
    "CUPTI_ACTIVITY_MEMORY_KIND_MANAGED",
    "CUPTI_ACTIVITY_MEMORY_POOL_TYPE_INVALID",
];

/// Every kind that the layout table has.
pub(super) const ROWS: &[Row] = &[
    Row {
        name: "MEMCPY",
        structs: &[(1200, "CUpti_ActivityMemcpy5"), (1208, "CUpti_ActivityMemcpy6")],
        expect: Some(copy),
        draw: &[("copyKind", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255])],
    },
    Row {
        name: "MEMSET",
        structs: &[(1200, "CUpti_ActivityMemset4")],
        expect: Some(memset),
        draw: &[],
    },
    Row { name: "DRIVER", structs: &[(1200, "CUpti_ActivityAPI")], expect: None, draw: &[] },
    Row {
        name: "CONCURRENT_KERNEL",
        structs: &[
            (1200, "CUpti_ActivityKernel9"),
            (1300, "CUpti_ActivityKernel10"),
            (1301, "CUpti_ActivityKernel11"),
        ],
        expect: Some(kernel),
        draw: &[("name", &[0, 1, 0x7f00_0000_1000, 0x7f00_0000_2000, u64::MAX])],
    },
    Row {
        name: "OVERHEAD",
        structs: &[
            (1200, "CUpti_ActivityOverhead"),
            (1203, "CUpti_ActivityOverhead2"),
            (1204, "CUpti_ActivityOverhead3"),
        ],
        expect: None,
        draw: &[],
    },
    Row {
        name: "MEMCPY2",
        structs: &[(1200, "CUpti_ActivityMemcpyPtoP4")],
        expect: Some(peer_copy),
        draw: &[],
    },
    Row {
        name: "SYNCHRONIZATION",
        structs: &[
            (1200, "CUpti_ActivitySynchronization"),
            (1208, "CUpti_ActivitySynchronization2"),
        ],
        expect: Some(sync),
        draw: &[("type", &[0, 1, 2, 3, 4, 5, 0x7fff_ffff])],
    },
    Row {
        name: "EXTERNAL_CORRELATION",
        structs: &[(1200, "CUpti_ActivityExternalCorrelation")],
        expect: None,
        draw: &[],
    },
    Row {
        name: "MEMORY2",
        structs: &[(1200, "CUpti_ActivityMemory3"), (1206, "CUpti_ActivityMemory4")],
        expect: Some(memory),
        draw: &[
            ("memoryOperationType", &[1, 2]),
            ("memoryKind", &[0, 1, 2, 3, 4, 5, 6, 7]),
            ("memoryPoolConfig.memoryPoolType", &[0, 1, 2, 3]),
        ],
    },
    Row {
        name: "MEMORY_POOL",
        structs: &[(1200, "CUpti_ActivityMemoryPool2"), (1300, "CUpti_ActivityMemoryPool3")],
        expect: None,
        draw: &[],
    },
    Row {
        name: "GRAPH_TRACE",
        structs: &[(1200, "CUpti_ActivityGraphTrace"), (1203, "CUpti_ActivityGraphTrace2")],
        expect: None,
        draw: &[],
    },
];

fn kernel(seen: &Seen<'_>) -> Expect {
    seen.interval(|start, end| {
        Body::Kernel(Kernel {
            device: seen.device("deviceId"),
            context: seen.u32("contextId"),
            stream: seen.u32("streamId"),
            name: seen.name("name"),
            correlation: seen.u32("correlationId"),
            start,
            end,
            grid: ["gridX", "gridY", "gridZ"].map(|name| seen.u32(name)),
            block: ["blockX", "blockY", "blockZ"].map(|name| seen.u32(name)),
        })
    })
}

fn copied(seen: &Seen<'_>, direction: Direction) -> Expect {
    seen.interval(|start, end| {
        Body::Copy(Copied {
            device: seen.device("deviceId"),
            stream: seen.u32("streamId"),
            direction,
            bytes: Bytes(seen.u64("bytes")),
            correlation: seen.u32("correlationId"),
            start,
            end,
        })
    })
}

fn copy(seen: &Seen<'_>) -> Expect {
    let table = [
        ("CUPTI_ACTIVITY_MEMCPY_KIND_HTOD", Direction::HostToDevice),
        ("CUPTI_ACTIVITY_MEMCPY_KIND_DTOH", Direction::DeviceToHost),
        ("CUPTI_ACTIVITY_MEMCPY_KIND_DTOD", Direction::DeviceToDevice),
        ("CUPTI_ACTIVITY_MEMCPY_KIND_HTOH", Direction::HostToHost),
        ("CUPTI_ACTIVITY_MEMCPY_KIND_PTOP", Direction::PeerToPeer),
    ];
    copied(seen, seen.meaning("copyKind", &table, Direction::Other))
}

fn peer_copy(seen: &Seen<'_>) -> Expect {
    copied(seen, Direction::PeerToPeer)
}

fn memset(seen: &Seen<'_>) -> Expect {
    seen.interval(|start, end| {
        Body::Memset(Memset {
            device: seen.device("deviceId"),
            stream: seen.u32("streamId"),
            bytes: Bytes(seen.u64("bytes")),
            correlation: seen.u32("correlationId"),
            start,
            end,
        })
    })
}

fn sync(seen: &Seen<'_>) -> Expect {
    let table = [
        ("CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE", SyncKind::Event),
        ("CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT", SyncKind::StreamWait),
        ("CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE", SyncKind::Stream),
        ("CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE", SyncKind::Context),
    ];
    let kind = seen.meaning("type", &table, SyncKind::Other);
    seen.interval(|start, end| {
        Body::Sync(Sync {
            kind,
            context: seen.u32("contextId"),
            stream: seen.u32("streamId"),
            correlation: seen.u32("correlationId"),
            start,
            end,
        })
    })
}

fn memory(seen: &Seen<'_>) -> Expect {
    let table = [
        ("CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION", Some(false)),
        ("CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE", Some(true)),
    ];
    let Some(is_free) = seen.meaning("memoryOperationType", &table, None) else {
        return Expect::Unknown;
    };
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
    let address = seen.u64("address");
    match seen.meaning("memoryKind", &families, None) {
        Some((kind, _)) if seen.memory_records == MemoryRecords::Ledger && !is_free => seen
            .stamped(vec![Body::Allocated(Allocation {
                device: seen.device("deviceId"),
                context: seen.u32("contextId"),
                kind,
                address,
                bytes: Bytes(seen.u64("bytes")),
                stream: seen.u64("streamId"),
                pool: if pooled { seen.u64("memoryPoolConfig.address") } else { 0 },
                tag: Tag::Untagged,
            })]),
        Some((_, kind)) if seen.memory_records == MemoryRecords::Ledger => seen.stamped(vec![
            Body::FreeEntered { address, kind, token: seen.token },
            Body::FreeReturned { token: seen.token, succeeded: true },
        ]),
        _ => seen.stamped(vec![Body::MemoryRecord(MemoryRecord {
            device: seen.device("deviceId"),
            is_free,
            memory_kind: seen.u32("memoryKind"),
            address,
            bytes: Bytes(seen.u64("bytes")),
            correlation: seen.u32("correlationId"),
        })]),
    }
}
