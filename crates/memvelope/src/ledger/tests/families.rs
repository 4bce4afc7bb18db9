//! Each family that is not plain: what it counts, and what ends it.

use super::*;
use crate::event::{Growth, GrowthCause};
use crate::framework::Segment;

pub(super) const HERE: DeviceIndex = DeviceIndex(0);

fn of_kind(address: u64, bytes: u64, kind: AllocKind) -> Body {
    allocated(address, bytes, 0, kind, Tag::Untagged)
}

pub(super) fn pooled(address: u64, bytes: u64, pool: u64) -> Body {
    let Body::Allocated(it) = of_kind(address, bytes, AllocKind::PoolUsed) else { unreachable!() };
    Body::Allocated(Allocation { pool, ..it })
}

fn retained(handle: u64, address: u64) -> Body {
    Body::Retained { handle, address }
}

fn exported(handle: u64, descriptor: i32) -> Body {
    Body::Exported { handle, descriptor }
}

fn closed(descriptor: i32) -> Body {
    Body::ExportClosed { descriptor }
}

fn bound(multicast: u64, handle: u64, address: u64, offset: u64) -> Body {
    Body::Bound { multicast, handle, address, device: HERE, offset, bytes: Bytes(100) }
}

fn unbound(multicast: u64, offset: u64) -> Body {
    Body::Unbound { multicast, device: HERE, offset, bytes: Bytes(100) }
}

pub(super) fn pool_told(pool: u64, reserved: u64) -> Body {
    Body::Pool { device: HERE, pool, reserved: Bytes(reserved), used: Bytes(reserved / 2) }
}

pub(super) fn totals(ledger: &Ledger) -> DeviceTotals {
    ledger.totals().into_iter().find(|totals| totals.device == HERE).expect("device 0")
}

pub(super) fn fed(bodies: &[Body]) -> Ledger {
    let ledger = Ledger::new(64);
    for (i, body) in bodies.iter().enumerate() {
        ledger.accept(&event(i as u64, *body));
    }
    ledger
}

#[test]
fn a_retained_handle_takes_one_more_release() {
    let findings = check(
        16,
        &[
            (vmm(1, 100), 100),
            (mapped(1, 0x1000, 100), 100),
            (retained(1, 0x1040), 100),
            (free(1, FreeKind::Vmm, 1), 100),
            (returned(1, true), 100),
            (unmapped(0x1000, 100), 100),
            (free(1, FreeKind::Vmm, 2), 0),
            (returned(2, false), 100), // put back
            (free(1, FreeKind::Vmm, 3), 0),
            (returned(3, true), 0),
            (free(1, FreeKind::Vmm, 4), 0), // once too often
            (returned(4, false), 0),
        ],
    );
    assert_eq!((findings.untracked_frees, findings.restored), (0, 1));
}

#[test]
fn a_handle_asked_for_by_address_after_its_release_is_open_again() {
    let findings = check(
        16,
        &[
            (vmm(1, 100), 100),
            (mapped(1, 0x1000, 100), 100),
            (free(1, FreeKind::Vmm, 1), 100),
            (returned(1, true), 100),
            (retained(7, 0x1001), 100),
            (unmapped(0x1000, 100), 100),
            (free(7, FreeKind::Vmm, 2), 0),
        ],
    );
    assert_eq!(findings, Findings::default());
}

#[test]
fn retaining_and_releasing_what_we_never_saw_is_no_untracked_free() {
    let findings = check(
        16,
        &[
            (retained(9, 0x9000), 0),
            (retained(9, 0x9000), 0),
            (free(9, FreeKind::Vmm, 1), 0),
            (free(9, FreeKind::Vmm, 2), 0),
        ],
    );
    assert_eq!(findings.untracked_frees, 0);
    // The reference that it was made with is one we never saw.
    let findings = check(
        16,
        &[
            (retained(9, 0), 0),
            (free(9, FreeKind::Vmm, 1), 0),
            (free(9, FreeKind::Vmm, 2), 0),
            (returned(2, true), 0),
        ],
    );
    assert_eq!(findings.untracked_frees, 1);
}

#[test]
fn an_open_export_keeps_the_bytes_and_is_told() {
    let ledger = fed(&[
        vmm(1, 100),
        exported(1, 5),
        exported(1, 6),
        free(1, FreeKind::Vmm, 1),
        returned(1, true),
    ]);
    assert_eq!(
        (totals(&ledger).vram.live_bytes, totals(&ledger).exported_bytes),
        (Bytes(100), Bytes(100))
    );
    ledger.accept(&event(9, closed(5)));
    assert_eq!(totals(&ledger).exported_bytes, Bytes(100));
    // The same number for another export: the former is closed.
    ledger.accept(&event(9, vmm(2, 7)));
    ledger.accept(&event(9, exported(2, 6)));
    assert_eq!(
        (totals(&ledger).vram.live_bytes, totals(&ledger).exported_bytes),
        (Bytes(7), Bytes(0))
    );
    ledger.accept(&event(9, closed(77)));
    ledger.accept(&event(9, closed(6)));
    assert_eq!(totals(&ledger).vram.live_bytes, Bytes(7));
    assert_eq!(ledger.findings(), Findings::default());
}

#[test]
fn a_multicast_object_has_no_bytes_and_keeps_what_is_bound_to_it() {
    let findings = check(
        16,
        &[
            (of_kind(50, 1000, AllocKind::Multicast), 0),
            (vmm(1, 100), 100),
            (vmm(2, 100), 200),
            (mapped(2, 0x2000, 100), 200),
            (bound(50, 1, 0, 0), 200),
            (bound(50, 0, 0x2010, 100), 200),
            (free(1, FreeKind::Vmm, 1), 200),
            (free(2, FreeKind::Vmm, 2), 200),
            (unmapped(0x2000, 100), 200),
            (mapped(50, 0x5000, 200), 200),
            (unbound(50, 0), 100),
            (unbound(50, 0), 100),
            (free(50, FreeKind::Vmm, 3), 100), // its mapping keeps it, and it what is bound
            (returned(3, true), 100),
            (unmapped(0x5000, 200), 0),
        ],
    );
    assert_eq!(findings, Findings::default());
    let findings = check(8, &[(bound(50, 1, 0, 0), 0), (vmm(1, 5), 5), (bound(50, 1, 0, 0), 5)]);
    assert_eq!(findings.untracked_mappings, 2);
}

#[test]
fn imports_are_charged_to_nobody_here() {
    let ledger = fed(&[
        of_kind(3, 0, AllocKind::ImportedHandle),
        mapped(3, 0x1000, 50),
        mapped(3, 0x2000, 80),
        of_kind(0x7000, 30, AllocKind::ImportedAddress),
        of_kind(0x7000, 30, AllocKind::ImportedAddress), // opened twice: one address
        free(0x7000, FreeKind::ImportedAddress, 1),
        returned(1, true),
    ]);
    let kind = |kind: AllocKind| {
        let totals = totals(&ledger);
        (totals.by_kind[kind as usize].live_bytes.0, totals.by_kind[kind as usize].live_count)
    };
    assert_eq!(kind(AllocKind::ImportedHandle), (80, 1), "as large as its largest view");
    assert_eq!(kind(AllocKind::ImportedAddress), (30, 1));
    assert_eq!(totals(&ledger).vram, Totals::default());
    for body in [
        free(0x7000, FreeKind::ImportedAddress, 2),
        free(3, FreeKind::Vmm, 3),
        unmapped(0x1000, 50),
        unmapped(0x2000, 80),
    ] {
        ledger.accept(&event(9, body));
    }
    assert_eq!(kind(AllocKind::ImportedHandle), (0, 0));
    assert_eq!(kind(AllocKind::ImportedAddress), (0, 0));
    assert_eq!(ledger.findings(), Findings::default());
}

#[test]
fn an_import_of_what_this_process_made_is_one_more_reference() {
    let findings = check(
        8,
        &[
            (vmm(1, 100), 100),
            (of_kind(1, 0, AllocKind::ImportedHandle), 100),
            (free(1, FreeKind::Vmm, 1), 100),
            (free(1, FreeKind::Vmm, 2), 0),
        ],
    );
    assert_eq!(findings, Findings::default());
}

#[test]
fn managed_host_and_graph_memory_are_no_vram() {
    let kinds = [
        (AllocKind::Managed, FreeKind::Device),
        (AllocKind::PinnedHost, FreeKind::PinnedHost),
        (AllocKind::Registered, FreeKind::Registered),
        // A graph's allocation may be freed by either call.
        (AllocKind::GraphNode, FreeKind::Device),
        (AllocKind::GraphNode, FreeKind::PoolUsed),
    ];
    for (kind, free_kind) in kinds {
        let findings = check(8, &[(of_kind(1, 10, kind), 0), (free(1, free_kind, 1), 0)]);
        assert_eq!(findings, Findings::default(), "{kind:?}");
    }
}

#[test]
fn graphs_hold_what_the_driver_says() {
    let told = |reserved| Body::GraphMemory {
        device: HERE,
        reserved: Bytes(reserved),
        used: Bytes(reserved / 2),
    };
    let ledger = fed(&[device_bytes(1, 10)]);
    assert_eq!(totals(&ledger).graph_reserved_bytes, None, "nobody asked");
    for (body, vram) in [(told(100), 110), (told(40), 50), (told(0), 10)] {
        ledger.accept(&event(1, body));
        assert_eq!(totals(&ledger).vram.live_bytes, Bytes(vram));
    }
    ledger.accept(&event(1, told(6)));
    assert_eq!(totals(&ledger).graph_used_bytes, Some(Bytes(3)));
    assert_eq!(totals(&ledger).vram.peak_bytes, Bytes(110));
}

#[test]
fn contexts_grow_for_reasons() {
    let grew = |cause, bytes, error| {
        Body::ContextGrew(Growth { device: HERE, context: 1, cause, bytes, error: Bytes(error) })
    };
    let ledger = fed(&[
        grew(GrowthCause::Context, 300, 2),
        grew(GrowthCause::Module, 10, 1),
        grew(GrowthCause::Module, -4, 1),
    ]);
    let growth = totals(&ledger).growth;
    let module = growth[GrowthCause::Module as usize];
    assert_eq!((module.bytes, module.error_bytes, module.count), (6, Bytes(2), 2));
    assert_eq!(growth[GrowthCause::Context as usize].bytes, 300);
    assert_eq!(totals(&ledger).vram, Totals::default(), "not handed out to anybody");
}

#[test]
fn libraries_have_what_they_asked_for() {
    let by = |address, bytes, library, tag| {
        let Body::Allocated(it) = allocated(address, bytes, 0, AllocKind::Device, tag) else {
            unreachable!()
        };
        Body::Allocated(Allocation { library: LibraryId(library), ..it })
    };
    let ledger = fed(&[
        by(1, 10, 7, Tag::Untagged),
        by(2, 20, 7, Tag::KvCache),
        by(3, 40, 3, Tag::Untagged),
        by(4, 80, 5, Tag::Untagged),
        free(4, FreeKind::Device, 1),
    ]);
    let row = |library, live, untagged, count| LibraryTotals {
        library: LibraryId(library),
        live_bytes: Bytes(live),
        untagged_bytes: Bytes(untagged),
        live_count: count,
    };
    assert_eq!(totals(&ledger).libraries, [row(3, 40, 40, 1), row(7, 30, 10, 2)]);
}

#[test]
fn pages_of_a_device_may_be_told_late() {
    let ledger = fed(&[device_bytes(1, 100), vmm(2, 3 << 20), of_kind(3, 1, AllocKind::Managed)]);
    assert_eq!(totals(&ledger).rounding.bytes, Bytes((2 << 20) - 100 + (1 << 20)));
    ledger.set_pages(HERE, Bytes(64 << 10), Bytes(0));
    assert_eq!(
        totals(&ledger).rounding,
        Rounding { bytes: Bytes((64 << 10) - 100), error_bytes: Bytes(0) }
    );
    ledger.accept(&event(1, free(1, FreeKind::Device, 1)));
    assert_eq!(totals(&ledger).rounding.bytes, Bytes(0));
}

#[test]
fn sums_end_where_their_type_does() {
    let ledger = fed(&[
        device_bytes(1, u64::MAX - 5),
        device_bytes(2, u64::MAX),
        vmm(3, u64::MAX),
        pooled(4, u64::MAX, 0),
        pool_told(9, u64::MAX),
        Body::GraphMemory { device: HERE, reserved: Bytes(u64::MAX), used: Bytes(1) },
    ]);
    assert_eq!(totals(&ledger).vram.live_bytes, Bytes(u64::MAX));
    for (i, body) in [
        free(2, FreeKind::Device, 1),
        free(1, FreeKind::Device, 2),
        free(3, FreeKind::Vmm, 3),
        free(4, FreeKind::PoolUsed, 4),
        pool_told(9, 0),
        Body::GraphMemory { device: HERE, reserved: Bytes(0), used: Bytes(0) },
    ]
    .into_iter()
    .enumerate()
    {
        ledger.accept(&event(i as u64, body));
    }
    assert_eq!(totals(&ledger).vram.live_bytes, Bytes(0));
    assert_eq!(ledger.findings().underflows, 0);
    assert!(ledger.findings().refused_bytes > Bytes(0), "and it is told");
}

/// `(address, bytes, is_expandable)`.
fn segments(of: &[(u64, u64)]) -> Vec<Segment> {
    of.iter()
        .map(|(address, bytes)| Segment {
            address: *address,
            bytes: Bytes(*bytes),
            ..Segment::default()
        })
        .collect()
}

#[test]
fn segments_are_found_by_their_address_or_by_what_is_mapped_into_them() {
    let ledger = fed(&[
        device_bytes(0x1000, 10),
        vmm(1, 100),
        vmm(2, 100),
        mapped(1, 0x2000, 100),
        mapped(2, 0x2000 + 100, 100),
        mapped(1, 0x9000, 100), // an alias
        of_kind(0x5000, 8, AllocKind::Managed),
        of_kind(0x6000, 8, AllocKind::PoolUsed),
    ]);
    let asked = segments(&[
        (0x2000, 200),
        (0x1000, 10),
        (0x9000, 100),
        (0x5000, 8),
        (0x6000, 8),
        (0x7000, 1 << 20),
    ]);
    let found = ledger.matched(HERE, &asked);
    let row = |matched: &Matched| {
        (matched.count, matched.by_tag.iter().map(|bytes| bytes.0).sum::<u64>())
    };
    let pooled = found.iter().map(|matched| matched.pooled_by_tag[0].0).collect::<Vec<_>>();
    let found: Vec<_> = found.iter().map(row).collect();
    // Managed memory is known, and no VRAM; of the alias the first segment has it; the last was
    // never seen.
    assert_eq!(found, [(2, 200), (1, 10), (0, 0), (1, 0), (1, 0), (0, 0)]);
    assert_eq!(pooled, [0, 0, 0, 0, 8, 0]);
    assert!(ledger.matched(DeviceIndex(1), &asked).iter().all(|matched| matched.count == 0));
    // More in one segment than one portion has room for.
    let ledger = Ledger::new(20_000);
    for i in 0..5000 {
        ledger.accept(&event(i, vmm(i + 1, 2)));
        ledger.accept(&event(i, mapped(i + 1, 0x10_000 + 2 * i, 2)));
    }
    let found = ledger.matched(HERE, &segments(&[(0x10_000, 10_000)]));
    assert_eq!(row(&found[0]), (5000, 10_000));
}

#[test]
fn the_largest_are_told_first() {
    let ledger = Ledger::new(4096);
    for i in 1..=2000 {
        ledger.accept(&event(i, device_bytes(i, i)));
    }
    ledger.accept(&event(1, allocated(9000, 5000, 0, AllocKind::Managed, Tag::Weights)));
    ledger.accept(&event(1, free(2000, FreeKind::Device, 1)));
    let live = ledger.live(HERE, 3);
    assert_eq!(live.iter().map(|live| live.bytes.0).collect::<Vec<_>>(), [5000, 1999, 1998]);
    assert_eq!((live[0].kind, live[0].tag), (AllocKind::Managed, Tag::Weights));
    assert_eq!(ledger.live(HERE, 0), []);
    assert_eq!(ledger.live(HERE, usize::MAX).len(), 2000);
}

#[test]
fn a_late_attach_sees_the_rest_of_each_pair() {
    let findings = check(
        16,
        &[
            (free(1, FreeKind::Vmm, 1), 0),
            (returned(1, true), 0),
            (free(0x1000, FreeKind::PoolUsed, 2), 0),
            (returned(2, false), 0),
            (unmapped(0x1000, 100), 0),
            (mapped(5, 0x1000, 100), 0),
            (closed(3), 0),
            (exported(5, 3), 0),
            (unbound(5, 0), 0),
            (Body::PoolDestroyed { pool: 3 }, 0),
            (device_bytes(1, 5), 5),
        ],
    );
    assert_eq!((findings.untracked_frees, findings.untracked_mappings), (1, 1));
    assert_eq!(findings.underflows, 0);
}

#[test]
fn an_allocation_may_fail_at_every_step_of_a_sequence() {
    // Create, map; release, unmap: whatever fails leaves what was there.
    let failed = |kind| {
        Body::AllocationFailed(AllocationFailure {
            device: HERE,
            kind,
            bytes: Bytes(100),
            result: 2,
            tag: Tag::Untagged,
        })
    };
    // Without the handle, and without the mapping.
    check(8, &[(failed(AllocKind::Vmm), 0)]);
    check(8, &[(vmm(1, 100), 100), (free(1, FreeKind::Vmm, 1), 0), (returned(1, true), 0)]);
    check(
        8,
        &[
            (vmm(1, 100), 100),
            (mapped(1, 0x1000, 100), 100),
            (failed(AllocKind::Vmm), 100),
            (free(1, FreeKind::Vmm, 1), 100),
            (returned(1, false), 100),
            (unmapped(0x1000, 100), 100),
            (free(1, FreeKind::Vmm, 2), 0),
        ],
    );
}

#[test]
fn an_address_is_freed_by_any_thread_context_and_device() {
    let ledger = Ledger::new(8);
    let on_device_1 = allocated(0x1000, 10, 1, AllocKind::Device, Tag::Untagged);
    ledger.accept(&event(1, on_device_1));
    std::thread::scope(|scope| {
        scope.spawn(|| ledger.accept(&event(2, free(0x1000, FreeKind::Device, 1))));
    });
    assert_eq!(ledger.vram_bytes(DeviceIndex(1)), Bytes(0));
    assert_eq!(ledger.findings(), Findings::default());
    // Twice: the second one is the driver's to refuse, and frees nothing.
    ledger.accept(&event(3, returned(1, true)));
    ledger.accept(&event(4, free(0x1000, FreeKind::Device, 2)));
    ledger.accept(&event(5, returned(2, false)));
    let findings = ledger.findings();
    assert_eq!((findings.untracked_frees, findings.restored), (0, 0));
}

/// A graph that is launched again has its memory again, at the same address.
#[test]
fn what_a_graph_allocated_may_be_freed_after_each_launch() {
    let node = allocated(0x1000, 100, 0, AllocKind::GraphNode, Tag::Untagged);
    let mut steps = vec![(node, 0)];
    for token in 1..4 {
        steps.push((free(0x1000, FreeKind::PoolUsed, token), 0));
        steps.push((returned(token, true), 0));
    }
    assert_eq!(check(8, &steps), Findings::default());
}

#[test]
fn what_changes_is_told_without_a_lock() {
    let ledger = Ledger::new(8);
    let before = ledger.changes();
    ledger.accept(&event(1, device_bytes(1, 10)));
    assert_eq!(ledger.changes(), before + 1);
    ledger.forget_live(Nanos(2));
    assert_eq!(ledger.changes(), before + 2);
}
