//! The arithmetic alone: what a model keeps for a sequence, without any engine's rounding to
//! blocks, pages or groups.

use crate::model::cache::{Attention, CacheKind, Reach};
use crate::model::{Dtype, Layout, Refusal, RefusalRule};
use crate::units::{Bytes, Tokens};

/// Bytes that one sequence of `tokens` keeps on one device, in the model's own dtype: every token
/// where a layer looks back on all, the last of a window where it does not, and states once.
#[must_use]
pub fn sequence_bytes(layout: &Layout, tokens: Tokens) -> Bytes {
    // Everything divides by one.
    sequence_bytes_on(layout, 1, tokens).unwrap_or_default()
}

/// The same on one of `tp` tensor-parallel ranks: KV heads are split, and repeated where there are
/// fewer of them than ranks; latents are whole on every rank.
///
/// # Errors
/// [`Refusal`] when something does not divide over the ranks.
pub fn sequence_bytes_on(layout: &Layout, tp: u32, tokens: Tokens) -> Result<Bytes, Refusal> {
    if tp == 0 || !layout.heads.is_multiple_of(tp) {
        let reason = format!("{} attention heads do not divide over {tp} ranks", layout.heads);
        return Err(Refusal::new(RefusalRule::TensorParallel, reason));
    }
    let mut sum = Bytes::ZERO;
    for cache in &layout.caches {
        let unit = unit_bytes(&cache.kind, layout.dtype, tp)?;
        sum = sum.saturating_add(unit.saturating_mul(units(&cache.kind, tokens.0)));
    }
    Ok(sum)
}

/// Bytes of what a cache keeps once: for a token, for several that share it, or for a sequence.
pub(crate) fn unit_bytes(kind: &CacheKind, dtype: Dtype, tp: u32) -> Result<Bytes, Refusal> {
    let element = dtype.bytes();
    Ok(match kind {
        CacheKind::Attention(attention) | CacheKind::Cross(attention) => {
            let dims = u64::from(attention.key_dim) + u64::from(attention.value_dim);
            Bytes(dims * element).saturating_mul(kv_heads(attention, tp))
        }
        CacheKind::Latent(latent) => {
            Bytes((u64::from(latent.lora_rank) + u64::from(latent.rope_dim)) * element)
        }
        CacheKind::Indexer(indexer) => Bytes(indexer.state_bytes()),
        CacheKind::State(state) => state.bytes(tp, dtype)?,
        CacheKind::Compressed(latent) => Bytes(latent.state_bytes.into()),
        CacheKind::WindowLatent(latent) => Bytes(latent.state_bytes.into()),
        // Rows of float32.
        CacheKind::Compressor(compressor) => Bytes(4 * u64::from(compressor.width)),
    })
}

/// KV heads on one of `tp` ranks.
pub(crate) fn kv_heads(attention: &Attention, tp: u32) -> u64 {
    (u64::from(attention.kv_heads) / u64::from(tp.max(1))).max(1)
}

/// Tokens that share one stored entry.
pub(crate) fn tokens_per_state(kind: &CacheKind) -> u64 {
    let tokens = match kind {
        CacheKind::Indexer(indexer) => indexer.tokens_per_state,
        CacheKind::Compressed(latent) => latent.tokens_per_state,
        _ => 1,
    };
    u64::from(tokens).max(1)
}

/// How many entries a sequence of `tokens` keeps.
fn units(kind: &CacheKind, tokens: u64) -> u64 {
    match kind {
        CacheKind::Attention(attention) => match attention.reach {
            Reach::Full => tokens,
            Reach::Window(window) | Reach::Chunk(window) => tokens.min(window.into()),
        },
        CacheKind::Latent(_) => tokens,
        CacheKind::Indexer(_) | CacheKind::Compressed(_) => tokens.div_ceil(tokens_per_state(kind)),
        CacheKind::State(_) => 1,
        CacheKind::WindowLatent(latent) => tokens.min(latent.window.into()),
        CacheKind::Compressor(compressor) => tokens.min(compressor.window.into()),
        // What an encoder keeps depends on its input, not on these tokens.
        CacheKind::Cross(_) => 0,
    }
}
