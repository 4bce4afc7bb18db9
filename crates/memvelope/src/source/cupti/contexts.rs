//! Which device a context belongs to, learned without asking twice and without a lock.
//!
//! A callback knows the context of its call (pointer and CUPTI's id) but not the device. The first
//! allocation in a context asks the driver once; the table remembers it until CUPTI says that the
//! context is about to be destroyed, which only tells the pointer.

use crate::event::DeviceIndex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One process rarely has more than one context a device. Past the limit nothing is remembered:
/// the driver is asked each time and the end of such a context goes unseen, which is counted.
const CONTEXTS_MAX: usize = 64;

/// A context: CUPTI's id and its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) uid: u32,
    pub(super) device: DeviceIndex,
}

/// All contexts met so far.
#[derive(Debug)]
pub(super) struct Contexts {
    entries: [Entry; CONTEXTS_MAX],
    /// Contexts for which there was no room.
    pub(super) refused: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    /// `uid << 32 | device + 1`; 0 is free.
    key: AtomicU64,
    context: AtomicUsize,
}

fn pack(known: Known) -> u64 {
    u64::from(known.uid) << 32 | u64::from(known.device.0.saturating_add(1))
}

fn unpack(key: u64) -> Option<Known> {
    let device = (key as u32).checked_sub(1)?;
    Some(Known { uid: (key >> 32) as u32, device: DeviceIndex(device) })
}

impl Contexts {
    pub(super) const fn new() -> Self {
        let entries = [const { Entry { key: AtomicU64::new(0), context: AtomicUsize::new(0) } };
            CONTEXTS_MAX];
        Self { entries, refused: AtomicU64::new(0) }
    }

    /// Device of the context with CUPTI's id `uid`.
    pub(super) fn device_of(&self, uid: u32) -> Option<DeviceIndex> {
        self.entries
            .iter()
            .filter_map(|entry| unpack(entry.key.load(Ordering::Acquire)))
            .find(|known| known.uid == uid)
            .map(|known| known.device)
    }

    /// The context with CUPTI's id `uid`.
    pub(super) fn handle_of(&self, uid: u32) -> Option<usize> {
        let has = |entry: &&Entry| {
            unpack(entry.key.load(Ordering::Acquire)).is_some_and(|known| known.uid == uid)
        };
        let context = self.entries.iter().find(has)?.context.load(Ordering::Acquire);
        Some(context).filter(|context| *context != 0)
    }

    /// Device of the context at `context`.
    pub(super) fn device_at(&self, context: usize) -> Option<DeviceIndex> {
        let entry = self.entries.iter().find(|it| it.context.load(Ordering::Acquire) == context)?;
        let known = unpack(entry.key.load(Ordering::Acquire)).filter(|_| context != 0)?;
        Some(known.device)
    }

    /// Remembers a context. Two threads that learn of it at once may both enter it; both entries
    /// say the same and go together.
    pub(super) fn learn(&self, context: usize, known: Known) {
        for entry in &self.entries {
            let taken =
                entry.key.compare_exchange(0, pack(known), Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                entry.context.store(context, Ordering::Release);
                return;
            }
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets the context at `context`; what it was, if it was known.
    pub(super) fn forget(&self, context: usize) -> Option<Known> {
        let mut found = None;
        for entry in self.entries.iter().filter(|_| context != 0) {
            if entry.context.load(Ordering::Acquire) == context {
                entry.context.store(0, Ordering::Release);
                found = unpack(entry.key.swap(0, Ordering::AcqRel)).or(found);
            }
        }
        found
    }

    /// Forgets all: contexts may come and go unseen while nothing is recorded.
    pub(super) fn clear(&self) {
        for entry in &self.entries {
            entry.context.store(0, Ordering::Release);
            entry.key.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_come_and_go() {
        let contexts = Contexts::new();
        let known = Known { uid: 3, device: DeviceIndex(0) };
        contexts.learn(0x100, known);
        contexts.learn(0x200, Known { uid: 4, device: DeviceIndex(7) });
        contexts.learn(0x100, known);
        assert_eq!(contexts.device_of(3), Some(DeviceIndex(0)));
        assert_eq!(contexts.device_of(4), Some(DeviceIndex(7)));
        assert_eq!((contexts.handle_of(4), contexts.handle_of(5)), (Some(0x200), None));
        assert_eq!(contexts.forget(0x100), Some(known));
        assert_eq!((contexts.device_of(3), contexts.forget(0x100)), (None, None));
        assert_eq!(contexts.forget(0), None);
        contexts.clear();
        assert_eq!(contexts.device_of(4), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let contexts = Contexts::new();
        for uid in 1..=CONTEXTS_MAX as u32 + 5 {
            contexts.learn(uid as usize, Known { uid, device: DeviceIndex(0) });
        }
        assert_eq!(contexts.refused.load(Ordering::Relaxed), 5);
        assert_eq!(contexts.device_of(CONTEXTS_MAX as u32 + 1), None);
    }
}
