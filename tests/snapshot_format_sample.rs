//! A snapshot with one of everything, and every kind of answer.

use memvelope::event::{CallKind, SpanOrigin, SyncKind};
use memvelope::event::{DeviceIndex, Direction, DropReason, OverheadKind, PoolChange};
use memvelope::framework::{Demand, Framework, Segment, Settings, Space};
use memvelope::ledger::{DeviceTotals, LibraryTotals, PoolTotals};
use memvelope::snapshot::{
    Balance, DeviceSnapshot, Finding, FindingKind, Fit, FitSource, Fragmentation, HostSnapshot,
    Line, Origin, Part, Remedy, RemedyKind, Snapshot, SpaceFragmentation, TermName,
};
use memvelope::timeline::{
    CallTotals, CopyTotals, DeviceBusy, KernelTotals, LaunchCallTotals, MemsetTotals,
    OverheadTotals, PoolChanges, ScopeTotals, SpanTotals, Summary, SyncTotals,
};
use memvelope::units::{Bytes, Nanos};

pub(super) fn snapshot() -> Snapshot {
    Snapshot {
        devices: vec![device()],
        host: Some(HostSnapshot {
            limit_bytes: Some(Bytes(1)),
            peak_bytes: Some(Bytes(1)),
            ..HostSnapshot::default()
        }),
        timeline: timeline(),
        dropped: vec![(DropReason::LedgerFull, 1)],
        unseen: vec!["x".into()],
        libraries: vec!["libx".into()],
        ..Snapshot::default()
    }
}

fn device() -> DeviceSnapshot {
    let some = Some(Bytes(1));
    DeviceSnapshot {
        totals: DeviceTotals {
            libraries: vec![LibraryTotals::default()],
            pools: vec![PoolTotals {
                reserved_bytes: some,
                used_bytes: some,
                ..PoolTotals::default()
            }],
            graph_reserved_bytes: some,
            graph_used_bytes: some,
            ..DeviceTotals::default()
        },
        total_bytes: some,
        free_bytes: some,
        nvml_used_bytes: some,
        process_used_bytes: some,
        opening_bytes: some,
        recorder_bytes: some,
        recorder_bytes_max: some,
        reserved_bytes: some,
        others_bytes: some,
        opening_own_bytes: some,
        framework: Some(framework()),
        balance: Some(balance()),
        highest: Some(balance()),
        fragmentation: Some(Fragmentation {
            internal: Some(0.5),
            demand_weighted: Some(0.5),
            spaces: vec![SpaceFragmentation {
                demand_weighted: Some(0.5),
                ..SpaceFragmentation::default()
            }],
            ..Fragmentation::default()
        }),
        ..DeviceSnapshot::default()
    }
}

fn framework() -> Framework {
    let mut requests = Demand::new();
    requests.note(Bytes(5), 1);
    Framework {
        spaces: vec![Space { unsplittable_free: vec![Bytes(1)], ..Space::default() }],
        segments: vec![Segment::default()],
        alloc_retries: Some(1),
        ooms: Some(1),
        settings: Settings {
            expandable_segments: Some(true),
            max_split_size: Some(Bytes(1)),
            limit_bytes: Some(Bytes(1)),
            ..Settings::default()
        },
        requests,
        notes: vec!["x".into()],
        ..Framework::default()
    }
}

fn balance() -> Balance {
    Balance {
        lines: vec![Line {
            term: TermName::Unaccounted,
            bytes: -1,
            error_bytes: Bytes(1),
            origin: Origin::Derived,
            parts: vec![Part { name: "x".into(), bytes: -1 }],
            note: "x".into(),
        }],
        findings: vec![Finding {
            kind: FindingKind::CountedTwice,
            bytes: -1,
            text: "x".into(),
            action: "x".into(),
        }],
        ..Balance::default()
    }
}

fn timeline() -> Summary {
    let totals = memvelope::timeline::OpTotals::default;
    let name = || "x".to_owned();
    Summary {
        kernels: vec![KernelTotals { name: name(), id: Default::default(), totals: totals() }],
        copies: vec![CopyTotals {
            direction: Direction::HostToDevice,
            bytes: Bytes(1),
            bytes_per_second: Some(1),
            totals: totals(),
        }],
        memsets: MemsetTotals { bytes_per_second: Some(1), ..MemsetTotals::default() },
        syncs: vec![SyncTotals { kind: SyncKind::Stream, totals: totals() }],
        allocation_calls: vec![CallTotals { call: CallKind::ALL[0], failed: 1, totals: totals() }],
        launch_calls: vec![LaunchCallTotals { function: name(), failed: 1, totals: totals() }],
        spans: vec![SpanTotals { name: name(), origin: SpanOrigin::Nvtx, totals: totals() }],
        scopes: vec![ScopeTotals {
            name: name(),
            kernels: Default::default(),
            copies: Default::default(),
            memsets: Default::default(),
            graphs: Default::default(),
        }],
        pool_changes: vec![PoolChanges { change: PoolChange::Created, count: 1 }],
        overheads: vec![OverheadTotals { kind: OverheadKind::Other, totals: totals() }],
        busy: vec![DeviceBusy {
            device: DeviceIndex(0),
            busy_ns: Nanos(1),
            span_ns: Nanos(2),
            ratio: Some(0.5),
            late_ns: Nanos(0),
        }],
        first: Some(Nanos(1)),
        last: Some(Nanos(2)),
        ..Summary::default()
    }
}

pub(super) fn fits() -> Vec<Fit> {
    vec![
        Fit::Yes {
            from: FitSource::AfterRelease,
            taken_bytes: Bytes(1),
            largest_fit_bytes: Bytes(1),
        },
        Fit::No {
            because: "because".into(),
            needed_bytes: Bytes(1),
            largest_fit_bytes: Bytes(1),
            remedies: vec![Remedy {
                kind: RemedyKind::EmptyCache,
                recovers_bytes: Bytes(1),
                is_enough: true,
                text: "x".into(),
            }],
        },
        Fit::Unknown { missing: "x".into() },
    ]
}
