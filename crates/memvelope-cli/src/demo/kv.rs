//! The paged KV cache: slabs taken from the driver on demand, cut into pages.
//!
//! A page holds one block of the gate, the K and V of `block_tokens` tokens over all layers. A
//! slab is one driver allocation of many pages. Pages are taken from the lowest slab that has one
//! free, so that the higher slabs empty out when the load drops and can be given back.
//!
//! A page that is full is *sealed*: it enters the table of spans that the reading kernel walks in
//! every step, and stays there unchanged until it is released. So a step uploads only what changed.

use super::device::{Address, AllocError, Device, PAGES_MAX};
use memvelope::event::Tag;
use memvelope::units::{Blocks, Bytes};
use std::collections::BTreeSet;

/// Slabs are about so large: large enough that a busy server asks the driver seldom, small enough
/// that rounding the budget down to whole slabs wastes little of a tight one.
const SLAB_BYTES: u64 = 16 * Bytes::MIB;

/// Empty slabs are given back one in so many steps, and only beyond one in `EMPTY_SHARE` of all, plus
/// two. `cuMemFree` waits for the device and a slab takes a driver call to come back, so a load that
/// swings within a second must not free and take all the time.
const TRIM_STEPS: u32 = 64;
const EMPTY_SHARE: usize = 8;

/// Position of a page that is not sealed.
const UNSEALED: u32 = u32::MAX;

/// A part of a page, as the kernels read it (`Span` in `cuda/paged_kv.cu`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Span {
    /// Device address of the page.
    pub(crate) page: u64,
    /// What the page is: goes into what is written.
    pub(crate) key: u64,
    /// First byte, from the start of the page. A multiple of 16.
    pub(crate) begin: u64,
    /// Length. A multiple of 16.
    pub(crate) bytes: u64,
}

impl Span {
    /// The sum over the span's words modulo 2^64, as `kv_read_pages` computes it from what
    /// `kv_write_pages` wrote with `seed`.
    pub(crate) fn sum(&self, seed: u64) -> u64 {
        let base = mix(seed ^ mix(self.key));
        let words = self.begin / 8..(self.begin + self.bytes) / 8;
        words.fold(0, |sum: u64, index| sum.wrapping_add(mix(base.wrapping_add(index))))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014), as in `cuda/common.cuh`.
const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// How KV memory is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of a page: one block.
    pub(crate) page_bytes: u64,
    /// Bytes of a token in it.
    pub(crate) token_bytes: u64,
    /// Pages of a slab.
    pub(crate) slab_pages: u64,
    /// Bytes of a slab, whole driver pages.
    pub(crate) slab_bytes: u64,
}

impl Geometry {
    /// Cuts slabs for pages of `page_bytes` (more than zero) that hold `page_tokens` tokens. The
    /// driver hands out memory in pages of `driver_page_bytes`: what a slab takes is whole ones, so
    /// that it takes no more than it says.
    pub(crate) fn new(page_bytes: Bytes, page_tokens: u32, driver_page_bytes: Bytes) -> Self {
        let slab_pages = (SLAB_BYTES / page_bytes.0).max(1);
        let slab_bytes = Bytes(slab_pages * page_bytes.0).rounded_up_to(driver_page_bytes.0).0;
        // The rounding may have made room for more pages.
        Self {
            page_bytes: page_bytes.0,
            token_bytes: page_bytes.0 / u64::from(page_tokens.max(1)),
            slab_pages: slab_bytes / page_bytes.0,
            slab_bytes,
        }
    }

    /// Blocks that `budget` holds in whole slabs; no more than a step has tables for.
    pub(crate) fn capacity(self, budget: Bytes) -> Blocks {
        Blocks((budget.0 / self.slab_bytes).saturating_mul(self.slab_pages).min(PAGES_MAX))
    }
}

/// A page in use; given back through [`KvCache::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    slab: u32,
    index: u32,
}

/// All pages of a run.
#[derive(Debug)]
pub(crate) struct KvCache {
    geometry: Geometry,
    slabs: Vec<Slab>,
    /// Slabs that are allocated and have a free page.
    open: BTreeSet<u32>,
    /// Entries of `slabs` without memory, to be filled before new ones are added.
    vacant: BTreeSet<u32>,
    empty_slabs: usize,
    steps_untrimmed: u32,
    /// Spans of all sealed pages, dense, in no order: what the reading kernel walks.
    sealed: Vec<Span>,
    /// The page behind each entry of `sealed`.
    sealed_pages: Vec<Page>,
    /// Entries of `sealed` from here on changed since the last step.
    dirty_from: usize,
    pages: u64,
    pages_peak: u64,
    slab_allocations: u64,
}

#[derive(Debug)]
struct Slab {
    /// `None`: given back.
    address: Option<Address>,
    free: Vec<u32>,
    /// Where each page stands in `sealed`, or [`UNSEALED`].
    position: Vec<u32>,
}

impl KvCache {
    /// An empty cache; takes nothing from the driver yet.
    pub(crate) const fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            slabs: Vec::new(),
            open: BTreeSet::new(),
            vacant: BTreeSet::new(),
            empty_slabs: 0,
            steps_untrimmed: 0,
            sealed: Vec::new(),
            sealed_pages: Vec::new(),
            dirty_from: 0,
            pages: 0,
            pages_peak: 0,
            slab_allocations: 0,
        }
    }

    /// Takes a page, and a slab from the driver if none has one free.
    ///
    /// # Errors
    /// What the driver said to the slab; nothing changed.
    pub(crate) fn take(&mut self, device: &Device) -> Result<Page, AllocError> {
        if self.open.is_empty() {
            let address = device.allocate(Bytes(self.geometry.slab_bytes), Tag::KvCache)?;
            self.add_slab(address);
        }
        Ok(self.take_open())
    }

    /// Enters a full page, that is part `key`, into the table that is read in every step.
    pub(crate) fn seal(&mut self, page: Page, key: u64) {
        let span = Span { page: self.address(page), key, begin: 0, bytes: self.page_bytes() };
        self.slabs[page.slab as usize].position[page.index as usize] = self.sealed.len() as u32;
        self.sealed.push(span);
        self.sealed_pages.push(page);
    }

    /// Gives a page back. Its slab may be due to go back to the driver: see [`Self::trim`].
    pub(crate) fn release(&mut self, page: Page) {
        let slab = &mut self.slabs[page.slab as usize];
        let position = std::mem::replace(&mut slab.position[page.index as usize], UNSEALED);
        slab.free.push(page.index);
        if slab.free.len() == self.geometry.slab_pages as usize {
            self.empty_slabs += 1;
        }
        self.open.insert(page.slab);
        self.pages -= 1;
        if position == UNSEALED {
            return;
        }
        self.sealed.swap_remove(position as usize);
        self.sealed_pages.swap_remove(position as usize);
        self.dirty_from = self.dirty_from.min(position as usize);
        if let Some(moved) = self.sealed_pages.get(position as usize) {
            self.slabs[moved.slab as usize].position[moved.index as usize] = position;
        }
    }

    /// Called once a step: gives the highest empty slab back to the driver when it is time to and
    /// there are more than a swing may need.
    ///
    /// # Errors
    /// What the driver said to the free; the slab counts as given back.
    pub(crate) fn trim(&mut self, device: &Device) -> anyhow::Result<()> {
        self.steps_untrimmed += 1;
        let used_slabs = self.slabs.len() - self.vacant.len();
        if self.steps_untrimmed < TRIM_STEPS || self.empty_slabs <= used_slabs / EMPTY_SHARE + 2 {
            return Ok(());
        }
        self.steps_untrimmed = 0;
        let full = self.geometry.slab_pages as usize;
        let is_empty = |id: &&u32| self.slabs[**id as usize].free.len() == full;
        match self.open.iter().rev().find(is_empty) {
            Some(&id) => self.free_slab(id, device),
            None => Ok(()),
        }
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// What the driver said to a free.
    pub(crate) fn close(&mut self, device: &Device) -> anyhow::Result<()> {
        for slab in &mut self.slabs {
            if let Some(address) = slab.address.take() {
                device.free(address)?;
            }
        }
        Ok(())
    }

    /// Address of a page.
    fn address(&self, page: Page) -> u64 {
        let base = self.slabs[page.slab as usize].address.as_ref().map_or(0, Address::get);
        base + u64::from(page.index) * self.geometry.page_bytes
    }

    /// A part of a page, from token `first` of the page on. Cut to multiples of 16 bytes, which
    /// loses nothing: the next token's part begins where this one ends.
    pub(crate) fn span(&self, page: Page, key: u64, first: u32, tokens: u32) -> Span {
        let at = |token: u32| (u64::from(token) * self.geometry.token_bytes) & !15;
        let (begin, end) = (at(first), at(first + tokens));
        Span { page: self.address(page), key, begin, bytes: end - begin }
    }

    /// The table of sealed pages.
    pub(crate) fn sealed(&self) -> &[Span] {
        &self.sealed
    }

    /// First entry of the table that changed since the last call.
    pub(crate) fn take_dirty(&mut self) -> usize {
        let from = self.dirty_from.min(self.sealed.len());
        self.dirty_from = self.sealed.len();
        from
    }

    /// Bytes of a page that hold tokens.
    const fn page_bytes(&self) -> u64 {
        self.geometry.page_bytes & !15
    }

    /// Most pages ever in use at once.
    pub(crate) const fn pages_peak(&self) -> Blocks {
        Blocks(self.pages_peak)
    }

    /// Slabs ever taken from the driver.
    pub(crate) const fn slab_allocations(&self) -> u64 {
        self.slab_allocations
    }

    fn free_slab(&mut self, id: u32, device: &Device) -> anyhow::Result<()> {
        self.open.remove(&id);
        self.vacant.insert(id);
        self.empty_slabs -= 1;
        let slab = &mut self.slabs[id as usize];
        slab.free = Vec::new();
        slab.address.take().map_or(Ok(()), |address| device.free(address))
    }

    fn add_slab(&mut self, address: Address) {
        let pages = self.geometry.slab_pages as u32;
        let slab = Slab {
            address: Some(address),
            free: (0..pages).rev().collect(),
            position: vec![UNSEALED; pages as usize],
        };
        let id = match self.vacant.pop_first() {
            Some(id) => {
                self.slabs[id as usize] = slab;
                id
            }
            None => {
                self.slabs.push(slab);
                self.slabs.len() as u32 - 1
            }
        };
        self.open.insert(id);
        self.empty_slabs += 1;
        self.slab_allocations += 1;
    }

    fn take_open(&mut self) -> Page {
        let id = *self.open.first().expect("take() opened a slab if there was none");
        let slab = &mut self.slabs[id as usize];
        if slab.free.len() == self.geometry.slab_pages as usize {
            self.empty_slabs -= 1;
        }
        let index = slab.free.pop().expect("an open slab has a free page");
        if slab.free.is_empty() {
            self.open.remove(&id);
        }
        self.pages += 1;
        self.pages_peak = self.pages_peak.max(self.pages);
        Page { slab: id, index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_whole_driver_pages_and_hold_whole_pages() {
        for page in [4096, 65_536, 2 << 20, 4 << 20, 5 << 20, 100 << 20] {
            for driver_page in [4096, 2 << 20, 64 << 20] {
                let geometry = Geometry::new(Bytes(page), 16, Bytes(driver_page));
                assert_eq!(geometry.slab_bytes % driver_page, 0, "{page}");
                assert!(geometry.slab_pages * page <= geometry.slab_bytes, "{page}");
                assert!(geometry.slab_pages > 0, "{page}");
                let budget = Bytes(10 * geometry.slab_bytes + 1);
                let whole = 10 * geometry.slab_pages;
                assert_eq!(geometry.capacity(budget).0, whole.min(PAGES_MAX), "{page}");
            }
        }
    }

    #[test]
    fn a_cache_has_no_more_pages_than_the_tables() {
        let geometry = Geometry::new(Bytes(64), 1, Bytes(2 << 20));
        assert_eq!(geometry.capacity(Bytes(80 << 30)), Blocks(PAGES_MAX));
    }

    #[test]
    fn a_page_in_two_parts_has_the_sum_of_the_whole() {
        let whole = Span { page: 0, key: 9, begin: 0, bytes: 4096 };
        let head = Span { bytes: 1024, ..whole };
        let tail = Span { begin: 1024, bytes: 3072, ..whole };
        assert_eq!(head.sum(7).wrapping_add(tail.sum(7)), whole.sum(7));
        assert_ne!(whole.sum(7), whole.sum(8));
        assert_ne!(whole.sum(7), Span { key: 10, ..whole }.sum(7));
    }
}
