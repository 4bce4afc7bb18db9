//! Bounds of what is read. Each is far above any model published so far, and together they bound
//! the time and memory that a hostile config can cost.

pub(crate) const LAYERS_MAX: u32 = 1 << 11;
pub(crate) const HEADS_MAX: u32 = 1 << 14;
pub(crate) const HEAD_DIM_MAX: u32 = 1 << 14;
pub(crate) const WIDTH_MAX: u32 = 1 << 20;
pub(crate) const INNER_MAX: u32 = 1 << 24;
pub(crate) const EXPERTS_MAX: u32 = 1 << 14;
pub(crate) const VOCAB_MAX: u32 = 1 << 26;
pub(crate) const TOKENS_MAX: u32 = 1 << 30;
