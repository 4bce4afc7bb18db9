//! The kinds beside kernels, copies and waits, and what a decoder remembers between buffers.

use super::*;
use crate::event::{
    ApiCall, GraphLaunch, Overhead, OverheadKind, PoolChange, PoolRecord, Span, SpanOrigin,
};
use cupti_sys::{marker_flag, object_kind, overhead_kind, pool_operation};

/// Decodes buffers one after the other with one decoder; where names are read is the test's.
fn decode_all(
    decoder: &mut Decoder,
    buffers: &[Vec<Vec<u8>>],
    name_at: &dyn Fn(u64) -> Option<NameId>,
) -> (Vec<Body>, Tally) {
    for records in buffers {
        decoder.correlate(&records.concat(), stepper(records));
    }
    let (mut bodies, mut sum) = (Vec::new(), Tally::default());
    for records in buffers {
        let mut outside = Outside {
            name_at: &mut |at| name_at(at),
            next_token: &|| 1,
            on_event: &mut |event| bodies.push(event.body),
        };
        let tally = decoder.decode(&records.concat(), stepper(records), &mut outside);
        sum.records += tally.records;
        sum.bad_records += tally.bad_records;
        sum.bad_timestamps += tally.bad_timestamps;
        sum.unknown_kinds += tally.unknown_kinds;
        sum.before_attach += tally.before_attach;
        sum.unpaired += tally.unpaired;
    }
    (bodies, sum)
}

fn fresh() -> Decoder {
    Decoder::new(MemoryRecords::CrossCheck, Nanos::ZERO)
}

fn mark(flags: u32, id: u64, time: u64, name: u64) -> Vec<u8> {
    record(
        marker::KIND,
        56,
        &[
            (marker::FLAGS, 4, flags.into()),
            (marker::TIMESTAMP, 8, time),
            (marker::ID, 4, id),
            (marker::OBJECT_KIND, 4, object_kind::THREAD.into()),
            (marker::OBJECT_ID, 4, 4000),
            (marker::OBJECT_ID + 4, 4, 17),
            (marker::NAME, 8, name),
        ],
    )
}

fn range(name: u32, start: u64, end: u64) -> Body {
    Body::Span(Span {
        name: NameId(name),
        origin: SpanOrigin::Nvtx,
        thread: 17,
        scope: ScopeId::NONE,
        start: Nanos(start),
        end: Nanos(end),
    })
}

#[test]
fn marked_ranges_are_paired_across_buffers() {
    let (start, end) = (marker_flag::START, marker_flag::END);
    let buffers = [
        vec![mark(start, 1, 10, 0x1000), mark(start, 2, 20, 0x2000)],
        vec![
            mark(end, 2, 25, 0),
            mark(marker_flag::INSTANTANEOUS, 3, 27, 0x1000),
            mark(end, 1, 30, 0),
            // Without a begin; before its begin; without a time.
            mark(end, 9, 31, 0),
            mark(start, 4, 50, 0x1000),
            mark(end, 4, 40, 0),
            mark(start, 5, 0, 0x1000),
        ],
    ];
    let known = |at| NAMES.iter().find(|(name, _)| *name == at).map(|(_, id)| NameId(*id));
    let (bodies, tally) = decode_all(&mut fresh(), &buffers, &known);
    assert_eq!(bodies, [range(2, 20, 25), range(1, 27, 27), range(1, 10, 30)]);
    let expect = Tally { records: 6, bad_timestamps: 2, unpaired: 1, ..Tally::default() };
    assert_eq!(tally, expect);
}

#[test]
fn calls_of_driver_and_runtime_are_told_apart() {
    let call = |kind| {
        record(
            kind,
            40,
            &[
                (api::CBID, 4, 307),
                (api::START, 8, 5),
                (api::END, 8, 9),
                (api::THREAD_ID, 4, 44),
                (api::CORRELATION_ID, 4, 12),
                (api::RETURN_VALUE, 4, 2),
            ],
        )
    };
    let expect = |is_runtime| {
        Body::ApiCall(ApiCall {
            cbid: 307,
            is_runtime,
            thread: 44,
            correlation: 12,
            result: 2,
            start: Nanos(5),
            end: Nanos(9),
        })
    };
    let tally = Tally { records: 2, ..Tally::default() };
    check(&[call(api::KIND), call(activity_kind::RUNTIME)], &[expect(false), expect(true)], tally);
}

fn external(kind: u32, correlation: u64, scope: ScopeId) -> Vec<u8> {
    record(
        external_correlation::KIND,
        24,
        &[
            (external_correlation::EXTERNAL_KIND, 4, kind.into()),
            (external_correlation::EXTERNAL_ID, 8, scope.0),
            (external_correlation::CORRELATION_ID, 4, correlation),
        ],
    )
}

/// The record of the call's scope stands in a later buffer than the record of its work.
#[test]
fn scopes_are_joined_across_buffers_whatever_their_order() {
    let scope = ScopeId::new(NameId(1), 7);
    let other = ScopeId::new(NameId(2), 8);
    let buffers = [
        vec![kernel_record(216, 100, 150, 0x1000)],
        // Another profiler's stack is not ours.
        vec![external(external_kind::CUSTOM0, 99, other), external(EXTERNAL_KIND, 99, scope)],
    ];
    let (bodies, tally) = decode_all(&mut fresh(), &buffers, &|_| Some(NameId(1)));
    let [Body::Kernel(kernel)] = &bodies[..] else { panic!("{bodies:?}") };
    assert_eq!((kernel.scope, tally.records), (scope, 3));
}

#[test]
fn complaint_11_kernels_of_a_graph_carry_its_id() {
    let mut node = kernel_record(248, 100, 150, 0x1000);
    node[kernel::GRAPH_ID..kernel::GRAPH_ID + 4].copy_from_slice(&5_u32.to_ne_bytes());
    node[kernel::GRAPH_NODE_ID..kernel::GRAPH_NODE_ID + 8].copy_from_slice(&77_u64.to_ne_bytes());
    let whole = record(
        graph_trace::KIND,
        56,
        &[
            (graph_trace::START, 8, 90),
            (graph_trace::END, 8, 200),
            (graph_trace::DEVICE_ID, 4, 1),
            (graph_trace::CONTEXT_ID, 4, 2),
            (graph_trace::STREAM_ID, 4, 3),
            (graph_trace::GRAPH_ID, 4, 5),
            (graph_trace::CORRELATION_ID, 4, 98),
        ],
    );
    // The launch's correlation id is in neither: all nodes of a launch have one, and it is in scope.
    let scope = ScopeId::new(NameId(2), 3);
    let buffers = [vec![external(EXTERNAL_KIND, 98, scope), node, whole]];
    let (bodies, _) = decode_all(&mut fresh(), &buffers, &|_| Some(NameId(1)));
    let [Body::Kernel(kernel), Body::GraphLaunch(launch)] = &bodies[..] else {
        panic!("{bodies:?}")
    };
    assert_eq!((kernel.graph, kernel.graph_node), (5, 77));
    let expect = GraphLaunch {
        device: DeviceIndex(1),
        context: 2,
        stream: 3,
        graph: 5,
        correlation: 98,
        scope,
        start: Nanos(90),
        end: Nanos(200),
    };
    assert_eq!(*launch, expect);
}

#[test]
fn pools_and_their_changes() {
    let of = |operation: u32, time| {
        record(
            memory_pool::KIND,
            80,
            &[
                (memory_pool::OPERATION, 4, operation.into()),
                (memory_pool::DEVICE_ID, 4, 1),
                (memory_pool::ADDRESS, 8, 0x9000),
                (memory_pool::SIZE, 8, 4096),
                (memory_pool::UTILIZED_SIZE, 8, 64),
                (memory_pool::CORRELATION_ID, 4, 3),
                (memory_pool::TIMESTAMP, 8, time),
            ],
        )
    };
    let expect = |change| {
        Body::PoolRecord(PoolRecord {
            device: DeviceIndex(1),
            change,
            pool: 0x9000,
            reserved: Bytes(4096),
            used: Bytes(64),
            correlation: 3,
        })
    };
    check(
        &[
            of(pool_operation::CREATED, 1),
            of(pool_operation::TRIMMED, 2),
            of(pool_operation::DESTROYED, 3),
            of(77, 4),
            of(pool_operation::CREATED, 0),
        ],
        &[
            expect(PoolChange::Created),
            expect(PoolChange::Trimmed),
            expect(PoolChange::Destroyed),
            expect(PoolChange::Other),
        ],
        Tally { records: 4, bad_timestamps: 1, ..Tally::default() },
    );
}

#[test]
fn complaint_12_buffer_requests_are_told_from_other_overhead() {
    let of = |kind: u32| {
        record(
            overhead::KIND,
            56,
            &[
                (overhead::OVERHEAD_KIND, 4, kind.into()),
                (overhead::START, 8, 5),
                (overhead::END, 8, 8),
            ],
        )
    };
    let expect = |kind| Body::Overhead(Overhead { kind, start: Nanos(5), end: Nanos(8) });
    check(
        &[
            of(overhead_kind::ACTIVITY_BUFFER_REQUEST),
            of(overhead_kind::COMMAND_BUFFER_FULL),
            of(overhead_kind::CUPTI_INSTRUMENTATION),
            of(0xff_0000),
        ],
        &[
            expect(OverheadKind::BufferRequest),
            expect(OverheadKind::CommandBufferFull),
            expect(OverheadKind::Instrumentation),
            expect(OverheadKind::Other),
        ],
        Tally { records: 4, ..Tally::default() },
    );
}

/// What ends well before the recording began is another's; a millisecond is what clocks differ by.
#[test]
fn complaint_09_records_from_before_the_recording_are_counted_apart() {
    let since = 5_000_000_000;
    let mut decoder = Decoder::new(MemoryRecords::CrossCheck, Nanos(since));
    let at = |end: u64| kernel_record(208, end - 10, end, 0x1000);
    let early = [at(since - 1_000_001), at(since - 1_000_000), at(since)];
    let (bodies, tally) = decode_all(&mut decoder, &[early.to_vec()], &|_| Some(NameId(1)));
    assert_eq!((bodies.len(), tally.before_attach, tally.records), (2, 1, 2));
    // The clock was put back: what comes now is not old, and nothing underflows.
    decoder.rebase(Nanos(1_000_000_000));
    let (bodies, tally) =
        decode_all(&mut decoder, &[vec![at(1_000_000_500)]], &|_| Some(NameId(1)));
    assert_eq!((bodies.len(), tally.before_attach), (1, 0));
}

#[test]
fn names_that_cannot_be_read_cost_their_record_and_no_other() {
    let records = vec![
        kernel_record(216, 100, 150, 0xdead),
        kernel_record(216, 100, 150, 0),
        kernel_record(216, 100, 150, 0x1000),
        mark(marker_flag::START, 1, 10, 0xdead),
    ];
    let known = |at: u64| match at {
        0xdead => None,
        0 => Some(NameId::OTHER),
        _ => Some(NameId(1)),
    };
    let (bodies, tally) = decode_all(&mut fresh(), &[records], &known);
    assert_eq!(bodies, [a_kernel(0), a_kernel(1)]);
    assert_eq!(tally, Tally { records: 2, bad_records: 2, ..Tally::default() });
}
