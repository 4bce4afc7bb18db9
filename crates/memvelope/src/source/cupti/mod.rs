//! CUPTI: activity records and driver-API callbacks, turned into events.
//!
//! * `find`: where libcupti is, and never a second one
//! * `recorder`: the one recorder of the process, and `lifecycle`: what can happen to it; `turn`: who
//!   moves it on; `absence`: when CUPTI was others'
//! * `session`: attaching and detaching; `subscription`, `attributes`, `finalize`: parts of that
//! * `quirks`: what single versions do wrong
//! * `callbacks`, `call`, `state`, `contexts`, `under_way`: what runs inside the host's CUDA calls, lock-free;
//!   `family`, `sharing`, `captures`, `shapes`, `exports`, `other_pools`: what they make of them
//! * `pools`: the program's own pools, and how they are asked while they live; `first_looks`: what they
//!   held before we came
//! * `growth`: what contexts and modules take, measured around the calls that make them; `lazy`: modules
//!   that no call makes
//! * `buffers`: memory that CUPTI fills; `drain`: the way out; `decode`, `records`: what stands in it
//! * `scopes`: told to CUPTI, by thread; `scope_calls`: the records that this takes
//! * `correlate`, `ranges`: what needs more than one record: scopes and marked ranges
//! * `foreign_text`, `known_names`: texts by address, not trusted
//! * `counters`: what was lost and what it cost

mod absence;
mod attributes;
#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub mod bench;
mod buffers;
mod call;
mod callbacks;
mod captures;
mod contexts;
mod correlate;
mod counters;
mod decode;
mod drain;
mod exports;
mod family;
mod finalize;
mod find;
mod first_looks;
mod foreign_text;
mod growth;
mod known_names;
mod lazy;
mod lifecycle;
mod other_pools;
mod pools;
pub mod quirks;
mod ranges;
mod recorder;
mod records;
#[cfg(test)]
mod referee;
mod scope_calls;
mod scopes;
mod session;
mod shapes;
mod sharing;
mod state;
mod subscription;
mod turn;
mod under_way;

pub use attributes::DeviceBuffers;
pub use counters::Counters;
pub use exports::closed_exports;
pub use find::likely_file;
pub use lazy::Loaded;
pub use lifecycle::State;
pub use recorder::{Recorder, Tended};

use crate::error::Error;
use crate::event::DeviceIndex;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

/// Stands for the device of an allocation whose context neither CUPTI nor the driver could name.
pub const UNKNOWN_DEVICE: DeviceIndex = DeviceIndex(u32::MAX);

/// What the recorder sees, and what it does not, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// Where the recorder is in its life.
    pub state: State,
    /// CUPTI's version as `cuptiGetVersion` states it (API number); 0 if it cannot be asked.
    pub cupti_version: u32,
    /// Activity kinds that are on, by CUPTI's names.
    pub kinds: Vec<Cow<'static, str>>,
    /// Whether allocation-family driver callbacks are on. When not, the ledger lives on MEMORY2
    /// records, which miss VMM.
    pub callbacks: bool,
    /// What is missing and why, one sentence each.
    pub missing: Vec<String>,
    /// What is as it was asked for, or cannot be helped, and worth knowing all the same.
    pub notes: Vec<String>,
    /// What this version of CUPTI does wrong or differently, and what we do about it.
    pub quirks: Vec<quirks::AppliedQuirk>,
}

impl Coverage {
    fn of_version(cupti_version: u32) -> Self {
        Self { cupti_version, quirks: quirks::of(cupti_version), ..Self::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to do about one of CUPTI's result codes.
fn hint(code: u32) -> String {
    use cupti_sys::result;
    let text = match code {
        result::ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED => {
            "another tool (Nsight, cuda-gdb, a PyTorch profiler) holds CUPTI's only subscription: \
             stop it, or go without callbacks"
        }
        result::ERROR_NOT_INITIALIZED | result::ERROR_UNKNOWN => {
            "CUPTI could not initialise on this driver: use the libcupti of the driver's CUDA \
             version or an older one"
        }
        result::ERROR_INSUFFICIENT_PRIVILEGES
        | result::ERROR_VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES => {
            "the driver restricts profiling: set NVreg_RestrictProfilingToAdminUsers=0, or run \
             with CAP_SYS_ADMIN"
        }
        result::ERROR_VIRTUALIZED_DEVICE_NOT_SUPPORTED => {
            "this virtual GPU does not allow tracing: set MEMVELOPE_RECORD=poll"
        }
        result::ERROR_WSL_DEVICE_NOT_SUPPORTED => {
            "tracing is not available in this WSL set-up: set MEMVELOPE_RECORD=poll"
        }
        result::ERROR_CONFIDENTIAL_COMPUTING_NOT_SUPPORTED => {
            "confidential computing must be in devtools mode to allow tracing"
        }
        result::ERROR_NOT_COMPATIBLE | result::ERROR_CUDA_COMPILER_NOT_COMPATIBLE => {
            "libcupti and the driver do not fit together: update the older one"
        }
        result::ERROR_OUT_OF_MEMORY => "too little memory is left for CUPTI's own buffers",
        _ => "set MEMVELOPE_RECORD=poll to go without CUPTI",
    };
    text.into()
}

/// A failed CUPTI call as an error.
fn failed(call: &'static str, code: u32) -> Error {
    Error::CuptiCall { call, code, name: cupti_sys::result_name(code), hint: hint(code) }
}
