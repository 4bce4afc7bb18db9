//! Buffers and records as a faulty CUPTI hands them back: late, twice, in disorder, as garbage.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
#[expect(unsafe_code, reason = "a host program calls the driver's C functions")]
mod sim;

use memvelope::config::Config;
use memvelope::event::{DropReason, Event, NameId, Names, ScopeId, Sink};
use memvelope::runtime::Session;
use memvelope::snapshot::Snapshot;
use memvelope::source::cupti::Recorder;
use memvelope::source::driver::Driver;
use sim::{PTX, cu, in_child};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn start(change: impl FnOnce(&mut Config)) -> Session {
    let mut config = Config::default();
    change(&mut config);
    let session = Session::start(&config).unwrap();
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    session
}

fn small(config: &mut Config) {
    (config.buffer_bytes, config.buffer_count) = (65_536, 2);
    config.drain_period_ms = 60_000;
}

fn launch(times: usize) {
    let (mut module, mut function) = (0, 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    let null = std::ptr::null_mut();
    for _ in 0..times {
        assert_eq!(cu::cuLaunchKernel(function, 2, 1, 1, 64, 1, 1, 0, 0, null, null), 0);
    }
    assert_eq!(cu::cuCtxSynchronize(), 0);
}

fn kernels(snapshot: &Snapshot) -> u64 {
    snapshot.timeline.kernels.iter().map(|kernel| kernel.totals.count).sum()
}

fn lost(snapshot: &Snapshot, reason: DropReason) -> u64 {
    let found = snapshot.dropped.iter().find(|(known, _)| *known == reason);
    found.map_or(0, |(_, count)| *count)
}

/// The arena is all there is, in every version: before 12.9 an answer without a buffer would crash
/// CUPTI (the simulated one aborts).
#[test]
fn complaint_06_host_buffers_are_bounded() {
    let test = "complaint_06_host_buffers_are_bounded";
    let cases = ["12.0", "12.8", "12.9", "13.0", "13.5"]
        .map(|cupti| (format!("cupti = \"{cupti}\"\n"), &[][..]));
    sim::in_children(test, &cases, || {
        let session = start(small);
        let arena = session.self_cost().recorder.arena_bytes;
        launch(4000);
        let cost = session.self_cost();
        assert_eq!(cost.recorder.arena_bytes, arena);
        let last = session.stop(SOON).unwrap();
        assert!(lost(&last, DropReason::ArenaExhausted) > 0, "{:?}", last.dropped);
        assert!(kernels(&last) > 0 && kernels(&last) < 4000);
    });
}

#[test]
fn complaint_13_a_buffer_that_comes_back_twice_is_read_once() {
    let test = "complaint_13_a_buffer_that_comes_back_twice_is_read_once";
    in_child(test, "[cupti_faults]\nduplicate_buffer_every = 1\n", || {
        let session = start(|config| config.buffer_bytes = 65_536);
        launch(2000);
        let last = session.stop(SOON).unwrap();
        assert_eq!((kernels(&last), last.dropped.len()), (2000, 0), "{:?}", last.dropped);
        assert!(session.self_cost().recorder.foreign_buffers > 0);
    });
}

#[test]
fn late_and_disordered_buffers_lose_nothing() {
    let faults = ["late_buffers = 2", "reorder_buffers = true"];
    let cases = faults.map(|fault| (format!("[cupti_faults]\n{fault}\n"), &[][..]));
    sim::in_children("late_and_disordered_buffers_lose_nothing", &cases, || {
        let session = start(|config| {
            config.buffer_bytes = 65_536;
            config.drain_period_ms = 5;
        });
        for _ in 0..20 {
            launch(100);
        }
        (0..4).for_each(|_| session.flush(SOON).unwrap());
        let last = session.stop(SOON).unwrap();
        assert_eq!((kernels(&last), last.dropped.len()), (2000, 0), "{:?}", last.dropped);
    });
}

/// Records without valid times are counted, and are in no total.
#[test]
fn complaint_05_records_without_times_are_counted() {
    let test = "complaint_05_records_without_times_are_counted";
    let cases = ["zero_timestamps_every = 10", "reversed_timestamps_every = 10"]
        .map(|fault| (format!("[cupti_faults]\n{fault}\n"), &[][..]));
    sim::in_children(test, &cases, || {
        let session = start(|_| ());
        launch(500);
        let last = session.stop(SOON).unwrap();
        let without = lost(&last, DropReason::BadTimestamp);
        assert_eq!((kernels(&last) + without, without), (500, 50), "{:?}", last.dropped);
    });
}

/// CUPTI's own device buffers are full for good: the program goes on, and the records without
/// times are counted.
#[test]
fn complaint_05_full_device_buffers_are_noticed() {
    let scenario = "[cupti]\ndevice_buffer_bytes = 3200000\ndevice_buffer_records = 10\n\
                    device_buffer_leak = true\n";
    in_child("complaint_05_full_device_buffers_are_noticed", scenario, || {
        let session = start(|_| ());
        launch(500);
        let last = session.stop(SOON).unwrap();
        // 16 buffers of 10 records: the limit that we set, and not CUPTI's 250.
        let found = (kernels(&last), lost(&last, DropReason::BadTimestamp));
        assert_eq!(found, (160, 340), "{:?}", last.dropped);
        assert_eq!(sim::books()["devices"][0]["cupti_bytes"], 16 * 3_200_000);
    });
}

/// The head of a recording may have times of another: it is told by them.
#[test]
fn complaint_09_records_from_before_the_recording_are_not_its_own() {
    let test = "complaint_09_records_from_before_the_recording_are_not_its_own";
    // A thousandth of a second apart is what clocks differ by: past that, they are another's.
    in_child(test, "[cupti_faults]\nolder_than_attach = 3000\n", || {
        let session = start(|config| config.buffer_bytes = 65_536);
        launch(4000);
        let last = session.stop(SOON).unwrap();
        let before = lost(&last, DropReason::BeforeAttach);
        assert!((1000..=3000).contains(&before), "{:?}", last.dropped);
        assert_eq!(kernels(&last) + before, 4000);
    });
}

/// Whatever stands in a buffer: the host's calls succeed, decoding ends, and what could not be read
/// is counted.
#[test]
fn garbage_in_buffers_harms_nobody() {
    let faults = [
        "garbage_every = 2",
        "truncate_every = 2",
        "null_names_every = 3",
        "bad_names_every = 3",
        "garbage_every = 3\ntruncate_every = 2\nbad_names_every = 2\nduplicate_buffer_every = 2",
    ];
    let cases: Vec<(String, &[(&str, &str)])> = faults
        .iter()
        .flat_map(|fault| {
            [1, 7].map(|seed| (format!("seed = {seed}\n[cupti_faults]\n{fault}\n"), &[][..]))
        })
        .collect();
    sim::in_children("garbage_in_buffers_harms_nobody", &cases, || {
        let session = start(|config| config.buffer_bytes = 65_536);
        launch(3000);
        let last = session.stop(SOON).unwrap();
        let counters = session.self_cost().recorder;
        assert!(kernels(&last) > 0 && kernels(&last) <= 3000);
        assert_eq!((counters.caught_panics, last.findings.underflows), (0, 0));
        // CUPTI calls a record that is cut off by the end of its buffer the end of the buffer.
        let cut = sim::books()["cupti_faults"]["truncate_every"].as_u64().unwrap_or(0);
        if kernels(&last) + cut < 3000 {
            let losses = counters.bad_records + counters.bad_timestamps + counters.unknown_kinds;
            assert!(losses + counters.before_attach > 0, "{counters:?}");
        }
    });
}

/// Hears nothing.
#[derive(Debug)]
struct Deaf;

impl Sink for Deaf {
    fn accept(&self, _event: &Event) {}
}

/// Single calls can be chosen for recording from 12.5 on; before that, work is not tied to scopes,
/// and that is said.
#[test]
fn scopes_need_a_cupti_that_can_choose_calls() {
    let cases: [(String, &[(&str, &str)]); 3] = [
        ("cupti = \"12.4\"\n".into(), &[("EXPECT_TIED", "false")]),
        ("cupti = \"12.5\"\n".into(), &[("EXPECT_TIED", "true")]),
        ("cupti = \"13.5\"\n".into(), &[("EXPECT_TIED", "true")]),
    ];
    sim::in_children("scopes_need_a_cupti_that_can_choose_calls", &cases, || {
        let expect: bool = std::env::var("EXPECT_TIED").unwrap().parse().unwrap();
        let driver = Driver::load(&Config::default()).0.unwrap();
        driver.init().unwrap();
        let names: &'static Names = Box::leak(Box::new(Names::new(16, 64)));
        let recorder = Recorder::start(&Config::default(), driver, &Deaf, names).0.unwrap();
        let quirks = recorder.coverage().quirks;
        assert_eq!(quirks.iter().any(|quirk| quirk.name == "no_api_filters"), !expect);
        assert_eq!(recorder.coverage().missing, Vec::<String>::new(), "nobody asked yet");
        let scope = ScopeId::new(NameId(1), 1);
        assert_eq!(recorder.enter_scope(scope), expect);
        recorder.leave_scope(scope);
        let missing = recorder.coverage().missing;
        assert_eq!(missing.iter().any(|text| text.contains("not tied to scopes")), !expect);
        recorder.stop().unwrap();
    });
}
