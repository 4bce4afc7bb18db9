//! Calls about memory pools.

use crate::abi::{Code, Done, MemPoolProps};
use crate::driver::device::needs_pools;
use crate::driver::records::{PoolOperation, pool_record};
use crate::driver::vmm::location_device;
use crate::edge::{self, put};
use crate::entry::Call;

pub(crate) fn create(call: &Call, to: *mut u64, props: *const MemPoolProps) -> Done {
    call.world(|world| {
        let props = edge::get(props)?;
        let device = location_device(world, props.location)?;
        needs_pools(world, device)?;
        let pool = world.make_pool(device, false, props.max_bytes as u64);
        pool_record(world, call, PoolOperation::Created, pool, 0);
        put(to, pool)
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
        let pool = *world.pool(pool)?;
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
