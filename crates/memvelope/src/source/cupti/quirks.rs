//! What single versions of CUPTI do wrong or differently, in one table.
//!
//! Ranges are of the number that `cuptiGetVersion` returns: 18 (12.0, 12.1), 20 (12.2), 21 (12.3),
//! 22 (12.4), 23 (12.5), 24 (12.6), 26 (12.8), 27 and 28 (12.9), then 130000 (13.0), 130001 (13.0
//! Update 1), 130101 … An update of 12.x often has the number of its release: then the range holds
//! both, because doing without is never wrong and a crash is.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::Range;

/// A peculiarity, and what we do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quirk {
    /// Its name.
    pub name: &'static str,
    /// From this API number…
    pub since: u32,
    /// … to before this one.
    pub before: u32,
    /// What we do about it.
    pub effect: &'static str,
    /// Where it is known from.
    pub source: &'static str,
}

/// A quirk that the CUPTI at hand has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedQuirk {
    /// Its name.
    pub name: Cow<'static, str>,
    /// What we do about it.
    pub effect: Cow<'static, str>,
    /// Where it is known from.
    pub source: Cow<'static, str>,
}

impl Quirk {
    /// Whether a CUPTI of that API number has it.
    #[must_use]
    pub const fn applies_to(&self, version: u32) -> bool {
        self.since <= version && version < self.before
    }
}

/// The first and the last number that there can be.
const ALL: Range<u32> = 0..u32::MAX;

macro_rules! quirks {
    ($($ident:ident = $name:literal, $range:expr, $effect:literal, $source:literal;)*) => {
        $(#[doc = $effect] pub(crate) const $ident: Quirk = Quirk {
            name: $name,
            since: $range.start,
            before: $range.end,
            effect: $effect,
            source: $source,
        };)*
        /// Every quirk that is known.
        pub const QUIRKS: &[Quirk] = &[$($ident),*];
    };
}

quirks! {
    // 12.8 is 26; 12.9 is 27 or 28 by its update, and throwing a buffer away is never wrong.
    NULL_BUFFER_CRASHES = "null_buffer_crashes", 0..28,
        "When the arena is empty CUPTI gets a buffer to throw away, because no buffer as an answer crashes it.",
        "https://docs.nvidia.com/cupti/release-notes/release-notes.html (12.9)";
    PER_THREAD_BUFFERS = "per_thread_buffers", 21..u32::MAX,
        "Each thread may fill a buffer of its own; the setting is left as it is, because a change in mid-run is undefined.",
        "https://github.com/pytorch/kineto/issues/1115";
    // 12.6 Update 2 and 12.6 share a number; whether an update of 13.0 mends it is not said.
    CLOCK_GIVES_ZEROES = "clock_gives_zeroes", 24..130_100,
        "No clock of ours is registered: records would come without times.",
        "https://docs.nvidia.com/cupti/release-notes/release-notes.html (known issue from 12.6 Update 2)";
    CLOCK_NEEDS_NO_CONTEXT = "clock_needs_no_context", 0..130_303,
        "A clock of ours is registered only while no context exists: records of older contexts would keep CUPTI's.",
        "https://github.com/pytorch/pytorch/pull/190354";
    CLOCK_ONCE = "clock_once", ALL,
        "A clock is registered at most once a process: each further time spoils a record.",
        "https://github.com/pytorch/pytorch/issues/192021";
    // Known without asking: see `is_dangerous_inside_init`.
    CRASHES_BEFORE_DRIVER = "crashes_before_driver", 130_200..130_300,
        "It is called only once the driver answers: before that any call recurses until the stack ends.",
        "tried with the wheels of 13.2.75 and 13.2.86, without a driver";
    REFUSES_BEFORE_DRIVER = "refuses_before_driver", 130_300..u32::MAX,
        "It is called only once the driver answers: before that every call returns 999.",
        "tried with the wheels of 13.3 to 13.5, without a driver";
    V2_REFUSES_V1_CALLS = "v2_refuses_v1_calls", 130_300..u32::MAX,
        "The subscription is of the older form where the newer one makes the older activity calls answer NOT_COMPATIBLE.",
        "https://github.com/openxla/xla/pull/44853";
    NO_API_FILTERS = "no_api_filters", 0..23,
        "Work is not tied to scopes: single calls cannot be chosen for recording, and recording all of them costs too much.",
        "CUPTI headers: cuptiActivityEnableDriverApi came with 12.5";
    GRAPH_TRACE_STICKS = "graph_trace_sticks", ALL,
        "How graphs are recorded is decided once, by MEMVELOPE_GRAPHS: whole graphs and their nodes exclude each other, and turning one off does not bring the other back.",
        "CUPTI headers";
    NO_DEVICE_SYNC_RECORDS = "no_device_sync_records", 130_000..130_001,
        "Waits for a whole device or context are missing.",
        "https://forums.developer.nvidia.com/t/cuda-profiler-tools-interface-cupti-13-0-is-now-available/341320";
    // Reported with 12.4 and 12.6, to be fixed in "an upcoming release", which 12.8 is the next of.
    // Recording whole graphs is not known to help, so nothing is changed behind the user's back.
    CONDITIONAL_GRAPHS_CRASH = "conditional_graphs_crash", 22..26,
        "Instantiating a graph with conditional nodes may crash the program while CUPTI is attached: set MEMVELOPE_RECORD=poll for such programs, or use the libcupti of CUDA 12.8 or later.",
        "https://github.com/pytorch/pytorch/issues/134308";
    // 12.1 Update 1 shares 12.0's number, 12.4 Update 1 that of 12.4.
    FINALIZE_CRASHES = "finalize_crashes", 0..23,
        "CUPTI is not finalized, whatever was asked: it crashes, with graphs until 12.4 Update 1.",
        "https://docs.nvidia.com/cupti/release-notes/release-topic.html (12.4 Update 1)";
    FINALIZE_POISONS = "finalize_poisons", ALL,
        "CUPTI is finalized only where MEMVELOPE_FINALIZE_MS asks for it: later recordings may see nothing.",
        "https://github.com/pytorch/pytorch/pull/112507";
    UNSEEN_RECORDERS = "unseen_recorders", ALL,
        "A tool that records without a subscription (Kineto, and so torch.profiler) cannot be seen: buffers are then whoever's that came last. Pause the session around it.",
        "https://github.com/pytorch/kineto (CuptiActivityApi subscribes for its teardown alone)";
    HES_NOT_LATE = "hes_not_late", 130_000..u32::MAX,
        "The hardware's own event system (Blackwell) is not used: it cannot be attached late nor turned off.",
        "CUPTI headers";
}

/// The quirks of a version.
pub(super) fn of(version: u32) -> Vec<AppliedQuirk> {
    let applied = |quirk: &Quirk| AppliedQuirk {
        name: quirk.name.into(),
        effect: quirk.effect.into(),
        source: quirk.source.into(),
    };
    QUIRKS.iter().filter(|quirk| quirk.applies_to(version)).map(applied).collect()
}

/// A function that came with 13.2: what tells, without calling anything, that a libcupti must not
/// be called before the driver answers ([`CRASHES_BEFORE_DRIVER`], [`REFUSES_BEFORE_DRIVER`]).
pub(super) const SINCE_13_2: &std::ffi::CStr = c"cuptiActivityGetStructSize";

#[cfg(test)]
mod tests {
    use super::*;

    /// Where each begins and ends: present at the first number, absent outside.
    #[test]
    fn each_has_its_range() {
        for (name, versions) in [
            ("null_buffer_crashes", &[18, 26, 27][..]),
            ("per_thread_buffers", &[21, 28, 130_000, 130_500]),
            ("clock_gives_zeroes", &[24, 26, 28, 130_001]),
            ("clock_needs_no_context", &[18, 130_302]),
            ("clock_once", &[18, 130_500]),
            ("crashes_before_driver", &[130_200, 130_202]),
            ("refuses_before_driver", &[130_300, 130_500]),
            ("v2_refuses_v1_calls", &[130_300, 130_500]),
            ("no_api_filters", &[18, 22]),
            ("graph_trace_sticks", &[18, 130_500]),
            ("no_device_sync_records", &[130_000]),
            ("conditional_graphs_crash", &[22, 23, 24]),
            ("finalize_crashes", &[18, 20, 21, 22]),
            ("finalize_poisons", &[18, 130_500]),
            ("unseen_recorders", &[18, 130_500]),
            ("hes_not_late", &[130_000, 130_500]),
        ] {
            let quirk = QUIRKS.iter().find(|quirk| quirk.name == name).unwrap();
            for version in versions {
                assert!(quirk.applies_to(*version), "{name} {version}");
                assert!(of(*version).iter().any(|applied| applied.name == name));
            }
            for outside in [quirk.since.checked_sub(1), Some(quirk.before)].into_iter().flatten() {
                assert!(!quirk.applies_to(outside), "{name} {outside}");
            }
        }
    }

    #[test]
    fn each_is_named_once_and_says_what_is_done_and_where_it_is_from() {
        for (at, quirk) in QUIRKS.iter().enumerate() {
            assert!(quirk.since < quirk.before && quirk.effect.ends_with('.'), "{}", quirk.name);
            assert!(!quirk.source.is_empty());
            assert!(QUIRKS[at + 1..].iter().all(|other| other.name != quirk.name));
        }
    }
}
