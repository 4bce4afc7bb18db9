//! Legacy IPC: one process's plain allocations at addresses of another.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::edge::put;
use crate::entry::Call;
use crate::world::imports::Origin;

/// `CUipcMemHandle`, passed by value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct IpcHandle(pub(crate) [u8; 64]);

/// `CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS`, which must be said.
const LAZY_PEER_ACCESS: u32 = 1;

/// A handle for the allocation around `address`; only plain ones have any.
pub(crate) fn get(call: &Call, to: *mut IpcHandle, address: u64) -> Done {
    call.world(|world| {
        let alloc = *world.alloc_around(address).ok_or(Code::INVALID_VALUE)?.1;
        if !matches!(alloc.family, Family::Device | Family::Pitch) {
            return Err(Code::INVALID_VALUE);
        }
        put(to, IpcHandle(world.origin_of(&alloc, 0).to_bytes()))
    })
}

pub(crate) fn open(call: &Call, to: *mut u64, handle: &IpcHandle, flags: u32) -> Done {
    call.world(|world| {
        let origin = Origin::from_bytes(&handle.0)?;
        if to.is_null() || flags != LAZY_PEER_ACCESS || origin.pool != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if origin.process == std::process::id() {
            return Err(Code::INVALID_CONTEXT);
        }
        let address = world.import_address(&origin, 0)?;
        put(to, address)
    })
}

pub(crate) fn close(call: &Call, address: u64) -> Done {
    call.world(|world| world.close_ipc(address))
}
