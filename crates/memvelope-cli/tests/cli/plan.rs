//! `memvelope plan`: texts, JSON, batches, command lines of vLLM, and bad input.

use crate::common::{memvelope, run, stderr, stdout, without_driver};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// 32 layers, 8 KV heads of 128.
const PLAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../memvelope/src/model/builtin_8b.json");

/// Five windowed layers for each that keeps every token.
const WINDOWED: &str = r#"{"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
    "num_hidden_layers": 12, "hidden_size": 1152, "intermediate_size": 6912, "head_dim": 256,
    "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 262144,
    "sliding_window": 512, "sliding_window_pattern": 6, "max_position_embeddings": 32768,
    "dtype": "bfloat16"}"#;

/// 2 layers, 2 KV heads of 32, tied embeddings.
const TINY: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "vocab_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "tie_word_embeddings": true, "dtype": "bfloat16"}"#;

fn file(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn planned(args: &[&str]) -> Value {
    let args = [&["plan", "--json"], args].concat();
    serde_json::from_slice(&run(&mut without_driver(&args), 0).stdout).unwrap()
}

/// `UPDATE_DOCS=1` rewrites what is expected.
fn check_text(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/texts").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{} is not what is printed:\n{text}", path.display());
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "too wide: {line}");
    }
}

#[test]
fn a_person_reads_the_equation_the_cost_and_what_fits() {
    let text = stdout(&run(&mut without_driver(&["plan", PLAIN, "--gpu", "h100"]), 0));
    check_text("plain.txt", &text);
    let place = tempfile::tempdir().unwrap();
    let config = file(place.path(), "config.json", WINDOWED);
    let args = ["plan", &config, "--gpu", "l4", "--max-num-seqs", "64", "--kv-dtype", "fp8"];
    check_text("windowed.txt", &stdout(&run(&mut without_driver(&args), 0)));
}

#[test]
fn json_has_the_engines_names_and_absent_is_null() {
    let plan = planned(&[PLAIN, "--gpu", "h100", "--kv-bytes", "40GiB", "--max-model-len", "8192"]);
    assert_eq!(plan["block_size"], 16);
    assert_eq!(plan["bytes_per_block"], 2 << 20);
    assert_eq!(plan["num_gpu_blocks"], 20_480);
    assert_eq!(plan["max_concurrency"], 40.0);
    assert_eq!(plan["kv_cache_size_tokens"], 327_680);
    assert_eq!(plan["need_bytes_one_request"], 1_u64 << 30);
    assert_eq!(plan["per_token_bytes"], 131_072);
    assert_eq!(plan["groups"][0]["num_layers"], 32);
    assert_eq!(plan["groups"][0]["blocks_per_request"], 512);
    assert_eq!(plan["groups"][0]["specs"][0]["num_kv_heads"], 8);
    assert!(plan["weights"]["param_bytes"].as_u64().unwrap() > 8 << 30);
    for absent in ["refused", "equation", "estimated_max_model_len"] {
        assert_eq!(plan[absent], Value::Null, "{absent}");
    }
    let generic = planned(&[PLAIN, "--kv-bytes", "40GiB", "--engine", "generic"]);
    assert_eq!(generic["per_token_bytes"], 131_072);
    assert_eq!(generic["block_size"], Value::Null);
    assert_eq!(generic["sequences"][0]["bytes"], 131_072 * 1024);
    assert_eq!(generic["sequences"][0]["count"], (40_u64 << 30) / (131_072 * 1024));
}

#[test]
fn a_refusal_says_why_and_what_to_change() {
    let output = run(
        &mut without_driver(&["plan", PLAIN, "--gpu", "h100", "--kv-bytes", "1GiB", "--json"]),
        1,
    );
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["refused"]["rule"], "memory");
    assert!(plan["estimated_max_model_len"].as_u64().is_some_and(|tokens| tokens < 8192));
    for (args, expected) in [
        (&["--gpu", "h100", "--kv-bytes", "1GiB"][..], "hint: use --max-model-len"),
        (&["--gpu", "h100", "--tp", "3"], "do not divide over 3 ranks"),
        (&["--gpu", "10GiB"], "hint: use a larger device"),
        (&["--gpu", "h100", "--kv-dtype", "fp8_ds_mla"], "hint: choose another --kv-dtype"),
    ] {
        let text = stdout(&run(&mut without_driver(&[&["plan", PLAIN], args].concat()), 1));
        assert!(text.contains("\nrefused: ") && text.contains(expected), "{args:?}\n{text}");
    }
}

#[test]
fn every_number_has_its_origin() {
    let term = |plan: &Value, name: &str| {
        let terms = plan["equation"]["terms"].as_array().unwrap();
        terms.iter().find(|term| term["name"] == name).unwrap().clone()
    };
    let plan = planned(&[PLAIN, "--gpu", "80GiB", "--capability", "8.9"]);
    assert_eq!(term(&plan, "total")["origin"], "assumed");
    assert_eq!(plan["device_source"], "declared");
    let output = run(&mut memvelope(&["plan", PLAIN, "--gpu", "sim", "--json"]), 0);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(term(&plan, "total")["origin"], "measured");
    assert_eq!(plan["equation"]["simulated"], true);
    let text = stdout(&run(&mut memvelope(&["plan", PLAIN, "--gpu", "sim"]), 0));
    assert!(text.starts_with("SIMULATED"), "{text}");
}

/// A safetensors file of one tensor of so many bytes.
fn safetensors(bytes: u64) -> Vec<u8> {
    let header = json!({"model.norm.weight": {
        "dtype": "BF16", "shape": [bytes / 2], "data_offsets": [0, bytes]}});
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + bytes as usize, 0);
    file
}

#[test]
fn the_weights_of_a_directory_are_read_from_its_files() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().to_str().unwrap();
    file(place.path(), "config.json", TINY);
    let plan = planned(&[folder, "--gpu", "l4"]);
    let computed = plan["weights"]["param_bytes"].as_u64().unwrap();
    assert_eq!(plan["weight_bytes"], computed);
    for (more, warnings) in [(0, 0), (computed / 600 * 2, 0), (computed / 20 * 2, 1)] {
        file(place.path(), "model.safetensors", safetensors(computed + more));
        let plan = planned(&[folder, "--gpu", "l4"]);
        assert_eq!(plan["weight_bytes"], computed + more);
        assert_eq!(plan["weights"]["param_bytes"], computed);
        assert_eq!(plan["warnings"].as_array().unwrap().len(), warnings, "{}", plan["warnings"]);
        let text = stdout(&run(&mut without_driver(&["plan", folder, "--gpu", "l4"]), 0));
        assert!(text.contains("measured  read from the headers of 1 file"), "{text}");
    }
    file(place.path(), "model.safetensors", "version https://git-lfs");
    let plan = planned(&[folder, "--gpu", "l4"]);
    assert_eq!(plan["weight_bytes"], computed);
    let warning = plan["warnings"][0].as_str().unwrap();
    assert!(warning.contains("computed from the config alone"), "{warning}");
}

#[test]
fn a_config_comes_from_stdin_too() {
    let mut command = without_driver(&["plan", "-", "--gpu", "l4", "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), TINY.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["per_token_bytes"], 2 * 2 * 2 * 32 * 2);
}

#[test]
fn a_command_line_of_vllm_is_taken_as_it_is() {
    let plan = planned(&[
        "--vllm",
        "vllm serve org/model --max-model-len 4k \\\n --max-num-seqs=32 -tp 2 --dtype half \
         --kv-cache-memory-bytes 8G --port 8000 --enable-lora --frobnicate",
        "--config",
        PLAIN,
        "--gpu",
        "h200",
    ]);
    assert_eq!(plan["tensor_parallel_size"], 2);
    assert_eq!(plan["max_model_len"], 4000);
    assert_eq!(plan["model_dtype"], "float16");
    assert_eq!(plan["resolved"]["max_num_seqs"], 32);
    assert_eq!(plan["available_kv_bytes"], 8_u64 << 30);
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains("--enable-lora") && warnings.contains("--frobnicate"), "{warnings}");
    // Options of ours win.
    let plan =
        planned(&["--vllm", "vllm serve m -tp 2", "--config", PLAIN, "--gpu", "h200", "--tp", "1"]);
    assert_eq!(plan["tensor_parallel_size"], 1);
    for (line, expected) in [
        ("vllm serve m --pipeline-parallel-size 2", "--pipeline-parallel-size"),
        ("vllm serve m --speculative-config '{}'", "--speculative-config"),
        ("vllm serve m --quantization awq", "--quantization"),
        ("vllm serve m --max-model-len many", "--max-model-len"),
        ("vllm serve 'm", "not closed"),
        ("ls -l", "vllm serve"),
    ] {
        let args = ["plan", "--vllm", line, "--config", PLAIN, "--gpu", "h200"];
        let text = stderr(&run(&mut without_driver(&args), 2));
        assert!(text.starts_with("error: ") && text.contains(expected), "{line}: {text}");
    }
}

#[test]
fn a_batch_answers_every_line_in_order() {
    let place = tempfile::tempdir().unwrap();
    file(place.path(), "tiny.json", TINY);
    let good = |device: &str| {
        json!({"config": "tiny.json", "device": device, "available_kv_bytes": 1 << 30,
            "max_model_len": 4096, "block_size": "default", "kv_cache_dtype": "auto",
            "tensor_parallel_size": 1, "quant_config": null})
    };
    let lines = [
        good("h100").to_string(),
        String::new(),
        json!({"config": "absent.json", "device": "h100"}).to_string(),
        "{".repeat(100),
        good("abacus").to_string(),
        json!({"config": "tiny.json", "device": "h100", "max_modle_len": 1}).to_string(),
        json!({"config_file": "tiny.json", "hf_quant_config_file": null, "families": ["gqa"],
            "params": {"device": "NVIDIA H100 80GB HBM3", "compute_capability": [9, 0],
                "block_size": "16", "gpu_memory_utilization": 0.9}})
        .to_string(),
        json!({"config": "tiny.json", "device": "l4", "block_size": 0}).to_string(),
        "x".repeat(2 << 20),
        good("NVIDIA H100 80GB HBM3").to_string(),
    ];
    let path = file(place.path(), "sets.jsonl", lines.join("\n"));
    let output = run(&mut without_driver(&["plan", "--batch", &path]), 1);
    let answers: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> = answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 6, 7, 8, 9, 10]);
    for answer in &answers {
        let is_bad = ![1, 7, 10].contains(&answer["line"].as_u64().unwrap());
        assert_eq!(answer["error"].is_string(), is_bad, "{answer}");
    }
    assert_eq!(answers[0]["num_gpu_blocks"], (1 << 30) / (16 * 512));
    assert_eq!(answers[0]["bytes_per_block"], answers[8]["bytes_per_block"]);
    assert!(answers[4]["error"].as_str().unwrap().contains("max_modle_len"));
    assert!(answers[5]["equation"].is_object());

    let path = file(place.path(), "good.jsonl", good("h100").to_string());
    run(&mut without_driver(&["plan", "--batch", &path]), 0);
}

#[test]
fn bad_input_is_said_in_one_line_with_a_hint() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &[u8]| file(place.path(), name, text);
    let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
    let huge = place.path().join("huge.safetensors");
    std::fs::File::create(&huge).unwrap().set_len(5 << 30).unwrap();
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(17 << 20));
    let bad_heads = TINY.replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 0");
    let cases = [
        (at("cut.json", &TINY.as_bytes()[..100]), "not a JSON object"),
        (at("deep.json", deep.as_bytes()), "recursion limit"),
        (at("nan.json", TINY.replace("128", "NaN").as_bytes()), "hidden_size"),
        (at("twice.json", br#"{"hidden_size": 1, "hidden_size": 2}"#), "there twice"),
        (at("binary.json", &[0xff, 0xfe, 0]), "not text"),
        (at("array.json", b"[1]"), "not a JSON object"),
        (at("long.json", long.as_bytes()), "more than a config.json may have"),
        (at("zero.json", bad_heads.as_bytes()), "num_attention_heads"),
        (huge.to_str().unwrap().to_owned(), "more than a config.json may have"),
        (place.path().to_str().unwrap().to_owned(), "has no config.json"),
        ("/nonexistent/config.json".to_owned(), "nothing is downloaded"),
        ("/dev/zero".to_owned(), "more than a config.json may have"),
    ];
    for (path, expected) in cases {
        let text = stderr(&run(&mut without_driver(&["plan", &path, "--gpu", "h100"]), 2));
        assert!(text.starts_with("error: ") && text.contains(expected), "{path}: {text}");
        assert!(text.len() < 1000, "{path}: {} bytes", text.len());
    }
    for (args, expected) in [
        (&[][..], "hint: give --gpu"),
        (&["--gpu", "abacus"], "h200"),
        (&["--gpu", "80GiX"], "unknown unit"),
        (&["--gpu", "0"], "hint: name the GPU instead"),
        (&["--gpu", "h100", "--tp", "0"], "--tp"),
        (&["--gpu", "h100", "--block-size", "none"], "--block-size"),
        (&["--gpu", "h100", "--kv-dtype", "fp7"], "fp8_e5m2"),
        (&["--gpu", "h100", "--kv-bytes", "many"], "--kv-bytes"),
        (&["--gpu", "h100", "--gpu-memory-utilization", "NaN"], "--gpu-memory-utilization"),
        (&["--gpu", "80GiB", "--capability", "9"], "--capability"),
    ] {
        let text = stderr(&run(&mut without_driver(&[&["plan", PLAIN], args].concat()), 2));
        assert!(text.contains(expected), "{args:?}: {text}");
    }
    let text = stderr(&run(&mut without_driver(&["plan"]), 2));
    assert!(text.contains("no model is given"), "{text}");
}

#[test]
fn an_unknown_architecture_gets_a_partial_answer() {
    let place = tempfile::tempdir().unwrap();
    let novel = TINY.replace("LlamaForCausalLM", "NovelForCausalLM");
    let config = file(place.path(), "config.json", novel);
    let text = stderr(&run(&mut without_driver(&["plan", &config, "--gpu", "h100"]), 2));
    assert!(text.contains("NovelForCausalLM") && text.contains("num_hidden_layers=2"), "{text}");
    assert!(text.contains("hint: --engine generic answers in part"), "{text}");
    let answer = planned(&[&config, "--engine", "generic"]);
    assert_eq!(answer["per_token_bytes"], 2 * 2 * 2 * 32 * 2);
    assert_eq!(answer["partial"]["missing"], json!([]));
    let bare = file(place.path(), "bare.json", r#"{"architectures": ["NovelForCausalLM"]}"#);
    let answer = planned(&[&bare, "--engine", "generic"]);
    assert_eq!(answer["per_token_bytes"], Value::Null);
}

/// One line for each record of the engine's own numbers, and what it says of one capacity.
#[test]
fn batches_agree_with_the_engines_own_numbers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kv_oracle");
    let Ok(text) = std::fs::read_to_string(folder.join("kv_oracle.jsonl")) else {
        println!("ignored: no {}", folder.display());
        return;
    };
    let step = if cfg!(debug_assertions) { 16 } else { 1 };
    let records: Vec<Value> =
        text.lines().step_by(step).map(|line| serde_json::from_str(line).unwrap()).collect();
    let absolute = |file: &Value| file.as_str().map(|file| folder.join(file));
    let row = |record: &Value| {
        let rows = record["outputs"]["capacity"].as_array().unwrap();
        rows[rows.len() / 2].clone()
    };
    let lines: Vec<String> = records
        .iter()
        .map(|record| {
            let (params, row) = (&record["params"], row(record));
            let quantization: Option<PathBuf> = absolute(&record["hf_quant_config_file"]);
            json!({"config": absolute(&record["config_file"]), "quant_config": quantization,
                "device": params["device"], "block_size": params["block_size"],
                "tensor_parallel_size": params["tensor_parallel_size"],
                "kv_cache_dtype": params["kv_cache_dtype"],
                "available_kv_bytes": row["available_kv_bytes"],
                "max_model_len": row["max_model_len"]})
            .to_string()
        })
        .collect();
    let place = tempfile::tempdir().unwrap();
    let path = file(place.path(), "sets.jsonl", lines.join("\n"));
    let begin = std::time::Instant::now();
    let output = run(&mut without_driver(&["plan", "--batch", &path]), 0);
    println!("{} sets in {:.2} s", records.len(), begin.elapsed().as_secs_f64());
    let mut answers = 0;
    for (answer, record) in stdout(&output).lines().zip(&records) {
        let answer: Value = serde_json::from_str(answer).unwrap();
        let (row, name) = (row(record), format!("{} {}", record["model"], record["params"]));
        assert_eq!(answer["bytes_per_block"], record["outputs"]["bytes_per_block"], "{name}");
        assert_eq!(answer["refused"].is_null(), row["error"].is_null(), "{name}");
        let fields: &[&str] = match row["error"].is_null() {
            true => &[
                "num_gpu_blocks",
                "kv_cache_size_tokens",
                "max_concurrency",
                "need_bytes_one_request",
            ],
            false => &[],
        };
        for field in fields {
            assert_eq!(answer[field], row[field], "{field} of {name}");
        }
        answers += 1;
    }
    assert_eq!(answers, records.len());
}
