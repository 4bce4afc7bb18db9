//! How often which sizes are asked for: counters that driver callbacks may touch.

use crate::event::{Body, DeviceIndex};
use crate::framework::{DEMAND_BUCKETS, Demand};
use crate::units::Bytes;
use std::sync::atomic::{AtomicU32, Ordering};

/// Devices whose requests are counted; those past it are not.
const DEVICES: usize = 16;

/// Requests by device and size.
#[derive(Debug)]
pub(super) struct Requests {
    counts: [[AtomicU32; DEMAND_BUCKETS]; DEVICES],
}

impl Requests {
    pub(super) const fn new() -> Self {
        Self { counts: [const { [const { AtomicU32::new(0) }; DEMAND_BUCKETS] }; DEVICES] }
    }

    /// Counts one. Neither allocates nor locks.
    pub(super) fn note(&self, device: DeviceIndex, bytes: Bytes) {
        let counts = self.counts.get(device.0 as usize);
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
                self.note(it.device, it.bytes);
            }
            Body::AllocationFailed(it) => self.note(it.device, it.bytes),
            _ => {}
        }
    }

    /// What was asked for recently on a device.
    pub(super) fn demand(&self, device: DeviceIndex) -> Demand {
        let counts = self.counts.get(device.0 as usize).into_iter().flatten();
        Demand::of_buckets(counts.map(|count| count.load(Ordering::Relaxed)))
    }

    /// Halves every count: what was asked for long ago weighs less.
    pub(super) fn fade(&self) {
        for count in self.counts.iter().flatten() {
            let half = count.load(Ordering::Relaxed).div_ceil(2);
            // What is noted meanwhile stays whole.
            if half > 0 {
                count.fetch_sub(half, Ordering::Relaxed);
            }
        }
    }

    /// Forgets all: another session's.
    pub(super) fn reset(&self) {
        self.counts.iter().flatten().for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_size_and_fade() {
        let requests = Requests::new();
        for _ in 0..5 {
            requests.note(DeviceIndex(1), Bytes(3 << 20));
        }
        requests.note(DeviceIndex(1), Bytes::ZERO);
        requests.note(DeviceIndex(99), Bytes(1));
        let sizes = |device| {
            let demand = requests.demand(DeviceIndex(device));
            demand.sizes().collect::<Vec<_>>()
        };
        assert_eq!(sizes(1), [(Bytes(3 << 20), 5)]);
        assert_eq!((sizes(0), sizes(99)), (Vec::new(), Vec::new()));
        let mut expect = Demand::new();
        expect.note(Bytes(3 << 20), 5);
        assert_eq!(requests.demand(DeviceIndex(1)), expect);
        requests.fade();
        assert_eq!(sizes(1), [(Bytes(3 << 20), 2)]);
        requests.fade();
        requests.fade();
        assert_eq!(sizes(1), []);
    }
}
