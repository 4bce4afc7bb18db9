//! The balance on the simulator: what the driver hides is unaccounted for, to the byte.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::event::DeviceIndex;
use memvelope::framework::{Framework, Segment};
use memvelope::runtime::Session;
use memvelope::snapshot::{Balance, DeviceSnapshot, FindingKind, Snapshot, TermName};
use memvelope::units::Bytes;
use sim::{PTX, cu, in_child, in_children};
use std::time::Duration;

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

fn device(snapshot: &Snapshot) -> &DeviceSnapshot {
    snapshot.device(DeviceIndex(0)).unwrap()
}

fn balance(snapshot: &Snapshot) -> &Balance {
    device(snapshot).balance.as_ref().unwrap()
}

fn line(balance: &Balance, term: TermName) -> Option<(i64, u64)> {
    balance.line(term).map(|line| (line.bytes, line.error_bytes.0))
}

/// What is shown when it is wrong.
fn table(balance: &Balance) -> String {
    let lines = balance.lines.iter().map(|line| {
        let (term, error) = (line.term.label(), line.error_bytes.0);
        format!("\n{term:>16} {:>14} ± {error} {:?} {}", line.bytes, line.parts, line.note)
    });
    format!("used {} {}", balance.used_bytes.0, lines.collect::<String>())
}

/// What is unaccounted for is `hidden`, without an error bar, and nothing is torn.
fn check(when: &str, session: &Session, hidden: i64) {
    let snapshot = session.snapshot_now();
    let balance = balance(&snapshot);
    assert!(!balance.is_torn, "{when}: {}", table(balance));
    let unaccounted = balance.unaccounted_bytes();
    assert_eq!(unaccounted, Some(hidden), "{when}: {}\n{}", table(balance), sim::books());
    let sum: i64 = balance.lines.iter().map(|line| line.bytes).sum();
    assert_eq!(sum, balance.used_bytes.0 as i64, "{when}");
}

fn enter_context() -> u64 {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    context
}

fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    assert_eq!(cu::cuMemAlloc_v2(&mut address, bytes), 0);
    address
}

fn load() -> u64 {
    let mut module = 0;
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    module
}

/// One device with so many hidden bytes, and more of its keys.
fn scenario(hidden: u64, more: &str) -> String {
    format!(
        "{more}\n[[devices]]\ncontext_bytes = 314572800\nmodule_bytes = 4194304\nhidden_bytes = {hidden}\n"
    )
}

fn hidden() -> i64 {
    std::env::var("HIDDEN").unwrap().parse().unwrap()
}

/// Contexts, modules, plain memory, VMM, pools, pinned and managed memory, in turn.
#[test]
fn what_the_driver_hides_is_unaccounted_for() {
    let cases = [
        (scenario(0, ""), &[("HIDDEN", "0")][..]),
        (scenario(100 << 20, ""), &[("HIDDEN", "104857600")][..]),
        (scenario(1234 << 21, "cupti = \"12.4\""), &[("HIDDEN", "2587885568")][..]),
        (scenario(96 << 20, "[cupti]\ndevice_buffer_bytes = 3200000"), &[("HIDDEN", "100663296")]),
    ];
    in_children("what_the_driver_hides_is_unaccounted_for", &cases, || {
        let hidden = hidden();
        assert_eq!(cu::cuInit(0), 0);
        let session = Session::start(&Config::default()).unwrap();
        check("without a context", &session, hidden);
        enter_context();
        check("with a context", &session, hidden);
        let module = load();
        check("with a module", &session, hidden);
        let plain = [allocate(700 * MIB), allocate(3 * MIB), allocate(100), allocate(5)];
        check("plain", &session, hidden);
        let (props, bytes) = ([1, 0, 1, 0], 64 * MIB);
        let (mut handle, mut address) = (0, 0);
        assert_eq!(cu::cuMemAddressReserve(&mut address, bytes, 0, 0, 0), 0);
        assert_eq!(cu::cuMemCreate(&mut handle, bytes, &props, 0), 0);
        assert_eq!(cu::cuMemMap(address, bytes, 0, handle, 0), 0);
        assert_eq!(cu::cuMemRelease(handle), 0);
        check("VMM, mapped only", &session, hidden);
        assert_eq!(cu::cuMemUnmap(address, bytes), 0);
        check("VMM, gone", &session, hidden);
        let (mut pinned, mut pooled, mut own) = (0, 0, 0);
        assert_eq!(cu::cuMemHostAlloc(&mut pinned, 512 * MIB, 0), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut pooled, 40 * MIB, 0), 0);
        check("pinned, and the default pool", &session, hidden);
        let pool = make_pool();
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut own, 10 * MIB, pool, 0), 0);
        check("a pool of its own", &session, hidden);
        assert_eq!(cu::cuMemFreeAsync(own, 0), 0);
        assert_eq!(cu::cuMemPoolDestroy(pool), 0);
        check("which is gone", &session, hidden);
        let mut second = 0;
        assert_eq!(cu::cuCtxCreate_v2(&mut second, 0, 0), 0);
        load();
        allocate(30 * MIB);
        check("a second context", &session, hidden);
        assert_eq!(cu::cuCtxDestroy_v2(second), 0);
        enter_context();
        check("which is gone with what it had", &session, hidden);
        plain.into_iter().for_each(|address| assert_eq!(cu::cuMemFree_v2(address), 0));
        assert_eq!(cu::cuModuleUnload(module), 0);
        check("freed", &session, hidden);
        let balance = session.snapshot();
        let context = line(self::balance(&balance), TermName::Context).unwrap();
        assert!(context.0 > 280 << 20, "{context:?}");
        session.stop(SOON).unwrap();
    });
}

/// The program has contexts of its own alone, and our threads none: pools and graphs are asked all the
/// same.
#[test]
fn pools_are_asked_without_a_primary_context() {
    let cases = [(scenario(100 << 20, ""), &[("HIDDEN", "104857600")][..])];
    in_children("pools_are_asked_without_a_primary_context", &cases, || {
        let session = Session::start(&Config::default()).unwrap();
        let from_another_thread = |when: &str| {
            std::thread::scope(|scope| {
                let there = scope.spawn(|| check(when, &session, hidden()));
                assert!(there.join().is_ok(), "{when}");
            });
        };
        assert_eq!(cu::cuInit(0), 0);
        let (mut context, mut pooled, mut own) = (0, 0, 0);
        assert_eq!(cu::cuCtxCreate_v2(&mut context, 0, 0), 0);
        from_another_thread("a context");
        assert_eq!(cu::cuMemAllocAsync(&mut pooled, 40 * MIB, 0), 0);
        let pool = make_pool();
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut own, 10 * MIB, pool, 0), 0);
        from_another_thread("two pools");
        assert_eq!(cu::cuDevicePrimaryCtxReset_v2(0), 0);
        from_another_thread("there was no primary context to reset");
        assert_eq!(cu::cuMemFreeAsync(own, 0), 0);
        assert_eq!(cu::cuStreamSynchronize(0), 0);
        from_another_thread("one of them empty");
        assert_eq!(cu::cuMemPoolDestroy(pool), 0);
        from_another_thread("and gone");
        check("as the program's thread sees it", &session, hidden());
        session.stop(SOON).unwrap();
    });
}

/// The program's pools end with a reset of the device, and nobody asks them any more.
#[test]
fn a_reset_ends_the_programs_pools() {
    let cases = [(scenario(100 << 20, ""), &[("HIDDEN", "104857600")][..])];
    in_children("a_reset_ends_the_programs_pools", &cases, || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        let (mut pooled, mut own) = (0, 0);
        let mut keep = u64::MAX;
        let pool = make_pool();
        assert_eq!(cu::cuMemPoolSetAttribute(pool, 4, &mut keep), 0);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut own, 30 * MIB, pool, 0), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut pooled, 40 * MIB, 0), 0);
        check("two pools", &session, hidden());
        assert_eq!(cu::cuDevicePrimaryCtxReset_v2(0), 0);
        check("after the reset", &session, hidden());
        let snapshot = session.snapshot();
        let pools: Vec<_> = device(&snapshot).totals.pools.iter().map(|it| it.pool).collect();
        assert!(!pools.contains(&pool), "{pools:?}");
        enter_context();
        let pool = make_pool();
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut own, 20 * MIB, pool, 0), 0);
        check("anew", &session, hidden());
        session.stop(SOON).unwrap();
    });
}

/// A program takes back in what it exported itself, and lets the first handle go.
#[test]
fn an_import_of_the_programs_own_keeps_the_bytes() {
    let cases = [(scenario(100 << 20, ""), &[("HIDDEN", "104857600")][..])];
    in_children("an_import_of_the_programs_own_keeps_the_bytes", &cases, || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        let (props, bytes) = ([1, 1, 1, 0], 32 * MIB);
        let (mut handle, mut import, mut address, mut descriptor) = (0, 0, 0, -1_i32);
        assert_eq!(cu::cuMemCreate(&mut handle, bytes, &props, 0), 0);
        assert_eq!(cu::cuMemExportToShareableHandle(&mut descriptor, handle, 1, 0), 0);
        assert_eq!(cu::cuMemRelease(handle), 0);
        check("the descriptor alone", &session, hidden());
        let by_number = u64::from(descriptor.unsigned_abs());
        assert_eq!(cu::cuMemImportFromShareableHandle(&mut import, by_number, 1), 0);
        // SAFETY: the descriptor is this test's.
        drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(descriptor) });
        check("the import alone", &session, hidden());
        assert_eq!(cu::cuMemAddressReserve(&mut address, bytes, 0, 0, 0), 0);
        assert_eq!(cu::cuMemMap(address, bytes, 0, import, 0), 0);
        assert_eq!(cu::cuMemRelease(import), 0);
        check("its mapping alone", &session, hidden());
        let held = session.snapshot().device(DeviceIndex(0)).unwrap().totals.vram.live_bytes;
        assert_eq!(held, Bytes(32 << 20));
        assert_eq!(cu::cuMemUnmap(address, bytes), 0);
        check("nothing", &session, hidden());
        let held = session.snapshot().device(DeviceIndex(0)).unwrap().totals.vram.live_bytes;
        assert_eq!(held, Bytes(0));
        session.stop(SOON).unwrap();
    });
}

/// A framework plane that has segments which the driver never handed out, of so many bytes.
fn invented(bytes: u64) -> Framework {
    let bytes = Bytes(bytes);
    let segment = Segment {
        address: 0x7777_0000_0000,
        bytes,
        active_bytes: bytes,
        requested_bytes: bytes,
        ..Segment::default()
    };
    Framework {
        turnover: 1,
        requested_bytes: bytes,
        allocated_bytes: bytes,
        active_bytes: bytes,
        reserved_bytes: bytes,
        segments: vec![segment],
        ..Framework::default()
    }
}

/// What is counted although nobody holds it is missing, to the byte.
#[test]
fn what_is_counted_twice_is_missing() {
    let cases = [(scenario(100 << 20, ""), &[("HIDDEN", "104857600")][..])];
    in_children("what_is_counted_twice_is_missing", &cases, || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        allocate(64 * MIB);
        check("before", &session, hidden());
        for twice in [48 << 20, 196 << 20, 12_345_678_i64] {
            session.accept_framework(invented(twice as u64));
            check("counted twice", &session, hidden() - twice);
            let mut calls = 0;
            let mut read = || {
                calls += 1;
                Some(invented(twice as u64 + 4096))
            };
            let epoch = session.read_epoch(DeviceIndex(0), Some(&mut read)).unwrap();
            // Again, where the poll thread books what it was told just then.
            assert!(!epoch.is_torn && epoch.matched.len() == 1, "{epoch:?}");
            assert!((1..=8).contains(&calls), "{calls}");
            let last = session.snapshot();
            assert_eq!(balance(&last).unaccounted_bytes(), Some(hidden() - twice - 4096));
        }
        session.accept_framework(invented(196 << 20));
        let snapshot = session.snapshot_now();
        let findings = &balance(&snapshot).findings;
        assert!(findings.iter().any(|it| it.kind == FindingKind::CountedTwice), "{findings:?}");
        // The driver hands out something: what was told may hold no more.
        allocate(MIB);
        check("told no more", &session, hidden());
        session.stop(SOON).unwrap();
    });
}

/// Attached late: what was there before is the opening balance, and the rest is as exact.
#[test]
fn a_late_attachment_has_an_opening_balance() {
    let cases = [(scenario(100 << 20, ""), &[("HIDDEN", "104857600")][..])];
    in_children("a_late_attachment_has_an_opening_balance", &cases, || {
        assert_eq!(cu::cuInit(0), 0);
        enter_context();
        load();
        allocate(70 * MIB);
        let session = Session::start(&Config::default()).unwrap();
        check("attached", &session, hidden());
        allocate(33 * MIB);
        load();
        check("and more", &session, hidden());
        let snapshot = session.snapshot();
        let opening = line(balance(&snapshot), TermName::OpeningBalance).unwrap();
        assert_eq!(opening, ((300 + 4 + 70) << 20, 0));
        session.stop(SOON).unwrap();
    });
}

/// Another process is told apart by NVML, whatever it does.
#[test]
fn other_processes_are_a_line_of_their_own() {
    let more = "[[devices.co_tenants]]\npid = 4242\nbytes = 1073741824\n\
                steps = [{ after_ns = 5000000000, bytes = 8589934592 }]\n";
    let text = scenario(100 << 20, "") + more;
    let cases = [(text, &[("HIDDEN", "104857600")][..])];
    in_children("other_processes_are_a_line_of_their_own", &cases, || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        check("before", &session, hidden());
        sim::advance(6_000_000_000);
        // NVML's list is asked for once a second.
        std::thread::sleep(Duration::from_millis(1100));
        check("after", &session, hidden());
        let snapshot = session.snapshot();
        let others = line(balance(&snapshot), TermName::OtherProcesses).unwrap();
        assert_eq!(others, (8 << 30, 7 << 30), "what they moved by is the error bar");
        assert_eq!(device(&snapshot).others_moved_bytes.unwrap().0, 7 << 30);
        session.stop(SOON).unwrap();
    });
}

/// Threads that allocate and free all the time tear epochs; then there is an error bar.
#[test]
fn snapshots_while_threads_churn_are_right_or_torn() {
    let cases = [(scenario(100 << 20, ""), &[("HIDDEN", "104857600")][..])];
    in_children("snapshots_while_threads_churn_are_right_or_torn", &cases, || {
        let session = Session::start(&Config::default()).unwrap();
        let context = enter_context();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::Relaxed;
        let (mut torn, mut whole, mut wrong) = (0, 0, Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let is_over = &is_over;
                scope.spawn(move || {
                    assert_eq!(cu::cuCtxSetCurrent(context), 0);
                    while !is_over.load(order) {
                        let address = allocate((thread + 1) * MIB);
                        assert_eq!(cu::cuMemFree_v2(address), 0);
                        std::thread::sleep(Duration::from_micros(300));
                    }
                });
            }
            // Not asserted in here: the threads would go on for ever.
            for _ in 0..300 {
                let snapshot = session.snapshot_now();
                let balance = balance(&snapshot);
                if balance.is_torn {
                    torn += 1;
                    let (rest, error) = line(balance, TermName::Unaccounted).unwrap();
                    let is_right = rest.abs_diff(hidden()) <= error;
                    wrong.extend((!is_right).then(|| table(balance)));
                } else {
                    whole += 1;
                    let is_right = balance.unaccounted_bytes() == Some(hidden());
                    wrong.extend((!is_right).then(|| table(balance)));
                }
            }
            is_over.store(true, order);
        });
        let first = wrong.first().map_or("", String::as_str);
        assert!(wrong.is_empty(), "{} of {whole} and {torn} torn, {first}", wrong.len());
        assert!(whole > 0, "of {torn} torn ones");
        check("at rest", &session, hidden());
        println!("{torn} torn, {whole} whole");
        session.stop(SOON).unwrap();
    });
}

/// Without CUPTI single allocations go unseen, and the balance says so instead of inventing terms.
#[test]
fn polling_only_invents_nothing() {
    let text = format!("subscriber = \"nsys\"\n{}", scenario(100 << 20, ""));
    in_child("polling_only_invents_nothing", &text, || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        allocate(64 * MIB);
        let snapshot = session.snapshot_now();
        let balance = balance(&snapshot);
        assert_eq!(line(balance, TermName::Context), None, "{}", table(balance));
        assert!(
            balance.findings.iter().any(|it| it.kind == FindingKind::Unseen),
            "{}",
            table(balance)
        );
        session.stop(SOON).unwrap();
    });
}

fn make_pool() -> u64 {
    let properties = [[1u32, 0, 1, 0], [0; 4], [0; 4], [0; 4], [0; 4], [0; 4]];
    let mut pool = 0;
    assert_eq!(cu::cuMemPoolCreate(&mut pool, properties.as_ptr()), 0);
    pool
}

fn from_pool(pool: u64, bytes: usize) -> u64 {
    let mut address = 0;
    assert_eq!(cu::cuMemAllocFromPoolAsync(&mut address, bytes, pool, 0), 0);
    address
}

/// What a pool held before we came is in the opening balance, and not in the pool beside it.
#[test]
fn a_pool_that_was_there_before_counts_once() {
    let cases = [
        (scenario(0, ""), &[("HIDDEN", "0"), ("DEFAULT", "0")][..]),
        (scenario(0, ""), &[("HIDDEN", "0"), ("DEFAULT", "1")][..]),
    ];
    in_children("a_pool_that_was_there_before_counts_once", &cases, || {
        assert_eq!(cu::cuInit(0), 0);
        enter_context();
        let mut pool = 0;
        if std::env::var("DEFAULT").unwrap() == "1" {
            assert_eq!(cu::cuDeviceGetDefaultMemPool(&mut pool, 0), 0);
        } else {
            pool = make_pool();
        }
        let first = from_pool(pool, 100 * MIB);
        let session = Session::start(&Config::default()).unwrap();
        check("attached late", &session, 0);
        let second = from_pool(pool, 40 * MIB);
        check("it is named", &session, 0);
        assert_eq!(cu::cuMemFreeAsync(second, 0), 0);
        check("freed", &session, 0);
        assert_eq!(cu::cuMemFreeAsync(first, 0), 0);
        assert_eq!(cu::cuMemPoolTrimTo(pool, 0), 0);
        check("trimmed", &session, 0);
        let snapshot = session.snapshot();
        let context = 300 << 20;
        assert_eq!(line(balance(&snapshot), TermName::OpeningBalance).unwrap().0, context);
        session.stop(SOON).unwrap();
    });
}

/// What ended while nobody watched holds nothing, and what CUPTI has of a context from before the
/// gap lies in the opening balance.
#[test]
fn a_pool_that_ended_in_a_pause_is_forgotten() {
    in_child("a_pool_that_ended_in_a_pause_is_forgotten", &scenario(0, ""), || {
        assert_eq!(cu::cuInit(0), 0);
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        let (ends, stays) = (make_pool(), make_pool());
        let first = from_pool(ends, 100 * MIB);
        from_pool(stays, 10 * MIB);
        check("pools", &session, 0);
        session.pause("a test").unwrap();
        assert_eq!(cu::cuMemFreeAsync(first, 0), 0);
        assert_eq!(cu::cuMemPoolDestroy(ends), 0);
        assert!(session.resume());
        check("resumed", &session, 0);
        let pools = device(&session.snapshot()).totals.pools.clone();
        assert!(
            pools.iter().all(|pool| pool.reserved_bytes.unwrap_or_default().0 == 0),
            "{pools:?}"
        );
        from_pool(stays, 10 * MIB);
        allocate(10 * MIB);
        check("and went on", &session, 0);
        let snapshot = session.snapshot();
        let pooled = line(balance(&snapshot), TermName::Libraries).unwrap().0;
        assert_eq!(pooled, 20 << 20);
        session.stop(SOON).unwrap();
    });
}

/// The same where the program's pool is the current one, and takes what it had in reserve.
#[test]
fn a_current_pool_that_was_there_before_is_asked_first() {
    let name = "a_current_pool_that_was_there_before_is_asked_first";
    in_child(name, &scenario(0, ""), || {
        assert_eq!(cu::cuInit(0), 0);
        enter_context();
        assert_eq!(cu::cuDeviceSetMemPool(0, make_pool()), 0);
        let (mut first, mut second) = (0, 0);
        assert_eq!(cu::cuMemAllocAsync(&mut first, 100 * MIB, 0), 0);
        let session = Session::start(&Config::default()).unwrap();
        check("attached late", &session, 0);
        assert_eq!(cu::cuMemAllocAsync(&mut second, 40 * MIB, 0), 0);
        check("it is met", &session, 0);
        session.stop(SOON).unwrap();
    });
}

/// What is allocated from a pool in host memory, or while a stream is captured, takes no VRAM.
#[test]
fn host_pools_and_captures_take_nothing() {
    in_child("host_pools_and_captures_take_nothing", &scenario(0, ""), || {
        assert_eq!(cu::cuInit(0), 0);
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        let in_host_memory = [[1_u32, 0, 2, 0], [0; 4], [0; 4], [0; 4], [0; 4], [0; 4]];
        let mut pool = 0;
        assert_eq!(cu::cuMemPoolCreate(&mut pool, in_host_memory.as_ptr()), 0);
        from_pool(pool, 50 * MIB);
        check("from a pool in host memory", &session, 0);
        let (mut stream, mut graph, mut node) = (0, 0, 0);
        assert_eq!(cu::cuStreamCreate(&mut stream, 1), 0);
        assert_eq!(cu::cuStreamBeginCapture_v2(stream, 0), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut node, 30 * MIB, stream), 0);
        assert_eq!(cu::cuMemFreeAsync(node, stream), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut node, 20 * MIB, stream), 0);
        assert_eq!(cu::cuStreamEndCapture(stream, &mut graph), 0);
        check("captured", &session, 0);
        session.stop(SOON).unwrap();
    });
}
