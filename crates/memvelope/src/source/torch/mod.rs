//! PyTorch's caching allocator, as its snapshot tells it: segments and blocks in, a
//! [`Framework`](crate::framework::Framework) out.
//!
//! Nothing here knows Python: whoever walks the snapshot (`memvelope.torch` does) hands over one
//! segment and one block at a time, so that a million blocks are never held twice. The shape is that
//! of `torch.cuda.memory._snapshot()`, as documented there and as `c10/cuda/CUDACachingAllocator.cpp`
//! makes it:
//!
//! * A segment is what was taken from the driver at once; of an expandable one, each contiguous range
//!   that is mapped. Its blocks are adjacent and fill it.
//! * A block is `active_allocated` (in use), `active_awaiting_free` (freed, but another stream may
//!   still use it; older versions: `active_pending_free`) or `inactive`.
//! * The `requested_size` of a block that is inactive is whatever was there before, and not read.
//!
//! A snapshot is read under the allocator's lock, so one that does not hold together was changed, cut
//! or made up: it is an error that names the segment, and no numbers come of it.

mod builder;
mod open;
mod tagged;
#[cfg(test)]
mod tests;

pub use builder::{Builder, Reading};
pub use tagged::{LiveBlock, TagScope, TaggedBlocks};

use crate::framework::SizeClass;
use crate::units::Bytes;

/// Segments of the small class, and the page of expandable ones (`kSmallBuffer`).
pub const SMALL_SEGMENT: Bytes = Bytes(2 << 20);
/// Segments of requests from 1 to 10 MiB, and the page of large expandable ones (`kLargeBuffer`),
/// unless `large_segment_size_mb` says otherwise.
pub const LARGE_SEGMENT: Bytes = Bytes(20 << 20);

/// What a snapshot says of a segment, before its blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentHead {
    /// First address.
    pub address: u64,
    /// Bytes of it (`total_size`).
    pub bytes: u64,
    /// Bytes of blocks in use (`allocated_size`), where it is told: compared with the blocks.
    pub allocated_bytes: Option<u64>,
    /// Bytes of blocks in use or awaiting a stream (`active_size`), where it is told: likewise.
    pub active_bytes: Option<u64>,
    /// The stream, as the driver's handle.
    pub stream: u64,
    /// `segment_type`.
    pub class: SizeClass,
    /// `segment_pool_id`; (0, 0), the default pool, where it is not told.
    pub pool: (u64, u64),
    /// `is_expandable`; false where it is not told.
    pub is_expandable: bool,
}

/// What a snapshot says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its address, where it is told (PyTorch 2.1 and later): compared with the sum of the sizes.
    pub address: Option<u64>,
    /// Bytes of it (`size`).
    pub bytes: u64,
    /// Bytes that were asked for (`requested_size`); `None` where it is not told (before 2.0).
    pub requested_bytes: Option<u64>,
    /// What it is used for.
    pub state: BlockState,
}

/// States of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// In use.
    Allocated,
    /// Freed, but another stream may still use it.
    AwaitingFree,
    /// In no use.
    Inactive,
}

impl BlockState {
    /// The state by the name that a snapshot has for it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "active_allocated" => Some(Self::Allocated),
            "active_awaiting_free" | "active_pending_free" => Some(Self::AwaitingFree),
            "inactive" => Some(Self::Inactive),
            _ => None,
        }
    }
}

/// What the allocator's statistics say (`memory_stats`), as far as they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// See [`Framework::turnover`](crate::framework::Framework::turnover).
    pub turnover: u64,
    /// `num_alloc_retries`.
    pub alloc_retries: Option<u64>,
    /// `num_ooms`.
    pub ooms: Option<u64>,
    /// `reserved_bytes.all.current`.
    pub reserved_bytes: Option<u64>,
    /// `active_bytes.all.current`.
    pub active_bytes: Option<u64>,
    /// `allocated_bytes.all.current`.
    pub allocated_bytes: Option<u64>,
}
