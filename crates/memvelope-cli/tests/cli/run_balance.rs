//! `memvelope run`: the table of an unchanged program closes, and what nothing explains is exactly
//! what the simulated driver keeps for itself.

use crate::common::{run, stderr};
use crate::run_common::{on_sim, processes, report};
use serde_json::Value;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn lines(balance: &Value) -> impl Iterator<Item = (&str, i64)> {
    let lines = balance["lines"].as_array().unwrap().iter();
    lines.map(|line| (line["term"].as_str().unwrap(), line["bytes"].as_i64().unwrap()))
}

fn line(balance: &Value, term: &str) -> Option<i64> {
    lines(balance).find(|(name, _)| *name == term).map(|(_, bytes)| bytes)
}

fn scenario(place: &Path, hidden: u64, more: &str) -> String {
    let path = place.join("scenario.toml");
    let text = format!("[[devices]]\nhidden_bytes = {hidden}\n{more}\n");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What the process of `PROGRAM HOW` reported at its end, on a device that hides so much.
fn process_of(program: &str, how: &str, hidden: u64, more: &str) -> Option<Value> {
    let place = tempfile::tempdir().unwrap();
    let scenario = scenario(place.path(), hidden, more);
    let output = on_sim(&["--scenario", &scenario], program, &[how])?.output().unwrap();
    let report = report(&output);
    let of_program = |process: &&Value| process["pid"] == report["pid"];
    Some(processes(&report).iter().find(of_program).unwrap().clone())
}

/// Runs `everything HOW` on a device that hides so much, and holds both balances of its report to
/// it. `context` is what the context is to take, at the highest use.
fn check(how: &str, hidden: u64, more: &str, context: i64) {
    let Some(process) = process_of("everything", how, hidden, more) else { return };
    let device = &process["snapshot"]["devices"][0];
    for key in ["balance", "highest"] {
        let balance = &device[key];
        let at = format!("{how}, {hidden} hidden, {key}: {balance:#}");
        let sum: i64 = lines(balance).map(|(_, bytes)| bytes).sum();
        assert_eq!(Some(sum), balance["used_bytes"].as_i64(), "{at}");
        assert_eq!(balance["is_torn"], false, "{at}");
        assert_eq!(line(balance, "unaccounted"), i64::try_from(hidden).ok(), "{at}");
    }
    let highest = &device["highest"];
    let of_context = line(highest, "context").unwrap() + line(highest, "recorder").unwrap_or(0);
    assert_eq!(of_context, context, "{how}: {highest:#}");
    assert!(highest["used_bytes"].as_u64() >= Some(85 * MIB), "{how}: {highest:#}");
}

#[test]
fn whatever_the_program_does_the_table_closes() {
    for how in ["held", "threads", "fork", "freed", "released", "killed"] {
        check(how, 100_663_296, "", 480 << 20);
    }
}

/// `corners HOW`: its last table closes, nothing is said to be freed that was not there, and what
/// nothing explains is what the device hides, beside what may be another process's by now.
#[test]
fn what_ends_in_an_unusual_order_is_counted_as_long_as_it_is_there() {
    for (how, passed_on) in [("pools", 0), ("frees", 0), ("reset", 0), ("passed_on", 90 << 20)] {
        let Some(process) = process_of("corners", how, 74 * MIB, "") else { return };
        let (snapshot, hidden) = (&process["snapshot"], 74 << 20);
        let balance = &snapshot["devices"][0]["balance"];
        let at = format!("{how}: {balance:#}");
        let sum: i64 = lines(balance).map(|(_, bytes)| bytes).sum();
        assert_eq!(Some(sum), balance["used_bytes"].as_i64(), "{at}");
        assert_eq!(line(balance, "unaccounted"), Some(hidden + passed_on), "{at}");
        let rows = balance["lines"].as_array().unwrap();
        let row = rows.iter().find(|row| row["term"] == "unaccounted").unwrap();
        let error = row["error_bytes"].as_i64().unwrap();
        assert!(error >= passed_on, "{at}");
        assert_eq!(snapshot["findings"]["untracked_frees"], 0, "{at}");
    }
}

#[test]
fn hidden_bytes_are_found_to_the_byte() {
    for (hidden, more, context) in [
        (0, "", 480 << 20),
        (74 * MIB, "context_bytes = 33554432", 32 << 20),
        (2 * MIB, "module_bytes = 6291456", (480 << 20) + (6 << 20)),
        (4 * MIB, "[[devices.co_tenants]]\npid = 4242\nbytes = 1073741824", 480 << 20),
    ] {
        check("held", hidden, more, context);
    }
}

/// What was freed before the end is in the report all the same, and as text, too.
#[test]
fn the_text_says_what_was_used_at_the_highest_and_at_the_end() {
    let Some(command) = on_sim(&[], "everything", &["freed"]) else { return };
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut plain = crate::common::memvelope(&[]);
    plain.args(words.iter().filter(|word| *word != "--json"));
    let text = stderr(&run(&mut plain, 0));
    for part in [
        "the device at its highest use,",
        "the device when it was last looked at:",
        "unaccounted",
        "memory pools, untagged",
        "context",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}
