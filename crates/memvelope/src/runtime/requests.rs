//! How often which sizes are asked for: counters that driver callbacks may touch.

use crate::event::{Body, DeviceIndex};
use crate::framework::{DEMAND_BUCKETS, Demand};
use crate::units::Bytes;
use std::sync::atomic::{AtomicU32, Ordering};

/// Devices whose requests are counted; those past it are not.
const DEVICES: usize = 16;

/// By device and size.
type Counts = [[AtomicU32; DEMAND_BUCKETS]; DEVICES];

/// Requests by device and size.
#[derive(Debug)]
pub(super) struct Requests {
    /// Those that somebody told: of a framework's allocator, say.
    told: Counts,
    /// Those that the driver was asked for. They are of another kind: a framework asks for segments.
    driver: Counts,
}

impl Requests {
    pub(super) const fn new() -> Self {
        Self {
            told: [const { [const { AtomicU32::new(0) }; DEMAND_BUCKETS] }; DEVICES],
            driver: [const { [const { AtomicU32::new(0) }; DEMAND_BUCKETS] }; DEVICES],
        }
    }

    /// Counts one that somebody told. Neither allocates nor locks.
    pub(super) fn note(&self, device: DeviceIndex, bytes: Bytes) {
        Self::count(&self.told, device, bytes);
    }

    fn count(counts: &Counts, device: DeviceIndex, bytes: Bytes) {
        let counts = counts.get(device.0 as usize);
        let counter = counts.zip(Demand::bucket(bytes)).and_then(|(counts, at)| counts.get(at));
        if let Some(counter) = counter {
            // A count that wraps would have to outrun four thousand million requests between two
            // fadings.
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What a call to the driver asked for, whether or not it was served.
    pub(super) fn accept(&self, body: &Body) {
        match body {
            Body::Allocated(it) if it.kind.counts_as_vram() || it.pool != 0 => {
                Self::count(&self.driver, it.device, it.bytes);
            }
            Body::AllocationFailed(it) => Self::count(&self.driver, it.device, it.bytes),
            _ => {}
        }
    }

    /// What was asked for recently on a device: what was told, and where there is no framework
    /// between the program and the driver, what that was asked for.
    pub(super) fn demand(&self, device: DeviceIndex, has_framework: bool) -> Demand {
        let of = |counts: &Counts| {
            let counts = counts.get(device.0 as usize).into_iter().flatten();
            Demand::of_buckets(counts.map(|count| count.load(Ordering::Relaxed)))
        };
        let mut demand = of(&self.told);
        if !has_framework {
            demand.add(&of(&self.driver));
        }
        demand
    }

    /// Halves every count: what was asked for long ago weighs less.
    pub(super) fn fade(&self) {
        for count in self.told.iter().chain(&self.driver).flatten() {
            let half = count.load(Ordering::Relaxed).div_ceil(2);
            // What is noted meanwhile stays whole.
            if half > 0 {
                count.fetch_sub(half, Ordering::Relaxed);
            }
        }
    }

    /// Forgets all: another session's.
    pub(super) fn reset(&self) {
        let counts = self.told.iter().chain(&self.driver).flatten();
        counts.for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AllocKind, AllocationFailure, Tag};

    #[test]
    fn requests_are_counted_by_size_and_fade() {
        let requests = Requests::new();
        for _ in 0..5 {
            requests.note(DeviceIndex(1), Bytes(3 << 20));
        }
        requests.note(DeviceIndex(1), Bytes::ZERO);
        requests.note(DeviceIndex(99), Bytes(1));
        let sizes = |device| {
            let demand = requests.demand(DeviceIndex(device), true);
            demand.sizes().collect::<Vec<_>>()
        };
        assert_eq!(sizes(1), [(Bytes(3 << 20), 5)]);
        assert_eq!((sizes(0), sizes(99)), (Vec::new(), Vec::new()));
        let mut expect = Demand::new();
        expect.note(Bytes(3 << 20), 5);
        assert_eq!(requests.demand(DeviceIndex(1), true), expect);
        let failure = AllocationFailure {
            device: DeviceIndex(1),
            kind: AllocKind::Device,
            bytes: Bytes(1 << 30),
            result: 2,
            tag: Tag::Untagged,
        };
        requests.accept(&Body::AllocationFailed(failure));
        assert_eq!(requests.demand(DeviceIndex(1), true), expect, "a framework is in between");
        expect.note(Bytes(1 << 30), 1);
        assert_eq!(requests.demand(DeviceIndex(1), false), expect);
        requests.fade();
        assert_eq!(sizes(1), [(Bytes(3 << 20), 2)]);
        requests.fade();
        requests.fade();
        assert_eq!(sizes(1), []);
    }
}
