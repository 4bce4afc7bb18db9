//! What a quantisation makes of a matrix.

use super::Weights;
use super::module::{Embedding, Experts, Linear};
use super::rank::RankShape;
use crate::error::Result as ReadResult;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Document};
use crate::model::refusal::Refusal;

/// The quantisation of a model: which modules it covers and what it makes of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantization {}

impl Quantization {
    /// Reads `quantization_config` (or `compression_config`) of the config, or the separate
    /// `hf_quant_config.json`.
    #[expect(clippy::unnecessary_wraps, reason = "filled in by the quantisation rules")]
    pub(crate) fn read(_config: &Config<'_>, _separate: Option<&Document>) -> ReadResult<Self> {
        Ok(Self {})
    }

    /// The KV cache dtype that the checkpoint asks for, by the engines' name.
    #[expect(clippy::unused_self, reason = "filled in by the quantisation rules")]
    pub(crate) fn kv_cache_dtype(&self) -> Option<&'static str> {
        None
    }

    /// The parameters of one matrix on one rank.
    #[expect(clippy::unnecessary_wraps, reason = "quantised forms refuse shapes they cannot pack")]
    pub(crate) fn linear(
        &self,
        _name: &str,
        _linear: &Linear,
        shape: &RankShape,
        dtype: Dtype,
        weights: &mut Weights,
    ) -> Result<(), Refusal> {
        weights.add(dtype, shape.out().saturating_mul(shape.input));
        weights.add(dtype, shape.bias);
        Ok(())
    }

    /// The routed experts of one layer on one rank; `inner` is the rank's width of an expert.
    #[expect(clippy::unnecessary_wraps, reason = "quantised forms refuse shapes they cannot pack")]
    pub(crate) fn experts(
        &self,
        _name: &str,
        experts: &Experts,
        inner: u64,
        dtype: Dtype,
        weights: &mut Weights,
    ) -> Result<(), Refusal> {
        let inward = if experts.gated { 2 } else { 1 } * inner;
        let one = experts.hidden.saturating_mul(inward.saturating_add(inner));
        weights.add(dtype, experts.experts.saturating_mul(one));
        if experts.bias {
            weights.add(dtype, experts.experts.saturating_mul(inward + experts.hidden));
        }
        Ok(())
    }

    /// A table on one rank, of `rows` rows.
    #[expect(clippy::unnecessary_wraps, reason = "quantised forms refuse shapes they cannot pack")]
    pub(crate) fn embedding(
        &self,
        _name: &str,
        embedding: &Embedding,
        rows: u64,
        dtype: Dtype,
        weights: &mut Weights,
    ) -> Result<(), Refusal> {
        weights.add(dtype, rows.saturating_mul(embedding.columns));
        if embedding.bias {
            weights.add(dtype, rows);
        }
        Ok(())
    }
}
