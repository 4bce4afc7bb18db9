//! `cargo xtask demo`: builds everything and runs the main job.

use crate::step;
use anyhow::{Context, Result};
use std::process::ExitCode;

/// Builds in release and hands `args` to `memvelope demo`; its exit code is ours.
pub(crate) fn demo(args: &[&str]) -> Result<ExitCode> {
    let target = build()?;
    println!("\n==> memvelope demo {}", args.join(" "));
    // In the caller's directory, so that relative paths in `args` mean what they say there.
    let status = std::process::Command::new(target.join("release/memvelope"))
        .arg("demo")
        .args(args)
        .status()
        .context("starting the command failed")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// Builds the command, the simulated driver and the injection library; returns the target
/// directory.
pub(crate) fn build() -> Result<std::path::PathBuf> {
    step::run(
        "build the command, the simulated driver and the injection library (release)",
        step::cargo().args(["build", "--release", "--locked"]).args([
            "-p",
            "memvelope-cli",
            "-p",
            "memvelope-sim",
            "-p",
            "memvelope-inject",
        ]),
        "a C linker (cc) and the crates of Cargo.lock are all it needs",
    )?;
    step::target()
}
