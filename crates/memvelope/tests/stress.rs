//! Four threads do 200,000 random driver calls while a session records: its totals are the
//! simulator's books, byte for byte and record for record.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
#[expect(unsafe_code, reason = "a host program calls the driver's C functions")]
mod sim;

use memvelope::config::Config;
use memvelope::event::DropReason;
use memvelope::ledger::Findings;
use memvelope::runtime::Session;
use memvelope::snapshot::Snapshot;
use sim::{PTX, cu, in_child_with};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

const THREADS: u64 = 4;
const OPERATIONS: usize = 50_000;
/// The unit of virtual memory.
const GRANULE: usize = 2 << 20;
/// Largest VMM allocation.
const VIRTUAL_MAX: usize = 3 * GRANULE;
/// What each thread holds at most, so that frees are as frequent as allocations.
const HELD_MAX: usize = 64;
const SOON: Duration = Duration::from_secs(60);

/// xorshift64*: seeded, and good enough to mix calls.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// Something to be freed, and by which call.
enum Held {
    Plain(u64),
    Pooled(u64),
    Pinned(u64),
    /// Handle, address, bytes; mapped.
    Virtual(u64, u64, usize),
}

fn release(held: Held) {
    match held {
        Held::Plain(address) => assert_eq!(cu::cuMemFree_v2(address), 0),
        Held::Pooled(address) => assert_eq!(cu::cuMemFreeAsync(address, 0), 0),
        Held::Pinned(address) => assert_eq!(cu::cuMemFreeHost(address), 0),
        Held::Virtual(handle, address, bytes) => {
            assert_eq!(cu::cuMemRelease(handle), 0);
            assert_eq!(cu::cuMemUnmap(address, bytes), 0);
        }
    }
}

fn allocate(random: &mut Random) -> Held {
    let bytes = 1 + random.below(4 << 20) as usize;
    let mut address = 0;
    match random.below(6) {
        0 => assert_eq!(cu::cuMemAllocManaged(&mut address, bytes, 1), 0),
        1 => {
            assert_eq!(cu::cuMemHostAlloc(&mut address, bytes, 0), 0);
            return Held::Pinned(address);
        }
        2 => {
            assert_eq!(cu::cuMemAllocAsync(&mut address, bytes, 0), 0);
            return Held::Pooled(address);
        }
        3 => {
            let bytes = GRANULE * (1 + random.below((VIRTUAL_MAX / GRANULE) as u64) as usize);
            let properties = [[1u32, 0, 1, 0], [0; 4]];
            let mut handle = 0;
            assert_eq!(cu::cuMemCreate(&mut handle, bytes, properties.as_ptr(), 0), 0);
            assert_eq!(cu::cuMemAddressReserve(&mut address, bytes, 0, 0, 0), 0);
            assert_eq!(cu::cuMemMap(address, bytes, 0, handle, 0), 0);
            return Held::Virtual(handle, address, bytes);
        }
        4 => {
            let mut pitch = 0;
            assert_eq!(cu::cuMemAllocPitch_v2(&mut address, &mut pitch, bytes / 64 + 1, 64, 4), 0);
        }
        _ => assert_eq!(cu::cuMemAlloc_v2(&mut address, bytes), 0),
    }
    Held::Plain(address)
}

/// One thread's work. `market` is where threads leave what another one frees: an address that one
/// thread frees is given to the next at once.
fn work(context: u64, seed: u64, market: &Mutex<Vec<Held>>) {
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    let (mut module, mut function, mut stream, mut target) = (0, 0, 0, 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    assert_eq!(cu::cuStreamCreate(&mut stream, 1), 0);
    assert_eq!(cu::cuMemAlloc_v2(&mut target, 1 << 16), 0);
    let mut random = Random(seed);
    let mut held = vec![Held::Plain(target)];
    let mut host = [0u8; 256];
    let null = std::ptr::null_mut();
    for _ in 0..OPERATIONS {
        match random.below(16) {
            0..=3 if held.len() < HELD_MAX => held.push(allocate(&mut random)),
            0..=5 if held.len() > 1 => {
                let own = held.swap_remove(1 + random.below(held.len() as u64 - 1) as usize);
                let mut market = market.lock().unwrap();
                market.push(own);
                let index = random.below(market.len() as u64) as usize;
                let other = market.swap_remove(index);
                drop(market);
                release(other);
            }
            // Fails, and changes nothing.
            6 if random.below(8) == 0 => assert_ne!(cu::cuMemFree_v2(target + 8), 0),
            7 => assert_eq!(cu::cuMemcpyHtoD_v2(target, host.as_ptr(), host.len()), 0),
            8 => {
                let to = host.as_mut_ptr();
                assert_eq!(cu::cuMemcpyDtoHAsync_v2(to, target, host.len(), stream), 0);
            }
            9 => assert_eq!(cu::cuMemcpyDtoD_v2(target + 4096, target, 1024), 0),
            10 => assert_eq!(cu::cuMemsetD8_v2(target, 1, 512), 0),
            11 if random.below(4) == 0 => assert_eq!(cu::cuCtxSynchronize(), 0),
            11 => assert_eq!(cu::cuStreamSynchronize(stream), 0),
            _ => {
                let of = [0, stream][random.below(2) as usize];
                let code = cu::cuLaunchKernel(function, 2, 1, 1, 64, 1, 1, 0, of, null, null);
                assert_eq!(code, 0);
            }
        }
    }
    // Half of it stays: live bytes are to be compared too.
    held.truncate(1 + held.len() / 2);
}

#[test]
fn random_calls_from_four_threads_are_booked_exactly() {
    let env = [("MEMVELOPE_TRACE_EVENTS_MAX", Path::new("1000000"))];
    let test = "random_calls_from_four_threads_are_booked_exactly";
    in_child_with(test, "", &env, || {
        let session = Session::start(&Config::from_env().0).unwrap();
        let mut context = 0;
        assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
        let market = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..=THREADS)
                .map(|thread| {
                    let market = &market;
                    scope.spawn(move || work(context, thread * 0x9E37_79B9, market))
                })
                .collect();
            // A reader in between: what it sees is consistent at any time.
            while workers.iter().any(|worker| !worker.is_finished()) {
                consistent(&session.snapshot());
                session.sample();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(cu::cuCtxSetCurrent(context), 0);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        session.flush(SOON).unwrap();
        let last = session.stop(SOON).unwrap();
        compare(&last, &sim::books());
        let cost = session.self_cost();
        assert_eq!((cost.recorder.caught_panics, cost.recorder.foreign_buffers), (0, 0));
    });
}

fn consistent(snapshot: &Snapshot) {
    for device in &snapshot.devices {
        let totals = &device.totals;
        let sum = |of: &[usize]| of.iter().map(|k| totals.by_kind[*k].live_bytes.0).sum::<u64>();
        // Device, pitch and VMM count as VRAM; of pools it is the reserve that does.
        let physical = sum(&[0, 1, 5]) + totals.pool_reserved_bytes.0;
        assert_eq!(physical, totals.vram.live_bytes.0);
    }
}

fn compare(last: &Snapshot, books: &serde_json::Value) {
    let totals = &last.devices[0].totals;
    let families = ["device", "pitch", "managed", "pinned_host", "pool_used", "vmm"];
    for (family, kind) in families.iter().zip(&totals.by_kind) {
        let own = &books["devices"][0]["families"][family];
        assert_eq!(own["live_bytes"], kind.live_bytes.0, "{family}");
        assert_eq!(own["allocations"], kind.allocated_count, "{family}");
        let live = own["allocations"].as_u64().unwrap() - own["frees"].as_u64().unwrap();
        assert_eq!(live, kind.live_count, "{family}");
        assert!(kind.live_count > 0 && kind.peak_bytes >= kind.live_bytes, "{family}");
        // The driver hands out before its call returns, and takes back after it was entered. The
        // last unmapping is booked when it returns (a failed one could not be put back), so that
        // each thread may have one allocation too many in the peak.
        let late = if *family == "vmm" { THREADS * VIRTUAL_MAX as u64 } else { 0 };
        assert!(own["peak_bytes"].as_u64().unwrap() + late >= kind.peak_bytes.0, "{family}");
    }
    let reserved = &books["devices"][0]["pool_reserved"]["live_bytes"];
    assert_eq!(*reserved, totals.pool_reserved_bytes.0);
    let kernel = &last.timeline.kernels[0];
    assert_eq!(books["kernels"]["idle"]["count"], kernel.totals.count);
    assert_eq!(books["kernels"]["idle"]["total_ns"], kernel.totals.total_ns.0);
    let sum = |of: &serde_json::Value, field: &str| -> u64 {
        of.as_object().unwrap().values().map(|row| row[field].as_u64().unwrap()).sum()
    };
    let copies = &last.timeline.copies;
    let copied = copies.iter().map(|row| row.bytes.0).sum::<u64>();
    assert_eq!(sum(&books["copies"], "bytes"), copied);
    let count = copies.iter().map(|row| row.totals.count).sum::<u64>();
    assert_eq!((sum(&books["copies"], "count"), copies.len()), (count, 3));
    assert_eq!(books["memsets"]["count"], last.timeline.memsets.totals.count);
    let waits = last.timeline.syncs.iter().map(|row| row.totals.count).sum::<u64>();
    assert_eq!(sum(&books["syncs"], "count"), waits);
    // Calls that were meant to fail did, and nothing is out of order.
    let expected = Findings {
        recorded_allocations: last.findings.recorded_allocations,
        recorded_frees: last.findings.recorded_frees,
        ..Findings::default()
    };
    assert_eq!(last.findings, expected);
    assert!(expected.recorded_frees > 0);
    assert_eq!(last.dropped, Vec::<(DropReason, u64)>::new());
    assert_eq!(books["activity"]["dropped"], 0);
}
