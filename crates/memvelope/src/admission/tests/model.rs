//! Random steps against the naive gate, under every policy: a million in a release build.

use super::super::*;
use super::naive::{MAX_MODEL_LEN, NAMES, Naive, NaiveAsk, SHARES};
use crate::units::{Blocks, CostCurve, Nanos, Tokens};
use proptest::prelude::*;

/// Runs of up to [`STEPS_MAX`] steps for each policy. A debug build shows that it works; a million
/// steps in all are for a release build.
const CASES: u32 = if cfg!(debug_assertions) { 48 } else { 2000 };
const STEPS_MAX: usize = 240;
/// So few that they are sometimes all taken.
const LEASES_MAX: u32 = 24;

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit { prompt: u64, new: u64, pool: usize, prefix: Option<(u64, u64)> },
    Grow { lease: usize, tokens: u64 },
    Prefill { lease: usize, tokens: u64 },
    End { lease: usize, is_preempted: bool },
    Resize { blocks: u64, epoch: u64 },
    Tick { millis: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lease = 0usize..1000;
    let prefix = prop_oneof![2 => Just(None), 1 => (0u64..3, 1u64..200).prop_map(Some)];
    let admit =
        (0u64..200, 0u64..320, 0usize..30, prefix).prop_map(|(prompt, new, pool, prefix)| {
            // One in thirty asks for a pool that does not exist.
            let pool = if pool == 29 { 3 } else { pool % 3 };
            Step::Admit { prompt, new, pool, prefix }
        });
    let step = prop_oneof![
        8 => admit,
        10 => (lease.clone(), 0u64..60).prop_map(|(lease, tokens)| Step::Grow { lease, tokens }),
        2 => (lease.clone(), 0u64..100).prop_map(|(lease, tokens)| Step::Prefill { lease, tokens }),
        4 => (lease, prop::bool::weighted(0.2))
            .prop_map(|(lease, is_preempted)| Step::End { lease, is_preempted }),
        1 => (0u64..160, 0u64..60).prop_map(|(blocks, epoch)| Step::Resize { blocks, epoch }),
        1 => (0u64..50).prop_map(|millis| Step::Tick { millis }),
    ];
    prop::collection::vec(step, 1..STEPS_MAX)
}

/// A gate and its naive double.
struct Pair {
    gate: Gate,
    naive: Naive,
    leases: Vec<Lease>,
    now: Nanos,
    rejected: u64,
    has_estimate: bool,
}

type Outcome = Result<(), TestCaseError>;

impl Pair {
    fn new(policy: Policy, floors: [u8; 3], has_estimate: bool, curve: CostCurve) -> Self {
        let pools = (0..3).map(|pool| PoolConfig {
            name: NAMES[pool].into(),
            share: SHARES[pool],
            floor_percent: floors[pool],
        });
        let gate = Gate::new(GateConfig {
            policy,
            estimate: has_estimate.then(Estimate::default),
            pools: pools.collect(),
            leases_max: LEASES_MAX,
            ..GateConfig::new(Blocks(100), curve, Tokens(MAX_MODEL_LEN))
        });
        Self {
            gate: gate.unwrap(),
            naive: Naive::new(policy, curve, floors, 100, LEASES_MAX as usize),
            leases: Vec::new(),
            now: Nanos::ZERO,
            rejected: 0,
            has_estimate,
        }
    }

    fn step(&mut self, step: Step) -> Outcome {
        let count = self.leases.len().max(1);
        let is_empty = self.leases.is_empty();
        match step {
            Step::Admit { prompt, new, pool, prefix } => {
                // With an estimate a newcomer may come in without the prefix that it asked for, and
                // which of both it was is the estimate's to know.
                let prefix = prefix.filter(|_| !self.has_estimate);
                self.admit(&NaiveAsk { prompt, new, pool, prefix })?;
            }
            Step::Grow { lease, tokens } if !is_empty => self.grow(lease % count, tokens)?,
            Step::Prefill { lease, tokens } if !is_empty => {
                self.leases[lease % count].prefill(Tokens(tokens));
                if !self.naive.is_lock_free() {
                    self.naive.prefill(lease % count, tokens);
                }
            }
            Step::End { lease, is_preempted } if !is_empty => {
                let ended = self.leases.swap_remove(lease % count);
                self.naive.leases.swap_remove(lease % count);
                if is_preempted {
                    let _ = ended.preempt();
                    self.naive.preempted += u64::from(!self.naive.is_lock_free());
                }
            }
            Step::Resize { blocks, epoch } => {
                let is_new = self.gate.set_capacity(Blocks(blocks), epoch);
                prop_assert_eq!(is_new, self.naive.resize(blocks, epoch));
            }
            Step::Tick { millis } => {
                self.now = Nanos(self.now.0 + millis * Nanos::MILLI);
                self.gate.tick(self.now);
            }
            Step::Grow { .. } | Step::Prefill { .. } | Step::End { .. } => {}
        }
        self.compare()
    }

    fn admit(&mut self, ask: &NaiveAsk) -> Outcome {
        let mut request = Request::new(Tokens(ask.prompt), Some(Tokens(ask.new)));
        request = request.in_pool(NAMES[ask.pool]).of_class(NAMES[ask.prompt as usize % 4]);
        if let Some((id, tokens)) = ask.prefix {
            request = request.with_prefix(id, Tokens(tokens));
        }
        let explained = self.gate.explain(&request);
        let got = self.gate.try_admit(&request);
        let reason = got.as_ref().err().map(|rejection| rejection.reason);
        prop_assert_eq!(explained.reason, reason, "{}", explained);
        prop_assert_eq!(explained.is_admitted, reason.is_none());
        let is_predicted = reason == Some(Reason::Predicted);
        prop_assert!(self.has_estimate || !is_predicted);
        if is_predicted {
            let claim = self.naive.curve.blocks(Tokens(ask.prompt + ask.new)).0;
            let all = self.naive.claimed_in(ask.pool) + claim;
            prop_assert!(all > self.naive.capacity[ask.pool], "{all} can do no harm");
        }
        if self.has_estimate && got.is_ok() {
            let usage = self.gate.pool_usage(NAMES[ask.pool]);
            self.naive.found = usage.map(|usage| usage.capacity_blocks.0);
        }
        prop_assert_eq!(reason, self.naive.admit(ask, is_predicted).err());
        self.rejected += u64::from(reason.is_some());
        if let Ok(lease) = got {
            prop_assert!(!self.naive.is_overcommitted(ask.pool), "granted, and not safe");
            self.leases.push(lease);
        }
        Ok(())
    }

    fn grow(&mut self, index: usize, tokens: u64) -> Outcome {
        let (pool, need) = {
            let lease = &self.naive.leases[index];
            (lease.pool, self.naive.need(lease))
        };
        let was_overcommitted = self.naive.is_overcommitted(pool);
        let smallest = self.naive.of(pool).map(|l| self.naive.need(l)).min();
        let explained = self.leases[index].explain(Tokens(tokens));
        let got = self.leases[index].grow(Tokens(tokens));
        prop_assert_eq!(got.ok(), self.naive.grow(index, tokens));
        let is_granted = got.is_ok_and(Growth::is_granted);
        prop_assert_eq!(explained.is_granted, is_granted, "{:?}", explained);
        let is_banker = self.naive.policy == Policy::Banker;
        if is_banker && !was_overcommitted && smallest == Some(need) && got.is_ok() {
            prop_assert!(is_granted, "the one with the smallest need had to wait");
        }
        if is_granted && !was_overcommitted {
            prop_assert!(!self.naive.is_overcommitted(pool), "granted, and not safe");
        }
        Ok(())
    }

    fn compare(&self) -> Outcome {
        let naive = &self.naive;
        let mut released = 0;
        for (pool, name) in NAMES[..3].iter().enumerate() {
            let usage = self.gate.pool_usage(name).unwrap();
            prop_assert_eq!(usage.capacity_blocks.0, naive.capacity[pool], "pool {}", name);
            prop_assert_eq!(usage.held_blocks.0, naive.held_in(pool), "pool {}", name);
            prop_assert_eq!(usage.claimed_blocks.0, naive.claimed_in(pool), "pool {}", name);
            prop_assert_eq!(usage.shared_blocks.0, naive.shared(pool), "pool {}", name);
            prop_assert_eq!(usage.reserved_blocks.0, naive.reserved_in(pool), "pool {}", name);
            prop_assert_eq!(usage.leases, naive.of(pool).count() as u64);
            prop_assert_eq!(usage.is_overcommitted, naive.is_overcommitted(pool));
            prop_assert!(usage.is_overcommitted || usage.held_blocks <= usage.capacity_blocks);
            prop_assert_eq!(usage.released, usage.admitted - usage.leases);
            released += usage.released;
        }
        let usage = self.gate.usage();
        prop_assert_eq!(usage.admitted, released + naive.leases.len() as u64);
        prop_assert_eq!(usage.waits, naive.waits);
        prop_assert_eq!(usage.preempted, naive.preempted);
        prop_assert_eq!(usage.rejected.iter().sum::<u64>(), self.rejected);
        self.compare_victims()
    }

    /// Victims are enough when, and as soon as, promises hold again without them. Where leases
    /// share a prefix they may be enough before it is said.
    fn compare_victims(&self) -> Outcome {
        let victims = self.gate.victims();
        for (pool, name) in NAMES[..3].iter().enumerate() {
            let mut left = self.naive.clone();
            let is_plain = left.shared(pool) == 0;
            let is_optimistic = matches!(left.policy, Policy::Optimistic { .. });
            for victim in victims.iter().filter(|victim| victim.pool == *name) {
                let serial = |lease: &Lease| lease.serial() == Some(victim.serial);
                let index = self.leases.iter().position(serial).unwrap();
                let gone = self.naive.leases[index].serial;
                left.leases.retain(|lease| lease.serial != gone);
                let capacity = left.capacity[pool].saturating_sub(u64::from(is_optimistic));
                let is_enough = left.is_ok(pool, capacity) && left.capacity[pool] > 0;
                if is_plain && left.capacity[pool] > 0 {
                    prop_assert_eq!(victim.is_enough, is_enough, "{:?}", victim);
                } else {
                    prop_assert!(is_enough || !victim.is_enough || left.capacity[pool] == 0);
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Outcome {
        self.leases.clear();
        self.naive.leases.clear();
        self.compare()?;
        let usage = self.gate.usage();
        prop_assert_eq!((usage.held_blocks.0, usage.claimed_blocks.0, usage.leases), (0, 0, 0));
        prop_assert_eq!((usage.shared_blocks.0, usage.reserved_blocks.0), (0, 0));
        Ok(())
    }
}

const OWN: [u8; 3] = [100; 3];
const LENT: [u8; 3] = [50, 0, 100];

fn check(policy: Policy, floors: [u8; 3], has_estimate: bool) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let taken = std::cell::Cell::new(0);
    proptest!(config, |(steps in steps(), block_tokens in 1u32..40, fixed in 0u32..3)| {
        let curve = CostCurve::new(block_tokens, fixed).unwrap();
        let mut pair = Pair::new(policy, floors, has_estimate, curve);
        let steps_taken = steps.len();
        for step in steps {
            pair.step(step)?;
        }
        pair.finish()?;
        taken.set(taken.get() + steps_taken);
    });
    println!("{policy:?}, floors {floors:?}, estimate {has_estimate}: {} steps", taken.get());
}

#[test]
fn guaranteed_without_books() {
    check(Policy::Guaranteed, OWN, false);
}

#[test]
fn guaranteed_that_lends() {
    check(Policy::Guaranteed, LENT, false);
}

#[test]
fn banker() {
    check(Policy::Banker, OWN, false);
}

#[test]
fn banker_that_lends() {
    check(Policy::Banker, LENT, false);
}

#[test]
fn banker_with_an_estimate() {
    check(Policy::Banker, OWN, true);
}

#[test]
fn banker_that_lends_with_an_estimate() {
    check(Policy::Banker, LENT, true);
}

#[test]
fn optimistic() {
    check(Policy::Optimistic { watermark: 0.05 }, OWN, false);
}

#[test]
fn optimistic_that_lends() {
    check(Policy::Optimistic { watermark: 0.1 }, LENT, false);
}
