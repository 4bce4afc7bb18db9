//! Readers and writers at once.

use super::families::{HERE, pooled};
use super::*;

#[test]
fn readers_among_eight_threads_see_sums_that_agree() {
    let ledger = Ledger::new(1 << 12);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (ledger, stop) = (&ledger, &stop);
            scope.spawn(move || {
                let mut i = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) || i < 2000 {
                    let address = (thread << 32) + i % 64 + 1;
                    let token = (thread << 40) + i;
                    ledger.accept(&event(i, pooled(address + 1000, 3, thread + 1)));
                    ledger.accept(&event(i, device_bytes(address, 7)));
                    ledger.accept(&event(i, free(address, FreeKind::Device, token)));
                    ledger.accept(&event(i, returned(token, i % 3 > 0)));
                    ledger.accept(&event(i, free(address, FreeKind::Device, token + (1 << 39))));
                    ledger.accept(&event(i, returned(token + (1 << 39), true)));
                    ledger.accept(&event(i, free(address + 1000, FreeKind::PoolUsed, token)));
                    ledger.accept(&event(i, returned(token, true)));
                    i += 1;
                }
            });
        }
        for _ in 0..500 {
            for totals in ledger.totals() {
                let kinds = AllocKind::ALL.iter().filter(|kind| kind.counts_as_vram());
                let kinds = kinds.map(|kind| totals.by_kind[*kind as usize].live_bytes.0);
                let reserved = totals.pool_reserved_bytes.0;
                assert_eq!(kinds.sum::<u64>() + reserved, totals.vram.live_bytes.0);
                let used: u64 = totals.pools.iter().map(|pool| pool.by_tag[0].0).sum();
                assert_eq!(used, totals.by_kind[AllocKind::PoolUsed as usize].live_bytes.0);
                let libraries: u64 = totals.libraries.iter().map(|row| row.live_bytes.0).sum();
                assert_eq!(libraries + reserved, totals.vram.live_bytes.0);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!((ledger.vram_bytes(HERE), ledger.findings().underflows), (Bytes(0), 0));
}

/// The driver is asked on one thread while another ends the pool: what it told of it before is
/// booked after. A handle that was given out again is another pool's.
#[test]
fn what_was_told_of_a_pool_before_its_end_is_not_booked_after() {
    let told = |bytes| Body::Pool { device: HERE, pool: 9, reserved: Bytes(bytes), used: Bytes(0) };
    for (at, expect) in [(3, 0), (5, 0), (6, 64)] {
        let ledger = Ledger::new(8);
        ledger.accept(&event(1, Body::PoolCreated { device: HERE, pool: 9 }));
        ledger.accept(&event(2, told(32)));
        assert_eq!(ledger.vram_bytes(HERE), Bytes(32));
        ledger.accept(&event(5, Body::PoolDestroyed { pool: 9 }));
        ledger.accept(&event(at, told(64)));
        assert_eq!(ledger.vram_bytes(HERE), Bytes(expect), "told at {at}, ended at 5");
    }
}
