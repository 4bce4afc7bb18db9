//! The method: frames by unwind tables, on a copy of the stack.

mod name;
mod object;
mod rules;
mod stack;
mod unwind;
mod walk;

use crate::event::{Libraries, LibraryId};
use name::Role;
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use walk::{Scratch, Why};

/// Threads that may be looking at once: a look takes microseconds, between driver calls that take
/// more and wait for each other.
const SCRATCHES: usize = 16;

/// What looks work with, made when attribution begins, and kept: some 70 KiB each, of which what no
/// stack was deep enough for is never touched.
static POOL: OnceLock<Vec<Mutex<Scratch>>> = OnceLock::new();

/// Why there may be no answer.
pub(super) const REASONS: [&str; Why::COUNT] = {
    let mut texts = [""; Why::COUNT];
    let mut at = 0;
    while at < texts.len() {
        texts[at] = Why::ALL[at].text();
        at += 1;
    }
    texts
};

/// Copies what a look copies first, for the bench.
#[cfg(feature = "bench-internals")]
pub(super) const PROBE: Option<fn() -> bool> = Some(stack::copies);

/// Makes ready; why there is no method here.
pub(super) fn prepare() -> Result<(), String> {
    if !object::look_up() {
        return Err("this C library is older than glibc 2.35 (no _dl_find_object)".into());
    }
    stack::probe().map_err(|errno| {
        let error = std::io::Error::from_raw_os_error(errno);
        format!("process_vm_readv is not permitted in this container or sandbox ({error})")
    })?;
    let make = || (0..SCRATCHES).map(|_| Mutex::new(Scratch::new())).collect();
    POOL.get_or_init(make);
    Ok(())
}

/// Who asked for what the driver is doing on this thread; else why that is not known, as a place in
/// [`REASONS`].
pub(super) fn look(libraries: &Libraries) -> Result<LibraryId, usize> {
    let role = POOL.get().ok_or(Why::Busy).and_then(|pool| {
        // Nobody waits: whoever finds all in use has no answer.
        let free = |scratch| match Mutex::try_lock(scratch) {
            Ok(scratch) => Some(scratch),
            // Whatever a panic left in it, the next look begins anew.
            Err(TryLockError::Poisoned(scratch)) => Some(PoisonError::into_inner(scratch)),
            Err(TryLockError::WouldBlock) => None,
        };
        let mut scratch = pool.iter().find_map(free).ok_or(Why::Busy)?;
        walk::asker(&mut scratch)
    });
    match role.map_err(|why| why as usize)? {
        Role::Library(name) => Ok(libraries.intern(name.as_str())),
        Role::Program => Ok(LibraryId::PROGRAM),
        Role::Plumbing | Role::Transparent => Ok(LibraryId::UNKNOWN),
    }
}
