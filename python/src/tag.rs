//! What `memvelope.tag` is made of: the calling thread's tag, by number.
//!
//! Which tag that is, as blocks open and tasks take turns, is `memvelope/_tag.py`'s business.

use crate::errors::guarded;
use memvelope::event::{Tag, own_tag, replace_tag};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

/// The number of a tag by its name.
#[pyfunction]
pub(crate) fn _tag_number(name: &Bound<'_, PyAny>) -> PyResult<u8> {
    guarded(|| {
        let Ok(text) = name.cast::<PyString>() else {
            let found = name.get_type().name()?;
            let expected = "expected the name of a tag (a str)";
            return Err(PyTypeError::new_err(format!("tag(): {expected}, not {found}")));
        };
        // Lone surrogates are in no tag's name.
        let tag = text.to_string_lossy().parse::<Tag>();
        let refused = |error: memvelope::event::ParseTag| PyValueError::new_err(error.to_string());
        tag.map(|tag| tag as u8).map_err(refused)
    })
}

/// The name of a tag by its number; `None` for 0, which is no tag.
#[pyfunction]
pub(crate) fn _tag_name(number: u8) -> Option<&'static str> {
    let tag = Tag::ALL.get(usize::from(number)).copied().unwrap_or_default();
    (tag != Tag::Untagged).then(|| tag.name())
}

/// Puts a tag in force on this thread; returns the former.
#[pyfunction]
pub(crate) fn _replace_tag(number: u8) -> u8 {
    memvelope::runtime::meet_recorder();
    replace_tag(Tag::ALL.get(usize::from(number)).copied().unwrap_or_default()) as u8
}

/// The tag in force on this thread, as this module was told.
#[pyfunction]
pub(crate) fn _thread_tag() -> u8 {
    own_tag() as u8
}
