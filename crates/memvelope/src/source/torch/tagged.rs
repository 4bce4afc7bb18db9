//! Tags of blocks inside the caching allocator. The driver sees segments, not blocks, and the
//! allocator has no place for a tag: so what came to be in use within a scope is remembered by
//! address and size, until it is in use no more.
//!
//! What this cannot know: which thread asked (blocks of other threads that came in the same time are
//! taken for the scope's); and a block that was freed and handed out again at the same address for a
//! request of the same size, unseen, keeps its tag.

use crate::event::Tag;
use std::sync::atomic::{AtomicU64, Ordering};

/// A block in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveBlock {
    /// Its address.
    pub address: u64,
    /// Bytes that were asked for.
    pub requested_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Tagged {
    block: LiveBlock,
    tag: Tag,
    /// When, counted in scopes that began or ended.
    at: u64,
}

/// What a scope found in use when it began.
#[derive(Debug)]
pub struct TagScope {
    before: Vec<LiveBlock>,
    began: u64,
}

/// Scopes that began or ended, of all devices.
static MOMENTS: AtomicU64 = AtomicU64::new(0);

fn moment() -> u64 {
    MOMENTS.fetch_add(1, Ordering::Relaxed)
}

/// The blocks of one device that have a tag.
#[derive(Clone, Debug, Default)]
pub struct TaggedBlocks {
    /// By address.
    blocks: Vec<Tagged>,
    refused: u64,
}

impl TaggedBlocks {
    /// Blocks that are remembered; later ones are counted and have no tag. At 40 bytes each, 5 MiB.
    pub const MAX: usize = 1 << 17;

    /// A scope begins, and `live` is in use. In any order.
    #[must_use]
    pub fn begin(mut live: Vec<LiveBlock>) -> TagScope {
        live.sort_unstable();
        TagScope { before: live, began: moment() }
    }

    /// A scope is over, and `live` is in use, in any order: what was not when it began is `tag` from
    /// now on, except what scopes inside of it tagged. Returns the number of blocks that it tagged.
    pub fn end(&mut self, scope: &TagScope, mut live: Vec<LiveBlock>, tag: Tag) -> u64 {
        live.sort_unstable();
        live.dedup_by_key(|block| block.address);
        let at = moment();
        let mut fresh = Vec::new();
        let mut count = 0;
        for block in live {
            if scope.before.binary_search(&block).is_ok() {
                continue;
            }
            match self.blocks.binary_search_by_key(&block.address, |it| it.block.address) {
                Ok(known) => {
                    let Some(known) = self.blocks.get_mut(known) else { continue };
                    // The innermost holds: it ended first, and after this one began.
                    if known.at < scope.began || known.block != block {
                        *known = Tagged { block, tag, at };
                        count += 1;
                    }
                }
                Err(_) if self.blocks.len() + fresh.len() < Self::MAX => {
                    fresh.push(Tagged { block, tag, at });
                    count += 1;
                }
                Err(_) => self.refused += 1,
            }
        }
        self.blocks.append(&mut fresh);
        self.blocks.sort_unstable_by_key(|it| it.block.address);
        count
    }

    /// Forgets blocks that a reading found not to be in use any more
    /// ([`super::Reading::gone`]). What was tagged since that reading began stays.
    pub fn forget(&mut self, gone: &[(LiveBlock, u64)]) {
        if gone.is_empty() {
            return;
        }
        self.blocks.retain(|known| gone.binary_search(&(known.block, known.at)).is_err());
    }

    /// Blocks that have a tag.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether none has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Blocks that got no tag because there were [`Self::MAX`].
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }
}

/// Finds the tags of blocks that come in the order of their addresses, or nearly so.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    blocks: &'a [Tagged],
    /// Where the last one was found or missed.
    at: usize,
    /// Whether it was found, by place.
    seen: Vec<bool>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(tagged: &'a TaggedBlocks) -> Self {
        Self { blocks: &tagged.blocks, at: 0, seen: vec![false; tagged.blocks.len()] }
    }

    pub(super) fn find(&mut self, address: u64, requested: u64) -> Tag {
        if self.blocks.get(self.at).is_none_or(|it| it.block.address != address) {
            let before = self.at.checked_sub(1).and_then(|at| self.blocks.get(at));
            let next = self.blocks.get(self.at);
            let is_between = before.is_none_or(|it| it.block.address < address)
                && next.is_none_or(|it| address < it.block.address);
            if !is_between {
                self.at = self.blocks.partition_point(|it| it.block.address < address);
            }
        }
        let Some(known) = self.blocks.get(self.at) else { return Tag::Untagged };
        if known.block != (LiveBlock { address, requested_bytes: requested }) {
            return Tag::Untagged;
        }
        if let Some(seen) = self.seen.get_mut(self.at) {
            *seen = true;
        }
        self.at += 1;
        known.tag
    }

    /// What was not found, in order.
    pub(super) fn gone(self) -> Vec<(LiveBlock, u64)> {
        let all = self.blocks.iter().zip(self.seen);
        all.filter(|(_, seen)| !seen).map(|(known, _)| (known.block, known.at)).collect()
    }
}
