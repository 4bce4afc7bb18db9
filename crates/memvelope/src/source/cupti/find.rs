//! Where libcupti is looked for. There must never be two of them in a process: each keeps state of
//! its own, and the driver serves only one. So a copy that is already there (PyTorch links one)
//! wins over everything, a configured path included.

use crate::config::Config;
use crate::source::driver::Driver;
use crate::source::loader::{self, LoadReport, Open, Outcome};
use libloading::Library;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// SONAMEs, newest first; one a CUDA major version.
const SONAMES: [(u32, &str); 2] = [(13, "libcupti.so.13"), (12, "libcupti.so.12")];

/// Finds and opens libcupti, and notes every candidate. Calls nothing in it.
pub(super) fn find(
    config: &Config,
    driver: &Driver,
    report: &mut LoadReport,
) -> Option<&'static Library> {
    if driver.simulator_version().is_some() {
        return simulated(config, driver, report);
    }
    // An older CUPTI works on a newer driver, the reverse only within the driver's own major.
    let major = driver.version().map_or(13, |version| version / 1000);
    let found = already_loaded(major, report).or_else(|| {
        let search = Search { sonames: sonames_for(major), report };
        search.run(config.cupti_path.as_deref())
    });
    if let (Some(_), Some(path)) = (found, &config.cupti_path)
        && report.chosen.as_deref() != path.to_str()
        && !report.candidates.iter().any(|candidate| Some(&*candidate.path) == path.to_str())
    {
        report.skip(path, "another libcupti is already loaded; there must never be two");
    }
    if found.is_none() && report.hint.is_empty() {
        report.hint = match &config.cupti_path {
            Some(_) => "MEMVELOPE_CUPTI_PATH is tried alone; unset it to search the usual places",
            None => {
                "install it with `pip install nvidia-cuda-cupti` (or nvidia-cuda-cupti-cu12) or \
                 the CUDA toolkit, or set MEMVELOPE_CUPTI_PATH; without it memvelope only polls"
            }
        }
        .into();
    }
    found
}

fn sonames_for(major: u32) -> Vec<&'static str> {
    let fitting = SONAMES.iter().filter(|(version, _)| *version <= major);
    let newer = SONAMES.iter().filter(|(version, _)| *version > major);
    fitting.chain(newer).map(|(_, name)| *name).collect()
}

/// The simulated driver is one file with three names; CUPTI must be that file.
fn simulated(
    config: &Config,
    driver: &Driver,
    report: &mut LoadReport,
) -> Option<&'static Library> {
    report.simulated = true;
    let own = loader::identity(driver.path());
    for path in loaded_copies() {
        if loader::identity(&path) != own {
            report.fail(&path, "a real libcupti is loaded beside the simulated driver");
            report.hint = "run what needs the real libcupti without the simulator".into();
            return None;
        }
    }
    let names = SONAMES.map(|(_, name)| name);
    let explicit = config.cupti_path.as_deref();
    let twin = loader::simulator_twin(report, driver.path(), explicit, &names)?;
    let library = report.open(twin.as_os_str(), Open::Load)?;
    accept(report, twin.as_os_str(), library)
}

/// Paths of loaded objects that are a libcupti by name.
fn loaded_copies() -> Vec<OsString> {
    let is_cupti = |path: &OsString| {
        let name = Path::new(path).file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with("libcupti.so"))
    };
    loader::loaded_objects().into_iter().filter(is_cupti).collect()
}

fn already_loaded(major: u32, report: &mut LoadReport) -> Option<&'static Library> {
    let mut copies = loaded_copies();
    if copies.len() > 1 {
        let all: Vec<_> = copies.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        report.hint = format!(
            "{} copies of libcupti are loaded ({}): whoever loaded the second should not have",
            all.len(),
            all.join(", ")
        );
        // The one of the driver's major first; the order of loading decides between equals.
        let wanted = format!("libcupti.so.{major}");
        copies.sort_by_key(|path| !path.to_string_lossy().contains(&wanted));
    }
    let mut found = None;
    for path in &copies {
        if found.is_some() {
            report.skip(path, "an earlier one is in use");
        } else if let Some(library) = report.open(path, Open::OnlyIfLoaded) {
            found = accept(report, path, library);
        }
    }
    for (_, name) in SONAMES {
        if found.is_none()
            && let Some(library) = report.open(name.as_ref(), Open::OnlyIfLoaded)
        {
            found = accept(report, name.as_ref(), library);
        }
    }
    found
}

/// Whether an opened library is the CUPTI we want; looks symbols up but calls nothing.
fn accept(
    report: &mut LoadReport,
    candidate: &OsStr,
    library: &'static Library,
) -> Option<&'static Library> {
    let Some(address) = loader::address_of(library, c"cuptiGetVersion") else {
        report.fail(candidate, "opened, but it has no cuptiGetVersion: not CUPTI");
        return None;
    };
    if !report.simulated && loader::is_simulator(library) {
        report.fail(candidate, "the simulator's, but the driver is real");
        return None;
    }
    report.push(candidate, Outcome::Loaded);
    let path = loader::path_of(address).unwrap_or_else(|| candidate.to_owned());
    report.chosen = Some(path.to_string_lossy().into_owned());
    Some(library)
}

struct Search<'a> {
    sonames: Vec<&'static str>,
    report: &'a mut LoadReport,
}

impl Search<'_> {
    fn run(self, explicit: Option<&Path>) -> Option<&'static Library> {
        let candidates: Vec<OsString> = match explicit {
            Some(path) => vec![path.into()],
            None => {
                let by_name = self.sonames.iter().map(OsString::from);
                let files =
                    directories(&|name| std::env::var_os(name)).into_iter().flat_map(|dir| {
                        self.sonames
                            .iter()
                            .map(move |name| dir.join(name))
                            .filter(|path| path.exists())
                    });
                by_name.chain(files.map(OsString::from)).collect()
            }
        };
        let mut found = None;
        for candidate in candidates {
            if found.is_some() {
                self.report.skip(&candidate, "an earlier one is in use");
            } else if let Some(library) = self.report.open(&candidate, Open::Load) {
                found = accept(self.report, &candidate, library);
            }
        }
        found
    }
}

/// The file that a program started with this environment would most likely use: the first one where
/// the dynamic loader looks, then where wheels and toolkits put it. Opens nothing.
#[must_use]
pub fn likely_file() -> Option<PathBuf> {
    likely_file_in(&|name| std::env::var_os(name))
}

fn likely_file_in(environment: Environment<'_>) -> Option<PathBuf> {
    let path = environment("LD_LIBRARY_PATH").unwrap_or_default();
    let first = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    let all: Vec<PathBuf> = first.chain(directories(environment)).collect();
    let files = all.iter().flat_map(|dir| SONAMES.iter().map(move |(_, name)| dir.join(name)));
    files.into_iter().find(|path| path.is_file())
}

/// The environment, so that tests can have one of their own.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Directories that may hold libcupti, those of this Python interpreter first.
fn directories(environment: Environment<'_>) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for site in site_packages(environment) {
        // The cu13 wheels share one directory; the cu12 ones have one each.
        out.push(site.join("nvidia/cu13/lib"));
        out.push(site.join("nvidia/cuda_cupti/lib"));
    }
    if let Some(prefix) = environment("CONDA_PREFIX") {
        out.push(PathBuf::from(prefix).join("lib"));
    }
    for toolkit in toolkits(environment) {
        out.push(toolkit.join("extras/CUPTI/lib64"));
        out.push(toolkit.join("lib64"));
    }
    out.retain(|dir| dir.is_dir());
    out
}

/// `site-packages` of the interpreter that we run in, found without asking Python: from the paths
/// of loaded extension modules (ours is one), the active environment, the interpreter's prefix.
fn site_packages(environment: Environment<'_>) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = Vec::new();
    for path in loader::loaded_objects() {
        let site = Path::new(&path).ancestors().find(|dir| {
            let name = dir.file_name().and_then(OsStr::to_str);
            matches!(name, Some("site-packages" | "dist-packages"))
        });
        out.extend(site.map(Path::to_path_buf));
    }
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(environment);
    let interpreter = std::env::current_exe().ok().filter(|exe| {
        exe.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python"))
    });
    let prefix = interpreter.and_then(|exe| Some(exe.parent()?.parent()?.to_path_buf()));
    for prefix in active.map(PathBuf::from).chain(prefix) {
        for python in entries_starting_with(&prefix.join("lib"), "python3") {
            out.push(python.join("site-packages"));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    out.retain(|dir| seen.insert(dir.clone()));
    out
}

fn toolkits(environment: Environment<'_>) -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(environment);
    let mut out: Vec<PathBuf> = named.map(PathBuf::from).collect();
    out.extend(entries_starting_with(Path::new("/usr/local"), "cuda"));
    out
}

/// Directory entries by prefix, in order of their names; at most a screenful.
fn entries_starting_with(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    const ENTRIES_MAX: usize = 32;
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut out: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(prefix))
        })
        .take(ENTRIES_MAX)
        .collect();
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_major_decides_the_order() {
        assert_eq!(sonames_for(13), ["libcupti.so.13", "libcupti.so.12"]);
        assert_eq!(sonames_for(12), ["libcupti.so.12", "libcupti.so.13"]);
        assert_eq!(sonames_for(11), ["libcupti.so.13", "libcupti.so.12"]);
    }

    #[test]
    fn a_configured_path_is_tried_alone_and_may_be_bogus() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libcupti.so.13");
        std::fs::write(&path, "no library").unwrap();
        let mut report = LoadReport::new("libcupti");
        let search = Search { sonames: sonames_for(13), report: &mut report };
        assert!(search.run(Some(&path)).is_none());
        assert_eq!(report.candidates.len(), 1);
        assert!(matches!(report.candidates[0].outcome, Outcome::Failed(_)), "{report:?}");
    }

    #[test]
    fn a_library_that_is_not_cupti_is_refused() {
        let libc = loader::path_of(libc::getpid as *const std::ffi::c_void).unwrap();
        let mut report = LoadReport::new("libcupti");
        let search = Search { sonames: sonames_for(13), report: &mut report };
        assert!(search.run(Some(Path::new(&libc))).is_none());
        assert!(format!("{report:?}").contains("not CUPTI"), "{report:?}");
    }

    #[test]
    fn the_active_environment_comes_before_the_toolkit() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = dir.path().join("venv/lib/python3.12/site-packages/nvidia/cu13/lib");
        let toolkit = dir.path().join("cuda/extras/CUPTI/lib64");
        for path in [&wheel, &toolkit] {
            std::fs::create_dir_all(path).unwrap();
        }
        let found = directories(&|name| match name {
            "VIRTUAL_ENV" => Some(dir.path().join("venv").into()),
            "CUDA_HOME" => Some(dir.path().join("cuda").into()),
            _ => None,
        });
        let place = |path: &Path| found.iter().position(|dir| dir == path);
        assert!(place(&wheel).unwrap() < place(&toolkit).unwrap(), "{found:?}");
    }

    #[test]
    fn the_likely_file_is_the_loaders_first() {
        let dir = tempfile::tempdir().unwrap();
        let (wheel, own) = (dir.path().join("lib/python3.12/site-packages/nvidia/cu13/lib"), "own");
        std::fs::create_dir_all(&wheel).unwrap();
        std::fs::create_dir(dir.path().join(own)).unwrap();
        std::fs::write(wheel.join("libcupti.so.13"), "").unwrap();
        let found = |path: Option<&str>| {
            likely_file_in(&|name| match name {
                "VIRTUAL_ENV" => Some(dir.path().into()),
                "LD_LIBRARY_PATH" => Some(dir.path().join(path?).into()),
                _ => None,
            })
        };
        assert_eq!(found(None), Some(wheel.join("libcupti.so.13")));
        assert_eq!(found(Some(own)), Some(wheel.join("libcupti.so.13")));
        std::fs::write(dir.path().join("own/libcupti.so.12"), "").unwrap();
        assert_eq!(found(Some(own)), Some(dir.path().join("own/libcupti.so.12")));
    }

    #[test]
    fn entries_are_found_by_prefix() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cuda-13.0", "cuda", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = entries_starting_with(dir.path(), "cuda");
        assert_eq!(found, [dir.path().join("cuda"), dir.path().join("cuda-13.0")]);
        assert!(entries_starting_with(&dir.path().join("none"), "x").is_empty());
    }
}
