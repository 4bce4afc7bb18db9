//! `memvelope replay`: tables and JSON, bad input, what was measured elsewhere, and real traces
//! where they are.

use crate::common::{json, memvelope, refused, run, stderr, stdout};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const HEAD: &str = "timestamp_s,prompt_tokens,output_tokens,class\n";

/// Requests that a small cache cannot take at once.
fn small(place: &Path) -> String {
    let mut rows = HEAD.to_owned();
    for index in 0..400_u32 {
        let (prompt, output) = (20 + index * 37 % 300, 1 + index * 91 % 250);
        writeln!(rows, "{},{prompt},{output},{}", index as f64 / 10.0, index % 3).unwrap();
    }
    let file = place.join("small.csv");
    std::fs::write(&file, rows).unwrap();
    file.to_str().unwrap().to_owned()
}

const TIGHT: &[&str] = &["--kv-tokens", "2000", "--max-tokens", "250", "--seeds", "2"];

/// The report without how fast it was made.
fn replay(args: &[&str]) -> Value {
    let mut command = memvelope(&["replay", "--json", "-"]);
    let output = run(command.args(args), 0);
    let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let speed = report.as_object_mut().unwrap().remove("speed").unwrap();
    assert!(speed["steps_per_s"].as_f64().unwrap() > 0.0, "{speed}");
    report
}

fn policy<'a>(report: &'a Value, load: usize, name: &str) -> &'a Value {
    let policies = report["loads"][load]["policies"].as_array().unwrap();
    policies.iter().find(|policy| policy["policy"] == name).unwrap()
}

fn get(policy: &Value, key: &str) -> f64 {
    policy[key].as_f64().unwrap_or_else(|| panic!("{key} of {policy}"))
}

#[test]
fn every_policy_is_in_the_table_and_the_json() {
    let place = tempfile::tempdir().unwrap();
    let (file, out) = (small(place.path()), place.path().join("out.json"));
    let mut command = memvelope(&["replay", &file, "--json", out.to_str().unwrap()]);
    let output = run(command.args(TIGHT), 0);
    let (text, report) = (stdout(&output), json(&out));
    assert!(text.starts_with("SIMULATED"), "{text}");
    assert!(text.contains("simulated steps/s"), "{text}");
    assert_eq!(report["loads"].as_array().unwrap().len(), 3);
    let policies = report["loads"][0]["policies"].as_array().unwrap();
    assert!(policies.len() >= 10, "{report}");
    for policy in policies {
        let name = policy["policy"].as_str().unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with(&format!("{name} "))).count(), 2);
    }
    for load in 0..3 {
        for name in ["static", "sum", "lightllm-0", "guaranteed", "oracle"] {
            let policy = policy(&report, load, name);
            assert_eq!((get(policy, "overruns"), get(policy, "preemptions")), (0.0, 0.0), "{name}");
            let ended = get(policy, "completed") + get(policy, "shed") + get(policy, "refused");
            assert_eq!(ended, 400.0, "{name}");
        }
    }
    assert!(get(policy(&report, 2, "vllm"), "preemptions") > 0.0, "{text}");
    assert_eq!(get(policy(&report, 1, "oracle"), "goodput_of_oracle"), 1.0);
}

#[test]
fn the_same_input_gives_the_same_json() {
    let place = tempfile::tempdir().unwrap();
    let file = small(place.path());
    let twice = || replay(&[&[file.as_str()], TIGHT].concat()).to_string();
    assert_eq!(twice(), twice());
}

#[test]
fn policies_loads_and_machines_are_chosen() {
    let place = tempfile::tempdir().unwrap();
    let file = small(place.path());
    let chosen = ["--policies", "vllm,sum", "--load", "0.5", "--machine", "32b-h100"];
    let args = [&[file.as_str()], TIGHT, &chosen].concat();
    let report = replay(&args);
    let policies = report["loads"][0]["policies"].as_array().unwrap();
    let names: Vec<_> = policies.iter().map(|policy| policy["policy"].as_str().unwrap()).collect();
    assert_eq!(names, ["sum", "vllm"]);
    assert!(get(policy(&report, 0, "sum"), "goodput_of_oracle") > 0.0);
    assert_eq!(report["loads"].as_array().unwrap().len(), 1);
    assert_eq!(report["machine"]["name"], "32b-h100");
    assert_eq!(report["machine"]["kv_tokens"], 2000);
    assert_eq!(report["settings"]["max_tokens"], 250);
}

#[test]
fn clients_that_declare_nothing_are_capped_by_the_server() {
    let place = tempfile::tempdir().unwrap();
    let file = small(place.path());
    let args = [&file, "--max-tokens", "none", "--server-cap", "100", "--kv-tokens", "2000"];
    let report = replay(&args);
    assert!(report["settings"]["max_tokens"].is_null());
    assert_eq!(report["settings"]["server_cap_tokens"], 100);
    let sum = policy(&report, 0, "sum");
    assert!(get(&report["source"], "output_tokens") <= 100.0 * 1200.0);
    assert!(get(sum, "goodput_req_per_s") > 0.0);
}

#[test]
fn rows_that_nobody_could_run_are_left_out_and_said() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("odd.csv");
    let rows = format!("{HEAD}0,-1,5,\n0,10,0,\n0,9000,5,\n1,10,5,\n2,10,5,\n");
    std::fs::write(&file, rows).unwrap();
    let mut command = memvelope(&["replay", file.to_str().unwrap(), "--kv-tokens", "2000"]);
    let output = run(command.args(["--seeds", "1"]), 0);
    let text = stderr(&output);
    assert!(text.contains("3 requests were left out: 2 with a count"), "{text}");
}

#[test]
fn bad_input_is_named_and_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = small(place.path());
    let letters = write("letters.csv", &format!("{HEAD}0,1,2,\n1,x,2,\n"));
    let short = write("short.csv", &format!("{HEAD}0,1\n"));
    let long = write("long.csv", &format!("{HEAD}0,1000000,5,\n"));
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["nothing to replay", "--check-external"]),
        (&[&letters], &["letters.csv:3", "prompt_tokens"]),
        (&[&short], &["short.csv:2", "output_tokens"]),
        (&[&long], &["long.csv", "no request", "--max-model-len"]),
        (&["/nonexistent.csv"], &["/nonexistent.csv"]),
        (&[&good, "--policies", "vllm,abacus"], &["abacus", "known: static,sum"]),
        (&[&good, "--machine", "abacus"], &["abacus", "8b-h100"]),
        (&[&good, "--load", "0"], &["--load"]),
        (&[&good, "--load", "NaN"], &["--load"]),
        (&[&good, "--seeds", "0"], &["--seeds"]),
        (&[&good, "--requests", "0"], &["--requests"]),
        (&[&good, "--max-tokens", "many"], &["--max-tokens", "many"]),
        (&[&good, "--max-tokens", "0"], &["--max-tokens"]),
        (&[&good, "--block-tokens", "0"], &["--block-tokens"]),
        (&[&good, "--kv-tokens", "15"], &["--kv-tokens", "one block"]),
        (&[&good, "--step-ms", "0"], &["--step-ms"]),
        (&[&good, "--kv-token-ns=-1"], &["--kv-token-ns"]),
        (&[&good, "--watermark", "1"], &["--watermark"]),
        (&[&good, "--timeout-factor", "0"], &["--timeout-factor"]),
        (&[&good, "--prefill-budget", "0"], &["--prefill-budget"]),
        (&[&good, "--check-external"], &["--check-external"]),
        (&[&good, "--workload", "synchronised"], &["--workload"]),
    ];
    let out = place.path().join("out.json");
    refused(&["replay", "--json", out.to_str().unwrap()], cases, &out);
}

/// Preemptions that were measured on vLLM, with nothing tuned to them.
#[test]
fn the_simulation_is_close_to_what_was_measured() {
    let output = run(&mut memvelope(&["replay", "--check-external"]), 0);
    let text = stdout(&output);
    assert!(text.contains("close: required"), "{text}");
    // A tenth of the cache is another machine, and the check says so.
    let args = ["replay", "--check-external", "--kv-tokens", "30000", "--seeds", "1"];
    let output = run(&mut memvelope(&args), 1);
    assert!(stdout(&output).contains("MISSED"), "{}", stdout(&output));
    assert!(stderr(&output).contains("hint: "), "{}", stderr(&output));
}

fn trace(name: &str) -> Option<PathBuf> {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/traces");
    let path = traces.join(name);
    if !path.exists() {
        println!("ignored: no ../shared/data/traces/{name}");
        return None;
    }
    Some(path)
}

/// What is known of the policies shows on real lengths and arrivals: those that reserve maxima are
/// safe and slow, those that do not are near the oracle and preempt.
#[test]
fn real_traces_tell_the_policies_apart() {
    let check = |name: &str, more: &[&str]| {
        let Some(path) = trace(name) else { return };
        let file = path.to_str().unwrap();
        let few = [file, "--seeds", "1", "--requests", "2500", "--load", "1.3"];
        let report = replay(&[&few, more].concat());
        let of_oracle = |name: &str| get(policy(&report, 0, name), "goodput_of_oracle");
        let overruns = |name: &str| get(policy(&report, 0, name), "overruns");
        assert!(of_oracle("static") < 0.25, "{name}: {report}");
        assert!((0.5..0.9).contains(&of_oracle("sum")), "{name}: {report}");
        assert!(of_oracle("lightllm-0") > of_oracle("sum"), "{name}: {report}");
        assert!(of_oracle("vllm") > 0.92, "{name}: {report}");
        assert!(overruns("vllm") > 0.0, "{name}: {report}");
        for safe in ["static", "sum", "lightllm-0", "guaranteed", "oracle"] {
            assert_eq!(overruns(safe), 0.0, "{name}: {safe}");
        }
    };
    check("servegen_deepseek-r1.csv", &[]);
    check("azure23_conv.csv", &["--machine", "32b-h100", "--max-tokens", "1024"]);
}
