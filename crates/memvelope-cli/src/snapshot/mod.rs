//! `memvelope snapshot`: where the VRAM of a running process is, now.
//!
//! What is shown was told by the session inside of that process, at most a poll period ago; nothing
//! is asked of the process or of the driver here.

mod find;
mod list;

use crate::failure::{Failure, Outcome};
use crate::names::plain;
use crate::output;
use anyhow::anyhow;
use find::{Found, Nothing};
use memvelope::event::DeviceIndex;
use memvelope::snapshot::{Fit, SCHEMA, Snapshot, Via, fit_text};
use memvelope::units::{Bytes, Nanos};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Columns of what is printed, where the terminal does not say how many it has.
const WIDTH: usize = 100;
/// The least that tables are made for.
const WIDTH_MIN: usize = 80;

/// A reading older than that is said to be old: the session tells something each poll period, at
/// most ten minutes apart, and one that hangs tells nothing.
const OLD: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process; without it, the one there is, or a list of all that have memvelope inside.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// One JSON document (with --watch: one a line).
    #[arg(long)]
    json: bool,
    /// This device alone, by its CUDA ordinal in that process.
    #[arg(long, value_name = "N")]
    device: Option<u32>,
    /// Show it again so often: 500ms, 10s, 1m. Until the process ends.
    #[arg(long, value_name = "TIME", value_parser = crate::run::duration)]
    watch: Option<Duration>,
    /// Also say whether so much would fit, and if not, why.
    #[arg(long, value_name = "BYTES")]
    fits: Option<Bytes>,
    /// Who would be asked for it: PyTorch's allocator (where the process has told of it), or the
    /// driver.
    #[arg(long, value_name = "framework|driver", requires = "fits")]
    via: Option<Asked>,
}

/// Who is asked for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Asked {
    Framework,
    Driver,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    let Some(pid) = args.pid else {
        let all = find::all();
        return match all.as_slice() {
            [one] => show_while_there(args, one.pid),
            [] => Err(Failure::Failed(anyhow!(NONE))),
            all if args.json => print_json(args, &list::document(all)),
            all => output::print(&list::text(all, width())),
        }
        .map(|()| ExitCode::SUCCESS);
    };
    show_while_there(args, pid)?;
    Ok(ExitCode::SUCCESS)
}

const NONE: &str = "no process here has memvelope inside and may be looked at\nhint: start the \
                    program by `memvelope run`, or a session in it (memvelope.Session.start() in \
                    Python, Session::start in Rust); processes of other users show to root alone";

/// Once, or with `--watch` until the process has ended.
fn show_while_there(args: &Args, pid: u32) -> Outcome<()> {
    let mut found = look(pid)?;
    loop {
        show(args, &found)?;
        let Some(period) = args.watch else { return Ok(()) };
        std::thread::sleep(period);
        found = match find::look(pid) {
            Ok(found) => found,
            Err(Nothing::Gone | Nothing::Ended) => {
                output::remark(&format!("process {pid} has ended"));
                return Ok(());
            }
            Err(nothing) => return Err(failed(pid, &nothing)),
        };
    }
}

fn look(pid: u32) -> Outcome<Found> {
    find::look(pid).map_err(|nothing| failed(pid, &nothing))
}

fn failed(pid: u32, nothing: &Nothing) -> Failure {
    let error = anyhow!("process {pid}: {nothing}");
    match nothing {
        Nothing::Gone | Nothing::Ended => Failure::BadInput(error),
        _ => Failure::Failed(error),
    }
}

fn show(args: &Args, found: &Found) -> Outcome<()> {
    let snapshot = snapshot_of(found)?;
    let snapshot = one_device(args, snapshot)?;
    let fits: Vec<(DeviceIndex, Fit)> = match args.fits {
        Some(bytes) => answers(args, &snapshot, bytes),
        None => Vec::new(),
    };
    if args.json {
        return print_json(args, &document(args, found, &snapshot, &fits));
    }
    let mut text = String::new();
    // Cleared, where a person looks on; a pipe gets one after the other.
    if args.watch.is_some() && std::io::stdout().is_terminal() {
        text.push_str("\u{1b}[H\u{1b}[2J");
    }
    text.push_str(&lines(&head(found)));
    text.push_str(&lines(&snapshot.text(width())));
    for (device, fit) in &fits {
        let bytes = args.fits.unwrap_or(Bytes::ZERO);
        let _ = writeln!(text, "\nwould {bytes} fit on GPU {}?", device.0);
        text.push_str(&lines(&fit_text(fit, width())));
    }
    if args.watch.is_some() {
        text.push('\n');
    }
    output::print(&text)
}

/// The snapshot in a report.
fn snapshot_of(found: &Found) -> Outcome<Snapshot> {
    let own = &found.document["snapshot"];
    let schema = own["schema"].as_u64();
    if schema != Some(u64::from(SCHEMA)) {
        let told = schema.map_or("none".into(), |schema| schema.to_string());
        return Err(Failure::Failed(anyhow!(
            "process {}: its snapshot has schema {told}, this command reads {SCHEMA}\nhint: use the \
             command of the version that is inside of it",
            found.pid
        )));
    }
    serde_json::from_value(own.clone()).map_err(|error| {
        Failure::Failed(anyhow!(
            "process {}: its snapshot is not understood: {error}\nhint: use the command of the \
             version that is inside of it",
            found.pid
        ))
    })
}

fn one_device(args: &Args, mut snapshot: Snapshot) -> Outcome<Snapshot> {
    let Some(wanted) = args.device else { return Ok(snapshot) };
    let known: Vec<_> = snapshot.devices.iter().map(|d| d.totals.device.0.to_string()).collect();
    snapshot.devices.retain(|device| device.totals.device.0 == wanted);
    if snapshot.devices.is_empty() {
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(Failure::bad(format!(
            "--device {wanted}: the process has no such device\nhint: it has {known}"
        )));
    }
    Ok(snapshot)
}

fn answers(args: &Args, snapshot: &Snapshot, bytes: Bytes) -> Vec<(DeviceIndex, Fit)> {
    let answer = |device: &memvelope::snapshot::DeviceSnapshot| {
        let via = match args.via {
            Some(Asked::Framework) => Via::Framework,
            Some(Asked::Driver) => Via::Driver,
            None if device.framework.is_some() => Via::Framework,
            None => Via::Driver,
        };
        (device.totals.device, device.would_fit(bytes, via))
    };
    snapshot.devices.iter().map(answer).collect()
}

/// Whose snapshot it is, and of when.
fn head(found: &Found) -> String {
    let document = &found.document;
    let words = document["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let command = words.collect::<Vec<_>>().join(" ");
    let mut text =
        format!("process {}  {}\n  ", found.pid, crate::names::cut(&command, width() - 20));
    let age = age_text(found.age);
    if document["final"] == true {
        let _ = write!(text, "its session has ended; what it knew last");
    } else if found.age > OLD {
        let _ = write!(text, "told {age} ago, which is long: does the process hang?");
    } else {
        let _ = write!(text, "told {age} ago");
    }
    for (key, what) in [("polling", "polling only"), ("blind", "sees nothing of the GPU")] {
        if let Some(why) = document["mode"][key].as_str() {
            let _ = write!(text, "\n  {what}: {why}");
        }
    }
    text.push('\n');
    for (table, count) in document["left_out"].as_object().into_iter().flatten() {
        let _ = writeln!(
            text,
            "  {count} rows of {table} did not fit what it may tell; sums are whole"
        );
    }
    text
}

/// The document of `--json`: the process's report, its age, and the answer of `--fits`.
fn document(args: &Args, found: &Found, snapshot: &Snapshot, fits: &[(DeviceIndex, Fit)]) -> Value {
    let mut document = found.document.clone();
    document["pid"] = json!(found.pid);
    document["age_ns"] = json!(Nanos::from_duration(found.age));
    if args.device.is_some() {
        let wanted = |device: &Value| {
            snapshot.devices.iter().any(|d| device["totals"]["device"] == json!(d.totals.device))
        };
        if let Some(devices) = document["snapshot"]["devices"].as_array_mut() {
            devices.retain(wanted);
        }
    }
    if let Some(bytes) = args.fits {
        let answer = |(device, fit): &(DeviceIndex, Fit)| json!({ "device": device, "bytes": bytes, "answer": fit });
        document["fits"] = fits.iter().map(answer).collect();
    }
    document
}

fn print_json(args: &Args, document: &Value) -> Outcome<()> {
    let text = if args.watch.is_some() { document.to_string() } else { format!("{document:#}") };
    output::print(&(text + "\n"))
}

/// Texts come from another process: none of them may steer the terminal.
fn lines(text: &str) -> String {
    text.lines().map(|line| plain(line) + "\n").collect()
}

fn age_text(age: Duration) -> String {
    match age.as_secs() {
        0..10 => format!("{:.1} s", age.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Columns to print for: the terminal's, as the shell tells them.
fn width() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    told.unwrap_or(WIDTH).clamp(WIDTH_MIN, 2 * WIDTH)
}
