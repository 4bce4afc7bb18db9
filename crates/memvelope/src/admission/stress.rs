//! The gate against a shadow that counts on its own: threads admit, grow, hand leases on, panic with
//! them, while the capacity flaps and stale epochs are tried.
//!
//! A lease enters the shadow after its grant and leaves it before its release, so the shadow never
//! shows more than the gate handed out: whatever it shows past a capacity was really past it.

use super::{Gate, GateConfig, Lease, PoolConfig};
use crate::units::{Blocks, CostCurve, Tokens};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const POOLS: [(&str, u32); 3] = [("short", 1), ("long", 2), ("batch", 1)];
const WORKERS: usize = 8;
/// In fourths, so that shares of 1, 2 and 1 divide it.
const CAPACITY_MAX: u64 = 4 * 50;
const RUN: Duration = Duration::from_millis(1500);

#[derive(Default)]
struct Shadow {
    claimed: [AtomicU64; 3],
    held: [AtomicU64; 3],
    granted: AtomicU64,
    in_small_phase: AtomicU64,
    /// Odd while the capacity is being changed; else the phase.
    phase: AtomicU64,
    /// Capacity of the phase in force.
    capacity: AtomicU64,
    is_over: AtomicBool,
}

/// A lease and its entry in the shadow, taken out before the lease goes.
struct Shadowed<'a> {
    lease: Lease,
    pool: usize,
    shadow: &'a Shadow,
}

impl Drop for Shadowed<'_> {
    fn drop(&mut self) {
        self.shadow.claimed[self.pool].fetch_sub(self.lease.claim().0, SeqCst);
        self.shadow.held[self.pool].fetch_sub(self.lease.held().0, SeqCst);
    }
}

impl Shadowed<'_> {
    fn grow(&mut self, tokens: u64) {
        let (before, room) = (self.lease.held(), self.lease.max_tokens().0 - self.lease.tokens().0);
        let grown = self.lease.grow(Tokens(tokens));
        assert_eq!(grown.is_ok(), tokens <= room);
        let drawn = self.lease.held().0 - before.0;
        assert_eq!(grown.unwrap_or_default().0, drawn);
        assert!(self.lease.held() <= self.lease.claim());
        self.shadow.held[self.pool].fetch_add(drawn, SeqCst);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % end
    }
}

const fn part(capacity: u64, pool: usize) -> u64 {
    capacity / 4 * POOLS[pool].1 as u64
}

fn admit<'a>(gate: &Gate, shadow: &'a Shadow, random: &mut Random) -> Option<Shadowed<'a>> {
    let pool = random.below(3) as usize;
    let (prompt, new) = (Tokens(1 + random.below(64)), Tokens(1 + random.below(128)));
    let (before, capacity) = (shadow.phase.load(SeqCst), shadow.capacity.load(SeqCst));
    let lease = gate.try_admit(prompt, Some(new), Some(POOLS[pool].0)).ok()?;
    let claimed = shadow.claimed[pool].fetch_add(lease.claim().0, SeqCst) + lease.claim().0;
    let held = shadow.held[pool].fetch_add(lease.held().0, SeqCst) + lease.held().0;
    shadow.granted.fetch_add(1, SeqCst);
    assert!(claimed <= part(CAPACITY_MAX, pool), "{claimed} claimed in {}", POOLS[pool].0);
    assert!(held <= part(CAPACITY_MAX, pool), "{held} held in {}", POOLS[pool].0);
    // All of it within one phase: this phase's capacity held too.
    if before.is_multiple_of(2) && shadow.phase.load(SeqCst) == before {
        let most = part(capacity, pool);
        assert!(claimed <= most, "{claimed} claimed of {most} in {}", POOLS[pool].0);
        shadow.in_small_phase.fetch_add(u64::from(capacity < CAPACITY_MAX), SeqCst);
    }
    Some(Shadowed { lease, pool, shadow })
}

fn work<'a>(
    seed: u64,
    gate: &Gate,
    shadow: &'a Shadow,
    next: &Sender<Shadowed<'a>>,
    inbox: &Receiver<Shadowed<'a>>,
) {
    let mut random = Random(seed);
    let mut mine = Vec::new();
    while !shadow.is_over.load(SeqCst) {
        mine.extend(inbox.try_iter());
        match random.below(8) {
            0..=3 => mine.extend(admit(gate, shadow, &mut random)),
            4 => mine.iter_mut().for_each(|lease| lease.grow(random.below(24))),
            5 => drop(mine.pop().map(|lease| next.send(lease))),
            6 => {
                let doomed = mine.pop();
                // Unwinds without the panic hook's noise.
                let unwound = catch_unwind(AssertUnwindSafe(|| {
                    let _doomed = doomed;
                    resume_unwind(Box::new(()));
                }));
                assert!(unwound.is_err());
            }
            _ => mine.clear(),
        }
    }
}

/// Flaps the capacity, nothing included, and tries epochs that are stale.
fn resize(gate: &Gate, shadow: &Shadow) -> u64 {
    let (mut epoch, mut random) = (0, Random(99));
    let end = Instant::now() + RUN;
    while Instant::now() < end {
        let capacity = [0, 4, 40, CAPACITY_MAX][random.below(4) as usize];
        shadow.phase.fetch_add(1, SeqCst);
        epoch += 1 + random.below(3);
        assert!(gate.set_capacity(Blocks(capacity), epoch));
        shadow.capacity.store(capacity, SeqCst);
        shadow.phase.fetch_add(1, SeqCst);
        for stale in [epoch, epoch - 1, 0] {
            assert!(!gate.set_capacity(Blocks(u64::MAX), stale));
        }
        let usage = gate.usage();
        assert_eq!((usage.capacity_blocks.0, usage.epoch), (capacity, epoch));
        assert!(usage.held_blocks <= usage.claimed_blocks);
        std::thread::sleep(Duration::from_micros(300));
    }
    epoch
}

#[test]
fn a_shadow_that_counts_on_its_own_agrees() {
    let pools = POOLS.map(|(name, share)| PoolConfig { name: name.into(), share });
    let curve = CostCurve::new(16, 1).unwrap();
    let config = GateConfig::new(Blocks(CAPACITY_MAX), curve);
    let gate = Gate::new(GateConfig { pools: pools.into(), ..config }).unwrap();
    let shadow = Shadow { capacity: AtomicU64::new(CAPACITY_MAX), ..Shadow::default() };
    let (mut senders, inboxes): (Vec<_>, Vec<_>) = (0..WORKERS).map(|_| channel()).unzip();
    senders.rotate_left(1);
    let epoch = std::thread::scope(|scope| {
        for (seed, (next, inbox)) in (1..).zip(senders.into_iter().zip(inboxes)) {
            let (gate, shadow) = (&gate, &shadow);
            scope.spawn(move || work(seed, gate, shadow, &next, &inbox));
        }
        let epoch = resize(&gate, &shadow);
        shadow.is_over.store(true, SeqCst);
        epoch
    });
    let usage = gate.usage();
    assert_eq!((usage.leases, usage.held_blocks, usage.claimed_blocks), Default::default());
    assert_eq!(usage.admitted, shadow.granted.load(SeqCst));
    assert_eq!(usage.epoch, epoch);
    assert!(usage.claimed_peak_blocks.0 <= CAPACITY_MAX);
    assert!(shadow.granted.load(SeqCst) > 1000 && shadow.in_small_phase.load(SeqCst) > 10);
    for counter in shadow.claimed.iter().chain(&shadow.held) {
        assert_eq!(counter.load(SeqCst), 0);
    }
}
