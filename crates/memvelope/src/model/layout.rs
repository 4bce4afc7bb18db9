//! How a model stores its caches, and what its weights take.

use super::builder::Builder;
use super::cache::{Cache, CacheKind, Reach};
use super::config_class;
use super::dtype::Dtype;
use super::families::Family;
use super::hf_config::{Config, Document, kind, wrong};
use super::length;
use super::refusal::{Refusal, RefusalRule};
use super::weights::quant::{Hardware, Quantization};
use super::weights::{Inventory, Weights};
use crate::error::Result;
use crate::units::{Bytes, CostCurve, Tokens};
use serde::Serialize;

/// How a model stores its caches, and what its weights take.
#[derive(Clone, Debug, Serialize)]
pub struct Layout {
    /// The entry of `architectures` that decided, else the family's own name.
    pub architecture: String,
    /// `model_type` of the document.
    pub model_type: String,
    /// Layers of the language model.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// KV heads a layer (of the first kind of layer, where they differ).
    pub kv_heads: u32,
    /// Size of one head (of the first kind of layer, where they differ).
    pub head_dim: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the MLP between its matrices.
    pub intermediate_size: u32,
    /// Tokens of the vocabulary, as declared (the embedding may be padded).
    pub vocab_size: u32,
    /// Bytes of one cached element in the model's own dtype.
    pub element_bytes: u32,
    /// The dtype the model is served in.
    pub dtype: Dtype,
    /// Longest sequence the engine serves unless told otherwise, as the config declares it.
    pub max_tokens: Option<Tokens>,
    /// Bytes of all parameters on one GPU, computed from the config by architecture. `None` where
    /// [`Self::weights`] says why they are not known, or one GPU cannot hold them in their form.
    pub weight_bytes: Option<Bytes>,
    /// Every cache, in the order of the layers.
    pub caches: Vec<Cache>,
    /// Layers that read another layer's cache and keep none themselves.
    pub shared_layers: u32,
    /// Whether the engine runs a multimodal processor for it.
    pub is_multimodal: bool,
    /// Multimodal positions attend in both directions.
    pub is_prefix_lm: bool,
    /// Of an architecture without attention (not merely a hybrid whose layers have none), for which
    /// the engine leaves prefix caching off.
    pub is_attention_free: bool,
    /// Tokens of the largest multimodal item, where the engine's processor states it.
    pub mm_item_tokens_max: Option<u32>,
    /// An encoder-decoder model.
    pub is_encoder_decoder: bool,
    /// The model class hands no cache options to its layers, so the KV cache dtype is its own.
    pub ignores_kv_dtype: bool,
    /// Attention logits are capped by a tanh.
    pub has_soft_cap: bool,
    /// Attention is biased by distance (ALiBi).
    #[serde(skip)]
    pub(crate) has_alibi: bool,
    /// The model class hands its layers options that Triton's kernel alone has.
    #[serde(skip)]
    pub(crate) triton_only: bool,
    /// The longest sequence the engine may be told to serve; `None`: any.
    #[serde(skip)]
    pub(crate) longest: Option<Tokens>,
    #[serde(skip)]
    inventory: Inventory,
    #[serde(skip)]
    quantization: Quantization,
}

/// The largest `config.json` that is read; real ones have some kilobytes, and 16 MiB parse in well
/// under a second.
pub(super) const CONFIG_BYTES_MAX: usize = 16 << 20;

impl Layout {
    /// Reads a Hugging Face `config.json`.
    ///
    /// A `dtype` of `float32`, or none, is read as `bfloat16`, which is what vLLM serves such
    /// models in.
    ///
    /// # Errors
    /// [`crate::Error::ReadModel`] names the field and what is wrong with it;
    /// [`crate::Error::UnknownModel`] lists what is known.
    pub fn from_config(json: &str) -> Result<Self> {
        Self::from_configs(json, None)
    }

    /// As [`Self::from_config`], with the `hf_quant_config.json` beside it, where there is one.
    ///
    /// # Errors
    /// As [`Self::from_config`].
    pub fn from_configs(json: &str, quantization: Option<&str>) -> Result<Self> {
        let document = Document::parse(json, CONFIG_BYTES_MAX)?;
        let config = document.config()?;
        let separate = quantization.map(|json| Document::parse(json, CONFIG_BYTES_MAX));
        let separate = separate.transpose()?;
        let (family, architecture) = Family::of(&config)?;
        config_class::check(&config)?;
        let mut builder = Builder::default();
        (family.rule)(&config, &mut builder)?;
        let lengths = length::read(&config, builder.dims.tokens_max)?;
        let quantization = Quantization::read(&config, separate.as_ref())?;
        let model_type = config
            .root
            .text("model_type")?
            .unwrap_or_else(|| family.model_types.first().copied().unwrap_or_default());
        let layout =
            Self::assemble(builder, architecture, model_type, dtype(&config)?, quantization)?;
        Ok(Self { max_tokens: Some(lengths.native), longest: lengths.longest, ..layout })
    }

    fn assemble(
        builder: Builder,
        architecture: String,
        model_type: &str,
        dtype: Dtype,
        quantization: Quantization,
    ) -> Result<Self> {
        let Builder { dims, caches, inventory, shared_layers, .. } = builder;
        let quantization = quantization.with_caches(&caches, shared_layers);
        let weights = inventory.on_rank(1, dtype, &quantization, Hardware::default());
        Ok(Self {
            architecture,
            model_type: model_type.to_owned(),
            layers: dims.layers,
            heads: dims.heads,
            kv_heads: dims.kv_heads,
            head_dim: dims.head_dim,
            hidden_size: dims.hidden,
            intermediate_size: dims.inner,
            vocab_size: dims.vocab,
            element_bytes: u32::try_from(dtype.bytes()).unwrap_or(2),
            dtype,
            max_tokens: None,
            weight_bytes: weights.ok().map(|weights| weights.param_bytes),
            caches,
            shared_layers,
            is_multimodal: builder.is_multimodal,
            is_prefix_lm: builder.is_prefix_lm,
            is_attention_free: builder.is_attention_free,
            mm_item_tokens_max: builder.mm_item_tokens_max,
            is_encoder_decoder: builder.is_encoder_decoder,
            ignores_kv_dtype: builder.ignores_kv_dtype,
            has_soft_cap: builder.has_soft_cap,
            has_alibi: builder.has_alibi,
            triton_only: builder.triton_only,
            longest: None,
            inventory,
            quantization,
        })
    }

    /// The same model served in another dtype, as vLLM's `--dtype` says.
    ///
    /// # Errors
    /// [`Refusal`] where the engine does not serve the model in it.
    pub fn with_dtype(mut self, dtype: Dtype) -> std::result::Result<Self, Refusal> {
        let is_float = matches!(dtype, Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32);
        let is_unstable =
            dtype == Dtype::Float16 && NOT_IN_HALF.contains(&self.model_type.as_str());
        if !is_float || is_unstable {
            let reason = format!(
                "dtype {dtype}: {}; expected {}bfloat16 or float32",
                if is_unstable { "unstable for this model" } else { "not one to compute in" },
                if is_unstable { "" } else { "float16, " },
            );
            return Err(Refusal::new(RefusalRule::Dtype, reason));
        }
        self.dtype = dtype;
        self.element_bytes = u32::try_from(dtype.bytes()).unwrap_or(2);
        self.weight_bytes = self.weights(1).ok().map(|weights| weights.param_bytes);
        Ok(self)
    }

    /// Parameters on one of `tp` tensor-parallel ranks.
    ///
    /// # Errors
    /// [`Refusal`] when something does not divide over the ranks, or when the config does not say
    /// what the weights take ([`super::RefusalRule::UnknownWeights`]).
    pub fn weights(&self, tp: u32) -> std::result::Result<Weights, Refusal> {
        self.weights_on(tp, Hardware::default().capability)
    }

    /// As [`Self::weights`], on a GPU of this compute capability (major, minor): kernels differ, and
    /// with them how far some quantised experts are padded. [`Self::weights`] takes a Hopper.
    ///
    /// # Errors
    /// As [`Self::weights`].
    pub fn weights_on(
        &self,
        tp: u32,
        capability: (u32, u32),
    ) -> std::result::Result<Weights, Refusal> {
        let hardware = Hardware { capability };
        self.inventory.on_rank(tp.into(), self.dtype, &self.quantization, hardware)
    }

    /// The engines' name of the checkpoint's quantisation, as vLLM resolves it.
    #[must_use]
    pub fn quantization_name(&self) -> Option<&'static str> {
        self.quantization.method_name()
    }

    /// The KV cache dtype that the checkpoint asks for, by the engines' name; `None`: the model's.
    #[must_use]
    pub fn checkpoint_kv_dtype(&self) -> Option<&'static str> {
        self.quantization.kv_cache_dtype()
    }

    /// The modules of the model.
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// A description of a common 8-billion-parameter GQA model (32 layers, 8 KV heads of 128),
    /// for demos without a config.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the text is ours, and a test parses it")]
    pub fn builtin_8b() -> Self {
        Self::from_config(include_str!("builtin_8b.json")).expect("the built-in description parses")
    }

    /// Bytes one more token takes in the caches that grow with every token, in the model's own
    /// dtype on one GPU: for plain attention
    /// `2 x layers x kv_heads x head_dim x element_bytes`.
    #[must_use]
    pub fn per_token(&self) -> Bytes {
        let element = self.dtype.bytes();
        let of = |cache: &Cache| match &cache.kind {
            CacheKind::Attention(attention) if attention.reach == Reach::Full => {
                let dims = u64::from(attention.key_dim) + u64::from(attention.value_dim);
                u64::from(attention.kv_heads) * dims * element
            }
            CacheKind::Latent(latent) => {
                (u64::from(latent.lora_rank) + u64::from(latent.rope_dim)) * element
            }
            CacheKind::Indexer(indexer) => {
                indexer.state_bytes() / u64::from(indexer.tokens_per_state.max(1))
            }
            CacheKind::Compressed(latent) => {
                u64::from(latent.state_bytes) / u64::from(latent.tokens_per_state.max(1))
            }
            CacheKind::Attention(_)
            | CacheKind::State(_)
            | CacheKind::Cross(_)
            | CacheKind::WindowLatent(_)
            | CacheKind::Compressor(_) => 0,
        };
        self.caches.iter().map(|cache| Bytes(of(cache))).sum()
    }

    /// Bytes of a block of `block_tokens` tokens.
    #[must_use]
    pub fn block_bytes(&self, block_tokens: u32) -> Bytes {
        self.per_token().saturating_mul(block_tokens.into())
    }

    /// Whether every layer keeps keys and values of every token, all of the same size: then
    /// [`Self::per_token`] is the whole cost.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let mut kinds = self.caches.iter().map(|cache| &cache.kind);
        let Some(first @ CacheKind::Attention(attention)) = kinds.next() else { return false };
        attention.reach == Reach::Full && kinds.all(|kind| kind == first)
    }

    /// Tokens to blocks, for the gate. `None` if `block_tokens` is zero.
    #[must_use]
    pub fn cost_curve(&self, block_tokens: u32) -> Option<CostCurve> {
        // Full attention keeps nothing per sequence but its tokens.
        CostCurve::new(block_tokens, 0)
    }
}

/// Numerically unstable in half precision, so vLLM serves them in the other one (`config/model.py`,
/// `_FLOAT16_NOT_SUPPORTED_MODELS`).
const NOT_IN_HALF: &[&str] = &["gemma2", "gemma3", "gemma3_text", "glm4"];

/// The dtype that the model is served in with vLLM's `--dtype auto` (`config/model.py`).
///
/// The document's own counts, then the language model's, then that of a tower. What no device
/// computes in (`float32`, or the type of quantised weights) is served in `bfloat16`.
fn dtype(config: &Config<'_>) -> Result<Dtype> {
    let towers = ["vision_config", "encoder_config"];
    let mut places = vec![config.root.clone(), config.text.clone()];
    for name in towers {
        places.extend(config.root.object(name)?);
    }
    for fields in &places {
        for name in ["dtype", "torch_dtype"] {
            let Some(found) = fields.text(name)? else { continue };
            return match found.trim_start_matches("torch.") {
                "float16" | "half" => {
                    let model_type = config.root.text("model_type")?.unwrap_or_default();
                    let is_half = !NOT_IN_HALF.contains(&model_type);
                    Ok(if is_half { Dtype::Float16 } else { Dtype::Bfloat16 })
                }
                "bfloat16" | "float32" | "float" | "float64" | "double" => Ok(Dtype::Bfloat16),
                name if name.starts_with("float8_") => Ok(Dtype::Bfloat16),
                _ => {
                    let found = kind(&serde_json::Value::from(found));
                    let problem = format!("{found}; expected bfloat16, float16 or float32");
                    Err(wrong(fields.path(name), problem))
                }
            };
        }
    }
    Ok(Dtype::Bfloat16)
}
