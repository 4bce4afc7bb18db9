//! A forked child is inert: CUDA does not survive `fork`, and CUPTI deadlocks in the child.

#![expect(unsafe_code, reason = "pthread_atfork is foreign")]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static IN_CHILD: AtomicBool = AtomicBool::new(false);

extern "C" fn child() {
    // A store cannot unwind; the rule for C entries has no exceptions to remember.
    let _ = std::panic::catch_unwind(|| IN_CHILD.store(true, Ordering::Release));
}

/// Arranges, once a process, that a forked child knows that it is one.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe. The object
        // that holds it is never unloaded while CUPTI holds our callbacks.
        // Its only failure is ENOMEM; then a child is not recognised, which nothing here can mend.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(child)) };
    });
}

/// Whether this process was forked from one that was recording. Such a child makes no CUPTI call
/// and takes no callback.
pub(crate) fn in_child() -> bool {
    IN_CHILD.load(Ordering::Acquire)
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
