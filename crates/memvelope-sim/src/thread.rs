//! What belongs to the calling thread: its stack of current contexts and its number.
//!
//! Everything here is `Copy` and without destructors, so that calls made while a thread ends (a
//! `Drop` of somebody's thread-local, say) still work.

#![expect(unsafe_code, reason = "asks the system which thread this is")]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Depth of the context stack; deeper pushes are refused. Programs use one or two.
const DEPTH: usize = 32;

thread_local! {
    static STACK: Cell<([u64; DEPTH], usize)> = const { Cell::new(([0; DEPTH], 0)) };
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// `CUstreamCaptureMode`: global until the thread says otherwise.
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(0) };
    static IN_CLIENT: Cell<bool> = const { Cell::new(false) };
}

/// The current context's handle; 0 when there is none.
pub(crate) fn current() -> u64 {
    STACK.with(|stack| {
        let (handles, depth) = stack.get();
        if depth == 0 { 0 } else { handles[depth - 1] }
    })
}

/// Replaces the top of the stack (`cuCtxSetCurrent`); 0 pops it.
pub(crate) fn set_current(handle: u64) {
    STACK.with(|stack| {
        let (mut handles, depth) = stack.get();
        let depth = match (handle, depth) {
            (0, depth) => depth.saturating_sub(1),
            (_, 0) => 1,
            (_, depth) => depth,
        };
        if handle != 0 {
            handles[depth - 1] = handle;
        }
        stack.set((handles, depth));
    });
}

/// Pushes a context; `false` when the stack is full.
pub(crate) fn push(handle: u64) -> bool {
    STACK.with(|stack| {
        let (mut handles, depth) = stack.get();
        if depth == DEPTH {
            return false;
        }
        handles[depth] = handle;
        stack.set((handles, depth + 1));
        true
    })
}

/// Pops the current context; `None` when there is none.
pub(crate) fn pop() -> Option<u64> {
    STACK.with(|stack| {
        let (handles, depth) = stack.get();
        let depth = depth.checked_sub(1)?;
        stack.set((handles, depth));
        Some(handles[depth])
    })
}

/// A small number of the calling thread, 1 for the first one that asks.
pub(crate) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Whether records name threads by the system's id, or (CUPTI's default) by the low half of
/// `pthread_self`.
static SYSTEM_IDS: AtomicBool = AtomicBool::new(false);

pub(crate) fn use_system_ids(on: bool) {
    SYSTEM_IDS.store(on, Ordering::Relaxed);
}

pub(crate) fn uses_system_ids() -> bool {
    SYSTEM_IDS.load(Ordering::Relaxed)
}

/// Process and thread as records name them, 32 bits each.
pub(crate) fn ids() -> (u64, u64) {
    let thread = if uses_system_ids() {
        // SAFETY: asks for the calling thread's id, and cannot fail.
        u64::from(unsafe { libc::gettid() }.cast_unsigned())
    } else {
        // SAFETY: as above.
        unsafe { libc::pthread_self() as u64 & 0xffff_ffff }
    };
    (u64::from(std::process::id()), thread)
}

pub(crate) fn capture_mode() -> u32 {
    CAPTURE_MODE.with(Cell::get)
}

/// Sets the thread's stream capture mode and returns the former one.
pub(crate) fn exchange_capture_mode(mode: u32) -> u32 {
    CAPTURE_MODE.with(|current| current.replace(mode))
}

/// Runs `client`, a callback of the CUPTI client, so that calls it makes raise no callbacks of
/// their own. Returns `None` without running it when one is already running on this thread.
pub(crate) fn in_client<R>(client: impl FnOnce() -> R) -> Option<R> {
    if IN_CLIENT.with(|flag| flag.replace(true)) {
        return None;
    }
    let result = client();
    IN_CLIENT.with(|flag| flag.set(false));
    Some(result)
}

/// Whether the calling thread is inside a callback of the CUPTI client.
pub(crate) fn is_in_client() -> bool {
    IN_CLIENT.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_current_replaces_and_pops() {
        set_current(7);
        assert_eq!(current(), 7);
        assert!(push(8));
        set_current(9);
        assert_eq!((current(), pop(), current()), (9, Some(9), 7));
        set_current(0);
        assert_eq!((current(), pop()), (0, None));
    }

    #[test]
    fn the_stack_is_bounded() {
        while pop().is_some() {}
        assert!((0..DEPTH).all(|i| push(i as u64 + 1)));
        assert!(!push(99));
        while pop().is_some() {}
    }
}
