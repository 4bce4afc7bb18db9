//! The rule against a model that looks back over all readings, and by hand.

use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn settings(rise: u64, readings: u32, after_s: u64, floor: u64) -> FollowSettings {
    FollowSettings {
        rise: Some(Blocks(rise)),
        rise_readings: readings,
        rise_after: Nanos(after_s * SECOND),
        floor: Blocks(floor),
    }
}

/// A reading in a test: a second after the one before.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Good(u64),
    Torn(u64),
    Absent,
}
use Seen::{Absent, Good, Torn};

fn reading(second: u64, seen: Seen) -> Reading {
    let time = Nanos(second * SECOND);
    match seen {
        Good(blocks) => Reading { time, blocks: Some(Blocks(blocks)), is_torn: false },
        Torn(blocks) => Reading { time, blocks: Some(Blocks(blocks)), is_torn: true },
        Absent => Reading { time, blocks: None, is_torn: false },
    }
}

/// Feeds readings one second apart to a follower with a budget of 1000 blocks and compares what is
/// in force after each.
fn check(settings: FollowSettings, readings: &[Seen], expected: &[u64]) {
    let mut follower = Follower::new(Blocks(1000), settings);
    let found: Vec<_> = readings
        .iter()
        .zip(0..)
        .map(|(seen, second)| {
            let before = follower.in_force();
            let step = follower.next(&reading(second, *seen));
            assert_eq!(step.set.unwrap_or(before), follower.in_force(), "{step:?}");
            follower.in_force().0
        })
        .collect();
    assert_eq!(found, expected, "{readings:?}");
}

#[test]
fn falls_at_once_and_rises_when_it_lasted() {
    let plain = settings(10, 3, 3600, 0);
    // The lowest of the three is taken, not the last.
    check(plain, &[Good(400), Good(900), Good(700), Good(800)], &[400, 400, 400, 700]);
    // One that shows less ends the rise; what follows begins anew.
    let broken = [Good(400), Good(900), Good(409), Good(900), Good(900), Good(900)];
    check(plain, &broken, &[400, 400, 400, 400, 400, 900]);
    // Never above the budget, and the last blocks below it come back.
    check(plain, &[Good(995), Good(5000), Good(5000), Good(5000)], &[995, 995, 995, 1000]);
    check(plain, &[Good(995), Good(1000), Good(1000), Good(1000)], &[995; 4]);
    // Half of a fall is a fall.
    check(plain, &[Good(999), Good(998), Good(0)], &[999, 998, 0]);
    check(settings(10, 3, 3600, 300), &[Good(100), Good(0)], &[300, 300]);
    check(settings(10, 3, 3600, 5000), &[Good(100)], &[1000]);
}

#[test]
fn what_is_torn_or_absent_never_raises() {
    let plain = settings(10, 3, 3600, 0);
    check(plain, &[Good(400), Torn(900), Torn(900), Torn(900), Torn(900)], &[400; 5]);
    check(plain, &[Good(400), Absent, Absent, Absent, Absent], &[400; 5]);
    // Torn ones do not count, but lower what is taken; absent ones begin anew.
    let torn = [Good(400), Good(900), Torn(600), Good(900), Good(900)];
    check(plain, &torn, &[400, 400, 400, 400, 600]);
    let absent = [Good(400), Good(900), Good(900), Absent, Good(900), Good(900)];
    check(plain, &absent, &[400; 6]);
    // What is torn may still lower: the memory may be gone.
    check(plain, &[Torn(600), Torn(700), Torn(500)], &[600, 600, 500]);
}

#[test]
fn a_rise_may_last_by_time() {
    let seldom = settings(10, 100, 5, 0);
    check(seldom, &[Good(400), Good(900), Good(800)], &[400; 3]);
    let mut follower = Follower::new(Blocks(1000), seldom);
    for (second, blocks, set) in
        [(0, 400, Some(400)), (10, 900, None), (14, 700, None), (15, 900, Some(700))]
    {
        let step = follower.next(&reading(second, Good(blocks)));
        assert_eq!(step.set, set.map(Blocks), "at {second} s");
    }
    // A single reading has lasted for no time at all, and a clock that steps back for none.
    let mut follower = Follower::new(Blocks(1000), settings(10, 100, 0, 0));
    assert_eq!(follower.next(&reading(9, Good(400))).why, Why::Fell);
    assert_eq!(follower.next(&reading(9, Good(900))).why, Why::Rising(1));
    assert_eq!(follower.next(&reading(9, Good(900))).why, Why::Rose);
}

#[test]
fn defaults_are_those_documented() {
    let mut follower = Follower::new(Blocks(1000), FollowSettings::default());
    assert_eq!(follower.next(&reading(0, Good(500))).why, Why::Fell);
    assert_eq!(follower.next(&reading(1, Good(509))).why, Why::Steady, "1 % is 10 blocks");
    for count in 1..10 {
        assert_eq!(follower.next(&reading(1, Good(510))).why, Why::Rising(count));
    }
    assert_eq!(
        follower.next(&reading(1, Good(510))),
        Step { set: Some(Blocks(510)), why: Why::Rose }
    );
    assert_eq!(follower.next(&reading(2, Good(600))).why, Why::Rising(1));
    assert_eq!(follower.next(&reading(62, Good(600))).why, Why::Rose, "a minute");
    // A budget below a hundred blocks: one block counts.
    let mut small = Follower::new(Blocks(7), FollowSettings::default());
    assert_eq!(small.next(&reading(0, Good(5))).why, Why::Fell);
    assert_eq!(small.next(&reading(0, Good(6))).why, Why::Rising(1));
}

#[test]
fn a_broken_session_falls_back_and_stays() {
    for (readings, expected) in [
        (&[][..], 1000),
        (&[Good(400), Good(900)], 400),
        // What a torn reading lowered does not come back on the strength of an older one.
        (&[Good(800), Torn(300)], 300),
        (&[Good(5000)], 1000),
        (&[Absent], 1000),
    ] {
        let mut follower = Follower::new(Blocks(1000), settings(10, 3, 3600, 0));
        for (seen, second) in readings.iter().zip(0..) {
            follower.next(&reading(second, *seen));
        }
        let before = follower.in_force();
        let step = follower.fall_back();
        assert_eq!(step, Step { set: Some(Blocks(expected)), why: Why::Broken });
        assert!(follower.in_force() <= before);
        for second in 10..100 {
            let step = follower.next(&reading(second, Good(1000)));
            assert_eq!(step, Step { set: None, why: Why::Broken });
        }
        assert_eq!(follower.fall_back().set, None, "once");
        assert_eq!(follower.in_force(), Blocks(expected));
    }
}

/// What is in force after all of these readings, found by looking back over them each time.
fn model(budget: u64, settings: &FollowSettings, history: &[(u64, Seen)]) -> u64 {
    let within = |blocks: u64| blocks.max(settings.floor.0).min(budget);
    let rise = settings.rise.map_or(budget / 100, |rise| rise.0).max(1);
    let mut in_force = budget;
    let mut changed_at = 0;
    for now in 0..history.len() {
        let shown = match history[now].1 {
            Good(blocks) | Torn(blocks) => blocks,
            Absent => continue,
        };
        if within(shown) < in_force {
            (in_force, changed_at) = (within(shown), now + 1);
            continue;
        }
        if in_force == budget || !matches!(history[now].1, Good(_)) {
            continue;
        }
        // All readings back to the last that showed no rise, or to the last change.
        let shows_rise = |seen: &Seen| match seen {
            Good(blocks) | Torn(blocks) => {
                *blocks >= in_force.saturating_add(rise) && within(*blocks) > in_force
            }
            Absent => false,
        };
        let begin = (changed_at..=now).rev().take_while(|&at| shows_rise(&history[at].1)).last();
        let Some(begin) = begin else { continue };
        let is_good = |(_, seen): &&(u64, Seen)| matches!(seen, Good(_));
        // What is torn before the first good one says nothing about the rise.
        let Some(first) = (begin..=now).find(|&at| is_good(&&history[at])) else { continue };
        let window = &history[first..=now];
        let good = window.iter().filter(is_good).count();
        let lasted = history[now].0 - history[first].0;
        let is_long = good >= 2 && lasted * SECOND >= settings.rise_after.0;
        if good >= settings.rise_readings.max(1) as usize || is_long {
            let lowest = window.iter().filter_map(|(_, seen)| match seen {
                Good(blocks) | Torn(blocks) => Some(*blocks),
                Absent => None,
            });
            (in_force, changed_at) = (within(lowest.min().unwrap()), now + 1);
        }
    }
    in_force
}

fn seen() -> impl Strategy<Value = Seen> {
    // Few values, so that rises last often enough to be taken.
    let blocks = || {
        prop_oneof![
            4 => prop::sample::select(vec![40_u64, 50, 60, 80, 100]),
            1 => 0_u64..200,
            1 => Just(u64::MAX),
        ]
    };
    prop_oneof![6 => blocks().prop_map(Good), 1 => blocks().prop_map(Torn), 1 => Just(Absent)]
}

proptest! {
    #[test]
    fn agrees_with_looking_back(
        budget in prop::sample::select(vec![1_u64, 60, 100, 150]),
        rise in prop::option::of(0_u64..40),
        rise_readings in 0_u32..5,
        after_s in 0_u64..20,
        floor in prop::sample::select(vec![0_u64, 0, 45, 500]),
        steps in prop::collection::vec((0_u64..4, seen()), 0..60),
    ) {
        let settings = FollowSettings {
            rise: rise.map(Blocks),
            rise_readings,
            rise_after: Nanos(after_s * SECOND),
            floor: Blocks(floor),
        };
        let mut follower = Follower::new(Blocks(budget), settings);
        let mut history = Vec::new();
        let mut now = 0;
        for (gap, seen) in steps {
            now += gap;
            let before = follower.in_force();
            history.push((now, seen));
            let step = follower.next(&reading(now, seen));
            let found = follower.in_force();
            prop_assert_eq!(found.0, model(budget, &settings, &history), "{:?}", history);
            prop_assert!(found.0 <= budget);
            prop_assert!(found >= Blocks(floor.min(budget)));
            prop_assert!(step.set.is_none_or(|set| set == found));
            match seen {
                // Falls at once: never above what was just seen, the floor apart.
                Good(blocks) | Torn(blocks) => prop_assert!(found.0 <= blocks.max(floor)),
                Absent => prop_assert_eq!(found, before),
            }
            if found > before {
                prop_assert!(matches!(seen, Good(_)), "a bad reading never raises");
                prop_assert!(follower.last_good().is_some_and(|good| found <= good.max(Blocks(floor))));
            }
        }
        let (before, good) = (follower.in_force(), follower.last_good());
        follower.fall_back();
        let bound = good.map_or(budget, |good| good.0.max(floor).min(budget));
        prop_assert_eq!(follower.in_force(), before.min(Blocks(bound)));
    }
}
