//! Sums by device: what is live, what was, and what failed.

use super::pools::Pools;
use super::rounding::Pages;
use super::table::Entry;
use super::{DeviceTotals, LibraryTotals};
use crate::event::{
    AllocKind, Allocation, AllocationFailure, DeviceIndex, Growth, Libraries, LibraryId, Tag,
};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// Devices a ledger keeps apart. Eight GPUs of seven MIG slices make 56; later ordinals are
/// refused and counted.
pub const DEVICES_MAX: usize = 64;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: u32 = 2;

/// A sum with its history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Live bytes.
    pub live_bytes: Bytes,
    /// Highest `live_bytes` so far.
    pub peak_bytes: Bytes,
    /// Live allocations.
    pub live_count: u64,
    /// Allocations so far.
    pub allocated_count: u64,
    /// Bytes allocated so far.
    pub allocated_bytes: Bytes,
    /// Failed allocation calls.
    pub failed_count: u64,
    /// Of those, out of memory (`CUDA_ERROR_OUT_OF_MEMORY`, 2).
    pub oom_count: u64,
}

impl Totals {
    fn add_live(&mut self, bytes: u64, count: u64) {
        self.live_bytes = self.live_bytes.saturating_add(Bytes(bytes));
        self.live_count = self.live_count.saturating_add(count);
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
    }

    /// False if more went than was there: the books are wrong.
    fn remove_live(&mut self, bytes: u64, count: u64) -> bool {
        let sound = self.live_bytes.0 >= bytes && self.live_count >= count;
        self.live_bytes = self.live_bytes.saturating_sub(Bytes(bytes));
        self.live_count = self.live_count.saturating_sub(count);
        sound
    }

    fn add_allocated(&mut self, bytes: Bytes) {
        self.allocated_count = self.allocated_count.saturating_add(1);
        self.allocated_bytes = self.allocated_bytes.saturating_add(bytes);
    }

    fn add_failed(&mut self, result: u32) {
        self.failed_count = self.failed_count.saturating_add(1);
        self.oom_count = self.oom_count.saturating_add(u64::from(result == OUT_OF_MEMORY));
    }
}

/// Rows of libraries, all devices together: many times what processes were seen to load.
const LIBRARIES_MAX: usize = 1024;

/// Devices times libraries: where each pair's row is.
const PAIRS: usize = DEVICES_MAX * Libraries::MAX;

/// The totals of all devices, allocated once.
#[derive(Debug)]
pub(super) struct Devices {
    totals: Box<[DeviceTotals]>,
    pages: Box<[Pages]>,
    /// One more than the row of a pair of device and library; 0: it has none.
    rows: Box<[u16]>,
    libraries: Vec<(u32, LibraryTotals)>,
    /// Bit d: device d was mentioned by some event.
    seen: u64,
}

impl Devices {
    pub(super) fn new() -> Self {
        let totals = (0..DEVICES_MAX as u32)
            .map(|index| DeviceTotals { device: DeviceIndex(index), ..DeviceTotals::default() })
            .collect();
        Self {
            totals,
            pages: vec![Pages::default(); DEVICES_MAX].into(),
            rows: vec![0; PAIRS].into(),
            libraries: Vec::with_capacity(LIBRARIES_MAX),
            seen: 0,
        }
    }

    pub(super) fn host_bytes(&self) -> u64 {
        let devices = size_of_val(&*self.totals) + size_of_val(&*self.pages);
        let libraries = self.libraries.capacity() * size_of::<(u32, LibraryTotals)>();
        (devices + size_of_val(&*self.rows) + libraries) as u64
    }

    pub(super) fn seen(&self, pools: &Pools) -> Vec<DeviceTotals> {
        let seen = self.totals.iter().zip(&self.pages);
        seen.filter(|(totals, _)| self.seen & (1 << totals.device.0) != 0)
            .map(|(totals, pages)| DeviceTotals {
                rounding: pages.rounding(),
                libraries: self.libraries_of(totals.device.0),
                pools: pools.totals(totals.device),
                ..totals.clone()
            })
            .collect()
    }

    fn libraries_of(&self, device: u32) -> Vec<LibraryTotals> {
        let held = |(owner, row): &&(u32, LibraryTotals)| *owner == device && row.live_count > 0;
        let mut held: Vec<_> = self.libraries.iter().filter(held).map(|(_, row)| *row).collect();
        held.sort_unstable_by_key(|row| row.library);
        held
    }

    pub(super) fn get(&self, device: u32) -> Option<&DeviceTotals> {
        self.totals.get(device as usize)
    }

    pub(super) fn get_mut(&mut self, device: u32) -> Option<&mut DeviceTotals> {
        let totals = self.totals.get_mut(device as usize)?;
        self.seen |= 1 << device;
        Some(totals)
    }

    /// Starts the rounding of a device anew, with other pages.
    pub(super) fn set_pages(&mut self, device: u32, page: u64, small: u64) {
        if let Some(pages) = self.pages.get_mut(device as usize) {
            *pages = Pages::new(page, small);
        }
    }

    pub(super) fn pages_mut(&mut self, device: u32) -> Option<&mut Pages> {
        self.pages.get_mut(device as usize)
    }

    /// The row of a library on a device. Past the limit, that of the others; a pair that has no row
    /// never gets one, so that what goes is taken from where it was added.
    fn library_mut(&mut self, device: u8, library: LibraryId) -> Option<&mut LibraryTotals> {
        let limit = LIBRARIES_MAX - DEVICES_MAX;
        let is_full = self.libraries.len() >= limit;
        let pair = |library: LibraryId| {
            usize::from(device) * Libraries::MAX + usize::from(library.0).min(Libraries::MAX - 1)
        };
        let is_known = self.rows.get(pair(library)).is_some_and(|row| *row != 0);
        let library = if is_full && !is_known { LibraryId::OTHER } else { library };
        let row = self.rows.get_mut(pair(library))?;
        if *row == 0 && self.libraries.len() < LIBRARIES_MAX {
            self.libraries.push((device.into(), LibraryTotals { library, ..Default::default() }));
            *row = u16::try_from(self.libraries.len()).ok()?;
        }
        self.libraries.get_mut(usize::from(*row).checked_sub(1)?).map(|(_, row)| row)
    }

    /// How many of `bytes` can be added without a sum of the device passing its type's end.
    pub(super) fn room(&self, device: u32, kind: AllocKind, bytes: u64) -> u64 {
        let Some(device) = self.get(device) else { return 0 };
        let fullest = device.by_kind[kind as usize].live_bytes.max(device.vram.live_bytes);
        bytes.min(u64::MAX - fullest.0)
    }

    pub(super) fn add_live(&mut self, entry: &Entry) {
        let Some(device) = self.get_mut(entry.device.into()) else { return };
        device.by_kind[entry.kind as usize].add_live(entry.bytes, 1);
        if !entry.kind.counts_as_vram() {
            return;
        }
        device.by_tag[entry.tag as usize].add_live(entry.bytes, 1);
        device.vram.add_live(entry.bytes, 1);
        if let Some(pages) = self.pages.get_mut(usize::from(entry.device)) {
            pages.add(entry.bytes);
        }
        let Some(row) = self.library_mut(entry.device, entry.library) else { return };
        row.live_bytes = row.live_bytes.saturating_add(Bytes(entry.bytes));
        row.live_count += 1;
        if entry.tag == Tag::Untagged {
            row.untagged_bytes = row.untagged_bytes.saturating_add(Bytes(entry.bytes));
        }
    }

    /// False if more went than was there.
    pub(super) fn remove_live(&mut self, entry: &Entry) -> bool {
        let Some(device) = self.get_mut(entry.device.into()) else { return false };
        let mut sound = device.by_kind[entry.kind as usize].remove_live(entry.bytes, 1);
        if !entry.kind.counts_as_vram() {
            return sound;
        }
        sound &= device.by_tag[entry.tag as usize].remove_live(entry.bytes, 1);
        sound &= device.vram.remove_live(entry.bytes, 1);
        if let Some(pages) = self.pages.get_mut(usize::from(entry.device)) {
            pages.remove(entry.bytes);
        }
        if let Some(row) = self.library_mut(entry.device, entry.library) {
            sound &= row.live_bytes.0 >= entry.bytes && row.live_count > 0;
            row.live_bytes = row.live_bytes.saturating_sub(Bytes(entry.bytes));
            row.live_count = row.live_count.saturating_sub(1);
            if entry.tag == Tag::Untagged {
                row.untagged_bytes = row.untagged_bytes.saturating_sub(Bytes(entry.bytes));
            }
        }
        sound
    }

    /// Counts a call that succeeded; false for a device past the limit.
    pub(super) fn add_allocated(&mut self, allocation: &Allocation) -> bool {
        let Some(device) = self.get_mut(allocation.device.0) else { return false };
        device.by_kind[allocation.kind as usize].add_allocated(allocation.bytes);
        if allocation.kind.counts_as_vram() {
            device.by_tag[allocation.tag as usize].add_allocated(allocation.bytes);
            device.vram.add_allocated(allocation.bytes);
        }
        true
    }

    /// Counts a call that failed. A pool that cannot grow is a failure of VRAM too, although what
    /// it hands out is counted by its reserve.
    pub(super) fn add_failed(&mut self, failure: &AllocationFailure) -> bool {
        let Some(device) = self.get_mut(failure.device.0) else { return false };
        device.by_kind[failure.kind as usize].add_failed(failure.result);
        if failure.kind.counts_as_vram() || failure.kind == AllocKind::PoolUsed {
            device.by_tag[failure.tag as usize].add_failed(failure.result);
            device.vram.add_failed(failure.result);
        }
        true
    }

    /// Changes what the pools of a device hold in all. False if more went than was there.
    pub(super) fn change_pool_reserve(&mut self, device: u32, from: u64, to: u64) -> bool {
        let Some(device) = self.get_mut(device) else { return false };
        let sound = device.vram.remove_live(from, 0) && device.pool_reserved_bytes.0 >= from;
        device.vram.add_live(to, 0);
        device.pool_reserved_bytes =
            device.pool_reserved_bytes.saturating_sub(Bytes(from)).saturating_add(Bytes(to));
        sound
    }

    /// What graphs hold on a device, as the driver told. False if more went than was there.
    pub(super) fn set_graph_memory(&mut self, device: u32, reserved: Bytes, used: Bytes) -> bool {
        let Some(device) = self.get_mut(device) else { return false };
        let is_seen = device.by_kind[AllocKind::GraphNode as usize].allocated_count > 0;
        if device.graph_reserved_bytes.is_none() && !is_seen {
            device.found_bytes = device.found_bytes.saturating_add(reserved);
        }
        let from = device.graph_reserved_bytes.unwrap_or(Bytes::ZERO);
        let sound = device.vram.remove_live(from.0, 0);
        let to = reserved.0.min(u64::MAX - device.vram.live_bytes.0);
        device.vram.add_live(to, 0);
        device.graph_reserved_bytes = Some(Bytes(to));
        device.graph_used_bytes = Some(used);
        sound
    }

    /// Counts what a pool was found to hold.
    pub(super) fn add_found(&mut self, device: u32, found: Bytes) {
        if let Some(device) = self.get_mut(device) {
            device.found_bytes = device.found_bytes.saturating_add(found);
        }
    }

    /// Forgets what graphs hold, until it is told again.
    pub(super) fn forget_graphs(&mut self) {
        for device in &mut self.totals {
            let from = device.graph_reserved_bytes.take().unwrap_or(Bytes::ZERO);
            device.graph_used_bytes = None;
            device.vram.remove_live(from.0, 0);
        }
    }

    /// Forgets what contexts took: what is left of it is in the next opening balance.
    pub(super) fn forget_growth(&mut self) {
        self.totals.iter_mut().for_each(|device| device.growth = Default::default());
    }

    pub(super) fn add_growth(&mut self, growth: &Growth) -> bool {
        let Some(device) = self.get_mut(growth.device.0) else { return false };
        let totals = &mut device.growth[growth.cause as usize];
        totals.bytes = totals.bytes.saturating_add(growth.bytes);
        totals.error_bytes = totals.error_bytes.saturating_add(growth.error);
        totals.count = totals.count.saturating_add(1);
        true
    }

    /// Counts what was exported and is gone here.
    pub(super) fn add_passed_on(&mut self, entry: &Entry) {
        if let Some(device) = self.get_mut(entry.device.into()) {
            let bytes = Bytes(if entry.kind.counts_as_vram() { entry.bytes } else { 0 });
            device.passed_on_bytes = device.passed_on_bytes.saturating_add(bytes);
        }
    }

    /// Changes what exported descriptors alone keep. False if more went than was there.
    pub(super) fn change_exported(&mut self, entry: &Entry, is_added: bool) -> bool {
        let Some(device) = self.get_mut(entry.device.into()) else { return false };
        let bytes = Bytes(if entry.kind.counts_as_vram() { entry.bytes } else { 0 });
        let sound = is_added || device.exported_bytes >= bytes;
        device.exported_bytes = if is_added {
            device.exported_bytes.saturating_add(bytes)
        } else {
            device.exported_bytes.saturating_sub(bytes)
        };
        sound
    }
}
