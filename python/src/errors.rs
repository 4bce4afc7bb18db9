//! One exception a kind of error, all under `MemvelopeError`, and panics made into one of them.

use crate::convert::from_json;
use memvelope::Error;
use memvelope::admission::{PastMaximum as PastMaximumValue, Reason, Rejection};
use memvelope::model::Refusal;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::{PyTypeInfo, create_exception};
use serde_json::{Value, json};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

create_exception!(memvelope, MemvelopeError, PyException, "Base of all errors of memvelope.");

macro_rules! kinds {
    ($($name:ident, $doc:literal;)*) => {
        $(create_exception!(memvelope, $name, MemvelopeError, $doc);)*
    };
}

kinds! {
    LoadLibraryError, "No candidate for a library could be opened: library, tried, hint.";
    MissingSymbolError, "A library lacks a function: library, symbol, hint.";
    DriverCallError, "A CUDA driver call returned an error: call, code, name.";
    CuptiCallError, "A CUPTI call returned an error: call, code, name, hint.";
    NvmlCallError, "An NVML call failed: call, problem.";
    SessionExistsError, "A session is already running in this process.";
    StartThreadError, "A thread could not be started: thread.";
    FlushTimeoutError, "The drain thread did not finish in time: waited_ms.";
    ReadConfigError, "A configuration value is unusable: key, value, expected.";
    ReadModelError, "A model description is unusable: field, problem.";
    ReadAllocatorError, "What a caching allocator tells does not hold together: place, problem.";
    UnknownModelError, "A model family that cannot be computed: field, found, similar, known.";
    NoRoomError, "Nothing is left for the KV cache: total_bytes, taken_bytes, hint.";
    ConfigureGateError, "A gate was asked for with unusable arguments: argument, problem.";
    ReadFileError, "Reading a file failed: path, errno.";
    WriteFileError, "Writing a file failed: path, errno.";
    InternalError, "A bug in memvelope, caught at the edge.";
    PlanRefused, "An engine would not start with a plan: rule, reason.";
    Rejected, "A request was not admitted: reason, short_by_tokens, retry_after_s, retry_after_ns.";
    PastMaximum, "A lease is at its declared maximum: max_tokens, past_by_tokens.";
    LeaseReleased, "A lease was grown after its release.";
}

/// Runs an entry of the module. A panic of ours becomes an [`InternalError`], because PyO3's own
/// `PanicException` passes every `except Exception` and would end the host's thread.
///
/// # Errors
/// Those of `entry`, and [`InternalError`].
#[inline]
pub(crate) fn guarded<T>(entry: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    // Unwind safety: what an entry shares is the library's own state, whose invariants hold at
    // every point where its code can unwind; the arguments are dropped.
    catch_unwind(AssertUnwindSafe(entry)).unwrap_or_else(|panic| Err(internal(panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// An [`InternalError`] that says whose bug it is.
pub(crate) fn internal(problem: impl std::fmt::Display) -> PyErr {
    InternalError::new_err(format!("a bug in memvelope, not in the caller: {problem}"))
}

/// The exception of an error, with the error's fields as attributes.
pub(crate) fn raised(py: Python<'_>, error: &Error) -> PyErr {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    match error {
        Error::LoadLibrary { library, tried, hint } => make::<LoadLibraryError>(
            py,
            text,
            &[("library", json!(library)), ("tried", json!(tried)), ("hint", json!(hint))],
        ),
        Error::MissingSymbol { library, symbol, hint } => make::<MissingSymbolError>(
            py,
            text,
            &[("library", json!(library)), ("symbol", json!(symbol)), ("hint", json!(hint))],
        ),
        Error::DriverCall { call, code, name } => make::<DriverCallError>(
            py,
            text,
            &[("call", json!(call)), ("code", json!(code)), ("name", json!(name))],
        ),
        Error::CuptiCall { call, code, name, hint } => make::<CuptiCallError>(
            py,
            text,
            &[
                ("call", json!(call)),
                ("code", json!(code)),
                ("name", json!(name)),
                ("hint", json!(hint)),
            ],
        ),
        Error::NvmlCall { call, problem } => {
            make::<NvmlCallError>(py, text, &[("call", json!(call)), ("problem", json!(problem))])
        }
        _ => raised_by_us(py, error, text),
    }
}

/// [`raised`], for the errors that no foreign library caused.
fn raised_by_us(py: Python<'_>, error: &Error, text: String) -> PyErr {
    match error {
        Error::SessionExists => make::<SessionExistsError>(py, text, &[]),
        Error::StartThread { thread, .. } => {
            make::<StartThreadError>(py, text, &[("thread", json!(thread))])
        }
        Error::FlushTimeout { waited_ms } => {
            make::<FlushTimeoutError>(py, text, &[("waited_ms", json!(waited_ms))])
        }
        Error::ReadConfig { key, value, expected } => make::<ReadConfigError>(
            py,
            text,
            &[("key", json!(key)), ("value", json!(value)), ("expected", json!(expected))],
        ),
        Error::ReadModel { field, problem } => make::<ReadModelError>(
            py,
            text,
            &[("field", json!(field)), ("problem", json!(problem))],
        ),
        Error::ReadAllocator { place, problem } => make::<ReadAllocatorError>(
            py,
            text,
            &[("place", json!(place)), ("problem", json!(problem))],
        ),
        Error::UnknownModel { field, found, similar, known } => make::<UnknownModelError>(
            py,
            text,
            &[
                ("field", json!(field)),
                ("found", json!(found)),
                ("similar", json!(similar)),
                ("known", json!(known)),
            ],
        ),
        Error::NoRoom { total_bytes, taken_bytes, hint } => make::<NoRoomError>(
            py,
            text,
            &[
                ("total_bytes", json!(total_bytes)),
                ("taken_bytes", json!(taken_bytes)),
                ("hint", json!(hint)),
            ],
        ),
        Error::ConfigureGate { argument, problem } => make::<ConfigureGateError>(
            py,
            text,
            &[("argument", json!(argument)), ("problem", json!(problem))],
        ),
        Error::ReadFile { path, source } => {
            make::<ReadFileError>(py, text, &file_fields(path, source))
        }
        Error::WriteFile { path, source } => {
            make::<WriteFileError>(py, text, &file_fields(path, source))
        }
        // The enum may grow: a kind without an exception of its own is still ours.
        _ => MemvelopeError::new_err(text),
    }
}

fn file_fields(path: &std::path::Path, source: &std::io::Error) -> [(&'static str, Value); 2] {
    [("path", json!(path.to_string_lossy())), ("errno", json!(source.raw_os_error()))]
}

fn make<E: PyTypeInfo>(py: Python<'_>, text: String, fields: &[(&str, Value)]) -> PyErr {
    let error = PyErr::from_type(py.get_type::<E>(), text);
    for (name, value) in fields {
        let set = from_json(py, value).and_then(|value| error.value(py).setattr(*name, value));
        if let Err(problem) = set {
            return problem;
        }
    }
    error
}

/// The exception of a rejection.
pub(crate) fn rejected(py: Python<'_>, rejection: &Rejection) -> PyErr {
    let after_s = rejection.retry_after.map(|after| after.to_duration().as_secs_f64());
    let fields = [
        ("reason", json!(rejection.reason.label())),
        ("short_by_tokens", json!(rejection.short_by_tokens)),
        ("retry_after_ns", json!(rejection.retry_after)),
        ("retry_after_s", json!(after_s)),
    ];
    make::<Rejected>(py, rejection_text(rejection), &fields)
}

fn rejection_text(rejection: &Rejection) -> String {
    let mut text = rejection.reason.label().to_owned();
    if let Some(advice) = advice(rejection.reason) {
        text = format!("{text}: {advice}");
    }
    if rejection.short_by_tokens.0 > 0 {
        text = format!("{text}: short by {}", rejection.short_by_tokens);
    }
    match rejection.retry_after {
        Some(after) => format!("{text}, retry after {after}"),
        None => text,
    }
}

/// What a caller should know who meets the reason for the first time. Where tokens are short, the
/// amount says it.
const fn advice(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::BadTokenCount => Some("token counts are ints of at least 1 and below 2**63"),
        Reason::UnknownPool => Some("the gate was made without a pool of this name"),
        Reason::Overcommitted => {
            Some("the budget shrank below what is in use or asked for; leases must end")
        }
        Reason::Predicted => Some("what runs already is expected to need the room"),
        Reason::Queued => Some("others wait in the queue and come first; wait_admit joins them"),
        Reason::QueueFull => Some("as many wait as may; send it to another replica"),
        Reason::Expired => Some("its time was up before there was room"),
        Reason::Cancelled => Some("its place in the queue was given up"),
        Reason::TooManyLeases => Some("there are as many leases as leases_max says"),
        Reason::Forked => {
            Some("this process was forked off the gate's; make a gate of its own after the fork")
        }
        Reason::NoCapacity | Reason::TooLong => None,
    }
}

/// The exception of a lease at its maximum.
pub(crate) fn past_maximum(py: Python<'_>, past: &PastMaximumValue) -> PyErr {
    let fields =
        [("max_tokens", json!(past.max_tokens)), ("past_by_tokens", json!(past.past_by_tokens))];
    make::<PastMaximum>(py, past.to_string(), &fields)
}

/// The exception of a plan with which the engine would not start.
pub(crate) fn refused(py: Python<'_>, refusal: &Refusal) -> PyErr {
    let fields = [("rule", json!(refusal.rule)), ("reason", json!(refusal.reason))];
    make::<PlanRefused>(py, refusal.reason.clone(), &fields)
}
