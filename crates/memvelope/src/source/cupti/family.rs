//! Calls of the allocation family, turned into events.

#![expect(unsafe_code, reason = "arguments of C calls, read through CUPTI's pointers")]

use super::call::{Block, Call};
use super::state::STATE;
use super::{captures, first_looks, other_pools, shapes, sharing};
use crate::event::{
    AllocKind, Allocation, AllocationFailure, Body, DeviceIndex, FreeKind, current_tag,
};
use crate::source::attribution::library_here;
use crate::source::driver::Asked;
use crate::units::Bytes;
use cupti_sys::layout::{allocation_prop, pool_props};
use cupti_sys::{cbid, params};

/// `CUresult` of a call that ran out of memory: its arguments were in order.
const OUT_OF_MEMORY: u32 = 2;
/// `CU_MEM_LOCATION_TYPE_DEVICE`.
pub(super) const LOCATION_DEVICE: u32 = 1;
/// `CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN`: a part of a device, whose number is in 8 bits.
const LOCATION_DEVICE_DOMAIN: u32 = 6;
/// `CU_MEM_ALLOCATION_TYPE_MANAGED`.
const TYPE_MANAGED: u32 = 2;

/// The device that a `CUmemLocation` names; `None` for host memory.
pub(super) fn device_at(location: u32, id: u32) -> Option<DeviceIndex> {
    match location {
        LOCATION_DEVICE => Some(DeviceIndex(id)),
        LOCATION_DEVICE_DOMAIN => Some(DeviceIndex(id & 0xFF)),
        _ => None,
    }
}

/// # Safety
/// `call` describes the current callback, in the driver-API domain.
pub(super) unsafe fn driver_call(call: &Call) {
    if call.arguments.0.is_null() {
        return;
    }
    if call.at_exit {
        call.time_it();
    } else {
        // SAFETY: this is the entry site.
        unsafe { first_looks::entering(call) };
    }
    // SAFETY: each id's parameter block has the shape that `params` says, and lives for this call.
    unsafe {
        if let Some((kind, offset)) = freed(call.id) {
            freeing(call, kind, offset);
        } else if call.id == cbid::MEM_POOL_DESTROY {
            destroying_pool(call);
        } else if call.at_exit {
            if let Some(request) = Request::read(call) {
                allocating(call, &request);
                if call.succeeded() && call.id == cbid::MEM_IMPORT_FROM_SHAREABLE_HANDLE {
                    sharing::imported(call);
                }
            } else if call.succeeded() {
                succeeded(call);
            } else if matches!(call.id, cbid::STREAM_END_CAPTURE | cbid::STREAM_END_CAPTURE_PTSZ) {
                captures::end(call.result);
            }
        }
    }
}

/// Calls that free, by what: and where the address or handle stands.
fn freed(id: u32) -> Option<(FreeKind, usize)> {
    Some(match id {
        cbid::MEM_FREE_V2 => (FreeKind::Device, params::mem_free_v2::DPTR),
        cbid::MEM_FREE_HOST => (FreeKind::PinnedHost, params::mem_free_host::POINTER),
        cbid::MEM_FREE_ASYNC | cbid::MEM_FREE_ASYNC_PTSZ => {
            (FreeKind::PoolUsed, params::mem_free_async::DPTR)
        }
        cbid::MEM_RELEASE => (FreeKind::Vmm, params::mem_release::HANDLE),
        cbid::MEM_HOST_UNREGISTER => (FreeKind::Registered, params::mem_host_unregister::POINTER),
        cbid::IPC_CLOSE_MEM_HANDLE => {
            (FreeKind::ImportedAddress, params::ipc_close_mem_handle::DPTR)
        }
        // The handle of an array is the address of a struct of the driver's, and no allocation's.
        cbid::ARRAY_DESTROY => (FreeKind::Device, params::array_destroy::ARRAY),
        cbid::MIPMAPPED_ARRAY_DESTROY => (FreeKind::Device, params::mipmapped_array_destroy::ARRAY),
        _ => return None,
    })
}

/// What neither allocates nor frees: mappings, references, captures, pools.
///
/// # Safety
/// `call` is at its exit site, and succeeded.
unsafe fn succeeded(call: &Call) {
    match call.id {
        // SAFETY: the ids decide.
        cbid::MEM_MAP => call.emit(unsafe {
            Body::Mapped {
                handle: call.arguments.read(params::mem_map::HANDLE),
                address: call.arguments.read(params::mem_map::DPTR),
                bytes: Bytes(call.arguments.read(params::mem_map::BYTES)),
            }
        }),
        // SAFETY: the ids decide.
        cbid::MEM_UNMAP => call.emit(unsafe {
            Body::Unmapped {
                address: call.arguments.read(params::mem_unmap::DPTR),
                bytes: Bytes(call.arguments.read(params::mem_unmap::BYTES)),
            }
        }),
        cbid::STREAM_BEGIN_CAPTURE
        | cbid::STREAM_BEGIN_CAPTURE_PTSZ
        | cbid::STREAM_BEGIN_CAPTURE_V2
        | cbid::STREAM_BEGIN_CAPTURE_V2_PTSZ
        | cbid::STREAM_BEGIN_CAPTURE_TO_GRAPH
        | cbid::STREAM_BEGIN_CAPTURE_TO_GRAPH_PTSZ => captures::begin(),
        cbid::STREAM_END_CAPTURE | cbid::STREAM_END_CAPTURE_PTSZ => captures::end(call.result),
        // SAFETY: the ids decide.
        cbid::MEM_POOL_CREATE => unsafe { made_pool(call) },
        // SAFETY: the ids decide.
        _ => unsafe { sharing::succeeded(call) },
    }
}

/// A pool was made. In host or managed memory it is no pool of VRAM; then it is remembered for what
/// is allocated from it.
///
/// # Safety
/// `call` is the exit site of `cuMemPoolCreate`, which succeeded.
unsafe fn made_pool(call: &Call) {
    use params::mem_pool_create::{POOL, PROPS};
    // SAFETY: the driver read the properties and wrote the handle just now.
    let (pool, props) = unsafe {
        let props: *const u8 = call.arguments.read(PROPS);
        (call.arguments.read_through::<u64>(POOL), props)
    };
    let Some(pool) = pool.filter(|pool| *pool != 0 && !props.is_null()) else { return };
    let props = Block(props);
    // SAFETY: as above.
    let (allocation, location, id): (u32, u32, u32) = unsafe {
        (
            props.read(pool_props::ALLOCATION_TYPE),
            props.read(pool_props::LOCATION_TYPE),
            props.read(pool_props::LOCATION_ID),
        )
    };
    other_pools::forget(pool);
    let is_managed = allocation == TYPE_MANAGED;
    match device_at(location, id).filter(|_| !is_managed) {
        Some(device) => call.emit(Body::PoolCreated { device, pool }),
        None => other_pools::note(pool, is_managed),
    }
}

/// A pool is told to be gone before its handle can be given out again, and before it must not be
/// asked any more.
///
/// # Safety
/// `call` is of `cuMemPoolDestroy`.
unsafe fn destroying_pool(call: &Call) {
    // SAFETY: the handle lies there.
    let pool = unsafe { call.arguments.read(params::mem_pool_destroy::POOL) };
    if call.at_exit {
        call.emit(Body::PoolDestroyReturned { pool, succeeded: call.succeeded() });
    } else {
        other_pools::forget(pool);
        // Whoever was asking about this very pool has been waited for: what it was told is older.
        call.emit_now(Body::PoolDestroyed { pool });
    }
}

/// Asks a pool what it holds for the last time: what is allocated from it will keep that.
///
/// # Safety
/// `call` describes the current callback, in the driver-API domain.
pub(super) unsafe fn last_question(call: &Call) {
    if call.id != cbid::MEM_POOL_DESTROY || call.at_exit || call.arguments.0.is_null() {
        return;
    }
    // SAFETY: the handle lies there.
    let pool = unsafe { call.arguments.read(params::mem_pool_destroy::POOL) };
    let Some(driver) = STATE.driver() else { return };
    STATE.pools().while_alive(pool, &mut || {
        if let Some(device) = STATE.pools().device_of(pool)
            && let Ok(event) = driver.pool_of(device, pool)
        {
            call.emit_now(event.body);
        }
    });
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
        let token = if call.shared.is_null() { substitute } else { Call::token() };
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

/// Where a call leaves what it made.
#[derive(Clone, Copy)]
pub(super) enum Made {
    /// Behind the pointer at this place of the parameter block.
    Behind(usize),
    /// It is this very number.
    This(u64),
}

/// An allocation as asked for.
pub(super) struct Request {
    pub(super) kind: AllocKind,
    pub(super) made: Made,
    pub(super) bytes: u64,
    pub(super) stream: u64,
    pub(super) pool: u64,
    /// Where the call says so itself.
    pub(super) device: Option<DeviceIndex>,
}

impl Request {
    pub(super) fn plain(kind: AllocKind, result_at: usize, bytes: u64) -> Self {
        let made = Made::Behind(result_at);
        Self { kind, made, bytes, stream: 0, pool: 0, device: None }
    }

    /// `None` for calls that allocate nothing we count.
    ///
    /// # Safety
    /// `call` is at its exit site.
    unsafe fn read(call: &Call) -> Option<Self> {
        use params::{
            mem_alloc_host_v2, mem_alloc_managed, mem_alloc_v2, mem_host_alloc, mem_host_register,
        };
        let plain = |kind, result_at, bytes_at| {
            // SAFETY: all these take a size_t at this place.
            Self::plain(kind, result_at, unsafe { call.arguments.read(bytes_at) })
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
            // The two versions have the same arguments.
            cbid::MEM_HOST_REGISTER | cbid::MEM_HOST_REGISTER_V2 => Self {
                // SAFETY: a pointer lies there.
                made: Made::This(unsafe { call.arguments.read(mem_host_register::POINTER) }),
                ..plain(AllocKind::Registered, 0, mem_host_register::BYTES)
            },
            // SAFETY: the ids decide.
            cbid::MEM_ALLOC_ASYNC | cbid::MEM_ALLOC_ASYNC_PTSZ => unsafe { Self::pooled(call) },
            // SAFETY: the ids decide.
            cbid::MEM_ALLOC_FROM_POOL_ASYNC | cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ => unsafe {
                Self::from_pool(call)
            },
            // SAFETY: the ids decide.
            cbid::MEM_ALLOC_PITCH_V2 => unsafe { Self::pitch(call) },
            // SAFETY: the ids decide.
            cbid::MEM_CREATE => unsafe { Self::create(call) },
            cbid::ARRAY_CREATE_V2 | cbid::ARRAY_3D_CREATE_V2 | cbid::MIPMAPPED_ARRAY_CREATE => {
                // SAFETY: the ids decide.
                unsafe { Self::array(call) }
            }
            // SAFETY: the ids decide.
            _ => return unsafe { sharing::request(call) },
        })
    }

    /// `cuMemAllocAsync`: from the device's current pool, unless its stream is captured.
    ///
    /// # Safety
    /// `call` is that function's exit site.
    unsafe fn pooled(call: &Call) -> Self {
        use params::mem_alloc_async::{BYTES, DPTR, STREAM};
        // SAFETY: the arguments lie there.
        let (bytes, stream) = unsafe { (call.arguments.read(BYTES), call.arguments.read(STREAM)) };
        let request = Self { stream, ..Self::plain(AllocKind::PoolUsed, DPTR, bytes) };
        let is_per_thread = call.id == cbid::MEM_ALLOC_ASYNC_PTSZ;
        if captures::is_captured(stream, is_per_thread) {
            return Self { kind: AllocKind::GraphNode, ..request };
        }
        let device = call.device();
        // The program may have made another pool the current one, at any time.
        let pool = STATE.driver().map_or(0, |driver| driver.current_pool_handle(device));
        Self { kind: other_pools::kind_of(pool), pool, device: Some(device), ..request }
    }

    /// `cuMemAllocFromPoolAsync`, likewise.
    ///
    /// # Safety
    /// `call` is that function's exit site.
    unsafe fn from_pool(call: &Call) -> Self {
        use params::mem_alloc_from_pool_async::{BYTES, DPTR, POOL, STREAM};
        // SAFETY: the arguments lie there.
        let (bytes, stream, pool) = unsafe {
            let (bytes, stream) = (call.arguments.read(BYTES), call.arguments.read(STREAM));
            (bytes, stream, call.arguments.read(POOL))
        };
        let is_per_thread = call.id == cbid::MEM_ALLOC_FROM_POOL_ASYNC_PTSZ;
        if captures::is_captured(stream, is_per_thread) {
            return Self { stream, ..Self::plain(AllocKind::GraphNode, DPTR, bytes) };
        }
        Self { stream, pool, ..Self::plain(other_pools::kind_of(pool), DPTR, bytes) }
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
        Self::plain(AllocKind::Pitch, DPTR, row.saturating_mul(height))
    }

    /// `cuMemCreate`: physical bytes on the device its properties name, or on the host.
    ///
    /// # Safety
    /// `call` is that function's exit site.
    unsafe fn create(call: &Call) -> Self {
        use params::mem_create::{BYTES, HANDLE, PROP};
        // SAFETY: the arguments lie there.
        let (bytes, prop): (u64, *const u8) =
            unsafe { (call.arguments.read(BYTES), call.arguments.read(PROP)) };
        let request = Self::plain(AllocKind::Vmm, HANDLE, bytes);
        if !is_readable(call) || prop.is_null() {
            return request;
        }
        let prop = Block(prop);
        // SAFETY: the driver read the properties just now.
        let (location, id): (u32, u32) = unsafe {
            (prop.read(allocation_prop::LOCATION_TYPE), prop.read(allocation_prop::LOCATION_ID))
        };
        match device_at(location, id) {
            Some(device) => Self { device: Some(device), ..request },
            None => Self { kind: AllocKind::VmmHost, ..request },
        }
    }

    /// An array: its memory is VRAM, its handle no address of any allocation.
    ///
    /// # Safety
    /// `call` is the exit site of one of the functions that make arrays.
    unsafe fn array(call: &Call) -> Self {
        // The three have their first arguments in the same places.
        use params::mipmapped_array_create::{ARRAY, DESCRIPTOR, LEVELS};
        // SAFETY: the arguments lie there.
        let descriptor: *const u8 = unsafe { call.arguments.read(DESCRIPTOR) };
        let bytes = if !is_readable(call) || descriptor.is_null() {
            0
        } else {
            // SAFETY: the driver read the description just now; only the last has levels.
            unsafe {
                match call.id {
                    cbid::ARRAY_CREATE_V2 => shapes::array(Block(descriptor)),
                    cbid::ARRAY_3D_CREATE_V2 => shapes::array3d(Block(descriptor), 1),
                    _ => shapes::array3d(Block(descriptor), call.arguments.read(LEVELS)),
                }
            }
        };
        Self::plain(AllocKind::Device, ARRAY, bytes)
    }
}

/// Whether what the arguments point to is in order: it may be nonsense where the call was refused
/// for it.
pub(super) fn is_readable(call: &Call) -> bool {
    call.succeeded() || call.result == OUT_OF_MEMORY
}

/// # Safety
/// `call` is at its exit site and `request` was read from it.
unsafe fn allocating(call: &Call, request: &Request) {
    let device = request.device.unwrap_or_else(|| call.device());
    let (kind, bytes, tag) = (request.kind, Bytes(request.bytes), current_tag());
    if !call.succeeded() {
        let result = call.result;
        let failure = AllocationFailure { device, kind, bytes, result, tag };
        return call.emit(Body::AllocationFailed(failure));
    }
    let address = match request.made {
        // SAFETY: the call succeeded, so the driver wrote the result through this pointer.
        Made::Behind(at) => unsafe { call.arguments.read_through::<u64>(at) },
        Made::This(address) => Some(address),
    };
    let Some(address) = address.filter(|address| *address != 0) else { return };
    // A handle belongs to its device and outlives the context it was made in. What is from a pool
    // goes with the context all the same: a reset of the device ends it, and nobody would tell.
    let context = if kind.is_handle() { 0 } else { call.context_uid };
    let bytes = if bytes == Bytes::ZERO { sharing::view_bytes(kind, address) } else { bytes };
    if kind == AllocKind::PoolUsed {
        STATE.pools().named(request.pool, device);
    }
    call.emit(Body::Allocated(Allocation {
        device,
        context,
        kind,
        address,
        bytes,
        stream: request.stream,
        pool: request.pool,
        tag,
        library: library_here(),
    }));
}
