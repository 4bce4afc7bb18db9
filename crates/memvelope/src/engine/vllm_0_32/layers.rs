//! The cache of each layer on one rank.

use super::backend::{self, Backend, Request};
use super::groups::PoolLayout;
use super::parameters;
use super::spec::{Role, Spec};
use super::{cpu, defaults, hybrid, kernel};
use crate::engine::DeviceKind;
use crate::engine::params::{KvDtype, Params};
use crate::model::cache::{
    Attention, Cache, CacheKind, Indexer, IndexerStorage, Latent, Reach, State, StateShape,
};
use crate::model::{Dtype, Layout, Refusal, RefusalRule};
use std::collections::HashSet;

/// Bytes of a token in DeepSeek's packed MLA format (`vllm/.../mla_attention.py`).
const DS_MLA_BYTES: u64 = 656;
/// Block of DeepSeek V4's windowed latents, and what its pages are rounded up to
/// (`vllm/models/deepseek_v4`).
const V4_WINDOW_BLOCK: u64 = 64;
const V4_ALIGNMENT: u64 = 576;

/// What is known before layers are grouped.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) specs: Vec<Spec>,
    pub(super) pool: PoolLayout,
    pub(super) kv_dtype: KvDtype,
    pub(super) block_size: u64,
    pub(super) backends: Vec<&'static str>,
    pub(super) is_state_aligned: bool,
}

/// Everything that the caches of layers depend on.
struct Context<'a> {
    layout: &'a Layout,
    params: &'a Params,
    kv_dtype: KvDtype,
    model_head_size: u64,
}

pub(super) fn plan(layout: &Layout, params: &Params) -> Result<Plan, Refusal> {
    let resolved = kv_dtype(layout, params)?;
    let kv_dtype = if layout.ignores_kv_dtype { own_kv_dtype(layout) } else { resolved };
    let mut context =
        Context { layout, params, kv_dtype, model_head_size: model_head_size(layout) };
    // Consecutive layers are mostly alike: kernels are chosen once for each kind of cache.
    // Layers alike but for an indexer have different ones.
    let indexed = context.indexed_layers();
    let key = |cache: &'_ Cache| indexed.contains(&cache.layer);
    let mut chosen: Vec<(&CacheKind, bool, Backend)> = Vec::new();
    for cache in &layout.caches {
        let is_indexed = key(cache);
        if !chosen.iter().any(|(kind, other, _)| **kind == cache.kind && *other == is_indexed) {
            chosen.push((&cache.kind, is_indexed, context.backend(&cache.kind, is_indexed)?));
        }
    }
    for (_, _, backend) in &chosen {
        context.kv_dtype = packed_by(*backend, context.kv_dtype);
    }
    let kv_dtype = if layout.ignores_kv_dtype { resolved } else { context.kv_dtype };
    let mut backends: Vec<(Backend, Request<'_>)> = Vec::new();
    for (kind, _, backend) in &chosen {
        if *backend != Backend::State && !backends.iter().any(|(known, _)| known == backend) {
            backends.push((*backend, context.request(kind)));
        }
    }
    let block_size = match params.block_size {
        _ if params.device.kind == DeviceKind::Cpu => cpu::block_size(layout, params),
        Some(size) => size.into(),
        None if backends.is_empty() => defaults::BLOCK_SIZE,
        None => kernel::preferred(&backends, defaults::BLOCK_SIZE)?,
    };
    let alignment = context.align(&backends, block_size)?;
    cpu::check_aligned(&backends, alignment.block_size)?;
    let is_state_aligned = context.is_state_aligned();
    let mut kinds: Vec<(&CacheKind, bool, Spec)> = Vec::new();
    for (kind, is_indexed, backend) in &chosen {
        let spec = context.spec(kind, *backend, alignment)?;
        parameters::check_block(&spec)?;
        kinds.push((kind, *is_indexed, spec));
    }
    let spec = |cache: &Cache| {
        let mut same = kinds.iter().filter(|(kind, _, _)| **kind == cache.kind);
        same.find(|(_, other, _)| *other == key(cache)).map(|(_, _, spec)| spec.clone())
    };
    let specs = layout.caches.iter().filter_map(spec).collect();
    let mut names: Vec<&'static str> = backends.iter().map(|(backend, _)| backend.name()).collect();
    names.sort_unstable();
    Ok(Plan {
        specs,
        pool: match kv_dtype {
            // DeepSeek V4 packs pages of many sizes side by side.
            _ if layout.caches.iter().any(|c| matches!(c.kind, CacheKind::WindowLatent(_))) => {
                PoolLayout::BlockOutermost
            }
            _ => PoolLayout::LayerOutermost,
        },
        kv_dtype,
        block_size: alignment.block_size,
        backends: names,
        is_state_aligned,
    })
}

/// The KV cache dtype in force: what the operator says, else what the checkpoint says, else what
/// the architecture's own hook says (`vllm/model_executor/models/config.py`).
fn kv_dtype(layout: &Layout, params: &Params) -> Result<KvDtype, Refusal> {
    // Where no layer takes the cache's options, that of compressed-tensors is not written back.
    let seen = |name: &&str| !(layout.ignores_kv_dtype && *name == "fp8");
    let checkpoint =
        || layout.checkpoint_kv_dtype().filter(seen).and_then(|name| name.parse().ok());
    let given = match params.kv_dtype {
        KvDtype::Auto => checkpoint().unwrap_or(KvDtype::Auto),
        given => given,
    };
    let is_v4 = layout.caches.iter().any(|cache| matches!(cache.kind, CacheKind::WindowLatent(_)));
    let is_fp8 = given.name().starts_with("fp8");
    match given {
        _ if is_v4 && (is_fp8 || given == KvDtype::Auto) => Ok(KvDtype::Fp8DsMla),
        _ if is_v4 => {
            let reason = format!(
                "KV cache dtype {given}: this model keeps its latents in fp8; use fp8 or auto"
            );
            Err(Refusal::new(RefusalRule::Dtype, reason))
        }
        KvDtype::Auto
            if layout.architecture == "GlmMoeDsaForCausalLM"
                && params.device.capability().0 == 10 =>
        {
            Ok(KvDtype::Fp8E4m3)
        }
        KvDtype::Bfloat16 if layout.architecture == "DeepseekV32ForCausalLM" => Ok(KvDtype::Auto),
        _ => Ok(given),
    }
}

/// The KV cache dtype of layers that are built without the cache's options: only a scheme of
/// compressed-tensors reaches them, with the quantisation of their matrices.
fn own_kv_dtype(layout: &Layout) -> KvDtype {
    match layout.checkpoint_kv_dtype() {
        Some("fp8") => KvDtype::Fp8,
        _ => KvDtype::Auto,
    }
}

/// Sparse MLA kernels keep the cache in a packed form of their own
/// (`_canonicalize_sparse_mla_kv_cache_dtype`): 656 bytes a token on Hopper.
fn packed_by(backend: Backend, kv_dtype: KvDtype) -> KvDtype {
    match backend {
        Backend::FlashmlaSparse if kv_dtype.is_fp8_per_tensor() => KvDtype::Fp8DsMla,
        Backend::FlashinferMlaSparseSm120
            if kv_dtype.is_fp8_per_tensor() || kv_dtype == KvDtype::Auto =>
        {
            KvDtype::Fp8DsMla
        }
        _ => kv_dtype,
    }
}

/// vLLM's `get_head_size`: of the model as a whole.
fn model_head_size(layout: &Layout) -> u64 {
    let of = |kind: &CacheKind| match kind {
        CacheKind::Attention(attention) => u64::from(attention.key_dim),
        CacheKind::Latent(latent) => u64::from(latent.lora_rank) + u64::from(latent.rope_dim),
        _ => 0,
    };
    let largest = layout.caches.iter().map(|cache| of(&cache.kind)).max().unwrap_or(0);
    if largest == 0 { layout.head_dim.into() } else { largest }
}

/// Architectures with a hook for heads of several sizes (`models/config.py`, `Gemma4Config`).
const MIXED_HEADS: &[&str] = &[
    "Gemma4ForCausalLM",
    "Gemma4ForConditionalGeneration",
    "Gemma4UnifiedForConditionalGeneration",
    NON_CAUSAL,
];

/// Tokens of a block see each other in both directions (`DiffusionGemmaModelForBlockDiffusionConfig`).
const NON_CAUSAL: &str = "DiffusionGemmaForBlockDiffusion";

impl Context<'_> {
    fn tp(&self) -> u64 {
        self.params.tensor_parallel.into()
    }

    /// The dtype of cached elements.
    fn element(&self) -> Dtype {
        match self.kv_dtype {
            KvDtype::Auto => self.layout.dtype,
            KvDtype::Float16 => Dtype::Float16,
            KvDtype::Bfloat16 => Dtype::Bfloat16,
            KvDtype::Int8PerTokenHead => Dtype::Int8,
            _ => Dtype::Uint8,
        }
    }

    fn request(&self, kind: &CacheKind) -> Request<'_> {
        let mut request = Request {
            device: &self.params.device,
            head_size: self.model_head_size,
            heads: u64::from(self.layout.heads) / self.tp(),
            kv_heads: (u64::from(self.layout.kv_heads) / self.tp()).max(1),
            dtype: self.layout.dtype,
            kv_dtype: self.kv_dtype,
            block_size: self.params.block_size.map(u64::from),
            is_mla: false,
            is_sparse: false,
            has_sink: false,
            is_window: false,
            is_cross: false,
            is_mm_prefix: self.layout.is_prefix_lm,
            mla_dims: [0, 0],
            model_head_size: self.model_head_size,
            has_mixed_heads: self.has_mixed_heads(),
            is_non_causal: self.layout.architecture == NON_CAUSAL,
            // Hopper serves an fp8 cache layer by layer instead.
            forces_fa4: self.has_mixed_heads()
                && !(self.params.device.capability().0 == 9 && self.kv_dtype.is_fp8_per_tensor()),
            has_soft_cap: self.layout.has_soft_cap,
            has_amx: self.params.processor.amx,
            has_alibi: self.layout.has_alibi,
            triton_only: self.layout.triton_only,
            value_size: self.model_head_size,
        };
        match kind {
            CacheKind::Attention(attention) => {
                request.head_size = attention.key_dim.into();
                request.value_size = attention.value_dim.into();
                request.has_sink = attention.sinks;
                request.is_window = matches!(attention.reach, Reach::Window(_));
            }
            CacheKind::Cross(attention) => {
                request.head_size = attention.key_dim.into();
                request.value_size = attention.value_dim.into();
                request.is_cross = true;
            }
            CacheKind::Latent(latent) => {
                request.head_size = u64::from(latent.lora_rank) + u64::from(latent.rope_dim);
                request.is_mla = true;
                request.is_sparse = latent.sparse;
                request.mla_dims = [latent.nope_dim.into(), latent.rope_dim.into()];
            }
            CacheKind::Indexer(_)
            | CacheKind::State(_)
            | CacheKind::Compressed(_)
            | CacheKind::WindowLatent(_)
            | CacheKind::Compressor(_) => {}
        }
        request
    }

    fn backend(&self, kind: &CacheKind, is_indexed: bool) -> Result<Backend, Refusal> {
        match kind {
            CacheKind::State(_) => Ok(Backend::State),
            CacheKind::Indexer(Indexer { tokens_per_state: 2.., .. }) => {
                Ok(Backend::DeepseekV4Indexer)
            }
            CacheKind::Indexer(indexer) => Ok(match indexer.storage {
                IndexerStorage::Fp8WithScales => Backend::DeepseekV32Indexer,
                IndexerStorage::Bfloat16 => Backend::MinimaxM3SparseIndexer,
            }),
            CacheKind::Compressed(_) => Ok(Backend::FlashmlaSparseDsv4),
            CacheKind::WindowLatent(_) => Ok(Backend::DeepseekSparseSwa),
            CacheKind::Compressor(_) => Ok(Backend::CompressorBackend),
            CacheKind::Attention(_) if is_indexed => {
                backend::check_indexed(&self.request(kind))?;
                Ok(Backend::MinimaxM3Sparse)
            }
            CacheKind::Attention(attention) if attention.key_dim != attention.value_dim => {
                backend::select_uneven(&self.request(kind))
            }
            CacheKind::Latent(latent) if !latent.sparse => {
                let dims = [latent.nope_dim, latent.rope_dim, latent.value_dim];
                backend::check_mla_prefill(&self.params.device, dims)?;
                backend::select(&self.request(kind))
            }
            CacheKind::Latent(Latent { sinks: true, .. }) => {
                backend::select_with_sinks(&self.request(kind))
            }
            kind => backend::select(&self.request(kind)),
        }
    }

    /// Heads of several sizes and at most 512 elements, in an architecture that vLLM looks for them
    /// in.
    fn has_mixed_heads(&self) -> bool {
        let mut sizes = self.layout.caches.iter().filter_map(|cache| match &cache.kind {
            CacheKind::Attention(attention) => Some(attention.key_dim),
            _ => None,
        });
        let first = sizes.next();
        MIXED_HEADS.contains(&self.layout.architecture.as_str())
            && sizes.any(|size| Some(size) != first)
    }

    /// Layers with an indexer that selects what they look at.
    fn indexed_layers(&self) -> HashSet<u32> {
        let is_indexer = |cache: &&Cache| matches!(cache.kind, CacheKind::Indexer(_));
        self.layout.caches.iter().filter(is_indexer).map(|cache| cache.layer).collect()
    }

    /// Whether state layers share the block pool with attention layers.
    fn is_hybrid(&self) -> bool {
        let is_state = |cache: &Cache| matches!(cache.kind, CacheKind::State(_));
        self.layout.caches.iter().any(is_state) && !self.layout.is_attention_free
    }

    /// Prefix caching keeps states at block boundaries.
    fn is_state_aligned(&self) -> bool {
        self.is_hybrid() && self.params.prefix_caching.unwrap_or(true)
    }

    /// Pages beside the two of prefix caching that hold checkpoints made during prefill. FlashKDA
    /// runs on Hopper and Blackwell, in bfloat16 (`resolve_kda_prefill_backend`).
    fn checkpoints(&self, state: &State) -> u64 {
        let has_flash = matches!(self.params.device.capability().0, 9 | 10 | 12)
            && self.layout.dtype == Dtype::Bfloat16;
        match state.shape {
            StateShape::Kda { .. } if !has_flash => 0,
            shape => shape.checkpoint_pages(),
        }
    }

    fn align(
        &self,
        backends: &[(Backend, Request<'_>)],
        block_size: u64,
    ) -> Result<hybrid::Alignment, Refusal> {
        // Without any attention there is no kernel to align to.
        if !self.is_hybrid() || backends.is_empty() {
            return Ok(hybrid::Alignment { block_size, state_page: None });
        }
        let mut state_bytes = 0;
        for cache in &self.layout.caches {
            if let CacheKind::State(state) = &cache.kind {
                let bytes = cpu::state(state, self.params)
                    .bytes(self.params.tensor_parallel, self.layout.dtype)?;
                state_bytes = state_bytes.max(bytes.0);
            }
        }
        let sizes: Vec<Vec<kernel::Size>> = backends
            .iter()
            .map(|(backend, request)| kernel::sizes(*backend, request, None))
            .collect();
        let is_mla =
            self.layout.caches.iter().any(|cache| matches!(cache.kind, CacheKind::Latent(_)));
        let element = self.element().bytes();
        let token = if is_mla {
            self.model_head_size * element
        } else {
            let kv_heads = (u64::from(self.layout.kv_heads) / self.tp()).max(1);
            let dims = [self.model_head_size; 2];
            let spec = Spec::attention(Role::Full, 1, kv_heads, dims, self.element());
            let (backend, request) = &backends[0];
            kernel::customize(*backend, request, spec).bare_page_bytes()
        };
        Ok(hybrid::align(&sizes, is_mla, token, state_bytes, block_size))
    }

    fn spec(
        &self,
        kind: &CacheKind,
        backend: Backend,
        alignment: hybrid::Alignment,
    ) -> Result<Spec, Refusal> {
        let request = self.request(kind);
        let block_size = alignment.block_size;
        let spec = match kind {
            CacheKind::Attention(attention) => {
                self.attention(attention, backend, &request, block_size)
            }
            CacheKind::Cross(attention) => self.dense(Role::Cross, attention, block_size),
            CacheKind::Latent(latent) => self.latent(latent, block_size),
            CacheKind::Indexer(indexer) => self.indexer(indexer, block_size),
            CacheKind::Compressed(latent) => Spec {
                is_fp8: true,
                content_bytes: Some(latent.state_bytes.into()),
                tokens_per_state: latent.tokens_per_state.into(),
                alignment: Some(latent.alignment.into()),
                ..Spec::attention(
                    Role::Mla,
                    block_size,
                    1,
                    [latent.head_dim.into(), 0],
                    Dtype::Uint8,
                )
            },
            CacheKind::WindowLatent(latent) => {
                let role = Role::WindowMla { window: latent.window.into() };
                Spec {
                    is_fp8: true,
                    content_bytes: Some(latent.state_bytes.into()),
                    alignment: Some(latent.alignment.into()),
                    ..Spec::attention(
                        role,
                        V4_WINDOW_BLOCK,
                        1,
                        [latent.head_dim.into(), 0],
                        Dtype::Uint8,
                    )
                }
            }
            CacheKind::Compressor(compressor) => {
                let role = Role::WindowMla { window: compressor.window.into() };
                let block = if compressor.ratio <= 4 { 4 } else { 8 };
                Spec {
                    keeps_model_dtype: true,
                    alignment: Some(compressor.alignment.into()),
                    ..Spec::attention(role, block, 1, [compressor.width.into(), 0], Dtype::Float32)
                }
            }
            CacheKind::State(state) => {
                let bytes = cpu::state(state, self.params)
                    .bytes(self.params.tensor_parallel, self.layout.dtype)?
                    .0;
                let pages = if self.is_state_aligned() { 2 + self.checkpoints(state) } else { 1 };
                let role = Role::State { bytes, pages };
                // Without prefix caching a state covers a whole sequence.
                let longest = self.params.max_model_len.or(self.layout.max_tokens);
                let block_size = match self.is_state_aligned() {
                    true => block_size,
                    false => longest.map_or(block_size, |tokens| tokens.0),
                };
                Spec {
                    page_padded: alignment.state_page,
                    ..Spec::attention(role, block_size, 1, [0, 0], Dtype::Uint8)
                }
            }
        };
        Ok(match kind {
            CacheKind::State(_) => spec,
            _ => kernel::customize(backend, &request, spec),
        })
    }

    fn dense(&self, role: Role, attention: &Attention, block_size: u64) -> Spec {
        let heads = (u64::from(attention.kv_heads) / self.tp()).max(1);
        let dims = [attention.key_dim.into(), attention.value_dim.into()];
        Spec {
            is_fp8: self.kv_dtype.is_fp8_per_tensor(),
            ..Spec::attention(role, block_size, heads, dims, self.element())
        }
    }

    fn attention(
        &self,
        attention: &Attention,
        backend: Backend,
        request: &Request<'_>,
        block_size: u64,
    ) -> Spec {
        match attention.reach {
            Reach::Full => self.dense(Role::Full, attention, block_size),
            Reach::Chunk(chunk) => {
                self.dense(Role::Chunk { chunk: chunk.into() }, attention, block_size)
            }
            Reach::Window(window) => {
                let spec =
                    self.dense(Role::Window { window: window.into() }, attention, block_size);
                let block_size = kernel::window_block(backend, request, &spec, block_size);
                Spec { block_size, ..spec }
            }
        }
    }

    fn indexer(&self, indexer: &Indexer, block_size: u64) -> Spec {
        let (dtype, dim) = match indexer.storage {
            IndexerStorage::Fp8WithScales => (Dtype::Uint8, indexer.state_bytes()),
            IndexerStorage::Bfloat16 => (Dtype::Bfloat16, indexer.head_dim.into()),
        };
        let is_shared = indexer.tokens_per_state > 1;
        Spec {
            tokens_per_state: indexer.tokens_per_state.into(),
            alignment: is_shared.then_some(V4_ALIGNMENT),
            keeps_model_dtype: true,
            marker: if is_shared { "" } else { "indexer" },
            ..Spec::attention(Role::Mla, block_size, 1, [dim, 0], dtype)
        }
    }

    fn latent(&self, latent: &Latent, block_size: u64) -> Spec {
        let width = u64::from(latent.lora_rank) + u64::from(latent.rope_dim);
        Spec {
            is_fp8: self.kv_dtype.is_fp8_per_tensor(),
            content_bytes: (self.kv_dtype == KvDtype::Fp8DsMla).then_some(DS_MLA_BYTES),
            marker: if latent.leads { "leader" } else { "" },
            ..Spec::attention(Role::Mla, block_size, 1, [width, 0], self.element())
        }
    }
}
