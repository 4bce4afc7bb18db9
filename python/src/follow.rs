//! `Follow`: a gate that follows the measured envelope.

use crate::convert::{amount, plain, small_amount};
use crate::document::config_text;
use crate::envelope::Envelope;
use crate::errors::{guarded, raised, refused};
use crate::gate::Gate;
use crate::plan::Plan;
use memvelope::envelope::{self, Declared};
use memvelope::event::DeviceIndex;
use memvelope::model::Layout;
use memvelope::runtime::{self, FollowConfig, Session};
use memvelope::units::{Blocks, Bytes, Nanos};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A gate follows the measured envelope as long as this is kept; made by `Session.follow`. Leaving it
/// as a `with` block, or `stop()`, ends it, and the gate keeps what it has then.
#[pyclass(frozen, module = "memvelope")]
pub(crate) struct Follow {
    inner: runtime::Follow,
}

impl Follow {
    pub(crate) fn start(
        py: Python<'_>,
        session: &Session,
        gate: &Bound<'_, PyAny>,
        plan: &Bound<'_, PyAny>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let Ok(gate) = gate.cast::<Gate>() else {
            let found = gate.get_type().name()?;
            let text = format!("gate: expected a memvelope.Gate, not {found}");
            return Err(PyTypeError::new_err(text));
        };
        let (config, by_hand) = config(py, session, plan, keywords)?;
        let gate = gate.get().inner().clone();
        // Reads a snapshot, and may wake who waits at the gate: both without the interpreter lock.
        let follow = py.detach(|| match by_hand {
            true => Ok(session.follow_by_hand(&gate, config)),
            false => session.follow(&gate, config),
        });
        follow.map(|inner| Self { inner }).map_err(|error| raised(py, &error))
    }
}

#[pymethods]
impl Follow {
    /// Where it stands, as a dict: `capacity_blocks` in force, `budget_blocks`, `measured_blocks` of
    /// the last reading (`None`: nothing could be measured, and `problem` says why), `kv_bytes`,
    /// `good_blocks`, `why` it changed or did not, and counts of `readings`, `torn` ones and
    /// `changes`.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.status()))
    }

    /// Takes what was measured last now rather than at the next poll, and returns `status()`.
    /// `Session.sample()` before it asks the device anew.
    fn update<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &py.detach(|| self.inner.update())))
    }

    /// Ends it; the gate keeps its capacity.
    fn stop(&self) -> PyResult<()> {
        guarded(|| {
            self.inner.stop();
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
        self.stop()?;
        Ok(false)
    }
}

/// What is followed, and whether by hand.
fn config(
    py: Python<'_>,
    session: &Session,
    plan: &Bound<'_, PyAny>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<(FollowConfig, bool)> {
    let mut device = DeviceIndex(0);
    let given = keywords.map(|keywords| keywords.get_item("device")).transpose()?.flatten();
    if let Some(ordinal) = given {
        device = DeviceIndex(small_amount("device", "ordinal", &ordinal)?);
    }
    let mut config = planned(py, session, plan, device)?;
    config.device = device;
    let by_hand = settings(&mut config, keywords)?;
    Ok((config, by_hand))
}

/// From a plan, an envelope, or a model's config.
fn planned(
    py: Python<'_>,
    session: &Session,
    plan: &Bound<'_, PyAny>,
    device: DeviceIndex,
) -> PyResult<FollowConfig> {
    if let Ok(plan) = plan.cast::<Plan>() {
        let plan = plan.get().inner();
        if let Some(refusal) = &plan.refused {
            return Err(refused(py, refusal));
        }
        return FollowConfig::of_plan(plan).map_err(|error| raised(py, &error));
    }
    if let Ok(envelope) = plan.cast::<Envelope>() {
        return Ok(FollowConfig::new(envelope.get().inner().clone()));
    }
    let text = config_text(plan)?;
    let snapshot = py.detach(|| session.snapshot());
    let total = snapshot.device(device).and_then(|device| device.total_bytes).ok_or_else(|| {
        PyValueError::new_err(format!(
            "plan: the memory of device {} is not known yet, so that a config cannot be planned \
             for it; give a memvelope.Plan or a memvelope.Envelope",
            device.0
        ))
    })?;
    Layout::from_config(&text)
        .and_then(|layout| envelope::Envelope::plan(total, &layout, &Declared::default()))
        .map(FollowConfig::new)
        .map_err(|error| raised(py, &error))
}

/// Takes the keywords; whether it is to be followed by hand.
fn settings(config: &mut FollowConfig, keywords: Option<&Bound<'_, PyDict>>) -> PyResult<bool> {
    let mut by_hand = false;
    for (key, value) in keywords.into_iter().flat_map(|keywords| keywords.iter()) {
        let key = key.extract::<String>()?;
        let blocks = || Ok::<_, PyErr>(Blocks(amount(&key, "blocks", &value)?));
        match &*key {
            "device" => {}
            "budget_blocks" | "rise_blocks" | "kv_untagged_bytes" if value.is_none() => {}
            "budget_blocks" => config.budget = blocks()?,
            "floor_blocks" => config.settings.floor = blocks()?,
            "rise_blocks" => config.settings.rise = Some(blocks()?),
            "rise_readings" => {
                config.settings.rise_readings = small_amount(&key, "readings", &value)?;
            }
            "rise_after_s" => config.settings.rise_after = seconds(&value)?,
            "kv_untagged_bytes" => {
                config.declared.kv_untagged = Some(Bytes(amount(&key, "bytes", &value)?));
            }
            "is_loaded" => config.declared.is_loaded = value.is_truthy()?,
            "keeps_cached" => config.declared.keeps_cached = value.is_truthy()?,
            "by_hand" => by_hand = value.is_truthy()?,
            _ => {
                let text = format!("follow() got an unexpected keyword argument '{key}'");
                return Err(PyTypeError::new_err(text));
            }
        }
    }
    Ok(by_hand)
}

fn seconds(value: &Bound<'_, PyAny>) -> PyResult<Nanos> {
    let seconds = value.extract::<f64>()?;
    let duration = std::time::Duration::try_from_secs_f64(seconds).map_err(|problem| {
        PyValueError::new_err(format!(
            "rise_after_s={seconds} is not a number of seconds: {problem}"
        ))
    })?;
    Ok(Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
}
