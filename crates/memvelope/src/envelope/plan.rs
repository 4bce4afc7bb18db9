//! A whole plan: what an engine will do with a model on a device, and what fits.
//!
//! Field names are those under which vLLM logs and reports the same numbers. The text for people
//! is in `plan_text`, the costs with their factors in `plan_cost`, the plan without any engine in
//! `plan_generic`.

use super::plan_cost::{self, Cost};
use super::plan_stored::Stored;
use super::{Declared, Envelope, Origin, TermName};
use crate::engine::{Capacity, DeviceKind, DeviceSource, Group, Params, Vllm, vllm_0_32};
use crate::error::Result;
use crate::model::{Dtype, Layout, Refusal, RefusalRule, Weights};
use crate::units::{Blocks, Bytes, Tokens};
use serde::Serialize;

/// vLLM's default for `--gpu-memory-utilization` (`CacheConfig.gpu_memory_utilization`).
pub const UTILIZATION_DEFAULT: f64 = 0.92;

/// Lengths of the table of sequences, beside the longest.
pub(super) const LENGTHS: [u64; 4] = [1024, 4096, 8192, 32_768];

/// Files and config may differ by one in so many bytes before it is worth a warning: 0.5 %.
const DIFFERENCE_PART: u64 = 200;

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
    /// The dtype that the model is served in.
    pub model_dtype: Dtype,
    /// The device of one rank.
    pub device: String,
    /// How the device's total is known.
    pub device_source: DeviceSource,
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
    /// The longest length that would fit, where the one asked for does not.
    pub estimated_max_model_len: Option<Tokens>,
    /// Bytes for the KV cache on one rank.
    pub available_kv_bytes: Option<i64>,
    /// Groups of layers that share a block table.
    pub groups: Vec<GroupPlan>,
    /// Parameters on one rank, computed from the config; absent where it does not say.
    pub weights: Option<Weights>,
    /// Bytes of weights on one rank that the equation counts.
    pub weight_bytes: Option<Bytes>,
    /// Bytes one more token takes in the layers that keep every token.
    pub per_token_bytes: Option<u64>,
    /// What layers alike keep, with the factors.
    pub costs: Vec<Cost>,
    /// What was decided.
    pub resolved: Option<vllm_0_32::Resolved>,
    /// How many sequences fit at some lengths.
    pub sequences: Vec<Sequences>,
    /// As many sequences as the engine runs at once, each as long as can be.
    pub worst_case: Option<WorstCase>,
    /// The capacity equation, where a device was given.
    pub equation: Option<Envelope>,
    /// What somebody should know who relies on these numbers.
    pub warnings: Vec<String>,
    /// Why the engine would not start.
    pub refused: Option<Refusal>,
}

/// Layers that share a block table, and what one sequence holds of them.
#[derive(Clone, Debug, Serialize)]
pub struct GroupPlan {
    /// The layers.
    #[serde(flatten)]
    pub group: Group,
    /// Blocks that one sequence of the longest length may hold.
    pub blocks_per_request: Option<Blocks>,
}

/// How many sequences of a length fit at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sequences {
    /// Length of each.
    pub tokens: Tokens,
    /// Blocks that one may hold; absent without an engine.
    pub blocks: Option<Blocks>,
    /// Bytes that one may hold.
    pub bytes: Bytes,
    /// How many fit, never more than the engine runs at once.
    pub count: u64,
    /// What keeps one more from running.
    pub bound_by: Bound,
}

/// As many sequences as the engine runs at once, each as long as can be: what a server must survive
/// without a gate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorstCase {
    /// `max_num_seqs`.
    pub sequences: u64,
    /// The longest length.
    pub tokens: Tokens,
    /// What they need.
    pub need_bytes: Bytes,
    /// The length up to which so many sequences fit at once; absent if not even one token each.
    pub tokens_each: Option<Tokens>,
}

/// What keeps one more sequence from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The bytes (or blocks) of the KV cache.
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
        Self::vllm_stored(layout, params, budget, None)
    }

    /// As [`Self::vllm`], where the files of the checkpoint were read, too: the equation then
    /// counts their bytes.
    ///
    /// # Errors
    /// As [`Self::vllm`].
    pub fn vllm_stored(
        layout: &Layout,
        params: &Params,
        budget: &Budget,
        stored: Option<&Stored>,
    ) -> Result<Self> {
        let mut plan = Self::empty(layout, params, format!("vllm {}", vllm_0_32::VERSION));
        let engine = match Vllm::new(layout, params) {
            Ok(engine) => engine,
            Err(refusal) => {
                plan.refused = Some(refusal);
                return Ok(plan);
            }
        };
        plan.resolve(layout, params, &engine);
        if let Err(refusal) = plan.weigh(layout, params, stored) {
            plan.refused = Some(refusal);
            return Ok(plan);
        }
        let Some(longest) = params.max_model_len.or(layout.max_tokens) else {
            let reason = "the config declares no longest length; give --max-model-len";
            plan.refused = Some(Refusal::new(RefusalRule::Parameter, reason));
            return Ok(plan);
        };
        plan.max_model_len = Some(longest);
        for (group, blocks) in plan.groups.iter_mut().zip(engine.blocks_by_group(longest)) {
            group.blocks_per_request = Some(blocks);
        }
        let Some(available) = plan.available(layout, params, &engine, budget, stored)? else {
            return Ok(plan);
        };
        plan.fill(&engine, engine.capacity_signed(available, longest));
        Ok(plan)
    }

    pub(super) fn empty(layout: &Layout, params: &Params, engine: String) -> Self {
        Self {
            engine,
            architecture: layout.architecture.clone(),
            model_dtype: layout.dtype,
            device: params.device.name.clone(),
            device_source: params.device.source,
            tensor_parallel_size: params.tensor_parallel,
            block_size: None,
            bytes_per_block: None,
            num_gpu_blocks: None,
            kv_cache_size_tokens: None,
            max_concurrency: None,
            need_bytes_one_request: None,
            max_model_len: None,
            estimated_max_model_len: None,
            available_kv_bytes: None,
            groups: Vec::new(),
            weights: None,
            weight_bytes: None,
            per_token_bytes: None,
            costs: Vec::new(),
            resolved: None,
            sequences: Vec::new(),
            worst_case: None,
            equation: None,
            warnings: Vec::new(),
            refused: None,
        }
    }

    fn resolve(&mut self, layout: &Layout, params: &Params, engine: &Vllm) {
        self.block_size = Some(engine.resolved().block_size);
        self.bytes_per_block = Some(engine.bytes_per_block());
        self.per_token_bytes = Some(engine.per_token_bytes());
        let plan = |group| GroupPlan { group, blocks_per_request: None };
        self.groups = engine.groups().into_iter().map(plan).collect();
        self.costs = plan_cost::of_engine(layout, &self.groups);
        self.resolved = Some(engine.resolved().clone());
        if let (Some(asked), Some(native)) = (params.max_model_len, layout.max_tokens)
            && asked > native
        {
            self.warnings.push(format!(
                "--max-model-len {} is more than the {} that the config declares: vLLM refuses it \
                 unless VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 is set",
                asked.0, native.0
            ));
        }
    }

    /// Weights on one rank, computed and read.
    pub(super) fn weigh(
        &mut self,
        layout: &Layout,
        params: &Params,
        stored: Option<&Stored>,
    ) -> std::result::Result<(), Refusal> {
        let tp = params.tensor_parallel;
        match layout.weights_on(tp, params.device.capability()) {
            Ok(weights) => self.weights = Some(weights),
            Err(refusal) if refusal.rule == RefusalRule::UnknownWeights => {}
            Err(refusal) => return Err(refusal),
        }
        self.weight_bytes = self.weights.as_ref().map(|weights| weights.param_bytes);
        let Some(stored) = stored else { return Ok(()) };
        let (loaded, ranks) = (stored.loaded(), u64::from(tp.max(1)));
        let whole = layout.weights_on(1, params.device.capability()).ok();
        let Some(whole) = whole.map(|weights| weights.param_bytes) else {
            self.weight_bytes = Some(Bytes(loaded.0.div_ceil(ranks)));
            return Ok(());
        };
        let difference = loaded.0.abs_diff(whole.0);
        if difference > whole.0 / DIFFERENCE_PART {
            let why = match stored.reasons.as_slice() {
                [] => "nothing is known that explains it".to_owned(),
                reasons => format!("beside what is explained ({})", reasons.join("; ")),
            };
            self.warnings.push(format!(
                "the files hold {loaded} of weights, the config describes {whole}: {} {}, {why}",
                Bytes(difference),
                if loaded > whole { "more" } else { "less" },
            ));
        }
        // What the files hold beyond the config is taken to be spread over the ranks like the rest.
        let rank = self.weight_bytes.unwrap_or(whole).0;
        let share = difference.div_ceil(ranks);
        let bytes =
            if loaded > whole { rank.saturating_add(share) } else { rank.saturating_sub(share) };
        self.weight_bytes = Some(Bytes(bytes));
        Ok(())
    }

    /// Bytes for the KV cache on one rank; `None` where the weights would have to be known.
    fn available(
        &mut self,
        layout: &Layout,
        params: &Params,
        engine: &Vllm,
        budget: &Budget,
        stored: Option<&Stored>,
    ) -> Result<Option<i64>> {
        let (utilization, declared) = match budget {
            Budget::Kv(bytes) => return Ok(Some(*bytes)),
            Budget::Share { utilization, declared } => (*utilization, *declared),
        };
        let total = params.device.total;
        // vLLM keeps no reserves of its own beside what it was not given.
        let declared = Declared {
            withheld: Some(total.saturating_sub(share_of(total, utilization))),
            runtime_reserve: declared.runtime_reserve.or(Some(Bytes::ZERO)),
            safety_reserve: declared.safety_reserve.or(Some(Bytes::ZERO)),
            context: match params.device.kind {
                DeviceKind::Cpu => declared.context.or(Some(Bytes::ZERO)),
                DeviceKind::Cuda(..) => declared.context,
            },
            ..declared
        };
        let solve = |weights| Envelope::plan_engine(total, layout, engine, weights, &declared);
        let capacity = self.solve(params, stored, solve)?;
        if let Some(envelope) = &mut self.equation {
            let share = format!("--gpu-memory-utilization {utilization}");
            envelope.restate(TermName::Withheld, Origin::Derived, share);
        }
        Ok(capacity)
    }

    /// Fills the equation; `None` where it cannot be, and [`Self::refused`] says why.
    pub(super) fn solve(
        &mut self,
        params: &Params,
        stored: Option<&Stored>,
        solve: impl Fn(Bytes) -> Result<Envelope>,
    ) -> Result<Option<i64>> {
        let Some(weights) = self.weight_bytes else {
            let reason = "the config does not say what the weights take; give the memory of the \
                          KV cache (--kv-bytes), or the checkpoint's directory";
            self.refused = Some(Refusal::new(RefusalRule::UnknownWeights, reason));
            return Ok(None);
        };
        match solve(weights) {
            Ok(mut envelope) => {
                let (origin, note) = total_note(params);
                envelope.restate(TermName::Total, origin, note);
                envelope.restate(
                    TermName::KvCapacity,
                    Origin::Derived,
                    "what the terms above leave",
                );
                if let Some(stored) = stored {
                    let (origin, note) = stored_note(params, stored);
                    envelope.restate(TermName::Weights, origin, note);
                }
                envelope.simulated = params.device.source == DeviceSource::Simulated;
                let capacity = envelope.term(TermName::KvCapacity).and_then(|term| term.bytes);
                self.equation = Some(envelope);
                Ok(capacity)
            }
            Err(crate::Error::NoRoom { total_bytes, taken_bytes, .. }) => {
                let reason = format!(
                    "no memory for the KV cache: the other terms need {} of {}, the weights alone \
                     {weights}",
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
        // The null block is never handed out.
        let usable = capacity.num_gpu_blocks.0.saturating_sub(1);
        let block = capacity.bytes_per_block;
        let at = |tokens: Tokens| {
            let blocks = engine.blocks_per_request(tokens);
            let fitting = usable.checked_div(blocks.0).unwrap_or(u64::MAX);
            let bytes = block.saturating_mul(blocks.0);
            let bound_by = if fitting > most { Bound::MaxNumSeqs } else { Bound::KvCache };
            Sequences { tokens, blocks: Some(blocks), bytes, count: fitting.min(most), bound_by }
        };
        self.sequences = lengths(longest).into_iter().map(at).collect();
        let each = engine.longest(usable / most.max(1) * block.0, block, longest);
        self.worst_case = Some(WorstCase {
            sequences: most,
            tokens: longest,
            need_bytes: capacity.need_bytes_one_request.saturating_mul(most),
            tokens_each: (each.0 > 0).then_some(each),
        });
        self.num_gpu_blocks = Some(capacity.num_gpu_blocks);
        self.kv_cache_size_tokens = Some(capacity.kv_cache_size_tokens);
        self.max_concurrency = capacity.max_concurrency;
        self.need_bytes_one_request = Some(capacity.need_bytes_one_request);
        self.estimated_max_model_len = capacity.estimated_max_model_len;
        self.available_kv_bytes = Some(capacity.available_kv_bytes);
        self.refused = capacity.refused;
    }
}

/// Lengths of the table of sequences.
pub(super) fn lengths(longest: Tokens) -> Vec<Tokens> {
    let shorter = LENGTHS.iter().map(|&tokens| Tokens(tokens)).filter(|&tokens| tokens < longest);
    shorter.chain([longest]).collect()
}

fn total_note(params: &Params) -> (Origin, String) {
    match params.device.source {
        DeviceSource::Table => (Origin::Assumed, "from a table; yours may differ".into()),
        DeviceSource::Declared => (Origin::Assumed, "as declared".into()),
        DeviceSource::Measured if params.device.kind == DeviceKind::Cpu => {
            (Origin::Measured, "as the operating system tells".into())
        }
        DeviceSource::Measured => (Origin::Measured, "as the driver tells".into()),
        DeviceSource::Simulated => (Origin::Measured, "as the SIMULATED driver tells".into()),
    }
}

fn stored_note(params: &Params, stored: &Stored) -> (Origin, String) {
    let files = match stored.files {
        0 => "read from the index".to_owned(),
        1 => "read from the headers of 1 file".to_owned(),
        files => format!("read from the headers of {files} files"),
    };
    let without = match stored.reasons.as_slice() {
        [] => String::new(),
        reasons => format!(", {}", reasons.join(", ")),
    };
    let note = format!("{files}{without}");
    match params.tensor_parallel {
        1 => (Origin::Measured, note),
        ranks => (Origin::Derived, format!("{note}, split over {ranks} ranks")),
    }
}

/// A share of the total in whole bytes, rounded down as the engine rounds it.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the engine multiplies in floating point, and the share is at most the total"
)]
pub(super) fn share_of(total: Bytes, utilization: f64) -> Bytes {
    let share = (total.0 as f64 * utilization.clamp(0.0, 1.0)) as u64;
    Bytes(share.min(total.0))
}
