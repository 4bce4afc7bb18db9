//! What lazily loaded modules took: the one growth that is not measured around a call, because the
//! driver does it by itself in some launch.
//!
//! Where CUPTI told that modules were loaded since the last epoch, what has become unexplained since
//! then is theirs, up to what their machine code makes plausible; the rest stays unaccounted for. So
//! it is no remainder: without a witness there is nothing, and never more than the evidence allows.
//! The error bar is what other processes moved by between two looks; where nobody can tell that, all
//! of it.

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

/// Looks whether modules were loaded since the last epoch, and tells the ledger what they took. True
/// if it did: the epoch is then to be read again.
pub(super) fn settle(inner: &Inner, links: &Links, epoch: &Epoch) -> bool {
    let device = epoch.totals.device;
    let used = epoch.total_bytes.saturating_sub(epoch.free_bytes);
    let used = i64::try_from(used.0).unwrap_or(i64::MAX);
    let unexplained = used.saturating_sub(seen_of(&epoch.totals));
    let (before, others) = {
        let mut planes = inner.planes();
        let before = planes.side(device).unexplained.replace(unexplained);
        (before, planes.plane(device).others_moved_bytes)
    };
    let Some(recorder) = links.recorder.filter(|_| inner.config.context_growth) else {
        return false;
    };
    let loaded = recorder.take_loaded(device);
    let Some((bytes, error)) = before.and_then(|it| growth(it, unexplained, loaded, others)) else {
        return false;
    };
    let growth = Growth { device, context: 0, cause: GrowthCause::LazyModule, bytes, error };
    let body = Body::ContextGrew(growth);
    inner.ledger.accept(&Event { time: epoch.time, seen_by: SeenBy::Poll, body });
    inner.planes().side(device).unexplained = Some(unexplained.saturating_sub(bytes));
    true
}

/// Bytes and error bar; `None` where nothing was loaded or nothing grew.
fn growth(before: i64, now: i64, loaded: Loaded, others: Option<Bytes>) -> Option<(i64, Bytes)> {
    let grown = u64::try_from(now.saturating_sub(before)).ok().filter(|grown| *grown > 0)?;
    let code = loaded.code_bytes.0.saturating_mul(TIMES_CODE);
    let plausible = code.saturating_add(loaded.count.saturating_mul(PAGE));
    let bytes = Bytes(grown.min(plausible)).0;
    let error = others.map_or(bytes, |others| others.0.min(bytes));
    let signed = i64::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
    Some((signed, Bytes(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: i64, now: i64, loaded: (u64, u64), expect: Option<(i64, u64)>) {
        let loaded = Loaded { count: loaded.0, code_bytes: Bytes(loaded.1) };
        let found = |others| growth(before, now, loaded, others);
        assert_eq!(
            found(Some(Bytes::ZERO)).map(|(bytes, error)| (bytes, error.0)),
            expect.map(|(bytes, _)| (bytes, 0))
        );
        assert_eq!(
            found(Some(Bytes(7))).map(|(_, error)| error.0),
            expect.map(|(bytes, _)| bytes.min(7) as u64)
        );
        assert_eq!(found(None).map(|(_, error)| error.0), expect.map(|(_, whole)| whole));
    }

    #[test]
    fn growth_needs_a_witness_and_is_held_to_it() {
        const MIB: i64 = 1 << 20;
        check(100 * MIB, 104 * MIB, (0, 0), None);
        check(100 * MIB, 104 * MIB, (1, 1 << 20), Some((4 * MIB, 4 << 20)));
        check(100 * MIB, 164 * MIB, (1, 1 << 20), Some((6 * MIB, 6 << 20)));
        check(100 * MIB, 90 * MIB, (3, 1 << 20), None);
        check(100 * MIB, 100 * MIB, (3, 1 << 20), None);
        check(-5, 3, (1, 0), Some((8, 8)));
        check(i64::MIN, i64::MAX, (u64::MAX, u64::MAX), Some((i64::MAX, i64::MAX as u64)));
    }
}
