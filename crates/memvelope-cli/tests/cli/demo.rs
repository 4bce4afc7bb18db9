//! `memvelope demo` on the simulated driver: its report against the simulator's own books, bad
//! input, and what a kill leaves behind.

use crate::common::{json, memvelope, number, refused, run, stderr, stdout};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// A load that a 20 GiB share of the simulated 80 GiB cannot take at once: the built-in 8B model
/// leaves about 3 GiB for the cache.
const TIGHT: &[&str] =
    &["--count", "150", "--rate", "200", "--vram", "20GiB", "--max-new-tokens", "256"];

struct Ran {
    report: Value,
    books: Value,
    trace: Value,
    text: String,
}

fn demo(extra: &[&str]) -> Ran {
    demo_polling(extra, "1000")
}

fn demo_polling(extra: &[&str], poll_period_ms: &str) -> Ran {
    let place = tempfile::tempdir().unwrap();
    let (out, books) = (place.path().join("out"), place.path().join("books.json"));
    let mut command = memvelope(&["demo", "--device", "sim", "--out", out.to_str().unwrap()]);
    command.args(extra).env("MEMVELOPE_SIM_BOOKS", &books);
    command.env("MEMVELOPE_POLL_PERIOD_MS", poll_period_ms);
    let output = run(&mut command, 0);
    assert_no_temporary_files(&out);
    Ran {
        report: json(&out.join("report.json")),
        books: json(&books),
        trace: json(&out.join("trace.json")),
        text: stdout(&output),
    }
}

/// Every number that both the report and the simulator keep is the same.
fn assert_equals_books(ran: &Ran) {
    let (report, books) = (&ran.report, &ran.books);
    let device = &books["devices"][0];
    assert_eq!(number(report, &["cuda_ooms"]), number(books, &["cuda_ooms"]), "CUDA OOMs");
    let peak = number(report, &["vram_by_kind", "device", "peak_bytes"]);
    assert_eq!(peak, number(device, &["families", "device", "peak_bytes"]), "peak of cuMemAlloc");
    assert_eq!(
        number(report, &["peak_vram_bytes"]),
        number(device, &["families", "device", "peak_bytes"]),
        "peak of VRAM"
    );
    let pinned = number(report, &["vram_by_kind", "pinned_host", "peak_bytes"]);
    assert_eq!(pinned, number(device, &["families", "pinned_host", "peak_bytes"]), "pinned peak");
    assert_eq!(number(device, &["requested_live_bytes"]), 0, "everything was given back");
    let kernels = report["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), books["kernels"].as_object().unwrap().len());
    for kernel in kernels {
        let name = kernel["name"].as_str().unwrap();
        for (ours, theirs) in [("count", "count"), ("total_ns", "total_ns")] {
            let expect = number(books, &["kernels", name, theirs]);
            assert_eq!(number(kernel, &[ours]), expect, "{ours} of {name}");
        }
    }
    for direction in ["host_to_device", "device_to_host"] {
        let copies = report["copies"].as_array().unwrap();
        let copy = copies.iter().find(|copy| copy["direction"] == direction).unwrap();
        for field in ["count", "bytes", "total_ns"] {
            let expect = number(books, &["copies", direction, field]);
            assert_eq!(number(copy, &[field]), expect, "{field} of {direction}");
        }
    }
    for field in ["count", "total_ns"] {
        assert_eq!(number(report, &["memsets", field]), number(books, &["memsets", field]));
    }
    for sync in report["syncs"].as_array().unwrap() {
        let kind = sync["kind"].as_str().unwrap();
        assert_eq!(number(sync, &["count"]), number(books, &["syncs", kind, "count"]), "{kind}");
    }
    assert_eq!(number(books, &["caught_panics"]), 0);
    assert_eq!(number(books, &["activity", "dropped"]), 0);
}

#[test]
fn behind_the_gate_nothing_runs_out_and_the_books_agree() {
    let ran = demo(TIGHT);
    assert_equals_books(&ran);
    let get = |key: &str| number(&ran.report, &[key]);
    assert_eq!(ran.report["simulated"], true);
    assert_eq!(get("cuda_ooms"), 0);
    assert_eq!(get("completed"), 150);
    assert_eq!(get("admitted"), 150);
    assert!(get("rejected") > 0, "the load is meant to be too much: {}", ran.report);
    let budget = get("budget_bytes");
    assert!(get("gate_capacity_bytes") <= budget);
    assert!(get("peak_kv_bytes") <= get("peak_claimed_bytes"));
    assert!(get("peak_claimed_bytes") <= get("gate_capacity_bytes"));
    assert!(get("peak_claimed_bytes") * 100 >= budget * 85, "{}", ran.report);
    assert!(ran.text.starts_with("SIMULATED"), "{}", ran.text);
    let terms = ran.report["envelope"].as_array().unwrap();
    assert!(terms.iter().any(|term| term["name"] == "weights" && term["origin"] == "measured"));
    assert!(number(&ran.report, &["vram_by_tag", "weights", "peak_bytes"]) > 14 << 30);
    assert!(ran.report["self"]["thread_cpu_ns"].is_u64());
}

#[test]
fn without_the_gate_the_driver_runs_out() {
    let mut args = TIGHT.to_vec();
    args.push("--no-gate");
    let ran = demo(&args);
    assert_equals_books(&ran);
    let get = |key: &str| number(&ran.report, &[key]);
    assert!(get("cuda_ooms") > 0, "{}", ran.report);
    assert_eq!(get("failed"), get("cuda_ooms"));
    assert_eq!(get("completed") + get("failed"), 150);
    assert_eq!(ran.report["gated"], false);
}

#[test]
fn the_trace_is_json_with_kernels_and_says_simulated() {
    let ran = demo(&["--count", "20"]);
    let events = ran.trace["traceEvents"].as_array().unwrap();
    let named = |name: &str| events.iter().any(|event| event["name"] == name);
    assert!(named("kv_read_pages") && named("stream_read") && named("step"), "{}", events.len());
    assert!(ran.trace.to_string().contains("SIMULATED"));
    assert!(number(&ran.report, &["trace", "events_seen"]) > 0);
}

#[test]
fn json_is_all_that_stdout_holds() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().to_str().unwrap();
    let args = ["demo", "--device", "sim", "--count", "5", "--json", "--out", out];
    let output = run(&mut memvelope(&args), 0);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, json(&place.path().join("report.json")));
}

#[test]
fn counts_that_make_no_sense_are_rejected_by_reason() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("r.csv");
    let rows =
        "timestamp_s,prompt_tokens,output_tokens\n0,-1,5\n0,0,5\n0,10,-5\n0,9000000,5\n0,10,5\n";
    std::fs::write(&file, rows).unwrap();
    let ran = demo(&["--requests", file.to_str().unwrap()]);
    let reasons = &ran.report["rejected_by_reason"];
    assert_eq!(number(reasons, &["bad_token_count"]), 3);
    assert_eq!(number(reasons, &["too_long"]), 1);
    assert_eq!(number(&ran.report, &["completed"]), 1);
}

/// What nobody recorded is absent, and the gate still keeps the run inside the device.
#[test]
fn without_recording_the_gate_still_holds() {
    let place = tempfile::tempdir().unwrap();
    let busy = place.path().join("busy.toml");
    std::fs::write(&busy, "subscriber = \"another profiler\"\n").unwrap();
    let books = place.path().join("books.json");
    let check = |record: &str, extra: &[&str]| {
        let out = place.path().join("out");
        let mut command = memvelope(&["demo", "--device", "sim", "--out", out.to_str().unwrap()]);
        command.args(TIGHT).args(extra).env("MEMVELOPE_RECORD", record);
        run(command.env("MEMVELOPE_SIM_BOOKS", &books), 0);
        let (report, books) = (json(&out.join("report.json")), json(&books));
        assert_eq!(number(&report, &["completed"]), 150, "{record} {extra:?}");
        assert_eq!(number(&books, &["cuda_ooms"]), 0, "{record} {extra:?}");
        assert!(report["peak_vram_bytes"].is_null(), "{record} {extra:?}");
        assert_eq!(report["simulated"], true, "{record} {extra:?}");
        let trace = std::fs::read_to_string(out.join("trace.json")).unwrap();
        assert!(trace.contains("SIMULATED"), "{record} {extra:?}");
        assert!(!report["unseen"].as_array().unwrap().is_empty(), "{record} {extra:?}");
    };
    check("auto", &["--scenario", busy.to_str().unwrap()]);
    check("poll", &[]);
    check("off", &[]);
}

/// The gate counts what slabs take, not what they ask for: here 64 MiB for every 16 or less.
#[test]
fn large_driver_pages_are_no_surprise() {
    let place = tempfile::tempdir().unwrap();
    let large = place.path().join("large.toml");
    let pages = "[[devices]]\npage_bytes = 67108864\npool_chunk_bytes = 67108864\n";
    std::fs::write(&large, pages).unwrap();
    let ran = demo(&[TIGHT, &["--scenario", large.to_str().unwrap()]].concat());
    assert_equals_books(&ran);
    assert_eq!(number(&ran.report, &["cuda_ooms"]), 0);
    assert_eq!(number(&ran.report, &["completed"]), 150);
}

/// Each input is refused with exit code 2, names what is wrong, and nothing is written.
#[test]
fn bad_input_is_named_and_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let head = "timestamp_s,prompt_tokens,output_tokens\n";
    let letters = write("letters.csv", &format!("{head}0,1,2\n1,x,2\n"));
    let short = write("short.csv", &format!("{head}0,1\n"));
    let alien = write("alien.json", r#"{"model_type": "abacus"}"#);
    let holey = write("holey.json", r#"{"model_type": "llama", "num_hidden_layers": "many"}"#);
    let broken = write("broken.json", "{");
    let odd = write("odd.toml", "[[devices]]\nbytes = 1\n");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--requests", &letters], &["letters.csv:3", "prompt_tokens"]),
        (&["--requests", &short], &["short.csv:2", "output_tokens"]),
        (&["--requests", "/nonexistent.csv"], &["/nonexistent.csv"]),
        (&["--model", &alien], &["alien.json", "abacus", "known architectures"]),
        (&["--model", &holey], &["holey.json", "num_hidden_layers"]),
        (&["--model", &broken], &["broken.json"]),
        (&["--model", "/dev/zero"], &["/dev/zero"]),
        (&["--requests", "/dev/zero"], &["/dev/zero", "longer"]),
        (&["--requests", "/"], &["/"]),
        (&["--model", "/"], &["/"]),
        (&["--scenario", &odd], &["odd.toml", "bytes"]),
        (&["--scenario", "/nonexistent.toml"], &["/nonexistent.toml"]),
        (&["--vram", "900GiB"], &["--vram"]),
        (&["--vram", "2GiB"], &["weights"]),
        (&["--vram", "much"], &["--vram"]),
        (&["--speed", "0"], &["--speed"]),
        (&["--max-new-tokens", "0"], &["--max-new-tokens"]),
        (&["--colour"], &["--colour"]),
    ];
    let out = place.path().join("out");
    refused(&["demo", "--device", "sim", "--out", out.to_str().unwrap()], cases, &out);
}

/// Killed at any moment, no half-written JSON stands under its final name, and earlier files are
/// whole.
#[test]
fn a_kill_leaves_no_half_written_file() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().to_str().unwrap();
    let args = ["demo", "--device", "sim", "--count", "40", "--rate", "400", "--out", out];
    let begin = Instant::now();
    run(&mut memvelope(&args), 0);
    let whole = begin.elapsed();
    for part in 1..=8_u32 {
        // Spread over the second half of a run, when files are written, and past its end.
        let mut child = memvelope(&args)
            .env("TMPDIR", place.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole / 2 + whole * part / 12);
        child.kill().unwrap();
        child.wait().unwrap();
        for name in ["trace.json", "report.json"] {
            json(&place.path().join(name));
        }
    }
    // What killed runs left half-written, the next run removes.
    run(&mut memvelope(&args), 0);
    let names = std::fs::read_dir(place.path()).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A run may take a minute: that its results cannot be written is said before it.
#[test]
fn an_output_directory_that_cannot_be_written_is_told_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let out = file.path().join("below");
    let output =
        run(&mut memvelope(&["demo", "--device", "sim", "--out", out.to_str().unwrap()]), 2);
    let text = stderr(&output);
    assert!(text.contains("--out") && text.contains("is not a directory"), "{text}");
    assert!(!text.contains("SIMULATED"), "it ran: {text}");
}

/// From the moment that the libraries are open, an interrupted run leaves nothing behind.
#[test]
fn an_interrupted_run_leaves_no_private_directory() {
    // Only private directories: results go elsewhere.
    let (place, results) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let out = results.path().join("out");
    let args = ["demo", "--device", "sim", "--count", "500000", "--out", out.to_str().unwrap()];
    let mut child = memvelope(&args)
        .env("TMPDIR", place.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let entries = || std::fs::read_dir(place.path()).unwrap().count();
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    let mut wait_for = |count: usize| {
        while entries() != count && Instant::now() < deadline {
            assert!(child.try_wait().unwrap().is_none(), "the run is over before it was seen");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    wait_for(1); // the private directory appears
    wait_for(0); // and goes, while the run goes on
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(entries(), 0);
}

#[test]
fn the_private_directory_is_gone_afterwards() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let args = ["demo", "--device", "sim", "--count", "3", "--out", out.to_str().unwrap()];
    run(memvelope(&args).env("TMPDIR", place.path()), 0);
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// Whatever else our own threads ask meanwhile: long enough for many polls at the shorter period.
#[test]
fn the_same_seed_decides_the_same() {
    let decisions = |poll_period_ms| {
        let ran = demo_polling(&[TIGHT, &["--speed", "0.02"]].concat(), poll_period_ms);
        let keys = ["admitted", "rejected", "completed", "peak_kv_bytes", "virtual_ns", "steps"];
        keys.map(|key| number(&ran.report, &[key]))
    };
    assert_eq!(decisions("60000"), decisions("60000"));
    assert_eq!(decisions("100"), decisions("60000"));
}

fn assert_no_temporary_files(out: &Path) {
    let names = std::fs::read_dir(out).unwrap().flatten().map(|entry| entry.file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["report.json", "trace.json"]);
}

/// The public Azure trace, where it is: the run that the README shows. Long in a debug build, so
/// only a part of it; the whole is run in release.
#[test]
fn a_part_of_the_azure_trace_completes() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let trace = data.join("traces/azure23_conv.csv");
    let model = data.join("kv_oracle/configs/LLMProf--Qwen2.5-32B.json");
    if !trace.exists() || !model.exists() {
        println!("ignored: no ../shared/data");
        return;
    }
    let ran = demo(&[
        "--requests",
        trace.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--limit",
        "300",
        "--vram",
        "70GiB",
        "--speed",
        "4",
    ]);
    assert_equals_books(&ran);
    assert_eq!(number(&ran.report, &["completed"]), 300);
    assert_eq!(number(&ran.report, &["cuda_ooms"]), 0);
}
