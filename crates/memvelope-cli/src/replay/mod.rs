//! `memvelope replay`: requests go through admission policies, side by side, on one simulated
//! replica. No GPU is used: a step costs what `machine.rs` computes.

mod args;
mod engine;
mod external;
mod machine;
mod metrics;
mod policy;
mod report;
mod run;
mod sequence;
mod table;
mod workload;

pub(crate) use args::Args;

use crate::failure::{Failure, Outcome};
use crate::output;
use anyhow::Context;
use std::path::Path;
use std::process::ExitCode;

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    let report = if args.check_external {
        external::check(args)?
    } else {
        let plan = run::Plan::new(args)?;
        plan.run(&mut |text| output::remark(text))?
    };
    if let Some(path) = &args.json {
        let json = format!("{}\n", report.to_json().context("writing the report failed")?);
        if path == Path::new("-") {
            output::print(&json)?;
        } else {
            memvelope::export::write_atomically(path, |out| out.write_all(json.as_bytes()))?;
        }
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        output::print(&table::text(&report))?;
    }
    match report.external {
        Some(external) if !external.is_close => Err(Failure::Failed(anyhow::anyhow!(
            "the simulation misses what was measured\nhint: this is a defect of memvelope; please \
             report it with the table above"
        ))),
        _ => Ok(ExitCode::SUCCESS),
    }
}
