//! The command line of `vllm serve`, by vLLM's own option names (`vllm/engine/arg_utils.py`).
//!
//! Every option is either applied, or known not to change what is planned, or refused or warned of
//! by its name: none is passed over in silence.

use crate::engine::{KvDtype, Params};
use crate::model::{Dtype, Layout, Refusal, RefusalRule};
use crate::units::Tokens;

/// What a command line says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Command {
    /// The model: a directory or a name on the Hub.
    pub model: Option<String>,
    /// `--tensor-parallel-size`.
    pub tensor_parallel: Option<u32>,
    /// `--kv-cache-dtype`.
    pub kv_dtype: Option<KvDtype>,
    /// `--block-size`.
    pub block_size: Option<u32>,
    /// `--max-num-batched-tokens`.
    pub max_num_batched_tokens: Option<u32>,
    /// `--max-num-seqs`.
    pub max_num_seqs: Option<u32>,
    /// `--max-model-len`.
    pub max_model_len: Option<Tokens>,
    /// `--enable-prefix-caching`, `--no-enable-prefix-caching`.
    pub prefix_caching: Option<bool>,
    /// `--async-scheduling`, `--no-async-scheduling`.
    pub async_scheduling: Option<bool>,
    /// `--dtype`; `None` is `auto`.
    pub dtype: Option<Dtype>,
    /// `--quantization`.
    pub quantization: Option<String>,
    /// `--gpu-memory-utilization`.
    pub gpu_memory_utilization: Option<f64>,
    /// `--kv-cache-memory-bytes`.
    pub kv_cache_memory_bytes: Option<u64>,
    /// Options that may change the numbers and are not taken into account, and unknown ones.
    pub warnings: Vec<String>,
}

/// What an option without a rule of its own does.
enum Effect {
    /// It changes the numbers, unless its value is this one.
    Refused(&'static str),
    /// It may change the numbers: why.
    Warned(&'static str),
    /// It changes none of them.
    Harmless,
}
use Effect::{Harmless, Refused, Warned};

/// An option that takes no value is a switch, with a `--no-` form.
const OTHERS: &[(&[&str], Effect)] = &[
    (&["pipeline-parallel-size", "pp"], Refused("1")),
    (&["decode-context-parallel-size", "dcp"], Refused("1")),
    (&["prefill-context-parallel-size", "pcp"], Refused("1")),
    (&["speculative-config", "sc", "spec-method", "spec-model", "spec-tokens"], Refused("")),
    (&["diffusion-config", "dc"], Refused("")),
    (&["num-gpu-blocks-override", "cpu-offload-params", "offload-params"], Refused("")),
    (&["cpu-offload-gb", "offload-group-size"], Refused("0")),
    (&["hf-overrides", "hf-config-path", "config", "model-class-overrides"], Refused("")),
    (&["quantization-config"], Refused("")),
    (&["mamba-cache-dtype", "mamba-ssm-cache-dtype", "mamba-cache-mode"], Refused("auto")),
    (&["mamba-block-size", "kv-cache-dtype-skip-layers", "replayssm-buffer-len"], Refused("")),
    (&["attention-backend", "attention-config", "ac", "mamba-backend"], Refused("auto")),
    (&["runner"], Refused("generate")),
    (&["task", "convert", "pooler-config"], Refused("none")),
    (&["model-impl"], Refused("auto")),
    (
        &["data-parallel-size", "dp"],
        Warned("one replica is planned; experts may be split over all"),
    ),
    (&["max-lora-rank", "max-loras", "lora-modules"], Warned("adapters take memory, too")),
    (&["limit-mm-per-prompt", "mm-processor-kwargs"], Warned("encoder budgets may change")),
    (&["kv-transfer-config", "kv-offloading-size", "ec-transfer-config"], Warned(OFFLOAD)),
    (
        &["compilation-config", "cc", "optimization-level", "performance-mode", "o"],
        Warned(COMPILED),
    ),
    (&["max-num-scheduled-tokens", "max-num-active-seqs"], Warned("batches may be smaller")),
    (&["prefix-cache-retention-interval", "prefix-match-unit"], Warned("states may be kept")),
    (&["ubatch-size", "eplb-config", "additional-config", "kernel-config"], Warned(COMPILED)),
];

const OFFLOAD: &str = "a connector may hold blocks";
const COMPILED: &str = "memory beside the cache may change";

/// Switches that change numbers when they are given in this form.
const SWITCHES: &[(&str, Effect)] = &[
    ("enable-expert-parallel", Refused("")),
    ("ep", Refused("")),
    ("disable-hybrid-kv-cache-manager", Refused("")),
    ("disable-sliding-window", Refused("")),
    ("language-model-only", Refused("")),
    ("mm-encoder-only", Refused("")),
    ("no-enable-chunked-prefill", Refused("")),
    ("use-replayssm", Refused("")),
    ("enable-lora", Warned("adapters take memory, too")),
    ("enable-eplb", Warned("redundant experts take memory")),
    ("enable-elastic-ep", Warned("redundant experts take memory")),
    ("enable-dbo", Warned(COMPILED)),
    ("enable-hc-sp", Warned(COMPILED)),
    ("kv-sharing-fast-prefill", Warned(COMPILED)),
    ("swa-bounded-replay", Warned("windows may be kept longer")),
    ("enable-mamba-shared-prefix-checkpoint", Warned("states may be kept")),
    ("enforce-eager", Harmless),
    ("trust-remote-code", Harmless),
    ("enable-chunked-prefill", Harmless),
    ("enable-auto-tool-choice", Harmless),
    ("disable-log-stats", Harmless),
    ("disable-log-requests", Harmless),
    ("enable-log-requests", Harmless),
    ("disable-uvicorn-access-log", Harmless),
    ("disable-fastapi-docs", Harmless),
    ("enable-sleep-mode", Harmless),
    ("enable-prompt-tokens-details", Harmless),
    ("enable-server-load-tracking", Harmless),
    ("enable-force-include-usage", Harmless),
    ("enable-request-id-headers", Harmless),
    ("enable-tokenizer-info-endpoint", Harmless),
    ("return-tokens-as-token-ids", Harmless),
    ("disable-custom-all-reduce", Harmless),
    ("disable-cascade-attn", Harmless),
    ("skip-tokenizer-init", Harmless),
    ("use-tqdm-on-load", Harmless),
    ("skip-mm-profiling", Harmless),
    ("interleave-mm-strings", Harmless),
    ("disable-chunked-mm-input", Harmless),
    ("scheduler-reserve-full-isl", Harmless),
    ("enable-prompt-embeds", Harmless),
    ("enable-flashinfer-autotune", Harmless),
    ("calculate-kv-scales", Harmless),
    ("kv-cache-metrics", Harmless),
    ("cudagraph-metrics", Harmless),
    ("headless", Harmless),
    ("enable-ssl-refresh", Harmless),
    ("trust-request-chat-template", Harmless),
    ("exclude-tools-when-tool-choice-none", Harmless),
];

/// Options with a value that change nothing of a plan, by name or by the beginning of it.
const HARMLESS: &[&str] = &[
    "host",
    "port",
    "uds",
    "uvicorn-",
    "root-path",
    "api-key",
    "ssl-",
    "allow-credentials",
    "allowed-",
    "middleware",
    "served-model-name",
    "chat-template",
    "response-role",
    "tool-",
    "reasoning-",
    "tokenizer",
    "seed",
    "revision",
    "code-revision",
    "load-format",
    "download-dir",
    "safetensors-",
    "model-loader-",
    "ignore-patterns",
    "max-logprobs",
    "logprobs-mode",
    "generation-config",
    "override-generation-config",
    "config-format",
    "hf-token",
    "log-",
    "logging-",
    "max-log-len",
    "otlp-",
    "collect-detailed-traces",
    "distributed-",
    "master-addr",
    "master-port",
    "nnodes",
    "n",
    "node-rank",
    "r",
    "data-parallel-",
    "dpn",
    "dpr",
    "dpl",
    "dpa",
    "dpp",
    "dpb",
    "api-server-count",
    "asc",
    "scheduling-policy",
    "scheduler-cls",
    "stream-interval",
    "prefix-caching-hash-algo",
    "guided-decoding-backend",
    "structured-outputs-config",
    "kv-events-config",
    "renderer-num-workers",
    "watermark",
    "max-num-queued-",
    "long-prefill-token-threshold",
    "prefill-schedule-interval",
    "cudagraph-capture-sizes",
    "max-cudagraph-capture-size",
    "mm-processor-cache-",
    "mm-hasher-",
    "mm-shm-",
    "media-io-kwargs",
    "all2all-backend",
    "moe-backend",
    "linear-backend",
    "expert-placement-strategy",
    "device-ids",
    "numa-",
    "shutdown-timeout",
    "profiler-config",
    "logits-processors",
    "io-processor-plugin",
    "cpu-distributed-timeout-seconds",
    "show-hidden-metrics-for-version",
    "custom-histogram-buckets",
    "worker-cls",
    "worker-extension-cls",
    "grpc",
    "h11-",
    "max-cpu-loras",
    "default-chat-template-kwargs",
    "return-detailed-",
    "allow",
    "device",
    "swap-space",
];

impl Command {
    /// Reads the words of a command line, as a shell splits them: `vllm serve MODEL …`,
    /// `python -m vllm.entrypoints.openai.api_server …`, or options alone.
    ///
    /// # Errors
    /// [`Refusal`] for a value that vLLM would not take, and for an option that changes the
    /// numbers and is not modelled.
    pub fn parse(words: &[String]) -> Result<Self, Refusal> {
        let mut command = Self::default();
        let mut words = command.options(words)?.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            let Some(option) = option_name(word) else {
                match &command.model {
                    None => command.model = Some(word.to_owned()),
                    Some(_) => command.warnings.push(format!("{word:.40?} is not understood")),
                }
                continue;
            };
            let (name, inline) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            let name = name.replace('_', "-").to_ascii_lowercase();
            if inline.is_none() && command.switch(&name)? {
                continue;
            }
            let mut value = inline;
            while inline.is_none() && words.peek().is_some_and(|next| option_name(next).is_none()) {
                // An option with several values: the first decides.
                let next = words.next();
                value = value.or(next);
                if !takes_several(&name) {
                    break;
                }
            }
            command.option(&name, value)?;
        }
        Ok(command)
    }

    /// The words after the program.
    fn options<'a>(&mut self, words: &'a [String]) -> Result<&'a [String], Refusal> {
        let is_variable = |word: &&String| {
            let name = word.split_once('=').map_or("", |(name, _)| name);
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let variables = words.iter().take_while(is_variable).count();
        for variable in &words[..variables] {
            let name = variable.split('=').next().unwrap_or_default();
            if name.starts_with("VLLM_") {
                self.warnings.push(format!("the variable {name} is not taken into account"));
            }
        }
        let words = &words[variables..];
        let is_program = |word: &String| *word == "serve" || word.ends_with(".openai.api_server");
        match words.iter().take(8).position(is_program) {
            Some(at) => Ok(&words[at + 1..]),
            None if words.first().is_some_and(|word| word.starts_with('-')) => Ok(words),
            None => Err(wrong("expected `vllm serve MODEL --option …`")),
        }
    }

    /// An option without a value; `false` if it is none.
    fn switch(&mut self, name: &str) -> Result<bool, Refusal> {
        match name {
            "enable-prefix-caching" => self.prefix_caching = Some(true),
            "no-enable-prefix-caching" => self.prefix_caching = Some(false),
            "async-scheduling" => self.async_scheduling = Some(true),
            "no-async-scheduling" => self.async_scheduling = Some(false),
            _ => {
                let base = name.strip_prefix("no-").unwrap_or(name);
                if let Some((_, effect)) = SWITCHES.iter().find(|(switch, _)| *switch == name) {
                    self.effect(name, None, effect)?;
                } else if !SWITCHES.iter().any(|(switch, _)| *switch == base) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn option(&mut self, name: &str, value: Option<&str>) -> Result<(), Refusal> {
        let given = || value.ok_or_else(|| wrong(format!("--{name}: its value is missing")));
        match name {
            "model" | "m" => self.model = Some(given()?.to_owned()),
            "tensor-parallel-size" | "tp" => self.tensor_parallel = Some(small(name, given()?)?),
            "max-num-batched-tokens" => self.max_num_batched_tokens = Some(small(name, given()?)?),
            "max-num-seqs" => self.max_num_seqs = Some(small(name, given()?)?),
            "block-size" => self.block_size = Some(small(name, given()?)?),
            "max-model-len" => match given()? {
                "auto" | "-1" => self.warnings.push(
                    "--max-model-len auto: what the config declares is planned; vLLM shortens it \
                     to what fits"
                        .to_owned(),
                ),
                value => self.max_model_len = Some(Tokens(number(name, value)?)),
            },
            "kv-cache-memory-bytes" => self.kv_cache_memory_bytes = Some(number(name, given()?)?),
            "gpu-memory-utilization" | "device-memory-utilization" => {
                let share = given()?.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
                let problem = || wrong(format!("--{name}: expected a number above 0, at most 1"));
                self.gpu_memory_utilization = Some(share.ok_or_else(problem)?);
            }
            "kv-cache-dtype" => self.kv_dtype = Some(given()?.parse()?),
            "quantization" | "q" => self.quantization = Some(given()?.to_owned()),
            "dtype" => {
                self.dtype = match given()? {
                    "auto" => None,
                    "half" | "float16" => Some(Dtype::Float16),
                    "bfloat16" => Some(Dtype::Bfloat16),
                    "float" | "float32" => Some(Dtype::Float32),
                    other => return Err(wrong(format!("--dtype {other:.40?} is none of vLLM's"))),
                }
            }
            name => self.other(name, value)?,
        }
        Ok(())
    }

    fn other(&mut self, name: &str, value: Option<&str>) -> Result<(), Refusal> {
        // `--compilation-config.mode 3`, and `-O3`.
        let base = name.split('.').next().unwrap_or(name);
        let base = if matches!(base, "o0" | "o1" | "o2" | "o3") { "o" } else { base };
        if let Some((_, effect)) = OTHERS.iter().find(|(names, _)| names.contains(&base)) {
            return self.effect(name, value, effect);
        }
        let is_harmless = HARMLESS.iter().any(|known| match known.strip_suffix('-') {
            Some(_) => base.starts_with(known),
            None => base == *known,
        });
        if !is_harmless {
            let name: String = name.chars().take(60).collect();
            self.warnings.push(format!("--{name} is not known here and not taken into account"));
        }
        Ok(())
    }

    fn effect(&mut self, name: &str, value: Option<&str>, effect: &Effect) -> Result<(), Refusal> {
        match effect {
            Harmless => Ok(()),
            Refused(neutral) if value == Some(neutral) => Ok(()),
            Refused(_) => {
                Err(wrong(format!("--{name} changes what vLLM computes, and is not modelled")))
            }
            Warned(_) if value == Some("1") => Ok(()),
            Warned(why) => {
                self.warnings.push(format!("--{name} is not taken into account: {why}"));
                Ok(())
            }
        }
    }

    /// The parameters with what the command line says, and the model as it says it is served.
    ///
    /// # Errors
    /// [`Refusal`] for a dtype or a quantisation that this model is not served in.
    pub fn apply(&self, params: &mut Params, layout: Layout) -> Result<Layout, Refusal> {
        params.tensor_parallel = self.tensor_parallel.unwrap_or(params.tensor_parallel);
        params.kv_dtype = self.kv_dtype.unwrap_or(params.kv_dtype);
        params.block_size = self.block_size.or(params.block_size);
        params.max_num_batched_tokens =
            self.max_num_batched_tokens.or(params.max_num_batched_tokens);
        params.max_num_seqs = self.max_num_seqs.or(params.max_num_seqs);
        params.max_model_len = self.max_model_len.or(params.max_model_len);
        params.prefix_caching = self.prefix_caching.or(params.prefix_caching);
        params.async_scheduling = self.async_scheduling.unwrap_or(params.async_scheduling);
        if let Some(asked) = &self.quantization {
            let own = layout.quantization_name();
            if own != Some(asked.as_str()) {
                let reason = format!(
                    "--quantization {asked:.40?}: the checkpoint's is {}, and no other is modelled",
                    own.unwrap_or("none")
                );
                return Err(Refusal::new(RefusalRule::Dtype, reason));
            }
        }
        match self.dtype {
            Some(dtype) => layout.with_dtype(dtype),
            None => Ok(layout),
        }
    }
}

/// The option in a word, without its dashes; a negative number is none.
fn option_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    name.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(name)
}

fn takes_several(name: &str) -> bool {
    const SEVERAL: &[&str] = &[
        "served-model-name",
        "api-key",
        "allowed-origins",
        "middleware",
        "lora-modules",
        "cudagraph-capture-sizes",
        "device-ids",
        "kv-cache-dtype-skip-layers",
        "ignore-patterns",
        "logits-processors",
    ];
    SEVERAL.contains(&name)
}

fn small(name: &str, value: &str) -> Result<u32, Refusal> {
    u32::try_from(number(name, value)?)
        .map_err(|_| wrong(format!("--{name} {value:.40}: expected less than 2^32")))
}

/// A number above zero as vLLM reads it: `8k` is 8000 and `8K` is 8192 (`human_readable_int`).
fn number(name: &str, value: &str) -> Result<u64, Refusal> {
    let value = value.trim();
    let (digits, factor) = match value.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let power = match unit.to_ascii_lowercase() {
                'k' => Some(1),
                'm' => Some(2),
                'g' => Some(3),
                't' => Some(4),
                _ => None,
            };
            let base: u64 = if unit.is_ascii_lowercase() { 1000 } else { 1024 };
            (&value[..at], power.map(|power| base.pow(power)))
        }
        _ => (value, Some(1)),
    };
    let parsed = match (digits.split_once('.'), factor) {
        (None, Some(factor)) => {
            digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor))
        }
        // Decimals go with the decimal units alone.
        (Some((whole, part)), Some(factor)) if factor.is_multiple_of(1000) && part.len() <= 12 => {
            let scale = 10_u64.pow(u32::try_from(part.len()).unwrap_or(0));
            let both = whole.parse::<u64>().ok().zip(part.parse::<u64>().ok());
            both.and_then(|(whole, part)| {
                let part = u64::try_from(u128::from(part) * u128::from(factor) / u128::from(scale));
                whole.checked_mul(factor)?.checked_add(part.ok()?)
            })
        }
        _ => None,
    };
    parsed.filter(|number| (1..1 << 63).contains(number)).ok_or_else(|| {
        wrong(format!("--{name} {value:.40}: expected a whole number above 0, e.g. 8192, 8k or 8K"))
    })
}

fn wrong(reason: impl Into<String>) -> Refusal {
    Refusal::new(RefusalRule::Parameter, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, Refusal> {
        Command::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_have_vllms_spellings() {
        let command = parse(
            "vllm serve Qwen/Qwen3-8B -tp 2 --max-model-len 8k --max_num_seqs=128 \
             --kv-cache-dtype fp8 --no-enable-prefix-caching --gpu-memory-utilization 0.85 \
             --max-num-batched-tokens 8K --enforce-eager --port 8000 --dtype half \
             --served-model-name a b",
        )
        .unwrap();
        assert_eq!(command.model.as_deref(), Some("Qwen/Qwen3-8B"));
        assert_eq!(command.tensor_parallel, Some(2));
        assert_eq!(command.max_model_len, Some(Tokens(8000)));
        assert_eq!(command.max_num_seqs, Some(128));
        assert_eq!(command.max_num_batched_tokens, Some(8192));
        assert_eq!(command.kv_dtype, Some(KvDtype::Fp8));
        assert_eq!(command.prefix_caching, Some(false));
        assert_eq!(command.gpu_memory_utilization, Some(0.85));
        assert_eq!(command.dtype, Some(Dtype::Float16));
        assert!(command.warnings.is_empty(), "{:?}", command.warnings);
    }

    #[test]
    fn programs_and_variables() {
        let api = "VLLM_USE_V1=1 python3 -m vllm.entrypoints.openai.api_server --model m -pp 1";
        let command = parse(api).unwrap();
        assert_eq!(command.model.as_deref(), Some("m"));
        assert!(command.warnings[0].contains("VLLM_USE_V1"));
        assert_eq!(parse("--model m").unwrap().model.as_deref(), Some("m"));
        assert!(parse("ls -l").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn nothing_is_passed_over_in_silence() {
        for refused in [
            "-pp 2",
            "--pipeline-parallel-size=2",
            "--speculative-config {}",
            "--num-gpu-blocks-override 100",
            "--cpu-offload-gb 4",
            "--decode_context_parallel_size 2",
            "--enable-expert-parallel",
            "--hf-overrides {}",
            "--max-model-len 0",
            "--max-model-len 1.5K",
            "--max-num-seqs many",
            "--gpu-memory-utilization 1.5",
            "--kv-cache-dtype fp7",
            "--dtype int8",
            "--block-size",
        ] {
            assert!(parse(&format!("vllm serve m {refused}")).is_err(), "{refused}");
        }
        for warned in ["--enable-lora", "-dp 2", "--frobnicate 3", "--compilation-config.mode 3"] {
            let command = parse(&format!("vllm serve m {warned}")).unwrap();
            let name = warned.split(' ').next().unwrap().trim_start_matches('-');
            assert!(command.warnings[0].contains(name), "{warned}: {:?}", command.warnings);
        }
    }

    #[test]
    fn numbers_have_units() {
        let number = |text: &str| number("x", text).ok();
        assert_eq!(number("1M"), Some(1 << 20));
        assert_eq!(number("25.6k"), Some(25_600));
        assert_eq!(number("40G"), Some(40 << 30));
        for bad in ["", "k", "-1", "1e3", "1..2k", "99999999999999999999", "9999999999T"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
