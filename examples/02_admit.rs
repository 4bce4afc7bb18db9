//! Does this sequence still fit? A serving loop on a declared budget, with no driver at all.
//!
//! `cargo run -p memvelope --example 02_admit`

use memvelope::admission::{Gate, GateConfig, Growth, Lease, Policy, Reason, Request, Usage};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};
use std::collections::VecDeque;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    // 1000 blocks of 16 tokens, sequences of up to 4096. In a server they come from an `Envelope`
    // or a plan: `kv_capacity_blocks`, `curve`, `max_model_len`.
    let curve = CostCurve::new(16, 0).ok_or("a block has tokens")?;
    let config = GateConfig::new(Blocks(1000), curve, Tokens(4096));
    let gate = Gate::new(config.clone())?;

    // A request that can never fit is told so at once, with how much it is too long.
    let refused = gate.try_admit(&Request::new(Tokens(4000), Some(Tokens(500))));
    let refused = refused.err().ok_or("4500 > 4096")?;
    assert_eq!((refused.reason, refused.short_by_tokens), (Reason::TooLong, Tokens(404)));
    println!("{refused}");

    // Everybody declares 2048 new tokens and produces a tenth of it. `Guaranteed` sets all of that
    // aside, so no lease ever waits; `Banker` lets in whoever can be let complete in some order.
    for policy in [Policy::Guaranteed, Policy::Banker] {
        let gate = Gate::new(GateConfig { policy, ..config.clone() })?;
        let (steps, waits) = serve(&gate)?;
        let Usage { held_peak_blocks, capacity_blocks, .. } = gate.usage();
        println!("{:<10} {steps} steps, {waits} pauses", policy.label());
        println!("           held at most {held_peak_blocks} of {capacity_blocks}");
        assert!(held_peak_blocks <= capacity_blocks);
        assert_eq!((gate.usage().leases, gate.usage().held_blocks), (0, Blocks::ZERO));
    }

    // What a gate would say now, from which numbers, and what would change it.
    let _busy: Vec<Lease> = (0..9)
        .map_while(|_| gate.try_admit(&Request::new(Tokens(1500), Some(Tokens(2500)))).ok())
        .collect();
    println!("{}", gate.explain(&Request::new(Tokens(1500), Some(Tokens(2500)))));
    Ok(())
}

/// Sixty requests through the gate, a token a step for each that runs: steps, and pauses of leases.
fn serve(gate: &Gate) -> Result<(u64, u64), Failure> {
    let output = |request: u64| 100 + request * 37 % 200;
    let mut queue: VecDeque<u64> = (0..60).collect();
    let mut running: Vec<(Lease, u64)> = Vec::new();
    let (mut steps, mut waits) = (0, 0);
    while !queue.is_empty() || !running.is_empty() {
        steps += 1;
        gate.tick(Nanos(steps * 20 * Nanos::MILLI)); // once a step, on any steady clock
        while let Some(&request) = queue.front() {
            let asked = Request::new(Tokens(300 + request * 53 % 900), Some(Tokens(2048)));
            match gate.try_admit(&asked.of_class("chat")) {
                Ok(lease) => running.push((lease, output(request))),
                Err(refused) if refused.reason.is_for_now() => break, // try again next step
                Err(refused) => return Err(refused.into()),
            }
            queue.pop_front();
        }
        for (lease, left) in &mut running {
            match lease.grow(Tokens(1))? {
                Growth::Granted(_) => *left -= 1,
                Growth::Wait => waits += 1, // this sequence pauses for a step
                Growth::Expired => unreachable!("only where `silent_max` is set"),
            }
        }
        running.retain(|(_, left)| *left > 0); // a dropped lease gives its blocks back
    }
    Ok((steps, waits))
}
