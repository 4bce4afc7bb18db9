//! Where a process's report and trace go, as the environment tells.

use memvelope::config::{self, Key};
use memvelope::error::{Error, say};
use memvelope::export::summary::{Process, Slot, Summary};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Longest trace where no parent told.
const TRACE_BYTES_MAX: u64 = 256 << 20;

/// What is kept, and where.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The report as a file.
    pub(crate) report: Option<PathBuf>,
    /// The parent's summary file.
    pub(crate) summary: Option<Summary>,
    /// This process's slot in it; one that found none tries again while it runs.
    pub(crate) slot: Option<Slot>,
    /// The trace, and its longest size in bytes.
    pub(crate) trace: Option<(PathBuf, u64)>,
}

/// Why there is nothing to record for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NobodyReads;

impl Places {
    /// Looks where to write, and takes a slot.
    ///
    /// # Errors
    /// A parent asked for the recording, but nobody will read it: the parent has ended.
    pub(crate) fn from_env() -> Result<Self, NobodyReads> {
        let report = path_of(&config::REPORT);
        let Some(path) = told(&config::SUMMARY) else {
            let name = std::process::id().to_string();
            let trace = path_of(&config::TRACE_DIR).map(|folder| trace_in(&folder, &name));
            let trace = trace.map(|path| (path, TRACE_BYTES_MAX));
            return Ok(Self { report, trace, ..Self::default() });
        };
        let summary = match Summary::open(&path) {
            Ok(summary) if summary.is_closed() => None,
            Ok(summary) => Some(summary),
            Err(Error::ReadFile { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                None
            }
            Err(error) => {
                let source = std::error::Error::source(&error);
                let why = source.map_or(String::new(), |source| format!(": {source}"));
                say(&format_args!("{error}{why}"));
                None
            }
        };
        if summary.is_none() && report.is_none() {
            return Err(NobodyReads);
        }
        let slot = summary.as_ref().and_then(|summary| summary.claim(&Process::current()));
        let mut places = Self { report, summary, slot, trace: None };
        places.name_trace();
        Ok(places)
    }

    /// Takes a slot if there was none; false if there still is none.
    pub(crate) fn has_slot(&mut self) -> bool {
        if let Some(summary) = self.summary.as_ref().filter(|_| self.slot.is_none()) {
            self.slot = summary.claim_again(&Process::current());
            self.name_trace();
        }
        self.slot.is_some()
    }

    /// A trace is named after its slot, which tells processes apart where their numbers do not.
    fn name_trace(&mut self) {
        let (Some(summary), Some(slot)) = (&self.summary, &self.slot) else { return };
        let path =
            told(&config::TRACE_DIR).map(|folder| trace_in(&folder, &slot.sequence().to_string()));
        self.trace = path.map(|path| (path, summary.trace_bytes_max()));
    }
}

fn trace_in(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("trace-{name}.json"))
}

/// A path in the environment as it stands: a parent's directories may be named anything.
fn told(key: &Key) -> Option<PathBuf> {
    let text = std::env::var_os(key.name).filter(|text| !text.is_empty())?;
    absolute(key, PathBuf::from(text))
}

/// A path in the environment, with `%p` replaced by the process id, so that a program which starts
/// others does not have them overwrite each other's.
fn path_of(key: &Key) -> Option<PathBuf> {
    let text = std::env::var_os(key.name).filter(|text| !text.is_empty())?;
    let pid = std::process::id().to_string();
    absolute(key, PathBuf::from(with_process(text.as_bytes(), &pid)))
}

/// Names of files need not be UTF-8.
fn with_process(text: &[u8], pid: &str) -> OsString {
    let (mut path, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.windows(2).position(|pair| pair == b"%p") {
        path.extend_from_slice(&rest[..at]);
        path.extend_from_slice(pid.as_bytes());
        rest = &rest[at + 2..];
    }
    path.extend_from_slice(rest);
    OsString::from_vec(path)
}

fn absolute(key: &Key, path: PathBuf) -> Option<PathBuf> {
    if path.is_absolute() {
        return Some(path);
    }
    // The program may change its directory before anything is written.
    say(&format_args!(
        "{}={} is not usable: expected an absolute path; nothing is written there",
        key.name,
        path.display()
    ));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_id_stands_wherever_it_is_asked_for() {
        for (text, expect) in [
            (b"/a/%p.json".as_slice(), b"/a/77.json".as_slice()),
            (b"/%p/%p%", b"/77/77%"),
            (b"/a\xff/%%p", b"/a\xff/%77"),
            (b"/plain", b"/plain"),
        ] {
            assert_eq!(with_process(text, "77").as_bytes(), expect);
        }
    }
}
