//! The recorder's clock, for sources that stamp their events themselves.
//!
//! CUPTI stamps records with `CLOCK_REALTIME` on a real driver and with the virtual clock on the
//! simulated one. Once CUPTI may be called (`cuInit` returned 0) its own clock is asked; until
//! then, and whenever it refuses, the system's real-time clock stands in, which is the same clock.

#![expect(unsafe_code, reason = "cuptiGetTimestamp is foreign")]

use crate::units::Nanos;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// `cuptiGetTimestamp`: writes nanoseconds, returns 0 on success.
pub(crate) type GetTimestamp = unsafe extern "C" fn(*mut u64) -> u32;

/// Null, or a [`GetTimestamp`] of a library that is never unloaded.
static GET_TIMESTAMP: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// From now on the clock is CUPTI's. Call only after `cuInit` returned 0: some versions crash.
pub(crate) fn use_cupti(get_timestamp: GetTimestamp) {
    GET_TIMESTAMP.store(get_timestamp as *mut (), Ordering::Release);
}

/// From now on the clock is the system's: CUPTI must not be called any more.
pub(crate) fn use_system() {
    GET_TIMESTAMP.store(std::ptr::null_mut(), Ordering::Release);
}

/// Now, on the recorder's clock. Takes no lock and allocates nothing.
#[must_use]
pub fn now() -> Nanos {
    cupti_now().unwrap_or_else(system_now)
}

fn cupti_now() -> Option<Nanos> {
    let pointer = GET_TIMESTAMP.load(Ordering::Acquire);
    if pointer.is_null() || crate::fork::in_child() {
        return None;
    }
    // SAFETY: only `use_cupti` stores here, and it stores nothing but a `GetTimestamp`.
    let get_timestamp = unsafe { std::mem::transmute::<*mut (), GetTimestamp>(pointer) };
    let mut time = 0;
    // SAFETY: CUPTI may be called, by the contract of `use_cupti`; it writes one u64.
    let code = unsafe { get_timestamp(&raw mut time) };
    (code == 0 && time != 0).then_some(Nanos(time))
}

/// The system's real-time clock, for when CUPTI may not be called.
pub(crate) fn system_now() -> Nanos {
    // A clock before 1970 reads as zero rather than failing.
    Nanos::from_duration(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
