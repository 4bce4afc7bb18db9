//! Memory that has more than one owner: exported and imported handles, multicast objects; and calls
//! that fail in the middle of making a mapping.

#![expect(unsafe_code, reason = "descriptors of the tests' own")]
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{books, context, cu, in_child, live, mem_info};
use serde_json::json;
use std::os::fd::{FromRawFd, OwnedFd};

const MIB: u64 = 1 << 20;
const PAGE: usize = 2 << 20;
/// `CUmemAllocationProp`: pinned, exportable as a descriptor, on device 0.
const SHARED: [u64; 4] = [1 | 1 << 32, 1, 0, 0];

fn used() -> u64 {
    let (free, total) = mem_info();
    total - free
}

fn create(props: &[u64; 4], bytes: usize) -> u64 {
    let mut handle = 0;
    assert_eq!(cu::cuMemCreate(&mut handle, bytes, props, 0), 0);
    handle
}

fn export(handle: u64) -> OwnedFd {
    let mut fd = -1;
    assert_eq!(cu::cuMemExportToShareableHandle(&mut fd, handle, 1, 0), 0);
    // SAFETY: the driver gave it away.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: &OwnedFd) -> u64 {
    use std::os::fd::AsRawFd;
    u64::try_from(fd.as_raw_fd()).unwrap()
}

#[test]
fn an_exported_descriptor_keeps_the_memory() {
    let Some(books) = in_child("an_exported_descriptor_keeps_the_memory", "", || {
        context();
        let before = used();
        let handle = create(&SHARED, 2 * PAGE);
        let (fd, second) = (export(handle), export(handle));
        assert_eq!(live(0, "exported"), 8 * MIB, "two descriptors of 4 MiB");
        assert_eq!(cu::cuMemRelease(handle), 0);
        assert_eq!(used() - before, 4 * MIB, "descriptors keep it");
        assert_eq!(books()["devices"][0]["exported_only_bytes"], json!(4 * MIB));
        let copy = fd.try_clone().unwrap();
        drop((fd, second));
        assert_eq!(used() - before, 4 * MIB, "a copy keeps it");
        let mut again = 0;
        assert_eq!(cu::cuMemImportFromShareableHandle(&mut again, raw(&copy), 1), 0);
        assert_ne!(again, handle);
        drop(copy);
        assert_eq!(used() - before, 4 * MIB, "the import keeps it");
        assert_eq!(live(0, "imported_handle"), 4 * MIB);
        assert_eq!(cu::cuMemRelease(again), 0);
        assert_eq!(used(), before);
        // Only what was made to be exported is.
        let own = create(&[1, 1, 0, 0], PAGE);
        assert_eq!(cu::cuMemExportToShareableHandle(&mut 0, own, 1, 0), 1);
        assert_eq!(cu::cuMemExportToShareableHandle(&mut 0, again, 1, 0), 1, "released");
        assert_eq!(
            cu::cuMemImportFromShareableHandle(&mut again, 0, 1),
            1,
            "no descriptor of ours"
        );
        let mut props = [9; 4];
        assert_eq!(cu::cuMemGetAllocationPropertiesFromHandle(&mut props, own), 0);
        assert_eq!(props, [1, 1, 0, 0]);
    }) else {
        return;
    };
    let families = &books["devices"][0]["families"];
    assert_eq!(families["vmm"]["peak_bytes"], json!(4 * MIB));
    assert_eq!(families["exported"]["peak_bytes"], json!(8 * MIB));
    assert_eq!(
        (&families["exported"]["live_bytes"], &books["caught_panics"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn imports_are_views_of_the_same_bytes() {
    let Some(_) = in_child("imports_are_views_of_the_same_bytes", "", || {
        context();
        let before = used();
        let handle = create(&SHARED, PAGE);
        let fd = export(handle);
        let (mut import, mut range, mut retained) = (0, 0, 0);
        assert_eq!(cu::cuMemImportFromShareableHandle(&mut import, raw(&fd), 1), 0);
        drop(fd);
        assert_eq!(cu::cuMemAddressReserve(&mut range, 2 * PAGE, 0, 0, 0), 0);
        let other = range + PAGE as u64;
        assert_eq!(cu::cuMemMap(range, PAGE, 0, handle, 0), 0);
        assert_eq!(cu::cuMemMap(other, PAGE, 0, import, 0), 0);
        assert_eq!(cu::cuMemSetAccess(range, 2 * PAGE, &[1, 0, 3], 1), 0);
        let mut flags = 9;
        assert_eq!((cu::cuMemGetAccess(&mut flags, &[1, 0], other), flags), (0, 3));
        assert_eq!((cu::cuMemGetAccess(&mut flags, &[2, 0], other), flags), (0, 0));
        assert_eq!(cu::cuMemcpyHtoD_v2(range, [5; 8].as_ptr(), 8), 0);
        let mut back = [0; 8];
        assert_eq!(cu::cuMemcpyDtoH_v2(back.as_mut_ptr(), other, 8), 0);
        assert_eq!(back, [5; 8]);
        assert_eq!(used() - before, 2 * MIB, "once");
        assert_eq!(cu::cuMemRetainAllocationHandle(&mut retained, other + 5), 0);
        assert_eq!(retained, import);
        for handle in [handle, import, retained] {
            assert_eq!(cu::cuMemRelease(handle), 0);
        }
        assert_eq!(cu::cuMemRelease(import), 1);
        assert_eq!(cu::cuMemUnmap(range, PAGE), 0);
        assert_eq!(used() - before, 2 * MIB, "the import is mapped");
        assert_eq!(cu::cuMemUnmap(other, PAGE), 0);
        assert_eq!(used(), before);
    }) else {
        return;
    };
}

/// Another process, started with a copy of the descriptor as its standard input.
#[test]
fn another_process_imports_without_being_charged() {
    const TEST: &str = "another_process_imports_without_being_charged";
    if common::other_was_told().is_some() {
        context();
        let before = used();
        let (mut import, mut range) = (0, 0);
        assert_eq!(cu::cuMemImportFromShareableHandle(&mut import, 0, 1), 0);
        // SAFETY: nobody reads the standard input.
        drop(unsafe { OwnedFd::from_raw_fd(0) });
        assert_eq!(cu::cuMemAddressReserve(&mut range, 2 * PAGE, 0, 0, 0), 0);
        assert_eq!(cu::cuMemMap(range, 2 * PAGE, 0, import, 0), 1, "it is one page");
        assert_eq!(cu::cuMemMap(range, PAGE, 0, import, 0), 0);
        assert_eq!((used(), live(0, "imported_handle"), live(0, "vmm")), (before, 2 * MIB, 0));
        assert_eq!(cu::cuMemRelease(import), 0);
        assert_eq!(live(0, "imported_handle"), 2 * MIB, "still mapped");
        println!("IMPORTED");
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(cu::cuMemUnmap(range, PAGE), 0);
        println!("CLOSED");
        std::thread::sleep(std::time::Duration::from_secs(20));
        return;
    }
    let Some(_) = in_child(TEST, "", || {
        context();
        let before = used();
        let handle = create(&SHARED, PAGE);
        let mut other = common::Other::start(TEST, &[], export(handle));
        assert_eq!(cu::cuMemRelease(handle), 0);
        other.until("IMPORTED");
        assert_eq!(used() - before, 2 * MIB, "the other process maps it");
        other.until("CLOSED");
        assert_eq!(used(), before);
    }) else {
        return;
    };
}

#[test]
fn legacy_ipc_counts_openings_and_charges_the_exporter() {
    const TEST: &str = "legacy_ipc_counts_openings_and_charges_the_exporter";
    if let Some(told) = common::other_was_told() {
        context();
        let before = used();
        let handle = common::IpcHandle(told.try_into().unwrap());
        let (mut first, mut second) = (0, 0);
        assert_eq!(cu::cuIpcOpenMemHandle_v2(&mut first, handle, 0), 1, "without its flag");
        assert_eq!(cu::cuIpcOpenMemHandle_v2(&mut first, handle, 1), 0);
        assert_eq!(cu::cuIpcOpenMemHandle(&mut second, handle, 1), 0);
        assert_eq!(first, second, "one view");
        assert_eq!((used(), live(0, "imported_address")), (before, 5 * MIB));
        assert_eq!(cu::cuMemFree_v2(first), 1, "it has a call of its own");
        assert_eq!(cu::cuMemsetD8_v2(first, 1, 5 << 20), 0);
        assert_eq!(cu::cuIpcGetMemHandle(&mut { handle }, first), 1, "not ours to pass on");
        assert_eq!(cu::cuIpcCloseMemHandle(first), 0);
        assert_eq!(live(0, "imported_address"), 5 * MIB);
        assert_eq!(cu::cuIpcCloseMemHandle(first), 0);
        assert_eq!(cu::cuIpcCloseMemHandle(first), 1, "below none");
        assert_eq!((used(), live(0, "imported_address")), (before, 0));
        // Without being closed, it goes with its context.
        assert_eq!(cu::cuIpcOpenMemHandle_v2(&mut first, handle, 1), 0);
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
        assert_eq!(live(0, "imported_address"), 0);
        println!("DONE");
        return;
    }
    let Some(_) = in_child(TEST, "", || {
        context();
        let address = common::alloc(5 << 20);
        let mut handle = common::IpcHandle([0; 64]);
        assert_eq!(cu::cuIpcOpenMemHandle_v2(&mut 0, handle, 1), 1, "no handle");
        assert_eq!(cu::cuIpcGetMemHandle(&mut handle, address + 4096), 0);
        assert_eq!(cu::cuIpcOpenMemHandle_v2(&mut 0, handle, 1), 201, "its own process");
        let mut other = common::Other::start(TEST, &handle.0, std::process::Stdio::null());
        other.until("DONE");
        assert_eq!(cu::cuMemFree_v2(address), 0);
        let mut from_pool = 0;
        assert_eq!(cu::cuMemAllocAsync(&mut from_pool, 4096, 0), 0);
        assert_eq!(cu::cuIpcGetMemHandle(&mut handle, from_pool), 1, "of a pool");
        assert_eq!(cu::cuIpcCloseMemHandle(from_pool), 1);
    }) else {
        return;
    };
}

#[test]
fn multicast_objects_keep_what_is_bound() {
    let scenario = "[[devices]]\n[[devices]]\n";
    let Some(books) = in_child("multicast_objects_keep_what_is_bound", scenario, || {
        context();
        let before = used();
        let props = [2, 4 * PAGE as u64, 1, 0];
        let (mut multicast, mut granularity, mut range) = (0, 0, 0);
        assert_eq!(cu::cuMulticastGetGranularity(&mut granularity, &props, 0), 0);
        assert_eq!(granularity, PAGE);
        assert_eq!(cu::cuMulticastCreate(&mut multicast, &[2, 5, 1, 0]), 1);
        assert_eq!(cu::cuMulticastCreate(&mut multicast, &props), 0);
        assert_eq!(used(), before, "no memory of its own");
        let memory = create(&SHARED, 2 * PAGE);
        let bind =
            |offset, at, bytes| cu::cuMulticastBindMem(multicast, offset, memory, at, bytes, 0);
        assert_eq!(cu::cuMulticastAddDevice(multicast, 0), 0);
        assert_eq!(cu::cuMulticastAddDevice(multicast, 0), 1, "twice");
        assert_eq!(bind(0, 0, PAGE), 1, "the team is not complete");
        assert_eq!(cu::cuMulticastAddDevice(multicast, 1), 0);
        assert_eq!(bind(0, 0, PAGE), 0);
        assert_eq!(bind(0, PAGE, PAGE), 1, "something is bound there");
        assert_eq!(bind(PAGE, PAGE, 2 * PAGE), 1, "past the memory's end");
        assert_eq!(bind(4 * PAGE, 0, PAGE), 1, "past the object's end");
        assert_eq!(cu::cuMemAddressReserve(&mut range, 4 * PAGE, 0, 0, 0), 0);
        let second = range + 2 * PAGE as u64;
        assert_eq!(cu::cuMemMap(range, 2 * PAGE, 0, memory, 0), 0);
        assert_eq!(cu::cuMulticastBindAddr(multicast, PAGE, range + PAGE as u64, PAGE, 0), 0);
        assert_eq!(cu::cuMemMap(second, PAGE, PAGE, multicast, 0), 0, "an offset is allowed");
        assert_eq!(live(0, "multicast_bound"), 4 * MIB);
        assert_eq!(cu::cuMemUnmap(range, 2 * PAGE), 0);
        assert_eq!(cu::cuMemRelease(memory), 0);
        assert_eq!(used() - before, 4 * MIB, "bound");
        assert_eq!(cu::cuMulticastUnbind(multicast, 0, 0, 2 * PAGE), 1, "not as it was bound");
        assert_eq!(cu::cuMulticastUnbind(multicast, 0, 0, PAGE), 0);
        assert_eq!(used() - before, 4 * MIB, "half of it is bound still");
        assert_eq!(cu::cuMemRelease(multicast), 0);
        assert_eq!(used() - before, 4 * MIB, "the object is mapped");
        assert_eq!(cu::cuMemUnmap(second, PAGE), 0);
        assert_eq!(used(), before);
    }) else {
        return;
    };
    let families = &books["devices"][0]["families"];
    assert_eq!(families["multicast"]["peak_bytes"], json!(8 * MIB));
    for family in ["multicast", "multicast_bound", "vmm"] {
        assert_eq!(families[family]["live_bytes"], json!(0), "{family}");
    }
}

#[test]
fn host_memory_behind_handles_takes_no_device_bytes() {
    let test = "host_memory_behind_handles_takes_no_device_bytes";
    let Some(books) = in_child(test, "", || {
        context();
        let before = used();
        // On NUMA node 0.
        let handle = create(&[1, 3, 0, 0], PAGE);
        assert_eq!((used(), live(0, "vmm_host"), live(0, "vmm")), (before, 2 * MIB, 0));
        assert_eq!(cu::cuMemRelease(handle), 0);
    }) else {
        return;
    };
    assert_eq!(books["devices"][0]["families"]["vmm_host"]["live_bytes"], json!(0));
}

/// Makes a mapping and takes it down again; whatever fails, nothing is left of it in the end.
fn a_mapping_comes_and_goes() {
    context();
    let before = used();
    let (mut failed, mut seen) = (0, Vec::new());
    for _ in 0..8 {
        let (mut range, mut handle) = (0, 0);
        let steps = [
            cu::cuMemCreate(&mut handle, PAGE, &SHARED, 0),
            cu::cuMemAddressReserve(&mut range, PAGE, 0, 0, 0),
            cu::cuMemMap(range, PAGE, 0, handle, 0),
            cu::cuMemSetAccess(range, PAGE, &[1, 0, 3], 1),
            u32::from(used() - before != if handle == 0 { 0 } else { 2 * MIB }),
        ];
        failed += steps.iter().filter(|code| **code != 0).count();
        seen.push(steps);
        // A program that cleans up tries until it works.
        let until_done = |call: &dyn Fn() -> u32| while call() == 999 {};
        until_done(&|| cu::cuMemUnmap(range, PAGE));
        until_done(&|| cu::cuMemRelease(handle));
        until_done(&|| cu::cuMemAddressFree(range, PAGE));
        assert_eq!(used(), before, "{seen:?}");
    }
    assert_eq!(failed > 0, std::env::var_os("SIM_TEST_FAILS").is_some(), "{seen:?}");
}

#[test]
fn faults_at_each_step_leave_the_world_whole() {
    const TEST: &str = "faults_at_each_step_leave_the_world_whole";
    for (call, must_fail) in [
        ("cuMemCreate", true),
        ("cuMemAddressReserve", true),
        ("cuMemMap", true),
        ("cuMemSetAccess", true),
        ("cuMemUnmap", false),
        ("cuMemRelease", false),
        ("cuMemAddressFree", false),
    ] {
        let scenario = format!("[[faults]]\ncall = {call:?}\ncode = 999\nnth = 3\ntimes = 2\n");
        let flag: &[(&str, &std::path::Path)] = &[("SIM_TEST_FAILS", "1".as_ref())];
        let env = if must_fail { flag } else { &[] };
        let Some(books) = common::in_child_with(TEST, &scenario, env, a_mapping_comes_and_goes)
        else {
            return;
        };
        assert_eq!(books["faults_fired"], json!(2), "{call}");
        assert_eq!(books["vmm_maps"], books["vmm_unmaps"], "{call}");
        assert_eq!(books["devices"][0]["physical_live_bytes"], json!(0), "{call}");
    }
}
