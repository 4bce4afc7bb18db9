//! Which library asked for a driver allocation, by return addresses: in the callback of the call we
//! are on the thread that made it, with its stack above us.
//!
//! No lock is taken and nothing allocated. The stack is read through the kernel
//! (`by_stack/stack.rs`), frames are followed by unwind tables alone (`by_stack/unwind.rs`), and the
//! loader is asked for what is loaded at this moment (`by_stack/object.rs`), so that libraries may
//! come and go. What has no certain answer is [`LibraryId::UNKNOWN`], and counted by why.
//!
//! Where there is no such method (other processors than x86-64, C libraries other than glibc 2.35
//! and later, sandboxes without `process_vm_readv`), nobody looks, and [`unseen`] says so.
//!
//! What it cannot see: a library that passes its caller's call on by a *jump* leaves no frame. Where
//! the call before that names its function, the library is found all the same; where it was called
//! by pointer, its caller is named.

#[cfg_attr(
    not(all(
        feature = "attribution",
        target_arch = "x86_64",
        target_os = "linux",
        target_env = "gnu"
    )),
    path = "absent.rs"
)]
mod by_stack;

#[cfg(feature = "bench-internals")]
pub mod bench;

use crate::event::{Libraries, LibraryId};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The libraries that were met, for the life of the process.
static LIBRARIES: Libraries = Libraries::new();

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Why nobody looks.
static WHY_OFF: Mutex<Option<String>> = Mutex::new(None);

/// Allocations without an answer, by why: in the order of [`by_stack::REASONS`].
static WITHOUT_ANSWER: [AtomicU64; by_stack::REASONS.len()] =
    [const { AtomicU64::new(0) }; by_stack::REASONS.len()];

/// From now on [`library_here`] answers, if that is wanted and there is a method here. May allocate
/// and takes the loader's lock: for the thread that attaches.
pub(crate) fn start(is_wanted: bool) {
    let method = if is_wanted {
        by_stack::prepare()
    } else {
        Err("not asked for (MEMVELOPE_ATTRIBUTION=off)".into())
    };
    for count in &WITHOUT_ANSWER {
        count.store(0, Ordering::Relaxed);
    }
    IS_ON.store(method.is_ok(), Ordering::Release);
    *WHY_OFF.lock().unwrap_or_else(PoisonError::into_inner) = method.err();
}

/// The library that asked for what the driver is doing on this thread. For allocation callbacks.
pub(crate) fn library_here() -> LibraryId {
    if !IS_ON.load(Ordering::Acquire) {
        return LibraryId::UNKNOWN;
    }
    match by_stack::look(&LIBRARIES) {
        Ok(library) => library,
        Err(why) => {
            if let Some(count) = WITHOUT_ANSWER.get(why) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            LibraryId::UNKNOWN
        }
    }
}

/// The names of the libraries that were met, by number.
pub(crate) fn names() -> Vec<String> {
    LIBRARIES.names()
}

/// What is not known of who asked, one sentence each.
pub(crate) fn unseen() -> Vec<String> {
    let why_off = WHY_OFF.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let off = why_off.map(|why| format!("which library asked for an allocation: {why}"));
    let counts = by_stack::REASONS.iter().zip(&WITHOUT_ANSWER);
    let counts = counts.map(|(why, count)| (why, count.load(Ordering::Relaxed)));
    let untold = counts
        .filter(|(_, count)| *count > 0)
        .map(|(why, count)| format!("{count} allocations whose library could not be told: {why}"));
    off.into_iter().chain(untold).collect()
}
