//! The timeline: what the GPU did with its time, and the host with its, in bounded memory.
//!
//! * `summary`: what comes out
//! * `sketch`: quantiles; `busy`: the union of intervals; `calls`: allocation calls, lock-free

mod busy;
mod calls;
mod sketch;
mod summary;

pub use calls::CallTimes;
pub use sketch::Sketch;
pub use summary::{
    CallTotals, CopyTotals, DeviceBusy, KernelTotals, LaunchCallTotals, MemsetTotals, OpTotals,
    OverheadTotals, PoolChanges, ScopeTotals, SpanTotals, Summary, SyncTotals, WorkTotals,
};

use crate::config::Config;
use crate::event::{
    ApiCall, Body, DeviceIndex, Direction, Event, NameId, Names, OverheadKind, PoolChange, ScopeId,
    Span, SpanOrigin, SyncKind,
};
use crate::units::{Bytes, Nanos};
use busy::Busy;
use std::collections::BTreeMap;

/// Limit on devices in [`Summary::busy`]: eight GPUs of seven MIG slices make 56.
pub const BUSY_DEVICES_MAX: usize = 64;

/// Accumulates what activity records tell. Fed by the drain thread alone.
///
/// Bounded: one row a name, and names are bounded by [`Names`]; ids past the limit given to
/// [`Timeline::new`] count under [`NameId::OTHER`].
#[derive(Debug)]
pub struct Timeline {
    /// By [`NameId`]; grows with the ids seen, up to `names_max` rows after the first.
    kernels: Vec<Durations>,
    names_max: usize,
    copies: [(Bytes, Durations); Direction::ALL.len()],
    memsets: (Bytes, Durations),
    graphs: Durations,
    syncs: [Durations; SyncKind::ALL.len()],
    /// By name of the function, of which we know some dozens; with the failed ones.
    launch_calls: BTreeMap<&'static str, (u64, Durations)>,
    spans: BTreeMap<(NameId, bool), Durations>,
    scopes: BTreeMap<NameId, Work>,
    pool_changes: [u64; PoolChange::ALL.len()],
    overheads: [Durations; OverheadKind::ALL.len()],
    /// By device.
    busy: Vec<Busy>,
}

/// Count and times of one kind of operation.
#[derive(Clone, Debug, Default)]
struct Durations {
    count: u64,
    total: Nanos,
    min: Nanos,
    max: Nanos,
    sketch: Sketch,
}

/// Work launched in scopes of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    kernels: WorkTotals,
    copies: WorkTotals,
    memsets: WorkTotals,
    graphs: WorkTotals,
}

/// Which of a scope's works.
type Kind = fn(&mut Work) -> &mut WorkTotals;

impl Durations {
    #[inline]
    fn add(&mut self, start: Nanos, end: Nanos) {
        let duration = end.saturating_sub(start);
        self.min = if self.count == 0 { duration } else { self.min.min(duration) };
        self.max = self.max.max(duration);
        self.total = self.total.saturating_add(duration);
        self.count = self.count.saturating_add(1);
        self.sketch.add(duration);
    }

    fn totals(&self) -> OpTotals {
        let quantile = |per_mille| {
            let found = self.sketch.quantile(per_mille).unwrap_or(Nanos::ZERO);
            found.max(self.min).min(self.max)
        };
        OpTotals {
            count: self.count,
            total_ns: self.total,
            min_ns: self.min,
            max_ns: self.max,
            p50_ns: quantile(500),
            p99_ns: quantile(990),
        }
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new(usize::try_from(Config::default().names_max).unwrap_or(usize::MAX))
    }
}

impl Timeline {
    /// An empty timeline for at most `names_max` names besides [`NameId::OTHER`].
    #[must_use]
    pub fn new(names_max: usize) -> Self {
        Self {
            kernels: Vec::new(),
            names_max,
            copies: Default::default(),
            memsets: Default::default(),
            graphs: Durations::default(),
            syncs: Default::default(),
            launch_calls: BTreeMap::new(),
            spans: BTreeMap::new(),
            scopes: BTreeMap::new(),
            pool_changes: Default::default(),
            overheads: Default::default(),
            busy: Vec::new(),
        }
    }

    /// Takes an event; those that are not about time are ignored. Allocation calls have a place of
    /// their own: [`CallTimes`].
    pub fn accept(&mut self, event: &Event) {
        match event.body {
            Body::Kernel(kernel) => {
                self.row(kernel.name).add(kernel.start, kernel.end);
                self.occupy(kernel.device, kernel.start, kernel.end);
                let (start, end) = (kernel.start, kernel.end);
                self.in_scope(kernel.scope, |work| &mut work.kernels, Bytes::ZERO, start, end);
            }
            Body::Copy(copy) => {
                let (bytes, durations) = &mut self.copies[copy.direction as usize];
                *bytes = bytes.saturating_add(copy.bytes);
                durations.add(copy.start, copy.end);
                self.occupy(copy.device, copy.start, copy.end);
                let (start, end) = (copy.start, copy.end);
                self.in_scope(copy.scope, |work| &mut work.copies, copy.bytes, start, end);
            }
            Body::Memset(memset) => {
                let (bytes, durations) = &mut self.memsets;
                *bytes = bytes.saturating_add(memset.bytes);
                durations.add(memset.start, memset.end);
                self.occupy(memset.device, memset.start, memset.end);
                let (start, end) = (memset.start, memset.end);
                self.in_scope(memset.scope, |work| &mut work.memsets, memset.bytes, start, end);
            }
            Body::GraphLaunch(graph) => {
                self.graphs.add(graph.start, graph.end);
                self.occupy(graph.device, graph.start, graph.end);
                let (start, end) = (graph.start, graph.end);
                self.in_scope(graph.scope, |work| &mut work.graphs, Bytes::ZERO, start, end);
            }
            Body::Sync(sync) => self.syncs[sync.kind as usize].add(sync.start, sync.end),
            Body::ApiCall(call) => self.launch_call(&call),
            Body::Span(span) => self.span(&span),
            Body::Overhead(it) => self.overheads[it.kind as usize].add(it.start, it.end),
            Body::PoolRecord(record) => {
                let count = &mut self.pool_changes[record.change as usize];
                *count = count.saturating_add(1);
            }
            Body::Allocated(_)
            | Body::AllocationFailed(_)
            | Body::FreeEntered { .. }
            | Body::FreeReturned { .. }
            | Body::Mapped { .. }
            | Body::Unmapped { .. }
            | Body::Retained { .. }
            | Body::Exported { .. }
            | Body::Imported { .. }
            | Body::ExportClosed { .. }
            | Body::Bound { .. }
            | Body::Unbound { .. }
            | Body::PoolCreated { .. }
            | Body::PoolDestroyed { .. }
            | Body::PoolDestroyReturned { .. }
            | Body::ContextGrew(_)
            | Body::GraphMemory { .. }
            | Body::ContextDestroyed { .. }
            | Body::MemoryRecord(_)
            | Body::DriverCall(_)
            | Body::Pool { .. }
            | Body::DeviceMemory { .. }
            | Body::DeviceUse { .. }
            | Body::HostMemory { .. }
            | Body::Dropped { .. } => {}
        }
    }

    /// A name within the limit.
    fn bounded(&self, name: NameId) -> NameId {
        if name.0 as usize > self.names_max { NameId::OTHER } else { name }
    }

    #[inline]
    fn row(&mut self, name: NameId) -> &mut Durations {
        let index = self.bounded(name).0 as usize;
        if index >= self.kernels.len() {
            self.kernels.resize(index + 1, Durations::default());
        }
        &mut self.kernels[index]
    }

    #[inline]
    fn in_scope(&mut self, scope: ScopeId, kind: Kind, bytes: Bytes, start: Nanos, end: Nanos) {
        if !scope.is_some() {
            return;
        }
        let name = self.bounded(scope.name());
        let totals = kind(self.scopes.entry(name).or_default());
        totals.count = totals.count.saturating_add(1);
        totals.total_ns = totals.total_ns.saturating_add(end.saturating_sub(start));
        totals.bytes = totals.bytes.saturating_add(bytes);
    }

    fn launch_call(&mut self, call: &ApiCall) {
        let known = match call.is_runtime {
            true => cupti_sys::runtime_cbid::name(call.cbid),
            false => cupti_sys::cbid::name(call.cbid),
        };
        let (failed, durations) =
            self.launch_calls.entry(known.unwrap_or("(other calls)")).or_default();
        *failed = failed.saturating_add(u64::from(call.result != 0));
        durations.add(call.start, call.end);
    }

    fn span(&mut self, span: &Span) {
        let key = (self.bounded(span.name), span.origin == SpanOrigin::Nvtx);
        self.spans.entry(key).or_default().add(span.start, span.end);
    }

    #[inline]
    fn occupy(&mut self, device: DeviceIndex, start: Nanos, end: Nanos) {
        let index = device.0 as usize;
        if index >= self.busy.len() {
            if index >= BUSY_DEVICES_MAX {
                return;
            }
            self.busy.resize(index + 1, Busy::default());
        }
        self.busy[index].add(start, end);
    }

    /// Bytes of host memory the timeline holds, the overhead of its maps apart.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        let kernels = (self.kernels.capacity() * size_of::<Durations>()) as u64;
        let spans = (self.spans.len() * size_of::<((NameId, bool), Durations)>()) as u64;
        let scopes = (self.scopes.len() * size_of::<(NameId, Work)>()) as u64;
        let sketches = self.kernels.iter().chain(self.spans.values());
        let sketches: u64 = sketches.map(|row| row.sketch.host_bytes()).sum();
        let busy: u64 = self.busy.iter().map(Busy::host_bytes).sum();
        kernels + spans + scopes + sketches + busy
    }

    /// What was accumulated, with names resolved; [`Summary::allocation_calls`] is left empty.
    #[must_use]
    pub fn summary(&self, names: &Names) -> Summary {
        let spans = self.busy.iter().filter_map(Busy::span);
        Summary {
            kernels: self.kernel_rows(names),
            copies: self.copy_rows(),
            memsets: MemsetTotals {
                bytes: self.memsets.0,
                bytes_per_second: rate(self.memsets.0, self.memsets.1.total),
                totals: self.memsets.1.totals(),
            },
            graphs: self.graphs.totals(),
            syncs: rows(&SyncKind::ALL, &self.syncs)
                .map(|(kind, totals)| SyncTotals { kind, totals })
                .collect(),
            allocation_calls: Vec::new(),
            launch_calls: self
                .launch_calls
                .iter()
                .map(|(function, (failed, durations))| LaunchCallTotals {
                    function: (*function).to_owned(),
                    failed: *failed,
                    totals: durations.totals(),
                })
                .collect(),
            spans: self.span_rows(names),
            scopes: self.scope_rows(names),
            pool_changes: PoolChange::ALL
                .into_iter()
                .zip(self.pool_changes)
                .filter(|(_, count)| *count > 0)
                .map(|(change, count)| PoolChanges { change, count })
                .collect(),
            overheads: rows(&OverheadKind::ALL, &self.overheads)
                .map(|(kind, totals)| OverheadTotals { kind, totals })
                .collect(),
            busy: self.busy_rows(),
            first: spans.clone().map(|(first, _)| first).min(),
            last: spans.map(|(_, last)| last).max(),
        }
    }

    fn kernel_rows(&self, names: &Names) -> Vec<KernelTotals> {
        let seen = (0u32..).zip(&self.kernels).filter(|(_, durations)| durations.count > 0);
        let mut rows: Vec<_> = seen
            .map(|(id, durations)| {
                let id = NameId(id);
                KernelTotals { name: names.text(id), id, totals: durations.totals() }
            })
            .collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.totals.total_ns), row.id));
        rows
    }

    fn copy_rows(&self) -> Vec<CopyTotals> {
        let seen = Direction::ALL.into_iter().zip(&self.copies).filter(|(_, (_, d))| d.count > 0);
        seen.map(|(direction, (bytes, durations))| CopyTotals {
            direction,
            bytes: *bytes,
            bytes_per_second: rate(*bytes, durations.total),
            totals: durations.totals(),
        })
        .collect()
    }

    fn span_rows(&self, names: &Names) -> Vec<SpanTotals> {
        let row = |((name, is_nvtx), durations): (&(NameId, bool), &Durations)| SpanTotals {
            name: names.text(*name),
            origin: if *is_nvtx { SpanOrigin::Nvtx } else { SpanOrigin::Program },
            totals: durations.totals(),
        };
        let mut rows: Vec<_> = self.spans.iter().map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.totals.total_ns));
        rows
    }

    fn scope_rows(&self, names: &Names) -> Vec<ScopeTotals> {
        let row = |(name, work): (&NameId, &Work)| ScopeTotals {
            name: names.text(*name),
            kernels: work.kernels,
            copies: work.copies,
            memsets: work.memsets,
            graphs: work.graphs,
        };
        let mut rows: Vec<_> = self.scopes.iter().map(row).collect();
        rows.sort_by_key(|row| {
            std::cmp::Reverse(row.kernels.total_ns.saturating_add(row.graphs.total_ns))
        });
        rows
    }

    fn busy_rows(&self) -> Vec<DeviceBusy> {
        let row = |(device, busy): (u32, &Busy)| {
            let (first, last) = busy.span()?;
            let (busy_ns, span_ns) = (busy.busy(), last.saturating_sub(first));
            Some(DeviceBusy {
                device: DeviceIndex(device),
                busy_ns,
                span_ns,
                ratio: (span_ns.0 > 0).then(|| busy_ns.0 as f64 / span_ns.0 as f64),
                late_ns: busy.late(),
            })
        };
        (0u32..).zip(&self.busy).filter_map(row).collect()
    }
}

/// Rows of what was seen at all.
fn rows<'a, K: Copy>(
    kinds: &'a [K],
    durations: &'a [Durations],
) -> impl Iterator<Item = (K, OpTotals)> + 'a {
    let seen = kinds.iter().zip(durations).filter(|(_, durations)| durations.count > 0);
    seen.map(|(kind, durations)| (*kind, durations.totals()))
}

/// Bytes a second; `None` where they took no time.
fn rate(bytes: Bytes, time: Nanos) -> Option<u64> {
    let per_second = (u128::from(bytes.0) * 1_000_000_000).checked_div(u128::from(time.0))?;
    Some(u64::try_from(per_second).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
