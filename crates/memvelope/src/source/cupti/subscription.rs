//! CUPTI's one subscription: taking it, seeing whether it is still ours, giving it back.

#![expect(unsafe_code, reason = "calls into libcupti")]

use super::{callbacks, growth, pools, quirks};
use crate::source::privileges;
use cupti_sys::{Cupti, SubscriberParams, domain, resource_cbid, result};
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// `cuptiSubscribe_v2`, which names the tool that is in the way, came with 13.0.
const SUBSCRIBE_V2_SINCE: u32 = 130_000;

/// Callbacks of the resource domain that we need.
const RESOURCES: [u32; 1] = [resource_cbid::CONTEXT_DESTROY_STARTING];

/// Our subscription; null once it was given back.
#[derive(Debug)]
pub(super) struct Subscriber(AtomicPtr<c_void>);

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotOurs {
    /// Another tool holds it: the sentence that names it.
    Busy(String),
    /// CUPTI refuses it for another reason: the sentence for the coverage.
    Refused(String),
}

/// Takes CUPTI's subscription.
pub(super) fn subscribe(cupti: &Cupti, version: u32) -> Result<Subscriber, NotOurs> {
    if version >= SUBSCRIBE_V2_SINCE {
        match subscribe_v2(cupti, version) {
            Ok(Some(subscriber)) => return Ok(subscriber),
            Ok(None) => {}
            Err(problem) => return Err(problem),
        }
    }
    let Ok(subscribe) = cupti.subscribe else {
        return Err(NotOurs::Refused("no callbacks: this libcupti has no cuptiSubscribe".into()));
    };
    let mut handle = std::ptr::null_mut();
    // SAFETY: the callback matches CUPTI's type, never unwinds and lives as long as the process.
    let code =
        unsafe { subscribe(&raw mut handle, Some(callbacks::on_callback), std::ptr::null_mut()) };
    match code {
        result::SUCCESS => Ok(Subscriber(AtomicPtr::new(handle))),
        code => Err(refused("cuptiSubscribe", code, None)),
    }
}

/// The newer form. `Ok(None)`: this CUPTI does not serve it, the older form may work.
fn subscribe_v2(cupti: &Cupti, version: u32) -> Result<Option<Subscriber>, NotOurs> {
    const HOLDER_BYTES: usize = 128;
    let (Ok(subscribe), Ok(unsubscribe)) = (cupti.subscribe_v2, cupti.unsubscribe) else {
        return Ok(None);
    };
    let mut holder = [0 as c_char; HOLDER_BYTES];
    let mut parameters = SubscriberParams {
        struct_size: SubscriberParams::SIZE_13_0,
        subscriber_name: c"memvelope".as_ptr(),
        old_subscriber_name: holder.as_mut_ptr(),
        old_subscriber_size: HOLDER_BYTES - 1,
        allow_multiple_subscribers: 0,
        padding: [0; 7],
    };
    let mut handle = std::ptr::null_mut();
    // SAFETY: as in `subscribe`; the parameters say how large they and the name's place are, and
    // outlive the call.
    let code = unsafe {
        subscribe(
            &raw mut handle,
            Some(callbacks::on_callback),
            std::ptr::null_mut(),
            &raw mut parameters,
        )
    };
    match code {
        result::SUCCESS if serves_both_forms(cupti, version) => {
            Ok(Some(Subscriber(AtomicPtr::new(handle))))
        }
        result::SUCCESS => {
            // SAFETY: the handle was just given to us.
            unsafe { unsubscribe(handle) };
            Ok(None)
        }
        result::ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED => {
            holder[HOLDER_BYTES - 1] = 0;
            // SAFETY: the array ends with a NUL and is alive.
            let holder = unsafe { CStr::from_ptr(holder.as_ptr()) }.to_string_lossy();
            Err(refused("cuptiSubscribe_v2", code, Some(&holder)))
        }
        _ => Ok(None),
    }
}

/// Whether a subscriber of the newer form may use the older activity calls, which are ours.
fn serves_both_forms(cupti: &Cupti, version: u32) -> bool {
    if !quirks::V2_REFUSES_V1_CALLS.applies_to(version) {
        return true;
    }
    let Ok(get_timestamp) = cupti.get_timestamp else { return true };
    let mut time = 0;
    // SAFETY: CUPTI may be called; it writes one u64.
    unsafe { get_timestamp(&raw mut time) != result::ERROR_NOT_COMPATIBLE }
}

fn refused(call: &str, code: u32, holder: Option<&str>) -> NotOurs {
    let mut tools = privileges::other_tools();
    tools.extend(holder.filter(|name| !name.is_empty()).map(str::to_owned));
    let name = cupti_sys::result_name(code);
    if code == result::ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED {
        let by = if tools.is_empty() { "a tool without a name".into() } else { tools.join(", ") };
        return NotOurs::Busy(format!(
            "CUPTI is in use by {by} ({call} returned {code}, {name}): nothing of it is touched; \
             recording begins when it is free\nhint: {}",
            super::hint(code)
        ));
    }
    let by =
        if tools.is_empty() { String::new() } else { format!("; loaded: {}", tools.join(", ")) };
    NotOurs::Refused(format!(
        "no allocation callbacks ({call} returned {code}, {name}{by}): the ledger lives on MEMORY2 \
         records, which come late and miss VMM; hint: {}",
        super::hint(code)
    ))
}

impl Subscriber {
    fn handle(&self) -> Option<*mut c_void> {
        Some(self.0.load(Ordering::Acquire)).filter(|handle| !handle.is_null())
    }

    /// Switches one callback; CUPTI's code.
    pub(super) fn switch(&self, cupti: &Cupti, on: u32, callback_domain: u32, id: u32) -> u32 {
        match (self.handle(), cupti.enable_callback) {
            // SAFETY: the handle is that of our live subscription.
            (Some(handle), Ok(enable)) => unsafe { enable(on, handle, callback_domain, id) },
            _ => result::ERROR_API_NOT_IMPLEMENTED,
        }
    }

    /// Switches the callbacks of the resource domain on; the first refusal.
    pub(super) fn watch_contexts(&self, cupti: &Cupti, on: u32) -> u32 {
        let codes = RESOURCES.map(|id| self.switch(cupti, on, domain::RESOURCE, id));
        codes.into_iter().find(|code| *code != result::SUCCESS).unwrap_or(result::SUCCESS)
    }

    /// Whether the subscription is still ours: another tool may have finalized CUPTI. One call that
    /// fails proves nothing, so a second kind of call must fail too.
    pub(super) fn is_alive(&self, cupti: &Cupti) -> bool {
        let Some(handle) = self.handle() else { return false };
        let Some(watched) = callbacks::WATCHED.first() else { return true };
        let mut is_on = 0;
        let known = cupti.get_callback_state.map(|get| {
            // SAFETY: CUPTI is attached; a handle that is ours no more is answered with an error.
            // It writes one u32.
            unsafe { get(&raw mut is_on, handle, domain::DRIVER_API, *watched) }
        });
        let is_valid = known == Ok(result::SUCCESS);
        if is_valid && is_on != 0 {
            return true;
        }
        // Switched off by somebody, or not to be asked: switching it on tells, or mends.
        let code = self.switch(cupti, 1, domain::DRIVER_API, *watched);
        is_valid || code == result::SUCCESS
    }

    /// Gives it back; CUPTI's code.
    pub(super) fn unsubscribe(&self, cupti: &Cupti) -> u32 {
        for id in callbacks::WATCHED.iter().chain(growth::WATCHED).chain(pools::WATCHED) {
            self.switch(cupti, 0, domain::DRIVER_API, *id);
        }
        self.watch_contexts(cupti, 0);
        let handle = self.0.swap(std::ptr::null_mut(), Ordering::AcqRel);
        match cupti.unsubscribe {
            // SAFETY: the handle was ours until this moment and is used nowhere else.
            Ok(unsubscribe) if !handle.is_null() => unsafe { unsubscribe(handle) },
            _ => result::SUCCESS,
        }
    }

    /// It is not ours any more, and not to be given back.
    pub(super) fn forget(&self) {
        self.0.store(std::ptr::null_mut(), Ordering::Release);
    }
}
