//! Gemma 2 and 3 and what is built like them: norms before and behind attention and MLP, windows
//! on all but every second or sixth layer.

use super::Family;
use super::parts::{FULL, Windows};
use super::sliding::{Class, Decoder, FOUR_NORMS, HeadDim, KvHeads, QkNorm, pattern, tied};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::builder::Dims;
use crate::model::cache::Reach;
use crate::model::hf_config::{Config, Fields, wrong};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["Gemma2ForCausalLM"], model_types: &["gemma2"], rule: gemma2 },
    Family { architectures: &["Gemma3ForCausalLM"], model_types: &["gemma3_text"], rule: gemma3 },
    Family { architectures: &["Rnj1ForCausalLM"], model_types: &["rnj1"], rule: rnj1 },
    Family {
        architectures: &["VaultGemmaForCausalLM"],
        model_types: &["vaultgemma"],
        rule: vaultgemma,
    },
];

const GEMMA2: Class = Class {
    layers: 26,
    hidden: 2304,
    inner: 9216,
    heads: 8,
    kv_heads: KvHeads::Number(4),
    head_dim: HeadDim::Number(256),
    vocab: 256_000,
    tokens_max: 8192,
};

const GEMMA3: Class = Class { vocab: 262_208, tokens_max: 131_072, ..GEMMA2 };

/// The classes refuse a hidden size that the heads do not divide, though nothing depends on it.
fn dims(class: &Class, fields: &Fields<'_>) -> Result<Dims> {
    let dims = class.dims(fields)?;
    if dims.hidden.is_multiple_of(dims.heads) {
        return Ok(dims);
    }
    let problem = format!("{} is not a multiple of the {} query heads", dims.hidden, dims.heads);
    Err(wrong(fields.path("hidden_size"), problem))
}

/// vLLM 0.32 `gemma2.py`: the output matrix is the embedding whatever the config says.
fn gemma2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = dims(&GEMMA2, fields)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?.or_every(dims.layers, 2);
    Decoder {
        norms: FOUR_NORMS,
        attention_bias: fields.flag("attention_bias", false)?,
        ..Decoder::new(dims, &windows, true)
    }
    .build(b);
    Ok(())
}

/// As transformers builds it: Gemma 2 without the norms behind attention and MLP.
fn vaultgemma(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = dims(&GEMMA2, fields)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?.or_every(dims.layers, 2);
    Decoder {
        norms: &["input_layernorm", "pre_feedforward_layernorm"],
        attention_bias: fields.flag("attention_bias", false)?,
        ..Decoder::new(dims, &windows, tied(config, true)?)
    }
    .build(b);
    Ok(())
}

fn gemma3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let (dims, windows) = gemma3_layers(&config.text)?;
    gemma3_decoder(config, Decoder::new(dims, &windows, tied(config, true)?), b)
}

/// vLLM 0.32 `rnj1.py`: Gemma 3 whose local layers are called chunked. They look back on their
/// chunk and the one before, and the cache keeps a window of that.
fn rnj1(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let (dims, windows) = gemma3_layers(&config.text)?;
    let reach = |&kind: &&str| match windows.window {
        Some(window) if kind == "chunked_attention" => Reach::Window(window),
        _ => windows.of_model().map_or(Reach::Full, Reach::Window),
    };
    let reaches = windows.types.iter().flatten().map(reach).collect();
    let decoder = Decoder { reaches, ..Decoder::new(dims, &windows, tied(config, true)?) };
    gemma3_decoder(config, decoder, b)
}

fn gemma3_layers<'a>(fields: &Fields<'a>) -> Result<(Dims, Windows<'a>)> {
    let dims = dims(&GEMMA3, fields)?;
    let mut windows =
        Windows::read(fields, dims.layers, Some(4096))?.or_every(dims.layers, pattern(fields, 6)?);
    if fields.flag("use_bidirectional_attention", false)? {
        windows.window = windows.window.map(one_side);
    }
    Ok((dims, windows))
}

/// What is left of a window that counts both directions.
pub(super) const fn one_side(window: u32) -> u32 {
    window / 2 + 1
}

fn gemma3_decoder(config: &Config<'_>, decoder: Decoder, b: &mut Builder) -> Result<()> {
    let attention_bias = config.text.flag("attention_bias", false)?;
    Decoder { qk_norm: QkNorm::Head, norms: FOUR_NORMS, attention_bias, ..decoder }.build(b);
    Ok(())
}

/// `layer_types` of Gemma 4: the last layer sees everything whatever the field says.
pub(super) fn last_is_full(windows: &mut Windows<'_>) {
    if let Some(last) = windows.types.as_mut().and_then(|types| types.last_mut()) {
        *last = FULL;
    }
}
