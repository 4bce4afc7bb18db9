//! A directory with the simulator under the names of the driver's libraries, and commands run on it.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The names under which loaders look for the three libraries.
const NAMES: [&str; 4] = ["libcuda.so", "libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1"];

/// A library that cargo built along with the tests.
pub(crate) fn built(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let deps = exe.parent().expect("a folder");
    let candidates = [deps.join(name), deps.join("..").join(name)];
    candidates.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{name} is built"))
}

/// A private directory for one run.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(scenario: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let simulator = built("libmemvelope_sim.so");
        for name in NAMES {
            std::os::unix::fs::symlink(&simulator, dir.path().join(name)).expect("a link");
        }
        std::fs::write(dir.path().join("scenario.toml"), scenario).expect("the scenario");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command that sees the simulator and nothing else of memvelope's environment.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MEMVELOPE_") {
                command.env_remove(name);
            }
        }
        command
            .env("LD_LIBRARY_PATH", self.dir.path())
            .env("MEMVELOPE_SIM_SCENARIO", self.path("scenario.toml"))
            .env("MEMVELOPE_SIM_BOOKS", self.path("books.json"))
            .env_remove("CUDA_INJECTION64_PATH");
        command
    }

    pub(crate) fn json(&self, name: &str) -> serde_json::Value {
        let text = std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

/// Runs to the end, or kills after a minute: a recorder must not hang its host.
pub(crate) fn run(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("the program's state").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("the program can be killed");
            panic!("hangs: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("the program's output")
}
