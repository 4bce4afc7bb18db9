//! The document as a reader sees it.

use super::*;
use crate::event::TraceContext;
use crate::event::{GraphLaunch, Kernel, Overhead, SeenBy, Span, Sync};
use serde_json::Value;

fn kernel(name: NameId, start: u64) -> Event {
    let body = Body::Kernel(Kernel {
        graph: 0,
        graph_node: 0,
        scope: ScopeId::NONE,
        device: DeviceIndex(1),
        context: 1,
        stream: 7,
        name,
        correlation: 42,
        start: Nanos(start),
        end: Nanos(start + 1500),
        grid: [4, 2, 1],
        block: [128, 1, 1],
        local_per_thread: 0,
        local_bytes: Bytes::ZERO,
    });
    Event { time: Nanos(start + 1500), seen_by: SeenBy::Activity, body }
}

fn write(names: &Names, events: &[Event], bytes_max: u64) -> (Value, Written) {
    write_with(names, &Scopes::new(1), events, bytes_max)
}

fn write_with(
    names: &Names,
    scopes: &Scopes,
    events: &[Event],
    bytes_max: u64,
) -> (Value, Written) {
    let mut out = Vec::new();
    let mut writer =
        TraceWriter::new(&mut out, names, scopes, Nanos(1000), true, bytes_max).unwrap();
    writer.device(DeviceIndex(1), "Sim \"A\"").unwrap();
    writer.vram(Nanos(2000), DeviceIndex(1), Bytes(100), Bytes(30)).unwrap();
    for event in events {
        writer.event(event).unwrap();
    }
    let dropped = vec![(DropReason::TraceSampled, 3)];
    let meta = TraceMeta { events_seen: 9, window_stride: 2, window_ns: Nanos(5), dropped };
    let written = writer.finish(&meta).unwrap();
    assert_eq!(written.bytes, out.len() as u64);
    assert!(written.bytes <= bytes_max);
    (serde_json::from_slice(&out).unwrap(), written)
}

#[test]
fn a_trace_is_json_that_says_where_and_when() {
    let names = Names::new(8, 64);
    let odd = names.intern("a\"b\\c\n\u{1}ü");
    let sync = Body::Sync(Sync {
        kind: SyncKind::Stream,
        context: 1,
        stream: 7,
        correlation: 5,
        start: Nanos(1001),
        end: Nanos(3000),
    });
    let span = Span {
        name: odd,
        origin: SpanOrigin::Program,
        scope: ScopeId::NONE,
        thread: 2,
        start: Nanos(1000),
        end: Nanos(9000),
    };
    let other = |body| Event { time: Nanos(0), seen_by: SeenBy::Host, body };
    let (trace, written) = write(
        &names,
        &[kernel(odd, 2007), kernel(odd, 4000), other(sync), other(Body::Span(span))],
        1 << 20,
    );
    let events = trace["traceEvents"].as_array().unwrap();
    let find = |ph: &str, cat: &str| {
        events.iter().find(|e| e["ph"] == ph && (cat.is_empty() || e["cat"] == cat)).unwrap()
    };
    let first = find("X", "kernel");
    assert_eq!(first["name"], "a\"b\\c\n\u{1}ü");
    assert_eq!((first["ts"].as_f64(), first["dur"].as_f64()), (Some(1.007), Some(1.5)));
    assert_eq!(first["pid"], 101);
    assert_eq!(first["args"]["grid"], serde_json::json!([4, 2, 1]));
    assert_eq!(find("X", "sync")["ts"].as_f64(), Some(0.001));
    assert_eq!(find("X", "span")["dur"], 8);
    assert_eq!(find("C", "")["args"], serde_json::json!({"kv_cache": 30, "other": 70}));
    let names: Vec<_> = events
        .iter()
        .filter(|e| e["name"] == "process_name")
        .map(|e| e["args"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["host (SIMULATED)", "GPU 1: Sim \"A\" (SIMULATED)"]);
    assert_eq!((written.events, written.left_out), (5, 0));
    let other = &trace["otherData"];
    assert_eq!(other["simulated"], true);
    assert_eq!(other["window_stride"], 2);
    assert_eq!(other["dropped"]["trace_sampled"], 3);
    assert_eq!(other["clock_origin_ns"], 1000);
}

#[test]
fn a_full_trace_is_closed_and_counts_the_rest() {
    let names = Names::new(8, 64);
    let id = names.intern("k");
    let events: Vec<_> = (0..1000).map(|i| kernel(id, 2000 * i)).collect();
    let (trace, written) = write(&names, &events, 20_000);
    assert!(written.bytes > 17_000, "{written:?}");
    assert_eq!(written.events + written.left_out, 1001);
    assert_eq!(trace["otherData"]["events_left_out"], written.left_out);
    assert!(
        TraceWriter::new(&mut Vec::new(), &names, &Scopes::new(1), Nanos(0), false, 10).is_err()
    );
}

#[test]
fn the_tail_fits_at_its_longest() {
    let names = Names::new(1, 8);
    let mut out = Vec::new();
    let scopes = Scopes::new(1);
    let writer = TraceWriter::new(&mut out, &names, &scopes, Nanos::MAX, true, 1 << 20).unwrap();
    let before = writer.out.bytes;
    let dropped = DropReason::ALL.map(|reason| (reason, u64::MAX)).to_vec();
    let meta = TraceMeta {
        events_seen: u64::MAX,
        window_stride: u64::MAX,
        window_ns: Nanos::MAX,
        dropped,
    };
    let written = writer.finish(&meta).unwrap();
    assert!(written.bytes - before <= TAIL_BYTES_MAX);
}

/// An event of each kind that has a scope or a row of its own; a kernel for each of those scopes.
fn one_of_each(name: NameId, kernels: &[ScopeId], traced: ScopeId, plain: ScopeId) -> Vec<Event> {
    let in_scope = |scope: &ScopeId| {
        let mut event = kernel(name, 2000);
        if let Body::Kernel(kernel) = &mut event.body {
            (kernel.scope, kernel.graph, kernel.graph_node) = (*scope, 9, 1 << 40);
        }
        event
    };
    let (start, end) = (Nanos(1000), Nanos(1100));
    let span = |origin, scope| Body::Span(Span { name, origin, thread: 7, scope, start, end });
    let graph = GraphLaunch {
        device: DeviceIndex(1),
        context: 1,
        stream: 7,
        graph: 3,
        correlation: 5,
        scope: plain,
        start,
        end,
    };
    let call = ApiCall {
        cbid: cupti_sys::cbid::LAUNCH_KERNEL,
        is_runtime: false,
        thread: 7,
        correlation: 5,
        result: 1,
        start,
        end,
    };
    let host = [
        span(SpanOrigin::Program, traced),
        span(SpanOrigin::Nvtx, ScopeId::NONE),
        Body::GraphLaunch(graph),
        Body::ApiCall(call),
        Body::Overhead(Overhead { kind: OverheadKind::BufferRequest, start, end }),
    ];
    let host = host.map(|body| Event { time: Nanos(0), seen_by: SeenBy::Activity, body });
    kernels.iter().map(in_scope).chain(host).collect()
}

/// A row a kind: what stands in it beside its place.
#[test]
fn work_shows_whose_it_is() {
    let names = Names::new(8, 64);
    let (step, gemm) = (names.intern("step \"1\""), names.intern("gemm"));
    let scopes = Scopes::new(2);
    let trace: TraceContext =
        "00-0af7651916cd43dd8448eb211c80319c-00ad6b7169203331-01".parse().unwrap();
    let forgotten = scopes.open(step, Some(trace));
    let (traced, plain) = (scopes.open(step, Some(trace)), scopes.open(step, None));
    let kernels = [traced, plain, forgotten, ScopeId::NONE];
    let events = one_of_each(gemm, &kernels, traced, plain);
    let (trace, written) = write_with(&names, &scopes, &events, 1 << 20);
    assert_eq!(written.events, 10, "and the point of the VRAM curve");
    let events = trace["traceEvents"].as_array().unwrap();
    let args = |category: &str| -> Vec<&Value> {
        events.iter().filter(|e| e["cat"] == category).map(|e| &e["args"]).collect()
    };
    let kernels = args("kernel");
    let ids = ("0af7651916cd43dd8448eb211c80319c", "00ad6b7169203331");
    assert_eq!(kernels[0]["scope"], "step \"1\"");
    assert_eq!((&kernels[0]["trace_id"], &kernels[0]["span_id"]), (&ids.0.into(), &ids.1.into()));
    assert_eq!(
        (&kernels[0]["graph"], &kernels[0]["graph_node"]),
        (&9.into(), &(1_u64 << 40).into())
    );
    for no_trace in &kernels[1..3] {
        assert_eq!((&no_trace["scope"], no_trace.get("trace_id")), (&"step \"1\"".into(), None));
    }
    assert_eq!(kernels[3].get("scope"), None);
    assert_eq!(trace["otherData"]["dropped"]["scope_forgotten"], 1);
    let spans = args("span");
    assert_eq!((&spans[0]["trace_id"], spans[1]), (&ids.0.into(), &Value::Null));
    assert_eq!(
        (&args("graph")[0]["scope"], &args("graph")[0]["graph"]),
        (&"step \"1\"".into(), &3.into())
    );
    assert_eq!(args("call")[0]["result"], 1);
    let rows: Vec<_> = events
        .iter()
        .filter(|e| e["name"] == "thread_name")
        .filter_map(|e| e["args"]["name"].as_str())
        .collect();
    // Perfetto keeps no more bits.
    assert!(events.iter().filter_map(|e| e["tid"].as_u64()).all(|tid| u32::try_from(tid).is_ok()));
    for row in ["stream 7", "thread 7", "NVTX thread 7", "calls: thread 7", "profiler overhead"] {
        assert!(rows.contains(&row), "{row}: {rows:?}");
    }
}
