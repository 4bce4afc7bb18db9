//! The referee lane: record layouts, the stepping and the decoder against real CUPTI libraries and
//! their headers, none of which needs a driver.

use crate::lane::{Tally, number_before};
use crate::{pip, step};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One CUPTI version, as PyPI has it.
struct Version {
    /// Of the libcupti.
    cupti: &'static str,
    /// What is installed, each with the one hash that is accepted.
    wheels: &'static [&'static str],
}

/// The `-cu12` runtime leaves `crt/host_defines.h` to the compiler's wheel of 20 to 40 MB. That of
/// 13.0, in 0.1 MB, does in its place: what the preprocessor makes of cupti.h is the same text.
const CRT_13_0: &str = "nvidia-cuda-crt==13.0.88 --hash=sha256:\
    2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4";

/// The newest patch of five versions whose libcupti works without a driver. Between them they have
/// each size that a record of ours has had until 13.1, but for the 48 bytes of OVERHEAD in 12.3.
/// Later ones do not work without a driver: `crates/memvelope/src/source/cupti/referee/mod.rs`.
const VERSIONS: &[Version] = &[
    Version {
        cupti: "12.0.146",
        wheels: &[
            "nvidia-cuda-cupti-cu12==12.0.146 --hash=sha256:\
             218901bafaef99588bc3681a2af61ea1b884b78c53e554fc8d94056d893920a0",
            "nvidia-cuda-runtime-cu12==12.0.146 --hash=sha256:\
             18c038592af387684812fa712642aa9a26c12da80acb488b6709f7cced147f71",
            CRT_13_0,
        ],
    },
    Version {
        cupti: "12.4.127",
        wheels: &[
            "nvidia-cuda-cupti-cu12==12.4.127 --hash=sha256:\
             9dec60f5ac126f7bb551c055072b69d85392b13311fcc1bcda2202d172df30fb",
            "nvidia-cuda-runtime-cu12==12.4.127 --hash=sha256:\
             64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5",
            CRT_13_0,
        ],
    },
    Version {
        cupti: "12.9.79",
        wheels: &[
            "nvidia-cuda-cupti-cu12==12.9.79 --hash=sha256:\
             096bcf334f13e1984ba36685ad4c1d6347db214de03dbb6eebb237b41d9d934f",
            "nvidia-cuda-runtime-cu12==12.9.79 --hash=sha256:\
             25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
            CRT_13_0,
        ],
    },
    Version {
        cupti: "13.0.85",
        wheels: &[
            "nvidia-cuda-cupti==13.0.85 --hash=sha256:\
             4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
            "nvidia-cuda-runtime==13.0.96 --hash=sha256:\
             7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            CRT_13_0,
        ],
    },
    Version {
        cupti: "13.1.115",
        wheels: &[
            "nvidia-cuda-cupti==13.1.115 --hash=sha256:\
             2c76d91807cf76fc0e4b08ad71c4dff0e8e9f678fc8dbbbc43ec55125a70b553",
            "nvidia-cuda-runtime==13.1.80 --hash=sha256:\
             dac25b52e69050e5a7a84957e6df470a85b185f8f648a99a1ab1dfce027576cf",
            "nvidia-cuda-crt==13.1.115 --hash=sha256:\
             53c9b03f804dc7e539dd11914ec3d3fd0849791d8cd6a73f0d4df984bb339916",
        ],
    },
];

impl Version {
    /// Where its wheels are, in cargo's target directory.
    fn place(&self) -> Result<PathBuf> {
        Ok(step::target()?.join("referee").join(self.cupti))
    }

    fn pins(&self) -> Vec<String> {
        self.wheels.iter().map(|&pin| pin.to_owned()).collect()
    }

    /// The folders below `nvidia/` that hold a folder of this name.
    fn folders(&self, name: &str) -> Result<Vec<PathBuf>> {
        let wheels = self.place()?.join("nvidia");
        let folders: Vec<PathBuf> =
            entries(&wheels)?.into_iter().map(|path| path.join(name)).collect();
        Ok(folders.into_iter().filter(|path| path.is_dir()).collect())
    }

    /// libcupti itself; the name has the major version in it.
    fn library(&self) -> Result<PathBuf> {
        let is_cupti = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcupti.so."))
        };
        for folder in self.folders("lib")? {
            if let Some(library) = entries(&folder)?.into_iter().find(is_cupti) {
                return Ok(library);
            }
        }
        bail!("no libcupti in the wheels of CUPTI {}; remove target/referee", self.cupti)
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn is_installed() -> Result<bool> {
    for version in VERSIONS {
        if !pip::is_installed(&version.place()?, &version.pins()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Why the lane cannot run here.
pub(crate) fn missing() -> Option<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("the pinned CUPTI wheels are for Linux on x86-64".into());
    }
    match is_installed() {
        Ok(true) => {}
        Ok(false) => {
            return Some("no CUPTI wheels; `cargo xtask lane referee --install` (70 MB)".into());
        }
        Err(error) => return Some(format!("{error:#}")),
    }
    let cc = Command::new("cc").arg("--version").output();
    cc.err().map(|error| format!("no C compiler: cc: {error}"))
}

/// Fetches the wheels, about 70 MB, once.
pub(crate) fn install() -> Result<()> {
    for version in VERSIONS {
        pip::install(&version.place()?, &version.pins())?;
    }
    Ok(())
}

/// Runs the library's referee tests with each version, each in a process of its own: there must
/// never be two libcupti in one, and a crash is then that version's.
pub(crate) fn run() -> Result<Tally> {
    let mut tally = Tally::default();
    let (mut records, mut offsets, mut strides) = (0, 0, 0);
    for version in VERSIONS {
        let include = std::env::join_paths(version.folders("include")?)
            .context("the target directory has a colon in its path")?;
        let mut command = step::cargo();
        command.args(["test", "--locked", "--quiet", "-p", "memvelope", "--lib", "referee::"]);
        command.args(["--", "--ignored", "--show-output"]);
        command.env("REFEREE_LIBRARY", version.library()?).env("REFEREE_INCLUDE", include);
        let title = format!("CUPTI {}", version.cupti);
        let ran = step::capture(&title, &mut command, HINT, |line| line.starts_with(FIGURES))?;
        let ran_tests = Tally::from_libtest(&ran.stdout);
        if ran_tests.passed == 0 {
            bail!("{title}: no test ran");
        }
        tally.passed += ran_tests.passed;
        for line in ran.stdout.lines().filter(|line| line.starts_with(FIGURES)) {
            records += number_before(line, " records compared");
            offsets += number_before(line, " offsets compared");
            strides += number_before(line, " strides compared");
        }
    }
    let versions: Vec<&str> = VERSIONS.iter().map(|version| version.cupti).collect();
    tally.figures = format!(
        "CUPTI {}: {records} records, {offsets} offsets and {strides} strides compared, 0 \
         mismatches",
        versions.join(", ")
    );
    Ok(tally)
}

/// How the tests' lines of figures begin.
const FIGURES: &str = "referee: ";

const HINT: &str = "by C: what the compiler reads with this version's headers; decoded: what we do";
