//! What block sizes kernels take, and how they pack a cache.
//!
//! Rules of the backends' `get_supported_kernel_block_sizes`, `get_preferred_block_size` and
//! `customize_spec`.

use super::backend::{Backend, Request};
use super::spec::{Spec, Stride, lcm};
use crate::engine::params::KvDtype;
use crate::model::{Refusal, RefusalRule};

/// A block size that a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// This one, or blocks that are split into it.
    Exactly(u64),
    /// Any multiple.
    MultipleOf(u64),
}

impl Size {
    pub(crate) fn base(self) -> u64 {
        match self {
            Self::Exactly(size) | Self::MultipleOf(size) => size,
        }
    }

    /// Whether blocks of `block_size` can be served.
    pub(crate) fn any_divides(sizes: &[Self], block_size: u64) -> bool {
        sizes.is_empty() || sizes.iter().any(|size| block_size.is_multiple_of(size.base()))
    }

    /// The sizes, for a reader.
    pub(crate) fn list(sizes: &[Self]) -> String {
        let sizes: Vec<String> = sizes.iter().map(|size| size.base().to_string()).collect();
        sizes.join(" or ")
    }

    pub(crate) fn smallest(sizes: &[Self]) -> u64 {
        sizes.iter().map(|size| size.base()).min().unwrap_or(1)
    }
}

/// Block sizes that a backend takes: for one layer's cache, or for the model as a whole.
pub(crate) fn sizes(backend: Backend, request: &Request<'_>, spec: Option<&Spec>) -> Vec<Size> {
    use Backend::*;
    use Size::{Exactly, MultipleOf};
    match backend {
        FlashAttn | TritonFlashAttn => flash_attn_sizes(backend, request, spec),
        Flashinfer => flashinfer_sizes(request),
        TritonFlashinfer => vec![Exactly(64)],
        Flashmla => vec![Exactly(64)],
        FlashinferMla => vec![Exactly(32), Exactly(64)],
        CutlassMla => vec![Exactly(128)],
        CpuAttn | AmxMla => vec![MultipleOf(32)],
        CpuMla => vec![Exactly(16)],
        FlashAttnMlaSparse | FlashinferMlaSparseSm90 | FlashinferMlaSparseSm120 => {
            vec![MultipleOf(64)]
        }
        FlashmlaSparse if request.major() == 10 && spec.is_some_and(|spec| spec.is_fp8) => {
            vec![Exactly(64)]
        }
        FlashmlaSparse => vec![MultipleOf(64)],
        FlashinferMlaSparse => vec![MultipleOf(32)],
        DeepseekV32Indexer => vec![Exactly(64)],
        MinimaxM3Sparse | MinimaxM3SparseIndexer => vec![Exactly(128)],
        FlashmlaSparseDsv4 | DeepseekV4Indexer => vec![Exactly(256)],
        TritonAttn | FlexAttention | FlashAttnMla | TritonMla => vec![MultipleOf(16)],
        DeepseekSparseSwa | CompressorBackend | State => vec![MultipleOf(1)],
    }
}

fn flash_attn_sizes(backend: Backend, request: &Request<'_>, spec: Option<&Spec>) -> Vec<Size> {
    let head_size = spec.map_or(request.model_head_size, |spec| spec.head_size);
    let is_fp8 = spec.map_or(request.kv_dtype.is_fp8_per_tensor(), |spec| spec.is_fp8);
    // Hopper's kernel that dequantises an fp8 cache of 512 elements reads pages of 64 tokens.
    if request.major() == 9 && is_fp8 && head_size == 512 {
        return vec![Size::Exactly(64)];
    }
    // FA4's kernel for 256 elements on Blackwell reads pages of 128.
    let is_hd256 = matches!(request.major(), 10 | 11) && head_size == 256;
    if backend == Backend::FlashAttn && is_hd256 && !request.lacks_fa4_hd256() {
        return vec![Size::Exactly(128)];
    }
    vec![Size::MultipleOf(16)]
}

fn flashinfer_sizes(request: &Request<'_>) -> Vec<Size> {
    let mut sizes: Vec<Size> = [16, 32, 64].map(Size::Exactly).into();
    // Larger pages need TRTLLM's kernels for grouped queries, which need NVIDIA's cubins; the
    // reference installation has none.
    let has_trtllm = false;
    if has_trtllm && request.major() == 10 && request.kv_heads < request.heads {
        sizes.extend([128, 256, 512, 1024].map(Size::Exactly));
    }
    sizes
}

/// The block size every backend accepts, if the operator does not say: the default where possible.
///
/// # Errors
/// [`Refusal`] when they share none.
pub(crate) fn preferred(backends: &[(Backend, Request<'_>)], default: u64) -> Result<u64, Refusal> {
    let all: Vec<Vec<Size>> = backends
        .iter()
        .map(|(backend, request)| sizes(*backend, request, None))
        .filter(|sizes| !sizes.is_empty())
        .collect();
    let is_accepted = |size: u64| all.iter().all(|sizes| Size::any_divides(sizes, size));
    if is_accepted(default) {
        return Ok(default);
    }
    if let [sizes] = all.as_slice() {
        return Ok(Size::smallest(sizes));
    }
    let mut candidates = vec![1];
    for sizes in &all {
        let all = candidates
            .iter()
            .flat_map(|&candidate| sizes.iter().map(move |size| lcm(candidate, size.base())));
        candidates = all.collect();
        candidates.sort_unstable();
        candidates.dedup();
    }
    candidates.into_iter().find(|&size| is_accepted(size)).ok_or_else(|| {
        let reason = "the attention kernels share no block size";
        Refusal::new(RefusalRule::BlockSize, reason)
    })
}

/// The forms in which scales lie beside the elements.
fn pack(kv_dtype: KvDtype, spec: &mut Spec) {
    let (key, value) = (spec.head_size, spec.head_size_v);
    // A 4-byte scale for the key and one for the value, of each token and head.
    const SCALES: u64 = 8;
    match kv_dtype {
        KvDtype::Int8PerTokenHead | KvDtype::Fp8PerTokenHead => {
            spec.content_bytes = Some(key.saturating_add(value).saturating_add(SCALES));
        }
        KvDtype::Int4PerTokenHead => {
            spec.content_bytes = Some((key / 2).saturating_add(value / 2).saturating_add(SCALES));
        }
        // Four bits an element and a one-byte scale for every 16; keys and values apart.
        KvDtype::Nvfp4 => {
            spec.head_slots = Some(spec.num_kv_heads.saturating_mul(2));
            spec.content_bytes = Some(key / 2 + key / 16);
        }
        _ => {}
    }
}

/// The spec as a backend packs it.
pub(crate) fn customize(backend: Backend, request: &Request<'_>, mut spec: Spec) -> Spec {
    use Backend::*;
    // The processor's kernel keeps no scales, and takes a byte an element instead; nor does MiniMax
    // M3's for sparse layers.
    let packs = !matches!(backend, CpuAttn | MinimaxM3Sparse);
    if packs && spec.content_bytes.is_none() && !spec.keeps_model_dtype {
        pack(request.kv_dtype, &mut spec);
    }
    let row = spec.slot_bytes();
    match backend {
        FlashmlaSparse if spec.is_fp8 && request.major() != 10 => {
            spec.stride = Stride::KernelBlocks(64);
        }
        FlashmlaSparse | FlashAttnMlaSparse | FlashinferMlaSparseSm90 => {
            spec.stride = Stride::Bytes(row);
        }
        FlashinferMlaSparse => spec.stride = Stride::Bytes(row.saturating_mul(32)),
        _ => {}
    }
    if spec.stride == Stride::Free {
        let sizes = sizes(backend, request, Some(&spec));
        let is_fixed = sizes.iter().all(|size| matches!(size, Size::Exactly(_)));
        let largest = sizes.iter().map(|size| size.base()).max();
        if let Some(largest) = largest.filter(|_| is_fixed) {
            spec.stride = Stride::KernelBlocks(largest);
        }
    }
    spec
}

/// The block of a windowed layer: the largest that its kernel takes and whose page is no larger
/// than that of `block_size` tokens.
pub(crate) fn window_block(
    backend: Backend,
    request: &Request<'_>,
    spec: &Spec,
    block_size: u64,
) -> u64 {
    let one = Spec { block_size: 1, ..spec.clone() };
    let sizes = sizes(backend, request, Some(&one));
    let fitting = sizes.iter().filter_map(|size| match *size {
        Size::Exactly(size) => (size <= block_size).then_some(size),
        Size::MultipleOf(base) => {
            let size = (block_size / base * base).max(base);
            (size <= block_size).then_some(size)
        }
    });
    fitting.max().unwrap_or_else(|| Size::smallest(&sizes))
}
