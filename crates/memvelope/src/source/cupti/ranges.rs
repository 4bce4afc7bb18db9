//! Ranges that the program marked (NVTX) and whose end is still to come.

use crate::event::NameId;
use crate::units::Nanos;
use std::collections::HashMap;

/// A range that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) name: NameId,
    pub(super) start: Nanos,
    pub(super) thread: u32,
}

/// Open ranges by CUPTI's id.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    open: HashMap<u32, Open>,
}

impl Ranges {
    /// More than any program nests; past it a program that never ends its ranges would fill memory.
    const OPEN_MAX: usize = 4096;

    /// False if there are too many already.
    pub(super) fn begin(&mut self, id: u32, range: Open) -> bool {
        if self.open.len() >= Self::OPEN_MAX && !self.open.contains_key(&id) {
            return false;
        }
        self.open.insert(id, range);
        true
    }

    pub(super) fn end(&mut self, id: u32) -> Option<Open> {
        self.open.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_ranges_are_bounded() {
        let range = Open { name: NameId(1), start: Nanos(1), thread: 1 };
        let mut ranges = Ranges::default();
        assert!((0..Ranges::OPEN_MAX as u32).all(|id| ranges.begin(id, range)));
        assert!(!ranges.begin(u32::MAX, range));
        assert!(ranges.begin(0, range), "a known id takes no room");
        assert_eq!((ranges.end(0), ranges.end(0)), (Some(range), None));
        assert!(ranges.begin(u32::MAX, range));
    }
}
