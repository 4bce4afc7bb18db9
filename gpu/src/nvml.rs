//! The one question that this lane has to NVML: how many bytes of the device are used.

use std::ffi::c_void;

type Init = unsafe extern "C" fn() -> u32;
type Handle = unsafe extern "C" fn(u32, *mut *mut c_void) -> u32;
type Memory = unsafe extern "C" fn(*mut c_void, *mut [u64; 3]) -> u32;

/// Used bytes of the one visible device, every process's; absent where NVML does not tell, and
/// where the device is named by more than its number.
#[must_use]
pub fn used_bytes() -> Option<u64> {
    // NVML does not know which devices CUDA sees. Numbers are the same in PCI order, which
    // `run.sh` asks for.
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "0".into());
    let index = visible.parse().ok()?;
    // SAFETY: NVML by its name; its functions have these types, and the struct is three `u64`:
    // total, free, used. The library is leaked, so the symbols stay valid.
    unsafe {
        let library = Box::leak(Box::new(libloading::Library::new("libnvidia-ml.so.1").ok()?));
        let init = library.get::<Init>(b"nvmlInit_v2\0").ok()?;
        let handle = library.get::<Handle>(b"nvmlDeviceGetHandleByIndex_v2\0").ok()?;
        let memory = library.get::<Memory>(b"nvmlDeviceGetMemoryInfo\0").ok()?;
        let (mut device, mut bytes) = (std::ptr::null_mut(), [0; 3]);
        let is_told = init() == 0
            && handle(index, &raw mut device) == 0
            && memory(device, &raw mut bytes) == 0;
        is_told.then_some(bytes[2])
    }
}
