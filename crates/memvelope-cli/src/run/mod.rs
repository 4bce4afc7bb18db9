//! `memvelope run`: records a program that was never changed, and the processes it starts.
//!
//! The program runs as it would without us: same input and output, same environment but for what
//! names our library, same exit code or signal. What we have to say goes to stderr, after it ended.

mod balance;
mod gather;
mod launch;
mod os;
mod report;
mod signals;
mod table;
mod text;
mod totals;
mod trace;
mod watch;

use crate::failure::Outcome;
use crate::output;
use crate::sim_exec::Choice;
use gather::View;
use launch::Launch;
use memvelope::export::write_atomically;
use report::{Exit, Run, Trace};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What `env` and `timeout` return for a program that is not there, or cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;

/// How CUDA graphs are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Graphs {
    /// Each kernel, copy and memset of them.
    Nodes,
    /// One record a launch.
    Whole,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Report as one line of JSON (on stderr, as the text is).
    #[arg(long)]
    json: bool,
    /// Keep report.json and trace.json in this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print a line on stderr so often: 500ms, 10s, 1m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    every: Option<Duration>,
    /// What the program finds: whatever is there (auto), the simulated driver, or one device alone
    /// (as CUDA_VISIBLE_DEVICES names it).
    #[arg(long, value_name = "auto|sim|ORDINAL|UUID", default_value = "auto")]
    device: Choice,
    /// Scenario of the simulated driver (TOML).
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// How CUDA graphs are recorded.
    #[arg(long, value_name = "nodes|whole")]
    graphs: Option<Graphs>,
    /// Record the ranges that the program marks with NVTX.
    #[arg(long)]
    nvtx: bool,
    /// Longest trace.json.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20,
          value_parser = clap::value_parser!(u64).range((1 << 17)..))]
    trace_bytes_max: u64,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// A time with its unit, 100 ms at least.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a number and its unit: 500ms, 10s, 1m, 2h; 100ms at least";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1.0,
        "s" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3600e3,
        _ => return Err(EXPECTED.into()),
    };
    let number: f64 = digits.parse().map_err(|_| EXPECTED)?;
    // A year is long enough, and finite.
    let ms = Some(number * unit_ms).filter(|ms| (100.0..=31_536e6).contains(ms));
    Ok(Duration::from_secs_f64(ms.ok_or(EXPECTED)? / 1e3))
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    let mut launch = Launch::prepare(args)?;
    for problem in &launch.problems {
        output::remark(&format!("memvelope: {problem}"));
    }
    let inherited = os::Inherited::note(&signals::all());
    inherited.pass_to(&mut launch.command);
    let started = (Instant::now(), SystemTime::now());
    let child = match launch.command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let name = args.command[0].display();
            output::remark(&format!("error: starting {name} failed: {error}"));
            let is_absent = error.kind() == ErrorKind::NotFound;
            return Ok(ExitCode::from(if is_absent { NOT_FOUND } else { NOT_STARTED }));
        }
    };
    let since_1970 = started.1.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut run = Run {
        command: args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        pid: child.id(),
        exit: Exit::NotYet,
        wall: Duration::ZERO,
        started_unix_ns: u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX),
        simulated: args.device == Choice::Sim,
        recorded: launch.summary.is_some(),
        problems: std::mem::take(&mut launch.problems),
        trace: None,
        report: None,
    };
    let view = watch::until_the_end(args, &mut run, &launch, started.0, &inherited);
    let traces = keep_files(args, &mut run, &launch, &view);
    let document = report::document(&run, &view, &traces);
    if let Some(path) = &run.report
        && let Err(problem) = write_report(path, &document)
    {
        output::remark(&format!("memvelope: {problem:#}"));
    }
    show(args, &run, &document);
    // Directories of ours go before we may die.
    drop(launch);
    Ok(end_as(&run.exit))
}

/// Prints a report. Unrecorded, a person was told why already.
fn show(args: &Args, run: &Run, document: &serde_json::Value) {
    if args.json {
        output::remark(&document.to_string());
    } else if run.recorded {
        output::remark(text::report(document).trim_end());
    }
}

/// Joins the processes' traces; returns what became of each.
fn keep_files(args: &Args, run: &mut Run, launch: &Launch, view: &View) -> Vec<Trace> {
    let (Some(out), Some(traces)) = (&launch.out, &launch.traces) else { return Vec::new() };
    run.report = Some(out.join("report.json"));
    let source = |process: &gather::Seen| {
        let program = process.command.first().map_or("?", String::as_str);
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
        trace::Source {
            path: traces.path.join(format!("trace-{}.json", process.sequence)),
            label: format!("{name} {}", process.pid),
        }
    };
    let all: Vec<_> = view.processes.iter().map(source).collect();
    let there: Vec<_> = all.iter().filter(|source| source.path.exists()).cloned().collect();
    let path = out.join("trace.json");
    let simulated = run.simulated || view.processes.iter().any(|p| p.vitals.is_simulated);
    let mut joined = match trace::join(&there, &path, simulated, args.trace_bytes_max) {
        Ok(joined) => {
            run.trace = Some(path);
            joined.into_iter()
        }
        Err(error) => {
            let problem = format!("joining the traces failed: {error:#}");
            output::remark(&format!("memvelope: {problem}"));
            run.problems.push(problem);
            return Vec::new();
        }
    };
    let outcome = |source: &trace::Source| {
        if !there.iter().any(|other| other.path == source.path) {
            return Trace::None("it ended before its first one was written".into());
        }
        match joined.next() {
            Some(Ok(joined)) => Trace::Joined(joined),
            Some(Err(error)) => Trace::None(format!("{error:#}")),
            None => Trace::NotAsked,
        }
    };
    all.iter().map(outcome).collect()
}

fn write_report(path: &Path, document: &serde_json::Value) -> anyhow::Result<()> {
    write_atomically(path, |out| {
        serde_json::to_writer_pretty(&mut *out, document)?;
        out.write_all(b"\n")
    })?;
    Ok(())
}

/// Ends as the program did, so that whoever waits for us sees no difference.
fn end_as(exit: &Exit) -> ExitCode {
    match exit {
        Exit::Code(code) => ExitCode::from(u8::try_from(*code & 0xff).unwrap_or(1)),
        Exit::Signal(signal) => {
            os::die_of(*signal);
            // Signals that do not end a process do not get here.
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))
        }
        Exit::NotYet => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("1m", 60_000), ("1.5s", 1500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "10 s", "1ms", "1e99h", "NaNs", "infs", "5d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
