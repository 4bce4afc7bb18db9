//! Calls about address ranges, handles to physical memory, mappings, and multicast objects.

use crate::abi::{Code, Done, MemAllocationProp, MemLocation, MulticastProp};
use crate::driver::device::current_device_index;
use crate::edge::{get, put};
use crate::entry::Call;
use crate::world::World;
use crate::world::vmm::{Backing, POSIX_DESCRIPTOR};

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const DEVICE: i32 = 1;
/// `CU_MEM_LOCATION_TYPE_HOST`, `…_HOST_NUMA` and `…_HOST_NUMA_CURRENT`.
const HOST: std::ops::RangeInclusive<i32> = 2..=4;

/// The device that a location names.
pub(crate) fn location_device(world: &World, location: MemLocation) -> Done<usize> {
    if location.kind != DEVICE {
        return Err(Code::INVALID_VALUE);
    }
    world.device_index(location.id)
}

/// Where memory at a location is. That of hosts is entered under the current device, if any.
pub(crate) fn backing_at(world: &mut World, location: MemLocation) -> Done<Backing> {
    if HOST.contains(&location.kind) {
        return Ok(Backing::Host(current_device_index(world).unwrap_or(0)));
    }
    location_device(world, location).map(Backing::Device)
}

pub(crate) fn granularity(call: &Call, to: *mut usize, props: *const MemAllocationProp) -> Done {
    call.world(|world| {
        let backing = backing_at(world, get(props)?.location)?;
        put(to, world.devices[backing.device()].spec.page_bytes as usize)
    })
}

pub(crate) fn reserve(call: &Call, to: *mut u64, bytes: usize, align: usize) -> Done {
    call.world(|world| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let address = world.vmm_reserve(bytes as u64, align as u64)?;
        put(to, address)
    })
}

pub(crate) fn unreserve(call: &Call, address: u64, bytes: usize) -> Done {
    call.world(|world| world.vmm_unreserve(address, bytes as u64))
}

pub(crate) fn create(
    call: &Call,
    to: *mut u64,
    bytes: usize,
    props: *const MemAllocationProp,
) -> Done {
    call.world(|world| {
        let props = get(props)?;
        // CU_MEM_ALLOCATION_TYPE_PINNED is the only one for cuMemCreate.
        if to.is_null() || props.kind != 1 || props.handle_types & !POSIX_DESCRIPTOR != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let backing = backing_at(world, props.location)?;
        let handle = world.vmm_create(backing, bytes as u64, props)?;
        put(to, handle)
    })
}

pub(crate) fn release(call: &Call, handle: u64) -> Done {
    call.world(|world| world.vmm_release(handle))
}

pub(crate) fn retain(call: &Call, to: *mut u64, address: u64) -> Done {
    call.world(|world| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let handle = world.vmm_retain(address)?;
        put(to, handle)
    })
}

pub(crate) fn map(call: &Call, address: u64, bytes: usize, offset: usize, handle: u64) -> Done {
    call.world(|world| world.vmm_map(address, bytes as u64, offset as u64, handle))
}

pub(crate) fn unmap(call: &Call, address: u64, bytes: usize) -> Done {
    call.world(|world| world.vmm_unmap(address, bytes as u64))
}

/// `count` `CUmemAccessDesc`s: a location each, and flags: 0 none, 1 read, 3 read and write.
pub(super) fn access_list(
    world: &mut World,
    from: *const [i32; 3],
    count: usize,
) -> Done<Vec<(MemLocation, i32)>> {
    let entry = |index: usize| {
        let [kind, id, flags] = get(from.wrapping_add(index))?;
        let location = MemLocation { kind, id };
        backing_at(world, location)?;
        if matches!(flags, 0 | 1 | 3) { Ok((location, flags)) } else { Err(Code::INVALID_VALUE) }
    };
    if count == 0 {
        return Err(Code::INVALID_VALUE);
    }
    (0..count).map(entry).collect()
}

pub(crate) fn set_access(
    call: &Call,
    address: u64,
    bytes: usize,
    from: *const [i32; 3],
    count: usize,
) -> Done {
    call.world(|world| {
        let access = access_list(world, from, count)?;
        world.vmm_set_access(address, bytes as u64, &access)
    })
}

pub(crate) fn get_access(
    call: &Call,
    to: *mut u64,
    location: *const MemLocation,
    address: u64,
) -> Done {
    call.world(|world| {
        let mapping = world.vmm.mapping_around(address).ok_or(Code::INVALID_VALUE)?.1;
        let flags = mapping.access_of(get(location)?);
        put(to, u64::from(flags.cast_unsigned()))
    })
}

pub(crate) fn properties(call: &Call, to: *mut MemAllocationProp, handle: u64) -> Done {
    call.world(|world| {
        let props = world.vmm_properties(handle)?;
        put(to, props)
    })
}

pub(crate) fn export(call: &Call, to: *mut i32, handle: u64, kind: i32, flags: u64) -> Done {
    call.world(|world| {
        if to.is_null() || flags != 0 || kind != POSIX_DESCRIPTOR {
            return Err(Code::INVALID_VALUE);
        }
        let fd = world.vmm_export(handle)?;
        put(to, fd)
    })
}

/// The descriptor is passed as if it were a pointer.
pub(crate) fn import(call: &Call, to: *mut u64, from: u64, kind: i32) -> Done {
    call.world(|world| {
        if to.is_null() || kind != POSIX_DESCRIPTOR {
            return Err(Code::INVALID_VALUE);
        }
        let fd = i32::try_from(from).map_err(|_| Code::INVALID_VALUE)?;
        let handle = world.vmm_import(fd)?;
        put(to, handle)
    })
}

pub(crate) fn multicast_create(call: &Call, to: *mut u64, props: *const MulticastProp) -> Done {
    call.world(|world| {
        let props = get(props)?;
        let handle_types = i32::try_from(props.handle_types).map_err(|_| Code::INVALID_VALUE)?;
        if to.is_null() || props.flags != 0 || handle_types & !POSIX_DESCRIPTOR != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = world.multicast_create(props.devices, props.bytes as u64, handle_types)?;
        put(to, handle)
    })
}

pub(crate) fn multicast_add(call: &Call, multicast: u64, device: i32) -> Done {
    call.world(|world| {
        let device = world.device_index(device)?;
        world.multicast_add(multicast, device)
    })
}

/// What is bound: a handle or an address, at an offset into it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    Handle(u64, usize),
    Address(u64),
}

pub(crate) fn multicast_bind(
    call: &Call,
    (multicast, offset): (u64, usize),
    device: Option<i32>,
    what: Bound,
    bytes: usize,
    flags: u64,
) -> Done {
    call.world(|world| {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let device = device.map(|device| world.device_index(device)).transpose()?;
        let (offset, bytes) = (offset as u64, bytes as u64);
        match what {
            Bound::Handle(memory, at) => {
                world.multicast_bind(multicast, device, offset, (memory, at as u64), bytes)
            }
            Bound::Address(at) => {
                world.multicast_bind_address(multicast, device, offset, at, bytes)
            }
        }
    })
}

pub(crate) fn multicast_unbind(
    call: &Call,
    multicast: u64,
    device: i32,
    offset: usize,
    bytes: usize,
) -> Done {
    call.world(|world| {
        let device = world.device_index(device)?;
        world.multicast_unbind(multicast, device, offset as u64, bytes as u64)
    })
}

pub(crate) fn multicast_granularity(
    call: &Call,
    to: *mut usize,
    props: *const MulticastProp,
) -> Done {
    call.world(|world| {
        get(props)?;
        put(to, world.devices[0].spec.page_bytes as usize)
    })
}
