//! A snapshot of a session: everything that it knows, put together.

use super::{FORKED, Inner, Problems, lock};
use crate::event::DropReason;
use crate::framework::Demand;
use crate::runtime::{Mode, session};
use crate::snapshot::{Balance, DevicePlane, Parts, Reconcile, Snapshot, reconcile};
use crate::source::attribution;
use crate::source::cupti::Recorder;
use std::sync::atomic::Ordering;

impl Inner {
    pub(in crate::runtime) fn snapshot(&self) -> Snapshot {
        if let Some(last) = self.last.get() {
            return last.snapshot.clone();
        }
        if !self.is_awake() {
            let unseen = vec![format!("everything: {FORKED}")];
            return Snapshot { unseen, ..Snapshot::default() };
        }
        let counters = self.counters();
        let (totals, findings) = self.ledger.state();
        let (mut timeline, sampled) = {
            let recorded = self.recorded();
            (recorded.timeline.summary(self.names), recorded.sampler.sampled())
        };
        timeline.allocation_calls = session::calls().totals();
        let (mut planes, host) = {
            let planes = self.planes();
            (planes.devices.clone(), planes.host)
        };
        self.note_buffers(&mut planes);
        let earlier = self.planes().points();
        let demand = planes.iter().map(|plane| (plane.device, self.demand(plane))).collect();
        // Each lock is let go before the next is taken: a guard inside the literal below would
        // live to its end.
        let (simulated, unseen, time) = (self.is_simulated(), self.unseen(), self.now());
        let allocations_unseen = self.allocations_unseen();
        let names_refused = self.names.refused().saturating_sub(self.names_refused_before);
        let mut snapshot = Snapshot::assemble(Parts {
            epoch: self.epoch.fetch_add(1, Ordering::AcqRel) + 1,
            time,
            simulated,
            totals,
            findings,
            timeline,
            planes,
            host,
            dropped: vec![
                (DropReason::CuptiDropped, counters.dropped_by_cupti),
                (DropReason::ArenaExhausted, counters.arena_exhausted),
                (DropReason::QueueFull, counters.queue_full),
                (DropReason::BadRecord, counters.bad_records),
                (DropReason::BadTimestamp, counters.bad_timestamps),
                (DropReason::BeforeAttach, counters.before_attach),
                (DropReason::RangeUnpaired, counters.unpaired_ranges),
                (DropReason::Uncorrelated, counters.uncorrelated),
                (DropReason::NamesFull, names_refused),
                (DropReason::TraceSampled, sampled),
            ],
            unseen,
            libraries: attribution::names(),
            allocations_unseen,
            earlier,
            demand,
        });
        self.note_highest(&mut snapshot);
        snapshot
    }

    /// Keeps the balance with most bytes used: a program that frees what it has before it ends would
    /// else leave nothing to look at. One that is torn counts only until there is a whole one.
    fn note_highest(&self, snapshot: &mut Snapshot) {
        let rank = |balance: &Balance| (!balance.is_torn, balance.used_bytes);
        let mut highest = lock(&self.highest);
        for device in &mut snapshot.devices {
            let index = device.totals.device;
            let at = highest.iter().position(|(known, _)| *known == index);
            if let Some(balance) = &device.balance {
                match at.and_then(|at| highest.get_mut(at)) {
                    Some((_, known)) if rank(known) >= rank(balance) => {}
                    Some((_, known)) => known.clone_from(balance),
                    None => highest.push((index, balance.clone())),
                }
            }
            let known = highest.iter().find(|(known, _)| *known == index);
            device.highest = known.map(|(_, balance)| balance.clone());
        }
    }

    /// What was asked for recently on a plane's device.
    fn demand(&self, plane: &DevicePlane) -> Demand {
        let has_framework = plane.epoch.as_ref().is_some_and(|epoch| epoch.framework.is_some());
        self.requests().demand(plane.device, has_framework)
    }

    /// Enters what CUPTI's own buffers take.
    fn note_buffers(&self, planes: &mut [DevicePlane]) {
        let buffers = self.recorder().and_then(Recorder::device_buffers);
        for plane in planes.iter_mut().filter(|plane| plane.context_is_recorded == Some(true)) {
            plane.recorder_bytes = buffers.map(|buffers| buffers.context_bytes());
            plane.recorder_bytes_max = buffers.map(|buffers| buffers.context_bytes_max());
        }
    }

    /// Whether single allocations go unseen.
    fn allocations_unseen(&self) -> bool {
        !matches!(self.mode(), Mode::Cupti(coverage) if coverage.callbacks)
    }

    /// Keeps what is unaccounted for in the epochs that were read last, for its trend.
    pub(in crate::runtime) fn note_points(&self) {
        let mut planes = self.planes().devices.clone();
        self.note_buffers(&mut planes);
        let (findings, allocations_unseen) = (self.ledger.findings(), self.allocations_unseen());
        for plane in &planes {
            let Some(epoch) = plane.epoch.as_ref().filter(|epoch| !epoch.is_torn) else { continue };
            let balance = reconcile(&Reconcile {
                epoch,
                plane,
                findings: &findings,
                called_allocations: None,
                allocations_unseen,
                library_name: &|_| String::new(),
                earlier: &[],
                fragmentation: None,
            });
            if let Some(unaccounted) = balance.unaccounted_bytes() {
                self.planes().side(plane.device).note_point(epoch.time, unaccounted);
            }
        }
    }

    /// What is not recorded and why.
    fn unseen(&self) -> Vec<String> {
        let mut unseen = match self.mode() {
            Mode::Cupti(coverage) => coverage.missing,
            Mode::Polling(why) => {
                let now = format!("kernels, copies, waits and single allocations: {why}");
                let before = self.recorder().filter(|_| !self.is_frozen());
                let before = before.map(|recorder| recorder.coverage().missing);
                std::iter::once(now).chain(before.into_iter().flatten()).collect()
            }
            Mode::Blind(why) => vec![format!("everything about the GPU: {why}")],
        };
        unseen.extend(self.links().missed);
        let counters = self.counters();
        for (count, what) in [
            (
                self.ledger.findings().unasked_pools,
                "memory pools of the program's own: their reserve is missing from VRAM",
            ),
            (counters.unknown_device, "allocations whose device nobody could name (refused)"),
            (counters.contexts_refused, "contexts whose end goes unseen"),
            (counters.foreign_buffers, "buffers that another CUPTI user took in our place"),
            (
                counters.scopes_untold,
                "scopes too deep or too early, or refused by CUPTI: their work counts with the one \
                 around them",
            ),
            (counters.subscriptions_lost, "times that another tool took CUPTI from us"),
        ] {
            if count > 0 {
                unseen.push(format!("{count} {what}"));
            }
        }
        unseen.extend(crate::runtime::scope::unread_sentence());
        let now = self.now();
        unseen.extend(self.planes().silences(now));
        unseen.extend(attribution::unseen());
        let problems = lock(&self.problems);
        let Problems { driver, cupti, nvml, unfinalized, unpublished, .. } = &*problems;
        let texts = [driver, cupti, nvml, unfinalized, unpublished];
        unseen.extend(texts.into_iter().flatten().cloned());
        unseen
    }
}
