//! Every function of CUPTI fails, one at a time: the host's results stay what they are, and what is
//! missing is said.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::runtime::{Mode, Session};
use sim::{PTX, cu};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// What the host does, and what it gets: the same whatever CUPTI does.
fn host() {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    let (mut address, mut module, mut function) = (0, 0, 0);
    assert_eq!(cu::cuMemAlloc_v2(&mut address, 3 * MIB), 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    let null = std::ptr::null_mut();
    for _ in 0..10 {
        assert_eq!(cu::cuLaunchKernel(function, 2, 1, 1, 64, 1, 1, 0, 0, null, null), 0);
    }
    assert_eq!(cu::cuMemsetD8_v2(address, 7, MIB), 0);
    assert_eq!(cu::cuCtxSynchronize(), 0);
    let mut byte = [0_u8];
    assert_eq!(cu::cuMemcpyDtoHAsync_v2(byte.as_mut_ptr(), address, 1, 0), 0);
    assert_eq!(cu::cuCtxSynchronize(), 0);
    assert_eq!(byte, [7]);
    assert_eq!(cu::cuMemFree_v2(address), 0);
    assert_ne!(cu::cuMemFree_v2(address), 0);
    assert_eq!(cu::cuMemAlloc_v2(&mut address, 5 * MIB), 0);
}

/// What must be said where a function fails; of the others nothing, the recorder does without.
const SAID: [(&str, &str); 7] = [
    ("cuptiGetVersion", "cuptiGetVersion"),
    ("cuptiEnableCallback", "no callback for"),
    ("cuptiActivityRegisterCallbacks", "cuptiActivityRegisterCallbacks"),
    ("cuptiActivityEnable", "no CONCURRENT_KERNEL records"),
    ("cuptiActivityFlushAll", "cuptiActivityFlushAll"),
    ("cuptiActivityGetNextRecord", "bad_record"),
    ("cuptiActivitySetAttribute", "not limited"),
];

#[test]
fn each_cupti_call_that_fails_is_said_and_harms_nobody() {
    let test = "each_cupti_call_that_fails_is_said_and_harms_nobody";
    let said = |call: &str| SAID.iter().find(|(name, _)| *name == call).map_or("", |(_, it)| it);
    // Every function that the recorder knows of, whether or not it needs it.
    let calls = cupti_sys::Cupti::NAMES;
    let env: Vec<_> =
        calls.iter().map(|call| [("FAILING", *call), ("EXPECT_WORDS", said(call))]).collect();
    let faults = calls.iter().zip(&env).flat_map(|(call, env)| {
        [1, 999].map(|code| {
            let fault = format!("[[faults]]\ncall = \"{call}\"\ncode = {code}\ntimes = 0\n");
            (fault, env.as_slice())
        })
    });
    let cases: Vec<(String, &[(&str, &str)])> = faults.collect();
    sim::in_children(test, &cases, || {
        let of = |name: &str| std::env::var(name).unwrap();
        let (words, call) = (of("EXPECT_WORDS"), of("FAILING"));
        let mut config = Config::default();
        config.poll_period_ms = 100;
        let session = Session::start(&config).unwrap();
        host();
        std::thread::sleep(Duration::from_millis(250));
        // Late is allowed, hanging and crashing are not.
        let last = session.stop(SOON).unwrap();
        let text = format!("{} {:?}", session.report()["mode"], last);
        let text = text.replace("BadRecord", "bad_record");
        assert!(text.contains(&words), "{call}: {text}");
        assert_eq!(session.self_cost().recorder.caught_panics, 0);
        assert_eq!(last.findings.underflows, 0);
        let records = matches!(session.mode(), Mode::Cupti(_));
        let must_not = ["cuptiGetVersion", "cuptiActivityRegisterCallbacks"];
        assert_eq!(records, !must_not.contains(&call.as_str()), "{call}: {text}");
    });
}

/// Both forms of the subscription refused: the ledger lives on records.
#[test]
fn without_a_subscription_the_records_are_there_and_it_is_said() {
    let test = "without_a_subscription_the_records_are_there_and_it_is_said";
    let fault = |call: &str| format!("[[faults]]\ncall = \"{call}\"\ncode = 35\ntimes = 0\n");
    let scenario = fault("cuptiSubscribe") + &fault("cuptiSubscribe_v2");
    sim::in_child_with(test, &scenario, &[], || {
        let session = Session::start(&Config::default()).unwrap();
        host();
        let last = session.stop(SOON).unwrap();
        assert!(last.unseen.iter().any(|text| text.contains("no allocation callbacks")));
        assert_eq!(last.devices[0].totals.vram.live_bytes.0, 5 << 20);
        assert_eq!(last.timeline.kernels[0].totals.count, 10);
    });
}
