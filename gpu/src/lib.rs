//! The GPU lane's native half: the driver and libcupti as an outsider opens them, and a minimal
//! CUPTI collector, which is also this library's product:
//! `CUDA_INJECTION64_PATH=libgpu_lane_collector.so ./program` counts the program's records.
//!
//! | environment variable | meaning |
//! |---|---|
//! | `GPU_LANE_COUNTS` | file for the counts (JSON), written at exit; the collector's switch |
//! | `GPU_LANE_ORDER` | file for what is loaded and allowed inside `InitializeInjection` |
//! | `GPU_LANE_RETURN` | what `InitializeInjection` returns; 1 if absent |
//! | `GPU_LANE_CUPTI` | the libcupti to open where none is loaded |

#![expect(unsafe_code, reason = "calls CUDA and CUPTI, and exports the injection's C symbol")]

pub mod collector;
pub mod cuda;
pub mod cupti;
pub mod nvml;
mod order;

use std::ffi::c_int;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static COUNTS_FILE: OnceLock<PathBuf> = OnceLock::new();

/// What the driver calls inside `cuInit`.
#[unsafe(no_mangle)]
pub extern "C" fn InitializeInjection() -> c_int {
    static IS_ENTERED: AtomicBool = AtomicBool::new(false);
    let is_first = !IS_ENTERED.swap(true, Ordering::AcqRel);
    let answer = catch_unwind(|| {
        if is_first {
            begin();
        }
        std::env::var("GPU_LANE_RETURN").ok().and_then(|text| text.parse().ok())
    });
    answer.ok().flatten().unwrap_or(1)
}

fn begin() {
    if let Some(path) = std::env::var_os("GPU_LANE_ORDER") {
        order::answer(&PathBuf::from(path));
    }
    let Some(path) = std::env::var_os("GPU_LANE_COUNTS").map(PathBuf::from) else { return };
    match cupti::open().and_then(collector::begin) {
        Ok(()) => {
            let _only_call = COUNTS_FILE.set(path);
            // SAFETY: a function of this object, which the driver never unloads.
            let _ = unsafe { libc::atexit(at_exit) };
        }
        Err(error) => eprintln!("collector: nothing is counted: {error:#}"),
    }
}

extern "C" fn at_exit() {
    // A panic must not cross into libc.
    let _ = catch_unwind(|| {
        let Some(path) = COUNTS_FILE.get() else { return };
        let mut counts = collector::counts();
        if let Ok(library) = cupti::open() {
            let flushed = library.flush(true);
            counts = collector::counts();
            counts["flush"] = flushed.map_or_else(|e| format!("{e:#}"), |()| "ok".into()).into();
            counts["dropped"] = library.dropped().ok().into();
            counts["cupti_path"] = library.path.clone().into();
            counts["cupti_version"] = library.version().ok().into();
        }
        if let Err(error) = std::fs::write(path, counts.to_string()) {
            eprintln!("collector: writing {} failed: {error}", path.display());
        }
    });
}
