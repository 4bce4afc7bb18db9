//! `memvelope demo`: a small serving loop with a paged KV cache asks the gate before every
//! admission, and memvelope records what the GPU did meanwhile.
//!
//! The same code runs on a GPU and on the simulated driver; on the latter every surface says
//! SIMULATED.

mod device;
mod kv;
mod progress;
mod report;
mod serve;
mod text;

use crate::failure::{Failure, Outcome};
use crate::output;
use crate::requests::{self, Generator, Request};
use crate::sim_exec::{self, Choice};
use anyhow::Context;
use device::Device;
use memvelope::admission::{Gate, GateConfig, Policy};
use memvelope::config::Config;
use memvelope::envelope::{Declared, Envelope};
use memvelope::event::Tag;
use memvelope::export::write_atomically;
use memvelope::model::Layout;
use memvelope::runtime::Session;
use memvelope::snapshot::{DeviceSnapshot, Snapshot};
use memvelope::source::driver::DeviceInfo;
use memvelope::units::{Blocks, Bytes, ParseBytesError, Tokens};
use report::{Inputs, Report};
use serde::Serialize;
use serve::{Counts, Server, Settings};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Limit on the trace file: what a browser tab with Perfetto opens without trouble.
const TRACE_BYTES_MAX: u64 = 64 * Bytes::MIB;

/// How long recording may take to catch up with the end of the run, and to detach.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// Weights are allocated, and read in every step, in pieces of at most this size: few launches.
const WEIGHT_CHUNK_BYTES: u64 = 16 * Bytes::GIB;

/// Room for activations: prefill of so many tokens at once, each with eight rows of two-byte
/// numbers as wide as all heads. A modest engine's working set.
const ACTIVATION_TOKENS: u64 = 8192;
const ACTIVATION_ROW_BYTES: u64 = 8 * 2;

/// A model description is read so far and no further, whatever it is a path to: more than the
/// library takes for one, so that the library says what is wrong.
const MODEL_BYTES_MAX: u64 = 32 * Bytes::MIB;

#[derive(Clone, Debug, Serialize, clap::Args)]
pub(crate) struct Args {
    /// Where to run: a real device, or the simulated driver; `auto` takes a GPU if there is one.
    #[arg(long, value_name = "auto|sim|ORDINAL|UUID", default_value = "auto")]
    #[serde(skip)]
    device: Choice,
    /// Requests as CSV: `timestamp_s,prompt_tokens,output_tokens[,class]`. Default: a generator.
    #[arg(long, value_name = "FILE.csv")]
    requests: Option<PathBuf>,
    /// Serve only the first N requests of the file.
    #[arg(long, value_name = "N", requires = "requests")]
    limit: Option<usize>,
    /// How many requests the generator draws.
    #[arg(long, value_name = "N", default_value_t = 2000, conflicts_with = "requests")]
    count: u64,
    /// Requests per second of the generator. The default is more than one GPU keeps up with.
    #[arg(long, value_name = "RATE", default_value_t = 400.0, conflicts_with = "requests")]
    rate: f64,
    /// Seed of the generator, and of what is written into pages.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Hugging Face config.json of the model. Default: a built-in 8B GQA description.
    #[arg(long, value_name = "config.json")]
    model: Option<PathBuf>,
    /// Use only so much of the device, our context included: bytes, or with a unit (40GiB, 24GB).
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    vram: Option<u64>,
    /// Scenario of the simulated driver (TOML).
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Divide arrival times by N.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    speed: f64,
    /// What every client declares as its maximum; outputs are cut there.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_new_tokens: u32,
    /// Tokens of a KV block.
    #[arg(long, value_name = "N", default_value_t = 16)]
    block_tokens: u32,
    /// The counterfactual: admit everything at once and let the driver be the judge.
    #[arg(long)]
    no_gate: bool,
    /// Where trace.json and report.json go.
    #[arg(long, value_name = "DIR", default_value = "out/demo")]
    out: PathBuf,
    /// Print the report as JSON to stdout; progress goes to stderr.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    // Everything that was given is read before anything is started or written.
    check_numbers(args)?;
    let layout = read_model(args.model.as_deref())?;
    let requests = read_requests(args)?;
    output::check_directory(&args.out)?;
    let info = sim_exec::settle(&args.device, args.scenario.as_deref())?;

    let begin = Instant::now();
    let (config, problems) = Config::from_env();
    for problem in problems {
        output::remark(&format!("warning: {problem}"));
    }
    let session = Session::start(&config)?;
    // Also where somebody else put the simulated driver on the library path.
    if sim_exec::is_re_executed() || session.is_simulated() {
        output::remark("SIMULATED: running on memvelope's simulated driver, not on a GPU");
    }
    let outcome = record(args, &layout, &requests, &info, &session, begin);
    if outcome.is_err() {
        // Best effort: the run's own error is what matters.
        let _ = session.stop(FLUSH_TIMEOUT);
    }
    let report = outcome?;
    if args.json {
        output::print(&format!("{}\n", report.to_json().context("writing the report failed")?))?;
    } else {
        output::print(&report.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The run under a session: set up, serve, report, tear down.
fn record(
    args: &Args,
    layout: &Layout,
    requests: &[Request],
    info: &DeviceInfo,
    session: &Session,
    begin: Instant,
) -> Outcome<Report> {
    let mut device = Device::open(info, args.seed)?;
    // Every library is open by now: a run that is interrupted from here on leaves nothing behind.
    sim_exec::clean_up();
    let plan = prepare(args, layout, info, session, &mut device)?;
    // Before serving: a place where nothing can be written should not cost a whole run to find.
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("making the directory {} failed", args.out.display()))?;
    // The loop has no way to pause a sequence, so no lease may ever wait.
    let gate = Gate::new(GateConfig {
        policy: Policy::Guaranteed,
        max_model_len: layout.max_tokens,
        max_new_tokens_default: Some(Tokens(args.max_new_tokens.into())),
        ..GateConfig::new(plan.capacity, plan.envelope.curve, Tokens(args.max_new_tokens.into()))
    })?;
    let mut kv = kv::KvCache::new(plan.geometry);
    let settings = Settings {
        max_new_tokens: u64::from(args.max_new_tokens),
        speed: args.speed,
        is_gated: !args.no_gate,
        curve: plan.envelope.curve,
    };
    let counts = {
        let mut progress = progress::Progress::new(requests.len() as u64, plan.capacity);
        let server = Server::new(settings, &mut device, session, &gate, &mut kv, requests);
        let counts = server.run(&mut |counts: &Counts| progress.show(counts, &gate))?;
        progress.finish(&counts);
        counts
    };
    session.sample();
    session.flush(FLUSH_TIMEOUT)?;

    let trace_path = args.out.join("trace.json");
    let trace = session.write_trace(&trace_path, TRACE_BYTES_MAX)?;
    let usage = gate.usage();
    let verified = device.verified();
    let kv_slabs = kv.slab_allocations();
    let kv_pages_peak = kv.pages_peak();
    kv.close(&device)?;
    device.close()?;
    let self_cost = session.self_cost();
    let mode = session.mode();
    let snapshot = session.stop(FLUSH_TIMEOUT)?;
    let report_path = args.out.join("report.json");
    let report = Report::new(Inputs {
        args,
        info,
        requests: requests.len() as u64,
        envelope: &plan.envelope,
        geometry: plan.geometry,
        capacity: plan.capacity,
        usage: &usage,
        counts: &counts,
        kv_pages_peak,
        kv_slabs,
        // Simulated kernels compute nothing: what they left behind says nothing.
        verified: (!snapshot.simulated).then_some(verified),
        snapshot: &snapshot,
        mode,
        self_cost,
        trace,
        trace_path: &trace_path,
        report_path: &report_path,
        wall: begin.elapsed(),
    });
    let json = report.to_json().context("writing the report failed")?;
    write_atomically(&report_path, |out| out.write_all(json.as_bytes()))?;
    Ok(report)
}

/// What was settled before serving.
struct Plan {
    envelope: Envelope,
    geometry: kv::Geometry,
    /// Blocks that the gate hands out: whole slabs of the budget.
    capacity: Blocks,
}

/// Withholds what `--vram` says, loads weights, takes the activations buffer, asks all planes and
/// fills the equation.
fn prepare(
    args: &Args,
    layout: &Layout,
    info: &DeviceInfo,
    session: &Session,
    device: &mut Device,
) -> Outcome<Plan> {
    if let Some(vram) = args.vram {
        let (_, total) = device.memory()?;
        let withheld = total.0.checked_sub(vram).ok_or_else(|| {
            Failure::bad(format!(
                "--vram: {} is more than the device has\nhint: {} has {total}",
                Bytes(vram),
                info.name
            ))
        })?;
        take(device, Bytes(withheld), Tag::Withheld, "--vram leaves too little: withholding")?;
    }
    let mut left = layout.weight_bytes.unwrap_or_default().rounded_up_to(2 * Bytes::MIB).0;
    while left > 0 {
        let chunk = left.min(WEIGHT_CHUNK_BYTES);
        take(device, Bytes(chunk), Tag::Weights, "the weights do not fit: allocating")?;
        left -= chunk;
    }
    let block_bytes = layout.block_bytes(args.block_tokens);
    let activations = activations(layout);
    device
        .take_workspace(activations, block_bytes, args.block_tokens)
        .map_err(|error| no_room(error, "the activations do not fit: allocating", activations.0))?;
    session.sample();
    let snapshot = session.snapshot();
    let page_bytes = device.page_bytes()?;
    let envelope = measure(args, layout, info, &snapshot, device, page_bytes)?;
    let geometry = kv::Geometry::new(block_bytes, args.block_tokens, page_bytes);
    let capacity = geometry.capacity(envelope.kv_capacity_bytes);
    if capacity == Blocks::ZERO {
        return Err(memvelope::Error::NoRoom {
            total_bytes: args.vram.unwrap_or(info.total_bytes.0),
            taken_bytes: args.vram.unwrap_or(info.total_bytes.0) - envelope.kv_capacity_bytes.0,
            hint: format!("one slab of the cache takes {}", Bytes(geometry.slab_bytes)),
        }
        .into());
    }
    Ok(Plan { envelope, geometry, capacity })
}

fn measure(
    args: &Args,
    layout: &Layout,
    info: &DeviceInfo,
    snapshot: &Snapshot,
    device: &Device,
    page_bytes: Bytes,
) -> Outcome<Envelope> {
    let seen = match snapshot.device(info.index) {
        Some(seen) => seen.clone(),
        // A blind session asked nobody; the driver answers us all the same.
        None => {
            let (free, total) = device.memory()?;
            let mut blind = DeviceSnapshot { allocations_unseen: true, ..Default::default() };
            (blind.free_bytes, blind.total_bytes) = (Some(free), Some(total));
            blind
        }
    };
    let mut declared = Declared::default();
    declared.page_bytes = page_bytes;
    declared.block_tokens = args.block_tokens;
    // We know our own workspace; the default is for engines that nobody could ask.
    declared.activations = Some(activations(layout));
    Ok(Envelope::measured(&seen, layout, &declared)?)
}

/// Bytes of activations that the demo takes, its tables apart.
fn activations(layout: &Layout) -> Bytes {
    let row = u64::from(layout.heads) * u64::from(layout.head_dim) * ACTIVATION_ROW_BYTES;
    Bytes(ACTIVATION_TOKENS * row)
}

fn take(device: &mut Device, bytes: Bytes, tag: Tag, what: &str) -> Outcome<()> {
    if bytes == Bytes::ZERO {
        return Ok(());
    }
    device.keep(bytes, tag).map_err(|error| no_room(error, what, bytes.0))
}

/// A set-up that does not fit is bad input (`--vram`, `--model`), not a failure of the run.
fn no_room(error: device::AllocError, what: &str, bytes: u64) -> Failure {
    match error {
        device::AllocError::OutOfMemory => Failure::bad(format!(
            "{what} {} failed: the device is out of memory\n\
             hint: give the device more room (--vram), or a smaller model (--model)",
            Bytes(bytes)
        )),
        device::AllocError::Other(error) => Failure::Failed(error),
    }
}

fn check_numbers(args: &Args) -> Outcome<()> {
    let positive = |name: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            Err(Failure::bad(format!("{name}: {value} is not a positive number")))
        }
    };
    positive("--speed", args.speed)?;
    positive("--rate", args.rate)?;
    positive("--block-tokens", f64::from(args.block_tokens))?;
    positive("--max-new-tokens", f64::from(args.max_new_tokens))?;
    if args.requests.is_none() && !(1..=10_000_000).contains(&args.count) {
        return Err(Failure::bad(format!("--count: {} is not in 1 to 10,000,000", args.count)));
    }
    Ok(())
}

fn read_model(path: Option<&Path>) -> Outcome<Layout> {
    let Some(path) = path else { return Ok(Layout::builtin_8b()) };
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MODEL_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|source| memvelope::Error::ReadFile { path: path.to_owned(), source })?;
    let layout = Layout::from_config(&text)
        .map_err(|error| Failure::BadInput(anyhow::anyhow!("{}: {error}", path.display())))?;
    if !layout.is_plain() {
        return Err(Failure::bad(format!(
            "{}: the demo serves models whose every layer keeps every token, and the layers of {} \
             keep caches of several kinds\nhint: `memvelope plan` says what an engine makes of it",
            path.display(),
            layout.architecture
        )));
    }
    Ok(layout)
}

fn read_requests(args: &Args) -> Outcome<Vec<Request>> {
    let Some(path) = &args.requests else {
        return Ok(Generator { count: args.count, rate_per_s: args.rate, seed: args.seed }.draw());
    };
    let mut requests = requests::read_csv(path)?.rows;
    requests.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(requests)
}

fn bytes(text: &str) -> Result<u64, ParseBytesError> {
    text.parse::<Bytes>().map(u64::from)
}
