//! A decoder whose layers differ: attention with its own heads and reach, an MLP or experts.

use super::limits::{
    EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX, WIDTH_MAX,
};
use super::parts::gated_mlp;
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{Attention, CacheKind, Reach};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param, Routing};

/// What a config class holds where a field is absent; 0: it has no default.
#[derive(Clone, Copy, Default)]
pub(super) struct Class {
    pub(super) layers: u32,
    pub(super) hidden: u32,
    pub(super) heads: u32,
    /// 0: as many as query heads.
    pub(super) kv_heads: u32,
    /// 0: hidden size / query heads.
    pub(super) head_dim: u32,
    pub(super) inner: u32,
    pub(super) vocab: u32,
    pub(super) tokens: u32,
}

impl Class {
    /// The usual fields. A null number of KV heads is as many as query heads, a null head size
    /// hidden size / query heads.
    pub(super) fn read(&self, fields: &Fields<'_>) -> Result<Dims> {
        let layers = size(fields, "num_hidden_layers", self.layers, LAYERS_MAX)?;
        let hidden = size(fields, "hidden_size", self.hidden, WIDTH_MAX)?;
        let heads = size(fields, "num_attention_heads", self.heads, HEADS_MAX)?;
        let kv_heads = positive(fields, "num_key_value_heads", self.kv_heads, HEADS_MAX)?;
        let kv_heads = kv_heads.unwrap_or(heads);
        shared_evenly(fields, "num_key_value_heads", kv_heads, heads)?;
        let head_dim = match positive(fields, "head_dim", self.head_dim, HEAD_DIM_MAX)? {
            Some(declared) => declared,
            None => head_dim(fields, hidden, heads)?,
        };
        Ok(Dims {
            layers,
            heads,
            kv_heads,
            head_dim,
            hidden,
            inner: size(fields, "intermediate_size", self.inner, INNER_MAX)?,
            vocab: size(fields, "vocab_size", self.vocab, VOCAB_MAX)?,
            tokens_max: positive(fields, "max_position_embeddings", self.tokens, TOKENS_MAX)?,
        })
    }
}

/// A size that must be there unless the class has a default (not 0).
pub(super) fn size(fields: &Fields<'_>, name: &str, default: u32, max: u32) -> Result<u32> {
    if default > 0 && !fields.is_present(name) {
        return Ok(default);
    }
    fields.required(&[name], max)
}

/// A size that may be null, which is none; absent is the class's default, where 0 is none.
fn positive(fields: &Fields<'_>, name: &str, default: u32, max: u32) -> Result<Option<u32>> {
    match fields.is_present(name) {
        true => fields.count(name, max),
        false => Ok(Some(default).filter(|&default| default > 0)),
    }
}

/// A number that may be 0 or null, which is 0 here; absent is the class's default.
pub(super) fn optional(fields: &Fields<'_>, name: &str, default: u32, max: u32) -> Result<u32> {
    match fields.is_present(name) {
        true => fields.count_or_zero(name, max),
        false => Ok(default),
    }
}

/// Number of routed experts.
pub(super) fn experts(fields: &Fields<'_>, name: &str, default: u32) -> Result<u64> {
    size(fields, name, default, EXPERTS_MAX).map(u64::from)
}

/// Whether a text says that scores are sigmoids.
pub(super) fn is_sigmoid(fields: &Fields<'_>, name: &str, default: bool) -> Result<bool> {
    Ok(fields.text(name)?.map_or(default, |scores| scores == "sigmoid"))
}

/// Width of one expert.
pub(super) fn width(fields: &Fields<'_>, name: &str, default: u32) -> Result<u64> {
    size(fields, name, default, INNER_MAX).map(u64::from)
}

/// Query heads fall evenly on KV heads.
pub(super) fn shared_evenly(fields: &Fields<'_>, name: &str, kv: u32, heads: u32) -> Result<()> {
    if kv > 0 && heads.is_multiple_of(kv) {
        return Ok(());
    }
    Err(wrong(fields.path(name), format!("{kv} does not divide the {heads} query heads")))
}

/// Hidden size / query heads, rounded down as the model classes do.
pub(super) fn head_dim(fields: &Fields<'_>, hidden: u32, heads: u32) -> Result<u32> {
    let dim = hidden / heads.max(1);
    if (1..=HEAD_DIM_MAX).contains(&dim) {
        return Ok(dim);
    }
    let problem = format!("{hidden} over {heads} query heads is no sensible size of a head");
    Err(wrong(fields.path("hidden_size"), problem))
}

/// A list of one entry a layer, longer ones cut as some classes do.
pub(super) fn per_layer<'a, T>(
    fields: &Fields<'_>,
    name: &str,
    list: &'a [T],
    layers: u32,
) -> Result<&'a [T]> {
    let layers = usize::try_from(layers).unwrap_or(usize::MAX);
    list.get(..layers).ok_or_else(|| {
        let problem = format!("{} entries for {layers} layers", list.len());
        wrong(fields.path(name), problem)
    })
}

/// Entry of a list that [`per_layer`] has checked.
pub(super) fn at<T: Copy + Default>(list: &[T], layer: u32) -> T {
    let index = usize::try_from(layer).unwrap_or(usize::MAX);
    list.get(index).copied().unwrap_or_default()
}

/// Attention of one layer.
#[derive(Clone)]
pub(super) struct Attn {
    pub(super) scope: &'static str,
    pub(super) qkv: &'static str,
    pub(super) out: &'static str,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) key_dim: u32,
    pub(super) value_dim: u32,
    pub(super) qkv_bias: bool,
    pub(super) out_bias: bool,
    pub(super) norms: QkNorm,
    /// Norms of queries and keys.
    pub(super) norm_names: [&'static str; 2],
    /// A matrix whose output gates the attention's, and its width.
    pub(super) gate: Option<(&'static str, u64)>,
    /// Queries go through a vector of this width, and one KV head is computed whole on every rank
    /// (Step 3).
    pub(super) query_rank: Option<u64>,
    pub(super) values: Option<ValueExperts>,
    /// Learned keys that every token sees, and whether they have learned values (Pangu).
    pub(super) token_sinks: Option<(u64, bool)>,
    /// Learned sinks, one a head.
    pub(super) sinks: Option<&'static str>,
    pub(super) reach: Reach,
}

/// Norms on queries and keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    /// Over each head.
    Head,
    /// Over each head, with a bias.
    HeadWithBias,
    /// Over all heads together, whole on every rank.
    Whole,
    /// Over all heads together, divided as the heads are.
    Divided,
    /// Over each head of the keys alone.
    KeyHead,
}

/// Values computed by routed experts beside the keys (K2 Horizon).
#[derive(Clone, Copy)]
pub(super) struct ValueExperts {
    pub(super) count: u64,
    pub(super) router_bias: bool,
}

impl Attn {
    /// As the headline sizes say: full attention, without biases, norms, gate or sinks.
    pub(super) fn of(dims: &Dims) -> Self {
        Self {
            scope: "self_attn",
            qkv: "qkv_proj",
            out: "o_proj",
            heads: dims.heads,
            kv_heads: dims.kv_heads,
            key_dim: dims.head_dim,
            value_dim: dims.head_dim,
            qkv_bias: false,
            out_bias: false,
            norms: QkNorm::None,
            norm_names: ["q_norm", "k_norm"],
            gate: None,
            query_rank: None,
            values: None,
            token_sinks: None,
            sinks: None,
            reach: Reach::Full,
        }
    }

    pub(super) fn build(&self, b: &mut Builder, layer: u32, hidden: u64) {
        let heads = u64::from(self.heads);
        b.scope(self.scope, |b| {
            self.projections(b, hidden);
            let width = heads * u64::from(self.value_dim);
            b.linear(self.out, Linear::row(width, hidden).bias(self.out_bias));
            for (name, norm) in self.norm_names.iter().zip(self.qk_norms()) {
                b.param(name, norm);
            }
            if let Some((name, width)) = self.gate {
                b.linear(name, Linear::column(hidden, width));
            }
            if let Some(name) = self.sinks {
                b.param(name, Param::divided(heads));
            }
            if let Some((count, has_values)) = self.token_sinks {
                let kv_heads = u64::from(self.kv_heads);
                let values = has_values.then_some(("param_sink_value", self.value_dim));
                for (name, dim) in [("param_sink_key", self.key_dim)].into_iter().chain(values) {
                    let elements = count.saturating_mul(kv_heads).saturating_mul(dim.into());
                    b.param(name, Param::divided(elements).replicated_beyond(kv_heads));
                }
            }
        });
        let kind = CacheKind::Attention(Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            key_dim: self.key_dim,
            value_dim: self.value_dim,
            reach: self.reach,
            sinks: self.sinks.is_some(),
        });
        b.cache(layer, kind);
    }

    /// Queries, keys and values.
    fn projections(&self, b: &mut Builder, hidden: u64) {
        let (heads, kv_heads) = (u64::from(self.heads), u64::from(self.kv_heads));
        let (key, value) = (u64::from(self.key_dim), u64::from(self.value_dim));
        if let Some(rank) = self.query_rank {
            b.linear(self.qkv, Linear::replicated(hidden, rank + key + value));
            b.rms_norm("inter_norm", rank);
            b.linear("wq", Linear::column(rank, heads * key));
        } else if let Some(experts) = self.values {
            let queries_keys = Linear::qkv(hidden, heads, kv_heads, key, 0);
            b.linear("qk_proj", queries_keys.bias(self.qkv_bias));
            b.linear("v_router", Linear::replicated(hidden, experts.count));
            if experts.router_bias {
                b.param("v_router.bias", Param::whole(experts.count).dtype(Dtype::Float32));
            }
            // One matrix an expert, divided as KV heads are.
            let width = experts.count.saturating_mul(value);
            b.linear("v_experts", Linear::qkv(hidden, 0, kv_heads, width, 0));
        } else {
            let qkv = Linear::qkv(hidden, heads, kv_heads, key, value);
            b.linear(self.qkv, qkv.bias(self.qkv_bias));
        }
    }

    /// Norms on queries and keys, in the order of their names.
    fn qk_norms(&self) -> Vec<Param> {
        let (heads, kv_heads) = (u64::from(self.heads), u64::from(self.kv_heads));
        let key = u64::from(self.key_dim);
        match self.norms {
            QkNorm::None => vec![],
            QkNorm::Head => vec![Param::whole(key), Param::whole(key)],
            QkNorm::HeadWithBias => vec![Param::whole(2 * key), Param::whole(2 * key)],
            QkNorm::Whole => vec![Param::whole(heads * key), Param::whole(kv_heads * key)],
            QkNorm::Divided => {
                let keys = Param::divided(kv_heads * key).replicated_beyond(kv_heads);
                vec![Param::divided(heads * key), keys]
            }
            QkNorm::KeyHead => vec![Param::whole(key)],
        }
    }
}

/// What follows the attention in one layer.
#[derive(Clone)]
pub(super) enum Mlp {
    Dense(Dense),
    Moe(Moe),
}

/// A gated MLP.
#[derive(Clone, Copy)]
pub(super) struct Dense {
    pub(super) scope: &'static str,
    pub(super) inner: u64,
    pub(super) bias: bool,
    pub(super) names: DenseNames,
}

/// How a model class names the matrices of an MLP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DenseNames {
    /// `gate_up_proj`, `down_proj`.
    Merged,
    /// `gate_proj`, `up_proj`, `down_proj`.
    Apart,
    /// `input_linear`, `output_linear`.
    InOut,
}

impl Dense {
    pub(super) fn new(scope: &'static str, inner: impl Into<u64>) -> Self {
        Self { scope, inner: inner.into(), bias: false, names: DenseNames::Merged }
    }

    fn build(&self, b: &mut Builder, hidden: u64) {
        let (inner, bias) = (self.inner, self.bias);
        b.scope(self.scope, |b| match self.names {
            DenseNames::Merged => gated_mlp(b, hidden, inner, bias),
            DenseNames::Apart => {
                b.linear("gate_proj", Linear::column(hidden, inner).bias(bias));
                b.linear("up_proj", Linear::column(hidden, inner).bias(bias));
                b.linear("down_proj", Linear::row(inner, hidden).bias(bias));
            }
            DenseNames::InOut => {
                b.linear("input_linear", Linear::merged(hidden, [inner, inner]).bias(bias));
                b.linear("output_linear", Linear::row(inner, hidden).bias(bias));
            }
        });
    }
}

/// Routed experts, their router, and experts that every token sees.
#[derive(Clone)]
pub(super) struct Moe {
    pub(super) scope: &'static str,
    pub(super) router: &'static str,
    pub(super) router_bias: bool,
    /// Dtype of the router if not the model's.
    pub(super) router_dtype: Option<Dtype>,
    /// Whether the engine hands the model's quantisation to the router.
    pub(super) router_quantizable: bool,
    /// A bias of the scores that decides the choice alone, always in float32.
    pub(super) scores: Option<&'static str>,
    pub(super) experts: u64,
    pub(super) inner: u64,
    /// Biases of the experts.
    pub(super) bias: bool,
    pub(super) shared: Option<Dense>,
    /// Where the shared experts lie: in the MoE's scope, or beside it in the layer's.
    pub(super) shared_beside: bool,
    /// A matrix of one output that weighs the shared experts.
    pub(super) shared_gate: Option<&'static str>,
    /// The model class refuses more ranks than experts.
    pub(super) bounds_ranks: bool,
    /// As [`Experts::fusible`].
    pub(super) fusible: bool,
}

impl Moe {
    /// Experts with a router `gate` in the model's dtype, and nothing else.
    pub(super) fn new(scope: &'static str, experts: u64, inner: u64) -> Self {
        Self {
            scope,
            router: "gate",
            router_bias: false,
            router_dtype: None,
            router_quantizable: false,
            scores: None,
            experts,
            inner,
            bias: false,
            shared: None,
            shared_beside: false,
            shared_gate: None,
            bounds_ranks: false,
            fusible: true,
        }
    }

    /// A router whose scores are sigmoids or a softmax, normalised where a flag (and its default)
    /// says so. Reads [`Self::scores`].
    pub(super) fn routed(
        self,
        fields: &Fields<'_>,
        is_sigmoid: bool,
        normalizes: (&str, bool),
    ) -> Result<Self> {
        let renormalizes = fields.flag(normalizes.0, normalizes.1)?;
        let routing = Routing { is_sigmoid, renormalizes, has_bias: self.scores.is_some() };
        Ok(Self { fusible: routing.is_fusible(), ..self })
    }

    fn build(&self, b: &mut Builder, hidden: u64) {
        if self.bounds_ranks {
            let experts = b.inventory.ranks_max.unwrap_or(u64::MAX).min(self.experts);
            b.inventory.ranks_max = Some(experts);
        }
        b.scope(self.scope, |b| {
            let mut router = Linear::replicated(hidden, self.experts).bias(self.router_bias);
            router.quantizable = self.router_quantizable;
            router.dtype = self.router_dtype;
            b.linear(self.router, router);
            if let Some(name) = self.scores {
                b.param(name, Param::whole(self.experts).dtype(Dtype::Float32));
            }
            let experts = Experts::gated(self.experts, hidden, self.inner);
            let (bias, fusible) = (self.bias, self.fusible);
            b.experts("experts", Experts { bias, fusible, ..experts });
            if let Some(name) = self.shared_gate {
                b.linear(name, Linear::replicated(hidden, 1).plain());
            }
        });
        let Some(shared) = &self.shared else { return };
        match self.shared_beside {
            true => shared.build(b, hidden),
            false => b.scope(self.scope, |b| shared.build(b, hidden)),
        }
    }
}

/// What lies around the layers.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) root: &'static str,
    pub(super) layers: &'static str,
    pub(super) embedding: &'static str,
    pub(super) norm: &'static str,
    pub(super) layer_norms: &'static [&'static str],
    /// Norms have a bias beside their weight.
    pub(super) norm_bias: bool,
    pub(super) tied: bool,
    pub(super) head_bias: bool,
    /// Rows of the embedding beyond those of the output matrix.
    pub(super) more_rows: u64,
}

impl Frame {
    pub(super) fn new(tied: bool) -> Self {
        Self {
            root: "model",
            layers: "layers",
            embedding: "embed_tokens",
            norm: "norm",
            layer_norms: &["input_layernorm", "post_attention_layernorm"],
            norm_bias: false,
            tied,
            head_bias: false,
            more_rows: 0,
        }
    }

    /// Whether input and output matrix are one, as most config classes have it: by default not.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        Ok(Self::new(fields.flag("tie_word_embeddings", false)?))
    }

    /// The whole decoder, of the layers that `layer` describes.
    pub(super) fn build(
        &self,
        b: &mut Builder,
        dims: &Dims,
        mut layer: impl FnMut(u32) -> Result<(Attn, Mlp)>,
    ) -> Result<()> {
        b.dims = dims.clone();
        let hidden = u64::from(dims.hidden);
        b.scope(self.root, |b| {
            let rows = u64::from(dims.vocab).saturating_add(self.more_rows);
            b.vocabulary(self.embedding, rows, hidden);
            for index in 0..dims.layers {
                let (attention, mlp) = layer(index)?;
                b.scope(&format!("{}.{index}", self.layers), |b| {
                    attention.build(b, index, hidden);
                    match &mlp {
                        Mlp::Dense(dense) => dense.build(b, hidden),
                        Mlp::Moe(moe) => moe.build(b, hidden),
                    }
                    self.layer_norms.iter().for_each(|name| self.norm(b, name, hidden));
                });
            }
            self.norm(b, self.norm, hidden);
            Ok(())
        })?;
        if !self.tied {
            b.head("lm_head", dims.vocab, hidden, self.head_bias);
        }
        Ok(())
    }

    fn norm(&self, b: &mut Builder, name: &str, width: u64) {
        match self.norm_bias {
            true => b.layer_norm(name, width),
            false => b.rms_norm(name, width),
        }
    }
}
