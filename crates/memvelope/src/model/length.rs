//! The longest sequence that the engine serves unless told otherwise.

use super::families::limits::TOKENS_MAX;
use super::hf_config::{Config, Fields, kind, wrong};
use crate::error::Result;
use crate::units::Tokens;

/// Names of the same number; the smallest of those that are there counts (vLLM 0.32
/// `model_arch_config_convertor.py`). The first two are the class's own and have its default.
const NAMES: &[&str] = &[
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
];

/// Config classes that have another of these names with a default: model type, name, default.
const CLASS_DEFAULTS: &[(&str, &str, u32)] = &[
    ("dbrx", "max_seq_len", 2048),
    ("step3_text", "max_seq_len", 65536),
    ("step3p5", "max_seq_len", 4096),
];

/// Names that a config class takes for something else: model type, name.
const OTHER_MEANING: &[(&str, &str)] = &[("isaac", "max_sequence_length")];

/// Where nothing is declared (`config/model.py`).
const UNDECLARED: u32 = 2048;

/// Rotary embeddings of these kinds count `max_position_embeddings` with their scaling, or do not
/// scale at all; for all others the declared length is multiplied by the factor.
const SCALED_ALREADY: &[&str] =
    &["su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"];

/// How long sequences may be.
pub(super) struct Lengths {
    /// Without `--max-model-len`.
    pub(super) native: Tokens,
    /// The longest that `--max-model-len` may say; `None`: any.
    pub(super) longest: Option<Tokens>,
}

/// `class`: what the family reads, with the default of its config class.
pub(super) fn read(config: &Config<'_>, class: Option<u32>) -> Result<Lengths> {
    let fields = &config.text;
    let mut derived = class;
    let model_type = fields.text("model_type")?.unwrap_or_default();
    for name in NAMES.iter().filter(|name| !OTHER_MEANING.contains(&(model_type, **name))) {
        let default = CLASS_DEFAULTS.iter().find(|row| (row.0, row.1) == (model_type, *name));
        let default = default.filter(|_| !fields.is_present(name)).map(|row| row.2);
        if let Some(declared) = length(fields, name)?.or(default) {
            derived = Some(derived.map_or(declared, |known| known.min(declared)));
        }
    }
    if let Some(declared) = length(fields, "model_max_length")? {
        derived = Some(declared);
    }
    let is_declared = derived.is_some();
    let derived = derived.unwrap_or(UNDECLARED);
    let ropes = ropes(fields)?;
    let is_phi = model_type == "phi3";
    let is_long = |rope: &Fields<'_>| {
        Ok(match rope_type(rope)? {
            Some("longrope" | "su") => true,
            // Phi-3's class takes it for the same.
            Some("yarn") => is_phi,
            _ => false,
        })
    };
    let whole = Tokens(scaled(derived, factor(fields, &ropes)?));
    let declared = length(fields, "model_max_length")?.unwrap_or(0);
    let longest = is_declared.then_some(whole.max(Tokens(declared.into())));
    for rope in &ropes {
        if is_long(rope)? {
            let before = fields.count("original_max_position_embeddings", TOKENS_MAX)?;
            let before = before.or(is_phi.then_some(4096));
            let native = before.map_or(whole, |tokens| Tokens(tokens.into()));
            return Ok(Lengths { native, longest });
        }
    }
    Ok(Lengths { native: whole, longest })
}

/// Lengths are sometimes stored as floating point, and "unlimited" as a huge number.
fn length(fields: &Fields<'_>, name: &str) -> Result<Option<u32>> {
    let Some(number) = fields.number(name)? else { return Ok(None) };
    if !(1.0..=f64::from(TOKENS_MAX)).contains(&number) || number.fract() != 0.0 {
        let problem = format!("{number}; expected a whole number between 1 and {TOKENS_MAX}");
        return Err(wrong(fields.path(name), problem));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let length = number as u32;
    Ok(Some(length))
}

/// The descriptions of rotary embeddings: one, or one for each kind of layer.
fn ropes<'a>(fields: &Fields<'a>) -> Result<Vec<Fields<'a>>> {
    let scaling = fields.object("rope_scaling")?.filter(|rope| rope.names().next().is_some());
    let Some(rope) = scaling.map_or_else(|| fields.object("rope_parameters"), |r| Ok(Some(r)))?
    else {
        return Ok(Vec::new());
    };
    let is_nested = |name: &&str| name.ends_with("_attention") || *name == "attention";
    let nested: Vec<&str> = rope.names().filter(is_nested).collect();
    if nested.is_empty() {
        return Ok(vec![rope]);
    }
    nested.into_iter().filter_map(|name| rope.object(name).transpose()).collect()
}

fn rope_type<'a>(rope: &Fields<'a>) -> Result<Option<&'a str>> {
    match rope.text("rope_type")? {
        Some(found) => Ok(Some(found)),
        None => rope.text("type"),
    }
}

fn factor(fields: &Fields<'_>, ropes: &[Fields<'_>]) -> Result<f64> {
    // Gemma 3 declares its length with the scaling in it.
    if fields.text("model_type")?.is_some_and(|name| name.contains("gemma3")) {
        return Ok(1.0);
    }
    let mut factor = 1.0;
    for rope in ropes {
        let kind = rope_type(rope)?.unwrap_or("default");
        let is_yarn = kind == "telechat3-yarn"; // read as YaRN
        if !is_yarn && !SCALED_ALREADY.contains(&kind) && rope.is_present("factor") {
            factor = rope.number("factor")?.unwrap_or(1.0);
        }
        if !(0.0..=1e6).contains(&factor) {
            let problem = format!("{}; no sensible factor", kind_of(factor));
            return Err(wrong(rope.path("factor"), problem));
        }
    }
    Ok(factor)
}

fn kind_of(number: f64) -> String {
    kind(&serde_json::Value::from(number))
}

/// Rounded down, as Python's `int` does.
fn scaled(length: u32, factor: f64) -> u64 {
    let scaled = (f64::from(length) * factor).max(1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 2^30 x 10^6"
    )]
    let tokens = scaled as u64;
    tokens
}
