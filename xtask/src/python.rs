//! The Python lane: a small venv, the wheel, its tests.

use crate::lane::{Tally, number_before};
use crate::step;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// All that is installed: what builds the wheel, what runs its tests, what its examples use.
const PACKAGES: &[&str] = &["maturin>=1.9,<2", "pytest", "numpy"];

/// Oldest Python that the wheel supports (abi3).
const OLDEST: (u32, u32) = (3, 10);

/// Benches, each of which is also run once as a test.
const BENCHES: &[&str] =
    &["benches/python_gate.py", "benches/python_profile.py", "benches/python_torch.py"];

/// Why the lane cannot run here.
pub(crate) fn missing() -> Option<String> {
    let script = "import sys, venv; print(*sys.version_info[:2])";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => None,
        (Some(major), Some(minor)) => Some(format!("Python {major}.{minor} is older than 3.10")),
        _ => Some("no python3 with its venv module".into()),
    }
}

/// Builds the wheel, installs it and runs pytest.
pub(crate) fn run() -> Result<Tally> {
    let venv = venv()?;
    let wheel = wheel(&venv)?;
    step::run(
        "install the wheel",
        pip(&venv).args(["install", "--quiet", "--force-reinstall", "--no-deps"]).arg(&wheel),
        "the wheel's tags must fit this Python and glibc",
    )?;
    let ran = step::capture(
        "pytest",
        // Not from the root: the package must come from the wheel, not from the source tree.
        Command::new(venv.join("bin/python"))
            .current_dir(step::root().join("python/tests"))
            .args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "."]),
        "run it alone: target/venv/bin/python -m pytest python/tests",
        |_| true,
    )?;
    let mut tally = tally(&ran.stdout);
    for bench in BENCHES {
        step::run(
            &format!("{bench} as a test"),
            step::command(venv.join("bin/python")).args([bench, "--quick"]),
            &format!("run it alone: target/venv/bin/python {bench}"),
        )?;
        tally.passed += 1;
    }
    Ok(tally)
}

/// Counts of pytest's last line, and the reasons of its `SKIPPED [n] place: why` lines.
fn tally(stdout: &str) -> Tally {
    let last = stdout.lines().rev().find(|line| line.contains(" passed")).unwrap_or_default();
    let mut tally = Tally {
        passed: number_before(last, " passed"),
        ignored: number_before(last, " skipped"),
        ..Tally::default()
    };
    for line in stdout.lines().filter_map(|line| line.strip_prefix("SKIPPED [")) {
        let why = line.split_once(": ").map_or(line, |(_, why)| why);
        let why = why.strip_prefix("ignored: ").unwrap_or(why);
        *tally.reasons.entry(why.to_owned()).or_default() += number_before(line, "]");
    }
    tally
}

/// The venv, made once.
fn venv() -> Result<PathBuf> {
    let venv = step::target()?.join("venv");
    let stamp = venv.join("memvelope-packages.txt");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(venv);
    }
    step::run(
        "make a small venv",
        step::command("python3").args(["-m", "venv", "--clear"]).arg(&venv),
        "on Debian: apt install python3-venv",
    )?;
    step::run(
        &format!("install {}", PACKAGES.join(", ")),
        pip(&venv).args(["install", "--quiet"]).args(PACKAGES),
        "needs a Python package index",
    )?;
    std::fs::write(&stamp, wanted)
        .with_context(|| format!("writing {} failed", stamp.display()))?;
    Ok(venv)
}

fn pip(venv: &Path) -> Command {
    let mut command = step::command(venv.join("bin/python"));
    command.args(["-m", "pip", "--disable-pip-version-check"]);
    command
}

/// Builds the wheel from `python/` and returns its path.
pub(crate) fn build_wheel() -> Result<PathBuf> {
    wheel(&venv()?)
}

fn wheel(venv: &Path) -> Result<PathBuf> {
    let out = step::target()?.join("wheels");
    // A wheel of an older state must not be taken for the one that is built now.
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("clearing {}", out.display()))?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![venv.join("bin")];
    folders.extend(std::env::split_paths(&path));
    step::run(
        "build the wheel",
        pip(venv)
            .env("PATH", std::env::join_paths(folders).context("PATH cannot be extended")?)
            .args(["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"])
            .arg(&out)
            .arg("./python"),
        "run it alone with --verbose to see the compiler: pip wheel ./python",
    )?;
    let entries = std::fs::read_dir(&out).with_context(|| format!("reading {}", out.display()))?;
    let wheels = entries.flatten().map(|entry| entry.path());
    let mut wheels = wheels.filter(|path| path.extension().is_some_and(|end| end == "whl"));
    wheels.next().context("pip built no wheel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_counted_with_their_reasons() {
        let tally = tally(
            "...s [100%]\nSKIPPED [2] test_package.py:59: ignored: maturin is not installed\n\
             131 passed, 2 skipped in 1.95s\n",
        );
        assert_eq!((tally.passed, tally.ignored), (131, 2));
        assert_eq!(tally.reasons["maturin is not installed"], 2);
    }
}
