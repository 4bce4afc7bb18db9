//! What a model costs: from a Hugging Face `config.json` to bytes per token.

use crate::error::Result;
use crate::units::{Bytes, CostCurve, Tokens};
use serde::Serialize;

/// How a model stores its KV cache, and what its weights take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layout {
    /// First of `architectures`, else `model_type`.
    pub architecture: String,
    /// Layers that cache.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// KV heads a layer.
    pub kv_heads: u32,
    /// Size of one head.
    pub head_dim: u32,
    /// Bytes of one cached element.
    pub element_bytes: u32,
    /// Name of the cached dtype, e.g. `bfloat16`.
    pub dtype: String,
    /// Longest sequence the config declares.
    pub max_tokens: Option<Tokens>,
    /// Bytes of all parameters, computed from the config by architecture.
    pub weight_bytes: Bytes,
}

impl Layout {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// [`crate::Error::ReadModel`] names the field and what is wrong with it;
    /// [`crate::Error::UnknownModel`] lists what is known.
    pub fn from_config(_json: &str) -> Result<Self> {
        todo!()
    }

    /// A description of a common 8-billion-parameter GQA model (32 layers, 8 KV heads of 128),
    /// for demos without a config.
    #[must_use]
    pub fn builtin_8b() -> Self {
        todo!()
    }

    /// Bytes one more token takes: `2 x layers x kv_heads x head_dim x element_bytes`.
    #[must_use]
    pub fn per_token(&self) -> Bytes {
        todo!()
    }

    /// Bytes of a block of `block_tokens` tokens.
    #[must_use]
    pub fn block_bytes(&self, _block_tokens: u32) -> Bytes {
        todo!()
    }

    /// Tokens to blocks, for the gate. `None` if `block_tokens` is zero.
    #[must_use]
    pub fn cost_curve(&self, _block_tokens: u32) -> Option<CostCurve> {
        todo!()
    }
}
