//! The tools that regenerate committed files, each pinned, fetched into a cache under the target
//! directory. Nothing here is needed to build or to test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

/// One pinned tool.
pub(crate) struct Tool {
    /// Its name at the registry (PyPI, or crates.io for `bindgen-cli`).
    pub(crate) package: &'static str,
    /// The one version that the committed files were made with.
    pub(crate) version: &'static str,
}

/// `bindgen`, the program. From crates.io: PyPI has none.
pub(crate) const BINDGEN: Tool = Tool { package: "bindgen-cli", version: "0.73.2" };

/// What bindgen reads: the newest CUPTI, whose records are the longest, and the headers that it
/// includes (cuda.h from the runtime, host_defines.h from crt). libclang does the parsing.
pub(crate) const HEADERS: &[Tool] = &[
    Tool { package: "nvidia-cuda-cupti", version: "13.5.25" },
    Tool { package: "nvidia-cuda-runtime", version: "13.5.37" },
    Tool { package: "nvidia-cuda-crt", version: "13.5.37" },
    Tool { package: "libclang", version: "18.1.1" },
];

/// What compiles kernels. All four are pinned: nvcc alone pulls the newest nvvm, whose PTX version
/// its own ptxas then rejects. 13.0 and not newer, because a driver loads PTX up to its own version
/// only: PTX 9.0 loads on every driver from 580 on.
pub(crate) const NVCC: &[Tool] = &[
    Tool { package: "nvidia-cuda-nvcc", version: "13.0.88" },
    Tool { package: "nvidia-cuda-crt", version: "13.0.88" },
    Tool { package: "nvidia-nvvm", version: "13.0.88" },
    Tool { package: "nvidia-cuda-runtime", version: "13.0.96" },
];

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or_else(|| xtask.to_owned(), Path::to_owned)
}

/// Where tools and scratch files live: `xtask/` in cargo's target directory.
pub(crate) fn cache() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root().join(target).join("xtask")
}

/// Runs a command to its end and fails with its output if it failed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}:\n{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    Ok(text(&output.stdout))
}

/// Whether exactly these wheels are in the directory.
pub(crate) fn is_installed(place: &Path, pins: &[String]) -> bool {
    fs::read_to_string(stamp(place)).is_ok_and(|found| found == pins.join("\n"))
}

/// A copy of the pins, written when all of them are installed.
fn stamp(place: &Path) -> PathBuf {
    place.join("pins.txt")
}

/// Installs wheels, without what they depend on, into a directory of the cache, once.
///
/// # Errors
/// As [`install`].
pub(crate) fn wheels(name: &str, tools: &[Tool]) -> Result<PathBuf> {
    let pins: Vec<String> =
        tools.iter().map(|tool| format!("{}=={}", tool.package, tool.version)).collect();
    let place = cache().join(name);
    install(&place, &pins)?;
    Ok(place)
}

/// Installs wheels, without what they depend on, into a directory of their own, once. A pin is a
/// line of a requirements file; where one has a `--hash`, all must.
///
/// # Errors
/// Where Python, its venv module or the registry is not to be had.
pub(crate) fn install(place: &Path, pins: &[String]) -> Result<()> {
    if is_installed(place, pins) {
        return Ok(());
    }
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot clear {}", place.display()))?;
    }
    let venv = cache().join("pip");
    if !venv.join("bin/pip").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))
            .context("fetching wheels takes a Python >= 3.10 with its venv module")?;
    }
    let name = |pin: &String| pin.split(' ').next().unwrap_or_default().to_owned();
    println!("fetching {}", pins.iter().map(name).collect::<Vec<_>>().join(" "));
    let write = |path: &Path| {
        fs::write(path, pins.join("\n")).with_context(|| format!("cannot write {}", path.display()))
    };
    let requirements = venv.join("requirements.txt");
    write(&requirements)?;
    run(Command::new(venv.join("bin/pip"))
        .args(["install", "--quiet", "--no-deps", "--disable-pip-version-check"])
        // A source package would run code of its own.
        .args(["--only-binary", ":all:", "--target"])
        .arg(place)
        .arg("-r")
        .arg(&requirements))
    .context("pip could not fetch the pinned wheels; hint: check the network")?;
    write(&stamp(place))
}

/// Builds the pinned bindgen, once, and returns the program's path.
///
/// # Errors
/// Where cargo cannot fetch or build it.
pub(crate) fn bindgen() -> Result<PathBuf> {
    let place = cache().join(format!("bindgen-{}", BINDGEN.version));
    let program = place.join("bin/bindgen");
    if !program.exists() {
        println!("building {} {} (some minutes, once)", BINDGEN.package, BINDGEN.version);
        run(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["install", "--quiet", "--locked", "--version", BINDGEN.version, "--root"])
            .arg(&place)
            .arg(BINDGEN.package))?;
    }
    ensure!(program.exists(), "cargo install left no {}", program.display());
    Ok(program)
}

/// Writes a generated file, or with `check` fails where the committed one differs.
///
/// # Errors
/// Where it differs, or cannot be read or written.
pub(crate) fn settle(check: bool, committed: &Path, text: &str, remake: &str) -> Result<()> {
    let shown = committed.strip_prefix(root()).unwrap_or(committed).display();
    if !check {
        fs::write(committed, text).with_context(|| format!("cannot write {shown}"))?;
        println!("wrote {shown} ({} lines)", text.lines().count());
        return Ok(());
    }
    let found = fs::read_to_string(committed).with_context(|| format!("cannot read {shown}"))?;
    let differs = found.lines().zip(text.lines()).position(|(old, new)| old != new);
    match differs {
        None if found == text => {
            println!("{shown}: up to date");
            Ok(())
        }
        line => bail!(
            "{shown} differs from what its sources make, first at line {}; hint: {remake}",
            line.unwrap_or_else(|| found.lines().count().min(text.lines().count())) + 1
        ),
    }
}
