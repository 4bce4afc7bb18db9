//! Copies and memsets. Contents move at once; time passes on the stream.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::cupti::layout::{Record, memcpy, memset};
use crate::cupti::pending;
use crate::edge::{host, host_mut};
use crate::entry::Call;
use crate::world::World;
use crate::world::timeline::Slot;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    HostToDevice,
    DeviceToHost,
    DeviceToDevice,
    HostToHost,
}

impl Direction {
    /// `CUpti_ActivityMemcpyKind`, and the books' word.
    fn names(self) -> (u64, &'static str) {
        match self {
            Self::HostToDevice => (1, "host_to_device"),
            Self::DeviceToHost => (2, "device_to_host"),
            Self::DeviceToDevice => (8, "device_to_device"),
            Self::HostToHost => (9, "host_to_host"),
        }
    }

    fn duration(self, world: &World, bytes: u64) -> u64 {
        let copies = &world.scenario.copies;
        let speed = match self {
            Self::HostToDevice => copies.htod_bytes_per_us,
            Self::DeviceToHost | Self::HostToHost => copies.dtoh_bytes_per_us,
            Self::DeviceToDevice => copies.dtod_bytes_per_us,
        };
        copies.latency_ns.saturating_add(scaled(bytes, speed))
    }
}

/// Nanoseconds for `bytes` at `bytes_per_us`, rounded down.
fn scaled(bytes: u64, bytes_per_us: u64) -> u64 {
    let ns = u128::from(bytes) * 1_000 / u128::from(bytes_per_us.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Whether a call waits for its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Synchronous, on the legacy default stream.
    Here,
    /// Asynchronous, on this stream.
    On(u64),
}

impl Wait {
    fn stream(self) -> u64 {
        match self {
            Self::Here => 0,
            Self::On(stream) => stream,
        }
    }
}

/// Whether `address` is memory that the host can touch: everything but device allocations and
/// mappings. Managed memory is host memory here.
fn is_host(world: &World, address: u64) -> bool {
    !matches!(world.memory_kind(address), 3)
}

/// A copy whose direction follows from its addresses (`cuMemcpy`).
pub(crate) fn unified(call: &Call, to: u64, from: u64, bytes: usize, wait: Wait) -> Done {
    let direction = call.world(|world| {
        Ok(match (is_host(world, from), is_host(world, to)) {
            (true, false) => Direction::HostToDevice,
            (false, true) => Direction::DeviceToHost,
            (false, false) => Direction::DeviceToDevice,
            (true, true) => Direction::HostToHost,
        })
    })?;
    copy(call, direction, to, from, bytes, wait)
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
        let kinds = (world.memory_kind(from), world.memory_kind(to));
        move_bytes(world, direction, to, from, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let duration = direction.duration(world, bytes as u64);
        let slot = world.enqueue(wait.stream(), duration)?;
        let (kind, word) = direction.names();
        world.books.copy(word, bytes as u64, duration);
        if pending::is_on(memcpy::LAYOUT.kind) {
            let record = Record::new(&memcpy::LAYOUT, world.activity.version)
                .with(memcpy::COPY_KIND, kind)
                .with(memcpy::SRC_KIND, u64::from(kinds.0))
                .with(memcpy::DST_KIND, u64::from(kinds.1))
                // CUPTI_ACTIVITY_FLAG_MEMCPY_ASYNC
                .with(memcpy::FLAGS, u64::from(wait != Wait::Here))
                .with(memcpy::BYTES, bytes as u64)
                .with(memcpy::START, world.activity.stamp(slot.start))
                .with(memcpy::END, world.activity.stamp(slot.end))
                .with(memcpy::DEVICE, slot.device as u64)
                .with(memcpy::CONTEXT, u64::from(slot.context_uid))
                .with(memcpy::STREAM, u64::from(slot.stream))
                .with(memcpy::CORRELATION, u64::from(call.correlation))
                .with(memcpy::COPY_COUNT, 1);
            let now = world.now;
            world.activity.push(slot.start, slot.end, now, record);
        }
        finish(world, slot, wait);
        Ok(())
    })
}

fn finish(world: &mut World, slot: Slot, wait: Wait) {
    if wait == Wait::Here {
        world.wait_until(slot.end);
    }
}

fn move_bytes(world: &mut World, way: Direction, to: u64, from: u64, bytes: usize) -> Done {
    let managed = |world: &World, at: u64| world.memory_kind(at) == 5;
    let from_host = match way {
        Direction::HostToDevice | Direction::HostToHost => true,
        Direction::DeviceToHost | Direction::DeviceToDevice => managed(world, from),
    };
    let to_host = match way {
        Direction::DeviceToHost | Direction::HostToHost => true,
        Direction::HostToDevice | Direction::DeviceToDevice => managed(world, to),
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
        let bytes = width.checked_mul(count).ok_or(Code::INVALID_VALUE)?;
        if !to.is_multiple_of(width as u64) {
            return Err(Code::INVALID_VALUE);
        }
        let managed = world.alloc_around(to).is_some_and(|(_, a)| a.family == Family::Managed);
        if managed {
            let element = value.to_le_bytes();
            let bytes = host_mut(to as *mut u8, bytes)?;
            bytes.chunks_exact_mut(width).for_each(|to| to.copy_from_slice(&element[..width]));
        } else {
            world.fill_device(to, value, width, count)?;
        }
        if bytes == 0 {
            return Ok(());
        }
        let copies = &world.scenario.copies;
        let duration =
            copies.latency_ns.saturating_add(scaled(bytes as u64, copies.memset_bytes_per_us));
        let slot = world.enqueue(wait.stream(), duration)?;
        world.books.memset(bytes as u64, duration);
        if pending::is_on(memset::LAYOUT.kind) {
            let record = Record::new(&memset::LAYOUT, world.activity.version)
                .with(memset::VALUE, u64::from(value))
                .with(memset::BYTES, bytes as u64)
                .with(memset::START, world.activity.stamp(slot.start))
                .with(memset::END, world.activity.stamp(slot.end))
                .with(memset::DEVICE, slot.device as u64)
                .with(memset::CONTEXT, u64::from(slot.context_uid))
                .with(memset::STREAM, u64::from(slot.stream))
                .with(memset::CORRELATION, u64::from(call.correlation))
                // CUPTI_ACTIVITY_FLAG_MEMSET_ASYNC
                .with(memset::FLAGS, u64::from(wait != Wait::Here))
                .with(memset::MEMORY_KIND, if managed { 5 } else { 3 });
            let now = world.now;
            world.activity.push(slot.start, slot.end, now, record);
        }
        finish(world, slot, wait);
        Ok(())
    })
}
