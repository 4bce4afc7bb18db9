//! `memvelope plan`: what an engine will do with a model on a device, and what fits.
//!
//! A thin layer: what is planned, and its text, are `memvelope::envelope::Plan`.

mod batch;
mod gpu;
mod source;

use crate::failure::{Failure, Outcome};
use crate::output;
use anyhow::Context;
use gpu::Capability;
use memvelope::engine::vllm_0_32::Command;
use memvelope::engine::{Device, DeviceKind, DeviceSource, KvDtype, Params};
use memvelope::envelope::{Budget, Declared, Plan, UTILIZATION_DEFAULT};
use memvelope::model::{Partial, Refusal};
use memvelope::units::{Bytes, ParseBytesError, Tokens};
use source::Source;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 planned, 1 the engine would refuse to start, 2 bad input.\n\n\
    Examples:\n  \
    memvelope plan config.json --gpu h100\n  \
    memvelope plan ./checkpoint --gpu 0 --tp 2 --kv-dtype fp8\n  \
    memvelope plan --vllm 'vllm serve Qwen/Qwen3-8B --max-model-len 8192' --config config.json \
    --gpu h200\n  \
    memvelope plan --batch sets.jsonl"
)]
pub(crate) struct Args {
    /// config.json of the model, the directory of its checkpoint, or `-` for stdin.
    #[arg(value_name = "CONFIG|DIR")]
    model: Option<PathBuf>,
    /// The same, beside --vllm.
    #[arg(long, value_name = "CONFIG|DIR", conflicts_with = "model")]
    config: Option<PathBuf>,
    /// A GPU by name (h100, h100-3g.40gb), by ordinal (0: the driver is asked), by UUID, by its
    /// bytes (80GiB); `cpu`, or `sim` for the simulated driver.
    #[arg(long, value_name = "NAME|ORDINAL|BYTES")]
    gpu: Option<String>,
    /// Compute capability of a GPU given by its bytes. Default: 9.0.
    #[arg(long, value_name = "MAJOR.MINOR", requires = "gpu")]
    capability: Option<Capability>,
    /// Memory for the KV cache of each GPU, instead of what the equation leaves: bytes or 40GiB.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    kv_bytes: Option<u64>,
    /// Tensor-parallel ranks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    tp: Option<u32>,
    /// KV cache dtype by vLLM's names: auto, fp8, fp8_e5m2, fp8_ds_mla, bfloat16, ...
    #[arg(long, value_name = "DTYPE")]
    kv_dtype: Option<KvDtype>,
    /// Tokens of a block.
    #[arg(long, value_name = "auto|N")]
    block_size: Option<Auto>,
    /// Tokens of a batch.
    #[arg(long, value_name = "auto|N")]
    max_num_batched_tokens: Option<Auto>,
    /// Longest sequence, in tokens. Default: what the config declares.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    max_model_len: Option<u64>,
    /// Sequences that run at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_num_seqs: Option<u32>,
    /// Share of the device that the engine may use. Default: 0.92, as vLLM's; 1 for generic.
    #[arg(long, value_name = "X", value_parser = share)]
    gpu_memory_utilization: Option<f64>,
    /// Whose rules: vLLM 0.32's, or nobody's (nothing is rounded to blocks).
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = Engine::Vllm)]
    engine: Engine,
    /// hf_quant_config.json of the checkpoint, where it is not beside the config.
    #[arg(long, value_name = "FILE")]
    quant_config: Option<PathBuf>,
    /// Options as vLLM takes them, in quotes. Options of ours win.
    #[arg(long, value_name = "COMMAND")]
    vllm: Option<String>,
    /// Plan one set of parameters (JSON) a line, and print one result (JSON) a line.
    #[arg(
        long,
        value_name = "FILE.jsonl",
        conflicts_with_all = ["model", "config", "vllm", "gpu", "kv_bytes", "quant_config"]
    )]
    batch: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    /// vLLM 0.32.
    Vllm,
    /// The arithmetic alone.
    Generic,
}

/// `auto`, or a number above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Auto(Option<u32>);

impl std::str::FromStr for Auto {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" | "default" => Ok(Self(None)),
            _ => match text.parse() {
                Ok(number @ 1..) => Ok(Self(Some(number))),
                _ => Err("expected auto, or a whole number above 0"),
            },
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    if let Some(path) = &args.batch {
        return batch::run(path);
    }
    let command = args.vllm.as_deref().map(read_command).transpose()?.unwrap_or_default();
    let source = Source::read(&model_path(args, &command)?, args.quant_config.as_deref())?;
    let layout = match source.layout() {
        Ok(layout) => layout,
        Err(memvelope::Error::UnknownModel { .. }) if args.engine == Engine::Generic => {
            let partial = Partial::from_config(source.config())?;
            return print_partial(args, &partial);
        }
        Err(error) => return Err(source.explain(error)),
    };
    let (mut params, mut warnings) = params(args, &command)?;
    let layout = command.apply(&mut params, layout).map_err(bad)?;
    apply(args, &mut params);
    let budget = budget(args, &command, &mut params, &mut warnings)?;
    let stored = source.stored(&layout, &mut warnings);
    let mut plan = match args.engine {
        Engine::Vllm => Plan::vllm_stored(&layout, &params, &budget, stored.as_ref())?,
        Engine::Generic => Plan::generic_stored(&layout, &params, &budget, stored.as_ref())?,
    };
    warnings.extend(command.warnings.iter().cloned());
    plan.warnings.splice(..0, warnings);
    print(args, &plan, &plan.to_string())?;
    Ok(ExitCode::from(u8::from(plan.refused.is_some())))
}

fn print(args: &Args, value: &impl serde::Serialize, text: &str) -> Outcome<()> {
    if args.json {
        let json = serde_json::to_string_pretty(value).context("writing JSON failed")?;
        return output::print(&format!("{json}\n"));
    }
    output::print(text)
}

/// What plain fields say, with the name of the number that a whole plan has, too.
fn print_partial(args: &Args, partial: &Partial) -> Outcome<ExitCode> {
    #[derive(serde::Serialize)]
    struct Answer<'a> {
        engine: &'static str,
        architecture: &'a Option<String>,
        per_token_bytes: Option<Bytes>,
        partial: &'a Partial,
    }
    let answer = Answer {
        engine: "generic",
        architecture: &partial.architecture,
        per_token_bytes: partial.per_token_bytes,
        partial,
    };
    print(args, &answer, &format!("{partial}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn read_command(text: &str) -> Outcome<Command> {
    let words = shlex::split(text)
        .ok_or_else(|| Failure::bad("--vllm: a quote in the command line is not closed"))?;
    Command::parse(&words).map_err(|refusal| {
        Failure::bad(format!("--vllm: {refusal}\nhint: leave the option out to plan without it"))
    })
}

/// The config: as given, else the model of the command line where that is a directory here.
fn model_path(args: &Args, command: &Command) -> Outcome<PathBuf> {
    if let Some(path) = args.model.as_ref().or(args.config.as_ref()) {
        return Ok(path.clone());
    }
    let Some(model) = &command.model else {
        return Err(Failure::bad(
            "no model is given\nhint: `memvelope plan CONFIG|DIR --gpu h100`; `-` reads a \
             config.json from stdin",
        ));
    };
    let path = PathBuf::from(model);
    if path.exists() {
        return Ok(path);
    }
    Err(Failure::bad(format!(
        "--vllm: the model {model:.80?} is no directory here, and nothing is downloaded\n\
         hint: give its config.json with --config"
    )))
}

/// The device, and the engine's defaults on it.
fn params(args: &Args, command: &Command) -> Outcome<(Params, Vec<String>)> {
    let has_bytes = args.kv_bytes.or(command.kv_cache_memory_bytes).is_some();
    let mut warnings = Vec::new();
    let mut device = match &args.gpu {
        Some(text) => gpu::open(text, args.capability)?,
        None if has_bytes => {
            warnings.push("no --gpu: kernels and batch limits are those of an H100".to_owned());
            named("h100")?
        }
        None => {
            return Err(Failure::bad(
                "how much memory is there?\nhint: give --gpu (h100, 0, 80GiB ...) or --kv-bytes, \
                 or both",
            ));
        }
    };
    if let (Some(capability), DeviceKind::Cuda(..)) = (args.capability, device.kind) {
        device.kind = DeviceKind::Cuda(capability.0, capability.1);
    }
    Ok((Params::new(device), warnings))
}

fn named(name: &str) -> Outcome<Device> {
    Device::named(name).ok_or_else(|| Failure::bad(format!("{name} is not in the table")))
}

/// Options of ours win over those of the command line.
fn apply(args: &Args, params: &mut Params) {
    params.tensor_parallel = args.tp.unwrap_or(params.tensor_parallel);
    params.kv_dtype = args.kv_dtype.unwrap_or(params.kv_dtype);
    if let Some(Auto(size)) = args.block_size {
        params.block_size = size;
    }
    if let Some(Auto(tokens)) = args.max_num_batched_tokens {
        params.max_num_batched_tokens = tokens;
    }
    params.max_model_len = args.max_model_len.map(Tokens).or(params.max_model_len);
    params.max_num_seqs = args.max_num_seqs.or(params.max_num_seqs);
}

fn budget(
    args: &Args,
    command: &Command,
    params: &mut Params,
    warnings: &mut Vec<String>,
) -> Outcome<Budget> {
    if let Some(bytes) = args.kv_bytes.or(command.kv_cache_memory_bytes) {
        return Ok(Budget::Kv(i64::try_from(bytes).unwrap_or(i64::MAX)));
    }
    if params.device.kind == DeviceKind::Cpu {
        if let Some(bytes) = gpu::cpu_cache_space()? {
            warnings.push(format!("the KV cache is {bytes}, as VLLM_CPU_KVCACHE_SPACE says"));
            return Ok(Budget::Kv(i64::try_from(bytes.0).unwrap_or(i64::MAX)));
        }
        params.device = Device::cpu(gpu::host_memory()?, DeviceSource::Measured);
        warnings.push(
            "the memory is that of the whole host; vLLM takes a share of one NUMA node, less what \
             its process uses by then"
                .to_owned(),
        );
    }
    let default = match args.engine {
        Engine::Vllm => UTILIZATION_DEFAULT,
        Engine::Generic => 1.0,
    };
    let given = args.gpu_memory_utilization.or(command.gpu_memory_utilization);
    Ok(Budget::Share { utilization: given.unwrap_or(default), declared: Declared::default() })
}

fn bad(refusal: Refusal) -> Failure {
    Failure::BadInput(refusal.into())
}

fn bytes(text: &str) -> Result<u64, ParseBytesError> {
    text.parse::<Bytes>().map(u64::from)
}

fn share(text: &str) -> Result<f64, &'static str> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or("expected a number above 0 and at most 1")
}
