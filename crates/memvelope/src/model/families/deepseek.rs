//! DeepSeek V1 to V3.2, and the models that vLLM 0.32 serves by the same classes
//! (`deepseek_v2.py`, `models/deepseek_v32`).

use super::Family;
use super::limits::{TOKENS_MAX, WIDTH_MAX};
use super::mla::{Class, Decoder, Defaults, Form};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        architectures: &["DeepseekV2ForCausalLM"],
        model_types: &["deepseek_v2"],
        rule: deepseek,
    },
    Family {
        architectures: &[
            "DeepseekV3ForCausalLM",
            "DeepseekV3BidirectionalModel",
            "MistralLarge3ForCausalLM",
        ],
        model_types: &["deepseek_v3", "kimi_k2"],
        rule: deepseek,
    },
    Family {
        architectures: &["DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"],
        model_types: &["deepseek_v32", "glm_moe_dsa"],
        rule: sparse,
    },
];

/// Model types whose latents vLLM 0.32 caches (`is_deepseek_mla` of its
/// `model_arch_config_convertor.py`), as far as their architectures are these.
const LATENT_TYPES: &[&str] =
    &["deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "kimi_k2"];

/// Transformers 5.19 `DeepseekV2Config`.
const V2: Defaults = &[
    ("vocab_size", 102_400),
    ("hidden_size", 4096),
    ("intermediate_size", 11_008),
    ("num_hidden_layers", 32),
    ("num_attention_heads", 32),
    ("max_position_embeddings", 2048),
    ("first_k_dense_replace", 0),
    ("kv_lora_rank", 512),
    ("q_lora_rank", 1536),
    ("n_routed_experts", 64),
    ("n_shared_experts", 2),
    ("qk_nope_head_dim", 128),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 128),
    ("moe_intermediate_size", 1407),
];

/// Transformers 5.19 `DeepseekV3Config`, which vLLM also reads Kimi K2 and DeepSeek V3.2 by.
pub(super) const V3: Defaults = &[
    ("vocab_size", 129_280),
    ("hidden_size", 7168),
    ("intermediate_size", 18_432),
    ("moe_intermediate_size", 2048),
    ("num_hidden_layers", 61),
    ("num_attention_heads", 128),
    ("num_key_value_heads", 128),
    ("n_shared_experts", 1),
    ("n_routed_experts", 256),
    ("kv_lora_rank", 512),
    ("q_lora_rank", 1536),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 128),
    ("qk_nope_head_dim", 128),
    ("first_k_dense_replace", 3),
    ("max_position_embeddings", 4096),
];

/// Transformers 5.19 `GlmMoeDsaConfig`.
const GLM: Defaults = &[
    ("vocab_size", 154_880),
    ("hidden_size", 6144),
    ("intermediate_size", 12_288),
    ("moe_intermediate_size", 2048),
    ("num_hidden_layers", 78),
    ("num_attention_heads", 64),
    ("num_key_value_heads", 64),
    ("n_shared_experts", 1),
    ("n_routed_experts", 256),
    ("kv_lora_rank", 512),
    ("q_lora_rank", 2048),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 256),
    ("qk_nope_head_dim", 192),
    ("first_k_dense_replace", 3),
    ("max_position_embeddings", 202_752),
    ("index_topk", 2048),
    ("index_head_dim", 128),
    ("index_n_heads", 32),
];

fn defaults(model_type: &str) -> Defaults {
    match model_type {
        "deepseek_v2" => V2,
        "deepseek_v3" | "deepseek_v32" | "kimi_k2" => V3,
        "glm_moe_dsa" => GLM,
        _ => &[],
    }
}

/// Queries of no elements mean plain attention (`DeepseekV2DecoderLayer.use_mha`).
fn is_plain(fields: &Fields<'_>) -> bool {
    let is_zero = |name: &str| fields.value(name).and_then(serde_json::Value::as_u64) == Some(0);
    is_zero("qk_nope_head_dim") && is_zero("qk_rope_head_dim")
}

/// DeepSeek V2 and V3.
fn deepseek(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let model_type = fields.text("model_type")?.unwrap_or("deepseek_v3");
    let class = Class { fields, defaults: defaults(model_type) };
    if is_plain(fields) {
        return super::moe::deepseek(config, b);
    }
    let mut decoder = Decoder::read(&class)?;
    let greedy = if model_type == "deepseek_v2" { "greedy" } else { "" };
    let method = fields.text("topk_method")?.unwrap_or(greedy);
    if let Some(moe) = &mut decoder.moe {
        moe.score_bias = method == "noaux_tc";
        moe.routing.is_sigmoid = fields.text("scoring_func")? == Some("sigmoid");
        if model_type == "deepseek_v2" {
            moe.routing.renormalizes = fields.flag("norm_topk_prob", false)?;
        }
    }
    if !LATENT_TYPES.contains(&model_type) {
        decoder.form = Form::Expanded;
    }
    decoder.build(b);
    Ok(())
}

/// DeepSeek V3.2 and GLM-5: an indexer is never missing.
fn sparse(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let model_type = fields.text("model_type")?.unwrap_or("deepseek_v32");
    let class = Class { fields, defaults: defaults(model_type) };
    class.size(&["index_topk"], TOKENS_MAX)?;
    class.size(&["q_lora_rank"], WIDTH_MAX)?;
    deepseek(config, b)
}
