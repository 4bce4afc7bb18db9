//! Does this sequence still fit? A serving loop on a declared budget, with no driver at all.
//!
//! `cargo run -p memvelope --example 02_admit`

use memvelope::admission::{Gate, GateConfig, Lease, Policy, Reason, Request};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};
use std::collections::VecDeque;

/// Prompt tokens, and how many new ones it will really produce.
type Arrival = (u64, u64);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 1000 blocks of 16 tokens. In a server both come from an `Envelope`: its
    // `kv_capacity_blocks`, and its `curve`.
    let curve = CostCurve::new(16, 0).ok_or("a block has tokens")?;
    let gate = Gate::new(GateConfig {
        policy: Policy::Guaranteed, // whoever is in never waits
        max_new_tokens_default: Some(Tokens(512)),
        ..GateConfig::new(Blocks(1000), curve, Tokens(32_768))
    })?;

    // A request that can never fit is told so at once, with how much it is too long.
    let refused = gate.try_admit(&Request::new(Tokens(20_000), None)).expect_err("20,512 > 16,000");
    assert_eq!((refused.reason, refused.short_by_tokens), (Reason::TooLong, Tokens(4512)));
    println!("{refused}");

    // Forty requests; each step every running sequence makes one token.
    let mut waiting: VecDeque<(u64, Arrival)> =
        (0..40).map(|n| (0, (400 + n * 37 % 900, 50 + n * 29 % 300))).collect();
    let mut running: Vec<(Lease, u64)> = Vec::new();
    let (mut step, mut rejections) = (0u64, 0);
    while !waiting.is_empty() || !running.is_empty() {
        step += 1;
        let now = Nanos(step * 20 * Nanos::MILLI); // 20 ms a step
        gate.tick(now); // `retry_after` is made of the time and of what came back meanwhile
        for _ in 0..waiting.len() {
            let Some((retry_at, (prompt, output))) = waiting.pop_front() else { break };
            if now.0 < retry_at {
                waiting.push_back((retry_at, (prompt, output)));
                continue;
            }
            match gate.try_admit(&Request::new(Tokens(prompt), None)) {
                Ok(lease) => running.push((lease, output)),
                Err(refused) => {
                    rejections += 1;
                    let wait = refused.retry_after.ok_or("each of them fits an empty gate")?;
                    waiting.push_back((now.0 + wait.0, (prompt, output)));
                }
            }
        }
        for (lease, left) in &mut running {
            // Fails only past the declared maximum.
            assert!(lease.grow(Tokens(1))?.is_granted());
            *left -= 1;
        }
        running.retain(|(_, left)| *left > 0); // a dropped lease gives its blocks back
    }

    let usage = gate.usage();
    println!("{} admitted after {rejections} rejections, {step} steps", usage.admitted);
    println!(
        "peak held {}, peak claimed {} of {}",
        usage.held_peak_blocks, usage.claimed_peak_blocks, usage.capacity_blocks
    );
    assert!(usage.claimed_peak_blocks <= usage.capacity_blocks);
    assert_eq!((usage.leases, usage.claimed_blocks), (0, Blocks::ZERO));
    Ok(())
}
