//! What CUPTI may do wrong, each on the simulated driver: the program's own calls go on as before,
//! and what was lost is counted.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::event::DropReason;
use memvelope::runtime::{Mode, SelfCost, Session};
use memvelope::snapshot::Snapshot;
use sim::{PTX, cu, in_child_with};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// Buffers of this size hold 303 kernel records of CUPTI 13.0.
const SMALL_BUFFERS: (&str, &str) = ("MEMVELOPE_BUFFER_BYTES", "65536");

/// What a run left behind.
struct Left {
    seen: Snapshot,
    cost: SelfCost,
    books: serde_json::Value,
}

impl Left {
    fn kernels(&self) -> u64 {
        self.seen.timeline.kernels.iter().map(|kernel| kernel.totals.count).sum()
    }

    fn lost(&self, reason: DropReason) -> u64 {
        let found = self.seen.dropped.iter().find(|(known, _)| *known == reason);
        found.map_or(0, |(_, count)| *count)
    }

    /// What the simulator says came true of a fault.
    fn fired(&self, fault: &str) -> u64 {
        self.books["cupti_faults"][fault].as_u64().unwrap_or_else(|| panic!("{}", self.books))
    }
}

/// A host program: allocates, launches `kernels` times, copies, frees, and insists that every call
/// of its own succeeds. The recording is flushed and stopped in between and after it.
fn host(kernels: usize) -> Left {
    let (config, problems) = Config::from_env();
    assert!(problems.is_empty(), "{problems:?}");
    let session = Session::start(&config).unwrap();
    assert!(matches!(session.mode(), Mode::Cupti(_)), "{:?}", session.mode());
    let (mut context, mut module, mut function, mut address) = (0, 0, 0, 0);
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    assert_eq!(cu::cuMemAlloc_v2(&mut address, 1 << 20), 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    let null = std::ptr::null_mut();
    for _ in 0..kernels {
        assert_eq!(cu::cuLaunchKernel(function, 2, 1, 1, 64, 1, 1, 0, 0, null, null), 0);
    }
    let mut bytes = [7_u8; 64];
    assert_eq!(cu::cuMemcpyHtoD_v2(address, bytes.as_ptr(), bytes.len()), 0);
    assert_eq!(cu::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr(), address, bytes.len(), 0), 0);
    assert_eq!(cu::cuCtxSynchronize(), 0);
    assert_eq!(cu::cuMemFree_v2(address), 0);
    session.flush(SOON).unwrap();
    let seen = session.stop(SOON).unwrap();
    // Still usable, and the next call of the host is none of the recorder's business.
    assert_eq!(cu::cuMemAlloc_v2(&mut address, 1 << 20), 0);
    assert_eq!(cu::cuMemFree_v2(address), 0);
    let left = Left { seen, cost: session.self_cost(), books: sim::books() };
    assert_eq!(left.cost.recorder.caught_panics, 0);
    assert_eq!(left.seen.findings.underflows, 0);
    let vram = &left.seen.devices[0].totals.vram;
    assert_eq!((vram.live_bytes.0, vram.peak_bytes.0), (0, 1 << 20), "callbacks are exact");
    left
}

/// Runs `case` in a child under `faults`, with these variables.
fn check(test: &str, faults: &str, env: &[(&str, &str)], case: fn()) {
    let env: Vec<_> = env.iter().map(|(key, value)| (*key, Path::new(*value))).collect();
    in_child_with(test, &format!("[cupti_faults]\n{faults}\n"), &env, case);
}

#[test]
fn garbage_in_buffers_is_counted_and_followed_nowhere() {
    let test = "garbage_in_buffers_is_counted_and_followed_nowhere";
    check(test, "garbage_every = 2", &[SMALL_BUFFERS], || {
        let left = host(3000);
        let cost = &left.cost.recorder;
        assert!(left.fired("garbage_every") > 3, "{}", left.books["cupti_faults"]);
        assert!(cost.bad_records + cost.unknown_kinds >= left.fired("garbage_every"), "{cost:?}");
        assert!((1000..3000).contains(&left.kernels()), "{}", left.kernels());
    });
}

#[test]
fn a_buffer_that_ends_within_a_record_loses_that_record_alone() {
    let test = "a_buffer_that_ends_within_a_record_loses_that_record_alone";
    check(test, "truncate_every = 3", &[SMALL_BUFFERS], || {
        let left = host(3000);
        let fired = left.fired("truncate_every");
        assert!(fired > 2, "{}", left.books["cupti_faults"]);
        assert!(left.kernels() >= 3000 - fired && left.kernels() < 3000, "{}", left.kernels());
    });
}

#[test]
fn zero_timestamps_are_counted_and_enter_no_sum() {
    let test = "zero_timestamps_are_counted_and_enter_no_sum";
    check(test, "zero_timestamps_every = 10", &[], || {
        let left = host(1000);
        let lost = left.lost(DropReason::BadTimestamp);
        assert!(lost >= 99 && lost == left.fired("zero_timestamps_every"), "{lost}");
        let copies: u64 = left.seen.timeline.copies.iter().map(|c| c.totals.count).sum();
        assert_eq!(left.kernels() + copies + lost, 1002);
        assert!(left.seen.timeline.kernels[0].totals.min_ns.0 > 0);
    });
}

#[test]
fn reversed_timestamps_are_counted_and_enter_no_sum() {
    let test = "reversed_timestamps_are_counted_and_enter_no_sum";
    check(test, "reversed_timestamps_every = 7", &[], || {
        let left = host(700);
        let lost = left.lost(DropReason::BadTimestamp);
        assert_eq!(lost, left.fired("reversed_timestamps_every"));
        assert!(lost >= 100, "{lost}");
        let busy = &left.seen.timeline.busy[0];
        assert!(busy.busy_ns <= busy.span_ns, "{busy:?}");
    });
}

#[test]
fn records_from_before_the_recording_are_set_apart() {
    let test = "records_from_before_the_recording_are_set_apart";
    check(test, "older_than_attach = 50", &[], || {
        let left = host(200);
        assert_eq!(left.lost(DropReason::BeforeAttach), 50);
        assert_eq!(left.kernels(), 150);
    });
}

#[test]
fn kernels_without_a_name_or_with_a_broken_one_are_counted_all_the_same() {
    let test = "kernels_without_a_name_or_with_a_broken_one_are_counted_all_the_same";
    check(test, "null_names_every = 4\nbad_names_every = 5", &[], || {
        let left = host(100);
        assert_eq!(left.kernels(), 100);
        let rows: Vec<_> =
            left.seen.timeline.kernels.iter().map(|k| (k.name.clone(), k.totals.count)).collect();
        assert!(rows.contains(&("(unnamed)".into(), 25)), "{rows:?}");
        assert!(rows.iter().any(|(name, _)| name.contains('\u{FFFD}')), "{rows:?}");
    });
}

#[test]
fn a_million_names_stay_within_the_limit() {
    let test = "a_million_names_stay_within_the_limit";
    check(test, "distinct_names = true", &[], || {
        // Enough of them in the simulated CUPTI's own time; the table is full long before.
        const KERNELS: usize = 1_000_000;
        let before = resident_kib();
        let left = host(KERNELS);
        let grown = resident_kib().saturating_sub(before) / 1024;
        assert!(left.seen.timeline.kernels.len() as u64 <= Config::default().names_max + 1);
        let lost = left.lost(DropReason::ArenaExhausted) > 0;
        assert!(left.kernels() == KERNELS as u64 || lost, "{} of them", left.kernels());
        let others = left.seen.timeline.kernels.iter().find(|row| row.name == "(other names)");
        let others = others.map_or(0, |row| row.totals.count);
        assert_eq!(left.lost(DropReason::NamesFull), others);
        assert!(others > 900_000 || lost, "{others}");
        let own = left.cost.host_bytes >> 20;
        assert!(own < 96, "{own} MiB by our own count");
        // The simulator keeps the names that it gave out, and its share is not ours.
        println!("resident: {grown} MiB more, simulator included; {own} MiB by our own count");
    });
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn late_and_reordered_buffers_are_all_counted() {
    let test = "late_and_reordered_buffers_are_all_counted";
    check(test, "late_buffers = 2\nreorder_buffers = true", &[SMALL_BUFFERS], || {
        let left = host(2000);
        let lost = left.lost(DropReason::ArenaExhausted);
        assert!(left.kernels() == 2000 || lost > 0, "{} and {lost} lost", left.kernels());
        assert_eq!(left.cost.recorder.foreign_buffers, 0);
        let busy = &left.seen.timeline.busy[0];
        assert!(busy.busy_ns <= busy.span_ns && busy.late_ns.0 == 0, "{busy:?}");
    });
}

#[test]
fn a_buffer_handed_back_twice_is_decoded_once() {
    let test = "a_buffer_handed_back_twice_is_decoded_once";
    check(test, "duplicate_buffer_every = 2", &[SMALL_BUFFERS], || {
        let left = host(2000);
        assert_eq!(left.kernels(), 2000);
        let fired = left.fired("duplicate_buffer_every");
        assert!(fired > 2 && left.cost.recorder.foreign_buffers == fired, "{fired}");
    });
}

#[test]
fn buffers_may_come_back_after_the_end() {
    let test = "buffers_may_come_back_after_the_end";
    check(test, "complete_after_stop = true", &[SMALL_BUFFERS], || {
        let left = host(2000);
        // Those that came in time for the last look are counted, none is taken for another's.
        assert!(left.kernels() > 0 && left.kernels() <= 2000, "{}", left.kernels());
        assert_eq!(left.cost.recorder.foreign_buffers, 0);
        // A second recording begins with what is its own.
        let again = host(10);
        assert!(again.kernels() <= 10, "{}", again.kernels());
    });
}

#[test]
fn what_cupti_says_it_dropped_is_said_again() {
    check("what_cupti_says_it_dropped_is_said_again", "drop_records = 40", &[], || {
        let left = host(200);
        assert_eq!(left.lost(DropReason::CuptiDropped), 40);
        assert!(left.kernels() + 40 >= 200, "{}", left.kernels());
    });
}

#[test]
fn an_arena_that_is_too_small_loses_records_and_nothing_else() {
    let test = "an_arena_that_is_too_small_loses_records_and_nothing_else";
    let env =
        [SMALL_BUFFERS, ("MEMVELOPE_BUFFER_COUNT", "2"), ("MEMVELOPE_DRAIN_PERIOD_MS", "60000")];
    check(test, "", &env, || {
        let left = host(5000);
        assert!(left.lost(DropReason::ArenaExhausted) > 0);
        let lost = left.lost(DropReason::CuptiDropped);
        let others: u64 = left.seen.timeline.copies.iter().map(|c| c.totals.count).sum();
        assert!(left.kernels() < 5000, "{}", left.kernels());
        // CUPTI tells how many found no buffer; not all of them were kernels.
        assert!(left.kernels() + others + lost >= 5000, "{} + {lost}", left.kernels());
    });
}

#[test]
fn a_flush_that_hangs_ends_with_its_timeout() {
    check("a_flush_that_hangs_ends_with_its_timeout", "flush_hangs_ms = 700", &[], || {
        let session = Session::start(&Config::from_env().0).unwrap();
        let begin = std::time::Instant::now();
        let short = Duration::from_millis(50);
        assert!(session.flush(short).is_err());
        assert!(begin.elapsed() < Duration::from_millis(600), "{:?}", begin.elapsed());
        let _ = session.stop(short);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    });
}

#[test]
fn complaint_15_what_recording_costs_does_not_grow_with_time() {
    let test = "complaint_15_what_recording_costs_does_not_grow_with_time";
    check(test, "", &[], || {
        let session = Session::start(&Config::from_env().0).unwrap();
        let (mut context, mut module, mut function) = (0, 0, 0);
        assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
        assert_eq!(cu::cuCtxSetCurrent(context), 0);
        assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
        assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
        let null = std::ptr::null_mut();
        let round = || {
            for _ in 0..20_000 {
                assert_eq!(cu::cuLaunchKernel(function, 2, 1, 1, 64, 1, 1, 0, 0, null, null), 0);
            }
            assert_eq!(cu::cuCtxSynchronize(), 0);
            session.flush(SOON).unwrap();
            let cost = session.self_cost();
            (cost.host_bytes, cost.recorder.records, cost.recorder.decode_ns)
        };
        let costs: Vec<_> = (0..24).map(|_| round()).collect();
        // The trace is full after ten rounds; from then on nothing grows but a list that finds its
        // size: less than a byte an event.
        let full = Config::default().trace_events_max as usize / 20_000 + 2;
        let grown = costs[costs.len() - 1].0 - costs[full].0;
        assert!(grown < 200_000, "{grown} bytes: {costs:?}");
        // A record of the last rounds costs what one of the first did. The fastest of each, because
        // the machine is not ours alone; thrice, because the trace's thinning is among it.
        let per_record = |rounds: &[(u64, u64, u64)]| {
            let steps = rounds.windows(2).map(|w| (w[1].2 - w[0].2) / (w[1].1 - w[0].1).max(1));
            steps.min().unwrap()
        };
        let (first, last) = (per_record(&costs[..8]), per_record(&costs[16..]));
        assert!(last <= 3 * first.max(50), "{first} ns a record at first, {last} at last");
        assert_eq!(session.stop(SOON).unwrap().timeline.kernels[0].totals.count, 24 * 20_000);
    });
}
