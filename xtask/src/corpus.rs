//! The corpus lane: what the README claims about the public Azure trace, run in release on the
//! simulated driver and compared with the simulator's own books.

use crate::lane::Tally;
use crate::{choosing, demo, step};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

const TRACE: &str = "traces/azure23_conv.csv";
const R1: &str = "traces/servegen_deepseek-r1.csv";
const MODEL: &str = "kv_oracle/configs/LLMProf--Qwen2.5-32B.json";

/// A budget that the trace does not fit all at once: 64 GiB of weights leave about 8 GB.
const VRAM: &str = "72GiB";

/// Rows of the trace.
const REQUESTS: u64 = 19_366;

/// What must hold: completed requests, and claims against the budget, both in percent.
const COMPLETED_MIN: f64 = 99.0;
const CLAIMED_MIN: f64 = 85.0;

/// How long the whole trace may take on two cores.
const SECONDS_MAX: f64 = 60.0;

fn data() -> PathBuf {
    step::root().join("../shared/data")
}

/// Why the lane cannot run here.
pub(crate) fn missing() -> Option<String> {
    let absent = [TRACE, R1, MODEL].into_iter().find(|file| !data().join(file).is_file())?;
    Some(format!("no ../shared/data/{absent}"))
}

/// Serves the whole trace twice: behind the gate, and without it.
pub(crate) fn run() -> Result<Tally> {
    let command = demo::build()?.join("release/memvelope");
    let place = step::target()?.join("corpus");
    let gated = serve(&command, &place.join("gate"), &[])?;
    let completed = 100.0 * gated.number("completed")? as f64 / REQUESTS as f64;
    let budget = gated.number("budget_bytes")?;
    let claimed = 100.0 * gated.number("peak_claimed_bytes")? as f64 / budget as f64;
    ensure!(completed >= COMPLETED_MIN, "{completed:.2} % completed, promised {COMPLETED_MIN}");
    ensure!(claimed >= CLAIMED_MIN, "{claimed:.2} % claimed at most, promised {CLAIMED_MIN}");
    ensure!(gated.number("peak_kv_bytes")? <= budget, "more was held than the budget");
    ensure!(gated.number("cuda_ooms")? == 0, "CUDA OOMs behind the gate");
    ensure!(gated.seconds <= SECONDS_MAX, "{:.0} s, promised {SECONDS_MAX}", gated.seconds);

    let ungated = serve(&command, &place.join("no-gate"), &["--no-gate"])?;
    let ooms = ungated.number("cuda_ooms")?;
    ensure!(ooms > 0, "no CUDA OOMs without the gate: the budget proves nothing");
    let mut tally = Tally { passed: 2, ..Tally::default() };
    choosing::check(&command, &mut tally)?;
    tally.figures = format!(
        "Azure trace: {completed:.2} % completed, claimed {claimed:.1} % of the budget, 0 CUDA \
         OOMs, {:.0} s; without the gate {ooms} CUDA OOMs",
        gated.seconds
    );
    Ok(tally)
}

struct Served {
    report: Value,
    seconds: f64,
}

impl Served {
    fn number(&self, key: &str) -> Result<u64> {
        number(&self.report, &[key])
    }
}

/// Runs the demo into `out`, and holds its report to the simulator's books.
fn serve(command: &Path, out: &Path, extra: &[&str]) -> Result<Served> {
    let books = out.join("books.json");
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let mut run = step::command(command);
    run.args(["demo", "--device", "sim", "--json", "--vram", VRAM, "--speed", "4", "--requests"]);
    run.arg(data().join(TRACE)).arg("--model").arg(data().join(MODEL));
    run.arg("--out").arg(out).args(extra).env("MEMVELOPE_SIM_BOOKS", &books);
    let title = format!("the whole Azure trace {}", extra.join(" "));
    let ran = step::capture(&title, &mut run, "see the error above", |_| false)?;
    let report: Value = serde_json::from_str(&ran.stdout).context("the demo printed no JSON")?;
    let text = std::fs::read_to_string(&books)
        .with_context(|| format!("reading the simulator's {}", books.display()))?;
    let books: Value = serde_json::from_str(&text).context("the books are no JSON")?;
    ensure!(number(&report, &["requests"])? == REQUESTS, "not every row was read");
    for (ours, theirs) in [
        (&["cuda_ooms"][..], &["cuda_ooms"][..]),
        (&["peak_vram_bytes"], &["devices", "0", "families", "device", "peak_bytes"]),
    ] {
        let (ours_n, theirs_n) = (number(&report, ours)?, number(&books, theirs)?);
        ensure!(ours_n == theirs_n, "{ours:?}: we say {ours_n}, the simulator's books {theirs_n}");
    }
    Ok(Served { report, seconds: ran.seconds })
}

/// A number in a JSON document, by its path; elements of lists by their index.
fn number(value: &Value, path: &[&str]) -> Result<u64> {
    let found = path.iter().try_fold(value, |value, key| {
        key.parse::<usize>().map_or_else(|_| value.get(key), |index| value.get(index))
    });
    found.and_then(Value::as_u64).with_context(|| format!("{path:?} is no number: {found:?}"))
}
