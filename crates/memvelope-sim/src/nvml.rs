//! The simulated libnvidia-ml: devices, memory, processes, utilisation, versions.

#![expect(unsafe_code, reason = "exports a C API")]
#![allow(non_snake_case, reason = "exported names and their parameters are NVML's")]

use crate::driver::device::bus_id;
use crate::edge::{get, put, put_text, text};
use crate::entry::plain_functions;
use crate::fault;
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
    pub(super) const GPU_IS_LOST: u32 = 15;
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
    (code::GPU_IS_LOST, c"GPU is lost"),
    (code::ARGUMENT_VERSION_MISMATCH, c"Argument Version Mismatch"),
    (999, c"Unknown Error"),
];

/// NVML can be called at any time.
fn no_conditions(_name: &'static str) {}

/// How often NVML was initialised more than shut down.
static USERS: AtomicU32 = AtomicU32::new(0);

/// A device handle is this plus the ordinal: never null, and no address.
const HANDLE_BASE: u64 = 0x4e56_4d4c_0000;
/// The same for a GPU that is used in slices, with the ordinal of its first one.
const PARENT_BASE: u64 = 0x4e56_4d50_0000;
/// `NVML_VALUE_NOT_AVAILABLE`, for bytes that nobody can tell.
const NOT_AVAILABLE: u64 = u64::MAX;
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
        write(count, u32::try_from(boards(world).len()).unwrap_or(0))
    });
    nvmlDeviceGetHandleByIndex_v2(index: u32, to: *mut u64) => on_world(|world| {
        let board = boards(world).get(index as usize).copied();
        board.map_or(code::INVALID_ARGUMENT, |board| write(to, board.handle()))
    });
    nvmlDeviceGetHandleByUUID(uuid: *const c_char, to: *mut u64) => on_world(|world| {
        let Ok(uuid) = text(uuid) else { return code::INVALID_ARGUMENT };
        let slices = (0..world.devices.len()).map(Target::Device);
        let mut all = boards(world).into_iter().chain(slices);
        let found = all.find(|target| uuid_of(world, *target).as_bytes() == uuid.to_bytes());
        found.map_or(code::NOT_FOUND, |target| write(to, target.handle()))
    });
    nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, to: *mut u64) => on_world(|world| {
        let Ok(id) = text(id) else { return code::INVALID_ARGUMENT };
        let wanted = id.to_string_lossy().to_uppercase();
        let mut all = boards(world).into_iter();
        let found = all.find(|target| wanted.ends_with(&bus_id(target.first())));
        found.map_or(code::NOT_FOUND, |target| write(to, target.handle()))
    });
    nvmlDeviceGetName(device: u64, to: *mut c_char, room: u32) => on_target(device, |world, at| {
        write_text(to, room, &world.devices[at.first()].spec.name)
    });
    nvmlDeviceGetUUID(device: u64, to: *mut c_char, room: u32) => on_target(device, |world, at| {
        write_text(to, room, &uuid_of(world, at))
    });
    nvmlDeviceGetIndex(device: u64, to: *mut u32)
        => on_target(device, |world, at| number(world, at, to));
    nvmlDeviceGetMinorNumber(device: u64, to: *mut u32)
        => on_target(device, |world, at| number(world, at, to));
    nvmlDeviceGetMemoryInfo(device: u64, to: *mut [u64; 3]) => on_target(device, |world, at| {
        let Some(memory) = memory_of(world, at) else { return code::NOT_SUPPORTED };
        write(to, [memory.total, memory.free, memory.total - memory.free])
    });
    nvmlDeviceGetMemoryInfo_v2(device: u64, to: *mut MemoryV2)
        => on_target(device, |world, at| memory_v2(world, at, to));
    nvmlDeviceGetComputeRunningProcesses_v3(device: u64, count: *mut u32, to: *mut Process)
        => on_target(device, |world, at| processes(world, at, count, to));
    nvmlDeviceGetComputeRunningProcesses_v2(device: u64, count: *mut u32, to: *mut Process)
        => on_target(device, |world, at| processes(world, at, count, to));
    nvmlDeviceGetUtilizationRates(device: u64, to: *mut [u32; 2]) => on_target(device, |world, at| {
        let Target::Device(index) = at else { return code::NOT_SUPPORTED };
        if is_slice(world, index) {
            return code::NOT_SUPPORTED;
        }
        let gpu = world.utilization_percent(index);
        let total = world.devices[index].total().max(1);
        let used = total - world.free_bytes(index);
        let memory = u128::from(used) * 100 / u128::from(total);
        write(to, [gpu, u32::try_from(memory).unwrap_or(100)])
    });
    nvmlDeviceGetMigMode(device: u64, current: *mut u32, next: *mut u32)
        => on_target(device, |_, at| match at {
            Target::Device(_) => code::NOT_SUPPORTED,
            Target::Parent(_) => write(current, 1).max(write(next, 1)),
        });
    nvmlDeviceIsMigDeviceHandle(device: u64, to: *mut u32) => on_target(device, |world, at| {
        write(to, u32::from(matches!(at, Target::Device(index) if is_slice(world, index))))
    });
    nvmlDeviceGetMaxMigDeviceCount(device: u64, to: *mut u32) => on_target(device, |world, at| {
        let count = slices_of(world, at).len();
        write(to, u32::try_from(count).unwrap_or(0))
    });
    nvmlDeviceGetMigDeviceHandleByIndex(device: u64, index: u32, to: *mut u64)
        => on_target(device, |world, at| {
            let slice = slices_of(world, at).get(index as usize).copied();
            slice.map_or(code::NOT_FOUND, |slice| write(to, Target::Device(slice).handle()))
        });
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device: u64, to: *mut u64)
        => on_target(device, |world, at| {
            let mut all = boards(world).into_iter();
            let parent = match at {
                Target::Device(slice) => {
                    all.find(|board| slices_of(world, *board).contains(&slice))
                }
                Target::Parent(_) => None,
            };
            parent.map_or(code::INVALID_ARGUMENT, |parent| write(to, parent.handle()))
        });
    nvmlDeviceGetCudaComputeCapability(device: u64, major: *mut i32, minor: *mut i32)
        => on_target(device, |world, at| {
            let (a, b) = world.devices[at.first()].spec.compute_capability;
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

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// A device as CUDA sees it: a whole GPU or a slice.
    Device(usize),
    /// A GPU that CUDA sees in slices, by the first of them.
    Parent(usize),
}

impl Target {
    fn handle(self) -> u64 {
        match self {
            Self::Device(index) => HANDLE_BASE + index as u64,
            Self::Parent(first) => PARENT_BASE + first as u64,
        }
    }

    fn of(handle: u64, world: &World) -> Option<Self> {
        let index = |base: u64| {
            let index = usize::try_from(handle.checked_sub(base)?).ok()?;
            (index < world.devices.len()).then_some(index)
        };
        let parent = index(PARENT_BASE).map(Self::Parent);
        parent.or_else(|| index(HANDLE_BASE).map(Self::Device))
    }

    fn first(self) -> usize {
        match self {
            Self::Device(index) | Self::Parent(index) => index,
        }
    }
}

fn is_slice(world: &World, device: usize) -> bool {
    world.devices[device].spec.mig_of.is_some()
}

/// What NVML counts: whole GPUs, and those that are used in slices.
fn boards(world: &World) -> Vec<Target> {
    let board = |index: usize| {
        let parent = &world.devices[index].spec.mig_of;
        match parent {
            None => Some(Target::Device(index)),
            // Later slices of the same GPU are no other one.
            Some(_) if world.devices[..index].iter().any(|at| at.spec.mig_of == *parent) => None,
            Some(_) => Some(Target::Parent(index)),
        }
    };
    (0..world.devices.len()).filter_map(board).collect()
}

/// The number of a GPU; slices have none.
fn number(world: &World, target: Target, to: *mut u32) -> u32 {
    let index = boards(world).iter().position(|board| *board == target);
    let index = index.and_then(|index| u32::try_from(index).ok());
    index.map_or(code::NOT_SUPPORTED, |index| write(to, index))
}

fn slices_of(world: &World, target: Target) -> Vec<usize> {
    let Target::Parent(first) = target else { return Vec::new() };
    let parent = &world.devices[first].spec.mig_of;
    let is_of_it = |index: &usize| world.devices[*index].spec.mig_of == *parent;
    (0..world.devices.len()).filter(is_of_it).collect()
}

fn uuid_of(world: &World, target: Target) -> String {
    match target {
        Target::Device(index) => world.devices[index].uuid_text.clone(),
        Target::Parent(first) => world.devices[first].spec.mig_of.clone().unwrap_or_default(),
    }
}

fn on_target(handle: u64, action: impl FnOnce(&mut World, Target) -> u32) -> u32 {
    on_world(|world| match Target::of(handle, world) {
        _ if fault::is_lost() => code::GPU_IS_LOST,
        Some(target) => action(world, target),
        None => code::INVALID_ARGUMENT,
    })
}

/// Bytes of a device or a GPU.
#[derive(Clone, Copy, Debug)]
struct Memory {
    total: u64,
    reserved: u64,
    free: u64,
}

/// `None` where the device has none of its own.
fn memory_of(world: &World, target: Target) -> Option<Memory> {
    let of_device = |index: usize| {
        let spec = &world.devices[index].spec;
        let (total, reserved) = (spec.total_bytes, spec.reserved_bytes);
        Memory { total, reserved, free: world.free_bytes(index) }
    };
    if let Target::Device(index) = target {
        return (!world.devices[index].spec.unified_memory).then(|| of_device(index));
    }
    let slices: Vec<Memory> = slices_of(world, target).into_iter().map(of_device).collect();
    let sum = |part: fn(&Memory) -> u64| slices.iter().map(part).sum::<u64>();
    let total = match world.devices[target.first()].spec.mig_parent_bytes {
        0 => 2 * sum(|slice| slice.total),
        bytes => bytes,
    };
    let reserved = sum(|slice| slice.reserved);
    let used = sum(|slice| slice.total - slice.free);
    Some(Memory { total, reserved, free: total - used })
}

fn memory_v2(world: &World, target: Target, to: *mut MemoryV2) -> u32 {
    let Ok(asked) = get(to.cast_const()) else { return code::INVALID_ARGUMENT };
    let version = u32::try_from(size_of::<MemoryV2>()).unwrap_or(0) | 2 << 24;
    if asked.version != version {
        return code::ARGUMENT_VERSION_MISMATCH;
    }
    let Some(Memory { total, reserved, free }) = memory_of(world, target) else {
        return code::NOT_SUPPORTED;
    };
    // Hidden bytes count as used: no API of this driver tells them apart.
    write(to, MemoryV2 { version, total, reserved, free, used: total - free - reserved })
}

/// This process (once it has a context) and the co-tenants of a device.
fn processes_on(world: &World, index: usize) -> impl Iterator<Item = (u32, u64)> {
    let device = &world.devices[index];
    let is_here = world.contexts.values().any(|context| context.device == index);
    let own = is_here.then(|| (std::process::id(), device.own()));
    let tenants = device.co_tenant_bytes(world.elapsed()).zip(&device.spec.co_tenants);
    let tenants = tenants.map(|((pid, bytes), tenant)| {
        (pid, if tenant.memory_known { bytes } else { NOT_AVAILABLE })
    });
    own.into_iter().chain(tenants)
}

/// Those of a device, a slice or not, with their instances.
fn listed(world: &World, index: usize) -> impl Iterator<Item = Process> {
    let parent = &world.devices[index].spec.mig_of;
    let place = world.devices[..index].iter().filter(|other| other.spec.mig_of == *parent).count();
    let number = u32::try_from(place + 1).unwrap_or(NO_INSTANCE);
    let (gpu_instance, compute_instance) =
        if parent.is_some() { (number, 0) } else { (NO_INSTANCE, NO_INSTANCE) };
    processes_on(world, index).map(move |(pid, used)| Process {
        pid,
        used,
        gpu_instance,
        compute_instance,
    })
}

/// The processes of a GPU or of a slice; of the GPU that slices are of, all of them.
fn processes(world: &World, target: Target, count: *mut u32, to: *mut Process) -> u32 {
    let Ok(room) = get(count.cast_const()) else { return code::INVALID_ARGUMENT };
    let all: Vec<Process> = match target {
        Target::Device(index) => listed(world, index).collect(),
        Target::Parent(_) => {
            slices_of(world, target).into_iter().flat_map(|index| listed(world, index)).collect()
        }
    };
    let needed = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let written = write(count, needed);
    if room < needed {
        return code::INSUFFICIENT_SIZE;
    }
    for (i, process) in all.into_iter().enumerate() {
        if write(to.wrapping_add(i), process) != code::SUCCESS {
            return code::INVALID_ARGUMENT;
        }
    }
    written
}
