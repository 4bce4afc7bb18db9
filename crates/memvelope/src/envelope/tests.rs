//! The equation against a naive re-computation, and slabs against their budget.

use super::*;
use crate::Error;
use crate::event::Tag;
use crate::model::Layout;
use crate::snapshot::DeviceSnapshot;
use crate::units::{Blocks, Bytes, CostCurve, CostTerm, Tokens};
use proptest::prelude::*;

mod balanced;
mod measure;

const GIB: u64 = Bytes::GIB;

fn bytes_of(envelope: &Envelope, name: TermName) -> Option<i64> {
    envelope.term(name).unwrap().bytes
}

/// What is used now, term by term.
fn in_use(envelope: &Envelope) -> i64 {
    envelope.terms.iter().filter_map(|term| term.in_use_bytes).sum()
}

/// The capacity, once more and in another way: over the JSON, as an outsider would.
fn check_capacity(envelope: &Envelope) {
    let json = serde_json::to_value(envelope).unwrap();
    let mut left = 0;
    for term in json["terms"].as_array().unwrap() {
        let bytes = term["bytes"].as_i64().unwrap_or(0);
        left += match term["name"].as_str().unwrap() {
            "total" => bytes,
            "kv_capacity" | "kv_cache" => 0,
            "unaccounted" => -bytes.max(0),
            _ => -bytes,
        };
    }
    assert_eq!(json["kv_capacity_bytes"], left);
    assert_eq!(bytes_of(envelope, TermName::KvCapacity), Some(left));
    let blocks = left as u64 / envelope.block_bytes.0;
    assert_eq!(
        (json["kv_capacity_blocks"].as_u64(), envelope.kv_capacity_blocks.0 > 0),
        (Some(blocks), true)
    );
    let names: Vec<_> = envelope.terms.iter().map(|term| term.name).collect();
    assert_eq!(names, TermName::ALL);
}

/// A device on which the ledger saw these tags, in [`Tag::ALL`]'s order.
fn device(total: u64, free: Option<u64>, tags: [u64; 6]) -> DeviceSnapshot {
    let mut device =
        DeviceSnapshot { total_bytes: Some(Bytes(total)), ..DeviceSnapshot::default() };
    device.free_bytes = free.map(Bytes);
    for (totals, bytes) in device.totals.by_tag.iter_mut().zip(tags) {
        totals.live_bytes = Bytes(bytes);
        totals.peak_bytes = Bytes(bytes);
        totals.live_count = u64::from(bytes > 0);
        totals.allocated_count = u64::from(bytes > 0);
    }
    device.totals.vram.live_bytes = Bytes(tags.iter().sum());
    device.totals.vram.live_count = tags.iter().filter(|&&bytes| bytes > 0).count() as u64;
    device
}

#[test]
fn a_plan_is_assumed_or_derived_and_adds_up() {
    let layout = Layout::builtin_8b();
    let envelope = Envelope::plan(Bytes(80 * GIB), &layout, &Declared::default()).unwrap();
    check_capacity(&envelope);
    assert!(envelope.terms.iter().all(|term| term.origin != Origin::Measured));
    assert_eq!(bytes_of(&envelope, TermName::Weights), Some(16_060_522_496));
    assert_eq!(bytes_of(&envelope, TermName::RuntimeReserve), Some(80 * GIB as i64 / 50));
    assert_eq!(bytes_of(&envelope, TermName::KvCache), None, "absent is not zero");
    assert_eq!(envelope.curve.block_tokens(), 16);
    let declared = Declared {
        activations: Some(Bytes(0)),
        context: Some(Bytes(GIB)),
        runtime_reserve: Some(Bytes(0)),
        safety_reserve: Some(Bytes(GIB)),
        ..Declared::default()
    };
    let envelope = Envelope::plan(Bytes(80 * GIB), &layout, &declared).unwrap();
    assert_eq!(envelope.kv_capacity_bytes, Bytes(78 * GIB - 16_060_522_496));
}

/// A number of tokens a block is said where it is all there is to say.
#[test]
fn the_table_says_what_the_blocks_hold() {
    let layout = Layout::builtin_8b();
    let mut envelope = Envelope::plan(Bytes(80 * GIB), &layout, &Declared::default()).unwrap();
    envelope.kv_capacity_blocks = Blocks(100);
    let last = |envelope: &Envelope| envelope.to_string().lines().last().unwrap().to_owned();
    assert_eq!(last(&envelope), "  100 blocks of 2.0 MiB (16 tokens each): 1600 tokens");
    let window = |keep| CostTerm { block_tokens: 16, keep_tokens: Tokens(keep), count: 2 };
    envelope.curve = CostCurve::from_terms(2, &[window(u64::MAX)]).unwrap();
    assert_eq!(last(&envelope), "  100 blocks of 2.0 MiB: a sequence of at most 784 tokens");
    envelope.curve = CostCurve::from_terms(2, &[window(784)]).unwrap();
    assert_eq!(last(&envelope), "  100 blocks of 2.0 MiB: a sequence of any length");
}

#[test]
fn no_room_says_what_takes_it() {
    let layout = Layout::builtin_8b();
    let small = device(8 * GIB, Some(8 * GIB), [0; 6]);
    for refused in [
        Envelope::plan(Bytes(8 * GIB), &layout, &Declared::default()),
        Envelope::plan(Bytes(0), &layout, &Declared::default()),
        Envelope::measured(&small, &layout, &Declared::default()),
        Envelope::measured(&DeviceSnapshot::default(), &layout, &Declared::default()),
    ] {
        let error = refused.unwrap_err();
        let Error::NoRoom { total_bytes, hint, .. } = &error else { panic!("{error:?}") };
        assert!(hint.contains("weights") || *total_bytes == 0, "{hint}");
    }
    let declared = Declared { block_tokens: 0, ..Declared::default() };
    let error = Envelope::plan(Bytes(80 * GIB), &layout, &declared).unwrap_err();
    assert!(error.to_string().contains("block_tokens=0"), "{error}");
}

#[test]
fn weights_that_are_still_loading_count_whole() {
    let layout = Layout::builtin_8b();
    let whole = layout.weight_bytes.unwrap().0;
    let check = |loaded: u64, bytes: u64, origin| {
        let device = device(80 * GIB, Some(60 * GIB), [0, loaded, 0, 0, 0, 0]);
        let envelope = Envelope::measured(&device, &layout, &Declared::default()).unwrap();
        let term = envelope.term(TermName::Weights).unwrap();
        assert_eq!((term.bytes, term.in_use_bytes), (Some(bytes as i64), Some(loaded as i64)));
        assert_eq!(term.origin, origin);
    };
    check(0, whole, Origin::Derived);
    check(whole / 2, whole, Origin::Derived);
    check(whole, whole, Origin::Measured);
    check(whole + 5, whole + 5, Origin::Measured);
}

#[test]
fn unseen_allocations_are_not_counted_twice() {
    let layout = Layout::builtin_8b();
    let free_of = |used: u64| {
        let mut device = device(80 * GIB, Some(80 * GIB - used), [0; 6]);
        device.allocations_unseen = true;
        let envelope = Envelope::measured(&device, &layout, &Declared::default()).unwrap();
        check_capacity(&envelope);
        assert_eq!(in_use(&envelope), used as i64);
        assert_eq!(bytes_of(&envelope, TermName::KvCache), None, "absent is not zero");
        assert!(envelope.term(TermName::Weights).unwrap().origin == Origin::Derived);
        envelope.kv_capacity_bytes.0
    };
    let reserves = 80 * GIB / 50 + 80 * GIB / 100;
    // Before the weights are loaded and after: they are taken off once.
    let plan = Envelope::plan(Bytes(80 * GIB), &layout, &Declared::default()).unwrap();
    assert_eq!(free_of(0), plan.kv_capacity_bytes.0);
    assert_eq!(free_of(GIB), plan.kv_capacity_bytes.0);
    assert_eq!(free_of(70 * GIB), 10 * GIB - reserves);
}

#[test]
fn context_comes_from_the_best_plane_there_is() {
    let layout = Layout::builtin_8b();
    let loaded =
        device(80 * GIB, Some(60 * GIB), [GIB, layout.weight_bytes.unwrap().0, 0, 0, 0, 0]);
    let ledger = GIB + layout.weight_bytes.unwrap().0;
    let check = |device: &DeviceSnapshot, declared: &Declared, expected: [Option<u64>; 3]| {
        let envelope = Envelope::measured(device, &layout, declared).unwrap();
        check_capacity(&envelope);
        let names = [TermName::Context, TermName::OpeningBalance, TermName::Unaccounted];
        let found = names.map(|name| bytes_of(&envelope, name));
        assert_eq!(found, expected.map(|bytes| bytes.map(|bytes| bytes as i64)));
        if let Some(free) = device.free_bytes {
            assert_eq!(in_use(&envelope), (80 * GIB - free.0) as i64);
        }
    };
    let plain = Declared::default();
    let rest = 20 * GIB - ledger;
    check(&loaded, &plain, [Some(rest), None, Some(0)]);
    let opening = DeviceSnapshot { opening_bytes: Some(Bytes(GIB)), ..loaded.clone() };
    check(&opening, &plain, [Some(rest - GIB), Some(GIB), Some(0)]);
    let declared = Declared { context: Some(Bytes(GIB)), ..plain };
    check(&opening, &declared, [Some(GIB), Some(GIB), Some(rest - 2 * GIB)]);
    let nvml = DeviceSnapshot {
        nvml_used_bytes: Some(Bytes(19 * GIB)),
        process_used_bytes: Some(Bytes(17 * GIB)),
        ..opening.clone()
    };
    check(&nvml, &plain, [Some(17 * GIB - ledger), Some(2 * GIB), Some(GIB)]);
    let blind = DeviceSnapshot { free_bytes: None, ..loaded };
    check(&blind, &plain, [Some(GIB / 2), None, None]);
    // More in the ledger than the device says is used: never a negative context.
    let odd = device(80 * GIB, Some(79 * GIB), [0, 2 * GIB, 0, 0, 0, 0]);
    check(&odd, &plain, [Some(0), None, Some(GIB.wrapping_neg())]);
}

/// The recorder's own buffers come out of what would else be the context, and the equation closes.
#[test]
fn complaint_05_the_recorders_buffers_are_a_term() {
    let layout = Layout::builtin_8b();
    let weights = layout.weight_bytes.unwrap().0;
    let plain = device(80 * GIB, Some(60 * GIB), [0, weights, 0, 0, 0, 0]);
    let without = Envelope::measured(&plain, &layout, &Declared::default()).unwrap();
    assert_eq!(bytes_of(&without, TermName::Recorder), None, "absent is not zero");
    let own = DeviceSnapshot {
        recorder_bytes: Some(Bytes(9_600_000)),
        recorder_bytes_max: Some(Bytes(51_200_000)),
        ..plain.clone()
    };
    for (device, declared) in [
        (own.clone(), Declared::default()),
        (own.clone(), Declared { context: Some(Bytes(GIB)), ..Declared::default() }),
        (DeviceSnapshot { allocations_unseen: true, ..own.clone() }, Declared::default()),
        // More than there is: what was counted twice is unaccounted for, with its sign.
        (DeviceSnapshot { free_bytes: Some(Bytes(64 * GIB)), ..own.clone() }, Declared::default()),
    ] {
        let envelope = Envelope::measured(&device, &layout, &declared).unwrap();
        check_capacity(&envelope);
        let term = envelope.term(TermName::Recorder).unwrap();
        assert_eq!((term.bytes, term.origin), (Some(9_600_000), Origin::Derived));
        assert_eq!(in_use(&envelope), (80 * GIB - device.free_bytes.unwrap().0) as i64);
    }
    let with = Envelope::measured(&own, &layout, &Declared::default()).unwrap();
    assert!(with.term(TermName::Recorder).unwrap().note.contains("at most 48.8 MiB"));
    let both = |envelope: &Envelope| {
        [TermName::Context, TermName::Recorder].map(|name| bytes_of(envelope, name).unwrap_or(0))
    };
    assert_eq!(both(&with).iter().sum::<i64>(), both(&without).iter().sum::<i64>());
    assert_eq!(with.kv_capacity_bytes, without.kv_capacity_bytes);
}

#[test]
fn the_table_shows_every_term_once() {
    let layout = Layout::builtin_8b();
    let device = device(80 * GIB, Some(60 * GIB), [0, 17 * GIB, GIB, 0, 0, 0]);
    let envelope = Envelope::measured(&device, &layout, &Declared::default()).unwrap();
    let text = envelope.to_string();
    for name in TermName::ALL {
        let label = format!("{:<16}", name.label());
        let lines = text.lines().filter(|line| line[2..].starts_with(&label));
        assert_eq!(lines.count(), 1, "{text}");
    }
    assert!(text.contains("\n  total               80.00 GiB  100.0 %  measured  ####"), "{text}");
    assert!(text.contains("\n- withheld                  0 B    0.0 %  measured  "), "{text}");
    assert!(text.contains("\n- opening balance        absent  "), "{text}");
    assert!(text.ends_with(" tokens"), "{text}");
    assert!(!text.contains("SIMULATED"));
    assert!(envelope.mark_simulated(true).to_string().starts_with("SIMULATED"));
}

proptest! {
    #[test]
    fn terms_add_up_to_what_is_used(
        total in GIB..200 * GIB,
        free_part in prop::option::of(0u64..=1000),
        tags in prop::array::uniform6(0u64..30 * GIB),
        pools in 0u64..GIB,
        opening in prop::option::of(0u64..10 * GIB),
        nvml in prop::option::of((0u64..200 * GIB, 0u64..200 * GIB)),
        context in prop::option::of(0u64..GIB),
    ) {
        let free = free_part.map(|part| total / 1000 * part);
        let mut device = device(total, free, tags);
        device.totals.vram.live_bytes.0 += pools;
        device.opening_bytes = opening.map(Bytes);
        device.nvml_used_bytes = nvml.map(|nvml| Bytes(nvml.0));
        device.process_used_bytes = nvml.map(|nvml| Bytes(nvml.1));
        let declared = Declared { context: context.map(Bytes), ..Declared::default() };
        match Envelope::measured(&device, &Layout::builtin_8b(), &declared) {
            Ok(envelope) => {
                check_capacity(&envelope);
                if let Some(free) = free {
                    prop_assert_eq!(in_use(&envelope), total as i64 - free as i64);
                    // What is handed out is there: free now, or in use by the KV cache already.
                    let kv = tags[Tag::KvCache as usize];
                    prop_assert!(envelope.kv_capacity_bytes.0 <= free + kv);
                }
            }
            Err(Error::NoRoom { total_bytes, taken_bytes, .. }) => {
                prop_assert_eq!(total_bytes, total);
                prop_assert!(taken_bytes > total - (2 << 20), "a block would have fitted");
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn slabs_fit_their_capacity_with_rounding(
        capacity in 1u64..200 * GIB,
        block in 1u64..(64 << 20),
        page in prop::sample::select(vec![0u64, 1, 4096, 2 << 20, 3 << 20]),
        target in 0u64..4 * GIB,
    ) {
        let layout = Layout::builtin_8b();
        let plain = Envelope::plan(Bytes(80 * GIB), &layout, &Declared::default()).unwrap();
        let envelope = Envelope {
            kv_capacity_bytes: Bytes(capacity),
            block_bytes: Bytes(block),
            page_bytes: Bytes(page),
            ..plain
        };
        let plan = envelope.kv_slab_plan(Bytes(target));
        prop_assert_eq!(plan.request_bytes.0, plan.slab_blocks.0 * block);
        prop_assert_eq!(plan.slab_bytes, plan.request_bytes.rounded_up_to(page));
        prop_assert_eq!(plan.blocks, Blocks(plan.slabs * plan.slab_blocks.0));
        prop_assert!(plan.slabs * plan.slab_bytes.0 <= capacity);
        // Nothing is left over but less than a block and a page a slab, and less than a slab.
        let lost = capacity - plan.slabs * plan.request_bytes.0;
        if plan.slabs > 0 {
            prop_assert!(lost < (plan.slabs + 1) * (block + page.max(1)), "{:?} {}", plan, lost);
        } else {
            prop_assert!(capacity < Bytes(block).rounded_up_to(page).0);
        }
    }
}
