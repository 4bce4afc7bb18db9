//! Vision towers: encoders that run once per image and keep nothing between steps.
//!
//! A [`Style`] says how a tower's layers are named, divided and biased; the sizes come from its
//! config object, with the defaults of its Hugging Face config class.

use super::limits::{HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, WIDTH_MAX};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Fields, kind, wrong};
use crate::model::weights::module::{Linear, Param};
use serde_json::Value;

/// How the layers of an encoder are named and built.
#[derive(Clone, Copy)]
pub(super) struct Style {
    /// The list of layers.
    pub(super) layers: &'static str,
    /// Norms of the width of the encoder, and whether they have no bias.
    pub(super) norms: &'static [&'static str],
    pub(super) rms: bool,
    /// Scope of the projections; they are `qkv` beside each other, or `q`, `k` and `v`.
    pub(super) attention: &'static str,
    pub(super) qkv: &'static [&'static str],
    pub(super) out: &'static str,
    pub(super) qkv_bias: bool,
    /// A projection without the bias that the others have (Whisper's keys).
    pub(super) no_bias: &'static str,
    pub(super) out_bias: bool,
    /// Scope of the MLP, empty if its matrices lie in the layer.
    pub(super) mlp: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) mlp_bias: bool,
    /// Gate and up beside each other.
    pub(super) gated: bool,
    /// Norms of one head's width (queries, keys), in the scope of the attention.
    pub(super) head_norms: &'static [&'static str],
    /// Further parameters of the width of the encoder.
    pub(super) scales: &'static [&'static str],
    /// Divided over tensor-parallel ranks.
    pub(super) attention_divided: bool,
    pub(super) mlp_divided: bool,
    /// The attention is whole on every rank where the heads do not divide.
    pub(super) whole_if_uneven: bool,
    /// So is the MLP.
    pub(super) mlp_whole_if_uneven: bool,
    /// The engine hands the model's quantisation to the matrices.
    pub(super) quantizable: bool,
    /// To those of the MLP too.
    pub(super) mlp_quantizable: bool,
}

/// CLIP and SigLIP.
pub(super) const VIT: Style = Style {
    layers: "encoder.layers",
    norms: &["layer_norm1", "layer_norm2"],
    rms: false,
    attention: "self_attn",
    qkv: &["qkv_proj"],
    out: "out_proj",
    qkv_bias: true,
    no_bias: "",
    out_bias: true,
    mlp: "mlp",
    up: "fc1",
    down: "fc2",
    mlp_bias: true,
    gated: false,
    head_norms: &[],
    scales: &[],
    attention_divided: true,
    mlp_divided: true,
    whole_if_uneven: false,
    mlp_whole_if_uneven: false,
    quantizable: true,
    mlp_quantizable: true,
};

/// The sizes of an encoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) layers: u32,
    pub(super) width: u64,
    pub(super) inner: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
}

impl Size {
    /// Fields named as text models name them; the numbers are the config class's defaults of
    /// layers, width, inner width and heads.
    pub(super) fn read(fields: &Fields<'_>, defaults: [u32; 4]) -> Result<Self> {
        let names =
            ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"];
        Self::read_as(fields, names, defaults)
    }

    pub(super) fn read_as(
        fields: &Fields<'_>,
        names: [&str; 4],
        defaults: [u32; 4],
    ) -> Result<Self> {
        let max = [LAYERS_MAX, WIDTH_MAX, INNER_MAX, HEADS_MAX];
        let mut sizes = defaults;
        for (index, size) in sizes.iter_mut().enumerate() {
            *size = fields.count(names[index], max[index])?.unwrap_or(*size);
        }
        let [layers, width, inner, heads] = sizes;
        if !width.is_multiple_of(heads) {
            let problem = format!("{heads} heads do not divide the width {width}");
            return Err(wrong(fields.path(names[3]), problem));
        }
        let heads = u64::from(heads);
        let width = u64::from(width);
        let (kv_heads, head_dim) = (heads, width / heads);
        Ok(Self { layers, width, inner: inner.into(), heads, kv_heads, head_dim })
    }
}

/// A number of a tower's config, by one name.
pub(super) fn number(fields: &Fields<'_>, name: &str, default: u32) -> Result<u64> {
    Ok(fields.count(name, TOKENS_MAX)?.unwrap_or(default).into())
}

/// As [`number`], where a list of equal numbers stands for one of them.
pub(super) fn side(fields: &Fields<'_>, name: &str, default: u32) -> Result<u64> {
    match fields.value(name) {
        Some(Value::Array(_)) => {
            let sides = fields.counts(name, TOKENS_MAX)?.unwrap_or_default();
            match sides.first() {
                Some(&first) if first > 0 && sides.iter().all(|&side| side == first) => {
                    Ok(first.into())
                }
                _ => Err(wrong(fields.path(name), "expected equal numbers above 0")),
            }
        }
        _ => number(fields, name, default),
    }
}

/// Product that cannot overflow.
pub(super) fn times(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor))
}

/// A patch embedding or other convolution.
pub(super) fn convolution(b: &mut Builder, name: &str, shape: &[u64], bias: bool) {
    let out = if bias { shape.first().copied().unwrap_or(0) } else { 0 };
    b.param(name, Param::whole(times(shape).saturating_add(out)));
}

/// A norm of either kind.
pub(super) fn norm(b: &mut Builder, name: &str, width: u64, rms: bool) {
    match rms {
        true => b.rms_norm(name, width),
        false => b.layer_norm(name, width),
    }
}

/// Two matrices with an activation between them, each with a bias or none.
pub(super) fn two_linear(
    b: &mut Builder,
    names: [&str; 2],
    widths: [u64; 3],
    [divided, bias, quantizable]: [bool; 3],
) {
    let [input, inner, out] = widths;
    let (up, down) = match divided {
        true => (Linear::column(input, inner), Linear::row(inner, out)),
        false => (Linear::replicated(input, inner), Linear::replicated(inner, out)),
    };
    for (name, linear) in names.into_iter().zip([up, down]) {
        let linear = linear.bias(bias);
        b.linear(name, if quantizable { linear } else { linear.plain() });
    }
}

/// A matrix of PyTorch's own: whole on every rank, never quantised.
pub(super) fn plain(b: &mut Builder, name: &str, input: u64, out: u64, bias: bool) {
    b.linear(name, Linear::replicated(input, out).bias(bias).plain());
}

/// Runs `build` in a scope, or in the current one if the name is empty.
pub(super) fn scope(b: &mut Builder, name: &str, build: impl FnOnce(&mut Builder)) {
    match name.is_empty() {
        true => build(b),
        false => b.scope(name, build),
    }
}

/// All layers of an encoder.
pub(super) fn encoder(b: &mut Builder, style: &Style, size: &Size) {
    for layer in 0..size.layers {
        b.scope(&format!("{}.{layer}", style.layers), |b| block(b, style, size));
    }
}

/// One layer of an encoder.
pub(super) fn block(b: &mut Builder, style: &Style, size: &Size) {
    for name in style.norms {
        norm(b, name, size.width, style.rms);
    }
    for name in style.scales {
        b.param(name, Param::whole(size.width));
    }
    scope(b, style.attention, |b| attention(b, style, size));
    scope(b, style.mlp, |b| mlp(b, style, size));
}

/// The attention of one layer, in its scope.
pub(super) fn attention(b: &mut Builder, style: &Style, size: &Size) {
    let finish = |linear: Linear| {
        let linear = match style.whole_if_uneven {
            true => linear.divided_with(size.heads),
            false => linear,
        };
        if style.quantizable { linear } else { linear.plain() }
    };
    let (width, dim) = (size.width, size.head_dim);
    let (queries, keys) = (size.heads.saturating_mul(dim), size.kv_heads.saturating_mul(dim));
    for (index, name) in style.qkv.iter().enumerate() {
        let bias = style.qkv_bias && *name != style.no_bias;
        let linear = match (style.qkv.len(), style.attention_divided) {
            (1, true) => Linear::qkv(width, size.heads, size.kv_heads, dim, dim),
            (1, false) => {
                Linear::replicated(width, queries.saturating_add(keys).saturating_add(keys))
            }
            (_, divided) => {
                let out = if index == 0 { queries } else { keys };
                if divided { Linear::column(width, out) } else { Linear::replicated(width, out) }
            }
        };
        b.linear(name, finish(linear.bias(bias)));
    }
    let out = match style.attention_divided {
        true => Linear::row(queries, width),
        false => Linear::replicated(queries, width),
    };
    b.linear(style.out, finish(out.bias(style.out_bias)));
    for name in style.head_norms {
        b.rms_norm(name, dim);
    }
}

/// The MLP of one layer, in its scope.
pub(super) fn mlp(b: &mut Builder, style: &Style, size: &Size) {
    let (width, inner) = (size.width, size.inner);
    let (up, down) = match (style.mlp_divided, style.gated) {
        (true, true) => (Linear::merged(width, [inner, inner]), Linear::row(inner, width)),
        (true, false) => (Linear::column(width, inner), Linear::row(inner, width)),
        (false, gated) => {
            let up = inner.saturating_mul(if gated { 2 } else { 1 });
            (Linear::replicated(width, up), Linear::replicated(inner, width))
        }
    };
    for (name, linear) in [(style.up, up), (style.down, down)] {
        let linear = linear.bias(style.mlp_bias);
        let linear = match style.mlp_whole_if_uneven {
            true => linear.divided_with(size.heads),
            false => linear,
        };
        let quantizable = style.quantizable && style.mlp_quantizable;
        b.linear(name, if quantizable { linear } else { linear.plain() });
    }
}

/// The `quant_method` that a document declares, of itself or of its language model.
pub(super) fn quant_method<'a>(root: &Fields<'a>) -> Result<Option<&'a str>> {
    let text = root.object_or_empty("text_config")?;
    let name = "quantization_config";
    let declared = [root.object(name)?, text.object(name)?, root.object("compression_config")?];
    match declared.into_iter().flatten().next() {
        Some(declared) => declared.text("quant_method"),
        None => Ok(None),
    }
}

/// How much of a CLIP or SigLIP tower is built.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depth {
    /// Layers, if fewer than the config says.
    pub(super) layers: Option<u32>,
    /// The norm after the last layer, if it is certain; else there is one if all layers are.
    pub(super) post_norm: Option<bool>,
}

/// All layers and the norm after them.
pub(super) const WHOLE: Depth = Depth { layers: None, post_norm: None };

impl Depth {
    fn of(self, size: &mut Size) -> bool {
        let all = size.layers;
        size.layers = self.layers.unwrap_or(all);
        self.post_norm.unwrap_or(size.layers == all)
    }

    /// Up to the deepest layer that `vision_feature_layer` names (`llava.py`), without the norm.
    pub(super) fn of_features(model: &Fields<'_>, layers: u32, default: i64) -> Result<Self> {
        let name = "vision_feature_layer";
        let index = |value: &Value| {
            let index = value.as_i64().unwrap_or(i64::MIN);
            let index = if index < 0 { index + i64::from(layers) + 1 } else { index };
            u32::try_from(index).ok().filter(|&index| index <= layers).ok_or_else(|| {
                let problem = format!("{}; expected a layer of {layers}", kind(value));
                wrong(model.path(name), problem)
            })
        };
        let deepest = match model.value(name) {
            None => index(&Value::from(default))?,
            Some(Value::Array(items)) => {
                let all: Vec<u32> = items.iter().map(index).collect::<Result<_>>()?;
                let Some(deepest) = all.into_iter().max() else {
                    return Err(wrong(model.path(name), "empty"));
                };
                deepest
            }
            Some(value) => index(value)?,
        };
        Ok(Self { layers: Some(deepest), post_norm: Some(false) })
    }
}

/// Sizes of a SigLIP tower, with the defaults of `SiglipVisionConfig`.
pub(super) fn siglip_size(fields: &Fields<'_>) -> Result<Size> {
    Size::read(fields, [12, 768, 3072, 12])
}

/// SigLIP, in its scope (`siglip.py`). The pooling head is never built for these models.
/// Kernels of most quantisations need widths of multiples of 64 in the MLP, so the engine leaves
/// it alone where they are not; `root` is the document.
pub(super) fn siglip(
    b: &mut Builder,
    root: &Fields<'_>,
    fields: &Fields<'_>,
    depth: Depth,
) -> Result<Size> {
    let mut size = siglip_size(fields)?;
    let style = Style {
        mlp_quantizable: matches!(quant_method(root)?, Some("bitsandbytes" | "torchao"))
            || size.width.is_multiple_of(64) && size.inner.is_multiple_of(64),
        ..VIT
    };
    let post_norm = depth.of(&mut size);
    let (patch, image) = (side(fields, "patch_size", 16)?, side(fields, "image_size", 224)?);
    let channels = number(fields, "num_channels", 3)?;
    b.scope("embeddings", |b| {
        convolution(b, "patch_embedding", &[size.width, channels, patch, patch], true);
        let positions = (image / patch.max(1)).saturating_pow(2);
        b.table("position_embedding", positions, size.width);
    });
    encoder(b, &style, &size);
    if post_norm {
        b.layer_norm("post_layernorm", size.width);
    }
    Ok(size)
}

/// CLIP, in its scope (`clip.py`); defaults of `CLIPVisionConfig`.
pub(super) fn clip(b: &mut Builder, fields: &Fields<'_>, depth: Depth) -> Result<Size> {
    let mut size = clip_size(fields)?;
    let post_norm = depth.of(&mut size);
    let (patch, image) = (side(fields, "patch_size", 32)?, side(fields, "image_size", 224)?);
    let channels = number(fields, "num_channels", 3)?;
    b.scope("embeddings", |b| {
        b.param("class_embedding", Param::whole(size.width));
        convolution(b, "patch_embedding", &[size.width, channels, patch, patch], false);
        let positions = (image / patch.max(1)).saturating_pow(2).saturating_add(1);
        b.table("position_embedding", positions, size.width);
    });
    b.layer_norm("pre_layrnorm", size.width);
    encoder(b, &VIT, &size);
    if post_norm {
        b.layer_norm("post_layernorm", size.width);
    }
    Ok(size)
}

pub(super) fn clip_size(fields: &Fields<'_>) -> Result<Size> {
    Size::read(fields, [12, 768, 3072, 12])
}

/// Pixtral as Hugging Face stores it, in its scope (`pixtral.py`).
pub(super) fn pixtral(b: &mut Builder, fields: &Fields<'_>, depth: Depth) -> Result<Size> {
    const PIXTRAL: Style = Style {
        layers: "transformer.layers",
        norms: &["attention_norm", "ffn_norm"],
        rms: true,
        attention: "attention",
        out: "o_proj",
        qkv_bias: false,
        out_bias: false,
        mlp: "feed_forward",
        up: "gate_up_proj",
        down: "down_proj",
        mlp_bias: false,
        gated: true,
        ..VIT
    };
    let mut size = pixtral_size(fields)?;
    depth.of(&mut size);
    let patch = side(fields, "patch_size", 16)?;
    let channels = number(fields, "num_channels", 3)?;
    convolution(b, "patch_conv", &[size.width, channels, patch, patch], false);
    b.rms_norm("ln_pre", size.width);
    encoder(b, &PIXTRAL, &size);
    Ok(size)
}

pub(super) fn pixtral_size(fields: &Fields<'_>) -> Result<Size> {
    Size::read(fields, [24, 1024, 4096, 16])
}

/// The tower of a LLaVA-like model by its own `model_type` (`llava.py`), cut at its feature layer.
pub(super) fn llava_tower(
    b: &mut Builder,
    model: &Fields<'_>,
    default_type: &str,
    feature_layer: i64,
) -> Result<Size> {
    let fields = model.object_or_empty("vision_config")?;
    let tower = fields.text("model_type")?.unwrap_or(default_type);
    match tower {
        "clip_vision_model" | "siglip_vision_model" => {
            let is_clip = tower == "clip_vision_model";
            let size = if is_clip { clip_size(&fields)? } else { siglip_size(&fields)? };
            let depth = Depth::of_features(model, size.layers, feature_layer)?;
            b.scope("vision_tower.vision_model", |b| match is_clip {
                true => clip(b, &fields, depth),
                false => siglip(b, model, &fields, depth),
            })
        }
        "pixtral" => {
            let size = pixtral_size(&fields)?;
            let depth = Depth::of_features(model, size.layers, feature_layer)?;
            b.scope("vision_tower", |b| pixtral(b, &fields, depth))
        }
        other => {
            let problem = format!("{}; no rule for this tower", kind(&Value::from(other)));
            Err(wrong(fields.path("model_type"), problem))
        }
    }
}
