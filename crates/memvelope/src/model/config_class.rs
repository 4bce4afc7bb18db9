//! What config classes refuse by themselves, before an engine sees the config (transformers 5.19,
//! `validate_architecture`).

use super::families::limits::{HEADS_MAX, WIDTH_MAX};
use super::hf_config::{Config, wrong};
use crate::error::Result;

/// Model types whose classes ask that the heads divide `hidden_size`, though `head_dim` may say
/// something else.
const HEADS_DIVIDE: &[&str] = &[
    "arcee",
    "aria_text",
    "cosmos3_edge_text",
    "cwm",
    "deepseek_ocr2_text",
    "deepseek_v2",
    "gemma2",
    "gemma3_text",
    "gemma3n_text",
    "gpt_neox",
    "hrm_text",
    "hyperclovax",
    "jais2",
    "llama",
    "minicpm3",
    "vaultgemma",
];

/// # Errors
/// What the class would say of the language model's config.
pub(super) fn check(config: &Config<'_>) -> Result<()> {
    let fields = &config.text;
    let Some(model_type) = fields.text("model_type")? else { return Ok(()) };
    if HEADS_DIVIDE.contains(&model_type) {
        let hidden = fields.count("hidden_size", WIDTH_MAX)?;
        let heads = fields.count("num_attention_heads", HEADS_MAX)?;
        if let (Some(hidden), Some(heads)) = (hidden, heads)
            && !hidden.is_multiple_of(heads)
        {
            let problem = format!("{hidden}; expected a multiple of the {heads} attention heads");
            return Err(wrong(fields.path("hidden_size"), problem));
        }
    }
    Ok(())
}
