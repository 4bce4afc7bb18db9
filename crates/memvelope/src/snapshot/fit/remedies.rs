//! What would make room, and whether it would be enough.
//!
//! Enough is said only where it is sure: bytes that go back to the driver serve any request, bytes
//! that go back to a cache may lie in pieces.

use super::ask::idle_of;
use super::cache::{Cache, Tail, class_of};
use super::{Epoch, Remedy, RemedyKind};
use crate::event::Tag;
use crate::units::Bytes;

/// A request that finds no room.
pub(super) struct Need<'a> {
    pub(super) epoch: &'a Epoch,
    pub(super) free: Bytes,
    /// The request as it is rounded.
    pub(super) rounded: u64,
    /// What it would take from the driver.
    pub(super) needed: Bytes,
    pub(super) page: u64,
    /// For requests to the framework.
    pub(super) cache: Option<&'a Cache<'a>>,
    /// Whether the limit of the process forbids it, rather than want of memory.
    pub(super) is_limited: bool,
}

impl Need<'_> {
    /// Bytes that are free, or become so by themselves before the request fails.
    pub(super) fn room(&self) -> u64 {
        self.free.0.saturating_add(self.given_back())
    }

    /// What the allocator gives back by itself.
    pub(super) fn given_back(&self) -> u64 {
        self.cache.filter(|cache| cache.releases()).map_or(0, Cache::releasable)
    }

    fn is_enough(&self, more: u64) -> bool {
        let room = self.room().saturating_add(more);
        self.needed.0 <= room - room % self.page
    }

    /// Whether bytes that come back to a cache could make one block with what is free there.
    fn may_lie_together(&self, bytes: u64) -> bool {
        let cached = self.cache.map_or(0, |cache| {
            let spaces = cache.spaces(class_of(self.rounded));
            spaces.map(|space| space.cached_bytes()).sum::<Bytes>().0
        });
        bytes > 0 && bytes.saturating_add(cached) >= self.rounded
    }
}

/// The largest recovery first.
pub(super) fn remedies(need: &Need<'_>) -> Vec<Remedy> {
    let mut all = Vec::new();
    all.extend(raise_limit(need));
    all.extend(empty_cache(need));
    all.extend(expandable(need));
    all.extend(synchronize(need));
    if !need.is_limited {
        all.extend(trim_pools(need));
        all.extend(others(need));
    }
    all.extend(Tag::ALL.into_iter().filter_map(|tag| free_tag(need, tag)));
    all.retain(|remedy| remedy.recovers_bytes > Bytes::ZERO);
    all.sort_by(|a, b| {
        let key = |remedy: &Remedy| (remedy.is_enough, remedy.recovers_bytes);
        b.recovers_bytes.cmp(&a.recovers_bytes).then_with(|| key(b).cmp(&key(a)))
    });
    all
}

fn remedy(kind: RemedyKind, recovers: u64, is_enough: bool, text: String) -> Remedy {
    let ending = if is_enough { "" } else { "; not enough by itself" };
    Remedy { kind, recovers_bytes: Bytes(recovers), is_enough, text: format!("{text}{ending}") }
}

/// One that is enough if all of the bytes can be used, which is not sure.
fn unsure(kind: RemedyKind, recovers: u64, may_be_enough: bool, text: String) -> Remedy {
    if !may_be_enough {
        return remedy(kind, recovers, false, text);
    }
    let text = format!("{text}; it may be enough");
    Remedy { kind, recovers_bytes: Bytes(recovers), is_enough: false, text }
}

fn raise_limit(need: &Need<'_>) -> Option<Remedy> {
    let cache = need.cache.filter(|_| need.is_limited)?;
    let limit = cache.settings().limit_bytes?;
    let given_back = need.given_back();
    let has = cache.limit_room(given_back);
    // A segment's size counts against it, also where an expandable one grows by less.
    let over = Bytes(cache.segment(need.rounded)).saturating_sub(Bytes(has));
    let recovers = cache.pages(need.room()).saturating_sub(has);
    let text = format!(
        "raise the limit of this process by {over} (set_per_process_memory_fraction, now {limit})"
    );
    Some(remedy(RemedyKind::RaiseLimit, recovers, need.is_enough(0), text))
}

/// The framework does it by itself where it may; it helps the driver, pools, and graphs.
fn empty_cache(need: &Need<'_>) -> Option<Remedy> {
    if need.cache.is_some_and(Cache::releases) {
        return None;
    }
    let framework = need.epoch.framework.as_ref()?;
    let recovers = framework.releasable_bytes.saturating_add(framework.awaiting_releasable_bytes).0;
    let when = if need.cache.is_some() { " before the capture begins" } else { "" };
    let is_enough = match need.cache {
        None => need.is_enough(recovers),
        // The limit counts what is reserved; the free end of an expandable segment may go, too.
        Some(cache) => {
            let free = cache.free.saturating_add(recovers);
            let taken = cache.taken(need.rounded, Tail::None);
            cache.segment(need.rounded) <= cache.limit_room(recovers) && taken <= cache.pages(free)
        }
    };
    let text = format!("torch.cuda.empty_cache(){when} would give back {}", Bytes(recovers));
    Some(remedy(RemedyKind::EmptyCache, recovers, is_enough, text))
}

/// What could be used of the stranded bytes if segments were expandable: of each free block the
/// whole pages inside, which are at least its size less two pages.
fn expandable(need: &Need<'_>) -> Option<Remedy> {
    // Private pools give nothing back while they are in use, and get nothing of the others' cache.
    let cache = need.cache.filter(|cache| cache.releases())?;
    if cache.is_expandable() || need.is_limited {
        return None;
    }
    let class = class_of(need.rounded);
    let edges = cache.segment_page(class).saturating_mul(2);
    let spaces = cache.framework.spaces.iter();
    let spaces = spaces.filter(|space| space.class == class && space.pool == cache.pool);
    let (mut stranded, mut sure) = (0_u64, 0_u64);
    for space in spaces {
        let bytes = space.stranded_bytes().0;
        stranded = stranded.saturating_add(bytes);
        sure = sure.saturating_add(bytes.saturating_sub(space.free_blocks.saturating_mul(edges)));
    }
    let fits = |more: u64| {
        cache.taken_expandable(need.rounded) <= cache.pages(need.room().saturating_add(more))
    };
    let may_be_enough = fits(stranded);
    let stranded = Bytes(stranded);
    let whole = match sure {
        0 => "whether in whole pages, which would be given back, is not known".to_owned(),
        sure => format!("at least {} in whole pages, which would be given back", Bytes(sure)),
    };
    let text = format!(
        "restart with PYTORCH_ALLOC_CONF=expandable_segments:True: {stranded} are stranded beside \
         blocks in use, {whole}"
    );
    let kind = RemedyKind::ExpandableSegments;
    Some(if fits(sure) {
        remedy(kind, stranded.0, true, text)
    } else {
        unsure(kind, stranded.0, may_be_enough, text)
    })
}

/// What awaits streams comes back to the cache; the allocator waits for them by itself before it
/// gives up, but does not look into its cache again.
fn synchronize(need: &Need<'_>) -> Option<Remedy> {
    let cache = need.cache?;
    let framework = cache.framework;
    let awaiting = framework.active_bytes.saturating_sub(framework.allocated_bytes);
    let text = format!(
        "wait for the streams (torch.cuda.synchronize()) before the request: up to {awaiting} come \
         back to the cache, and may lie in pieces"
    );
    Some(unsure(RemedyKind::Synchronize, awaiting.0, need.may_lie_together(awaiting.0), text))
}

/// A pool gives back what lies in no allocation's piece: all of it where there is none, else up to
/// all that nobody uses.
fn trim_pools(need: &Need<'_>) -> Option<Remedy> {
    let pools = &need.epoch.totals.pools;
    let idle = pools.iter().map(idle_of).sum::<Bytes>();
    let in_no_use = pools.iter().filter(|pool| pool.used_bytes == Some(Bytes::ZERO));
    let sure = in_no_use.map(idle_of).sum::<Bytes>();
    let at_most = if sure == idle { "" } else { "up to " };
    let text =
        format!("cuMemPoolTrimTo(pool, 0) on every memory pool would give back {at_most}{idle}");
    Some(if need.is_enough(sure.0) {
        remedy(RemedyKind::TrimPools, idle.0, true, text)
    } else {
        unsure(RemedyKind::TrimPools, idle.0, need.is_enough(idle.0), text)
    })
}

fn others(need: &Need<'_>) -> Option<Remedy> {
    let bytes = need.epoch.others_bytes?;
    let text = format!("other processes on this device use {bytes}");
    Some(remedy(RemedyKind::OtherProcesses, bytes.0, need.is_enough(bytes.0), text))
}

/// What the driver handed out for the framework's segments, of one tag. Where nobody looked (or
/// there are too many), all of them may carry it.
fn in_segments(epoch: &Epoch, of: impl Fn(&[Bytes; Tag::COUNT]) -> u64) -> u64 {
    let Some(framework) = &epoch.framework else { return 0 };
    if epoch.matched.is_empty() || epoch.matched.len() < framework.segments.len() {
        return framework.reserved_bytes.0;
    }
    epoch.matched.iter().fold(0, |sum, matched| sum.saturating_add(of(&matched.by_tag)))
}

/// What carries a tag: driver allocations go back to the driver, blocks to the cache.
fn free_tag(need: &Need<'_>, tag: Tag) -> Option<Remedy> {
    if tag == Tag::Untagged {
        return None;
    }
    let of = |by_tag: &[Bytes; Tag::COUNT]| by_tag.get(tag as usize).map_or(0, |bytes| bytes.0);
    let epoch = need.epoch;
    let live = epoch.totals.by_tag.get(tag as usize).map_or(0, |totals| totals.live_bytes.0);
    let driver = live.saturating_sub(in_segments(epoch, of));
    let blocks = epoch.framework.as_ref().map_or(0, |framework| of(&framework.by_tag));
    let name = tag.name();
    let text = match (driver, blocks) {
        (driver, 0) => format!("free what is tagged {name}: {}", Bytes(driver)),
        (0, blocks) => format!(
            "free what is tagged {name}: {} go back to torch's cache, and may lie in pieces",
            Bytes(blocks)
        ),
        (driver, blocks) => format!(
            "free what is tagged {name}: {}, and {} go back to torch's cache and may lie in pieces",
            Bytes(driver),
            Bytes(blocks)
        ),
    };
    let recovers = if need.is_limited || need.cache.is_some() {
        driver.saturating_add(blocks)
    } else {
        driver
    };
    // What the driver gets back does not count against the limit.
    if !need.is_limited && need.is_enough(driver) {
        return Some(remedy(RemedyKind::FreeTag, recovers, true, text));
    }
    let blocks = if need.cache.is_some() { blocks } else { 0 };
    let may_be_enough = need.may_lie_together(blocks)
        || !need.is_limited && need.is_enough(driver.saturating_add(blocks));
    Some(unsure(RemedyKind::FreeTag, recovers, may_be_enough, text))
}
