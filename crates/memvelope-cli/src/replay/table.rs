//! The report as a person reads it. A cell has one number for each load.

use super::external::External;
use super::policy::Kind;
use super::report::{PolicyFigures, Report};
use std::fmt::{Result, Write};

/// The whole text.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write(report, &mut out);
    out
}

fn write(report: &Report, out: &mut String) -> Result {
    let machine = &report.machine;
    writeln!(
        out,
        "SIMULATED replica {} ({}): {} KV tokens in {} blocks of {}; no GPU was asked",
        machine.name,
        machine.about,
        machine.kv_tokens,
        report.settings.total_blocks,
        report.settings.block_tokens
    )?;
    match &report.external {
        Some(external) => write_external(external, out)?,
        None => write_policies(report, out)?,
    }
    let speed = &report.speed;
    writeln!(
        out,
        "\n{:.0} simulated steps/s ({:.1} million steps in {:.1} s)",
        speed.steps_per_s,
        speed.steps / 1e6,
        speed.wall_s
    )
}

fn write_policies(report: &Report, out: &mut String) -> Result {
    let source = &report.source;
    let count = source.requests.max(1);
    writeln!(
        out,
        "{}: {} requests in {} runs, prompts of {} and outputs of {} tokens in the mean",
        source.name,
        source.requests,
        report.settings.seeds,
        source.prompt_tokens / count,
        source.output_tokens / count
    )?;
    match (report.settings.max_tokens, report.settings.server_cap_tokens) {
        (Some(tokens), _) => writeln!(out, "every client declares {tokens} tokens at most")?,
        (None, Some(cap)) => {
            writeln!(out, "clients declare nothing; the server caps outputs at {cap} tokens")?;
        }
        (None, None) => writeln!(out, "every client declares what it will get")?,
    }
    let loads: Vec<_> = report.loads.iter().filter_map(|load| load.load).collect();
    if loads.is_empty() {
        writeln!(out, "a closed loop")?;
    } else {
        let loads = loads.iter().map(|load| format!("{load:.1}")).collect::<Vec<_>>().join("/");
        writeln!(
            out,
            "cells are for loads {loads}; load 1.0 is {:.2} requests/s, the oracle's backlog \
             throughput",
            source.backlog_req_per_s
        )?;
    }
    writeln!(out)?;
    write_table(report, &MAIN, out)?;
    writeln!(out)?;
    write_table(report, &MORE, out)
}

/// A column: its heading, its value, and its decimals.
type Column = (&'static str, fn(&PolicyFigures) -> f64, usize);

const MAIN: [Column; 6] = [
    ("goodput req/s", |p| p.figures.goodput_req_per_s, 2),
    ("% of oracle", |p| p.goodput_of_oracle.unwrap_or(f64::NAN) * 100.0, 1),
    ("preempted", |p| p.figures.preemptions, 0),
    ("overruns", |p| p.figures.overruns, 0),
    ("KV used %", |p| p.figures.kv_used_percent, 0),
    ("TTFT p99 s", |p| p.figures.ttft_p99_s, 1),
];

const MORE: [Column; 7] = [
    ("worst gap p99 s", |p| p.figures.worst_gap_p99_s, 2),
    ("max s", |p| p.figures.worst_gap_max_s, 1),
    ("tokens/s", |p| p.figures.output_tokens_per_s, 0),
    ("TTFT p50 s", |p| p.figures.ttft_p50_s, 1),
    ("paused/100", |p| p.figures.paused_per_100_tokens, 1),
    ("shed", |p| p.figures.shed, 0),
    ("completed", |p| p.figures.completed, 0),
];

fn write_table(report: &Report, columns: &[Column], out: &mut String) -> Result {
    let Some(first) = report.loads.first() else { return Ok(()) };
    let mut rows = vec![vec!["policy".to_owned()]];
    rows[0].extend(columns.iter().map(|(heading, ..)| (*heading).to_owned()));
    for (index, policy) in first.policies.iter().enumerate() {
        let mut row = vec![policy.policy.to_owned()];
        for (_, value, decimals) in columns {
            let cell = |load: &super::report::Load| {
                let value = value(&load.policies[index]);
                if value.is_nan() { "-".to_owned() } else { format!("{value:.decimals$}") }
            };
            row.push(joined(report.loads.iter().map(cell)));
        }
        rows.push(row);
    }
    write_rows(&rows, out)
}

/// Values with slashes between them, or one where all are the same.
fn joined(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<_> = cells.collect();
    match cells.split_first() {
        Some((first, rest)) if rest.iter().all(|cell| cell == first) => first.clone(),
        _ => cells.join("/"),
    }
}

fn write_rows(rows: &[Vec<String>], out: &mut String) -> Result {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        write!(out, "{:<width$}", row[0], width = widths[0])?;
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            write!(out, "  {cell:>width$}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_external(external: &External, out: &mut String) -> Result {
    writeln!(out, "vLLM's preemptions against those measured in vllm-project/vllm pull 44594\n")?;
    let heading = ["watermark", "preempted", "measured", "off", "tokens/s", "measured"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for row in &external.rows {
        rows.push(vec![
            format!("{:.0} %", row.watermark * 100.0),
            format!("{:.0}", row.preemptions),
            format!("{:.0}", row.preemptions_measured),
            format!("{:+.0} %", row.preemptions_off_percent()),
            format!("{:.0}", row.output_tokens_per_s),
            format!("{:.0}", row.output_tokens_per_s_measured),
        ]);
    }
    write_rows(&rows, out)?;
    let verdict = if external.is_close { "close" } else { "MISSED" };
    writeln!(
        out,
        "\n{verdict}: required is each within {:.0} %, in the measured order",
        external.tolerance_percent
    )
}

/// What the policies are, for `--help`.
pub(crate) fn policies() -> String {
    let mut text = "Policies:\n".to_owned();
    for (_, name, about) in Kind::ALL {
        text.push_str(&format!("  {name:<14} {about}\n"));
    }
    text
}
