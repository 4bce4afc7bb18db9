//! `memvelope run`: what is amiss with us is said, and never the program's problem.

use crate::common::{json, memvelope, refused, run, stderr, stdout};
use crate::run_common::{launches, leftovers, on_sim, processes, program, report};
use serde_json::json;
use std::path::Path;
use std::process::Command;

#[test]
fn bad_options_are_refused_before_anything_is_started() {
    let place = tempfile::tempdir().unwrap();
    let made = place.path().join("made");
    let touch = ["touch", made.to_str().unwrap()];
    let cases: [(&[&str], &[&str]); 8] = [
        (&[], &["<CMD>"]),
        (&["--every", "10", "true"], &["--every", "500ms"]),
        (&["--every", "1ms", "true"], &["100ms at least"]),
        (&["--device", "cuda:0", "true"], &["--device", "ordinal"]),
        (&["--graphs", "some", "true"], &["--graphs", "nodes"]),
        (&["--trace-bytes-max", "1", "true"], &["--trace-bytes-max"]),
        (&["--jsn", "true"], &["--jsn"]),
        (&["--scenario", "x.toml", "true"], &["--device sim"]),
    ];
    refused(&["run"], &cases, &made);
    let scenario = ["run", "--device", "sim", "--scenario", "/nonexistent.toml"];
    let text = stderr(&run(memvelope(&scenario).args(touch), 2));
    assert!(text.contains("/nonexistent.toml"), "{text}");
    let mut command = memvelope(&["run", "--device", "1"]);
    let text = stderr(&run(command.args(touch).env("CUDA_VISIBLE_DEVICES", "0"), 2));
    assert!(text.contains("CUDA_VISIBLE_DEVICES"), "{text}");
    assert!(!made.exists());
}

#[test]
fn a_device_that_is_asked_for_is_the_only_one_that_is_seen() {
    for device in ["1", "GPU-12345678-0000"] {
        let mut command =
            memvelope(&["run", "--device", device, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]);
        let output = run(command.env_remove("CUDA_VISIBLE_DEVICES"), 0);
        assert_eq!(stdout(&output), format!("{device}\n"));
    }
}

#[test]
fn options_reach_the_library() {
    let keys = "echo $MEMVELOPE_GRAPHS $MEMVELOPE_NVTX ${NVTX_INJECTION64_PATH##*/}";
    let options = ["run", "--device", "sim", "--graphs", "whole", "--nvtx", "sh", "-c", keys];
    assert_eq!(stdout(&run(&mut memvelope(&options), 0)), "whole on libcupti.so.13\n");
    // Where there is no libcupti, it is said.
    let place = tempfile::tempdir().unwrap();
    let mut command = memvelope(&["run", "--nvtx", "sh", "-c", keys]);
    for key in ["VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"] {
        command.env(key, place.path());
    }
    let output = run(command.env("LD_LIBRARY_PATH", place.path()), 0);
    let (out, text) = (stdout(&output), stderr(&output));
    assert!(
        out.contains("libcupti") || text.contains("--nvtx: no libcupti was found"),
        "{out} {text}"
    );
}

#[test]
fn another_tools_place_is_not_taken() {
    let Some(mut command) = on_sim(&[], "killed", &["exit", "9"]) else { return };
    let output = run(command.env("CUDA_INJECTION64_PATH", "/opt/tool/libtool.so"), 9);
    let text = stderr(&output);
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("memvelope: not recorded") && first.contains("libtool.so"), "{text}");
    let report = report(&output);
    assert_eq!((&report["recorded"], &report["exit"]), (&json!(false), &json!({"code": 9})));
    // Without --json the message is all there is.
    let mut command = memvelope(&["run", "sh", "-c", "exit 9"]);
    let output = run(command.env("CUDA_INJECTION64_PATH", "/opt/tool/libtool.so"), 9);
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}

#[test]
fn a_run_within_a_run_is_recorded_once() {
    let own = env!("CARGO_BIN_EXE_memvelope");
    let Some(killed) = program("killed") else { return };
    let inner = format!("{own} run {} exit 8; exit $?", killed.display());
    let mut command = memvelope(&["run", "--device", "sim", "--json", "sh", "-c", &inner]);
    let output = run(command.env_remove("CUDA_INJECTION64_PATH"), 8);
    assert!(stderr(&output).contains("with memvelope already"), "{}", stderr(&output));
    assert_eq!(launches(&processes(&report(&output))[0], "storm"), 100);
}

#[test]
fn without_our_library_the_program_runs_all_the_same() {
    let place = tempfile::tempdir().unwrap();
    let own = place.path().join("memvelope");
    std::fs::copy(env!("CARGO_BIN_EXE_memvelope"), &own).unwrap();
    let output = run(Command::new(own).args(["run", "sh", "-c", "echo out; exit 4"]), 4);
    assert_eq!(stdout(&output), "out\n");
    let text = stderr(&output);
    assert!(text.contains("libmemvelope_inject.so was not found"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn a_directory_that_cannot_be_written_costs_the_files_alone() {
    let Some(mut command) = on_sim(&["--out", "/proc/out"], "killed", &["exit", "2"]) else {
        return;
    };
    let report = report(&run(command.env("TMPDIR", "/nonexistent"), 2));
    assert!(report["problems"][0].as_str().unwrap().contains("/proc"), "{report}");
    assert_eq!(launches(&processes(&report)[0], "storm"), 100);
    assert_eq!(report["files"]["trace"], json!(null));
}

/// Runs a shell command where `/dev/shm` and `/mnt` are file systems of so many KiB; `None` where
/// that is not allowed.
fn in_small(kib: u32, script: &str) -> Option<std::process::Output> {
    let mount = |at: &str| format!("mount -t tmpfs -o size={kib}k none {at}");
    let script = format!("{} && {} || exit 99; {script}", mount("/dev/shm"), mount("/mnt"));
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().ok()?;
    if output.status.code() == Some(99) || stderr(&output).contains("unshare failed") {
        println!("ignored: no file system can be mounted here: {}", stderr(&output));
        return None;
    }
    Some(output)
}

#[test]
fn a_full_disk_is_said_and_changes_nothing() {
    let own = env!("CARGO_BIN_EXE_memvelope");
    let Some(killed) = program("killed") else { return };
    let killed = killed.display();
    // Neither place has room for the summary.
    let script = format!("TMPDIR=/mnt {own} run --device sim --json {killed} exit 3");
    if let Some(output) = in_small(200, &script) {
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let report = report(&output);
        assert_eq!(report["recorded"], false);
        let problem = report["problems"][0].as_str().unwrap();
        assert!(problem.contains("No space left") && problem.contains("/mnt"), "{problem}");
    }
    // The files of --out do not fit, the summary elsewhere does.
    let script = format!("{own} run --device sim --json --out /mnt/out {killed} exit 3");
    if let Some(output) = in_small(16, &script) {
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let report = report(&output);
        assert_eq!(launches(&processes(&report)[0], "storm"), 100);
        assert!(stderr(&output).contains("No space left"), "{}", stderr(&output));
    }
}

#[test]
fn a_limit_on_our_own_files_is_said_and_changes_nothing() {
    let Some(killed) = program("killed") else { return };
    let own = env!("CARGO_BIN_EXE_memvelope");
    let script =
        format!("ulimit -f 8; exec {own} run --device sim --json {} exit 3", killed.display());
    let output = run(Command::new("sh").arg("-c").arg(script), 3);
    let report = report(&output);
    assert!(report["problems"][0].as_str().unwrap().contains("RLIMIT_FSIZE"), "{report}");
}

#[test]
fn nothing_is_left_behind() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let Some(mut command) = on_sim(&["--out", out.to_str().unwrap()], "killed", &["exit", "0"])
    else {
        return;
    };
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let own = child.id();
    assert!(child.wait().unwrap().success());
    assert!(leftovers(own).is_empty(), "{:?}", leftovers(own));
    let names = |path: &Path| std::fs::read_dir(path).unwrap().count();
    assert_eq!(names(&out), 2);
    assert_eq!(json(&out.join("report.json"))["exit"], json!({"code": 0}));
}

/// A file that the library was asked for besides is the same document.
#[test]
fn a_report_as_a_file_is_kept_as_well() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("own-%p.json");
    let Some(mut command) = on_sim(&[], "killed", &["exit", "0"]) else { return };
    let report = report(&run(command.env("MEMVELOPE_REPORT", &file), 0));
    let [process] = processes(&report) else { panic!("{report}") };
    let own = json(&place.path().join(format!("own-{}.json", process["pid"])));
    assert_eq!(own["schema"], "memvelope.process/1");
    for key in ["pid", "parent_pid", "command", "name", "final", "mode", "simulated"] {
        assert_eq!(own[key], process[key], "{key}");
    }
    assert_eq!(own["snapshot"]["timeline"], process["snapshot"]["timeline"]);
}

/// The summary of an older or newer memvelope: said by the library, and not misread.
#[test]
fn a_summary_of_another_version_is_said() {
    let Some(killed) = program("killed") else { return };
    let place = tempfile::tempdir().unwrap();
    let summary = place.path().join("summary");
    std::fs::write(&summary, [0u8; 4096]).unwrap();
    let own = env!("CARGO_BIN_EXE_memvelope");
    // The inner command replaces the summary that the program was told of.
    let script =
        format!("MEMVELOPE_SUMMARY={} exec {} exit 6", summary.display(), killed.display());
    let mut command = Command::new(own);
    let output = run(command.args(["run", "--device", "sim", "--json", "sh", "-c", &script]), 6);
    let text = stderr(&output);
    assert_eq!(text.matches("not a summary file of this version").count(), 1, "{text}");
    assert_eq!(report(&output)["processes"], json!([]));
}
