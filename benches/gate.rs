//! Claim: admit + release costs at most four uncontended atomic pairs, a rejection less.
//!
//! `cargo bench -p memvelope --bench gate` prints rows for the table in `benches/README.md`.

#[path = "pair.rs"]
#[allow(unreachable_pub, reason = "benches share the file by path")]
mod pair;

use memvelope::admission::{Gate, GateConfig, Lease, PoolConfig};
use memvelope::units::{Blocks, CostCurve, Tokens};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel};

const OPERATIONS: u64 = 200_000;

fn main() {
    let curve = CostCurve::new(16, 0).expect("16 tokens a block");
    let config = GateConfig::new(Blocks(100_000), curve);
    let pools = ["short", "long"].map(|name| PoolConfig { name: name.into(), share: 1 }).into();
    let gate = Gate::new(config.clone()).expect("a plain gate");
    let pooled = Gate::new(GateConfig { pools, ..config.clone() }).expect("a gate with two pools");
    let full = Gate::new(config).expect("a plain gate");
    let all = full.try_admit(Tokens(1), Some(Tokens(16 * 100_000 - 1)), None).expect("it is empty");
    let empty = gate.try_admit(Tokens(1), Some(Tokens(1_000_000)), None).expect("it is empty");

    let floor = AtomicU64::new(0);
    let mut atomic_pair = |operations| {
        for _ in 0..operations {
            black_box(&floor).fetch_add(1, AcqRel);
            black_box(&floor).fetch_sub(1, AcqRel);
        }
    };
    // The lease stays where `try_admit` put it. What a caller pays who moves it away at once (the
    // copy waits for stores that are not through yet) is a row of its own.
    let admit_release = |gate: &Gate, pool: Option<&str>, operations| {
        for _ in 0..operations {
            let lease = gate.try_admit(black_box(Tokens(700)), black_box(Some(Tokens(300))), pool);
            black_box(&lease);
            assert!(lease.is_ok(), "there is room");
        }
    };
    let grow = |operations| {
        let mut lease = None::<Lease>;
        for step in 0..operations {
            // A fresh sequence now and then, so that this never reaches a maximum.
            if step % 4096 == 0 {
                lease.take();
                lease = gate.try_admit(Tokens(1), Some(Tokens(4096)), None).ok();
            }
            let grown = lease.as_mut().map(|lease| lease.grow(black_box(Tokens(1))));
            black_box(grown).expect("there is room").expect("below its maximum");
        }
    };

    println!("| subject | ns | peer | ns | ratio |\n|---|---|---|---|---|");
    let mut row = |subject: &'static str, run: &mut dyn FnMut(u64)| {
        pair::measure((subject, run), ("atomic pair", &mut atomic_pair), OPERATIONS).print();
    };
    row("admit + release", &mut |n| admit_release(&gate, None, n));
    row("admit + release, named pool", &mut |n| admit_release(&pooled, Some("long"), n));
    row("admit + move the lease + release", &mut |operations| {
        for _ in 0..operations {
            let lease = gate.try_admit(black_box(Tokens(700)), black_box(Some(Tokens(300))), None);
            drop(black_box(lease).expect("there is room"));
        }
    });
    row("grow by a token", &mut |n| grow(n));
    row("rejected: no capacity", &mut |operations| {
        for _ in 0..operations {
            let refused = full.try_admit(black_box(Tokens(700)), Some(Tokens(300)), None);
            black_box(&refused);
            assert!(refused.is_err(), "it is full");
        }
    });
    drop((all, empty));
}
