//! Reconciliation: one epoch of all planes becomes a [`Balance`]. A pure function.
//!
//! **Who counts what**, so that no byte is counted twice:
//!
//! * The driver plane's physical bytes are L: allocations that count as VRAM, pool reserves, and
//!   what graphs hold. What pools and graphs hand out is inside of their reserve, which is split.
//! * A segment of the framework is one driver allocation, or several. Its bytes are counted by the
//!   framework, which knows its blocks; what the driver plane has of it ([`Matched`]) is taken out
//!   of the driver plane's tags and libraries.
//! * A segment that the driver plane never saw was there before we attached: its bytes are moved
//!   out of the opening balance.
//! * CUPTI's buffers that a context got when it was made lie inside that context's measured growth,
//!   if both are known: they are moved out of it ([`TermName::Recorder`]), never counted beside it.
//! * Managed memory is where it was last touched, and exported memory may have been taken over by
//!   another process: neither is told by anybody. Managed bytes are in no line, exported ones stay
//!   in theirs, and both are in the error bar of `unaccounted`.
//!
//! Numbers are held within 2^56 bytes (64 PiB), more than any device has, so that no sum overflows
//! and the lines add up exactly whatever a plane says.

mod draft;
mod findings;
mod lines;
mod planes;

use super::{Balance, DevicePlane, Epoch, Fragmentation, Origin, TermName};
use crate::event::LibraryId;
use crate::ledger::Findings;
use crate::units::{Bytes, Nanos};
use draft::{Draft, held};

/// What a balance is made of.
#[derive(Clone, Copy)]
pub struct Reconcile<'a> {
    /// The planes as they were read together.
    pub epoch: &'a Epoch,
    /// The last readings beside: opening balance, other processes, CUPTI's buffers. Its own
    /// [`DevicePlane::epoch`] is not looked at.
    pub plane: &'a DevicePlane,
    /// What the ledger noticed, of all devices.
    pub findings: &'a Findings,
    /// Allocations of the kinds that CUPTI's memory records tell of, as the callbacks counted them
    /// on all devices; `None` if there is nothing to compare.
    pub called_allocations: Option<u64>,
    /// Whether single allocations go unseen: the driver plane's zeros are then absences.
    pub allocations_unseen: bool,
    /// Names of libraries.
    pub library_name: &'a dyn Fn(LibraryId) -> String,
    /// When earlier balances were read, and what was unaccounted for; oldest first.
    pub earlier: &'a [(Nanos, i64)],
    /// How fragmented the device is, if that was computed.
    pub fragmentation: Option<&'a Fragmentation>,
}

/// Accounts for every byte that is used on a device.
///
/// Where the driver told no total there is no balance: no lines, and a finding that says so.
#[must_use]
pub fn reconcile(input: &Reconcile<'_>) -> Balance {
    let epoch = input.epoch;
    let mut balance = Balance { time_ns: epoch.time, is_torn: epoch.is_torn, ..Balance::default() };
    if epoch.total_bytes == Bytes::ZERO {
        balance.findings.push(findings::no_total());
        return balance;
    }
    let used = held(i128::from(epoch.total_bytes.saturating_sub(epoch.free_bytes).0));
    let planes = planes::Planes::read(input);
    let mut drafts = lines::drafts(input, &planes);
    let known: i128 = drafts.iter().map(Draft::sum).sum();
    // What others hold and nobody tells is at most what is left over.
    lines::untold_others(&mut drafts, input, used - known);
    drafts.push(lines::unaccounted(&drafts, input, &planes, used - known));
    drafts.sort_by_key(|draft| TermName::ALL.iter().position(|term| *term == draft.term));
    balance.used_bytes = Bytes(u64::try_from(used).unwrap_or(0));
    balance.lines = drafts.into_iter().map(|draft| draft.finish(epoch)).collect();
    balance.findings = findings::all(input, &planes, &balance);
    balance
}

#[cfg(test)]
mod tests;
