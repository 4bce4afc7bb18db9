//! Numbers that no device has: there is an answer all the same, and it keeps its promises.

use super::*;
use crate::ledger::PoolTotals;
use proptest::prelude::*;

fn number() -> impl Strategy<Value = Bytes> {
    let edges = (0_u32..64, 0_u64..3).prop_map(|(shift, less)| (1_u64 << shift).wrapping_sub(less));
    prop_oneof![edges, any::<u64>(), Just(u64::MAX), 0_u64..1 << 31].prop_map(Bytes)
}

fn space() -> impl Strategy<Value = Space> {
    let numbers = prop::collection::vec(number(), 8);
    (numbers, any::<[bool; 3]>(), 0_u64..2).prop_map(|(n, flags, stream)| Space {
        stream,
        pool: if flags[0] { (1, 0) } else { (0, 0) },
        class: if flags[1] { SizeClass::Small } else { SizeClass::Large },
        is_expandable: flags[2],
        reserved_bytes: n[0],
        active_bytes: n[1],
        largest_free_bytes: n[2],
        releasable_bytes: n[3],
        free_blocks: n[4].0,
        tail_free_bytes: n[5],
        hole_bytes: n[6],
        largest_splittable_free_bytes: n[7],
        unsplittable_free: n,
        ..Space::default()
    })
}

fn epoch() -> impl Strategy<Value = Epoch> {
    let spaces = prop::collection::vec(space(), 0..5);
    let numbers = prop::collection::vec(number(), 14);
    (spaces, numbers, any::<[bool; 6]>()).prop_map(|(spaces, n, flags)| {
        let told = |at: usize| flags[at].then_some(n[at]);
        let framework = Framework {
            requested_bytes: n[0],
            allocated_bytes: n[1],
            active_bytes: n[2],
            reserved_bytes: n[3],
            releasable_bytes: n[4],
            awaiting_releasable_bytes: n[5],
            by_tag: std::array::from_fn(|tag| n[tag]),
            spaces,
            settings: Settings {
                expandable_segments: flags[0].then_some(flags[1]),
                max_split_size: told(2),
                large_segment_bytes: told(3),
                limit_bytes: told(4),
                rounds_otherwise: flags[5],
            },
            ..Framework::default()
        };
        let mut epoch = Epoch {
            total_bytes: n[6],
            free_bytes: n[7],
            moved_bytes: n[8],
            is_torn: flags[1],
            others_bytes: told(3),
            framework: Some(framework),
            ..Epoch::default()
        };
        for (sum, bytes) in epoch.totals.by_tag.iter_mut().zip(&n) {
            sum.live_bytes = *bytes;
        }
        epoch.totals.pools = vec![PoolTotals {
            pool: 5,
            reserved_bytes: told(2),
            used_bytes: told(3),
            by_tag: std::array::from_fn(|tag| n[tag + 8]),
            ..PoolTotals::default()
        }];
        epoch
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn there_is_an_answer(epoch in epoch(), bytes in number(), page in number(), stream in 0_u64..2) {
        let at = Via::FrameworkAt { stream, pool: (stream, 0) };
        for via in [Via::Driver, Via::Pool(0), Via::Pool(5), Via::Framework, at] {
            match would_fit(&epoch, bytes, via, page) {
                Fit::No { because, remedies, .. } => {
                    prop_assert!(because.starts_with("no, because ") && because.len() < 600);
                    let falls = |pair: &[Remedy]| pair[0].recovers_bytes >= pair[1].recovers_bytes;
                    prop_assert!(remedies.windows(2).all(falls));
                    prop_assert!(remedies.iter().all(|remedy| remedy.recovers_bytes.0 > 0));
                }
                Fit::Yes { .. } => {}
                Fit::Unknown { missing } => prop_assert!(!missing.is_empty()),
            }
        }
        let mut demand = Demand::new();
        demand.note(bytes, 3);
        demand.note(page, u32::MAX);
        let found = fragmentation(&epoch, &demand);
        let shares = found.spaces.iter().map(|space| space.external).chain([found.external]);
        let weighted = found.spaces.iter().filter_map(|space| space.demand_weighted);
        let mut shares = shares.chain(weighted).chain(found.demand_weighted);
        prop_assert!(shares.all(|share| (0.0..=1.0).contains(&share)));
    }

    #[test]
    fn the_largest_that_fits_does(mut epoch in epoch(), stream in 0_u64..2) {
        epoch.is_torn = false;
        epoch.framework.as_mut().unwrap().settings.rounds_otherwise = false;
        let at = Via::FrameworkAt { stream, pool: (stream, 0) };
        for via in [Via::Driver, Via::Framework, at] {
            let ask = |bytes| would_fit(&epoch, bytes, via, PAGE);
            let largest = match ask(Bytes(1)) {
                Fit::Yes { largest_fit_bytes, .. } | Fit::No { largest_fit_bytes, .. } => largest_fit_bytes,
                Fit::Unknown { .. } => continue,
            };
            let fits = matches!(ask(largest), Fit::Yes { .. });
            prop_assert!(fits || largest.0 == 0, "{largest:?} {epoch:#?}");
        }
    }
}
