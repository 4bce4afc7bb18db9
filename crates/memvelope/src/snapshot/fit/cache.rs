//! What PyTorch's caching allocator does with a request, as far as it decides whether it is served.
//!
//! Source: `c10/cuda/CUDACachingAllocator.cpp`, `malloc` and what it calls (2.x; names of its
//! functions stand beside what follows them). In order:
//!
//! 1. The size is rounded to 512 bytes; up to 1 MiB it is of the small class (`round_size`).
//! 2. The smallest free block of the pool, stream and class that is large enough, unless
//!    `max_split_size` forbids to take it (`get_free_block`).
//! 3. A new segment from the driver, or a growth of an expandable one, within the limit of the
//!    process (`alloc_block`, `get_allocation_size`, `try_allocate_expandable_block`).
//! 4. All streams are waited for, whole free segments and pages are given back, and 3 is tried once
//!    more (`release_cached_blocks`); 2 is not. While a graph is captured this step is left out.

use crate::framework::{Framework, Settings, SizeClass, Space};
use crate::units::Bytes;

/// Sizes are rounded up to multiples of it (`kMinBlockSize`).
const BLOCK: u64 = 512;
/// The largest request of the small class (`kSmallSize`).
pub(super) const SMALL_MAX: u64 = 1 << 20;
/// Segment of the small class (`kSmallBuffer`), and its page if it is expandable.
pub(super) const SMALL_SEGMENT: u64 = 2 << 20;
/// Segment of requests below [`OWN_SEGMENT_MIN`] (`kLargeBuffer`, `large_segment_size`), and page of
/// large expandable ones.
pub(super) const LARGE_SEGMENT: u64 = 20 << 20;
/// From this size on, a request gets a segment of its own size (`kMinLargeAlloc`) …
const OWN_SEGMENT_MIN: u64 = 10 << 20;
/// … rounded up to a multiple of this (`kRoundLarge`).
const OWN_SEGMENT_STEP: u64 = 2 << 20;
/// How much larger than the request a block may be that must not be split
/// (`max_non_split_rounding_size`).
const UNSPLIT_EXCESS: u64 = 20 << 20;

/// Rounds a request as the allocator does.
pub(super) fn rounded(bytes: u64) -> u64 {
    Bytes(bytes.max(1)).rounded_up_to(BLOCK).0
}

pub(super) const fn class_of(rounded: u64) -> SizeClass {
    if rounded <= SMALL_MAX { SizeClass::Small } else { SizeClass::Large }
}

/// How a request is served, with what is taken from the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    Cached,
    Free(u64),
    AfterRelease(u64),
    /// Not at all. Taken would be so much, and whether the limit of the process is what forbids it.
    Not(u64, bool),
}

impl Served {
    pub(super) const fn is_served(self) -> bool {
        !matches!(self, Self::Not(..))
    }
}

/// A question to the driver.
#[derive(Clone, Copy)]
struct Attempt {
    /// Given back before.
    released: u64,
    tail: Tail,
}

/// What is left of the free end of an expandable segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    All,
    /// Its whole pages went with the cache.
    Rest,
    None,
}

/// Requests of one stream to one pool, and what is there for them.
pub(super) struct Cache<'a> {
    pub(super) framework: &'a Framework,
    pub(super) stream: u64,
    pub(super) pool: (u64, u64),
    /// Of the device.
    pub(super) total: u64,
    pub(super) free: u64,
    /// The driver's page.
    pub(super) page: u64,
}

impl Cache<'_> {
    pub(super) const fn settings(&self) -> &Settings {
        &self.framework.settings
    }

    pub(super) fn is_expandable(&self) -> bool {
        let told = self.settings().expandable_segments;
        told.unwrap_or_else(|| self.framework.spaces.iter().any(|space| space.is_expandable))
    }

    /// Whether the allocator empties its cache by itself before it gives up. While a graph is
    /// captured it does not, and what else allocates from a pool of its own is not told apart from
    /// that.
    pub(super) const fn releases(&self) -> bool {
        matches!(self.pool, (0, 0))
    }

    /// What emptying the cache gives back to the driver.
    pub(super) const fn releasable(&self) -> u64 {
        let framework = self.framework;
        framework.releasable_bytes.saturating_add(framework.awaiting_releasable_bytes).0
    }

    /// Spaces that serve such requests. Blocks of expandable segments are passed over once the
    /// setting is off.
    pub(super) fn spaces(&self, class: SizeClass) -> impl Iterator<Item = &Space> {
        let key = (self.pool, self.stream, class);
        let is_passed_over = self.settings().expandable_segments == Some(false);
        self.framework.spaces.iter().filter(move |space| {
            (space.pool, space.stream, space.class) == key
                && !(is_passed_over && space.is_expandable)
        })
    }

    /// What free memory of the device serves, in whole pages.
    pub(super) fn pages(&self, free: u64) -> u64 {
        free - free.checked_rem(self.page).unwrap_or(0)
    }

    pub(super) fn segment_page(&self, class: SizeClass) -> u64 {
        let large = self.settings().large_segment_bytes.map_or(LARGE_SEGMENT, |bytes| bytes.0);
        match class {
            SizeClass::Small => SMALL_SEGMENT,
            SizeClass::Large => large.max(1),
        }
    }

    /// The size of a segment for a request; it is what counts against the limit, also where an
    /// expandable one grows by less.
    pub(super) fn segment(&self, rounded: u64) -> u64 {
        match class_of(rounded) {
            SizeClass::Small => SMALL_SEGMENT,
            SizeClass::Large if rounded < OWN_SEGMENT_MIN => self.segment_page(SizeClass::Large),
            SizeClass::Large => Bytes(rounded).rounded_up_to(OWN_SEGMENT_STEP).0,
        }
    }

    /// The free end of the expandable segment that would grow, and above which and up to which size
    /// requests make it grow: smaller ones find a hole in what is mapped, and a segment has addresses
    /// for nine eighths of the device; where those do not do, another one begins.
    fn tail(&self, class: SizeClass, kept: Tail) -> (u64, (u64, u64)) {
        let page = self.segment_page(class);
        let addresses = self.total.saturating_add(self.total / 8);
        let addresses = addresses - addresses % page;
        let tails = self.spaces(class).filter(|space| space.is_expandable).map(|space| {
            let tail = space.tail_free_bytes.0;
            let holes = space.hole_bytes.0;
            let before = space.reserved_bytes.0.saturating_add(holes).saturating_sub(tail);
            (tail, (holes, addresses.saturating_sub(before)))
        });
        let (tail, reach) = tails.max().unwrap_or_default();
        match kept {
            Tail::All => (tail, reach),
            Tail::Rest => (tail % page, reach),
            Tail::None => (0, (0, 0)),
        }
    }

    /// What a request that no block serves takes from the driver.
    pub(super) fn taken(&self, rounded: u64, kept: Tail) -> u64 {
        let class = class_of(rounded);
        let taken = if self.is_expandable() {
            let (tail, (above, up_to)) = self.tail(class, kept);
            let tail = if rounded > above && rounded <= up_to { tail } else { 0 };
            Bytes(rounded.saturating_sub(tail)).rounded_up_to(self.segment_page(class)).0
        } else {
            self.segment(rounded)
        };
        Bytes(taken).rounded_up_to(self.page).0
    }

    /// The same if segments were expandable from the start.
    pub(super) fn taken_expandable(&self, rounded: u64) -> u64 {
        let pages = Bytes(rounded).rounded_up_to(self.segment_page(class_of(rounded)));
        pages.rounded_up_to(self.page).0
    }

    /// What the limit of the process leaves once `released` bytes were given back.
    pub(super) fn limit_room(&self, released: u64) -> u64 {
        let Some(limit) = self.settings().limit_bytes else { return u64::MAX };
        let reserved = self.framework.reserved_bytes.0.saturating_sub(released);
        limit.0.saturating_sub(reserved)
    }

    /// Whether a free block serves the request. Where some segments are expandable and others are not,
    /// which block is looked at depends on what each can grow to: then all must serve it.
    fn hits(&self, rounded: u64) -> bool {
        let spaces = self.spaces(class_of(rounded));
        let mut fitting = spaces.filter(|space| space.largest_free_bytes.0 >= rounded).peekable();
        fitting.peek().is_some()
            && fitting.all(|space| block_serves(space, rounded, self.settings()))
    }

    pub(super) fn serve(&self, bytes: u64) -> Served {
        let rounded = rounded(bytes);
        if self.hits(rounded) {
            return Served::Cached;
        }
        let mut failed = Served::Not(0, false);
        for attempt in self.attempts() {
            let taken = self.taken(rounded, attempt.tail);
            let is_limited = self.segment(rounded) > self.limit_room(attempt.released);
            if is_limited || taken > self.pages(self.free.saturating_add(attempt.released)) {
                failed = Served::Not(taken, is_limited);
            } else if attempt.tail == Tail::All {
                return Served::Free(taken);
            } else {
                return Served::AfterRelease(taken);
            }
        }
        failed
    }

    /// How the driver is asked: at once, and after the cache was emptied. The latter is looked at
    /// without what awaits streams, which is sure to be no less than that, and with it; the free end
    /// of an expandable segment may then be a part of it and is not counted beside.
    fn attempts(&self) -> impl Iterator<Item = Attempt> {
        let framework = self.framework;
        let at_once = Attempt { released: 0, tail: Tail::All };
        let later = [
            Attempt { released: framework.releasable_bytes.0, tail: Tail::Rest },
            Attempt { released: self.releasable(), tail: Tail::None },
        ];
        let count = if self.releases() { later.len() } else { 0 };
        std::iter::once(at_once).chain(later.into_iter().take(count))
    }

    /// The largest request of a class that is served; 0 if none is. Smaller ones may not be: one of
    /// 5 MiB needs a segment of 20, one of 11 MiB one of 12.
    pub(super) fn largest(&self, class: SizeClass) -> u64 {
        let cached = self.spaces(class).map(|space| space.largest_free_bytes.0).max().unwrap_or(0);
        if class == SizeClass::Small {
            let candidates = [SMALL_MAX, cached.min(SMALL_MAX) / BLOCK * BLOCK];
            let served = candidates.into_iter().filter(|bytes| self.serve(*bytes).is_served());
            return served.max().unwrap_or(0);
        }
        let mut candidates = vec![cached];
        for Attempt { released, tail } in self.attempts() {
            let room = self.pages(self.free.saturating_add(released));
            let limit = self.limit_room(released);
            let held = limit - limit % OWN_SEGMENT_STEP;
            let grown = if self.is_expandable() {
                let page = self.segment_page(class).max(self.page);
                let (tail, (_, up_to)) = self.tail(class, tail);
                let pages = room - room % page;
                [tail.saturating_add(pages).min(up_to), pages]
            } else {
                [room; 2]
            };
            for grown in grown.map(|grown| grown.min(held)) {
                // Below the size that gets a segment of its own, the segment decides.
                candidates.extend([grown, grown.min(OWN_SEGMENT_MIN - BLOCK)]);
            }
        }
        let is_of_class = |bytes: &u64| class_of(rounded(*bytes)) == class;
        let candidates = candidates.into_iter().map(|bytes| bytes - bytes % BLOCK);
        let served = candidates.filter(is_of_class).filter(|at| self.serve(*at).is_served());
        served.max().unwrap_or(0)
    }

    pub(super) fn largest_of_all(&self) -> u64 {
        self.largest(SizeClass::Large).max(self.largest(SizeClass::Small))
    }
}

/// Whether the smallest block that is large enough may be taken.
fn block_serves(space: &Space, rounded: u64, settings: &Settings) -> bool {
    let Some(split) = settings.max_split_size.map(|bytes| bytes.0) else {
        return rounded <= space.largest_free_bytes.0;
    };
    // Where only the largest block is told, it stands for those that are not.
    let largest = space.largest_free_bytes.0;
    if rounded < split {
        // A large block is not taken for a small request, even if there is no other.
        let told = space.largest_splittable_free_bytes.0;
        return rounded <= if largest < split { largest } else { told };
    }
    let mut unsplittable = space.unsplittable_free.iter().map(|bytes| bytes.0);
    let best = unsplittable.find(|bytes| *bytes >= rounded);
    best.or((largest >= rounded).then_some(largest))
        .is_some_and(|best| best - rounded < UNSPLIT_EXCESS)
}
