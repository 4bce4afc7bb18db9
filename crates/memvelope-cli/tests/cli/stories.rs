//! The tables of docs/where-did-my-vram-go.md are what is printed. `UPDATE_DOCS=1` rewrites them; what
//! differs from run to run (process numbers, ages) stands there as it is named here. The one of PyTorch
//! is the Python lane's.

use crate::common::{memvelope, run, stdout};
use crate::run_common::inject;
use crate::snapshot::{Running, asked};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const UNACCOUNTED: i64 = 96 << 20;

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/where-did-my-vram-go.md")
}

/// `./serve`, and `libnccl.so.2` beside it; `None`, said, without a C compiler.
fn build(folder: &Path) -> Option<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs/serve.c");
    let library =
        ["-DLIBRARY", "-shared", "-fPIC", "-Wl,-soname,libnccl.so.2", "-o", "libnccl.so.2"];
    let server = ["libnccl.so.2", "-Wl,-rpath,$ORIGIN", "-o", "serve"];
    for args in [&library[..], &server] {
        let mut cc = Command::new("cc");
        cc.current_dir(folder).args(["-Wall", "-Werror", "-Wno-unused"]).arg(&source);
        let Ok(status) = cc.args(args).arg("-ldl").status() else {
            println!("ignored: no C compiler");
            return None;
        };
        assert!(status.success(), "serve.c {args:?}");
    }
    Some(())
}

/// A server under `scenario` that has taken all it takes.
fn serve(folder: &Path, scenario: &str) -> Running {
    let file = folder.join("scenario.toml");
    std::fs::write(&file, scenario).unwrap();
    let mut command = Command::new("./serve");
    inject(&mut command);
    command.current_dir(folder).stdin(Stdio::piped()).env("MEMVELOPE_SIM_SCENARIO", file);
    let running = Running::start(command);
    asked(&["--pid", &running.pid()], |report| {
        let device = &report["snapshot"]["devices"][0];
        let lines = device["balance"]["lines"].as_array().cloned().unwrap_or_default();
        let unaccounted = lines.iter().find(|line| line["term"] == "unaccounted");
        device["totals"]["vram"]["live_bytes"] == ((16 << 30) + (2448_u64 << 20))
            && device["balance"]["is_torn"] == Value::Bool(false)
            && unaccounted.is_some_and(|line| line["bytes"] == UNACCOUNTED)
    });
    running
}

/// What `memvelope snapshot` says of it, with another number and age.
fn told(running: &Running, options: &[&str], number: &str) -> String {
    let pid = running.pid();
    let args = [&["snapshot", "--pid", &pid], options].concat();
    let text = stdout(&run(&mut memvelope(&args), 0));
    let lines = text.lines().map(|line| {
        if line.starts_with("  told ") && line.ends_with(" s ago") {
            return "  told 0.2 s ago".to_owned();
        }
        line.replace(&format!("process {pid}"), &format!("process {number}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// From the first line that begins with `first` to the first that begins with `last`, or the end.
fn part<'a>(text: &'a str, first: &str, last: Option<&str>) -> Vec<&'a str> {
    let from = text.lines().skip_while(|line| !line.starts_with(first));
    let mut is_over = false;
    from.take_while(|line| {
        let was_over = is_over;
        is_over |= last.is_some_and(|last| line.starts_with(last));
        !was_over
    })
    .collect()
}

/// Compares the block of the page that begins with `command`, or replaces it.
fn check(command: &str, lines: &[&str]) {
    let (path, block) = (page(), format!("{command}\n{}\n", lines.join("\n")));
    let committed = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = committed.split_once(&format!("```text\n{command}\n")).unwrap();
    let (_, after) = rest.split_once("```").unwrap();
    let expected = format!("{before}```text\n{block}```{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(committed == expected, "{} is stale; it is\n{block}", path.display());
}

#[test]
fn the_pages_stories_are_what_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    if build(folder.path()).is_none() {
        return;
    }
    let alone = serve(folder.path(), "");
    let text = told(&alone, &[], "1394");
    check("$ memvelope snapshot --pid 1394", &part(&text, "process 1394", Some("  used ")));
    drop(alone);
    let tenant = "[[devices]]\n[[devices.co_tenants]]\npid = 4242\nbytes = 42949672960\n";
    let crowded = serve(folder.path(), tenant);
    let text = told(&crowded, &["--fits", "30GiB"], "1496");
    let mut lines = vec!["..."];
    lines.extend(part(&text, "  58.95 GiB of", Some("  used ")));
    lines.push("");
    lines.extend(part(text.trim_end(), "would 30.00 GiB", None));
    check("$ memvelope snapshot --pid 1496 --fits 30GiB", &lines);
}
