//! The recorder's life on the simulated driver: others who want CUPTI, what hangs, what is put
//! back, and late attaching.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions, and forks")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::{Clock, Config};
use memvelope::event::DeviceIndex;
use memvelope::runtime::{Mode, Session};
use memvelope::snapshot::Snapshot;
use memvelope::source::cupti::State;
use memvelope::units::Bytes;
use sim::{PTX, cu, in_child};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

fn enter_context() {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
}

fn config() -> Config {
    let mut config = Config::default();
    config.poll_period_ms = 100;
    config
}

fn start() -> Session {
    Session::start(&config()).unwrap()
}

fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    assert_eq!(cu::cuMemAlloc_v2(&mut address, bytes), 0);
    address
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

fn vram(snapshot: &Snapshot) -> u64 {
    snapshot.device(DeviceIndex(0)).unwrap().totals.vram.live_bytes.0
}

fn kernels(snapshot: &Snapshot) -> u64 {
    snapshot.timeline.kernels.iter().map(|kernel| kernel.totals.count).sum()
}

/// Waits for a state, calling the driver meanwhile as a program does.
fn wait_for(session: &Session, state: State) {
    let deadline = Instant::now() + SOON;
    while session.state() != state {
        assert!(Instant::now() < deadline, "{:?} {:?}", session.state(), session.mode());
        assert_eq!(cu::cuCtxSynchronize(), 0);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn says(snapshot: &Snapshot, words: &str) -> bool {
    snapshot.unseen.iter().any(|text| text.contains(words))
}

#[test]
fn a_session_goes_through_its_states() {
    in_child("a_session_goes_through_its_states", "", || {
        for _ in 0..2 {
            let session = start();
            assert_eq!(session.state(), State::Recording);
            let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
            assert_eq!((coverage.state, coverage.missing.len()), (State::Recording, 0));
            assert!(coverage.quirks.iter().any(|quirk| quirk.name == "clock_once"));
            assert!(coverage.notes.iter().any(|note| note.contains("MEMVELOPE_NVTX")));
            assert_eq!(session.report()["state"], "recording");
            session.stop(SOON).unwrap();
            assert_eq!(session.state(), State::Detached);
            assert!(matches!(session.mode(), Mode::Cupti(_)), "what it was stays said");
        }
    });
}

#[test]
fn kinds_that_were_asked_for_are_on_and_the_rest_is_said_to_be_off() {
    in_child("kinds_that_were_asked_for_are_on_and_the_rest_is_said_to_be_off", "", || {
        for (is_wanted, count) in [(true, 10), (false, 8)] {
            let mut config = config();
            (config.whole_graphs, config.nvtx) = (is_wanted, is_wanted);
            let session = Session::start(&config).unwrap();
            let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
            assert_eq!((coverage.kinds.len(), coverage.missing.len()), (count, 0), "{coverage:?}");
            for (kind, key) in [("GRAPH_TRACE", "MEMVELOPE_GRAPHS"), ("MARKER", "MEMVELOPE_NVTX")] {
                assert_eq!(coverage.kinds.iter().any(|it| it == kind), is_wanted);
                let is_said = coverage.notes.iter().any(|note| note.contains(key));
                assert_eq!(is_said, !is_wanted, "{:?}", coverage.notes);
            }
            session.stop(SOON).unwrap();
        }
    });
}

#[test]
fn complaint_04_cupti_is_left_to_its_holder_until_that_one_leaves() {
    let test = "complaint_04_cupti_is_left_to_its_holder_until_that_one_leaves";
    let scenario = "subscriber = \"nsys\"\n[cupti_faults]\nsubscriber_leaves_at_call = 400\n";
    in_child(test, scenario, || {
        let session = start();
        enter_context();
        let Mode::Polling(why) = session.mode() else { panic!("{:?}", session.mode()) };
        assert!(why.contains("nsys") && session.state() == State::Yielded, "{why}");
        let before = allocate(8 * MIB);
        session.sample();
        let snapshot = session.snapshot();
        assert!(snapshot.devices[0].allocations_unseen && says(&snapshot, "nsys"));
        let activity = &sim::books()["activity"];
        let made = activity["made"].as_object().map(serde_json::Map::len);
        assert_eq!((&activity["buffers_requested"], made), (&0.into(), Some(0)));
        wait_for(&session, State::Recording);
        session.sample();
        let opening = session.snapshot().devices[0].opening_bytes.unwrap();
        assert!(opening.0 >= 8 * MIB as u64, "what was there before: {opening}");
        allocate(3 * MIB);
        launch(5);
        assert_eq!(cu::cuMemFree_v2(before), 0);
        let last = session.stop(SOON).unwrap();
        assert_eq!((vram(&last), kernels(&last)), (3 * MIB as u64, 5));
        assert_eq!((last.findings.untracked_frees, last.findings.underflows), (1, 0));
        assert!(says(&last, "while CUPTI was not ours"), "{:?}", last.unseen);
    });
}

#[test]
fn a_stolen_subscription_is_noticed_and_taken_again() {
    let scenario = "[cupti_faults]\nsteal_subscriber_at_call = 60\n\
                    release_subscriber_at_call = 200\n";
    in_child("a_stolen_subscription_is_noticed_and_taken_again", scenario, || {
        let session = start();
        enter_context();
        let kept = allocate(5 * MIB);
        launch(4);
        session.flush(SOON).unwrap();
        assert_eq!((vram(&session.snapshot()), kernels(&session.snapshot())), (5 << 20, 4));
        wait_for(&session, State::Yielded);
        let seen = session.snapshot();
        assert_eq!(kernels(&seen), 4, "what was recorded is kept");
        assert!(seen.devices[0].allocations_unseen && says(&seen, "took CUPTI from us"));
        wait_for(&session, State::Recording);
        session.sample();
        let again = session.snapshot();
        assert_eq!(vram(&again), 0);
        assert!(again.devices[0].opening_bytes.unwrap().0 >= 5 << 20);
        let counters = session.self_cost().recorder;
        assert_eq!((counters.subscriptions_lost, counters.caught_panics), (1, 0));
        assert_eq!(cu::cuMemFree_v2(kept), 0);
        allocate(MIB);
        launch(2);
        let last = session.stop(SOON).unwrap();
        assert_eq!((vram(&last), kernels(&last)), (MIB as u64, 6));
        assert_eq!(last.devices[0].totals.vram.allocated_count, 2);
    });
}

#[test]
fn a_pause_hands_cupti_over_and_resume_takes_it_back() {
    in_child("a_pause_hands_cupti_over_and_resume_takes_it_back", "", || {
        let session = start();
        enter_context();
        allocate(2 * MIB);
        launch(3);
        session.pause("torch.profiler runs").unwrap();
        session.pause("twice").unwrap();
        assert_eq!(session.state(), State::Yielded);
        let Mode::Polling(why) = session.mode() else { panic!("{:?}", session.mode()) };
        assert!(why.contains("left to others"), "{why}");
        assert_eq!(kernels(&session.snapshot()), 3, "decoded before it was handed over");
        // Longer than a poll period: a wish is not overridden.
        std::thread::sleep(Duration::from_millis(350));
        assert_eq!(session.state(), State::Yielded);
        launch(7);
        let kept = allocate(4 * MIB);
        assert!(session.resume() && session.resume());
        assert_eq!(session.state(), State::Recording);
        assert!(session.snapshot().devices[0].opening_bytes.unwrap().0 >= 6 << 20);
        launch(2);
        assert_eq!(cu::cuMemFree_v2(kept), 0);
        let last = session.stop(SOON).unwrap();
        assert_eq!((kernels(&last), vram(&last)), (5, 0));
        assert_eq!(last.findings.untracked_frees, 1);
        assert!(!session.resume(), "an ended session records no more");
    });
}

/// Flushing hangs: stopping does not, nobody else waits for it, and the next session says why it
/// cannot record yet.
#[test]
fn complaint_03_a_hanging_cupti_does_not_hang_its_host() {
    let scenario = "[cupti_faults]\nflush_hangs_ms = 4000\n";
    in_child("complaint_03_a_hanging_cupti_does_not_hang_its_host", scenario, || {
        let mut config = config();
        config.drain_period_ms = 60_000;
        let session = Session::start(&config).unwrap();
        enter_context();
        allocate(MIB);
        let begin = Instant::now();
        let stopped = session.stop(Duration::from_millis(300));
        let took = begin.elapsed();
        assert!(stopped.is_err(), "it says that it did not finish");
        assert!(took < Duration::from_millis(2000), "{took:?}");
        // What was known by then is there, and no lock is held.
        assert_eq!(vram(&session.snapshot()), MIB as u64);
        allocate(MIB);
        let next = Session::start(&config).unwrap();
        let Mode::Polling(why) = next.mode() else { panic!("{:?}", next.mode()) };
        assert!(why.contains("not come back"), "{why}");
        next.stop(Duration::from_millis(300)).ok();
    });
}

#[test]
fn complaint_07_buffers_that_come_back_after_the_end_are_taken() {
    let test = "complaint_07_buffers_that_come_back_after_the_end_are_taken";
    in_child(test, "[cupti_faults]\ncomplete_after_stop = true\n", || {
        for round in 0..3 {
            let session = start();
            enter_context();
            launch(20);
            session.stop(SOON).unwrap();
            assert!(matches!(session.state(), State::Draining | State::Detached), "{round}");
        }
        let books = sim::books();
        assert_eq!(books["caught_panics"], 0);
    });
}

fn finalizing(finalize_ms: u64) -> Session {
    let mut config = config();
    config.finalize_ms = finalize_ms;
    let session = Session::start(&config).unwrap();
    enter_context();
    launch(3);
    session
}

#[test]
fn complaint_01_finalizing_is_for_those_who_ask_and_a_new_session_may_follow() {
    let test = "complaint_01_finalizing_is_for_those_who_ask_and_a_new_session_may_follow";
    // That it is called shows where it cannot be: the fault fires.
    let scenario = "[[faults]]\ncall = \"cuptiFinalize\"\ncode = 999\ntimes = 1\n";
    in_child(test, scenario, || {
        finalizing(0).stop(SOON).unwrap();
        assert_eq!(sim::books()["faults_fired"], 0, "not by default");
        let last = finalizing(5_000).stop(SOON).unwrap();
        assert_eq!(sim::books()["faults_fired"], 1);
        assert!(says(&last, "cuptiFinalize returned 999"), "{:?}", last.unseen);
        let session = finalizing(5_000);
        let last = session.stop(SOON).unwrap();
        assert_eq!((kernels(&last), last.unseen.len()), (3, 0), "{:?}", last.unseen);
        assert_eq!(session.state(), State::Detached);
        let last = finalizing(0).stop(SOON).unwrap();
        assert_eq!(kernels(&last), 3);
    });
}

#[test]
fn complaint_02_versions_that_crash_are_not_finalized() {
    let fault = "[[faults]]\ncall = \"cuptiFinalize\"\ncode = 999\ntimes = 0\n";
    let of = |cupti: &str| format!("cupti = \"{cupti}\"\n{fault}");
    let cases: [(String, &[(&str, &str)]); 4] = [
        (of("12.0"), &[("EXPECT_CALLS", "0")]),
        (of("12.4"), &[("EXPECT_CALLS", "0")]),
        (of("12.5"), &[("EXPECT_CALLS", "1")]),
        (of("13.5"), &[("EXPECT_CALLS", "1")]),
    ];
    sim::in_children("complaint_02_versions_that_crash_are_not_finalized", &cases, || {
        let expect: u64 = std::env::var("EXPECT_CALLS").unwrap().parse().unwrap();
        let last = finalizing(5_000).stop(SOON).unwrap();
        assert_eq!(sim::books()["faults_fired"], expect);
        assert_eq!(says(&last, "it would crash"), expect == 0, "{:?}", last.unseen);
    });
}

#[test]
fn complaint_03_a_finalize_that_hangs_is_the_end_of_recording_and_not_of_the_host() {
    let test = "complaint_03_a_finalize_that_hangs_is_the_end_of_recording_and_not_of_the_host";
    in_child(test, "[cupti_faults]\nfinalize_hangs_ms = 6000\n", || {
        let session = finalizing(200);
        let begin = Instant::now();
        let last = session.stop(SOON).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
        assert!(says(&last, "cuptiFinalize did not return within 200 ms"), "{:?}", last.unseen);
        assert_eq!((session.state(), kernels(&last)), (State::Failed, 3));
        let next = start();
        let Mode::Polling(why) = next.mode() else { panic!("{:?}", next.mode()) };
        assert!(why.contains("called no more"), "{why}");
        next.stop(SOON).unwrap();
    });
}

#[test]
fn complaint_01_a_poisoned_cupti_is_said() {
    let scenario = "[cupti_faults]\nfinalize_poisons = true\n";
    in_child("complaint_01_a_poisoned_cupti_is_said", scenario, || {
        finalizing(5_000).stop(SOON).unwrap();
        let session = start();
        enter_context();
        allocate(MIB);
        let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
        assert!(coverage.callbacks && coverage.kinds.is_empty(), "{coverage:?}");
        let last = session.stop(SOON).unwrap();
        assert!(says(&last, "no CONCURRENT_KERNEL records") && vram(&last) == MIB as u64);
    });
}

/// Into a process that has contexts, allocations and queued work.
#[test]
fn attaching_late_starts_from_an_opening_balance() {
    in_child("attaching_late_starts_from_an_opening_balance", "", || {
        start().stop(SOON).unwrap();
        enter_context();
        let old = allocate(64 * MIB);
        let mut stream = 0;
        assert_eq!(cu::cuStreamCreate(&mut stream, 0), 0);
        let mut pinned = vec![0_u8; 4096];
        let copy = |to: *mut u8| cu::cuMemcpyDtoHAsync_v2(to, old, 4096, stream);
        (0..50).for_each(|_| assert_eq!(copy(pinned.as_mut_ptr()), 0));
        let session = start();
        let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
        assert!(coverage.notes.iter().any(|note| note.contains("contexts were there before")));
        let device = &session.snapshot().devices[0];
        assert!(device.opening_bytes.unwrap().0 >= 64 << 20);
        assert_eq!(device.recorder_bytes, None, "its context is older than the recording");
        allocate(MIB);
        launch(9);
        assert_eq!(cu::cuMemFree_v2(old), 0);
        let last = session.stop(SOON).unwrap();
        assert_eq!((vram(&last), kernels(&last)), (MIB as u64, 9));
        assert_eq!((last.findings.untracked_frees, last.findings.underflows), (1, 0));
    });
}

#[test]
fn complaint_05_cuptis_own_device_memory_is_limited_and_in_the_equation() {
    let test = "complaint_05_cuptis_own_device_memory_is_limited_and_in_the_equation";
    in_child(test, "[cupti]\ndevice_buffer_bytes = 3200000\n", || {
        let session = start();
        enter_context();
        launch(2);
        session.sample();
        let snapshot = session.snapshot();
        let device = &snapshot.devices[0];
        assert_eq!(device.recorder_bytes, Some(Bytes(3 * 3_200_000)));
        assert_eq!(device.recorder_bytes_max, Some(Bytes(16 * 3_200_000)));
        assert_eq!(sim::books()["devices"][0]["cupti_bytes"], 3 * 3_200_000);
        let last = session.stop(SOON).unwrap();
        assert_eq!(last.devices[0].recorder_bytes, None, "nothing is recorded any more");
    });
}

#[test]
fn complaint_09_a_clock_is_registered_once_and_only_where_it_works() {
    let test = "complaint_09_a_clock_is_registered_once_and_only_where_it_works";
    // Every registration fails: what is said tells whether there was one.
    let fault = "[[faults]]\ncall = \"cuptiActivityRegisterTimestampCallback\"\ncode = 7\n";
    let of = |cupti: &str| format!("cupti = \"{cupti}\"\n{fault}");
    const CLOCK: &str = "MEMVELOPE_CLOCK";
    let cases: [(String, &[(&str, &str)]); 6] = [
        (of("12.4"), &[(CLOCK, "monotonic"), ("EXPECT_WORDS", "it refused ours")]),
        (of("12.8"), &[(CLOCK, "monotonic"), ("EXPECT_WORDS", "without times")]),
        (of("13.0"), &[(CLOCK, "monotonic"), ("EXPECT_WORDS", "without times")]),
        (of("13.4"), &[(CLOCK, "monotonic"), ("EXPECT_WORDS", "it refused ours")]),
        // On the simulator only when it is asked for.
        (of("13.4"), &[(CLOCK, "auto"), ("EXPECT_WORDS", "")]),
        (of("13.4"), &[(CLOCK, "realtime"), ("EXPECT_WORDS", "")]),
    ];
    sim::in_children(test, &cases, || {
        let expect = std::env::var("EXPECT_WORDS").unwrap();
        let session = Session::start(&Config::from_env().0).unwrap();
        let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
        let notes = coverage.notes.join("\n");
        let is_said = notes.contains("CUPTI's clock");
        assert_eq!((is_said, notes.contains(&expect)), (!expect.is_empty(), true), "{notes}");
        session.stop(SOON).unwrap();
    });
}

#[test]
fn complaint_09_a_clock_is_not_registered_beside_older_contexts() {
    let test = "complaint_09_a_clock_is_not_registered_beside_older_contexts";
    in_child(test, "cupti = \"12.4\"\n", || {
        start().stop(SOON).unwrap();
        enter_context();
        let mut config = config();
        config.clock = Clock::Monotonic;
        let session = Session::start(&config).unwrap();
        let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
        assert!(coverage.notes.join(" ").contains("contexts exist already"), "{coverage:?}");
        launch(3);
        assert_eq!(kernels(&session.stop(SOON).unwrap()), 3);
    });
}

#[test]
fn complaint_09_a_monotonic_clock_is_the_records_clock_from_the_first() {
    let test = "complaint_09_a_monotonic_clock_is_the_records_clock_from_the_first";
    in_child(test, "cupti = \"13.4\"\n", || {
        let mut config = config();
        config.clock = Clock::Monotonic;
        for round in 0..2 {
            let session = Session::start(&config).unwrap();
            enter_context();
            launch(5);
            let last = session.stop(SOON).unwrap();
            assert_eq!((kernels(&last), last.dropped.len()), (5, 0), "{round}");
            // Since this machine was started, and not since 1970.
            let first = last.timeline.first.unwrap().0;
            assert!(first > 0 && first < 1_000_000_000_000_000_000, "{first}");
            let origin = &session.report()["clock"];
            assert!(origin["realtime_ns"].as_u64().unwrap() > 1_600_000_000_000_000_000);
        }
    });
}

/// The clock of the records is put forward or back amid the work: nothing underflows, no record is
/// taken for one from before the recording, and it is counted.
#[test]
fn a_step_of_the_clock_drops_no_record() {
    let of =
        |step: i64| format!("[cupti_faults]\nclock_step_ns = {step}\nclock_step_at_ns = 5000000\n");
    // Of the virtual clock only a step back can be told.
    let cases: [(String, &[(&str, &str)]); 2] = [
        (of(-3_000_000_000), &[("EXPECT_STEPS", "1")]),
        (of(3_000_000_000), &[("EXPECT_STEPS", "0")]),
    ];
    sim::in_children("a_step_of_the_clock_drops_no_record", &cases, || {
        let expect: u64 = std::env::var("EXPECT_STEPS").unwrap().parse().unwrap();
        let session = start();
        enter_context();
        for _ in 0..40 {
            launch(50);
            session.flush(SOON).unwrap();
        }
        let last = session.stop(SOON).unwrap();
        let lost: u64 = last.dropped.iter().map(|(_, count)| count).sum();
        assert_eq!(kernels(&last) + lost, 2000, "{:?}", last.dropped);
        assert!(lost <= 2, "only what was under way at the step: {:?}", last.dropped);
        let counters = session.self_cost().recorder;
        let found = (counters.clock_steps, counters.before_attach);
        assert_eq!(found, (expect, 0), "{:?}", last.time_ns);
        assert_eq!(last.findings.underflows, 0);
    });
}

#[test]
fn complaint_14_pausing_and_resuming_are_inert_in_a_forked_child() {
    in_child("complaint_14_pausing_and_resuming_are_inert_in_a_forked_child", "", || {
        let session = start();
        enter_context();
        allocate(MIB);
        // SAFETY: the child runs a few calls of ours, which take no lock there, and ends at once.
        let pid = unsafe { fork() };
        if pid == 0 {
            // SAFETY: ends a child that hangs.
            unsafe { alarm(10) };
            let is_inert = session.pause("x").is_ok()
                && !session.resume()
                && session.state() == State::Off
                && session.report()["clock"].is_null()
                && session.stop(SOON).is_ok();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { _exit(i32::from(!is_inert)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just forked.
        assert_eq!(unsafe { waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
        assert_eq!(session.state(), State::Recording);
        launch(3);
        let last = session.stop(SOON).unwrap();
        assert_eq!((vram(&last), kernels(&last)), (MIB as u64, 3), "the parent records on");
    });
}

unsafe extern "C" {
    fn fork() -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: i32) -> !;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
}

/// What a snapshot contains can be read back from its JSON: that is how a client has it.
#[test]
fn a_snapshot_survives_its_json() {
    in_child("a_snapshot_survives_its_json", "", || {
        let session = start();
        enter_context();
        let address = allocate(MIB);
        assert_eq!(cu::cuMemcpyHtoD_v2(address, [1_u8; 64].as_ptr(), 64), 0);
        assert_eq!(cu::cuMemsetD8_v2(address, 1, 64), 0);
        launch(3);
        let mode = session.mode();
        let text = serde_json::to_string(&mode).unwrap();
        assert_eq!(serde_json::from_str::<Mode>(&text).unwrap(), mode);
        let last = session.stop(SOON).unwrap();
        let text = serde_json::to_string(&last).unwrap();
        let read: Snapshot = serde_json::from_str(&text).unwrap();
        // As JSON, because ids of names are the writer's own and are not in it.
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!((&read.devices, &read.dropped), (&last.devices, &last.dropped));
        let cost = session.self_cost();
        let text = serde_json::to_string(&cost).unwrap();
        let read: memvelope::runtime::SelfCost = serde_json::from_str(&text).unwrap();
        assert_eq!(read, cost);
    });
}

/// Everybody at once: work on several threads, flushes, questions, and CUPTI handed over and taken
/// back. Nobody waits for anybody for ever, and the books stay whole.
#[test]
fn complaint_08_nobody_waits_for_a_lock_that_waits_for_cupti() {
    let test = "complaint_08_nobody_waits_for_a_lock_that_waits_for_cupti";
    let scenario = "[cupti_faults]\nlate_buffers = 1\nreorder_buffers = true\n";
    in_child(test, scenario, || {
        // SAFETY: ends a process that hangs.
        unsafe { alarm(60) };
        let mut config = config();
        (config.buffer_bytes, config.buffer_count, config.drain_period_ms) = (65_536, 4, 1);
        let session = Session::start(&config).unwrap();
        enter_context();
        let order = std::sync::atomic::Ordering::Relaxed;
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 1..=3 {
                let is_over = &is_over;
                scope.spawn(move || {
                    enter_context();
                    while !is_over.load(order) {
                        let address = allocate(thread * MIB);
                        launch(3);
                        assert_eq!(cu::cuMemFree_v2(address), 0);
                    }
                });
            }
            scope.spawn(|| {
                while !is_over.load(order) {
                    session.flush(SOON).unwrap();
                    session.sample();
                    drop(session.span("flush"));
                    let _ = session.snapshot();
                    let _ = session.report();
                }
            });
            for _ in 0..30 {
                session.pause("a test").unwrap();
                session.resume();
                std::thread::sleep(Duration::from_millis(5));
            }
            is_over.store(true, order);
        });
        assert_eq!(session.state(), State::Recording);
        let last = session.stop(SOON).unwrap();
        assert_eq!((vram(&last), last.findings.underflows), (0, 0));
        assert_eq!(session.self_cost().recorder.caught_panics, 0);
    });
}
