//! What the driver knows of addresses; registered host memory; arrays.

#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{alloc, context, cu, in_child, live, mem_info};
use serde_json::json;
use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
const PAGE: usize = 2 << 20;
/// `CU_POINTER_ATTRIBUTE_…`.
const MEMORY_TYPE: u32 = 2;
const BUFFER_ID: u32 = 7;
const IS_MANAGED: u32 = 8;
const DEVICE_ORDINAL: u32 = 9;
const IS_LEGACY_IPC: u32 = 10;
const RANGE_START: u32 = 11;
const RANGE_SIZE: u32 = 12;
const MAPPED: u32 = 13;
const POOL: u32 = 17;
const MAPPING_SIZE: u32 = 18;
const MAPPING_BASE: u32 = 19;
const MEMORY_BLOCK_ID: u32 = 20;

fn used() -> u64 {
    let (free, total) = mem_info();
    total - free
}

fn of(attribute: u32, address: u64) -> u64 {
    let mut value = 0;
    assert_eq!(cu::cuPointerGetAttribute(&mut value, attribute, address), 0, "{attribute}");
    value
}

#[test]
fn each_family_is_told_by_its_address() {
    let Some(_) = in_child("each_family_is_told_by_its_address", "", || {
        context();
        let (mut managed, mut pinned, mut pooled, mut pool) = (0, 0, 0, 0);
        assert_eq!(cu::cuMemAllocManaged(&mut managed, 5000, 1), 0);
        assert_eq!(cu::cuMemHostAlloc(&mut pinned, 5000, 4), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut pooled, 5000, 0), 0);
        assert_eq!(cu::cuDeviceGetDefaultMemPool(&mut pool, 0), 0);
        let plain = alloc(5000);
        let mut numbers = BTreeSet::new();
        // Address, memory type, managed, legacy IPC, pool.
        for (address, kind, is_managed, has_ipc, of_pool) in [
            (plain, 2, 0, 1, 0),
            (managed, 2, 1, 0, 0),
            (pinned, 1, 0, 0, 0),
            (pooled, 2, 0, 0, pool),
        ] {
            let inside = address + 4999;
            assert_eq!((of(MEMORY_TYPE, inside), of(IS_MANAGED, inside)), (kind, is_managed));
            assert_eq!((of(IS_LEGACY_IPC, inside), of(POOL, inside)), (has_ipc, of_pool));
            assert_eq!((of(RANGE_START, inside), of(RANGE_SIZE, inside)), (address, 5000));
            assert_eq!((of(MAPPING_BASE, inside), of(MAPPING_SIZE, inside)), (address, 5000));
            assert_eq!((of(DEVICE_ORDINAL, inside), of(MAPPED, inside)), (0, 1));
            numbers.insert((of(BUFFER_ID, inside), of(MEMORY_BLOCK_ID, inside)));
            let past = cu::cuPointerGetAttribute(&mut 0, MEMORY_TYPE, address + 5000);
            assert_eq!(past, 1, "past the end");
        }
        assert_eq!(numbers.len(), 4);
        // An address that is handed out again belongs to another allocation.
        let number = of(BUFFER_ID, plain);
        assert_eq!(cu::cuMemFree_v2(plain), 0);
        assert_eq!(alloc(5000), plain);
        assert_ne!(of(BUFFER_ID, plain), number);
        assert_eq!(cu::cuPointerGetAttribute(&mut 0, 99, plain), 1);
    }) else {
        return;
    };
}

#[test]
fn views_of_one_memory_have_its_number() {
    let Some(_) = in_child("views_of_one_memory_have_its_number", "", || {
        context();
        let (mut range, mut handle) = (0, 0);
        assert_eq!(cu::cuMemAddressReserve(&mut range, 4 * PAGE, 0, 0, 0), 0);
        assert_eq!(cu::cuMemCreate(&mut handle, PAGE, &[1, 1, 0, 0], 0), 0);
        let second = range + 2 * PAGE as u64;
        assert_eq!(of(MAPPED, second), 0);
        assert_eq!(cu::cuPointerGetAttribute(&mut 0, MEMORY_BLOCK_ID, second), 1, "none there");
        assert_eq!(cu::cuMemMap(range, PAGE, 0, handle, 0), 0);
        assert_eq!(cu::cuMemMap(second, PAGE, 0, handle, 0), 0);
        assert_eq!(of(MEMORY_BLOCK_ID, range), of(MEMORY_BLOCK_ID, second + 5));
        assert_eq!((of(RANGE_START, second + 5), of(RANGE_SIZE, second)), (range, 8 * MIB));
        assert_eq!((of(MAPPING_BASE, second + 5), of(MAPPING_SIZE, second)), (second, 2 * MIB));
        assert_eq!((of(MEMORY_TYPE, second), of(IS_LEGACY_IPC, second)), (2, 0));
        // Several at once; of an unknown address all are 0.
        let attributes = [MEMORY_TYPE, RANGE_START, POOL];
        let ask = |address| {
            let mut values = [9_u64 << 32; 3];
            let to = values.each_mut().map(std::ptr::from_mut);
            let code = cu::cuPointerGetAttributes(3, attributes.as_ptr(), to.as_ptr(), address);
            assert_eq!(code, 0);
            [values[0] & 0xffff_ffff, values[1], values[2]]
        };
        assert_eq!((ask(second), ask(8)), ([2, range, 0], [0, 0, 0]));
    }) else {
        return;
    };
}

#[test]
fn host_memory_is_registered_once() {
    let Some(books) = in_child("host_memory_is_registered_once", "", || {
        context();
        let mut memory = vec![0_u8; 3 * 4096];
        let at = memory.as_mut_ptr() as u64;
        let before = used();
        assert_eq!(cu::cuMemHostRegister_v2(at, 8192, 2), 0);
        assert_eq!(cu::cuMemHostRegister_v2(at + 4096, 8192, 0), 712);
        assert_eq!(cu::cuMemHostRegister_v2(0, 1, 0), 1);
        assert_eq!(cu::cuMemHostRegister_v2(at + 8192, 0, 0), 1);
        assert_eq!((used(), live(0, "registered")), (before, 8192));
        assert_eq!((of(MEMORY_TYPE, at), of(RANGE_SIZE, at)), (1, 8192));
        let (mut pointer, mut flags) = (0, 0);
        assert_eq!(cu::cuMemHostGetDevicePointer_v2(&mut pointer, at + 5, 0), 0);
        assert_eq!((cu::cuMemHostGetFlags(&mut flags, at), flags), (0, 3));
        assert_eq!(cu::cuMemFreeHost(at), 1, "it is the program's");
        assert_eq!(cu::cuMemHostUnregister(at + 4096), 713);
        assert_eq!(cu::cuMemHostUnregister(at), 0);
        assert_eq!(cu::cuMemHostUnregister(at), 713);
        assert_eq!(cu::cuMemHostRegister_v2(at, 4096, 0), 0);
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
        assert_eq!(live(0, "registered"), 0, "it goes with its context");
        memory.fill(1);
        let mut pinned = 0;
        context();
        assert_eq!(cu::cuMemHostAlloc(&mut pinned, 4096, 4), 0);
        assert_eq!((cu::cuMemHostGetFlags(&mut flags, pinned), flags), (0, 7));
        assert_eq!(cu::cuMemHostUnregister(pinned), 713);
    }) else {
        return;
    };
    assert_eq!(books["devices"][0]["families"]["registered"]["peak_bytes"], json!(8192));
}

#[test]
fn arrays_take_whole_pages() {
    let Some(books) = in_child("arrays_take_whole_pages", "", || {
        context();
        let before = used();
        let (mut flat, mut deep) = (0, 0);
        // 1,000 × 700 elements of four floats; 100 × 50 × 20 of one half.
        assert_eq!(cu::cuArrayCreate_v2(&mut flat, &[1000, 700, 0x20 | 4 << 32]), 0);
        assert_eq!(cu::cuArray3DCreate_v2(&mut deep, &[100, 50, 20, 0x10 | 1 << 32, 0]), 0);
        assert_eq!(live(0, "array"), 11_200_000 + 200_000);
        assert_eq!(used() - before, (12 + 2) * MIB);
        assert_eq!(cu::cuArrayCreate_v2(&mut 0, &[0, 0, 0x20 | 1 << 32]), 1);
        assert_eq!(cu::cuArrayCreate_v2(&mut 0, &[1, 0, 0x77 | 1 << 32]), 1);
        assert_eq!(cu::cuArrayDestroy(flat), 0);
        assert_eq!(cu::cuArrayDestroy(flat), 400);
        assert_eq!(used() - before, 2 * MIB);
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
    }) else {
        return;
    };
    let device = &books["devices"][0];
    assert_eq!(device["families"]["array"]["live_bytes"], json!(0));
    assert_eq!(device["requested_peak_bytes"], json!(11_400_000));
    assert_eq!(device["physical_live_bytes"], json!(0));
}
