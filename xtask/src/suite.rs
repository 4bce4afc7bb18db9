//! `cargo xtask test`: builds everything and runs every test lane that this machine has.

use crate::lane::{self, Lane, Tally};
use crate::step;
use anyhow::Result;
use std::process::ExitCode;

/// Runs the lanes in order and stops at the first that fails. The closing table says what ran,
/// what did not and why.
pub(crate) fn test() -> Result<ExitCode> {
    checks()?;
    let mut table = vec![Row::passed("checks", Tally::default())];
    for lane in lane::LANES.iter().filter(|lane| lane.is_in_suite) {
        table.push(row(lane)?);
    }
    println!("\n==> lanes");
    println!("{:<16} {:>7} {:>8}  remarks", "lane", "passed", "ignored");
    for row in &table {
        println!("{:<16} {:>7} {:>8}  {}", row.name, row.passed, row.ignored, row.remark);
    }
    Ok(ExitCode::SUCCESS)
}

struct Row {
    name: &'static str,
    passed: String,
    ignored: String,
    remark: String,
}

impl Row {
    fn passed(name: &'static str, tally: Tally) -> Self {
        let number = |n: u64| if tally.is_empty() { "ok".into() } else { n.to_string() };
        Self {
            name,
            passed: number(tally.passed),
            ignored: if tally.is_empty() { String::new() } else { tally.ignored.to_string() },
            remark: tally.remark(),
        }
    }
}

fn row(lane: &Lane) -> Result<Row> {
    if let Some(why) = (lane.missing)() {
        if lane.name == "gpu" && std::env::var_os("MEMVELOPE_GPU").is_some_and(|v| v == "require") {
            anyhow::bail!("gpu: {why}, and MEMVELOPE_GPU=require asks for one");
        }
        println!("\n==> {}\nignored: {why}", lane.name);
        return Ok(Row { name: lane.name, passed: "-".into(), ignored: "all".into(), remark: why });
    }
    Ok(Row::passed(lane.name, (lane.run)()?))
}

fn checks() -> Result<()> {
    step::run("format", step::cargo().args(["fmt", "--all", "--check"]), "run `cargo fmt --all`")?;
    step::run(
        "clippy",
        step::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
        "the first warning above names file and line; allow nothing without a reason",
    )?;
    step::run(
        "docs",
        step::cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
        "the first warning above names file and line",
    )
}
