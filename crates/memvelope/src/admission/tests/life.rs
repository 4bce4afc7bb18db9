//! A lease from its grant to its end, whatever ends it.

use super::super::gate::Keeper;
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn it_draws_from_its_claim_and_stops_at_its_maximum() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        let mut lease = admit(&gate, 17, 30).unwrap();
        assert_eq!((lease.held(), lease.claim(), lease.need()), (Blocks(2), Blocks(3), Blocks(1)));
        let blocks = |blocks| Ok(Growth::Granted(Blocks(blocks)));
        assert_eq!(lease.grow(Tokens(0)), blocks(0));
        assert_eq!(lease.grow(Tokens(15)), blocks(0));
        assert_eq!(lease.grow(Tokens(1)), blocks(1));
        assert_eq!(gate.usage().held_blocks, Blocks(3));
        for (ask, past) in [(15, 1), (16, 2), (1 << 63, (1 << 63) - 14), (u64::MAX, u64::MAX - 14)]
        {
            let refused = PastMaximum { max_tokens: Tokens(47), past_by_tokens: Tokens(past) };
            assert_eq!(lease.grow(Tokens(ask)), Err(refused));
            assert_eq!(lease.explain(Tokens(ask)).past_maximum_tokens, Tokens(past));
            lease.prefill(Tokens(ask));
        }
        assert_eq!((lease.tokens(), lease.held()), (Tokens(33), Blocks(3)));
        assert_eq!(lease.grow(Tokens(14)), blocks(0));
        assert_eq!(lease.need(), Blocks(0));
        lease.release();
        let usage = gate.usage();
        assert_eq!((usage.held_blocks, usage.held_peak_blocks), (Blocks(0), Blocks(3)));
        assert_eq!((usage.leases, usage.admitted, usage.released), (0, 1, 1));
    }
}

#[test]
fn a_panic_releases_and_a_lease_outlives_its_gate() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        let copy = gate.clone();
        let died = catch_unwind(AssertUnwindSafe(|| {
            let _lease = admit(&copy, 100, 100).unwrap();
            std::panic::resume_unwind(Box::new("the engine failed"));
        }));
        assert!(died.is_err());
        assert_idle(&gate);
        let mut lease = admit(&gate, 100, 100).unwrap();
        drop((gate, copy));
        let other = self::gate(policy, 7);
        assert!(lease.grow(Tokens(100)).unwrap().is_granted());
        assert_eq!(other.usage().held_blocks, Blocks(0), "another gate's account");
        drop(lease);
        assert_idle(&other);
        assert_eq!(other.usage().capacity_blocks, Blocks(7));
    }
}

#[test]
fn preempted_leases_are_released_once_and_counted() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        let other = admit(&gate, 16, 16).unwrap();
        // Prompt, prefilled, grown; tokens lost.
        for (prompt, filled, grown, lost) in
            [(40, 0, 0, 0), (40, 24, 0, 24), (40, 24, 8, 48), (40, 99, 0, 40)]
        {
            let mut lease = admit(&gate, prompt, 100).unwrap();
            lease.prefill(Tokens(filled));
            assert!(lease.grow(Tokens(grown)).unwrap().is_granted());
            // Growth by nothing says nothing.
            assert_eq!(lease.preempt(), Tokens(lost), "{prompt} {filled} {grown}");
            let usage = gate.usage();
            assert_eq!((usage.held_blocks, usage.claimed_blocks), (Blocks(1), Blocks(2)));
        }
        drop(other);
        assert_idle(&gate);
        let has_books = policy != Policy::Guaranteed;
        assert_eq!(gate.usage().preempted, if has_books { 4 } else { 0 });
    }
}

#[test]
fn reserved_blocks_are_those_that_prefill_has_not_reached() {
    let gate = gate(Policy::Banker, 100);
    let mut lease = admit(&gate, 100, 50).unwrap();
    let reserved = || gate.usage().reserved_blocks.0;
    let mut check = |tokens: u64, expected: u64| {
        lease.prefill(Tokens(tokens));
        assert_eq!(reserved(), expected, "{tokens} more");
    };
    for (tokens, expected) in [(0, 7), (1, 6), (15, 6), (1, 5), (80, 0), (u64::MAX, 0)] {
        check(tokens, expected);
    }
    let mut other = admit(&gate, 100, 50).unwrap();
    assert_eq!(reserved(), 7);
    assert!(other.grow(Tokens(20)).unwrap().is_granted(), "it grows, so the prompt is there");
    assert_eq!(reserved(), 0);
    drop((lease, other));
    assert_idle(&gate);
}

#[test]
fn counters_at_their_end_stay_there() {
    for policy in POLICIES {
        let gate = gate(policy, 4);
        match &gate.inner().keeper {
            Keeper::LockFree(gate) => gate.first.account.set_counters(u64::MAX - 1),
            Keeper::Books(books) => {
                let mut state = books.lock().unwrap();
                let account = &mut state.accounts[0];
                account.rejected = account.rejected.map(|_| u64::MAX - 1);
                for counter in [
                    &mut account.admitted,
                    &mut account.granted,
                    &mut account.waits,
                    &mut account.released,
                    &mut account.preempted,
                    &mut account.released_blocks,
                ] {
                    *counter = u64::MAX - 1;
                }
            }
        }
        for round in 0..4 {
            let mut lease = admit(&gate, 32, 32).unwrap();
            assert!(admit(&gate, 64, 64).is_err());
            assert!(lease.grow(Tokens(32)).unwrap().is_granted());
            assert!(gate.set_capacity(Blocks(0), 2 * round + 1));
            drop(lease);
            let mut waiting = admit(&self::gate(policy, 9), 1, 99).unwrap();
            assert!(waiting.grow(Tokens(99)).unwrap().is_granted());
            let _ = waiting.preempt();
            assert!(gate.set_capacity(Blocks(4), 2 * round + 2));
            gate.tick(crate::units::Nanos(round));
        }
        let usage = gate.usage();
        assert_eq!((usage.leases, usage.held_blocks), (0, Blocks(0)));
        if policy != Policy::Guaranteed {
            assert_eq!(
                (usage.admitted, usage.released, usage.granted),
                (u64::MAX, u64::MAX, u64::MAX)
            );
        }
        assert_eq!(usage.rejected.len(), Reason::ALL.len());
    }
    assert!(!gate(Policy::Banker, 4).set_capacity(Blocks(9), 0));
    for policy in POLICIES {
        let gate = gate(policy, 4);
        assert!(gate.set_capacity(Blocks(u64::MAX), u64::MAX));
        assert_eq!(gate.usage().capacity_blocks, Blocks((1 << 30) - 1));
        assert!(!gate.set_capacity(Blocks(1), u64::MAX));
    }
}

#[test]
fn more_classes_than_are_told_apart() {
    let estimate = Some(Estimate::default());
    let gate = Gate::new(GateConfig { estimate, ..config(Policy::Banker, 1000) }).unwrap();
    for round in 0..3 {
        for class in 0..1000 {
            let name = format!("class {class}");
            let mut lease = gate.try_admit(&request(16, 160).of_class(&name)).unwrap();
            assert!(lease.grow(Tokens(16 + class % 100)).unwrap().is_granted());
            gate.step();
            drop(lease);
        }
        assert_eq!(gate.usage().admitted, 1000 * (round + 1));
    }
    assert!(gate.try_admit(&request(16, 160).of_class("never seen")).is_ok());
    assert!(gate.try_admit(&request(16, 160)).is_ok());
    assert_idle(&gate);
}

#[test]
fn prefixes_are_held_once_and_given_back_by_the_last() {
    let gate = gate(Policy::Banker, 100);
    let with = |id, tokens| request(160, 16).with_prefix(id, Tokens(tokens));
    let first = gate.try_admit(&with(7, 100)).unwrap();
    assert_eq!(gate.usage().shared_blocks, Blocks(0), "alone it is its own");
    let second = gate.try_admit(&with(7, 100)).unwrap();
    let usage = gate.usage();
    assert_eq!((usage.held_blocks, usage.shared_blocks), (Blocks(14), Blocks(6)));
    assert_eq!(second.held(), Blocks(10), "its sequence has them, too");
    let longer = gate.try_admit(&with(7, 160)).unwrap();
    assert_eq!(gate.usage().held_blocks, Blocks(18));
    let shorter = gate.try_admit(&with(7, 80)).unwrap();
    assert_eq!(gate.usage().held_blocks, Blocks(28), "it does not have all of these blocks");
    drop((first, longer));
    let usage = gate.usage();
    assert_eq!((usage.held_blocks, usage.shared_blocks), (Blocks(20), Blocks(0)));
    let _ = second.preempt();
    drop(shorter);
    assert_idle(&gate);
    // Of a window nothing is shared, nor of less than a block.
    let tiny = gate.try_admit(&with(8, 15)).unwrap();
    let other = gate.try_admit(&with(8, 160)).unwrap();
    assert_eq!(gate.usage().shared_blocks, Blocks(0));
    drop((tiny, other));
    assert_idle(&gate);
}
