//! Dense decoders: in every layer one attention and one MLP. A family says how it departs from
//! Llama; the modules are those that vLLM 0.32 builds.

use super::dense_class::Class;
use super::parts::{AttentionParts, Windows, attention_cache};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{CacheKind, Reach};
use crate::model::hf_config::{Fields, kind, wrong};
use crate::model::weights::module::{Linear, Param};

/// A decoder with everything that its modules depend on.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    pub(super) dims: Dims,
    pub(super) names: Names,
    pub(super) norm: Norm,
    pub(super) qk_norm: QkNorm,
    pub(super) packed: Packed,
    pub(super) qkv_bias: bool,
    pub(super) out_bias: bool,
    pub(super) up_bias: bool,
    pub(super) down_bias: bool,
    pub(super) mlp: Mlp,
    pub(super) tied: bool,
    pub(super) head_bias: bool,
    /// Width of embedding and output matrix, if it is not the hidden size.
    pub(super) embedded: Option<u64>,
    /// Rows of the learned position table.
    pub(super) positions: u64,
    /// Reach of every layer, or one for all.
    pub(super) reaches: Vec<Reach>,
    pub(super) sinks: bool,
    /// Further parameters of every layer.
    pub(super) extra: Vec<(&'static str, Param)>,
}

/// Names of the modules, as vLLM has them. Empty: not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) embedding: &'static str,
    pub(super) positions: &'static str,
    pub(super) embedding_norm: &'static str,
    pub(super) layers: &'static str,
    pub(super) attention: &'static str,
    pub(super) qkv: &'static str,
    pub(super) out: &'static str,
    /// Norms on queries and keys.
    pub(super) qk_norms: [&'static str; 2],
    /// Scope of the MLP; empty: none of its own.
    pub(super) mlp: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) norms: &'static [&'static str],
    pub(super) norm: &'static str,
    pub(super) head: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norm {
    /// A weight.
    Rms,
    /// A weight and a bias.
    Layer,
    /// No parameters.
    Bare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    /// One head wide, shared by the heads.
    PerHead,
    /// As wide as all heads together, whole on every rank.
    Whole,
    /// One weight for every head, divided with them.
    Divided,
}

/// How queries, keys and values lie in their matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packed {
    /// Heads are divided over ranks, KV heads divided or repeated.
    ByHead,
    /// One output that is divided as it is.
    Column,
    /// Whole on every rank, and so is the output matrix.
    Replicated,
    /// As `Replicated`, but keys and values, which have an input of their own, are divided.
    KeysColumn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mlp {
    /// Gate, up, down.
    Gated,
    /// Up, down.
    Plain,
    /// Up, down, whole on every rank.
    Replicated,
    /// Gate, up, and down whole on every rank.
    GatedWholeDown,
}

pub(super) const LLAMA_NAMES: Names = Names {
    embedding: "model.embed_tokens",
    positions: "",
    embedding_norm: "",
    layers: "model.layers",
    attention: "self_attn",
    qkv: "qkv_proj",
    out: "o_proj",
    qk_norms: ["q_norm", "k_norm"],
    mlp: "mlp",
    up: "gate_up_proj",
    down: "down_proj",
    norms: &["input_layernorm", "post_attention_layernorm"],
    norm: "model.norm",
    head: "lm_head",
};

impl Decoder {
    /// Sizes, `tie_word_embeddings` and windows; the rest as a Llama without biases.
    pub(super) fn new(fields: &Fields<'_>, class: &Class) -> Result<Self> {
        let dims = class.dims(fields)?;
        let windows = Windows::read(fields, dims.layers, None)?;
        // An encoder keeps nothing between steps (`EncoderOnlyAttention`).
        if !fields.flag("is_causal", true)? {
            let problem = "false: an encoder, which is not served as a language model";
            return Err(wrong(fields.path("is_causal"), problem));
        }
        Ok(Self {
            tied: class.tied(fields)?,
            reaches: vec![windows.uniform()],
            dims,
            names: LLAMA_NAMES,
            norm: Norm::Rms,
            qk_norm: QkNorm::None,
            packed: Packed::ByHead,
            qkv_bias: false,
            out_bias: false,
            up_bias: false,
            down_bias: false,
            mlp: Mlp::Gated,
            head_bias: false,
            embedded: None,
            positions: 0,
            sinks: false,
            extra: Vec::new(),
        })
    }

    /// As [`Self::new`], with layer norms and an MLP of two matrices, as GPT-2 had them.
    pub(super) fn classic(fields: &Fields<'_>, class: &Class) -> Result<Self> {
        Ok(Self { norm: Norm::Layer, mlp: Mlp::Plain, ..Self::new(fields, class)? })
    }

    /// All biases at once: of the attention (inward, outward) and of the MLP.
    pub(super) fn biases(self, qkv_bias: bool, out_bias: bool, mlp: bool) -> Self {
        Self { qkv_bias, out_bias, up_bias: mlp, down_bias: mlp, ..self }
    }

    /// Windows for a model class that looks at `layer_types`.
    pub(super) fn windows(self, windows: &Windows<'_>) -> Self {
        let reaches = (0..self.dims.layers).map(|layer| windows.by_type(layer)).collect();
        Self { reaches, ..self }
    }

    /// A learned sink for every head, divided with them.
    pub(super) fn add_sinks(&mut self) {
        self.sinks = true;
        self.extra.push(("self_attn.sinks", Param::divided(self.dims.heads.into())));
    }

    /// Adds all modules and caches.
    pub(super) fn build(&self, b: &mut Builder) {
        let (names, hidden) = (&self.names, u64::from(self.dims.hidden));
        b.dims = self.dims.clone();
        let embedded = self.embedded.unwrap_or(hidden);
        b.vocabulary(names.embedding, self.dims.vocab, embedded);
        if self.positions > 0 {
            b.table(names.positions, self.positions, hidden);
        }
        if !names.embedding_norm.is_empty() {
            self.add_norm(b, names.embedding_norm, hidden);
        }
        for layer in 0..self.dims.layers {
            b.scope(&format!("{}.{layer}", names.layers), |b| self.layer(b));
            b.cache(layer, self.cache(layer));
        }
        if !names.norm.is_empty() {
            self.add_norm(b, names.norm, hidden);
        }
        if !self.tied {
            b.head(names.head, self.dims.vocab, embedded, self.head_bias);
        }
    }

    pub(super) fn cache(&self, layer: u32) -> CacheKind {
        let index = usize::try_from(layer).unwrap_or(usize::MAX);
        let reach = self.reaches.get(index).or(self.reaches.first());
        let mut cache = attention_cache(&self.dims, reach.copied().unwrap_or(Reach::Full));
        if let CacheKind::Attention(attention) = &mut cache {
            attention.sinks = self.sinks;
        }
        cache
    }

    fn add_norm(&self, b: &mut Builder, name: &str, width: u64) {
        match self.norm {
            Norm::Rms => b.rms_norm(name, width),
            Norm::Layer => b.layer_norm(name, width),
            Norm::Bare => {}
        }
    }

    fn layer(&self, b: &mut Builder) {
        let (names, hidden) = (&self.names, u64::from(self.dims.hidden));
        b.scope(names.attention, |b| self.attention(b));
        if names.mlp.is_empty() {
            self.mlp(b);
        } else {
            b.scope(names.mlp, |b| self.mlp(b));
        }
        for name in names.norms {
            self.add_norm(b, name, hidden);
        }
        for (name, param) in &self.extra {
            b.param(name, param.clone());
        }
    }

    pub(super) fn attention(&self, b: &mut Builder) {
        let parts = AttentionParts::of(&self.dims);
        let (queries, keys) = (
            parts.heads.saturating_mul(parts.key_dim),
            parts.kv_heads.saturating_mul(parts.key_dim),
        );
        let width = queries.saturating_add(keys.saturating_mul(2));
        let (hidden, head) = (parts.hidden, parts.key_dim);
        let (qkv, out) = match self.packed {
            Packed::ByHead => (
                Linear::qkv(hidden, parts.heads, parts.kv_heads, head, head),
                Linear::row(queries, hidden),
            ),
            Packed::Column => (Linear::column(hidden, width), Linear::row(queries, hidden)),
            Packed::KeysColumn => {
                (Linear::replicated(hidden, queries), Linear::replicated(queries, hidden))
            }
            Packed::Replicated => {
                (Linear::replicated(hidden, width), Linear::replicated(queries, hidden))
            }
        };
        if self.packed == Packed::KeysColumn {
            let keys = Linear::merged(hidden, [keys, keys]).bias(self.qkv_bias);
            b.linear("merged_proj_6_k_proj_6_v_proj", keys);
        }
        b.linear(self.names.qkv, qkv.bias(self.qkv_bias));
        b.linear(self.names.out, out.bias(self.out_bias));
        let [q_norm, k_norm] = self.names.qk_norms;
        match self.qk_norm {
            QkNorm::None => {}
            QkNorm::PerHead => {
                self.add_norm(b, q_norm, head);
                self.add_norm(b, k_norm, head);
            }
            QkNorm::Whole => {
                self.add_norm(b, q_norm, queries);
                self.add_norm(b, k_norm, keys);
            }
            // As a matrix of one input, so that the KV heads are divided or repeated.
            QkNorm::Divided => {
                let norms = Linear::qkv(1, parts.heads, parts.kv_heads, head, 0);
                b.linear(q_norm, norms.plain());
            }
        }
    }

    fn mlp(&self, b: &mut Builder) {
        let (hidden, inner) = (u64::from(self.dims.hidden), u64::from(self.dims.inner));
        let (up, down) = match self.mlp {
            Mlp::Gated => (Linear::merged(hidden, [inner, inner]), Linear::row(inner, hidden)),
            Mlp::Plain => (Linear::column(hidden, inner), Linear::row(inner, hidden)),
            Mlp::Replicated => {
                (Linear::replicated(hidden, inner), Linear::replicated(inner, hidden))
            }
            Mlp::GatedWholeDown => {
                (Linear::merged(hidden, [inner, inner]), Linear::replicated(inner, hidden))
            }
        };
        b.linear(self.names.up, up.bias(self.up_bias));
        b.linear(self.names.down, down.bias(self.down_bias));
    }
}

/// Refuses an activation that the model class of the engine does not have.
pub(super) fn activation(fields: &Fields<'_>, name: &str, known: &[&str]) -> Result<()> {
    match fields.text(name)? {
        Some(found) if !known.contains(&found) => {
            let problem = format!("{}; expected {}", kind(&found.into()), known.join(" or "));
            Err(wrong(fields.path(name), problem))
        }
        _ => Ok(()),
    }
}

/// Refuses a flag whose other value means a model that the engine does not build.
pub(super) fn flag_is(fields: &Fields<'_>, name: &str, expected: bool, why: &str) -> Result<()> {
    if fields.flag(name, expected)? == expected {
        return Ok(());
    }
    Err(wrong(fields.path(name), format!("{}: {why}", !expected)))
}
