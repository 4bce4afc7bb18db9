//! What is different on a processor.
//!
//! Rules of `vllm/platforms/cpu.py` (`check_and_update_config`).

use super::backend::{Backend, Request};
use crate::engine::{DeviceKind, Params};
use crate::model::cache::{CacheKind, State, StateDtype, StateShape};
use crate::model::{Dtype, Layout, Refusal, RefusalRule};

/// Tokens a block.
const BLOCK_SIZE: u64 = 128;
/// The reference kernel of latent attention is compiled for these blocks alone.
const REFERENCE_BLOCK_SIZE: u64 = 16;
/// As are DeepSeek V4's kernels.
const V4_BLOCK_SIZE: u64 = 256;
/// `SchedulerConfig.DEFAULT_MAX_NUM_BATCHED_TOKENS`.
const BATCH: u64 = 2048;

fn is_cpu(params: &Params) -> bool {
    params.device.kind == DeviceKind::Cpu
}

fn has(layout: &Layout, wanted: fn(&CacheKind) -> bool) -> bool {
    layout.caches.iter().any(|cache| wanted(&cache.kind))
}

fn is_v4(layout: &Layout) -> bool {
    has(layout, |kind| matches!(kind, CacheKind::WindowLatent(_)))
}

fn is_latent(layout: &Layout) -> bool {
    has(layout, |kind| matches!(kind, CacheKind::Latent(_)))
}

/// Tokens a block. What the operator says counts only where the kernels can do it.
pub(super) fn block_size(layout: &Layout, params: &Params) -> u64 {
    match params.block_size {
        _ if is_v4(layout) => V4_BLOCK_SIZE,
        _ if is_latent(layout) && !params.processor.amx => REFERENCE_BLOCK_SIZE,
        Some(size) => size.into(),
        None => BLOCK_SIZE,
    }
}

/// Tokens a batch, where prompts cannot be split over batches: the reference kernels of latent
/// attention cannot, whatever the operator says.
pub(super) fn whole_prompts(layout: &Layout, params: &Params, tokens_max: u64) -> Option<u64> {
    let has_latents = is_latent(layout) || is_v4(layout);
    (is_cpu(params) && has_latents && !params.processor.amx).then(|| tokens_max.max(BATCH))
}

/// States beside latents need larger blocks than the reference kernel takes.
pub(super) fn check_aligned(
    backends: &[(Backend, Request<'_>)],
    block_size: u64,
) -> Result<(), Refusal> {
    let is_reference = backends.iter().any(|(backend, _)| *backend == Backend::CpuMla);
    if !is_reference || block_size == REFERENCE_BLOCK_SIZE {
        return Ok(());
    }
    let reason = format!(
        "blocks of {block_size} tokens hold a state, and latent attention on a processor without \
         AMX takes blocks of {REFERENCE_BLOCK_SIZE}"
    );
    Err(Refusal::new(RefusalRule::BlockSize, reason))
}

/// The state as it is kept: in float32 where the processor's own kernels run, but for a 16-bit
/// type that the checkpoint asks for and the kernel of gated deltas has.
pub(super) fn state(state: &State, params: &Params) -> State {
    let has_dtype = !matches!(
        state.shape,
        StateShape::ShortConv { .. } | StateShape::Linear { .. } | StateShape::Kda { .. }
    );
    let is_kept = matches!(state.shape, StateShape::Gdn { .. })
        && matches!(state.state_dtype, StateDtype::Fixed(Dtype::Float16 | Dtype::Bfloat16));
    if !is_cpu(params) || !params.processor.avx512_bf16 || !has_dtype || is_kept {
        return *state;
    }
    State { state_dtype: StateDtype::Fixed(Dtype::Float32), ..*state }
}
