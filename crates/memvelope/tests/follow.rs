//! Gates that follow the measured envelope, on the simulated driver.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::admission::{Gate, GateConfig};
use memvelope::config::Config;
use memvelope::envelope::{Declared, Envelope, Why};
use memvelope::event::{Tag, tagged};
use memvelope::model::Layout;
use memvelope::runtime::{FollowConfig, FollowStatus, Mode, Session};
use memvelope::units::{Blocks, Bytes, Tokens};
use sim::{cu, in_child, in_child_with};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;
const SOON: Duration = Duration::from_secs(20);
/// Blocks of the built-in model: 16 tokens.
const BLOCK: u64 = 2 << 20;

/// Another process takes 8 GiB after 5 s, and gives them back after 10.
const CO_TENANT: &str = "[[devices]]\n[[devices.co_tenants]]\npid = 77\nbytes = 1073741824\n\
    steps = [{ after_ns = 5000000000, bytes = 9663676416 }, \
             { after_ns = 10000000000, bytes = 1073741824 }]\n";

fn advance(ns: u64) {
    // SAFETY: the simulator, which is loaded already; the declared type.
    unsafe {
        let library = libloading::Library::new("libcuda.so.1").unwrap();
        library.get::<unsafe extern "C" fn(u64)>(b"memvelope_sim_advance\0").unwrap()(ns);
    }
}

fn enter_context() {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
}

fn allocate(bytes: usize, tag: Tag) -> u64 {
    let _tag = tagged(tag);
    let mut address = 0;
    assert_eq!(cu::cuMemAlloc_v2(&mut address, bytes), 0);
    address
}

fn start() -> Session {
    let (config, problems) = Config::from_env();
    assert!(problems.is_empty(), "{problems:?}");
    Session::start(&config).unwrap()
}

fn plan(total: u64) -> Envelope {
    Envelope::plan(Bytes(total), &Layout::builtin_8b(), &Declared::default()).unwrap()
}

fn gate(plan: &Envelope) -> Gate {
    let config = GateConfig::new(plan.kv_capacity_blocks, plan.curve, Tokens(8192));
    Gate::new(config).unwrap()
}

fn capacity(gate: &Gate) -> u64 {
    gate.usage().capacity_blocks.0
}

/// Waits for the poll thread.
fn until(what: &str, status: impl Fn() -> FollowStatus, done: impl Fn(&FollowStatus) -> bool) {
    let deadline = Instant::now() + SOON;
    while !done(&status()) {
        assert!(Instant::now() < deadline, "{what}: {:?}", status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// At the poll period, without anybody asking: down at once, up when it lasted.
#[test]
fn a_co_tenant_lowers_the_gate_and_leaving_raises_it_late() {
    let period = std::path::Path::new("100");
    let test = "a_co_tenant_lowers_the_gate_and_leaving_raises_it_late";
    in_child_with(test, CO_TENANT, &[("MEMVELOPE_POLL_PERIOD_MS", period)], || {
        let session = start();
        assert!(matches!(session.mode(), Mode::Cupti(_)), "{:?}", session.mode());
        enter_context();
        allocate(16_060_522_496, Tag::Weights);
        let kv = allocate(4096 * MIB, Tag::KvCache);
        session.sample();
        let device = session.snapshot().devices[0].clone();
        // What is there now is the plan, so that what comes later is all that moves.
        let plan =
            Envelope::measured(&device, &Layout::builtin_8b(), &Declared::default()).unwrap();
        let gate = gate(&plan);
        let mut config = FollowConfig::new(plan.clone());
        config.settings.rise_readings = 5;
        let follow = session.follow(&gate, config).unwrap();
        let before = capacity(&gate);
        assert_eq!(before, plan.kv_capacity_blocks.0, "{:?}", follow.status());
        let readings = || follow.status().readings;

        // A cache that fills changes nothing: its bytes are part of the capacity.
        let more = allocate(1024 * MIB, Tag::KvCache);
        let seen = readings();
        until("more readings", || follow.status(), |status| status.readings > seen + 1);
        assert_eq!(capacity(&gate), before, "{:?}", follow.status());

        advance(5_000_000_000);
        until("the fall", || follow.status(), |status| status.why == Why::Fell);
        assert_eq!(before - capacity(&gate), 8 * GIB / BLOCK, "{:?}", follow.status());

        assert_eq!(cu::cuMemFree_v2(more), 0);
        assert_eq!(cu::cuMemFree_v2(kv), 0);
        let fallen = readings();
        advance(5_000_000_000);
        until("the rise", || follow.status(), |status| status.why == Why::Rose);
        assert!(readings() >= fallen + 5, "{:?}", follow.status());
        assert_eq!(capacity(&gate), before, "{:?}", follow.status());
        drop(follow);
        session.stop(SOON).unwrap();
    });
}

/// The library plans, the device answers: term by term.
#[test]
fn a_plan_is_measured_on_a_device() {
    in_child("a_plan_is_measured_on_a_device", "", || {
        let session = start();
        enter_context();
        allocate(16_060_522_496, Tag::Weights);
        allocate(300 * MIB, Tag::Untagged);
        session.sample();
        let snapshot = session.snapshot();
        let device = &snapshot.devices[0];
        let plan = plan(80 * GIB);
        let measured = plan.measure(device, &Declared::default()).unwrap();
        let used = device.total_bytes.unwrap().0 - device.free_bytes.unwrap().0;
        let in_use = measured.envelope.terms.iter().filter_map(|term| term.in_use_bytes);
        assert_eq!(in_use.sum::<i64>(), used as i64, "{measured}");
        let off_by = |name| measured.deviation(name).map(|line| line.off_by_bytes);
        use memvelope::snapshot::TermName;
        assert_eq!(off_by(TermName::Weights), Some(0), "{measured}");
        assert_eq!(off_by(TermName::Libraries), Some(300 * MIB as i64), "{measured}");
        session.stop(SOON).unwrap();
    });
}

/// Without CUPTI nobody knows what of it all is KV cache: the gate keeps what was declared, and
/// follows once it is told.
#[test]
fn polling_follows_what_is_declared() {
    let test = "polling_follows_what_is_declared";
    in_child_with(test, CO_TENANT, &[("MEMVELOPE_RECORD", std::path::Path::new("poll"))], || {
        let session = start();
        assert!(matches!(session.mode(), Mode::Polling(_)));
        enter_context();
        allocate(16_060_522_496, Tag::Weights);
        allocate(40 * GIB as usize, Tag::KvCache);
        // NVML's list, which has this process now, is asked for once a second.
        std::thread::sleep(Duration::from_millis(1100));
        session.sample();
        let plan = plan(80 * GIB);
        let gate = gate(&plan);
        let follow = session.follow(&gate, FollowConfig::new(plan.clone())).unwrap();
        let status = follow.status();
        assert_eq!((status.why, status.capacity_blocks), (Why::Absent, plan.kv_capacity_blocks));
        assert!(status.problem.contains("single allocations go unseen"), "{status:?}");
        drop(follow);
        let mut config = FollowConfig::new(plan.clone());
        config.declared.kv_untagged = Some(Bytes(40 * GIB));
        let follow = session.follow(&gate, config).unwrap();
        let first = follow.status();
        // The co-tenant and what the driver hides are not in the plan.
        assert_eq!(first.why, Why::Fell, "{first:?}");
        assert_eq!(first.kv_bytes, Some(Bytes(40 * GIB)));
        advance(5_000_000_000);
        session.sample();
        let second = follow.update();
        let fell = Blocks(first.capacity_blocks.0 - second.capacity_blocks.0);
        assert_eq!(fell, Blocks(8 * GIB / BLOCK), "{second:?}");
        session.stop(SOON).unwrap();
    });
}
