//! Multimodal models around a language model with windows.

use super::Family;
use super::multimodal::{LANGUAGE, Language, Tied, family, gemma4_prefix, language};
use super::vision::{Size, Style, VIT, encoder, number, plain, times};
use super::{sliding, vision_more, vision_qwen};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::Param;

pub(super) static FAMILIES: &[Family] = &[
    family(&["CohereCompassForConditionalGeneration"], &["cohere_compass"], compass),
    family(&["DiffusionGemmaForBlockDiffusion"], &["diffusion_gemma"], diffusion_gemma),
    family(
        &["MuseGlimmerForConditionalGeneration", "MuseGlimmerForCausalLM"],
        &["muse_glimmer"],
        muse_glimmer,
    ),
    // The engine's class is the same; this is found by the type alone.
    family(&["MuseGlimmerForCausalLM"], &["muse_glimmer_text"], sliding::muse_glimmer),
];

/// vLLM 0.32 `cohere_compass.py`: the tower is Qwen3-VL's.
fn compass(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let how = Language { model_type: "cohere_compass_text", ..LANGUAGE };
    language(config, b, how)?;
    let fields = config.root.object_or_empty("vision_config")?;
    b.scope("visual", |b| vision_qwen::qwen3(b, &fields, 3))
}

/// vLLM 0.32 `diffusion_gemma.py`: Gemma 4 with its tower, and an MLP that feeds the embeddings of
/// the last step back.
fn diffusion_gemma(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let how = Language {
        model_type: "diffusion_gemma_text",
        tied: Tied::OuterOrInner,
        scope: "",
        ..LANGUAGE
    };
    let width = language(config, b, how)?;
    if let Some(fields) = config.root.object("vision_config")? {
        let quantization = config.root.object_or_empty("quantization_config")?;
        vision_more::gemma4(b, &fields, width, quantization.text("quant_method")?)?;
        gemma4_prefix(config, b, "default_output_length", None)?;
    }
    let inner = b.dims.inner;
    let inner = number(&config.root, "self_conditioning_size", inner)?;
    b.scope("self_conditioning", |b| {
        b.rms_norm("pre_norm", width);
        plain(b, "gate_proj", width, inner, false);
        plain(b, "up_proj", width, inner, false);
        plain(b, "down_proj", inner, width, false);
    });
    Ok(())
}

/// vLLM 0.32 `muse_glimmer.py`, with the tower where the config class has one.
fn muse_glimmer(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    const VISION: &str = "vision_config";
    let root = &config.root;
    let how = Language { model_type: "muse_glimmer_text", scope: "", ..LANGUAGE };
    let width = language(config, b, how)?;
    let is_flat = root.value("text_config").is_none();
    if is_flat && let Some(name) = root.names().find(|name| name.starts_with("vision_l")) {
        return Err(wrong(name, "an older layout of the config, which is not computed"));
    }
    let is_text = is_flat && root.text("model_type")? == Some("muse_glimmer_text");
    if !root.flag("has_vision", !is_text)? {
        return Ok(());
    }
    muse_glimmer_vision(b, &root.object_or_empty(VISION)?, width)
}

fn muse_glimmer_vision(b: &mut Builder, fields: &Fields<'_>, text_width: u64) -> Result<()> {
    const STYLE: Style = Style {
        layers: "transformer",
        norms: &["ln_1", "ln_2"],
        attention: "attn",
        out: "o_proj",
        up: "c_fc",
        down: "c_proj",
        mlp_divided: false,
        quantizable: false,
        ..VIT
    };
    let size = Size::read(fields, [50, 1536, 8960, 16])?;
    let count = |name, default| number(fields, name, default);
    let patch = count("patch_size", 14)?;
    let patch = times(&[count("patch_temporal", 2)?, 3, patch, patch]);
    let positions = times(&[count("pos_emb_height", 32)?, count("pos_emb_width", 32)?, size.width]);
    let (out, adapter) = (count("output_dim", 6144)?, count("adapter_dim", 4096)?);
    b.scope("vision_encoder", |b| {
        plain(b, "conv1_linear", patch, size.width, false);
        b.param("positional_embedding_vlm", Param::whole(positions));
        b.layer_norm("ln_pre", size.width);
        encoder(b, &STYLE, &size);
        b.layer_norm("ln_post", size.width);
    });
    plain(b, "vision_adapter.c_fc", out, adapter, false);
    plain(b, "vision_adapter.c_proj", adapter, adapter, false);
    plain(b, "vision_projection", adapter, text_width, false);
    Ok(())
}
