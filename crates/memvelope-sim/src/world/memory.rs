//! Device and host memory: who holds which bytes.
//!
//! Physical bytes are handed out in pages. Allocations up to `small_bytes` share pages, as the
//! driver's own sub-allocator does; the model is without fragmentation: `n` small bytes take
//! `ceil(n / page)` pages.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::scenario;
use crate::world::World;
use crate::world::graph_memory::GraphStore;
use crate::world::vmm::Backing;
use std::collections::HashMap;

/// Small allocations are rounded to this, the alignment `cuMemAlloc` is known for.
const SMALL_ALIGN: u64 = 512;

/// One GPU.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) spec: scenario::Device,
    pub(crate) uuid_text: String,
    pub(crate) uuid: [u8; 16],
    /// The same of the GPU that it is a MIG slice of, or its own.
    pub(crate) whole_uuid: [u8; 16],
    /// Bytes of contexts and their modules.
    pub(crate) context_bytes: u64,
    /// Bytes of CUPTI's own buffers.
    pub(crate) cupti_bytes: u64,
    /// Physical bytes of allocations, whole pages.
    pub(crate) physical: u64,
    pub(crate) physical_peak: u64,
    /// Bytes that were asked for.
    pub(crate) requested: u64,
    pub(crate) requested_peak: u64,
    /// Bytes of small allocations, and the pages they take together.
    small: u64,
    small_pages: u64,
    pub(crate) primary: u64,
    pub(crate) primary_count: u32,
    pub(crate) primary_flags: u32,
    pub(crate) default_pool: u64,
    pub(crate) pool: u64,
    /// What graphs allocate when they run.
    pub(crate) graph_store: GraphStore,
    /// When the GPU's last work ends, and how long it was busy until then.
    pub(crate) busy_until: u64,
    pub(crate) busy_ns: u64,
    /// Virtual time and busy time at the last question for utilisation, and the answer.
    pub(crate) utilization: (u64, u64, u32),
}

impl Device {
    pub(crate) fn new(ordinal: usize, spec: &scenario::Device) -> Self {
        let (uuid_text, uuid) = spec.uuid(ordinal);
        Self {
            spec: spec.clone(),
            uuid_text,
            uuid,
            whole_uuid: spec.whole_uuid(ordinal),
            context_bytes: 0,
            cupti_bytes: 0,
            physical: 0,
            physical_peak: 0,
            requested: 0,
            requested_peak: 0,
            small: 0,
            small_pages: 0,
            primary: 0,
            primary_count: 0,
            primary_flags: 0,
            default_pool: 0,
            pool: 0,
            graph_store: GraphStore::default(),
            busy_until: 0,
            busy_ns: 0,
            utilization: (0, 0, 0),
        }
    }

    /// What this process holds.
    pub(crate) fn own(&self) -> u64 {
        self.physical + self.context_bytes + self.cupti_bytes
    }

    /// What the driver says there is; NVML counts what is reserved as well.
    pub(crate) fn total(&self) -> u64 {
        self.spec.total_bytes - self.spec.reserved_bytes
    }

    /// What the driver keeps `elapsed` nanoseconds after the start, attributed to nobody.
    pub(crate) fn hidden(&self, elapsed: u64) -> u64 {
        let room = self.total().saturating_sub(self.own());
        at(elapsed, self.spec.hidden_bytes, &self.spec.hidden_steps).min(room)
    }

    /// What the co-tenants hold `elapsed` nanoseconds after the start.
    pub(crate) fn co_tenant_bytes(&self, elapsed: u64) -> impl Iterator<Item = (u32, u64)> {
        let own = self.own() + self.hidden(elapsed);
        let mut room = self.total().saturating_sub(own);
        self.spec.co_tenants.iter().map(move |tenant| {
            let bytes = at(elapsed, tenant.bytes, &tenant.steps).min(room);
            room -= bytes;
            (tenant.pid, bytes)
        })
    }

    /// What `cuMemGetInfo` calls free.
    pub(crate) fn free(&self, elapsed: u64) -> u64 {
        let tenants: u64 = self.co_tenant_bytes(elapsed).map(|(_, bytes)| bytes).sum();
        let used = self.own() + self.hidden(elapsed) + tenants;
        self.total().saturating_sub(used)
    }

    pub(crate) fn pages(&self, bytes: u64) -> Option<u64> {
        let page = self.spec.page_bytes;
        bytes.checked_add(page - 1).map(|bytes| bytes / page * page)
    }
}

/// What is held `elapsed` nanoseconds after the start.
fn at(elapsed: u64, first: u64, steps: &[scenario::Step]) -> u64 {
    let step = steps.iter().rev().find(|step| step.after_ns <= elapsed);
    step.map_or(first, |step| step.bytes)
}

/// A live allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alloc {
    /// See [`World::buffer_id`].
    pub(crate) id: u64,
    pub(crate) device: usize,
    pub(crate) context: u64,
    pub(crate) family: Family,
    pub(crate) requested: u64,
    /// Size of its address range, as [`Addresses`] keeps it.
    pub(crate) span: u64,
    pub(crate) align: u64,
    /// Whether it shares its pages.
    pub(crate) small: bool,
    /// The pool it came from; 0 for none.
    pub(crate) pool: u64,
}

impl Alloc {
    /// Whether it lives in host pages that the program may touch.
    pub(crate) fn is_on_host(&self) -> bool {
        matches!(self.family, Family::Managed | Family::PoolHost | Family::PoolManaged)
    }
}

/// A live host allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// See [`World::buffer_id`].
    pub(crate) id: u64,
    /// As the call that made it had them.
    pub(crate) flags: u32,
    pub(crate) context: u64,
    pub(crate) device: usize,
    pub(crate) family: Family,
    pub(crate) requested: u64,
}

/// The device and the context (by CUPTI's id) that memory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) device: usize,
    pub(crate) context_uid: u32,
}

/// Device addresses. A freed range is given out again at once, as real drivers do: whoever keeps
/// a book by address has to cope with it.
#[derive(Debug)]
pub(crate) struct Addresses {
    next: u64,
    /// Free ranges by size and alignment.
    free: HashMap<(u64, u64), Vec<u64>>,
}

/// Device addresses begin here and end below what user space may map.
const ADDRESS_FIRST: u64 = 0x0000_0100_0000_0000;
const ADDRESS_END: u64 = 1 << 47;

impl Default for Addresses {
    fn default() -> Self {
        // Below anything a Linux process has mapped, so that a device pointer taken for a host
        // pointer faults at once.
        Self { next: ADDRESS_FIRST, free: HashMap::new() }
    }
}

impl Addresses {
    /// A range of `span` bytes at a multiple of `align`.
    pub(crate) fn take(&mut self, span: u64, align: u64) -> Done<u64> {
        if let Some(address) = self.free.get_mut(&(span, align)).and_then(Vec::pop) {
            return Ok(address);
        }
        let address = self.next.checked_next_multiple_of(align).ok_or(Code::OUT_OF_MEMORY)?;
        let next = address.checked_add(span).filter(|next| *next <= ADDRESS_END);
        self.next = next.ok_or(Code::OUT_OF_MEMORY)?;
        Ok(address)
    }

    /// Gives back what [`Self::take`] gave for the same size and alignment.
    pub(crate) fn give(&mut self, address: u64, span: u64, align: u64) {
        self.free.entry((span, align)).or_default().push(address);
    }
}

impl World {
    pub(crate) fn elapsed(&self) -> u64 {
        self.now.saturating_sub(self.scenario.start_ns)
    }

    pub(crate) fn free_bytes(&self, device: usize) -> u64 {
        self.devices[device].free(self.elapsed())
    }

    pub(crate) fn take_context_bytes(&mut self, device: usize, bytes: u64) -> Done {
        if bytes > self.free_bytes(device) {
            return Err(Code::OUT_OF_MEMORY);
        }
        self.devices[device].context_bytes += bytes;
        Ok(())
    }

    pub(crate) fn give_context_bytes(&mut self, device: usize, bytes: u64) {
        let device = &mut self.devices[device];
        device.context_bytes = device.context_bytes.saturating_sub(bytes);
    }

    /// Takes whole pages of physical memory.
    pub(crate) fn take_physical(&mut self, device: usize, bytes: u64) -> Done {
        if bytes > self.free_bytes(device) {
            return Err(Code::OUT_OF_MEMORY);
        }
        let device = &mut self.devices[device];
        device.physical += bytes;
        device.physical_peak = device.physical_peak.max(device.physical);
        Ok(())
    }

    pub(crate) fn give_physical(&mut self, device: usize, bytes: u64) {
        let device = &mut self.devices[device];
        device.physical = device.physical.saturating_sub(bytes);
    }

    /// Counts requested bytes of device memory.
    pub(crate) fn count_requested(&mut self, device: usize, family: Family, bytes: u64) {
        let record = &mut self.devices[device];
        record.requested += bytes;
        record.requested_peak = record.requested_peak.max(record.requested);
        self.books.allocated(device, family, bytes);
    }

    pub(crate) fn uncount_requested(&mut self, device: usize, family: Family, bytes: u64) {
        let record = &mut self.devices[device];
        record.requested = record.requested.saturating_sub(bytes);
        self.books.freed(device, family, bytes);
    }

    fn small_changed(&mut self, device: usize, small: u64) -> Done {
        let record = &self.devices[device];
        let pages = record.pages(small).ok_or(Code::OUT_OF_MEMORY)?;
        let before = record.small_pages;
        if pages > before {
            self.take_physical(device, pages - before)?;
        } else {
            self.give_physical(device, before - pages);
        }
        let record = &mut self.devices[device];
        (record.small, record.small_pages) = (small, pages);
        Ok(())
    }

    /// Allocates device memory outside pools.
    pub(crate) fn allocate(&mut self, family: Family, requested: u64) -> Done<u64> {
        let context = self.current()?;
        let device = self.context(context)?.device;
        if requested == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let record = &self.devices[device];
        let small = requested <= record.spec.small_bytes;
        let span = if small {
            requested.div_ceil(SMALL_ALIGN) * SMALL_ALIGN
        } else {
            record.pages(requested).ok_or(Code::OUT_OF_MEMORY)?
        };
        let align = if small { SMALL_ALIGN } else { record.spec.page_bytes };
        let address = self.addresses.take(span, align)?;
        let taken = if small {
            self.small_changed(device, self.devices[device].small + span)
        } else {
            self.take_physical(device, span)
        };
        if let Err(code) = taken {
            self.addresses.give(address, span, align);
            return Err(code);
        }
        let (id, pool) = (self.buffer_id(), 0);
        let alloc = Alloc { id, device, context, family, requested, span, align, small, pool };
        self.allocs.insert(address, alloc);
        self.count_requested(device, family, requested);
        Ok(address)
    }

    /// Frees what starts at `address`, of whatever family, as a program does. What is imported goes
    /// with its last opening.
    pub(crate) fn free(&mut self, address: u64) -> Done {
        let is_import = self.freeable(address)?.family == Family::ImportedAddress;
        if is_import && !self.close_import(address)? {
            return Ok(());
        }
        self.release(address)
    }

    /// What a free call may free. Legacy IPC has a call of its own, and what a graph allocates and
    /// frees is that graph's.
    pub(crate) fn freeable(&self, address: u64) -> Done<Alloc> {
        let alloc = self.allocs.get(&address).ok_or(Code::INVALID_VALUE)?;
        let is_ipc = alloc.family == Family::ImportedAddress && alloc.pool == 0;
        if is_ipc || self.is_freed_in_its_graph(address) {
            return Err(Code::INVALID_VALUE);
        }
        Ok(*alloc)
    }

    /// Takes an allocation out of every account.
    pub(crate) fn release(&mut self, address: u64) -> Done {
        let alloc = self.allocs.remove(&address).ok_or(Code::INVALID_VALUE)?;
        self.contents.forget(address);
        let (device, bytes) = (alloc.device, alloc.requested);
        match alloc.family {
            Family::Managed => crate::pinned::unmap(address, bytes),
            Family::PoolHost | Family::PoolManaged => {
                self.give_to_pool(&alloc);
                crate::pinned::unmap(address, alloc.span);
            }
            Family::ImportedAddress => {
                self.imports.remove(&address);
                self.addresses.give(address, alloc.span, alloc.align);
            }
            Family::GraphUsed => {
                self.give_graph_memory(address, &alloc);
                self.uncount_requested(device, alloc.family, bytes);
                return Ok(());
            }
            family => {
                if alloc.pool != 0 {
                    self.give_to_pool(&alloc);
                } else if alloc.small {
                    // Giving back never fails.
                    let small = self.devices[device].small.saturating_sub(alloc.span);
                    let _ = self.small_changed(device, small);
                } else {
                    self.give_physical(device, alloc.span);
                }
                self.addresses.give(address, alloc.span, alloc.align);
                self.uncount_requested(device, family, bytes);
                return Ok(());
            }
        }
        self.books.freed(device, alloc.family, bytes);
        Ok(())
    }

    /// Managed memory lives in host pages: the simulator never migrates it, and it takes no
    /// device bytes.
    pub(crate) fn allocate_managed(&mut self, requested: u64) -> Done<u64> {
        let context = self.current()?;
        let device = self.context(context)?.device;
        let address = crate::pinned::map(requested)?;
        let family = Family::Managed;
        let (id, span, align, small, pool) = (self.buffer_id(), requested, 1, false, 0);
        let alloc = Alloc { id, device, context, family, requested, span, align, small, pool };
        self.allocs.insert(address, alloc);
        self.books.allocated(device, family, requested);
        Ok(address)
    }

    pub(crate) fn allocate_host(&mut self, requested: u64, flags: u32) -> Done<u64> {
        let context = self.current()?;
        let device = self.context(context)?.device;
        let address = crate::pinned::map(requested)?;
        let (id, family) = (self.buffer_id(), Family::PinnedHost);
        self.hosts.insert(address, Host { id, flags, context, device, family, requested });
        self.books.allocated(device, family, requested);
        Ok(address)
    }

    /// Pins host memory of the program's own.
    pub(crate) fn register_host(&mut self, address: u64, requested: u64, flags: u32) -> Done {
        let context = self.current()?;
        let device = self.context(context)?.device;
        let end = address.checked_add(requested).filter(|_| address != 0 && requested != 0);
        let end = end.ok_or(Code::INVALID_VALUE)?;
        let before = self.hosts.range(..end).next_back();
        if before.is_some_and(|(base, host)| base + host.requested > address) {
            return Err(Code::ALREADY_REGISTERED);
        }
        let (id, family) = (self.buffer_id(), Family::Registered);
        self.hosts.insert(address, Host { id, flags, context, device, family, requested });
        self.books.allocated(device, family, requested);
        Ok(())
    }

    pub(crate) fn unregister_host(&mut self, address: u64) -> Done {
        let host = self.hosts.get(&address).filter(|host| host.family == Family::Registered);
        host.ok_or(Code::NOT_REGISTERED)?;
        self.release_host(address)
    }

    /// The host allocation, or registered memory, around `address`.
    pub(crate) fn host_around(&self, address: u64) -> Option<(u64, &Host)> {
        let (base, host) = self.hosts.range(..=address).next_back()?;
        (address - base < host.requested).then_some((*base, host))
    }

    /// Takes a host allocation, or registered memory, out of the account.
    pub(crate) fn release_host(&mut self, address: u64) -> Done {
        let host = self.hosts.remove(&address).ok_or(Code::INVALID_VALUE)?;
        if host.family == Family::PinnedHost {
            crate::pinned::unmap(address, host.requested);
        }
        self.books.freed(host.device, host.family, host.requested);
        Ok(())
    }

    /// Frees everything that belongs to a context, as destroying it does.
    pub(crate) fn free_all_of(&mut self, context: u64) {
        let owned: Vec<u64> =
            self.allocs.iter().filter(|(_, a)| a.context == context).map(|(at, _)| *at).collect();
        for address in owned {
            let _ = self.release(address);
        }
        let owned: Vec<u64> =
            self.hosts.iter().filter(|(_, h)| h.context == context).map(|(at, _)| *at).collect();
        for address in owned {
            let _ = self.release_host(address);
        }
        for pool in self.pools.keys().copied().collect::<Vec<_>>() {
            let _ = self.trim_pool(pool, 0);
        }
    }

    /// The allocation around `address`, with the offset into it.
    pub(crate) fn alloc_around(&self, address: u64) -> Option<(u64, &Alloc)> {
        let (base, alloc) = self.allocs.range(..=address).next_back()?;
        (address - base < alloc.requested).then_some((*base, alloc))
    }

    /// Whose device memory is at `address`. Mappings have no context: theirs is the current one.
    pub(crate) fn place_of(&self, address: u64) -> Option<Place> {
        let (device, context) = match self.alloc_around(address) {
            Some((_, alloc)) if alloc.is_on_host() => return None,
            Some((_, alloc)) => (alloc.device, alloc.context),
            None if self.graph_alloc_around(address).is_some() => {
                (self.graph_alloc_around(address)?.device, crate::thread::current())
            }
            None => {
                let mapping = self.vmm.mapping_around(address)?.1;
                match self.vmm.backing_of(mapping)? {
                    Backing::Host(_) => return None,
                    backing => (backing.device(), crate::thread::current()),
                }
            }
        };
        let context_uid = self.contexts.get(&context).map_or(0, |context| context.uid);
        Some(Place { device, context_uid })
    }

    /// `CUpti_ActivityMemoryKind` of an address: 1 pageable, 2 pinned, 3 device, 5 managed.
    pub(crate) fn memory_kind(&self, address: u64) -> u8 {
        if let Some((_, alloc)) = self.alloc_around(address) {
            return match alloc.family {
                Family::Managed | Family::PoolManaged => 5,
                Family::PoolHost => 2,
                _ => 3,
            };
        }
        if self.graph_alloc_around(address).is_some() {
            return 3;
        }
        if let Some((_, mapping)) = self.vmm.mapping_around(address) {
            return match self.vmm.backing_of(mapping) {
                Some(Backing::Host(_)) => 2,
                _ => 3,
            };
        }
        if self.host_around(address).is_some() { 2 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::MemAllocationProp;
    use crate::scenario::Scenario;

    /// A naive account of who holds what.
    #[derive(Default)]
    struct Naive {
        device: Vec<(u64, u64)>,
        pool: Vec<(u64, u64)>,
        handles: Vec<(u64, u64)>,
    }

    impl Naive {
        fn physical(&self, page: u64, small: u64, reserved: u64) -> u64 {
            let rounded = |bytes: u64, to: u64| bytes.div_ceil(to) * to;
            let sizes = || self.device.iter().map(|(_, bytes)| *bytes);
            let small_sum: u64 = sizes().filter(|b| *b <= small).map(|b| rounded(b, 512)).sum();
            let big: u64 = sizes().filter(|b| *b > small).map(|b| rounded(b, page)).sum();
            let handles: u64 = self.handles.iter().map(|(_, bytes)| *bytes).sum();
            rounded(small_sum, page) + big + handles + reserved
        }
    }

    /// Random allocations and frees against the naive account: bytes agree after every step, and
    /// an allocation fails exactly when it does not fit.
    #[test]
    fn accounts_agree_with_a_naive_model() {
        let text = "[[devices]]\ntotal_bytes = 268435456\ncontext_bytes = 8388608\n\
                    hidden_bytes = 4194304\npool_chunk_bytes = 4194304\n";
        let mut world = World::new(Scenario::from_toml(text).unwrap());
        let context = world.handle(crate::world::Tag::Context);
        world.make_context(context, 0, 0).unwrap();
        crate::thread::set_current(context);
        let pool = world.devices[0].default_pool;
        let (page, small) = (world.devices[0].spec.page_bytes, world.devices[0].spec.small_bytes);
        let (mut naive, mut random, mut ooms) = (Naive::default(), 0x2545_f491_u64, 0);
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let (backing, location) = (Backing::Device(0), crate::abi::MemLocation { kind: 1, id: 0 });
        let props = MemAllocationProp { kind: 1, handle_types: 0, location, win32: 0, flags: 0 };
        for _ in 0..20_000 {
            let bytes = 1 + draw(3) * draw(6 << 20);
            match draw(7) {
                0 | 1 => match world.allocate(Family::Device, bytes) {
                    Ok(address) => naive.device.push((address, bytes)),
                    Err(_) => ooms += 1,
                },
                2 => match world.allocate_from_pool(pool, bytes) {
                    Ok(address) => naive.pool.push((address, bytes)),
                    Err(_) => ooms += 1,
                },
                3 => match world.vmm_create(backing, bytes.div_ceil(page) * page, props) {
                    Ok(handle) => naive.handles.push((handle, bytes.div_ceil(page) * page)),
                    Err(_) => ooms += 1,
                },
                4 if !naive.device.is_empty() => {
                    let at = draw(naive.device.len() as u64) as usize;
                    world.release(naive.device.swap_remove(at).0).unwrap();
                }
                5 if !naive.pool.is_empty() => {
                    let at = draw(naive.pool.len() as u64) as usize;
                    world.release(naive.pool.swap_remove(at).0).unwrap();
                    world.trim_pools_of(0);
                }
                6 if !naive.handles.is_empty() => {
                    let at = draw(naive.handles.len() as u64) as usize;
                    world.vmm_release(naive.handles.swap_remove(at).0).unwrap();
                }
                _ => {}
            }
            let reserved = world.pools[&pool].reserved;
            assert_eq!(world.devices[0].physical, naive.physical(page, small, reserved));
            let fixed = 8_388_608 + 4_194_304;
            assert_eq!(world.free_bytes(0) + world.devices[0].physical + fixed, 268_435_456);
            let used: u64 = naive.pool.iter().map(|(_, bytes)| bytes.div_ceil(512) * 512).sum();
            assert!(world.pools[&pool].used == used && reserved >= used);
        }
        assert!(ooms > 100, "the limit was reached: {ooms}");
        naive.handles.iter().for_each(|(handle, _)| world.vmm_release(*handle).unwrap());
        world.destroy_context(context).unwrap();
        crate::thread::set_current(0);
        assert_eq!((world.devices[0].physical, world.devices[0].requested), (0, 0));
    }
}
