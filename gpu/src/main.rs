//! `gpu-lane workload NAME …` does work and times it; `gpu-lane probe NAME …` asks CUPTI one
//! question. Each writes one JSON object to `--out`, and is one process: what is measured does not
//! depend on what was measured before. `run.sh` calls both.

#![expect(unsafe_code, reason = "probes call CUPTI directly")]

mod options;
mod probe;
mod workload;

use anyhow::{Context as _, Result, bail};
use options::Options;
use std::process::ExitCode;

/// A workload or a probe: takes its options, yields what it found.
type Run = fn(&Options) -> Result<serde_json::Value>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let usage = "gpu-lane workload|probe NAME [--KEY VALUE]...";
    let (Some(group), Some(name)) = (words.next(), words.next()) else { bail!("{usage}") };
    let options = Options::read(words)?;
    let table = match group.as_str() {
        "workload" => workload::ALL,
        "probe" => probe::ALL,
        _ => bail!("no such group: {group}; {usage}"),
    };
    let known = || table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (_, run) = table
        .iter()
        .find(|(known, _)| *known == name)
        .with_context(|| format!("no such {group}: {name}; there are {}", known()))?;
    let mut found = run(&options)?;
    found["name"] = name.into();
    match options.text("out") {
        Some(path) => {
            std::fs::write(path, found.to_string()).with_context(|| format!("writing {path}"))
        }
        None => {
            println!("{found:#}");
            Ok(())
        }
    }
}
