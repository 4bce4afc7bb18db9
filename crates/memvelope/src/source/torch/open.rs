//! A segment whose blocks are being read.

use super::tagged::Finder;
use super::{Block, BlockState, LARGE_SEGMENT, SMALL_SEGMENT, SegmentHead};
use crate::event::Tag;
use crate::framework::{Demand, Settings, SizeClass, Space};
use crate::units::Bytes;

/// What is wrong with a block or a segment. Small, because each of a million blocks returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The block has no bytes.
    Empty,
    /// The blocks are longer than the segment.
    PastEnd,
    /// The block's address is not where the last one ended.
    Elsewhere(u64),
    /// More was asked for than the block has.
    Overfull(u64),
    /// The blocks are shorter than the segment.
    Short(u64),
    /// `allocated_size` or `active_size` is not the sum of the blocks.
    Sum(&'static str, u64, u64),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("size is 0"),
            Self::PastEnd => f.write_str("it ends past the end of its segment"),
            Self::Elsewhere(address) => {
                write!(f, "address is {address:#x}, which is not where the last block ended")
            }
            Self::Overfull(asked) => write!(f, "requested_size is {asked}, more than size"),
            Self::Short(sum) => write!(f, "its blocks have {sum} bytes, not total_size"),
            Self::Sum(key, told, sum) => write!(f, "{key} is {told}, but its blocks have {sum}"),
        }
    }
}

/// Sums of one segment. They cannot overflow: each is at most the bytes that were read, and those are
/// at most the segment's, whose end is an address.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) head: SegmentHead,
    /// Bytes of the blocks so far.
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) allocated: u64,
    pub(super) active: u64,
    pub(super) requested: u64,
    pub(super) by_tag: [u64; Tag::COUNT],
    pub(super) free_blocks: u64,
    pub(super) largest_free: u64,
    /// Bytes that `empty_cache()` gives back.
    pub(super) releasable: u64,
    /// The same if nothing awaited a stream any more.
    pub(super) releasable_later: u64,
    /// Free bytes at the end.
    pub(super) tail: u64,
    /// The largest free block below `max_split`.
    pub(super) largest_splittable: u64,
    /// Free blocks from `max_split` on, ascending; the smallest ones.
    pub(super) unsplittable: Vec<Bytes>,
    /// `max_split_size`; the largest number without one.
    max_split: u64,
    /// Blocks in use without `requested_size`.
    pub(super) untold: u64,
    /// Free bytes up to here without a block in between.
    run: u64,
    /// Those, and bytes that await a stream.
    run_later: u64,
    /// What an expandable segment is mapped and unmapped by.
    page: u64,
}

impl Open {
    pub(super) fn new(head: SegmentHead, settings: &Settings) -> Self {
        let large = settings.large_segment_bytes.filter(|page| page.0 > 0);
        let page = match head.class {
            SizeClass::Small => SMALL_SEGMENT.0,
            SizeClass::Large => large.unwrap_or(LARGE_SEGMENT).0,
        };
        Self {
            head,
            bytes: 0,
            blocks: 0,
            allocated: 0,
            active: 0,
            requested: 0,
            by_tag: [0; Tag::COUNT],
            free_blocks: 0,
            largest_free: 0,
            releasable: 0,
            releasable_later: 0,
            tail: 0,
            largest_splittable: 0,
            unsplittable: Vec::new(),
            max_split: settings.max_split_size.map_or(u64::MAX, |bytes| bytes.0),
            untold: 0,
            run: 0,
            run_later: 0,
            page,
        }
    }

    /// The next block. Afterwards the segment is what it was, or the block is in it.
    #[inline]
    pub(super) fn block(
        &mut self,
        block: &Block,
        demand: &mut Demand,
        finder: Option<&mut Finder<'_>>,
    ) -> Result<Option<u64>, Problem> {
        if block.bytes == 0 {
            return Err(Problem::Empty);
        }
        // No sum: `bytes` is at most the segment's.
        if block.bytes > self.head.bytes - self.bytes {
            return Err(Problem::PastEnd);
        }
        let address = self.head.address + self.bytes;
        if let Some(told) = block.address.filter(|told| *told != address) {
            return Err(Problem::Elsewhere(told));
        }
        let mut requested = None;
        match block.state {
            BlockState::Inactive => {
                self.run += block.bytes;
                self.run_later += block.bytes;
                self.free_block(block.bytes);
            }
            BlockState::AwaitingFree => {
                self.end_run();
                self.run_later += block.bytes;
                self.active += block.bytes;
            }
            BlockState::Allocated => {
                let asked = block.requested_bytes.unwrap_or(block.bytes);
                if asked > block.bytes {
                    return Err(Problem::Overfull(asked));
                }
                self.untold += u64::from(block.requested_bytes.is_none());
                self.end_run();
                self.end_run_later();
                self.active += block.bytes;
                self.allocated += block.bytes;
                self.requested += asked;
                demand.note(Bytes(asked), 1);
                let tag = finder.map_or(Tag::Untagged, |finder| finder.find(address, asked));
                if let Some(sum) = self.by_tag.get_mut(tag as usize) {
                    *sum += asked;
                }
                requested = Some(asked);
            }
        }
        self.bytes += block.bytes;
        self.blocks += 1;
        Ok(requested)
    }

    /// No more blocks.
    pub(super) fn close(&mut self) -> Result<(), Problem> {
        self.tail = self.run;
        self.end_run();
        self.end_run_later();
        if self.bytes != self.head.bytes {
            return Err(Problem::Short(self.bytes));
        }
        let sums = [
            ("allocated_size", self.head.allocated_bytes, self.allocated),
            ("active_size", self.head.active_bytes, self.active),
        ];
        for (key, told, sum) in sums {
            if let Some(told) = told.filter(|told| *told != sum) {
                return Err(Problem::Sum(key, told, sum));
            }
        }
        Ok(())
    }

    fn free_block(&mut self, bytes: u64) {
        self.free_blocks += 1;
        self.largest_free = self.largest_free.max(bytes);
        if bytes < self.max_split {
            self.largest_splittable = self.largest_splittable.max(bytes);
        } else {
            insert(&mut self.unsplittable, Bytes(bytes));
        }
    }

    /// A run of free bytes ends here, before the next block is counted.
    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        self.releasable += self.releasable_of(run);
    }

    fn end_run_later(&mut self) {
        let run = std::mem::take(&mut self.run_later);
        self.releasable_later += self.releasable_of(run);
    }

    /// What is given back of the last `run` bytes, if they are free.
    fn releasable_of(&self, run: u64) -> u64 {
        // A private pool gives nothing back while its graph or MemPool lives
        // (`release_cached_blocks` empties those of `graph_pools_freeable` only).
        if run == 0 || self.head.pool != (0, 0) {
            return 0;
        }
        if !self.head.is_expandable {
            // `release_blocks`: whole segments.
            return if run == self.head.bytes { run } else { 0 };
        }
        // `ExpandableSegment::unmap`: whole pages. A range that is mapped begins with one.
        let (start, end) = (self.bytes - run, self.bytes);
        let first = start.div_ceil(self.page).saturating_mul(self.page);
        let last = end / self.page * self.page;
        last.saturating_sub(first)
    }
}

/// Enters a size into the smallest ones, ascending.
pub(super) fn insert(sizes: &mut Vec<Bytes>, size: Bytes) {
    let at = sizes.partition_point(|known| *known <= size);
    if at < Space::UNSPLITTABLE_MAX {
        sizes.insert(at, size);
        sizes.truncate(Space::UNSPLITTABLE_MAX);
    }
}
