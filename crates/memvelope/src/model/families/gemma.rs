//! Gemma 2 and 3 and what is built like them: norms before and behind attention and MLP, windows
//! on all but every second or sixth layer.

use super::Family;
use super::dense::{Decoder, LLAMA_NAMES, Names, QkNorm};
use super::dense_class::{Class, HeadDim, KvHeads, sized};
use super::parts::Windows;
use super::sliding::{FOUR_NORMS, pattern};
use crate::error::Result;
use crate::model::builder::Builder;
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
    kv_heads: KvHeads::Own(4),
    head_dim: HeadDim::Own(256),
    tokens: 8192,
    tied: true,
    ..sized(2304, 26, 8, 9216, 256_000)
};
const GEMMA3: Class = Class { vocab: 262_208, tokens: 131_072, ..GEMMA2 };

fn decoder(fields: &Fields<'_>, class: &Class) -> Result<Decoder> {
    let bias = fields.flag("attention_bias", false)?;
    let decoder = Decoder::new(fields, class)?.biases(bias, bias, false);
    let (hidden, heads) = (decoder.dims.hidden, decoder.dims.heads);
    // The classes demand it, though no size here depends on it.
    if !hidden.is_multiple_of(heads) {
        let problem = format!("{hidden} is not a multiple of the {heads} query heads");
        return Err(wrong(fields.path("hidden_size"), problem));
    }
    Ok(Decoder { names: FOUR_NORMS, ..decoder })
}

fn gemma2_decoder(fields: &Fields<'_>) -> Result<Decoder> {
    let decoder = decoder(fields, &GEMMA2)?;
    let layers = decoder.dims.layers;
    let windows = Windows::read(fields, layers, Some(4096))?.or_every(layers, 2);
    Ok(decoder.windows(&windows))
}

/// vLLM 0.32 `gemma2.py`: the output matrix is the embedding whatever the config says.
fn gemma2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    Decoder { tied: true, ..gemma2_decoder(&config.text)? }.build(b);
    Ok(())
}

/// As transformers builds it: Gemma 2 without the norms behind attention and MLP.
fn vaultgemma(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    const NAMES: Names =
        Names { norms: &["input_layernorm", "pre_feedforward_layernorm"], ..LLAMA_NAMES };
    Decoder { names: NAMES, ..gemma2_decoder(&config.text)? }.build(b);
    Ok(())
}

/// vLLM 0.32 `gemma3.py`.
fn gemma3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let decoder = decoder(&config.text, &GEMMA3)?;
    let windows = gemma3_windows(&config.text, decoder.dims.layers)?;
    Decoder { qk_norm: QkNorm::PerHead, ..decoder.windows(&windows) }.build(b);
    Ok(())
}

/// vLLM 0.32 `rnj1.py`: Gemma 3 whose local layers are called chunked. They look back on their
/// chunk and the one before, and the cache keeps a window of that size.
fn rnj1(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let decoder = decoder(&config.text, &GEMMA3)?;
    let windows = gemma3_windows(&config.text, decoder.dims.layers)?;
    let reach = |&kind: &&str| {
        let own = windows.window.filter(|_| kind == "chunked_attention");
        own.or_else(|| windows.of_model()).map_or(Reach::Full, Reach::Window)
    };
    let reaches = windows.types.iter().flatten().map(reach).collect();
    Decoder { reaches, qk_norm: QkNorm::PerHead, ..decoder }.build(b);
    // Every layer is built with how many chunks it looks back (vLLM 0.32 `rnj1.py`).
    b.triton_only = true;
    Ok(())
}

fn gemma3_windows<'a>(fields: &Fields<'a>, layers: u32) -> Result<Windows<'a>> {
    let windows = Windows::read(fields, layers, Some(4096))?.or_every(layers, pattern(fields, 6)?);
    match fields.flag("use_bidirectional_attention", false)? {
        true => Ok(one_side(windows)),
        false => Ok(windows),
    }
}

/// What the classes make of a window that counts both directions.
pub(super) fn one_side(windows: Windows<'_>) -> Windows<'_> {
    Windows { window: windows.window.map(|window| window / 2 + 1), ..windows }
}
