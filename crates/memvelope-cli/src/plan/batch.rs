//! `--batch`: one set of parameters a line in, one result a line out.

use super::gpu;
use super::source;
use crate::failure::{Failure, Outcome};
use anyhow::Context;
use memvelope::engine::{KvDtype, Params};
use memvelope::envelope::{Budget, Declared, Plan, UTILIZATION_DEFAULT};
use memvelope::model::Layout;
use memvelope::units::{Bytes, Tokens};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A longer line is no set of parameters; the records of published data sets have some kilobytes.
const LINE_BYTES_MAX: u64 = Bytes::MIB;

/// Models kept parsed. The largest take a few megabytes each.
const LAYOUTS_MAX: usize = 256;

/// One line: flat, or as a record of a data set nests it, with the parameters in `params`.
#[derive(Default, Deserialize)]
struct Line {
    #[serde(alias = "config_file")]
    config: Option<String>,
    #[serde(alias = "hf_quant_config_file")]
    quant_config: Option<String>,
    device: Option<String>,
    #[serde(alias = "compute_capability")]
    capability: Option<Value>,
    device_mem_gib: Option<f64>,
    tensor_parallel_size: Option<u32>,
    kv_cache_dtype: Option<String>,
    block_size: Option<Value>,
    available_kv_bytes: Option<i64>,
    max_model_len: Option<u64>,
    max_num_batched_tokens: Option<u32>,
    max_num_seqs: Option<u32>,
    gpu_memory_utilization: Option<Value>,
    enable_prefix_caching: Option<bool>,
    async_scheduling: Option<bool>,
    params: Option<Box<Line>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Fields that a flat line may have beside, for whoever reads the results.
const LABELS: &[&str] = &["model", "id"];

#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Planned {
        line: u64,
        #[serde(flatten)]
        plan: &'a Plan,
    },
    Failed {
        line: u64,
        error: String,
    },
}

/// Layouts by the paths of their files.
struct Models {
    folder: PathBuf,
    layouts: HashMap<(PathBuf, Option<PathBuf>), Result<Layout, String>>,
}

/// Plans every line of a file.
///
/// # Errors
/// The file cannot be read, or nothing can be written. Bad lines are results, too: they make the
/// exit code 1.
pub(super) fn run(path: &Path) -> Outcome<ExitCode> {
    let failed = |source| memvelope::Error::ReadFile { path: path.to_owned(), source };
    let (reader, folder): (Box<dyn Read>, _) = match path.to_str() {
        Some("-") => (Box::new(std::io::stdin()), PathBuf::from(".")),
        _ => {
            let file = File::open(path).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_dir() {
                let name = path.display();
                return Err(Failure::bad(format!("{name} is a directory, not a file of lines")));
            }
            (Box::new(file), path.parent().unwrap_or(Path::new(".")).to_owned())
        }
    };
    let mut models = Models { folder, layouts: HashMap::new() };
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let (mut number, mut is_bad) = (0, false);
    loop {
        number += 1;
        let text = match next_line(&mut reader).map_err(failed)? {
            None => break,
            Some(Ok(text)) if text.trim_ascii().is_empty() => continue,
            Some(text) => text,
        };
        let plan = text.and_then(|text| models.plan(&text));
        is_bad |= plan.is_err();
        let answer = match &plan {
            Ok(plan) => Answer::Planned { line: number, plan },
            Err(error) => Answer::Failed { line: number, error: error.clone() },
        };
        let mut json = serde_json::to_vec(&answer).context("writing JSON failed")?;
        json.push(b'\n');
        match out.write_all(&json) {
            // A reader that went away has what it wanted.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            written => written.context("writing to stdout failed")?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.context("writing to stdout failed")?,
    }
    Ok(ExitCode::from(u8::from(is_bad)))
}

/// The next line; `None` at the end. Of one that is too long nothing is kept.
fn next_line(reader: &mut impl BufRead) -> std::io::Result<Option<Result<Vec<u8>, String>>> {
    let mut text = Vec::new();
    if reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)? == 0 {
        return Ok(None);
    }
    if text.last() == Some(&b'\n') || (text.len() as u64) < LINE_BYTES_MAX {
        return Ok(Some(Ok(text)));
    }
    loop {
        text.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
        if read == 0 || text.last() == Some(&b'\n') {
            return Ok(Some(Err(format!("the line has more than {}", Bytes(LINE_BYTES_MAX)))));
        }
    }
}

impl Models {
    fn plan(&mut self, text: &[u8]) -> Result<Plan, String> {
        let mut line: Line =
            serde_json::from_slice(text).map_err(|error| format!("not a set: {error}"))?;
        let is_nested = line.params.is_some();
        let mut given = line.params.take().map_or_else(Line::default, |params| *params);
        if !is_nested {
            given = std::mem::take(&mut line);
        }
        let unknown = given.rest.keys().find(|key| !LABELS.contains(&key.as_str()));
        if let Some(key) = unknown {
            return Err(format!("{key:.60}: no such parameter"));
        }
        let config = line.config.or_else(|| given.config.take()).ok_or("config: missing")?;
        let quantization = line.quant_config.or_else(|| given.quant_config.take());
        let (params, budget) = given.resolve()?;
        let layout = self.layout(&config, quantization.as_deref())?;
        Plan::vllm(layout, &params, &budget).map_err(|error| error.to_string())
    }

    fn layout(&mut self, config: &str, quantization: Option<&str>) -> Result<&Layout, String> {
        // `join` keeps an absolute path.
        let key = (self.folder.join(config), quantization.map(|path| self.folder.join(path)));
        if self.layouts.len() >= LAYOUTS_MAX && !self.layouts.contains_key(&key) {
            self.layouts.clear();
        }
        let read = |key: &(PathBuf, Option<PathBuf>)| {
            let say = |failure: Failure| {
                let (Failure::BadInput(error) | Failure::Failed(error)) = failure;
                format!("{error:#}")
            };
            let source = source::Source::read(&key.0, key.1.as_deref()).map_err(say)?;
            source.layout().map_err(|error| error.to_string())
        };
        let layout = self.layouts.entry(key).or_insert_with_key(read);
        layout.as_ref().map_err(Clone::clone)
    }
}

impl Line {
    fn resolve(&self) -> Result<(Params, Budget), String> {
        let capability = self.capability.as_ref().map(capability).transpose()?;
        let name = self.device.as_deref().ok_or("device: missing")?;
        let total = self.device_mem_gib.filter(|gib| *gib > 0.0 && *gib < 1e9);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let total = total.map(|gib| Bytes((gib * Bytes::GIB as f64) as u64));
        let mut params = Params::new(gpu::of_line(name, total, capability)?);
        params.tensor_parallel = self.tensor_parallel_size.unwrap_or(1);
        params.kv_dtype = match self.kv_cache_dtype.as_deref() {
            None => KvDtype::Auto,
            Some(text) => text.parse().map_err(|refusal| format!("kv_cache_dtype: {refusal}"))?,
        };
        params.block_size = self.block_size.as_ref().map(block_size).transpose()?.flatten();
        params.max_num_batched_tokens = self.max_num_batched_tokens;
        params.max_num_seqs = self.max_num_seqs;
        params.max_model_len = self.max_model_len.map(Tokens);
        params.prefix_caching = self.enable_prefix_caching;
        params.async_scheduling = self.async_scheduling.unwrap_or(params.async_scheduling);
        let budget = match (self.available_kv_bytes, &self.gpu_memory_utilization) {
            (Some(bytes), _) => Budget::Kv(bytes),
            (None, given) => {
                let share = given.as_ref().map_or(Some(UTILIZATION_DEFAULT), Value::as_f64);
                let share = share.filter(|share| *share > 0.0 && *share <= 1.0);
                let utilization = share.ok_or("gpu_memory_utilization: expected 0 to 1")?;
                Budget::Share { utilization, declared: Declared::default() }
            }
        };
        let zero = [
            ("tensor_parallel_size", self.tensor_parallel_size == Some(0)),
            ("max_model_len", self.max_model_len == Some(0)),
            ("max_num_batched_tokens", self.max_num_batched_tokens == Some(0)),
            ("max_num_seqs", self.max_num_seqs == Some(0)),
        ];
        match zero.iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(format!("{name}: 0; expected a whole number above 0")),
            None => Ok((params, budget)),
        }
    }
}

/// `[9, 0]` or `"9.0"`.
fn capability(value: &Value) -> Result<(u32, u32), String> {
    let wrong = || "capability: expected [9, 0] or \"9.0\"".to_owned();
    match value {
        Value::String(text) => {
            text.parse::<gpu::Capability>().map(|c| (c.0, c.1)).map_err(|_| wrong())
        }
        value => serde_json::from_value(value.clone()).map_err(|_| wrong()),
    }
}

/// A number, the same as text, or `"default"`.
fn block_size(value: &Value) -> Result<Option<u32>, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    match text.parse::<super::Auto>() {
        Ok(super::Auto(size)) => Ok(size),
        Err(expected) => Err(format!("block_size: {text:.40}; {expected}")),
    }
}
