//! `cuptiFinalize`, for those who ask for it: inside the exit callback of a CUDA call that we make
//! ourselves, where alone it is documented to be safe. Others wait, without end, for some call of
//! the program's; ours comes at once.

#![expect(unsafe_code, reason = "calls into libcupti")]

use super::quirks;
use super::session::{Run, check, needed};
use super::subscription::{self, NotOurs};
use crate::error::Result;
use crate::source::clock;
use cupti_sys::{callback_site, cbid, domain, result};
use std::cell::Cell;

type Finalize = unsafe extern "C" fn() -> u32;

thread_local! {
    /// What the callback on this thread shall call, and what came of it.
    static ORDER: Cell<Option<Finalize>> = const { Cell::new(None) };
    static OUTCOME: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Why CUPTI is not finalized, if this version does not bear it.
pub(super) fn refusal(version: u32) -> Option<String> {
    quirks::FINALIZE_CRASHES
        .applies_to(version)
        .then(|| format!("CUPTI is not finalized (API {version}): it would crash"))
}

/// Called by our callback, first thing. True if this thread was to finalize, and did.
pub(super) fn on_callback(callback_domain: u32, id: u32, site: impl FnOnce() -> u32) -> bool {
    let is_ours = callback_domain == domain::DRIVER_API && id == cbid::CTX_GET_CURRENT;
    let Some(finalize) = ORDER.get().filter(|_| is_ours) else { return false };
    if site() == callback_site::EXIT {
        ORDER.set(None);
        // SAFETY: CUPTI is attached, and this is the exit callback of a driver call.
        OUTCOME.set(Some(unsafe { finalize() }));
    }
    true
}

/// Finalizes CUPTI from this thread, which may take as long as the device's work, or for ever. The
/// recorder is detached already. `Err` is the sentence for the coverage.
pub(super) fn run(run: &Run) -> Result<(), String> {
    let cupti = &run.cupti;
    let finalize = needed(cupti.finalize).map_err(|error| error.to_string())?;
    let subscriber = match subscription::subscribe(cupti, run.coverage.cupti_version) {
        Ok(subscriber) => subscriber,
        Err(NotOurs::Busy(why) | NotOurs::Refused(why)) => {
            return Err(format!("CUPTI is not finalized: {why}"));
        }
    };
    if subscriber.switch(cupti, 1, domain::DRIVER_API, cbid::CTX_GET_CURRENT) != result::SUCCESS {
        subscriber.unsubscribe(cupti);
        return Err("CUPTI is not finalized: it grants no callback to do it in".into());
    }
    if run.driver.simulator_version().is_none() {
        // A look at its clock would bring CUPTI up again.
        clock::use_system();
    }
    OUTCOME.set(None);
    ORDER.set(Some(finalize));
    let _ = run.driver.current_device();
    ORDER.set(None);
    match OUTCOME.take() {
        Some(result::SUCCESS) => {
            clock::forget_registration();
            // The subscription went with everything else.
            subscriber.forget();
            Ok(())
        }
        Some(code) => {
            subscriber.unsubscribe(cupti);
            check("cuptiFinalize", code).map_err(|error| error.to_string())
        }
        None => {
            subscriber.unsubscribe(cupti);
            Err("CUPTI is not finalized: its callback did not come".into())
        }
    }
}
