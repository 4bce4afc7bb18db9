//! Hybrids of latent attention and Kimi delta attention: Kimi Linear and the language model of
//! Kimi K3.

use super::Family;
use super::hybrid_parts::{Defaults, sizes};
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, WIDTH_MAX};
use super::mamba::CONV_MAX;
use super::mla::Mla;
use super::multimodal::{LANGUAGE, Language, language};
use super::parts::gated_mlp;
use super::vision::Size;
use super::vision_more::MoonVit;
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{CacheKind, State, StateDtype, StateShape};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param, Routing, Split};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        architectures: &["KimiLinearForCausalLM"],
        model_types: &["kimi_linear"],
        rule: kimi_linear,
    },
    Family {
        architectures: &["KimiK3ForConditionalGeneration"],
        model_types: &["kimi_k3"],
        rule: kimi_k3,
    },
];

/// vLLM 0.32 widens the experts of a rank to this (`min_moe_intermediate_per_partition`).
const EXPERT_SHARE_MIN: u32 = 256;

/// Kimi delta attention (vLLM 0.32 `kimi_gdn_linear_attn.py` and, with a gate of full rank,
/// `kimi_k3/nvidia/kda.py`).
struct Kda {
    hidden: u64,
    heads: u32,
    head_dim: u32,
    conv: u32,
    /// The output's gate is projected from the input alone, not through a narrow matrix.
    full_rank_gate: bool,
    /// The decay has a lower bound.
    bounded: bool,
}

impl Kda {
    fn read(fields: &Fields<'_>, hidden: u32) -> Result<Self> {
        Ok(Self {
            hidden: hidden.into(),
            heads: fields.required(&["num_heads"], HEADS_MAX)?,
            head_dim: fields.required(&["head_dim"], HEAD_DIM_MAX)?,
            conv: fields.required(&["short_conv_kernel_size"], CONV_MAX)?,
            full_rank_gate: fields.flag("use_full_rank_gate", false)?,
            bounded: fields.number("gate_lower_bound")?.is_some(),
        })
    }

    fn build(&self, b: &mut Builder) {
        let (hidden, heads, dim) = (self.hidden, u64::from(self.heads), u64::from(self.head_dim));
        let width = heads.saturating_mul(dim);
        let (outs, split) = match self.full_rank_gate {
            // The rows of a rank are filled up to what the aligned kernel takes.
            true => (
                vec![width, width, width, width, dim, heads],
                Split::Partly { whole: 1 << 4, align: 16 },
            ),
            false => {
                (vec![width, width, width, heads, dim], Split::Partly { whole: 1 << 4, align: 1 })
            }
        };
        b.linear("in_proj_qkvgfab", Linear::new(split, hidden, outs));
        b.linear("f_b_proj", Linear::column(dim, width));
        b.param("dt_bias", Param::divided(width).dtype(Dtype::Float32));
        let conv = Linear::column(self.conv.into(), width.saturating_mul(3));
        b.linear("conv1d", conv.plain().dtype(Dtype::Float32));
        b.param("A_log", Param::divided(heads).dtype(Dtype::Float32));
        if !self.full_rank_gate {
            b.linear("g_a_proj", Linear::replicated(hidden, dim));
            b.linear("g_b_proj", Linear::column(dim, width));
        }
        b.rms_norm("o_norm", dim);
        b.linear("o_proj", Linear::row(width, hidden));
    }

    fn cache(&self) -> CacheKind {
        let Self { heads, head_dim, conv, .. } = *self;
        // FlashKDA takes heads of 128.
        let flash = self.full_rank_gate && self.bounded && head_dim == 128;
        let shape = StateShape::Kda { heads, head_dim, conv, flash };
        let state_dtype = StateDtype::Fixed(Dtype::Float32);
        CacheKind::State(State { shape, conv_dtype: StateDtype::Model, state_dtype })
    }
}

/// Experts beside a shared MLP, in a narrower stream where the config declares one.
struct Moe {
    hidden: u64,
    experts: u64,
    inner: u64,
    shared: u64,
    latent: Option<u64>,
    latent_norm: bool,
    share_min: u64,
    fusible: bool,
    /// Dense layers before the first sparse one.
    dense: u32,
    /// One layer in so many is sparse.
    interval: u32,
}

impl Moe {
    fn read(fields: &Fields<'_>, hidden: u32) -> Result<Option<Self>> {
        let Some(experts) = fields.count("num_experts", EXPERTS_MAX)? else { return Ok(None) };
        let inner = u64::from(fields.required(&["moe_intermediate_size"], INNER_MAX)?);
        let shared = fields.count_or("num_shared_experts", 0, EXPERTS_MAX)?;
        let share_min =
            fields.count_or("min_moe_intermediate_per_partition", EXPERT_SHARE_MIN, INNER_MAX)?;
        let scoring = fields.text("moe_router_activation_func")?;
        let is_sigmoid = scoring.is_none_or(|scores| scores == "sigmoid");
        let renormalizes = fields.flag("moe_renormalize", true)?;
        Ok(Some(Self {
            hidden: hidden.into(),
            experts: experts.into(),
            inner,
            shared: inner.saturating_mul(shared.into()),
            latent: fields.count("routed_expert_hidden_size", WIDTH_MAX)?.map(u64::from),
            latent_norm: fields.flag("latent_moe_use_norm", false)?,
            share_min: share_min.into(),
            fusible: fields.text("hidden_act")?.is_none_or(|act| act == "silu")
                && Routing { is_sigmoid, renormalizes, has_bias: true }.is_fusible(),
            dense: fields.count_or("first_k_dense_replace", 0, LAYERS_MAX)?,
            interval: fields.count("moe_layer_freq", LAYERS_MAX)?.unwrap_or(1),
        }))
    }

    fn covers(&self, layer: u32) -> bool {
        layer >= self.dense && layer.is_multiple_of(self.interval)
    }

    fn build(&self, b: &mut Builder) {
        let Self { hidden, experts, inner, .. } = *self;
        b.linear("gate", Linear::replicated(hidden, experts).plain());
        b.param("gate.e_score_correction_bias", Param::whole(experts).dtype(Dtype::Float32));
        if self.shared > 0 {
            b.scope("shared_experts", |b| gated_mlp(b, hidden, self.shared, false));
        }
        if let Some(latent) = self.latent {
            b.linear("routed_expert_down_proj", Linear::replicated(hidden, latent));
            if self.latent_norm {
                b.rms_norm("routed_expert_norm", latent);
            }
            b.linear("routed_expert_up_proj", Linear::replicated(latent, hidden));
        }
        let hidden = self.latent.unwrap_or(hidden);
        let experts = Experts::gated(experts, hidden, inner).fusible(self.fusible);
        b.wide_experts("experts", experts, self.share_min);
    }
}

/// Latent attention, whose output may be gated (vLLM 0.32 `kimi_k3/nvidia/mla.py`).
struct Attention {
    mla: Mla,
    gate: bool,
}

impl Attention {
    fn read(fields: &Fields<'_>, dims: &Dims) -> Result<Self> {
        if !fields.flag("mla_use_nope", false)? {
            let problem = "not true: the engine serves latent attention without positions only";
            return Err(wrong(fields.path("mla_use_nope"), problem));
        }
        let mla = Mla {
            hidden: dims.hidden.into(),
            heads: dims.heads,
            q_rank: fields.count("q_lora_rank", WIDTH_MAX)?,
            kv_rank: fields.required(&["kv_lora_rank"], HEAD_DIM_MAX)?,
            nope: fields.required(&["qk_nope_head_dim"], HEAD_DIM_MAX)?,
            rope: fields.count_or("qk_rope_head_dim", 0, HEAD_DIM_MAX)?,
            value: fields.required(&["v_head_dim"], HEAD_DIM_MAX)?,
        };
        Ok(Self { mla, gate: fields.flag("mla_use_output_gate", false)? })
    }

    fn build(&self, b: &mut Builder) {
        let mla = &self.mla;
        let width = u64::from(mla.heads).saturating_mul(mla.value.into());
        match mla.q_rank.map(u64::from).filter(|_| self.gate) {
            // The gate is a third output of the projection of the input.
            Some(rank) => {
                let kv = u64::from(mla.kv_rank) + u64::from(mla.rope);
                let split = Split::Partly { whole: 0b11, align: 1 };
                b.linear("fused_qkv_a_g_proj", Linear::new(split, mla.hidden, [rank, kv, width]));
                let wide = |dim: u32| u64::from(mla.heads).saturating_mul(dim.into());
                b.rms_norm("q_a_layernorm", rank);
                b.linear("q_b_proj", Linear::column(rank, wide(mla.key_dim())));
                b.rms_norm("kv_a_layernorm", mla.kv_rank);
                let expanded = wide(mla.nope.saturating_add(mla.value));
                b.linear("kv_b_proj", Linear::column(mla.kv_rank.into(), expanded));
                b.linear("o_proj", Linear::row(width, mla.hidden));
            }
            None => {
                mla.build(b, true);
                if self.gate {
                    b.linear("g_proj", Linear::column(mla.hidden, width));
                }
            }
        }
    }
}

/// Which layers have delta attention; the config counts them from one.
fn is_delta(fields: &Fields<'_>) -> Result<impl Fn(u32) -> bool> {
    let Some(layers) = fields.counts("kda_layers", LAYERS_MAX)? else {
        return Err(wrong(fields.path("kda_layers"), "missing"));
    };
    Ok(move |layer: u32| layers.contains(&(layer + 1)))
}

/// vLLM 0.32 `kimi_k3/nvidia/model.py`; the output matrix is never tied.
fn kimi_linear(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 163_840,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: None,
        inner: 11008,
        tokens: Some(4096),
    };
    let dims = sizes(fields, &defaults)?;
    let linear = fields.object("linear_attn_config")?;
    let delta = match &linear {
        Some(linear) => Some((Kda::read(linear, dims.hidden)?, is_delta(linear)?)),
        None => None,
    };
    let is_delta = |layer| delta.as_ref().is_some_and(|(_, is_delta)| is_delta(layer));
    let attention = match (0..dims.layers).all(is_delta) {
        true => None,
        false => Some(Attention::read(fields, &dims)?),
    };
    let moe = Moe::read(fields, dims.hidden)?;
    let residuals = fields.count("attn_res_block_size", LAYERS_MAX)?.is_some();
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, hidden);
    for layer in 0..dims.layers {
        let kda = delta.as_ref().filter(|_| is_delta(layer)).map(|(kda, _)| kda);
        builder.scope(&format!("model.layers.{layer}"), |b| {
            b.scope("self_attn", |b| match (kda, &attention) {
                (Some(kda), _) => kda.build(b),
                (None, Some(attention)) => attention.build(b),
                (None, None) => {}
            });
            match moe.as_ref().filter(|moe| moe.covers(layer)) {
                Some(moe) => b.scope("block_sparse_moe", |b| moe.build(b)),
                None => b.scope("mlp", |b| gated_mlp(b, hidden, inner, false)),
            }
            b.rms_norm("input_layernorm", hidden);
            b.rms_norm("post_attention_layernorm", hidden);
            if residuals {
                residual(b, "self_attention_res", hidden);
                residual(b, "mlp_res", hidden);
            }
        });
        match (kda, &attention) {
            (Some(kda), _) => builder.cache(layer, kda.cache()),
            (None, Some(attention)) => builder.cache(layer, attention.mla.cache(false, false)),
            (None, None) => {}
        }
    }
    builder.rms_norm("model.norm", hidden);
    if residuals {
        builder.scope("model", |b| residual(b, "output_attn_res", hidden));
    }
    builder.head("lm_head", dims.vocab, hidden, false);
    Ok(())
}

/// vLLM 0.32 `kimi_k3/nvidia/model.py`, `KimiK3VisionConfig`: one bias flag for the attention and
/// one for the MLP in the class, which published configs set alike.
fn kimi_k3(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const HEADS: &str = "vt_num_attention_heads";
    let own = Language { model_type: "kimi_linear", ..LANGUAGE };
    let width = language(config, builder, own)?;
    let fields = config.root.object_or_empty("vision_config")?;
    let names = ["vt_num_hidden_layers", "vt_hidden_size", "vt_intermediate_size"];
    let heads = fields.count(HEADS, HEADS_MAX)?.unwrap_or(12);
    let inner = fields.count("qkv_hidden_size", WIDTH_MAX)?.unwrap_or(1536);
    let max = [LAYERS_MAX, WIDTH_MAX, INNER_MAX];
    let mut sizes = [27, 1024, 4096];
    for ((size, name), max) in sizes.iter_mut().zip(names).zip(max) {
        *size = fields.count(name, max)?.unwrap_or(*size);
    }
    if !inner.is_multiple_of(heads) {
        let problem = format!("{heads} heads do not divide qkv_hidden_size ({inner})");
        return Err(wrong(fields.path(HEADS), problem));
    }
    let bias = fields.flag("attn_bias", false)?;
    if fields.flag("linear_bias", false)? != bias {
        let problem = format!("{}; the engine's tower is computed with attn_bias alike", !bias);
        return Err(wrong(fields.path("linear_bias"), problem));
    }
    let quantization = config.text.object_or_empty("quantization_config")?;
    let tower = MoonVit {
        size: Size {
            layers: sizes[0],
            width: sizes[1].into(),
            inner: sizes[2].into(),
            heads: heads.into(),
            kv_heads: heads.into(),
            head_dim: (inner / heads).into(),
        },
        bias,
        patch_bias: fields.flag("patch_embed_proj_bias", false)?,
        rms: fields.text("norm_type")?.is_none_or(|kind| kind == "rmsnorm"),
        projector_v2: fields.text("mm_projector_type")?.is_none_or(|kind| kind == "patchmergerv2"),
        quantizable: quantization.text("quant_method")? != Some("compressed-tensors"),
    };
    tower.build(builder, &fields, width, "mm_projector")
}

/// What weighs the residuals of earlier blocks of layers.
fn residual(b: &mut Builder, name: &str, hidden: u64) {
    b.rms_norm(&format!("{name}_norm"), hidden);
    b.linear(&format!("{name}_proj"), Linear::replicated(hidden, 1).plain());
}
