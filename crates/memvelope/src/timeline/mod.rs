//! The timeline: what the GPU did with its time, in bounded memory.

use crate::config::Config;
use crate::event::{Body, DeviceIndex, Direction, Event, NameId, Names, SyncKind};
use crate::units::{Bytes, Nanos};
use serde::{Deserialize, Serialize};

/// Limit on devices in [`Summary::busy`]: eight GPUs of seven MIG slices make 56.
pub const BUSY_DEVICES_MAX: usize = 64;

/// Accumulates kernels, copies, memsets and syncs. Fed by the drain thread alone.
///
/// Bounded: one row a name, and names are bounded by [`Names`]; ids past the limit given to
/// [`Timeline::new`] count under [`NameId::OTHER`].
#[derive(Debug)]
pub struct Timeline {
    /// By [`NameId`]; grows with the ids seen, up to `names_max` rows after the first.
    kernels: Vec<OpTotals>,
    names_max: usize,
    copies: [(Bytes, OpTotals); Direction::ALL.len()],
    memsets: OpTotals,
    syncs: [OpTotals; SyncKind::ALL.len()],
    /// By device: busy time and the end of the latest operation.
    busy: Vec<(Nanos, Nanos)>,
    first: Option<Nanos>,
    last: Option<Nanos>,
}

/// Everything accumulated so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Kernels, most total time first.
    pub kernels: Vec<KernelTotals>,
    /// Copies by direction, absent directions left out.
    pub copies: Vec<CopyTotals>,
    /// Memsets.
    pub memsets: OpTotals,
    /// Host waits by kind, absent kinds left out.
    pub syncs: Vec<SyncTotals>,
    /// Time each device was busy, devices that did nothing left out.
    pub busy: Vec<DeviceBusy>,
    /// First start seen on any device.
    pub first: Option<Nanos>,
    /// Last end seen on any device.
    pub last: Option<Nanos>,
}

/// Count and times of one kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpTotals {
    /// How many.
    pub count: u64,
    /// Sum of durations.
    pub total_ns: Nanos,
    /// Shortest.
    pub min_ns: Nanos,
    /// Longest.
    pub max_ns: Nanos,
}

/// One kernel name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTotals {
    /// Name as recorded (mangled).
    pub name: String,
    /// Its id.
    #[serde(skip)]
    pub id: NameId,
    /// Count and times.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// One copy direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyTotals {
    /// Direction.
    pub direction: Direction,
    /// Bytes moved.
    pub bytes: Bytes,
    /// Count and times.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// One kind of host wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTotals {
    /// Kind.
    pub kind: SyncKind,
    /// Count and host time.
    #[serde(flatten)]
    pub totals: OpTotals,
}

/// How long a device was busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceBusy {
    /// Device.
    pub device: DeviceIndex,
    /// Time with at least one kernel, copy or memset under way. A lower bound: records that arrive
    /// out of order (from concurrent streams) can only add what lies after the latest end known.
    pub busy_ns_min: Nanos,
}

impl OpTotals {
    fn add(&mut self, start: Nanos, end: Nanos) {
        let duration = end.saturating_sub(start);
        self.min_ns = if self.count == 0 { duration } else { self.min_ns.min(duration) };
        self.max_ns = self.max_ns.max(duration);
        self.total_ns = self.total_ns.saturating_add(duration);
        self.count = self.count.saturating_add(1);
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new(usize::try_from(Config::default().names_max).unwrap_or(usize::MAX))
    }
}

impl Timeline {
    /// An empty timeline for at most `names_max` kernel names besides [`NameId::OTHER`].
    #[must_use]
    pub fn new(names_max: usize) -> Self {
        Self {
            kernels: Vec::new(),
            names_max,
            copies: Default::default(),
            memsets: OpTotals::default(),
            syncs: Default::default(),
            busy: Vec::new(),
            first: None,
            last: None,
        }
    }

    /// Takes an event; those that are not about time are ignored.
    pub fn accept(&mut self, event: &Event) {
        match event.body {
            Body::Kernel(kernel) => {
                self.row(kernel.name).add(kernel.start, kernel.end);
                self.occupy(kernel.device, kernel.start, kernel.end);
            }
            Body::Copy(copy) => {
                let (bytes, totals) = &mut self.copies[copy.direction as usize];
                *bytes = bytes.saturating_add(copy.bytes);
                totals.add(copy.start, copy.end);
                self.occupy(copy.device, copy.start, copy.end);
            }
            Body::Memset(memset) => {
                self.memsets.add(memset.start, memset.end);
                self.occupy(memset.device, memset.start, memset.end);
            }
            Body::Sync(sync) => self.syncs[sync.kind as usize].add(sync.start, sync.end),
            Body::Allocated(_)
            | Body::AllocationFailed(_)
            | Body::FreeEntered { .. }
            | Body::FreeReturned { .. }
            | Body::Mapped { .. }
            | Body::Unmapped { .. }
            | Body::ContextDestroyed { .. }
            | Body::MemoryRecord(_)
            | Body::PoolRecord(_)
            | Body::GraphLaunch(_)
            | Body::ApiCall(_)
            | Body::Overhead(_)
            | Body::DriverCall(_)
            | Body::Span(_)
            | Body::Pool { .. }
            | Body::DeviceMemory { .. }
            | Body::DeviceUse { .. }
            | Body::HostMemory { .. }
            | Body::Dropped { .. } => {}
        }
    }

    fn row(&mut self, name: NameId) -> &mut OpTotals {
        let index = name.0 as usize;
        let index = if index > self.names_max { 0 } else { index };
        if index >= self.kernels.len() {
            self.kernels.resize(index + 1, OpTotals::default());
        }
        &mut self.kernels[index]
    }

    fn occupy(&mut self, device: DeviceIndex, start: Nanos, end: Nanos) {
        self.first = Some(self.first.map_or(start, |first| first.min(start)));
        self.last = Some(self.last.map_or(end, |last| last.max(end)));
        let index = device.0 as usize;
        if index >= BUSY_DEVICES_MAX {
            return;
        }
        if index >= self.busy.len() {
            self.busy.resize(index + 1, (Nanos::ZERO, Nanos::ZERO));
        }
        let (busy, until) = &mut self.busy[index];
        *busy = busy.saturating_add(end.saturating_sub(start.max(*until)));
        *until = end.max(*until);
    }

    /// Bytes of host memory the timeline holds.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        (self.kernels.capacity() * std::mem::size_of::<OpTotals>()) as u64
    }

    /// What was accumulated, with names resolved.
    #[must_use]
    pub fn summary(&self, names: &Names) -> Summary {
        let mut kernels: Vec<_> = (0u32..)
            .zip(&self.kernels)
            .filter(|(_, totals)| totals.count > 0)
            .map(|(id, totals)| {
                let id = NameId(id);
                KernelTotals { name: names.text(id), id, totals: *totals }
            })
            .collect();
        kernels.sort_by_key(|kernel| (std::cmp::Reverse(kernel.totals.total_ns), kernel.id));
        let copies = Direction::ALL
            .into_iter()
            .zip(&self.copies)
            .filter(|(_, (_, totals))| totals.count > 0)
            .map(|(direction, (bytes, totals))| CopyTotals {
                direction,
                bytes: *bytes,
                totals: *totals,
            })
            .collect();
        let syncs = SyncKind::ALL
            .into_iter()
            .zip(&self.syncs)
            .filter(|(_, totals)| totals.count > 0)
            .map(|(kind, totals)| SyncTotals { kind, totals: *totals })
            .collect();
        let busy = (0u32..)
            .zip(&self.busy)
            .filter(|(_, (_, until))| until.0 > 0)
            .map(|(device, (busy, _))| DeviceBusy {
                device: DeviceIndex(device),
                busy_ns_min: *busy,
            })
            .collect();
        Summary {
            kernels,
            copies,
            memsets: self.memsets,
            syncs,
            busy,
            first: self.first,
            last: self.last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Copied, Kernel, Memset, ScopeId, SeenBy, Sync};

    fn event(body: Body) -> Event {
        Event { time: Nanos(0), seen_by: SeenBy::Activity, body }
    }

    fn kernel(name: NameId, device: u32, start: u64, end: u64) -> Event {
        event(Body::Kernel(Kernel {
            graph: 0,
            graph_node: 0,
            scope: ScopeId::NONE,
            device: DeviceIndex(device),
            context: 1,
            stream: 7,
            name,
            correlation: 0,
            start: Nanos(start),
            end: Nanos(end),
            grid: [1; 3],
            block: [1; 3],
        }))
    }

    #[test]
    fn sums_by_name_direction_and_kind() {
        let names = Names::new(8, 64);
        let (slow, fast) = (names.intern("slow"), names.intern("fast"));
        let mut timeline = Timeline::new(8);
        for event in [
            kernel(fast, 0, 100, 110),
            kernel(slow, 0, 110, 210),
            kernel(fast, 1, 50, 80),
            kernel(NameId(99), 0, 210, 211),
        ] {
            timeline.accept(&event);
        }
        timeline.accept(&event(Body::Copy(Copied {
            graph: 0,
            scope: ScopeId::NONE,
            device: DeviceIndex(0),
            stream: 7,
            direction: Direction::DeviceToHost,
            bytes: Bytes(64),
            correlation: 0,
            start: Nanos(205),
            end: Nanos(221),
        })));
        timeline.accept(&event(Body::Memset(Memset {
            graph: 0,
            scope: ScopeId::NONE,
            device: DeviceIndex(0),
            stream: 7,
            bytes: Bytes(64),
            correlation: 0,
            start: Nanos(300),
            end: Nanos(290), // a clock that ran backwards
        })));
        timeline.accept(&event(Body::Sync(Sync {
            kind: SyncKind::Context,
            context: 1,
            stream: 0,
            correlation: 0,
            start: Nanos(0),
            end: Nanos(500),
        })));
        let summary = timeline.summary(&names);
        let rows: Vec<_> = summary
            .kernels
            .iter()
            .map(|k| (k.name.as_str(), k.totals.count, k.totals.total_ns.0, k.totals.min_ns.0))
            .collect();
        assert_eq!(rows, [("slow", 1, 100, 100), ("fast", 2, 40, 10), ("(other names)", 1, 1, 1)]);
        assert_eq!(summary.copies.len(), 1);
        assert_eq!(summary.copies[0].bytes, Bytes(64));
        assert_eq!((summary.memsets.count, summary.memsets.total_ns), (1, Nanos(0)));
        assert_eq!(summary.syncs[0].totals.max_ns, Nanos(500));
        assert_eq!((summary.first, summary.last), (Some(Nanos(50)), Some(Nanos(290))));
        let busy: Vec<_> = summary.busy.iter().map(|b| (b.device.0, b.busy_ns_min.0)).collect();
        assert_eq!(busy, [(0, 121), (1, 30)]);
    }

    #[test]
    fn sums_saturate() {
        let mut timeline = Timeline::new(1);
        for _ in 0..3 {
            timeline.accept(&kernel(NameId::OTHER, 0, 0, u64::MAX));
        }
        let summary = timeline.summary(&Names::new(1, 8));
        assert_eq!(summary.kernels[0].totals.total_ns, Nanos::MAX);
        assert_eq!(summary.busy[0].busy_ns_min, Nanos::MAX);
    }
}
