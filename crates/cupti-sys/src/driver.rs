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
    CTX_CREATE = 10, cuCtxCreate, ctx_create: cuCtxCreate_params {
        CONTEXT: pctx = 0, 8;
        DEVICE: dev = 12, 4;
    };
    MODULE_LOAD = 18, cuModuleLoad, module_load: cuModuleLoad_params {
        MODULE: module = 0, 8;
    };
    MODULE_LOAD_DATA = 19, cuModuleLoadData, module_load_data: cuModuleLoadData_params {
        MODULE: module = 0, 8;
    };
    MODULE_LOAD_DATA_EX = 20, cuModuleLoadDataEx, module_load_data_ex: cuModuleLoadDataEx_params {
        MODULE: module = 0, 8;
    };
    MODULE_LOAD_FAT_BINARY = 21, cuModuleLoadFatBinary,
        module_load_fat_binary: cuModuleLoadFatBinary_params {
        MODULE: module = 0, 8;
    };
    MODULE_UNLOAD = 22, cuModuleUnload, module_unload: cuModuleUnload_params {
        MODULE: hmod = 0, 8;
    };
    MODULE_GET_FUNCTION = 23, cuModuleGetFunction, module_get_function: cuModuleGetFunction_params {
        FUNCTION: hfunc = 0, 8;
        MODULE: hmod = 8, 8;
    };
    MEM_FREE_HOST = 38, cuMemFreeHost, mem_free_host: cuMemFreeHost_params { POINTER: p = 0, 8; };
    MEM_HOST_ALLOC = 39, cuMemHostAlloc, mem_host_alloc: cuMemHostAlloc_params {
        POINTER: pp = 0, 8;
        BYTES: bytesize = 8, 8;
        FLAGS: Flags = 16, 4;
    };
    ARRAY_DESTROY = 89, cuArrayDestroy, array_destroy: cuArrayDestroy_params {
        ARRAY: hArray = 0, 8;
    };
    CTX_SET_LIMIT = 136, cuCtxSetLimit, ctx_set_limit: cuCtxSetLimit_params {
        LIMIT: limit = 0, 4;
        VALUE: value = 8, 8;
    };
    MEMSET_D8_ASYNC = 216, cuMemsetD8Async;
    MEMSET_D16_ASYNC = 218, cuMemsetD16Async;
    MEMSET_D32_ASYNC = 220, cuMemsetD32Async;
    CTX_CREATE_V2 = 235, cuCtxCreate_v2, ctx_create_v2: cuCtxCreate_v2_params {
        CONTEXT: pctx = 0, 8;
        DEVICE: dev = 12, 4;
    };
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
    ARRAY_CREATE_V2 = 272, cuArrayCreate_v2, array_create_v2: cuArrayCreate_v2_params {
        ARRAY: pHandle = 0, 8;
        DESCRIPTOR: pAllocateArray = 8, 8;
    };
    ARRAY_3D_CREATE_V2 = 274, cuArray3DCreate_v2, array_3d_create_v2: cuArray3DCreate_v2_params {
        ARRAY: pHandle = 0, 8;
        DESCRIPTOR: pAllocateArray = 8, 8;
    };
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
    IPC_OPEN_MEM_HANDLE = 329, cuIpcOpenMemHandle, ipc_open_mem_handle: cuIpcOpenMemHandle_params {
        DPTR: pdptr = 0, 8;
        FLAGS: Flags = 72, 4;
    };
    IPC_CLOSE_MEM_HANDLE = 330, cuIpcCloseMemHandle,
        ipc_close_mem_handle: cuIpcCloseMemHandle_params {
        DPTR: dptr = 0, 8;
    };
    MIPMAPPED_ARRAY_CREATE = 347, cuMipmappedArrayCreate,
        mipmapped_array_create: cuMipmappedArrayCreate_params {
        ARRAY: pHandle = 0, 8;
        DESCRIPTOR: pMipmappedArrayDesc = 8, 8;
        LEVELS: numMipmapLevels = 16, 4;
    };
    MIPMAPPED_ARRAY_DESTROY = 349, cuMipmappedArrayDestroy,
        mipmapped_array_destroy: cuMipmappedArrayDestroy_params {
        ARRAY: hMipmappedArray = 0, 8;
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
    EXTERNAL_MEMORY_GET_MAPPED_BUFFER = 486, cuExternalMemoryGetMappedBuffer,
        external_memory_get_mapped_buffer: cuExternalMemoryGetMappedBuffer_params {
        DPTR: devPtr = 0, 8;
        EXTERNAL_MEMORY: extMem = 8, 8;
        DESCRIPTOR: bufferDesc = 16, 8;
    };
    STREAM_BEGIN_CAPTURE = 495, cuStreamBeginCapture,
        stream_begin_capture: cuStreamBeginCapture_params {
        STREAM: hStream = 0, 8;
    };
    STREAM_BEGIN_CAPTURE_PTSZ = 496, cuStreamBeginCapture_ptsz;
    STREAM_END_CAPTURE = 497, cuStreamEndCapture, stream_end_capture: cuStreamEndCapture_params {
        STREAM: hStream = 0, 8;
        GRAPH: phGraph = 8, 8;
    };
    STREAM_END_CAPTURE_PTSZ = 498, cuStreamEndCapture_ptsz;
    GRAPH_LAUNCH = 514, cuGraphLaunch, graph_launch: cuGraphLaunch_params {
        GRAPH: hGraph = 0, 8;
        STREAM: hStream = 8, 8;
    };
    GRAPH_LAUNCH_PTSZ = 515, cuGraphLaunch_ptsz;
    STREAM_BEGIN_CAPTURE_V2 = 539, cuStreamBeginCapture_v2,
        stream_begin_capture_v2: cuStreamBeginCapture_v2_params {
        STREAM: hStream = 0, 8;
    };
    STREAM_BEGIN_CAPTURE_V2_PTSZ = 540, cuStreamBeginCapture_v2_ptsz;
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
    MEM_EXPORT_TO_SHAREABLE_HANDLE = 554, cuMemExportToShareableHandle,
        mem_export_to_shareable_handle: cuMemExportToShareableHandle_params {
        SHAREABLE: shareableHandle = 0, 8;
        HANDLE: handle = 8, 8;
        HANDLE_TYPE: handleType = 16, 4;
    };
    MEM_IMPORT_FROM_SHAREABLE_HANDLE = 555, cuMemImportFromShareableHandle,
        mem_import_from_shareable_handle: cuMemImportFromShareableHandle_params {
        HANDLE: handle = 0, 8;
        OS_HANDLE: osHandle = 8, 8;
        HANDLE_TYPE: shHandleType = 16, 4;
    };
    MEM_RETAIN_ALLOCATION_HANDLE = 565, cuMemRetainAllocationHandle,
        mem_retain_allocation_handle: cuMemRetainAllocationHandle_params {
        HANDLE: handle = 0, 8;
        ADDRESS: addr = 8, 8;
    };
    IPC_OPEN_MEM_HANDLE_V2 = 567, cuIpcOpenMemHandle_v2,
        ipc_open_mem_handle_v2: cuIpcOpenMemHandle_v2_params {
        DPTR: pdptr = 0, 8;
        FLAGS: Flags = 72, 4;
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
    DEVICE_SET_MEM_POOL = 609, cuDeviceSetMemPool, device_set_mem_pool: cuDeviceSetMemPool_params {
        DEVICE: dev = 0, 4;
        POOL: pool = 8, 8;
    };
    MEM_ALLOC_FROM_POOL_ASYNC = 611, cuMemAllocFromPoolAsync,
        mem_alloc_from_pool_async: cuMemAllocFromPoolAsync_params {
        DPTR: dptr = 0, 8;
        BYTES: bytesize = 8, 8;
        POOL: pool = 16, 8;
        STREAM: hStream = 24, 8;
    };
    MEM_ALLOC_FROM_POOL_ASYNC_PTSZ = 612, cuMemAllocFromPoolAsync_ptsz;
    MEM_POOL_IMPORT_FROM_SHAREABLE_HANDLE = 614, cuMemPoolImportFromShareableHandle,
        mem_pool_import_from_shareable_handle: cuMemPoolImportFromShareableHandle_params {
        POOL: pool_out = 0, 8;
    };
    MEM_POOL_IMPORT_POINTER = 616, cuMemPoolImportPointer,
        mem_pool_import_pointer: cuMemPoolImportPointer_params {
        DPTR: ptr_out = 0, 8;
        POOL: pool = 8, 8;
    };
    GRAPH_ADD_MEM_ALLOC_NODE = 638, cuGraphAddMemAllocNode,
        graph_add_mem_alloc_node: cuGraphAddMemAllocNode_params {
        NODE: phGraphNode = 0, 8;
        GRAPH: hGraph = 8, 8;
        PARAMS: nodeParams = 32, 8;
    };
    GRAPH_ADD_MEM_FREE_NODE = 639, cuGraphAddMemFreeNode,
        graph_add_mem_free_node: cuGraphAddMemFreeNode_params {
        NODE: phGraphNode = 0, 8;
        GRAPH: hGraph = 8, 8;
        DPTR: dptr = 32, 8;
    };
    DEVICE_GRAPH_MEM_TRIM = 640, cuDeviceGraphMemTrim,
        device_graph_mem_trim: cuDeviceGraphMemTrim_params {
        DEVICE: device = 0, 4;
    };
    CTX_CREATE_V3 = 645, cuCtxCreate_v3, ctx_create_v3: cuCtxCreate_v3_params {
        CONTEXT: pctx = 0, 8;
        DEVICE: dev = 24, 4;
    };
    LAUNCH_KERNEL_EX = 652, cuLaunchKernelEx;
    LAUNCH_KERNEL_EX_PTSZ = 653, cuLaunchKernelEx_ptsz;
    LIBRARY_LOAD_DATA = 678, cuLibraryLoadData, library_load_data: cuLibraryLoadData_params {
        LIBRARY: library = 0, 8;
    };
    LIBRARY_LOAD_FROM_FILE = 679, cuLibraryLoadFromFile,
        library_load_from_file: cuLibraryLoadFromFile_params {
        LIBRARY: library = 0, 8;
    };
    LIBRARY_UNLOAD = 680, cuLibraryUnload, library_unload: cuLibraryUnload_params {
        LIBRARY: library = 0, 8;
    };
    KERNEL_GET_FUNCTION = 683, cuKernelGetFunction,
        kernel_get_function: cuKernelGetFunction_params {
        FUNCTION: pFunc = 0, 8;
        KERNEL: kernel = 8, 8;
    };
    MULTICAST_CREATE = 706, cuMulticastCreate, multicast_create: cuMulticastCreate_params {
        HANDLE: mcHandle = 0, 8;
        PROP: prop = 8, 8;
    };
    MULTICAST_BIND_MEM = 708, cuMulticastBindMem, multicast_bind_mem: cuMulticastBindMem_params {
        MULTICAST: mcHandle = 0, 8;
        MULTICAST_OFFSET: mcOffset = 8, 8;
        HANDLE: memHandle = 16, 8;
        HANDLE_OFFSET: memOffset = 24, 8;
        BYTES: size = 32, 8;
    };
    MULTICAST_BIND_ADDR = 709, cuMulticastBindAddr,
        multicast_bind_addr: cuMulticastBindAddr_params {
        MULTICAST: mcHandle = 0, 8;
        MULTICAST_OFFSET: mcOffset = 8, 8;
        DPTR: memptr = 16, 8;
        BYTES: size = 24, 8;
    };
    MULTICAST_UNBIND = 710, cuMulticastUnbind, multicast_unbind: cuMulticastUnbind_params {
        MULTICAST: mcHandle = 0, 8;
        DEVICE: dev = 8, 4;
        MULTICAST_OFFSET: mcOffset = 16, 8;
        BYTES: size = 24, 8;
    };
    GRAPH_ADD_NODE = 712, cuGraphAddNode, graph_add_node: cuGraphAddNode_params {
        NODE: phGraphNode = 0, 8;
        GRAPH: hGraph = 8, 8;
        PARAMS: nodeParams = 32, 8;
    };
    STREAM_BEGIN_CAPTURE_TO_GRAPH = 720, cuStreamBeginCaptureToGraph,
        stream_begin_capture_to_graph: cuStreamBeginCaptureToGraph_params {
        STREAM: hStream = 0, 8;
        GRAPH: hGraph = 8, 8;
    };
    STREAM_BEGIN_CAPTURE_TO_GRAPH_PTSZ = 721, cuStreamBeginCaptureToGraph_ptsz;
    GRAPH_ADD_NODE_V2 = 723, cuGraphAddNode_v2, graph_add_node_v2: cuGraphAddNode_v2_params {
        NODE: phGraphNode = 0, 8;
        GRAPH: hGraph = 8, 8;
        PARAMS: nodeParams = 40, 8;
    };
    CTX_CREATE_V4 = 757, cuCtxCreate_v4, ctx_create_v4: cuCtxCreate_v4_params {
        CONTEXT: pctx = 0, 8;
        DEVICE: dev = 20, 4;
    };
    MEM_SET_MEM_POOL = 803, cuMemSetMemPool, mem_set_mem_pool: cuMemSetMemPool_params {
        LOCATION: location = 0, 8;
        POOL: pool = 16, 8;
    };
    MULTICAST_BIND_MEM_V2 = 820, cuMulticastBindMem_v2,
        multicast_bind_mem_v2: cuMulticastBindMem_v2_params {
        MULTICAST: mcHandle = 0, 8;
        DEVICE: dev = 8, 4;
        MULTICAST_OFFSET: mcOffset = 16, 8;
        HANDLE: memHandle = 24, 8;
        HANDLE_OFFSET: memOffset = 32, 8;
        BYTES: size = 40, 8;
    };
    MULTICAST_BIND_ADDR_V2 = 821, cuMulticastBindAddr_v2,
        multicast_bind_addr_v2: cuMulticastBindAddr_v2_params {
        MULTICAST: mcHandle = 0, 8;
        DEVICE: dev = 8, 4;
        MULTICAST_OFFSET: mcOffset = 16, 8;
        DPTR: memptr = 24, 8;
        BYTES: size = 32, 8;
    };
}
