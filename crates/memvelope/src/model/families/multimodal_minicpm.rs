//! MiniCPM-V and MiniCPM-o: a SigLIP tower and a resampler of learned queries before a language
//! model that the version decides.

use super::Family;
use super::audio::{WHISPER_PLAIN, whisper_encoder, whisper_size};
use super::limits::WIDTH_MAX;
use super::multimodal::{LANGUAGE, Language, Tied, family, language};
use super::multimodal_more::idefics2;
use super::vision::{number, plain};
use super::vision_query::multihead;
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param};
use serde_json::Value;

pub(super) static FAMILIES: &[Family] = &[
    family(&["MiniCPMV"], &["minicpmv"], minicpm_v),
    family(&["MiniCPMO"], &["minicpmo"], minicpm_o),
];

/// `version`, a number or a string of two parts.
fn version(root: &Fields<'_>, default: &str) -> Result<String> {
    match root.value("version") {
        None => Ok(default.to_owned()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => Ok(root.text("version")?.unwrap_or(default).to_owned()),
    }
}

/// The language model's class by version (`_SUPPORT_VERSION` of vLLM 0.32 `minicpmv.py`). That of
/// 2.0 fails to start there.
fn language_of(root: &Fields<'_>, version: &str, served: &[&str]) -> Result<&'static str> {
    if !served.contains(&version) {
        let problem = format!("not one that the engine serves: {}", served.join(", "));
        return Err(wrong(root.path("version"), problem));
    }
    Ok(match version {
        "2.5" | "4.0" => "llama",
        "2.6" => "qwen2",
        _ => "qwen3",
    })
}

fn minicpm_v(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let root = &config.root;
    let is_first =
        root.count("hidden_size", WIDTH_MAX)? == Some(2304) && number(root, "query_num", 64)? == 64;
    let version = version(root, if is_first { "2.0" } else { "2.5" })?;
    let model_type = language_of(root, &version, &["2.5", "2.6", "4.0", "4.5"])?;
    sees(config, b, model_type).map(|_| ())
}

/// The language model, the tower and the resampler.
fn sees(config: &Config<'_>, b: &mut Builder, model_type: &'static str) -> Result<u64> {
    let own = Language { model_type, tied: Tied::Outer(false), scope: "llm", ..LANGUAGE };
    let width = language(config, b, own)?;
    let root = &config.root;
    let declared = root.object("vision_config")?;
    // The config class names the large SigLIP where the object is absent.
    let defaults = match declared {
        Some(_) => [12, 768, 3072, 12, 224, 16],
        None => [27, 1152, 4304, 16, 980, 14],
    };
    let fields = root.object_or_empty("vision_config")?;
    let dropped = u32::from(root.flag("drop_vision_last_layer", true)?);
    let size = b.scope("vpm", |b| idefics2(b, &fields, defaults, true, dropped))?;
    let queries = number(root, "query_num", 64)?;
    b.scope("resampler", |b| {
        b.param("query", Param::whole(queries.saturating_mul(width)));
        b.param("proj", Param::whole(width.saturating_mul(width)));
        if size.width != width {
            b.linear("kv_proj", Linear::replicated(size.width, width));
        }
        multihead(b, "attn", width);
        for name in ["ln_q", "ln_kv", "ln_post"] {
            b.layer_norm(name, width);
        }
    });
    Ok(width)
}

/// vLLM 0.32 `minicpmo.py`; the speech it writes is not served.
fn minicpm_o(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let root = &config.root;
    let version = version(root, "2.6")?;
    let model_type = language_of(root, &version, &["2.6", "4.5"])?;
    let width = sees(config, b, model_type)?;
    let fields = root.object_or_empty("audio_config")?;
    let size = whisper_size(&fields, [4, 384, 1536, 6])?;
    b.scope("audio_projection_layer", |b| {
        plain(b, "linear1", size.inner / 4, width, true);
        plain(b, "linear2", width, width, true);
    });
    b.scope("apm", |b| {
        whisper_encoder(b, &fields, &WHISPER_PLAIN, &size, [80, 1500])?;
        b.layer_norm("layer_norm", size.width);
        Ok(())
    })
}
