//! The driver functions whose callbacks we enable: their callback ids, and where their arguments
//! lie in the parameter block that a callback's `functionParams` points to.
//!
//! The numbers never changed between 12.0 and 13.5. Some *names* vanished from later headers, so
//! these are ours and not a header's.
//!
//! A `_ptsz` id is the same function called by code compiled for per-thread default streams; its
//! block has the same shape, so it shares the parameters of the plain one.

macro_rules! driver_functions {
    ($($konst:ident = $id:literal, $function:ident $(, $module:ident: $params:ident {
        $($arg:ident: $field:ident = $offset:literal, $size:literal;)*
    })?;)*) => {
        /// Callback ids of the driver functions, in the domain [`crate::domain::DRIVER_API`].
        pub mod cbid {
            $(
                #[doc = concat!("Callback id of `", stringify!($function), "`.")]
                pub const $konst: u32 = $id;
            )*

            /// Every id with the function's C name.
            pub const ALL: &[(&str, u32)] = &[$((stringify!($function), $id)),*];

            /// The function's C name, or `None` for an id that we never enable.
            #[must_use]
            pub fn name(id: u32) -> Option<&'static str> {
                match id {
                    $($id => Some(stringify!($function)),)*
                    _ => None,
                }
            }
        }

        /// Offsets of the arguments in each function's parameter block. An argument that is a
        /// pointer to a result (`dptr` of an allocation) may be read through at the exit site only.
        pub mod params {
            $($(
                #[doc = concat!("Arguments of `", stringify!($function), "`.")]
                pub mod $module {
                    $(
                        #[doc = concat!(
                            "Offset of `", stringify!($field), "`, ", $size, " bytes wide."
                        )]
                        pub const $arg: usize = $offset;
                    )*
                }
            )?)*
        }

        /// Per parameter block its name, and ours and bindgen's fields.
        #[cfg(test)]
        pub(crate) fn params_and_bindings() -> Vec<crate::tests::Block> {
            use crate::bindings::*;
            vec![$($((
                stringify!($params),
                None,
                vec![$((($offset, $size), crate::tests::field!($params, $field))),*],
            ),)?)*]
        }
    };
}

driver_functions! {
    MEM_FREE_HOST = 38, cuMemFreeHost, mem_free_host: cuMemFreeHost_params { POINTER: p = 0, 8; };
    MEM_HOST_ALLOC = 39, cuMemHostAlloc, mem_host_alloc: cuMemHostAlloc_params {
        POINTER: pp = 0, 8;
        BYTES: bytesize = 8, 8;
        FLAGS: Flags = 16, 4;
    };
    MEMSET_D8_ASYNC = 216, cuMemsetD8Async;
    MEMSET_D16_ASYNC = 218, cuMemsetD16Async;
    MEMSET_D32_ASYNC = 220, cuMemsetD32Async;
    MEM_ALLOC_V2 = 243, cuMemAlloc_v2, mem_alloc_v2: cuMemAlloc_v2_params {
        DPTR: dptr = 0, 8;
        BYTES: bytesize = 8, 8;
    };
    MEM_ALLOC_PITCH_V2 = 244, cuMemAllocPitch_v2, mem_alloc_pitch_v2: cuMemAllocPitch_v2_params {
        DPTR: dptr = 0, 8;
        PITCH: pPitch = 8, 8;
        WIDTH_BYTES: WidthInBytes = 16, 8;
        HEIGHT: Height = 24, 8;
        ELEMENT_SIZE_BYTES: ElementSizeBytes = 32, 4;
    };
    MEM_FREE_V2 = 245, cuMemFree_v2, mem_free_v2: cuMemFree_v2_params { DPTR: dptr = 0, 8; };
    MEMSET_D8_V2 = 249, cuMemsetD8_v2;
    MEMSET_D32_V2 = 251, cuMemsetD32_v2;
    // Gone from the headers by 13.5; older libraries still report it.
    MEM_HOST_ALLOC_V2 = 271, cuMemHostAlloc_v2;
    MEMCPY_HTOD_V2 = 276, cuMemcpyHtoD_v2;
    MEMCPY_HTOD_ASYNC_V2 = 277, cuMemcpyHtoDAsync_v2;
    MEMCPY_DTOH_V2 = 278, cuMemcpyDtoH_v2;
    MEMCPY_DTOH_ASYNC_V2 = 279, cuMemcpyDtoHAsync_v2;
    MEMCPY_DTOD_V2 = 280, cuMemcpyDtoD_v2;
    MEMCPY_DTOD_ASYNC_V2 = 281, cuMemcpyDtoDAsync_v2;
    MEMCPY_2D_V2 = 287, cuMemcpy2D_v2;
    MEMCPY_2D_ASYNC_V2 = 289, cuMemcpy2DAsync_v2;
    MEMCPY_3D_ASYNC_V2 = 291, cuMemcpy3DAsync_v2;
    MEM_ALLOC_HOST_V2 = 294, cuMemAllocHost_v2, mem_alloc_host_v2: cuMemAllocHost_v2_params {
        POINTER: pp = 0, 8;
        BYTES: bytesize = 8, 8;
    };
    MEM_HOST_REGISTER = 301, cuMemHostRegister, mem_host_register: cuMemHostRegister_params {
        POINTER: p = 0, 8;
        BYTES: bytesize = 8, 8;
        FLAGS: Flags = 16, 4;
    };
    MEM_HOST_UNREGISTER = 302, cuMemHostUnregister,
        mem_host_unregister: cuMemHostUnregister_params {
        POINTER: p = 0, 8;
    };
    // Called by nobody but us, when CUPTI is to be finalized in its exit callback.
    CTX_GET_CURRENT = 304, cuCtxGetCurrent;
    MEMCPY = 305, cuMemcpy;
    MEMCPY_ASYNC = 306, cuMemcpyAsync;
    LAUNCH_KERNEL = 307, cuLaunchKernel;
    MEMCPY_PEER = 318, cuMemcpyPeer;
    MEMCPY_PEER_ASYNC = 319, cuMemcpyPeerAsync;
    CTX_DESTROY_V2 = 322, cuCtxDestroy_v2, ctx_destroy_v2: cuCtxDestroy_v2_params {
        CONTEXT: ctx = 0, 8;
    };
    MEM_ALLOC_MANAGED = 371, cuMemAllocManaged, mem_alloc_managed: cuMemAllocManaged_params {
        DPTR: dptr = 0, 8;
        BYTES: bytesize = 8, 8;
        FLAGS: flags = 16, 4;
    };
    MEM_HOST_REGISTER_V2 = 379, cuMemHostRegister_v2,
        mem_host_register_v2: cuMemHostRegister_v2_params {
        POINTER: p = 0, 8;
        BYTES: bytesize = 8, 8;
        FLAGS: Flags = 16, 4;
    };
    DEVICE_PRIMARY_CTX_RETAIN = 386, cuDevicePrimaryCtxRetain,
        device_primary_ctx_retain: cuDevicePrimaryCtxRetain_params {
        CONTEXT: pctx = 0, 8;
        DEVICE: dev = 8, 4;
    };
    DEVICE_PRIMARY_CTX_RELEASE = 387, cuDevicePrimaryCtxRelease,
        device_primary_ctx_release: cuDevicePrimaryCtxRelease_params {
        DEVICE: dev = 0, 4;
    };
    DEVICE_PRIMARY_CTX_RESET = 389, cuDevicePrimaryCtxReset,
        device_primary_ctx_reset: cuDevicePrimaryCtxReset_params {
        DEVICE: dev = 0, 4;
    };
    MEMCPY_HTOD_V2_PTDS = 397, cuMemcpyHtoD_v2_ptds;
    MEMCPY_DTOH_V2_PTDS = 398, cuMemcpyDtoH_v2_ptds;
    MEMCPY_DTOD_V2_PTDS = 399, cuMemcpyDtoD_v2_ptds;
    MEMCPY_PTDS = 408, cuMemcpy_ptds;
    MEMCPY_ASYNC_PTSZ = 418, cuMemcpyAsync_ptsz;
    MEMCPY_HTOD_ASYNC_V2_PTSZ = 421, cuMemcpyHtoDAsync_v2_ptsz;
    MEMCPY_DTOH_ASYNC_V2_PTSZ = 422, cuMemcpyDtoHAsync_v2_ptsz;
    MEMCPY_DTOD_ASYNC_V2_PTSZ = 423, cuMemcpyDtoDAsync_v2_ptsz;
    MEMCPY_PEER_ASYNC_PTSZ = 426, cuMemcpyPeerAsync_ptsz;
    MEMSET_D8_ASYNC_PTSZ = 428, cuMemsetD8Async_ptsz;
    MEMSET_D16_ASYNC_PTSZ = 429, cuMemsetD16Async_ptsz;
    MEMSET_D32_ASYNC_PTSZ = 430, cuMemsetD32Async_ptsz;
    LAUNCH_KERNEL_PTSZ = 442, cuLaunchKernel_ptsz;
    LAUNCH_COOPERATIVE_KERNEL = 477, cuLaunchCooperativeKernel;
    LAUNCH_COOPERATIVE_KERNEL_PTSZ = 478, cuLaunchCooperativeKernel_ptsz;
    GRAPH_LAUNCH = 514, cuGraphLaunch, graph_launch: cuGraphLaunch_params {
        GRAPH: hGraph = 0, 8;
        STREAM: hStream = 8, 8;
    };
    GRAPH_LAUNCH_PTSZ = 515, cuGraphLaunch_ptsz;
    DEVICE_PRIMARY_CTX_RELEASE_V2 = 544, cuDevicePrimaryCtxRelease_v2,
        device_primary_ctx_release_v2: cuDevicePrimaryCtxRelease_v2_params { DEVICE: dev = 0, 4; };
    DEVICE_PRIMARY_CTX_RESET_V2 = 545, cuDevicePrimaryCtxReset_v2,
        device_primary_ctx_reset_v2: cuDevicePrimaryCtxReset_v2_params { DEVICE: dev = 0, 4; };
    MEM_ADDRESS_RESERVE = 547, cuMemAddressReserve,
        mem_address_reserve: cuMemAddressReserve_params {
        DPTR: ptr = 0, 8;
        BYTES: size = 8, 8;
        ALIGNMENT: alignment = 16, 8;
        ADDRESS: addr = 24, 8;
        FLAGS: flags = 32, 8;
    };
    MEM_ADDRESS_FREE = 548, cuMemAddressFree, mem_address_free: cuMemAddressFree_params {
        DPTR: ptr = 0, 8;
        BYTES: size = 8, 8;
    };
    MEM_CREATE = 549, cuMemCreate, mem_create: cuMemCreate_params {
        HANDLE: handle = 0, 8;
        BYTES: size = 8, 8;
        PROP: prop = 16, 8;
        FLAGS: flags = 24, 8;
    };
    MEM_RELEASE = 550, cuMemRelease, mem_release: cuMemRelease_params { HANDLE: handle = 0, 8; };
    MEM_MAP = 551, cuMemMap, mem_map: cuMemMap_params {
        DPTR: ptr = 0, 8;
        BYTES: size = 8, 8;
        OFFSET: offset = 16, 8;
        HANDLE: handle = 24, 8;
        FLAGS: flags = 32, 8;
    };
    MEM_UNMAP = 552, cuMemUnmap, mem_unmap: cuMemUnmap_params {
        DPTR: ptr = 0, 8;
        BYTES: size = 8, 8;
    };
    MEM_ALLOC_ASYNC = 598, cuMemAllocAsync, mem_alloc_async: cuMemAllocAsync_params {
        DPTR: dptr = 0, 8;
        BYTES: bytesize = 8, 8;
        STREAM: hStream = 16, 8;
    };
    MEM_ALLOC_ASYNC_PTSZ = 599, cuMemAllocAsync_ptsz;
    MEM_FREE_ASYNC = 600, cuMemFreeAsync, mem_free_async: cuMemFreeAsync_params {
        DPTR: dptr = 0, 8;
        STREAM: hStream = 8, 8;
    };
    MEM_FREE_ASYNC_PTSZ = 601, cuMemFreeAsync_ptsz;
    MEM_POOL_TRIM_TO = 602, cuMemPoolTrimTo, mem_pool_trim_to: cuMemPoolTrimTo_params {
        POOL: pool = 0, 8;
        MIN_BYTES_TO_KEEP: minBytesToKeep = 8, 8;
    };
    MEM_POOL_CREATE = 607, cuMemPoolCreate, mem_pool_create: cuMemPoolCreate_params {
        POOL: pool = 0, 8;
        PROPS: poolProps = 8, 8;
    };
    MEM_POOL_DESTROY = 608, cuMemPoolDestroy, mem_pool_destroy: cuMemPoolDestroy_params {
        POOL: pool = 0, 8;
    };
    MEM_ALLOC_FROM_POOL_ASYNC = 611, cuMemAllocFromPoolAsync,
        mem_alloc_from_pool_async: cuMemAllocFromPoolAsync_params {
        DPTR: dptr = 0, 8;
        BYTES: bytesize = 8, 8;
        POOL: pool = 16, 8;
        STREAM: hStream = 24, 8;
    };
    MEM_ALLOC_FROM_POOL_ASYNC_PTSZ = 612, cuMemAllocFromPoolAsync_ptsz;
    LAUNCH_KERNEL_EX = 652, cuLaunchKernelEx;
    LAUNCH_KERNEL_EX_PTSZ = 653, cuLaunchKernelEx_ptsz;
}
