//! Memory that is shared: with other processes, among devices, or with a graph.

#![expect(unsafe_code, reason = "arguments of C calls, read through CUPTI's pointers")]

use super::call::{Block, Call};
use super::family::{Made, Request, device_at, is_readable};
use super::state::STATE;
use super::{UNKNOWN_DEVICE, exports};
use crate::event::{AllocKind, Body, DeviceIndex, FreeKind};
use crate::units::Bytes;
use cupti_sys::layout::{
    external_memory_buffer_desc, graph_node_params, mem_alloc_node_params, multicast_prop,
};
use cupti_sys::{cbid, params};

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const POSIX_DESCRIPTOR: u32 = 1;
/// `CU_GRAPH_NODE_TYPE_MEM_ALLOC`.
const NODE_ALLOC: u32 = 10;
/// `CU_GRAPH_NODE_TYPE_MEM_FREE`.
const NODE_FREE: u32 = 11;

/// What a call makes here of what is somebody else's, or is made for others. `None` for other calls.
///
/// # Safety
/// `call` is at its exit site.
pub(super) unsafe fn request(call: &Call) -> Option<Request> {
    let plain = |kind, result_at| Some(Request::plain(kind, result_at, 0));
    match call.id {
        // The two versions have the same arguments.
        cbid::IPC_OPEN_MEM_HANDLE | cbid::IPC_OPEN_MEM_HANDLE_V2 => {
            plain(AllocKind::ImportedAddress, params::ipc_open_mem_handle::DPTR)
        }
        cbid::MEM_POOL_IMPORT_POINTER => {
            plain(AllocKind::ImportedAddress, params::mem_pool_import_pointer::DPTR)
        }
        cbid::MEM_IMPORT_FROM_SHAREABLE_HANDLE => {
            plain(AllocKind::ImportedHandle, params::mem_import_from_shareable_handle::HANDLE)
        }
        // SAFETY: the ids decide.
        cbid::EXTERNAL_MEMORY_GET_MAPPED_BUFFER => Some(unsafe { mapped_buffer(call) }),
        // SAFETY: the ids decide.
        cbid::MULTICAST_CREATE => Some(unsafe { multicast(call) }),
        cbid::GRAPH_ADD_MEM_ALLOC_NODE | cbid::GRAPH_ADD_NODE | cbid::GRAPH_ADD_NODE_V2 => {
            // SAFETY: the ids decide.
            unsafe { graph_node(call) }
        }
        _ => None,
    }
}

/// How large a view is that the call does not tell the size of: as the driver has it. Larger than
/// what was asked for is no harm, since it counts for nobody.
pub(super) fn view_bytes(kind: AllocKind, address: u64) -> Bytes {
    if kind != AllocKind::ImportedAddress {
        return Bytes::ZERO;
    }
    STATE.driver().and_then(|driver| driver.range_bytes(address)).unwrap_or(Bytes::ZERO)
}

/// # Safety
/// `call` is the exit site of `cuExternalMemoryGetMappedBuffer`.
unsafe fn mapped_buffer(call: &Call) -> Request {
    use params::external_memory_get_mapped_buffer::{DESCRIPTOR, DPTR};
    // SAFETY: the argument lies there.
    let descriptor: *const u8 = unsafe { call.arguments.read(DESCRIPTOR) };
    let bytes = if is_readable(call) && !descriptor.is_null() {
        // SAFETY: the driver read the description just now.
        unsafe { Block(descriptor).read(external_memory_buffer_desc::BYTES) }
    } else {
        0
    };
    Request::plain(AllocKind::ImportedAddress, DPTR, bytes)
}

/// # Safety
/// `call` is the exit site of `cuMulticastCreate`.
unsafe fn multicast(call: &Call) -> Request {
    use params::multicast_create::{HANDLE, PROP};
    // SAFETY: the argument lies there.
    let prop: *const u8 = unsafe { call.arguments.read(PROP) };
    let bytes = if is_readable(call) && !prop.is_null() {
        // SAFETY: the driver read the properties just now.
        unsafe { Block(prop).read(multicast_prop::BYTES) }
    } else {
        0
    };
    Request::plain(AllocKind::Multicast, HANDLE, bytes)
}

/// The parameters of a node that the program adds to a graph by itself, if it is of that type.
///
/// # Safety
/// `call` is the exit site of a function that adds nodes.
unsafe fn node_of_type(call: &Call, node_type: u32) -> Option<Block> {
    let (at, is_typed) = match call.id {
        cbid::GRAPH_ADD_MEM_ALLOC_NODE => (params::graph_add_mem_alloc_node::PARAMS, false),
        cbid::GRAPH_ADD_NODE => (params::graph_add_node::PARAMS, true),
        cbid::GRAPH_ADD_NODE_V2 => (params::graph_add_node_v2::PARAMS, true),
        _ => return None,
    };
    // SAFETY: the argument lies there.
    let node: *const u8 = unsafe { call.arguments.read(at) };
    if node.is_null() || !is_readable(call) {
        return None;
    }
    if !is_typed {
        return (node_type == NODE_ALLOC).then_some(Block(node));
    }
    // SAFETY: the driver read the parameters just now, and wrote into those of its type.
    unsafe {
        let is_it = Block(node).read::<u32>(graph_node_params::TYPE) == node_type;
        is_it.then(|| Block(node.add(graph_node_params::OF_TYPE)))
    }
}

/// # Safety
/// `call` is the exit site of a function that adds nodes.
unsafe fn graph_node(call: &Call) -> Option<Request> {
    use mem_alloc_node_params::{BYTES, DPTR, LOCATION_ID, LOCATION_TYPE};
    // SAFETY: the parameters of an allocation are those; their address is written on success.
    let (node, address) = unsafe {
        let node = node_of_type(call, NODE_ALLOC)?;
        (node, if call.succeeded() { node.read(DPTR) } else { 0 })
    };
    // SAFETY: as above.
    let (bytes, location, id) =
        unsafe { (node.read(BYTES), node.read(LOCATION_TYPE), node.read(LOCATION_ID)) };
    Some(Request {
        made: Made::This(address),
        device: device_at(location, id),
        ..Request::plain(AllocKind::GraphNode, 0, bytes)
    })
}

/// References, exports, bindings, and what graphs free.
///
/// # Safety
/// `call` is at its exit site, and succeeded.
pub(super) unsafe fn succeeded(call: &Call) {
    use params::{graph_add_mem_free_node, mem_retain_allocation_handle, multicast_unbind};
    let arguments = call.arguments;
    match call.id {
        cbid::MEM_RETAIN_ALLOCATION_HANDLE => {
            use mem_retain_allocation_handle::{ADDRESS, HANDLE};
            // SAFETY: the ids decide.
            let (handle, address) =
                unsafe { (arguments.read_through(HANDLE), arguments.read(ADDRESS)) };
            if let Some(handle) = handle {
                call.emit(Body::Retained { handle, address });
            }
        }
        // SAFETY: the ids decide.
        cbid::MEM_EXPORT_TO_SHAREABLE_HANDLE => unsafe { exported(call) },
        cbid::MULTICAST_BIND_MEM
        | cbid::MULTICAST_BIND_MEM_V2
        | cbid::MULTICAST_BIND_ADDR
        // SAFETY: the ids decide.
        | cbid::MULTICAST_BIND_ADDR_V2 => unsafe { bound(call) },
        // SAFETY: the ids decide.
        cbid::MULTICAST_UNBIND => call.emit(unsafe {
            Body::Unbound {
                multicast: arguments.read(multicast_unbind::MULTICAST),
                device: DeviceIndex(arguments.read(multicast_unbind::DEVICE)),
                offset: arguments.read(multicast_unbind::MULTICAST_OFFSET),
                bytes: Bytes(arguments.read(multicast_unbind::BYTES)),
            }
        }),
        cbid::GRAPH_ADD_MEM_FREE_NODE => {
            // SAFETY: the ids decide.
            free_node(call, unsafe { arguments.read(graph_add_mem_free_node::DPTR) });
        }
        cbid::GRAPH_ADD_NODE | cbid::GRAPH_ADD_NODE_V2 => {
            // SAFETY: the ids decide; the address is all that a free node has.
            let address = unsafe {
                node_of_type(call, NODE_FREE).map(|node| node.read::<u64>(0))
            };
            if let Some(address) = address {
                free_node(call, address);
            }
        }
        _ => {}
    }
}

/// The graph frees what it allocated.
fn free_node(call: &Call, address: u64) {
    let (kind, token) = (FreeKind::PoolUsed, STATE.next_token());
    call.emit(Body::FreeEntered { address, kind, token });
    call.emit(Body::FreeReturned { token, succeeded: true });
}

/// # Safety
/// `call` is the exit site of `cuMemExportToShareableHandle`, which succeeded.
unsafe fn exported(call: &Call) {
    use params::mem_export_to_shareable_handle::{HANDLE, HANDLE_TYPE, SHAREABLE};
    // SAFETY: the arguments lie there; for this type the driver wrote an int.
    let (handle, descriptor) = unsafe {
        if call.arguments.read::<u32>(HANDLE_TYPE) != POSIX_DESCRIPTOR {
            // Fabric handles are numbers that keep nothing.
            return;
        }
        (call.arguments.read(HANDLE), call.arguments.read_through::<i32>(SHAREABLE))
    };
    if let Some(descriptor) = descriptor {
        exports::note(descriptor);
        call.emit(Body::Exported { handle, descriptor });
    }
}

/// What this process exported itself came back to it.
///
/// # Safety
/// `call` is the exit site of `cuMemImportFromShareableHandle`, which succeeded.
pub(super) unsafe fn imported(call: &Call) {
    use params::mem_import_from_shareable_handle::{HANDLE, HANDLE_TYPE, OS_HANDLE};
    // SAFETY: the arguments lie there, and the driver wrote the handle.
    let (handle, os_handle, handle_type) = unsafe {
        let handle = call.arguments.read_through::<u64>(HANDLE);
        let handle_type = call.arguments.read::<u32>(HANDLE_TYPE);
        (handle, call.arguments.read::<u64>(OS_HANDLE), handle_type)
    };
    // A descriptor is the number itself, in the place of a pointer.
    let descriptor = i32::try_from(os_handle).ok().filter(|_| handle_type == POSIX_DESCRIPTOR);
    let ours = descriptor.filter(|descriptor| exports::is_ours(*descriptor));
    if let (Some(handle), Some(descriptor)) = (handle.filter(|handle| *handle != 0), ours) {
        call.emit(Body::Imported { handle, descriptor });
    }
}

/// # Safety
/// `call` is the exit site of a function that binds memory to a multicast object.
unsafe fn bound(call: &Call) {
    use params::{multicast_bind_addr, multicast_bind_addr_v2};
    use params::{multicast_bind_mem, multicast_bind_mem_v2};
    let arguments = call.arguments;
    // The first versions take the device of the memory; the ledger knows it.
    let (device, offset_at, memory_at, bytes_at, by_address) = match call.id {
        cbid::MULTICAST_BIND_MEM => {
            use multicast_bind_mem::{BYTES, HANDLE, MULTICAST_OFFSET};
            (None, MULTICAST_OFFSET, HANDLE, BYTES, false)
        }
        cbid::MULTICAST_BIND_ADDR => {
            use multicast_bind_addr::{BYTES, DPTR, MULTICAST_OFFSET};
            (None, MULTICAST_OFFSET, DPTR, BYTES, true)
        }
        cbid::MULTICAST_BIND_MEM_V2 => {
            use multicast_bind_mem_v2::{BYTES, DEVICE, HANDLE, MULTICAST_OFFSET};
            (Some(DEVICE), MULTICAST_OFFSET, HANDLE, BYTES, false)
        }
        _ => {
            use multicast_bind_addr_v2::{BYTES, DEVICE, DPTR, MULTICAST_OFFSET};
            (Some(DEVICE), MULTICAST_OFFSET, DPTR, BYTES, true)
        }
    };
    // SAFETY: the arguments of this function lie there; the object comes first in all four.
    let (multicast, memory, offset, bytes, device) = unsafe {
        (
            arguments.read(multicast_bind_mem::MULTICAST),
            arguments.read::<u64>(memory_at),
            arguments.read(offset_at),
            arguments.read(bytes_at),
            device.map_or(UNKNOWN_DEVICE, |at| DeviceIndex(arguments.read(at))),
        )
    };
    let (handle, address) = if by_address { (0, memory) } else { (memory, 0) };
    let bytes = Bytes(bytes);
    call.emit(Body::Bound { multicast, handle, address, device, offset, bytes });
}
