//! Segments and blocks, one at a time, summed up into a [`Framework`].

use super::open::{Open, insert};
use super::tagged::{Finder, LiveBlock, TaggedBlocks};
use super::{Block, SegmentHead, Stats};
use crate::error::{Error, Result};
use crate::event::{DeviceIndex, Tag};
use crate::framework::{Demand, Framework, Segment, Settings, SizeClass, Space};
use crate::units::Bytes;
use std::collections::HashMap;

/// Spaces that are told apart. Each is a pool and a stream in use at the same time.
const SPACES_MAX: usize = 1 << 16;

/// Sums a snapshot up as it is read. A million blocks take some milliseconds, and no memory for any
/// of them.
///
/// ```
/// use memvelope::event::DeviceIndex;
/// use memvelope::source::torch::{Block, BlockState, Builder, SegmentHead};
///
/// let mut builder = Builder::new(DeviceIndex(0));
/// builder.segment(SegmentHead { address: 0x7000_0000, bytes: 2 << 20, ..Default::default() })?;
/// let block = Block {
///     address: None,
///     bytes: 2 << 20,
///     requested_bytes: Some(2_000_000),
///     state: BlockState::Allocated,
/// };
/// builder.block(&block)?;
/// let framework = builder.finish()?.framework;
/// assert_eq!(framework.requested_bytes.0, 2_000_000);
/// # Ok::<(), memvelope::Error>(())
/// ```
#[derive(Debug)]
pub struct Builder<'a> {
    out: Framework,
    sums: Sums,
    spaces: HashMap<SpaceKey, (usize, u64)>,
    open: Option<Open>,
    /// Segments that were closed.
    count: u64,
    order: Order,
    finder: Option<Finder<'a>>,
    live: Option<Vec<LiveBlock>>,
    untold: u64,
    stats: Option<Stats>,
}

/// Pool, stream, class, and whether it is expandable: PyTorch keeps both kinds together, but passes
/// over the one or the other as its settings say.
type SpaceKey = ((u64, u64), u64, SizeClass, bool);

/// Sums of the device; in 128 bits, so that no snapshot makes them wrap.
#[derive(Debug, Default)]
struct Sums {
    reserved: u128,
    active: u128,
    allocated: u128,
    requested: u128,
    releasable: u128,
    releasable_later: u128,
    by_tag: [u128; Tag::COUNT],
}

/// What is known of the segments' places.
#[derive(Debug, Default)]
struct Order {
    /// The highest end so far.
    end: u64,
    is_disturbed: bool,
}

/// What came of a snapshot.
#[derive(Debug)]
pub struct Reading {
    /// The framework plane.
    pub framework: Framework,
    /// Blocks in use, where [`Builder::with_live`] asked for them.
    pub live: Vec<LiveBlock>,
    /// Of the blocks with a tag, those that are not in use any more, for
    /// [`TaggedBlocks::forget`].
    pub gone: Vec<(LiveBlock, u64)>,
}

impl<'a> Builder<'a> {
    /// Nothing read yet.
    #[must_use]
    pub fn new(device: DeviceIndex) -> Self {
        let out = Framework { device, requests: Demand::new(), ..Framework::default() };
        Self {
            out,
            sums: Sums::default(),
            spaces: HashMap::new(),
            open: None,
            count: 0,
            order: Order::default(),
            finder: None,
            live: None,
            untold: 0,
            stats: None,
        }
    }

    /// Blocks that have a tag get it.
    #[must_use]
    pub fn with_tags(mut self, tagged: &'a TaggedBlocks) -> Self {
        self.finder = (!tagged.is_empty()).then(|| Finder::new(tagged));
        if tagged.refused() > 0 {
            self.out.notes.push(format!(
                "{} blocks got no tag: {} are remembered at most",
                tagged.refused(),
                TaggedBlocks::MAX
            ));
        }
        self
    }

    /// The blocks in use are kept, too: 16 bytes each.
    #[must_use]
    pub fn with_live(mut self) -> Self {
        self.live = Some(Vec::new());
        self
    }

    /// How the allocator is configured; before the first segment, since pages depend on it.
    pub fn settings(&mut self, settings: Settings) {
        self.out.settings = settings;
    }

    /// What its statistics say.
    pub fn stats(&mut self, stats: Stats) {
        self.stats = Some(stats);
    }

    /// Adds a sentence to [`Framework::notes`].
    pub fn note(&mut self, sentence: String) {
        self.out.notes.push(sentence);
    }

    /// The next segment begins, and the last one is over.
    ///
    /// # Errors
    /// [`Error::ReadAllocator`] if the last one's blocks do not fill it or do not add up to what it
    /// said, if this one is empty or ends past the last address, or if it overlaps with another.
    pub fn segment(&mut self, head: SegmentHead) -> Result<()> {
        self.close()?;
        let at = |problem: &str| failed(self.place_of(&head), problem);
        if head.bytes == 0 {
            return Err(at("total_size is 0"));
        }
        let Some(end) = head.address.checked_add(head.bytes) else {
            return Err(at("it ends past the last address"));
        };
        if head.address < self.order.end {
            // They come by address from PyTorch; from elsewhere they may not, while all are kept.
            if self.count >= Framework::SEGMENTS_MAX as u64 {
                return Err(at("it overlaps with another segment, or comes after a higher one"));
            }
            self.order.is_disturbed = true;
        }
        self.order.end = self.order.end.max(end);
        self.open = Some(Open::new(head, &self.out.settings));
        Ok(())
    }

    /// The next block of the segment.
    ///
    /// # Errors
    /// [`Error::ReadAllocator`] if no segment began; if the block is empty, is not where the last one
    /// ended or ends past the segment's end; if more was asked for than it has.
    #[inline]
    pub fn block(&mut self, block: &Block) -> Result<()> {
        let Some(open) = &mut self.open else {
            return Err(failed("the first block".into(), "no segment began"));
        };
        match open.block(block, &mut self.out.requests, self.finder.as_mut()) {
            Ok(requested) => {
                if let (Some(live), Some(requested_bytes)) = (&mut self.live, requested) {
                    let address = open.head.address + (open.bytes - block.bytes);
                    live.push(LiveBlock { address, requested_bytes });
                }
                Ok(())
            }
            Err(problem) => Err(failed(self.place(), &problem.to_string())),
        }
    }

    /// Where reading is, in words, for errors of whoever walks the snapshot.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.open {
            Some(open) => format!("{}, block {}", self.place_of(&open.head), open.blocks),
            None => format!("segment {}", self.count),
        }
    }

    /// The snapshot is over.
    ///
    /// # Errors
    /// [`Error::ReadAllocator`] as [`Self::segment`], and if a sum is beyond 64 bits.
    pub fn finish(mut self) -> Result<Reading> {
        self.close()?;
        self.check_places()?;
        if self.count > Framework::SEGMENTS_MAX as u64 {
            let most = Framework::SEGMENTS_MAX;
            self.note(format!("{} segments: more than {most} are not listed", self.count));
        }
        if self.untold > 0 {
            self.note(format!(
                "{} blocks in use do not say what was asked for (PyTorch before 2.0): their whole \
                 size counts, and rounding is not told",
                self.untold
            ));
        }
        let Self { mut out, sums, stats, finder, live, .. } = self;
        let total = |name: &str, sum: u128| {
            u64::try_from(sum).map(Bytes).map_err(|_| failed(name.into(), "the sum is past 2^64"))
        };
        out.reserved_bytes = total("total_size", sums.reserved)?;
        out.active_bytes = total("size", sums.active)?;
        out.allocated_bytes = total("size", sums.allocated)?;
        out.requested_bytes = total("requested_size", sums.requested)?;
        out.releasable_bytes = total("size", sums.releasable)?;
        out.awaiting_releasable_bytes =
            total("size", sums.releasable_later.saturating_sub(sums.releasable))?;
        for (bytes, sum) in out.by_tag.iter_mut().zip(sums.by_tag) {
            *bytes = total("requested_size", sum)?;
        }
        if let Some(stats) = stats {
            out.turnover = stats.turnover;
            out.alloc_retries = stats.alloc_retries;
            out.ooms = stats.ooms;
            compare(&mut out, &stats);
        }
        out.spaces.sort_unstable_by_key(key_of);
        let gone = finder.map(Finder::gone).unwrap_or_default();
        Ok(Reading { framework: out, live: live.unwrap_or_default(), gone })
    }

    /// The open segment is over.
    fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if let Err(problem) = open.close() {
            return Err(failed(self.place_of(&open.head), &problem.to_string()));
        }
        self.sums.add(&open);
        self.out.blocks += open.blocks;
        self.untold += open.untold;
        self.enter(&open);
        self.add_to_space(&open)?;
        self.count += 1;
        Ok(())
    }

    fn enter(&mut self, open: &Open) {
        let head = &open.head;
        if self.count >= Framework::SEGMENTS_MAX as u64 {
            return;
        }
        self.out.segments.push(Segment {
            address: head.address,
            bytes: Bytes(head.bytes),
            is_expandable: head.is_expandable,
            is_private: head.pool != (0, 0),
            active_bytes: Bytes(open.active),
            requested_bytes: Bytes(open.requested),
        });
    }

    fn add_to_space(&mut self, open: &Open) -> Result<()> {
        let SegmentHead { pool, stream, class, is_expandable, .. } = open.head;
        let next = self.out.spaces.len();
        let key = (pool, stream, class, is_expandable);
        let (at, segments) = self.spaces.entry(key).or_insert((next, 0));
        let (at, is_alone) = (*at, *segments == 0);
        *segments += 1;
        if at == next {
            if next >= SPACES_MAX {
                let problem = format!("more than {SPACES_MAX} pools and streams");
                return Err(failed(self.place_of(&open.head), &problem));
            }
            self.out.spaces.push(Space { pool, stream, class, is_expandable, ..Space::default() });
        }
        let Some(space) = self.out.spaces.get_mut(at) else { return Ok(()) };
        // Segments do not overlap, or there is an error at the end: the sums stay below 2^64, but
        // for one that is never shown.
        let add = |sum: &mut Bytes, bytes: u64| *sum = sum.saturating_add(Bytes(bytes));
        add(&mut space.reserved_bytes, open.head.bytes);
        add(&mut space.active_bytes, open.active);
        add(&mut space.requested_bytes, open.requested);
        add(&mut space.untagged_bytes, open.by_tag.first().copied().unwrap_or_default());
        add(&mut space.releasable_bytes, open.releasable);
        space.largest_free_bytes = space.largest_free_bytes.max(Bytes(open.largest_free));
        space.free_blocks += open.free_blocks;
        // A second range: there is a hole in what is mapped, or a second reservation.
        let tail = if is_expandable && is_alone { open.tail } else { 0 };
        space.tail_free_bytes = Bytes(tail);
        if self.out.settings.max_split_size.is_some() {
            space.largest_splittable_free_bytes =
                space.largest_splittable_free_bytes.max(Bytes(open.largest_splittable));
            open.unsplittable.iter().for_each(|size| insert(&mut space.unsplittable_free, *size));
        }
        Ok(())
    }

    /// Segments that did not come by address: they are sorted, and must not overlap. More than
    /// [`Framework::SEGMENTS_MAX`] came by address from there on, see [`Self::segment`].
    fn check_places(&mut self) -> Result<()> {
        let segments = &mut self.out.segments;
        if self.order.is_disturbed {
            segments.sort_unstable_by_key(|segment| segment.address);
            for pair in segments.windows(2) {
                let [first, second] = pair else { continue };
                if first.address + first.bytes.0 > second.address {
                    let place =
                        format!("the segments at {:#x} and {:#x}", first.address, second.address);
                    return Err(failed(place, "they overlap"));
                }
            }
        }
        if self.count > Framework::SEGMENTS_MAX as u64 {
            segments.clear();
        }
        Ok(())
    }

    fn place_of(&self, head: &SegmentHead) -> String {
        format!("segment {} at {:#x}", self.count, head.address)
    }
}

impl Sums {
    fn add(&mut self, open: &Open) {
        self.reserved += u128::from(open.head.bytes);
        self.active += u128::from(open.active);
        self.allocated += u128::from(open.allocated);
        self.requested += u128::from(open.requested);
        self.releasable += u128::from(open.releasable);
        self.releasable_later += u128::from(open.releasable_later);
        for (sum, bytes) in self.by_tag.iter_mut().zip(open.by_tag) {
            *sum += u128::from(bytes);
        }
    }
}

const fn key_of(space: &Space) -> SpaceKey {
    (space.pool, space.stream, space.class, space.is_expandable)
}

/// Statistics that were read at another moment are said to be.
fn compare(out: &mut Framework, stats: &Stats) {
    let pairs = [
        ("reserved", stats.reserved_bytes, out.reserved_bytes),
        ("active", stats.active_bytes, out.active_bytes),
        ("allocated", stats.allocated_bytes, out.allocated_bytes),
    ];
    for (name, told, sum) in pairs {
        if let Some(told) = told.filter(|told| *told != sum.0) {
            out.notes.push(format!(
                "the statistics tell of another moment: {told} bytes {name}, the segments {}",
                sum.0
            ));
        }
    }
}

fn failed(place: String, problem: &str) -> Error {
    Error::ReadAllocator { place, problem: problem.into() }
}
