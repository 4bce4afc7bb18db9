//! Selective state spaces: the mixers of both kinds, and the models that have nothing else.

use super::Family;
use super::hybrid_parts::size_or;
use super::limits::{
    HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX, WIDTH_MAX,
};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{CacheKind, State, StateDtype, StateShape};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param, Split};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["MambaForCausalLM"], model_types: &["mamba"], rule: mamba },
    Family {
        architectures: &["FalconMambaForCausalLM"],
        model_types: &["falcon_mamba"],
        rule: mamba,
    },
    Family { architectures: &["Mamba2ForCausalLM"], model_types: &["mamba2"], rule: mamba2 },
];

/// Taps of a convolution; published models have 3 or 4.
pub(super) const CONV_MAX: u32 = 1 << 10;
/// State elements a channel; published models have 16 to 256.
pub(super) const STATE_MAX: u32 = 1 << 14;

/// Mamba of the first kind (vLLM 0.32 `mamba_mixer.py`), which is never quantised.
pub(super) struct Mixer1 {
    pub(super) hidden: u32,
    pub(super) inner: u32,
    pub(super) state: u32,
    pub(super) conv: u32,
    /// Rank of the time step.
    pub(super) rank: u32,
    pub(super) conv_bias: bool,
    pub(super) bias: bool,
    /// Whether norms on time step, B and C have weights.
    pub(super) norms: bool,
}

impl Mixer1 {
    /// Its modules, under the current scope.
    pub(super) fn build(&self, b: &mut Builder) {
        let [hidden, inner] = [self.hidden, self.inner].map(u64::from);
        let [state, rank] = [self.state, self.rank].map(u64::from);
        b.linear("conv1d", Linear::column(self.conv.into(), inner).bias(self.conv_bias).plain());
        b.linear("in_proj", Linear::merged(hidden, [inner, inner]).bias(self.bias).plain());
        b.linear("x_proj", Linear::row(inner, rank + 2 * state).plain());
        b.linear("dt_proj", Linear::column(rank, inner).bias(true).plain());
        b.param("A", Param::divided(inner.saturating_mul(state)).dtype(Dtype::Float32));
        b.param("D", Param::divided(inner));
        b.linear("out_proj", Linear::row(inner, hidden).bias(self.bias).plain());
        if self.norms {
            b.rms_norm("dt_layernorm", rank);
            b.rms_norm("b_layernorm", state);
            b.rms_norm("c_layernorm", state);
        }
    }

    pub(super) fn cache(&self) -> CacheKind {
        let Self { inner, state, conv, .. } = *self;
        let shape = StateShape::Mamba1 { inner, state, conv };
        let (conv_dtype, state_dtype) = (StateDtype::Model, StateDtype::Model);
        CacheKind::State(State { shape, conv_dtype, state_dtype })
    }
}

/// Mamba of the second kind (vLLM 0.32 `mamba_mixer2.py`).
pub(super) struct Mixer2 {
    pub(super) hidden: u32,
    pub(super) inner: u32,
    pub(super) groups: u32,
    pub(super) heads: u32,
    pub(super) head_dim: u32,
    pub(super) state: u32,
    pub(super) conv: u32,
    pub(super) conv_bias: bool,
    pub(super) bias: bool,
    /// Whether the gated norm has a weight.
    pub(super) norm: bool,
    pub(super) state_dtype: StateDtype,
}

impl Mixer2 {
    /// Its modules, under the current scope.
    pub(super) fn build(&self, b: &mut Builder) {
        let [hidden, inner, heads] = [self.hidden, self.inner, self.heads].map(u64::from);
        let shared = u64::from(self.groups).saturating_mul(self.state.into());
        let groups = self.groups.into();
        let conv = [inner, shared, shared];
        let conv = Linear::new(Split::Groups { groups, at: 1 }, self.conv.into(), conv);
        b.linear("conv1d", conv.bias(self.conv_bias).plain());
        let projected = [inner, inner, shared, shared, heads];
        let projection = Linear::new(Split::Groups { groups, at: 2 }, hidden, projected);
        b.linear("in_proj", projection.bias(self.bias));
        b.param("A", Param::divided(heads).dtype(Dtype::Float32));
        b.param("D", Param::divided(heads));
        b.param("dt_bias", Param::divided(heads));
        b.linear("out_proj", Linear::row(inner, hidden).bias(self.bias));
        if self.norm {
            b.param("norm", Param::divided(inner));
        }
    }

    pub(super) fn cache(&self) -> CacheKind {
        let Self { inner, groups, heads, head_dim, state, conv, state_dtype, .. } = *self;
        let shape = StateShape::Mamba2 { inner, groups, heads, head_dim, state, conv };
        CacheKind::State(State { shape, conv_dtype: StateDtype::Model, state_dtype })
    }

    /// Refuses heads that do not make up the width.
    pub(super) fn checked(self, fields: &Fields<'_>, heads_name: &str) -> Result<Self> {
        let wide = u64::from(self.heads).saturating_mul(self.head_dim.into());
        if wide == u64::from(self.inner) {
            return Ok(self);
        }
        let Self { heads, head_dim, inner, .. } = self;
        let problem = format!("{heads} heads of {head_dim} do not make up the width {inner}");
        Err(wrong(fields.path(heads_name), problem))
    }
}

/// The rank of the time step: a number, or `"auto"`, which is also the default.
pub(super) fn time_step_rank(fields: &Fields<'_>, name: &str, hidden: u32) -> Result<u32> {
    match fields.value(name).map(|value| value.as_str()) {
        None | Some(Some("auto")) => Ok(hidden.div_ceil(16)),
        Some(_) => size_or(fields, name, 1, WIDTH_MAX),
    }
}

/// A size or `"auto"`, which is `auto`.
pub(super) fn size_or_auto(fields: &Fields<'_>, name: &str, auto: u32, max: u32) -> Result<u32> {
    match fields.value(name).map(|value| value.as_str()) {
        None | Some(Some("auto")) => Ok(auto),
        Some(_) => size_or(fields, name, auto, max),
    }
}

/// `expand * hidden_size`, or what the file declares as `intermediate_size`.
fn expanded(fields: &Fields<'_>, hidden: u32, expand: &str) -> Result<u32> {
    let wide = size_or(fields, expand, 2, HEADS_MAX)?.saturating_mul(hidden);
    size_or(fields, "intermediate_size", wide, INNER_MAX)
}

fn pure_dims(fields: &Fields<'_>, vocab: u32, hidden: u32, layers: u32) -> Result<Dims> {
    Ok(Dims {
        layers: size_or(fields, "num_hidden_layers", layers, LAYERS_MAX)?,
        hidden: size_or(fields, "hidden_size", hidden, WIDTH_MAX)?,
        vocab: size_or(fields, "vocab_size", vocab, VOCAB_MAX)?,
        tokens_max: fields.count("max_position_embeddings", TOKENS_MAX)?,
        ..Dims::default()
    })
}

/// Falcon Mamba's norms on time step, B and C have no weights (vLLM 0.32 `mamba.py`), so that both
/// families hold the same tensors.
fn mamba(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = pure_dims(fields, 50280, 768, 32)?;
    let mixer = Mixer1 {
        hidden: dims.hidden,
        inner: expanded(fields, dims.hidden, "expand")?,
        state: size_or(fields, "state_size", 16, STATE_MAX)?,
        conv: size_or(fields, "conv_kernel", 4, CONV_MAX)?,
        rank: time_step_rank(fields, "time_step_rank", dims.hidden)?,
        conv_bias: fields.flag("use_conv_bias", true)?,
        bias: fields.flag("use_bias", false)?,
        norms: false,
    };
    builder.dims = Dims { inner: mixer.inner, ..dims };
    let tied = fields.flag("tie_word_embeddings", true)?;
    pure(builder, tied, |b| mixer.build(b), &mixer.cache());
    Ok(())
}

fn mamba2(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = pure_dims(fields, 32768, 4096, 64)?;
    let mixer = Mixer2 {
        hidden: dims.hidden,
        inner: expanded(fields, dims.hidden, "expand")?,
        groups: size_or(fields, "n_groups", 8, HEADS_MAX)?,
        heads: size_or(fields, "num_heads", 128, HEADS_MAX)?,
        head_dim: size_or(fields, "head_dim", 64, HEAD_DIM_MAX)?,
        state: size_or(fields, "state_size", 128, STATE_MAX)?,
        conv: size_or(fields, "conv_kernel", 4, CONV_MAX)?,
        conv_bias: fields.flag("use_conv_bias", true)?,
        bias: fields.flag("use_bias", false)?,
        norm: true,
        state_dtype: StateDtype::Model,
    };
    let mixer = mixer.checked(fields, "num_heads")?;
    builder.dims = Dims { inner: mixer.inner, ..dims };
    let tied = fields.flag("tie_word_embeddings", false)?;
    pure(builder, tied, |b| mixer.build(b), &mixer.cache());
    Ok(())
}

/// Layers of one mixer and one norm each.
fn pure(builder: &mut Builder, tied: bool, mixer: impl Fn(&mut Builder), cache: &CacheKind) {
    let Dims { layers, hidden, vocab, .. } = builder.dims;
    builder.is_attention_free = true;
    builder.vocabulary("backbone.embeddings", vocab, hidden);
    for layer in 0..layers {
        builder.scope(&format!("backbone.layers.{layer}"), |b| {
            b.scope("mixer", &mixer);
            b.rms_norm("norm", hidden);
        });
        builder.cache(layer, cache.clone());
    }
    builder.rms_norm("backbone.norm_f", hidden);
    if !tied {
        // Built without the model's quantisation.
        builder.vocabulary("lm_head", vocab, hidden);
    }
}
