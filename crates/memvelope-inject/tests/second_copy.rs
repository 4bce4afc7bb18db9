//! Two copies of memvelope in one process: the injection library, which the driver loads, and the
//! one that is linked into this test, as a Python module's would be. The second is the first one's
//! client, through the exported table.

#![expect(unsafe_code, reason = "a host program forks")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../../memvelope/tests/sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::event::{Tag, tagged};
use memvelope::runtime::{Mode, Session};
use memvelope::source::cupti::State;
use sim::{PTX, cu};
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

/// Runs `case` in a child whose driver loads the injection library.
fn in_child(test: &str, scenario: &str, case: fn()) {
    let exe = std::env::current_exe().unwrap();
    let deps = exe.parent().unwrap();
    let candidates = [deps.join("libmemvelope_inject.so"), deps.join("../libmemvelope_inject.so")];
    let library = candidates.into_iter().find(|path| path.exists()).expect("it is built");
    sim::in_child_with(test, scenario, &[("CUDA_INJECTION64_PATH", &library)], case);
}

/// The driver comes up, and with it the first copy.
fn first() {
    assert_eq!(cu::cuInit(0), 0);
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
}

/// And then the second.
fn both() -> Session {
    first();
    let session = Session::start(&Config::default()).unwrap();
    let owner = session.owner_path().expect("a client");
    assert!(owner.ends_with("libmemvelope_inject.so"), "{owner}");
    session
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

#[test]
fn the_second_copy_is_the_first_ones_client() {
    in_child("the_second_copy_is_the_first_ones_client", "", || {
        let session = both();
        let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
        assert!(coverage.callbacks && coverage.kinds.iter().any(|kind| kind == "MEMORY2"));
        assert_eq!((session.state(), session.is_simulated()), (State::Recording, true));
        // Tags are the thread's, and the other copy's callbacks see them.
        {
            let _outer = tagged(Tag::Weights);
            let inner = tagged(Tag::KvCache);
            allocate(3 * MIB);
            drop(inner);
            allocate(5 * MIB);
        }
        allocate(7 * MIB);
        let span = session.scope("a step of the second copy", None);
        launch(11);
        drop(span);
        session.flush(SOON).unwrap();
        session.sample();
        let snapshot = session.snapshot();
        let totals = &snapshot.devices[0].totals;
        let live = |tag: Tag| totals.by_tag[tag as usize].live_bytes.0 >> 20;
        let found = (live(Tag::KvCache), live(Tag::Weights), live(Tag::Untagged));
        assert_eq!(found, (3, 5, 7));
        assert_eq!(
            (totals.vram.allocated_count, snapshot.timeline.kernels[0].totals.count),
            (3, 11)
        );
        assert_eq!(snapshot.findings.recorded_allocations, 3, "nothing is counted twice");
        assert!(session.self_cost().recorder.records > 0);
        assert_eq!(session.report()["state"], "recording");
        assert_eq!(session.report()["is_findable"], true);
        let later = session.snapshot();
        assert!(later.epoch > snapshot.epoch, "asked anew each time");

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.json");
        let stats = session.write_trace(&path, 1 << 20).unwrap();
        let trace = std::fs::read_to_string(&path).unwrap();
        assert_eq!(stats.bytes, trace.len() as u64);
        assert!(trace.contains("a step of the second copy"));
        assert!(session.write_trace(Path::new("/nonexistent/x.json"), 1 << 20).is_err());

        let last = session.stop(SOON).unwrap();
        assert_eq!(last.devices[0].totals.vram.live_bytes.0, 15 << 20);
        assert_eq!(session.snapshot(), last, "what was known stays readable");
        assert!(matches!(session.mode(), Mode::Cupti(_)) && session.state() == State::Recording);
        assert!(session.self_cost().recorder.records > 0);
        // Only this client is gone: the owner records on, and takes the next client.
        allocate(MIB);
        let again = Session::start(&Config::default()).unwrap();
        assert_eq!(again.snapshot().devices[0].totals.vram.live_bytes.0, 16 << 20);
        again.stop(SOON).unwrap();
    });
}

#[test]
fn scopes_reach_the_first_copy_without_a_session_of_the_second() {
    in_child("scopes_reach_the_first_copy_without_a_session_of_the_second", "", || {
        assert!(Session::recording().is_none(), "the driver has not loaded it yet");
        first();
        let deadline = Instant::now() + SOON;
        let session = loop {
            // It looks once a second.
            match Session::recording() {
                Some(session) => break session,
                None => assert!(Instant::now() < deadline, "it was not found"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(Session::current().is_none(), "nobody started one here");
        let scope = session.scope("a step without a session", None);
        assert!(scope.id().is_some());
        launch(1);
        drop(scope);
        // One may still be started, and end; what is injected records on.
        let own = Session::start(&Config::default()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.json");
        own.write_trace(&path, 1 << 20).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("a step without a session"));
        own.stop(SOON).unwrap();
        let scope = Session::recording().unwrap().scope("another", None);
        assert!(scope.id().is_some());
    });
}

#[test]
fn a_client_may_pause_and_resume_its_owner() {
    in_child("a_client_may_pause_and_resume_its_owner", "", || {
        let session = both();
        launch(2);
        session.pause("another profiler").unwrap();
        assert_eq!(session.state(), State::Yielded);
        assert!(matches!(session.mode(), Mode::Polling(why) if why.contains("another profiler")));
        launch(4);
        assert!(session.resume());
        launch(3);
        session.flush(SOON).unwrap();
        assert_eq!(session.snapshot().timeline.kernels[0].totals.count, 5);
        // Its end is not the owner's, and after it the owner is none of its business.
        session.stop(SOON).unwrap();
        session.pause("too late").unwrap();
        let again = Session::start(&Config::default()).unwrap();
        assert_eq!(again.state(), State::Recording);
    });
}

#[test]
fn complaint_14_a_client_in_a_forked_child_is_inert() {
    in_child("complaint_14_a_client_in_a_forked_child_is_inert", "", || {
        let session = both();
        allocate(MIB);
        // SAFETY: the child runs a few calls of ours, which wait for nobody there, and ends.
        let pid = unsafe { fork() };
        if pid == 0 {
            // SAFETY: ends a child that hangs.
            unsafe { alarm(10) };
            let _tag = tagged(Tag::Weights);
            drop(session.scope("x", None));
            let is_inert = matches!(session.mode(), Mode::Blind(_))
                && session.snapshot().unseen[0].contains("forked")
                && session.flush(SOON).is_ok()
                && session.pause("x").is_ok()
                && !session.resume()
                && session.state() == State::Off
                && session.stop(SOON).is_ok();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { _exit(i32::from(!is_inert)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just forked.
        assert_eq!(unsafe { waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
        assert_eq!(session.snapshot().devices[0].totals.vram.live_bytes.0, 1 << 20);
    });
}

/// Readers while the owner's books change: each answer is of one moment.
#[test]
fn documents_are_consistent_while_the_program_works() {
    in_child("documents_are_consistent_while_the_program_works", "", || {
        let session = both();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                for _ in 0..100 {
                    let snapshot = session.snapshot();
                    for totals in snapshot.devices.iter().map(|device| &device.totals) {
                        let sum: u64 = totals.by_kind.iter().map(|kind| kind.live_bytes.0).sum();
                        assert_eq!(sum, totals.vram.live_bytes.0);
                    }
                }
            });
            while !reader.is_finished() {
                let address = allocate(2 * MIB);
                launch(2);
                assert_eq!(cu::cuMemFree_v2(address), 0);
            }
        });
    });
}

unsafe extern "C" {
    fn fork() -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: i32) -> !;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
}
