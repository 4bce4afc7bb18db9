//! What recording costs: an activity record from CUPTI's buffer to timeline and trace, a callback
//! from CUPTI's call to the ledger, an event in the trace file, and the memory all of it holds.
//!
//! `cargo bench -p memvelope --features bench-internals --bench record [-- --quick]`

#[path = "pair.rs"]
#[expect(unreachable_pub, reason = "one file, shared by path among the benches")]
mod pair;
#[path = "random.rs"]
mod random;

use cupti_sys::layout::kernel;
use memvelope::config::Config;
use memvelope::event::{
    Body, DeviceIndex, Event, Kernel, Names, ScopeId, Scopes, SeenBy, TraceContext,
};
use memvelope::export::chrome::TraceWriter;
use memvelope::runtime::{Session, bench};
use memvelope::timeline::{Sketch, Timeline};
use memvelope::units::{Bytes, Nanos};
use random::Random;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Bytes of a kernel record of CUPTI 13.0.
const STRIDE: usize = 216;
/// Records in one of CUPTI's buffers (1 MiB, the default).
const IN_BUFFER: usize = (1 << 20) / STRIDE;
/// Buffers that come back at a time: all of the arena, as under load.
const AT_A_TIME: usize = 32;
/// Distinct kernels of a serving process.
const NAMES: usize = 200;
/// Live allocations while measuring: the upper end of a serving process.
const LIVE: u64 = 10_000;
/// What ten million events may add to the process: the trace's events and the arenas.
const GROWTH_MAX: Bytes = Bytes(64 << 20);
/// What writing ten million events may add to the process: caches and one line.
const WRITER_GROWTH_MAX: Bytes = Bytes(4 << 20);

/// Kernel records as CUPTI lays them out, and the texts that they point to.
struct Records {
    bytes: Vec<u8>,
    _names: Vec<CString>,
    span: u64,
}

impl Records {
    /// Kernels of some microseconds on eight streams, which overlap and end out of order.
    fn new(count: usize) -> Self {
        let mut random = Random(1);
        // As long as mangled templates are.
        let name =
            |i| CString::new(format!("_ZN7kernels{}{i:03}EPKfPf", "I6half_2Li128E".repeat(8)));
        let names: Vec<_> = (0..NAMES).filter_map(|i| name(i).ok()).collect();
        let mut bytes = vec![0; count * STRIDE];
        let mut time = 1_000_000_000;
        for (i, record) in bytes.chunks_exact_mut(STRIDE).enumerate() {
            let mut put = |at: usize, field: &[u8]| {
                record[at..at + field.len()].copy_from_slice(field);
            };
            time += 1_000 + random.below(7_000);
            let start = time - random.below(20_000);
            put(0, &kernel::KIND.to_ne_bytes());
            put(kernel::START, &start.to_ne_bytes());
            put(kernel::END, &(start + 2_000 + random.below(10_000)).to_ne_bytes());
            put(kernel::CONTEXT_ID, &1_u32.to_ne_bytes());
            put(kernel::STREAM_ID, &(7 + random.below(8) as u32).to_ne_bytes());
            for (at, size) in [(kernel::GRID_X, 64), (kernel::GRID_Y, 1), (kernel::GRID_Z, 1)] {
                put(at, &u32::to_ne_bytes(size));
            }
            for (at, size) in [(kernel::BLOCK_X, 128), (kernel::BLOCK_Y, 1), (kernel::BLOCK_Z, 1)] {
                put(at, &u32::to_ne_bytes(size));
            }
            put(kernel::CORRELATION_ID, &(i as u32).to_ne_bytes());
            let name = names[random.below(NAMES as u64) as usize].as_ptr() as u64;
            put(kernel::NAME, &name.to_ne_bytes());
        }
        Self { bytes, _names: names, span: time + 20_000 - 1_000_000_000 }
    }

    /// The same kernels again, after the first ones.
    fn go_on(&mut self) {
        for record in self.bytes.chunks_exact_mut(STRIDE) {
            for at in [kernel::START, kernel::END] {
                let field = &mut record[at..at + 8];
                let time = u64::from_ne_bytes(field.try_into().expect("eight bytes"));
                field.copy_from_slice(&(time + self.span).to_ne_bytes());
            }
        }
    }

    /// As they come back: some buffers at a time.
    fn drains(&self, records: u64) -> impl Iterator<Item = impl Iterator<Item = &[u8]>> {
        let bytes = &self.bytes[..records as usize * STRIDE];
        let drains = bytes.chunks(AT_A_TIME * IN_BUFFER * STRIDE);
        drains.map(|drain| drain.chunks(IN_BUFFER * STRIDE))
    }
}

/// A session that finds no driver, whatever the machine has, and records what it is given.
fn session() -> Session {
    let nowhere = || Some("/nonexistent/lib.so".into());
    let mut config = Config::default();
    config.cuda_path = nowhere();
    config.cupti_path = nowhere();
    config.nvml_path = nowhere();
    Session::start(&config).expect("no other session")
}

fn stop(session: &Session) {
    session.stop(Duration::from_secs(10)).expect("nothing hangs");
}

/// Resident bytes of the process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number of pages") * 4096
}

/// Says what something added to the process, and stops where it is too much.
fn check_growth(what: &str, before: u64, max: Bytes) {
    let growth = resident().saturating_sub(before);
    println!(
        "| {what} | resident + {:.1} MiB | at most {} MiB |",
        growth as f64 / 1048576.0,
        max.0 >> 20
    );
    assert!(growth <= max.0, "{what}: {growth} bytes more");
}

/// What the drain thread does with the buffers that came back; how many records there were.
fn record<'a>(
    drain: bench::Drain<'_>,
    decoding: &mut bench::Decoding<'_>,
    buffers: impl Iterator<Item = &'a [u8]>,
) -> u64 {
    drain.run(|on_event| buffers.map(|buffer| decoding.run(buffer, STRIDE, on_event)).sum())
}

fn scan(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    words.fold(0, |sum, word| sum.wrapping_add(u64::from_ne_bytes(word.try_into().expect("8"))))
}

fn record_pairs() -> [pair::Pair; 3] {
    let count = if pair::is_quick() { 10_001 } else { 1_000_000 };
    let session = session();
    let records = std::cell::RefCell::new(Records::new(count));
    let drain = bench::Drain::of(&session).expect("no other copy");
    let mut decoding = bench::Decoding::new(drain.names());
    let mut decoded = 0;
    let mut peer = |operations: u64| {
        for buffer in records.borrow().drains(operations).flatten() {
            black_box(scan(black_box(buffer)));
        }
    };
    let whole = pair::measure_prepared(
        &mut || records.borrow_mut().go_on(),
        ("record: decoded, into timeline and trace", &mut |operations| {
            for buffers in records.borrow().drains(operations) {
                decoded += record(drain, &mut decoding, black_box(buffers));
            }
        }),
        ("sum of the same bytes", &mut peer),
        1_000_000,
    );
    let kernels = session.snapshot().timeline.kernels;
    assert_eq!(kernels.len(), NAMES);
    assert_eq!(kernels.iter().map(|kernel| kernel.totals.count).sum::<u64>(), decoded);
    let alone = pair::measure(
        ("record: decoded, and no more", &mut |operations| {
            for buffer in records.borrow().drains(operations).flatten() {
                decoding.run(black_box(buffer), STRIDE, &mut |event| {
                    black_box(event);
                });
            }
        }),
        ("sum of the same bytes", &mut peer),
        1_000_000,
    );
    let mut timeline = Timeline::default();
    let summed = pair::measure_prepared(
        &mut || records.borrow_mut().go_on(),
        ("record: decoded and aggregated", &mut |operations| {
            for buffer in records.borrow().drains(operations).flatten() {
                decoding.run(black_box(buffer), STRIDE, &mut |event| timeline.accept(event));
            }
        }),
        ("sum of the same bytes", &mut peer),
        1_000_000,
    );
    stop(&session);
    [summed, whole, alone]
}

/// Ten million kernels through everything, in bounded memory.
fn recording_is_bounded() {
    let (count, rounds) = if pair::is_quick() { (10_000, 10) } else { (1_000_000, 10) };
    let mut records = Records::new(count);
    let before = resident();
    let session = session();
    let drain = bench::Drain::of(&session).expect("no other copy");
    let mut decoding = bench::Decoding::new(drain.names());
    let mut decoded = 0;
    for _ in 0..rounds {
        for buffers in records.drains(count as u64) {
            decoded += record(drain, &mut decoding, buffers);
        }
        records.go_on();
    }
    assert_eq!(decoded, (count * rounds) as u64);
    check_growth(&format!("{decoded} kernels recorded"), before, GROWTH_MAX);
    stop(&session);
}

/// Addresses as a driver gives them: 2 MiB apart, here in an order that no cache foresees.
fn address(i: u64) -> u64 {
    // An odd factor permutes the 2^24 places: live addresses never meet.
    0x7f00_0000_0000 + ((i.wrapping_mul(0x9E37_79B1) & 0xFF_FFFF) << 21)
}

/// The oldest allocation is freed, then a new one made: four callbacks, without attribution. Against
/// what a program could keep itself where it allocates, and the clock that callbacks read.
fn callback_pairs() -> [pair::Pair; 3] {
    let session = session();
    let callbacks = bench::Callbacks::connect(bench::sink());
    (0..LIVE).for_each(|i| callbacks.allocate(address(i), 2 << 20));
    let mut next = LIVE;
    let mut subject = |operations: u64| {
        for i in next..next + operations {
            callbacks.free(address(i - LIVE));
            callbacks.allocate(address(i), 2 << 20);
        }
        next += operations;
    };
    let mut against = |peer: (&'static str, &mut dyn FnMut(u64))| {
        const SUBJECT: &str = "callbacks of a free and an allocation, 10k live";
        pair::measure((SUBJECT, &mut subject), peer, 100_000)
    };
    let pairs = [
        against(("Mutex<HashMap> remove + insert", &mut kept_in(HashMap::with_capacity(1 << 16)))),
        against(("Mutex<BTreeMap> remove + insert", &mut kept_in(BTreeMap::new()))),
        against(("the clock, four times", &mut |operations| {
            for i in 0..4 * operations {
                black_box(clock_alone(black_box(i)));
            }
        })),
    ];
    drop(callbacks);
    let seen = session.snapshot();
    assert_eq!(seen.devices[0].totals.vram.live_bytes, Bytes(LIVE * (2 << 20)));
    assert_eq!(seen.findings, memvelope::ledger::Findings::default());
    let calls: u64 = seen.timeline.allocation_calls.iter().map(|call| call.totals.count).sum();
    assert_eq!(calls, 2 * next - LIVE);
    stop(&session);
    pairs
}

/// What a program could keep of its allocations itself: a size by address.
trait Map: Extend<(u64, u64)> {
    fn take(&mut self, address: u64) -> Option<u64>;
}

impl Map for HashMap<u64, u64> {
    fn take(&mut self, address: u64) -> Option<u64> {
        self.remove(&address)
    }
}

impl Map for BTreeMap<u64, u64> {
    fn take(&mut self, address: u64) -> Option<u64> {
        self.remove(&address)
    }
}

/// The same frees and allocations, kept in `map` behind a lock.
fn kept_in(mut map: impl Map) -> impl FnMut(u64) {
    map.extend((0..LIVE).map(|i| (address(i), 2 << 20)));
    let map = Mutex::new(map);
    let mut next = LIVE;
    move |operations| {
        for i in next..next + operations {
            let freed = map.lock().expect("not poisoned").take(black_box(address(i - LIVE)));
            assert!(freed.is_some());
            map.lock().expect("not poisoned").extend([(address(i), 2 << 20)]);
        }
        next += operations;
    }
}

#[inline(never)]
fn clock_alone(_: u64) -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Ten million kernels into a trace of nowhere, half of them in scopes, with trace ids.
fn writing_is_fast_and_bounded() {
    let count = if pair::is_quick() { 100_000 } else { 10_000_000 };
    let (names, scopes) = (Names::new(2 * NAMES, 256), Scopes::new(1 << 16));
    let name = |i| names.intern(&format!("_ZN7kernels{}{i:03}EPKfPf", "I6half_2Li128E".repeat(8)));
    let ids: Vec<_> = (0..NAMES).map(name).collect();
    let step = names.intern("step");
    let trace =
        |i| TraceContext { trace_id: u128::from(i) << 64 | 1, span_id: i, is_sampled: true };
    // So many that the table is as large as it gets before anything is measured.
    for i in 1..1 << 16 {
        scopes.open(step, Some(trace(i)));
    }
    let mut random = Random(1);
    let mut scope = ScopeId::NONE;
    let mut out = std::io::sink();
    let mut writer =
        TraceWriter::new(&mut out, &names, &scopes, Nanos(0), false, u64::MAX).expect("a sink");
    let (before, begin) = (resident(), Instant::now());
    for i in 0..count {
        if i % 64 == 0 {
            let is_inside = i % 128 == 0;
            scope = if is_inside { scopes.open(step, Some(trace(i + 1))) } else { ScopeId::NONE };
        }
        let start = Nanos(i * 4_500);
        let kernel = Kernel {
            device: DeviceIndex(0),
            context: 1,
            stream: 7 + random.below(8) as u32,
            name: ids[random.below(NAMES as u64) as usize],
            correlation: i as u32,
            graph: 0,
            graph_node: 0,
            scope,
            start,
            end: Nanos(start.0 + 2_000 + random.below(10_000)),
            grid: [64, 1, 1],
            block: [128, 1, 1],
            local_per_thread: 0,
            local_bytes: Bytes::ZERO,
        };
        let body = Body::Kernel(kernel);
        writer.event(&Event { time: kernel.end, seen_by: SeenBy::Activity, body }).expect("a sink");
    }
    let per_second = count as f64 / begin.elapsed().as_secs_f64();
    println!("| {count} kernels written as JSON | {:.2} million a second |", per_second / 1e6);
    check_growth(&format!("{count} kernels written"), before, WRITER_GROWTH_MAX);
}

fn sketch_pair() -> pair::Pair {
    let mut random = Random(1);
    let durations: Vec<_> = (0..1024).map(|_| Nanos(2_000 + random.below(10_000))).collect();
    let mut sketch = Sketch::default();
    let mut list = Vec::with_capacity(1_000_000);
    let pair = pair::measure(
        ("sketch: count a duration", &mut |operations| {
            for i in 0..operations {
                sketch.add(black_box(durations[i as usize % 1024]));
            }
        }),
        ("push it to a list", &mut |operations| {
            list.clear();
            for i in 0..operations {
                list.push(black_box(durations[i as usize % 1024]));
            }
            black_box(&list);
        }),
        1_000_000,
    );
    assert!(sketch.quantile(500).is_some_and(|p50| (5_000..9_000).contains(&p50.0)));
    pair
}

fn main() {
    // First, while the process is small: what is freed to the allocator hides growth.
    writing_is_fast_and_bounded();
    recording_is_bounded();
    let callbacks = callback_pairs();
    for pair in record_pairs().into_iter().chain(callbacks).chain([sketch_pair()]) {
        pair.print();
    }
}
