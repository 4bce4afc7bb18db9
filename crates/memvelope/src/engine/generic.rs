//! The arithmetic alone: what a model keeps for a sequence, without any engine's rounding to
//! blocks, pages or groups.

use crate::model::Layout;
use crate::model::cache::{CacheKind, Reach};
use crate::units::{Bytes, Tokens};

/// Bytes that one sequence of `tokens` keeps on one device, in the model's own dtype: every token
/// where a layer looks back on all, the last of a window where it does not, and states once.
#[must_use]
pub fn sequence_bytes(layout: &Layout, tokens: Tokens) -> Bytes {
    let element = layout.dtype.bytes();
    let of = |kind: &CacheKind| match kind {
        CacheKind::Attention(attention) => {
            let kept = match attention.reach {
                Reach::Full => tokens.0,
                Reach::Window(window) | Reach::Chunk(window) => tokens.0.min(window.into()),
            };
            let dims = u64::from(attention.key_dim) + u64::from(attention.value_dim);
            Bytes(u64::from(attention.kv_heads) * dims * element).saturating_mul(kept)
        }
        CacheKind::Latent(latent) => {
            let width = u64::from(latent.lora_rank) + u64::from(latent.rope_dim);
            Bytes(width * element).saturating_mul(tokens.0)
        }
        CacheKind::Indexer(indexer) => {
            let states = tokens.0.div_ceil(u64::from(indexer.tokens_per_state).max(1));
            Bytes(indexer.state_bytes()).saturating_mul(states)
        }
        CacheKind::State(state) => state.bytes(1, layout.dtype).unwrap_or_default(),
        CacheKind::Compressed(latent) => {
            let states = tokens.0.div_ceil(u64::from(latent.tokens_per_state).max(1));
            Bytes(latent.state_bytes.into()).saturating_mul(states)
        }
        CacheKind::WindowLatent(latent) => {
            Bytes(latent.state_bytes.into()).saturating_mul(tokens.0.min(latent.window.into()))
        }
        CacheKind::Compressor(compressor) => {
            // Rows of float32.
            let kept = tokens.0.min(compressor.window.into());
            Bytes(4 * u64::from(compressor.width)).saturating_mul(kept)
        }
        CacheKind::Cross(_) => Bytes::ZERO,
    };
    layout.caches.iter().map(|cache| of(&cache.kind)).sum()
}
