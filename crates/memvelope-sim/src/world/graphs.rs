//! Graphs, what they are instantiated into, and streams that are captured into them.
//!
//! A node is a piece of work with the nodes it comes after. When a graph runs, each node begins
//! when those before it have ended, without contention. The nodes' order of making is an order
//! in which they can run, because a node can only name nodes that exist.

use crate::abi::{Code, Done};
use crate::cupti::layout::{Record, graph_trace};
use crate::cupti::pending;
use crate::driver::work::{NodeIds, Origin, Work};
use crate::thread;
use crate::world::graph_memory::Step;
use crate::world::timeline::{LEGACY, NON_BLOCKING, Slot};
use crate::world::{Tag, World};
use std::collections::HashMap;

/// `CU_STREAM_CAPTURE_MODE_…`.
pub(crate) const GLOBAL: u32 = 0;
pub(crate) const RELAXED: u32 = 2;

/// A node of a graph.
#[derive(Clone, Debug)]
struct Node {
    handle: u64,
    work: Work,
    /// Nodes that it waits for, by index.
    after: Vec<usize>,
}

/// A graph that is being made.
#[derive(Debug, Default)]
struct Graph {
    /// CUPTI's id of it.
    id: u32,
    nodes: Vec<Node>,
}

/// A graph that can run.
#[derive(Debug)]
struct Executable {
    /// What its memory nodes do, in order.
    steps: Vec<Step>,
    /// Whether a launch first frees what an earlier one left
    /// (`CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`).
    auto_free: bool,
    /// CUPTI's id of it, and that of the graph it was made from.
    id: u32,
    source: u32,
    /// Whether CUPTI sees it as a whole, whatever is turned on or off later.
    is_whole: bool,
    nodes: Vec<Node>,
}

/// What memory nodes among these do, in order.
fn steps(nodes: &[Node]) -> Vec<Step> {
    let step = |node: &Node| match node.work {
        Work::Memory(step) => Some(step),
        _ => None,
    };
    nodes.iter().filter_map(step).collect()
}

/// A stream that is captured.
#[derive(Clone, Debug)]
struct Capture {
    graph: u64,
    /// Whether the graph was made for it, and goes with it when it fails.
    is_own: bool,
    /// Whether the capture began here; other streams were drawn in by an event.
    is_origin: bool,
    thread: u64,
    mode: u32,
    /// The nodes that the next one waits for.
    last: Vec<usize>,
    /// Whether it has work that the origin has not waited for.
    is_unjoined: bool,
    is_invalid: bool,
}

/// An event recorded during a capture.
#[derive(Clone, Debug)]
struct CapturedEvent {
    graph: u64,
    stream: u64,
    after: Vec<usize>,
}

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    graphs: HashMap<u64, Graph>,
    executables: HashMap<u64, Executable>,
    captures: HashMap<u64, Capture>,
    events: HashMap<u64, CapturedEvent>,
    ids: u32,
}

impl Graphs {
    fn id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    /// Whether a stream is captured.
    pub(crate) fn is_captured(&self, stream: u64) -> bool {
        self.captures.contains_key(&stream)
    }

    /// `CUstreamCaptureStatus` of a stream.
    pub(crate) fn status(&self, stream: u64) -> u32 {
        self.captures.get(&stream).map_or(0, |capture| 1 + u32::from(capture.is_invalid))
    }

    fn invalidate(&mut self, graph: u64) {
        for capture in self.captures.values_mut().filter(|capture| capture.graph == graph) {
            capture.is_invalid = true;
        }
    }

    /// Ends every stream's part in the capture of `graph`.
    fn end(&mut self, graph: u64) {
        self.captures.retain(|_, capture| capture.graph != graph);
        self.events.retain(|_, event| event.graph != graph);
    }

    /// Forgets what belongs to streams and events that are gone.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self.captures.keys().copied().filter(|at| is_gone(*at)).collect();
        for stream in gone {
            if let Some(capture) = self.captures.remove(&stream) {
                self.invalidate(capture.graph);
            }
        }
        self.events.retain(|event, _| !is_gone(*event));
    }

    /// Refuses to ask about an event that only a capture will ever reach.
    pub(crate) fn refuse_captured_event(&mut self, event: u64) -> Done {
        let Some(graph) = self.events.get(&event).map(|event| event.graph) else { return Ok(()) };
        self.invalidate(graph);
        Err(Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses to wait for, or ask about, a stream that is captured.
    pub(crate) fn refuse_captured(&mut self, stream: u64) -> Done {
        let Some(graph) = self.captures.get(&stream).map(|capture| capture.graph) else {
            return Ok(());
        };
        self.invalidate(graph);
        Err(Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses a call that might disturb a capture, where the thread's mode has it so.
    pub(crate) fn refuse_unsafe(&mut self) -> Done {
        let (mode, thread) = (thread::capture_mode(), thread::number());
        if self.captures.is_empty() || mode == RELAXED {
            return Ok(());
        }
        let minds = |capture: &&Capture| {
            let is_own = capture.thread == thread && capture.mode != RELAXED;
            is_own || (mode == GLOBAL && capture.mode == GLOBAL)
        };
        let Some(graph) = self.captures.values().find(minds).map(|capture| capture.graph) else {
            return Ok(());
        };
        self.invalidate(graph);
        Err(Code::STREAM_CAPTURE_UNSUPPORTED)
    }
}

impl World {
    pub(crate) fn make_graph(&mut self) -> u64 {
        let handle = self.handle(Tag::Graph);
        let id = self.graphs.id();
        self.graphs.graphs.insert(handle, Graph { id, nodes: Vec::new() });
        self.books.graphs.created += 1;
        handle
    }

    pub(crate) fn destroy_graph(&mut self, handle: u64) -> Done {
        let graph = self.graphs.graphs.remove(&handle).ok_or(Code::INVALID_VALUE)?;
        self.drop_graph_memory(&steps(&graph.nodes));
        Ok(())
    }

    /// Whether `handle` is a graph.
    pub(crate) fn graph(&self, handle: u64) -> Done {
        self.graphs.graphs.get(&handle).map(|_| ()).ok_or(Code::INVALID_VALUE)
    }

    /// The graph that a stream is captured into.
    pub(crate) fn captured_into(&self, stream: u64) -> Done<u64> {
        let capture = self.graphs.captures.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        if capture.is_invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        Ok(capture.graph)
    }

    /// Adds a node that waits for the nodes `after`, by handle.
    pub(crate) fn add_node(&mut self, graph: u64, after: &[u64], work: Work) -> Done<u64> {
        let handle = self.handle(Tag::Node);
        let graph = self.graphs.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
        let index_of = |handle: &u64| graph.nodes.iter().position(|node| node.handle == *handle);
        let after: Option<Vec<usize>> = after.iter().map(index_of).collect();
        let after = after.ok_or(Code::INVALID_VALUE)?;
        graph.nodes.push(Node { handle, work, after });
        Ok(handle)
    }

    /// Whether these are nodes of the graph.
    pub(crate) fn nodes_known(&self, graph: u64, nodes: &[u64]) -> Done {
        let graph = self.graphs.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let is_known = |handle: &u64| graph.nodes.iter().any(|node| node.handle == *handle);
        if nodes.iter().all(is_known) { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    /// Adds work of a captured stream as a node.
    pub(crate) fn add_captured(&mut self, stream: u64, work: Work) -> Done {
        let handle = self.handle(Tag::Node);
        let tables = &mut self.graphs;
        let capture = tables.captures.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
        let graph = tables.graphs.get_mut(&capture.graph).ok_or(Code::INVALID_VALUE)?;
        if capture.is_invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        let after = std::mem::replace(&mut capture.last, vec![graph.nodes.len()]);
        capture.is_unjoined = !capture.is_origin;
        graph.nodes.push(Node { handle, work, after });
        Ok(())
    }

    /// Refuses work on a legacy default stream that would wait for a stream being captured.
    pub(crate) fn refuse_implicit_capture(&mut self, stream: u64) -> Done {
        if self.graphs.captures.is_empty() {
            return Ok(());
        }
        let Some(legacy) = self.streams.get(&stream).filter(|at| at.flags & LEGACY != 0) else {
            return Ok(());
        };
        let context = legacy.context;
        let waits_for = |handle: &u64| {
            let stream = self.streams.get(handle);
            stream.is_some_and(|at| at.context == context && at.flags & NON_BLOCKING == 0)
        };
        let mut captures = self.graphs.captures.iter();
        let found = captures.find(|(handle, _)| waits_for(handle));
        let Some(graph) = found.map(|(_, capture)| capture.graph) else { return Ok(()) };
        self.graphs.invalidate(graph);
        Err(Code::STREAM_CAPTURE_IMPLICIT)
    }

    /// Refuses to wait for a context while one of its streams is captured.
    pub(crate) fn refuse_captured_context(&mut self, context: u64) -> Done {
        let of_context =
            |handle: &u64| self.streams.get(handle).is_some_and(|stream| stream.context == context);
        let captured = self.graphs.captures.keys().copied().find(|handle| of_context(handle));
        captured.map_or(Ok(()), |stream| self.graphs.refuse_captured(stream))
    }

    /// Begins a capture into a graph that is there already, after some of its nodes.
    pub(crate) fn begin_capture_to(
        &mut self,
        stream: u64,
        graph: u64,
        after: &[u64],
        mode: u32,
    ) -> Done {
        self.nodes_known(graph, after)?;
        if self.graphs.captures.values().any(|capture| capture.graph == graph) {
            return Err(Code::INVALID_VALUE);
        }
        let nodes = &self.graphs.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?.nodes;
        let index_of = |handle: &u64| nodes.iter().position(|node| node.handle == *handle);
        let last = after.iter().filter_map(index_of).collect();
        self.capture_into(stream, mode, Some((graph, last)))
    }

    pub(crate) fn begin_capture(&mut self, stream: u64, mode: u32) -> Done {
        self.capture_into(stream, mode, None)
    }

    fn capture_into(&mut self, stream: u64, mode: u32, into: Option<(u64, Vec<usize>)>) -> Done {
        let (handle, stream) = self.stream(stream)?;
        if mode > RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        if stream.flags & LEGACY != 0 {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        if self.graphs.is_captured(handle) {
            return Err(Code::ILLEGAL_STATE);
        }
        let is_own = into.is_none();
        let (graph, last) = into.unwrap_or_else(|| (self.make_graph(), Vec::new()));
        let capture = Capture {
            graph,
            is_own,
            is_origin: true,
            thread: thread::number(),
            mode,
            last,
            is_unjoined: false,
            is_invalid: false,
        };
        self.graphs.captures.insert(handle, capture);
        Ok(())
    }

    /// Ends a capture; the graph is the caller's.
    pub(crate) fn end_capture(&mut self, stream: u64) -> Done<u64> {
        let handle = self.stream_handle(stream)?;
        let capture = self.graphs.captures.get(&handle).ok_or(Code::ILLEGAL_STATE)?;
        let graph = capture.graph;
        if !capture.is_origin {
            return Err(Code::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != thread::number() {
            return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
        }
        let (is_invalid, is_own) = (capture.is_invalid, capture.is_own);
        let mut parts = self.graphs.captures.values().filter(|part| part.graph == graph);
        let is_unjoined = parts.any(|part| part.is_unjoined);
        self.graphs.end(graph);
        let wrong = match (is_invalid, is_unjoined) {
            (true, _) => Code::STREAM_CAPTURE_INVALIDATED,
            (_, true) => Code::STREAM_CAPTURE_UNJOINED,
            _ => {
                self.books.graphs.captured += 1;
                return Ok(graph);
            }
        };
        if is_own {
            self.destroy_graph(graph)?;
        }
        Err(wrong)
    }

    /// Records an event on a stream; `true` when the stream is captured, and the event with it.
    pub(crate) fn capture_event(&mut self, event: u64, stream: u64) -> bool {
        self.graphs.events.remove(&event);
        let Some(capture) = self.graphs.captures.get(&stream) else { return false };
        let captured = CapturedEvent { graph: capture.graph, stream, after: capture.last.clone() };
        self.graphs.events.insert(event, captured);
        true
    }

    /// Makes a stream wait for an event inside a capture, which draws the stream in; `false` when
    /// neither is captured.
    pub(crate) fn wait_captured(&mut self, stream: u64, event: u64) -> Done<bool> {
        let was_recorded = self.events.get(&event).is_some_and(|event| event.time.is_some());
        let tables = &mut self.graphs;
        let Some(event) = tables.events.get(&event).cloned() else {
            let Some(capture) = tables.captures.get(&stream) else { return Ok(false) };
            if !was_recorded {
                return Ok(true);
            }
            let graph = capture.graph;
            tables.invalidate(graph);
            return Err(Code::STREAM_CAPTURE_ISOLATION);
        };
        if let Some(source) = tables.captures.get_mut(&event.stream)
            && source.last == event.after
            && event.stream != stream
        {
            source.is_unjoined = false;
        }
        match tables.captures.get_mut(&stream) {
            Some(capture) if capture.graph != event.graph => Err(Code::STREAM_CAPTURE_MERGE),
            Some(capture) => {
                capture.last.extend(event.after);
                capture.last.sort_unstable();
                capture.last.dedup();
                capture.is_unjoined = !capture.is_origin;
                Ok(true)
            }
            None => {
                let source = tables.captures.get(&event.stream).ok_or(Code::INVALID_VALUE)?;
                let part = Capture {
                    is_origin: false,
                    last: event.after,
                    is_unjoined: true,
                    ..source.clone()
                };
                tables.captures.insert(stream, part);
                Ok(true)
            }
        }
    }

    /// Makes a graph that can run. Whether CUPTI sees it as a whole is decided here, for good. Of a
    /// graph with memory nodes there can be but one.
    pub(crate) fn instantiate(&mut self, graph: u64, auto_free: bool) -> Done<u64> {
        let handle = self.handle(Tag::Executable);
        let id = self.graphs.id();
        let graph = self.graphs.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let steps = steps(&graph.nodes);
        let mut executables = self.graphs.executables.values();
        if !steps.is_empty() && executables.any(|other| other.source == graph.id) {
            return Err(Code::NOT_SUPPORTED);
        }
        let executable = Executable {
            steps: steps.clone(),
            auto_free,
            id,
            source: graph.id,
            is_whole: pending::traces_graphs(),
            nodes: graph.nodes.clone(),
        };
        self.graphs.executables.insert(handle, executable);
        self.hold_graph_memory(&steps);
        self.books.graphs.instantiated += 1;
        Ok(handle)
    }

    pub(crate) fn destroy_executable(&mut self, handle: u64) -> Done {
        let executable = self.graphs.executables.remove(&handle).ok_or(Code::INVALID_VALUE)?;
        self.drop_graph_memory(&executable.steps);
        Ok(())
    }

    /// Takes the memory that a launch will need, before there is one.
    pub(crate) fn upload_graph(&mut self, handle: u64) -> Done {
        let executable = self.graphs.executables.get(&handle).ok_or(Code::INVALID_VALUE)?;
        let (steps, auto_free) = (executable.steps.clone(), executable.auto_free);
        self.prepare_graph_memory(&steps, auto_free)
    }

    /// Whether `handle` is a graph that can run.
    pub(crate) fn executable(&self, handle: u64) -> Done {
        self.graphs.executables.get(&handle).map(|_| ()).ok_or(Code::INVALID_VALUE)
    }

    /// Runs a graph on a stream, as one piece of work.
    pub(crate) fn launch_graph(&mut self, handle: u64, stream: u64, correlation: u32) -> Done {
        let stream = self.stream_handle(stream)?;
        self.executable(handle)?;
        if self.graphs.is_captured(stream) {
            // A child graph node, which is not simulated.
            return Err(Code::NOT_SUPPORTED);
        }
        self.refuse_implicit_capture(stream)?;
        // Taken out for the while, because its work needs the machine.
        let executable = self.graphs.executables.remove(&handle).ok_or(Code::INVALID_VALUE)?;
        let done = self.run(&executable, stream, correlation);
        self.graphs.executables.insert(handle, executable);
        done
    }

    fn run(&mut self, executable: &Executable, stream: u64, correlation: u32) -> Done {
        self.prepare_graph_memory(&executable.steps, executable.auto_free)?;
        let mut spans: Vec<(u64, u64)> = Vec::with_capacity(executable.nodes.len());
        for (index, node) in executable.nodes.iter().enumerate() {
            if let Err(code) = node.work.take_effect(self) {
                for step in steps(&executable.nodes[..index]).into_iter().rev() {
                    self.undo_graph_step(step);
                }
                return Err(code);
            }
            let start = node.after.iter().map(|before| spans[*before].1).max().unwrap_or(0);
            spans.push((start, start.saturating_add(node.work.duration(self))));
        }
        let whole_ns = spans.iter().map(|(_, end)| *end).max().unwrap_or(0);
        let priority = self.stream(stream)?.1.priority;
        let slot = self.enqueue(stream, whole_ns)?;
        self.books.graphs.launches += 1;
        self.books.graphs.nodes += executable.nodes.len() as u64;
        if executable.is_whole {
            self.books.graphs.launches_as_a_whole += 1;
            self.trace_graph(executable.id, &slot, correlation);
        }
        for ((node, (start, end)), number) in executable.nodes.iter().zip(&spans).zip(1_u64..) {
            node.work.count(self, end - start);
            if executable.is_whole {
                continue;
            }
            let ids = NodeIds {
                graph: executable.id,
                node: (u64::from(executable.id) << 32) | number,
                source_graph: executable.source,
                source_node: (u64::from(executable.source) << 32) | number,
            };
            let place = Slot { start: slot.start + start, end: slot.start + end, ..slot };
            let origin = Origin { correlation, is_async: true, priority, ids };
            node.work.record(self, &place, &origin);
        }
        Ok(())
    }

    fn trace_graph(&mut self, id: u32, slot: &Slot, correlation: u32) {
        if !pending::is_on(graph_trace::LAYOUT.kind) {
            return;
        }
        let (device, context) = (slot.device as u64, u64::from(slot.context_uid));
        let record = Record::new(&graph_trace::LAYOUT, self.activity.version)
            .with(graph_trace::CORRELATION, correlation.into())
            .with(graph_trace::START, self.activity.stamp(slot.start))
            .with(graph_trace::END, self.activity.stamp(slot.end))
            .with(graph_trace::DEVICE, device)
            .with(graph_trace::GRAPH, id.into())
            .with(graph_trace::CONTEXT, context)
            .with(graph_trace::STREAM, u64::from(slot.stream))
            .with(graph_trace::END_DEVICE, device)
            .with(graph_trace::END_CONTEXT, context);
        self.push_gpu_record(slot, record);
    }
}
