//! What fits? From a model's `config.json` and a device to blocks, tokens and sequences, as vLLM
//! computes them at startup. Nothing is asked of any GPU: every number is derived or assumed, and
//! says so.
//!
//! `cargo run -p memvelope --example 01_plan [-- CONFIG.json [DEVICE]]`

use memvelope::admission::{Gate, GateConfig, Request};
use memvelope::engine::{Device, Params, Vllm, generic};
use memvelope::envelope::{Budget, Plan};
use memvelope::model::Layout;
use memvelope::units::{Blocks, Bytes, Tokens};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let layout = match args.next() {
        Some(path) => Layout::from_config(&std::fs::read_to_string(path)?)?,
        None => Layout::builtin_8b(),
    };
    let name = args.next().unwrap_or_else(|| "h100".to_owned());
    let device = Device::named(&name).ok_or("no such device; see Device::names()")?;

    // A whole plan: the equation, what a token costs, groups of layers, how many sequences fit.
    let params = Params { max_model_len: Some(Tokens(8192)), ..Params::new(device) };
    let plan = Plan::vllm(&layout, &params, &Budget::default())?;
    println!("{plan}");
    if plan.refused.is_some() {
        return Ok(()); // the plan says why, and what to change
    }

    // What a sequence keeps without any engine's rounding, beside what vLLM sets aside for it.
    let bare = generic::sequence_bytes(&layout, Tokens(8192));
    let engine = Vllm::new(&layout, &params)?;
    let held = engine.bytes_per_block().saturating_mul(engine.blocks_per_request(Tokens(8192)).0);
    println!("8192 tokens: {bare} bare, {held} in blocks of vLLM");

    // The same numbers size a gate: it admits what fits, and the server never preempts.
    let available = Bytes(plan.available_kv_bytes.unwrap_or(0).unsigned_abs());
    let capacity = engine.capacity(available, Tokens(8192));
    let usable = capacity.num_gpu_blocks.saturating_sub(Blocks(1)); // the null block is never handed out
    let gate = Gate::new(GateConfig::new(usable, engine.cost_curve(), Tokens(8192)))?;
    let lease = gate.try_admit(&Request::new(Tokens(700), Some(Tokens(300))))?;
    println!("one request of 700 + 300 tokens claims {}", gate.usage().claimed_blocks);
    drop(lease);
    Ok(())
}
