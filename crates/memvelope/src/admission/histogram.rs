//! What came of requests and leases, as histograms: for dashboards, and for choosing a cap.

use super::books::End;
use super::gate::{Gate, Keeper};
use super::roster::Entry;
use serde::Serialize;

/// Buckets: one for zero, then one to each doubling, up to 2^47 (39 hours in nanoseconds); the last
/// has all that is larger.
const BUCKETS: usize = 49;

/// Counts by size. Bucket 0 has zeros, bucket `n` what is at least `2^(n-1)` and below `2^n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

impl Serialize for Histogram {
    /// As pairs of the first value beyond a bucket and its count, empty ones left out.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets())
    }
}

impl Histogram {
    #[inline]
    pub(crate) fn record(&mut self, value: u64) {
        let bucket = value.checked_ilog2().map_or(0, |log| log as usize + 1);
        let count = &mut self.counts[bucket.min(BUCKETS - 1)];
        *count = count.saturating_add(1);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, part) in self.counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(part);
        }
    }

    /// The buckets that are not empty: the first value beyond it (`u64::MAX` for the last), and how
    /// many there are.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let end = |bucket: usize| if bucket + 1 < BUCKETS { 1 << bucket } else { u64::MAX };
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(move |(bucket, count)| (end(bucket), *count))
    }

    /// How many values were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// What came of requests and leases so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Output tokens of the leases that ended, and of those preempted.
    pub released_tokens: Histogram,
    /// The same of those preempted.
    pub preempted_tokens: Histogram,
    /// Times that a lease was told to wait, of all that ended.
    pub waits: Histogram,
    /// Blocks that a lease never drew of its claim, of all that ended.
    pub unused_blocks: Histogram,
    /// Blocks that lacked, of requests rejected for want of capacity.
    pub short_blocks: Histogram,
    /// Nanoseconds in the queue, of requests let in from it.
    pub queue_ns: Histogram,
}

impl Outcomes {
    /// A lease ended.
    #[inline]
    pub(crate) fn released(&mut self, entry: &Entry, tokens: u64, end: End) {
        let generated = tokens - entry.prompt_tokens;
        self.released_tokens.record(generated);
        if end == End::Preempted {
            self.preempted_tokens.record(generated);
        }
        self.waits.record(entry.waits.into());
        self.unused_blocks.record(entry.need().into());
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.released_tokens, &other.released_tokens),
            (&mut self.preempted_tokens, &other.preempted_tokens),
            (&mut self.waits, &other.waits),
            (&mut self.unused_blocks, &other.unused_blocks),
            (&mut self.short_blocks, &other.short_blocks),
            (&mut self.queue_ns, &other.queue_ns),
        ] {
            sum.add(part);
        }
    }
}

impl Gate {
    /// What came of requests and leases so far, over all pools. All empty for a gate that keeps no
    /// books (`Guaranteed` without borrowing), and in a forked child.
    #[must_use]
    pub fn outcomes(&self) -> Outcomes {
        let mut all = Outcomes::default();
        if let Keeper::Books(books) = &self.inner().keeper
            && let Some(state) = books.lock()
        {
            state.accounts.iter().for_each(|account| all.add(&account.outcomes));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_their_doublings() {
        let mut histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 1023, 1024, 1 << 47, u64::MAX] {
            histogram.record(value);
        }
        let expected = [(1, 1), (2, 1), (4, 2), (8, 1), (1024, 1), (2048, 1), (u64::MAX, 2)];
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), expected);
        assert_eq!(histogram.count(), 9);
        let text = serde_json::to_string(&histogram).unwrap();
        assert!(text.starts_with("[[1,1],[2,1],[4,2]"), "{text}");
    }
}
