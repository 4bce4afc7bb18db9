//! CUPTI's own buffers on the device: what they take, and what happens without a place in them.

#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::activity::{KERNEL, drain, record};
use common::{cu, cupti, in_child, kernel, launch, mem_info};
use serde_json::json;

const MB: u64 = 1_000_000;
/// Context and hidden bytes of the default device.
const FIXED: u64 = (480 + 96) << 20;
/// Attributes: size of a buffer, limit, how many at once, host memory instead.
const SIZE: u32 = 0;
const LIMIT: u32 = 2;
const AT_ONCE: u32 = 6;
const PINNED: u32 = 8;

fn set(attribute: u32, value: u64) {
    let mut size = if attribute == PINNED { 1 } else { 8 };
    let value = value.to_le_bytes();
    assert_eq!(cupti::cuptiActivitySetAttribute(attribute, &mut size, value.as_ptr()), 0);
}

fn create() -> u64 {
    let mut context = 0;
    assert_eq!(cu::cuCtxCreate_v2(&mut context, 0, 0), 0);
    context
}

fn used() -> u64 {
    let (free, total) = mem_info();
    total - free
}

#[test]
fn contexts_made_while_attached_pay() {
    let scenario = "[cupti]\ndevice_buffer_bytes = 3200000\n";
    let Some(books) = in_child("contexts_made_while_attached_pay", scenario, || {
        assert_eq!(cu::cuInit(0), 0);
        let before = create();
        assert_eq!(used(), FIXED, "nobody listens");
        record(&[KERNEL]);
        let each = (480 << 20) + 3 * 3_200_000;
        let first = create();
        assert_eq!(used(), FIXED + each);
        set(LIMIT, 1);
        assert_eq!(used(), FIXED + each, "what is there stays");
        let second = create();
        assert_eq!(used(), FIXED + 2 * each - 2 * 3_200_000);
        set(LIMIT, 250);
        set(SIZE, MB);
        set(AT_ONCE, 5);
        let third = create();
        assert_eq!(used(), FIXED + 2 * each - 2 * 3_200_000 + (480 << 20) + 5 * MB);
        set(PINNED, 1);
        let fourth = create();
        for context in [fourth, third, second, before] {
            assert_eq!(cu::cuCtxDestroy_v2(context), 0);
        }
        assert_eq!(cu::cuCtxSetCurrent(first), 0);
        assert_eq!(used(), FIXED + 3 * 3_200_000);
    }) else {
        return;
    };
    let device = &books["devices"][0];
    assert_eq!(device["cupti_bytes"], json!(3 * 3_200_000));
    assert_eq!(device["context_bytes"], json!(480 << 20));
}

#[test]
fn by_default_they_are_not_accounted() {
    let Some(books) = in_child("by_default_they_are_not_accounted", "", || {
        assert_eq!(cu::cuInit(0), 0);
        record(&[KERNEL]);
        create();
        assert_eq!(used(), FIXED);
    }) else {
        return;
    };
    assert_eq!(books["devices"][0]["cupti_bytes"], json!(0));
}

/// Four places: two buffers of two.
fn few_places() -> Vec<bool> {
    assert_eq!(cu::cuInit(0), 0);
    record(&[KERNEL]);
    set(LIMIT, 2);
    set(AT_ONCE, 1);
    create();
    let idle = kernel(c"idle");
    assert_eq!(used(), FIXED + MB);
    let mut have_times = Vec::new();
    for _ in 0..2 {
        (0..6).for_each(|_| assert_eq!(launch(idle, 1, 0), 0));
        assert_eq!(used(), FIXED + 2 * MB, "a second one was needed, and no third is allowed");
        assert_eq!(cu::cuCtxSynchronize(), 0);
        have_times.extend(drain(false).iter().map(|seen| (seen.u64(16), seen.u64(24)) != (0, 0)));
    }
    have_times
}

#[test]
fn records_without_a_place_have_no_times() {
    let scenario = "[costs]\nlaunch_ns = 10\n[cupti]\ndevice_buffer_bytes = 1000000\n\
                    device_buffer_records = 2\n";
    let Some(books) = in_child("records_without_a_place_have_no_times", scenario, || {
        let four = [true, true, true, true, false, false];
        assert_eq!(few_places(), [four, four].concat(), "places are used again");
    }) else {
        return;
    };
    assert_eq!(books["activity"]["without_place"], json!(4));
}

#[test]
fn a_leak_ends_all_times() {
    let scenario = "[costs]\nlaunch_ns = 10\n[cupti]\ndevice_buffer_bytes = 1000000\n\
                    device_buffer_records = 2\ndevice_buffer_leak = true\n";
    let Some(books) = in_child("a_leak_ends_all_times", scenario, || {
        let times = few_places();
        assert_eq!(times.iter().filter(|has| **has).count(), 4);
        assert!(times[..4].iter().all(|has| *has));
    }) else {
        return;
    };
    assert_eq!(books["activity"]["without_place"], json!(8));
}
