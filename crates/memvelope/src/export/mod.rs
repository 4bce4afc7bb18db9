//! Exports write what was seen. Every file appears under its final name whole or not at all.

use crate::error::{Error, Result};
use std::io::{BufWriter, Write};
use std::path::Path;

pub mod chrome;

/// Writes `path` through `write`: into a temporary file beside it, synced, then renamed. A crash
/// leaves at worst the temporary file (`.NAME.PID.tmp`), which the next call replaces.
///
/// # Errors
/// [`Error::WriteFile`]; nothing stands under `path` that was not there before.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<u64> {
    let failed = |source| Error::WriteFile { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let outcome = std::fs::File::create(&temporary).and_then(|file| {
        let mut writer = BufWriter::with_capacity(1 << 16, file);
        write(&mut writer)?;
        writer.flush()?;
        let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        std::fs::rename(&temporary, path)?;
        Ok(bytes)
    });
    outcome.map_err(|source| {
        // Best effort: the write already failed, and that is what the caller must hear about.
        let _ = std::fs::remove_file(&temporary);
        failed(source)
    })
}
