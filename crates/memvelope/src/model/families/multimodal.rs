//! Models around a language model: towers and projectors have weights but no cache, and the
//! language side is another family's rule.

use super::Family;
use super::audio::gemma4_audio;
use super::limits::{TOKENS_MAX, WIDTH_MAX};
use super::vision::{self, WHOLE, llava_tower, plain, times, two_linear};
use super::{vision_more, vision_qwen};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::cache::{CacheKind, StateDtype};
use crate::model::hf_config::{Config, Fields};
use crate::model::weights::module::{Linear, Param};
use serde_json::Value;

pub(super) static FAMILIES: &[Family] = &[
    family(&["Gemma3ForConditionalGeneration"], &["gemma3", "shieldgemma2"], gemma3),
    family(&["Gemma4ForConditionalGeneration"], &["gemma4"], gemma4),
    family(
        &["KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration"],
        &["kimi_k25"],
        kimi_k25,
    ),
    family(&["Llama4ForConditionalGeneration"], &["llama4"], llama4),
    family(&["LlavaForConditionalGeneration"], &["llava"], llava),
    family(&["LlavaNextForConditionalGeneration"], &["llava_next"], llava_next),
    family(&["LlavaNextVideoForConditionalGeneration"], &["llava_next_video"], llava_next_video),
    family(&["LlavaOnevisionForConditionalGeneration"], &["llava_onevision"], llava_onevision),
    family(&["MiniMaxM3SparseForConditionalGeneration"], &["minimax_m3_vl"], minimax_m3),
    family(&["Mistral3ForConditionalGeneration"], &["mistral3"], mistral3),
    family(&["PaliGemmaForConditionalGeneration"], &["paligemma"], paligemma),
    family(&["Qwen2VLForConditionalGeneration"], &["qwen2_vl"], qwen2_vl),
    family(&["Qwen2_5_VLForConditionalGeneration"], &["qwen2_5_vl"], qwen2_5_vl),
    family(
        &[
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration",
            "Cosmos3ForConditionalGeneration",
        ],
        &["qwen3_vl", "qwen3_vl_moe"],
        qwen3_vl,
    ),
    family(
        &["Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"],
        &["qwen3_5", "qwen3_5_moe"],
        qwen3_5,
    ),
    family(&["InternS2PreviewForConditionalGeneration"], &["interns2_preview"], interns2),
    family(&["Glm4vForConditionalGeneration"], &["glm4v"], glm4v),
    family(&["Glm4vMoeForConditionalGeneration"], &["glm4v_moe"], glm4v),
    family(&["GlmOcrForConditionalGeneration"], &["glm_ocr"], glm_ocr),
    family(&["Exaone4_5_ForConditionalGeneration"], &["exaone4_5"], exaone4_5),
];

pub(super) const fn family(
    architectures: &'static [&'static str],
    model_types: &'static [&'static str],
    rule: super::Rule,
) -> Family {
    Family { architectures, model_types, rule }
}

/// Where `tie_word_embeddings` of the language model is read: vLLM sets it to the outer config's
/// value (`VllmConfig.with_hf_config`), wherever the outer class has one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tied {
    /// The outer field, else this.
    Outer(bool),
    /// True in either, false if in neither: configs saved before the field moved out.
    Either,
    /// The outer field if it is there, else what the language model itself says.
    OuterOrInner,
    /// The language model's own field, else this: the outer class has no such field.
    Inner(bool),
}

/// How a multimodal config describes its language model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Language {
    /// The object it is in; where it is absent, the fields are the document's own.
    pub(super) at: &'static str,
    /// Its `model_type` where the object has none.
    pub(super) model_type: &'static str,
    pub(super) tied: Tied,
    /// Scope of its modules.
    pub(super) scope: &'static str,
}

pub(super) const LANGUAGE: Language = Language {
    at: "text_config",
    model_type: "llama",
    tied: Tied::Outer(false),
    scope: "language_model",
};

/// Builds the language model and says how wide it is.
pub(super) fn language(config: &Config<'_>, b: &mut Builder, how: Language) -> Result<u64> {
    let outer = &config.root;
    let (text, model_type) = match outer.object(how.at)? {
        Some(text) => {
            let model_type = text.text("model_type")?.unwrap_or(how.model_type);
            (text, model_type)
        }
        None => (outer.clone(), how.model_type),
    };
    let name = "tie_word_embeddings";
    let inner = text.value(name).is_some();
    let tied = match how.tied {
        Tied::Outer(default) => Some(outer.flag(name, default)?),
        Tied::Either => Some(outer.flag(name, false)? || inner && text.flag(name, false)?),
        Tied::Inner(default) => Some(text.flag(name, default)?),
        Tied::OuterOrInner => match outer.value(name) {
            Some(_) => Some(outer.flag(name, false)?),
            None => None,
        },
    };
    let (root, text) = match tied {
        Some(tied) => (outer.clone().with_flag(name, tied), text.with_flag(name, tied)),
        None => (outer.clone(), text),
    };
    let text = without_defaults(model_type, text);
    let nested = Config { root, text, text_name: how.at };
    // The rule of the type itself knows its defaults.
    let family = Family::of_model_type(model_type)
        .or_else(|error| Family::of_model_type(alias(model_type)).map_err(|_| error))?;
    b.is_multimodal = true;
    if how.scope.is_empty() {
        (family.rule)(&nested, b)?;
    } else {
        b.scope(how.scope, |b| (family.rule)(&nested, b))?;
    }
    Ok(b.dims.hidden.into())
}

/// Text models that are another one with a position encoding of their own.
fn alias(model_type: &str) -> &str {
    match model_type {
        "qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text" | "qwen2_5_omni_text" => {
            "qwen2"
        }
        "qwen3_vl_text" => "qwen3",
        "qwen3_vl_moe_text" | "qwen3_omni_moe_text" => "qwen3_moe",
        "gemma4_unified_text" => "gemma4_text",
        "glm4v_text" | "glm_ocr_text" => "glm4",
        "glm4v_moe_text" => "glm4_moe",
        "granite4_vision_text" => "granite",
        "kimi_k2" => "deepseek_v3",
        "paddleocr_vl_text" => "ernie4_5",
        other => other,
    }
}

/// Fields that the nested class leaves out although the other model's class has a default.
fn without_defaults<'a>(model_type: &str, mut text: Fields<'a>) -> Fields<'a> {
    if matches!(model_type, "glm4v_text" | "glm_ocr_text") {
        if !text.is_present("attention_bias") {
            text = text.with_flag("attention_bias", false);
        }
        if !text.is_present("head_dim") {
            text = text.with_null("head_dim");
        }
    }
    text
}

fn vision_config<'a>(config: &Config<'a>) -> Result<Fields<'a>> {
    config.root.object_or_empty("vision_config")
}

/// Whether positions of images attend in both directions (`ModelArchConfigConvertorBase`): the
/// document's own word goes before the architecture's.
pub(super) fn prefix_lm(config: &Config<'_>, default: bool) -> Result<bool> {
    config.root.flag("is_mm_prefix_lm", default)
}

/// The LLaVA projector.
fn projector(b: &mut Builder, widths: [u64; 3], divided: bool, bias: bool) {
    b.scope("multi_modal_projector", |b| {
        two_linear(b, ["linear_1", "linear_2"], widths, [divided, bias, divided]);
    });
}

fn gemma3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "gemma3_text", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    b.is_prefix_lm = prefix_lm(config, config.root.text("model_type")? == Some("gemma3"))?;
    let fields = vision_config(config)?;
    let size =
        b.scope("vision_tower.vision_model", |b| vision::siglip(b, &config.root, &fields, WHOLE))?;
    b.scope("multi_modal_projector", |b| {
        let projection = size.width.saturating_mul(width);
        b.param("mm_input_projection_weight", Param::whole(projection));
        b.rms_norm("mm_soft_emb_norm", size.width);
    });
    Ok(())
}

fn gemma4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "gemma4_text", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = vision_config(config)?;
    let method = vision::quant_method(&config.root)?;
    let quantizable = vision_more::gemma4(b, &fields, width, method)?;
    gemma4_prefix(config, b, "default_output_length", None)?;
    if let Some(audio) = config.root.object("audio_config")? {
        let out = b.scope("audio_tower", |b| gemma4_audio(b, &audio, quantizable))?;
        let projection = Linear::replicated(out, width);
        let projection = if quantizable { projection } else { projection.plain() };
        b.linear("embed_audio.embedding_projection", projection);
    }
    Ok(())
}

/// `Gemma4ModelArchConfigConvertor`; 32 frames of 70 tokens and 8 around each (`gemma4_mm.py`). An
/// image's tokens have no default, and without them nothing is raised.
pub(super) fn gemma4_prefix(
    config: &Config<'_>,
    b: &mut Builder,
    image: &str,
    default: Option<&str>,
) -> Result<()> {
    let text = config.root.object_or_empty("text_config")?;
    let name = "use_bidirectional_attention";
    let default = if text.is_present(name) { None } else { default };
    b.is_prefix_lm = text.text(name)?.or(default) == Some("vision");
    if b.is_prefix_lm {
        let image = vision_config(config)?.count(image, TOKENS_MAX)?;
        b.mm_item_tokens_max = image.map(|image| image.max(32 * (70 + 2 + 6)));
    }
    Ok(())
}

fn kimi_k25(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "deepseek_v3", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = vision_config(config)?;
    // The tower is left alone by compressed-tensors (`_maybe_ignore_quant_config`).
    let quantizable = vision::quant_method(&config.root)? != Some("compressed-tensors");
    vision_more::MoonVit::k25(&fields, quantizable)?.build(b, &fields, width, "mm_projector")
}

fn llama4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "llama4_text", ..LANGUAGE };
    let width = language(config, b, language_side)?;
    vision_more::llama4(b, &vision_config(config)?, width)
}

fn llava(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, Language { tied: Tied::Either, ..LANGUAGE })?;
    let size = llava_tower(b, &config.root, "clip_vision_model", -2)?;
    let bias = config.root.flag("multimodal_projector_bias", true)?;
    projector(b, [size.width, width, width], true, bias);
    Ok(())
}

fn llava_next(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, LANGUAGE)?;
    let size = llava_tower(b, &config.root, "clip_vision_model", -2)?;
    // Features of several layers lie beside each other.
    let features = match config.root.value("vision_feature_layer") {
        Some(Value::Array(layers)) => u64::try_from(layers.len()).unwrap_or(u64::MAX),
        _ => 1,
    };
    let bias = config.root.flag("multimodal_projector_bias", true)?;
    projector(b, [size.width.saturating_mul(features), width, width], true, bias);
    b.param("image_newline", Param::whole(width));
    Ok(())
}

fn llava_next_video(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, LANGUAGE)?;
    let size = llava_tower(b, &config.root, "clip_vision_model", -2)?;
    let bias = config.root.flag("multimodal_projector_bias", true)?;
    projector(b, [size.width, width, width], false, bias);
    Ok(())
}

fn llava_onevision(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "qwen2", tied: Tied::Either, ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let size = llava_tower(b, &config.root, "siglip_vision_model", -1)?;
    let bias = config.root.flag("multimodal_projector_bias", true)?;
    projector(b, [size.width, width, width], false, bias);
    b.param("image_newline", Param::whole(width));
    Ok(())
}

fn minimax_m3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "minimax_m3", tied: Tied::OuterOrInner, ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let inner = config.root.count("projector_hidden_size", WIDTH_MAX)?.map(u64::from);
    vision_more::minimax_m3(b, &vision_config(config)?, width, inner)
}

fn mistral3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "mistral", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let size = llava_tower(b, &config.root, "pixtral", -1)?;
    merger(config, b, [size.width, width])
}

/// Mistral 3's projector, from the tower's width to the text model's.
pub(super) fn merger(config: &Config<'_>, b: &mut Builder, [input, out]: [u64; 2]) -> Result<()> {
    let bias = config.root.flag("multimodal_projector_bias", false)?;
    let merge = vision::number(&config.root, "spatial_merge_size", 2)?;
    b.scope("multi_modal_projector", |b| {
        b.rms_norm("norm", input);
        let merging = Linear::replicated(times(&[input, merge, merge]), input);
        b.linear("patch_merger.merging_layer", merging);
    });
    projector(b, [input, out, out], true, bias);
    Ok(())
}

fn paligemma(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "gemma", tied: Tied::Outer(true), ..LANGUAGE };
    language(config, b, language_side)?;
    b.is_prefix_lm = prefix_lm(config, true)?;
    let fields = vision_config(config)?;
    let size =
        b.scope("vision_tower.vision_model", |b| vision::siglip(b, &config.root, &fields, WHOLE))?;
    let out = vision::number(&fields, "projection_dim", 2048)?;
    plain(b, "multi_modal_projector.linear", size.width, out, true);
    Ok(())
}

fn qwen2_vl(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { model_type: "qwen2", tied: Tied::Either, ..LANGUAGE })?;
    b.scope("visual", |b| vision_qwen::qwen2(b, &vision_config(config)?))
}

fn qwen2_5_vl(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { model_type: "qwen2", tied: Tied::Either, ..LANGUAGE })?;
    b.scope("visual", |b| vision_qwen::qwen2_5(b, &vision_config(config)?))
}

fn qwen3_vl(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { model_type: "qwen3_vl_text", ..LANGUAGE })?;
    b.scope("visual", |b| vision_qwen::qwen3(b, &vision_config(config)?, 3))
}

fn qwen3_5(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { model_type: "qwen3_5_text", ..LANGUAGE })?;
    b.scope("visual", |b| vision_qwen::qwen3(b, &vision_config(config)?, 0))
}

/// Qwen3.5 again (`interns2_preview.py`), whose `mamba_ssm_dtype` is not looked at: the engine does
/// that by architecture.
fn interns2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    qwen3_5(config, b)?;
    for cache in &mut b.caches {
        if let CacheKind::State(state) = &mut cache.kind {
            state.state_dtype = StateDtype::Model;
        }
    }
    Ok(())
}

fn glm4v(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { model_type: "glm4v_text", tied: Tied::Either, ..LANGUAGE })?;
    b.scope("visual", |b| vision_qwen::glm4v(b, &vision_config(config)?))
}

fn glm_ocr(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { model_type: "glm_ocr_text", tied: Tied::Either, ..LANGUAGE })?;
    let context = b.dims.inner.into();
    b.scope("visual", |b| vision_qwen::glm_ocr(b, &vision_config(config)?, context))
}

fn exaone4_5(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { model_type: "exaone4", ..LANGUAGE })?;
    b.scope("visual", |b| vision_qwen::qwen2_5(b, &vision_config(config)?))
}
