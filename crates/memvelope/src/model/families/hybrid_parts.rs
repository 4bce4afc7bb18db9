//! Pieces that state-space and hybrid rules share: sizes with the defaults of a config class, and
//! the pattern of layers.

use super::limits::{HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX, WIDTH_MAX};
use crate::error::Result;
use crate::model::builder::Dims;
use crate::model::cache::StateDtype;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Fields, kind, wrong};
use serde_json::Value;

/// The sizes that a Hugging Face config class fills in.
pub(super) struct Defaults {
    pub(super) vocab: u32,
    pub(super) hidden: u32,
    pub(super) layers: u32,
    pub(super) heads: u32,
    /// `None`: as many as query heads.
    pub(super) kv_heads: Option<u32>,
    pub(super) inner: u32,
    pub(super) tokens: Option<u32>,
}

/// A size of at least one, with the default of the config class.
pub(super) fn size_or(fields: &Fields<'_>, name: &str, default: u32, max: u32) -> Result<u32> {
    Ok(fields.count(name, max)?.unwrap_or(default))
}

/// Headline sizes; `head_dim` is hidden size / heads, which the caller may replace.
pub(super) fn sizes(fields: &Fields<'_>, defaults: &Defaults) -> Result<Dims> {
    let heads = size_or(fields, "num_attention_heads", defaults.heads, HEADS_MAX)?;
    let hidden = size_or(fields, "hidden_size", defaults.hidden, WIDTH_MAX)?;
    let name = "num_key_value_heads";
    let absent = if fields.is_present(name) { heads } else { defaults.kv_heads.unwrap_or(heads) };
    let kv_heads = size_or(fields, name, absent, HEADS_MAX)?;
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads} does not divide the {heads} query heads");
        return Err(wrong(fields.path(name), problem));
    }
    if hidden < heads {
        let problem = format!("{heads} heads of a hidden size of {hidden}");
        return Err(wrong(fields.path("num_attention_heads"), problem));
    }
    let tokens_max = fields.count("max_position_embeddings", TOKENS_MAX)?.or(defaults.tokens);
    Ok(Dims {
        layers: size_or(fields, "num_hidden_layers", defaults.layers, LAYERS_MAX)?,
        heads,
        kv_heads,
        head_dim: hidden / heads,
        hidden,
        inner: size_or(fields, "intermediate_size", defaults.inner, INNER_MAX)?,
        vocab: size_or(fields, "vocab_size", defaults.vocab, VOCAB_MAX)?,
        tokens_max,
    })
}

/// What a layer mixes tokens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mixing {
    /// Attention that looks back on everything.
    Attention,
    /// A state of fixed size.
    State,
}

/// Names of [`Mixing::State`] and [`Mixing::Attention`] in `layer_types`: today's, and those that
/// transformers renames (`_LEGACY_LAYER_TYPE_REMAP`).
pub(super) const LINEAR: [&str; 2] = ["linear_attention", "mamba"];
pub(super) const FULL: [&str; 2] = ["full_attention", "attention"];

/// The kinds of all layers from the first of several names that is there, one entry a layer.
pub(super) fn listed<'a>(
    fields: &Fields<'a>,
    names: &[&str],
    layers: Option<u32>,
) -> Result<Option<Vec<&'a str>>> {
    let Some(name) = names.iter().find(|name| fields.value(name).is_some()) else {
        return Ok(None);
    };
    let kinds = fields.texts(name)?;
    let found = u32::try_from(kinds.len()).unwrap_or(u32::MAX);
    if found == 0 || found > LAYERS_MAX || layers.is_some_and(|layers| layers != found) {
        let expected = layers.map_or(format!("1 to {LAYERS_MAX}"), |layers| layers.to_string());
        let problem = format!("{found} entries; expected {expected}, one a layer");
        return Err(wrong(fields.path(name), problem));
    }
    Ok(Some(kinds))
}

/// An entry that no layer of the model can be.
pub(super) fn unknown_kind(
    fields: &Fields<'_>,
    name: &str,
    layer: usize,
    found: &str,
) -> crate::Error {
    let problem = format!("{}; no layer of this model is of that kind", kind(&Value::from(found)));
    wrong(format!("{}[{layer}]", fields.path(name)), problem)
}

/// `layer_types` of models of two kinds of layers; `default` is what the config class derives
/// where the field is absent.
pub(super) fn pattern(
    fields: &Fields<'_>,
    names: &[&str],
    layers: u32,
    default: impl Fn(u32) -> Mixing,
) -> Result<Vec<Mixing>> {
    let Some(kinds) = listed(fields, names, Some(layers))? else {
        return Ok((0..layers).map(default).collect());
    };
    let mixing = |(layer, kind): (usize, &&str)| match kind {
        kind if LINEAR.contains(kind) => Ok(Mixing::State),
        kind if FULL.contains(kind) => Ok(Mixing::Attention),
        kind => Err(unknown_kind(fields, names[0], layer, kind)),
    };
    kinds.iter().enumerate().map(mixing).collect()
}

/// Full attention in every `interval`-th layer.
pub(super) fn every(interval: u32) -> impl Fn(u32) -> Mixing {
    move |layer| match (layer + 1).is_multiple_of(interval) {
        true => Mixing::Attention,
        false => Mixing::State,
    }
}

/// The dtype of a recurrent state, from a field that names it.
pub(super) fn state_dtype(
    fields: &Fields<'_>,
    name: &str,
    absent: StateDtype,
) -> Result<StateDtype> {
    Ok(match fields.text(name)? {
        None => absent,
        Some("float32") => StateDtype::Fixed(Dtype::Float32),
        Some("float16") => StateDtype::Fixed(Dtype::Float16),
        Some("bfloat16") => StateDtype::Fixed(Dtype::Bfloat16),
        Some("auto") => StateDtype::Model,
        Some(other) => {
            let found = kind(&Value::from(other));
            let problem = format!("{found}; expected float32, float16, bfloat16 or auto");
            return Err(wrong(fields.path(name), problem));
        }
    })
}
