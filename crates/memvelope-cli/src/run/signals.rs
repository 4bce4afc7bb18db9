//! Signals that reach us, and what is to be done about them. No code of ours runs in a handler.

use super::os;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};
use std::sync::mpsc::Sender;

/// Asks for a report now.
const REPORT: i32 = libc::SIGUSR1;

/// Those that are passed on. They would end or stop us, and the program would stay.
const PASSED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGCONT,
];

/// What happened to the program, or to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody wants a report.
    Report,
    /// A signal that the program has not got yet.
    PassOn(i32),
    /// How the program ended, or that it stopped.
    Program(os::Change),
}

/// Every signal that is handled, and the one of files that grow past their limit, which is blocked.
pub(super) fn all() -> Vec<i32> {
    PASSED_ON.into_iter().chain([REPORT, libc::SIGXFSZ]).collect()
}

/// Hands on the signals that are not ignored, as events, from a thread of its own; `program` is the
/// child's process id.
pub(super) fn listen(program: u32, events: Sender<Event>) -> std::io::Result<()> {
    let wanted = PASSED_ON.into_iter().chain([REPORT]).filter(|signal| !os::is_ignored(*signal));
    let mut signals = SignalsInfo::<WithOrigin>::new(wanted)?;
    let body = move || {
        for origin in signals.forever() {
            let Some(event) = event_of(&origin, program) else { continue };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(body)?;
    Ok(())
}

fn event_of(origin: &Origin, program: u32) -> Option<Event> {
    let sender = origin.process.as_ref().map(|process| process.pid.cast_unsigned());
    let is_from_kernel = matches!(origin.cause, Cause::Kernel);
    // The terminal sends to every process of the group itself; so does a program that signals its
    // own group.
    decide(origin.signal, is_from_kernel || sender == Some(program))
}

/// What a signal is to lead to; `has_it`: the program has got it, too.
fn decide(signal: i32, has_it: bool) -> Option<Event> {
    if signal == REPORT {
        return Some(Event::Report);
    }
    // To go on twice does no harm.
    (signal == libc::SIGCONT || !has_it).then_some(Event::PassOn(signal))
}

/// Waits for the program on a thread of its own, until it ends.
pub(super) fn wait(program: u32, events: Sender<Event>) -> std::io::Result<()> {
    let body = move || {
        while let Ok(change) = os::wait_for(program) {
            let is_over = change != os::Change::Stopped;
            if events.send(Event::Program(change)).is_err() || is_over {
                return;
            }
        }
    };
    std::thread::Builder::new().name("wait".into()).spawn(body)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_has_already_is_not_passed_on() {
        for (signal, has_it, expect) in [
            (libc::SIGTERM, false, Some(Event::PassOn(libc::SIGTERM))),
            (libc::SIGTERM, true, None),
            (libc::SIGCONT, true, Some(Event::PassOn(libc::SIGCONT))),
            (libc::SIGUSR1, true, Some(Event::Report)),
            (libc::SIGUSR1, false, Some(Event::Report)),
        ] {
            assert_eq!(decide(signal, has_it), expect, "{signal} {has_it}");
        }
    }
}
