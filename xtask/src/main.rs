//! Builds, tests and packs memvelope. `cargo xtask` alone lists the tasks.

mod bindings;
mod bundle;
mod choosing;
mod corpus;
mod demo;
mod engine;
mod kernels;
mod lane;
mod pip;
mod python;
mod referee;
mod step;
mod suite;

use std::process::ExitCode;

const TASKS: &str = "\
cargo xtask TASK

  demo [-- ARGS]         build everything, then `memvelope demo ARGS` (the main job)
  test                   build everything, then every test lane that this machine has
  lane NAME [--install]  sim, benches, python, corpus, referee, gpu, engine, loom (or why not)
  gpu-bundle             pack what a GPU machine without a toolchain needs
  bindings [--check]     regenerate the CUPTI bindings from NVIDIA's header wheels (or compare)
  kernels [--check]      rebuild the PTX of cuda/ with pinned nvcc wheels (or compare)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["demo", ref rest @ ..] => demo::demo(rest.strip_prefix(&["--"]).unwrap_or(rest)),
        ["test"] => suite::test(),
        ["lane", name] => lane::lane(name, false),
        ["lane", name, "--install"] => lane::lane(name, true),
        ["gpu-bundle"] => bundle::bundle(),
        ["bindings"] => bindings::bindings(false).map(|()| ExitCode::SUCCESS),
        ["bindings", "--check"] => bindings::bindings(true).map(|()| ExitCode::SUCCESS),
        ["kernels"] => kernels::kernels(false).map(|()| ExitCode::SUCCESS),
        ["kernels", "--check"] => kernels::kernels(true).map(|()| ExitCode::SUCCESS),
        [] | ["help" | "--help" | "-h"] => {
            print!("{TASKS}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("error: no such task: {}\nhint: one of\n{TASKS}", words.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}
