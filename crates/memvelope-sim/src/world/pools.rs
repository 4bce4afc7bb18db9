//! Memory pools: bytes reserved from the device, and bytes used inside them.
//!
//! A pool grows by whole chunks (or by what is needed, where a chunk does not fit) and shrinks at
//! a synchronisation to its release threshold. The model has no fragmentation inside a pool.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::world::memory::Alloc;
use crate::world::{Tag, World};

/// A memory pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) device: usize,
    pub(crate) is_default: bool,
    pub(crate) reserved: u64,
    pub(crate) reserved_high: u64,
    pub(crate) used: u64,
    pub(crate) used_high: u64,
    pub(crate) release_threshold: u64,
    /// 0 is without limit.
    pub(crate) max_bytes: u64,
    /// Destroyed while in use: it goes with its last allocation, as the driver has it.
    doomed: bool,
}

/// Pool allocations are rounded to this.
const POOL_ALIGN: u64 = 512;

impl World {
    pub(crate) fn make_default_pool(&mut self, device: usize) {
        let handle = self.make_pool(device, true, 0);
        self.devices[device].default_pool = handle;
        self.devices[device].pool = handle;
    }

    pub(crate) fn make_pool(&mut self, device: usize, is_default: bool, max_bytes: u64) -> u64 {
        let handle = self.handle(Tag::Pool);
        self.pools.insert(
            handle,
            Pool {
                device,
                is_default,
                reserved: 0,
                reserved_high: 0,
                used: 0,
                used_high: 0,
                release_threshold: 0,
                max_bytes,
                doomed: false,
            },
        );
        handle
    }

    pub(crate) fn pool(&mut self, handle: u64) -> Done<&mut Pool> {
        self.pools.get_mut(&handle).filter(|pool| !pool.doomed).ok_or(Code::INVALID_VALUE)
    }

    pub(crate) fn allocate_from_pool(&mut self, handle: u64, requested: u64) -> Done<u64> {
        let context = self.current()?;
        let pool = *self.pool(handle)?;
        if requested == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let span = requested.checked_add(POOL_ALIGN - 1).ok_or(Code::OUT_OF_MEMORY)?;
        let span = span / POOL_ALIGN * POOL_ALIGN;
        let used = pool.used.checked_add(span).ok_or(Code::OUT_OF_MEMORY)?;
        if pool.max_bytes != 0 && used > pool.max_bytes {
            return Err(Code::OUT_OF_MEMORY);
        }
        if used > pool.reserved {
            self.grow_pool(handle, used - pool.reserved)?;
        }
        let address = self.addresses.take(span, POOL_ALIGN)?;
        let pool = self.pool(handle)?;
        pool.used = used;
        pool.used_high = pool.used_high.max(used);
        let device = pool.device;
        let family = Family::PoolUsed;
        let (align, small, pool) = (POOL_ALIGN, false, handle);
        let alloc = Alloc { device, context, family, requested, span, align, small, pool };
        self.allocs.insert(address, alloc);
        self.count_requested(device, family, requested);
        Ok(address)
    }

    fn grow_pool(&mut self, handle: u64, missing: u64) -> Done {
        let device = self.pool(handle)?.device;
        let record = &self.devices[device];
        let least = record.pages(missing).ok_or(Code::OUT_OF_MEMORY)?;
        let chunk = record.spec.pool_chunk_bytes;
        let bytes = least.div_ceil(chunk).checked_mul(chunk).unwrap_or(least);
        let bytes = match self.take_physical(device, bytes) {
            Ok(()) => bytes,
            Err(_) => self.take_physical(device, least).map(|()| least)?,
        };
        let pool = self.pool(handle)?;
        pool.reserved += bytes;
        pool.reserved_high = pool.reserved_high.max(pool.reserved);
        self.books.pool_reserved(device, bytes.cast_signed());
        Ok(())
    }

    pub(crate) fn give_to_pool(&mut self, alloc: &Alloc) {
        let Some(pool) = self.pools.get_mut(&alloc.pool) else { return };
        pool.used = pool.used.saturating_sub(alloc.span);
        if pool.doomed && pool.used == 0 {
            self.drop_pool(alloc.pool);
        }
    }

    /// Releases what a pool holds above `keep` and above what is used.
    pub(crate) fn trim_pool(&mut self, handle: u64, keep: u64) -> Done {
        let pool = *self.pool(handle)?;
        let record = &self.devices[pool.device];
        let floor = record.pages(pool.used.max(keep)).unwrap_or(pool.reserved);
        if floor >= pool.reserved {
            return Ok(());
        }
        let bytes = pool.reserved - floor;
        self.pool(handle)?.reserved = floor;
        self.give_physical(pool.device, bytes);
        self.books.pool_reserved(pool.device, -bytes.cast_signed());
        Ok(())
    }

    /// What a synchronisation does to the pools of a device.
    pub(crate) fn trim_pools_of(&mut self, device: usize) {
        let due = |pool: &Pool| {
            pool.device == device && pool.reserved > pool.used.max(pool.release_threshold)
        };
        if !self.pools.values().any(due) {
            return;
        }
        let handles: Vec<u64> =
            self.pools.iter().filter(|(_, pool)| due(pool)).map(|(handle, _)| *handle).collect();
        for handle in handles {
            let keep = self.pools[&handle].release_threshold;
            let _ = self.trim_pool(handle, keep);
        }
    }

    /// Destroys a pool. What was allocated from it stays valid until freed.
    pub(crate) fn destroy_pool(&mut self, handle: u64) -> Done {
        let pool = self.pool(handle)?;
        if pool.is_default {
            return Err(Code::INVALID_VALUE);
        }
        if pool.used > 0 {
            pool.doomed = true;
        } else {
            self.drop_pool(handle);
        }
        for device in &mut self.devices {
            if device.pool == handle {
                device.pool = device.default_pool;
            }
        }
        Ok(())
    }

    fn drop_pool(&mut self, handle: u64) {
        let Some(pool) = self.pools.remove(&handle) else { return };
        self.give_physical(pool.device, pool.reserved);
        self.books.pool_reserved(pool.device, -pool.reserved.cast_signed());
    }
}
