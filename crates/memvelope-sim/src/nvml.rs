//! The simulated libnvidia-ml: devices, memory, processes, utilisation, versions.

#![expect(unsafe_code, reason = "exports a C API")]
#![allow(non_snake_case, reason = "exported names and their parameters are NVML's")]

use crate::driver::device::bus_id;
use crate::edge::{get, put, put_text, text};
use crate::entry::plain_functions;
use crate::world::{self, World};
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU32, Ordering};

/// `nvmlReturn_t`s.
mod code {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const UNINITIALIZED: u32 = 1;
    pub(super) const INVALID_ARGUMENT: u32 = 2;
    pub(super) const NOT_SUPPORTED: u32 = 3;
    pub(super) const NOT_FOUND: u32 = 6;
    pub(super) const INSUFFICIENT_SIZE: u32 = 7;
    pub(super) const DRIVER_NOT_LOADED: u32 = 9;
    pub(super) const ARGUMENT_VERSION_MISMATCH: u32 = 25;
}

static TEXTS: &[(u32, &CStr)] = &[
    (code::SUCCESS, c"Success"),
    (code::UNINITIALIZED, c"Uninitialized"),
    (code::INVALID_ARGUMENT, c"Invalid Argument"),
    (code::NOT_SUPPORTED, c"Not Supported"),
    (4, c"Insufficient Permissions"),
    (code::NOT_FOUND, c"Not Found"),
    (code::INSUFFICIENT_SIZE, c"Insufficient Size"),
    (code::DRIVER_NOT_LOADED, c"Driver Not Loaded"),
    (13, c"Function Not Found"),
    (15, c"GPU is lost"),
    (code::ARGUMENT_VERSION_MISMATCH, c"Argument Version Mismatch"),
    (999, c"Unknown Error"),
];

/// NVML can be called at any time.
fn no_conditions(_name: &'static str) {}

/// How often NVML was initialised more than shut down.
static USERS: AtomicU32 = AtomicU32::new(0);

/// A device handle is this plus the ordinal: never null, and no address.
const HANDLE_BASE: u64 = 0x4e56_4d4c_0000;
/// "Not available" in process records.
const NO_INSTANCE: u32 = u32::MAX;
/// What `nvmlSystemGetNVMLVersion` says before the driver's version.
const NVML_MAJOR: &str = "13.";

plain_functions! {
    missing 13, panicked 999, before no_conditions;
    nvmlInit_v2() => init();
    nvmlInit() => init();
    nvmlInitWithFlags(_flags: u32) => init();
    nvmlShutdown() => {
        let down = USERS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
        if down.is_ok() { code::SUCCESS } else { code::UNINITIALIZED }
    };
    nvmlDeviceGetCount_v2(count: *mut u32) => on_world(|world| {
        write(count, u32::try_from(world.devices.len()).unwrap_or(0))
    });
    nvmlDeviceGetHandleByIndex_v2(index: u32, to: *mut u64)
        => on_world(|world| handle(world, index as usize, to));
    nvmlDeviceGetHandleByUUID(uuid: *const c_char, to: *mut u64) => on_world(|world| {
        let Ok(uuid) = text(uuid) else { return code::INVALID_ARGUMENT };
        let mut devices = world.devices.iter();
        let found = devices.position(|device| device.uuid_text.as_bytes() == uuid.to_bytes());
        found.map_or(code::NOT_FOUND, |index| handle(world, index, to))
    });
    nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, to: *mut u64) => on_world(|world| {
        let Ok(id) = text(id) else { return code::INVALID_ARGUMENT };
        let wanted = id.to_string_lossy().to_uppercase();
        let found = (0..world.devices.len()).find(|index| wanted.ends_with(&bus_id(*index)));
        found.map_or(code::NOT_FOUND, |index| handle(world, index, to))
    });
    nvmlDeviceGetName(device: u64, to: *mut c_char, room: u32) => on_device(device, |world, index| {
        write_text(to, room, &world.devices[index].spec.name)
    });
    nvmlDeviceGetUUID(device: u64, to: *mut c_char, room: u32) => on_device(device, |world, index| {
        write_text(to, room, &world.devices[index].uuid_text)
    });
    nvmlDeviceGetIndex(device: u64, to: *mut u32) => on_device(device, |_, index| {
        write(to, u32::try_from(index).unwrap_or(0))
    });
    nvmlDeviceGetMinorNumber(device: u64, to: *mut u32) => on_device(device, |_, index| {
        write(to, u32::try_from(index).unwrap_or(0))
    });
    nvmlDeviceGetMemoryInfo(device: u64, to: *mut [u64; 3]) => on_device(device, |world, index| {
        let (total, free) = (world.devices[index].spec.total_bytes, world.free_bytes(index));
        write(to, [total, free, total - free])
    });
    nvmlDeviceGetMemoryInfo_v2(device: u64, to: *mut MemoryV2)
        => on_device(device, |world, index| memory_v2(world, index, to));
    nvmlDeviceGetComputeRunningProcesses_v3(device: u64, count: *mut u32, to: *mut Process)
        => on_device(device, |world, index| processes(world, index, count, to));
    nvmlDeviceGetComputeRunningProcesses_v2(device: u64, count: *mut u32, to: *mut Process)
        => on_device(device, |world, index| processes(world, index, count, to));
    nvmlDeviceGetUtilizationRates(device: u64, to: *mut [u32; 2])
        => on_device(device, |world, index| {
            let gpu = world.utilization_percent(index);
            let total = world.devices[index].spec.total_bytes.max(1);
            let used = total - world.free_bytes(index);
            let memory = u128::from(used) * 100 / u128::from(total);
            write(to, [gpu, u32::try_from(memory).unwrap_or(100)])
        });
    nvmlDeviceGetMigMode(device: u64, _current: *mut u32, _next: *mut u32)
        => on_device(device, |_, _| code::NOT_SUPPORTED);
    nvmlDeviceGetCudaComputeCapability(device: u64, major: *mut i32, minor: *mut i32)
        => on_device(device, |world, index| {
            let (a, b) = world.devices[index].spec.compute_capability;
            write(major, a).max(write(minor, b))
        });
    nvmlSystemGetDriverVersion(to: *mut c_char, room: u32) => on_world(|world| {
        write_text(to, room, &world.scenario.driver_name)
    });
    nvmlSystemGetNVMLVersion(to: *mut c_char, room: u32) => on_world(|world| {
        write_text(to, room, &format!("{NVML_MAJOR}{}", world.scenario.driver_name))
    });
    nvmlSystemGetCudaDriverVersion_v2(to: *mut i32)
        => on_world(|world| write(to, world.scenario.driver_version));
    nvmlSystemGetCudaDriverVersion(to: *mut i32)
        => on_world(|world| write(to, world.scenario.driver_version));
}

/// `nvmlErrorString` returns its text, so that it stands outside the table above.
#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(result: u32) -> *const c_char {
    let known = TEXTS.iter().find(|(value, _)| *value == result);
    known.map_or(c"Unknown Error", |(_, text)| text).as_ptr()
}

/// `nvmlMemory_v2_t`, 40 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct MemoryV2 {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `nvmlProcessInfo_t`, 24 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Process {
    pid: u32,
    used: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

fn init() -> u32 {
    if world::machine().is_none() {
        return code::DRIVER_NOT_LOADED;
    }
    USERS.fetch_add(1, Ordering::AcqRel);
    code::SUCCESS
}

fn write<T>(to: *mut T, value: T) -> u32 {
    if put(to, value).is_ok() { code::SUCCESS } else { code::INVALID_ARGUMENT }
}

fn write_text(to: *mut c_char, room: u32, words: &str) -> u32 {
    if (room as usize) <= words.len() {
        return code::INSUFFICIENT_SIZE;
    }
    put_text(to, room as usize, words).map_or(code::INVALID_ARGUMENT, |()| code::SUCCESS)
}

fn on_world(action: impl FnOnce(&mut World) -> u32) -> u32 {
    if USERS.load(Ordering::Acquire) == 0 {
        return code::UNINITIALIZED;
    }
    world::machine().map_or(code::DRIVER_NOT_LOADED, |mut world| {
        world.reap_exports();
        action(&mut world)
    })
}

fn on_device(device: u64, action: impl FnOnce(&mut World, usize) -> u32) -> u32 {
    on_world(|world| {
        let index = device.checked_sub(HANDLE_BASE).and_then(|index| usize::try_from(index).ok());
        match index.filter(|index| *index < world.devices.len()) {
            Some(index) => action(world, index),
            None => code::INVALID_ARGUMENT,
        }
    })
}

fn handle(world: &World, index: usize, to: *mut u64) -> u32 {
    if index >= world.devices.len() {
        return code::INVALID_ARGUMENT;
    }
    write(to, HANDLE_BASE + index as u64)
}

fn memory_v2(world: &World, index: usize, to: *mut MemoryV2) -> u32 {
    let Ok(asked) = get(to.cast_const()) else { return code::INVALID_ARGUMENT };
    let version = u32::try_from(size_of::<MemoryV2>()).unwrap_or(0) | 2 << 24;
    if asked.version != version {
        return code::ARGUMENT_VERSION_MISMATCH;
    }
    let (total, free) = (world.devices[index].spec.total_bytes, world.free_bytes(index));
    // Hidden bytes count as used: no API of this driver tells them apart.
    write(to, MemoryV2 { version, total, reserved: 0, free, used: total - free })
}

/// This process (once it has a context) and the co-tenants.
fn processes(world: &World, index: usize, count: *mut u32, to: *mut Process) -> u32 {
    let Ok(room) = get(count.cast_const()) else { return code::INVALID_ARGUMENT };
    let device = &world.devices[index];
    let own = device.own();
    let is_here = world.contexts.values().any(|context| context.device == index);
    let own = is_here.then(|| (std::process::id(), own));
    let all: Vec<(u32, u64)> =
        own.into_iter().chain(device.co_tenant_bytes(world.elapsed())).collect();
    let needed = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let written = write(count, needed);
    if room < needed {
        return code::INSUFFICIENT_SIZE;
    }
    for (i, (pid, used)) in all.into_iter().enumerate() {
        let process =
            Process { pid, used, gpu_instance: NO_INSTANCE, compute_instance: NO_INSTANCE };
        if write(to.wrapping_add(i), process) != code::SUCCESS {
            return code::INVALID_ARGUMENT;
        }
    }
    written
}
