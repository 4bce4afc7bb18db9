//! The simulated driver: memory, pools, VMM, streams, events, launches, faults, and cudarc on it.

#![expect(unsafe_code, reason = "cudarc's launch is unsafe")]
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{alloc, context, cu, in_child, kernel, launch, mem_info, now};
use serde_json::json;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Context and hidden bytes of the default device.
const FIXED: u64 = (480 + 96) * MIB;

#[test]
fn cudarc_allocates_copies_launches_and_synchronises() {
    use cudarc::driver::{CudaContext, DevicePtrMut, result};
    let test = "cudarc_allocates_copies_launches_and_synchronises";
    let Some(books) = in_child(test, "", || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "SIMULATED GPU");
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        assert_eq!(context.total_mem().unwrap(), 80 << 30);
        assert_eq!(context.uuid().unwrap().bytes[15], 0);
        let stream = context.new_stream().unwrap();
        let data: Vec<u32> = (0..10_000).collect();
        let device = stream.clone_htod(&data).unwrap();
        let mut copy = stream.alloc_zeros::<u32>(data.len()).unwrap();
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), vec![0; data.len()]);
        stream.memcpy_dtod(&device, &mut copy).unwrap();
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), data);
        // SAFETY: a loaded module, a kernel of one pointer, and a simulator that runs no code.
        unsafe {
            let module = result::module::load_data(common::PTX.as_ptr().cast()).unwrap();
            assert!(result::module::get_function(module, c"nothing".into()).is_err());
            let decode = result::module::get_function(module, c"decode".into()).unwrap();
            for _ in 0..3 {
                let (mut pointer, _guard) = copy.device_ptr_mut(&stream);
                let mut arguments = [(&raw mut pointer).cast()];
                let (grid, block, at) = ((4, 1, 1), (1024, 1, 1), stream.cu_stream());
                result::launch_kernel(decode, grid, block, 0, at, &mut arguments).unwrap();
            }
            result::module::unload(module).unwrap();
        }
        let other = stream.fork().unwrap();
        stream.join(&other).unwrap();
        stream.synchronize().unwrap();
        context.synchronize().unwrap();
        let (free, total) = context.mem_get_info().unwrap();
        assert_eq!((total - free) as u64, FIXED + 2 * MIB, "the pool shrank");
    }) else {
        return;
    };
    assert_eq!(books["simulated"], json!(true));
    assert_eq!(books["kernels"]["decode"]["count"], json!(3));
    // 4 blocks of 1024 threads: 3,000 ns and 20 ns per block.
    assert_eq!(books["kernels"]["decode"]["total_ns"], json!(3 * (3_000 + 4 * 20)));
    assert_eq!(books["copies"]["host_to_device"]["bytes"], json!(40_000));
    assert_eq!(books["copies"]["device_to_host"]["count"], json!(2));
    assert_eq!(books["copies"]["device_to_device"]["count"], json!(1));
    assert_eq!(books["memsets"]["bytes"], json!(40_000));
    let pool = &books["devices"][0]["families"]["pool_used"];
    assert_eq!((&pool["allocations"], &pool["frees"]), (&json!(2), &json!(2)));
    assert_eq!((&pool["peak_bytes"], &pool["live_bytes"]), (&json!(80_000), &json!(0)));
    assert_eq!(books["devices"][0]["context_bytes"], json!(0), "the primary context is gone");
    assert_eq!(books["caught_panics"], json!(0));
}

#[test]
fn calls_before_init_and_without_context_fail() {
    let Some(_) = in_child("calls_before_init_and_without_context_fail", "", || {
        let (mut address, mut version, mut active, mut flags) = (0, 0, 0, 0);
        assert_eq!(cu::cuMemAlloc_v2(&mut address, 1), 3);
        assert_eq!(cu::cuDriverGetVersion(&mut version), 0);
        assert_eq!(version, 13_000);
        assert_eq!(cu::cuInit(0), 0);
        assert_eq!(cu::cuMemAlloc_v2(&mut address, 1), 201);
        assert_eq!(cu::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active), 0);
        assert_eq!(active, 0);
        assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut address, 1), 101);
        let context = context();
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
        assert_eq!(cu::cuMemAlloc_v2(&mut address, 1), 709);
        assert_eq!(cu::cuCtxSetCurrent(context), 201);
    }) else {
        return;
    };
}

#[test]
fn contexts_stack_and_own_their_memory() {
    let Some(books) = in_child("contexts_stack_and_own_their_memory", "", || {
        let primary = context();
        let (mut second, mut current) = (0, 0);
        assert_eq!(cu::cuCtxCreate_v2(&mut second, 0, 0), 0);
        assert_eq!(cu::cuCtxGetCurrent(&mut current), 0);
        assert_eq!(current, second);
        alloc(100 << 20);
        assert_eq!(mem_info().0, 80 * GIB - FIXED - 480 * MIB - 100 * MIB);
        assert_eq!(cu::cuCtxPopCurrent_v2(&mut current), 0);
        assert_eq!(cu::cuCtxGetCurrent(&mut current), 0);
        assert_eq!(current, primary);
        assert_eq!(cu::cuCtxDestroy_v2(primary), 201, "primary contexts are released");
        assert_eq!(cu::cuCtxDestroy_v2(second), 0);
        assert_eq!(mem_info().0, 80 * GIB - FIXED);
        assert_eq!(cu::cuCtxPushCurrent_v2(second), 201);
    }) else {
        return;
    };
    let device = &books["devices"][0]["families"]["device"];
    assert_eq!((&device["allocations"], &device["frees"]), (&json!(1), &json!(1)));
    assert_eq!(books["devices"][0]["physical_live_bytes"], json!(0));
    assert_eq!(books["devices"][0]["physical_peak_bytes"], json!(100 * MIB));
}

#[test]
fn memory_is_counted_in_pages() {
    let Some(books) = in_child("memory_is_counted_in_pages", "", || {
        context();
        let free = mem_info().0;
        // Small ones share a page; 2 MiB and a byte takes two.
        let small: Vec<u64> = (0..4).map(|_| alloc(1000)).collect();
        assert_eq!(free - mem_info().0, 2 * MIB);
        let big = alloc((2 << 20) + 1);
        assert_eq!(free - mem_info().0, 6 * MIB);
        assert_eq!(cu::cuMemFree_v2(big), 0);
        assert_eq!(alloc((2 << 20) + 1), big, "a freed address comes back");
        small.into_iter().for_each(|address| assert_eq!(cu::cuMemFree_v2(address), 0));
        assert_eq!(free - mem_info().0, 4 * MIB);
        assert_eq!(cu::cuMemFree_v2(0), 0);
        assert_eq!(cu::cuMemFree_v2(big + 512), 1, "inside an allocation");
        assert_eq!(cu::cuMemFree_v2(big), 0);
        assert_eq!(cu::cuMemFree_v2(big), 1, "twice");
        assert_eq!(cu::cuMemAlloc_v2(&mut 0, 0), 1);
    }) else {
        return;
    };
    let device = &books["devices"][0];
    assert_eq!(device["physical_live_bytes"], json!(0));
    assert_eq!(device["physical_peak_bytes"], json!(6 * MIB));
    assert_eq!(device["requested_peak_bytes"], json!(4_000 + 2 * MIB + 1));
    assert_eq!(books["failed_allocations"], json!(1));
    assert_eq!(books["cuda_ooms"], json!(0));
}

#[test]
fn other_families_have_their_own_books() {
    let Some(books) = in_child("other_families_have_their_own_books", "", || {
        context();
        let free = mem_info().0;
        let (mut pitched, mut pitch, mut managed, mut a, mut b) = (0, 0, 0, 0, 0);
        assert_eq!(cu::cuMemAllocPitch_v2(&mut pitched, &mut pitch, 1000, 3, 4), 0);
        assert_eq!(pitch, 1024);
        assert_eq!(cu::cuMemAllocPitch_v2(&mut 0, &mut pitch, 1000, 3, 5), 1);
        assert_eq!(cu::cuMemAllocManaged(&mut managed, 1 << 20, 1), 0);
        assert_eq!(cu::cuMemHostAlloc(&mut a, 8192, 0), 0);
        assert_eq!(cu::cuMemAllocHost_v2(&mut b, 4096), 0);
        assert_eq!(free - mem_info().0, 2 * MIB, "only the pitched one is on the device");
        // Managed and pinned memory can be touched from the host.
        let host = alloc(64);
        assert_eq!(cu::cuMemsetD8_v2(managed, 7, 64), 0);
        assert_eq!(cu::cuMemcpy(host, managed, 64), 0);
        assert_eq!(cu::cuMemcpyDtoH_v2(a as *mut u8, host, 64), 0);
        // SAFETY: 8,192 bytes of live pinned memory.
        assert_eq!(unsafe { std::slice::from_raw_parts(a as *const u8, 64) }, [7; 64]);
        assert_eq!(cu::cuMemFree_v2(pitched), 0);
        assert_eq!(cu::cuMemFree_v2(managed), 0);
        assert_eq!(cu::cuMemFreeHost(a), 0);
        assert_eq!(cu::cuMemFreeHost(a), 1);
    }) else {
        return;
    };
    let families = &books["devices"][0]["families"];
    assert_eq!(families["pitch"]["peak_bytes"], json!(3 * 1024));
    assert_eq!(families["managed"]["peak_bytes"], json!(MIB));
    assert_eq!(families["managed"]["live_bytes"], json!(0));
    assert_eq!(families["pinned_host"]["peak_bytes"], json!(8192 + 4096));
    assert_eq!(families["pinned_host"]["live_bytes"], json!(4096));
}

#[test]
fn out_of_memory_comes_at_the_limit() {
    let scenario = "[[devices]]\ntotal_bytes = 1073741824\n\
                    [[devices.co_tenants]]\npid = 77\nbytes = 104857600\n";
    let Some(books) = in_child("out_of_memory_comes_at_the_limit", scenario, || {
        context();
        let (free, total) = mem_info();
        assert_eq!((free, total), (GIB - FIXED - 100 * MIB, GIB));
        let mut address = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut address, free as usize + 1), 2);
        let all = alloc(free as usize);
        assert_eq!(mem_info().0, 0);
        assert_eq!(cu::cuMemAlloc_v2(&mut address, 1), 2);
        assert_eq!(cu::cuMemAllocAsync(&mut address, 1, 0), 2);
        assert_eq!(cu::cuMemFree_v2(all), 0);
        alloc(1);
    }) else {
        return;
    };
    assert_eq!(books["cuda_ooms"], json!(3));
    assert_eq!(books["failed_allocations"], json!(3));
    assert_eq!(books["devices"][0]["co_tenant_bytes"], json!(100 * MIB));
}

#[test]
fn co_tenants_grow_with_virtual_time() {
    let scenario = "[[devices]]\n[[devices.co_tenants]]\npid = 77\nbytes = 0\n\
                    steps = [{ after_ns = 1000000000, bytes = 1073741824 }]\n";
    let Some(_) = in_child("co_tenants_grow_with_virtual_time", scenario, || {
        context();
        let before = mem_info().0;
        // SAFETY: the exported signature.
        unsafe {
            let library = libloading::Library::new("libcuda.so.1").unwrap();
            let advance: libloading::Symbol<'_, extern "C" fn(u64) -> u64> =
                library.get(b"memvelope_sim_advance").unwrap();
            assert!(advance(1_000_000_000) >= 1_000_000_001_000_000_000);
        }
        assert_eq!(before - mem_info().0, GIB);
    }) else {
        return;
    };
}

#[test]
fn pools_reserve_in_chunks_and_trim_at_a_synchronisation() {
    let test = "pools_reserve_in_chunks_and_trim_at_a_synchronisation";
    let Some(books) = in_child(test, "", || {
        context();
        let free = mem_info().0;
        let mut pool = 0;
        assert_eq!(cu::cuDeviceGetDefaultMemPool(&mut pool, 0), 0);
        let attribute = |attribute| {
            let mut value = 0;
            assert_eq!(cu::cuMemPoolGetAttribute(pool, attribute, &mut value), 0);
            value
        };
        let (mut a, mut b) = (0, 0);
        assert_eq!(cu::cuMemAllocAsync(&mut a, 1000, 0), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut b, 40 << 20, 0), 0);
        assert_eq!(free - mem_info().0, 64 * MIB);
        assert_eq!((attribute(5), attribute(7)), (64 * MIB, 40 * MIB + 1024));
        assert_eq!(cu::cuMemFreeAsync(b, 0), 0);
        assert_eq!(attribute(5), 64 * MIB, "until a synchronisation");
        assert_eq!(cu::cuStreamSynchronize(0), 0);
        assert_eq!((attribute(5), attribute(6), attribute(7)), (2 * MIB, 64 * MIB, 1024));
        // With a threshold the pool keeps what it has; trimming is then explicit.
        assert_eq!(cu::cuMemPoolSetAttribute(pool, 4, &mut { u64::MAX }), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut b, 40 << 20, 0), 0);
        assert_eq!(cu::cuMemFreeAsync(b, 0), 0);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        assert_eq!(attribute(5), 66 * MIB);
        assert_eq!(cu::cuMemPoolTrimTo(pool, 8 << 20), 0);
        assert_eq!(attribute(5), 8 * MIB);
        assert_eq!(cu::cuMemPoolSetAttribute(pool, 6, &mut 0), 0);
        assert_eq!(attribute(6), 8 * MIB);
        assert_eq!(cu::cuMemPoolSetAttribute(pool, 5, &mut 0), 1, "read-only");
        assert_eq!(cu::cuMemFreeAsync(b, 0), 1, "twice");
        assert_eq!(cu::cuMemPoolDestroy(pool), 1, "the default pool");
    }) else {
        return;
    };
    let device = &books["devices"][0];
    assert_eq!(device["pool_reserved"]["peak_bytes"], json!(66 * MIB));
    assert_eq!(device["pool_reserved"]["live_bytes"], json!(8 * MIB));
    assert_eq!(device["families"]["pool_used"]["peak_bytes"], json!(40 * MIB + 1000));
}

#[test]
fn own_pools_have_limits_and_outlive_their_handle() {
    let test = "own_pools_have_limits_and_outlive_their_handle";
    let Some(books) = in_child(test, "", || {
        context();
        let free = mem_info().0;
        let (mut pool, mut a) = (0, 0);
        // Pinned type, no handle types, device 0, no security attributes, at most 4 MiB.
        let props = [1, 1, 0, 4 << 20, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(cu::cuMemPoolCreate(&mut pool, &props), 0);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut a, 5 << 20, pool, 0), 2);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut a, 4 << 20, pool, 0), 0);
        assert_eq!(cu::cuMemPoolDestroy(pool), 0);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut 0, 1, pool, 0), 1);
        assert_eq!(free - mem_info().0, 4 * MIB, "its limit, and no whole chunk");
        assert_eq!(cu::cuMemFreeAsync(a, 0), 0);
        assert_eq!(mem_info().0, free);
    }) else {
        return;
    };
    assert_eq!(books["cuda_ooms"], json!(1));
    assert_eq!(books["devices"][0]["physical_live_bytes"], json!(0));
}

#[test]
fn vmm_counts_references() {
    let Some(books) = in_child("vmm_counts_references", "", || {
        context();
        let free = mem_info().0;
        let device = [1, 1, 0, 0];
        let (mut range, mut handle, mut granularity) = (0, 0, 0);
        assert_eq!(cu::cuMemGetAllocationGranularity(&mut granularity, &device, 0), 0);
        assert_eq!(granularity as u64, 2 * MIB);
        assert_eq!(cu::cuMemAddressReserve(&mut range, 16 << 20, 0, 0, 0), 0);
        assert_eq!(mem_info().0, free, "a reservation is no memory");
        assert_eq!(cu::cuMemCreate(&mut handle, 1000, &device, 0), 1, "not a multiple");
        assert_eq!(cu::cuMemCreate(&mut handle, 4 << 20, &device, 0), 0);
        assert_eq!(free - mem_info().0, 4 * MIB);
        assert_eq!(cu::cuMemMap(range, 4 << 20, 0, handle, 0), 0);
        assert_eq!(cu::cuMemMap(range, 4 << 20, 0, handle, 0), 208);
        assert_eq!(cu::cuMemMap(range + (4 << 20), 4 << 20, 0, handle, 0), 0, "a second view");
        assert_eq!(cu::cuMemMap(range + (14 << 20), 4 << 20, 0, handle, 0), 1, "outside");
        assert_eq!(cu::cuMemcpyHtoD_v2(range, [5; 8].as_ptr(), 8), 1, "no access yet");
        assert_eq!(cu::cuMemSetAccess(range, 8 << 20, &[1, 0, 3], 1), 0);
        assert_eq!(cu::cuMemcpyHtoD_v2(range + 4096, [5; 8].as_ptr(), 8), 0);
        let mut back = [0; 8];
        assert_eq!(cu::cuMemcpyDtoH_v2(back.as_mut_ptr(), range + (4 << 20) + 4096, 8), 0);
        assert_eq!(back, [5; 8], "both views show the same bytes");
        assert_eq!(cu::cuMemRelease(handle), 0);
        assert_eq!(cu::cuMemRelease(handle), 1);
        assert_eq!(free - mem_info().0, 4 * MIB, "still mapped");
        assert_eq!(cu::cuMemUnmap(range, 2 << 20), 1, "half a mapping");
        assert_eq!(cu::cuMemUnmap(range, 4 << 20), 0);
        assert_eq!(cu::cuMemAddressFree(range, 16 << 20), 1, "still mapped");
        assert_eq!(free - mem_info().0, 4 * MIB);
        assert_eq!(cu::cuMemUnmap(range + (4 << 20), 4 << 20), 0);
        assert_eq!(mem_info().0, free);
        assert_eq!(cu::cuMemAddressFree(range, 16 << 20), 0);
    }) else {
        return;
    };
    let vmm = &books["devices"][0]["families"]["vmm"];
    assert_eq!((&vmm["peak_bytes"], &vmm["live_bytes"]), (&json!(4 * MIB), &json!(0)));
    assert_eq!((&vmm["allocations"], &vmm["frees"]), (&json!(1), &json!(1)));
    assert_eq!((&books["vmm_maps"], &books["vmm_unmaps"]), (&json!(2), &json!(2)));
}

#[test]
fn streams_and_events_keep_virtual_time() {
    let scenario = "[costs]\ncall_ns = 10\nlaunch_ns = 100\nsync_ns = 20\n\
                    [kernels.named.idle]\nbase_ns = 1000000\nper_block_ns = 0.5\n";
    let Some(books) = in_child("streams_and_events_keep_virtual_time", scenario, || {
        context();
        let idle = kernel(c"idle");
        let (mut a, mut b) = (0, 0);
        assert_eq!(cu::cuStreamCreate(&mut a, 1), 0);
        assert_eq!(cu::cuStreamCreate(&mut b, 1), 0);
        let mut events = [0; 3];
        events.iter_mut().for_each(|event| assert_eq!(cu::cuEventCreate(event, 0), 0));
        let [begin, end, never] = events;
        assert_eq!(cu::cuEventRecord(begin, a), 0);
        let start = now();
        assert_eq!(launch(idle, 100, a), 0);
        assert_eq!(now() - start, 100, "a launch returns at once");
        assert_eq!(cu::cuStreamQuery(a), 600);
        assert_eq!(cu::cuEventRecord(end, a), 0);
        assert_eq!(cu::cuEventQuery(end), 600);
        let mut ms = 0.0;
        assert_eq!(cu::cuEventElapsedTime_v2(&mut ms, begin, end), 600);
        assert_eq!(cu::cuEventElapsedTime_v2(&mut ms, begin, never), 400);
        // The other stream is free until it is told to wait.
        assert_eq!(cu::cuStreamQuery(b), 0);
        assert_eq!(cu::cuStreamWaitEvent(b, end, 0), 0);
        assert_eq!(cu::cuStreamQuery(b), 600);
        assert_eq!(cu::cuStreamSynchronize(b), 0);
        assert_eq!(now(), start + 100 + 1_000_050);
        assert_eq!(cu::cuEventQuery(end), 0);
        assert_eq!(cu::cuEventElapsedTime_v2(&mut ms, begin, end), 0);
        // From the call that recorded `begin` to the end: one launch and the kernel.
        assert!((ms - 1.000_15).abs() < 1e-6, "{ms}");
        // Streams overlap: two kernels take the time of one.
        let start = now();
        assert_eq!((launch(idle, 100, a), launch(idle, 100, b)), (0, 0));
        assert_eq!(cu::cuCtxSynchronize(), 0);
        assert_eq!(now() - start, 200 + 1_000_050);
        assert_eq!(cu::cuStreamDestroy_v2(a), 0);
        assert_eq!(cu::cuStreamQuery(a), 400);
        assert_eq!(launch(idle, 0, b), 1);
        assert_eq!(launch(0, 1, b), 400);
    }) else {
        return;
    };
    assert_eq!(books["kernels"]["idle"], json!({ "count": 3, "total_ns": 3 * 1_000_050 }));
    assert_eq!(books["syncs"]["stream_wait"]["count"], json!(1));
    assert_eq!(books["syncs"]["stream"]["count"], json!(1));
    assert_eq!(books["syncs"]["context"], json!({ "count": 1, "total_ns": 1_000_050 }));
}

#[test]
fn the_default_stream_waits_for_blocking_streams() {
    let test = "the_default_stream_waits_for_blocking_streams";
    let Some(_) = in_child(test, "[kernels.named.idle]\nbase_ns = 1000000\n", || {
        context();
        let idle = kernel(c"idle");
        let (mut blocking, mut free) = (0, 0);
        assert_eq!(cu::cuStreamCreate(&mut blocking, 0), 0);
        assert_eq!(cu::cuStreamCreate(&mut free, 1), 0);
        assert_eq!(launch(idle, 1, blocking), 0);
        assert_eq!(launch(idle, 1, 0), 0);
        assert_eq!(launch(idle, 1, free), 0);
        let start = now();
        assert_eq!(cu::cuStreamSynchronize(free), 0);
        let apart = now();
        assert_eq!(cu::cuStreamSynchronize(0), 0);
        assert!(apart - start < 1_100_000 && now() - start > 1_900_000);
    }) else {
        return;
    };
}

#[test]
fn contents_survive_and_are_bounded() {
    let scenario = "[contents]\nbytes_max = 1048576\ncopy_bytes_max = 65536\n";
    let Some(books) = in_child("contents_survive_and_are_bounded", scenario, || {
        context();
        let at = alloc(8 << 20);
        let data: Vec<u8> = (0..50_000_u32).map(|i| i as u8).collect();
        let read = |from: u64, len: usize| {
            let mut back = vec![0xee; len];
            assert_eq!(cu::cuMemcpyDtoH_v2(back.as_mut_ptr(), from, len), 0);
            back
        };
        assert_eq!(cu::cuMemcpyHtoD_v2(at + 100, data.as_ptr(), data.len()), 0);
        assert_eq!(read(at + 100, data.len()), data);
        assert_eq!(cu::cuMemsetD32_v2(at + 100, 0x0403_0201, 2), 0);
        assert_eq!(read(at + 99, 10), [0, 1, 2, 3, 4, 1, 2, 3, 4, 8]);
        // The whole allocation set to one value is one byte to keep.
        assert_eq!(cu::cuMemsetD8_v2(at, 9, 8 << 20), 0);
        assert_eq!(read(at + (8 << 20) - 4, 4), [9; 4]);
        // Too large to keep: such bytes read as the fill.
        let large = vec![1; 100_000];
        assert_eq!(cu::cuMemcpyHtoD_v2(at, large.as_ptr(), large.len()), 0);
        assert_eq!(read(at, 4), [9; 4]);
        assert_eq!(cu::cuMemcpyHtoD_v2(at + (8 << 20) - 1, data.as_ptr(), 2), 1, "past the end");
        assert_eq!(cu::cuMemcpyDtoH_v2(std::ptr::null_mut(), at, 2), 1);
    }) else {
        return;
    };
    assert_eq!(books["contents"], json!({ "not_kept": 1, "not_kept_bytes": 100_000 }));
    assert_eq!(books["copies"]["host_to_device"]["bytes"], json!(150_000));
}

#[test]
fn faults_fire_by_number_and_name() {
    let scenario = "[[faults]]\ncall = \"allocation\"\ncode = 2\nnth = 3\n\
                    [[faults]]\ncall = \"cuLaunchKernel\"\ncode = 719\ntimes = 0\n";
    let Some(books) = in_child("faults_fire_by_number_and_name", scenario, || {
        context();
        let mut address = 0;
        alloc(1);
        assert_eq!(cu::cuMemAllocAsync(&mut address, 1, 0), 0);
        assert_eq!(cu::cuMemAlloc_v2(&mut address, 1), 2);
        alloc(1);
        let idle = kernel(c"idle");
        assert_eq!((launch(idle, 1, 0), launch(idle, 1, 0)), (719, 719));
    }) else {
        return;
    };
    assert_eq!(books["cuda_ooms"], json!(1));
    assert_eq!(books["faults_fired"], json!(3));
    assert_eq!(books["kernels"], json!({}));
}

#[test]
fn seeded_faults_repeat() {
    let scenario = "seed = 7\n[[faults]]\ncall = \"cuMemAlloc_v2\"\ncode = 2\ntimes = 0\n\
                    probability = 0.25\n";
    let count = |test| {
        let books = in_child(test, scenario, || {
            context();
            for _ in 0..400 {
                let mut address = 0;
                cu::cuMemAlloc_v2(&mut address, 4096);
            }
        });
        books.map(|books| books["cuda_ooms"].as_u64().unwrap())
    };
    let Some(first) = count("seeded_faults_repeat") else { return };
    let Some(second) = count("seeded_faults_repeat") else { return };
    assert_eq!(first, second);
    assert!((50..150).contains(&first), "{first}");
}

#[test]
fn missing_functions_are_not_there() {
    let scenario = "missing = [\"cuMemAllocAsync\"]\n";
    let Some(_) = in_child("missing_functions_are_not_there", scenario, || {
        context();
        let mut address = 0;
        assert_eq!(cu::cuMemAllocAsync(&mut address, 1, 0), 801);
        let find = |name: &std::ffi::CStr, version| {
            let (mut at, mut status) = (std::ptr::null_mut(), 9);
            let code = cu::cuGetProcAddress_v2(name.as_ptr(), &mut at, version, 0, &mut status);
            (code, at.is_null(), status)
        };
        assert_eq!(find(c"cuMemAllocAsync", 13_000), (500, true, 1));
        assert_eq!(find(c"cuMemAlloc", 13_000), (0, false, 0));
        assert_eq!(find(c"cuFly", 13_000), (500, true, 1));
        // A base name means the variant of the version that asks.
        let at = |version| {
            let (mut at, mut status) = (std::ptr::null_mut(), 9);
            let name = c"cuCtxCreate".as_ptr();
            assert_eq!(cu::cuGetProcAddress_v2(name, &mut at, version, 0, &mut status), 0);
            at
        };
        assert_ne!(at(12_000), at(13_000));
        let mut table = std::ptr::dangling();
        assert_eq!(cu::cuGetExportTable(&mut table, [0; 16].as_ptr()), 500);
        assert!(table.is_null());
    }) else {
        return;
    };
}

#[test]
fn modules_are_checked() {
    let Some(_) = in_child("modules_are_checked", "[[devices]]\nmodule_bytes = 4194304\n", || {
        context();
        let free = mem_info().0;
        let mut module = 0;
        for (image, code) in [(c"", 218), (c".version 9.0", 218), (c"\x7fELF....", 200)] {
            assert_eq!(cu::cuModuleLoadData(&mut module, image.as_ptr()), code, "{image:?}");
        }
        assert_eq!(cu::cuModuleLoadData(&mut module, common::PTX.as_ptr()), 0);
        assert_eq!(free - mem_info().0, 4 * MIB);
        let mut function = 0;
        assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
        assert_eq!(cu::cuModuleUnload(module), 0);
        assert_eq!(launch(function, 1, 0), 400);
        assert_eq!(mem_info().0, free);
    }) else {
        return;
    };
}

#[test]
fn many_threads_leave_exact_books() {
    let Some(books) = in_child("many_threads_leave_exact_books", "", || {
        let context = context();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    assert_eq!(cu::cuCtxSetCurrent(context), 0);
                    for i in 0..500_usize {
                        let address = alloc(1 + (i % 7) * 700_000);
                        assert_eq!(cu::cuMemFree_v2(address), 0);
                    }
                });
            }
        });
    }) else {
        return;
    };
    let device = &books["devices"][0];
    assert_eq!(device["families"]["device"]["allocations"], json!(4_000));
    assert_eq!(device["families"]["device"]["frees"], json!(4_000));
    assert_eq!(device["physical_live_bytes"], json!(0));
    assert_eq!(device["requested_live_bytes"], json!(0));
}
