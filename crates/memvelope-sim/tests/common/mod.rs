//! Runs each case in a child process with the simulator first on its library path, and reads the
//! books that it leaves.

#![expect(unsafe_code, reason = "calls the simulator's C functions")]
#![allow(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod activity;

use libloading::Library;
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set in children: the name of the test that runs there.
const CHILD: &str = "SIM_TEST_CHILD";
/// The names under which loaders look for the three libraries.
const NAMES: [&str; 4] = ["libcuda.so", "libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1"];

/// The library under test, next to the test binary.
pub(crate) fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let deps = exe.parent().expect("a folder");
    let candidates = [deps.join("libmemvelope_sim.so"), deps.join("../libmemvelope_sim.so")];
    candidates.into_iter().find(|path| path.exists()).expect("the cdylib is built with the tests")
}

/// Runs `case` in a child process under `scenario` (TOML). Returns the child's books in the
/// parent, `None` in the child itself.
pub(crate) fn in_child(test: &str, scenario: &str, case: fn()) -> Option<serde_json::Value> {
    in_child_with(test, scenario, &[], case)
}

/// The same, with more environment variables.
pub(crate) fn in_child_with(
    test: &str,
    scenario: &str,
    env: &[(&str, &Path)],
    case: fn(),
) -> Option<serde_json::Value> {
    if std::env::var(CHILD).as_deref() == Ok(test) {
        case();
        return None;
    }
    let (books, output) = spawn(test, scenario, env);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let books = std::fs::read_to_string(books.path().join("books.json")).expect("books");
    Some(serde_json::from_str(&books).expect("books are JSON"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn spawn(
    test: &str,
    scenario: &str,
    env: &[(&str, &Path)],
) -> (tempfile::TempDir, std::process::Output) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for name in NAMES {
        std::os::unix::fs::symlink(library(), dir.path().join(name)).expect("a link");
    }
    let file = dir.path().join("scenario.toml");
    std::fs::write(&file, scenario).expect("the scenario");
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env("LD_LIBRARY_PATH", dir.path())
        .env("MEMVELOPE_SIM_SCENARIO", &file)
        .env("MEMVELOPE_SIM_BOOKS", dir.path().join("books.json"))
        .env_remove("CUDA_INJECTION64_PATH")
        .envs(env.iter().copied())
        .output()
        .expect("a child process");
    (dir, output)
}

/// What a child said on stderr, for scenarios that must be refused; `None` in the child.
pub(crate) fn refused(test: &str, scenario: &str, case: fn()) -> Option<String> {
    if std::env::var(CHILD).as_deref() == Ok(test) {
        case();
        return None;
    }
    let (_, output) = spawn(test, scenario, &[]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    Some(text(&output.stderr))
}

/// What a child said on stderr that had to end by `abort`; `None` in the child, if it lives.
pub(crate) fn crashes(test: &str, scenario: &str, case: fn()) -> Option<String> {
    crashes_with(test, scenario, &[], case)
}

/// The same, with more environment variables.
pub(crate) fn crashes_with(
    test: &str,
    scenario: &str,
    env: &[(&str, &Path)],
    case: fn(),
) -> Option<String> {
    use std::os::unix::process::ExitStatusExt;
    if std::env::var(CHILD).as_deref() == Ok(test) {
        case();
        return None;
    }
    let (_, output) = spawn(test, scenario, env);
    let said = text(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}{said}", text(&output.stdout));
    Some(said)
}

macro_rules! functions {
    ($library:ident, $soname:literal: $(fn $name:ident($($arg:ident: $type:ty),*);)*) => {
        #[allow(non_snake_case, reason = "exported names")]
        pub(crate) mod $library {
            use super::*;
            fn library() -> &'static Library {
                static LIBRARY: OnceLock<Library> = OnceLock::new();
                // SAFETY: the simulator has no constructors to speak of.
                LIBRARY.get_or_init(|| unsafe { Library::new($soname) }.expect($soname))
            }
            $(#[allow(clippy::too_many_arguments, reason = "the C signature")]
            pub(crate) fn $name($($arg: $type),*) -> u32 {
                type Function = unsafe extern "C" fn($($type),*) -> u32;
                let name = concat!(stringify!($name), "\0").as_bytes();
                // SAFETY: the type is the declared one; pointers come from the tests' own values.
                unsafe { library().get::<Function>(name).expect(stringify!($name))($($arg),*) }
            })*
        }
    };
}

/// `CUipcMemHandle`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct IpcHandle(pub(crate) [u8; 64]);

functions! { cu, "libcuda.so.1":
    fn cuInit(flags: u32);
    fn cuDriverGetVersion(to: *mut i32);
    fn cuGetErrorName(code: u32, to: *mut *const c_char);
    fn cuGetProcAddress_v2(name: *const c_char, to: *mut *mut c_void, version: i32, flags: u64,
        status: *mut u32);
    fn cuGetExportTable(to: *mut *const c_void, id: *const u8);
    fn cuDevicePrimaryCtxRetain(to: *mut u64, device: i32);
    fn cuDevicePrimaryCtxRelease_v2(device: i32);
    fn cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32);
    fn cuCtxCreate_v2(to: *mut u64, flags: u32, device: i32);
    fn cuCtxDestroy_v2(context: u64);
    fn cuCtxSetCurrent(context: u64);
    fn cuCtxGetCurrent(to: *mut u64);
    fn cuCtxPushCurrent_v2(context: u64);
    fn cuCtxPopCurrent_v2(to: *mut u64);
    fn cuCtxSynchronize();
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    fn cuMemAlloc_v2(to: *mut u64, bytes: usize);
    fn cuMemAllocPitch_v2(to: *mut u64, pitch: *mut usize, width: usize, height: usize, size: u32);
    fn cuMemAllocManaged(to: *mut u64, bytes: usize, flags: u32);
    fn cuMemHostAlloc(to: *mut u64, bytes: usize, flags: u32);
    fn cuMemAllocHost_v2(to: *mut u64, bytes: usize);
    fn cuMemHostGetFlags(to: *mut u32, address: u64);
    fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32);
    fn cuMemHostUnregister(address: u64);
    fn cuMemHostGetDevicePointer_v2(to: *mut u64, address: u64, flags: u32);
    fn cuArrayCreate_v2(to: *mut u64, descriptor: *const [u64; 3]);
    fn cuArray3DCreate_v2(to: *mut u64, descriptor: *const [u64; 5]);
    fn cuArrayDestroy(array: u64);
    fn cuPointerGetAttribute(to: *mut u64, attribute: u32, address: u64);
    fn cuPointerGetAttributes(count: u32, attributes: *const u32, to: *const *mut u64,
        address: u64);
    fn cuMemFree_v2(address: u64);
    fn cuMemFreeHost(address: u64);
    fn cuMemAllocAsync(to: *mut u64, bytes: usize, stream: u64);
    fn cuMemAllocFromPoolAsync(to: *mut u64, bytes: usize, pool: u64, stream: u64);
    fn cuMemFreeAsync(address: u64, stream: u64);
    fn cuMemPoolCreate(to: *mut u64, props: *const [u64; 11]);
    fn cuMemPoolDestroy(pool: u64);
    fn cuMemPoolTrimTo(pool: u64, keep: usize);
    fn cuMemPoolGetAttribute(pool: u64, attribute: u32, to: *mut u64);
    fn cuMemPoolSetAttribute(pool: u64, attribute: u32, from: *mut u64);
    fn cuIpcGetMemHandle(to: *mut IpcHandle, address: u64);
    fn cuIpcOpenMemHandle(to: *mut u64, handle: IpcHandle, flags: u32);
    fn cuIpcOpenMemHandle_v2(to: *mut u64, handle: IpcHandle, flags: u32);
    fn cuIpcCloseMemHandle(address: u64);
    fn cuDeviceGetMemPool(to: *mut u64, device: i32);
    fn cuDeviceSetMemPool(device: i32, pool: u64);
    fn cuMemPoolSetAccess(pool: u64, what: *const [i32; 3], count: usize);
    fn cuMemPoolGetAccess(to: *mut i32, pool: u64, location: *const [i32; 2]);
    fn cuMemGetDefaultMemPool(to: *mut u64, location: *const [i32; 2], kind: i32);
    fn cuMemGetMemPool(to: *mut u64, location: *const [i32; 2], kind: i32);
    fn cuMemSetMemPool(location: *const [i32; 2], kind: i32, pool: u64);
    fn cuMemPoolExportToShareableHandle(to: *mut i32, pool: u64, kind: i32, flags: u64);
    fn cuMemPoolImportFromShareableHandle(to: *mut u64, from: u64, kind: i32, flags: u64);
    fn cuMemPoolExportPointer(to: *mut [u8; 64], address: u64);
    fn cuMemPoolImportPointer(to: *mut u64, pool: u64, from: *const [u8; 64]);
    fn cuDeviceGetDefaultMemPool(to: *mut u64, device: i32);
    fn cuMemAddressReserve(to: *mut u64, bytes: usize, align: usize, at: u64, flags: u64);
    fn cuMemAddressFree(address: u64, bytes: usize);
    fn cuMemCreate(to: *mut u64, bytes: usize, props: *const [u64; 4], flags: u64);
    fn cuMemRelease(handle: u64);
    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64);
    fn cuMemUnmap(address: u64, bytes: usize);
    fn cuMemSetAccess(address: u64, bytes: usize, what: *const [i32; 3], count: usize);
    fn cuMemRetainAllocationHandle(to: *mut u64, address: u64);
    fn cuMemGetAccess(to: *mut u64, location: *const [i32; 2], address: u64);
    fn cuMemGetAllocationPropertiesFromHandle(to: *mut [u64; 4], handle: u64);
    fn cuMemExportToShareableHandle(to: *mut i32, handle: u64, kind: i32, flags: u64);
    fn cuMemImportFromShareableHandle(to: *mut u64, from: u64, kind: i32);
    fn cuMulticastCreate(to: *mut u64, props: *const [u64; 4]);
    fn cuMulticastAddDevice(multicast: u64, device: i32);
    fn cuMulticastBindMem(multicast: u64, offset: usize, memory: u64, at: usize, bytes: usize,
        flags: u64);
    fn cuMulticastBindAddr(multicast: u64, offset: usize, address: u64, bytes: usize, flags: u64);
    fn cuMulticastUnbind(multicast: u64, device: i32, offset: usize, bytes: usize);
    fn cuMulticastGetGranularity(to: *mut usize, props: *const [u64; 4], option: u32);
    fn cuMemGetAllocationGranularity(to: *mut usize, props: *const [u64; 4], option: u32);
    fn cuMemcpyHtoD_v2(to: u64, from: *const u8, bytes: usize);
    fn cuMemcpyDtoH_v2(to: *mut u8, from: u64, bytes: usize);
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize);
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64);
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, bytes: usize, stream: u64);
    fn cuMemcpy(to: u64, from: u64, bytes: usize);
    fn cuMemsetD8_v2(to: u64, value: u8, count: usize);
    fn cuMemsetD32_v2(to: u64, value: u32, count: usize);
    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: u64);
    fn cuMemcpyPeer(to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize);
    fn cuMemcpyPeerAsync(to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize,
        stream: u64);
    fn cuGraphCreate(to: *mut u64, flags: u32);
    fn cuGraphAddKernelNode_v2(to: *mut u64, graph: u64, after: *const u64, count: usize,
        params: *const [u64; 9]);
    fn cuGraphAddMemcpyNode(to: *mut u64, graph: u64, after: *const u64, count: usize,
        params: *const [u64; 25], context: u64);
    fn cuGraphAddMemsetNode(to: *mut u64, graph: u64, after: *const u64, count: usize,
        params: *const [u64; 5], context: u64);
    fn cuGraphAddMemAllocNode(to: *mut u64, graph: u64, after: *const u64, count: usize,
        params: *mut [u64; 15]);
    fn cuGraphAddMemFreeNode(to: *mut u64, graph: u64, after: *const u64, count: usize,
        address: u64);
    fn cuDeviceGetGraphMemAttribute(device: i32, attribute: u32, to: *mut u64);
    fn cuDeviceSetGraphMemAttribute(device: i32, attribute: u32, from: *mut u64);
    fn cuDeviceGraphMemTrim(device: i32);
    fn cuGraphInstantiateWithFlags(to: *mut u64, graph: u64, flags: u64);
    fn cuGraphInstantiate_v2(to: *mut u64, graph: u64, node: *mut u64, log: *mut c_char,
        bytes: usize);
    fn cuGraphLaunch(graph: u64, stream: u64);
    fn cuGraphUpload(graph: u64, stream: u64);
    fn cuGraphExecDestroy(graph: u64);
    fn cuGraphDestroy(graph: u64);
    fn cuStreamBeginCapture_v2(stream: u64, mode: u32);
    fn cuStreamBeginCaptureToGraph(stream: u64, graph: u64, after: *const u64,
        edges: *const c_void, count: usize, mode: u32);
    fn cuGraphAddNode_v2(to: *mut u64, graph: u64, after: *const u64, edges: *const c_void,
        count: usize, params: *mut [u64; 32]);
    fn cuCtxGetId(context: u64, to: *mut u64);
    fn cuDeviceCanAccessPeer(to: *mut i32, device: i32, peer: i32);
    fn cuCtxEnablePeerAccess(context: u64, flags: u32);
    fn cuCtxDisablePeerAccess(context: u64);
    fn cuStreamEndCapture(stream: u64, to: *mut u64);
    fn cuStreamIsCapturing(stream: u64, to: *mut u32);
    fn cuThreadExchangeStreamCaptureMode(mode: *mut u32);
    fn cuStreamCreate(to: *mut u64, flags: u32);
    fn cuStreamDestroy_v2(stream: u64);
    fn cuStreamQuery(stream: u64);
    fn cuStreamSynchronize(stream: u64);
    fn cuStreamWaitEvent(stream: u64, event: u64, flags: u32);
    fn cuEventCreate(to: *mut u64, flags: u32);
    fn cuEventRecord(event: u64, stream: u64);
    fn cuEventQuery(event: u64);
    fn cuEventSynchronize(event: u64);
    fn cuEventElapsedTime_v2(to: *mut f32, from: u64, until: u64);
    fn cuModuleLoadData(to: *mut u64, image: *const c_char);
    fn cuModuleGetLoadingMode(to: *mut u32);
    fn cuLibraryLoadData(to: *mut u64, image: *const c_char, options: *const u32,
        values: *const *mut c_void, count: u32, more: *const u32, more_values: *const *mut c_void,
        more_count: u32);
    fn cuLibraryUnload(library: u64);
    fn cuLibraryGetKernel(to: *mut u64, library: u64, name: *const c_char);
    fn cuLibraryGetModule(to: *mut u64, library: u64);
    fn cuKernelGetFunction(to: *mut u64, kernel: u64);
    fn cuFuncGetModule(to: *mut u64, function: u64);
    fn cuFuncIsLoaded(to: *mut u32, function: u64);
    fn cuFuncLoad(function: u64);
    fn cuCtxSetLimit(limit: u32, value: usize);
    fn cuCtxGetLimit(to: *mut usize, limit: u32);
    fn cuDeviceGetUuid(to: *mut [u8; 16], device: i32);
    fn cuDeviceGetUuid_v2(to: *mut [u8; 16], device: i32);
    fn cuDeviceTotalMem_v2(to: *mut usize, device: i32);
    fn cuDeviceGetCount(to: *mut i32);
    fn cuModuleUnload(module: u64);
    fn cuModuleGetFunction(to: *mut u64, module: u64, name: *const c_char);
    fn cuLaunchKernel(function: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32,
        shared: u32, stream: u64, params: *mut *mut c_void, extra: *mut *mut c_void);
}

pub(crate) type Callback = extern "C" fn(*mut c_void, u32, u32, *const c_void);
pub(crate) type Request = extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
pub(crate) type Complete = extern "C" fn(u64, u32, *mut u8, usize, usize);

functions! { cupti, "libcupti.so.13":
    fn cuptiGetVersion(to: *mut u32);
    fn cuptiGetTimestamp(to: *mut u64);
    fn cuptiGetResultString(code: u32, to: *mut *const c_char);
    fn cuptiSubscribe(to: *mut u64, callback: Callback, data: *mut c_void);
    fn cuptiSubscribe_v2(to: *mut u64, callback: Callback, data: *mut c_void,
        params: *mut [u64; 4]);
    fn cuptiUnsubscribe(subscriber: u64);
    fn cuptiEnableCallback(on: u32, subscriber: u64, domain: u32, cbid: u32);
    fn cuptiEnableDomain(on: u32, subscriber: u64, domain: u32);
    fn cuptiActivityRegisterCallbacks(request: Request, complete: Complete);
    fn cuptiActivityEnable(kind: u32);
    fn cuptiActivityDisable(kind: u32);
    fn cuptiActivityFlushAll(flag: u32);
    fn cuptiActivityGetNextRecord(buffer: *mut u8, valid: usize, record: *mut *mut u8);
    fn cuptiActivityGetNumDroppedRecords(context: u64, stream: u32, to: *mut usize);
    fn cuptiActivitySetAttribute(attribute: u32, size: *mut usize, value: *const u8);
    fn cuptiActivityGetAttribute(attribute: u32, size: *mut usize, value: *mut u8);
    fn cuptiGetContextId(context: u64, to: *mut u32);
    fn cuptiGetStreamIdEx(context: u64, stream: u64, own: u8, to: *mut u32);
    fn cuptiActivityEnableDriverApi(cbid: u32, on: u8);
    fn cuptiActivityEnableRuntimeApi(cbid: u32, on: u8);
    fn cuptiActivityPushExternalCorrelationId(kind: u32, id: u64);
    fn cuptiActivityPopExternalCorrelationId(kind: u32, last: *mut u64);
    fn cuptiActivityRegisterTimestampCallback(clock: extern "C" fn() -> u64);
    fn cuptiGetThreadIdType(to: *mut u32);
    fn cuptiSetThreadIdType(kind: u32);
    fn cuptiFinalize();
    fn memvelope_sim_range_push(name: *const c_char);
    fn memvelope_sim_range_pop();
    fn memvelope_sim_mark(name: *const c_char);
}

/// Two kernels, one without parameters.
pub(crate) const PTX: &std::ffi::CStr = c".version 9.0
.target sm_90
.address_size 64
.visible .entry decode(.param .u64 p) { ret; }
.visible .entry idle() { ret; }
";

/// `cuInit`, and the primary context of device 0 made current.
pub(crate) fn context() -> u64 {
    assert_eq!(cu::cuInit(0), 0);
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    context
}

/// Allocates, and asserts that it works.
pub(crate) fn alloc(bytes: usize) -> u64 {
    let mut address = 0;
    assert_eq!(cu::cuMemAlloc_v2(&mut address, bytes), 0);
    address
}

/// A kernel of [`PTX`].
pub(crate) fn kernel(name: &std::ffi::CStr) -> u64 {
    let (mut module, mut function) = (0, 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, name.as_ptr()), 0);
    function
}

/// Launches `function` on `blocks` blocks of 128 threads.
pub(crate) fn launch(function: u64, blocks: u32, stream: u64) -> u32 {
    let mut argument = 0_u64;
    let mut params = [(&raw mut argument).cast::<c_void>()];
    let none = std::ptr::null_mut();
    cu::cuLaunchKernel(function, blocks, 1, 1, 128, 1, 1, 0, stream, params.as_mut_ptr(), none)
}

/// Virtual time now.
pub(crate) fn now() -> u64 {
    let mut now = 0;
    assert_eq!(cupti::cuptiGetTimestamp(&mut now), 0);
    now
}

/// Another process that runs the same test, with `WHAT` in its environment.
pub(crate) struct Other {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

/// Set in such a process.
const WHAT: &str = "SIM_TEST_OTHER";

/// What this process was told, if it is another one.
pub(crate) fn other_was_told() -> Option<Vec<u8>> {
    let hex = std::env::var(WHAT).ok()?;
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    Some((0..hex.len()).step_by(2).map(byte).collect())
}

impl Other {
    /// Starts it with `told`, and `stdin` as its standard input.
    pub(crate) fn start(test: &str, told: &[u8], stdin: impl Into<std::process::Stdio>) -> Self {
        use std::io::BufRead;
        let hex: String = told.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(WHAT, hex)
            .env_remove("MEMVELOPE_SIM_BOOKS")
            .stdin(stdin)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("another process");
        let lines = std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Waits until it has said `word`.
    pub(crate) fn until(&mut self, word: &str) {
        let is_word = |line: std::io::Result<String>| line.expect("text").ends_with(word);
        assert!(self.lines.any(is_word), "it ended without {word}");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets virtual time pass.
pub(crate) fn advance(ns: u64) {
    // SAFETY: the simulator, which is loaded already.
    let library = unsafe { Library::new("libcuda.so.1") }.expect("libcuda");
    // SAFETY: the declared type.
    unsafe {
        let advance = library.get::<unsafe extern "C" fn(u64) -> u64>(b"memvelope_sim_advance\0");
        advance.expect("the clock")(ns);
    }
}

/// The books at this moment.
pub(crate) fn books() -> serde_json::Value {
    type Books = unsafe extern "C" fn(*mut u8, usize) -> usize;
    // SAFETY: the simulator, which is loaded already.
    let library = unsafe { Library::new("libcuda.so.1") }.expect("libcuda");
    // SAFETY: the declared type; the buffer's length is passed along.
    let text = unsafe {
        let books = library.get::<Books>(b"memvelope_sim_books\0").expect("the books");
        let mut text = vec![0; books(std::ptr::null_mut(), 0) + 4096];
        let length = books(text.as_mut_ptr(), text.len());
        text.truncate(length);
        text
    };
    serde_json::from_slice(&text).expect("the books are JSON")
}

/// Live bytes of a family on a device.
pub(crate) fn live(device: usize, family: &str) -> u64 {
    let books = books();
    let families = &books["devices"][device]["families"];
    families[family]["live_bytes"].as_u64().unwrap_or(0)
}

/// Free and total bytes of the current context's device.
pub(crate) fn mem_info() -> (u64, u64) {
    let (mut free, mut total) = (0, 0);
    assert_eq!(cu::cuMemGetInfo_v2(&mut free, &mut total), 0);
    (free as u64, total as u64)
}
