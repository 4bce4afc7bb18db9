//! The running session and the allocator's plane: one epoch of both.

use super::Framework;
use crate::errors::guarded;
use memvelope::event::DeviceIndex;
use memvelope::runtime::Session;
use pyo3::prelude::*;

/// Reads the planes of a device together, with what `read()` tells of the allocator, which may be
/// asked several times. Returns what it told last; `None` where no session asked it. What it raised
/// last is raised.
#[pyfunction]
pub(crate) fn _torch_epoch(
    py: Python<'_>,
    device: u32,
    read: Py<PyAny>,
) -> PyResult<Option<Py<Framework>>> {
    guarded(|| {
        let Some(session) = Session::current() else { return Ok(None) };
        let mut last: Option<PyResult<Py<Framework>>> = None;
        // The session takes locks of its own and asks the driver: not with the interpreter held.
        py.detach(|| {
            let mut ask = || {
                Python::attach(|py| {
                    let told = read.bind(py).call0();
                    let told = told.and_then(|told| Ok(told.cast_into::<Framework>()?));
                    let framework = told.as_ref().ok().map(|told| told.get().inner.clone());
                    last = Some(told.map(Bound::unbind));
                    framework
                })
            };
            session.read_epoch(DeviceIndex(device), Some(&mut ask))
        });
        last.transpose()
    })
}

/// Tells the running session what the allocator holds, where it could not ask by itself.
#[pyfunction]
pub(crate) fn _torch_accept(py: Python<'_>, framework: &Bound<'_, Framework>) -> PyResult<()> {
    guarded(|| {
        let told = framework.get().inner.clone();
        py.detach(|| {
            if let Some(session) = Session::current() {
                session.accept_framework(told);
            }
        });
        Ok(())
    })
}
