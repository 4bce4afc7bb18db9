//! Cohere's mixture of experts with windows (vLLM 0.32 `cohere2_moe.py`).

use super::Family;
use super::dense_class::{Class, HeadDim};
use super::limits::{EXPERTS_MAX, INNER_MAX, LAYERS_MAX};
use super::parts::{AttentionParts, Windows, attention_cache, gated_mlp};
use super::sliding::{COHERE2, inclusive};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear};

pub(super) static FAMILIES: &[Family] = &[Family {
    architectures: &["Cohere2MoeForCausalLM"],
    model_types: &["cohere2_moe"],
    rule: cohere2_moe,
}];

fn cohere2_moe(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = Class { head_dim: HeadDim::Own(128), ..COHERE2 }.dims(fields)?;
    let dense = fields.count_or("first_k_dense_replace", 0, LAYERS_MAX)?;
    let windows = windows(fields, &dims, dense)?;
    let mlps = mlps(fields, &dims, dense)?;
    let reaches = inclusive(fields, &windows)?;
    let dense_inner =
        fields.count("prefix_dense_intermediate_size", INNER_MAX)?.unwrap_or(dims.inner);
    let experts = fields.count("num_experts", EXPERTS_MAX)?.unwrap_or(8);
    let shared = fields.count_or("num_shared_experts", 0, EXPERTS_MAX)?;
    // Sigmoids may stay as they are, a softmax is normalised over the chosen.
    let fusible = fields.text("expert_selection_fn")? == Some("sigmoid")
        || fields.flag("norm_topk_prob", true)?;
    b.dims = dims.clone();
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    b.vocabulary("model.embed_tokens", dims.vocab, hidden);
    for (layer, (&reach, is_dense)) in (0..dims.layers).zip(reaches.iter().zip(mlps)) {
        b.scope(&format!("model.layers.{layer}"), |b| {
            b.scope("self_attn", |b| AttentionParts::of(&dims).build(b, "o_proj"));
            b.scope("mlp", |b| {
                if is_dense {
                    return gated_mlp(b, hidden, dense_inner.into(), false);
                }
                let experts = u64::from(experts);
                b.linear("gate", Linear::replicated(hidden, experts).plain());
                if shared > 0 {
                    let inner = inner.saturating_mul(shared.into());
                    b.scope("shared_experts", |b| gated_mlp(b, hidden, inner, false));
                }
                b.experts("experts", Experts::gated(experts, hidden, inner).fusible(fusible));
            });
            b.rms_norm("input_layernorm", hidden);
        });
        b.cache(layer, attention_cache(&dims, reach));
    }
    b.rms_norm("model.norm", hidden);
    Ok(())
}

/// The first, dense layers have a pattern of windows of their own.
fn windows<'a>(fields: &Fields<'a>, dims: &Dims, dense: u32) -> Result<Windows<'a>> {
    let every = |name, default| Ok(fields.count(name, LAYERS_MAX)?.unwrap_or(default));
    let of_dense: u32 = every("prefix_dense_sliding_window_pattern", 1)?;
    let of_rest: u32 = every("sliding_window_pattern", 4)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?;
    Ok(windows.or_types(dims.layers, |layer| match layer.checked_sub(dense) {
        None => !(layer + 1).is_multiple_of(of_dense),
        Some(rest) => !(rest + 1).is_multiple_of(of_rest),
    }))
}

/// Which layers have an MLP instead of experts.
fn mlps(fields: &Fields<'_>, dims: &Dims, dense: u32) -> Result<Vec<bool>> {
    const NAME: &str = "mlp_layer_types";
    if fields.value(NAME).is_none() {
        return Ok((0..dims.layers).map(|layer| layer < dense).collect());
    }
    let types = fields.texts(NAME)?;
    if u32::try_from(types.len()) != Ok(dims.layers) {
        let problem = format!("{} entries for {} layers", types.len(), dims.layers);
        return Err(wrong(fields.path(NAME), problem));
    }
    Ok(types.iter().map(|&kind| kind == "dense").collect())
}
