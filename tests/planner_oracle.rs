//! The planner against vLLM's own numbers, where `../shared/data/kv_oracle` is present.
//!
//! Prints exact/total per family and every record that differs. `cargo test -p memvelope-tests
//! --test planner_oracle [-- FILE.jsonl…] [--only SUBSTRING] [--show N]`.

use memvelope::model::Layout;
use memvelope::model::cache::{CacheKind, Reach};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is compared, in the order of the report.
const CHECKS: &[&str] = &["read", "weights", "native", "kv"];

#[derive(Default)]
struct Tally {
    records: usize,
    exact: BTreeMap<&'static str, usize>,
}

struct Run {
    folder: PathBuf,
    show: usize,
    shown: BTreeMap<String, usize>,
    families: BTreeMap<String, Tally>,
    layouts: HashMap<String, Result<Layout, String>>,
}

fn main() -> ExitCode {
    let mut files = Vec::new();
    let (mut only, mut show) = (String::new(), 3);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => only = args.next().unwrap_or_default(),
            "--show" => show = args.next().and_then(|n| n.parse().ok()).unwrap_or(show),
            file if file.ends_with(".jsonl") => files.push(PathBuf::from(file)),
            _ => {} // what the test runner passes
        }
    }
    if files.is_empty() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/kv_oracle");
        files.push(shared.join("kv_oracle.jsonl"));
    }
    let mut failed = false;
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            println!("ignored: no {}", file.display());
            continue;
        };
        let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
        let mut run = Run {
            folder,
            show,
            shown: BTreeMap::new(),
            families: BTreeMap::new(),
            layouts: HashMap::new(),
        };
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).expect("a record is JSON");
            let name =
                format!("{} {}", record["model"], record["outputs"]["resolved"]["architecture"]);
            if name.contains(&only) && record["outputs"].is_object() {
                run.record(&record);
            }
        }
        failed |= !run.report();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Run {
    fn layout(&mut self, record: &Value) -> Result<Layout, String> {
        let file = record["config_file"].as_str().unwrap_or_default().to_owned();
        let separate = record["hf_quant_config_file"].as_str().map(|file| self.folder.join(file));
        let folder = self.folder.clone();
        self.layouts
            .entry(file.clone())
            .or_insert_with(|| {
                let read = |path: PathBuf| std::fs::read_to_string(path).map_err(|e| e.to_string());
                let config = read(folder.join(&file))?;
                let separate = separate.map(read).transpose()?;
                Layout::from_configs(&config, separate.as_deref()).map_err(|e| e.to_string())
            })
            .clone()
    }

    fn record(&mut self, record: &Value) {
        let families: Vec<&str> =
            record["families"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let family = families.join("+");
        let results = self.check(record);
        let tally = self.families.entry(family).or_default();
        tally.records += 1;
        let mut lines = Vec::new();
        for (check, result) in results {
            match result {
                Ok(()) => *tally.exact.entry(check).or_default() += 1,
                Err(problem) => lines.push((check, problem)),
            }
        }
        for (check, problem) in lines {
            let model = record["model"].as_str().unwrap_or_default();
            let shown = self.shown.entry(format!("{model} {check}")).or_default();
            *shown += 1;
            if *shown <= self.show {
                let p = &record["params"];
                let device = p["device"].as_str().unwrap_or_default();
                println!(
                    "{model} [{device} tp{} kv {} bs {}] {check}: {problem}",
                    p["tensor_parallel_size"], p["kv_cache_dtype"], p["block_size"]
                );
            }
        }
    }

    fn check(&mut self, record: &Value) -> Vec<(&'static str, Result<(), String>)> {
        let layout = match self.layout(record) {
            Ok(layout) => layout,
            Err(error) => {
                return vec![(
                    "read",
                    Err(error.lines().next().unwrap_or_default().chars().take(110).collect()),
                )];
            }
        };
        let mut results = vec![("read", Ok(()))];
        let outputs = &record["outputs"];
        let tp = record["params"]["tensor_parallel_size"].as_u64().unwrap_or(1);
        results.push(("weights", weights(&layout, outputs, tp)));
        results.push(("native", native(&layout, outputs)));
        results.push(("kv", kv(&layout, outputs, tp)));
        results
    }

    fn report(&self) -> bool {
        let mut all = true;
        println!("{:<70} {:>7} {}", "family", "records", CHECKS.join(" "));
        for (family, tally) in &self.families {
            print!("{family:<70} {:>7}", tally.records);
            for check in CHECKS {
                let exact = tally.exact.get(check).copied().unwrap_or(0);
                all &= exact == tally.records;
                print!(" {exact}");
            }
            println!();
        }
        let records: usize = self.families.values().map(|t| t.records).sum();
        for check in CHECKS {
            let exact: usize = self.families.values().filter_map(|t| t.exact.get(check)).sum();
            println!("{check}: {exact}/{records}");
        }
        all
    }
}

/// Exact for unquantised models, within 0.5 % for quantised ones.
fn weights(layout: &Layout, outputs: &Value, tp: u64) -> Result<(), String> {
    let expected = outputs["weights"]["per_rank_param_bytes"].as_u64().unwrap_or(0);
    let weights = layout.weights(tp as u32).map_err(|refusal| refusal.reason)?;
    let found = weights.param_bytes.0;
    let is_quantised = !outputs["resolved"]["quantization"].is_null();
    let allowed = if is_quantised { expected / 200 } else { 0 };
    if found.abs_diff(expected) <= allowed {
        return Ok(());
    }
    let by_dtype: Vec<String> =
        weights.bytes_by_dtype.iter().map(|(d, b)| format!("{d} {}", b.0)).collect();
    Err(format!(
        "{found} bytes, expected {expected} ({:+}); found {by_dtype:?}, expected {}",
        found as i128 - i128::from(expected),
        outputs["weights"]["param_bytes_by_dtype"]
    ))
}

/// The longest sequence without `--max-model-len`.
fn native(layout: &Layout, outputs: &Value) -> Result<(), String> {
    let expected = outputs["resolved"]["native_max_model_len"].as_u64();
    let found = layout.max_tokens.map(|tokens| tokens.0);
    if found == expected { Ok(()) } else { Err(format!("{found:?}, expected {expected:?}")) }
}

/// Keys and values, layer by layer: heads on this rank, sizes, window.
fn kv(layout: &Layout, outputs: &Value, tp: u64) -> Result<(), String> {
    let mut found = BTreeMap::<_, usize>::new();
    for cache in &layout.caches {
        let CacheKind::Attention(attention) = &cache.kind else { return Ok(()) };
        let heads = (u64::from(attention.kv_heads) / tp).max(1);
        let dims = [attention.key_dim, attention.value_dim].map(u64::from);
        let window = match attention.reach {
            Reach::Window(window) => Some(u64::from(window)),
            Reach::Full | Reach::Chunk(_) => None,
        };
        *found.entry((heads, dims, window)).or_default() += 1;
    }
    let mut expected = BTreeMap::<_, usize>::new();
    for spec in outputs["specs"].as_array().into_iter().flatten() {
        let number = |name: &str| spec[name].as_u64();
        let key = number("head_size").unwrap_or(0);
        let dims = [key, number("head_size_v").unwrap_or(key)];
        let heads = number("num_kv_heads").unwrap_or(0);
        let layers = number("num_layers").unwrap_or(0) as usize;
        *expected.entry((heads, dims, number("sliding_window"))).or_default() += layers;
    }
    if found == expected { Ok(()) } else { Err(format!("{found:?}, expected {expected:?}")) }
}
