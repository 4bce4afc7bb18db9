//! StepFun's models that see: Step 3 with a CLIP-like tower, its successors with Meta's perception
//! encoder.

use super::Family;
use super::limits::{HEADS_MAX, INNER_MAX, LAYERS_MAX, WIDTH_MAX};
use super::multimodal::{LANGUAGE, Language, Tied, family, language};
use super::vision::{Size, Style, VIT, convolution, encoder, number, plain, side};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    family(&["Step3VLForConditionalGeneration"], &["step3_vl"], step3),
    family(&["StepVLForConditionalGeneration"], &["step_robotics"], step_vl),
    family(&["Step3p7ForConditionalGeneration"], &["step3p7"], step3p7),
];

/// vLLM 0.32 `step3_vl.py`; defaults of `Step3VisionEncoderConfig`.
fn step3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "step3_text", tied: Tied::OuterOrInner, ..LANGUAGE };
    let width = language(config, b, own)?;
    let fields = config.root.object_or_empty("vision_config")?;
    let size = Size::read(&fields, [63, 1792, 3072, 16])?;
    let (image, patch) = (side(&fields, "image_size", 728)?, side(&fields, "patch_size", 14)?);
    let channels = number(&fields, "num_channels", 3)?;
    let out = number(&fields, "output_hidden_size", 4096)?;
    let style = Style { layers: "transformer.layers", quantizable: false, ..VIT };
    b.scope("vision_model", |b| {
        b.param("embeddings.class_embedding", Param::whole(size.width));
        let shape = [size.width, channels, patch, patch];
        convolution(b, "embeddings.patch_embedding", &shape, true);
        let positions = (image / patch.max(1)).saturating_pow(2).saturating_add(1);
        b.table("embeddings.position_embedding", positions, size.width);
        encoder(b, &style, &size);
    });
    let wide = out.saturating_mul(2);
    convolution(b, "vit_downsampler", &[out, size.width, 2, 2], true);
    convolution(b, "vit_downsampler2", &[wide, out, 3, 3], true);
    let bias = config.root.flag("projector_bias", true)?;
    plain(b, "vit_large_projector", wide, width, bias);
    Ok(())
}

/// vLLM 0.32 `step_vl.py`.
fn step_vl(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "qwen3", tied: Tied::OuterOrInner, ..LANGUAGE };
    let width = language(config, b, own)?;
    perception(config, b, width)
}

/// vLLM 0.32 `step3p7.py`.
fn step3p7(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "step3p5", tied: Tied::OuterOrInner, ..LANGUAGE };
    let width = language(config, b, own)?;
    perception(config, b, width)
}

/// A flag that the model class reads without a default.
fn declared(fields: &Fields<'_>, name: &str) -> Result<bool> {
    if fields.value(name).is_none() {
        return Err(wrong(fields.path(name), "missing, and it has no default"));
    }
    fields.flag(name, false)
}

/// The perception encoder (vLLM 0.32 `step_vl.py`), with the two convolutions after it and the
/// projector. Its config class comes with the model.
fn perception(config: &Config<'_>, b: &mut Builder, text_width: u64) -> Result<()> {
    let fields = config.root.object_or_empty("vision_config")?;
    let width = fields.required(&["width", "hidden_size"], WIDTH_MAX)?;
    let heads = fields.required(&["heads", "num_attention_heads"], HEADS_MAX)?;
    if !width.is_multiple_of(heads) {
        let problem = format!("{heads} heads do not divide the width {width}");
        return Err(wrong(fields.path("heads"), problem));
    }
    let size = Size {
        layers: fields.required(&["layers", "num_hidden_layers"], LAYERS_MAX)?,
        width: width.into(),
        inner: inner(&fields, width)?,
        heads: heads.into(),
        kv_heads: heads.into(),
        head_dim: (width / heads).into(),
    };
    let has_scales = fields.value("ls_init_value").is_some();
    let style = Style {
        layers: "transformer.resblocks",
        norms: &["ln_1", "ln_2"],
        attention: "attn",
        scales: if has_scales { &["ls_1.gamma", "ls_2.gamma"] } else { &[] },
        ..VIT
    };
    let (image, patch) = (side(&fields, "image_size", 728)?, side(&fields, "patch_size", 14)?);
    let has_class = declared(&fields, "use_cls_token")?;
    let norms = [("ln_pre", "use_ln_pre"), ("ln_post", "use_ln_post")];
    b.scope("vision_model", |b| -> Result<()> {
        let width = size.width;
        convolution(b, "conv1", &[width, 3, patch, patch], false);
        for (name, field) in norms {
            if declared(&fields, field)? {
                b.layer_norm(name, width);
            }
        }
        encoder(b, &style, &size);
        let (twice, four_times) = (width * 2, width * 4);
        convolution(b, "vit_downsampler1", &[twice, width, 3, 3], true);
        convolution(b, "vit_downsampler2", &[four_times, twice, 3, 3], true);
        if has_class {
            b.param("class_embedding", Param::whole(width));
        }
        if declared(&fields, "use_abs_posemb")? {
            let positions = (image / patch.max(1)).saturating_pow(2);
            let positions = positions.saturating_add(has_class.into());
            b.param("positional_embedding", Param::whole(positions.saturating_mul(width)));
        }
        Ok(())
    })?;
    let bias = config.root.flag("projector_bias", false)?;
    let projector = Linear::column(size.width * 4, text_width).bias(bias);
    b.linear("vit_large_projector", projector);
    Ok(())
}

/// Width of the MLP: the truncated product of `mlp_ratio` and the width.
fn inner(fields: &Fields<'_>, width: u32) -> Result<u64> {
    let Some(ratio) = fields.number("mlp_ratio")? else {
        return Err(wrong(fields.path("mlp_ratio"), "missing, and it has no default"));
    };
    truncated_product(ratio, width)
        .ok_or_else(|| wrong(fields.path("mlp_ratio"), "gives no sensible width of the MLP"))
}

/// `int(ratio * width)`, if it is a width.
pub(super) fn truncated_product(ratio: f64, width: u32) -> Option<u64> {
    let product = (ratio * f64::from(width)).trunc();
    if !(1.0..=f64::from(INNER_MAX)).contains(&product) {
        return None;
    }
    format!("{product:.0}").parse().ok()
}
