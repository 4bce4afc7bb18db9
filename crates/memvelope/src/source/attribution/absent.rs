//! Where there is no method.

use crate::event::{Libraries, LibraryId};

pub(super) const REASONS: [&str; 0] = [];

#[cfg(feature = "bench-internals")]
pub(super) const PROBE: Option<fn() -> bool> = None;

/// Why.
pub(super) fn prepare() -> Result<(), String> {
    let what = if cfg!(feature = "attribution") {
        "stacks are only read on x86-64 with glibc"
    } else {
        "this build of memvelope is without it (feature `attribution`)"
    };
    Err(what.into())
}

/// Never called: [`prepare`] failed.
pub(super) fn look(_libraries: &Libraries) -> Result<LibraryId, usize> {
    Ok(LibraryId::UNKNOWN)
}
