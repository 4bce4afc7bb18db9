//! A place in the queue, for `_wait.py`, and who is to be woken.
#![expect(unsafe_code, reason = "a pending exception must survive a call made from a destructor")]

use crate::errors::{guarded, internal, rejected};
use crate::lease::Lease;
use memvelope::admission;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::{ffi, prelude::*};
use std::sync::Arc;
use std::task::{Wake, Waker};

/// A place in the queue of a gate. Private: `Gate.wait_admit` is its face.
///
/// Not frozen, as [`Lease`]: the ticket is taken out for a call, since giving a place up may wake
/// others, which runs Python code.
#[pyclass(module = "memvelope._native", name = "_Ticket")]
pub(crate) struct Ticket {
    inner: Option<admission::Ticket>,
}

impl Ticket {
    pub(crate) const fn new(inner: admission::Ticket) -> Self {
        Self { inner: Some(inner) }
    }
}

#[pymethods]
impl Ticket {
    /// The lease, if it is there. Else `wake` is called, once and on any thread, when there is
    /// something to take. Raises `Rejected`.
    fn take(slf: &Bound<'_, Self>, wake: Py<PyAny>) -> PyResult<Option<Lease>> {
        guarded(|| {
            let Some(mut ticket) = slf.try_borrow_mut()?.inner.take() else {
                return Err(internal("a ticket was used after its end"));
            };
            let waker = Waker::from(Arc::new(PyWaker { wake }));
            match ticket.try_take(&waker) {
                Some(Ok(lease)) => Ok(Some(Lease::new(lease))),
                Some(Err(rejection)) => Err(rejected(slf.py(), &rejection)),
                None => {
                    slf.try_borrow_mut()?.inner = Some(ticket);
                    Ok(None)
                }
            }
        })
    }

    /// Its time is up. The lease, if it came in the meantime; else raises `Rejected`.
    fn expire(slf: &Bound<'_, Self>) -> PyResult<Lease> {
        guarded(|| {
            let Some(ticket) = slf.try_borrow_mut()?.inner.take() else {
                return Err(internal("a ticket was used after its end"));
            };
            ticket.expire().map(Lease::new).map_err(|rejection| rejected(slf.py(), &rejection))
        })
    }

    /// Gives the place up; a lease that nobody took is released.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        guarded(|| {
            let ticket = slf.try_borrow_mut()?.inner.take();
            drop(ticket);
            Ok(())
        })
    }
}

/// Calls a Python object, from whichever thread gives blocks back. The library wakes when no lock
/// of its own is held.
struct PyWaker {
    wake: Py<PyAny>,
}

impl Wake for PyWaker {
    fn wake(self: Arc<Self>) {
        // There is none any more at the end of the process, and then nobody waits either.
        let _ = Python::try_attach(|py| {
            let _pending = Pending::put_aside(py);
            if let Err(error) = self.wake.call0(py) {
                report(py, error);
            }
        });
    }
}

/// The exception that is on its way while a lease is dropped, which a call must not see.
struct Pending<'py>(Option<PyErr>, Python<'py>);

impl<'py> Pending<'py> {
    fn put_aside(py: Python<'py>) -> Self {
        // SAFETY: the thread is attached, as `py` proves; the call only looks.
        let is_pending = !unsafe { ffi::PyErr_Occurred() }.is_null();
        Self(is_pending.then(|| PyErr::fetch(py)), py)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(error) = self.0.take() {
            error.restore(self.1);
        }
    }
}

/// A wake has nobody to raise to.
fn report(py: Python<'_>, error: PyErr) {
    let is_ending = || py.import("sys")?.call_method0("is_finalizing")?.extract::<bool>();
    if error.is_instance_of::<PyKeyboardInterrupt>(py) {
        // Ctrl-C arrived in here by chance: it is handed to the main thread again.
        // SAFETY: the thread is attached; the call marks a signal as arrived.
        unsafe { ffi::PyErr_SetInterrupt() };
    } else if !is_ending().unwrap_or(true) {
        error.write_unraisable(py, None);
    }
}
