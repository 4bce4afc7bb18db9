//! Multi-head latent attention (MLA), and the decoder that most models with it share.
//!
//! As vLLM 0.32 builds it in `deepseek_v2.py` (`DeepseekV2MLAAttention`, `DeepseekV2MoE`) and
//! `models/deepseek_v32`.

use super::limits::{
    EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX, WIDTH_MAX,
};
use super::parts::gated_mlp;
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{Attention, CacheKind, Indexer, IndexerStorage, Latent, Reach};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param, Routing, Split};

/// What a config class holds where a field is absent.
pub(super) type Defaults = &'static [(&'static str, u32)];

/// Fields as a config class reads them.
pub(super) struct Class<'a> {
    pub(super) fields: &'a Fields<'a>,
    pub(super) defaults: Defaults,
}

impl Class<'_> {
    /// A size of at least 1, the first of several names that is there.
    pub(super) fn size(&self, names: &[&str], max: u32) -> Result<u32> {
        let default = self.defaults.iter().find(|(name, _)| names.contains(name));
        match (self.fields.count_of(names, max)?, default) {
            (Some(size), _) => Ok(size),
            (None, Some(&(_, size))) if !names.iter().any(|n| self.fields.is_present(n)) => {
                Ok(size)
            }
            (None, _) => self.fields.required(names, max),
        }
    }

    /// A number that may be 0; null, or absent without a default, is `None`.
    pub(super) fn optional(&self, name: &str, max: u32) -> Result<Option<u32>> {
        if self.fields.value(name).is_some() {
            return self.fields.count_or_zero(name, max).map(Some);
        }
        if self.fields.is_present(name) {
            return Ok(None);
        }
        Ok(self.defaults.iter().find(|(field, _)| *field == name).map(|&(_, number)| number))
    }

    /// A number that may be 0 but must be there.
    pub(super) fn number(&self, name: &str, max: u32) -> Result<u32> {
        match self.optional(name, max)? {
            Some(number) => Ok(number),
            None => self.fields.required(&[name], max),
        }
    }

    /// The usual sizes; KV heads and head size are those of the query heads, as MLA has no other.
    pub(super) fn dims(&self, layers: &[&str]) -> Result<Dims> {
        let heads = self.size(&["num_attention_heads"], HEADS_MAX)?;
        let inner = ["intermediate_size", "ffn_hidden_size"];
        Ok(Dims {
            layers: self.size(layers, LAYERS_MAX)?,
            heads,
            kv_heads: self.optional("num_key_value_heads", HEADS_MAX)?.unwrap_or(heads).max(1),
            head_dim: 0,
            hidden: self.size(&["hidden_size"], WIDTH_MAX)?,
            inner: self.size(&inner, INNER_MAX)?,
            vocab: self.size(&["vocab_size"], VOCAB_MAX)?,
            tokens_max: self.optional("max_position_embeddings", TOKENS_MAX)?,
        })
    }
}

/// Sizes of latent attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mla {
    pub(super) hidden: u64,
    pub(super) heads: u32,
    /// Queries go through a matrix of this rank.
    pub(super) q_rank: Option<u32>,
    pub(super) kv_rank: u32,
    pub(super) nope: u32,
    pub(super) rope: u32,
    pub(super) value: u32,
}

impl Mla {
    pub(super) fn read(class: &Class<'_>, dims: &Dims) -> Result<Self> {
        let mla = Self {
            hidden: dims.hidden.into(),
            heads: dims.heads,
            q_rank: class.optional("q_lora_rank", WIDTH_MAX)?,
            kv_rank: class.size(&["kv_lora_rank"], HEAD_DIM_MAX)?,
            nope: class.number("qk_nope_head_dim", HEAD_DIM_MAX)?,
            rope: class.number("qk_rope_head_dim", HEAD_DIM_MAX)?,
            value: class.size(&["v_head_dim"], HEAD_DIM_MAX)?,
        };
        if mla.q_rank == Some(0) {
            return Err(wrong(class.fields.path("q_lora_rank"), "0; null is for none"));
        }
        if mla.key_dim() == 0 {
            let problem = "0, and so is qk_rope_head_dim: no query is left";
            return Err(wrong(class.fields.path("qk_nope_head_dim"), problem));
        }
        Ok(mla)
    }

    pub(super) fn key_dim(&self) -> u32 {
        self.nope.saturating_add(self.rope)
    }

    fn width(&self, dim: u32) -> u64 {
        u64::from(self.heads).saturating_mul(dim.into())
    }

    /// The projections, under the current scope; `fused`: those of the input are one matrix.
    pub(super) fn build(&self, b: &mut Builder, fused: bool) {
        let kv = u64::from(self.kv_rank) + u64::from(self.rope);
        let queries = self.width(self.key_dim());
        match self.q_rank.map(u64::from) {
            Some(rank) => {
                if fused {
                    let both = Linear::new(Split::Replicated, self.hidden, [rank, kv]);
                    b.linear("fused_qkv_a_proj", both);
                } else {
                    b.linear("q_a_proj", Linear::replicated(self.hidden, rank));
                    b.linear("kv_a_proj_with_mqa", Linear::replicated(self.hidden, kv));
                }
                b.rms_norm("q_a_layernorm", rank);
                b.linear("q_b_proj", Linear::column(rank, queries));
            }
            None => {
                b.linear("kv_a_proj_with_mqa", Linear::replicated(self.hidden, kv));
                b.linear("q_proj", Linear::column(self.hidden, queries));
            }
        }
        b.rms_norm("kv_a_layernorm", self.kv_rank);
        let expanded = self.width(self.nope.saturating_add(self.value));
        b.linear("kv_b_proj", Linear::column(self.kv_rank.into(), expanded));
        b.linear("o_proj", Linear::row(self.width(self.value), self.hidden));
    }

    /// The latent of every token.
    pub(super) fn cache(&self, sparse: bool, leads: bool) -> CacheKind {
        self.sink_cache(sparse, leads, false)
    }

    /// As [`Self::cache`], of attention with learned sinks.
    pub(super) fn sink_cache(&self, sparse: bool, leads: bool, sinks: bool) -> CacheKind {
        CacheKind::Latent(Latent {
            heads: self.heads,
            lora_rank: self.kv_rank,
            rope_dim: self.rope,
            nope_dim: self.nope,
            value_dim: self.value,
            sparse,
            leads,
            sinks,
        })
    }

    /// Keys and values of every head, the values padded to the keys' size: what vLLM keeps where it
    /// does not know the model type as one of latent attention.
    pub(super) fn expanded_cache(&self) -> CacheKind {
        CacheKind::Attention(Attention {
            heads: self.heads,
            kv_heads: self.heads,
            key_dim: self.key_dim(),
            value_dim: self.key_dim(),
            reach: Reach::Full,
            sinks: false,
        })
    }
}

/// The indexer of sparse attention (DeepSeek V3.2), and which layers have one of their own.
#[derive(Clone, Debug)]
pub(super) struct Index {
    heads: u64,
    head_dim: u32,
    /// Layers that use the selection of a layer before them.
    shared: Vec<bool>,
}

impl Index {
    /// `None` without `index_topk`.
    pub(super) fn read(class: &Class<'_>, layers: u32) -> Result<Option<Self>> {
        if class.optional("index_topk", TOKENS_MAX)?.is_none() {
            return Ok(None);
        }
        let fields = class.fields;
        let freq = fields.count("index_topk_freq", LAYERS_MAX)?.unwrap_or(1);
        let offset = match fields.value("index_skip_topk_offset") {
            Some(_) => fields.count_or_zero("index_skip_topk_offset", LAYERS_MAX)?,
            None => 2,
        };
        let pattern = index_pattern(fields)?;
        let is_shared = |layer: u32| match &pattern {
            // A pattern shorter than the model leaves the rest their own (`deepseek_v2.py`).
            Some(pattern) => {
                usize::try_from(layer).ok().and_then(|at| pattern.get(at)) == Some(&true)
            }
            None => (layer + 1).saturating_sub(offset) % freq != 0,
        };
        Ok(Some(Self {
            heads: class.size(&["index_n_heads"], HEADS_MAX)?.into(),
            head_dim: class.size(&["index_head_dim"], HEAD_DIM_MAX)?,
            shared: (0..layers).map(is_shared).collect(),
        }))
    }

    /// With the layers listed that use another's selection.
    pub(super) fn sharing(mut self, shared: Vec<bool>) -> Self {
        self.shared = shared;
        self
    }

    pub(super) fn leads(&self, layer: u32) -> bool {
        let shared = usize::try_from(layer).ok().and_then(|at| self.shared.get(at).copied());
        !shared.unwrap_or(false)
    }

    /// The indexer's matrices, under the current scope.
    pub(super) fn build(&self, b: &mut Builder, hidden: u64, q_rank: u64) {
        let dim = u64::from(self.head_dim);
        b.scope("indexer", |b| {
            b.linear("wq_b", Linear::replicated(q_rank, dim.saturating_mul(self.heads)));
            let both = Linear::new(Split::Replicated, hidden, [dim, self.heads]).plain();
            b.linear("wk_weights_proj", both);
            b.param("k_norm", Param::whole(2 * dim).dtype(Dtype::Float32));
        });
    }

    pub(super) fn cache(&self) -> CacheKind {
        CacheKind::Indexer(Indexer {
            head_dim: self.head_dim,
            storage: IndexerStorage::Fp8WithScales,
            tokens_per_state: 1,
        })
    }
}

/// `index_topk_pattern`: a string or list of `F` (own indexer) and `S` (shared) by layer.
fn index_pattern(fields: &Fields<'_>) -> Result<Option<Vec<bool>>> {
    const NAME: &str = "index_topk_pattern";
    match fields.value(NAME) {
        None => Ok(None),
        Some(serde_json::Value::String(text)) => {
            Ok(Some(text.chars().map(|kind| kind == 'S').collect()))
        }
        Some(_) => Ok(Some(fields.texts(NAME)?.iter().map(|&kind| kind == "S").collect())),
    }
}

/// Routed experts with a router and shared experts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moe {
    pub(super) experts: u64,
    pub(super) inner: u64,
    /// Width of the shared experts together, 0 without.
    pub(super) shared: u64,
    /// Dtype of the router's matrix, if not the model's.
    pub(super) router: Option<Dtype>,
    /// The router has a bias of the scores, in float32.
    pub(super) score_bias: bool,
    /// How else the router chooses.
    pub(super) routing: Routing,
}

impl Moe {
    /// `None` without routed experts. `score_bias` is left to the caller.
    pub(super) fn read(class: &Class<'_>) -> Result<Option<Self>> {
        let Some(experts) = class.optional("n_routed_experts", EXPERTS_MAX)?.filter(|&n| n > 0)
        else {
            return Ok(None);
        };
        let inner = ["moe_intermediate_size", "expert_ffn_hidden_size"];
        let inner = u64::from(class.size(&inner, INNER_MAX)?);
        let shared = class.optional("n_shared_experts", EXPERTS_MAX)?.unwrap_or(0);
        Ok(Some(Self {
            experts: experts.into(),
            inner,
            shared: inner.saturating_mul(shared.into()),
            router: None,
            score_bias: false,
            routing: Routing {
                is_sigmoid: true,
                renormalizes: class.fields.flag("norm_topk_prob", true)?,
                has_bias: false,
            },
        }))
    }

    /// Under the scope of the MLP.
    pub(super) fn build(&self, b: &mut Builder, hidden: u64) {
        let mut gate = Linear::replicated(hidden, self.experts).plain();
        gate.dtype = self.router;
        b.linear("gate", gate);
        if self.score_bias {
            let bias = Param::whole(self.experts).dtype(Dtype::Float32);
            b.param("gate.e_score_correction_bias", bias);
        }
        if self.shared > 0 {
            b.scope("shared_experts", |b| gated_mlp(b, hidden, self.shared, false));
        }
        let (experts, inner) = (self.experts, self.inner);
        let routing = Routing { has_bias: self.score_bias, ..self.routing };
        let experts = Experts::gated(experts, hidden, inner).fusible(routing.is_fusible());
        b.experts("experts", experts);
    }
}

/// Which attention the layers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Latents are cached.
    Latent,
    /// Keys and values are computed from the latent and cached.
    Expanded,
}

/// A decoder of latent attention whose first layers have a dense MLP.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    pub(super) dims: Dims,
    pub(super) form: Form,
    pub(super) mla: Mla,
    pub(super) index: Option<Index>,
    pub(super) moe: Option<Moe>,
    pub(super) dense_layers: u32,
    /// Every so many-th layer has experts.
    pub(super) moe_every: u32,
    /// The layer from which those are counted.
    pub(super) moe_from: u32,
    pub(super) norms: &'static [&'static str],
    pub(super) tied: bool,
    /// Projections of a latent layer's input are one matrix.
    pub(super) fused: bool,
}

/// Norms of a layer as most models have them.
pub(super) const NORMS: &[&str] = &["input_layernorm", "post_attention_layernorm"];

impl Decoder {
    /// As the config says, caching latents, with two norms a layer and an output matrix of its own.
    pub(super) fn read(class: &Class<'_>) -> Result<Self> {
        let mut dims = class.dims(&["num_hidden_layers"])?;
        let mla = Mla::read(class, &dims)?;
        dims.head_dim = mla.key_dim();
        let moe = Moe::read(class)?;
        let dense_layers = match &moe {
            Some(_) => class.number("first_k_dense_replace", LAYERS_MAX)?,
            None => 0,
        };
        Ok(Self {
            form: Form::Latent,
            index: Index::read(class, dims.layers)?,
            mla,
            moe,
            dense_layers,
            moe_every: class.fields.count("moe_layer_freq", LAYERS_MAX)?.unwrap_or(1),
            moe_from: 0,
            norms: NORMS,
            tied: false,
            fused: true,
            dims,
        })
    }

    /// Everything, under the scopes `model` and `lm_head`.
    pub(super) fn build(&self, b: &mut Builder) {
        b.dims = self.dims.clone();
        let hidden = u64::from(self.dims.hidden);
        b.vocabulary("model.embed_tokens", self.dims.vocab, hidden);
        for layer in 0..self.dims.layers {
            b.scope(&format!("model.layers.{layer}"), |b| self.layer(b, layer));
        }
        b.rms_norm("model.norm", hidden);
        if !self.tied {
            b.head("lm_head", self.dims.vocab, hidden, false);
        }
    }

    fn layer(&self, b: &mut Builder, layer: u32) {
        let hidden = u64::from(self.dims.hidden);
        b.scope("self_attn", |b| self.attention(b, layer));
        let counted = layer.saturating_sub(self.moe_from);
        let has_experts =
            layer >= self.dense_layers && counted.is_multiple_of(self.moe_every.max(1));
        b.scope("mlp", |b| match self.moe.filter(|_| has_experts) {
            Some(moe) => moe.build(b, hidden),
            None => gated_mlp(b, hidden, self.dims.inner.into(), false),
        });
        for name in self.norms {
            b.rms_norm(name, hidden);
        }
    }

    fn attention(&self, b: &mut Builder, layer: u32) {
        if self.form == Form::Expanded {
            self.mla.build(b, false);
            b.cache(layer, self.mla.expanded_cache());
            return;
        }
        self.mla.build(b, self.fused);
        let index = self.index.as_ref();
        let leads = index.is_some_and(|index| index.leads(layer));
        if let Some(index) = index.filter(|_| leads) {
            index.build(b, self.mla.hidden, self.mla.q_rank.unwrap_or(0).into());
            b.cache(layer, index.cache());
        }
        b.cache(layer, self.mla.cache(index.is_some(), leads));
    }
}
