//! Exports write what was seen. Every file appears under its final name whole or not at all.

use crate::error::{Error, Result};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub mod chrome;

/// Writes `path` through `write`: into a temporary file beside it, synced, then renamed. A crash
/// leaves at worst the temporary file (`.NAME.PID.CALL.tmp`). Of calls at one time for one path,
/// the last one's file stays, whole.
///
/// # Errors
/// [`Error::WriteFile`]; nothing stands under `path` that was not there before.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<u64> {
    let failed = |source| Error::WriteFile { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A number a call: two threads that write one path must not write into one file.
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let (process, call) = (std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed));
    let temporary = path.with_file_name(format!(".{name}.{process}.{call}.tmp"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_write_one_file_leave_one_of_theirs_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let text = vec![b'a' + thread; 10_000 + usize::from(thread)];
                        write_atomically(path, |out| out.write_all(&text)).unwrap();
                    }
                });
            }
        });
        let text = std::fs::read(&path).unwrap();
        let thread = text[0] - b'a';
        assert_eq!(text, vec![text[0]; 10_000 + usize::from(thread)]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
