//! Signals are for the host's own threads.

#![expect(unsafe_code, reason = "pthread_sigmask is foreign")]

/// Raised by a thread's own instructions: blocked, they would end the process past its handlers.
const OWN_FAULTS: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT];

/// Runs `spawn` with signals blocked on the calling thread, so that a thread started in it begins
/// that way. Else the kernel may deliver to us what the host keeps for itself: a server that
/// blocks SIGTERM and waits for it with `sigwait` would be ended by it.
pub fn without_signals<T>(spawn: impl FnOnce() -> T) -> T {
    // SAFETY: signal sets are plain data that sigemptyset and sigfillset initialise; the calls only
    // change the calling thread's mask, which is put back below.
    let former = unsafe {
        let (mut blocked, mut former): (libc::sigset_t, libc::sigset_t) =
            (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut blocked);
        for fault in OWN_FAULTS {
            libc::sigdelset(&raw mut blocked, fault);
        }
        let code = libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, &raw mut former);
        (code == 0).then_some(former)
    };
    let outcome = spawn();
    if let Some(former) = former {
        // SAFETY: the mask that this thread had.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const former, std::ptr::null_mut());
        }
    }
    outcome
}
