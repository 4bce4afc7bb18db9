//! `Session`: the process's one recording.

use crate::convert::{amount, plain, small_amount};
use crate::errors::{guarded, raised};
use crate::follow::Follow;
use crate::torch::Framework;
use memvelope::config::Config;
use memvelope::event::DeviceIndex;
use memvelope::runtime;
use memvelope::snapshot::{Fit, Via};
use memvelope::units::Bytes;
use pyo3::exceptions::{PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::time::Duration;

/// How long leaving a `with` block waits for the last records.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A handle to the process's recording session; there is one a process. Leaving it as a `with` block
/// stops it.
#[pyclass(frozen, module = "memvelope")]
pub(crate) struct Session {
    inner: runtime::Session,
}

/// Who is asked for bytes.
fn asked(via: &Bound<'_, PyAny>) -> PyResult<Via> {
    if let Ok(word) = via.extract::<String>() {
        return match word.as_str() {
            "framework" => Ok(Via::Framework),
            "driver" => Ok(Via::Driver),
            _ => Err(PyValueError::new_err(format!(
                "via={word:?}: expected \"framework\", \"driver\" or the handle of a memory pool"
            ))),
        };
    }
    Ok(Via::Pool(amount("via", "a pool's handle", via)?))
}

fn would_fit(
    session: &runtime::Session,
    bytes: Bytes,
    device: DeviceIndex,
    via: Option<Via>,
) -> Fit {
    let via = via.unwrap_or_else(|| {
        let snapshot = session.snapshot_now();
        let framework = snapshot.device(device).and_then(|device| device.framework.as_ref());
        if framework.is_some() { Via::Framework } else { Via::Driver }
    });
    session.would_fit(device, bytes, via)
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

    /// Where the copy of memvelope lies that records (the injection library, say) and that this
    /// session asks; `None` where this one records itself.
    fn owner_path(&self) -> Option<&str> {
        self.inner.owner_path()
    }

    /// How libcuda, libcupti and libnvidia-ml were looked for.
    fn load_reports<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.load_reports()))
    }

    /// One epoch of everything recorded so far.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &py.detach(|| self.inner.snapshot())))
    }

    /// The same with the planes asked anew: cgroup, NVML, and each device's driver, ledger, pools and
    /// framework read together. Takes microseconds a device, and milliseconds where NVML lists
    /// processes (at most once a second).
    fn snapshot_now<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &py.detach(|| self.inner.snapshot_now())))
    }

    /// `snapshot_now()` for people: what is used and by what, term by term, what would fit next, and
    /// what was not seen, in lines of at most `width` columns (80 at least).
    #[pyo3(signature = (width=100))]
    fn snapshot_text(&self, py: Python<'_>, width: usize) -> PyResult<String> {
        guarded(|| Ok(py.detach(|| self.inner.snapshot_now().text(width))))
    }

    /// Whether `nbytes` would be had now. `via` says who would be asked: `"framework"` (PyTorch's
    /// allocator), `"driver"`, or a memory pool by its handle; without it, the allocator where the
    /// session knows what it holds, else the driver. `fits` of the answer is `"yes"`, `"no"` (with
    /// `because` and `remedies`) or `"unknown"` (with what is `missing`).
    #[pyo3(signature = (nbytes, device=None, via=None))]
    fn would_fit<'py>(
        &self,
        py: Python<'py>,
        nbytes: &Bound<'py, PyAny>,
        device: Option<&Bound<'py, PyAny>>,
        via: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let bytes = Bytes(amount("nbytes", "bytes", nbytes)?);
            let device = device.map(|device| small_amount("device", "a device", device));
            let device = DeviceIndex(device.transpose()?.unwrap_or(0));
            let via = via.map(asked).transpose()?;
            plain(py, &py.detach(|| would_fit(&self.inner, bytes, device, via)))
        })
    }

    /// Takes what a caching allocator held a moment ago; counts until the driver hands out or takes
    /// back memory of that device.
    fn _accept_framework(&self, py: Python<'_>, framework: PyRef<'_, Framework>) -> PyResult<()> {
        guarded(|| {
            let plane = framework.plane().clone();
            py.detach(|| self.inner.accept_framework(plane));
            Ok(())
        })
    }

    /// What recording cost so far.
    fn self_cost<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &py.detach(|| self.inner.self_cost())))
    }

    /// Everything in one: mode and state, clock, snapshot, what was lost and what it cost.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &py.detach(|| self.inner.report())))
    }

    /// Leaves CUPTI to somebody else, say to `torch.profiler`, until `resume()`: the session polls
    /// meanwhile, and what happens in between is not seen.
    ///
    /// Raises `FlushTimeoutError` or `CuptiCallError`; CUPTI is left alone all the same.
    fn pause(&self, py: Python<'_>, why: &str) -> PyResult<()> {
        guarded(|| py.detach(|| self.inner.pause(why)).map_err(|error| raised(py, &error)))
    }

    /// Ends a `pause()`. True if it records now; else it does as soon as CUPTI is given back.
    fn resume(&self, py: Python<'_>) -> PyResult<bool> {
        guarded(|| Ok(py.detach(|| self.inner.resume())))
    }

    /// Lets a gate follow the measured envelope, as long as the `Follow` that this returns is kept:
    /// at each poll period (`MEMVELOPE_POLL_PERIOD_MS`) the gate's capacity becomes what the device
    /// has room for. Down at once; up once it was more by `rise_blocks` (1 % of the budget) for
    /// `rise_readings` readings in a row, or for `rise_after_s` seconds, and then by the least of
    /// those; never above `budget_blocks`, nor below `floor_blocks`.
    ///
    /// `plan` is what the device is compared with: a `Plan`, whose blocks but the null block are the
    /// budget; an `Envelope`; or a `config.json` (as for `Envelope.plan`), which is planned for the
    /// device's own memory. Weights and KV cache are known by their tags (`memvelope.tag`).
    /// `is_loaded` says that the weights are loaded though nothing tagged them; `kv_untagged_bytes`,
    /// how much of what nobody tagged is KV cache, say of an engine that took its whole cache at
    /// the start. `keeps_cached`: count all that torch caches as taken, for a cache that does not
    /// come out of torch's allocator. `device` is the ordinal. `by_hand`: only `Follow.update()`
    /// follows, which is the way where another copy of memvelope records (`owner_path`).
    ///
    /// Raises `ConfigureGateError`, `PlanRefused`, what `Envelope.plan` raises, and `TypeError` or
    /// `ValueError` for what is no such argument.
    #[pyo3(signature = (gate, plan, **keywords))]
    #[pyo3(
        text_signature = "($self, gate, plan, *, device=0, budget_blocks=None, floor_blocks=0, rise_blocks=None, rise_readings=10, rise_after_s=60.0, is_loaded=False, kv_untagged_bytes=None, keeps_cached=False, by_hand=False)"
    )]
    fn follow(
        &self,
        py: Python<'_>,
        gate: &Bound<'_, PyAny>,
        plan: &Bound<'_, PyAny>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Follow> {
        guarded(|| Follow::start(py, &self.inner, gate, plan, keywords))
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

    const fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Stops the session. What the block raised passes, and a flush that took too long is warned of:
    /// the snapshot then says what is missing.
    #[pyo3(signature = (_kind=None, _error=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _error: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        guarded(|| {
            if let Err(error) = py.detach(|| self.inner.stop(STOP_MAX)) {
                let text = std::ffi::CString::new(error.to_string()).unwrap_or_default();
                PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1)?;
            }
            Ok(false)
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
