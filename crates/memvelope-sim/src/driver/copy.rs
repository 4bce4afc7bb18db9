//! Copies and memsets: what they are asked for, and what they do to contents.

use crate::abi::{Code, Done};
use crate::driver::work::{Copy, Fill, Wait, Work, submit};
use crate::edge::{host, host_mut};
use crate::entry::Call;
use crate::world::World;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    HostToDevice,
    DeviceToHost,
    DeviceToDevice,
    HostToHost,
    /// From one device to another.
    PeerToPeer,
}

impl Direction {
    /// `CUpti_ActivityMemcpyKind`, and the books' word.
    pub(crate) fn names(self) -> (u64, &'static str) {
        match self {
            Self::HostToDevice => (1, "host_to_device"),
            Self::DeviceToHost => (2, "device_to_host"),
            Self::DeviceToDevice => (8, "device_to_device"),
            Self::HostToHost => (9, "host_to_host"),
            Self::PeerToPeer => (10, "peer_to_peer"),
        }
    }

    pub(crate) fn duration(self, world: &World, bytes: u64) -> u64 {
        let copies = &world.scenario.copies;
        let speed = match self {
            Self::HostToDevice => copies.htod_bytes_per_us,
            Self::DeviceToHost | Self::HostToHost => copies.dtoh_bytes_per_us,
            Self::DeviceToDevice => copies.dtod_bytes_per_us,
            Self::PeerToPeer => copies.peer_bytes_per_us,
        };
        copies.latency_ns.saturating_add(scaled(bytes, speed))
    }
}

/// Nanoseconds for `bytes` at `bytes_per_us`, rounded down.
fn scaled(bytes: u64, bytes_per_us: u64) -> u64 {
    let ns = u128::from(bytes) * 1_000 / u128::from(bytes_per_us.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// GPU time of a memset.
pub(crate) fn fill_duration(world: &World, bytes: u64) -> u64 {
    let copies = &world.scenario.copies;
    copies.latency_ns.saturating_add(scaled(bytes, copies.memset_bytes_per_us))
}

/// Whether `address` is memory that the host can touch: everything but device allocations and
/// mappings. Managed memory is host memory here.
fn is_host(world: &World, address: u64) -> bool {
    !matches!(world.memory_kind(address), 3)
}

/// The direction that follows from two addresses.
pub(crate) fn direction_of(world: &World, to: u64, from: u64) -> Direction {
    match (is_host(world, from), is_host(world, to)) {
        (true, false) => Direction::HostToDevice,
        (false, true) => Direction::DeviceToHost,
        (false, false) => Direction::DeviceToDevice,
        (true, true) => Direction::HostToHost,
    }
}

/// A copy whose direction follows from its addresses (`cuMemcpy`).
pub(crate) fn unified(call: &Call, to: u64, from: u64, bytes: usize, wait: Wait) -> Done {
    let direction = call.world(|world| Ok(direction_of(world, to, from)))?;
    copy(call, direction, to, from, bytes, wait)
}

/// A copy between two contexts, by default the current one.
pub(crate) fn peer(
    call: &Call,
    (to, to_context): (u64, u64),
    (from, from_context): (u64, u64),
    bytes: usize,
    wait: Wait,
) -> Done {
    call.world(|world| {
        for context in [to_context, from_context] {
            if context != 0 {
                world.context(context)?;
            }
        }
        Ok(())
    })?;
    copy(call, Direction::DeviceToDevice, to, from, bytes, wait)
}

/// A copy of `bytes` in a known direction.
pub(crate) fn copy(
    call: &Call,
    direction: Direction,
    to: u64,
    from: u64,
    bytes: usize,
    wait: Wait,
) -> Done {
    call.world(|world| {
        world.current()?;
        if bytes == 0 {
            return Ok(());
        }
        let copy = prepare(world, direction, to, from, bytes);
        submit(world, call, Work::Copy(copy), wait)
    })
}

/// A copy as work; one between allocations of different devices is another kind.
pub(crate) fn prepare(
    world: &World,
    direction: Direction,
    to: u64,
    from: u64,
    bytes: usize,
) -> Copy {
    let mut copy = Copy { direction, to, from, bytes, places: None };
    if direction == Direction::DeviceToDevice
        && let (Some(source), Some(target)) = (world.place_of(from), world.place_of(to))
        && source.device != target.device
    {
        copy.direction = Direction::PeerToPeer;
        copy.places = Some((source, target));
    }
    copy
}

pub(crate) fn move_bytes(world: &mut World, copy: &Copy) -> Done {
    let Copy { direction, to, from, bytes, .. } = *copy;
    let managed = |world: &World, at: u64| world.memory_kind(at) == 5;
    let from_host = match direction {
        Direction::HostToDevice | Direction::HostToHost => true,
        Direction::DeviceToHost | Direction::DeviceToDevice | Direction::PeerToPeer => {
            managed(world, from)
        }
    };
    let to_host = match direction {
        Direction::DeviceToHost | Direction::HostToHost => true,
        Direction::HostToDevice | Direction::DeviceToDevice | Direction::PeerToPeer => {
            managed(world, to)
        }
    };
    match (from_host, to_host) {
        (true, false) => world.write_device(to, host(from as *const u8, bytes)?),
        (false, true) => {
            // Checked first: a bad source must not touch the target.
            world.pieces(from, bytes)?;
            world.read_device(from, host_mut(to as *mut u8, bytes)?)
        }
        (false, false) => world.copy_device(to, from, bytes),
        (true, true) => {
            // The two may overlap, as they may in `cuMemcpy`.
            let copied = host(from as *const u8, bytes)?.to_vec();
            host_mut(to as *mut u8, bytes)?.copy_from_slice(&copied);
            Ok(())
        }
    }
}

pub(crate) fn fill_bytes(world: &mut World, fill: &Fill) -> Done {
    let Fill { to, value, width, count } = *fill;
    if world.memory_kind(to) != 5 {
        return world.fill_device(to, value, width, count);
    }
    let element = value.to_le_bytes();
    let bytes = width.checked_mul(count).ok_or(Code::INVALID_VALUE)?;
    let bytes = host_mut(to as *mut u8, bytes)?;
    bytes.chunks_exact_mut(width).for_each(|to| to.copy_from_slice(&element[..width]));
    Ok(())
}

/// A memset of `count` elements of `width` bytes.
pub(crate) fn set(
    call: &Call,
    to: u64,
    value: u32,
    width: usize,
    count: usize,
    wait: Wait,
) -> Done {
    call.world(|world| {
        world.current()?;
        let fill = Fill::new(to, value, width, count)?;
        if count == 0 {
            return Ok(());
        }
        submit(world, call, Work::Fill(fill), wait)
    })
}
