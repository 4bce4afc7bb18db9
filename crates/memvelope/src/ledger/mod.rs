//! The ledger: live driver allocations, with totals and peaks by device, kind and tag.

use crate::event::{DeviceIndex, Event};
use crate::units::Bytes;
use serde::Serialize;

/// Live allocations. Bounded, preallocated; its lock is a leaf: nothing foreign is called under it.
#[derive(Debug)]
pub struct Ledger {
    _todo: (),
}

/// Totals of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceTotals {
    /// Which device.
    pub device: DeviceIndex,
    /// By [`crate::event::AllocKind`], in its order.
    pub by_kind: [Totals; 6],
    /// VRAM by [`crate::event::Tag`], in its order (kinds that count as VRAM only).
    pub by_tag: [Totals; 6],
    /// VRAM: every kind that counts, plus pool reserves.
    pub vram: Totals,
    /// Physical bytes that pools took (last poll).
    pub pool_reserved_bytes: Bytes,
}

/// A sum with its history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

/// What the ledger noticed about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Frees of addresses it never saw allocated.
    pub untracked_frees: u64,
    /// Allocations at an address that was still live (a free was missed).
    pub replaced: u64,
    /// Allocations not entered because the table was full.
    pub refused: u64,
    /// Frees that failed and were put back.
    pub restored: u64,
}

impl Ledger {
    /// An empty ledger for at most `allocations_max` live entries.
    #[must_use]
    pub fn new(_allocations_max: usize) -> Self {
        todo!()
    }

    /// Takes an event; those that are not about memory are ignored.
    pub fn accept(&self, _event: &Event) {
        todo!()
    }

    /// Totals of every device seen, by index.
    #[must_use]
    pub fn totals(&self) -> Vec<DeviceTotals> {
        todo!()
    }

    /// What it noticed.
    #[must_use]
    pub fn findings(&self) -> Findings {
        todo!()
    }
}
