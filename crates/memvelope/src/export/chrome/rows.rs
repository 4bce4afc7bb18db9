//! The rows of a trace: each has a number, and is named once.
//!
//! A row is a process and a thread to the format. Perfetto keeps thread numbers in 32 bits and
//! takes a larger one for the process's own, which would put all such rows on one and their events
//! out of sight: the host's rows are therefore numbered as they come.

use super::text::put_number;
use crate::event::DeviceIndex;
use std::collections::HashMap;

/// Process number of the host's rows.
const HOST_PID: u64 = 1;
/// Process number of device 0's rows.
const DEVICE_PID: u64 = 100;

/// Rows that are remembered, some 2 MiB: more than anybody looks at. A program that makes a stream
/// or a thread for each request has more: such a stream's row goes unnamed, such threads share one.
pub(super) const ROWS_MAX: usize = 1 << 16;

/// Numbers of a group of the host's rows, of which there are more than rows.
const GROUP: u64 = 1 << 20;

/// Rows whose place is kept as text.
const RECENT: usize = 64;

/// What a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Row {
    /// What ran on a stream; its number is the stream's.
    Stream(DeviceIndex, u32),
    /// Spans of a thread, by our own number.
    Thread(u32),
    /// NVTX ranges of a thread, by the system's number.
    Nvtx(u32),
    /// Launching calls of a thread, by the system's number.
    Calls(u32),
    /// Waits on a stream of a context.
    Waits(u32, u32),
    /// What recording costs.
    Overhead,
}

const GROUPS: usize = 5;

/// An event's process and row as they stand in it: `,"pid":…,"tid":…,"ts":`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    text: [u8; 48],
    bytes: u8,
}

impl Place {
    fn new(pid: u64, tid: u64) -> Self {
        let mut line = Vec::with_capacity(48);
        line.extend_from_slice(b",\"pid\":");
        put_number(&mut line, pid);
        line.extend_from_slice(b",\"tid\":");
        put_number(&mut line, tid);
        line.extend_from_slice(b",\"ts\":");
        let mut text = [0; 48];
        // Two numbers of ten digits at most: 40 bytes.
        let bytes = line.len().min(text.len());
        text[..bytes].copy_from_slice(&line[..bytes]);
        Self { text, bytes: bytes as u8 }
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.bytes)]
    }
}

/// A row that an event needs and that nobody named yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unnamed {
    pub(super) pid: u64,
    pub(super) tid: u64,
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) struct Rows {
    /// By a few bits of what they show: an event's row is mostly one of a few.
    recent: Box<[Option<(Row, Place)>; RECENT]>,
    numbers: HashMap<Row, u64>,
    /// Rows of each of the host's groups.
    counts: [u64; GROUPS],
    /// Whether a group's shared row is named.
    is_shared: [bool; GROUPS],
}

impl Rows {
    pub(super) fn new() -> Self {
        Self {
            recent: Box::new([None; RECENT]),
            numbers: HashMap::new(),
            counts: [0; GROUPS],
            is_shared: [false; GROUPS],
        }
    }

    /// Where the events of a row stand, and the row if it is to be named first.
    #[inline]
    pub(super) fn place(&mut self, row: Row) -> (Place, Option<Unnamed>) {
        match &self.recent[slot_of(row)] {
            Some((known, place)) if *known == row => (*place, None),
            _ => self.find(row),
        }
    }

    #[cold]
    fn find(&mut self, row: Row) -> (Place, Option<Unnamed>) {
        let pid = pid_of(row);
        let (tid, name) = match self.numbers.get(&row) {
            Some(tid) => (*tid, None),
            None => self.begin(row),
        };
        let place = Place::new(pid, tid);
        self.recent[slot_of(row)] = Some((row, place));
        (place, name.map(|name| Unnamed { pid, tid, name }))
    }

    /// Number and name of a row that is not known.
    fn begin(&mut self, row: Row) -> (u64, Option<String>) {
        let is_full = self.numbers.len() >= ROWS_MAX;
        let (tid, name) = match (group_of(row), row) {
            (None, Row::Stream(_, stream)) if is_full => return (u64::from(stream), None),
            (Some(group), _) if is_full => {
                let is_named = std::mem::replace(&mut self.is_shared[group], true);
                let name = (!is_named).then(|| format!("{}others", kind_of(row)));
                return (group as u64 * GROUP + GROUP - 1, name);
            }
            (None, Row::Stream(_, stream)) => (u64::from(stream), format!("stream {stream}")),
            (group, _) => {
                let group = group.unwrap_or_default();
                self.counts[group] += 1;
                let number = match row {
                    Row::Stream(_, number)
                    | Row::Thread(number)
                    | Row::Nvtx(number)
                    | Row::Calls(number) => number.to_string(),
                    Row::Waits(context, stream) => format!("context {context} stream {stream}"),
                    Row::Overhead => String::new(),
                };
                (group as u64 * GROUP + self.counts[group], format!("{}{number}", kind_of(row)))
            }
        };
        self.numbers.insert(row, tid);
        (tid, Some(name))
    }
}

pub(super) fn device_pid(device: DeviceIndex) -> u64 {
    DEVICE_PID + u64::from(device.0)
}

fn pid_of(row: Row) -> u64 {
    if let Row::Stream(device, _) = row { device_pid(device) } else { HOST_PID }
}

/// Which of the host's groups; `None` for a device's row.
fn group_of(row: Row) -> Option<usize> {
    match row {
        Row::Stream(..) => None,
        Row::Thread(_) => Some(0),
        Row::Nvtx(_) => Some(1),
        Row::Calls(_) => Some(2),
        Row::Waits(..) => Some(3),
        Row::Overhead => Some(4),
    }
}

fn kind_of(row: Row) -> &'static str {
    match row {
        Row::Stream(..) => "stream ",
        Row::Thread(_) => "thread ",
        Row::Nvtx(_) => "NVTX thread ",
        Row::Calls(_) => "calls: thread ",
        Row::Waits(..) => "waits: ",
        Row::Overhead => "profiler overhead",
    }
}

fn slot_of(row: Row) -> usize {
    // Neighbours of one kind get places of their own; kinds begin in different ones.
    let (kind, number) = match row {
        Row::Stream(device, stream) => (device.0.wrapping_mul(5), stream),
        Row::Thread(number) => (11, number),
        Row::Nvtx(number) => (23, number),
        Row::Calls(number) => (37, number),
        Row::Waits(context, stream) => (49u32.wrapping_add(context), stream),
        Row::Overhead => (61, 0),
    };
    kind.wrapping_add(number) as usize % RECENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_have_numbers_of_their_own_and_are_named_once() {
        let mut rows = Rows::new();
        let all: Vec<_> = (0..200)
            .flat_map(|i| {
                let far = u32::MAX - i;
                [
                    Row::Stream(DeviceIndex(i % 3), i),
                    Row::Thread(i),
                    Row::Nvtx(far),
                    Row::Calls(far),
                    Row::Waits(i % 2, far),
                ]
            })
            .chain([Row::Overhead])
            .collect();
        let mut places = HashSet::new();
        for row in &all {
            let (place, unnamed) = rows.place(*row);
            let unnamed = unnamed.unwrap();
            assert!(places.insert((unnamed.pid, unnamed.tid)), "{row:?}");
            assert!(unnamed.tid < 1 << 31);
            let text = format!(",\"pid\":{},\"tid\":{},\"ts\":", unnamed.pid, unnamed.tid);
            assert_eq!(place.text(), text.as_bytes());
            assert!(unnamed.name.starts_with(kind_of(*row)));
        }
        for row in &all {
            let (_, unnamed) = rows.place(*row);
            assert_eq!(unnamed, None, "{row:?}");
        }
        assert_eq!(rows.place(Row::Stream(DeviceIndex(u32::MAX), u32::MAX)).0.bytes, 40);
    }

    #[test]
    fn past_the_limit_streams_are_unnamed_and_threads_share_a_row() {
        let mut rows = Rows::new();
        for i in 0..2 * ROWS_MAX as u32 {
            let (_, unnamed) = rows.place(Row::Stream(DeviceIndex(0), i));
            assert_eq!(unnamed.is_some(), i < ROWS_MAX as u32);
        }
        let shared: Vec<_> = (0..100).map(|i| rows.place(Row::Calls(i))).collect();
        assert_eq!(shared[0].1.as_ref().map(|row| row.name.as_str()), Some("calls: thread others"));
        assert!(
            shared[1..].iter().all(|(place, unnamed)| {
                unnamed.is_none() && place.text() == shared[0].0.text()
            })
        );
        assert_eq!(rows.numbers.len(), ROWS_MAX);
    }
}
