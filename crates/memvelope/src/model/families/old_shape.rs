//! The numbers of one model, read by the rules of its family and checked.

use super::family::{Bias, Family, HeadDim, Inner, KvHeads, Norms, Window};
use super::hf_config::{Fields, kind, wrong};
use crate::error::Result;
use crate::units::Tokens;
use serde_json::Value;

// Each bound is far above any model published so far and keeps every product below 2^128.
const LAYERS_MAX: u32 = 1 << 14;
const HEADS_MAX: u32 = 1 << 14;
const HEAD_DIM_MAX: u32 = 1 << 14;
const WIDTH_MAX: u32 = 1 << 20;
const INNER_MAX: u32 = 1 << 24;
const VOCAB_MAX: u32 = 1 << 26;
const TOKENS_MAX: u32 = 1 << 30;

/// Fields of architectures that this version does not compute: present and not null (or zero, or
/// false, or empty), they mean a cache or weights beyond the formulas.
const BEYOND: &[(&str, &str)] = &[
    ("quantization_config", "quantised weights"),
    ("compression_config", "quantised weights"),
    ("kv_cache_scheme", "a quantised KV cache"),
    ("vision_config", "a vision tower"),
    ("audio_config", "an audio tower"),
    ("kv_lora_rank", "latent attention (MLA)"),
    ("q_lora_rank", "latent attention (MLA)"),
    ("qk_rope_head_dim", "latent attention (MLA)"),
    ("index_topk", "sparse attention"),
    ("sparse_attention_config", "sparse attention"),
    ("dual_chunk_attention_config", "chunked attention"),
    ("attention_chunk_size", "chunked attention"),
    ("sliding_window_pattern", "interleaved sliding windows"),
    ("interleaved_sliding_window", "interleaved sliding windows"),
    ("num_experts", "a mixture of experts"),
    ("num_local_experts", "a mixture of experts"),
    ("n_routed_experts", "a mixture of experts"),
    ("moe_intermediate_size", "a mixture of experts"),
    ("num_experts_per_tok", "a mixture of experts"),
    ("mamba_d_state", "state-space layers"),
    ("ssm_cfg", "state-space layers"),
    ("state_size", "state-space layers"),
    ("linear_attn_config", "linear-attention layers"),
    ("full_attention_interval", "linear-attention layers"),
    ("hybrid_override_pattern", "layers of several kinds"),
    ("layers_block_type", "layers of several kinds"),
    ("attn_type_list", "layers of several kinds"),
    ("block_configs", "layers of several shapes"),
    ("num_kv_shared_layers", "layers that share their cache"),
    ("cla_share_factor", "layers that share their cache"),
    ("cross_attention_layers", "cross attention"),
    ("is_encoder_decoder", "an encoder"),
    ("add_cross_attention", "cross attention"),
    ("v_head_dim", "values of another size than keys"),
];

/// The numbers of one model.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) architecture: String,
    pub(super) dtype: &'static str,
    pub(super) layers: u32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) hidden_size: u32,
    pub(super) intermediate_size: u32,
    pub(super) vocab_size: u32,
    pub(super) max_tokens: Option<Tokens>,
    pub(super) qkv_bias: bool,
    pub(super) out_bias: bool,
    pub(super) mlp_bias: bool,
    pub(super) norms_per_layer: u32,
    pub(super) is_tied: bool,
    /// Rows of the learned position table.
    pub(super) position_rows: u32,
}

impl Shape {
    /// Reads what the family's formulas need and refuses what they do not cover.
    pub(super) fn read(family: &Family, fields: &Fields<'_>) -> Result<Self> {
        refuse_beyond(family, fields)?;
        let layers = fields.required(family.keys.layers, LAYERS_MAX)?;
        refuse_layer_types(fields, layers)?;
        let heads = fields.required(family.keys.heads, HEADS_MAX)?;
        let hidden_size = fields.required(family.keys.hidden, WIDTH_MAX)?;
        let max_tokens = fields.count_of(family.keys.max_tokens, TOKENS_MAX)?;
        let position_rows = match family.extra_position_rows {
            Some(extra) => extra + fields.required(family.keys.max_tokens, TOKENS_MAX)?,
            None => 0,
        };
        let architectures = fields.texts("architectures")?;
        Ok(Self {
            architecture: architectures.first().unwrap_or(&family.model_type).to_string(),
            dtype: dtype(fields)?,
            layers,
            heads,
            kv_heads: kv_heads(family, fields, heads)?,
            head_dim: head_dim(family, fields, heads, hidden_size)?,
            hidden_size,
            intermediate_size: inner_size(family, fields, hidden_size)?,
            vocab_size: fields.required(&["vocab_size"], VOCAB_MAX)?,
            max_tokens: max_tokens.map(|tokens| Tokens(tokens.into())),
            qkv_bias: bias(family.qkv_bias, fields)?,
            out_bias: bias(family.out_bias, fields)?,
            mlp_bias: bias(family.mlp_bias, fields)?,
            norms_per_layer: norms(family, fields)?,
            is_tied: fields.flag("tie_word_embeddings", family.tied_default)?,
            position_rows,
        })
    }
}

fn refuse_beyond(family: &Family, fields: &Fields<'_>) -> Result<()> {
    for (name, meaning) in BEYOND {
        if let Some(value) = fields.value(name)?.filter(|value| !is_nothing(value)) {
            let problem = format!("{}: {meaning}, which this version cannot compute", kind(value));
            return Err(wrong(fields.path(name), problem));
        }
    }
    for &(name, expected) in family.fixed {
        if fields.flag(name, expected)? != expected {
            let family = family.model_type;
            let problem = format!("{}; only {expected} is computed for {family}", !expected);
            return Err(wrong(fields.path(name), problem));
        }
    }
    refuse_window(family, fields)
}

/// Whether a field says that the feature is not there.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Array(items) => items.is_empty(),
        Value::String(_) | Value::Object(_) => false,
    }
}

fn refuse_window(family: &Family, fields: &Fields<'_>) -> Result<()> {
    const NAME: &str = "sliding_window";
    let is_on = fields.flag("use_sliding_window", false)?;
    let refuse = |problem: &str| {
        let problem = format!("{problem}: windowed layers, which this version cannot compute");
        Err(wrong(fields.path(NAME), problem))
    };
    match (family.window, fields.value(NAME)?) {
        (Window::Switched, Some(_)) if !is_on => Ok(()),
        (_, Some(value)) => refuse(&kind(value)),
        (Window::FieldOr4096, None) if !fields.is_present(NAME) => {
            refuse("absent, which means 4096 (null means none)")
        }
        (_, None) => Ok(()),
    }
}

fn refuse_layer_types(fields: &Fields<'_>, layers: u32) -> Result<()> {
    const NAME: &str = "layer_types";
    let types = fields.texts(NAME)?;
    if let Some(index) = types.iter().position(|&kind| kind != "full_attention") {
        let kind = kind(&Value::from(types[index]));
        let problem = format!("{kind}; only \"full_attention\" is computed by this version");
        return Err(wrong(format!("{}[{index}]", fields.path(NAME)), problem));
    }
    if !types.is_empty() && types.len() != layers as usize {
        let problem = format!("{} entries for {layers} layers", types.len());
        return Err(wrong(fields.path(NAME), problem));
    }
    Ok(())
}

/// The dtype that the model is served in.
fn dtype(fields: &Fields<'_>) -> Result<&'static str> {
    for name in ["dtype", "torch_dtype"] {
        let Some(found) = fields.text(name)? else { continue };
        return match found.trim_start_matches("torch.") {
            "float16" | "half" => Ok("float16"),
            "bfloat16" => Ok("bfloat16"),
            // vLLM's `--dtype auto` serves these in the device's preferred half precision.
            "float32" | "float" => Ok("bfloat16"),
            _ => {
                let found = kind(&Value::from(found));
                let problem = format!("{found}; expected bfloat16, float16 or float32");
                Err(wrong(fields.path(name), problem))
            }
        };
    }
    Ok("bfloat16")
}

fn kv_heads(family: &Family, fields: &Fields<'_>, heads: u32) -> Result<u32> {
    let (name, declared) = match family.kv_heads {
        KvHeads::Heads => ("num_key_value_heads", heads),
        KvHeads::Field { absent_is_heads } => {
            let name = "num_key_value_heads";
            let is_silent = !absent_is_heads && !fields.is_present(name);
            let declared = match fields.count(name, HEADS_MAX)? {
                Some(declared) => declared,
                None if is_silent => fields.required(&[name], HEADS_MAX)?,
                None => heads,
            };
            (name, declared)
        }
        KvHeads::Falcon if fields.flag("new_decoder_architecture", false)? => {
            ("num_kv_heads", fields.count("num_kv_heads", HEADS_MAX)?.unwrap_or(heads))
        }
        KvHeads::Falcon if fields.flag("multi_query", true)? => ("num_kv_heads", 1),
        KvHeads::Falcon => ("num_kv_heads", heads),
    };
    if declared > heads || !heads.is_multiple_of(declared) {
        let problem = format!("{declared} does not divide the {heads} query heads");
        return Err(wrong(fields.path(name), problem));
    }
    Ok(declared)
}

fn head_dim(family: &Family, fields: &Fields<'_>, heads: u32, hidden: u32) -> Result<u32> {
    const NAME: &str = "head_dim";
    let declared = fields.count(NAME, HEAD_DIM_MAX)?;
    match (family.head_dim, declared) {
        (HeadDim::Field | HeadDim::FieldOr(_), Some(declared)) => return Ok(declared),
        (HeadDim::FieldOr(default), None) if !fields.is_present(NAME) => return Ok(default),
        _ => {}
    }
    if !hidden.is_multiple_of(heads) || hidden / heads > HEAD_DIM_MAX {
        let field = fields.path(family.keys.hidden[0]);
        let problem = format!("{hidden} is not a sensible multiple of the {heads} query heads");
        return Err(wrong(field, problem));
    }
    match declared {
        Some(declared) if declared != hidden / heads => {
            let family = family.model_type;
            let problem =
                format!("{declared}; {family} has {hidden} / {heads} = {}", hidden / heads);
            Err(wrong(fields.path(NAME), problem))
        }
        _ => Ok(hidden / heads),
    }
}

fn inner_size(family: &Family, fields: &Fields<'_>, hidden: u32) -> Result<u32> {
    // OPT's small sibling projects its embedding; its weights are not this formula.
    const PROJECTED: &str = "word_embed_proj_dim";
    if let Some(declared) = fields.count(PROJECTED, WIDTH_MAX)?.filter(|&size| size != hidden) {
        let problem = format!("{declared}; only the hidden size ({hidden}) is computed");
        return Err(wrong(fields.path(PROJECTED), problem));
    }
    match family.keys.inner {
        Inner::Field(name) => fields.required(&[name], INNER_MAX),
        Inner::FieldOrFourfold(name) => Ok(fields.count(name, INNER_MAX)?.unwrap_or(4 * hidden)),
        Inner::Fourfold => Ok(4 * hidden),
    }
}

fn bias(bias: Bias, fields: &Fields<'_>) -> Result<bool> {
    match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Flag(name, default) => fields.flag(name, default),
    }
}

fn norms(family: &Family, fields: &Fields<'_>) -> Result<u32> {
    const NAME: &str = "num_ln_in_parallel_attn";
    match family.norms {
        Norms::Always(norms) => Ok(norms),
        Norms::Falcon if !fields.flag("parallel_attn", true)? => Ok(2),
        Norms::Falcon => {
            let is_new = fields.flag("new_decoder_architecture", false)?;
            Ok(fields.count(NAME, 2)?.unwrap_or(if is_new { 2 } else { 1 }))
        }
    }
}
