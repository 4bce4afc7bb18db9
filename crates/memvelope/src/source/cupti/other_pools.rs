//! Pools that are not in VRAM: what is allocated from them is host or managed memory. Without a
//! lock.

use crate::event::AllocKind;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pools that are remembered; what is allocated from more of them counts as if it were VRAM.
const POOLS_MAX: usize = 64;

/// Handle; the lowest bit says managed. Handles are addresses of aligned structs.
static POOLS: [AtomicU64; POOLS_MAX] = [const { AtomicU64::new(0) }; POOLS_MAX];

/// Remembers a pool.
pub(super) fn note(pool: u64, is_managed: bool) {
    let entry = pool | u64::from(is_managed);
    let put = |place: &AtomicU64| {
        place.compare_exchange(0, entry, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    // Without room it is taken for one in VRAM: rather too much than too little.
    let _ = POOLS.iter().any(put);
}

/// A pool is gone, or another one has its handle.
pub(super) fn forget(pool: u64) {
    for place in &POOLS {
        let entry = place.load(Ordering::Relaxed);
        if entry & !1 == pool && entry != 0 {
            let _ = place.compare_exchange(entry, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// What is allocated from a pool.
pub(super) fn kind_of(pool: u64) -> AllocKind {
    if pool == 0 {
        return AllocKind::PoolUsed;
    }
    let entry = POOLS.iter().map(|place| place.load(Ordering::Relaxed));
    match entry.into_iter().find(|entry| entry & !1 == pool) {
        Some(entry) if entry & 1 != 0 => AllocKind::Managed,
        Some(_) => AllocKind::PinnedHost,
        None => AllocKind::PoolUsed,
    }
}
