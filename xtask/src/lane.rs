//! The test lanes: what each proves, whether this machine has it, how it runs.

use crate::{corpus, engine, python, referee, step};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// One lane.
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    /// What it proves.
    pub(crate) proves: &'static str,
    /// Whether `cargo xtask test` has it.
    pub(crate) is_in_suite: bool,
    /// Why it cannot run here; `None` if it can.
    pub(crate) missing: fn() -> Option<String>,
    /// Fetches what is too large to be fetched unasked.
    pub(crate) install: Option<fn() -> Result<()>>,
    /// Runs it.
    pub(crate) run: fn() -> Result<Tally>,
}

/// Every lane of this version.
pub(crate) const LANES: &[Lane] = &[
    Lane {
        name: "sim",
        proves: "the whole pipeline against the simulated driver, and every unit and doc test",
        is_in_suite: true,
        missing: || None,
        install: None,
        run: rust_tests,
    },
    Lane {
        name: "benches",
        proves: "every benchmark runs (timings are not looked at)",
        is_in_suite: true,
        missing: || None,
        install: None,
        run: benches,
    },
    Lane {
        name: "python",
        proves: "the wheel builds, installs and passes its tests",
        is_in_suite: true,
        missing: python::missing,
        install: None,
        run: python::run,
    },
    Lane {
        name: "corpus",
        proves: "the whole Azure trace, and the policies on real traffic (other tests of ../shared/data are in sim)",
        is_in_suite: true,
        missing: corpus::missing,
        install: None,
        run: corpus::run,
    },
    Lane {
        name: "referee",
        proves: "record layouts, stepping and decoder against five real CUPTI and their headers",
        is_in_suite: true,
        missing: referee::missing,
        install: Some(referee::install),
        run: referee::run,
    },
    Lane {
        name: "gpu",
        proves: "the same conformance bodies on a real GPU",
        is_in_suite: true,
        missing: no_gpu,
        install: None,
        run: gpu,
    },
    Lane {
        name: "engine",
        proves: "plans are those of vLLM itself, started on the processor",
        // It takes minutes, and 7 GB beforehand.
        is_in_suite: false,
        missing: engine::missing,
        install: Some(engine::install),
        run: engine::run,
    },
    Lane {
        name: "loom",
        proves: "the gate without a lock, in every order that the memory model allows",
        // The models take a second, but everything is built once more for them.
        is_in_suite: false,
        missing: || None,
        install: None,
        run: loom,
    },
];

/// Runs one lane. With `install`, first fetches what it needs; most lanes need nothing but the
/// small venv of the Python lane, which makes itself.
pub(crate) fn lane(name: &str, install: bool) -> Result<ExitCode> {
    let Some(lane) = LANES.iter().find(|lane| lane.name == name) else {
        bail!("no such lane: {name}\nhint: there are {}", names());
    };
    println!("{name}: {}", lane.proves);
    match lane.install {
        Some(fetch) if install => fetch()?,
        None if install => println!("{name}: nothing to install beforehand"),
        _ => {}
    }
    if let Some(why) = (lane.missing)() {
        bail!("{name} cannot run here: {why}");
    }
    let tally = (lane.run)()?;
    println!("\n{name}: {} passed, {} ignored  {}", tally.passed, tally.ignored, tally.remark());
    Ok(ExitCode::SUCCESS)
}

fn names() -> String {
    LANES.iter().map(|lane| lane.name).collect::<Vec<_>>().join(", ")
}

/// How many tests passed and how many were ignored, and why.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) ignored: u64,
    /// Reasons given in `ignored: …` lines.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// What was measured, in one line; empty where counts say everything.
    pub(crate) figures: String,
}

impl Tally {
    /// Whether nothing was counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed == 0 && self.ignored == 0
    }

    /// Figures, then reasons with their counts.
    pub(crate) fn remark(&self) -> String {
        let reasons = self.reasons.iter().map(|(reason, count)| format!("{count} x {reason}"));
        let figures = (!self.figures.is_empty()).then(|| self.figures.clone());
        figures.into_iter().chain(reasons).collect::<Vec<_>>().join("; ")
    }

    /// Reads the output of `cargo test`: result lines, and the `ignored: why` lines of tests that
    /// found out by themselves that they cannot run (libtest counts those as passed).
    pub(crate) fn from_libtest(stdout: &str) -> Self {
        let mut tally = Self::default();
        for line in stdout.lines() {
            if let Some(result) = line.strip_prefix("test result: ok. ") {
                tally.passed += number_before(result, " passed");
                tally.ignored += number_before(result, " ignored");
            } else if let Some((_, why)) = line.split_once(" ... ignored") {
                // Counted in its result line; the reason follows in brackets or after a comma.
                let why = why.trim_matches(|c: char| !c.is_alphanumeric() && c != '.');
                let why = if why.is_empty() { "no reason given" } else { why };
                *tally.reasons.entry(why.to_owned()).or_default() += 1;
            } else if let Some(why) = line.trim_start().strip_prefix("ignored: ") {
                tally.passed = tally.passed.saturating_sub(1);
                tally.ignored += 1;
                *tally.reasons.entry(why.trim().to_owned()).or_default() += 1;
            }
        }
        tally
    }
}

/// The number that stands directly before `word`; 0 without one.
pub(crate) fn number_before(text: &str, word: &str) -> u64 {
    let Some(end) = text.find(word) else { return 0 };
    let begin = text[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    text[begin..end].parse().unwrap_or(0)
}

fn rust_tests() -> Result<Tally> {
    // memvelope-python is an extension module: without an interpreter it does not link. Its tests
    // are the Python lane's.
    let mut command = step::cargo();
    command.args(["test", "--workspace", "--exclude", "memvelope-python", "--locked"]);
    command.args(["--", "--show-output"]);
    let shown = |line: &str| line.starts_with("test result") || line.contains("ignored: ");
    let ran = step::capture("Rust tests (unit, integration, doc)", &mut command, HINT, shown)?;
    println!("{:.0} s", ran.seconds);
    Ok(Tally::from_libtest(&ran.stdout))
}

const HINT: &str = "the test that failed is named above; run it alone with `cargo test NAME`";

fn benches() -> Result<Tally> {
    let mut tally = Tally::default();
    for Target { package, name: bench, features } in bench_targets()? {
        let mut command = step::cargo();
        command.args(["test", "--locked", "--quiet", "-p", &package, "--bench", &bench]);
        command.args(["--features", &features]);
        command.args(["--", "--quick"]);
        step::run(&format!("bench {bench} as a test"), &mut command, "run it alone: cargo bench")?;
        tally.passed += 1;
    }
    Ok(tally)
}

/// What cargo builds: a test, a bench.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its package.
    pub(crate) package: String,
    /// Its name.
    pub(crate) name: String,
    /// The features that it takes, separated by commas.
    pub(crate) features: String,
}

/// All bench targets.
pub(crate) fn bench_targets() -> Result<Vec<Target>> {
    targets("bench")
}

/// All targets of a kind.
fn targets(kind: &str) -> Result<Vec<Target>> {
    let metadata = step::metadata()?;
    let empty = Vec::new();
    let list = |value: &serde_json::Value| value.as_array().unwrap_or(&empty).clone();
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            if list(&target["kind"]).iter().any(|k| k == kind)
                && let (Some(package), Some(name)) =
                    (package["name"].as_str(), target["name"].as_str())
            {
                let features = list(&target["required-features"]);
                let features: Vec<_> = features.iter().filter_map(|it| it.as_str()).collect();
                let features = features.join(",");
                found.push(Target { package: package.to_owned(), name: name.to_owned(), features });
            }
        }
    }
    Ok(found)
}

fn loom() -> Result<Tally> {
    let mut command = step::cargo();
    command.args(["test", "--locked", "-p", "memvelope", "--lib", "--target-dir", "target/loom"]);
    command.args(["loom_"]).env("RUSTFLAGS", "--cfg loom");
    let ran = step::capture("models of the gate", &mut command, HINT, |_| true)?;
    Ok(Tally::from_libtest(&ran.stdout))
}

fn no_gpu() -> Option<String> {
    if std::env::var_os("MEMVELOPE_GPU").is_some_and(|value| value == "off") {
        return Some("MEMVELOPE_GPU=off".into());
    }
    // The kernel module's own file, and what WSL has instead.
    let has_driver = ["/proc/driver/nvidia/version", "/dev/dxg"]
        .iter()
        .any(|path| std::path::Path::new(path).exists());
    (!has_driver).then(|| "no GPU".into())
}

fn gpu() -> Result<Tally> {
    let mut command = step::cargo();
    command.args(["test", "--locked", "-p", "memvelope-tests", "--test", "conformance"]);
    command.args(["--", "gpu::"]).env("MEMVELOPE_GPU", "require");
    let ran = step::capture("conformance on the GPU", &mut command, HINT, |_| true)?;
    Ok(Tally::from_libtest(&ran.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_reasons_are_counted() {
        let tally = Tally::from_libtest(
            "test gpu::a ... ignored (no GPU)\ntest gpu::b ... ignored, no GPU\n\
             test result: ok. 7 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out\n\
             ---- a stdout ----\nignored: no ../shared\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!((tally.passed, tally.ignored), (9, 3));
        assert_eq!(tally.reasons["no ../shared"], 1);
        assert_eq!(tally.reasons["no GPU"], 2);
        assert_eq!(number_before("12 passed, 3 skipped in 0.1s", " skipped"), 3);
        assert_eq!(number_before("nothing", " passed"), 0);
    }
}
