//! The one question that this lane has to NVML: how many bytes of device 0 are used.

use std::ffi::c_void;

type Init = unsafe extern "C" fn() -> u32;
type Handle = unsafe extern "C" fn(u32, *mut *mut c_void) -> u32;
type Memory = unsafe extern "C" fn(*mut c_void, *mut [u64; 3]) -> u32;

/// Used bytes of NVML's device 0, every process's; absent where NVML does not tell.
#[must_use]
pub fn used_bytes() -> Option<u64> {
    // SAFETY: NVML by its name; its functions have these types, and the struct is three `u64`:
    // total, free, used. The library is leaked, so the symbols stay valid.
    unsafe {
        let library = Box::leak(Box::new(libloading::Library::new("libnvidia-ml.so.1").ok()?));
        let init = library.get::<Init>(b"nvmlInit_v2\0").ok()?;
        let handle = library.get::<Handle>(b"nvmlDeviceGetHandleByIndex_v2\0").ok()?;
        let memory = library.get::<Memory>(b"nvmlDeviceGetMemoryInfo\0").ok()?;
        let (mut device, mut bytes) = (std::ptr::null_mut(), [0; 3]);
        let is_told =
            init() == 0 && handle(0, &raw mut device) == 0 && memory(device, &raw mut bytes) == 0;
        is_told.then_some(bytes[2])
    }
}
