//! Gates against a shadow that counts on its own: threads admit, grow, hand leases on, panic with
//! them, while the capacity flaps and stale epochs are tried.
//!
//! A lease enters the shadow after its grant and leaves it before its release, so the shadow never
//! shows more than the gate handed out: whatever it shows past a capacity was really past it.

use super::{
    Gate, GateConfig, Growth, Lease, Policy, Random, Reason, admit, config, pools, request,
};
use crate::units::{Blocks, CostCurve, Tokens};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const POOLS: [(&str, u32); 3] = [("short", 1), ("long", 2), ("batch", 1)];
const WORKERS: usize = 8;
/// In fourths, so that shares of 1, 2 and 1 divide it.
const CAPACITY_MAX: u64 = 4 * 50;
const RUN: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Shadow {
    policy: Policy,
    /// Percent of its share that a pool keeps.
    floor: u8,
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

impl Shadow {
    /// What a pool, with what it can borrow, may have of a capacity.
    fn most(&self, capacity: u64, pool: usize) -> u64 {
        let part = |pool: usize| capacity / 4 * u64::from(POOLS[pool].1);
        let lent = |other: usize| part(other) - part(other) * u64::from(self.floor) / 100;
        part(pool) + (0..3).filter(|other| *other != pool).map(lent).sum::<u64>()
    }

    /// Whether enough happened.
    fn is_enough(&self) -> bool {
        self.granted.load(SeqCst) > 1000 && self.in_small_phase.load(SeqCst) > 10
    }

    fn sum(counters: &[AtomicU64; 3]) -> u64 {
        counters.iter().map(|counter| counter.load(SeqCst)).sum()
    }
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
        match grown {
            Ok(Growth::Granted(blocks)) => assert_eq!(blocks.0, drawn),
            Ok(Growth::Wait | Growth::Expired) | Err(_) => assert_eq!(drawn, 0),
        }
        assert!(self.lease.held() <= self.lease.claim());
        let held = self.shadow.held[self.pool].fetch_add(drawn, SeqCst) + drawn;
        assert!(held <= self.shadow.most(CAPACITY_MAX, self.pool), "{held} held");
    }
}

fn admit_one<'a>(gate: &Gate, shadow: &'a Shadow, random: &mut Random) -> Option<Shadowed<'a>> {
    let pool = random.below(3) as usize;
    let (prompt, new) = (1 + random.below(64), 1 + random.below(128));
    let (before, capacity) = (shadow.phase.load(SeqCst), shadow.capacity.load(SeqCst));
    let lease = gate.try_admit(&request(prompt, new).in_pool(POOLS[pool].0)).ok()?;
    let claimed = shadow.claimed[pool].fetch_add(lease.claim().0, SeqCst) + lease.claim().0;
    let held = shadow.held[pool].fetch_add(lease.held().0, SeqCst) + lease.held().0;
    shadow.granted.fetch_add(1, SeqCst);
    // Under `Banker` claims may be more than there is; what is held may not.
    let counted = if shadow.policy == Policy::Guaranteed { claimed } else { held };
    let most = shadow.most(CAPACITY_MAX, pool);
    assert!(counted <= most && held <= most, "{counted} of {most} in {}", POOLS[pool].0);
    // All of it within one phase: this phase's capacity held too.
    if before.is_multiple_of(2) && shadow.phase.load(SeqCst) == before {
        let most = shadow.most(capacity, pool);
        assert!(counted <= most, "{counted} of {most} in {}", POOLS[pool].0);
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
            0..=3 => mine.extend(admit_one(gate, shadow, &mut random)),
            4 => mine.iter_mut().for_each(|lease: &mut Shadowed<'_>| lease.grow(random.below(24))),
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
    // Longer where the machine is busy with other things.
    while Instant::now() < end || (!shadow.is_enough() && Instant::now() < end + PATIENCE) {
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

fn check(policy: Policy, floor: u8) {
    let pools = pools(&POOLS.map(|(name, share)| (name, share, floor)));
    let curve = CostCurve::new(16, 1).unwrap();
    let config = config(policy, CAPACITY_MAX);
    let gate = Gate::new(GateConfig { pools, curve, ..config }).unwrap();
    let capacity = AtomicU64::new(CAPACITY_MAX);
    let shadow = Shadow { capacity, policy, floor, ..Shadow::default() };
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
    super::assert_idle(&gate);
    let usage = gate.usage();
    assert_eq!(usage.admitted, shadow.granted.load(SeqCst));
    assert_eq!(usage.epoch, epoch);
    let peak = if policy == Policy::Guaranteed {
        usage.claimed_peak_blocks
    } else {
        usage.held_peak_blocks
    };
    // Peaks of pools that lend need not have coincided.
    assert!(floor < 100 || peak.0 <= CAPACITY_MAX, "{usage:?}");
    assert!(shadow.is_enough());
    assert_eq!((Shadow::sum(&shadow.claimed), Shadow::sum(&shadow.held)), (0, 0));
}

#[test]
fn the_shadow_agrees_without_books() {
    check(Policy::Guaranteed, 100);
}

#[test]
fn the_shadow_agrees_where_claims_are_lent() {
    check(Policy::Guaranteed, 30);
}

#[test]
fn the_shadow_agrees_under_banker() {
    check(Policy::Banker, 100);
}

#[test]
fn the_shadow_agrees_under_banker_that_lends() {
    check(Policy::Banker, 30);
}

#[test]
fn the_last_blocks_go_to_as_many_as_fit() {
    let gate = super::gate(Policy::Guaranteed, 1000);
    let leases = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // A block each; four find none.
                for _ in 0..251 {
                    leases.lock().unwrap().extend(admit(&gate, 15, 1).ok());
                }
            });
        }
    });
    let usage = gate.usage();
    assert_eq!((usage.leases, usage.held_blocks.0), (1000, 1000));
    assert_eq!(usage.rejected[Reason::NoCapacity as usize], 4);
    std::thread::scope(|scope| {
        for lease in leases.into_inner().unwrap() {
            scope.spawn(move || drop(lease));
        }
    });
    super::assert_idle(&gate);
}

#[test]
fn threads_share_accounts_over_time_but_never_at_once() {
    let left_over = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let left_over = &left_over;
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..3_000 {
                    let gate = super::gate(Policy::Guaranteed, 100);
                    assert_eq!(gate.usage().claimed_blocks, Blocks(0), "another gate's account");
                    let lease = admit(&gate, 16 * (1 + random.below(50)), 160).unwrap();
                    assert_eq!(gate.usage().claimed_blocks, lease.claim());
                    // Some leases end after their gate, on whatever thread.
                    let ended = {
                        let mut bin = left_over.lock().unwrap();
                        bin.push(lease);
                        let index = random.below(bin.len() as u64) as usize;
                        (random.below(3) > 0).then(|| bin.swap_remove(index))
                    };
                    drop(gate);
                    drop(ended);
                }
            });
        }
    });
}
