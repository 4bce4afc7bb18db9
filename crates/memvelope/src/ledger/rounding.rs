//! What the driver takes beyond what was asked for: whole pages, as they come and go.

use super::Rounding;
use crate::units::Bytes;

/// What `cuMemAlloc` takes physical memory by, as used memory was seen to move; VMM granularity.
const PAGE: u64 = 2 << 20;

/// Allocations up to this size share pages. Not documented.
const SMALL: u64 = 1 << 20;

/// Small allocations are rounded to this: the alignment `cuMemAlloc` is known for.
const SMALL_ALIGN: u64 = 512;

/// The pages of one device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    page: u64,
    small: u64,
    /// Bytes that those with pages of their own take beyond their size.
    beyond: u64,
    /// Bytes of small ones, as asked for, and rounded.
    small_bytes: u64,
    small_rounded: u64,
    small_rounded_peak: u64,
    small_count: u64,
}

impl Default for Pages {
    fn default() -> Self {
        Self::new(PAGE, SMALL)
    }
}

/// What is missing to the next multiple of `unit`: never overflows, as the multiple itself may.
fn missing(bytes: u64, unit: u64) -> u64 {
    // Pages are powers of two, and a division takes longer than all the rest here.
    let beyond = if unit.is_power_of_two() { bytes & (unit - 1) } else { bytes % unit };
    match beyond {
        0 => 0,
        beyond => unit - beyond,
    }
}

impl Pages {
    pub(super) fn new(page: u64, small: u64) -> Self {
        Self {
            page: page.max(1),
            small,
            beyond: 0,
            small_bytes: 0,
            small_rounded: 0,
            small_rounded_peak: 0,
            small_count: 0,
        }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        if bytes > self.small {
            self.beyond = self.beyond.saturating_add(missing(bytes, self.page));
            return;
        }
        self.small_bytes = self.small_bytes.saturating_add(bytes);
        let rounded = bytes.saturating_add(missing(bytes, SMALL_ALIGN));
        self.small_rounded = self.small_rounded.saturating_add(rounded);
        self.small_rounded_peak = self.small_rounded_peak.max(self.small_rounded);
        self.small_count += 1;
    }

    pub(super) fn remove(&mut self, bytes: u64) {
        if bytes > self.small {
            self.beyond = self.beyond.saturating_sub(missing(bytes, self.page));
            return;
        }
        self.small_bytes = self.small_bytes.saturating_sub(bytes);
        let rounded = bytes.saturating_add(missing(bytes, SMALL_ALIGN));
        self.small_rounded = self.small_rounded.saturating_sub(rounded);
        self.small_count = self.small_count.saturating_sub(1);
    }

    /// The rounding if small allocations lie as closely as can be, and how many more pages they may
    /// take. At most one each. And not many more than twice what they ever needed at one time: a
    /// page is opened only where none of those before has room, and what has no room for half a page
    /// (the largest of the small) is for the better part in use, one page apart.
    pub(super) fn rounding(&self) -> Rounding {
        let packed = self.small_rounded.saturating_add(missing(self.small_rounded, self.page));
        let one_each = self.small_count.saturating_mul(self.page);
        let half_used = self.small_rounded_peak.saturating_mul(2);
        let half_used = half_used.saturating_add(missing(half_used, self.page));
        let most = one_each.min(half_used.saturating_add(self.page));
        Rounding {
            bytes: Bytes(self.beyond.saturating_add(packed.saturating_sub(self.small_bytes))),
            error_bytes: Bytes(most.saturating_sub(packed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sizes: &[u64], bytes: u64, error: u64) {
        let mut pages = Pages::default();
        sizes.iter().for_each(|size| pages.add(*size));
        let expected = Rounding { bytes: Bytes(bytes), error_bytes: Bytes(error) };
        assert_eq!(pages.rounding(), expected, "{sizes:?}");
        sizes.iter().for_each(|size| pages.remove(*size));
        assert_eq!(pages.rounding(), Rounding::default(), "{sizes:?}, and all of it gone");
    }

    #[test]
    fn large_ones_take_pages_and_small_ones_share() {
        const MIB: u64 = 1 << 20;
        check(&[], 0, 0);
        check(&[2 * MIB], 0, 0);
        check(&[2 * MIB + 1], 2 * MIB - 1, 0);
        check(&[MIB + 1, MIB + 1], 2 * (MIB - 1), 0);
        // One small one has a page to itself, whatever is assumed.
        check(&[1], 2 * MIB - 1, 0);
        check(&[1, 1], 2 * MIB - 2, 2 * MIB);
        // Four of half a page: two pages at best, four at worst.
        check(&[MIB; 4], 0, 4 * MIB);
        // Forty little ones surely fit two pages.
        check(&[1000; 40], 2 * MIB - 40_000, 2 * MIB);
        check(&[u64::MAX], (2 * MIB) - (u64::MAX % (2 * MIB)), 0);
    }

    #[test]
    fn pages_of_another_size() {
        let mut pages = Pages::new(64 << 10, 0);
        pages.add(1);
        pages.add(64 << 10);
        assert_eq!(pages.rounding().bytes, Bytes((64 << 10) - 1));
        let mut pages = Pages::new(0, 0);
        pages.add(77);
        assert_eq!(pages.rounding(), Rounding::default(), "a page of nothing is one of a byte");
    }
}
