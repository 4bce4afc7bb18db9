//! How long a device was busy: the union of the intervals in which it did something.
//!
//! Records arrive out of order (a buffer a stream or a thread), so the union is kept as a list of
//! disjoint intervals. The list is bounded: its oldest interval is folded into a sum, and what comes
//! in later for the time before that is set apart as late, because it may or may not overlap what
//! was folded.

use crate::units::Nanos;
use std::collections::VecDeque;

/// Disjoint intervals kept: at some microseconds each, several milliseconds of a device whose work
/// never touches. 64 KiB a device.
const INTERVALS_MAX: usize = 4096;

/// Intervals from the end that are looked at one by one: two cache lines.
const NEAR: usize = 8;

/// The union for one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Busy {
    /// Disjoint, not touching, ascending.
    recent: VecDeque<(u64, u64)>,
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
            Some(_) => self.insert(start, end),
        }
        if self.recent.len() > INTERVALS_MAX {
            self.fold();
        }
    }

    /// Somewhere in the middle, joined with all that it touches.
    #[cold]
    fn insert(&mut self, mut start: u64, mut end: u64) {
        let from = self.count(|(_, until)| *until < start);
        let to = self.count(|(begin, _)| *begin <= end);
        if let (Some((begin, _)), Some((_, until))) =
            (self.recent.get(from).filter(|_| from < to), self.recent.get(to.wrapping_sub(1)))
        {
            start = start.min(*begin);
            end = end.max(*until);
        }
        self.recent.drain(from..to);
        self.recent.insert(from, (start, end));
    }

    /// How many of the intervals, which are partitioned so, are `first`. What comes late is mostly a
    /// little late, so the last few are looked at before all are searched.
    fn count(&self, first: impl Fn(&(u64, u64)) -> bool) -> usize {
        let near = self.recent.len().saturating_sub(NEAR);
        match self.recent.get(near) {
            Some(interval) if near == 0 || first(interval) => {
                near + self.recent.range(near..).take_while(|interval| first(interval)).count()
            }
            _ => self.recent.partition_point(first),
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
        (self.recent.capacity() * size_of::<(u64, u64)>()) as u64
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
        // Before what was folded, and across its end.
        busy.add(Nanos(0), Nanos(3));
        busy.add(Nanos(4), Nanos(8));
        assert_eq!((busy.busy(), busy.late()), (Nanos(many.len() as u64 + 2), Nanos(5)));
        assert_eq!(busy.recent.len(), INTERVALS_MAX);
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
            let busy = busy_of(&intervals);
            prop_assert_eq!((busy.busy(), busy.late()), (Nanos(naive as u64), Nanos(0)));
            let apart = busy.recent.iter().zip(busy.recent.iter().skip(1));
            prop_assert!(apart.clone().all(|((_, end), (start, _))| end < start));
        }
    }
}
