//! Result codes and the few C layouts that cross the edge. Numbers are interface facts.

use std::ffi::CStr;

/// A `CUresult`. Zero never appears: success is `Ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

/// What a simulated driver call comes to.
pub(crate) type Done<T = ()> = Result<T, Code>;

macro_rules! codes {
    ($($short:ident = $value:literal, $name:literal, $text:literal;)*) => {
        impl Code {
            $(#[allow(dead_code, reason = "the table is also what cuGetErrorName answers from")]
              pub(crate) const $short: Self = Self($value);)*
        }
        /// Name and description of each code the simulator knows.
        static CODES: &[(u32, &CStr, &CStr)] = &[$(($value, $name, $text)),*];
    };
}

codes! {
    SUCCESS = 0, c"CUDA_SUCCESS", c"no error";
    INVALID_VALUE = 1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument";
    OUT_OF_MEMORY = 2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory";
    NOT_INITIALIZED = 3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error";
    DEINITIALIZED = 4, c"CUDA_ERROR_DEINITIALIZED", c"driver shutting down";
    STUB_LIBRARY = 34, c"CUDA_ERROR_STUB_LIBRARY", c"stub library";
    NO_DEVICE = 100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected";
    INVALID_DEVICE = 101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal";
    INVALID_IMAGE = 200, c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid";
    INVALID_CONTEXT = 201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context";
    ALREADY_MAPPED = 208, c"CUDA_ERROR_ALREADY_MAPPED", c"already mapped";
    NO_BINARY = 209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image for this device";
    NOT_MAPPED = 211, c"CUDA_ERROR_NOT_MAPPED", c"not mapped";
    ECC_UNCORRECTABLE = 214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"uncorrectable ECC error";
    UNSUPPORTED_LIMIT = 215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"limit is not supported";
    INVALID_PTX = 218, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed";
    FILE_NOT_FOUND = 301, c"CUDA_ERROR_FILE_NOT_FOUND", c"file not found";
    INVALID_HANDLE = 400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle";
    ILLEGAL_STATE = 401, c"CUDA_ERROR_ILLEGAL_STATE", c"not in a valid state for the operation";
    NOT_FOUND = 500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found";
    NOT_READY = 600, c"CUDA_ERROR_NOT_READY", c"device not ready";
    ILLEGAL_ADDRESS = 700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access";
    LAUNCH_OUT_OF_RESOURCES = 701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources";
    LAUNCH_TIMEOUT = 702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch timed out";
    PEER_ENABLED = 704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"peer access is enabled";
    PEER_NOT_ENABLED = 705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"peer access is not enabled";
    CONTEXT_IS_DESTROYED = 709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"context is destroyed";
    ALREADY_REGISTERED = 712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
        c"host memory is registered already";
    NOT_REGISTERED = 713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
        c"host memory is not registered";
    LAUNCH_FAILED = 719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure";
    NOT_PERMITTED = 800, c"CUDA_ERROR_NOT_PERMITTED", c"operation not permitted";
    NOT_SUPPORTED = 801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported";
    SYSTEM_NOT_READY = 802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"system not yet initialized";
    SYSTEM_DRIVER_MISMATCH = 803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"driver mismatch";
    STREAM_CAPTURE_UNSUPPORTED = 900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        c"not permitted while a stream is captured";
    STREAM_CAPTURE_INVALIDATED = 901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        c"an earlier error ended the capture";
    STREAM_CAPTURE_MERGE = 902, c"CUDA_ERROR_STREAM_CAPTURE_MERGE", c"would merge two captures";
    STREAM_CAPTURE_UNMATCHED = 903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
        c"the capture began on another stream";
    STREAM_CAPTURE_UNJOINED = 904, c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
        c"a stream was drawn into the capture and not joined";
    STREAM_CAPTURE_ISOLATION = 905, c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
        c"depends on work outside the capture";
    STREAM_CAPTURE_IMPLICIT = 906, c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
        c"the default stream would wait for the capture";
    STREAM_CAPTURE_WRONG_THREAD = 908, c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
        c"another thread began the capture";
    UNKNOWN = 999, c"CUDA_ERROR_UNKNOWN", c"unknown error";
}

impl Code {
    /// `CUDA_ERROR_…` and its description, if the simulator knows the code.
    pub(crate) fn words(self) -> Option<(&'static CStr, &'static CStr)> {
        CODES.iter().find(|(value, ..)| *value == self.0).map(|(_, name, text)| (*name, *text))
    }
}

/// `CUmemLocation`: type 1 is a device, 2 to 4 are hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct MemLocation {
    pub(crate) kind: i32,
    pub(crate) id: i32,
}

/// `CUmemAllocationProp`, 32 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct MemAllocationProp {
    pub(crate) kind: i32,
    pub(crate) handle_types: i32,
    pub(crate) location: MemLocation,
    pub(crate) win32: u64,
    pub(crate) flags: u64,
}

/// `CUmulticastObjectProp`, 32 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct MulticastProp {
    pub(crate) devices: u32,
    pub(crate) bytes: usize,
    pub(crate) handle_types: u64,
    pub(crate) flags: u64,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`, 40 bytes; arrays of fewer dimensions have none of the rest.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ArrayDescriptor {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
    pub(crate) format: u32,
    pub(crate) channels: u32,
    pub(crate) flags: u32,
}

/// `CUDA_ARRAY_DESCRIPTOR`, 24 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct FlatArrayDescriptor {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) format: u32,
    pub(crate) channels: u32,
}

/// The head of `CUmemPoolProps` (88 bytes; the rest is never read).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct MemPoolProps {
    pub(crate) kind: i32,
    pub(crate) handle_types: i32,
    pub(crate) location: MemLocation,
    pub(crate) security: u64,
    pub(crate) max_bytes: usize,
}

/// `CUlaunchConfig`, 56 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) stream: u64,
    pub(crate) attributes: u64,
    pub(crate) attribute_count: u32,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`, 72 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct KernelNodeParams {
    pub(crate) function: u64,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) kernel_params: u64,
    pub(crate) extra: u64,
    pub(crate) kernel: u64,
    pub(crate) context: u64,
}

/// `CUDA_MEM_ALLOC_NODE_PARAMS`, 120 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct MemAllocNodeParams {
    pub(crate) pool: MemPoolProps,
    /// What of `CUmemPoolProps` is never read.
    rest: [u64; 7],
    access: u64,
    access_count: usize,
    pub(crate) bytes: usize,
    pub(crate) address: u64,
}

/// `CUDA_MEMSET_NODE_PARAMS`, 40 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct MemsetNodeParams {
    pub(crate) target: u64,
    pub(crate) pitch: usize,
    pub(crate) value: u32,
    pub(crate) element_bytes: u32,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// One end of a `CUDA_MEMCPY3D`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Memcpy3dEnd {
    pub(crate) x_bytes: usize,
    pub(crate) y: usize,
    pub(crate) z: usize,
    pub(crate) lod: usize,
    pub(crate) memory_type: u32,
    pub(crate) host: u64,
    pub(crate) device: u64,
    pub(crate) array: u64,
    pub(crate) reserved: u64,
    pub(crate) pitch: usize,
    pub(crate) height: usize,
}

impl Memcpy3dEnd {
    /// Where the first byte is; arrays are not simulated.
    pub(crate) fn address(&self) -> Done<u64> {
        // CU_MEMORYTYPE_HOST, _DEVICE, _ARRAY, _UNIFIED.
        let base = match self.memory_type {
            1 => self.host,
            2 | 4 => self.device,
            3 => return Err(Code::NOT_SUPPORTED),
            _ => return Err(Code::INVALID_VALUE),
        };
        if (self.y, self.z) != (0, 0) {
            return Err(Code::NOT_SUPPORTED);
        }
        base.checked_add(self.x_bytes as u64).ok_or(Code::INVALID_VALUE)
    }
}

/// `CUDA_MEMCPY3D`, 200 bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Memcpy3d {
    pub(crate) source: Memcpy3dEnd,
    pub(crate) target: Memcpy3dEnd,
    pub(crate) width_bytes: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_laid_out_as_cuda_has_them() {
        assert_eq!(size_of::<KernelNodeParams>(), 72);
        assert_eq!(size_of::<MemsetNodeParams>(), 40);
        assert_eq!(size_of::<MemAllocNodeParams>(), 120);
        assert_eq!(std::mem::offset_of!(MemAllocNodeParams, bytes), 104);
        assert_eq!(size_of::<Memcpy3d>(), 200);
        assert_eq!(std::mem::offset_of!(Memcpy3d, target), 88);
        assert_eq!(size_of::<LaunchConfig>(), 56);
        assert_eq!((size_of::<ArrayDescriptor>(), size_of::<FlatArrayDescriptor>()), (40, 24));
        assert_eq!((size_of::<MulticastProp>(), size_of::<MemAllocationProp>()), (32, 32));
    }
}
