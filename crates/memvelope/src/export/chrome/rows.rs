//! Which row an event stands on, and which rows have been named.
//!
//! A row is a process and a thread to the format. Perfetto keeps thread numbers in 32 bits and takes
//! a larger one for the process's own, which would put all such rows on one and their events out of
//! sight: rows that are no thread of the program's are therefore numbered as they come.

use std::collections::{HashMap, HashSet};

/// First number of rows that are no thread of ours: above those, below 2^32.
const NUMBERED: u64 = 1 << 30;

/// Rows that are told apart: more than anybody looks at.
const ROWS_MAX: usize = 1 << 16;

/// A row of the host's that is numbered as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum HostRow {
    /// Waits for a stream.
    Waits { context: u32, stream: u32 },
    /// Launching calls of a thread.
    Calls { thread: u32 },
    /// Ranges that a thread marked.
    Nvtx { thread: u32 },
    /// What recording costs.
    Overhead,
    /// What came after there were too many.
    Others,
}

impl HostRow {
    pub(super) fn name(self) -> String {
        match self {
            Self::Waits { context, stream } => format!("waits: context {context} stream {stream}"),
            Self::Calls { thread } => format!("calls: thread {thread}"),
            Self::Nvtx { thread } => format!("NVTX thread {thread}"),
            Self::Overhead => "profiler overhead".into(),
            Self::Others => "other rows".into(),
        }
    }
}

/// The rows met so far.
#[derive(Debug, Default)]
pub(super) struct Rows {
    numbers: HashMap<HostRow, u64>,
    named: HashSet<(u64, u64)>,
    /// The row asked for last: most events stand on the same as the one before.
    last: Option<(u64, u64)>,
    last_host: Option<(HostRow, u64)>,
}

impl Rows {
    /// The row as it is kept, and its number.
    pub(super) fn number(&mut self, row: HostRow) -> (HostRow, u64) {
        if let Some(known) = self.last_host.filter(|(known, _)| *known == row) {
            return known;
        }
        let is_full = self.numbers.len() >= ROWS_MAX && !self.numbers.contains_key(&row);
        let row = if is_full { HostRow::Others } else { row };
        let next = NUMBERED + self.numbers.len() as u64;
        let known = (row, *self.numbers.entry(row).or_insert(next));
        self.last_host = Some(known);
        known
    }

    /// Whether the row is to be named now: the first time that it is asked for. Past the limit rows
    /// go without a name.
    pub(super) fn is_new(&mut self, process: u64, thread: u64) -> bool {
        let row = (process, thread);
        if self.last.replace(row) == Some(row) {
            return false;
        }
        // Twice as many: those of the devices beside those of the host.
        self.named.len() < 2 * ROWS_MAX && self.named.insert(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_apart_within_32_bits_and_named_once() {
        let mut rows = Rows::default();
        let thread = u32::MAX;
        let some = [
            HostRow::Calls { thread },
            HostRow::Nvtx { thread },
            HostRow::Waits { context: 1, stream: thread },
            HostRow::Overhead,
        ];
        let numbers = some.map(|row| rows.number(row).1);
        assert_eq!(numbers, [0, 1, 2, 3].map(|i| NUMBERED + i));
        assert_eq!(some.map(|row| rows.number(row).1), numbers);
        let is_new: Vec<_> = [(1, 7), (1, 7), (2, 7), (1, 7)]
            .into_iter()
            .map(|(process, thread)| rows.is_new(process, thread))
            .collect();
        assert_eq!(is_new, [true, false, true, false]);
    }

    #[test]
    fn rows_are_bounded() {
        let mut rows = Rows::default();
        let mut last = 0;
        for thread in 0..2 * ROWS_MAX as u32 {
            let (row, number) = rows.number(HostRow::Calls { thread });
            last = number;
            rows.is_new(1, number);
            assert_eq!(row == HostRow::Others, thread as usize >= ROWS_MAX, "{thread}");
        }
        assert!(last <= u64::from(u32::MAX) && rows.numbers.len() == ROWS_MAX + 1);
        for stream in 0..3 * ROWS_MAX as u64 {
            rows.is_new(100, stream);
        }
        assert_eq!(rows.named.len(), 2 * ROWS_MAX);
    }
}
