//! What was lost and what recording costs.

use super::drain::Drain;
use super::state::State;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident;)*) => {
        /// What the recorder lost and what it costs.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
            /// Bytes of the buffer arena.
            pub arena_bytes: u64,
        }

        impl Counters {
            pub(super) const ZERO: Self = Self { $($field: 0,)* arena_bytes: 0 };

            /// What was added since `earlier`; the arena is what it is.
            pub(super) fn since(&self, earlier: &Self) -> Self {
                Self {
                    $($field: self.$field.saturating_sub(earlier.$field),)*
                    arena_bytes: self.arena_bytes,
                }
            }
        }
    };
}

counters! {
    /// Buffers handed to CUPTI.
    buffers_requested;
    /// Buffers that came back.
    buffers_completed;
    /// Records decoded.
    records;
    /// Records by CUPTI's own count that never reached a buffer.
    dropped_by_cupti;
    /// Buffer requests that found the arena empty.
    arena_exhausted;
    /// Completed buffers that found the queue full.
    queue_full;
    /// Records that could not be decoded.
    bad_records;
    /// Records without valid timestamps.
    bad_timestamps;
    /// Records of kinds nobody asked for.
    unknown_kinds;
    /// Records from before the recording began.
    before_attach;
    /// Ends of marked ranges (NVTX) without a begin, or begins that found no room.
    unpaired_ranges;
    /// Calls in scopes whose work was not seen while they were known.
    uncorrelated;
    /// Scopes that were too deep, that CUPTI refused, or that were entered while it was still getting
    /// ready for the first one: their work counts with the one around them.
    scopes_untold;
    /// Times that the records' clock was put forward or back.
    clock_steps;
    /// Driver-API callbacks taken: of the allocation family, and of calls that set up or end what
    /// takes memory (contexts, modules, limits).
    callbacks;
    /// Allocations whose device nobody could name; see [`super::UNKNOWN_DEVICE`].
    unknown_device;
    /// Contexts past the limit of the table: their end goes unseen.
    contexts_refused;
    /// Buffers that came back and are none of ours: another CUPTI user replaced our callbacks.
    foreign_buffers;
    /// Times that another tool took CUPTI's subscription from us.
    subscriptions_lost;
    /// Unwinds caught at a C edge: always a bug of ours.
    caught_panics;
    /// Host nanoseconds spent decoding.
    decode_ns;
}

/// Everything counted since the process began.
pub(super) fn totals(state: &State, drain: &Drain) -> Counters {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let arena = state.arena();
    let of_arena =
        |get: fn(&super::buffers::Arena) -> &AtomicU64| arena.map_or(0, |a| read(get(a)));
    Counters {
        buffers_requested: of_arena(|arena| &arena.requested),
        buffers_completed: of_arena(|arena| &arena.returned),
        records: read(&drain.records),
        dropped_by_cupti: read(&drain.dropped_by_cupti),
        arena_exhausted: of_arena(|arena| &arena.exhausted),
        queue_full: of_arena(|arena| &arena.queue_full),
        bad_records: read(&drain.bad_records),
        bad_timestamps: read(&drain.bad_timestamps),
        unknown_kinds: read(&drain.unknown_kinds),
        before_attach: read(&drain.before_attach),
        unpaired_ranges: read(&drain.unpaired_ranges),
        uncorrelated: read(&drain.uncorrelated),
        scopes_untold: read(&state.scopes_untold),
        clock_steps: read(&drain.clock_steps),
        callbacks: state.under_way.told(),
        unknown_device: read(&state.unknown_device),
        contexts_refused: read(&state.contexts.refused),
        foreign_buffers: of_arena(|arena| &arena.foreign),
        // Known to the recorder alone.
        subscriptions_lost: 0,
        caught_panics: read(&state.caught_panics),
        decode_ns: read(&drain.decode_ns),
        arena_bytes: arena.map_or(0, super::buffers::Arena::bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_counts_from_its_own_beginning() {
        let earlier = Counters { records: 5, arena_bytes: 9, ..Counters::ZERO };
        let now = Counters { records: 7, callbacks: 1, arena_bytes: 9, ..Counters::ZERO };
        let expect = Counters { records: 2, callbacks: 1, arena_bytes: 9, ..Counters::ZERO };
        assert_eq!(now.since(&earlier), expect);
    }
}
