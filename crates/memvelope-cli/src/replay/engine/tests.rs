//! Invariants of the step loop, and runs that were computed by hand.

use super::*;
use crate::replay::policy::{Kind, Setup};
use crate::replay::workload::Job;
use rand::RngExt;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;

const BLOCK_TOKENS: u32 = 16;

/// A machine whose steps take a second each, whatever is in them.
fn seconds() -> Machine {
    let mut machine = Machine::named("8b-h100").unwrap();
    (machine.step_ms, machine.sequence_us, machine.kv_token_ns) = (1000.0, 0.0, 0.0);
    (machine.prefill_token_us, machine.prefill_context_ns) = (0.0, 0.0);
    machine.tpot_limit_ms = 1000.0;
    machine
}

fn rules(total_blocks: u32) -> Rules {
    Rules {
        block_tokens: BLOCK_TOKENS,
        total_blocks,
        max_batch: 16,
        prefill_budget_tokens: 64,
        timeout_factor: None,
    }
}

fn job(arrival_s: f64, prompt_tokens: u32, output_tokens: u32, declared_tokens: u32) -> Job {
    Job { arrival_s, prompt_tokens, output_tokens, declared_tokens, class: None }
}

fn workload(jobs: &[Job]) -> Workload {
    Workload { jobs: jobs.to_vec(), ..Workload::default() }
}

fn setup(rules: &Rules, jobs: usize) -> Setup {
    Setup {
        total_blocks: rules.total_blocks,
        block_tokens: rules.block_tokens,
        sequence_tokens: rules.total_blocks * rules.block_tokens,
        watermark: 0.0,
        seed: 1,
        jobs,
    }
}

/// Runs step by step and looks at every one.
fn check(kind: Kind, machine: &Machine, rules: Rules, workload: &Workload) -> Tally {
    let mut policy = kind.open(&setup(&rules, workload.jobs.len())).unwrap();
    let mut engine = Engine::new(rules, machine, workload, policy.as_mut());
    while engine.advance() {
        let held: u32 = engine.running.iter().map(|sequence| sequence.blocks).sum();
        assert_eq!(engine.used_blocks, held, "{kind:?}: blocks in use are those of the sequences");
        assert!(held <= rules.total_blocks, "{kind:?}");
        assert!(engine.running.len() <= rules.max_batch as usize, "{kind:?}");
        let in_prefill = engine.running.iter().filter(|sequence| !sequence.is_decoding()).count();
        assert_eq!(engine.prefilling as usize, in_prefill, "{kind:?}");
        for sequence in &engine.running {
            assert!(sequence.kv <= sequence.blocks * BLOCK_TOKENS, "{kind:?}: {sequence:?}");
            assert!(sequence.generated < sequence.output, "{kind:?}: {sequence:?}");
            if sequence.is_decoding() {
                let room = sequence.blocks * BLOCK_TOKENS - sequence.kv;
                assert_eq!(sequence.room, room, "{kind:?}: {sequence:?}");
            }
        }
        assert!(engine.queue.iter().all(|sequence| sequence.blocks == 0), "{kind:?}");
    }
    let mut tally = engine.tally;
    tally.end_s = engine.now_s;
    let ended = tally.completed + tally.shed + tally.refused;
    assert_eq!(ended, workload.jobs.len() as u64, "{kind:?}: every request ends exactly once");
    tally
}

/// Requests that a cache of 40 blocks cannot take at once.
fn crowd(seed: u64) -> Workload {
    let mut random = Pcg64::seed_from_u64(seed);
    let mut now_s = 0.0;
    let jobs = (0..120).map(|_| {
        now_s += random.random_range(0.0..6.0);
        let declared = random.random_range(1..=200);
        let output = random.random_range(1..=declared);
        job(now_s, random.random_range(1..=200), output, declared)
    });
    workload(&jobs.collect::<Vec<_>>())
}

#[test]
fn every_policy_keeps_the_books() {
    for seed in 0..10 {
        let crowd = crowd(seed);
        for (kind, ..) in Kind::ALL {
            for timeout_factor in [None, Some(2.0)] {
                let rules = Rules { timeout_factor, ..rules(40) };
                let tally = check(kind, &seconds(), rules, &crowd);
                let is_safe = matches!(
                    kind,
                    Kind::StaticMax
                        | Kind::SumMax
                        | Kind::LightLlmZero
                        | Kind::Guaranteed
                        | Kind::Oracle
                );
                if is_safe {
                    assert_eq!((tally.overruns, tally.preemptions), (0, 0), "{kind:?} {seed}");
                }
                assert_eq!(tally.standstills, 0, "{kind:?} {seed}");
                let paid = crowd.jobs.iter().map(|job| u64::from(job.output_tokens)).sum::<u64>();
                if tally.shed + tally.refused == 0 {
                    assert_eq!(tally.output_tokens, paid, "{kind:?}: no token twice");
                } else {
                    assert!(tally.output_tokens < paid, "{kind:?}");
                }
            }
        }
    }
}

#[test]
fn the_gate_that_guarantees_decides_as_the_sum_does() {
    for seed in 0..5 {
        let crowd = crowd(seed);
        let run = |kind| check(kind, &seconds(), rules(40), &crowd).figures();
        assert_eq!(run(Kind::Guaranteed), run(Kind::SumMax), "{seed}");
    }
}

#[test]
fn a_closed_loop_keeps_its_number() {
    let mut all = crowd(3);
    all.concurrency = Some(4);
    let tally = check(Kind::Vllm, &seconds(), rules(400), &all);
    assert_eq!((tally.completed, tally.running_peak), (120, 4));
}

/// 100 prompt tokens at 64 a step: the first token after two steps, the tenth after eleven.
#[test]
fn one_request_takes_its_steps() {
    let tally = check(Kind::Vllm, &seconds(), rules(10), &workload(&[job(5.0, 100, 10, 10)]));
    let figures = tally.figures();
    assert_eq!((figures.steps, figures.ttft_p50_s, figures.makespan_s), (11.0, 2.0, 16.0));
    assert_eq!((figures.worst_gap_max_s, figures.good), (1.0, 1.0));
    // Seven blocks hold 112 tokens, and it never has more than 109.
    assert!((figures.kv_used_percent - 70.0).abs() < 1e-9);
}

/// Two prompts of a block each in three blocks: both start, the second finds no block for its
/// second token, is preempted and computed again when the first one has ended.
#[test]
fn the_newest_is_preempted_and_recomputed() {
    let both = [job(0.0, 16, 17, 17), job(0.0, 16, 17, 17)];
    let tally = check(Kind::Vllm, &seconds(), rules(3), &workload(&both));
    assert_eq!((tally.preemptions, tally.overruns, tally.completed), (1, 1, 2));
    // 17 steps of the first. The second had one token, does 16 + 1 of prompt in the eighteenth
    // step, which emits its second, and has 15 to go.
    let figures = tally.figures();
    assert_eq!((figures.steps, figures.worst_gap_max_s), (33.0, 17.0));
    // The oracle starts the second in the last step of the first: then three blocks do.
    let tally = check(Kind::Oracle, &seconds(), rules(3), &workload(&both));
    assert_eq!((tally.preemptions, tally.completed, tally.steps), (0, 2, 33));
}

#[test]
fn a_request_that_waits_too_long_is_shed_and_one_that_ran_is_not() {
    let both = [job(0.0, 16, 200, 200), job(0.0, 16, 200, 200)];
    // The limit is 2 + 5 · 1 s; the second starts after 200.
    let rules = Rules { timeout_factor: Some(1.0), ..rules(14) };
    let tally = check(Kind::SumMax, &seconds(), rules, &workload(&both));
    assert_eq!((tally.shed, tally.completed, tally.good), (1, 1, 1));
    // vLLM starts both; the one that is preempted comes back.
    let tally = check(Kind::Vllm, &seconds(), rules, &workload(&both));
    assert_eq!((tally.shed, tally.completed), (0, 2));
    assert!(tally.preemptions > 0);
}

/// A policy that grows nobody: nothing can go on until somebody gives way.
#[derive(Debug)]
struct Stubborn;

impl Policy for Stubborn {
    fn admit(&mut self, _head: &Sequence, view: &View<'_>) -> Answer {
        if view.running.len() < 2 { Answer::Admit } else { Answer::Wait }
    }

    fn grow(&mut self, sequence: &Sequence) -> Growth {
        if sequence.job == 0 { Growth::Granted } else { Growth::Wait }
    }
}

#[test]
fn a_pause_keeps_the_blocks_and_a_standstill_ends() {
    let both = workload(&[job(0.0, 16, 40, 40), job(0.0, 16, 17, 17)]);
    let (mut policy, machine) = (Stubborn, seconds());
    let tally = Engine::new(rules(10), &machine, &both, &mut policy).run();
    // The second pauses from its second token on while the first decodes 39 more; then it stands
    // still, is preempted, and starts again with the two blocks of 17 tokens.
    assert_eq!((tally.paused, tally.standstills, tally.preemptions), (40, 1, 1));
    assert_eq!((tally.completed, tally.overruns), (2, 0));
}

#[test]
fn an_empty_replica_that_refuses_drops_the_request() {
    let tally = check(
        Kind::SumMax,
        &seconds(),
        rules(3),
        &workload(&[job(0.0, 16, 1, 99), job(0.0, 1, 1, 1)]),
    );
    assert_eq!((tally.refused, tally.completed), (1, 1));
}
