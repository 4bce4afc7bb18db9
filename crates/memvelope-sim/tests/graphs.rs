//! Graphs made node by node and by capture, how they run, and what CUPTI records of them.

#![expect(unsafe_code, reason = "cudarc without its events is unsafe")]
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::activity::{KERNEL, MEMCPY, MEMSET, Seen, drain, of_kind, record};
use common::{alloc, context, cu, cupti, in_child, kernel, launch, now};
use serde_json::json;

const GRAPH_TRACE: u32 = 51;
/// Capture modes.
const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

/// Round times, so that schedules can be told by hand.
const ROUND: &str = "[costs]\ncall_ns = 1\nlaunch_ns = 10\n\
    [kernels]\ndefault = { base_ns = 1000, per_block_ns = 1.0 }\n\
    [copies]\nlatency_ns = 500\nhtod_bytes_per_us = 1000\nmemset_bytes_per_us = 1000\n";

fn with_cupti(version: &str) -> String {
    format!("cupti = \"{version}\"\n{ROUND}")
}

fn graph() -> u64 {
    let mut graph = 0;
    assert_eq!(cu::cuGraphCreate(&mut graph, 0), 0);
    graph
}

fn instantiated(graph: u64) -> u64 {
    let mut executable = 0;
    assert_eq!(cu::cuGraphInstantiateWithFlags(&mut executable, graph, 0), 0);
    executable
}

/// A node that runs `idle` on `blocks` blocks.
fn add_kernel(graph: u64, blocks: u64, after: &[u64]) -> u64 {
    let function = kernel(c"idle");
    // Grid x and y, z and block x, block y and z, shared bytes and padding.
    let params = [function, blocks | (1 << 32), 1 | (128 << 32), 1 | (1 << 32), 0, 0, 0, 0, 0];
    let mut node = 0;
    let count = after.len();
    assert_eq!(cu::cuGraphAddKernelNode_v2(&mut node, graph, after.as_ptr(), count, &params), 0);
    node
}

/// `CUDA_MEMCPY3D` of one row from host memory to the device.
fn from_host(to: u64, from: *const u8, bytes: u64) -> [u64; 25] {
    let mut params = [0; 25];
    (params[4], params[5]) = (1, from as u64);
    (params[15], params[17]) = (2, to);
    (params[22], params[23], params[24]) = (bytes, 1, 1);
    params
}

fn stream() -> u64 {
    let mut stream = 0;
    assert_eq!(cu::cuStreamCreate(&mut stream, 1), 0);
    stream
}

fn times(seen: &Seen) -> (u64, u64) {
    (seen.u64(16), seen.u64(24))
}

#[test]
fn nodes_run_after_those_they_wait_for() {
    let Some(books) = in_child("nodes_run_after_those_they_wait_for", &with_cupti("13.4"), || {
        let context = context();
        let at = alloc(4096);
        let data = [7_u8; 2000];
        let (graph, mut copy, mut fill) = (graph(), 0, 0);
        let params = from_host(at, data.as_ptr(), 2000);
        let none = std::ptr::null();
        assert_eq!(cu::cuGraphAddMemcpyNode(&mut copy, graph, none, 0, &params, context), 0);
        let left = add_kernel(graph, 100, &[copy]);
        let right = add_kernel(graph, 5000, &[copy]);
        // The second half of the copy again, once both kernels ended.
        let set = [at + 1000, 0, 9 | (1 << 32), 1000, 1];
        let both = [left, right];
        assert_eq!(cu::cuGraphAddMemsetNode(&mut fill, graph, both.as_ptr(), 2, &set, context), 0);
        assert_eq!(cu::cuGraphAddMemsetNode(&mut 0, graph, [1].as_ptr(), 1, &set, context), 1);
        let executable = instantiated(graph);
        assert_eq!(cu::cuGraphUpload(executable, 0), 0);
        assert_eq!(cu::cuGraphDestroy(graph), 0);
        assert_eq!(cu::cuGraphDestroy(graph), 1);

        record(&[KERNEL, MEMCPY, MEMSET]);
        let began = now() + 10;
        assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
        assert_eq!(cu::cuStreamSynchronize(0), 0);
        let mut back = vec![0; 2000];
        assert_eq!(cu::cuMemcpyDtoH_v2(back.as_mut_ptr(), at, 2000), 0);
        assert!(back[..1000].iter().all(|byte| *byte == 7));
        assert!(back[1000..].iter().all(|byte| *byte == 9));
        assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
        assert_eq!(cu::cuGraphExecDestroy(executable), 0);
        assert_eq!(cu::cuGraphLaunch(executable, 0), 1);
        assert_eq!(cu::cuStreamSynchronize(0), 0);

        let seen = drain(false);
        let kernels = of_kind(&seen, KERNEL);
        let copies: Vec<_> =
            of_kind(&seen, MEMCPY).into_iter().filter(|seen| seen.bytes[4] == 1).collect();
        let fills = of_kind(&seen, MEMSET);
        assert_eq!((kernels.len(), copies.len(), fills.len()), (4, 2, 2));
        let copied = began + 2500;
        assert_eq!(times(copies[0]), (began, copied));
        assert_eq!(times(kernels[0]), (copied, copied + 1100));
        assert_eq!(times(kernels[1]), (copied, copied + 6000));
        assert_eq!(times(fills[0]), (copied + 6000, copied + 7500));
        // One correlation for all nodes of a launch, one graph for both launches.
        let graph_id = kernels[0].u32(156);
        assert_ne!(graph_id, 0);
        let correlations = [kernels[0].u32(92), kernels[1].u32(92), copies[0].u32(44)];
        assert!(correlations.iter().all(|id| *id == fills[0].u32(44)));
        assert_ne!(kernels[2].u32(92), kernels[0].u32(92));
        assert!(kernels.iter().all(|seen| seen.u32(156) == graph_id));
        assert_eq!((copies[1].u32(72), fills[1].u32(72)), (graph_id, graph_id));
        let node = |at: u64| (u64::from(graph_id) << 32) | at;
        assert_eq!((copies[0].u64(64), fills[0].u64(64)), (node(1), node(4)));
        assert_eq!((kernels[0].u64(144), kernels[1].u64(144)), (node(2), node(3)));
        let source = kernels[0].u32(232);
        assert!(source != 0 && source != graph_id);
        assert_eq!((copies[0].u32(96), fills[0].u32(88)), (source, source));
        assert_eq!(copies[0].u64(104), (u64::from(source) << 32) | 1);
    }) else {
        return;
    };
    assert_eq!(
        books["graphs"],
        json!({ "created": 1, "captured": 0, "instantiated": 1, "launches": 2,
            "launches_as_a_whole": 0, "nodes": 8 })
    );
    assert_eq!(books["kernels"]["idle"]["count"], json!(4));
    assert_eq!(books["memsets"]["bytes"], json!(2000));
}

#[test]
fn what_a_captured_stream_is_told_becomes_nodes() {
    let test = "what_a_captured_stream_is_told_becomes_nodes";
    let Some(books) = in_child(test, ROUND, || {
        context();
        let (main, side, at) = (stream(), stream(), alloc(4096));
        let (idle, data) = (kernel(c"idle"), [5_u8; 1000]);
        let (mut fork, mut join, mut status, mut graph) = (0, 0, 9, 0);
        assert_eq!((cu::cuEventCreate(&mut fork, 0), cu::cuEventCreate(&mut join, 0)), (0, 0));
        record(&[KERNEL, MEMCPY, MEMSET]);
        assert_eq!(cu::cuStreamEndCapture(main, &mut graph), 401);
        assert_eq!(cu::cuStreamBeginCapture_v2(main, THREAD_LOCAL), 0);
        assert_eq!(cu::cuStreamBeginCapture_v2(main, THREAD_LOCAL), 401);
        assert_eq!((cu::cuStreamIsCapturing(main, &mut status), status), (0, 1));
        assert_eq!(cu::cuMemcpyHtoDAsync_v2(at, data.as_ptr(), 1000, main), 0);
        assert_eq!((cu::cuEventRecord(fork, main), cu::cuStreamWaitEvent(side, fork, 0)), (0, 0));
        assert_eq!((cu::cuStreamIsCapturing(side, &mut status), status), (0, 1));
        assert_eq!((launch(idle, 100, main), launch(idle, 3000, side)), (0, 0));
        assert_eq!((cu::cuEventRecord(join, side), cu::cuStreamWaitEvent(main, join, 0)), (0, 0));
        assert_eq!(cu::cuMemsetD8Async(at, 6, 500, main), 0);
        assert_eq!(cu::cuStreamEndCapture(side, &mut graph), 903);
        assert_eq!(cu::cuStreamEndCapture(main, &mut graph), 0);
        assert_eq!((cu::cuStreamIsCapturing(side, &mut status), status), (0, 0));
        assert_eq!(drain(true).len(), 0, "nothing ran");
        let mut executable = 0;
        let (mut node, mut log) = (1, [1; 8]);
        let log_at = log.as_mut_ptr();
        let made = cu::cuGraphInstantiate_v2(&mut executable, graph, &mut node, log_at, 8);
        assert_eq!((made, node, log[0]), (0, 0, 0));

        let began = now() + 10;
        assert_eq!(cu::cuGraphLaunch(executable, main), 0);
        assert_eq!(cu::cuStreamSynchronize(main), 0);
        let seen = drain(false);
        let [copy, short, long, fill] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(times(copy), (began, began + 1500));
        assert_eq!(times(short), (began + 1500, began + 2600));
        assert_eq!(times(long), (began + 1500, began + 5500));
        assert_eq!(times(fill), (began + 5500, began + 6500));
        let ids = [copy.u32(40), short.u32(48), long.u32(48), fill.u32(40)];
        assert!(ids.iter().all(|id| *id == ids[0]), "all on the stream of the launch");
        assert_eq!(cu::cuEventQuery(join), 0, "the event is free again");
    }) else {
        return;
    };
    assert_eq!(books["graphs"]["captured"], json!(1));
    assert_eq!(books["graphs"]["nodes"], json!(4));
}

/// Each spoils a capture: what it answers, and what ending the capture answers then.
#[test]
fn what_a_capture_forbids() {
    let Some(_) = in_child("what_a_capture_forbids", "", || {
        context();
        let (main, side) = (stream(), stream());
        let (mut blocking, mut event, mut outside) = (0, 0, 0);
        assert_eq!(cu::cuStreamCreate(&mut blocking, 0), 0);
        assert_eq!((cu::cuEventCreate(&mut event, 0), cu::cuEventCreate(&mut outside, 0)), (0, 0));
        assert_eq!(cu::cuEventRecord(outside, side), 0);
        let (idle, at) = (kernel(c"idle"), alloc(64));
        let check = |on: u64, mode: u32, what: &dyn Fn() -> u32, answer: u32, end: u32| {
            let (mut graph, mut status) = (1, 0);
            assert_eq!(cu::cuStreamBeginCapture_v2(on, mode), 0);
            assert_eq!(launch(idle, 1, on), 0);
            assert_eq!(what(), answer);
            assert_eq!(cu::cuStreamIsCapturing(on, &mut status), 0);
            assert_eq!(status, if end == 901 { 2 } else { 1 });
            assert_eq!(cu::cuStreamEndCapture(on, &mut graph), end);
            assert_eq!(graph == 0, end != 0);
        };
        let draw_in = || {
            assert_eq!(cu::cuEventRecord(event, main), 0);
            cu::cuStreamWaitEvent(side, event, 0)
        };
        let draw_in_and_ask = || {
            assert_eq!(draw_in(), 0);
            cu::cuEventQuery(event)
        };
        check(main, GLOBAL, &|| cu::cuStreamSynchronize(main), 900, 901);
        check(main, GLOBAL, &|| cu::cuStreamQuery(main), 900, 901);
        check(main, GLOBAL, &|| cu::cuCtxSynchronize(), 900, 901);
        check(main, GLOBAL, &|| cu::cuMemAlloc_v2(&mut 0, 1), 900, 901);
        check(main, RELAXED, &|| cu::cuMemAlloc_v2(&mut 0, 1), 0, 0);
        check(main, THREAD_LOCAL, &|| cu::cuMemFree_v2(at), 900, 901);
        check(main, GLOBAL, &|| cu::cuStreamWaitEvent(main, outside, 0), 905, 901);
        check(main, GLOBAL, &draw_in, 0, 904);
        check(main, GLOBAL, &draw_in_and_ask, 900, 901);
        check(main, GLOBAL, &|| cu::cuStreamSynchronize(side), 0, 0);
        check(main, GLOBAL, &|| cu::cuMemAllocAsync(&mut 0, 1, main), 0, 0);
        check(blocking, GLOBAL, &|| launch(idle, 1, 0), 906, 901);
        check(main, GLOBAL, &|| launch(idle, 1, 0), 0, 0);
        assert_eq!(cu::cuStreamBeginCapture_v2(0, GLOBAL), 900, "not the default stream");
        assert_eq!(cu::cuStreamBeginCapture_v2(main, 3), 1);
    }) else {
        return;
    };
}

#[test]
fn other_threads_mind_by_their_mode() {
    let Some(_) = in_child("other_threads_mind_by_their_mode", "", || {
        let context = context();
        let (main, mut graph) = (stream(), 0);
        let elsewhere = move |mode: u32| {
            let thread = std::thread::spawn(move || {
                assert_eq!(cu::cuCtxSetCurrent(context), 0);
                let mut mode = mode;
                assert_eq!(cu::cuThreadExchangeStreamCaptureMode(&mut mode), 0);
                (cu::cuMemAlloc_v2(&mut 0, 1), cu::cuStreamEndCapture(main, &mut 0))
            });
            thread.join().unwrap()
        };
        for (capture, thread, expected) in [
            (GLOBAL, GLOBAL, (900, 908)),
            (GLOBAL, THREAD_LOCAL, (0, 908)),
            (GLOBAL, RELAXED, (0, 908)),
            (THREAD_LOCAL, GLOBAL, (0, 908)),
            (RELAXED, GLOBAL, (0, 0)),
        ] {
            assert_eq!(cu::cuStreamBeginCapture_v2(main, capture), 0);
            assert_eq!(elsewhere(thread), expected, "{capture} {thread}");
            let ended = cu::cuStreamEndCapture(main, &mut graph);
            let own = if expected.0 == 900 { 901 } else { 0 };
            assert_eq!(ended, if expected.1 == 0 { 401 } else { own });
        }
    }) else {
        return;
    };
}

#[test]
fn graphs_are_traced_whole_or_by_node_for_good() {
    let test = "graphs_are_traced_whole_or_by_node_for_good";
    let Some(books) = in_child(test, &with_cupti("12.2"), || {
        context();
        let graph = graph();
        let first = add_kernel(graph, 1, &[]);
        add_kernel(graph, 1, &[first]);
        let before = instantiated(graph);
        record(&[KERNEL, GRAPH_TRACE]);
        let after = instantiated(graph);
        let run = |executable: u64| {
            assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
            assert_eq!(cu::cuStreamSynchronize(0), 0);
            let seen = drain(false);
            (of_kind(&seen, KERNEL).len(), of_kind(&seen, GRAPH_TRACE).len())
        };
        assert_eq!(run(before), (2, 0), "instantiated before: never as a whole");
        assert_eq!(run(after), (0, 1), "one or the other");
        assert_eq!(launch(kernel(c"idle"), 1, 0), 0);
        assert_eq!(run(after), (1, 1), "other kernels are not concerned");
        assert_eq!(cupti::cuptiActivityDisable(GRAPH_TRACE), 0);
        assert_eq!(run(after), (0, 0), "turning it off brings no nodes back");
        assert_eq!(run(instantiated(graph)), (0, 0), "nor those of later graphs");
        assert_eq!(run(before), (2, 0));
    }) else {
        return;
    };
    assert_eq!(books["graphs"]["launches"], json!(6));
    assert_eq!(books["graphs"]["launches_as_a_whole"], json!(4));
    assert_eq!(books["graphs"]["nodes"], json!(12));
    assert_eq!(books["kernels"]["idle"]["count"], json!(13));
}

#[test]
fn a_graph_trace_tells_the_launch() {
    for version in ["12.2", "12.3"] {
        let Some(_) = in_child("a_graph_trace_tells_the_launch", &with_cupti(version), || {
            context();
            record(&[GRAPH_TRACE]);
            let graph = graph();
            let first = add_kernel(graph, 1, &[]);
            add_kernel(graph, 1, &[first]);
            let executable = instantiated(graph);
            let began = now() + 10;
            assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
            assert_eq!(drain(false).len(), 0, "not before it ended");
            assert_eq!(cu::cuStreamSynchronize(0), 0);
            let seen = drain(false);
            let [trace] = &seen[..] else { panic!("{seen:?}") };
            assert_eq!((trace.u64(8), trace.u64(16)), (began, began + 2002));
            assert!(trace.u32(4) != 0 && trace.u32(28) != 0 && trace.u32(36) != 0);
            assert_eq!((trace.u32(24), trace.u32(32)), (0, 1), "device and context");
            let mut version = 0;
            assert_eq!(cupti::cuptiGetVersion(&mut version), 0);
            assert_eq!(trace.bytes.len(), if version == 20 { 48 } else { 56 });
            if version != 20 {
                assert_eq!((trace.u32(48), trace.u32(52)), (0, 1));
            }
        }) else {
            return;
        };
    }
}

#[test]
fn cudarc_captures_and_launches() {
    use cudarc::driver::{CudaContext, sys};
    let Some(books) = in_child("cudarc_captures_and_launches", "", || {
        let context = CudaContext::new(0).unwrap();
        // Waiting for an event from before the capture is refused (905), on a real driver too.
        // SAFETY: one stream orders everything here.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let mut data = stream.alloc_zeros::<u8>(4096).unwrap();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        stream.begin_capture(mode).unwrap();
        stream.memset_zeros(&mut data).unwrap();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().unwrap();
        graph.upload().unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        stream.synchronize().unwrap();
    }) else {
        return;
    };
    assert_eq!(books["graphs"]["launches"], json!(2));
    assert_eq!(books["memsets"]["count"], json!(3));
}

#[test]
fn names_lead_to_the_newest_form() {
    let Some(_) = in_child("names_lead_to_the_newest_form", "", || {
        assert_eq!(cu::cuInit(0), 0);
        let address = |name: &std::ffi::CStr, version: i32| {
            let (mut at, mut status) = (std::ptr::null_mut(), 9);
            let code = cu::cuGetProcAddress_v2(name.as_ptr(), &mut at, version, 0, &mut status);
            (code, at as usize)
        };
        for (base, newest) in [
            (c"cuGraphInstantiate", c"cuGraphInstantiateWithFlags"),
            (c"cuGraphAddKernelNode", c"cuGraphAddKernelNode_v2"),
            (c"cuStreamBeginCapture", c"cuStreamBeginCapture_v2"),
        ] {
            assert_eq!(address(base, 12_000), address(newest, 12_000));
        }
        let older = address(c"cuGraphInstantiate", 11_000);
        assert_eq!(older, address(c"cuGraphInstantiate_v2", 11_000));
        for name in [c"cuGraphLaunch", c"cuMemcpyPeer", c"cuStreamEndCapture"] {
            assert_eq!(address(name, 13_000).0, 0);
        }
    }) else {
        return;
    };
}
