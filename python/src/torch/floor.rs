//! The floor of `benches/python_torch.py`: the builder alone, on plain arrays. Private, and measured
//! in the same run as what it is a part of.

use crate::errors::{guarded, raised};
use memvelope::event::DeviceIndex;
use memvelope::framework::SizeClass;
use memvelope::source::torch::{Block, BlockState, Builder, SegmentHead};
use pyo3::prelude::*;
use std::time::Instant;

/// Nanoseconds in which `blocks` blocks, `a_segment` in each segment, are summed up.
#[pyfunction]
pub(crate) fn _torch_builder_ns(py: Python<'_>, blocks: u64, a_segment: u64) -> PyResult<u64> {
    guarded(|| {
        let states = [
            BlockState::Allocated,
            BlockState::Inactive,
            BlockState::Allocated,
            BlockState::AwaitingFree,
        ];
        let block = |(index, state): (u64, BlockState)| {
            let bytes = 1024 + 512 * (index % 7);
            Block { address: None, bytes, requested_bytes: Some(bytes - 100), state }
        };
        let one: Vec<_> = (0..a_segment).zip(states.into_iter().cycle()).map(block).collect();
        // As many as there are, so that they come from memory as those of a snapshot do.
        let count = usize::try_from(blocks).unwrap_or(0);
        let all: Vec<Block> = one.iter().copied().cycle().take(count).collect();
        let bytes: u64 = one.iter().map(|block| block.bytes).sum();
        let began = Instant::now();
        let mut builder = Builder::new(DeviceIndex(0));
        let mut address = 0x7f00_0000_0000;
        let summed = all.chunks_exact(one.len().max(1)).try_for_each(|blocks| {
            builder.segment(SegmentHead {
                address,
                bytes,
                class: SizeClass::Large,
                ..SegmentHead::default()
            })?;
            address += bytes;
            blocks.iter().try_for_each(|block| builder.block(block))
        });
        summed.and_then(|()| builder.finish().map(drop)).map_err(|error| raised(py, &error))?;
        Ok(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    })
}
