//! Dense decoders in which layers that look back on a window take turns with layers that see
//! everything.
//!
//! Which layer is which is `layer_types`; where it is absent, the config class derives it from a
//! pattern of its own.

use super::Family;
use super::limits::{LAYERS_MAX, TOKENS_MAX};
use super::parts::{SLIDING, Windows, dims, layer_types, window};
use super::sliding::{Class, Decoder, FOUR_NORMS, HeadDim, KvHeads, POST_NORMS, QkNorm};
use super::sliding::{pattern, tied};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::cache::Reach;
use crate::model::hf_config::{Config, Fields, kind, wrong};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["Cohere2ForCausalLM"], model_types: &["cohere2"], rule: cohere2 },
    Family {
        architectures: &["CohereCompassForCausalLM"],
        model_types: &["cohere_compass_text"],
        rule: cohere_compass,
    },
    Family { architectures: &["CwmForCausalLM"], model_types: &["cwm"], rule: cwm },
    Family {
        architectures: &["Exaone4ForCausalLM"],
        model_types: &["exaone4", "exaone4_5_text"],
        rule: exaone4,
    },
    Family {
        architectures: &["GraniteSWAForCausalLM"],
        model_types: &["granite_swa"],
        rule: granite_swa,
    },
    Family {
        architectures: &["MinistralForCausalLM"],
        model_types: &["ministral"],
        rule: ministral,
    },
    Family {
        architectures: &["Ministral3ForCausalLM"],
        model_types: &["ministral3"],
        rule: ministral3,
    },
    Family {
        architectures: &["MuseGlimmerForCausalLM"],
        model_types: &["muse_glimmer_text"],
        rule: muse_glimmer,
    },
    Family { architectures: &["Olmo3ForCausalLM"], model_types: &["olmo3"], rule: olmo3 },
    Family { architectures: &["Plamo3ForCausalLM"], model_types: &["plamo3"], rule: plamo3 },
    Family { architectures: &["SmolLM3ForCausalLM"], model_types: &["smollm3"], rule: smollm3 },
];

pub(super) const COHERE: Class = Class {
    layers: 40,
    hidden: 8192,
    inner: 22528,
    heads: 64,
    kv_heads: KvHeads::Heads,
    head_dim: HeadDim::Quotient,
    vocab: 256_000,
    tokens_max: 8192,
};

/// vLLM 0.32 `commandr.py`: attention and MLP side by side behind one norm, the output matrix
/// always the embedding.
fn cohere2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = COHERE.dims(fields)?;
    let windows =
        Windows::read(fields, dims.layers, Some(4096))?.or_every(dims.layers, pattern(fields, 4)?);
    let each_head = fields.flag("use_qk_norm", false)?;
    Decoder {
        reaches: inclusive(fields, &windows)?,
        qk_norm: if each_head { QkNorm::EachHead } else { QkNorm::None },
        norms: &["input_layernorm"],
        ..Decoder::new(dims, &windows, true)
    }
    .build(b);
    Ok(())
}

/// Cohere's layers see the window and the token itself, so vLLM 0.32 adds one to the window.
pub(super) fn inclusive(fields: &Fields<'_>, windows: &Windows<'_>) -> Result<Vec<Reach>> {
    let reach = |&kind: &&str| match windows.window {
        _ if kind != SLIDING => Ok(Reach::Full),
        Some(window) => Ok(Reach::Window(window.saturating_add(1))),
        None => {
            Err(wrong(fields.path("sliding_window"), "none, and a layer of layer_types has one"))
        }
    };
    windows.types.iter().flatten().map(reach).collect()
}

/// The language model of Cohere's Compass (vLLM 0.32 `cohere_compass.py`).
fn cohere_compass(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = COHERE.dims(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?.or_types(dims.layers, |_| false);
    Decoder {
        attention_bias: fields.flag("attention_bias", false)?,
        norms: &["input_layernorm"],
        ..Decoder::new(dims, &windows, true)
    }
    .build(b);
    Ok(())
}

fn cwm(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 64,
        hidden: 6144,
        inner: 21504,
        heads: 48,
        kv_heads: KvHeads::Number(8),
        head_dim: HeadDim::Number(128),
        vocab: 128_256,
        tokens_max: 131_072,
    };
    let dims = class.dims(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(8192))?
        .or_types(dims.layers, |layer| !layer.is_multiple_of(4));
    Decoder {
        mlp_bias: fields.flag("mlp_bias", false)?,
        ..Decoder::new(dims, &windows, tied(config, false)?)
    }
    .build(b);
    Ok(())
}

/// vLLM 0.32 `exaone4.py`: norms behind attention and MLP instead of before.
fn exaone4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 4096,
        inner: 16384,
        heads: 32,
        kv_heads: KvHeads::Number(32),
        head_dim: HeadDim::Quotient,
        vocab: 102_400,
        tokens_max: 2048,
    };
    let dims = class.dims(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?;
    if windows.window.is_none() && windows.types.is_none() {
        // The class would divide by a pattern of zero.
        return Err(wrong(fields.path("layer_types"), "missing, and there is no sliding_window"));
    }
    let windows = windows.or_every(dims.layers, pattern(fields, 4)?);
    Decoder {
        qk_norm: QkNorm::Head,
        norms: POST_NORMS,
        attention_bias: fields.flag("attention_bias", false)? || fields.flag("bias", false)?,
        mlp_bias: fields.flag("mlp_bias", false)?,
        ..Decoder::new(dims, &windows, tied(config, false)?)
    }
    .build(b);
    Ok(())
}

/// Granite with windows and attention sinks (vLLM 0.32 `granite.py`).
fn granite_swa(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 24,
        hidden: 2560,
        inner: 8192,
        heads: 20,
        kv_heads: KvHeads::Number(4),
        head_dim: HeadDim::Quotient,
        vocab: 100_352,
        tokens_max: 8192,
    };
    let dims = class.dims(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(128))?
        .or_types(dims.layers, |layer| !layer.is_multiple_of(4));
    Decoder {
        attention_bias: fields.flag("attention_bias", false)?,
        mlp_bias: fields.flag("mlp_bias", false)?,
        sinks: fields.flag("attention_sinks", true)?,
        ..Decoder::new(dims, &windows, tied(config, true)?)
    }
    .build(b);
    Ok(())
}

/// Mistral with its window on every layer, or on those that `layer_types` names.
fn ministral(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 4096,
        inner: 14336,
        heads: 32,
        kv_heads: KvHeads::Number(8),
        head_dim: HeadDim::Quotient,
        vocab: 32000,
        tokens_max: 131_072,
    };
    let dims = class.dims(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?;
    let has_window = windows.window.is_some();
    let windows = windows.or_types(dims.layers, |_| has_window);
    Decoder::new(dims, &windows, tied(config, false)?).build(b);
    Ok(())
}

/// vLLM 0.32 `mistral.py`, which is Llama: no window unless the field names one.
fn ministral3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 34,
        hidden: 4096,
        inner: 14336,
        heads: 32,
        kv_heads: KvHeads::Number(8),
        head_dim: HeadDim::Number(128),
        vocab: 131_072,
        tokens_max: 262_144,
    };
    let dims = class.dims(fields)?;
    let windows = Windows::read(fields, dims.layers, None)?;
    Decoder {
        attention_bias: fields.flag("attention_bias", false)?,
        mlp_bias: fields.flag("mlp_bias", false)?,
        ..Decoder::new(dims, &windows, tied(config, false)?)
    }
    .build(b);
    Ok(())
}

/// vLLM 0.32 `muse_glimmer.py`: the layers without rotary embedding see everything.
fn muse_glimmer(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    const NO_ROPE: &str = "no_rope_layers";
    let fields = &config.text;
    let class = Class {
        layers: 52,
        hidden: 6656,
        inner: 19968,
        heads: 32,
        kv_heads: KvHeads::Number(2),
        head_dim: HeadDim::Number(128),
        vocab: 202_048,
        tokens_max: 16384,
    };
    let dims = class.dims(fields)?;
    let layers = dims.layers;
    let declared = fields.counts(NO_ROPE, 1)?;
    if let Some(found) = declared.as_ref().filter(|list| u32::try_from(list.len()) != Ok(layers)) {
        let problem = format!("{} entries for {layers} layers", found.len());
        return Err(wrong(fields.path(NO_ROPE), problem));
    }
    // Every fourth is without, counted from the last.
    let has_rope = declared.unwrap_or_else(|| {
        (0..layers).map(|layer| u32::from(!(layers - 1 - layer).is_multiple_of(4))).collect()
    });
    let windows = Windows::read(fields, layers, Some(2048))?
        .or_types(layers, |layer| usize::try_from(layer).is_ok_and(|layer| has_rope[layer] == 1));
    let reach = |&has_rope: &u32| {
        let own = windows.window.filter(|_| has_rope == 1);
        own.or_else(|| windows.of_model()).map_or(Reach::Full, Reach::Window)
    };
    Decoder {
        reaches: has_rope.iter().map(reach).collect(),
        norms: FOUR_NORMS,
        output_gate: fields.flag("use_attn_output_gate", true)?,
        ..Decoder::new(dims, &windows, false)
    }
    .build(b);
    Ok(())
}

/// As transformers builds it and vLLM 0.32 divides it: norms over all heads at once, whole on
/// every rank.
fn olmo3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 4096,
        inner: 11008,
        heads: 32,
        kv_heads: KvHeads::Heads,
        head_dim: HeadDim::Quotient,
        vocab: 50304,
        tokens_max: 2048,
    };
    let dims = class.dims(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?.or_every(dims.layers, 4);
    Decoder {
        qk_norm: QkNorm::Whole,
        norms: POST_NORMS,
        attention_bias: fields.flag("attention_bias", false)?,
        ..Decoder::new(dims, &windows, tied(config, false)?)
    }
    .build(b);
    Ok(())
}

/// vLLM 0.32 `plamo3.py`. The config class is the model's own; it lists the window of every layer
/// in `interleaved_sliding_window`, derived from `window_size` and `sliding_window_pattern`.
fn plamo3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = dims(fields, Some(128))?;
    // The output matrix is padded by rows up to a multiple of 16, as if they were added tokens.
    let added = dims.vocab.next_multiple_of(16) - dims.vocab;
    let head_rows = dims.vocab.next_multiple_of(64) + added;
    let windows = Windows { types: None, window: None };
    Decoder {
        reaches: plamo3_reaches(fields, dims.layers)?,
        head_rows,
        qk_norm: QkNorm::Head,
        norms: &["pre_mixer_norm", "post_mixer_norm", "pre_mlp_norm", "post_mlp_norm"],
        list: "model.layers.layers",
        attention: "mixer",
        ..Decoder::new(dims, &windows, tied(config, true)?)
    }
    .build(b);
    Ok(())
}

fn plamo3_reaches(fields: &Fields<'_>, layers: u32) -> Result<Vec<Reach>> {
    const NAME: &str = "interleaved_sliding_window";
    let items = fields.items(NAME)?;
    if fields.value(NAME).is_none() {
        let window = match fields.count("window_size", TOKENS_MAX)? {
            Some(size) => Some(size),
            None => window(fields, Some(2048))?,
        };
        let every = fields.count("sliding_window_pattern", LAYERS_MAX)?.unwrap_or(8);
        let windows = Windows { types: layer_types(fields, layers)?, window };
        let windows = windows.or_every(layers, every);
        return Ok((0..layers).map(|layer| windows.by_type(layer)).collect());
    }
    if u32::try_from(items.len()) != Ok(layers) {
        let problem = format!("{} entries for {layers} layers", items.len());
        return Err(wrong(fields.path(NAME), problem));
    }
    let reach = |(index, item): (usize, &serde_json::Value)| match item.as_u64() {
        None if item.is_null() => Ok(Reach::Full),
        Some(window @ 1..) if window <= TOKENS_MAX.into() => {
            Ok(u32::try_from(window).map_or(Reach::Full, Reach::Window))
        }
        _ => {
            let field = format!("{}[{index}]", fields.path(NAME));
            Err(wrong(field, format!("{}; expected a window or null", kind(item))))
        }
    };
    items.iter().enumerate().map(reach).collect()
}

fn smollm3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 36,
        hidden: 2048,
        inner: 11008,
        heads: 16,
        kv_heads: KvHeads::Number(4),
        head_dim: HeadDim::Quotient,
        vocab: 128_256,
        tokens_max: 32768,
    };
    let dims = class.dims(fields)?;
    let windows = Windows::read(fields, dims.layers, None)?;
    let windows = smollm3_types(fields, dims.layers, windows)?;
    Decoder {
        attention_bias: fields.flag("attention_bias", false)?,
        mlp_bias: fields.flag("mlp_bias", false)?,
        ..Decoder::new(dims, &windows, tied(config, true)?)
    }
    .build(b);
    Ok(())
}

/// With `use_sliding_window`, the layers without rotary embedding have the window.
fn smollm3_types<'a>(
    fields: &Fields<'a>,
    layers: u32,
    windows: Windows<'a>,
) -> Result<Windows<'a>> {
    const NO_ROPE: &str = "no_rope_layers";
    let slides = fields.flag("use_sliding_window", false)? && windows.window.is_some();
    let interval = fields.count("no_rope_layer_interval", LAYERS_MAX)?.unwrap_or(4);
    let has_rope = fields.counts(NO_ROPE, 1)?;
    if let Some(list) = has_rope.as_ref().filter(|list| u32::try_from(list.len()) != Ok(layers)) {
        let problem = format!("{} entries for {layers} layers", list.len());
        return Err(wrong(fields.path(NO_ROPE), problem));
    }
    Ok(windows.or_types(layers, |layer| {
        let listed = has_rope.as_ref().and_then(|list| list.get(usize::try_from(layer).ok()?));
        let has_rope = listed.map_or(!(layer + 1).is_multiple_of(interval), |&rope| rope == 1);
        slides && !has_rope
    }))
}
