//! DeepSeek V4: latents of one or many tokens, compressors, an indexer, hyper-connections.
//!
//! As vLLM 0.32 builds it in `models/deepseek_v4`.

use super::Family;
use super::limits::{
    EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX, WIDTH_MAX,
};
use super::parts::gated_mlp;
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{
    CacheKind, Compressed, Compressor, Indexer, IndexerStorage, WindowLatent,
};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, kind, wrong};
use crate::model::weights::module::{Experts, Linear, Param, Split};

pub(super) static FAMILIES: &[Family] = &[Family {
    architectures: &["DeepseekV4ForCausalLM"],
    model_types: &["deepseek_v4"],
    rule: deepseek_v4,
}];

/// A latent in the packed form: 448 elements in fp8, 64 rotary ones in bf16, 8 bytes of scales.
const STATE_BYTES: u32 = 584;
/// FlashMLA's stride of packed pages.
const ALIGNMENT: u32 = 576;
/// Query heads that FlashMLA's kernel takes come in multiples of this, so sinks are padded to it.
const SINK_MULTIPLE: u64 = 64;
/// The ratio at which neighbouring groups overlap, so that everything is there twice.
const OVERLAPPING: u32 = 4;

/// Sizes of one model.
struct V4 {
    dims: Dims,
    hidden: u64,
    q_rank: u64,
    o_rank: u64,
    o_groups: u64,
    window: u32,
    /// Tokens that share one latent, by layer; 1: none do.
    ratios: Vec<u32>,
    index_heads: u64,
    index_dim: u32,
    experts: u64,
    /// Width of the shared experts, 0 without.
    shared: u64,
    experts_per_token: u64,
    hash_layers: u32,
    score_bias: bool,
    vision: bool,
    /// Streams of the residual.
    streams: u64,
    /// Rows of a quantised block, which the shared experts are cut along.
    unit: Option<u64>,
}

fn deepseek_v4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let v4 = V4::read(&config.text, &config.root)?;
    b.dims = v4.dims.clone();
    b.scope("model", |b| {
        b.vocabulary("embed_tokens", v4.dims.vocab, v4.hidden);
        for (layer, &ratio) in (0..).zip(&v4.ratios) {
            b.scope(&format!("layers.{layer}"), |b| {
                b.scope("attn", |b| v4.attention(b, layer, ratio));
                b.scope("ffn", |b| v4.experts(b, layer));
                b.rms_norm("attn_norm", v4.hidden);
                b.rms_norm("ffn_norm", v4.hidden);
                v4.hyper_connections(b);
            });
        }
        b.rms_norm("norm", v4.hidden);
        let streams = v4.streams;
        let head = streams.saturating_mul(streams).saturating_mul(v4.hidden);
        for (name, elements) in
            [("hc_head_fn", head), ("hc_head_base", streams), ("hc_head_scale", 1)]
        {
            b.param(name, Param::whole(elements).dtype(Dtype::Float32));
        }
    });
    b.head("lm_head", v4.dims.vocab, v4.hidden, false);
    Ok(())
}

impl V4 {
    fn read(fields: &Fields<'_>, root: &Fields<'_>) -> Result<Self> {
        let size = |name: &str, max: u32| fields.required(&[name], max);
        let inner = size("moe_intermediate_size", INNER_MAX)?;
        let heads = size("num_attention_heads", HEADS_MAX)?;
        let hidden = size("hidden_size", WIDTH_MAX)?;
        let dims = Dims {
            layers: size("num_hidden_layers", LAYERS_MAX)?,
            heads,
            kv_heads: 1,
            head_dim: size("head_dim", HEAD_DIM_MAX)?,
            hidden,
            inner,
            vocab: size("vocab_size", VOCAB_MAX)?,
            tokens_max: Some(
                fields.count("max_position_embeddings", TOKENS_MAX)?.unwrap_or(1 << 20),
            ),
        };
        let shared = fields.count_or_zero("n_shared_experts", EXPERTS_MAX)?;
        let o_groups = size("o_groups", HEADS_MAX)?;
        if !heads.is_multiple_of(o_groups) {
            let problem = format!("{o_groups} does not divide the {heads} query heads");
            return Err(wrong(fields.path("o_groups"), problem));
        }
        Ok(Self {
            hidden: hidden.into(),
            q_rank: size("q_lora_rank", WIDTH_MAX)?.into(),
            o_rank: size("o_lora_rank", WIDTH_MAX)?.into(),
            o_groups: o_groups.into(),
            window: size("sliding_window", TOKENS_MAX)?,
            ratios: ratios(fields, &dims)?,
            index_heads: size("index_n_heads", HEADS_MAX)?.into(),
            index_dim: size("index_head_dim", HEAD_DIM_MAX)?,
            experts: size("n_routed_experts", EXPERTS_MAX)?.into(),
            shared: u64::from(inner).saturating_mul(shared.into()),
            experts_per_token: size("num_experts_per_tok", EXPERTS_MAX)?.into(),
            hash_layers: fields.count_or_zero("num_hash_layers", LAYERS_MAX)?,
            score_bias: fields.text("topk_method")? == Some("noaux_tc"),
            vision: fields.count_or_zero("vision_n_layers", LAYERS_MAX)? > 0,
            streams: size("hc_mult", HEADS_MAX)?.into(),
            unit: block_rows(root)?,
            dims,
        })
    }

    fn head_dim(&self) -> u64 {
        self.dims.head_dim.into()
    }

    /// Projections and caches, in the order in which vLLM registers them.
    fn attention(&self, b: &mut Builder, layer: u32, ratio: u32) {
        let heads = u64::from(self.dims.heads);
        let width = heads.saturating_mul(self.head_dim());
        b.param(
            "attn_sink",
            Param::divided(heads).multiple_of(SINK_MULTIPLE).dtype(Dtype::Float32),
        );
        let input = Linear::new(Split::Replicated, self.hidden, [self.q_rank, self.head_dim()]);
        b.linear("fused_wqa_wkv", input);
        b.rms_norm("q_norm", self.q_rank);
        b.linear("wq_b", Linear::column(self.q_rank, width));
        b.rms_norm("kv_norm", self.head_dim());
        let groups = self.o_groups.saturating_mul(self.o_rank);
        b.linear("wo_a", Linear::column(width / self.o_groups, groups));
        b.linear("wo_b", Linear::row(groups, self.hidden));
        if ratio == OVERLAPPING {
            b.scope("indexer", |b| self.indexer(b, layer, ratio));
        }
        let heads = self.dims.heads;
        let (head_dim, window) = (self.dims.head_dim, self.window);
        let (state_bytes, alignment) = (STATE_BYTES, ALIGNMENT);
        let recent = WindowLatent { heads, head_dim, window, state_bytes, alignment };
        b.cache(layer, CacheKind::WindowLatent(recent));
        if ratio > 1 {
            let tokens_per_state = ratio;
            let latent = Compressed { heads, head_dim, tokens_per_state, state_bytes, alignment };
            b.cache(layer, CacheKind::Compressed(latent));
            self.compressor(b, layer, ratio, head_dim);
        }
    }

    fn indexer(&self, b: &mut Builder, layer: u32, ratio: u32) {
        let width = u64::from(self.index_dim).saturating_mul(self.index_heads);
        b.linear("wq_b", Linear::replicated(self.q_rank, width));
        b.linear("weights_proj", Linear::replicated(self.hidden, self.index_heads).plain());
        let (head_dim, storage) = (self.index_dim, IndexerStorage::Fp8WithScales);
        let keys = Indexer { head_dim, storage, tokens_per_state: ratio };
        b.cache(layer, CacheKind::Indexer(keys));
        self.compressor(b, layer, ratio, head_dim);
    }

    /// What makes one latent of `ratio` tokens, and what it keeps of those it has not used yet.
    fn compressor(&self, b: &mut Builder, layer: u32, ratio: u32, head_dim: u32) {
        let copies = if ratio == OVERLAPPING { 2 } else { 1 };
        let width = u64::from(head_dim) * copies;
        b.scope("compressor", |b| {
            let positions = u64::from(ratio).saturating_mul(width);
            b.param("ape", Param::whole(positions).dtype(Dtype::Float32));
            let both = Linear::new(Split::Replicated, self.hidden, [width, width]).plain();
            b.linear("fused_wkv_wgate", both);
            b.rms_norm("norm", head_dim);
        });
        let copies = if ratio == OVERLAPPING { 2 } else { 1 };
        let state = Compressor {
            // Keys and scores.
            width: head_dim.saturating_mul(2 * copies),
            ratio,
            window: ratio.saturating_mul(copies),
            alignment: ALIGNMENT,
        };
        b.cache(layer, CacheKind::Compressor(state));
    }

    fn experts(&self, b: &mut Builder, layer: u32) {
        b.linear("gate", Linear::replicated(self.hidden, self.experts).plain());
        let is_hashed = layer < self.hash_layers;
        if is_hashed {
            let table = u64::from(self.dims.vocab).saturating_mul(self.experts_per_token);
            b.param("gate.tid2eid", Param::whole(table).dtype(Dtype::Int32));
        }
        let biases = [
            ("gate.e_score_correction_bias", self.score_bias && (!is_hashed || self.vision)),
            ("gate.bias_vl", self.vision),
        ];
        for (name, _) in biases.iter().filter(|(_, exists)| *exists) {
            b.param(name, Param::whole(self.experts).dtype(Dtype::Float32));
        }
        if self.shared > 0 {
            b.scope("shared_experts", |b| match self.unit {
                None => gated_mlp(b, self.hidden, self.shared, false),
                unit => {
                    let input = Linear::merged(self.hidden, [self.shared, self.shared]);
                    b.linear("gate_up_proj", input.in_units(unit));
                    b.linear("down_proj", Linear::row(self.shared, self.hidden).in_units(unit));
                }
            });
        }
        let (experts, hidden, inner) = (self.experts, self.hidden, u64::from(self.dims.inner));
        b.experts("experts", Experts::gated(experts, hidden, inner).fusible(false));
    }

    /// Mixing of the streams before attention and experts.
    fn hyper_connections(&self, b: &mut Builder) {
        let mixes = self.streams.saturating_add(2).saturating_mul(self.streams);
        let width = self.streams.saturating_mul(self.hidden);
        for part in ["attn", "ffn"] {
            let tensors = [("fn", mixes.saturating_mul(width)), ("base", mixes), ("scale", 3)];
            for (name, elements) in tensors {
                let param = Param::whole(elements).dtype(Dtype::Float32);
                b.param(&format!("hc_{part}_{name}"), param);
            }
        }
    }
}

/// `compress_ratios`, which may go on for layers that are not built (MTP).
fn ratios(fields: &Fields<'_>, dims: &Dims) -> Result<Vec<u32>> {
    const NAME: &str = "compress_ratios";
    let ratios = fields.counts(NAME, TOKENS_MAX)?.ok_or_else(|| {
        wrong(fields.path(NAME), "missing, and its value is not the same for every model")
    })?;
    let layers = usize::try_from(dims.layers).unwrap_or(usize::MAX);
    let Some(ratios) = ratios.get(..layers) else {
        let problem = format!("{} entries for {layers} layers", ratios.len());
        return Err(wrong(fields.path(NAME), problem));
    };
    if let Some(at) = ratios.iter().position(|ratio| !matches!(ratio, 0 | 1 | 4 | 128)) {
        let problem = format!("{}; expected 0, 1, 4 or 128", ratios[at]);
        return Err(wrong(format!("{}[{at}]", fields.path(NAME)), problem));
    }
    Ok(ratios.iter().map(|&ratio| ratio.max(1)).collect())
}

/// Rows of a block of the checkpoint's quantisation, if it has blocks.
fn block_rows(root: &Fields<'_>) -> Result<Option<u64>> {
    let Some(quantization) = root.object("quantization_config")? else { return Ok(None) };
    let sizes = quantization.counts("weight_block_size", WIDTH_MAX)?.unwrap_or_default();
    match sizes.first() {
        None => Ok(None),
        Some(&rows) if rows > 0 => Ok(Some(rows.into())),
        Some(_) => {
            let found = quantization.value("weight_block_size").map(kind).unwrap_or_default();
            let field = quantization.path("weight_block_size");
            Err(wrong(field, format!("{found}; its first entry is 0")))
        }
    }
}
