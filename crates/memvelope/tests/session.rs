//! Sessions on the simulated driver, each in a child process that calls libcuda as a host program
//! would.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions, and forks")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::event::{AllocKind, DeviceIndex, Tag, tagged};
use memvelope::ledger::Findings;
use memvelope::runtime::{Mode, Session};
use memvelope::snapshot::Snapshot;
use memvelope::units::Bytes;
use sim::{PTX, cu, in_child};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

/// Primary context of device 0 current on this thread.
fn enter_context() {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
}

fn start() -> Session {
    let (config, problems) = Config::from_env();
    assert!(problems.is_empty(), "{problems:?}");
    let session = Session::start(&config).unwrap();
    assert!(matches!(session.mode(), Mode::Cupti(ref c) if c.callbacks), "{:?}", session.mode());
    assert!(session.is_simulated());
    session
}

fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    assert_eq!(cu::cuMemAlloc_v2(&mut address, bytes), 0);
    address
}

fn kernel() -> u64 {
    let (mut module, mut function) = (0, 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    function
}

fn launch(function: u64, times: usize) {
    let null = std::ptr::null_mut();
    for _ in 0..times {
        assert_eq!(cu::cuLaunchKernel(function, 2, 1, 1, 64, 1, 1, 0, 0, null, null), 0);
    }
}

fn vram(snapshot: &Snapshot) -> u64 {
    snapshot.device(DeviceIndex(0)).unwrap().totals.vram.live_bytes.0
}

#[test]
fn a_session_knows_every_byte_and_every_kernel() {
    in_child("a_session_knows_every_byte_and_every_kernel", "", || {
        let session = start();
        enter_context();
        session.sample();
        let opening = session.snapshot().devices[0].opening_bytes.unwrap();
        let weights = {
            let _tag = tagged(Tag::Weights);
            allocate(100 * MIB)
        };
        let cache = {
            let _tag = tagged(Tag::KvCache);
            let _span = session.scope("make the cache", None);
            allocate(50 * MIB)
        };
        let function = kernel();
        launch(function, 300);
        assert_eq!(cu::cuMemsetD8_v2(cache, 0, MIB), 0);
        assert_eq!(cu::cuMemcpyHtoD_v2(weights, [7u8; 64].as_ptr(), 64), 0);
        assert_eq!(cu::cuMemFree_v2(cache), 0);
        assert_ne!(cu::cuMemFree_v2(cache), 0, "a double free fails, and changes nothing");
        assert_eq!(cu::cuCtxSynchronize(), 0);
        session.flush(SOON).unwrap();
        session.sample();
        let seen = session.snapshot();
        let device = seen.device(DeviceIndex(0)).unwrap();
        let totals = &device.totals;
        assert_eq!(totals.vram.live_bytes, Bytes(100 * MIB as u64));
        assert_eq!(totals.vram.peak_bytes, Bytes(150 * MIB as u64));
        assert_eq!(totals.by_tag[Tag::Weights as usize].live_bytes, totals.vram.live_bytes);
        assert_eq!(totals.by_tag[Tag::KvCache as usize].allocated_bytes, Bytes(50 * MIB as u64));
        assert_eq!(device.opening_bytes, Some(opening), "measured once");
        let used = device.total_bytes.unwrap().0 - device.free_bytes.unwrap().0;
        assert!(used >= totals.vram.live_bytes.0, "{device:?}");
        assert!(device.nvml_used_bytes.is_some() && device.uuid.starts_with("GPU-"), "{device:?}");
        let kernels: Vec<_> =
            seen.timeline.kernels.iter().map(|k| (k.name.as_str(), k.totals.count)).collect();
        assert_eq!(kernels, [("idle", 300)]);
        assert_eq!(
            (seen.timeline.memsets.totals.count, seen.timeline.copies[0].bytes),
            (1, Bytes(64))
        );
        assert!(!seen.timeline.syncs.is_empty() && seen.timeline.busy[0].busy_ns.0 > 0);
        let expected = Findings {
            recorded_allocations: 2,
            recorded_frees: 1,
            ..Findings::default()
        };
        assert_eq!(seen.findings, expected);
        assert_eq!(seen.dropped, []);
        check_trace(&session);
        let last = session.stop(SOON).unwrap();
        assert_eq!(last.timeline, seen.timeline);
        assert_eq!(session.self_cost().recorder.caught_panics, 0);
    });
}

/// The trace opens, says SIMULATED, and has the kernels, the span and the VRAM curve.
fn check_trace(session: &Session) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.json");
    let stats = session.write_trace(&path, 1 << 20).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |key: &str, value: &str| events.iter().filter(|e| e[key] == value).count();
    assert_eq!(count("cat", "kernel"), 300);
    assert_eq!((count("cat", "memset"), count("cat", "copy")), (1, 1));
    assert_eq!(count("name", "make the cache"), 1);
    let curve: Vec<_> = events
        .iter()
        .filter(|e| e["ph"] == "C")
        .map(|e| (e["args"]["kv_cache"].as_u64().unwrap(), e["args"]["other"].as_u64().unwrap()))
        .collect();
    let mib = MIB as u64;
    assert_eq!(curve[..3], [(0, 100 * mib), (50 * mib, 100 * mib), (0, 100 * mib)]);
    assert!(trace["traceEvents"].to_string().contains("SIMULATED"));
    assert_eq!(trace["otherData"]["simulated"], true);
    assert_eq!((stats.events_left_out, stats.window_stride), (0, 1));
}

#[test]
fn vmm_and_pools_are_counted_once() {
    in_child("vmm_and_pools_are_counted_once", "", || {
        let session = start();
        enter_context();
        // CUmemAllocationProp: pinned, no handle type, device 0.
        let properties = [[1u32, 0, 1, 0], [0; 4]];
        let (mut handle, mut at) = (0, 0);
        assert_eq!(cu::cuMemCreate(&mut handle, 4 * MIB, properties.as_ptr(), 0), 0);
        assert_eq!(cu::cuMemAddressReserve(&mut at, 8 * MIB, 0, 0, 0), 0);
        assert_eq!(cu::cuMemMap(at, 4 * MIB, 0, handle, 0), 0);
        assert_eq!(cu::cuMemMap(at + 4 * MIB as u64, 4 * MIB, 0, handle, 0), 0);
        assert_eq!(vram(&session.snapshot()), 4 * MIB as u64);
        assert_eq!(cu::cuMemRelease(handle), 0);
        assert_eq!(vram(&session.snapshot()), 4 * MIB as u64, "still mapped");
        assert_eq!(cu::cuMemUnmap(at, 8 * MIB), 0);
        assert_eq!(vram(&session.snapshot()), 0);

        let mut pooled = 0;
        assert_eq!(cu::cuMemAllocAsync(&mut pooled, MIB, 0), 0);
        session.sample();
        let snapshot = session.snapshot();
        let totals = &snapshot.device(DeviceIndex(0)).unwrap().totals;
        assert!(totals.pool_reserved_bytes.0 >= MIB as u64, "{totals:?}");
        assert_eq!(totals.vram.live_bytes, totals.pool_reserved_bytes);
        let used = &totals.by_kind[AllocKind::PoolUsed as usize];
        assert_eq!(used.live_bytes, Bytes(MIB as u64));
        assert_eq!(cu::cuMemFreeAsync(pooled, 0), 0);
        let last = session.stop(SOON).unwrap();
        let totals = &last.device(DeviceIndex(0)).unwrap().totals;
        assert_eq!(totals.by_kind[AllocKind::PoolUsed as usize].live_bytes, Bytes::ZERO);
        assert_eq!(last.findings.underflows, 0);
    });
}

#[test]
fn failures_and_pinned_memory_are_told_apart() {
    let scenario = "[[devices]]\ntotal_bytes = 2147483648\n";
    in_child("failures_and_pinned_memory_are_told_apart", scenario, || {
        let session = start();
        enter_context();
        let mut address = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut address, 4096 * MIB), 2);
        assert_eq!(cu::cuMemHostAlloc(&mut address, 3 * MIB, 0), 0);
        let last = session.stop(SOON).unwrap();
        let totals = &last.device(DeviceIndex(0)).unwrap().totals;
        assert_eq!((totals.vram.failed_count, totals.vram.oom_count), (1, 1));
        assert_eq!(totals.vram.live_bytes, Bytes::ZERO);
        let pinned = &totals.by_kind[AllocKind::PinnedHost as usize];
        assert_eq!(pinned.live_bytes, Bytes(3 * MIB as u64));
    });
}

#[test]
fn a_later_session_starts_from_the_opening_balance() {
    in_child("a_later_session_starts_from_the_opening_balance", "", || {
        // A session initialises the driver by itself.
        start().stop(SOON).unwrap();
        enter_context();
        let bare = start().stop(SOON).unwrap().devices[0].opening_bytes.unwrap();
        let first = start();
        let kept = allocate(64 * MIB);
        launch(kernel(), 10);
        // What is still running when a session ends is in no record.
        assert_eq!(cu::cuCtxSynchronize(), 0);
        let ended = first.stop(SOON).unwrap();
        assert_eq!((vram(&ended), ended.timeline.kernels[0].totals.count), (64 * MIB as u64, 10));

        let second = start();
        let opening = second.snapshot().devices[0].opening_bytes.unwrap();
        assert_eq!(opening.0, bare.0 + 64 * MIB as u64);
        assert_eq!(second.snapshot().timeline.kernels, []);
        assert_eq!(cu::cuMemFree_v2(kept), 0);
        allocate(MIB);
        let last = second.stop(SOON).unwrap();
        assert_eq!((vram(&last), last.findings.untracked_frees), (MIB as u64, 1));
        assert_eq!(first.snapshot(), ended, "an ended session does not change");
    });
}

#[test]
fn threads_and_small_buffers_lose_nothing() {
    let test = "threads_and_small_buffers_lose_nothing";
    let tiny = std::path::Path::new("65536");
    let often = std::path::Path::new("1");
    let env = [("MEMVELOPE_BUFFER_BYTES", tiny), ("MEMVELOPE_DRAIN_PERIOD_MS", often)];
    sim::in_child_with(test, "", &env, || {
        let session = start();
        enter_context();
        let function = kernel();
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let session = &session;
                scope.spawn(move || {
                    enter_context();
                    for _ in 0..200 {
                        let address = allocate(thread * MIB);
                        launch(function, 5);
                        drop(session.scope("step", None));
                        assert_eq!(cu::cuMemFree_v2(address), 0);
                    }
                });
            }
            // Readers in between see consistent books at any time.
            for _ in 0..50 {
                let snapshot = session.snapshot();
                let totals = &snapshot.devices[0].totals;
                let sum: u64 = totals.by_kind.iter().map(|kind| kind.live_bytes.0).sum();
                assert_eq!(sum, totals.vram.live_bytes.0);
                session.sample();
            }
        });
        assert_eq!(cu::cuCtxSynchronize(), 0);
        session.flush(SOON).unwrap();
        let last = session.stop(SOON).unwrap();
        let totals = &last.devices[0].totals.vram;
        assert_eq!((totals.live_bytes, totals.allocated_count), (Bytes::ZERO, 800));
        assert!(totals.peak_bytes.0 <= 10 * MIB as u64);
        assert_eq!(last.timeline.kernels[0].totals.count, 4000);
        assert_eq!(last.dropped, []);
        let expected =
            Findings { recorded_allocations: 800, recorded_frees: 800, ..Findings::default() };
        assert_eq!(last.findings, expected);
    });
}

#[test]
fn a_process_may_exit_without_stopping() {
    let begin = Instant::now();
    in_child("a_process_may_exit_without_stopping", "", || {
        let session = start();
        enter_context();
        launch(kernel(), 10);
        drop(session);
        assert!(Session::current().is_some(), "a session ends with `stop`, not with its handles");
    });
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_forked_child_is_inert() {
    in_child("a_forked_child_is_inert", "", || {
        let session = start();
        enter_context();
        // SAFETY: the child runs a few calls of ours, which take no lock there, and ends at once.
        let pid = unsafe { libc_fork() };
        if pid == 0 {
            let is_inert = Session::current().is_none()
                && matches!(session.mode(), Mode::Blind(_))
                && session.snapshot().unseen[0].contains("forked")
                && session.flush(SOON).is_ok()
                && Session::start(&Config::default())
                    .is_ok_and(|own| matches!(own.mode(), Mode::Blind(_)));
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc_exit(if is_inert { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just forked.
        assert_eq!(unsafe { libc_wait(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "the child says why it failed with its status");
        allocate(MIB);
        assert_eq!(vram(&session.stop(SOON).unwrap()), MIB as u64, "the parent records on");
    });
}

unsafe extern "C" {
    #[link_name = "fork"]
    fn libc_fork() -> i32;
    #[link_name = "_exit"]
    fn libc_exit(code: i32) -> !;
    #[link_name = "alarm"]
    fn libc_alarm(seconds: u32) -> u32;
    #[link_name = "waitpid"]
    fn libc_wait(pid: i32, status: *mut i32, options: i32) -> i32;
}

#[test]
fn a_driver_that_does_not_start_is_a_reason() {
    in_child("a_driver_that_does_not_start_is_a_reason", "init_code = 100\n", || {
        let session = Session::start(&Config::default()).unwrap();
        let Mode::Blind(why) = session.mode() else { panic!("{:?}", session.mode()) };
        assert!(why.contains("cuInit returned 100") && why.contains("hint: no device"), "{why}");
        let last = session.stop(SOON).unwrap();
        assert!(last.unseen[0].contains(&why) && last.devices.is_empty());
        assert!(last.simulated, "a blind session on the simulator is simulated all the same");
    });
}

/// A request that found the arena empty got no buffer, so none is missing afterwards: a flush then
/// must not force CUPTI to give up records of work that is still running.
#[test]
fn an_exhausted_arena_does_not_make_every_later_flush_a_forced_one() {
    let test = "an_exhausted_arena_does_not_make_every_later_flush_a_forced_one";
    let (tiny, two) = (std::path::Path::new("65536"), std::path::Path::new("2"));
    let slow = std::path::Path::new("60000");
    let env = [
        ("MEMVELOPE_BUFFER_BYTES", tiny),
        ("MEMVELOPE_BUFFER_COUNT", two),
        ("MEMVELOPE_DRAIN_PERIOD_MS", slow),
    ];
    sim::in_child_with(test, "[kernels.default]\nbase_ns = 1000000\n", &env, || {
        let session = start();
        enter_context();
        let function = kernel();
        launch(function, 900);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        session.flush(SOON).unwrap();
        assert!(session.self_cost().recorder.arena_exhausted > 0);
        let before = session.snapshot().timeline.kernels[0].totals.count;
        launch(function, 5);
        session.flush(SOON).unwrap();
        assert_eq!(cu::cuCtxSynchronize(), 0);
        session.flush(SOON).unwrap();
        let last = session.stop(SOON).unwrap();
        assert_eq!(last.timeline.kernels[0].totals.count, before + 5, "{:?}", last.dropped);
    });
}

/// The older form of the subscription refused, for another reason than that somebody has it.
const NO_CALLBACKS: &str = "cupti = \"12.9\"\n[[faults]]\ncall = \"cuptiSubscribe\"\ncode = 35\n\
                            [cupti_faults]\nper_thread_buffers = true\n";

/// Without callbacks the ledger lives on records that lie in one buffer a thread, and buffers come
/// back in any order.
#[test]
fn memory_records_of_several_threads_are_booked_in_order() {
    let test = "memory_records_of_several_threads_are_booked_in_order";
    let slow = std::path::Path::new("60000");
    let env = [("MEMVELOPE_DRAIN_PERIOD_MS", slow)];
    sim::in_child_with(test, NO_CALLBACKS, &env, || {
        let session = Session::start(&Config::from_env().0).unwrap();
        enter_context();
        let (give, take) = std::sync::mpsc::channel::<u64>();
        std::thread::scope(|scope| {
            // The thread that frees has its buffer first.
            scope.spawn(move || {
                enter_context();
                let own = allocate(MIB);
                for address in take {
                    assert_eq!(cu::cuMemFree_v2(address), 0);
                }
                assert_eq!(cu::cuMemFree_v2(own), 0);
            });
            scope.spawn(move || {
                enter_context();
                for _ in 0..500 {
                    give.send(allocate(MIB)).unwrap();
                }
            });
        });
        session.flush(SOON).unwrap();
        let last = session.stop(SOON).unwrap();
        let totals = &last.devices[0].totals.vram;
        let found = (totals.live_bytes.0, totals.allocated_count, last.findings.untracked_frees);
        assert_eq!(found, (0, 501, 0), "{:?}", last.findings);
    });
}

/// A child may be forked at a moment at which another thread holds a lock of ours.
#[test]
fn a_child_forked_amid_work_does_not_wait_for_threads_it_has_not() {
    in_child("a_child_forked_amid_work_does_not_wait_for_threads_it_has_not", "", || {
        let session = start();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::Relaxed;
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (session, is_over) = (&session, &is_over);
                scope.spawn(move || {
                    let name = format!("{thread}").repeat(1000);
                    while !is_over.load(order) {
                        drop(session.scope(&name, None));
                    }
                });
            }
            for _ in 0..200 {
                // SAFETY: the child runs a few calls of ours and ends at once.
                let pid = unsafe { libc_fork() };
                if pid == 0 {
                    // SAFETY: ends a child that hangs.
                    unsafe { libc_alarm(10) };
                    let own = Session::start(&Config::default());
                    let is_blind = own.is_ok_and(|own| matches!(own.mode(), Mode::Blind(_)));
                    // SAFETY: ends the child without running anything of the parent's.
                    unsafe { libc_exit(i32::from(!is_blind)) };
                }
                let mut status = -1;
                // SAFETY: waits for the child just forked.
                assert_eq!(unsafe { libc_wait(pid, &mut status, 0) }, pid);
                if status != 0 {
                    is_over.store(true, order);
                }
                assert_eq!(status, 0, "14: the child hung");
            }
            is_over.store(true, order);
        });
        session.stop(SOON).unwrap();
    });
}

/// The opening balance and what the session saw add up to what the device says, however busy the
/// program was when the session attached.
#[test]
fn the_opening_balance_is_not_torn_by_a_program_that_allocates() {
    in_child("the_opening_balance_is_not_torn_by_a_program_that_allocates", "", || {
        start().stop(SOON).unwrap();
        enter_context();
        for _ in 0..40 {
            let is_over = std::sync::atomic::AtomicBool::new(false);
            let order = std::sync::atomic::Ordering::Relaxed;
            let mut kept = Vec::new();
            std::thread::scope(|scope| {
                let busy = scope.spawn(|| {
                    enter_context();
                    let mut kept = Vec::new();
                    while !is_over.load(order) && kept.len() < 20_000 {
                        kept.push(allocate(2 * MIB));
                    }
                    kept
                });
                let session = start();
                is_over.store(true, order);
                kept = busy.join().unwrap();
                session.sample();
                let device = session.stop(SOON).unwrap().devices.remove(0);
                let known = device.opening_bytes.unwrap().0 + device.totals.vram.live_bytes.0;
                // One call was under way when callbacks were switched on, and may have none.
                let known = known + 2 * MIB as u64;
                assert!(known >= device.nvml_used_bytes.unwrap().0, "{device:?}");
            });
            kept.into_iter().for_each(|address| assert_eq!(cu::cuMemFree_v2(address), 0));
        }
    });
}

/// A program that captures a graph must not lose it to a question of ours: our threads tell the
/// driver to keep them out of it. (The fault is how the simulator tells that it was called.)
#[test]
fn our_threads_keep_out_of_stream_captures() {
    let scenario =
        "[[faults]]\ncall = \"cuThreadExchangeStreamCaptureMode\"\ncode = 1\ntimes = 0\n";
    // Each of the two threads by itself.
    for (drain, poll) in [("1", "600000"), ("60000", "100")] {
        let (drain, poll) = (std::path::Path::new(drain), std::path::Path::new(poll));
        let env = [("MEMVELOPE_DRAIN_PERIOD_MS", drain), ("MEMVELOPE_POLL_PERIOD_MS", poll)];
        sim::in_child_with("our_threads_keep_out_of_stream_captures", scenario, &env, || {
            let session = start();
            let deadline = Instant::now() + SOON;
            while sim::books()["faults_fired"] == 0 {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(5));
            }
            let last = session.stop(SOON).unwrap();
            assert_eq!(last.unseen, Vec::<String>::new());
        });
    }
}

/// The poller asks for the reserve of each device's default pool, and of the program's own.
#[test]
fn a_pool_of_the_programs_own_is_asked_while_it_lives() {
    in_child("a_pool_of_the_programs_own_is_asked_while_it_lives", "", || {
        let session = start();
        enter_context();
        // CUmemPoolProps: pinned, no handle type, device 0.
        let properties = [[1u32, 0, 1, 0], [0; 4], [0; 4], [0; 4], [0; 4], [0; 4]];
        let (mut pool, mut address) = (0, 0);
        assert_eq!(cu::cuDeviceGetDefaultMemPool(&mut pool, 0), 0);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut address, MIB, pool, 0), 0);
        session.sample();
        assert_eq!(session.snapshot().findings.unasked_pools, 0);
        assert_eq!(cu::cuMemPoolCreate(&mut pool, properties.as_ptr()), 0);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut address, 40 * MIB, pool, 0), 0);
        session.sample();
        let reserves = |snapshot: &Snapshot| {
            let pools = snapshot.devices[0].totals.pools.iter();
            pools.filter_map(|it| it.reserved_bytes).map(|it| it.0 >> 20).collect::<Vec<_>>()
        };
        let asked = session.snapshot();
        assert_eq!((reserves(&asked), asked.findings.unasked_pools), (vec![32, 64], 0));
        assert_eq!(cu::cuMemFreeAsync(address, 0), 0);
        assert_eq!(cu::cuMemPoolDestroy(pool), 0);
        let last = session.stop(SOON).unwrap();
        assert_eq!(reserves(&last), [32], "{:?}", last.devices[0].totals.pools);
    });
}

/// What was allocated in a context goes with it, and its addresses are handed out again.
#[test]
fn a_context_takes_its_allocations_with_it() {
    in_child("a_context_takes_its_allocations_with_it", "", || {
        let session = start();
        enter_context();
        allocate(8 * MIB);
        let mut own = 0;
        assert_eq!(cu::cuCtxCreate_v2(&mut own, 0, 0), 0);
        allocate(3 * MIB);
        // Of the device, not of a context.
        let properties = [[1u32, 0, 1, 0], [0; 4]];
        let mut handle = 0;
        assert_eq!(cu::cuMemCreate(&mut handle, 2 * MIB, properties.as_ptr(), 0), 0);
        assert_eq!(vram(&session.snapshot()), 13 * MIB as u64);
        assert_eq!(cu::cuCtxDestroy_v2(own), 0);
        assert_eq!(vram(&session.snapshot()), 10 * MIB as u64);
        // A second round with the same device's context: CUPTI's id is new, the handle is not.
        assert_eq!(cu::cuDevicePrimaryCtxReset_v2(0), 0);
        assert_eq!(vram(&session.snapshot()), 2 * MIB as u64);
        enter_context();
        allocate(8 * MIB);
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
        let last = session.stop(SOON).unwrap();
        assert_eq!((vram(&last), last.findings.replaced), (2 * MIB as u64, 0));
        let books = &sim::books()["devices"][0]["families"];
        assert_eq!(
            (&books["device"]["live_bytes"], &books["vmm"]["live_bytes"]),
            (&0.into(), &(2 * MIB).into())
        );
    });
}
