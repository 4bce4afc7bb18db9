//! What a forked child must know of itself. CUDA does not survive `fork`, CUPTI deadlocks in the
//! child, a lock may be held by a thread that is not there, and a budget of blocks is the parent's:
//! so a session is inert in the child, and a gate that the parent made hands out nothing.

#![expect(unsafe_code, reason = "pthread_atfork is foreign")]

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// How often this process was forked off since somebody watched.
static GENERATION: AtomicU32 = AtomicU32::new(0);

extern "C" fn child() {
    // A store cannot unwind; the rule for C entries has no exceptions to remember.
    let _ = std::panic::catch_unwind(|| GENERATION.fetch_add(1, Ordering::Release));
}

/// Arranges, once a process, that a forked child knows that it is one.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler only adds to an atomic, which is async-signal-safe. The object
        // that holds it is never unloaded while CUPTI holds our callbacks.
        // Its only failure is ENOMEM; then a child is not recognised, which nothing here can mend.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(child)) };
    });
}

/// Whether this process was forked from one that was recording. Such a child makes no CUPTI call
/// and takes no callback.
pub(crate) fn in_child() -> bool {
    generation() > 0
}

/// Differs between a process and its forked children. What was made in one generation belongs to
/// the process of that generation.
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_child_is_marked() {
        watch();
        // SAFETY: the child calls nothing but the async-signal-safe _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = i32::from(!in_child());
            // SAFETY: ends the child at once, without running anything of the parent's.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just forked.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        assert!(!in_child());
    }
}
