//! `Envelope` and its terms.

use crate::convert::{amount, optional_amount, small_amount};
use crate::document::config_text;
use crate::errors::{guarded, internal, raised};
use memvelope::envelope::{self, Declared, Origin};
use memvelope::model::Layout;
use memvelope::units::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;

/// One line of the capacity equation.
#[pyclass(frozen, eq, get_all, module = "memvelope")]
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Term {
    /// Which term.
    name: String,
    /// Bytes, signed; `None` is absent, which is not zero.
    bytes: Option<i64>,
    /// `measured`, `derived` or `assumed`.
    origin: String,
    /// One sentence on how the number came about.
    note: String,
}

#[pymethods]
impl Term {
    fn __repr__(&self) -> String {
        let bytes = self.bytes.map_or_else(|| "None".to_owned(), |bytes| bytes.to_string());
        format!("<memvelope.Term {} bytes={bytes} origin={}>", self.name, self.origin)
    }
}

/// The capacity equation of one device, term by term.
#[pyclass(frozen, eq, module = "memvelope")]
#[derive(PartialEq)]
pub(crate) struct Envelope {
    inner: envelope::Envelope,
}

impl Envelope {
    pub(crate) const fn inner(&self) -> &envelope::Envelope {
        &self.inner
    }
}

impl From<envelope::Envelope> for Envelope {
    fn from(inner: envelope::Envelope) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl Envelope {
    /// Plans the memory of a device of `total_bytes` for a model, before anything runs.
    ///
    /// `config` is a Hugging Face `config.json`: a path to it (or to its directory), its text, or
    /// the dict in it. Every `_bytes` that is not declared has the default that its term's note
    /// states.
    ///
    /// Raises `ReadFileError`, `ReadModelError`, `UnknownModelError` or `NoRoomError`.
    #[staticmethod]
    #[pyo3(signature = (
        config, total_bytes, *, block_tokens=None, activations_bytes=None, context_bytes=None,
        runtime_reserve_bytes=None, safety_reserve_bytes=None
    ))]
    #[pyo3(
        text_signature = "(config, total_bytes, *, block_tokens=16, activations_bytes=None, context_bytes=None, runtime_reserve_bytes=None, safety_reserve_bytes=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python, where they are named")]
    fn plan(
        py: Python<'_>,
        config: &Bound<'_, PyAny>,
        total_bytes: &Bound<'_, PyAny>,
        block_tokens: Option<&Bound<'_, PyAny>>,
        activations_bytes: Option<&Bound<'_, PyAny>>,
        context_bytes: Option<&Bound<'_, PyAny>>,
        runtime_reserve_bytes: Option<&Bound<'_, PyAny>>,
        safety_reserve_bytes: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        guarded(|| {
            let bytes = |name: &str, object| -> PyResult<Option<Bytes>> {
                Ok(optional_amount(name, "bytes", object)?.map(Bytes))
            };
            let mut declared = Declared::default();
            if let Some(object) = block_tokens {
                declared.block_tokens = small_amount("block_tokens", "tokens", object)?;
            }
            if declared.block_tokens == 0 {
                let text = "block_tokens=0: a block holds at least one token";
                return Err(PyValueError::new_err(text));
            }
            declared.activations = bytes("activations_bytes", activations_bytes)?;
            declared.context = bytes("context_bytes", context_bytes)?;
            declared.runtime_reserve = bytes("runtime_reserve_bytes", runtime_reserve_bytes)?;
            declared.safety_reserve = bytes("safety_reserve_bytes", safety_reserve_bytes)?;
            let total = Bytes(amount("total_bytes", "bytes", total_bytes)?);
            let text = config_text(config)?;
            let inner = Layout::from_config(&text)
                .and_then(|layout| envelope::Envelope::plan(total, &layout, &declared))
                .map_err(|error| raised(py, &error))?;
            Ok(Self { inner })
        })
    }

    /// The terms in the order of the equation.
    #[getter]
    fn terms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        guarded(|| {
            let terms = self.inner.terms.iter().map(|term| {
                Ok(Term {
                    name: word(&term.name)?,
                    bytes: term.bytes,
                    origin: origin_name(term.origin).to_owned(),
                    note: term.note.clone(),
                })
            });
            PyList::new(py, terms.collect::<PyResult<Vec<_>>>()?)
        })
    }

    /// Bytes for the KV cache.
    #[getter]
    const fn kv_capacity_bytes(&self) -> u64 {
        self.inner.kv_capacity_bytes.0
    }

    /// The same in whole blocks.
    #[getter]
    const fn kv_capacity_blocks(&self) -> u64 {
        self.inner.kv_capacity_blocks.0
    }

    /// Bytes of a block.
    #[getter]
    const fn block_bytes(&self) -> u64 {
        self.inner.block_bytes.0
    }

    /// Tokens a block holds; the fewest, where layers have blocks of several sizes.
    #[getter]
    const fn block_tokens(&self) -> u32 {
        self.inner.curve.block_tokens()
    }

    /// Everything above as one JSON object.
    fn to_json(&self) -> PyResult<String> {
        guarded(|| {
            serde_json::to_string(&self.inner)
                .map_err(|error| internal(format!("an envelope did not serialize: {error}")))
        })
    }

    fn __str__(&self) -> PyResult<String> {
        guarded(|| Ok(self.inner.to_string()))
    }

    fn __repr__(&self) -> String {
        format!(
            "<memvelope.Envelope kv_capacity_bytes={} kv_capacity_blocks={} block_bytes={}>",
            self.inner.kv_capacity_bytes.0,
            self.inner.kv_capacity_blocks.0,
            self.inner.block_bytes.0
        )
    }
}

const fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Measured => "measured",
        Origin::Derived => "derived",
        Origin::Assumed => "assumed",
    }
}

/// The name under which a plain enum value serializes.
pub(crate) fn word(value: &impl serde::Serialize) -> PyResult<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        other => Err(internal(format!("a name serialized as {other:?}"))),
    }
}
