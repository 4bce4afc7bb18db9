//! The gate as a whole: tables, a naive double, threads, and a model checker for the part without
//! a lock.

#![cfg_attr(
    loom,
    allow(dead_code, reason = "the model checker's build has none of the other tests")
)]

#[cfg(not(loom))]
mod budget;
#[cfg(not(loom))]
mod life;
#[cfg(loom)]
mod loom;
#[cfg(not(loom))]
mod model;
#[cfg(not(loom))]
mod naive;
#[cfg(not(loom))]
mod outcomes;
#[cfg(not(loom))]
mod proofs;
#[cfg(not(loom))]
mod queue;
#[cfg(not(loom))]
mod refusals;
#[cfg(not(loom))]
mod stress;

#[path = "../../../../../benches/random.rs"]
mod random;

use super::*;
use crate::units::{Blocks, CostCurve, Tokens};
use random::Random;

/// Longer than any sequence of these tests, but where a test says so.
const LENGTH: Tokens = Tokens(1 << 40);

const POLICIES: [Policy; 3] =
    [Policy::Guaranteed, Policy::Banker, Policy::Optimistic { watermark: 0.0 }];

fn curve(block_tokens: u32) -> CostCurve {
    CostCurve::new(block_tokens, 0).unwrap()
}

/// One pool, blocks of 16 tokens, no estimate.
fn config(policy: Policy, capacity: u64) -> GateConfig {
    let config = GateConfig::new(Blocks(capacity), curve(16), LENGTH);
    GateConfig { policy, estimate: None, ..config }
}

fn gate(policy: Policy, capacity: u64) -> Gate {
    Gate::new(config(policy, capacity)).unwrap()
}

fn request(prompt: u64, new: u64) -> Request<'static> {
    Request::new(Tokens(prompt), Some(Tokens(new)))
}

fn admit(gate: &Gate, prompt: u64, new: u64) -> Result<Lease, Rejection> {
    gate.try_admit(&request(prompt, new))
}

/// Pools of name, share and percent kept.
fn pools(pools: &[(&str, u32, u8)]) -> Vec<PoolConfig> {
    let pool = |&(name, share, floor_percent): &(&str, u32, u8)| PoolConfig {
        name: name.into(),
        share,
        floor_percent,
    };
    pools.iter().map(pool).collect()
}

fn rejected(gate: &Gate, reason: Reason) -> u64 {
    gate.usage().rejected[reason as usize]
}

/// Nothing is handed out, and nobody waits.
#[track_caller]
fn assert_idle(gate: &Gate) {
    let usage = gate.usage();
    assert_eq!((usage.held_blocks, usage.claimed_blocks), (Blocks(0), Blocks(0)), "{usage:?}");
    assert_eq!((usage.shared_blocks, usage.reserved_blocks), (Blocks(0), Blocks(0)), "{usage:?}");
    assert_eq!((usage.leases, usage.waiting), (0, 0), "{usage:?}");
    assert_eq!(usage.released, usage.admitted, "{usage:?}");
}
