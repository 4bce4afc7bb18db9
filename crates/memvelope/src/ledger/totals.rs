//! Sums by device: what is live, what was, and what failed.

use super::DeviceTotals;
use super::table::Entry;
use crate::event::{Allocation, AllocationFailure, DeviceIndex};
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

/// The totals of all devices, allocated once.
#[derive(Debug)]
pub(super) struct Devices {
    totals: Box<[DeviceTotals]>,
    /// Bit d: device d was mentioned by some event.
    seen: u64,
}

impl Devices {
    pub(super) fn new() -> Self {
        let totals = (0..DEVICES_MAX as u32)
            .map(|index| DeviceTotals { device: DeviceIndex(index), ..DeviceTotals::default() })
            .collect();
        Self { totals, seen: 0 }
    }

    pub(super) fn seen(&self) -> Vec<DeviceTotals> {
        self.totals
            .iter()
            .filter(|device| self.seen & (1 << device.device.0) != 0)
            .cloned()
            .collect()
    }

    pub(super) fn get(&self, device: u32) -> Option<&DeviceTotals> {
        self.totals.get(device as usize)
    }

    fn get_mut(&mut self, device: u32) -> Option<&mut DeviceTotals> {
        let totals = self.totals.get_mut(device as usize)?;
        self.seen |= 1 << device;
        Some(totals)
    }

    pub(super) fn add_live(&mut self, entry: &Entry) {
        let Some(device) = self.get_mut(entry.device) else { return };
        device.by_kind[entry.kind as usize].add_live(entry.bytes, 1);
        if entry.kind.counts_as_vram() {
            device.by_tag[entry.tag as usize].add_live(entry.bytes, 1);
            device.vram.add_live(entry.bytes, 1);
        }
    }

    /// False if more went than was there.
    pub(super) fn remove_live(&mut self, entry: &Entry) -> bool {
        let Some(device) = self.get_mut(entry.device) else { return false };
        let mut sound = device.by_kind[entry.kind as usize].remove_live(entry.bytes, 1);
        if entry.kind.counts_as_vram() {
            sound &= device.by_tag[entry.tag as usize].remove_live(entry.bytes, 1);
            sound &= device.vram.remove_live(entry.bytes, 1);
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
        use crate::event::AllocKind;
        let Some(device) = self.get_mut(failure.device.0) else { return false };
        device.by_kind[failure.kind as usize].add_failed(failure.result);
        if failure.kind.counts_as_vram() || failure.kind == AllocKind::PoolUsed {
            device.by_tag[failure.tag as usize].add_failed(failure.result);
            device.vram.add_failed(failure.result);
        }
        true
    }

    /// Changes what the pools of a device hold in all. False if more went than was there.
    pub(super) fn change_pool_reserve(&mut self, device: DeviceIndex, from: u64, to: u64) -> bool {
        let Some(device) = self.get_mut(device.0) else { return false };
        let sound = device.vram.remove_live(from, 0) && device.pool_reserved_bytes.0 >= from;
        device.vram.add_live(to, 0);
        device.pool_reserved_bytes =
            device.pool_reserved_bytes.saturating_sub(Bytes(from)).saturating_add(Bytes(to));
        sound
    }
}
