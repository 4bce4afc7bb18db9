//! `cargo xtask gpu-bundle`: packs what a GPU machine without a toolchain needs to run the GPU
//! lane: release binaries, the wheel, PTX, and the stages with one `run.sh`.

use crate::{demo, lane, python, step};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What one upload to a borrowed machine should not exceed.
const BYTES_MAX: u64 = 40 << 20;

/// One file of the bundle.
#[derive(Debug)]
struct Item {
    from: From,
    /// Where it goes, from the bundle's root.
    to: String,
}

/// Where a file of the bundle comes from.
#[derive(Debug)]
enum From {
    /// The checkout, from its root.
    Tree(PathBuf),
    /// Cargo's folder of release builds.
    Release(&'static str),
    /// A test or bench, by its kind (`--test` or `--bench`).
    Executable(&'static str, lane::Target),
}

/// Files of the checkout: folder, endings, and the folder in the bundle.
const FOLDERS: &[(&str, &[&str], &str)] =
    &[("gpu/lane", &["py", "json"], "lane"), ("cuda", &["ptx"], "cuda")];

/// What `cargo build --release` makes, and where it goes.
const BUILT: &[(&str, &str)] = &[
    ("memvelope", "bin"),
    ("gpu-lane", "bin"),
    ("libmemvelope_sim.so", "lib"),
    ("libmemvelope_inject.so", "lib"),
    ("libgpu_lane_collector.so", "lib"),
];

/// Every file of the bundle but those that are made while packing: the wheel and `commit.txt`.
fn contents() -> Result<Vec<Item>> {
    let tree = |from: PathBuf, to: String| Item { from: From::Tree(from), to };
    let mut items = vec![tree("gpu/run.sh".into(), "run.sh".into())];
    items.push(tree("gpu/README.md".into(), "README.md".into()));
    for (folder, endings, to) in FOLDERS {
        let path = step::root().join(folder);
        let entries =
            std::fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
        for name in entries.flatten().map(|entry| PathBuf::from(entry.file_name())) {
            let ending = name.extension().unwrap_or_default().to_string_lossy().into_owned();
            if endings.contains(&ending.as_str()) {
                items.push(tree(Path::new(folder).join(&name), format!("{to}/{}", name.display())));
            }
        }
    }
    for (name, to) in BUILT {
        items.push(Item { from: From::Release(name), to: format!("{to}/{name}") });
    }
    let conformance = lane::Target {
        package: "memvelope-tests".to_owned(),
        name: "conformance".to_owned(),
        features: String::new(),
    };
    let benches = lane::bench_targets()?.into_iter().map(|target| ("--bench", target));
    for (kind, target) in std::iter::once(("--test", conformance)).chain(benches) {
        let prefix = if kind == "--bench" { "bench-" } else { "" };
        let to = format!("bin/{prefix}{}", target.name);
        items.push(Item { from: From::Executable(kind, target), to });
    }
    items.sort_by(|a, b| a.to.cmp(&b.to));
    Ok(items)
}

/// Whether a bundle of so many bytes may be uploaded.
fn fits(bytes: u64) -> Result<()> {
    ensure!(bytes <= BYTES_MAX, "the bundle has {bytes} bytes, more than {BYTES_MAX}");
    Ok(())
}

/// Packs `gpu-bundle/` in the root of the checkout, and the same as one archive beside cargo's
/// other outputs.
pub(crate) fn bundle() -> Result<ExitCode> {
    let target = demo::build()?;
    step::run(
        "build the workloads, the probes and the collector (release)",
        step::cargo().args(["build", "--release", "--locked", "-p", "memvelope-gpu-lane"]),
        "the compiler says what is wrong",
    )?;
    let place = step::root().join("gpu-bundle");
    if place.exists() {
        std::fs::remove_dir_all(&place).with_context(|| format!("clearing {}", place.display()))?;
    }
    for item in contents()? {
        let from = match &item.from {
            From::Tree(path) => step::root().join(path),
            From::Release(name) => target.join("release").join(name),
            From::Executable(kind, target) => executable(kind, target)?,
        };
        copy(&from, &place.join(&item.to))?;
    }
    match python::missing() {
        None => {
            let wheel = python::build_wheel()?;
            let name = wheel.file_name().context("a wheel has a name")?;
            copy(&wheel, &place.join("wheel").join(name))?;
        }
        Some(why) => println!("no wheel in the bundle: {why}"),
    }
    write(&place.join("commit.txt"), &commit()?)?;
    let archive = target.join("gpu-bundle.tar.gz");
    step::run(
        "pack",
        step::command("tar").args(["-czf"]).arg(&archive).arg("gpu-bundle"),
        "needs tar and gzip",
    )?;
    let bytes = archive.metadata().context("the archive is gone")?.len();
    fits(bytes)?;
    println!("\n{} ({:.1} MiB)", archive.display(), bytes as f64 / f64::from(1 << 20));
    println!("on the GPU machine: tar xzf gpu-bundle.tar.gz && gpu-bundle/run.sh");
    println!("here, without a GPU:  gpu-bundle/run.sh --device sim");
    Ok(ExitCode::SUCCESS)
}

/// Builds a test or bench in release and returns the executable's path.
fn executable(kind: &str, target: &lane::Target) -> Result<PathBuf> {
    let lane::Target { package, name, features } = target;
    let ran = step::capture(
        &format!("build {name} (release)"),
        step::cargo()
            .args(["test", "--release", "--locked", "--no-run", "--message-format=json"])
            .args(["-p", package, kind, name, "--features", features]),
        "the compiler says what is wrong",
        |_| false,
    )?;
    let messages = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok());
    let built = messages.filter(|message: &serde_json::Value| message["target"]["name"] == *name);
    let mut paths = built.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    paths.next().with_context(|| format!("cargo names no executable for {name}"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every file has one place; those of the checkout exist, and with what is built in release
    /// they fit (packing makes them smaller still).
    #[test]
    fn the_bundle_is_whole_and_small() {
        let items = contents().unwrap();
        let places: BTreeSet<&str> = items.iter().map(|item| item.to.as_str()).collect();
        assert_eq!(places.len(), items.len(), "two files in one place: {items:?}");
        for wanted in ["run.sh", "lane/__main__.py", "lane/results.schema.json", "bin/conformance"]
        {
            assert!(places.contains(wanted), "no {wanted} in {places:?}");
        }
        let release = step::target().unwrap().join("release");
        let (mut bytes, mut unbuilt) = (0, 0);
        for item in &items {
            let path = match &item.from {
                From::Tree(path) => step::root().join(path),
                From::Release(name) => release.join(name),
                From::Executable(..) => continue,
            };
            match (path.metadata(), &item.from) {
                (Ok(data), _) => bytes += data.len(),
                (Err(error), From::Tree(_)) => panic!("{}: {error}", path.display()),
                (Err(_), _) => unbuilt += 1,
            }
        }
        println!("{} files, {bytes} bytes; {unbuilt} not built in release", items.len());
        assert!(bytes > 0);
        fits(bytes).unwrap();
        assert!(fits(BYTES_MAX + 1).is_err());
    }
}
