//! Loading is a value: every candidate that was tried, what happened to it, and what to do.
//!
//! Libraries are opened through the dynamic loader and never closed: driver, CUPTI and NVML all
//! keep threads, exit handlers or callbacks of their own.

#![expect(unsafe_code, reason = "dlopen, dlsym, dladdr and dl_iterate_phdr are foreign")]

use crate::error::Error;
use libloading::Library;
use libloading::os::unix::Library as UnixLibrary;
use serde::Serialize;
use std::ffi::{CStr, OsStr, OsString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What only the simulated driver exports: a function that returns its version as a C string.
pub(crate) const SIMULATOR_VERSION: &CStr = c"memvelope_sim_version";

/// How the search for one library went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Plain name: `libcuda`, `libcupti`, `libnvidia-ml`.
    pub library: &'static str,
    /// Every candidate in the order tried.
    pub candidates: Vec<Candidate>,
    /// The path that is in use, as the dynamic loader names it.
    pub chosen: Option<String>,
    /// Version as the library itself states it, once it can be asked.
    pub version: Option<String>,
    /// Whether it is memvelope's simulator.
    pub simulated: bool,
    /// Functions of our table that it lacks.
    pub missing_symbols: Vec<&'static str>,
    /// What to do about a failure or a gap; empty when all is well.
    pub hint: String,
}

/// One place that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Path or SONAME.
    pub path: String,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// In use.
    Loaded,
    /// The dynamic loader refused it: its words.
    Failed(String),
    /// Not tried: why.
    Skipped(String),
}

impl LoadReport {
    /// The report of a search in which nothing has been tried yet.
    #[must_use]
    pub fn new(library: &'static str) -> Self {
        Self {
            library,
            candidates: Vec::new(),
            chosen: None,
            version: None,
            simulated: false,
            missing_symbols: Vec::new(),
            hint: String::new(),
        }
    }

    /// Whether the library is in use.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.chosen.is_some()
    }

    pub(crate) fn push(&mut self, path: impl AsRef<OsStr>, outcome: Outcome) {
        let path = path.as_ref().to_string_lossy().into_owned();
        self.candidates.push(Candidate { path, outcome });
    }

    pub(crate) fn skip(&mut self, path: impl AsRef<OsStr>, why: impl Into<String>) {
        self.push(path, Outcome::Skipped(why.into()));
    }

    pub(crate) fn fail(&mut self, path: impl AsRef<OsStr>, why: impl Into<String>) {
        self.push(path, Outcome::Failed(why.into()));
    }

    /// The report as the error of an operation that needs the library.
    pub(crate) fn to_error(&self) -> Error {
        let tried = self.candidates.iter().map(|candidate| {
            let why = match &candidate.outcome {
                Outcome::Loaded => "loaded".into(),
                Outcome::Failed(why) => why.clone(),
                Outcome::Skipped(why) => format!("skipped: {why}"),
            };
            (candidate.path.clone(), why)
        });
        Error::LoadLibrary {
            library: self.library,
            tried: tried.collect(),
            hint: self.hint.clone(),
        }
    }

    /// Opens `path`, and notes what the loader said if it refused. An accepted candidate is noted
    /// by the caller, who knows whether it is the right library.
    pub(crate) fn open(&mut self, path: &OsStr, how: Open) -> Option<&'static Library> {
        if Path::new(path).is_absolute() && how == Open::Load && !Path::new(path).exists() {
            self.fail(path, "no such file");
            return None;
        }
        match open(path, how) {
            Ok(library) => Some(library),
            Err(why) => {
                match how {
                    Open::Load => self.fail(path, why),
                    Open::OnlyIfLoaded => self.skip(path, "not loaded yet"),
                }
                None
            }
        }
    }
}

/// Whether to bring a library in or only to find one that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// Load it.
    Load,
    /// `RTLD_NOLOAD`: a handle to what is already loaded, by SONAME or real path.
    OnlyIfLoaded,
}

fn open(path: &OsStr, how: Open) -> Result<&'static Library, String> {
    let flags = match how {
        // RTLD_LOCAL: our copy must not satisfy symbol lookups of the host program.
        Open::Load => libc::RTLD_NOW | libc::RTLD_LOCAL,
        Open::OnlyIfLoaded => libc::RTLD_NOW | libc::RTLD_NOLOAD,
    };
    // SAFETY: loading runs the library's initialisers. The candidates are NVIDIA's own libraries
    // under their well-known names, our simulator, or a path that the operator configured; none
    // of them has preconditions on being loaded (libcupti's bite only when it is called).
    match unsafe { UnixLibrary::open(Some(path), flags) } {
        // Leaked, see the module's head.
        Ok(library) => Ok(Box::leak(Box::new(library.into()))),
        Err(error) => Err(loader_words(&error)),
    }
}

/// The dynamic loader's own text, without libloading's frame around it.
pub(crate) fn loader_words(error: &libloading::Error) -> String {
    match error {
        libloading::Error::DlOpen { desc } => format!("{desc:?}").trim_matches('"').to_owned(),
        other => other.to_string(),
    }
}

/// Address of `symbol` (NUL-terminated) in `library`; `None` if it has none.
pub(crate) fn address_of(library: &Library, symbol: &CStr) -> Option<*const c_void> {
    // SAFETY: the symbol is only looked up, as an untyped address; nothing is called or read.
    let found = unsafe { library.get::<*const c_void>(symbol.to_bytes_with_nul()) }.ok()?;
    // SAFETY: the library is never closed, so the address outlives the symbol's borrow.
    let address = unsafe { found.into_raw() }.into_raw().cast_const();
    (!address.is_null()).then_some(address)
}

/// Whether a library is memvelope's simulated driver (under any of its names).
pub(crate) fn is_simulator(library: &Library) -> bool {
    address_of(library, SIMULATOR_VERSION).is_some()
}

/// Path, as the dynamic loader names it, of the object that holds `address`.
pub(crate) fn path_of(address: *const c_void) -> Option<OsString> {
    // SAFETY: Dl_info is plain data of pointers, for which all zeroes are valid.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr only compares the address with the loaded objects and fills `info`.
    let found = unsafe { libc::dladdr(address, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader owns the name for as long as the object is loaded; it is copied at once.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(OsStr::from_bytes(name.to_bytes()).to_owned())
}

/// Paths of all loaded objects, in the loader's order. The main program has an empty name and is
/// left out.
pub(crate) fn loaded_objects() -> Vec<OsString> {
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: dl_iterate_phdr hands us a valid info for the time of the call.
        let name = unsafe { (*info).dlpi_name };
        if name.is_null() {
            return 0;
        }
        // SAFETY: the loader owns the name and holds its lock; it is copied at once.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        // SAFETY: `data` is the vector below, borrowed by nobody else during the iteration.
        let out = unsafe { &mut *data.cast::<Vec<OsString>>() };
        let push = std::panic::AssertUnwindSafe(|| {
            if !name.is_empty() {
                out.push(OsStr::from_bytes(name).to_owned());
            }
        });
        // Anything but 0 ends the iteration.
        std::panic::catch_unwind(push).map_or(1, |()| 0)
    }
    let mut out: Vec<OsString> = Vec::new();
    // SAFETY: `visit` matches the callback's contract and does not unwind; `out` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut out).cast()) };
    out
}

/// Device and inode of a file: what makes two names the same library to the dynamic loader.
pub(crate) fn identity(path: impl AsRef<Path>) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The directories of the loader's search path for this process that may hold the simulator:
/// beside `file` first, then `LD_LIBRARY_PATH`.
fn directories_near(file: &Path) -> Vec<std::path::PathBuf> {
    let mut out: Vec<_> = file.parent().map(Path::to_path_buf).into_iter().collect();
    if let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") {
        out.extend(std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()));
    }
    out
}

/// Finds the name under which the simulated driver at `simulated` serves another of its three
/// APIs: one of `names` that is the *same file*. Files are compared before anything is loaded, so
/// that a real library is never pulled into a simulated process. Notes refused ones in `report`.
pub(crate) fn simulator_twin(
    report: &mut LoadReport,
    simulated: &Path,
    explicit: Option<&Path>,
    names: &[&str],
) -> Option<std::path::PathBuf> {
    let wanted = identity(simulated);
    let candidates: Vec<_> = match explicit {
        Some(path) => vec![path.to_path_buf()],
        None => directories_near(simulated)
            .iter()
            .flat_map(|dir| names.iter().map(move |name| dir.join(name)))
            .collect(),
    };
    for path in candidates {
        match identity(&path) {
            None => report.fail(&path, "no such file"),
            Some(found) if Some(found) == wanted => return Some(path),
            Some(_) => report.fail(
                &path,
                format!("not the simulated driver's own file {}", simulated.display()),
            ),
        }
    }
    report.simulated = true;
    report.hint = format!(
        "the driver {} is simulated, so {} must be a link to the same file beside it",
        simulated.display(),
        report.library
    );
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_bogus_file_is_a_report_in_the_loaders_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libcuda.so.1");
        std::fs::File::create(&path).unwrap().write_all(b"not a library").unwrap();
        let mut report = LoadReport::new("libcuda");
        assert!(report.open(path.as_os_str(), Open::Load).is_none());
        assert!(report.open(OsStr::new("/nonexistent/libcuda.so.1"), Open::Load).is_none());
        assert!(report.open(OsStr::new("libnever.so.9"), Open::OnlyIfLoaded).is_none());
        let words = |i: usize| format!("{:?}", report.candidates[i].outcome);
        assert!(words(0).contains("file too short") || words(0).contains("ELF"), "{}", words(0));
        assert!(words(1).contains("no such file"), "{}", words(1));
        assert!(words(2).starts_with("Skipped"), "{}", words(2));
        let text = report.to_error().to_string();
        assert!(text.contains("libcuda.so.1 (") && text.contains("/nonexistent"), "{text}");
    }

    #[test]
    fn loaded_objects_and_addresses_name_the_c_library() {
        let objects = loaded_objects();
        assert!(objects.iter().any(|path| path.to_string_lossy().contains("libc.so")));
        let path = path_of(libc::getpid as *const c_void).expect("libc is loaded");
        assert!(identity(&path).is_some(), "{path:?}");
    }

    #[test]
    fn a_loaded_library_is_found_without_loading() {
        let mut report = LoadReport::new("libc");
        let library = report.open(OsStr::new("libc.so.6"), Open::OnlyIfLoaded).expect("loaded");
        assert!(address_of(library, c"getpid").is_some());
        assert!(address_of(library, c"no_such_symbol_anywhere").is_none());
    }

    #[test]
    fn the_simulators_twin_must_be_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let sim = dir.path().join("libcuda.so.1");
        std::fs::write(&sim, "x").unwrap();
        let twin = dir.path().join("libcupti.so.13");
        std::fs::write(&twin, "y").unwrap();
        let mut report = LoadReport::new("libcupti");
        assert_eq!(simulator_twin(&mut report, &sim, None, &["libcupti.so.13"]), None);
        assert!(matches!(report.candidates[0].outcome, Outcome::Failed(_)));
        assert!(report.hint.contains("simulated"), "{}", report.hint);
        std::fs::remove_file(&twin).unwrap();
        std::os::unix::fs::symlink(&sim, &twin).unwrap();
        assert_eq!(
            simulator_twin(&mut report, &sim, None, &["libcupti.so.13"]).as_deref(),
            Some(twin.as_path())
        );
        let other = dir.path().join("other");
        std::fs::write(&other, "z").unwrap();
        assert_eq!(simulator_twin(&mut report, &sim, Some(&other), &["libcupti.so.13"]), None);
    }
}
