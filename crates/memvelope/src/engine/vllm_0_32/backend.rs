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
    /// Attention biased by distance.
    pub(crate) has_alibi: bool,
    /// The layer is built with options that Triton's kernel alone has.
    pub(crate) triton_only: bool,
    /// Elements of a value, where they differ from a key's.
    pub(crate) value_size: u64,
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
            None => return built(backend, request).map(|()| backend),
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

/// As [`select`], for keys and values of different sizes: the model class itself takes
/// FlashAttention where its versions 3 or 4 run, Triton elsewhere, and asks neither whether it
/// serves the layer (`mimo_v2.py`).
///
/// # Errors
/// As [`select`].
pub(crate) fn select_uneven(request: &Request<'_>) -> Result<Backend, Refusal> {
    let DeviceKind::Cuda(major, _) = request.device.kind else { return select(request) };
    let (head, value) = (request.head_size, request.value_size);
    let takes_flash = match major {
        9 => true,
        10 => head <= 128 || (head, value) == (192, 128),
        _ => false,
    };
    let kv_dtype = request.kv_dtype;
    let is_served = match (takes_flash, kv_dtype) {
        (_, KvDtype::Nvfp4 | KvDtype::Fp8DsMla) => return select(request),
        (true, KvDtype::Fp8E5m2) => false,
        // The kernels are then chosen by the key's size alone.
        (true, kv_dtype) => !kv_dtype.is_quantized() || major == 9 || head <= 128,
        (false, KvDtype::Fp8 | KvDtype::Fp8E4m3) => true,
        (false, kv_dtype) => !kv_dtype.is_quantized(),
    };
    if !is_served {
        let reason = format!(
            "KV cache dtype {kv_dtype} on {}: not supported for keys of {head} elements and \
             values of {value}; use --kv-cache-dtype auto",
            request.device.name
        );
        return Err(Refusal::new(RefusalRule::Backend, reason));
    }
    let backend = if takes_flash { Backend::FlashAttn } else { Backend::TritonAttn };
    built(backend, request).map(|()| backend)
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
    let (first, last) = capabilities(backend);
    let is_gpu = matches!(request.device.kind, DeviceKind::Cuda(..));
    let capability = request.device.capability();
    if is_gpu && (capability < first || capability > last) {
        return Some(format!("compute capability {}.{} not supported", capability.0, capability.1));
    }
    // The processor's own kernel takes all unasked.
    if backend != CpuAttn && !kv_dtypes(backend).contains(&request.kv_dtype) {
        return Some(format!("KV cache dtype {} not supported", request.kv_dtype));
    }
    let sizes = super::kernel::sizes(backend, request, None);
    // The platform gives the reference kernel its block size, whatever was asked for.
    if let Some(block_size) = request.block_size.filter(|_| backend != CpuMla)
        && !Size::any_divides(&sizes, block_size)
    {
        let sizes = Size::list(&sizes);
        return Some(format!("block size {block_size} not supported, but multiples of {sizes}"));
    }
    let reason = match backend {
        FlashAttn => flash_attn(request),
        Flashinfer => flashinfer(request),
        // Image tokens go to the Triton half of a composite, so the other half never sees them.
        TritonFlashAttn => flash_attn(&Request { is_mm_prefix: false, ..request.clone() })
            .or_else(|| composite_head(request)),
        TritonFlashinfer => flashinfer(&Request { is_mm_prefix: false, ..request.clone() })
            .or_else(|| composite_head(request)),
        TritonAttn => (request.head_size < 32).then_some(HEAD_SIZE),
        FlexAttention if request.has_sink => Some(SINK),
        FlexAttention if request.is_cross => Some(CROSS),
        FlexAttention => None,
        CpuAttn => None,
        CpuMla | AmxMla => cpu_mla(request),
        _ => mla(backend, request),
    };
    reason.map(str::to_owned)
}

const HEAD_SIZE: &str = "head size not supported";
const NOPE: &str = "qk_nope_head_dim not supported";
const MM_PREFIX: &str = "bidirectional image tokens not supported";
const SINK: &str = "attention sinks not supported";
const CROSS: &str = "cross attention not supported";

/// Compute capabilities that a backend takes, the first and the last (`supports_compute_capability`
/// and the devices that its kernels are built for).
fn capabilities(backend: Backend) -> ((u32, u32), (u32, u32)) {
    use Backend::*;
    const ANY: u32 = u32::MAX;
    match backend {
        FlashAttn | TritonFlashAttn => ((8, 0), (ANY, ANY)),
        Flashinfer | TritonFlashinfer => ((8, 0), (12, 1)),
        FlashAttnMla | Flashmla | FlashAttnMlaSparse | FlashinferMlaSparseSm90 => {
            ((9, 0), (9, ANY))
        }
        FlashmlaSparse => ((9, 0), (10, ANY)),
        FlashinferMla | CutlassMla | FlashinferMlaSparse => ((10, 0), (10, ANY)),
        FlashinferMlaSparseSm120 => ((12, 0), (12, ANY)),
        _ => ((0, 0), (ANY, ANY)),
    }
}

/// KV cache dtypes that a backend takes (`supported_kv_cache_dtypes`); some it then takes on some
/// devices only.
fn kv_dtypes(backend: Backend) -> &'static [KvDtype] {
    use Backend::*;
    use KvDtype::*;
    match backend {
        FlexAttention | FlashAttnMla | FlashAttnMlaSparse => &[Auto, Float16, Bfloat16],
        FlashAttn | TritonFlashAttn | Flashmla | FlashinferMla | CutlassMla | TritonMla
        | FlashinferMlaSparse => &[Auto, Float16, Bfloat16, Fp8, Fp8E4m3],
        // What both halves take.
        TritonFlashinfer => &[Auto, Float16, Bfloat16, Fp8, Fp8E4m3, Fp8E5m2],
        Flashinfer => &[Auto, Float16, Bfloat16, Fp8, Fp8E4m3, Fp8E5m2, Nvfp4],
        TritonAttn => &[
            Auto,
            Float16,
            Bfloat16,
            Fp8,
            Fp8E4m3,
            Fp8E5m2,
            Int4PerTokenHead,
            Int8PerTokenHead,
            Fp8PerTokenHead,
        ],
        FlashmlaSparse => &[Auto, Bfloat16, Fp8DsMla, Fp8],
        FlashinferMlaSparseSm90 => &[Auto, Bfloat16, Fp8, Fp8E4m3],
        FlashinferMlaSparseSm120 => &[Auto, Fp8, Fp8E4m3, Fp8DsMla],
        CpuMla | AmxMla => &[Auto, Float16, Bfloat16],
        // Chosen by the model or the platform alone.
        CpuAttn
        | DeepseekV32Indexer
        | MinimaxM3Sparse
        | MinimaxM3SparseIndexer
        | FlashmlaSparseDsv4
        | DeepseekV4Indexer
        | DeepseekSparseSwa
        | CompressorBackend
        | State => &[],
    }
}

fn composite_head(request: &Request<'_>) -> Option<&'static str> {
    (!matches!(request.head_size, 256 | 512)).then_some(HEAD_SIZE)
}

fn flash_attn(request: &Request<'_>) -> Option<&'static str> {
    let major = request.major();
    let head = request.head_size;
    let has_fa4 = matches!(major, 9..=11);
    if !head.is_multiple_of(8) || head > if has_fa4 { 512 } else { 256 } {
        return Some(HEAD_SIZE);
    }
    let version = request.flash_attention();
    if request.kv_dtype.is_quantized() {
        let is_served = match major {
            9 => serves_fp8(version, head) && !request.is_mm_prefix,
            10 => version == Some(4),
            _ => false,
        };
        if !is_served {
            return Some("an fp8 KV cache needs FlashAttention 3, or 4 for this head size");
        }
    }
    if request.has_sink && !matches!(version, Some(3 | 4)) {
        return Some(SINK);
    }
    (request.is_mm_prefix && version != Some(4)).then_some(MM_PREFIX)
}

/// On Hopper: FA3, or FA4 for heads of 512 elements.
fn serves_fp8(version: Option<u32>, head_size: u64) -> bool {
    version == Some(3) || (version == Some(4) && head_size == 512)
}

fn flashinfer(request: &Request<'_>) -> Option<&'static str> {
    if !matches!(request.head_size, 64 | 128 | 256 | 512) {
        return Some(HEAD_SIZE);
    }
    if request.kv_dtype == KvDtype::Nvfp4 {
        // On data-centre Blackwell only TRTLLM's kernels read it, which need NVIDIA's cubins to be
        // installed; elsewhere FA2's kernels do, for 128 elements or more.
        match request.major() {
            8 | 9 | 12 if request.head_size == 64 => return Some(HEAD_SIZE),
            8 | 9 | 12 => {}
            _ => return Some("KV cache dtype nvfp4 not supported without TRTLLM's kernels"),
        }
    }
    // Only TRTLLM's kernels have sinks.
    if request.has_sink {
        return Some(SINK);
    }
    if request.is_cross {
        return Some(CROSS);
    }
    request.is_mm_prefix.then_some(MM_PREFIX)
}

/// vLLM starts with latents (or an fp8 cache) that these kernels lack, and dies at the first
/// request.
fn cpu_mla(request: &Request<'_>) -> Option<&'static str> {
    match request.head_size {
        _ if request.is_sparse => Some("sparse attention not supported"),
        576 => None,
        _ => Some(HEAD_SIZE),
    }
}

fn mla(backend: Backend, request: &Request<'_>) -> Option<&'static str> {
    use Backend::*;
    let [nope, rope] = request.mla_dims;
    let head = request.head_size;
    let is_bf16 = request.dtype == Dtype::Bfloat16;
    let is_plain = !request.kv_dtype.is_quantized();
    match backend {
        FlashAttnMla | Flashmla | CutlassMla | FlashinferMla
            if !matches!(head, 320 | 512 | 576) =>
        {
            Some(HEAD_SIZE)
        }
        FlashinferMla if !matches!(nope, 64 | 128 | 192) => Some(NOPE),
        FlashmlaSparse
        | FlashinferMlaSparse
        | FlashinferMlaSparseSm90
        | FlashinferMlaSparseSm120
            if !matches!(head, 512 | 576) =>
        {
            Some(HEAD_SIZE)
        }
        FlashmlaSparse | FlashinferMlaSparseSm90 | FlashinferMlaSparseSm120 if !is_bf16 => {
            Some("dtype not supported")
        }
        FlashmlaSparse if head == 512 => {
            let is_packed = request.kv_dtype == KvDtype::Fp8DsMla;
            let is_served = request.major() == 9 && rope == 0 && (is_plain || is_packed);
            (!is_served).then_some("head size not supported with this KV cache dtype and device")
        }
        FlashinferMlaSparse if rope == 0 => ((nope, head) != (256, 512)).then_some(NOPE),
        FlashinferMlaSparse => (!matches!(nope, 128 | 192)).then_some(NOPE),
        FlashinferMlaSparseSm90 => (!matches!(head - rope, 512)).then_some(HEAD_SIZE),
        _ => None,
    }
}

/// What the chosen kernels refuse when the layer is built, though the choice does not ask: vLLM
/// then stops rather than take others.
pub(crate) fn built(backend: Backend, request: &Request<'_>) -> Result<(), Refusal> {
    use Backend::*;
    let capability = request.device.capability();
    let kv_dtype = request.kv_dtype;
    let is_fp8 = kv_dtype.name().starts_with("fp8");
    let reason = match backend {
        TritonAttn | TritonMla if is_fp8 && capability < (8, 9) => {
            let instead = if capability < (8, 0) { "float16" } else { "bfloat16" };
            format!(
                "Triton's kernels read an fp8 KV cache from compute capability 8.9 on; use \
                 --kv-cache-dtype {instead}"
            )
        }
        TritonAttn | TritonMla if kv_dtype == KvDtype::Bfloat16 && capability < (8, 0) => {
            "bfloat16 needs compute capability 8.0; use --kv-cache-dtype float16".to_owned()
        }
        FlashAttn if kv_dtype.is_quantized() && request.has_alibi => {
            "FlashAttention reads no fp8 KV cache in a model with ALiBi; use --kv-cache-dtype auto"
                .to_owned()
        }
        FlashAttn | Flashinfer | FlexAttention if request.triton_only => {
            "Triton's kernel alone has what this model asks of its layers; use \
             --attention-backend TRITON_ATTN"
                .to_owned()
        }
        FlexAttention if request.has_alibi || request.has_soft_cap => {
            "FlexAttention serves neither ALiBi nor capped logits".to_owned()
        }
        _ => return Ok(()),
    };
    let device = &request.device.name;
    let reason = format!("KV cache dtype {kv_dtype} on {device}: {reason}");
    Err(Refusal::new(RefusalRule::Backend, reason))
}

/// MiniMax M3's sparse layers read nvfp4 with a kernel of data-centre Blackwell alone
/// (`models/minimax_m3`).
///
/// # Errors
/// [`Refusal`] on another device.
pub(crate) fn check_indexed(request: &Request<'_>) -> Result<(), Refusal> {
    if request.kv_dtype != KvDtype::Nvfp4 || request.major() == 10 {
        return Ok(());
    }
    let reason = format!(
        "KV cache dtype nvfp4 on {}: sparse attention over plain keys and values reads it on \
         compute capability 10 only; use fp8 or auto",
        request.device.name
    );
    Err(Refusal::new(RefusalRule::Backend, reason))
}

/// Dense MLA runs prefill in kernels of its own, built for a few shapes (`mla/prefill`): elements
/// of a query without and with rotation, and of a value. Sparse MLA does without them.
///
/// # Errors
/// [`Refusal`] where none serves the shape.
pub(crate) fn check_mla_prefill(device: &Device, dims: [u32; 3]) -> Result<(), Refusal> {
    // Those of Blackwell alone serve no other shapes.
    const SHAPES: [[u32; 3]; 4] = [[128, 64, 128], [192, 64, 256], [64, 64, 128], [256, 0, 256]];
    if device.kind == DeviceKind::Cpu || SHAPES.contains(&dims) {
        return Ok(());
    }
    let [nope, rope, value] = dims;
    let reason = format!(
        "no kernel for the prefill of latent attention with qk_nope_head_dim {nope}, \
         qk_rope_head_dim {rope} and v_head_dim {value}; there are some for {SHAPES:?}"
    );
    Err(Refusal::new(RefusalRule::Backend, reason))
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
