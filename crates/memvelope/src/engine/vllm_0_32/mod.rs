//! vLLM 0.32: from a model and its options to blocks, tokens and concurrency, as it computes them
//! at startup.
//!
//! * [`Command`]: the command line of `vllm serve`.
//! * `defaults`: batch limits and block sizes where the operator says nothing.
//! * `backend`, `kernel`: which attention kernels serve a layer, and what blocks they take.
//! * `layers`: the cache of each layer, as a [`Spec`].
//! * `hybrid`: one page size for attention and state layers.
//! * `cpu`: what is different on a processor.
//! * `groups`, `packed`: which layers share a block table, and what a block takes.

mod backend;
mod command;
mod cpu;
mod defaults;
mod groups;
mod hybrid;
mod kernel;
mod layers;
mod packed;
mod parameters;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod rule_tests;
mod spec;

pub use backend::Backend;
pub use command::Command;
pub use spec::{Role, Spec};

use super::DeviceKind;
use super::params::{KvDtype, Params};
use crate::model::cache::{Cache, CacheKind};
use crate::model::{Layout, Refusal, RefusalRule};
use crate::units::{Blocks, Bytes, CostCurve, CostTerm, Tokens};
use groups::{LayerGroup, PoolLayout};
use serde::Serialize;

/// The version of the engine whose rules these are.
pub const VERSION: &str = "0.32.0";

/// What vLLM decided about a model, before it knows how much memory there is.
#[derive(Clone, Debug)]
pub struct Vllm {
    groups: Vec<LayerGroup>,
    pool: PoolLayout,
    resolved: Resolved,
}

/// What vLLM resolved from the options and the model.
#[derive(Clone, Debug, Serialize)]
pub struct Resolved {
    /// The KV cache dtype in force.
    pub kv_cache_dtype: KvDtype,
    /// Tokens a block, after alignment.
    pub block_size: u64,
    /// Ranks that share the model.
    pub tensor_parallel: u64,
    /// Kernels, by name.
    pub attn_backends: Vec<&'static str>,
    /// Tokens a batch.
    pub max_num_batched_tokens: u64,
    /// Sequences a batch.
    pub max_num_seqs: u64,
    /// Tokens that may be scheduled and not yet settled: two batches under asynchronous
    /// scheduling.
    pub max_in_flight_tokens: u64,
    /// Whether state layers keep a second page for prefix caching.
    pub is_state_aligned: bool,
    /// Longest sequence the config declares.
    pub native_max_model_len: Option<Tokens>,
}

/// What fits.
#[derive(Clone, Debug, Serialize)]
pub struct Capacity {
    /// Longest sequence that was asked for.
    pub max_model_len: Tokens,
    /// Bytes for the KV cache.
    pub available_kv_bytes: i64,
    /// Bytes of one block of the shared pool.
    pub bytes_per_block: Bytes,
    /// Blocks of the pool, one of them the null block.
    pub num_gpu_blocks: Blocks,
    /// Tokens of sequences of the longest length that fit at once: concurrency times length.
    pub kv_cache_size_tokens: Tokens,
    /// Sequences of the longest length that fit at once.
    pub max_concurrency: Option<f64>,
    /// Blocks that one sequence of the longest length may hold.
    pub blocks_per_request: Blocks,
    /// What one sequence of the longest length needs.
    pub need_bytes_one_request: Bytes,
    /// Longest length that would fit, where the one asked for does not.
    pub estimated_max_model_len: Option<Tokens>,
    /// Why vLLM would not start.
    pub refused: Option<Refusal>,
}

/// Layers that share a block table.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Layers of the group.
    pub num_layers: u64,
    /// Tokens a block of the group's first layer.
    pub block_size: u64,
    /// Bytes of one block of all its layers (of one layer, where they are equal).
    pub page_size_bytes: Bytes,
    /// The caches of its layers, equal ones once, with their number.
    #[serde(serialize_with = "serialize_specs")]
    pub specs: Vec<(Spec, u64)>,
}

/// Each kind of cache as one object: its fields, its page, and how many layers have it.
fn serialize_specs<S: serde::Serializer>(
    specs: &[(Spec, u64)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Layers<'a> {
        num_layers: u64,
        #[serde(flatten)]
        spec: &'a Spec,
        page_size_bytes: u64,
    }
    serializer.collect_seq(specs.iter().map(|(spec, num_layers)| Layers {
        num_layers: *num_layers,
        spec,
        page_size_bytes: spec.page_bytes(),
    }))
}

impl Vllm {
    /// Resolves everything that does not depend on the size of the memory.
    ///
    /// # Errors
    /// [`Refusal`] where vLLM would not start, with its reason.
    pub fn new(layout: &Layout, params: &Params) -> Result<Self, Refusal> {
        let tp = params.tensor_parallel;
        parameters::check(layout, params)?;
        let plan = layers::plan(layout, params)?;
        let groups = groups::group(plan.specs, plan.pool)?;
        let tokens_max = params.max_model_len.or(layout.max_tokens).map_or(u64::MAX, |t| t.0);
        // One multimodal item of a model whose image tokens see each other must fit a batch.
        let item = layout.mm_item_tokens_max.map(u64::from).filter(|_| layout.is_multimodal);
        let whole_item = item.filter(|_| layout.is_prefix_lm || layout.is_encoder_decoder);
        let item = item.filter(|_| layout.is_prefix_lm);
        // Nor are the prompts of an encoder's decoder split over batches.
        let is_cross = |cache: &Cache| matches!(cache.kind, CacheKind::Cross(_));
        let item = match layout.caches.iter().any(is_cross) && tokens_max < u64::MAX {
            true => Some(item.unwrap_or(0).max(tokens_max)),
            false => item,
        };
        let (tokens, seqs) = defaults::batch(params, tokens_max, item);
        let tokens = cpu::whole_prompts(layout, params, tokens_max).unwrap_or(tokens);
        parameters::check_batch(layout, [tokens, seqs], tokens_max, whole_item)?;
        // The CPU platform switches asynchronous scheduling off.
        let is_async = params.async_scheduling && params.device.kind != DeviceKind::Cpu;
        let batches = if is_async { 2 } else { 1 };
        Ok(Self {
            groups,
            pool: plan.pool,
            resolved: Resolved {
                kv_cache_dtype: plan.kv_dtype,
                block_size: plan.block_size,
                tensor_parallel: tp.into(),
                attn_backends: plan.backends,
                max_num_batched_tokens: tokens,
                max_num_seqs: seqs,
                max_in_flight_tokens: tokens.saturating_mul(batches),
                is_state_aligned: plan.is_state_aligned,
                native_max_model_len: layout.max_tokens,
            },
        })
    }

    /// What was resolved.
    #[must_use]
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Bytes of one block of the shared pool.
    #[must_use]
    pub fn bytes_per_block(&self) -> Bytes {
        Bytes(groups::bytes_per_block(&self.groups, self.pool))
    }

    /// The groups of layers.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        self.groups.iter().map(describe).collect()
    }

    /// Bytes one more token takes in the layers that keep every token.
    #[must_use]
    pub fn per_token_bytes(&self) -> u64 {
        // Layers with the same block are added before the division, which is then exact.
        let mut pages: Vec<(u64, u64)> = Vec::new();
        let all = self.groups.iter().flat_map(|group| &group.specs);
        for spec in all.filter(|spec| spec.is_full()) {
            match pages.iter_mut().find(|(block, _)| *block == spec.block_size) {
                Some((_, bytes)) => *bytes = bytes.saturating_add(spec.page_bytes()),
                None => pages.push((spec.block_size, spec.page_bytes())),
            }
        }
        pages.iter().map(|(block, bytes)| bytes / (*block).max(1)).sum()
    }

    /// Blocks that one sequence of `tokens` may hold at once, over all groups.
    #[must_use]
    pub fn blocks_per_request(&self, tokens: Tokens) -> Blocks {
        self.blocks_by_group(tokens).sum()
    }

    /// The same of each group, in the order of [`Self::groups`].
    pub fn blocks_by_group(&self, tokens: Tokens) -> impl Iterator<Item = Blocks> {
        let Resolved { max_in_flight_tokens, max_num_batched_tokens, .. } = self.resolved;
        self.groups.iter().map(move |group| {
            Blocks(group.blocks(tokens.0, max_in_flight_tokens, max_num_batched_tokens))
        })
    }

    /// [`Self::blocks_per_request`] in the form that the gate takes: the same number for every
    /// length but zero, of which a gate counts no blocks and vLLM the states.
    ///
    /// It is an upper bound, and not [`CostCurve::is_exact`], where the groups are of more kinds
    /// than a curve has terms, or blocks have 2^32 tokens or more; and for a model without caches,
    /// for which there are no blocks and nothing that a gate could count.
    #[must_use]
    pub fn cost_curve(&self) -> CostCurve {
        let Resolved { max_in_flight_tokens: in_flight, max_num_batched_tokens, .. } =
            self.resolved;
        let mut terms = Vec::with_capacity(self.groups.len());
        let (mut fixed_blocks, mut is_exact) = (0, true);
        for group in &self.groups {
            let (held, held_is_exact) = group.held(in_flight, max_num_batched_tokens);
            // A smaller block never takes fewer.
            let block_tokens = u32::try_from(held.block_tokens).unwrap_or(u32::MAX);
            is_exact &= held_is_exact && u64::from(block_tokens) == held.block_tokens;
            fixed_blocks = held.fixed_blocks.saturating_add(fixed_blocks);
            let keep_tokens = Tokens(held.keep_tokens);
            terms.push(CostTerm { block_tokens, keep_tokens, count: 1 });
        }
        match CostCurve::from_terms(fixed_blocks, &terms) {
            Some(curve) if is_exact => curve,
            Some(curve) => curve.as_upper_bound(),
            None => CostCurve::NOTHING_FITS,
        }
    }

    /// What fits into `available` bytes, for sequences of up to `max_model_len`.
    #[must_use]
    pub fn capacity(&self, available: Bytes, max_model_len: Tokens) -> Capacity {
        self.capacity_signed(i64::try_from(available.0).unwrap_or(i64::MAX), max_model_len)
    }

    /// As [`Self::capacity`], where what remains for the cache may be less than nothing.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "vLLM computes these in floating point, and so must we"
    )]
    pub fn capacity_signed(&self, available: i64, max_model_len: Tokens) -> Capacity {
        let bytes_per_block = self.bytes_per_block();
        let blocks_per_request = self.blocks_per_request(max_model_len);
        let need = bytes_per_block.saturating_mul(blocks_per_request.0);
        let blocks = u64::try_from(available).unwrap_or(0) / bytes_per_block.0.max(1);
        // A model without caches gets the null block alone.
        let blocks = if self.groups.is_empty() { 1 } else { blocks };
        let concurrency = match blocks_per_request.0 {
            0 => None,
            request => Some(blocks as f64 / request as f64),
        };
        let tokens = concurrency.map_or(0, |c| (c * max_model_len.0 as f64) as u64);
        let mut capacity = Capacity {
            max_model_len,
            available_kv_bytes: available,
            bytes_per_block,
            num_gpu_blocks: Blocks(blocks),
            kv_cache_size_tokens: Tokens(tokens),
            max_concurrency: concurrency,
            blocks_per_request,
            need_bytes_one_request: need,
            estimated_max_model_len: None,
            refused: None,
        };
        self.refuse(&mut capacity);
        capacity
    }

    /// vLLM refuses to start when one sequence of the longest length does not fit beside the null
    /// block.
    fn refuse(&self, capacity: &mut Capacity) {
        if self.groups.is_empty() {
            return;
        }
        let block = i64::try_from(capacity.bytes_per_block.0).unwrap_or(i64::MAX);
        let usable = capacity.available_kv_bytes.saturating_sub(block);
        if usable <= 0 {
            let reason = format!(
                "no memory for the KV cache: {} bytes remain, and one block takes {}",
                capacity.available_kv_bytes, capacity.bytes_per_block.0
            );
            capacity.refused = Some(Refusal::new(RefusalRule::Memory, reason));
            return;
        }
        let usable = usable.unsigned_abs();
        let need = capacity.need_bytes_one_request.0;
        if need > usable {
            let longest = self.longest(usable, capacity.bytes_per_block, capacity.max_model_len);
            let hint = match longest.0 {
                0 => String::new(),
                tokens => format!("; a length of {tokens} would fit"),
            };
            let reason = format!(
                "one sequence of {} tokens needs {need} bytes of KV cache, and {usable} are \
                 usable{hint}",
                capacity.max_model_len.0
            );
            capacity.estimated_max_model_len = (longest.0 > 0).then_some(longest);
            capacity.refused = Some(Refusal::new(RefusalRule::Memory, reason));
        }
    }

    /// The longest sequence up to `most` whose blocks fit into `usable` bytes; zero if none does.
    pub(crate) fn longest(&self, usable: u64, block: Bytes, most: Tokens) -> Tokens {
        let fits = |tokens: u64| {
            block.saturating_mul(self.blocks_per_request(Tokens(tokens)).0).0 <= usable
        };
        if !fits(1) {
            return Tokens::ZERO;
        }
        let (mut fitting, mut beyond) = (1, most.0.saturating_add(1));
        while beyond - fitting > 1 {
            let middle = fitting + (beyond - fitting) / 2;
            if fits(middle) {
                fitting = middle;
            } else {
                beyond = middle;
            }
        }
        Tokens(fitting)
    }
}

fn describe(group: &LayerGroup) -> Group {
    let mut specs: Vec<(Spec, u64)> = Vec::new();
    for spec in &group.specs {
        match specs.iter_mut().find(|(known, _)| known == spec) {
            Some((_, count)) => *count += 1,
            None => specs.push((spec.clone(), 1)),
        }
    }
    let first = group.specs.first();
    let page = match (group.is_mixed, first) {
        (false, Some(spec)) => spec.page_bytes(),
        _ => group.page_bytes(),
    };
    Group {
        num_layers: u64::try_from(group.specs.len()).unwrap_or(u64::MAX),
        block_size: first.map_or(0, |spec| spec.block_size),
        page_size_bytes: Bytes(page),
        specs,
    }
}
