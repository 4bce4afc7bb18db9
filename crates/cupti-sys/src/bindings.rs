// Made by `cargo xtask bindings`. Do not edit.
#![allow(
    clippy::all,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rust_2018_idioms,
    unsafe_op_in_unsafe_fn,
    unreachable_pub,
    reason = "generated: the names and shapes are the C headers'"
)]

pub type CUcontext = *mut core::ffi::c_void;
pub type CUstream = *mut core::ffi::c_void;
pub type CUpti_SubscriberHandle = *mut core::ffi::c_void;
pub type CUpti_Activity = core::ffi::c_void;
pub type CUpti_ActivityKernel13__bindgen_ty_1 = u8;

#[derive(PartialEq, Eq, Copy, Clone, Debug, Hash)]
#[repr(C)]
pub struct __BindgenOpaqueArray<T>(pub T);
impl<T: Copy + Default, const N: usize> Default for __BindgenOpaqueArray<[T; N]> {
    fn default() -> Self {
        Self([<T as Default>::default(); N])
    }
}
#[derive(PartialEq, Eq, Copy, Clone, Debug, Hash)]
#[repr(C, align(8))]
pub struct __BindgenOpaqueArray8<T>(pub T);
impl<T: Copy + Default, const N: usize> Default for __BindgenOpaqueArray8<[T; N]> {
    fn default() -> Self {
        Self([<T as Default>::default(); N])
    }
}
#[repr(C)]
pub struct __BindgenUnionField<T>(::core::marker::PhantomData<T>);
impl<T> __BindgenUnionField<T> {
    #[inline]
    pub const fn new() -> Self {
        __BindgenUnionField(::core::marker::PhantomData)
    }
    #[inline]
    pub const unsafe fn as_ref(&self) -> &T {
        unsafe { ::core::mem::transmute(self) }
    }
    #[inline]
    pub const unsafe fn as_mut(&mut self) -> &mut T {
        unsafe { ::core::mem::transmute(self) }
    }
}
impl<T> ::core::default::Default for __BindgenUnionField<T> {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}
impl<T> ::core::clone::Clone for __BindgenUnionField<T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> ::core::marker::Copy for __BindgenUnionField<T> {}
impl<T> ::core::fmt::Debug for __BindgenUnionField<T> {
    fn fmt(&self, fmt: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        fmt.write_str("__BindgenUnionField")
    }
}
impl<T> ::core::hash::Hash for __BindgenUnionField<T> {
    fn hash<H: ::core::hash::Hasher>(&self, _state: &mut H) {}
}
impl<T> ::core::cmp::PartialEq for __BindgenUnionField<T> {
    fn eq(&self, _other: &__BindgenUnionField<T>) -> bool {
        true
    }
}
impl<T> ::core::cmp::Eq for __BindgenUnionField<T> {}
pub type cuuint64_t = u64;
pub type CUdeviceptr_v2 = ::core::ffi::c_ulonglong;
pub type CUdeviceptr = CUdeviceptr_v2;
pub type CUdevice_v1 = ::core::ffi::c_int;
pub type CUdevice = CUdevice_v1;
#[repr(C)]
#[derive(Debug)]
pub struct CUctx_st {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct CUmod_st {
    _unused: [u8; 0],
}
pub type CUmodule = *mut CUmod_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUfunc_st {
    _unused: [u8; 0],
}
pub type CUfunction = *mut CUfunc_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUlib_st {
    _unused: [u8; 0],
}
pub type CUlibrary = *mut CUlib_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUkern_st {
    _unused: [u8; 0],
}
pub type CUkernel = *mut CUkern_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUarray_st {
    _unused: [u8; 0],
}
pub type CUarray = *mut CUarray_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUmipmappedArray_st {
    _unused: [u8; 0],
}
pub type CUmipmappedArray = *mut CUmipmappedArray_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUstream_st {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct CUextMemory_st {
    _unused: [u8; 0],
}
pub type CUexternalMemory = *mut CUextMemory_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUgraph_st {
    _unused: [u8; 0],
}
pub type CUgraph = *mut CUgraph_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUgraphNode_st {
    _unused: [u8; 0],
}
pub type CUgraphNode = *mut CUgraphNode_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUgraphExec_st {
    _unused: [u8; 0],
}
pub type CUgraphExec = *mut CUgraphExec_st;
#[repr(C)]
#[derive(Debug)]
pub struct CUmemPoolHandle_st {
    _unused: [u8; 0],
}
pub type CUmemoryPool = *mut CUmemPoolHandle_st;
pub type CUgraphConditionalHandle = cuuint64_t;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUipcMemHandle_st {
    pub reserved: [::core::ffi::c_char; 64usize],
}
pub type CUipcMemHandle_v1 = CUipcMemHandle_st;
pub type CUipcMemHandle = CUipcMemHandle_v1;
pub type CUDA_BATCH_MEM_OP_NODE_PARAMS_v2 = __BindgenOpaqueArray8<[u8; 32usize]>;
pub const CU_AD_FORMAT_UNSIGNED_INT8: CUarray_format_enum = 1;
pub const CU_AD_FORMAT_UNSIGNED_INT16: CUarray_format_enum = 2;
pub const CU_AD_FORMAT_UNSIGNED_INT32: CUarray_format_enum = 3;
pub const CU_AD_FORMAT_SIGNED_INT8: CUarray_format_enum = 8;
pub const CU_AD_FORMAT_SIGNED_INT16: CUarray_format_enum = 9;
pub const CU_AD_FORMAT_SIGNED_INT32: CUarray_format_enum = 10;
pub const CU_AD_FORMAT_HALF: CUarray_format_enum = 16;
pub const CU_AD_FORMAT_FLOAT: CUarray_format_enum = 32;
pub const CU_AD_FORMAT_NV12: CUarray_format_enum = 176;
pub const CU_AD_FORMAT_UNORM_INT8X1: CUarray_format_enum = 192;
pub const CU_AD_FORMAT_UNORM_INT8X2: CUarray_format_enum = 193;
pub const CU_AD_FORMAT_UNORM_INT8X4: CUarray_format_enum = 194;
pub const CU_AD_FORMAT_UNORM_INT16X1: CUarray_format_enum = 195;
pub const CU_AD_FORMAT_UNORM_INT16X2: CUarray_format_enum = 196;
pub const CU_AD_FORMAT_UNORM_INT16X4: CUarray_format_enum = 197;
pub const CU_AD_FORMAT_SNORM_INT8X1: CUarray_format_enum = 198;
pub const CU_AD_FORMAT_SNORM_INT8X2: CUarray_format_enum = 199;
pub const CU_AD_FORMAT_SNORM_INT8X4: CUarray_format_enum = 200;
pub const CU_AD_FORMAT_SNORM_INT16X1: CUarray_format_enum = 201;
pub const CU_AD_FORMAT_SNORM_INT16X2: CUarray_format_enum = 202;
pub const CU_AD_FORMAT_SNORM_INT16X4: CUarray_format_enum = 203;
pub const CU_AD_FORMAT_BC1_UNORM: CUarray_format_enum = 145;
pub const CU_AD_FORMAT_BC1_UNORM_SRGB: CUarray_format_enum = 146;
pub const CU_AD_FORMAT_BC2_UNORM: CUarray_format_enum = 147;
pub const CU_AD_FORMAT_BC2_UNORM_SRGB: CUarray_format_enum = 148;
pub const CU_AD_FORMAT_BC3_UNORM: CUarray_format_enum = 149;
pub const CU_AD_FORMAT_BC3_UNORM_SRGB: CUarray_format_enum = 150;
pub const CU_AD_FORMAT_BC4_UNORM: CUarray_format_enum = 151;
pub const CU_AD_FORMAT_BC4_SNORM: CUarray_format_enum = 152;
pub const CU_AD_FORMAT_BC5_UNORM: CUarray_format_enum = 153;
pub const CU_AD_FORMAT_BC5_SNORM: CUarray_format_enum = 154;
pub const CU_AD_FORMAT_BC6H_UF16: CUarray_format_enum = 155;
pub const CU_AD_FORMAT_BC6H_SF16: CUarray_format_enum = 156;
pub const CU_AD_FORMAT_BC7_UNORM: CUarray_format_enum = 157;
pub const CU_AD_FORMAT_BC7_UNORM_SRGB: CUarray_format_enum = 158;
pub const CU_AD_FORMAT_P010: CUarray_format_enum = 159;
pub const CU_AD_FORMAT_P016: CUarray_format_enum = 161;
pub const CU_AD_FORMAT_NV16: CUarray_format_enum = 162;
pub const CU_AD_FORMAT_P210: CUarray_format_enum = 163;
pub const CU_AD_FORMAT_P216: CUarray_format_enum = 164;
pub const CU_AD_FORMAT_YUY2: CUarray_format_enum = 165;
pub const CU_AD_FORMAT_Y210: CUarray_format_enum = 166;
pub const CU_AD_FORMAT_Y216: CUarray_format_enum = 167;
pub const CU_AD_FORMAT_AYUV: CUarray_format_enum = 168;
pub const CU_AD_FORMAT_Y410: CUarray_format_enum = 169;
pub const CU_AD_FORMAT_Y416: CUarray_format_enum = 177;
pub const CU_AD_FORMAT_Y444_PLANAR8: CUarray_format_enum = 178;
pub const CU_AD_FORMAT_Y444_PLANAR10: CUarray_format_enum = 179;
pub const CU_AD_FORMAT_YUV444_8bit_SemiPlanar: CUarray_format_enum = 180;
pub const CU_AD_FORMAT_YUV444_16bit_SemiPlanar: CUarray_format_enum = 181;
pub const CU_AD_FORMAT_UNORM_INT_101010_2: CUarray_format_enum = 80;
pub const CU_AD_FORMAT_UINT8_PACKED_422: CUarray_format_enum = 81;
pub const CU_AD_FORMAT_UINT8_PACKED_444: CUarray_format_enum = 82;
pub const CU_AD_FORMAT_UINT8_SEMIPLANAR_420: CUarray_format_enum = 83;
pub const CU_AD_FORMAT_UINT16_SEMIPLANAR_420: CUarray_format_enum = 84;
pub const CU_AD_FORMAT_UINT8_SEMIPLANAR_422: CUarray_format_enum = 85;
pub const CU_AD_FORMAT_UINT16_SEMIPLANAR_422: CUarray_format_enum = 86;
pub const CU_AD_FORMAT_UINT8_SEMIPLANAR_444: CUarray_format_enum = 87;
pub const CU_AD_FORMAT_UINT16_SEMIPLANAR_444: CUarray_format_enum = 88;
pub const CU_AD_FORMAT_UINT8_PLANAR_420: CUarray_format_enum = 89;
pub const CU_AD_FORMAT_UINT16_PLANAR_420: CUarray_format_enum = 90;
pub const CU_AD_FORMAT_UINT8_PLANAR_422: CUarray_format_enum = 91;
pub const CU_AD_FORMAT_UINT16_PLANAR_422: CUarray_format_enum = 92;
pub const CU_AD_FORMAT_UINT8_PLANAR_444: CUarray_format_enum = 93;
pub const CU_AD_FORMAT_UINT16_PLANAR_444: CUarray_format_enum = 94;
pub const CU_AD_FORMAT_MAX: CUarray_format_enum = 2147483647;
pub type CUarray_format_enum = ::core::ffi::c_uint;
pub use self::CUarray_format_enum as CUarray_format;
pub const CU_JIT_MAX_REGISTERS: CUjit_option_enum = 0;
pub const CU_JIT_THREADS_PER_BLOCK: CUjit_option_enum = 1;
pub const CU_JIT_WALL_TIME: CUjit_option_enum = 2;
pub const CU_JIT_INFO_LOG_BUFFER: CUjit_option_enum = 3;
pub const CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES: CUjit_option_enum = 4;
pub const CU_JIT_ERROR_LOG_BUFFER: CUjit_option_enum = 5;
pub const CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES: CUjit_option_enum = 6;
pub const CU_JIT_OPTIMIZATION_LEVEL: CUjit_option_enum = 7;
pub const CU_JIT_TARGET_FROM_CUCONTEXT: CUjit_option_enum = 8;
pub const CU_JIT_TARGET: CUjit_option_enum = 9;
pub const CU_JIT_FALLBACK_STRATEGY: CUjit_option_enum = 10;
pub const CU_JIT_GENERATE_DEBUG_INFO: CUjit_option_enum = 11;
pub const CU_JIT_LOG_VERBOSE: CUjit_option_enum = 12;
pub const CU_JIT_GENERATE_LINE_INFO: CUjit_option_enum = 13;
pub const CU_JIT_CACHE_MODE: CUjit_option_enum = 14;
pub const CU_JIT_NEW_SM3X_OPT: CUjit_option_enum = 15;
pub const CU_JIT_FAST_COMPILE: CUjit_option_enum = 16;
pub const CU_JIT_GLOBAL_SYMBOL_NAMES: CUjit_option_enum = 17;
pub const CU_JIT_GLOBAL_SYMBOL_ADDRESSES: CUjit_option_enum = 18;
pub const CU_JIT_GLOBAL_SYMBOL_COUNT: CUjit_option_enum = 19;
pub const CU_JIT_LTO: CUjit_option_enum = 20;
pub const CU_JIT_FTZ: CUjit_option_enum = 21;
pub const CU_JIT_PREC_DIV: CUjit_option_enum = 22;
pub const CU_JIT_PREC_SQRT: CUjit_option_enum = 23;
pub const CU_JIT_FMA: CUjit_option_enum = 24;
pub const CU_JIT_REFERENCED_KERNEL_NAMES: CUjit_option_enum = 25;
pub const CU_JIT_REFERENCED_KERNEL_COUNT: CUjit_option_enum = 26;
pub const CU_JIT_REFERENCED_VARIABLE_NAMES: CUjit_option_enum = 27;
pub const CU_JIT_REFERENCED_VARIABLE_COUNT: CUjit_option_enum = 28;
pub const CU_JIT_OPTIMIZE_UNUSED_DEVICE_VARIABLES: CUjit_option_enum = 29;
pub const CU_JIT_POSITION_INDEPENDENT_CODE: CUjit_option_enum = 30;
pub const CU_JIT_MIN_CTA_PER_SM: CUjit_option_enum = 31;
pub const CU_JIT_MAX_THREADS_PER_BLOCK: CUjit_option_enum = 32;
pub const CU_JIT_OVERRIDE_DIRECTIVE_VALUES: CUjit_option_enum = 33;
pub const CU_JIT_SPLIT_COMPILE: CUjit_option_enum = 34;
pub const CU_JIT_BINARY_LOADER_THREAD_COUNT: CUjit_option_enum = 35;
pub const CU_JIT_NUM_OPTIONS: CUjit_option_enum = 36;
pub type CUjit_option_enum = ::core::ffi::c_uint;
pub use self::CUjit_option_enum as CUjit_option;
pub const CU_LIMIT_STACK_SIZE: CUlimit_enum = 0;
pub const CU_LIMIT_PRINTF_FIFO_SIZE: CUlimit_enum = 1;
pub const CU_LIMIT_MALLOC_HEAP_SIZE: CUlimit_enum = 2;
pub const CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH: CUlimit_enum = 3;
pub const CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT: CUlimit_enum = 4;
pub const CU_LIMIT_MAX_L2_FETCH_GRANULARITY: CUlimit_enum = 5;
pub const CU_LIMIT_PERSISTING_L2_CACHE_SIZE: CUlimit_enum = 6;
pub const CU_LIMIT_SHMEM_SIZE: CUlimit_enum = 7;
pub const CU_LIMIT_CIG_ENABLED: CUlimit_enum = 8;
pub const CU_LIMIT_CIG_SHMEM_FALLBACK_ENABLED: CUlimit_enum = 9;
pub const CU_LIMIT_PER_BLOCK_MEMORY_SIZE: CUlimit_enum = 10;
pub const CU_LIMIT_MAX: CUlimit_enum = 11;
pub type CUlimit_enum = ::core::ffi::c_uint;
pub use self::CUlimit_enum as CUlimit;
pub const CU_ACCESS_PROPERTY_NORMAL: CUaccessProperty_enum = 0;
pub const CU_ACCESS_PROPERTY_STREAMING: CUaccessProperty_enum = 1;
pub const CU_ACCESS_PROPERTY_PERSISTING: CUaccessProperty_enum = 2;
pub type CUaccessProperty_enum = ::core::ffi::c_uint;
pub use self::CUaccessProperty_enum as CUaccessProperty;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUaccessPolicyWindow_st {
    pub base_ptr: *mut ::core::ffi::c_void,
    pub num_bytes: usize,
    pub hitRatio: f32,
    pub hitProp: CUaccessProperty,
    pub missProp: CUaccessProperty,
}
pub type CUaccessPolicyWindow_v1 = CUaccessPolicyWindow_st;
pub type CUaccessPolicyWindow = CUaccessPolicyWindow_v1;
pub type CUDA_KERNEL_NODE_PARAMS_v3 = __BindgenOpaqueArray8<[u8; 72usize]>;
pub type CUDA_MEMSET_NODE_PARAMS_v2 = __BindgenOpaqueArray8<[u8; 48usize]>;
pub type CUDA_HOST_NODE_PARAMS_v2 = __BindgenOpaqueArray8<[u8; 32usize]>;
pub const CU_GRAPH_COND_TYPE_IF: CUgraphConditionalNodeType_enum = 0;
pub const CU_GRAPH_COND_TYPE_WHILE: CUgraphConditionalNodeType_enum = 1;
pub const CU_GRAPH_COND_TYPE_SWITCH: CUgraphConditionalNodeType_enum = 2;
pub type CUgraphConditionalNodeType_enum = ::core::ffi::c_uint;
pub use self::CUgraphConditionalNodeType_enum as CUgraphConditionalNodeType;
#[repr(C)]
pub struct CUDA_CONDITIONAL_NODE_PARAMS {
    pub handle: CUgraphConditionalHandle,
    pub type_: CUgraphConditionalNodeType,
    pub size: ::core::ffi::c_uint,
    pub phGraph_out: *mut CUgraph,
    pub ctx: CUcontext,
}
pub const CU_GRAPH_NODE_TYPE_KERNEL: CUgraphNodeType_enum = 0;
pub const CU_GRAPH_NODE_TYPE_MEMCPY: CUgraphNodeType_enum = 1;
pub const CU_GRAPH_NODE_TYPE_MEMSET: CUgraphNodeType_enum = 2;
pub const CU_GRAPH_NODE_TYPE_HOST: CUgraphNodeType_enum = 3;
pub const CU_GRAPH_NODE_TYPE_GRAPH: CUgraphNodeType_enum = 4;
pub const CU_GRAPH_NODE_TYPE_EMPTY: CUgraphNodeType_enum = 5;
pub const CU_GRAPH_NODE_TYPE_WAIT_EVENT: CUgraphNodeType_enum = 6;
pub const CU_GRAPH_NODE_TYPE_EVENT_RECORD: CUgraphNodeType_enum = 7;
pub const CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL: CUgraphNodeType_enum = 8;
pub const CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT: CUgraphNodeType_enum = 9;
pub const CU_GRAPH_NODE_TYPE_MEM_ALLOC: CUgraphNodeType_enum = 10;
pub const CU_GRAPH_NODE_TYPE_MEM_FREE: CUgraphNodeType_enum = 11;
pub const CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: CUgraphNodeType_enum = 12;
pub const CU_GRAPH_NODE_TYPE_CONDITIONAL: CUgraphNodeType_enum = 13;
pub const CU_GRAPH_NODE_TYPE_MEMCPY_BATCH: CUgraphNodeType_enum = 14;
pub const CU_GRAPH_NODE_TYPE_RESERVED_16: CUgraphNodeType_enum = 16;
pub const CU_GRAPH_NODE_TYPE_EXTERNAL_ENGINE: CUgraphNodeType_enum = 17;
pub const CU_GRAPH_NODE_TYPE_FABRIC_CPY_BATCH: CUgraphNodeType_enum = 18;
pub type CUgraphNodeType_enum = ::core::ffi::c_uint;
pub use self::CUgraphNodeType_enum as CUgraphNodeType;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUgraphEdgeData_st {
    pub from_port: ::core::ffi::c_uchar,
    pub to_port: ::core::ffi::c_uchar,
    pub type_: ::core::ffi::c_uchar,
    pub reserved: [::core::ffi::c_uchar; 5usize],
}
pub type CUgraphEdgeData = CUgraphEdgeData_st;
pub const CU_STREAM_CAPTURE_MODE_GLOBAL: CUstreamCaptureMode_enum = 0;
pub const CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: CUstreamCaptureMode_enum = 1;
pub const CU_STREAM_CAPTURE_MODE_RELAXED: CUstreamCaptureMode_enum = 2;
pub type CUstreamCaptureMode_enum = ::core::ffi::c_uint;
pub use self::CUstreamCaptureMode_enum as CUstreamCaptureMode;
pub type CUexecAffinityParam = __BindgenOpaqueArray<[u32; 2usize]>;
pub type CUctxCreateParams = __BindgenOpaqueArray8<[u8; 24usize]>;
pub const CU_LIBRARY_HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE: CUlibraryOption_enum = 0;
pub const CU_LIBRARY_BINARY_IS_PRESERVED: CUlibraryOption_enum = 1;
pub const CU_LIBRARY_NUM_OPTIONS: CUlibraryOption_enum = 2;
pub type CUlibraryOption_enum = ::core::ffi::c_uint;
pub use self::CUlibraryOption_enum as CUlibraryOption;
pub type CUDA_MEMCPY_NODE_PARAMS = __BindgenOpaqueArray8<[u8; 216usize]>;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUDA_ARRAY_DESCRIPTOR_st {
    pub Width: usize,
    pub Height: usize,
    pub Format: CUarray_format,
    pub NumChannels: ::core::ffi::c_uint,
}
pub type CUDA_ARRAY_DESCRIPTOR_v2 = CUDA_ARRAY_DESCRIPTOR_st;
pub type CUDA_ARRAY_DESCRIPTOR = CUDA_ARRAY_DESCRIPTOR_v2;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUDA_ARRAY3D_DESCRIPTOR_st {
    pub Width: usize,
    pub Height: usize,
    pub Depth: usize,
    pub Format: CUarray_format,
    pub NumChannels: ::core::ffi::c_uint,
    pub Flags: ::core::ffi::c_uint,
}
pub type CUDA_ARRAY3D_DESCRIPTOR_v2 = CUDA_ARRAY3D_DESCRIPTOR_st;
pub type CUDA_ARRAY3D_DESCRIPTOR = CUDA_ARRAY3D_DESCRIPTOR_v2;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUDA_EXTERNAL_MEMORY_BUFFER_DESC_st {
    pub offset: ::core::ffi::c_ulonglong,
    pub size: ::core::ffi::c_ulonglong,
    pub flags: ::core::ffi::c_uint,
    pub reserved: [::core::ffi::c_uint; 16usize],
}
pub type CUDA_EXTERNAL_MEMORY_BUFFER_DESC_v1 = CUDA_EXTERNAL_MEMORY_BUFFER_DESC_st;
pub type CUDA_EXTERNAL_MEMORY_BUFFER_DESC = CUDA_EXTERNAL_MEMORY_BUFFER_DESC_v1;
pub type CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2 = __BindgenOpaqueArray8<[u8; 32usize]>;
pub type CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2 = __BindgenOpaqueArray8<[u8; 32usize]>;
pub type CUmemGenericAllocationHandle_v1 = ::core::ffi::c_ulonglong;
pub type CUmemGenericAllocationHandle = CUmemGenericAllocationHandle_v1;
pub const CU_MEM_HANDLE_TYPE_NONE: CUmemAllocationHandleType_enum = 0;
pub const CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR: CUmemAllocationHandleType_enum = 1;
pub const CU_MEM_HANDLE_TYPE_WIN32: CUmemAllocationHandleType_enum = 2;
pub const CU_MEM_HANDLE_TYPE_WIN32_KMT: CUmemAllocationHandleType_enum = 4;
pub const CU_MEM_HANDLE_TYPE_FABRIC: CUmemAllocationHandleType_enum = 8;
pub const CU_MEM_HANDLE_TYPE_MAX: CUmemAllocationHandleType_enum = 2147483647;
pub type CUmemAllocationHandleType_enum = ::core::ffi::c_uint;
pub use self::CUmemAllocationHandleType_enum as CUmemAllocationHandleType;
pub const CU_MEM_ACCESS_FLAGS_PROT_NONE: CUmemAccess_flags_enum = 0;
pub const CU_MEM_ACCESS_FLAGS_PROT_READ: CUmemAccess_flags_enum = 1;
pub const CU_MEM_ACCESS_FLAGS_PROT_READWRITE: CUmemAccess_flags_enum = 3;
pub const CU_MEM_ACCESS_FLAGS_PROT_MAX: CUmemAccess_flags_enum = 2147483647;
pub type CUmemAccess_flags_enum = ::core::ffi::c_uint;
pub use self::CUmemAccess_flags_enum as CUmemAccess_flags;
pub const CU_MEM_LOCATION_TYPE_INVALID: CUmemLocationType_enum = 0;
pub const CU_MEM_LOCATION_TYPE_NONE: CUmemLocationType_enum = 0;
pub const CU_MEM_LOCATION_TYPE_DEVICE: CUmemLocationType_enum = 1;
pub const CU_MEM_LOCATION_TYPE_HOST: CUmemLocationType_enum = 2;
pub const CU_MEM_LOCATION_TYPE_HOST_NUMA: CUmemLocationType_enum = 3;
pub const CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT: CUmemLocationType_enum = 4;
pub const CU_MEM_LOCATION_TYPE_INVISIBLE: CUmemLocationType_enum = 5;
pub const CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN: CUmemLocationType_enum = 6;
pub const CU_MEM_LOCATION_TYPE_MAX: CUmemLocationType_enum = 2147483647;
pub type CUmemLocationType_enum = ::core::ffi::c_uint;
pub use self::CUmemLocationType_enum as CUmemLocationType;
pub const CU_MEM_ALLOCATION_TYPE_INVALID: CUmemAllocationType_enum = 0;
pub const CU_MEM_ALLOCATION_TYPE_PINNED: CUmemAllocationType_enum = 1;
pub const CU_MEM_ALLOCATION_TYPE_MANAGED: CUmemAllocationType_enum = 2;
pub const CU_MEM_ALLOCATION_TYPE_MAX: CUmemAllocationType_enum = 2147483647;
pub type CUmemAllocationType_enum = ::core::ffi::c_uint;
pub use self::CUmemAllocationType_enum as CUmemAllocationType;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUmemLocation_st {
    pub type_: CUmemLocationType,
    pub __bindgen_anon_1: CUmemLocation_st__bindgen_ty_1,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union CUmemLocation_st__bindgen_ty_1 {
    pub id: ::core::ffi::c_int,
    pub localized: CUmemLocation_st__bindgen_ty_1__bindgen_ty_1,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUmemLocation_st__bindgen_ty_1__bindgen_ty_1 {
    pub deviceId: ::core::ffi::c_uchar,
    pub localityDomainId: ::core::ffi::c_uchar,
}
pub type CUmemLocation_v1 = CUmemLocation_st;
pub type CUmemLocation = CUmemLocation_v1;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUmemAllocationProp_st {
    pub type_: CUmemAllocationType,
    pub requestedHandleTypes: CUmemAllocationHandleType,
    pub location: CUmemLocation,
    pub win32HandleMetaData: *mut ::core::ffi::c_void,
    pub allocFlags: CUmemAllocationProp_st__bindgen_ty_1,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUmemAllocationProp_st__bindgen_ty_1 {
    pub compressionType: ::core::ffi::c_uchar,
    pub gpuDirectRDMACapable: ::core::ffi::c_uchar,
    pub usage: ::core::ffi::c_ushort,
    pub reserved: [::core::ffi::c_uchar; 4usize],
}
pub type CUmemAllocationProp_v1 = CUmemAllocationProp_st;
pub type CUmemAllocationProp = CUmemAllocationProp_v1;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUmulticastObjectProp_st {
    pub numDevices: ::core::ffi::c_uint,
    pub size: usize,
    pub handleTypes: ::core::ffi::c_ulonglong,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type CUmulticastObjectProp_v1 = CUmulticastObjectProp_st;
pub type CUmulticastObjectProp = CUmulticastObjectProp_v1;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUmemAccessDesc_st {
    pub location: CUmemLocation,
    pub flags: CUmemAccess_flags,
}
pub type CUmemAccessDesc_v1 = CUmemAccessDesc_st;
pub type CUmemAccessDesc = CUmemAccessDesc_v1;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUmemPoolProps_st {
    pub allocType: CUmemAllocationType,
    pub handleTypes: CUmemAllocationHandleType,
    pub location: CUmemLocation,
    pub win32SecurityAttributes: *mut ::core::ffi::c_void,
    pub maxSize: usize,
    pub usage: ::core::ffi::c_ushort,
    pub gpuDirectRDMACapable: ::core::ffi::c_uchar,
    pub reserved: [::core::ffi::c_uchar; 53usize],
}
pub type CUmemPoolProps_v1 = CUmemPoolProps_st;
pub type CUmemPoolProps = CUmemPoolProps_v1;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUmemPoolPtrExportData_st {
    pub reserved: [::core::ffi::c_uchar; 64usize],
}
pub type CUmemPoolPtrExportData_v1 = CUmemPoolPtrExportData_st;
pub type CUmemPoolPtrExportData = CUmemPoolPtrExportData_v1;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUDA_MEM_ALLOC_NODE_PARAMS_v1_st {
    pub poolProps: CUmemPoolProps,
    pub accessDescs: *const CUmemAccessDesc,
    pub accessDescCount: usize,
    pub bytesize: usize,
    pub dptr: CUdeviceptr,
}
pub type CUDA_MEM_ALLOC_NODE_PARAMS_v1 = CUDA_MEM_ALLOC_NODE_PARAMS_v1_st;
pub type CUDA_MEM_ALLOC_NODE_PARAMS = CUDA_MEM_ALLOC_NODE_PARAMS_v1;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUDA_MEM_ALLOC_NODE_PARAMS_v2_st {
    pub poolProps: CUmemPoolProps,
    pub accessDescs: *const CUmemAccessDesc,
    pub accessDescCount: usize,
    pub bytesize: usize,
    pub dptr: CUdeviceptr,
}
pub type CUDA_MEM_ALLOC_NODE_PARAMS_v2 = CUDA_MEM_ALLOC_NODE_PARAMS_v2_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUDA_MEM_FREE_NODE_PARAMS_st {
    pub dptr: CUdeviceptr,
}
pub type CUDA_MEM_FREE_NODE_PARAMS = CUDA_MEM_FREE_NODE_PARAMS_st;
pub type CUDA_CHILD_GRAPH_NODE_PARAMS = __BindgenOpaqueArray8<[u8; 16usize]>;
pub type CUDA_EVENT_RECORD_NODE_PARAMS = __BindgenOpaqueArray8<[u8; 16usize]>;
pub type CUDA_EVENT_WAIT_NODE_PARAMS = __BindgenOpaqueArray8<[u8; 8usize]>;
pub type CUDA_MEMCPY_BATCH_NODE_PARAMS_V1 = __BindgenOpaqueArray8<[u8; 64usize]>;
pub type CUDA_FABRIC_CPY_BATCH_NODE_PARAMS_V1 = __BindgenOpaqueArray8<[u8; 32usize]>;
#[repr(C)]
pub struct CUgraphNodeParams_st {
    pub type_: CUgraphNodeType,
    pub reserved0: [::core::ffi::c_int; 3usize],
    pub __bindgen_anon_1: CUgraphNodeParams_st__bindgen_ty_1,
    pub reserved2: ::core::ffi::c_longlong,
}
#[repr(C)]
pub struct CUgraphNodeParams_st__bindgen_ty_1 {
    pub reserved1: __BindgenUnionField<[::core::ffi::c_longlong; 29usize]>,
    pub kernel: __BindgenUnionField<CUDA_KERNEL_NODE_PARAMS_v3>,
    pub memcpy: __BindgenUnionField<CUDA_MEMCPY_NODE_PARAMS>,
    pub memset: __BindgenUnionField<CUDA_MEMSET_NODE_PARAMS_v2>,
    pub host: __BindgenUnionField<CUDA_HOST_NODE_PARAMS_v2>,
    pub graph: __BindgenUnionField<CUDA_CHILD_GRAPH_NODE_PARAMS>,
    pub eventWait: __BindgenUnionField<CUDA_EVENT_WAIT_NODE_PARAMS>,
    pub eventRecord: __BindgenUnionField<CUDA_EVENT_RECORD_NODE_PARAMS>,
    pub extSemSignal: __BindgenUnionField<CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2>,
    pub extSemWait: __BindgenUnionField<CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2>,
    pub alloc: __BindgenUnionField<CUDA_MEM_ALLOC_NODE_PARAMS_v2>,
    pub free: __BindgenUnionField<CUDA_MEM_FREE_NODE_PARAMS>,
    pub memOp: __BindgenUnionField<CUDA_BATCH_MEM_OP_NODE_PARAMS_v2>,
    pub conditional: __BindgenUnionField<CUDA_CONDITIONAL_NODE_PARAMS>,
    pub memcpyBatch: __BindgenUnionField<CUDA_MEMCPY_BATCH_NODE_PARAMS_V1>,
    pub fabricCpyBatch: __BindgenUnionField<CUDA_FABRIC_CPY_BATCH_NODE_PARAMS_V1>,
    pub asBytes: __BindgenUnionField<[::core::ffi::c_char; 232usize]>,
    pub bindgen_union_field: __BindgenOpaqueArray8<[u8; 232usize]>,
}
pub type CUgraphNodeParams = CUgraphNodeParams_st;
pub const CUPTI_SUCCESS: CUptiResult = 0;
pub const CUPTI_ERROR_INVALID_PARAMETER: CUptiResult = 1;
pub const CUPTI_ERROR_INVALID_DEVICE: CUptiResult = 2;
pub const CUPTI_ERROR_INVALID_CONTEXT: CUptiResult = 3;
pub const CUPTI_ERROR_INVALID_EVENT_DOMAIN_ID: CUptiResult = 4;
pub const CUPTI_ERROR_INVALID_EVENT_ID: CUptiResult = 5;
pub const CUPTI_ERROR_INVALID_EVENT_NAME: CUptiResult = 6;
pub const CUPTI_ERROR_INVALID_OPERATION: CUptiResult = 7;
pub const CUPTI_ERROR_OUT_OF_MEMORY: CUptiResult = 8;
pub const CUPTI_ERROR_HARDWARE: CUptiResult = 9;
pub const CUPTI_ERROR_PARAMETER_SIZE_NOT_SUFFICIENT: CUptiResult = 10;
pub const CUPTI_ERROR_API_NOT_IMPLEMENTED: CUptiResult = 11;
pub const CUPTI_ERROR_MAX_LIMIT_REACHED: CUptiResult = 12;
pub const CUPTI_ERROR_NOT_READY: CUptiResult = 13;
pub const CUPTI_ERROR_NOT_COMPATIBLE: CUptiResult = 14;
pub const CUPTI_ERROR_NOT_INITIALIZED: CUptiResult = 15;
pub const CUPTI_ERROR_INVALID_METRIC_ID: CUptiResult = 16;
pub const CUPTI_ERROR_INVALID_METRIC_NAME: CUptiResult = 17;
pub const CUPTI_ERROR_QUEUE_EMPTY: CUptiResult = 18;
pub const CUPTI_ERROR_INVALID_HANDLE: CUptiResult = 19;
pub const CUPTI_ERROR_INVALID_STREAM: CUptiResult = 20;
pub const CUPTI_ERROR_INVALID_KIND: CUptiResult = 21;
pub const CUPTI_ERROR_INVALID_EVENT_VALUE: CUptiResult = 22;
pub const CUPTI_ERROR_DISABLED: CUptiResult = 23;
pub const CUPTI_ERROR_INVALID_MODULE: CUptiResult = 24;
pub const CUPTI_ERROR_INVALID_METRIC_VALUE: CUptiResult = 25;
pub const CUPTI_ERROR_HARDWARE_BUSY: CUptiResult = 26;
pub const CUPTI_ERROR_NOT_SUPPORTED: CUptiResult = 27;
pub const CUPTI_ERROR_UM_PROFILING_NOT_SUPPORTED: CUptiResult = 28;
pub const CUPTI_ERROR_UM_PROFILING_NOT_SUPPORTED_ON_DEVICE: CUptiResult = 29;
pub const CUPTI_ERROR_UM_PROFILING_NOT_SUPPORTED_ON_NON_P2P_DEVICES: CUptiResult = 30;
pub const CUPTI_ERROR_UM_PROFILING_NOT_SUPPORTED_WITH_MPS: CUptiResult = 31;
pub const CUPTI_ERROR_CDP_TRACING_NOT_SUPPORTED: CUptiResult = 32;
pub const CUPTI_ERROR_VIRTUALIZED_DEVICE_NOT_SUPPORTED: CUptiResult = 33;
pub const CUPTI_ERROR_CUDA_COMPILER_NOT_COMPATIBLE: CUptiResult = 34;
pub const CUPTI_ERROR_INSUFFICIENT_PRIVILEGES: CUptiResult = 35;
pub const CUPTI_ERROR_OLD_PROFILER_API_INITIALIZED: CUptiResult = 36;
pub const CUPTI_ERROR_OPENACC_UNDEFINED_ROUTINE: CUptiResult = 37;
pub const CUPTI_ERROR_LEGACY_PROFILER_NOT_SUPPORTED: CUptiResult = 38;
pub const CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED: CUptiResult = 39;
pub const CUPTI_ERROR_VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES: CUptiResult = 40;
pub const CUPTI_ERROR_CONFIDENTIAL_COMPUTING_NOT_SUPPORTED: CUptiResult = 41;
pub const CUPTI_ERROR_CMP_DEVICE_NOT_SUPPORTED: CUptiResult = 42;
pub const CUPTI_ERROR_MIG_DEVICE_NOT_SUPPORTED: CUptiResult = 43;
pub const CUPTI_ERROR_SLI_DEVICE_NOT_SUPPORTED: CUptiResult = 44;
pub const CUPTI_ERROR_WSL_DEVICE_NOT_SUPPORTED: CUptiResult = 45;
pub const CUPTI_ERROR_INVALID_CHIP_NAME: CUptiResult = 46;
pub const CUPTI_ERROR_HES_TRACE_NOT_SUPPORTED_ON_MPS: CUptiResult = 47;
pub const CUPTI_ERROR_UNKNOWN: CUptiResult = 999;
pub const CUPTI_ERROR_FORCE_INT: CUptiResult = 2147483647;
pub type CUptiResult = ::core::ffi::c_uint;
pub const CUPTI_API_ENTER: CUpti_ApiCallbackSite = 0;
pub const CUPTI_API_EXIT: CUpti_ApiCallbackSite = 1;
pub const CUPTI_API_CBSITE_FORCE_INT: CUpti_ApiCallbackSite = 2147483647;
pub type CUpti_ApiCallbackSite = ::core::ffi::c_uint;
pub const CUPTI_CB_DOMAIN_INVALID: CUpti_CallbackDomain = 0;
pub const CUPTI_CB_DOMAIN_DRIVER_API: CUpti_CallbackDomain = 1;
pub const CUPTI_CB_DOMAIN_RUNTIME_API: CUpti_CallbackDomain = 2;
pub const CUPTI_CB_DOMAIN_RESOURCE: CUpti_CallbackDomain = 3;
pub const CUPTI_CB_DOMAIN_SYNCHRONIZE: CUpti_CallbackDomain = 4;
pub const CUPTI_CB_DOMAIN_NVTX: CUpti_CallbackDomain = 5;
pub const CUPTI_CB_DOMAIN_STATE: CUpti_CallbackDomain = 6;
pub const CUPTI_CB_DOMAIN_SIZE: CUpti_CallbackDomain = 7;
pub const CUPTI_CB_DOMAIN_FORCE_INT: CUpti_CallbackDomain = 2147483647;
pub type CUpti_CallbackDomain = ::core::ffi::c_uint;
pub const CUPTI_CBID_RESOURCE_INVALID: CUpti_CallbackIdResource = 0;
pub const CUPTI_CBID_RESOURCE_CONTEXT_CREATED: CUpti_CallbackIdResource = 1;
pub const CUPTI_CBID_RESOURCE_CONTEXT_DESTROY_STARTING: CUpti_CallbackIdResource = 2;
pub const CUPTI_CBID_RESOURCE_STREAM_CREATED: CUpti_CallbackIdResource = 3;
pub const CUPTI_CBID_RESOURCE_STREAM_DESTROY_STARTING: CUpti_CallbackIdResource = 4;
pub const CUPTI_CBID_RESOURCE_CU_INIT_FINISHED: CUpti_CallbackIdResource = 5;
pub const CUPTI_CBID_RESOURCE_MODULE_LOADED: CUpti_CallbackIdResource = 6;
pub const CUPTI_CBID_RESOURCE_MODULE_UNLOAD_STARTING: CUpti_CallbackIdResource = 7;
pub const CUPTI_CBID_RESOURCE_MODULE_PROFILED: CUpti_CallbackIdResource = 8;
pub const CUPTI_CBID_RESOURCE_GRAPH_CREATED: CUpti_CallbackIdResource = 9;
pub const CUPTI_CBID_RESOURCE_GRAPH_DESTROY_STARTING: CUpti_CallbackIdResource = 10;
pub const CUPTI_CBID_RESOURCE_GRAPH_CLONED: CUpti_CallbackIdResource = 11;
pub const CUPTI_CBID_RESOURCE_GRAPHNODE_CREATE_STARTING: CUpti_CallbackIdResource = 12;
pub const CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED: CUpti_CallbackIdResource = 13;
pub const CUPTI_CBID_RESOURCE_GRAPHNODE_DESTROY_STARTING: CUpti_CallbackIdResource = 14;
pub const CUPTI_CBID_RESOURCE_GRAPHNODE_DEPENDENCY_CREATED: CUpti_CallbackIdResource = 15;
pub const CUPTI_CBID_RESOURCE_GRAPHNODE_DEPENDENCY_DESTROY_STARTING: CUpti_CallbackIdResource = 16;
pub const CUPTI_CBID_RESOURCE_GRAPHEXEC_CREATE_STARTING: CUpti_CallbackIdResource = 17;
pub const CUPTI_CBID_RESOURCE_GRAPHEXEC_CREATED: CUpti_CallbackIdResource = 18;
pub const CUPTI_CBID_RESOURCE_GRAPHEXEC_DESTROY_STARTING: CUpti_CallbackIdResource = 19;
pub const CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED: CUpti_CallbackIdResource = 20;
pub const CUPTI_CBID_RESOURCE_STREAM_ATTRIBUTE_CHANGED: CUpti_CallbackIdResource = 21;
pub const CUPTI_CBID_RESOURCE_GRAPH_NODE_UPDATED: CUpti_CallbackIdResource = 22;
pub const CUPTI_CBID_RESOURCE_GRAPH_NODE_SET_PARAMS: CUpti_CallbackIdResource = 23;
pub const CUPTI_CBID_RESOURCE_LOGICAL_ENDPOINT_CREATED: CUpti_CallbackIdResource = 24;
pub const CUPTI_CBID_RESOURCE_LOGICAL_ENDPOINT_DESTROYED: CUpti_CallbackIdResource = 25;
pub const CUPTI_CBID_RESOURCE_SIZE: CUpti_CallbackIdResource = 26;
pub const CUPTI_CBID_RESOURCE_FORCE_INT: CUpti_CallbackIdResource = 2147483647;
pub type CUpti_CallbackIdResource = ::core::ffi::c_uint;
#[repr(C)]
pub struct CUpti_CallbackData {
    pub callbackSite: CUpti_ApiCallbackSite,
    pub functionName: *const ::core::ffi::c_char,
    pub functionParams: *const ::core::ffi::c_void,
    pub functionReturnValue: *mut ::core::ffi::c_void,
    pub symbolName: *const ::core::ffi::c_char,
    pub context: CUcontext,
    pub contextUid: u32,
    pub correlationData: *mut u64,
    pub correlationId: u32,
}
pub type CUpti_CallbackId = u32;
pub type CUpti_CallbackFunc = ::core::option::Option<
    unsafe extern "C" fn(
        userdata: *mut ::core::ffi::c_void,
        domain: CUpti_CallbackDomain,
        cbid: CUpti_CallbackId,
        cbdata: *const ::core::ffi::c_void,
    ),
>;
#[repr(C)]
#[derive(Debug)]
pub struct CUpti_Subscriber_st {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUpti_SubscriberParams {
    pub structSize: usize,
    pub subscriberName: *const ::core::ffi::c_char,
    pub oldSubscriberName: *mut ::core::ffi::c_char,
    pub oldSubscriberSize: usize,
    pub allowMultipleSubscribers: u8,
    pub padding: [u8; 7usize],
}
pub const CUPTI_ACTIVITY_KIND_INVALID: CUpti_ActivityKind = 0;
pub const CUPTI_ACTIVITY_KIND_MEMCPY: CUpti_ActivityKind = 1;
pub const CUPTI_ACTIVITY_KIND_MEMSET: CUpti_ActivityKind = 2;
pub const CUPTI_ACTIVITY_KIND_KERNEL: CUpti_ActivityKind = 3;
pub const CUPTI_ACTIVITY_KIND_DRIVER: CUpti_ActivityKind = 4;
pub const CUPTI_ACTIVITY_KIND_RUNTIME: CUpti_ActivityKind = 5;
pub const CUPTI_ACTIVITY_KIND_EVENT: CUpti_ActivityKind = 6;
pub const CUPTI_ACTIVITY_KIND_METRIC: CUpti_ActivityKind = 7;
pub const CUPTI_ACTIVITY_KIND_DEVICE: CUpti_ActivityKind = 8;
pub const CUPTI_ACTIVITY_KIND_CONTEXT: CUpti_ActivityKind = 9;
pub const CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: CUpti_ActivityKind = 10;
pub const CUPTI_ACTIVITY_KIND_NAME: CUpti_ActivityKind = 11;
pub const CUPTI_ACTIVITY_KIND_MARKER: CUpti_ActivityKind = 12;
pub const CUPTI_ACTIVITY_KIND_MARKER_DATA: CUpti_ActivityKind = 13;
pub const CUPTI_ACTIVITY_KIND_SOURCE_LOCATOR: CUpti_ActivityKind = 14;
pub const CUPTI_ACTIVITY_KIND_GLOBAL_ACCESS: CUpti_ActivityKind = 15;
pub const CUPTI_ACTIVITY_KIND_BRANCH: CUpti_ActivityKind = 16;
pub const CUPTI_ACTIVITY_KIND_OVERHEAD: CUpti_ActivityKind = 17;
pub const CUPTI_ACTIVITY_KIND_CDP_KERNEL: CUpti_ActivityKind = 18;
pub const CUPTI_ACTIVITY_KIND_PREEMPTION: CUpti_ActivityKind = 19;
pub const CUPTI_ACTIVITY_KIND_ENVIRONMENT: CUpti_ActivityKind = 20;
pub const CUPTI_ACTIVITY_KIND_EVENT_INSTANCE: CUpti_ActivityKind = 21;
pub const CUPTI_ACTIVITY_KIND_MEMCPY2: CUpti_ActivityKind = 22;
pub const CUPTI_ACTIVITY_KIND_METRIC_INSTANCE: CUpti_ActivityKind = 23;
pub const CUPTI_ACTIVITY_KIND_INSTRUCTION_EXECUTION: CUpti_ActivityKind = 24;
pub const CUPTI_ACTIVITY_KIND_UNIFIED_MEMORY_COUNTER: CUpti_ActivityKind = 25;
pub const CUPTI_ACTIVITY_KIND_FUNCTION: CUpti_ActivityKind = 26;
pub const CUPTI_ACTIVITY_KIND_MODULE: CUpti_ActivityKind = 27;
pub const CUPTI_ACTIVITY_KIND_DEVICE_ATTRIBUTE: CUpti_ActivityKind = 28;
pub const CUPTI_ACTIVITY_KIND_SHARED_ACCESS: CUpti_ActivityKind = 29;
pub const CUPTI_ACTIVITY_KIND_PC_SAMPLING: CUpti_ActivityKind = 30;
pub const CUPTI_ACTIVITY_KIND_PC_SAMPLING_RECORD_INFO: CUpti_ActivityKind = 31;
pub const CUPTI_ACTIVITY_KIND_INSTRUCTION_CORRELATION: CUpti_ActivityKind = 32;
pub const CUPTI_ACTIVITY_KIND_OPENACC_DATA: CUpti_ActivityKind = 33;
pub const CUPTI_ACTIVITY_KIND_OPENACC_LAUNCH: CUpti_ActivityKind = 34;
pub const CUPTI_ACTIVITY_KIND_OPENACC_OTHER: CUpti_ActivityKind = 35;
pub const CUPTI_ACTIVITY_KIND_CUDA_EVENT: CUpti_ActivityKind = 36;
pub const CUPTI_ACTIVITY_KIND_STREAM: CUpti_ActivityKind = 37;
pub const CUPTI_ACTIVITY_KIND_SYNCHRONIZATION: CUpti_ActivityKind = 38;
pub const CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: CUpti_ActivityKind = 39;
pub const CUPTI_ACTIVITY_KIND_NVLINK: CUpti_ActivityKind = 40;
pub const CUPTI_ACTIVITY_KIND_INSTANTANEOUS_EVENT: CUpti_ActivityKind = 41;
pub const CUPTI_ACTIVITY_KIND_INSTANTANEOUS_EVENT_INSTANCE: CUpti_ActivityKind = 42;
pub const CUPTI_ACTIVITY_KIND_INSTANTANEOUS_METRIC: CUpti_ActivityKind = 43;
pub const CUPTI_ACTIVITY_KIND_INSTANTANEOUS_METRIC_INSTANCE: CUpti_ActivityKind = 44;
pub const CUPTI_ACTIVITY_KIND_MEMORY: CUpti_ActivityKind = 45;
pub const CUPTI_ACTIVITY_KIND_PCIE: CUpti_ActivityKind = 46;
pub const CUPTI_ACTIVITY_KIND_OPENMP: CUpti_ActivityKind = 47;
pub const CUPTI_ACTIVITY_KIND_INTERNAL_LAUNCH_API: CUpti_ActivityKind = 48;
pub const CUPTI_ACTIVITY_KIND_MEMORY2: CUpti_ActivityKind = 49;
pub const CUPTI_ACTIVITY_KIND_MEMORY_POOL: CUpti_ActivityKind = 50;
pub const CUPTI_ACTIVITY_KIND_GRAPH_TRACE: CUpti_ActivityKind = 51;
pub const CUPTI_ACTIVITY_KIND_JIT: CUpti_ActivityKind = 52;
pub const CUPTI_ACTIVITY_KIND_DEVICE_GRAPH_TRACE: CUpti_ActivityKind = 53;
pub const CUPTI_ACTIVITY_KIND_MEM_DECOMPRESS: CUpti_ActivityKind = 54;
pub const CUPTI_ACTIVITY_KIND_CONFIDENTIAL_COMPUTE_ROTATION: CUpti_ActivityKind = 55;
pub const CUPTI_ACTIVITY_KIND_GRAPH_HOST_NODE: CUpti_ActivityKind = 56;
pub const CUPTI_ACTIVITY_KIND_COMPUTE_ENGINE_CTX_SWITCH: CUpti_ActivityKind = 57;
pub const CUPTI_ACTIVITY_KIND_HOST_LAUNCH: CUpti_ActivityKind = 58;
pub const CUPTI_ACTIVITY_KIND_GREEN_CONTEXT: CUpti_ActivityKind = 59;
pub const CUPTI_ACTIVITY_KIND_COUNT: CUpti_ActivityKind = 60;
pub const CUPTI_ACTIVITY_KIND_FORCE_INT: CUpti_ActivityKind = 2147483647;
pub type CUpti_ActivityKind = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_OBJECT_UNKNOWN: CUpti_ActivityObjectKind = 0;
pub const CUPTI_ACTIVITY_OBJECT_PROCESS: CUpti_ActivityObjectKind = 1;
pub const CUPTI_ACTIVITY_OBJECT_THREAD: CUpti_ActivityObjectKind = 2;
pub const CUPTI_ACTIVITY_OBJECT_DEVICE: CUpti_ActivityObjectKind = 3;
pub const CUPTI_ACTIVITY_OBJECT_CONTEXT: CUpti_ActivityObjectKind = 4;
pub const CUPTI_ACTIVITY_OBJECT_STREAM: CUpti_ActivityObjectKind = 5;
pub const CUPTI_ACTIVITY_OBJECT_FORCE_INT: CUpti_ActivityObjectKind = 2147483647;
pub type CUpti_ActivityObjectKind = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub union CUpti_ActivityObjectKindId {
    pub pt: CUpti_ActivityObjectKindId__bindgen_ty_1,
    pub dcs: CUpti_ActivityObjectKindId__bindgen_ty_2,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityObjectKindId__bindgen_ty_1 {
    pub processId: u32,
    pub threadId: u32,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityObjectKindId__bindgen_ty_2 {
    pub deviceId: u32,
    pub contextId: u32,
    pub streamId: u32,
}
pub const CUPTI_ACTIVITY_OVERHEAD_UNKNOWN: CUpti_ActivityOverheadKind = 0;
pub const CUPTI_ACTIVITY_OVERHEAD_DRIVER_COMPILER: CUpti_ActivityOverheadKind = 1;
pub const CUPTI_ACTIVITY_OVERHEAD_CUPTI_BUFFER_FLUSH: CUpti_ActivityOverheadKind = 65536;
pub const CUPTI_ACTIVITY_OVERHEAD_CUPTI_INSTRUMENTATION: CUpti_ActivityOverheadKind = 131072;
pub const CUPTI_ACTIVITY_OVERHEAD_CUPTI_RESOURCE: CUpti_ActivityOverheadKind = 196608;
pub const CUPTI_ACTIVITY_OVERHEAD_RUNTIME_TRIGGERED_MODULE_LOADING: CUpti_ActivityOverheadKind =
    262144;
pub const CUPTI_ACTIVITY_OVERHEAD_LAZY_FUNCTION_LOADING: CUpti_ActivityOverheadKind = 327680;
pub const CUPTI_ACTIVITY_OVERHEAD_COMMAND_BUFFER_FULL: CUpti_ActivityOverheadKind = 393216;
pub const CUPTI_ACTIVITY_OVERHEAD_ACTIVITY_BUFFER_REQUEST: CUpti_ActivityOverheadKind = 458752;
pub const CUPTI_ACTIVITY_OVERHEAD_UVM_ACTIVITY_INIT: CUpti_ActivityOverheadKind = 524288;
pub const CUPTI_ACTIVITY_OVERHEAD_FORCE_INT: CUpti_ActivityOverheadKind = 2147483647;
pub type CUpti_ActivityOverheadKind = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_FLAG_NONE: CUpti_ActivityFlag = 0;
pub const CUPTI_ACTIVITY_FLAG_DEVICE_CONCURRENT_KERNELS: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_DEVICE_ATTRIBUTE_CUDEVICE: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_MEMCPY_ASYNC: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_MARKER_INSTANTANEOUS: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_MARKER_START: CUpti_ActivityFlag = 2;
pub const CUPTI_ACTIVITY_FLAG_MARKER_END: CUpti_ActivityFlag = 4;
pub const CUPTI_ACTIVITY_FLAG_MARKER_SYNC_ACQUIRE: CUpti_ActivityFlag = 8;
pub const CUPTI_ACTIVITY_FLAG_MARKER_SYNC_ACQUIRE_SUCCESS: CUpti_ActivityFlag = 16;
pub const CUPTI_ACTIVITY_FLAG_MARKER_SYNC_ACQUIRE_FAILED: CUpti_ActivityFlag = 32;
pub const CUPTI_ACTIVITY_FLAG_MARKER_SYNC_RELEASE: CUpti_ActivityFlag = 64;
pub const CUPTI_ACTIVITY_FLAG_MARKER_COLOR_NONE: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_MARKER_COLOR_ARGB: CUpti_ActivityFlag = 2;
pub const CUPTI_ACTIVITY_FLAG_GLOBAL_ACCESS_KIND_SIZE_MASK: CUpti_ActivityFlag = 255;
pub const CUPTI_ACTIVITY_FLAG_GLOBAL_ACCESS_KIND_LOAD: CUpti_ActivityFlag = 256;
pub const CUPTI_ACTIVITY_FLAG_GLOBAL_ACCESS_KIND_CACHED: CUpti_ActivityFlag = 512;
pub const CUPTI_ACTIVITY_FLAG_METRIC_OVERFLOWED: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_METRIC_VALUE_INVALID: CUpti_ActivityFlag = 2;
pub const CUPTI_ACTIVITY_FLAG_INSTRUCTION_VALUE_INVALID: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_INSTRUCTION_CLASS_MASK: CUpti_ActivityFlag = 510;
pub const CUPTI_ACTIVITY_FLAG_FLUSH_FORCED: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_SHARED_ACCESS_KIND_SIZE_MASK: CUpti_ActivityFlag = 255;
pub const CUPTI_ACTIVITY_FLAG_SHARED_ACCESS_KIND_LOAD: CUpti_ActivityFlag = 256;
pub const CUPTI_ACTIVITY_FLAG_MEMSET_ASYNC: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_THRASHING_IN_CPU: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_THROTTLING_IN_CPU: CUpti_ActivityFlag = 1;
pub const CUPTI_ACTIVITY_FLAG_FORCE_INT: CUpti_ActivityFlag = 2147483647;
pub type CUpti_ActivityFlag = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_UNKNOWN: CUpti_ActivityMemcpyKind = 0;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_HTOD: CUpti_ActivityMemcpyKind = 1;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_DTOH: CUpti_ActivityMemcpyKind = 2;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_HTOA: CUpti_ActivityMemcpyKind = 3;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_ATOH: CUpti_ActivityMemcpyKind = 4;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_ATOA: CUpti_ActivityMemcpyKind = 5;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_ATOD: CUpti_ActivityMemcpyKind = 6;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_DTOA: CUpti_ActivityMemcpyKind = 7;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_DTOD: CUpti_ActivityMemcpyKind = 8;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_HTOH: CUpti_ActivityMemcpyKind = 9;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_PTOP: CUpti_ActivityMemcpyKind = 10;
pub const CUPTI_ACTIVITY_MEMCPY_KIND_FORCE_INT: CUpti_ActivityMemcpyKind = 2147483647;
pub type CUpti_ActivityMemcpyKind = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_MEMORY_KIND_UNKNOWN: CUpti_ActivityMemoryKind = 0;
pub const CUPTI_ACTIVITY_MEMORY_KIND_PAGEABLE: CUpti_ActivityMemoryKind = 1;
pub const CUPTI_ACTIVITY_MEMORY_KIND_PINNED: CUpti_ActivityMemoryKind = 2;
pub const CUPTI_ACTIVITY_MEMORY_KIND_DEVICE: CUpti_ActivityMemoryKind = 3;
pub const CUPTI_ACTIVITY_MEMORY_KIND_ARRAY: CUpti_ActivityMemoryKind = 4;
pub const CUPTI_ACTIVITY_MEMORY_KIND_MANAGED: CUpti_ActivityMemoryKind = 5;
pub const CUPTI_ACTIVITY_MEMORY_KIND_DEVICE_STATIC: CUpti_ActivityMemoryKind = 6;
pub const CUPTI_ACTIVITY_MEMORY_KIND_MANAGED_STATIC: CUpti_ActivityMemoryKind = 7;
pub const CUPTI_ACTIVITY_MEMORY_KIND_FORCE_INT: CUpti_ActivityMemoryKind = 2147483647;
pub type CUpti_ActivityMemoryKind = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_PARTITIONED_GLOBAL_CACHE_CONFIG_UNKNOWN:
    CUpti_ActivityPartitionedGlobalCacheConfig = 0;
pub const CUPTI_ACTIVITY_PARTITIONED_GLOBAL_CACHE_CONFIG_NOT_SUPPORTED:
    CUpti_ActivityPartitionedGlobalCacheConfig = 1;
pub const CUPTI_ACTIVITY_PARTITIONED_GLOBAL_CACHE_CONFIG_OFF:
    CUpti_ActivityPartitionedGlobalCacheConfig = 2;
pub const CUPTI_ACTIVITY_PARTITIONED_GLOBAL_CACHE_CONFIG_ON:
    CUpti_ActivityPartitionedGlobalCacheConfig = 3;
pub const CUPTI_ACTIVITY_PARTITIONED_GLOBAL_CACHE_CONFIG_FORCE_INT:
    CUpti_ActivityPartitionedGlobalCacheConfig = 2147483647;
pub type CUpti_ActivityPartitionedGlobalCacheConfig = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_UNKNOWN: CUpti_ActivitySynchronizationType = 0;
pub const CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE: CUpti_ActivitySynchronizationType =
    1;
pub const CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT: CUpti_ActivitySynchronizationType =
    2;
pub const CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE:
    CUpti_ActivitySynchronizationType = 3;
pub const CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE:
    CUpti_ActivitySynchronizationType = 4;
pub const CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_FORCE_INT: CUpti_ActivitySynchronizationType =
    2147483647;
pub type CUpti_ActivitySynchronizationType = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_INVALID: CUpti_ActivityMemoryOperationType = 0;
pub const CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_ALLOCATION: CUpti_ActivityMemoryOperationType = 1;
pub const CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_RELEASE: CUpti_ActivityMemoryOperationType = 2;
pub const CUPTI_ACTIVITY_MEMORY_OPERATION_TYPE_FORCE_INT: CUpti_ActivityMemoryOperationType =
    2147483647;
pub type CUpti_ActivityMemoryOperationType = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_MEMORY_POOL_TYPE_INVALID: CUpti_ActivityMemoryPoolType = 0;
pub const CUPTI_ACTIVITY_MEMORY_POOL_TYPE_LOCAL: CUpti_ActivityMemoryPoolType = 1;
pub const CUPTI_ACTIVITY_MEMORY_POOL_TYPE_IMPORTED: CUpti_ActivityMemoryPoolType = 2;
pub const CUPTI_ACTIVITY_MEMORY_POOL_TYPE_FORCE_INT: CUpti_ActivityMemoryPoolType = 2147483647;
pub type CUpti_ActivityMemoryPoolType = ::core::ffi::c_uint;
pub const CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_INVALID: CUpti_ActivityMemoryPoolOperationType =
    0;
pub const CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_CREATED: CUpti_ActivityMemoryPoolOperationType =
    1;
pub const CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_DESTROYED:
    CUpti_ActivityMemoryPoolOperationType = 2;
pub const CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_TRIMMED: CUpti_ActivityMemoryPoolOperationType =
    3;
pub const CUPTI_ACTIVITY_MEMORY_POOL_OPERATION_TYPE_FORCE_INT:
    CUpti_ActivityMemoryPoolOperationType = 2147483647;
pub type CUpti_ActivityMemoryPoolOperationType = ::core::ffi::c_uint;
pub const CUPTI_CHANNEL_TYPE_INVALID: CUpti_ChannelType = 0;
pub const CUPTI_CHANNEL_TYPE_COMPUTE: CUpti_ChannelType = 1;
pub const CUPTI_CHANNEL_TYPE_ASYNC_MEMCPY: CUpti_ChannelType = 2;
pub const CUPTI_CHANNEL_TYPE_DECOMP: CUpti_ChannelType = 3;
pub const CUPTI_CHANNEL_TYPE_FORCE_INT: CUpti_ChannelType = 2147483647;
pub type CUpti_ChannelType = ::core::ffi::c_uint;
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityMemcpy7 {
    pub kind: CUpti_ActivityKind,
    pub copyKind: u8,
    pub srcKind: u8,
    pub dstKind: u8,
    pub flags: u8,
    pub bytes: u64,
    pub start: u64,
    pub end: u64,
    pub deviceId: u32,
    pub contextId: u32,
    pub streamId: u32,
    pub correlationId: u32,
    pub runtimeCorrelationId: u32,
    pub pad: u32,
    pub reserved0: *mut ::core::ffi::c_void,
    pub graphNodeId: u64,
    pub graphId: u32,
    pub channelID: u32,
    pub channelType: CUpti_ChannelType,
    pub isDeviceLaunched: u8,
    pub pad2: [u8; 3usize],
    pub copyCount: u64,
    pub sourceGraphId: u32,
    pub pad3: u32,
    pub sourceGraphNodeId: u64,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityMemcpyPtoP4 {
    pub kind: CUpti_ActivityKind,
    pub copyKind: u8,
    pub srcKind: u8,
    pub dstKind: u8,
    pub flags: u8,
    pub bytes: u64,
    pub start: u64,
    pub end: u64,
    pub deviceId: u32,
    pub contextId: u32,
    pub streamId: u32,
    pub srcDeviceId: u32,
    pub srcContextId: u32,
    pub dstDeviceId: u32,
    pub dstContextId: u32,
    pub correlationId: u32,
    pub reserved0: *mut ::core::ffi::c_void,
    pub graphNodeId: u64,
    pub graphId: u32,
    pub channelID: u32,
    pub channelType: CUpti_ChannelType,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityMemset5 {
    pub kind: CUpti_ActivityKind,
    pub value: u32,
    pub bytes: u64,
    pub start: u64,
    pub end: u64,
    pub deviceId: u32,
    pub contextId: u32,
    pub streamId: u32,
    pub correlationId: u32,
    pub flags: u16,
    pub memoryKind: u16,
    pub pad: u32,
    pub reserved0: *mut ::core::ffi::c_void,
    pub graphNodeId: u64,
    pub graphId: u32,
    pub channelID: u32,
    pub channelType: CUpti_ChannelType,
    pub isDeviceLaunched: u8,
    pub pad2: [u8; 3usize],
    pub sourceGraphId: u32,
    pub pad3: u32,
    pub sourceGraphNodeId: u64,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityMemory4 {
    pub kind: CUpti_ActivityKind,
    pub memoryOperationType: CUpti_ActivityMemoryOperationType,
    pub memoryKind: CUpti_ActivityMemoryKind,
    pub correlationId: u32,
    pub address: u64,
    pub bytes: u64,
    pub timestamp: u64,
    pub PC: u64,
    pub processId: u32,
    pub deviceId: u32,
    pub contextId: u32,
    pub streamId: u32,
    pub name: *const ::core::ffi::c_char,
    pub isAsync: u32,
    pub pad1: u32,
    pub memoryPoolConfig: CUpti_ActivityMemory4__bindgen_ty_1,
    pub source: *const ::core::ffi::c_char,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityMemory4__bindgen_ty_1 {
    pub memoryPoolType: CUpti_ActivityMemoryPoolType,
    pub pad2: u32,
    pub address: u64,
    pub releaseThreshold: u64,
    pub pool: CUpti_ActivityMemory4__bindgen_ty_1__bindgen_ty_1,
    pub utilizedSize: u64,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union CUpti_ActivityMemory4__bindgen_ty_1__bindgen_ty_1 {
    pub size: u64,
    pub processId: u64,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityMemoryPool3 {
    pub kind: CUpti_ActivityKind,
    pub memoryPoolOperationType: CUpti_ActivityMemoryPoolOperationType,
    pub memoryPoolType: CUpti_ActivityMemoryPoolType,
    pub correlationId: u32,
    pub processId: u32,
    pub deviceId: u32,
    pub minBytesToKeep: usize,
    pub address: u64,
    pub size: u64,
    pub releaseThreshold: u64,
    pub timestamp: u64,
    pub utilizedSize: u64,
    pub isManagedPool: u8,
    pub pad2: [u8; 7usize],
}
pub const CUPTI_FUNC_SHMEM_LIMIT_DEFAULT: CUpti_FuncShmemLimitConfig = 0;
pub const CUPTI_FUNC_SHMEM_LIMIT_OPTIN: CUpti_FuncShmemLimitConfig = 1;
pub const CUPTI_FUNC_SHMEM_LIMIT_FORCE_INT: CUpti_FuncShmemLimitConfig = 2147483647;
pub type CUpti_FuncShmemLimitConfig = ::core::ffi::c_uint;
#[repr(C, packed(8))]
pub struct CUpti_ActivityKernel13 {
    pub kind: CUpti_ActivityKind,
    pub cacheConfig: CUpti_ActivityKernel13__bindgen_ty_1,
    pub sharedMemoryConfig: u8,
    pub registersPerThread: u16,
    pub partitionedGlobalCacheRequested: CUpti_ActivityPartitionedGlobalCacheConfig,
    pub partitionedGlobalCacheExecuted: CUpti_ActivityPartitionedGlobalCacheConfig,
    pub start: u64,
    pub end: u64,
    pub completed: u64,
    pub deviceId: u32,
    pub contextId: u32,
    pub streamId: u32,
    pub gridX: i32,
    pub gridY: i32,
    pub gridZ: i32,
    pub blockX: i32,
    pub blockY: i32,
    pub blockZ: i32,
    pub staticSharedMemory: i32,
    pub dynamicSharedMemory: i32,
    pub localMemoryPerThread: u32,
    pub localMemoryTotal: u32,
    pub correlationId: u32,
    pub gridId: i64,
    pub name: *const ::core::ffi::c_char,
    pub reserved0: *mut ::core::ffi::c_void,
    pub queued: u64,
    pub submitted: u64,
    pub launchType: u8,
    pub isSharedMemoryCarveoutRequested: u8,
    pub sharedMemoryCarveoutRequested: u8,
    pub padding: u8,
    pub sharedMemoryExecuted: u32,
    pub graphNodeId: u64,
    pub shmemLimitConfig: CUpti_FuncShmemLimitConfig,
    pub graphId: u32,
    pub pAccessPolicyWindow: *mut CUaccessPolicyWindow,
    pub channelID: u32,
    pub channelType: CUpti_ChannelType,
    pub clusterX: u32,
    pub clusterY: u32,
    pub clusterZ: u32,
    pub clusterSchedulingPolicy: u32,
    pub localMemoryTotal_v2: u64,
    pub maxPotentialClusterSize: u32,
    pub maxActiveClusters: u32,
    pub isDeviceLaunched: u8,
    pub padding3: [u8; 7usize],
    pub priority: i32,
    pub padding4: u32,
    pub executionModel: u32,
    pub padding5: u32,
    pub sourceGraphId: u32,
    pub padding6: u32,
    pub sourceGraphNodeId: u64,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityAPI {
    pub kind: CUpti_ActivityKind,
    pub cbid: CUpti_CallbackId,
    pub start: u64,
    pub end: u64,
    pub processId: u32,
    pub threadId: u32,
    pub correlationId: u32,
    pub returnValue: u32,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityMarker2 {
    pub kind: CUpti_ActivityKind,
    pub flags: CUpti_ActivityFlag,
    pub timestamp: u64,
    pub id: u32,
    pub objectKind: CUpti_ActivityObjectKind,
    pub objectId: CUpti_ActivityObjectKindId,
    pub pad: u32,
    pub name: *const ::core::ffi::c_char,
    pub domain: *const ::core::ffi::c_char,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityOverhead3 {
    pub kind: CUpti_ActivityKind,
    pub overheadKind: CUpti_ActivityOverheadKind,
    pub objectKind: CUpti_ActivityObjectKind,
    pub objectId: CUpti_ActivityObjectKindId,
    pub start: u64,
    pub end: u64,
    pub correlationId: u32,
    pub reserved0: u32,
    pub overheadData: *mut ::core::ffi::c_void,
}
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivitySynchronization2 {
    pub kind: CUpti_ActivityKind,
    pub type_: CUpti_ActivitySynchronizationType,
    pub start: u64,
    pub end: u64,
    pub correlationId: u32,
    pub contextId: u32,
    pub streamId: u32,
    pub cudaEventId: u32,
    pub cudaEventSyncId: u64,
    pub returnValue: u32,
    pub pad: u32,
}
pub const CUPTI_EXTERNAL_CORRELATION_KIND_INVALID: CUpti_ExternalCorrelationKind = 0;
pub const CUPTI_EXTERNAL_CORRELATION_KIND_UNKNOWN: CUpti_ExternalCorrelationKind = 1;
pub const CUPTI_EXTERNAL_CORRELATION_KIND_OPENACC: CUpti_ExternalCorrelationKind = 2;
pub const CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0: CUpti_ExternalCorrelationKind = 3;
pub const CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM1: CUpti_ExternalCorrelationKind = 4;
pub const CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM2: CUpti_ExternalCorrelationKind = 5;
pub const CUPTI_EXTERNAL_CORRELATION_KIND_SIZE: CUpti_ExternalCorrelationKind = 6;
pub const CUPTI_EXTERNAL_CORRELATION_KIND_FORCE_INT: CUpti_ExternalCorrelationKind = 2147483647;
pub type CUpti_ExternalCorrelationKind = ::core::ffi::c_uint;
#[repr(C, packed(8))]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityExternalCorrelation {
    pub kind: CUpti_ActivityKind,
    pub externalKind: CUpti_ExternalCorrelationKind,
    pub externalId: u64,
    pub correlationId: u32,
    pub reserved: u32,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct CUpti_ActivityGraphTrace2 {
    pub kind: CUpti_ActivityKind,
    pub correlationId: u32,
    pub start: u64,
    pub end: u64,
    pub deviceId: u32,
    pub graphId: u32,
    pub contextId: u32,
    pub streamId: u32,
    pub reserved: *mut ::core::ffi::c_void,
    pub endDeviceId: u32,
    pub endContextId: u32,
}
pub const CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_SIZE: CUpti_ActivityAttribute = 0;
pub const CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_SIZE_CDP: CUpti_ActivityAttribute = 1;
pub const CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_POOL_LIMIT: CUpti_ActivityAttribute = 2;
pub const CUPTI_ACTIVITY_ATTR_PROFILING_SEMAPHORE_POOL_SIZE: CUpti_ActivityAttribute = 3;
pub const CUPTI_ACTIVITY_ATTR_PROFILING_SEMAPHORE_POOL_LIMIT: CUpti_ActivityAttribute = 4;
pub const CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER: CUpti_ActivityAttribute = 5;
pub const CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_PRE_ALLOCATE_VALUE: CUpti_ActivityAttribute = 6;
pub const CUPTI_ACTIVITY_ATTR_PROFILING_SEMAPHORE_PRE_ALLOCATE_VALUE: CUpti_ActivityAttribute = 7;
pub const CUPTI_ACTIVITY_ATTR_MEM_ALLOCATION_TYPE_HOST_PINNED: CUpti_ActivityAttribute = 8;
pub const CUPTI_ACTIVITY_ATTR_PER_THREAD_ACTIVITY_BUFFER: CUpti_ActivityAttribute = 9;
pub const CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_SIZE_DEVICE_GRAPHS: CUpti_ActivityAttribute = 10;
pub const CUPTI_ACTIVITY_ATTR_USER_DEFINED_RECORDS: CUpti_ActivityAttribute = 11;
pub const CUPTI_ACTIVITY_ATTR_MULTIPLE_SUBSCRIBER_STATE: CUpti_ActivityAttribute = 12;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_HES: CUpti_ActivityAttribute = 13;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_ALLOCATION_SOURCE_TRACKING: CUpti_ActivityAttribute = 14;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_KERNEL_LATENCY_TIMESTAMPS: CUpti_ActivityAttribute = 15;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_ALL_SYNC_RECORDS: CUpti_ActivityAttribute = 16;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_CUDA_EVENT_DEVICE_TIMESTAMPS: CUpti_ActivityAttribute = 17;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_KERNEL_LAUNCH_ATTRIBUTES: CUpti_ActivityAttribute = 18;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_DEVICE_GRAPH_TRACE: CUpti_ActivityAttribute = 19;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_MULTI_SUBSCRIBER_GRAPH_TRACE: CUpti_ActivityAttribute = 20;
pub const CUPTI_ACTIVITY_ATTR_THREAD_ID_TYPE: CUpti_ActivityAttribute = 21;
pub const CUPTI_ACTIVITY_ATTR_TIMESTAMP_CALLBACK: CUpti_ActivityAttribute = 22;
pub const CUPTI_ACTIVITY_ATTR_ENABLE_CIG_MODE: CUpti_ActivityAttribute = 23;
pub const CUPTI_ACTIVITY_ATTR_HES_BUFFER_SIZE: CUpti_ActivityAttribute = 24;
pub const CUPTI_ACTIVITY_ATTR_COUNT: CUpti_ActivityAttribute = 25;
pub const CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_FORCE_INT: CUpti_ActivityAttribute = 2147483647;
pub type CUpti_ActivityAttribute = ::core::ffi::c_uint;
pub type CUpti_BuffersCallbackRequestFunc = ::core::option::Option<
    unsafe extern "C" fn(buffer: *mut *mut u8, size: *mut usize, maxNumRecords: *mut usize),
>;
pub type CUpti_BuffersCallbackCompleteFunc = ::core::option::Option<
    unsafe extern "C" fn(
        context: CUcontext,
        streamId: u32,
        buffer: *mut u8,
        size: usize,
        validSize: usize,
    ),
>;
pub type CUpti_TimestampCallbackFunc = ::core::option::Option<unsafe extern "C" fn() -> u64>;
pub const CUPTI_DRIVER_TRACE_CBID_cuCtxCreate: CUpti_driver_api_trace_cbid_enum = 10;
pub const CUPTI_DRIVER_TRACE_CBID_cuModuleLoad: CUpti_driver_api_trace_cbid_enum = 18;
pub const CUPTI_DRIVER_TRACE_CBID_cuModuleLoadData: CUpti_driver_api_trace_cbid_enum = 19;
pub const CUPTI_DRIVER_TRACE_CBID_cuModuleLoadDataEx: CUpti_driver_api_trace_cbid_enum = 20;
pub const CUPTI_DRIVER_TRACE_CBID_cuModuleLoadFatBinary: CUpti_driver_api_trace_cbid_enum = 21;
pub const CUPTI_DRIVER_TRACE_CBID_cuModuleUnload: CUpti_driver_api_trace_cbid_enum = 22;
pub const CUPTI_DRIVER_TRACE_CBID_cuModuleGetFunction: CUpti_driver_api_trace_cbid_enum = 23;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemFreeHost: CUpti_driver_api_trace_cbid_enum = 38;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemHostAlloc: CUpti_driver_api_trace_cbid_enum = 39;
pub const CUPTI_DRIVER_TRACE_CBID_cuArrayDestroy: CUpti_driver_api_trace_cbid_enum = 89;
pub const CUPTI_DRIVER_TRACE_CBID_cuCtxSetLimit: CUpti_driver_api_trace_cbid_enum = 136;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemsetD8Async: CUpti_driver_api_trace_cbid_enum = 216;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemsetD16Async: CUpti_driver_api_trace_cbid_enum = 218;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemsetD32Async: CUpti_driver_api_trace_cbid_enum = 220;
pub const CUPTI_DRIVER_TRACE_CBID_cuCtxCreate_v2: CUpti_driver_api_trace_cbid_enum = 235;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAlloc_v2: CUpti_driver_api_trace_cbid_enum = 243;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAllocPitch_v2: CUpti_driver_api_trace_cbid_enum = 244;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemFree_v2: CUpti_driver_api_trace_cbid_enum = 245;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemsetD8_v2: CUpti_driver_api_trace_cbid_enum = 249;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemsetD32_v2: CUpti_driver_api_trace_cbid_enum = 251;
pub const CUPTI_DRIVER_TRACE_CBID_cuArrayCreate_v2: CUpti_driver_api_trace_cbid_enum = 272;
pub const CUPTI_DRIVER_TRACE_CBID_cuArray3DCreate_v2: CUpti_driver_api_trace_cbid_enum = 274;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyHtoD_v2: CUpti_driver_api_trace_cbid_enum = 276;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyHtoDAsync_v2: CUpti_driver_api_trace_cbid_enum = 277;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoH_v2: CUpti_driver_api_trace_cbid_enum = 278;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoHAsync_v2: CUpti_driver_api_trace_cbid_enum = 279;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoD_v2: CUpti_driver_api_trace_cbid_enum = 280;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoDAsync_v2: CUpti_driver_api_trace_cbid_enum = 281;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpy2D_v2: CUpti_driver_api_trace_cbid_enum = 287;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpy2DAsync_v2: CUpti_driver_api_trace_cbid_enum = 289;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpy3DAsync_v2: CUpti_driver_api_trace_cbid_enum = 291;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAllocHost_v2: CUpti_driver_api_trace_cbid_enum = 294;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemHostRegister: CUpti_driver_api_trace_cbid_enum = 301;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemHostUnregister: CUpti_driver_api_trace_cbid_enum = 302;
pub const CUPTI_DRIVER_TRACE_CBID_cuCtxGetCurrent: CUpti_driver_api_trace_cbid_enum = 304;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpy: CUpti_driver_api_trace_cbid_enum = 305;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyAsync: CUpti_driver_api_trace_cbid_enum = 306;
pub const CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel: CUpti_driver_api_trace_cbid_enum = 307;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyPeer: CUpti_driver_api_trace_cbid_enum = 318;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyPeerAsync: CUpti_driver_api_trace_cbid_enum = 319;
pub const CUPTI_DRIVER_TRACE_CBID_cuCtxDestroy_v2: CUpti_driver_api_trace_cbid_enum = 322;
pub const CUPTI_DRIVER_TRACE_CBID_cuIpcOpenMemHandle: CUpti_driver_api_trace_cbid_enum = 329;
pub const CUPTI_DRIVER_TRACE_CBID_cuIpcCloseMemHandle: CUpti_driver_api_trace_cbid_enum = 330;
pub const CUPTI_DRIVER_TRACE_CBID_cuMipmappedArrayCreate: CUpti_driver_api_trace_cbid_enum = 347;
pub const CUPTI_DRIVER_TRACE_CBID_cuMipmappedArrayDestroy: CUpti_driver_api_trace_cbid_enum = 349;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAllocManaged: CUpti_driver_api_trace_cbid_enum = 371;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemHostRegister_v2: CUpti_driver_api_trace_cbid_enum = 379;
pub const CUPTI_DRIVER_TRACE_CBID_cuDevicePrimaryCtxRetain: CUpti_driver_api_trace_cbid_enum = 386;
pub const CUPTI_DRIVER_TRACE_CBID_cuDevicePrimaryCtxRelease: CUpti_driver_api_trace_cbid_enum = 387;
pub const CUPTI_DRIVER_TRACE_CBID_cuDevicePrimaryCtxReset: CUpti_driver_api_trace_cbid_enum = 389;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyHtoD_v2_ptds: CUpti_driver_api_trace_cbid_enum = 397;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoH_v2_ptds: CUpti_driver_api_trace_cbid_enum = 398;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoD_v2_ptds: CUpti_driver_api_trace_cbid_enum = 399;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpy_ptds: CUpti_driver_api_trace_cbid_enum = 408;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyAsync_ptsz: CUpti_driver_api_trace_cbid_enum = 418;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyHtoDAsync_v2_ptsz: CUpti_driver_api_trace_cbid_enum = 421;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoHAsync_v2_ptsz: CUpti_driver_api_trace_cbid_enum = 422;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoDAsync_v2_ptsz: CUpti_driver_api_trace_cbid_enum = 423;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemcpyPeerAsync_ptsz: CUpti_driver_api_trace_cbid_enum = 426;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemsetD8Async_ptsz: CUpti_driver_api_trace_cbid_enum = 428;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemsetD16Async_ptsz: CUpti_driver_api_trace_cbid_enum = 429;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemsetD32Async_ptsz: CUpti_driver_api_trace_cbid_enum = 430;
pub const CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel_ptsz: CUpti_driver_api_trace_cbid_enum = 442;
pub const CUPTI_DRIVER_TRACE_CBID_cuLaunchCooperativeKernel: CUpti_driver_api_trace_cbid_enum = 477;
pub const CUPTI_DRIVER_TRACE_CBID_cuLaunchCooperativeKernel_ptsz: CUpti_driver_api_trace_cbid_enum =
    478;
pub const CUPTI_DRIVER_TRACE_CBID_cuExternalMemoryGetMappedBuffer:
    CUpti_driver_api_trace_cbid_enum = 486;
pub const CUPTI_DRIVER_TRACE_CBID_cuStreamBeginCapture: CUpti_driver_api_trace_cbid_enum = 495;
pub const CUPTI_DRIVER_TRACE_CBID_cuStreamBeginCapture_ptsz: CUpti_driver_api_trace_cbid_enum = 496;
pub const CUPTI_DRIVER_TRACE_CBID_cuStreamEndCapture: CUpti_driver_api_trace_cbid_enum = 497;
pub const CUPTI_DRIVER_TRACE_CBID_cuStreamEndCapture_ptsz: CUpti_driver_api_trace_cbid_enum = 498;
pub const CUPTI_DRIVER_TRACE_CBID_cuGraphLaunch: CUpti_driver_api_trace_cbid_enum = 514;
pub const CUPTI_DRIVER_TRACE_CBID_cuGraphLaunch_ptsz: CUpti_driver_api_trace_cbid_enum = 515;
pub const CUPTI_DRIVER_TRACE_CBID_cuStreamBeginCapture_v2: CUpti_driver_api_trace_cbid_enum = 539;
pub const CUPTI_DRIVER_TRACE_CBID_cuStreamBeginCapture_v2_ptsz: CUpti_driver_api_trace_cbid_enum =
    540;
pub const CUPTI_DRIVER_TRACE_CBID_cuDevicePrimaryCtxRelease_v2: CUpti_driver_api_trace_cbid_enum =
    544;
pub const CUPTI_DRIVER_TRACE_CBID_cuDevicePrimaryCtxReset_v2: CUpti_driver_api_trace_cbid_enum =
    545;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAddressReserve: CUpti_driver_api_trace_cbid_enum = 547;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAddressFree: CUpti_driver_api_trace_cbid_enum = 548;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemCreate: CUpti_driver_api_trace_cbid_enum = 549;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemRelease: CUpti_driver_api_trace_cbid_enum = 550;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemMap: CUpti_driver_api_trace_cbid_enum = 551;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemUnmap: CUpti_driver_api_trace_cbid_enum = 552;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemExportToShareableHandle: CUpti_driver_api_trace_cbid_enum =
    554;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemImportFromShareableHandle: CUpti_driver_api_trace_cbid_enum =
    555;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemRetainAllocationHandle: CUpti_driver_api_trace_cbid_enum =
    565;
pub const CUPTI_DRIVER_TRACE_CBID_cuIpcOpenMemHandle_v2: CUpti_driver_api_trace_cbid_enum = 567;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAllocAsync: CUpti_driver_api_trace_cbid_enum = 598;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAllocAsync_ptsz: CUpti_driver_api_trace_cbid_enum = 599;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemFreeAsync: CUpti_driver_api_trace_cbid_enum = 600;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemFreeAsync_ptsz: CUpti_driver_api_trace_cbid_enum = 601;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemPoolTrimTo: CUpti_driver_api_trace_cbid_enum = 602;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemPoolCreate: CUpti_driver_api_trace_cbid_enum = 607;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemPoolDestroy: CUpti_driver_api_trace_cbid_enum = 608;
pub const CUPTI_DRIVER_TRACE_CBID_cuDeviceSetMemPool: CUpti_driver_api_trace_cbid_enum = 609;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAllocFromPoolAsync: CUpti_driver_api_trace_cbid_enum = 611;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemAllocFromPoolAsync_ptsz: CUpti_driver_api_trace_cbid_enum =
    612;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemPoolImportFromShareableHandle:
    CUpti_driver_api_trace_cbid_enum = 614;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemPoolImportPointer: CUpti_driver_api_trace_cbid_enum = 616;
pub const CUPTI_DRIVER_TRACE_CBID_cuGraphAddMemAllocNode: CUpti_driver_api_trace_cbid_enum = 638;
pub const CUPTI_DRIVER_TRACE_CBID_cuGraphAddMemFreeNode: CUpti_driver_api_trace_cbid_enum = 639;
pub const CUPTI_DRIVER_TRACE_CBID_cuDeviceGraphMemTrim: CUpti_driver_api_trace_cbid_enum = 640;
pub const CUPTI_DRIVER_TRACE_CBID_cuCtxCreate_v3: CUpti_driver_api_trace_cbid_enum = 645;
pub const CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx: CUpti_driver_api_trace_cbid_enum = 652;
pub const CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx_ptsz: CUpti_driver_api_trace_cbid_enum = 653;
pub const CUPTI_DRIVER_TRACE_CBID_cuLibraryLoadData: CUpti_driver_api_trace_cbid_enum = 678;
pub const CUPTI_DRIVER_TRACE_CBID_cuLibraryLoadFromFile: CUpti_driver_api_trace_cbid_enum = 679;
pub const CUPTI_DRIVER_TRACE_CBID_cuLibraryUnload: CUpti_driver_api_trace_cbid_enum = 680;
pub const CUPTI_DRIVER_TRACE_CBID_cuKernelGetFunction: CUpti_driver_api_trace_cbid_enum = 683;
pub const CUPTI_DRIVER_TRACE_CBID_cuMulticastCreate: CUpti_driver_api_trace_cbid_enum = 706;
pub const CUPTI_DRIVER_TRACE_CBID_cuMulticastBindMem: CUpti_driver_api_trace_cbid_enum = 708;
pub const CUPTI_DRIVER_TRACE_CBID_cuMulticastBindAddr: CUpti_driver_api_trace_cbid_enum = 709;
pub const CUPTI_DRIVER_TRACE_CBID_cuMulticastUnbind: CUpti_driver_api_trace_cbid_enum = 710;
pub const CUPTI_DRIVER_TRACE_CBID_cuGraphAddNode: CUpti_driver_api_trace_cbid_enum = 712;
pub const CUPTI_DRIVER_TRACE_CBID_cuStreamBeginCaptureToGraph: CUpti_driver_api_trace_cbid_enum =
    720;
pub const CUPTI_DRIVER_TRACE_CBID_cuStreamBeginCaptureToGraph_ptsz:
    CUpti_driver_api_trace_cbid_enum = 721;
pub const CUPTI_DRIVER_TRACE_CBID_cuGraphAddNode_v2: CUpti_driver_api_trace_cbid_enum = 723;
pub const CUPTI_DRIVER_TRACE_CBID_cuCtxCreate_v4: CUpti_driver_api_trace_cbid_enum = 757;
pub const CUPTI_DRIVER_TRACE_CBID_cuMemSetMemPool: CUpti_driver_api_trace_cbid_enum = 803;
pub const CUPTI_DRIVER_TRACE_CBID_cuMulticastBindMem_v2: CUpti_driver_api_trace_cbid_enum = 820;
pub const CUPTI_DRIVER_TRACE_CBID_cuMulticastBindAddr_v2: CUpti_driver_api_trace_cbid_enum = 821;
pub type CUpti_driver_api_trace_cbid_enum = ::core::ffi::c_uint;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy_v3020: CUpti_runtime_api_trace_cbid_enum = 31;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyAsync_v3020: CUpti_runtime_api_trace_cbid_enum = 41;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy2DAsync_v3020: CUpti_runtime_api_trace_cbid_enum = 44;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemset_v3020: CUpti_runtime_api_trace_cbid_enum = 49;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemsetAsync_v3020: CUpti_runtime_api_trace_cbid_enum = 51;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyPeerAsync_v4000: CUpti_runtime_api_trace_cbid_enum =
    161;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_v7000: CUpti_runtime_api_trace_cbid_enum = 211;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_ptsz_v7000: CUpti_runtime_api_trace_cbid_enum =
    214;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy_ptds_v7000: CUpti_runtime_api_trace_cbid_enum = 215;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyAsync_ptsz_v7000: CUpti_runtime_api_trace_cbid_enum =
    225;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy2DAsync_ptsz_v7000: CUpti_runtime_api_trace_cbid_enum =
    228;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemset_ptds_v7000: CUpti_runtime_api_trace_cbid_enum = 233;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaMemsetAsync_ptsz_v7000: CUpti_runtime_api_trace_cbid_enum =
    235;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaLaunchCooperativeKernel_v9000:
    CUpti_runtime_api_trace_cbid_enum = 269;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaLaunchCooperativeKernel_ptsz_v9000:
    CUpti_runtime_api_trace_cbid_enum = 270;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaGraphLaunch_v10000: CUpti_runtime_api_trace_cbid_enum = 311;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaGraphLaunch_ptsz_v10000: CUpti_runtime_api_trace_cbid_enum =
    312;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernelExC_v11060: CUpti_runtime_api_trace_cbid_enum =
    430;
pub const CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernelExC_ptsz_v11060:
    CUpti_runtime_api_trace_cbid_enum = 431;
pub const CUPTI_RUNTIME_TRACE_CBID___cudaLaunchKernel_v13000: CUpti_runtime_api_trace_cbid_enum =
    505;
pub const CUPTI_RUNTIME_TRACE_CBID___cudaLaunchKernel_ptsz_v13000:
    CUpti_runtime_api_trace_cbid_enum = 506;
pub type CUpti_runtime_api_trace_cbid_enum = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuCtxCreate_params_st {
    pub pctx: *mut CUcontext,
    pub flags: ::core::ffi::c_uint,
    pub dev: CUdevice,
}
pub type cuCtxCreate_params = cuCtxCreate_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuModuleLoad_params_st {
    pub module: *mut CUmodule,
    pub fname: *const ::core::ffi::c_char,
}
pub type cuModuleLoad_params = cuModuleLoad_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuModuleLoadData_params_st {
    pub module: *mut CUmodule,
    pub image: *const ::core::ffi::c_void,
}
pub type cuModuleLoadData_params = cuModuleLoadData_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuModuleLoadDataEx_params_st {
    pub module: *mut CUmodule,
    pub image: *const ::core::ffi::c_void,
    pub numOptions: ::core::ffi::c_uint,
    pub options: *mut CUjit_option,
    pub optionValues: *mut *mut ::core::ffi::c_void,
}
pub type cuModuleLoadDataEx_params = cuModuleLoadDataEx_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuModuleLoadFatBinary_params_st {
    pub module: *mut CUmodule,
    pub fatCubin: *const ::core::ffi::c_void,
}
pub type cuModuleLoadFatBinary_params = cuModuleLoadFatBinary_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuModuleUnload_params_st {
    pub hmod: CUmodule,
}
pub type cuModuleUnload_params = cuModuleUnload_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuModuleGetFunction_params_st {
    pub hfunc: *mut CUfunction,
    pub hmod: CUmodule,
    pub name: *const ::core::ffi::c_char,
}
pub type cuModuleGetFunction_params = cuModuleGetFunction_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemFreeHost_params_st {
    pub p: *mut ::core::ffi::c_void,
}
pub type cuMemFreeHost_params = cuMemFreeHost_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemHostAlloc_params_st {
    pub pp: *mut *mut ::core::ffi::c_void,
    pub bytesize: usize,
    pub Flags: ::core::ffi::c_uint,
}
pub type cuMemHostAlloc_params = cuMemHostAlloc_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuArrayDestroy_params_st {
    pub hArray: CUarray,
}
pub type cuArrayDestroy_params = cuArrayDestroy_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuCtxSetLimit_params_st {
    pub limit: CUlimit,
    pub value: usize,
}
pub type cuCtxSetLimit_params = cuCtxSetLimit_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuCtxCreate_v2_params_st {
    pub pctx: *mut CUcontext,
    pub flags: ::core::ffi::c_uint,
    pub dev: CUdevice,
}
pub type cuCtxCreate_v2_params = cuCtxCreate_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemAlloc_v2_params_st {
    pub dptr: *mut CUdeviceptr,
    pub bytesize: usize,
}
pub type cuMemAlloc_v2_params = cuMemAlloc_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemAllocPitch_v2_params_st {
    pub dptr: *mut CUdeviceptr,
    pub pPitch: *mut usize,
    pub WidthInBytes: usize,
    pub Height: usize,
    pub ElementSizeBytes: ::core::ffi::c_uint,
}
pub type cuMemAllocPitch_v2_params = cuMemAllocPitch_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemFree_v2_params_st {
    pub dptr: CUdeviceptr,
}
pub type cuMemFree_v2_params = cuMemFree_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuArrayCreate_v2_params_st {
    pub pHandle: *mut CUarray,
    pub pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR,
}
pub type cuArrayCreate_v2_params = cuArrayCreate_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuArray3DCreate_v2_params_st {
    pub pHandle: *mut CUarray,
    pub pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR,
}
pub type cuArray3DCreate_v2_params = cuArray3DCreate_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemAllocHost_v2_params_st {
    pub pp: *mut *mut ::core::ffi::c_void,
    pub bytesize: usize,
}
pub type cuMemAllocHost_v2_params = cuMemAllocHost_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemHostRegister_params_st {
    pub p: *mut ::core::ffi::c_void,
    pub bytesize: usize,
    pub Flags: ::core::ffi::c_uint,
}
pub type cuMemHostRegister_params = cuMemHostRegister_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemHostUnregister_params_st {
    pub p: *mut ::core::ffi::c_void,
}
pub type cuMemHostUnregister_params = cuMemHostUnregister_params_st;
#[repr(C)]
pub struct cuCtxDestroy_v2_params_st {
    pub ctx: CUcontext,
}
pub type cuCtxDestroy_v2_params = cuCtxDestroy_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuIpcOpenMemHandle_params_st {
    pub pdptr: *mut CUdeviceptr,
    pub handle: CUipcMemHandle,
    pub Flags: ::core::ffi::c_uint,
}
pub type cuIpcOpenMemHandle_params = cuIpcOpenMemHandle_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuIpcCloseMemHandle_params_st {
    pub dptr: CUdeviceptr,
}
pub type cuIpcCloseMemHandle_params = cuIpcCloseMemHandle_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMipmappedArrayCreate_params_st {
    pub pHandle: *mut CUmipmappedArray,
    pub pMipmappedArrayDesc: *const CUDA_ARRAY3D_DESCRIPTOR,
    pub numMipmapLevels: ::core::ffi::c_uint,
}
pub type cuMipmappedArrayCreate_params = cuMipmappedArrayCreate_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMipmappedArrayDestroy_params_st {
    pub hMipmappedArray: CUmipmappedArray,
}
pub type cuMipmappedArrayDestroy_params = cuMipmappedArrayDestroy_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemAllocManaged_params_st {
    pub dptr: *mut CUdeviceptr,
    pub bytesize: usize,
    pub flags: ::core::ffi::c_uint,
}
pub type cuMemAllocManaged_params = cuMemAllocManaged_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemHostRegister_v2_params_st {
    pub p: *mut ::core::ffi::c_void,
    pub bytesize: usize,
    pub Flags: ::core::ffi::c_uint,
}
pub type cuMemHostRegister_v2_params = cuMemHostRegister_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuDevicePrimaryCtxRetain_params_st {
    pub pctx: *mut CUcontext,
    pub dev: CUdevice,
}
pub type cuDevicePrimaryCtxRetain_params = cuDevicePrimaryCtxRetain_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuDevicePrimaryCtxRelease_params_st {
    pub dev: CUdevice,
}
pub type cuDevicePrimaryCtxRelease_params = cuDevicePrimaryCtxRelease_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuDevicePrimaryCtxReset_params_st {
    pub dev: CUdevice,
}
pub type cuDevicePrimaryCtxReset_params = cuDevicePrimaryCtxReset_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuExternalMemoryGetMappedBuffer_params_st {
    pub devPtr: *mut CUdeviceptr,
    pub extMem: CUexternalMemory,
    pub bufferDesc: *const CUDA_EXTERNAL_MEMORY_BUFFER_DESC,
}
pub type cuExternalMemoryGetMappedBuffer_params = cuExternalMemoryGetMappedBuffer_params_st;
#[repr(C)]
pub struct cuStreamBeginCapture_params_st {
    pub hStream: CUstream,
}
pub type cuStreamBeginCapture_params = cuStreamBeginCapture_params_st;
#[repr(C)]
pub struct cuStreamBeginCapture_ptsz_params_st {
    pub hStream: CUstream,
}
pub type cuStreamBeginCapture_ptsz_params = cuStreamBeginCapture_ptsz_params_st;
#[repr(C)]
pub struct cuStreamEndCapture_params_st {
    pub hStream: CUstream,
    pub phGraph: *mut CUgraph,
}
pub type cuStreamEndCapture_params = cuStreamEndCapture_params_st;
#[repr(C)]
pub struct cuStreamEndCapture_ptsz_params_st {
    pub hStream: CUstream,
    pub phGraph: *mut CUgraph,
}
pub type cuStreamEndCapture_ptsz_params = cuStreamEndCapture_ptsz_params_st;
#[repr(C)]
pub struct cuGraphLaunch_params_st {
    pub hGraph: CUgraphExec,
    pub hStream: CUstream,
}
pub type cuGraphLaunch_params = cuGraphLaunch_params_st;
#[repr(C)]
pub struct cuGraphLaunch_ptsz_params_st {
    pub hGraphExec: CUgraphExec,
    pub hStream: CUstream,
}
pub type cuGraphLaunch_ptsz_params = cuGraphLaunch_ptsz_params_st;
#[repr(C)]
pub struct cuStreamBeginCapture_v2_params_st {
    pub hStream: CUstream,
    pub mode: CUstreamCaptureMode,
}
pub type cuStreamBeginCapture_v2_params = cuStreamBeginCapture_v2_params_st;
#[repr(C)]
pub struct cuStreamBeginCapture_v2_ptsz_params_st {
    pub hStream: CUstream,
    pub mode: CUstreamCaptureMode,
}
pub type cuStreamBeginCapture_v2_ptsz_params = cuStreamBeginCapture_v2_ptsz_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuDevicePrimaryCtxRelease_v2_params_st {
    pub dev: CUdevice,
}
pub type cuDevicePrimaryCtxRelease_v2_params = cuDevicePrimaryCtxRelease_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuDevicePrimaryCtxReset_v2_params_st {
    pub dev: CUdevice,
}
pub type cuDevicePrimaryCtxReset_v2_params = cuDevicePrimaryCtxReset_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemAddressReserve_params_st {
    pub ptr: *mut CUdeviceptr,
    pub size: usize,
    pub alignment: usize,
    pub addr: CUdeviceptr,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMemAddressReserve_params = cuMemAddressReserve_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemAddressFree_params_st {
    pub ptr: CUdeviceptr,
    pub size: usize,
}
pub type cuMemAddressFree_params = cuMemAddressFree_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemCreate_params_st {
    pub handle: *mut CUmemGenericAllocationHandle,
    pub size: usize,
    pub prop: *const CUmemAllocationProp,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMemCreate_params = cuMemCreate_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemRelease_params_st {
    pub handle: CUmemGenericAllocationHandle,
}
pub type cuMemRelease_params = cuMemRelease_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemMap_params_st {
    pub ptr: CUdeviceptr,
    pub size: usize,
    pub offset: usize,
    pub handle: CUmemGenericAllocationHandle,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMemMap_params = cuMemMap_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemUnmap_params_st {
    pub ptr: CUdeviceptr,
    pub size: usize,
}
pub type cuMemUnmap_params = cuMemUnmap_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemExportToShareableHandle_params_st {
    pub shareableHandle: *mut ::core::ffi::c_void,
    pub handle: CUmemGenericAllocationHandle,
    pub handleType: CUmemAllocationHandleType,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMemExportToShareableHandle_params = cuMemExportToShareableHandle_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemImportFromShareableHandle_params_st {
    pub handle: *mut CUmemGenericAllocationHandle,
    pub osHandle: *mut ::core::ffi::c_void,
    pub shHandleType: CUmemAllocationHandleType,
}
pub type cuMemImportFromShareableHandle_params = cuMemImportFromShareableHandle_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemRetainAllocationHandle_params_st {
    pub handle: *mut CUmemGenericAllocationHandle,
    pub addr: *mut ::core::ffi::c_void,
}
pub type cuMemRetainAllocationHandle_params = cuMemRetainAllocationHandle_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuIpcOpenMemHandle_v2_params_st {
    pub pdptr: *mut CUdeviceptr,
    pub handle: CUipcMemHandle,
    pub Flags: ::core::ffi::c_uint,
}
pub type cuIpcOpenMemHandle_v2_params = cuIpcOpenMemHandle_v2_params_st;
#[repr(C)]
pub struct cuMemAllocAsync_params_st {
    pub dptr: *mut CUdeviceptr,
    pub bytesize: usize,
    pub hStream: CUstream,
}
pub type cuMemAllocAsync_params = cuMemAllocAsync_params_st;
#[repr(C)]
pub struct cuMemAllocAsync_ptsz_params_st {
    pub dptr: *mut CUdeviceptr,
    pub bytesize: usize,
    pub hStream: CUstream,
}
pub type cuMemAllocAsync_ptsz_params = cuMemAllocAsync_ptsz_params_st;
#[repr(C)]
pub struct cuMemFreeAsync_params_st {
    pub dptr: CUdeviceptr,
    pub hStream: CUstream,
}
pub type cuMemFreeAsync_params = cuMemFreeAsync_params_st;
#[repr(C)]
pub struct cuMemFreeAsync_ptsz_params_st {
    pub dptr: CUdeviceptr,
    pub hStream: CUstream,
}
pub type cuMemFreeAsync_ptsz_params = cuMemFreeAsync_ptsz_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemPoolTrimTo_params_st {
    pub pool: CUmemoryPool,
    pub minBytesToKeep: usize,
}
pub type cuMemPoolTrimTo_params = cuMemPoolTrimTo_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemPoolCreate_params_st {
    pub pool: *mut CUmemoryPool,
    pub poolProps: *const CUmemPoolProps,
}
pub type cuMemPoolCreate_params = cuMemPoolCreate_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemPoolDestroy_params_st {
    pub pool: CUmemoryPool,
}
pub type cuMemPoolDestroy_params = cuMemPoolDestroy_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuDeviceSetMemPool_params_st {
    pub dev: CUdevice,
    pub pool: CUmemoryPool,
}
pub type cuDeviceSetMemPool_params = cuDeviceSetMemPool_params_st;
#[repr(C)]
pub struct cuMemAllocFromPoolAsync_params_st {
    pub dptr: *mut CUdeviceptr,
    pub bytesize: usize,
    pub pool: CUmemoryPool,
    pub hStream: CUstream,
}
pub type cuMemAllocFromPoolAsync_params = cuMemAllocFromPoolAsync_params_st;
#[repr(C)]
pub struct cuMemAllocFromPoolAsync_ptsz_params_st {
    pub dptr: *mut CUdeviceptr,
    pub bytesize: usize,
    pub pool: CUmemoryPool,
    pub hStream: CUstream,
}
pub type cuMemAllocFromPoolAsync_ptsz_params = cuMemAllocFromPoolAsync_ptsz_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemPoolImportFromShareableHandle_params_st {
    pub pool_out: *mut CUmemoryPool,
    pub handle: *mut ::core::ffi::c_void,
    pub handleType: CUmemAllocationHandleType,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMemPoolImportFromShareableHandle_params = cuMemPoolImportFromShareableHandle_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemPoolImportPointer_params_st {
    pub ptr_out: *mut CUdeviceptr,
    pub pool: CUmemoryPool,
    pub shareData: *mut CUmemPoolPtrExportData,
}
pub type cuMemPoolImportPointer_params = cuMemPoolImportPointer_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuGraphAddMemAllocNode_params_st {
    pub phGraphNode: *mut CUgraphNode,
    pub hGraph: CUgraph,
    pub dependencies: *const CUgraphNode,
    pub numDependencies: usize,
    pub nodeParams: *mut CUDA_MEM_ALLOC_NODE_PARAMS,
}
pub type cuGraphAddMemAllocNode_params = cuGraphAddMemAllocNode_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuGraphAddMemFreeNode_params_st {
    pub phGraphNode: *mut CUgraphNode,
    pub hGraph: CUgraph,
    pub dependencies: *const CUgraphNode,
    pub numDependencies: usize,
    pub dptr: CUdeviceptr,
}
pub type cuGraphAddMemFreeNode_params = cuGraphAddMemFreeNode_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuDeviceGraphMemTrim_params_st {
    pub device: CUdevice,
}
pub type cuDeviceGraphMemTrim_params = cuDeviceGraphMemTrim_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuCtxCreate_v3_params_st {
    pub pctx: *mut CUcontext,
    pub paramsArray: *mut CUexecAffinityParam,
    pub numParams: ::core::ffi::c_int,
    pub flags: ::core::ffi::c_uint,
    pub dev: CUdevice,
}
pub type cuCtxCreate_v3_params = cuCtxCreate_v3_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuLibraryLoadData_params_st {
    pub library: *mut CUlibrary,
    pub code: *const ::core::ffi::c_void,
    pub jitOptions: *mut CUjit_option,
    pub jitOptionsValues: *mut *mut ::core::ffi::c_void,
    pub numJitOptions: ::core::ffi::c_uint,
    pub libraryOptions: *mut CUlibraryOption,
    pub libraryOptionValues: *mut *mut ::core::ffi::c_void,
    pub numLibraryOptions: ::core::ffi::c_uint,
}
pub type cuLibraryLoadData_params = cuLibraryLoadData_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuLibraryLoadFromFile_params_st {
    pub library: *mut CUlibrary,
    pub fileName: *const ::core::ffi::c_char,
    pub jitOptions: *mut CUjit_option,
    pub jitOptionsValues: *mut *mut ::core::ffi::c_void,
    pub numJitOptions: ::core::ffi::c_uint,
    pub libraryOptions: *mut CUlibraryOption,
    pub libraryOptionValues: *mut *mut ::core::ffi::c_void,
    pub numLibraryOptions: ::core::ffi::c_uint,
}
pub type cuLibraryLoadFromFile_params = cuLibraryLoadFromFile_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuLibraryUnload_params_st {
    pub library: CUlibrary,
}
pub type cuLibraryUnload_params = cuLibraryUnload_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuKernelGetFunction_params_st {
    pub pFunc: *mut CUfunction,
    pub kernel: CUkernel,
}
pub type cuKernelGetFunction_params = cuKernelGetFunction_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMulticastCreate_params_st {
    pub mcHandle: *mut CUmemGenericAllocationHandle,
    pub prop: *const CUmulticastObjectProp,
}
pub type cuMulticastCreate_params = cuMulticastCreate_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMulticastBindMem_params_st {
    pub mcHandle: CUmemGenericAllocationHandle,
    pub mcOffset: usize,
    pub memHandle: CUmemGenericAllocationHandle,
    pub memOffset: usize,
    pub size: usize,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMulticastBindMem_params = cuMulticastBindMem_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMulticastBindAddr_params_st {
    pub mcHandle: CUmemGenericAllocationHandle,
    pub mcOffset: usize,
    pub memptr: CUdeviceptr,
    pub size: usize,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMulticastBindAddr_params = cuMulticastBindAddr_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMulticastUnbind_params_st {
    pub mcHandle: CUmemGenericAllocationHandle,
    pub dev: CUdevice,
    pub mcOffset: usize,
    pub size: usize,
}
pub type cuMulticastUnbind_params = cuMulticastUnbind_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuGraphAddNode_params_st {
    pub phGraphNode: *mut CUgraphNode,
    pub hGraph: CUgraph,
    pub dependencies: *const CUgraphNode,
    pub numDependencies: usize,
    pub nodeParams: *mut CUgraphNodeParams,
}
pub type cuGraphAddNode_params = cuGraphAddNode_params_st;
#[repr(C)]
pub struct cuStreamBeginCaptureToGraph_params_st {
    pub hStream: CUstream,
    pub hGraph: CUgraph,
    pub dependencies: *const CUgraphNode,
    pub dependencyData: *const CUgraphEdgeData,
    pub numDependencies: usize,
    pub mode: CUstreamCaptureMode,
}
pub type cuStreamBeginCaptureToGraph_params = cuStreamBeginCaptureToGraph_params_st;
#[repr(C)]
pub struct cuStreamBeginCaptureToGraph_ptsz_params_st {
    pub hStream: CUstream,
    pub hGraph: CUgraph,
    pub dependencies: *const CUgraphNode,
    pub dependencyData: *const CUgraphEdgeData,
    pub numDependencies: usize,
    pub mode: CUstreamCaptureMode,
}
pub type cuStreamBeginCaptureToGraph_ptsz_params = cuStreamBeginCaptureToGraph_ptsz_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuGraphAddNode_v2_params_st {
    pub phGraphNode: *mut CUgraphNode,
    pub hGraph: CUgraph,
    pub dependencies: *const CUgraphNode,
    pub dependencyData: *const CUgraphEdgeData,
    pub numDependencies: usize,
    pub nodeParams: *mut CUgraphNodeParams,
}
pub type cuGraphAddNode_v2_params = cuGraphAddNode_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuCtxCreate_v4_params_st {
    pub pctx: *mut CUcontext,
    pub ctxCreateParams: *mut CUctxCreateParams,
    pub flags: ::core::ffi::c_uint,
    pub dev: CUdevice,
}
pub type cuCtxCreate_v4_params = cuCtxCreate_v4_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMemSetMemPool_params_st {
    pub location: *mut CUmemLocation,
    pub type_: CUmemAllocationType,
    pub pool: CUmemoryPool,
}
pub type cuMemSetMemPool_params = cuMemSetMemPool_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMulticastBindMem_v2_params_st {
    pub mcHandle: CUmemGenericAllocationHandle,
    pub dev: CUdevice,
    pub mcOffset: usize,
    pub memHandle: CUmemGenericAllocationHandle,
    pub memOffset: usize,
    pub size: usize,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMulticastBindMem_v2_params = cuMulticastBindMem_v2_params_st;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct cuMulticastBindAddr_v2_params_st {
    pub mcHandle: CUmemGenericAllocationHandle,
    pub dev: CUdevice,
    pub mcOffset: usize,
    pub memptr: CUdeviceptr,
    pub size: usize,
    pub flags: ::core::ffi::c_ulonglong,
}
pub type cuMulticastBindAddr_v2_params = cuMulticastBindAddr_v2_params_st;
pub struct Headers {
    __library: ::libloading::Library,
    pub cuptiGetResultString: Result<
        unsafe extern "C" fn(
            result: CUptiResult,
            str_: *mut *const ::core::ffi::c_char,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiGetVersion:
        Result<unsafe extern "C" fn(version: *mut u32) -> CUptiResult, ::libloading::Error>,
    pub cuptiSubscribe: Result<
        unsafe extern "C" fn(
            subscriber: *mut CUpti_SubscriberHandle,
            callback: CUpti_CallbackFunc,
            userdata: *mut ::core::ffi::c_void,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiSubscribe_v2: Result<
        unsafe extern "C" fn(
            subscriber: *mut CUpti_SubscriberHandle,
            callback: CUpti_CallbackFunc,
            userdata: *mut ::core::ffi::c_void,
            pParams: *mut CUpti_SubscriberParams,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiUnsubscribe: Result<
        unsafe extern "C" fn(subscriber: CUpti_SubscriberHandle) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiGetCallbackState: Result<
        unsafe extern "C" fn(
            enable: *mut u32,
            subscriber: CUpti_SubscriberHandle,
            domain: CUpti_CallbackDomain,
            cbid: CUpti_CallbackId,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiEnableCallback: Result<
        unsafe extern "C" fn(
            enable: u32,
            subscriber: CUpti_SubscriberHandle,
            domain: CUpti_CallbackDomain,
            cbid: CUpti_CallbackId,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiEnableDomain: Result<
        unsafe extern "C" fn(
            enable: u32,
            subscriber: CUpti_SubscriberHandle,
            domain: CUpti_CallbackDomain,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiGetTimestamp:
        Result<unsafe extern "C" fn(timestamp: *mut u64) -> CUptiResult, ::libloading::Error>,
    pub cuptiGetContextId: Result<
        unsafe extern "C" fn(context: CUcontext, contextId: *mut u32) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiGetStreamIdEx: Result<
        unsafe extern "C" fn(
            context: CUcontext,
            stream: CUstream,
            perThreadStream: u8,
            streamId: *mut u32,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivityEnable:
        Result<unsafe extern "C" fn(kind: CUpti_ActivityKind) -> CUptiResult, ::libloading::Error>,
    pub cuptiActivityDisable:
        Result<unsafe extern "C" fn(kind: CUpti_ActivityKind) -> CUptiResult, ::libloading::Error>,
    pub cuptiActivityGetNumDroppedRecords: Result<
        unsafe extern "C" fn(context: CUcontext, streamId: u32, dropped: *mut usize) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivityGetNextRecord: Result<
        unsafe extern "C" fn(
            buffer: *mut u8,
            validBufferSizeBytes: usize,
            record: *mut *mut CUpti_Activity,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivityRegisterCallbacks: Result<
        unsafe extern "C" fn(
            funcBufferRequested: CUpti_BuffersCallbackRequestFunc,
            funcBufferCompleted: CUpti_BuffersCallbackCompleteFunc,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivityFlushAll:
        Result<unsafe extern "C" fn(flag: u32) -> CUptiResult, ::libloading::Error>,
    pub cuptiActivityGetAttribute: Result<
        unsafe extern "C" fn(
            attr: CUpti_ActivityAttribute,
            valueSize: *mut usize,
            value: *mut ::core::ffi::c_void,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivitySetAttribute: Result<
        unsafe extern "C" fn(
            attr: CUpti_ActivityAttribute,
            valueSize: *mut usize,
            value: *mut ::core::ffi::c_void,
        ) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiFinalize: Result<unsafe extern "C" fn() -> CUptiResult, ::libloading::Error>,
    pub cuptiActivityPushExternalCorrelationId: Result<
        unsafe extern "C" fn(kind: CUpti_ExternalCorrelationKind, id: u64) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivityPopExternalCorrelationId: Result<
        unsafe extern "C" fn(kind: CUpti_ExternalCorrelationKind, lastId: *mut u64) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivityFlushPeriod:
        Result<unsafe extern "C" fn(time: u32) -> CUptiResult, ::libloading::Error>,
    pub cuptiActivityRegisterTimestampCallback: Result<
        unsafe extern "C" fn(funcTimestamp: CUpti_TimestampCallbackFunc) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivityEnableDriverApi: Result<
        unsafe extern "C" fn(cbid: CUpti_CallbackId, enable: u8) -> CUptiResult,
        ::libloading::Error,
    >,
    pub cuptiActivityEnableRuntimeApi: Result<
        unsafe extern "C" fn(cbid: CUpti_CallbackId, enable: u8) -> CUptiResult,
        ::libloading::Error,
    >,
}
