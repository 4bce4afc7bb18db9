//! Exports write what was seen. Every file appears under its final name whole or not at all.

use crate::error::{Error, Result};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub mod chrome;
pub mod summary;

/// Writes `path` through `write`: into a temporary file beside it, synced, then renamed. A crash
/// leaves at worst the temporary file, which [`remove_abandoned`] takes away. Of calls at one time for
/// one path, the last one's file stays, whole. A device (`/dev/null`) is written to, and stays one.
///
/// # Errors
/// [`Error::WriteFile`], also for a pipe or a socket, whose reader nobody here waits for; nothing stands
/// under `path` that was not there before.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<u64> {
    let failed = |source| Error::WriteFile { path: path.to_owned(), source };
    // A rename would put a file in the place of a device, for everybody on the machine.
    if let Some(there) = std::fs::metadata(path).ok().filter(|there| !there.is_file()) {
        return write_through(path, there.file_type(), write).map_err(failed);
    }
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

/// Writes to what is there already; how many bytes.
fn write_through(
    path: &Path,
    what: std::fs::FileType,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    if !what.is_char_device() {
        return Err(std::io::Error::other("it is neither a file nor a character device"));
    }
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    let mut counting = Counting { to: BufWriter::with_capacity(1 << 16, file), bytes: 0 };
    write(&mut counting)?;
    counting.flush()?;
    Ok(counting.bytes)
}

struct Counting<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
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
    fn what_is_no_file_stays_what_it_is() {
        let place = tempfile::tempdir().unwrap();
        let text = [7; 100_000];
        // By a link: were it replaced, it would be the link.
        let device = place.path().join("device");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        assert_eq!(write_atomically(&device, |to| to.write_all(&text)).unwrap(), 100_000);
        assert!(std::fs::symlink_metadata(&device).unwrap().is_symlink());
        assert!(write_atomically(place.path(), |to| to.write_all(&text)).is_err());
        let pipe = place.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            // Nobody reads it, and nobody waits for that.
            assert!(write_atomically(&pipe, |to| to.write_all(&text)).is_err());
            assert!(!std::fs::metadata(&pipe).unwrap().is_file());
        }
        let left = std::fs::read_dir(place.path()).unwrap().count();
        assert!(left <= 2, "nothing beside them");
    }

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
