//! The simulated libcupti: Activity API (V1), driver-API callbacks, one subscriber.
//!
//! Versions differ in record sizes, in the number `cuptiGetVersion` returns, and in whether
//! `cuptiSubscribe_v2` is there. Until `cuInit` succeeded every call answers NOT_INITIALIZED.

#![expect(unsafe_code, reason = "exports a C API and steps through the client's buffers")]
#![allow(non_snake_case, reason = "exported names and their parameters are CUPTI's")]

pub(crate) mod api;
mod attributes;
pub(crate) mod buffers;
pub(crate) mod callbacks;
pub(crate) mod device_buffers;
mod external;
pub(crate) mod faults;
pub(crate) mod layout;
mod markers;
pub(crate) mod overhead;
pub(crate) mod pending;
mod returns;
mod subscription;

pub use markers::{memvelope_sim_mark, memvelope_sim_range_pop, memvelope_sim_range_push};

use crate::edge::{get, put};
use crate::entry::{plain_functions, settle_all};
use crate::thread;
use crate::world::{self, World};
use std::ffi::{CStr, c_char, c_void};

/// `CUptiResult`s.
mod code {
    pub(super) const SUCCESS: u32 = 0;
    pub(super) const INVALID_PARAMETER: u32 = 1;
    pub(super) const INVALID_CONTEXT: u32 = 3;
    pub(super) const INVALID_OPERATION: u32 = 7;
    pub(super) const PARAMETER_SIZE_NOT_SUFFICIENT: u32 = 10;
    pub(super) const API_NOT_IMPLEMENTED: u32 = 11;
    pub(super) const MAX_LIMIT_REACHED: u32 = 12;
    pub(super) const NOT_INITIALIZED: u32 = 15;
    pub(super) const QUEUE_EMPTY: u32 = 18;
    pub(super) const INVALID_KIND: u32 = 21;
    pub(super) const NOT_SUPPORTED: u32 = 27;
    pub(super) const MULTIPLE_SUBSCRIBERS: u32 = 39;
    pub(super) const UNKNOWN: u32 = 999;
}

static RESULT_TEXTS: &[(u32, &CStr)] = &[
    (code::SUCCESS, c"CUPTI_SUCCESS"),
    (code::INVALID_PARAMETER, c"CUPTI_ERROR_INVALID_PARAMETER"),
    (code::INVALID_CONTEXT, c"CUPTI_ERROR_INVALID_CONTEXT"),
    (code::INVALID_OPERATION, c"CUPTI_ERROR_INVALID_OPERATION"),
    (code::PARAMETER_SIZE_NOT_SUFFICIENT, c"CUPTI_ERROR_PARAMETER_SIZE_NOT_SUFFICIENT"),
    (code::API_NOT_IMPLEMENTED, c"CUPTI_ERROR_API_NOT_IMPLEMENTED"),
    (code::MAX_LIMIT_REACHED, c"CUPTI_ERROR_MAX_LIMIT_REACHED"),
    (code::NOT_INITIALIZED, c"CUPTI_ERROR_NOT_INITIALIZED"),
    (code::QUEUE_EMPTY, c"CUPTI_ERROR_QUEUE_EMPTY"),
    (code::INVALID_KIND, c"CUPTI_ERROR_INVALID_KIND"),
    (code::NOT_SUPPORTED, c"CUPTI_ERROR_NOT_SUPPORTED"),
    (35, c"CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"),
    (code::MULTIPLE_SUBSCRIBERS, c"CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED"),
    (code::UNKNOWN, c"CUPTI_ERROR_UNKNOWN"),
];

/// The subscriber's handle: opaque, and there is only one.
const SUBSCRIBER_HANDLE: u64 = 0x5b5c_0001;
/// Activity kinds that CUPTI knows; those without a layout of ours are not simulated.
const KIND_LAST: u32 = 60;
/// First version with `cuptiSubscribe_v2`.
const SUBSCRIBE_V2_SINCE: u32 = 1300;
/// First version with `cuptiActivityEnableDriverApi` and its sister.
const API_FILTERS_SINCE: u32 = 1205;

plain_functions! {
    missing 11, panicked 999, before faults::cupti_called;
    cuptiGetVersion(version: *mut u32) => on_world(|world| {
        write(version, world.scenario.cupti_version().1)
    });
    cuptiGetTimestamp(timestamp: *mut u64) => on_world(|world| {
        write(timestamp, world.activity.stamp(world.now))
    });
    cuptiGetResultString(result: u32, text: *mut *const c_char) => result_text(result, text);
    cuptiGetErrorMessage(result: u32, text: *mut *const c_char) => result_text(result, text);

    cuptiSubscribe(subscriber: *mut u64, callback: Option<callbacks::Function>,
        userdata: *mut c_void) => subscription::subscribe(subscriber, callback, userdata, None);
    cuptiSubscribe_v2(subscriber: *mut u64, callback: Option<callbacks::Function>,
        userdata: *mut c_void, params: *const subscription::SubscriberParams)
        => subscription::subscribe(subscriber, callback, userdata, Some(params));
    cuptiUnsubscribe(subscriber: u64) => on_subscriber(subscriber, || {
        callbacks::unsubscribe();
        code::SUCCESS
    });
    cuptiEnableCallback(enable: u32, subscriber: u64, domain: u32, cbid: u32)
        => on_subscriber(subscriber, || subscription::enable_callback(enable != 0, domain, cbid));
    cuptiEnableDomain(enable: u32, subscriber: u64, domain: u32)
        => on_subscriber(subscriber, || subscription::enable_domain(enable != 0, domain));
    cuptiEnableAllDomains(enable: u32, subscriber: u64) => on_subscriber(subscriber, || {
        callbacks::watch_all(enable != 0);
        callbacks::watch_resource(None, enable != 0);
        code::SUCCESS
    });
    cuptiGetCallbackState(enable: *mut u32, subscriber: u64, domain: u32, cbid: u32)
        => on_subscriber(subscriber, || {
            let on = domain == callbacks::DRIVER_API && callbacks::is_watched(cbid);
            write(enable, u32::from(on))
        });
    cuptiGetCallbackName(domain: u32, cbid: u32, name: *mut *const c_char) => {
        let mut table = crate::driver::functions();
        let found = table.find(|f| domain == callbacks::DRIVER_API && cbid != 0 && f.cbid == cbid);
        found.map_or(code::INVALID_PARAMETER, |function| write(name, function.name.as_ptr()))
    };

    cuptiActivityRegisterCallbacks(request: Option<buffers::Request>,
        complete: Option<buffers::Complete>) => ready(|| match (request, complete) {
            (Some(request), Some(complete)) => {
                buffers::register(request, complete);
                code::SUCCESS
            }
            _ => code::INVALID_PARAMETER,
        });
    cuptiActivityEnable(kind: u32) => ready(|| switch(kind, true));
    cuptiActivityDisable(kind: u32) => ready(|| switch(kind, false));
    cuptiActivityFlushAll(flag: u32) => ready(|| flush(flag & 1 != 0));
    // Full buffers are given back at once, so that there is nothing for a period to do.
    cuptiActivityFlushPeriod(_time_ms: u32) => ready(|| code::SUCCESS);
    cuptiActivityGetNextRecord(buffer: *mut u8, valid: usize, record: *mut *mut u8)
        => next_record(buffer, valid, record);
    cuptiActivityGetNumDroppedRecords(_context: u64, _stream: u32, dropped: *mut usize)
        => ready(|| write(dropped, buffers::take_dropped() as usize));
    cuptiActivitySetAttribute(attribute: u32, size: *mut usize, value: *const u8)
        => on_world(|world| attributes::set(world, attribute, size, value));
    cuptiActivityGetAttribute(attribute: u32, size: *mut usize, value: *mut u8)
        => on_world(|world| attributes::get_value(world, attribute, size, value));
    cuptiActivityRegisterTimestampCallback(clock: Option<unsafe extern "C" fn() -> u64>)
        => register_clock(clock);
    cuptiActivityEnableDriverApi(cbid: u32, enable: u8) => api_filter(|| {
        if api::switch_one(cbid, enable != 0) { code::SUCCESS } else { code::INVALID_PARAMETER }
    });
    // Nobody calls the runtime here, so there is nothing to choose from.
    cuptiActivityEnableRuntimeApi(_cbid: u32, _enable: u8) => api_filter(|| code::SUCCESS);
    cuptiActivityPushExternalCorrelationId(kind: u32, id: u64)
        => ready(|| refusal(external::push(kind, id)).map_or_else(|code| code, |()| code::SUCCESS));
    cuptiActivityPopExternalCorrelationId(kind: u32, last_id: *mut u64)
        => ready(|| refusal(external::pop(kind)).map_or_else(|code| code, |id| {
            // The id may be of no interest.
            let _ = put(last_id, id);
            code::SUCCESS
        }));
    cuptiFinalize() => ready(finalize);

    cuptiGetContextId(context: u64, id: *mut u32) => on_world(|world| {
        world.contexts.get(&context).map_or(code::INVALID_CONTEXT, |context| write(id, context.uid))
    });
    cuptiGetDeviceId(context: u64, id: *mut u32) => on_world(|world| {
        let device = world.contexts.get(&context).map(|context| context.device);
        let device = device.and_then(|device| u32::try_from(device).ok());
        device.map_or(code::INVALID_CONTEXT, |device| write(id, device))
    });
    cuptiGetStreamIdEx(context: u64, stream: u64, per_thread: u8, id: *mut u32)
        => on_world(|world| stream_id(world, context, stream, per_thread != 0, id));
    cuptiGetStreamId(context: u64, stream: u64, id: *mut u32)
        => on_world(|world| stream_id(world, context, stream, false, id));
    cuptiGetThreadIdType(kind: *mut u32)
        => ready(|| write(kind, u32::from(thread::uses_system_ids())));
    cuptiSetThreadIdType(kind: u32) => ready(|| match kind {
        0 | 1 => {
            thread::use_system_ids(kind == 1);
            code::SUCCESS
        }
        _ => code::INVALID_PARAMETER,
    });
}

fn write<T>(to: *mut T, value: T) -> u32 {
    if put(to, value).is_ok() { code::SUCCESS } else { code::INVALID_PARAMETER }
}

fn ready(action: impl FnOnce() -> u32) -> u32 {
    if world::is_ready() { action() } else { code::NOT_INITIALIZED }
}

fn on_world(action: impl FnOnce(&mut World) -> u32) -> u32 {
    ready(|| world::machine().map_or(code::UNKNOWN, |mut world| action(&mut world)))
}

fn on_subscriber(handle: u64, action: impl FnOnce() -> u32) -> u32 {
    ready(|| {
        if handle == SUBSCRIBER_HANDLE && callbacks::is_subscribed() {
            action()
        } else {
            code::INVALID_PARAMETER
        }
    })
}

/// Whether anybody listens to CUPTI.
pub(crate) fn is_attached() -> bool {
    pending::any_on() || callbacks::is_subscribed()
}

fn result_text(result: u32, to: *mut *const c_char) -> u32 {
    let known = RESULT_TEXTS.iter().find(|(value, _)| *value == result);
    known.map_or(code::INVALID_PARAMETER, |(_, text)| write(to, text.as_ptr()))
}

fn on_settings<R>(read: impl FnOnce(&World) -> R) -> Option<R> {
    if world::is_ready() { world::machine().map(|world| read(&world)) } else { None }
}

/// The result of a push or a pop, as a code.
fn refusal<T>(result: Result<T, external::Refused>) -> Result<T, u32> {
    result.map_err(|refused| match refused {
        external::Refused::Kind => code::INVALID_PARAMETER,
        external::Refused::Empty => code::QUEUE_EMPTY,
    })
}

fn api_filter(action: impl FnOnce() -> u32) -> u32 {
    match on_settings(|world| world.activity.version) {
        None => code::NOT_INITIALIZED,
        Some(version) if version < API_FILTERS_SINCE => code::API_NOT_IMPLEMENTED,
        Some(_) => action(),
    }
}

fn switch(kind: u32, on: bool) -> u32 {
    if kind == 0 || kind > KIND_LAST {
        return code::INVALID_KIND;
    }
    if on && faults::is_poisoned() {
        return code::UNKNOWN;
    }
    if !pending::switch(kind, on) {
        return code::NOT_SUPPORTED;
    }
    if kind == layout::driver::LAYOUT.kind {
        api::switch_all(on);
    }
    if on {
        faults::attached(on_settings(|world| world.now).unwrap_or(0));
    } else if !pending::any_on() {
        buffers::stopped();
    }
    code::SUCCESS
}

fn finalize() -> u32 {
    faults::finalizing();
    pending::switch_all_off();
    api::switch_all(false);
    callbacks::unsubscribe();
    buffers::stopped();
    code::SUCCESS
}

fn flush(forced: bool) -> u32 {
    if thread::is_in_client() {
        return code::INVALID_OPERATION;
    }
    if !buffers::is_registered() {
        return code::INVALID_OPERATION;
    }
    faults::flushing();
    settle_all();
    if forced {
        let Some(mut world) = world::machine() else { return code::UNKNOWN };
        let now = world.now;
        let records = world.activity.take_all(now);
        drop(world);
        buffers::deliver(records);
    }
    buffers::flush(forced);
    code::SUCCESS
}

fn next_record(buffer: *mut u8, valid: usize, record: *mut *mut u8) -> u32 {
    let version = match on_settings(|world| world.activity.version) {
        Some(version) => version,
        None => return code::NOT_INITIALIZED,
    };
    let Ok(current) = get(record) else { return code::INVALID_PARAMETER };
    if buffer.is_null() {
        return code::INVALID_PARAMETER;
    }
    let kind_at = |offset: usize| {
        // SAFETY: the client passes a buffer with `valid` bytes of records; `offset` was checked
        // to leave room for a kind.
        unsafe { buffer.add(offset).cast::<u32>().read_unaligned() }
    };
    let size_at = |offset: usize| Some(layout::layout_of(kind_at(offset))?.size(version));
    let next = if current.is_null() {
        0
    } else {
        let offset = (current as usize).wrapping_sub(buffer as usize);
        if offset.saturating_add(4) > valid {
            return code::INVALID_PARAMETER;
        }
        let Some(size) = size_at(offset) else { return code::INVALID_KIND };
        offset + size
    };
    if next + 4 > valid {
        return code::MAX_LIMIT_REACHED;
    }
    match size_at(next) {
        None => code::INVALID_KIND,
        Some(size) if next + size > valid => code::MAX_LIMIT_REACHED,
        // SAFETY: `next` is inside the client's buffer, as was just checked.
        Some(_) => write(record, unsafe { buffer.add(next) }),
    }
}

/// From here on, times are the client's clock: its distance from the virtual clock now is added
/// to every record made later.
fn register_clock(clock: Option<unsafe extern "C" fn() -> u64>) -> u32 {
    let Some(clock) = clock else { return code::INVALID_PARAMETER };
    ready(|| {
        // SAFETY: the client passes a function for exactly this call; no lock is held.
        let theirs = unsafe { clock() };
        on_world(|world| {
            world.activity.clock_offset = (theirs.wrapping_sub(world.now)).cast_signed();
            faults::clock_registered();
            code::SUCCESS
        })
    })
}

fn stream_id(world: &mut World, context: u64, stream: u64, own: bool, to: *mut u32) -> u32 {
    let Some(record) = world.contexts.get(&context) else { return code::INVALID_CONTEXT };
    let stream = match (stream, own) {
        (0, true) => record.per_thread.get(&thread::number()).copied().unwrap_or(0),
        (0, false) => record.legacy,
        (stream, _) => stream,
    };
    world.streams.get(&stream).map_or(code::INVALID_PARAMETER, |stream| write(to, stream.id))
}
