//! Every file of `examples/` runs to its end, where there is no driver and on the simulated one.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};
use std::process::Command;

const NAMES: [&str; 4] = ["libcuda.so", "libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1"];

/// Where cargo puts example programs: beside the folder of test programs.
fn programs() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().with_file_name("examples")
}

/// Names of all examples, from the sources: one that no manifest declares has no program.
fn examples() -> Vec<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let entries = std::fs::read_dir(sources).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let rust = paths.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let mut names: Vec<String> =
        rust.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    names
}

/// Runs each example and returns its output.
fn run_all(prepare: impl Fn(&mut Command)) -> Option<Vec<(String, String)>> {
    let programs = programs();
    let mut outputs = Vec::new();
    for name in examples() {
        let program = programs.join(&name);
        if !programs.is_dir() {
            println!(
                "ignored: examples are not built (`cargo test` builds them, `--test` does not)"
            );
            return None;
        }
        let mut command = Command::new(&program);
        let place = tempfile::tempdir().unwrap();
        command.current_dir(place.path()).env("TMPDIR", place.path());
        prepare(&mut command);
        let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {}\n{text}{said}", output.status);
        assert!(!text.is_empty(), "{name} printed nothing");
        outputs.push((name, text));
    }
    Some(outputs)
}

#[test]
fn examples_run_without_a_driver() {
    let no_driver = |command: &mut Command| {
        command.env("MEMVELOPE_CUDA_PATH", "/nonexistent/libcuda.so.1");
    };
    for (name, text) in run_all(no_driver).unwrap_or_default() {
        assert!(!text.contains("SIMULATED"), "{name}: {text}");
    }
}

#[test]
fn examples_run_on_the_simulated_driver_and_say_so() {
    let deps = std::env::current_exe().unwrap();
    let simulator = deps.with_file_name("libmemvelope_sim.so");
    if !simulator.exists() {
        println!("ignored: libmemvelope_sim.so is not built");
        return;
    }
    let libraries = tempfile::tempdir().unwrap();
    for name in NAMES {
        std::os::unix::fs::symlink(&simulator, libraries.path().join(name)).unwrap();
    }
    let simulated = |command: &mut Command| {
        command.env("LD_LIBRARY_PATH", libraries.path());
    };
    let Some(outputs) = run_all(simulated) else { return };
    for (name, part) in [
        ("03_record", "SIMULATED"),
        ("04_snapshot", "SIMULATED"),
        ("04_snapshot", "would 4.00 GiB fit?\n  yes: 4.00 GiB would be taken"),
    ] {
        let (_, text) = outputs.iter().find(|(own, _)| own == name).unwrap();
        assert!(text.contains(part), "{name}: {text}");
    }
}
