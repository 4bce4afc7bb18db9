//! What the operator says beside the model.

use super::device::{Device, DeviceKind};
use super::processor::Processor;
use crate::model::{Refusal, RefusalRule};
use crate::units::Tokens;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// What the operator says beside the model: the engine's own options, by their meaning. `None` is
/// the engine's default.
#[derive(Clone, Debug)]
pub struct Params {
    /// The GPU (or CPU) of one rank.
    pub device: Device,
    /// `--tensor-parallel-size`.
    pub tensor_parallel: u32,
    /// `--kv-cache-dtype`.
    pub kv_dtype: KvDtype,
    /// `--block-size`, in tokens.
    pub block_size: Option<u32>,
    /// `--max-num-batched-tokens`.
    pub max_num_batched_tokens: Option<u32>,
    /// `--max-num-seqs`.
    pub max_num_seqs: Option<u32>,
    /// `--max-model-len`; what the config declares otherwise.
    pub max_model_len: Option<Tokens>,
    /// `--enable-prefix-caching`, `--no-enable-prefix-caching`.
    pub prefix_caching: Option<bool>,
    /// `--async-scheduling`, on by default.
    pub async_scheduling: bool,
    /// How the engine is started.
    pub usage: Usage,
    /// What the processor can do; only asked where it is the device.
    pub processor: Processor,
}

/// How the engine is started, which decides how large its batches are by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Usage {
    /// As the API server: `vllm serve`.
    #[default]
    Server,
    /// As a library: `LLM(...)`.
    Offline,
}

impl Params {
    /// The engine's defaults on a device. A processor is the one that this runs on.
    #[must_use]
    pub fn new(device: Device) -> Self {
        let device_is_cpu = device.kind == DeviceKind::Cpu;
        Self {
            device,
            tensor_parallel: 1,
            kv_dtype: KvDtype::Auto,
            block_size: None,
            max_num_batched_tokens: None,
            max_num_seqs: None,
            max_model_len: None,
            prefix_caching: None,
            async_scheduling: true,
            usage: Usage::Server,
            processor: match device_is_cpu {
                true => Processor::here(),
                false => Processor::default(),
            },
        }
    }
}

/// `--kv-cache-dtype`, by vLLM's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvDtype {
    /// What the checkpoint says, else the model's dtype.
    Auto,
    /// 16-bit float.
    Float16,
    /// 16-bit brain float.
    Bfloat16,
    /// 8-bit float, one scale a tensor; E4M3.
    Fp8,
    /// The same by its exact name.
    Fp8E4m3,
    /// 8-bit float with 5 bits of exponent.
    Fp8E5m2,
    /// DeepSeek's packed MLA format: 656 bytes a token, or 584 in V4.
    Fp8DsMla,
    /// 8-bit integers with a scale for each token and head.
    Int8PerTokenHead,
    /// 4-bit integers with a scale for each token and head.
    Int4PerTokenHead,
    /// 8-bit floats with a scale for each token and head.
    Fp8PerTokenHead,
    /// 4-bit floats with a scale for every 16.
    Nvfp4,
}

impl KvDtype {
    /// Every name, in the order of their declaration.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::Auto, "auto"),
        (Self::Float16, "float16"),
        (Self::Bfloat16, "bfloat16"),
        (Self::Fp8, "fp8"),
        (Self::Fp8E4m3, "fp8_e4m3"),
        (Self::Fp8E5m2, "fp8_e5m2"),
        (Self::Fp8DsMla, "fp8_ds_mla"),
        (Self::Int8PerTokenHead, "int8_per_token_head"),
        (Self::Int4PerTokenHead, "int4_per_token_head"),
        (Self::Fp8PerTokenHead, "fp8_per_token_head"),
        (Self::Nvfp4, "nvfp4"),
    ];

    /// vLLM's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(dtype, _)| *dtype == self).map_or("auto", |(_, name)| name)
    }

    /// Whether the cache is stored in fewer bits than the model computes in.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Self::Auto | Self::Float16 | Self::Bfloat16)
    }

    /// 8-bit floats with one scale a tensor, in vLLM's own classification (`fp8_ds_mla` included).
    pub(crate) const fn is_fp8_per_tensor(self) -> bool {
        matches!(self, Self::Fp8 | Self::Fp8E4m3 | Self::Fp8E5m2 | Self::Fp8DsMla)
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvDtype {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known.map(|(dtype, _)| *dtype).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
            let found: String = text.chars().take(40).collect();
            let reason = format!("KV cache dtype {found:?}; expected one of {}", names.join(", "));
            Refusal::new(RefusalRule::Parameter, reason)
        })
    }
}
