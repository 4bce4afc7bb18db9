//! Conformance: one body, two twins. `sim::NAME` runs it on the simulated driver, `gpu::NAME` on
//! the machine's own; what holds on one must hold on the other.
//!
//! Each twin is a process of its own (this program with `--body NAME`): the simulated driver is
//! found through `LD_LIBRARY_PATH`, which is read at start, and a driver that crashes takes one
//! test with it. Without a GPU the second kind is ignored and says so; `MEMVELOPE_GPU=require`
//! makes that a failure, `off` ignores them all.

mod bodies;

use bodies::BODIES;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use memvelope::config::{self, Config};
use memvelope::source::driver::Driver;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SIMULATOR: &str = "libmemvelope_sim.so";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, name] = &args[..]
        && flag == "--body"
    {
        let body = BODIES.iter().find(|(known, _)| known == name);
        // A body that fails panics, and the twin's parent shows what it said.
        return body.map_or(ExitCode::from(2), |(_, run)| {
            run();
            ExitCode::SUCCESS
        });
    }
    let gpu = gpu();
    let mut trials = Vec::new();
    for (name, _) in BODIES {
        trials.push(Trial::ignorable_test(format!("sim::{name}"), || on_simulator(name)));
        let gpu = gpu.clone();
        trials.push(Trial::ignorable_test(format!("gpu::{name}"), move || on_gpu(name, gpu)));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Why the bodies cannot run on a GPU here.
#[derive(Clone)]
enum Missing {
    Ignored(String),
    Failed(String),
}

fn gpu() -> Result<(), Missing> {
    let wanted = std::env::var(config::GPU.name).unwrap_or_default();
    if wanted == "off" {
        return Err(Missing::Ignored(format!("{}=off", config::GPU.name)));
    }
    let (driver, _) = Driver::load(&Config::from_env().0);
    let devices = driver.and_then(|driver| driver.init().and_then(|()| driver.devices()));
    match devices {
        Ok(devices) if !devices.is_empty() => Ok(()),
        _ if wanted == "require" => {
            Err(Missing::Failed(format!("no GPU, and {}=require asks for one", config::GPU.name)))
        }
        _ => Err(Missing::Ignored("no GPU".into())),
    }
}

fn on_gpu(name: &str, gpu: Result<(), Missing>) -> Result<Completion, Failed> {
    match gpu {
        Ok(()) => run(name, &mut own()?),
        Err(Missing::Ignored(why)) => Ok(Completion::ignored_with(why)),
        Err(Missing::Failed(why)) => Err(why.into()),
    }
}

fn on_simulator(name: &str) -> Result<Completion, Failed> {
    let own_path = std::env::current_exe()?;
    let Some(simulator) = find(&own_path, SIMULATOR) else {
        return Ok(Completion::ignored_with(format!("no {SIMULATOR} beside the tests")));
    };
    let place = tempfile::tempdir()?;
    // One inode under all names: the loader maps it once, and the three libraries share one state.
    for link in ["libcuda.so", "libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1"] {
        std::os::unix::fs::symlink(&simulator, place.path().join(link))?;
    }
    let mut command = own()?;
    command.env("LD_LIBRARY_PATH", place.path());
    for key in [config::CUDA_PATH, config::CUPTI_PATH, config::NVML_PATH] {
        command.env_remove(key.name);
    }
    run(name, &mut command)
}

fn own() -> std::io::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

fn run(name: &str, command: &mut Command) -> Result<Completion, Failed> {
    let output = command.args(["--body", name]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(why) = text.lines().find_map(|line| line.strip_prefix("ignored: ")) {
        return Ok(Completion::ignored_with(why));
    }
    if output.status.success() {
        return Ok(Completion::Completed);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}\n{text}{said}", output.status).into())
}

/// A file that cargo, or a bundle, put near this program.
pub(crate) fn find(own: &Path, name: &str) -> Option<PathBuf> {
    let beside = own.parent()?;
    let mut places =
        ["", "..", "../lib", "../bin"].iter().map(|folder| beside.join(folder).join(name));
    places.find(|path| path.exists())
}
