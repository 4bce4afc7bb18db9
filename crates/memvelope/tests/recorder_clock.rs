//! Which clock a session's times are on, when CUPTI can be had late only: on the simulated
//! driver, whose own clock is a virtual one.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::{Clock, Config};
use memvelope::runtime::{Mode, Session};
use memvelope::source::cupti::State;
use sim::{PTX, cu, in_child};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn config() -> Config {
    let mut config = Config::default();
    (config.clock, config.poll_period_ms) = (Clock::Monotonic, 100);
    config
}

fn launch(times: u32) {
    let (mut context, mut module, mut function) = (0, 0, 0);
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    let null = std::ptr::null_mut();
    for _ in 0..times {
        assert_eq!(cu::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, null, null), 0);
    }
    assert_eq!(cu::cuCtxSynchronize(), 0);
}

/// Another tool has CUPTI at first, so that the session tells times on the clock that there is.
#[test]
fn a_session_keeps_the_clock_that_it_began_with() {
    let scenario = "cupti = \"13.4\"\nsubscriber = \"nsys\"\n\
                    [cupti_faults]\nsubscriber_leaves_at_call = 300\n";
    in_child("a_session_keeps_the_clock_that_it_began_with", scenario, || {
        let session = Session::start(&config()).unwrap();
        assert_eq!(session.state(), State::Yielded);
        let origin = session.report()["clock"]["records_ns"].as_u64().unwrap();
        let deadline = Instant::now() + SOON;
        while session.state() != State::Recording {
            assert!(Instant::now() < deadline);
            launch(1);
            std::thread::sleep(Duration::from_millis(5));
        }
        let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
        launch(3);
        let last = session.stop(SOON).unwrap();
        let first = last.timeline.first.unwrap().0;
        let apart = origin.abs_diff(first).max(origin.abs_diff(last.time_ns.0));
        assert!(apart < 3_600_000_000_000, "{origin} {first} {}", last.time_ns.0);
        assert!(coverage.notes.iter().any(|note| note.contains("told on that one already")));
        // The next one may have the other.
        let next = Session::start(&config()).unwrap();
        let Mode::Cupti(coverage) = next.mode() else { panic!("{:?}", next.mode()) };
        assert!(!coverage.notes.join(" ").contains("steps"), "{coverage:?}");
        next.stop(SOON).unwrap();
    });
}
