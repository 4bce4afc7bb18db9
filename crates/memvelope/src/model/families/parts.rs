//! Pieces that many rules share: the usual sizes, attention, MLPs.

use super::limits::{
    HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX, WIDTH_MAX,
};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{Attention, CacheKind, Reach};
use crate::model::hf_config::{Fields, wrong};
use crate::model::weights::module::Linear;

/// The sizes every such model declares. `head_dim` is what the Hugging Face class says where the
/// field is absent; `None`: hidden size / heads.
pub(super) fn dims(fields: &Fields<'_>, head_dim: Option<u32>) -> Result<Dims> {
    let heads = fields.required(&["num_attention_heads"], HEADS_MAX)?;
    let hidden = fields.required(&["hidden_size"], WIDTH_MAX)?;
    let kv_heads = fields.count("num_key_value_heads", HEADS_MAX)?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads} does not divide the {heads} query heads");
        return Err(wrong(fields.path("num_key_value_heads"), problem));
    }
    let head_dim = match fields.count("head_dim", HEAD_DIM_MAX)? {
        Some(declared) => declared,
        None if !fields.is_present("head_dim") && head_dim.is_some() => head_dim.unwrap_or(1),
        None => hidden / heads,
    };
    Ok(Dims {
        layers: fields.required(&["num_hidden_layers"], LAYERS_MAX)?,
        heads,
        kv_heads,
        head_dim,
        hidden,
        inner: fields.required(&["intermediate_size"], INNER_MAX)?,
        vocab: fields.required(&["vocab_size"], VOCAB_MAX)?,
        tokens_max: fields.count("max_position_embeddings", TOKENS_MAX)?,
    })
}

/// Query, key, value and output projections of plain attention, under the current scope.
pub(super) struct AttentionParts {
    pub(super) hidden: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) key_dim: u64,
    pub(super) value_dim: u64,
    pub(super) qkv_bias: bool,
    pub(super) out_bias: bool,
}

impl AttentionParts {
    /// As the headline sizes say, without biases.
    pub(super) fn of(dims: &Dims) -> Self {
        Self {
            hidden: dims.hidden.into(),
            heads: dims.heads.into(),
            kv_heads: dims.kv_heads.into(),
            key_dim: dims.head_dim.into(),
            value_dim: dims.head_dim.into(),
            qkv_bias: false,
            out_bias: false,
        }
    }

    /// Adds `qkv_proj` and the output projection of the given name.
    pub(super) fn build(&self, b: &mut Builder, output: &str) {
        let qkv = Linear::qkv(self.hidden, self.heads, self.kv_heads, self.key_dim, self.value_dim);
        b.linear("qkv_proj", qkv.bias(self.qkv_bias));
        let width = self.heads.saturating_mul(self.value_dim);
        b.linear(output, Linear::row(width, self.hidden).bias(self.out_bias));
    }
}

/// `gate_up_proj` and `down_proj`, under the current scope.
pub(super) fn gated_mlp(b: &mut Builder, hidden: u64, inner: u64, bias: bool) {
    b.linear("gate_up_proj", Linear::merged(hidden, [inner, inner]).bias(bias));
    b.linear("down_proj", Linear::row(inner, hidden).bias(bias));
}

/// Keys and values of plain attention, as the headline sizes say.
pub(super) fn attention_cache(dims: &Dims, reach: Reach) -> CacheKind {
    CacheKind::Attention(Attention {
        heads: dims.heads,
        kv_heads: dims.kv_heads,
        key_dim: dims.head_dim,
        value_dim: dims.head_dim,
        reach,
        sinks: false,
    })
}
