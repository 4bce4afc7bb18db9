//! A walk of a million random driver calls by four threads, of every family but what needs a second
//! process, while a session records. Every ten thousand calls the threads stand still, and the ledger
//! is held to the simulator's books: live bytes and counts by family, pools, graphs, what exports
//! alone keep, and physical bytes with their rounding. No difference is allowed.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
#[expect(unsafe_code, reason = "a host program calls the driver's C functions")]
mod sim;

use memvelope::config::Config;
use memvelope::ledger::{DeviceTotals, Findings};
use memvelope::runtime::Session;
use memvelope::snapshot::Snapshot;
use serde_json::Value;
use sim::{cu, in_child};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

const THREADS: u64 = 4;
const CALLS: u64 = 1_000_000;
const CALLS_BETWEEN_CHECKS: u64 = 10_000;
/// The unit of virtual memory.
const GRANULE: usize = 2 << 20;
/// What each thread holds at most, so that frees are as frequent as allocations.
const HELD_MAX: usize = 48;
const SOON: Duration = Duration::from_secs(60);
/// Slots of a thread's multicast object.
const SLOTS: usize = 8;

/// xorshift64*: seeded, and good enough to mix calls.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

/// Something to be freed, and by which call.
enum Held {
    Plain(u64),
    Pooled(u64),
    Pinned(u64),
    Registered(u64),
    Array(u64),
    /// A VMM allocation: what keeps it, one thing at a time and in any order.
    /// Its own handle goes last, or is 0.
    Virtual {
        keepers: Vec<Keeper>,
        last: u64,
    },
}

/// What keeps a VMM allocation, or is a view of it.
enum Keeper {
    Release(u64),
    Mapping(u64, usize),
    Descriptor(OwnedFd),
    /// Multicast object and slot.
    Binding(u64, usize),
}

/// One thread.
struct Walker {
    random: Random,
    calls: u64,
    context: u64,
    stream: u64,
    held: Vec<Held>,
    /// Where host memory of the program's own lies next: nobody touches it.
    host: u64,
}

/// What the threads have in common.
struct Common {
    /// Where threads leave what another one frees: the address is then given to the next at once.
    market: Mutex<Vec<Held>>,
    /// Free slots: multicast object, and slot.
    slots: Mutex<Vec<(u64, usize)>>,
    stop: Barrier,
}

impl Walker {
    /// Counts a driver call, whose result must be as expected.
    #[track_caller]
    fn call(&mut self, expected: u32, result: u32) {
        self.calls += 1;
        assert_eq!(result, expected);
    }

    fn allocate(&mut self, common: &Common) -> Held {
        let bytes = match self.random.below(4) {
            0 => 1 + self.random.below(4096) as usize,
            1 => 1 + self.random.below(1 << 20) as usize,
            _ => 1 + self.random.below(8 << 20) as usize,
        };
        let mut address = 0;
        match self.random.below(10) {
            0 => self.call(0, cu::cuMemAllocManaged(&mut address, bytes, 1)),
            1 => {
                self.call(0, cu::cuMemHostAlloc(&mut address, bytes, 0));
                return Held::Pinned(address);
            }
            2 | 3 => {
                let stream = [0, self.stream][self.random.index(2)];
                self.call(0, cu::cuMemAllocAsync(&mut address, bytes, stream));
                return Held::Pooled(address);
            }
            4 => {
                let (mut pitch, height) = (0, bytes / 64 + 1);
                let code = cu::cuMemAllocPitch_v2(&mut address, &mut pitch, height, 64, 4);
                self.call(0, code);
            }
            5 => return self.create(common),
            6 => {
                self.host += 8 << 20;
                self.call(0, cu::cuMemHostRegister_v2(self.host, bytes, 0));
                return Held::Registered(self.host);
            }
            7 => return Held::Array(self.array()),
            _ => self.call(0, cu::cuMemAlloc_v2(&mut address, bytes)),
        }
        Held::Plain(address)
    }

    /// Of bytes, in so many rows that no other array shares its pages.
    fn array(&mut self) -> u64 {
        const BYTES_OF_ONE_CHANNEL: u64 = 1 | 1 << 32;
        let descriptor = [1 << 16, 17 + self.random.below(100), BYTES_OF_ONE_CHANNEL];
        let mut array = 0;
        self.call(0, cu::cuArrayCreate_v2(&mut array, &descriptor));
        array
    }

    fn create(&mut self, common: &Common) -> Held {
        let bytes = GRANULE * (1 + self.random.index(3));
        // Exportable, on device 0.
        let properties = [[1u32, 1, 1, 0], [0; 4]];
        let mut handle = 0;
        self.call(0, cu::cuMemCreate(&mut handle, bytes, properties.as_ptr(), 0));
        let mut keepers = Vec::new();
        for _ in 0..self.random.below(3) {
            let address = self.map(handle, bytes);
            keepers.push(Keeper::Mapping(address, bytes));
            if self.random.below(4) == 0 {
                let (mut same, inside) = (0, address + self.random.below(bytes as u64));
                self.call(0, cu::cuMemRetainAllocationHandle(&mut same, inside));
                assert_eq!(same, handle);
                keepers.push(Keeper::Release(same));
            }
        }
        if self.random.below(4) == 0 {
            let mut descriptor = -1;
            let code = cu::cuMemExportToShareableHandle(&mut descriptor, handle, 1, 0);
            self.call(0, code);
            if self.random.below(2) == 0 {
                let mut import = 0;
                let from = descriptor.unsigned_abs().into();
                self.call(0, cu::cuMemImportFromShareableHandle(&mut import, from, 1));
                let address = self.map(import, bytes);
                keepers.extend([Keeper::Release(import), Keeper::Mapping(address, bytes)]);
            }
            // SAFETY: the driver gave it away.
            #[expect(unsafe_code, reason = "a descriptor that the driver made")]
            keepers.push(Keeper::Descriptor(unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
        let slot = common.slots.lock().unwrap().pop();
        if let Some((object, slot)) = slot {
            let code = cu::cuMulticastBindMem(object, slot * GRANULE, handle, 0, GRANULE, 0);
            self.call(0, code);
            keepers.push(Keeper::Binding(object, slot));
        }
        Held::Virtual { keepers, last: handle }
    }

    fn map(&mut self, handle: u64, bytes: usize) -> u64 {
        let mut address = 0;
        self.call(0, cu::cuMemAddressReserve(&mut address, bytes, 0, 0, 0));
        self.call(0, cu::cuMemMap(address, bytes, 0, handle, 0));
        address
    }

    /// Frees; of a VMM allocation one thing that keeps it: the rest, if there is any, is given back.
    fn release(&mut self, held: Held, common: &Common) -> Option<Held> {
        match held {
            Held::Plain(address) => self.call(0, cu::cuMemFree_v2(address)),
            Held::Pooled(address) if self.random.below(4) == 0 => {
                self.call(0, cu::cuMemFree_v2(address));
            }
            Held::Pooled(address) => {
                let stream = [0, self.stream][self.random.index(2)];
                self.call(0, cu::cuMemFreeAsync(address, stream));
            }
            Held::Pinned(address) => self.call(0, cu::cuMemFreeHost(address)),
            Held::Registered(address) => self.call(0, cu::cuMemHostUnregister(address)),
            Held::Array(array) => self.call(0, cu::cuArrayDestroy(array)),
            Held::Virtual { mut keepers, last } => {
                if keepers.is_empty() {
                    self.call(0, if last == 0 { 0 } else { cu::cuMemRelease(last) });
                    return None;
                }
                let at = self.random.index(keepers.len());
                match keepers.swap_remove(at) {
                    Keeper::Release(handle) => self.call(0, cu::cuMemRelease(handle)),
                    Keeper::Mapping(address, bytes) => {
                        self.call(0, cu::cuMemUnmap(address, bytes));
                        self.call(0, cu::cuMemAddressFree(address, bytes));
                    }
                    Keeper::Descriptor(descriptor) => drop(descriptor),
                    Keeper::Binding(object, slot) => {
                        let code = cu::cuMulticastUnbind(object, 0, slot * GRANULE, GRANULE);
                        self.call(0, code);
                        common.slots.lock().unwrap().push((object, slot));
                    }
                }
                return Some(Held::Virtual { keepers, last });
            }
        }
        None
    }

    /// The handle goes before what else keeps the memory: an export, an import, a mapping or a binding
    /// does.
    fn release_handle_first(&mut self, held: Held) -> Held {
        match held {
            Held::Virtual { keepers, last } if last != 0 && !keepers.is_empty() => {
                self.call(0, cu::cuMemRelease(last));
                Held::Virtual { keepers, last: 0 }
            }
            held => held,
        }
    }

    /// A graph that allocates and frees, run and thrown away.
    fn graph(&mut self) {
        let (stream, bytes) = (self.stream, 1 + self.random.below(4 << 20) as usize);
        let (mut address, mut graph, mut executable) = (0, 0, 0);
        self.call(0, cu::cuStreamBeginCapture_v2(stream, 2));
        self.call(0, cu::cuMemAllocAsync(&mut address, bytes, stream));
        self.call(0, cu::cuMemFreeAsync(address, stream));
        self.call(0, cu::cuStreamEndCapture(stream, &mut graph));
        self.call(0, cu::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        for _ in 0..self.random.below(3) {
            self.call(0, cu::cuGraphLaunch(executable, stream));
        }
        self.call(0, cu::cuStreamSynchronize(stream));
        self.call(0, cu::cuGraphExecDestroy(executable));
        self.call(0, cu::cuGraphDestroy(graph));
        if self.random.below(3) == 0 {
            self.call(0, cu::cuDeviceGraphMemTrim(0));
        }
    }

    /// A context of its own that goes with all that was allocated in it.
    fn context(&mut self) {
        let (mut context, mut address) = (0, 0);
        self.call(0, cu::cuCtxCreate_v2(&mut context, 0, 0));
        for _ in 0..self.random.below(4) {
            let bytes = 1 + self.random.below(2 << 20) as usize;
            self.call(0, cu::cuMemAlloc_v2(&mut address, bytes));
            self.call(0, cu::cuMemHostAlloc(&mut address, bytes, 0));
            self.call(0, cu::cuMemAllocManaged(&mut address, bytes, 1));
            self.array();
        }
        self.call(0, cu::cuCtxDestroy_v2(context));
        self.call(0, cu::cuCtxSetCurrent(self.context));
    }

    /// A pool of its own, which goes with what it had reserved.
    fn pool(&mut self) {
        let properties = [[1u32, 0, 1, 0]; 6];
        let (mut pool, mut address) = (0, 0);
        self.call(0, cu::cuMemPoolCreate(&mut pool, properties.as_ptr()));
        for _ in 0..self.random.below(3) {
            let bytes = 1 + self.random.below(2 << 20) as usize;
            let code = cu::cuMemAllocFromPoolAsync(&mut address, bytes, pool, self.stream);
            self.call(0, code);
            self.call(0, cu::cuMemFreeAsync(address, self.stream));
        }
        self.call(0, cu::cuStreamSynchronize(self.stream));
        self.call(0, cu::cuMemPoolDestroy(pool));
    }

    /// Calls that fail, and change nothing.
    fn fail(&mut self) {
        let mut address = 0;
        self.call(2, cu::cuMemAlloc_v2(&mut address, 1 << 46));
        self.call(0, cu::cuMemAlloc_v2(&mut address, 100));
        assert_ne!(cu::cuMemFree_v2(address + 8), 0);
        self.call(0, cu::cuMemFree_v2(address));
        self.calls += 1;
    }

    fn step(&mut self, common: &Common) {
        match self.random.below(64) {
            0 => self.graph(),
            1 if self.random.below(16) == 0 => self.context(),
            2 => self.pool(),
            3 => self.fail(),
            4 => self.call(0, cu::cuStreamSynchronize(self.stream)),
            5 => {
                let mut pool = 0;
                self.call(0, cu::cuDeviceGetDefaultMemPool(&mut pool, 0));
                self.call(0, cu::cuMemPoolTrimTo(pool, 0));
            }
            6..=34 if self.held.len() < HELD_MAX => {
                let held = self.allocate(common);
                self.held.push(held);
            }
            _ if !self.held.is_empty() => {
                let at = self.random.index(self.held.len());
                let own = self.held.swap_remove(at);
                let own =
                    if self.random.below(4) == 0 { self.release_handle_first(own) } else { own };
                let other = {
                    let mut market = common.market.lock().unwrap();
                    market.push(own);
                    let at = self.random.index(market.len());
                    market.swap_remove(at)
                };
                let rest = self.release(other, common);
                self.held.extend(rest);
            }
            _ => {}
        }
    }
}

fn walker(context: u64, thread: u64, common: &Common) -> Walker {
    let random = Random((thread + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let (held, calls) = (Vec::new(), 0);
    let host = (thread + 1) << 44;
    let mut walker = Walker { random, calls, context, stream: 0, held, host };
    walker.call(0, cu::cuCtxSetCurrent(context));
    let (mut stream, mut multicast) = (0, 0);
    walker.call(0, cu::cuStreamCreate(&mut stream, 1));
    // One device, exportable.
    let properties = [1, (SLOTS * GRANULE) as u64, 1, 0];
    walker.call(0, cu::cuMulticastCreate(&mut multicast, &properties));
    walker.call(0, cu::cuMulticastAddDevice(multicast, 0));
    walker.stream = stream;
    common.slots.lock().unwrap().extend((0..SLOTS).map(|slot| (multicast, slot)));
    walker
}

/// One thread's share, standing still at every check.
fn walk(context: u64, thread: u64, common: &Common, checks: u64) {
    let mut walker = walker(context, thread, common);
    for check in 1..=checks {
        while walker.calls < check * CALLS_BETWEEN_CHECKS / THREADS {
            walker.step(common);
        }
        // What is freed in the order of a stream is freed when the stream is there.
        walker.call(0, cu::cuStreamSynchronize(0));
        walker.call(0, cu::cuStreamSynchronize(walker.stream));
        common.stop.wait();
        common.stop.wait();
    }
}

/// A failure ends the process: the other threads would wait for this one for ever.
fn or_end_all(body: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
        // SAFETY: ends this child without running anything; what failed is on stderr.
        #[expect(unsafe_code, reason = "no thread is waited for")]
        unsafe {
            libc::_exit(101)
        }
    }
}

#[test]
fn a_million_calls_are_booked_exactly() {
    in_child("a_million_calls_are_booked_exactly", "", || {
        // Unwinding a debug build's stack a million times is another test's.
        let mut config = Config::from_env().0;
        config.attribution = false;
        let session = Session::start(&config).unwrap();
        let mut context = 0;
        assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
        let common = Common {
            market: Mutex::new(Vec::new()),
            slots: Mutex::new(Vec::new()),
            stop: Barrier::new(THREADS as usize + 1),
        };
        let began = Instant::now();
        let checks = CALLS / CALLS_BETWEEN_CHECKS;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let common = &common;
                scope.spawn(move || or_end_all(|| walk(context, thread, common, checks)));
            }
            assert_eq!(cu::cuCtxSetCurrent(context), 0);
            for check in 1..=checks {
                common.stop.wait();
                or_end_all(|| {
                    session.flush(SOON).unwrap();
                    session.sample();
                    compare(&session.snapshot(), &sim::books(), check);
                });
                common.stop.wait();
            }
        });
        println!("{CALLS} calls, {checks} checks: {:.1} s", began.elapsed().as_secs_f64());
        let cost = session.self_cost();
        assert_eq!((cost.recorder.caught_panics, cost.recorder.foreign_buffers), (0, 0));
    });
}

/// The simulator's name of a family, and the ledger's row.
const FAMILIES: [(&str, usize); 7] = [
    ("pitch", 1),
    ("managed", 2),
    ("pinned_host", 3),
    ("pool_used", 4),
    ("vmm", 5),
    ("registered", 6),
    ("imported_handle", 8),
];

fn compare(snapshot: &Snapshot, books: &Value, check: u64) {
    let totals = &snapshot.devices[0].totals;
    let own = &books["devices"][0];
    // An array is device memory whose handle is no address.
    let of = |family: &str, field: &str| own["families"][family][field].as_u64().unwrap_or(0);
    let plain = |field| of("device", field) + of("array", field);
    let kind = &totals.by_kind[0];
    let live = (plain("live_bytes"), plain("allocations"), plain("allocations") - plain("frees"));
    assert_eq!(live, (kind.live_bytes.0, kind.allocated_count, kind.live_count), "check {check}");
    for (family, row) in FAMILIES {
        let (own, kind) = (&own["families"][family], &totals.by_kind[row]);
        assert_eq!(own["live_bytes"], kind.live_bytes.0, "check {check}: {family}");
        assert_eq!(own["allocations"], kind.allocated_count, "check {check}: {family}");
        let live = own["allocations"].as_u64().unwrap() - own["frees"].as_u64().unwrap();
        assert_eq!(live, kind.live_count, "check {check}: {family}");
        // The driver hands out before its call returns, and takes back after it was entered; only
        // unmapping is booked when it returns.
        if row <= 4 {
            assert!(own["peak_bytes"].as_u64().unwrap() >= kind.peak_bytes.0, "{family}");
        }
    }
    let sums = [
        ("pools", &own["pool_reserved"]["live_bytes"], totals.pool_reserved_bytes.0),
        ("graphs", &own["graph_reserved"]["live_bytes"], graphs(totals)),
        ("exports", &own["exported_only_bytes"], totals.exported_bytes.0),
        ("physical", &own["physical_live_bytes"], physical(totals)),
    ];
    for (what, own, ours) in sums {
        assert_eq!(*own, ours, "check {check}: {what}\n{:?}", totals.pools);
    }
    let findings = &snapshot.findings;
    let expected = Findings {
        recorded_allocations: findings.recorded_allocations,
        recorded_frees: findings.recorded_frees,
        // Pools are thrown away before anybody asks for their reserve.
        unasked_pools: findings.unasked_pools,
        ..Findings::default()
    };
    // A free of nothing fails, and is none of what was never seen.
    assert_eq!(*findings, expected, "check {check}");
}

fn graphs(totals: &DeviceTotals) -> u64 {
    totals.graph_reserved_bytes.map_or(0, |bytes| bytes.0)
}

fn physical(totals: &DeviceTotals) -> u64 {
    totals.vram.live_bytes.0 + totals.rounding.bytes.0
}
