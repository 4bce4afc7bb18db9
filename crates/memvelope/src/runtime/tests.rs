//! Sessions where there is no driver at all; those with one are in the lanes.

use super::*;
use crate::config::Record;
use crate::error::Error;
use crate::event::DropReason;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// There is one session a process, and tests share theirs.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A configuration that finds no driver, whatever the machine has.
pub(super) fn without_driver() -> Config {
    Config {
        cuda_path: Some("/nonexistent/libcuda.so.1".into()),
        poll_period_ms: 100,
        trace_events_max: 256,
        ..Config::default()
    }
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn without_a_driver_a_session_is_blind_and_says_why() {
    let _turn = alone();
    let session = Session::start(&without_driver()).unwrap();
    let Mode::Blind(why) = session.mode() else { panic!("{:?}", session.mode()) };
    assert!(why.contains("libcuda"), "{why}");
    assert_eq!(session.load_reports()[0].library, "libcuda");
    assert!(matches!(Session::start(&without_driver()), Err(Error::SessionExists)));
    assert!(Session::current().is_some());
    session.flush(SOON).unwrap();
    session.sample();
    let first = session.snapshot();
    assert!(first.unseen.iter().any(|text| text.contains(&why)), "{:?}", first.unseen);
    assert!(first.devices.is_empty() && !first.simulated);
    let last = session.stop(SOON).unwrap();
    assert!(last.epoch > first.epoch);
    assert_eq!(session.snapshot(), last);
    assert_eq!(session.stop(SOON).unwrap(), last);
    assert!(Session::current().is_none());
}

#[test]
fn sessions_may_follow_one_another() {
    let _turn = alone();
    for _ in 0..3 {
        let session = Session::start(&without_driver()).unwrap();
        // Publishing takes one, too.
        assert!(matches!(session.snapshot().epoch, 1 | 2));
        session.stop(SOON).unwrap();
    }
}

#[test]
fn waiting_for_ever_is_allowed() {
    let _turn = alone();
    let session = Session::start(&without_driver()).unwrap();
    session.flush(Duration::MAX).unwrap();
    let last = session.stop(Duration::MAX).unwrap();
    assert_eq!(session.stop(Duration::MAX).unwrap(), last);
}

#[test]
fn off_means_off() {
    let _turn = alone();
    let config = Config { record: Record::Off, ..Config::default() };
    let session = Session::start(&config).unwrap();
    assert_eq!(session.mode(), Mode::Blind("recording is off (MEMVELOPE_RECORD=off)".into()));
    assert!(session.load_reports().is_empty());
    let last = session.stop(SOON).unwrap();
    assert_eq!(last.host, None);
}

#[test]
fn spans_become_a_bounded_trace() {
    let _turn = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.json");
    let config = Config { trace_window_ms: 60_000, ..without_driver() };
    let session = Session::start(&config).unwrap();
    for _ in 0..300 {
        let _span = session.scope("step \"one\"", None);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| drop(session.scope("other thread", None)));
    });
    let stats = session.write_trace(&path, 1 << 20).unwrap();
    assert_eq!((stats.events, stats.events_seen, stats.events_left_out), (256, 301, 0));
    assert_eq!(stats.bytes, std::fs::metadata(&path).unwrap().len());
    let short = session.write_trace(&path, 10_000).unwrap();
    assert!(short.bytes <= 10_000 && short.events < 256);
    assert_eq!(short.events + short.events_left_out, 256);
    assert!(session.write_trace(&path, 100).is_err(), "not even an empty trace fits");
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|event| event["name"] == "step \"one\""));
    let last = session.stop(SOON).unwrap();
    assert!(last.dropped.contains(&(DropReason::TraceSampled, 45)), "{:?}", last.dropped);
    assert!(session.self_cost().host_bytes > 0);
    drop(session.scope("too late", None));
    assert_eq!(session.snapshot(), last);
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["trace.json"], "no temporary file is left");
}

#[test]
fn host_threads_do_not_wait_for_who_reads_the_trace() {
    let _turn = alone();
    let session = Session::start(&without_driver()).unwrap();
    let inner = session.own().unwrap();
    let reading = inner.recorded();
    let (done, is_done) = std::sync::mpsc::channel();
    let host = {
        let session = session.clone();
        std::thread::spawn(move || {
            (0..1000).for_each(|_| drop(session.scope("step", None)));
            done.send(()).unwrap();
        })
    };
    let waited = is_done.recv_timeout(SOON);
    drop(reading);
    host.join().unwrap();
    assert_eq!(waited, Ok(()));
    assert_eq!(inner.recorded().sampler.seen(), 1000, "and none of them is lost");
    session.stop(SOON).unwrap();
}

#[test]
fn threads_are_named_and_joined() {
    let _turn = alone();
    let ours = || {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            // The whole name: the test binary itself is called memvelope and a hash.
            .filter(|name| matches!(name.trim(), "memvelope-poll" | "memvelope-drain"))
            .count()
    };
    let session = Session::start(&without_driver()).unwrap();
    // The name is set by the new thread itself.
    for _ in 0..1000 {
        if ours() == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(ours(), 1);
    assert!(signals_are_the_hosts());
    session.stop(SOON).unwrap();
    assert_eq!(ours(), 0);
    assert!(session.self_cost().thread_cpu_ns > 0);
}

/// SIGTERM (15) is blocked on our thread and not on the one that started it; SIGSEGV (11) on none.
fn signals_are_the_hosts() -> bool {
    let blocked = |task: &std::path::Path| {
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        (mask >> 14 & 1 == 1, mask >> 10 & 1 == 1)
    };
    let is_poller = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "memvelope-poll")
    };
    // While other tests' threads come and go, one reading of the directory may miss an entry.
    let poller = (0..1000).find_map(|_| {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks.filter_map(|task| Some(task.ok()?.path())).find(is_poller)
    });
    blocked(&poller.unwrap()) == (true, false)
        && blocked("/proc/thread-self".as_ref()) == (false, false)
}

#[test]
fn a_broken_invariant_ends_the_recording_once_and_says_so() {
    let _turn = alone();
    let session = Session::start(&without_driver()).unwrap();
    session.own().unwrap().break_off("the first");
    session.own().unwrap().break_off("the second");
    let Mode::Blind(why) = session.mode() else { panic!("{:?}", session.mode()) };
    assert!(why.contains("the first") && why.contains("bug"), "{why}");
    assert!(!session.own().unwrap().may_call());
    let last = session.stop(SOON).unwrap();
    assert!(last.unseen[0].contains("the first"), "{:?}", last.unseen);
}

#[test]
fn a_panic_while_attaching_is_a_blind_session() {
    let _turn = alone();
    let session = session::start(&without_driver(), |_, _, _| panic!("on purpose")).unwrap();
    assert!(matches!(session.mode(), Mode::Blind(why) if why.contains("panicked")));
    session.stop(SOON).unwrap();
    assert!(Session::current().is_none());
}

/// What a client in another copy may ask, and what it is answered.
#[test]
fn the_table_serves_documents_by_size_and_copy() {
    use crate::source::peers::{code, document};
    let _turn = alone();
    let table = &table::FUNCTIONS;
    let mut bytes = 0;
    let ask = |which, text: &mut [u8], bytes: &mut usize| {
        (table.read)(which, text.as_mut_ptr(), text.len(), std::ptr::from_mut(bytes))
    };
    assert_eq!(ask(document::SNAPSHOT, &mut [], &mut bytes), code::NO_SESSION);
    let session = Session::start(&without_driver()).unwrap();
    assert_eq!(ask(document::SNAPSHOT, &mut [0; 8], &mut bytes), code::TOO_SMALL);
    let mut text = vec![0; 2 * bytes];
    assert_eq!(ask(document::SNAPSHOT, &mut text, &mut bytes), code::OK);
    let read: Snapshot = serde_json::from_slice(&text[..bytes]).unwrap();
    assert!(read.unseen[0].contains("libcuda"), "{read:?}");
    assert_eq!(ask(77, &mut text, &mut bytes), code::BAD_ARGUMENT);
    let null = std::ptr::null_mut();
    assert_eq!((table.read)(document::MODE, text.as_mut_ptr(), 9, null), code::BAD_ARGUMENT);
    for which in [document::REPORT, document::MODE, document::SELF_COST, document::STATE] {
        let mut text = vec![0; 1 << 20];
        assert_eq!(ask(which, &mut text, &mut bytes), code::OK);
        assert!(serde_json::from_slice::<serde_json::Value>(&text[..bytes]).is_ok());
    }
    let name = "client";
    assert_eq!((table.scope_prepare)(), code::OK);
    for start in [(table.now)(), u64::MAX] {
        let scope = (table.scope_open)(name.as_ptr(), name.len(), std::ptr::null());
        assert_ne!(scope, 0);
        assert_eq!((table.scope_enter)(scope, 0), code::OK);
        assert_eq!((table.scope_suspend)(scope, 0), code::OK);
        assert_eq!((table.scope_enter)(scope, 0), code::OK);
        assert_eq!((table.scope_leave)(scope, 0), code::OK);
        assert_eq!((table.scope_end)(scope, start), code::OK);
    }
    assert_eq!(session.self_cost().trace_events, 2);
    assert_eq!((table.flush)(u64::MAX), code::OK);
    assert_eq!(((table.sample)(), (table.resume)()), (code::OK, code::FAILED));
    session.stop(SOON).unwrap();
    assert_eq!(ask(document::SNAPSHOT, &mut text, &mut bytes), code::NO_SESSION);
    assert_eq!(((table.now)(), (table.flush)(1)), (0, code::NO_SESSION));
}

#[test]
fn only_devices_that_there_may_be_are_kept() {
    let _turn = alone();
    let session = Session::start(&without_driver()).unwrap();
    let told = |device| crate::framework::Framework {
        device: crate::event::DeviceIndex(device),
        ..Default::default()
    };
    for device in (0..200).chain([u32::MAX]) {
        session.accept_framework(told(device));
        session.note_request(told(device).device, crate::units::Bytes(1));
        assert_eq!(session.read_epoch(told(device).device, Some(&mut || Some(told(device)))), None);
    }
    assert!(session.snapshot().devices.len() <= crate::ledger::DEVICES_MAX);
    session.stop(SOON).unwrap();
}
