//! CUPTI's numbers that we send or understand. Foreign values stay `u32`: a number that we do not
//! know is a number, never undefined behaviour.

macro_rules! numbers {
    ($(
        $(#[$doc:meta])*
        $module:ident: $enum:ident, $prefix:literal {
            $($(#[$note:meta])* $konst:ident = $value:literal;)*
        }
    )*) => {
        $(
            $(#[$doc])*
            ///
            #[doc = concat!("C type: `", stringify!($enum), "`.")]
            pub mod $module {
                $(
                    #[doc = concat!("`", $prefix, stringify!($konst), "`")]
                    $(#[$note])*
                    pub const $konst: u32 = $value;
                )*

                /// Every value that we know, with its name.
                pub const ALL: &[(&str, u32)] = &[$((stringify!($konst), $value)),*];

                /// The name of a value, or `None` for one that we do not know.
                #[must_use]
                pub fn name(value: u32) -> Option<&'static str> {
                    match value {
                        $($value => Some(stringify!($konst)),)*
                        _ => None,
                    }
                }
            }
        )*

        /// Per table the prefix of its C names, and its values.
        #[cfg(test)]
        pub(crate) const TABLES: &[(&str, &[(&str, u32)])] = &[$(($prefix, $module::ALL)),*];
    };
}

numbers! {
    /// Result codes.
    result: CUptiResult, "CUPTI_" {
        SUCCESS = 0;
        ERROR_INVALID_PARAMETER = 1;
        ERROR_INVALID_DEVICE = 2;
        ERROR_INVALID_CONTEXT = 3;
        ERROR_INVALID_EVENT_DOMAIN_ID = 4;
        ERROR_INVALID_EVENT_ID = 5;
        ERROR_INVALID_EVENT_NAME = 6;
        ERROR_INVALID_OPERATION = 7;
        ERROR_OUT_OF_MEMORY = 8;
        ERROR_HARDWARE = 9;
        ERROR_PARAMETER_SIZE_NOT_SUFFICIENT = 10;
        ERROR_API_NOT_IMPLEMENTED = 11;
        /// `cuptiActivityGetNextRecord`: no more records in this buffer.
        ERROR_MAX_LIMIT_REACHED = 12;
        ERROR_NOT_READY = 13;
        ERROR_NOT_COMPATIBLE = 14;
        /// What 12.x answers without a driver.
        ERROR_NOT_INITIALIZED = 15;
        ERROR_INVALID_METRIC_ID = 16;
        ERROR_INVALID_METRIC_NAME = 17;
        ERROR_QUEUE_EMPTY = 18;
        ERROR_INVALID_HANDLE = 19;
        ERROR_INVALID_STREAM = 20;
        ERROR_INVALID_KIND = 21;
        ERROR_INVALID_EVENT_VALUE = 22;
        ERROR_DISABLED = 23;
        ERROR_INVALID_MODULE = 24;
        ERROR_INVALID_METRIC_VALUE = 25;
        ERROR_HARDWARE_BUSY = 26;
        ERROR_NOT_SUPPORTED = 27;
        ERROR_UM_PROFILING_NOT_SUPPORTED = 28;
        ERROR_UM_PROFILING_NOT_SUPPORTED_ON_DEVICE = 29;
        ERROR_UM_PROFILING_NOT_SUPPORTED_ON_NON_P2P_DEVICES = 30;
        ERROR_UM_PROFILING_NOT_SUPPORTED_WITH_MPS = 31;
        ERROR_CDP_TRACING_NOT_SUPPORTED = 32;
        ERROR_VIRTUALIZED_DEVICE_NOT_SUPPORTED = 33;
        ERROR_CUDA_COMPILER_NOT_COMPATIBLE = 34;
        ERROR_INSUFFICIENT_PRIVILEGES = 35;
        ERROR_OLD_PROFILER_API_INITIALIZED = 36;
        ERROR_OPENACC_UNDEFINED_ROUTINE = 37;
        ERROR_LEGACY_PROFILER_NOT_SUPPORTED = 38;
        /// Another tool (Nsight, Kineto, cuda-gdb …) holds the only subscription.
        ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED = 39;
        ERROR_VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES = 40;
        ERROR_CONFIDENTIAL_COMPUTING_NOT_SUPPORTED = 41;
        ERROR_CMP_DEVICE_NOT_SUPPORTED = 42;
        ERROR_MIG_DEVICE_NOT_SUPPORTED = 43;
        ERROR_SLI_DEVICE_NOT_SUPPORTED = 44;
        ERROR_WSL_DEVICE_NOT_SUPPORTED = 45;
        ERROR_INVALID_CHIP_NAME = 46;
        ERROR_HES_TRACE_NOT_SUPPORTED_ON_MPS = 47;
        /// What 13.x answers without a driver.
        ERROR_UNKNOWN = 999;
    }

    /// Activity kinds that we may enable. Those we decode are in [`crate::layout`].
    activity_kind: CUpti_ActivityKind, "CUPTI_ACTIVITY_KIND_" {
        MEMCPY = 1;
        MEMSET = 2;
        /// Serialises kernels. We use `CONCURRENT_KERNEL`.
        KERNEL = 3;
        DRIVER = 4;
        RUNTIME = 5;
        DEVICE = 8;
        CONTEXT = 9;
        CONCURRENT_KERNEL = 10;
        NAME = 11;
        MARKER = 12;
        MARKER_DATA = 13;
        OVERHEAD = 17;
        MEMCPY2 = 22;
        UNIFIED_MEMORY_COUNTER = 25;
        CUDA_EVENT = 36;
        STREAM = 37;
        SYNCHRONIZATION = 38;
        EXTERNAL_CORRELATION = 39;
        MEMORY = 45;
        MEMORY2 = 49;
        MEMORY_POOL = 50;
        GRAPH_TRACE = 51;
        JIT = 52;
    }

    /// Where a copy came from and went to: `H`ost, `D`evice, `A`rray, `P`eer.
    copy_kind: CUpti_ActivityMemcpyKind, "CUPTI_ACTIVITY_MEMCPY_KIND_" {
        UNKNOWN = 0;
        HTOD = 1;
        DTOH = 2;
        HTOA = 3;
        ATOH = 4;
        ATOA = 5;
        ATOD = 6;
        DTOA = 7;
        DTOD = 8;
        HTOH = 9;
        PTOP = 10;
    }

    /// What kind of memory a copy touched or an allocation made.
    memory_kind: CUpti_ActivityMemoryKind, "CUPTI_ACTIVITY_MEMORY_KIND_" {
        UNKNOWN = 0;
        PAGEABLE = 1;
        PINNED = 2;
        DEVICE = 3;
        ARRAY = 4;
        MANAGED = 5;
        DEVICE_STATIC = 6;
        MANAGED_STATIC = 7;
    }

    /// What a memory record reports.
    memory_operation: CUpti_ActivityMemoryOperationType, "CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_" {
        INVALID = 0;
        ALLOCATION = 1;
        RELEASE = 2;
    }

    /// What a memory pool record reports.
    pool_operation: CUpti_ActivityMemoryPoolOperationType,
        "CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_" {
        INVALID = 0;
        CREATED = 1;
        DESTROYED = 2;
        TRIMMED = 3;
    }

    /// Whether a pool is this process's own. `INVALID` means "no pool" in a memory record.
    pool_type: CUpti_ActivityMemoryPoolType, "CUPTI_ACTIVITY_MEMORY_POOL_TYPE_" {
        INVALID = 0;
        LOCAL = 1;
        IMPORTED = 2;
    }

    /// What a synchronization record waited for.
    sync_type: CUpti_ActivitySynchronizationType, "CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_" {
        UNKNOWN = 0;
        EVENT_SYNCHRONIZE = 1;
        STREAM_WAIT_EVENT = 2;
        STREAM_SYNCHRONIZE = 3;
        CONTEXT_SYNCHRONIZE = 4;
    }

    /// What an overhead record charges for.
    overhead_kind: CUpti_ActivityOverheadKind, "CUPTI_ACTIVITY_OVERHEAD_" {
        UNKNOWN = 0;
        DRIVER_COMPILER = 1;
        CUPTI_BUFFER_FLUSH = 0x1_0000;
        CUPTI_INSTRUMENTATION = 0x2_0000;
        CUPTI_RESOURCE = 0x3_0000;
        RUNTIME_TRIGGERED_MODULE_LOADING = 0x4_0000;
        LAZY_FUNCTION_LOADING = 0x5_0000;
        COMMAND_BUFFER_FULL = 0x6_0000;
        ACTIVITY_BUFFER_REQUEST = 0x7_0000;
        UVM_ACTIVITY_INIT = 0x8_0000;
    }

    /// Settings of the activity API. All but the last are `size_t` or `uint8_t` values passed by
    /// pointer; those on device buffers must be set before a context exists.
    activity_attribute: CUpti_ActivityAttribute, "CUPTI_ACTIVITY_ATTR_" {
        DEVICE_BUFFER_SIZE = 0;
        DEVICE_BUFFER_SIZE_CDP = 1;
        DEVICE_BUFFER_POOL_LIMIT = 2;
        PROFILING_SEMAPHORE_POOL_SIZE = 3;
        PROFILING_SEMAPHORE_POOL_LIMIT = 4;
        ZEROED_OUT_ACTIVITY_BUFFER = 5;
        DEVICE_BUFFER_PRE_ALLOCATE_VALUE = 6;
        PROFILING_SEMAPHORE_PRE_ALLOCATE_VALUE = 7;
        MEM_ALLOCATION_TYPE_HOST_PINNED = 8;
        PER_THREAD_ACTIVITY_BUFFER = 9;
    }

    /// Flags of a flush.
    activity_flag: CUpti_ActivityFlag, "CUPTI_ACTIVITY_FLAG_" {
        NONE = 0;
        /// Also hands back buffers with unfinished records (end = 0), which never come again.
        FLUSH_FORCED = 1;
    }

    /// Flags of a marker.
    marker_flag: CUpti_ActivityFlag, "CUPTI_ACTIVITY_FLAG_MARKER_" {
        INSTANTANEOUS = 1;
        START = 2;
        END = 4;
    }

    /// Whose ids are pushed: each kind has a stack of its own a thread.
    external_kind: CUpti_ExternalCorrelationKind, "CUPTI_EXTERNAL_CORRELATION_KIND_" {
        UNKNOWN = 1;
        OPENACC = 2;
        CUSTOM0 = 3;
        CUSTOM1 = 4;
        CUSTOM2 = 5;
    }

    /// What a record's object id names.
    object_kind: CUpti_ActivityObjectKind, "CUPTI_ACTIVITY_OBJECT_" {
        PROCESS = 1;
        THREAD = 2;
    }

    /// Callback domains.
    domain: CUpti_CallbackDomain, "CUPTI_CB_DOMAIN_" {
        DRIVER_API = 1;
        RUNTIME_API = 2;
        RESOURCE = 3;
        SYNCHRONIZE = 4;
        NVTX = 5;
        STATE = 6;
    }

    /// Whether an API callback comes before or after the call.
    callback_site: CUpti_ApiCallbackSite, "CUPTI_API_" {
        ENTER = 0;
        EXIT = 1;
    }

    /// Callback ids of the resource domain.
    resource_cbid: CUpti_CallbackIdResource, "CUPTI_CBID_RESOURCE_" {
        CONTEXT_CREATED = 1;
        CONTEXT_DESTROY_STARTING = 2;
        STREAM_CREATED = 3;
        STREAM_DESTROY_STARTING = 4;
        CU_INIT_FINISHED = 5;
        MODULE_LOADED = 6;
        MODULE_UNLOAD_STARTING = 7;
    }
}

/// The name of a result code, `"UNKNOWN_CODE"` for one that we do not know.
///
/// `cuptiGetResultString` is not used for this: without a driver it fails itself (13.3 and later)
/// or crashes (13.2).
#[must_use]
pub fn result_name(code: u32) -> &'static str {
    result::name(code).unwrap_or("UNKNOWN_CODE")
}
