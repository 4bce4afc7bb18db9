//! Once its books are as large as they have to be, a gate allocates nothing: neither to admit, nor
//! to grow, nor to release, nor to refuse.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![expect(unsafe_code, reason = "a global allocator is")]

#[path = "../../../benches/random.rs"]
mod random;

use memvelope::admission::{Estimate, Gate, GateConfig, Lease, Policy, Request};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};
use random::Random;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Calls of this thread that took memory.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is the system allocator's; the count beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CLASSES: [&str; 4] = ["chat", "code", "agent", "batch"];

/// Steps of an engine with up to 200 sequences; `leases` has room for them.
fn run(gate: &Gate, leases: &mut Vec<Lease>, random: &mut Random, now: &mut u64, steps: u64) {
    for _ in 0..steps {
        *now += 20 * Nanos::MILLI;
        gate.tick(Nanos(*now));
        for _ in 0..4 {
            let (prompt, new) = (1 + random.below(900), 1 + random.below(2000));
            let mut request = Request::new(Tokens(prompt), Some(Tokens(new)));
            request.class = (random.below(5) > 0).then(|| CLASSES[random.below(4) as usize]);
            if let Ok(lease) = gate.try_admit(&request)
                && leases.len() < leases.capacity()
            {
                leases.push(lease);
            }
        }
        let mut index = 0;
        while index < leases.len() {
            let ended = leases[index].grow(Tokens(1 + random.below(30))).is_err();
            if ended || random.below(60) == 0 {
                let lease = leases.swap_remove(index);
                match random.below(8) {
                    0 => drop(lease.preempt()),
                    _ => lease.release(),
                }
            } else {
                index += 1;
            }
        }
    }
}

fn check(policy: Policy, estimate: Option<Estimate>) {
    let curve = CostCurve::new(16, 0).unwrap();
    let config = GateConfig::new(Blocks(6000), curve, Tokens(8192));
    let gate = Gate::new(GateConfig { policy, estimate, ..config }).unwrap();
    let (mut leases, mut random, mut now) = (Vec::with_capacity(200), Random(1), 0);
    run(&gate, &mut leases, &mut random, &mut now, 8000);
    let (before, admitted) = (CALLS.get(), gate.usage().admitted);
    run(&gate, &mut leases, &mut random, &mut now, 2000);
    let calls = CALLS.get() - before;
    let admitted = gate.usage().admitted - admitted;
    assert!(admitted > 1000, "{admitted} admitted");
    assert_eq!(calls, 0, "{policy:?} with {estimate:?}: allocations in {admitted} admissions");
}

#[test]
fn guaranteed_allocates_nothing() {
    check(Policy::Guaranteed, None);
}

#[test]
fn banker_allocates_nothing() {
    check(Policy::Banker, None);
}

#[test]
fn banker_with_an_estimate_allocates_nothing() {
    check(Policy::Banker, Some(Estimate::default()));
}

#[test]
fn optimistic_allocates_nothing() {
    check(Policy::Optimistic { watermark: 0.01 }, None);
}
