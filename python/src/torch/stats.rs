//! `memory_stats`, nested as `memory_stats_as_nested_dict` has it or flat.

use memvelope::source::torch::Stats;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyDictMethods};

/// Counters that every piece of work of the allocator changes: blocks that are handed out, freed,
/// and come back from a stream; segments, and pages of expandable ones, that come and go.
const TURNOVER: &[&[&str]] = &[
    &["allocation", "all", "allocated"],
    &["allocation", "all", "freed"],
    &["active", "all", "allocated"],
    &["active", "all", "freed"],
    &["segment", "all", "allocated"],
    &["segment", "all", "freed"],
    &["num_device_alloc"],
    &["num_device_free"],
];

/// What is told of it; what is not, is `None`.
pub(super) fn stats(told: &Bound<'_, PyAny>) -> Stats {
    let current = |name: &str| number(told, &[name, "all", "current"]);
    Stats {
        turnover: turnover(told),
        alloc_retries: number(told, &["num_alloc_retries"]),
        ooms: number(told, &["num_ooms"]),
        reserved_bytes: current("reserved_bytes"),
        active_bytes: current("active_bytes"),
        allocated_bytes: current("allocated_bytes"),
    }
}

/// See [`memvelope::framework::Framework::turnover`].
pub(super) fn turnover(told: &Bound<'_, PyAny>) -> u64 {
    let counters = TURNOVER.iter().filter_map(|path| number(told, path));
    counters.fold(0, u64::wrapping_add)
}

fn number(told: &Bound<'_, PyAny>, path: &[&str]) -> Option<u64> {
    let told = told.cast::<PyDict>().ok()?;
    let flat = told.get_item(path.join(".")).ok().flatten();
    let found = flat.or_else(|| {
        path.iter().try_fold(told.clone().into_any(), |inner, name| {
            inner.cast::<PyDict>().ok()?.get_item(*name).ok().flatten()
        })
    });
    found?.extract().ok()
}
