//! Virtual memory management: address ranges, handles to physical memory, and mappings of one into
//! the other. Physical bytes go when no handle is referenced or mapped, no multicast object has
//! them bound, and no exported descriptor is open.

use crate::abi::{Code, Done, MemAllocationProp, MemLocation};
use crate::books::Family;
use crate::share::{self, Kind, Ticket};
use crate::world::multicast::Multicast;
use crate::world::{Tag, World};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{OwnedFd, RawFd};

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`, the one kind of handle that can be shared here.
pub(crate) const POSIX_DESCRIPTOR: i32 = 1;

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Vmm {
    /// Size and alignment by address.
    reservations: BTreeMap<u64, (u64, u64)>,
    mappings: BTreeMap<u64, Mapping>,
    handles: HashMap<u64, Handle>,
    pub(super) physicals: HashMap<u64, Physical>,
    /// By number of the physical memory, of which they have none.
    pub(super) multicasts: HashMap<u64, Multicast>,
}

/// What the program has of physical memory; there while it is referenced or mapped.
#[derive(Clone, Copy, Debug)]
struct Handle {
    physical: u64,
    references: u32,
    mappings: u32,
    is_import: bool,
}

/// Where physical memory is, with the index of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    Device(usize),
    /// Host memory; the device is the one that was current.
    Host(usize),
    /// Another process's, and charged to it.
    Foreign(usize),
    /// A multicast object, which has no memory of its own.
    Multicast(usize),
}

impl Backing {
    pub(crate) fn device(self) -> usize {
        match self {
            Self::Device(at) | Self::Host(at) | Self::Foreign(at) | Self::Multicast(at) => at,
        }
    }

    /// The family that the books count it in.
    fn family(self) -> Option<Family> {
        match self {
            Self::Device(_) => Some(Family::Vmm),
            Self::Host(_) => Some(Family::VmmHost),
            Self::Foreign(_) => None,
            Self::Multicast(_) => Some(Family::Multicast),
        }
    }
}

/// Physical memory.
#[derive(Debug)]
pub(crate) struct Physical {
    pub(super) backing: Backing,
    pub(super) bytes: u64,
    props: MemAllocationProp,
    /// What keeps it: handles, bindings to multicast objects, exported descriptors.
    handles: u32,
    pub(super) bindings: u32,
    exports: u32,
    /// Another process's memory is kept by a copy of its descriptor.
    _held: Option<OwnedFd>,
}

/// A view of a handle at an address.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) bytes: u64,
    pub(crate) handle: u64,
    pub(crate) physical: u64,
    /// `CUmemAccess_flags` by location, as `cuMemSetAccess` gave them.
    access: Vec<(MemLocation, i32)>,
}

impl Mapping {
    /// Whether anybody may read it.
    pub(crate) fn is_accessible(&self) -> bool {
        self.access.iter().any(|(_, flags)| *flags != 0)
    }

    pub(crate) fn access_of(&self, location: MemLocation) -> i32 {
        let found = self.access.iter().find(|(known, _)| *known == location);
        found.map_or(0, |(_, flags)| *flags)
    }
}

impl Vmm {
    /// The mapping around `address`: its base, and the mapping.
    pub(crate) fn mapping_around(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (base, mapping) = self.mappings.range(..=address).next_back()?;
        (address - base < mapping.bytes).then_some((*base, mapping))
    }

    /// The reserved range around `address`: its base and its size.
    pub(crate) fn reservation_around(&self, address: u64) -> Option<(u64, u64)> {
        let (base, (bytes, _)) = self.reservations.range(..=address).next_back()?;
        (address - base < *bytes).then_some((*base, *bytes))
    }

    /// How physical memory can be shared (`CUmemAllocationHandleType`s).
    pub(crate) fn handle_types_of(&self, physical: u64) -> i32 {
        self.physicals.get(&physical).map_or(0, |physical| physical.props.handle_types)
    }

    /// Where the memory of a mapping is.
    pub(crate) fn backing_of(&self, mapping: &Mapping) -> Option<Backing> {
        self.physicals.get(&mapping.physical).map(|physical| physical.backing)
    }

    /// Bytes on a device that exported descriptors alone keep.
    pub(crate) fn exported_only_bytes(&self, device: usize) -> u64 {
        let of_device = |physical: &&Physical| physical.backing == Backing::Device(device);
        let alone = |physical: &&Physical| physical.handles == 0 && physical.bindings == 0;
        let kept = self.physicals.values().filter(of_device).filter(alone);
        kept.map(|physical| physical.bytes).sum()
    }

    /// The physical memory of a handle that may still be used.
    pub(super) fn physical_of(&self, handle: u64) -> Done<u64> {
        let handle = self.handles.get(&handle).filter(|handle| handle.references > 0);
        handle.map(|handle| handle.physical).ok_or(Code::INVALID_VALUE)
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
    pub(super) fn granularity_check(&self, device: usize, bytes: u64) -> Done {
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

    pub(crate) fn vmm_create(
        &mut self,
        backing: Backing,
        bytes: u64,
        props: MemAllocationProp,
    ) -> Done<u64> {
        self.granularity_check(backing.device(), bytes)?;
        if let Backing::Device(device) = backing {
            self.take_physical(device, bytes)?;
        }
        let physical = self.vmm_add_physical(backing, bytes, props, None);
        Ok(self.vmm_add_handle(physical, false))
    }

    /// Enters physical memory that nothing keeps yet.
    fn vmm_add_physical(
        &mut self,
        backing: Backing,
        bytes: u64,
        props: MemAllocationProp,
        held: Option<OwnedFd>,
    ) -> u64 {
        let id = self.handle(Tag::Physical);
        let physical =
            Physical { backing, bytes, props, handles: 0, bindings: 0, exports: 0, _held: held };
        self.vmm.physicals.insert(id, physical);
        match (backing, backing.family()) {
            (Backing::Device(at), Some(family)) => self.count_requested(at, family, bytes),
            (_, Some(family)) => self.books.allocated(backing.device(), family, bytes),
            (_, None) => {}
        }
        id
    }

    fn vmm_add_handle(&mut self, physical: u64, is_import: bool) -> u64 {
        let handle = self.handle(Tag::Vmm);
        let record = Handle { physical, references: 1, mappings: 0, is_import };
        self.vmm.handles.insert(handle, record);
        if let Some(physical) = self.vmm.physicals.get_mut(&physical) {
            physical.handles += 1;
            if is_import {
                let device = physical.backing.device();
                self.books.allocated(device, Family::ImportedHandle, physical.bytes);
            }
        }
        handle
    }

    /// Takes one more reference to the handle mapped at `address`.
    pub(crate) fn vmm_retain(&mut self, address: u64) -> Done<u64> {
        let handle = self.vmm.mapping_around(address).ok_or(Code::INVALID_VALUE)?.1.handle;
        let record = self.vmm.handles.get_mut(&handle).ok_or(Code::INVALID_VALUE)?;
        record.references += 1;
        Ok(handle)
    }

    pub(crate) fn vmm_release(&mut self, handle: u64) -> Done {
        let record = self.vmm.handles.get_mut(&handle).ok_or(Code::INVALID_VALUE)?;
        record.references = record.references.checked_sub(1).ok_or(Code::INVALID_VALUE)?;
        self.vmm_drop_handle_if_unused(handle);
        Ok(())
    }

    fn vmm_drop_handle_if_unused(&mut self, handle: u64) {
        let Some(record) = self.vmm.handles.get(&handle).copied() else { return };
        if record.references > 0 || record.mappings > 0 {
            return;
        }
        self.vmm.handles.remove(&handle);
        if let Some(physical) = self.vmm.physicals.get_mut(&record.physical) {
            physical.handles -= 1;
            if record.is_import {
                let device = physical.backing.device();
                self.books.freed(device, Family::ImportedHandle, physical.bytes);
            }
        }
        self.vmm_drop_if_unused(record.physical);
    }

    pub(super) fn vmm_drop_if_unused(&mut self, id: u64) {
        let Some(physical) = self.vmm.physicals.get(&id) else { return };
        if physical.handles > 0 || physical.bindings > 0 || physical.exports > 0 {
            return;
        }
        let (backing, bytes) = (physical.backing, physical.bytes);
        self.vmm.physicals.remove(&id);
        self.contents.forget(id);
        match (backing, backing.family()) {
            (Backing::Device(device), Some(family)) => {
                self.give_physical(device, bytes);
                self.uncount_requested(device, family, bytes);
            }
            (_, Some(family)) => self.books.freed(backing.device(), family, bytes),
            (_, None) => {}
        }
        if let Some(multicast) = self.vmm.multicasts.remove(&id) {
            self.unbind_all(multicast);
        }
    }

    /// Maps `bytes` of `handle` at `address`. The driver takes an offset other than 0 for multicast
    /// objects alone.
    pub(crate) fn vmm_map(&mut self, address: u64, bytes: u64, offset: u64, handle: u64) -> Done {
        let end = address.checked_add(bytes).ok_or(Code::INVALID_VALUE)?;
        let reserved = self.vmm.reservations.range(..=address).next_back();
        if reserved.is_none_or(|(base, (size, _))| base + size < end) {
            return Err(Code::INVALID_VALUE);
        }
        let id = self.vmm.physical_of(handle)?;
        let physical = self.vmm.physicals.get(&id).ok_or(Code::INVALID_VALUE)?;
        let (backing, size) = (physical.backing, physical.bytes);
        let page = self.devices[backing.device()].spec.page_bytes;
        let may_begin = matches!(backing, Backing::Multicast(_)) && offset.is_multiple_of(page);
        self.granularity_check(backing.device(), bytes)?;
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= size);
        if !fits || !(offset == 0 || may_begin) || !address.is_multiple_of(page) {
            return Err(Code::INVALID_VALUE);
        }
        if self.vmm.overlaps(address, bytes) {
            return Err(Code::ALREADY_MAPPED);
        }
        if let Some(record) = self.vmm.handles.get_mut(&handle) {
            record.mappings += 1;
        }
        let mapping = Mapping { bytes, handle, physical: id, access: Vec::new() };
        self.vmm.mappings.insert(address, mapping);
        self.books.vmm_maps += 1;
        Ok(())
    }

    /// Unmaps whole mappings that tile the range.
    pub(crate) fn vmm_unmap(&mut self, address: u64, bytes: u64) -> Done {
        for base in self.vmm.tiles(address, bytes)? {
            let Some(mapping) = self.vmm.mappings.remove(&base) else { continue };
            if let Some(record) = self.vmm.handles.get_mut(&mapping.handle) {
                record.mappings -= 1;
            }
            self.books.vmm_unmaps += 1;
            self.vmm_drop_handle_if_unused(mapping.handle);
        }
        Ok(())
    }

    pub(crate) fn vmm_set_access(
        &mut self,
        address: u64,
        bytes: u64,
        access: &[(MemLocation, i32)],
    ) -> Done {
        for base in self.vmm.tiles(address, bytes)? {
            let Some(mapping) = self.vmm.mappings.get_mut(&base) else { continue };
            for (location, flags) in access {
                mapping.access.retain(|(known, _)| known != location);
                mapping.access.push((*location, *flags));
            }
        }
        Ok(())
    }

    pub(crate) fn vmm_properties(&self, handle: u64) -> Done<MemAllocationProp> {
        let id = self.vmm.physical_of(handle)?;
        self.vmm.physicals.get(&id).map(|physical| physical.props).ok_or(Code::INVALID_VALUE)
    }

    /// Exports a handle: a descriptor that keeps the memory until its last copy is closed.
    pub(crate) fn vmm_export(&mut self, handle: u64) -> Done<RawFd> {
        let id = self.vmm.physical_of(handle)?;
        let physical = self.vmm.physicals.get(&id).ok_or(Code::INVALID_VALUE)?;
        if physical.props.handle_types & POSIX_DESCRIPTOR == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let kind = match physical.backing {
            Backing::Multicast(_) => Kind::Multicast,
            _ => Kind::Memory,
        };
        let (device, bytes) = (physical.backing.device(), physical.bytes);
        let fd = self.share(kind, id, device, bytes)?;
        if let Some(physical) = self.vmm.physicals.get_mut(&id) {
            physical.exports += 1;
        }
        if let Some(multicast) = self.vmm.multicasts.get_mut(&id) {
            multicast.is_shared = true;
        }
        Ok(fd)
    }

    /// Makes a descriptor for an object of this process, and keeps our end of it.
    pub(super) fn share(
        &mut self,
        kind: Kind,
        object: u64,
        device: usize,
        bytes: u64,
    ) -> Done<RawFd> {
        let uuid = self.devices[device].uuid;
        let ticket = Ticket { kind, process: std::process::id(), object, bytes, uuid };
        let fd = self.exports.make(ticket, device)?;
        self.books.allocated(device, Family::Exported, bytes);
        Ok(fd)
    }

    /// A handle to what a descriptor stands for: in the process that exported it the same memory,
    /// in others memory that is charged to the exporter.
    pub(crate) fn vmm_import(&mut self, fd: RawFd) -> Done<u64> {
        let ticket = share::ticket(fd)?;
        if ticket.kind == Kind::Pool {
            return Err(Code::INVALID_VALUE);
        }
        if ticket.process == std::process::id() {
            if !self.vmm.physicals.contains_key(&ticket.object) {
                return Err(Code::INVALID_VALUE);
            }
            return Ok(self.vmm_add_handle(ticket.object, true));
        }
        let device = self.device_by_uuid(&ticket.uuid);
        let location = MemLocation { kind: 1, id: i32::try_from(device).unwrap_or(0) };
        let props = MemAllocationProp {
            kind: 1,
            handle_types: POSIX_DESCRIPTOR,
            location,
            win32: 0,
            flags: 0,
        };
        let held = Some(share::hold(fd)?);
        if ticket.kind == Kind::Memory {
            let id = self.vmm_add_physical(Backing::Foreign(device), ticket.bytes, props, held);
            return Ok(self.vmm_add_handle(id, true));
        }
        let id = self.vmm_add_physical(Backing::Multicast(device), ticket.bytes, props, held);
        self.vmm.multicasts.insert(id, Multicast::foreign());
        Ok(self.vmm_add_handle(id, true))
    }

    pub(super) fn device_by_uuid(&self, uuid: &[u8; 16]) -> usize {
        self.devices.iter().position(|device| device.uuid == *uuid).unwrap_or(0)
    }

    /// Lets go of what exported descriptors kept that are closed in every process.
    pub(crate) fn reap_exports(&mut self) {
        if self.exports.is_empty() {
            return;
        }
        for export in self.exports.take_closed() {
            self.books.freed(export.device, Family::Exported, export.ticket.bytes);
            let id = export.ticket.object;
            match export.ticket.kind {
                Kind::Memory | Kind::Multicast => {
                    if let Some(physical) = self.vmm.physicals.get_mut(&id) {
                        physical.exports -= 1;
                    }
                    self.vmm_drop_if_unused(id);
                }
                Kind::Pool => {}
            }
        }
    }

    /// A multicast object, without a handle's memory.
    pub(crate) fn vmm_add_multicast(
        &mut self,
        bytes: u64,
        handle_types: i32,
        multicast: Multicast,
    ) -> u64 {
        let location = MemLocation { kind: 0, id: 0 };
        let props = MemAllocationProp { kind: 0, handle_types, location, win32: 0, flags: 0 };
        let id = self.vmm_add_physical(Backing::Multicast(0), bytes, props, None);
        self.vmm.multicasts.insert(id, multicast);
        self.vmm_add_handle(id, false)
    }
}
