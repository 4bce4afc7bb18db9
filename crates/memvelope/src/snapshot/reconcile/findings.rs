//! What somebody should know who relies on a balance.

use super::planes::Planes;
use super::{Balance, Reconcile, TermName};
use crate::snapshot::{Finding, FindingKind};
use crate::units::Bytes;

/// `unaccounted` is worth a finding above one in so many bytes of what is used. A hundredth is what
/// the project promises on a GPU.
const UNEXPLAINED_PART: i64 = 100;
/// Growths of `unaccounted` in a row that are called growth: one is a late reading, two a chance.
const GROWTHS_MIN: usize = 3;
/// A growth of `unaccounted` below the driver's page is none.
const GROWTH_MIN: i64 = 2 << 20;

/// In the order of [`FindingKind`].
pub(super) fn all(input: &Reconcile<'_>, planes: &Planes, balance: &Balance) -> Vec<Finding> {
    let mut found = Vec::new();
    match torn(input) {
        // A call that was under way may have moved any number of bytes, in one plane and not yet in
        // another.
        Some(torn) => found.push(torn),
        None => {
            found.extend(rest(input, planes, balance));
            found.extend(grows(input, balance));
            found.extend(planes_disagree(input, planes));
        }
    }
    found.extend(untracked_frees(input, planes));
    found.extend(unseen(input, planes));
    found.extend(records_disagree(input));
    found.extend(input.fragmentation.and_then(fragmented));
    found.sort_by_key(|finding| finding.kind);
    found
}

fn finding(
    kind: FindingKind,
    bytes: i128,
    text: impl Into<String>,
    action: impl Into<String>,
) -> Finding {
    let held = super::held(bytes);
    let bytes = i64::try_from(held).unwrap_or(0);
    Finding { kind, bytes, text: text.into(), action: action.into() }
}

pub(super) fn no_total() -> Finding {
    finding(
        FindingKind::Unseen,
        0,
        "the driver told no total for this device, so nothing can be balanced",
        "ask `memvelope doctor` why the driver does not answer",
    )
}

/// Twice counted, or not at all.
fn rest(input: &Reconcile<'_>, planes: &Planes, balance: &Balance) -> Option<Finding> {
    let line = balance.line(TermName::Unaccounted)?;
    let (bytes, error) = (i128::from(line.bytes), i128::from(line.error_bytes.0));
    let sizes = (size(bytes), line.error_bytes);
    // Others whom nobody can tell from this process may have given back what they had at first.
    let is_alone = input.plane.others_moved_bytes == Some(Bytes::ZERO);
    let opening = planes.opening.as_ref().filter(|it| it.is_device_wide && !is_alone);
    if bytes < -error - opening.map_or(0, |opening| opening.bytes) {
        return Some(finding(
            FindingKind::CountedTwice,
            bytes,
            format!("{} more are counted than are used (error bar {})", sizes.0, sizes.1),
            "something is counted twice: compare the largest lines with what the program holds, \
             and report it with `memvelope snapshot --json`",
        ));
    }
    // Where allocations go unseen, most of what is used is bound to be unaccounted for.
    let limit = i128::from(balance.used_bytes.0) / i128::from(UNEXPLAINED_PART);
    let is_much = !input.allocations_unseen && !is_untouched(input) && bytes - error > limit;
    let is_at = |term| balance.line(term).map(|line| line.bytes);
    let is_all_known = is_at(TermName::Context).is_some()
        && is_at(TermName::OpeningBalance) == Some(0)
        && is_at(TermName::OtherProcesses).is_some();
    let action = if is_all_known {
        "no line is absent: while it stays as it is, it is what the driver keeps for itself, and is \
         to be planned with; if it grows, something allocates without being seen"
    } else {
        "look for what is absent in the note of `unaccounted`; attach before the first CUDA call, \
         and load the modules that the program needs, so that they are measured"
    };
    is_much.then(|| {
        finding(
            FindingKind::Unexplained,
            bytes,
            format!(
                "{} are used that nothing explains: more than 1 % of what is used, and than the \
                 error bar ({})",
                sizes.0, sizes.1
            ),
            action,
        )
    })
}

/// Whether this process never had anything there: what is used is none of its concern.
fn is_untouched(input: &Reconcile<'_>) -> bool {
    let totals = &input.epoch.totals;
    input.plane.opening_own_bytes.or(input.plane.opening_bytes) == Some(Bytes::ZERO)
        && totals.vram.peak_bytes == Bytes::ZERO
        && totals.growth.iter().all(|cause| cause.count == 0)
        && input.epoch.framework.is_none()
}

fn grows(input: &Reconcile<'_>, balance: &Balance) -> Option<Finding> {
    let line = balance.line(TermName::Unaccounted)?;
    if input.allocations_unseen {
        return None;
    }
    let mut later = (balance.time_ns, line.bytes);
    let mut growths = 0;
    for &(time, bytes) in input.earlier.iter().rev().filter(|(time, _)| *time < balance.time_ns) {
        if time >= later.0 || later.1.saturating_sub(bytes) < GROWTH_MIN {
            break;
        }
        growths += 1;
        later = (time, bytes);
    }
    let grown = i128::from(line.bytes) - i128::from(later.1);
    let is_growth = growths >= GROWTHS_MIN && grown > i128::from(line.error_bytes.0);
    is_growth.then(|| {
        let span = crate::units::Nanos(balance.time_ns.0.saturating_sub(later.0.0));
        finding(
            FindingKind::UnexplainedGrows,
            grown,
            format!(
                "what nothing explains grew by {} in {span}, in each of the last {growths} \
                 readings",
                size(grown)
            ),
            "something allocates without being seen: a library that loads modules, local memory \
             of a larger kernel, or another process that NVML does not tell of",
        )
    })
}

fn untracked_frees(input: &Reconcile<'_>, planes: &Planes) -> Option<Finding> {
    let frees = input.findings.untracked_frees;
    let was_used_before = planes.opening.as_ref().is_none_or(|opening| opening.bytes > 0);
    let action = if was_used_before {
        "memory from before we attached was freed, of unknown size: the opening balance is too \
         large by that; attach before the first CUDA call"
    } else {
        "nothing was in use before we attached: an allocation call goes unseen; `memvelope doctor` \
         says which calls are watched"
    };
    let text = format!("{} of allocations that were never seen", count(frees, "free"));
    (frees > 0).then(|| finding(FindingKind::UntrackedFrees, 0, text, action))
}

fn unseen(input: &Reconcile<'_>, planes: &Planes) -> Option<Finding> {
    let findings = input.findings;
    let mut what = Vec::new();
    if input.allocations_unseen {
        what.push("single allocations go unseen: what they hold is unaccounted".to_owned());
    }
    if planes.framework_is_unmatched {
        what.push("torch has more segments than are told apart: it is left out".to_owned());
    }
    for (number, text) in [
        (findings.refused, "allocation that could not be entered in the ledger"),
        (findings.replaced, "allocation at an address that was still live"),
        (findings.untracked_mappings, "mapping of a handle that was never seen created"),
        (findings.presumed_frees, "free whose end was not seen"),
        (findings.unasked_pools, "memory pool of the program whose reserve nobody asked for"),
        (findings.late_pools, "memory pool that was told of too late to be counted then"),
        (findings.underflows, "sum that would have gone below zero, which is a bug of memvelope"),
    ] {
        if number > 0 {
            what.push(counted(number, text));
        }
    }
    if planes.pools.unasked > 0 {
        let pools = u64::try_from(planes.pools.unasked).unwrap_or(u64::MAX);
        what.push(counted(pools, "memory pool whose reserve is not known yet"));
    }
    let action = if input.allocations_unseen {
        "run with CUPTI (`memvelope doctor` says what is missing)"
    } else if findings.refused > 0 {
        "raise MEMVELOPE_ALLOCATIONS_MAX, unless a device is past those that are kept"
    } else {
        "attach before the first CUDA call; `memvelope doctor` says what is missing"
    };
    let bytes = i128::from(findings.refused_bytes.0);
    (!what.is_empty()).then(|| finding(FindingKind::Unseen, bytes, what.join("; "), action))
}

fn torn(input: &Reconcile<'_>) -> Option<Finding> {
    let moved = input.epoch.moved_bytes;
    input.epoch.is_torn.then(|| {
        finding(
            FindingKind::Torn,
            i128::from(moved.0),
            format!("memory moved in every try to read the planes together ({moved} in the last)"),
            "read again when the program allocates less: the error bars hold what was seen to move, \
             and what a call that is under way moves is not seen yet",
        )
    })
}

/// Segments that the driver plane did not hand out, and that were not there before either.
fn planes_disagree(input: &Reconcile<'_>, planes: &Planes) -> Option<Finding> {
    let driver = planes.driver.as_ref()?;
    let framework = planes.framework.as_ref()?;
    let moved_out = planes.opening.as_ref().map(|opening| opening.moved_out);
    // Without an opening balance nobody knows what was there before.
    let unseen = moved_out.map_or(0, |moved_out| framework.unseen - moved_out);
    let slack = i128::from(input.findings.refused_bytes.0);
    if unseen > slack {
        return Some(finding(
            FindingKind::PlanesDisagree,
            unseen,
            format!("torch holds {} that the driver was never seen handing out", size(unseen)),
            "an allocation call goes unseen: another allocator behind torch, or a CUDA library of \
             its own; `memvelope doctor` says which calls are watched",
        ));
    }
    let overdrawn = driver.overdrawn;
    (overdrawn > slack).then(|| {
        finding(
            FindingKind::PlanesDisagree,
            overdrawn,
            format!("torch's segments cover {} more than the ledger has", size(overdrawn)),
            "the planes were read at different moments, or memvelope has a bug: report it with \
             `memvelope snapshot --json`",
        )
    })
}

/// Records come later than calls, so fewer of them mean nothing.
fn records_disagree(input: &Reconcile<'_>) -> Option<Finding> {
    let recorded = input.findings.recorded_allocations;
    let called = input.called_allocations?;
    let missed = recorded.checked_sub(called).filter(|missed| *missed > 0)?;
    Some(finding(
        FindingKind::RecordsDisagree,
        0,
        format!(
            "CUPTI's memory records tell of {} that no callback told of ({recorded} against \
             {called})",
            count(missed, "allocation")
        ),
        "some way of allocating goes past the callbacks, and its bytes are unaccounted: report the \
         CUDA version and the call",
    ))
}

/// Worth a finding: one recent request in a hundred would fail for want of a fitting block.
const FRAGMENTED_MIN: f64 = 0.01;

fn fragmented(fragmentation: &super::Fragmentation) -> Option<Finding> {
    let share = fragmentation.demand_weighted.filter(|share| *share >= FRAGMENTED_MIN)?;
    let stranded: Bytes = fragmentation.spaces.iter().map(|space| space.stranded_bytes).sum();
    Some(finding(
        FindingKind::Fragmented,
        i128::from(stranded.0),
        format!(
            "{:.0} % of the recent requests would find no room, although {} are free or cached: \
             the most that one gets is {}",
            share * 100.0,
            fragmentation.available_bytes,
            fragmentation.largest_fit_bytes
        ),
        format!(
            "{stranded} are stranded beside blocks in use: set \
             PYTORCH_ALLOC_CONF=expandable_segments:True if it is not, or allocate what stays first"
        ),
    ))
}

fn size(bytes: i128) -> Bytes {
    Bytes(u64::try_from(bytes.unsigned_abs()).unwrap_or(u64::MAX))
}

fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("{number} {noun}") } else { format!("{number} {noun}s") }
}

/// The first word is the noun, or the last of it: `memory pool …`.
fn counted(number: u64, text: &str) -> String {
    if number == 1 {
        return format!("{number} {text}");
    }
    let noun = if text.starts_with("memory pool") { "memory pool" } else { first_word(text) };
    format!("{number} {noun}s{}", text.get(noun.len()..).unwrap_or_default())
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}
