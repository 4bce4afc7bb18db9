//! Calls about memory pools.

use crate::abi::{Code, Done, MemLocation, MemPoolProps};
use crate::driver::device::{current_device_index, needs_pools};
use crate::driver::records::{Operation, PoolOperation, memory_record, pool_record};
use crate::driver::vmm::{access_list, backing_at};
use crate::edge::{self, put};
use crate::entry::Call;
use crate::world::World;
use crate::world::imports::Origin;
use crate::world::pools::{MANAGED, ON_DEVICE, PINNED, PoolPlace};
use crate::world::vmm::POSIX_DESCRIPTOR;

/// Where a pool of these properties is. Managed memory may be preferred anywhere, or nowhere (0).
fn place_of(world: &mut World, location: MemLocation, kind: i32) -> Done<(usize, PoolPlace)> {
    let device = match (kind, location.kind) {
        (MANAGED, 0) => current_device_index(world).unwrap_or(0),
        _ => backing_at(world, location)?.device(),
    };
    needs_pools(world, device)?;
    match (kind, location.kind) {
        (PINNED, ON_DEVICE) => Ok((device, PoolPlace::Device)),
        (PINNED, _) => Ok((device, PoolPlace::Host)),
        (MANAGED, _) => Ok((device, PoolPlace::Managed)),
        _ => Err(Code::INVALID_VALUE),
    }
}

pub(crate) fn create(call: &Call, to: *mut u64, props: *const MemPoolProps) -> Done {
    call.world(|world| {
        let props = edge::get(props)?;
        if to.is_null() || props.handle_types & !POSIX_DESCRIPTOR != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (device, place) = place_of(world, props.location, props.kind)?;
        if place == PoolPlace::Managed && props.handle_types != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        let pool = world.create_pool(device, place, &props)?;
        pool_record(world, call, PoolOperation::Created, pool, 0);
        put(to, pool)
    })
}

/// The default pool of a location, or (`is_current`) the one in use.
pub(crate) fn of_location(
    call: &Call,
    to: *mut u64,
    location: *const MemLocation,
    kind: i32,
    is_current: bool,
) -> Done {
    call.world(|world| {
        let location = edge::get(location)?;
        let (device, place) = place_of(world, location, kind)?;
        let (default, current) = match place {
            PoolPlace::Device => (world.devices[device].default_pool, world.devices[device].pool),
            _ => world.pools_at(location, kind, (device, place)),
        };
        put(to, if is_current { current } else { default })
    })
}

pub(crate) fn set_of_location(
    call: &Call,
    location: *const MemLocation,
    kind: i32,
    pool: u64,
) -> Done {
    call.world(|world| {
        let location = edge::get(location)?;
        let (device, place) = place_of(world, location, kind)?;
        let found = world.pool(pool)?;
        if found.place != place || found.location != location {
            return Err(Code::INVALID_VALUE);
        }
        if place == PoolPlace::Device {
            world.devices[device].pool = pool;
        } else {
            world.pools_at(location, kind, (device, place));
            world.set_located_pool(location, kind, pool);
        }
        Ok(())
    })
}

pub(crate) fn set_access(call: &Call, pool: u64, from: *const [i32; 3], count: usize) -> Done {
    call.world(|world| {
        let access = access_list(world, from, count)?;
        world.set_pool_access(pool, &access)
    })
}

pub(crate) fn get_access(
    call: &Call,
    to: *mut i32,
    pool: u64,
    location: *const MemLocation,
) -> Done {
    call.world(|world| {
        let flags = world.pool_access(pool, edge::get(location)?)?;
        put(to, flags)
    })
}

pub(crate) fn export(call: &Call, to: *mut i32, pool: u64, kind: i32, flags: u64) -> Done {
    call.world(|world| {
        if to.is_null() || flags != 0 || kind != POSIX_DESCRIPTOR {
            return Err(Code::INVALID_VALUE);
        }
        let fd = world.export_pool(pool)?;
        put(to, fd)
    })
}

/// The descriptor is passed as if it were a pointer.
pub(crate) fn import(call: &Call, to: *mut u64, from: u64, kind: i32, flags: u64) -> Done {
    call.world(|world| {
        if to.is_null() || flags != 0 || kind != POSIX_DESCRIPTOR {
            return Err(Code::INVALID_VALUE);
        }
        let fd = i32::try_from(from).map_err(|_| Code::INVALID_VALUE)?;
        let pool = world.import_pool(fd)?;
        put(to, pool)
    })
}

pub(crate) fn export_pointer(call: &Call, to: *mut [u8; 64], address: u64) -> Done {
    call.world(|world| {
        let origin = world.export_pointer(address)?;
        put(to, origin.to_bytes())
    })
}

pub(crate) fn import_pointer(call: &Call, to: *mut u64, pool: u64, from: *const [u8; 64]) -> Done {
    call.world(|world| {
        if to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let origin = Origin::from_bytes(&edge::get(from)?)?;
        let address = world.import_pointer(pool, &origin)?;
        memory_record(world, call, &Operation::allocated(address));
        put(to, address)
    })
}

pub(crate) fn destroy(call: &Call, pool: u64) -> Done {
    call.world(|world| {
        let is_known = world.pool(pool).is_ok_and(|pool| !pool.is_default);
        if is_known {
            pool_record(world, call, PoolOperation::Destroyed, pool, 0);
        }
        world.destroy_pool(pool)
    })
}

pub(crate) fn trim(call: &Call, pool: u64, keep: usize) -> Done {
    call.world(|world| {
        world.trim_pool(pool, keep as u64)?;
        pool_record(world, call, PoolOperation::Trimmed, pool, keep as u64);
        Ok(())
    })
}

/// Reuse policies (1 to 3) are `int`s and always on; the rest are 64-bit byte counts.
pub(crate) fn get(call: &Call, pool: u64, attribute: u32, to: *mut u64) -> Done {
    call.world(|world| {
        let pool = world.pool(pool)?;
        let value = match attribute {
            1..=3 => return put(to.cast::<i32>(), 1),
            4 => pool.release_threshold,
            5 => pool.reserved,
            6 => pool.reserved_high,
            7 => pool.used,
            8 => pool.used_high,
            _ => return Err(Code::INVALID_VALUE),
        };
        put(to, value)
    })
}

pub(crate) fn set(call: &Call, pool: u64, attribute: u32, from: *const u64) -> Done {
    call.world(|world| {
        let pool = world.pool(pool)?;
        match attribute {
            1..=3 => edge::get(from.cast::<i32>()).map(|_| ()),
            4 => {
                pool.release_threshold = edge::get(from)?;
                Ok(())
            }
            // High-water marks can only be reset.
            6 if edge::get(from)? == 0 => {
                pool.reserved_high = pool.reserved;
                Ok(())
            }
            8 if edge::get(from)? == 0 => {
                pool.used_high = pool.used;
                Ok(())
            }
            _ => Err(Code::INVALID_VALUE),
        }
    })
}
