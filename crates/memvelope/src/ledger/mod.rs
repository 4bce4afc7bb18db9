//! The ledger: live driver allocations, with totals and peaks by device, kind and tag.
//!
//! **What counts as live.** An allocation is live from the call's success until its free is
//! *entered* (the driver may hand the address out again before the free returns); if the free then
//! fails it is put back. A VMM allocation is live until its references are released *and* its last
//! mapping, binding and exported descriptor are gone; unmapping is booked when the call returns, so
//! a peak may hold for a moment what another thread is just unmapping. Imports, aliases and
//! multicast objects are entries without bytes of VRAM.
//!
//! **Reserves.** Pools and graphs hold physical bytes that are counted once, as the driver told
//! them last; a pool at least as much as is allocated from it. What they hand out is counted beside
//! ([`crate::event::AllocKind::PoolUsed`], [`crate::event::AllocKind::GraphNode`]), never added.
//!
//! **What it cannot know.** Frees of what it never saw allocated change no bytes and are counted
//! ([`Findings::untracked_frees`]): live bytes never go below zero. When the table is full,
//! allocations are counted but not entered, since their frees could not be recognised: the truth
//! then lies between `live_bytes` and `live_bytes` + [`Findings::refused_bytes`]. Bytes saturate.

mod books;
mod history;
mod lookup;
mod mappings;
mod pools;
mod rounding;
mod table;
mod totals;
mod vmm;

use crate::event::{AllocKind, DeviceIndex, Event, GrowthCause, LibraryId, Tag};
use crate::units::Bytes;
use books::Books;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use history::HistoryPoint;
pub use lookup::{Live, Matched};
pub use totals::{DEVICES_MAX, Totals};

/// Live allocations. Bounded, preallocated; its lock is a leaf: nothing foreign is called under it.
#[derive(Debug)]
pub struct Ledger {
    books: Mutex<Books>,
    changes: AtomicU64,
}

/// Totals of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceTotals {
    /// Which device.
    pub device: DeviceIndex,
    /// By [`crate::event::AllocKind`], in its order.
    pub by_kind: [Totals; AllocKind::COUNT],
    /// VRAM by [`crate::event::Tag`], in its order (kinds that count as VRAM only: what pools hand
    /// out is in [`PoolTotals::by_tag`]).
    pub by_tag: [Totals; Tag::COUNT],
    /// VRAM: every kind that counts, plus what pools and graphs hold. Its failures include those
    /// of pools.
    pub vram: Totals,
    /// Physical bytes that pools took.
    pub pool_reserved_bytes: Bytes,
    /// What the driver rounds the live allocations that count as VRAM up by, at most and at least:
    /// see [`Rounding`].
    pub rounding: Rounding,
    /// Live bytes of kinds that count as VRAM, by the library that asked for them; libraries
    /// without any are left out.
    pub libraries: Vec<LibraryTotals>,
    /// Stream-ordered pools, by handle.
    pub pools: Vec<PoolTotals>,
    /// What graphs hold for the allocations inside of them; `None` until the driver was asked.
    pub graph_reserved_bytes: Option<Bytes>,
    /// Of that, in use.
    pub graph_used_bytes: Option<Bytes>,
    /// Bytes that pools and graphs were found to hold when they were first asked, beyond what was seen
    /// to be allocated from them: they were there before. Only grows.
    pub found_bytes: Bytes,
    /// What contexts took for themselves, by [`crate::event::GrowthCause`], in its order.
    pub growth: [GrowthTotals; GrowthCause::COUNT],
    /// Of the live VMM bytes, those whose handles and mappings are gone and that an exported
    /// descriptor alone keeps.
    pub exported_bytes: Bytes,
    /// VMM bytes that were exported and that this process holds no more, all that ever were:
    /// whether another process got a descriptor, and has them still, nobody tells.
    pub passed_on_bytes: Bytes,
}

/// How much more than was asked for the driver takes, by its pages.
///
/// Allocations above the size up to which they share pages take whole pages each; smaller ones are
/// rounded to 512 bytes and share. Source: `cuMemAlloc`'s documented alignment, and the 2 MiB that
/// used memory moves by; where small ones end is not documented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rounding {
    /// Bytes taken beyond those asked for, if the small ones lie as closely as can be.
    pub bytes: Bytes,
    /// How far off that may be.
    pub error_bytes: Bytes,
}

/// What one library holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryTotals {
    /// Which; [`crate::event::Libraries`] has the name.
    pub library: LibraryId,
    /// Live bytes.
    pub live_bytes: Bytes,
    /// Of those, bytes that nobody tagged.
    pub untagged_bytes: Bytes,
    /// Live allocations.
    pub live_count: u64,
}

/// A stream-ordered pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolTotals {
    /// The driver's handle. 0: the current pool of the device, while its handle is not known.
    pub pool: u64,
    /// Physical bytes that it took; `None` while nobody could be asked.
    pub reserved_bytes: Option<Bytes>,
    /// Bytes of it handed out, as the driver counts them (rounded).
    pub used_bytes: Option<Bytes>,
    /// Bytes of it handed out, as they were asked for, by [`crate::event::Tag`], in its order.
    pub by_tag: [Bytes; Tag::COUNT],
    /// Live allocations.
    pub live_count: u64,
    /// Whether the program destroyed it and what is allocated from it keeps it: what it reserved is
    /// then as it was told last, nothing more is handed out, and all goes with the last free.
    pub is_destroyed: bool,
}

/// What contexts took for one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowthTotals {
    /// Bytes, signed.
    pub bytes: i64,
    /// How far off that may be.
    pub error_bytes: Bytes,
    /// Times that it was seen.
    pub count: u64,
}

/// What the ledger noticed about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Frees of addresses it never saw allocated. Those that failed freed nothing and are none.
    pub untracked_frees: u64,
    /// Allocations at an address that was still live (a free was missed).
    pub replaced: u64,
    /// Allocations, mappings and pools not entered because the table was full, or because the
    /// device's ordinal was unknown or past [`DEVICES_MAX`].
    pub refused: u64,
    /// Bytes of those: live bytes are too low by at most so much.
    pub refused_bytes: Bytes,
    /// Frees that failed and were put back.
    pub restored: u64,
    /// Mappings of handles it never saw created (imported, or created before it attached).
    pub untracked_mappings: u64,
    /// Frees whose return was still awaited when too many were: presumed to have succeeded.
    pub presumed_frees: u64,
    /// Allocations that CUPTI's own memory records tell of: to compare with the callbacks' count.
    pub recorded_allocations: u64,
    /// Frees that CUPTI's own memory records tell of.
    pub recorded_frees: u64,
    /// Pools of the program's own that it allocated from: nobody asks for their reserve, so their
    /// physical bytes are in no total.
    pub unasked_pools: u64,
    /// What a pool was said to hold so long ago that nobody remembers whether it has ended since:
    /// more pools ended meanwhile than are kept in mind. It is left out until it is asked again.
    pub late_pools: u64,
    /// Times a sum would have gone below zero: always a bug of ours.
    pub underflows: u64,
}

impl Ledger {
    /// An empty ledger for at most `allocations_max` live entries (VMM mappings take one each),
    /// with a short history.
    #[must_use]
    pub fn new(allocations_max: usize) -> Self {
        Self::with_history(allocations_max, 0)
    }

    /// The same with at most `history_points_max` points of [`Self::history`] (two a device at
    /// least).
    #[must_use]
    pub fn with_history(allocations_max: usize, history_points_max: usize) -> Self {
        let books = Mutex::new(Books::new(allocations_max, history_points_max));
        Self { books, changes: AtomicU64::new(0) }
    }

    /// Takes an event; those that are not about memory are ignored. Neither allocates nor blocks,
    /// its own lock apart.
    pub fn accept(&self, event: &Event) {
        let mut books = self.lock();
        books.accept(event);
        self.note_change(&books);
    }

    /// Events booked so far, and times that everything was forgotten: where two readings are equal,
    /// these books are what they were. Takes no lock. (What the driver's own books do meanwhile is
    /// told by [`crate::source::cupti::Recorder::moment`].)
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Counts a change, by who holds the lock: so it need not be one step.
    fn note_change(&self, _books: &Books) {
        self.changes.store(self.changes.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Says by what pages a device takes physical memory, and up to which size allocations share
    /// them. Until then: 2 MiB and 1 MiB. Walks over all that is live.
    pub fn set_pages(&self, device: DeviceIndex, page: Bytes, small: Bytes) {
        self.lock().set_pages(device.0, page.0, small.0);
    }

    /// Totals of every device seen, by index.
    #[must_use]
    pub fn totals(&self) -> Vec<DeviceTotals> {
        self.lock().totals()
    }

    /// What it noticed.
    #[must_use]
    pub fn findings(&self) -> Findings {
        self.lock().findings()
    }

    /// Totals and findings of one moment.
    #[must_use]
    pub fn state(&self) -> (Vec<DeviceTotals>, Findings) {
        let books = self.lock();
        (books.totals(), books.findings())
    }

    /// Live VRAM of a device; zero for one that was never mentioned.
    #[must_use]
    pub fn vram_bytes(&self, device: DeviceIndex) -> Bytes {
        self.lock().devices.get(device.0).map_or(Bytes::ZERO, |totals| totals.vram.live_bytes)
    }

    /// Live VRAM of a device, and how many allocations and frees of it there were so far: where two
    /// such numbers are equal, nothing happened in between.
    #[must_use]
    pub fn vram_and_turnover(&self, device: DeviceIndex) -> (Bytes, u64) {
        let books = self.lock();
        let Some(totals) = books.devices.get(device.0) else { return (Bytes::ZERO, 0) };
        // What was allocated and is not live was freed.
        let turnover = totals
            .by_kind
            .iter()
            .map(|kind| kind.allocated_count.saturating_mul(2).saturating_sub(kind.live_count));
        (totals.vram.live_bytes, turnover.sum())
    }

    /// VRAM over time: the upper envelope of every device's curve.
    #[must_use]
    pub fn history(&self) -> Vec<HistoryPoint> {
        self.lock().history().points().to_vec()
    }

    /// Bytes of host memory the ledger holds.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        self.lock().host_bytes()
    }

    /// Forgets what is live, as if it had never been seen allocated: after a time in which nobody
    /// watched. Counts, peaks and history stay; later frees of it are untracked.
    pub fn forget_live(&self, time: crate::units::Nanos) {
        let mut books = self.lock();
        books.forget_live(time);
        self.note_change(&books);
    }

    /// Forgets everything and starts anew with other limits: for the next session.
    pub fn reset(&self, allocations_max: usize, history_points_max: usize) {
        // Made and dropped outside the lock: callbacks must not wait for the allocator.
        let fresh = Books::new(allocations_max, history_points_max);
        let mut books = self.lock();
        let former = std::mem::replace(&mut *books, fresh);
        self.note_change(&books);
        drop(books);
        drop(former);
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // No code under this lock panics; were it to, half a change is still within all bounds.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
