//! Cases by hand, in MiB.

use super::*;

/// A device of 1000 MiB of which `used` are used, everything asked and nothing found.
fn device(used: u64) -> Input {
    let mut input = Input::default();
    input.epoch.time = Nanos(100);
    input.epoch.total_bytes = Bytes(1000 * MIB);
    input.epoch.free_bytes = Bytes((1000 - used) * MIB);
    input.plane.opening_own_bytes = Some(Bytes::ZERO);
    input.plane.others_bytes = Some(Bytes::ZERO);
    input
}

fn mib(bytes: u64) -> Bytes {
    Bytes(bytes * MIB)
}

/// Lines in MiB (those that are zero or not named are not looked at), the error bar of
/// `unaccounted` in MiB, and the findings.
fn check(
    name: &str,
    input: &Input,
    lines: &[(TermName, Option<i64>)],
    error: u64,
    findings: &[FindingKind],
) {
    let balance = input.reconcile();
    for (term, expected) in lines {
        let expected = expected.map(|mib| mib * MIB as i64);
        assert_eq!(bytes_of(&balance, *term), expected, "{name}: {term:?} {balance:#?}");
    }
    let line = balance.line(TermName::Unaccounted).unwrap();
    assert_eq!(line.error_bytes, mib(error), "{name}: {balance:#?}");
    assert_eq!(kinds(&balance), findings, "{name}: {balance:#?}");
}

use FindingKind as F;
use TermName as T;

#[test]
fn the_rest_and_its_thresholds() {
    let with = |used: u64, held: u64, change: fn(&mut Input)| {
        let mut input = device(used);
        input.epoch.totals.by_tag[Tag::Weights as usize].live_bytes = mib(held);
        input.epoch.totals.vram.peak_bytes = mib(held);
        change(&mut input);
        input
    };
    let none: fn(&mut Input) = |_| {};
    let rest = |mib| [(T::Unaccounted, Some(mib))];
    check("closed", &with(500, 500, none), &rest(0), 0, &[]);
    check("a hundredth", &with(500, 495, none), &rest(5), 0, &[]);
    check("more", &with(500, 494, none), &rest(6), 0, &[F::Unexplained]);
    check("twice", &with(500, 501, none), &rest(-1), 0, &[F::CountedTwice]);
    check("a device of others", &device(500), &rest(500), 0, &[]);
    let advice = |change| {
        let balance = with(500, 400, change).reconcile();
        balance.findings.first().map(|found| found.action.clone()).unwrap()
    };
    assert!(advice(none).contains("what is absent"), "the context is: {}", advice(none));
    let measured: fn(&mut Input) = |i| i.epoch.totals.growth[0].count = 1;
    assert!(advice(measured).contains("what the driver keeps"), "{}", advice(measured));
    let exported: fn(&mut Input) = |input| input.epoch.totals.passed_on_bytes = mib(7);
    check("passed on", &with(500, 494, exported), &rest(6), 6, &[]);
    check("passed on, less", &with(500, 480, exported), &rest(20), 7, &[F::Unexplained]);
    check("passed on, twice", &with(500, 501, exported), &rest(-1), 0, &[F::CountedTwice]);
    let rounding = |input: &mut Input| input.epoch.totals.rounding.error_bytes = mib(4);
    check("within bars", &with(500, 491, rounding), &rest(9), 4, &[]);
    check("beyond bars", &with(500, 490, rounding), &rest(10), 4, &[F::Unexplained]);
    check("twice within", &with(500, 504, rounding), &rest(-4), 4, &[]);
    check("twice beyond", &with(500, 505, rounding), &rest(-5), 4, &[F::CountedTwice]);
    let managed = |input: &mut Input| {
        input.epoch.totals.by_kind[AllocKind::Managed as usize].live_bytes = mib(30);
    };
    check("managed here", &with(500, 470, managed), &rest(30), 30, &[]);
    check("managed elsewhere", &with(500, 500, managed), &rest(0), 30, &[]);
    let exported = |input: &mut Input| input.epoch.totals.exported_bytes = mib(8);
    check("exported", &with(492, 500, exported), &rest(-8), 8, &[]);
    let torn = |input: &mut Input| {
        (input.epoch.is_torn, input.epoch.moved_bytes) = (true, mib(16));
    };
    check("torn", &with(500, 516, torn), &rest(-16), 16, &[F::Torn]);
    check("torn, further than was seen", &with(500, 533, torn), &rest(-33), 16, &[F::Torn]);
    check("torn, the other way", &with(500, 450, torn), &rest(50), 16, &[F::Torn]);
    let refused = |input: &mut Input| {
        (input.findings.refused, input.findings.refused_bytes) = (2, mib(20));
    };
    check("refused", &with(500, 480, refused), &rest(20), 20, &[F::Unseen]);
    let untold = |input: &mut Input| input.plane.others_untold = 2;
    check("untold others", &with(500, 300, untold), &rest(200), 200, &[]);
    // NVML's list is older than free memory: what they moved by may be in it or not.
    let moved = |input: &mut Input| {
        input.plane.others_bytes = Some(mib(100));
        input.plane.others_moved_bytes = Some(mib(40));
    };
    check("others that move", &with(500, 440, moved), &rest(-40), 40, &[]);
    check("by less than this", &with(500, 441, moved), &rest(-41), 40, &[F::CountedTwice]);
    let unknown = |input: &mut Input| input.plane.others_bytes = Some(mib(100));
    check("nobody has looked twice", &with(500, 400, unknown), &rest(0), 0, &[]);
    let line = with(500, 400, unknown).reconcile().line(T::OtherProcesses).cloned().unwrap();
    assert!(line.note.contains("not known yet"), "{}", line.note);
}

#[test]
fn context_and_recorder() {
    let with = |context: Option<i64>, recorder: Option<u64>, used| {
        let mut input = device(used);
        if let Some(context) = context {
            let growth = &mut input.epoch.totals.growth;
            growth[0] = GrowthTotals { bytes: context * MIB as i64, count: 1, ..growth[0] };
        }
        input.plane.recorder_bytes = recorder.map(mib);
        input.plane.recorder_bytes_max = recorder.map(|_| mib(800));
        input
    };
    let lines = |context, recorder, rest| {
        [(T::Context, context), (T::Recorder, recorder), (T::Unaccounted, Some(rest))]
    };
    let (plain, inside) = (with(Some(300), None, 300), with(Some(310), Some(10), 310));
    check("no recorder", &plain, &lines(Some(300), None, 0), 0, &[]);
    check("inside", &inside, &lines(Some(300), Some(10), 0), 0, &[]);
    // The attribute claims more than the context took: no line goes below zero for it.
    let capped = with(Some(4), Some(10), 4);
    check("capped", &capped, &lines(Some(0), Some(4), 0), 0, &[]);
    // Nobody measured the context: what the attribute claims may not be there at all.
    let alone = with(None, Some(10), 10);
    check("alone", &alone, &lines(None, Some(10), 0), 10, &[]);
    let mut late = with(None, None, 250);
    late.plane.opening_own_bytes = Some(mib(250));
    check("late", &late, &lines(None, None, 0), 0, &[]);
    assert!(late.reconcile().line(T::Unaccounted).unwrap().note.contains("opening balance"));
    let mut modules = with(Some(300), Some(10), 330);
    modules.epoch.totals.growth[1] =
        GrowthTotals { bytes: 25 * MIB as i64, error_bytes: mib(2), count: 3 };
    modules.epoch.totals.growth[3] =
        GrowthTotals { bytes: 5 * MIB as i64, count: 1, ..Default::default() };
    check("modules", &modules, &lines(Some(320), Some(10), 0), 2, &[]);
    let context = modules.reconcile().line(T::Context).unwrap().clone();
    let parts: Vec<_> = context.parts.iter().map(|part| part.bytes / MIB as i64).collect();
    assert_eq!((parts, context.error_bytes), (vec![290, 25, 5], mib(2)));
}

fn torch(seen: bool) -> Input {
    let mut input = device(100);
    let mut framework = Framework {
        requested_bytes: mib(60),
        allocated_bytes: mib(64),
        active_bytes: mib(70),
        reserved_bytes: mib(100),
        releasable_bytes: mib(20),
        segments: vec![Segment { bytes: mib(100), ..Segment::default() }],
        ..Framework::default()
    };
    framework.by_tag[Tag::KvCache as usize] = mib(40);
    input.epoch.framework = Some(framework);
    let mut matched = Matched::default();
    if seen {
        matched.by_tag[0] = mib(100);
        matched.count = 1;
        input.epoch.totals.by_tag[0].live_bytes = mib(100);
    }
    input.epoch.matched = vec![matched];
    input
}

#[test]
fn framework_and_driver() {
    let lines = |opening: Option<i64>, rest| {
        [
            (T::KvCache, Some(40)),
            (T::Libraries, Some(20)),
            (T::Rounding, Some(4)),
            (T::AwaitingStream, Some(6)),
            (T::Cached, Some(30)),
            (T::OpeningBalance, opening),
            (T::Unaccounted, Some(rest)),
        ]
    };
    check("seen", &torch(true), &lines(Some(0), 0), 0, &[]);
    let mut late = torch(false);
    late.plane.opening_own_bytes = Some(mib(100));
    check("late", &late, &lines(Some(0), 0), 0, &[]);
    late.plane.opening_own_bytes = Some(mib(130));
    late.epoch.free_bytes = mib(1000 - 130);
    check("late, and more", &late, &lines(Some(30), 0), 0, &[]);
    // Nobody saw the segment, and nothing was there before.
    check("disagree", &torch(false), &lines(Some(0), 0), 0, &[F::PlanesDisagree]);
    // A segment from a pool is in the pool's reserve: the framework counts it, what else the pool
    // holds stays the pool's.
    let mut pooled = torch(true);
    pooled.epoch.totals.by_tag[0].live_bytes = Bytes::ZERO;
    pooled.epoch.matched[0] = Matched { count: 1, ..Matched::default() };
    pooled.epoch.matched[0].pooled_by_tag[0] = mib(100);
    let mut pool = PoolTotals { reserved_bytes: Some(mib(132)), ..PoolTotals::default() };
    (pool.by_tag[0], pool.live_count) = (mib(107), 2);
    pooled.epoch.totals.pools = vec![pool];
    pooled.epoch.free_bytes = mib(1000 - 132);
    let mut expected = lines(Some(0), 0);
    (expected[1].1, expected[4].1) = (Some(27), Some(55));
    check("from a pool", &pooled, &expected, 0, &[]);
    // One in managed memory may be anywhere.
    let mut managed = torch(true);
    managed.epoch.totals.by_tag[0].live_bytes = Bytes::ZERO;
    managed.epoch.matched[0] = Matched { count: 1, ..Matched::default() };
    managed.epoch.free_bytes = mib(1000);
    check("managed segment", &managed, &lines(Some(0), -100), 100, &[]);
    // Counted by torch, and by the driver plane beside it.
    let mut twice = torch(true);
    twice.epoch.matched[0] = Matched::default();
    let findings = [F::CountedTwice, F::PlanesDisagree];
    let mut expected = lines(Some(0), -100);
    expected[1].1 = Some(120);
    check("twice", &twice, &expected, 0, &findings);
    // The ledger has less than the segments cover.
    let mut less = torch(true);
    less.epoch.totals.by_tag[0].live_bytes = mib(90);
    check("overdrawn", &less, &lines(Some(0), 0), 0, &[F::PlanesDisagree]);
    // A segment for which the driver handed out more.
    let mut more = torch(true);
    more.epoch.matched[0].by_tag[0] = mib(102);
    more.epoch.totals.by_tag[0].live_bytes = mib(102);
    more.epoch.free_bytes = mib(1000 - 102);
    let mut expected = lines(Some(0), 0);
    expected[2].1 = Some(6);
    check("segment rounded up", &more, &expected, 0, &[]);
}

#[test]
fn absence_is_not_zero() {
    let mut polling = device(700);
    polling.allocations_unseen = true;
    polling.plane.opening_own_bytes = None;
    polling.plane.opening_bytes = Some(mib(200));
    polling.plane.others_bytes = None;
    let absent = [T::Weights, T::Libraries, T::Rounding, T::Context, T::OtherProcesses, T::Cached];
    let mut lines: Vec<_> = absent.map(|term| (term, None)).to_vec();
    lines.push((T::OpeningBalance, Some(200)));
    lines.push((T::Unaccounted, Some(500)));
    check("polling", &polling, &lines, 0, &[F::Unseen]);
    let note = &polling.reconcile().line(T::Unaccounted).unwrap().note.clone();
    assert!(note.contains("other processes") && note.contains("single allocations"), "{note}");

    polling.epoch.framework = torch(true).epoch.framework;
    lines.retain(|(term, _)| ![T::Weights, T::Libraries, T::Rounding, T::Cached].contains(term));
    lines[2].1 = Some(100);
    lines.extend([(T::Weights, Some(0)), (T::Libraries, Some(20)), (T::Cached, Some(30))]);
    // Whether torch's bytes were there before, nobody saw: they may be 100 MiB of the rest.
    check("polling with torch", &polling, &lines, 100, &[F::Unseen]);

    let mut no_total = device(10);
    no_total.epoch.total_bytes = Bytes::ZERO;
    let balance = no_total.reconcile();
    assert!(balance.lines.is_empty() && kinds(&balance) == [F::Unseen]);

    // Others were in the device-wide opening balance, and have a line of their own now.
    let mut wide = device(300);
    wide.plane.opening_own_bytes = None;
    (wide.plane.opening_bytes, wide.plane.others_bytes) = (Some(mib(300)), Some(mib(120)));
    let lines = [(T::OpeningBalance, Some(180)), (T::OtherProcesses, Some(120))];
    check("device-wide opening", &wide, &lines, 0, &[]);

    // Others who were there at first, and whom nobody told apart, may have gone since.
    for (used, others_moved, findings) in
        [(250, None, &[][..]), (0, None, &[]), (250, Some(Bytes::ZERO), &[F::CountedTwice])]
    {
        let mut gone = device(used);
        gone.plane.opening_own_bytes = None;
        (gone.plane.opening_bytes, gone.plane.others_bytes) = (Some(mib(300)), None);
        gone.plane.others_moved_bytes = others_moved;
        let lines = [(T::OpeningBalance, Some(300)), (T::Unaccounted, Some(used as i64 - 300))];
        check("others gone", &gone, &lines, 0, findings);
    }
    let mut more = device(300);
    more.plane.opening_own_bytes = None;
    (more.plane.opening_bytes, more.plane.others_bytes) = (Some(mib(100)), None);
    more.epoch.totals.by_tag[Tag::Weights as usize].live_bytes = mib(301);
    check("more than others had", &more, &[(T::Unaccounted, Some(-101))], 0, &[F::CountedTwice]);

    let mut many = torch(true);
    many.epoch.framework.as_mut().unwrap().segments.clear();
    let lines = [(T::Libraries, Some(100)), (T::Cached, None), (T::Unaccounted, Some(0))];
    check("too many segments", &many, &lines, 0, &[F::Unseen]);
}

#[test]
fn pools_and_graphs() {
    let mut input = device(90);
    let totals = &mut input.epoch.totals;
    let mut by_tag = [Bytes::ZERO; Tag::COUNT];
    (by_tag[0], by_tag[Tag::Weights as usize]) = (mib(5), mib(10));
    totals.pools = vec![
        PoolTotals {
            reserved_bytes: Some(mib(40)),
            used_bytes: Some(mib(16)),
            by_tag,
            ..PoolTotals::default()
        },
        // Nobody asked: what it handed out is there.
        PoolTotals { by_tag, ..PoolTotals::default() },
    ];
    (totals.graph_reserved_bytes, totals.graph_used_bytes) = (Some(mib(35)), Some(mib(20)));
    let lines = [
        (T::Weights, Some(20)),
        (T::Libraries, Some(10)),
        (T::Rounding, Some(1)),
        (T::Graphs, Some(20)),
        (T::Cached, Some(24 + 15)),
        (T::Unaccounted, Some(0)),
    ];
    check("pools", &input, &lines, 0, &[F::Unseen]);
    // A ledger that knows the sum alone.
    let totals = &mut input.epoch.totals;
    totals.pools.clear();
    totals.pool_reserved_bytes = mib(55);
    totals.by_kind[AllocKind::PoolUsed as usize].live_bytes = mib(30);
    let lines = [(T::Libraries, Some(30)), (T::Cached, Some(25 + 15)), (T::Unaccounted, Some(0))];
    check("pools as a sum", &input, &lines, 0, &[]);
}

#[test]
fn growth_needs_three_readings_in_a_row() {
    let check_growth = |earlier: &[(u64, i64)], error: u64, expected: Option<i64>| {
        let mut input = device(500);
        input.epoch.totals.by_tag[1].live_bytes = mib(496);
        input.epoch.totals.rounding.error_bytes = mib(error);
        let points = earlier.iter();
        input.earlier = points.map(|(time, mib)| (Nanos(*time), mib * MIB as i64)).collect();
        let balance = input.reconcile();
        let found = balance.findings.iter().find(|found| found.kind == F::UnexplainedGrows);
        assert_eq!(found.map(|found| found.bytes / MIB as i64), expected, "{earlier:?}");
    };
    // 4 MiB are unaccounted for now, at 100.
    let rising = [(10, -8), (20, -4), (30, 0)];
    check_growth(&rising, 0, Some(12));
    check_growth(&rising, 11, Some(12));
    check_growth(&rising, 12, None);
    check_growth(&rising[1..], 0, None);
    check_growth(&[(10, -8), (20, -4), (30, -4)], 0, None);
    check_growth(&[(10, -8), (20, 0), (30, -2)], 0, None);
    check_growth(&[(5, 40), (10, -8), (20, -4), (30, 0)], 0, Some(12));
    // Out of order, or not earlier: no evidence.
    check_growth(&[(30, -8), (20, -4), (10, 0)], 0, None);
    check_growth(&[(100, -8), (110, -4), (120, 0)], 0, None);
    check_growth(&[], 0, None);
}

#[test]
fn what_the_ledger_noticed() {
    let with = |change: fn(&mut Input)| {
        let mut input = device(0);
        change(&mut input);
        input
    };
    check("frees", &with(|i| i.findings.untracked_frees = 1), &[], 0, &[F::UntrackedFrees]);
    check("replaced", &with(|i| i.findings.replaced = 3), &[], 0, &[F::Unseen]);
    let records = |recorded, called| {
        let mut input = device(0);
        input.findings.recorded_allocations = recorded;
        input.called_allocations = called;
        input
    };
    check("records", &records(5, Some(4)), &[], 0, &[F::RecordsDisagree]);
    check("records late", &records(4, Some(5)), &[], 0, &[]);
    check("records alone", &records(4, None), &[], 0, &[]);
    // Frees of unknown size: the whole opening balance may be gone.
    let mut late = device(30);
    late.plane.opening_own_bytes = Some(mib(50));
    late.findings.untracked_frees = 2;
    let lines = [(T::OpeningBalance, Some(50)), (T::Unaccounted, Some(-20))];
    check("freed since", &late, &lines, 50, &[F::UntrackedFrees]);
    let fragmented = |share| {
        let mut input = device(0);
        input.fragmentation =
            Some(Fragmentation { demand_weighted: Some(share), ..Fragmentation::default() });
        input
    };
    check("fragmented", &fragmented(0.01), &[], 0, &[F::Fragmented]);
    check("hardly", &fragmented(0.009), &[], 0, &[]);
    let text = &with(|i| (i.findings.refused, i.findings.unasked_pools) = (2, 2)).reconcile();
    let text = &text.findings[0].text;
    assert!(text.starts_with("2 allocations that could") && text.contains("2 memory pools of"));
}
