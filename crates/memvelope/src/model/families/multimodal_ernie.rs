//! ERNIE 4.5 VL: experts for text beside experts for images.

use super::Family;
use super::limits::{EXPERTS_MAX, INNER_MAX, LAYERS_MAX, WIDTH_MAX};
use super::moe_parts::{Attn, Class};
use super::multimodal::family;
use super::multimodal_step::truncated_product;
use super::parts::gated_mlp;
use super::vision::{Size, Style, VIT, encoder, number, plain, side, times};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param};

pub(super) static FAMILIES: &[Family] =
    &[family(&["Ernie4_5_VLMoeForConditionalGeneration"], &["ernie4_5_moe_vl"], ernie_vl)];

/// A field with one number for text and one for images.
fn pair(fields: &Fields<'_>, name: &str, max: u32) -> Result<Option<[u32; 2]>> {
    match fields.counts(name, max)?.as_deref() {
        None => Ok(None),
        Some(&[text, image, ..]) => Ok(Some([text, image])),
        Some(_) => {
            let problem = "expected two numbers, for text and for images";
            Err(wrong(fields.path(name), problem))
        }
    }
}

fn required(fields: &Fields<'_>, name: &str, max: u32) -> Result<[u32; 2]> {
    pair(fields, name, max)?.ok_or_else(|| wrong(fields.path(name), "missing"))
}

/// The experts of the layers that have any (vLLM 0.32 `ernie45_vl_moe.py`).
struct Routed {
    experts: u64,
    inner: [u64; 2],
    /// Width of the experts that all tokens see, together.
    shared: u64,
    /// The first and the last layer with experts, for text and for images.
    from: [u32; 2],
    to: [u32; 2],
    interval: u32,
}

impl Routed {
    fn read(fields: &Fields<'_>, layers: u32) -> Result<Self> {
        let experts = required(fields, "moe_num_experts", EXPERTS_MAX)?;
        if experts[0] != experts[1] {
            let problem = "not as many for images as for text, which the engine refuses";
            return Err(wrong(fields.path("moe_num_experts"), problem));
        }
        let inner = required(fields, "moe_intermediate_size", INNER_MAX)?;
        let shared = fields.count_or_zero("moe_num_shared_experts", EXPERTS_MAX)?;
        let from = required(fields, "moe_layer_start_index", LAYERS_MAX)?;
        let to = pair(fields, "moe_layer_end_index", LAYERS_MAX)?.unwrap_or([layers - 1; 2]);
        if from[0] > to[0] || from[1] > to[1] {
            let problem = "before moe_layer_start_index";
            return Err(wrong(fields.path("moe_layer_end_index"), problem));
        }
        Ok(Self {
            experts: experts[0].into(),
            inner: inner.map(u64::from),
            shared: u64::from(inner[0]).saturating_mul(shared.into()),
            from,
            to,
            interval: fields.count("moe_layer_interval", LAYERS_MAX)?.unwrap_or(1),
        })
    }

    fn covers(&self, layer: u32) -> bool {
        let from = self.from[0].min(self.from[1]);
        let to = self.to[0].max(self.to[1]);
        (layer + 1).is_multiple_of(self.interval) && (from..=to).contains(&layer)
    }

    fn build(&self, b: &mut Builder, layer: u32, [hidden, inner]: [u64; 2], bias: bool) {
        let scores = Param::whole(self.experts.saturating_mul(2)).dtype(Dtype::Float32);
        b.param("e_score_correction_bias", scores);
        if self.shared > 0 {
            b.scope("shared_experts", |b| gated_mlp(b, hidden, self.shared, false));
        }
        for (at, kind) in ["text_experts", "vision_experts"].into_iter().enumerate() {
            if !(self.from[at]..=self.to[at]).contains(&layer) {
                b.scope(kind, |b| gated_mlp(b, hidden, inner, bias));
                continue;
            }
            let gate = Linear::replicated(hidden, self.experts).dtype(Dtype::Float32);
            b.linear(&format!("{kind}_gate"), gate);
            b.experts(kind, Experts::gated(self.experts, hidden, self.inner[at]));
        }
    }
}

fn ernie_vl(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.root;
    let dims = Class::default().read(fields)?;
    let bias = fields.flag("use_bias", false)?;
    let attention = Attn { qkv_bias: bias, ..Attn::of(&dims) };
    let routed = match fields.flag("use_moe", true)? {
        true => Some(Routed::read(fields, dims.layers)?),
        false => None,
    };
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    b.is_multimodal = true;
    b.dims = dims.clone();
    b.inventory.ranks_max = routed.as_ref().map(|routed| routed.experts);
    b.scope("language_model", |b| {
        b.vocabulary("model.embed_tokens", dims.vocab, hidden);
        for layer in 0..dims.layers {
            b.scope(&format!("model.layers.{layer}"), |b| {
                attention.build(b, layer, hidden);
                b.scope("mlp", |b| match routed.as_ref().filter(|routed| routed.covers(layer)) {
                    Some(routed) => routed.build(b, layer, [hidden, inner], bias),
                    None => gated_mlp(b, hidden, inner, bias),
                });
                b.rms_norm("input_layernorm", hidden);
                b.rms_norm("post_attention_layernorm", hidden);
            });
        }
        b.rms_norm("model.norm", hidden);
    });
    if !fields.flag("tie_word_embeddings", true)? {
        b.head("language_model.lm_head", dims.vocab, hidden, false);
    }
    tower(b, &fields.object_or_empty("vision_config")?)?;
    resampler(b, fields, hidden)
}

/// vLLM 0.32 `ernie45_vl.py`, whose config class comes with the checkpoint.
fn tower(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    let names = ["depth", "embed_dim", "hidden_size", "num_heads"];
    let mut size = Size::read_as(fields, names, [32, 1280, 1280, 16])?;
    let width = u32::try_from(size.width).unwrap_or(WIDTH_MAX);
    let ratio = fields.number("mlp_ratio")?.unwrap_or(4.0);
    size.inner = truncated_product(ratio, width).ok_or_else(|| {
        wrong(fields.path("mlp_ratio"), format!("{ratio} gives no sensible width of the MLP"))
    })?;
    let style = Style {
        layers: "blocks",
        norms: &["norm1", "norm2"],
        attention: "attn",
        qkv: &["qkv"],
        out: "proj",
        ..VIT
    };
    let patch = side(fields, "patch_size", 14)?;
    let channels = number(fields, "in_channels", 3)?;
    b.scope("vision_model", |b| {
        plain(b, "patch_embed.proj", times(&[channels, patch, patch]), size.width, false);
        encoder(b, &style, &size);
        b.layer_norm("ln", size.width);
    });
    Ok(())
}

/// What makes one token of several patches and frames.
fn resampler(b: &mut Builder, fields: &Fields<'_>, hidden: u64) -> Result<()> {
    let input = number(fields, "pixel_hidden_size", 1280)?;
    let spatial = number(fields, "spatial_conv_size", 2)?;
    let temporal = number(fields, "temporal_conv_size", 2)?;
    let width = times(&[input, spatial, spatial]);
    let has_frames = fields.flag("use_temporal_conv", true)?;
    b.scope("resampler_model", |b| {
        let linear = |b: &mut Builder, name: &str, input: u64, out: u64| {
            b.linear(name, Linear::column(input, out).bias(true).plain());
        };
        linear(b, "spatial_linear1", width, width);
        linear(b, "spatial_linear2", width, width);
        b.layer_norm("spatial_norm", width);
        if has_frames {
            linear(b, "temporal_linear1", width.saturating_mul(temporal), width);
            linear(b, "temporal_linear2", width, width);
            b.layer_norm("temporal_norm", width);
        }
        linear(b, "mlp", width, hidden);
        b.rms_norm("after_norm", hidden);
    });
    Ok(())
}
