//! Which events a trace keeps: whole windows of the run, evenly spread, in bounded memory.

use crate::event::{Body, Event};
use crate::units::Nanos;

/// Keeps the events of every `stride`-th window since the first event. When the store is full the
/// stride doubles and the windows that no longer belong are thinned out: at any time the kept
/// windows are spread over the whole run, and inside a kept window steps stay readable.
///
/// The same events in the same order always keep the same trace.
#[derive(Debug)]
pub(super) struct Sampler {
    events: Vec<Event>,
    limit: usize,
    window_ns: u64,
    stride: u64,
    first: Option<Nanos>,
    /// Where the latest event was: most are in the same window as the one before.
    latest: Window,
    seen: u64,
    /// The store is full of one window, which thinning cannot shrink: nothing more is kept.
    is_stuck: bool,
}

/// A window as the times from `begin` to before `end`.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    begin: Nanos,
    end: Nanos,
    is_kept: bool,
}

impl Sampler {
    pub(super) fn new(limit: u64, window: Nanos) -> Self {
        Self {
            events: Vec::new(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            window_ns: window.0.max(1),
            stride: 1,
            first: None,
            latest: Window::default(),
            seen: 0,
            is_stuck: false,
        }
    }

    /// Takes what has a place in a trace; leaves everything else.
    pub(super) fn accept(&mut self, event: &Event) {
        match event.body {
            Body::Kernel(_)
            | Body::Copy(_)
            | Body::Memset(_)
            | Body::GraphLaunch(_)
            | Body::Sync(_)
            | Body::ApiCall(_)
            | Body::Overhead(_)
            | Body::Span(_) => {}
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
            | Body::PoolRecord(_)
            | Body::DriverCall(_)
            | Body::Pool { .. }
            | Body::DeviceMemory { .. }
            | Body::DeviceUse { .. }
            | Body::HostMemory { .. }
            | Body::Dropped { .. } => return,
        }
        self.seen += 1;
        let first = *self.first.get_or_insert(event.time);
        if self.events.len() >= self.limit {
            self.thin(first);
        }
        if !(self.latest.begin..self.latest.end).contains(&event.time) {
            self.latest = self.window(event, first);
        }
        if self.latest.is_kept && self.events.len() < self.limit {
            self.events.push(*event);
        }
    }

    #[cold]
    fn window(&self, event: &Event, first: Nanos) -> Window {
        let number = window_of(event, first, self.window_ns);
        let starts =
            |number: u64| first.saturating_add(Nanos(number.saturating_mul(self.window_ns)));
        // What is older than the first event belongs to window 0.
        let begin = if number == 0 { Nanos::ZERO } else { starts(number) };
        let is_kept = number.is_multiple_of(self.stride);
        Window { begin, end: starts(number.saturating_add(1)), is_kept }
    }

    /// Doubles the stride until something is left out.
    fn thin(&mut self, first: Nanos) {
        if self.is_stuck {
            return;
        }
        let window_ns = self.window_ns;
        let last = self.events.iter().map(|event| window_of(event, first, window_ns)).max();
        let mut stride = self.stride;
        while self.events.len() >= self.limit {
            stride = stride.saturating_mul(2);
            if last.is_none_or(|last| stride > last.saturating_mul(2)) {
                self.is_stuck = true;
                return;
            }
            self.events.retain(|event| window_of(event, first, window_ns).is_multiple_of(stride));
        }
        self.stride = stride;
        self.latest = Window::default();
    }

    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn stride(&self) -> u64 {
        self.stride
    }

    pub(super) fn window_ns(&self) -> Nanos {
        Nanos(self.window_ns)
    }

    /// Events left out.
    pub(super) fn sampled(&self) -> u64 {
        self.seen.saturating_sub(self.events.len() as u64)
    }

    pub(super) fn host_bytes(&self) -> u64 {
        (self.events.capacity() * std::mem::size_of::<Event>()) as u64
    }
}

/// Events older than the first (records arrive late) belong to window 0.
fn window_of(event: &Event, first: Nanos, window_ns: u64) -> u64 {
    event.time.saturating_sub(first).0 / window_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NameId, ScopeId, SeenBy, Span, SpanOrigin};

    fn span(time: u64) -> Event {
        let span = Span {
            name: NameId(1),
            origin: SpanOrigin::Program,
            scope: ScopeId::NONE,
            thread: 1,
            start: Nanos(time),
            end: Nanos(time),
        };
        Event { time: Nanos(time), seen_by: SeenBy::Host, body: Body::Span(span) }
    }

    /// Feeds events at these times; returns the kept times, the stride and what was left out.
    fn check(limit: u64, window: u64, times: impl Iterator<Item = u64>) -> (Vec<u64>, u64, u64) {
        let mut sampler = Sampler::new(limit, Nanos(window));
        times.for_each(|time| sampler.accept(&span(time)));
        assert!(sampler.events().len() as u64 <= limit);
        assert_eq!(sampler.seen(), sampler.sampled() + sampler.events().len() as u64);
        let kept = sampler.events().iter().map(|event| event.time.0).collect();
        (kept, sampler.stride(), sampler.sampled())
    }

    #[test]
    fn everything_is_kept_while_it_fits() {
        let (kept, stride, sampled) = check(100, 10, 0..100);
        assert_eq!((kept.len(), stride, sampled), (100, 1, 0));
    }

    #[test]
    fn kept_windows_are_whole_and_spread_over_the_run() {
        // 10 windows of 10 events into 60 places: every other window, whole.
        let (kept, stride, sampled) = check(60, 10, 1000..1100);
        let expected: Vec<u64> = (1000..1100).filter(|t| (t - 1000) / 10 % 2 == 0).collect();
        assert_eq!((kept, stride, sampled), (expected, 2, 50));
        // A long run: still evenly spread, at least a quarter of the store used.
        let (kept, stride, _) = check(1000, 10, 0..1_000_000);
        assert!(kept.len() >= 250 && stride == 1024, "{} {stride}", kept.len());
        assert!(kept.iter().all(|t| t / 10 % stride == 0));
        assert!(kept.last().is_some_and(|t| *t > 1_000_000 - 2 * 10 * stride));
    }

    #[test]
    fn one_window_larger_than_the_store_is_cut() {
        let (kept, stride, sampled) = check(10, 1000, (0..50).chain(5000..5010));
        assert_eq!((kept, stride, sampled), ((0..10).collect(), 1, 50));
    }

    #[test]
    fn the_same_events_keep_the_same_trace() {
        let times = || (0..50_000u64).map(|i| i.wrapping_mul(2_654_435_761) % 100_000);
        assert_eq!(check(777, 10, times()), check(777, 10, times()));
    }

    #[test]
    fn memory_events_have_no_place_here() {
        let mut sampler = Sampler::new(10, Nanos(1));
        let body = Body::FreeReturned { token: 1, succeeded: true };
        sampler.accept(&Event { time: Nanos(1), seen_by: SeenBy::Callback, body });
        assert_eq!(sampler.seen(), 0);
    }
}
