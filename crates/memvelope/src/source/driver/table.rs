//! One list of driver functions drives the table's fields, the look-up and the list of what a
//! library lacks. Every function is optional: a missing one fails when it is called.

#![expect(unsafe_code, reason = "addresses from dlsym become typed functions")]

use crate::source::loader;
use libloading::Library;
use std::ffi::{c_char, c_int, c_void};

/// A `CUresult` as the number it is. Never a Rust enum: newer drivers return codes that no older
/// list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct CuResult(pub u32);

impl CuResult {
    pub(crate) const SUCCESS: Self = Self(0);
    pub(crate) const NOT_INITIALIZED: Self = Self(3);
    /// The driver is being torn down: after it no driver call may be made any more.
    pub(crate) const DEINITIALIZED: Self = Self(4);
    pub(crate) const INVALID_CONTEXT: Self = Self(201);
    pub(crate) const NOT_SUPPORTED: Self = Self(801);
}

/// `CUdevice`: an ordinal.
pub(crate) type CuDevice = c_int;
/// `CUcontext`.
pub(crate) type CuContext = *mut c_void;
/// `CUmemoryPool`.
pub(crate) type CuMemoryPool = *mut c_void;

macro_rules! driver_functions {
    ($($field:ident = $symbol:literal ($($arg:ty),*);)*) => {
        /// What a libcuda offers of what we use.
        #[derive(Debug)]
        pub(crate) struct Table {
            $(pub(crate) $field: Option<unsafe extern "C" fn($($arg),*) -> CuResult>,)*
        }

        impl Table {
            /// Looks every function up; calls none.
            pub(crate) fn resolve(library: &Library) -> Self {
                Self {
                    $($field: {
                        let name = concat!($symbol, "\0");
                        std::ffi::CStr::from_bytes_with_nul(name.as_bytes())
                            .ok()
                            .and_then(|name| loader::address_of(library, name))
                            // SAFETY: the driver's ABI gives this name this type; the library
                            // is never closed.
                            .map(|address| unsafe {
                                std::mem::transmute::<
                                    *const c_void,
                                    unsafe extern "C" fn($($arg),*) -> CuResult,
                                >(address)
                            })
                    },)*
                }
            }

            /// Functions that this library lacks.
            pub(crate) fn missing_symbols(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if self.$field.is_none() { missing.push($symbol); })*
                missing.retain(|symbol| !DISPENSABLE.contains(symbol));
                missing
            }
        }

        /// Names of all functions in the table.
        #[cfg(test)]
        pub(crate) const NAMES: &[&str] = &[$($symbol),*];
    };
}

driver_functions! {
    init = "cuInit" (u32);
    driver_get_version = "cuDriverGetVersion" (*mut c_int);
    device_get_count = "cuDeviceGetCount" (*mut c_int);
    device_get = "cuDeviceGet" (*mut CuDevice, c_int);
    device_get_name = "cuDeviceGetName" (*mut c_char, c_int, CuDevice);
    device_get_uuid = "cuDeviceGetUuid" (*mut [u8; 16], CuDevice);
    device_get_uuid_v2 = "cuDeviceGetUuid_v2" (*mut [u8; 16], CuDevice);
    device_total_mem = "cuDeviceTotalMem_v2" (*mut usize, CuDevice);
    device_get_attribute = "cuDeviceGetAttribute" (*mut c_int, u32, CuDevice);
    primary_ctx_get_state = "cuDevicePrimaryCtxGetState" (CuDevice, *mut u32, *mut c_int);
    primary_ctx_retain = "cuDevicePrimaryCtxRetain" (*mut CuContext, CuDevice);
    primary_ctx_release = "cuDevicePrimaryCtxRelease_v2" (CuDevice);
    ctx_get_current = "cuCtxGetCurrent" (*mut CuContext);
    ctx_push_current = "cuCtxPushCurrent_v2" (CuContext);
    ctx_pop_current = "cuCtxPopCurrent_v2" (*mut CuContext);
    ctx_get_device = "cuCtxGetDevice" (*mut CuDevice);
    thread_exchange_stream_capture_mode = "cuThreadExchangeStreamCaptureMode" (*mut u32);
    mem_get_info = "cuMemGetInfo_v2" (*mut usize, *mut usize);
    device_get_default_mem_pool = "cuDeviceGetDefaultMemPool" (*mut CuMemoryPool, CuDevice);
    stream_is_capturing = "cuStreamIsCapturing" (u64, *mut u32);
    mem_get_address_range = "cuMemGetAddressRange_v2" (*mut u64, *mut usize, u64);
    device_get_mem_pool = "cuDeviceGetMemPool" (*mut CuMemoryPool, CuDevice);
    mem_pool_get_attribute = "cuMemPoolGetAttribute" (CuMemoryPool, u32, *mut c_void);
    device_get_graph_mem_attribute = "cuDeviceGetGraphMemAttribute" (CuDevice, u32, *mut c_void);
    mem_get_allocation_granularity =
        "cuMemGetAllocationGranularity" (*mut usize, *const [u64; 4], u32);
}

/// Functions that came with CUDA 11.4: a driver without them has nothing to tell that we would miss.
const DISPENSABLE: &[&str] = &["cuDeviceGetGraphMemAttribute"];

/// Numbers of `CUdevice_attribute` that we ask for.
pub(crate) mod attribute {
    /// Major compute capability.
    pub(crate) const COMPUTE_CAPABILITY_MAJOR: u32 = 75;
    /// Minor compute capability.
    pub(crate) const COMPUTE_CAPABILITY_MINOR: u32 = 76;
    /// Whether the device has stream-ordered memory pools.
    pub(crate) const MEMORY_POOLS_SUPPORTED: u32 = 115;
}

/// Numbers of `CUmemPool_attribute` that we ask for; the values are 64 bits wide.
pub(crate) mod pool_attribute {
    /// Physical bytes that the pool holds now.
    pub(crate) const RESERVED_CURRENT: u32 = 5;
    /// Bytes of it that are handed out now.
    pub(crate) const USED_CURRENT: u32 = 7;
}

/// Numbers of `CUgraphMem_attribute` that we ask for; the values are 64 bits wide.
pub(crate) mod graph_attribute {
    /// Bytes of graphs' allocations that are in use now.
    pub(crate) const USED_CURRENT: u32 = 0;
    /// Physical bytes that graphs hold now.
    pub(crate) const RESERVED_CURRENT: u32 = 2;
}

macro_rules! results {
    ($($code:literal $name:literal;)*) => {
        /// The driver's name of a result code, without `CUDA_`; `"unknown"` for codes that this
        /// list does not have.
        #[must_use]
        pub const fn result_name(code: u32) -> &'static str {
            match code {
                $($code => $name,)*
                _ => "unknown",
            }
        }
    };
}

results! {
    0 "SUCCESS";
    1 "ERROR_INVALID_VALUE";
    2 "ERROR_OUT_OF_MEMORY";
    3 "ERROR_NOT_INITIALIZED";
    4 "ERROR_DEINITIALIZED";
    5 "ERROR_PROFILER_DISABLED";
    34 "ERROR_STUB_LIBRARY";
    46 "ERROR_DEVICE_UNAVAILABLE";
    100 "ERROR_NO_DEVICE";
    101 "ERROR_INVALID_DEVICE";
    102 "ERROR_DEVICE_NOT_LICENSED";
    200 "ERROR_INVALID_IMAGE";
    201 "ERROR_INVALID_CONTEXT";
    205 "ERROR_MAP_FAILED";
    206 "ERROR_UNMAP_FAILED";
    209 "ERROR_NO_BINARY_FOR_GPU";
    214 "ERROR_ECC_UNCORRECTABLE";
    218 "ERROR_INVALID_PTX";
    222 "ERROR_UNSUPPORTED_PTX_VERSION";
    300 "ERROR_INVALID_SOURCE";
    301 "ERROR_FILE_NOT_FOUND";
    304 "ERROR_OPERATING_SYSTEM";
    400 "ERROR_INVALID_HANDLE";
    401 "ERROR_ILLEGAL_STATE";
    500 "ERROR_NOT_FOUND";
    600 "ERROR_NOT_READY";
    700 "ERROR_ILLEGAL_ADDRESS";
    701 "ERROR_LAUNCH_OUT_OF_RESOURCES";
    702 "ERROR_LAUNCH_TIMEOUT";
    708 "ERROR_PRIMARY_CONTEXT_ACTIVE";
    709 "ERROR_CONTEXT_IS_DESTROYED";
    717 "ERROR_INVALID_ADDRESS_SPACE";
    718 "ERROR_INVALID_PC";
    719 "ERROR_LAUNCH_FAILED";
    800 "ERROR_NOT_PERMITTED";
    801 "ERROR_NOT_SUPPORTED";
    802 "ERROR_SYSTEM_NOT_READY";
    803 "ERROR_SYSTEM_DRIVER_MISMATCH";
    804 "ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE";
    805 "ERROR_MPS_CONNECTION_FAILED";
    900 "ERROR_STREAM_CAPTURE_UNSUPPORTED";
    901 "ERROR_STREAM_CAPTURE_INVALIDATED";
    999 "ERROR_UNKNOWN";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_are_numbers_without_a_name() {
        assert_eq!(result_name(2), "ERROR_OUT_OF_MEMORY");
        assert_eq!(result_name(12_345), "unknown");
        assert_eq!(result_name(u32::MAX), "unknown");
    }

    #[test]
    fn a_library_that_is_no_driver_lacks_everything() {
        let mut report = loader::LoadReport::new("libc");
        let libc = report.open("libc.so.6".as_ref(), loader::Open::OnlyIfLoaded).expect("loaded");
        let missing = Table::resolve(libc).missing_symbols();
        assert_eq!(missing.len() + DISPENSABLE.len(), NAMES.len());
    }
}
