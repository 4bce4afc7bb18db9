//! How long a device was busy: the union of the intervals in which it did something.
//!
//! Records arrive out of order: CUPTI fills a buffer a thread, so that a period comes once for each
//! thread that launched in it. The union is therefore kept as a list of disjoint intervals, long
//! enough for what one drain brings. What does not belong at its end waits and is sorted in with
//! others of its kind, because a place in the middle for each alone would cost a microsecond. The
//! list is bounded: its oldest intervals are folded into a sum, and what comes in later for the time
//! before that is set apart as late, because it may or may not overlap what was folded.

use crate::units::Nanos;
use std::collections::VecDeque;

/// Disjoint intervals kept: the kernels of 13 buffers of the default size, were there a gap before
/// each of them. 1 MiB a device that has done so much.
const INTERVALS_MAX: usize = 1 << 16;

/// Folded at a time at least, so that sorting in before it is paid by many.
const FOLD_MIN: usize = INTERVALS_MAX / 8;

/// Intervals that wait to be sorted in, 128 KiB: few enough to be sorted in the cache.
const WAITING_MAX: usize = 1 << 13;

/// The union for one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Busy {
    /// Disjoint, not touching, ascending.
    recent: VecDeque<(u64, u64)>,
    /// What came in before the last of them, in any order; none before [`Self::folded_until`].
    waiting: Vec<(u64, u64)>,
    folded_ns: u64,
    /// Everything before this is folded.
    folded_until: u64,
    late_ns: u64,
    first: Option<u64>,
    last: u64,
}

impl Busy {
    /// The device did something from `start` to `end`.
    #[inline]
    pub(super) fn add(&mut self, start: Nanos, end: Nanos) {
        let (mut start, end) = (start.0, end.0.max(start.0));
        self.first = Some(self.first.map_or(start, |first| first.min(start)));
        self.last = self.last.max(end);
        if self.recent.len() >= INTERVALS_MAX {
            self.make_room();
        }
        if start < self.folded_until {
            self.late_ns =
                self.late_ns.saturating_add(end.min(self.folded_until).saturating_sub(start));
            start = self.folded_until;
        }
        if start >= end {
            return;
        }
        match self.recent.back_mut() {
            Some((begin, until)) if start >= *begin => {
                if start <= *until {
                    *until = end.max(*until);
                } else {
                    self.recent.push_back((start, end));
                }
            }
            None => self.recent.push_back((start, end)),
            Some(_) => self.wait(start, end),
        }
    }

    fn wait(&mut self, start: u64, end: u64) {
        self.waiting.push((start, end));
        if self.waiting.len() >= WAITING_MAX {
            self.sort_in();
        }
    }

    /// Puts what waits in its place, joined with all that it touches.
    #[cold]
    fn sort_in(&mut self) {
        // Stable, because that sort sees the runs that buffers are.
        self.waiting.sort();
        let mut waiting = std::mem::take(&mut self.waiting);
        let Some((earliest, _)) = waiting.first() else { return };
        let from = self.recent.partition_point(|(_, until)| until < earliest);
        let mut later = self.recent.split_off(from).into_iter().peekable();
        for interval in waiting.drain(..) {
            while let Some(known) = later.next_if(|known| *known <= interval) {
                self.append(known);
            }
            self.append(interval);
        }
        later.for_each(|known| self.append(known));
        self.waiting = waiting;
    }

    /// At the end, joined with what it touches: nothing there begins later.
    fn append(&mut self, (start, end): (u64, u64)) {
        match self.recent.back_mut() {
            Some((_, until)) if start <= *until => *until = end.max(*until),
            _ => {
                if self.recent.len() >= INTERVALS_MAX {
                    self.fold();
                }
                self.recent.push_back((start, end));
            }
        }
    }

    /// Sorted in first: what waits must not lie before what is folded.
    #[cold]
    fn make_room(&mut self) {
        self.sort_in();
        while self.recent.len() > INTERVALS_MAX - FOLD_MIN {
            self.fold();
        }
    }

    fn fold(&mut self) {
        if let Some((start, end)) = self.recent.pop_front() {
            self.folded_ns = self.folded_ns.saturating_add(end - start);
            self.folded_until = end;
        }
    }

    /// Time with something under way, late arrivals apart.
    pub(super) fn busy(&self) -> Nanos {
        if !self.waiting.is_empty() {
            let mut whole = self.clone();
            whole.sort_in();
            return whole.busy();
        }
        let recent = self.recent.iter().map(|(start, end)| end - start);
        Nanos(recent.fold(self.folded_ns, u64::saturating_add))
    }

    /// Time of work that came in too late to tell whether it overlapped other work.
    pub(super) fn late(&self) -> Nanos {
        Nanos(self.late_ns)
    }

    /// From the first start to the last end; `None` if it never did anything.
    pub(super) fn span(&self) -> Option<(Nanos, Nanos)> {
        self.first.map(|first| (Nanos(first), Nanos(self.last)))
    }

    pub(super) fn host_bytes(&self) -> u64 {
        let intervals = self.recent.capacity() + self.waiting.capacity();
        (intervals * size_of::<(u64, u64)>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn busy_of(intervals: &[(u64, u64)]) -> Busy {
        let mut busy = Busy::default();
        intervals.iter().for_each(|(start, end)| busy.add(Nanos(*start), Nanos(*end)));
        busy
    }

    #[test]
    fn what_comes_too_late_is_set_apart() {
        let many: Vec<_> =
            (0..INTERVALS_MAX as u64 + 1).map(|i| (10 * i + 5, 10 * i + 6)).collect();
        let mut busy = busy_of(&many);
        assert_eq!((busy.busy(), busy.late()), (Nanos(many.len() as u64), Nanos(0)));
        assert_eq!(busy.recent.len(), INTERVALS_MAX - FOLD_MIN + 1);
        // Before what was folded, and across its end.
        let end = busy.folded_until;
        assert_eq!(end, 10 * FOLD_MIN as u64 - 4);
        busy.add(Nanos(0), Nanos(3));
        busy.add(Nanos(end - 2), Nanos(end + 2));
        assert_eq!((busy.busy(), busy.late()), (Nanos(many.len() as u64 + 2), Nanos(5)));
    }

    #[test]
    fn threads_with_buffers_of_their_own_lose_nothing() {
        const THREADS: u64 = 8;
        const EACH: u64 = 4854; // kernel records of 216 bytes in 1 MiB
        let mut busy = Busy::default();
        for period in 0..20 {
            for thread in 0..THREADS {
                for i in 0..EACH {
                    let start = Nanos(((period * EACH + i) * THREADS + thread) * 10);
                    busy.add(start, start.saturating_add(Nanos(4)));
                }
            }
        }
        assert_eq!((busy.busy(), busy.late()), (Nanos(20 * THREADS * EACH * 4), Nanos(0)));
        let bytes = (INTERVALS_MAX + WAITING_MAX) * size_of::<(u64, u64)>();
        assert_eq!(busy.host_bytes(), bytes as u64, "what the limits say");
    }

    #[test]
    fn a_clock_that_ran_backwards_and_the_end_of_time() {
        let busy = busy_of(&[(10, 5), (0, u64::MAX), (u64::MAX, 0)]);
        assert_eq!(busy.busy(), Nanos::MAX);
        assert_eq!(busy.span(), Some((Nanos(0), Nanos::MAX)));
        assert_eq!(busy_of(&[]).span(), None);
    }

    proptest! {
        #[test]
        fn the_union_is_exact_in_any_order(
            intervals in proptest::collection::vec((0..500_u64, 0..40_u64), 0..80)
        ) {
            let intervals: Vec<_> = intervals.iter().map(|(at, len)| (*at, at + len)).collect();
            let naive = (0..600).filter(|t| intervals.iter().any(|(a, b)| a <= t && t < b)).count();
            let mut busy = busy_of(&intervals);
            prop_assert_eq!((busy.busy(), busy.late()), (Nanos(naive as u64), Nanos(0)));
            busy.sort_in();
            prop_assert_eq!(busy.busy(), Nanos(naive as u64));
            let apart = busy.recent.iter().zip(busy.recent.iter().skip(1));
            prop_assert!(apart.clone().all(|((_, end), (start, _))| end < start));
        }
    }
}
