//! What came of requests and leases: histograms, and leases that nobody hears of any more.

use super::*;
use crate::units::Nanos;

fn buckets(histogram: &Histogram) -> Vec<(u64, u64)> {
    histogram.buckets().collect()
}

#[test]
fn every_end_is_counted_with_its_size() {
    let gate = gate(Policy::Banker, 100);
    let mut one = admit(&gate, 16, 160).unwrap();
    assert!(one.grow(Tokens(20)).unwrap().is_granted());
    drop(one);
    let mut two = admit(&gate, 16, 16).unwrap();
    two.prefill(Tokens(10));
    assert_eq!(two.preempt(), Tokens(10));
    let full = admit(&gate, 16, 16 * 99).unwrap();
    let refused = admit(&gate, 16 * 50, 16 * 50).unwrap_err();
    assert_eq!(refused.reason, Reason::NoCapacity);
    let outcomes = gate.outcomes();
    assert_eq!(buckets(&outcomes.released_tokens), [(1, 1), (32, 1)]);
    assert_eq!(buckets(&outcomes.preempted_tokens), [(1, 1)]);
    assert_eq!(buckets(&outcomes.waits), [(1, 2)]);
    // 8 blocks of the first claim were never drawn, 1 of the second.
    assert_eq!(buckets(&outcomes.unused_blocks), [(2, 1), (16, 1)]);
    assert_eq!(buckets(&outcomes.short_blocks), [(2, 1)]);

    gate.tick(Nanos(1000));
    let ticket = gate.enqueue(&request(16 * 50, 16 * 50), 0, None).unwrap();
    gate.tick(Nanos(1000 + 500));
    drop(full);
    assert_eq!(buckets(&gate.outcomes().queue_ns), [(512, 1)]);
    drop(ticket);
    assert_eq!(gate.usage().leases, 0);
}

#[test]
fn a_silent_lease_is_taken_back_only_where_the_gate_was_told_to() {
    for silent_max in [None, Some(Nanos(100))] {
        let config = GateConfig { silent_max, ..config(Policy::Banker, 100) };
        let gate = Gate::new(config).unwrap();
        let mut silent = admit(&gate, 16, 160).unwrap();
        let mut lively = admit(&gate, 16, 160).unwrap();
        for now in (0..=200).step_by(50) {
            gate.tick(Nanos(now));
            assert!(lively.grow(Tokens(16)).unwrap().is_granted());
        }
        let is_expired = silent_max.is_some();
        let usage = gate.usage();
        assert_eq!((usage.expired, usage.leases), (is_expired.into(), 2 - u64::from(is_expired)));
        assert_eq!(usage.held_blocks, lively.held().saturating_add(Blocks((!is_expired).into())));
        let expected = if is_expired { Growth::Expired } else { Growth::Granted(Blocks(1)) };
        assert_eq!(silent.explain(Tokens(16)).is_granted, !is_expired);
        assert_eq!(silent.grow(Tokens(16)), Ok(expected));
        // Its slot is not another's before it is dropped, and nothing is given back twice.
        let other = admit(&gate, 16, 16).unwrap();
        assert_ne!(other.serial(), silent.serial());
        drop(silent);
        drop(lively);
        assert_eq!(gate.usage().held_blocks, other.held());
        drop(other);
        assert_eq!((gate.usage().leases, gate.usage().claimed_blocks), (0, Blocks::ZERO));
    }
}

#[test]
fn a_guaranteed_gate_with_books_goes_on_after_its_budget_shrank() {
    let config = GateConfig { keeps_books: true, ..config(Policy::Guaranteed, 20) };
    let gate = Gate::new(config).unwrap();
    let mut leases = [admit(&gate, 32, 128).unwrap(), admit(&gate, 16, 144).unwrap()];
    assert!(gate.set_capacity(Blocks(12), 1));
    // The smaller need reaches its claim; the other waits for it.
    for _ in 0..8 {
        assert_eq!(leases[1].grow(Tokens(16)), Ok(Growth::Wait));
        assert!(leases[0].grow(Tokens(16)).unwrap().is_granted());
    }
    assert_eq!(gate.victims().len(), 2);
    let [one, mut other] = leases;
    drop(one);
    assert!(other.grow(Tokens(16)).unwrap().is_granted());
    assert_eq!(gate.outcomes().released_tokens.count(), 1);
}

#[test]
fn a_gate_without_books_has_no_histograms() {
    let gate = gate(Policy::Guaranteed, 100);
    drop(admit(&gate, 16, 16).unwrap());
    assert_eq!(gate.outcomes(), Outcomes::default());
}
