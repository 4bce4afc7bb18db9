//! The cache of one layer as vLLM 0.32 describes it: its page, its block, what a request holds.
//!
//! Rules of `vllm/v1/kv_cache_interface.py`.

use crate::model::Dtype;
use serde::Serialize;

/// What kind of cache, which decides how much of a sequence it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "class", rename_all = "snake_case")]
pub enum Role {
    /// Keys and values of every token.
    Full,
    /// Latents (or indexer keys) of every token.
    Mla,
    /// Keys and values of the last tokens.
    Window {
        /// Tokens looked back on, the current one included.
        window: u64,
    },
    /// Latents of the last tokens.
    WindowMla {
        /// Tokens looked back on, the current one included.
        window: u64,
    },
    /// Keys and values of the current chunk.
    Chunk {
        /// Tokens of a chunk.
        chunk: u64,
    },
    /// A state of fixed size.
    State {
        /// Bytes of the state.
        bytes: u64,
        /// Pages a sequence holds.
        pages: u64,
    },
    /// Keys and values of an encoder's output.
    Cross,
}

/// How far apart the blocks of a layer must start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) enum Stride {
    /// Anywhere.
    Free,
    /// At multiples of so many bytes.
    Bytes(u64),
    /// At whole kernel blocks of up to so many tokens.
    KernelBlocks(u64),
}

/// The cache of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Spec {
    /// What kind of cache.
    #[serde(flatten)]
    pub role: Role,
    /// Tokens a block.
    pub block_size: u64,
    /// KV heads on one rank.
    pub num_kv_heads: u64,
    /// Elements of a key.
    pub head_size: u64,
    /// Elements of a value.
    pub head_size_v: u64,
    /// Type of an element.
    pub dtype: Dtype,
    /// Tokens that share one stored entry.
    pub tokens_per_state: u64,
    /// Whether the elements are scaled 8-bit floats.
    #[serde(skip)]
    pub(crate) is_fp8: bool,
    /// Whether the elements are the model's own, whatever the KV cache dtype.
    #[serde(skip)]
    pub(crate) keeps_model_dtype: bool,
    /// Slots a stored entry, where it is not one a KV head.
    #[serde(skip)]
    pub(crate) head_slots: Option<u64>,
    /// Bytes of a slot, where the kernel packs it.
    #[serde(skip)]
    pub(crate) content_bytes: Option<u64>,
    /// The page is rounded up to a multiple of this.
    #[serde(skip)]
    pub(crate) alignment: Option<u64>,
    /// The page is padded to this.
    #[serde(skip)]
    pub(crate) page_padded: Option<u64>,
    #[serde(skip)]
    pub(crate) stride: Stride,
    /// What keeps otherwise equal layers in different groups.
    #[serde(skip)]
    pub(crate) marker: &'static str,
}

impl Spec {
    /// A dense cache of keys and values.
    pub(crate) fn attention(
        role: Role,
        block_size: u64,
        heads: u64,
        dims: [u64; 2],
        dtype: Dtype,
    ) -> Self {
        Self {
            role,
            block_size,
            num_kv_heads: heads,
            head_size: dims[0],
            head_size_v: dims[1],
            dtype,
            tokens_per_state: 1,
            is_fp8: false,
            keeps_model_dtype: false,
            head_slots: None,
            content_bytes: None,
            alignment: None,
            page_padded: None,
            stride: Stride::Free,
            marker: "",
        }
    }

    /// Bytes of one slot: a key and a value, unless the kernel packs them.
    pub(crate) fn slot_bytes(&self) -> u64 {
        let dense =
            || self.head_size.saturating_add(self.head_size_v).saturating_mul(self.dtype.bytes());
        self.content_bytes.unwrap_or_else(dense)
    }

    /// Bytes of a page before padding.
    pub(crate) fn bare_page_bytes(&self) -> u64 {
        if let Role::State { bytes, .. } = self.role {
            return bytes;
        }
        let states = self.block_size / self.tokens_per_state.max(1);
        let slots = self.head_slots.unwrap_or(self.num_kv_heads);
        slots.saturating_mul(states).saturating_mul(self.slot_bytes())
    }

    /// Bytes of a page: one block of this layer.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        if let Some(padded) = self.page_padded {
            return padded;
        }
        let bare = self.bare_page_bytes();
        self.alignment.map_or(bare, |alignment| rounded_up(bare, alignment))
    }

    /// Bytes between the blocks of this layer: its page, rounded to what the kernel can address.
    pub(crate) fn stride_bytes(&self) -> u64 {
        rounded_up(self.page_bytes(), self.stride_alignment())
    }

    pub(crate) fn stride_alignment(&self) -> u64 {
        match self.stride {
            Stride::Free => 1,
            Stride::Bytes(bytes) => bytes.max(1),
            Stride::KernelBlocks(tokens) => {
                let kernel = gcd(tokens, self.block_size);
                if kernel == self.block_size {
                    return 1;
                }
                // The padded page of a smaller block is still the padding itself.
                Self { block_size: kernel, ..self.clone() }.page_bytes().max(1)
            }
        }
    }

    /// Whether the layer keeps every token.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.role, Role::Full | Role::Mla)
    }

    /// Blocks that a request may hold at once while `in_flight` tokens are scheduled and not yet
    /// settled, as a function of its length; `encoder` is the encoder's budget in tokens.
    pub(crate) fn held(&self, in_flight: u64, encoder: u64) -> Held {
        let fixed = |fixed_blocks| Held { block_tokens: 1, keep_tokens: 0, fixed_blocks };
        let growing = |keep_tokens, fixed_blocks| Held {
            block_tokens: self.block_size.max(1),
            keep_tokens,
            fixed_blocks,
        };
        match self.role {
            Role::Full | Role::Mla => growing(u64::MAX, 0),
            // One more, because a window need not start where a block does.
            Role::Window { window } | Role::WindowMla { window } => {
                growing(window.saturating_sub(1).saturating_add(in_flight), 1)
            }
            Role::Chunk { chunk } => growing(chunk.saturating_add(in_flight), 0),
            Role::State { pages, .. } => fixed(pages),
            Role::Cross => fixed(encoder.div_ceil(self.block_size.max(1))),
        }
    }
}

/// Blocks that a request of `n` tokens may hold of one layer:
/// `ceil(min(n, keep_tokens) / block_tokens) + fixed_blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// At least one.
    pub(crate) block_tokens: u64,
    /// `u64::MAX`: all of them.
    pub(crate) keep_tokens: u64,
    pub(crate) fixed_blocks: u64,
}

impl Held {
    pub(crate) const NOTHING: Self = Self { block_tokens: 1, keep_tokens: 0, fixed_blocks: 0 };

    pub(crate) fn blocks(self, tokens: u64) -> u64 {
        let growing = tokens.min(self.keep_tokens).div_ceil(self.block_tokens);
        growing.saturating_add(self.fixed_blocks)
    }

    /// Never less than the other, at any length.
    pub(crate) const fn covers(self, other: Self) -> bool {
        self.fixed_blocks >= other.fixed_blocks
            && (other.keep_tokens == 0
                || self.keep_tokens >= other.keep_tokens && self.block_tokens <= other.block_tokens)
    }

    /// The least of its form that covers both.
    pub(crate) fn covering(self, other: Self) -> Self {
        let block_tokens = match [self, other].map(|held| held.keep_tokens) {
            [0, _] => other.block_tokens,
            [_, 0] => self.block_tokens,
            _ => self.block_tokens.min(other.block_tokens),
        };
        Self {
            block_tokens,
            keep_tokens: self.keep_tokens.max(other.keep_tokens),
            fixed_blocks: self.fixed_blocks.max(other.fixed_blocks),
        }
    }
}

/// The next multiple, or the value itself where that is beyond the range: a page so large fits
/// nowhere anyway.
pub(crate) fn rounded_up(value: u64, multiple: u64) -> u64 {
    value.checked_next_multiple_of(multiple.max(1)).unwrap_or(value)
}

pub(crate) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

pub(crate) fn lcm(a: u64, b: u64) -> u64 {
    if a == 0 || b == 0 { a.max(b) } else { (a / gcd(a, b)).saturating_mul(b) }
}
