//! Dense decoders in which layers that look back on a window take turns with layers that see
//! everything.
//!
//! Which layer is which is `layer_types`; where it is absent, the config class derives it from a
//! pattern of its own.

use super::Family;
use super::dense::{Decoder, LLAMA_NAMES, Names, QkNorm};
use super::dense_class::{Class, FOREIGN, HeadDim, KvHeads, sized};
use super::limits::{LAYERS_MAX, TOKENS_MAX};
use super::parts::{SLIDING, Windows, layer_types, window};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::cache::Reach;
use crate::model::hf_config::{Config, Fields, kind, wrong};
use crate::model::weights::module::Linear;
use serde_json::Value;

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["Cohere2ForCausalLM"], model_types: &["cohere2"], rule: cohere2 },
    Family {
        architectures: &["CohereCompassForCausalLM"],
        model_types: &["cohere_compass_text"],
        rule: cohere_compass,
    },
    Family {
        architectures: &["Exaone4ForCausalLM"],
        model_types: &["exaone4", "exaone4_5_text"],
        rule: exaone4,
    },
    Family { architectures: &["Olmo3ForCausalLM"], model_types: &["olmo3"], rule: olmo3 },
    Family { architectures: &["Plamo3ForCausalLM"], model_types: &["plamo3"], rule: plamo3 },
];

pub(super) const COHERE2: Class =
    Class { tokens: 8192, tied: true, ..sized(8192, 40, 64, 22528, 256_000) };
const EXAONE4: Class =
    Class { kv_heads: KvHeads::Own(32), tokens: 2048, ..sized(4096, 32, 32, 16384, 102_400) };
const MUSE_GLIMMER: Class = Class {
    kv_heads: KvHeads::Own(2),
    head_dim: HeadDim::Own(128),
    tokens: 16384,
    ..sized(6656, 52, 32, 19968, 202_048)
};
const OLMO3: Class = Class { tokens: 2048, ..sized(4096, 32, 32, 11008, 50304) };
/// A class beside its checkpoint.
const PLAMO3: Class = Class { head_dim: HeadDim::Own(128), tied: true, ..FOREIGN };

/// One norm before attention and MLP, which lie side by side.
const ONE_NORM: Names = Names { norms: &["input_layernorm"], ..LLAMA_NAMES };
/// Norms behind attention and MLP instead of before.
const POST_NORMS: Names =
    Names { norms: &["post_attention_layernorm", "post_feedforward_layernorm"], ..LLAMA_NAMES };
/// Norms before and behind attention and MLP.
pub(super) const FOUR_NORMS: Names = Names {
    norms: &[
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ],
    ..LLAMA_NAMES
};

/// `sliding_window_pattern`: one layer in so many sees everything. Where `layer_types` is there,
/// the class does not look at the pattern, and some configs hold a text in it.
pub(super) fn pattern(fields: &Fields<'_>, default: u32) -> Result<u32> {
    match fields.value("layer_types") {
        Some(_) => Ok(default),
        None => Ok(fields.count("sliding_window_pattern", LAYERS_MAX)?.unwrap_or(default)),
    }
}

/// Norms of Cohere have a weight alone (vLLM 0.32 `commandr.py`), and the output matrix is the
/// embedding whatever the config says.
fn cohere2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let decoder = Decoder::new(fields, &COHERE2)?;
    let layers = decoder.dims.layers;
    let windows = Windows::read(fields, layers, Some(4096))?.or_every(layers, pattern(fields, 4)?);
    let reaches = inclusive(fields, &windows)?;
    let qk_norm = match fields.flag("use_qk_norm", false)? {
        true => QkNorm::Divided,
        false => QkNorm::None,
    };
    Decoder { reaches, qk_norm, names: ONE_NORM, tied: true, ..decoder }.build(b);
    Ok(())
}

/// Cohere's layers see the window and the token itself, so vLLM 0.32 adds one to the window.
pub(super) fn inclusive(fields: &Fields<'_>, windows: &Windows<'_>) -> Result<Vec<Reach>> {
    let reach = |&kind: &&str| match windows.window {
        _ if kind != SLIDING => Ok(Reach::Full),
        Some(window) => Ok(Reach::Window(window.saturating_add(1))),
        None => {
            let problem = "none, and a layer of layer_types has one";
            Err(wrong(fields.path("sliding_window"), problem))
        }
    };
    windows.types.iter().flatten().map(reach).collect()
}

/// The language model of Cohere's Compass (vLLM 0.32 `cohere_compass.py`).
fn cohere_compass(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let decoder = Decoder::new(fields, &COHERE2)?;
    let layers = decoder.dims.layers;
    let windows = Windows::read(fields, layers, Some(4096))?.or_types(layers, |_| false);
    let bias = fields.flag("attention_bias", false)?;
    let decoder = decoder.windows(&windows).biases(bias, bias, false);
    Decoder { names: ONE_NORM, tied: true, ..decoder }.build(b);
    Ok(())
}

/// vLLM 0.32 `exaone4.py`.
fn exaone4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let decoder = Decoder::new(fields, &EXAONE4)?;
    let layers = decoder.dims.layers;
    let windows = Windows::read(fields, layers, Some(4096))?;
    if windows.window.is_none() && windows.types.is_none() {
        // The class would divide by a pattern of zero.
        return Err(wrong(fields.path("layer_types"), "missing, and there is no sliding_window"));
    }
    let windows = windows.or_every(layers, pattern(fields, 4)?);
    let bias = fields.flag("attention_bias", false)? || fields.flag("bias", false)?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    let decoder = decoder.windows(&windows).biases(bias, bias, mlp_bias);
    Decoder { qk_norm: QkNorm::PerHead, names: POST_NORMS, ..decoder }.build(b);
    Ok(())
}

/// vLLM 0.32 `muse_glimmer.py`: the layers without rotary embedding see everything, and a matrix as
/// wide as the queries gates the attention's output. Norms on queries and keys have no weights.
pub(super) fn muse_glimmer(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    const NO_ROPE: &str = "no_rope_layers";
    let fields = &config.text;
    let decoder = Decoder::new(fields, &MUSE_GLIMMER)?;
    let layers = decoder.dims.layers;
    let declared = fields.counts(NO_ROPE, 1)?;
    if let Some(found) = declared.as_ref().filter(|list| u32::try_from(list.len()) != Ok(layers)) {
        let problem = format!("{} entries for {layers} layers", found.len());
        return Err(wrong(fields.path(NO_ROPE), problem));
    }
    // Every fourth is without, counted from the last.
    let has_rope = declared.unwrap_or_else(|| {
        (0..layers).rev().map(|from_last| u32::from(!from_last.is_multiple_of(4))).collect()
    });
    let windows = Windows::read(fields, layers, Some(2048))?;
    // Derived types slide exactly where there is rotary embedding.
    let derived = || has_rope.iter().all(|&rope| rope == 1);
    let of_model = match windows.types {
        Some(_) => windows.of_model(),
        None => windows.window.filter(|_| derived()),
    };
    let reach = |&rope: &u32| {
        let own = windows.window.filter(|_| rope == 1);
        own.or(of_model).map_or(Reach::Full, Reach::Window)
    };
    let reaches = has_rope.iter().map(reach).collect();
    let decoder = Decoder { reaches, names: FOUR_NORMS, tied: false, ..decoder };
    decoder.build(b);
    if fields.flag("use_attn_output_gate", true)? {
        let dims = &decoder.dims;
        let width = u64::from(dims.heads).saturating_mul(dims.head_dim.into());
        for layer in 0..layers {
            let name = format!("model.layers.{layer}.self_attn.output_gate_proj");
            b.linear(&name, Linear::column(dims.hidden.into(), width));
        }
    }
    Ok(())
}

/// As transformers builds it and vLLM 0.32 divides it: norms over all heads at once, whole on
/// every rank.
fn olmo3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let decoder = Decoder::new(fields, &OLMO3)?;
    let layers = decoder.dims.layers;
    let windows = Windows::read(fields, layers, Some(4096))?.or_every(layers, 4);
    let bias = fields.flag("attention_bias", false)?;
    let decoder = decoder.windows(&windows).biases(bias, bias, false);
    Decoder { qk_norm: QkNorm::Whole, names: POST_NORMS, ..decoder }.build(b);
    Ok(())
}

/// vLLM 0.32 `plamo3.py`. The config class is the model's own; it lists the window of every layer
/// in `interleaved_sliding_window`, derived from `window_size` and `sliding_window_pattern`.
fn plamo3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        layers: "model.layers.layers",
        attention: "mixer",
        norms: &["pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm"],
        ..LLAMA_NAMES
    };
    let fields = &config.text;
    let decoder = Decoder::new(fields, &PLAMO3)?;
    let reaches = plamo3_reaches(fields, decoder.dims.layers)?;
    let (vocab, hidden) = (decoder.dims.vocab, decoder.dims.hidden);
    let tied = decoder.tied;
    let qk_norm = QkNorm::PerHead;
    Decoder { reaches, qk_norm, names: NAMES, tied: true, ..decoder }.build(b);
    if !tied {
        // Padded by rows up to a multiple of 16, as if they were added tokens.
        let added = vocab.next_multiple_of(16) - vocab;
        b.head("lm_head", vocab.next_multiple_of(64) + added, hidden, false);
    }
    Ok(())
}

fn plamo3_reaches(fields: &Fields<'_>, layers: u32) -> Result<Vec<Reach>> {
    const NAME: &str = "interleaved_sliding_window";
    if fields.value(NAME).is_none() {
        let window = match fields.count("window_size", TOKENS_MAX)? {
            Some(size) => Some(size),
            None => window(fields, Some(2048))?,
        };
        let windows = Windows { types: layer_types(fields, layers)?, window };
        let windows = windows.or_every(layers, pattern(fields, 8)?);
        return Ok((0..layers).map(|layer| windows.by_type(layer)).collect());
    }
    let items = fields.items(NAME)?;
    if u32::try_from(items.len()) != Ok(layers) {
        let problem = format!("{} entries for {layers} layers", items.len());
        return Err(wrong(fields.path(NAME), problem));
    }
    let reach = |(index, item): (usize, &Value)| {
        let window = item.as_u64().and_then(|window| u32::try_from(window).ok());
        match window.filter(|window| (1..=TOKENS_MAX).contains(window)) {
            Some(window) => Ok(Reach::Window(window)),
            None if item.is_null() => Ok(Reach::Full),
            None => {
                let field = format!("{}[{index}]", fields.path(NAME));
                Err(wrong(field, format!("{}; expected a window or null", kind(item))))
            }
        }
    };
    items.iter().enumerate().map(reach).collect()
}
