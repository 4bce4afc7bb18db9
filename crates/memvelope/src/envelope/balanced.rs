//! The measured equation from a balance: every term in use has its line there.

use super::equation::signed;
use super::polled::NO_RECORDER;
use super::sum::{Reserves, Sum};
use super::{Origin, TermName};
use crate::event::Tag;
use crate::snapshot::{Balance, DeviceSnapshot, Line};
use crate::units::Bytes;

const NONE_SEEN: &str = "none seen; later ones need the runtime reserve";

/// Fills the terms after the total.
pub(super) fn fill(sum: &mut Sum<'_>, device: &DeviceSnapshot, balance: &Balance) {
    let bytes = |name| balance.line(name).map(|line| line.bytes);
    // What others took since NVML listed them is unaccounted for until it lists them again.
    let others = bytes(TermName::OtherProcesses).unwrap_or(0).max(0);
    let unaccounted = bytes(TermName::Unaccounted).unwrap_or(0).max(0);
    sum.withheld(bytes(TermName::Withheld), others.saturating_add(unaccounted));
    sum.weights(bytes(TermName::Weights));
    let peak = device.totals.by_tag[Tag::Activations as usize].peak_bytes;
    sum.activations(bytes(TermName::Activations), signed(peak));
    line(sum, balance, TermName::Graphs, NONE_SEEN);
    let growth = context(sum, balance, device);
    line(sum, balance, TermName::Recorder, NO_RECORDER);
    line(sum, balance, TermName::Libraries, NONE_SEEN);
    line(sum, balance, TermName::Rounding, "nothing is rounded");
    line(sum, balance, TermName::AwaitingStream, "nobody tells of a caching allocator");
    cached(sum, balance.line(TermName::Cached), device);
    line(sum, balance, TermName::OpeningBalance, "nothing was in use before, or nobody told");
    line(sum, balance, TermName::OtherProcesses, "nobody tells of other processes");
    let found = sum.presume();
    // Graphs, libraries and modules that came meanwhile are what the runtime reserve was for.
    let came = sum
        .in_use_of(TermName::Graphs)
        .saturating_add(sum.taken_of(TermName::Libraries))
        .saturating_add(growth);
    sum.reserves(Reserves { spent: came, error: error_bytes(balance) });
    sum.kv_cache(bytes(TermName::KvCache), found, "nothing is tagged as KV cache");
    let absent = "no device plane to compare with";
    line(sum, balance, TermName::Unaccounted, absent);
}

/// A term that takes what it uses.
fn line(sum: &mut Sum<'_>, balance: &Balance, name: TermName, absent: &str) {
    match balance.line(name) {
        Some(line) => taken(sum, line, line.bytes, line.note.clone()),
        None => sum.absent(name, absent),
    }
}

fn taken(sum: &mut Sum<'_>, line: &Line, bytes: i64, note: String) {
    // Only unaccounted for can it be less than nothing.
    let bytes = if line.term.is_taken() { bytes.max(0) } else { bytes };
    sum.push(line.term, Some(bytes), Some(line.bytes), line.origin, note);
}

/// The context, and how far it has grown beyond what was assumed of it.
fn context(sum: &mut Sum<'_>, balance: &Balance, device: &DeviceSnapshot) -> i64 {
    let (assumed, why) = sum.basis.context.clone();
    match balance.line(TermName::Context) {
        Some(line) if sum.basis.is_context_declared && line.bytes < assumed => {
            let so_far = Bytes(line.bytes.max(0).unsigned_abs());
            let note = format!("{why}; {so_far} of it measured so far");
            sum.push(TermName::Context, Some(assumed), Some(line.bytes), Origin::Assumed, note);
            0
        }
        Some(line) => {
            taken(sum, line, line.bytes, line.note.clone());
            line.bytes.saturating_sub(assumed).max(0)
        }
        None => {
            // One that was there when the session attached lies in the opening balance, one that
            // nobody measured in what is unaccounted for: both are taken there.
            let opening = device.opening_own_bytes.map_or(0, signed);
            let unaccounted = balance.unaccounted_bytes().unwrap_or(0).max(0);
            let elsewhere = opening.saturating_add(unaccounted).min(assumed);
            let note = match Bytes(elsewhere.max(0).unsigned_abs()) {
                Bytes::ZERO => why,
                elsewhere => format!(
                    "{why}; {elsewhere} of it may be in the opening balance or unaccounted for"
                ),
            };
            let bytes = assumed.saturating_sub(elsewhere).max(0);
            sum.put(TermName::Context, bytes, Origin::Assumed, note);
            0
        }
    }
}

/// What a caching allocator keeps: taken as far as it cannot be given back.
fn cached(sum: &mut Sum<'_>, line: Option<&Line>, device: &DeviceSnapshot) {
    let Some(line) = line else {
        return sum.absent(TermName::Cached, "nobody tells of a caching allocator");
    };
    let releasable = device
        .framework
        .as_ref()
        .map_or(Bytes::ZERO, |framework| framework.releasable_bytes.min(framework.cached_bytes()));
    let releasable = signed(releasable).min(line.bytes).max(0);
    if sum.basis.keeps_cached || releasable == 0 {
        return taken(sum, line, line.bytes, line.note.clone());
    }
    let note = format!(
        "{}; not taken: {} that the allocator serves requests from, or gives back",
        line.note,
        Bytes(releasable.unsigned_abs())
    );
    taken(sum, line, line.bytes - releasable, note);
}

/// How far off the lines may be together, beyond what is unaccounted for: that is taken already, and
/// is where bytes come from that a line may have too few of. The bar of `unaccounted` is the sum of
/// all others, each error once. What other processes moved by is no room either way: where they took
/// more it is unaccounted for, and where they gave back, the line still takes it.
fn error_bytes(balance: &Balance) -> i64 {
    let bar = |line: &Line| signed(line.error_bytes);
    let others = balance.line(TermName::OtherProcesses).map_or(0, bar);
    let (error, covered) = match balance.line(TermName::Unaccounted) {
        Some(line) => (bar(line), line.bytes.max(0)),
        None => (balance.lines.iter().map(bar).fold(0, i64::saturating_add), 0),
    };
    error.saturating_sub(covered.max(others))
}
