//! Allocation calls: plain, pitched, managed, pinned, stream-ordered.

use crate::abi::{ArrayDescriptor, Code, Done, FlatArrayDescriptor};
use crate::books::Family;
use crate::driver::device::{current_device_index, needs_pools};
use crate::driver::graph;
use crate::driver::records::{Operation, memory_record};
use crate::edge::{get, put, put_if};
use crate::entry::Call;
use crate::world::World;

/// Rows of pitched allocations begin at multiples of this.
const PITCH_ALIGN: usize = 512;

pub(crate) fn info(call: &Call, free: *mut usize, total: *mut usize) -> Done {
    call.world(|world| {
        let device = current_device_index(world)?;
        put(free, world.free_bytes(device) as usize)?;
        put(total, world.devices[device].total() as usize)
    })
}

pub(crate) fn alloc(call: &Call, to: *mut u64, bytes: usize) -> Done {
    call.world(|world| {
        world.graphs.refuse_unsafe()?;
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let address = world.allocate(Family::Device, bytes as u64)?;
        memory_record(world, call, &Operation::allocated(address));
        put(to, address)
    })
}

pub(crate) fn alloc_pitch(
    call: &Call,
    to: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> Done {
    call.world(|world| {
        world.graphs.refuse_unsafe()?;
        if to.is_null() || !matches!(element, 4 | 8 | 16) {
            return Err(Code::INVALID_VALUE);
        }
        let row = width.checked_add(PITCH_ALIGN - 1).ok_or(Code::INVALID_VALUE)?;
        let row = row / PITCH_ALIGN * PITCH_ALIGN;
        let bytes = row.checked_mul(height).ok_or(Code::INVALID_VALUE)?;
        let address = world.allocate(Family::Pitch, bytes as u64)?;
        memory_record(world, call, &Operation::allocated(address));
        put(pitch, row)?;
        put(to, address)
    })
}

pub(crate) fn alloc_managed(call: &Call, to: *mut u64, bytes: usize, flags: u32) -> Done {
    call.world(|world| {
        world.graphs.refuse_unsafe()?;
        // CU_MEM_ATTACH_GLOBAL or CU_MEM_ATTACH_HOST.
        if to.is_null() || !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE);
        }
        let address = world.allocate_managed(bytes as u64)?;
        memory_record(world, call, &Operation::allocated(address));
        put(to, address)
    })
}

pub(crate) fn alloc_host(call: &Call, to: *mut u64, bytes: usize, flags: u32) -> Done {
    call.world(|world| {
        world.graphs.refuse_unsafe()?;
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let address = world.allocate_host(bytes as u64, flags)?;
        memory_record(world, call, &Operation::host(address, bytes as u64, false));
        put(to, address)
    })
}

pub(crate) fn free(call: &Call, address: u64) -> Done {
    if address == 0 {
        return Ok(());
    }
    call.world(|world| {
        world.graphs.refuse_unsafe()?;
        let alloc = world.freeable(address)?;
        let (context, device) = (alloc.context, alloc.device);
        if world.scenario.costs.free_waits {
            let done = world.context_done_at(context);
            world.wait_until(done);
            world.trim_pools_of(device);
        }
        memory_record(world, call, &Operation::released(address));
        world.free(address)
    })
}

pub(crate) fn free_host(call: &Call, address: u64) -> Done {
    if address == 0 {
        return Ok(());
    }
    call.world(|world| {
        world.graphs.refuse_unsafe()?;
        let host = world.hosts.get(&address).filter(|host| host.family == Family::PinnedHost);
        let bytes = host.ok_or(Code::INVALID_VALUE)?.requested;
        memory_record(world, call, &Operation::host(address, bytes, true));
        world.release_host(address)
    })
}

pub(crate) fn host_device_pointer(call: &Call, to: *mut u64, host: u64) -> Done {
    call.world(|world| {
        world.host_around(host).ok_or(Code::INVALID_VALUE)?;
        put(to, host)
    })
}

/// What a host allocation was made with. All are portable and mapped, as where addresses are
/// unified.
pub(crate) fn host_flags(call: &Call, to: *mut u32, host: u64) -> Done {
    /// `CU_MEMHOSTALLOC_PORTABLE` and `…_DEVICEMAP`.
    const ALWAYS: u32 = 3;
    call.world(|world| {
        let flags = world.host_around(host).ok_or(Code::INVALID_VALUE)?.1.flags;
        put(to, flags | ALWAYS)
    })
}

pub(crate) fn register(call: &Call, address: u64, bytes: usize, flags: u32) -> Done {
    call.world(|world| {
        // CU_MEMHOSTREGISTER_…: portable, mapped, I/O memory, read-only.
        if flags > 0xf {
            return Err(Code::INVALID_VALUE);
        }
        world.register_host(address, bytes as u64, flags)
    })
}

pub(crate) fn unregister(call: &Call, address: u64) -> Done {
    call.world(|world| world.unregister_host(address))
}

pub(crate) fn create_array(call: &Call, to: *mut u64, from: *const ArrayDescriptor) -> Done {
    call.world(|world| {
        let descriptor = get(from)?;
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let array = world.create_array(&descriptor)?;
        put(to, array)
    })
}

pub(crate) fn create_flat_array(
    call: &Call,
    to: *mut u64,
    from: *const FlatArrayDescriptor,
) -> Done {
    let flat = get(from)?;
    let descriptor = ArrayDescriptor {
        width: flat.width,
        height: flat.height,
        depth: 0,
        format: flat.format,
        channels: flat.channels,
        flags: 0,
    };
    create_array(call, to, &raw const descriptor)
}

pub(crate) fn destroy_array(call: &Call, array: u64) -> Done {
    call.world(|world| world.destroy_array(array))
}

pub(crate) fn address_range(call: &Call, base: *mut u64, size: *mut usize, address: u64) -> Done {
    call.world(|world| {
        world.current()?;
        let (at, alloc) = world.alloc_around(address).ok_or(Code::NOT_FOUND)?;
        put_if(base, at);
        put_if(size, alloc.requested as usize);
        Ok(())
    })
}

pub(crate) fn alloc_async(call: &Call, to: *mut u64, bytes: usize, stream: u64) -> Done {
    call.world(|world| {
        let context = world.stream(stream)?.1.context;
        let device = world.context(context)?.device;
        needs_pools(world, device)?;
        let pool = world.devices[device].pool;
        from_pool(world, call, to, bytes, pool, stream)
    })
}

pub(crate) fn alloc_from_pool(
    call: &Call,
    to: *mut u64,
    bytes: usize,
    pool: u64,
    stream: u64,
) -> Done {
    call.world(|world| {
        world.stream(stream)?;
        from_pool(world, call, to, bytes, pool, stream)
    })
}

fn from_pool(
    world: &mut World,
    call: &Call,
    to: *mut u64,
    bytes: usize,
    pool: u64,
    stream: u64,
) -> Done {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let handle = world.stream_handle(stream)?;
    if world.graphs.is_captured(handle) {
        let address = graph::capture_alloc(world, handle, pool, bytes as u64)?;
        return put(to, address);
    }
    let address = world.allocate_from_pool(pool, bytes as u64)?;
    memory_record(world, call, &Operation::allocated(address).on(stream));
    put(to, address)
}

pub(crate) fn free_async(call: &Call, address: u64, stream: u64) -> Done {
    if address == 0 {
        return Ok(());
    }
    call.world(|world| {
        let handle = world.stream_handle(stream)?;
        if world.graphs.is_captured(handle) {
            return graph::capture_free(world, handle, address);
        }
        world.freeable(address)?;
        memory_record(world, call, &Operation::released(address).on(stream));
        world.free(address)
    })
}
