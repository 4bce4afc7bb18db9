//! Nemotron-H: layers that are each one thing, an SSM, attention, an MLP or experts.

use super::Family;
use super::hybrid_parts::{Defaults, listed, size_or, sizes, state_dtype, unknown_kind};
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, TOKENS_MAX, WIDTH_MAX};
use super::mamba::{CONV_MAX, Mixer2, STATE_MAX};
use super::parts::{AttentionParts, attention_cache};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{Reach, StateDtype};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param};

pub(super) static FAMILIES: &[Family] = &[Family {
    architectures: &["NemotronHForCausalLM"],
    model_types: &["nemotron_h"],
    rule: nemotron_h,
}];

/// What a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Experts,
}

/// The layers: a list of names, or else a pattern of one character a layer.
fn kinds(fields: &Fields<'_>) -> Result<Vec<Kind>> {
    const LIST: [&str; 2] = ["layers_block_type", "layer_types"];
    const PATTERN: &str = "hybrid_override_pattern";
    if let Some(names) = listed(fields, &LIST, None)? {
        let kind = |(layer, name): (usize, &&str)| match *name {
            "linear_attention" | "mamba" => Ok(Kind::Mamba),
            "full_attention" | "attention" => Ok(Kind::Attention),
            "mlp" => Ok(Kind::Mlp),
            "moe" => Ok(Kind::Experts),
            name => Err(unknown_kind(fields, LIST[0], layer, name)),
        };
        return names.iter().enumerate().map(kind).collect();
    }
    let Some(pattern) = fields.text(PATTERN)? else {
        // What the config class assumes.
        return Ok(vec![Kind::Mamba, Kind::Experts, Kind::Attention, Kind::Mlp]);
    };
    let limit = usize::try_from(super::limits::LAYERS_MAX).unwrap_or(usize::MAX);
    if pattern.is_empty() || pattern.len() > limit {
        let problem = format!("{} layers; expected 1 to {limit}", pattern.len());
        return Err(wrong(fields.path(PATTERN), problem));
    }
    let kind = |(layer, character): (usize, char)| match character {
        'M' => Ok(Kind::Mamba),
        '*' => Ok(Kind::Attention),
        '-' => Ok(Kind::Mlp),
        'E' => Ok(Kind::Experts),
        other => Err(unknown_kind(fields, PATTERN, layer, &other.to_string())),
    };
    pattern.chars().enumerate().map(kind).collect()
}

/// The MLP without a gate.
fn plain_mlp(b: &mut Builder, hidden: u64, inner: u64, bias: bool) {
    b.linear("up_proj", Linear::column(hidden, inner).bias(bias));
    b.linear("down_proj", Linear::row(inner, hidden).bias(bias));
}

/// The sizes of an expert layer.
struct Moe {
    hidden: u64,
    experts: u64,
    inner: u64,
    /// Width of the shared experts together; 0 without any.
    shared: u64,
    /// Width that the routed experts work in, between two projections of their own.
    latent: Option<u64>,
    bias: bool,
    /// Squared ReLU, and scores that are normalised over the chosen.
    fusible: bool,
}

impl Moe {
    fn read(fields: &Fields<'_>, hidden: u32, bias: bool) -> Result<Self> {
        let experts = match fields.is_present("n_routed_experts") {
            true => size_or(fields, "n_routed_experts", 8, EXPERTS_MAX)?,
            false => size_or(fields, "num_local_experts", 8, EXPERTS_MAX)?,
        };
        let shared = fields.count_or("n_shared_experts", 1, EXPERTS_MAX)?;
        let shared_inner = size_or(fields, "moe_shared_expert_intermediate_size", 7688, INNER_MAX)?;
        Ok(Self {
            hidden: hidden.into(),
            experts: experts.into(),
            inner: size_or(fields, "moe_intermediate_size", 7688, INNER_MAX)?.into(),
            shared: u64::from(shared).saturating_mul(shared_inner.into()),
            latent: fields.count("moe_latent_size", WIDTH_MAX)?.map(u64::from),
            bias,
            fusible: fields.flag("norm_topk_prob", true)?
                && fields.text("mlp_hidden_act")?.is_none_or(|act| act == "relu2"),
        })
    }

    fn build(&self, b: &mut Builder) {
        let Self { hidden, experts, inner, shared, latent, bias, fusible } = *self;
        b.linear("gate", Linear::replicated(hidden, experts).plain().single_compute());
        b.param("gate.e_score_correction_bias", Param::whole(experts).dtype(Dtype::Float32));
        if shared > 0 {
            b.scope("shared_experts", |b| plain_mlp(b, hidden, shared, false));
        }
        if let Some(latent) = latent {
            b.linear("fc1_latent_proj", Linear::replicated(hidden, latent).bias(bias));
            b.linear("fc2_latent_proj", Linear::replicated(latent, hidden).bias(bias));
        }
        let hidden = latent.unwrap_or(hidden);
        let experts = Experts::gated(experts, hidden, inner);
        b.experts("experts", Experts { gated: false, fusible, ..experts });
    }
}

/// The SSM's sizes; older files name some of them otherwise, and then those names win.
fn mixer(config: &Config<'_>, hidden: u32) -> Result<Mixer2> {
    let fields = &config.text;
    let either = |old: &str, new: &str, default, max| -> Result<u32> {
        let declared = size_or(fields, new, default, max)?;
        size_or(fields, old, declared, max)
    };
    let heads = size_or(fields, "mamba_num_heads", 128, HEADS_MAX)?;
    let head_dim = size_or(fields, "mamba_head_dim", 64, HEAD_DIM_MAX)?;
    let conv_bias = fields.flag("use_conv_bias", true)?;
    Ok(Mixer2 {
        hidden,
        inner: heads.saturating_mul(head_dim),
        groups: either("mamba_n_groups", "n_groups", 8, HEADS_MAX)?,
        heads,
        head_dim,
        state: size_or(fields, "ssm_state_size", 128, STATE_MAX)?,
        conv: either("mamba_d_conv", "conv_kernel", 4, CONV_MAX)?,
        conv_bias: fields.flag("mamba_conv_bias", conv_bias)?,
        bias: fields.flag("use_bias", false)?,
        norm: true,
        state_dtype: ssm_dtype(config)?,
    })
}

/// The engine takes the state's dtype from the config for these architectures only (vLLM 0.32
/// `models/config.py`); for all others it is that of the model.
fn ssm_dtype(config: &Config<'_>) -> Result<StateDtype> {
    const HOOKED: [&str; 3] =
        ["NemotronHForCausalLM", "NemotronHPuzzleForCausalLM", "NemotronH_Nano_VL_V2"];
    let architectures = config.root.texts("architectures")?;
    let is_hooked = architectures.first().is_none_or(|name| HOOKED.contains(name));
    let absent = StateDtype::Fixed(Dtype::Float32);
    let declared = state_dtype(&config.text, "mamba_ssm_cache_dtype", absent)?;
    Ok(if is_hooked { declared } else { StateDtype::Model })
}

/// vLLM 0.32 `nemotron_h.py`; the output matrix is never tied.
fn nemotron_h(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let defaults = Defaults {
        vocab: 131_072,
        hidden: 4096,
        layers: 4,
        heads: 32,
        kv_heads: Some(8),
        inner: 21504,
        tokens: Some(4096),
    };
    let kinds = kinds(fields)?;
    let layers = u32::try_from(kinds.len()).unwrap_or(u32::MAX);
    let dims = Dims { layers, ..sizes(fields, &defaults)? };
    let default = if fields.is_present("head_dim") { dims.head_dim } else { 128 };
    let head_dim = size_or(fields, "head_dim", default, HEAD_DIM_MAX)?;
    let dims = Dims { head_dim, ..dims };
    let reach = fields.count("sliding_window", TOKENS_MAX)?.map_or(Reach::Full, Reach::Window);
    let bias = fields.flag("mlp_bias", false)?;
    let moe = Moe::read(fields, dims.hidden, bias)?;
    let mixer = mixer(config, dims.hidden)?;
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, dims.hidden);
    for (layer, kind) in (0..layers).zip(kinds) {
        builder.scope(&format!("model.layers.{layer}"), |b| {
            b.scope("mixer", |b| match kind {
                Kind::Mamba => mixer.build(b),
                Kind::Attention => AttentionParts::of(&dims).build(b, "o_proj"),
                Kind::Mlp => plain_mlp(b, dims.hidden.into(), dims.inner.into(), bias),
                Kind::Experts => moe.build(b),
            });
            b.rms_norm("norm", dims.hidden);
        });
        match kind {
            Kind::Mamba => builder.cache(layer, mixer.cache()),
            Kind::Attention => builder.cache(layer, attention_cache(&dims, reach)),
            Kind::Mlp | Kind::Experts => {}
        }
    }
    builder.rms_norm("model.norm_f", dims.hidden);
    builder.head("lm_head", dims.vocab, dims.hidden, false);
    Ok(())
}
