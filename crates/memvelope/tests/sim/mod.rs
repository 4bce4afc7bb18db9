//! Runs a case in a child process with the simulator first on its library path.

use libloading::Library;
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set in children: the name of the test that runs there.
const CHILD: &str = "SIM_SOURCE_CHILD";
/// The names under which loaders look for the three libraries.
const NAMES: [&str; 4] = ["libcuda.so", "libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1"];

/// A kernel without parameters.
pub(crate) const PTX: &std::ffi::CStr = c".version 9.0
.target sm_90
.address_size 64
.visible .entry idle() { ret; }
";

/// The simulator, if it is built: beside the test binary or one folder up.
fn library() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let deps = exe.parent()?;
    // In `deps` first: that is what cargo built along with these tests.
    let candidates = [deps.join("libmemvelope_sim.so"), deps.join("../libmemvelope_sim.so")];
    candidates.into_iter().find(|path| path.exists())
}

/// Runs `case` in a child process under `scenario` (TOML).
pub(crate) fn in_child(test: &str, scenario: &str, case: fn()) {
    in_child_with(test, scenario, &[], case);
}

/// Runs `case` in a child process for each scenario, with what the case expects there in its
/// environment.
pub(crate) fn in_children(test: &str, cases: &[(String, &[(&str, &str)])], case: fn()) {
    if std::env::var(CHILD).as_deref() == Ok(test) {
        return case();
    }
    for (scenario, env) in cases {
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, Path::new(*value))).collect();
        in_child_with(test, scenario, &env, case);
    }
}

/// The same, with more environment variables.
pub(crate) fn in_child_with(test: &str, scenario: &str, env: &[(&str, &Path)], case: fn()) {
    if std::env::var(CHILD).as_deref() == Ok(test) {
        return case();
    }
    let Some(library) = library() else {
        println!("ignored: libmemvelope_sim.so is not built");
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    for name in NAMES {
        std::os::unix::fs::symlink(&library, dir.path().join(name)).expect("a link");
    }
    let file = dir.path().join("scenario.toml");
    std::fs::write(&file, scenario).expect("the scenario");
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env("LD_LIBRARY_PATH", dir.path())
        .env("MEMVELOPE_SIM_SCENARIO", &file)
        .env_remove("CUDA_INJECTION64_PATH")
        .envs(env.iter().copied())
        .output()
        .expect("a child process");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "under {scenario:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// The simulator's own books at this moment.
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

/// Lets the simulator's time pass.
pub(crate) fn advance(ns: u64) {
    // SAFETY: the simulator, which is loaded already.
    let library = unsafe { Library::new("libcuda.so.1") }.expect("libcuda");
    // SAFETY: the declared type.
    unsafe {
        let advance = library.get::<unsafe extern "C" fn(u64)>(b"memvelope_sim_advance\0");
        advance.expect("the clock")(ns);
    }
}

macro_rules! functions {
    ($(fn $name:ident($($arg:ident: $type:ty),*);)*) => {
        /// The driver as a host program calls it.
        #[allow(non_snake_case, reason = "exported names")]
        pub(crate) mod cu {
            use super::*;
            fn library() -> &'static Library {
                static LIBRARY: OnceLock<Library> = OnceLock::new();
                // SAFETY: the simulator's initialisers have no preconditions.
                LIBRARY.get_or_init(|| unsafe { Library::new("libcuda.so.1") }.expect("libcuda"))
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

functions! {
    fn cuInit(flags: u32);
    fn cuDevicePrimaryCtxRetain(to: *mut u64, device: i32);
    fn cuDevicePrimaryCtxRelease_v2(device: i32);
    fn cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32);
    fn cuDevicePrimaryCtxReset_v2(device: i32);
    fn cuMemPoolSetAttribute(pool: u64, attribute: u32, value: *mut u64);
    fn cuCtxCreate_v2(to: *mut u64, flags: u32, device: i32);
    fn cuCtxDestroy_v2(context: u64);
    fn cuCtxSetCurrent(context: u64);
    fn cuCtxSynchronize();
    fn cuCtxSetLimit(limit: u32, value: usize);
    fn cuMemAlloc_v2(to: *mut u64, bytes: usize);
    fn cuMemAllocPitch_v2(to: *mut u64, pitch: *mut usize, width: usize, height: usize, size: u32);
    fn cuMemAllocManaged(to: *mut u64, bytes: usize, flags: u32);
    fn cuMemHostAlloc(to: *mut u64, bytes: usize, flags: u32);
    fn cuMemAllocHost_v2(to: *mut u64, bytes: usize);
    fn cuMemFree_v2(address: u64);
    fn cuMemFreeHost(address: u64);
    fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32);
    fn cuMemHostUnregister(address: u64);
    fn cuArrayCreate_v2(to: *mut u64, descriptor: *const [u64; 3]);
    fn cuArrayDestroy(array: u64);
    fn cuMemAllocAsync(to: *mut u64, bytes: usize, stream: u64);
    fn cuMemFreeAsync(address: u64, stream: u64);
    fn cuMemAddressReserve(to: *mut u64, bytes: usize, align: usize, at: u64, flags: u64);
    fn cuMemCreate(to: *mut u64, bytes: usize, props: *const [u32; 4], flags: u64);
    fn cuMemRelease(handle: u64);
    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64);
    fn cuMemUnmap(address: u64, bytes: usize);
    fn cuMemcpyHtoD_v2(to: u64, from: *const u8, bytes: usize);
    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, stream: u64);
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize);
    fn cuDeviceGetDefaultMemPool(to: *mut u64, device: i32);
    fn cuMemPoolCreate(to: *mut u64, props: *const [u32; 4]);
    fn cuMemPoolDestroy(pool: u64);
    fn cuMemAllocFromPoolAsync(to: *mut u64, bytes: usize, pool: u64, stream: u64);
    fn cuMemPoolTrimTo(pool: u64, keep: usize);
    fn cuDeviceSetMemPool(device: i32, pool: u64);
    fn cuMemRetainAllocationHandle(to: *mut u64, address: u64);
    fn cuMemExportToShareableHandle(to: *mut i32, handle: u64, kind: i32, flags: u64);
    fn cuMemImportFromShareableHandle(to: *mut u64, from: u64, kind: i32);
    fn cuMulticastCreate(to: *mut u64, props: *const [u64; 4]);
    fn cuMulticastAddDevice(object: u64, device: i32);
    fn cuMulticastBindMem(object: u64, at: usize, handle: u64, from: usize, bytes: usize,
        flags: u64);
    fn cuMulticastUnbind(object: u64, device: i32, at: usize, bytes: usize);
    fn cuMemAddressFree(address: u64, bytes: usize);
    fn cuGraphExecDestroy(executable: u64);
    fn cuGraphDestroy(graph: u64);
    fn cuDeviceGraphMemTrim(device: i32);
    fn cuStreamCreate(to: *mut u64, flags: u32);
    fn cuStreamSynchronize(stream: u64);
    fn cuStreamBeginCapture_v2(stream: u64, mode: u32);
    fn cuStreamEndCapture(stream: u64, graph: *mut u64);
    fn cuGraphInstantiateWithFlags(to: *mut u64, graph: u64, flags: u64);
    fn cuGraphLaunch(executable: u64, stream: u64);
    fn cuMemsetD8_v2(to: u64, value: u8, count: usize);
    fn cuModuleLoadData(to: *mut u64, image: *const c_char);
    fn cuModuleUnload(module: u64);
    fn cuModuleGetFunction(to: *mut u64, module: u64, name: *const c_char);
    fn cuLaunchKernel(function: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32,
        shared: u32, stream: u64, params: *mut *mut c_void, extra: *mut *mut c_void);
}
