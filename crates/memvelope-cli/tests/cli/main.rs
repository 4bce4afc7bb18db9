//! The command as its users run it: arguments in, exit code, text and files out.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first thing that is amiss")]

mod common;
mod demo;
mod doctor;
mod plan;
mod replay;
mod run;
mod run_balance;
mod run_common;
mod run_ends;
mod run_setup;
mod snapshot;
mod stories;
