//! Making the program ready to be started: what it is to find in its environment.

use super::{Args, Graphs};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::sim_exec::{self, Choice};
use anyhow::Context;
use memvelope::config;
use memvelope::export::summary::{FILE_BYTES, Summary};
use memvelope::source::cupti;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// File name of the injection library.
const LIBRARY: &str = "libmemvelope_inject.so";

/// Variable by which the driver is told of it.
const INJECTION: &str = "CUDA_INJECTION64_PATH";

/// Begin of the private directories' names; the process id follows.
const PREFIX: &str = "memvelope-run-";

/// The file of the summary in the private directory, and the folder of the simulator's links.
const SUMMARY_FILE: &str = "summary";
const SIMULATOR_FOLDER: &str = "lib";

/// A file system in memory is used only where the file takes at most so small a part of what is
/// free there: a container has 64 MiB, and its programs want them.
const MEMORY_SHARE: u64 = 5;

/// A program that is ready to be started.
pub(super) struct Launch {
    pub(super) command: Command,
    /// `None`: it runs unrecorded.
    pub(super) summary: Option<Summary>,
    /// Where the processes' traces go until they are merged.
    pub(super) traces: Option<Private>,
    /// Where the merged trace and the report go.
    pub(super) out: Option<PathBuf>,
    /// What is not as was asked for, one sentence each.
    pub(super) problems: Vec<String>,
    /// Holds the summary and the simulator's links.
    pub(super) private: Option<Private>,
}

/// A directory of ours; goes away when dropped.
pub(super) struct Private {
    pub(super) path: PathBuf,
}

impl Drop for Private {
    fn drop(&mut self) {
        remove_private(&self.path);
    }
}

impl Private {
    fn make_in(root: &Path, prefix: &str) -> std::io::Result<Self> {
        let name = format!("{prefix}{}-", std::process::id());
        let made = tempfile::Builder::new().prefix(&name).tempdir_in(root)?;
        Ok(Self { path: made.keep() })
    }
}

impl Launch {
    /// Checks the options, and makes what the program needs.
    ///
    /// # Errors
    /// Options that make no sense, and a simulated driver that was asked for and is not to be had.
    /// Whatever else goes wrong is a problem, and the program runs all the same.
    pub(super) fn prepare(args: &Args) -> Outcome<Self> {
        check(args)?;
        let own = std::env::current_exe().context("finding our own executable failed")?;
        let mut launch = Self {
            command: Command::new(&args.command[0]),
            summary: None,
            traces: None,
            out: None,
            problems: Vec::new(),
            private: None,
        };
        launch.command.args(&args.command[1..]);
        launch.record(args, &own);
        if args.device == Choice::Sim {
            launch.simulate(args, &own)?;
        }
        if let Choice::Ordinal(_) | Choice::Uuid(_) = args.device {
            launch.command.env("CUDA_VISIBLE_DEVICES", visible(&args.device));
        }
        Ok(launch)
    }

    /// Has the program recorded, or notes why not.
    fn record(&mut self, args: &Args, own: &Path) {
        if let Some(other) = std::env::var_os(INJECTION).filter(|value| !value.is_empty()) {
            let path = other.display();
            let is_ours = Path::new(&other).file_name().is_some_and(|name| name == LIBRARY);
            return self.unrecorded(if is_ours {
                format!("somebody records it with memvelope already ({INJECTION}={path})")
            } else {
                format!("{INJECTION} is set already, to {path}: another tool's place is not taken")
            });
        }
        let library = match sim_exec::find_library(own, LIBRARY) {
            Ok(library) => library,
            Err(tried) => {
                return self.unrecorded(format!("{LIBRARY} was not found; tried {tried}"));
            }
        };
        let (private, summary) = match make_summary(args.trace_bytes_max) {
            Ok(made) => made,
            Err(why) => return self.unrecorded(why),
        };
        self.command
            .env(INJECTION, library)
            .env(config::SUMMARY.name, private.path.join(SUMMARY_FILE))
            .env_remove(config::TRACE_DIR.name);
        (self.private, self.summary) = (Some(private), Some(summary));
        if let Some(graphs) = args.graphs {
            let word = if graphs == Graphs::Whole { "whole" } else { "nodes" };
            self.command.env(config::GRAPHS.name, word);
        }
        if args.nvtx {
            self.command.env(config::NVTX.name, "on");
            if args.device != Choice::Sim {
                self.point_nvtx_at(config_path(&config::CUPTI_PATH).or_else(cupti::likely_file));
            }
        }
        if let Some(directory) = &args.out {
            self.keep_files(directory);
        }
    }

    fn unrecorded(&mut self, why: String) {
        self.problems.push(format!("not recorded, the program runs all the same: {why}"));
    }

    fn point_nvtx_at(&mut self, cupti: Option<PathBuf>) {
        match cupti {
            Some(path) => drop(self.command.env("NVTX_INJECTION64_PATH", path)),
            None => self.problems.push(
                "--nvtx: no libcupti was found to point NVTX at, so no ranges are recorded; set \
                 MEMVELOPE_CUPTI_PATH"
                    .into(),
            ),
        }
    }

    fn keep_files(&mut self, directory: &Path) {
        let made = output::check_directory(directory).and_then(|()| {
            let whole = std::path::absolute(directory).context("finding it failed")?;
            std::fs::create_dir_all(&whole).context("making it failed")?;
            let hidden = format!(".{PREFIX}");
            sim_exec::sweep_with(&whole, &hidden, remove_private);
            let traces = Private::make_in(&whole, &hidden);
            Ok((whole, traces.context("making a directory in it failed")?))
        });
        match made {
            Ok((whole, traces)) => {
                self.command.env(config::TRACE_DIR.name, &traces.path);
                (self.out, self.traces) = (Some(whole), Some(traces));
            }
            Err(Failure::BadInput(error) | Failure::Failed(error)) => {
                let why = format!("{error:#}");
                let why = why.lines().next().unwrap_or_default();
                self.problems.push(format!("no files are kept: {why}"));
            }
        }
    }

    /// Has the program, and what it starts, find the simulated driver.
    fn simulate(&mut self, args: &Args, own: &Path) -> Outcome<()> {
        let simulator = sim_exec::find_simulator(own)?;
        let private = match self.private.take() {
            Some(private) => private,
            None => make_private(&roots()).map_err(|why| Failure::Failed(anyhow::anyhow!(why)))?,
        };
        let links = private.path.join(SIMULATOR_FOLDER);
        self.private = Some(private);
        std::fs::create_dir(&links)
            .with_context(|| format!("making {} failed", links.display()))?;
        sim_exec::link_simulator(&simulator, &links)?;
        if args.nvtx && self.summary.is_some() {
            self.point_nvtx_at(Some(links.join("libcupti.so.13")));
        }
        self.command.env("LD_LIBRARY_PATH", sim_exec::library_path(&links));
        for key in sim_exec::EXPLICIT_PATHS {
            self.command.env_remove(key.name);
        }
        if let Some(scenario) = &args.scenario {
            self.command.env(config::SIM_SCENARIO.name, sim_exec::read_scenario(scenario)?);
        }
        Ok(())
    }
}

fn check(args: &Args) -> Outcome<()> {
    if args.scenario.is_some() && args.device != Choice::Sim {
        return Err(Failure::bad(
            "--scenario describes the simulated driver\nhint: use it with --device sim",
        ));
    }
    let is_named = matches!(args.device, Choice::Ordinal(_) | Choice::Uuid(_));
    if let Some(set) = std::env::var_os("CUDA_VISIBLE_DEVICES").filter(|_| is_named) {
        return Err(Failure::bad(format!(
            "--device sets CUDA_VISIBLE_DEVICES, which is set already, to {}\nhint: use one of them",
            set.display()
        )));
    }
    Ok(())
}

fn visible(device: &Choice) -> OsString {
    match device {
        Choice::Ordinal(ordinal) => ordinal.to_string().into(),
        Choice::Uuid(uuid) => uuid.into(),
        Choice::Auto | Choice::Sim => OsString::new(),
    }
}

fn config_path(key: &config::Key) -> Option<PathBuf> {
    std::env::var_os(key.name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where private directories may be: in memory, where there is plenty, else where temporary files
/// go.
fn roots() -> Vec<PathBuf> {
    let memory = Path::new("/dev/shm");
    let needed = (FILE_BYTES as u64).saturating_mul(MEMORY_SHARE);
    let has_room = super::os::free_bytes(memory).is_some_and(|free| free > needed);
    let memory = has_room.then(|| memory.to_owned());
    memory.into_iter().chain([std::env::temp_dir()]).collect()
}

/// A private directory in the first root that takes one; `Err` says why none does.
fn make_private(roots: &[PathBuf]) -> Result<Private, String> {
    let mut problems = Vec::new();
    for root in roots {
        sim_exec::sweep_with(root, PREFIX, remove_private);
        match Private::make_in(root, PREFIX) {
            Ok(private) => return Ok(private),
            Err(error) => problems.push(format!("{}: {error}", root.display())),
        }
    }
    Err(format!("no private directory could be made ({})", problems.join("; ")))
}

/// The same with a summary file in it.
fn make_summary(trace_bytes_max: u64) -> Result<(Private, Summary), String> {
    let mut problems = Vec::new();
    for root in roots() {
        let made = make_private(std::slice::from_ref(&root)).and_then(|private| {
            let summary = Summary::create(&private.path.join(SUMMARY_FILE), trace_bytes_max);
            let summary = summary.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
            Ok((private, summary))
        });
        match made {
            Ok(made) => return Ok(made),
            Err(why) => problems.push(why),
        }
    }
    Err(problems.join("; "))
}

/// Removes what is ours from a directory of ours, and the directory when nothing else is in it.
fn remove_private(directory: &Path) {
    sim_exec::unlink_simulator(&directory.join(SIMULATOR_FOLDER));
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Traces that are being written have a dot before their names.
        if name == SUMMARY_FILE || name.trim_start_matches('.').starts_with("trace-") {
            // Best effort: what stays is swept by a later run.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_directory_takes_only_what_is_ours_with_it() {
        let root = tempfile::tempdir().unwrap();
        let private = Private::make_in(root.path(), PREFIX).unwrap();
        let path = private.path.clone();
        for name in ["summary", "trace-1.json", ".trace-2.json.5.0.tmp"] {
            std::fs::write(path.join(name), "x").unwrap();
        }
        drop(private);
        assert!(!path.exists());
        let private = Private::make_in(root.path(), PREFIX).unwrap();
        let kept = private.path.join("somebody else's");
        std::fs::write(&kept, "x").unwrap();
        drop(private);
        assert!(kept.exists());
    }

    #[test]
    fn what_killed_runs_left_is_swept_after_a_while() {
        let root = tempfile::tempdir().unwrap();
        // Above the largest process id that Linux gives out (2^22).
        let (gone, own) = (4_194_305, std::process::id());
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
        let make = |process: u32, name: &str, is_old: bool| {
            let path = root.path().join(format!("{PREFIX}{process}-{name}"));
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join(SUMMARY_FILE), "x").unwrap();
            if is_old {
                std::fs::File::open(&path).unwrap().set_modified(old).unwrap();
            }
            path
        };
        let swept = make(gone, "a", true);
        let kept = [make(gone, "b", false), make(own, "c", true)];
        drop(make_private(&[root.path().to_owned()]).unwrap());
        assert!(!swept.exists());
        assert!(kept.iter().all(|path| path.exists()));
        assert!(make_private(&["/nonexistent".into()]).is_err());
    }
}
