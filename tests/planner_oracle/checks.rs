//! What is compared with a record, and how.

use crate::refusals::params;
use memvelope::engine::Vllm;
use memvelope::engine::vllm_0_32::Role;
use memvelope::model::cache::{Attention, CacheKind, IndexerStorage, Reach};
use memvelope::model::{Layout, Weights};
use memvelope::units::Tokens;
use serde_json::Value;
use std::collections::BTreeMap;

/// What was compared, in the order of the report. `kernels` is for information: where the operator
/// fixes the block size of a model whose layers would take different kernels, the records of two
/// models name kernels that vLLM chooses only when it built another model in the same process
/// before; a fresh vLLM chooses ours. None of the numbers depends on it.
pub(crate) const CHECKS: &[&str] = &[
    "read",
    "specs",
    "weights",
    "dtypes",
    "native",
    "kernels",
    "resolved",
    "block_size",
    "bytes_per_block",
    "groups",
    "capacity",
    "curve",
    "refusal",
];

/// Of what a difference is no failure.
pub(crate) const INFORMATIVE: &[&str] = &["kernels"];

/// A check, and what differs.
pub(crate) type Outcome = (&'static str, Result<(), String>);

/// Compares everything that a record says.
pub(crate) fn all(layout: &Layout, record: &Value) -> Vec<Outcome> {
    let outputs = &record["outputs"];
    let tp = record["params"]["tensor_parallel_size"].as_u64().unwrap_or(1);
    let mut results = vec![
        ("specs", specs(layout, outputs, tp)),
        ("weights", weights(layout, record, tp)),
        ("dtypes", dtypes(layout, record, tp)),
        ("native", native(layout, outputs)),
    ];
    results.extend(engine(layout, record));
    results
}

/// Exact for unquantised models, within 0.5 % for quantised ones.
fn weights(layout: &Layout, record: &Value, tp: u64) -> Result<(), String> {
    let outputs = &record["outputs"];
    let expected = outputs["weights"]["per_rank_param_bytes"].as_u64().unwrap_or(0);
    let weights = on_device(layout, record, tp)?;
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

/// Caches of each kind on one rank, with the number of layers that have one.
fn specs(layout: &Layout, outputs: &Value, tp: u64) -> Result<(), String> {
    let mut expected = BTreeMap::<String, u64>::new();
    for spec in outputs["specs"].as_array().into_iter().flatten() {
        *expected.entry(recorded_spec(spec)).or_default() +=
            spec["num_layers"].as_u64().unwrap_or(0);
    }
    let mut found = BTreeMap::<String, u64>::new();
    for cache in &layout.caches {
        *found.entry(computed_spec(&cache.kind, tp)?).or_default() += 1;
    }
    let shared = outputs["resolved"]["num_kv_shared_layers"].as_u64().unwrap_or(0);
    if found != expected {
        return Err(format!("{found:?}, expected {expected:?}"));
    }
    if u64::from(layout.shared_layers) != shared {
        return Err(format!("{} layers share, expected {shared}", layout.shared_layers));
    }
    Ok(())
}

/// What a record says of one kind of cache, apart from what the engine decides.
fn recorded_spec(spec: &Value) -> String {
    let class = spec["class"].as_str().unwrap_or_default();
    if class == "MambaSpec" {
        let mut shapes: Vec<String> =
            spec["shapes"].as_array().into_iter().flatten().map(|s| s.to_string()).collect();
        shapes.sort();
        return format!("{class} {}", shapes.join(" "));
    }
    let size = |name: &str| spec[name].as_u64().unwrap_or(0);
    let reach = size("sliding_window") + size("attention_chunk_size");
    let dims = format!("{}x{}+{}", size("num_kv_heads"), size("head_size"), size("head_size_v"));
    format!("{class} {dims} reach {reach}")
}

fn computed_spec(kind: &CacheKind, tp: u64) -> Result<String, String> {
    let attention = |class: &str, a: &Attention, reach: u32| {
        let heads = (u64::from(a.kv_heads) / tp).max(1);
        format!("{class} {heads}x{}+{} reach {reach}", a.key_dim, a.value_dim)
    };
    Ok(match kind {
        CacheKind::Attention(a) => match a.reach {
            Reach::Full => attention("FullAttentionSpec", a, 0),
            Reach::Window(window) => attention("SlidingWindowSpec", a, window),
            Reach::Chunk(chunk) => attention("ChunkedLocalAttentionSpec", a, chunk),
        },
        CacheKind::Cross(a) => attention("CrossAttentionSpec", a, 0),
        CacheKind::Latent(l) => {
            format!("MLAAttentionSpec 1x{}+0 reach 0", l.lora_rank + l.rope_dim)
        }
        CacheKind::Indexer(i) => {
            let width = match i.storage {
                IndexerStorage::Fp8WithScales => i.state_bytes(),
                IndexerStorage::Bfloat16 => i.head_dim.into(),
            };
            format!("MLAAttentionSpec 1x{width}+0 reach 0")
        }
        CacheKind::Compressed(latent) => {
            format!("MLAAttentionSpec 1x{}+0 reach 0", latent.head_dim)
        }
        CacheKind::WindowLatent(latent) => {
            format!("SlidingWindowMLASpec 1x{}+0 reach {}", latent.head_dim, latent.window)
        }
        CacheKind::Compressor(compressor) => {
            format!("SlidingWindowMLASpec 1x{}+0 reach {}", compressor.width, compressor.window)
        }
        CacheKind::State(state) => {
            let tensors = state.shape.tensors(tp as u32).map_err(|refusal| refusal.reason)?;
            let mut shapes: Vec<String> = tensors
                .iter()
                .map(|tensor| format!("{:?}", tensor.shape).replace(' ', ""))
                .collect();
            shapes.sort();
            format!("MambaSpec {}", shapes.join(" "))
        }
    })
}

/// What the engine makes of it: decisions, pages, groups, and every row of capacities.
fn engine(layout: &Layout, record: &Value) -> Vec<(&'static str, Result<(), String>)> {
    let vllm = match params(record).and_then(|p| Vllm::new(layout, &p).map_err(|r| r.reason)) {
        Ok(vllm) => vllm,
        Err(problem) => return vec![("resolved", Err(problem))],
    };
    let outputs = &record["outputs"];
    let expected = &outputs["resolved"];
    let resolved = vllm.resolved();
    let mut backends: Vec<&str> = expected["attn_backends"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    backends.retain(|name| {
        !matches!(
            *name,
            "GDN_ATTN"
                | "MAMBA1_ATTN"
                | "MAMBA2_ATTN"
                | "KDA_ATTN"
                | "SHORT_CONV_ATTN"
                | "LINEAR_ATTN"
        )
    });
    let same = |name: &str, found: String, expected: String| match found == expected {
        true => Ok(()),
        false => Err(format!("{name}: found {found}, expected {expected}")),
    };
    let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX).to_string();
    let decisions = same(
        "kv dtype",
        resolved.kv_cache_dtype.name().to_owned(),
        expected["kv_cache_dtype"].as_str().unwrap_or_default().to_owned(),
    )
    .and_then(|()| {
        let found = resolved.max_num_batched_tokens.to_string();
        same("batched tokens", found, number(&expected["max_num_batched_tokens"]))
    })
    .and_then(|()| {
        let found = resolved.max_in_flight_tokens.to_string();
        same("in flight", found, number(&expected["max_in_flight_tokens"]))
    });
    let block_size = resolved.block_size.to_string();
    let bytes = vllm.bytes_per_block().0.to_string();
    let kernels = format!("{:?}", resolved.attn_backends);
    vec![
        ("kernels", same("kernels", kernels, format!("{backends:?}"))),
        ("resolved", decisions),
        ("block_size", same("tokens", block_size, number(&expected["block_size"]))),
        ("bytes_per_block", same("bytes", bytes, number(&outputs["bytes_per_block"]))),
        ("groups", groups(&vllm, outputs)),
        ("capacity", capacity(&vllm, outputs)),
        ("curve", curve(&vllm)),
    ]
}

fn groups(vllm: &Vllm, outputs: &Value) -> Result<(), String> {
    let lengths = outputs["groups"][0]["blocks_per_request"].as_object();
    let expected: Vec<String> = outputs["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|group| format!("{}x{}", group["num_layers"], group["block_size"]))
        .collect();
    let found: Vec<String> = vllm
        .groups()
        .iter()
        .map(|group| format!("{}x{}", group.num_layers, group.block_size))
        .collect();
    if found != expected {
        return Err(format!("layers x block size: found {found:?}, expected {expected:?}"));
    }
    for length in lengths.into_iter().flat_map(|lengths| lengths.keys()) {
        let tokens = Tokens(length.parse().map_err(|_| "length".to_owned())?);
        let expected: u64 = outputs["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|group| group["blocks_per_request"][length].as_u64().unwrap_or(0))
            .sum();
        let found = vllm.blocks_per_request(tokens).0;
        if found != expected {
            return Err(format!("blocks of {length} tokens: found {found}, expected {expected}"));
        }
    }
    Ok(())
}

fn capacity(vllm: &Vllm, outputs: &Value) -> Result<(), String> {
    for row in outputs["capacity"].as_array().into_iter().flatten() {
        let available = row["available_kv_bytes"].as_i64().unwrap_or(0);
        let length = Tokens(row["max_model_len"].as_u64().unwrap_or(0));
        let found = vllm.capacity_signed(available, length);
        let mut ok = found.refused.is_some() == row["error"].is_string();
        if let Some(estimate) = row["estimated_max_model_len"].as_u64() {
            ok &= found.estimated_max_model_len == Some(Tokens(estimate));
        }
        if found.refused.is_none() {
            ok &= row["num_gpu_blocks"].as_u64() == Some(found.num_gpu_blocks.0);
            ok &= row["kv_cache_size_tokens"].as_u64() == Some(found.kv_cache_size_tokens.0);
            ok &= row["need_bytes_one_request"].as_u64() == Some(found.need_bytes_one_request.0);
            ok &= row["max_concurrency"].as_f64() == found.max_concurrency;
        }
        if !ok {
            return Err(format!("{row}: found {found:?}"));
        }
    }
    Ok(())
}

/// What the gate counts is what the engine says, at and around every length at which a layer takes
/// another block or no more.
fn curve(vllm: &Vllm) -> Result<(), String> {
    let curve = vllm.cost_curve();
    let mut lengths = vec![1, 2, 1000, 1 << 17, 1 << 20, 1 << 40, u64::MAX - 1, u64::MAX];
    let in_flight = vllm.resolved().max_in_flight_tokens;
    for (spec, _) in vllm.groups().into_iter().flat_map(|group| group.specs) {
        let block = spec.block_size.max(1);
        let ends = match spec.role {
            Role::Window { window } | Role::WindowMla { window } => window.saturating_sub(1),
            Role::Chunk { chunk } => chunk,
            _ => 0,
        };
        let ends = ends + in_flight;
        for at in [block, 100 * block, ends, ends / block * block, ends.next_multiple_of(block)] {
            lengths.extend([at.saturating_sub(1), at, at + 1]);
        }
    }
    for tokens in lengths.into_iter().filter(|tokens| *tokens > 0).map(Tokens) {
        let (found, expected) = (curve.blocks(tokens), vllm.blocks_per_request(tokens));
        if found != expected {
            return Err(format!("{found} of {tokens}, expected {expected}; {curve:?}"));
        }
    }
    if curve.is_exact() { Ok(()) } else { Err(format!("a bound: {curve:?}")) }
}

fn on_device(layout: &Layout, record: &Value, tp: u64) -> Result<Weights, String> {
    let version = |i: usize| record["params"]["compute_capability"][i].as_u64().unwrap_or(0) as u32;
    let capability = (version(0), version(1));
    layout.weights_on(tp as u32, capability).map_err(|refusal| refusal.reason)
}

/// Exact for every type of element, quantised or not.
fn dtypes(layout: &Layout, record: &Value, tp: u64) -> Result<(), String> {
    let outputs = &record["outputs"];
    let weights = on_device(layout, record, tp)?;
    let mut wrong = Vec::new();
    let expected = outputs["weights"]["param_bytes_by_dtype"].as_object().into_iter().flatten();
    let expected: BTreeMap<&str, u64> =
        expected.filter_map(|(name, bytes)| Some((name.as_str(), bytes.as_u64()?))).collect();
    let found: BTreeMap<&str, u64> =
        weights.bytes_by_dtype.iter().map(|(dtype, bytes)| (dtype.name(), bytes.0)).collect();
    for name in expected.keys().chain(found.keys()) {
        let of = |all: &BTreeMap<&str, u64>| all.get(name).copied().unwrap_or(0);
        if of(&found) != of(&expected) {
            let by = i128::from(of(&found)) - i128::from(of(&expected));
            let line = format!("{name} {} expected {} ({by:+})", of(&found), of(&expected));
            if !wrong.contains(&line) {
                wrong.push(line);
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}
