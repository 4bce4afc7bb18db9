//! Questions to the CUPTI and the driver at hand, one process each. Nothing here knows the answers; what a reader
//! expects stands in the lane's Python half, beside what was found.

mod attach;
mod correlation;
mod cost;
mod footprint;
mod fragments;
mod graphs;
mod memory;
mod pressure;
mod records;

use crate::Run;
use crate::options::Options;
use anyhow::{Context as _, Result};
use gpu_lane_collector::collector;
use gpu_lane_collector::cuda::{Cuda, Gpu, Handle};
use gpu_lane_collector::cupti::{self, Library};
use serde_json::{Value, json};
use std::time::Instant;

/// Every probe by name.
pub(crate) const ALL: &[(&str, Run)] = &[
    ("attach", attach::attach),
    ("attributes", cost::attributes),
    ("block-ids", memory::block_ids),
    ("clock", cost::clock),
    ("context-size", memory::context_size),
    ("correlation", correlation::correlation),
    ("footprint", footprint::footprint),
    ("fragments", fragments::fragments),
    ("graphs", graphs::graphs),
    ("name-reads", cost::name_reads),
    ("pressure", pressure::pressure),
    ("records", records::records),
    ("rounding", memory::rounding),
];

/// The driver started, and libcupti open beside it. No context yet.
fn start() -> Result<(&'static Cuda, &'static Library)> {
    let cuda = Cuda::open()?;
    cuda.start()?;
    Ok((cuda, cupti::open()?))
}

/// A context with a stream and the empty kernel.
struct Bench {
    gpu: Gpu,
    stream: Handle,
    empty: Handle,
}

impl Bench {
    fn open(cuda: &'static Cuda, options: &Options) -> Result<Self> {
        Self::of(Gpu::primary(cuda)?, options)
    }

    fn of(gpu: Gpu, options: &Options) -> Result<Self> {
        let empty = gpu.kernel(&options.ptx("launch_storm.ptx")?, "launch_empty")?;
        Ok(Self { gpu, stream: gpu.stream()?, empty })
    }

    /// Empty launches, waited for every thousand.
    fn launches(&self, count: u64) -> Result<()> {
        for turn in 1..=count {
            self.gpu.launch(self.empty, 1, self.stream, &[])?;
            if turn % 1000 == 0 {
                self.gpu.wait(self.stream)?;
            }
        }
        self.gpu.wait(self.stream)
    }
}

/// What every answer begins with.
fn head(cuda: &Cuda, library: &Library) -> Value {
    json!({
        "simulated": cuda.is_simulated,
        "driver_api": cuda.version().ok(),
        "cupti_version": library.version().ok(),
        "cupti_path": library.path,
    })
}

/// A result as a value: `ok`, or what went wrong.
fn said(outcome: Result<()>) -> Value {
    outcome.map_or_else(|error| format!("{error:#}"), |()| "ok".into()).into()
}

fn nanos(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Counts of records by kind since the process began.
fn counts() -> Value {
    collector::counts()["records_by_kind"].take()
}

/// Whatever CUPTI still has, and a moment for its own thread to hand it over.
fn settle(library: &Library) -> Result<()> {
    library.flush(true)?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    Ok(())
}

/// `width` little-endian bytes of a record at `offset`; absent where it is shorter.
fn field(record: &[u8], offset: usize, width: usize) -> Option<u64> {
    let bytes = record.get(offset..offset.checked_add(width)?)?;
    let mut wide = [0; 8];
    wide.get_mut(..width)?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(wide))
}

/// The kilobytes of one line of `/proc/self/status`, in bytes.
fn status_bytes(key: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
    let kilobytes = line.trim_start_matches(':').trim().trim_end_matches(" kB").trim();
    Ok(kilobytes.parse::<u64>()? * 1024)
}
