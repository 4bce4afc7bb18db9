//! Where the fields that we read lie in CUPTI's records and in its callback data.
//!
//! CUPTI appends to its records and never moves what is there: every offset below is the same in
//! all versions from 12.0 to 13.5, and only the size grows. So one reader serves them all if it
//! reads the first [`Record::prefix_bytes`] of a record, and steps to the next record only with
//! `cuptiActivityGetNextRecord`, which knows the size of the version at hand.
//!
//! One table drives the constants and two tests: one against the committed bindgen output, one
//! against a table of 17 versions' layouts where the checkout has it.

/// One activity record kind, as far as we read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// CUPTI's name of the kind, without its `CUPTI_ACTIVITY_KIND_` prefix.
    pub name: &'static str,
    /// The number that stands in the first four bytes of the record.
    pub kind: u32,
    /// The record's size in the oldest version we know (12.0), in bytes. No version's record is
    /// shorter, so these bytes may always be read; every field below lies within them.
    pub prefix_bytes: usize,
    /// The fields that we read, by offset.
    pub fields: &'static [Field],
}

/// One field of a record or of a parameter block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The C name, dotted where it lies in a nested struct.
    pub name: &'static str,
    /// Distance from the start of the record, in bytes.
    pub offset: usize,
    /// Width in bytes.
    pub size: usize,
}

macro_rules! records {
    ($(
        $(#[$doc:meta])*
        $module:ident: $name:ident = $kind:literal, $strukt:ident, prefix $prefix:literal {
            $($konst:ident: $($field:ident).+ = $offset:literal, $size:literal;)*
        }
    )*) => {
        $(
            $(#[$doc])*
            pub mod $module {
                /// The activity kind's number.
                pub const KIND: u32 = $kind;
                /// Bytes that every version's record has at least.
                pub const PREFIX: usize = $prefix;
                $(
                    #[doc = concat!(
                        "Offset of `", stringify!($($field).+), "`, ", $size, " bytes wide."
                    )]
                    pub const $konst: usize = $offset;
                )*
                /// The same facts as a value.
                pub const RECORD: super::Record = super::Record {
                    name: stringify!($name),
                    kind: KIND,
                    prefix_bytes: PREFIX,
                    fields: &[$(super::Field {
                        name: stringify!($($field).+),
                        offset: $offset,
                        size: $size,
                    }),*],
                };
            }
        )*

        /// Every record kind that we read.
        pub const RECORDS: &[Record] = &[$($module::RECORD),*];

        /// What bindgen made of the newest headers: per record its size and its fields.
        #[cfg(test)]
        pub(crate) fn records_in_bindings() -> Vec<(usize, Vec<(usize, usize)>)> {
            use crate::bindings::*;
            vec![$((
                size_of::<$strukt>(),
                vec![$(crate::tests::field!($strukt, $($field).+)),*],
            )),*]
        }
    };
}

records! {
    /// A copy within one device, or between host and device.
    memcpy: MEMCPY = 1, CUpti_ActivityMemcpy7, prefix 88 {
        COPY_KIND: copyKind = 4, 1;
        SRC_KIND: srcKind = 5, 1;
        DST_KIND: dstKind = 6, 1;
        FLAGS: flags = 7, 1;
        BYTES: bytes = 8, 8;
        START: start = 16, 8;
        END: end = 24, 8;
        DEVICE_ID: deviceId = 32, 4;
        CONTEXT_ID: contextId = 36, 4;
        STREAM_ID: streamId = 40, 4;
        CORRELATION_ID: correlationId = 44, 4;
        GRAPH_NODE_ID: graphNodeId = 64, 8;
        GRAPH_ID: graphId = 72, 4;
    }

    /// A memset.
    memset: MEMSET = 2, CUpti_ActivityMemset5, prefix 88 {
        VALUE: value = 4, 4;
        BYTES: bytes = 8, 8;
        START: start = 16, 8;
        END: end = 24, 8;
        DEVICE_ID: deviceId = 32, 4;
        CONTEXT_ID: contextId = 36, 4;
        STREAM_ID: streamId = 40, 4;
        CORRELATION_ID: correlationId = 44, 4;
        FLAGS: flags = 48, 2;
        MEMORY_KIND: memoryKind = 50, 2;
        GRAPH_NODE_ID: graphNodeId = 64, 8;
        GRAPH_ID: graphId = 72, 4;
    }

    /// A driver call (and, with kind `RUNTIME`, a runtime call: the layout is the same).
    api: DRIVER = 4, CUpti_ActivityAPI, prefix 40 {
        CBID: cbid = 4, 4;
        START: start = 8, 8;
        END: end = 16, 8;
        PROCESS_ID: processId = 24, 4;
        THREAD_ID: threadId = 28, 4;
        CORRELATION_ID: correlationId = 32, 4;
        RETURN_VALUE: returnValue = 36, 4;
    }

    /// A kernel, recorded without forcing kernels to run one after another.
    kernel: CONCURRENT_KERNEL = 10, CUpti_ActivityKernel13, prefix 208 {
        REGISTERS_PER_THREAD: registersPerThread = 6, 2;
        START: start = 16, 8;
        END: end = 24, 8;
        DEVICE_ID: deviceId = 40, 4;
        CONTEXT_ID: contextId = 44, 4;
        STREAM_ID: streamId = 48, 4;
        GRID_X: gridX = 52, 4;
        GRID_Y: gridY = 56, 4;
        GRID_Z: gridZ = 60, 4;
        BLOCK_X: blockX = 64, 4;
        BLOCK_Y: blockY = 68, 4;
        BLOCK_Z: blockZ = 72, 4;
        STATIC_SHARED_BYTES: staticSharedMemory = 76, 4;
        DYNAMIC_SHARED_BYTES: dynamicSharedMemory = 80, 4;
        LOCAL_PER_THREAD: localMemoryPerThread = 84, 4;
        CORRELATION_ID: correlationId = 92, 4;
        NAME: name = 104, 8;
        GRAPH_NODE_ID: graphNodeId = 144, 8;
        GRAPH_ID: graphId = 156, 4;
        // The one at 88 has four bytes, too few for 4 GiB.
        LOCAL_BYTES: localMemoryTotal_v2 = 192, 8;
    }

    /// A point that the program marked (NVTX): a range's begin or end, or a mark by itself.
    marker: MARKER = 12, CUpti_ActivityMarker2, prefix 56 {
        FLAGS: flags = 4, 4;
        TIMESTAMP: timestamp = 8, 8;
        ID: id = 16, 4;
        OBJECT_KIND: objectKind = 20, 4;
        // For a thread: process id, then thread id, four bytes each.
        OBJECT_ID: objectId = 24, 12;
        NAME: name = 40, 8;
    }

    /// Time that CUPTI or the driver cost the program.
    overhead: OVERHEAD = 17, CUpti_ActivityOverhead3, prefix 40 {
        OVERHEAD_KIND: overheadKind = 4, 4;
        START: start = 24, 8;
        END: end = 32, 8;
    }

    /// A copy from one device to another.
    memcpy2: MEMCPY2 = 22, CUpti_ActivityMemcpyPtoP4, prefix 96 {
        COPY_KIND: copyKind = 4, 1;
        SRC_KIND: srcKind = 5, 1;
        DST_KIND: dstKind = 6, 1;
        FLAGS: flags = 7, 1;
        BYTES: bytes = 8, 8;
        START: start = 16, 8;
        END: end = 24, 8;
        DEVICE_ID: deviceId = 32, 4;
        CONTEXT_ID: contextId = 36, 4;
        STREAM_ID: streamId = 40, 4;
        SRC_DEVICE_ID: srcDeviceId = 44, 4;
        DST_DEVICE_ID: dstDeviceId = 52, 4;
        CORRELATION_ID: correlationId = 60, 4;
        GRAPH_NODE_ID: graphNodeId = 72, 8;
        GRAPH_ID: graphId = 80, 4;
    }

    /// Host time in a synchronising call, or a stream waiting for an event.
    synchronization: SYNCHRONIZATION = 38, CUpti_ActivitySynchronization2, prefix 40 {
        SYNC_TYPE: type_ = 4, 4;
        START: start = 8, 8;
        END: end = 16, 8;
        CORRELATION_ID: correlationId = 24, 4;
        CONTEXT_ID: contextId = 28, 4;
        STREAM_ID: streamId = 32, 4;
        CUDA_EVENT_ID: cudaEventId = 36, 4;
    }

    /// Joins an id of ours (pushed around a scope) to a correlation id.
    external_correlation:
        EXTERNAL_CORRELATION = 39, CUpti_ActivityExternalCorrelation, prefix 24 {
        EXTERNAL_KIND: externalKind = 4, 4;
        EXTERNAL_ID: externalId = 8, 8;
        CORRELATION_ID: correlationId = 16, 4;
    }

    /// An allocation or a release.
    memory2: MEMORY2 = 49, CUpti_ActivityMemory4, prefix 120 {
        OPERATION: memoryOperationType = 4, 4;
        MEMORY_KIND: memoryKind = 8, 4;
        CORRELATION_ID: correlationId = 12, 4;
        ADDRESS: address = 16, 8;
        BYTES: bytes = 24, 8;
        TIMESTAMP: timestamp = 32, 8;
        PROCESS_ID: processId = 48, 4;
        DEVICE_ID: deviceId = 52, 4;
        CONTEXT_ID: contextId = 56, 4;
        STREAM_ID: streamId = 60, 4;
        NAME: name = 64, 8;
        IS_ASYNC: isAsync = 72, 4;
        POOL_TYPE: memoryPoolConfig.memoryPoolType = 80, 4;
        POOL_ADDRESS: memoryPoolConfig.address = 88, 8;
        POOL_RELEASE_THRESHOLD: memoryPoolConfig.releaseThreshold = 96, 8;
        POOL_SIZE: memoryPoolConfig.pool.size = 104, 8;
        POOL_UTILIZED_SIZE: memoryPoolConfig.utilizedSize = 112, 8;
    }

    /// A memory pool was made, trimmed or destroyed.
    memory_pool: MEMORY_POOL = 50, CUpti_ActivityMemoryPool3, prefix 72 {
        OPERATION: memoryPoolOperationType = 4, 4;
        POOL_TYPE: memoryPoolType = 8, 4;
        CORRELATION_ID: correlationId = 12, 4;
        PROCESS_ID: processId = 16, 4;
        DEVICE_ID: deviceId = 20, 4;
        MIN_BYTES_TO_KEEP: minBytesToKeep = 24, 8;
        ADDRESS: address = 32, 8;
        SIZE: size = 40, 8;
        RELEASE_THRESHOLD: releaseThreshold = 48, 8;
        TIMESTAMP: timestamp = 56, 8;
        UTILIZED_SIZE: utilizedSize = 64, 8;
    }

    /// One launch of a whole graph, where graphs are not recorded node by node.
    graph_trace: GRAPH_TRACE = 51, CUpti_ActivityGraphTrace2, prefix 48 {
        CORRELATION_ID: correlationId = 4, 4;
        START: start = 8, 8;
        END: end = 16, 8;
        DEVICE_ID: deviceId = 24, 4;
        GRAPH_ID: graphId = 28, 4;
        CONTEXT_ID: contextId = 32, 4;
        STREAM_ID: streamId = 36, 4;
    }
}

macro_rules! blocks {
    ($(
        $(#[$doc:meta])*
        $module:ident: $strukt:ident, size $bytes:literal {
            $($konst:ident: $($field:ident).+ = $offset:literal, $size:literal;)*
        }
    )*) => {
        $(
            $(#[$doc])*
            pub mod $module {
                /// Size of the whole block, in bytes.
                pub const SIZE: usize = $bytes;
                $(
                    #[doc = concat!(
                        "Offset of `", stringify!($($field).+), "`, ", $size, " bytes wide."
                    )]
                    pub const $konst: usize = $offset;
                )*
            }
        )*

        /// Per block its name, ours and bindgen's size, and ours and bindgen's fields.
        #[cfg(test)]
        pub(crate) fn blocks_and_bindings() -> Vec<crate::tests::Block> {
            use crate::bindings::*;
            vec![$((
                stringify!($strukt),
                Some(($bytes, size_of::<$strukt>())),
                vec![$((($offset, $size), crate::tests::field!($strukt, $($field).+))),*],
            )),*]
        }
    };
}

blocks! {
    /// What a driver or runtime API callback is handed. It has had this shape in every version.
    callback_data: CUpti_CallbackData, size 72 {
        SITE: callbackSite = 0, 4;
        FUNCTION_NAME: functionName = 8, 8;
        FUNCTION_PARAMS: functionParams = 16, 8;
        FUNCTION_RETURN_VALUE: functionReturnValue = 24, 8;
        SYMBOL_NAME: symbolName = 32, 8;
        CONTEXT: context = 40, 8;
        CONTEXT_UID: contextUid = 48, 4;
        CORRELATION_DATA: correlationData = 56, 8;
        CORRELATION_ID: correlationId = 64, 4;
    }

    // In C the id lies in an anonymous union, which bindgen has to name.
    /// What `cuMemCreate` is told about the memory to make, as far as we read it.
    allocation_prop: CUmemAllocationProp, size 32 {
        ALLOCATION_TYPE: type_ = 0, 4;
        REQUESTED_HANDLE_TYPES: requestedHandleTypes = 4, 4;
        LOCATION_TYPE: location.type_ = 8, 4;
        LOCATION_ID: location.__bindgen_anon_1.id = 12, 4;
    }

    /// What `cuMemPoolCreate` is told about the pool to make, as far as we read it.
    pool_props: CUmemPoolProps, size 88 {
        ALLOCATION_TYPE: allocType = 0, 4;
        HANDLE_TYPES: handleTypes = 4, 4;
        LOCATION_TYPE: location.type_ = 8, 4;
        LOCATION_ID: location.__bindgen_anon_1.id = 12, 4;
        MAX_SIZE: maxSize = 24, 8;
    }

    /// What `cuMulticastCreate` is told about the object to make, as far as we read it.
    multicast_prop: CUmulticastObjectProp, size 32 {
        DEVICES: numDevices = 0, 4;
        BYTES: size = 8, 8;
    }

    /// What a graph's allocation node is made of; the driver writes the address into it.
    mem_alloc_node_params: CUDA_MEM_ALLOC_NODE_PARAMS, size 120 {
        LOCATION_TYPE: poolProps.location.type_ = 8, 4;
        LOCATION_ID: poolProps.location.__bindgen_anon_1.id = 12, 4;
        BYTES: bytesize = 104, 8;
        DPTR: dptr = 112, 8;
    }

    /// A graph's node of any type, whose own parameters begin at [`graph_node_params::OF_TYPE`].
    graph_node_params: CUgraphNodeParams, size 256 {
        TYPE: type_ = 0, 4;
        OF_TYPE: __bindgen_anon_1 = 16, 232;
    }

    /// A CUDA array of one or two dimensions.
    array_descriptor: CUDA_ARRAY_DESCRIPTOR, size 24 {
        WIDTH: Width = 0, 8;
        HEIGHT: Height = 8, 8;
        FORMAT: Format = 16, 4;
        CHANNELS: NumChannels = 20, 4;
    }

    /// A CUDA array of up to three dimensions; a dimension of 0 is not there.
    array3d_descriptor: CUDA_ARRAY3D_DESCRIPTOR, size 40 {
        WIDTH: Width = 0, 8;
        HEIGHT: Height = 8, 8;
        DEPTH: Depth = 16, 8;
        FORMAT: Format = 24, 4;
        CHANNELS: NumChannels = 28, 4;
        FLAGS: Flags = 32, 4;
    }

    /// Which part of external memory `cuExternalMemoryGetMappedBuffer` maps.
    external_memory_buffer_desc: CUDA_EXTERNAL_MEMORY_BUFFER_DESC, size 88 {
        OFFSET: offset = 0, 8;
        BYTES: size = 8, 8;
    }
}
