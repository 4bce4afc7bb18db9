//! Gemma 3n: several residual streams (AltUp), low-rank residuals (LAuReL), an embedding for every
//! layer, and last layers that read the caches of earlier ones (vLLM 0.32 `gemma3n.py`).

use super::Family;
use super::dense_class::{Class, HeadDim, Inner, KvHeads, sized};
use super::limits::{INNER_MAX, LAYERS_MAX, VOCAB_MAX, WIDTH_MAX};
use super::parts::{AttentionParts, Windows, attention_cache, gated_mlp};
use super::sliding::FOUR_NORMS;
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::Reach;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param};
use serde_json::Value;

pub(super) static FAMILIES: &[Family] = &[Family {
    architectures: &["Gemma3nForCausalLM"],
    model_types: &["gemma3n_text"],
    rule: gemma3n,
}];

/// `intermediate_size`, which may be a list, is read on its own.
const CLASS: Class = Class {
    kv_heads: KvHeads::Own(2),
    head_dim: HeadDim::Own(256),
    inner: Inner::Fourfold,
    tokens: 32768,
    ..sized(2048, 35, 8, 0, 262_400)
};

/// `intermediate_size` where it is absent.
const INNER: u32 = 16384;

/// What the config says beyond the usual sizes.
struct Extras {
    /// Width of the MLP of every layer.
    inners: Vec<u32>,
    attention_bias: bool,
    /// Residual streams.
    streams: u64,
    laurel_rank: u64,
    /// Width of the embedding that every layer has of its own.
    layer_input: u64,
    layer_vocab: u32,
    /// Layers from this one on have no keys and values of their own.
    first_shared: u32,
}

/// The most residual streams that are read; published models have four.
const STREAMS_MAX: u32 = 1 << 10;

fn gemma3n(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let mut dims = CLASS.dims(fields)?;
    let extras = Extras::read(fields, &dims)?;
    dims.inner = extras.inners.iter().copied().max().unwrap_or(dims.inner);
    let windows = Windows::read(fields, dims.layers, Some(512))?.or_every(dims.layers, 5);
    b.dims = dims.clone();
    b.scope("model", |b| {
        extras.outside_layers(b, &dims);
        for (layer, &inner) in (0..dims.layers).zip(&extras.inners) {
            b.scope(&format!("layers.{layer}"), |b| extras.layer(b, &dims, layer, inner));
            // A shared layer reads the last sliding layer but one, or the last full layer, before
            // the first of them; where there is none, it keeps a cache after all.
            let reach = windows.by_type(layer);
            let offset = if reach == Reach::Full { 1 } else { 2 };
            if layer >= extras.first_shared && extras.first_shared >= offset {
                b.shared_layers += 1;
            } else {
                b.cache(layer, attention_cache(&dims, reach));
            }
        }
        b.rms_norm("norm", dims.hidden);
    });
    Ok(())
}

impl Extras {
    fn read(fields: &Fields<'_>, dims: &Dims) -> Result<Self> {
        let width =
            |name, default| Ok(u64::from(fields.count(name, WIDTH_MAX)?.unwrap_or(default)));
        Ok(Self {
            inners: inners(fields, dims)?,
            attention_bias: fields.flag("attention_bias", false)?,
            streams: fields.count("altup_num_inputs", STREAMS_MAX)?.unwrap_or(4).into(),
            laurel_rank: width("laurel_rank", 64)?,
            layer_input: width("hidden_size_per_layer_input", 256)?,
            layer_vocab: fields.count("vocab_size_per_layer_input", VOCAB_MAX)?.unwrap_or(262_144),
            first_shared: first_shared(fields, dims, 15)?,
        })
    }

    fn outside_layers(&self, b: &mut Builder, dims: &Dims) {
        let hidden = u64::from(dims.hidden);
        let all_inputs = self.layer_input.saturating_mul(dims.layers.into());
        b.scope("self_decoder", |b| {
            b.vocabulary("embed_tokens", dims.vocab, hidden);
            b.vocabulary("per_layer_embed_tokens", self.layer_vocab, all_inputs);
            b.linear("per_layer_model_projection", Linear::column(hidden, all_inputs));
            b.rms_norm("per_layer_projection_norm", self.layer_input);
        });
        for stream in 1..self.streams {
            let index = stream - 1;
            let name = format!("self_decoder.altup_projections.{index}");
            b.linear(&name, Linear::column(hidden, hidden));
            let name = format!("altup_unembed_projections.{index}");
            b.linear(&name, Linear::column(hidden, hidden));
        }
    }

    fn layer(&self, b: &mut Builder, dims: &Dims, layer: u32, inner: u32) {
        let hidden = u64::from(dims.hidden);
        b.scope("altup", |b| {
            let streams = self.streams;
            b.linear("correction_coefs", Linear::replicated(streams, streams));
            b.linear("prediction_coefs", Linear::replicated(streams, streams * streams));
            b.linear("modality_router", Linear::replicated(hidden, streams));
            b.rms_norm("router_norm", hidden);
            b.param("correct_output_scale", Param::whole(hidden).dtype(Dtype::Float32));
        });
        b.scope("self_attn", |b| {
            shared_attention(b, dims, layer >= self.first_shared, self.attention_bias);
        });
        b.scope("mlp", |b| gated_mlp(b, hidden, inner.into(), false));
        b.scope("laurel", |b| {
            b.linear("linear_left", Linear::column(hidden, self.laurel_rank));
            b.linear("linear_right", Linear::row(self.laurel_rank, hidden));
            b.rms_norm("post_laurel_norm", hidden);
        });
        layer_input(b, hidden, self.layer_input);
        for norm in FOUR_NORMS.norms {
            b.rms_norm(norm, hidden);
        }
    }
}

/// Width of the MLP of every layer: one for all, or one each.
fn inners(fields: &Fields<'_>, dims: &Dims) -> Result<Vec<u32>> {
    const NAME: &str = "intermediate_size";
    let layers = usize::try_from(dims.layers).unwrap_or(usize::MAX);
    let Some(Value::Array(_)) = fields.value(NAME) else {
        let one = fields.count(NAME, INNER_MAX)?.unwrap_or(INNER);
        return Ok(vec![one; layers]);
    };
    let inners = fields.counts(NAME, INNER_MAX)?.unwrap_or_default();
    if inners.len() != layers || inners.contains(&0) {
        let problem = format!("expected {layers} numbers of 1 or more, one for each layer");
        return Err(wrong(fields.path(NAME), problem));
    }
    Ok(inners)
}

/// The first of the last layers, `num_kv_shared_layers` of them, that have no keys and values.
pub(super) fn first_shared(fields: &Fields<'_>, dims: &Dims, default: u32) -> Result<u32> {
    const NAME: &str = "num_kv_shared_layers";
    let shared = fields.count_or(NAME, default, LAYERS_MAX)?;
    dims.layers.checked_sub(shared).filter(|&first| first > 0).ok_or_else(|| {
        wrong(fields.path(NAME), format!("{shared}, and there are {} layers", dims.layers))
    })
}

/// Attention with norms on queries and keys; of a shared layer only what makes the queries.
pub(super) fn shared_attention(b: &mut Builder, dims: &Dims, is_shared: bool, bias: bool) {
    let parts = AttentionParts::of(dims);
    let queries = parts.heads.saturating_mul(parts.key_dim);
    if is_shared {
        b.linear("q_proj", Linear::column(parts.hidden, queries).bias(bias));
        b.linear("o_proj", Linear::row(queries, parts.hidden).bias(bias));
    } else {
        AttentionParts { qkv_bias: bias, out_bias: bias, ..parts }.build(b, "o_proj");
        b.rms_norm("k_norm", dims.head_dim);
    }
    b.rms_norm("q_norm", dims.head_dim);
}

/// What adds a layer's own embedding to its output.
pub(super) fn layer_input(b: &mut Builder, hidden: u64, width: u64) {
    b.linear("per_layer_input_gate", Linear::replicated(hidden, width));
    b.linear("per_layer_projection", Linear::replicated(width, hidden));
    b.rms_norm("post_per_layer_input_norm", hidden);
}
