//! Followers on snapshots made by hand; those of a driver are in `tests/follow.rs`.

use super::super::tests::{alone, without_driver};
use super::*;
use crate::admission::{GateConfig, PoolConfig, Request};
use crate::ledger::DeviceTotals;
use crate::model::Layout;
use crate::snapshot::{Balance, DeviceSnapshot, Line, Origin};
use crate::units::Tokens;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const TOTAL: u64 = 80 << 30;
const SOON: Duration = Duration::from_secs(10);

/// 80 GiB, in blocks of 2 MiB, without reserves, so that blocks are easily counted.
fn plan() -> Envelope {
    let declared = no_reserves();
    Envelope::plan(Bytes(TOTAL), &Layout::builtin_8b(), &declared).unwrap()
}

fn no_reserves() -> Declared {
    let nothing = Some(Bytes::ZERO);
    Declared {
        activations: nothing,
        context: nothing,
        runtime_reserve: nothing,
        safety_reserve: nothing,
        ..Declared::default()
    }
}

fn config(rise_readings: u32) -> FollowConfig {
    let mut config = FollowConfig::new(plan());
    config.settings.rise_readings = rise_readings;
    config.settings.rise = Some(Blocks(1));
    config
}

/// A device on which, beside weights and KV cache, other processes use so much.
fn snapshot(reads: u64, others: u64, kv: u64) -> Snapshot {
    let weights = 16_060_522_496;
    let line = |term, bytes: u64| Line {
        term,
        bytes: bytes as i64,
        error_bytes: Bytes::ZERO,
        origin: Origin::Measured,
        parts: Vec::new(),
        note: String::new(),
    };
    let used = weights + others + kv;
    let balance = Balance {
        used_bytes: Bytes(used),
        lines: vec![
            line(TermName::Weights, weights),
            line(TermName::OtherProcesses, others),
            line(TermName::KvCache, kv),
            line(TermName::Unaccounted, 0),
        ],
        ..Balance::default()
    };
    let device = DeviceSnapshot {
        totals: DeviceTotals { device: DeviceIndex(0), ..DeviceTotals::default() },
        total_bytes: Some(Bytes(TOTAL)),
        free_bytes: Some(Bytes(TOTAL - used)),
        reads,
        balance: Some(balance),
        ..DeviceSnapshot::default()
    };
    Snapshot { devices: vec![device], ..Snapshot::default() }
}

/// Without others.
fn all() -> u64 {
    (TOTAL - 16_060_522_496) / (2 * MIB)
}

fn gate(capacity: u64) -> Gate {
    Gate::new(GateConfig::new(Blocks(capacity), plan().curve, Tokens(8192))).unwrap()
}

fn capacity(gate: &Gate) -> u64 {
    gate.usage().capacity_blocks.0
}

#[test]
fn a_gate_falls_with_what_others_take_and_rises_when_they_are_gone_for_long() {
    let gate = gate(all());
    let shared = Shared::new(&gate, config(3));
    assert_eq!(plan().kv_capacity_blocks, Blocks(all()));
    for (others, expected) in
        [(0, 0), (1000, 500), (3000, 1500), (0, 1500), (200, 1500), (0, 100), (0, 100), (0, 100)]
    {
        let time = shared.status().readings + 1;
        shared.take(&snapshot(time, others * MIB, 0));
        assert_eq!(all() - capacity(&gate), expected, "{others} MiB: {:?}", shared.status());
    }
    assert_eq!(shared.status().why, Why::Rising(2));
    // The same again is no new reading.
    for _ in 0..10 {
        shared.take(&snapshot(8, 0, 0));
    }
    assert_eq!((shared.status().readings, capacity(&gate)), (8, all() - 100));
    shared.take(&snapshot(9, 0, 0));
    assert_eq!(capacity(&gate), all());
    assert_eq!(shared.status().changes, 4);
}

/// Blocks in use are part of the capacity: a cache that fills leaves it as it is.
#[test]
fn live_kv_bytes_are_not_taken_off() {
    let gate = gate(all());
    let shared = Shared::new(&gate, config(3));
    for (time, kv) in [(1, 0), (2, 1000), (3, 40_000), (4, 20_000)] {
        shared.take(&snapshot(time, 0, kv * MIB));
        assert_eq!(capacity(&gate), all(), "{kv} MiB in use");
        assert_eq!(shared.status().kv_bytes, Some(Bytes(kv * MIB)));
    }
    shared.take(&snapshot(5, 5000 * MIB, 20_000 * MIB));
    assert_eq!(capacity(&gate), all() - 2500);
}

#[test]
fn what_cannot_be_measured_is_said_and_changes_nothing() {
    let gate = gate(all());
    let shared = Shared::new(&gate, config(1));
    shared.take(&snapshot(1, 1000 * MIB, 0));
    let fallen = capacity(&gate);
    let check = |snapshot: &Snapshot, problem: &str| {
        shared.take(snapshot);
        let status = shared.status();
        assert_eq!((capacity(&gate), status.measured_blocks), (fallen, None));
        assert!(status.problem.contains(problem), "{status:?}");
    };
    check(&Snapshot::default(), "was not seen");
    let mut silent = snapshot(2, 0, 0);
    silent.devices[0].total_bytes = None;
    check(&silent, "no total");
    silent.devices[0].balance = None;
    silent.devices[0].free_bytes = None;
    check(&silent, "what is free");
    let mut polled = snapshot(3, 0, 0);
    polled.devices[0].allocations_unseen = true;
    check(&polled, "KV cache was not declared");
    // A torn epoch may lower, never raise.
    let torn = |time, others| {
        let mut torn = snapshot(time, others, 0);
        torn.devices[0].balance.as_mut().unwrap().is_torn = true;
        torn
    };
    shared.take(&torn(4, 0));
    assert_eq!((capacity(&gate), shared.status().torn), (fallen, 1));
    shared.take(&torn(5, 2000 * MIB));
    assert_eq!(capacity(&gate), all() - 1000);
    assert_eq!(shared.status().good_blocks, Some(Blocks(fallen)));
}

/// Without the framework that was there before, its segments would all be libraries.
#[test]
fn a_framework_that_fell_silent_is_no_reason_to_fall() {
    let gate = gate(all());
    let shared = Shared::new(&gate, config(1));
    let mut told = snapshot(1, 0, 1000 * MIB);
    told.devices[0].framework = Some(crate::framework::Framework::default());
    shared.take(&told);
    assert_eq!(shared.status().why, Why::Steady);
    let mut silent = snapshot(2, 0, 0);
    let lines = &mut silent.devices[0].balance.as_mut().unwrap().lines;
    (lines[2].term, lines[2].bytes) = (TermName::Libraries, 1000 * MIB as i64);
    shared.take(&silent);
    assert_eq!((shared.status().why, capacity(&gate)), (Why::Absent, all()));
    assert!(shared.status().problem.contains("framework plane"));
    told.devices[0].reads = 3;
    shared.take(&told);
    assert_eq!(shared.status().why, Why::Steady);
}

/// Polling alone can be followed once somebody says how much of it is KV cache.
#[test]
fn polling_is_followed_where_the_kv_cache_is_declared() {
    let mut config = config(1);
    config.declared.kv_untagged = Some(Bytes(20_000 * MIB));
    let gate = gate(all());
    let shared = Shared::new(&gate, config);
    let mut polled = snapshot(1, 3000 * MIB, 20_000 * MIB);
    polled.devices[0].allocations_unseen = true;
    polled.devices[0].opening_bytes = Some(Bytes(3000 * MIB));
    shared.take(&polled);
    assert_eq!(capacity(&gate), all() - 1500, "{:?}", shared.status());
}

#[test]
fn the_gate_is_never_told_more_than_the_budget_or_what_it_began_with() {
    // A gate above its budget is brought down at once, one below it rises as any other.
    for (begin, first) in [(all() + 500, all()), (all() - 700, all() - 700)] {
        let gate = gate(begin);
        let shared = Shared::new(&gate, config(2));
        shared.take(&snapshot(1, 0, 0));
        assert_eq!(capacity(&gate), first);
        shared.take(&snapshot(2, 0, 0));
        assert_eq!(capacity(&gate), all());
    }
    let mut small = config(1);
    (small.budget, small.aside) = (Blocks(900), Blocks(1));
    let gate = gate(900);
    let shared = Shared::new(&gate, small);
    shared.take(&snapshot(1, 0, 0));
    assert_eq!(capacity(&gate), 900);
    let room = TOTAL - 16_060_522_496;
    shared.take(&snapshot(2, room - 101 * 2 * MIB, 0));
    assert_eq!(capacity(&gate), 100, "one of them is never handed out");
    shared.take(&snapshot(3, room, 0));
    assert_eq!(capacity(&gate), 0, "no room is a reading");
}

/// Epochs of others do not lock the follower out, and pools keep their shares.
#[test]
fn other_writers_are_overruled_with_the_next_change() {
    let pools = vec![PoolConfig::new("chat", 3), PoolConfig::new("batch", 1)];
    let mut settings = GateConfig::new(Blocks(all()), plan().curve, Tokens(8192));
    settings.pools = pools;
    let gate = Gate::new(settings).unwrap();
    let shared = Shared::new(&gate, config(1));
    shared.take(&snapshot(1, 1000 * MIB, 0));
    assert!(gate.set_capacity(Blocks(7), 1_000_000), "somebody else's");
    shared.take(&snapshot(2, 1000 * MIB, 0));
    assert_eq!(capacity(&gate), 7, "what is in force did not change");
    shared.take(&snapshot(3, 2000 * MIB, 0));
    assert_eq!(capacity(&gate), all() - 1000);
    let share = gate.pool_usage("batch").unwrap().capacity_blocks;
    assert_eq!(share.0, (all() - 1000) / 4);
    assert!(gate.usage().epoch > 1_000_000);
    // No epoch is above the last one: the gate keeps what it has, and the follower does not give up.
    assert!(gate.set_capacity(Blocks(7), u64::MAX));
    shared.take(&snapshot(4, 3000 * MIB, 0));
    assert_eq!(capacity(&gate), 7);
    assert!(lock(&shared.state).is_due);
}

#[test]
fn a_broken_session_leaves_what_was_good_last() {
    let _turn = alone();
    let session = Session::start(&without_driver()).unwrap();
    let (first, second) = (gate(all()), gate(all()));
    let follow = session.follow(&first, config(1)).unwrap();
    assert_eq!(follow.status().problem, "the device was not seen yet");
    let other = session.follow(&second, config(1)).unwrap();
    follow.shared.take(&snapshot(1, 1000 * MIB, 0));
    follow.shared.take(&snapshot(2, 400 * MIB, 0));
    assert_eq!(capacity(&first), all() - 200);
    // Lowered by hand meanwhile: no bad data raises it again.
    let epoch = second.usage().epoch;
    assert!(second.set_capacity(Blocks(300), epoch + 1));
    session.own().unwrap().break_off("a test breaks it");
    let deadline = Instant::now() + SOON;
    while follow.status().why != Why::Broken || other.status().why != Why::Broken {
        assert!(Instant::now() < deadline, "the poll thread does it: {:?}", follow.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((capacity(&first), capacity(&second)), (all() - 200, 300));
    follow.shared.take(&snapshot(3, 0, 0));
    assert_eq!(follow.update().why, Why::Broken);
    assert_eq!(capacity(&first), all() - 200, "never rises on bad data");
    session.stop(SOON).unwrap();
    assert_eq!(follow.update().capacity_blocks, Blocks(all() - 200));
}

#[test]
fn dropping_ends_it() {
    let _turn = alone();
    let session = Session::start(&without_driver()).unwrap();
    let inner = session.own().unwrap();
    let gate = gate(all());
    let follow = session.follow(&gate, config(1)).unwrap();
    let shared = Arc::clone(&follow.shared);
    assert_eq!(inner.followers.live().len(), 1);
    drop(follow);
    assert!(inner.followers.live().is_empty());
    shared.take(&snapshot(1, 1000 * MIB, 0));
    assert_eq!(capacity(&gate), all());
    let follows: Vec<_> =
        (0..FOLLOWERS_MAX).map(|_| session.follow(&gate, config(1)).unwrap()).collect();
    let refused = session.follow(&gate, config(1)).unwrap_err();
    assert!(refused.to_string().contains("256"), "{refused}");
    drop(follows);
    let _again = session.follow(&gate, config(1)).unwrap();
    session.stop(SOON).unwrap();
}

/// Nobody who waits at the gate is called under a lock of ours, and what they do wrong stays theirs.
#[test]
fn who_is_woken_may_ask_the_follower() {
    let gate = gate(all());
    let shared = Arc::new(Shared::new(&gate, config(1)));
    shared.take(&snapshot(1, TOTAL - 16_060_522_496, 0));
    assert_eq!(capacity(&gate), 0);
    let request = Request::new(Tokens(64), Some(Tokens(1)));
    struct Asks(Arc<Shared>);
    impl std::task::Wake for Asks {
        fn wake(self: Arc<Self>) {
            self.0.take(&snapshot(3, 0, 0));
            panic!("a waker's own fault: {:?}", self.0.status());
        }
    }
    let mut ticket = gate.enqueue(&request, 0, None).unwrap();
    let waker = std::task::Waker::from(Arc::new(Asks(Arc::clone(&shared))));
    assert!(ticket.try_take(&waker).is_none());
    shared.take(&snapshot(2, 0, 0));
    assert_eq!((capacity(&gate), shared.status().readings), (all(), 3));
    assert!(ticket.try_take(&waker).is_some());
}

/// Two threads that read and tell: the gate ends with what the last reading says.
#[test]
fn of_two_readers_the_later_counts() {
    let gate = gate(all());
    let shared = Shared::new(&gate, config(1));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let shared = &shared;
            scope.spawn(move || {
                for turn in 0..500 {
                    let time = 1 + thread + 4 * turn;
                    shared.take(&snapshot(time, (time * 7919 % 4000) * 2 * MIB, 0));
                }
            });
        }
    });
    let status = shared.status();
    assert_eq!(capacity(&gate), status.capacity_blocks.0);
    assert_eq!(status.measured_blocks, Some(status.capacity_blocks));
}
