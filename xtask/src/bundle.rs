//! `cargo xtask gpu-bundle`: packs what a GPU machine without a toolchain needs to run the GPU
//! lane: release binaries, the wheel, PTX, one `run.sh`.

use crate::{demo, lane, python, step};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What one upload to a borrowed machine should not exceed.
const BYTES_MAX: u64 = 40 << 20;

/// Runs everything on the GPU machine. Staged and resumable; see its own head.
const RUN: &str = include_str!("run.sh");

/// Packs `gpu-bundle/` in the root of the checkout, and the same as one archive beside cargo's
/// other outputs.
pub(crate) fn bundle() -> Result<ExitCode> {
    let target = demo::build()?;
    let place = step::root().join("gpu-bundle");
    if place.exists() {
        std::fs::remove_dir_all(&place).with_context(|| format!("clearing {}", place.display()))?;
    }
    for folder in ["bin", "lib", "cuda", "wheel"] {
        let folder = place.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let release = target.join("release");
    copy(&release.join("memvelope"), &place.join("bin/memvelope"))?;
    for library in ["libmemvelope_sim.so", "libmemvelope_inject.so"] {
        copy(&release.join(library), &place.join("lib").join(library))?;
    }
    copy(&executable("memvelope-tests", "--test", "conformance")?, &place.join("bin/conformance"))?;
    for (package, bench) in lane::bench_targets()? {
        let built = executable(&package, "--bench", &bench)?;
        copy(&built, &place.join("bin").join(format!("bench-{bench}")))?;
    }
    copy_ptx(&place.join("cuda"))?;
    match python::missing() {
        None => {
            let wheel = python::build_wheel()?;
            let name = wheel.file_name().context("a wheel has a name")?;
            copy(&wheel, &place.join("wheel").join(name))?;
        }
        Some(why) => println!("no wheel in the bundle: {why}"),
    }
    write(&place.join("commit.txt"), &commit()?)?;
    write(&place.join("run.sh"), RUN)?;
    step::run(
        "mark run.sh as a program",
        step::command("chmod").arg("+x").arg(place.join("run.sh")),
        "chmod is part of any Unix",
    )?;
    let archive = target.join("gpu-bundle.tar.gz");
    step::run(
        "pack",
        step::command("tar").args(["-czf"]).arg(&archive).arg("gpu-bundle"),
        "needs tar and gzip",
    )?;
    let bytes = archive.metadata().context("the archive is gone")?.len();
    if bytes > BYTES_MAX {
        bail!("{} has {bytes} bytes, more than {BYTES_MAX}", archive.display());
    }
    println!("\n{} ({:.1} MiB)", archive.display(), bytes as f64 / f64::from(1 << 20));
    println!("on the GPU machine: tar xzf gpu-bundle.tar.gz && gpu-bundle/run.sh");
    Ok(ExitCode::SUCCESS)
}

/// Builds a test or bench in release and returns the executable's path.
fn executable(package: &str, kind: &str, name: &str) -> Result<PathBuf> {
    let ran = step::capture(
        &format!("build {name} (release)"),
        step::cargo()
            .args(["test", "--release", "--locked", "--no-run", "--message-format=json"])
            .args(["-p", package, kind, name]),
        "the compiler says what is wrong",
        |_| false,
    )?;
    let messages = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok());
    let built = messages.filter(|message: &serde_json::Value| message["target"]["name"] == name);
    let mut paths = built.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    paths.next().with_context(|| format!("cargo names no executable for {name}"))
}

fn copy_ptx(place: &Path) -> Result<()> {
    let source = step::root().join("cuda");
    let entries =
        std::fs::read_dir(&source).with_context(|| format!("reading {}", source.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|end| end == "ptx") {
            let name = path.file_name().context("a file has a name")?;
            copy(&path, &place.join(name))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The commit, marked when the tree differs from it: a result must be traceable to its sources.
fn commit() -> Result<String> {
    let output = step::command("git")
        .args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        .output()
        .context("starting git failed")?;
    if !output.status.success() {
        return Ok("unknown".into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
