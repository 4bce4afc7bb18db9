//! Which rule reads which architecture.
//!
//! A rule turns the fields of a `config.json` into caches and modules. Rules are about
//! architectures, never about single models; defaults are those of the Hugging Face config class,
//! because the engine reads configs through it.

mod audio;
mod deepseek;
mod deepseek_v4;
mod dense;
mod dense_class;
mod dense_gpt;
mod dense_hf;
mod dense_other;
mod gemma;
mod gemma3n;
mod gemma4;
mod hybrid_conv;
mod hybrid_gdn;
mod hybrid_kda;
mod hybrid_linear;
mod hybrid_mamba;
mod hybrid_nemotron;
mod hybrid_parts;
pub(crate) mod limits;
mod llama;
mod mamba;
mod minimax_m3;
mod mla;
mod mla_hy_v4;
mod mla_more;
mod moe;
mod moe_parts;
mod moe_remote;
mod moe_transformers;
mod moe_windowed;
mod multimodal;
mod multimodal_audio;
mod multimodal_deepseek;
mod multimodal_ernie;
mod multimodal_late;
mod multimodal_minicpm;
mod multimodal_molmo;
mod multimodal_more;
mod multimodal_nemotron;
mod multimodal_other;
mod multimodal_phi;
mod multimodal_remote;
mod multimodal_step;
mod parts;
mod sliding;
mod sliding_moe;
mod sliding_multimodal;
mod vision;
mod vision_more;
mod vision_query;
mod vision_qwen;
mod whisper;

use super::builder::Builder;
use super::hf_config::{Config, wrong};
use crate::error::{Error, Result};

/// Reads a config of one architecture.
pub(crate) type Rule = fn(&Config<'_>, &mut Builder) -> Result<()>;

/// One architecture, or several that are built alike.
#[derive(Debug)]
pub(crate) struct Family {
    /// Names in `architectures`, the engine's preferred one first.
    pub(crate) architectures: &'static [&'static str],
    /// Names in `model_type`, for configs without `architectures` and for language models nested
    /// in another config.
    pub(crate) model_types: &'static [&'static str],
    pub(crate) rule: Rule,
}

/// Every family of every file.
static FAMILIES: &[&[Family]] = &[
    deepseek::FAMILIES,
    deepseek_v4::FAMILIES,
    dense_gpt::FAMILIES,
    dense_hf::FAMILIES,
    dense_other::FAMILIES,
    gemma::FAMILIES,
    gemma3n::FAMILIES,
    gemma4::FAMILIES,
    hybrid_conv::FAMILIES,
    hybrid_gdn::FAMILIES,
    hybrid_kda::FAMILIES,
    hybrid_linear::FAMILIES,
    hybrid_mamba::FAMILIES,
    hybrid_nemotron::FAMILIES,
    llama::FAMILIES,
    mamba::FAMILIES,
    minimax_m3::FAMILIES,
    mla_hy_v4::FAMILIES,
    mla_more::FAMILIES,
    moe::FAMILIES,
    moe_remote::FAMILIES,
    moe_transformers::FAMILIES,
    moe_windowed::FAMILIES,
    multimodal::FAMILIES,
    multimodal_audio::FAMILIES,
    multimodal_deepseek::FAMILIES,
    multimodal_ernie::FAMILIES,
    multimodal_late::FAMILIES,
    multimodal_minicpm::FAMILIES,
    multimodal_molmo::FAMILIES,
    multimodal_more::FAMILIES,
    multimodal_nemotron::FAMILIES,
    multimodal_other::FAMILIES,
    multimodal_phi::FAMILIES,
    multimodal_remote::FAMILIES,
    multimodal_step::FAMILIES,
    sliding::FAMILIES,
    sliding_moe::FAMILIES,
    sliding_multimodal::FAMILIES,
    whisper::FAMILIES,
];

fn all() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().copied().flatten()
}

impl Family {
    /// The family of a config: by `architectures`, else by `model_type`.
    pub(crate) fn of(config: &Config<'_>) -> Result<(&'static Self, String)> {
        let architectures = config.root.texts("architectures")?;
        for name in &architectures {
            if let Some(family) = all().find(|family| family.architectures.contains(name)) {
                return Ok((family, (*name).to_owned()));
            }
        }
        let model_type = config.root.text("model_type")?;
        if architectures.is_empty() {
            let Some(model_type) = model_type else {
                return Err(wrong("architectures", "missing, and so is model_type"));
            };
            if let Ok(family) = Self::of_model_type(model_type) {
                return Ok((family, family.architectures[0].to_owned()));
            }
            return Err(unknown("model_type", model_type));
        }
        Err(unknown("architectures", architectures[0]))
    }

    /// The family of a language model nested in another model's config.
    pub(crate) fn of_model_type(model_type: &str) -> Result<&'static Self> {
        all()
            .find(|family| family.model_types.contains(&model_type))
            .ok_or_else(|| unknown("text_config.model_type", model_type))
    }
}

/// Names of all architectures.
pub(super) fn architectures() -> impl Iterator<Item = &'static str> {
    all().flat_map(|family| family.architectures).copied()
}

/// Most similar names that the error shows; the others it counts.
const SIMILAR_MAX: usize = 5;

fn unknown(field: &str, found: &str) -> Error {
    // Bounded, whatever the file holds.
    let found: String = found.chars().take(80).collect();
    // Half of the letters in common, or it is another name.
    let least = found.len() / 2;
    let mut similar: Vec<&'static str> =
        architectures().filter(|name| common_letters(name, &found) >= least).collect();
    similar.sort_by_cached_key(|name| std::cmp::Reverse(common_letters(name, &found)));
    similar.dedup();
    similar.truncate(SIMILAR_MAX);
    Error::UnknownModel { field: field.into(), found, similar, known: architectures().count() }
}

/// Pairs of neighbouring letters that two names share: enough to find a misspelt one.
fn common_letters(name: &str, found: &str) -> usize {
    let name = name.to_ascii_lowercase();
    let found = found.to_ascii_lowercase();
    let pairs = found.as_bytes().windows(2);
    pairs.filter(|pair| name.as_bytes().windows(2).any(|other| other == *pair)).count()
}
