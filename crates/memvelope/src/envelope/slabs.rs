//! How to allocate the KV cache in pieces without ever asking for more than there is.

use super::Envelope;
use crate::units::{Blocks, Bytes};
use serde::Serialize;

/// A division of the KV capacity into equal allocations.
///
/// The driver rounds every allocation up to its page; `slabs x slab_bytes` is at most the capacity
/// with that rounding included, so all of them can be allocated, one by one, as needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvSlabs {
    /// Blocks a slab holds.
    pub slab_blocks: Blocks,
    /// Bytes to ask the driver for: `slab_blocks` blocks.
    pub request_bytes: Bytes,
    /// Bytes that the driver takes for it: `request_bytes` in whole pages.
    pub slab_bytes: Bytes,
    /// Most slabs that fit.
    pub slabs: u64,
    /// Blocks in all: what a gate over these slabs has as capacity.
    pub blocks: Blocks,
}

impl Envelope {
    /// Divides the KV capacity into slabs of about `target_slab_bytes`: a little more or less, so
    /// that as many blocks as possible fit; at least one block each. All fields are zero if pages
    /// are so large that not one slab fits.
    #[must_use]
    pub fn kv_slab_plan(&self, target_slab_bytes: Bytes) -> KvSlabs {
        let page = self.page_bytes.0.max(1);
        let (capacity, block) = (self.kv_capacity_bytes.0, self.block_bytes.0.max(1));
        // No smaller than a block in whole pages, no larger than everything.
        let slab_min = Bytes(block).rounded_up_to(page).0;
        let target = target_slab_bytes.0.max(slab_min);
        let fewer = (capacity / target).max(1);
        let divide = |slabs: u64| {
            let room = capacity / slabs;
            let slab_blocks = (room - room % page) / block;
            let request_bytes = Bytes(slab_blocks * block);
            KvSlabs {
                slab_blocks: Blocks(slab_blocks),
                request_bytes,
                slab_bytes: request_bytes.rounded_up_to(page),
                slabs: if slab_blocks == 0 { 0 } else { slabs },
                blocks: Blocks(slab_blocks * slabs),
            }
        };
        // Slabs of at least the target, or one more of somewhat less: whichever wastes less.
        let (large, small) = (divide(fewer), divide(fewer.saturating_add(1)));
        if small.blocks >= large.blocks && small.slabs > 0 { small } else { large }
    }
}
