//! Rules of multimodal models whose towers are variations of the common ones.

use super::Family;
use super::audio::{WHISPER, whisper_encoder, whisper_size};
use super::multimodal::{LANGUAGE, Language, Tied, family, language};
use super::vision::{Size, VIT, attention, convolution, encoder, number, plain, side, times};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::Config;
use crate::model::weights::module::Param;

pub(super) static FAMILIES: &[Family] = &[
    family(
        &["MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_7ForConditionalGeneration"],
        &["minicpmv4_6", "minicpmv4_7"],
        minicpmv4_6,
    ),
    family(
        &["MossTranscribeDiarizeForConditionalGeneration"],
        &["moss_transcribe_diarize"],
        moss_transcribe,
    ),
    family(&["Phi3VForCausalLM"], &["phi3_v"], phi3v),
];

/// `minicpmv4_6.py`: one merger between the tower's layers, more after them.
fn minicpmv4_6(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "qwen3_5_text", ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = config.root.object_or_empty("vision_config")?;
    let mut size = Size::read(&fields, [12, 768, 3072, 12])?;
    if config.root.flag("drop_vision_last_layer", false)? {
        size.layers = size.layers.saturating_sub(1);
    }
    let (patch, image) = (side(&fields, "patch_size", 16)?, side(&fields, "image_size", 224)?);
    b.scope("vpm", |b| {
        let shape = [size.width, 3, patch, patch];
        convolution(b, "embeddings.patch_embedding", &shape, true);
        let positions = (image / patch.max(1)).saturating_pow(2);
        b.table("embeddings.position_embedding", positions, size.width);
        encoder(b, &VIT, &size);
        b.layer_norm("post_layernorm", size.width);
    });
    let (four, inner) = (size.width.saturating_mul(4), size.inner.saturating_mul(4));
    b.scope("vit_merger", |b| {
        b.scope("self_attn", |b| attention(b, &VIT, &size));
        b.layer_norm("layer_norm1", size.width);
        b.layer_norm("pre_norm", four);
        plain(b, "linear_1", four, inner, true);
        plain(b, "linear_2", inner, size.width, true);
    });
    let merge = config.root.counts("merge_kernel_size", 1 << 10)?.unwrap_or_else(|| vec![2, 2]);
    let merge: Vec<u64> = merge.into_iter().map(u64::from).collect();
    let times_merged = number(&config.root, "merger_times", 1)?.min(64);
    let merged = size.width.saturating_mul(times(&merge));
    for index in 0..times_merged {
        b.scope(&format!("merger.mlp.{index}"), |b| {
            let out = if index + 1 == times_merged { width } else { size.width };
            b.layer_norm("pre_norm", merged);
            plain(b, "linear_1", merged, merged, true);
            plain(b, "linear_2", merged, out, true);
        });
    }
    Ok(())
}

/// `moss_transcribe_diarize.py`: the text model's fields are the document's own.
fn moss_transcribe(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "qwen3", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = config.root.object_or_empty("audio_config")?;
    let size = whisper_size(&fields, [4, 384, 1536, 6])?;
    b.scope("whisper_encoder", |b| {
        whisper_encoder(b, &fields, &WHISPER, &size, [80, 1500])?;
        b.layer_norm("layer_norm", size.width);
        Ok(())
    })?;
    let input = number(&config.root, "adaptor_input_dim", 4096)?;
    b.scope("vq_adaptor.layers", |b| {
        plain(b, "0", input, width, true);
        plain(b, "2", width, width, true);
        b.layer_norm("3", width);
    });
    Ok(())
}

/// `phi3v.py`: always the same CLIP tower (`CLIP_VIT_LARGE_PATCH14_336_CONFIG`), and a second
/// embedding beside the language model's.
fn phi3v(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "phi3", tied: Tied::Outer(false), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    b.vocabulary("embed_tokens", b.dims.vocab, width);
    let processor = config.root.object_or_empty("img_processor")?;
    let dim = number(&processor, "image_dim_out", 1024)?.saturating_mul(4);
    let size = Size { layers: 23, width: 1024, inner: 4096, heads: 16, kv_heads: 16, head_dim: 64 };
    b.scope("vision_embed_tokens", |b| {
        b.param("glb_GN", Param::whole(dim));
        b.param("sub_GN", Param::whole(dim));
        b.scope("img_processor.vision_model", |b| {
            b.param("embeddings.class_embedding", Param::whole(size.width));
            convolution(b, "embeddings.patch_embedding", &[size.width, 3, 14, 14], false);
            b.table("embeddings.position_embedding", 24u64 * 24 + 1, size.width);
            b.layer_norm("pre_layrnorm", size.width);
            encoder(b, &VIT, &size);
        });
        plain(b, "img_projection.0", dim, width, true);
        plain(b, "img_projection.2", width, width, true);
    });
    Ok(())
}
