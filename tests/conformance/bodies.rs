//! What must hold on the simulated driver and on a real one. Bodies see the public API and cudarc
//! only, start from a fresh process, and assert nothing that depends on speed or size of a GPU.

use cudarc::driver::{CudaContext, CudaStream, sys};
use memvelope::config::Config;
use memvelope::envelope::{Declared, Envelope, TermName};
use memvelope::event::{AllocKind, Direction, SyncKind};
use memvelope::ledger::Totals;
use memvelope::model::Layout;
use memvelope::runtime::{Mode, Session};
use memvelope::snapshot::Snapshot;
use memvelope::source::driver::Driver;
use memvelope::units::Bytes;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Every body by name.
pub(crate) const BODIES: &[(&str, fn())] = &[
    ("driver_describes_devices", driver_describes_devices),
    ("recorder_attaches", recorder_attaches),
    ("pool_allocations_are_seen_and_released", pool_allocations),
    ("an_allocation_past_the_device_is_an_oom", out_of_memory),
    ("copies_are_counted_and_exact", copies),
    ("memsets_are_counted", memsets),
    ("work_counts_for_its_scope", scopes),
    ("host_waits_are_counted", host_waits),
    ("events_measure_time", events),
    ("planes_agree", planes_agree),
    ("envelope_adds_up", envelope_adds_up),
    ("a_session_can_follow_another", sessions_in_turn),
    ("demo_completes", demo_completes),
];

const FLUSH: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;

fn session() -> Session {
    Session::start(&Config::from_env().0).expect("a session")
}

fn stream() -> Arc<CudaStream> {
    CudaContext::new(0).expect("a context").default_stream()
}

/// Everything done so far, recorded.
fn settled(session: &Session, stream: &CudaStream) -> Snapshot {
    stream.synchronize().expect("the stream ends");
    session.sample();
    session.flush(FLUSH).expect("a flush");
    session.snapshot()
}

fn kind(snapshot: &Snapshot, kind: AllocKind) -> Totals {
    let device = snapshot.devices.iter().find(|device| device.totals.device.0 == 0);
    device.map_or_else(Totals::default, |device| device.totals.by_kind[kind as usize])
}

fn driver_describes_devices() {
    let (driver, report) = Driver::load(&Config::from_env().0);
    let driver = driver.expect("a driver");
    driver.init().expect("cuInit");
    let devices = driver.devices().expect("devices");
    let context = CudaContext::new(0).expect("a context");
    let device = &devices[0];
    assert!(device.uuid.starts_with("GPU-") || device.uuid.starts_with("MIG-"), "{device:?}");
    assert_eq!(device.name, context.name().expect("a name"));
    assert_eq!(device.total_bytes.0, context.total_mem().expect("a total") as u64);
    let (major, minor) = context.compute_capability().expect("a capability");
    assert_eq!(device.compute_capability, (major as u32, minor as u32));
    assert!(driver.version().expect("a version") >= 11_000);
    assert_eq!(report.simulated, driver.simulator_version().is_some());
}

fn recorder_attaches() {
    let session = session();
    let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
    assert!(coverage.callbacks, "{coverage:?}");
    for wanted in ["CONCURRENT_KERNEL", "MEMCPY", "MEMSET", "SYNCHRONIZATION"] {
        assert!(coverage.kinds.iter().any(|kind| kind == wanted), "{coverage:?}");
    }
    for report in session.load_reports() {
        assert!(report.chosen.is_some(), "{report:?}");
    }
}

fn pool_allocations() {
    let session = session();
    let stream = stream();
    let before = kind(&settled(&session, &stream), AllocKind::PoolUsed);
    let memory = stream.alloc_zeros::<u8>(3 * MIB).expect("memory");
    let during = kind(&settled(&session, &stream), AllocKind::PoolUsed);
    assert_eq!(during.live_bytes.0 - before.live_bytes.0, 3 * MIB as u64);
    assert_eq!(during.allocated_count - before.allocated_count, 1);
    drop(memory);
    let after = kind(&settled(&session, &stream), AllocKind::PoolUsed);
    assert_eq!(after.live_bytes, before.live_bytes);
    assert!(after.peak_bytes >= during.live_bytes);
}

fn out_of_memory() {
    let session = session();
    let stream = stream();
    let total = stream.context().total_mem().expect("a total");
    let refused = stream.alloc_zeros::<u8>(total + MIB).expect_err("more than there is");
    assert!(refused.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, "{refused}");
    let totals = kind(&settled(&session, &stream), AllocKind::PoolUsed);
    assert_eq!((totals.failed_count, totals.oom_count), (1, 1));
}

fn copies() {
    let session = session();
    let stream = stream();
    let sent: Vec<u8> = (0..MIB).map(|i| (i * 7) as u8).collect();
    let there = stream.clone_htod(&sent).expect("a copy to the device");
    let back = stream.clone_dtoh(&there).expect("a copy to the host");
    assert!(back == sent);
    let snapshot = settled(&session, &stream);
    for direction in [Direction::HostToDevice, Direction::DeviceToHost] {
        let copies = snapshot.timeline.copies.iter().find(|copy| copy.direction == direction);
        let copies = copies.unwrap_or_else(|| panic!("no {direction:?} in {snapshot:?}"));
        assert_eq!((copies.totals.count, copies.bytes), (1, Bytes(MIB as u64)), "{direction:?}");
        assert!(copies.totals.total_ns.0 > 0);
    }
}

fn memsets() {
    let session = session();
    let stream = stream();
    for _ in 0..5 {
        let zeros = stream.alloc_zeros::<u64>(MIB).expect("memory");
        let first = stream.clone_dtoh(&zeros.slice(0..4)).expect("a copy to the host");
        assert_eq!(first, [0; 4]);
    }
    assert_eq!(settled(&session, &stream).timeline.memsets.totals.count, 5);
}

/// From the id that CUPTI is told to the summary.
fn scopes() {
    let session = session();
    let stream = stream();
    for times in [2, 1] {
        let scope = session.scope(["one", "two"][times - 1], None);
        let kept: Vec<_> = (0..times).map(|_| stream.alloc_zeros::<u8>(MIB)).collect();
        drop(scope);
        let unscoped = stream.alloc_zeros::<u8>(MIB);
        assert!(kept.iter().all(Result::is_ok) && unscoped.is_ok());
    }
    let snapshot = settled(&session, &stream);
    assert_eq!(snapshot.timeline.memsets.totals.count, 5);
    let Mode::Cupti(coverage) = session.mode() else { panic!("{:?}", session.mode()) };
    let summary = serde_json::to_value(&snapshot.timeline).expect("a document");
    let counts = |name: &str| {
        let found = summary["scopes"].as_array()?.iter().find(|row| row["name"] == name)?;
        found["memsets"]["count"].as_u64()
    };
    // A libcupti before 12.5 says that it cannot do it.
    let is_tied = !coverage.missing.iter().any(|why| why.contains("not tied to scopes"));
    let expected = if is_tied { [Some(1), Some(2)] } else { [None, None] };
    assert_eq!(["one", "two"].map(counts), expected, "{:?}", coverage.missing);
}

fn host_waits() {
    let session = session();
    let stream = stream();
    for _ in 0..7 {
        stream.synchronize().expect("a wait");
    }
    stream.context().synchronize().expect("a wait");
    let snapshot = settled(&session, &stream);
    let count = |kind: SyncKind| {
        let found = snapshot.timeline.syncs.iter().find(|sync| sync.kind == kind);
        found.map_or(0, |sync| sync.totals.count)
    };
    assert!(count(SyncKind::Stream) >= 7, "{:?}", snapshot.timeline.syncs);
    assert!(count(SyncKind::Context) >= 1, "{:?}", snapshot.timeline.syncs);
}

fn events() {
    let stream = stream();
    let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let begin = stream.record_event(flags).expect("an event");
    let zeros = stream.alloc_zeros::<u8>(64 * MIB).expect("memory");
    let end = stream.record_event(flags).expect("an event");
    end.synchronize().expect("a wait");
    let elapsed_ms = begin.elapsed_ms(&end).expect("a time");
    assert!(elapsed_ms.is_finite() && elapsed_ms > 0.0, "{elapsed_ms}");
    drop(zeros);
}

/// The driver's total and free, and NVML's use, describe the same device.
fn planes_agree() {
    let session = session();
    let stream = stream();
    let held = stream.alloc_zeros::<u8>(256 * MIB).expect("memory");
    let snapshot = settled(&session, &stream);
    let device = &snapshot.devices[0];
    let total = device.total_bytes.expect("the driver tells a total").0;
    let free = device.free_bytes.expect("the driver tells what is free").0;
    let used = device.nvml_used_bytes.expect("NVML tells what is used").0;
    assert!(free <= total, "{device:?}");
    assert!(total - free >= 256 * MIB as u64, "{device:?}");
    assert!(used >= 256 * MIB as u64, "{device:?}");
    drop(held);
}

fn envelope_adds_up() {
    let session = session();
    let stream = stream();
    let snapshot = settled(&session, &stream);
    let layout = Layout::builtin_8b();
    match Envelope::measured(&snapshot.devices[0], &layout, &Declared::default()) {
        Ok(envelope) => {
            let bytes = |name| envelope.term(name).and_then(|term| term.bytes);
            let total = bytes(TermName::Total).expect("a total");
            let capacity = bytes(TermName::KvCapacity).expect("a capacity");
            assert!(capacity > 0 && capacity < total, "{envelope:?}");
            assert_eq!(capacity as u64, envelope.kv_capacity_bytes.0);
        }
        // A GPU that is too small for the built-in model says so.
        Err(error) => assert!(matches!(error, memvelope::Error::NoRoom { .. }), "{error}"),
    }
}

fn sessions_in_turn() {
    for turn in 0..2 {
        let session = session();
        let stream = stream();
        let memory = stream.clone_htod(&[1_u8; 4096]).expect("a copy to the device");
        settled(&session, &stream);
        let last = session.stop(FLUSH).expect("a stop");
        let copies: u64 = last.timeline.copies.iter().map(|copy| copy.totals.count).sum();
        assert_eq!(copies, 1, "in turn {turn}");
        drop(memory);
    }
}

/// The command's own serving loop: driver allocations by tag, our kernels, and the gate.
fn demo_completes() {
    let own = std::env::current_exe().expect("our own path");
    let Some(program) = super::find(&own, "memvelope") else {
        println!("ignored: no memvelope command beside the tests");
        return;
    };
    let (driver, _) = Driver::load(&Config::from_env().0);
    let is_simulated = driver.expect("a driver").simulator_version().is_some();
    let place = tempfile::tempdir().expect("a directory");
    let output = Command::new(program)
        .args(["demo", "--json", "--count", "60", "--rate", "1000", "--max-new-tokens", "64"])
        .args(["--device", if is_simulated { "sim" } else { "0" }, "--out"])
        .arg(place.path())
        .output()
        .expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    let number = |path: &[&str]| {
        let found = path.iter().fold(&report, |value, key| &value[*key]);
        found.as_u64().unwrap_or_else(|| panic!("{path:?} is {found}"))
    };
    assert_eq!(report["simulated"], is_simulated);
    assert_eq!(number(&["completed"]), 60);
    assert_eq!(number(&["cuda_ooms"]), 0);
    assert!(number(&["peak_kv_bytes"]) <= number(&["budget_bytes"]));
    assert!(number(&["vram_by_tag", "weights", "peak_bytes"]) > 0);
    assert!(number(&["vram_by_tag", "kv_cache", "peak_bytes"]) > 0);
    let kernels = report["kernels"].as_array().expect("kernels");
    let steps = number(&["steps"]);
    let reads = kernels.iter().find(|kernel| kernel["name"] == "kv_read_pages");
    assert_eq!(reads.expect("a kernel").get("count").and_then(|n| n.as_u64()), Some(steps));
    if !is_simulated {
        assert!(number(&["checked", "pages"]) > 0);
        assert_eq!(number(&["checked", "mismatches"]), 0);
    }
}
