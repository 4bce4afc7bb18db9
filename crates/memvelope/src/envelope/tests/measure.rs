//! A plan beside what was measured.

use super::balanced::{balanced, lines};
use super::*;
use crate::engine::{Device, Params};

const MIB: i64 = 1 << 20;

fn plan() -> Envelope {
    Envelope::plan(Bytes(80 * GIB), &Layout::builtin_8b(), &Declared::default()).unwrap()
}

fn off_by(measured: &Measured, term: TermName) -> Option<i64> {
    measured.deviation(term).map(|deviation| deviation.off_by_bytes)
}

/// What the capacity is off by is what its terms are off by.
fn check_closes(measured: &Measured) {
    let sum: i64 = measured
        .deviations
        .iter()
        .map(|deviation| match deviation.term {
            TermName::Total => deviation.off_by_bytes,
            TermName::Unaccounted => -deviation.off_by_bytes.max(0),
            name if name.is_taken() => -deviation.off_by_bytes,
            _ => 0,
        })
        .sum();
    if measured.envelope.kv_capacity_bytes > Bytes::ZERO {
        assert_eq!(measured.off_by_bytes, sum, "{measured}");
        assert_eq!(off_by(measured, TermName::KvCapacity), Some(sum));
    } else {
        assert!(measured.off_by_bytes >= sum, "held at nothing: {measured}");
    }
    let blocks = measured.envelope.kv_capacity_blocks.0 as i64 - measured.planned_blocks.0 as i64;
    assert_eq!(measured.off_by_blocks, blocks);
}

#[test]
fn assumptions_are_replaced_and_their_error_is_told() {
    let weights = 16_060_522_496;
    let mut device = balanced(
        20_000 * MIB,
        &[
            (TermName::Weights, weights + 3 * MIB, 0),
            (TermName::Context, 380 * MIB, 0),
            (TermName::Libraries, 100 * MIB, 0),
            (TermName::KvCache, 20_000 * MIB - weights - 3 * MIB - 490 * MIB, 0),
        ],
    );
    device.total_bytes = Some(Bytes(79 * GIB));
    let plan = plan();
    let measured = plan.measure(&device, &Declared::default()).unwrap();
    check_closes(&measured);
    for (term, expected) in [
        (TermName::Total, Some(-1024 * MIB)),
        (TermName::Weights, Some(3 * MIB)),
        (TermName::Context, Some(-132 * MIB)),
        (TermName::Libraries, Some(100 * MIB)),
        // Those libraries are what a part of it was for.
        (TermName::RuntimeReserve, Some(-100 * MIB)),
        (TermName::SafetyReserve, Some(0)),
        (TermName::Activations, Some(0)),
        (TermName::Unaccounted, Some(10 * MIB)),
        (TermName::Cached, None),
    ] {
        assert_eq!(off_by(&measured, term), expected, "{term:?}\n{measured}");
    }
    assert_eq!(measured.off_by_bytes, (-1024 - 3 + 132 - 100 + 100 - 10) * MIB);
    // 905 MiB in blocks of 2 MiB.
    assert_eq!(measured.off_by_blocks, -453);
    let context = measured.envelope.term(TermName::Context).unwrap();
    assert_eq!(context.origin, Origin::Measured);
    // What a plan was calibrated to is a plan: measured again, it is off by nothing.
    let again = measured.envelope.measure(&device, &Declared::default()).unwrap();
    check_closes(&again);
    assert_eq!(off_by(&again, TermName::Weights), Some(0));
}

#[test]
fn the_table_has_both_and_the_difference() {
    let device = balanced(20_000 * MIB, &[(TermName::Context, 380 * MIB, 0)]);
    let measured = plan().measure(&device, &Declared::default()).unwrap();
    let text = measured.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "  term                 planned    measured      off by  origin    note");
    let context = lines.iter().find(|line| line.starts_with("  context ")).unwrap();
    let expected = "  context            512.0 MiB   380.0 MiB  -132.0 MiB  measured  ";
    assert!(context.starts_with(expected), "{text}");
    let unaccounted = lines.iter().find(|line| line.starts_with("  unaccounted ")).unwrap();
    let expected = "  unaccounted           absent   19.16 GiB  +19.16 GiB  measured  ";
    assert!(unaccounted.starts_with(expected), "{text}");
    assert!(lines.last().unwrap().ends_with(" fewer than planned"), "{text}");
    assert!(measured.mark_simulated(true).to_string().starts_with("SIMULATED"));
}

/// Nothing left is an answer, nothing told is none.
#[test]
fn a_full_device_is_measured_too() {
    let full = balanced(79 * 1024 * MIB, &[]);
    let measured = plan().measure(&full, &Declared::default()).unwrap();
    check_closes(&measured);
    assert_eq!(measured.envelope.kv_capacity_blocks, Blocks(0));
    let plan_bytes = plan().kv_capacity_bytes.0 as i64;
    assert_eq!(measured.off_by_bytes, -plan_bytes);
    let silent = DeviceSnapshot::default();
    assert!(matches!(plan().measure(&silent, &Declared::default()), Err(Error::NoRoom { .. })));
}

/// What an engine's plan says of blocks, withheld share and reserves stays.
#[test]
fn plans_of_engines_are_measured_in_their_blocks() {
    let layout = Layout::builtin_8b();
    let device = Device::measured("a test", Bytes(80 * GIB), (9, 0), false);
    let params = Params::new(device);
    let plan = Plan::vllm(&layout, &params, &Budget::default()).unwrap();
    let equation = plan.equation.clone().unwrap();
    let seen = balanced(
        16_060_522_496 + 13_700 * MIB,
        &[
            (TermName::Weights, 16_060_522_496, 0),
            (TermName::Context, 700 * MIB, 0),
            (TermName::OtherProcesses, 1000 * MIB, 0),
            (TermName::KvCache, 12_000 * MIB, 0),
        ],
    );
    let measured = plan.measure(&seen, &Declared::default()).unwrap();
    check_closes(&measured);
    assert_eq!(measured.envelope.block_bytes, equation.block_bytes);
    assert_eq!(measured.envelope.curve, equation.curve);
    // Others use a part of the share that the engine was not given: nobody is worse off for it.
    assert_eq!(off_by(&measured, TermName::Withheld), Some(-1000 * MIB));
    assert_eq!(off_by(&measured, TermName::OtherProcesses), Some(1000 * MIB));
    assert_eq!(off_by(&measured, TermName::RuntimeReserve), Some(0));
    let by_hand = Plan::vllm(&layout, &params, &Budget::Kv(1 << 30)).unwrap();
    let error = by_hand.measure(&seen, &Declared::default()).unwrap_err();
    assert!(error.to_string().contains("no equation"), "{error}");
}

proptest! {
    #[test]
    fn deviations_make_up_what_the_capacity_is_off_by(
        lines in lines(),
        used in 0..80 * 1024 * MIB,
        total in 20_u64..200,
        kv_untagged in prop::option::of(0_u64..8 << 30),
        is_loaded in any::<bool>(),
    ) {
        let mut device = balanced(used, &lines);
        device.total_bytes = Some(Bytes(total * GIB));
        let kv_untagged = kv_untagged.map(Bytes);
        let declared = Declared { kv_untagged, is_loaded, ..Declared::default() };
        check_closes(&plan().measure(&device, &declared).unwrap());
    }
}
