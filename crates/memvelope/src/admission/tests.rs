//! The gate as a whole: a table of refusals, a naive model, threads.

use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn curve(block_tokens: u32, fixed_blocks: u32) -> CostCurve {
    CostCurve::new(block_tokens, fixed_blocks).unwrap()
}

fn gate(capacity: u64) -> Gate {
    Gate::new(GateConfig::new(Blocks(capacity), curve(16, 0))).unwrap()
}

fn pools(capacity: u64, pools: &[(&str, u32)]) -> crate::Result<Gate> {
    let pools = pools.iter().map(|&(name, share)| PoolConfig { name: name.into(), share });
    let config = GateConfig::new(Blocks(capacity), curve(16, 0));
    Gate::new(GateConfig { pools: pools.collect(), ..config })
}

fn admit(gate: &Gate, prompt: u64, max_new: u64) -> Result<Lease, Rejection> {
    gate.try_admit(Tokens(prompt), Some(Tokens(max_new)), None)
}

#[test]
fn refusals_say_why_by_how_much_and_when() {
    const MAX: u64 = i64::MAX as u64;
    let config = GateConfig::new(Blocks(100), curve(16, 0));
    let gate = Gate::new(GateConfig { max_tokens: Some(Tokens(800)), ..config }).unwrap();
    let wide = self::gate(100);
    // (gate, prompt, max_new, reason, short_by_tokens, has retry_after)
    let check = |gate: &Gate, prompt: u64, max_new: Option<u64>, reason, short, retry| {
        let refused = gate.try_admit(Tokens(prompt), max_new.map(Tokens), None).unwrap_err();
        assert_eq!(refused.reason, reason, "{prompt} + {max_new:?}");
        assert_eq!(refused.short_by_tokens, Tokens(short), "{prompt} + {max_new:?}");
        assert_eq!(refused.retry_after.is_some(), retry, "{prompt} + {max_new:?}");
    };
    let absurd = [0, MAX + 1, i64::MIN as u64, -1i64 as u64, u64::MAX];
    for bad in absurd {
        check(&wide, bad, Some(1), Reason::BadTokenCount, 0, false);
        check(&wide, 1, Some(bad), Reason::BadTokenCount, 0, false);
        check(&wide, bad, Some(bad), Reason::BadTokenCount, 0, false);
    }
    check(&wide, MAX, Some(1), Reason::BadTokenCount, 0, false);
    check(&wide, MAX, Some(MAX), Reason::BadTokenCount, 0, false);
    check(&wide, 1, None, Reason::NoMaximum, 0, false);
    check(&wide, MAX - 1, Some(1), Reason::TooLong, MAX - 1600, false);
    check(&wide, 1600, Some(1), Reason::TooLong, 1, false);
    check(&gate, 800, Some(1), Reason::TooLong, 1, false);
    let usage = wide.usage();
    assert_eq!(usage.rejected.iter().sum::<u64>(), 20, "{usage:?}");
    assert_eq!(usage.rejected[Reason::BadTokenCount as usize], 17);
    assert_eq!((usage.admitted, usage.claimed_blocks), (0, Blocks(0)));

    let _all = admit(&wide, 1500, 100).unwrap();
    check(&wide, 10, Some(7), Reason::NoCapacity, 17, true);
    let unknown = wide.try_admit(Tokens(1), Some(Tokens(1)), Some("batch")).unwrap_err();
    assert_eq!((unknown.reason, unknown.retry_after), (Reason::UnknownPool, None));
    assert_eq!(wide.usage().rejected[Reason::UnknownPool as usize], 1);
    let text = admit(&wide, 10, 7).unwrap_err().to_string();
    assert_eq!(text, "rejected: no capacity now, short by 17 tokens, try again in 1.00 s");
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.label());
    }
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let check = |config: GateConfig, argument: &str| {
        let error = Gate::new(config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("gate: {argument}: ")), "{error}");
    };
    let config = || GateConfig::new(Blocks(100), curve(16, 0));
    check(GateConfig::new(Blocks(1 << 31), curve(16, 0)), "capacity");
    check(GateConfig { max_tokens: Some(Tokens(0)), ..config() }, "max_tokens");
    check(GateConfig { max_tokens: Some(Tokens::MAX), ..config() }, "max_tokens");
    check(
        GateConfig { max_new_tokens_default: Some(Tokens(0)), ..config() },
        "max_new_tokens_default",
    );
    for wrong in [&[("", 1)][..], &[("a", 0)], &[("a", 1), ("a", 2)], &[("a", 1); 65]] {
        let error = pools(100, wrong).unwrap_err().to_string();
        assert!(error.starts_with("gate: pools: "), "{error}");
    }
    assert!(Gate::new(GateConfig::new(Blocks(0), curve(16, 0))).is_ok());
}

#[test]
fn a_lease_draws_from_its_claim_and_stops_at_its_maximum() {
    let gate = gate(100);
    let mut lease = admit(&gate, 17, 30).unwrap();
    assert_eq!((lease.held(), lease.claim()), (Blocks(2), Blocks(3)));
    assert_eq!(lease.grow(Tokens(0)), Ok(Blocks(0)));
    assert_eq!(lease.grow(Tokens(15)), Ok(Blocks(0)));
    assert_eq!(lease.grow(Tokens(1)), Ok(Blocks(1)));
    assert_eq!(gate.usage().held_blocks, Blocks(3));
    for (ask, past) in [(15, 1), (16, 2), (u64::MAX, u64::MAX - 14)] {
        let refused = PastMaximum { max_tokens: Tokens(47), past_by_tokens: Tokens(past) };
        assert_eq!(lease.grow(Tokens(ask)), Err(refused));
    }
    assert_eq!((lease.tokens(), lease.held()), (Tokens(33), Blocks(3)));
    assert_eq!(lease.grow(Tokens(14)), Ok(Blocks(0)));
    lease.release();
    let usage = gate.usage();
    assert_eq!((usage.held_blocks, usage.held_peak_blocks), (Blocks(0), Blocks(3)));
    assert_eq!((usage.leases, usage.admitted), (0, 1));
}

#[test]
fn a_panic_releases_and_a_lease_outlives_its_gate() {
    let gate = gate(100);
    let copy = gate.clone();
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _lease = admit(&copy, 100, 100).unwrap();
        panic!("the engine failed");
    }));
    assert!(died.is_err());
    assert_eq!(gate.usage().claimed_blocks, Blocks(0));
    let mut lease = admit(&gate, 100, 100).unwrap();
    drop((gate, copy));
    let other = self::gate(7);
    lease.grow(Tokens(100)).unwrap();
    drop(lease);
    assert_eq!(other.usage().held_blocks, Blocks(0));
    assert_eq!(other.usage().capacity_blocks, Blocks(7));
}

#[test]
fn a_shrunken_budget_admits_nothing_and_recovers_by_itself() {
    let gate = gate(100);
    let long = admit(&gate, 800, 160).unwrap();
    let short = admit(&gate, 16, 16).unwrap();
    assert!(gate.set_capacity(Blocks(50), 1));
    let refused = admit(&gate, 1, 1).unwrap_err();
    assert_eq!(refused.reason, Reason::Overcommitted);
    assert!(refused.retry_after.is_some());
    drop(long);
    let third = admit(&gate, 16 * 47, 16).unwrap();
    assert_eq!(admit(&gate, 1, 1).unwrap_err().reason, Reason::NoCapacity);
    drop((short, third));
    // To nothing and back: a request that fitted once is not told "never".
    assert!(gate.set_capacity(Blocks(0), 2));
    let refused = admit(&gate, 1, 1).unwrap_err();
    assert_eq!((refused.reason, refused.short_by_tokens), (Reason::Overcommitted, Tokens(2)));
    assert!(refused.retry_after.is_some());
    assert_eq!(admit(&gate, 1600, 1).unwrap_err().reason, Reason::TooLong);
    assert!(gate.set_capacity(Blocks(100), 3));
    assert!(admit(&gate, 1599, 1).is_ok());
}

#[test]
fn stale_epochs_change_nothing() {
    let gate = gate(100);
    for (blocks, epoch, taken) in [(1, 0, false), (80, 5, true), (90, 5, false), (90, 4, false)] {
        assert_eq!(gate.set_capacity(Blocks(blocks), epoch), taken, "epoch {epoch}");
    }
    assert_eq!((gate.usage().capacity_blocks, gate.usage().epoch), (Blocks(80), 5));
    assert!(gate.set_capacity(Blocks(u64::MAX), u64::MAX));
    assert_eq!(gate.usage().capacity_blocks, Blocks((1 << 31) - 1));
    assert!(!gate.set_capacity(Blocks(1), u64::MAX));
}

#[test]
fn pools_keep_their_shares_and_their_claims_apart() {
    let gate = pools(10, &[("short", 1), ("long", 2)]).unwrap();
    assert_eq!(gate.pool_names(), ["short", "long"]);
    let capacity = |name: &str| gate.pool_usage(name).unwrap().capacity_blocks.0;
    assert_eq!((capacity("short"), capacity("long")), (3, 7));
    let lease = gate.try_admit(Tokens(48), Some(Tokens(64)), Some("long")).unwrap();
    assert!(admit(&gate, 16, 32).is_ok(), "the default pool is the first, and empty");
    assert_eq!(admit(&gate, 16, 48).unwrap_err().reason, Reason::TooLong);
    assert_eq!(gate.pool_usage("long").unwrap().held_blocks, Blocks(3));
    assert!(gate.set_capacity(Blocks(101), 1));
    assert_eq!((capacity("short"), capacity("long")), (34, 67));
    assert_eq!(gate.usage().capacity_blocks, Blocks(101));
    assert_eq!(gate.usage().rejected[Reason::TooLong as usize], 1);
    assert!(gate.pool_usage("batch").is_none());
    drop(lease);
}

#[test]
fn retry_after_follows_the_rate_of_release() {
    let gate = gate(100);
    let _most = admit(&gate, 1, 16 * 90 - 1).unwrap();
    let wait = |tokens: u64| admit(&gate, 1, tokens - 1).unwrap_err().retry_after.unwrap();
    assert_eq!(wait(16 * 20), Nanos(Nanos::SECOND), "the default, before history");
    for step in 0..100 {
        gate.tick(Nanos(step * Nanos::SECOND));
        drop(admit(&gate, 1, 16 * 5 - 1).unwrap()); // five blocks a second
    }
    let seconds = |tokens: u64| wait(tokens).0 as f64 / 1e9;
    assert!((seconds(16 * 20) - 2.0).abs() < 0.01, "10 blocks short: {} s", seconds(16 * 20));
    assert!((seconds(16 * 90) - 16.0).abs() < 0.1, "80 blocks short: {} s", seconds(16 * 90));
}

/// What a caller may do to a gate.
#[derive(Clone, Copy, Debug)]
enum Step {
    Admit { prompt: u64, max_new: u64, pool: usize },
    Grow { lease: usize, tokens: u64 },
    Drop { lease: usize },
    Resize { blocks: u64, epoch: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..300, 0u64..300, 0usize..3)
            .prop_map(|(prompt, max_new, pool)| Step::Admit { prompt, max_new, pool }),
        4 => (any::<usize>(), 0u64..60).prop_map(|(lease, tokens)| Step::Grow { lease, tokens }),
        2 => any::<usize>().prop_map(|lease| Step::Drop { lease }),
        1 => (0u64..120, 0u64..40).prop_map(|(blocks, epoch)| Step::Resize { blocks, epoch }),
    ]
}

/// The naive gate: recomputes every sum from the list of leases.
struct Naive {
    capacity: [u64; 2],
    best: [u64; 2],
    epoch: u64,
    leases: Vec<(usize, u64, u64)>, // pool, tokens, maximum
    curve: CostCurve,
}

impl Naive {
    fn blocks(&self, tokens: u64) -> u64 {
        self.curve.blocks(Tokens(tokens)).0
    }

    fn claimed(&self, pool: usize) -> u64 {
        self.leases.iter().filter(|l| l.0 == pool).map(|l| self.blocks(l.2)).sum()
    }

    fn held(&self) -> u64 {
        self.leases.iter().map(|l| self.blocks(l.1)).sum()
    }

    fn admit(&mut self, prompt: u64, max_new: u64, pool: usize) -> Result<(), Reason> {
        if pool > 1 {
            return Err(Reason::UnknownPool);
        }
        if prompt == 0 || max_new == 0 {
            return Err(Reason::BadTokenCount);
        }
        let (claim, claimed) = (self.blocks(prompt + max_new), self.claimed(pool));
        if claimed + claim <= self.capacity[pool] {
            self.leases.push((pool, prompt, prompt + max_new));
            return Ok(());
        }
        Err(if claim > self.best[pool] {
            Reason::TooLong
        } else if claimed > self.capacity[pool] || claim > self.capacity[pool] {
            Reason::Overcommitted
        } else {
            Reason::NoCapacity
        })
    }

    fn resize(&mut self, blocks: u64, epoch: u64) -> bool {
        if epoch <= self.epoch {
            return false;
        }
        // Shares 1 and 1: the odd block goes to the first.
        self.capacity = [blocks.div_ceil(2), blocks / 2];
        self.best = [self.best[0].max(self.capacity[0]), self.best[1].max(self.capacity[1])];
        self.epoch = epoch;
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_gate_and_the_naive_model_agree(
        steps in prop::collection::vec(steps(), 1..120),
        block_tokens in 1u32..40,
        fixed in 0u32..3,
    ) {
        let names = ["a", "b", "missing"];
        let curve = curve(block_tokens, fixed);
        let config = GateConfig::new(Blocks(80), curve);
        let pools = names[..2].iter().map(|&n| PoolConfig { name: n.into(), share: 1 }).collect();
        let gate = Gate::new(GateConfig { pools, ..config }).unwrap();
        let mut naive =
            Naive { capacity: [40; 2], best: [40; 2], epoch: 0, leases: vec![], curve };
        let mut leases: Vec<Lease> = Vec::new();
        for step in steps {
            match step {
                Step::Admit { prompt, max_new, pool } => {
                    let got =
                        gate.try_admit(Tokens(prompt), Some(Tokens(max_new)), Some(names[pool]));
                    let expected = naive.admit(prompt, max_new, pool);
                    prop_assert_eq!(got.as_ref().err().map(|r| r.reason), expected.err());
                    leases.extend(got);
                }
                Step::Grow { lease, tokens } if !leases.is_empty() => {
                    let index = lease % leases.len();
                    let (_, now, max) = naive.leases[index];
                    let before = naive.held();
                    if now + tokens <= max {
                        naive.leases[index].1 += tokens;
                    }
                    let got = leases[index].grow(Tokens(tokens));
                    prop_assert_eq!(got.is_ok(), now + tokens <= max);
                    prop_assert_eq!(got.map_or(0, |b| b.0), naive.held() - before);
                }
                Step::Drop { lease } if !leases.is_empty() => {
                    let index = lease % leases.len();
                    naive.leases.swap_remove(index);
                    leases.swap_remove(index).release();
                }
                Step::Resize { blocks, epoch } => {
                    prop_assert_eq!(
                        gate.set_capacity(Blocks(blocks), epoch), naive.resize(blocks, epoch)
                    );
                }
                Step::Grow { .. } | Step::Drop { .. } => {}
            }
            let usage = gate.usage();
            prop_assert_eq!(usage.claimed_blocks.0, naive.claimed(0) + naive.claimed(1));
            prop_assert_eq!(usage.held_blocks.0, naive.held());
            prop_assert_eq!(usage.leases, naive.leases.len() as u64);
            prop_assert_eq!(usage.capacity_blocks.0, naive.capacity.iter().sum::<u64>());
        }
        drop(leases);
        let usage = gate.usage();
        prop_assert_eq!((usage.claimed_blocks.0, usage.held_blocks.0, usage.leases), (0, 0, 0));
    }
}

/// A seeded generator (splitmix64), so that a failing run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }
}

const CAPACITY_MAX: u64 = 400;

/// One thread's random admits, grows and drops; returns (admitted, released).
fn worker(gate: &Gate, seed: u64, operations: u32) -> (u64, u64) {
    let mut random = Random(seed);
    let mut leases: Vec<Lease> = Vec::new();
    let (mut admitted, mut released) = (0, 0);
    for _ in 0..operations {
        match random.below(8) {
            0..=3 => {
                if let Ok(lease) = admit(gate, 1 + random.below(500), 1 + random.below(500)) {
                    assert!(lease.held() <= lease.claim());
                    leases.push(lease);
                    admitted += 1;
                }
            }
            4..=5 if !leases.is_empty() => {
                let index = random.below(leases.len() as u64) as usize;
                let room = leases[index].max_tokens().0 - leases[index].tokens().0;
                let ask = random.below(40);
                let grown = leases[index].grow(Tokens(ask));
                assert_eq!(grown.is_ok(), ask <= room, "a claim is always enough to grow");
            }
            6..=7 if !leases.is_empty() => {
                let index = random.below(leases.len() as u64) as usize;
                leases.swap_remove(index).release();
                released += 1;
            }
            _ => {}
        }
    }
    released += leases.len() as u64;
    (admitted, released)
}

/// Moves the capacity up and down. Between two moves the sum of claims may only fall while it is
/// above the capacity in force, and must stay at or below it from then on: that is what "no grant
/// past the capacity in force" looks like from outside.
fn mover(gate: &Gate, is_over: &AtomicBool, moves: &AtomicU64) {
    let mut random = Random(99);
    let mut epoch = 0;
    while !is_over.load(Ordering::Relaxed) {
        let capacity = random.below(CAPACITY_MAX + 1);
        epoch += 1;
        assert!(gate.set_capacity(Blocks(capacity), epoch));
        assert!(!gate.set_capacity(Blocks(CAPACITY_MAX * 10), epoch - 1));
        let mut before = u64::MAX;
        for _ in 0..random.below(60) {
            let usage = gate.usage();
            let claimed = usage.claimed_blocks.0;
            assert!(usage.held_blocks <= usage.claimed_blocks);
            assert!(claimed <= capacity.max(before), "granted past {capacity}: {claimed}");
            before = claimed.max(capacity);
        }
        moves.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn threads_never_get_past_the_capacity_and_release_exactly_once() {
    for round in 0..4 {
        let gate = gate(CAPACITY_MAX);
        let (is_over, moves) = (AtomicBool::new(false), AtomicU64::new(0));
        let (admitted, released) = std::thread::scope(|scope| {
            let moving = scope.spawn(|| mover(&gate, &is_over, &moves));
            let gate = &gate;
            let workers: Vec<_> =
                (0..4).map(|n| scope.spawn(move || worker(gate, round * 10 + n, 60_000))).collect();
            let sums = workers.into_iter().map(|w| w.join().unwrap());
            let sums = sums.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            is_over.store(true, Ordering::Relaxed);
            moving.join().unwrap();
            sums
        });
        let usage = gate.usage();
        assert!(admitted > 0 && moves.load(Ordering::Relaxed) > 0);
        assert_eq!((usage.admitted, released), (admitted, admitted));
        assert_eq!((usage.claimed_blocks.0, usage.held_blocks.0, usage.leases), (0, 0, 0));
        assert!(usage.claimed_peak_blocks.0 <= CAPACITY_MAX, "{usage:?}");
        assert!(usage.held_peak_blocks <= usage.claimed_peak_blocks, "{usage:?}");
    }
}

#[test]
fn threads_fill_a_gate_to_the_last_block() {
    let gate = gate(1000);
    let leases = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Ok(lease) = admit(&gate, 1, 15) {
                    leases.lock().unwrap().push(lease);
                }
            });
        }
    });
    let usage = gate.usage();
    assert_eq!((usage.claimed_blocks.0, usage.leases), (1000, 1000));
    assert_eq!(usage.rejected[Reason::NoCapacity as usize], 4);
    std::thread::scope(|scope| {
        for lease in leases.into_inner().unwrap() {
            scope.spawn(move || drop(lease));
        }
    });
    assert_eq!(gate.usage().claimed_blocks.0, 0);
    assert_eq!(gate.usage().held_peak_blocks.0, 1000);
}

#[test]
fn threads_never_hold_more_than_the_capacity() {
    let gate = gate(20);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let gate = &gate;
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..20_000 {
                    // Such a lease holds its whole claim at once, so held = claimed throughout.
                    drop(admit(gate, 15 + 16 * random.below(12), 1));
                }
            });
        }
    });
    let usage = gate.usage();
    assert!(usage.held_peak_blocks.0 <= 20, "{usage:?}");
    assert_eq!((usage.claimed_blocks.0, usage.held_blocks.0, usage.leases), (0, 0, 0));
}

#[test]
fn threads_share_accounts_over_time_but_never_at_once() {
    let left_over = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let left_over = &left_over;
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..3_000 {
                    let gate = gate(100);
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
