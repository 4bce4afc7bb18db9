//! The subscriber's place: who has it, and which callbacks it wants.

use super::{SUBSCRIBE_V2_SINCE, SUBSCRIBER_HANDLE, callbacks, code, on_settings, write};
use crate::edge::get;
use std::ffi::{c_char, c_void};
use std::sync::{Mutex, PoisonError};

/// The head of `CUpti_SubscriberParams` (13.0: 32 bytes; later fields are not read).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct SubscriberParams {
    struct_size: usize,
    name: *const c_char,
    old_name: *mut c_char,
    old_name_size: usize,
}

/// What a client is called that took the subscription by a fault.
const OTHER_NAME: &str = "another client";

/// Name of the last subscriber that gave one, for whoever comes second.
static HOLDER: Mutex<String> = Mutex::new(String::new());

pub(super) fn subscribe(
    to: *mut u64,
    callback: Option<callbacks::Function>,
    user_data: *mut c_void,
    params: Option<*const SubscriberParams>,
) -> u32 {
    let other = match on_settings(|world| {
        (world.scenario.subscriber.clone(), world.scenario.cupti_version().0)
    }) {
        Some((_, version)) if params.is_some() && version < SUBSCRIBE_V2_SINCE => {
            return code::API_NOT_IMPLEMENTED;
        }
        Some((name, _)) => callbacks::is_other().then(|| name.unwrap_or(OTHER_NAME.into())),
        None => return code::NOT_INITIALIZED,
    };
    let Some(callback) = callback.filter(|_| !to.is_null()) else { return code::INVALID_PARAMETER };
    let params = match params.map(get) {
        None => None,
        Some(Ok(params)) => Some(params),
        Some(Err(_)) => return code::INVALID_PARAMETER,
    };
    let taken = other.is_some() || !callbacks::subscribe(callback, user_data);
    let mut holder = HOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    if taken {
        if let Some(params) = params.filter(|params| !params.old_name.is_null()) {
            let name = other.as_deref().unwrap_or(&holder);
            let _ = crate::edge::put_text(params.old_name, params.old_name_size, name);
        }
        return code::MULTIPLE_SUBSCRIBERS;
    }
    if let Some(name) = params.and_then(|params| crate::edge::text(params.name).ok()) {
        *holder = name.to_string_lossy().into_owned();
    }
    write(to, SUBSCRIBER_HANDLE)
}

pub(super) fn enable_callback(on: bool, domain: u32, cbid: u32) -> u32 {
    match domain {
        callbacks::DRIVER_API if callbacks::watch(cbid as usize, on) => code::SUCCESS,
        callbacks::RESOURCE => {
            callbacks::watch_resource(Some(cbid), on);
            code::SUCCESS
        }
        // Known domains that never fire here.
        2..=callbacks::DOMAIN_LAST => code::SUCCESS,
        _ => code::INVALID_PARAMETER,
    }
}

pub(super) fn enable_domain(on: bool, domain: u32) -> u32 {
    match domain {
        callbacks::DRIVER_API => {
            callbacks::watch_all(on);
            code::SUCCESS
        }
        callbacks::RESOURCE => {
            callbacks::watch_resource(None, on);
            code::SUCCESS
        }
        2..=callbacks::DOMAIN_LAST => code::SUCCESS,
        _ => code::INVALID_PARAMETER,
    }
}
