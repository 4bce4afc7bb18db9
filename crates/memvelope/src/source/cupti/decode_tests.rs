//! Synthetic buffers, written by the same offsets, and garbage.

use super::*;
use crate::event::{
    AllocKind, Allocation, Body, Copied, DeviceIndex, Direction, FreeKind, Kernel, MemoryRecord,
    Memset, SeenBy, Sync, SyncKind, Tag,
};
use crate::units::Bytes;
use cupti_sys::memory_kind;
use proptest::prelude::*;
use std::cell::Cell;

const NAMES: [(u64, u32); 2] = [(0x1000, 1), (0x2000, 2)];

/// A record of `bytes` bytes with the given fields: `(offset, width, value)`.
fn record(kind: u32, bytes: usize, fields: &[(usize, usize, u64)]) -> Vec<u8> {
    let mut out = vec![0; bytes];
    out[..4].copy_from_slice(&kind.to_ne_bytes());
    for (offset, width, value) in fields {
        out[*offset..offset + width].copy_from_slice(&value.to_ne_bytes()[..*width]);
    }
    out
}

/// Steps as CUPTI does, by the sizes of the records.
fn stepper(records: &[Vec<u8>]) -> impl FnMut(Option<usize>) -> Step + use<> {
    let mut begins = vec![0];
    for record in records {
        begins.push(begins[begins.len() - 1] + record.len());
    }
    let end = begins.pop();
    move |last| {
        let next = last.map_or(0, |last| begins.iter().position(|at| *at == last).unwrap() + 1);
        match begins.get(next) {
            Some(at) => Step::Record(*at),
            None => {
                assert!(end.is_some());
                Step::End
            }
        }
    }
}

fn run(
    memory_records: MemoryRecords,
    buffer: &[u8],
    step: impl FnMut(Option<usize>) -> Step,
) -> (Vec<Event>, Tally, u32) {
    let mut events = Vec::new();
    let (token, lookups) = (Cell::new(0), Cell::new(0));
    let mut outside = Outside {
        name_at: &mut |at| {
            lookups.set(lookups.get() + 1);
            let known = NAMES.iter().find(|(name, _)| *name == at);
            Some(known.map_or(NameId::OTHER, |(_, id)| NameId(*id)))
        },
        next_token: &|| {
            token.set(token.get() + 1);
            token.get()
        },
        on_event: &mut |event| events.push(*event),
    };
    let tally = Decoder::new(memory_records, Nanos::ZERO).decode(buffer, step, &mut outside);
    (events, tally, lookups.get())
}

fn check(records: &[Vec<u8>], expect: &[Body], tally: Tally) -> Vec<Event> {
    let step = stepper(records);
    let (events, found, _) = run(MemoryRecords::CrossCheck, &records.concat(), step);
    let bodies: Vec<Body> = events.iter().map(|event| event.body).collect();
    assert_eq!(bodies, expect);
    assert_eq!(found, tally);
    events
}

fn kernel_record(bytes: usize, start: u64, end: u64, name: u64) -> Vec<u8> {
    record(
        kernel::KIND,
        bytes,
        &[
            (kernel::START, 8, start),
            (kernel::END, 8, end),
            (kernel::DEVICE_ID, 4, 1),
            (kernel::CONTEXT_ID, 4, 2),
            (kernel::STREAM_ID, 4, 7),
            (kernel::GRID_X, 4, 10),
            (kernel::GRID_Y, 4, 11),
            (kernel::GRID_Z, 4, 12),
            (kernel::BLOCK_X, 4, 32),
            (kernel::BLOCK_Y, 4, 2),
            (kernel::BLOCK_Z, 4, 1),
            (kernel::LOCAL_PER_THREAD, 4, 640),
            (kernel::LOCAL_BYTES, 8, 5 << 30),
            (kernel::CORRELATION_ID, 4, 99),
            (kernel::NAME, 8, name),
        ],
    )
}

fn a_kernel(name: u32) -> Body {
    Body::Kernel(Kernel {
        graph: 0,
        graph_node: 0,
        scope: ScopeId::NONE,
        device: DeviceIndex(1),
        context: 2,
        stream: 7,
        name: NameId(name),
        correlation: 99,
        start: Nanos(100),
        end: Nanos(150),
        grid: [10, 11, 12],
        block: [32, 2, 1],
        local_per_thread: 640,
        local_bytes: Bytes(5 << 30),
    })
}

fn copy_record(kind: u64, bytes: usize) -> Vec<u8> {
    record(
        memcpy::KIND,
        bytes,
        &[
            (memcpy::COPY_KIND, 1, kind),
            (memcpy::BYTES, 8, 1 << 40),
            (memcpy::START, 8, 5),
            (memcpy::END, 8, 6),
            (memcpy::STREAM_ID, 4, 3),
            (memcpy::CORRELATION_ID, 4, 4),
        ],
    )
}

fn a_copy(direction: Direction) -> Body {
    Body::Copy(Copied {
        graph: 0,
        scope: ScopeId::NONE,
        device: DeviceIndex(0),
        stream: 3,
        direction,
        bytes: Bytes(1 << 40),
        correlation: 4,
        start: Nanos(5),
        end: Nanos(6),
    })
}

fn memory_fields(operation: u32, kind: u32, pool: u32) -> [(usize, usize, u64); 9] {
    [
        (memory2::OPERATION, 4, operation.into()),
        (memory2::MEMORY_KIND, 4, kind.into()),
        (memory2::CORRELATION_ID, 4, 8),
        (memory2::ADDRESS, 8, 0x7000_0000),
        (memory2::BYTES, 8, 4096),
        (memory2::TIMESTAMP, 8, 77),
        (memory2::DEVICE_ID, 4, 1),
        (memory2::POOL_TYPE, 4, pool.into()),
        (memory2::POOL_ADDRESS, 8, 0x9000),
    ]
}

#[test]
fn every_versions_kernel_size_reads_the_same() {
    // Sizes from 12.0 to 13.5; only the stepper knows them.
    for bytes in [208, 216, 224, 232, 248] {
        let records = [
            kernel_record(bytes, 100, 150, 0x1000),
            kernel_record(bytes, 100, 150, 0x2000),
            kernel_record(bytes, 100, 150, 0),
        ];
        let tally = Tally { records: 3, ..Tally::default() };
        let events = check(&records, &[a_kernel(1), a_kernel(2), a_kernel(0)], tally);
        assert_eq!((events[0].time, events[0].seen_by), (Nanos(150), SeenBy::Activity));
    }
}

#[test]
fn copies_by_direction() {
    for (kind, direction) in [
        (1, Direction::HostToDevice),
        (2, Direction::DeviceToHost),
        (8, Direction::DeviceToDevice),
        (9, Direction::HostToHost),
        (10, Direction::PeerToPeer),
        (7, Direction::Other),
        (255, Direction::Other),
    ] {
        let tally = Tally { records: 1, ..Tally::default() };
        check(&[copy_record(kind, 96)], &[a_copy(direction)], tally);
    }
}

#[test]
fn peer_copies_memsets_and_waits() {
    let peer = record(
        memcpy2::KIND,
        96,
        &[(memcpy2::BYTES, 8, 64), (memcpy2::START, 8, 5), (memcpy2::END, 8, 5)],
    );
    let set = record(
        memset::KIND,
        104,
        &[(memset::BYTES, 8, 64), (memset::START, 8, 6), (memset::END, 8, 8)],
    );
    let wait = |kind: u64| {
        record(
            synchronization::KIND,
            56,
            &[
                (synchronization::SYNC_TYPE, 4, kind),
                (synchronization::START, 8, 1),
                (synchronization::END, 8, 9),
                (synchronization::STREAM_ID, 4, 3),
            ],
        )
    };
    let waited = |kind| {
        Body::Sync(Sync {
            kind,
            context: 0,
            stream: 3,
            correlation: 0,
            start: Nanos(1),
            end: Nanos(9),
        })
    };
    check(
        &[peer, set, wait(1), wait(2), wait(3), wait(4), wait(9)],
        &[
            Body::Copy(Copied {
                graph: 0,
                scope: ScopeId::NONE,
                device: DeviceIndex(0),
                stream: 0,
                direction: Direction::PeerToPeer,
                bytes: Bytes(64),
                correlation: 0,
                start: Nanos(5),
                end: Nanos(5),
            }),
            Body::Memset(Memset {
                graph: 0,
                scope: ScopeId::NONE,
                device: DeviceIndex(0),
                stream: 0,
                bytes: Bytes(64),
                correlation: 0,
                start: Nanos(6),
                end: Nanos(8),
            }),
            waited(SyncKind::Event),
            waited(SyncKind::StreamWait),
            waited(SyncKind::Stream),
            waited(SyncKind::Context),
            waited(SyncKind::Other),
        ],
        Tally { records: 7, ..Tally::default() },
    );
}

#[test]
fn what_cannot_be_read_is_counted() {
    let records = [
        kernel_record(248, 0, 150, 0x1000),
        kernel_record(248, 100, 0, 0x1000),
        kernel_record(248, 100, 99, 0x1000),
        record(52, 72, &[]),
        record(memory2::KIND, 128, &memory_fields(9, memory_kind::DEVICE, 0)),
        kernel_record(208, 100, 150, 0x1000)[..100].to_vec(), // cut off by the end of the buffer
    ];
    let tally = Tally {
        records: 0,
        bad_records: 1,
        bad_timestamps: 3,
        unknown_kinds: 2,
        ..Tally::default()
    };
    check(&records, &[], tally);
}

#[test]
fn a_stepper_that_loses_its_way_ends_the_buffer() {
    let records = [copy_record(1, 88), copy_record(1, 88)];
    for second in [Step::Lost, Step::Record(0), Step::Record(176), Step::Record(usize::MAX)] {
        let step = |last: Option<usize>| if last.is_none() { Step::Record(0) } else { second };
        let (events, tally, _) = run(MemoryRecords::CrossCheck, &records.concat(), step);
        assert_eq!(events.len(), 1);
        assert_eq!(tally, Tally { records: 1, bad_records: 1, ..Tally::default() });
    }
}

#[test]
fn memory_records_are_a_cross_check_beside_callbacks() {
    let fields = memory_fields(memory_operation::RELEASE, memory_kind::DEVICE, 0);
    let body = Body::MemoryRecord(MemoryRecord {
        device: DeviceIndex(1),
        is_free: true,
        memory_kind: memory_kind::DEVICE,
        address: 0x7000_0000,
        bytes: Bytes(4096),
        correlation: 8,
        pool: 0,
        pool_bytes: None,
    });
    let tally = Tally { records: 1, ..Tally::default() };
    let events = check(&[record(memory2::KIND, 120, &fields)], &[body], tally);
    assert_eq!(events[0].time, Nanos(77));
}

#[test]
fn memory_records_feed_the_ledger_without_callbacks() {
    for (kind, pool, family, free) in [
        (memory_kind::DEVICE, 0, AllocKind::Device, FreeKind::Device),
        (memory_kind::DEVICE, 1, AllocKind::PoolUsed, FreeKind::PoolUsed),
        (memory_kind::MANAGED, 0, AllocKind::Managed, FreeKind::Device),
        (memory_kind::PINNED, 0, AllocKind::PinnedHost, FreeKind::PinnedHost),
    ] {
        let records = [
            record(memory2::KIND, 128, &memory_fields(memory_operation::ALLOCATION, kind, pool)),
            record(memory2::KIND, 128, &memory_fields(memory_operation::RELEASE, kind, pool)),
        ];
        let step = stepper(&records);
        let (events, tally, _) = run(MemoryRecords::Ledger, &records.concat(), step);
        let allocation = Allocation {
            device: DeviceIndex(1),
            context: 0,
            kind: family,
            address: 0x7000_0000,
            bytes: Bytes(4096),
            stream: 0,
            pool: if pool == 0 { 0 } else { 0x9000 },
            tag: Tag::Untagged,
            library: crate::event::LibraryId::UNKNOWN,
        };
        let bodies: Vec<Body> = events.iter().map(|event| event.body).collect();
        assert_eq!(
            bodies,
            [
                Body::Allocated(allocation),
                Body::FreeEntered { address: 0x7000_0000, kind: free, token: 1 },
                Body::FreeReturned { token: 1, succeeded: true },
            ]
        );
        assert_eq!(tally.records, 2);
        assert!(events.iter().all(|event| event.seen_by == SeenBy::Activity));
    }
}

/// What begins before the recording did: by its end and by its start, and what has no time at all.
#[test]
fn times_before_the_recording_are_told_apart() {
    const SINCE: Nanos = Nanos(10_000_000_000);
    let mut fields = memory_fields(memory_operation::ALLOCATION, memory_kind::DEVICE, 0);
    for field in fields.iter_mut().filter(|field| field.0 == memory2::TIMESTAMP) {
        field.2 = 0;
    }
    let of = |start, end| kernel_record(208, start, end, 0x1000);
    let records = [
        record(memory2::KIND, 128, &fields),
        of(5, SINCE.0 - 2_000_000),
        of(5, SINCE.0 + 7),
        of(SINCE.0 - 900_000_000, SINCE.0 + 7),
    ];
    let mut events = Vec::new();
    let mut outside = Outside {
        name_at: &mut |_| Some(NameId::OTHER),
        next_token: &|| 1,
        on_event: &mut |event| events.push(*event),
    };
    let mut decoder = Decoder::new(MemoryRecords::Ledger, SINCE);
    let tally = decoder.decode(&records.concat(), stepper(&records), &mut outside);
    let expect = Tally { records: 2, before_attach: 1, bad_timestamps: 2, ..Tally::default() };
    assert_eq!(tally, expect);
    let kinds = events.iter().map(|event| (event.time, matches!(event.body, Body::Allocated(_))));
    assert_eq!(kinds.collect::<Vec<_>>(), [(SINCE, true), (Nanos(SINCE.0 + 7), false)]);
}

#[test]
fn names_are_looked_up_once_a_buffer() {
    let records: Vec<_> = (0..100).map(|_| kernel_record(208, 100, 150, 0x1000)).collect();
    let step = stepper(&records);
    let (events, _, lookups) = run(MemoryRecords::CrossCheck, &records.concat(), step);
    assert_eq!((events.len(), lookups), (100, 1));
}

proptest! {
    /// Any bytes and any stepping: decoding ends, and every record stepped on is accounted for.
    #[test]
    fn garbage_is_counted_and_never_read_past(
        mut bytes in prop::collection::vec(any::<u8>(), 0..2048),
        kinds in prop::collection::vec(prop::sample::select(vec![1u32, 2, 10, 22, 38, 49, 77]), 64),
        strides in prop::collection::vec(1usize..300, 1..64),
    ) {
        let mut begins = Vec::new();
        let mut at = 0;
        for (stride, kind) in strides.iter().zip(&kinds) {
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&kind.to_ne_bytes());
            }
            begins.push(at);
            at += stride;
        }
        let mut next = begins.iter();
        let mut stepped = 0;
        let step = |_| match next.next() {
            Some(at) => {
                stepped += 1;
                Step::Record(*at)
            }
            None => Step::End,
        };
        let (events, tally, _) = run(MemoryRecords::Ledger, &bytes, step);
        let counted = tally.records + tally.bad_records + tally.unknown_kinds;
        // A MEMORY2 record without a time counts twice: it is used all the same.
        prop_assert!(counted <= stepped && stepped <= counted + tally.bad_timestamps);
        prop_assert!(events.len() as u64 <= 2 * stepped);
    }
}

#[path = "decode_kinds_tests.rs"]
mod kinds;
