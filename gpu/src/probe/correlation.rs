//! Which records share a correlation id, when a program calls the driver, and when it calls the
//! runtime, which calls the driver.

use super::{Bench, counts, field, head, said, settle, start};
use crate::options::Options;
use anyhow::{Context as _, Result, bail};
use cupti_sys::{activity_kind, cbid, external_kind, layout};
use gpu_lane_collector::cuda::Handle;
use gpu_lane_collector::cupti::{Library, check, needed};
use gpu_lane_collector::{collector, cuda};
use serde_json::{Value, json};
use std::ffi::{CString, c_char, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

/// Where the id stands, of the kinds that this probe records.
const PLACES: &[(u32, usize)] = &[
    (activity_kind::CONCURRENT_KERNEL, layout::kernel::CORRELATION_ID),
    (activity_kind::MEMSET, layout::memset::CORRELATION_ID),
    (activity_kind::EXTERNAL_CORRELATION, layout::external_correlation::CORRELATION_ID),
    (activity_kind::DRIVER, layout::api::CORRELATION_ID),
    (activity_kind::RUNTIME, layout::api::CORRELATION_ID),
];

/// Kind, id, and what tells records of a kind apart: the callback id or the external id.
static SEEN: Mutex<Vec<(u32, u64, u64)>> = Mutex::new(Vec::new());

fn look(kind: u32, record: &[u8]) {
    let Some((_, at)) = PLACES.iter().find(|(known, _)| *known == kind) else { return };
    let id = field(record, *at, 4).unwrap_or(0);
    let more = match kind {
        activity_kind::DRIVER | activity_kind::RUNTIME => field(record, layout::api::CBID, 4),
        activity_kind::EXTERNAL_CORRELATION => {
            field(record, layout::external_correlation::EXTERNAL_ID, 8)
        }
        _ => None,
    };
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.len() < 10_000 {
        seen.push((kind, id, more.unwrap_or(0)));
    }
}

/// `--api driver|runtime`, `--record driver|runtime|both|driver-launches|neither`; for the runtime,
/// `--cudart PATH`.
pub(crate) fn correlation(options: &Options) -> Result<Value> {
    let (cuda, library) = start()?;
    let mut found = head(cuda, library);
    if let Err(missing) = library.cupti.activity_push_external_correlation_id {
        found["skipped"] = missing.to_string().into();
        return Ok(found);
    }
    let bench = Bench::open(cuda, options)?;
    let buffer = bench.gpu.alloc(1 << 20)?;
    let runtime = match options.text("api").unwrap_or("driver") {
        "driver" => None,
        "runtime" => Some(Runtime::open(options)?),
        other => bail!("--api {other}: expected driver or runtime"),
    };
    found["runtime_launches"] = runtime.as_ref().map(|runtime| runtime.launch.is_some()).into();
    collector::register(library, Some(look))?;
    let mut on = |kind: u32| {
        let name = activity_kind::name(kind).unwrap_or("UNKNOWN");
        found["enabled"][name] = said(library.enable(kind));
    };
    on(activity_kind::CONCURRENT_KERNEL);
    on(activity_kind::MEMSET);
    on(activity_kind::EXTERNAL_CORRELATION);
    let record = options.text("record").unwrap_or("both");
    match record {
        "driver" => on(activity_kind::DRIVER),
        "runtime" => on(activity_kind::RUNTIME),
        "both" => {
            on(activity_kind::DRIVER);
            on(activity_kind::RUNTIME);
        }
        "driver-launches" => found["enabled"]["driver cbids"] = said(launches_only(library)),
        "neither" => {}
        other => bail!("--record {other}"),
    }
    for scope in 1..=3 {
        push(library, 1000 + scope)?;
        match &runtime {
            None => {
                bench.gpu.launch(bench.empty, 1, bench.stream, &[])?;
                bench.gpu.zero(buffer, 1 << 20, bench.stream)?;
            }
            Some(runtime) => runtime.work(buffer, 1 << 20)?,
        }
        pop(library)?;
    }
    bench.gpu.wait_all()?;
    settle(library)?;
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = seen.iter().map(|(kind, id, more)| {
        json!({ "kind": activity_kind::name(*kind), "correlation_id": id, "cbid_or_external": more })
    });
    found["records"] = rows.collect();
    let has = |kind: u32, id: u64| seen.iter().any(|row| row.0 == kind && row.1 == id);
    let work = seen.iter().filter(|row| row.0 != activity_kind::EXTERNAL_CORRELATION);
    let work = work.filter(|row| row.0 != activity_kind::DRIVER && row.0 != activity_kind::RUNTIME);
    let ids: Vec<u64> = work.map(|row| row.1).collect();
    let share = |kind: u32| ids.iter().filter(|id| has(kind, **id)).count();
    found["device_records"] = ids.len().into();
    found["with_the_id_of_a_driver_record"] = share(activity_kind::DRIVER).into();
    found["with_the_id_of_a_runtime_record"] = share(activity_kind::RUNTIME).into();
    found["with_an_external_id"] = share(activity_kind::EXTERNAL_CORRELATION).into();
    found["api"] = options.text("api").unwrap_or("driver").into();
    found["recorded_api"] = record.into();
    found["by_kind"] = counts();
    Ok(found)
}

/// Records of the driver's launching functions alone (12.5 and later).
fn launches_only(library: &Library) -> Result<()> {
    let enable = needed(library.cupti.activity_enable_driver_api)?;
    let named =
        |name: &str| ["cuLaunch", "cuMemset", "cuMemcpy"].iter().any(|p| name.starts_with(p));
    for (name, id) in cbid::ALL.iter().filter(|(name, _)| named(name)) {
        // SAFETY: takes no pointer.
        check(name, unsafe { enable(*id, 1) })?;
    }
    Ok(())
}

fn push(library: &Library, id: u64) -> Result<()> {
    let push = needed(library.cupti.activity_push_external_correlation_id)?;
    // SAFETY: takes no pointer.
    check("push", unsafe { push(external_kind::CUSTOM0, id) })
}

fn pop(library: &Library) -> Result<()> {
    let pop = needed(library.cupti.activity_pop_external_correlation_id)?;
    let mut last = 0;
    // SAFETY: an out-pointer to a local.
    check("pop", unsafe { pop(external_kind::CUSTOM0, &raw mut last) })
}

/// `dim3`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Dim3([u32; 3]);

type Memset = unsafe extern "C" fn(*mut c_void, i32, usize, Handle) -> u32;
type LaunchKernel =
    unsafe extern "C" fn(Handle, Dim3, Dim3, *mut *mut c_void, usize, Handle) -> u32;
type GetKernel = unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> u32;
type LoadData = unsafe extern "C" fn(
    *mut Handle,
    *const c_void,
    *mut c_void,
    *mut *mut c_void,
    u32,
    *mut c_void,
    *mut *mut c_void,
    u32,
) -> u32;

/// Work through a libcudart: a memset always, and a kernel where the runtime loads PTX (12.8).
struct Runtime {
    memset: Memset,
    launch: Option<(LaunchKernel, Handle)>,
}

impl Runtime {
    fn open(options: &Options) -> Result<Self> {
        let path = options.text("cudart").context("--cudart PATH is needed")?;
        let ptx = CString::new(options.ptx("launch_storm.ptx")?)?;
        // SAFETY: NVIDIA's runtime by its path; these functions have had these types in every
        // version that has them, and the library is leaked.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(path)?));
            let memset = *library.get::<Memset>(b"cudaMemsetAsync\0")?;
            let launch = (|| {
                let load = library.get::<LoadData>(b"cudaLibraryLoadData\0").ok()?;
                let get = library.get::<GetKernel>(b"cudaLibraryGetKernel\0").ok()?;
                let launch = *library.get::<LaunchKernel>(b"cudaLaunchKernel\0").ok()?;
                let (mut module, mut kernel) = (Handle::NULL, Handle::NULL);
                let text = ptx.as_ptr().cast();
                let (none, nones) = (null_mut(), null_mut());
                let loaded = load(&raw mut module, text, none, nones, 0, none, nones, 0);
                let is_found =
                    loaded == 0 && get(&raw mut kernel, module, c"launch_empty".as_ptr()) == 0;
                is_found.then_some((launch, kernel))
            })();
            Ok(Self { memset, launch })
        }
    }

    fn work(&self, to: cuda::Address, bytes: usize) -> Result<()> {
        // SAFETY: device memory of that length; the runtime takes the current context, which is
        // the primary one, and the default stream.
        let code = unsafe { (self.memset)(to as *mut _, 0, bytes, Handle::NULL) };
        if code != 0 {
            bail!("cudaMemsetAsync returned {code}");
        }
        let Some((launch, kernel)) = self.launch else { return Ok(()) };
        let (grid, block) = (Dim3([1; 3]), Dim3([256, 1, 1]));
        // SAFETY: a kernel that the runtime loaded; it takes no arguments.
        match unsafe { launch(kernel, grid, block, null_mut(), 0, Handle::NULL) } {
            0 => Ok(()),
            code => bail!("cudaLaunchKernel returned {code}"),
        }
    }
}
