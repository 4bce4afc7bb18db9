//! What every fuzz target runs on its bytes. The tests of `crates/memvelope/tests/bad_input.rs`
//! run the same on the committed corpora and on changed skeletons, so that nothing here needs
//! `cargo fuzz`.
//!
//! Whatever the bytes are: no panic, and either an error or numbers that agree with one another.

use memvelope::engine::vllm_0_32::{Command, Role};
use memvelope::engine::{Device, KvDtype, Params, Vllm, generic};
use memvelope::envelope::{Budget, Plan};
use memvelope::model::safetensors::Checkpoint;
use memvelope::model::{Layout, Partial, RefusalRule};
use memvelope::units::{Bytes, Tokens};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Write;

/// A small config of each architecture, one a line.
pub const SKELETONS: &str = include_str!("../../crates/memvelope/tests/skeletons.jsonl");

/// Lengths of sequences, about the powers of two and the blocks in use.
const LENGTHS: [u64; 16] = [
    1,
    2,
    15,
    16,
    17,
    63,
    255,
    1000,
    4096,
    8191,
    16_640,
    40_000,
    131_072,
    1_000_001,
    1 << 24,
    1 << 30,
];

/// The text of a `config.json`.
pub fn hf_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(layout) = Layout::from_config(&text) {
        check(&layout);
    }
    if let Ok(partial) = Partial::from_config(&text) {
        assert!(!partial.to_string().is_empty());
    }
}

/// A skeleton, with fields overwritten as the bytes say.
pub fn hf_config_structured(data: &[u8]) {
    let mut choices = Choices(data);
    let config = mutated(&mut choices).to_string();
    if let Ok(layout) = Layout::from_config(&config) {
        check(&layout);
        check_params(&layout, &params(&mut choices));
    }
}

/// A skeleton with the bytes as its `quantization_config`, and once as the file beside it.
pub fn quant_config(data: &[u8]) {
    let mut choices = Choices(data);
    let mut config = skeleton(&mut choices);
    let text = String::from_utf8_lossy(choices.0);
    if let Ok(layout) = Layout::from_configs(&config.to_string(), Some(&text)) {
        check_weights(&layout);
    }
    let Ok(quantization) = serde_json::from_str::<Value>(&text) else { return };
    config["quantization_config"] = quantization;
    if let Ok(layout) = Layout::from_config(&config.to_string()) {
        check_weights(&layout);
        check_engine(&layout, "h100", KvDtype::Auto, 1);
    }
}

/// The words of a command line, one a line.
pub fn vllm_args(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words: Vec<String> = text.lines().map(str::to_owned).collect();
    let Ok(command) = Command::parse(&words) else { return };
    let mut params = Params::new(Device::named("h100").expect("a known name"));
    if let Ok(layout) = command.apply(&mut params, Layout::builtin_8b()) {
        check_params(&layout, &params);
    }
}

/// A checkpoint of one file: the bytes as they are, or as the header of a file whose tensors take
/// as much as the first bytes say; or the index of one that has no other files.
pub fn safetensors(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut choices = Choices(data);
    let name = match choices.byte() {
        255 => "model.safetensors.index.json",
        _ => "model.safetensors",
    };
    let mut file = File::create(folder.path().join(name)).expect("a new file");
    match choices.byte() {
        0 => file.write_all(choices.0).expect("written"),
        log => {
            let (length, extent) = (choices.0.len() as u64, 1_u64 << (log & 31));
            file.write_all(&length.to_le_bytes()).expect("written");
            file.write_all(choices.0).expect("written");
            file.set_len(8 + length + extent).expect("a sparse file");
        }
    }
    if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
        let all = checkpoint.bytes_by_dtype.values().map(|bytes| bytes.0).sum::<u64>();
        assert_eq!(all, checkpoint.bytes.0);
        assert_eq!(all, checkpoint.tensors.iter().map(|tensor| tensor.bytes.0).sum::<u64>());
        let _ = checkpoint.compare(&Layout::builtin_8b());
    }
    let _ = Checkpoint::indexed_bytes(folder.path());
    fs::remove_dir_all(folder.path()).expect("removed");
}

/// Everything that is computed of a model agrees with itself.
pub fn check(layout: &Layout) {
    check_weights(layout);
    for device in ["h100", "b200", "l40s", "cpu"] {
        for kv_dtype in [KvDtype::Auto, KvDtype::Fp8] {
            for ranks in [1, 2] {
                check_engine(layout, device, kv_dtype, ranks);
            }
        }
    }
    let lengths = LENGTHS.map(Tokens);
    let kept = lengths.map(|tokens| generic::sequence_bytes(layout, tokens));
    assert!(kept.is_sorted(), "a longer sequence keeps less");
    let _ = generic::sequence_bytes_on(layout, 3, Tokens(1 << 40));
    let _ = (layout.per_token(), layout.is_plain(), layout.block_bytes(16));
}

/// Ranks hold no less than the whole.
pub fn check_weights(layout: &Layout) {
    let whole = layout.weights(1);
    assert_eq!(layout.weight_bytes, whole.as_ref().ok().map(|weights| weights.param_bytes));
    for ranks in [2, 8] {
        let Ok(share) = layout.weights(ranks) else { continue };
        let Ok(whole) = &whole else {
            let rule = whole.as_ref().unwrap_err().rule;
            assert_ne!(rule, RefusalRule::UnknownWeights, "known of {ranks} ranks alone");
            continue;
        };
        let all = share.param_bytes.saturating_mul(ranks.into());
        assert!(all >= whole.param_bytes, "{ranks} ranks: {all:?} of {:?}", whole.param_bytes);
    }
    let _ = (layout.weights(0), layout.weights(u32::MAX), layout.weights_on(4, (10, 0)));
}

/// More memory holds no fewer blocks, a longer sequence needs no fewer, and the gate's curve is
/// what the engine takes, or says that it is a bound and is never below.
pub fn check_engine(layout: &Layout, device: &str, kv_dtype: KvDtype, ranks: u32) {
    let device = Device::named(device).expect("a known name");
    check_params(layout, &Params { kv_dtype, tensor_parallel: ranks, ..Params::new(device) });
}

/// Says whether the curve is exact.
pub fn check_curve(vllm: &Vllm) -> bool {
    let curve = vllm.cost_curve();
    let mut before = 0;
    for tokens in lengths(vllm).into_iter().map(Tokens) {
        let blocks = vllm.blocks_per_request(tokens).0;
        assert!(blocks >= before, "{tokens:?} needs {blocks} blocks, a shorter one {before}");
        let found = curve.blocks(tokens).0;
        assert!(found >= blocks, "{tokens:?} take {blocks}: {found} by {curve:?}");
        assert!(!curve.is_exact() || found == blocks, "{tokens:?} take {blocks}, not {found}");
        before = blocks;
    }
    curve.is_exact()
}

/// Lengths in order: at and around all at which a layer takes another block, or no more.
fn lengths(vllm: &Vllm) -> Vec<u64> {
    let mut lengths = LENGTHS.to_vec();
    lengths.extend([1 << 40, u64::MAX - 1, u64::MAX]);
    let in_flight = vllm.resolved().max_in_flight_tokens;
    for (spec, _) in vllm.groups().into_iter().flat_map(|group| group.specs) {
        let block = spec.block_size.max(1);
        let ends = match spec.role {
            Role::Window { window: kept } | Role::WindowMla { window: kept } => {
                kept.saturating_sub(1)
            }
            Role::Chunk { chunk } => chunk,
            _ => 0,
        };
        let ends = ends.saturating_add(in_flight);
        for at in [block, block.saturating_mul(100), ends, ends / block * block] {
            lengths.extend([at.saturating_sub(1), at, at.saturating_add(1)]);
        }
    }
    lengths.retain(|tokens| *tokens > 0);
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

fn check_params(layout: &Layout, params: &Params) {
    let Ok(vllm) = Vllm::new(layout, params) else { return };
    check_curve(&vllm);
    let mut before = 0;
    for bytes in [0, 1 << 20, 1 << 30, 70 << 30, u64::MAX] {
        let capacity = vllm.capacity(Bytes(bytes), Tokens(4096));
        assert!(capacity.num_gpu_blocks.0 >= before, "{bytes} bytes hold fewer");
        before = capacity.num_gpu_blocks.0;
    }
    let _ = (vllm.groups(), vllm.per_token_bytes(), vllm.capacity(Bytes(1 << 34), Tokens::MAX));
    for budget in [Budget::default(), Budget::Kv(-1), Budget::Kv(1 << 34)] {
        for plan in [Plan::vllm, Plan::generic] {
            if let Ok(plan) = plan(layout, params, &budget) {
                serde_json::to_string(&plan).expect("a plan can be written");
                assert!(!plan.to_string().is_empty());
            }
        }
    }
}

/// Decisions taken from bytes, in order; zero once there are none left.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn below(&mut self, end: usize) -> usize {
        let choice = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        choice % end.max(1)
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// What an operator may say, sensible or not.
fn params(choices: &mut Choices<'_>) -> Params {
    let device = choices.one_of(&["h100", "a100", "b200", "l4", "rtx5090", "cpu"]);
    let kv_dtype = choices.one_of(&KvDtype::ALL.map(|(dtype, _)| dtype));
    let params = Params::new(Device::named(device).expect("a known name"));
    let mut size = || match choices.byte() % 4 {
        0 => None,
        1 => Some(u32::from(choices.byte()) * 16),
        _ => u32::try_from(choices.word() >> (choices.byte() & 63)).ok(),
    };
    Params {
        kv_dtype,
        tensor_parallel: size().unwrap_or(1),
        block_size: size(),
        max_num_batched_tokens: size(),
        max_num_seqs: size(),
        max_model_len: size().map(|tokens| Tokens(u64::from(tokens) << 16)),
        prefix_caching: [None, Some(true), Some(false)][choices.below(3)],
        async_scheduling: choices.byte() & 1 == 0,
        ..params
    }
}

/// The skeleton that the first bytes choose.
fn skeleton(choices: &mut Choices<'_>) -> Value {
    let lines: Vec<&str> = SKELETONS.lines().collect();
    serde_json::from_str(choices.one_of(&lines)).expect("a skeleton is JSON")
}

/// A skeleton with some fields of it, or of another, overwritten.
pub fn mutated(choices: &mut Choices<'_>) -> Value {
    let mut config = skeleton(choices);
    let untouched = config.clone();
    for _ in 0..choices.below(6) {
        let donor = if choices.byte() & 1 == 0 { untouched.clone() } else { skeleton(choices) };
        let Value::Object(fields) = donor else { continue };
        mutate(choices, fields, &mut config, 3);
    }
    config
}

fn mutate(choices: &mut Choices<'_>, fields: Map<String, Value>, into: &mut Value, depth: u32) {
    let count = fields.len();
    let Some((name, found)) = fields.into_iter().nth(choices.below(count)) else { return };
    let Value::Object(into) = into else { return };
    match found {
        Value::Object(inner) if depth > 0 && choices.byte() & 3 != 0 => {
            let target = into.entry(name).or_insert_with(|| json!({}));
            mutate(choices, inner, target, depth - 1);
        }
        found => {
            let value = value(choices, &found, depth);
            into.insert(name, value);
        }
    }
}

const WORDS: [&str; 24] = [
    "full_attention",
    "sliding_attention",
    "linear_attention",
    "chunked_attention",
    "attention",
    "mamba",
    "conv",
    "hybrid",
    "moe",
    "dense",
    "sparse",
    "linear",
    "yarn",
    "longrope",
    "dynamic",
    "silu",
    "gelu",
    "bfloat16",
    "float16",
    "float32",
    "llama",
    "qwen3_moe",
    "gemma3_text",
    "",
];

fn value(choices: &mut Choices<'_>, found: &Value, depth: u32) -> Value {
    match choices.byte() % 12 {
        0 => Value::Null,
        1 => json!(choices.byte() & 1 == 1),
        2 => json!(choices.byte()),
        3 => json!(1_u64 << (choices.byte() & 63)),
        4 => json!((1_u64 << (choices.byte() & 63)) - 1),
        5 => json!(choices.word().cast_signed()),
        6 => json!(f64::from_bits(choices.word())),
        7 => json!(choices.one_of(&WORDS)),
        8 if depth > 0 => {
            let count = choices.below(20);
            (0..count).map(|_| value(choices, found, depth - 1)).collect()
        }
        9 => json!({}),
        10 if depth > 2 => (0..choices.below(3000)).map(|_| found.clone()).collect(),
        _ => match found {
            Value::Array(items) if !items.is_empty() => {
                let (count, of) = (choices.below(70), items.clone());
                (0..count).map(|_| of[choices.below(of.len())].clone()).collect()
            }
            Value::Number(number) => {
                let factor = choices.one_of(&[2_u64, 3, 4, 8, 16, 64, 128, 1000]);
                json!(number.as_u64().unwrap_or(1).saturating_mul(factor))
            }
            other => other.clone(),
        },
    }
}
