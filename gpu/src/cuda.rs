//! The driver as this lane needs it: libcuda opened by name, functions resolved one by one, and safe
//! wrappers of those that the workloads call. An outsider on purpose: nothing here is memvelope's
//! own loader, so that what is measured is not also what measures.

mod memory;

pub use memory::PhysicalId;

use anyhow::{Context as _, Result, bail};
use std::ffi::{CString, c_char, c_void};

/// An opaque handle: context, stream, module, function, event, graph. Only the driver makes them.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Handle(*mut c_void);

impl Handle {
    /// No handle: the default stream, or where the driver writes one.
    pub const NULL: Self = Self(std::ptr::null_mut());
}

/// A device address.
pub type Address = u64;

macro_rules! functions {
    ($($field:ident = $symbol:ident($($arg:ident: $type:ty),*);)*) => {
        /// The functions of libcuda that this lane uses; a missing one fails when it is called.
        #[derive(Debug)]
        pub struct Cuda {
            /// Whether libcuda is memvelope's simulator.
            pub is_simulated: bool,
            $($field: Option<unsafe extern "C" fn($($type),*) -> u32>,)*
        }

        impl Cuda {
            fn resolve(library: &libloading::Library) -> Self {
                let version = b"memvelope_sim_version\0";
                // SAFETY: the symbol is only looked for, never called.
                let is_simulated = unsafe { library.get::<*const ()>(version) }.is_ok();
                Self {
                    is_simulated,
                    // SAFETY: libcuda's functions have these types for as long as their names last.
                    $($field: unsafe {
                        library.get(concat!(stringify!($symbol), "\0").as_bytes())
                    }.ok().map(|symbol| *symbol),)*
                }
            }

            $(
                /// # Safety
                /// The pointers are what the C function of that name expects.
                #[allow(clippy::too_many_arguments, reason = "the C function's")]
                unsafe fn $field(&self $(, $arg: $type)*) -> Result<()> {
                    let name = stringify!($symbol);
                    let function = self.$field.with_context(|| format!("libcuda has no {name}"))?;
                    // SAFETY: the caller's promise, passed on.
                    match unsafe { function($($arg),*) } {
                        0 => Ok(()),
                        code => bail!("{name} returned {code}"),
                    }
                }
            )*
        }
    };
}

functions! {
    init = cuInit(flags: u32);
    driver_get_version = cuDriverGetVersion(to: *mut i32);
    device_get = cuDeviceGet(to: *mut i32, ordinal: i32);
    device_get_name = cuDeviceGetName(to: *mut c_char, bytes: i32, device: i32);
    primary_retain = cuDevicePrimaryCtxRetain(to: *mut Handle, device: i32);
    ctx_create = cuCtxCreate_v2(to: *mut Handle, flags: u32, device: i32);
    ctx_destroy = cuCtxDestroy_v2(context: Handle);
    ctx_set_current = cuCtxSetCurrent(context: Handle);
    ctx_synchronize = cuCtxSynchronize();
    stream_create = cuStreamCreate(to: *mut Handle, flags: u32);
    stream_synchronize = cuStreamSynchronize(stream: Handle);
    stream_wait_event = cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32);
    event_create = cuEventCreate(to: *mut Handle, flags: u32);
    event_record = cuEventRecord(event: Handle, stream: Handle);
    event_synchronize = cuEventSynchronize(event: Handle);
    module_load_data = cuModuleLoadData(to: *mut Handle, image: *const c_char);
    module_get_function = cuModuleGetFunction(to: *mut Handle, module: Handle, name: *const c_char);
    launch_kernel = cuLaunchKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared_bytes: u32, stream: Handle, params: *mut *mut c_void,
        extra: *mut *mut c_void
    );
    mem_alloc = cuMemAlloc_v2(to: *mut Address, bytes: usize);
    mem_free = cuMemFree_v2(address: Address);
    mem_alloc_async = cuMemAllocAsync(to: *mut Address, bytes: usize, stream: Handle);
    mem_free_async = cuMemFreeAsync(address: Address, stream: Handle);
    mem_alloc_host = cuMemAllocHost_v2(to: *mut *mut c_void, bytes: usize);
    mem_get_info = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    mem_alloc_managed = cuMemAllocManaged(to: *mut Address, bytes: usize, flags: u32);
    mem_create = cuMemCreate(to: *mut u64, bytes: usize, prop: *const c_void, flags: u64);
    mem_release = cuMemRelease(handle: u64);
    mem_address_reserve = cuMemAddressReserve(
        to: *mut Address, bytes: usize, alignment: usize, at: Address, flags: u64
    );
    mem_address_free = cuMemAddressFree(address: Address, bytes: usize);
    mem_map = cuMemMap(address: Address, bytes: usize, offset: usize, handle: u64, flags: u64);
    mem_unmap = cuMemUnmap(address: Address, bytes: usize);
    pointer_attribute = cuPointerGetAttribute(to: *mut c_void, attribute: u32, address: Address);
    ipc_get = cuIpcGetMemHandle(to: *mut [u8; 64], address: Address);
    ipc_open = cuIpcOpenMemHandle_v2(to: *mut Address, handle: [u8; 64], flags: u32);
    ipc_close = cuIpcCloseMemHandle(address: Address);
    ctx_set_limit = cuCtxSetLimit(limit: u32, value: usize);
    granularity = cuMemGetAllocationGranularity(to: *mut usize, prop: *const c_void, option: u32);
    memcpy_htod = cuMemcpyHtoDAsync_v2(
        to: Address, from: *const c_void, bytes: usize, stream: Handle
    );
    memcpy_dtoh = cuMemcpyDtoHAsync_v2(to: *mut c_void, from: Address, bytes: usize, stream: Handle);
    memcpy_dtod = cuMemcpyDtoDAsync_v2(to: Address, from: Address, bytes: usize, stream: Handle);
    memset = cuMemsetD8Async(to: Address, value: u8, bytes: usize, stream: Handle);
    begin_capture = cuStreamBeginCapture_v2(stream: Handle, mode: u32);
    end_capture = cuStreamEndCapture(stream: Handle, to: *mut Handle);
    graph_instantiate = cuGraphInstantiateWithFlags(to: *mut Handle, graph: Handle, flags: u64);
    graph_launch = cuGraphLaunch(exec: Handle, stream: Handle);
}

impl Cuda {
    /// Opens libcuda, for the rest of the process. Calls nothing in it.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open() -> Result<&'static Self> {
        // SAFETY: running the constructors of the driver's library is what a CUDA program does.
        let library = unsafe { libloading::Library::new("libcuda.so.1") }
            .context("libcuda.so.1 cannot be opened")?;
        let cuda = Self::resolve(&library);
        // Never closed: its functions are used until the process ends.
        let _still_open = libloading::os::unix::Library::from(library).into_raw();
        Ok(Box::leak(Box::new(cuda)))
    }

    /// `cuInit`.
    ///
    /// # Errors
    /// Its code.
    pub fn start(&self) -> Result<()> {
        // SAFETY: takes no pointer.
        unsafe { self.init(0) }
    }

    /// What `cuInit` returns, as it is.
    #[must_use]
    pub fn start_code(&self) -> Option<u32> {
        // SAFETY: takes no pointer.
        self.init.map(|init| unsafe { init(0) })
    }

    /// The CUDA version of the driver, say 13000.
    ///
    /// # Errors
    /// The driver's code.
    pub fn version(&self) -> Result<i32> {
        let mut version = 0;
        // SAFETY: an out-pointer to a local.
        unsafe { self.driver_get_version(&raw mut version) }?;
        Ok(version)
    }
}

/// A value that a kernel takes.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// 64 bits: addresses, sizes, seeds.
    Wide(u64),
    /// 32 bits.
    Narrow(u32),
}

/// Pinned host memory, for the rest of the process.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    start: *mut c_void,
    bytes: usize,
}

/// A context on device 0, current on the thread that made it.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    cuda: &'static Cuda,
    device: i32,
    context: Handle,
}

impl Gpu {
    /// The primary context of device 0. `cuInit` was called.
    ///
    /// # Errors
    /// The driver's code.
    pub fn primary(cuda: &'static Cuda) -> Result<Self> {
        let (mut device, mut context) = (0, Handle::NULL);
        // SAFETY: out-pointers to locals.
        unsafe {
            cuda.device_get(&raw mut device, 0)?;
            cuda.primary_retain(&raw mut context, device)?;
            cuda.ctx_set_current(context)?;
        }
        Ok(Self { cuda, device, context })
    }

    /// One more context on the same device, made current.
    ///
    /// # Errors
    /// The driver's code.
    pub fn another(&self) -> Result<Self> {
        let mut context = Handle::NULL;
        // SAFETY: an out-pointer to a local.
        unsafe { self.cuda.ctx_create(&raw mut context, 0, self.device) }?;
        Ok(Self { context, ..*self })
    }

    /// Makes this context current on the calling thread.
    ///
    /// # Errors
    /// The driver's code.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: the handle came from the driver and is not destroyed while `self` is used.
        unsafe { self.cuda.ctx_set_current(self.context) }
    }

    /// Destroys a context that [`Self::another`] made.
    ///
    /// # Errors
    /// The driver's code.
    pub fn destroy(self) -> Result<()> {
        // SAFETY: as in `enter`; the handle is given up.
        unsafe { self.cuda.ctx_destroy(self.context) }
    }

    /// The device's name.
    ///
    /// # Errors
    /// The driver's code.
    pub fn name(&self) -> Result<String> {
        let mut text = [0_u8; 128];
        // SAFETY: the driver writes at most the stated number of bytes.
        unsafe { self.cuda.device_get_name(text.as_mut_ptr().cast(), 127, self.device) }?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
        Ok(String::from_utf8_lossy(&text[..end]).into_owned())
    }

    /// Free bytes of the device, as the driver tells.
    ///
    /// # Errors
    /// The driver's code.
    pub fn free_bytes(&self) -> Result<u64> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: out-pointers to locals.
        unsafe { self.cuda.mem_get_info(&raw mut free, &raw mut total) }?;
        Ok(free as u64)
    }

    /// A stream that does not wait for the default one.
    ///
    /// # Errors
    /// The driver's code.
    pub fn stream(&self) -> Result<Handle> {
        let mut stream = Handle::NULL;
        // SAFETY: an out-pointer to a local; 1 is CU_STREAM_NON_BLOCKING.
        unsafe { self.cuda.stream_create(&raw mut stream, 1) }?;
        Ok(stream)
    }

    /// Waits for a stream.
    ///
    /// # Errors
    /// The driver's code.
    pub fn wait(&self, stream: Handle) -> Result<()> {
        // SAFETY: streams are never destroyed here.
        unsafe { self.cuda.stream_synchronize(stream) }
    }

    /// Waits for everything in this context.
    ///
    /// # Errors
    /// The driver's code.
    pub fn wait_all(&self) -> Result<()> {
        // SAFETY: takes no pointer.
        unsafe { self.cuda.ctx_synchronize() }
    }

    /// One event: recorded on `first`, waited for by `second` and by the host.
    ///
    /// # Errors
    /// The driver's code.
    pub fn join(&self, first: Handle, second: Handle) -> Result<()> {
        let mut event = Handle::NULL;
        // SAFETY: an out-pointer to a local, then handles that the driver gave.
        unsafe {
            self.cuda.event_create(&raw mut event, 0)?;
            self.cuda.event_record(event, first)?;
            self.cuda.stream_wait_event(second, event, 0)?;
            self.cuda.event_synchronize(event)
        }
    }

    /// A kernel of a PTX text.
    ///
    /// # Errors
    /// The driver's code, or a text with a NUL.
    pub fn kernel(&self, ptx: &str, name: &str) -> Result<Handle> {
        let (ptx, name) = (CString::new(ptx)?, CString::new(name)?);
        let (mut module, mut function) = (Handle::NULL, Handle::NULL);
        // SAFETY: terminated texts and out-pointers to locals; the module is never unloaded.
        unsafe {
            self.cuda.module_load_data(&raw mut module, ptx.as_ptr())?;
            self.cuda.module_get_function(&raw mut function, module, name.as_ptr())?;
        }
        Ok(function)
    }

    /// Launches a kernel of ours: blocks of 256 threads, no shared memory beyond its own.
    ///
    /// # Errors
    /// The driver's code.
    #[inline]
    pub fn launch(&self, kernel: Handle, blocks: u32, stream: Handle, args: &[Arg]) -> Result<()> {
        let mut pointers = [std::ptr::null_mut::<c_void>(); 8];
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = match arg {
                Arg::Wide(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::Narrow(value) => std::ptr::from_ref(value).cast_mut().cast(),
            };
        }
        // SAFETY: the driver copies as many arguments as the kernel declares, each of its declared
        // width, before it returns; callers pass those that cuda/README.md lists.
        unsafe {
            self.cuda.launch_kernel(
                kernel,
                blocks,
                1,
                1,
                256,
                1,
                1,
                0,
                stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
    }

    /// Device memory.
    ///
    /// # Errors
    /// The driver's code.
    pub fn alloc(&self, bytes: usize) -> Result<Address> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local.
        unsafe { self.cuda.mem_alloc(&raw mut address, bytes) }?;
        Ok(address)
    }

    /// Gives it back.
    ///
    /// # Errors
    /// The driver's code.
    pub fn free(&self, address: Address) -> Result<()> {
        // SAFETY: the driver checks the address.
        unsafe { self.cuda.mem_free(address) }
    }

    /// The same from the stream's pool, and back: one allocation and one release in order.
    ///
    /// # Errors
    /// The driver's code.
    pub fn alloc_free_async(&self, bytes: usize, stream: Handle) -> Result<()> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local; the driver checks the address.
        unsafe {
            self.cuda.mem_alloc_async(&raw mut address, bytes, stream)?;
            self.cuda.mem_free_async(address, stream)
        }
    }

    /// Pinned host memory.
    ///
    /// # Errors
    /// The driver's code.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned> {
        let mut start = std::ptr::null_mut();
        // SAFETY: an out-pointer to a local.
        unsafe { self.cuda.mem_alloc_host(&raw mut start, bytes) }?;
        Ok(Pinned { start, bytes })
    }

    /// All of `from` to the device.
    ///
    /// # Errors
    /// The driver's code.
    pub fn send(&self, to: Address, from: Pinned, stream: Handle) -> Result<()> {
        // SAFETY: pinned memory lives as long as the process; the driver checks the address.
        unsafe { self.cuda.memcpy_htod(to, from.start, from.bytes, stream) }
    }

    /// All of `to` from the device.
    ///
    /// # Errors
    /// The driver's code.
    pub fn fetch(&self, to: Pinned, from: Address, stream: Handle) -> Result<()> {
        // SAFETY: as in `send`; nobody reads the memory meanwhile.
        unsafe { self.cuda.memcpy_dtoh(to.start, from, to.bytes, stream) }
    }

    /// Within the device.
    ///
    /// # Errors
    /// The driver's code.
    pub fn copy(&self, to: Address, from: Address, bytes: usize, stream: Handle) -> Result<()> {
        // SAFETY: the driver checks the addresses.
        unsafe { self.cuda.memcpy_dtod(to, from, bytes, stream) }
    }

    /// Zeros.
    ///
    /// # Errors
    /// The driver's code.
    pub fn zero(&self, to: Address, bytes: usize, stream: Handle) -> Result<()> {
        // SAFETY: the driver checks the address.
        unsafe { self.cuda.memset(to, 0, bytes, stream) }
    }

    /// What `work` puts on `stream`, as an executable graph.
    ///
    /// # Errors
    /// The driver's code, or a driver without graphs.
    pub fn capture(&self, stream: Handle, work: impl FnOnce() -> Result<()>) -> Result<Handle> {
        let (mut graph, mut exec) = (Handle::NULL, Handle::NULL);
        // SAFETY: a stream of ours; 2 is CU_STREAM_CAPTURE_MODE_RELAXED.
        unsafe { self.cuda.begin_capture(stream, 2) }?;
        let outcome = work();
        // SAFETY: out-pointers to locals; graphs are never destroyed here.
        unsafe {
            self.cuda.end_capture(stream, &raw mut graph)?;
            outcome?;
            self.cuda.graph_instantiate(&raw mut exec, graph, 0)?;
        }
        Ok(exec)
    }

    /// Launches a graph.
    ///
    /// # Errors
    /// The driver's code.
    pub fn launch_graph(&self, exec: Handle, stream: Handle) -> Result<()> {
        // SAFETY: handles that `capture` and `stream` made.
        unsafe { self.cuda.graph_launch(exec, stream) }
    }

    /// Whether this driver has graphs.
    #[must_use]
    pub fn has_graphs(&self) -> bool {
        self.cuda.graph_launch.is_some() && self.cuda.begin_capture.is_some()
    }

    /// The driver.
    #[must_use]
    pub fn cuda(&self) -> &'static Cuda {
        self.cuda
    }
}
