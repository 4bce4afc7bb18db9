//! `memvelope run`: a program ends as it would have ended without us, and is reported all the same.

use crate::common::{memvelope, run, stderr, stdout};
use crate::run_common::{kill, launches, leftovers, live_bytes, on_sim, processes, report};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How `killed HOW CODE` ends: the wait status, and what is known of the process.
fn check(how: &[&str], status: (Option<i32>, Option<i32>), end: &str) {
    let Some(mut command) = on_sim(&[], "killed", how) else { return };
    let output = command.output().unwrap();
    let ended = (output.status.code(), output.status.signal());
    assert_eq!(ended, status, "{how:?}: {}", stderr(&output));
    let report = report(&output);
    let first = &processes(&report)[0];
    assert_eq!(first["end"]["kind"], end, "{how:?}: {report}");
    assert_eq!((launches(first, "storm"), live_bytes(first)), (100, 10 << 20), "{how:?}");
    if end == "cut_short" {
        // It did nothing more, so the last update is one of the last periods.
        let age = first["end"]["last_update_age_ns"].as_u64().unwrap();
        assert!(age < 3_000_000_000, "{how:?}: {age}");
    }
    assert_eq!(stdout(&output), "");
}

#[test]
fn however_it_ends_the_status_is_the_programs() {
    for (how, status, end) in [
        (&["exit", "0"][..], (Some(0), None), "reported"),
        (&["exit", "255"], (Some(255), None), "reported"),
        (&["_exit", "3"], (Some(3), None), "cut_short"),
        (&["sigkill"], (None, Some(9)), "cut_short"),
        (&["abort"], (None, Some(6)), "cut_short"),
        (&["segv"], (None, Some(11)), "cut_short"),
        (&["thread", "4"], (Some(4), None), "reported"),
    ] {
        check(how, status, end);
    }
}

#[test]
fn what_is_done_to_the_process_does_not_end_the_recording() {
    for how in ["fds", "chdir", "env", "signals", "fsize", "nofile"] {
        check(&[how, "6"], (Some(6), None), "reported");
    }
}

#[test]
fn a_limit_on_files_does_not_end_a_program_that_is_traced() {
    let place = tempfile::tempdir().unwrap();
    let options = ["--out", place.path().to_str().unwrap()];
    let Some(mut command) = on_sim(&options, "killed", &["fsize", "6"]) else { return };
    let output = run(&mut command, 6);
    let text = stderr(&output);
    assert_eq!(text.matches("memvelope: writing ").count(), 1, "{text}");
    let report = report(&output);
    let why = &processes(&report)[0]["trace"]["absent"];
    assert!(why.is_string(), "{report}");
}

#[test]
fn a_program_that_becomes_another_is_two_processes() {
    let Some(mut command) = on_sim(&[], "killed", &["exec"]) else { return };
    let report = report(&run(&mut command, 5));
    let [before, after] = processes(&report) else { panic!("{report}") };
    assert_eq!((&before["pid"], &after["pid"]), (&report["pid"], &report["pid"]));
    assert_eq!(
        (&before["end"]["kind"], &after["end"]["kind"]),
        (&json!("replaced"), &json!("reported"))
    );
    assert_eq!((&before["exit"], &after["exit"]), (&json!(null), &json!({"code": 5})));
    assert_eq!((launches(before, "storm"), launches(after, "storm")), (100, 100));
    assert_eq!(after["command"][1], "again");
}

#[test]
fn every_exit_code_passes_through() {
    for code in 0..=255 {
        run(&mut memvelope(&["run", "sh", "-c", &format!("exit {code}")]), code);
    }
}

#[test]
fn programs_that_do_not_start_have_their_usual_codes() {
    let text = stderr(&run(&mut memvelope(&["run", "/nonexistent/program"]), 127));
    assert!(text.starts_with("error: starting /nonexistent/program failed"), "{text}");
    run(&mut memvelope(&["run", "no-such-program-anywhere"]), 127);
    let place = tempfile::NamedTempFile::new().unwrap();
    run(&mut memvelope(&["run", place.path().to_str().unwrap()]), 126);
    run(&mut memvelope(&["run", "/"]), 126);
}

#[test]
fn input_and_output_pass_through_whole() {
    let mut child = memvelope(&["run", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let text: Vec<u8> = (0..40u32 << 20).map(|i| (i % 251) as u8).collect();
    let expect = text.clone();
    let writer = std::thread::spawn(move || input.write_all(&text).unwrap());
    let mut seen = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut seen).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(seen == expect);
}

#[test]
fn a_reader_that_goes_away_ends_the_program_as_usual() {
    let mut command = memvelope(&["run", "yes"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(13), "{}", stderr(&output));
    assert!(stderr(&output).contains("died of SIGPIPE"), "{}", stderr(&output));
}

/// A closed or full stderr is no reason for another exit code.
#[test]
fn a_report_that_nobody_can_read_changes_nothing() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = memvelope(&["run", "sh", "-c", "exit 5"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(5));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = memvelope(&["run", "sh", "-c", "exit 5"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(5));
}

/// Starts `killed HOW` and waits until it says that it is ready; returns it with the program's pid.
fn ready(how: &str) -> Option<(Child, u32)> {
    let mut command = on_sim(&[], "killed", &[how])?;
    // In a group of its own, whose parent we are: in a group that nobody waits for (tests that run
    // in the background) the kernel ignores SIGTSTP.
    command.process_group(0);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let pid = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    // Put back what follows: the program's last words.
    child.stdout = Some(output.into_inner());
    Some((child, pid))
}

#[test]
fn a_signal_to_us_alone_reaches_the_program() {
    let Some((child, _)) = ready("handler") else { return };
    kill("TERM", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(12), "got it\n"));
    let report = report(&output);
    assert_eq!(processes(&report)[0]["end"]["kind"], "reported");

    let Some((child, _)) = ready("wait") else { return };
    let own = child.id();
    kill("TERM", own);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{}", stderr(&output));
    assert!(leftovers(own).is_empty());
}

/// Ctrl-C: the terminal sends to the whole group, and the program must not be told twice.
const AT_A_TERMINAL: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen, is_sent = b"", False
while True:
    try:
        part = os.read(terminal, 4096)
    except OSError:
        break
    if not part:
        break
    seen += part
    if b"ready" in seen and not is_sent:
        is_sent = True
        os.write(terminal, b"\x03")
os.write(1, seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

const COUNTS_INTERRUPTS: &str = r#"
import signal, time, sys
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
print("ready", flush=True)
end = time.time() + 20
while not seen and time.time() < end:
    time.sleep(0.05)
time.sleep(0.5)
print("interrupts:", len(seen))
sys.exit(7)
"#;

#[test]
fn the_terminals_signals_are_not_doubled() {
    let own = env!("CARGO_BIN_EXE_memvelope");
    let mut python = Command::new("python3");
    python.args(["-c", AT_A_TERMINAL, own, "run", "--", "python3", "-c", COUNTS_INTERRUPTS]);
    let Ok(output) = python.output() else { return println!("ignored: no python3") };
    let text = stdout(&output);
    assert!(text.contains("interrupts: 1"), "{text}");
    assert_eq!(output.status.code(), Some(7), "{text}");
}

#[test]
fn a_program_goes_on_when_we_are_killed() {
    let Some((mut child, pid)) = ready("handler") else { return };
    let own = child.id();
    let mut words = child.stdout.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    kill("TERM", pid);
    let mut text = String::new();
    words.read_to_string(&mut text).unwrap();
    assert_eq!(text, "got it\n");
    // Only here does something stay, for a later run to sweep away.
    let left = leftovers(own);
    assert_eq!(left.len(), 1, "{left:?}");
    std::fs::remove_dir_all(&left[0]).unwrap();
}

#[test]
fn a_report_on_the_way_comes_as_often_as_it_is_asked_for() {
    let Some((child, pid)) = ready("wait") else { return };
    for _ in 0..2 {
        // What was done before it was ready is told within a drain period.
        std::thread::sleep(Duration::from_millis(500));
        kill("USR1", child.id());
    }
    std::thread::sleep(Duration::from_millis(300));
    kill("KILL", pid);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(9));
    let text = stderr(&output);
    let reports: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 3, "{text}");
    for early in &reports[..2] {
        assert_eq!(early["exit"], json!(null));
        let process = &processes(early)[0];
        assert_eq!(process["end"]["kind"], "running");
        assert_eq!((launches(process, "storm"), live_bytes(process)), (100, 10 << 20));
    }
    assert_eq!(reports[2]["exit"]["name"], "SIGKILL");
}

fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

fn becomes(pid: u32, expect: bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while (state(pid) == 'T') != expect {
        assert!(Instant::now() < deadline, "{pid} is {}", state(pid));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn stopping_and_going_on_are_the_programs_too() {
    let Some((child, pid)) = ready("wait") else { return };
    for (signal, is_stopped) in [("TSTP", true), ("CONT", false), ("TSTP", true), ("CONT", false)] {
        kill(signal, child.id());
        becomes(pid, is_stopped);
        becomes(child.id(), is_stopped);
    }
    // A program that stops by itself stops us where a shell would see it.
    if std::fs::File::open("/dev/tty").is_ok() {
        kill("STOP", pid);
        becomes(child.id(), true);
        kill("CONT", child.id());
        becomes(pid, false);
    }
    // Not SIGINT: tests that run in the background of a shell are told to ignore it.
    kill("TERM", child.id());
    assert_eq!(child.wait_with_output().unwrap().status.signal(), Some(15));
}

/// Without a terminal nobody would have us go on: then a stop is between the program and its own.
#[test]
fn a_program_without_a_terminal_stops_alone() {
    let own = env!("CARGO_BIN_EXE_memvelope");
    for (then, expect) in [("kill -CONT $$", 6), ("kill -KILL $$", 128 + 9)] {
        let script = format!("(sleep 0.3; {then}) & kill -STOP $$; exit 6");
        let mut command = Command::new("setsid");
        command.args(["-w", own, "run", "--", "sh", "-c", &script]).stdin(Stdio::null());
        let Ok(output) = command.output() else { return println!("ignored: no setsid") };
        let seen = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
        assert_eq!(seen, Some(expect), "{then}: {}", stderr(&output));
    }
}

/// Rust's runtime opens closed descriptors and has broken pipes ignored; the program sees neither.
#[test]
fn what_was_closed_or_ignored_before_us_still_is() {
    let own = env!("CARGO_BIN_EXE_memvelope");
    for (shut, code) in [("<&-", 1), (">&-", 2), ("2>&-", 4), ("<&- 2>&-", 5), ("", 0)] {
        let look =
            "n=0; for f in 0 1 2; do [ -e /proc/$$/fd/$f ] || n=$((n | 1 << f)); done; exit $n";
        let script = format!("exec {own} run sh -c '{look}' {shut}");
        run(Command::new("sh").arg("-c").arg(script).stdin(Stdio::null()), code);
    }
    for (before, ignored) in [("trap \"\" PIPE", true), (":", false)] {
        let script = format!("{before}; exec {own} run grep SigIgn /proc/self/status 2>/dev/null");
        // From a shell: what started this test has its own mind about broken pipes.
        let mut shell = Command::new("sh");
        let text = stdout(&run(shell.arg("-c").arg(script), 0));
        let mask = u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap();
        assert_eq!(mask >> 12 & 1 == 1, ignored, "{before}: {text}");
    }
}

/// What our caller has us ignore, the program ignores: `nohup`, or a shell's background jobs.
#[test]
fn ignored_signals_stay_ignored() {
    let own = env!("CARGO_BIN_EXE_memvelope");
    let script = format!(
        "trap '' HUP INT USR1; {own} run sh -c 'grep SigIgn /proc/$$/status; kill -HUP $PPID; \
         kill -USR1 $PPID; sleep 0.2; exit 8' 2>/dev/null"
    );
    let output = run(Command::new("sh").arg("-c").arg(script), 8);
    let text = stdout(&output);
    let mask = u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(mask & 0b11, 0b11, "{text}");
}

#[test]
fn a_process_that_outlives_the_program_is_left_alone() {
    let Some(mut command) = on_sim(&[], "forks", &["daemon"]) else { return };
    let begin = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let own = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(begin.elapsed() < Duration::from_millis(2500), "{:?}", begin.elapsed());
    let report = report(&output);
    let [daemon] = processes(&report) else { panic!("{report}") };
    assert_eq!(daemon["end"]["kind"], "running");
    assert!(daemon["pid"] != report["pid"]);
    assert!(leftovers(own).is_empty());
    // Its own end is as usual, though nobody reads what it tells.
    let pid = daemon["pid"].as_u64().unwrap();
    let status = format!("/proc/{pid}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::path::Path::new(&status).exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!std::path::Path::new(&status).exists());
}
