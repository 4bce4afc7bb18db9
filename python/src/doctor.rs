//! `doctor`: what a session could see from this process, and what to do about the rest.

use crate::convert::plain;
use crate::errors::guarded;
use pyo3::prelude::*;

/// Says what memvelope can see from this process.
#[pyfunction]
pub(crate) fn doctor(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    guarded(|| plain(py, &()))
}
