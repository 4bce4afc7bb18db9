//! Who may move the recorder on, when several want to at once: on the simulated driver.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::Error;
use memvelope::config::Config;
use memvelope::event::{Body, Event, Names, Sink};
use memvelope::runtime::Session;
use memvelope::source::cupti::{Recorder, State};
use memvelope::source::driver::Driver;
use sim::{PTX, cu, in_child};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// Longer than anybody waits for the turn.
const LONG: Duration = Duration::from_millis(700);

#[derive(Debug)]
struct Deaf;

impl Sink for Deaf {
    fn accept(&self, _event: &Event) {}
}

fn enter_context() {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
}

/// Records, with a context on this thread.
fn record() -> memvelope::Result<&'static Recorder> {
    static NAMES: std::sync::OnceLock<Names> = std::sync::OnceLock::new();
    let (driver, _) = Driver::load(&Config::default());
    let driver = driver.unwrap();
    driver.init().unwrap();
    enter_context();
    let names = NAMES.get_or_init(|| Names::new(64, 256));
    Recorder::start(&Config::default(), driver, &Deaf, names).0
}

fn launch(times: u32) {
    let (mut module, mut function) = (0, 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    let null = std::ptr::null_mut();
    for _ in 0..times {
        assert_eq!(cu::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, null, null), 0);
    }
    assert_eq!(cu::cuCtxSynchronize(), 0);
}

fn kernels_of(recorder: &Recorder) -> u32 {
    let mut kernels = 0;
    recorder.drain(&mut |event| kernels += u32::from(matches!(event.body, Body::Kernel(_))));
    kernels
}

fn wait_for(recorder: &Recorder, states: &[State]) {
    let deadline = Instant::now() + SOON;
    while !states.contains(&recorder.state()) {
        assert!(Instant::now() < deadline, "{:?} is none of {states:?}", recorder.state());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// While another thread attaches anew, which takes long, `meanwhile` is done.
fn during_an_attachment(recorder: &'static Recorder, meanwhile: impl FnOnce()) {
    recorder.pause("a test").unwrap();
    let (begun, has_begun) = channel();
    let attaching = std::thread::spawn(move || {
        recorder.resume(&mut || {
            begun.send(()).unwrap();
            std::thread::sleep(LONG);
        })
    });
    has_begun.recv_timeout(SOON).unwrap();
    meanwhile();
    assert!(!attaching.join().unwrap(), "it does not record in the end");
}

fn is_late<T>(outcome: &memvelope::Result<T>) -> bool {
    matches!(outcome, Err(Error::FlushTimeout { .. }))
}

#[test]
fn a_stop_during_an_attachment_is_done_once_that_is_there() {
    in_child("a_stop_during_an_attachment_is_done_once_that_is_there", "", || {
        let recorder = record().unwrap();
        during_an_attachment(recorder, || assert!(is_late(&recorder.stop())));
        wait_for(recorder, &[State::Draining, State::Detached]);
        launch(5);
        assert_eq!(record().unwrap().state(), State::Recording, "the next one gets CUPTI");
        launch(2);
        recorder.stop().unwrap();
        assert_eq!(kernels_of(recorder), 2);
    });
}

#[test]
fn a_pause_during_an_attachment_is_begun_once_that_is_there() {
    in_child("a_pause_during_an_attachment_is_begun_once_that_is_there", "", || {
        let recorder = record().unwrap();
        during_an_attachment(recorder, || assert!(is_late(&recorder.pause("again"))));
        assert!(recorder.is_paused() && recorder.state() == State::Yielded);
        assert!(recorder.resume(&mut || {}));
        recorder.stop().unwrap();
    });
}

#[test]
fn a_stop_while_a_pause_hangs_leaves_cupti_to_the_next_session() {
    let test = "a_stop_while_a_pause_hangs_leaves_cupti_to_the_next_session";
    in_child(test, "[cupti_faults]\nflush_hangs_ms = 1000\n", || {
        let recorder = record().unwrap();
        launch(1);
        std::thread::scope(|scope| {
            scope.spawn(|| recorder.pause("a test").unwrap());
            wait_for(recorder, &[State::Yielded]);
            assert!(is_late(&recorder.stop()));
        });
        wait_for(recorder, &[State::Draining, State::Detached]);
        assert_eq!(record().unwrap().state(), State::Recording);
        recorder.stop().unwrap();
    });
}

/// A thread of a session that was given up is still decoding when the next one begins.
#[test]
fn a_thread_left_behind_takes_nothing_from_the_next_recording() {
    in_child("a_thread_left_behind_takes_nothing_from_the_next_recording", "", || {
        let recorder = record().unwrap();
        launch(3);
        recorder.flush(true).unwrap();
        let ((begun, has_begun), (go, may_go)) = (channel(), channel::<()>());
        let left_behind = std::thread::spawn(move || {
            let mut kernels = 0;
            recorder.drain(&mut |event| {
                if kernels == 0 {
                    begun.send(()).unwrap();
                    may_go.recv_timeout(SOON).unwrap();
                }
                kernels += u32::from(matches!(event.body, Body::Kernel(_)));
            });
            kernels
        });
        has_begun.recv_timeout(SOON).unwrap();
        // These come back as the recording ends, and are decoded by nobody.
        launch(4);
        recorder.stop().unwrap();
        let recorder = record().unwrap();
        launch(5);
        recorder.flush(true).unwrap();
        assert_eq!(kernels_of(recorder), 0, "one at a time");
        go.send(()).unwrap();
        assert_eq!(left_behind.join().unwrap(), 3);
        assert_eq!(kernels_of(recorder), 5);
        launch(1);
        recorder.stop().unwrap();
        assert_eq!(kernels_of(recorder), 1);
    });
}

#[test]
fn a_stop_touches_nothing_of_whoever_took_the_subscription() {
    let test = "a_stop_touches_nothing_of_whoever_took_the_subscription";
    let scenario = "[cupti_faults]\nsteal_subscriber_at_call = 60\n\
                    [[faults]]\ncall = \"cuptiActivityDisable\"\ncode = 999\ntimes = 0\n\
                    [[faults]]\ncall = \"cuptiActivityFlushAll\"\ncode = 999\ntimes = 0\n";
    in_child(test, scenario, || {
        let recorder = record().unwrap();
        // Nobody looks in between.
        launch(80);
        recorder.stop().unwrap();
        assert_eq!(sim::books()["faults_fired"], 0, "neither is called");
        assert_eq!(recorder.counters().subscriptions_lost, 1);
    });
}

/// Sessions begin, pause, go on, flush and end from five threads at once while eight launch. In the
/// end a session has CUPTI as if nothing had been, and counts to the last kernel.
#[test]
fn sessions_that_everybody_turns_at_once_leave_cupti_to_the_last_one() {
    let test = "sessions_that_everybody_turns_at_once_leave_cupti_to_the_last_one";
    let scenario = "[cupti_faults]\nlate_buffers = 1\nflush_hangs_ms = 2\n";
    in_child(test, scenario, || {
        let mut config = Config::default();
        (config.buffer_bytes, config.buffer_count, config.drain_period_ms) = (65_536, 16, 1);
        let (is_over, config) = (AtomicBool::new(false), &config);
        let begin = || Session::start(config).ok().or_else(Session::current);
        // The driver comes up with it.
        let first = begin().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    enter_context();
                    while !is_over.load(Ordering::Relaxed) {
                        launch(20);
                    }
                });
            }
            let turners: Vec<_> = (0..5_u64)
                .map(|seed| {
                    scope.spawn(move || {
                        for round in 0..60 {
                            let Some(session) = begin() else { continue };
                            match (seed * 7 + round * 5) % 11 {
                                0..3 => drop(session.pause("a test")),
                                3..6 => drop(session.resume()),
                                6..8 => drop(session.flush(SOON)),
                                8 => drop(session.snapshot()),
                                _ => drop(session.stop(Duration::from_millis(round % 3 * 40))),
                            }
                        }
                    })
                })
                .collect();
            turners.into_iter().for_each(|turner| turner.join().unwrap());
            is_over.store(true, Ordering::Relaxed);
        });
        let _ = first.stop(SOON);
        if let Some(session) = Session::current() {
            session.stop(SOON).unwrap();
        }
        std::thread::sleep(LONG);
        let last = Session::start(config).unwrap();
        assert_eq!(last.state(), State::Recording, "{:?}", last.mode());
        enter_context();
        launch(33);
        let snapshot = last.stop(SOON).unwrap();
        let kernels: u64 = snapshot.timeline.kernels.iter().map(|row| row.totals.count).sum();
        assert_eq!(kernels, 33, "{:?}", snapshot.dropped);
        assert_eq!(last.self_cost().recorder.caught_panics, 0);
    });
}
