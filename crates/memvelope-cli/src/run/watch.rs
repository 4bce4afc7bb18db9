//! Watching the program until it ends.

use super::gather::{Gathering, View};
use super::launch::Launch;
use super::os::{self, Change, Inherited};
use super::report::{self, Exit, Run};
use super::signals::{self, Event};
use super::{Args, show};
use crate::output;
use memvelope::export::summary::Vitals;
use memvelope::units::Bytes;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often slots of ended processes are given free: with 64 slots, more than a thousand processes
/// a second.
const HARVEST_PERIOD: Duration = Duration::from_millis(50);

/// Waits for the end of the program, gathers what its processes tell, and answers signals. Returns
/// everything that was gathered; how the program ended is in `run`.
pub(super) fn until_the_end(
    args: &Args,
    run: &mut Run,
    launch: &Launch,
    started: Instant,
    inherited: &Inherited,
) -> View {
    let (sender, events) = channel();
    let mut problems = Vec::new();
    if let Err(error) = signals::listen(run.pid, sender.clone()) {
        problems.push(format!("signals are not passed on: {error}"));
    }
    inherited.restore();
    let waiting = signals::wait(run.pid, sender);
    let mut watch = Watch {
        args,
        started,
        gathering: launch.summary.clone().map(Gathering::new),
        line: Line { at: Instant::now(), vitals: Vitals::default() },
        was_asked_to_stop: false,
    };
    match waiting {
        Ok(()) => watch.follow(run, &events),
        // No thread to be had: then nothing but waiting is done, here.
        Err(error) => {
            problems.push(format!("no report on the way, no signals passed on: {error}"));
            run.exit = wait_here(run.pid);
        }
    }
    run.wall = started.elapsed();
    os::reap(run.pid);
    for problem in problems {
        output::remark(&format!("memvelope: {problem}"));
        run.problems.push(problem);
    }
    watch.gathering.map(Gathering::finish).unwrap_or_default()
}

struct Watch<'a> {
    args: &'a Args,
    started: Instant,
    gathering: Option<Gathering>,
    line: Line,
    /// Whether we alone were told to stop, by somebody who will have us go on.
    was_asked_to_stop: bool,
}

/// What the last line of `--every` was made from.
struct Line {
    at: Instant,
    vitals: Vitals,
}

impl Watch<'_> {
    fn follow(&mut self, run: &mut Run, events: &Receiver<Event>) {
        let mut next_line = self.args.every.map(|every| self.started + every);
        loop {
            match events.recv_timeout(HARVEST_PERIOD) {
                Ok(Event::Program(Change::Exited(code))) => {
                    run.exit = Exit::Code(code);
                    return;
                }
                Ok(Event::Program(Change::Killed(signal))) => {
                    run.exit = Exit::Signal(signal);
                    return;
                }
                // Whoever waits for us would see it stop, and goes on with us by SIGCONT. Where
                // nobody does that, we would sleep on when the program goes on or is killed.
                Ok(Event::Program(Change::Stopped)) => {
                    if self.was_asked_to_stop || os::has_terminal() {
                        os::send(std::process::id(), libc::SIGSTOP);
                    }
                }
                Ok(Event::PassOn(signal)) => {
                    match signal {
                        libc::SIGTSTP => self.was_asked_to_stop = true,
                        libc::SIGCONT => self.was_asked_to_stop = false,
                        _ => {}
                    }
                    os::send(run.pid, signal);
                }
                Ok(Event::Report) => self.report(run),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    run.exit = wait_here(run.pid);
                    return;
                }
            }
            if let Some(gathering) = &mut self.gathering {
                gathering.harvest();
            }
            if let (Some(due), Some(every)) = (next_line, self.args.every)
                && Instant::now() >= due
            {
                self.print_line();
                // A line that came late does not bring the next one forward.
                next_line = Some((due + every).max(Instant::now()));
            }
        }
    }

    fn report(&self, run: &Run) {
        let Some(gathering) = &self.gathering else {
            return output::remark("memvelope: nothing is recorded, so there is nothing to report");
        };
        let now = Run { wall: self.started.elapsed(), ..run.clone() };
        show(self.args, &now, &report::document(&now, &gathering.view(), &[]));
    }

    fn print_line(&mut self) {
        let Some(gathering) = &self.gathering else { return };
        let (running, vitals) = gathering.vitals();
        let now = Instant::now();
        let text =
            line(self.started.elapsed(), running, &self.line.vitals, &vitals, now - self.line.at);
        output::remark(&text);
        self.line = Line { at: now, vitals };
    }
}

/// One line of `--every`.
fn line(
    since: Duration,
    running: usize,
    before: &Vitals,
    now: &Vitals,
    period: Duration,
) -> String {
    let mark = if now.is_simulated { "SIMULATED " } else { "" };
    let live = now.live_bytes.iter().map(|(device, bytes)| format!(" {device}: {}", Bytes(*bytes)));
    let live: String = live.collect();
    let live = if live.is_empty() { " none seen".into() } else { live };
    let kernels =
        now.kernels.saturating_sub(before.kernels) as f64 / period.as_secs_f64().max(1e-9);
    // Busy time is of the recorder's clock, which is virtual on the simulator.
    let clock = now.clock_ns.saturating_sub(before.clock_ns);
    let busy = now.busy_ns.saturating_sub(before.busy_ns);
    let devices = now.live_bytes.len().max(1) as f64;
    let is_known = before.clock_ns > 0 && clock > 0;
    let busy = if is_known {
        format!("{:.1} %", (busy as f64 * 100.0 / clock as f64 / devices).min(100.0))
    } else {
        "-".into()
    };
    let processes = if running == 1 { "process" } else { "processes" };
    format!(
        "memvelope: {mark}{:.1} s, {running} {processes}, VRAM{live}, {} allocations, \
         {kernels:.0} kernels/s, busy {busy}, {} lost",
        since.as_secs_f64(),
        now.allocations,
        now.lost
    )
}

fn wait_here(pid: u32) -> Exit {
    loop {
        match os::wait_for(pid) {
            Ok(Change::Exited(code)) => return Exit::Code(code),
            Ok(Change::Killed(signal)) => return Exit::Signal(signal),
            Ok(Change::Stopped) => {
                if os::has_terminal() {
                    os::send(std::process::id(), libc::SIGSTOP);
                }
            }
            Err(_) => return Exit::NotYet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rates_of_its_period() {
        let before = Vitals { kernels: 100, clock_ns: 5_000, busy_ns: 0, ..Vitals::default() };
        let now = Vitals {
            is_simulated: true,
            live_bytes: vec![(0, 3 << 20), (1, 0)],
            allocations: 7,
            kernels: 600,
            busy_ns: 1_000,
            clock_ns: 6_000,
            ..Vitals::default()
        };
        let text = line(Duration::from_secs(12), 2, &before, &now, Duration::from_secs(10));
        assert_eq!(
            text,
            "memvelope: SIMULATED 12.0 s, 2 processes, VRAM 0: 3.0 MiB 1: 0 B, 7 allocations, \
             50 kernels/s, busy 50.0 %, 0 lost"
        );
        let first = line(Duration::ZERO, 1, &Vitals::default(), &now, Duration::ZERO);
        assert!(first.contains("1 process,") && first.contains("busy -"), "{first}");
    }
}
