//! Layouts against vLLM's own numbers, and configs that must be refused.

use super::Layout;
use crate::Error;
use crate::units::{Bytes, Tokens};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

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

#[test]
fn the_built_in_model_is_the_known_one() {
    let layout = Layout::builtin_8b();
    assert_eq!((layout.layers, layout.kv_heads, layout.head_dim), (32, 8, 128));
    assert_eq!(layout.per_token(), Bytes(131_072));
    assert_eq!(layout.block_bytes(16), Bytes(2 << 20));
    // Llama 3.1 8B: 8,030,261,248 parameters as published.
    assert_eq!(layout.weight_bytes, Bytes(2 * 8_030_261_248));
    assert_eq!(layout.max_tokens, Some(Tokens(131_072)));
    assert_eq!(layout.cost_curve(16).unwrap().blocks(Tokens(17)).0, 2);
    assert!(layout.cost_curve(0).is_none());
}

#[test]
fn a_small_model_by_hand() {
    let layout = Layout::from_config(&config(json!({}))).unwrap();
    // 2 (K, V) x 2 layers x 2 heads x 16 x 2 bytes.
    assert_eq!(layout.per_token(), Bytes(256));
    let layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96 + 2 * 64;
    let padded = 2 * 128 * 64; // 100 tokens are padded to 128, twice
    assert_eq!(layout.weight_bytes, Bytes(2 * (2 * layer + padded + 64)));
    assert_eq!(layout.dtype, "float16");
    let check = |changes: Value, parameters: u64| {
        let layout = Layout::from_config(&config(changes.clone())).unwrap();
        assert_eq!(layout.weight_bytes, Bytes(2 * parameters), "{changes}");
    };
    let all = 2 * layer + padded + 64;
    check(json!({ "tie_word_embeddings": true }), all - 128 * 64);
    check(json!({ "attention_bias": true }), all + 2 * (64 + 2 * 32 + 64));
    check(json!({ "mlp_bias": true }), all + 2 * (2 * 96 + 64));
    check(json!({ "head_dim": 32 }), all + 2 * (64 * 128 + 64 * 64));
    check(json!({ "num_key_value_heads": null }), all + 2 * 2 * 64 * 32);
    check(json!({ "vocab_size": 129 }), all + 2 * 64 * 64);
}

#[test]
fn gpt2_has_its_published_parameters() {
    let config = json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_head": 12,
        "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
    });
    let layout = Layout::from_config(&config.to_string()).unwrap();
    let padding = (50304 - 50257) * 768;
    assert_eq!(layout.weight_bytes, Bytes(2 * (124_439_808 + padding)));
    assert_eq!((layout.kv_heads, layout.head_dim), (12, 64));
    assert_eq!(layout.dtype, "bfloat16", "vLLM does not serve float32, the default of old configs");
}

#[test]
fn what_cannot_be_computed_names_its_field() {
    let check = |changes: Value, field: &str| {
        let error = Layout::from_config(&config(changes.clone())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("`{field}`")), "{changes}: {text}");
        assert!(text.len() < 600, "{changes}: {text}");
    };
    for bad in [
        json!(-1),
        json!(0),
        json!(1.5),
        json!(64.0),
        json!("64"),
        json!(true),
        json!([64]),
        json!({}),
        json!(u64::MAX),
        json!(1e300),
        json!(null),
        json!("absent"),
    ] {
        for field in ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"] {
            check(json!({ field: bad }), field);
        }
    }
    check(json!({ "num_key_value_heads": 3 }), "num_key_value_heads");
    check(json!({ "num_key_value_heads": 8 }), "num_key_value_heads");
    check(json!({ "num_attention_heads": 5, "num_key_value_heads": 5 }), "hidden_size");
    check(json!({ "num_attention_heads": 1_000_000 }), "num_attention_heads");
    check(json!({ "head_dim": -8 }), "head_dim");
    check(json!({ "max_position_embeddings": "long" }), "max_position_embeddings");
    check(json!({ "tie_word_embeddings": 1 }), "tie_word_embeddings");
    check(json!({ "dtype": "float8_e4m3fn" }), "dtype");
    check(json!({ "dtype": 16 }), "dtype");
    check(json!({ "quantization_config": { "quant_method": "fp8" } }), "quantization_config");
    check(json!({ "kv_lora_rank": 512 }), "kv_lora_rank");
    check(json!({ "num_local_experts": 8 }), "num_local_experts");
    check(json!({ "sliding_window": 4096 }), "sliding_window");
    check(json!({ "sliding_window": 4096, "use_sliding_window": false }), "sliding_window");
    check(json!({ "is_encoder_decoder": true }), "is_encoder_decoder");
    check(json!({ "layer_types": ["full_attention", "sliding_attention"] }), "layer_types[1]");
    check(json!({ "layer_types": ["full_attention"] }), "layer_types");
    check(json!({ "layer_types": ["full_attention", 3] }), "layer_types[1]");
    check(json!({ "model_type": "deepseek_v3" }), "model_type");
    check(json!({ "model_type": 3 }), "model_type");
    check(json!({ "model_type": "x".repeat(100_000) }), "model_type");
    check(json!({ "model_type": "absent", "architectures": [] }), "model_type");
    check(json!({ "model_type": "absent", "architectures": ["Nothing"] }), "architectures");
    check(json!({ "architectures": ["LlamaForSequenceClassification"] }), "architectures");
    check(json!({ "model_type": "mistral", "architectures": null }), "sliding_window");
    check(
        json!({ "model_type": "qwen2", "architectures": null, "sliding_window": 8,
            "use_sliding_window": true }),
        "sliding_window",
    );
    check(
        json!({ "model_type": "qwen2", "architectures": null, "num_key_value_heads": "absent" }),
        "num_key_value_heads",
    );
    check(json!({ "text_config": [] }), "text_config");
}

#[test]
fn an_unknown_type_lists_what_is_known() {
    let error = Layout::from_config(&config(json!({ "model_type": "mamba" }))).unwrap_err();
    let Error::UnknownModel { field, found, known } = &error else { panic!("{error:?}") };
    assert_eq!((field.as_str(), found.as_str()), ("model_type", "mamba"));
    for family in ["llama", "qwen2", "qwen3", "mistral", "gemma", "phi3", "opt"] {
        assert!(known.contains(&family), "{known:?}");
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
    check("{\"hidden_size\": NaN}", "line 1");
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
fn a_nested_description_is_read_if_it_is_all_there_is() {
    let inner: Value = serde_json::from_str(&config(json!({ "dtype": "absent" }))).unwrap();
    let plain = Layout::from_config(&config(json!({}))).unwrap();
    let outer = json!({ "text_config": inner, "torch_dtype": "float16" });
    assert_eq!(Layout::from_config(&outer.to_string()).unwrap(), plain);
    let check = |changes: Value, field: &str| {
        let mut outer = outer.clone();
        outer.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let error = Layout::from_config(&outer.to_string()).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    };
    check(json!({ "vision_config": { "depth": 1 } }), "`vision_config`");
    check(json!({ "hidden_size": 65 }), "contradicts text_config.hidden_size");
    check(json!({ "model_type": "llava" }), "\"llava\"");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = Layout::from_config(&text);
    }

    #[test]
    fn no_value_in_a_known_field_makes_it_panic(
        field in prop::sample::select(vec![
            "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "dtype",
            "vocab_size", "layer_types", "architectures", "model_type", "sliding_window",
        ]),
        value in prop_oneof![
            any::<u64>().prop_map(Value::from), any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from), ".{0,20}".prop_map(Value::from),
            prop::collection::vec(".{0,5}", 0..4).prop_map(Value::from),
        ],
    ) {
        if let Ok(layout) = Layout::from_config(&config(json!({ field: value }))) {
            prop_assert!(layout.per_token().0 > 0 && layout.weight_bytes.0 > 0);
        }
    }
}

#[derive(Default)]
struct Tally {
    models: std::collections::BTreeSet<String>,
    records: u32,
    kv_exact: u32,
    kv_compared: u32,
    weights_exact: u32,
    refused: Option<String>,
}

/// Every record of the corpus whose config is accepted, on one GPU: bytes of a block, blocks and
/// bytes of all parameters exactly as vLLM 0.32 computed them.
#[test]
fn corpus_every_accepted_model_is_exact() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/kv_oracle");
    let Ok(records) = std::fs::read_to_string(format!("{corpus}/kv_oracle.jsonl")) else {
        println!("ignored: ../shared/data/kv_oracle is not here");
        return;
    };
    let mut families: BTreeMap<String, Tally> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        // A second file describes a quantisation that the config alone does not show.
        let is_whole = record["hf_quant_config_file"].is_null();
        if record["params"]["tensor_parallel_size"] == 1 && is_whole {
            compare(Path::new(corpus), &record, &mut families, &mut wrong);
        }
    }
    println!("{:<16} {:>6} {:>8} {:>9} {:>9}", "family", "models", "records", "KV", "weights");
    let (mut models, mut refused) = (0, 0);
    for (family, tally) in &families {
        let kv = format!("{}/{}", tally.kv_exact, tally.kv_compared);
        let weights = format!("{}/{}", tally.weights_exact, tally.records);
        let counts = (tally.models.len(), tally.records);
        let note = tally.refused.as_deref().unwrap_or_default();
        println!("{family:<16} {:>6} {:>8} {kv:>9} {weights:>9} {note}", counts.0, counts.1);
        models += tally.models.len();
        refused += u32::from(tally.refused.is_some());
    }
    println!("accepted: {models} models; families with refused models: {refused}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(models >= 27, "only {models} models of the corpus were accepted");
}

fn compare(
    corpus: &Path,
    record: &Value,
    families: &mut BTreeMap<String, Tally>,
    wrong: &mut Vec<String>,
) {
    let file = corpus.join(record["config_file"].as_str().unwrap());
    let text = std::fs::read_to_string(file).unwrap();
    // Python writes `Infinity`, which is not JSON; those configs are refused as a whole.
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let family = config["model_type"].as_str().unwrap_or("(absent)");
    let tally = families.entry(family.into()).or_default();
    let layout = match Layout::from_config(&text) {
        Ok(layout) => layout,
        Err(Error::ReadModel { field, .. } | Error::UnknownModel { field, .. }) => {
            tally.refused.get_or_insert(format!("refused by {field}"));
            return;
        }
        Err(other) => panic!("{other}"),
    };
    let (model, outputs) = (record["model"].as_str().unwrap(), &record["outputs"]);
    tally.models.insert(model.into());
    tally.records += 1;
    let expected = &outputs["weights"]["per_rank_param_bytes"];
    if *expected == layout.weight_bytes.0 {
        tally.weights_exact += 1;
    } else {
        wrong.push(format!("{model}: weights {:?}, vLLM {expected}", layout.weight_bytes));
    }
    if record["params"]["kv_cache_dtype"] != "auto" {
        return; // Another element size than the layout's: not what it says.
    }
    tally.kv_compared += 1;
    let block_tokens = outputs["resolved"]["block_size"].as_u64().unwrap();
    let block = layout.block_bytes(u32::try_from(block_tokens).unwrap());
    let blocks_agree = outputs["capacity"].as_array().unwrap().iter().all(|row| {
        // Rows that vLLM refused have no blocks.
        let available = row["available_kv_bytes"].as_u64();
        row["num_gpu_blocks"].as_u64() == available.map(|bytes| bytes / block.0)
            || row["num_gpu_blocks"].is_null()
    });
    if outputs["bytes_per_block"] == block.0 && blocks_agree {
        tally.kv_exact += 1;
    } else {
        wrong.push(format!("{model}: block {block:?}, vLLM {}", outputs["bytes_per_block"]));
    }
}
