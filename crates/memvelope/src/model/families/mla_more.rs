//! Models of latent attention that vLLM 0.32 has classes of their own for: A.X K1, GLM-4.7 Flash,
//! LongCat Flash, openPangu Ultra, Sarvam; and Youtu, for which it has none.

use super::Family;
use super::limits::{EXPERTS_MAX, INNER_MAX, LAYERS_MAX, VOCAB_MAX};
use super::mla::{Class, Decoder, Defaults, Form, Mla, Moe, NORMS};
use super::parts::gated_mlp;
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, wrong};
use crate::model::weights::module::{Experts, Linear, Param, Routing};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["AXK1ForCausalLM"], model_types: &["axk1"], rule: axk1 },
    Family {
        architectures: &["Glm4MoeLiteForCausalLM"],
        model_types: &["glm4_moe_lite"],
        rule: glm4_moe_lite,
    },
    Family {
        architectures: &["LongcatFlashForCausalLM"],
        model_types: &["longcat_flash"],
        rule: longcat_flash,
    },
    Family {
        architectures: &["LongcatFlashNgramForCausalLM"],
        model_types: &["longcat_flash_ngram"],
        rule: longcat_flash,
    },
    Family {
        architectures: &["PanguUltraMoEForCausalLM"],
        model_types: &["pangu_ultra_moe"],
        rule: pangu_ultra_moe,
    },
    Family { architectures: &["SarvamMLAForCausalLM"], model_types: &["sarvam_mla"], rule: sarvam },
    Family { architectures: &["YoutuForCausalLM"], model_types: &["youtu"], rule: youtu },
];

/// Transformers 5.19 `YoutuConfig`.
const YOUTU: Defaults = &[
    ("vocab_size", 128_256),
    ("hidden_size", 2048),
    ("intermediate_size", 6144),
    ("num_hidden_layers", 32),
    ("num_attention_heads", 16),
    ("kv_lora_rank", 512),
    ("q_lora_rank", 1536),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 128),
    ("qk_nope_head_dim", 128),
    ("max_position_embeddings", 131_072),
];

/// Run in transformers' own code, whose latent attention vLLM 0.32 replaces by its own.
fn youtu(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let mut decoder = Decoder::read(&Class { fields, defaults: YOUTU })?;
    if fields.flag("attention_bias", false)? {
        let problem = "true, which this version does not compute for this architecture";
        return Err(wrong(fields.path("attention_bias"), problem));
    }
    decoder.moe = None;
    decoder.tied = fields.flag("tie_word_embeddings", true)?;
    decoder.build(b);
    Ok(())
}

/// Transformers 5.19 `AXK1Config`.
const AXK1: Defaults = &[
    ("vocab_size", 163_840),
    ("hidden_size", 7168),
    ("intermediate_size", 18_432),
    ("moe_intermediate_size", 2048),
    ("num_hidden_layers", 61),
    ("num_attention_heads", 64),
    ("n_shared_experts", 1),
    ("n_routed_experts", 192),
    ("kv_lora_rank", 512),
    ("q_lora_rank", 1536),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 128),
    ("qk_nope_head_dim", 128),
    ("first_k_dense_replace", 1),
    ("max_position_embeddings", 32_768),
];

/// Transformers 5.19 `Glm4MoeLiteConfig`.
const GLM_LITE: Defaults = &[
    ("vocab_size", 154_880),
    ("hidden_size", 2048),
    ("intermediate_size", 10_240),
    ("moe_intermediate_size", 1536),
    ("num_hidden_layers", 47),
    ("num_attention_heads", 20),
    ("n_shared_experts", 1),
    ("n_routed_experts", 64),
    ("kv_lora_rank", 512),
    ("q_lora_rank", 768),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 256),
    ("qk_nope_head_dim", 192),
    ("max_position_embeddings", 202_752),
];

/// Transformers 5.19 `LongcatFlashConfig`.
const LONGCAT: Defaults = &[
    ("vocab_size", 131_072),
    ("hidden_size", 6144),
    ("num_layers", 28),
    ("num_attention_heads", 64),
    ("ffn_hidden_size", 12_288),
    ("q_lora_rank", 1536),
    ("kv_lora_rank", 512),
    ("qk_nope_head_dim", 128),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 128),
    ("n_routed_experts", 512),
    ("zero_expert_num", 256),
    ("expert_ffn_hidden_size", 2048),
    ("max_position_embeddings", 131_072),
];

/// DeepSeek V3 with a third norm in every layer.
fn axk1(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let mut decoder = Decoder::read(&Class { fields, defaults: AXK1 })?;
    let method = fields.text("topk_method")?;
    if let Some(moe) = &mut decoder.moe {
        moe.score_bias = method.is_none_or(|method| method == "noaux_tc");
        moe.routing.is_sigmoid = fields.text("scoring_func")?.is_none_or(|name| name == "sigmoid");
    }
    decoder.norms = &["input_layernorm", "post_attention_layernorm", "post_mlp_layernorm"];
    decoder.index = None;
    decoder.build(b);
    Ok(())
}

/// DeepSeek V3 with GLM-4.5's router, in float32.
fn glm4_moe_lite(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let mut decoder = Decoder::read(&Class { fields: &config.text, defaults: GLM_LITE })?;
    if let Some(moe) = &mut decoder.moe {
        (moe.router, moe.score_bias) = (Some(Dtype::Float32), true);
    }
    decoder.build(b);
    Ok(())
}

fn pangu_ultra_moe(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class { fields, defaults: &[] };
    let mut decoder = Decoder::read(&class)?;
    // `openpangu.py` looks neither for an indexer nor for dense layers among the experts'.
    decoder.index = None;
    decoder.moe_every = 1;
    decoder.tied = fields.flag("tie_word_embeddings", true)?;
    let bias = fields.flag("router_enable_expert_bias", false)?;
    if let Some(moe) = &mut decoder.moe {
        moe.score_bias = bias;
    }
    if fields.flag("mlp_bias", false)? {
        return Err(wrong(fields.path("mlp_bias"), "true; only false is computed for this model"));
    }
    if fields.flag("sandwich_norm", false)? {
        decoder.norms = &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_mlp_layernorm",
            "post_mlp_layernorm",
        ];
    }
    decoder.build(b);
    Ok(())
}

fn sarvam(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    // `sarvam.py` reads these where the config says nothing.
    let class = Class { fields, defaults: &[("intermediate_size", 16_384)] };
    let mut dims = class.dims(&["num_hidden_layers"])?;
    let mla = Mla::read(&class, &dims)?;
    dims.head_dim = mla.key_dim();
    let experts = fields.count("num_experts", EXPERTS_MAX)?;
    let moe = experts.map(|experts| sarvam_moe(&class, experts)).transpose()?;
    let every = fields.count("moe_layer_freq", LAYERS_MAX)?.unwrap_or(1);
    let dense_layers = class.optional("first_k_dense_replace", LAYERS_MAX)?.unwrap_or(1);
    let decoder = Decoder {
        form: Form::Latent,
        mla,
        index: None,
        moe,
        dense_layers,
        moe_every: every,
        moe_from: dense_layers,
        norms: NORMS,
        tied: fields.flag("tie_word_embeddings", true)?,
        fused: false,
        dims,
    };
    decoder.build(b);
    Ok(())
}

fn sarvam_moe(class: &Class<'_>, experts: u32) -> Result<Moe> {
    let inner = class.size(&["moe_intermediate_size"], INNER_MAX)?;
    let shared = class.optional("num_shared_experts", EXPERTS_MAX)?.unwrap_or(1);
    let shared_inner = class.optional("moe_shared_expert_intermediate_size", INNER_MAX)?;
    let shared_inner = u64::from(shared_inner.unwrap_or(inner));
    let score_bias = class.fields.flag("moe_router_enable_expert_bias", true)?;
    let scores = class.fields.text("score_function")?;
    let routing = Routing {
        is_sigmoid: scores.is_none_or(|scores| scores == "sigmoid"),
        renormalizes: class.fields.flag("norm_topk_prob", true)?,
        has_bias: score_bias,
    };
    Ok(Moe {
        experts: experts.into(),
        inner: inner.into(),
        shared: shared_inner.saturating_mul(shared.into()),
        router: None,
        score_bias,
        routing,
    })
}

/// Two attentions and two MLPs a layer, and experts across them, of which some do nothing.
fn longcat_flash(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class { fields, defaults: LONGCAT };
    let mut dims = class.dims(&["num_layers"])?;
    // The config class counts attentions under this name, and what it says wins.
    if let Some(attentions) = fields.count("num_hidden_layers", LAYERS_MAX)? {
        if attentions < 2 {
            return Err(wrong(fields.path("num_hidden_layers"), "1; there are two a layer"));
        }
        dims.layers = attentions / 2;
    }
    let mla = Mla::read(&class, &dims)?;
    dims.head_dim = mla.key_dim();
    if mla.q_rank.is_none() {
        return Err(wrong(fields.path("q_lora_rank"), "null; this model needs it"));
    }
    let hidden = u64::from(dims.hidden);
    let experts = u64::from(class.size(&["n_routed_experts"], EXPERTS_MAX)?);
    let idle = u64::from(class.number("zero_expert_num", EXPERTS_MAX)?);
    let inner =
        u64::from(class.size(&["moe_intermediate_size", "expert_ffn_hidden_size"], INNER_MAX)?);
    let unquantised = fields.texts("disable_quant_module")?;
    if let Some(name) = unquantised.first() {
        let problem = format!("{name:?}; only an empty list is computed");
        return Err(wrong(fields.path("disable_quant_module"), problem));
    }
    b.vocabulary("model.embed_tokens", dims.vocab, hidden);
    for layer in 0..dims.layers {
        b.scope(&format!("model.layers.{layer}"), |b| {
            for half in 0..2 {
                b.scope(&format!("self_attn.{half}"), |b| mla.build(b, true));
                b.cache(layer, mla.cache(false, false));
                b.rms_norm(&format!("input_layernorm.{half}"), hidden);
                b.rms_norm(&format!("post_attention_layernorm.{half}"), hidden);
                let inner = u64::from(dims.inner);
                b.scope(&format!("mlps.{half}"), |b| gated_mlp(b, hidden, inner, false));
            }
            b.scope("mlp", |b| {
                let all = experts.saturating_add(idle);
                let router = Linear::replicated(hidden, all).plain().dtype(Dtype::Float32);
                b.linear("router.classifier", router);
                let bias = Param::whole(all).dtype(Dtype::Float32);
                b.param("router.e_score_correction_bias", bias);
                // Experts that do nothing are a matter of the router.
                b.experts("experts", Experts::gated(experts, hidden, inner).fusible(false));
            });
        });
    }
    ngram_tables(&class, b, hidden)?;
    b.rms_norm("model.norm", hidden);
    b.head("lm_head", dims.vocab, hidden, false);
    b.dims = dims;
    Ok(())
}

/// Tables of hashed n-grams beside the embedding (`longcat_flash_ngram.py`), where the config has
/// them.
fn ngram_tables(class: &Class<'_>, b: &mut Builder, hidden: u64) -> Result<()> {
    const NAMES: [&str; 3] = ["ngram_vocab_size_ratio", "emb_split_num", "emb_neighbor_num"];
    let architectures = class.fields.texts("architectures")?;
    let is_ngram = architectures.contains(&"LongcatFlashNgramForCausalLM");
    if !is_ngram || NAMES.iter().all(|name| class.fields.value(name).is_none()) {
        return Ok(());
    }
    let [ratio, splits, neighbours] = [
        class.size(&NAMES[..1], VOCAB_MAX)?,
        class.size(&NAMES[1..2], EXPERTS_MAX)?,
        class.size(&NAMES[2..], EXPERTS_MAX)?,
    ];
    let tables = u64::from(splits).saturating_mul(u64::from(neighbours) - 1);
    if tables == 0 {
        return Err(wrong(class.fields.path(NAMES[2]), "1; n-grams have at least two tokens"));
    }
    let vocab = u64::from(class.size(&["vocab_size"], VOCAB_MAX)?);
    let width = hidden / tables;
    // Table i has one row for each of ratio * vocabulary + 2i + 1 hashes.
    let rows = vocab.saturating_mul(ratio.into()).saturating_mul(tables);
    let rows = rows.saturating_add(tables.saturating_mul(tables));
    b.vocabulary("model.ngram_embeddings.oe_embedder", rows, width);
    let projections = tables.saturating_mul(width).saturating_mul(hidden);
    b.param("model.ngram_embeddings.oe_projection", Param::whole(projections));
    Ok(())
}
