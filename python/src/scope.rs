//! `_Mark` and `_Open`: what `memvelope.profile` is made of.
//!
//! The interpreter lock stays with the thread while a scope is entered or left: CUPTI is asked to put
//! a number on a stack that it keeps for each thread, or to take it off, which waits for nobody. To
//! give the lock up and get it back costs more, and where other threads want it up to the interpreter's
//! switch interval, 5 ms. The first scope of a recording, for which CUPTI switches records on one by
//! one, is prepared without it.

use crate::errors::guarded;
use memvelope::event::TraceContext;
use memvelope::runtime::{OpenScope, ScopeName, Session};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyString};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Where the scopes of a mark belong.
enum Trace {
    None,
    Known(TraceContext),
    /// A client's header, read when the first scope opens, and counted once if it makes no sense.
    Header(String, OnceLock<Option<TraceContext>>),
}

impl Trace {
    fn context(&self) -> Option<TraceContext> {
        match self {
            Self::None => None,
            Self::Known(context) => Some(*context),
            Self::Header(text, read) => *read.get_or_init(|| TraceContext::from_header(text)),
        }
    }
}

/// A name for stretches of host time, which are scopes: entered by `with`, or opened.
#[pyclass(frozen, subclass, module = "memvelope._native", name = "_Mark")]
pub(crate) struct Mark {
    name: OnceLock<Py<PyString>>,
    /// The same as the library keeps it, from the first scope on.
    kept: OnceLock<ScopeName>,
    trace: Trace,
    /// Innermost last, of all threads and tasks that are in a `with` of this object.
    entered: Mutex<Vec<Entered>>,
}

struct Entered {
    thread: u64,
    task: u64,
    /// `None`: nothing was recorded when it was entered.
    open: Option<OpenScope>,
    is_inside: bool,
}

#[pymethods]
impl Mark {
    #[new]
    #[pyo3(signature = (name=None, trace_id=None, *, traceparent=None))]
    fn new(
        name: Option<&Bound<'_, PyAny>>,
        trace_id: Option<&Bound<'_, PyAny>>,
        traceparent: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        guarded(|| {
            let mark = Self {
                name: OnceLock::new(),
                kept: OnceLock::new(),
                trace: match (trace_id, traceparent) {
                    (None, None) => Trace::None,
                    (Some(id), None) => Trace::Known(trace_of(id)?),
                    (None, Some(header)) => Trace::Header(header_text(header)?, OnceLock::new()),
                    (Some(_), Some(_)) => {
                        let text = "trace_id and traceparent both name a trace: give one of them";
                        return Err(PyValueError::new_err(text));
                    }
                },
                entered: Mutex::default(),
            };
            if let Some(name) = name {
                mark.set_name(name)?;
            }
            Ok(mark)
        })
    }

    /// The name; `None` while it has none.
    #[getter]
    fn name(&self, py: Python<'_>) -> Option<Py<PyString>> {
        self.name.get().map(|name| name.clone_ref(py))
    }

    /// The trace that its scopes belong to, as 32 hexadecimal digits; `None` without one, and where
    /// the header could not be read.
    #[getter]
    fn trace_id(&self) -> Option<String> {
        self.trace.context().map(|context| format!("{:032x}", context.trace_id))
    }

    /// Gives it a name, if it has none.
    fn _name_it(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        guarded(|| self.set_name(name))
    }

    /// Opens a scope to be entered step by step; `None` where nothing is recorded.
    fn _open(&self, py: Python<'_>) -> PyResult<Option<Open>> {
        guarded(|| {
            let open = self.open(py)?;
            Ok(open.map(Open::new))
        })
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        guarded(|| {
            let (py, mark) = (slf.py(), slf.get());
            let open = mark.open(py)?;
            let task = if open.is_some() { current_task(py)? } else { 0 };
            let is_inside = open.as_ref().is_some_and(|open| open.enter(task));
            let mut entered = mark.entered();
            if entered.capacity() == 0 {
                // Mostly it is the only one.
                entered.reserve_exact(1);
            }
            entered.push(Entered { thread: thread_key(), task, open, is_inside });
            drop(entered);
            Ok(slf)
        })
    }

    #[pyo3(signature = (_kind=None, _error=None, _traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _error: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        guarded(|| {
            // Ended after the lock on the list is gone.
            let Some(left) = self.last_entered(py)? else {
                return Err(PyRuntimeError::new_err(
                    "leaving a profile that was not entered\nhint: use it in `with`",
                ));
            };
            if let Some(open) = left.open.filter(|_| left.is_inside) {
                open.leave(left.task);
            }
            Ok(false)
        })
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        match self.name.get() {
            Some(name) => format!("<memvelope.Profile {:?}>", name.bind(py).to_string_lossy()),
            None => "<memvelope.Profile without a name>".into(),
        }
    }
}

impl Mark {
    fn set_name(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        let Ok(text) = name.cast::<PyString>() else {
            let found = name.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "profile(): expected a name (a str) or a function, not {found}"
            )));
        };
        self.name.get_or_init(|| text.clone().unbind());
        Ok(())
    }

    fn entered(&self) -> MutexGuard<'_, Vec<Entered>> {
        // Every statement leaves the list consistent.
        self.entered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, py: Python<'_>) -> PyResult<Option<OpenScope>> {
        let Some(name) = self.name.get() else {
            return Err(PyTypeError::new_err(
                "a profile needs a name\nhint: memvelope.profile(\"prefill\")",
            ));
        };
        let Some(session) = Session::recording() else { return Ok(None) };
        // Lone surrogates are no text of Rust's; a name is only ever shown.
        let name = self.kept.get_or_init(|| ScopeName::new(&name.bind(py).to_string_lossy()));
        if session.is_scope_pending() {
            py.detach(|| session.prepare_scopes());
        }
        Ok(session.open_scope(name, self.trace.context()))
    }

    /// What this thread and task entered last; what anybody entered last if that is nothing, as when
    /// a generator goes on in another thread.
    fn last_entered(&self, py: Python<'_>) -> PyResult<Option<Entered>> {
        let here = thread_key();
        let is_shared = self.entered().len() > 1;
        let task = if is_shared { current_task(py)? } else { 0 };
        let mut entered = self.entered();
        let last = |is_mine: &dyn Fn(&Entered) -> bool| entered.iter().rposition(is_mine);
        let at = last(&|it| it.thread == here && it.task == task)
            .or_else(|| last(&|it| it.thread == here))
            .or_else(|| entered.len().checked_sub(1));
        Ok(at.map(|at| entered.remove(at)))
    }
}

/// A scope that is open, entered around each step of a coroutine or generator.
#[pyclass(frozen, module = "memvelope._native", name = "_Open")]
pub(crate) struct Open {
    /// Copied out of its lock before it is used: that calls CUPTI.
    open: Mutex<Option<Arc<OpenScope>>>,
    /// Whose step it is in, plus 1; 0 outside.
    task: AtomicU64,
}

#[pymethods]
impl Open {
    /// A step begins.
    fn enter(&self, py: Python<'_>) -> PyResult<()> {
        guarded(|| {
            let task = current_task(py)?;
            let is_inside = self.scope().is_some_and(|open| open.enter(task));
            self.task.store(if is_inside { task + 1 } else { 0 }, Ordering::Relaxed);
            Ok(())
        })
    }

    /// A step is over. Blocks that it entered and did not leave come back with the next.
    fn leave(&self) -> PyResult<()> {
        guarded(|| {
            let inside = self.task.swap(0, Ordering::Relaxed);
            if let (Some(open), Some(task)) = (self.scope(), inside.checked_sub(1)) {
                open.suspend(task);
            }
            Ok(())
        })
    }

    /// The scope is over. A second call changes nothing.
    fn end(&self) -> PyResult<()> {
        guarded(|| {
            // Taken first, dropped after: nothing runs under our lock.
            let open = self.lock().take();
            drop(open);
            Ok(())
        })
    }
}

impl Open {
    fn new(open: OpenScope) -> Self {
        Self { open: Mutex::new(Some(Arc::new(open))), task: AtomicU64::new(0) }
    }

    fn scope(&self) -> Option<Arc<OpenScope>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OpenScope>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trace id as programs have it.
fn trace_of(id: &Bound<'_, PyAny>) -> PyResult<TraceContext> {
    let number = if let Ok(text) = id.cast::<PyString>() {
        let text = text.to_string_lossy();
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| u128::from_str_radix(&text, 16).ok()).flatten()
    } else if let Ok(bytes) = id.cast::<PyBytes>() {
        <[u8; 16]>::try_from(bytes.as_bytes()).ok().map(u128::from_be_bytes)
    } else if id.is_instance_of::<PyInt>() && !id.is_instance_of::<PyBool>() {
        id.extract::<u128>().ok()
    } else {
        let found = id.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "trace_id: expected a str, bytes or an int, not {found}"
        )));
    };
    number.and_then(TraceContext::of_trace).ok_or_else(|| {
        let shown = id.repr().map_or_else(|_| "?".into(), |text| text.to_string());
        PyValueError::new_err(format!(
            "trace_id={shown} is no trace id: expected 32 hexadecimal digits, 16 bytes or an int \
             from 1 to 2**128 - 1, and not all of it zero"
        ))
    })
}

/// A header as frameworks have it: text, or the bytes that came.
fn header_text(header: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(text) = header.cast::<PyString>() {
        return Ok(text.to_string_lossy().into_owned());
    }
    match header.cast::<PyBytes>() {
        Ok(bytes) => Ok(String::from_utf8_lossy(bytes.as_bytes()).into_owned()),
        Err(_) => {
            let found = header.get_type().name()?;
            Err(PyTypeError::new_err(format!("traceparent: expected a str or bytes, not {found}")))
        }
    }
}

/// A number of the calling thread's own while it lives.
fn thread_key() -> u64 {
    thread_local! {
        static PLACE: Cell<u8> = const { Cell::new(0) };
    }
    PLACE.with(|place| std::ptr::from_ref(place) as u64)
}

/// A number of the asyncio task that runs on this thread; 0 without one.
fn current_task(py: Python<'_>) -> PyResult<u64> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    static ASYNCIO: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    if ASYNCIO.get(py).is_none() {
        let modules = MODULES.get_or_try_init(py, || -> PyResult<Py<PyDict>> {
            let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
            Ok(modules.cast_into::<PyDict>()?.unbind())
        })?;
        // Whoever runs a loop has imported it; and where it is half imported, nobody runs one yet.
        let Some(asyncio) = modules.bind(py).get_item(intern!(py, "asyncio"))? else {
            return Ok(0);
        };
        let running = asyncio.getattr(intern!(py, "_get_running_loop"));
        let current = asyncio.getattr(intern!(py, "current_task"));
        let (Ok(running), Ok(current)) = (running, current) else { return Ok(0) };
        // Another thread may have been faster, with the same two.
        let _ = ASYNCIO.set(py, (running.unbind(), current.unbind()));
    }
    let Some((running, current)) = ASYNCIO.get(py) else { return Ok(0) };
    let event_loop = running.bind(py).call0()?;
    if event_loop.is_none() {
        return Ok(0);
    }
    let task = current.bind(py).call1((event_loop,))?;
    Ok(if task.is_none() { 0 } else { task.as_ptr() as u64 })
}
