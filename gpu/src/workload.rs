//! Work for the GPU, timed by the host. Under an injected recorder a workload does not know that it
//! is recorded; with `--record` it records itself.

use crate::Run;
use crate::options::Options;
use anyhow::{Context as _, Result, bail};
use gpu_lane_collector::cuda::{Arg, Cuda, Gpu, Handle};
use memvelope::config::Config;
use memvelope::runtime::Session;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Every workload by name.
pub(crate) const ALL: &[(&str, Run)] =
    &[("launch", launch), ("memory", memory), ("churn", churn), ("graph", graph)];

/// How long a session may take to decode what is left.
const FLUSH: Duration = Duration::from_secs(30);

/// Kernels in the graph: what one layer of a decoder launches, about.
const GRAPH_KERNELS: u64 = 30;

/// Bytes that one block of the streaming kernels moves (`cuda/README.md`).
const BLOCK_BYTES: u64 = 64 << 10;

/// What a workload works with, and what records it.
struct Bench {
    gpu: Gpu,
    stream: Handle,
    session: Option<Session>,
    /// What a session recorded that was stopped before the work.
    stopped: Option<Value>,
    cuinit_ns: u64,
}

impl Bench {
    /// Opens the device as `--record` says:
    /// * `none`: nothing of ours is started (an injected recorder may be there all the same);
    /// * `session`: a session from before the context to after the work;
    /// * `stopped`: a session that recorded something and was stopped before the work, so that
    ///   CUPTI is in the process with everything switched off.
    fn open(options: &Options) -> Result<Self> {
        let cuda = Cuda::open()?;
        let begin = Instant::now();
        cuda.start()?;
        let cuinit_ns = nanos(begin);
        let session = match options.text("record").unwrap_or("none") {
            "none" => None,
            "session" | "stopped" => Some(Session::start(&Config::from_env().0)?),
            other => bail!("--record {other}: expected none, session or stopped"),
        };
        let gpu = Gpu::primary(cuda)?;
        let stream = gpu.stream()?;
        let mut bench = Self { gpu, stream, session, stopped: None, cuinit_ns };
        if options.text("record") == Some("stopped") {
            let kernel = bench.kernel(options, "launch_storm.ptx", "launch_empty")?;
            for _ in 0..100 {
                gpu.launch(kernel, 1, stream, &[])?;
            }
            gpu.wait(stream)?;
            let session = bench.session.take().context("there is a session")?;
            session.stop(FLUSH)?;
            bench.stopped = Some(serde_json::to_value(session.self_cost())?);
        }
        Ok(bench)
    }

    fn kernel(&self, options: &Options, file: &str, name: &str) -> Result<Handle> {
        self.gpu.kernel(&options.ptx(file)?, name)
    }

    /// Times `batches` calls of `batch`, each until the stream is empty; one more goes before.
    fn timed(&self, batches: u64, mut batch: impl FnMut() -> Result<()>) -> Result<Timed> {
        batch()?;
        self.gpu.wait(self.stream)?;
        let capacity = usize::try_from(batches)?;
        let mut ns = Vec::with_capacity(capacity);
        let begin = Instant::now();
        for _ in 0..batches {
            let begin = Instant::now();
            batch()?;
            self.gpu.wait(self.stream)?;
            ns.push(nanos(begin));
        }
        let total_ns = nanos(begin);
        ns.sort_unstable();
        Ok(Timed { ns, total_ns })
    }

    /// What was found, with what recorded it.
    fn close(self, mut found: Value) -> Result<Value> {
        found["gpu"] = self.gpu.name()?.into();
        found["simulated"] = self.gpu.cuda().is_simulated.into();
        found["cuinit_ns"] = self.cuinit_ns.into();
        if let Some(stopped) = self.stopped {
            found["stopped_session"] = stopped;
        }
        if let Some(session) = self.session {
            // What was dropped is part of the result; a flush that takes too long is too.
            let flushed = session.stop(FLUSH);
            found["flush"] = flushed.map_or_else(|e| e.to_string(), |_| "ok".into()).into();
            found["self"] = serde_json::to_value(session.self_cost())?;
            found["mode"] = serde_json::to_value(session.mode())?;
        }
        Ok(found)
    }
}

/// Nanoseconds of every batch, ascending.
struct Timed {
    ns: Vec<u64>,
    total_ns: u64,
}

impl Timed {
    fn at(&self, per_mille: usize) -> u64 {
        let last = self.ns.len().saturating_sub(1);
        self.ns.get(last * per_mille / 1000).copied().unwrap_or(0)
    }

    fn json(&self, items_per_batch: u64) -> Value {
        let items = items_per_batch * self.ns.len() as u64;
        let each = |ns: u64| ns as f64 / items_per_batch.max(1) as f64;
        json!({
            "items": items,
            "total_ns": self.total_ns,
            "ns_per_item": each(self.at(500)),
            "ns_per_item_mean": self.total_ns as f64 / items.max(1) as f64,
            "ns_per_item_p01": each(self.at(10)),
            "ns_per_item_p99": each(self.at(990)),
        })
    }
}

fn nanos(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Launches of no work: an item is a launch.
fn launch(options: &Options) -> Result<Value> {
    let (count, batch) = (options.number("count", 1_000_000)?, options.number("batch", 1000)?);
    let bench = Bench::open(options)?;
    let kernel = bench.kernel(options, "launch_storm.ptx", "launch_empty")?;
    let (gpu, stream) = (bench.gpu, bench.stream);
    let timed = bench.timed(count / batch.max(1), || {
        (0..batch).try_for_each(|_| gpu.launch(kernel, 1, stream, &[]))
    })?;
    bench.close(timed.json(batch))
}

/// Copies in three directions and a streaming kernel: an item is one of each.
fn memory(options: &Options) -> Result<Value> {
    let (rounds, bytes) = (options.number("count", 100)?, options.number("bytes", 256 << 20)?);
    let bench = Bench::open(options)?;
    let (gpu, stream) = (bench.gpu, bench.stream);
    let kernel = bench.kernel(options, "memory_stream.ptx", "stream_copy")?;
    let size = usize::try_from(bytes)?;
    let (host, a, b) = (gpu.pinned(size)?, gpu.alloc(size)?, gpu.alloc(size)?);
    let blocks = u32::try_from(bytes.div_ceil(BLOCK_BYTES))?;
    let htod = bench.timed(rounds, || gpu.send(a, host, stream))?;
    let dtoh = bench.timed(rounds, || gpu.fetch(host, a, stream))?;
    let dtod = bench.timed(rounds, || gpu.copy(b, a, size, stream))?;
    let args = [Arg::Wide(a), Arg::Wide(b), Arg::Wide(bytes)];
    let stream_copy = bench.timed(rounds, || gpu.launch(kernel, blocks, stream, &args))?;
    let parts =
        [("htod", 1, htod), ("dtoh", 1, dtoh), ("dtod", 2, dtod), ("kernel", 2, stream_copy)];
    let mut found = json!({ "items": rounds, "bytes": bytes });
    for (name, moves, timed) in &parts {
        let mut part = timed.json(1);
        // Bytes a nanosecond are GB/s. Within the device each byte is read and written.
        part["gb_per_s"] = ((bytes * moves) as f64 / timed.at(500).max(1) as f64).into();
        found[name] = part;
    }
    let sum = |per_mille| parts.iter().map(|(_, _, timed)| timed.at(per_mille)).sum::<u64>();
    found["ns_per_item"] = sum(500).into();
    found["total_ns"] = parts.iter().map(|(_, _, timed)| timed.total_ns).sum::<u64>().into();
    bench.close(found)
}

/// Allocations and releases, by both families: an item is a pair.
fn churn(options: &Options) -> Result<Value> {
    let (count, batch) = (options.number("count", 20_000)?, options.number("batch", 100)?);
    let bench = Bench::open(options)?;
    let (gpu, stream) = (bench.gpu, bench.stream);
    // 64 KiB to 8 MiB, in turn: small ones share a driver block, large ones do not.
    let size = |turn: u64| (64_usize << 10) << (turn % 8);
    let batches = count / batch.max(1);
    let plain = bench.timed(batches, || {
        (0..batch).try_for_each(|turn| gpu.alloc(size(turn)).and_then(|address| gpu.free(address)))
    })?;
    let ordered = bench.timed(batches, || {
        (0..batch).try_for_each(|turn| gpu.alloc_free_async(size(turn), stream))
    })?;
    let mut found =
        json!({ "cuMemAlloc": plain.json(batch), "cuMemAllocAsync": ordered.json(batch) });
    let each = |key: &str| found[key]["ns_per_item"].as_f64().unwrap_or(0.0);
    let ns_per_item = each("cuMemAlloc") + each("cuMemAllocAsync");
    found["ns_per_item"] = ns_per_item.into();
    found["items"] = (2 * batches * batch).into();
    found["total_ns"] = (plain.total_ns + ordered.total_ns).into();
    bench.close(found)
}

/// Launches of a graph of empty kernels: an item is a graph.
fn graph(options: &Options) -> Result<Value> {
    let (count, batch) = (options.number("count", 20_000)?, options.number("batch", 100)?);
    let bench = Bench::open(options)?;
    let (gpu, stream) = (bench.gpu, bench.stream);
    if !gpu.has_graphs() {
        return bench.close(json!({ "skipped": "this driver has no graphs" }));
    }
    let kernel = bench.kernel(options, "launch_storm.ptx", "launch_empty")?;
    let exec = gpu.capture(stream, || {
        (0..GRAPH_KERNELS).try_for_each(|_| gpu.launch(kernel, 1, stream, &[]))
    })?;
    let timed = bench.timed(count / batch.max(1), || {
        (0..batch).try_for_each(|_| gpu.launch_graph(exec, stream))
    })?;
    let mut found = timed.json(batch);
    found["kernels_per_graph"] = GRAPH_KERNELS.into();
    bench.close(found)
}
