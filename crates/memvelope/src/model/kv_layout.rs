//! How a model stores its KV cache.

use super::family::Family;
use super::hf_config::Document;
use super::shape::Shape;
use super::weights;
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
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the MLP between its matrices.
    pub intermediate_size: u32,
    /// Tokens of the vocabulary, as declared (the embedding may be padded).
    pub vocab_size: u32,
    /// Bytes of one cached element.
    pub element_bytes: u32,
    /// Name of the cached dtype, e.g. `bfloat16`.
    pub dtype: String,
    /// Longest sequence the config declares.
    pub max_tokens: Option<Tokens>,
    /// Bytes of all parameters, computed from the config by architecture.
    pub weight_bytes: Bytes,
}

/// The largest `config.json` that is read; real ones have some kilobytes, and 16 MiB parse in well
/// under a second.
const CONFIG_BYTES_MAX: usize = 16 << 20;

impl Layout {
    /// Reads a Hugging Face `config.json`.
    ///
    /// Known are decoder-only models with full attention in every layer (MHA, GQA, MQA), without
    /// quantisation. A `dtype` of `float32`, or none, is read as `bfloat16`, which is what vLLM
    /// serves such models in.
    ///
    /// # Errors
    /// [`crate::Error::ReadModel`] names the field and what is wrong with it;
    /// [`crate::Error::UnknownModel`] lists what is known.
    pub fn from_config(json: &str) -> Result<Self> {
        let document = Document::parse(json, CONFIG_BYTES_MAX)?;
        let fields = document.fields()?;
        let family = Family::of(&fields)?;
        let shape = Shape::read(family, &fields)?;
        let element_bytes = 2; // bfloat16 and float16; `Shape::read` refuses all others.
        let weight_bytes = weights::parameters(family, &shape).saturating_mul(element_bytes.into());
        Ok(Self {
            architecture: shape.architecture,
            layers: shape.layers,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            hidden_size: shape.hidden_size,
            intermediate_size: shape.intermediate_size,
            vocab_size: shape.vocab_size,
            element_bytes,
            dtype: shape.dtype.into(),
            max_tokens: shape.max_tokens,
            weight_bytes: Bytes(weight_bytes),
        })
    }

    /// A description of a common 8-billion-parameter GQA model (32 layers, 8 KV heads of 128),
    /// for demos without a config.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the text is ours, and a test parses it")]
    pub fn builtin_8b() -> Self {
        Self::from_config(include_str!("builtin_8b.json")).expect("the built-in description parses")
    }

    /// Bytes one more token takes: `2 x layers x kv_heads x head_dim x element_bytes`.
    #[must_use]
    pub fn per_token(&self) -> Bytes {
        [self.layers, self.kv_heads, self.head_dim, self.element_bytes]
            .into_iter()
            .fold(Bytes(2), |bytes, factor| bytes.saturating_mul(factor.into()))
    }

    /// Bytes of a block of `block_tokens` tokens.
    #[must_use]
    pub fn block_bytes(&self, block_tokens: u32) -> Bytes {
        self.per_token().saturating_mul(block_tokens.into())
    }

    /// Tokens to blocks, for the gate. `None` if `block_tokens` is zero.
    #[must_use]
    pub fn cost_curve(&self, block_tokens: u32) -> Option<CostCurve> {
        // Full attention keeps nothing per sequence but its tokens.
        CostCurve::new(block_tokens, 0)
    }
}
