//! A whole plan: what an engine will do with a model on a device, and what fits.
//!
//! Field names are those under which vLLM logs and reports the same numbers.

use super::{Declared, Envelope, TermName};
use crate::engine::{Capacity, DeviceKind, Group, Params, Vllm, vllm_0_32};
use crate::error::Result;
use crate::model::{Layout, Refusal, RefusalRule, Weights};
use crate::units::{Blocks, Bytes, Tokens};
use serde::Serialize;

/// vLLM's default for `--gpu-memory-utilization` (`CacheConfig.gpu_memory_utilization`).
pub const UTILIZATION_DEFAULT: f64 = 0.92;

/// Lengths of the table of sequences, beside the longest.
const LENGTHS: [u64; 4] = [1024, 4096, 8192, 32_768];

/// Where the memory for the KV cache comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So many bytes, as `--kv-cache-memory-bytes` gives them: no equation is needed.
    Kv(i64),
    /// What a share of the device leaves beside weights, activations and context.
    Share {
        /// `--gpu-memory-utilization`, above 0 and at most 1.
        utilization: f64,
        /// What is known better than the defaults of the equation.
        declared: Declared,
    },
}

impl Default for Budget {
    fn default() -> Self {
        Self::Share { utilization: UTILIZATION_DEFAULT, declared: Declared::default() }
    }
}

/// What an engine will do with a model on a device, and what fits.
///
/// Where the engine would not start, [`Self::refused`] says why, and what it had not yet computed
/// is absent.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The engine, with its version.
    pub engine: String,
    /// Architecture of the model.
    pub architecture: String,
    /// The device of one rank.
    pub device: String,
    /// Ranks that share the model.
    pub tensor_parallel_size: u32,
    /// Tokens a block.
    pub block_size: Option<u64>,
    /// Bytes of one block of the shared pool, over all layers, on one rank.
    pub bytes_per_block: Option<Bytes>,
    /// Blocks of the pool, one of them the null block.
    pub num_gpu_blocks: Option<Blocks>,
    /// Concurrency times the longest length, in tokens.
    pub kv_cache_size_tokens: Option<Tokens>,
    /// Sequences of the longest length that fit at once.
    pub max_concurrency: Option<f64>,
    /// What one sequence of the longest length needs.
    pub need_bytes_one_request: Option<Bytes>,
    /// The longest length.
    pub max_model_len: Option<Tokens>,
    /// Bytes for the KV cache on one rank.
    pub available_kv_bytes: Option<i64>,
    /// Groups of layers that share a block table.
    pub groups: Vec<Group>,
    /// Parameters on one rank; absent where the config does not say.
    pub weights: Option<Weights>,
    /// Bytes one more token takes in the layers that keep every token.
    pub per_token_bytes: Option<u64>,
    /// What else was decided.
    pub resolved: Option<vllm_0_32::Resolved>,
    /// How many sequences fit at some lengths.
    pub sequences: Vec<Sequences>,
    /// The capacity equation, where a device was given.
    pub equation: Option<Envelope>,
    /// Why the engine would not start.
    pub refused: Option<Refusal>,
}

/// How many sequences of a length fit at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sequences {
    /// Length of each.
    pub tokens: Tokens,
    /// Blocks that one may hold.
    pub blocks: Blocks,
    /// How many fit, never more than the engine runs at once.
    pub count: u64,
    /// What keeps one more from running.
    pub bound_by: Bound,
}

/// What keeps one more sequence from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The blocks of the KV cache.
    KvCache,
    /// `--max-num-seqs`.
    MaxNumSeqs,
}

impl Plan {
    /// Plans a model for vLLM 0.32.
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`] and [`crate::Error::ReadConfig`] of the equation; that vLLM would
    /// not start is no error but [`Self::refused`].
    pub fn vllm(layout: &Layout, params: &Params, budget: &Budget) -> Result<Self> {
        let mut plan = Self::empty(layout, params);
        let engine = match Vllm::new(layout, params) {
            Ok(engine) => engine,
            Err(refusal) => {
                plan.refused = Some(refusal);
                return Ok(plan);
            }
        };
        plan.resolve(&engine);
        match layout.weights_on(params.tensor_parallel, params.device.capability()) {
            Ok(weights) => plan.weights = Some(weights),
            Err(refusal) if refusal.rule == RefusalRule::UnknownWeights => {}
            Err(refusal) => {
                plan.refused = Some(refusal);
                return Ok(plan);
            }
        }
        let Some(available) = plan.available(layout, params, &engine, budget)? else {
            return Ok(plan);
        };
        let Some(longest) = params.max_model_len.or(layout.max_tokens) else {
            let reason = "the config declares no longest length; give --max-model-len";
            plan.refused = Some(Refusal::new(RefusalRule::Parameter, reason));
            return Ok(plan);
        };
        plan.fill(&engine, engine.capacity_signed(available, longest));
        Ok(plan)
    }

    fn empty(layout: &Layout, params: &Params) -> Self {
        Self {
            engine: format!("vllm {}", vllm_0_32::VERSION),
            architecture: layout.architecture.clone(),
            device: params.device.name.clone(),
            tensor_parallel_size: params.tensor_parallel,
            block_size: None,
            bytes_per_block: None,
            num_gpu_blocks: None,
            kv_cache_size_tokens: None,
            max_concurrency: None,
            need_bytes_one_request: None,
            max_model_len: None,
            available_kv_bytes: None,
            groups: Vec::new(),
            weights: None,
            per_token_bytes: None,
            resolved: None,
            sequences: Vec::new(),
            equation: None,
            refused: None,
        }
    }

    fn resolve(&mut self, engine: &Vllm) {
        self.block_size = Some(engine.resolved().block_size);
        self.bytes_per_block = Some(engine.bytes_per_block());
        self.per_token_bytes = Some(engine.per_token_bytes());
        self.groups = engine.groups();
        self.resolved = Some(engine.resolved().clone());
    }

    /// Bytes for the KV cache on one rank; `None` where the weights would have to be known.
    fn available(
        &mut self,
        layout: &Layout,
        params: &Params,
        engine: &Vllm,
        budget: &Budget,
    ) -> Result<Option<i64>> {
        let (utilization, declared) = match budget {
            Budget::Kv(bytes) => return Ok(Some(*bytes)),
            Budget::Share { utilization, declared } => (*utilization, *declared),
        };
        let Some(weights) = &self.weights else {
            let reason = "the config does not say what the weights take; give the memory of the \
                          KV cache (--kv-bytes), or the checkpoint's directory";
            self.refused = Some(Refusal::new(RefusalRule::UnknownWeights, reason));
            return Ok(None);
        };
        let total = params.device.total;
        let withheld = total.saturating_sub(share_of(total, utilization));
        // vLLM keeps no reserves of its own beside what it was not given.
        let declared = Declared {
            withheld: Some(withheld),
            runtime_reserve: declared.runtime_reserve.or(Some(Bytes::ZERO)),
            safety_reserve: declared.safety_reserve.or(Some(Bytes::ZERO)),
            context: match params.device.kind {
                DeviceKind::Cpu => declared.context.or(Some(Bytes::ZERO)),
                DeviceKind::Cuda(..) => declared.context,
            },
            ..declared
        };
        match Envelope::plan_engine(total, layout, engine, weights.param_bytes, &declared) {
            Ok(envelope) => {
                let capacity = envelope.term(TermName::KvCapacity).and_then(|term| term.bytes);
                self.equation = Some(envelope);
                Ok(capacity)
            }
            Err(crate::Error::NoRoom { total_bytes, taken_bytes, hint }) => {
                let reason = format!(
                    "no memory for the KV cache: {} of {} are taken; {hint}",
                    Bytes(taken_bytes),
                    Bytes(total_bytes)
                );
                self.refused = Some(Refusal::new(RefusalRule::Memory, reason));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn fill(&mut self, engine: &Vllm, capacity: Capacity) {
        let most = engine.resolved().max_num_seqs;
        let longest = capacity.max_model_len;
        let mut lengths: Vec<Tokens> = LENGTHS
            .iter()
            .map(|&tokens| Tokens(tokens))
            .filter(|&tokens| tokens < longest)
            .collect();
        lengths.push(longest);
        // The null block is never handed out.
        let usable = capacity.num_gpu_blocks.0.saturating_sub(1);
        let at = |tokens: Tokens| {
            let blocks = engine.blocks_per_request(tokens);
            let fitting = usable.checked_div(blocks.0).unwrap_or(u64::MAX);
            let bound_by = if fitting > most { Bound::MaxNumSeqs } else { Bound::KvCache };
            Sequences { tokens, blocks, count: fitting.min(most), bound_by }
        };
        self.sequences = lengths.into_iter().map(at).collect();
        self.num_gpu_blocks = Some(capacity.num_gpu_blocks);
        self.kv_cache_size_tokens = Some(capacity.kv_cache_size_tokens);
        self.max_concurrency = capacity.max_concurrency;
        self.need_bytes_one_request = Some(capacity.need_bytes_one_request);
        self.max_model_len = Some(longest);
        self.available_kv_bytes = Some(capacity.available_kv_bytes);
        self.refused = capacity.refused;
    }
}

/// A share of the total in whole bytes, rounded down as the engine rounds it.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the engine multiplies in floating point, and the share is at most the total"
)]
fn share_of(total: Bytes, utilization: f64) -> Bytes {
    let share = (total.0 as f64 * utilization.clamp(0.0, 1.0)) as u64;
    Bytes(share.min(total.0))
}
