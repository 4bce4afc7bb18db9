//! Where a subcommand runs: on the real driver, or on the simulated one.
//!
//! The dynamic loader reads `LD_LIBRARY_PATH` once, at start. So a run on the simulated driver
//! makes a private directory in which the simulator has the names of the libraries it stands for
//! (links: one inode, so the loader maps it once and all three share one state), and *replaces*
//! this process by itself with that directory first on the path. Replacing rather than spawning
//! keeps one process: signals, exit codes and `kill -9` mean what they say.

use crate::failure::{Failure, Outcome};
use anyhow::{Context, anyhow};
use memvelope::config::{self, Config};
use memvelope::source::driver::{DeviceInfo, Driver};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// File name of the simulated driver.
const SIMULATOR: &str = "libmemvelope_sim.so";

/// The names under which libraries are looked for: cudarc tries `libcuda.so` first.
const NAMES: [&str; 4] = ["libcuda.so", "libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1"];

/// Begin of the private directories' names; the process id follows.
const PREFIX: &str = "memvelope-sim-";

/// A private directory that outlived its process (killed) is swept by a later run after this time.
/// Libraries are opened within seconds, so nobody needs it any more.
const STALE: Duration = Duration::from_secs(3600);

/// What to run on, as given by `--device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A real device if the driver works and has one, else the simulated driver.
    Auto,
    /// The simulated driver.
    Sim,
    /// The device with this CUDA ordinal.
    Ordinal(u32),
    /// The device with this UUID (`GPU-…`, `MIG-…`).
    Uuid(String),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "sim" => Ok(Self::Sim),
            _ if text.starts_with("GPU-") || text.starts_with("MIG-") => {
                Ok(Self::Uuid(text.into()))
            }
            _ => text.parse().map(Self::Ordinal).map_err(|_| {
                "expected auto, sim, a CUDA ordinal (0, 1, ...) or a UUID (GPU-..., MIG-...)".into()
            }),
        }
    }
}

/// Settles which device to use. Returns in the process that is to do the work: at once on a real
/// device, and in the re-executed process on the simulated one.
///
/// # Errors
/// No such device, no simulator, or a driver that was asked for by name and does not work.
pub(crate) fn settle(choice: &Choice, scenario: Option<&Path>) -> Outcome<DeviceInfo> {
    if is_re_executed() {
        return pick(choice, simulated_devices()?);
    }
    match choice {
        Choice::Sim => Err(re_execute(scenario)),
        Choice::Auto => match devices() {
            Ok(devices) if !devices.is_empty() && scenario.is_none() => pick(choice, devices),
            _ => Err(re_execute(scenario)),
        },
        Choice::Ordinal(_) | Choice::Uuid(_) => {
            if scenario.is_some() {
                return Err(Failure::bad(
                    "--scenario describes the simulated driver\nhint: use it with --device sim",
                ));
            }
            pick(choice, devices()?)
        }
    }
}

/// Whether this process was re-executed on the simulated driver.
pub(crate) fn is_re_executed() -> bool {
    std::env::var_os(config::SIM_ACTIVE.name).is_some()
}

/// Removes the private directory of a run on the simulated driver. Called as soon as the libraries
/// are open, which then stay, and by `main` at its end.
pub(crate) fn clean_up() {
    if let Some(directory) = std::env::var_os(config::SIM_ACTIVE.name) {
        remove_private(Path::new(&directory));
    }
}

/// The same in the re-executed process, where a driver that does not start means a scenario that
/// makes no sense: the simulator has said on stderr what is wrong with it.
fn simulated_devices() -> Outcome<Vec<DeviceInfo>> {
    let (driver, report) = Driver::load(&Config::from_env().0);
    // No scenario keeps the simulated libcuda from being found; what it lacks, it lacks later.
    let is_real = driver.is_ok_and(|driver| driver.simulator_version().is_none());
    if is_real || report.chosen.is_none() {
        return Err(Failure::bad(format!(
            "{} is set, but libcuda is not simulated\nhint: unset it; --device sim sets it",
            config::SIM_ACTIVE.name
        )));
    }
    devices().map_err(|failure| {
        let (Failure::BadInput(error) | Failure::Failed(error)) = failure;
        Failure::BadInput(error.context(
            "the simulated driver did not start\nhint: see above what is wrong with --scenario",
        ))
    })
}

fn devices() -> Outcome<Vec<DeviceInfo>> {
    let (config, _) = Config::from_env();
    let (driver, _) = Driver::load(&config);
    let driver = driver?;
    driver.init()?;
    Ok(driver.devices()?)
}

fn pick(choice: &Choice, devices: Vec<DeviceInfo>) -> Outcome<DeviceInfo> {
    let known: Vec<_> = devices.iter().map(|d| format!("{} ({})", d.index.0, d.uuid)).collect();
    let wanted = match choice {
        Choice::Auto | Choice::Sim => devices.into_iter().next(),
        Choice::Ordinal(ordinal) => devices.into_iter().find(|d| d.index.0 == *ordinal),
        Choice::Uuid(uuid) => devices.into_iter().find(|d| d.uuid.eq_ignore_ascii_case(uuid)),
    };
    wanted.ok_or_else(|| {
        Failure::bad(format!(
            "--device: there is no such device\nhint: this process sees {}",
            if known.is_empty() { "none".into() } else { known.join(", ") }
        ))
    })
}

/// Replaces this process. Only returns when that failed.
fn re_execute(scenario: Option<&Path>) -> Failure {
    match prepare(scenario) {
        Ok(mut command) => {
            let failed = command.exec();
            anyhow!(failed).context("starting memvelope anew on the simulated driver failed").into()
        }
        Err(failure) => failure,
    }
}

fn prepare(scenario: Option<&Path>) -> Outcome<std::process::Command> {
    let own = std::env::current_exe().context("finding our own executable failed")?;
    let simulator = find_simulator(&own)?;
    let scenario = scenario.map(read_scenario).transpose()?;
    let directory = make_private(&simulator)?;

    let mut command = std::process::Command::new(own);
    command.args(std::env::args_os().skip(1));
    command
        .env("LD_LIBRARY_PATH", library_path(&directory))
        .env(config::SIM_ACTIVE.name, &directory);
    for key in EXPLICIT_PATHS {
        command.env_remove(key.name);
    }
    if let Some(scenario) = scenario {
        command.env(config::SIM_SCENARIO.name, scenario);
    }
    Ok(command)
}

/// Absolute path of a scenario that can be read. What is in it, the simulator checks.
pub(crate) fn read_scenario(path: &Path) -> Outcome<PathBuf> {
    let failed = |source| memvelope::Error::ReadFile { path: path.to_owned(), source };
    std::fs::File::open(path).map_err(failed)?;
    Ok(path.canonicalize().map_err(failed)?)
}

/// Our libraries lie beside the executable, in `../lib` (an installation), or where cargo puts them.
/// `deps` comes first: cargo builds there, and renews the copy beside the executable only when that
/// library itself was asked for. `Err` has the candidates.
pub(crate) fn find_library(own: &Path, name: &str) -> Result<PathBuf, String> {
    let beside = own.parent().unwrap_or(Path::new("/"));
    let candidates = ["deps", "", "../lib", ".."].map(|folder| beside.join(folder).join(name));
    let found = candidates.iter().find_map(|path| path.canonicalize().ok());
    found.ok_or_else(|| {
        let tried: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
        tried.join(", ")
    })
}

/// Where the simulator is.
pub(crate) fn find_simulator(own: &Path) -> Outcome<PathBuf> {
    find_library(own, SIMULATOR).map_err(|tried| {
        Failure::bad(format!(
            "the simulated driver ({SIMULATOR}) was not found; tried {tried}\n\
             hint: build it with `cargo build -p memvelope-sim`, or put it beside the command"
        ))
    })
}

/// Gives the simulator the names of the libraries it stands for.
pub(crate) fn link_simulator(simulator: &Path, directory: &Path) -> anyhow::Result<()> {
    for name in NAMES {
        std::os::unix::fs::symlink(simulator, directory.join(name))
            .with_context(|| format!("linking {name} in {} failed", directory.display()))?;
    }
    Ok(())
}

/// `LD_LIBRARY_PATH` with `directory` before everything else.
pub(crate) fn library_path(directory: &Path) -> OsString {
    let mut path = OsString::from(directory);
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH").filter(|value| !value.is_empty()) {
        path.push(":");
        path.push(before);
    }
    path
}

/// Explicit paths of real libraries would win over the links.
pub(crate) const EXPLICIT_PATHS: [config::Key; 3] =
    [config::CUDA_PATH, config::CUPTI_PATH, config::NVML_PATH];

fn make_private(simulator: &Path) -> Outcome<PathBuf> {
    let root = std::env::temp_dir();
    sweep(&root);
    let directory = tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .tempdir_in(&root)
        .with_context(|| {
            format!(
                "making a private directory in {} failed\n\
                 hint: set TMPDIR to a directory that can be written",
                root.display()
            )
        })?;
    link_simulator(simulator, directory.path())?;
    Ok(directory.keep())
}

/// Removes a directory of ours: the links by their names, then the directory, which only goes
/// when nothing else is in it. A path that somebody else put into the environment loses nothing.
fn remove_private(directory: &Path) {
    let named_by_us =
        directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    if !named_by_us {
        return;
    }
    unlink_simulator(directory);
}

/// Sweeps directories whose process was killed before it could remove them.
fn sweep(root: &Path) {
    sweep_with(root, PREFIX, remove_private);
}

/// Removes by `remove` the directories in `root` that are named `prefix`, process id, and a dash,
/// whose process is gone, and which nobody has used for a while.
pub(crate) fn sweep_with(root: &Path, prefix: &str, remove: impl Fn(&Path)) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
        let Some((process, _)) = rest.split_once('-') else { continue };
        let age =
            entry.metadata().and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
        let is_over = !Path::new("/proc").join(process).exists();
        if is_over && age.is_some_and(|age| age > STALE) {
            remove(&entry.path());
        }
    }
}

/// Removes the simulator's links from a directory, and the directory when nothing else is in it.
pub(crate) fn unlink_simulator(directory: &Path) {
    for name in NAMES {
        let link = directory.join(name);
        if link.symlink_metadata().is_ok_and(|data| data.is_symlink()) {
            // Best effort: what stays is swept by a later run.
            let _ = std::fs::remove_file(link);
        }
    }
    let _ = std::fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_in_four_ways() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("sim".parse(), Ok(Choice::Sim));
        assert_eq!("3".parse(), Ok(Choice::Ordinal(3)));
        assert_eq!("GPU-ab".parse(), Ok(Choice::Uuid("GPU-ab".into())));
        assert!("cuda:0".parse::<Choice>().is_err());
        assert!("-1".parse::<Choice>().is_err());
    }

    #[test]
    fn the_private_directory_has_one_inode_and_goes_away() {
        use std::os::unix::fs::MetadataExt;
        let own = tempfile::tempdir().unwrap();
        let simulator = own.path().join(SIMULATOR);
        std::fs::write(&simulator, "x").unwrap();
        let directory = make_private(&simulator).unwrap();
        let inodes: std::collections::BTreeSet<_> =
            NAMES.iter().map(|n| directory.join(n).metadata().unwrap().ino()).collect();
        assert_eq!(inodes.len(), 1);
        remove_private(&directory);
        assert!(!directory.exists());
    }

    #[test]
    fn only_our_own_links_are_ever_removed() {
        let other = tempfile::tempdir().unwrap();
        let kept = other.path().join("libcuda.so");
        std::fs::write(&kept, "x").unwrap();
        remove_private(other.path());
        assert!(kept.exists());
        let ours = other.path().join(format!("{PREFIX}1-x"));
        std::fs::create_dir(&ours).unwrap();
        std::fs::write(ours.join("libcuda.so"), "not a link").unwrap();
        remove_private(&ours);
        assert!(ours.join("libcuda.so").exists());
    }
}
