//! The GPU lane without a GPU: the same `run.sh` and the same stages, on the simulated driver. It
//! proves that stages run, that one which cannot says why, that a finished one is not run again,
//! and that results.json is as its schema says.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where cargo put a library that these tests depend on.
fn built(name: &str) -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_gpu-lane")).parent().unwrap();
    let places = [beside.join("deps").join(name), beside.join(name)];
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {name}"))
}

/// A bundle as `cargo xtask gpu-bundle` packs it, of links, without what other packages build.
fn bundle(place: &Path) {
    let link = |from: PathBuf, to: &str| {
        let to = place.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(from, to).unwrap();
    };
    link(root().join("cuda"), "cuda");
    link(env!("CARGO_BIN_EXE_gpu-lane").into(), "bin/gpu-lane");
    for name in ["libmemvelope_sim.so", "libmemvelope_inject.so", "libgpu_lane_collector.so"] {
        link(built(name), &format!("lib/{name}"));
    }
    // Copies: the scripts find the bundle by where they are.
    std::fs::create_dir(place.join("lane")).unwrap();
    for entry in std::fs::read_dir(root().join("gpu/lane")).unwrap().flatten() {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), place.join("lane").join(entry.file_name())).unwrap();
        }
    }
    std::fs::copy(root().join("gpu/run.sh"), place.join("run.sh")).unwrap();
    std::fs::write(place.join("commit.txt"), "a dry run\n").unwrap();
}

fn has_python() -> bool {
    let script = "import sys; sys.exit(sys.version_info < (3, 10))";
    let ran = Command::new("python3").args(["-c", script]).status();
    let is_there = ran.is_ok_and(|status| status.success());
    if !is_there {
        println!("ignored: no Python >= 3.10");
    }
    is_there
}

fn run(place: &Path, arguments: &[&str]) -> Output {
    // By its interpreter: a file just written may still be open in a child that another test forks.
    Command::new("bash").arg(place.join("run.sh")).args(arguments).output().unwrap()
}

fn results(place: &Path) -> Value {
    let text = std::fs::read_to_string(place.join("results-sim/results.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_stage_runs_or_says_why_not() {
    if !has_python() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    bundle(place.path());
    let output = run(place.path(), &["--device", "sim"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{wrong}");
    assert!(said.contains("SIMULATED"), "{said}");

    let results = results(place.path());
    assert_eq!(results["simulated"], true);
    assert_eq!(results["commit"], "a dry run");
    for name in [
        "machine",
        "records",
        "injection",
        "footprint",
        "attributes",
        "correlation",
        "graphs",
        "pressure",
        "clock",
        "name-reads",
        "attach",
        "fragments",
        "rounding",
        "context-size",
        "overhead-launch",
        "overhead-memory",
        "overhead-churn",
    ] {
        assert_eq!(results["stages"][name]["status"], "ok", "{name}\n{wrong}");
    }
    let skipped = |name: &str, why: &str| {
        let stage = &results["stages"][name];
        assert_eq!(stage["status"], "skipped", "{name}: {stage}");
        assert!(stage["reason"].as_str().unwrap().contains(why), "{name}: {stage}");
    };
    skipped("doctor", "bin/memvelope is not in the bundle");
    // "torch not importable", or that it does not run on the simulated driver.
    skipped("overhead-decode-eager", "orch");
    for name in ["ledger-driver", "ledger-model", "ledger-model-expandable"] {
        skipped(name, "no wheel in the bundle");
    }
    // Every comparison has every mode, each of which recorded what its name says.
    let rows = results["slowdowns"].as_array().unwrap();
    for mode in ["nothing", "polling", "idle", "recording-injected", "recording-in-process"] {
        let row = rows.iter().find(|row| row["workload"] == "launch" && row["mode"] == mode);
        let row = row.unwrap_or_else(|| panic!("no {mode} in {rows:?}"));
        assert_eq!(row["failures"], serde_json::json!([]), "{row}");
        assert_eq!(row["rounds"], 2, "{row}");
    }
    let raw = rows.iter().find(|row| row["mode"] == "raw-collector").unwrap();
    // 2,000 launches in batches of 100, and the batch before them.
    assert_eq!(raw["recorder"]["records"], 2100, "{raw}");
    // No simulated time is held to an aim.
    let aims = results["aims"].as_array().unwrap();
    assert!(aims.iter().all(|aim| aim["verdict"] == "not judged: simulated"), "{aims:?}");
    let against = &results["stages"]["records"]["found"]["against_the_table"];
    assert_eq!(against["sizes_that_differ"], serde_json::json!({}), "{against}");
}

#[test]
fn a_finished_stage_is_not_run_again_and_a_failed_one_stops_nobody() {
    if !has_python() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    bundle(place.path());
    // Without its kernels no workload or probe that launches can run; the first stage needs none.
    std::fs::remove_file(place.path().join("cuda")).unwrap();
    std::fs::create_dir(place.path().join("cuda")).unwrap();
    let only = ["--device", "sim", "--only", "machine,attributes,name-reads,wheel"];
    let first = run(place.path(), &only);
    assert!(first.status.success(), "{first:?}");
    let stamp = results(place.path())["stages"]["machine"]["begun"].clone();
    std::fs::remove_file(place.path().join("results-sim/stages/attributes.json")).unwrap();
    std::fs::remove_file(place.path().join("bin/gpu-lane")).unwrap();
    std::fs::write(place.path().join("bin/gpu-lane"), "not a program").unwrap();
    let second = run(place.path(), &only);
    let said = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(said.contains("== machine: already done"), "{said}");
    assert!(!second.status.success(), "{said}");
    let results = results(place.path());
    assert_eq!(results["stages"]["machine"]["begun"], stamp);
    assert_eq!(results["stages"]["attributes"]["status"], "failed", "{said}");
    assert_eq!(results["stages"]["wheel"]["status"], "skipped", "{said}");
}

/// What outlasts its time is ended, and with it what it started.
#[test]
fn time_limits_hold() {
    if !has_python() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let pid = place.path().join("pid");
    let script = root().join("gpu/tests/time_limits.py");
    let output = Command::new("python3")
        .arg("-B")
        .args([&script, &root().join("gpu/lane"), &pid])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("took more than 3 s"), "{output:?}");
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(!Path::new("/proc").join(pid).exists(), "what the stage started goes on");
}

#[test]
fn the_schema_refuses_what_is_not_a_result() {
    if !has_python() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let file = place.path().join("results.json");
        std::fs::write(&file, text).unwrap();
        let schema = root().join("gpu/lane/schema.py");
        Command::new("python3").arg("-B").arg(schema).arg(&file).output().unwrap()
    };
    let whole = r#"{"schema": 1, "commit": "c", "date": "d", "device": "sim", "simulated": true,
        "quick": true, "machine": null, "slowdowns": [], "aims": [], "stages": {"s": {
        "status": "ok", "reason": null, "seconds": 1, "begun": null, "commit": "c",
        "found": {}, "stderr_tail": ""}}}"#;
    let output = check(whole);
    assert!(output.status.success(), "{output:?}");
    for (from, to) in [
        ("\"ok\"", "\"fine\""),
        ("\"seconds\": 1", "\"seconds\": \"1\""),
        ("\"simulated\": true,", ""),
        ("\"aims\": []", "\"aims\": [], \"more\": 1"),
        ("\"schema\": 1", "\"schema\": 2"),
    ] {
        assert!(whole.contains(from));
        let output = check(&whole.replacen(from, to, 1));
        assert!(!output.status.success(), "{from} -> {to}: {output:?}");
    }
}
