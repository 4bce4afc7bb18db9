//! Tags: what the allocating code says an allocation is for.

use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::sync::OnceLock;

/// What an allocation is for, as far as the allocating code said so with [`tagged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Tag {
    /// Nobody said.
    #[default]
    Untagged,
    /// Model weights.
    Weights,
    /// KV cache.
    KvCache,
    /// Activations and workspaces of the running step.
    Activations,
    /// Captured graphs.
    Graphs,
    /// Kept away from us on purpose, so that only a part of the device is used.
    Withheld,
}

impl Tag {
    /// How many tags there are.
    pub const COUNT: usize = 6;

    /// Every tag, in the order of its discriminants.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Untagged,
        Self::Weights,
        Self::KvCache,
        Self::Activations,
        Self::Graphs,
        Self::Withheld,
    ];
}

thread_local! {
    // const-initialised and without a destructor: reading it in a driver callback neither
    // allocates nor touches a lock, even while the thread is being torn down.
    static CURRENT_TAG: Cell<Tag> = const { Cell::new(Tag::Untagged) };
}

/// Sets the tag in force in the copy of memvelope that records, if that is another one; returns the
/// former.
pub(crate) type ForwardTag = fn(Tag) -> Option<Tag>;

/// Set once by a copy that becomes the client of another.
static FORWARD: OnceLock<ForwardTag> = OnceLock::new();

/// From now on tags are also told to the copy that records.
pub(crate) fn forward_tags(forward: ForwardTag) {
    // A second time it is the same function.
    let _ = FORWARD.set(forward);
}

fn forwarded(tag: Tag) -> Option<Tag> {
    FORWARD.get().and_then(|forward| forward(tag))
}

/// Driver allocations made by this thread until the guard drops carry `tag`. Nests.
///
/// ```
/// use memvelope::event::{Tag, current_tag, tagged};
/// let outer = tagged(Tag::Weights);
/// assert_eq!(current_tag(), Tag::Weights);
/// drop(outer);
/// assert_eq!(current_tag(), Tag::Untagged);
/// ```
#[must_use = "the tag ends when the guard drops"]
pub fn tagged(tag: Tag) -> TagGuard {
    let before = set_current_tag(tag);
    TagGuard { before, forwarded: forwarded(tag), _not_send: std::marker::PhantomData }
}

/// The tag in force on this thread.
#[must_use]
pub fn current_tag() -> Tag {
    CURRENT_TAG.with(Cell::get)
}

/// Puts `tag` in force on this thread; returns the former.
pub(crate) fn set_current_tag(tag: Tag) -> Tag {
    CURRENT_TAG.with(|cell| cell.replace(tag))
}

/// Restores the former tag when dropped. Belongs to its thread.
#[derive(Debug)]
pub struct TagGuard {
    before: Tag,
    /// The former tag of the copy that records.
    forwarded: Option<Tag>,
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for TagGuard {
    fn drop(&mut self) {
        set_current_tag(self.before);
        if let Some(before) = self.forwarded {
            forwarded(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_nest() {
        let outer = tagged(Tag::Weights);
        {
            let _inner = tagged(Tag::KvCache);
            assert_eq!(current_tag(), Tag::KvCache);
        }
        assert_eq!(current_tag(), Tag::Weights);
        drop(outer);
        assert_eq!(current_tag(), Tag::Untagged);
    }
}
