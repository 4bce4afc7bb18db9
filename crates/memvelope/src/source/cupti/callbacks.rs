//! CUPTI's C edge: buffers asked for and handed back, and callbacks of the allocation family, which
//! `family` turns into events.
//!
//! A callback runs on the host's thread inside a CUDA call. It allocates nothing, takes no lock but
//! the sink's own, and reads the call's arguments by their place in the parameter block, which
//! the ABI fixes ([`cupti_sys::params`]). Results are read at the exit site of calls that succeeded:
//! only then has the driver written them.
//!
//! The device of a call is that of its context. CUPTI names the context only, so the first
//! allocation in a context asks the driver (`cuCtxGetDevice`, a thread-local look-up that waits
//! for nothing) and a table remembers the answer; see [`super::contexts`].

#![expect(unsafe_code, reason = "arguments of C calls, read through CUPTI's pointers")]

use super::call::{Block, Call};
use super::contexts::Known;
use super::state::{Inside, STATE};
use super::{family, finalize, growth, pools};
use crate::event::{Body, Event, SeenBy};
use crate::source::clock;
use crate::source::driver::is_asking;
use crate::units::Nanos;
use cupti_sys::layout::callback_data;
use cupti_sys::{Context, cbid, domain, resource_cbid};
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// The driver functions whose callbacks we need. The first is in every version of CUPTI.
pub(super) const WATCHED: &[u32] = &[
    cbid::MEM_ALLOC_V2,
    cbid::MEM_ALLOC_PITCH_V2,
    cbid::MEM_ALLOC_MANAGED,
    cbid::MEM_HOST_ALLOC,
    cbid::MEM_HOST_ALLOC_V2,
    cbid::MEM_ALLOC_HOST_V2,
    cbid::MEM_HOST_REGISTER,
    cbid::MEM_HOST_REGISTER_V2,
    cbid::MEM_HOST_UNREGISTER,
    cbid::MEM_FREE_V2,
    cbid::MEM_FREE_HOST,
    cbid::MEM_ALLOC_ASYNC,
    cbid::MEM_ALLOC_ASYNC_PTSZ,
    cbid::MEM_ALLOC_FROM_POOL_ASYNC,
    cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ,
    cbid::MEM_FREE_ASYNC,
    cbid::MEM_FREE_ASYNC_PTSZ,
    cbid::MEM_POOL_CREATE,
    cbid::MEM_POOL_DESTROY,
    cbid::MEM_POOL_TRIM_TO,
    cbid::MEM_POOL_IMPORT_POINTER,
    cbid::IPC_OPEN_MEM_HANDLE,
    cbid::IPC_OPEN_MEM_HANDLE_V2,
    cbid::IPC_CLOSE_MEM_HANDLE,
    cbid::EXTERNAL_MEMORY_GET_MAPPED_BUFFER,
    cbid::ARRAY_CREATE_V2,
    cbid::ARRAY_3D_CREATE_V2,
    cbid::MIPMAPPED_ARRAY_CREATE,
    cbid::ARRAY_DESTROY,
    cbid::MIPMAPPED_ARRAY_DESTROY,
    cbid::MEM_CREATE,
    cbid::MEM_RELEASE,
    cbid::MEM_MAP,
    cbid::MEM_UNMAP,
    cbid::MEM_RETAIN_ALLOCATION_HANDLE,
    cbid::MEM_EXPORT_TO_SHAREABLE_HANDLE,
    cbid::MEM_IMPORT_FROM_SHAREABLE_HANDLE,
    cbid::STREAM_BEGIN_CAPTURE,
    cbid::STREAM_BEGIN_CAPTURE_PTSZ,
    cbid::STREAM_BEGIN_CAPTURE_V2,
    cbid::STREAM_BEGIN_CAPTURE_V2_PTSZ,
    cbid::STREAM_END_CAPTURE,
    cbid::STREAM_END_CAPTURE_PTSZ,
    cbid::GRAPH_ADD_MEM_ALLOC_NODE,
    cbid::GRAPH_ADD_MEM_FREE_NODE,
    cbid::DEVICE_GRAPH_MEM_TRIM,
    cbid::MULTICAST_CREATE,
    cbid::MULTICAST_BIND_MEM,
    cbid::MULTICAST_BIND_ADDR,
    cbid::MULTICAST_UNBIND,
    cbid::GRAPH_ADD_NODE,
    cbid::STREAM_BEGIN_CAPTURE_TO_GRAPH,
    cbid::STREAM_BEGIN_CAPTURE_TO_GRAPH_PTSZ,
    cbid::GRAPH_ADD_NODE_V2,
    cbid::MULTICAST_BIND_MEM_V2,
    cbid::MULTICAST_BIND_ADDR_V2,
];

/// Whether CUPTI may be too old for a function: those from here on came after 12.0, and what it does
/// not know of the driver of its time does not have either.
pub(super) fn may_be_newer_than_cupti(id: u32) -> bool {
    id >= cbid::MULTICAST_CREATE
}

/// `CUpti_BuffersCallbackRequestFunc`.
pub(super) unsafe extern "C" fn buffer_requested(
    buffer: *mut *mut u8,
    size: *mut usize,
    max_records: *mut usize,
) {
    STATE.guarded(|| {
        let (pointer, bytes) = match STATE.arena() {
            Some(arena) if crate::fork::in_child() => arena.discard_buffer(),
            // CUPTI is somebody else's: what it records now is not for us.
            Some(arena) if STATE.is_withholding.load(Ordering::Relaxed) => {
                arena.nothing(STATE.null_tolerated.load(Ordering::Relaxed))
            }
            Some(arena) => arena.request(STATE.null_tolerated.load(Ordering::Relaxed)),
            None => (std::ptr::null_mut(), 0),
        };
        // SAFETY: CUPTI passes three places to write to; 0 records is "as many as fit".
        unsafe {
            if !buffer.is_null() {
                *buffer = pointer;
            }
            if !size.is_null() {
                *size = bytes;
            }
            if !max_records.is_null() {
                *max_records = 0;
            }
        }
    });
}

/// `CUpti_BuffersCallbackCompleteFunc`.
pub(super) unsafe extern "C" fn buffer_completed(
    _context: Context,
    _stream_id: u32,
    buffer: *mut u8,
    _size: usize,
    valid_size: usize,
) {
    STATE.guarded(|| {
        if let Some(arena) = STATE.arena().filter(|_| !buffer.is_null()) {
            arena.complete(buffer, valid_size);
        }
    });
}

/// `CUpti_CallbackFunc`.
pub(super) unsafe extern "C" fn on_callback(
    _userdata: *mut c_void,
    callback_domain: u32,
    id: u32,
    data: *const c_void,
) {
    STATE.guarded(|| {
        // SAFETY: in this domain CUPTI passes a CUpti_CallbackData, valid for this call.
        let site = || unsafe { Block(data.cast()).read(callback_data::SITE) };
        if data.is_null() || finalize::on_callback(callback_domain, id, site) {
            return;
        }
        let Some(sink) = STATE.sink() else { return };
        let Some(_inside) = Inside::enter() else { return };
        match callback_domain {
            domain::DRIVER_API => {
                // What we ask ourselves on the way is nobody's call.
                if is_asking() {
                    return;
                }
                // SAFETY: in this domain CUPTI passes a CUpti_CallbackData, valid for this call.
                let call = unsafe { Call::read(id, Block(data.cast()), sink) };
                if !call.at_exit {
                    call.enter();
                }
                if growth::is_setup(id) {
                    // SAFETY: `call` was just made of CUPTI's data for this very call.
                    unsafe { growth::on_call(&call) };
                }
                // Before anything is told of the call: a pool that is about to end is asked once more,
                // then no more.
                if pools::WATCHED.contains(&id) {
                    // SAFETY: as above.
                    unsafe {
                        family::last_question(&call);
                        pools::on_call(&call);
                    }
                }
                // SAFETY: as above.
                unsafe { family::driver_call(&call) };
                if call.at_exit {
                    Call::leave();
                }
            }
            domain::RESOURCE if id == resource_cbid::CONTEXT_DESTROY_STARTING => {
                // SAFETY: in this domain CUPTI passes a CUpti_ResourceData, which begins with the
                // context.
                let context = unsafe { Block(data.cast()).read::<usize>(0) };
                if let Some(Known { uid, device }) = STATE.contexts.forget(context) {
                    emit(clock::now(), Body::ContextDestroyed { device, context: uid });
                }
                growth::context_gone(context);
            }
            domain::RESOURCE if id == resource_cbid::MODULE_LOADED && !growth::is_measuring() => {
                // SAFETY: as above; with this id its descriptor is a CUpti_ModuleResourceData.
                unsafe { module_loaded(Block(data.cast())) };
            }
            _ => {}
        }
    });
}

/// Remembers that a module was loaded, and how large its machine code is.
///
/// # Safety
/// `data` is a `CUpti_ResourceData` whose descriptor is null or a `CUpti_ModuleResourceData`.
unsafe fn module_loaded(data: Block) {
    /// Where the descriptor lies, and in it the size of the machine code.
    const DESCRIPTOR: usize = 16;
    const CODE_BYTES: usize = 8;
    // SAFETY: the caller's promise.
    let (context, module) = unsafe { (data.read::<usize>(0), data.at(DESCRIPTOR)) };
    // SAFETY: the caller's promise.
    let code = module.map_or(0, |module| unsafe { module.read::<u64>(CODE_BYTES) });
    // Where nothing was allocated in it yet, it may have been seen being made.
    let device = STATE.contexts.device_at(context).or_else(|| STATE.growth.device_of(context));
    if let Some(device) = device {
        STATE.lazy.note(device, context, code);
    }
}

fn emit(time: Nanos, body: Body) {
    STATE.emit(&Event { time, seen_by: SeenBy::Callback, body });
}

#[cfg(test)]
#[path = "callbacks_tests.rs"]
mod tests;
