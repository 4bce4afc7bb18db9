//! Activity records as the simulated CUPTI writes them: sizes by version, and the place of each
//! field. A table of its own, not shared with the decoder, so that agreement means something.

/// Largest record of any version.
pub(crate) const RECORD_BYTES_MAX: usize = 248;

/// One field of a record.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in CUPTI's structs.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// First CUPTI version (major * 100 + minor) that has it.
    pub since: u32,
}

/// One kind of record.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its name without `CUPTI_ACTIVITY_KIND_`.
    pub name: &'static str,
    /// `CUpti_ActivityKind`.
    pub kind: u32,
    /// First version and size, ascending.
    pub sizes: &'static [(u32, usize)],
    /// The fields that the simulator writes.
    pub fields: &'static [Field],
}

impl Layout {
    /// Size in the given CUPTI version.
    #[must_use]
    pub fn size(&self, version: u32) -> usize {
        let size = self.sizes.iter().rev().find(|(since, _)| *since <= version);
        size.unwrap_or(&self.sizes[0]).1
    }
}

macro_rules! layouts {
    ($(
        $module:ident = $kind:literal $name:literal, sizes $sizes:tt {
            $($field:ident: $cupti:literal @ $offset:literal + $size:literal
              $(since $since:literal)?;)*
        }
    )*) => {
        $(
            #[doc = concat!("`CUPTI_ACTIVITY_KIND_", $name, "`.")]
            pub(crate) mod $module {
                use super::{Field, Layout};
                $(pub(crate) const $field: Field = Field {
                    name: $cupti, offset: $offset, size: $size, since: 0 $(+ $since)?,
                };)*
                pub(crate) static LAYOUT: Layout = Layout {
                    name: $name, kind: $kind, sizes: &$sizes, fields: &[$($field),*],
                };
            }
        )*
        /// Every kind the simulator writes.
        pub static LAYOUTS: &[&Layout] = &[$(&$module::LAYOUT),*];
    };
}

layouts! {
    memcpy = 1 "MEMCPY", sizes [(1200, 88), (1208, 96), (1304, 112)] {
        COPY_KIND: "copyKind" @ 4 + 1;
        SRC_KIND: "srcKind" @ 5 + 1;
        DST_KIND: "dstKind" @ 6 + 1;
        FLAGS: "flags" @ 7 + 1;
        BYTES: "bytes" @ 8 + 8;
        START: "start" @ 16 + 8;
        END: "end" @ 24 + 8;
        DEVICE: "deviceId" @ 32 + 4;
        CONTEXT: "contextId" @ 36 + 4;
        STREAM: "streamId" @ 40 + 4;
        CORRELATION: "correlationId" @ 44 + 4;
        GRAPH_NODE: "graphNodeId" @ 64 + 8;
        GRAPH: "graphId" @ 72 + 4;
        COPY_COUNT: "copyCount" @ 88 + 8 since 1208;
        SOURCE_GRAPH: "sourceGraphId" @ 96 + 4 since 1304;
        SOURCE_GRAPH_NODE: "sourceGraphNodeId" @ 104 + 8 since 1304;
    }
    memset = 2 "MEMSET", sizes [(1200, 88), (1304, 104)] {
        VALUE: "value" @ 4 + 4;
        BYTES: "bytes" @ 8 + 8;
        START: "start" @ 16 + 8;
        END: "end" @ 24 + 8;
        DEVICE: "deviceId" @ 32 + 4;
        CONTEXT: "contextId" @ 36 + 4;
        STREAM: "streamId" @ 40 + 4;
        CORRELATION: "correlationId" @ 44 + 4;
        FLAGS: "flags" @ 48 + 2;
        MEMORY_KIND: "memoryKind" @ 50 + 2;
        GRAPH_NODE: "graphNodeId" @ 64 + 8;
        GRAPH: "graphId" @ 72 + 4;
        SOURCE_GRAPH: "sourceGraphId" @ 88 + 4 since 1304;
        SOURCE_GRAPH_NODE: "sourceGraphNodeId" @ 96 + 8 since 1304;
    }
    driver = 4 "DRIVER", sizes [(1200, 40)] {
        CBID: "cbid" @ 4 + 4;
        START: "start" @ 8 + 8;
        END: "end" @ 16 + 8;
        PROCESS: "processId" @ 24 + 4;
        THREAD: "threadId" @ 28 + 4;
        CORRELATION: "correlationId" @ 32 + 4;
        RETURN_VALUE: "returnValue" @ 36 + 4;
    }
    kernel = 10 "CONCURRENT_KERNEL",
        sizes [(1200, 208), (1300, 216), (1301, 224), (1303, 232), (1304, 248)] {
        REGISTERS: "registersPerThread" @ 6 + 2;
        START: "start" @ 16 + 8;
        END: "end" @ 24 + 8;
        DEVICE: "deviceId" @ 40 + 4;
        CONTEXT: "contextId" @ 44 + 4;
        STREAM: "streamId" @ 48 + 4;
        GRID_X: "gridX" @ 52 + 4;
        GRID_Y: "gridY" @ 56 + 4;
        GRID_Z: "gridZ" @ 60 + 4;
        BLOCK_X: "blockX" @ 64 + 4;
        BLOCK_Y: "blockY" @ 68 + 4;
        BLOCK_Z: "blockZ" @ 72 + 4;
        DYNAMIC_SHARED: "dynamicSharedMemory" @ 80 + 4;
        LOCAL_PER_THREAD: "localMemoryPerThread" @ 84 + 4;
        LOCAL_TOTAL_32: "localMemoryTotal" @ 88 + 4;
        CORRELATION: "correlationId" @ 92 + 4;
        GRID_ID: "gridId" @ 96 + 8;
        NAME: "name" @ 104 + 8;
        GRAPH_NODE: "graphNodeId" @ 144 + 8;
        GRAPH: "graphId" @ 156 + 4;
        CHANNEL: "channelID" @ 168 + 4;
        CHANNEL_TYPE: "channelType" @ 172 + 4;
        LOCAL_TOTAL: "localMemoryTotal_v2" @ 192 + 8;
        PRIORITY: "priority" @ 216 + 4 since 1301;
        SOURCE_GRAPH: "sourceGraphId" @ 232 + 4 since 1304;
        SOURCE_GRAPH_NODE: "sourceGraphNodeId" @ 240 + 8 since 1304;
    }
    marker = 12 "MARKER", sizes [(1200, 56)] {
        FLAGS: "flags" @ 4 + 4;
        TIMESTAMP: "timestamp" @ 8 + 8;
        ID: "id" @ 16 + 4;
        OBJECT_KIND: "objectKind" @ 20 + 4;
        PROCESS: "objectId.pt.processId" @ 24 + 4;
        THREAD: "objectId.pt.threadId" @ 28 + 4;
        NAME: "name" @ 40 + 8;
        DOMAIN: "domain" @ 48 + 8;
    }
    overhead = 17 "OVERHEAD", sizes [(1200, 40), (1203, 48), (1204, 56)] {
        KIND: "overheadKind" @ 4 + 4;
        OBJECT_KIND: "objectKind" @ 8 + 4;
        PROCESS: "objectId.pt.processId" @ 12 + 4;
        THREAD: "objectId.pt.threadId" @ 16 + 4;
        START: "start" @ 24 + 8;
        END: "end" @ 32 + 8;
        CORRELATION: "correlationId" @ 40 + 4 since 1203;
    }
    peer_copy = 22 "MEMCPY2", sizes [(1200, 96)] {
        COPY_KIND: "copyKind" @ 4 + 1;
        SRC_KIND: "srcKind" @ 5 + 1;
        DST_KIND: "dstKind" @ 6 + 1;
        FLAGS: "flags" @ 7 + 1;
        BYTES: "bytes" @ 8 + 8;
        START: "start" @ 16 + 8;
        END: "end" @ 24 + 8;
        DEVICE: "deviceId" @ 32 + 4;
        CONTEXT: "contextId" @ 36 + 4;
        STREAM: "streamId" @ 40 + 4;
        SRC_DEVICE: "srcDeviceId" @ 44 + 4;
        SRC_CONTEXT: "srcContextId" @ 48 + 4;
        DST_DEVICE: "dstDeviceId" @ 52 + 4;
        DST_CONTEXT: "dstContextId" @ 56 + 4;
        CORRELATION: "correlationId" @ 60 + 4;
        GRAPH_NODE: "graphNodeId" @ 72 + 8;
        GRAPH: "graphId" @ 80 + 4;
    }
    synchronization = 38 "SYNCHRONIZATION", sizes [(1200, 40), (1208, 56)] {
        TYPE: "type" @ 4 + 4;
        START: "start" @ 8 + 8;
        END: "end" @ 16 + 8;
        CORRELATION: "correlationId" @ 24 + 4;
        CONTEXT: "contextId" @ 28 + 4;
        STREAM: "streamId" @ 32 + 4;
        EVENT: "cudaEventId" @ 36 + 4;
        EVENT_SYNC: "cudaEventSyncId" @ 40 + 8 since 1208;
        RETURN_VALUE: "returnValue" @ 48 + 4 since 1208;
    }
    memory2 = 49 "MEMORY2", sizes [(1200, 120), (1206, 128)] {
        OPERATION: "memoryOperationType" @ 4 + 4;
        KIND: "memoryKind" @ 8 + 4;
        CORRELATION: "correlationId" @ 12 + 4;
        ADDRESS: "address" @ 16 + 8;
        BYTES: "bytes" @ 24 + 8;
        TIMESTAMP: "timestamp" @ 32 + 8;
        PROCESS: "processId" @ 48 + 4;
        DEVICE: "deviceId" @ 52 + 4;
        CONTEXT: "contextId" @ 56 + 4;
        STREAM: "streamId" @ 60 + 4;
        IS_ASYNC: "isAsync" @ 72 + 4;
        POOL_TYPE: "memoryPoolConfig.memoryPoolType" @ 80 + 4;
        POOL_ADDRESS: "memoryPoolConfig.address" @ 88 + 8;
        POOL_THRESHOLD: "memoryPoolConfig.releaseThreshold" @ 96 + 8;
        POOL_SIZE: "memoryPoolConfig.pool.size" @ 104 + 8;
        POOL_UTILIZED: "memoryPoolConfig.utilizedSize" @ 112 + 8;
    }
    external = 39 "EXTERNAL_CORRELATION", sizes [(1200, 24)] {
        KIND: "externalKind" @ 4 + 4;
        ID: "externalId" @ 8 + 8;
        CORRELATION: "correlationId" @ 16 + 4;
    }
    memory_pool = 50 "MEMORY_POOL", sizes [(1200, 72), (1300, 80)] {
        OPERATION: "memoryPoolOperationType" @ 4 + 4;
        TYPE: "memoryPoolType" @ 8 + 4;
        CORRELATION: "correlationId" @ 12 + 4;
        PROCESS: "processId" @ 16 + 4;
        DEVICE: "deviceId" @ 20 + 4;
        KEPT: "minBytesToKeep" @ 24 + 8;
        ADDRESS: "address" @ 32 + 8;
        SIZE: "size" @ 40 + 8;
        THRESHOLD: "releaseThreshold" @ 48 + 8;
        TIMESTAMP: "timestamp" @ 56 + 8;
        UTILIZED: "utilizedSize" @ 64 + 8;
    }
    graph_trace = 51 "GRAPH_TRACE", sizes [(1200, 48), (1203, 56)] {
        CORRELATION: "correlationId" @ 4 + 4;
        START: "start" @ 8 + 8;
        END: "end" @ 16 + 8;
        DEVICE: "deviceId" @ 24 + 4;
        GRAPH: "graphId" @ 28 + 4;
        CONTEXT: "contextId" @ 32 + 4;
        STREAM: "streamId" @ 36 + 4;
        END_DEVICE: "endDeviceId" @ 48 + 4 since 1203;
        END_CONTEXT: "endContextId" @ 52 + 4 since 1203;
    }
}

/// A record being written.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    bytes: [u8; RECORD_BYTES_MAX],
    len: usize,
    version: u32,
}

impl Record {
    /// An empty record of `layout` as CUPTI `version` writes it.
    pub(crate) fn new(layout: &Layout, version: u32) -> Self {
        let mut bytes = [0; RECORD_BYTES_MAX];
        bytes[..4].copy_from_slice(&layout.kind.to_ne_bytes());
        Self { bytes, len: layout.size(version), version }
    }

    /// Sets a field; versions that lack it lose the value, as the real library does.
    pub(crate) fn with(mut self, field: Field, value: u64) -> Self {
        self.set(field, value);
        self
    }

    pub(crate) fn set(&mut self, field: Field, value: u64) {
        if field.since <= self.version && field.offset + field.size <= self.len {
            let to = &mut self.bytes[field.offset..field.offset + field.size];
            // Little-endian hosts only, as CUDA's are: the low bytes come first.
            to.copy_from_slice(&value.to_le_bytes()[..field.size]);
        }
    }

    pub(crate) fn get(&self, field: Field) -> u64 {
        if field.since > self.version || field.offset + field.size > self.len {
            return 0;
        }
        let mut bytes = [0; 8];
        bytes[..field.size].copy_from_slice(&self.bytes[field.offset..field.offset + field.size]);
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn kind(&self) -> u32 {
        u32::from_ne_bytes([self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]])
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The layout of a kind.
pub(crate) fn layout_of(kind: u32) -> Option<&'static Layout> {
    LAYOUTS.iter().copied().find(|layout| layout.kind == kind)
}

/// The start and end fields of the kinds that a GPU's clock fills in: their records can be handed
/// out before they are complete.
pub(crate) fn times_of(kind: u32) -> Option<(Field, Field)> {
    match kind {
        1 => Some((memcpy::START, memcpy::END)),
        2 => Some((memset::START, memset::END)),
        10 => Some((kernel::START, kernel::END)),
        22 => Some((peer_copy::START, peer_copy::END)),
        51 => Some((graph_trace::START, graph_trace::END)),
        _ => None,
    }
}
