//! One page size for attention and state layers.
//!
//! Rules of `vllm/platforms/interface.py` (`_align_hybrid_block_size`).

use super::kernel::Size;
use super::spec::lcm;

/// What the alignment decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Tokens a block of the attention layers.
    pub(crate) block_size: u64,
    /// The page that state layers are padded to, if it is larger than theirs.
    pub(crate) state_page: Option<u64>,
}

/// The smallest block whose attention page holds a state, in steps that all kernels take.
///
/// `sizes` are the block sizes of each attention backend, the first backend's first;
/// `attention_bytes` is what a token takes in one attention layer, `state_bytes` a state.
pub(crate) fn align(
    sizes: &[Vec<Size>],
    is_mla: bool,
    attention_bytes: u64,
    state_bytes: u64,
    block_size: u64,
) -> Alignment {
    if state_bytes == 0 || attention_bytes == 0 {
        return Alignment { block_size, state_page: None };
    }
    let first = sizes.first().map_or(1, |sizes| Size::smallest(sizes));
    let mut step = first.max(block_size);
    if is_mla {
        // The MLA kernels want the number of their blocks aligned to 128 tokens.
        step = step.max(128);
    }
    let all = sizes
        .iter()
        .filter(|sizes| !sizes.is_empty())
        .map(|sizes| Size::smallest(sizes))
        .fold(1, lcm)
        .max(1);
    let wanted = step.saturating_mul(state_bytes.div_ceil(step.saturating_mul(attention_bytes)));
    let wanted = wanted.checked_next_multiple_of(all).unwrap_or(wanted);
    let block_size = block_size.max(wanted);
    let page = block_size.saturating_mul(attention_bytes);
    Alignment { block_size, state_page: (page != state_bytes).then_some(page) }
}
