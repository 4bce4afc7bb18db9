//! Memory pools: bytes reserved from a device or a host, and bytes used inside them.
//!
//! A pool grows by whole chunks (or by what is needed, where a chunk does not fit or would pass
//! its limit) and shrinks at a synchronisation to its release threshold. The model has no
//! fragmentation inside a pool.

use crate::abi::{Code, Done, MemLocation, MemPoolProps};
use crate::books::Family;
use crate::share::{self, Kind};
use crate::world::imports::Origin;
use crate::world::memory::Alloc;
use crate::world::vmm::POSIX_DESCRIPTOR;
use crate::world::{Tag, World};
use std::os::fd::RawFd;

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
pub(crate) const ON_DEVICE: i32 = 1;
/// `CU_MEM_ALLOCATION_TYPE_PINNED` and `…_MANAGED`.
pub(crate) const PINNED: i32 = 1;
pub(crate) const MANAGED: i32 = 2;

/// Where a pool's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolPlace {
    Device,
    /// Pinned host memory.
    Host,
    /// Managed memory, which lives in host pages here.
    Managed,
    /// Another process's pool, of which single allocations can be imported.
    Imported {
        process: u32,
        object: u64,
    },
}

impl PoolPlace {
    /// The family of what is used inside it.
    fn family(self) -> Family {
        match self {
            Self::Device => Family::PoolUsed,
            Self::Host => Family::PoolHost,
            Self::Managed => Family::PoolManaged,
            Self::Imported { .. } => Family::ImportedAddress,
        }
    }
}

/// A memory pool.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// Its device; of pools on a host, the one that was current.
    pub(crate) device: usize,
    pub(crate) place: PoolPlace,
    pub(crate) location: MemLocation,
    handle_types: i32,
    pub(crate) is_default: bool,
    pub(crate) reserved: u64,
    pub(crate) reserved_high: u64,
    pub(crate) used: u64,
    pub(crate) used_high: u64,
    pub(crate) release_threshold: u64,
    /// What it may reserve; 0 is without limit.
    max_bytes: u64,
    /// `CUmemAccess_flags` by location, as `cuMemPoolSetAccess` gave them.
    access: Vec<(MemLocation, i32)>,
    /// Destroyed while in use: it goes with its last allocation, as the driver has it.
    doomed: bool,
}

impl Pool {
    /// Whether other processes can import it.
    pub(crate) fn is_shareable(&self) -> bool {
        let is_own = !matches!(self.place, PoolPlace::Imported { .. });
        is_own && self.handle_types & POSIX_DESCRIPTOR != 0
    }
}

/// Pool allocations are rounded to this.
const POOL_ALIGN: u64 = 512;

impl World {
    pub(crate) fn make_default_pool(&mut self, device: usize) {
        let location = MemLocation { kind: ON_DEVICE, id: i32::try_from(device).unwrap_or(0) };
        let handle = self.make_pool(device, PoolPlace::Device, location);
        self.mark_default(handle);
        self.devices[device].default_pool = handle;
        self.devices[device].pool = handle;
    }

    fn mark_default(&mut self, handle: u64) {
        if let Some(pool) = self.pools.get_mut(&handle) {
            pool.is_default = true;
        }
    }

    fn make_pool(&mut self, device: usize, place: PoolPlace, location: MemLocation) -> u64 {
        let handle = self.handle(Tag::Pool);
        self.pools.insert(
            handle,
            Pool {
                device,
                place,
                location,
                handle_types: 0,
                is_default: false,
                reserved: 0,
                reserved_high: 0,
                used: 0,
                used_high: 0,
                release_threshold: 0,
                max_bytes: 0,
                access: Vec::new(),
                doomed: false,
            },
        );
        handle
    }

    /// A pool of the program's own.
    pub(crate) fn create_pool(
        &mut self,
        device: usize,
        place: PoolPlace,
        props: &MemPoolProps,
    ) -> Done<u64> {
        let max_bytes = props.max_bytes as u64;
        let max_bytes = self.devices[device].pages(max_bytes).ok_or(Code::INVALID_VALUE)?;
        let handle = self.make_pool(device, place, props.location);
        let pool = self.pool(handle)?;
        (pool.max_bytes, pool.handle_types) = (max_bytes, props.handle_types);
        Ok(handle)
    }

    /// The pools of a location other than a device's pinned memory: the default one, made when it
    /// is first asked for, and the current one.
    pub(crate) fn pools_at(
        &mut self,
        location: MemLocation,
        kind: i32,
        (device, place): (usize, PoolPlace),
    ) -> (u64, u64) {
        let key = (location.kind, location.id, kind);
        if let Some(pools) = self.located_pools.get(&key) {
            return *pools;
        }
        let handle = self.make_pool(device, place, location);
        self.mark_default(handle);
        self.located_pools.insert(key, (handle, handle));
        (handle, handle)
    }

    /// Makes a pool the current one of its location.
    pub(crate) fn set_located_pool(&mut self, location: MemLocation, kind: i32, pool: u64) {
        if let Some(pools) = self.located_pools.get_mut(&(location.kind, location.id, kind)) {
            pools.1 = pool;
        }
    }

    pub(crate) fn pool(&mut self, handle: u64) -> Done<&mut Pool> {
        self.pools.get_mut(&handle).filter(|pool| !pool.doomed).ok_or(Code::INVALID_VALUE)
    }

    pub(crate) fn allocate_from_pool(&mut self, handle: u64, requested: u64) -> Done<u64> {
        let context = self.current()?;
        let pool = self.pool(handle)?;
        let (place, device, was_used, reserved) =
            (pool.place, pool.device, pool.used, pool.reserved);
        if requested == 0 || matches!(place, PoolPlace::Imported { .. }) {
            return Err(Code::INVALID_VALUE);
        }
        let span = requested.checked_add(POOL_ALIGN - 1).ok_or(Code::OUT_OF_MEMORY)?;
        let span = span / POOL_ALIGN * POOL_ALIGN;
        let used = was_used.checked_add(span).ok_or(Code::OUT_OF_MEMORY)?;
        if used > reserved {
            self.grow_pool(handle, used - reserved)?;
        }
        let address = match place {
            PoolPlace::Host | PoolPlace::Managed => crate::pinned::map(span)?,
            _ => self.addresses.take(span, POOL_ALIGN)?,
        };
        let pool = self.pool(handle)?;
        pool.used = used;
        pool.used_high = pool.used_high.max(used);
        let (family, id) = (place.family(), self.buffer_id());
        let (align, small, pool) = (POOL_ALIGN, false, handle);
        let alloc = Alloc { id, device, context, family, requested, span, align, small, pool };
        self.allocs.insert(address, alloc);
        if place == PoolPlace::Device {
            self.count_requested(device, family, requested);
        } else {
            self.books.allocated(device, family, requested);
        }
        Ok(address)
    }

    fn grow_pool(&mut self, handle: u64, missing: u64) -> Done {
        let pool = self.pool(handle)?;
        let (device, place) = (pool.device, pool.place);
        let room = match pool.max_bytes {
            0 => u64::MAX,
            limit => limit.saturating_sub(pool.reserved),
        };
        let record = &self.devices[device];
        let least = record.pages(missing).ok_or(Code::OUT_OF_MEMORY)?;
        if least > room {
            return Err(Code::OUT_OF_MEMORY);
        }
        let chunk = record.spec.pool_chunk_bytes;
        let bytes = least.div_ceil(chunk).checked_mul(chunk).unwrap_or(least).min(room);
        let bytes = if place != PoolPlace::Device || self.take_physical(device, bytes).is_ok() {
            bytes
        } else {
            self.take_physical(device, least).map(|()| least)?
        };
        let pool = self.pool(handle)?;
        pool.reserved += bytes;
        pool.reserved_high = pool.reserved_high.max(pool.reserved);
        self.books.pool_reserved(device, place == PoolPlace::Device, bytes.cast_signed());
        Ok(())
    }

    /// Gives back what a pool reserved.
    fn shrink_pool(&mut self, device: usize, place: PoolPlace, bytes: u64) {
        if place == PoolPlace::Device {
            self.give_physical(device, bytes);
        }
        self.books.pool_reserved(device, place == PoolPlace::Device, -bytes.cast_signed());
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
        let pool = self.pool(handle)?;
        let (device, place, reserved) = (pool.device, pool.place, pool.reserved);
        let least = pool.used.max(keep);
        let floor = self.devices[device].pages(least).unwrap_or(reserved);
        if floor >= reserved {
            return Ok(());
        }
        self.pool(handle)?.reserved = floor;
        self.shrink_pool(device, place, reserved - floor);
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
        for (default, current) in self.located_pools.values_mut() {
            if *current == handle {
                *current = *default;
            }
        }
        Ok(())
    }

    /// Destroys what the program made on a device.
    pub(crate) fn destroy_pools_on(&mut self, device: usize) {
        let is_own = |pool: &Pool| {
            pool.device == device
                && !pool.is_default
                && !pool.doomed
                && pool.place == PoolPlace::Device
        };
        let own: Vec<u64> =
            self.pools.iter().filter(|(_, pool)| is_own(pool)).map(|(handle, _)| *handle).collect();
        for handle in own {
            let _ = self.destroy_pool(handle);
        }
    }

    fn drop_pool(&mut self, handle: u64) {
        let Some(pool) = self.pools.remove(&handle) else { return };
        self.shrink_pool(pool.device, pool.place, pool.reserved);
    }

    /// Says who else may use a pool. Its own device always may.
    pub(crate) fn set_pool_access(&mut self, handle: u64, access: &[(MemLocation, i32)]) -> Done {
        let pool = self.pool(handle)?;
        let own = pool.location;
        if access.iter().any(|(location, flags)| *location == own && *flags != 3) {
            return Err(Code::INVALID_DEVICE);
        }
        for (location, flags) in access {
            pool.access.retain(|(known, _)| known != location);
            pool.access.push((*location, *flags));
        }
        Ok(())
    }

    /// `CUmemAccess_flags` of a location.
    pub(crate) fn pool_access(&mut self, handle: u64, location: MemLocation) -> Done<i32> {
        let pool = self.pool(handle)?;
        if location == pool.location {
            return Ok(3);
        }
        let found = pool.access.iter().find(|(known, _)| *known == location);
        Ok(found.map_or(0, |(_, flags)| *flags))
    }

    /// Exports a pool. The descriptor says what it is, and keeps nothing.
    pub(crate) fn export_pool(&mut self, handle: u64) -> Done<RawFd> {
        let pool = self.pool(handle)?;
        if !pool.is_shareable() {
            return Err(Code::INVALID_VALUE);
        }
        let device = pool.device;
        self.share(Kind::Pool, handle, device, 0)
    }

    pub(crate) fn import_pool(&mut self, fd: RawFd) -> Done<u64> {
        let ticket = share::ticket(fd)?;
        if ticket.kind != Kind::Pool {
            return Err(Code::INVALID_VALUE);
        }
        let device = self.device_by_uuid(&ticket.uuid);
        let location = MemLocation { kind: ON_DEVICE, id: i32::try_from(device).unwrap_or(0) };
        let (process, object) = (ticket.process, ticket.object);
        Ok(self.make_pool(device, PoolPlace::Imported { process, object }, location))
    }

    /// What another process needs to import an allocation of an exportable pool.
    pub(crate) fn export_pointer(&mut self, address: u64) -> Done<Origin> {
        let alloc = *self.allocs.get(&address).ok_or(Code::INVALID_VALUE)?;
        let pool = self.pools.get(&alloc.pool).ok_or(Code::INVALID_VALUE)?;
        if !pool.is_shareable() {
            return Err(Code::INVALID_VALUE);
        }
        Ok(self.origin_of(&alloc, alloc.pool))
    }

    pub(crate) fn import_pointer(&mut self, handle: u64, origin: &Origin) -> Done<u64> {
        let pool = self.pool(handle)?;
        let expected = PoolPlace::Imported { process: origin.process, object: origin.pool };
        if pool.place != expected {
            return Err(Code::INVALID_VALUE);
        }
        self.import_address(origin, handle)
    }
}
