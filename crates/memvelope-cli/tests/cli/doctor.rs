//! `memvelope doctor` with no driver and on the simulated one.

use crate::common::{memvelope, run, stdout, without_driver};
use serde_json::Value;

#[test]
fn without_a_driver_it_reports_and_exits_2() {
    let text = stdout(&run(&mut without_driver(&["doctor"]), 2));
    assert!(text.contains("unusable"), "{text}");
    assert!(text.contains("/nonexistent/libcuda.so.1"), "{text}");
    for key in memvelope::config::KEYS {
        assert!(text.contains(key.name), "{} is not in\n{text}", key.name);
    }
    assert!(!text.contains("SIMULATED"), "{text}");
}

#[test]
fn json_names_every_candidate_and_key() {
    let output = run(&mut without_driver(&["doctor", "--json"]), 2);
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(findings["health"], "unusable");
    assert_eq!(findings["simulated"], false);
    let libraries = findings["libraries"].as_array().unwrap();
    let cuda = libraries.iter().find(|report| report["library"] == "libcuda").unwrap();
    assert!(!cuda["candidates"].as_array().unwrap().is_empty());
    assert!(!cuda["hint"].as_str().unwrap().is_empty());
    assert_eq!(findings["keys"].as_array().unwrap().len(), memvelope::config::KEYS.len());
}

#[test]
fn on_the_simulated_driver_it_is_usable_and_says_simulated() {
    let text = stdout(&run(&mut memvelope(&["doctor", "--device", "sim"]), 0));
    assert!(text.starts_with("SIMULATED"), "{text}");
    assert!(text.contains("SIMULATED GPU"), "{text}");
    let output = run(&mut memvelope(&["doctor", "--device", "sim", "--json"]), 0);
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(findings["simulated"], true);
    assert_eq!(findings["devices"].as_array().unwrap().len(), 1);
}

#[test]
fn a_mistyped_key_degrades_and_is_named() {
    let mut command = memvelope(&["doctor", "--device", "sim"]);
    let text = stdout(&run(command.env("MEMVELOPE_TYPO", "1"), 1));
    assert!(text.contains("MEMVELOPE_TYPO"), "{text}");
}

#[test]
fn polling_only_is_degraded() {
    let mut command = memvelope(&["doctor", "--device", "sim"]);
    let text = stdout(&run(command.env("MEMVELOPE_RECORD", "poll"), 1));
    assert!(text.contains("polling only"), "{text}");
}
