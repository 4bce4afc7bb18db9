//! Each policy on small cases that were computed by hand. Blocks of 16 tokens throughout.

use super::*;
use crate::replay::workload::Job;

/// A request in the queue.
pub(crate) fn waiting(prompt: u32, output: u32) -> Sequence {
    declared(prompt, output, output)
}

/// The same, with more declared than it will produce.
fn declared(prompt: u32, output: u32, declared: u32) -> Sequence {
    let job = Job {
        arrival_s: 0.0,
        prompt_tokens: prompt,
        output_tokens: output,
        declared_tokens: declared,
        class: None,
    };
    Sequence::new(0, &job, 0.0)
}

/// A request that has decoded for a while.
pub(crate) fn running(prompt: u32, output: u32, generated: u32) -> Sequence {
    let mut sequence = waiting(prompt, output);
    sequence.generated = generated;
    sequence.kv = prompt + generated - 1;
    sequence.blocks = sequence.kv.div_ceil(16);
    sequence
}

pub(crate) fn view(running: &[Sequence], total_blocks: u32, free_blocks: u32) -> View<'_> {
    View {
        running,
        new: 0,
        free_blocks,
        total_blocks,
        block_tokens: 16,
        prefill_left_tokens: 1024,
        prefill_budget_tokens: 1024,
    }
}

fn setup() -> Setup {
    Setup {
        total_blocks: 10,
        block_tokens: 16,
        sequence_tokens: 64,
        watermark: 0.2,
        seed: 0,
        jobs: 8,
    }
}

#[test]
fn static_reserves_the_longest() {
    let mut policy = StaticMax::new(64);
    let all = vec![running(1, 2, 1); 2];
    assert_eq!(policy.admit(&waiting(1, 1), &view(&all[..1], 10, 9)), Answer::Admit);
    assert_eq!(policy.admit(&waiting(1, 1), &view(&all, 10, 8)), Answer::Wait);
}

#[test]
fn sum_reserves_prompt_and_maximum() {
    let mut policy = SumMax::default();
    // 16 + 49 tokens are 5 blocks, however short the output is.
    let head = declared(16, 1, 49);
    assert_eq!(policy.admit(&head, &view(&[], 10, 10)), Answer::Admit);
    assert_eq!(policy.admit(&head, &view(&[], 10, 9)), Answer::Admit);
    assert_eq!(policy.admit(&waiting(1, 1), &view(&[], 10, 8)), Answer::Wait);
    policy.leaves(&head, Leaving::Finished);
    assert_eq!(policy.admit(&waiting(1, 1), &view(&[], 10, 9)), Answer::Admit);
}

#[test]
fn vllm_looks_at_the_prompt_and_the_watermark() {
    let mut policy = Vllm::new(0.2, 10);
    let all = [running(16, 100, 1)];
    assert_eq!(policy.admit(&waiting(32, 9999), &view(&all, 10, 4)), Answer::Admit);
    assert_eq!(policy.admit(&waiting(33, 9999), &view(&all, 10, 4)), Answer::Wait);
    // The first one is never blocked by the watermark.
    assert_eq!(policy.admit(&waiting(160, 9999), &view(&[], 10, 10)), Answer::Admit);
    assert_eq!(policy.victim(&[running(1, 9, 5), running(1, 9, 1), running(1, 9, 3)]), 2);
}

#[test]
fn sglang_takes_a_share_of_what_is_declared() {
    let mut policy = SgLang::default();
    let all = [running(16, 101, 1)];
    // 160 free - 0.7 · 100 = 90; 16 + 73 is less, 16 + 74 is not.
    assert_eq!(policy.admit(&waiting(16, 73), &view(&all, 20, 10)), Answer::Admit);
    assert_eq!(policy.admit(&waiting(16, 74), &view(&all, 20, 10)), Answer::Wait);
    // Admitted in this step, it counts whole: 160 - 100 = 60.
    let now = View { new: 1, ..view(&all, 20, 10) };
    assert_eq!(policy.admit(&waiting(16, 43), &now), Answer::Admit);
    assert_eq!(policy.admit(&waiting(16, 44), &now), Answer::Wait);
    // No more than 4096 of a maximum count: 4112 < 4128.
    assert_eq!(policy.admit(&waiting(16, 9999), &view(&all, 300, 263)), Answer::Admit);
    for _ in 0..1000 {
        policy.tick(0.0, &all);
    }
    // At its lowest: 160 - 9.8 = 150.2.
    assert_eq!(policy.admit(&waiting(16, 134), &view(&all, 20, 10)), Answer::Admit);
    assert_eq!(policy.admit(&waiting(16, 135), &view(&all, 20, 10)), Answer::Wait);
    // Retracted: fewest outputs first, then the longest prompt.
    let all = [running(5, 100, 3), running(5, 100, 2), running(9, 100, 2), running(1, 100, 50)];
    assert_eq!(policy.victim(&all), 2);
    assert_eq!(policy.spare_blocks(&all, 16), 5);
    policy.retracted(&all);
    // (57 + 80) / 401.
    assert!((policy.ratio() - 137.0 / 401.0).abs() < 1e-12);
}

#[test]
fn lightllm_adds_up_the_future() {
    // One at 15 tokens with 17 to come: 32 tokens. The head: 16, and then 15 more by its last step.
    let all = [running(15, 18, 1)];
    let head = declared(16, 5, 16);
    let mut policy = LightLlm::new(0.0);
    assert_eq!(policy.admit(&head, &view(&all, 4, 3)), Answer::Admit);
    assert_eq!(policy.admit(&head, &view(&all, 3, 2)), Answer::Wait);
    // Not busy, and 2048 tokens are expected at first, so maxima count: 15 + 48 tokens of the head
    // alone at its end, and two blocks of each when the other one ends.
    let mut policy = LightLlm::new(1.0);
    assert_eq!(policy.admit(&declared(16, 5, 48), &view(&all, 4, 3)), Answer::Admit);
    assert_eq!(policy.admit(&declared(16, 5, 48), &view(&all, 3, 2)), Answer::Wait);
    for _ in 0..200 {
        policy.leaves(&running(1, 64, 64), Leaving::Finished);
    }
    // Outputs were 64 tokens, so the head comes to 15 + 64: five blocks.
    assert_eq!(policy.admit(&declared(16, 5, 4096), &view(&all, 5, 4)), Answer::Admit);
    assert_eq!(policy.admit(&declared(16, 5, 4096), &view(&all, 4, 3)), Answer::Wait);
}

#[test]
fn past_future_draws_from_the_past() {
    let mut policy = PastFuture::new(0.0, &setup());
    let all = [running(16, 200, 1)];
    // It knows nothing yet, so maxima count: 16 + 199 and more.
    assert_eq!(policy.admit(&waiting(16, 8), &view(&all, 10, 9)), Answer::Wait);
    for _ in 0..2000 {
        policy.leaves(&running(1, 16, 16), Leaving::Finished);
    }
    // Everything was 16 long: 31 tokens each, 4 blocks.
    assert_eq!(policy.admit(&declared(16, 8, 200), &view(&all, 10, 9)), Answer::Admit);
    let mut kept = PastFuture::new(0.65, &setup());
    kept.leaves(&running(1, 16, 16), Leaving::Finished);
    assert_eq!(kept.admit(&declared(16, 8, 200), &view(&all, 10, 9)), Answer::Wait);
    // Longer than anything in the past: its maximum counts.
    let old = [running(16, 200, 20)];
    assert_eq!(policy.admit(&declared(16, 8, 200), &view(&old, 10, 7)), Answer::Wait);
}

#[test]
fn the_oracle_knows_the_end() {
    let mut policy = Oracle::default();
    // Declared is huge and does not matter; 15 + 17 tokens and 16 + 15.
    let all = [running(15, 18, 1)];
    assert_eq!(policy.admit(&declared(16, 16, 9999), &view(&all, 4, 3)), Answer::Admit);
    assert_eq!(policy.admit(&declared(16, 16, 9999), &view(&all, 3, 2)), Answer::Wait);
    // It ends before the other one needs its second block, but a block is needed at once.
    assert_eq!(policy.admit(&declared(16, 1, 9999), &view(&all, 2, 1)), Answer::Admit);
}

#[test]
fn the_gate_holds_a_lease_for_each() {
    let mut policy = Gated::guaranteed(&setup()).unwrap();
    let mut head = declared(16, 8, 48);
    let all = view(&[], 10, 10);
    assert_eq!(policy.admit(&head, &all), Answer::Admit);
    let mut second = declared(16, 8, 48);
    second.job = 1;
    assert_eq!(policy.admit(&second, &all), Answer::Admit);
    let mut third = declared(16, 8, 17);
    third.job = 2;
    assert_eq!(policy.admit(&third, &all), Answer::Wait);
    third = declared(1, 1, 4000);
    assert_eq!(policy.admit(&third, &all), Answer::Never);
    for kv in [16, 32, 48] {
        head.kv = kv;
        assert_eq!(policy.grow(&head), Growth::Granted);
    }
    policy.leaves(&head, Leaving::Finished);
    third = declared(16, 8, 17);
    assert_eq!(policy.admit(&third, &all), Answer::Admit);
}
