//! Models around a language model that listen, or listen and look.

use super::Family;
use super::audio::{WHISPER, WHISPER_PLAIN, conformer, qwen3_audio, whisper_encoder, whisper_size};
use super::multimodal::{LANGUAGE, Language, Tied, family, language};
use super::vision::{Size, Style, number, plain, two_linear};
use super::vision_query::qformer;
use super::vision_qwen;
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::Param;

pub(super) static FAMILIES: &[Family] = &[
    family(&["AudioFlamingo3ForConditionalGeneration"], &["audioflamingo3"], audio_flamingo),
    family(&["GlmAsrForConditionalGeneration"], &["glmasr"], glm_asr),
    family(
        &["GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration"],
        &["granite_speech", "granite_speech_plus"],
        granite_speech,
    ),
    family(&["Qwen2AudioForConditionalGeneration"], &["qwen2_audio"], qwen2_audio),
    family(
        &["Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniModel"],
        &["qwen2_5_omni"],
        qwen2_5_omni,
    ),
    family(
        &["Qwen3ASRForConditionalGeneration", "Qwen3ASRRealtimeGeneration"],
        &["qwen3_asr"],
        qwen3_asr,
    ),
    family(&["Qwen3OmniMoeForConditionalGeneration"], &["qwen3_omni_moe"], qwen3_omni),
    family(&["UltravoxModel"], &["ultravox"], ultravox),
    family(&["VoxtralForConditionalGeneration"], &["voxtral"], voxtral),
];

/// The language model's own `tie_word_embeddings`: the outer class has no such field.
const OWN: Language = Language { tied: Tied::OuterOrInner, ..LANGUAGE };

fn audio_config<'a>(config: &Config<'a>) -> Result<Fields<'a>> {
    config.root.object_or_empty("audio_config")
}

/// The encoder of Qwen2-Audio (`qwen2_audio.py`), which is Hugging Face's own; returns its width.
fn plain_whisper(config: &Config<'_>, b: &mut Builder) -> Result<u64> {
    let fields = audio_config(config)?;
    let size = whisper_size(&fields, [32, 1280, 5120, 20])?;
    b.scope("audio_tower", |b| {
        whisper_encoder(b, &fields, &WHISPER_PLAIN, &size, [128, 1500])?;
        b.layer_norm("layer_norm", size.width);
        Ok(size.width)
    })
}

fn qwen2_audio(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, Language { model_type: "qwen2", ..OWN })?;
    let input = plain_whisper(config, b)?;
    plain(b, "multi_modal_projector.linear", input, width, true);
    Ok(())
}

fn audio_flamingo(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, Language { model_type: "qwen2", ..OWN })?;
    let input = plain_whisper(config, b)?;
    let bias = config.root.flag("projector_bias", true)?;
    plain(b, "multi_modal_projector.linear_1", input, width, bias);
    plain(b, "multi_modal_projector.linear_2", width, width, bias);
    Ok(())
}

/// `glmasr.py`; defaults of `GlmAsrEncoderConfig`.
fn glm_asr(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, Language { tied: Tied::Outer(true), ..LANGUAGE })?;
    let fields = audio_config(config)?;
    let size = Size::read(&fields, [32, 1280, 5120, 20])?;
    let style =
        Style { norms: &["input_layernorm", "post_attention_layernorm"], out: "o_proj", ..WHISPER };
    b.scope("audio_tower", |b| {
        whisper_encoder(b, &fields, &style, &size, [128, 0])?;
        b.layer_norm("norm", size.width);
        Ok(())
    })?;
    let widths = [size.inner, width.saturating_mul(2), width];
    b.scope("multi_modal_projector", |b| {
        two_linear(b, ["linear_1", "linear_2"], widths, [true; 3]);
    });
    Ok(())
}

/// `granite_speech.py`: a conformer, then a querying transformer over windows.
fn granite_speech(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "granite", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    b.scope("encoder", |b| conformer(b, &config.root.object_or_empty("encoder_config")?))?;
    let window = number(&config.root, "window_size", 15)?;
    let rate = number(&config.root, "downsample_rate", 5)?.max(1);
    b.scope("projector", |b| {
        let size = qformer(b, &config.root.object_or_empty("projector_config")?)?;
        b.param("query", Param::whole((window / rate).saturating_mul(size.width)));
        plain(b, "linear", size.width, width, true);
        Ok(())
    })
}

/// The part of an omni model that is served; the speaking parts are not built.
fn thinker<'a>(config: &Config<'a>) -> Result<Config<'a>> {
    let Some(root) = config.root.object("thinker_config")? else {
        return Ok(config.clone());
    };
    Ok(Config { text: root.clone(), root, text_name: "thinker_config" })
}

/// `qwen2_5_omni_thinker.py`; the text class ties its embeddings unless told otherwise.
fn qwen2_5_omni(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let thinker = thinker(config)?;
    let language_side = Language { model_type: "qwen2", tied: Tied::Inner(true), ..LANGUAGE };
    language(&thinker, b, language_side)?;
    let fields = audio_config(&thinker)?;
    let size = whisper_size(&fields, [32, 1280, 5120, 20])?;
    let out = number(&fields, "output_dim", 3584)?;
    b.scope("audio_tower", |b| {
        whisper_encoder(b, &fields, &WHISPER_PLAIN, &size, [128, 0])?;
        b.table("audio_bos_eos_token", 2u64, out);
        b.layer_norm("ln_post", size.width);
        plain(b, "proj", size.width, out, true);
        Ok(())
    })?;
    b.scope("visual", |b| vision_qwen::qwen2_5(b, &thinker.root.object_or_empty("vision_config")?))
}

fn qwen3_omni(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let thinker = thinker(config)?;
    let language_side =
        Language { model_type: "qwen3_omni_moe_text", tied: Tied::Inner(false), ..LANGUAGE };
    language(&thinker, b, language_side)?;
    b.scope("audio_tower", |b| qwen3_audio(b, &audio_config(&thinker)?))?;
    b.scope("visual", |b| {
        vision_qwen::qwen3_omni(b, &thinker.root.object_or_empty("vision_config")?)
    })
}

fn qwen3_asr(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let thinker = thinker(config)?;
    let language_side = Language { model_type: "qwen3", tied: Tied::Outer(true), ..LANGUAGE };
    language(&thinker, b, language_side)?;
    b.scope("audio_tower", |b| qwen3_audio(b, &audio_config(&thinker)?))
}

/// `ultravox.py`: Whisper's encoder, and a projector with a gate.
fn ultravox(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, OWN)?;
    let fields = audio_config(config)?;
    let size = whisper_size(&fields, [4, 384, 1536, 6])?;
    b.scope("audio_tower", |b| {
        whisper_encoder(b, &fields, &WHISPER, &size, [80, 1500])?;
        b.layer_norm("layer_norm", size.width);
        Ok(())
    })?;
    let stacked = size.width.saturating_mul(number(&config.root, "stack_factor", 8)?);
    let inner = number(&config.root, "hidden_size", 4096)?;
    let gated = config.root.text("projector_act")?.unwrap_or("swiglu") == "swiglu";
    let half = if gated { inner / 2 } else { inner };
    let middle = config.root.flag("projector_ln_mid", false)?;
    b.scope("multi_modal_projector", |b| {
        b.rms_norm("ln_pre", stacked);
        plain(b, "linear_1", stacked, inner, false);
        plain(b, "linear_2", half, width, false);
        match middle {
            true => b.rms_norm("ln_mid", half),
            false => b.rms_norm("ln_post", width),
        }
    });
    Ok(())
}

/// `voxtral.py` in Hugging Face's form; defaults of `VoxtralEncoderConfig`.
fn voxtral(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, OWN)?;
    let fields = audio_config(config)?;
    let size = Size::read(&fields, [32, 1280, 5120, 20])?;
    b.scope("whisper_encoder.whisper_encoder", |b| {
        whisper_encoder(b, &fields, &WHISPER, &size, [128, 1500])?;
        b.layer_norm("layer_norm", size.width);
        Ok(())
    })?;
    let factor = number(&fields, "downsample_factor", 4)?;
    if factor == 0 {
        return Err(wrong(fields.path("downsample_factor"), "0; expected a number above 0"));
    }
    b.scope("audio_language_adapter", |b| {
        plain(b, "w_in", size.width.saturating_mul(factor), width, false);
        plain(b, "w_out", width, width, false);
    });
    Ok(())
}
