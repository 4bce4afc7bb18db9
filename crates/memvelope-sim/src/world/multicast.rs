//! Multicast objects: a team of devices, and the memory that each of them has bound. The object has
//! no memory of its own; what is bound stays until it is unbound or the object goes.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::world::World;
use crate::world::vmm::Backing;

/// A multicast object.
#[derive(Debug)]
pub(crate) struct Multicast {
    /// How many devices the team will have.
    team: u32,
    devices: Vec<usize>,
    bindings: Vec<Binding>,
    /// Whether other processes may have added devices that this one does not know of.
    pub(super) is_shared: bool,
}

/// Memory of one device, bound at an offset.
#[derive(Clone, Copy, Debug)]
struct Binding {
    device: usize,
    offset: u64,
    bytes: u64,
    physical: u64,
}

impl Multicast {
    pub(super) fn new(team: u32) -> Self {
        Self { team, devices: Vec::new(), bindings: Vec::new(), is_shared: false }
    }

    /// One that another process made.
    pub(super) fn foreign() -> Self {
        Self { is_shared: true, ..Self::new(u32::MAX) }
    }

    fn is_complete(&self) -> bool {
        self.is_shared || self.devices.len() == self.team as usize
    }
}

impl World {
    pub(crate) fn multicast_create(
        &mut self,
        team: u32,
        bytes: u64,
        handle_types: i32,
    ) -> Done<u64> {
        self.granularity_check(0, bytes)?;
        if team == 0 {
            return Err(Code::INVALID_VALUE);
        }
        Ok(self.vmm_add_multicast(bytes, handle_types, Multicast::new(team)))
    }

    fn multicast_of(&mut self, handle: u64) -> Done<(u64, &mut Multicast)> {
        let id = self.vmm.physical_of(handle)?;
        let multicast = self.vmm.multicasts.get_mut(&id).ok_or(Code::INVALID_VALUE)?;
        Ok((id, multicast))
    }

    pub(crate) fn multicast_add(&mut self, handle: u64, device: usize) -> Done {
        let (_, multicast) = self.multicast_of(handle)?;
        let is_full = multicast.devices.len() >= multicast.team as usize;
        if is_full || multicast.devices.contains(&device) {
            return Err(Code::INVALID_VALUE);
        }
        multicast.devices.push(device);
        Ok(())
    }

    /// Binds the memory of a handle. The team must be complete, and the memory's device in it.
    pub(crate) fn multicast_bind(
        &mut self,
        handle: u64,
        device: Option<usize>,
        offset: u64,
        (memory, memory_offset): (u64, u64),
        bytes: u64,
    ) -> Done {
        let memory = self.vmm.physical_of(memory)?;
        self.bind(handle, device, offset, (memory, memory_offset), bytes)
    }

    /// Binds what is mapped at an address.
    pub(crate) fn multicast_bind_address(
        &mut self,
        handle: u64,
        device: Option<usize>,
        offset: u64,
        address: u64,
        bytes: u64,
    ) -> Done {
        let (base, mapping) = self.vmm.mapping_around(address).ok_or(Code::INVALID_VALUE)?;
        let memory = (mapping.physical, address - base);
        if memory.1.checked_add(bytes).is_none_or(|end| end > mapping.bytes) {
            return Err(Code::INVALID_VALUE);
        }
        self.bind(handle, device, offset, memory, bytes)
    }

    fn bind(
        &mut self,
        handle: u64,
        device: Option<usize>,
        offset: u64,
        (memory, memory_offset): (u64, u64),
        bytes: u64,
    ) -> Done {
        let physical = self.vmm.physicals.get(&memory).ok_or(Code::INVALID_VALUE)?;
        let Backing::Device(on) = physical.backing else { return Err(Code::INVALID_VALUE) };
        let is_inside = memory_offset.checked_add(bytes).is_some_and(|end| end <= physical.bytes);
        let page = self.devices[on].spec.page_bytes;
        let aligned = offset.is_multiple_of(page) && memory_offset.is_multiple_of(page);
        self.granularity_check(on, bytes)?;
        if !is_inside || !aligned || device.is_some_and(|device| device != on) {
            return Err(Code::INVALID_VALUE);
        }
        let (id, _) = self.multicast_of(handle)?;
        let size = self.vmm.physicals.get(&id).map_or(0, |object| object.bytes);
        let end =
            offset.checked_add(bytes).filter(|end| *end <= size).ok_or(Code::INVALID_VALUE)?;
        let (_, multicast) = self.multicast_of(handle)?;
        let overlaps = |binding: &Binding| {
            binding.device == on && binding.offset < end && offset < binding.offset + binding.bytes
        };
        let is_member = multicast.devices.contains(&on);
        if !multicast.is_complete() || !is_member || multicast.bindings.iter().any(overlaps) {
            return Err(Code::INVALID_VALUE);
        }
        multicast.bindings.push(Binding { device: on, offset, bytes, physical: memory });
        if let Some(physical) = self.vmm.physicals.get_mut(&memory) {
            physical.bindings += 1;
        }
        self.books.allocated(on, Family::MulticastBound, bytes);
        Ok(())
    }

    /// Ends a binding; offset and size must be those that it was made with.
    pub(crate) fn multicast_unbind(
        &mut self,
        handle: u64,
        device: usize,
        offset: u64,
        bytes: u64,
    ) -> Done {
        let (_, multicast) = self.multicast_of(handle)?;
        let is_meant = |binding: &Binding| {
            (binding.device, binding.offset, binding.bytes) == (device, offset, bytes)
        };
        let at = multicast.bindings.iter().position(is_meant).ok_or(Code::INVALID_VALUE)?;
        let binding = multicast.bindings.swap_remove(at);
        self.unbind(&binding);
        Ok(())
    }

    fn unbind(&mut self, binding: &Binding) {
        self.books.freed(binding.device, Family::MulticastBound, binding.bytes);
        if let Some(physical) = self.vmm.physicals.get_mut(&binding.physical) {
            physical.bindings -= 1;
        }
        self.vmm_drop_if_unused(binding.physical);
    }

    /// Ends all bindings of an object that is gone.
    pub(super) fn unbind_all(&mut self, multicast: Multicast) {
        for binding in multicast.bindings {
            self.unbind(&binding);
        }
    }
}
