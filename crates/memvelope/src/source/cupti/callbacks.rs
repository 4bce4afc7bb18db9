//! CUPTI's C edge: buffers asked for and handed back, and callbacks of the allocation family.
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

use super::UNKNOWN_DEVICE;
use super::contexts::Known;
use super::finalize;
use super::growth;
use super::pools;
use super::state::{Inside, STATE};
use crate::event::{
    AllocKind, Allocation, AllocationFailure, Body, CallKind, DeviceIndex, DriverCall, Event,
    FreeKind, LibraryId, SeenBy, current_tag,
};
use crate::source::clock;
use crate::source::driver::is_asking;
use crate::units::{Bytes, Nanos};
use cupti_sys::layout::{allocation_prop, callback_data};
use cupti_sys::{Context, callback_site, cbid, domain, params, resource_cbid};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// The driver functions whose callbacks we need.
pub(super) const WATCHED: &[u32] = &[
    cbid::MEM_ALLOC_V2,
    cbid::MEM_ALLOC_PITCH_V2,
    cbid::MEM_ALLOC_MANAGED,
    cbid::MEM_HOST_ALLOC,
    cbid::MEM_HOST_ALLOC_V2,
    cbid::MEM_ALLOC_HOST_V2,
    cbid::MEM_ALLOC_ASYNC,
    cbid::MEM_ALLOC_ASYNC_PTSZ,
    cbid::MEM_ALLOC_FROM_POOL_ASYNC,
    cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ,
    cbid::MEM_CREATE,
    cbid::MEM_FREE_V2,
    cbid::MEM_FREE_HOST,
    cbid::MEM_FREE_ASYNC,
    cbid::MEM_FREE_ASYNC_PTSZ,
    cbid::MEM_RELEASE,
    cbid::MEM_MAP,
    cbid::MEM_UNMAP,
];

/// `CUresult` of a call that ran out of memory: its arguments were in order.
const OUT_OF_MEMORY: u32 = 2;
/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const LOCATION_DEVICE: u32 = 1;

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
        if STATE.sink().is_none() {
            return;
        }
        let Some(_inside) = Inside::enter() else { return };
        match callback_domain {
            domain::DRIVER_API => {
                // What we ask ourselves on the way is nobody's call.
                if is_asking() {
                    return;
                }
                // SAFETY: in this domain CUPTI passes a CUpti_CallbackData, valid for this call.
                let call = unsafe { Call::read(id, Block(data.cast())) };
                if !call.at_exit {
                    STATE.under_way.enter();
                }
                if growth::is_setup(id) {
                    // SAFETY: `call` was just made of CUPTI's data for this very call.
                    unsafe { growth::on_call(&call) };
                } else {
                    STATE.callbacks.fetch_add(1, Ordering::Relaxed);
                }
                // SAFETY: as above. Before anything is told of the call: a pool that is about to end
                // is asked no more.
                unsafe { pools::on_call(&call) };
                // SAFETY: as above.
                unsafe { driver_call(&call) };
                if call.at_exit {
                    STATE.under_way.leave();
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
            _ => {}
        }
    });
}

fn emit(time: Nanos, body: Body) {
    STATE.emit(&Event { time, seen_by: SeenBy::Callback, body });
}

/// A C struct by its address.
#[derive(Clone, Copy)]
pub(super) struct Block(*const u8);

impl Block {
    /// Whether there is none.
    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The field at `offset`.
    ///
    /// # Safety
    /// A readable `T` lies there.
    pub(super) unsafe fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the caller's promise; the alignment is not relied upon.
        unsafe { self.0.add(offset).cast::<T>().read_unaligned() }
    }

    /// The struct that the pointer at `offset` points to; `None` if it is null.
    ///
    /// # Safety
    /// A pointer lies there.
    pub(super) unsafe fn at(self, offset: usize) -> Option<Self> {
        // SAFETY: the caller's promise.
        let pointer: *const u8 = unsafe { self.read(offset) };
        (!pointer.is_null()).then_some(Self(pointer))
    }

    /// What the pointer at `offset` points to; `None` if it is null.
    ///
    /// # Safety
    /// A pointer lies there, null or to a readable `T`.
    pub(super) unsafe fn read_through<T: Copy>(self, offset: usize) -> Option<T> {
        // SAFETY: the caller's promise.
        let pointer: *const T = unsafe { self.read(offset) };
        // SAFETY: the caller's promise, and it is not null.
        (!pointer.is_null()).then(|| unsafe { pointer.read_unaligned() })
    }
}

/// One driver call, at one of its two sites.
pub(super) struct Call {
    pub(super) id: u32,
    pub(super) at_exit: bool,
    pub(super) arguments: Block,
    /// The call's result; meaningful at the exit site.
    result: u32,
    pub(super) context: usize,
    pub(super) context_uid: u32,
    /// Where the entry site leaves a number for the exit site; may be null.
    shared: *mut u64,
    correlation: u32,
    /// When this site was reached.
    time: Nanos,
}

thread_local! {
    // const-initialised, without a destructor: usable in a callback at any time of a thread's life.
    /// When the call that this thread is in was entered; zero outside of calls.
    static ENTERED: Cell<Nanos> = const { Cell::new(Nanos::ZERO) };
}

impl Call {
    /// # Safety
    /// `data` is a `CUpti_CallbackData` of the current callback.
    unsafe fn read(id: u32, data: Block) -> Self {
        // SAFETY: the offsets are those of CUpti_CallbackData in every version; the return value
        // is a CUresult that exists at the exit site.
        unsafe {
            let at_exit = data.read::<u32>(callback_data::SITE) == callback_site::EXIT;
            let result = if at_exit {
                data.read_through::<u32>(callback_data::FUNCTION_RETURN_VALUE)
            } else {
                None
            };
            Self {
                id,
                at_exit,
                arguments: Block(data.read(callback_data::FUNCTION_PARAMS)),
                // A result that is not there is not a success: 999 is the driver's "unknown".
                result: result.unwrap_or(999),
                context: data.read(callback_data::CONTEXT),
                context_uid: data.read(callback_data::CONTEXT_UID),
                shared: data.read(callback_data::CORRELATION_DATA),
                correlation: data.read(callback_data::CORRELATION_ID),
                time: clock::now(),
            }
        }
    }

    pub(super) fn succeeded(&self) -> bool {
        self.result == 0
    }

    fn emit(&self, body: Body) {
        emit(self.time, body);
    }

    /// Tells how long the host was in the call, once it is over.
    fn time_it(&self) {
        if !self.at_exit {
            ENTERED.with(|entered| entered.set(self.time));
            return;
        }
        let start = ENTERED.with(|entered| entered.replace(Nanos::ZERO));
        // Zero: we were attached between the two sites.
        if let (Some(call), true) = (call_kind(self.id), start != Nanos::ZERO) {
            let succeeded = self.succeeded();
            self.emit(Body::DriverCall(DriverCall { call, succeeded, start, end: self.time }));
        }
    }

    /// Device of the call's context.
    pub(super) fn device(&self) -> DeviceIndex {
        if self.context_uid != 0
            && let Some(device) = STATE.contexts.device_of(self.context_uid)
        {
            return device;
        }
        let asked = STATE.driver().and_then(|driver| driver.current_device().ok().flatten());
        match asked {
            Some(device) => {
                if self.context_uid != 0 && self.context != 0 {
                    STATE.contexts.learn(self.context, Known { uid: self.context_uid, device });
                }
                device
            }
            None => {
                STATE.unknown_device.fetch_add(1, Ordering::Relaxed);
                UNKNOWN_DEVICE
            }
        }
    }
}

fn call_kind(id: u32) -> Option<CallKind> {
    Some(match id {
        cbid::MEM_ALLOC_V2 => CallKind::Alloc,
        cbid::MEM_ALLOC_PITCH_V2 => CallKind::AllocPitch,
        cbid::MEM_ALLOC_MANAGED => CallKind::AllocManaged,
        cbid::MEM_HOST_ALLOC | cbid::MEM_HOST_ALLOC_V2 | cbid::MEM_ALLOC_HOST_V2 => {
            CallKind::AllocPinned
        }
        cbid::MEM_ALLOC_ASYNC
        | cbid::MEM_ALLOC_ASYNC_PTSZ
        | cbid::MEM_ALLOC_FROM_POOL_ASYNC
        | cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ => CallKind::AllocAsync,
        cbid::MEM_CREATE => CallKind::Create,
        cbid::MEM_MAP => CallKind::Map,
        cbid::MEM_UNMAP => CallKind::Unmap,
        cbid::MEM_FREE_V2 => CallKind::Free,
        cbid::MEM_FREE_HOST => CallKind::FreePinned,
        cbid::MEM_FREE_ASYNC | cbid::MEM_FREE_ASYNC_PTSZ => CallKind::FreeAsync,
        cbid::MEM_RELEASE => CallKind::Release,
        _ => return None,
    })
}

/// # Safety
/// `call` describes the current callback, in the driver-API domain.
unsafe fn driver_call(call: &Call) {
    if call.arguments.0.is_null() {
        return;
    }
    call.time_it();
    // SAFETY: each id's parameter block has the shape that `params` says, and lives for this call.
    unsafe {
        match call.id {
            cbid::MEM_FREE_V2 => freeing(call, FreeKind::Device, params::mem_free_v2::DPTR),
            cbid::MEM_FREE_HOST => {
                freeing(call, FreeKind::PinnedHost, params::mem_free_host::POINTER);
            }
            cbid::MEM_FREE_ASYNC | cbid::MEM_FREE_ASYNC_PTSZ => {
                freeing(call, FreeKind::PoolUsed, params::mem_free_async::DPTR);
            }
            cbid::MEM_RELEASE => freeing(call, FreeKind::Vmm, params::mem_release::HANDLE),
            cbid::MEM_MAP if call.at_exit && call.succeeded() => call.emit(Body::Mapped {
                handle: call.arguments.read(params::mem_map::HANDLE),
                address: call.arguments.read(params::mem_map::DPTR),
                bytes: Bytes(call.arguments.read(params::mem_map::BYTES)),
            }),
            cbid::MEM_UNMAP if call.at_exit && call.succeeded() => call.emit(Body::Unmapped {
                address: call.arguments.read(params::mem_unmap::DPTR),
                bytes: Bytes(call.arguments.read(params::mem_unmap::BYTES)),
            }),
            _ if call.at_exit => {
                if let Some(request) = Request::read(call) {
                    allocating(call, &request);
                }
            }
            _ => {}
        }
    }
}

/// A free: announced at the entry site, before the address can be handed out again, and settled at
/// the exit site. The two sites find each other by the number that CUPTI keeps for us in between.
///
/// # Safety
/// The pointer or handle being freed lies at `offset` of the parameter block.
unsafe fn freeing(call: &Call, kind: FreeKind, offset: usize) {
    // Where CUPTI keeps nothing for us, its correlation id will do; the top bit keeps those apart
    // from our own numbers.
    let substitute = 1 << 63 | u64::from(call.correlation);
    // SAFETY: the caller's promise.
    let address: u64 = unsafe { call.arguments.read(offset) };
    if address == 0 {
        return; // freeing null is legal and frees nothing
    }
    if !call.at_exit {
        let token = if call.shared.is_null() { substitute } else { STATE.next_token() };
        if !call.shared.is_null() {
            // SAFETY: CUPTI keeps these eight bytes for us until the exit site.
            unsafe { call.shared.write_unaligned(token) };
        }
        return call.emit(Body::FreeEntered { address, kind, token });
    }
    let token = if call.shared.is_null() {
        substitute
    } else {
        // SAFETY: as above.
        unsafe { call.shared.read_unaligned() }
    };
    // Zero: we were attached between the two sites and announced nothing.
    if token != 0 {
        call.emit(Body::FreeReturned { token, succeeded: call.succeeded() });
    }
}

/// An allocation as asked for.
struct Request {
    kind: AllocKind,
    /// Where the parameter block points to the result.
    result_at: usize,
    bytes: u64,
    stream: u64,
    pool: u64,
    /// Only `cuMemCreate` says so itself.
    device: Option<DeviceIndex>,
}

impl Request {
    /// `None` for calls that allocate nothing we count.
    ///
    /// # Safety
    /// `call` is at its exit site.
    unsafe fn read(call: &Call) -> Option<Self> {
        use params::{
            mem_alloc_async, mem_alloc_from_pool_async, mem_alloc_host_v2, mem_alloc_managed,
            mem_alloc_v2, mem_host_alloc,
        };
        let plain = |kind, result_at, bytes_at| Self {
            kind,
            result_at,
            // SAFETY: all these take a size_t at this place.
            bytes: unsafe { call.arguments.read(bytes_at) },
            stream: 0,
            pool: 0,
            device: None,
        };
        Some(match call.id {
            cbid::MEM_ALLOC_V2 => plain(AllocKind::Device, mem_alloc_v2::DPTR, mem_alloc_v2::BYTES),
            cbid::MEM_ALLOC_MANAGED => {
                plain(AllocKind::Managed, mem_alloc_managed::DPTR, mem_alloc_managed::BYTES)
            }
            cbid::MEM_HOST_ALLOC | cbid::MEM_HOST_ALLOC_V2 => {
                plain(AllocKind::PinnedHost, mem_host_alloc::POINTER, mem_host_alloc::BYTES)
            }
            cbid::MEM_ALLOC_HOST_V2 => {
                plain(AllocKind::PinnedHost, mem_alloc_host_v2::POINTER, mem_alloc_host_v2::BYTES)
            }
            cbid::MEM_ALLOC_ASYNC | cbid::MEM_ALLOC_ASYNC_PTSZ => Self {
                // SAFETY: this function takes a stream at this place.
                stream: unsafe { call.arguments.read(mem_alloc_async::STREAM) },
                ..plain(AllocKind::PoolUsed, mem_alloc_async::DPTR, mem_alloc_async::BYTES)
            },
            cbid::MEM_ALLOC_FROM_POOL_ASYNC | cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ => Self {
                // SAFETY: this function takes a stream and a pool at these places.
                stream: unsafe { call.arguments.read(mem_alloc_from_pool_async::STREAM) },
                // SAFETY: as above.
                pool: unsafe { call.arguments.read(mem_alloc_from_pool_async::POOL) },
                ..plain(
                    AllocKind::PoolUsed,
                    mem_alloc_from_pool_async::DPTR,
                    mem_alloc_from_pool_async::BYTES,
                )
            },
            // SAFETY: the ids decide.
            cbid::MEM_ALLOC_PITCH_V2 => unsafe { Self::pitch(call) },
            // SAFETY: the ids decide.
            cbid::MEM_CREATE => return unsafe { Self::create(call) },
            _ => return None,
        })
    }

    /// `cuMemAllocPitch`: rows of the pitch that the driver chose.
    ///
    /// # Safety
    /// `call` is that function's exit site.
    unsafe fn pitch(call: &Call) -> Self {
        use params::mem_alloc_pitch_v2::{DPTR, HEIGHT, PITCH, WIDTH_BYTES};
        // SAFETY: the arguments lie there; the pitch is written where the call succeeded.
        let (height, row) = unsafe {
            let pitch =
                if call.succeeded() { call.arguments.read_through::<u64>(PITCH) } else { None };
            let width: u64 = call.arguments.read(WIDTH_BYTES);
            (call.arguments.read::<u64>(HEIGHT), pitch.unwrap_or(width))
        };
        Self {
            kind: AllocKind::Pitch,
            result_at: DPTR,
            bytes: row.saturating_mul(height),
            stream: 0,
            pool: 0,
            device: None,
        }
    }

    /// `cuMemCreate`: physical bytes on the device its properties name. `None` where they name the
    /// host: those bytes are neither VRAM nor pinned by an address that a free would name.
    ///
    /// # Safety
    /// `call` is that function's exit site.
    unsafe fn create(call: &Call) -> Option<Self> {
        use params::mem_create::{BYTES, HANDLE, PROP};
        // The properties may be nonsense where the call was refused for its arguments.
        let readable = call.succeeded() || call.result == OUT_OF_MEMORY;
        // SAFETY: the arguments lie there; the properties were read by the driver just now.
        let (bytes, properties) = unsafe {
            let prop: *const u8 = call.arguments.read(PROP);
            (call.arguments.read(BYTES), (readable && !prop.is_null()).then_some(Block(prop)))
        };
        let device = match properties {
            Some(prop) => {
                // SAFETY: as above.
                let (kind, id): (u32, u32) = unsafe {
                    (
                        prop.read(allocation_prop::LOCATION_TYPE),
                        prop.read(allocation_prop::LOCATION_ID),
                    )
                };
                (kind == LOCATION_DEVICE).then_some(DeviceIndex(id)).map(Some)?
            }
            None => None,
        };
        Some(Self { kind: AllocKind::Vmm, result_at: HANDLE, bytes, stream: 0, pool: 0, device })
    }
}

/// # Safety
/// `call` is at its exit site and `request` was read from it.
unsafe fn allocating(call: &Call, request: &Request) {
    let device = request.device.unwrap_or_else(|| call.device());
    let (bytes, tag) = (Bytes(request.bytes), current_tag());
    if !call.succeeded() {
        let (kind, result) = (request.kind, call.result);
        return call.emit(Body::AllocationFailed(AllocationFailure {
            device,
            kind,
            bytes,
            result,
            tag,
        }));
    }
    // SAFETY: the call succeeded, so the driver wrote the result through this pointer.
    let address = unsafe { call.arguments.read_through::<u64>(request.result_at) };
    let Some(address) = address.filter(|address| *address != 0) else { return };
    // A handle of `cuMemCreate` belongs to its device and outlives the context it was made in.
    let context = if request.kind == AllocKind::Vmm { 0 } else { call.context_uid };
    call.emit(Body::Allocated(Allocation {
        device,
        context,
        kind: request.kind,
        address,
        bytes,
        stream: request.stream,
        pool: request.pool,
        tag,
        library: LibraryId::UNKNOWN,
    }));
}

#[cfg(test)]
#[path = "callbacks_tests.rs"]
mod tests;
