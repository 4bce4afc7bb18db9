//! JSON documents as callers hand them over: a path, the text, or the dict in it.

use crate::errors::raised;
use memvelope::Error;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// What is read of a file at most: more than the library accepts, which then says so.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A document that was handed over, not yet read.
pub(crate) enum Document {
    Text(String),
    Path(PathBuf),
}

impl Document {
    /// Takes the argument `name`; touches no file.
    ///
    /// # Errors
    /// `TypeError` for what is none of the three, and what `json.dumps` raises.
    pub(crate) fn take(name: &str, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(dict) = object.cast::<PyDict>() {
            let json = object.py().import("json")?;
            return Ok(Self::Text(json.call_method1("dumps", (dict,))?.extract()?));
        }
        if let Ok(text) = object.cast::<PyString>()
            && text.to_str()?.trim_start().starts_with('{')
        {
            return Ok(Self::Text(text.to_str()?.to_owned()));
        }
        object.extract().map(Self::Path).map_err(|_| match object.get_type().name() {
            Ok(found) => PyTypeError::new_err(format!(
                "{name}: expected a path, JSON text or a dict, not {found}"
            )),
            Err(error) => error,
        })
    }

    /// The text. A path that is a folder stands for the file `name` in it.
    ///
    /// # Errors
    /// [`Error::ReadFile`].
    pub(crate) fn read(&self, name: &str) -> memvelope::Result<String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Path(path) if path.is_dir() => read(&path.join(name)),
            Self::Path(path) => read(path),
        }
    }

    /// The folder, if that is what was given.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Path(path) if path.is_dir() => Some(path),
            Self::Path(_) | Self::Text(_) => None,
        }
    }

    /// The text of the file `other` that lies beside `name`, if there is one.
    ///
    /// # Errors
    /// [`Error::ReadFile`] where it is there and cannot be read.
    pub(crate) fn read_beside(&self, name: &str, other: &str) -> memvelope::Result<Option<String>> {
        let path = match self {
            Self::Path(path) if path.is_dir() => path.join(other),
            Self::Path(path) if path.file_name().is_some_and(|file| file == name) => {
                path.with_file_name(other)
            }
            // A file of another name was not taken from a model's folder: what lies beside it may
            // belong to any model.
            Self::Path(_) | Self::Text(_) => return Ok(None),
        };
        match read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(Error::ReadFile { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The text of a `config.json`.
///
/// # Errors
/// Those of [`Document::take`], and `ReadFileError`.
pub(crate) fn config_text(config: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = config.py();
    let document = Document::take("config", config)?;
    // A file may lie on a slow network mount: reading it must not stop other threads.
    py.detach(|| document.read("config.json")).map_err(|error| raised(py, &error))
}

fn read(path: &Path) -> memvelope::Result<String> {
    let text = || -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    };
    text().map_err(|source| Error::ReadFile { path: path.to_owned(), source })
}
