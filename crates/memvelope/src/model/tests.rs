//! Small models by hand, and configs that must be refused.

use super::cache::{CacheKind, Reach};
use super::{Dtype, Layout};
use crate::Error;
use crate::units::{Bytes, Tokens};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A plain Llama config with some fields replaced; a value of `"absent"` removes the field.
fn config(changes: Value) -> String {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16",
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100,
        "max_position_embeddings": 512, "tie_word_embeddings": false,
    });
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (name, value) in changes {
        if value == "absent" {
            config.as_object_mut().unwrap().remove(&name);
        } else {
            config[name] = value;
        }
    }
    config.to_string()
}

fn read(changes: Value) -> Layout {
    Layout::from_config(&config(changes)).unwrap()
}

/// The same architecture under another name and class.
fn of(architecture: &str, model_type: &str, changes: Value) -> Value {
    let mut all = json!({ "architectures": [architecture], "model_type": model_type });
    all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    all
}

fn reaches(layout: &Layout) -> Vec<Reach> {
    let reach = |cache: &super::cache::Cache| match &cache.kind {
        CacheKind::Attention(attention) => attention.reach,
        other => panic!("{other:?}"),
    };
    layout.caches.iter().map(reach).collect()
}

#[test]
fn the_built_in_model_is_the_known_one() {
    let layout = Layout::builtin_8b();
    assert_eq!((layout.layers, layout.kv_heads, layout.head_dim), (32, 8, 128));
    assert_eq!(layout.per_token(), Bytes(131_072));
    assert_eq!(layout.block_bytes(16), Bytes(2 << 20));
    // Llama 3.1 8B: 8,030,261,248 parameters as published.
    assert_eq!(layout.weight_bytes, Some(Bytes(2 * 8_030_261_248)));
    assert_eq!(layout.max_tokens, Some(Tokens(131_072)));
    assert_eq!(layout.cost_curve(16).unwrap().blocks(Tokens(17)).0, 2);
    assert!(layout.cost_curve(0).is_none());
    assert!(layout.is_plain());
}

#[test]
fn a_small_model_by_hand() {
    let layout = read(json!({}));
    // 2 (K, V) x 2 layers x 2 heads x 16 x 2 bytes.
    assert_eq!(layout.per_token(), Bytes(256));
    let layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96 + 2 * 64;
    let padded = 2 * 128 * 64; // 100 tokens are padded to 128, twice
    assert_eq!(layout.weight_bytes, Some(Bytes(2 * (2 * layer + padded + 64))));
    assert_eq!(layout.dtype, Dtype::Float16);
    let check = |changes: Value, parameters: u64| {
        assert_eq!(read(changes.clone()).weight_bytes, Some(Bytes(2 * parameters)), "{changes}");
    };
    let all = 2 * layer + padded + 64;
    check(json!({ "tie_word_embeddings": true }), all - 128 * 64);
    check(json!({ "attention_bias": true }), all + 2 * (64 + 2 * 32 + 64));
    check(json!({ "mlp_bias": true }), all + 2 * (2 * 96 + 64));
    check(json!({ "head_dim": 32 }), all + 2 * (64 * 128 + 64 * 64));
    check(json!({ "num_key_value_heads": null }), all + 2 * 2 * 64 * 32);
    check(json!({ "num_key_value_heads": "absent" }), all + 2 * 2 * 64 * 32);
    check(json!({ "vocab_size": 129 }), all + 2 * 64 * 64);
}

#[test]
fn a_small_model_over_ranks() {
    let layout = read(json!({ "attention_bias": true }));
    // Norms and the bias of the output are whole on every rank, tables and matrices are shared;
    // two KV heads on four ranks lie on two each.
    let rank = |queries: u64, keys: u64, share: u64| {
        let attention = (64 + 1) * 16 * (queries + 2 * keys) + 16 * queries * 64 + 64;
        let layer = attention + 3 * 64 * 96 / share + 2 * 64;
        2 * (2 * layer + 2 * 128 / share * 64 + 64)
    };
    for (ranks, queries, keys) in [(1, 4, 2), (2, 2, 1), (4, 1, 1)] {
        let weights = layout.weights(ranks).unwrap();
        assert_eq!(weights.param_bytes.0, rank(queries, keys, ranks.into()), "{ranks} ranks");
    }
    assert!(layout.weights(3).unwrap_err().reason.contains("over 3 ranks"));
    assert!(layout.weights(8).unwrap_err().reason.contains("query heads"));
}

#[test]
fn gpt2_has_its_published_parameters() {
    let config = json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_head": 12,
        "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
    });
    let layout = Layout::from_config(&config.to_string()).unwrap();
    let padding = (50304 - 50257) * 768;
    assert_eq!(layout.weight_bytes, Some(Bytes(2 * (124_439_808 + padding))));
    assert_eq!((layout.kv_heads, layout.head_dim), (12, 64));
    assert_eq!(
        layout.dtype,
        Dtype::Bfloat16,
        "vLLM does not serve float32, the default of old configs"
    );
    assert_eq!(layout.max_tokens, Some(Tokens(1024)));
}

#[test]
fn what_the_file_leaves_out_is_what_its_class_says() {
    let layout = Layout::from_config(r#"{"model_type": "llama"}"#).unwrap();
    // transformers: the 7B model of the first Llama, 6,738,415,616 parameters as published.
    assert_eq!(layout.weight_bytes, Some(Bytes(2 * 6_738_415_616)));
    assert_eq!((layout.layers, layout.heads, layout.kv_heads), (32, 32, 32));
    let absent = json!({ "num_key_value_heads": "absent", "num_attention_heads": 64 });
    let layout = read(of("Qwen2ForCausalLM", "qwen2", absent));
    assert_eq!((layout.kv_heads, layout.head_dim), (32, 1));
    let error = Layout::from_config(r#"{"model_type": "internlm2"}"#).unwrap_err().to_string();
    assert!(error.contains("`num_attention_heads`: missing"), "{error}");
}

#[test]
fn windows_are_those_of_the_layers() {
    let check = |changes: Value, expected: [Reach; 2]| {
        assert_eq!(reaches(&read(changes.clone())), expected, "{changes}");
    };
    let (full, window) = (Reach::Full, Reach::Window(8));
    let mixed = json!(["sliding_attention", "full_attention"]);
    check(json!({ "sliding_window": 8 }), [window; 2]);
    check(json!({ "sliding_window": 0 }), [full; 2]);
    check(json!({ "sliding_window": null }), [full; 2]);
    check(json!({ "sliding_window": 8, "layer_types": mixed }), [window, full]);
    check(json!({ "layer_types": mixed }), [full; 2]);
    let mistral = |changes| of("MistralForCausalLM", "mistral", changes);
    check(mistral(json!({})), [Reach::Window(4096); 2]);
    check(mistral(json!({ "sliding_window": null })), [full; 2]);
    let qwen = |changes| of("Qwen2ForCausalLM", "qwen2", changes);
    check(qwen(json!({ "sliding_window": 8 })), [full; 2]);
    let on = json!({ "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 0 });
    check(qwen(on), [window; 2]);
    assert!(!read(json!({ "sliding_window": 8 })).is_plain());
}

#[test]
fn the_longest_sequence_is_the_engines() {
    let check = |changes: Value, expected: u64| {
        assert_eq!(read(changes.clone()).max_tokens, Some(Tokens(expected)), "{changes}");
    };
    check(json!({}), 512);
    check(json!({ "seq_length": 100 }), 100);
    check(json!({ "model_max_length": 2000 }), 2000);
    check(json!({ "rope_scaling": { "type": "linear", "factor": 4.0 } }), 2048);
    check(json!({ "rope_parameters": { "rope_type": "dynamic", "factor": 1.5 } }), 768);
    check(json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } }), 512);
    check(json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0 } }), 512);
    let nested = json!({ "full_attention": { "rope_type": "linear", "factor": 2 },
        "sliding_attention": { "rope_type": "default" } });
    check(json!({ "rope_parameters": nested }), 1024);
    let long = json!({ "rope_scaling": { "type": "longrope" },
        "original_max_position_embeddings": 128 });
    check(of("Phi3ForCausalLM", "phi3", long), 128);
    check(of("BloomForCausalLM", "bloom", json!({ "max_position_embeddings": "absent" })), 2048);
}

#[test]
fn dtypes_are_those_served() {
    let check = |changes: Value, expected: Dtype| {
        assert_eq!(read(changes.clone()).dtype, expected, "{changes}");
    };
    for name in ["float32", "bfloat16", "torch.bfloat16", "float8_e4m3fn"] {
        check(json!({ "dtype": name }), Dtype::Bfloat16);
    }
    check(json!({ "dtype": null, "torch_dtype": "float16" }), Dtype::Float16);
    check(json!({ "dtype": "absent" }), Dtype::Bfloat16);
    check(of("Glm4ForCausalLM", "glm4", json!({})), Dtype::Bfloat16);
}

#[test]
fn layers_without_attention_keep_nothing() {
    let block = |group: Value, mult: Value| {
        json!({
            "attention": { "no_op": group.is_null(), "n_heads_in_group": group },
            "ffn": { "no_op": mult.is_null(), "ffn_mult": mult },
        })
    };
    let blocks = json!([block(json!(4), json!(null)), block(json!(null), json!(3.0))]);
    let layout = read(of(
        "DeciLMForCausalLM",
        "nemotron-nas",
        json!({ "block_configs": blocks, "num_key_value_heads": null, "intermediate_size": null }),
    ));
    // One KV head in the first layer; an MLP of 2 x 3 x 64 / 3 = 128, rounded up to 256.
    assert_eq!(layout.caches.len(), 1);
    assert_eq!(layout.per_token(), Bytes(2 * 16 * 2));
    let attention = 64 * (64 + 2 * 16) + 64 * 64 + 64;
    let mlp = 3 * 64 * 256 + 64;
    assert_eq!(layout.weight_bytes, Some(Bytes(2 * (attention + mlp + 2 * 128 * 64 + 64))));
}

/// The reading fails, and the error names the field and stays short but for the known names.
fn refuse(changes: Value, field: &str) {
    let error = Layout::from_config(&config(changes.clone())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("`{field}`")), "{changes}: {text}");
    assert!(text.len() < 20_000, "{changes}: {text}");
}

#[test]
fn wrong_values_name_their_field() {
    let numbers = [json!(-1), json!(0), json!(1.5), json!(64.0), json!(u64::MAX), json!(1e300)];
    let others = [json!("64"), json!(true), json!([64]), json!({}), json!(null)];
    for bad in numbers.into_iter().chain(others) {
        for field in ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"] {
            refuse(json!({ field: bad }), field);
        }
    }
    refuse(json!({ "num_key_value_heads": 3 }), "num_key_value_heads");
    refuse(json!({ "num_key_value_heads": 8 }), "num_key_value_heads");
    refuse(json!({ "num_attention_heads": 5, "num_key_value_heads": 5 }), "hidden_size");
    refuse(json!({ "num_attention_heads": 1_000_000 }), "num_attention_heads");
    refuse(json!({ "head_dim": -8 }), "head_dim");
    refuse(json!({ "max_position_embeddings": "long" }), "max_position_embeddings");
    refuse(json!({ "max_position_embeddings": 0.5 }), "max_position_embeddings");
    refuse(json!({ "tie_word_embeddings": 1 }), "tie_word_embeddings");
    refuse(json!({ "dtype": "float12" }), "dtype");
    refuse(json!({ "dtype": 16 }), "dtype");
    refuse(json!({ "sliding_window": -1 }), "sliding_window");
    refuse(json!({ "layer_types": ["full_attention"] }), "layer_types");
    refuse(json!({ "layer_types": ["full_attention", 3] }), "layer_types[1]");
    refuse(json!({ "rope_scaling": "yarn" }), "rope_scaling");
    refuse(json!({ "rope_scaling": { "type": "linear", "factor": -1 } }), "rope_scaling.factor");
    refuse(json!({ "text_config": [] }), "text_config");
}

#[test]
fn what_vllm_does_not_serve_is_refused() {
    refuse(json!({ "hidden_act": "gelu" }), "hidden_act");
    refuse(json!({ "is_causal": false }), "is_causal");
    refuse(
        of("GPTJForCausalLM", "gptj", json!({ "tie_word_embeddings": true })),
        "tie_word_embeddings",
    );
    let mixed = json!({ "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1 });
    refuse(of("Qwen3ForCausalLM", "qwen3", mixed), "max_window_layers");
    refuse(
        of(
            "FalconForCausalLM",
            "falcon",
            json!({ "new_decoder_architecture": true,
        "num_kv_heads": 3 }),
        ),
        "num_kv_heads",
    );
    refuse(of("DeciLMForCausalLM", "nemotron-nas", json!({})), "block_configs");
    let one = json!([{ "attention": { "n_heads_in_group": 1 }, "ffn": { "ffn_mult": 1.0 } }]);
    refuse(
        of("DeciLMForCausalLM", "nemotron-nas", json!({ "block_configs": one })),
        "block_configs",
    );
    refuse(of("MiniCPMForCausalLM", "minicpm", json!({ "num_experts": 8 })), "num_experts");
}

#[test]
fn unknown_models_are_refused() {
    refuse(json!({ "model_type": 3 }), "model_type");
    refuse(json!({ "model_type": "x".repeat(100_000), "architectures": [] }), "model_type");
    refuse(json!({ "model_type": "absent", "architectures": [] }), "architectures");
    refuse(json!({ "model_type": "absent", "architectures": ["Nothing"] }), "architectures");
    refuse(json!({ "architectures": ["LlamaForSequenceClassification"] }), "architectures");
    let changes = json!({ "architectures": ["x".repeat(100_000)] });
    let error = Layout::from_config(&config(changes)).unwrap_err();
    let Error::UnknownModel { field, found, known, .. } = &error else { panic!("{error:?}") };
    assert_eq!((field.as_str(), found.len()), ("architectures", 80));
    assert!(*known > 150, "{known}");
    for (wrong, right) in
        [("LLamaForCausal", "LlamaForCausalLM"), ("Gemma3ForC", "Gemma3ForCausalLM")]
    {
        let changes = json!({ "architectures": [wrong] });
        let error = Layout::from_config(&config(changes)).unwrap_err();
        let Error::UnknownModel { similar, .. } = &error else { panic!("{error:?}") };
        assert!(similar.contains(&right), "{similar:?}");
    }
}

#[test]
fn documents_that_are_no_config_are_refused_in_bounded_time() {
    let check = |text: &str, problem: &str| {
        let error = Layout::from_config(text).unwrap_err().to_string();
        assert!(error.contains("(document)") && error.contains(problem), "{error}");
    };
    check("", "EOF");
    check("[]", "expected an object");
    check("{\"hidden_size\": nan}", "line 1");
    check("{\n\"a\": 1,\n\"a\": 2}", "field `a` is there twice at line 3");
    check(&"[".repeat(1 << 20), "expected an object");
    check(&format!("{{\"a\": {}", "[".repeat(1 << 20)), "recursion limit");
    check(&" ".repeat((16 << 20) + 1), "at most");
    let long = "x".repeat(1 << 20);
    let twice = format!("{{\"{long}\": 1, \"{long}\": 1}}");
    check(&twice, "is there twice");
    assert!(Layout::from_config(&twice).unwrap_err().to_string().len() < 300);
}

#[test]
fn numbers_that_only_python_writes_are_read_over() {
    let text = config(json!({ "a": "Infinity \\\" NaN" }));
    let text = text.replacen('{', "{\"limit\": [0.0, Infinity, -Infinity], \"x\": NaN, ", 1);
    assert_eq!(Layout::from_config(&text).unwrap().layers, 2);
    let wrong = text.replace("\"vocab_size\":100", "\"vocab_size\":NaN");
    assert!(Layout::from_config(&wrong).unwrap_err().to_string().contains("`vocab_size`"));
}

#[test]
fn a_nested_description_is_read_where_it_is_the_model() {
    let inner: Value = serde_json::from_str(&config(json!({ "dtype": "absent" }))).unwrap();
    let outer = json!({ "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "text_config": inner, "torch_dtype": "float16" });
    let nested = Layout::from_config(&outer.to_string()).unwrap();
    let plain = read(json!({}));
    assert_eq!(nested.weight_bytes, plain.weight_bytes);
    assert_eq!((nested.caches, nested.max_tokens), (plain.caches, plain.max_tokens));
}

/// Any small JSON value.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(Value::from),
        (0_u64..600).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec!["full_attention", "sliding_attention", "linear", "yarn"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let names = prop::sample::select(vec![
            "factor",
            "rope_type",
            "attention",
            "ffn",
            "ffn_mult",
            "no_op",
            "n_heads_in_group",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names, inner, 0..4).prop_map(|map| {
                Value::Object(map.into_iter().map(|(name, v)| (name.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = Layout::from_config(&text);
    }

    #[test]
    fn no_value_in_a_known_field_makes_it_panic(
        architecture in prop::sample::select(super::architectures().collect::<Vec<_>>()),
        fields in prop::collection::hash_map(
            prop::sample::select(vec![
                "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "dtype",
                "vocab_size", "layer_types", "model_type", "sliding_window", "num_hidden_layers",
                "max_position_embeddings", "rope_scaling", "rope_parameters", "block_configs",
                "use_sliding_window", "max_window_layers", "num_kv_heads", "multi_query",
                "new_decoder_architecture", "word_embed_proj_dim", "n_positions", "H_cycles",
                "num_experts", "intermediate_size", "kv_lora_rank", "text_config", "vision_config",
            ]),
            value(),
            0..4,
        ),
        ranks in 1_u32..70,
    ) {
        let mut changes = json!({ "architectures": [architecture] });
        changes.as_object_mut().unwrap().extend(fields.into_iter().map(|(k, v)| (k.to_owned(), v)));
        if let Ok(layout) = Layout::from_config(&config(changes)) {
            // Some towers come as code, and their weights are not known.
            prop_assert!(layout.weight_bytes.is_none_or(|bytes| bytes.0 > 0));
            let _ = (layout.per_token(), layout.is_plain(), layout.weights(ranks));
        }
    }
}
