//! Hybrids of attention and gated delta networks: Qwen3-Next, Qwen3.5, Olmo Hybrid.

use super::Family;
use super::hybrid_parts::{Defaults, Mixing, every, pattern, size_or, sizes, state_dtype};
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX};
use super::mamba::CONV_MAX;
use super::parts::{AttentionParts, attention_cache, gated_mlp};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{CacheKind, Reach, State, StateDtype, StateShape};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        architectures: &["Qwen3NextForCausalLM"],
        model_types: &["qwen3_next"],
        rule: qwen3_next,
    },
    Family {
        architectures: &["Qwen3_5ForCausalLM"],
        model_types: &["qwen3_5_text", "qwen3_5"],
        rule: qwen3_5,
    },
    Family {
        architectures: &["Qwen3_5MoeForCausalLM"],
        model_types: &["qwen3_5_moe_text", "qwen3_5_moe"],
        rule: qwen3_5_moe,
    },
    Family {
        architectures: &["OlmoHybridForCausalLM"],
        model_types: &["olmo_hybrid"],
        rule: olmo_hybrid,
    },
];

/// A gated delta network.
pub(super) struct Gdn {
    pub(super) hidden: u32,
    pub(super) key_heads: u32,
    pub(super) value_heads: u32,
    pub(super) key_dim: u32,
    pub(super) value_dim: u32,
    pub(super) conv: u32,
    pub(super) state_dtype: StateDtype,
}

/// How the projections of a gated delta network lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Projections {
    /// Interleaved by key head, so one output (Qwen3-Next).
    Interleaved,
    /// One output each (Qwen3.5).
    Flat,
    /// As flat, with the two small ones apart (Olmo).
    Apart,
}

impl Gdn {
    /// Qwen's fields and defaults.
    fn qwen(fields: &Fields<'_>, hidden: u32, state_dtype: StateDtype) -> Result<Self> {
        Ok(Self {
            hidden,
            key_heads: size_or(fields, "linear_num_key_heads", 16, HEADS_MAX)?,
            value_heads: size_or(fields, "linear_num_value_heads", 32, HEADS_MAX)?,
            key_dim: size_or(fields, "linear_key_head_dim", 128, HEAD_DIM_MAX)?,
            value_dim: size_or(fields, "linear_value_head_dim", 128, HEAD_DIM_MAX)?,
            conv: size_or(fields, "linear_conv_kernel_dim", 4, CONV_MAX)?,
            state_dtype,
        })
    }

    /// Refuses key heads that do not divide the value heads.
    fn checked(self, fields: &Fields<'_>) -> Result<Self> {
        if self.value_heads.is_multiple_of(self.key_heads) {
            return Ok(self);
        }
        let problem =
            format!("{} does not divide the {} value heads", self.key_heads, self.value_heads);
        Err(wrong(fields.path("linear_num_key_heads"), problem))
    }

    /// Its modules, under the current scope (vLLM 0.32 `qwen_gdn_linear_attn.py`,
    /// `olmo_gdn_linear_attn.py`).
    fn build(&self, b: &mut Builder, projections: Projections) {
        let (hidden, heads) = (u64::from(self.hidden), u64::from(self.value_heads));
        let keys = u64::from(self.key_heads).saturating_mul(self.key_dim.into());
        let values = heads.saturating_mul(self.value_dim.into());
        let outs = [keys, keys, values, values];
        let conv = keys.saturating_mul(2).saturating_add(values);
        b.linear("conv1d", Linear::column(self.conv.into(), conv).plain());
        let (names, head_dtype) = match projections {
            Projections::Interleaved => {
                let sum = outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out));
                b.linear("in_proj_qkvz", Linear::merged(hidden, [sum]));
                b.linear("in_proj_ba", Linear::merged(hidden, [2 * heads]));
                (["norm", "out_proj"], Some(Dtype::Float32))
            }
            Projections::Flat => {
                b.linear("in_proj_qkvz", Linear::merged(hidden, outs));
                b.linear("in_proj_ba", Linear::merged(hidden, [heads, heads]).whole_for_marlin());
                (["norm", "out_proj"], Some(Dtype::Float32))
            }
            Projections::Apart => {
                b.linear("in_proj_qkvg", Linear::merged(hidden, outs));
                b.linear("b_proj", Linear::column(hidden, heads));
                b.linear("a_proj", Linear::column(hidden, heads));
                (["o_norm", "o_proj"], None)
            }
        };
        b.param("dt_bias", Param::divided(heads));
        b.param("A_log", Param { dtype: head_dtype, ..Param::divided(heads) });
        b.rms_norm(names[0], self.value_dim);
        b.linear(names[1], Linear::row(values, hidden));
    }

    fn cache(&self) -> CacheKind {
        let Self { key_heads, value_heads, key_dim, value_dim, conv, state_dtype, .. } = *self;
        let shape = StateShape::Gdn { key_heads, value_heads, key_dim, value_dim, conv };
        CacheKind::State(State { shape, conv_dtype: StateDtype::Model, state_dtype })
    }
}

/// Qwen's attention: with a gate on its output, the query projection is twice as wide.
fn gated_attention(b: &mut Builder, dims: &Dims, gate: bool, bias: bool) {
    let parts = AttentionParts::of(dims);
    let width = parts.heads.saturating_mul(parts.value_dim);
    let heads = parts.heads * if gate { 2 } else { 1 };
    let qkv = Linear::qkv(parts.hidden, heads, parts.kv_heads, parts.key_dim, parts.value_dim);
    b.linear("qkv_proj", qkv.bias(bias));
    b.linear("o_proj", Linear::row(width, parts.hidden));
    b.rms_norm("q_norm", dims.head_dim);
    b.rms_norm("k_norm", dims.head_dim);
}

/// Qwen's experts, with a shared one behind a gate of its own.
struct Moe {
    hidden: u64,
    experts: u64,
    inner: u64,
    shared: u64,
    /// The scores of the chosen experts are normalised.
    fusible: bool,
}

impl Moe {
    fn read(fields: &Fields<'_>, hidden: u32, experts: u32) -> Result<Self> {
        Ok(Self {
            hidden: hidden.into(),
            experts: fields.count_or("num_experts", experts, EXPERTS_MAX)?.into(),
            inner: size_or(fields, "moe_intermediate_size", 512, INNER_MAX)?.into(),
            shared: fields.count_or("shared_expert_intermediate_size", 512, INNER_MAX)?.into(),
            fusible: fields.flag("norm_topk_prob", true)?,
        })
    }

    fn build(&self, b: &mut Builder) {
        let Self { hidden, experts, inner, shared, fusible } = *self;
        b.linear("gate", Linear::replicated(hidden, experts).plain());
        b.linear("shared_expert_gate", Linear::replicated(hidden, 1).plain());
        if shared > 0 {
            b.scope("shared_expert", |b| gated_mlp(b, hidden, shared, false));
        }
        b.experts("experts", Experts::gated(experts, hidden, inner).fusible(fusible));
    }
}

/// What the layers of a Qwen hybrid are built from.
struct Qwen {
    dims: Dims,
    kinds: Vec<Mixing>,
    gdn: Gdn,
    projections: Projections,
    /// Experts, and which layers have them.
    moe: Option<(Moe, Vec<bool>)>,
    gate: bool,
    qkv_bias: bool,
    layer_scale: bool,
}

impl Qwen {
    fn read(
        fields: &Fields<'_>,
        defaults: &Defaults,
        projections: Projections,
        state_dtype: StateDtype,
    ) -> Result<Self> {
        let mut dims = sizes(fields, defaults)?;
        let default = if fields.is_present("head_dim") { dims.head_dim } else { 256 };
        dims.head_dim = size_or(fields, "head_dim", default, HEAD_DIM_MAX)?;
        let interval = size_or(fields, "full_attention_interval", 4, LAYERS_MAX)?;
        let kinds = pattern(fields, &["layer_types"], dims.layers, every(interval))?;
        let gdn = Gdn::qwen(fields, dims.hidden, state_dtype)?.checked(fields)?;
        Ok(Self {
            dims,
            kinds,
            gdn,
            projections,
            moe: None,
            gate: fields.flag("attn_output_gate", true)?,
            qkv_bias: fields.flag("qkv_bias", false)?,
            layer_scale: fields.flag("layer_scale", false)?,
        })
    }

    /// Embedding, layers and the final norm.
    fn build(&self, builder: &mut Builder) {
        let dims = &self.dims;
        builder.dims = dims.clone();
        builder.vocabulary("model.embed_tokens", dims.vocab, dims.hidden);
        for (layer, &kind) in (0..dims.layers).zip(&self.kinds) {
            builder.scope(&format!("model.layers.{layer}"), |b| self.layer(b, layer, kind));
            let attention = attention_cache(dims, Reach::Full);
            let state = self.gdn.cache();
            builder.cache(layer, if kind == Mixing::State { state } else { attention });
        }
        builder.rms_norm("model.norm", dims.hidden);
    }

    fn layer(&self, b: &mut Builder, layer: u32, kind: Mixing) {
        let (hidden, inner) = (u64::from(self.dims.hidden), u64::from(self.dims.inner));
        match kind {
            Mixing::State => b.scope("linear_attn", |b| self.gdn.build(b, self.projections)),
            Mixing::Attention => b.scope("self_attn", |b| {
                gated_attention(b, &self.dims, self.gate, self.qkv_bias);
            }),
        }
        let is_sparse = |sparse: &[bool]| {
            usize::try_from(layer).is_ok_and(|layer| sparse.get(layer) == Some(&true))
        };
        b.scope("mlp", |b| match &self.moe {
            Some((moe, sparse)) if is_sparse(sparse) => moe.build(b),
            _ => gated_mlp(b, hidden, inner, false),
        });
        b.rms_norm("input_layernorm", hidden);
        b.rms_norm("post_attention_layernorm", hidden);
        if self.layer_scale {
            b.param("attn_layer_scale", Param::whole(hidden));
            b.param("ffn_layer_scale", Param::whole(hidden));
        }
    }
}

/// vLLM 0.32 `qwen3_next.py`; the output matrix is never tied, and built without the model's
/// quantisation.
fn qwen3_next(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 151_936,
        hidden: 2048,
        layers: 48,
        heads: 16,
        kv_heads: Some(2),
        inner: 5632,
        tokens: Some(32768),
    };
    let mut qwen = Qwen::read(fields, &defaults, Projections::Interleaved, StateDtype::Model)?;
    let moe = Moe::read(fields, qwen.dims.hidden, 512)?;
    let step = size_or(fields, "decoder_sparse_step", 1, LAYERS_MAX)?;
    let dense = fields.counts("mlp_only_layers", LAYERS_MAX)?.unwrap_or_default();
    let is_sparse =
        |layer: u32| moe.experts > 0 && (layer + 1).is_multiple_of(step) && !dense.contains(&layer);
    let sparse = (0..qwen.dims.layers).map(is_sparse).collect();
    qwen.moe = Some((moe, sparse));
    qwen.build(builder);
    builder.vocabulary("lm_head", qwen.dims.vocab, qwen.dims.hidden);
    Ok(())
}

fn qwen3_5(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let defaults = Defaults {
        vocab: 248_320,
        hidden: 4096,
        layers: 32,
        heads: 16,
        kv_heads: Some(4),
        inner: 12288,
        tokens: Some(32768),
    };
    qwen3_5_of(config, builder, &defaults, None)
}

fn qwen3_5_moe(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let defaults = Defaults {
        vocab: 248_320,
        hidden: 2048,
        layers: 40,
        heads: 16,
        kv_heads: Some(2),
        // The class has no such field, and no layer such an MLP.
        inner: 512,
        tokens: Some(32768),
    };
    qwen3_5_of(config, builder, &defaults, Some(256))
}

/// vLLM 0.32 `qwen3_5.py`, the language model; `experts` is the class's default.
fn qwen3_5_of(
    config: &Config<'_>,
    builder: &mut Builder,
    defaults: &Defaults,
    experts: Option<u32>,
) -> Result<()> {
    let fields = &qwen3_5_text(config)?;
    let ssm = state_dtype(fields, "mamba_ssm_dtype", StateDtype::Model)?;
    let mut qwen = Qwen::read(fields, defaults, Projections::Flat, ssm)?;
    if let Some(experts) = experts {
        let moe = Moe::read(fields, qwen.dims.hidden, experts)?;
        let sparse = (0..qwen.dims.layers).map(|_| true).collect();
        qwen.moe = Some((moe, sparse));
    }
    let tied = fields.flag("tie_word_embeddings", false)?;
    qwen.build(builder);
    if !tied {
        builder.head("lm_head", qwen.dims.vocab, qwen.dims.hidden, false);
    }
    Ok(())
}

/// Where the language model is described. A file that claims to be of the composite type but
/// nests no `text_config` describes none: the config class then ignores the fields outside it.
fn qwen3_5_text<'a>(config: &Config<'a>) -> Result<Fields<'a>> {
    const COMPOSITE: [&str; 2] = ["qwen3_5", "qwen3_5_moe"];
    let is_composite = config.root.text("model_type")?.is_some_and(|t| COMPOSITE.contains(&t));
    if is_composite && config.text_name.is_empty() {
        return Ok(Fields::nothing("text_config."));
    }
    Ok(config.text.clone())
}

/// vLLM 0.32 `olmo_hybrid.py`.
fn olmo_hybrid(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 100_352,
        hidden: 3840,
        layers: 32,
        heads: 30,
        kv_heads: None,
        inner: 11008,
        tokens: Some(65536),
    };
    let dims = sizes(fields, &defaults)?;
    // The last layer has attention where no other would.
    let interval = dims.layers.min(4);
    let kinds = pattern(fields, &["layer_types"], dims.layers, every(interval))?;
    let gdn = olmo_gdn(fields, &dims)?;
    let tied = fields.flag("tie_word_embeddings", false)?;
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, hidden);
    for (layer, kind) in (0..dims.layers).zip(kinds) {
        builder.scope(&format!("model.layers.{layer}"), |b| {
            match kind {
                Mixing::State => b.scope("linear_attn", |b| gdn.build(b, Projections::Apart)),
                Mixing::Attention => b.scope("self_attn", |b| {
                    let parts = AttentionParts::of(&dims);
                    parts.build(b, "o_proj");
                    b.rms_norm("k_norm", parts.kv_heads.saturating_mul(parts.key_dim));
                    b.rms_norm("q_norm", hidden);
                }),
            }
            b.scope("mlp", |b| gated_mlp(b, hidden, inner, false));
            b.rms_norm("input_layernorm", hidden);
            b.rms_norm("post_attention_layernorm", hidden);
        });
        let attention = attention_cache(&dims, Reach::Full);
        builder.cache(layer, if kind == Mixing::State { gdn.cache() } else { attention });
    }
    builder.rms_norm("model.norm", hidden);
    if !tied {
        builder.head("lm_head", dims.vocab, hidden, false);
    }
    Ok(())
}

fn olmo_gdn(fields: &Fields<'_>, dims: &Dims) -> Result<Gdn> {
    let key_heads = size_or(fields, "linear_num_key_heads", dims.heads, HEADS_MAX)?;
    // Three quarters of an even share.
    let key_dim = dims.hidden.saturating_mul(3) / 4 / key_heads;
    let key_dim = size_or(fields, "linear_key_head_dim", key_dim, HEAD_DIM_MAX)?;
    let value_dim = key_dim.saturating_mul(2);
    let gdn = Gdn {
        hidden: dims.hidden,
        key_heads,
        value_heads: size_or(fields, "linear_num_value_heads", dims.heads, HEADS_MAX)?,
        key_dim,
        value_dim: size_or(fields, "linear_value_head_dim", value_dim, HEAD_DIM_MAX)?,
        conv: size_or(fields, "linear_conv_kernel_dim", 4, CONV_MAX)?,
        state_dtype: StateDtype::Model,
    };
    gdn.checked(fields)
}
