//! The floor of `benches/python_gate.py`: what two calls into an extension class cost when they do
//! nothing. Private, and measured in the same run as the gate.

use pyo3::prelude::*;

/// An object whose methods do nothing.
#[pyclass(frozen, module = "memvelope._native", name = "_EmptyCall")]
pub(crate) struct Floor;

#[pymethods]
impl Floor {
    #[new]
    const fn new() -> Self {
        Self
    }

    /// Does nothing.
    #[expect(clippy::unused_self, reason = "the call through an instance is what is measured")]
    const fn call(&self) {}
}
