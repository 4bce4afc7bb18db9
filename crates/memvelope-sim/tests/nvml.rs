//! The simulated NVML, through nvml-wrapper as it is.

#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{alloc, context, cu, in_child, kernel, launch};
use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

const MIB: u64 = 1 << 20;

const TWO: &str = "[[devices]]\nname = \"A\"\nuuid = \"GPU-00112233-4455-6677-8899-aabbccddeeff\"\n\
    [[devices.co_tenants]]\npid = 4242\nbytes = 1073741824\n\
    [[devices]]\nname = \"B\"\ntotal_bytes = 8589934592\n";

#[test]
fn nvml_wrapper_sees_devices_memory_and_processes() {
    let Some(_) = in_child("nvml_wrapper_sees_devices_memory_and_processes", TWO, || {
        let nvml = Nvml::init().unwrap();
        assert_eq!(nvml.device_count().unwrap(), 2);
        assert_eq!(nvml.sys_driver_version().unwrap(), "580.95.05");
        assert_eq!(nvml.sys_nvml_version().unwrap(), "13.580.95.05");
        assert_eq!(nvml.sys_cuda_driver_version().unwrap(), 13_000);
        let uuid = "GPU-00112233-4455-6677-8899-aabbccddeeff";
        let a = nvml.device_by_uuid(uuid).unwrap();
        assert_eq!((a.name().unwrap().as_str(), a.index().unwrap()), ("A", 0));
        assert_eq!(a.uuid().unwrap(), uuid);
        assert_eq!(nvml.device_by_pci_bus_id("00000000:02:00.0").unwrap().name().unwrap(), "B");
        assert!(matches!(nvml.device_by_index(2), Err(NvmlError::InvalidArg)));
        assert!(matches!(nvml.device_by_uuid("GPU-0"), Err(NvmlError::NotFound)));
        assert!(matches!(a.mig_mode(), Err(NvmlError::NotSupported)));
        assert_eq!(a.minor_number().unwrap(), 0);

        let before = a.memory_info().unwrap();
        assert_eq!((before.total, before.used), (80 << 30, 1024 * MIB + 96 * MIB));
        assert_eq!(processes(&a), [(4242, 1024 * MIB)]);
        context();
        let held = alloc(100 << 20);
        let after = a.memory_info().unwrap();
        assert_eq!(after.used - before.used, (480 + 100) * MIB);
        assert_eq!(after.free, common::mem_info().0, "NVML and the driver agree");
        let own = (std::process::id(), 580 * MIB);
        assert_eq!(processes(&a), [own, (4242, 1024 * MIB)]);
        assert_eq!(cu::cuMemFree_v2(held), 0);
        assert_eq!(processes(&a)[0].1, 480 * MIB);
        assert_eq!(processes(&nvml.device_by_index(1).unwrap()), []);
    }) else {
        return;
    };
}

fn processes(device: &nvml_wrapper::Device<'_>) -> Vec<(u32, u64)> {
    let bytes = |memory| match memory {
        UsedGpuMemory::Used(bytes) => bytes,
        UsedGpuMemory::Unavailable => u64::MAX,
    };
    let processes = device.running_compute_processes().unwrap();
    processes.into_iter().map(|process| (process.pid, bytes(process.used_gpu_memory))).collect()
}

#[test]
fn utilisation_is_busy_time_over_virtual_time() {
    let scenario = "[costs]\nlaunch_ns = 0\nsync_ns = 0\ncall_ns = 0\n\
                    [kernels.named.idle]\nbase_ns = 1000000\nper_block_ns = 0.0\n";
    let Some(_) = in_child("utilisation_is_busy_time_over_virtual_time", scenario, || {
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        context();
        let idle = kernel(c"idle");
        let percent = || device.utilization_rates().unwrap().gpu;
        percent();
        launch(idle, 1, 0);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        assert_eq!(percent(), 100);
        // A copy keeps the GPU busy too; a created context (1 ms of host time) does not.
        launch(idle, 1, 0);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        assert_eq!(cu::cuCtxCreate_v2(&mut 0, 0, 0), 0);
        assert_eq!(percent(), 50);
        assert_eq!(percent(), 50, "no time passed: the last answer");
    }) else {
        return;
    };
}

#[test]
fn nvml_calls_fail_by_name() {
    let scenario = "missing = [\"nvmlDeviceGetUtilizationRates\"]\n\
        [[faults]]\ncall = \"nvmlDeviceGetMemoryInfo_v2\"\ncode = 15\n";
    let Some(books) = in_child("nvml_calls_fail_by_name", scenario, || {
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        assert!(matches!(device.memory_info(), Err(NvmlError::GpuLost)));
        assert!(device.memory_info().is_ok());
        let rates = device.utilization_rates();
        assert!(rates.is_err(), "{rates:?}");
    }) else {
        return;
    };
    assert_eq!(books["faults_fired"], serde_json::json!(1));
}
