//! Where the command writes: stdout, and the directory of `--out`.

use crate::failure::{Failure, Outcome};
use anyhow::Context;
use memvelope::export;
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
    for name in ["trace.json", "report.json"] {
        export::remove_abandoned(&whole.join(name));
    }
    Ok(())
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
}
