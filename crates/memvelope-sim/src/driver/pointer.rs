//! What the driver knows of an address.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::edge::{get as read, put};
use crate::entry::Call;
use crate::world::World;
use crate::world::vmm::{Backing, POSIX_DESCRIPTOR};

/// `CUmemorytype`: host and device.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// Memory, or an address range without any.
#[derive(Clone, Copy, Debug)]
struct View {
    memory_type: u32,
    context: u64,
    device: usize,
    is_managed: bool,
    /// Address and size of the allocation, or of the reserved range.
    range: (u64, u64),
    /// The same of what is mapped.
    mapping: Option<(u64, u64)>,
    /// Numbers of the allocation and of the physical memory.
    buffer: u64,
    block: u64,
    pool: u64,
    has_ipc: bool,
    handle_types: i32,
}

impl World {
    fn view(&self, address: u64) -> Option<View> {
        self.view_of_alloc(address).or_else(|| self.view_of_host(address)).or_else(|| {
            let (range, bytes) = self.vmm.reservation_around(address)?;
            let range = (range, bytes);
            let mapped = self.vmm.mapping_around(address);
            let backing = mapped.and_then(|(_, mapping)| self.vmm.backing_of(mapping));
            let memory_type = if matches!(backing, Some(Backing::Host(_))) { HOST } else { DEVICE };
            let number = mapped.map_or(0, |(_, mapping)| mapping.physical);
            let handle = mapped.map(|(_, mapping)| mapping.physical);
            Some(View {
                memory_type,
                context: 0,
                device: backing.map_or(0, Backing::device),
                is_managed: false,
                range,
                mapping: mapped.map(|(base, mapping)| (base, mapping.bytes)),
                buffer: number,
                block: number,
                pool: 0,
                has_ipc: false,
                handle_types: handle.map_or(0, |handle| self.vmm.handle_types_of(handle)),
            })
        })
    }

    fn view_of_alloc(&self, address: u64) -> Option<View> {
        let (base, alloc) = self.alloc_around(address)?;
        let range = (base, alloc.requested);
        let memory_type = if alloc.family == Family::PoolHost { HOST } else { DEVICE };
        let is_shared = self.pools.get(&alloc.pool).is_some_and(|pool| pool.is_shareable());
        Some(View {
            memory_type,
            context: alloc.context,
            device: alloc.device,
            is_managed: matches!(alloc.family, Family::Managed | Family::PoolManaged),
            range,
            mapping: Some(range),
            buffer: alloc.id,
            block: alloc.id,
            pool: alloc.pool,
            has_ipc: matches!(alloc.family, Family::Device | Family::Pitch),
            handle_types: if is_shared { POSIX_DESCRIPTOR } else { 0 },
        })
    }

    fn view_of_host(&self, address: u64) -> Option<View> {
        let (base, host) = self.host_around(address)?;
        let range = (base, host.requested);
        Some(View {
            memory_type: HOST,
            context: host.context,
            device: host.device,
            is_managed: false,
            range,
            mapping: Some(range),
            buffer: host.id,
            block: host.id,
            pool: 0,
            has_ipc: false,
            handle_types: 0,
        })
    }
}

/// An attribute's value, by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Word(u32),
    Long(u64),
}

impl Value {
    fn put(self, to: *mut u64) -> Done {
        match self {
            Self::Word(value) => put(to.cast::<u32>(), value),
            Self::Long(value) => put(to, value),
        }
    }
}

/// `CU_POINTER_ATTRIBUTE_…` by number.
fn value_of(view: &View, attribute: u32, address: u64) -> Done<Value> {
    let is_host = view.memory_type == HOST || view.is_managed;
    let mapping = view.mapping.ok_or(Code::INVALID_VALUE);
    Ok(match attribute {
        1 => Value::Long(view.context),
        2 => Value::Word(view.memory_type),
        // The address on the device, and on the host: the same here, where there are both.
        3 => Value::Long(address),
        4 if is_host => Value::Long(address),
        6 => Value::Word(0),
        7 => Value::Long(view.buffer),
        8 => Value::Word(view.is_managed.into()),
        9 => Value::Word(u32::try_from(view.device).unwrap_or(0)),
        10 => Value::Word(view.has_ipc.into()),
        11 => Value::Long(view.range.0),
        12 => Value::Long(view.range.1),
        13 => Value::Word(view.mapping.is_some().into()),
        14 => Value::Long(u64::from(view.handle_types.cast_unsigned())),
        15 => Value::Word(0),
        // Read and write.
        16 => Value::Word(if view.mapping.is_some() { 3 } else { 0 }),
        17 => Value::Long(view.pool),
        18 => Value::Long(mapping?.1),
        19 => Value::Long(mapping?.0),
        20 if view.mapping.is_some() => Value::Long(view.block),
        _ => return Err(Code::INVALID_VALUE),
    })
}

pub(crate) fn get(call: &Call, to: *mut u64, attribute: u32, address: u64) -> Done {
    call.world(|world| {
        let view = world.view(address).ok_or(Code::INVALID_VALUE)?;
        value_of(&view, attribute, address)?.put(to)
    })
}

/// Several attributes at once; what is not known is 0, of whatever address.
pub(crate) fn get_all(
    call: &Call,
    count: u32,
    attributes: *const u32,
    to: *const *mut u64,
    address: u64,
) -> Done {
    call.world(|world| {
        let view = world.view(address);
        for index in 0..count as usize {
            let attribute = read(attributes.wrapping_add(index))?;
            let to = read(to.wrapping_add(index))?;
            let known = view.map(|view| value_of(&view, attribute, address));
            let nothing = match attribute {
                2 | 6 | 8 | 9 | 10 | 13 | 15 | 16 => Value::Word(0),
                1..=4 | 7 | 11 | 12 | 14 | 17..=20 => Value::Long(0),
                _ => return Err(Code::INVALID_VALUE),
            };
            known.and_then(Result::ok).unwrap_or(nothing).put(to)?;
        }
        Ok(())
    })
}
