//! The simulated libcuda: one table of functions, and their bodies by noun.
//!
//! Handles and device addresses cross the edge as `u64`, which the C ABIs of all CUDA hosts pass
//! exactly as the opaque pointers and 8-byte structs of the real declarations.

#![expect(unsafe_code, reason = "exports a C API")]
#![allow(non_snake_case, non_camel_case_types, reason = "exported names and parameters are CUDA's")]
#![allow(clippy::too_many_arguments, reason = "signatures are CUDA's")]
#![allow(dead_code, reason = "parameter structs are read by callbacks only")]

pub(crate) mod copy;
pub(crate) mod device;
pub(crate) mod graph;
pub(crate) mod init;
pub(crate) mod ipc;
pub(crate) mod library;
pub(crate) mod memory;
mod memory_functions;
pub(crate) mod module;
pub(crate) mod pointer;
pub(crate) mod pools;
pub(crate) mod records;
pub(crate) mod stream;
pub(crate) mod vmm;
pub(crate) mod work;

use crate::abi::{
    Code, KernelNodeParams, LaunchConfig, MemAllocNodeParams, Memcpy3d, MemsetNodeParams,
};
use crate::entry::{Function, driver_functions};
use crate::world::timeline::PER_THREAD_HANDLE;
use copy::Direction;
use graph::After;
use module::Launch;
use std::ffi::{c_char, c_void};
use work::Wait;

/// What a null stream means to the `_ptsz` variants.
fn ptsz(stream: u64) -> u64 {
    if stream == 0 { PER_THREAD_HANDLE } else { stream }
}

/// What a stream means to the plain variants: itself.
fn as_is(stream: u64) -> u64 {
    stream
}

/// Every function of the simulated libcuda.
pub(crate) fn functions() -> impl Iterator<Item = &'static Function> {
    TABLE.iter().chain(memory_functions::TABLE)
}

// Callback ids are CUPTI's for the driver API (stable from 12.0 to 13.5); 0 where nobody listens.
driver_functions! {
    cuInit(_flags: u32) = 1 Free => |_call| init::init();
    cuDriverGetVersion(version: *mut i32) = 2 Free => |_call| init::version(version);
    cuGetErrorName(code: u32, to: *mut *const c_char) = 0 Free
        => |_call| init::error_name(code, to);
    cuGetErrorString(code: u32, to: *mut *const c_char) = 0 Free
        => |_call| init::error_string(code, to);
    cuGetProcAddress(symbol: *const c_char, to: *mut *const c_void, version: i32, flags: u64)
        = 0 Free
        => |call| init::proc_address(call, symbol, to, version, flags, std::ptr::null_mut());
    cuGetProcAddress_v2(symbol: *const c_char, to: *mut *const c_void, version: i32, flags: u64,
        status: *mut u32) = 0 Free
        => |call| init::proc_address(call, symbol, to, version, flags, status);
    cuGetExportTable(to: *mut *const c_void, _id: *const c_void) = 0 Free => |_call| {
        // Private tables: what libcudart and the real libcupti need, and never get here.
        crate::edge::put_if(to, std::ptr::null());
        Err(Code::NOT_FOUND)
    };

    cuDeviceGetCount(count: *mut i32) = 4 Call => |call| device::count(call, count);
    cuDeviceGet(device: *mut i32, ordinal: i32) = 3 Free
        => |call| device::get(call, device, ordinal);
    cuDeviceGetName(name: *mut c_char, len: i32, dev: i32) = 5 Call
        => |call| device::name(call, name, len, dev);
    cuDeviceGetUuid(uuid: *mut [u8; 16], dev: i32) = 482 Call
        => |call| device::whole_uuid(call, uuid, dev);
    cuDeviceGetUuid_v2(uuid: *mut [u8; 16], dev: i32) = 647 Call
        => |call| device::uuid(call, uuid, dev);
    cuDeviceTotalMem_v2(bytes: *mut usize, dev: i32) = 259 Call
        => |call| device::total(call, bytes, dev);
    cuDeviceGetAttribute(value: *mut i32, attribute: i32, dev: i32) = 9 Free
        => |call| device::attribute(call, value, attribute, dev);
    cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, dev: i32) = 6 Call
        => |call| device::capability(call, major, minor, dev);
    cuDeviceGetPCIBusId(to: *mut c_char, len: i32, dev: i32) = 332 Call
        => |call| device::pci_bus_id(call, to, len, dev);
    cuDeviceGetDefaultMemPool(pool: *mut u64, dev: i32) = 606 Free
        => |call| device::default_pool(call, pool, dev);
    cuDeviceGetMemPool(pool: *mut u64, dev: i32) = 610 Call
        => |call| device::current_pool(call, pool, dev);
    cuDeviceSetMemPool(dev: i32, pool: u64) = 609 Call => |call| device::set_pool(call, dev, pool);
    cuDevicePrimaryCtxRetain(ctx: *mut u64, dev: i32) = 386 Free
        => |call| device::primary_retain(call, ctx, dev);
    cuDevicePrimaryCtxRelease(dev: i32) = 387 Free => |call| device::primary_release(call, dev);
    cuDevicePrimaryCtxRelease_v2(dev: i32) = 544 Free => |call| device::primary_release(call, dev);
    cuDevicePrimaryCtxReset(dev: i32) = 389 Call => |call| device::primary_reset(call, dev);
    cuDevicePrimaryCtxReset_v2(dev: i32) = 545 Call => |call| device::primary_reset(call, dev);
    cuDevicePrimaryCtxGetState(dev: i32, flags: *mut u32, active: *mut i32) = 392 Free
        => |call| device::primary_state(call, dev, flags, active);
    cuDevicePrimaryCtxSetFlags_v2(dev: i32, flags: u32) = 546 Call
        => |call| device::primary_flags(call, dev, flags);

    cuCtxCreate_v2(ctx: *mut u64, flags: u32, dev: i32) = 235 Setup
        => |call| device::create(call, ctx, flags, dev);
    cuCtxCreate_v3(ctx: *mut u64, _params: *const c_void, _numParams: i32, flags: u32, dev: i32)
        = 645 Setup => |call| device::create(call, ctx, flags, dev);
    cuCtxCreate_v4(ctx: *mut u64, _params: *const c_void, flags: u32, dev: i32) = 757 Setup
        => |call| device::create(call, ctx, flags, dev);
    cuCtxDestroy_v2(ctx: u64) = 322 Call => |call| device::destroy(call, ctx);
    cuCtxSetCurrent(ctx: u64) = 303 Call => |call| device::set_current(call, ctx);
    cuCtxGetCurrent(ctx: *mut u64) = 304 Free => |call| device::get_current(call, ctx);
    cuCtxPushCurrent_v2(ctx: u64) = 323 Free => |call| device::push(call, ctx);
    cuCtxPopCurrent_v2(ctx: *mut u64) = 324 Free => |call| device::pop(call, ctx);
    cuCtxGetDevice(dev: *mut i32) = 16 Free => |call| device::current_device(call, dev);
    cuCtxGetApiVersion(ctx: u64, version: *mut u32) = 296 Call
        => |call| device::api_version(call, ctx, version);
    cuCtxGetFlags(flags: *mut u32) = 391 Call => |call| device::context_flags(call, flags);
    cuCtxSetFlags(flags: u32) = 705 Call => |call| device::set_context_flags(call, flags);
    cuCtxGetLimit(value: *mut usize, limit: u32) = 137 Call
        => |call| device::get_limit(call, value, limit);
    cuCtxSetLimit(limit: u32, value: usize) = 136 Call
        => |call| device::set_limit(call, limit, value);
    cuCtxGetCacheConfig(config: *mut u32) = 299 Call
        => |call| device::in_context(call).and_then(|()| crate::edge::put(config, 0));
    cuCtxSetCacheConfig(_config: u32) = 300 Call => |call| device::in_context(call);
    cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) = 370 Call
        => |call| device::priorities(call, least, greatest);
    cuCtxGetId(ctx: u64, ctxId: *mut u64) = 695 Free
        => |call| device::context_id(call, ctx, ctxId);
    cuDeviceCanAccessPeer(canAccessPeer: *mut i32, dev: i32, peerDev: i32) = 312 Call
        => |call| device::can_access(call, canAccessPeer, dev, peerDev);
    cuCtxEnablePeerAccess(peerContext: u64, flags: u32) = 313 Call
        => |call| device::enable_peer(call, peerContext, flags);
    cuCtxDisablePeerAccess(peerContext: u64) = 314 Call
        => |call| device::disable_peer(call, peerContext);
    cuCtxSynchronize() = 17 Sync => |call| stream::synchronize_context(call);

    cuMemcpy(dst: u64, src: u64, ByteCount: usize) = 305 Copy
        => |call| copy::unified(call, dst, src, ByteCount, Wait::Here);
    cuMemcpyAsync(dst: u64, src: u64, ByteCount: usize, hStream: u64) = 306 Copy
        => |call| copy::unified(call, dst, src, ByteCount, Wait::On(hStream));
    cuMemcpyAsync_ptsz(dst: u64, src: u64, ByteCount: usize, hStream: u64) = 418 Copy
        => |call| copy::unified(call, dst, src, ByteCount, Wait::On(ptsz(hStream)));
    cuMemcpyHtoD_v2(dst: u64, src: u64, ByteCount: usize) = 276 Copy
        => |call| copy::copy(call, Direction::HostToDevice, dst, src, ByteCount, Wait::Here);
    cuMemcpyDtoH_v2(dst: u64, src: u64, ByteCount: usize) = 278 Copy
        => |call| copy::copy(call, Direction::DeviceToHost, dst, src, ByteCount, Wait::Here);
    cuMemcpyDtoD_v2(dst: u64, src: u64, ByteCount: usize) = 280 Copy
        => |call| copy::copy(call, Direction::DeviceToDevice, dst, src, ByteCount, Wait::Here);
    cuMemcpyHtoDAsync_v2(dst: u64, src: u64, ByteCount: usize, hStream: u64) = 277 Copy
        => |call| copy::copy(call, Direction::HostToDevice, dst, src, ByteCount, Wait::On(hStream));
    cuMemcpyDtoHAsync_v2(dst: u64, src: u64, ByteCount: usize, hStream: u64) = 279 Copy
        => |call| copy::copy(call, Direction::DeviceToHost, dst, src, ByteCount, Wait::On(hStream));
    cuMemcpyDtoDAsync_v2(dst: u64, src: u64, ByteCount: usize, hStream: u64) = 281 Copy
        => |call| copy::copy(call, Direction::DeviceToDevice, dst, src, ByteCount,
            Wait::On(hStream));
    cuMemcpyPeer(dst: u64, dstContext: u64, src: u64, srcContext: u64, ByteCount: usize)
        = 318 Copy
        => |call| copy::peer(call, (dst, dstContext), (src, srcContext), ByteCount, Wait::Here);
    cuMemcpyPeerAsync(dst: u64, dstContext: u64, src: u64, srcContext: u64, ByteCount: usize,
        hStream: u64) = 319 Copy
        => |call| copy::peer(call, (dst, dstContext), (src, srcContext), ByteCount,
            Wait::On(hStream));
    cuMemsetD8_v2(dst: u64, value: u8, N: usize) = 249 Copy
        => |call| copy::set(call, dst, value.into(), 1, N, Wait::Here);
    cuMemsetD16_v2(dst: u64, value: u16, N: usize) = 250 Copy
        => |call| copy::set(call, dst, value.into(), 2, N, Wait::Here);
    cuMemsetD32_v2(dst: u64, value: u32, N: usize) = 251 Copy
        => |call| copy::set(call, dst, value, 4, N, Wait::Here);
    cuMemsetD8Async(dst: u64, value: u8, N: usize, hStream: u64) = 216 Copy
        => |call| copy::set(call, dst, value.into(), 1, N, Wait::On(hStream));
    cuMemsetD16Async(dst: u64, value: u16, N: usize, hStream: u64) = 218 Copy
        => |call| copy::set(call, dst, value.into(), 2, N, Wait::On(hStream));
    cuMemsetD32Async(dst: u64, value: u32, N: usize, hStream: u64) = 220 Copy
        => |call| copy::set(call, dst, value, 4, N, Wait::On(hStream));

    cuStreamCreate(stream: *mut u64, flags: u32) = 124 Call
        => |call| stream::create(call, stream, flags, 0);
    cuStreamCreateWithPriority(stream: *mut u64, flags: u32, priority: i32) = 367 Call
        => |call| stream::create(call, stream, flags, priority);
    cuStreamDestroy_v2(hStream: u64) = 326 Call => |call| stream::destroy(call, hStream);
    cuStreamGetFlags(hStream: u64, flags: *mut u32) = 369 Call
        => |call| stream::flags(call, hStream, flags);
    cuStreamGetPriority(hStream: u64, priority: *mut i32) = 368 Call
        => |call| stream::priority(call, hStream, priority);
    cuStreamGetCtx(hStream: u64, ctx: *mut u64) = 483 Call
        => |call| stream::context(call, hStream, ctx);
    cuStreamGetId(hStream: u64, id: *mut u64) = 693 Call => |call| stream::id(call, hStream, id);
    cuStreamBeginCapture_v2(hStream: u64, mode: u32) = 539 Call
        => |call| graph::begin_capture(call, hStream, mode);
    cuStreamBeginCapture_v2_ptsz(hStream: u64, mode: u32) = 540 Call
        => |call| graph::begin_capture(call, ptsz(hStream), mode);
    cuStreamBeginCaptureToGraph(hStream: u64, hGraph: u64, dependencies: *const u64,
        _dependencyData: *const c_void, numDependencies: usize, mode: u32) = 720 Call
        => |call| graph::begin_capture_to(call, hStream, hGraph,
            After(dependencies, numDependencies), mode);
    cuStreamBeginCaptureToGraph_ptsz(hStream: u64, hGraph: u64, dependencies: *const u64,
        _dependencyData: *const c_void, numDependencies: usize, mode: u32) = 721 Call
        => |call| graph::begin_capture_to(call, ptsz(hStream), hGraph,
            After(dependencies, numDependencies), mode);
    cuStreamEndCapture(hStream: u64, phGraph: *mut u64) = 497 Call
        => |call| graph::end_capture(call, hStream, phGraph);
    cuStreamEndCapture_ptsz(hStream: u64, phGraph: *mut u64) = 498 Call
        => |call| graph::end_capture(call, ptsz(hStream), phGraph);
    cuStreamIsCapturing(hStream: u64, status: *mut u32) = 499 Call
        => |call| graph::is_capturing(call, hStream, status);
    cuStreamIsCapturing_ptsz(hStream: u64, status: *mut u32) = 500 Call
        => |call| graph::is_capturing(call, ptsz(hStream), status);
    cuThreadExchangeStreamCaptureMode(mode: *mut u32) = 541 Free
        => |call| stream::exchange_capture_mode(call, mode);
    cuStreamQuery(hStream: u64) = 125 Call => |call| stream::query(call, hStream);
    cuStreamQuery_ptsz(hStream: u64) = 439 Call => |call| stream::query(call, ptsz(hStream));
    cuStreamSynchronize(hStream: u64) = 126 Sync => |call| stream::synchronize(call, hStream);
    cuStreamSynchronize_ptsz(hStream: u64) = 440 Sync
        => |call| stream::synchronize(call, ptsz(hStream));
    cuStreamWaitEvent(hStream: u64, hEvent: u64, _flags: u32) = 295 Call
        => |call| stream::wait_event(call, hStream, hEvent);
    cuStreamWaitEvent_ptsz(hStream: u64, hEvent: u64, _flags: u32) = 436 Call
        => |call| stream::wait_event(call, ptsz(hStream), hEvent);
    cuLaunchHostFunc(hStream: u64, function: usize, data: u64) = 527 Launch
        => |call| stream::host_function(call, hStream, function, data);

    cuEventCreate(event: *mut u64, flags: u32) = 118 Call
        => |call| stream::event_create(call, event, flags);
    cuEventDestroy_v2(hEvent: u64) = 325 Call => |call| stream::event_destroy(call, hEvent);
    cuEventRecord(hEvent: u64, hStream: u64) = 119 Call
        => |call| stream::event_record(call, hEvent, hStream);
    cuEventRecord_ptsz(hEvent: u64, hStream: u64) = 441 Call
        => |call| stream::event_record(call, hEvent, ptsz(hStream));
    cuEventRecordWithFlags(hEvent: u64, hStream: u64, _flags: u32) = 587 Call
        => |call| stream::event_record(call, hEvent, hStream);
    cuEventRecordWithFlags_ptsz(hEvent: u64, hStream: u64, _flags: u32) = 588 Call
        => |call| stream::event_record(call, hEvent, ptsz(hStream));
    cuEventQuery(hEvent: u64) = 120 Call => |call| stream::event_query(call, hEvent);
    cuEventSynchronize(hEvent: u64) = 121 Sync => |call| stream::event_synchronize(call, hEvent);
    cuEventElapsedTime(ms: *mut f32, hStart: u64, hEnd: u64) = 123 Call
        => |call| stream::elapsed(call, ms, hStart, hEnd);
    cuEventElapsedTime_v2(ms: *mut f32, hStart: u64, hEnd: u64) = 780 Call
        => |call| stream::elapsed(call, ms, hStart, hEnd);

    cuModuleLoad(module: *mut u64, fname: *const c_char) = 18 Setup
        => |call| module::load_file(call, module, fname);
    cuModuleLoadData(module: *mut u64, image: *const c_void) = 19 Setup
        => |call| module::load_data(call, module, image);
    cuModuleLoadDataEx(module: *mut u64, image: *const c_void, _numOptions: u32,
        _options: *const u32, _optionValues: *const *mut c_void) = 20 Setup
        => |call| module::load_data(call, module, image);
    cuModuleLoadFatBinary(module: *mut u64, fatCubin: *const c_void) = 21 Setup
        => |call| module::load_data(call, module, fatCubin);
    cuModuleUnload(hmod: u64) = 22 Call => |call| module::unload(call, hmod);
    cuModuleGetFunction(function: *mut u64, hmod: u64, name: *const c_char) = 23 Call
        => |call| module::function(call, function, hmod, name);
    cuModuleGetLoadingMode(mode: *mut u32) = 673 Call => |call| module::loading_mode(call, mode);
    cuLibraryLoadData(library: *mut u64, code: *const c_void, _jitOptions: *const u32,
        _jitOptionsValues: *const *mut c_void, _numJitOptions: u32, _libraryOptions: *const u32,
        _libraryOptionValues: *const *mut c_void, _numLibraryOptions: u32) = 678 Setup
        => |call| library::load(call, library, code);
    cuLibraryLoadFromFile(library: *mut u64, fileName: *const c_char, _jitOptions: *const u32,
        _jitOptionsValues: *const *mut c_void, _numJitOptions: u32, _libraryOptions: *const u32,
        _libraryOptionValues: *const *mut c_void, _numLibraryOptions: u32) = 679 Setup
        => |call| library::load_file(call, library, fileName);
    cuLibraryUnload(library: u64) = 680 Call => |call| library::unload(call, library);
    cuLibraryGetKernel(pKernel: *mut u64, library: u64, name: *const c_char) = 681 Call
        => |call| library::kernel(call, pKernel, library, name);
    cuLibraryGetModule(pMod: *mut u64, library: u64) = 682 Setup
        => |call| library::module(call, pMod, library);
    cuKernelGetFunction(pFunc: *mut u64, kernel: u64) = 683 Setup
        => |call| library::function(call, pFunc, kernel);
    cuFuncGetModule(hmod: *mut u64, hfunc: u64) = 566 Call
        => |call| module::module_of(call, hmod, hfunc);
    cuFuncIsLoaded(state: *mut u32, function: u64) = 741 Call
        => |call| module::is_loaded(call, state, function);
    cuFuncLoad(function: u64) = 742 Setup => |call| module::load_function(call, function);
    cuFuncGetName(name: *mut *const c_char, hfunc: u64) = 0 Call
        => |call| module::function_name(call, name, hfunc);
    cuFuncGetAttribute(value: *mut i32, attribute: u32, hfunc: u64) = 0 Call
        => |call| module::get_attribute(call, value, attribute, hfunc);
    cuFuncSetAttribute(hfunc: u64, attribute: u32, value: i32) = 0 Call
        => |call| module::set_attribute(call, hfunc, attribute, value);
    cuFuncSetCacheConfig(hfunc: u64, _config: u32) = 0 Call => |call| module::known(call, hfunc);
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut i32, func: u64, blockSize: i32,
        _dynamicSMemSize: usize) = 0 Call
        => |call| module::occupancy(call, blocks, func, blockSize);
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: *mut i32, func: u64,
        blockSize: i32, _dynamicSMemSize: usize, _flags: u32) = 0 Call
        => |call| module::occupancy(call, blocks, func, blockSize);
    cuOccupancyMaxPotentialBlockSize(minGrid: *mut i32, block: *mut i32, func: u64,
        _toDynamic: *const c_void, _dynamicSMemSize: usize, _limit: i32) = 0 Call
        => |call| module::best_block(call, minGrid, block, func);
    cuOccupancyMaxPotentialBlockSizeWithFlags(minGrid: *mut i32, block: *mut i32, func: u64,
        _toDynamic: *const c_void, _dynamicSMemSize: usize, _limit: i32, _flags: u32) = 0 Call
        => |call| module::best_block(call, minGrid, block, func);

    cuLaunchKernel(f: u64, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32,
        blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: u64, kernelParams: u64,
        extra: u64) = 307 Launch symbol f => |call| module::launch(call, &Launch {
            function: f, grid: [gridDimX, gridDimY, gridDimZ],
            block: [blockDimX, blockDimY, blockDimZ], shared_bytes: sharedMemBytes,
            stream: hStream, arguments: (kernelParams, extra),
        });
    cuLaunchKernel_ptsz(f: u64, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32,
        blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: u64, kernelParams: u64,
        extra: u64) = 442 Launch symbol f => |call| module::launch(call, &Launch {
            function: f, grid: [gridDimX, gridDimY, gridDimZ],
            block: [blockDimX, blockDimY, blockDimZ], shared_bytes: sharedMemBytes,
            stream: ptsz(hStream), arguments: (kernelParams, extra),
        });
    cuLaunchCooperativeKernel(f: u64, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32,
        blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: u64, kernelParams: u64)
        = 477 Launch symbol f => |call| module::launch(call, &Launch {
            function: f, grid: [gridDimX, gridDimY, gridDimZ],
            block: [blockDimX, blockDimY, blockDimZ], shared_bytes: sharedMemBytes,
            stream: hStream, arguments: (kernelParams, 0),
        });
    cuLaunchCooperativeKernel_ptsz(f: u64, gridDimX: u32, gridDimY: u32, gridDimZ: u32,
        blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: u64,
        kernelParams: u64) = 478 Launch symbol f => |call| module::launch(call, &Launch {
            function: f, grid: [gridDimX, gridDimY, gridDimZ],
            block: [blockDimX, blockDimY, blockDimZ], shared_bytes: sharedMemBytes,
            stream: ptsz(hStream), arguments: (kernelParams, 0),
        });
    cuLaunchKernelEx(config: *const LaunchConfig, f: u64, kernelParams: u64, extra: u64)
        = 652 Launch symbol f
        => |call| module::launch_ex(call, config, f, (kernelParams, extra), as_is);
    cuLaunchKernelEx_ptsz(config: *const LaunchConfig, f: u64, kernelParams: u64, extra: u64)
        = 653 Launch symbol f
        => |call| module::launch_ex(call, config, f, (kernelParams, extra), ptsz);

    cuGraphCreate(phGraph: *mut u64, flags: u32) = 501 Call
        => |call| graph::create(call, phGraph, flags);
    cuGraphAddKernelNode_v2(phGraphNode: *mut u64, hGraph: u64, dependencies: *const u64,
        numDependencies: usize, nodeParams: *const KernelNodeParams) = 689 Call
        => |call| graph::add_kernel(call, phGraphNode, hGraph,
            After(dependencies, numDependencies), nodeParams);
    cuGraphAddMemcpyNode(phGraphNode: *mut u64, hGraph: u64, dependencies: *const u64,
        numDependencies: usize, copyParams: *const Memcpy3d, ctx: u64) = 504 Call
        => |call| graph::add_copy(call, phGraphNode, hGraph,
            After(dependencies, numDependencies), copyParams, ctx);
    cuGraphAddMemsetNode(phGraphNode: *mut u64, hGraph: u64, dependencies: *const u64,
        numDependencies: usize, memsetParams: *const MemsetNodeParams, ctx: u64) = 506 Call
        => |call| graph::add_fill(call, phGraphNode, hGraph,
            After(dependencies, numDependencies), memsetParams, ctx);
    cuGraphAddMemAllocNode(phGraphNode: *mut u64, hGraph: u64, dependencies: *const u64,
        numDependencies: usize, nodeParams: *mut MemAllocNodeParams) = 638 Alloc
        => |call| graph::add_alloc(call, phGraphNode, hGraph,
            After(dependencies, numDependencies), nodeParams);
    cuGraphAddMemFreeNode(phGraphNode: *mut u64, hGraph: u64, dependencies: *const u64,
        numDependencies: usize, dptr: u64) = 639 Call
        => |call| graph::add_free(call, phGraphNode, hGraph,
            After(dependencies, numDependencies), dptr);
    cuDeviceGetGraphMemAttribute(device: i32, attr: u32, value: *mut u64) = 641 Free
        => |call| graph::get_memory(call, device, attr, value);
    cuDeviceSetGraphMemAttribute(device: i32, attr: u32, value: *const u64) = 642 Call
        => |call| graph::set_memory(call, device, attr, value);
    cuDeviceGraphMemTrim(device: i32) = 640 Call => |call| graph::trim_memory(call, device);
    cuGraphAddNode(phGraphNode: *mut u64, hGraph: u64, dependencies: *const u64,
        numDependencies: usize, nodeParams: *mut u8) = 712 Alloc
        => |call| graph::add_any(call, phGraphNode, hGraph,
            After(dependencies, numDependencies), nodeParams);
    cuGraphAddNode_v2(phGraphNode: *mut u64, hGraph: u64, dependencies: *const u64,
        _dependencyData: *const c_void, numDependencies: usize, nodeParams: *mut u8) = 723 Alloc
        => |call| graph::add_any(call, phGraphNode, hGraph,
            After(dependencies, numDependencies), nodeParams);
    cuGraphInstantiate_v2(phGraphExec: *mut u64, hGraph: u64, phErrorNode: *mut u64,
        logBuffer: *mut c_char, bufferSize: usize) = 578 Call
        => |call| graph::instantiate_with_log(call, phGraphExec, hGraph, phErrorNode,
            (logBuffer, bufferSize));
    cuGraphInstantiateWithFlags(phGraphExec: *mut u64, hGraph: u64, flags: u64) = 643 Call
        => |call| graph::instantiate(call, phGraphExec, hGraph, flags);
    cuGraphUpload(hGraphExec: u64, hStream: u64) = 580 Call
        => |call| graph::upload(call, hGraphExec, hStream);
    cuGraphUpload_ptsz(hGraphExec: u64, hStream: u64) = 581 Call
        => |call| graph::upload(call, hGraphExec, ptsz(hStream));
    cuGraphLaunch(hGraphExec: u64, hStream: u64) = 514 Launch
        => |call| graph::launch(call, hGraphExec, hStream);
    cuGraphLaunch_ptsz(hGraphExec: u64, hStream: u64) = 515 Launch
        => |call| graph::launch(call, hGraphExec, ptsz(hStream));
    cuGraphExecDestroy(hGraphExec: u64) = 516 Call
        => |call| graph::destroy_executable(call, hGraphExec);
    cuGraphDestroy(hGraph: u64) = 517 Call => |call| graph::destroy(call, hGraph);

    cuProfilerStart() = 0 Call => |call| device::in_context(call);
    cuProfilerStop() = 0 Call => |call| device::in_context(call);
}
