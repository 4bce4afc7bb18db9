//! Telling whoever asks: the session's report in a file without a path, renewed by the poll thread.
//!
//! It is what `memvelope snapshot` reads, through `/proc/PID/fd`: who may look there is who may look
//! at the process. The process has one such file, whatever the number of its sessions. Its bytes are
//! allocated at once, so that renewing it neither fails nor waits for anything; where it cannot be
//! had, the snapshot says so once and nothing else changes.

use super::Mode;
use super::session;
use super::state::Inner;
use crate::export::summary::{
    Identity, Process, Published, Slot, fitting, process_document, vitals,
};
use crate::fork;
use crate::snapshot::Snapshot;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a file is made anew for a program that closed our descriptor: one that does so again and
/// again does not want to be asked.
const FILES_MAX: u32 = 4;

/// Idle time after an update, in multiples of its CPU time: a hundredth of a core.
const IDLE_PER_UPDATE: u32 = 99;

/// Segments of a framework plane that are told one by one; more of them would go through JSON only
/// to be left out.
const SEGMENTS_MAX: usize = 512;

/// The process's file.
#[derive(Debug)]
struct Place {
    published: Option<(Published, Slot)>,
    identity: Option<Identity>,
    made: u32,
    /// Not before then.
    next: Option<Instant>,
    cpu_ns: u64,
}

static PLACE: Mutex<Place> =
    Mutex::new(Place { published: None, identity: None, made: 0, next: None, cpu_ns: 0 });

/// Renews the file if it is time. For the poll thread.
pub(super) fn tick(inner: &Inner) {
    if inner.config.publish && !fork::in_child() {
        publish(inner, false);
    }
}

/// The last word of a session that has ended.
pub(super) fn finish(inner: &Inner) {
    if inner.config.publish && !fork::in_child() {
        publish(inner, true);
    }
}

fn publish(inner: &Inner, is_final: bool) {
    // A panic elsewhere leaves whole values behind. Held by the poll thread and by who stops; nothing
    // foreign is called under it.
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    let (now, cpu) = (Instant::now(), session::thread_cpu_ns());
    if !is_final && place.next.is_some_and(|next| now < next) {
        return;
    }
    if let Err(why) = place.renew() {
        inner.note_unpublished(why);
        return;
    }
    let mut snapshot = inner.snapshot();
    let left_out = shorten(&mut snapshot);
    let mut report = inner.report_of(&snapshot);
    if left_out > 0 {
        report["left_out"] = json!({ "framework.segments": left_out });
    }
    let is_recording = matches!(inner.mode(), Mode::Cupti(_));
    place.tell(report, &vitals(is_recording, &snapshot), is_final);
    let used = session::thread_cpu_ns().saturating_sub(cpu);
    place.cpu_ns = place.cpu_ns.saturating_add(used);
    place.next = now.checked_add(Duration::from_nanos(used).saturating_mul(IDLE_PER_UPDATE));
}

impl Place {
    /// Sees to it that there is a file that can be found. `Err`: why there is none.
    fn renew(&mut self) -> Result<(), String> {
        let is_findable = self.published.as_ref().is_some_and(|(file, _)| file.is_findable());
        if is_findable {
            return Ok(());
        }
        if self.made >= FILES_MAX {
            return Err("the program closes our descriptor again and again".into());
        }
        self.made += 1;
        let published = Published::create().map_err(|error| {
            let source = std::error::Error::source(&error);
            source.map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        let slot = published.summary().claim(&Process::current());
        self.published = Some((published, slot.ok_or("the file has no slot")?));
        Ok(())
    }

    fn tell(&mut self, report: Value, vitals: &crate::export::summary::Vitals, is_final: bool) {
        let Some((_, slot)) = &self.published else { return };
        let identity = self.identity.get_or_insert_with(Identity::current);
        let document = process_document(report, identity, is_final, self.cpu_ns);
        // What does not fit was left out; it is never longer.
        let _ = slot.report(&fitting(document, Slot::REPORT_BYTES_MAX));
        slot.tell(vitals);
    }
}

/// Takes out what is certain not to fit; how many rows.
fn shorten(snapshot: &mut Snapshot) -> usize {
    let planes = snapshot.devices.iter_mut().filter_map(|device| device.framework.as_mut());
    let long = planes.filter(|framework| framework.segments.len() > SEGMENTS_MAX);
    long.map(|framework| std::mem::take(&mut framework.segments).len()).sum()
}
