"""Small models with random weights, one for each kind of cache, and how vLLM is started for them."""

MIB = 1 << 20

COMMON = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "vocab_size": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}

# Grouped queries, every layer alike.
LLAMA = {
    **COMMON,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 8192,
}

# Windowed layers, and two that see everything.
GEMMA3 = {
    **COMMON,
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 512,
    "layer_types": ["sliding_attention"] * 5
    + ["full_attention", "sliding_attention", "full_attention"],
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}

# States beside attention.
QWEN3_NEXT = {
    **COMMON,
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "partial_rotary_factor": 0.25,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
    "decoder_sparse_step": 1,
    "max_position_embeddings": 16384,
}

# Latents instead of keys and values. The kernel knows 512 + 64 elements only.
DEEPSEEK_V2 = {
    **COMMON,
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "max_position_embeddings": 8192,
}


def case(name, config, kv_bytes, usage="offline", **options):
    return {
        "name": name,
        "config": config,
        "usage": usage,
        "options": {"kv_cache_memory_bytes": kv_bytes, **options},
    }


CASES = [
    case("llama", LLAMA, 64 * MIB),
    # Blocks that the kernel does not take.
    case("llama-block-16", LLAMA, 64 * MIB, block_size=16),
    case("llama-int8", LLAMA, 64 * MIB, kv_cache_dtype="int8_per_token_head"),
    case("gemma3", GEMMA3, 64 * MIB),
    case("gemma3-server", GEMMA3, 64 * MIB, usage="server"),
    case("gemma3-block-32", GEMMA3, 64 * MIB, block_size=32),
    case("gemma3-fp8", GEMMA3, 64 * MIB, kv_cache_dtype="fp8", max_model_len=8192),
    # Too little memory for one sequence.
    case("gemma3-short", GEMMA3, 2 * MIB),
    case("qwen3-next", QWEN3_NEXT, 64 * MIB),
    case("qwen3-next-no-prefix", QWEN3_NEXT, 64 * MIB, enable_prefix_caching=False),
    case("deepseek-v2", DEEPSEEK_V2, 64 * MIB),
    case("deepseek-v2-server", DEEPSEEK_V2, 64 * MIB, usage="server", max_model_len=1024),
]
