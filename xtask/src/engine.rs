//! The engine lane: the planner against vLLM itself, started on the processor with small random
//! models.

use crate::lane::Tally;
use crate::step;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that is installed, pinned.
const REQUIREMENTS: &str = "xtask/engine/requirements.txt";

/// Where vLLM is installed, in cargo's target directory.
fn venv() -> Result<PathBuf> {
    Ok(step::target()?.join("engine/venv"))
}

/// A copy of the requirements, written when all of them are installed.
fn stamp(venv: &Path) -> PathBuf {
    venv.join("memvelope-requirements.txt")
}

fn requirements() -> Result<String> {
    let path = step::root().join(REQUIREMENTS);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn is_installed() -> Result<bool> {
    let wanted = requirements()?;
    Ok(std::fs::read_to_string(stamp(&venv()?)).is_ok_and(|have| have == wanted))
}

/// Why the lane cannot run here.
pub(crate) fn missing() -> Option<String> {
    match is_installed() {
        Ok(true) => None,
        Ok(false) => Some("vLLM is not installed; `cargo xtask lane engine --install`".into()),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// Installs vLLM for the processor, about 7 GB, once.
pub(crate) fn install() -> Result<()> {
    if is_installed()? {
        return Ok(());
    }
    let venv = venv()?;
    step::run(
        "make a venv",
        step::command("python3").args(["-m", "venv", "--clear"]).arg(&venv),
        "takes Python 3.11 or newer with its venv module; on Debian: apt install python3-venv",
    )?;
    step::run(
        "install vLLM for the processor (7 GB, some minutes)",
        // Not into the user's cache either: nothing is left outside the target directory.
        step::command(venv.join("bin/python"))
            .args(["-m", "pip", "--disable-pip-version-check", "install", "--quiet"])
            .args(["--no-cache-dir", "--no-deps", "--only-binary", ":all:", "-r", REQUIREMENTS]),
        "takes Linux, Python 3.11 to 3.14 and a Python package index",
    )?;
    std::fs::write(stamp(&venv), requirements()?).context("writing the venv's stamp failed")
}

/// Measures vLLM, then compares it with the planner.
pub(crate) fn run() -> Result<Tally> {
    let place = step::target()?.join("engine");
    let records = place.join("records.jsonl");
    if records.exists() {
        std::fs::remove_file(&records).context("removing old records failed")?;
    }
    step::run(
        "start vLLM on the processor, once for each case",
        // It sets itself limits of time.
        Command::new(venv()?.join("bin/python"))
            .current_dir(&place)
            .arg("-B")
            .arg(step::root().join("xtask/engine/measure.py"))
            .arg(&records),
        "see the error above",
    )?;
    let mut command = step::cargo();
    command.args(["test", "--locked", "-q", "-p", "memvelope-tests", "--test", "engine"]);
    command.args(["--", "--nocapture"]).env("ENGINE_RECORDS", &records);
    let hint = "rows with * differ; the numbers of vLLM are those of its own objects";
    step::capture("compare with the planner", &mut command, hint, |_| true)?;
    let text = std::fs::read_to_string(&records).context("reading the records failed")?;
    let cases = u64::try_from(text.lines().count()).unwrap_or(u64::MAX);
    let figures = format!("{cases} cases equal, measured in {}", records.display());
    Ok(Tally { passed: cases, figures, ..Tally::default() })
}
