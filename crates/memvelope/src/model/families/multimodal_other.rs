//! Models around a language model whose towers are of a kind of their own.

use super::Family;
use super::limits::HEAD_DIM_MAX;
use super::multimodal::{LANGUAGE, Language, Tied, family, gemma4_prefix, language, merger};
use super::vision::{
    Size, Style, VIT, convolution, encoder, llava_tower, number, plain, side, times, two_linear,
};
use super::vision_more::MoonVit;
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    family(&["DotsOCRForCausalLM"], &["dots_ocr"], dots_ocr),
    family(&["Gemma3nForConditionalGeneration"], &["gemma3n"], gemma3n),
    family(&["Gemma4UnifiedForConditionalGeneration"], &["gemma4_unified"], gemma4_unified),
    family(&["KimiVLForConditionalGeneration"], &["kimi_vl"], kimi_vl),
    family(&["Lfm2VlForConditionalGeneration"], &["lfm2_vl"], lfm2_vl),
    family(
        &["LightOnOCRForConditionalGeneration", "LightOnOcrForConditionalGeneration"],
        &["lighton_ocr"],
        lighton_ocr,
    ),
];

fn vision_config<'a>(config: &Config<'a>) -> Result<Fields<'a>> {
    config.root.object_or_empty("vision_config")
}

/// `dots_ocr.py`; defaults of `DotsVisionConfig`. The text model's fields are the document's own.
fn dots_ocr(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "qwen2", tied: Tied::Outer(false), ..LANGUAGE };
    language(config, b, language_side)?;
    let fields = vision_config(config)?;
    let names = ["num_hidden_layers", "embed_dim", "intermediate_size", "num_attention_heads"];
    let size = Size::read_as(&fields, names, [42, 1536, 4224, 12])?;
    let bias = fields.flag("use_bias", false)?;
    let style = Style {
        layers: "blocks",
        norms: &["norm1", "norm2"],
        rms: true,
        attention: "attn",
        qkv: &["qkv"],
        out: "proj",
        qkv_bias: bias,
        out_bias: bias,
        up: "fc13",
        down: "fc2",
        mlp_bias: bias,
        gated: true,
        ..VIT
    };
    let patch = side(&fields, "patch_size", 14)?;
    let channels = number(&fields, "num_channels", 3)?;
    let merge = number(&fields, "spatial_merge_size", 2)?;
    let out = number(&fields, "hidden_size", 1536)?;
    let post_norm = fields.flag("post_norm", true)?;
    b.scope("vision_tower", |b| {
        let shape = [size.width, channels, patch, patch];
        convolution(b, "patch_embed.patchifier.proj", &shape, true);
        b.rms_norm("patch_embed.patchifier.norm", size.width);
        encoder(b, &style, &size);
        if post_norm {
            b.rms_norm("post_trunk_norm", size.width);
        }
        b.layer_norm("merger.ln_q", size.width);
        let merged = times(&[size.width, merge, merge]);
        two_linear(b, ["merger.mlp.0", "merger.mlp.2"], [merged, merged, out], [true; 3]);
    });
    Ok(())
}

/// `gemma3n_mm.py`: its vision tower is a network of the timm library, which no config describes.
fn gemma3n(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side =
        Language { model_type: "gemma3n_text", tied: Tied::Outer(true), ..LANGUAGE };
    language(config, b, language_side)?;
    b.weights_unknown(
        "the vision tower of Gemma 3n is a network of the timm library, whose sizes the config \
         does not say",
    );
    Ok(())
}

/// `gemma4_unified.py`: patches and sound go into the language model without a tower.
fn gemma4_unified(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side =
        Language { model_type: "gemma4_unified_text", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    gemma4_prefix(config, b, "num_soft_tokens", Some("vision"))?;
    let fields = vision_config(config)?;
    let patch = number(&fields, "patch_size", 16)?;
    let pooling = number(&fields, "pooling_kernel_size", 3)?;
    let side = number(&fields, "model_patch_size", 0)?;
    let side = if side == 0 { patch.saturating_mul(pooling) } else { side };
    let patches = times(&[side, side, 3]);
    let inner = number(&fields, "mm_embed_dim", 3840)?;
    let positions = number(&fields, "mm_posemb_size", 1120)?;
    b.scope("vision_embedder", |b| {
        b.layer_norm("patch_ln1", patches);
        b.linear("patch_dense", Linear::column(patches, inner).bias(true));
        b.layer_norm("patch_ln2", inner);
        b.param("pos_embedding", Param::whole(times(&[positions, 2, inner])));
        b.layer_norm("pos_norm", inner);
    });
    let out = number(&fields, "output_proj_dims", 3840)?;
    b.linear("embed_vision.embedding_projection", Linear::replicated(out, width).plain());
    if let Some(audio) = config.root.object("audio_config")? {
        let dim = number(&audio, "audio_embed_dim", 640)?;
        let dim = match audio.count("output_proj_dims", HEAD_DIM_MAX)? {
            Some(out) => out.into(),
            None => dim,
        };
        let projection = Linear::replicated(dim, width).plain();
        b.linear("embed_audio.embedding_projection", projection);
    }
    Ok(())
}

/// `kimi_vl.py`; defaults of its `MoonViTConfig`.
fn kimi_vl(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side =
        Language { model_type: "deepseek_v3", tied: Tied::OuterOrInner, ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = vision_config(config)?;
    let size = Size::read(&fields, [27, 1152, 4304, 16])?;
    let tower = MoonVit {
        size,
        bias: true,
        patch_bias: true,
        rms: false,
        projector_v2: false,
        quantizable: false,
    };
    tower.build(b, &fields, width, "multi_modal_projector")
}

/// `lfm2_vl.py`; SigLIP 2 takes patches as rows, so its first layer is a matrix.
fn lfm2_vl(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "lfm2", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = vision_config(config)?;
    let mut size = Size::read(&fields, [12, 768, 3072, 12])?;
    let patch = side(&fields, "patch_size", 16)?;
    let channels = number(&fields, "num_channels", 3)?;
    let all = size.layers;
    size.layers = match config.root.value("vision_feature_layer").and_then(|v| v.as_i64()) {
        Some(layer) if layer < 0 => {
            u32::try_from(i64::from(all) + layer + 1).unwrap_or(0).clamp(1, all)
        }
        Some(layer) => u32::try_from(layer + 1).unwrap_or(all).clamp(1, all),
        None => all,
    };
    b.scope("vision_tower.vision_model", |b| -> Result<()> {
        plain(b, "embeddings.patch_embedding", times(&[channels, patch, patch]), size.width, true);
        b.table("embeddings.position_embedding", number(&fields, "num_patches", 256)?, size.width);
        encoder(b, &VIT, &size);
        if size.layers == all {
            b.layer_norm("post_layernorm", size.width);
        }
        Ok(())
    })?;
    let factor = number(&config.root, "downsample_factor", 2)?;
    let inner = number(&config.root, "projector_hidden_size", 2560)?;
    let bias = config.root.flag("projector_bias", true)?;
    let input = times(&[size.width, factor, factor]);
    if config.root.flag("projector_use_layernorm", true)? {
        b.layer_norm("multi_modal_projector.layer_norm", input);
    }
    plain(b, "multi_modal_projector.linear_1", input, inner, bias);
    plain(b, "multi_modal_projector.linear_2", inner, width, bias);
    Ok(())
}

/// `lightonocr.py`: Mistral 3's tower and projector before Qwen3.
fn lighton_ocr(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "qwen3", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let size = llava_tower(b, &config.root, "pixtral", -1)?;
    merger(config, b, [size.width, width])
}
