//! What decoders share in which layers that look back on a window take turns with layers that see
//! everything: sizes with the defaults of their config class, and the layers.

use super::limits::{HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX};
use super::limits::{TOKENS_MAX, VOCAB_MAX, WIDTH_MAX};
use super::parts::{AttentionParts, Windows, gated_mlp};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{Attention, CacheKind, Reach};
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param, Split};

/// Sizes that a config class holds where the field is absent (transformers 5.19).
pub(super) struct Class {
    pub(super) layers: u32,
    pub(super) hidden: u32,
    pub(super) inner: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: KvHeads,
    pub(super) head_dim: HeadDim,
    pub(super) vocab: u32,
    pub(super) tokens_max: u32,
}

/// KV heads where `num_key_value_heads` is absent; where it is null, as many as heads.
pub(super) enum KvHeads {
    Heads,
    Number(u32),
}

/// The size of a head where `head_dim` is absent.
pub(super) enum HeadDim {
    /// Hidden size / heads.
    Quotient,
    Number(u32),
}

impl Class {
    pub(super) fn dims(&self, fields: &Fields<'_>) -> Result<Dims> {
        let inner = fields.count("intermediate_size", INNER_MAX)?.unwrap_or(self.inner);
        Ok(Dims { inner, ..self.dims_but_inner(fields)? })
    }

    /// As [`Self::dims`] without `intermediate_size`, which some classes hold as a list.
    pub(super) fn dims_but_inner(&self, fields: &Fields<'_>) -> Result<Dims> {
        let count = |name, default, max| Ok(fields.count(name, max)?.unwrap_or(default));
        let heads = count("num_attention_heads", self.heads, HEADS_MAX)?;
        let hidden = count("hidden_size", self.hidden, WIDTH_MAX)?;
        Ok(Dims {
            layers: count("num_hidden_layers", self.layers, LAYERS_MAX)?,
            heads,
            kv_heads: self.kv_heads(fields, heads)?,
            head_dim: self.head_dim(fields, heads, hidden)?,
            hidden,
            inner: self.inner,
            vocab: count("vocab_size", self.vocab, VOCAB_MAX)?,
            tokens_max: Some(count("max_position_embeddings", self.tokens_max, TOKENS_MAX)?),
        })
    }

    fn kv_heads(&self, fields: &Fields<'_>, heads: u32) -> Result<u32> {
        const NAME: &str = "num_key_value_heads";
        let default = match self.kv_heads {
            KvHeads::Number(number) if !fields.is_present(NAME) => number,
            _ => heads,
        };
        let kv_heads = fields.count(NAME, HEADS_MAX)?.unwrap_or(default);
        divides(fields, NAME, kv_heads, heads)?;
        Ok(kv_heads)
    }

    fn head_dim(&self, fields: &Fields<'_>, heads: u32, hidden: u32) -> Result<u32> {
        match (fields.count("head_dim", HEAD_DIM_MAX)?, &self.head_dim) {
            (Some(declared), _) => Ok(declared),
            (None, HeadDim::Number(number)) => Ok(*number),
            (None, HeadDim::Quotient) if hidden.is_multiple_of(heads) => Ok(hidden / heads),
            (None, HeadDim::Quotient) => {
                let problem = format!("{hidden} is not a multiple of the {heads} query heads");
                Err(wrong(fields.path("hidden_size"), problem))
            }
        }
    }
}

/// Query heads share KV heads evenly.
pub(super) fn divides(fields: &Fields<'_>, name: &str, kv_heads: u32, heads: u32) -> Result<()> {
    if heads.is_multiple_of(kv_heads) {
        return Ok(());
    }
    let problem = format!("{kv_heads} does not divide the {heads} query heads");
    Err(wrong(fields.path(name), problem))
}

/// Whether the output matrix is the embedding. Of a model that is more than a language model, the
/// outer config decides where it says so (vLLM 0.32 `VllmConfig.with_hf_config`).
pub(super) fn tied(config: &Config<'_>, default: bool) -> Result<bool> {
    const NAME: &str = "tie_word_embeddings";
    let inner = config.text.flag(NAME, default)?;
    config.root.flag(NAME, inner)
}

/// `sliding_window_pattern`: every so many layers, one sees everything.
pub(super) fn pattern(fields: &Fields<'_>, default: u32) -> Result<u32> {
    match fields.value("layer_types") {
        // Then the pattern is not looked at, and some hold a text there.
        Some(_) => Ok(default),
        None => Ok(fields.count("sliding_window_pattern", LAYERS_MAX)?.unwrap_or(default)),
    }
}

/// Norms on queries and keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    /// One weight for all heads.
    Head,
    /// Over all heads at once, whole on every rank.
    Whole,
    /// A weight for every head, divided with the heads.
    EachHead,
}

/// A dense decoder whose layers differ in their reach alone.
pub(super) struct Decoder {
    pub(super) dims: Dims,
    pub(super) reaches: Vec<Reach>,
    pub(super) qk_norm: QkNorm,
    /// Norms of a layer, one weight each.
    pub(super) norms: &'static [&'static str],
    pub(super) attention_bias: bool,
    pub(super) mlp_bias: bool,
    /// A matrix as wide as the queries that gates the attention's output.
    pub(super) output_gate: bool,
    /// A learned sink for every head.
    pub(super) sinks: bool,
    pub(super) tied: bool,
    /// Rows of the output matrix, where it is not the embedding.
    pub(super) head_rows: u32,
    /// Name of the list of layers.
    pub(super) list: &'static str,
    /// Name of the attention of a layer.
    pub(super) attention: &'static str,
}

pub(super) const PRE_NORMS: &[&str] = &["input_layernorm", "post_attention_layernorm"];
pub(super) const POST_NORMS: &[&str] = &["post_attention_layernorm", "post_feedforward_layernorm"];
pub(super) const FOUR_NORMS: &[&str] = &[
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];

impl Decoder {
    /// Llama's layers, each with its entry of `layer_types`.
    pub(super) fn new(dims: Dims, windows: &Windows<'_>, tied: bool) -> Self {
        Self {
            reaches: (0..dims.layers).map(|layer| windows.by_type(layer)).collect(),
            head_rows: dims.vocab,
            dims,
            qk_norm: QkNorm::None,
            norms: PRE_NORMS,
            attention_bias: false,
            mlp_bias: false,
            output_gate: false,
            sinks: false,
            tied,
            list: "model.layers",
            attention: "self_attn",
        }
    }

    pub(super) fn build(&self, b: &mut Builder) {
        let dims = &self.dims;
        b.dims = dims.clone();
        let hidden = u64::from(dims.hidden);
        b.vocabulary("model.embed_tokens", dims.vocab, hidden);
        for (layer, &reach) in (0..dims.layers).zip(&self.reaches) {
            b.scope(&format!("{}.{layer}", self.list), |b| {
                b.scope(self.attention, |b| self.attention(b));
                b.scope("mlp", |b| gated_mlp(b, hidden, dims.inner.into(), self.mlp_bias));
                for norm in self.norms {
                    b.rms_norm(norm, hidden);
                }
            });
            b.cache(layer, self.cache(reach));
        }
        b.rms_norm("model.norm", hidden);
        if !self.tied {
            b.head("lm_head", self.head_rows, hidden, false);
        }
    }

    fn attention(&self, b: &mut Builder) {
        let bias = self.attention_bias;
        let parts = AttentionParts::of(&self.dims);
        AttentionParts { qkv_bias: bias, out_bias: bias, ..parts }.build(b, "o_proj");
        let [heads, kv_heads, dim] =
            [self.dims.heads, self.dims.kv_heads, self.dims.head_dim].map(u64::from);
        let [queries, keys] = [heads, kv_heads].map(|heads| heads.saturating_mul(dim));
        match self.qk_norm {
            QkNorm::None => {}
            QkNorm::Head => {
                b.rms_norm("q_norm", dim);
                b.rms_norm("k_norm", dim);
            }
            QkNorm::Whole => {
                b.rms_norm("q_norm", queries);
                b.rms_norm("k_norm", keys);
            }
            QkNorm::EachHead => {
                let split = Split::Qkv { heads, kv_heads };
                b.linear("qk_norm", Linear::new(split, 1, [queries, keys, 0]).plain());
            }
        }
        if self.output_gate {
            b.linear("output_gate_proj", Linear::column(self.dims.hidden.into(), queries));
        }
        if self.sinks {
            b.param("sinks", Param::divided(heads));
        }
    }

    fn cache(&self, reach: Reach) -> CacheKind {
        let Dims { heads, kv_heads, head_dim, .. } = self.dims;
        let sinks = self.sinks;
        CacheKind::Attention(Attention {
            heads,
            kv_heads,
            key_dim: head_dim,
            value_dim: head_dim,
            reach,
            sinks,
        })
    }
}
