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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Device, Processor, Usage, Vllm};
    use crate::model::RefusalRule;

    const PLAIN: Processor = Processor { amx: false, avx512_bf16: false };
    const AVX512: Processor = Processor { avx512_bf16: true, ..PLAIN };
    const AMX: Processor = Processor { amx: true, avx512_bf16: true };

    fn on(processor: Processor, usage: Usage) -> Params {
        Params { processor, usage, ..Params::new(Device::named("cpu").unwrap()) }
    }

    fn model(json: &str) -> Layout {
        Layout::from_config(json).unwrap()
    }

    fn deepseek(more: &str) -> Layout {
        model(&format!(
            r#"{{"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
                "hidden_size": 256, "intermediate_size": 256, "vocab_size": 512,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
                "q_lora_rank": null, "qk_nope_head_dim": 64, "qk_rope_head_dim": 64,
                "v_head_dim": 64, "n_routed_experts": 4, "n_shared_experts": 1,
                "num_experts_per_tok": 2, "moe_intermediate_size": 128,
                "first_k_dense_replace": 1, "max_position_embeddings": 8192, {more}}}"#
        ))
    }

    #[test]
    fn latents_without_amx_take_blocks_of_16_and_whole_prompts() {
        let layout = deepseek(r#""kv_lora_rank": 512"#);
        let mut params = on(AVX512, Usage::Server);
        params.block_size = Some(128);
        params.max_num_batched_tokens = Some(512);
        let vllm = Vllm::new(&layout, &params).unwrap();
        assert_eq!(vllm.resolved().block_size, 16);
        assert_eq!(vllm.resolved().max_num_batched_tokens, 8192);
        assert_eq!(vllm.resolved().attn_backends, ["CPU_MLA"]);
        params.processor = AMX;
        let vllm = Vllm::new(&layout, &params).unwrap();
        assert_eq!(vllm.resolved().block_size, 128);
        assert_eq!(vllm.resolved().max_in_flight_tokens, 512);
        assert_eq!(vllm.resolved().attn_backends, ["AMX_MLA"]);
    }

    #[test]
    fn latents_that_the_kernels_lack_are_refused() {
        for processor in [PLAIN, AMX] {
            let mut params = on(processor, Usage::Server);
            let refused = Vllm::new(&deepseek(r#""kv_lora_rank": 256"#), &params).unwrap_err();
            assert_eq!(refused.rule, RefusalRule::Backend);
            params.kv_dtype = "fp8".parse().unwrap();
            let refused = Vllm::new(&deepseek(r#""kv_lora_rank": 512"#), &params).unwrap_err();
            assert!(refused.reason.contains("fp8"), "{}", refused.reason);
        }
    }

    #[test]
    fn states_are_float32_where_the_processor_computes_bfloat16() {
        let layout = model(
            r#"{"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next",
                "hidden_size": 256, "intermediate_size": 256, "vocab_size": 512,
                "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
                "head_dim": 64, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 64,
                "linear_value_head_dim": 64, "linear_num_key_heads": 4,
                "linear_num_value_heads": 8, "num_experts": 4, "num_experts_per_tok": 2,
                "moe_intermediate_size": 128, "shared_expert_intermediate_size": 128,
                "dtype": "bfloat16", "max_position_embeddings": 16384}"#,
        );
        // A state of 6144 + 65536 or 6144 + 131072 bytes, 65536 bytes a block of 128 tokens.
        let block = |processor| {
            Vllm::new(&layout, &on(processor, Usage::Offline)).unwrap().resolved().block_size
        };
        assert_eq!((block(PLAIN), block(AVX512), block(AMX)), (256, 384, 384));
        let h100 = Params::new(Device::named("h100").unwrap());
        assert_eq!(h100.processor, PLAIN, "only asked where it is the device");
    }

    #[test]
    fn batches_depend_on_how_the_engine_is_started() {
        let layout = Layout::builtin_8b();
        let batch = |device: &str, usage| {
            let params = Params { usage, ..Params::new(Device::named(device).unwrap()) };
            let vllm = Vllm::new(&layout, &Params { tensor_parallel: 2, ..params }).unwrap();
            let resolved = vllm.resolved();
            (resolved.max_num_batched_tokens, resolved.max_num_seqs, resolved.max_in_flight_tokens)
        };
        for (device, server, offline) in [
            ("cpu", (4096, 256, 4096), (8192, 512, 8192)),
            ("l40s", (2048, 256, 4096), (8192, 256, 16_384)),
            ("a100", (2048, 256, 4096), (8192, 256, 16_384)),
            ("h100", (8192, 1024, 16_384), (16_384, 1024, 32_768)),
            ("b200", (16_384, 1024, 32_768), (16_384, 1024, 32_768)),
        ] {
            assert_eq!(batch(device, Usage::Server), server, "{device}");
            assert_eq!(batch(device, Usage::Offline), offline, "{device}");
        }
    }
}
