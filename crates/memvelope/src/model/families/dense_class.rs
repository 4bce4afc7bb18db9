//! The sizes of a dense decoder as its Hugging Face config class holds them (transformers 5.19).
//!
//! The engine reads every config through such a class, so an absent field has the class's default.
//! Classes that live beside their checkpoints and not in transformers have none here.

use super::limits::{
    HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX, WIDTH_MAX,
};
use crate::error::Result;
use crate::model::builder::Dims;
use crate::model::hf_config::{Fields, wrong};

/// How one class names its sizes, and what they are where the file is silent; 0: no default.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    pub(super) keys: Keys,
    pub(super) hidden: u32,
    pub(super) layers: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: KvHeads,
    pub(super) head_dim: HeadDim,
    pub(super) inner: Inner,
    pub(super) vocab: u32,
    /// `max_position_embeddings`.
    pub(super) tokens: u32,
    /// `tie_word_embeddings`.
    pub(super) tied: bool,
}

/// Names of the size fields; the first that is there counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) hidden: &'static [&'static str],
    pub(super) layers: &'static [&'static str],
    pub(super) heads: &'static [&'static str],
    pub(super) kv_heads: &'static [&'static str],
    pub(super) vocab: &'static [&'static str],
    pub(super) tokens: &'static [&'static str],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum KvHeads {
    /// Declared, else as many as query heads.
    Heads,
    /// Declared; null is as many as query heads, absent is this.
    Own(u32),
    /// As many as query heads, whatever is declared.
    Same,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum HeadDim {
    /// Declared, else hidden size / heads.
    Declared,
    /// Declared; null is hidden size / heads, absent is this.
    Own(u32),
    /// Hidden size / heads, whatever is declared.
    Ratio,
}

/// Where the width of the MLP is found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inner {
    /// Declared, else this; 0: it must be.
    Field(&'static str, u32),
    /// Declared, else four times the hidden size.
    FieldOrFourfold(&'static str),
    /// Always four times the hidden size.
    Fourfold,
}

pub(super) const KEYS: Keys = Keys {
    hidden: &["hidden_size"],
    layers: &["num_hidden_layers"],
    heads: &["num_attention_heads"],
    kv_heads: &["num_key_value_heads"],
    vocab: &["vocab_size"],
    tokens: &["max_position_embeddings"],
};

/// The names of GPT-2 and its descendants.
pub(super) const GPT_KEYS: Keys = Keys {
    hidden: &["n_embd", "hidden_size"],
    layers: &["n_layer", "num_hidden_layers"],
    heads: &["n_head", "num_attention_heads"],
    tokens: &["n_positions", "max_position_embeddings"],
    ..KEYS
};

/// A class that is not in transformers: every size must be declared.
pub(super) const FOREIGN: Class = Class {
    keys: KEYS,
    hidden: 0,
    layers: 0,
    heads: 0,
    kv_heads: KvHeads::Heads,
    head_dim: HeadDim::Declared,
    inner: Inner::Field("intermediate_size", 0),
    vocab: 0,
    tokens: 0,
    tied: false,
};

pub(super) const LLAMA: Class = Class {
    inner: Inner::Field("intermediate_size", 11008),
    tokens: 2048,
    ..sized(4096, 32, 32, 0, 32000)
};

/// A class with the usual names: hidden size, layers, heads, width of the MLP, vocabulary.
pub(super) const fn sized(hidden: u32, layers: u32, heads: u32, inner: u32, vocab: u32) -> Class {
    let inner = Inner::Field("intermediate_size", inner);
    Class { hidden, layers, heads, inner, vocab, ..FOREIGN }
}

/// Model types whose config class has no size of heads. The class is that of the model type, which
/// need not be the architecture's own.
const WITHOUT_HEAD_DIM: &[&str] =
    &["granite", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "starcoder2"];

impl Class {
    pub(super) fn dims(&self, fields: &Fields<'_>) -> Result<Dims> {
        let keys = &self.keys;
        let heads = size(fields, keys.heads, self.heads, HEADS_MAX)?;
        let hidden = size(fields, keys.hidden, self.hidden, WIDTH_MAX)?;
        let inner = match self.inner {
            Inner::Field(name, default) => size(fields, &[name], default, INNER_MAX)?,
            Inner::FieldOrFourfold(name) => {
                fields.count(name, INNER_MAX)?.unwrap_or(hidden.saturating_mul(4))
            }
            Inner::Fourfold => hidden.saturating_mul(4),
        };
        let tokens = fields.count_of(keys.tokens, TOKENS_MAX)?;
        Ok(Dims {
            layers: size(fields, keys.layers, self.layers, LAYERS_MAX)?,
            heads,
            kv_heads: self.kv_heads(fields, heads)?,
            head_dim: self.head_dim(fields, hidden, heads)?,
            hidden,
            inner,
            vocab: size(fields, keys.vocab, self.vocab, VOCAB_MAX)?,
            tokens_max: tokens.or(Some(self.tokens).filter(|&tokens| tokens > 0)),
        })
    }

    pub(super) fn tied(&self, fields: &Fields<'_>) -> Result<bool> {
        fields.flag("tie_word_embeddings", self.tied)
    }

    fn kv_heads(&self, fields: &Fields<'_>, heads: u32) -> Result<u32> {
        let names = self.keys.kv_heads;
        let declared = match self.kv_heads {
            KvHeads::Same => return Ok(heads),
            _ => fields.count_of(names, HEADS_MAX)?,
        };
        let is_absent = !names.iter().any(|name| fields.is_present(name));
        let kv_heads = match (declared, self.kv_heads) {
            (Some(declared), _) => declared,
            (None, KvHeads::Own(default)) if is_absent => default,
            (None, _) => heads,
        };
        divides(fields, names[0], kv_heads, heads)
    }

    fn head_dim(&self, fields: &Fields<'_>, hidden: u32, heads: u32) -> Result<u32> {
        const NAME: &str = "head_dim";
        let declared = match self.head_dim {
            HeadDim::Ratio => None,
            HeadDim::Declared => fields.count(NAME, HEAD_DIM_MAX)?,
            HeadDim::Own(default) if !fields.is_present(NAME) => {
                let model_type = fields.text("model_type")?;
                (!model_type.is_some_and(|name| WITHOUT_HEAD_DIM.contains(&name)))
                    .then_some(default)
            }
            HeadDim::Own(_) => fields.count(NAME, HEAD_DIM_MAX)?,
        };
        match declared {
            Some(declared) => Ok(declared),
            None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
            None => {
                let problem = format!("{hidden} is not a multiple of the {heads} query heads");
                Err(wrong(fields.path(self.keys.hidden[0]), problem))
            }
        }
    }
}

/// Checks that every KV head serves the same number of query heads.
pub(super) fn divides(fields: &Fields<'_>, name: &str, kv_heads: u32, heads: u32) -> Result<u32> {
    if kv_heads > 0 && heads.is_multiple_of(kv_heads) {
        return Ok(kv_heads);
    }
    let problem = format!("{kv_heads} does not divide the {heads} query heads");
    Err(wrong(fields.path(name), problem))
}

/// A size; absent is the default, null is not.
fn size(fields: &Fields<'_>, names: &[&str], default: u32, max: u32) -> Result<u32> {
    if default > 0 && !names.iter().any(|name| fields.is_present(name)) {
        return Ok(default);
    }
    fields.required(names, max)
}
