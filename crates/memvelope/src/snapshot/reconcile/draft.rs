//! A line in the making: wide numbers, held at the edges only when it is finished.

use super::{Epoch, Origin, TermName};
use crate::snapshot::{Line, Part};
use crate::units::Bytes;

/// More than any device has; all lines of it still add up within an `i64`.
const HELD_MAX: i128 = 1 << 56;

/// Holds a number where the sums stay exact.
pub(super) fn held(bytes: i128) -> i128 {
    bytes.clamp(-HELD_MAX, HELD_MAX)
}

/// A line in the making.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) term: TermName,
    /// By name; the sum of them is held at the edges, and so is every sum on the way.
    parts: Vec<(String, i128)>,
    sum: i128,
    /// How far off it may be.
    pub(super) error: i128,
    /// How much of that is shared with another line, which is as much too small as this one is too
    /// large: it does not count for what is unaccounted.
    pub(super) shared_error: i128,
    pub(super) origin: Origin,
    pub(super) note: String,
}

impl Draft {
    pub(super) fn new(term: TermName, origin: Origin, note: impl Into<String>) -> Self {
        let (parts, note) = (Vec::new(), note.into());
        Self { term, parts, sum: 0, error: 0, shared_error: 0, origin, note }
    }

    /// Adds to a part; zeros are left out.
    pub(super) fn part(&mut self, name: impl Into<String>, bytes: i128) {
        let sum = held(self.sum + held(bytes));
        let change = sum - self.sum;
        self.sum = sum;
        if change == 0 {
            return;
        }
        let name = name.into();
        match self.parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, bytes)) => *bytes += change,
            None => self.parts.push((name, change)),
        }
    }

    /// What is left over: it is not held, so that the lines add up.
    pub(super) fn rest(&mut self, bytes: i128) {
        self.sum = bytes;
    }

    pub(super) fn sum(&self) -> i128 {
        self.sum
    }

    /// What the error bar adds to that of `unaccounted`.
    pub(super) fn error_beyond_shared(&self) -> i128 {
        (self.error - self.shared_error).max(0)
    }

    pub(super) fn finish(self, epoch: &Epoch) -> Line {
        let mut parts = self.parts;
        parts.retain(|(_, bytes)| *bytes != 0);
        parts.sort_by(|(a, left), (b, right)| right.cmp(left).then_with(|| a.cmp(b)));
        // One part says no more than the line itself, unless its name does.
        if parts.len() == 1 && self.term != TermName::Libraries {
            parts.clear();
        }
        // Of `unaccounted` it is in the bar already.
        let is_rest = self.term == TermName::Unaccounted;
        let moved = if epoch.is_torn && !is_rest { i128::from(epoch.moved_bytes.0) } else { 0 };
        Line {
            term: self.term,
            bytes: narrow(self.sum),
            error_bytes: Bytes(narrow(held(self.error + moved)).unsigned_abs()),
            origin: self.origin,
            parts: parts
                .into_iter()
                .map(|(name, bytes)| Part { name, bytes: narrow(bytes) })
                .collect(),
            note: self.note,
        }
    }
}

/// Of a number that is held.
fn narrow(bytes: i128) -> i64 {
    i64::try_from(bytes).unwrap_or(if bytes < 0 { i64::MIN } else { i64::MAX })
}
