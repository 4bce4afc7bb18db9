//! Sums by name, direction and kind; saturation.

use super::*;
use crate::event::{
    Copied, GraphLaunch, Kernel, Memset, Overhead, PoolRecord, ScopeId, SeenBy, Sync,
};

fn event(body: Body) -> Event {
    Event { time: Nanos(0), seen_by: SeenBy::Activity, body }
}

fn kernel(name: NameId, device: u32, start: u64, end: u64) -> Event {
    event(Body::Kernel(Kernel {
        graph: 0,
        graph_node: 0,
        scope: ScopeId::NONE,
        device: DeviceIndex(device),
        context: 1,
        stream: 7,
        name,
        correlation: 0,
        start: Nanos(start),
        end: Nanos(end),
        grid: [1; 3],
        block: [1; 3],
        local_per_thread: 0,
        local_bytes: Bytes::ZERO,
    }))
}

#[test]
fn sums_by_name_direction_and_kind() {
    let names = Names::new(8, 64);
    let (slow, fast) = (names.intern("slow"), names.intern("fast"));
    let mut timeline = Timeline::new(8);
    for event in [
        kernel(fast, 0, 100, 110),
        kernel(slow, 0, 110, 210),
        kernel(fast, 1, 50, 80),
        kernel(NameId(99), 0, 210, 211),
    ] {
        timeline.accept(&event);
    }
    timeline.accept(&event(Body::Copy(Copied {
        graph: 0,
        scope: ScopeId::NONE,
        device: DeviceIndex(0),
        stream: 7,
        direction: Direction::DeviceToHost,
        bytes: Bytes(64),
        correlation: 0,
        start: Nanos(205),
        end: Nanos(221),
    })));
    timeline.accept(&event(Body::Memset(Memset {
        graph: 0,
        scope: ScopeId::NONE,
        device: DeviceIndex(0),
        stream: 7,
        bytes: Bytes(64),
        correlation: 0,
        start: Nanos(300),
        end: Nanos(290), // a clock that ran backwards
    })));
    timeline.accept(&event(Body::Sync(Sync {
        kind: SyncKind::Context,
        context: 1,
        stream: 0,
        correlation: 0,
        start: Nanos(0),
        end: Nanos(500),
    })));
    let summary = timeline.summary(&names);
    let rows: Vec<_> = summary
        .kernels
        .iter()
        .map(|k| (k.name.as_str(), k.totals.count, k.totals.total_ns.0, k.totals.min_ns.0))
        .collect();
    assert_eq!(rows, [("slow", 1, 100, 100), ("fast", 2, 40, 10), ("(other names)", 1, 1, 1)]);
    assert_eq!(summary.copies.len(), 1);
    assert_eq!(summary.copies[0].bytes, Bytes(64));
    let memsets = &summary.memsets;
    assert_eq!(
        (memsets.totals.count, memsets.totals.total_ns, memsets.bytes),
        (1, Nanos(0), Bytes(64))
    );
    assert_eq!(
        (memsets.bytes_per_second, summary.copies[0].bytes_per_second),
        (None, Some(4_000_000_000))
    );
    assert_eq!(summary.syncs[0].totals.max_ns, Nanos(500));
    assert_eq!((summary.first, summary.last), (Some(Nanos(50)), Some(Nanos(300))));
    let busy: Vec<_> = summary.busy.iter().map(|b| (b.device.0, b.busy_ns.0)).collect();
    assert_eq!(busy, [(0, 121), (1, 30)]);
}

#[test]
fn sums_saturate() {
    let mut timeline = Timeline::new(1);
    for _ in 0..3 {
        timeline.accept(&kernel(NameId::OTHER, 0, 0, u64::MAX));
    }
    let summary = timeline.summary(&Names::new(1, 8));
    assert_eq!(summary.kernels[0].totals.total_ns, Nanos::MAX);
    assert_eq!(summary.busy[0].busy_ns, Nanos::MAX);
}

#[test]
fn work_counts_under_the_scope_it_was_launched_in() {
    let names = Names::new(8, 64);
    let (request, gemm) = (names.intern("request"), names.intern("gemm"));
    let mut timeline = Timeline::new(8);
    for (number, scope) in [(1, true), (2, true), (3, false)] {
        let Body::Kernel(mut it) = kernel(gemm, 0, 100 * number, 100 * number + 10).body else {
            panic!("a kernel is made above")
        };
        it.scope = if scope { ScopeId::new(request, number) } else { ScopeId::NONE };
        timeline.accept(&event(Body::Kernel(it)));
    }
    timeline.accept(&event(Body::GraphLaunch(GraphLaunch {
        device: DeviceIndex(0),
        context: 1,
        stream: 7,
        graph: 3,
        correlation: 1,
        scope: ScopeId::new(NameId(99), 4),
        start: Nanos(500),
        end: Nanos(700),
    })));
    let summary = timeline.summary(&names);
    let rows: Vec<_> = summary
        .scopes
        .iter()
        .map(|s| (s.name.as_str(), s.kernels.count, s.kernels.total_ns.0, s.graphs.total_ns.0))
        .collect();
    // A name past the limit shares the row of all such.
    assert_eq!(rows, [("(other names)", 0, 0, 200), ("request", 2, 20, 0)]);
    assert_eq!((summary.kernels[0].totals.count, summary.graphs.count), (3, 1));
    assert_eq!((summary.busy[0].busy_ns, summary.busy[0].span_ns), (Nanos(230), Nanos(600)));
    assert!(summary.busy[0].ratio.is_some_and(|ratio| (ratio - 230.0 / 600.0).abs() < 1e-12));
}

#[test]
fn the_hosts_time_is_told_by_call_span_and_overhead() {
    let names = Names::new(8, 64);
    let step = names.intern("step");
    let mut timeline = Timeline::new(8);
    let call = |cbid, is_runtime, result| {
        Body::ApiCall(ApiCall {
            cbid,
            is_runtime,
            thread: 1,
            correlation: 1,
            result,
            start: Nanos(10),
            end: Nanos(30),
        })
    };
    let launch = cupti_sys::cbid::LAUNCH_KERNEL;
    for (cbid, is_runtime, result) in
        [(launch, false, 0), (launch, false, 700), (211, true, 0), (99_999, false, 0)]
    {
        timeline.accept(&event(call(cbid, is_runtime, result)));
    }
    for origin in [SpanOrigin::Program, SpanOrigin::Nvtx, SpanOrigin::Program] {
        let (start, end) = (Nanos(0), Nanos(50));
        let span = Span { name: step, origin, thread: 1, scope: ScopeId::NONE, start, end };
        timeline.accept(&event(Body::Span(span)));
    }
    let (start, end) = (Nanos(1), Nanos(4));
    let overhead = Overhead { kind: OverheadKind::BufferRequest, start, end };
    timeline.accept(&event(Body::Overhead(overhead)));
    timeline.accept(&event(Body::PoolRecord(PoolRecord {
        device: DeviceIndex(0),
        change: PoolChange::Trimmed,
        pool: 1,
        reserved: Bytes(0),
        used: Bytes(0),
        correlation: 1,
    })));
    let summary = timeline.summary(&names);
    let calls: Vec<_> = summary
        .launch_calls
        .iter()
        .map(|row| (row.function.as_str(), row.totals.count, row.failed, row.totals.total_ns.0))
        .collect();
    assert_eq!(
        calls,
        [("(other calls)", 1, 0, 20), ("cuLaunchKernel", 2, 1, 40), ("cudaLaunchKernel", 1, 0, 20)]
    );
    let spans: Vec<_> =
        summary.spans.iter().map(|s| (s.name.as_str(), s.origin, s.totals.count)).collect();
    assert_eq!(spans, [("step", SpanOrigin::Program, 2), ("step", SpanOrigin::Nvtx, 1)]);
    assert_eq!(summary.overheads[0].totals.total_ns, Nanos(3));
    assert_eq!(summary.pool_changes, [PoolChanges { change: PoolChange::Trimmed, count: 1 }]);
    assert_eq!((summary.first, summary.busy.len()), (None, 0), "the device did nothing");
}
