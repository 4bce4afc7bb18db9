//! The simulated CUPTI: records of every kind, buffers, callbacks, the subscriber's place.

#![expect(unsafe_code, reason = "reads C structs that the simulator wrote")]
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::activity::{
    BUFFER_BYTES, COMPLETED, KERNEL, MEMCPY, MEMORY2, MEMSET, REQUESTS, SYNC, drain, record,
};
use common::{PTX, alloc, context, cu, cupti, in_child, kernel, launch, mem_info, now};
use serde_json::json;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// One of everything, on a machine whose times are round.
const ROUND: &str = "[costs]\ncall_ns = 1\nlaunch_ns = 10\nalloc_ns = 20\nfree_ns = 30\n\
    copy_ns = 40\nsync_ns = 50\nsetup_ns = 60\nfree_waits = false\n\
    [kernels.named.decode]\nbase_ns = 1000\nper_block_ns = 2.0\n\
    [copies]\nlatency_ns = 500\nhtod_bytes_per_us = 1000\nmemset_bytes_per_us = 4000\n";

/// API number, then sizes of kernel, memcpy, memset, synchronisation and memory2 records.
const SIZES: &[(u32, [usize; 5])] = &[
    (18, [208, 88, 88, 40, 120]),
    (24, [208, 88, 88, 40, 128]),
    (28, [208, 96, 88, 56, 128]),
    (130_001, [216, 96, 88, 56, 128]),
    (130_101, [224, 96, 88, 56, 128]),
    (130_301, [232, 96, 88, 56, 128]),
    (130_401, [248, 112, 104, 56, 128]),
];

fn every_kind() {
    let context = context();
    let mut version = 0;
    assert_eq!(cupti::cuptiGetVersion(&mut version), 0);
    let [kernel_size, memcpy_size, memset_size, sync_size, memory2_size] =
        SIZES.iter().find(|(api, _)| *api == version).unwrap().1;
    record(&[MEMCPY, MEMSET, KERNEL, SYNC, MEMORY2]);
    let (mut context_id, mut stream_id) = (0, 0);
    assert_eq!(cupti::cuptiGetContextId(context, &mut context_id), 0);
    assert_eq!(cupti::cuptiGetStreamIdEx(context, 0, 0, &mut stream_id), 0);
    let start = now();
    let at = alloc(8192);
    let host = [3_u8; 8192];
    assert_eq!(cu::cuMemcpyHtoDAsync_v2(at, host.as_ptr(), 8192, 0), 0);
    assert_eq!(cu::cuMemsetD8Async(at, 0xab, 8000, 0), 0);
    let decode = kernel(c"decode");
    assert_eq!(launch(decode, 7, 0), 0);
    assert!(drain(false).iter().all(|seen| seen.kind == MEMORY2), "nothing else is complete");
    assert_eq!(cu::cuStreamSynchronize(0), 0);
    let end = now();
    assert_eq!(cu::cuMemFree_v2(at), 0);
    let seen = drain(false);
    assert_eq!(
        seen.iter().map(|seen| seen.kind).collect::<Vec<_>>(),
        [MEMCPY, MEMSET, KERNEL, SYNC, MEMORY2]
    );
    let [copy, set, run, wait, free] = &seen[..] else { unreachable!() };
    let sizes = [kernel_size, memcpy_size, memset_size, sync_size, memory2_size];
    let found = [run, copy, set, wait, free].map(|seen| seen.bytes.len());
    assert_eq!(found, sizes);

    // The copy began 60 ns after the start (allocation and copy call) and took 500 + 8192 ns.
    assert_eq!((copy.u64(16), copy.u64(24)), (start + 60, start + 60 + 8692));
    assert_eq!((copy.bytes[4], copy.bytes[5], copy.bytes[6], copy.bytes[7]), (1, 1, 3, 1));
    assert_eq!((copy.u64(8), copy.u32(32), copy.u32(36)), (8192, 0, context_id));
    // In order on one stream: each begins where the one before it ended.
    assert_eq!((set.u64(16), set.u64(24)), (copy.u64(24), copy.u64(24) + 500 + 2000));
    assert_eq!((set.u32(4), set.u64(8), set.u32(40)), (0xab, 8000, stream_id));
    assert_eq!((run.u64(16), run.u64(24)), (set.u64(24), set.u64(24) + 1000 + 14));
    assert_eq!((run.u32(40), run.u32(44), run.u32(48)), (0, context_id, stream_id));
    assert_eq!((run.u32(52), run.u32(64), run.u32(80)), (7, 128, 0));
    // SAFETY: names live as long as the process.
    let name = unsafe { CStr::from_ptr(run.u64(104) as *const c_char) };
    assert_eq!(name, c"decode");
    assert_eq!((wait.u32(4), wait.u64(16), wait.u32(32)), (3, end, stream_id));
    assert_eq!(wait.u64(16), run.u64(24), "the host waited for the kernel");
    assert_eq!((free.u32(4), free.u32(8), free.u64(16), free.u64(24)), (2, 3, at, 8192));
    assert_eq!((free.u64(32), free.u32(48)), (end + 30, std::process::id()));
    let ids = [copy.u32(44), set.u32(44), run.u32(92), wait.u32(24), free.u32(12)];
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
}

macro_rules! versions {
    ($($test:ident $version:literal;)*) => {
        $(#[test] fn $test() {
            let scenario = format!("cupti = \"{}\"\n{ROUND}", $version);
            let Some(books) = in_child(stringify!($test), &scenario, every_kind) else { return };
            let made = &books["activity"]["made"];
            assert_eq!(made, &json!({ "MEMCPY": 1, "MEMSET": 1, "CONCURRENT_KERNEL": 1,
                "SYNCHRONIZATION": 1, "MEMORY2": 2 }));
            assert_eq!(books["activity"]["written"], json!(6));
            assert_eq!(books["activity"]["dropped"], json!(0));
            assert_eq!(books["kernels"]["decode"], json!({ "count": 1, "total_ns": 1014 }));
            assert_eq!(books["copies"]["host_to_device"],
                json!({ "count": 1, "bytes": 8192, "total_ns": 8692 }));
            assert_eq!(books["memsets"], json!({ "count": 1, "bytes": 8000, "total_ns": 2500 }));
        })*
    };
}

versions! {
    records_of_cupti_12_0 "12.0";
    records_of_cupti_12_6 "12.6";
    records_of_cupti_12_9 "12.9";
    records_of_cupti_13_0 "13.0";
    records_of_cupti_13_1 "13.1";
    records_of_cupti_13_3 "13.3";
    records_of_cupti_13_4 "13.4";
}

#[test]
fn pool_records_tell_the_pool() {
    let Some(_) = in_child("pool_records_tell_the_pool", "", || {
        context();
        record(&[MEMORY2]);
        let (mut a, mut pool) = (0, 0);
        assert_eq!(cu::cuDeviceGetDefaultMemPool(&mut pool, 0), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut a, 5000, 0), 0);
        assert_eq!(cu::cuMemHostAlloc(&mut a, 100, 0), 0);
        let seen = drain(false);
        let [device, host] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((device.u32(8), device.u64(24), device.u32(72)), (3, 5000, 1));
        assert_eq!((device.u32(80), device.u64(88)), (1, pool));
        assert_eq!((device.u64(104), device.u64(112)), (32 << 20, 5120));
        assert_eq!((host.u32(8), host.u64(24), host.u32(72), host.u64(16)), (2, 100, 0, a));
    }) else {
        return;
    };
}

#[test]
fn full_buffers_come_back_at_once() {
    let Some(books) = in_child("full_buffers_come_back_at_once", "", || {
        context();
        BUFFER_BYTES.store(4096, Ordering::Relaxed);
        record(&[KERNEL]);
        let idle = kernel(c"idle");
        (0..100).for_each(|_| assert_eq!(launch(idle, 1, 0), 0));
        assert_eq!(cu::cuCtxSynchronize(), 0);
        let full = COMPLETED.lock().unwrap().len();
        // 18 records of 216 bytes fit into 4,096.
        assert_eq!(full, 100 / 18);
        assert!(COMPLETED.lock().unwrap().iter().all(|bytes| bytes.len() == 18 * 216));
        assert_eq!(drain(false).len(), 100);
        // Padding is zero: the simulator clears buffers whose client makes no promise.
        launch(idle, 1, 0);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        let seen = drain(false);
        assert!(seen[0].bytes[209..216].iter().all(|byte| *byte == 0));
        // An empty buffer comes back only when forced.
        assert_eq!(drain(true).len(), 0);
    }) else {
        return;
    };
    let activity = &books["activity"];
    assert_eq!(activity["written"], json!(101));
    assert_eq!(activity["buffers_requested"], activity["buffers_completed"]);
}

#[test]
fn without_a_buffer_records_are_dropped_and_counted() {
    let test = "without_a_buffer_records_are_dropped_and_counted";
    let Some(books) = in_child(test, "", || {
        context();
        record(&[MEMORY2]);
        BUFFER_BYTES.store(0, Ordering::Relaxed);
        alloc(1);
        alloc(1);
        BUFFER_BYTES.store(64, Ordering::Relaxed);
        alloc(1);
        let mut dropped = 0;
        assert_eq!(cupti::cuptiActivityGetNumDroppedRecords(0, 0, &mut dropped), 0);
        assert_eq!(dropped, 3, "a buffer too small for one record is as none");
        assert_eq!(cupti::cuptiActivityGetNumDroppedRecords(0, 0, &mut dropped), 0);
        assert_eq!(dropped, 0, "told once");
        BUFFER_BYTES.store(4096, Ordering::Relaxed);
        alloc(1);
        assert_eq!(drain(false).len(), 1);
    }) else {
        return;
    };
    assert_eq!(books["activity"]["dropped"], json!(3));
}

#[test]
fn a_forced_flush_hands_out_what_is_not_complete() {
    let test = "a_forced_flush_hands_out_what_is_not_complete";
    let Some(_) = in_child(test, "", || {
        context();
        record(&[KERNEL]);
        let idle = kernel(c"idle");
        assert_eq!((launch(idle, 1, 0), launch(idle, 1000, 0)), (0, 0));
        assert_eq!(drain(false).len(), 0);
        let seen = drain(true);
        let [running, queued] = &seen[..] else { panic!("{seen:?}") };
        assert_ne!(running.u64(16), 0);
        assert_eq!((running.u64(24), queued.u64(16), queued.u64(24)), (0, 0, 0));
        assert_eq!(cu::cuCtxSynchronize(), 0);
        assert_eq!(drain(true).len(), 0, "never delivered again");
    }) else {
        return;
    };
}

#[test]
fn kinds_are_switched_and_refused() {
    let Some(_) = in_child("kinds_are_switched_and_refused", "", || {
        assert_eq!(cupti::cuptiActivityEnable(KERNEL), 15, "not before cuInit");
        assert_eq!(cupti::cuptiGetVersion(&mut 0), 15);
        context();
        record(&[MEMORY2]);
        alloc(1);
        assert_eq!(cupti::cuptiActivityDisable(MEMORY2), 0);
        alloc(1);
        assert_eq!(drain(false).len(), 1);
        assert_eq!(cupti::cuptiActivityEnable(0), 21);
        assert_eq!(cupti::cuptiActivityEnable(999), 21);
        assert_eq!(cupti::cuptiActivityEnable(3), 27, "known, not simulated");
        let mut text = std::ptr::null();
        assert_eq!(cupti::cuptiGetResultString(39, &mut text), 0);
        // SAFETY: a static string.
        let text = unsafe { CStr::from_ptr(text) };
        assert_eq!(text, c"CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED");
    }) else {
        return;
    };
}

#[test]
fn attributes_are_kept() {
    let Some(_) = in_child("attributes_are_kept", "cupti = \"12.0\"\n", || {
        context();
        let (mut size, mut value, mut byte) = (8, 0_u64, 9_u8);
        let at = (&raw mut value).cast();
        assert_eq!(cupti::cuptiActivityGetAttribute(2, &mut size, at), 0);
        assert_eq!(value, 250);
        let eight = 8_u64;
        assert_eq!(cupti::cuptiActivitySetAttribute(2, &mut size, (&raw const eight).cast()), 0);
        assert_eq!(cupti::cuptiActivityGetAttribute(2, &mut size, at), 0);
        assert_eq!(value, 8);
        size = 4;
        assert_eq!(cupti::cuptiActivitySetAttribute(2, &mut size, at), 10);
        assert_eq!(size, 8, "says how much it needs");
        size = 1;
        assert_eq!(cupti::cuptiActivitySetAttribute(5, &mut size, &1), 0);
        assert_eq!(cupti::cuptiActivityGetAttribute(5, &mut size, &mut byte), 0);
        assert_eq!(byte, 1);
        assert_eq!(cupti::cuptiActivityGetAttribute(9, &mut size, &mut byte), 1, "12.3 and later");
    }) else {
        return;
    };
}

#[test]
fn threads_have_buffers_of_their_own_from_13_0() {
    let test = "threads_have_buffers_of_their_own_from_13_0";
    let Some(books) = in_child(test, "", || {
        let context = context();
        record(&[MEMORY2]);
        // One after the other: a call delivers whatever record is complete by then, so of two calls
        // at the same moment one may deliver both records, into one buffer.
        for _ in 0..4 {
            let thread = std::thread::spawn(move || {
                assert_eq!(cu::cuCtxSetCurrent(context), 0);
                alloc(1);
            });
            thread.join().unwrap();
        }
        assert_eq!(REQUESTS.load(Ordering::Relaxed), 4);
        assert_eq!(drain(false).len(), 4);
    }) else {
        return;
    };
    assert_eq!(books["activity"]["buffers_completed"], json!(4));
}

/// A callback as it was seen: site, cbid, parameters (first three words), result, slot and ids.
#[derive(Clone, Debug, PartialEq)]
struct Called {
    site: u32,
    cbid: u32,
    name: String,
    params: [u64; 3],
    target: u64,
    result: Option<u32>,
    slot: u64,
    symbol: Option<String>,
    context_uid: u32,
    correlation: u32,
}

static CALLED: Mutex<Vec<Called>> = Mutex::new(Vec::new());

extern "C" fn callback(user_data: *mut c_void, domain: u32, cbid: u32, data: *const c_void) {
    assert_eq!((user_data as usize, domain), (0x77, 1));
    let data = data.cast::<u8>();
    // SAFETY: `CUpti_CallbackData`: 72 bytes, offsets as CUPTI has them; parameters of the watched
    // functions are at least as long as is read for each.
    let called = unsafe {
        let u32_at = |at: usize| data.add(at).cast::<u32>().read();
        let u64_at = |at: usize| data.add(at).cast::<u64>().read();
        let text = |at: u64| (at != 0).then(|| CStr::from_ptr(at as *const c_char));
        let words = if matches!(cbid, 245 | 550 | 17) { 1 } else { 2 };
        let mut params = [0; 3];
        for (i, word) in params.iter_mut().enumerate().take(words) {
            *word = (u64_at(16) as *const u64).add(i).read();
        }
        let is_exit = u32_at(0) == 1;
        let slot = u64_at(56) as *mut u64;
        if !is_exit {
            assert_eq!(slot.read(), 0);
            slot.write(0xbeef);
        }
        Called {
            site: u32_at(0),
            cbid,
            name: text(u64_at(8)).unwrap().to_string_lossy().into_owned(),
            params,
            // What an allocation returned through its first parameter.
            target: if is_exit && cbid == 243 { (params[0] as *const u64).read() } else { 0 },
            result: is_exit.then(|| (u64_at(24) as *const u32).read()),
            slot: slot.read(),
            symbol: text(u64_at(32)).map(|text| text.to_string_lossy().into_owned()),
            context_uid: u32_at(48),
            correlation: u32_at(64),
        }
    };
    // No lock is held, and calls from here raise no callbacks of their own.
    mem_info();
    CALLED.lock().unwrap().push(called);
}

fn subscribe() -> u64 {
    let mut subscriber = 0;
    assert_eq!(cupti::cuptiSubscribe(&mut subscriber, callback, 0x77 as *mut c_void), 0);
    subscriber
}

fn taken() -> Vec<Called> {
    std::mem::take(&mut *CALLED.lock().unwrap())
}

#[test]
fn callbacks_enter_and_exit_with_parameters() {
    let scenario = "[[faults]]\ncall = \"cuMemAlloc_v2\"\ncode = 2\nnth = 2\n";
    let Some(_) = in_child("callbacks_enter_and_exit_with_parameters", scenario, || {
        context();
        let subscriber = subscribe();
        let on = |cbid| assert_eq!(cupti::cuptiEnableCallback(1, subscriber, 1, cbid), 0);
        [242, 243, 245, 307].into_iter().for_each(on);
        let at = alloc(4096);
        let calls = taken();
        let [enter, exit] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!((enter.site, enter.cbid, enter.name.as_str()), (0, 243, "cuMemAlloc_v2"));
        assert_eq!((enter.params[1], enter.result, enter.context_uid), (4096, None, 1));
        assert_eq!((exit.site, exit.result, exit.slot, exit.target), (1, Some(0), 0xbeef, at));
        assert_eq!((enter.correlation, enter.params), (exit.correlation, exit.params));

        // A call that fails by fault is a call all the same.
        assert_eq!(cu::cuMemAlloc_v2(&mut 0, 64), 2);
        assert_eq!(taken()[1].result, Some(2));
        assert_eq!(cu::cuMemFree_v2(at), 0);
        assert_eq!(cu::cuMemFree_v2(at), 1);
        let calls = taken();
        assert!(calls.iter().all(|call| call.cbid == 245 && call.params[0] == at));
        let results: Vec<_> = calls.iter().filter_map(|call| call.result).collect();
        assert_eq!(results, [0, 1]);

        let decode = kernel(c"decode");
        assert_eq!(launch(decode, 1, 0), 0);
        assert_eq!(taken()[0].symbol.as_deref(), Some("decode"));
        assert_eq!(cupti::cuptiEnableCallback(0, subscriber, 1, 243), 0);
        alloc(1);
        assert_eq!(taken(), []);
        assert_eq!(cupti::cuptiEnableDomain(1, subscriber, 1), 0);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        assert_eq!(taken()[0].name, "cuCtxSynchronize");
        assert_eq!(cupti::cuptiUnsubscribe(subscriber), 0);
        alloc(1);
        assert_eq!(taken(), []);
        assert_eq!(cupti::cuptiEnableDomain(1, subscriber, 1), 1, "gone");
    }) else {
        return;
    };
}

#[test]
fn the_correlation_id_joins_callback_and_record() {
    let Some(_) = in_child("the_correlation_id_joins_callback_and_record", "", || {
        context();
        record(&[KERNEL, MEMORY2]);
        let subscriber = subscribe();
        assert_eq!(cupti::cuptiEnableCallback(1, subscriber, 1, 243), 0);
        alloc(1);
        let call = taken()[0].correlation;
        assert_eq!(drain(false)[0].u32(12), call);
    }) else {
        return;
    };
}

#[test]
fn one_subscriber_at_a_time() {
    let Some(_) = in_child("one_subscriber_at_a_time", "", || {
        context();
        let first = subscribe();
        let mut second = 0;
        let none = std::ptr::null_mut();
        assert_eq!(cupti::cuptiSubscribe(&mut second, callback, none), 39);
        assert_eq!(cupti::cuptiUnsubscribe(first), 0);
        let name = c"first";
        let mut params = [32, name.as_ptr() as u64, 0, 0];
        assert_eq!(cupti::cuptiSubscribe_v2(&mut second, callback, none, &mut params), 0);
        let mut holder = [1_u8; 64];
        let mut params = [32, 0, holder.as_mut_ptr() as u64, 64];
        assert_eq!(cupti::cuptiSubscribe_v2(&mut second, callback, none, &mut params), 39);
        assert_eq!(CStr::from_bytes_until_nul(&holder).unwrap(), name);
    }) else {
        return;
    };
}

#[test]
fn another_subscriber_is_named() {
    let Some(_) = in_child("another_subscriber_is_named", "subscriber = \"nsys\"\n", || {
        context();
        let (mut subscriber, none) = (0, std::ptr::null_mut());
        assert_eq!(cupti::cuptiSubscribe(&mut subscriber, callback, none), 39);
        let mut holder = [1_u8; 64];
        let mut params = [32, 0, holder.as_mut_ptr() as u64, 64];
        assert_eq!(cupti::cuptiSubscribe_v2(&mut subscriber, callback, none, &mut params), 39);
        assert_eq!(CStr::from_bytes_until_nul(&holder).unwrap(), c"nsys");
        // V1 activity needs no subscriber.
        record(&[MEMORY2]);
        alloc(1);
        assert_eq!(drain(false).len(), 1);
    }) else {
        return;
    };
}

#[test]
fn old_versions_lack_the_new_subscription_and_calls_fail_by_name() {
    let test = "old_versions_lack_the_new_subscription_and_calls_fail_by_name";
    let scenario = "cupti = \"12.9\"\nmissing = [\"cuptiActivityFlushAll\"]\n\
                    [[faults]]\ncall = \"cuptiActivityEnable\"\ncode = 35\nnth = 2\n";
    let Some(books) = in_child(test, scenario, || {
        context();
        let mut params = [32, 0, 0, 0];
        let none = std::ptr::null_mut();
        assert_eq!(cupti::cuptiSubscribe_v2(&mut 0, callback, none, &mut params), 11);
        assert_eq!(cupti::cuptiActivityEnable(KERNEL), 0);
        assert_eq!(cupti::cuptiActivityEnable(MEMCPY), 35);
        assert_eq!(cupti::cuptiActivityEnable(MEMCPY), 0);
        assert_eq!(cupti::cuptiActivityFlushAll(0), 11);
    }) else {
        return;
    };
    assert_eq!(books["faults_fired"], json!(1));
}

#[test]
fn finalize_ends_recording() {
    let Some(_) = in_child("finalize_ends_recording", "", || {
        context();
        record(&[MEMORY2]);
        subscribe();
        assert_eq!(cupti::cuptiFinalize(), 0);
        alloc(1);
        assert_eq!(drain(true).len(), 0);
        subscribe();
        assert!(PTX.to_str().unwrap().contains("idle"));
    }) else {
        return;
    };
}
