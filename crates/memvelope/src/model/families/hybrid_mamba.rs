//! Hybrids of attention and Mamba: Jamba, Falcon H1, Granite 4, Zamba2.

use super::Family;
use super::hybrid_parts::{Defaults, Mixing, listed, pattern, size_or, sizes, unknown_kind};
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, WIDTH_MAX};
use super::mamba::{CONV_MAX, Mixer1, Mixer2, STATE_MAX, size_or_auto, time_step_rank};
use super::parts::{AttentionParts, attention_cache, gated_mlp};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{Reach, StateDtype};
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["JambaForCausalLM"], model_types: &["jamba"], rule: jamba },
    Family {
        architectures: &["FalconH1ForCausalLM"],
        model_types: &["falcon_h1"],
        rule: falcon_h1,
    },
    Family {
        architectures: &["GraniteMoeHybridForCausalLM"],
        model_types: &["granitemoehybrid"],
        rule: granite,
    },
    Family { architectures: &["Zamba2ForCausalLM"], model_types: &["zamba2"], rule: zamba2 },
];

/// Routed experts with a plain router of the given name beside them.
fn experts(b: &mut Builder, router: &str, dims: &Dims, count: u32, fusible: bool) {
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    b.linear(router, Linear::replicated(hidden, count.into()).plain());
    let experts = count.into();
    b.experts("experts", Experts::gated(experts, hidden, inner).fusible(fusible));
}

/// A layer `period` and the `offset` in it of layers that are different.
fn periodic(fields: &Fields<'_>, what: &str, defaults: [u32; 2]) -> Result<impl Fn(u32) -> bool> {
    let (period_name, offset_name) = (format!("{what}_period"), format!("{what}_offset"));
    let period = size_or(fields, &period_name, defaults[0], LAYERS_MAX)?;
    let offset = fields.count_or(&offset_name, defaults[1], LAYERS_MAX)?;
    if offset >= period {
        let problem = format!("{offset}, which is not below {period_name} ({period})");
        return Err(wrong(fields.path(&offset_name), problem));
    }
    Ok(move |layer: u32| layer % period == offset)
}

/// vLLM 0.32 `jamba.py`; the output matrix is never tied.
fn jamba(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 65536,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: Some(8),
        inner: 14336,
        tokens: Some(262_144),
    };
    let dims = sizes(fields, &defaults)?;
    let is_attention = periodic(fields, "attn_layer", [8, 4])?;
    let is_sparse = periodic(fields, "expert_layer", [2, 1])?;
    let count = match fields.is_present("num_experts") {
        true => size_or(fields, "num_experts", 16, EXPERTS_MAX)?,
        false => size_or(fields, "num_local_experts", 16, EXPERTS_MAX)?,
    };
    let expand = size_or(fields, "mamba_expand", 2, HEADS_MAX)?;
    let mixer = Mixer1 {
        hidden: dims.hidden,
        inner: expand.saturating_mul(dims.hidden),
        state: size_or(fields, "mamba_d_state", 16, STATE_MAX)?,
        conv: size_or(fields, "mamba_d_conv", 4, CONV_MAX)?,
        rank: time_step_rank(fields, "mamba_dt_rank", dims.hidden)?,
        conv_bias: fields.flag("mamba_conv_bias", true)?,
        bias: fields.flag("mamba_proj_bias", false)?,
        norms: true,
    };
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, dims.hidden);
    for layer in 0..dims.layers {
        let has_attention = is_attention(layer);
        builder.scope(&format!("model.layers.{layer}"), |b| {
            if has_attention {
                AttentionParts::of(&dims).build(b, "o_proj");
            } else {
                b.scope("mixer", |b| mixer.build(b));
            }
            b.scope("feed_forward", |b| match is_sparse(layer) && count > 1 {
                true => experts(b, "router", &dims, count, false),
                false => gated_mlp(b, dims.hidden.into(), dims.inner.into(), false),
            });
            b.rms_norm("input_layernorm", dims.hidden);
            b.rms_norm("pre_ff_layernorm", dims.hidden);
        });
        let attention = attention_cache(&dims, Reach::Full);
        builder.cache(layer, if has_attention { attention } else { mixer.cache() });
    }
    builder.rms_norm("model.final_layernorm", dims.hidden);
    // Built without the model's quantisation.
    builder.vocabulary("lm_head", dims.vocab, dims.hidden);
    Ok(())
}

/// vLLM 0.32 `falcon_h1.py`: attention and Mamba side by side in every layer.
fn falcon_h1(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 128_000,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: Some(8),
        inner: 14336,
        tokens: Some(8192),
    };
    let mut dims = sizes(fields, &defaults)?;
    dims.head_dim = size_or(fields, "head_dim", dims.head_dim, HEAD_DIM_MAX)?;
    let expanded = size_or(fields, "mamba_expand", 2, HEADS_MAX)?.saturating_mul(dims.hidden);
    let null = if fields.is_present("mamba_d_ssm") { expanded } else { 1024 };
    let inner = size_or(fields, "mamba_d_ssm", null, INNER_MAX)?;
    let norm = fields.flag("mamba_rms_norm", false)?;
    let mixer = mixer2(fields, dims.hidden, inner, norm)?;
    let tied = fields.flag("tie_word_embeddings", false)?;
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, dims.hidden);
    for layer in 0..dims.layers {
        builder.scope(&format!("model.layers.{layer}"), |b| {
            AttentionParts::of(&dims).build(b, "o_proj");
            b.scope("feed_forward", |b| {
                gated_mlp(b, dims.hidden.into(), dims.inner.into(), false);
            });
            b.rms_norm("input_layernorm", dims.hidden);
            b.rms_norm("pre_ff_layernorm", dims.hidden);
        });
        // The engine numbers the mixers after all layers, so that each name has one index.
        let mixer_layer = dims.layers + layer;
        builder.scope(&format!("model.{mixer_layer}.mixer"), |b| mixer.build(b));
        builder.cache(layer, attention_cache(&dims, Reach::Full));
        builder.cache(layer, mixer.cache());
    }
    builder.rms_norm("model.final_layernorm", dims.hidden);
    if !tied {
        // Built without the model's quantisation.
        builder.vocabulary("lm_head", dims.vocab, dims.hidden);
    }
    Ok(())
}

/// The mixer of Falcon H1 and Granite 4, whose configs name its sizes alike.
fn mixer2(fields: &Fields<'_>, hidden: u32, inner: u32, norm: bool) -> Result<Mixer2> {
    let heads = size_or(fields, "mamba_n_heads", 128, HEADS_MAX)?;
    let mixer = Mixer2 {
        hidden,
        inner,
        groups: size_or(fields, "mamba_n_groups", 1, HEADS_MAX)?,
        heads,
        head_dim: size_or_auto(fields, "mamba_d_head", inner / heads, HEAD_DIM_MAX)?,
        state: size_or(fields, "mamba_d_state", 256, STATE_MAX)?,
        conv: size_or(fields, "mamba_d_conv", 4, CONV_MAX)?,
        conv_bias: fields.flag("mamba_conv_bias", true)?,
        bias: fields.flag("mamba_proj_bias", false)?,
        norm,
        state_dtype: StateDtype::Model,
    };
    mixer.checked(fields, "mamba_n_heads")
}

/// vLLM 0.32 `granitemoehybrid.py`.
fn granite(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 32000,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: None,
        inner: 11008,
        tokens: Some(2048),
    };
    let dims = sizes(fields, &defaults)?;
    let names = ["layer_types", "layers_block_type"];
    let kinds = pattern(fields, &names, dims.layers, |_| Mixing::State)?;
    let expand = size_or(fields, "mamba_expand", 2, HEADS_MAX)?;
    let mixer = mixer2(fields, dims.hidden, expand.saturating_mul(dims.hidden), true)?;
    let count = fields.count_or("num_local_experts", 8, EXPERTS_MAX)?;
    let shared = u64::from(fields.count_or("shared_intermediate_size", 1024, INNER_MAX)?);
    let bias = fields.flag("attention_bias", false)?;
    let tied = fields.flag("tie_word_embeddings", false)?;
    let hidden = u64::from(dims.hidden);
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, hidden);
    for (layer, kind) in (0..dims.layers).zip(kinds) {
        builder.scope(&format!("model.layers.{layer}"), |b| {
            match kind {
                Mixing::State => b.scope("mixer", |b| mixer.build(b)),
                Mixing::Attention => b.scope("self_attn", |b| {
                    let parts = AttentionParts::of(&dims);
                    AttentionParts { qkv_bias: bias, out_bias: bias, ..parts }.build(b, "o_proj");
                }),
            }
            if count > 0 {
                b.scope("block_sparse_moe", |b| experts(b, "gate", &dims, count, true));
            }
            if shared > 0 {
                b.scope("shared_mlp", |b| {
                    b.linear("input_linear", Linear::merged(hidden, [shared, shared]));
                    b.linear("output_linear", Linear::row(shared, hidden));
                });
            }
            b.rms_norm("input_layernorm", hidden);
            b.rms_norm("post_attention_layernorm", hidden);
        });
        let attention = attention_cache(&dims, Reach::Full);
        builder.cache(layer, if kind == Mixing::State { mixer.cache() } else { attention });
    }
    builder.rms_norm("model.norm", hidden);
    if !tied {
        builder.head("lm_head", dims.vocab, hidden, false);
    }
    Ok(())
}

/// The layers of Zamba2's config class, where the file lists none: those that also have attention.
const ZAMBA2_HYBRID: &[u32] = &[6, 12, 18, 24, 30, 36, 42, 47, 51];
const ZAMBA2_LAYERS: u32 = 54;

/// Whether each layer runs a shared transformer block beside its mixer.
fn zamba2_pattern(fields: &Fields<'_>) -> Result<Vec<bool>> {
    let Some(kinds) = listed(fields, &["layers_block_type", "layer_types"], None)? else {
        return Ok((0..ZAMBA2_LAYERS).map(|layer| ZAMBA2_HYBRID.contains(&layer)).collect());
    };
    let is_hybrid = |(layer, kind): (usize, &&str)| match *kind {
        "hybrid" => Ok(true),
        "linear_attention" | "mamba" => Ok(false),
        kind => Err(unknown_kind(fields, "layers_block_type", layer, kind)),
    };
    kinds.iter().enumerate().map(is_hybrid).collect()
}

/// What every shared block of Zamba2 is built from.
struct Zamba2 {
    hidden: u64,
    inner: u64,
    heads: u64,
    head_dim: u64,
    /// Rank of the adapters.
    rank: u64,
    attention_adapters: bool,
    bias: bool,
}

impl Zamba2 {
    /// One shared block, with adapters for each of the layers that run it. The engine gives the
    /// modules of all blocks the same names.
    fn block(&self, b: &mut Builder, first: u32, layers: impl Iterator<Item = u32>) {
        let (hidden, wide) = (self.hidden, self.hidden.saturating_mul(2));
        let qkv = Linear::qkv(wide, self.heads, self.heads, self.head_dim, self.head_dim);
        b.linear("qkv_proj", qkv);
        b.linear("o_proj", Linear::row(self.heads.saturating_mul(self.head_dim), hidden));
        b.scope("feed_forward", |b| gated_mlp(b, hidden, self.inner, self.bias));
        b.rms_norm(&format!("blocks.{first}.input_layernorm"), wide);
        b.rms_norm(&format!("blocks.{first}.pre_ff_layernorm"), hidden);
        for layer in layers {
            if self.attention_adapters {
                for name in ["linear_q_adapter", "linear_k_adapter", "linear_v_adapter"] {
                    b.linear(&format!("{name}.A"), Linear::column(wide, self.rank));
                    b.linear(&format!("{name}.B"), Linear::column(self.rank, wide));
                }
            }
            let name = format!("feed_forward.gate_up_proj_adapter_list.{layer}");
            b.linear(&format!("{name}.A"), Linear::column(hidden, self.rank));
            let out = [self.inner, self.inner];
            b.linear(&format!("{name}.B"), Linear::merged(self.rank, out));
        }
    }
}

/// vLLM 0.32 `zamba2.py`: a few transformer blocks, run in turn by some of the layers. Every such
/// layer has a cache of its own, with as many KV heads as query heads.
fn zamba2(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let kinds = zamba2_pattern(fields)?;
    let (dims, shared) = zamba2_sizes(fields, kinds.len())?;
    let blocks = size_or(fields, "num_mem_blocks", 1, LAYERS_MAX)?;
    let expand = size_or(fields, "mamba_expand", 2, HEADS_MAX)?;
    let inner = expand.saturating_mul(dims.hidden);
    let heads = size_or(fields, "n_mamba_heads", 8, HEADS_MAX)?;
    let mixer = Mixer2 {
        hidden: dims.hidden,
        inner,
        groups: size_or(fields, "mamba_ngroups", 1, HEADS_MAX)?,
        heads,
        head_dim: inner / heads,
        state: size_or(fields, "mamba_d_state", 64, STATE_MAX)?,
        conv: size_or(fields, "mamba_d_conv", 4, CONV_MAX)?,
        conv_bias: fields.flag("use_conv_bias", true)?,
        bias: shared.bias,
        norm: true,
        state_dtype: StateDtype::Model,
    };
    let mixer = mixer.checked(fields, "n_mamba_heads")?;
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, dims.hidden);
    let hybrids = u32::try_from(kinds.iter().filter(|&&is_hybrid| is_hybrid).count());
    let hybrids = hybrids.unwrap_or(LAYERS_MAX);
    for block in 0..blocks.min(hybrids) {
        let layers = (block..hybrids).step_by(usize::try_from(blocks).unwrap_or(1));
        builder.scope("model", |b| shared.block(b, block, layers));
    }
    for (layer, &is_hybrid) in (0..dims.layers).zip(&kinds) {
        // The engine numbers these after the shared blocks, and names no model before them.
        builder.scope(&format!("{}", hybrids.saturating_add(layer)), |b| {
            b.scope("mixer", |b| mixer.build(b));
            b.rms_norm("input_layernorm", dims.hidden);
            if is_hybrid {
                b.linear("linear", Linear::replicated(dims.hidden.into(), dims.hidden.into()));
            }
        });
    }
    // The engine lists the caches of the shared blocks first.
    for (layer, _) in (0..dims.layers).zip(&kinds).filter(|&(_, &is_hybrid)| is_hybrid) {
        builder.cache(layer, attention_cache(&dims, Reach::Full));
    }
    for layer in 0..dims.layers {
        builder.cache(layer, mixer.cache());
    }
    builder.rms_norm("model.final_layernorm", dims.hidden);
    Ok(())
}

fn zamba2_sizes(fields: &Fields<'_>, layers: usize) -> Result<(Dims, Zamba2)> {
    let hidden = size_or(fields, "hidden_size", 2560, WIDTH_MAX)?;
    let defaults = Defaults {
        vocab: 32000,
        hidden: 2560,
        layers: ZAMBA2_LAYERS,
        heads: 32,
        kv_heads: None,
        inner: hidden.saturating_mul(4),
        tokens: Some(4096),
    };
    let mut dims = sizes(fields, &defaults)?;
    dims.layers = u32::try_from(layers).unwrap_or(LAYERS_MAX);
    let wide = dims.hidden.saturating_mul(2);
    if !wide.is_multiple_of(dims.heads) {
        let problem = format!("{} does not divide twice the hidden size ({wide})", dims.heads);
        return Err(wrong(fields.path("num_attention_heads"), problem));
    }
    dims.head_dim = wide / dims.heads;
    dims.kv_heads = dims.heads;
    let shared = Zamba2 {
        hidden: dims.hidden.into(),
        inner: dims.inner.into(),
        heads: dims.heads.into(),
        head_dim: dims.head_dim.into(),
        rank: size_or(fields, "adapter_rank", 128, WIDTH_MAX)?.into(),
        attention_adapters: fields.flag("use_shared_attention_adapter", false)?,
        bias: fields.flag("add_bias_linear", false)?,
    };
    Ok((dims, shared))
}
