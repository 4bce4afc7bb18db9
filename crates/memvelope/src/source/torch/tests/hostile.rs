//! Snapshots that do not hold together: each is an error that names the segment.

use super::*;
use crate::error::Error;

const AT: u64 = 0x7f00_0000_0000;

fn segment(address: u64, bytes: u64) -> SegmentHead {
    SegmentHead { address, bytes, ..SegmentHead::default() }
}

fn block(bytes: u64, requested: u64) -> Block {
    let state = BlockState::Allocated;
    Block { address: None, bytes, requested_bytes: Some(requested), state }
}

fn check(told: &[Told], place: &str, problem: &str) {
    match read(told) {
        Err(Error::ReadAllocator { place: where_it_was, problem: what }) => {
            assert!(where_it_was.contains(place), "{where_it_was}: {what}");
            assert!(what.contains(problem), "{where_it_was}: {what}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_is_an_error_that_names_the_segment() {
    let good = (segment(AT, 1024), vec![block(1024, 1000)]);
    let first = "segment 0 at 0x7f0000000000";
    let cases: &[(Vec<Told>, &str, &str)] = &[
        (vec![(segment(AT, 0), vec![])], first, "total_size is 0"),
        (vec![(segment(AT, 512), vec![])], first, "its blocks have 0 bytes"),
        (vec![(segment(u64::MAX - 5, 512), vec![])], "segment 0", "past the last address"),
        (vec![(segment(AT, 512), vec![block(0, 0)])], "block 0", "size is 0"),
        (vec![(segment(AT, 512), vec![block(1024, 1)])], "block 0", "past the end"),
        (vec![(segment(AT, 512), vec![block(u64::MAX, 1)])], "block 0", "past the end"),
        (
            vec![(segment(AT, 1024), vec![block(512, 1), block(512, 513)])],
            "block 1",
            "more than size",
        ),
        (vec![(segment(AT, 1024), vec![block(512, 1)])], first, "512 bytes, not total_size"),
        (vec![good.clone(), good.clone()], "the segments at 0x7f00", "overlap"),
        (
            vec![good.clone(), (segment(AT + 512, 1024), vec![block(1024, 1)])],
            "and 0x7f0000000200",
            "overlap",
        ),
        (
            vec![(segment(AT, 1024), vec![Block { address: Some(AT + 1), ..block(1024, 9) }])],
            "block 0",
            "not where the last block ended",
        ),
        (
            vec![(SegmentHead { allocated_bytes: Some(1), ..good.0 }, good.1.clone())],
            first,
            "allocated_size is 1",
        ),
        (
            vec![(SegmentHead { active_bytes: Some(u64::MAX), ..good.0 }, good.1.clone())],
            first,
            "active_size",
        ),
    ];
    for (told, place, problem) in cases {
        check(told, place, problem);
    }
    assert!(read(&[good]).is_ok());
}

#[test]
fn a_block_without_a_segment_is_an_error() {
    let mut builder = Builder::new(DeviceIndex(0));
    assert!(builder.block(&block(512, 1)).is_err());
}

#[test]
fn segments_beyond_those_that_are_kept_must_come_by_address() {
    let mut builder = Builder::new(DeviceIndex(0));
    for index in 0..=Framework::SEGMENTS_MAX as u64 {
        builder.segment(segment(AT + index * 512, 512)).expect("in order");
        builder.block(&block(512, 512)).expect("it fits");
    }
    assert!(builder.segment(segment(AT - 512, 512)).is_err());
}

/// Old versions do not tell what was asked for: then the whole block counts, and it is said.
#[test]
fn a_block_that_does_not_say_what_was_asked_for() {
    let untold = Block { requested_bytes: None, ..block(512, 0) };
    let framework = read(&[(segment(AT, 512), vec![untold])]).expect("it holds together");
    assert_eq!(framework.requested_bytes.0, 512);
    assert!(framework.notes[0].contains("do not say what was asked for"), "{:?}", framework.notes);
}
