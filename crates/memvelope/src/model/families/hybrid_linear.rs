//! Hybrids of latent attention and linear attention without convolution: Ring and Ling 2.5.

use super::Family;
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX};
use super::mla::{Class, Defaults, Mla, Moe};
use super::parts::gated_mlp;
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::cache::{CacheKind, State, StateDtype, StateShape};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param, Routing};

pub(super) static FAMILIES: &[Family] = &[Family {
    architectures: &["BailingMoeV2_5ForCausalLM"],
    model_types: &["bailing_hybrid"],
    rule: bailing,
}];

/// Its config class comes with the model; these are what vLLM 0.32 falls back on.
const BAILING: Defaults = &[
    ("qk_nope_head_dim", 128),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 128),
    ("kv_lora_rank", 512),
];

/// Linear attention with a gated norm by groups (vLLM 0.32 `bailing_linear_attn.py`).
struct LinearAttention {
    hidden: u64,
    heads: u32,
    head_dim: u32,
    qkv_bias: bool,
    bias: bool,
    qk_norm: bool,
}

impl LinearAttention {
    fn build(&self, b: &mut Builder) {
        let (heads, dim) = (u64::from(self.heads), u64::from(self.head_dim));
        let width = heads.saturating_mul(dim);
        let qkv = Linear::qkv(self.hidden, heads, heads, dim, dim).bias(self.qkv_bias);
        b.linear("query_key_value", qkv);
        if self.qk_norm {
            b.rms_norm("query_layernorm", dim);
            b.rms_norm("key_layernorm", dim);
        }
        b.linear("g_proj", Linear::column(self.hidden, width));
        b.linear("dense", Linear::row(width, self.hidden).bias(self.bias));
        b.param("g_norm", Param::divided(width));
    }

    fn cache(&self) -> CacheKind {
        let shape = StateShape::Linear { heads: self.heads, head_dim: self.head_dim };
        let (conv_dtype, state_dtype) = (StateDtype::Model, StateDtype::Model);
        CacheKind::State(State { shape, conv_dtype, state_dtype })
    }
}

/// A field that the model class reads without a default.
fn declared_flag(fields: &Fields<'_>, name: &str) -> Result<bool> {
    if fields.value(name).is_none() {
        return Err(wrong(fields.path(name), "missing, and it has no default"));
    }
    fields.flag(name, false)
}

/// vLLM 0.32 `bailing_moe_linear.py`: the last layer of a group has latent attention. The output
/// matrix is never tied.
fn bailing(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class { fields, defaults: BAILING };
    let mut dims = class.dims(&["num_hidden_layers"])?;
    let mla = Mla::read(&class, &dims)?;
    let ratio = dims.hidden / dims.heads;
    let bias = declared_flag(fields, "use_bias")?;
    let linear = LinearAttention {
        hidden: dims.hidden.into(),
        heads: dims.heads,
        head_dim: fields.count("head_dim", HEAD_DIM_MAX)?.unwrap_or(ratio).max(1),
        qkv_bias: bias || declared_flag(fields, "use_qkv_bias")?,
        bias,
        qk_norm: fields.flag("use_qk_norm", false)?,
    };
    dims.head_dim = mla.key_dim();
    let group = fields.count_or("layer_group_size", 1, LAYERS_MAX)?;
    let is_linear = |layer: u32| group > 0 && !(layer + 1).is_multiple_of(group);
    let moe = experts(fields, bias)?;
    let first = fields.count_or("first_k_dense_replace", 0, LAYERS_MAX)?;
    let has_linear = (0..dims.layers).any(is_linear);
    if has_linear {
        // The ranks divide the groups of the norm.
        let groups = fields.count("group_norm_size", TOKENS_MAX)?.unwrap_or(1);
        b.inventory.ranks_divide = Some(("groups of the norm", groups.into()));
    }
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    b.dims = dims.clone();
    b.vocabulary("model.word_embeddings", dims.vocab, hidden);
    for layer in 0..dims.layers {
        b.scope(&format!("model.layers.{layer}"), |b| {
            b.scope("self_attn", |b| match is_linear(layer) {
                true => linear.build(b),
                false => mla.build(b, true),
            });
            b.scope("mlp", |b| match moe.filter(|_| layer >= first) {
                Some(moe) => moe.build(b, hidden),
                None => gated_mlp(b, hidden, inner, bias),
            });
            b.rms_norm("input_layernorm", hidden);
            b.rms_norm("post_attention_layernorm", hidden);
        });
        b.cache(layer, if is_linear(layer) { linear.cache() } else { mla.cache(false, false) });
    }
    b.rms_norm("model.norm", hidden);
    b.head("lm_head", dims.vocab, hidden, false);
    Ok(())
}

/// The experts of a sparse layer; a single one is a dense MLP.
fn experts(fields: &Fields<'_>, bias: bool) -> Result<Option<Moe>> {
    let experts = fields.required(&["num_experts"], EXPERTS_MAX)?;
    if experts <= 1 {
        return Ok(None);
    }
    let inner = u64::from(fields.required(&["moe_intermediate_size"], INNER_MAX)?);
    if fields.value("num_shared_experts").is_none() {
        fields.required(&["num_shared_experts"], EXPERTS_MAX)?;
    }
    let shared = fields.count_or_zero("num_shared_experts", EXPERTS_MAX)?;
    if bias && shared > 0 {
        let problem = "true with shared experts, which the engine refuses to build";
        return Err(wrong(fields.path("use_bias"), problem));
    }
    let of_shared = fields.count("moe_shared_expert_intermediate_size", INNER_MAX)?;
    let shared = of_shared.map_or(inner, u64::from).saturating_mul(shared.into());
    let router = match fields.text("router_dtype")? {
        None | Some("fp32") => Dtype::Float32,
        Some(_) => Dtype::Bfloat16,
    };
    let score_bias = fields.flag("moe_router_enable_expert_bias", false)?;
    let routing = Routing {
        is_sigmoid: fields.text("score_function")? == Some("sigmoid"),
        renormalizes: fields.flag("norm_topk_prob", true)?,
        has_bias: score_bias,
    };
    let router = Some(router);
    Ok(Some(Moe { experts: experts.into(), inner, shared, router, score_bias, routing }))
}
