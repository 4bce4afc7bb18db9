//! What vLLM 0.32 does where the operator says nothing.

use crate::engine::{DeviceKind, Params, Usage};
use crate::units::Bytes;

/// `CacheConfig.DEFAULT_BLOCK_SIZE`.
pub(crate) const BLOCK_SIZE: u64 = 16;

/// `max_num_batched_tokens` and `max_num_seqs`
/// (`vllm/engine/arg_utils.py`, `get_batch_defaults`).
/// `whole` are tokens that a batch must hold at once.
pub(crate) fn batch(params: &Params, tokens_max: u64, whole: Option<u64>) -> (u64, u64) {
    let device = &params.device;
    let world = u64::from(params.tensor_parallel);
    let is_a100 = device.name.to_ascii_lowercase().contains("a100");
    let is_server = params.usage == Usage::Server;
    let by_usage = |server: u64, offline: u64| if is_server { server } else { offline };
    let (tokens, seqs) = match device.kind {
        DeviceKind::Cpu => (by_usage(2048, 4096) * world, by_usage(128, 256) * world),
        DeviceKind::Cuda(..) if device.total >= Bytes(160 * Bytes::GIB) => (16_384, 1024),
        DeviceKind::Cuda(..) if device.total >= Bytes(70 * Bytes::GIB) && !is_a100 => {
            (by_usage(8192, 16_384), 1024)
        }
        DeviceKind::Cuda(..) => (by_usage(2048, 8192), 256),
    };
    let seqs_default = params.max_num_seqs.map_or(seqs, u64::from);
    let tokens = params.max_num_batched_tokens.map_or_else(
        || {
            let tokens = whole.map_or(tokens, |whole| whole.max(tokens));
            tokens.min(seqs_default.saturating_mul(tokens_max))
        },
        u64::from,
    );
    let seqs = params.max_num_seqs.map_or_else(|| seqs.min(tokens), u64::from);
    (tokens, seqs)
}
