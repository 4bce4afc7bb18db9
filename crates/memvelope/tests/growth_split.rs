//! What contexts grow by, split by cause: lazily loaded modules, kernels' local memory, and limits.
//! Each cause is what the simulator's books say, and the balance closes.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::event::DeviceIndex;
use memvelope::runtime::Session;
use memvelope::snapshot::{Balance, Line, TermName};
use sim::{cu, in_child};
use std::time::Duration;

const MIB: i64 = 1 << 20;
const HIDDEN: i64 = 100 * MIB;
const SOON: Duration = Duration::from_secs(10);

/// `idle` needs no more local memory than a new context has, `deep` 4 KiB a thread, `deeper` 8 KiB.
const PTX: &std::ffi::CStr = c".version 9.0
.target sm_90
.address_size 64
.visible .entry idle() { ret; }
.visible .entry deep() { ret; }
.visible .entry deeper() { ret; }
";

const KERNELS: &str = "[kernels.named.deep]\nlocal_bytes = 4096\n[kernels.named.deeper]\n\
     local_bytes = 8192\n";

/// One device that grows: 4 MiB a module and 8 MiB more when it is first launched from; 1 KiB for
/// each of 264 Ki threads is 264 MiB.
const DEVICE: &str = "[[devices]]\ncontext_bytes = 314572800\nmodule_bytes = 4194304\n\
     hidden_bytes = 104857600\nlazy_module_bytes = 8388608\nlocal_memory_threads = 270336\n\
     limits_take_memory = true\n";

fn scenario() -> String {
    format!("{KERNELS}{DEVICE}")
}

fn enter_context() {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
}

fn load() -> u64 {
    let mut module = 0;
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    module
}

fn launch(module: u64, name: &std::ffi::CStr) {
    let (mut function, none) = (0, std::ptr::null_mut());
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, name.as_ptr()), 0);
    assert_eq!(cu::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, none, none), 0);
    assert_eq!(cu::cuCtxSynchronize(), 0);
}

fn set_limit(limit: u32, mib: usize) {
    assert_eq!(cu::cuCtxSetLimit(limit, mib << 20), 0);
}

/// A session that has looked once, so that what comes is told from what was there.
fn session() -> Session {
    assert_eq!(cu::cuInit(0), 0);
    let session = Session::start(&Config::default()).unwrap();
    enter_context();
    // CUPTI's id of a context is learned at an allocation in it.
    let mut address = 0;
    assert_eq!(cu::cuMemAlloc_v2(&mut address, 2 << 20), 0);
    let _ = session.snapshot_now();
    session
}

fn part(context: &Line, name: &str) -> i64 {
    context.parts.iter().filter(|part| part.name == name).map(|part| part.bytes).sum()
}

/// One that is not torn: the session's own threads look, too, and may be put aside in the middle.
fn balance(session: &Session) -> Balance {
    for _ in 0..100 {
        let snapshot = session.snapshot_now();
        let balance = snapshot.device(DeviceIndex(0)).unwrap().balance.clone().unwrap();
        if !balance.is_torn {
            return balance;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("torn a hundred times");
}

/// Looks when everything that kernels tell has come.
fn context_line(session: &Session) -> Option<Line> {
    session.flush(SOON).unwrap();
    let balance = balance(session);
    let sum: i64 = balance.lines.iter().map(|line| line.bytes).sum();
    assert_eq!(sum, balance.used_bytes.0 as i64);
    assert_eq!(balance.unaccounted_bytes(), Some(HIDDEN), "{balance:#?}\n{}", sim::books());
    balance.line(TermName::Context).cloned()
}

/// Each cause is what the books say, and nothing is left over. The error bar is at most so much.
fn check(when: &str, session: &Session, error_mib: u64) {
    let line = context_line(session).unwrap();
    let books = &sim::books()["devices"][0]["growth"];
    for (name, key) in [
        ("lazily loaded modules", "lazy_modules_bytes"),
        ("local memory", "local_memory_bytes"),
        ("limits", "limits_bytes"),
        ("modules", "modules_bytes"),
    ] {
        let expect = books[key].as_i64().unwrap();
        assert_eq!(part(&line, name), expect, "{when}: {name} of {line:#?}\n{books}");
    }
    let error = line.error_bytes.0;
    assert!(error <= error_mib << 20, "{when}: {error}");
}

#[test]
fn each_cause_is_what_the_books_say() {
    in_child("each_cause_is_what_the_books_say", &scenario(), || {
        let session = session();
        check("a context", &session, 0);
        let module = load();
        check("loaded, not launched", &session, 0);
        launch(module, c"idle");
        check("launched", &session, 0);
        launch(module, c"deep");
        // What a record says is a page off at most.
        check("a deep stack", &session, 2);
        launch(module, c"idle");
        launch(module, c"deep");
        check("nothing new", &session, 2);
        launch(module, c"deeper");
        check("a deeper one", &session, 4);
        set_limit(1, 3);
        set_limit(2, 13);
        check("buffers", &session, 4);
        set_limit(2, 8);
        check("one buffer as before", &session, 4);
        let second = load();
        // Both in one launch, and its record comes after the next look.
        launch(second, c"idle");
        check("a second module", &session, 4);
        assert_eq!(cu::cuDevicePrimaryCtxReset_v2(0), 0);
        assert_eq!(cu::cuCtxSetCurrent(0), 0);
        let gone = context_line(&session);
        let left = gone.as_ref().map_or(0, |line| line.bytes);
        assert_eq!(left, 0, "with the context, all that it took: {gone:#?} {}", sim::books());
    });
}

/// The first kernel of a context both loads its module and raises local memory. Nothing was allocated
/// in the context, so that CUPTI's number of it is not known.
#[test]
fn one_launch_may_have_two_causes() {
    in_child("one_launch_may_have_two_causes", &scenario(), || {
        assert_eq!(cu::cuInit(0), 0);
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        let _ = session.snapshot_now();
        let module = load();
        launch(module, c"deep");
        check("both", &session, 2);
        assert_eq!(cu::cuDevicePrimaryCtxReset_v2(0), 0);
        assert_eq!(cu::cuCtxSetCurrent(0), 0);
        let left = context_line(&session).map_or(0, |line| line.bytes);
        assert_eq!(left, 0, "with the context, all that it took");
    });
}

#[test]
fn a_record_may_come_after_the_look() {
    in_child("a_record_may_come_after_the_look", &scenario(), || {
        let session = session();
        let module = load();
        launch(module, c"idle");
        check("launched", &session, 0);
        launch(module, c"deep");
        for _ in 0..3 {
            let _ = session.snapshot_now();
        }
        check("late", &session, 2);
    });
}

/// The stack's limit is local memory, too: it was measured when it was set, and kernels that need no
/// more tell of it again.
#[test]
fn a_limit_is_not_counted_twice() {
    in_child("a_limit_is_not_counted_twice", &scenario(), || {
        let session = session();
        let module = load();
        launch(module, c"idle");
        check("before", &session, 0);
        assert_eq!(cu::cuCtxSetLimit(0, 8192), 0);
        let line = context_line(&session).unwrap();
        let expect = 7 * 264 * MIB;
        assert_eq!((part(&line, "limits"), part(&line, "local memory")), (expect, 0));
        launch(module, c"deeper");
        let line = context_line(&session).unwrap();
        assert_eq!((part(&line, "limits"), part(&line, "local memory")), (expect, 0));
        assert_eq!(line.error_bytes.0, 0);
    });
}

/// Without a witness nothing is the context's: what the driver takes meanwhile stays unaccounted for.
#[test]
fn what_has_no_witness_stays_unaccounted_for() {
    let hidden = "hidden_steps = [{ after_ns = 3600000000000, bytes = 209715200 }]\n";
    let scenario = format!("{}{hidden}", scenario());
    in_child("what_has_no_witness_stays_unaccounted_for", &scenario, || {
        let session = session();
        let module = load();
        launch(module, c"deep");
        check("before", &session, 2);
        sim::advance(3_600_000_000_000);
        launch(module, c"deep");
        session.flush(SOON).unwrap();
        let balance = balance(&session);
        assert_eq!(balance.unaccounted_bytes(), Some(200 * MIB), "{balance:#?}");
    });
}
