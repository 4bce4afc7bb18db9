//! `Session` and `Span`: what `memvelope.profile` is made of.

use crate::convert::plain;
use crate::errors::{guarded, raised};
use memvelope::config::Config;
use memvelope::runtime::{self, SpanGuard};
use pyo3::exceptions::{PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A handle to the process's recording session; there is one a process.
#[pyclass(frozen, module = "memvelope")]
pub(crate) struct Session {
    inner: runtime::Session,
}

#[pymethods]
impl Session {
    /// Starts the process's session, configured by the `MEMVELOPE_*` keys. Without a usable driver
    /// it sees nothing and its `mode` says why. Unusable keys are warned of and keep their default.
    ///
    /// Raises `SessionExistsError` or `StartThreadError`.
    #[staticmethod]
    fn start(py: Python<'_>) -> PyResult<Self> {
        guarded(|| {
            let (config, problems) = Config::from_env();
            for problem in &problems {
                let text = std::ffi::CString::new(problem.to_string()).unwrap_or_default();
                PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1)?;
            }
            // Loads libraries and calls the driver: both may take seconds.
            let started = py.detach(|| runtime::Session::start(&config));
            started.map(|inner| Self { inner }).map_err(|error| raised(py, &error))
        })
    }

    /// The running session, or `None`.
    #[staticmethod]
    fn current() -> PyResult<Option<Self>> {
        guarded(|| Ok(runtime::Session::current().map(|inner| Self { inner })))
    }

    /// How it records, or why it sees nothing.
    fn mode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.mode()))
    }

    /// How libcuda, libcupti and libnvidia-ml were looked for.
    fn load_reports<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.load_reports()))
    }

    /// One epoch of everything recorded so far.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &py.detach(|| self.inner.snapshot())))
    }

    /// What recording cost so far.
    fn self_cost<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &py.detach(|| self.inner.self_cost())))
    }

    /// Asks the planes now: cgroup, NVML and the driver.
    fn sample(&self, py: Python<'_>) -> PyResult<()> {
        guarded(|| {
            py.detach(|| self.inner.sample());
            Ok(())
        })
    }

    /// Waits until every record of work that is complete on the device is decoded.
    ///
    /// Raises `FlushTimeoutError`.
    #[pyo3(signature = (timeout_s=5.0))]
    fn flush(&self, py: Python<'_>, timeout_s: f64) -> PyResult<()> {
        guarded(|| {
            let timeout = duration(timeout_s)?;
            py.detach(|| self.inner.flush(timeout)).map_err(|error| raised(py, &error))
        })
    }

    /// Names the host time until the span ends.
    fn span(&self, name: &str) -> PyResult<Span> {
        guarded(|| Ok(Span { guard: Mutex::new(Some(self.inner.span(name))) }))
    }

    /// Writes the sampled trace as Chrome trace JSON (opens in Perfetto), at most `bytes_max` long.
    /// Returns what was written. Raises `WriteFileError`; nothing stands under `path` then.
    #[pyo3(signature = (path, bytes_max=67_108_864))]
    fn write_trace<'py>(
        &self,
        py: Python<'py>,
        path: PathBuf,
        bytes_max: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let written = py.detach(|| self.inner.write_trace(&path, bytes_max));
            plain(py, &written.map_err(|error| raised(py, &error))?)
        })
    }

    /// Flushes, detaches and returns the last snapshot; every handle sees that one afterwards.
    ///
    /// Raises `FlushTimeoutError`; the session is stopped all the same.
    #[pyo3(signature = (timeout_s=5.0))]
    fn stop<'py>(&self, py: Python<'py>, timeout_s: f64) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let timeout = duration(timeout_s)?;
            let last = py.detach(|| self.inner.stop(timeout));
            plain(py, &last.map_err(|error| raised(py, &error))?)
        })
    }
}

fn duration(timeout_s: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(timeout_s).map_err(|problem| {
        PyValueError::new_err(format!(
            "timeout_s={timeout_s} is not a number of seconds: {problem}"
        ))
    })
}

/// A named stretch of host time; it ends with `end()` or its `with` block.
#[pyclass(frozen, module = "memvelope")]
pub(crate) struct Span {
    guard: Mutex<Option<SpanGuard>>,
}

#[pymethods]
impl Span {
    /// Ends the span. A second call changes nothing.
    fn end(&self) -> PyResult<()> {
        guarded(|| {
            // Taken first, dropped after: nothing runs under our lock.
            let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(guard);
            Ok(())
        })
    }

    const fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (_kind=None, _error=None, _traceback=None))]
    fn __exit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _error: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        self.end().map(|()| false)
    }
}
