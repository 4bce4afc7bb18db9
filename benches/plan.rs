//! What a plan costs: after parsing, with parsing, and a thousand of them, against parsing the same
//! JSON into a tree.
//!
//! `cargo bench -p memvelope --bench plan [-- --quick]`

#[path = "pair.rs"]
#[expect(unreachable_pub, reason = "one file, shared by path among the benches")]
mod pair;

use memvelope::engine::{Device, KvDtype, Params, Vllm};
use memvelope::model::Layout;
use memvelope::units::{Bytes, Tokens};
use serde_json::{Value, json};
use std::hint::black_box;

/// A plain decoder of 126 layers.
fn dense() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 16_384, "num_hidden_layers": 126,
        "num_attention_heads": 128, "num_key_value_heads": 8, "intermediate_size": 53_248,
        "vocab_size": 128_256, "max_position_embeddings": 131_072, "dtype": "bfloat16",
    })
}

/// 108 layers of state spaces, experts and attention in turn.
fn hybrid() -> Value {
    json!({
        "architectures": ["NemotronHForCausalLM"], "hidden_size": 8192, "num_hidden_layers": 108,
        "hybrid_override_pattern": "MEMEM*EME".repeat(12), "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 21_504,
        "mamba_num_heads": 256, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128,
        "conv_kernel": 4, "n_routed_experts": 512, "moe_intermediate_size": 2688,
        "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 5376,
        "num_experts_per_tok": 22, "vocab_size": 131_072, "max_position_embeddings": 262_144,
        "dtype": "bfloat16",
    })
}

/// Latent attention and 256 experts in 61 layers, in 8-bit floats by block.
fn latent() -> Value {
    json!({
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "intermediate_size": 18_432, "moe_intermediate_size": 2048, "n_routed_experts": 256,
        "n_shared_experts": 1, "first_k_dense_replace": 3, "num_experts_per_tok": 8,
        "vocab_size": 129_280, "max_position_embeddings": 163_840, "dtype": "bfloat16",
        "quantization_config": { "quant_method": "fp8", "activation_scheme": "dynamic",
            "weight_block_size": [128, 128] },
    })
}

/// The same with 384 experts in 4-bit integers, every other matrix left alone by its name.
fn listed() -> Value {
    let mut config = latent();
    config["num_attention_heads"] = json!(64);
    config["n_routed_experts"] = json!(384);
    config["first_k_dense_replace"] = json!(1);
    let of_layer = |layer: u32| {
        ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
            .map(|name| format!("model.layers.{layer}.self_attn.{name}"))
            .into_iter()
            .chain(
                ["gate_proj", "up_proj", "down_proj"]
                    .map(|name| format!("model.layers.{layer}.mlp.shared_experts.{name}")),
            )
    };
    let mut ignored: Vec<String> = (0..61).flat_map(of_layer).collect();
    ignored.extend(
        ["lm_head", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*", "re:.*self_attn.*"]
            .map(String::from),
    );
    let weights = json!({ "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
        "symmetric": true, "dynamic": false, "observer": "minmax" });
    config["quantization_config"] = json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ignored,
        "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } },
    });
    config
}

/// Windowed layers and full ones in 62 layers, with a list of them.
fn windowed() -> Value {
    let kinds = (1..=62).map(|i| if i % 6 == 0 { "full_attention" } else { "sliding_attention" });
    json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 5376,
        "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16,
        "head_dim": 128, "intermediate_size": 21_504, "vocab_size": 262_208,
        "max_position_embeddings": 131_072, "sliding_window": 1024, "dtype": "bfloat16",
        "layer_types": kinds.collect::<Vec<_>>(),
    })
}

struct Model {
    text: String,
    layout: Layout,
}

fn models() -> [Model; 5] {
    [dense(), hybrid(), latent(), listed(), windowed()].map(|config| {
        let text = config.to_string();
        let layout = Layout::from_config(&text).expect("a model that is known");
        Model { text, layout }
    })
}

/// Device, ranks and dtype of the cache, and what they give.
fn plan(layout: &Layout, index: u64) -> u64 {
    let device = ["h100", "b200", "l40s", "h200"][usize::try_from(index % 4).expect("small")];
    let params = Params {
        tensor_parallel: [8, 4][usize::try_from(index / 4 % 2).expect("small")],
        kv_dtype: [KvDtype::Auto, KvDtype::Fp8][usize::try_from(index / 8 % 2).expect("small")],
        ..Params::new(Device::named(device).expect("a known name"))
    };
    let weights = layout.weights_on(params.tensor_parallel, params.device.capability());
    let blocks = Vllm::new(layout, &params)
        .map(|vllm| vllm.capacity(Bytes(40 << 30), Tokens(32_768)).num_gpu_blocks.0);
    weights.map_or(0, |weights| weights.param_count) ^ blocks.unwrap_or(0)
}

fn parse(text: &str) {
    black_box(serde_json::from_str::<Value>(black_box(text)).expect("JSON"));
}

fn main() {
    let models = models();
    for model in &models {
        let text = model.text.as_str();
        println!(
            "{}: {} bytes, {} layers",
            model.layout.architecture,
            text.len(),
            model.layout.layers
        );
        let mut planned = |operations: u64| {
            for index in 0..operations {
                black_box(plan(black_box(&model.layout), index));
            }
        };
        let mut read = |operations: u64| {
            for _ in 0..operations {
                black_box(Layout::from_config(black_box(text)).expect("a model that is known"));
            }
        };
        let mut parsed = |operations: u64| (0..operations).for_each(|_| parse(text));
        let peer = "serde_json into a tree";
        pair::measure(("plan, once parsed", &mut planned), (peer, &mut parsed), 100).print();
        pair::measure(("read", &mut read), (peer, &mut parsed), 100).print();
    }
    let mut all = |operations: u64| {
        for index in 0..operations {
            let model = &models[usize::try_from(index % 5).expect("small")];
            let layout = Layout::from_config(&model.text).expect("a model that is known");
            black_box(plan(&layout, index));
        }
    };
    let mut parsed = |operations: u64| {
        for index in 0..operations {
            parse(&models[usize::try_from(index % 5).expect("small")].text);
        }
    };
    let peer = "the same parsed into trees";
    pair::measure(("one of 1,000 mixed sets", &mut all), (peer, &mut parsed), 1000).print();
}
