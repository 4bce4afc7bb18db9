//! The ledger, event by event.

mod families;
mod naive;
mod pools;
mod threads;

use super::*;
use crate::event::{
    AllocKind, Allocation, AllocationFailure, Body, FreeKind, MemoryRecord, SeenBy, Tag,
};
use crate::units::Nanos;

fn event(time: u64, body: Body) -> Event {
    Event { time: Nanos(time), seen_by: SeenBy::Callback, body }
}

fn allocated(address: u64, bytes: u64, device: u32, kind: AllocKind, tag: Tag) -> Body {
    Body::Allocated(Allocation {
        device: DeviceIndex(device),
        context: device + 1,
        kind,
        address,
        bytes: Bytes(bytes),
        stream: 0,
        pool: 0,
        tag,
        library: LibraryId::UNKNOWN,
    })
}

fn device_bytes(address: u64, bytes: u64) -> Body {
    allocated(address, bytes, 0, AllocKind::Device, Tag::Untagged)
}

fn vmm(handle: u64, bytes: u64) -> Body {
    allocated(handle, bytes, 0, AllocKind::Vmm, Tag::KvCache)
}

fn free(address: u64, kind: FreeKind, token: u64) -> Body {
    Body::FreeEntered { address, kind, token }
}

fn returned(token: u64, succeeded: bool) -> Body {
    Body::FreeReturned { token, succeeded }
}

fn mapped(handle: u64, address: u64, bytes: u64) -> Body {
    Body::Mapped { handle, address, bytes: Bytes(bytes) }
}

fn unmapped(address: u64, bytes: u64) -> Body {
    Body::Unmapped { address, bytes: Bytes(bytes) }
}

/// Feeds `bodies` to a ledger of `limit` entries; live VRAM of device 0 after each must be as told.
#[track_caller]
fn check(limit: usize, steps: &[(Body, u64)]) -> Findings {
    let ledger = Ledger::new(limit);
    for (i, (body, live)) in steps.iter().enumerate() {
        ledger.accept(&event(i as u64, *body));
        assert_eq!(ledger.vram_bytes(DeviceIndex(0)).0, *live, "after step {i}: {body:?}");
    }
    let findings = ledger.findings();
    assert_eq!(findings.underflows, 0);
    findings
}

#[test]
fn a_free_counts_when_it_is_entered_and_is_put_back_when_it_fails() {
    let findings = check(
        8,
        &[
            (device_bytes(0x1000, 100), 100),
            (free(0x1000, FreeKind::Device, 1), 0),
            (returned(1, false), 100),
            (free(0x1000, FreeKind::Device, 2), 0),
            (device_bytes(0x1000, 70), 70), // reused before the free returned
            (returned(2, true), 70),
            (free(0x1000, FreeKind::PoolUsed, 3), 0),
            (returned(3, true), 0),
            (free(0x1000, FreeKind::Device, 4), 0),
            (returned(4, false), 0), // freed twice: there was nothing to free
            (free(0, FreeKind::Device, 5), 0),
            (free(0x2000, FreeKind::Device, 6), 0),
            (returned(6, true), 0),
        ],
    );
    assert_eq!((findings.restored, findings.untracked_frees, findings.replaced), (1, 1, 0));
}

#[test]
fn a_failed_free_is_put_back_even_when_full() {
    let findings = check(
        1,
        &[
            (device_bytes(1, 10), 10),
            (free(1, FreeKind::Device, 1), 0),
            (device_bytes(2, 5), 0), // refused: the slot stays reserved
            (returned(1, false), 10),
        ],
    );
    assert_eq!((findings.refused, findings.refused_bytes, findings.restored), (1, Bytes(5), 1));
}

#[test]
fn an_address_given_out_twice_replaces() {
    let findings = check(8, &[(device_bytes(1, 10), 10), (device_bytes(1, 30), 30)]);
    assert_eq!(findings.replaced, 1);
}

#[test]
fn a_handle_and_an_address_may_be_the_same_number() {
    check(
        8,
        &[
            (device_bytes(7, 10), 10),
            (vmm(7, 100), 110),
            (free(7, FreeKind::Device, 1), 100),
            (free(7, FreeKind::Vmm, 2), 0),
        ],
    );
}

#[test]
fn vmm_bytes_live_until_handle_and_last_mapping_are_gone() {
    let findings = check(
        16,
        &[
            (vmm(1, 100), 100),
            (mapped(1, 0x1000, 100), 100),
            (mapped(1, 0x2000, 100), 100),
            (free(1, FreeKind::Vmm, 1), 100),
            (returned(1, true), 100),
            (vmm(1, 50), 150), // the handle's number is given out again
            (unmapped(0x1000, 100), 150),
            (unmapped(0x2000, 100), 50),
            (unmapped(0x2000, 100), 50),
            (mapped(99, 0x3000, 8), 50),
            (free(1, FreeKind::Vmm, 2), 0),
            (returned(2, false), 50),
        ],
    );
    assert_eq!((findings.untracked_mappings, findings.restored), (1, 1));
}

#[test]
fn a_mapping_that_ends_while_its_handle_is_being_released_is_put_back_whole() {
    check(
        16,
        &[
            (vmm(1, 100), 100),
            (mapped(1, 0x1000, 100), 100),
            (free(1, FreeKind::Vmm, 1), 100),
            (unmapped(0x1000, 100), 0),
            (returned(1, false), 100),
            (free(1, FreeKind::Vmm, 2), 0),
            (returned(2, true), 0),
        ],
    );
}

#[test]
fn partial_unmaps_are_tolerated() {
    check(
        16,
        &[
            (vmm(1, 100), 100),
            (mapped(1, 1000, 100), 100),
            (free(1, FreeKind::Vmm, 1), 100),
            (unmapped(1040, 10), 100), // 1000..1040 and 1050..1100
            (unmapped(900, 120), 100), // 1020..1040 and 1050..1100
            (unmapped(1030, 30), 100), // 1020..1030 and 1060..1100
            (unmapped(1020, 10), 100),
            (unmapped(1060, 40), 0),
        ],
    );
    // One call over several whole mappings.
    check(
        16,
        &[
            (vmm(1, 10), 10),
            (vmm(2, 20), 30),
            (mapped(1, 1000, 10), 30),
            (mapped(2, 1010, 20), 30),
            (free(1, FreeKind::Vmm, 1), 30),
            (free(2, FreeKind::Vmm, 2), 30),
            (unmapped(1000, 30), 0),
        ],
    );
}

#[test]
fn a_context_takes_its_allocations_with_it() {
    let gone = Body::ContextDestroyed { device: DeviceIndex(0), context: 1 };
    let findings = check(
        16,
        &[
            (device_bytes(1, 10), 10),
            (device_bytes(2, 10), 20),
            (vmm(3, 5), 25),
            (free(2, FreeKind::Device, 1), 15),
            (gone, 5),
            (returned(1, false), 5),
            (free(1, FreeKind::Device, 2), 5),
            (returned(2, true), 5),
        ],
    );
    assert_eq!(findings.untracked_frees, 1);
}

#[test]
fn pools_count_once_by_their_reserve() {
    let pool = |reserved| Body::Pool {
        device: DeviceIndex(0),
        pool: 9,
        reserved: Bytes(reserved),
        used: Bytes(1),
    };
    let used = allocated(1, 30, 0, AllocKind::PoolUsed, Tag::Untagged);
    // What is handed out is not added, but there is at least so much.
    check(8, &[(pool(100), 100), (used, 100), (pool(60), 60), (pool(0), 30)]);
}

#[test]
fn failures_are_counted_by_kind() {
    let ledger = Ledger::new(8);
    for (kind, result) in
        [(AllocKind::Device, 2), (AllocKind::PoolUsed, 2), (AllocKind::PinnedHost, 1)]
    {
        let failure = AllocationFailure {
            device: DeviceIndex(2),
            kind,
            bytes: Bytes(1),
            result,
            tag: Tag::KvCache,
        };
        ledger.accept(&event(0, Body::AllocationFailed(failure)));
    }
    let totals = ledger.totals();
    assert_eq!(totals.len(), 1);
    assert_eq!(totals[0].device, DeviceIndex(2));
    assert_eq!((totals[0].vram.failed_count, totals[0].vram.oom_count), (2, 2));
    assert_eq!(totals[0].by_kind[AllocKind::PinnedHost as usize].oom_count, 0);
    assert_eq!(totals[0].by_kind[AllocKind::PinnedHost as usize].failed_count, 1);
}

#[test]
fn lost_returns_do_not_pile_up() {
    let ledger = Ledger::new(4096);
    for i in 1..=1000 {
        ledger.accept(&event(i, device_bytes(i, 1)));
        ledger.accept(&event(i, free(i, FreeKind::Device, i)));
    }
    assert_eq!(ledger.findings().presumed_frees, 1000 - 255);
    ledger.accept(&event(2000, returned(1000, false)));
    assert_eq!(ledger.vram_bytes(DeviceIndex(0)), Bytes(1));
}

#[test]
fn devices_past_the_limit_are_refused_and_memory_records_only_counted() {
    let ledger = Ledger::new(8);
    ledger.accept(&event(0, allocated(1, 5, 64, AllocKind::Device, Tag::Untagged)));
    let record = MemoryRecord {
        device: DeviceIndex(0),
        is_free: false,
        memory_kind: 3,
        address: 1,
        bytes: Bytes(5),
        correlation: 0,
        pool: 0,
        pool_bytes: None,
    };
    ledger.accept(&event(0, Body::MemoryRecord(record)));
    let findings = ledger.findings();
    assert_eq!((findings.refused, findings.recorded_allocations), (1, 1));
    assert!(ledger.totals().is_empty());
    ledger.reset(8, 0);
    assert_eq!(ledger.findings(), Findings::default());
}

#[test]
fn what_was_there_before_we_came_is_found_once() {
    let told = |pool, reserved| Body::Pool {
        device: DeviceIndex(0),
        pool,
        reserved: Bytes(reserved),
        used: Bytes(0),
    };
    let graphs = |reserved| Body::GraphMemory {
        device: DeviceIndex(0),
        reserved: Bytes(reserved),
        used: Bytes(0),
    };
    let ledger = Ledger::new(64);
    let found = |step: Body| {
        ledger.accept(&event(1, step));
        ledger.totals()[0].found_bytes.0
    };
    assert_eq!(found(told(0x10, 100)), 100);
    assert_eq!(found(told(0x10, 250)), 100, "it grew before our eyes");
    assert_eq!(found(Body::PoolCreated { device: DeviceIndex(0), pool: 0x20 }), 100);
    assert_eq!(found(told(0x20, 64)), 100, "it was made before our eyes");
    assert_eq!(found(families::pooled(0x5000, 30, 0x30)), 100);
    assert_eq!(found(told(0x30, 50)), 120, "beyond what was allocated from it");
    assert_eq!(found(graphs(7)), 127);
    assert_eq!(found(graphs(70)), 127);
    // Nobody watched: pools may be gone, and what they hold may be anything.
    ledger.forget_live(Nanos(2));
    let totals = &ledger.totals()[0];
    assert_eq!((totals.vram.live_bytes, totals.pool_reserved_bytes), (Bytes(0), Bytes(0)));
    assert_eq!((totals.pools.len(), totals.graph_reserved_bytes), (0, None));
    assert_eq!(found(told(0x20, 64)), 127 + 64);
    assert_eq!(found(families::pooled(0x6000, 8, 0x20)), 127 + 64);
    assert_eq!((ledger.vram_bytes(DeviceIndex(0)), ledger.findings().underflows), (Bytes(64), 0));
    let node = allocated(0x7000, 5, 0, AllocKind::GraphNode, Tag::Untagged);
    assert_eq!((found(node), found(graphs(9))), (191, 191), "it may be what we saw");
}
