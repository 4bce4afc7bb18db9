//! How many bytes the parameters of a model take on one rank, tensor by tensor, as the engine
//! constructs them (before it repacks anything after loading).

pub(crate) mod module;
pub(crate) mod quant;
mod rank;

use super::dtype::Dtype;
use super::refusal::{Refusal, RefusalRule};
use crate::units::Bytes;
use module::{Module, ModuleKind};

use quant::{Hardware, Quantization, Tally};
use serde::Serialize;
use std::collections::BTreeMap;

/// All modules of a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) modules: Vec<Module>,
    /// Why some of the modules are not in the list, if so.
    pub(crate) unknown: Option<String>,
    /// The engine's model class refuses more ranks than this: it has so many experts.
    pub(crate) ranks_max: Option<u64>,
    /// The engine's model class refuses ranks that do not divide this, and what it is.
    pub(crate) ranks_divide: Option<(&'static str, u64)>,
    /// Rows of output matrices that are built before another table takes their place: nothing
    /// remains of them but that they have to divide.
    pub(crate) tied_heads: Vec<u64>,
}

/// Parameters on one tensor-parallel rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Weights {
    /// Elements of all parameters as stored; packed types count their containers.
    pub param_count: u64,
    /// Bytes of all parameters.
    pub param_bytes: Bytes,
    /// The same bytes by stored type.
    pub bytes_by_dtype: BTreeMap<Dtype, Bytes>,
}

impl Weights {
    pub(crate) fn add(&mut self, dtype: Dtype, elements: u64) {
        if elements == 0 {
            return;
        }
        let bytes = Bytes(elements.saturating_mul(dtype.bytes()));
        self.param_count = self.param_count.saturating_add(elements);
        self.param_bytes = self.param_bytes.saturating_add(bytes);
        let of_dtype = self.bytes_by_dtype.entry(dtype).or_default();
        *of_dtype = of_dtype.saturating_add(bytes);
    }
}

impl Inventory {
    /// What one of `tp` ranks holds.
    ///
    /// # Errors
    /// [`Refusal`] when something does not divide, or the weights are not known.
    pub(crate) fn on_rank(
        &self,
        tp: u64,
        dtype: Dtype,
        quantization: &Quantization,
        hardware: Hardware,
    ) -> Result<Weights, Refusal> {
        match &self.unknown {
            Some(why) => Err(Refusal::new(RefusalRule::UnknownWeights, why)),
            None => self.known_on_rank(tp, dtype, quantization, hardware),
        }
    }

    fn check_ranks(&self, tp: u64) -> Result<(), Refusal> {
        let reason = match (self.ranks_max, self.ranks_divide) {
            _ if tp == 0 => "no ranks at all".to_owned(),
            (Some(experts), _) if tp > experts => format!("{tp} ranks for {experts} experts"),
            (_, Some((what, count))) if !count.is_multiple_of(tp) => {
                format!("{count} {what} do not divide over {tp} ranks, and none is replicated")
            }
            _ => return Ok(()),
        };
        Err(Refusal::new(RefusalRule::TensorParallel, reason))
    }

    /// As [`Self::on_rank`], of the listed modules alone.
    pub(crate) fn known_on_rank(
        &self,
        tp: u64,
        dtype: Dtype,
        quantization: &Quantization,
        hardware: Hardware,
    ) -> Result<Weights, Refusal> {
        self.check_ranks(tp)?;
        for rows in &self.tied_heads {
            rank::vocabulary_rows("output matrix", *rows, tp)?;
        }
        quantization.check(dtype, hardware)?;
        let mut tally = Tally::default();
        for Module { name, kind } in &self.modules {
            match kind {
                ModuleKind::Linear(linear) => {
                    let is_whole = linear.whole_for_marlin && quantization.is_marlin_only();
                    let shape = rank::linear(name, linear, if is_whole { 1 } else { tp })?;
                    let is_single = linear.single_compute && !hardware.has_single_gemm();
                    let dtype = if is_single { Dtype::Float32 } else { dtype };
                    let dtype = linear.dtype.unwrap_or(dtype);
                    quantization.linear(name, linear, &shape, dtype, hardware, &mut tally)?;
                }
                ModuleKind::Experts(experts) => {
                    let inner = rank::share(name, "expert width", experts.inner, tp)?;
                    quantization.experts(name, experts, inner, dtype, hardware, &mut tally)?;
                }
                ModuleKind::WideExperts(experts, least) => {
                    let inner = match tp > 1 && experts.inner / tp < *least {
                        true => *least,
                        false => rank::share(name, "expert width", experts.inner, tp)?,
                    };
                    quantization.experts(name, experts, inner, dtype, hardware, &mut tally)?;
                }
                ModuleKind::Embedding(embedding) => {
                    let rows = rank::embedding_rows(name, embedding, tp)?;
                    quantization.embedding(name, embedding, rows, dtype, hardware, &mut tally)?;
                }
                ModuleKind::Param(param) => {
                    let elements = match param.divided {
                        true => {
                            let parts = param.parts_max.map_or(tp, |max| tp.min(max.max(1)));
                            rank::share(name, "parameter", param.elements, parts)?
                        }
                        false => param.elements,
                    };
                    let elements = elements.div_ceil(param.multiple.max(1));
                    let elements = elements.saturating_mul(param.multiple.max(1));
                    tally.weights.add(param.dtype.unwrap_or(dtype), elements);
                }
            }
            if tally.effort.is_spent() {
                let reason = "the lists of modules that are quantised differently are too long to \
                              be searched for every module";
                return Err(Refusal::new(RefusalRule::UnknownWeights, reason));
            }
        }
        quantization.cache_scales(tp, dtype, &mut tally.weights);
        Ok(tally.weights)
    }
}
