//! Virtual memory management: address ranges, physical handles, and mappings of one into the
//! other. Physical bytes are given back when a handle is released and its last mapping is gone.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::world::{Tag, World};
use std::collections::{BTreeMap, HashMap};

/// The three tables.
#[derive(Debug, Default)]
pub(crate) struct Vmm {
    /// Size and alignment by address.
    reservations: BTreeMap<u64, (u64, u64)>,
    mappings: BTreeMap<u64, Mapping>,
    handles: HashMap<u64, Physical>,
}

/// Physical memory behind a handle.
#[derive(Clone, Copy, Debug)]
struct Physical {
    device: usize,
    bytes: u64,
    references: u32,
    mappings: u32,
}

/// A view of a handle at an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    bytes: u64,
    pub(crate) handle: u64,
    /// Whether `cuMemSetAccess` made it readable.
    pub(crate) accessible: bool,
}

impl Vmm {
    /// The mapping around `address`: its base, and the mapping.
    pub(crate) fn mapping_around(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (base, mapping) = self.mappings.range(..=address).next_back()?;
        (address - base < mapping.bytes).then_some((*base, mapping))
    }

    /// The device of a handle's physical memory.
    pub(crate) fn device_of(&self, handle: u64) -> Option<usize> {
        self.handles.get(&handle).map(|physical| physical.device)
    }

    pub(crate) fn bytes_of(&self, mapping: &Mapping) -> u64 {
        mapping.bytes
    }

    /// Mappings that begin inside `[start, start + bytes)` and tile it without a gap.
    fn tiles(&self, start: u64, bytes: u64) -> Done<Vec<u64>> {
        let end = start.checked_add(bytes).ok_or(Code::INVALID_VALUE)?;
        let mut at = start;
        let mut bases = Vec::new();
        while at < end {
            let mapping = self.mappings.get(&at).ok_or(Code::INVALID_VALUE)?;
            bases.push(at);
            at += mapping.bytes;
        }
        if at == end && !bases.is_empty() { Ok(bases) } else { Err(Code::INVALID_VALUE) }
    }

    fn overlaps(&self, start: u64, bytes: u64) -> bool {
        let last = self.mappings.range(..start.saturating_add(bytes)).next_back();
        last.is_some_and(|(base, mapping)| base + mapping.bytes > start)
    }
}

impl World {
    fn granularity_check(&self, device: usize, bytes: u64) -> Done {
        let page = self.devices[device].spec.page_bytes;
        if bytes == 0 || !bytes.is_multiple_of(page) { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    pub(crate) fn vmm_reserve(&mut self, bytes: u64, align: u64) -> Done<u64> {
        self.granularity_check(0, bytes)?;
        if align != 0 && !align.is_power_of_two() {
            return Err(Code::INVALID_VALUE);
        }
        let page = self.devices[0].spec.page_bytes;
        let align = align.max(page);
        let address = self.addresses.take(bytes, align)?;
        self.vmm.reservations.insert(address, (bytes, align));
        Ok(address)
    }

    pub(crate) fn vmm_unreserve(&mut self, address: u64, bytes: u64) -> Done {
        let reserved = self.vmm.reservations.get(&address).filter(|(size, _)| *size == bytes);
        let align = reserved.ok_or(Code::INVALID_VALUE)?.1;
        if self.vmm.overlaps(address, bytes) {
            return Err(Code::INVALID_VALUE);
        }
        self.vmm.reservations.remove(&address);
        self.addresses.give(address, bytes, align);
        Ok(())
    }

    pub(crate) fn vmm_create(&mut self, device: usize, bytes: u64) -> Done<u64> {
        self.granularity_check(device, bytes)?;
        self.take_physical(device, bytes)?;
        let handle = self.handle(Tag::Vmm);
        self.vmm.handles.insert(handle, Physical { device, bytes, references: 1, mappings: 0 });
        self.count_requested(device, Family::Vmm, bytes);
        Ok(handle)
    }

    /// Takes one more reference to the handle mapped at `address`.
    pub(crate) fn vmm_retain(&mut self, address: u64) -> Done<u64> {
        let handle = self.vmm.mapping_around(address).ok_or(Code::INVALID_VALUE)?.1.handle;
        let physical = self.vmm.handles.get_mut(&handle).ok_or(Code::INVALID_VALUE)?;
        physical.references += 1;
        Ok(handle)
    }

    pub(crate) fn vmm_release(&mut self, handle: u64) -> Done {
        let physical = self.vmm.handles.get_mut(&handle).ok_or(Code::INVALID_VALUE)?;
        if physical.references == 0 {
            return Err(Code::INVALID_VALUE);
        }
        physical.references -= 1;
        self.vmm_drop_if_unused(handle);
        Ok(())
    }

    fn vmm_drop_if_unused(&mut self, handle: u64) {
        let Some(physical) = self.vmm.handles.get(&handle).copied() else { return };
        if physical.references == 0 && physical.mappings == 0 {
            self.vmm.handles.remove(&handle);
            self.contents.forget(handle);
            self.give_physical(physical.device, physical.bytes);
            self.uncount_requested(physical.device, Family::Vmm, physical.bytes);
        }
    }

    /// Maps the first `bytes` of `handle` at `address`. The driver takes no offset but 0.
    pub(crate) fn vmm_map(&mut self, address: u64, bytes: u64, offset: u64, handle: u64) -> Done {
        let end = address.checked_add(bytes).ok_or(Code::INVALID_VALUE)?;
        let reserved = self.vmm.reservations.range(..=address).next_back();
        if reserved.is_none_or(|(base, (size, _))| base + size < end) || offset != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let physical = *self.vmm.handles.get(&handle).ok_or(Code::INVALID_VALUE)?;
        self.granularity_check(physical.device, bytes)?;
        if bytes > physical.bytes || physical.references == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if self.vmm.overlaps(address, bytes) {
            return Err(Code::ALREADY_MAPPED);
        }
        if let Some(physical) = self.vmm.handles.get_mut(&handle) {
            physical.mappings += 1;
        }
        self.vmm.mappings.insert(address, Mapping { bytes, handle, accessible: false });
        self.books.vmm_maps += 1;
        Ok(())
    }

    /// Unmaps whole mappings that tile the range.
    pub(crate) fn vmm_unmap(&mut self, address: u64, bytes: u64) -> Done {
        for base in self.vmm.tiles(address, bytes)? {
            let Some(mapping) = self.vmm.mappings.remove(&base) else { continue };
            if let Some(physical) = self.vmm.handles.get_mut(&mapping.handle) {
                physical.mappings -= 1;
            }
            self.books.vmm_unmaps += 1;
            self.vmm_drop_if_unused(mapping.handle);
        }
        Ok(())
    }

    pub(crate) fn vmm_set_access(&mut self, address: u64, bytes: u64, on: bool) -> Done {
        for base in self.vmm.tiles(address, bytes)? {
            if let Some(mapping) = self.vmm.mappings.get_mut(&base) {
                mapping.accessible = on;
            }
        }
        Ok(())
    }
}
