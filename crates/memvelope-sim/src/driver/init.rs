//! Initialisation, versions, error texts, entry points, and the injection contract.

use crate::abi::{Code, Done};
use crate::books::Injection;
use crate::edge::{put, put_if, text};
use crate::entry::Call;
use crate::{fault, world};
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

/// Held while the driver is initialised, injection included.
static FIRST: Mutex<()> = Mutex::new(());

thread_local! {
    /// Whether this thread is the one that runs the injection library.
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// How long queued work goes on while the process exits: an injected library waits as long for
/// records.
const EXIT_NS: u64 = 1_000_000_000;

/// `cuInit`: idempotent; the first success loads the injection library.
pub(crate) fn init() -> Done {
    if world::is_forked() {
        return Err(Code::NOT_INITIALIZED);
    }
    {
        let world = world::machine().ok_or(Code::SYSTEM_NOT_READY)?;
        if world.scenario.init_code != 0 {
            return Err(Code(world.scenario.init_code));
        }
        if world.devices.is_empty() {
            return Err(Code::NO_DEVICE);
        }
    }
    // Only whoever is inside already, by way of the injection library, does not wait.
    if IS_INSIDE.get() {
        return Ok(());
    }
    // Other threads come back when everything is ready, the recorder as well.
    let _turn = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    // Ready before the injection library runs: it calls `cuInit` and CUPTI from inside.
    if !world::set_ready()
        && let Some(path) = std::env::var_os("CUDA_INJECTION64_PATH").filter(|p| !p.is_empty())
    {
        let path = path.into_encoded_bytes();
        let shown = String::from_utf8_lossy(&path).into_owned();
        let injection = match CString::new(path) {
            Ok(path) => {
                world::set_injecting(true);
                IS_INSIDE.set(true);
                let injection = inject(&path, shown);
                IS_INSIDE.set(false);
                world::set_injecting(false);
                go_on_at_exit();
                injection
            }
            Err(_) => Injection { path: shown, loaded: false, returned: None },
        };
        if let Some(mut world) = world::machine() {
            world.books.injection = Some(injection);
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "the injection contract: dlopen and call InitializeInjection")]
fn inject(path: &CStr, shown: String) -> Injection {
    // SAFETY: a terminated path; running the library's constructors is the contract.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Injection { path: shown, loaded: false, returned: None };
    }
    // SAFETY: a live handle and a terminated name.
    let function = unsafe { libc::dlsym(library, c"InitializeInjection".as_ptr()) };
    if function.is_null() {
        return Injection { path: shown, loaded: true, returned: None };
    }
    // SAFETY: the contract gives the symbol this type; no lock is held, so it may call back.
    let returned =
        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(function)() };
    Injection { path: shown, loaded: true, returned: Some(returned) }
}

/// Real time passes while a process exits, and its GPU goes on. Registered after the injected
/// library's own handler, this runs before it.
#[expect(unsafe_code, reason = "atexit")]
fn go_on_at_exit() {
    extern "C" fn go_on() {
        // A panic must not cross into the C runtime; what is queued then stays so.
        let _ = std::panic::catch_unwind(|| {
            if !world::is_forked()
                && let Some(mut world) = world::machine_if_made()
            {
                world.go_on_for(EXIT_NS);
            }
        });
    }
    // SAFETY: `go_on` is a plain function that lives as long as the library, and catches unwinds.
    unsafe { libc::atexit(go_on) };
}

/// `cuDriverGetVersion`; needs no `cuInit`.
pub(crate) fn version(to: *mut i32) -> Done {
    let world = world::machine().ok_or(Code::SYSTEM_NOT_READY)?;
    put(to, world.scenario.driver_version)
}

pub(crate) fn error_name(code: u32, to: *mut *const c_char) -> Done {
    words(code, to, |(name, _)| name)
}

pub(crate) fn error_string(code: u32, to: *mut *const c_char) -> Done {
    words(code, to, |(_, text)| text)
}

type Words = (&'static CStr, &'static CStr);

fn words(code: u32, to: *mut *const c_char, pick: fn(Words) -> &'static CStr) -> Done {
    match Code(code).words() {
        Some(words) => put(to, pick(words).as_ptr()),
        None => {
            put_if(to, std::ptr::null());
            Err(Code::INVALID_VALUE)
        }
    }
}

/// First CUDA version at which a base name means a later variant; the others have but one.
const SINCE: &[(&str, i32)] = &[
    ("cuCtxCreate_v3", 11_040),
    ("cuCtxCreate_v4", 13_000),
    ("cuEventElapsedTime_v2", 12_080),
    ("cuGetProcAddress_v2", 12_000),
    ("cuGraphAddKernelNode_v2", 12_000),
    ("cuGraphAddNode_v2", 13_000),
    ("cuGraphInstantiateWithFlags", 12_000),
    ("cuIpcOpenMemHandle_v2", 11_000),
    ("cuMulticastBindAddr_v2", 13_010),
    ("cuMulticastBindMem_v2", 13_010),
    ("cuStreamBeginCapture_v2", 10_010),
    ("cuDeviceGetUuid_v2", 11_040),
    ("cuMemAdvise_v2", 13_000),
    ("cuMemPrefetchAsync_v2", 13_000),
];

/// `cuGetProcAddress[_v2]`: the newest variant of `symbol` that `version` may see.
pub(crate) fn proc_address(
    call: &Call,
    symbol: *const c_char,
    to: *mut *const c_void,
    version: i32,
    flags: u64,
    status: *mut u32,
) -> Done {
    let _ = call;
    let name = text(symbol)?.to_str().map_err(|_| Code::INVALID_VALUE)?;
    let found = variants(name, flags).find_map(|variant| {
        let since = SINCE.iter().find(|(name, _)| *name == variant).map_or(0, |(_, since)| *since);
        let usable = (variant == name || since <= version) && !fault::is_missing(&variant);
        let function = super::functions().find(|function| function.name() == variant)?;
        usable.then_some(function.address.0)
    });
    put_if(status, u32::from(found.is_none()));
    match found {
        Some(address) => put(to, address),
        None => {
            put_if(to, std::ptr::null());
            Err(Code::NOT_FOUND)
        }
    }
}

/// The names under which `name` may be exported, best first.
fn variants(name: &str, flags: u64) -> impl Iterator<Item = String> {
    // CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM
    let per_thread = flags & 2 != 0;
    // One later form goes by another word.
    let versions = match name {
        "cuGraphInstantiate" => ["WithFlags", "_v3", "_v2", ""],
        _ => ["_v4", "_v3", "_v2", ""],
    };
    let suffixes: &[&str] = if per_thread { &["_ptsz", "_ptds", ""] } else { &[""] };
    let mut names = Vec::new();
    for suffix in suffixes {
        for version in versions {
            names.push(format!("{name}{version}{suffix}"));
        }
    }
    names.into_iter()
}
