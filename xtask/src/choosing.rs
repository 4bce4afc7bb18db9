//! The replay part of the corpus lane: what we claim of the gate's policies on real traffic, and
//! the page that shows it, whose tables are the command's own output.

use crate::lane::Tally;
use crate::step;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;

/// The page; its blocks that begin with a replay command are what that command prints.
const PAGE: &str = "docs/choosing-a-policy.md";
const BLOCK: &str = "```text\n$ memvelope replay ";
const END: &str = "```\n";
/// The line of the output that is of the machine, not of the simulation.
const SPEED: &str = "simulated steps/s";

const AZURE: &str = "../shared/data/traces/azure23_conv.csv";
const R1: &str = "../shared/data/traces/servegen_deepseek-r1.csv";

/// Policies that hand out what is there: at all loads, on all traffic, no overruns.
const SAFE: [&str; 2] = ["guaranteed", "banker"];

/// What must hold of policy `banker`.
struct Claim {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Goodput as a share of the oracle's, in the mean over the loads, at least.
    goodput_min: f64,
    /// The same at the highest load.
    goodput_high_min: f64,
    /// Seconds between two tokens of one request, the 99th percentile of the worst, at most.
    gap_max_s: f64,
    /// Tokens per second as a share of the best policy that never overruns, at least.
    tokens_min: f64,
}

const CLAIMS: &[Claim] = &[
    Claim {
        name: "Azure conversations, 32B with little KV",
        arguments: &[AZURE, "--machine", "32b-h100", "--max-tokens", "1024"],
        goodput_min: 0.95,
        goodput_high_min: 0.93,
        gap_max_s: 4.0,
        tokens_min: 0.95,
    },
    Claim {
        name: "DeepSeek R1, cap 4096",
        arguments: &[R1, "--max-tokens", "4096"],
        goodput_min: 0.98,
        goodput_high_min: 0.96,
        gap_max_s: 2.0,
        tokens_min: 0.95,
    },
    Claim {
        name: "DeepSeek R1, cap 32768",
        arguments: &[R1, "--max-tokens", "32768"],
        goodput_min: 0.96,
        goodput_high_min: 0.93,
        gap_max_s: 2.0,
        tokens_min: 0.95,
    },
    Claim {
        name: "DeepSeek R1, undeclared under a server's cap of 16384",
        arguments: &[R1, "--max-tokens", "none", "--server-cap", "16384"],
        goodput_min: 0.96,
        goodput_high_min: 0.93,
        gap_max_s: 2.0,
        tokens_min: 0.95,
    },
    Claim {
        name: "DeepSeek R1, undeclared up to the model's 131072",
        arguments: &[R1, "--max-tokens", "none", "--server-cap", "131072"],
        // A third of the cache is kept for the smallest need, and a guess that fails stalls the
        // rest until somebody ends: the page says to set a cap.
        goodput_min: 0.85,
        goodput_high_min: 0.80,
        gap_max_s: 10.0,
        tokens_min: 0.95,
    },
    Claim {
        name: "synchronised long outputs",
        arguments: &["--workload", "synchronised"],
        goodput_min: 0.0,
        goodput_high_min: 0.0,
        gap_max_s: 2.0,
        tokens_min: 0.95,
    },
];

/// Runs every claim and compares the page; with `UPDATE_DOCS` in the environment, rewrites it.
pub(crate) fn check(command: &Path, tally: &mut Tally) -> Result<()> {
    for claim in CLAIMS {
        let figures = claim.check(command)?;
        println!("{}: {figures}", claim.name);
        tally.passed += 1;
    }
    check_page(command)?;
    tally.passed += 1;
    Ok(())
}

impl Claim {
    fn check(&self, command: &Path) -> Result<String> {
        let mut run = step::command(command);
        run.arg("replay").args(self.arguments).args(["--json", "-"]);
        let title = format!("replay: {}", self.name);
        let ran = step::capture(&title, &mut run, "see the error above", |_| false)?;
        let report: Value = serde_json::from_str(&ran.stdout).context("replay printed no JSON")?;
        let loads = report["loads"].as_array().context("no loads")?;
        let mut goodputs = Vec::new();
        let (mut gap_s, mut tokens) = (0.0f64, f64::INFINITY);
        for load in loads {
            let banker = Row::of(load, "banker")?;
            for name in SAFE {
                let overruns = Row::of(load, name)?.number("overruns")?;
                ensure!(overruns == 0.0, "{}: {name} overran {overruns} times", self.name);
            }
            goodputs.push(banker.number("goodput_of_oracle").unwrap_or(1.0));
            gap_s = gap_s.max(banker.number("worst_gap_p99_s")?);
            tokens = tokens.min(banker.number("output_tokens_per_s")? / best_safe(load)?);
        }
        let mean = goodputs.iter().sum::<f64>() / goodputs.len() as f64;
        let high = goodputs.last().copied().unwrap_or(0.0);
        let figures = format!(
            "0 overruns; goodput {:.1} % of the oracle's in the mean, {:.1} % at the highest load; \
             p99 of worst gaps at most {gap_s:.2} s; tokens/s at least {tokens:.2} of the best \
             safe policy's",
            100.0 * mean,
            100.0 * high
        );
        let holds = mean >= self.goodput_min
            && high >= self.goodput_high_min
            && gap_s <= self.gap_max_s
            && tokens >= self.tokens_min;
        ensure!(holds, "{}: {figures}; that is less than promised", self.name);
        Ok(figures)
    }
}

/// The most tokens per second of a policy, other than the gate's and the oracle, that overran
/// nowhere.
fn best_safe(load: &Value) -> Result<f64> {
    let mut best = 0.0f64;
    for name in ["static", "sum", "lightllm-0"] {
        let row = Row::of(load, name)?;
        if row.number("overruns")? == 0.0 {
            best = best.max(row.number("output_tokens_per_s")?);
        }
    }
    Ok(best)
}

/// One policy at one load.
struct Row<'a>(&'a Value);

impl<'a> Row<'a> {
    fn of(load: &'a Value, name: &str) -> Result<Self> {
        let rows = load["policies"].as_array().context("no policies")?;
        let row = rows.iter().find(|row| row["policy"] == name);
        row.map(Row).with_context(|| format!("no policy {name}"))
    }

    fn number(&self, field: &str) -> Result<f64> {
        self.0[field].as_f64().with_context(|| format!("{field} is no number"))
    }
}

/// Compares every block of the page with what its command prints.
fn check_page(command: &Path) -> Result<()> {
    let path = step::root().join(PAGE);
    let page = std::fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    let fresh = rewritten(&page, command)?;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(&path, fresh).with_context(|| format!("writing {PAGE}"));
    }
    ensure!(
        fresh == page,
        "{PAGE} is not what replay prints\nhint: UPDATE_DOCS=1 cargo xtask lane corpus"
    );
    Ok(())
}

fn rewritten(page: &str, command: &Path) -> Result<String> {
    let mut fresh = String::new();
    let mut rest = page;
    while let Some(begin) = rest.find(BLOCK) {
        let (before, block) = rest.split_at(begin + BLOCK.len());
        let (arguments, body) = block.split_once('\n').context("a command without an end")?;
        let end = body.find(END).with_context(|| format!("{arguments}: a block without an end"))?;
        let mut run = step::command(command);
        run.arg("replay").args(arguments.split_whitespace());
        let title = format!("page: memvelope replay {arguments}");
        let ran = step::capture(&title, &mut run, "see the error above", |_| false)?;
        let lines = ran.stdout.lines().filter(|line| !line.contains(SPEED));
        let output = lines.map(str::trim_end).collect::<Vec<_>>().join("\n");
        fresh.push_str(before);
        fresh.push_str(&format!("{arguments}\n{}\n", output.trim_end()));
        rest = &body[end..];
    }
    fresh.push_str(rest);
    Ok(fresh)
}
