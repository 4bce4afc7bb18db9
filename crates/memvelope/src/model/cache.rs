//! What a model keeps between steps, layer by layer, before any engine rounds it.

use super::dtype::Dtype;
use super::refusal::{Refusal, RefusalRule};
use crate::units::Bytes;
use serde::Serialize;

/// One cache of one layer. A layer may have several (keys and values, and an indexer), or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// Index of the layer in the model.
    pub layer: u32,
    /// What is kept.
    pub kind: CacheKind,
}

/// What a cache keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CacheKind {
    /// Keys and values of every KV head.
    Attention(Attention),
    /// One latent vector a token, shared by all heads (MLA).
    Latent(Latent),
    /// Keys of the indexer that selects tokens for sparse attention.
    Indexer(Indexer),
    /// One latent vector for several tokens (DeepSeek V4).
    Compressed(Compressed),
    /// Latent vectors of the last tokens alone (DeepSeek V4).
    WindowLatent(WindowLatent),
    /// What a compressor keeps of the tokens it has not yet made a latent of (DeepSeek V4).
    Compressor(Compressor),
    /// A state of fixed size a sequence: SSM, linear attention, short convolution.
    State(State),
    /// Keys and values of an encoder's output.
    Cross(Attention),
}

/// Keys and values of every KV head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Attention {
    /// Query heads of the whole model.
    pub heads: u32,
    /// KV heads of the whole model, before they are split or replicated over ranks.
    pub kv_heads: u32,
    /// Elements of a key.
    pub key_dim: u32,
    /// Elements of a value.
    pub value_dim: u32,
    /// Which tokens the layer looks back on.
    pub reach: Reach,
    /// Learned attention sinks, which some kernels do not support.
    pub sinks: bool,
}

/// Which earlier tokens a layer looks back on, so which it must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// All of them.
    Full,
    /// The last so many, the current one included.
    Window(u32),
    /// Those of its own chunk of so many.
    Chunk(u32),
}

/// Multi-head latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Latent {
    /// Query heads of the whole model.
    pub heads: u32,
    /// `kv_lora_rank`: elements of the compressed vector.
    pub lora_rank: u32,
    /// `qk_rope_head_dim`: elements of the rotary part beside it.
    pub rope_dim: u32,
    /// `qk_nope_head_dim`: elements of a query without its rotary part.
    pub nope_dim: u32,
    /// `v_head_dim`.
    pub value_dim: u32,
    /// Whether an indexer selects the tokens that are looked at.
    pub sparse: bool,
    /// Whether that indexer is the layer's own, not that of a layer before it.
    pub leads: bool,
    /// Learned attention sinks, which some kernels do not support.
    pub sinks: bool,
}

/// The indexer beside sparse attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Indexer {
    /// Elements of one key.
    pub head_dim: u32,
    /// How the keys are stored.
    pub storage: IndexerStorage,
    /// Tokens that share one key.
    pub tokens_per_state: u32,
}

impl Indexer {
    /// Bytes of one key, whatever the dtype of the other caches.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        let dim = u64::from(self.head_dim);
        match self.storage {
            IndexerStorage::Fp8WithScales => dim + dim / 128 * 4,
            IndexerStorage::Bfloat16 => dim * Dtype::Bfloat16.bytes(),
        }
    }
}

/// One latent vector for several tokens (DeepSeek V4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Compressed {
    /// Query heads of the whole model.
    pub heads: u32,
    /// Elements of a latent.
    pub head_dim: u32,
    /// Tokens that share one latent.
    pub tokens_per_state: u32,
    /// Bytes of a latent in the packed fp8 form.
    pub state_bytes: u32,
    /// Bytes that a page in the packed form is rounded up to.
    pub alignment: u32,
}

/// Latent vectors of the last tokens alone (DeepSeek V4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct WindowLatent {
    /// Query heads of the whole model.
    pub heads: u32,
    /// Elements of a latent.
    pub head_dim: u32,
    /// Tokens kept, the current one included.
    pub window: u32,
    /// Bytes of a latent in the packed fp8 form.
    pub state_bytes: u32,
    /// Bytes that a page in the packed form is rounded up to.
    pub alignment: u32,
}

/// What a compressor keeps of the tokens it has not yet made a latent of: float32, one row a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Compressor {
    /// Elements of a row.
    pub width: u32,
    /// Tokens it makes one latent of.
    pub ratio: u32,
    /// Tokens kept, the current one included.
    pub window: u32,
    /// Bytes that a page is rounded up to.
    pub alignment: u32,
}

/// How an indexer stores its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexerStorage {
    /// One byte an element and a 4-byte scale every 128 elements (DeepSeek V3.2).
    Fp8WithScales,
    /// In bfloat16, whatever the model's dtype (MiniMax M3).
    Bfloat16,
}

/// A state of fixed size a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct State {
    /// Its shape.
    pub shape: StateShape,
    /// Dtype of the convolution window.
    pub conv_dtype: StateDtype,
    /// Dtype of the recurrent state.
    pub state_dtype: StateDtype,
}

impl State {
    /// Bytes of the state of one sequence in one layer on one of `tp` ranks.
    ///
    /// # Errors
    /// [`Refusal`] when the heads cannot be split.
    pub fn bytes(&self, tp: u32, dtype: Dtype) -> Result<Bytes, Refusal> {
        let bytes = |tensor: &StateTensor| {
            let of = if tensor.is_conv { self.conv_dtype } else { self.state_dtype };
            let elements = tensor.shape.iter().fold(1, |all: u64, &one| all.saturating_mul(one));
            Bytes(elements).saturating_mul(of.resolve(dtype).bytes())
        };
        Ok(self.shape.tensors(tp)?.iter().map(bytes).sum())
    }
}

/// The dtype of a part of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StateDtype {
    /// That of the model.
    Model,
    /// Always this one.
    Fixed(Dtype),
}

impl StateDtype {
    /// The dtype, where the model is served in `model`.
    #[must_use]
    pub fn resolve(self, model: Dtype) -> Dtype {
        match self {
            Self::Model => model,
            Self::Fixed(dtype) => dtype,
        }
    }
}

/// The shape of a state, before it is split over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "recurrence", rename_all = "snake_case")]
pub enum StateShape {
    /// Selective SSM of the first kind.
    Mamba1 {
        /// Width of the convolution and of the state.
        inner: u32,
        /// State elements a channel.
        state: u32,
        /// Taps of the convolution.
        conv: u32,
    },
    /// Selective SSM with heads.
    Mamba2 {
        /// Width: heads times head dimension.
        inner: u32,
        /// Groups that share B and C.
        groups: u32,
        /// Heads.
        heads: u32,
        /// Elements a head.
        head_dim: u32,
        /// State elements.
        state: u32,
        /// Taps of the convolution.
        conv: u32,
    },
    /// Gated delta rule (Qwen3-Next).
    Gdn {
        /// Key heads.
        key_heads: u32,
        /// Value heads.
        value_heads: u32,
        /// Elements of a key.
        key_dim: u32,
        /// Elements of a value.
        value_dim: u32,
        /// Taps of the convolution.
        conv: u32,
    },
    /// Kimi delta attention.
    Kda {
        /// Heads.
        heads: u32,
        /// Elements a head.
        head_dim: u32,
        /// Taps of the convolution.
        conv: u32,
        /// Whether FlashKDA can run the prefill, which exports checkpoints: its gate is bounded.
        flash: bool,
    },
    /// Short convolution alone (LFM2).
    ShortConv {
        /// Width.
        width: u32,
        /// Taps of the convolution.
        conv: u32,
    },
    /// Linear attention without convolution (MiniMax-Text-01).
    Linear {
        /// Heads.
        heads: u32,
        /// Elements a head.
        head_dim: u32,
    },
}

impl StateShape {
    /// Pages beside the two of prefix caching that hold checkpoints made during prefill.
    #[must_use]
    pub const fn checkpoint_pages(&self) -> u64 {
        match self {
            Self::Mamba2 { .. } | Self::Kda { flash: true, .. } => 1,
            _ => 0,
        }
    }

    /// Tensors of the state on one of `tp` ranks, in the order in which they are stored (vLLM 0.32
    /// `mamba_utils.py`): the convolution window first, as `[tokens, channels]`, then the
    /// recurrent state. Nothing lies between them.
    ///
    /// # Errors
    /// [`Refusal`] when the heads cannot be split.
    pub fn tensors(&self, tp: u32) -> Result<Vec<StateTensor>, Refusal> {
        let split = |what: &str, amount: u64| split(what, amount, tp.into());
        let window = |channels: u64, taps: u32| -> Result<StateTensor, Refusal> {
            let channels = split("width of the convolution", channels)?;
            Ok(StateTensor {
                shape: vec![u64::from(taps).saturating_sub(1), channels],
                is_conv: true,
            })
        };
        let state = |shape: [u64; 3]| StateTensor { shape: shape.to_vec(), is_conv: false };
        let wide = |a: u32, b: u32| u64::from(a).saturating_mul(b.into());
        Ok(match *self {
            Self::Mamba1 { inner, state, conv } => {
                let channels = split("width of the state space", inner.into())?;
                let recurrent = StateTensor { shape: vec![channels, state.into()], is_conv: false };
                vec![window(inner.into(), conv)?, recurrent]
            }
            Self::Mamba2 { inner, groups, heads, head_dim, state: size, conv } => {
                let groups = groups_over_ranks(groups.into(), tp.into())?;
                let shared = groups.saturating_mul(size.into()).saturating_mul(2);
                let heads = split("number of SSM heads", heads.into())?;
                let channels = u64::from(inner).saturating_add(shared);
                vec![window(channels, conv)?, state([heads, head_dim.into(), size.into()])]
            }
            Self::Gdn { key_heads, value_heads, key_dim, value_dim, conv } => {
                let keys = wide(key_heads, key_dim).saturating_mul(2);
                let channels = keys.saturating_add(wide(value_heads, value_dim));
                let heads = split("number of value heads", value_heads.into())?;
                vec![window(channels, conv)?, state([heads, value_dim.into(), key_dim.into()])]
            }
            Self::Kda { heads, head_dim, conv, .. } => {
                let channels = wide(heads, head_dim).saturating_mul(3);
                let heads = split("number of linear attention heads", heads.into())?;
                vec![window(channels, conv)?, state([heads, head_dim.into(), head_dim.into()])]
            }
            Self::ShortConv { width, conv } => vec![window(width.into(), conv)?],
            Self::Linear { heads, head_dim } => {
                let heads = split("number of linear attention heads", heads.into())?;
                vec![state([heads, head_dim.into(), head_dim.into()])]
            }
        })
    }
}

fn split(what: &str, amount: u64, tp: u64) -> Result<u64, Refusal> {
    if tp > 0 && amount.is_multiple_of(tp) {
        return Ok(amount / tp);
    }
    let reason = format!("{what} {amount} does not divide over {tp} ranks");
    Err(Refusal::new(RefusalRule::TensorParallel, reason))
}

/// Groups of B and C over all ranks: a single one is repeated on every rank.
pub(crate) fn groups_over_ranks(groups: u64, tp: u64) -> Result<u64, Refusal> {
    if groups == 1 { Ok(tp) } else { split("number of SSM groups", groups, tp).map(|_| groups) }
}

/// One tensor of a state on one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTensor {
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Whether it is the convolution window (else the recurrent state).
    pub is_conv: bool,
}
