//! Activity attributes: kept, and obeyed where the simulator has what they are about.

use super::{code, write};
use crate::cupti::buffers;
use crate::edge::{get, put};
use crate::world::World;

/// Bytes of an attribute's value, and the first version that has it.
fn attribute_shape(attribute: u32) -> Option<(usize, u32)> {
    match attribute {
        0..=4 | 6 | 7 => Some((size_of::<usize>(), 1200)),
        5 | 8 => Some((1, 1200)),
        9 => Some((1, 1203)),
        10 => Some((size_of::<usize>(), 1204)),
        _ => None,
    }
}

/// Checks an attribute call; returns the size of its value.
fn attribute_size(world: &World, attribute: u32, size: *mut usize) -> Result<usize, u32> {
    let (bytes, since) = attribute_shape(attribute).ok_or(code::INVALID_PARAMETER)?;
    if since > world.activity.version {
        return Err(code::INVALID_PARAMETER);
    }
    let room = get(size.cast_const()).map_err(|_| code::INVALID_PARAMETER)?;
    if room < bytes {
        let _ = put(size, bytes);
        return Err(code::PARAMETER_SIZE_NOT_SUFFICIENT);
    }
    Ok(bytes)
}

pub(super) fn set(world: &mut World, attribute: u32, size: *mut usize, value: *const u8) -> u32 {
    let bytes = match attribute_size(world, attribute, size) {
        Ok(bytes) => bytes,
        Err(code) => return code,
    };
    let value = match bytes {
        1 => get(value).map(u64::from),
        _ => get(value.cast::<u64>()),
    };
    let Ok(value) = value else { return code::INVALID_PARAMETER };
    match attribute {
        5 => buffers::set_client_zeroes(value != 0),
        9 => buffers::set_per_thread(value != 0),
        _ => {}
    }
    world.activity.attributes.insert(attribute, value);
    code::SUCCESS
}

pub(super) fn get_value(world: &World, attribute: u32, size: *mut usize, value: *mut u8) -> u32 {
    let bytes = match attribute_size(world, attribute, size) {
        Ok(bytes) => bytes,
        Err(code) => return code,
    };
    // CUPTI's defaults: 3.2 MB buffers, 250 of them, 3 preallocated.
    let default = match attribute {
        0 => 3_200_000,
        1 => 8 << 20,
        2 | 4 => 250,
        3 => 65_536,
        5 => u64::from(buffers::client_zeroes()),
        6 | 7 => 3,
        9 => u64::from(buffers::per_thread()),
        10 => 16 << 20,
        _ => 0,
    };
    let current = world.activity.attributes.get(&attribute).copied().unwrap_or(default);
    match bytes {
        1 => write(value, u8::try_from(current).unwrap_or(1)),
        _ => write(value.cast::<u64>(), current),
    }
}
