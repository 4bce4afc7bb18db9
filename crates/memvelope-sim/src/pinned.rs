//! Host memory that programs may touch: pinned and managed allocations. Anonymous pages without
//! reservation, so that what is never touched costs nothing.

#![expect(unsafe_code, reason = "mmap and munmap")]

use crate::abi::{Code, Done};

/// Maps `bytes` of zeroed host memory.
pub(crate) fn map(bytes: u64) -> Done<u64> {
    let len = usize::try_from(bytes).map_err(|_| Code::OUT_OF_MEMORY)?;
    if len == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if at == libc::MAP_FAILED { Err(Code::OUT_OF_MEMORY) } else { Ok(at as u64) }
}

/// Unmaps what [`map`] gave.
pub(crate) fn unmap(address: u64, bytes: u64) {
    let Ok(len) = usize::try_from(bytes) else { return };
    // SAFETY: `address` and `bytes` come from a live entry of the tables, hence from `map`, and
    // the entry was just removed; the program that frees it promises not to use it any more.
    unsafe { libc::munmap(address as *mut libc::c_void, len) };
}
