//! The framework plane: what a caching allocator (PyTorch's) holds on one device and what of it is
//! in use. A value without behaviour of its own; `source::torch` makes it.
//!
//! Of the bytes of a device: requested ≤ allocated ≤ active ≤ reserved.
//!
//! | from, to | is called |
//! |---|---|
//! | requested → allocated | rounding |
//! | allocated → active | awaiting-stream: freed, but another stream may still use it |
//! | active → reserved | cached |
//!
//! Of what is cached, *releasable* is what `empty_cache()` gives back to the driver (whole segments
//! without a block in use; of an expandable segment, its wholly free pages), and *stranded* the rest.

use crate::event::{DeviceIndex, Tag};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// What the allocator manages on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Framework {
    /// The device.
    pub device: DeviceIndex,
    /// Allocations and frees so far, of blocks and of segments, as the allocator counts them: where
    /// two such numbers are equal, it did nothing in between. 0 if not told.
    pub turnover: u64,
    /// Bytes that were asked for and not freed.
    pub requested_bytes: Bytes,
    /// The same, rounded.
    pub allocated_bytes: Bytes,
    /// The same, and what was freed but awaits a stream.
    pub active_bytes: Bytes,
    /// Bytes of all segments.
    pub reserved_bytes: Bytes,
    /// Of the requested bytes, by [`Tag`], in its order.
    pub by_tag: [Bytes; Tag::COUNT],
    /// Of the cached bytes, those that `empty_cache()` gives back.
    pub releasable_bytes: Bytes,
    /// What `empty_cache()` gives back beyond those, because it waits for streams first: segments and
    /// pages in which all that is in use awaits one. 0 if not told.
    pub awaiting_releasable_bytes: Bytes,
    /// By pool, stream and size class.
    pub spaces: Vec<Space>,
    /// Segments, by address. Empty where there were more than [`Framework::SEGMENTS_MAX`]; the sums
    /// are right all the same.
    pub segments: Vec<Segment>,
    /// Blocks read.
    pub blocks: u64,
    /// Retries after the driver had no memory (`num_alloc_retries`); `None` if not told.
    pub alloc_retries: Option<u64>,
    /// Allocations that failed (`num_ooms`); `None` if not told.
    pub ooms: Option<u64>,
    /// How the allocator was configured, as far as it says.
    pub settings: Settings,
    /// Sizes of the requests behind the blocks in use: what is asked for here.
    pub requests: Demand,
    /// What somebody should know who relies on the numbers, one sentence each: what was not told,
    /// and what was taken instead.
    pub notes: Vec<String>,
}

/// Where blocks are looked for together: a request is served from one space only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Space {
    /// Which pool: (0, 0) is the default one, others belong to graphs and to MemPools.
    pub pool: (u64, u64),
    /// The stream, as the driver's handle.
    pub stream: u64,
    /// The size class.
    pub class: SizeClass,
    /// Bytes of its segments.
    pub reserved_bytes: Bytes,
    /// Bytes of blocks in use, or awaiting a stream.
    pub active_bytes: Bytes,
    /// Bytes that were asked for and not freed.
    pub requested_bytes: Bytes,
    /// Of those, what carries no tag.
    pub untagged_bytes: Bytes,
    /// The largest free block: the most that this space serves without asking the driver. In an
    /// expandable segment the free end can grow; that is not in it.
    pub largest_free_bytes: Bytes,
    /// Bytes that `empty_cache()` gives back.
    pub releasable_bytes: Bytes,
    /// Free blocks.
    pub free_blocks: u64,
    /// Whether its segments are expandable.
    pub is_expandable: bool,
    /// Of an expandable segment, the free block at the end of what is mapped: a larger request takes
    /// it, and has the rest mapped behind it. 0 if not told, where there are several such segments, and
    /// where a hole in what is mapped is right before it.
    pub tail_free_bytes: Bytes,
    /// Of an expandable segment with holes in what is mapped: all of the holes, with the free blocks at
    /// their edges. A request up to that may have its pages mapped there, and not at the end.
    pub hole_bytes: Bytes,
    /// With a [`Settings::max_split_size`]: the largest free block below it. 0 if not told.
    pub largest_splittable_free_bytes: Bytes,
    /// With a [`Settings::max_split_size`]: sizes of the free blocks of that size or above,
    /// ascending, at most [`Self::UNSPLITTABLE_MAX`] of the smallest. Empty if not told.
    pub unsplittable_free: Vec<Bytes>,
}

impl Space {
    /// Blocks that are kept in [`Self::unsplittable_free`].
    pub const UNSPLITTABLE_MAX: usize = 256;

    /// Whether the pool was made by a graph's capture. Others that are not (0, 0) were made by
    /// `graph_pool_handle()` or are `MemPool`s, and nothing tells which.
    #[must_use]
    pub const fn is_of_capture(&self) -> bool {
        self.pool.0 != 0
    }

    /// Bytes in no block that is in use or awaits a stream.
    #[must_use]
    pub fn cached_bytes(&self) -> Bytes {
        self.reserved_bytes.saturating_sub(self.active_bytes)
    }

    /// Of those, the ones that stay when the cache is emptied.
    #[must_use]
    pub fn stranded_bytes(&self) -> Bytes {
        self.cached_bytes().saturating_sub(self.releasable_bytes)
    }
}

/// PyTorch's two classes of blocks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SizeClass {
    /// Up to 1 MiB, in segments of 2 MiB.
    #[default]
    Small,
    /// Above.
    Large,
}

/// What the allocator took from the driver as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Segment {
    /// First address. Of an expandable segment: of the mapped range.
    pub address: u64,
    /// Bytes, all of them physical.
    pub bytes: Bytes,
    /// Whether it is a range of mappings rather than one allocation.
    pub is_expandable: bool,
    /// Whether it belongs to a pool that is not the default one.
    pub is_private: bool,
    /// Bytes of blocks in use, or awaiting a stream.
    pub active_bytes: Bytes,
    /// Bytes that were asked for.
    pub requested_bytes: Bytes,
}

/// The allocator's settings that change what fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `expandable_segments`; `None` if not told.
    pub expandable_segments: Option<bool>,
    /// `max_split_size` in bytes; `None`: without limit, or not told.
    pub max_split_size: Option<Bytes>,
    /// `large_segment_size_mb` in bytes: what requests of 1 to 10 MiB take a segment of, and the page
    /// of large expandable segments. `None`: 20 MiB, or not told.
    pub large_segment_bytes: Option<Bytes>,
    /// `roundup_power2_divisions` or the like is in force: sizes are rounded in ways that we do not
    /// compute.
    pub rounds_otherwise: bool,
    /// `per_process_memory_fraction` in bytes; `None`: without limit, or not told.
    pub limit_bytes: Option<Bytes>,
}

impl Framework {
    /// Segments that are kept one by one.
    pub const SEGMENTS_MAX: usize = 1 << 16;

    /// Bytes in no block that is in use or awaits a stream.
    #[must_use]
    pub fn cached_bytes(&self) -> Bytes {
        self.reserved_bytes.saturating_sub(self.active_bytes)
    }
}

/// Which sizes are asked for, and how often: a histogram with four buckets an octave, so that a size
/// is known to a fifth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Demand {
    /// Requests by bucket; empty until there is one.
    counts: Vec<u32>,
}

/// Buckets an octave, as a power of two.
const DEMAND_SHIFT: u32 = 2;
/// Buckets in all.
pub(crate) const DEMAND_BUCKETS: usize = 64 << DEMAND_SHIFT;

impl Demand {
    /// Without requests.
    #[must_use]
    pub const fn new() -> Self {
        Self { counts: Vec::new() }
    }

    /// Counts `count` requests of a size; 0 bytes are none.
    pub fn note(&mut self, bytes: Bytes, count: u32) {
        if bytes.0 == 0 {
            return;
        }
        if self.counts.is_empty() {
            self.counts = vec![0; DEMAND_BUCKETS];
        }
        if let Some(bucket) = self.counts.get_mut(bucket_of(bytes.0)) {
            *bucket = bucket.saturating_add(count);
        }
    }

    /// Which bucket a size is counted in; `None` for 0 bytes.
    pub(crate) fn bucket(bytes: Bytes) -> Option<usize> {
        (bytes.0 > 0).then(|| bucket_of(bytes.0))
    }

    /// From counts by bucket.
    pub(crate) fn of_buckets(counts: impl Iterator<Item = u32>) -> Self {
        let counts: Vec<u32> = counts.collect();
        if counts.iter().all(|count| *count == 0) { Self::new() } else { Self { counts } }
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        for (size, count) in other.sizes() {
            self.note(size, count);
        }
    }

    /// Halves every count: what was asked for long ago weighs less.
    pub fn fade(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
    }

    /// Requests counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().copied().map(u64::from).sum()
    }

    /// Sizes with their counts, ascending; a bucket is told by its largest size.
    pub fn sizes(&self) -> impl Iterator<Item = (Bytes, u32)> + '_ {
        let all = self.counts.iter().copied().enumerate();
        all.filter(|(_, count)| *count > 0).map(|(at, count)| (Bytes(bucket_end(at)), count))
    }
}

impl Default for Demand {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket_of(bytes: u64) -> usize {
    // A bucket ends at its largest size, so that powers of two are told as themselves.
    let below = bytes.saturating_sub(1);
    let part = match below.checked_ilog2() {
        // One byte and two have a bucket each, of the four that the first octave has no use for.
        None => return 0,
        Some(0) => return 1,
        Some(octave) if octave >= DEMAND_SHIFT => below >> (octave - DEMAND_SHIFT),
        Some(octave) => below << (DEMAND_SHIFT - octave),
    };
    let octave = below.ilog2();
    ((octave << DEMAND_SHIFT) as usize) + (part & ((1 << DEMAND_SHIFT) - 1)) as usize
}

fn bucket_end(at: usize) -> u64 {
    let (octave, part) = ((at >> DEMAND_SHIFT) as u32, (at & ((1 << DEMAND_SHIFT) - 1)) as u128);
    let end = (part + 1 + (1 << DEMAND_SHIFT)) << octave;
    match at {
        0 => 1,
        _ => u64::try_from(end.div_ceil(1 << DEMAND_SHIFT)).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_knows_a_size_to_a_fifth() {
        for bytes in
            (1..4096).chain((12..63).map(|shift| (1 << shift) + 12_345 % (1 << (shift - 1))))
        {
            let mut demand = Demand::new();
            demand.note(Bytes(bytes), 3);
            let (size, count) = demand.sizes().next().expect("one");
            assert_eq!(count, 3);
            assert!(size.0 >= bytes && size.0 <= bytes + bytes / 4 + 1, "{bytes}: {size:?}");
        }
        for shift in 0..63 {
            let mut demand = Demand::new();
            demand.note(Bytes(1 << shift), 1);
            assert_eq!(demand.sizes().next(), Some((Bytes(1 << shift), 1)));
        }
        let mut demand = Demand::new();
        demand.note(Bytes(u64::MAX), u32::MAX);
        demand.note(Bytes(u64::MAX), 1);
        demand.note(Bytes::ZERO, 1);
        assert_eq!(demand.total(), u64::from(u32::MAX));
        demand.fade();
        assert_eq!(demand.total(), u64::from(u32::MAX / 2));
    }
}
