//! How many bytes a CUDA array takes, as its description says. The driver lays arrays out in tiles
//! and pads them, by rules that are not documented: they are counted as asked for.

#![expect(unsafe_code, reason = "descriptions of arrays, read through the caller's pointers")]

use super::call::Block;
use cupti_sys::layout::{array_descriptor, array3d_descriptor};

/// `CUDA_ARRAY3D_SPARSE`, `CUDA_ARRAY3D_DEFERRED_MAPPING`: without memory of their own; it is mapped
/// into them.
const WITHOUT_MEMORY: u32 = 0x40 | 0x80;

/// Bits of one element with its channels. `None` for formats that this list does not have.
fn element_bits(format: u32, channels: u32) -> Option<u64> {
    let channels = u64::from(channels);
    Some(match format {
        // Integers and floats of 8, 16 and 32 bits a channel.
        0x01 | 0x08 => 8 * channels,
        0x02 | 0x09 | 0x10 => 16 * channels,
        0x03 | 0x0a | 0x20 => 32 * channels,
        // Normalised integers say their channels themselves.
        0xc0 | 0xc6 => 8,
        0xc1 | 0xc3 | 0xc7 | 0xc9 => 16,
        0xc2 | 0xc4 | 0xc8 | 0xca => 32,
        0xc5 | 0xcb => 64,
        0x50 => 32,
        // Blocks of 4 x 4 elements in 8 or 16 bytes.
        0x91 | 0x92 | 0x97 | 0x98 => 4,
        0x93..=0x96 | 0x99..=0x9d => 8,
        // Planes at half the resolution.
        0xb0 => 12,
        _ => return None,
    })
}

fn bytes(extent: [u64; 3], format: u32, channels: u32) -> Option<u64> {
    // A dimension of 0 is not there.
    let elements = extent.into_iter().map(|n| n.max(1)).try_fold(1, u64::checked_mul)?;
    elements.checked_mul(element_bits(format, channels)?).map(|bits| bits.div_ceil(8))
}

/// Bytes of an array of one or two dimensions; 0 where its format is not known.
///
/// # Safety
/// A `CUDA_ARRAY_DESCRIPTOR` lies there.
pub(super) unsafe fn array(descriptor: Block) -> u64 {
    use array_descriptor::{CHANNELS, FORMAT, HEIGHT, WIDTH};
    // SAFETY: the caller's promise.
    let (extent, format, channels) = unsafe {
        let extent = [descriptor.read(WIDTH), descriptor.read(HEIGHT), 1];
        (extent, descriptor.read(FORMAT), descriptor.read(CHANNELS))
    };
    bytes(extent, format, channels).unwrap_or(0)
}

/// Bytes of an array of up to three dimensions with `levels` mipmap levels, likewise.
///
/// # Safety
/// A `CUDA_ARRAY3D_DESCRIPTOR` lies there.
pub(super) unsafe fn array3d(descriptor: Block, levels: u32) -> u64 {
    use array3d_descriptor::{CHANNELS, DEPTH, FLAGS, FORMAT, HEIGHT, WIDTH};
    // SAFETY: the caller's promise.
    let (extent, format, channels, flags) = unsafe {
        let extent: [u64; 3] =
            [descriptor.read(WIDTH), descriptor.read(HEIGHT), descriptor.read(DEPTH)];
        (extent, descriptor.read(FORMAT), descriptor.read(CHANNELS), descriptor.read::<u32>(FLAGS))
    };
    if flags & WITHOUT_MEMORY != 0 {
        return 0;
    }
    // Each level has half the extent, and no extent has more than 64 bits.
    let level = |level: u32| bytes(extent.map(|n| n >> level), format, channels).unwrap_or(0);
    (0..levels.min(64)).map(level).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_take_what_their_elements_take() {
        for (extent, format, channels, expected) in [
            ([100, 0, 0], 0x20, 1, Some(400)),
            ([100, 50, 0], 0x01, 4, Some(20_000)),
            ([16, 16, 3], 0x10, 2, Some(3072)),
            ([64, 64, 0], 0x91, 4, Some(2048)),
            ([64, 64, 0], 0xb0, 3, Some(6144)),
            ([7, 0, 0], 0x7777, 1, None),
            ([u64::MAX, u64::MAX, 2], 0x01, 1, None),
        ] {
            assert_eq!(bytes(extent, format, channels), expected, "{extent:?} {format:#x}");
        }
        let words: [u64; 5] = [64, 64, 0, 0x20 | 1 << 32, 0];
        let at = Block(words.as_ptr().cast());
        // SAFETY: laid out as the descriptor is.
        assert_eq!(unsafe { (array3d(at, 1), array3d(at, 7)) }, (16_384, 4 * 5461));
        let sparse: [u64; 5] = [64, 64, 0, 0x20 | 1 << 32, 0x40];
        // SAFETY: as above.
        assert_eq!(unsafe { array3d(Block(sparse.as_ptr().cast()), 1) }, 0);
    }
}
