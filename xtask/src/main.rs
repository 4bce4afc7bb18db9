//! Builds, tests and packs memvelope.

mod bindings;
mod kernels;
mod pip;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["bindings"] => bindings::bindings(false),
        ["bindings", "--check"] => bindings::bindings(true),
        ["kernels"] => kernels::kernels(false),
        ["kernels", "--check"] => kernels::kernels(true),
        _ => Err(anyhow::anyhow!("no such task: {args:?}; hint: bindings|kernels [--check]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}
