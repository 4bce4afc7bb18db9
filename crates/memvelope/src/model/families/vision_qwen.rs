//! The vision towers of the Qwen-VL line and of what was built after them.

use super::limits::{HEADS_MAX, LAYERS_MAX};
use super::vision::{
    Size, Style, VIT, convolution, encoder, norm, number, side, times, two_linear,
};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Fields, wrong};
use crate::model::weights::module::Linear;

const BLOCKS: Style = Style {
    layers: "blocks",
    norms: &["norm1", "norm2"],
    attention: "attn",
    qkv: &["qkv"],
    out: "proj",
    ..VIT
};

const GATED_BLOCKS: Style =
    Style { rms: true, up: "gate_up_proj", down: "down_proj", gated: true, ..BLOCKS };

/// Qwen2-VL (`qwen2_vl.py`); defaults of `Qwen2VLVisionConfig`.
pub(super) fn qwen2(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    let names = ["depth", "embed_dim", "mlp_ratio", "num_heads"];
    let mut size = Size::read_as(fields, names, [32, 1280, 4, 16])?;
    size.inner = size.inner.saturating_mul(size.width);
    let out = number(fields, "hidden_size", 3584)?;
    patch_embed(b, fields, [size.width, 14], false)?;
    encoder(b, &BLOCKS, &size);
    ln_q_merger(b, fields, &size, out, false)
}

/// Qwen2.5-VL (`qwen2_5_vl.py`) and EXAONE 4.5, whose attention groups its heads.
pub(super) fn qwen2_5(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    let names = ["depth", "hidden_size", "intermediate_size", "num_heads"];
    let mut size = Size::read_as(fields, names, [32, 3584, 3420, 16])?;
    if let Some(kv_heads) = fields.count("num_key_value_heads", HEADS_MAX)? {
        size.kv_heads = kv_heads.into();
        if !size.heads.is_multiple_of(size.kv_heads) {
            let problem = format!("{kv_heads} does not divide the {} query heads", size.heads);
            return Err(wrong(fields.path("num_key_value_heads"), problem));
        }
    }
    let out = number(fields, "out_hidden_size", 3584)?;
    patch_embed(b, fields, [size.width, 14], false)?;
    encoder(b, &GATED_BLOCKS, &size);
    ln_q_merger(b, fields, &size, out, true)
}

/// Qwen3-VL (`qwen3_vl.py`), Qwen3.5 and their like. `deepstack`: mergers of earlier layers where
/// the config names none.
pub(super) fn qwen3(b: &mut Builder, fields: &Fields<'_>, deepstack: usize) -> Result<()> {
    let style = Style { up: "linear_fc1", down: "linear_fc2", ..BLOCKS };
    let names = ["depth", "hidden_size", "intermediate_size", "num_heads"];
    let size = Size::read_as(fields, names, [27, 1152, 4304, 16])?;
    let out = number(fields, "out_hidden_size", 3584)?;
    let merge = side(fields, "spatial_merge_size", 2)?;
    let merged = times(&[size.width, merge, merge]);
    patch_embed(b, fields, [size.width, 16], true)?;
    b.table("pos_embed", number(fields, "num_position_embeddings", 2304)?, size.width);
    let merger = |b: &mut Builder, name: &str, norm_width: u64| {
        b.scope(name, |b| {
            b.layer_norm("norm", norm_width);
            let names = ["linear_fc1", "linear_fc2"];
            two_linear(b, names, [merged, merged, out], [true, true, true]);
        });
    };
    merger(b, "merger", size.width);
    let indexes = fields.counts("deepstack_visual_indexes", LAYERS_MAX)?;
    for index in 0..indexes.map_or(deepstack, |indexes| indexes.len()) {
        merger(b, &format!("deepstack_merger_list.{index}"), merged);
    }
    encoder(b, &style, &size);
    Ok(())
}

/// Qwen3-Omni (`qwen3_omni_moe_thinker.py`): the mergers of earlier layers are named otherwise.
pub(super) fn qwen3_omni(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    let style = Style { up: "linear_fc1", down: "linear_fc2", ..BLOCKS };
    let names = ["depth", "hidden_size", "intermediate_size", "num_heads"];
    let size = Size::read_as(fields, names, [27, 1152, 4304, 16])?;
    let out = number(fields, "out_hidden_size", 3584)?;
    let merge = side(fields, "spatial_merge_size", 2)?;
    let merged = times(&[size.width, merge, merge]);
    patch_embed(b, fields, [size.width, 16], true)?;
    b.table("pos_embed", number(fields, "num_position_embeddings", 2304)?, size.width);
    let merger = |b: &mut Builder, name: &str, norm_width: u64| {
        b.scope(name, |b| {
            b.layer_norm("ln_q", norm_width);
            two_linear(b, ["mlp.0", "mlp.2"], [merged, merged, out], [true; 3]);
        });
    };
    merger(b, "merger", size.width);
    let indexes = fields.counts("deepstack_visual_indexes", LAYERS_MAX)?;
    for index in 0..indexes.map_or(3, |indexes| indexes.len()) {
        merger(b, &format!("merger_list.{index}"), merged);
    }
    encoder(b, &style, &size);
    Ok(())
}

/// GLM-4.1V (`glm4_1v.py`); defaults of `Glm4vVisionConfig`.
pub(super) fn glm4v(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    let style = Style { qkv_bias: false, out_bias: false, mlp_bias: false, ..GATED_BLOCKS };
    let names = ["depth", "hidden_size", "intermediate_size", "num_heads"];
    let mut size = Size::read_as(fields, names, [24, 1536, 13696, 12])?;
    let out = number(fields, "out_hidden_size", 4096)?;
    let context = std::mem::replace(&mut size.inner, out);
    patch_embed(b, fields, [size.width, 14], true)?;
    encoder(b, &style, &size);
    glm_merger(b, fields, &size, [out, context])?;
    let (image, patch) = (side(fields, "image_size", 336)?, side(fields, "patch_size", 14)?);
    b.table("embeddings.position_embedding", (image / patch.max(1)).saturating_pow(2), size.width);
    b.rms_norm("post_conv_layernorm", size.width);
    Ok(())
}

/// GLM-OCR (`glm_ocr.py`): `context` is the width of the text model's MLP.
pub(super) fn glm_ocr(b: &mut Builder, fields: &Fields<'_>, context: u64) -> Result<()> {
    let style = Style { head_norms: &["q_norm", "k_norm"], ..GATED_BLOCKS };
    let names = ["depth", "hidden_size", "intermediate_size", "num_heads"];
    let size = Size::read_as(fields, names, [24, 1024, 4096, 16])?;
    let out = number(fields, "out_hidden_size", 1536)?;
    patch_embed(b, fields, [size.width, 14], true)?;
    encoder(b, &style, &size);
    glm_merger(b, fields, &size, [out, context])
}

fn glm_merger(
    b: &mut Builder,
    fields: &Fields<'_>,
    size: &Size,
    [out, context]: [u64; 2],
) -> Result<()> {
    b.scope("merger", |b| {
        b.linear("proj", Linear::column(out, out));
        b.layer_norm("post_projection_norm", out);
        b.linear("gate_up_proj", Linear::merged(out, [context, context]));
        b.linear("down_proj", Linear::row(context, out));
    });
    let merge = side(fields, "spatial_merge_size", 2)?;
    convolution(b, "downsample", &[out, size.width, merge, merge], true);
    b.rms_norm("post_layernorm", size.width);
    Ok(())
}

/// Patches of several frames; `width` and the default side of a patch.
fn patch_embed(
    b: &mut Builder,
    fields: &Fields<'_>,
    [width, patch]: [u64; 2],
    bias: bool,
) -> Result<()> {
    let patch = side(fields, "patch_size", u32::try_from(patch).unwrap_or(14))?;
    let frames = side(fields, "temporal_patch_size", 2)?;
    let channels = number(fields, "in_channels", 3)?;
    convolution(b, "patch_embed.proj", &[width, channels, frames, patch, patch], bias);
    Ok(())
}

/// The merger of Qwen2-VL and Qwen2.5-VL.
fn ln_q_merger(
    b: &mut Builder,
    fields: &Fields<'_>,
    size: &Size,
    out: u64,
    rms: bool,
) -> Result<()> {
    let merge = side(fields, "spatial_merge_size", 2)?;
    let merged = times(&[size.width, merge, merge]);
    b.scope("merger", |b| {
        norm(b, "ln_q", size.width, rms);
        two_linear(b, ["mlp.0", "mlp.2"], [merged, merged, out], [true, true, true]);
    });
    Ok(())
}
