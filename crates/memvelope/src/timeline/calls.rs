//! Host time in allocation-family calls, counted where they happen: in the driver's callbacks, on the
//! host's threads, without a lock.

use super::sketch::{at_rank, bucket_of, rank_of};
use super::summary::{CallTotals, OpTotals};
use crate::event::{CallKind, DriverCall};
use crate::units::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};

/// Durations up to 2^40 ns (18 minutes) have buckets of their own; longer ones share the last.
const BUCKETS: usize = bucket_of(1 << 40) + 1;

/// Sums by [`CallKind`]; 110 KiB.
#[derive(Debug)]
pub struct CallTimes {
    kinds: [OfKind; CallKind::ALL.len()],
}

#[derive(Debug)]
struct OfKind {
    failed: AtomicU64,
    total_ns: AtomicU64,
    min_ns: AtomicU64,
    max_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for CallTimes {
    fn default() -> Self {
        Self::new()
    }
}

impl CallTimes {
    /// Nothing counted.
    #[must_use]
    pub const fn new() -> Self {
        Self { kinds: [const { OfKind::new() }; CallKind::ALL.len()] }
    }

    /// Counts a call. Neither locks nor allocates.
    pub fn accept(&self, call: &DriverCall) {
        if let Some(of_kind) = self.kinds.get(call.call as usize) {
            of_kind.add(call.end.saturating_sub(call.start).0, call.succeeded);
        }
    }

    /// Forgets everything. A call that is counted meanwhile may be forgotten in part.
    pub fn reset(&self) {
        self.kinds.iter().for_each(OfKind::reset);
    }

    /// What was counted, kinds that never happened left out. A call that is counted meanwhile may
    /// be in some of the figures and not yet in others.
    #[must_use]
    pub fn totals(&self) -> Vec<CallTotals> {
        let of_kinds = CallKind::ALL.into_iter().zip(&self.kinds);
        of_kinds.filter_map(|(call, of_kind)| of_kind.totals(call)).collect()
    }
}

impl OfKind {
    const fn new() -> Self {
        Self {
            failed: AtomicU64::new(0),
            total_ns: AtomicU64::new(0),
            min_ns: AtomicU64::new(u64::MAX),
            max_ns: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }

    fn add(&self, ns: u64, succeeded: bool) {
        if !succeeded {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
        // Mostly neither changes, and a load does not fight for the cache line.
        if ns < self.min_ns.load(Ordering::Relaxed) {
            self.min_ns.fetch_min(ns, Ordering::Relaxed);
        }
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.fetch_max(ns, Ordering::Relaxed);
        }
        if let Some(bucket) = self.buckets.get(bucket_of(ns).min(BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reset(&self) {
        self.failed.store(0, Ordering::Relaxed);
        self.total_ns.store(0, Ordering::Relaxed);
        self.min_ns.store(u64::MAX, Ordering::Relaxed);
        self.max_ns.store(0, Ordering::Relaxed);
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
    }

    fn totals(&self, call: CallKind) -> Option<CallTotals> {
        // Every call is in one bucket: their sum is how many there were.
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let count = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        if count == 0 {
            return None;
        }
        let (min, max) = (self.min_ns.load(Ordering::Relaxed), self.max_ns.load(Ordering::Relaxed));
        let min = min.min(max);
        let quantile = |per_mille| {
            let found = at_rank((0..).zip(counts), rank_of(count, per_mille));
            Nanos(found.unwrap_or(max).clamp(min, max))
        };
        Some(CallTotals {
            call,
            failed: self.failed.load(Ordering::Relaxed),
            totals: OpTotals {
                count,
                total_ns: Nanos(self.total_ns.load(Ordering::Relaxed)),
                min_ns: Nanos(min),
                max_ns: Nanos(max),
                p50_ns: quantile(500),
                p99_ns: quantile(990),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_kind_until_reset() {
        let times = CallTimes::new();
        for (call, ns, succeeded) in [
            (CallKind::Alloc, 100, true),
            (CallKind::Alloc, 300, false),
            (CallKind::Free, u64::MAX, true),
        ] {
            let (start, end) = (Nanos(0), Nanos(ns));
            times.accept(&DriverCall { call, succeeded, start, end });
        }
        let totals = times.totals();
        let rows: Vec<_> = totals
            .iter()
            .map(|t| (t.call, t.totals.count, t.failed, t.totals.min_ns.0, t.totals.max_ns.0))
            .collect();
        let longest = u64::MAX;
        let expect = [(CallKind::Alloc, 2, 1, 100, 300), (CallKind::Free, 1, 0, longest, longest)];
        assert_eq!(rows, expect);
        assert!(totals[0].totals.p99_ns.0.abs_diff(300) <= 300 / 64 + 1);
        assert!(totals[0].totals.p50_ns.0.abs_diff(100) <= 2);
        // More than 32 bits count.
        let of_kind = &times.kinds[CallKind::Alloc as usize];
        let past = u64::from(u32::MAX) + 2;
        of_kind.buckets[bucket_of(100)].store(past, Ordering::Relaxed);
        let totals = times.totals();
        assert_eq!(totals[0].totals.count, past + 1, "the other one took longer");
        assert!(totals[0].totals.p99_ns.0.abs_diff(100) <= 2, "{totals:?}");
        times.reset();
        assert_eq!(times.totals(), []);
    }
}
