//! The planner against numbers that vLLM itself arrived at on a processor, for the models of
//! `xtask/engine/models.py`. `cargo xtask lane engine` measures anew and names its records in
//! `ENGINE_RECORDS`; otherwise those are read that are kept beside the models.

use memvelope::engine::{Device, Params, Processor, Usage, Vllm, vllm_0_32};
use memvelope::envelope::{Budget, Plan};
use memvelope::model::Layout;
use memvelope::units::Tokens;
use serde_json::{Value, json};

const KEPT: &str = include_str!("../xtask/engine/measured.jsonl");

/// What both sides say, in the order of the table.
const NUMBERS: [&str; 8] = [
    "block_size",
    "num_gpu_blocks",
    "kv_cache_size_tokens",
    "max_concurrency",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_in_flight_tokens",
];

#[test]
fn plans_are_those_of_the_engine() {
    let records = match std::env::var_os("ENGINE_RECORDS") {
        Some(path) => std::fs::read_to_string(path).expect("readable records"),
        None => KEPT.to_owned(),
    };
    let records = records.lines().map(|line| serde_json::from_str(line).expect("JSON lines"));
    let records: Vec<Value> = records.collect();
    assert!(!records.is_empty(), "no records");
    let wrong: usize = records.iter().map(compare).sum();
    assert_eq!(wrong, 0, "rows marked with * differ");
}

/// Prints what both say of a case, and counts where they differ.
fn compare(record: &Value) -> usize {
    let plan = plan(record);
    println!("\n{:<36} {:>20} {:>20}", record["name"].as_str().unwrap_or(""), "vLLM", "memvelope");
    let mut wrong = 0;
    let mut row = |name: &str, theirs: &Value, ours: &Value| {
        let mark = if theirs == ours { ' ' } else { '*' };
        wrong += usize::from(theirs != ours);
        println!("{mark} {name:<34} {:>20} {:>20}", theirs.to_string(), ours.to_string());
    };
    if let Some(reason) = record["refused"].as_str() {
        // vLLM names the longest length that would fit, where there is one.
        let longest = reason.split_once("maximum model length is ").map(|(_, rest)| rest);
        let longest = longest.and_then(|rest| rest.split_once('.')?.0.parse::<u64>().ok());
        row("refused", &json!(true), &json!(plan.refused.is_some()));
        row("estimated_max_model_len", &json!(longest), &json!(estimate(record)));
        return wrong;
    }
    row("version", &record["version"], &json!(vllm_0_32::VERSION));
    row("refused", &Value::Null, &json!(plan.refused));
    let ours = numbers(&plan);
    for name in NUMBERS {
        row(name, &record["vllm"][name], &ours[name]);
    }
    let groups = record["vllm"]["groups"].as_array().cloned().unwrap_or_default();
    row("groups", &json!(groups.len()), &json!(plan.groups.len()));
    for (index, (theirs, ours)) in groups.iter().zip(&plan.groups).enumerate() {
        let text = |layers: &Value, tokens: &Value, page: &Value| {
            json!(format!("{layers} x {tokens}, {page} B"))
        };
        let theirs = text(&theirs["num_layers"], &theirs["block_size"], &theirs["page_size_bytes"]);
        let page = json!(ours.group.page_size_bytes);
        let ours = text(&json!(ours.group.num_layers), &json!(ours.group.block_size), &page);
        row(&format!("group {index}: layers x tokens, page"), &theirs, &ours);
    }
    wrong
}

fn parts(record: &Value) -> (Layout, Params) {
    let layout = Layout::from_config(&record["config"].to_string()).expect("a model");
    let options = &record["options"];
    let number = |name: &str| options[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let mut params = Params::new(Device::named("cpu").expect("known"));
    params.processor = Processor {
        amx: record["cpu"]["amx"] == true,
        avx512_bf16: record["cpu"]["avx512_bf16"] == true,
    };
    params.usage = if record["usage"] == "server" { Usage::Server } else { Usage::Offline };
    params.max_model_len = options["max_model_len"].as_u64().map(Tokens);
    params.block_size = number("block_size");
    params.prefix_caching = options["enable_prefix_caching"].as_bool();
    if let Some(dtype) = options["kv_cache_dtype"].as_str() {
        params.kv_dtype = dtype.parse().expect("a KV cache dtype");
    }
    (layout, params)
}

fn available(record: &Value) -> i64 {
    record["options"]["kv_cache_memory_bytes"].as_i64().expect("the memory of the cache")
}

fn plan(record: &Value) -> Plan {
    let (layout, params) = parts(record);
    Plan::vllm(&layout, &params, &Budget::Kv(available(record))).expect("a plan")
}

/// The plan's numbers under vLLM's names.
fn numbers(plan: &Plan) -> Value {
    let resolved = plan.resolved.as_ref();
    json!({
        "block_size": plan.block_size,
        "num_gpu_blocks": plan.num_gpu_blocks,
        "kv_cache_size_tokens": plan.kv_cache_size_tokens,
        "max_concurrency": plan.max_concurrency,
        "max_model_len": plan.max_model_len,
        "max_num_batched_tokens": resolved.map(|resolved| resolved.max_num_batched_tokens),
        "max_num_seqs": resolved.map(|resolved| resolved.max_num_seqs),
        "max_in_flight_tokens": resolved.map(|resolved| resolved.max_in_flight_tokens),
    })
}

fn estimate(record: &Value) -> Option<u64> {
    let (layout, params) = parts(record);
    let vllm = Vllm::new(&layout, &params).ok()?;
    let longest = params.max_model_len.or(layout.max_tokens)?;
    vllm.capacity_signed(available(record), longest).estimated_max_model_len.map(|tokens| tokens.0)
}
