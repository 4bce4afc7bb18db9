//! `doctor`: what a session can see from this process, and what to do about the rest.

use crate::convert::plain;
use crate::errors::{guarded, raised};
use memvelope::runtime::doctor::examine;
use pyo3::prelude::*;

/// What memvelope can see from this process, and what to do about the rest.
///
/// The same findings as `memvelope doctor --json`: `health` is `usable`, `degraded` or `unusable`,
/// `problems` says why. Asks the running session, or starts one for the moment. Blocks while
/// libraries load; other threads run meanwhile.
#[pyfunction]
pub(crate) fn doctor(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    guarded(|| plain(py, &py.detach(examine).map_err(|error| raised(py, &error))?))
}
