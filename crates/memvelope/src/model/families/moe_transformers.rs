//! Mixtures of experts that vLLM 0.32 runs on the Transformers code of the model, with its own
//! parallel layers and experts in the places of the model's (`models/transformers/moe.py`).

use super::Family;
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, INNER_MAX, LAYERS_MAX};
use super::moe::uniform;
use super::moe_parts::{
    Attn, Class, Dense, Frame, Mlp, Moe, QkNorm, at, experts, optional, per_layer, size, width,
};
use super::parts::{Windows, attention_cache};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        architectures: &["HunYuanMoEV1ForCausalLM"],
        model_types: &["hunyuan_v1_moe"],
        rule: hunyuan,
    },
    Family {
        architectures: &["FlexOlmoForCausalLM"],
        model_types: &["flex_olmo"],
        rule: flex_olmo,
    },
    Family { architectures: &["Dots1ForCausalLM"], model_types: &["dots1"], rule: dots1 },
    Family {
        architectures: &["SolarOpenForCausalLM"],
        model_types: &["solar_open"],
        rule: solar_open,
    },
    // Also the language model of Aria, which vLLM builds by itself (`aria.py`) of the same sizes.
    Family {
        architectures: &["AriaTextForCausalLM"],
        model_types: &["aria_text"],
        rule: aria_text,
    },
    Family { architectures: &["JetMoeForCausalLM"], model_types: &["jetmoe"], rule: jetmoe },
    Family { architectures: &["MellumForCausalLM"], model_types: &["mellum"], rule: mellum },
];

/// A number for all layers, or a list of one for each: the entries.
fn each_layer(fields: &Fields<'_>, name: &str, layers: u32, max: u32) -> Result<Option<Vec<u32>>> {
    match fields.value(name) {
        Some(serde_json::Value::Array(_)) => {
            let list = fields.counts(name, max)?.unwrap_or_default();
            Ok(Some(per_layer(fields, name, &list, layers)?.to_vec()))
        }
        Some(_) => {
            let all = fields.required(&[name], max)?;
            Ok(Some((0..layers).map(|_| all).collect()))
        }
        None => Ok(None),
    }
}

fn hunyuan(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 0,
        head_dim: 0,
        inner: 11008,
        vocab: 290_943,
        tokens: 2048,
    };
    let dims = class.read(fields)?;
    let bias = fields.flag("attention_bias", false)?;
    let attention = Attn {
        qkv_bias: bias,
        out_bias: bias,
        norms: QkNorm::Head,
        norm_names: ["query_layernorm", "key_layernorm"],
        reach: uniform(fields, &dims)?,
        ..Attn::of(&dims)
    };
    let widths = each_layer(fields, "moe_intermediate_size", dims.layers, INNER_MAX)?;
    let counts = each_layer(fields, "num_experts", dims.layers, EXPERTS_MAX)?;
    // vLLM does not recognise the router and leaves it to the model's code.
    let shared = Some(Dense::new("shared_mlp", dims.inner));
    let moe = Moe { shared, fusible: false, ..Moe::new("mlp", 0, 0) };
    Frame::read(fields)?.build(b, &dims, |layer| {
        let moe = Moe {
            experts: counts.as_ref().map_or(1, |counts| at(counts, layer).into()),
            inner: widths.as_ref().map_or(dims.inner, |widths| at(widths, layer)).into(),
            ..moe.clone()
        };
        Ok((attention.clone(), Mlp::Moe(moe)))
    })
}

/// Norms over all heads, so attention is not divided but for its output.
fn flex_olmo(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 0,
        head_dim: 0,
        inner: 11008,
        vocab: 100_352,
        tokens: 4096,
    };
    let dims = class.read(fields)?;
    let bias = fields.flag("attention_bias", false)?;
    let reach = uniform(fields, &dims)?;
    let norms = QkNorm::Whole;
    let attention = Attn { qkv_bias: bias, out_bias: bias, norms, reach, ..Attn::of(&dims) };
    let moe = Moe::new("mlp", experts(fields, "num_experts", 7)?, dims.inner.into());
    let moe = moe.routed(fields, false, ("norm_topk_prob", false))?;
    let frame = Frame {
        layer_norms: &["post_attention_layernorm", "post_feedforward_layernorm"],
        ..Frame::read(fields)?
    };
    frame.build(b, &dims, |_| Ok((attention.clone(), Mlp::Moe(moe.clone()))))
}

fn dots1(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 62,
        hidden: 4608,
        heads: 32,
        kv_heads: 0,
        head_dim: 0,
        inner: 10944,
        vocab: 152_064,
        tokens: 2048,
    };
    let dims = class.read(fields)?;
    let first_windowed = fields.count_or("max_window_layers", 62, LAYERS_MAX)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?;
    let has_window = windows.window.is_some();
    let windows = windows.or_types(dims.layers, |layer| has_window && layer >= first_windowed);
    let bias = fields.flag("attention_bias", false)?;
    let attention = Attn { qkv_bias: bias, out_bias: bias, norms: QkNorm::Head, ..Attn::of(&dims) };
    let first = fields.count_or_zero("first_k_dense_replace", LAYERS_MAX)?;
    // Sigmoids, and a bias.
    let fusible = fields.flag("norm_topk_prob", false)?;
    let moe = Moe { fusible, ..routed(fields, [0, 1408, 0])? };
    let dense = Dense::new("mlp", dims.inner);
    Frame::read(fields)?.build(b, &dims, |layer| {
        let mlp = if layer >= first { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((Attn { reach: windows.by_type(layer), ..attention.clone() }, mlp))
    })
}

/// DeepSeek's router and shared experts. `defaults`: experts, their width, shared ones.
fn routed(fields: &Fields<'_>, defaults: [u32; 3]) -> Result<Moe> {
    let inner = width(fields, "moe_intermediate_size", defaults[1])?;
    let shared = optional(fields, "n_shared_experts", defaults[2], EXPERTS_MAX)?;
    let shared = inner.saturating_mul(shared.into());
    Ok(Moe {
        shared: Some(Dense::new("shared_experts", shared)),
        ..Moe::new("mlp", experts(fields, "n_routed_experts", defaults[0])?, inner)
    })
}

fn solar_open(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    // The class has no dense MLP and no such width.
    let class = Class {
        layers: 48,
        hidden: 4096,
        heads: 64,
        kv_heads: 8,
        head_dim: 128,
        inner: 1,
        vocab: 196_608,
        tokens: 131_072,
    };
    let mut dims = class.read(fields)?;
    let fusible = fields.flag("norm_topk_prob", true)?;
    let moe = Moe { fusible, ..routed(fields, [128, 1280, 1])? };
    dims.inner = u32::try_from(moe.inner).unwrap_or(INNER_MAX);
    let qkv_bias = fields.flag("attention_bias", false)?;
    let attention = Attn { qkv_bias, reach: uniform(fields, &dims)?, ..Attn::of(&dims) };
    Frame::read(fields)?.build(b, &dims, |_| Ok((attention.clone(), Mlp::Moe(moe.clone()))))
}

fn mellum(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 28,
        hidden: 2304,
        heads: 32,
        kv_heads: 4,
        head_dim: 128,
        inner: 7168,
        vocab: 98304,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(1024))?.or_types(dims.layers, |_| false);
    let bias = fields.flag("attention_bias", false)?;
    let attention = Attn { qkv_bias: bias, out_bias: bias, norms: QkNorm::Head, ..Attn::of(&dims) };
    let name = match fields.is_present("num_experts") {
        true => "num_experts",
        false => "num_local_experts",
    };
    let inner = width(fields, "moe_intermediate_size", 896)?;
    let moe = Moe::new("mlp", experts(fields, name, 64)?, inner);
    let moe = moe.routed(fields, false, ("norm_topk_prob", true))?;
    let dense = Dense::new("mlp", dims.inner);
    let sparse = super::moe_windowed::sparse_layers(fields, dims.layers, 0)?;
    Frame::read(fields)?.build(b, &dims, |layer| {
        let mlp = if at(&sparse, layer) { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((Attn { reach: windows.by_type(layer), ..attention.clone() }, mlp))
    })
}

fn aria_text(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 0,
        head_dim: 0,
        inner: 4096,
        vocab: 32000,
        tokens: 2048,
    };
    let dims = class.read(fields)?;
    let bias = fields.flag("attention_bias", false)?;
    let reach = uniform(fields, &dims)?;
    let attention = Attn { qkv_bias: bias, out_bias: bias, reach, ..Attn::of(&dims) };
    let inner = u64::from(dims.inner);
    let shared = optional(fields, "moe_num_shared_experts", 2, EXPERTS_MAX)?;
    let shared = Dense::new("shared_experts", inner * u64::from(shared));
    let bias = fields.flag("mlp_bias", false)?;
    let moe = Moe {
        router: "router",
        shared: Some(Dense { bias, ..shared }),
        ..Moe::new("mlp", experts(fields, "moe_num_experts", 8)?, inner)
    };
    Frame::read(fields)?.build(b, &dims, |_| Ok((attention.clone(), Mlp::Moe(moe.clone()))))
}

/// Experts of queries and outputs too. The Transformers code has no plan for tensor parallelism,
/// and its experts are not of the shape vLLM replaces: all but the vocabulary is whole on every
/// rank.
fn jetmoe(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 12,
        hidden: 2048,
        heads: 32,
        kv_heads: 16,
        head_dim: 128,
        inner: 5632,
        vocab: 32000,
        tokens: 4096,
    };
    let mut dims = class.read(fields)?;
    dims.head_dim = size(fields, "kv_channels", dims.head_dim, HEAD_DIM_MAX)?;
    let count = experts(fields, "num_local_experts", 8)?;
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    let keys = u64::from(dims.kv_heads) * u64::from(dims.head_dim);
    let routed = |b: &mut Builder, matrices: [u64; 2]| {
        for (name, width) in ["input_linear.weight", "output_linear.weight"].iter().zip(matrices) {
            b.param(name, Param::whole(count.saturating_mul(width).saturating_mul(hidden)));
        }
        b.param("bias", Param::whole(hidden));
        b.linear("router.layer", Linear::replicated(hidden, count).plain());
    };
    b.dims = dims.clone();
    b.vocabulary("model.embed_tokens", dims.vocab, hidden);
    for layer in 0..dims.layers {
        b.scope(&format!("model.layers.{layer}"), |b| {
            b.scope("mlp", |b| routed(b, [2 * inner, inner]));
            b.scope("self_attention", |b| {
                b.scope("experts", |b| routed(b, [keys, keys]));
                b.linear("kv_proj", Linear::replicated(hidden, 2 * keys));
            });
            b.rms_norm("input_layernorm", hidden);
            b.rms_norm("post_attention_layernorm", hidden);
        });
        b.cache(layer, attention_cache(&dims, uniform(fields, &dims)?));
    }
    b.rms_norm("model.norm", hidden);
    if !fields.flag("tie_word_embeddings", true)? {
        b.head("lm_head", dims.vocab, hidden, false);
    }
    Ok(())
}
