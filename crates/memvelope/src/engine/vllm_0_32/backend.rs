//! Which attention kernels serve a layer on a device.
//!
//! Rules of `vllm/platforms/cuda.py` (`_get_backend_priorities`) and of the backends' own
//! `supports_*` methods under `vllm/v1/attention/backends/`.

use super::kernel::Size;
use crate::engine::params::KvDtype;
use crate::engine::{Device, DeviceKind};
use crate::model::{Dtype, Refusal, RefusalRule};
use serde::Serialize;

/// Attention kernels, by vLLM's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "they are vLLM's names")]
pub enum Backend {
    FlashAttn,
    Flashinfer,
    TritonAttn,
    TritonFlashAttn,
    TritonFlashinfer,
    FlexAttention,
    CpuAttn,
    FlashAttnMla,
    Flashmla,
    FlashinferMla,
    CutlassMla,
    TritonMla,
    CpuMla,
    AmxMla,
    FlashAttnMlaSparse,
    FlashmlaSparse,
    FlashinferMlaSparse,
    FlashinferMlaSparseSm90,
    FlashinferMlaSparseSm120,
    DeepseekV32Indexer,
    MinimaxM3Sparse,
    MinimaxM3SparseIndexer,
    FlashmlaSparseDsv4,
    DeepseekV4Indexer,
    DeepseekSparseSwa,
    CompressorBackend,
    State,
}

/// What a layer asks of its kernels.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) device: &'a Device,
    pub(crate) head_size: u64,
    /// Query heads on one rank.
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) dtype: Dtype,
    pub(crate) kv_dtype: KvDtype,
    /// The operator's block size, if given.
    pub(crate) block_size: Option<u64>,
    pub(crate) is_mla: bool,
    pub(crate) is_sparse: bool,
    pub(crate) has_sink: bool,
    pub(crate) is_window: bool,
    pub(crate) is_cross: bool,
    /// Image tokens see each other in both directions.
    pub(crate) is_mm_prefix: bool,
    /// `qk_nope_head_dim` and `qk_rope_head_dim` of latent attention.
    pub(crate) mla_dims: [u64; 2],
    /// Head size of the model as a whole, which some kernels go by.
    pub(crate) model_head_size: u64,
    /// The model's heads differ in size, and vLLM then prefers one kernel for all of them.
    pub(crate) has_mixed_heads: bool,
    /// Blackwell prefers FlashAttention then.
    pub(crate) is_non_causal: bool,
    /// The engine asks for FA4 in every layer.
    pub(crate) forces_fa4: bool,
    /// Logit soft-capping, which FA4's kernel for 256 elements does not have.
    pub(crate) has_soft_cap: bool,
    /// The processor has AMX tiles.
    pub(crate) has_amx: bool,
}

impl Request<'_> {
    pub(crate) fn major(&self) -> u32 {
        self.device.capability().0
    }

    /// The version of FlashAttention that vLLM would use for the layer, `None` where there is none
    /// (`fa_utils.py`, `get_flash_attn_version`).
    fn flash_attention(&self) -> Option<u32> {
        let head = self.head_size;
        match self.major() {
            9 if head > 256 || self.forces_fa4 => Some(4),
            9 => Some(3),
            10 if head == 256 && self.lacks_fa4_hd256() => Some(2),
            10 if head <= 128 || head == 256 => Some(4),
            8.. => Some(2),
            _ => None,
        }
    }

    /// FA4's kernel for 256 elements on Blackwell lacks some features.
    pub(crate) fn lacks_fa4_hd256(&self) -> bool {
        self.has_sink || self.has_soft_cap || self.kv_dtype.is_quantized() || self.is_mm_prefix
    }
}

/// The kernels for a layer: the first in vLLM's order that serve it.
///
/// # Errors
/// [`Refusal`] with the reason of each.
pub(crate) fn select(request: &Request<'_>) -> Result<Backend, Refusal> {
    let mut reasons = Vec::new();
    for &backend in candidates(request) {
        match objection(backend, request) {
            None => return Ok(backend),
            Some(reason) => reasons.push(format!("{}: {reason}", backend.name())),
        }
    }
    let reason = format!(
        "no attention kernel serves head size {} with KV cache {} on {} ({})",
        request.head_size,
        request.kv_dtype,
        request.device.name,
        reasons.join("; ")
    );
    Err(Refusal::new(RefusalRule::Backend, reason))
}

/// As [`select`], for latent attention with learned sinks: vLLM has kernels of its own for them
/// beside FlashMLA's, and leaves the sinks out where those do not serve (`models/hy_v4`).
///
/// # Errors
/// As [`select`].
pub(crate) fn select_with_sinks(request: &Request<'_>) -> Result<Backend, Refusal> {
    let selected = select(request)?;
    let is_served = request.is_sparse
        && matches!(request.major(), 9 | 10)
        && objection(Backend::FlashmlaSparse, request).is_none();
    Ok(if is_served { Backend::FlashmlaSparse } else { selected })
}

fn candidates(request: &Request<'_>) -> &'static [Backend] {
    use Backend::*;
    let DeviceKind::Cuda(major, _) = request.device.kind else {
        return match (request.is_mla, request.has_amx) {
            (true, true) => &[AmxMla],
            (true, false) => &[CpuMla],
            (false, _) => &[CpuAttn],
        };
    };
    if !request.is_mla {
        // Without FA4, heads of several sizes are served by Triton alone (`Gemma4Config`).
        if request.has_mixed_heads && !matches!(major, 9..=11) {
            return &[TritonAttn];
        }
        return match (major, request.is_mm_prefix) {
            (10, _) if request.is_non_causal => &[FlashAttn, Flashinfer, TritonAttn, FlexAttention],
            (10, true) => &[TritonFlashinfer, Flashinfer, FlashAttn, TritonAttn, FlexAttention],
            (10, false) => &[Flashinfer, FlashAttn, TritonAttn, FlexAttention],
            (9, true) => &[TritonFlashAttn, FlashAttn, Flashinfer, TritonAttn, FlexAttention],
            _ => &[FlashAttn, Flashinfer, TritonAttn, FlexAttention],
        };
    }
    let prefers_flashinfer = request.kv_dtype.is_quantized() || request.heads <= 16;
    match (major, request.is_sparse) {
        (10, false) => &[FlashinferMla, CutlassMla, Flashmla, TritonMla],
        (10, true) if prefers_flashinfer => &[FlashinferMlaSparse, FlashmlaSparse],
        (10, true) => &[FlashmlaSparse, FlashinferMlaSparse],
        (12, false) => &[TritonMla],
        (12, true) => &[FlashinferMlaSparseSm120],
        (_, false) => &[FlashAttnMla, Flashmla, TritonMla],
        (_, true) if request.head_size == 512 => {
            &[FlashinferMlaSparseSm90, FlashAttnMlaSparse, FlashmlaSparse]
        }
        (_, true) => &[FlashAttnMlaSparse, FlashmlaSparse, FlashinferMlaSparseSm90],
    }
}

/// Why a backend does not serve a layer; `None` if it does.
fn objection(backend: Backend, request: &Request<'_>) -> Option<String> {
    use Backend::*;
    let sizes = super::kernel::sizes(backend, request, None);
    // The platform gives the reference kernel its block size, whatever was asked for.
    if let Some(block_size) = request.block_size.filter(|_| backend != CpuMla)
        && !Size::any_divides(&sizes, block_size)
    {
        return Some(format!("block size {block_size} not supported"));
    }
    let reason = match backend {
        FlashAttn => flash_attn(request),
        Flashinfer => flashinfer(request),
        // Image tokens go to the Triton half of a composite, so the other half never sees them.
        TritonFlashAttn => flash_attn(&Request { is_mm_prefix: false, ..request.clone() })
            .or_else(|| composite_head(request)),
        TritonFlashinfer => flashinfer(&Request { is_mm_prefix: false, ..request.clone() })
            .or_else(|| composite_head(request)),
        TritonAttn if request.head_size < 32 => Some(HEAD_SIZE),
        TritonAttn if matches!(request.kv_dtype, KvDtype::Fp8DsMla | KvDtype::Nvfp4) => Some(KV),
        TritonAttn => None,
        FlexAttention => (request.kv_dtype.is_quantized() || request.has_sink).then_some(KV),
        CpuAttn => None,
        CpuMla | AmxMla if request.is_sparse => Some("sparse attention not supported"),
        CpuMla | AmxMla => None,
        _ => mla(backend, request),
    };
    reason.map(str::to_owned)
}

const HEAD_SIZE: &str = "head size not supported";
const KV: &str = "KV cache dtype not supported";
const MM_PREFIX: &str = "bidirectional image tokens not supported";
const CAPABILITY: &str = "compute capability not supported";
const SINK: &str = "attention sinks not supported";

fn composite_head(request: &Request<'_>) -> Option<&'static str> {
    (!matches!(request.head_size, 256 | 512)).then_some(HEAD_SIZE)
}

fn flash_attn(request: &Request<'_>) -> Option<&'static str> {
    let capability = request.device.capability();
    let head = request.head_size;
    let has_fa4 = matches!(capability.0, 9..=11);
    if capability.0 < 8 {
        return Some(CAPABILITY);
    }
    if !head.is_multiple_of(8) || head > if has_fa4 { 512 } else { 256 } {
        return Some(HEAD_SIZE);
    }
    let version = request.flash_attention();
    match request.kv_dtype {
        KvDtype::Auto | KvDtype::Float16 | KvDtype::Bfloat16 => {}
        KvDtype::Fp8 | KvDtype::Fp8E4m3 => {
            let on_hopper = version == Some(3) || (version == Some(4) && head == 512);
            let is_served = match capability.0 {
                9 => on_hopper && !request.is_mm_prefix,
                10 => version == Some(4),
                _ => false,
            };
            if !is_served {
                return Some(KV);
            }
        }
        _ => return Some(KV),
    }
    if request.has_sink && !matches!(version, Some(3 | 4)) {
        return Some(SINK);
    }
    (request.is_mm_prefix && version != Some(4)).then_some(MM_PREFIX)
}

fn flashinfer(request: &Request<'_>) -> Option<&'static str> {
    let (major, minor) = request.device.capability();
    if major < 8 || (major, minor) > (12, 1) {
        return Some(CAPABILITY);
    }
    if !matches!(request.head_size, 64 | 128 | 256 | 512) {
        return Some(HEAD_SIZE);
    }
    match request.kv_dtype {
        // The kernels that read it need TRTLLM on Blackwell, and 128 elements or more elsewhere.
        KvDtype::Nvfp4 if major == 10 => return Some(KV),
        KvDtype::Nvfp4 if request.head_size == 64 => return Some(HEAD_SIZE),
        KvDtype::Fp8DsMla
        | KvDtype::Int8PerTokenHead
        | KvDtype::Int4PerTokenHead
        | KvDtype::Fp8PerTokenHead => return Some(KV),
        _ => {}
    }
    // Only TRTLLM's kernels have sinks, and those need NVIDIA's cubins to be installed.
    if request.has_sink {
        return Some(SINK);
    }
    if request.is_cross {
        return Some("cross attention not supported");
    }
    request.is_mm_prefix.then_some(MM_PREFIX)
}

fn mla(backend: Backend, request: &Request<'_>) -> Option<&'static str> {
    use Backend::*;
    let is_fp8 = matches!(request.kv_dtype, KvDtype::Fp8 | KvDtype::Fp8E4m3);
    let is_plain = !request.kv_dtype.is_quantized();
    let is_ds = request.kv_dtype == KvDtype::Fp8DsMla;
    let nope = request.mla_dims[0];
    let head_fits = matches!(request.head_size, 320 | 512 | 576);
    match backend {
        FlashAttnMla if !is_plain => Some(KV),
        FlashAttnMla if request.major() != 9 => Some(CAPABILITY),
        Flashmla if request.major() != 9 => Some(CAPABILITY),
        FlashinferMla if !matches!(nope, 64 | 128 | 192) => Some("qk_nope_head_dim not supported"),
        FlashAttnMla | Flashmla | FlashinferMla | CutlassMla if !head_fits => Some(HEAD_SIZE),
        Flashmla | FlashinferMla | CutlassMla | TritonMla if !is_plain && !is_fp8 => Some(KV),
        FlashAttnMlaSparse if !is_plain => Some(KV),
        FlashmlaSparse if !matches!(request.head_size, 576 | 512) => Some(HEAD_SIZE),
        FlashmlaSparse if request.dtype != Dtype::Bfloat16 => Some("dtype not supported"),
        FlashmlaSparse if request.kv_dtype == KvDtype::Fp8E4m3 => Some(KV),
        FlashmlaSparse if request.head_size == 512 && request.mla_dims[1] != 0 => Some(HEAD_SIZE),
        FlashinferMlaSparse if is_ds => Some(KV),
        FlashinferMlaSparse if request.mla_dims[1] != 0 && !matches!(nope, 128 | 192) => {
            Some("qk_nope_head_dim not supported")
        }
        FlashinferMlaSparseSm90 if is_ds => Some(KV),
        FlashinferMlaSparseSm90 if !matches!(request.head_size, 512 | 576) => Some(HEAD_SIZE),
        _ => None,
    }
}

impl Backend {
    /// vLLM's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        use Backend::*;
        match self {
            FlashAttn => "FLASH_ATTN",
            Flashinfer => "FLASHINFER",
            TritonAttn => "TRITON_ATTN",
            TritonFlashAttn => "TRITON_FLASH_ATTN",
            TritonFlashinfer => "TRITON_FLASHINFER",
            FlexAttention => "FLEX_ATTENTION",
            CpuAttn => "CPU_ATTN",
            FlashAttnMla => "FLASH_ATTN_MLA",
            Flashmla => "FLASHMLA",
            FlashinferMla => "FLASHINFER_MLA",
            CutlassMla => "CUTLASS_MLA",
            TritonMla => "TRITON_MLA",
            CpuMla => "CPU_MLA",
            AmxMla => "AMX_MLA",
            FlashAttnMlaSparse => "FLASH_ATTN_MLA_SPARSE",
            FlashmlaSparse => "FLASHMLA_SPARSE",
            FlashinferMlaSparse => "FLASHINFER_MLA_SPARSE",
            FlashinferMlaSparseSm90 => "FLASHINFER_MLA_SPARSE_SM90",
            FlashinferMlaSparseSm120 => "FLASHINFER_MLA_SPARSE_SM120",
            DeepseekV32Indexer => "DEEPSEEK_V32_INDEXER",
            MinimaxM3Sparse => "MINIMAX_M3_SPARSE",
            MinimaxM3SparseIndexer => "MINIMAX_M3_SPARSE_INDEXER",
            FlashmlaSparseDsv4 => "FLASHMLA_SPARSE_DSV4",
            DeepseekV4Indexer => "DEEPSEEK_V4_INDEXER",
            DeepseekSparseSwa => "DEEPSEEK_SPARSE_SWA",
            CompressorBackend => "CompressorBackend",
            State => "STATE",
        }
    }
}
