//! Claims, each with its floor or peer in the same run:
//!
//! * `Guaranteed`: admit + release costs at most four uncontended atomic pairs;
//! * `Banker`: admit + release below 300 ns at 1,000 and at 10,000 live leases, and hardly more at
//!   the latter; growth into a new block below 200 ns;
//! * a lock around a sorted map that looks for an order of completion costs a thousand times that.
//!
//! `cargo bench -p memvelope --bench gate` prints rows for the table in `benches/README.md`.

#[path = "pair.rs"]
#[allow(unreachable_pub, reason = "benches share the file by path")]
mod pair;
#[path = "random.rs"]
mod random;

use memvelope::admission::{Estimate, Gate, GateConfig, Lease, Policy, Request};
use memvelope::units::{Blocks, CostCurve, Tokens};
use random::Random;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel};
use std::time::Instant;

const OPERATIONS: u64 = 100_000;
/// For what takes microseconds.
const OPERATIONS_FEW: u64 = 200;
/// Prompts and new tokens of the sequences that run: up to this, seeded and all different.
const PROMPT_MAX: u64 = 2000;
const NEW_MAX: u64 = 8000;
/// Blocks of capacity for each lease: more than it holds on average, less than it claims.
const BLOCKS_EACH: u64 = 200;
const THREADS: usize = 8;

fn draw(random: &mut Random) -> Request<'static> {
    let (prompt, new) = (1 + random.below(PROMPT_MAX), 1 + random.below(NEW_MAX));
    Request::new(Tokens(prompt), Some(Tokens(new)))
}

/// A gate with live leases of many needs, grown to many lengths, that remembers short outputs.
struct Busy {
    gate: Gate,
    leases: Vec<Lease>,
    requests: Vec<Request<'static>>,
}

impl Busy {
    fn new(policy: Policy, estimate: Option<Estimate>, count: usize) -> Self {
        let curve = CostCurve::new(16, 0).expect("16 tokens a block");
        let capacity = Blocks(BLOCKS_EACH * count as u64 + 100_000 * u64::from(count == 0));
        let config = GateConfig::new(capacity, curve, Tokens(1_000_000));
        let gate = Gate::new(GateConfig { policy, estimate, ..config }).expect("a plain gate");
        let mut random = Random(count as u64);
        for _ in 0..2000 {
            let request = draw(&mut random);
            if let Ok(mut lease) = gate.try_admit(&request) {
                let _ = lease.grow(Tokens(random.below(200)));
            }
            gate.step();
        }
        let mut leases = Vec::with_capacity(count);
        for _ in 0..100 * count {
            if leases.len() == count {
                break;
            }
            if leases.len() % 64 == 0 {
                gate.step();
            }
            leases.extend(gate.try_admit(&draw(&mut random)).map(|mut lease| {
                let _ = lease.grow(Tokens(random.below(200)));
                lease
            }));
        }
        assert_eq!(leases.len(), count, "{:?}", gate.usage());
        let requests = (0..1024).map(|_| draw(&mut random)).collect();
        Self { gate, leases, requests }
    }

    fn admit_release(&self, operations: u64) {
        for operation in 0..operations {
            let request = black_box(&self.requests[operation as usize % 1024]);
            // The lease stays where `try_admit` put it.
            let lease = self.gate.try_admit(request);
            black_box(&lease);
            assert!(lease.is_ok(), "there is room");
        }
    }

    /// One lease grows by a block at a time.
    fn grow(&self, operations: u64) {
        const NEW: u64 = 16 * 512;
        let mut lease = None::<Lease>;
        for step in 0..operations {
            if step % 512 == 0 {
                lease.take();
                let request = Request::new(Tokens(16), Some(Tokens(NEW)));
                lease = self.gate.try_admit(&request).ok();
            }
            let grown = lease.as_mut().map(|lease| lease.grow(black_box(Tokens(16))));
            let grown = black_box(grown).expect("there is room").expect("below its maximum");
            assert!(grown.is_granted(), "there is room");
        }
    }

    /// A step of the engine, and the first admission of it, which brings the estimate up to date.
    fn refresh(&self, operations: u64) {
        for operation in 0..operations {
            self.gate.step();
            let lease = self.gate.try_admit(&self.requests[operation as usize % 1024]);
            black_box(&lease);
        }
    }
}

/// What the same promise costs without the tree: needs in order, gone through for each admission.
struct Sorted {
    leases: Mutex<BTreeMap<(u64, u64), u64>>,
    capacity: u64,
}

impl Sorted {
    fn like(busy: &Busy) -> Self {
        let leases = busy.leases.iter().zip(0..);
        let leases = leases.map(|(lease, number)| ((lease.need().0, number), lease.held().0));
        let capacity = busy.gate.usage().capacity_blocks.0;
        Self { leases: Mutex::new(leases.collect()), capacity }
    }

    fn admit_release(&self, busy: &Busy, operations: u64) {
        for operation in 0..operations {
            let request = black_box(&busy.requests[operation as usize % 1024]);
            let (prompt, new) =
                (request.prompt_tokens.0, request.max_new_tokens.map_or(0, |n| n.0));
            let (held, claim) = (prompt.div_ceil(16), (prompt + new).div_ceil(16));
            let key = (claim - held, u64::MAX);
            let is_safe = {
                let mut leases = self.leases.lock().expect("nobody panics");
                leases.insert(key, held);
                let all: u64 = leases.values().sum();
                let mut free = self.capacity.saturating_sub(all);
                leases.iter().all(|((need, _), held)| {
                    let fits = *need <= free;
                    free += held;
                    fits
                })
            };
            assert!(black_box(is_safe), "there is room");
            self.leases.lock().expect("nobody panics").remove(&key);
        }
    }
}

/// Latencies of admit + release while eight threads do nothing else.
fn contended(name: &str, operate: &(dyn Fn(u64) + Sync)) {
    let count = if pair::is_quick() { 100 } else { 50_000 };
    let mut times: Vec<u64> = std::thread::scope(|scope| {
        let time = move || {
            let times = (0..count).map(|_| {
                let begin = Instant::now();
                operate(1);
                begin.elapsed().as_nanos() as u64
            });
            times.collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(time)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it ended")).collect()
    });
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("| {name} | {} | {} | {} |", at(0.5), at(0.99), at(0.999));
}

/// Two operations on an atomic: the floor of whatever takes no lock.
fn atomic_pairs(operations: u64) {
    static FLOOR: AtomicU64 = AtomicU64::new(0);
    for _ in 0..operations {
        black_box(&FLOOR).fetch_add(1, AcqRel);
        black_box(&FLOOR).fetch_sub(1, AcqRel);
    }
}

/// A lock taken twice: the floor of whatever takes one to admit and one to release.
fn two_locks(operations: u64) {
    static FLOOR: Mutex<u64> = Mutex::new(0);
    for _ in 0..2 * operations {
        *black_box(&FLOOR).lock().expect("nobody panics") += 1;
    }
}

/// A subject against one of the floors.
fn floor_row(name: &'static str, subject: &mut dyn FnMut(u64), operations: u64) {
    let mut peer: (_, &mut dyn FnMut(u64)) = match name.starts_with("Guaranteed") {
        true => ("atomic pair", &mut atomic_pairs),
        false => ("two uncontended locks", &mut two_locks),
    };
    pair::measure((name, subject), (peer.0, &mut peer.1), operations).print();
}

fn peer_row(
    name: &'static str,
    subject: &mut dyn FnMut(u64),
    peer: &'static str,
    peer_run: &mut dyn FnMut(u64),
    operations: u64,
) {
    pair::measure((name, subject), (peer, peer_run), operations).print();
}

fn header() {
    println!("\n| subject | ns | peer | ns | ratio |\n|---|---|---|---|---|");
}

fn main() {
    let estimate = Some(Estimate::default());
    let guaranteed = Busy::new(Policy::Guaranteed, None, 0);
    let [small, large] = [1000, 10_000].map(|count| Busy::new(Policy::Banker, None, count));
    let [small_estimate, large_estimate] =
        [1000, 10_000].map(|count| Busy::new(Policy::Banker, estimate, count));
    let banker = [
        ("Banker: admit + release, 1,000 live", &small),
        ("Banker: admit + release, 10,000 live", &large),
        ("Banker with estimate: admit + release, 1,000 live", &small_estimate),
        ("Banker with estimate: admit + release, 10,000 live", &large_estimate),
    ];
    header();
    floor_row("Guaranteed: admit + release", &mut |n| guaranteed.admit_release(n), OPERATIONS);
    floor_row("Guaranteed: grow into a block", &mut |n| guaranteed.grow(n), OPERATIONS);
    refused("Guaranteed: refused", Policy::Guaranteed);
    for (name, busy) in banker {
        floor_row(name, &mut |n| busy.admit_release(n), OPERATIONS);
    }
    floor_row("Banker: grow into a block, 1,000 live", &mut |n| small.grow(n), OPERATIONS);
    floor_row("Banker: grow into a block, 10,000 live", &mut |n| large.grow(n), OPERATIONS);
    refused("Banker: refused", Policy::Banker);
    for (few, many) in [(banker[0], banker[1]), (banker[2], banker[3])] {
        let mut peer = |n| few.1.admit_release(n);
        let subject = &mut |n| many.1.admit_release(n);
        peer_row(many.0, subject, "the same, 1,000 live", &mut peer, OPERATIONS);
    }
    for (name, busy) in [
        ("sorted map under a lock: admit + release, 1,000 live", &small),
        ("sorted map under a lock: admit + release, 10,000 live", &large),
    ] {
        let sorted = Sorted::like(busy);
        let mut peer = |n| busy.admit_release(n);
        let subject = &mut |n| sorted.admit_release(busy, n);
        peer_row(name, subject, "Banker", &mut peer, OPERATIONS_FEW);
    }
    println!("\n| 8 threads, admit + release | p50 ns | p99 ns | p99.9 ns |\n|---|---|---|---|");
    contended("clock alone", &|n| {
        black_box(n);
    });
    contended("Guaranteed", &|n| guaranteed.admit_release(n));
    contended("Banker, 10,000 live", &|n| large.admit_release(n));
    contended("Banker with estimate, 10,000 live", &|n| large_estimate.admit_release(n));
    // Last: leases that never end teach the estimate that outputs are long.
    header();
    for (name, busy) in [
        ("estimate: a step and its first admission, 1,000 live", &small_estimate),
        ("estimate: a step and its first admission, 10,000 live", &large_estimate),
    ] {
        floor_row(name, &mut |n| busy.refresh(n), OPERATIONS_FEW);
    }
}

/// Refusals, of a gate that is full.
fn refused(name: &'static str, policy: Policy) {
    let full = Busy::new(policy, None, 0);
    let full_request = Request::new(Tokens(16 * 50_000), Some(Tokens(16 * 10_000)));
    let _half = full.gate.try_admit(&full_request).expect("it is empty");
    let _rest: Vec<_> =
        std::iter::from_fn(|| full.gate.try_admit(&full.requests[0]).ok()).collect();
    let mut subject = |operations| {
        for _ in 0..operations {
            let refused = full.gate.try_admit(black_box(&full_request));
            black_box(&refused);
            assert!(refused.is_err(), "it is full");
        }
    };
    floor_row(name, &mut subject, OPERATIONS);
}
