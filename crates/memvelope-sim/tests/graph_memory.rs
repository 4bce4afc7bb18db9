//! Memory that graphs allocate when they run.

#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{books, context, cu, in_child, live, mem_info};
use serde_json::json;

const MIB: u64 = 1 << 20;
const SIZE: usize = 5 << 20;
/// `CU_GRAPH_MEM_ATTR_…`.
const USED: u32 = 0;
const USED_HIGH: u32 = 1;
const RESERVED: u32 = 2;
const RESERVED_HIGH: u32 = 3;

fn used() -> u64 {
    let (free, total) = mem_info();
    total - free
}

fn attribute(attribute: u32) -> u64 {
    let mut value = 9;
    assert_eq!(cu::cuDeviceGetGraphMemAttribute(0, attribute, &mut value), 0);
    value
}

fn stream() -> u64 {
    let mut stream = 0;
    assert_eq!(cu::cuStreamCreate(&mut stream, 1), 0);
    stream
}

/// Captures what `work` does on a stream.
fn capture(work: impl FnOnce(u64)) -> u64 {
    let (stream, mut graph) = (stream(), 0);
    assert_eq!(cu::cuStreamBeginCapture_v2(stream, 0), 0);
    work(stream);
    assert_eq!(cu::cuStreamEndCapture(stream, &mut graph), 0);
    graph
}

fn instantiate(graph: u64, flags: u64) -> u64 {
    let mut executable = 0;
    assert_eq!(cu::cuGraphInstantiateWithFlags(&mut executable, graph, flags), 0);
    executable
}

fn take(stream: u64) -> u64 {
    let mut address = 0;
    assert_eq!(cu::cuMemAllocAsync(&mut address, SIZE, stream), 0);
    address
}

#[test]
fn what_a_graph_frees_is_used_again() {
    let Some(books) = in_child("what_a_graph_frees_is_used_again", "", || {
        context();
        let before = used();
        let graph = capture(|stream| {
            for _ in 0..3 {
                let address = take(stream);
                assert_eq!(cu::cuMemsetD8Async(address, 1, SIZE, stream), 0);
                assert_eq!(cu::cuMemFreeAsync(address, stream), 0);
                assert_eq!(cu::cuMemFreeAsync(address, stream), 1, "once in its graph");
            }
        });
        let executable = instantiate(graph, 0);
        assert_eq!((used(), live(0, "pool_used")), (before, 0), "nothing before a launch");
        let launch = || assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
        launch();
        assert_eq!((attribute(USED), attribute(USED_HIGH)), (0, 5 * MIB));
        assert_eq!((attribute(RESERVED), used() - before), (6 * MIB, 6 * MIB), "one at a time");
        launch();
        assert_eq!((attribute(RESERVED), used() - before), (6 * MIB, 6 * MIB), "and again");
        assert_eq!(cu::cuGraphExecDestroy(executable), 0);
        assert_eq!(cu::cuGraphDestroy(graph), 0);
        assert_eq!(attribute(RESERVED), 6 * MIB, "until a trim");
        assert_eq!(cu::cuDeviceGraphMemTrim(0), 0);
        assert_eq!((attribute(RESERVED), attribute(RESERVED_HIGH), used()), (0, 6 * MIB, before));
        assert_eq!(cu::cuDeviceSetGraphMemAttribute(0, RESERVED_HIGH, &mut 0), 0);
        assert_eq!(cu::cuDeviceSetGraphMemAttribute(0, USED_HIGH, &mut 0), 0);
        assert_eq!((attribute(RESERVED_HIGH), attribute(USED_HIGH)), (0, 0));
        assert_eq!(cu::cuDeviceSetGraphMemAttribute(0, USED, &mut 0), 1);
        assert_eq!(cu::cuDeviceGetGraphMemAttribute(0, 4, &mut 0), 1);
    }) else {
        return;
    };
    let device = &books["devices"][0];
    let graphs = json!({ "live_bytes": 0, "peak_bytes": 5 * MIB, "allocations": 6, "frees": 6 });
    assert_eq!(device["families"]["graph_used"], graphs);
    assert_eq!(device["graph_reserved"], json!({ "live_bytes": 0, "peak_bytes": 6 * MIB }));
    assert_eq!(
        (&device["physical_live_bytes"], &books["memsets"]["count"]),
        (&json!(0), &json!(6))
    );
}

#[test]
fn what_a_graph_leaves_is_freed_outside() {
    let Some(books) = in_child("what_a_graph_leaves_is_freed_outside", "", || {
        context();
        let before = used();
        let mut address = 0;
        let graph = capture(|stream| address = take(stream));
        assert_eq!(cu::cuMemsetD8_v2(address, 1, 1), 1, "nothing is there yet");
        assert_eq!(cu::cuMemFree_v2(address), 1);
        let executable = instantiate(graph, 0);
        assert_eq!(cu::cuGraphInstantiateWithFlags(&mut 0, graph, 0), 801, "only one");
        assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
        assert_eq!((attribute(USED), live(0, "graph_used")), (5 * MIB, 5 * MIB));
        assert_eq!(cu::cuMemsetD8_v2(address, 1, SIZE), 0);
        assert_eq!(cu::cuGraphLaunch(executable, 0), 1, "what it allocates is there still");
        assert_eq!(cu::cuDeviceGraphMemTrim(0), 0);
        assert_eq!(used() - before, 6 * MIB, "in use");
        assert_eq!(cu::cuMemFreeAsync(address, 0), 0);
        assert_eq!(cu::cuMemFreeAsync(address, 0), 1);
        assert_eq!((attribute(USED), used() - before), (0, 6 * MIB));
        assert_eq!(cu::cuGraphLaunch(executable, 0), 0, "at the same address");
        assert_eq!(cu::cuGraphExecDestroy(executable), 0);
        assert_eq!(cu::cuGraphDestroy(graph), 0);
        assert_eq!(attribute(USED), 5 * MIB, "it outlives its graph");
        // Another graph frees it.
        let other = capture(|stream| assert_eq!(cu::cuMemFreeAsync(address, stream), 0));
        let executable = instantiate(other, 0);
        assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
        assert_eq!(cu::cuGraphLaunch(executable, 0), 1, "nothing to free");
        assert_eq!(cu::cuDeviceGraphMemTrim(0), 0);
        assert_eq!(used(), before);
        // Plain memory is no node's.
        let plain = common::alloc(4096);
        capture(|stream| assert_eq!(cu::cuMemFreeAsync(plain, stream), 1));
        assert_eq!(cu::cuMemFree_v2(plain), 0);
    }) else {
        return;
    };
    assert_eq!(books["devices"][0]["families"]["graph_used"]["live_bytes"], json!(0));
    assert_eq!(books["caught_panics"], json!(0));
}

#[test]
fn a_launch_may_free_what_the_last_one_left() {
    let Some(_) = in_child("a_launch_may_free_what_the_last_one_left", "", || {
        context();
        let graph = capture(|stream| assert_ne!(take(stream), take(stream)));
        let executable = instantiate(graph, 1);
        assert_eq!(cu::cuGraphUpload(executable, 0), 0);
        assert_eq!((attribute(USED), attribute(RESERVED)), (0, 10 * MIB));
        for _ in 0..3 {
            assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
            assert_eq!((attribute(USED), attribute(RESERVED)), (10 * MIB, 10 * MIB));
        }
        // A context takes with it what its launches left.
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
        assert_eq!(attribute(USED), 0);
    }) else {
        return;
    };
}

/// The nodes by hand, and a launch that does not fit.
#[test]
fn nodes_are_made_by_hand_and_launches_can_fail() {
    let scenario = "[[devices]]\ntotal_bytes = 1073741824\n";
    let Some(_) = in_child("nodes_are_made_by_hand_and_launches_can_fail", scenario, || {
        context();
        let mut graph = 0;
        assert_eq!(cu::cuGraphCreate(&mut graph, 0), 0);
        let add = |bytes: u64, after: &[u64]| {
            let mut params = [0; 15];
            // Pinned type, on device 0.
            (params[0], params[1], params[13]) = (1, 1, bytes);
            let mut node = 0;
            let (at, count) = (after.as_ptr(), after.len());
            let code = cu::cuGraphAddMemAllocNode(&mut node, graph, at, count, &mut params);
            (code, node, params[14])
        };
        assert_eq!(add(0, &[]).0, 1);
        assert_eq!(add(4096, &[77]).0, 1, "after no node");
        let (code, first, address) = add(300 << 20, &[]);
        assert_eq!(code, 0);
        let mut free = 0;
        assert_eq!(cu::cuGraphAddMemFreeNode(&mut free, graph, &first, 1, address), 0);
        assert_eq!(cu::cuGraphAddMemFreeNode(&mut free, graph, &first, 1, address), 1);
        let (code, ..) = add(300 << 20, &[free]);
        assert_eq!(code, 0);
        let executable = instantiate(graph, 1);
        assert_eq!(cu::cuGraphLaunch(executable, 0), 0);
        assert_eq!(attribute(RESERVED), 300 * MIB);
        let (mut rest, left) = (0, mem_info().0);
        assert_eq!(cu::cuMemAlloc_v2(&mut rest, usize::try_from(left).unwrap()), 0);
        let graph = capture(|stream| assert_ne!(take(stream), 0));
        let failing = instantiate(graph, 0);
        let before = books()["devices"].clone();
        assert_eq!(cu::cuGraphLaunch(failing, 0), 2);
        assert_eq!(books()["devices"], before, "nothing was changed");
        assert_eq!(cu::cuMemFree_v2(rest), 0);
        assert_eq!(cu::cuGraphLaunch(failing, 0), 0);
    }) else {
        return;
    };
}

/// The same nodes by the call for all types, and by a capture into a graph that has nodes.
#[test]
fn nodes_of_all_types_are_added_by_one_call() {
    let Some(books) = in_child("nodes_of_all_types_are_added_by_one_call", "", || {
        let context = context();
        let plain = common::alloc(4096);
        let mut graph = 0;
        assert_eq!(cu::cuGraphCreate(&mut graph, 0), 0);
        let add = |kind: u64, words: &[(usize, u64)], after: &[u64]| {
            let (mut params, mut node) = ([0; 32], 0);
            params[0] = kind;
            words.iter().for_each(|(at, word)| params[2 + at] = *word);
            let (at, count, none) = (after.as_ptr(), after.len(), std::ptr::null());
            let code = cu::cuGraphAddNode_v2(&mut node, graph, at, none, count, &mut params);
            (code, node, params)
        };
        // Pinned type on device 0, and the size.
        let (code, taken, params) = add(10, &[(0, 1), (1, 1), (13, 5 << 20)], &[]);
        let address = params[2 + 14];
        assert_eq!(code, 0);
        // A memset of 4,096 bytes of the new memory.
        let fill = [(0, address), (2, 7 | 1 << 32), (3, 4096), (4, 1), (5, context)];
        let (code, filled, _) = add(2, &fill, &[taken]);
        assert_eq!(code, 0);
        // From there to the plain memory: type and address of either end, width, height, depth.
        let copy = [
            (1, context),
            (2 + 4, 2),
            (2 + 6, address),
            (2 + 11 + 4, 2),
            (2 + 11 + 6, plain),
            (2 + 22, 4096),
            (2 + 23, 1),
            (2 + 24, 1),
        ];
        let (code, copied, _) = add(1, &copy, &[filled]);
        assert_eq!(code, 0);
        let kernel = common::kernel(c"idle");
        let launch = [(0, kernel), (1, 1 | 1 << 32), (2, 1 | 32 << 32), (3, 1 | 1 << 32)];
        assert_eq!(add(0, &launch, &[copied]).0, 0);
        assert_eq!(add(5, &[], &[]).0, 801, "empty nodes are not there");
        assert_eq!(add(99, &[], &[]).0, 1);
        // The free is captured into the same graph.
        let (stream, none) = (stream(), std::ptr::null());
        let begin = || cu::cuStreamBeginCaptureToGraph(stream, graph, &copied, none, 1, 0);
        assert_eq!((begin(), begin()), (0, 1));
        assert_eq!(cu::cuMemFreeAsync(address, stream), 0);
        let mut captured = 0;
        assert_eq!(cu::cuStreamEndCapture(stream, &mut captured), 0);
        assert_eq!(captured, graph);
        let executable = instantiate(graph, 0);
        for _ in 0..2 {
            assert_eq!(cu::cuGraphLaunch(executable, stream), 0);
        }
        let mut back = [0; 8];
        assert_eq!(cu::cuMemcpyDtoH_v2(back.as_mut_ptr(), plain + 4088, 8), 0);
        assert_eq!(back, [7; 8]);
        assert_eq!((attribute(USED), attribute(RESERVED)), (0, 6 * MIB));
    }) else {
        return;
    };
    assert_eq!(books["graphs"]["nodes"], json!(10));
    assert_eq!(books["caught_panics"], json!(0));
}
