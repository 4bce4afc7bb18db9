//! Mixtures of experts with plain attention in every layer.
//!
//! Sources: vLLM 0.32 `model_executor/models`, the file named after each `model_type`, and the
//! defaults of the Hugging Face config classes.

use super::Family;
use super::limits::{
    EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX, WIDTH_MAX,
};
use super::moe_parts::{
    Attn, Class, Dense, DenseNames, Frame, Mlp, Moe, QkNorm, experts, head_dim, is_sigmoid,
    optional, shared_evenly, size, width,
};
use super::parts::{Windows, layer_types, window};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::Reach;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use std::collections::BTreeSet;

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["MixtralForCausalLM"], model_types: &["mixtral"], rule: mixtral },
    Family { architectures: &["PhiMoEForCausalLM"], model_types: &["phimoe"], rule: phimoe },
    // The name in Transformers, whose code then runs.
    Family { architectures: &["PhimoeForCausalLM"], model_types: &["phimoe"], rule: phimoe_hf },
    Family { architectures: &["OlmoeForCausalLM"], model_types: &["olmoe"], rule: olmoe },
    Family { architectures: &["Qwen2MoeForCausalLM"], model_types: &["qwen2_moe"], rule: qwen2 },
    Family {
        architectures: &["Qwen3MoeForCausalLM"],
        model_types: &["qwen3_moe", "qwen3_omni_moe_text"],
        rule: qwen3,
    },
    // The language model of Qwen3-VL-MoE.
    Family {
        architectures: &["Qwen3VLMoeTextModel"],
        model_types: &["qwen3_vl_moe_text"],
        rule: qwen3_vl_text,
    },
    Family {
        architectures: &["MiniMaxM2ForCausalLM"],
        model_types: &["minimax_m2"],
        rule: minimax_m2,
    },
    Family {
        architectures: &["GraniteMoeForCausalLM"],
        model_types: &["granitemoe"],
        rule: granite,
    },
    Family {
        architectures: &["GraniteMoeSharedForCausalLM"],
        model_types: &["granitemoeshared"],
        rule: granite_shared,
    },
    Family {
        architectures: &["GraniteMoeSWAForCausalLM"],
        model_types: &["granitemoe_swa"],
        rule: granite_swa,
    },
    Family { architectures: &["DbrxForCausalLM"], model_types: &["dbrx"], rule: dbrx },
    Family {
        architectures: &["Ernie4_5_MoeForCausalLM"],
        model_types: &["ernie4_5_moe"],
        rule: ernie,
    },
    Family { architectures: &["Glm4MoeForCausalLM"], model_types: &["glm4_moe"], rule: glm4 },
    // The language model of GLM-4.5V.
    Family {
        architectures: &["Glm4vMoeTextModel"],
        model_types: &["glm4v_moe_text"],
        rule: glm4v_text,
    },
    Family { architectures: &["DeepseekForCausalLM"], model_types: &["deepseek"], rule: deepseek },
];

/// A window that holds for every layer, for model classes that do not look at `layer_types`.
pub(super) fn uniform(fields: &Fields<'_>, dims: &Dims) -> Result<Reach> {
    Ok(Windows::read(fields, dims.layers, None)?.uniform())
}

/// Heads of hidden size / query heads, whatever `head_dim` says.
fn even_heads(fields: &Fields<'_>, mut dims: Dims) -> Result<Dims> {
    dims.head_dim = head_dim(fields, dims.hidden, dims.heads)?;
    Ok(dims)
}

fn mixtral(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 8,
        head_dim: 0,
        inner: 14336,
        vocab: 32000,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let attention = Attn { reach: uniform(fields, &dims)?, ..Attn::of(&dims) };
    let count = experts(fields, "num_local_experts", 8)?;
    let moe = Moe::new("block_sparse_moe", count, dims.inner.into());
    Frame::read(fields)?.build(b, &dims, |_| Ok((attention.clone(), Mlp::Moe(moe.clone()))))
}

/// Biases in attention, norms and output matrix, whatever the config says.
fn phimoe(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let frame = Frame { norm_bias: true, head_bias: true, ..Frame::new(false) };
    // It chooses by a function of its own.
    let moe = Moe { fusible: false, ..Moe::new("block_sparse_moe", 0, 0) };
    phimoe_decoder(&config.text, b, &frame, true, moe)
}

/// Biases of attention and output matrix as the config says.
fn phimoe_hf(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let head_bias = fields.flag("lm_head_bias", false)?;
    let frame = Frame { norm_bias: true, head_bias, ..Frame::read(fields)? };
    let bias = fields.flag("attention_bias", false)?;
    // vLLM leaves the router to the model's code.
    let moe = Moe { router: "router", fusible: false, ..Moe::new("mlp", 0, 0) };
    phimoe_decoder(fields, b, &frame, bias, moe)
}

fn phimoe_decoder(
    fields: &Fields<'_>,
    b: &mut Builder,
    frame: &Frame,
    bias: bool,
    moe: Moe,
) -> Result<()> {
    let class = Class {
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 8,
        head_dim: 0,
        inner: 6400,
        vocab: 32064,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let reach = uniform(fields, &dims)?;
    let attention = Attn { qkv_bias: bias, out_bias: bias, reach, ..Attn::of(&dims) };
    let count = experts(fields, "num_local_experts", 16)?;
    let moe = Moe { experts: count, inner: dims.inner.into(), ..moe };
    frame.build(b, &dims, |_| Ok((attention.clone(), Mlp::Moe(moe.clone()))))
}

fn olmoe(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 16,
        hidden: 2048,
        heads: 16,
        kv_heads: 16,
        head_dim: 0,
        inner: 2048,
        vocab: 50304,
        tokens: 4096,
    };
    let dims = even_heads(fields, class.read(fields)?)?;
    let reach = uniform(fields, &dims)?;
    let attention = Attn { norms: QkNorm::Whole, reach, ..Attn::of(&dims) };
    let moe = Moe::new("mlp", experts(fields, "num_experts", 64)?, dims.inner.into());
    // The scores are never normalised.
    let moe = Moe { fusible: false, ..moe };
    // The output matrix is never that of the input.
    Frame::new(false).build(b, &dims, |_| Ok((attention.clone(), Mlp::Moe(moe.clone()))))
}

/// Which layers have experts: every `decoder_sparse_step`th, but for `mlp_only_layers`.
pub(super) struct Sparse {
    step: u32,
    /// A set, because a hostile list may be long.
    dense: BTreeSet<u32>,
    experts: u64,
}

impl Sparse {
    pub(super) fn read(fields: &Fields<'_>, experts: u64) -> Result<Self> {
        let step = size(fields, "decoder_sparse_step", 1, LAYERS_MAX)?;
        let dense = fields.counts("mlp_only_layers", LAYERS_MAX)?.unwrap_or_default();
        Ok(Self { step, dense: dense.into_iter().collect(), experts })
    }

    pub(super) fn has_experts(&self, layer: u32) -> bool {
        self.experts > 0 && !self.dense.contains(&layer) && (layer + 1).is_multiple_of(self.step)
    }
}

fn qwen2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 24,
        hidden: 2048,
        heads: 16,
        kv_heads: 16,
        head_dim: 0,
        inner: 5632,
        vocab: 151_936,
        tokens: 32768,
    };
    let dims = even_heads(fields, class.read(fields)?)?;
    let reach = Windows::switched(fields, dims.layers)?.uniform();
    let attention = Attn { qkv_bias: true, reach, ..Attn::of(&dims) };
    let sparse = Sparse::read(fields, count_experts(fields, &["num_experts"], 60)?)?;
    let inner = width(fields, "moe_intermediate_size", 1408)?;
    let shared = optional(fields, "shared_expert_intermediate_size", 5632, INNER_MAX)?;
    let moe = Moe {
        shared: (shared > 0).then(|| Dense::new("shared_expert", shared)),
        shared_gate: Some("shared_expert_gate"),
        bounds_ranks: true,
        ..Moe::new("mlp", sparse.experts, inner)
    };
    let moe = moe.routed(fields, false, ("norm_topk_prob", false))?;
    let dense = Dense::new("mlp", dims.inner);
    Frame::read(fields)?.build(b, &dims, |layer| {
        let mlp = if sparse.has_experts(layer) { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

/// A number of experts that may be 0, under the first of several names that is there.
fn count_experts(fields: &Fields<'_>, names: &[&str], default: u32) -> Result<u64> {
    let name = names.iter().find(|name| fields.is_present(name));
    name.map_or(Ok(default), |name| fields.count_or_zero(name, EXPERTS_MAX)).map(u64::from)
}

const QWEN3: Class = Class {
    layers: 24,
    hidden: 2048,
    heads: 32,
    kv_heads: 4,
    head_dim: 0,
    inner: 6144,
    vocab: 151_936,
    tokens: 32768,
};

fn qwen3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let tied = fields.flag("tie_word_embeddings", false)?;
    qwen3_decoder(fields, b, &QWEN3, [128, 768], tied)
}

/// The language model of Qwen3-VL-MoE, whose config class has other defaults.
fn qwen3_vl_text(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class { heads: 16, kv_heads: 16, inner: 5632, head_dim: 128, ..QWEN3 };
    let class = Class { tokens: 128_000, ..class };
    let tied = fields.flag("tie_word_embeddings", true)?;
    qwen3_decoder(fields, b, &class, [60, 1408], tied)
}

/// `defaults`: number and width of experts.
fn qwen3_decoder(
    fields: &Fields<'_>,
    b: &mut Builder,
    class: &Class,
    defaults: [u32; 2],
    tied: bool,
) -> Result<()> {
    let dims = class.read(fields)?;
    let windows =
        Windows { types: layer_types(fields, dims.layers)?, window: window(fields, Some(4096))? };
    let is_windowed = fields.flag("use_sliding_window", false)?;
    let reach = if is_windowed { windows.uniform() } else { Reach::Full };
    let qkv_bias = fields.flag("attention_bias", false)?;
    let attention = Attn { qkv_bias, norms: QkNorm::Head, reach, ..Attn::of(&dims) };
    let names = ["num_experts", "num_local_experts"];
    let sparse = Sparse::read(fields, count_experts(fields, &names, defaults[0])?)?;
    let inner = width(fields, "moe_intermediate_size", defaults[1])?;
    let shared = optional(fields, "shared_expert_intermediate_size", 0, INNER_MAX)?;
    let moe = Moe {
        router_quantizable: true,
        shared: (shared > 0).then(|| Dense::new("shared_expert", shared)),
        shared_gate: (shared > 0).then_some("shared_expert_gate"),
        bounds_ranks: true,
        ..Moe::new("mlp", sparse.experts, inner)
    };
    let moe = moe.routed(fields, false, ("norm_topk_prob", false))?;
    let dense = Dense::new("mlp", dims.inner);
    Frame::new(tied).build(b, &dims, |layer| {
        let mlp = if sparse.has_experts(layer) { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

/// Norms over all heads together, divided as the heads are; the router is in float32.
fn minimax_m2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 62,
        hidden: 3072,
        heads: 48,
        kv_heads: 8,
        head_dim: 128,
        inner: 1536,
        vocab: 200_064,
        tokens: 196_608,
    };
    let dims = class.read(fields)?;
    let reach = uniform(fields, &dims)?;
    let qkv_bias = fields.flag("attention_bias", false)?;
    let attention = Attn { qkv_bias, norms: QkNorm::Divided, reach, ..Attn::of(&dims) };
    let count = experts(fields, "num_local_experts", 256)?;
    let is_biased = fields.flag("use_routing_bias", false)?;
    let moe = Moe {
        router_dtype: Some(Dtype::Float32),
        scores: is_biased.then_some("e_score_correction_bias"),
        fusible: is_sigmoid(fields, "scoring_func", true)? || !is_biased,
        bounds_ranks: true,
        ..Moe::new("block_sparse_moe", count, dims.inner.into())
    };
    Frame::new(false).build(b, &dims, |_| Ok((attention.clone(), Mlp::Moe(moe.clone()))))
}

fn granite(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    granite_decoder(&config.text, b, false, false)
}

fn granite_shared(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    granite_decoder(&config.text, b, true, false)
}

fn granite_swa(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    granite_decoder(&config.text, b, true, true)
}

fn granite_decoder(
    fields: &Fields<'_>,
    b: &mut Builder,
    has_shared: bool,
    has_windows: bool,
) -> Result<()> {
    let class = Class {
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 32,
        head_dim: 0,
        inner: 11008,
        vocab: 32000,
        tokens: 2048,
    };
    let dims = even_heads(fields, class.read(fields)?)?;
    let mut windows = Windows::read(fields, dims.layers, has_windows.then_some(128))?;
    if has_windows {
        windows = windows.or_types(dims.layers, |layer| !layer.is_multiple_of(4));
    }
    // vLLM 0.32 `granite.py`: configs with `layer_types` have sinks unless they say otherwise.
    let has_sinks = fields.flag("attention_sinks", windows.types.is_some())?;
    let attention = Attn { sinks: has_sinks.then_some("sinks"), ..Attn::of(&dims) };
    let count = experts(fields, "num_local_experts", 8)?;
    let shared = match has_shared {
        true => fields.count_or_zero("shared_intermediate_size", INNER_MAX)?,
        false => 0,
    };
    let names = DenseNames::InOut;
    let moe = Moe {
        shared: (shared > 0).then(|| Dense { names, ..Dense::new("shared_mlp", shared) }),
        shared_beside: true,
        ..Moe::new("block_sparse_moe", count, dims.inner.into())
    };
    Frame::read(fields)?.build(b, &dims, |layer| {
        let attention = Attn { reach: windows.by_type(layer), ..attention.clone() };
        Ok((attention, Mlp::Moe(moe.clone())))
    })
}

/// Sizes lie in nested objects; norms have no bias.
fn dbrx(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    if fields.flag("tie_word_embeddings", false)? {
        let problem = "true, which the engine does not run for this architecture";
        return Err(wrong(fields.path("tie_word_embeddings"), problem));
    }
    let hidden = size(fields, "d_model", 2048, WIDTH_MAX)?;
    let heads = size(fields, "n_heads", 16, HEADS_MAX)?;
    let (attn, ffn) = (fields.object("attn_config")?, fields.object("ffn_config")?);
    let nested = |object: &Option<Fields<'_>>, name: &str, default: u32, max: u32| {
        object.as_ref().map_or(Ok(default), |object| size(object, name, default, max))
    };
    let kv_heads = nested(&attn, "kv_n_heads", 1, HEADS_MAX)?;
    shared_evenly(fields, "attn_config.kv_n_heads", kv_heads, heads)?;
    let inner = nested(&ffn, "ffn_hidden_size", 3584, INNER_MAX)?;
    let dims = Dims {
        layers: size(fields, "n_layers", 24, LAYERS_MAX)?,
        heads,
        kv_heads,
        head_dim: head_dim(fields, hidden, heads)?,
        hidden,
        inner,
        vocab: size(fields, "vocab_size", 32000, VOCAB_MAX)?,
        tokens_max: Some(size(fields, "max_seq_len", 2048, TOKENS_MAX)?),
    };
    let attention =
        Attn { scope: "norm_attn_norm.attn", qkv: "Wqkv", out: "out_proj", ..Attn::of(&dims) };
    let count = nested(&ffn, "moe_num_experts", 4, EXPERTS_MAX)?;
    let moe = Moe { router: "router.layer", ..Moe::new("ffn", count.into(), inner.into()) };
    let frame = Frame {
        root: "transformer",
        layers: "blocks",
        embedding: "wte",
        norm: "norm_f",
        layer_norms: &["norm_attn_norm.norm_1", "norm_attn_norm.norm_2"],
        ..Frame::new(false)
    };
    frame.build(b, &dims, |_| Ok((attention.clone(), Mlp::Moe(moe.clone()))))
}

fn ernie(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 28,
        hidden: 2560,
        heads: 20,
        kv_heads: 4,
        head_dim: 0,
        inner: 12288,
        vocab: 103_424,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let bias = fields.flag("use_bias", false)?;
    let reach = uniform(fields, &dims)?;
    let attention = Attn { qkv_bias: bias, reach, ..Attn::of(&dims) };
    let count = count_experts(fields, &["moe_num_experts", "num_experts"], 64)?;
    let inner = width(fields, "moe_intermediate_size", 1536)?;
    let shared = optional(fields, "moe_num_shared_experts", 2, EXPERTS_MAX)?;
    let moe = Moe {
        router_dtype: Some(Dtype::Float32),
        scores: Some("gate.e_score_correction_bias"),
        shared: (shared > 0).then(|| Dense::new("shared_experts", inner * u64::from(shared))),
        bounds_ranks: true,
        // A softmax with a bias.
        fusible: false,
        ..Moe::new("mlp", count, inner)
    };
    let interval = size(fields, "moe_layer_interval", 1, LAYERS_MAX)?;
    let first = fields.count_or("moe_layer_start_index", 1, LAYERS_MAX)?;
    // -1 is the last layer, as is an index beyond it.
    let last = match fields.number("moe_layer_end_index")? {
        Some(-1.0) => LAYERS_MAX,
        _ => fields.count_or("moe_layer_end_index", 27, LAYERS_MAX)?,
    };
    let has_moe = fields.flag("use_moe", count > 0)?;
    let dense = Dense { bias, ..Dense::new("mlp", dims.inner) };
    let tied = fields.flag("tie_word_embeddings", true)?;
    Frame::new(tied).build(b, &dims, |layer| {
        let is_moe =
            has_moe && (layer + 1).is_multiple_of(interval) && (first..=last).contains(&layer);
        let mlp = if is_moe { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

fn glm4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    glm4_decoder(&config.text, b, [151_552, 131_072], false)
}

/// The language model of GLM-4.5V.
fn glm4v_text(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    glm4_decoder(&config.text, b, [151_424, 65536], true)
}

/// `defaults`: vocabulary and longest sequence.
fn glm4_decoder(
    fields: &Fields<'_>,
    b: &mut Builder,
    defaults: [u32; 2],
    bias_default: bool,
) -> Result<()> {
    let class = Class {
        layers: 46,
        hidden: 4096,
        heads: 96,
        kv_heads: 8,
        head_dim: 0,
        inner: 10944,
        vocab: defaults[0],
        tokens: defaults[1],
    };
    if !fields.is_present("head_dim") {
        // The model class reads it and the config class has no default; null is hidden / heads.
        fields.required(&["head_dim"], HEAD_DIM_MAX)?;
    }
    let dims = class.read(fields)?;
    let has_norms = fields.flag("use_qk_norm", false)?;
    let attention = Attn {
        qkv_bias: fields.flag("attention_bias", bias_default)?,
        norms: if has_norms { QkNorm::Head } else { QkNorm::None },
        reach: uniform(fields, &dims)?,
        ..Attn::of(&dims)
    };
    let count = optional(fields, "n_routed_experts", 128, EXPERTS_MAX)?;
    let inner = width(fields, "moe_intermediate_size", 1408)?;
    let shared = optional(fields, "n_shared_experts", 1, EXPERTS_MAX)?;
    let moe = Moe {
        router_dtype: Some(Dtype::Float32),
        scores: Some("gate.e_score_correction_bias"),
        shared: (shared > 0).then(|| Dense::new("shared_experts", inner * u64::from(shared))),
        ..Moe::new("mlp", count.into(), inner)
    };
    let moe = moe.routed(fields, true, ("norm_topk_prob", true))?;
    let first = fields.count_or("first_k_dense_replace", 1, LAYERS_MAX)?;
    let dense = Dense::new("mlp", dims.inner);
    Frame::new(false).build(b, &dims, |layer| {
        let is_moe = count > 0 && layer >= first;
        let mlp = if is_moe { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

/// The first DeepSeek: plain attention. Its config class comes with the model, so sizes have no
/// defaults here.
pub(super) fn deepseek(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = even_heads(fields, Class::default().read(fields)?)?;
    let attention = Attn { reach: uniform(fields, &dims)?, ..Attn::of(&dims) };
    let count = fields.count_or_zero("n_routed_experts", EXPERTS_MAX)?;
    let inner = match count {
        0 => 0,
        _ => width(fields, "moe_intermediate_size", 0)?,
    };
    let shared = fields.count_or_zero("n_shared_experts", EXPERTS_MAX)?;
    let is_biased = fields.text("topk_method")? == Some("noaux_tc");
    let moe = Moe {
        scores: is_biased.then_some("gate.e_score_correction_bias"),
        shared: (shared > 0).then(|| Dense::new("shared_experts", inner * u64::from(shared))),
        ..Moe::new("mlp", count.into(), inner)
    };
    let is_sigmoid = is_sigmoid(fields, "scoring_func", false)?;
    let moe = moe.routed(fields, is_sigmoid, ("norm_topk_prob", false))?;
    let first = fields.count_or_zero("first_k_dense_replace", LAYERS_MAX)?;
    let every = size(fields, "moe_layer_freq", 1, LAYERS_MAX)?;
    let dense = Dense::new("mlp", dims.inner);
    Frame::read(fields)?.build(b, &dims, |layer| {
        let is_moe = count > 0 && layer >= first && layer.is_multiple_of(every);
        let mlp = if is_moe { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}
