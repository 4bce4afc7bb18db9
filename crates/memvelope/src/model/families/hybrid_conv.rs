//! LFM2: attention, and short convolutions behind gates.

use super::Family;
use super::hybrid_parts::{Defaults, FULL, listed, size_or, sizes};
use super::limits::{EXPERTS_MAX, INNER_MAX, LAYERS_MAX, WIDTH_MAX};
use super::mamba::CONV_MAX;
use super::parts::{AttentionParts, attention_cache};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{CacheKind, Reach, State, StateDtype, StateShape};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param, Routing};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["Lfm2ForCausalLM"], model_types: &["lfm2"], rule: lfm2 },
    Family { architectures: &["Lfm2MoeForCausalLM"], model_types: &["lfm2_moe"], rule: lfm2_moe },
];

/// A gated short convolution (vLLM 0.32 `short_conv.py`).
struct ShortConv {
    width: u32,
    conv: u32,
    bias: bool,
}

impl ShortConv {
    fn read(fields: &Fields<'_>, width: u32) -> Result<Self> {
        let conv = size_or(fields, "conv_L_cache", 3, CONV_MAX)?;
        Ok(Self { width, conv, bias: fields.flag("conv_bias", false)? })
    }

    fn build(&self, b: &mut Builder) {
        let width = u64::from(self.width);
        b.linear("conv", Linear::column(self.conv.into(), width).bias(self.bias).plain());
        b.linear("in_proj", Linear::merged(width, [width, width, width]).bias(self.bias));
        b.linear("out_proj", Linear::row(width, width).bias(self.bias));
    }

    fn cache(&self) -> CacheKind {
        let shape = StateShape::ShortConv { width: self.width, conv: self.conv };
        let (conv_dtype, state_dtype) = (StateDtype::Model, StateDtype::Model);
        CacheKind::State(State { shape, conv_dtype, state_dtype })
    }
}

/// Which layers have attention: every kind but `full_attention` is a convolution.
fn kinds(fields: &Fields<'_>, layers: u32) -> Result<Option<Vec<bool>>> {
    let kinds = listed(fields, &["layer_types"], Some(layers))?;
    Ok(kinds.map(|kinds| kinds.iter().map(|kind| FULL.contains(kind)).collect()))
}

fn mlp(b: &mut Builder, width: u64, inner: u64) {
    b.linear("w13", Linear::merged(width, [inner, inner]));
    b.linear("w2", Linear::row(inner, width));
}

/// Layers, with the feed-forward part of each as `feed_forward` builds it; the output matrix is
/// always tied.
fn decoder(
    builder: &mut Builder,
    dims: &Dims,
    kinds: &[bool],
    conv: &ShortConv,
    feed_forward: impl Fn(&mut Builder, u32),
) {
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, dims.hidden);
    for (layer, &has_attention) in (0..dims.layers).zip(kinds) {
        builder.scope(&format!("model.layers.{layer}"), |b| {
            match has_attention {
                true => b.scope("self_attn", |b| {
                    AttentionParts::of(dims).build(b, "out_proj");
                    b.rms_norm("q_layernorm", dims.head_dim);
                    b.rms_norm("k_layernorm", dims.head_dim);
                }),
                false => b.scope("short_conv", |b| conv.build(b)),
            }
            b.scope("feed_forward", |b| feed_forward(b, layer));
            b.rms_norm("operator_norm", dims.hidden);
            b.rms_norm("ffn_norm", dims.hidden);
        });
        let attention = attention_cache(dims, Reach::Full);
        builder.cache(layer, if has_attention { attention } else { conv.cache() });
    }
    builder.rms_norm("model.embedding_norm", dims.hidden);
}

/// vLLM 0.32 `lfm2.py`, which needs `block_dim` and `conv_dim` though the config class has neither.
fn lfm2(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 65536,
        hidden: 2560,
        layers: 32,
        heads: 32,
        kv_heads: Some(8),
        inner: 12288,
        tokens: Some(128_000),
    };
    let mut dims = sizes(fields, &defaults)?;
    dims.inner = lfm2_inner(fields, size_or(fields, "block_ff_dim", dims.inner, INNER_MAX)?)?;
    let kinds = match kinds(fields, dims.layers)? {
        Some(kinds) => kinds,
        None => match fields.counts("full_attn_idxs", LAYERS_MAX)? {
            Some(full) => (0..dims.layers).map(|layer| full.contains(&layer)).collect(),
            None => (0..dims.layers).map(|_| true).collect(),
        },
    };
    let width = u64::from(fields.required(&["block_dim"], WIDTH_MAX)?);
    let conv_width = match kinds.contains(&false) {
        true => fields.required(&["conv_dim"], WIDTH_MAX)?,
        false => dims.hidden,
    };
    let conv = ShortConv::read(fields, conv_width)?;
    let inner = u64::from(dims.inner);
    decoder(builder, &dims, &kinds, &conv, |b, _| mlp(b, width, inner));
    Ok(())
}

/// The width between the matrices of an MLP, which the engine derives from the declared one.
fn lfm2_inner(fields: &Fields<'_>, declared: u32) -> Result<u32> {
    const FACTOR: &str = "block_ffn_dim_multiplier";
    let multiple = size_or(fields, "block_multiple_of", 256, INNER_MAX)?;
    if !fields.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(declared);
    }
    let inner = f64::from(declared.saturating_mul(2) / 3);
    let factor = fields.number(FACTOR)?.unwrap_or(1.0);
    let inner = (factor * inner).floor();
    if !(1.0..=f64::from(INNER_MAX)).contains(&inner) {
        let problem = format!("{factor}, which makes the MLP {inner} wide");
        return Err(wrong(fields.path(FACTOR), problem));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, and in range as just checked"
    )]
    let inner = inner as u32;
    Ok(inner.div_ceil(multiple).saturating_mul(multiple))
}

/// vLLM 0.32 `lfm2_moe.py`.
fn lfm2_moe(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 65536,
        hidden: 2048,
        layers: 32,
        heads: 32,
        kv_heads: Some(8),
        inner: 7168,
        tokens: Some(128_000),
    };
    let dims = sizes(fields, &defaults)?;
    let Some(kinds) = kinds(fields, dims.layers)? else {
        let problem = "missing, and its value is not the same for every model";
        return Err(wrong(fields.path("layer_types"), problem));
    };
    let conv = ShortConv::read(fields, dims.hidden)?;
    let dense = fields.count_or("num_dense_layers", 2, LAYERS_MAX)?;
    let experts = u64::from(size_or(fields, "num_experts", 32, EXPERTS_MAX)?);
    let expert_inner = u64::from(size_or(fields, "moe_intermediate_size", 1792, INNER_MAX)?);
    let bias = fields.flag("use_expert_bias", true)?;
    let renormalizes = fields.flag("norm_topk_prob", true)?;
    let fusible = Routing { is_sigmoid: true, renormalizes, has_bias: bias }.is_fusible();
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    decoder(builder, &dims, &kinds, &conv, |b, layer| {
        if layer < dense {
            return mlp(b, hidden, inner);
        }
        b.linear("gate", Linear::replicated(hidden, experts));
        if bias {
            let bias = Param::whole(experts).dtype(Dtype::Float32);
            b.param("gate.e_score_correction_bias", bias);
        }
        let inner = expert_inner;
        b.experts("experts", Experts::gated(experts, hidden, inner).fusible(fusible));
    });
    Ok(())
}
