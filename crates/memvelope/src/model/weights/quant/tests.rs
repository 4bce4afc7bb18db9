//! Forms and exclusions on a model of one layer whose matrices can be counted by hand.

use crate::error::Error;
use crate::model::{Dtype, Layout};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const HIDDEN: u64 = 1024;
const INNER: u64 = 2048;
/// 8 query heads and 2 KV heads of 128.
const QKV: u64 = 12 * 128;
const ATTENTION: u64 = 8 * 128;
/// Elements of all matrices of the layer, and their outputs.
const MATRICES: u64 = HIDDEN * (QKV + 2 * INNER) + HIDDEN * (ATTENTION + INNER);
const OUTPUTS: u64 = QKV + 2 * INNER + 2 * HIDDEN;

fn config(quantization: &Value) -> String {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 64,
        "tie_word_embeddings": true, "max_position_embeddings": 1024,
        "quantization_config": quantization,
    })
    .to_string()
}

fn read(quantization: &Value) -> Result<Layout, Error> {
    Layout::from_config(&config(quantization))
}

fn bytes(quantization: &Value) -> BTreeMap<Dtype, u64> {
    let weights = read(quantization).unwrap().weights(1).unwrap();
    weights.bytes_by_dtype.into_iter().map(|(dtype, bytes)| (dtype, bytes.0)).collect()
}

/// What stays as it is: the embedding and the norms.
const REST: u64 = 2 * (64 * HIDDEN + 3 * HIDDEN + 2 * 128);

fn of(bytes: &BTreeMap<Dtype, u64>, dtype: Dtype) -> u64 {
    bytes.get(&dtype).copied().unwrap_or(0)
}

#[test]
fn blocks_and_scales_of_fp8() {
    let blocks = json!({"quant_method": "fp8", "activation_scheme": "dynamic",
        "weight_block_size": [128, 128]});
    let found = bytes(&blocks);
    assert_eq!(of(&found, Dtype::Fp8E4m3), MATRICES);
    assert_eq!(of(&found, Dtype::Float32), 4 * MATRICES / (128 * 128));
    // Four scales of the cache.
    assert_eq!(of(&found, Dtype::Bfloat16), REST + 8);

    let plain = json!({"quant_method": "fp8", "activation_scheme": "static"});
    // A scale of weights and one of inputs for query, key, value, gate, up, and the two others.
    assert_eq!(of(&bytes(&plain), Dtype::Float32), 4 * 2 * 7);
}

#[test]
fn excluded_modules_stay() {
    let skipping = |names: &[&str]| {
        json!({"quant_method": "fp8", "activation_scheme": "dynamic",
            "weight_block_size": [128, 128], "modules_to_not_convert": names})
    };
    let layer = "model.layers.0.";
    let part = |name: &str| format!("{layer}{name}");
    let all = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(part);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let expected = MATRICES - HIDDEN * QKV;
    assert_eq!(of(&bytes(&skipping(&all)), Dtype::Fp8E4m3), expected);
    let fused = part("self_attn.qkv_proj");
    assert_eq!(of(&bytes(&skipping(&[&fused])), Dtype::Fp8E4m3), expected);
    // By whole names, not by parts of them.
    assert_eq!(of(&bytes(&skipping(&["self_attn", "gate"])), Dtype::Fp8E4m3), MATRICES);
    let some = read(&skipping(&all[..2])).unwrap().weights(1).unwrap_err().reason;
    assert!(some.contains("qkv_proj") && some.contains("some of its parts"), "{some}");
}

#[test]
fn modelopt_reads_wildcards_and_the_cache() {
    let modelopt = |algorithm: &str, ignore: &[&str]| {
        json!({"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ignore,
            "kv_cache_scheme": {"dynamic": false, "num_bits": 8, "type": "float"}})
    };
    let found = bytes(&modelopt("NVFP4", &[]));
    assert_eq!(of(&found, Dtype::Uint8), MATRICES / 2);
    assert_eq!(of(&found, Dtype::Fp8E4m3), MATRICES / 16);
    let layout = read(&modelopt("NVFP4", &[])).unwrap();
    assert_eq!(layout.checkpoint_kv_dtype(), Some("fp8_e4m3"));
    assert_eq!(layout.quantization_name(), Some("modelopt_fp4"));
    for ignore in ["model.layers.0.mlp*", "*.mlp.*", "mlp", "model.layers.0.mlp.*"] {
        let found = bytes(&modelopt("FP8", &[ignore]));
        assert_eq!(of(&found, Dtype::Fp8E4m3), MATRICES - 3 * HIDDEN * INNER, "{ignore}");
    }
    let mixed = json!({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {
            "model.layers.0.mlp.gate_proj": {"quant_algo": "MXFP8"},
            "model.layers.0.mlp.up_proj": {"quant_algo": "MXFP8"},
            "model.layers.0.self_attn.o_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16}}});
    let found = bytes(&mixed);
    let (up, out) = (2 * HIDDEN * INNER, HIDDEN * ATTENTION);
    assert_eq!(of(&found, Dtype::Fp8E4m3), up + out / 16);
    assert_eq!(of(&found, Dtype::Uint8), up / 32 + out / 2);
    assert_eq!(read(&mixed).unwrap().quantization_name(), Some("modelopt_mixed"));
}

#[test]
fn groups_of_compressed_tensors() {
    let groups = |weights: Value, input: Value, format: &str, ignore: &[&str]| {
        json!({"quant_method": "compressed-tensors", "format": format, "ignore": ignore,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
                "input_activations": input}}})
    };
    let packed = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128});
    let found = bytes(&groups(packed.clone(), Value::Null, "pack-quantized", &[]));
    assert_eq!(of(&found, Dtype::Int32), MATRICES / 2);
    assert_eq!(of(&found, Dtype::Int64), 4 * 16);
    let left = ["re:.*mlp\\.(gate|up)_proj$", "re:.*down_proj"];
    let found = bytes(&groups(packed, Value::Null, "pack-quantized", &left));
    assert_eq!(of(&found, Dtype::Int32), (MATRICES - 3 * HIDDEN * INNER) / 2);

    let channel = json!({"num_bits": 8, "type": "float", "strategy": "channel"});
    let token = json!({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true});
    let found = bytes(&groups(channel.clone(), token, "float-quantized", &["lm_head"]));
    assert_eq!(of(&found, Dtype::Fp8E4m3), MATRICES);
    // And three scales of the cache.
    assert_eq!(of(&found, Dtype::Float32), 4 * OUTPUTS + 12);
    let unknown = groups(channel, Value::Null, "marlin-24", &[]);
    let refusal = read(&unknown).unwrap().weights(1).unwrap_err();
    assert!(refusal.reason.contains("no scheme"));
}

#[test]
fn integers_in_containers() {
    let gptq = |more: Value| {
        let mut all = json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true,
            "desc_act": false});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let zeros = MATRICES / 128 / 2;
    assert_eq!(of(&bytes(&gptq(json!({}))), Dtype::Int32), MATRICES / 2 + zeros);
    let left = gptq(json!({"dynamic": {"-:.*\\.(?!self_attn)mlp\\..*": {}}}));
    let attention = MATRICES - 3 * HIDDEN * INNER;
    assert_eq!(of(&bytes(&left), Dtype::Int32), attention / 2 + attention / 128 / 2);
    for refused in [json!({"desc_act": true}), json!({"sym": false}), json!({"bits": 3})] {
        assert!(read(&gptq(refused.clone())).is_err(), "{refused}");
    }
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true,
        "modules_to_not_convert": ["mlp"]});
    assert_eq!(of(&bytes(&awq), Dtype::Int32), attention / 2 + attention / 128 / 2);
}

#[test]
fn experts_are_padded_by_device() {
    let experts = |method: &Value| {
        let config = json!({
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
            "hidden_size": 320, "intermediate_size": 320, "moe_intermediate_size": 160,
            "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64,
            "vocab_size": 64, "max_position_embeddings": 1024, "quantization_config": method,
        });
        Layout::from_config(&config.to_string()).unwrap()
    };
    let layout = experts(&json!({"quant_method": "mxfp4"}));
    let packed = |capability: (u32, u32)| {
        let weights = layout.weights_on(1, capability).unwrap();
        weights.bytes_by_dtype[&Dtype::Uint8].0
    };
    let of = |hidden: u64, inner: u64| 4 * 3 * hidden * inner * 17 / 32;
    assert_eq!(packed((9, 0)), of(320, 192));
    assert_eq!(packed((10, 0)), of(512, 256));
    assert_eq!(packed((8, 9)), of(512, 256));
}

#[test]
fn what_is_wrong_is_named() {
    let deep = "(".repeat(3000);
    for (quantization, field) in [
        (json!({"quant_method": "bitsandbytes"}), "quant_method"),
        (json!({"quant_method": 4}), "quant_method"),
        (json!([]), "quantization_config"),
        (json!({"quant_method": "fp8"}), "activation_scheme"),
        (
            json!({"quant_method": "fp8", "activation_scheme": "dynamic",
                "weight_block_size": [128]}),
            "weight_block_size",
        ),
        (json!({"quant_method": "gptq", "bits": 4}), "group_size"),
        (json!({"quant_method": "awq", "group_size": 128}), "bits"),
        (json!({"quant_method": "modelopt", "quant_algo": "Q2"}), "quant_algo"),
        (json!({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}), "quantized_layers"),
        (json!({"quant_method": "quark"}), "export"),
        (json!({"quant_method": "torchao"}), "quant_type"),
        (json!({"quant_method": "compressed-tensors", "ignore": [format!("re:{deep}")]}), "ignore"),
    ] {
        match read(&quantization) {
            Err(Error::ReadModel { field: found, problem }) => {
                assert!(found.contains(field), "{quantization}: {found}");
                assert!(problem.len() < 400, "{problem}");
            }
            other => panic!("{quantization}: {:?}", other.map(|layout| layout.quantization_name())),
        }
    }
    // vLLM serves a description without a method as it is.
    assert_eq!(read(&json!({"bits": 4})).unwrap().quantization_name(), None);
}

proptest! {
    /// Whatever stands in a quantisation's fields, reading it ends.
    #[test]
    fn no_config_panics(
        method in "fp8|awq|gptq|modelopt|compressed-tensors|quark|torchao|auto-round|mxfp4|mxfp8",
        field in "bits|group_size|ignore|modules_to_not_convert|config_groups|dynamic|quant_algo|\
                  weight_block_size|activation_scheme|export|quant_type|extra_config|data_type|\
                  quantization|kv_cache_scheme|quantized_layers|global_quant_config|format",
        value in prop_oneof![
            any::<i64>().prop_map(|n| json!(n)),
            "[a-z:*.(\\[]{0,12}".prop_map(|s| json!(s)),
            "[a-z:*.(\\[]{0,12}".prop_map(|s| json!([s])),
            "[a-z:*.(]{0,12}".prop_map(|s| json!({s: {"weights": {"num_bits": 4}, "bits": 4}})),
            Just(json!({})),
            Just(json!([0, 0])),
        ],
    ) {
        let mut quantization = json!({"quant_method": method, "bits": 4, "group_size": 128,
            "sym": true, "zero_point": true, "quant_algo": "NVFP4",
            "activation_scheme": "dynamic", "export": {}});
        quantization[field] = value;
        if let Ok(layout) = read(&quantization) {
            for tp in 1..9 {
                let _ = layout.weights(tp);
            }
        }
    }
}
