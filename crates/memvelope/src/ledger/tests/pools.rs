//! Pools: what they hold, whose they are, and what is told of them too late.

use super::families::{HERE, fed, pool_told, pooled, totals};
use super::*;
use crate::ledger::pools::ENDED_MAX;

#[test]
fn a_pool_holds_what_it_reserved_and_never_less_than_what_is_used() {
    let made = Body::PoolCreated { device: HERE, pool: 9 };
    let ended = Body::PoolDestroyed { pool: 9 };
    let findings = check(
        16,
        &[
            (made, 0),
            (pooled(1, 30, 9), 30),
            (pool_told(9, 100), 100),
            (pooled(2, 90, 9), 120), // more than was told
            (free(1, FreeKind::PoolUsed, 1), 100),
            (free(2, FreeKind::Device, 2), 100), // cuMemFree takes it as well
            (pooled(3, 20, 9), 100),
            (ended, 100),            // what is allocated stays, and keeps the reserve
            (pool_told(9, 64), 164), // the handle is another pool's
            (free(3, FreeKind::PoolUsed, 3), 64),
        ],
    );
    assert_eq!(findings, Findings::default());
}

#[test]
fn a_pool_that_could_not_be_destroyed_is_what_it_was() {
    let ended = Body::PoolDestroyed { pool: 9 };
    let returned = |succeeded| Body::PoolDestroyReturned { pool: 9, succeeded };
    let findings = check(
        16,
        &[
            (pooled(1, 30, 9), 30),
            (pool_told(9, 100), 100),
            (ended, 100),
            (returned(false), 100),
            (pooled(2, 40, 9), 100), // not of another pool
            (pool_told(9, 80), 80),
            (ended, 80),
            (returned(true), 80),
            (returned(false), 80), // destroyed twice: the second call finds nothing
            (free(1, FreeKind::PoolUsed, 1), 80),
            (free(2, FreeKind::PoolUsed, 2), 0),
        ],
    );
    assert_eq!(findings, Findings::default());
}

#[test]
fn pools_are_told_apart_and_the_current_one_gets_its_handle() {
    let ledger = fed(&[
        pooled(1, 10, 0),
        Body::PoolCreated { device: DeviceIndex(1), pool: 9 },
        pooled(2, 5, 9), // told on device 0, but the pool is on device 1
        pool_told(4, 64),
        pooled(3, 7, 0),
    ]);
    let [here, there] = <[DeviceTotals; 2]>::try_from(ledger.totals()).expect("two devices");
    let row = |totals: &DeviceTotals| {
        (totals.pools[0].pool, totals.pools[0].by_tag[0].0, totals.pools[0].live_count)
    };
    assert_eq!((here.pools.len(), row(&here)), (1, (4, 17, 2)));
    assert_eq!((there.pools.len(), row(&there)), (1, (9, 5, 1)));
    assert_eq!((here.vram.live_bytes, there.vram.live_bytes), (Bytes(64), Bytes(5)));
    assert_eq!(
        (here.pools[0].reserved_bytes, there.pools[0].reserved_bytes),
        (Some(Bytes(64)), None)
    );
    assert_eq!(ledger.findings().unasked_pools, 1);
}

/// More pools end than are kept in mind: what was told before the forgotten ones ended is not booked,
/// but counted.
#[test]
fn what_is_told_too_late_of_a_pool_is_counted() {
    const KEPT: u64 = ENDED_MAX as u64;
    let at = |time, body| Event { time: Nanos(time), seen_by: SeenBy::Poll, body };
    let told = |pool| Body::Pool { device: HERE, pool, reserved: Bytes(64), used: Bytes(0) };
    let check = |ends: u64, told_at: u64, pool: u64, reserved: u64, late: u64| {
        let ledger = Ledger::new(16);
        ledger.accept(&at(1, Body::PoolCreated { device: HERE, pool: 7 }));
        for end in 0..ends {
            let pool = 1000 + end;
            ledger.accept(&at(10 + end, Body::PoolCreated { device: HERE, pool }));
            ledger.accept(&at(10 + end, Body::PoolDestroyed { pool }));
        }
        ledger.accept(&at(told_at, told(pool)));
        let case = format!("{ends} ends, told of {pool} at {told_at}");
        assert_eq!(ledger.vram_bytes(HERE), Bytes(reserved), "{case}");
        assert_eq!(ledger.findings().late_pools, late, "{case}");
        // Asked again, it is there.
        ledger.accept(&at(5000, told(7)));
        assert_eq!(ledger.vram_bytes(HERE), Bytes(64), "{case}");
        assert_eq!(ledger.findings().late_pools, late, "{case}");
    };
    check(KEPT, 5, 7, 64, 0);
    check(KEPT, 10, 1000, 0, 0);
    // The first of them is forgotten: it may be the one that was told of, before it ended.
    check(KEPT + 1, 10, 1000, 0, 1);
    check(KEPT + 1, 10, 7, 0, 1);
    check(KEPT + 1, 11, 7, 64, 0);
    check(KEPT + 1, 11, 1001, 0, 0);
    check(KEPT + 936, 945, 7, 0, 1);
    check(KEPT + 936, 946, 7, 64, 0);
}

#[test]
fn a_record_raises_a_pool_if_it_is_newer() {
    let record = |bytes| {
        Body::MemoryRecord(MemoryRecord {
            device: HERE,
            is_free: false,
            memory_kind: 3,
            address: 1,
            bytes: Bytes(5),
            correlation: 0,
            pool: 4,
            pool_bytes: Some(Bytes(bytes)),
        })
    };
    let ledger = Ledger::new(4);
    ledger.accept(&event(10, pool_told(4, 64)));
    for (time, bytes, expected) in [(9, 500, 64), (11, 32, 64), (12, 128, 128), (12, 256, 128)] {
        ledger.accept(&event(time, record(bytes)));
        assert_eq!(ledger.vram_bytes(HERE), Bytes(expected), "at {time}");
    }
    ledger.accept(&event(13, pool_told(4, 64)));
    assert_eq!(ledger.vram_bytes(HERE), Bytes(64));
}

#[test]
fn more_pools_than_there_is_room_for_are_counted() {
    let ledger = Ledger::new(4);
    for pool in 1..=300 {
        ledger.accept(&event(pool, pool_told(pool, 1)));
    }
    assert_eq!((ledger.vram_bytes(HERE), ledger.findings().refused), (Bytes(256), 300 - 256));
    for pool in 1..=300 {
        ledger.accept(&event(pool, Body::PoolDestroyed { pool }));
        ledger.accept(&event(pool, pool_told(pool + 1000, 1)));
    }
    assert_eq!((totals(&ledger).pools.len(), ledger.findings().underflows), (256, 0));
}
