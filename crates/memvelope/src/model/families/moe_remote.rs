//! Mixtures of experts whose config class comes with the model: sizes that the engine's model
//! class reads without a default must be in the config.
//!
//! Sources: vLLM 0.32 `bailing_moe.py`, `sarvam.py`, `param2moe.py`, `hy_v3.py`, `openpangu.py`,
//! `k2_horizon.py`.

use super::Family;
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX};
use super::moe::{Sparse, uniform};
use super::moe_parts::{
    Attn, Class, Dense, Frame, Mlp, Moe, QkNorm, ValueExperts, at, experts, is_sigmoid, optional,
    width,
};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::cache::Reach;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        architectures: &["BailingMoeForCausalLM", "BailingMoeV2ForCausalLM"],
        model_types: &["bailing_moe", "bailing_moe_v2"],
        rule: bailing,
    },
    Family {
        architectures: &["SarvamMoEForCausalLM"],
        model_types: &["sarvam_moe"],
        rule: bailing,
    },
    Family { architectures: &["Param2MoEForCausalLM"], model_types: &["param2moe"], rule: param2 },
    Family { architectures: &["HYV3ForCausalLM"], model_types: &["hy_v3"], rule: hy_v3 },
    Family {
        architectures: &["PanguProMoEV2ForCausalLM"],
        model_types: &["pangu_pro_moe_v2"],
        rule: pangu,
    },
    Family {
        architectures: &["K2HorizonForCausalLM"],
        model_types: &["k2_horizon"],
        rule: k2_horizon,
    },
];

/// A number the model class reads without a default; it may be 0.
fn declared(fields: &Fields<'_>, name: &str, max: u32) -> Result<u32> {
    match fields.value(name) {
        Some(_) => fields.count_or_zero(name, max),
        None => fields.required(&[name], max),
    }
}

/// As [`declared`], true or false.
fn declared_flag(fields: &Fields<'_>, name: &str) -> Result<bool> {
    if fields.value(name).is_none() {
        let problem = "missing, and its value is not the same for every model";
        return Err(wrong(fields.path(name), problem));
    }
    fields.flag(name, false)
}

fn bailing(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = Class::default().read(fields)?;
    let bias = declared_flag(fields, "use_bias")?;
    let norms = match (fields.flag("use_qk_norm", false)?, fields.flag("use_rmsnorm", false)?) {
        (false, _) => QkNorm::None,
        (true, true) => QkNorm::Head,
        (true, false) => QkNorm::HeadWithBias,
    };
    let attention = Attn {
        scope: "attention",
        qkv: "query_key_value",
        out: "dense",
        qkv_bias: bias || declared_flag(fields, "use_qkv_bias")?,
        out_bias: bias,
        norms,
        norm_names: ["query_layernorm", "key_layernorm"],
        reach: uniform(fields, &dims)?,
        ..Attn::of(&dims)
    };
    let inner = width(fields, "moe_intermediate_size", 0)?;
    let count = declared(fields, "num_shared_experts", EXPERTS_MAX)?;
    if bias && count > 0 {
        // `RowParallelLinear` refuses a bias where the sum over ranks is left to its caller.
        let problem = "true with shared experts, which the engine refuses to build";
        return Err(wrong(fields.path("use_bias"), problem));
    }
    let of_shared = fields.count("moe_shared_expert_intermediate_size", INNER_MAX)?;
    let shared = of_shared.map_or(inner, u64::from).saturating_mul(count.into());
    let is_biased = fields.flag("moe_router_enable_expert_bias", false)?;
    let moe = Moe {
        router_dtype: match fields.text("router_dtype")? {
            None => None,
            Some("fp32") => Some(Dtype::Float32),
            Some(_) => Some(Dtype::Bfloat16),
        },
        scores: is_biased.then_some("gate.expert_bias"),
        shared: (count > 0).then(|| Dense::new("shared_experts", shared)),
        bounds_ranks: true,
        ..Moe::new("mlp", experts(fields, "num_experts", 0)?, inner)
    };
    let is_sigmoid = is_sigmoid(fields, "score_function", false)?;
    let moe = moe.routed(fields, is_sigmoid, ("norm_topk_prob", true))?;
    let first = declared(fields, "first_k_dense_replace", LAYERS_MAX)?;
    let dense = Dense { bias, ..Dense::new("mlp", dims.inner) };
    let frame = Frame { embedding: "word_embeddings", ..Frame::read(fields)? };
    frame.build(b, &dims, |layer| {
        let mlp = if layer >= first { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

fn param2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = Class::default().read(fields)?;
    let has_norms = fields.flag("use_qk_norm", false)?;
    let attention = Attn {
        qkv_bias: fields.flag("use_qkv_bias", false)?,
        out_bias: fields.flag("use_bias", false)?,
        norms: if has_norms { QkNorm::Head } else { QkNorm::None },
        norm_names: ["q_layernorm", "k_layernorm"],
        reach: uniform(fields, &dims)?,
        ..Attn::of(&dims)
    };
    let inner = width(fields, "moe_intermediate_size", 0)?;
    let count = fields.count_or_zero("num_shared_experts", EXPERTS_MAX)?;
    let shared = match fields.count("moe_shared_expert_intermediate_size", INNER_MAX)? {
        Some(declared) => declared.into(),
        None => inner.saturating_mul(count.into()),
    };
    let is_biased = fields.flag("moe_router_enable_expert_bias", true)?;
    let moe = Moe {
        router_dtype: Some(Dtype::Float32),
        scores: is_biased.then_some("gate.e_score_correction_bias"),
        shared: (count > 0).then(|| Dense::new("shared_experts", shared)),
        ..Moe::new("mlp", experts(fields, "num_experts", 0)?, inner)
    };
    let is_sigmoid = is_sigmoid(fields, "score_function", true)?;
    let moe = moe.routed(fields, is_sigmoid, ("norm_topk_prob", true))?;
    let first = fields.count_or("first_k_dense_replace", 1, LAYERS_MAX)?;
    let dense = Dense::new("mlp", dims.inner);
    b.inventory.ranks_divide = Some(("KV heads", dims.kv_heads.into()));
    Frame::read(fields)?.build(b, &dims, |layer| {
        let mlp = if layer >= first { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

/// The sizes have defaults in the Hugging Face class; the widths of experts are read under names
/// that only the model's own config has.
fn hy_v3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 80,
        hidden: 4096,
        heads: 64,
        kv_heads: 8,
        head_dim: 128,
        inner: 13312,
        vocab: 120_832,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let has_norms = fields.flag("qk_norm", false)?;
    let attention = Attn {
        norms: if has_norms { QkNorm::Head } else { QkNorm::None },
        reach: uniform(fields, &dims)?,
        ..Attn::of(&dims)
    };
    let inner = width(fields, "expert_hidden_dim", 0)?;
    let shared = optional(fields, "num_shared_experts", 1, EXPERTS_MAX)?;
    let moe = Moe {
        router_dtype: Some(Dtype::Float32),
        scores: Some("expert_bias"),
        shared: (shared > 0).then(|| Dense::new("shared_mlp", inner * u64::from(shared))),
        bounds_ranks: true,
        ..Moe::new("mlp", experts(fields, "num_experts", 192)?, inner)
    };
    let moe = moe.routed(fields, true, ("route_norm", true))?;
    let first = declared(fields, "first_k_dense_replace", LAYERS_MAX)?;
    let dense = Dense::new("mlp", dims.inner);
    Frame::read(fields)?.build(b, &dims, |layer| {
        let mlp = if layer >= first { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

/// Keys and values of different width, and learned keys (and values) that every token sees.
fn pangu(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    if fields.value("kv_lora_rank").is_some() {
        let problem = "latent attention, which this architecture has under another name";
        return Err(wrong(fields.path("kv_lora_rank"), problem));
    }
    let mut dims = Class::default().read(fields)?;
    let is_biased = fields.flag("attention_bias", false)? || fields.flag("bias", false)?;
    let mut attention = Attn {
        qkv_bias: fields.flag("qkv_bias", is_biased)?,
        out_bias: is_biased,
        ..Attn::of(&dims)
    };
    let sinks = fields.count_or_zero("param_sink_number", TOKENS_MAX)?;
    if sinks > 0 {
        b.inventory.ranks_divide = Some(("KV heads", dims.kv_heads.into()));
        let rope = fields.required(&["qk_rope_dim"], HEAD_DIM_MAX)?;
        dims.head_dim = rope + fields.required(&["qk_nope_dim"], HEAD_DIM_MAX)?;
        attention.key_dim = dims.head_dim;
        attention.value_dim = fields.required(&["v_channels"], HEAD_DIM_MAX)?;
        attention.norms = QkNorm::KeyHead;
        attention.norm_names = ["k_layernorm", ""];
        let has_values = fields.flag("param_sink_with_value", false)?;
        attention.token_sinks = Some((sinks.into(), has_values));
    }
    let windows = pangu_windows(fields)?;
    let inner = width(fields, "moe_intermediate_size", 0)?;
    let shared = fields.count_or_zero("n_shared_experts", EXPERTS_MAX)?;
    let is_scored = fields.flag("router_enable_expert_bias", false)?;
    let moe = Moe {
        scores: is_scored.then_some("gate.e_score_correction_bias"),
        shared: (shared > 0).then(|| Dense::new("shared_experts", inner * u64::from(shared))),
        ..Moe::new("mlp", experts(fields, "n_routed_experts", 0)?, inner)
    };
    let moe = moe.routed(fields, true, ("norm_topk_prob", true))?;
    let first = declared(fields, "first_k_dense_replace", LAYERS_MAX)?;
    let bias = fields.flag("mlp_bias", false)?;
    let dense = Dense { bias, ..Dense::new("mlp", dims.inner) };
    let mut frame = Frame::read(fields)?;
    if fields.flag("sandwich_norm", false)? {
        frame.layer_norms = &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_mlp_layernorm",
            "post_mlp_layernorm",
        ];
    }
    let whole = uniform(fields, &dims)?;
    frame.build(b, &dims, |layer| {
        let own = match u32::try_from(windows.len()) {
            Ok(0) | Err(_) => 0,
            Ok(period) => at(&windows, layer % period),
        };
        let reach = if own > 0 { Reach::Window(own) } else { whole };
        let mlp = if layer >= first { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((Attn { reach, ..attention.clone() }, mlp))
    })
}

/// `interleaved_sliding_window`: one window, or several that the layers take in turn; 0 is none.
fn pangu_windows(fields: &Fields<'_>) -> Result<Vec<u32>> {
    const NAME: &str = "interleaved_sliding_window";
    match fields.value(NAME) {
        None => Ok(Vec::new()),
        Some(serde_json::Value::Number(_)) => Ok(vec![fields.count_or_zero(NAME, TOKENS_MAX)?]),
        Some(serde_json::Value::Array(items)) => {
            // null and -1 are no window.
            let window = |item: &serde_json::Value| match item.as_i64() {
                Some(window @ 1..) => u32::try_from(window).unwrap_or(TOKENS_MAX),
                _ => 0,
            };
            Ok(items.iter().map(window).collect())
        }
        Some(_) => Err(wrong(fields.path(NAME), "expected a number or an array")),
    }
}

/// In layers with experts, values may come from experts too.
fn k2_horizon(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = Class::default().read(fields)?;
    let bias = declared_flag(fields, "attention_bias")?;
    let has_norms = declared_flag(fields, "query_key_norm")?;
    let gate = u64::from(dims.heads) * u64::from(dims.head_dim);
    let attention = Attn {
        qkv_bias: bias,
        out_bias: bias,
        norms: if has_norms { QkNorm::Divided } else { QkNorm::None },
        gate: fields.value("attention_gate_func").map(|_| ("gate_proj", gate)),
        reach: uniform(fields, &dims)?,
        ..Attn::of(&dims)
    };
    let router_bias = declared_flag(fields, "moe_gate_bias")?;
    let values = match declared(fields, "mova_num_experts", EXPERTS_MAX)? {
        0 => None,
        count => Some(ValueExperts { count: count.into(), router_bias }),
    };
    let inner = width(fields, "moe_intermediate_size", 0)?;
    let shared = declared(fields, "num_shared_experts", EXPERTS_MAX)?;
    let count = declared(fields, "num_experts", EXPERTS_MAX)?;
    let sparse = Sparse::read(fields, count.into())?;
    let moe = Moe {
        router_quantizable: true,
        // The bias of the router, kept in float32.
        scores: router_bias.then_some("gate.bias"),
        shared: (shared > 0).then(|| Dense::new("shared_experts", inner * u64::from(shared))),
        bounds_ranks: true,
        ..Moe::new("mlp", count.into(), inner)
    };
    let is_sigmoid = is_sigmoid(fields, "router_score_func", false)?;
    let moe = moe.routed(fields, is_sigmoid, ("norm_topk_prob", true))?;
    let dense = Dense::new("mlp", dims.inner);
    Frame::read(fields)?.build(b, &dims, |layer| {
        let is_moe = sparse.has_experts(layer);
        let values = values.filter(|_| is_moe);
        let mlp = if is_moe { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((Attn { values, ..attention.clone() }, mlp))
    })
}
