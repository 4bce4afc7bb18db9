//! Whether the planner refuses where vLLM does, and nowhere else.

use memvelope::engine::{Device, DeviceKind, DeviceSource, Params};
use memvelope::envelope::{Budget, Plan};
use memvelope::model::Layout;
use memvelope::units::{Bytes, Tokens};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Errors of the reproduction, which say nothing about vLLM: files or packages that were not there,
/// configs without what their class reads, tensors without values.
const NO_VERDICT: &[&str] = &[
    "ORACLE:",
    "Can't load",
    "Please install",
    "No module named",
    "has no attribute",
    "no tensor arguments",
    "unhashable type",
    "requires the timm library",
    "Validation error for field",
];

/// Our refusals that vLLM makes after what the reproduction runs: when the engine's process counts
/// the tokens of its multimodal items.
const BEYOND: &str = "of the largest image or recording";

/// What vLLM says, by the words of its errors.
const CLASSES: &[(&str, &str)] = &[
    ("No valid attention backend", "no attention kernel"),
    ("No valid MLA prefill backend", "no kernel for MLA prefill"),
    ("KV cache is not supported", "KV cache dtype"),
    ("kv-cache on this device", "KV cache dtype"),
    ("not supported for the current GPU", "quantisation on this GPU"),
    ("is not supported for quantization", "dtype under quantisation"),
    ("uantiz", "quantisation"),
    ("divis", "division"),
    ("multiple of", "division"),
    ("max_model_len", "longest length"),
    ("max_num_batched_tokens", "batch"),
    ("block size", "block size"),
    ("block_size", "block size"),
    ("not supported for now", "architecture"),
    ("desc_act", "quantisation"),
    ("does not have `num_attention_heads`", "architecture"),
    ("only supports", "KV cache dtype"),
];

/// What vLLM said of a record: `None` where it says nothing.
pub(crate) fn verdict(record: &Value) -> Option<Option<&'static str>> {
    if record["outputs"].is_object() {
        return Some(None);
    }
    let error = record["error"].as_str()?;
    let class = CLASSES.iter().find(|(words, _)| error.contains(words));
    // Of the defaults of a class, which describe no model, only known refusals count.
    if record["config_kind"] == "tfdef" && class.is_none() {
        return None;
    }
    if NO_VERDICT.iter().any(|words| error.contains(words)) {
        return None;
    }
    Some(Some(class.map_or("other", |(_, class)| *class)))
}

pub(crate) fn params(record: &Value) -> Result<Params, String> {
    let given = &record["params"];
    let mut params = Params::new(device(given));
    let count = |value: &Value| value.as_u64().map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    params.tensor_parallel = count(&given["tensor_parallel_size"]).unwrap_or(1);
    let dtype = given["kv_cache_dtype"].as_str().unwrap_or("auto");
    params.kv_dtype = dtype.parse().map_err(|refusal: memvelope::model::Refusal| refusal.reason)?;
    params.block_size = given["block_size"].as_str().and_then(|size| size.parse().ok());
    let arguments = &record["engine_args"];
    params.max_model_len = arguments["max_model_len"].as_u64().map(Tokens);
    params.max_num_batched_tokens = count(&arguments["max_num_batched_tokens"]);
    params.max_num_seqs = count(&arguments["max_num_seqs"]);
    Ok(params)
}

/// The record's own numbers, where the name is not one that the planner knows.
fn device(given: &Value) -> Device {
    let name = given["device"].as_str().unwrap_or_default();
    let version =
        |i: usize| given["compute_capability"][i].as_u64().map_or(0, |n| n.try_into().unwrap_or(0));
    let gib = given["device_mem_gib"].as_f64().unwrap_or(0.0);
    Device::named(name).unwrap_or_else(|| Device {
        name: name.to_owned(),
        total: Bytes(gib as u64 * Bytes::GIB),
        kind: DeviceKind::Cuda(version(0), version(1)),
        source: DeviceSource::Declared,
    })
}

/// What the planner says of it, with all the memory that one could want.
pub(crate) fn ours(layout: &Result<Layout, String>, record: &Value) -> Option<String> {
    let layout = match layout {
        Ok(layout) => layout,
        Err(error) => return error.lines().next().map(str::to_owned),
    };
    let params = match params(record) {
        Ok(params) => params,
        Err(reason) => return Some(reason),
    };
    match Plan::vllm(layout, &params, &Budget::Kv(1 << 60)) {
        Ok(plan) => plan.refused.map(|refusal| refusal.reason),
        Err(error) => Some(error.to_string()),
    }
}

/// How often both say the same, by what vLLM says.
#[derive(Default)]
pub(crate) struct Table {
    rows: BTreeMap<&'static str, [usize; 3]>,
    no_verdict: usize,
}

impl Table {
    /// Counts a record; what differs, if something does.
    pub(crate) fn add(
        &mut self,
        layout: &Result<Layout, String>,
        record: &Value,
    ) -> Option<String> {
        let Some(theirs) = verdict(record) else {
            self.no_verdict += 1;
            return None;
        };
        let ours = ours(layout, record).filter(|reason| !reason.contains(BEYOND));
        let counts = self.rows.entry(theirs.unwrap_or("starts")).or_default();
        // That we do not know a model is no word on vLLM.
        let is_unknown = ours.as_ref().is_some_and(|reason| reason.contains("cannot compute"));
        if is_unknown {
            counts[2] += 1;
            return None;
        }
        counts[usize::from(ours.is_some())] += 1;
        let short = |text: &str| text.chars().take(400).collect::<String>().replace('\n', " ");
        match (theirs, ours) {
            (Some(class), None) => {
                let error = short(record["error"].as_str().unwrap_or_default());
                Some(format!("not refused ({class}): {error}"))
            }
            (None, Some(reason)) => Some(format!("vLLM starts, and we refuse: {}", short(&reason))),
            _ => None,
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        let row = "vLLM: we plan, we refuse, we do not know the model";
        writeln!(text, "{row}")?;
        for (class, [planned, refused, unknown]) in &self.rows {
            writeln!(text, "{class:<28} {planned:>10} {refused:>10} {unknown:>10}")?;
        }
        writeln!(text, "{:<28} {:>10}", "no verdict", self.no_verdict)?;
        f.write_str(&text)
    }
}
