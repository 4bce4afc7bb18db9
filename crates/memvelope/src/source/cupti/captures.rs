//! Which streams are being captured into a graph: what is allocated there is the graph's.
//!
//! Other streams join a capture by waiting for its events, so the driver is asked, but only while a
//! capture is known to be under way; elsewhere this is one atomic load.

use super::state::STATE;
use std::sync::atomic::{AtomicU64, Ordering};

/// Captures that began and have not ended.
static UNDER_WAY: AtomicU64 = AtomicU64::new(0);

/// `CUDA_ERROR_STREAM_CAPTURE_INVALIDATED`: the capture is over all the same.
const INVALIDATED: u32 = 901;

/// `CU_STREAM_PER_THREAD`, which a null stream is for code compiled for per-thread streams.
const STREAM_PER_THREAD: u64 = 2;

/// A capture began.
pub(super) fn begin() {
    UNDER_WAY.fetch_add(1, Ordering::Relaxed);
}

/// A call that ends captures returned.
pub(super) fn end(result: u32) {
    if result == 0 || result == INVALIDATED {
        // One that began before we came: nothing to take off.
        let _ = UNDER_WAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |under_way| {
            under_way.checked_sub(1)
        });
    }
}

/// Whether what is allocated in the stream becomes a node of a graph.
pub(super) fn is_captured(stream: u64, is_per_thread: bool) -> bool {
    if UNDER_WAY.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let stream = if stream == 0 && is_per_thread { STREAM_PER_THREAD } else { stream };
    STATE.driver().is_some_and(|driver| driver.is_capturing(stream))
}
