//! What is refused, with its reason, and that nothing panics on the way.

use super::Vllm;
use crate::engine::{Device, KvDtype, Params};
use crate::model::{Layout, Refusal, RefusalRule};
use crate::units::{Bytes, Tokens};

fn dense(extra: &str) -> Layout {
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
        "intermediate_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 16,
        "num_key_value_heads": 8, "vocab_size": 1024, "max_position_embeddings": 4096{extra}}}"#
    );
    Layout::from_config(&config).unwrap()
}

fn params(device: &str) -> Params {
    Params::new(Device::named(device).unwrap())
}

fn refusal(layout: &Layout, params: &Params) -> Option<Refusal> {
    let engine = match Vllm::new(layout, params) {
        Ok(engine) => engine,
        Err(refusal) => return Some(refusal),
    };
    if let Err(refusal) = layout.weights_on(params.tensor_parallel, params.device.capability()) {
        return Some(refusal);
    }
    let longest = params.max_model_len.or(layout.max_tokens)?;
    engine.capacity(Bytes(1 << 40), longest).refused
}

fn rule(layout: &Layout, params: &Params) -> Option<RefusalRule> {
    refusal(layout, params).map(|refusal| refusal.rule)
}

#[test]
fn lengths_up_to_the_declared_one_are_taken() {
    let layout = dense("");
    for (asked, refused) in [(0, true), (1, false), (4096, false), (4097, true), (u64::MAX, true)] {
        let params = Params { max_model_len: Some(Tokens(asked)), ..params("h100") };
        let found = rule(&layout, &params);
        assert_eq!(found, refused.then_some(RefusalRule::Parameter), "{asked}");
    }
    let scaled = dense(r#", "rope_scaling": {"rope_type": "linear", "factor": 2.0}"#);
    let params = Params { max_model_len: Some(Tokens(8192)), ..params("h100") };
    assert_eq!(rule(&scaled, &params), None);
}

#[test]
fn limits_of_a_batch_may_not_contradict_each_other() {
    let layout = dense("");
    let cases = [
        (Some(0), None, true),
        (None, Some(0), true),
        (Some(100), Some(100), false),
        (Some(100), Some(101), true),
        (Some(100), None, false),
        (Some(u32::MAX), None, false),
        (None, Some(u32::MAX), true),
        (Some(u32::MAX), Some(u32::MAX), false),
    ];
    for (tokens, seqs, refused) in cases {
        let params =
            Params { max_num_batched_tokens: tokens, max_num_seqs: seqs, ..params("h100") };
        let found = rule(&layout, &params);
        assert_eq!(found, refused.then_some(RefusalRule::Parameter), "{tokens:?} {seqs:?}");
    }
}

#[test]
fn block_sizes_are_those_of_the_kernels() {
    let layout = dense("");
    for (size, refused) in [(0, true), (1, true), (8, true), (16, false), (48, false), (24, true)] {
        let params = Params { block_size: Some(size), ..params("h100") };
        assert_eq!(refusal(&layout, &params).is_some(), refused, "{size}");
    }
    let huge = Params { block_size: Some(u32::MAX - 15), ..params("h100") };
    // Such a block takes more than the terabyte that there is.
    assert_eq!(rule(&layout, &huge), Some(RefusalRule::Memory));
    let reason = refusal(&layout, &Params { block_size: Some(24), ..params("h100") });
    assert!(reason.unwrap().reason.contains("block size 24"));
}

#[test]
fn ranks_divide_the_heads_or_are_refused() {
    let layout = dense("");
    for (tp, refused) in [(0, true), (1, false), (3, true), (16, false), (32, true)] {
        let params = Params { tensor_parallel: tp, ..params("h100") };
        assert_eq!(refusal(&layout, &params).is_some(), refused, "{tp}");
    }
    let absurd = Params { tensor_parallel: u32::MAX, ..params("h100") };
    assert_eq!(rule(&layout, &absurd), Some(RefusalRule::TensorParallel));
    // KV heads of a rank are an even share, or one that several ranks hold.
    assert_eq!(rule(&layout, &Params { tensor_parallel: 16, ..params("h100") }), None);
}

/// vLLM chooses Triton on an Ampere, and Triton then refuses an fp8 cache.
#[test]
fn a_cache_dtype_is_refused_where_no_kernel_reads_it() {
    let layout = dense("");
    let refused = |device: &str, kv_dtype| {
        let params = Params { kv_dtype, ..params(device) };
        refusal(&layout, &params).map(|refusal| refusal.reason)
    };
    assert_eq!(refused("a100", KvDtype::Fp8), None);
    assert!(refused("a100", KvDtype::Fp8PerTokenHead).unwrap().contains("8.9"));
    assert_eq!(refused("l40s", KvDtype::Fp8PerTokenHead), None);
    assert!(refused("h100", KvDtype::Fp8DsMla).unwrap().contains("FLASH_ATTN: "));
    assert_eq!(refused("h100", KvDtype::Nvfp4), None);
    assert!(refused("b200", KvDtype::Nvfp4).is_some());
}

#[test]
fn no_parameters_panic() {
    let mamba = r#"{"architectures": ["MambaForCausalLM"], "model_type": "mamba",
        "hidden_size": 768, "num_hidden_layers": 2, "vocab_size": 50280, "state_size": 16}"#;
    let window = r#"{"architectures": ["MistralForCausalLM"], "model_type": "mistral",
        "hidden_size": 2048, "intermediate_size": 4096, "num_hidden_layers": 2,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 1024,
        "sliding_window": 128}"#;
    let layouts =
        [dense(""), Layout::from_config(window).unwrap(), Layout::from_config(mamba).unwrap()];
    let sizes = [0, 1, 7, 1 << 16, u32::MAX];
    for layout in &layouts {
        for (tp, size) in sizes.into_iter().flat_map(|tp| sizes.map(|size| (tp, size))) {
            for max_model_len in [None, Some(Tokens(0)), Some(Tokens(u64::MAX))] {
                let params = Params {
                    tensor_parallel: tp,
                    block_size: Some(size),
                    max_num_batched_tokens: Some(size),
                    max_num_seqs: Some(size),
                    max_model_len,
                    ..params("h100")
                };
                if let Ok(vllm) = Vllm::new(layout, &params) {
                    let _ = vllm.capacity(crate::units::Bytes(u64::MAX), Tokens(u64::MAX));
                    let _ = vllm.cost_curve();
                }
                let _ = refusal(layout, &params);
            }
        }
    }
}
