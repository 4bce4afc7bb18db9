//! Small configs with the numbers that vLLM 0.32's own code gave for them, built on the meta device
//! with an emulated GPU: one for each rule that was once missing.

use super::Vllm;
use crate::engine::{Device, Params};
use crate::model::Layout;
use serde_json::{Value, json};

/// Compute capabilities.
const H100: (u32, u32) = (9, 0);
const B200: (u32, u32) = (10, 0);

/// A mixture of experts 192 wide, with some fields added.
fn experts(architecture: &str, model_type: &str, others: Value) -> Layout {
    let mut config = json!({
        "architectures": [architecture], "model_type": model_type, "torch_dtype": "bfloat16",
        "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1024,
        "max_position_embeddings": 512, "moe_intermediate_size": 192,
    });
    config.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
    Layout::from_config(&config.to_string()).unwrap()
}

fn bytes(layout: &Layout, capability: (u32, u32)) -> u64 {
    layout.weights_on(1, capability).unwrap().param_bytes.0
}

/// `oracle/unquantized.py`, `experts/trtllm_bf16_moe.py`.
#[test]
fn experts_are_widened_where_a_kernel_routes_them_too() {
    let qwen2 = |others: Value| {
        let mut all = json!({"intermediate_size": 320, "shared_expert_intermediate_size": 320,
            "num_experts": 8, "num_experts_per_tok": 2});
        all.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        experts("Qwen2MoeForCausalLM", "qwen2_moe", all)
    };
    // A softmax over all experts, normalised over the chosen or not; the class's own is not.
    let normalized = qwen2(json!({"norm_topk_prob": true}));
    let not_normalized = qwen2(json!({}));
    assert_eq!(bytes(&normalized, B200), 9_123_328);
    assert_eq!(bytes(&normalized, H100), 7_550_464);
    assert_eq!(bytes(&not_normalized, B200), 7_550_464);
    // A softmax with a bias.
    let ernie = json!({"intermediate_size": 320, "moe_num_experts": 8, "moe_k": 2});
    let ernie = experts("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", ernie);
    assert_eq!(bytes(&ernie, B200), 4_762_144);
    // An activation of its own.
    let gpt_oss = json!({"intermediate_size": 192, "num_local_experts": 8});
    let gpt_oss = experts("GptOssForCausalLM", "gpt_oss", gpt_oss);
    assert_eq!(bytes(&gpt_oss, B200), 6_587_952);
    // Sigmoids with a bias, where the router is Transformers' own code.
    let dots = |normalized: bool| {
        let dots = json!({"intermediate_size": 320, "n_routed_experts": 8, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
            "norm_topk_prob": normalized});
        bytes(&experts("Dots1ForCausalLM", "dots1", dots), B200)
    };
    assert_eq!([dots(true), dots(false)], [5_774_336, 4_987_904]);
}

/// Transformers 5.19 `ExaoneMoeConfig`: the pattern is not looked at where the layers are listed.
#[test]
fn a_pattern_may_be_letters() {
    let exaone = json!({"intermediate_size": 320, "num_experts": 8, "num_experts_per_tok": 2,
        "sliding_window": 64, "sliding_window_pattern": "LLLG",
        "layer_types": ["sliding_attention", "full_attention"], "n_group": 1, "topk_group": 1});
    let exaone = experts("ExaoneMoeForCausalLM", "exaone_moe", exaone);
    assert_eq!([bytes(&exaone, B200), bytes(&exaone, H100)], [5_774_368, 4_987_936]);
}

/// The config class is that of the model type, and Qwen 2's has no size of heads.
#[test]
fn the_model_type_decides_what_is_left_out() {
    let qwen3 = |model_type: &str| {
        let config = json!({
            "architectures": ["Qwen3ForCausalLM"], "model_type": model_type, "hidden_size": 1024,
            "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "max_position_embeddings": 40960, "vocab_size": 151_936,
            "tie_word_embeddings": true,
        });
        Layout::from_config(&config.to_string()).unwrap()
    };
    assert_eq!(qwen3("qwen2").head_dim, 64);
    assert_eq!(bytes(&qwen3("qwen2"), H100), 1_015_931_904);
    assert_eq!(qwen3("qwen3").head_dim, 128);
}

/// `config.py`, `DiffusionGemmaModelForBlockDiffusionConfig`, and the class's own sizes.
#[test]
fn blocks_of_a_diffusion_model_are_flash_attentions() {
    let config = json!({"architectures": ["DiffusionGemmaForBlockDiffusion"],
        "model_type": "diffusion_gemma", "text_config": {"model_type": "diffusion_gemma_text"}});
    let layout = Layout::from_config(&config.to_string()).unwrap();
    let block = |device: &str, kv_dtype: &str| {
        let mut params = Params::new(Device::named(device).unwrap());
        params.kv_dtype = kv_dtype.parse().unwrap();
        Vllm::new(&layout, &params).unwrap().bytes_per_block().0
    };
    assert_eq!(block("NVIDIA B200", "auto"), 2_621_440);
    assert_eq!(block("NVIDIA B200", "fp8"), 327_680);
    assert_eq!(block("NVIDIA H100 80GB HBM3", "auto"), 655_360);
    assert_eq!(block("NVIDIA H100 80GB HBM3", "fp8"), 1_310_720);
    assert_eq!(block("NVIDIA GeForce RTX 5090", "fp8"), 327_680);
}
