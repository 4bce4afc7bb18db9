//! One row for each kind of record: what C calls it, and how random ones of it are made.
//!
//! A new kind is a row here and a function in `events.rs`; a new field of an event is a compile
//! error there.

use super::events::{self, Expect, Seen};
use super::reader::Fields;
use cupti_sys::layout::{
    Record, api, external_correlation, graph_trace, kernel, marker, memcpy, memcpy2, memory_pool,
    memory2, memset, overhead, synchronization,
};
use cupti_sys::{activity_kind, overhead_kind};

/// One kind of record.
#[derive(Debug)]
pub(super) struct Row {
    /// CUPTI's name, without `CUPTI_ACTIVITY_KIND_`.
    pub(super) name: &'static str,
    /// Its number, as we know it.
    pub(super) number: u32,
    /// Its row of the layout table.
    pub(super) record: &'static Record,
    /// The newest struct, by the first version (major * 100 + minor) that has it.
    pub(super) structs: &'static [(u32, &'static str)],
    /// Fields that are parts of one in the layout table.
    pub(super) parts: &'static [&'static str],
    /// What the decoder must make of it.
    pub(super) expect: fn(&Seen<'_>) -> Expect,
    /// Fields whose values are drawn from a few that mean something, more often than not.
    pub(super) draw: &'static [(&'static str, &'static [u64])],
    /// What is remembered of it shows only in what is made of another record, which is this.
    pub(super) follow: Option<Follow>,
}

/// Another record's kind, and its fields by those of the first.
#[derive(Debug)]
pub(super) struct Follow {
    pub(super) kind: &'static str,
    pub(super) fields: fn(&Fields) -> Vec<(&'static str, u64)>,
}

/// A name at this address cannot be read.
pub(super) const UNREADABLE: u64 = 1;

const NAMES: &[u64] = &[0, UNREADABLE, 0x7f00_0000_1000, 0x7f00_0000_2000, u64::MAX];

/// Few, so that what a call launched finds the call's scope.
const CORRELATIONS: (&str, &[u64]) = ("correlationId", &[0, 1, 2, 0x1_0002, u32::MAX as u64]);

/// What most rows have nothing of.
const PLAIN: Row = Row {
    name: "",
    number: 0,
    record: &memset::RECORD,
    structs: &[],
    parts: &[],
    expect: events::memset,
    draw: &[],
    follow: None,
};

/// Every kind that the layout table has, and RUNTIME, which is laid out as DRIVER.
pub(super) const ROWS: &[Row] = &[
    Row {
        name: "MEMCPY",
        number: memcpy::KIND,
        record: &memcpy::RECORD,
        structs: &[(1200, "CUpti_ActivityMemcpy5"), (1208, "CUpti_ActivityMemcpy6")],
        expect: events::copy,
        draw: &[("copyKind", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255]), CORRELATIONS],
        ..PLAIN
    },
    Row {
        name: "MEMSET",
        number: memset::KIND,
        record: &memset::RECORD,
        structs: &[(1200, "CUpti_ActivityMemset4")],
        expect: events::memset,
        draw: &[CORRELATIONS],
        ..PLAIN
    },
    Row {
        name: "DRIVER",
        number: api::KIND,
        record: &api::RECORD,
        structs: &[(1200, "CUpti_ActivityAPI")],
        expect: events::driver_call,
        ..PLAIN
    },
    Row {
        name: "RUNTIME",
        number: activity_kind::RUNTIME,
        record: &api::RECORD,
        structs: &[(1200, "CUpti_ActivityAPI")],
        expect: events::runtime_call,
        ..PLAIN
    },
    Row {
        name: "CONCURRENT_KERNEL",
        number: kernel::KIND,
        record: &kernel::RECORD,
        structs: &[
            (1200, "CUpti_ActivityKernel9"),
            (1300, "CUpti_ActivityKernel10"),
            (1301, "CUpti_ActivityKernel11"),
        ],
        expect: events::kernel,
        draw: &[("name", NAMES), CORRELATIONS],
        ..PLAIN
    },
    Row {
        name: "MARKER",
        number: marker::KIND,
        record: &marker::RECORD,
        structs: &[(1200, "CUpti_ActivityMarker2")],
        parts: &["objectId.pt.threadId"],
        expect: events::marker,
        draw: &[
            // A mark, a begin, an end; the last two more often, as they need each other.
            ("flags", &[1, 2, 2, 4, 4]),
            ("id", &[0, 1, 2, 3]),
            ("objectKind", &[1, 2, 2]),
            ("name", NAMES),
        ],
        // What was remembered of a begin is in the span that its end makes.
        follow: Some(Follow {
            kind: "MARKER",
            fields: |begin| vec![("flags", 4), ("timestamp", u64::MAX), ("id", begin["id"])],
        }),
    },
    Row {
        name: "OVERHEAD",
        number: overhead::KIND,
        record: &overhead::RECORD,
        structs: &[
            (1200, "CUpti_ActivityOverhead"),
            (1203, "CUpti_ActivityOverhead2"),
            (1204, "CUpti_ActivityOverhead3"),
        ],
        expect: events::overhead,
        draw: &[(
            "overheadKind",
            &[
                0,
                1,
                1 << 16,
                2 << 16,
                3 << 16,
                4 << 16,
                5 << 16,
                6 << 16,
                7 << 16,
                8 << 16,
                9 << 16,
            ],
        )],
        ..PLAIN
    },
    Row {
        name: "MEMCPY2",
        number: memcpy2::KIND,
        record: &memcpy2::RECORD,
        structs: &[(1200, "CUpti_ActivityMemcpyPtoP4")],
        expect: events::peer_copy,
        draw: &[CORRELATIONS],
        ..PLAIN
    },
    Row {
        name: "SYNCHRONIZATION",
        number: synchronization::KIND,
        record: &synchronization::RECORD,
        structs: &[
            (1200, "CUpti_ActivitySynchronization"),
            (1208, "CUpti_ActivitySynchronization2"),
        ],
        expect: events::sync,
        draw: &[("type", &[0, 1, 2, 3, 4, 5, 0x7fff_ffff])],
        ..PLAIN
    },
    Row {
        name: "EXTERNAL_CORRELATION",
        number: external_correlation::KIND,
        record: &external_correlation::RECORD,
        structs: &[(1200, "CUpti_ActivityExternalCorrelation")],
        expect: events::external_correlation,
        draw: &[("externalKind", &[5, 5, 5, 3, 1]), CORRELATIONS],
        // It is remembered for what the call launched.
        follow: Some(Follow {
            kind: "MEMSET",
            fields: |call| vec![("start", 1), ("end", 1), ("correlationId", call["correlationId"])],
        }),
        ..PLAIN
    },
    Row {
        name: "MEMORY2",
        number: memory2::KIND,
        record: &memory2::RECORD,
        structs: &[(1200, "CUpti_ActivityMemory3"), (1206, "CUpti_ActivityMemory4")],
        expect: events::memory,
        draw: &[
            ("memoryOperationType", &[1, 2, 1, 2]),
            ("memoryKind", &[0, 1, 2, 3, 4, 5, 6, 7]),
            ("memoryPoolConfig.memoryPoolType", &[0, 1, 2, 3]),
        ],
        ..PLAIN
    },
    Row {
        name: "MEMORY_POOL",
        number: memory_pool::KIND,
        record: &memory_pool::RECORD,
        structs: &[(1200, "CUpti_ActivityMemoryPool2"), (1300, "CUpti_ActivityMemoryPool3")],
        expect: events::pool,
        draw: &[("memoryPoolOperationType", &[0, 1, 2, 3, 4])],
        ..PLAIN
    },
    Row {
        name: "GRAPH_TRACE",
        number: graph_trace::KIND,
        record: &graph_trace::RECORD,
        structs: &[(1200, "CUpti_ActivityGraphTrace"), (1203, "CUpti_ActivityGraphTrace2")],
        expect: events::graph,
        draw: &[CORRELATIONS],
        ..PLAIN
    },
];

/// Constants that give numbers a meaning, by C name.
pub(super) const CONSTANTS: &[&str] = &[
    "CUPTI_ACTIVITY_FLAG_MARKER_START",
    "CUPTI_ACTIVITY_FLAG_MARKER_END",
    "CUPTI_ACTIVITY_OBJECT_THREAD",
    "CUPTI_ACTIVITY_MEMCPY_KIND_HTOD",
    "CUPTI_ACTIVITY_MEMCPY_KIND_DTOH",
    "CUPTI_ACTIVITY_MEMCPY_KIND_DTOD",
    "CUPTI_ACTIVITY_MEMCPY_KIND_HTOH",
    "CUPTI_ACTIVITY_MEMCPY_KIND_PTOP",
    "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE",
    "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT",
    "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE",
    "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE",
    "CUPTI_ACTIVITY_OVERHEAD_DRIVER_COMPILER",
    "CUPTI_ACTIVITY_OVERHEAD_CUPTI_BUFFER_FLUSH",
    "CUPTI_ACTIVITY_OVERHEAD_CUPTI_INSTRUMENTATION",
    "CUPTI_ACTIVITY_OVERHEAD_CUPTI_RESOURCE",
    "CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION",
    "CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE",
    "CUPTI_ACTIVITY_MEMORY_KIND_PINNED",
    "CUPTI_ACTIVITY_MEMORY_KIND_DEVICE",
    "CUPTI_ACTIVITY_MEMORY_KIND_MANAGED",
    "CUPTI_ACTIVITY_MEMORY_POOL_TYPE_INVALID",
    "CUPTI_ACTIVITY_MEMORY_POOL_TYPE_LOCAL",
    "CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_CREATED",
    "CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_DESTROYED",
    "CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_TRIMMED",
    "CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2",
];

/// Constants that not every version of the lane has: the first of them that does, and our number,
/// which stands in before. (No older library writes it, so what it means there is ours to say.)
pub(super) const NEWER: &[(&str, u32, u32)] = &[
    (
        "CUPTI_ACTIVITY_OVERHEAD_RUNTIME_TRIGGERED_MODULE_LOADING",
        1204,
        overhead_kind::RUNTIME_TRIGGERED_MODULE_LOADING,
    ),
    ("CUPTI_ACTIVITY_OVERHEAD_LAZY_FUNCTION_LOADING", 1204, overhead_kind::LAZY_FUNCTION_LOADING),
    ("CUPTI_ACTIVITY_OVERHEAD_COMMAND_BUFFER_FULL", 1204, overhead_kind::COMMAND_BUFFER_FULL),
    (
        "CUPTI_ACTIVITY_OVERHEAD_ACTIVITY_BUFFER_REQUEST",
        1209,
        overhead_kind::ACTIVITY_BUFFER_REQUEST,
    ),
    ("CUPTI_ACTIVITY_OVERHEAD_UVM_ACTIVITY_INIT", 1209, overhead_kind::UVM_ACTIVITY_INIT),
];
