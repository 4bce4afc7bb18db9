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
            Some(runtime) => runtime.memset(buffer, 1 << 20)?,
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

/// `cudaMemsetAsync` of a libcudart: work on the device that needs no kernel registered.
struct Runtime(unsafe extern "C" fn(*mut std::ffi::c_void, i32, usize, Handle) -> u32);

impl Runtime {
    fn open(options: &Options) -> Result<Self> {
        let path = options.text("cudart").context("--cudart PATH is needed")?;
        // SAFETY: NVIDIA's runtime by its path; the function has had this type in every version,
        // and the library is leaked.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(path)?));
            Ok(Self(*library.get(b"cudaMemsetAsync\0")?))
        }
    }

    fn memset(&self, to: cuda::Address, bytes: usize) -> Result<()> {
        // SAFETY: device memory of that length; the runtime takes the current context, which is
        // the primary one, and the default stream.
        let code = unsafe { self.0(to as *mut _, 0, bytes, std::ptr::null_mut()) };
        if code != 0 {
            bail!("cudaMemsetAsync returned {code}");
        }
        Ok(())
    }
}
