//! What ledger, timeline and trace cost an event, against the plainest thing that could do.
//!
//! `cargo bench -p memvelope --bench ledger [-- --quick]`

#[path = "pair.rs"]
#[expect(unreachable_pub, reason = "one file, shared by path among the benches")]
mod pair;

use memvelope::event::{
    AllocKind, Allocation, Body, DeviceIndex, Event, FreeKind, Kernel, LibraryId, Names, ScopeId,
    Scopes, SeenBy, Tag,
};
use memvelope::export::chrome::TraceWriter;
use memvelope::ledger::Ledger;
use memvelope::snapshot::{DevicePlane, Epoch, Parts, Snapshot, TermName};
use memvelope::timeline::Timeline;
use memvelope::units::{Bytes, Nanos};
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::Mutex;

/// Live allocations while measuring: the upper end of a serving process.
const LIVE: u64 = 10_000;

/// Addresses as a driver gives them: 2 MiB apart, here in an order that no cache foresees.
fn address(i: u64) -> u64 {
    // An odd factor permutes the 2^24 places: live addresses never meet.
    let shuffled = i.wrapping_mul(0x9E37_79B1) & 0xFF_FFFF;
    0x7f00_0000_0000 + (shuffled << 21)
}

fn event(time: u64, body: Body) -> Event {
    Event { time: Nanos(time), seen_by: SeenBy::Callback, body }
}

fn allocation(i: u64) -> Event {
    let allocation = Allocation {
        device: DeviceIndex(0),
        context: 1,
        kind: AllocKind::Device,
        address: address(i),
        bytes: Bytes(2 << 20),
        stream: 0,
        pool: 0,
        tag: Tag::KvCache,
        library: LibraryId::UNKNOWN,
    };
    event(i, Body::Allocated(allocation))
}

/// A ledger as a session has it, with 10,000 live allocations.
fn full() -> Ledger {
    let ledger = Ledger::with_history(1 << 16, 8192);
    (0..LIVE).for_each(|i| ledger.accept(&allocation(i)));
    ledger
}

/// The oldest allocation is freed, then a new one made.
fn churn(ledger: &Ledger, next: u64, operations: u64) {
    for i in next..next + operations {
        let entered =
            Body::FreeEntered { address: address(i - LIVE), kind: FreeKind::Device, token: i };
        ledger.accept(black_box(&event(i, entered)));
        ledger.accept(black_box(&event(i, Body::FreeReturned { token: i, succeeded: true })));
        ledger.accept(black_box(&allocation(i)));
    }
}

/// A live ledger against the plainest thing with a lock.
fn ledger_pair() -> pair::Pair {
    let ledger = full();
    let mut next = LIVE;
    let mut subject = |operations: u64| {
        churn(&ledger, next, operations);
        next += operations;
    };

    // The peer keeps what the ledger keeps of an entry, and one sum.
    let peer_map = Mutex::new((HashMap::with_capacity(1 << 16), 0u64));
    let put = |i: u64| {
        let mut guard = peer_map.lock().expect("not poisoned");
        let (map, sum) = &mut *guard;
        map.insert(address(i), (2u64 << 20, 0u32, AllocKind::Device, Tag::KvCache));
        *sum += 2 << 20;
    };
    (0..LIVE).for_each(put);
    let mut next_peer = LIVE;
    let mut peer = |operations: u64| {
        for i in next_peer..next_peer + operations {
            let mut guard = peer_map.lock().expect("not poisoned");
            let (map, sum) = &mut *guard;
            if let Some((bytes, ..)) = map.remove(black_box(&address(i - LIVE))) {
                *sum -= bytes;
            }
            drop(guard);
            put(i);
        }
        next_peer += operations;
    };
    let pair = pair::measure(
        ("ledger: free + allocate at 10k live", &mut subject),
        ("Mutex<HashMap> remove + insert + sum", &mut peer),
        200_000,
    );
    let vram = ledger.vram_bytes(DeviceIndex(0));
    assert_eq!(vram, Bytes(LIVE * (2 << 20)), "the ledger kept its books");
    assert_eq!(ledger.findings(), memvelope::ledger::Findings::default());
    pair
}

/// The same against a tree, which is what keeps addresses in order.
fn tree_pair() -> pair::Pair {
    let ledger = full();
    let mut next = LIVE;
    let mut subject = |operations: u64| {
        churn(&ledger, next, operations);
        next += operations;
    };
    let peer_map = Mutex::new(BTreeMap::new());
    let put = |i: u64| {
        let value = (2u64 << 20, 0u32, AllocKind::Device, Tag::KvCache);
        peer_map.lock().expect("not poisoned").insert(address(i), value);
    };
    (0..LIVE).for_each(put);
    let mut next_peer = LIVE;
    let mut peer = |operations: u64| {
        for i in next_peer..next_peer + operations {
            peer_map.lock().expect("not poisoned").remove(black_box(&address(i - LIVE)));
            put(i);
        }
        next_peer += operations;
    };
    pair::measure(
        ("ledger: free + allocate at 10k live", &mut subject),
        ("Mutex<BTreeMap> remove + insert", &mut peer),
        200_000,
    )
}

/// Everything that `memvelope snapshot` shows of a device with 10,000 live allocations, those one by
/// one among it, against a copy of the plain map.
fn snapshot_pair() -> pair::Pair {
    let ledger = full();
    let mut subject = |operations: u64| {
        for i in 0..operations {
            let (totals, findings) = ledger.state();
            let live = black_box(ledger.live(DeviceIndex(0), LIVE as usize));
            let used = Bytes(LIVE * (2 << 20));
            let total_bytes = Bytes(80 << 30);
            let epoch = Epoch {
                time: Nanos(i),
                total_bytes,
                free_bytes: total_bytes.saturating_sub(used),
                totals: totals[0].clone(),
                ..Epoch::default()
            };
            let plane = DevicePlane { epoch: Some(epoch), ..DevicePlane::default() };
            let parts =
                Parts { epoch: i, totals, findings, planes: vec![plane], ..Parts::default() };
            let snapshot = black_box(Snapshot::assemble(parts));
            let balance = snapshot.devices[0].balance.as_ref().expect("the planes were read");
            let kv = balance.line(TermName::KvCache).expect("all of it is tagged");
            assert_eq!((live.len() as u64, kv.bytes), (LIVE, used.0 as i64));
        }
    };
    let map: HashMap<_, _> = (0..LIVE).map(|i| (address(i), (2u64 << 20, Tag::KvCache))).collect();
    let peer_map = Mutex::new(map);
    let mut peer = |operations: u64| {
        for _ in 0..operations {
            let copy = peer_map.lock().expect("not poisoned").clone();
            black_box(copy.values().map(|(bytes, _)| bytes).sum::<u64>());
        }
    };
    pair::measure(
        ("snapshot of 10k live, with balance and every allocation", &mut subject),
        ("copy of a Mutex<HashMap> and its sum", &mut peer),
        1_000,
    )
}

/// Bytes of an allocation when the ledger is as full as it gets: at most 64.
fn bytes_an_allocation() {
    const MOST: u64 = 1 << 16;
    let empty = Ledger::new(1024).host_bytes();
    let each = (Ledger::new(MOST as usize).host_bytes() - empty) as f64 / (MOST - 1024) as f64;
    println!("| bytes of a live allocation | {each:.1} | aim | 64 | |");
    assert!(each <= 64.0, "{each}");
}

/// Kernels of 64 names into the timeline, against an array of counts and sums.
fn timeline_pair() -> pair::Pair {
    let names = Names::new(64, 64);
    let ids: Vec<_> = (0..64).map(|i| names.intern(&format!("kernel{i}"))).collect();
    let kernel = |i: u64| Kernel {
        graph: 0,
        graph_node: 0,
        scope: ScopeId::NONE,
        device: DeviceIndex(0),
        context: 1,
        stream: 7,
        name: ids[(i % 64) as usize],
        correlation: i as u32,
        start: Nanos(i * 100),
        end: Nanos(i * 100 + 90),
        grid: [1; 3],
        block: [128, 1, 1],
        local_per_thread: 0,
        local_bytes: Bytes::ZERO,
    };
    let mut timeline = Timeline::new(64);
    let mut subject = |operations: u64| {
        for i in 0..operations {
            timeline.accept(black_box(&event(i, Body::Kernel(kernel(i)))));
        }
    };
    let mut sums = [(0u64, 0u64); 65];
    let mut peer = |operations: u64| {
        for i in 0..operations {
            let event = event(i, Body::Kernel(kernel(i)));
            if let Body::Kernel(kernel) = black_box(&event).body {
                let (count, sum) = &mut sums[kernel.name.0 as usize];
                *count += 1;
                *sum += kernel.end.0 - kernel.start.0;
            }
        }
    };
    let pair = pair::measure(
        ("timeline: accept a kernel", &mut subject),
        ("array of counts and sums", &mut peer),
        1_000_000,
    );
    let counted: u64 = timeline.summary(&names).kernels.iter().map(|k| k.totals.count).sum();
    assert_eq!(counted, sums.iter().map(|(count, _)| count).sum::<u64>());
    pair
}

/// Kernels into a trace of nowhere, against the standard formatter writing the same fields.
fn trace_pair() -> pair::Pair {
    let names = Names::new(8, 64);
    let name = names.intern("_Z12paged_decodePKhPhi");
    let kernel = |i: u64| Kernel {
        graph: 0,
        graph_node: 0,
        scope: ScopeId::NONE,
        device: DeviceIndex(0),
        context: 1,
        stream: 7,
        name,
        correlation: i as u32,
        start: Nanos(i * 1_003),
        end: Nanos(i * 1_003 + 907),
        grid: [64, 1, 1],
        block: [128, 1, 1],
        local_per_thread: 0,
        local_bytes: Bytes::ZERO,
    };
    let mut subject = |operations: u64| {
        let mut out = std::io::sink();
        let scopes = Scopes::new(1);
        let mut writer =
            TraceWriter::new(&mut out, &names, &scopes, Nanos(0), false, u64::MAX).expect("a sink");
        for i in 0..operations {
            writer.event(black_box(&event(i, Body::Kernel(kernel(i))))).expect("a sink");
        }
    };
    let mut peer = |operations: u64| {
        use std::io::Write;
        let text = names.text(name);
        let mut line = Vec::new();
        for i in 0..operations {
            let k = black_box(kernel(i));
            line.clear();
            write!(
                line,
                ",\n{{\"ph\":\"X\",\"name\":\"{text}\",\"cat\":\"kernel\",\"pid\":100,\"tid\":{},\
                 \"ts\":{:.3},\"dur\":{:.3},\"args\":{{\"grid\":{:?},\"block\":{:?},\
                 \"correlation\":{}}}}}",
                k.stream,
                k.start.0 as f64 / 1e3,
                (k.end.0 - k.start.0) as f64 / 1e3,
                k.grid,
                k.block,
                k.correlation
            )
            .expect("memory");
            black_box(&line);
        }
    };
    pair::measure(
        ("trace: write a kernel as JSON", &mut subject),
        ("the same through write!", &mut peer),
        100_000,
    )
}

fn main() {
    bytes_an_allocation();
    for pair in [ledger_pair(), tree_pair(), snapshot_pair(), timeline_pair(), trace_pair()] {
        pair.print();
    }
}
