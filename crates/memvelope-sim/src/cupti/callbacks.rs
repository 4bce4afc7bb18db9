//! The one subscriber, and driver-API callbacks around calls.

#![expect(unsafe_code, reason = "calls the subscriber's function with a C struct")]

use crate::thread;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `CUPTI_CB_DOMAIN_DRIVER_API`.
pub(crate) const DRIVER_API: u32 = 1;
/// `CUPTI_CB_DOMAIN_RESOURCE`.
pub(crate) const RESOURCE: u32 = 3;
/// `CUPTI_CBID_RESOURCE_CONTEXT_DESTROY_STARTING`; of its domain, this one fires and the next.
const CONTEXT_DESTROY_STARTING: u32 = 2;
/// `CUPTI_CBID_RESOURCE_MODULE_LOADED`.
const MODULE_LOADED: u32 = 6;
/// Domains there are (1 to 6); those of driver API and resources fire.
pub(crate) const DOMAIN_LAST: u32 = 6;
/// Callback ids there are; the newest CUPTI's highest is below it.
pub(crate) const CBID_COUNT: usize = 1024;

/// `CUpti_CallbackFunc`.
pub(crate) type Function = unsafe extern "C" fn(*mut c_void, u32, u32, *const c_void);

/// `CUpti_CallbackData`.
#[derive(Debug)]
#[repr(C)]
struct Data {
    site: u32,
    function_name: *const c_char,
    function_params: *const c_void,
    function_return_value: *const c_void,
    symbol_name: *const c_char,
    context: u64,
    context_uid: u32,
    correlation_data: *mut u64,
    correlation_id: u32,
}

#[derive(Clone, Copy, Debug)]
struct Subscriber {
    function: Function,
    user_data: usize,
}

static SUBSCRIBER: Mutex<Option<Subscriber>> = Mutex::new(None);
/// Which driver callback ids are on; read on every call without a lock.
static WATCHED: [AtomicU8; CBID_COUNT] = [const { AtomicU8::new(0) }; CBID_COUNT];
/// Whether the ends of contexts are told.
static DESTROYS_WATCHED: AtomicBool = AtomicBool::new(false);
/// Whether modules are told when their code goes to the device.
static LOADS_WATCHED: AtomicBool = AtomicBool::new(false);
/// Whether another client holds the subscription.
static OTHER: AtomicBool = AtomicBool::new(false);
/// Whether any could be on.
static LISTENING: AtomicBool = AtomicBool::new(false);

fn subscriber() -> MutexGuard<'static, Option<Subscriber>> {
    SUBSCRIBER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the subscriber's place; `false` when it is taken.
pub(crate) fn subscribe(function: Function, user_data: *mut c_void) -> bool {
    let mut slot = subscriber();
    if slot.is_some() || is_other() {
        return false;
    }
    *slot = Some(Subscriber { function, user_data: user_data as usize });
    LISTENING.store(true, Ordering::Release);
    true
}

/// Leaves the subscriber's place; `false` when it was empty.
pub(crate) fn unsubscribe() -> bool {
    LISTENING.store(false, Ordering::Release);
    WATCHED.iter().for_each(|watched| watched.store(0, Ordering::Relaxed));
    DESTROYS_WATCHED.store(false, Ordering::Relaxed);
    LOADS_WATCHED.store(false, Ordering::Relaxed);
    subscriber().take().is_some()
}

/// Says whether another client holds the subscription.
pub(crate) fn set_other(holds: bool) {
    OTHER.store(holds, Ordering::Release);
}

pub(crate) fn is_other() -> bool {
    OTHER.load(Ordering::Acquire)
}

/// Another client takes the subscription: ours hears nothing more, and its handle is worth nothing.
pub(crate) fn steal() {
    set_other(true);
    unsubscribe();
}

pub(crate) fn is_subscribed() -> bool {
    subscriber().is_some()
}

/// Turns one driver callback on or off.
pub(crate) fn watch(cbid: usize, on: bool) -> bool {
    let Some(watched) = WATCHED.get(cbid).filter(|_| cbid != 0) else { return false };
    watched.store(u8::from(on), Ordering::Relaxed);
    true
}

/// Turns one callback of the resource domain on or off, or (`None`) all of them.
pub(crate) fn watch_resource(cbid: Option<u32>, on: bool) {
    for (known, watched) in
        [(CONTEXT_DESTROY_STARTING, &DESTROYS_WATCHED), (MODULE_LOADED, &LOADS_WATCHED)]
    {
        if cbid.is_none_or(|cbid| cbid == known) {
            watched.store(on, Ordering::Relaxed);
        }
    }
}

/// Tells the subscriber that a context is about to go. No lock may be held: it may ask the driver.
pub(crate) fn context_destroy_starting(context: u64) {
    if DESTROYS_WATCHED.load(Ordering::Relaxed) {
        resource(CONTEXT_DESTROY_STARTING, context, std::ptr::null());
    }
}

/// A module whose code has gone to the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    pub(crate) context: u64,
    pub(crate) id: u32,
    pub(crate) code_bytes: u64,
}

/// `CUpti_ModuleResourceData`. The code itself is not shown.
#[derive(Debug)]
#[repr(C)]
struct ModuleData {
    id: u32,
    code_bytes: usize,
    code: *const c_char,
}

/// Tells the subscriber that a module was loaded. No lock may be held.
pub(crate) fn module_loaded(loaded: &Loaded) {
    if !LOADS_WATCHED.load(Ordering::Relaxed) {
        return;
    }
    let code_bytes = usize::try_from(loaded.code_bytes).unwrap_or(usize::MAX);
    let data = ModuleData { id: loaded.id, code_bytes, code: std::ptr::null() };
    resource(MODULE_LOADED, loaded.context, (&raw const data).cast());
}

fn resource(cbid: u32, context: u64, descriptor: *const c_void) {
    /// `CUpti_ResourceData`.
    #[repr(C)]
    struct Resource {
        context: u64,
        handle: u64,
        descriptor: *const c_void,
    }
    let Some(Subscriber { function, user_data }) = *subscriber() else { return };
    let data = Resource { context, handle: 0, descriptor };
    // SAFETY: the client registered this function for exactly this call; `data` and what it points
    // to live until it returns.
    thread::in_client(|| unsafe {
        function(user_data as *mut c_void, RESOURCE, cbid, (&raw const data).cast());
    });
}

pub(crate) fn watch_all(on: bool) {
    WATCHED.iter().skip(1).for_each(|watched| watched.store(u8::from(on), Ordering::Relaxed));
}

pub(crate) fn is_watched(cbid: u32) -> bool {
    LISTENING.load(Ordering::Relaxed)
        && WATCHED.get(cbid as usize).is_some_and(|on| cbid != 0 && on.load(Ordering::Relaxed) != 0)
}

/// A call as the subscriber sees it.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) cbid: u32,
    pub(crate) name: &'static CStr,
    pub(crate) params: *const c_void,
    pub(crate) symbol: Option<&'static CStr>,
    pub(crate) context: (u64, u32),
    pub(crate) correlation: u32,
    /// The slot that enter and exit of one call share.
    pub(crate) slot: &'a mut u64,
}

impl Seen<'_> {
    pub(crate) fn entered(&mut self) {
        self.fire(0, std::ptr::null());
    }

    pub(crate) fn returned(&mut self, code: u32) {
        self.fire(1, (&raw const code).cast());
    }

    fn fire(&mut self, site: u32, result: *const c_void) {
        let Some(Subscriber { function, user_data }) = *subscriber() else { return };
        let data = Data {
            site,
            function_name: self.name.as_ptr(),
            function_params: self.params,
            function_return_value: result,
            symbol_name: self.symbol.map_or(std::ptr::null(), CStr::as_ptr),
            context: self.context.0,
            context_uid: self.context.1,
            correlation_data: self.slot,
            correlation_id: self.correlation,
        };
        // SAFETY: the client registered this function for exactly this call; `data` and all that
        // it points to live until it returns.
        thread::in_client(|| unsafe {
            function(user_data as *mut c_void, DRIVER_API, self.cbid, (&raw const data).cast());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn callback_data_is_laid_out_as_cupti_has_it() {
        assert_eq!(size_of::<Data>(), 72);
        assert_eq!(offset_of!(Data, function_name), 8);
        assert_eq!(offset_of!(Data, function_params), 16);
        assert_eq!(offset_of!(Data, function_return_value), 24);
        assert_eq!(offset_of!(Data, symbol_name), 32);
        assert_eq!(offset_of!(Data, context), 40);
        assert_eq!(offset_of!(Data, context_uid), 48);
        assert_eq!(offset_of!(Data, correlation_data), 56);
        assert_eq!(offset_of!(Data, correlation_id), 64);
        assert_eq!(offset_of!(ModuleData, code_bytes), 8);
        assert_eq!(offset_of!(ModuleData, code), 16);
    }
}
