//! The terms, line by line.

use super::planes::{Planes, tag_sum, wide};
use super::{Draft, Origin, Reconcile, TermName};
use crate::event::{AllocKind, GrowthCause, Tag};
use crate::units::Bytes;

/// Every line but `unaccounted`; a term that nobody can tell has none.
pub(super) fn drafts(input: &Reconcile<'_>, planes: &Planes) -> Vec<Draft> {
    let tagged = [
        (TermName::Withheld, Tag::Withheld, "withheld"),
        (TermName::Weights, Tag::Weights, "weights"),
        (TermName::Activations, Tag::Activations, "activations"),
        (TermName::Graphs, Tag::Graphs, "graphs"),
        (TermName::KvCache, Tag::KvCache, "kv_cache"),
    ];
    let tagged = tagged.into_iter().filter_map(|(term, tag, name)| {
        let mut draft = tag_line(planes, term, tag, name)?;
        if tag == Tag::Graphs {
            graphs(&mut draft, planes);
        }
        Some(draft)
    });
    let mut drafts: Vec<_> = tagged.collect();
    drafts.extend(libraries(input, planes));
    drafts.extend(rounding(input, planes));
    drafts.extend(awaiting(planes));
    drafts.extend(cached(planes));
    drafts.extend(context_and_recorder(input));
    drafts.extend(opening(input, planes));
    drafts.extend(others(input));
    drafts
}

const TORCH_BLOCKS: &str = "torch blocks";
const POOLS: &str = "memory pools";

fn tag_line(planes: &Planes, term: TermName, tag: Tag, name: &str) -> Option<Draft> {
    let note = match (&planes.driver, &planes.framework) {
        (Some(_), _) => format!("tagged {name}"),
        (None, Some(_)) => format!("tagged {name} in torch; driver allocations go unseen"),
        (None, None) if planes.pools.are_known || planes.graphs.is_some() => {
            format!("tagged {name} in memory pools; other allocations go unseen")
        }
        (None, None) => return None,
    };
    let tag = tag as usize;
    let mut draft = Draft::new(term, Origin::Measured, note);
    if let Some(driver) = &planes.driver {
        draft.part("driver allocations", tag_sum(&driver.by_tag, tag));
    }
    draft.part(POOLS, tag_sum(&planes.pools.by_tag, tag));
    if let Some(framework) = &planes.framework {
        draft.part(TORCH_BLOCKS, tag_sum(&framework.by_tag, tag));
    }
    Some(draft)
}

fn graphs(draft: &mut Draft, planes: &Planes) {
    if let Some(framework) = &planes.framework {
        draft.part("torch private pools", framework.private);
    }
    if let Some(graphs) = &planes.graphs {
        draft.part("graph memory nodes", graphs.used);
    }
    draft.note += ", private pools, and memory nodes of graphs";
}

fn libraries(input: &Reconcile<'_>, planes: &Planes) -> Option<Draft> {
    if planes.driver.is_none() && planes.framework.is_none() && !planes.pools.are_known {
        return None;
    }
    let note = "allocations that nobody tagged, by who asked for them";
    let mut draft = Draft::new(TermName::Libraries, Origin::Measured, note);
    for (library, bytes) in planes.driver.iter().flat_map(|driver| &driver.libraries) {
        draft.part((input.library_name)(*library), *bytes);
    }
    if let Some(framework) = &planes.framework {
        let untagged = tag_sum(&framework.by_tag, Tag::Untagged as usize);
        draft.part("torch blocks, untagged", untagged);
    }
    let pooled = tag_sum(&planes.pools.by_tag, Tag::Untagged as usize);
    draft.part("memory pools, untagged", pooled);
    Some(draft)
}

fn rounding(input: &Reconcile<'_>, planes: &Planes) -> Option<Draft> {
    if planes.driver.is_none() && planes.framework.is_none() && !planes.pools.are_known {
        return None;
    }
    let note = "sizes rounded up to pages by the driver, to blocks by allocators";
    let mut draft = Draft::new(TermName::Rounding, Origin::Derived, note);
    if planes.driver.is_some() {
        let rounding = &input.epoch.totals.rounding;
        draft.part("driver pages", wide(rounding.bytes));
        draft.error = wide(rounding.error_bytes);
    }
    if let Some(framework) = &planes.framework {
        draft.part(TORCH_BLOCKS, framework.rounding);
        draft.part("torch segments", framework.excess);
    }
    draft.part(POOLS, planes.pools.rounding);
    Some(draft)
}

fn awaiting(planes: &Planes) -> Option<Draft> {
    let framework = planes.framework.as_ref()?;
    let note = "freed in torch, but another stream may still use it";
    let mut draft = Draft::new(TermName::AwaitingStream, Origin::Derived, note);
    draft.part(TORCH_BLOCKS, framework.awaiting);
    Some(draft)
}

fn cached(planes: &Planes) -> Option<Draft> {
    if planes.framework.is_none() && planes.graphs.is_none() && !planes.pools.are_known {
        return None;
    }
    let note = "in no use, kept for the next request";
    let mut draft = Draft::new(TermName::Cached, Origin::Derived, note);
    if let Some(framework) = &planes.framework {
        draft.part("torch, empty_cache() gives back", framework.releasable);
        draft.part("torch, stranded beside blocks in use", framework.stranded);
    }
    draft.part(POOLS, planes.pools.idle);
    let destroyed = planes.pools.idle_of_destroyed;
    if destroyed > 0 {
        draft.error = destroyed;
        let bytes = Bytes(u64::try_from(destroyed).unwrap_or(0));
        draft.note += &format!(
            "; {bytes} in destroyed pools, as they held when they were: they go with the last \
             allocation of each"
        );
    }
    if let Some(graphs) = &planes.graphs {
        draft.part("graph memory", graphs.idle);
    }
    Some(draft)
}

/// What contexts took, cause by cause, and of it what is CUPTI's.
///
/// CUPTI gives a context its buffers while the context is made. If that was measured, and CUPTI was
/// attached by then, they are inside of what was measured and are moved out of it, as far as it
/// goes. Their size is what CUPTI's attributes say: where that is wrong, one line is as much too
/// large as the other is too small. If making the context was not measured, they stand alone, and
/// the whole of them may be wrong.
fn context_and_recorder(input: &Reconcile<'_>) -> Vec<Draft> {
    let growth = &input.epoch.totals.growth;
    let grown = |cause: GrowthCause| growth.get(cause as usize).filter(|sum| sum.count > 0);
    let made = grown(GrowthCause::Context);
    let mut drafts = Vec::new();
    let inside = made.map(|made| i128::from(made.bytes).max(0));
    let buffers = input.plane.recorder_bytes.map(|bytes| {
        let bytes = wide(bytes);
        let held = inside.map_or(bytes, |inside| bytes.min(inside));
        let note = match inside {
            Some(_) => "CUPTI's buffers, by its attributes; taken out of the context",
            None => "CUPTI's buffers, by its attributes; not measured",
        };
        let mut draft = Draft::new(TermName::Recorder, Origin::Derived, note);
        if let Some(most) = input.plane.recorder_bytes_max.filter(|most| wide(*most) > bytes) {
            draft.note += &format!("; at most {most} when they fill");
        }
        draft.part("buffers", held);
        draft.error = bytes;
        draft.shared_error = if inside.is_some() { bytes } else { 0 };
        draft
    });
    if growth.iter().any(|sum| sum.count > 0) {
        let note = match made {
            Some(_) => "what the driver took for itself: free memory before and after each call",
            None => "growth since we attached; the context itself was not seen being made",
        };
        let mut draft = Draft::new(TermName::Context, Origin::Measured, note);
        for (cause, name) in [
            (GrowthCause::Context, "context"),
            (GrowthCause::Module, "modules"),
            (GrowthCause::LazyModule, "lazily loaded modules"),
            (GrowthCause::Limit, "limits"),
            (GrowthCause::LocalMemory, "local memory"),
        ] {
            if let Some(sum) = grown(cause) {
                draft.part(name, i128::from(sum.bytes));
                draft.error += wide(sum.error_bytes);
            }
        }
        if inside.is_some() {
            draft.part("context", -buffers.as_ref().map_or(0, Draft::sum));
        }
        drafts.push(draft);
    }
    drafts.extend(buffers);
    drafts
}

fn opening(input: &Reconcile<'_>, planes: &Planes) -> Option<Draft> {
    let opening = planes.opening.as_ref()?;
    let mut note = String::from(if opening.is_device_wide {
        "in use on the device before we attached: may hold other processes' and the driver's own"
    } else {
        "in use in this process before we attached, as NVML told"
    });
    let mut draft = Draft::new(TermName::OpeningBalance, Origin::Measured, "");
    draft.part("before", opening.bytes);
    if opening.moved_out > 0 {
        let moved = Bytes(u64::try_from(opening.moved_out).unwrap_or(0));
        note += &format!(", less {moved} that torch tells of by now");
    }
    let frees = input.findings.untracked_frees;
    if frees > 0 && opening.bytes > 0 {
        note += &format!("; {frees} frees of unknown size since");
        draft.error = opening.bytes;
    }
    if input.allocations_unseen {
        // Whether torch's segments were there before, nobody saw.
        draft.error = draft.error.max(opening.moved_out);
    }
    draft.note = note;
    Some(draft)
}

/// What others hold is read at another moment than free memory, up to a second before: it is off by
/// what they move by in such a time, as far as that was seen.
fn others(input: &Reconcile<'_>) -> Option<Draft> {
    let bytes = input.plane.others_bytes?;
    let mut draft = Draft::new(TermName::OtherProcesses, Origin::Measured, "as NVML tells");
    draft.part("others", wide(bytes));
    match input.plane.others_moved_bytes {
        Some(moved) if moved > Bytes::ZERO => {
            draft.error = wide(moved);
            draft.note += &format!("; moved by {moved} between its last two looks");
        }
        None if bytes > Bytes::ZERO && input.plane.others_untold == 0 => {
            draft.note += "; by how much they move is not known yet";
        }
        _ => {}
    }
    Some(draft)
}

/// The error bar of other processes, where NVML does not tell the bytes of some: they hold at most
/// what nothing else explains.
pub(super) fn untold_others(drafts: &mut [Draft], input: &Reconcile<'_>, rest: i128) {
    let untold = input.plane.others_untold;
    let others = drafts.iter_mut().find(|draft| draft.term == TermName::OtherProcesses);
    if let Some(others) = others.filter(|_| untold > 0) {
        others.error = others.error.max(rest);
        others.note += &format!(
            "; the bytes of {untold} more are not told: the error bar is unknown, and at most what \
             is unaccounted"
        );
    }
}

/// What is left. Its error bar is the sum of the others', what moved while the planes were read,
/// and what no line can hold.
pub(super) fn unaccounted(
    drafts: &[Draft],
    input: &Reconcile<'_>,
    planes: &Planes,
    rest: i128,
) -> Draft {
    let epoch = input.epoch;
    let mut note = vec![String::from("total - free, less every line above")];
    let mut error: i128 = drafts.iter().map(Draft::error_beyond_shared).sum();
    let mut beside = |bytes: i128, what: &str| {
        if bytes > 0 {
            error += bytes;
            note.push(format!("{} {what}", Bytes(u64::try_from(bytes).unwrap_or(0))));
        }
    };
    if planes.driver.is_some() {
        let managed = epoch.totals.by_kind.get(AllocKind::Managed as usize);
        let managed = managed.map_or(0, |managed| wide(managed.live_bytes));
        beside(managed, "of managed memory may be here or in host RAM");
        let exported = wide(epoch.totals.exported_bytes);
        beside(exported, "of exported memory may have gone since");
        // Of all that ever was exported, no more can be there than nothing else explains.
        let passed_on = wide(epoch.totals.passed_on_bytes).min(rest.max(0));
        beside(passed_on, "at most may be held by processes that this one exported memory to");
        beside(wide(input.findings.refused_bytes), "were not entered in the ledger");
    }
    let not_vram = planes.framework.as_ref().map_or(0, |framework| framework.not_vram);
    beside(not_vram, "of torch's segments are of a kind that need not be on the device");
    if epoch.is_torn {
        beside(wide(epoch.moved_bytes), "moved while the planes were read");
    }
    let absent = absent(drafts, input);
    if !absent.is_empty() {
        note.push(format!("absent: {}", absent.join(", ")));
    }
    let mut draft = Draft::new(TermName::Unaccounted, Origin::Derived, note.join("; "));
    draft.rest(rest);
    draft.error = error;
    draft
}

/// What has no line although it may be in use, and why.
fn absent(drafts: &[Draft], input: &Reconcile<'_>) -> Vec<String> {
    let has = |term| drafts.iter().any(|draft| draft.term == term);
    let mut absent = Vec::new();
    if input.allocations_unseen {
        absent.push("single allocations (unseen)".into());
    }
    if !has(TermName::Context) {
        let opening = drafts.iter().find(|draft| draft.term == TermName::OpeningBalance);
        let why = if opening.is_some_and(|opening| opening.sum() > 0) {
            "in the opening balance, if made before we attached"
        } else {
            "its growth was not measured"
        };
        absent.push(format!("context ({why})"));
    }
    if !has(TermName::OpeningBalance) {
        absent.push("opening balance (nobody could be asked)".into());
    }
    if !has(TermName::OtherProcesses) {
        absent.push("other processes (NVML does not list them)".into());
    }
    absent
}
