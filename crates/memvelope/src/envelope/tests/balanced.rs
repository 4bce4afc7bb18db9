//! The equation from a balance: by hand, by cases, and whatever the balance says.

use super::*;
use crate::framework::Framework;
use crate::snapshot::{Balance, Line};

const MIB: i64 = 1 << 20;
/// What the default for activations assumes of the built-in model: rows of 2 x 4096 + 48 x 128 + 2
/// x 14336 two-byte numbers, 8192 of them, and 256 rows of 128256 logits.
const ACTIVATIONS: i64 = 8192 * 2 * (8192 + 6144 + 28_672) + 4 * 256 * 128_256;
const WEIGHTS: i64 = 16_060_522_496;
const TOTAL: i64 = 80 * 1024 * MIB;

/// A balance of these lines (term, bytes, error bar); what they leave of `used` is unaccounted for.
pub(super) fn balance(used: i64, lines: &[(TermName, i64, i64)]) -> Balance {
    let line = |&(term, bytes, error): &(TermName, i64, i64)| Line {
        term,
        bytes,
        error_bytes: Bytes(error as u64),
        origin: Origin::Measured,
        parts: Vec::new(),
        note: format!("{} of a test", term.label()),
    };
    let known: i64 = lines.iter().map(|line| line.1).sum();
    let error = lines.iter().map(|line| line.2).sum();
    let mut lines: Vec<_> = lines.iter().map(line).collect();
    lines.push(line(&(TermName::Unaccounted, used - known, error)));
    Balance { used_bytes: Bytes(used as u64), lines, ..Balance::default() }
}

/// A device of 80 GiB with that balance.
pub(super) fn balanced(used: i64, lines: &[(TermName, i64, i64)]) -> DeviceSnapshot {
    DeviceSnapshot {
        total_bytes: Some(Bytes(TOTAL as u64)),
        free_bytes: Some(Bytes((TOTAL - used) as u64)),
        balance: Some(balance(used, lines)),
        ..DeviceSnapshot::default()
    }
}

/// Fills the equation and compares what single terms take off the capacity.
fn check(device: &DeviceSnapshot, declared: &Declared, expected: &[(TermName, Option<i64>)]) {
    let envelope = Envelope::measured(device, &Layout::builtin_8b(), declared).unwrap();
    check_capacity(&envelope);
    let used = device.balance.as_ref().unwrap().used_bytes;
    assert_eq!(in_use(&envelope), used.0 as i64);
    for (name, bytes) in expected {
        assert_eq!(bytes_of(&envelope, *name), *bytes, "{name:?}\n{envelope}");
    }
}

/// Every term of one device, worked out by hand.
#[test]
fn every_line_is_a_term() {
    let lines = [
        (TermName::Withheld, 2048 * MIB, 0),
        (TermName::Weights, WEIGHTS, 0),
        (TermName::Activations, 700 * MIB, 0),
        (TermName::Graphs, 256 * MIB, 0),
        (TermName::Context, 600 * MIB, 3 * MIB),
        (TermName::Recorder, 10 * MIB, 0),
        (TermName::Libraries, 700 * MIB, 0),
        (TermName::Rounding, 20 * MIB, 5 * MIB),
        (TermName::AwaitingStream, 64 * MIB, 0),
        (TermName::Cached, 1000 * MIB, 0),
        (TermName::OpeningBalance, 100 * MIB, 0),
        (TermName::OtherProcesses, 1500 * MIB, 50 * MIB),
        (TermName::KvCache, 8192 * MIB, 0),
    ];
    let known: i64 = lines.iter().map(|line| line.1).sum();
    let mut device = balanced(known + 30 * MIB, &lines);
    device.framework = Some(Framework {
        reserved_bytes: Bytes(5000 << 20),
        active_bytes: Bytes(4100 << 20),
        releasable_bytes: Bytes(750 << 20),
        ..Framework::default()
    });
    let envelope =
        Envelope::measured(&device, &Layout::builtin_8b(), &Declared::default()).unwrap();
    check_capacity(&envelope);
    assert_eq!(in_use(&envelope), known + 30 * MIB);
    let base = TOTAL - 2048 * MIB;
    // Used up: graphs, libraries, and what the context grew beyond 512 MiB.
    let runtime = base / 50 - (256 + 700 + 88) * MIB;
    let safety = base / 100;
    assert!(runtime > 0 && safety > 58 * MIB);
    let taken = [
        (TermName::Withheld, 2048 * MIB),
        (TermName::Weights, WEIGHTS),
        (TermName::Activations, ACTIVATIONS),
        (TermName::Graphs, 256 * MIB),
        (TermName::Context, 600 * MIB),
        (TermName::Recorder, 10 * MIB),
        (TermName::Libraries, 700 * MIB),
        (TermName::Rounding, 20 * MIB),
        (TermName::AwaitingStream, 64 * MIB),
        // 1000 - 750 stay when the cache is emptied.
        (TermName::Cached, 250 * MIB),
        (TermName::OpeningBalance, 100 * MIB),
        (TermName::OtherProcesses, 1500 * MIB),
        (TermName::RuntimeReserve, runtime),
        (TermName::SafetyReserve, safety),
        (TermName::Unaccounted, 30 * MIB),
    ];
    for (name, bytes) in taken {
        assert_eq!(bytes_of(&envelope, name), Some(bytes), "{name:?}\n{envelope}");
    }
    let left = TOTAL - taken.iter().map(|term| term.1).sum::<i64>();
    assert_eq!(envelope.kv_capacity_bytes.0 as i64, left);
    assert_eq!(bytes_of(&envelope, TermName::KvCache), Some(8192 * MIB));
    let note = |name| envelope.term(name).unwrap().note.clone();
    assert!(note(TermName::Cached).contains("not taken: 750.0 MiB"), "{envelope}");
    assert!(note(TermName::RuntimeReserve).contains("1.02 GiB of it in use"), "{envelope}");
}

#[test]
fn weights_and_activations_are_the_larger_of_seen_and_computed() {
    let plain = Declared::default();
    let of = |weights, activations| {
        balanced(
            60_000 * MIB,
            &[(TermName::Weights, weights, 0), (TermName::Activations, activations, 0)],
        )
    };
    let (seen, computed) = (TermName::Weights, Some(WEIGHTS));
    check(&of(0, 0), &plain, &[(seen, computed), (TermName::Activations, Some(ACTIVATIONS))]);
    check(&of(WEIGHTS / 2, MIB), &plain, &[(seen, computed)]);
    check(&of(WEIGHTS + 5, 0), &plain, &[(seen, Some(WEIGHTS + 5))]);
    let more = Some(ACTIVATIONS + 7);
    check(&of(0, ACTIVATIONS + 7), &plain, &[(TermName::Activations, more)]);
    // A peak counts after it is gone.
    let mut device = of(0, 5);
    device.totals.by_tag[Tag::Activations as usize].peak_bytes = Bytes(ACTIVATIONS as u64 + 9);
    check(&device, &plain, &[(TermName::Activations, Some(ACTIVATIONS + 9))]);
}

#[test]
fn a_context_is_measured_or_assumed_but_not_twice() {
    let plain = Declared::default();
    let declared = Declared { context: Some(Bytes(700 << 20)), ..plain };
    let context = |bytes: i64| balanced(bytes.max(0), &[(TermName::Context, bytes, 0)]);
    let term = TermName::Context;
    check(&context(380 * MIB), &plain, &[(term, Some(380 * MIB))]);
    check(&context(900 * MIB), &plain, &[(term, Some(900 * MIB))]);
    check(&context(380 * MIB), &declared, &[(term, Some(700 * MIB))]);
    check(&context(900 * MIB), &declared, &[(term, Some(900 * MIB))]);
    check(&context(-5), &plain, &[(term, Some(0))]);
    // None was made yet, or it lies in the opening balance: as far as that goes.
    let mut none = balanced(300 * MIB, &[(TermName::OpeningBalance, 300 * MIB, 0)]);
    check(&none, &plain, &[(term, Some(512 * MIB))]);
    none.opening_own_bytes = Some(Bytes(300 << 20));
    check(&none, &plain, &[(term, Some(212 * MIB))]);
    none.opening_own_bytes = Some(Bytes(3000 << 20));
    check(&none, &plain, &[(term, Some(0))]);
    // Or nobody measured it, and it is unaccounted for.
    check(&balanced(480 * MIB, &[]), &plain, &[(term, Some(32 * MIB))]);
    check(&balanced(600 * MIB, &[]), &plain, &[(term, Some(0))]);
}

#[test]
fn what_is_cached_is_taken_as_far_as_it_stays() {
    let cached = |releasable: Option<u64>| {
        let mut device = balanced(4000 * MIB, &[(TermName::Cached, 1000 * MIB, 0)]);
        device.framework = releasable.map(|bytes| Framework {
            reserved_bytes: Bytes(3000 << 20),
            active_bytes: Bytes(2200 << 20),
            releasable_bytes: Bytes(bytes << 20),
            ..Framework::default()
        });
        device
    };
    let plain = Declared::default();
    let term = TermName::Cached;
    // Without a framework it is a pool's, which alone serves from it.
    check(&cached(None), &plain, &[(term, Some(1000 * MIB))]);
    check(&cached(Some(0)), &plain, &[(term, Some(1000 * MIB))]);
    check(&cached(Some(300)), &plain, &[(term, Some(700 * MIB))]);
    // 800 MiB are the framework's, the rest the pools': no more is given back than is cached.
    check(&cached(Some(5000)), &plain, &[(term, Some(200 * MIB))]);
    let keeps = Declared { keeps_cached: true, ..plain };
    check(&cached(Some(300)), &keeps, &[(term, Some(1000 * MIB))]);
}

#[test]
fn reserves_are_used_up_and_cover_the_error_bars() {
    let plain = Declared::default();
    let libraries = |bytes, error| balanced(bytes, &[(TermName::Libraries, bytes, error)]);
    let (runtime, safety) = (TermName::RuntimeReserve, TermName::SafetyReserve);
    let (two, one) = (TOTAL / 50, TOTAL / 100);
    check(&libraries(0, 0), &plain, &[(runtime, Some(two)), (safety, Some(one))]);
    check(&libraries(100, one), &plain, &[(runtime, Some(two - 100)), (safety, Some(one))]);
    check(&libraries(two + 1, one + 1), &plain, &[(runtime, Some(0)), (safety, Some(one + 1))]);
    let reserve = Some(Bytes(50));
    let declared = Declared { runtime_reserve: reserve, safety_reserve: reserve, ..plain };
    check(&libraries(20, 49), &declared, &[(runtime, Some(30)), (safety, Some(50))]);
    check(&libraries(20, 51), &declared, &[(runtime, Some(30)), (safety, Some(51))]);
    // The bar of what is unaccounted for has each error once, and those that no line has.
    let bar = |used, error: i64| {
        let mut device = balanced(used, &[(TermName::Libraries, 0, one + 50)]);
        device.balance.as_mut().unwrap().lines[1].error_bytes = Bytes(error as u64);
        device
    };
    check(&bar(0, one + 77), &plain, &[(safety, Some(one + 77))]);
    check(&bar(0, one - 77), &plain, &[(safety, Some(one))]);
    // What is unaccounted for is taken already: a line that has too few bytes has them from there.
    check(&bar(70, one + 77), &plain, &[(safety, Some(one + 7))]);
    check(&bar(5 * one, 6 * one), &plain, &[(safety, Some(one))]);
    // Others that come are unaccounted for, and those that go leave no less room.
    let others = |used| balanced(used, &[(TermName::OtherProcesses, 4 * one, 3 * one)]);
    check(&others(4 * one), &plain, &[(safety, Some(one))]);
    check(&others(one), &plain, &[(safety, Some(one))]);
    let mut both = others(4 * one);
    both.balance.as_mut().unwrap().lines[1].error_bytes = Bytes(5 * one as u64);
    check(&both, &plain, &[(safety, Some(2 * one))]);
}

#[test]
fn unaccounted_is_taken_but_never_handed_out() {
    let left = |used: i64| {
        let lines = [(TermName::Context, 512 * MIB, 0), (TermName::KvCache, 1000 * MIB, 0)];
        let device = balanced(used + 512 * MIB, &lines);
        let declared = Declared::default();
        check(&device, &declared, &[(TermName::Unaccounted, Some(used - 1000 * MIB))]);
        let envelope = Envelope::measured(&device, &Layout::builtin_8b(), &declared).unwrap();
        envelope.kv_capacity_bytes.0 as i64
    };
    let closed = left(1000 * MIB);
    assert_eq!(left(1300 * MIB), closed - 300 * MIB);
    assert_eq!(left(700 * MIB), closed, "counted twice: what is left is no more for it");
}

#[test]
fn a_share_of_the_device_is_withheld_once() {
    let declared = Declared { withheld: Some(Bytes(6000 << 20)), ..Declared::default() };
    let others = |bytes, unaccounted: i64| {
        balanced(bytes + unaccounted, &[(TermName::OtherProcesses, bytes, 0)])
    };
    let term = TermName::Withheld;
    // What others use lies in what the engine was not given, also while NVML does not list it yet.
    check(&others(0, 0), &declared, &[(term, Some(6000 * MIB))]);
    check(&others(2000 * MIB, 0), &declared, &[(term, Some(4000 * MIB))]);
    check(&others(0, 2000 * MIB), &declared, &[(term, Some(4000 * MIB))]);
    check(&others(2000 * MIB, -MIB), &declared, &[(term, Some(4000 * MIB))]);
    check(&others(7000 * MIB, MIB), &declared, &[(term, Some(0))]);
    let live = |bytes| balanced(bytes, &[(term, bytes, 0)]);
    check(&live(5000 * MIB), &declared, &[(term, Some(6000 * MIB))]);
    check(&live(7000 * MIB), &declared, &[(term, Some(7000 * MIB))]);
}

#[test]
fn what_nobody_tagged_is_what_it_is_declared_to_be() {
    let plain = Declared::default();
    // An engine without tags: weights and 40 GiB of KV cache among 58 GiB of "libraries".
    let device = balanced(60_000 * MIB, &[(TermName::Libraries, 58 * 1024 * MIB, 0)]);
    let refused = Envelope::measured(&device, &Layout::builtin_8b(), &plain);
    assert!(refused.is_ok(), "counted twice, but it fits");
    let kv = 40 * 1024 * MIB;
    let declared = Declared { is_loaded: true, kv_untagged: Some(Bytes(kv as u64)), ..plain };
    check(
        &device,
        &declared,
        &[
            (TermName::Weights, Some(WEIGHTS)),
            (TermName::Libraries, Some(18 * 1024 * MIB - WEIGHTS)),
            (TermName::KvCache, Some(kv)),
        ],
    );
    // Attached late: they lie in the opening balance. More than there is is not presumed.
    let late = balanced(
        60_000 * MIB,
        &[(TermName::Libraries, 1024 * MIB, 0), (TermName::OpeningBalance, 30 * 1024 * MIB, 0)],
    );
    check(
        &late,
        &declared,
        &[
            (TermName::Libraries, Some(0)),
            (TermName::OpeningBalance, Some(0)),
            (TermName::KvCache, Some(31 * 1024 * MIB)),
        ],
    );
    // Tagged ones are not looked for.
    let tagged = balanced(
        60_000 * MIB,
        &[(TermName::Weights, WEIGHTS - 7, 0), (TermName::Libraries, 1024 * MIB, 0)],
    );
    let loaded = Declared { is_loaded: true, ..plain };
    check(&tagged, &loaded, &[(TermName::Libraries, Some(1024 * MIB - 7))]);
}

/// Polling tells nothing apart, whatever a balance says of the rest.
#[test]
fn a_balance_of_what_was_not_seen_is_not_relied_on() {
    let mut device = balanced(60_000 * MIB, &[(TermName::OpeningBalance, 20_000 * MIB, 0)]);
    device.allocations_unseen = true;
    device.opening_bytes = Some(Bytes(20_000 << 20));
    check(
        &device,
        &Declared::default(),
        &[(TermName::Weights, Some(WEIGHTS)), (TermName::KvCache, None), (TermName::Cached, None)],
    );
    // Declared KV bytes are part of the capacity there, too.
    let kv_untagged = Some(Bytes(10_000 << 20));
    let declared = Declared { kv_untagged, ..Declared::default() };
    check(&device, &declared, &[(TermName::KvCache, Some(10_000 * MIB))]);
    let left = |declared: &Declared| {
        let envelope = Envelope::measured(&device, &Layout::builtin_8b(), declared).unwrap();
        envelope.kv_capacity_bytes.0 as i64
    };
    assert_eq!(left(&declared), left(&Declared::default()) + 10_000 * MIB);
}

/// Any line that a balance may have, in its order.
const LINES: [TermName; 13] = [
    TermName::Withheld,
    TermName::Weights,
    TermName::Activations,
    TermName::Graphs,
    TermName::Context,
    TermName::Recorder,
    TermName::Libraries,
    TermName::Rounding,
    TermName::AwaitingStream,
    TermName::Cached,
    TermName::OpeningBalance,
    TermName::OtherProcesses,
    TermName::KvCache,
];

/// Random lines; a term without one is absent.
pub(super) fn lines() -> impl Strategy<Value = Vec<(TermName, i64, i64)>> {
    let line = prop::option::of((0..6_000 * MIB, prop_oneof![4 => Just(0), 1 => 0..300 * MIB]));
    prop::collection::vec(line, LINES.len()).prop_map(|lines| {
        let named = LINES.iter().zip(lines);
        named.filter_map(|(name, line)| line.map(|line| (*name, line.0, line.1))).collect()
    })
}

proptest! {
    #[test]
    fn whatever_the_lines_are_the_sum_closes(
        lines in lines(),
        used in 0..TOTAL,
        reserved in 0_u64..8_000 << 20,
        releasable in 0_u64..8_000 << 20,
        own in prop::option::of(0_u64..1 << 30),
        withheld in prop::option::of(0_u64..8 << 30),
        kv_untagged in prop::option::of(0_u64..8 << 30),
        flags in (any::<bool>(), any::<bool>()),
        safety in prop::option::of(0_u64..1 << 30),
    ) {
        let mut device = balanced(used, &lines);
        device.opening_own_bytes = own.map(Bytes);
        device.framework = Some(Framework {
            reserved_bytes: Bytes(reserved),
            releasable_bytes: Bytes(releasable),
            ..Framework::default()
        });
        let declared = Declared {
            keeps_cached: flags.0,
            is_loaded: flags.1,
            withheld: withheld.map(Bytes),
            kv_untagged: kv_untagged.map(Bytes),
            safety_reserve: safety.map(Bytes),
            ..Declared::default()
        };
        let line = |name| lines.iter().find(|line| line.0 == name).map_or(0, |line| line.1);
        match Envelope::measured(&device, &Layout::builtin_8b(), &declared) {
            Ok(envelope) => {
                check_capacity(&envelope);
                prop_assert_eq!(in_use(&envelope), used);
                for term in &envelope.terms {
                    let own = line(term.name);
                    if LINES.contains(&term.name) {
                        prop_assert_eq!(term.in_use_bytes.unwrap_or(0), own, "{:?}", term);
                    }
                    // What is in use is taken, unless it is given back or declared to be another
                    // term's.
                    let presumed = [TermName::Libraries, TermName::OpeningBalance];
                    if term.name.is_taken()
                        && term.name != TermName::Cached
                        && !presumed.contains(&term.name)
                    {
                        prop_assert!(term.bytes.unwrap_or(0) >= own, "{:?}", term);
                    }
                }
                let error: i64 = lines.iter().map(|line| line.2).sum();
                let kept = bytes_of(&envelope, TermName::SafetyReserve).unwrap();
                let unaccounted = bytes_of(&envelope, TermName::Unaccounted).unwrap().max(0);
                let others = lines.iter().filter(|it| it.0 == TermName::OtherProcesses);
                let others: i64 = others.map(|line| line.2).sum();
                prop_assert!(kept + unaccounted.max(others) >= error);
                // What is handed out is there, or in use by the KV cache, or given back.
                let given_back = if flags.0 { 0 } else {
                    line(TermName::Cached).min(releasable.min(reserved) as i64)
                };
                let kv = bytes_of(&envelope, TermName::KvCache).unwrap_or(0);
                let there = TOTAL - used + kv + given_back;
                prop_assert!(envelope.kv_capacity_bytes.0 as i64 <= there, "{}", envelope);
            }
            Err(Error::NoRoom { total_bytes, taken_bytes, .. }) => {
                prop_assert_eq!(total_bytes, TOTAL as u64);
                prop_assert!(taken_bytes > total_bytes - (2 << 20), "a block would have fitted");
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
