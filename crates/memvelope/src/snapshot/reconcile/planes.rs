//! The planes' numbers, each counted by one of them alone.

use super::{Reconcile, held};
use crate::event::{AllocKind, LibraryId, Tag};
use crate::framework::Framework;
use crate::ledger::{DeviceTotals, Matched, PoolTotals};
use crate::snapshot::Epoch;
use crate::units::Bytes;
use std::collections::BTreeMap;

pub(super) type ByTag = [i128; Tag::COUNT];

/// What each plane counts.
pub(super) struct Planes {
    pub(super) driver: Option<Driver>,
    pub(super) framework: Option<Segments>,
    /// Set where there is a framework plane whose segments are too many to be matched.
    pub(super) framework_is_unmatched: bool,
    pub(super) pools: Pools,
    pub(super) graphs: Option<Graphs>,
    pub(super) opening: Option<Opening>,
}

/// Driver allocations that count as VRAM and that no framework segment covers.
pub(super) struct Driver {
    pub(super) by_tag: ByTag,
    /// Of those that nobody tagged: by library.
    pub(super) libraries: Vec<(LibraryId, i128)>,
    /// By which the framework's segments cover more than the ledger has.
    pub(super) overdrawn: i128,
}

/// What the framework holds: the parts add up to what it reserved.
#[derive(Default)]
pub(super) struct Segments {
    pub(super) by_tag: ByTag,
    /// Of the untagged requests, those in pools that are not the default one.
    pub(super) private: i128,
    pub(super) rounding: i128,
    pub(super) awaiting: i128,
    pub(super) releasable: i128,
    pub(super) stranded: i128,
    /// Bytes that the driver plane handed out for segments beyond their size.
    pub(super) excess: i128,
    /// Bytes of segments that the driver plane never saw.
    pub(super) unseen: i128,
    /// Bytes of segments that the driver plane knows, but not as VRAM: managed or imported ones.
    pub(super) not_vram: i128,
}

/// Stream-ordered pools.
#[derive(Default)]
pub(super) struct Pools {
    pub(super) are_known: bool,
    pub(super) by_tag: ByTag,
    pub(super) rounding: i128,
    pub(super) idle: i128,
    /// Of it, what destroyed pools held when they were asked last.
    pub(super) idle_of_destroyed: i128,
    /// Pools whose reserve nobody could ask for.
    pub(super) unasked: usize,
}

/// Memory of graphs' own allocations.
pub(super) struct Graphs {
    pub(super) used: i128,
    pub(super) idle: i128,
}

/// What was in use when the session attached.
pub(super) struct Opening {
    /// What is left of it beyond what a line of its own has by now.
    pub(super) bytes: i128,
    /// Whether it may hold others' bytes.
    pub(super) is_device_wide: bool,
    /// Framework segments that were moved out of it.
    pub(super) moved_out: i128,
}

impl Planes {
    pub(super) fn read(input: &Reconcile<'_>) -> Self {
        let epoch = input.epoch;
        // Without segments nobody knows which driver allocations are the framework's.
        let is_unmatched = |held: &&Framework| {
            held.segments.is_empty() && held.reserved_bytes.0 > 0 && !input.allocations_unseen
        };
        let framework_is_unmatched = epoch.framework.as_ref().as_ref().is_some_and(is_unmatched);
        let framework = epoch.framework.as_ref().filter(|held| !is_unmatched(held));
        let framework = framework.map(|framework| segments(framework, epoch));
        let pooled = framework.is_some().then_some(epoch.matched.as_slice());
        let driver = (!input.allocations_unseen)
            .then(|| Driver::read(&epoch.totals, framework.is_some().then_some(epoch)));
        let unseen = framework.as_ref().map_or(0, |framework| framework.unseen);
        Self {
            driver,
            framework,
            framework_is_unmatched,
            pools: Pools::read(&epoch.totals, pooled.unwrap_or_default()),
            graphs: Graphs::read(&epoch.totals),
            opening: Opening::read(input, unseen),
        }
    }
}

impl Driver {
    fn read(totals: &DeviceTotals, matched: Option<&Epoch>) -> Self {
        let matched = matched.map_or(&[][..], |epoch| &epoch.matched);
        let mut by_tag: ByTag =
            std::array::from_fn(|tag| wide(tag_bytes(&totals.by_tag.map(|t| t.live_bytes), tag)));
        let mut libraries: BTreeMap<LibraryId, i128> = BTreeMap::new();
        for library in &totals.libraries {
            *libraries.entry(library.library).or_default() += wide(library.untagged_bytes);
        }
        let untagged = Tag::Untagged as usize;
        let attributed: i128 = libraries.values().sum();
        *libraries.entry(LibraryId::UNKNOWN).or_default() +=
            (tag_sum(&by_tag, untagged) - attributed).max(0);
        for segment in matched {
            for (sum, covered) in by_tag.iter_mut().zip(segment.by_tag) {
                *sum -= wide(covered);
            }
            *libraries.entry(segment.library).or_default() -=
                wide(tag_bytes(&segment.by_tag, untagged));
        }
        let overdrawn = by_tag.iter().map(|bytes| (-bytes).max(0)).sum();
        by_tag = by_tag.map(|bytes| bytes.max(0));
        let libraries = adding_up_to(tag_sum(&by_tag, untagged), libraries);
        Self { by_tag, libraries, overdrawn }
    }
}

/// The shares as they add up to `sum`: none is negative, and what is amiss is the unknown one's as
/// far as that goes, then the largest one's.
fn adding_up_to(sum: i128, shares: BTreeMap<LibraryId, i128>) -> Vec<(LibraryId, i128)> {
    let mut shares: Vec<_> = shares.into_iter().map(|(id, bytes)| (id, bytes.max(0))).collect();
    shares.sort_by_key(|(id, bytes)| (*id != LibraryId::UNKNOWN, -bytes));
    let mut excess = shares.iter().map(|(_, bytes)| bytes).sum::<i128>() - sum;
    if excess < 0 {
        shares.insert(0, (LibraryId::UNKNOWN, -excess));
        excess = 0;
    }
    for (_, bytes) in &mut shares {
        let less = excess.min(*bytes);
        *bytes -= less;
        excess -= less;
    }
    shares
}

/// Splits what the framework reserved, so that the parts add up whatever it says.
fn segments(framework: &Framework, epoch: &Epoch) -> Segments {
    let reserved = wide(framework.reserved_bytes);
    let active = wide(framework.active_bytes).min(reserved);
    let allocated = wide(framework.allocated_bytes).min(active);
    let requested = wide(framework.requested_bytes).min(allocated);
    let mut left = requested;
    let mut by_tag = [0; Tag::COUNT];
    for tag in Tag::ALL.into_iter().filter(|tag| *tag != Tag::Untagged) {
        let bytes = wide(tag_bytes(&framework.by_tag, tag as usize)).min(left);
        if let Some(sum) = by_tag.get_mut(tag as usize) {
            *sum = bytes;
        }
        left -= bytes;
    }
    let is_private = |pool: (u64, u64)| pool != (0, 0);
    let private = framework.spaces.iter().filter(|space| is_private(space.pool));
    let private = private.map(|space| wide(space.untagged_bytes)).sum::<i128>().min(left);
    if let Some(untagged) = by_tag.get_mut(Tag::Untagged as usize) {
        *untagged = left - private;
    }
    let cached = reserved - active;
    let releasable = wide(framework.releasable_bytes).min(cached);
    let mut split = Segments {
        by_tag,
        private,
        rounding: allocated - requested,
        awaiting: active - allocated,
        releasable,
        stranded: cached - releasable,
        ..Segments::default()
    };
    split.compare(framework, epoch, reserved);
    split
}

impl Segments {
    /// With what the driver plane handed out.
    fn compare(&mut self, framework: &Framework, epoch: &Epoch, reserved: i128) {
        let mut covered = 0;
        for (segment, matched) in framework.segments.iter().zip(&epoch.matched) {
            let bytes = wide(segment.bytes);
            let all = matched.by_tag.iter().chain(&matched.pooled_by_tag);
            let driver: i128 = all.map(|bytes| wide(*bytes)).sum();
            self.excess += (driver - bytes).max(0);
            covered += driver.min(bytes);
            if driver == 0 && matched.count > 0 {
                self.not_vram += bytes;
            }
        }
        self.unseen = (reserved - covered - self.not_vram).max(0);
    }
}

impl Pools {
    /// What framework segments are made of is the framework's.
    fn read(totals: &DeviceTotals, matched: &[Matched]) -> Self {
        let mut pools = Self::default();
        for pool in &totals.pools {
            pools.add(pool);
        }
        // A ledger that does not tell its pools apart still knows what they hold in all.
        if totals.pools.is_empty() && totals.pool_reserved_bytes.0 > 0 {
            let used = totals.by_kind.get(AllocKind::PoolUsed as usize);
            let mut by_tag = [Bytes::ZERO; Tag::COUNT];
            if let (Some(untagged), Some(used)) = (by_tag.first_mut(), used) {
                *untagged = used.live_bytes;
            }
            let reserved_bytes = Some(totals.pool_reserved_bytes);
            pools.add(&PoolTotals { reserved_bytes, by_tag, ..PoolTotals::default() });
        }
        for covered in matched {
            for (sum, bytes) in pools.by_tag.iter_mut().zip(covered.pooled_by_tag) {
                *sum = (*sum - wide(bytes)).max(0);
            }
        }
        pools
    }

    fn add(&mut self, pool: &PoolTotals) {
        self.are_known = true;
        self.unasked += usize::from(pool.reserved_bytes.is_none());
        // What is handed out is there, whenever it was that the reserve was asked for.
        let requested: i128 = pool.by_tag.iter().map(|bytes| wide(*bytes)).sum();
        let used = pool.used_bytes.map_or(0, wide).max(requested);
        let reserved = pool.reserved_bytes.map_or(0, wide).max(used);
        for (sum, bytes) in self.by_tag.iter_mut().zip(pool.by_tag) {
            *sum += wide(bytes);
        }
        self.rounding += used - requested;
        self.idle += reserved - used;
        self.idle_of_destroyed += if pool.is_destroyed { reserved - used } else { 0 };
    }
}

impl Graphs {
    fn read(totals: &DeviceTotals) -> Option<Self> {
        if totals.graph_reserved_bytes.is_none() && totals.graph_used_bytes.is_none() {
            return None;
        }
        let used = totals.graph_used_bytes.map_or(0, wide);
        let reserved = totals.graph_reserved_bytes.map_or(0, wide).max(used);
        Some(Self { used, idle: reserved - used })
    }
}

impl Opening {
    fn read(input: &Reconcile<'_>, framework_unseen: i128) -> Option<Self> {
        let plane = input.plane;
        let (bytes, is_device_wide) = match (plane.opening_own_bytes, plane.opening_bytes) {
            (Some(own), _) => (wide(own), false),
            // Others that have a line of their own by now were in it, as far as anybody knows.
            (None, Some(all)) => ((wide(all) - plane.others_bytes.map_or(0, wide)).max(0), true),
            (None, None) => return None,
        };
        let moved_out = framework_unseen.min(bytes);
        Some(Self { bytes: bytes - moved_out, is_device_wide, moved_out })
    }
}

pub(super) fn wide(bytes: Bytes) -> i128 {
    held(i128::from(bytes.0))
}

pub(super) fn tag_bytes(by_tag: &[Bytes; Tag::COUNT], tag: usize) -> Bytes {
    by_tag.get(tag).copied().unwrap_or_default()
}

pub(super) fn tag_sum(by_tag: &ByTag, tag: usize) -> i128 {
    by_tag.get(tag).copied().unwrap_or_default()
}
