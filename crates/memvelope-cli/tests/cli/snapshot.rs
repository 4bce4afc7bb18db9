//! `memvelope snapshot`: what is told of a running process is what it does, and what cannot be told
//! is said with what to do.

use crate::common::{memvelope, run, stderr, stdout};
use crate::run_common::{injected, on_sim};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends the process when the test does, however it ends.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready "), "{line:?}");
        Self(child)
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks until the answer is `good`: a session tells what it knows a poll period late at most.
pub(crate) fn asked(args: &[&str], good: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = memvelope(&[&["snapshot", "--json"], args].concat()).output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() && good(&value) {
            return value;
        }
        assert!(Instant::now() < deadline, "{}{value:#}", stderr(&output));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn holds_ten_mib(report: &Value) -> bool {
    let device = &report["snapshot"]["devices"][0];
    device["totals"]["vram"]["live_bytes"] == 10 << 20 && device["free_bytes"].is_u64()
}

#[test]
fn an_injected_process_is_shown_by_its_number() {
    let Some(command) = injected("killed", &["wait"]) else { return };
    let running = Running::start(command);
    let pid = running.pid();
    let report = asked(&["--pid", &pid], holds_ten_mib);
    assert_eq!(report["schema"], "memvelope.process/1");
    assert_eq!((&report["pid"], &report["simulated"]), (&json!(running.0.id()), &json!(true)));
    assert_eq!((&report["final"], &report["command"][1]), (&json!(false), &json!("wait")));
    assert!(report["age_ns"].as_u64() < Some(20_000_000_000), "{report}");
    let text = stdout(&run(&mut memvelope(&["snapshot", "--pid", &pid]), 0));
    for part in [&*format!("process {pid}"), "told 0.", "SIMULATED", "GPU 0", "80.00 GiB"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let list = asked(&[], |list| list["processes"].is_array() || list["pid"].is_u64());
    // Other tests may have theirs at the same time; alone it is shown whole.
    let all = list["processes"].as_array().cloned().unwrap_or_else(|| vec![list.clone()]);
    assert!(all.iter().any(|process| process["pid"] == report["pid"]), "{list}");
    let bad = run(&mut memvelope(&["snapshot", "--pid", &pid, "--device", "7"]), 2);
    assert!(stderr(&bad).contains("no such device\nhint: it has 0"), "{}", stderr(&bad));
}

/// Watching goes on until the process ends, and a pipe gets a line each time.
#[test]
fn watching_ends_with_the_process() {
    let Some(command) = injected("killed", &["wait"]) else { return };
    let mut running = Running::start(command);
    asked(&["--pid", &running.pid()], holds_ten_mib);
    let mut watching = memvelope(&["snapshot", "--json", "--watch", "100ms", "--pid"])
        .arg(running.pid())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut seen = 0;
    for line in lines {
        let report: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(report["pid"], running.0.id());
        seen += 1;
        if seen == 3 {
            running.0.kill().unwrap();
            running.0.wait().unwrap();
        }
    }
    assert!(seen >= 3 && watching.wait().unwrap().success());
}

#[test]
fn a_process_under_run_is_found_by_the_file_of_the_run() {
    let Some(mut command) = on_sim(&[], "killed", &["wait"]) else { return };
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(running.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let pid = line.trim().strip_prefix("ready ").unwrap().to_owned();
    let report = asked(&["--pid", &pid], holds_ten_mib);
    assert_eq!(report["pid"].to_string(), pid);
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let names = fds.map(|fd| std::fs::read_link(fd.path()).unwrap_or_default());
    let own = names.filter(|name| name.to_string_lossy().contains("memvelope-summary"));
    assert_eq!(own.count(), 0, "one report is enough");
    crate::run_common::kill("TERM", pid.parse().unwrap());
    running.wait().unwrap();
}

/// A program that closes every descriptor closes ours; it is found again, and nothing of the
/// program's is closed in turn.
#[test]
fn a_program_that_closes_all_descriptors_is_found_again() {
    let Some(command) = injected("killed", &["fds-wait"]) else { return };
    let running = Running::start(command);
    asked(&["--pid", &running.pid()], holds_ten_mib);
}

#[test]
fn what_cannot_be_shown_is_said_with_what_to_do() {
    let own = std::process::id().to_string();
    let quiet = injected("killed", &["wait"]).map(|mut command| {
        command.env("MEMVELOPE_PUBLISH", "off");
        Running::start(command)
    });
    let silent = quiet.as_ref().map_or(own.clone(), Running::pid);
    let inside = if quiet.is_some() { "MEMVELOPE_PUBLISH" } else { "not inside" };
    for (args, code, parts) in [
        (&["--pid", "4194303"][..], 2, ["no such process", "hint: "]),
        (&["--pid", &own], 1, ["memvelope is not inside", "hint: start it by `memvelope run`"]),
        (&["--pid", &silent], 1, [inside, "hint: "]),
        (&["--via", "driver"], 2, ["--fits", "required"]),
        (&["--watch", "5"], 2, ["--watch", "500ms"]),
        (&["--pid", "x"], 2, ["--pid", "invalid"]),
    ] {
        let text = stderr(&run(memvelope(&["snapshot"]).args(args), code));
        assert!(parts.iter().all(|part| text.contains(part)), "{args:?}: {text}");
    }
}
