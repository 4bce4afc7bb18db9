//! Why an engine would not start.

use serde::Serialize;
use std::fmt;

/// Why an engine would not start with this model and these parameters, in our words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Which rule refuses.
    pub rule: RefusalRule,
    /// What is wrong, with the numbers, and what would be right.
    pub reason: String,
}

/// The rule that refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalRule {
    /// Something does not divide over the tensor-parallel ranks.
    TensorParallel,
    /// No kernel serves this combination on this device.
    Backend,
    /// The dtype or quantisation is not served on this device.
    Dtype,
    /// The block size is not one that the kernels accept.
    BlockSize,
    /// The cache pages of the layers cannot be made equal.
    Pages,
    /// A request of the declared length does not fit.
    Memory,
    /// The config does not say what the weights take; the caches are known nevertheless.
    UnknownWeights,
    /// A parameter is out of its range.
    Parameter,
}

impl Refusal {
    pub(crate) fn new(rule: RefusalRule, reason: impl Into<String>) -> Self {
        Self { rule, reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}
