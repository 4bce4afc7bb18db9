//! What lazily loaded modules and kernels' local memory took: the growth that is not measured around
//! a call, because the driver does it by itself in some launch.
//!
//! Where CUPTI told that modules were loaded since the last epoch, what has become unexplained since
//! then is theirs, up to what their machine code makes plausible; where kernels' records tell that a
//! context has more local memory than before, up to what they tell. The rest stays unaccounted for. So
//! it is no remainder: without a witness there is nothing, and never more than the evidence allows.
//!
//! **Order.** Machine code comes first, since it is there for certain; then local memory, since
//! records tell its size; what modules have beside their code is the loosest and comes last. Records
//! come later than the launch whose they are, maybe some epochs later: what has come without a
//! witness is kept in mind for them ([`Unwitnessed`]).
//!
//! **The error bar** is what other processes moved by between two looks; where nobody can tell that,
//! all of it. What local memory takes is never called exact: how records' totals are rounded is
//! nowhere written, so that its bar is a page at least, and at least what the records and free memory
//! disagree by.

use super::attach::Links;
use super::planes::seen_of;
use super::state::Inner;
use crate::event::{Body, Event, Growth, GrowthCause, SeenBy};
use crate::snapshot::Epoch;
use crate::source::cupti::Loaded;
use crate::units::Bytes;

/// How much more than its machine code a module may take: constants, globals and tables come beside.
const TIMES_CODE: u64 = 4;

/// And what is taken at a time: at least one page for each.
const PAGE: u64 = 2 << 20;

/// Looks whether modules were loaded or local memory raised since the last epoch, and tells the
/// ledger what they took. True if it did: the epoch is then to be read again.
pub(super) fn settle(inner: &Inner, links: &Links, epoch: &Epoch) -> bool {
    let device = epoch.totals.device;
    let used = epoch.total_bytes.saturating_sub(epoch.free_bytes);
    let used = i64::try_from(used.0).unwrap_or(i64::MAX);
    let unexplained = used.saturating_sub(seen_of(&epoch.totals));
    let recorder = links.recorder.filter(|_| inner.config.context_growth);
    let loaded = recorder.map(|recorder| recorder.take_loaded(device)).unwrap_or_default();
    let raised = inner.recorded().local.take(device);
    let shares = {
        let mut planes = inner.planes();
        let others = planes.plane(device).others_moved_bytes;
        let side = planes.side(device);
        let before = side.unexplained.replace(unexplained);
        let limits = epoch.totals.growth.get(GrowthCause::Limit as usize);
        let raised = side.unwitnessed.beyond_limits(raised.bytes, limits.map_or(0, |it| it.bytes));
        let (Some(before), Some(_)) = (before, recorder) else { return false };
        side.unwitnessed.divide(unexplained.saturating_sub(before), loaded, raised, others)
    };
    let Some(recorder) = recorder else { return false };
    let local_context = recorder.context_of(raised.context, device);
    let mut told = 0_i64;
    for (cause, share, uid, context) in [
        (GrowthCause::LazyModule, shares.lazy, 0, loaded.context),
        (GrowthCause::LocalMemory, shares.local, raised.context, local_context),
    ] {
        let Some(bytes) = i64::try_from(share.bytes).ok().filter(|bytes| *bytes > 0) else {
            continue;
        };
        let growth = Growth { device, context: uid, cause, bytes, error: Bytes(share.error) };
        let body = Body::ContextGrew(growth);
        inner.ledger.accept(&Event { time: epoch.time, seen_by: SeenBy::Poll, body });
        recorder.note_growth(&growth, context);
        told = told.saturating_add(bytes);
    }
    inner.planes().side(device).unexplained = Some(unexplained.saturating_sub(told));
    told > 0
}

/// Bytes, and how far off they may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    bytes: u64,
    error: u64,
}

/// What became of what had become unexplained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shares {
    lazy: Share,
    local: Share,
}

/// What has become unexplained without a witness, on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unwitnessed {
    /// Bytes, and what others moved by meanwhile.
    rest: Share,
    /// What limits have taken by the last look; they were measured.
    limits: Option<i64>,
    /// Of it, what no record of a kernel has shown yet.
    unshown: u64,
}

impl Unwitnessed {
    /// What records tell of local memory beyond what a limit took, which they show as well. Limits
    /// that are no local memory (the heap's) count, too: that errs towards unaccounted.
    fn beyond_limits(&mut self, raised: u64, limits: i64) -> u64 {
        let before = self.limits.replace(limits).unwrap_or(limits);
        let taken = u64::try_from(limits.saturating_sub(before)).unwrap_or(0);
        self.unshown = self.unshown.saturating_add(taken);
        let shown = raised.min(self.unshown);
        self.unshown -= shown;
        raised - shown
    }

    /// Divides what has become unexplained since the last epoch (`step`, signed) among what has a
    /// witness, and keeps the rest in mind.
    fn divide(&mut self, step: i64, loaded: Loaded, raised: u64, others: Option<Bytes>) -> Shares {
        let mut rest = u64::try_from(step).unwrap_or(0);
        if step < 0 {
            self.rest.bytes = self.rest.bytes.saturating_sub(step.unsigned_abs());
        }
        let moved = |bytes: u64| others.map_or(bytes, |others| others.0);
        let mut shares = Shares::default();
        let code = rest.min(loaded.code_bytes.0);
        rest -= code;
        if raised > 0 {
            let pot = rest.saturating_add(self.rest.bytes);
            let bytes = pot.min(raised);
            let late = bytes.saturating_sub(rest);
            let doubt = moved(bytes).max(PAGE).max(pot.abs_diff(raised));
            let doubt = if late > 0 { doubt.max(self.rest.error) } else { doubt };
            shares.local = Share { bytes, error: doubt.min(bytes) };
            rest -= bytes - late;
            self.rest.bytes -= late;
        }
        let beside = loaded.code_bytes.0.saturating_mul(TIMES_CODE - 1);
        let beside = rest.min(beside.saturating_add(loaded.count.saturating_mul(PAGE)));
        rest -= beside;
        let bytes = code.saturating_add(beside);
        shares.lazy = Share { bytes, error: moved(bytes).min(bytes) };
        self.rest.bytes = self.rest.bytes.saturating_add(rest);
        let error = if rest > 0 { moved(rest) } else { 0 };
        self.rest.error = self.rest.error.saturating_add(error).min(self.rest.bytes);
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// MiB that became unexplained, modules and their code's MiB, MiB that local memory was raised by.
    type Step = (i64, (u64, u64), u64);
    /// MiB of lazily loaded modules and of local memory, each with its error bar.
    type Expect = ((u64, u64), (u64, u64));

    fn check(steps: &[(Step, Expect)], others: Option<u64>) {
        let mut unwitnessed = Unwitnessed::default();
        for ((step, (count, code), raised), (lazy, local)) in steps {
            let loaded = Loaded { count: *count, code_bytes: Bytes(code * MIB), context: 1 };
            let others = others.map(|others| Bytes(others * MIB));
            let found = unwitnessed.divide(step * MIB as i64, loaded, raised * MIB, others);
            let share =
                |(bytes, error): &(u64, u64)| Share { bytes: bytes * MIB, error: error * MIB };
            assert_eq!(
                found,
                Shares { lazy: share(lazy), local: share(local) },
                "{step} {steps:?}"
            );
        }
    }

    const NONE: (u64, u64) = (0, 0);

    #[test]
    fn growth_needs_a_witness_and_is_held_to_it() {
        for (others, error) in [(Some(0), 0), (Some(3), 3), (None, u64::MAX)] {
            let lazy = |bytes: u64| ((bytes, error.min(bytes)), NONE);
            check(&[((4, (0, 0), 0), lazy(0))], others);
            check(&[((4, (1, 1), 0), lazy(4))], others);
            check(&[((64, (1, 1), 0), lazy(6))], others);
            check(&[((-10, (3, 1), 0), lazy(0))], others);
            check(&[((0, (3, 1), 0), lazy(0))], others);
            check(&[((8, (1, 0), 0), lazy(2))], others);
        }
        let all = Loaded { count: u64::MAX, code_bytes: Bytes(u64::MAX), context: 1 };
        let shares = Unwitnessed::default().divide(i64::MAX, all, u64::MAX, None);
        assert_eq!(shares.lazy.bytes, i64::MAX as u64);
        let shares = Unwitnessed::default().divide(i64::MIN, all, u64::MAX, None);
        assert_eq!(shares, Shares::default());
    }

    #[test]
    fn local_memory_is_what_records_and_free_memory_agree_on() {
        // They agree: a page, as its rounding is unknown.
        check(&[((792, (0, 0), 792), (NONE, (792, 2)))], Some(0));
        check(&[((792, (0, 0), 792), (NONE, (792, 9)))], Some(9));
        check(&[((792, (0, 0), 792), (NONE, (792, 792)))], None);
        // They do not: by as much.
        check(&[((700, (0, 0), 792), (NONE, (700, 92)))], Some(0));
        check(&[((892, (0, 0), 792), (NONE, (792, 100)))], Some(0));
        check(&[((10, (0, 0), 792), (NONE, (10, 10)))], Some(0));
        check(&[((-10, (0, 0), 792), (NONE, NONE))], Some(0));
        // With modules in the same launch: code first, what is beside it last.
        check(&[((800, (1, 8), 792), ((8, 0), (792, 2)))], Some(0));
        check(&[((820, (1, 8), 792), ((28, 0), (792, 20)))], Some(0));
        check(&[((900, (1, 8), 792), ((34, 0), (792, 100)))], Some(0));
    }

    #[test]
    fn records_may_come_later_than_what_they_tell_of() {
        let launch = ((792, (0, 0), 0), (NONE, NONE));
        let quiet = ((0, (0, 0), 0), (NONE, NONE));
        check(&[launch, quiet, ((0, (0, 0), 792), (NONE, (792, 2)))], Some(0));
        // What others moved by in the meantime is in the bar.
        check(&[launch, quiet, ((0, (0, 0), 792), (NONE, (792, 7)))], Some(7));
        check(&[launch, quiet, ((0, (0, 0), 792), (NONE, (792, 792)))], None);
        // Once told, it is gone, and so is what was given back.
        let late = ((0, (0, 0), 792), (NONE, (792, 2)));
        check(&[launch, late, ((0, (0, 0), 792), (NONE, NONE))], Some(0));
        let back = ((-600, (0, 0), 0), (NONE, NONE));
        check(&[launch, back, ((0, (0, 0), 792), (NONE, (192, 192)))], Some(0));
    }

    #[test]
    fn what_a_limit_took_is_not_told_again() {
        let mut unwitnessed = Unwitnessed::default();
        let steps = [(0, 5, 0), (10, 5, 10), (0, 105, 0), (60, 105, 0), (60, 105, 20), (7, 80, 7)];
        for (raised, limits, expect) in steps {
            assert_eq!(unwitnessed.beyond_limits(raised, limits), expect, "{raised} {limits}");
        }
    }
}
