//! Modules that the driver loads by itself, at a first launch: their loading is seen, what they take is
//! not, since no call of the program stands for it. What is kept here is the evidence.

use crate::event::DeviceIndex;
use crate::units::Bytes;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Devices that evidence is kept of.
const DEVICES: usize = 16;

/// What was loaded on a device since somebody looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Modules.
    pub count: u64,
    /// Bytes of their machine code, as CUPTI tells.
    pub code_bytes: Bytes,
    /// The handle of the context that the last of them was loaded into; 0 if none was.
    pub context: usize,
}

/// By device.
#[derive(Debug)]
pub(super) struct Lazy {
    counts: [AtomicU64; DEVICES],
    code_bytes: [AtomicU64; DEVICES],
    contexts: [AtomicUsize; DEVICES],
}

impl Lazy {
    pub(super) const fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; DEVICES],
            code_bytes: [const { AtomicU64::new(0) }; DEVICES],
            contexts: [const { AtomicUsize::new(0) }; DEVICES],
        }
    }

    /// A module was loaded. Neither allocates nor locks nor asks anybody.
    pub(super) fn note(&self, device: DeviceIndex, context: usize, code: u64) {
        let at = device.0 as usize;
        if let Some(place) = self.contexts.get(at) {
            place.store(context, Ordering::Relaxed);
        }
        if let (Some(count), Some(bytes)) = (self.counts.get(at), self.code_bytes.get(at)) {
            bytes.fetch_add(code, Ordering::Relaxed);
            count.fetch_add(1, Ordering::Release);
        }
    }

    /// What was loaded since the last call.
    pub(super) fn take(&self, device: DeviceIndex) -> Loaded {
        let at = device.0 as usize;
        let (Some(count), Some(bytes)) = (self.counts.get(at), self.code_bytes.get(at)) else {
            return Loaded::default();
        };
        let count = count.swap(0, Ordering::Acquire);
        let context = self.contexts.get(at).map_or(0, |place| place.swap(0, Ordering::Relaxed));
        Loaded { count, code_bytes: Bytes(bytes.swap(0, Ordering::Relaxed)), context }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded_is_told_once() {
        let lazy = Lazy::new();
        lazy.note(DeviceIndex(1), 7, 100);
        lazy.note(DeviceIndex(1), 8, 20);
        lazy.note(DeviceIndex(99), 9, 20);
        assert_eq!(lazy.take(DeviceIndex(0)), Loaded::default());
        let expect = Loaded { count: 2, code_bytes: Bytes(120), context: 8 };
        assert_eq!(lazy.take(DeviceIndex(1)), expect);
        assert_eq!(lazy.take(DeviceIndex(1)), Loaded::default());
    }
}
