//! Where libcuda is looked for.

use super::table::Table;
use crate::config::Config;
use crate::source::loader::{self, LoadReport, Open, Outcome};
use libloading::Library;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::path::PathBuf;

/// `libcuda.so.1` by SONAME is the driver of this machine. The places after it are for systems
/// whose loader configuration forgot it: WSL, containers built without the NVIDIA runtime's
/// hook. `compat` comes last: forward-compatibility libraries refuse most consumer devices.
const WELL_KNOWN: [&str; 6] = [
    "/usr/lib/wsl/lib/libcuda.so.1",
    "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/libcuda.so.1",
    "/usr/lib64/libcuda.so.1",
    "/usr/local/nvidia/lib64/libcuda.so.1",
    "/usr/local/cuda/compat/libcuda.so.1",
];

/// A libcuda that was found.
pub(super) struct Found {
    pub(super) table: Table,
    pub(super) library: &'static Library,
    pub(super) path: PathBuf,
}

/// Tries every place in order and notes each.
pub(super) fn find(config: &Config, report: &mut LoadReport) -> Option<Found> {
    let candidates: Vec<OsString> = match &config.cuda_path {
        Some(path) => vec![path.clone().into()],
        None => std::iter::once("libcuda.so.1").chain(WELL_KNOWN).map(OsString::from).collect(),
    };
    let mut found = None;
    for candidate in candidates {
        if found.is_some() {
            report.skip(&candidate, "an earlier one is in use");
        } else {
            found = accept(report, &candidate);
        }
    }
    if found.is_none() {
        report.hint = if config.cuda_path.is_some() {
            "MEMVELOPE_CUDA_PATH is tried alone; unset it to search the usual places".into()
        } else {
            "install the NVIDIA driver, in a container start it with the NVIDIA runtime (docker \
             --gpus all), or set MEMVELOPE_CUDA_PATH to libcuda.so.1"
                .into()
        };
    }
    found
}

fn accept(report: &mut LoadReport, candidate: &OsStr) -> Option<Found> {
    let library = report.open(candidate, Open::Load)?;
    let Some(address) = loader::address_of(library, c"cuInit") else {
        report.fail(candidate, "opened, but it has no cuInit: not a CUDA driver");
        return None;
    };
    report.push(candidate, Outcome::Loaded);
    let path = loader::path_of(address).unwrap_or_else(|| candidate.to_owned());
    let table = Table::resolve(library);
    report.chosen = Some(path.to_string_lossy().into_owned());
    report.missing_symbols = table.missing_symbols();
    if !report.missing_symbols.is_empty() {
        report.hint = "an old driver: what needs the missing functions is left out".into();
    }
    Some(Found { table, library, path: path.into() })
}

/// What to do about a result of `cuInit`.
pub(super) fn init_hint(code: u32) -> String {
    match code {
        34 => "this is the toolkit's stub library: take its directory off LD_LIBRARY_PATH".into(),
        100 => {
            "no device: check nvidia-smi, CUDA_VISIBLE_DEVICES and the container's --gpus".into()
        }
        802 => "the system is not ready: on NVSwitch machines start nvidia-fabricmanager".into(),
        803 => "kernel module and libcuda are of different versions: reload the module or reboot"
            .into(),
        999 => "check that /dev/nvidia* exist and may be opened by this user".into(),
        2 => "the device's memory is taken: see nvidia-smi for by whom".into(),
        46 => "another process has the device for itself, or it needs a reset: see nvidia-smi".into(),
        101 => "check CUDA_VISIBLE_DEVICES: it names a device that is not there".into(),
        804 => "take the forward-compatibility package off the library path: it does not serve this device".into(),
        805 => "the MPS daemon does not answer: start it, or unset CUDA_MPS_PIPE_DIRECTORY".into(),
        _ => "see whether nvidia-smi works, and the kernel's log (dmesg) for NVRM or Xid".into(),
    }
}

/// Copies a C string of the simulator for good.
pub(super) fn leak_text(text: &CStr) -> &'static str {
    let owned: CString = text.to_owned();
    Box::leak(owned.to_string_lossy().into_owned().into_boxed_str())
}
