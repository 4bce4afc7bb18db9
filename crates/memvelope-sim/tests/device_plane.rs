//! What is used on a device and by whom: hidden and reserved bytes, contexts that grow, MIG slices,
//! devices that are lost.

#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{advance, alloc, books, context, cu, in_child, kernel, launch, mem_info};
use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use serde_json::json;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn used() -> u64 {
    let (free, total) = mem_info();
    total - free
}

#[test]
fn hidden_bytes_change_with_virtual_time() {
    let scenario = "[[devices]]\ntotal_bytes = 1073741824\nhidden_bytes = 10485760\n\
                    hidden_steps = [{ after_ns = 1000000000, bytes = 31457280 },\n\
                    { after_ns = 2000000000, bytes = 99999999999 }]\n";
    let Some(books) = in_child("hidden_bytes_change_with_virtual_time", scenario, || {
        context();
        let held = alloc(100 << 20);
        let hidden = || books()["devices"][0]["internal_bytes"].as_u64().unwrap();
        let rest = || used() - (480 + 100) * MIB;
        assert_eq!((hidden(), rest()), (10 * MIB, 10 * MIB));
        advance(1_000_000_000);
        assert_eq!((hidden(), rest()), (30 * MIB, 30 * MIB));
        advance(1_000_000_000);
        assert_eq!(mem_info().0, 0, "no more than there is");
        assert_eq!(hidden(), rest());
        assert_eq!(cu::cuMemFree_v2(held), 0);
        assert_eq!(mem_info().0, 0, "it takes what comes free");
    }) else {
        return;
    };
    assert_eq!(books["devices"][0]["internal_bytes"], json!((1024 - 480) * MIB));
}

#[test]
fn reserved_bytes_stand_apart() {
    let scenario = "[[devices]]\ntotal_bytes = 8589934592\nreserved_bytes = 536870912\n\
                    [[devices.co_tenants]]\npid = 7\nbytes = 1073741824\nmemory_known = false\n";
    let Some(_) = in_child("reserved_bytes_stand_apart", scenario, || {
        context();
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        let memory = device.memory_info().unwrap();
        let (free, total) = mem_info();
        assert_eq!((memory.total, total), (8 * GIB, 8 * GIB - 512 * MIB));
        assert_eq!((memory.reserved, memory.free), (512 * MIB, free));
        assert_eq!(memory.used, (480 + 96) * MIB + GIB);
        assert_eq!(memory.total, memory.used + memory.free + memory.reserved);
        let mut whole = 0;
        assert_eq!(cu::cuDeviceTotalMem_v2(&mut whole, 0), 0);
        assert_eq!(whole as u64, total);
        let processes = device.running_compute_processes().unwrap();
        assert_eq!(processes[1].pid, 7);
        assert!(matches!(processes[1].used_gpu_memory, UsedGpuMemory::Unavailable));
        assert!(matches!(processes[0].used_gpu_memory, UsedGpuMemory::Used(_)));
    }) else {
        return;
    };
}

#[test]
fn nvml_knows_nothing_of_memory_that_is_the_hosts() {
    let test = "nvml_knows_nothing_of_memory_that_is_the_hosts";
    let Some(_) = in_child(test, "[[devices]]\nunified_memory = true\n", || {
        context();
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        assert!(matches!(device.memory_info(), Err(NvmlError::NotSupported)));
        assert_eq!(used(), (480 + 96) * MIB);
        assert_eq!(device.running_compute_processes().unwrap().len(), 1);
    }) else {
        return;
    };
}

const PARENT: &str = "GPU-00112233-4455-6677-8899-aabbccddeeff";

#[test]
fn a_slice_has_memory_and_a_uuid_of_its_own() {
    let slice = format!(
        "[[devices]]\nmig_of = \"{PARENT}\"\ntotal_bytes = 10737418240\n\
         mig_parent_bytes = 85899345920\n"
    );
    let scenario = format!(
        "{slice}uuid = \"MIG-ffeeddcc-bbaa-9988-7766-554433221100\"\n{slice}\
         [[devices.co_tenants]]\npid = 7\nbytes = 1073741824\n[[devices]]\nname = \"whole\"\n"
    );
    let test = "a_slice_has_memory_and_a_uuid_of_its_own";
    let Some(_) = in_child(test, &scenario, || {
        context();
        let uuids = |device| {
            let (mut whole, mut own) = ([0; 16], [0; 16]);
            assert_eq!(cu::cuDeviceGetUuid(&mut whole, device), 0);
            assert_eq!(cu::cuDeviceGetUuid_v2(&mut own, device), 0);
            (whole, own)
        };
        let (parent, own) = uuids(0);
        assert_eq!((parent[1], own[1]), (0x11, 0xee));
        assert_eq!(uuids(1).0, parent);
        assert_ne!(uuids(1).1, own);
        let (whole, own) = uuids(2);
        assert_eq!(whole, own);

        let nvml = Nvml::init().unwrap();
        assert_eq!(nvml.device_count().unwrap(), 2, "slices are not counted");
        let slice = nvml.device_by_uuid("MIG-ffeeddcc-bbaa-9988-7766-554433221100").unwrap();
        let memory = slice.memory_info().unwrap();
        assert_eq!((memory.total, memory.used), (10 * GIB, (480 + 96) * MIB));
        let processes = slice.running_compute_processes().unwrap();
        let seen: Vec<_> = processes.iter().map(|at| (at.pid, at.gpu_instance_id)).collect();
        assert_eq!(seen, [(std::process::id(), Some(1))]);
        assert!(matches!(slice.index(), Err(NvmlError::NotSupported)));
        assert!(matches!(slice.utilization_rates(), Err(NvmlError::NotSupported)));
        assert!(slice.mig_is_mig_device_handle().unwrap());
        let parent = slice.mig_parent_device().unwrap();
        assert_eq!((parent.uuid().unwrap().as_str(), parent.index().unwrap()), (PARENT, 0));
        assert_eq!(nvml.device_by_uuid(PARENT).unwrap().index().unwrap(), 0);
        let memory = parent.memory_info().unwrap();
        assert_eq!((memory.total, memory.used), (80 * GIB, (480 + 2 * 96) * MIB + GIB));
        let processes = parent.running_compute_processes().unwrap();
        let seen: Vec<_> = processes.iter().map(|at| (at.pid, at.gpu_instance_id)).collect();
        assert_eq!(seen, [(std::process::id(), Some(1)), (7, Some(2))]);
        assert!(!parent.mig_is_mig_device_handle().unwrap());
        assert_eq!(parent.mig_device_count().unwrap(), 2);
        assert_eq!(parent.mig_device_by_index(0).unwrap().uuid().unwrap(), slice.uuid().unwrap());
        assert_eq!(nvml.device_by_index(1).unwrap().name().unwrap(), "whole");
    }) else {
        return;
    };
}

const GROWING: &str = "[[devices]]\nmodule_bytes = 4194304\nlazy_module_bytes = 8388608\n\
    local_memory_threads = 270336\nlimits_take_memory = true\n[kernels.named.decode]\nlocal_bytes = 4096\n";

#[test]
fn contexts_grow_with_modules_and_local_memory() {
    let Some(books) = in_child("contexts_grow_with_modules_and_local_memory", GROWING, || {
        context();
        let made = used();
        let since = || used() - made;
        let idle = kernel(c"idle");
        assert_eq!(since(), 4 * MIB, "loaded");
        let mut state = 9;
        assert_eq!((cu::cuFuncIsLoaded(&mut state, idle), state), (0, 0));
        assert_eq!(launch(idle, 1, 0), 0);
        assert_eq!(since(), 12 * MIB, "launched");
        assert_eq!((cu::cuFuncIsLoaded(&mut state, idle), state), (0, 1));
        assert_eq!(launch(idle, 1, 0), 0);
        assert_eq!(since(), 12 * MIB, "once");
        let (mut module, mut decode) = (0, 0);
        assert_eq!(cu::cuFuncGetModule(&mut module, idle), 0);
        assert_eq!(cu::cuModuleGetFunction(&mut decode, module, c"decode".as_ptr()), 0);
        assert_eq!(launch(decode, 1, 0), 0);
        // 3 KiB more than the default for each of 264 Ki threads.
        assert_eq!(since(), (12 + 792) * MIB);
        let growth = books()["devices"][0]["growth"].clone();
        assert_eq!(
            growth,
            json!({ "contexts_bytes": 480 * MIB, "modules_bytes": 4 * MIB,
                "lazy_modules_bytes": 8 * MIB, "local_memory_bytes": 792 * MIB,
                "limits_bytes": 0 })
        );
        let mut limit = 0;
        assert_eq!(cu::cuCtxSetLimit(0, 2048), 0);
        assert_eq!((cu::cuCtxGetLimit(&mut limit, 0), limit), (0, 2048));
        assert_eq!(since(), (12 + 264) * MIB);
        assert_eq!(cu::cuCtxSetLimit(0, 1 << 30), 2, "more than there is");
        assert_eq!(since(), (12 + 264) * MIB);
        assert_eq!(cu::cuCtxSetLimit(0, 1024), 0);
        for (limit, bytes, taken) in [(2, 13, 6), (1, 3, 8), (2, 4, 2), (1, 1, 0)] {
            assert_eq!(cu::cuCtxSetLimit(limit, bytes << 20), 0);
            assert_eq!(since(), (12 + taken) * MIB, "limit {limit} is {bytes} MiB");
            let growth = &books()["devices"][0]["growth"];
            assert_eq!(growth["limits_bytes"], json!(taken * MIB));
        }
        assert_eq!(cu::cuCtxSetLimit(2, 1 << 40), 2, "more than there is");
        assert_eq!((cu::cuCtxGetLimit(&mut limit, 2), limit), (0, 4 << 20));
        assert_eq!(cu::cuModuleUnload(module), 0);
        assert_eq!(since(), 0);
        kernel(c"idle");
        assert_eq!(launch(kernel(c"decode"), 1, 0), 0);
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
        assert_eq!(books()["devices"][0]["context_bytes"], json!(0));
    }) else {
        return;
    };
    assert_eq!(books["devices"][0]["growth"]["contexts_bytes"], json!(0));
}

#[test]
fn libraries_are_loaded_where_they_are_used() {
    let Some(_) = in_child("libraries_are_loaded_where_they_are_used", GROWING, || {
        context();
        let made = used();
        let since = || used() - made;
        let (mut library, mut kernel, mut function) = (0, 0, 0);
        let load = |library: &mut u64, image: &std::ffi::CStr| {
            let (none, values) = (std::ptr::null(), std::ptr::null());
            cu::cuLibraryLoadData(library, image.as_ptr(), none, values, 0, none, values, 0)
        };
        assert_eq!(load(&mut library, c"nonsense"), 218);
        assert_eq!(load(&mut library, common::PTX), 0);
        assert_eq!(since(), 4 * MIB);
        assert_eq!(cu::cuLibraryGetKernel(&mut kernel, library, c"none".as_ptr()), 500);
        assert_eq!(cu::cuLibraryGetKernel(&mut kernel, library, c"idle".as_ptr()), 0);
        assert_eq!(cu::cuKernelGetFunction(&mut function, kernel), 0);
        assert_eq!(launch(kernel, 1, 0), 0, "a kernel stands for its function");
        assert_eq!(launch(function, 1, 0), 0);
        assert_eq!(since(), 12 * MIB);
        // Another context has a module of its own.
        let (mut other, mut module) = (0, 0);
        assert_eq!(cu::cuCtxCreate_v2(&mut other, 0, 0), 0);
        assert_eq!(cu::cuLibraryGetModule(&mut module, library), 0);
        assert_eq!(since(), (480 + 12 + 4) * MIB);
        assert_eq!(cu::cuFuncLoad(function), 0);
        assert_eq!(cu::cuCtxDestroy_v2(other), 0);
        assert_eq!(since(), 12 * MIB);
        assert_eq!(cu::cuLibraryUnload(library), 0);
        assert_eq!((since(), launch(kernel, 1, 0), launch(function, 1, 0)), (0, 400, 400));
        let mut mode = 0;
        assert_eq!((cu::cuModuleGetLoadingMode(&mut mode), mode), (0, 2));
    }) else {
        return;
    };
}

#[test]
fn a_lost_device_answers_nothing_any_more() {
    let scenario = "[[faults]]\ncall = \"device_loss\"\ncode = 719\nnth = 5\n";
    let Some(books) = in_child("a_lost_device_answers_nothing_any_more", scenario, || {
        context();
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        let held = alloc(4 << 20);
        assert_eq!(device.memory_info().unwrap().used, (480 + 96 + 4) * MIB);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        let mut address = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut address, 1), 719);
        assert_eq!(cu::cuMemFree_v2(held), 719);
        assert_eq!(cu::cuMemGetInfo_v2(&mut 0, &mut 0), 719);
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 719);
        assert!(matches!(device.memory_info(), Err(NvmlError::GpuLost)));
        assert!(matches!(device.name(), Err(NvmlError::GpuLost)));
        let mut name = std::ptr::null();
        assert_eq!(cu::cuGetErrorName(719, &mut name), 0, "texts need no device");
    }) else {
        return;
    };
    assert_eq!(books["faults_fired"], json!(4));
    assert_eq!(books["devices"][0]["families"]["device"]["live_bytes"], json!(4 * MIB));
}

#[test]
fn a_driver_that_shuts_down_says_so() {
    let scenario = "[[faults]]\ncall = \"teardown\"\ncode = 4\nnth = 4\n";
    let Some(_) = in_child("a_driver_that_shuts_down_says_so", scenario, || {
        context();
        let held = alloc(4096);
        assert_eq!(cu::cuMemFree_v2(held), 4);
        let mut count = 0;
        assert_eq!((cu::cuDeviceGetCount(&mut count), cu::cuCtxSynchronize()), (4, 4));
        let nvml = Nvml::init().unwrap();
        assert_eq!(nvml.device_by_index(0).unwrap().name().unwrap(), "SIMULATED GPU");
    }) else {
        return;
    };
}

#[test]
fn contexts_have_ids_and_peers() {
    let Some(_) = in_child("contexts_have_ids_and_peers", "[[devices]]\n[[devices]]\n", || {
        let own = context();
        let (mut other, mut can, mut id, mut current) = (0, 9, 0, 0);
        assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut other, 1), 0);
        assert_eq!((cu::cuDeviceCanAccessPeer(&mut can, 0, 1), can), (0, 1));
        assert_eq!((cu::cuDeviceCanAccessPeer(&mut can, 1, 1), can), (0, 0));
        assert_eq!(cu::cuDeviceCanAccessPeer(&mut can, 0, 2), 101);
        let peer = |context| {
            (cu::cuCtxEnablePeerAccess(context, 0), cu::cuCtxEnablePeerAccess(context, 0))
        };
        assert_eq!((peer(other), peer(own)), ((0, 704), (1, 1)));
        assert_eq!(cu::cuCtxDisablePeerAccess(other), 0);
        assert_eq!(cu::cuCtxDisablePeerAccess(other), 705);
        assert_eq!((cu::cuCtxGetId(own, &mut id), cu::cuCtxGetId(0, &mut current)), (0, 0));
        assert_eq!(id, current);
        assert_eq!(cu::cuCtxGetId(other, &mut current), 0);
        assert_ne!(id, current);
    }) else {
        return;
    };
}
