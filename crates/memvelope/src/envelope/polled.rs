//! The measured equation where there is no balance: from the ledger alone, or from what the device
//! says is used as a whole.

use super::equation::signed;
use super::planes::Planes;
use super::sum::{Reserves, Sum};
use super::{Origin, TermName};
use crate::event::Tag;
use crate::snapshot::DeviceSnapshot;
use crate::units::Bytes;

const NO_BALANCE: &str = "not told apart without a balance";
pub(super) const NO_RECORDER: &str = "nothing is recorded through CUPTI";
const UNSEEN: &str = "single allocations go unseen";

/// Fills the terms after the total.
pub(super) fn fill(sum: &mut Sum<'_>, device: &DeviceSnapshot) {
    let total = sum.taken_of(TermName::Total);
    let used = device.free_bytes.map(|free| total.saturating_sub(signed(free)));
    let planes = Planes::read(device, sum.basis, used);
    if device.allocations_unseen {
        lumped(sum, &planes, used);
    } else {
        from_ledger(sum, &planes, device);
    }
    unaccounted(sum, used, device);
}

fn from_ledger(sum: &mut Sum<'_>, planes: &Planes, device: &DeviceSnapshot) {
    let live = |tag: Tag| signed(device.totals.by_tag[tag as usize].live_bytes);
    sum.withheld(Some(live(Tag::Withheld)), 0);
    sum.weights(Some(live(Tag::Weights)));
    let seen = &device.totals.by_tag[Tag::Activations as usize];
    sum.activations(Some(signed(seen.live_bytes)), signed(seen.peak_bytes));
    if device.totals.by_tag[Tag::Graphs as usize].allocated_count == 0 {
        let note = "none seen; those captured later need the runtime reserve";
        sum.absent(TermName::Graphs, note);
    } else {
        let note = "live allocations tagged as graphs";
        sum.used(TermName::Graphs, live(Tag::Graphs), note);
    }
    context(sum, planes, device);
    recorder(sum, device);
    let note = "allocations that nobody tagged, and pool reserves";
    sum.used(TermName::Libraries, unexplained(device), note);
    not_told_apart(sum);
    others(sum, planes);
    let found = sum.presume();
    sum.reserves(Reserves::default());
    sum.kv_cache(Some(live(Tag::KvCache)), found, UNSEEN);
}

fn context(sum: &mut Sum<'_>, planes: &Planes, device: &DeviceSnapshot) {
    let (bytes, in_use, origin, note) = match planes.context {
        Some(context) if !sum.basis.is_context_declared => {
            let rounding = rounding_max(device, sum.basis.page_bytes);
            let note = format!("this process beyond the ledger; rounding is in it ({rounding})");
            (context, Some(context), Origin::Derived, note)
        }
        Some(context) => {
            let in_use = device.free_bytes.map(|_| context);
            (context, in_use, Origin::Assumed, sum.basis.context.1.clone())
        }
        None => {
            let (context, note) = sum.basis.context.clone();
            (context, None, Origin::Assumed, note)
        }
    };
    sum.push(TermName::Context, Some(bytes), in_use, origin, note);
}

fn recorder(sum: &mut Sum<'_>, device: &DeviceSnapshot) {
    let Some(bytes) = device.recorder_bytes else {
        return sum.absent(TermName::Recorder, NO_RECORDER);
    };
    let most = device.recorder_bytes_max.unwrap_or(bytes);
    let note = format!("CUPTI's own buffers, preallocated; at most {most} when they fill");
    let (bytes, in_use) = (signed(bytes), device.free_bytes.map(|_| signed(bytes)));
    sum.push(TermName::Recorder, Some(bytes), in_use, Origin::Derived, note);
}

fn not_told_apart(sum: &mut Sum<'_>) {
    for name in [TermName::Rounding, TermName::AwaitingStream, TermName::Cached] {
        sum.absent(name, NO_BALANCE);
    }
}

fn others(sum: &mut Sum<'_>, planes: &Planes) {
    match planes.others {
        Some(others) => {
            let (origin, note) = (planes.others_origin, planes.others_note);
            sum.push(TermName::OpeningBalance, Some(others), Some(others), origin, note);
        }
        None => sum.absent(TermName::OpeningBalance, planes.others_note),
    }
    sum.absent(TermName::OtherProcesses, "in the opening balance, as far as anybody told");
}

/// The terms where no allocation was seen: computed ones, each in use as far as what this process
/// uses goes.
fn lumped(sum: &mut Sum<'_>, planes: &Planes, used: Option<i64>) {
    let mut left = used.map(|used| used.saturating_sub(planes.others.unwrap_or(0)).max(0));
    let mut take = |bytes: i64| {
        let in_use = left.map(|left| left.min(bytes.max(0)));
        left = left.zip(in_use).map(|(left, in_use)| left - in_use);
        in_use
    };
    // Declared KV bytes are surely in it; computed terms may be still to come.
    let kv = sum.basis.kv_untagged;
    let kv_in_use = take(kv);
    if sum.basis.withheld.is_some() {
        sum.withheld(None, planes.others.unwrap_or(0));
    } else {
        sum.absent(TermName::Withheld, UNSEEN);
    }
    let mut lump = |sum: &mut Sum<'_>, name, (bytes, note): (i64, String), origin| {
        sum.push(name, Some(bytes), take(bytes), origin, format!("{note}; {UNSEEN}"));
    };
    lump(sum, TermName::Weights, sum.basis.weights.clone(), Origin::Derived);
    lump(sum, TermName::Activations, sum.basis.activations.clone(), Origin::Assumed);
    sum.absent(TermName::Graphs, UNSEEN);
    lump(sum, TermName::Context, sum.basis.context.clone(), Origin::Assumed);
    match planes.recorder {
        Some(bytes) => {
            let recorder = (bytes, "CUPTI's own buffers".to_owned());
            lump(sum, TermName::Recorder, recorder, Origin::Derived);
        }
        None => sum.absent(TermName::Recorder, NO_RECORDER),
    }
    for name in
        [TermName::Libraries, TermName::Rounding, TermName::AwaitingStream, TermName::Cached]
    {
        sum.absent(name, UNSEEN);
    }
    others(sum, planes);
    sum.reserves(Reserves::default());
    match kv_in_use.filter(|&in_use| in_use > 0) {
        Some(in_use) => {
            let note = format!("as declared; {UNSEEN}");
            sum.push(TermName::KvCache, Some(in_use), Some(in_use), Origin::Assumed, note);
        }
        None => sum.absent(TermName::KvCache, UNSEEN),
    }
}

/// What the device plane reports beyond (or, negative, below) the terms in use.
fn unaccounted(sum: &mut Sum<'_>, used: Option<i64>, device: &DeviceSnapshot) {
    let Some(used) = used else {
        return sum.absent(TermName::Unaccounted, "the driver told no free memory");
    };
    let known: i128 = sum.terms.iter().filter_map(|t| t.in_use_bytes).map(i128::from).sum();
    let rest = i128::from(used) - known;
    let rest = rest.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    let note = match rest {
        ..0 => "counted twice somewhere, or freed since: total - free - all that is known".into(),
        0 => "all of total - free is explained".into(),
        _ if sum.basis.is_context_declared => {
            let rounding = rounding_max(device, sum.basis.page_bytes);
            format!("total - free - all that is known; rounding is in it ({rounding})")
        }
        _ => "total - free - all that is known".into(),
    };
    sum.push(TermName::Unaccounted, Some(rest), Some(rest), Origin::Derived, note);
}

/// Ledger bytes that no tag explains.
fn unexplained(device: &DeviceSnapshot) -> i64 {
    let totals = &device.totals;
    let tagged: Bytes = Tag::ALL
        .iter()
        .filter(|&&tag| tag != Tag::Untagged)
        .map(|&tag| totals.by_tag[tag as usize].live_bytes)
        .sum();
    signed(totals.vram.live_bytes.saturating_sub(tagged))
}

/// How much rounding by the driver can be at most, in words.
fn rounding_max(device: &DeviceSnapshot, page_bytes: Bytes) -> String {
    let live = device.totals.vram.live_count;
    let most = Bytes(page_bytes.0.saturating_sub(1)).saturating_mul(live);
    format!("at most {most} for {live} allocations")
}
