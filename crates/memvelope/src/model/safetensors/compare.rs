//! What a checkpoint holds beside what the engine builds.

use super::{Checkpoint, StoredDtype};
use crate::model::Layout;
use crate::model::refusal::Refusal;
use crate::model::weights::module::{EmbeddingSplit, ModuleKind};
use crate::units::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;

/// How a checkpoint compares with what the engine builds from the config on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Bytes of all tensors of the checkpoint.
    pub stored: Bytes,
    /// Bytes of all parameters that the engine builds.
    pub planned: Bytes,
    /// Why they differ, as far as it is known: positive where the checkpoint holds more.
    pub reasons: BTreeMap<Reason, i64>,
    /// What the reasons leave.
    pub unexplained: i64,
}

/// Why a checkpoint and the engine's parameters differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The output matrix is stored though the engine shares the embedding's.
    TiedHead,
    /// The output matrix is not stored though the engine builds one.
    MissingHead,
    /// Layers beyond the model's own, which predict several tokens at once (MTP).
    DraftLayers,
    /// Tables that are computed, not loaded (`inv_freq`).
    Computed,
    /// Tensors stored in more than 16 bits though served in 16.
    WiderDtype,
    /// Rows that the engine adds to tables of the vocabulary.
    VocabularyPadding,
}

impl Checkpoint {
    /// Compares the checkpoint with what the engine builds from the config, on one GPU.
    ///
    /// # Errors
    /// [`Refusal`] when the config does not say what the weights take.
    pub fn compare(&self, layout: &Layout) -> std::result::Result<Comparison, Refusal> {
        let planned = layout.weights(1)?.param_bytes;
        let mut reasons: BTreeMap<Reason, i64> = BTreeMap::new();
        let mut add = |reason, bytes: u64, sign: i64| {
            if bytes > 0 {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(sign);
                let sum = reasons.entry(reason).or_default();
                *sum = sum.saturating_add(bytes);
            }
        };
        let served = layout.dtype.bytes();
        let mut has_head = None;
        for module in &layout.inventory().modules {
            let ModuleKind::Embedding(table) = &module.kind else { continue };
            if table.split == EmbeddingSplit::Vocabulary {
                // As `rank.rs` pads them.
                let rows = table.rows.next_multiple_of(64) - table.rows;
                add(Reason::VocabularyPadding, rows.saturating_mul(table.columns) * served, -1);
            }
            if table.is_head {
                has_head = Some(table.rows.saturating_mul(table.columns).saturating_mul(served));
            }
        }
        let mut stores_head = false;
        for tensor in &self.tensors {
            let name = tensor.name.as_str();
            let is_head = name == "lm_head.weight" || name.ends_with(".lm_head.weight");
            stores_head |= is_head;
            let own = match () {
                () if name.ends_with("inv_freq") => Some(Reason::Computed),
                () if is_draft(name, layout.layers) => Some(Reason::DraftLayers),
                () if is_head && has_head.is_none() => Some(Reason::TiedHead),
                () => None,
            };
            match own {
                Some(reason) => add(reason, tensor.bytes.0, 1),
                None if matches!(tensor.dtype, StoredDtype::F32 | StoredDtype::F64) => {
                    let as_served = tensor.elements.saturating_mul(served);
                    add(Reason::WiderDtype, tensor.bytes.0.saturating_sub(as_served), 1);
                }
                None => {}
            }
        }
        if let Some(bytes) = has_head.filter(|_| !stores_head) {
            add(Reason::MissingHead, bytes, -1);
        }
        let signed = |bytes: Bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX);
        let known = reasons.values().fold(0_i64, |sum, &bytes| sum.saturating_add(bytes));
        let differ = signed(self.bytes).saturating_sub(signed(planned));
        Ok(Comparison {
            stored: self.bytes,
            planned,
            reasons,
            unexplained: differ.saturating_sub(known),
        })
    }
}

/// Whether a tensor is of a layer beyond the model's `layers`.
fn is_draft(name: &str, layers: u32) -> bool {
    if name.starts_with("mtp.") || name.contains(".mtp.") {
        return true;
    }
    let layer = name.split_once("layers.").and_then(|(_, rest)| rest.split('.').next());
    layer.and_then(|layer| layer.parse::<u32>().ok()).is_some_and(|layer| layer >= layers)
}
