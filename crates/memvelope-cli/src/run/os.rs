//! What the operating system gives to a program that is started, and takes from one that ends.

#![expect(unsafe_code, reason = "signal masks, waitpid and raise are foreign")]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// What Rust's runtime changes before `main`, as it was before that: bits 0 to 2 are standard
/// descriptors that were closed (it opens them), bit 3 that broken pipes were ignored (a child of
/// ours would have them end it).
static BEFORE_RUST: AtomicU32 = AtomicU32::new(0);
const PIPE_WAS_IGNORED: u32 = 1 << 3;

// SAFETY: the loader calls what is in this section, with arguments that C lets us leave alone,
// before `main`; the function needs nothing of Rust's runtime.
#[unsafe(link_section = ".init_array")]
#[used]
static NOTE_BEFORE_RUST: extern "C" fn() = note_before_rust;

extern "C" fn note_before_rust() {
    // SAFETY: asks about descriptors, by number.
    let is_closed = |fd: &i32| unsafe { libc::fcntl(*fd, libc::F_GETFD) } == -1;
    let mut seen: u32 = (0..3).filter(is_closed).map(|fd| 1 << fd).sum();
    if is_ignored(libc::SIGPIPE) {
        seen |= PIPE_WAS_IGNORED;
    }
    BEFORE_RUST.store(seen, Ordering::Relaxed);
}

/// What this process was started with, which the program is to be started with too.
pub(super) struct Inherited {
    mask: libc::sigset_t,
    child_signal_was_ignored: bool,
}

/// How a program ended, or that it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Exited(i32),
    Killed(i32),
    Stopped,
}

impl Inherited {
    /// Notes the signal mask, and blocks `signals` until [`Self::restore`]: one that comes before
    /// somebody handles it must wait, or it would end this process and leave the program alone.
    pub(super) fn note(signals: &[i32]) -> Self {
        // SAFETY: signal sets and actions are plain data, for which zero is a valid value and which
        // the calls below initialise; they change this thread's mask and one disposition.
        unsafe {
            let (mut blocked, mut mask): (libc::sigset_t, libc::sigset_t) =
                (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&raw mut blocked);
            for signal in signals {
                libc::sigaddset(&raw mut blocked, *signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut mask);
            let child_signal_was_ignored = is_ignored(libc::SIGCHLD);
            if child_signal_was_ignored {
                // Else the kernel throws away how the program ended.
                libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            }
            Self { mask, child_signal_was_ignored }
        }
    }

    /// Has `command` start with what this process was started with.
    pub(super) fn pass_to(&self, command: &mut Command) {
        let (mask, ignores_children) = (self.mask, self.child_signal_was_ignored);
        let before = BEFORE_RUST.load(Ordering::Relaxed);
        let restore = move || {
            // SAFETY: all calls are async-signal-safe; the mask was filled by the kernel.
            unsafe {
                (0..3).filter(|fd| before >> fd & 1 == 1).for_each(|fd| {
                    let _ = libc::close(fd);
                });
                if before & PIPE_WAS_IGNORED != 0 {
                    libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                }
                if ignores_children {
                    libc::signal(libc::SIGCHLD, libc::SIG_IGN);
                }
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
            }
            Ok(())
        };
        // SAFETY: the closure calls nothing but the async-signal-safe functions above.
        unsafe { command.pre_exec(restore) };
    }

    /// Takes the mask back, but for the signal of files that grow past their limit: our own files
    /// must not end us before the program.
    pub(super) fn restore(&self) {
        let mut mask = self.mask;
        // SAFETY: as above.
        unsafe {
            libc::sigaddset(&raw mut mask, libc::SIGXFSZ);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        }
    }
}

/// Whether a signal is ignored: it then is for us and for the program.
pub(super) fn is_ignored(signal: i32) -> bool {
    // SAFETY: asks only; the action is plain data that the call fills.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let code = libc::sigaction(signal, std::ptr::null(), &raw mut action);
        code == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Waits until the child ends or stops. One that ended keeps its number until [`reap`]: else a
/// signal that is just being passed on could reach a stranger.
pub(super) fn wait_for(pid: u32) -> std::io::Result<Change> {
    let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT;
    loop {
        // SAFETY: plain data, for which zero is a valid value and which the call fills; it concerns
        // a child of ours that nobody has waited for yet.
        let (code, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::waitid(libc::P_PID, pid, &raw mut info, flags), info)
        };
        if code == 0 {
            // SAFETY: waitid fills this field whatever has happened to the child.
            let status = unsafe { info.si_status() };
            return Ok(match info.si_code {
                libc::CLD_EXITED => Change::Exited(status),
                libc::CLD_KILLED | libc::CLD_DUMPED => Change::Killed(status),
                _ => {
                    // Taken, so that the next call waits for what comes next. Its end is not: it
                    // may have come meanwhile.
                    take_stop(pid);
                    Change::Stopped
                }
            });
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Gives back the number of a child that ended; whoever asks for our children's CPU time sees its.
pub(super) fn reap(pid: u32) {
    // SAFETY: a child of ours; its status is known already.
    unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), libc::WNOHANG) };
}

fn take_stop(pid: u32) {
    // SAFETY: plain data, for which zero is a valid value and which the call fills.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, pid, &raw mut info, libc::WSTOPPED | libc::WNOHANG);
    }
}

/// Whether this process has a controlling terminal: then a shell has stopped jobs go on.
pub(super) fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Sends a signal. A process that is gone has no use for it.
pub(super) fn send(pid: u32, signal: i32) {
    // SAFETY: a child of ours that nobody has waited for yet, or ourselves.
    let _ = unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// Ends this process by a signal, so that whoever waits for it sees what became of the program; a
/// core dump of ours would only mislead. Returns where the signal does not end a process.
pub(super) fn die_of(signal: i32) {
    // SAFETY: limits, disposition and mask of our own process, which is about to end.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        // A limit of 0 does not keep a core from a pipe; this does.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        // One of ours that waits behind the mask must not come first.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(signal, libc::SIG_DFL);
        let mut unblocked: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut unblocked);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const unblocked, std::ptr::null_mut());
        libc::raise(signal);
    }
}

/// A signal's name, for those that end programs.
pub(super) fn name_of(signal: i32) -> String {
    let names = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    let known = names.iter().find(|(number, _)| *number == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// Bytes that this user may still write in a directory's file system.
pub(super) fn free_bytes(directory: &std::path::Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes()).ok()?;
    // SAFETY: plain data, for which zero is a valid value; the path is a C string.
    let stat = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut stat) == 0).then_some(stat)?
    };
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
