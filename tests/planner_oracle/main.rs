//! The planner against vLLM's own numbers, where `../shared/data/kv_oracle` is present: one test a
//! family, and a table of exact/total.
//!
//! `cargo test -p memvelope-tests --test planner_oracle [-- [FILE.jsonl] [--only SUBSTRING]
//! [--show N]]`: another file of the same schema, models or architectures whose name contains
//! something, and how many differences a model shows.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at what is amiss")]

mod checks;
mod refusals;

use checks::{CHECKS, INFORMATIVE, Outcome};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use memvelope::model::Layout;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the command line says beside what the test runner passes.
struct Options {
    file: PathBuf,
    only: String,
    show: usize,
}

/// What came out for one family.
#[derive(Default)]
struct Family {
    records: usize,
    exact: BTreeMap<&'static str, usize>,
    differences: Vec<String>,
}

struct Run {
    options: Options,
    shown: BTreeMap<String, usize>,
    families: BTreeMap<String, Family>,
    layouts: HashMap<PathBuf, Result<Layout, String>>,
    refusals: refusals::Table,
}

fn main() -> ExitCode {
    let (options, runner) = options();
    let arguments = Arguments::from_iter(runner);
    if arguments.list {
        return libtest_mimic::run(&arguments, Vec::new()).exit_code();
    }
    let Ok(text) = std::fs::read_to_string(&options.file) else {
        let why = format!("no {}", options.file.display());
        println!("ignored: {why}");
        let ignored = move || Ok(Completion::ignored_with(why));
        let trials = vec![Trial::ignorable_test("planner_oracle", ignored)];
        return libtest_mimic::run(&arguments, trials).exit_code();
    };
    let mut run = Run {
        options,
        shown: BTreeMap::new(),
        families: BTreeMap::new(),
        layouts: HashMap::new(),
        refusals: refusals::Table::default(),
    };
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).expect("a record is JSON");
        let architecture = &record["outputs"]["resolved"]["architecture"];
        let name = format!("{} {architecture}", record["model"]);
        if name.contains(&run.options.only) {
            run.record(&record);
        }
    }
    print!("{}\n{}", run.table(), run.refusals);
    let trials = run.families.into_iter().map(|(name, family)| {
        Trial::test(format!("planner_oracle::{name}"), move || match family.differences {
            differences if differences.is_empty() => Ok(()),
            differences => Err(Failed::from(differences.join("\n"))),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn options() -> (Options, Vec<String>) {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/kv_oracle");
    let file = shared.join("kv_oracle.jsonl");
    let mut options = Options { file, only: String::new(), show: 3 };
    let mut runner = Vec::new();
    let mut args = std::env::args();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => options.only = args.next().unwrap_or_default(),
            "--show" => options.show = args.next().and_then(|n| n.parse().ok()).unwrap_or(3),
            file if file.ends_with(".jsonl") => options.file = PathBuf::from(file),
            _ => runner.push(arg),
        }
    }
    (options, runner)
}

impl Run {
    fn layout(&mut self, record: &Value) -> Result<Layout, String> {
        let folder = self.options.file.parent().unwrap_or(Path::new(".")).to_owned();
        let path = folder.join(record["config_file"].as_str().unwrap_or_default());
        let separate = record["hf_quant_config_file"].as_str().map(|file| folder.join(file));
        let read = |path: PathBuf| std::fs::read_to_string(path).map_err(|e| e.to_string());
        let parse = |path: &PathBuf| {
            let config = read(path.clone())?;
            let separate = separate.map(read).transpose()?;
            Layout::from_configs(&config, separate.as_deref()).map_err(|e| e.to_string())
        };
        self.layouts.entry(path).or_insert_with_key(parse).clone()
    }

    fn record(&mut self, record: &Value) {
        let families = record["families"].as_array();
        let names: Vec<&str> = families.into_iter().flatten().filter_map(Value::as_str).collect();
        let name = if names.is_empty() { "(none)".to_owned() } else { names.join("+") };
        let outcomes = self.outcomes(record);
        if outcomes.is_empty() {
            return;
        }
        let family = self.families.entry(name).or_default();
        family.records += 1;
        for (check, outcome) in outcomes {
            let Err(problem) = outcome else {
                *family.exact.entry(check).or_default() += 1;
                continue;
            };
            if INFORMATIVE.contains(&check) {
                continue;
            }
            let model = record["model"].as_str().unwrap_or_default();
            let shown = self.shown.entry(format!("{model} {check}")).or_default();
            *shown += 1;
            if *shown <= self.options.show || family.differences.is_empty() {
                let params = &record["params"];
                family.differences.push(format!(
                    "{model} [{} tp{} kv {} bs {}] {check}: {problem}",
                    params["device"].as_str().unwrap_or_default(),
                    params["tensor_parallel_size"],
                    params["kv_cache_dtype"],
                    params["block_size"]
                ));
            }
        }
    }

    fn outcomes(&mut self, record: &Value) -> Vec<Outcome> {
        let layout = self.layout(record);
        let mut outcomes: Vec<Outcome> = match &layout {
            // With options beside those of the comparison, only whether vLLM starts counts.
            _ if record["engine_args"].is_object() || !record["outputs"].is_object() => Vec::new(),
            Ok(layout) => {
                std::iter::once(("read", Ok(()))).chain(checks::all(layout, record)).collect()
            }
            Err(error) => vec![("read", Err(error.lines().next().unwrap_or_default().to_owned()))],
        };
        let difference = self.refusals.add(&layout, record);
        if refusals::verdict(record).is_some() {
            outcomes.push(("refusal", difference.map_or(Ok(()), Err)));
        }
        outcomes
    }

    /// Exact of total, by family and check.
    fn table(&self) -> String {
        let mut text = String::new();
        let row = |text: &mut String, name: &str, records: usize, exact: &dyn Fn(&str) -> usize| {
            write!(text, "{name:<74} {records:>5}").unwrap();
            for check in CHECKS {
                write!(text, " {:>1$}", exact(check), check.len()).unwrap();
            }
            writeln!(text).unwrap();
        };
        writeln!(text, "{:<74} {:>5} {}", "family", "all", CHECKS.join(" ")).unwrap();
        let count = |family: &Family, check: &str| family.exact.get(check).copied().unwrap_or(0);
        for (name, family) in &self.families {
            row(&mut text, name, family.records, &|check| count(family, check));
        }
        let records = self.families.values().map(|family| family.records).sum();
        row(&mut text, "all", records, &|check| {
            self.families.values().map(|family| count(family, check)).sum()
        });
        text
    }
}
