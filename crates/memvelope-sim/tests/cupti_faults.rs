//! Each of `[cupti_faults]`: what a client sees of it, and that the books tell.

#![expect(unsafe_code, reason = "a subscriber's callback, and the simulator's own calls by name")]
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::activity::{
    BUFFER_BYTES, COMPLETED, KERNEL, MEMORY2, Seen, drain, record, request, text_at,
};
use common::{alloc, context, crashes, cu, cupti, in_child, kernel, launch, now};
use serde_json::json;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const START: u64 = 1_000_000_000_000_000_000;
/// Size of a kernel record in CUPTI 13.0, and how many fit into 4,096 bytes.
const RECORD: usize = 216;
const FIT: usize = 18;

fn faults(text: &str) -> String {
    format!("seed = 7\n[cupti_faults]\n{text}\n")
}

/// Runs `idle` so often, one after the other, and waits for it.
fn run(times: usize) {
    let idle = kernel(c"idle");
    (0..times).for_each(|_| assert_eq!(launch(idle, 1, 0), 0));
    assert_eq!(cu::cuCtxSynchronize(), 0);
}

fn times(seen: &Seen) -> (u64, u64) {
    (seen.u64(16), seen.u64(24))
}

/// Steps through a buffer; how many records there are, and the code that ended it.
fn steps(buffer: &mut [u8]) -> (usize, u32) {
    let (start, valid, mut at, mut count) =
        (buffer.as_mut_ptr(), buffer.len(), std::ptr::null_mut(), 0);
    loop {
        match cupti::cuptiActivityGetNextRecord(start, valid, &mut at) {
            0 => count += 1,
            code => return (count, code),
        }
    }
}

fn returned() -> Vec<Vec<u8>> {
    std::mem::take(&mut *COMPLETED.lock().unwrap())
}

/// The simulator's line of random numbers.
fn draw(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn tails_are_garbage_by_the_seed() {
    let test = "tails_are_garbage_by_the_seed";
    let Some(books) = in_child(test, &faults("garbage_every = 2"), || {
        context();
        record(&[KERNEL]);
        run(4 * FIT);
        assert_eq!(cupti::cuptiActivityFlushAll(0), 0);
        let mut buffers = returned();
        let found: Vec<_> = buffers.iter_mut().map(|buffer| steps(buffer)).collect();
        // Three quarters of 3,888 bytes end inside the 14th record.
        assert_eq!(found, [(18, 12), (14, 21), (18, 12), (14, 21)]);
        let mut line = 7_u64.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for buffer in [&buffers[1], &buffers[3]] {
            let expected = draw(&mut draw(&mut line)).to_le_bytes();
            assert_eq!(buffer[14 * RECORD..][..8], expected);
        }
    }) else {
        return;
    };
    assert_eq!(books["cupti_faults"], json!({ "garbage_every": 2 }));
}

#[test]
fn buffers_are_cut_or_come_twice() {
    let test = "buffers_are_cut_or_come_twice";
    let text = "truncate_every = 3\nduplicate_buffer_every = 2";
    let Some(books) = in_child(test, &faults(text), || {
        context();
        record(&[KERNEL]);
        run(3 * FIT);
        assert_eq!(cupti::cuptiActivityFlushAll(0), 0);
        let mut buffers = returned();
        let found: Vec<_> = buffers.iter_mut().map(|buffer| steps(buffer)).collect();
        assert_eq!(found, [(18, 12), (18, 12), (18, 12), (17, 12)]);
        assert_eq!(buffers[1], buffers[2]);
        assert_eq!(buffers[3].len(), 17 * RECORD + RECORD / 2);
    }) else {
        return;
    };
    assert_eq!(books["cupti_faults"], json!({ "truncate_every": 1, "duplicate_buffer_every": 1 }));
    assert_eq!(books["activity"]["buffers_completed"], json!(4));
    assert_eq!(books["activity"]["buffers_requested"], json!(3));
}

#[test]
fn times_and_names_are_spoiled_by_count() {
    let text = "zero_timestamps_every = 3\nreversed_timestamps_every = 2\nnull_names_every = 4\n\
                bad_names_every = 5\ndistinct_names = 6\n";
    let test = "times_and_names_are_spoiled_by_count";
    let Some(books) = in_child(test, &faults(text), || {
        context();
        record(&[KERNEL, MEMORY2]);
        alloc(1);
        run(12);
        let seen = drain(false);
        let kernels: Vec<_> = seen.iter().filter(|seen| seen.kind == KERNEL).collect();
        assert_eq!((seen.len(), kernels.len()), (13, 12));
        for (number, seen) in (1..).zip(&kernels) {
            let (start, end) = times(seen);
            match (number % 3, number % 2) {
                (0, _) => assert_eq!((start, end), (0, 0)),
                (_, 0) => assert!(end < start, "{number}"),
                _ => assert!(START < start && start < end, "{number}"),
            }
            let name = text_at(seen.u64(104)).map(std::ffi::CStr::to_bytes);
            let plain = format!("idle_{}", (number - 1) % 6);
            match (number % 4, number % 5) {
                (0, _) => assert_eq!(name, None),
                (_, 0) => assert!(std::str::from_utf8(name.unwrap()).is_err()),
                _ => assert_eq!(name, Some(plain.as_bytes()), "{number}"),
            }
        }
        // The same number is the same name.
        assert_eq!(kernels[0].u64(104), kernels[6].u64(104));
    }) else {
        return;
    };
    assert_eq!(
        books["cupti_faults"],
        json!({ "zero_timestamps_every": 4, "reversed_timestamps_every": 6,
            "null_names_every": 3, "bad_names_every": 2, "distinct_names": 6 })
    );
    assert_eq!(books["kernels"]["idle"]["count"], json!(12), "the books know better");
}

#[test]
fn names_never_repeat_without_a_limit() {
    let test = "names_never_repeat_without_a_limit";
    let Some(books) = in_child(test, &faults("distinct_names = true"), || {
        context();
        record(&[KERNEL]);
        run(1500);
        let names: std::collections::BTreeSet<_> =
            drain(false).iter().map(|seen| text_at(seen.u64(104)).unwrap()).collect();
        assert_eq!(names.len(), 1500);
    }) else {
        return;
    };
    assert_eq!(books["cupti_faults"]["distinct_names"], json!(1500));
}

#[test]
fn the_first_records_are_older_than_the_recording() {
    let test = "the_first_records_are_older_than_the_recording";
    let Some(_) = in_child(test, &faults("older_than_attach = 2"), || {
        context();
        let attached = now();
        record(&[KERNEL]);
        run(3);
        let seen = drain(false);
        let took = times(&seen[2]).1 - times(&seen[2]).0;
        assert_eq!(times(&seen[0]), (attached - 2_000 - took, attached - 2_000));
        assert_eq!(times(&seen[1]), (attached - 1_000 - took, attached - 1_000));
        assert!(times(&seen[2]).0 > attached);
    }) else {
        return;
    };
}

#[test]
fn the_clock_steps_both_ways() {
    for step in [5_000_000_000_i64, -5_000_000_000] {
        let text = faults(&format!("clock_step_ns = {step}\nclock_step_at_ns = 2500000"));
        let Some(_) = in_child("the_clock_steps_both_ways", &text, || {
            context();
            record(&[KERNEL]);
            run(1);
            let before = now();
            assert!(before < START + 5_000_000);
            // SAFETY: the exported signature.
            let advance = unsafe {
                let library = libloading::os::unix::Library::new("libcuda.so.1").unwrap();
                *library.get::<extern "C" fn(u64) -> u64>(b"memvelope_sim_advance").unwrap()
            };
            let real = advance(1_000_000);
            let after = now();
            run(1);
            let seen = drain(false);
            let step = after.cast_signed() - real.cast_signed();
            assert_eq!(step.unsigned_abs(), 5_000_000_000);
            assert_eq!(after < before, step < 0);
            assert!(times(&seen[0]).1 <= before, "what came before stays");
            assert!(times(&seen[1]).0 >= after && times(&seen[1]).1 > times(&seen[1]).0);
        }) else {
            return;
        };
    }
}

static CALLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn callback(_data: *mut c_void, _domain: u32, _cbid: u32, _call: *const c_void) {
    CALLED.fetch_add(1, Ordering::Relaxed);
}

fn subscribe() -> (u32, u64) {
    let mut subscriber = 0;
    (cupti::cuptiSubscribe(&mut subscriber, callback, std::ptr::null_mut()), subscriber)
}

#[test]
fn another_client_takes_the_subscription_and_gives_it_back() {
    // cuInit, cuDevicePrimaryCtxRetain and cuCtxSetCurrent are the first three calls.
    let text = faults("steal_subscriber_at_call = 5\nrelease_subscriber_at_call = 7");
    let test = "another_client_takes_the_subscription_and_gives_it_back";
    let Some(books) = in_child(test, &text, || {
        context();
        record(&[MEMORY2]);
        let (code, ours) = subscribe();
        assert_eq!(code, 0);
        assert_eq!(cupti::cuptiEnableCallback(1, ours, 1, 243), 0);
        alloc(1);
        assert_eq!(CALLED.load(Ordering::Relaxed), 2);
        alloc(1);
        assert_eq!(CALLED.load(Ordering::Relaxed), 2, "no more callbacks");
        assert_eq!(cupti::cuptiEnableCallback(1, ours, 1, 243), 1);
        assert_eq!(cupti::cuptiUnsubscribe(ours), 1);
        let mut name = [1_u8; 32];
        let mut params = [32, 0, name.as_mut_ptr() as u64, 32];
        let none = std::ptr::null_mut();
        assert_eq!(cupti::cuptiSubscribe_v2(&mut 0, callback, none, &mut params), 39);
        assert!(name.starts_with(b"another client\0"));
        alloc(1);
        assert_eq!(subscribe().0, 39);
        alloc(1);
        let (code, again) = subscribe();
        assert_eq!(code, 0);
        assert_eq!(cupti::cuptiEnableCallback(1, again, 1, 243), 0);
        alloc(1);
        assert_eq!(CALLED.load(Ordering::Relaxed), 4);
        assert_eq!(drain(false).len(), 5, "records need no subscription");
    }) else {
        return;
    };
    let once = json!({ "steal_subscriber_at_call": 1, "release_subscriber_at_call": 1 });
    assert_eq!(books["cupti_faults"], once);
}

#[test]
fn the_other_subscriber_leaves() {
    let text = "subscriber = \"nsys\"\n[cupti_faults]\nsubscriber_leaves_at_call = 4\n";
    let Some(_) = in_child("the_other_subscriber_leaves", text, || {
        context();
        assert_eq!(subscribe().0, 39);
        alloc(1);
        assert_eq!(subscribe().0, 0);
    }) else {
        return;
    };
}

#[test]
fn buffers_come_late_by_flushes() {
    let test = "buffers_come_late_by_flushes";
    let Some(books) = in_child(test, &faults("late_buffers = 2"), || {
        context();
        record(&[MEMORY2]);
        let mut counts = Vec::new();
        for round in 0..6 {
            if round < 3 {
                alloc(1);
            }
            counts.push(drain(false).len());
        }
        assert_eq!(counts, [0, 0, 1, 1, 1, 0]);
    }) else {
        return;
    };
    assert_eq!(books["activity"]["buffers_requested"], json!(3));
}

#[test]
fn buffers_come_in_reverse() {
    let test = "buffers_come_in_reverse";
    let Some(_) = in_child(test, &faults("reorder_buffers = true"), || {
        context();
        record(&[KERNEL]);
        run(2 * FIT + 1);
        assert_eq!(returned().len(), 0, "kept until a flush");
        let seen = drain(false);
        let ids: Vec<u32> = seen.iter().map(|seen| seen.u32(92)).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        let (first, rest) = sorted.split_at(FIT);
        let (second, third) = rest.split_at(FIT);
        assert_eq!(ids, [third, second, first].concat());
        run(4 * FIT + 1);
        assert_eq!(returned().len(), 4, "or until there are four");
    }) else {
        return;
    };
}

static RETURNED_ON: Mutex<Vec<std::thread::ThreadId>> = Mutex::new(Vec::new());

extern "C" fn complete(_context: u64, _stream: u32, _at: *mut u8, _size: usize, valid: usize) {
    if valid > 0 {
        RETURNED_ON.lock().unwrap().push(std::thread::current().id());
    }
}

#[test]
fn some_buffers_come_after_the_stop() {
    let test = "some_buffers_come_after_the_stop";
    let Some(books) = in_child(test, &faults("complete_after_stop = true"), || {
        context();
        record(&[KERNEL]);
        assert_eq!(cupti::cuptiActivityRegisterCallbacks(request, complete), 0);
        run(4 * FIT);
        assert_eq!(cupti::cuptiActivityFlushAll(1), 0);
        let own = std::thread::current().id();
        let on = || RETURNED_ON.lock().unwrap().clone();
        assert_eq!(on(), [own, own], "every second one is kept");
        assert_eq!(cupti::cuptiActivityDisable(KERNEL), 0);
        let deadline = Instant::now() + Duration::from_secs(20);
        while on().len() < 4 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(on().len(), 4);
        assert!(on()[2] != own && on()[3] != own);
    }) else {
        return;
    };
    assert_eq!(books["cupti_faults"]["complete_after_stop"], json!(2));
}

#[test]
fn records_are_dropped_and_counted() {
    let test = "records_are_dropped_and_counted";
    let Some(books) = in_child(test, &faults("drop_records = 3"), || {
        context();
        record(&[MEMORY2]);
        (0..5).for_each(|_| assert_ne!(alloc(1), 0));
        assert_eq!(drain(false).len(), 2);
        let mut dropped = 0;
        assert_eq!(cupti::cuptiActivityGetNumDroppedRecords(0, 0, &mut dropped), 0);
        assert_eq!(dropped, 3);
    }) else {
        return;
    };
    assert_eq!(books["activity"]["dropped"], json!(3));
}

#[test]
fn flush_and_finalize_hang_and_poison() {
    let text = faults("flush_hangs_ms = 50\nfinalize_hangs_ms = 80\nfinalize_poisons = true");
    let Some(books) = in_child("flush_and_finalize_hang_and_poison", &text, || {
        context();
        record(&[MEMORY2]);
        let took = |action: &dyn Fn() -> u32| {
            let start = Instant::now();
            assert_eq!(action(), 0);
            start.elapsed()
        };
        assert!(took(&|| cupti::cuptiActivityFlushAll(0)) >= Duration::from_millis(50));
        assert!(took(&|| cupti::cuptiFinalize()) >= Duration::from_millis(80));
        assert_eq!(cupti::cuptiActivityEnable(MEMORY2), 999);
        assert_eq!(cupti::cuptiActivityDisable(MEMORY2), 0);
    }) else {
        return;
    };
    assert_eq!(books["cupti_faults"], json!({ "flush_hangs_ms": 1, "finalize_hangs_ms": 1 }));
}

#[test]
fn a_null_buffer_crashes_old_versions() {
    let test = "a_null_buffer_crashes_old_versions";
    let answers_null = || {
        context();
        BUFFER_BYTES.store(0, Ordering::Relaxed);
        record(&[MEMORY2]);
        alloc(1);
    };
    let Some(said) = crashes(test, "cupti = \"12.8\"\n", answers_null) else { return };
    assert!(said.contains("CRASH"), "{said}");
    let forced = "[cupti_faults]\nnull_buffer_crashes = true\n";
    let _ = crashes(test, forced, answers_null).unwrap();
    let allowed = "cupti = \"12.8\"\n[cupti_faults]\nnull_buffer_crashes = false\n";
    for scenario in [allowed, "cupti = \"12.9\"\n", ""] {
        let books = in_child(test, scenario, answers_null).unwrap();
        assert_eq!(books["activity"]["dropped"], json!(1));
    }
}

#[test]
fn a_call_before_init_crashes_13_2() {
    let test = "a_call_before_init_crashes_13_2";
    let too_early = || {
        assert_eq!(cupti::cuptiGetVersion(&mut 0), 15);
        context();
        assert_eq!(cupti::cuptiGetVersion(&mut 0), 0);
    };
    let Some(said) = crashes(test, "cupti = \"13.2\"\n", too_early) else { return };
    assert!(said.contains("cuptiGetVersion"), "{said}");
    // A driver that does not come up is no better.
    let _ = crashes(test, "cupti = \"13.2\"\ninit_code = 100\n", too_early).unwrap();
    let _ = crashes(test, "[cupti_faults]\ncrash_before_init = true\n", too_early).unwrap();
    let allowed = "cupti = \"13.2\"\n[cupti_faults]\ncrash_before_init = false\n";
    for scenario in [allowed, "cupti = \"13.3\"\n", ""] {
        let _ = in_child(test, scenario, too_early).unwrap();
    }
}

extern "C" fn clock() -> u64 {
    5_000
}

#[test]
fn a_clock_of_ones_own_zeroes_times_in_some_versions() {
    let test = "a_clock_of_ones_own_zeroes_times_in_some_versions";
    // What the case expects reaches it as the version: 12.6 to 13.0 lose the times.
    let case = || {
        context();
        record(&[KERNEL, MEMORY2]);
        run(1);
        let before = drain(false);
        assert_eq!(cupti::cuptiActivityRegisterTimestampCallback(clock), 0);
        alloc(1);
        run(2);
        let mut version = 0;
        assert_eq!(cupti::cuptiGetVersion(&mut version), 0);
        let loses = matches!(version, 24 | 130_001);
        let seen = drain(false);
        assert!(times(&before[0]).0 > START && seen.len() == 3);
        for seen in &seen {
            match seen.kind {
                KERNEL => assert_eq!(times(seen) == (0, 0), loses),
                _ => assert_ne!(seen.u64(32), 0, "the host's times stay"),
            }
        }
    };
    for version in ["12.5", "12.6", "13.0", "13.1"] {
        let Some(_) = in_child(test, &format!("cupti = \"{version}\"\n"), case) else { return };
    }
}

#[test]
fn buffers_per_thread_are_a_setting() {
    let test = "buffers_per_thread_are_a_setting";
    let case = || {
        let context = context();
        record(&[MEMORY2]);
        for _ in 0..2 {
            let thread = std::thread::spawn(move || {
                assert_eq!(cu::cuCtxSetCurrent(context), 0);
                alloc(1);
            });
            thread.join().unwrap();
        }
        assert_eq!(drain(false).len(), 2);
    };
    for (scenario, buffers) in [
        ("", 2),
        ("[cupti_faults]\nper_thread_buffers = false\n", 1),
        ("cupti = \"12.9\"\n", 1),
        ("cupti = \"12.9\"\n[cupti_faults]\nper_thread_buffers = true\n", 2),
    ] {
        let Some(books) = in_child(test, scenario, case) else { return };
        assert_eq!(books["activity"]["buffers_requested"], json!(buffers), "{scenario}");
    }
}

/// Threads that launch, capture and allocate while another flushes, under nearly every fault at
/// once: nothing hangs or panics, and every record made was written or dropped.
#[test]
fn all_faults_together_lose_no_account() {
    let text = "garbage_every = 3\ntruncate_every = 4\nduplicate_buffer_every = 5\n\
                zero_timestamps_every = 6\nreversed_timestamps_every = 7\nnull_names_every = 8\n\
                bad_names_every = 9\ndistinct_names = 50\nolder_than_attach = 3\n\
                clock_step_ns = -1000000\nclock_step_at_ns = 5000000\nlate_buffers = 1\n\
                steal_subscriber_at_call = 500\nrelease_subscriber_at_call = 900\n\
                reorder_buffers = true\ncomplete_after_stop = true\ndrop_records = 5\n\
                flush_hangs_ms = 1\n";
    let Some(books) = in_child("all_faults_together_lose_no_account", &faults(text), || {
        let context = context();
        assert_eq!(subscribe().0, 0);
        record(&[1, 2, 4, KERNEL, 12, 17, 22, 38, 39, MEMORY2, 50]);
        BUFFER_BYTES.store(1024, Ordering::Relaxed);
        let worker = move || {
            assert_eq!(cu::cuCtxSetCurrent(context), 0);
            let (mut stream, idle) = (0, kernel(c"idle"));
            assert_eq!(cu::cuStreamCreate(&mut stream, 1), 0);
            for round in 0..100 {
                assert_eq!(cupti::cuptiActivityPushExternalCorrelationId(3, round), 0);
                cupti::memvelope_sim_range_push(c"round".as_ptr());
                let (mut at, mut graph, mut executable) = (0, 0, 0);
                assert_eq!(cu::cuMemAllocAsync(&mut at, 4096, stream), 0);
                assert_eq!(cu::cuStreamBeginCapture_v2(stream, 2), 0);
                assert_eq!(launch(idle, 10, stream), 0);
                assert_eq!(cu::cuMemsetD8Async(at, 1, 4096, stream), 0);
                assert_eq!(cu::cuStreamEndCapture(stream, &mut graph), 0);
                assert_eq!(cu::cuGraphInstantiateWithFlags(&mut executable, graph, 0), 0);
                assert_eq!(cu::cuGraphLaunch(executable, stream), 0);
                assert_eq!(cu::cuStreamSynchronize(stream), 0);
                assert_eq!(cu::cuGraphExecDestroy(executable), 0);
                assert_eq!(cu::cuGraphDestroy(graph), 0);
                assert_eq!(cu::cuMemFreeAsync(at, stream), 0);
                cupti::memvelope_sim_range_pop();
                assert_eq!(cupti::cuptiActivityPopExternalCorrelationId(3, &mut 0), 0);
            }
        };
        let workers: Vec<_> = (0..4).map(|_| std::thread::spawn(worker)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            assert_eq!(cupti::cuptiActivityFlushAll(0), 0);
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(cupti::cuptiActivityFlushAll(1), 0);
        assert!(returned().len() > 100);
    }) else {
        return;
    };
    assert_eq!(books["caught_panics"], json!(0));
    assert_eq!(books["graphs"]["nodes"], json!(4 * 100 * 2));
    let activity = &books["activity"];
    let made = activity["made"].as_object().unwrap();
    assert_eq!(made["CONCURRENT_KERNEL"], json!(400));
    assert_eq!(made["MARKER"], json!(800));
    assert_eq!(made["EXTERNAL_CORRELATION"], json!(4 * 100 * 11));
    let made: u64 = made.values().map(|count| count.as_u64().unwrap()).sum();
    let count = |key: &str| activity[key].as_u64().unwrap();
    assert_eq!(made, count("written") + count("dropped"));
    assert!(books["cupti_faults"].as_object().unwrap().len() > 12);
}
