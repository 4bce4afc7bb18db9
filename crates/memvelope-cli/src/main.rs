//! The `memvelope` command: one file a subcommand.
//!
//! Exit codes: 0 done (for `doctor`: usable), 1 the work failed (for `doctor`: degraded), 2 bad
//! input or usage, nothing was written (for `doctor`: unusable). `plan`: 1 where the engine would
//! refuse to start. `replay --check-external`: 1 where the simulation misses what was measured.
//! `run` ends as the program it ran did. `snapshot`: 1 where there is nothing to show.

mod demo;
mod doctor;
mod failure;
mod names;
mod output;
mod plan;
mod replay;
mod requests;
mod run;
mod sim_exec;
mod snapshot;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// Keeps an inference process inside the memory of its GPU.
#[derive(Debug, Parser)]
#[command(name = "memvelope", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what of this machine memvelope can use, and what to do about the rest.
    Doctor(doctor::Args),
    /// Say what an engine will do with a model on a device, and what fits, before anything runs.
    Plan(Box<plan::Args>),
    /// Serve a stream of requests behind the gate, on a GPU or on the simulated driver.
    Demo(demo::Args),
    /// Record a program that was never changed, and say what it did with the GPU.
    Run(Box<run::Args>),
    /// Say where the VRAM of a running process is, and whether more would fit.
    Snapshot(snapshot::Args),
    /// Replay requests through admission policies, on one simulated replica, and compare them.
    Replay(Box<replay::Args>),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Doctor(args) => doctor::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Replay(args) => replay::run(&args),
    };
    let code = outcome.unwrap_or_else(|failure: Failure| {
        failure.print();
        failure.exit_code()
    });
    sim_exec::clean_up();
    code
}
