//! Examples whose numbers were computed by hand, in MiB.

use super::*;
use crate::event::Tag;
use crate::ledger::PoolTotals;
use crate::snapshot::Matched;

/// A device of 1000 MiB without a framework.
fn device(free: u64) -> Epoch {
    Epoch { total_bytes: mib(1000), free_bytes: mib(free), ..Epoch::default() }
}

/// The same with a torch whose spaces are given as (stream, class, reserved, active, largest free,
/// releasable).
fn torch(free: u64, spaces: &[(u64, SizeClass, u64, u64, u64, u64)]) -> Epoch {
    let spaces =
        spaces.iter().map(|&(stream, class, reserved, active, largest, releasable)| Space {
            stream,
            class,
            reserved_bytes: mib(reserved),
            active_bytes: mib(active),
            largest_free_bytes: mib(largest),
            releasable_bytes: mib(releasable),
            free_blocks: 1,
            ..Space::default()
        });
    let spaces: Vec<_> = spaces.collect();
    let sum = |of: fn(&Space) -> Bytes| spaces.iter().map(of).sum::<Bytes>();
    let framework = Framework {
        reserved_bytes: sum(|space| space.reserved_bytes),
        active_bytes: sum(|space| space.active_bytes),
        allocated_bytes: sum(|space| space.active_bytes),
        requested_bytes: sum(|space| space.active_bytes),
        releasable_bytes: sum(|space| space.releasable_bytes),
        settings: Settings { expandable_segments: Some(false), ..Settings::default() },
        spaces,
        ..Framework::default()
    };
    Epoch { framework: Some(framework), ..device(free) }
}

fn set(mut epoch: Epoch, change: impl FnOnce(&mut Framework)) -> Epoch {
    change(epoch.framework.as_mut().unwrap());
    epoch
}

const SMALL: SizeClass = SizeClass::Small;
const LARGE: SizeClass = SizeClass::Large;

/// From where and what is taken in MiB (`Ok`), or what is needed and why not (`Err`); then the
/// largest fit in MiB.
fn check(
    epoch: &Epoch,
    bytes: Bytes,
    via: Via,
    expected: Result<(FitSource, u64), (u64, &str)>,
    largest: u64,
) {
    let fit = would_fit(epoch, bytes, via, PAGE);
    match (&fit, expected) {
        (Fit::Yes { from, taken_bytes, largest_fit_bytes }, Ok((source, taken))) => {
            assert_eq!(
                (*from, *taken_bytes, *largest_fit_bytes),
                (source, mib(taken), mib(largest))
            );
        }
        (Fit::No { because, needed_bytes, largest_fit_bytes, .. }, Err((needed, why))) => {
            assert_eq!(because, why);
            assert_eq!((*needed_bytes, *largest_fit_bytes), (mib(needed), mib(largest)));
        }
        _ => panic!("{bytes}: {fit:#?}"),
    }
}

/// Kind, recovered MiB, and whether it is enough, in order.
fn check_remedies(epoch: &Epoch, bytes: u64, via: Via, expected: &[(RemedyKind, u64, bool)]) {
    let Fit::No { remedies, .. } = would_fit(epoch, mib(bytes), via, PAGE) else {
        panic!("it fits");
    };
    let found: Vec<_> = remedies
        .iter()
        .map(|remedy| (remedy.kind, remedy.recovers_bytes.0 / MIB, remedy.is_enough))
        .collect();
    assert_eq!(found, expected, "{remedies:#?}");
}

use FitSource::{AfterRelease, Cached, Free, Pool};

#[test]
fn rounding_and_segments() {
    // 30 MiB free, nothing cached.
    let empty = torch(30, &[]);
    let via = Via::Framework;
    for (bytes, taken) in [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        // One byte more is of the large class, and below 10 MiB the segment is 20 MiB.
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (30 * MIB, 30 * MIB),
    ] {
        check(&empty, Bytes(bytes), via, Ok((Free, taken / MIB)), 30);
    }
    let why = "no, because 32.0 MiB are needed from the driver and 30.0 MiB are free on the device";
    check(&empty, Bytes(30 * MIB + 1), via, Err((32, why)), 30);
    // Smaller than the largest fit, and yet no: the segment would be larger.
    let little = torch(12, &[]);
    let why = "no, because 20.0 MiB are needed from the driver and 12.0 MiB are free on the device";
    check(&little, mib(5), via, Err((20, why)), 12);
    check(&little, mib(11), via, Ok((Free, 12)), 12);
    let least = torch(8, &[]);
    check(&least, mib(1), via, Ok((Free, 2)), 1);
    let sized = set(torch(12, &[]), |f| f.settings.large_segment_bytes = Some(mib(12)));
    check(&sized, mib(5), via, Ok((Free, 12)), 12);
    check(&empty, Bytes::ZERO, via, Ok((Cached, 0)), 30);
}

#[test]
fn caches_serve_their_own() {
    let spaces = [(0, LARGE, 100, 60, 24, 0), (7, LARGE, 64, 0, 64, 64), (0, SMALL, 4, 3, 1, 0)];
    let epoch = torch(10, &spaces);
    let via = Via::Framework;
    check(&epoch, mib(24), via, Ok((Cached, 24)), 74);
    // What stream 7 caches is given back for it: 10 + 64.
    check(&epoch, mib(70), via, Ok((AfterRelease, 70)), 74);
    let why = "no, because 76.0 MiB are needed from the driver and 74.0 MiB can be had: 10.0 MiB \
               free on the device, 64.0 MiB given back by torch; 41.0 MiB more are cached in \
               pieces, of which this request may use 24.0 MiB at most";
    check(&epoch, mib(76), via, Err((76, why)), 74);
    check(&epoch, mib(64), Via::FrameworkAt { stream: 7, pool: (0, 0) }, Ok((Cached, 64)), 74);
    // A graph's pool gets nothing back.
    let graph = Via::FrameworkAt { stream: 0, pool: (3, 0) };
    let why = "no, because 20.0 MiB are needed from the driver and 10.0 MiB are free on the \
               device; a block of 64.0 MiB is free, but in the large blocks of stream 0x7, which \
               this request may not use";
    check(&epoch, mib(9), graph, Err((20, why)), 10);
    check_remedies(&epoch, 9, graph, &[(RemedyKind::EmptyCache, 64, true)]);
    // A block that fits is free, but elsewhere and beside one in use.
    let split = torch(10, &[(7, LARGE, 100, 40, 60, 0)]);
    let why = "no, because 30.0 MiB are needed from the driver and 10.0 MiB are free on the \
               device; a block of 60.0 MiB is free, but in the large blocks of stream 0x7, which \
               this request may not use";
    check(&split, mib(30), via, Err((30, why)), 10);
    // Two pages at the edges of the free block are not sure: 60 - 2 * 20.
    check_remedies(&split, 30, via, &[(RemedyKind::ExpandableSegments, 60, false)]);
    check_remedies(&split, 40, via, &[(RemedyKind::ExpandableSegments, 60, false)]);
    let on = set(split, |f| f.settings.expandable_segments = Some(true));
    check_remedies(&on, 40, via, &[]);
}

#[test]
fn limits_and_splits() {
    let limited = set(torch(500, &[(0, LARGE, 100, 80, 20, 0)]), |f| {
        f.settings.limit_bytes = Some(mib(140));
    });
    check(&limited, mib(40), Via::Framework, Ok((Free, 40)), 40);
    let why = "no, because this process may reserve 140.0 MiB in torch: 100.0 MiB are reserved, \
               none of which can be given back, and 42.0 MiB more are needed";
    check(&limited, mib(42), Via::Framework, Err((42, why)), 40);
    check_remedies(&limited, 42, Via::Framework, &[(RemedyKind::RaiseLimit, 460, true)]);
    check_remedies(&limited, 502, Via::Framework, &[(RemedyKind::RaiseLimit, 460, false)]);
    let split = set(torch(10, &[(0, LARGE, 200, 0, 100, 0)]), |f| {
        f.settings.max_split_size = Some(mib(50));
        f.spaces[0].largest_splittable_free_bytes = mib(40);
        f.spaces[0].unsplittable_free = vec![mib(60), mib(100)];
    });
    check(&split, mib(40), Via::Framework, Ok((Cached, 40)), 100);
    let why = "no, because 42.0 MiB are needed from the driver and 10.0 MiB are free on the \
               device; a block of 100.0 MiB is free here, but max_split_size forbids to take it \
               for this";
    check(&split, mib(42), Via::Framework, Err((42, why)), 100);
    check(&split, mib(50), Via::Framework, Ok((Cached, 50)), 100);
    check(&split, mib(81), Via::Framework, Ok((Cached, 81)), 100);
    let why = &why.replace("42.0", "80.0");
    check(&split, mib(80), Via::Framework, Err((80, why)), 100);
}

#[test]
fn expandable_segments_grow_by_pages() {
    let grown = set(torch(45, &[(0, LARGE, 100, 70, 25, 20)]), |f| {
        f.settings.expandable_segments = Some(true);
        f.spaces[0].is_expandable = true;
        f.spaces[0].tail_free_bytes = mib(25);
    });
    check(&grown, mib(25), Via::Framework, Ok((Cached, 25)), 65);
    // 25 are there, the rest is one page of 20, then two.
    check(&grown, mib(26), Via::Framework, Ok((Free, 20)), 65);
    check(&grown, mib(46), Via::Framework, Ok((Free, 40)), 65);
    // After the cache was emptied: 65 free, 5 of the end are left, and 60 is three pages.
    check(&grown, mib(65), Via::Framework, Ok((Free, 40)), 65);
    let why = "no, because 80.0 MiB are needed from the driver and 65.0 MiB can be had: 45.0 MiB \
               free on the device, 20.0 MiB given back by torch; 10.0 MiB more are cached in \
               pieces, of which this request may use 25.0 MiB at most";
    check(&grown, mib(66), Via::Framework, Err((80, why)), 65);
    let holes = set(grown.clone(), |f| f.spaces[0].hole_bytes = mib(40));
    check(&holes, mib(30), Via::Framework, Ok((Free, 40)), 65);
    check(&holes, mib(41), Via::Framework, Ok((Free, 20)), 65);
    let full = set(grown, |f| f.awaiting_releasable_bytes = mib(40));
    check(&full, mib(80), Via::Framework, Ok((AfterRelease, 80)), 100);
}

#[test]
fn drivers_and_pools() {
    let mut epoch = device(45);
    check(&epoch, mib(43), Via::Driver, Ok((Free, 44)), 44);
    let why = "no, because 46.0 MiB are needed (in pages of 2.0 MiB) and 45.0 MiB are free on the \
               device";
    check(&epoch, mib(45), Via::Driver, Err((46, why)), 44);
    let pool = |pool, reserved, used| PoolTotals {
        pool,
        reserved_bytes: Some(mib(reserved)),
        used_bytes: Some(mib(used)),
        ..PoolTotals::default()
    };
    epoch.totals.pools = vec![pool(9, 64, 4)];
    check(&epoch, mib(60), Via::Pool(0), Ok((Pool, 60)), 60);
    check(&epoch, mib(60), Via::Pool(9), Ok((Pool, 60)), 60);
    let why = "no, because the pool holds 60.0 MiB that nobody uses, and to grow by 62.0 MiB it \
               finds 45.0 MiB free on the device";
    check(&epoch, mib(61), Via::Pool(9), Err((62, why)), 60);
    epoch.others_bytes = Some(mib(10));
    // 4 of the pool's 64 are in use, and may keep the others.
    let expected = [(RemedyKind::TrimPools, 60, false), (RemedyKind::OtherProcesses, 10, false)];
    check_remedies(&epoch, 61, Via::Pool(9), &expected);
    check_remedies(&epoch, 61, Via::Driver, &expected);
    epoch.totals.pools = vec![pool(9, 64, 0)];
    let expected = [(RemedyKind::TrimPools, 64, true), (RemedyKind::OtherProcesses, 10, false)];
    check_remedies(&epoch, 61, Via::Driver, &expected);
    epoch.totals.pools = vec![pool(9, 64, 4)];
    epoch.totals.pools.push(pool(11, 2, 0));
    check(&epoch, mib(43), Via::Pool(11), Ok((Free, 44)), 44);
    let unknown =
        |epoch: &Epoch, via| matches!(would_fit(epoch, mib(1), via, PAGE), Fit::Unknown { .. });
    assert!(unknown(&epoch, Via::Pool(0)) && unknown(&epoch, Via::Pool(12)));
    assert!(unknown(&epoch, Via::Framework) && unknown(&Epoch::default(), Via::Driver));
}

#[test]
fn remedies_are_computed() {
    let mut epoch = torch(10, &[(0, LARGE, 100, 80, 10, 0)]);
    epoch.totals.by_tag[Tag::KvCache as usize].live_bytes = mib(30);
    epoch.totals.by_tag[Tag::Weights as usize].live_bytes = mib(150);
    let mut matched = Matched { count: 1, ..Matched::default() };
    matched.by_tag[Tag::Weights as usize] = mib(100);
    epoch.matched = vec![matched];
    epoch.others_bytes = Some(mib(300));
    let epoch = set(epoch, |f| {
        f.by_tag[Tag::Weights as usize] = mib(60);
        f.allocated_bytes = mib(75);
    });
    // 50 of the weights are the driver's, and 60 blocks of torch's: sure are 10 + 50.
    let of = |weights, kv| {
        [
            (RemedyKind::OtherProcesses, 300, true),
            (RemedyKind::FreeTag, 110, weights),
            (RemedyKind::FreeTag, 30, kv),
            (RemedyKind::ExpandableSegments, 20, false),
            (RemedyKind::Synchronize, 5, false),
        ]
    };
    check_remedies(&epoch, 40, Via::Framework, &of(true, true));
    check_remedies(&epoch, 42, Via::Framework, &of(true, false));
    check_remedies(&epoch, 62, Via::Framework, &of(false, false));
    let Fit::No { remedies, .. } = would_fit(&epoch, mib(42), Via::Framework, PAGE) else {
        panic!()
    };
    let texts: Vec<_> = remedies.iter().map(|remedy| remedy.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "other processes on this device use 300.0 MiB",
            "free what is tagged weights: 50.0 MiB, and 60.0 MiB go back to torch's cache and may \
             lie in pieces",
            "free what is tagged kv_cache: 30.0 MiB; not enough by itself",
            "restart with PYTORCH_ALLOC_CONF=expandable_segments:True: 20.0 MiB are stranded \
             beside blocks in use, whether in whole pages, which would be given back, is not \
             known; not enough by itself",
            "wait for the streams (torch.cuda.synchronize()) before the request: up to 5.0 MiB \
             come back to the cache, and may lie in pieces; not enough by itself",
        ]
    );
}

#[test]
fn what_cannot_be_told() {
    let unknown = |epoch: &Epoch, bytes: u64| {
        matches!(would_fit(epoch, mib(bytes), Via::Framework, PAGE), Fit::Unknown { .. })
    };
    let power = set(torch(60, &[]), |f| f.settings.rounds_otherwise = true);
    // Up to 32 it fits whichever way 20 are rounded, and 64 do not.
    assert_eq!([20, 33, 61].map(|mib| unknown(&power, mib)), [false, true, false]);
    let mut torn = torch(60, &[]);
    (torn.is_torn, torn.moved_bytes) = (true, mib(20));
    assert_eq!([40, 42, 80, 82].map(|mib| unknown(&torn, mib)), [false, true, true, false]);
}

#[test]
fn every_size_on_every_small_device() {
    // An empty cache: the rules as they are told in torch's notes, in MiB.
    for free in 0..48 {
        let epoch = torch(free, &[]);
        for half in 1..96 {
            let needed = match half {
                1..=2 => 2,
                3..20 => 20,
                _ => u64::div_ceil(half, 4) * 2,
            };
            let fit = would_fit(&epoch, Bytes(half * MIB / 2), Via::Framework, PAGE);
            assert_eq!(matches!(fit, Fit::Yes { .. }), needed <= free, "{half} halves of {free}");
        }
    }
}

#[test]
fn fragmentation_by_hand() {
    let demand = |sizes: &[(u64, u32)]| {
        let mut demand = Demand::new();
        sizes.iter().for_each(|&(size, count)| demand.note(mib(size), count));
        demand
    };
    let spaces = [(0, LARGE, 100, 60, 24, 0), (7, LARGE, 64, 16, 40, 0)];
    let epoch = set(torch(10, &spaces), |f| f.requested_bytes = mib(57));
    // 10 free and 40 + 48 cached; one request gets 24.
    let found = fragmentation(&epoch, &demand(&[(16, 60), (32, 30), (64, 6), (128, 4)]));
    assert_eq!((found.available_bytes, found.largest_fit_bytes), (mib(98), mib(24)));
    let close = |told: f64, exact: f64| assert!((told - exact).abs() < 1e-12, "{told} {exact}");
    close(found.external, 1.0 - 24.0 / 98.0);
    // 19 of the 76 allocated were not asked for.
    close(found.internal.unwrap(), 19.0 / 76.0);
    // 32 and 64 are no larger than what is available, 128 is.
    close(found.demand_weighted.unwrap(), 0.36);
    let [own, other] = &found.spaces[..] else { panic!() };
    assert_eq!(
        (own.cached_bytes, own.stranded_bytes, own.largest_fit_bytes),
        (mib(40), mib(40), mib(24))
    );
    close(own.external, 1.0 - 24.0 / 50.0);
    close(own.demand_weighted.unwrap(), 0.30);
    close(other.external, 1.0 - 40.0 / 58.0);
    close(other.demand_weighted.unwrap(), 0.0);
    // Requests of 4 MiB need a segment of 20: they fail although 12 would fit.
    let small = fragmentation(&torch(12, &[]), &demand(&[(4, 1), (12, 3)]));
    close(small.demand_weighted.unwrap(), 0.25);
    close(small.external, 0.0);
    // To the driver free memory is pages.
    let driver = fragmentation(&device(45), &demand(&[(44, 1), (64, 1)]));
    assert_eq!((driver.largest_fit_bytes, driver.internal), (mib(44), None));
    close(driver.external, 1.0 / 45.0);
    close(driver.demand_weighted.unwrap(), 0.0);
    let nothing = fragmentation(&device(0), &Demand::new());
    assert_eq!((nothing.external, nothing.demand_weighted), (0.0, None));
}
