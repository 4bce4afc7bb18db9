//! Chrome trace JSON (opens in Perfetto), streamed event by event.
//!
//! Rows: process 1 is the host (named spans by thread, waits by stream), process 100 + d is device
//! d (kernels, copies and memsets by stream, VRAM as a counter). Times are microseconds with three
//! decimals since the first event, because a reader that keeps them as doubles would lose
//! nanoseconds of the epoch; the origin stands in `otherData.clock_origin_ns`.

use crate::event::{
    Body, DeviceIndex, Direction, DropReason, Event, NameId, Names, Scopes, SyncKind,
};
use crate::units::{Bytes, Nanos};
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

/// Process number of the host's rows.
const HOST_PID: u64 = 1;
/// Process number of device 0's rows.
const DEVICE_PID: u64 = 100;
/// First row of waits, above any thread number of ours.
const WAIT_TID: u64 = 1 << 32;
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
    names: &'a Names,
    /// Trace ids of scopes.
    scopes: &'a Scopes,
    /// Escaped names by id: most events share few names.
    escaped: HashMap<NameId, Box<[u8]>>,
    waits: HashMap<(u32, u32), u64>,
    rows: HashSet<(u64, u64)>,
    line: Vec<u8>,
    events: u64,
    left_out: u64,
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
            names,
            scopes,
            escaped: HashMap::new(),
            waits: HashMap::new(),
            rows: HashSet::new(),
            line: Vec::with_capacity(1024),
            events: 0,
            left_out: 0,
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
                self.stream_row(kernel.device, kernel.stream)?;
                let pid = device_pid(kernel.device);
                self.begin_named(kernel.name, "kernel");
                self.put_place(pid, u64::from(kernel.stream), kernel.start, kernel.end);
                self.put_dimensions(",\"args\":{\"grid\":[", kernel.grid);
                self.put_dimensions("],\"block\":[", kernel.block);
                self.end_args("],\"correlation\":", u64::from(kernel.correlation));
            }
            Body::Copy(copy) => {
                self.stream_row(copy.device, copy.stream)?;
                self.begin(copy_name(copy.direction), "copy");
                let pid = device_pid(copy.device);
                self.put_place(pid, u64::from(copy.stream), copy.start, copy.end);
                self.end_args(",\"args\":{\"bytes\":", copy.bytes.0);
            }
            Body::Memset(memset) => {
                self.stream_row(memset.device, memset.stream)?;
                self.begin("memset", "memset");
                let pid = device_pid(memset.device);
                self.put_place(pid, u64::from(memset.stream), memset.start, memset.end);
                self.end_args(",\"args\":{\"bytes\":", memset.bytes.0);
            }
            Body::Sync(sync) => {
                let tid = self.wait_row(sync.context, sync.stream)?;
                self.begin(sync_name(sync.kind), "sync");
                self.put_place(HOST_PID, tid, sync.start, sync.end);
                self.end_args(",\"args\":{\"correlation\":", u64::from(sync.correlation));
            }
            Body::Span(span) => {
                let tid = u64::from(span.thread);
                self.row(HOST_PID, tid, || format!("thread {tid}"))?;
                self.begin_named(span.name, "span");
                self.put_place(HOST_PID, tid, span.start, span.end);
                self.line.push(b'}');
            }
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
            | Body::Pool { .. }
            | Body::DeviceMemory { .. }
            | Body::DeviceUse { .. }
            | Body::HostMemory { .. }
            | Body::Dropped { .. } => return Ok(()),
        }
        self.put_line(true)
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
        let dropped: serde_json::Map<_, _> = meta
            .dropped
            .iter()
            .map(|(reason, count)| (drop_name(*reason), serde_json::Value::from(*count)))
            .collect();
        self.line.extend_from_slice(b",\"dropped\":");
        serde_json::to_writer(&mut self.line, &dropped)?;
        self.line.extend_from_slice(b"}}\n");
        self.out.put(&self.line)?;
        Ok(Written { events: self.events, left_out: self.left_out, bytes: self.out.bytes })
    }

    /// Names a device's stream row, once.
    fn stream_row(&mut self, device: DeviceIndex, stream: u32) -> io::Result<()> {
        self.row(device_pid(device), u64::from(stream), || format!("stream {stream}"))
    }

    /// The row of the waits on a stream of a context.
    fn wait_row(&mut self, context: u32, stream: u32) -> io::Result<u64> {
        let next = WAIT_TID + self.waits.len() as u64;
        let tid = *self.waits.entry((context, stream)).or_insert(next);
        self.row(HOST_PID, tid, || format!("waits: context {context} stream {stream}"))?;
        Ok(tid)
    }

    fn row(&mut self, pid: u64, tid: u64, name: impl FnOnce() -> String) -> io::Result<()> {
        if self.rows.insert((pid, tid)) {
            return self.metadata("thread_name", pid, Some(tid), &name());
        }
        Ok(())
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
        let names = self.names;
        let escaped = self.escaped.entry(name).or_insert_with(|| {
            let mut text = Vec::new();
            put_escaped(&mut text, &names.text(name));
            text.into()
        });
        self.line.extend_from_slice(escaped);
        self.put_category(category);
    }

    fn put_category(&mut self, category: &str) {
        self.line.extend_from_slice(b"\",\"cat\":\"");
        self.line.extend_from_slice(category.as_bytes());
        self.line.push(b'"');
    }

    fn put_place(&mut self, pid: u64, tid: u64, start: Nanos, end: Nanos) {
        self.line.extend_from_slice(b",\"pid\":");
        put_number(&mut self.line, pid);
        self.line.extend_from_slice(b",\"tid\":");
        put_number(&mut self.line, tid);
        self.line.extend_from_slice(b",\"ts\":");
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

    fn end_args(&mut self, key: &str, value: u64) {
        self.line.extend_from_slice(key.as_bytes());
        put_number(&mut self.line, value);
        self.line.extend_from_slice(b"}}");
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

fn device_pid(device: DeviceIndex) -> u64 {
    DEVICE_PID + u64::from(device.0)
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

fn drop_name(reason: DropReason) -> String {
    // The serialized name, so that traces and reports use the same words.
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{reason:?}"),
    }
}

fn put_number(line: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

fn put_micros(line: &mut Vec<u8>, time: Nanos) {
    put_number(line, time.0 / 1000);
    let rest = (time.0 % 1000) as u16;
    if rest > 0 {
        let digit = |n: u16| b'0' + (n % 10) as u8;
        line.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    }
}

fn put_escaped(line: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            0..0x20 => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                line.extend_from_slice(b"\\u00");
                line.push(HEX[usize::from(byte >> 4)]);
                line.push(HEX[usize::from(byte & 15)]);
            }
            _ => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Kernel, ScopeId, SeenBy, Span, SpanOrigin, Sync};
    use serde_json::Value;

    fn kernel(name: NameId, start: u64) -> Event {
        let body = Body::Kernel(Kernel {
            graph: 0,
            graph_node: 0,
            scope: ScopeId::NONE,
            device: DeviceIndex(1),
            context: 1,
            stream: 7,
            name,
            correlation: 42,
            start: Nanos(start),
            end: Nanos(start + 1500),
            grid: [4, 2, 1],
            block: [128, 1, 1],
        });
        Event { time: Nanos(start + 1500), seen_by: SeenBy::Activity, body }
    }

    fn write(names: &Names, events: &[Event], bytes_max: u64) -> (Value, Written) {
        let mut out = Vec::new();
        let scopes = Scopes::new(1);
        let mut writer =
            TraceWriter::new(&mut out, names, &scopes, Nanos(1000), true, bytes_max).unwrap();
        writer.device(DeviceIndex(1), "Sim \"A\"").unwrap();
        writer.vram(Nanos(2000), DeviceIndex(1), Bytes(100), Bytes(30)).unwrap();
        for event in events {
            writer.event(event).unwrap();
        }
        let dropped = vec![(DropReason::TraceSampled, 3)];
        let meta = TraceMeta { events_seen: 9, window_stride: 2, window_ns: Nanos(5), dropped };
        let written = writer.finish(&meta).unwrap();
        assert_eq!(written.bytes, out.len() as u64);
        assert!(written.bytes <= bytes_max);
        (serde_json::from_slice(&out).unwrap(), written)
    }

    #[test]
    fn a_trace_is_json_that_says_where_and_when() {
        let names = Names::new(8, 64);
        let odd = names.intern("a\"b\\c\n\u{1}ü");
        let sync = Body::Sync(Sync {
            kind: SyncKind::Stream,
            context: 1,
            stream: 7,
            correlation: 5,
            start: Nanos(1001),
            end: Nanos(3000),
        });
        let span = Span {
            name: odd,
            origin: SpanOrigin::Program,
            scope: ScopeId::NONE,
            thread: 2,
            start: Nanos(1000),
            end: Nanos(9000),
        };
        let other = |body| Event { time: Nanos(0), seen_by: SeenBy::Host, body };
        let (trace, written) = write(
            &names,
            &[kernel(odd, 2007), kernel(odd, 4000), other(sync), other(Body::Span(span))],
            1 << 20,
        );
        let events = trace["traceEvents"].as_array().unwrap();
        let find = |ph: &str, cat: &str| {
            events.iter().find(|e| e["ph"] == ph && (cat.is_empty() || e["cat"] == cat)).unwrap()
        };
        let first = find("X", "kernel");
        assert_eq!(first["name"], "a\"b\\c\n\u{1}ü");
        assert_eq!((first["ts"].as_f64(), first["dur"].as_f64()), (Some(1.007), Some(1.5)));
        assert_eq!(first["pid"], 101);
        assert_eq!(first["args"]["grid"], serde_json::json!([4, 2, 1]));
        assert_eq!(find("X", "sync")["ts"].as_f64(), Some(0.001));
        assert_eq!(find("X", "span")["dur"], 8);
        assert_eq!(find("C", "")["args"], serde_json::json!({"kv_cache": 30, "other": 70}));
        let names: Vec<_> = events
            .iter()
            .filter(|e| e["name"] == "process_name")
            .map(|e| e["args"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["host (SIMULATED)", "GPU 1: Sim \"A\" (SIMULATED)"]);
        assert_eq!((written.events, written.left_out), (5, 0));
        let other = &trace["otherData"];
        assert_eq!(other["simulated"], true);
        assert_eq!(other["window_stride"], 2);
        assert_eq!(other["dropped"]["trace_sampled"], 3);
        assert_eq!(other["clock_origin_ns"], 1000);
    }

    #[test]
    fn a_full_trace_is_closed_and_counts_the_rest() {
        let names = Names::new(8, 64);
        let id = names.intern("k");
        let events: Vec<_> = (0..1000).map(|i| kernel(id, 2000 * i)).collect();
        let (trace, written) = write(&names, &events, 20_000);
        assert!(written.bytes > 17_000, "{written:?}");
        assert_eq!(written.events + written.left_out, 1001);
        assert_eq!(trace["otherData"]["events_left_out"], written.left_out);
        assert!(
            TraceWriter::new(&mut Vec::new(), &names, &Scopes::new(1), Nanos(0), false, 10)
                .is_err()
        );
    }

    #[test]
    fn the_tail_fits_at_its_longest() {
        let names = Names::new(1, 8);
        let mut out = Vec::new();
        let scopes = Scopes::new(1);
        let writer =
            TraceWriter::new(&mut out, &names, &scopes, Nanos::MAX, true, 1 << 20).unwrap();
        let before = writer.out.bytes;
        let dropped = DropReason::ALL.map(|reason| (reason, u64::MAX)).to_vec();
        let meta = TraceMeta {
            events_seen: u64::MAX,
            window_stride: u64::MAX,
            window_ns: Nanos::MAX,
            dropped,
        };
        let written = writer.finish(&meta).unwrap();
        assert!(written.bytes - before <= TAIL_BYTES_MAX);
    }
}
