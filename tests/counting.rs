//! Every number of the pages that explain how memvelope counts is computed again, two ways: by the
//! arithmetic that stands beside it, and by the library.
//!
//! A page shows a `config.json` in a ```json block. A ```text block after it that begins with
//! `$ memvelope plan` holds lines like
//!
//! ```text
//! page = block_size x 8 x (128 + 128) x 2 = 65536   # 64.0 KiB
//! ```
//!
//! The expression must give the value; names in it are those of lines above. A name that the
//! library knows (`bytes_per_block`, `need_bytes_one_request` ...) must have the library's value,
//! one that begins with `page`, `state`, `block_of`, `blocks_of` or `layers_of` the value of one of
//! the caches or groups; any other is a step on the way, and must be used by a later line. What
//! stands behind `#` says the bytes once more, for people.

#![allow(clippy::unwrap_used, reason = "helpers of tests abort on purpose, as the tests do")]
#![allow(clippy::cast_precision_loss, reason = "all numbers of the pages are far below 2^53")]

mod arithmetic;

use arithmetic::evaluate;
use memvelope::engine::vllm_0_32::Role;
use memvelope::engine::{Capacity, Device, Params, Vllm};
use memvelope::envelope::{Budget, Plan};
use memvelope::model::{Layout, Refusal, Weights};
use memvelope::units::{Bytes, Tokens};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PAGES: [&str; 3] = ["how-memvelope-counts.md", "counting-examples.md", "counting-weights.md"];
const COMMAND: &str = "$ memvelope plan config.json";

/// What a command line asks for.
struct Asked {
    params: Params,
    kv_bytes: Option<Bytes>,
}

fn asked(command: &str) -> Result<Asked, String> {
    let mut words = command.strip_prefix(COMMAND).ok_or("not a plan")?.split_whitespace();
    let mut asked = Asked { params: Params::new(Device::named("h100").unwrap()), kv_bytes: None };
    let params = &mut asked.params;
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} without a value"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{flag} {value}: no number"));
        match flag {
            "--gpu" => params.device = Device::named(value).ok_or(format!("no device {value}"))?,
            "--tp" => params.tensor_parallel = number()?,
            "--kv-dtype" => params.kv_dtype = value.parse().map_err(|r: Refusal| r.reason)?,
            "--block-size" => params.block_size = Some(number()?),
            "--max-num-batched-tokens" => params.max_num_batched_tokens = Some(number()?),
            "--max-model-len" => params.max_model_len = Some(Tokens(number()?.into())),
            "--kv-bytes" => {
                let gib = value.strip_suffix("GiB").and_then(|gib| gib.parse::<u64>().ok());
                asked.kv_bytes = Some(Bytes(gib.ok_or(format!("{value}: whole GiB"))? << 30));
            }
            _ => return Err(format!("{flag}: not a flag that the pages use")),
        }
    }
    Ok(asked)
}

/// What the library says of one command.
struct Found {
    layout: Layout,
    engine: Result<Vllm, Refusal>,
    weights: Result<Weights, Refusal>,
    length: Tokens,
    capacity: Option<Capacity>,
}

impl Found {
    fn new(config: &str, asked: &Asked) -> Result<Self, String> {
        let layout = Layout::from_config(config).map_err(|error| error.to_string())?;
        let Asked { params, kv_bytes } = asked;
        let engine = Vllm::new(&layout, params);
        let weights = layout.weights_on(params.tensor_parallel, params.device.capability());
        let length = params.max_model_len.or(layout.max_tokens).ok_or("no length")?;
        let capacity = match (&engine, kv_bytes) {
            (Ok(engine), Some(bytes)) => Some(engine.capacity(*bytes, length)),
            _ => None,
        };
        Ok(Self { layout, engine, weights, length, capacity })
    }

    fn refusal(&self) -> Option<&Refusal> {
        let of_memory = || self.capacity.as_ref().and_then(|capacity| capacity.refused.as_ref());
        self.engine.as_ref().err().or_else(|| self.weights.as_ref().err()).or_else(of_memory)
    }

    /// The value of a name that the library knows.
    fn value(&self, name: &str) -> Result<Option<f64>, String> {
        if let Some(dtype) = name.strip_prefix("param_bytes") {
            let weights = self.weights.as_ref().map_err(|refusal| refusal.reason.clone())?;
            let of_dtype = |dtype: &str| {
                let all = weights.bytes_by_dtype.iter();
                all.filter(|(found, _)| found.name() == dtype).map(|(_, bytes)| bytes.0).sum()
            };
            let bytes: u64 = match dtype.strip_prefix('_') {
                None => weights.param_bytes.0,
                Some(dtype) => of_dtype(dtype),
            };
            return Ok(Some(bytes as f64));
        }
        let engine = self.engine.as_ref().map_err(|refusal| refusal.reason.clone())?;
        let resolved = engine.resolved();
        let capacity = || self.capacity.as_ref().ok_or(format!("{name} needs --kv-bytes"));
        let blocks = engine.blocks_per_request(self.length).0;
        Ok(Some(match name {
            "length" => self.length.0 as f64,
            "layers" => f64::from(self.layout.layers),
            "block_size" => resolved.block_size as f64,
            "max_num_batched_tokens" => resolved.max_num_batched_tokens as f64,
            "in_flight" => resolved.max_in_flight_tokens as f64,
            "groups" => engine.groups().len() as f64,
            "bytes_per_block" => engine.bytes_per_block().0 as f64,
            "per_token_bytes" => engine.per_token_bytes() as f64,
            "blocks_per_request" => blocks as f64,
            "need_bytes_one_request" => (blocks * engine.bytes_per_block().0) as f64,
            "available_kv_bytes" => capacity()?.available_kv_bytes as f64,
            "num_gpu_blocks" => capacity()?.num_gpu_blocks.0 as f64,
            "kv_cache_size_tokens" => capacity()?.kv_cache_size_tokens.0 as f64,
            "max_concurrency" => capacity()?.max_concurrency.ok_or("no concurrency")?,
            "estimated_max_model_len" => {
                let estimate = capacity()?.estimated_max_model_len;
                estimate.ok_or("no shorter length fits")?.0 as f64
            }
            _ => return Ok(None),
        }))
    }

    /// The values that a name may have which begins like one of the caches.
    fn candidates(&self, name: &str) -> Option<BTreeSet<u64>> {
        let engine = self.engine.as_ref().ok()?;
        let groups = engine.groups();
        let specs = || groups.iter().flat_map(|group| &group.specs).map(|(spec, _)| spec);
        if name.starts_with("page") {
            Some(specs().map(memvelope::engine::vllm_0_32::Spec::page_bytes).collect())
        } else if name.starts_with("state") {
            let bytes =
                |role| if let Role::State { bytes, .. } = role { Some(bytes) } else { None };
            Some(specs().filter_map(|spec| bytes(spec.role)).collect())
        } else if name.starts_with("block_of") {
            Some(specs().map(|spec| spec.block_size).collect())
        } else if name.starts_with("blocks_of") {
            Some(engine.blocks_by_group(self.length).map(|blocks| blocks.0).collect())
        } else if name.starts_with("layers_of") {
            Some(groups.iter().map(|group| group.num_layers).collect())
        } else {
            None
        }
    }
}

/// Checks the lines of one block; says what is wrong with each.
fn check_lines<'a>(found: &Found, lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut known = BTreeMap::<String, f64>::new();
    let mut unused = BTreeSet::<String>::new();
    for line in lines.filter(|line| !line.trim().is_empty()) {
        if let Err(problem) = check_line(found, line, &mut known, &mut unused) {
            problems.push(format!("{line}\n    {problem}"));
        }
    }
    problems.extend(unused.iter().map(|name| format!("{name} is used by no other line")));
    problems
}

fn check_line(
    found: &Found,
    line: &str,
    known: &mut BTreeMap<String, f64>,
    unused: &mut BTreeSet<String>,
) -> Result<(), String> {
    if let Some(rule) = line.strip_prefix("refused:") {
        let rule = rule.split('#').next().unwrap_or_default().trim();
        let refusal = found.refusal().ok_or("not refused")?;
        let name = serde_json::to_value(refusal.rule).unwrap();
        return match name.as_str() == Some(rule) {
            true => Ok(()),
            false => Err(format!("refused by {name}: {}", refusal.reason)),
        };
    }
    let (line, comment) = line.split_once('#').unwrap_or((line, ""));
    let parts: Vec<&str> = line.split('=').map(str::trim).collect();
    let (name, expression, shown) = match parts[..] {
        [name, shown] => (name, None, shown),
        [name, expression, shown] => (name, Some(expression), shown),
        _ => return Err("expected NAME = EXPRESSION = VALUE".into()),
    };
    let value: f64 = shown.parse().map_err(|_| format!("{shown:?} is no number"))?;
    let decimals = shown.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    // Rounded only where decimals are shown.
    let is_whole = |other: f64| decimals > 0 || other.fract() == 0.0;
    let same = |other: f64| is_whole(other) && format!("{other:.decimals$}") == shown;
    let mut exact = value;
    if let Some(expression) = expression {
        let names;
        (exact, names) = evaluate(expression, known)?;
        unused.retain(|name| !names.contains(name));
        if !same(exact) {
            return Err(format!("the expression gives {exact}"));
        }
    }
    match (found.value(name)?, found.candidates(name)) {
        (Some(library), _) if same(library) => {}
        (Some(library), _) => return Err(format!("the library gives {library}")),
        (None, Some(of)) if of.iter().any(|&one| same(one as f64)) => {}
        (None, Some(candidates)) => return Err(format!("the library has {candidates:?}")),
        (None, None) => drop(unused.insert(name.to_owned())),
    }
    let is_size = ["B", "KiB", "MiB", "GiB"].iter().any(|unit| comment.trim().ends_with(unit));
    let bytes = Bytes(value as u64).to_string();
    if is_size && comment.trim() != bytes {
        return Err(format!("{value} bytes are {bytes}"));
    }
    known.insert(name.to_owned(), exact);
    Ok(())
}

/// Blocks of a page: language and text.
fn fenced(page: &str) -> Vec<(&str, &str)> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (language, after) = after.split_once('\n').unwrap_or((after, ""));
        let (text, after) = after.split_once("```").unwrap_or((after, ""));
        blocks.push((language, text));
        rest = after;
    }
    blocks
}

fn check_page(page: &str) -> (usize, Vec<String>) {
    let (mut checked, mut problems, mut config) = (0, Vec::new(), None);
    for (language, text) in fenced(page) {
        let (first, lines) = text.split_once('\n').unwrap_or((text, ""));
        match language {
            "json" => config = Some(text),
            "text" if first.starts_with(COMMAND) => {
                let found = asked(first)
                    .and_then(|asked| Found::new(config.ok_or("no config above")?, &asked));
                match found {
                    Ok(found) => problems.extend(check_lines(&found, lines.lines())),
                    Err(problem) => problems.push(format!("{first}\n    {problem}")),
                }
                checked += lines.lines().count();
            }
            _ => {}
        }
    }
    (checked, problems)
}

#[test]
fn every_number_of_the_pages_is_computed_again() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut all = Vec::new();
    for name in PAGES {
        let page = std::fs::read_to_string(docs.join(name)).unwrap();
        let (checked, problems) = check_page(&page);
        println!("{name}: {checked} lines");
        all.extend(problems.iter().map(|problem| format!("{name}: {problem}")));
    }
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

/// The README's plan is what is printed, apart from what it leaves out.
#[test]
fn the_readmes_plan_is_current() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let blocks = fenced(&readme);
    let config = blocks.iter().find(|(language, _)| *language == "json").unwrap().1;
    let is_plan = |(_, text): &&(&str, &str)| text.starts_with(COMMAND);
    let (command, shown) = blocks.iter().find(is_plan).unwrap().1.split_once('\n').unwrap();
    let layout = Layout::from_config(config).unwrap();
    let plan = Plan::vllm(&layout, &asked(command).unwrap().params, &Budget::default()).unwrap();
    let printed = plan.to_string();
    let mut lines = printed.lines();
    for line in shown.lines().filter(|line| *line != "[...]") {
        assert!(lines.any(|other| other == line), "not printed, or not there:\n{line}\n{printed}");
    }
}

#[test]
fn the_check_catches_what_it_should() {
    let config = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}"#;
    let problems = |lines: &str| {
        let page =
            format!("\n```json\n{config}\n```\n\n```text\n{COMMAND} --gpu h100\n{lines}\n```");
        check_page(&page).1.len()
    };
    assert_eq!(problems("page = 16 x 2 x (32 + 32) x 2 = 4096  # 4.0 KiB"), 0);
    assert_eq!(problems("page = 16 x 2 x (32 + 32) x 3 = 4096"), 1);
    assert_eq!(problems("page = 2048"), 1);
    assert_eq!(problems("page = 4096  # 5.0 KiB"), 1);
    assert_eq!(problems("bytes_per_block = 8192"), 0);
    assert_eq!(problems("bytes_per_block = 4096"), 1);
    assert_eq!(problems("a step = 3"), 1);
    assert_eq!(problems("step = 4096\nbytes_per_block = 2 x step = 8192"), 0);
    assert_eq!(problems("refused: memory"), 1);
}
