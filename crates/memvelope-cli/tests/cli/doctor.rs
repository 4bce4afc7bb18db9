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

#[test]
fn a_device_that_was_asked_for_gets_a_report_without_a_driver() {
    for device in ["0", "GPU-1"] {
        let text = stdout(&run(&mut without_driver(&["doctor", "--device", device]), 2));
        assert!(text.contains("unusable") && text.contains("libraries"), "{text}");
    }
}

#[test]
fn a_reader_that_goes_away_and_a_full_disk_are_no_panic() {
    let mut command = memvelope(&["doctor"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = run(command.stdout(full), 1);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("error: writing to stdout failed"), "{text}");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    run(without_driver(&["doctor"]).stdout(writer), 2);
}
