//! The simulated libcupti: Activity API (V1), driver-API callbacks, one subscriber.
//!
//! Versions differ in record sizes, in the number `cuptiGetVersion` returns, and in whether
//! `cuptiSubscribe_v2` is there. Until `cuInit` succeeded every call answers NOT_INITIALIZED.

#![expect(unsafe_code, reason = "exports a C API and steps through the client's buffers")]
#![allow(non_snake_case, reason = "exported names and their parameters are CUPTI's")]

pub(crate) mod buffers;
pub(crate) mod callbacks;
pub(crate) mod layout;
pub(crate) mod pending;

use crate::edge::{get, put};
use crate::entry::{plain_functions, settle};
use crate::thread;
use crate::world::{self, World};
use std::ffi::{CStr, c_char, c_void};
use std::sync::Mutex;
use std::sync::PoisonError;

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

plain_functions! {
    missing 11, panicked 999;
    cuptiGetVersion(version: *mut u32) => on_world(|world| {
        write(version, world.scenario.cupti_version().1)
    });
    cuptiGetTimestamp(timestamp: *mut u64) => on_world(|world| {
        write(timestamp, world.activity.stamp(world.now))
    });
    cuptiGetResultString(result: u32, text: *mut *const c_char) => result_text(result, text);
    cuptiGetErrorMessage(result: u32, text: *mut *const c_char) => result_text(result, text);

    cuptiSubscribe(subscriber: *mut u64, callback: Option<callbacks::Function>,
        userdata: *mut c_void) => subscribe(subscriber, callback, userdata, None);
    cuptiSubscribe_v2(subscriber: *mut u64, callback: Option<callbacks::Function>,
        userdata: *mut c_void, params: *const SubscriberParams)
        => subscribe(subscriber, callback, userdata, Some(params));
    cuptiUnsubscribe(subscriber: u64) => on_subscriber(subscriber, || {
        callbacks::unsubscribe();
        code::SUCCESS
    });
    cuptiEnableCallback(enable: u32, subscriber: u64, domain: u32, cbid: u32)
        => on_subscriber(subscriber, || enable_callback(enable != 0, domain, cbid));
    cuptiEnableDomain(enable: u32, subscriber: u64, domain: u32)
        => on_subscriber(subscriber, || enable_domain(enable != 0, domain));
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
        let mut table = crate::driver::TABLE.iter();
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
        => on_world(|world| set_attribute(world, attribute, size, value));
    cuptiActivityGetAttribute(attribute: u32, size: *mut usize, value: *mut u8)
        => on_world(|world| get_attribute(world, attribute, size, value));
    cuptiActivityRegisterTimestampCallback(clock: Option<unsafe extern "C" fn() -> u64>)
        => register_clock(clock);
    cuptiFinalize() => ready(|| {
        layout::LAYOUTS.iter().for_each(|layout| { pending::switch(layout.kind, false); });
        callbacks::unsubscribe();
        code::SUCCESS
    });

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
    cuptiGetThreadIdType(kind: *mut u32) => ready(|| write(kind, 0));
}

/// The head of `CUpti_SubscriberParams` (13.0: 32 bytes; later fields are not read).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct SubscriberParams {
    struct_size: usize,
    name: *const c_char,
    old_name: *mut c_char,
    old_name_size: usize,
}

/// Name of the last subscriber that gave one, for whoever comes second.
static HOLDER: Mutex<String> = Mutex::new(String::new());

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

fn result_text(result: u32, to: *mut *const c_char) -> u32 {
    let known = RESULT_TEXTS.iter().find(|(value, _)| *value == result);
    known.map_or(code::INVALID_PARAMETER, |(_, text)| write(to, text.as_ptr()))
}

fn subscribe(
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
        Some((other, _)) => other,
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

fn on_settings<R>(read: impl FnOnce(&World) -> R) -> Option<R> {
    if world::is_ready() { world::machine().map(|world| read(&world)) } else { None }
}

fn enable_callback(on: bool, domain: u32, cbid: u32) -> u32 {
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

fn enable_domain(on: bool, domain: u32) -> u32 {
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

fn switch(kind: u32, on: bool) -> u32 {
    if kind == 0 || kind > KIND_LAST {
        return code::INVALID_KIND;
    }
    if pending::switch(kind, on) { code::SUCCESS } else { code::NOT_SUPPORTED }
}

fn flush(forced: bool) -> u32 {
    if thread::is_in_client() {
        return code::INVALID_OPERATION;
    }
    if !buffers::is_registered() {
        return code::INVALID_OPERATION;
    }
    settle();
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

/// Bytes of an attribute's value, and the first version that has it.
fn attribute_shape(attribute: u32) -> Option<(usize, u32)> {
    match attribute {
        0..=4 | 6 | 7 => Some((size_of::<usize>(), 1200)),
        5 | 8 => Some((1, 1200)),
        9 => Some((1, 1203)),
        10 => Some((size_of::<usize>(), 1204)),
        _ => None,
    }
}

/// Checks an attribute call; returns the size of its value.
fn attribute_size(world: &World, attribute: u32, size: *mut usize) -> Result<usize, u32> {
    let (bytes, since) = attribute_shape(attribute).ok_or(code::INVALID_PARAMETER)?;
    if since > world.activity.version {
        return Err(code::INVALID_PARAMETER);
    }
    let room = get(size.cast_const()).map_err(|_| code::INVALID_PARAMETER)?;
    if room < bytes {
        let _ = put(size, bytes);
        return Err(code::PARAMETER_SIZE_NOT_SUFFICIENT);
    }
    Ok(bytes)
}

fn set_attribute(world: &mut World, attribute: u32, size: *mut usize, value: *const u8) -> u32 {
    let bytes = match attribute_size(world, attribute, size) {
        Ok(bytes) => bytes,
        Err(code) => return code,
    };
    let value = match bytes {
        1 => get(value).map(u64::from),
        _ => get(value.cast::<u64>()),
    };
    let Ok(value) = value else { return code::INVALID_PARAMETER };
    match attribute {
        5 => buffers::set_client_zeroes(value != 0),
        9 => buffers::set_per_thread(value != 0),
        _ => {}
    }
    world.activity.attributes.insert(attribute, value);
    code::SUCCESS
}

fn get_attribute(world: &World, attribute: u32, size: *mut usize, value: *mut u8) -> u32 {
    let bytes = match attribute_size(world, attribute, size) {
        Ok(bytes) => bytes,
        Err(code) => return code,
    };
    // CUPTI's defaults: 3.2 MB buffers, 250 of them, 3 preallocated.
    let default = match attribute {
        0 => 3_200_000,
        1 => 8 << 20,
        2 | 4 => 250,
        3 => 65_536,
        5 => u64::from(buffers::client_zeroes()),
        6 | 7 => 3,
        9 => u64::from(buffers::per_thread()),
        10 => 16 << 20,
        _ => 0,
    };
    let current = world.activity.attributes.get(&attribute).copied().unwrap_or(default);
    match bytes {
        1 => write(value, u8::try_from(current).unwrap_or(1)),
        _ => write(value.cast::<u64>(), current),
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
