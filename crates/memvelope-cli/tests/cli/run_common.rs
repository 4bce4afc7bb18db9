//! C programs on the simulated driver, run by `memvelope run`.

use crate::common::memvelope;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The programs of `tests/programs/`, compiled once. `None`, said once a test, without a compiler.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs");
        for name in ["script", "forks", "threads", "killed", "names", "everything", "corners"] {
            let mut cc = Command::new("cc");
            cc.args(["-Wall", "-Werror", "-o"]).arg(folder.path().join(name));
            cc.arg(sources.join(format!("{name}.c"))).args(["-ldl", "-lpthread"]);
            assert!(cc.status().ok()?.success(), "{name}.c");
        }
        Some(folder)
    });
    if folder.is_none() {
        println!("ignored: no C compiler");
    }
    folder.as_ref().map(|folder| folder.path().join(name))
}

/// `memvelope run --device sim --json OPTIONS -- PROGRAM ARGS`; `None` without a C compiler.
pub(crate) fn on_sim(options: &[&str], name: &str, args: &[&str]) -> Option<Command> {
    let mut command = memvelope(&["run", "--device", "sim", "--json"]);
    command.env_remove("CUDA_INJECTION64_PATH").args(options).arg("--");
    command.arg(program(name)?).args(args).stdin(Stdio::null());
    Some(command)
}

/// A program with the injection library on the simulated driver, as a person sets it up who does
/// without `memvelope run`; `None` without a C compiler.
pub(crate) fn injected(name: &str, args: &[&str]) -> Option<Command> {
    let mut command = Command::new(program(name)?);
    inject(&mut command);
    command.args(args).stdin(Stdio::null());
    Some(command)
}

/// The environment of such a program.
pub(crate) fn inject(command: &mut Command) {
    let libraries = Path::new(env!("CARGO_BIN_EXE_memvelope")).with_file_name("deps");
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1"] {
            let simulator = libraries.join("libmemvelope_sim.so");
            std::os::unix::fs::symlink(simulator, folder.path().join(name)).unwrap();
        }
        folder
    });
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("MEMVELOPE_") {
            command.env_remove(key);
        }
    }
    command.env("LD_LIBRARY_PATH", folder.path());
    command.env("CUDA_INJECTION64_PATH", libraries.join("libmemvelope_inject.so"));
}

/// The report: the last line on stderr.
pub(crate) fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    assert_eq!(report["schema"], "memvelope.run/1");
    report
}

/// The processes of a report.
pub(crate) fn processes(report: &Value) -> &[Value] {
    report["processes"].as_array().unwrap()
}

/// How often a kernel ran in a process.
pub(crate) fn launches(process: &Value, kernel: &str) -> u64 {
    let kernels = process["snapshot"]["timeline"]["kernels"].as_array().unwrap();
    let own = kernels.iter().filter(|row| row["name"] == kernel);
    own.map(|row| row["count"].as_u64().unwrap()).sum()
}

/// Live bytes of plain allocations on the first device.
pub(crate) fn live_bytes(process: &Value) -> u64 {
    process["snapshot"]["devices"][0]["totals"]["by_kind"][0]["live_bytes"].as_u64().unwrap()
}

/// Sends a signal.
pub(crate) fn kill(signal: &str, pid: u32) {
    let mut kill = Command::new("sh");
    kill.arg("-c").arg(format!("kill -{signal} {pid}"));
    assert!(kill.status().unwrap().success());
}

/// Private directories of runs that this process's children left behind.
pub(crate) fn leftovers(of: u32) -> Vec<PathBuf> {
    let roots = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    let entries = roots.iter().filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
    let mark = format!("memvelope-run-{of}-");
    entries.map(|e| e.path()).filter(|path| path.to_string_lossy().contains(&mark)).collect()
}
