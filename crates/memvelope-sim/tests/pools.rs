//! Pools: limits, places, access, current and default ones, and pools that processes share.

#![expect(unsafe_code, reason = "descriptors and host memory of the tests' own")]
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::activity::{MEMORY2, drain, of_kind, record};
use common::{books, context, cu, in_child, live, mem_info};
use serde_json::json;
use std::os::fd::{FromRawFd, OwnedFd};

const MIB: u64 = 1 << 20;
const PINNED: u64 = 1;
const MANAGED: u64 = 2;

fn used() -> u64 {
    let (free, total) = mem_info();
    total - free
}

/// `CUmemPoolProps`: type, handle types, kind and id of the location, limit.
fn props(kind: u64, handles: u64, location: [u64; 2], limit: u64) -> [u64; 11] {
    let mut props = [0; 11];
    props[..4].copy_from_slice(&[kind | handles << 32, location[0] | location[1] << 32, 0, limit]);
    props
}

fn create(props: &[u64; 11]) -> u64 {
    let mut pool = 0;
    assert_eq!(cu::cuMemPoolCreate(&mut pool, props), 0);
    pool
}

fn attribute(pool: u64, attribute: u32) -> u64 {
    let mut value = 0;
    assert_eq!(cu::cuMemPoolGetAttribute(pool, attribute, &mut value), 0);
    value
}

fn take(pool: u64, bytes: usize) -> u64 {
    let mut address = 0;
    assert_eq!(cu::cuMemAllocFromPoolAsync(&mut address, bytes, pool, 0), 0);
    address
}

#[test]
fn a_limit_is_on_what_is_reserved() {
    let Some(_) = in_child("a_limit_is_on_what_is_reserved", "", || {
        context();
        // 5 MiB are three pages.
        let pool = create(&props(PINNED, 0, [1, 0], 5 * MIB));
        let (first, mut more) = (take(pool, 1 << 20), 0);
        assert_eq!(attribute(pool, 5), 6 * MIB, "and not a chunk");
        let second = take(pool, 5 << 20);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut more, 1, pool, 0), 2);
        assert_eq!((attribute(pool, 7), attribute(pool, 8)), (6 * MIB, 6 * MIB));
        assert_eq!(cu::cuMemFreeAsync(second, 0), 0);
        let third = take(pool, 1);
        assert_eq!((attribute(pool, 7), attribute(pool, 5)), (MIB + 512, 6 * MIB));
        for address in [first, third] {
            assert_eq!(cu::cuMemFreeAsync(address, 0), 0);
        }
        assert_eq!(cu::cuMemPoolTrimTo(pool, 0), 0);
        assert_eq!((attribute(pool, 5), attribute(pool, 6)), (0, 6 * MIB));
    }) else {
        return;
    };
}

/// Pools of host and managed memory, as a location and a type say.
#[test]
fn pools_off_the_device_take_none_of_its_bytes() {
    let test = "pools_off_the_device_take_none_of_its_bytes";
    let Some(books) = in_child(test, "", || {
        context();
        let before = used();
        for (kind, location, family) in [
            (PINNED, [2, 0], "pool_host"),
            (PINNED, [3, 1], "pool_host"),
            (MANAGED, [0, 0], "pool_managed"),
            (MANAGED, [1, 0], "pool_managed"),
        ] {
            let pool = create(&props(kind, 0, location, 0));
            let address = take(pool, 3 << 20);
            assert_eq!((used(), live(0, family)), (before, 3 * MIB), "{family}");
            assert_eq!((attribute(pool, 5), attribute(pool, 7)), (32 * MIB, 3 * MIB));
            assert_eq!(books()["devices"][0]["host_pool_reserved"]["live_bytes"], json!(32 * MIB));
            // SAFETY: the pool's memory is the host's.
            unsafe { (address as *mut u8).write(7) };
            assert_eq!(cu::cuMemFreeAsync(address, 0), 0);
            assert_eq!(cu::cuMemPoolDestroy(pool), 0);
        }
        assert_eq!(cu::cuMemPoolCreate(&mut 0, &props(PINNED, 0, [0, 0], 0)), 1, "nowhere");
        assert_eq!(cu::cuMemPoolCreate(&mut 0, &props(3, 0, [1, 0], 0)), 1, "no such type");
        assert_eq!(cu::cuMemPoolCreate(&mut 0, &props(PINNED, 0, [1, 7], 0)), 101, "no device");
    }) else {
        return;
    };
    let device = &books["devices"][0];
    assert_eq!(device["host_pool_reserved"], json!({ "live_bytes": 0, "peak_bytes": 32 * MIB }));
    assert_eq!(device["pool_reserved"]["peak_bytes"], json!(0));
}

#[test]
fn locations_have_default_and_current_pools() {
    let test = "locations_have_default_and_current_pools";
    let Some(_) = in_child(test, "[[devices]]\n[[devices]]\n", || {
        context();
        let default = |location: [i32; 2], kind| {
            let mut pool = 0;
            assert_eq!(cu::cuMemGetDefaultMemPool(&mut pool, &location, kind), 0);
            pool
        };
        let current = |location: [i32; 2], kind| {
            let mut pool = 0;
            assert_eq!(cu::cuMemGetMemPool(&mut pool, &location, kind), 0);
            pool
        };
        let mut of_device = 0;
        assert_eq!(cu::cuDeviceGetDefaultMemPool(&mut of_device, 1), 0);
        assert_eq!(default([1, 1], 1), of_device, "two names of one pool");
        assert_ne!(default([1, 0], 1), of_device);
        let all = [([1, 1], 1), ([2, 0], 1), ([3, 0], 1), ([0, 0], 2), ([1, 1], 2)];
        for (location, kind) in all {
            let pool = default(location, kind);
            assert_eq!(pool, current(location, kind), "{location:?} {kind}");
            assert_eq!(cu::cuMemPoolDestroy(pool), 1, "a default pool");
            let [at, id] = location.map(|n: i32| u64::try_from(n).unwrap());
            let own = create(&props(u64::try_from(kind).unwrap(), 0, [at, id], 0));
            assert_eq!(cu::cuMemSetMemPool(&location, kind, own), 0);
            assert_eq!((default(location, kind), current(location, kind)), (pool, own));
            assert_eq!(cu::cuMemSetMemPool(&[1, 0], 1, own), 1, "it is somewhere else");
            assert_eq!(cu::cuMemPoolDestroy(own), 0);
            assert_eq!(current(location, kind), pool, "its pool is gone");
        }
        // What a device allocates from is the current pool.
        let own = create(&props(PINNED, 0, [1, 0], 0));
        assert_eq!(cu::cuDeviceSetMemPool(0, own), 0);
        assert_eq!(current([1, 0], 1), own);
        let mut address = 0;
        assert_eq!(cu::cuMemAllocAsync(&mut address, 5000, 0), 0);
        assert_eq!(attribute(own, 7), 5120);
        assert_eq!(cu::cuDeviceSetMemPool(1, own), 1, "another device's");
    }) else {
        return;
    };
}

#[test]
fn access_is_told_by_location() {
    let Some(_) = in_child("access_is_told_by_location", "[[devices]]\n[[devices]]\n", || {
        context();
        let pool = create(&props(PINNED, 0, [1, 0], 0));
        let of = |location: [i32; 2]| {
            let mut flags = 9;
            assert_eq!(cu::cuMemPoolGetAccess(&mut flags, pool, &location), 0);
            flags
        };
        assert_eq!((of([1, 0]), of([1, 1])), (3, 0));
        assert_eq!(cu::cuMemPoolSetAccess(pool, &[1, 1, 3], 1), 0);
        assert_eq!((of([1, 0]), of([1, 1])), (3, 3));
        assert_eq!(cu::cuMemPoolSetAccess(pool, &[1, 0, 0], 1), 101, "its own device");
        assert_eq!(cu::cuMemPoolSetAccess(pool, &[1, 2, 3], 1), 101, "no such device");
    }) else {
        return;
    };
}

/// The exporter and an importer that has the descriptor as its standard input.
#[test]
fn pointers_of_a_shared_pool_are_charged_to_the_exporter() {
    const TEST: &str = "pointers_of_a_shared_pool_are_charged_to_the_exporter";
    if let Some(told) = common::other_was_told() {
        context();
        let before = used();
        let told: [u8; 64] = told.try_into().unwrap();
        let (mut pool, mut first, mut second) = (0, 0, 0);
        assert_eq!(cu::cuMemPoolImportFromShareableHandle(&mut pool, 0, 1, 0), 0);
        assert_eq!(cu::cuMemAllocFromPoolAsync(&mut 0, 1, pool, 0), 1, "not ours to hand out");
        assert_eq!(cu::cuMemPoolExportToShareableHandle(&mut 0, pool, 1, 0), 1);
        record(&[MEMORY2]);
        assert_eq!(cu::cuMemPoolImportPointer(&mut first, pool, &told), 0);
        assert_eq!(cu::cuMemPoolImportPointer(&mut second, pool, &told), 0);
        assert_eq!(first, second, "one view");
        assert_eq!((used(), live(0, "imported_address")), (before, 5000));
        assert_eq!(cu::cuMemFreeAsync(first, 0), 0);
        assert_eq!(live(0, "imported_address"), 5000, "opened twice");
        assert_eq!(cu::cuMemFree_v2(first), 0);
        assert_eq!(cu::cuMemFree_v2(first), 1);
        assert_eq!((used(), live(0, "imported_address")), (before, 0));
        let seen = drain(false);
        let made = of_kind(&seen, MEMORY2)[0];
        // The type of the pool: imported, with the process where a local one has its size.
        assert_eq!((made.u32(80), made.u64(88), made.u64(24)), (2, pool, 5000));
        assert_ne!(made.u64(104), u64::from(std::process::id()));
        assert_eq!(cu::cuMemPoolDestroy(pool), 0);
        println!("DONE");
        return;
    }
    let Some(_) = in_child(TEST, "", || {
        context();
        let pool = create(&props(PINNED, 1, [1, 0], 0));
        let (address, mut data, mut fd) = (take(pool, 5000), [0; 64], -1);
        assert_eq!(cu::cuMemPoolExportToShareableHandle(&mut fd, pool, 1, 0), 0);
        assert_eq!(cu::cuMemPoolExportPointer(&mut data, address), 0);
        // SAFETY: the driver gave it away.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut other = common::Other::start(TEST, &data, fd);
        other.until("DONE");
        let own = create(&props(PINNED, 0, [1, 0], 0));
        assert_eq!(cu::cuMemPoolExportToShareableHandle(&mut 0, own, 1, 0), 1, "not made for it");
        assert_eq!(cu::cuMemPoolExportPointer(&mut data, take(own, 1)), 1);
        assert_eq!(cu::cuMemPoolImportPointer(&mut 0, own, &data), 1);
    }) else {
        return;
    };
}

#[test]
fn records_tell_the_pool() {
    let Some(_) = in_child("records_tell_the_pool", "", || {
        context();
        let pool = create(&props(PINNED, 0, [1, 0], 0));
        assert_eq!(cu::cuMemPoolSetAttribute(pool, 4, &mut (64 * MIB)), 0);
        record(&[MEMORY2]);
        let address = take(pool, 5000);
        assert_eq!(cu::cuMemFreeAsync(address, 0), 0);
        let seen = drain(false);
        let [made, freed] = of_kind(&seen, MEMORY2)[..] else { panic!("{seen:?}") };
        for (seen, operation) in [(made, 1), (freed, 2)] {
            assert_eq!((seen.u32(4), seen.u32(8), seen.u64(24)), (operation, 3, 5000));
            assert_eq!((seen.u64(16), seen.u32(72)), (address, 1));
            assert_eq!((seen.u32(80), seen.u64(88), seen.u64(96)), (1, pool, 64 * MIB));
            assert_eq!((seen.u64(104), seen.u64(112)), (32 * MIB, 5120));
        }
    }) else {
        return;
    };
}
