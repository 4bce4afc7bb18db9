//! The balance where something is amiss: slices, lost devices, a driver that goes down, hidden bytes
//! that move, forks.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::event::DeviceIndex;
use memvelope::runtime::Session;
use memvelope::snapshot::{Balance, FindingKind, Fit, Snapshot, TermName, Via};
use memvelope::units::Bytes;
use sim::{cu, in_child, in_children};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

fn balance(snapshot: &Snapshot) -> &Balance {
    snapshot.device(DeviceIndex(0)).unwrap().balance.as_ref().unwrap()
}

fn enter_context() {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
}

fn allocate(bytes: usize) -> u32 {
    let mut address = 0;
    cu::cuMemAlloc_v2(&mut address, bytes)
}

/// A slice is asked by its own handle, for its memory and for who else is on it.
#[test]
fn a_slice_is_not_taken_for_its_parent() {
    let scenario = "[[devices]]\ntotal_bytes = 21474836480\nhidden_bytes = 104857600\n\
                    uuid = \"MIG-00000000-0000-4000-8000-000000000007\"\n\
                    mig_of = \"GPU-00000000-0000-4000-8000-000000000001\"\n\
                    [[devices.co_tenants]]\npid = 7\nbytes = 1073741824\n";
    in_child("a_slice_is_not_taken_for_its_parent", scenario, || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        assert_eq!(allocate(640 * MIB), 0);
        let snapshot = session.snapshot_now();
        let device = snapshot.device(DeviceIndex(0)).unwrap();
        assert!(device.uuid.starts_with("MIG-"), "{}", device.uuid);
        assert_eq!(device.total_bytes, Some(Bytes(20 << 30)));
        let used = device.total_bytes.unwrap().0 - device.free_bytes.unwrap().0;
        assert_eq!(device.nvml_used_bytes, Some(Bytes(used)), "of the slice, not of its parent");
        let balance = balance(&snapshot);
        let line = |term| balance.line(term).map(|line| line.bytes);
        assert_eq!(line(TermName::OtherProcesses), Some(1 << 30), "{balance:#?}");
        assert_eq!(balance.unaccounted_bytes(), Some(104_857_600), "{balance:#?}");
        session.stop(SOON).unwrap();
    });
}

/// What the driver takes for itself later is unaccounted for, and its growth is noticed.
#[test]
fn hidden_bytes_that_grow_are_noticed() {
    let steps: String = (1..=6)
        .map(|step| {
            let (after, bytes) = (step * 1_000_000_000_u64, (100 + step * 500) << 20);
            format!("{{ after_ns = {after}, bytes = {bytes} }},")
        })
        .collect();
    let scenario = format!("[[devices]]\nhidden_bytes = 104857600\nhidden_steps = [{steps}]\n");
    in_child("hidden_bytes_that_grow_are_noticed", &scenario, || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        let mut last = session.snapshot_now();
        let first = balance(&last).unaccounted_bytes().unwrap();
        for _ in 0..5 {
            sim::advance(1_000_000_000);
            last = session.snapshot_now();
        }
        let now = balance(&last).unaccounted_bytes().unwrap();
        assert_eq!(now - first, 5 * 500 * MIB as i64);
        let found =
            balance(&last).findings.iter().any(|it| it.kind == FindingKind::UnexplainedGrows);
        assert!(found, "{:?}", balance(&last).findings);
        session.stop(SOON).unwrap();
    });
}

/// Every call fails from some call on: the last good epoch stays, with its age, and nothing spins,
/// hangs or dies.
#[test]
fn a_lost_device_keeps_its_last_epoch() {
    let lost = |code| {
        let faults = format!("[[faults]]\ncall = \"device_loss\"\ncode = {code}\nnth = 3000\n");
        (format!("[[devices]]\n{faults}"), &[][..])
    };
    in_children("a_lost_device_keeps_its_last_epoch", &[lost(719), lost(999)], || {
        let mut config = Config::default();
        config.poll_period_ms = 600_000;
        let session = Session::start(&config).unwrap();
        enter_context();
        assert_eq!(allocate(64 * MIB), 0);
        session.sample();
        let deadline = Instant::now() + SOON;
        while allocate(MIB) == 0 {
            assert!(Instant::now() < deadline);
        }
        // Our own thread may have been reading when the device went.
        let mut good = session.snapshot();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let last = std::mem::replace(&mut good, session.snapshot());
            if balance(&last) == balance(&good) {
                break;
            }
        }
        let calls = sim::books()["driver_calls"].as_u64().unwrap();
        let lost = session.snapshot_now();
        let after = sim::books()["driver_calls"].as_u64().unwrap();
        assert!(after - calls < 100, "it does not spin: {calls} to {after}");
        assert_eq!(balance(&lost), balance(&good));
        let said = lost.unseen.iter().any(|it| it.starts_with("device 0 since"));
        assert!(said, "{:?}", lost.unseen);
        let fit = session.would_fit(DeviceIndex(0), Bytes(1), Via::Driver);
        assert!(matches!(fit, Fit::Unknown { .. }), "{fit:?}");
        let _ = session.stop(SOON);
        assert!(balance(&session.snapshot()).line(TermName::Context).is_some());
    });
}

/// The driver says that it is being torn down: from then on nobody calls it, frees included.
#[test]
fn after_the_driver_went_down_nobody_calls_it() {
    let scenario = "[[devices]]\n[[faults]]\ncall = \"teardown\"\ncode = 4\nnth = 3000\n";
    in_child("after_the_driver_went_down_nobody_calls_it", scenario, || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        let mut addresses = Vec::new();
        loop {
            let mut address = 0;
            if cu::cuMemAlloc_v2(&mut address, MIB) != 0 {
                break;
            }
            addresses.push(address);
        }
        session.sample();
        let calls = sim::books()["driver_calls"].as_u64().unwrap();
        for _ in 0..10 {
            session.sample();
            assert!(session.read_epoch(DeviceIndex(0), None).is_none());
        }
        assert_eq!(sim::books()["driver_calls"].as_u64().unwrap(), calls);
        addresses.into_iter().for_each(|address| assert_eq!(cu::cuMemFree_v2(address), 4));
        let last = session.snapshot();
        assert!(balance(&last).used_bytes.0 > 0);
        let _ = session.stop(SOON);
    });
}

/// Somebody moves memory in every try: the epoch is torn, says by how much, and stays one.
#[test]
fn memory_that_moves_in_every_try_tears_the_epoch() {
    in_child("memory_that_moves_in_every_try_tears_the_epoch", "", || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        let mut calls = 0;
        let mut read = || {
            calls += 1;
            assert_eq!(allocate(3 * MIB), 0);
            None
        };
        let epoch = session.read_epoch(DeviceIndex(0), Some(&mut read)).unwrap();
        // Two pages in each of the last two tries.
        assert_eq!((epoch.is_torn, epoch.moved_bytes, calls), (true, Bytes(8 << 20), 8));
        let snapshot = session.snapshot();
        let balance = balance(&snapshot);
        assert!(balance.is_torn);
        assert!(balance.findings.iter().any(|it| it.kind == FindingKind::Torn));
        let sum: i64 = balance.lines.iter().map(|line| line.bytes).sum();
        assert_eq!(sum, balance.used_bytes.0 as i64);
        let whole = session.read_epoch(DeviceIndex(0), None).unwrap();
        assert!(!whole.is_torn);
        session.stop(SOON).unwrap();
    });
}

/// A forked child asks nothing and hangs on no lock.
#[test]
fn a_forked_child_asks_nothing() {
    in_child("a_forked_child_asks_nothing", "", || {
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        // SAFETY: the child calls what is under test, and ends at once.
        match unsafe { libc::fork() } {
            0 => {
                let is_silent = session.read_epoch(DeviceIndex(0), None).is_none()
                    && session.snapshot_now().devices.is_empty()
                    && matches!(
                        session.would_fit(DeviceIndex(0), Bytes(1), Via::Driver),
                        Fit::Unknown { .. }
                    );
                session.note_request(DeviceIndex(0), Bytes(1));
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(if is_silent { 0 } else { 1 }) }
            }
            child => {
                let mut status = -1;
                // SAFETY: our own child, and a place for its status.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert_eq!(status, 0);
            }
        }
        session.stop(SOON).unwrap();
    });
}

/// Calls that are under way when CUPTI is given up never return, as far as we see: nobody waits for
/// them afterwards.
#[test]
fn a_pause_amid_calls_tears_nothing_later() {
    in_child("a_pause_amid_calls_tears_nothing_later", "", || {
        assert_eq!(cu::cuInit(0), 0);
        let session = Session::start(&Config::default()).unwrap();
        enter_context();
        for round in 0..20 {
            let (is_over, count) = (AtomicBool::new(false), AtomicU32::new(0));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        enter_context();
                        while !is_over.load(Ordering::Relaxed) {
                            let mut address = 0;
                            assert_eq!(cu::cuMemAlloc_v2(&mut address, 4096), 0);
                            assert_eq!(cu::cuMemFree_v2(address), 0);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                while count.load(Ordering::Relaxed) < 100 {
                    std::thread::yield_now();
                }
                session.pause("a test").unwrap();
                is_over.store(true, Ordering::Relaxed);
            });
            let snapshot = session.snapshot_now();
            assert!(!balance(&snapshot).is_torn, "round {round}");
            session.resume();
            let snapshot = session.snapshot_now();
            assert!(!balance(&snapshot).is_torn, "resumed, round {round}");
        }
        session.stop(std::time::Duration::from_secs(10)).unwrap();
    });
}
