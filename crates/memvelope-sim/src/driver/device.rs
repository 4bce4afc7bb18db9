//! Devices and contexts.

use crate::abi::{Code, Done};
use crate::cupti::callbacks;
use crate::edge::{put, put_if, put_text};
use crate::entry::Call;
use crate::scenario;
use crate::thread;
use crate::world::pools::PoolPlace;
use crate::world::{Tag, World};
use std::ffi::c_char;

pub(crate) fn count(call: &Call, to: *mut i32) -> Done {
    call.world(|world| put(to, i32::try_from(world.devices.len()).unwrap_or(i32::MAX)))
}

pub(crate) fn get(call: &Call, to: *mut i32, ordinal: i32) -> Done {
    call.world(|world| {
        world.device_index(ordinal)?;
        put(to, ordinal)
    })
}

pub(crate) fn name(call: &Call, to: *mut c_char, room: i32, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        let room = usize::try_from(room).map_err(|_| Code::INVALID_VALUE)?;
        put_text(to, room, &world.devices[index].spec.name)
    })
}

pub(crate) fn uuid(call: &Call, to: *mut [u8; 16], device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        put(to, world.devices[index].uuid)
    })
}

/// The older call knows whole GPUs only.
pub(crate) fn whole_uuid(call: &Call, to: *mut [u8; 16], device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        put(to, world.devices[index].whole_uuid)
    })
}

pub(crate) fn total(call: &Call, to: *mut usize, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        put(to, world.devices[index].total() as usize)
    })
}

pub(crate) fn pci_bus_id(call: &Call, to: *mut c_char, room: i32, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        let room = usize::try_from(room).map_err(|_| Code::INVALID_VALUE)?;
        put_text(to, room, &bus_id(index))
    })
}

/// PCI address of a device: one bus each.
pub(crate) fn bus_id(index: usize) -> String {
    format!("0000:{:02X}:00.0", index + 1)
}

pub(crate) fn attribute(call: &Call, to: *mut i32, attribute: i32, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        put(to, attribute_of(&world.devices[index].spec, index, attribute)?)
    })
}

/// Device attributes by number. Those of the architecture are Hopper's; a number that is not in
/// the table is 0 (not supported) up to the last known one, and invalid above.
fn attribute_of(spec: &scenario::Device, index: usize, attribute: i32) -> Done<i32> {
    const LAST_KNOWN: i32 = 162;
    Ok(match attribute {
        // Threads per block; block and grid dimensions.
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65_535,
        // Shared memory per block: default, opt-in, and per multiprocessor.
        8 => 48 << 10,
        97 => 227 << 10,
        81 => 228 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => 64 << 10,
        13 => 1_980_000,
        14 => 512,
        16 => spec.multiprocessors,
        18 => i32::from(spec.unified_memory),
        // Overlap, host mapping, concurrent kernels, unified addressing, stream priorities, L1,
        // managed memory, compute preemption, stream memory operations, cooperative launch.
        15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 | 92 | 93 | 94 | 95 | 99 => 1,
        33 => i32::try_from(index + 1).unwrap_or(1),
        36 => 2_619_000,
        37 => 5_120,
        38 => 50 << 20,
        39 => 2_048,
        40 => 3,
        75 => spec.compute_capability.0,
        76 => spec.compute_capability.1,
        // Virtual memory management, its POSIX handles, and multicast objects.
        102 | 103 | 132 => 1,
        106 => 32,
        111 => 1 << 10,
        115 => i32::from(spec.memory_pools),
        119 => i32::from(spec.memory_pools),
        0 => return Err(Code::INVALID_VALUE),
        _ if !(0..=LAST_KNOWN).contains(&attribute) => return Err(Code::INVALID_VALUE),
        _ => 0,
    })
}

pub(crate) fn capability(call: &Call, major: *mut i32, minor: *mut i32, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        let (a, b) = world.devices[index].spec.compute_capability;
        put(major, a)?;
        put(minor, b)
    })
}

pub(crate) fn primary_retain(call: &Call, to: *mut u64, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        if world.devices[index].primary == 0 {
            world.devices[index].primary = world.handle(Tag::Context);
        }
        let handle = world.devices[index].primary;
        if world.devices[index].primary_count == 0 {
            let flags = world.devices[index].primary_flags;
            world.make_context(handle, index, flags)?;
            // Making it takes time, and holding on to it does not.
            let costs = &world.scenario.costs;
            let is_set = costs.calls.contains_key("cuDevicePrimaryCtxRetain");
            let setup_ns = if is_set { 0 } else { costs.setup_ns };
            world.now = world.now.saturating_add(setup_ns);
        }
        world.devices[index].primary_count += 1;
        put(to, handle)
    })
}

/// Tells CUPTI's subscriber, before a call ends the primary context that `is_ending` says.
fn tell_end(call: &Call, device: i32, is_ending: impl FnOnce(u32) -> bool) {
    let ending = call.world(|world| {
        let index = world.device_index(device)?;
        let record = &world.devices[index];
        Ok(is_ending(record.primary_count).then_some(record.primary))
    });
    if let Ok(Some(context)) = ending {
        callbacks::context_destroy_starting(context);
    }
}

pub(crate) fn primary_release(call: &Call, device: i32) -> Done {
    tell_end(call, device, |count| count == 1);
    call.world(|world| {
        let index = world.device_index(device)?;
        let record = &mut world.devices[index];
        record.primary_count = record.primary_count.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
        let (count, handle) = (record.primary_count, record.primary);
        if count == 0 { world.destroy_context(handle) } else { Ok(()) }
    })
}

pub(crate) fn primary_reset(call: &Call, device: i32) -> Done {
    tell_end(call, device, |count| count > 0);
    call.world(|world| {
        let index = world.device_index(device)?;
        let record = &mut world.devices[index];
        let (count, handle) = (record.primary_count, record.primary);
        record.primary_count = 0;
        if count == 0 {
            return Ok(());
        }
        world.destroy_context(handle)?;
        // Not documented of pools; of everything that is, it is.
        world.destroy_pools_on(index);
        Ok(())
    })
}

pub(crate) fn primary_state(call: &Call, device: i32, flags: *mut u32, active: *mut i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        let record = &world.devices[index];
        put(flags, record.primary_flags)?;
        put(active, i32::from(record.primary_count > 0))
    })
}

pub(crate) fn primary_flags(call: &Call, device: i32, flags: u32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        world.devices[index].primary_flags = flags;
        Ok(())
    })
}

pub(crate) fn create(call: &Call, to: *mut u64, flags: u32, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        let handle = world.handle(Tag::Context);
        world.make_context(handle, index, flags)?;
        if !thread::push(handle) {
            world.destroy_context(handle)?;
            return Err(Code::INVALID_VALUE);
        }
        put(to, handle)
    })
}

pub(crate) fn destroy(call: &Call, handle: u64) -> Done {
    let is_known = call.world(|world| {
        let is_primary = world.devices.iter().any(|device| device.primary == handle);
        Ok(!is_primary && world.contexts.contains_key(&handle))
    });
    if is_known == Ok(true) {
        callbacks::context_destroy_starting(handle);
    }
    call.world(|world| {
        if world.devices.iter().any(|device| device.primary == handle) {
            return Err(Code::INVALID_CONTEXT);
        }
        world.destroy_context(handle)?;
        if thread::current() == handle {
            thread::pop();
        }
        Ok(())
    })
}

pub(crate) fn set_current(call: &Call, handle: u64) -> Done {
    call.world(|world| {
        if handle != 0 && !world.contexts.contains_key(&handle) {
            return Err(Code::INVALID_CONTEXT);
        }
        thread::set_current(handle);
        Ok(())
    })
}

pub(crate) fn get_current(call: &Call, to: *mut u64) -> Done {
    call.world(|_| put(to, thread::current()))
}

pub(crate) fn push(call: &Call, handle: u64) -> Done {
    call.world(|world| {
        world.context(handle)?;
        if thread::push(handle) { Ok(()) } else { Err(Code::INVALID_VALUE) }
    })
}

pub(crate) fn pop(call: &Call, to: *mut u64) -> Done {
    call.world(|_| {
        let handle = thread::pop().ok_or(Code::INVALID_CONTEXT)?;
        put_if(to, handle);
        Ok(())
    })
}

pub(crate) fn current_device(call: &Call, to: *mut i32) -> Done {
    call.world(|world| {
        let device = current_device_index(world)?;
        put(to, i32::try_from(device).unwrap_or(0))
    })
}

pub(crate) fn current_device_index(world: &mut World) -> Done<usize> {
    let context = world.current()?;
    Ok(world.context(context)?.device)
}

pub(crate) fn api_version(call: &Call, context: u64, to: *mut u32) -> Done {
    call.world(|world| {
        if context != 0 {
            world.context(context)?;
        }
        put(to, world.scenario.driver_version.cast_unsigned())
    })
}

pub(crate) fn context_flags(call: &Call, to: *mut u32) -> Done {
    call.world(|world| {
        let context = world.current()?;
        put(to, world.context(context)?.flags)
    })
}

pub(crate) fn set_context_flags(call: &Call, flags: u32) -> Done {
    call.world(|world| {
        let context = world.current()?;
        world.context(context)?.flags = flags;
        Ok(())
    })
}

/// The context's id, of a handle or (0) of the current one.
pub(crate) fn context_id(call: &Call, context: u64, to: *mut u64) -> Done {
    call.world(|world| {
        let context = if context == 0 { world.current()? } else { context };
        let uid = world.context(context)?.uid;
        put(to, u64::from(uid))
    })
}

/// Every device can reach every other one.
pub(crate) fn can_access(call: &Call, to: *mut i32, device: i32, peer: i32) -> Done {
    call.world(|world| {
        let (device, peer) = (world.device_index(device)?, world.device_index(peer)?);
        put(to, i32::from(device != peer))
    })
}

/// Access is remembered, and not asked for.
pub(crate) fn enable_peer(call: &Call, peer: u64, flags: u32) -> Done {
    call.world(|world| {
        let context = world.current()?;
        let device = world.context(peer)?.device;
        let context = world.context(context)?;
        if flags != 0 || context.device == device {
            return Err(Code::INVALID_VALUE);
        }
        if context.peers.contains(&peer) {
            return Err(Code::PEER_ENABLED);
        }
        context.peers.push(peer);
        Ok(())
    })
}

pub(crate) fn disable_peer(call: &Call, peer: u64) -> Done {
    call.world(|world| {
        let context = world.current()?;
        let peers = &mut world.context(context)?.peers;
        let at = peers.iter().position(|known| *known == peer).ok_or(Code::PEER_NOT_ENABLED)?;
        peers.swap_remove(at);
        Ok(())
    })
}

/// Limits there are: stack, printf, heap, sync depth, pending launches, L2 fetch, persisting L2.
const LIMITS: std::ops::RangeInclusive<u32> = 0..=6;

/// `CU_LIMIT_STACK_SIZE`.
const STACK_SIZE: u32 = 0;

pub(crate) fn get_limit(call: &Call, to: *mut usize, limit: u32) -> Done {
    call.world(|world| {
        if !LIMITS.contains(&limit) {
            return Err(Code::UNSUPPORTED_LIMIT);
        }
        let default = [1 << 10, 1 << 20, 8 << 20, 2, 2048, 64, 0][limit as usize];
        let context = world.current()?;
        put(to, world.context(context)?.limits.get(&limit).copied().unwrap_or(default))
    })
}

pub(crate) fn set_limit(call: &Call, limit: u32, value: usize) -> Done {
    call.world(|world| {
        if !LIMITS.contains(&limit) {
            return Err(Code::UNSUPPORTED_LIMIT);
        }
        let context = world.current()?;
        if limit == STACK_SIZE {
            world.set_local_memory(context, value as u64)?;
        } else {
            return world.set_buffer(context, limit, value as u64);
        }
        world.context(context)?.limits.insert(limit, value);
        Ok(())
    })
}

pub(crate) fn in_context(call: &Call) -> Done {
    call.world(|world| world.current().map(|_| ()))
}

pub(crate) fn priorities(call: &Call, least: *mut i32, greatest: *mut i32) -> Done {
    call.world(|world| {
        world.current()?;
        put_if(least, 0);
        put_if(greatest, -5);
        Ok(())
    })
}

pub(crate) fn default_pool(call: &Call, to: *mut u64, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        needs_pools(world, index)?;
        put(to, world.devices[index].default_pool)
    })
}

pub(crate) fn current_pool(call: &Call, to: *mut u64, device: i32) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        needs_pools(world, index)?;
        put(to, world.devices[index].pool)
    })
}

pub(crate) fn set_pool(call: &Call, device: i32, pool: u64) -> Done {
    call.world(|world| {
        let index = world.device_index(device)?;
        needs_pools(world, index)?;
        let found = world.pool(pool)?;
        if found.device != index || found.place != PoolPlace::Device {
            return Err(Code::INVALID_VALUE);
        }
        world.devices[index].pool = pool;
        Ok(())
    })
}

/// Whether a device has memory pools at all.
pub(crate) fn needs_pools(world: &World, device: usize) -> Done {
    if world.devices[device].spec.memory_pools { Ok(()) } else { Err(Code::NOT_SUPPORTED) }
}
