//! The report as a person reads it: made from the document, so that both say the same.

use super::balance;
use super::table::{Table, WIDTH, wrapped};
use super::totals::rows;
use crate::names;
use memvelope::units::{Bytes, Nanos};
use serde_json::Value;
use std::fmt::{Result, Write};

/// Kernels shown of a process; the document has all that its process told.
const KERNELS_SHOWN: usize = 15;

/// Rows shown of other tables.
const ROWS_SHOWN: usize = 10;

/// Processes shown whole: those with most kernel time.
const PROCESSES_SHOWN: usize = 6;

/// Further ones that get a line each.
const PROCESSES_NAMED: usize = 20;

/// Kinds of memory, in the order of the ledger's `by_kind`.
const KINDS: [&str; 12] = [
    "device",
    "pitch",
    "managed",
    "pinned host",
    "used in pools",
    "VMM",
    "registered",
    "imported",
    "imported VMM",
    "in graphs",
    "multicast",
    "VMM on the host",
];

/// What may be amiss where nothing was recorded.
const NOTHING: &str =
    "  No process of it initialised CUDA (cuInit) where we could see it. Then one of these holds:
    - it does not use CUDA, or ended before it did;
    - it, or what starts it, drops CUDA_INJECTION64_PATH from the environment (sudo, env -i, a
      container): set the variable inside, see docs/recording-a-program.md;
    - its work is done by a process that was already running (a server, a daemon);
    - it runs as another user than this one, who cannot open our files;
    - it runs on a GPU of another maker, or on a driver that is not NVIDIA's.
  `memvelope doctor` says what of the driver can be used here.";

/// The whole report as text.
pub(super) fn report(document: &Value) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_report(&mut out, document);
    out
}

fn write_report(out: &mut String, document: &Value) -> Result {
    if document["simulated"] == true {
        writeln!(out, "SIMULATED: times and bytes come from memvelope's simulated driver.\n")?;
    }
    let words: Vec<_> = rows(&document["command"]).map(text).collect();
    writeln!(out, "memvelope run: {}", names::cut(&words.join(" "), WIDTH - 15))?;
    let wall = Nanos(number(&document["wall_ns"]));
    let used = number(&document["totals"]["processes"]);
    writeln!(out, "  {} after {wall}; {}", ended(&document["exit"]), users(used))?;
    for problem in rows(&document["problems"]) {
        writeln!(out, "{}", wrapped(2, &format!("note: {}", text(problem))))?;
    }
    for (key, what) in [
        ("processes_turned_away", "more found no room in the summary and were not recorded"),
        ("processes_not_listed", "more are in the totals alone"),
    ] {
        match number(&document[key]) {
            0 => {}
            count => writeln!(out, "  note: {count} {what}")?,
        }
    }
    if used == 0 {
        return writeln!(out, "\nnothing was recorded\n{NOTHING}");
    }
    write_processes(out, document)?;
    if used > 1 {
        write_totals(out, &document["totals"])?;
    }
    write_files(out, document)
}

fn users(count: u64) -> String {
    match count {
        0 => "no process used CUDA".into(),
        1 => "1 process used CUDA".into(),
        _ => format!("{count} processes used CUDA"),
    }
}

fn ended(exit: &Value) -> String {
    if let Some(code) = exit["code"].as_i64() {
        format!("ended with exit code {code}")
    } else if let Some(name) = exit["name"].as_str() {
        format!("died of {name}")
    } else {
        "still running".into()
    }
}

fn write_processes(out: &mut String, document: &Value) -> Result {
    let mut processes: Vec<_> = rows(&document["processes"]).collect();
    let time = |process: &Value| -> u64 {
        rows(&process["snapshot"]["timeline"]["kernels"]).map(|k| number(&k["total_ns"])).sum()
    };
    processes.sort_by_key(|process| std::cmp::Reverse(time(process)));
    for process in processes.iter().take(PROCESSES_SHOWN) {
        write_process(out, process)?;
    }
    let others = &processes[processes.len().min(PROCESSES_SHOWN)..];
    if !others.is_empty() {
        let mut table = Table::new(2, &["other processes", "pid", "kernel time", "peak VRAM"]);
        for process in others.iter().take(PROCESSES_NAMED) {
            let peak = rows(&process["snapshot"]["devices"])
                .map(|device| number(&device["totals"]["vram"]["peak_bytes"]))
                .max();
            let pid = process["pid"].to_string();
            let peak = peak.map_or("absent".into(), |bytes| Bytes(bytes).to_string());
            table.row([command(process), pid, Nanos(time(process)).to_string(), peak]);
        }
        write!(out, "\n{table}")?;
        if let Some(more) = others.len().checked_sub(PROCESSES_NAMED).filter(|more| *more > 0) {
            writeln!(out, "  and {more} more")?;
        }
    }
    Ok(())
}

fn command(process: &Value) -> String {
    let words: Vec<_> = rows(&process["command"]).map(text).collect();
    words.join(" ")
}

fn write_process(out: &mut String, process: &Value) -> Result {
    writeln!(out, "\nprocess {}  {}", process["pid"], names::cut(&command(process), WIDTH - 20))?;
    let age = Nanos(number(&process["end"]["last_update_age_ns"]));
    let as_of = match process["end"]["kind"].as_str() {
        Some("reported") => "to its end".to_owned(),
        Some("cut_short") => format!("ended without a last word: as of {age} before"),
        Some("replaced") => format!("became another program (exec): as of {age} before"),
        _ => format!("still running: as of {age} ago"),
    };
    writeln!(out, "  {}; started by {}", as_of, process["parent_pid"])?;
    let snapshot = &process["snapshot"];
    if !snapshot.is_object() {
        let seen = &process["vitals"];
        return writeln!(
            out,
            "  no report by then: {} kernels and {} allocations were told of",
            number(&seen["kernels"]),
            number(&seen["allocations"])
        );
    }
    write_mode(out, &process["mode"])?;
    write_memory(out, snapshot)?;
    write_work(out, &snapshot["timeline"])?;
    write_losses(out, process)?;
    write_cost(out, &process["self"])
}

fn write_mode(out: &mut String, mode: &Value) -> Result {
    if let Some(version) = mode["cupti"]["cupti_version"].as_u64() {
        return writeln!(out, "  recorded through CUPTI (API version {version})");
    }
    for (key, what) in [("polling", "polling only"), ("blind", "nothing was recorded")] {
        if let Some(why) = mode[key].as_str() {
            writeln!(out, "{}", wrapped(2, &format!("{what}: {}", names::plain(why))))?;
        }
    }
    Ok(())
}

fn write_memory(out: &mut String, snapshot: &Value) -> Result {
    for device in rows(&snapshot["devices"]) {
        let totals = &device["totals"];
        writeln!(
            out,
            "\n  GPU {} {} {}",
            totals["device"],
            text(&device["name"]),
            text(&device["uuid"])
        )?;
        if device["allocations_unseen"] == true {
            writeln!(out, "    single allocations were not seen")?;
        } else {
            let mut table =
                Table::new(4, &["memory", "live", "peak", "allocated", "count", "failed"]);
            let all = std::iter::once(("all VRAM", &totals["vram"]));
            for (name, kind) in all.chain(KINDS.into_iter().zip(rows(&totals["by_kind"]))) {
                if number(&kind["allocated_count"]) + number(&kind["failed_count"]) > 0
                    || name == "all VRAM"
                {
                    table.row([
                        name.into(),
                        bytes(&kind["live_bytes"]),
                        bytes(&kind["peak_bytes"]),
                        bytes(&kind["allocated_bytes"]),
                        number(&kind["allocated_count"]).to_string(),
                        number(&kind["failed_count"]).to_string(),
                    ]);
                }
            }
            write!(out, "{table}")?;
        }
        // This process's own, where that is known.
        let opening = match &device["opening_own_bytes"] {
            Value::Null => &device["opening_bytes"],
            own => own,
        };
        writeln!(
            out,
            "    device: total {}, free {}; opening balance {}",
            bytes(&device["total_bytes"]),
            bytes(&device["free_bytes"]),
            bytes(opening)
        )?;
        balance::write(out, device)?;
    }
    Ok(())
}

fn write_work(out: &mut String, timeline: &Value) -> Result {
    write_kernels(out, timeline)?;
    let mut copies = Table::new(4, &["copies, memsets", "count", "bytes", "time", "bandwidth"]);
    let memsets = [("memset", "memsets"), ("whole graph", "graphs")];
    let memsets = memsets.map(|(name, key)| (name.to_owned(), &timeline[key]));
    let directions = rows(&timeline["copies"]).map(|copy| (label(copy), copy));
    for (name, row) in directions.chain(memsets).filter(|(_, row)| number(&row["count"]) > 0) {
        let (moved, time) = (row["bytes"].as_u64(), number(&row["total_ns"]));
        let rate = moved.filter(|_| time > 0).map(|moved| moved as f64 / time as f64);
        copies.row([
            name,
            number(&row["count"]).to_string(),
            moved.map_or("-".into(), |moved| Bytes(moved).to_string()),
            Nanos(time).to_string(),
            rate.map_or("-".into(), |rate| format!("{rate:.1} GB/s")),
        ]);
    }
    if !copies.is_empty() {
        write!(out, "\n{copies}")?;
    }
    for (key, title) in [
        ("syncs", "host waits"),
        ("allocation_calls", "allocation calls (host time)"),
        ("launch_calls", "launching calls (host time)"),
        ("spans", "spans and marked ranges"),
        ("overheads", "the profiler's own time"),
    ] {
        write_times(out, &timeline[key], title)?;
    }
    write_scopes(out, &timeline["scopes"])?;
    write_busy(out, timeline)
}

fn write_kernels(out: &mut String, timeline: &Value) -> Result {
    let all: u64 = rows(&timeline["kernels"]).map(|kernel| number(&kernel["total_ns"])).sum();
    let has_quantiles = rows(&timeline["kernels"]).any(|kernel| kernel["p99_ns"].is_u64());
    let quantiles = if has_quantiles { vec!["p50", "p99"] } else { vec!["min"] };
    let headings =
        [vec!["kernels", "count", "time", "share", "mean"], quantiles, vec!["max"]].concat();
    let mut table = Table::new(4, &headings);
    for kernel in rows(&timeline["kernels"]).take(KERNELS_SHOWN) {
        let (count, time) = (number(&kernel["count"]), number(&kernel["total_ns"]));
        let mut cells = vec![
            text(&kernel["name"]),
            count.to_string(),
            Nanos(time).to_string(),
            format!("{:.1} %", time as f64 * 100.0 / all.max(1) as f64),
            Nanos(time / count.max(1)).to_string(),
        ];
        let keys: &[&str] =
            if has_quantiles { &["p50_ns", "p99_ns", "max_ns"] } else { &["min_ns", "max_ns"] };
        cells.extend(keys.iter().map(|key| nanos(&kernel[*key])));
        table.row(cells);
    }
    if table.is_empty() {
        return writeln!(out, "\n    no kernel was seen");
    }
    write!(out, "\n{table}")?;
    and_more(out, &timeline["kernels"], KERNELS_SHOWN)
}

fn write_times(out: &mut String, entries: &Value, title: &str) -> Result {
    let mut table = Table::new(4, &[title, "count", "time", "longest"]);
    for row in rows(entries).take(ROWS_SHOWN) {
        let cells =
            [number(&row["count"]).to_string(), nanos(&row["total_ns"]), nanos(&row["max_ns"])];
        table.row(std::iter::once(label(row)).chain(cells));
    }
    if table.is_empty() {
        return Ok(());
    }
    write!(out, "\n{table}")?;
    and_more(out, entries, ROWS_SHOWN)
}

fn write_scopes(out: &mut String, scopes: &Value) -> Result {
    let headings = ["scopes", "kernels", "kernel time", "copies", "copied"];
    let mut table = Table::new(4, &headings);
    for scope in rows(scopes).take(ROWS_SHOWN) {
        let (kernels, copies) = (&scope["kernels"], &scope["copies"]);
        table.row([
            label(scope),
            number(&kernels["count"]).to_string(),
            nanos(&kernels["total_ns"]),
            number(&copies["count"]).to_string(),
            bytes(&copies["bytes"]),
        ]);
    }
    if table.is_empty() {
        return Ok(());
    }
    write!(out, "\n{table}")?;
    and_more(out, scopes, ROWS_SHOWN)
}

fn and_more(out: &mut String, entries: &Value, shown: usize) -> Result {
    match rows(entries).count().saturating_sub(shown) {
        0 => Ok(()),
        more => writeln!(out, "    and {more} more"),
    }
}

fn write_busy(out: &mut String, timeline: &Value) -> Result {
    let (first, last) = (timeline["first"].as_u64(), timeline["last"].as_u64());
    let span = last.zip(first).map(|(last, first)| last.saturating_sub(first));
    for device in rows(&timeline["busy"]) {
        let busy = device["busy_ns"].as_u64().or(device["busy_ns_min"].as_u64());
        let span = device["span_ns"].as_u64().or(span);
        let (Some(busy), Some(span)) = (busy, span) else { continue };
        let percent = busy as f64 * 100.0 / span.max(1) as f64;
        let late = match number(&device["late_ns"]) {
            0 => String::new(),
            late => format!("; at most {} more, of records that came late", Nanos(late)),
        };
        writeln!(
            out,
            "\n    GPU {} was busy for {} of {} ({percent:.1} %){late}",
            device["device"],
            Nanos(busy),
            Nanos(span)
        )?;
    }
    Ok(())
}

fn write_losses(out: &mut String, process: &Value) -> Result {
    for (table, count) in process["left_out"].as_object().into_iter().flatten() {
        writeln!(out, "    {count} rows of {table} did not fit the report; they are summed up")?;
    }
    // Sampling is no loss: totals are exact, and it concerns the trace alone.
    let lost = rows(&process["snapshot"]["dropped"]).filter(|pair| pair[0] != "trace_sampled");
    for pair in lost {
        writeln!(out, "    lost: {} ({})", pair[1], text(&pair[0]).replace('_', " "))?;
    }
    for sentence in rows(&process["snapshot"]["unseen"]) {
        writeln!(out, "{}", wrapped(4, &format!("unseen: {}", text(sentence))))?;
    }
    Ok(())
}

fn write_cost(out: &mut String, cost: &Value) -> Result {
    let cpu = number(&cost["thread_cpu_ns"]) + number(&cost["report_cpu_ns"]);
    writeln!(
        out,
        "\n    our own cost: {} of CPU on our threads, {} of host memory, {} records decoded",
        Nanos(cpu),
        bytes(&cost["host_bytes"]),
        number(&cost["recorder"]["records"])
    )
}

fn write_totals(out: &mut String, totals: &Value) -> Result {
    writeln!(out, "\nall processes")?;
    let mut table = Table::new(2, &["work", "count", "time", "bytes"]);
    let mut put = |name: String, work: &Value| {
        if number(&work["count"]) > 0 {
            let moved = work["bytes"].as_u64().map_or("-".into(), |moved| Bytes(moved).to_string());
            table.row([name, number(&work["count"]).to_string(), nanos(&work["total_ns"]), moved]);
        }
    };
    put("kernels".into(), &totals["kernels"]);
    for (direction, work) in totals["copies"].as_object().into_iter().flatten() {
        put(format!("copies {}", direction.replace('_', " ")), work);
    }
    put("memsets".into(), &totals["memsets"]);
    for (kind, work) in totals["syncs"].as_object().into_iter().flatten() {
        put(format!("host waits: {}", kind.replace('_', " ")), work);
    }
    write!(out, "{table}")?;
    let allocations = &totals["allocations"];
    writeln!(
        out,
        "  {} allocations of {}, {} failed",
        number(&allocations["count"]),
        bytes(&allocations["bytes"]),
        number(&allocations["failed"])
    )
}

fn write_files(out: &mut String, document: &Value) -> Result {
    let files = [
        (&document["files"]["report"], ""),
        (&document["files"]["trace"], "  (opens in https://ui.perfetto.dev)"),
    ];
    if files.iter().any(|(path, _)| path.is_string()) {
        writeln!(out, "\nfiles")?;
    }
    for (path, what) in files.iter().filter(|(path, _)| path.is_string()) {
        writeln!(out, "  {}{what}", text(path))?;
    }
    for process in rows(&document["processes"]) {
        if let Some(why) = process["trace"]["absent"].as_str() {
            let pid = &process["pid"];
            writeln!(
                out,
                "{}",
                wrapped(2, &format!("no trace of process {pid}: {}", names::plain(why)))
            )?;
        }
    }
    Ok(())
}

/// What a row is about, under whichever name its table has for that.
fn label(row: &Value) -> String {
    let names = ["name", "direction", "kind", "call", "function"];
    let found = names.iter().find_map(|name| row[*name].as_str());
    found.unwrap_or("?").replace('_', " ")
}

/// Texts come from the program and its files: none of them may steer the terminal.
fn text(value: &Value) -> String {
    names::plain(value.as_str().unwrap_or("?"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Absent is not zero.
fn bytes(value: &Value) -> String {
    value.as_u64().map_or("absent".into(), |bytes| Bytes(bytes).to_string())
}

fn nanos(value: &Value) -> String {
    value.as_u64().map_or("-".into(), |nanos| Nanos(nanos).to_string())
}
