//! Configs that nobody vouches for: whatever the text says, an error that names the field or
//! numbers that agree with one another, in bounded time and memory, and never a panic.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first thing that is amiss")]

#[path = "../../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "one file, shared by path with the fuzz targets")]
mod entries;

use entries::{Choices, SKELETONS};
use memvelope::engine::{Device, Params, Vllm};
use memvelope::model::{Layout, RefusalRule, architectures};
use memvelope::units::{Bytes, Tokens};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Processor time of this thread where Linux tells it, so that a busy machine changes nothing.
fn clock(begin: Instant) -> Duration {
    let scheduled = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = scheduled.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| begin.elapsed(), Duration::from_nanos)
}

fn timed<R>(run: impl FnOnce() -> R) -> (R, Duration) {
    let now = Instant::now();
    let before = clock(now);
    let result = run();
    (result, clock(now).saturating_sub(before))
}

/// What a caller does with a text: at most this is computed for one answer.
fn plan(text: &str) -> Option<Layout> {
    let layout = Layout::from_config(text).ok()?;
    let _ = layout.weights(2);
    let device = Device::named("h100").expect("a known name");
    if let Ok(vllm) = Vllm::new(&layout, &Params::new(device)) {
        let _ = vllm.capacity(Bytes(40 << 30), Tokens(8192));
    }
    Some(layout)
}

fn skeleton(architecture: &str) -> Value {
    let all = SKELETONS.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.into_iter().find(|config| config["architectures"][0] == architecture).unwrap()
}

/// The error of a skeleton with one field changed.
fn error_of(architecture: &str, field: &str, value: Value) -> String {
    let mut config = skeleton(architecture);
    config[field] = value;
    Layout::from_config(&config.to_string()).expect_err(field).to_string()
}

#[test]
fn every_architecture_has_a_skeleton_and_agrees_with_itself() {
    let mut with_skeleton = BTreeSet::new();
    for line in SKELETONS.lines() {
        let layout = Layout::from_config(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        with_skeleton.insert(layout.architecture.clone());
        entries::check(&layout);
    }
    let without: Vec<_> = architectures().filter(|name| !with_skeleton.contains(*name)).collect();
    assert!(without.is_empty(), "add to tests/skeletons.jsonl: {without:?}");
}

#[test]
fn what_fuzzing_found_stays_found() {
    type Entry = fn(&[u8]);
    let targets: [(&str, Entry); 5] = [
        ("hf_config", entries::hf_config),
        ("hf_config_structured", entries::hf_config_structured),
        ("quant_config", entries::quant_config),
        ("safetensors", entries::safetensors),
        ("vllm_args", entries::vllm_args),
    ];
    for (target, entry) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().collect();
        assert!(!files.is_empty(), "{}", folder.display());
        for file in files {
            entry(&std::fs::read(file.path()).unwrap());
        }
    }
}

#[test]
fn fields_of_another_kind_are_named() {
    const ARCHITECTURE: &str = "Qwen3MoeForCausalLM";
    for value in [
        json!(-1),
        json!(0),
        json!(1e30),
        json!(u64::MAX),
        json!(0.5),
        json!("64"),
        json!(true),
        json!([64]),
        json!({}),
        json!("x".repeat(1 << 20)),
    ] {
        for field in ["hidden_size", "num_hidden_layers", "num_experts", "vocab_size"] {
            if field == "num_experts" && value == json!(0) {
                continue; // a model without experts
            }
            let error = error_of(ARCHITECTURE, field, value.clone());
            assert!(error.contains(&format!("`{field}`")) && error.len() < 300, "{error}");
        }
    }
    for (field, value) in [
        ("num_key_value_heads", json!(3)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(vec!["full_attention"; 5000])),
        ("mlp_only_layers", json!(vec![0; 5000])),
        ("rope_scaling", json!([])),
    ] {
        let error = error_of(ARCHITECTURE, field, value);
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn texts_that_are_no_config_end_soon() {
    let items = |one: &str, count: usize| vec![one; count].join(",");
    let names = |count: usize| (0..count).map(|i| format!("\"{i}\":{{}}")).collect::<Vec<_>>();
    for (text, problem) in [
        // Two names for one field, at any depth.
        (r#"{"text_config": {"a": 1, "b": [{"c": 1, "c": 2}]}}"#.to_owned(), "`c` is there twice"),
        (format!("{{\"a\": {}", "[{\"a\":".repeat(1 << 19)), "recursion limit"),
        (format!("{{\"a\": [{}]}}", items("0", 7 << 20)), "more values"),
        (format!("{{\"a\": [{}]}}", items("[]", 5 << 20)), "more values"),
        (format!("{{\"a\": [{}]}}", items("{}", 5 << 20)), "more values"),
        (format!("{{\"a\": [{}]}}", items("{\"\":0}", 2 << 20)), "more values"),
        (format!("{{{}}}", names(1 << 20).join(",")), "more values"),
        (format!("{{\"a\": \"{}\"", "\\u0000".repeat(1 << 20)), "EOF"),
        (format!("{{\"a\": {}}}", "9".repeat(1 << 20)), "out of range"),
        (format!("{{\"a\": -{}.0e-5}}", "0".repeat(1 << 20)), "invalid number"),
        (format!("{{\"a\": NaN{}", " ".repeat(1 << 20)), "EOF"),
        (" ".repeat((16 << 20) + 1), "at most"),
    ] {
        let (result, time) = timed(|| Layout::from_config(&text));
        let error = result.expect_err(problem).to_string();
        assert!(error.contains(problem) && error.len() < 400, "{error}");
        assert!(time < Duration::from_secs(10), "{problem}: {time:?}, unoptimised");
    }
}

/// A skeleton of many layers with a description of its quantisation.
fn quantised(quantization: Value) -> String {
    let mut config = skeleton("Qwen3MoeForCausalLM");
    config["num_hidden_layers"] = json!(1024);
    config["layer_types"] = Value::Null;
    config["quantization_config"] = quantization;
    config.to_string()
}

#[test]
fn long_lists_of_modules_are_searched_for_a_while_only() {
    let names = |count: usize, of: &str| vec![of.to_owned(); count];
    let long = "model.layers.0.self_attn.".repeat(20);
    let slow = "(.*[a-z]?){3}(a|aa)*[XYZ]";
    let floats = json!({ "num_bits": 8, "type": "float", "strategy": "tensor" });
    let quark = json!({ "dtype": "fp8_e4m3", "qscheme": "per_tensor" });
    for quantization in [
        json!({ "quant_method": "awq", "bits": 4, "group_size": 32,
            "modules_to_not_convert": names(4096, &long) }),
        json!({ "quant_method": "fp8", "activation_scheme": "dynamic",
            "ignored_layers": names(65_536, "experts.experts") }),
        json!({ "quant_method": "modelopt", "quant_algo": "FP8",
            "ignore": names(2048, &format!("{}b*", "*[a-z]*a".repeat(40))) }),
        json!({ "quant_method": "compressed-tensors", "format": "float-quantized",
            "ignore": names(1000, &format!("re:{slow}")),
            "config_groups": { "g": { "targets": ["Linear"], "weights": floats,
                "input_activations": floats } } }),
        json!({ "quant_method": "quark", "export": {}, "exclude": names(1000, &format!("re:{slow}")),
            "global_quant_config": { "weight": quark, "input_tensors": quark } }),
    ] {
        let text = quantised(quantization);
        let (layout, time) = timed(|| Layout::from_config(&text).unwrap());
        let error = layout.weights(1).expect_err("too long to be searched");
        assert_eq!(error.rule, RefusalRule::UnknownWeights, "{error}");
        // Unoptimised; an optimised build takes less than a second.
        assert!(time < Duration::from_secs(20), "{time:?}");
    }
    for (quantization, problem) in [
        (
            json!({ "quant_method": "awq", "bits": 4, "group_size": 32,
            "modules_to_not_convert": names(5000, "a") }),
            "at most 4096",
        ),
        (
            json!({ "quant_method": "fp8", "activation_scheme": "dynamic",
            "ignored_layers": names(70_000, "a") }),
            "at most 65536",
        ),
        (
            json!({ "quant_method": "compressed-tensors", "ignore": names(1025, "re:a") }),
            "more than 1024 expressions",
        ),
        (
            json!({ "quant_method": "compressed-tensors", "ignore": [format!("re:{}", "a".repeat(3000))] }),
            "a pattern of 3000 bytes",
        ),
    ] {
        let error = Layout::from_config(&quantised(quantization)).expect_err(problem).to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn ranks_and_blocks_out_of_range_are_refused() {
    let layout = Layout::builtin_8b();
    assert!(layout.weights(0).is_err());
    let device = Device::named("h100").unwrap();
    for params in [
        Params { tensor_parallel: 0, ..Params::new(device.clone()) },
        Params { block_size: Some(0), ..Params::new(device.clone()) },
    ] {
        Vllm::new(&layout, &params).expect_err("out of range");
    }
    for ends in [1, u32::MAX] {
        let params = Params {
            block_size: Some(ends),
            max_num_batched_tokens: Some(ends),
            max_num_seqs: Some(ends),
            max_model_len: Some(Tokens(ends.into())),
            ..Params::new(device.clone())
        };
        if let Ok(vllm) = Vllm::new(&layout, &params) {
            for bytes in [0, 1, u64::MAX] {
                let _ = vllm.capacity(Bytes(bytes), Tokens::MAX);
            }
        }
    }
}

/// The gate counts what the engine does, whatever a model keeps and however it is served.
#[test]
fn the_curve_of_every_architecture_is_exact() {
    let (mut exact, mut bounds, mut terms) = (0, Vec::new(), 0);
    for line in SKELETONS.lines() {
        let layout = Layout::from_config(line).unwrap();
        for device in ["h100", "b200", "l40s", "cpu"] {
            for (block_size, max_num_batched_tokens, tensor_parallel) in
                [(None, None, 1), (Some(128), Some(777), 2), (Some(16), Some(1 << 20), 1)]
            {
                let params = Params {
                    block_size,
                    max_num_batched_tokens,
                    tensor_parallel,
                    ..Params::new(Device::named(device).unwrap())
                };
                let Ok(vllm) = Vllm::new(&layout, &params) else { continue };
                terms = terms.max(vllm.cost_curve().terms().count());
                match entries::check_curve(&vllm) {
                    true => exact += 1,
                    false => bounds.push(format!("{} {device}", layout.architecture)),
                }
            }
        }
    }
    println!("{exact} curves exact with at most {terms} terms, {} bounds", bounds.len());
    assert!(bounds.is_empty() && exact > 0, "{bounds:?}");
}

/// One full layer among forty with windows: 41 groups of 16 tokens, so that a token takes more than
/// two blocks.
#[test]
fn groups_alike_are_one_term() {
    let mut config = skeleton("Gemma3ForCausalLM");
    let kinds =
        (0..41).map(|layer| if layer == 0 { "full_attention" } else { "sliding_attention" });
    config["layer_types"] = kinds.collect();
    config["num_hidden_layers"] = json!(41);
    let layout = Layout::from_config(&config.to_string()).unwrap();
    let params = Params::new(Device::named("h100").unwrap());
    let vllm = Vllm::new(&layout, &params).unwrap();
    assert_eq!(vllm.groups().len(), 41);
    let counts: Vec<u32> = vllm.cost_curve().terms().map(|term| term.count).collect();
    assert_eq!(counts, [1, 40]);
    assert!(entries::check_curve(&vllm));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Fields of skeletons overwritten by others' and by nonsense.
    #[test]
    fn changed_skeletons_are_refused_or_agree_with_themselves(
        bytes in prop::collection::vec(any::<u8>(), 0..160),
    ) {
        let config = entries::mutated(&mut Choices(&bytes));
        let text = config.to_string();
        let (layout, time) = timed(|| plan(&text));
        let size = layout.as_ref().map_or(0, |layout| layout.caches.len());
        let (allowed, layers) = (Duration::from_millis(50), size.max(64) / 64);
        let allowed = allowed * u32::try_from(layers).unwrap() + allowed * (text.len() / 65_536) as u32;
        prop_assert!(time < allowed, "{time:?} for {size} caches, {} bytes", text.len());
        if let Some(layout) = layout.filter(|_| size < 300) {
            entries::check(&layout);
        }
    }
}
