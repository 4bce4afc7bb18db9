//! What a hostile reader of the gate proved to be wrong, and is not any more.

use super::*;
use crate::units::Nanos;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Wake, Waker};

/// A waker that is broken, and one that counts.
struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        panic!("a broken waker");
    }
}

#[derive(Default)]
struct Bell(AtomicU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn take(ticket: &mut Ticket) -> Option<Result<Lease, Rejection>> {
    ticket.try_take(Waker::noop())
}

#[test]
fn a_waker_that_panics_harms_nobody_else() {
    for policy in POLICIES {
        let (gate, bell) = (gate(policy, 4), Arc::new(Bell::default()));
        let first = admit(&gate, 63, 1).unwrap();
        let mut broken = gate.enqueue(&request(16, 16), 0, None).unwrap();
        let mut sound = gate.enqueue(&request(16, 16), 0, None).unwrap();
        assert!(broken.try_take(&Waker::from(Arc::new(Broken))).is_none());
        assert!(sound.try_take(&Waker::from(Arc::clone(&bell))).is_none());
        assert!(catch_unwind(AssertUnwindSafe(|| first.preempt())).is_err());
        // Given back once, and the one behind it is woken.
        let usage = gate.usage();
        assert_eq!((usage.leases, usage.released), (2, 1), "{policy:?} {usage:?}");
        assert_eq!(bell.0.load(SeqCst), 1, "{policy:?}");
        drop((take(&mut broken).unwrap().unwrap(), take(&mut sound).unwrap().unwrap()));
        assert_idle(&gate);
    }
}

#[test]
fn a_head_that_cannot_fit_the_shrunken_budget_stops_nobody() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        gate.set_capacity(Blocks(50), 1);
        let mut large = gate.enqueue(&request(16 * 80, 16), 0, None).unwrap();
        let mut small = gate.enqueue(&request(16, 16), 0, None).unwrap();
        gate.step();
        assert!(take(&mut large).is_none());
        drop(take(&mut small).expect("an empty gate admits what fits").unwrap());
        drop(admit(&gate, 16, 16).unwrap());
        assert_eq!(gate.usage().waiting, 1);
        gate.set_capacity(Blocks(100), 2);
        drop(take(&mut large).unwrap().unwrap());
        assert_idle(&gate);
    }
}

fn lending(estimate: bool) -> Gate {
    let mut config = config(Policy::Banker, 100);
    config.pools = pools(&[("a", 1, 0), ("b", 1, 0)]);
    config.estimate = estimate.then(Estimate::default);
    Gate::new(config).unwrap()
}

#[test]
fn what_another_pool_has_borrowed_is_not_a_shrunken_budget() {
    let gate = lending(false);
    let _b = gate.try_admit(&request(16 * 60, 16).in_pool("b")).unwrap();
    let rejection = gate.try_admit(&request(16 * 44, 16).in_pool("a")).unwrap_err();
    assert_eq!(rejection.reason, Reason::NoCapacity);
    assert_ne!(rejection.retry_after, Some(Nanos(60 * Nanos::SECOND)));
}

#[test]
fn what_the_estimate_keeps_free_is_borrowed_too() {
    let gate = lending(true);
    // b borrows, and is empty again: its capacity is idle.
    drop(gate.try_admit(&request(16 * 89, 16).in_pool("b")).unwrap());
    assert_eq!(gate.pool_usage("a").unwrap().capacity_blocks, Blocks(10));
    let _first = gate.try_admit(&request(16, 16 * 9).in_pool("a")).unwrap();
    let second = gate.try_admit(&request(16, 16 * 4).in_pool("a"));
    assert!(second.is_ok(), "{second:?} {:?}", gate.usage());
}

fn estimating(capacity: u64, block_tokens: u32) -> Gate {
    let mut config = config(Policy::Banker, capacity);
    config.curve = curve(block_tokens);
    config.estimate = Some(Estimate::default());
    Gate::new(config).unwrap()
}

/// Outputs of `new` tokens that end after one.
fn history(gate: &Gate, outputs: u32, new: u64) {
    for _ in 0..outputs {
        gate.step();
        let mut lease = gate.try_admit(&request(16, new)).unwrap();
        assert!(lease.grow(Tokens(1)).unwrap().is_granted());
    }
    gate.step();
}

fn kept(gate: &Gate, request: &Request<'_>) -> f64 {
    gate.explain(request).kept_peak_blocks.unwrap()
}

#[test]
fn a_prefix_that_becomes_common_is_expected_once() {
    let gate = estimating(150, 16);
    history(&gate, 300, 480);
    let (long, plain) = (request(16 * 60, 480).with_prefix(1, Tokens(16 * 50)), request(16, 16));
    let check = |what: &str| {
        let before = kept(&gate, &plain);
        gate.step();
        let after = kept(&gate, &plain);
        assert!((before - after).abs() < 2.0, "{what}: {before} blocks become {after} in a step");
    };
    let _first = gate.try_admit(&long).unwrap();
    check("one has it");
    let second = gate.try_admit(&long).unwrap();
    assert_eq!(gate.usage().shared_blocks, Blocks(50));
    check("two have it");
    drop(second);
    check("it is one's own again");
}

#[test]
fn a_class_never_seen_leans_on_all_at_once() {
    let gate = estimating(100, 16);
    history(&gate, 300, 16 * 80);
    // They end after a token, so that many fit; of whom nothing is known, one.
    let admitted = |class| {
        let request = |class| Request { class, ..request(16, 16 * 60) };
        let leases: Vec<_> =
            std::iter::from_fn(|| gate.try_admit(&request(class)).ok()).take(30).collect();
        leases.len()
    };
    assert_eq!((admitted(None), admitted(Some("new"))), (30, 30));
}

#[test]
fn blocks_as_long_as_outputs_do_not_hide_their_ends() {
    let gate = estimating(20, 256);
    history(&gate, 300, 512);
    let mut leases = Vec::new();
    while let Ok(lease) = gate.try_admit(&request(16, 512)) {
        leases.push(lease);
    }
    // 20 blocks, of which a claim takes 3: at worst 6 fit, and more do since all end in their
    // first.
    assert!(leases.len() > 10, "{}", leases.len());
}

#[test]
fn explaining_takes_no_class() {
    let gate = estimating(100, 16);
    let name = |n: u32| format!("c{n}");
    for n in 0..300 {
        let class = name(n);
        assert!(gate.explain(&request(16, 16).of_class(&class)).is_admitted);
    }
    let Some(books) = (match &gate.inner().keeper {
        gate::Keeper::Books(books) => Some(books),
        gate::Keeper::LockFree(_) => None,
    }) else {
        panic!("it estimates")
    };
    assert_eq!(books.class("real"), 1);
}

#[test]
fn what_can_never_be_admitted_does_not_wait() {
    for policy in POLICIES {
        let gate = gate(policy, 4);
        let _lease = admit(&gate, 48, 16).unwrap();
        let _ahead = gate.enqueue(&request(48, 16), 0, None).unwrap();
        let never = gate.enqueue(&request(16 * 10, 16), 0, None);
        let reason = never.map(drop).map_err(|rejection| rejection.reason);
        assert_eq!(reason, Err(Reason::TooLong), "{policy:?}");
        assert_eq!(rejected(&gate, Reason::TooLong), 1);
    }
}
