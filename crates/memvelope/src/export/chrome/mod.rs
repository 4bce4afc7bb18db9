//! Chrome trace JSON (opens in Perfetto), streamed event by event.
//!
//! Rows: process 1 is the host (named spans, launching calls and NVTX ranges by thread, waits by
//! stream, what the profiler itself costs), process 100 + d is device d (kernels, copies, memsets and
//! whole graphs by stream, VRAM as a counter). Work that was launched in a scope has the scope's name
//! and its W3C trace id among its `args`. Times are microseconds with three
//! decimals since the first event, because a reader that keeps them as doubles would lose
//! nanoseconds of the epoch; the origin stands in `otherData.clock_origin_ns`.

mod recent;
mod rows;
mod text;

use crate::event::{
    ApiCall, Body, DeviceIndex, Direction, DropReason, Event, NameId, Names, OverheadKind, ScopeId,
    Scopes, SpanOrigin, SyncKind,
};
use crate::units::{Bytes, Nanos};
use recent::{Known, Recent, put_ids};
use rows::{Place, Row, Rows, Unnamed, device_pid};
use std::io::{self, Write};
use text::{put_escaped, put_micros, put_number};

/// Kept free for closing the document: brackets and `otherData` with every number at its longest.
const TAIL_BYTES_MAX: u64 = 2048;

/// Writes one trace. Stops adding at its byte limit and counts what it left out; the document is
/// closed properly all the same.
#[derive(Debug)]
pub struct TraceWriter<'a> {
    out: CountingWriter<'a>,
    bytes_max: u64,
    origin: Nanos,
    simulated: bool,
    recent: Recent<'a>,
    rows: Rows,
    line: Vec<u8>,
    events: u64,
    left_out: u64,
    forgotten_scopes: u64,
}

/// What to say about a trace as a whole, in `otherData`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceMeta {
    /// Events that were seen, kept or not.
    pub events_seen: u64,
    /// Every how many-th window of the run is in the trace.
    pub window_stride: u64,
    /// Length of a window.
    pub window_ns: Nanos,
    /// What was lost, by reason.
    pub dropped: Vec<(DropReason, u64)>,
}

/// How the writing went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Events in the document (rows' names apart).
    pub events: u64,
    /// Events left out for want of room.
    pub left_out: u64,
    /// Bytes of the document.
    pub bytes: u64,
}

struct CountingWriter<'a> {
    inner: &'a mut dyn Write,
    bytes: u64,
}

impl std::fmt::Debug for CountingWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CountingWriter").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl CountingWriter<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl<'a> TraceWriter<'a> {
    /// Begins a document of at most `bytes_max` bytes whose times count from `origin`.
    ///
    /// # Errors
    /// Those of `out`, and `InvalidInput` if not even an empty document fits.
    pub fn new(
        out: &'a mut dyn Write,
        names: &'a Names,
        scopes: &'a Scopes,
        origin: Nanos,
        simulated: bool,
        bytes_max: u64,
    ) -> io::Result<Self> {
        let mut writer = Self {
            out: CountingWriter { inner: out, bytes: 0 },
            bytes_max,
            origin,
            simulated,
            recent: Recent::new(names, scopes),
            rows: Rows::new(),
            line: Vec::with_capacity(1024),
            events: 0,
            left_out: 0,
            forgotten_scopes: 0,
        };
        if bytes_max < 2 * TAIL_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a trace needs at least {} bytes, {bytes_max} were allowed",
                    2 * TAIL_BYTES_MAX
                ),
            ));
        }
        writer.out.put(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n")?;
        // The first entry carries no comma, all others lead with one.
        writer
            .out
            .put(b"{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":1,\"args\":{\"name\":\"host")?;
        let mark: &[u8] = if simulated { b" (SIMULATED)" } else { b"" };
        writer.out.put(mark)?;
        writer.out.put(b"\"}}")?;
        Ok(writer)
    }

    /// Names the rows of a device, e.g. `GPU 0: NVIDIA H200`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn device(&mut self, device: DeviceIndex, name: &str) -> io::Result<()> {
        let mark = if self.simulated { " (SIMULATED)" } else { "" };
        let text = format!("GPU {}: {name}{mark}", device.0);
        self.metadata("process_name", device_pid(device), None, &text)
    }

    /// Adds an event; those that have no place in a trace are ignored.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        match event.body {
            Body::Kernel(kernel) => {
                let place = self.row(Row::Stream(kernel.device, kernel.stream))?;
                self.begin_named(kernel.name, "kernel");
                self.put_place(&place, kernel.start, kernel.end);
                self.put_dimensions(",\"args\":{\"grid\":[", kernel.grid);
                self.put_dimensions("],\"block\":[", kernel.block);
                self.put_arg("],\"correlation\":", u64::from(kernel.correlation));
                self.put_graph(kernel.graph, kernel.graph_node);
                self.end_args(kernel.scope);
            }
            Body::Copy(copy) => {
                let place = self.row(Row::Stream(copy.device, copy.stream))?;
                self.begin(copy_name(copy.direction), "copy");
                self.put_place(&place, copy.start, copy.end);
                self.put_arg(",\"args\":{\"bytes\":", copy.bytes.0);
                self.put_graph(copy.graph, 0);
                self.end_args(copy.scope);
            }
            Body::Memset(memset) => {
                let place = self.row(Row::Stream(memset.device, memset.stream))?;
                self.begin("memset", "memset");
                self.put_place(&place, memset.start, memset.end);
                self.put_arg(",\"args\":{\"bytes\":", memset.bytes.0);
                self.put_graph(memset.graph, 0);
                self.end_args(memset.scope);
            }
            Body::GraphLaunch(graph) => {
                let place = self.row(Row::Stream(graph.device, graph.stream))?;
                self.begin("graph", "graph");
                self.put_place(&place, graph.start, graph.end);
                self.put_arg(",\"args\":{\"correlation\":", u64::from(graph.correlation));
                self.put_graph(graph.graph, 0);
                self.end_args(graph.scope);
            }
            Body::Sync(_) | Body::Span(_) | Body::ApiCall(_) | Body::Overhead(_) => {
                self.host_time(&event.body)?;
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
            | Body::PoolRecord(_)
            | Body::DriverCall(_)
            | Body::Pool { .. }
            | Body::DeviceMemory { .. }
            | Body::DeviceUse { .. }
            | Body::HostMemory { .. }
            | Body::Dropped { .. } => return Ok(()),
        }
        self.put_line(true)
    }

    /// An event on the host's rows.
    fn host_time(&mut self, body: &Body) -> io::Result<()> {
        match *body {
            Body::Sync(sync) => {
                let place = self.row(Row::Waits(sync.context, sync.stream))?;
                self.begin(sync_name(sync.kind), "sync");
                self.put_place(&place, sync.start, sync.end);
                self.put_arg(",\"args\":{\"correlation\":", u64::from(sync.correlation));
                self.end_args(ScopeId::NONE);
            }
            Body::Span(span) => {
                let place = self.row(match span.origin {
                    SpanOrigin::Program => Row::Thread(span.thread),
                    SpanOrigin::Nvtx => Row::Nvtx(span.thread),
                })?;
                self.begin_named(span.name, "span");
                self.put_place(&place, span.start, span.end);
                self.put_trace(span.scope);
                self.line.push(b'}');
            }
            Body::ApiCall(call) => {
                let place = self.row(Row::Calls(call.thread))?;
                self.begin(call_name(&call), "call");
                self.put_place(&place, call.start, call.end);
                self.put_arg(",\"args\":{\"correlation\":", u64::from(call.correlation));
                self.put_arg(",\"result\":", u64::from(call.result));
                self.end_args(ScopeId::NONE);
            }
            Body::Overhead(overhead) => {
                let place = self.row(Row::Overhead)?;
                self.begin(overhead_name(overhead.kind), "overhead");
                self.put_place(&place, overhead.start, overhead.end);
                self.line.push(b'}');
            }
            // Everything else is the device's, or has no place in a trace.
            _ => {}
        }
        Ok(())
    }

    /// Adds a point of a device's VRAM curve.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn vram(
        &mut self,
        time: Nanos,
        device: DeviceIndex,
        vram: Bytes,
        kv: Bytes,
    ) -> io::Result<()> {
        self.line.clear();
        self.line.extend_from_slice(b",\n{\"ph\":\"C\",\"name\":\"VRAM bytes\",\"pid\":");
        put_number(&mut self.line, device_pid(device));
        self.line.extend_from_slice(b",\"ts\":");
        put_micros(&mut self.line, time.saturating_sub(self.origin));
        // The viewer stacks the series of a counter: KV cache and the rest add up to the total.
        self.line.extend_from_slice(b",\"args\":{\"kv_cache\":");
        put_number(&mut self.line, kv.0);
        self.line.extend_from_slice(b",\"other\":");
        put_number(&mut self.line, vram.saturating_sub(kv).0);
        self.line.extend_from_slice(b"}}");
        self.put_line(true)
    }

    /// Closes the document.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self, meta: &TraceMeta) -> io::Result<Written> {
        self.line.clear();
        self.line.extend_from_slice(b"\n],\"otherData\":{\"producer\":\"memvelope ");
        self.line.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
        self.line.extend_from_slice(b"\",\"simulated\":");
        let simulated: &[u8] = if self.simulated { b"true" } else { b"false" };
        self.line.extend_from_slice(simulated);
        for (key, value) in [
            ("clock_origin_ns", self.origin.0),
            ("events", self.events),
            ("events_seen", meta.events_seen),
            ("events_left_out", self.left_out),
            ("window_stride", meta.window_stride),
            ("window_ns", meta.window_ns.0),
        ] {
            self.line.extend_from_slice(b",\"");
            self.line.extend_from_slice(key.as_bytes());
            self.line.extend_from_slice(b"\":");
            put_number(&mut self.line, value);
        }
        let forgotten = Some((DropReason::ScopeForgotten, self.forgotten_scopes));
        let dropped: serde_json::Map<_, _> = meta
            .dropped
            .iter()
            .chain(forgotten.as_ref().filter(|(_, count)| *count > 0))
            .map(|(reason, count)| (drop_name(*reason), serde_json::Value::from(*count)))
            .collect();
        self.line.extend_from_slice(b",\"dropped\":");
        serde_json::to_writer(&mut self.line, &dropped)?;
        self.line.extend_from_slice(b"}}\n");
        self.out.put(&self.line)?;
        Ok(Written { events: self.events, left_out: self.left_out, bytes: self.out.bytes })
    }

    /// The place of a row, which is named before its first event.
    #[inline]
    fn row(&mut self, row: Row) -> io::Result<Place> {
        let (place, unnamed) = self.rows.place(row);
        if let Some(Unnamed { pid, tid, name }) = unnamed {
            self.metadata("thread_name", pid, Some(tid), &name)?;
        }
        Ok(place)
    }

    fn metadata(&mut self, kind: &str, pid: u64, tid: Option<u64>, name: &str) -> io::Result<()> {
        self.line.clear();
        self.line.extend_from_slice(b",\n{\"ph\":\"M\",\"name\":\"");
        self.line.extend_from_slice(kind.as_bytes());
        self.line.extend_from_slice(b"\",\"pid\":");
        put_number(&mut self.line, pid);
        if let Some(tid) = tid {
            self.line.extend_from_slice(b",\"tid\":");
            put_number(&mut self.line, tid);
        }
        self.line.extend_from_slice(b",\"args\":{\"name\":\"");
        put_escaped(&mut self.line, name);
        self.line.extend_from_slice(b"\"}}");
        self.put_line(false)
    }

    fn begin(&mut self, name: &str, category: &str) {
        self.line.clear();
        self.line.extend_from_slice(b",\n{\"ph\":\"X\",\"name\":\"");
        self.line.extend_from_slice(name.as_bytes());
        self.put_category(category);
    }

    fn begin_named(&mut self, name: NameId, category: &str) {
        self.line.clear();
        self.line.extend_from_slice(b",\n{\"ph\":\"X\",\"name\":\"");
        self.recent.put_name(&mut self.line, name);
        self.put_category(category);
    }

    fn put_category(&mut self, category: &str) {
        self.line.extend_from_slice(b"\",\"cat\":\"");
        self.line.extend_from_slice(category.as_bytes());
        self.line.push(b'"');
    }

    fn put_place(&mut self, place: &Place, start: Nanos, end: Nanos) {
        self.line.extend_from_slice(place.text());
        put_micros(&mut self.line, start.saturating_sub(self.origin));
        self.line.extend_from_slice(b",\"dur\":");
        put_micros(&mut self.line, end.saturating_sub(start));
    }

    fn put_dimensions(&mut self, before: &str, dimensions: [u32; 3]) {
        self.line.extend_from_slice(before.as_bytes());
        for (i, size) in dimensions.into_iter().enumerate() {
            if i > 0 {
                self.line.push(b',');
            }
            put_number(&mut self.line, u64::from(size));
        }
    }

    fn put_arg(&mut self, key: &str, value: u64) {
        self.line.extend_from_slice(key.as_bytes());
        put_number(&mut self.line, value);
    }

    fn put_graph(&mut self, graph: u32, node: u64) {
        if graph != 0 {
            self.put_arg(",\"graph\":", u64::from(graph));
        }
        if node != 0 {
            self.put_arg(",\"graph_node\":", node);
        }
    }

    /// Closes the `args` of an event, after the scope that it belongs to.
    fn end_args(&mut self, scope: ScopeId) {
        if self.recent.put_scope(&mut self.line, scope) == Known::Forgotten {
            self.forgotten_scopes += 1;
        }
        self.line.extend_from_slice(b"}}");
    }

    /// The `args` of a span that has a trace context.
    fn put_trace(&mut self, scope: ScopeId) {
        if let Some(trace) = self.recent.trace_of(scope) {
            self.line.extend_from_slice(b",\"args\":{");
            put_ids(&mut self.line, trace);
            self.line.push(b'}');
        }
    }

    fn put_line(&mut self, is_event: bool) -> io::Result<()> {
        let length = self.line.len() as u64;
        if self.out.bytes.saturating_add(length).saturating_add(TAIL_BYTES_MAX) > self.bytes_max {
            self.left_out += u64::from(is_event);
            return Ok(());
        }
        self.events += u64::from(is_event);
        self.out.put(&self.line)
    }
}

fn copy_name(direction: Direction) -> &'static str {
    match direction {
        Direction::HostToDevice => "copy host to device",
        Direction::DeviceToHost => "copy device to host",
        Direction::DeviceToDevice => "copy device to device",
        Direction::HostToHost => "copy host to host",
        Direction::PeerToPeer => "copy peer to peer",
        Direction::Other => "copy",
    }
}

fn sync_name(kind: SyncKind) -> &'static str {
    match kind {
        SyncKind::Event => "wait for event",
        SyncKind::StreamWait => "stream waits for event",
        SyncKind::Stream => "wait for stream",
        SyncKind::Context => "wait for context",
        SyncKind::Other => "wait",
    }
}

fn overhead_name(kind: OverheadKind) -> &'static str {
    match kind {
        OverheadKind::DriverCompiler => "compile device code",
        OverheadKind::BufferFlush => "flush activity buffers",
        OverheadKind::Instrumentation => "instrument device code",
        OverheadKind::Resource => "make or destroy resources",
        OverheadKind::ModuleLoading => "load a module",
        OverheadKind::LazyLoading => "load a function at first use",
        OverheadKind::CommandBufferFull => "wait: command buffer full",
        OverheadKind::BufferRequest => "ask for an activity buffer",
        OverheadKind::UvmInit => "set up unified-memory tracing",
        OverheadKind::Other => "overhead",
    }
}

fn call_name(call: &ApiCall) -> &'static str {
    let known = match call.is_runtime {
        true => cupti_sys::runtime_cbid::name(call.cbid),
        false => cupti_sys::cbid::name(call.cbid),
    };
    known.unwrap_or("(other call)")
}

fn drop_name(reason: DropReason) -> String {
    // The serialized name, so that traces and reports use the same words.
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{reason:?}"),
    }
}

#[cfg(test)]
mod tests;
