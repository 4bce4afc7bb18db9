//! Which of the operator's parameters vLLM 0.32 refuses, whatever the device.
//!
//! Rules of `vllm/config/model.py`, `cache.py`, `scheduler.py` and `vllm.py`.

use super::spec::Spec;
use crate::engine::params::{KvDtype, Params};
use crate::model::cache::CacheKind;
use crate::model::{Layout, Refusal, RefusalRule};

fn refuse(rule: RefusalRule, reason: String) -> Result<(), Refusal> {
    Err(Refusal::new(rule, reason))
}

/// What can be said before anything is resolved.
///
/// # Errors
/// [`Refusal`] of the first that is refused.
pub(super) fn check(layout: &Layout, params: &Params) -> Result<(), Refusal> {
    let tp = params.tensor_parallel;
    if tp == 0 {
        let reason = "--tensor-parallel-size 0; at least 1";
        return refuse(RefusalRule::Parameter, reason.to_owned());
    }
    if !layout.heads.is_multiple_of(tp) {
        let reason = format!(
            "{} attention heads do not divide over {tp} ranks; --tensor-parallel-size must be a \
             divisor of {0}",
            layout.heads
        );
        return refuse(RefusalRule::TensorParallel, reason);
    }
    if params.block_size == Some(0) {
        return refuse(RefusalRule::BlockSize, "--block-size 0; at least 1".to_owned());
    }
    let is_mla = layout.caches.iter().any(|cache| matches!(cache.kind, CacheKind::Latent(_)));
    if is_mla && params.kv_dtype == KvDtype::Nvfp4 {
        let reason = "KV cache dtype nvfp4 is not for latent attention; use fp8 or auto";
        return refuse(RefusalRule::Dtype, reason.to_owned());
    }
    length(layout, params)
}

/// `_get_and_verify_max_len`.
fn length(layout: &Layout, params: &Params) -> Result<(), Refusal> {
    let Some(asked) = params.max_model_len else { return Ok(()) };
    if asked.0 == 0 {
        return refuse(RefusalRule::Parameter, "--max-model-len 0; at least 1".to_owned());
    }
    let Some(longest) = layout.longest.filter(|longest| asked > *longest) else { return Ok(()) };
    let reason = format!(
        "--max-model-len {}, and the config declares no more than {} tokens; vLLM takes more only \
         with VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 in its environment",
        asked.0, longest.0
    );
    refuse(RefusalRule::Parameter, reason)
}

/// A page must hold a state, where several tokens share one (DeepSeek V4).
///
/// # Errors
/// [`Refusal`] where a block has fewer tokens.
pub(super) fn check_block(spec: &Spec) -> Result<(), Refusal> {
    let Spec { block_size, tokens_per_state, .. } = spec;
    if block_size >= tokens_per_state {
        return Ok(());
    }
    let reason = format!(
        "--block-size {block_size} is less than the {tokens_per_state} tokens that share one \
         entry in some layers"
    );
    refuse(RefusalRule::BlockSize, reason)
}

/// The limits of a batch, as resolved: `item` is what the largest multimodal item takes.
///
/// # Errors
/// [`Refusal`] where they contradict each other.
pub(super) fn check_batch(
    layout: &Layout,
    [tokens, seqs]: [u64; 2],
    longest: u64,
    item: Option<u64>,
) -> Result<(), Refusal> {
    for (option, value) in [("--max-num-batched-tokens", tokens), ("--max-num-seqs", seqs)] {
        if value == 0 {
            return refuse(RefusalRule::Parameter, format!("{option} 0; at least 1"));
        }
    }
    // An encoder-decoder's prompts are not run in pieces.
    if layout.is_encoder_decoder && tokens < longest {
        let reason = format!(
            "--max-num-batched-tokens {tokens} is less than a sequence of {longest} tokens, and \
             this model runs a sequence in one batch; raise it, or lower --max-model-len"
        );
        return refuse(RefusalRule::Parameter, reason);
    }
    if tokens < seqs {
        let reason = format!(
            "--max-num-batched-tokens {tokens} is less than --max-num-seqs {seqs}: every sequence \
             takes a token of a batch"
        );
        return refuse(RefusalRule::Parameter, reason);
    }
    // Nor is its recording, or the images of a model whose image tokens see each other
    // (`encoder_cache_manager.py`).
    let Some(item) = item.filter(|item| *item > tokens) else { return Ok(()) };
    let reason = format!(
        "--max-num-batched-tokens {tokens} is less than the {item} tokens of the largest image or \
         recording, which this model takes in one batch"
    );
    refuse(RefusalRule::Parameter, reason)
}
