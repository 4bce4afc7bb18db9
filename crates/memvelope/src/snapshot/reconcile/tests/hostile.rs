//! Numbers that no device has: the lines add up all the same, and nothing panics.

use super::*;
use crate::framework::Space;
use crate::ledger::Rounding;
use proptest::prelude::*;

/// Small, huge, at the edges.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..4,
        any::<u64>(),
        Just(u64::MAX),
        (0_u32..64).prop_map(|shift| 1 << shift),
        (0_u32..64).prop_map(|shift| (1_u64 << shift).wrapping_sub(1)),
    ]
}

fn sizes<const N: usize>() -> impl Strategy<Value = [Bytes; N]> {
    prop::collection::vec(number(), N).prop_map(|list| std::array::from_fn(|at| Bytes(list[at])))
}

fn totals() -> impl Strategy<Value = DeviceTotals> {
    let libraries = prop::collection::vec((0_u16..5, number()), 0..4);
    let pools = prop::collection::vec((sizes::<6>(), sizes::<2>(), 0_u8..4), 0..4);
    let growth = prop::collection::vec((any::<i64>(), number(), 0_u64..2), GrowthCause::COUNT);
    (sizes::<6>(), sizes::<6>(), sizes::<11>(), libraries, pools, growth, any::<[bool; 2]>())
        .prop_map(|(by_tag, other, by_kind, libraries, pools, growth, told)| {
            let mut totals = DeviceTotals::default();
            for (sum, bytes) in totals.by_tag.iter_mut().zip(by_tag) {
                sum.live_bytes = bytes;
            }
            for (sum, bytes) in totals.by_kind.iter_mut().zip(by_kind) {
                sum.live_bytes = bytes;
            }
            for (sum, (bytes, error, count)) in totals.growth.iter_mut().zip(growth) {
                *sum = GrowthTotals { bytes, error_bytes: Bytes(error), count };
            }
            totals.rounding = Rounding { bytes: other[0], error_bytes: other[1] };
            totals.exported_bytes = other[2];
            totals.pool_reserved_bytes = other[3];
            totals.graph_reserved_bytes = told[0].then_some(other[4]);
            totals.graph_used_bytes = told[1].then_some(other[5]);
            totals.libraries = libraries
                .into_iter()
                .map(|(library, bytes)| LibraryTotals {
                    library: LibraryId(library),
                    untagged_bytes: Bytes(bytes),
                    ..LibraryTotals::default()
                })
                .collect();
            totals.pools = pools
                .into_iter()
                .map(|(by_tag, [reserved, used], told)| PoolTotals {
                    reserved_bytes: (told & 1 > 0).then_some(reserved),
                    used_bytes: (told & 2 > 0).then_some(used),
                    by_tag,
                    ..PoolTotals::default()
                })
                .collect();
            totals
        })
}

fn framework() -> impl Strategy<Value = Framework> {
    let segments = prop::collection::vec(number(), 0..5);
    let spaces = prop::collection::vec((0_u64..2, number()), 0..4);
    (sizes::<6>(), sizes::<5>(), segments, spaces).prop_map(|(by_tag, sums, segments, spaces)| {
        Framework {
            by_tag,
            requested_bytes: sums[0],
            allocated_bytes: sums[1],
            active_bytes: sums[2],
            reserved_bytes: sums[3],
            releasable_bytes: sums[4],
            segments: segments
                .into_iter()
                .map(|bytes| Segment { bytes: Bytes(bytes), ..Segment::default() })
                .collect(),
            spaces: spaces
                .into_iter()
                .map(|(pool, bytes)| Space {
                    pool: (pool, 0),
                    untagged_bytes: Bytes(bytes),
                    ..Space::default()
                })
                .collect(),
            ..Framework::default()
        }
    })
}

fn input() -> impl Strategy<Value = Input> {
    let matched = prop::collection::vec((sizes::<6>(), 0_u64..2, 0_u16..5), 0..6);
    let plane = (prop::collection::vec(prop::option::of(number()), 5), 0_u32..3);
    let findings = prop::collection::vec(number(), 8);
    let earlier = prop::collection::vec((any::<u64>(), any::<i64>()), 0..5);
    let flags = any::<[bool; 2]>();
    let planes = (totals(), prop::option::of(framework()), matched, sizes::<4>());
    (planes, plane, findings, earlier, flags).prop_map(
        |((totals, framework, matched, sums), (plane, untold), findings, earlier, flags)| {
            let told = |at: usize| plane[at].map(Bytes);
            Input {
                epoch: Epoch {
                    time: Nanos(sums[3].0),
                    total_bytes: sums[0],
                    free_bytes: sums[1],
                    moved_bytes: sums[2],
                    is_torn: flags[0],
                    totals,
                    framework,
                    others_bytes: None,
                    matched: matched
                        .into_iter()
                        .map(|(by_tag, count, library)| Matched {
                            by_tag,
                            pooled_by_tag: if count % 2 == 0 { by_tag } else { Default::default() },
                            count,
                            library: LibraryId(library),
                        })
                        .collect(),
                },
                plane: DevicePlane {
                    opening_bytes: told(0),
                    opening_own_bytes: told(1),
                    others_bytes: told(2),
                    recorder_bytes: told(3),
                    recorder_bytes_max: told(4),
                    others_untold: untold,
                    ..DevicePlane::default()
                },
                findings: Findings {
                    untracked_frees: findings[0],
                    replaced: findings[1],
                    refused: findings[2],
                    refused_bytes: Bytes(findings[3]),
                    untracked_mappings: findings[4],
                    presumed_frees: findings[5],
                    recorded_allocations: findings[6],
                    unasked_pools: findings[7],
                    late_pools: findings[0],
                    ..Findings::default()
                },
                called_allocations: Some(findings[0]),
                allocations_unseen: flags[1],
                earlier: earlier.into_iter().map(|(time, bytes)| (Nanos(time), bytes)).collect(),
                fragmentation: None,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn lines_add_up_whatever_the_planes_say(input in input()) {
        // The assertions are in `reconcile` of the input.
        let balance = input.reconcile();
        let is_told = input.epoch.total_bytes.0 > 0;
        prop_assert_eq!(balance.unaccounted_bytes().is_some(), is_told);
    }
}

#[test]
fn all_at_the_edge() {
    for (total, bytes) in [(u64::MAX, u64::MAX), (u64::MAX, 0), (1, u64::MAX)] {
        let mut input = Input::default();
        input.epoch.total_bytes = Bytes(total);
        for sum in &mut input.epoch.totals.by_tag {
            sum.live_bytes = Bytes(bytes);
        }
        input.epoch.totals.growth =
            [GrowthTotals { bytes: i64::MIN, error_bytes: Bytes(bytes), count: 1 };
                GrowthCause::COUNT];
        input.plane.others_bytes = Some(Bytes(bytes));
        let balance = input.reconcile();
        assert!(balance.unaccounted_bytes().is_some());
    }
}
