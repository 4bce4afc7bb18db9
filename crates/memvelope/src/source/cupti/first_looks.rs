//! Pools from before we came: each is asked what it holds when the first allocation from it is
//! entered, so that what was there before is told apart from what comes.

#![expect(unsafe_code, reason = "arguments of C calls, read through CUPTI's pointers")]

use super::call::Call;
use super::other_pools;
use super::state::STATE;
use crate::event::AllocKind;
use cupti_sys::{cbid, params};

/// # Safety
/// `call` is at its entry site, in the driver-API domain.
pub(super) unsafe fn entering(call: &Call) {
    let is_pooled = matches!(
        call.id,
        cbid::MEM_ALLOC_ASYNC
            | cbid::MEM_ALLOC_ASYNC_PTSZ
            | cbid::MEM_ALLOC_FROM_POOL_ASYNC
            | cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ
    );
    let driver = if is_pooled { STATE.driver() } else { None };
    let Some(driver) = driver.filter(|driver| !driver.is_gone()) else { return };
    let (device, pool) = match call.id {
        cbid::MEM_ALLOC_ASYNC | cbid::MEM_ALLOC_ASYNC_PTSZ => {
            let device = call.device();
            // One look a device: the current pool is one of those that are asked from then on, or
            // was asked for by its handle.
            if STATE.pools().knows_one_on(device) {
                return;
            }
            (device, driver.current_pool_handle(device))
        }
        cbid::MEM_ALLOC_FROM_POOL_ASYNC | cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ => {
            // SAFETY: the argument lies there.
            let pool = unsafe { call.arguments.read(params::mem_alloc_from_pool_async::POOL) };
            if STATE.pools().knows(pool) {
                return;
            }
            (call.device(), pool)
        }
        _ => return,
    };
    if pool == 0 || STATE.pools().knows(pool) || other_pools::kind_of(pool) != AllocKind::PoolUsed {
        return;
    }
    let _relaxed = driver.relaxed();
    if let Some(body) = driver.held_by(device, pool) {
        call.emit(body);
    }
}
