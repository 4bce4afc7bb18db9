//! Budgets that shrink, are lent and come back; and leases that have to wait for each other.

use super::*;
use crate::units::Nanos;

#[test]
fn stale_epochs_change_nothing() {
    for policy in POLICIES {
        let gate = gate(policy, 100);
        for (blocks, epoch, taken) in [(1, 0, false), (80, 5, true), (90, 5, false), (90, 4, false)]
        {
            assert_eq!(gate.set_capacity(Blocks(blocks), epoch), taken, "epoch {epoch}");
        }
        assert_eq!((gate.usage().capacity_blocks, gate.usage().epoch), (Blocks(80), 5));
    }
}

#[test]
fn to_nothing_and_back_with_live_leases() {
    for policy in [Policy::Banker, Policy::Guaranteed] {
        // Lending, so that `Guaranteed` keeps books, too.
        let pools = pools(&[("only", 1, 0)]);
        let gate = Gate::new(GateConfig { pools, ..config(policy, 100) }).unwrap();
        // Held 20, 10, 5 and 40 of claims of 25, 25, 6 and 44: needs 5, 15, 1, 4.
        let mut leases: Vec<_> = [(20, 5), (10, 15), (5, 1), (40, 4)]
            .map(|(held, need)| admit(&gate, 16 * held, 16 * need).unwrap())
            .into();
        assert!(gate.victims().is_empty());
        for (capacity, epoch) in [(0, 1), (75, 2), (0, 3)] {
            assert!(gate.set_capacity(Blocks(capacity), epoch));
            assert!(gate.usage().is_overcommitted);
            for lease in &mut leases {
                assert_eq!(lease.grow(Tokens(16)), Ok(Growth::Wait), "nothing is free");
                assert_eq!(lease.grow(Tokens(0)), Ok(Growth::Granted(Blocks(0))));
            }
            assert_eq!(admit(&gate, 1, 1).unwrap_err().reason, Reason::Overcommitted);
        }
        // 1 is free: not enough for the promises, but the one with the smallest need goes on.
        let (free, required) = if policy == Policy::Banker { (76 - 75, 76) } else { (1, 100) };
        assert!(gate.set_capacity(Blocks(75 + free), 4));
        assert_eq!(gate.usage().is_overcommitted, required > 76);
        for (index, is_granted) in [(0, false), (1, false), (3, false), (2, true)] {
            let grown = leases[index].grow(Tokens(16)).unwrap();
            assert_eq!(grown.is_granted(), is_granted, "lease {index}");
        }
        assert!(gate.set_capacity(Blocks(100), 5));
        assert!(!gate.usage().is_overcommitted && gate.victims().is_empty());
        leases.retain(|lease| lease.need().0 > 0);
        assert_eq!(leases.len(), 3);
        for lease in &mut leases {
            assert!(lease.grow(Tokens(16)).unwrap().is_granted());
        }
        leases.clear();
        assert_idle(&gate);
    }
}

#[test]
fn victims_are_ranked_by_what_a_block_costs() {
    let gate = gate(Policy::Banker, 105);
    // Prompt, grown, claim in blocks; and the place among victims.
    let table = [(30, 10, 60, 3), (10, 0, 30, 1), (10, 0, 40, 0), (20, 0, 25, 4), (4, 12, 50, 2)];
    let mut leases = Vec::new();
    for (prompt, grown, claim, _) in table {
        let mut lease = admit(&gate, 16 * prompt - 8, 16 * (claim - prompt) + 8).unwrap();
        assert!(lease.grow(Tokens(16 * grown)).unwrap().is_granted());
        leases.push(lease);
    }
    // Held: 40, 10, 10, 20, 16, of which a prompt's last block is half empty: the fewer blocks,
    // the fewer tokens a block.
    assert_eq!(gate.usage().held_blocks, Blocks(96));
    assert!(gate.set_capacity(Blocks(60), 1));
    let victims = gate.victims();
    let mut expected = vec![0; table.len()];
    for (lease, (_, _, _, place)) in leases.iter().zip(table) {
        expected[place] = lease.serial().unwrap();
    }
    let order: Vec<_> = victims.iter().map(|victim| victim.serial).collect();
    assert_eq!(order, expected, "{victims:?}");
    assert_eq!(victims[4].held_blocks, Blocks(20), "the one that may still grow is the last");
    // Preempting as many as it says is enough, and no fewer.
    for victim in victims {
        assert!(gate.usage().is_overcommitted);
        let index = leases.iter().position(|l| l.serial() == Some(victim.serial)).unwrap();
        let lost = leases.swap_remove(index).preempt();
        assert!(lost <= victim.lost_tokens);
        assert_eq!(gate.usage().is_overcommitted, !victim.is_enough);
        if victim.is_enough {
            break;
        }
    }
    assert!(!leases.is_empty());
}

#[test]
fn all_but_the_smallest_need_wait_and_all_complete() {
    let gate = Gate::new(GateConfig { curve: curve(1), ..config(Policy::Banker, 10) }).unwrap();
    // Held 4, 3, 1 of claims of 6, 6, 5: 2 are free.
    let mut leases: Vec<_> =
        [(4, 2), (3, 3), (1, 4)].map(|(held, need)| Some(admit(&gate, held, need).unwrap())).into();
    for waiting in [1, 2] {
        let lease = leases[waiting].as_mut().unwrap();
        assert_eq!(lease.grow(Tokens(1)), Ok(Growth::Wait), "lease {waiting}");
        let why = lease.explain(Tokens(1));
        assert_eq!((why.free_blocks, why.short_blocks), (2, Blocks(1)), "{why:?}");
        assert_eq!((why.smallest_need_blocks, why.is_overcommitted), (Blocks(2), false));
    }
    let smallest = leases[0].as_mut().unwrap();
    assert_eq!(smallest.grow(Tokens(1)), Ok(Growth::Granted(Blocks(1))));
    let mut rounds = 0;
    while leases.iter().any(Option::is_some) {
        rounds += 1;
        let mut has_progress = false;
        // The one that must not wait is asked last.
        for place in leases.iter_mut().rev() {
            let Some(lease) = place else { continue };
            has_progress |= lease.need().0 == 0 || lease.grow(Tokens(1)).unwrap().is_granted();
            if lease.need().0 == 0 {
                *place = None;
            }
        }
        assert!(has_progress, "round {rounds}: a deadlock");
    }
    assert_idle(&gate);
}

#[test]
fn a_full_gate_completes_whoever_is_asked_first() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let gate = Gate::new(GateConfig { curve: curve(1), ..config(Policy::Banker, 64) }).unwrap();
        let mut leases = Vec::new();
        for _ in 0..200 {
            leases.extend(admit(&gate, 1 + random.below(8), 1 + random.below(40)));
        }
        assert!(leases.len() > 3, "seed {seed}");
        while !leases.is_empty() {
            let before = gate.usage();
            leases.sort_by_cached_key(|_| random.below(1000));
            for lease in &mut leases {
                // Several blocks at a time, too.
                let tokens = (1 + random.below(3)).min(lease.need().0);
                let _ = lease.grow(Tokens(tokens)).unwrap();
            }
            leases.retain(|lease| lease.need().0 > 0);
            let after = gate.usage();
            let has_progress = after.granted > before.granted || after.leases < before.leases;
            assert!(has_progress, "seed {seed}: a deadlock: {after:?}");
            assert!(after.held_blocks <= after.capacity_blocks);
        }
        assert_idle(&gate);
    }
}

#[test]
fn pools_keep_their_shares_and_their_claims_apart() {
    for policy in POLICIES {
        let pools = pools(&[("short", 1, 100), ("long", 2, 100)]);
        let gate = Gate::new(GateConfig { pools, ..config(policy, 10) }).unwrap();
        assert_eq!(gate.pool_names(), ["short", "long"]);
        let capacity = |name: &str| gate.pool_usage(name).unwrap().capacity_blocks.0;
        assert_eq!((capacity("short"), capacity("long")), (3, 7));
        let lease = gate.try_admit(&request(48, 64).in_pool("long")).unwrap();
        assert!(admit(&gate, 16, 32).is_ok(), "the default pool is the first, and empty");
        assert_eq!(admit(&gate, 49, 16).unwrap_err().reason, Reason::TooLong);
        assert_eq!(gate.pool_usage("long").unwrap().held_blocks, Blocks(3));
        assert!(gate.set_capacity(Blocks(101), 1));
        assert_eq!((capacity("short"), capacity("long")), (34, 67));
        assert_eq!(gate.usage().capacity_blocks, Blocks(101));
        assert_eq!(rejected(&gate, Reason::TooLong), 1);
        assert!(gate.pool_usage("batch").is_none());
        drop(lease);
        assert_idle(&gate);
    }
}

#[test]
fn a_pool_borrows_down_to_the_floors_and_gives_back() {
    for policy in [Policy::Guaranteed, Policy::Banker] {
        let pools = pools(&[("a", 1, 0), ("b", 1, 40)]);
        let gate = Gate::new(GateConfig { pools, ..config(policy, 100) }).unwrap();
        let capacity = |name: &str| gate.pool_usage(name).unwrap().capacity_blocks.0;
        let large = admit(&gate, 16 * 80 - 1, 1).unwrap();
        assert_eq!((capacity("a"), capacity("b")), (80, 20));
        let own = gate.try_admit(&request(16 * 20 - 1, 1).in_pool("b")).unwrap();
        let refused = gate.try_admit(&request(16, 16).in_pool("b")).unwrap_err();
        assert_eq!(refused.reason, Reason::NoCapacity);
        // A shrinking budget takes what was lent back, as far as that goes.
        assert!(gate.set_capacity(Blocks(90), 1));
        assert_eq!((capacity("a"), capacity("b")), (70, 20));
        assert!(gate.pool_usage("a").unwrap().is_overcommitted);
        assert!(!gate.pool_usage("b").unwrap().is_overcommitted);
        drop(large);
        let b = gate.try_admit(&request(16 * 60 - 1, 1).in_pool("b")).unwrap();
        assert_eq!((capacity("a"), capacity("b")), (10, 80));
        drop((own, b));
        assert_idle(&gate);
    }
}

#[test]
fn retry_after_follows_the_rate_of_release() {
    let gate = gate(Policy::Guaranteed, 100);
    let _most = admit(&gate, 1, 16 * 90 - 1).unwrap();
    let wait = |tokens: u64| admit(&gate, 1, tokens - 1).unwrap_err().retry_after.unwrap();
    assert_eq!(wait(16 * 20), Nanos(Nanos::SECOND), "the default, before history");
    for step in 0..100 {
        gate.tick(Nanos(step * Nanos::SECOND));
        drop(admit(&gate, 1, 16 * 5 - 1).unwrap()); // five blocks a second
    }
    let seconds = |tokens: u64| wait(tokens).0 as f64 / 1e9;
    assert!((seconds(16 * 20) - 2.0).abs() < 0.01, "10 blocks short: {} s", seconds(16 * 20));
    assert!((seconds(16 * 90) - 16.0).abs() < 0.1, "80 blocks short: {} s", seconds(16 * 90));
}
