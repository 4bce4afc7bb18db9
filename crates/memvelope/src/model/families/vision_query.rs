//! Projectors that look at a tower's output with learned queries.

use super::limits::{LAYERS_MAX, WIDTH_MAX};
use super::vision::{Size, Style, VIT, encoder, plain};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::Fields;
use crate::model::weights::module::Param;

/// BLIP-2's querying transformer (`blip2.py`), whole on every rank; defaults of
/// `Blip2QFormerConfig`.
pub(super) fn qformer(b: &mut Builder, fields: &Fields<'_>) -> Result<Size> {
    let size = Size::read(fields, [12, 768, 3072, 12])?;
    let every = fields.count("cross_attention_frequency", LAYERS_MAX)?.unwrap_or(2);
    let input = fields.count("encoder_hidden_size", WIDTH_MAX)?.unwrap_or(1408).into();
    qformer_of(b, &size, every, input);
    Ok(size)
}

/// The same of given sizes: every so many-th layer looks at features of width `input`.
pub(super) fn qformer_of(b: &mut Builder, size: &Size, every: u32, input: u64) {
    b.scope("qformer", |b| {
        b.layer_norm("layernorm", size.width);
        for layer in 0..size.layers {
            b.scope(&format!("encoder.layer.{layer}"), |b| {
                self_or_cross(b, "attention", [size.width, size.width]);
                if layer % every == 0 {
                    self_or_cross(b, "crossattention", [size.width, input]);
                }
                plain(b, "intermediate_query.dense", size.width, size.inner, true);
                plain(b, "output_query.dense", size.inner, size.width, true);
                b.layer_norm("output_query.LayerNorm", size.width);
            });
        }
    });
}

fn self_or_cross(b: &mut Builder, name: &str, [width, input]: [u64; 2]) {
    b.scope(name, |b| {
        plain(b, "attention.query", width, width, true);
        plain(b, "attention.key", input, width, true);
        plain(b, "attention.value", input, width, true);
        plain(b, "output.dense", width, width, true);
        b.layer_norm("output.LayerNorm", width);
    });
}

/// PyTorch's multi-head attention of one width.
pub(super) fn multihead(b: &mut Builder, name: &str, width: u64) {
    b.scope(name, |b| {
        plain(b, "in_proj", width, width.saturating_mul(3), true);
        plain(b, "out_proj", width, width, true);
    });
}

/// BLIP-2's vision tower (`blip.py`); defaults of `Blip2VisionConfig`.
pub(super) fn blip_tower(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    const BLIP: Style = Style { qkv: &["qkv"], out: "projection", ..VIT };
    let size = Size::read(fields, [39, 1408, 6144, 16])?;
    let patch = super::vision::side(fields, "patch_size", 14)?;
    let image = super::vision::side(fields, "image_size", 224)?;
    let positions = (image / patch.max(1)).saturating_pow(2).saturating_add(1);
    b.scope("vision_model", |b| {
        b.param("embeddings.class_embedding", Param::whole(size.width));
        let table = positions.saturating_mul(size.width);
        b.param("embeddings.position_embedding", Param::whole(table));
        let shape = [size.width, 3, patch, patch];
        super::vision::convolution(b, "embeddings.patch_embedding", &shape, true);
        encoder(b, &BLIP, &size);
        b.layer_norm("post_layernorm", size.width);
    });
    Ok(())
}
