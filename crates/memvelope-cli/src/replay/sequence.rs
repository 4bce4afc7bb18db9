//! One request on its way through the replica.

use super::workload::Job;

/// What a sequence does in the step that is being put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing that emits: it waits for a block, or its prompt is not through.
    Rest,
    /// Its prompt is finished in this step, which emits a token without writing its KV.
    First,
    /// It decodes: one token is written into the KV cache, one is emitted.
    Decode,
}

/// A request in the queue or running.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Its number in the workload.
    pub(crate) job: u32,
    /// Index of its class.
    pub(crate) class: Option<u32>,
    /// Tokens of its prompt.
    pub(crate) prompt: u32,
    /// Output tokens that it will have at its end. Only the oracle may look.
    pub(crate) output: u32,
    /// Output tokens that its client declared as the most.
    pub(crate) declared: u32,
    /// Output tokens emitted.
    pub(crate) generated: u32,
    /// Tokens whose KV is in the cache.
    pub(crate) kv: u32,
    /// Tokens to prefill before it decodes: the prompt, and what it had emitted when preempted.
    pub(crate) target: u32,
    /// Blocks taken.
    pub(crate) blocks: u32,
    /// Tokens for which its last block still has room.
    pub(crate) room: u32,
    /// What it does in this step.
    pub(crate) turn: Turn,
    /// Whether it takes a block in this step.
    pub(crate) takes_block: bool,
    /// Whether it ever held KV: the timeout of the queue is for those that never did.
    pub(crate) is_started: bool,
    /// When it arrived, got its first and its latest token; the longest time between two tokens.
    pub(crate) arrival_s: f64,
    pub(crate) first_s: f64,
    pub(crate) latest_s: f64,
    pub(crate) worst_gap_s: f64,
}

impl Sequence {
    /// A request that has just arrived.
    pub(crate) fn new(job: u32, from: &Job, arrival_s: f64) -> Self {
        Self {
            job,
            class: from.class,
            prompt: from.prompt_tokens,
            output: from.output_tokens,
            declared: from.declared_tokens,
            generated: 0,
            kv: 0,
            target: from.prompt_tokens,
            blocks: 0,
            room: 0,
            turn: Turn::Rest,
            takes_block: false,
            is_started: false,
            arrival_s,
            first_s: 0.0,
            latest_s: 0.0,
            worst_gap_s: 0.0,
        }
    }

    /// Takes the blocks of what is to be prefilled.
    pub(crate) fn bind(&mut self, blocks: u32, block_tokens: u32) {
        self.blocks = blocks;
        self.room = blocks * block_tokens - self.target;
        self.kv = 0;
        self.is_started = true;
    }

    /// Loses its KV: everything known is to be prefilled again.
    pub(crate) fn unbind(&mut self) {
        self.target = self.prompt + self.generated;
        (self.kv, self.blocks, self.room) = (0, 0, 0);
        (self.turn, self.takes_block) = (Turn::Rest, false);
    }

    /// Whether its prompt is through.
    pub(crate) const fn is_decoding(&self) -> bool {
        self.kv >= self.target
    }

    /// Output tokens that its client may still get.
    pub(crate) const fn declared_left(&self) -> u32 {
        self.declared - self.generated
    }
}
