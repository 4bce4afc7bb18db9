//! The kinds that are not about single pieces of work: API and external records, markers,
//! overheads, pools, copies between devices.

#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::activity::{BUFFER_BYTES, KERNEL, MEMCPY, MEMORY2, drain, of_kind, record, text_at};
use common::{alloc, context, cu, cupti, in_child, kernel, launch, now};
use serde_json::json;
use std::sync::atomic::Ordering;

const DRIVER: u32 = 4;
const RUNTIME: u32 = 5;
const MARKER: u32 = 12;
const OVERHEAD: u32 = 17;
const PEER: u32 = 22;
const EXTERNAL: u32 = 39;
const POOL: u32 = 50;
/// Callback ids of cuMemAlloc_v2, cuLaunchKernel and cuStreamSynchronize.
const ALLOC: u32 = 243;
const LAUNCH: u32 = 307;
const WAIT: u32 = 126;

#[test]
fn api_records_tell_the_call() {
    let scenario =
        "[costs]\nalloc_ns = 20\n[[faults]]\ncall = \"cuMemAlloc_v2\"\ncode = 2\nnth = 2\n";
    let Some(books) = in_child("api_records_tell_the_call", scenario, || {
        context();
        record(&[DRIVER, MEMORY2, RUNTIME]);
        let start = now();
        alloc(4096);
        assert_eq!(cu::cuMemAlloc_v2(&mut 0, 1), 2);
        assert_eq!(cupti::cuptiActivityDisable(DRIVER), 0);
        alloc(1);
        let seen = drain(false);
        let calls = of_kind(&seen, DRIVER);
        let [first, failed] = calls[..] else { panic!("{seen:?}") };
        assert_eq!((first.bytes.len(), first.u32(4), first.u32(36)), (40, ALLOC, 0));
        assert_eq!((first.u64(8), first.u64(16)), (start, start + 20));
        assert_eq!(first.u32(24), std::process::id());
        assert_ne!(first.u32(28), 0);
        assert_eq!(first.u32(32), of_kind(&seen, MEMORY2)[0].u32(12), "the ids join");
        assert_eq!(failed.u32(36), 2);
    }) else {
        return;
    };
    assert_eq!(books["activity"]["made"], json!({ "DRIVER": 2, "MEMORY2": 2 }));
}

#[test]
fn single_calls_are_chosen_and_the_kind_overrides() {
    let test = "single_calls_are_chosen_and_the_kind_overrides";
    let Some(_) = in_child(test, "cupti = \"12.5\"\n", || {
        context();
        record(&[]);
        assert_eq!(cupti::cuptiActivityEnableDriverApi(ALLOC, 1), 0);
        assert_eq!(cupti::cuptiActivityEnableDriverApi(0, 1), 1);
        assert_eq!(cupti::cuptiActivityEnableDriverApi(5000, 1), 1);
        assert_eq!(cupti::cuptiActivityEnableRuntimeApi(13, 1), 0);
        let count = || drain(false).iter().filter(|seen| seen.kind == DRIVER).count();
        let both = || {
            alloc(1);
            assert_eq!(cu::cuStreamSynchronize(0), 0);
        };
        both();
        assert_eq!(count(), 1);
        assert_eq!(cupti::cuptiActivityEnable(DRIVER), 0);
        assert_eq!(cupti::cuptiActivityEnableDriverApi(WAIT, 0), 0);
        both();
        assert_eq!(count(), 1, "all but one");
        assert_eq!(cupti::cuptiActivityEnable(DRIVER), 0);
        both();
        assert_eq!(count(), 2, "the kind overrides what was said before");
        assert_eq!(cupti::cuptiActivityDisable(DRIVER), 0);
        both();
        assert_eq!(count(), 0);
    }) else {
        return;
    };
}

#[test]
fn filters_came_with_12_5() {
    let Some(_) = in_child("filters_came_with_12_5", "cupti = \"12.4\"\n", || {
        assert_eq!(cupti::cuptiActivityEnableDriverApi(ALLOC, 1), 15);
        context();
        assert_eq!(cupti::cuptiActivityEnableDriverApi(ALLOC, 1), 11);
        assert_eq!(cupti::cuptiActivityEnableRuntimeApi(ALLOC, 1), 11);
    }) else {
        return;
    };
}

#[test]
fn external_ids_precede_the_calls_of_their_thread() {
    let test = "external_ids_precede_the_calls_of_their_thread";
    let Some(books) = in_child(test, "", || {
        let context = context();
        let mut last = 0;
        assert_eq!(cupti::cuptiActivityPushExternalCorrelationId(0, 1), 1);
        assert_eq!(cupti::cuptiActivityPushExternalCorrelationId(6, 1), 1);
        assert_eq!(cupti::cuptiActivityPopExternalCorrelationId(6, &mut last), 1);
        assert_eq!(cupti::cuptiActivityPopExternalCorrelationId(3, &mut last), 18);
        let push = |kind, id| {
            assert_eq!(cupti::cuptiActivityPushExternalCorrelationId(kind, id), 0);
        };
        push(3, 10);
        push(3, 11);
        push(5, 99);
        let decode = kernel(c"decode");
        record(&[DRIVER, EXTERNAL, KERNEL]);
        assert_eq!(launch(decode, 1000, 0), 0);
        let other = std::thread::spawn(move || {
            assert_eq!(cu::cuCtxSetCurrent(context), 0);
            assert_eq!(cu::cuStreamSynchronize(0), 0);
        });
        other.join().unwrap();
        assert_eq!(cupti::cuptiActivityPopExternalCorrelationId(3, &mut last), 0);
        assert_eq!(last, 11);
        assert_eq!(cupti::cuptiActivityPopExternalCorrelationId(5, std::ptr::null_mut()), 0);
        alloc(1);
        assert_eq!(cupti::cuptiActivityPopExternalCorrelationId(3, &mut last), 0);
        assert_eq!(cupti::cuptiActivityPopExternalCorrelationId(3, &mut last), 18);
        alloc(1);

        let mut seen = drain(false);
        // Threads have buffers of their own: by kernel first, whichever buffer came first.
        seen.sort_by_key(|seen| match seen.kind {
            DRIVER => (seen.u32(32), 1),
            EXTERNAL => (seen.u32(16), 0),
            _ => (u32::MAX, 0),
        });
        let found: Vec<(u32, u64, u64)> = seen
            .iter()
            .map(|seen| match seen.kind {
                DRIVER => (DRIVER, seen.u32(4).into(), 0),
                EXTERNAL => (EXTERNAL, seen.u32(4).into(), seen.u64(8)),
                kind => (kind, 0, 0),
            })
            .filter(|(kind, cbid, _)| *kind != DRIVER || *cbid != 303)
            .collect();
        let call = |cbid: u32| (DRIVER, u64::from(cbid), 0);
        let expected = [
            (EXTERNAL, 3, 11),
            (EXTERNAL, 5, 99),
            call(LAUNCH),
            call(WAIT),
            (EXTERNAL, 3, 10),
            call(ALLOC),
            call(ALLOC),
            (KERNEL, 0, 0),
        ];
        assert_eq!(found, expected);
    }) else {
        return;
    };
    assert_eq!(books["activity"]["made"]["EXTERNAL_CORRELATION"], json!(3));
}

#[test]
fn the_calling_thread_has_its_api_record_before_the_kernels() {
    let test = "the_calling_thread_has_its_api_record_before_the_kernels";
    let Some(_) = in_child(test, "", || {
        context();
        let decode = kernel(c"decode");
        record(&[DRIVER, EXTERNAL, KERNEL, MEMCPY]);
        assert_eq!(cupti::cuptiActivityPushExternalCorrelationId(1, 7), 0);
        let at = alloc(4096);
        assert_eq!(launch(decode, 1, 0), 0);
        // A copy that waits: all three are complete when it returns, its own call first.
        assert_eq!(cu::cuMemcpyHtoD_v2(at, [0; 4096].as_ptr(), 4096), 0);
        let kinds: Vec<u32> = drain(false).iter().map(|seen| seen.kind).collect();
        assert_eq!(kinds, [EXTERNAL, DRIVER, EXTERNAL, DRIVER, EXTERNAL, DRIVER, KERNEL, MEMCPY]);
    }) else {
        return;
    };
}

#[test]
fn threads_are_named_as_asked() {
    let Some(_) = in_child("threads_are_named_as_asked", "", || {
        context();
        let mut kind = 9;
        assert_eq!((cupti::cuptiGetThreadIdType(&mut kind), kind), (0, 0));
        assert_eq!(cupti::cuptiSetThreadIdType(2), 1);
        assert_eq!(cupti::cuptiSetThreadIdType(1), 0);
        assert_eq!((cupti::cuptiGetThreadIdType(&mut kind), kind), (0, 1));
        record(&[DRIVER]);
        alloc(1);
        let id = std::fs::read_link("/proc/thread-self").unwrap();
        let id: u32 = id.file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(drain(false)[0].u32(28), id);
    }) else {
        return;
    };
}

#[test]
fn markers_open_close_and_mark() {
    let Some(books) = in_child("markers_open_close_and_mark", "", || {
        context();
        assert_eq!(cupti::memvelope_sim_range_push(c"before".as_ptr()), 0, "not recorded");
        record(&[MARKER]);
        let start = now();
        assert_eq!(cupti::memvelope_sim_range_push(c"step".as_ptr()), 1);
        alloc(1);
        cupti::memvelope_sim_mark(c"half".as_ptr());
        assert_eq!(cupti::memvelope_sim_range_pop(), 1);
        assert_eq!(cupti::memvelope_sim_range_pop(), 0);
        assert_eq!(cupti::memvelope_sim_range_pop(), u32::MAX, "-1: none is open");
        assert_eq!(cupti::memvelope_sim_range_push(std::ptr::null()), u32::MAX);
        let seen = drain(false);
        let [open, mark, close, close_first] = &seen[..] else { panic!("{seen:?}") };
        let flags = [open.u32(4), mark.u32(4), close.u32(4), close_first.u32(4)];
        assert_eq!(flags, [2, 1, 4, 4]);
        assert_eq!((open.bytes.len(), open.u64(8), open.u32(20)), (56, start, 2));
        assert!(mark.u64(8) > start && close.u64(8) == mark.u64(8));
        assert_eq!((open.u32(16), close.u32(16)), (close.u32(16), open.u32(16)));
        assert!(mark.u32(16) != open.u32(16) && close_first.u32(16) != open.u32(16));
        assert_eq!(open.u32(24), std::process::id());
        assert_eq!(text_at(open.u64(40)), Some(c"step"));
        assert_eq!(text_at(mark.u64(40)), Some(c"half"));
        assert_eq!((close.u64(40), open.u64(48)), (0, 0), "no name at the end, default domain");
    }) else {
        return;
    };
    assert_eq!(books["activity"]["made"], json!({ "MARKER": 4 }));
}

#[test]
fn overheads_of_buffer_requests_and_of_the_scenario() {
    let scenario = "[cupti]\nversion = \"12.2\"\nbuffer_request_ns = 700\n\
                    overheads = [{ after_ns = 5, ns = 3000000 }, \
                    { after_ns = 90000000000, ns = 1 }]\n";
    let test = "overheads_of_buffer_requests_and_of_the_scenario";
    let Some(books) = in_child(test, scenario, || {
        context();
        record(&[OVERHEAD, MEMORY2]);
        // One record of 120 bytes or three of 40 fit: every allocation asks for a buffer.
        BUFFER_BYTES.store(128, Ordering::Relaxed);
        let start = now();
        (0..200).for_each(|_| assert_ne!(alloc(1), 0));
        let seen = drain(false);
        let (requests, declared): (Vec<_>, Vec<_>) =
            of_kind(&seen, OVERHEAD).into_iter().partition(|seen| seen.u32(4) == 7 << 16);
        assert_eq!(of_kind(&seen, MEMORY2).len(), 200);
        assert_eq!(requests.len(), 200);
        assert!(requests.iter().all(|seen| seen.u64(32) - seen.u64(24) == 700));
        assert!(requests.iter().all(|seen| seen.bytes.len() == 40 && seen.u64(24) >= start));
        assert_eq!((requests[0].u32(8), requests[0].u32(12)), (2, std::process::id()));
        let [declared] = declared[..] else { panic!("{declared:?}") };
        assert_eq!(declared.u32(4), 2 << 16);
        let (begin, end) = (1_000_000_000_000_000_005, 1_000_000_000_003_000_005_u64);
        assert_eq!((declared.u64(24), declared.u64(32)), (begin, end));
    }) else {
        return;
    };
    assert_eq!(books["activity"]["made"]["OVERHEAD"], json!(201));
}

#[test]
fn pools_are_made_trimmed_and_destroyed() {
    let Some(_) = in_child("pools_are_made_trimmed_and_destroyed", "", || {
        context();
        record(&[POOL]);
        // Pinned memory of device 0.
        let props = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (mut pool, mut at, mut keep) = (0, 0, u64::MAX);
        assert_eq!(cu::cuMemPoolCreate(&mut pool, &props), 0);
        assert_eq!(cu::cuMemPoolSetAttribute(pool, 4, &mut keep), 0);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut at, 5000, pool, 0), 0);
        assert_eq!(cu::cuMemPoolTrimTo(pool, 4 << 20), 0);
        assert_eq!(cu::cuMemFreeAsync(at, 0), 0);
        assert_eq!(cu::cuMemPoolDestroy(pool), 0);
        assert_eq!(cu::cuMemPoolDestroy(pool), 1);
        let seen = drain(false);
        let [made, trimmed, gone] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!([made.u32(4), trimmed.u32(4), gone.u32(4)], [1, 3, 2]);
        for seen in [made, trimmed, gone] {
            assert_eq!((seen.bytes.len(), seen.u64(32), seen.u32(8)), (80, pool, 1));
            assert_eq!(seen.u32(16), std::process::id());
        }
        assert_eq!((made.u64(40), made.u64(24)), (0, 0));
        assert_eq!((trimmed.u64(24), trimmed.u64(40), trimmed.u64(64)), (4 << 20, 4 << 20, 5120));
        assert_eq!((gone.u64(48), gone.u64(64)), (u64::MAX, 0));
    }) else {
        return;
    };
}

#[test]
fn copies_between_devices_are_a_kind_of_their_own() {
    let scenario = "[copies]\nlatency_ns = 10\npeer_bytes_per_us = 1000\n\
                    [[devices]]\n[[devices]]\n[[devices]]\n";
    let test = "copies_between_devices_are_a_kind_of_their_own";
    let Some(books) = in_child(test, scenario, || {
        let first = context();
        let here = alloc(4096);
        let near = alloc(4096);
        let mut second = 0;
        assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut second, 2), 0);
        assert_eq!(cu::cuCtxSetCurrent(second), 0);
        let there = alloc(4096);
        assert_eq!(cu::cuCtxSetCurrent(first), 0);
        let data: Vec<u8> = (0..4096_u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(cu::cuMemcpyHtoD_v2(here, data.as_ptr(), 4096), 0);
        record(&[MEMCPY, PEER]);
        assert_eq!(cu::cuMemcpyPeer(there, second, here, first, 4096), 0);
        assert_eq!(cu::cuMemcpyPeerAsync(here, first, there, second, 1000, 0), 0);
        assert_eq!(cu::cuMemcpyDtoD_v2(there, here, 100), 0);
        assert_eq!(cu::cuMemcpyPeer(near, first, here, first, 4096), 0, "one device");
        assert_eq!(cu::cuMemcpyPeer(there, 77, here, first, 4096), 201);
        let mut back = vec![0; 4096];
        assert_eq!(cu::cuMemcpyDtoH_v2(back.as_mut_ptr(), there, 4096), 0);
        assert_eq!(back, data);
        let seen = drain(false);
        let peers = of_kind(&seen, PEER);
        let [whole, back, direct] = peers[..] else { panic!("{seen:?}") };
        assert_eq!(of_kind(&seen, MEMCPY).len(), 2, "the near copy, and the one to the host");
        assert_eq!((whole.bytes.len(), whole.bytes[4], whole.u64(8)), (96, 10, 4096));
        assert_eq!(whole.u64(24) - whole.u64(16), 10 + 4096);
        let ids = |at: usize| (whole.u32(at), back.u32(at), direct.u32(at));
        assert_eq!((ids(44), ids(52)), ((0, 2, 0), (2, 0, 2)), "devices");
        assert_eq!((ids(48), ids(56)), ((1, 2, 1), (2, 1, 2)), "contexts");
        assert_eq!((whole.bytes[7], back.bytes[7]), (0, 1), "asynchronous or not");
        assert!(whole.u32(60) < back.u32(60));
    }) else {
        return;
    };
    let peer = &books["copies"]["peer_to_peer"];
    assert_eq!(peer, &json!({ "count": 3, "bytes": 5196, "total_ns": 30 + 5196 }));
    assert_eq!(books["activity"]["made"]["MEMCPY2"], json!(3));
}

#[test]
fn what_was_queued_before_a_kind_went_off_still_comes() {
    let test = "what_was_queued_before_a_kind_went_off_still_comes";
    let Some(_) = in_child(test, "", || {
        context();
        let decode = kernel(c"decode");
        record(&[KERNEL]);
        assert_eq!(launch(decode, 1000, 0), 0);
        assert_eq!(cupti::cuptiActivityDisable(KERNEL), 0);
        assert_eq!(launch(decode, 1000, 0), 0);
        assert_eq!(drain(false).len(), 0);
        assert_eq!(cu::cuStreamSynchronize(0), 0);
        let seen = drain(false);
        assert!(seen.len() == 1 && seen[0].u64(24) > seen[0].u64(16));
    }) else {
        return;
    };
}

#[test]
fn new_calls_fail_by_name() {
    let scenario = "[[faults]]\ncall = \"cuptiActivityPushExternalCorrelationId\"\ncode = 999\n\
                    [[faults]]\ncall = \"cuptiActivityEnableDriverApi\"\ncode = 27\n\
                    [[faults]]\ncall = \"cuGraphCreate\"\ncode = 2\n";
    let Some(books) = in_child("new_calls_fail_by_name", scenario, || {
        context();
        assert_eq!(cupti::cuptiActivityPushExternalCorrelationId(3, 1), 999);
        assert_eq!(cupti::cuptiActivityPushExternalCorrelationId(3, 1), 0);
        assert_eq!(cupti::cuptiActivityEnableDriverApi(1, 1), 27);
        assert_eq!(cu::cuGraphCreate(&mut 0, 0), 2);
    }) else {
        return;
    };
    assert_eq!(books["faults_fired"], json!(3));
}
