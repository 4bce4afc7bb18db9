//! `memvelope run`: what it reports is what the program did, in every process of it.

use crate::common::{json, memvelope, run, stderr, stdout};
use crate::run_common::{launches, live_bytes, on_sim, processes, program, report};
use serde_json::{Value, json};

/// Runs a script of known work, and compares the report with what the program says it did and with
/// the simulator's own books.
#[test]
fn a_script_is_reported_exactly() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let Some(mut command) = on_sim(&["--out", out.to_str().unwrap()], "script", &[]) else {
        return;
    };
    command.env("MEMVELOPE_SIM_BOOKS", place.path().join("books.json"));
    let output = run(&mut command, 7);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let books = json(&place.path().join("books.json"));
    let report = report(&output);
    assert_eq!(report, json(&out.join("report.json")));
    assert_eq!((&report["simulated"], &report["recorded"]), (&json!(true), &json!(true)));
    assert_eq!(report["exit"], json!({"code": 7}));
    assert_eq!(report["problems"], json!([]));
    let [process] = processes(&report) else { panic!("{report}") };
    assert_eq!(process["pid"], report["pid"]);
    assert_eq!(process["exit"], report["exit"]);
    assert_eq!(process["end"]["kind"], "reported");
    assert_eq!((&process["final"], &process["state"]), (&json!(true), &json!("recording")));
    assert_eq!(process["command"], report["command"]);
    assert_eq!(process["snapshot"]["dropped"], json!([]));
    assert_eq!(process["self"]["recorder"]["caught_panics"], 0);
    same_memory(process, &told, &books);
    same_work(&process["snapshot"]["timeline"], &told, &books);
    same_totals(&report["totals"], &books);
    same_trace(&json(&out.join("trace.json")), &process["trace"]);
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

fn same_memory(process: &Value, told: &Value, books: &Value) {
    let device = &process["snapshot"]["devices"][0];
    let (kind, own) = (&device["totals"]["by_kind"][0], &books["devices"][0]["families"]["device"]);
    for key in ["live_bytes", "peak_bytes"] {
        assert_eq!((&kind[key], &kind[key]), (&told[key], &own[key]), "{key}");
    }
    assert_eq!(kind["allocated_count"], told["allocations"]);
    assert_eq!(kind["allocated_count"], own["allocations"]);
    assert_eq!(device["uuid"], books["devices"][0]["uuid"]);
    assert_eq!(device["total_bytes"], books["devices"][0]["total_bytes"]);
}

fn same_work(timeline: &Value, told: &Value, books: &Value) {
    let kernels = timeline["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), 2, "{kernels:?}");
    for kernel in kernels {
        let name = kernel["name"].as_str().unwrap();
        assert_eq!(kernel["count"], told["kernels"][name], "{name}");
        for key in ["count", "total_ns"] {
            assert_eq!(kernel[key], books["kernels"][name][key], "{name} {key}");
        }
    }
    let copies = timeline["copies"].as_array().unwrap();
    assert_eq!(copies.len(), 3, "{copies:?}");
    for copy in copies {
        let direction = copy["direction"].as_str().unwrap();
        assert_eq!(json!([copy["count"], copy["bytes"]]), told["copies"][direction]);
        for key in ["count", "bytes", "total_ns"] {
            assert_eq!(copy[key], books["copies"][direction][key], "{direction} {key}");
        }
    }
    assert_eq!(timeline["memsets"]["count"], told["memsets"]);
    assert_eq!(timeline["memsets"]["total_ns"], books["memsets"]["total_ns"]);
    for sync in timeline["syncs"].as_array().unwrap() {
        let kind = sync["kind"].as_str().unwrap();
        assert_eq!(sync["count"], books["syncs"][kind]["count"], "{kind}");
    }
}

fn same_totals(totals: &Value, books: &Value) {
    assert_eq!((&totals["processes"], &totals["without_report"]), (&json!(1), &json!(0)));
    assert_eq!(totals["kernels"]["count"], 1050);
    for direction in ["host_to_device", "device_to_host", "device_to_device"] {
        assert_eq!(totals["copies"][direction], books["copies"][direction], "{direction}");
    }
    assert_eq!(totals["allocations"]["count"], 3);
    assert_eq!(totals["allocations"]["bytes"], 15 << 20);
}

fn same_trace(trace: &Value, told: &Value) {
    let events = trace["traceEvents"].as_array().unwrap();
    let kernels = events.iter().filter(|event| event["cat"] == "kernel").count();
    assert_eq!(kernels, 1050);
    assert!(events.iter().all(|event| event["pid"].as_u64() > Some(1000)));
    assert_eq!(trace["otherData"]["simulated"], true);
    let shown = events.iter().filter(|event| event["ph"] != "M").count();
    assert_eq!((&told["events"], &told["left_out"]), (&json!(shown), &json!(0)));
}

/// Runs `forks HOW` and returns its report and the processes, in the order in which they began.
fn forked(how: &[&str], code: i32) -> Option<Value> {
    Some(report(&run(&mut on_sim(&[], "forks", how)?, code)))
}

#[test]
fn both_sides_of_a_fork_before_cuda_are_reported() {
    let Some(report) = forked(&["before"], 9) else { return };
    let mut seen: Vec<_> =
        processes(&report).iter().map(|p| (launches(p, "storm"), live_bytes(p))).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(20, 2 << 20), (40, 4 << 20)]);
    assert_eq!(report["totals"]["kernels"]["count"], 60);
    let child = processes(&report).iter().find(|p| p["pid"] != report["pid"]).unwrap();
    assert_eq!((&child["parent_pid"], &child["exit"]), (&report["pid"], &Value::Null));
    assert_eq!(child["end"]["kind"], "reported");
}

/// The child has a copy of our library's state, and runs the exit handlers that it inherited.
#[test]
fn a_child_forked_later_leaves_its_parents_report_alone() {
    let Some(report) = forked(&["after"], 9) else { return };
    let [process] = processes(&report) else { panic!("{report}") };
    assert_eq!(process["pid"], report["pid"]);
    assert_eq!(process["end"]["kind"], "reported");
    assert_eq!((launches(process, "storm"), live_bytes(process)), (40, 4 << 20));
}

#[test]
fn a_child_that_becomes_another_program_is_a_process_of_its_own() {
    let Some(report) = forked(&["exec"], 3) else { return };
    let [own, child] = processes(&report) else { panic!("{report}") };
    assert_eq!((launches(own, "storm"), launches(child, "storm")), (40, 10));
    assert_eq!(child["command"][1], "leaf");
    assert_eq!(own["snapshot"]["dropped"], json!([]));
}

#[test]
fn a_hundred_short_children_are_all_there() {
    let Some(report) = forked(&["many", "100"], 0) else { return };
    assert_eq!(processes(&report).len(), 100);
    assert!(processes(&report).iter().all(|process| launches(process, "storm") == 10));
    assert_eq!(report["totals"]["kernels"]["count"], 1000);
    assert_eq!(report["processes_turned_away"], 0);
}

/// More at a time than there are slots: those that find none wait for one, within bounds.
#[test]
fn of_ninety_children_at_once_each_is_there_or_counted() {
    let Some(report) = forked(&["many", "90", "90"], 0) else { return };
    let listed = processes(&report).len() as u64;
    assert!(listed > 64, "{listed}");
    assert_eq!(listed + report["processes_turned_away"].as_u64().unwrap(), 90);
    assert_eq!(report["totals"]["kernels"]["count"], 10 * listed);
}

#[test]
fn eight_threads_are_one_process() {
    // With an argument the first thread leaves, and the last one to leave ends the process: our own
    // threads must not keep it, nor must it be taken for dead before.
    for arguments in [&[][..], &["leave"]] {
        let Some(mut command) = on_sim(&[], "threads", arguments) else { return };
        let report = report(&run(&mut command, 0));
        let [process] = processes(&report) else { panic!("{report}") };
        assert_eq!(process["end"]["kind"], "reported");
        assert_eq!(launches(process, "storm"), 8 * 500);
        assert_eq!(live_bytes(process), (1..=8).map(|n| n * (64 << 10)).sum::<u64>());
        assert_eq!(report["totals"]["allocations"]["count"], 8 * 21);
    }
}

/// Three thousand long names do not fit a slot: the shortest are summed up, and nothing is lost.
#[test]
fn more_kernels_than_a_slot_holds_are_summed_up() {
    let Some(mut command) = on_sim(&[], "names", &[]) else { return };
    let report = report(&run(&mut command, 0));
    let [process] = processes(&report) else { panic!("{report}") };
    let kernels = process["snapshot"]["timeline"]["kernels"].as_array().unwrap();
    let left_out = process["left_out"]["kernels"].as_u64().unwrap();
    assert!(kernels.len() > 300 && left_out > 0, "{} {left_out}", kernels.len());
    assert_eq!(kernels.len() as u64 - 1 + left_out, 3000);
    assert!(kernels[0]["name"].as_str().unwrap().ends_with("_00000"), "{}", kernels[0]);
    assert_eq!(kernels[0]["count"], 102);
    let rest = kernels.last().unwrap();
    assert_eq!((&rest["name"], &rest["count"]), (&json!("(left out)"), &json!(2 * left_out)));
    assert_eq!(report["totals"]["kernels"]["count"], 6100);
    assert_eq!(process["snapshot"]["dropped"], json!([]));
}

#[test]
fn a_pipeline_of_scripts_and_programs_passes_through() {
    let (Some(forks), Some(script)) = (program("forks"), program("script")) else { return };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("pipeline");
    let text = format!(
        "#!/bin/sh\n{} leaf\n{} | tr a-z A-Z\nread line; echo \"$line\" >&2; exit 21\n",
        forks.display(),
        script.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut command = memvelope(&["run", "--device", "sim", "sh"]);
    command.arg(&file).stdin(std::fs::File::open(&file).unwrap());
    let output = run(&mut command, 21);
    assert!(stdout(&output).starts_with("{\"LIVE_BYTES\""), "{}", stdout(&output));
    let text = stderr(&output);
    assert!(text.starts_with("#!/bin/sh\n"), "{text}");
    for part in ["SIMULATED", "exit code 21", "2 processes used CUDA", "all processes", "storm"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn a_program_without_cuda_is_told_what_to_look_for() {
    let output = run(&mut memvelope(&["run", "--", "echo", "hello", "--json"]), 0);
    assert_eq!(stdout(&output), "hello --json\n");
    let text = stderr(&output);
    assert!(text.contains("nothing was recorded") && text.contains("cuInit"), "{text}");
    assert!(!text.contains("SIMULATED"), "{text}");
}

/// Twelve seconds, in which a trace is written on the way: what a SIGKILL leaves.
#[test]
fn a_killed_program_leaves_the_trace_of_ten_seconds() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().to_str().unwrap();
    let Some(mut command) = on_sim(&["--out", out, "--every", "3s"], "killed", &["later"]) else {
        return;
    };
    let output = command.output().unwrap();
    let report = report(&output);
    assert_eq!(report["exit"], json!({"signal": 9, "name": "SIGKILL"}));
    let [process] = processes(&report) else { panic!("{report}") };
    let trace = json(&place.path().join("trace.json"));
    let kernels = trace["traceEvents"].as_array().unwrap().iter();
    assert_eq!(kernels.filter(|event| event["cat"] == "kernel").count(), 100);
    assert!(process["trace"]["events"].as_u64() >= Some(100), "{}", process["trace"]);
    // A hundredth of a core is meant; a debug build on a busy machine gets twice that.
    let cost = process["self"]["report_cpu_ns"].as_u64().unwrap();
    assert!(cost < report["wall_ns"].as_u64().unwrap() / 50, "{cost}");
    let text = stderr(&output);
    let lines: Vec<_> =
        text.lines().filter(|line| line.starts_with("memvelope: SIMULATED ")).collect();
    // It lasts 11.5 s and, on a busy machine, half a second more.
    assert!(matches!(lines.len(), 3 | 4), "{text}");
    for part in ["1 process, VRAM 0: 10.0 MiB", "1 allocations", "kernels/s", "0 lost"] {
        assert!(lines[0].contains(part), "{part:?} is not in {lines:?}");
    }
}
