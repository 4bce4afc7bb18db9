//! The report as one JSON document, `memvelope.run/1`; `docs/recording-a-program.md` lists its fields.

use super::gather::{End, Seen, View};
use super::os;
use super::trace::Joined;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// How the program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It still runs: this is a report on the way.
    NotYet,
    Code(i32),
    Signal(i32),
}

/// What is known of the run as a whole.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) command: Vec<String>,
    pub(super) pid: u32,
    pub(super) exit: Exit,
    pub(super) wall: Duration,
    pub(super) started_unix_ns: u64,
    pub(super) simulated: bool,
    pub(super) recorded: bool,
    pub(super) problems: Vec<String>,
    pub(super) trace: Option<PathBuf>,
    pub(super) report: Option<PathBuf>,
}

/// What became of a process's trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    NotAsked,
    Joined(Joined),
    /// Why there is none.
    None(String),
}

/// Puts the document together. `traces` are those of the processes, in their order.
pub(super) fn document(run: &Run, view: &View, traces: &[Trace]) -> Value {
    let simulated = run.simulated || view.processes.iter().any(|p| p.vitals.is_simulated);
    let traces = traces.iter().chain(std::iter::repeat(&Trace::NotAsked));
    let processes: Vec<Value> =
        view.processes.iter().zip(traces).map(|(seen, trace)| process(run, seen, trace)).collect();
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    json!({
        "schema": "memvelope.run/1",
        "memvelope_version": env!("CARGO_PKG_VERSION"),
        "simulated": simulated,
        "recorded": run.recorded,
        "problems": run.problems,
        "command": run.command,
        "pid": run.pid,
        "exit": exit(&run.exit),
        "started_unix_ns": run.started_unix_ns,
        "wall_ns": u64::try_from(run.wall.as_nanos()).unwrap_or(u64::MAX),
        "processes": processes,
        "processes_turned_away": view.turned_away,
        "processes_not_listed": view.not_listed,
        "totals": view.totals,
        "files": { "trace": path(&run.trace), "report": path(&run.report) },
    })
}

fn exit(exit: &Exit) -> Value {
    match exit {
        Exit::NotYet => Value::Null,
        Exit::Code(code) => json!({ "code": code }),
        Exit::Signal(signal) => json!({ "signal": signal, "name": os::name_of(*signal) }),
    }
}

/// The process's own report, with what only its parent knows beside it.
fn process(run: &Run, seen: &Seen, trace: &Trace) -> Value {
    let own = seen.report.as_ref().and_then(|json| serde_json::from_slice::<Value>(json).ok());
    let has_report = own.is_some();
    let mut process = match own {
        Some(Value::Object(own)) => own,
        _ => Map::new(),
    };
    let mut put = |key: &str, value: Value| drop(process.insert(key.to_owned(), value));
    if !has_report {
        put("pid", json!(seen.pid));
        put("parent_pid", json!(seen.parent_pid));
        put("command", json!(seen.command));
        put("simulated", json!(seen.vitals.is_simulated));
        put("state", json!(if seen.vitals.is_recording { "recording" } else { "not recording" }));
        put("final", json!(false));
        put("snapshot", Value::Null);
        put("vitals", vitals(seen));
    }
    put("sequence", json!(seen.sequence));
    let (kind, age_ns) = match seen.end {
        End::Reported => ("reported", None),
        End::CutShort { age_ns } => ("cut_short", Some(age_ns)),
        End::Replaced { age_ns } => ("replaced", Some(age_ns)),
        End::Running { age_ns } => ("running", Some(age_ns)),
    };
    put("end", json!({ "kind": kind, "last_update_age_ns": age_ns }));
    let is_program = seen.pid == run.pid && kind != "replaced";
    put("exit", if is_program { exit(&run.exit) } else { Value::Null });
    put(
        "trace",
        match trace {
            Trace::NotAsked => Value::Null,
            Trace::Joined(joined) => json!(joined),
            Trace::None(why) => json!({ "absent": why }),
        },
    );
    process.into()
}

fn vitals(seen: &Seen) -> Value {
    let vitals = &seen.vitals;
    let live: Map<_, _> =
        vitals.live_bytes.iter().map(|(d, bytes)| (d.to_string(), json!(bytes))).collect();
    json!({
        "live_bytes": live,
        "allocations": vitals.allocations,
        "kernels": vitals.kernels,
        "lost": vitals.lost,
    })
}
