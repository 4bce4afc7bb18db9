//! Eight threads do to one gate whatever can be done to it, under every policy; at the end nothing
//! is held, claimed or waiting, and every ticket that was not given up was settled.
//!
//! A second and a half as a test; `MEMVELOPE_SOAK_S=60 cargo test --release -p memvelope --test
//! gate_soak -- --nocapture` for longer.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../../../benches/random.rs"]
mod random;

use memvelope::admission::{
    Estimate, Gate, GateConfig, Lease, Policy, PoolConfig, Reason, Request, Ticket, Usage,
};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};
use random::Random;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

const WORKERS: u64 = 8;
const CAPACITY: u64 = 400;
const POOLS: [&str; 3] = ["a", "b", "c"];
const CLASSES: [&str; 3] = ["chat", "code", "batch"];
/// What a ticket that nobody polls any more may take to be settled once there is room.
const SOON: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// Set when rung.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

struct Soak {
    gate: Gate,
    policy: Policy,
    has_moving_capacity: bool,
    is_over: AtomicBool,
    now: AtomicU64,
    operations: AtomicU64,
    /// Tickets that were told of by a waker, and those found settled before.
    woken: AtomicU64,
    handed_on: Mutex<Vec<Lease>>,
}

/// What one thread has.
#[derive(Default)]
struct Mine {
    leases: Vec<Lease>,
    tickets: Vec<(Ticket, Arc<Bell>)>,
}

fn request(random: &mut Random) -> Request<'static> {
    let request = Request::new(Tokens(1 + random.below(300)), Some(Tokens(1 + random.below(500))));
    let mut request = request.in_pool(POOLS[random.below(3) as usize]);
    request.class = (random.below(4) > 0).then(|| CLASSES[random.below(3) as usize]);
    match random.below(3) {
        0 => request.with_prefix(random.below(4), Tokens(random.below(200))),
        _ => request,
    }
}

impl Soak {
    fn work(&self, seed: u64) {
        let (mut random, mut mine) = (Random(seed), Mine::default());
        while !self.is_over.load(SeqCst) {
            for _ in 0..64 {
                self.step(&mut random, &mut mine);
            }
            self.operations.fetch_add(64, SeqCst);
        }
        // Whoever waits is settled when room comes: at the latest when all others have gone.
        mine.leases.clear();
        self.handed_on.lock().unwrap().clear();
        let begin = Instant::now();
        while !mine.tickets.is_empty() {
            mine.tickets.retain(|(_, bell)| !bell.0.load(SeqCst));
            assert!(
                begin.elapsed() < SOON,
                "{} tickets sleep: {:?}",
                mine.tickets.len(),
                self.gate
            );
            std::thread::yield_now();
        }
    }

    fn step(&self, random: &mut Random, mine: &mut Mine) {
        match random.below(20) {
            0..=4 => mine.leases.extend(self.gate.try_admit(&request(random))),
            5..=9 => {
                for lease in &mut mine.leases {
                    let _ = lease.grow(Tokens(random.below(40)));
                }
            }
            10 => mine.leases.iter_mut().for_each(|lease| lease.prefill(Tokens(30))),
            11 | 12 if !mine.leases.is_empty() => {
                let index = random.below(mine.leases.len() as u64) as usize;
                let lease = mine.leases.swap_remove(index);
                match random.below(4) {
                    0 => drop(lease.preempt()),
                    1 => self.handed_on.lock().unwrap().push(lease),
                    _ => drop(lease),
                }
            }
            13 => drop(self.handed_on.lock().unwrap().pop()),
            14 => self.enqueue(random, mine),
            15 => self.poll(mine),
            16 if !mine.tickets.is_empty() && random.below(3) == 0 => {
                let index = random.below(mine.tickets.len() as u64) as usize;
                drop(mine.tickets.swap_remove(index));
            }
            17 if random.below(4) == 0 => {
                let now = self.now.fetch_add(Nanos::MILLI, SeqCst);
                self.gate.tick(Nanos(now));
            }
            18 => self.read(random),
            19 if self.has_moving_capacity && random.below(8) == 0 => {
                let (blocks, epoch) = (random.below(CAPACITY), self.now.load(SeqCst));
                self.gate.set_capacity(Blocks(blocks), epoch);
            }
            _ if mine.leases.len() > 30 => mine.leases.clear(),
            _ => {}
        }
    }

    fn enqueue(&self, random: &mut Random, mine: &mut Mine) {
        let now = self.now.load(SeqCst);
        let deadline = (random.below(3) == 0).then(|| Nanos(now + random.below(20_000_000)));
        let asked = self.gate.enqueue(&request(random), random.below(4) as u8, deadline);
        let Ok(mut ticket) = asked else { return };
        let bell = Arc::new(Bell::default());
        match ticket.try_take(&Waker::from(Arc::clone(&bell))) {
            Some(outcome) => mine.leases.extend(outcome),
            None => mine.tickets.push((ticket, bell)),
        }
    }

    /// Takes what was settled. A bell that rang means an outcome, and an outcome rings the bell.
    fn poll(&self, mine: &mut Mine) {
        let Mine { leases, tickets } = mine;
        tickets.retain_mut(|(ticket, bell)| {
            if !bell.0.load(SeqCst) {
                return true;
            }
            self.woken.fetch_add(1, SeqCst);
            leases.extend(ticket.try_take(Waker::noop()).expect("it was woken"));
            false
        });
    }

    fn read(&self, random: &mut Random) {
        match random.below(4) {
            0 => self.judge(&self.gate.usage()),
            1 => POOLS.iter().for_each(|pool| self.judge(&self.gate.pool_usage(pool).unwrap())),
            2 => drop(self.gate.explain(&request(random))),
            _ => {
                let victims = self.gate.victims();
                assert!(victims.iter().all(|victim| victim.held_blocks.0 > 0));
            }
        }
    }

    fn judge(&self, usage: &Usage) {
        assert!(usage.held_blocks <= usage.claimed_blocks, "{usage:?}");
        let is_within = match self.policy {
            Policy::Guaranteed => usage.claimed_blocks <= usage.capacity_blocks,
            _ => usage.held_blocks <= usage.capacity_blocks,
        };
        let may_be_over = self.has_moving_capacity || usage.is_overcommitted;
        assert!(is_within || may_be_over, "{usage:?}");
        assert!(!usage.is_overcommitted || self.has_moving_capacity, "{usage:?}");
    }
}

fn check(name: &str, policy: Policy, floor: u8, estimate: Option<Estimate>, run: Duration) {
    for has_moving_capacity in [false, true] {
        let pools =
            POOLS.map(|name| PoolConfig { floor_percent: floor, ..PoolConfig::new(name, 1) });
        let curve = CostCurve::new(16, 0).unwrap();
        let config = GateConfig::new(Blocks(CAPACITY), curve, Tokens(2000));
        let config = GateConfig { policy, estimate, pools: pools.into(), ..config };
        let soak = Soak {
            gate: Gate::new(GateConfig { leases_max: 100, queue_max: 300, ..config }).unwrap(),
            policy,
            has_moving_capacity,
            is_over: AtomicBool::new(false),
            now: AtomicU64::new(1),
            operations: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            handed_on: Mutex::default(),
        };
        std::thread::scope(|scope| {
            for seed in 0..WORKERS {
                let soak = &soak;
                scope.spawn(move || soak.work(seed));
            }
            let begin = Instant::now();
            let is_enough = || soak.woken.load(SeqCst) > 10 && soak.gate.usage().admitted > 100;
            // Longer where the machine is busy with other things.
            while begin.elapsed() < run / 2 || (!is_enough() && begin.elapsed() < PATIENCE) {
                std::thread::sleep(Duration::from_millis(5));
            }
            // Room for all, and for good.
            soak.gate.set_capacity(Blocks(CAPACITY), u64::MAX);
            soak.is_over.store(true, SeqCst);
        });
        let usage = soak.gate.usage();
        assert_eq!((usage.held_blocks, usage.claimed_blocks), Default::default(), "{usage:?}");
        assert_eq!((usage.shared_blocks, usage.reserved_blocks), Default::default(), "{usage:?}");
        assert_eq!((usage.leases, usage.waiting, usage.is_overcommitted), (0, 0, false));
        assert_eq!(usage.released, usage.admitted);
        let rejected = |reason: Reason| usage.rejected[reason as usize];
        println!(
            "{name}{}: {} operations, {} admitted, {} growths waited, {} woken, {} expired, \
             {} cancelled, {} predicted",
            if has_moving_capacity { ", moving capacity" } else { "" },
            soak.operations.load(SeqCst),
            usage.admitted,
            usage.waits,
            soak.woken.load(SeqCst),
            rejected(Reason::Expired),
            rejected(Reason::Cancelled),
            rejected(Reason::Predicted),
        );
        assert!(usage.admitted > 100 && soak.woken.load(SeqCst) > 10);
    }
}

#[test]
fn nothing_is_left_after_anything() {
    let seconds = std::env::var("MEMVELOPE_SOAK_S").ok().and_then(|text| text.parse().ok());
    let run = Duration::from_secs_f64(seconds.unwrap_or(1.5)) / 7;
    let estimate = Some(Estimate::default());
    check("guaranteed", Policy::Guaranteed, 100, None, run);
    check("guaranteed that lends", Policy::Guaranteed, 40, None, run);
    check("banker", Policy::Banker, 100, None, run);
    check("banker that lends", Policy::Banker, 40, None, run);
    check("banker with an estimate", Policy::Banker, 100, estimate, run);
    check("banker that lends, with an estimate", Policy::Banker, 0, estimate, run);
    check("optimistic", Policy::Optimistic { watermark: 0.05 }, 100, None, run);
}
