//! Exports write what was seen. Every file appears under its final name whole or not at all.

use crate::error::{Error, Result};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub mod chrome;
pub mod summary;

/// Writes `path` through `write`: into a temporary file beside it, synced, then renamed. A crash
/// leaves at worst the temporary file, which [`remove_abandoned`] takes away. Of calls at one time for one path,
/// the last one's file stays, whole.
///
/// # Errors
/// [`Error::WriteFile`]; nothing stands under `path` that was not there before.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<u64> {
    let failed = |source| Error::WriteFile { path: path.to_owned(), source };
    // A number a call: two threads that write one path must not write into one file.
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let (process, call) = (std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed));
    let temporary = path.with_file_name(format!("{}{process}.{call}.tmp", temporary_prefix(path)));
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

/// What the names of a path's temporary files begin with; process id, number of the call and
/// `.tmp` follow.
fn temporary_prefix(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes temporary files of `path` whose process is gone: one that was killed while it wrote
/// cannot do it, and a trace is large. Best effort: they cost room, nothing else.
pub fn remove_abandoned(path: &Path) {
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = temporary_prefix(path);
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let inner = name.to_str().and_then(|n| n.strip_prefix(&prefix)?.strip_suffix(".tmp"));
        let Some((process, call)) = inner.and_then(|inner| inner.split_once('.')) else { continue };
        let (Ok(process), Ok(_)) = (process.parse::<u32>(), call.parse::<u64>()) else { continue };
        if !Path::new("/proc").join(process.to_string()).exists() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_temporary_files_of_processes_that_are_gone_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("trace.json");
        // Writing fails half-way through, as if killed: the file is put back under its own name.
        let mut made = None;
        let _ = write_atomically(&path, |_| {
            made = std::fs::read_dir(place.path()).unwrap().flatten().map(|e| e.file_name()).next();
            Err(std::io::ErrorKind::Interrupted.into())
        });
        let own = made.unwrap().into_string().unwrap();
        // Above the largest process id that Linux gives out (2^22).
        let gone = own.replace(&std::process::id().to_string(), "4194305");
        assert_ne!(own, gone);
        for name in
            [own.as_str(), &gone, "trace.json", ".trace.json.x.0.tmp", ".other.4194305.0.tmp"]
        {
            std::fs::write(place.path().join(name), "x").unwrap();
        }
        remove_abandoned(&path);
        let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 4, "{left:?}");
        assert!(!place.path().join(gone).exists());
    }

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
