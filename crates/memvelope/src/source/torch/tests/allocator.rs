//! An allocator that plays PyTorch's, so that its snapshots have their shape: built from the
//! documented format, not recorded. Splits, merges, expandable segments, private pools, streams,
//! blocks that await a stream.

use crate::framework::SizeClass;
use crate::source::torch::{Block, BlockState, LARGE_SEGMENT, SMALL_SEGMENT, SegmentHead};

/// A segment with its blocks.
pub(super) type Told = (SegmentHead, Vec<Block>);

#[derive(Clone, Debug, Default)]
pub(super) struct Allocator {
    pub(super) segments: Vec<Told>,
    pub(super) is_expandable: bool,
    next: u64,
}

impl Allocator {
    /// Allocates; returns where: the segment's address and the block's.
    pub(super) fn allocate(&mut self, asked: u64, pool: (u64, u64), stream: u64) -> u64 {
        let bytes = asked.max(1).next_multiple_of(512);
        let class = if bytes <= 1 << 20 { SizeClass::Small } else { SizeClass::Large };
        let (segment, at) = self.free_block(bytes, pool, stream, class).unwrap_or_else(|| {
            self.take(bytes, pool, stream, class);
            (self.segments.len() - 1, 0)
        });
        let (head, blocks) = &mut self.segments[segment];
        let rest = blocks[at].bytes - bytes;
        let splits = if class == SizeClass::Small || head.is_expandable {
            rest >= 512
        } else {
            rest > 1 << 20
        };
        if splits {
            // What is left keeps the size that was asked for last, as PyTorch's does.
            blocks.insert(at + 1, Block { bytes: rest, ..blocks[at] });
            blocks[at].bytes = bytes;
        }
        blocks[at].requested_bytes = Some(asked);
        blocks[at].state = BlockState::Allocated;
        head.address + blocks[..at].iter().map(|block| block.bytes).sum::<u64>()
    }

    /// Frees the block at an address; `waits`: another stream may still use it.
    pub(super) fn free(&mut self, address: u64, waits: bool) {
        let (segment, at) = self.find(address);
        let blocks = &mut self.segments[segment].1;
        blocks[at].state = if waits { BlockState::AwaitingFree } else { BlockState::Inactive };
        if waits {
            return;
        }
        let is_free =
            |block: Option<&Block>| block.is_some_and(|b| b.state == BlockState::Inactive);
        if is_free(blocks.get(at + 1)) {
            blocks[at].bytes += blocks.remove(at + 1).bytes;
        }
        if at > 0 && is_free(blocks.get(at - 1)) {
            blocks[at - 1].bytes += blocks.remove(at).bytes;
        }
    }

    /// The snapshot, with addresses and sums as PyTorch tells them.
    pub(super) fn snapshot(&self) -> Vec<Told> {
        let mut told = self.segments.clone();
        for (head, blocks) in &mut told {
            let mut address = head.address;
            for block in blocks.iter_mut() {
                block.address = Some(address);
                address += block.bytes;
            }
            let of = |wanted: &[BlockState]| {
                let chosen = blocks.iter().filter(|block| wanted.contains(&block.state));
                chosen.map(|block| block.bytes).sum()
            };
            head.allocated_bytes = Some(of(&[BlockState::Allocated]));
            head.active_bytes = Some(of(&[BlockState::Allocated, BlockState::AwaitingFree]));
        }
        told.sort_by_key(|(head, _)| head.address);
        told
    }

    fn find(&self, address: u64) -> (usize, usize) {
        for (segment, (head, blocks)) in self.segments.iter().enumerate() {
            let mut at = head.address;
            for (index, block) in blocks.iter().enumerate() {
                if at == address {
                    return (segment, index);
                }
                at += block.bytes;
            }
        }
        panic!("no block at {address:#x}");
    }

    fn free_block(
        &self,
        bytes: u64,
        pool: (u64, u64),
        stream: u64,
        class: SizeClass,
    ) -> Option<(usize, usize)> {
        let spaces = self.segments.iter().enumerate();
        let mine = spaces
            .filter(|(_, (head, _))| (head.pool, head.stream, head.class) == (pool, stream, class));
        let free = mine.flat_map(|(segment, (_, blocks))| {
            let fits = blocks.iter().enumerate().filter(move |(_, block)| {
                block.state == BlockState::Inactive && block.bytes >= bytes
            });
            fits.map(move |(at, block)| (block.bytes, segment, at))
        });
        free.min().map(|(_, segment, at)| (segment, at))
    }

    fn take(&mut self, bytes: u64, pool: (u64, u64), stream: u64, class: SizeClass) {
        let page = if class == SizeClass::Small { SMALL_SEGMENT.0 } else { LARGE_SEGMENT.0 };
        let size = match (self.is_expandable, class) {
            (true, _) => bytes.next_multiple_of(page),
            (false, SizeClass::Small) => page,
            (false, SizeClass::Large) if bytes < 10 << 20 => page,
            (false, SizeClass::Large) => bytes.next_multiple_of(2 << 20),
        };
        let address = self.next.max(0x7f00_0000_0000);
        self.next = address + size;
        let head = SegmentHead {
            address,
            bytes: size,
            stream,
            class,
            pool,
            is_expandable: self.is_expandable,
            ..SegmentHead::default()
        };
        let (requested_bytes, state) = (Some(0), BlockState::Inactive);
        self.segments
            .push((head, vec![Block { address: None, bytes: size, requested_bytes, state }]));
    }
}
