//! Where the command writes: stdout, and the directory of `--out`.

use crate::failure::{Failure, Outcome};
use anyhow::Context;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Prints to stdout. A reader that went away (`| head`) has what it wanted; every other failure,
/// a full disk say, is reported, where `print!` would panic.
///
/// # Errors
/// What was printed could not be written.
pub(crate) fn print(text: &str) -> Outcome<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome.context("writing to stdout failed")?),
    }
}

/// Says something on stderr. Where that cannot be written (closed, a full disk) nobody is left to
/// be told, and a run is worth more than its remarks: `eprintln!` would panic.
pub(crate) fn remark(text: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Whether `directory` can be written, or made: asked before a long run, not after it. Nothing is
/// left behind; temporary files of killed runs are removed.
///
/// # Errors
/// It cannot; the run has not begun.
pub(crate) fn check_directory(directory: &Path) -> Outcome<()> {
    let whole = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let Some(existing) = whole.ancestors().find(|path| path.symlink_metadata().is_ok()) else {
        return Ok(()); // not even a root: the write itself will say why
    };
    let bad = |why: &str| {
        Failure::bad(format!(
            "--out {}: {} {why}\nhint: choose a directory that can be written",
            directory.display(),
            existing.display()
        ))
    };
    if !existing.is_dir() {
        return Err(bad("is not a directory"));
    }
    // An unnamed file where the file system has them: asks the kernel instead of guessing from
    // permission bits, which say nothing to root or about a read-only mount.
    tempfile::tempfile_in(existing).map_err(|error| bad(&format!("cannot be written: {error}")))?;
    sweep(&whole);
    Ok(())
}

/// Removes temporary files (`.NAME.PID.tmp`) whose process is gone: a killed run cannot, and a
/// trace is large.
fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| {
            let inner = name.strip_suffix(".tmp")?;
            inner.strip_prefix(".trace.json.").or_else(|| inner.strip_prefix(".report.json."))
        });
        let Some(process) = rest.and_then(|process| process.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(process.to_string()).exists() {
            // Best effort: it costs room, nothing else.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_checked_without_leaving_anything() {
        let place = tempfile::tempdir().unwrap();
        check_directory(&place.path().join("new/deep")).unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        let file = place.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for bad in [file.clone(), file.join("below"), "/proc/memvelope".into()] {
            assert!(check_directory(&bad).is_err(), "{}", bad.display());
        }
    }

    #[test]
    fn only_temporary_files_of_processes_that_are_gone_are_swept() {
        let place = tempfile::tempdir().unwrap();
        let own = format!(".trace.json.{}.tmp", std::process::id());
        // Above the largest process id that Linux gives out (2^22).
        let gone = ".trace.json.4194305.tmp";
        for name in [own.as_str(), gone, ".report.json.4194305.tmp", "trace.json", ".x.1.tmp"] {
            std::fs::write(place.path().join(name), "x").unwrap();
        }
        check_directory(place.path()).unwrap();
        let left: std::collections::BTreeSet<String> = std::fs::read_dir(place.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let wanted = [own, "trace.json".into(), ".x.1.tmp".into()];
        assert_eq!(left, wanted.into_iter().collect());
    }
}
