//! Gemma 4: full layers with heads and KV heads of their own, last layers that read the caches of
//! earlier ones, an embedding for every layer, and experts beside the MLP (vLLM 0.32 `gemma4.py`).

use super::Family;
use super::dense_class::{Class, HeadDim, KvHeads, divides, sized};
use super::gemma::one_side;
use super::gemma3n::{first_shared, layer_input, shared_attention};
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, VOCAB_MAX, WIDTH_MAX};
use super::parts::{FULL, Windows, attention_cache, gated_mlp};
use super::sliding::FOUR_NORMS;
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param};
use serde_json::Value;

pub(super) static FAMILIES: &[Family] = &[Family {
    architectures: &["Gemma4ForCausalLM", "Gemma4UnifiedForCausalLM"],
    model_types: &["gemma4_text", "gemma4_unified_text", "diffusion_gemma_text"],
    rule: gemma4,
}];

/// "all": every token sees both directions; "vision": those of an image do.
const BIDIRECTIONAL: &str = "use_bidirectional_attention";

/// In what the config classes of Gemma 4's variants differ.
struct Variant {
    class: Class,
    window: u32,
    /// `hidden_size_per_layer_input`; 0: no embedding for every layer.
    layer_input: u32,
    /// `attention_k_eq_v`, without which full layers have as many KV heads as the others.
    key_is_value: bool,
    /// `use_bidirectional_attention` is "vision" where it is absent.
    sees_images: bool,
}

const CLASS: Class = Class {
    kv_heads: KvHeads::Own(4),
    head_dim: HeadDim::Own(256),
    tokens: 131_072,
    tied: true,
    ..sized(2304, 30, 8, 9216, 262_144)
};

const GEMMA4: Variant = Variant {
    class: CLASS,
    window: 512,
    layer_input: 256,
    key_is_value: false,
    sees_images: false,
};
const UNIFIED: Variant = Variant {
    class: Class { tokens: 262_144, ..CLASS },
    window: 1024,
    layer_input: 0,
    key_is_value: false,
    sees_images: true,
};
const DIFFUSION: Variant =
    Variant { class: CLASS, window: 512, layer_input: 0, key_is_value: true, sees_images: false };

/// What the layers have in common.
struct Common {
    attention_bias: bool,
    layer_input: u64,
    layer_vocab: u32,
    first_shared: u32,
    /// Shared layers have an MLP of twice the width.
    double_wide: bool,
    /// Experts and the width of each.
    experts: Option<[u64; 2]>,
}

fn gemma4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let variant = match fields.text("model_type")? {
        Some("gemma4_unified_text") => &UNIFIED,
        Some("diffusion_gemma_text") => &DIFFUSION,
        _ => &GEMMA4,
    };
    let dims = variant.class.dims(fields)?;
    let windows = windows(fields, &dims, variant)?;
    let full = FullLayers::read(fields, &dims, variant)?;
    let common = Common::read(fields, &dims, variant)?;
    let of_layer = full.of_layers(&dims, &windows);
    let is_tied = variant.class.tied(fields)?;
    check_shared(fields, &windows, common.first_shared)?;
    b.dims = dims.clone();
    b.is_prefix_lm = match fields.is_present(BIDIRECTIONAL) {
        true => fields.value(BIDIRECTIONAL).and_then(Value::as_str) == Some("vision"),
        false => variant.sees_images,
    };
    let hidden = u64::from(dims.hidden);
    b.scope("model", |b| {
        b.vocabulary("embed_tokens", dims.vocab, hidden);
        common.layer_embedding(b, &dims);
        for (layer, dims) in (0..dims.layers).zip(&of_layer) {
            b.scope(&format!("layers.{layer}"), |b| common.layer(b, dims, layer));
            if layer >= common.first_shared {
                b.shared_layers += 1;
            } else {
                b.cache(layer, attention_cache(dims, windows.by_type(layer)));
            }
        }
        b.rms_norm("norm", hidden);
    });
    if !is_tied {
        b.head("lm_head", dims.vocab, hidden, false);
    }
    Ok(())
}

/// The last layer sees everything, whatever `layer_types` says.
fn windows<'a>(fields: &Fields<'a>, dims: &Dims, variant: &Variant) -> Result<Windows<'a>> {
    let mut windows =
        Windows::read(fields, dims.layers, Some(variant.window))?.or_every(dims.layers, 6);
    if let Some(last) = windows.types.as_mut().and_then(|types| types.last_mut()) {
        *last = FULL;
    }
    match fields.value(BIDIRECTIONAL).and_then(Value::as_str) {
        Some("all") => Ok(one_side(windows)),
        _ => Ok(windows),
    }
}

/// A shared layer reads the last layer of its own kind that is not shared; there must be one.
fn check_shared(fields: &Fields<'_>, windows: &Windows<'_>, first: u32) -> Result<()> {
    let types: &[&str] = windows.types.as_deref().unwrap_or_default();
    let first = usize::try_from(first).unwrap_or(usize::MAX).min(types.len());
    let (own, shared) = types.split_at(first);
    match shared.iter().find(|kind| !own.contains(kind)) {
        None => Ok(()),
        Some(kind) => {
            let problem = format!("a shared layer is {kind:?}, and no layer before them is");
            Err(wrong(fields.path("num_kv_shared_layers"), problem))
        }
    }
}

/// Where full layers, or single ones, differ from the others.
enum FullLayers {
    /// All full layers alike: `global_head_dim` and `num_global_key_value_heads`.
    Alike([u32; 2]),
    /// `per_layer_config`, by layer: KV heads and head size.
    Single(Vec<[u32; 2]>),
}

impl FullLayers {
    fn read(fields: &Fields<'_>, dims: &Dims, variant: &Variant) -> Result<Self> {
        const SINGLE: &str = "per_layer_config";
        const GLOBAL: &str = "num_global_key_value_heads";
        let Some(single) = fields.object(SINGLE)? else {
            let head_dim = fields.count("global_head_dim", HEAD_DIM_MAX)?.unwrap_or(512);
            let kv_heads = fields.count(GLOBAL, HEADS_MAX)?.unwrap_or(dims.kv_heads);
            let kv_heads = match fields.flag("attention_k_eq_v", variant.key_is_value)? {
                true => kv_heads,
                false => dims.kv_heads,
            };
            divides(fields, GLOBAL, kv_heads, dims.heads)?;
            return Ok(Self::Alike([kv_heads, head_dim]));
        };
        let layers = usize::try_from(dims.layers).unwrap_or(usize::MAX);
        let mut of_layers = vec![[dims.kv_heads, dims.head_dim]; layers];
        for name in single.names() {
            let layer = name.parse::<usize>().ok().and_then(|layer| of_layers.get_mut(layer));
            let Some(layer) = layer else {
                return Err(wrong(single.path(name), format!("not one of the {layers} layers")));
            };
            let Some(own) = single.object(name)? else { continue };
            let kv_heads = own.count("num_key_value_heads", HEADS_MAX)?.unwrap_or(layer[0]);
            divides(&own, "num_key_value_heads", kv_heads, dims.heads)?;
            *layer = [kv_heads, own.count("head_dim", HEAD_DIM_MAX)?.unwrap_or(layer[1])];
        }
        Ok(Self::Single(of_layers))
    }

    fn of_layers(&self, dims: &Dims, windows: &Windows<'_>) -> Vec<Dims> {
        let types = windows.types.iter().flatten();
        let with = |[kv_heads, head_dim]: [u32; 2]| Dims { kv_heads, head_dim, ..dims.clone() };
        match self {
            Self::Single(of_layers) => of_layers.iter().map(|&own| with(own)).collect(),
            Self::Alike(full) => {
                types.map(|&kind| if kind == FULL { with(*full) } else { dims.clone() }).collect()
            }
        }
    }
}

impl Common {
    fn read(fields: &Fields<'_>, dims: &Dims, variant: &Variant) -> Result<Self> {
        let width = |name, default| Ok(u64::from(fields.count_or(name, default, WIDTH_MAX)?));
        let experts = match fields.count("num_experts", EXPERTS_MAX)? {
            None => None,
            Some(experts) => {
                let names = ["moe_intermediate_size", "expert_intermediate_size"];
                Some([experts, fields.required(&names, INNER_MAX)?].map(u64::from))
            }
        };
        let layer_vocab = match variant.layer_input {
            0 => dims.vocab,
            _ => CLASS.vocab,
        };
        Ok(Self {
            attention_bias: fields.flag("attention_bias", false)?,
            layer_input: width("hidden_size_per_layer_input", variant.layer_input)?,
            layer_vocab: fields
                .count("vocab_size_per_layer_input", VOCAB_MAX)?
                .unwrap_or(layer_vocab),
            first_shared: first_shared(fields, dims, 0)?,
            double_wide: fields.flag("use_double_wide_mlp", false)?,
            experts,
        })
    }

    fn layer_embedding(&self, b: &mut Builder, dims: &Dims) {
        if self.layer_input == 0 {
            return;
        }
        let all_inputs = self.layer_input.saturating_mul(dims.layers.into());
        b.vocabulary("embed_tokens_per_layer", self.layer_vocab, all_inputs);
        b.linear("per_layer_model_projection", Linear::column(dims.hidden.into(), all_inputs));
        b.rms_norm("per_layer_projection_norm", self.layer_input);
    }

    fn layer(&self, b: &mut Builder, dims: &Dims, layer: u32) {
        let hidden = u64::from(dims.hidden);
        let is_shared = layer >= self.first_shared;
        b.scope("self_attn", |b| shared_attention(b, dims, is_shared, self.attention_bias));
        let factor = if self.double_wide && is_shared { 2 } else { 1 };
        b.scope("mlp", |b| gated_mlp(b, hidden, u64::from(dims.inner) * factor, false));
        for norm in FOUR_NORMS.norms {
            b.rms_norm(norm, hidden);
        }
        if let Some([experts, inner]) = self.experts {
            b.linear("router.proj", Linear::replicated(hidden, experts).plain());
            b.param("router.scale", Param::whole(hidden));
            b.param("router.per_expert_scale", Param::whole(experts));
            let experts = Experts::gated(experts, hidden, inner);
            b.experts("experts", experts.fusible(false));
            b.rms_norm("post_feedforward_layernorm_1", hidden);
            b.rms_norm("post_feedforward_layernorm_2", hidden);
            b.rms_norm("pre_feedforward_layernorm_2", hidden);
        }
        if self.layer_input > 0 {
            layer_input(b, hidden, self.layer_input);
        }
    }
}
