//! Gathering what the processes told: slots of those that ended are given free, so that any number
//! of processes works.

use super::totals::Totals;
use memvelope::export::summary::{Process, Slot, Summary, Vitals, monotonic_ns};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Bytes of reports that are kept; of later processes only the numbers are. As JSON trees they take
/// some five times as much memory.
const REPORT_BYTES_MAX: usize = 16 << 20;

/// Processes that are listed; of later ones only the totals are kept.
const PROCESSES_MAX: usize = 4096;

/// How long we wait, once the program has ended, for processes of it that are ending too.
const GRACE: Duration = Duration::from_millis(100);

/// How a process ended, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It exited, and its report is of its end.
    Reported,
    /// It was killed, crashed or left by `_exit`: its report is of a moment so long before, at most.
    CutShort { age_ns: u64 },
    /// It replaced itself by another program (`exec`), which counts as another process here.
    Replaced { age_ns: u64 },
    /// It has not ended: its report is of a moment so long ago.
    Running { age_ns: u64 },
}

/// A process that took a slot.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) sequence: u64,
    pub(super) pid: u32,
    pub(super) parent_pid: u32,
    pub(super) command: Vec<String>,
    pub(super) vitals: Vitals,
    pub(super) end: End,
    /// Its report, as JSON; `None` if it never told one, or if there was no room for it.
    pub(super) report: Option<Vec<u8>>,
}

/// Everything known at a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// In the order in which they began.
    pub(super) processes: Vec<Seen>,
    pub(super) totals: Totals,
    /// Processes that found no slot.
    pub(super) turned_away: u64,
    /// Processes that are in the totals alone.
    pub(super) not_listed: u64,
}

/// Gathers while the program runs.
pub(super) struct Gathering {
    summary: Summary,
    ended: View,
    kept_bytes: usize,
    /// Vitals of the processes that ended, added up.
    past: Vitals,
}

impl Gathering {
    pub(super) fn new(summary: Summary) -> Self {
        let (ended, past) = (View::default(), Vitals::default());
        Self { summary, ended, kept_bytes: 0, past }
    }

    /// Takes what ended processes left, and gives their slots free.
    pub(super) fn harvest(&mut self) {
        let slots: Vec<Slot> = self.summary.taken().collect();
        for slot in &slots {
            let age_ns = monotonic_ns().saturating_sub(slot.updated_ns());
            // Asked first: by now the program that it became may have ended, too.
            if is_replaced(slot, &slots) {
                self.take(slot, End::Replaced { age_ns });
            } else if slot.is_in_our_namespace() && slot.process().is_over() {
                self.take(slot, End::CutShort { age_ns });
            }
        }
    }

    /// Everything, once the program has ended.
    pub(super) fn finish(mut self) -> View {
        let deadline = Instant::now() + GRACE;
        loop {
            self.harvest();
            if self.summary.taken().next().is_none() || Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let view = self.view();
        self.summary.close();
        view
    }

    /// Everything as of now.
    pub(super) fn view(&self) -> View {
        let mut view = self.ended.clone();
        view.turned_away = self.summary.turned_away();
        for slot in self.summary.taken().filter(|slot| slot.sequence() > 0) {
            let age_ns = monotonic_ns().saturating_sub(slot.updated_ns());
            let (seen, report) = look_at(&slot, End::Running { age_ns });
            view.totals.add(&seen.vitals, report.as_ref());
            view.processes.push(seen);
        }
        view.processes.sort_by_key(|process| process.sequence);
        view
    }

    /// Running processes, and the vitals of all that there ever were, added up; live bytes are those
    /// of the running ones.
    pub(super) fn vitals(&self) -> (usize, Vitals) {
        let (mut all, mut running) = (self.past.clone(), 0);
        for slot in self.summary.taken().filter(|slot| slot.sequence() > 0) {
            running += 1;
            let own = slot.vitals();
            for (device, bytes) in &own.live_bytes {
                match all.live_bytes.iter_mut().find(|(known, _)| known == device) {
                    Some((_, sum)) => *sum = sum.saturating_add(*bytes),
                    None => all.live_bytes.push((*device, *bytes)),
                }
            }
            add(&mut all, &own);
        }
        all.live_bytes.sort_unstable();
        (running, all)
    }

    fn take(&mut self, slot: &Slot, end: End) {
        // One that was killed while it took the slot has told nothing at all.
        if slot.sequence() > 0 {
            let (mut seen, report) = look_at(slot, end);
            self.ended.totals.add(&seen.vitals, report.as_ref());
            add(&mut self.past, &seen.vitals);
            let length = seen.report.as_ref().map_or(0, Vec::len);
            if self.kept_bytes + length > REPORT_BYTES_MAX {
                seen.report = None;
            } else {
                self.kept_bytes += length;
            }
            if self.ended.processes.len() < PROCESSES_MAX {
                self.ended.processes.push(seen);
            } else {
                self.ended.not_listed += 1;
            }
        }
        slot.clone().release();
    }
}

/// Reads a slot; the report also parsed.
fn look_at(slot: &Slot, end: End) -> (Seen, Option<Value>) {
    let report = slot.read();
    let parsed: Option<Value> = report.as_ref().and_then(|json| serde_json::from_slice(json).ok());
    let is_final = parsed.as_ref().is_some_and(|report| report["final"] == true);
    let Process { pid, .. } = slot.process();
    let seen = Seen {
        sequence: slot.sequence(),
        pid,
        parent_pid: slot.parent_pid(),
        command: slot.command(),
        vitals: slot.vitals(),
        end: if is_final { End::Reported } else { end },
        report,
    };
    (seen, parsed)
}

/// Whether the same process has taken a slot anew: it has become another program.
fn is_replaced(slot: &Slot, slots: &[Slot]) -> bool {
    slots.iter().any(|other| {
        other.process() == slot.process()
            && other.sequence() > slot.sequence()
            && slot.sequence() > 0
    })
}

/// Adds what adds up over processes.
fn add(sum: &mut Vitals, own: &Vitals) {
    sum.is_simulated |= own.is_simulated;
    sum.allocations = sum.allocations.saturating_add(own.allocations);
    sum.kernels = sum.kernels.saturating_add(own.kernels);
    sum.busy_ns = sum.busy_ns.saturating_add(own.busy_ns);
    sum.lost = sum.lost.saturating_add(own.lost);
    // Not a sum: the latest of all clocks.
    sum.clock_ns = sum.clock_ns.max(own.clock_ns);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A process that has ended: its number is above the largest that Linux gives out.
    fn gone(number: u64) -> Process {
        Process { pid: 4_194_303, start_ticks: number }
    }

    fn gathering() -> (tempfile::TempDir, Summary, Gathering) {
        let place = tempfile::tempdir().unwrap();
        let summary = Summary::create(&place.path().join("summary"), 0).unwrap();
        (place, summary.clone(), Gathering::new(summary))
    }

    #[test]
    fn any_number_of_processes_is_counted_in_bounded_memory() {
        let (_place, summary, mut gathering) = gathering();
        let kernel = json!({"name": "k", "count": 3, "total_ns": 5});
        let report = json!({
            "final": false, "padding": "x".repeat(20_000),
            "snapshot": {"timeline": {"kernels": [kernel]}},
        });
        for number in 1..=4200 {
            let slot = summary.claim(&gone(number)).unwrap();
            assert!(slot.report(report.to_string().as_bytes()));
            gathering.harvest();
        }
        let view = gathering.finish();
        assert_eq!((view.processes.len(), view.not_listed), (PROCESSES_MAX, 4200 - 4096));
        assert_eq!((view.totals.processes, view.totals.kernels.count), (4200, 3 * 4200));
        let kept: usize =
            view.processes.iter().filter_map(|p| p.report.as_ref()).map(Vec::len).sum();
        assert!(kept <= REPORT_BYTES_MAX && kept > REPORT_BYTES_MAX - 30_000, "{kept}");
        assert_eq!(view.turned_away, 0);
    }

    #[test]
    fn running_processes_stay_and_their_numbers_add_up() {
        let (_place, summary, mut gathering) = gathering();
        let vitals =
            |kernels, bytes| Vitals { kernels, live_bytes: vec![(0, bytes)], ..Vitals::default() };
        summary.claim(&gone(1)).unwrap().tell(&vitals(10, 100));
        let own = summary.claim(&Process::current()).unwrap();
        own.tell(&vitals(1, 7));
        gathering.harvest();
        let (running, sum) = gathering.vitals();
        assert_eq!((running, sum), (1, vitals(11, 7)));
        let view = gathering.view();
        assert_eq!(view.processes[0].report, None);
        assert!(matches!(view.processes[0].end, End::CutShort { .. }));
        assert!(matches!(view.processes[1].end, End::Running { .. }));
        assert_eq!(view.totals.kernels.count, 11);
        // The same process takes a slot anew: it has become another program.
        let again = summary.claim(&Process::current()).unwrap();
        gathering.harvest();
        assert!(!own.is_ours() && again.is_ours());
        let view = gathering.finish();
        assert!(matches!(view.processes[1].end, End::Replaced { .. }));
        assert_eq!(view.processes.len(), 3);
        assert!(summary.is_closed());
    }
}
