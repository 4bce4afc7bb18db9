//! Seeded faults: calls that fail by name and number, and functions that are not there.

use crate::scenario::{DEVICE_LOSS, Fault, Scenario, TEARDOWN};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether a scenario has any; every call asks this first.
static ARMED: AtomicBool = AtomicBool::new(false);
static FAULTS: Mutex<Faults> =
    Mutex::new(Faults { list: Vec::new(), missing: Vec::new(), random: 0 });

struct Faults {
    list: Vec<(Fault, u64)>,
    missing: Vec<String>,
    random: u64,
}

/// Loads a scenario's faults.
pub(crate) fn arm(scenario: &Scenario) {
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    faults.list = scenario.faults.iter().map(|fault| (fault.clone(), 0)).collect();
    faults.missing.clone_from(&scenario.missing);
    faults.random = scenario.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let any = !faults.list.is_empty() || !faults.missing.is_empty();
    ARMED.store(any, Ordering::Release);
}

/// Whether the scenario says that this driver lacks `name`.
pub(crate) fn is_missing(name: &str) -> bool {
    if !ARMED.load(Ordering::Acquire) {
        return false;
    }
    let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    faults.missing.iter().any(|missing| missing == name)
}

/// What calls a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A program calls libcuda; whether to allocate.
    Driver { allocates: bool },
    /// Another library.
    Other,
}

/// What a driver can say in whatever state it is.
const ALWAYS_ANSWERED: [&str; 6] = [
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGetExportTable",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
];

/// Whether the device was lost.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether the device was lost.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Acquire)
}

/// Counts a call of `name` and returns the code it must fail with, if any.
pub(crate) fn due(name: &str, caller: Caller) -> Option<u32> {
    if !ARMED.load(Ordering::Acquire) {
        return None;
    }
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = faults.random;
    let mut code = None;
    for (fault, seen) in &mut faults.list {
        let is_lasting = fault.call == DEVICE_LOSS || fault.call == TEARDOWN;
        let is_meant = match caller {
            _ if fault.call == name => true,
            Caller::Driver { .. } if is_lasting => !ALWAYS_ANSWERED.contains(&name),
            Caller::Driver { allocates } => allocates && fault.call == "allocation",
            Caller::Other => false,
        };
        if !is_meant {
            continue;
        }
        *seen += 1;
        let past = seen.checked_sub(fault.nth);
        let is_endless = fault.times == 0 || is_lasting;
        let in_range = past.is_some_and(|past| is_endless || past < fault.times);
        if in_range && draw(&mut random) < fault.probability {
            code = code.or(Some(fault.code));
            if fault.call == DEVICE_LOSS {
                LOST.store(true, Ordering::Release);
            }
        }
    }
    faults.random = random;
    code
}

/// A number in `0.0..1.0`: xorshift64*, enough for faults and reproducible by seed.
fn draw(state: &mut u64) -> f64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
}
