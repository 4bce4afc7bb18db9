//! Values across the edge: token and byte counts in, plain Python objects out.
#![expect(unsafe_code, reason = "one C call: the only fast integer conversion in the stable ABI")]

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::types::{PyDict, PyList};
use pyo3::{IntoPyObjectExt, ffi, prelude::*};
use serde::Serialize;
use serde_json::Value;

/// The integer that an object stands for (`__index__`), if it is one and lies in `0..2^63`.
///
/// # Errors
/// Whatever a foreign `__index__` raised, other than a `TypeError`.
#[inline]
pub(crate) fn count(object: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    let mut overflow = 0;
    // SAFETY: `object` is a live reference, held by the caller for the call, and the thread is
    // attached to the interpreter, since `object` is bound. The out-pointer is a local.
    let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(object.as_ptr(), &mut overflow) };
    if value == -1 && overflow == 0 {
        // Either the number -1 or an exception that is pending and must be taken here.
        return match PyErr::take(object.py()) {
            Some(error) if !error.is_instance_of::<PyTypeError>(object.py()) => Err(error),
            _ => Ok(None),
        };
    }
    Ok(if overflow == 0 { u64::try_from(value).ok() } else { None })
}

/// Like [`count`], for arguments that describe a budget rather than a request.
///
/// # Errors
/// `TypeError` for what is no integer, `ValueError` outside of `0..2^63`.
pub(crate) fn amount(name: &str, unit: &str, object: &Bound<'_, PyAny>) -> PyResult<u64> {
    if let Some(value) = count(object)? {
        return Ok(value);
    }
    if object.hasattr("__index__")? {
        let text = format!("{name}={object} is not a number of {unit}: expected 0 to 2**63 - 1");
        return Err(PyValueError::new_err(text));
    }
    let found = object.get_type().name()?;
    Err(PyTypeError::new_err(format!("{name}: expected an int, a number of {unit}, not {found}")))
}

/// [`amount`] of an argument that may be absent.
pub(crate) fn optional_amount(
    name: &str,
    unit: &str,
    object: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<u64>> {
    object.map(|object| amount(name, unit, object)).transpose()
}

/// [`amount`] of an argument that must fit 32 bits.
pub(crate) fn small_amount(name: &str, unit: &str, object: &Bound<'_, PyAny>) -> PyResult<u32> {
    let value = amount(name, unit, object)?;
    u32::try_from(value).map_err(|_| {
        PyValueError::new_err(format!(
            "{name}={value} is not a number of {unit}: expected at most {}",
            u32::MAX
        ))
    })
}

/// Whatever serializes, as plain dicts, lists, ints, floats, strings and `None`.
pub(crate) fn plain<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let value = serde_json::to_value(value)
        .map_err(|error| crate::errors::internal(format!("a report did not serialize: {error}")))?;
    from_json(py, &value)
}

/// A JSON value as Python's `json` module would give it.
pub(crate) fn from_json<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Null => Ok(py.None().into_bound(py)),
        Value::Bool(flag) => flag.into_bound_py_any(py),
        Value::String(text) => text.into_bound_py_any(py),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => n.into_bound_py_any(py),
            (None, Some(n)) => n.into_bound_py_any(py),
            // JSON numbers are one of the three.
            (None, None) => number.as_f64().into_bound_py_any(py),
        },
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(from_json(py, item)?)?;
            }
            Ok(list.into_any())
        }
        Value::Object(fields) => {
            let dict = PyDict::new(py);
            for (name, field) in fields {
                dict.set_item(name, from_json(py, field)?)?;
            }
            Ok(dict.into_any())
        }
    }
}
