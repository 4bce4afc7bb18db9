//! Steps: a header, a command, and what to do when it fails.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Lines of a failed command's output that are shown: a screen or two.
const LINES_ON_FAILURE: usize = 120;

/// What a command printed to stdout, and how long it took.
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) seconds: f64,
}

pub(crate) use crate::pip::root;

/// A command in the root of the checkout.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Cargo's own description of the workspace.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .output()
        .context("starting cargo metadata failed")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// Cargo's target directory.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    let path = metadata["target_directory"].as_str().context("cargo names no target directory")?;
    Ok(path.into())
}

/// Runs a step with its output passed through. `hint` says what to do when it fails.
pub(crate) fn run(title: &str, command: &mut Command, hint: &str) -> Result<()> {
    header(title);
    let status = command.status().with_context(|| format!("starting {command:?} failed"))?;
    if !status.success() {
        bail!("{title}: {status}\nhint: {hint}");
    }
    Ok(())
}

/// Runs a step whose stdout is kept as well. `is_shown` picks the lines that are passed through;
/// on failure the end of it is.
pub(crate) fn capture(
    title: &str,
    command: &mut Command,
    hint: &str,
    is_shown: impl Fn(&str) -> bool,
) -> Result<Ran> {
    header(title);
    let begin = std::time::Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?} failed"))?;
    let mut stdout = String::new();
    let pipe = child.stdout.take().context("no pipe to read from")?;
    for line in BufReader::new(pipe).split(b'\n') {
        let line = line.with_context(|| format!("reading from {command:?} failed"))?;
        let line = String::from_utf8_lossy(&line);
        if is_shown(&line) {
            println!("{line}");
        }
        stdout.push_str(&line);
        stdout.push('\n');
    }
    let status = child.wait().with_context(|| format!("waiting for {command:?} failed"))?;
    if !status.success() {
        // What failed stands at the end; the rest of a test run is long.
        let lines: Vec<&str> = stdout.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(LINES_ON_FAILURE)..].join("\n"));
        // Nothing can be done about a closed stdout here.
        let _ = std::io::stdout().flush();
        bail!("{title}: {status}\nhint: {hint}");
    }
    Ok(Ran { stdout, seconds: begin.elapsed().as_secs_f64() })
}

fn header(title: &str) {
    println!("\n==> {title}");
}
