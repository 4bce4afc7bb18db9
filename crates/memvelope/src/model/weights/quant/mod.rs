//! What a quantisation makes of a matrix: the tensors vLLM 0.32 creates for it, before it repacks
//! anything after loading.
//!
//! One file a family of methods. Each is a [`Method`], built once from the config; it says of every
//! module by its name which [`Form`] its matrices take.

mod compressed;
mod device;
mod effort;
mod form;
mod fp8;
mod inc;
mod integer;
mod modelopt;
mod names;
mod pattern;
mod quark;
mod read;
mod skip;
mod torchao;

#[cfg(test)]
mod tests;

use super::Weights;
use super::module::{Embedding, EmbeddingSplit, Experts, Linear, Split};
use super::rank::RankShape;
use crate::error::Result as ReadResult;
use crate::model::cache::{Cache, CacheKind};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Document};
use crate::model::refusal::{Refusal, RefusalRule};
use effort::Effort;
use form::{Form, Matrix};
use std::fmt;
use std::sync::Arc;

/// Weights as they are added up, and what finding the quantisation of each module may still cost.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) weights: Weights,
    pub(crate) effort: Effort,
}

/// What of the device decides how a quantised matrix is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hardware {
    /// Major and minor compute capability.
    pub(crate) capability: (u32, u32),
}

impl Default for Hardware {
    /// A Hopper.
    fn default() -> Self {
        Self { capability: (9, 0) }
    }
}

impl Hardware {
    /// Whether a router of the model's dtype can be computed in single precision (vLLM 0.32
    /// `gate_linear.py`).
    pub(crate) fn has_single_gemm(self) -> bool {
        self.capability == (9, 0) || self.capability.0 == 10
    }
}

/// The quantisation of a model: which modules it covers and what it makes of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantization {
    method: Option<Arc<dyn Method>>,
    /// What `--kv-cache-dtype auto` means for this checkpoint.
    cache: Option<CacheDtype>,
    /// KV heads of every layer of plain attention.
    attention: Vec<u32>,
    /// Layers of latent attention.
    latents: u64,
}

/// The cache dtype of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CacheDtype {
    name: &'static str,
    /// Taken up by layers of plain attention only, where the model is built.
    plain_only: bool,
}

/// Scales that a layer of attention keeps for its cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CacheScales {
    /// Elements of the model's dtype.
    default: u64,
    /// Single-precision elements.
    single: u64,
    /// As many for each KV head.
    by_head: bool,
    /// Layers of latent attention keep them too.
    latents: bool,
}

/// PyTorch's default type while a model is built is the model's, and vLLM makes these four scales
/// (query, key, value, probability) of the default type (`kv_cache.py`).
const CACHE_SCALES: CacheScales =
    CacheScales { default: 4, single: 0, by_head: false, latents: false };

/// A module with one matrix, on one rank.
#[derive(Clone, Copy, Debug)]
struct Target<'a> {
    name: &'a str,
    class: Class,
    matrix: Matrix,
    /// Widths of the outputs.
    outs: &'a [u64],
    /// Inputs are divided over the ranks.
    divides_input: bool,
    /// Outputs are divided over the ranks.
    divides_output: bool,
    hardware: Hardware,
    effort: &'a Effort,
}

/// vLLM's classes of layers, as far as quantisation configs tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Linear(&'static str),
    Head,
    Vocabulary,
}

/// The experts of one layer, on one rank.
#[derive(Clone, Copy, Debug)]
struct ExpertsTarget<'a> {
    name: &'a str,
    experts: &'a Experts,
    /// This rank's width of an expert.
    inner: u64,
    hardware: Hardware,
    effort: &'a Effort,
}

impl ExpertsTarget<'_> {
    fn divides_inner(&self) -> bool {
        self.inner != self.experts.inner
    }
}

/// What experts become.
#[derive(Clone, Debug)]
struct ExpertsForm {
    form: Form,
    /// Hidden size and width of an expert are padded to multiples of these.
    round: (u64, u64),
    bias: Bias,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bias {
    /// Where the model has one, of its dtype or this one.
    AsModel(Option<Dtype>),
    /// The method makes none, or makes them whatever the model says.
    Always(bool),
}

impl From<Form> for ExpertsForm {
    fn from(form: Form) -> Self {
        Self { form, round: (1, 1), bias: Bias::AsModel(None) }
    }
}

impl ExpertsForm {
    fn bias(mut self, bias: Bias) -> Self {
        self.bias = bias;
        self
    }

    fn round(mut self, hidden: u64, inner: u64) -> Self {
        self.round = (hidden, inner);
        self
    }
}

/// A method of quantisation with what its config says. `None` is: as the model has it. An error is
/// why the engine would not start.
trait Method: fmt::Debug + Send + Sync {
    /// vLLM's name of it, as resolved.
    fn name(&self) -> &'static str;
    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, String>;
    fn experts(&self, target: &ExpertsTarget<'_>) -> Result<Option<ExpertsForm>, String>;
    fn cache_scales(&self) -> CacheScales {
        CacheScales::default()
    }
}

/// Experts that the router's kernel of FlashInfer takes.
const FUSED_EXPERTS_MAX: u64 = 2048;

/// Whether vLLM takes FlashInfer's kernel for router and experts, which takes widths of 128
/// (`fused_moe/oracle/unquantized.py`): it prefers it on data-centre Blackwell.
fn is_fused(experts: &Experts, hardware: Hardware) -> bool {
    hardware.capability.0 == 10 && experts.fusible && experts.experts <= FUSED_EXPERTS_MAX
}

impl Quantization {
    /// Reads `quantization_config` (or `compression_config`) of the config, or the separate
    /// `hf_quant_config.json`.
    pub(crate) fn read(config: &Config<'_>, separate: Option<&Document>) -> ReadResult<Self> {
        read::read(config, separate)
    }

    /// Notes the layers whose caches keep scales.
    pub(crate) fn with_caches(mut self, caches: &[Cache], shared_layers: u32) -> Self {
        let mut last = 0;
        for cache in caches {
            match &cache.kind {
                CacheKind::Attention(attention) => {
                    last = attention.kv_heads;
                    self.attention.push(last);
                }
                CacheKind::Latent(_) => self.latents += 1,
                _ => {}
            }
        }
        // They read another layer's cache, but are layers of attention like it.
        self.attention.extend((0..shared_layers).map(|_| last));
        self
    }

    /// Whether the method is one of those that vLLM runs by Marlin kernels.
    pub(crate) fn is_marlin_only(&self) -> bool {
        matches!(self.method_name(), Some("auto_awq" | "auto_gptq" | "inc"))
    }

    /// # Errors
    /// [`Refusal`] where vLLM does not run the method on such a device or in this type.
    pub(crate) fn check(&self, dtype: Dtype, hardware: Hardware) -> Result<(), Refusal> {
        self.method_name().map_or(Ok(()), |method| device::check(method, dtype, hardware))
    }

    /// vLLM's name of the method, `None` for a model that is not quantised.
    pub(crate) fn method_name(&self) -> Option<&'static str> {
        self.method.as_ref().map(|method| method.name())
    }

    /// The KV cache dtype that the checkpoint asks for, by the engines' name.
    pub(crate) fn kv_cache_dtype(&self) -> Option<&'static str> {
        let cache = self.cache?;
        (!cache.plain_only || !self.attention.is_empty()).then_some(cache.name)
    }

    /// The parameters of one matrix on one rank.
    pub(crate) fn linear(
        &self,
        name: &str,
        linear: &Linear,
        shape: &RankShape,
        dtype: Dtype,
        hardware: Hardware,
        tally: &mut Tally,
    ) -> Result<(), Refusal> {
        let Tally { weights, effort } = tally;
        weights.add(dtype, shape.bias);
        let whole = |of: &[u64]| of.first().copied();
        let target = Target {
            name,
            class: Class::Linear(match (linear.split, linear.outs.len()) {
                (Split::Replicated, _) => "ReplicatedLinear",
                (Split::Row, _) => "RowParallelLinear",
                (Split::Qkv { .. }, _) => "QKVParallelLinear",
                (Split::Column, 1) => "ColumnParallelLinear",
                (Split::Column | Split::Groups { .. } | Split::Partly { .. }, _) => {
                    "MergedColumnParallelLinear"
                }
            }),
            matrix: Matrix {
                count: 1,
                parts: shape.outs.len().try_into().unwrap_or(u64::MAX),
                width: shape.out(),
                input: shape.input,
                blocks_by_part: false,
            },
            outs: &shape.outs,
            divides_input: shape.input != linear.input,
            divides_output: whole(&shape.outs) != whole(&linear.outs),
            hardware,
            effort,
        };
        let is_covered = linear.quantizable && linear.dtype.is_none();
        match is_covered.then(|| self.form(&target)).transpose()?.flatten() {
            Some(form) => form.add(&target.matrix, dtype, weights),
            None => weights.add(dtype, shape.out().saturating_mul(shape.input)),
        }
        Ok(())
    }

    fn form(&self, target: &Target<'_>) -> Result<Option<Form>, Refusal> {
        let Some(method) = &self.method else { return Ok(None) };
        method.form(target).map_err(|reason| refusal(target.name, &reason))
    }

    /// The routed experts of one layer on one rank; `inner` is the rank's width of an expert.
    pub(crate) fn experts(
        &self,
        name: &str,
        experts: &Experts,
        inner: u64,
        dtype: Dtype,
        hardware: Hardware,
        tally: &mut Tally,
    ) -> Result<(), Refusal> {
        let Tally { weights, effort } = tally;
        let target = ExpertsTarget { name, experts, inner, hardware, effort };
        let form = match &self.method {
            Some(method) => method.experts(&target).map_err(|reason| refusal(name, &reason))?,
            None => None,
        };
        let (round, bias) = match &form {
            Some(form) => (form.round, form.bias),
            None if is_fused(experts, hardware) => ((1, 128), Bias::AsModel(None)),
            None => ((1, 1), Bias::AsModel(None)),
        };
        let hidden = experts.hidden.next_multiple_of(round.0);
        let inner = inner.next_multiple_of(round.1);
        let parts = if experts.gated { 2 } else { 1 };
        let count = experts.experts;
        let up = Matrix {
            count,
            parts,
            width: inner.saturating_mul(parts),
            input: hidden,
            blocks_by_part: true,
        };
        let down = Matrix { count, parts: 1, width: hidden, input: inner, blocks_by_part: true };
        for matrix in [up, down] {
            match &form {
                Some(form) => form.form.add(&matrix, dtype, weights),
                None => {
                    let one = matrix.width.saturating_mul(matrix.input);
                    weights.add(dtype, count.saturating_mul(one));
                }
            }
            let (has_bias, own) = match bias {
                Bias::AsModel(own) => (experts.bias, own),
                Bias::Always(always) => (always, None),
            };
            if has_bias {
                weights.add(own.unwrap_or(dtype), count.saturating_mul(matrix.width));
            }
        }
        Ok(())
    }

    /// A table on one rank, of `rows` rows.
    pub(crate) fn embedding(
        &self,
        name: &str,
        embedding: &Embedding,
        rows: u64,
        dtype: Dtype,
        hardware: Hardware,
        tally: &mut Tally,
    ) -> Result<(), Refusal> {
        let Tally { weights, effort } = tally;
        let target = Target {
            name,
            class: if embedding.is_head { Class::Head } else { Class::Vocabulary },
            matrix: Matrix {
                count: 1,
                parts: 1,
                width: rows,
                input: embedding.columns,
                blocks_by_part: false,
            },
            outs: &[rows],
            divides_input: false,
            divides_output: embedding.rows.div_ceil(2) >= rows,
            hardware,
            effort,
        };
        let is_covered = embedding.split == EmbeddingSplit::Vocabulary;
        match is_covered.then(|| self.form(&target)).transpose()?.flatten() {
            Some(form) => form.add(&target.matrix, dtype, weights),
            None => weights.add(dtype, rows.saturating_mul(embedding.columns)),
        }
        if embedding.bias {
            weights.add(dtype, rows);
        }
        Ok(())
    }

    /// The scales that layers of attention keep for their caches.
    pub(crate) fn cache_scales(&self, tp: u64, dtype: Dtype, weights: &mut Weights) {
        let Some(method) = &self.method else { return };
        let scales = method.cache_scales();
        let heads =
            |&kv_heads: &u32| if scales.by_head { (u64::from(kv_heads) / tp).max(1) } else { 1 };
        let mut layers: u64 = self.attention.iter().map(heads).sum();
        if scales.latents {
            layers += self.latents;
        }
        weights.add(dtype, layers * scales.default);
        weights.add(Dtype::Float32, layers * scales.single);
    }
}

fn refusal(name: &str, reason: &str) -> Refusal {
    Refusal::new(RefusalRule::Dtype, format!("{name}: {reason}"))
}
