//! Mixtures of experts whose layers look back differently far, or differ in their heads.
//!
//! Sources: vLLM 0.32 `model_executor/models`, the file named after each `model_type`, and the
//! defaults of the Hugging Face config classes.

use super::Family;
use super::limits::{
    EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, WIDTH_MAX,
};
use super::moe_parts::{
    Attn, Class, Dense, DenseNames, Frame, Mlp, Moe, QkNorm, at, experts, is_sigmoid, optional,
    per_layer, shared_evenly, size, width,
};
use super::parts::{SLIDING, Windows};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::Reach;
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, kind, wrong};
use std::collections::BTreeSet;

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["GptOssForCausalLM"], model_types: &["gpt_oss"], rule: gpt_oss },
    Family { architectures: &["Llama4ForCausalLM"], model_types: &["llama4_text"], rule: llama4 },
    Family { architectures: &["AfmoeForCausalLM"], model_types: &["afmoe"], rule: afmoe },
    Family {
        architectures: &["ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"],
        model_types: &["exaone_moe"],
        rule: exaone,
    },
    Family { architectures: &["LagunaForCausalLM"], model_types: &["laguna"], rule: laguna },
    Family { architectures: &["Step3TextForCausalLM"], model_types: &["step3_text"], rule: step3 },
    Family { architectures: &["Step3p5ForCausalLM"], model_types: &["step3p5"], rule: step3p5 },
    Family {
        architectures: &["MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"],
        model_types: &["mimo_v2_flash", "mimo_v2"],
        rule: mimo_v2,
    },
];

/// Sinks in every layer, a window in every other; biases everywhere.
fn gpt_oss(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 36,
        hidden: 2880,
        heads: 64,
        kv_heads: 8,
        head_dim: 64,
        inner: 2880,
        vocab: 201_088,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(128))?
        .or_types(dims.layers, |layer| layer.is_multiple_of(2));
    let attention = Attn {
        scope: "attn",
        qkv_bias: true,
        out_bias: true,
        sinks: Some("sinks"),
        ..Attn::of(&dims)
    };
    let count = experts(fields, "num_local_experts", 128)?;
    let moe = Moe {
        router: "router",
        router_bias: true,
        bias: true,
        // The activation is the model's own.
        fusible: false,
        ..Moe::new("mlp", count, dims.inner.into())
    };
    // The model class counts a rank's heads itself, and would get none (`gpt_oss.py`).
    b.inventory.ranks_divide = Some(("KV heads", dims.kv_heads.into()));
    let frame = Frame { embedding: "embedding", ..Frame::new(false) };
    frame.build(b, &dims, |layer| {
        // The model class alternates by itself, whatever `layer_types` says.
        let own = windows.window.filter(|_| layer.is_multiple_of(2));
        let reach = own.or_else(|| windows.of_model()).map_or(Reach::Full, Reach::Window);
        Ok((Attn { reach, ..attention.clone() }, Mlp::Moe(moe.clone())))
    })
}

/// Layers with rotary positions look back on their chunk alone; the others on everything.
fn llama4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 48,
        hidden: 5120,
        heads: 40,
        kv_heads: 8,
        head_dim: 128,
        inner: 8192,
        vocab: 202_048,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let interval = size(fields, "no_rope_layer_interval", 4, LAYERS_MAX)?;
    let declared = fields.counts("no_rope_layers", 1)?.filter(|list| !list.is_empty());
    let has_rope = declared.unwrap_or_else(|| {
        (0..dims.layers).map(|layer| u32::from(!(layer + 1).is_multiple_of(interval))).collect()
    });
    let has_rope = per_layer(fields, "no_rope_layers", &has_rope, dims.layers)?;
    let chunk = match optional(fields, "attention_chunk_size", 8192, TOKENS_MAX)? {
        0 => Reach::Full,
        chunk => Reach::Chunk(chunk),
    };
    let count = experts(fields, "num_local_experts", 16)?;
    let inner = u64::from(dims.inner);
    let moe = Moe {
        router: "router",
        shared: Some(Dense::new("shared_expert", inner)),
        ..Moe::new("feed_forward", count, inner)
    };
    let dense = Dense::new("feed_forward", width(fields, "intermediate_size_mlp", 16384)?);
    let step = optional(fields, "interleave_moe_layer_step", 1, LAYERS_MAX)?;
    Frame::read(fields)?.build(b, &dims, |layer| {
        let reach = if at(has_rope, layer) > 0 { chunk } else { Reach::Full };
        let is_moe = step > 0 && (layer + 1).is_multiple_of(step);
        let mlp = if is_moe { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((Attn { reach, ..Attn::of(&dims) }, mlp))
    })
}

fn afmoe(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 2048,
        heads: 16,
        kv_heads: 0,
        head_dim: 128,
        inner: 6144,
        vocab: 200_192,
        tokens: 16384,
    };
    let dims = class.read(fields)?;
    let every = size(fields, "global_attn_every_n_layers", 4, LAYERS_MAX)?;
    let windows = Windows::read(fields, dims.layers, Some(1024))?.or_every(dims.layers, every);
    let gate = u64::from(dims.heads) * u64::from(dims.head_dim);
    let attention =
        Attn { norms: QkNorm::Head, gate: Some(("gate_proj", gate)), ..Attn::of(&dims) };
    let inner = width(fields, "moe_intermediate_size", 1408)?;
    let shared = optional(fields, "num_shared_experts", 2, EXPERTS_MAX)?;
    let moe = Moe {
        router_dtype: Some(Dtype::Float32),
        scores: Some("expert_bias"),
        shared: shared_experts(inner, shared),
        ..Moe::new("mlp", experts(fields, "num_experts", 64)?, inner)
    };
    let is_sigmoid = is_sigmoid(fields, "score_func", true)?;
    let moe = moe.routed(fields, is_sigmoid, ("route_norm", false))?;
    let first = fields.count_or("num_dense_layers", 1, LAYERS_MAX)?;
    let dense = Dense::new("mlp", dims.inner);
    let frame = Frame {
        layer_norms: &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_mlp_layernorm",
            "post_mlp_layernorm",
        ],
        ..Frame::new(false)
    };
    frame.build(b, &dims, |layer| {
        let attention = Attn { reach: windows.by_type(layer), ..attention.clone() };
        let mlp = if layer >= first { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention, mlp))
    })
}

/// Experts that every token sees, as one MLP of their joint width.
fn shared_experts(inner: u64, count: u32) -> Option<Dense> {
    (count > 0).then(|| Dense::new("shared_experts", inner * u64::from(count)))
}

/// `mlp_layer_types`, or the first layers dense where it is absent: whether each has experts.
pub(super) fn sparse_layers(fields: &Fields<'_>, layers: u32, dense: u32) -> Result<Vec<bool>> {
    const NAME: &str = "mlp_layer_types";
    if fields.value(NAME).is_none() {
        return Ok((0..layers).map(|layer| layer >= dense).collect());
    }
    let types = fields.texts(NAME)?;
    let types = per_layer(fields, NAME, &types, layers)?;
    Ok(types.iter().map(|&kind| kind == "sparse").collect())
}

fn exaone(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 32,
        head_dim: 0,
        inner: 16384,
        vocab: 102_400,
        tokens: 2048,
    };
    let dims = class.read(fields)?;
    let pattern = super::sliding::pattern(fields, 4)?;
    let windows = Windows::read(fields, dims.layers, Some(4096))?.or_every(dims.layers, pattern);
    let own = fields.counts("sliding_windows", TOKENS_MAX)?;
    if let Some(own) = &own {
        per_layer(fields, "sliding_windows", own, dims.layers)?;
    }
    let bias = fields.flag("attention_bias", false)? || fields.flag("bias", false)?;
    let attention = Attn { qkv_bias: bias, out_bias: bias, norms: QkNorm::Head, ..Attn::of(&dims) };
    let inner = width(fields, "moe_intermediate_size", 1024)?;
    let shared = optional(fields, "num_shared_experts", 1, EXPERTS_MAX)?;
    let moe = Moe {
        scores: Some("e_score_correction_bias"),
        shared: shared_experts(inner, shared),
        bounds_ranks: true,
        ..Moe::new("mlp", experts(fields, "num_experts", 64)?, inner)
    };
    let moe = moe.routed(fields, true, ("norm_topk_prob", true))?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    let dense = Dense { bias: mlp_bias, ..Dense::new("mlp", dims.inner) };
    let first = fields.count_or("first_k_dense_replace", 1, LAYERS_MAX)?;
    let sparse = sparse_layers(fields, dims.layers, first)?;
    Frame::read(fields)?.build(b, &dims, |layer| {
        let reach = match (windows.by_type(layer), &own) {
            (Reach::Window(_), Some(own)) => Reach::Window(at(own, layer)),
            (reach, _) => reach,
        };
        let mlp = if at(&sparse, layer) { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((Attn { reach, ..attention.clone() }, mlp))
    })
}

/// Layers may have their own number of heads; the attention's output is gated.
fn laguna(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 40,
        hidden: 2048,
        heads: 48,
        kv_heads: 8,
        head_dim: 128,
        inner: 8192,
        vocab: 100_352,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let windows = Windows::read(fields, dims.layers, Some(512))?;
    let heads = fields.counts("num_attention_heads_per_layer", HEADS_MAX)?;
    let heads = heads.unwrap_or_else(|| (0..dims.layers).map(|_| dims.heads).collect());
    let heads = per_layer(fields, "num_attention_heads_per_layer", &heads, dims.layers)?;
    // true, "per-head" or another text, which is a gate for every element.
    let gate = match fields.value("gating") {
        None if fields.is_present("gating") => None,
        None => Some(false),
        Some(value) => match (value.as_bool(), value.as_str()) {
            (Some(is_on), _) => is_on.then_some(false),
            (None, Some(text)) => (!text.is_empty()).then_some(text != "per-head"),
            (None, None) => {
                let problem = format!("{}; expected true, false or a string", kind(value));
                return Err(wrong(fields.path("gating"), problem));
            }
        },
    };
    let bias = fields.flag("attention_bias", false)?;
    let has_sinks = fields.flag("swa_attention_sink_enabled", false)?;
    let attention = Attn { qkv_bias: bias, out_bias: bias, norms: QkNorm::Head, ..Attn::of(&dims) };
    let names = DenseNames::Apart;
    let shared = optional(fields, "shared_expert_intermediate_size", 512, INNER_MAX)?;
    let moe = Moe {
        scores: Some("experts.e_score_correction_bias"),
        shared: (shared > 0).then(|| Dense { names, ..Dense::new("shared_expert", shared) }),
        bounds_ranks: true,
        ..Moe::new(
            "mlp",
            experts(fields, "num_experts", 256)?,
            width(fields, "moe_intermediate_size", 512)?,
        )
    };
    let dense = Dense { names, ..Dense::new("mlp", dims.inner) };
    let sparse = sparse_layers(fields, dims.layers, 1)?;
    Frame::read(fields)?.build(b, &dims, |layer| {
        let heads = at(heads, layer);
        shared_evenly(fields, "num_attention_heads_per_layer", dims.kv_heads, heads.max(1))?;
        let slides = slides(&windows, layer);
        let element = u64::from(dims.head_dim);
        let attention = Attn {
            heads,
            gate: gate.map(|every| ("g_proj", u64::from(heads) * if every { element } else { 1 })),
            sinks: (slides && has_sinks).then_some("sink"),
            reach: windows.window.filter(|_| slides).map_or(Reach::Full, Reach::Window),
            ..attention.clone()
        };
        let mlp = if at(&sparse, layer) { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention, mlp))
    })
}

/// Whether `layer_types` says that a layer looks back on a window.
fn slides(windows: &Windows<'_>, layer: u32) -> bool {
    windows.types.as_ref().is_some_and(|types| at(types, layer) == SLIDING)
}

/// Layers with experts: a list in one text, `1,2,3`; absent or null, all but the first.
fn moe_layers(fields: &Fields<'_>) -> Result<Option<BTreeSet<u32>>> {
    const NAME: &str = "moe_layers_enum";
    let Some(text) = fields.text(NAME)? else { return Ok(None) };
    let index = |text: &str| {
        text.trim().parse::<u32>().map_err(|_| {
            let problem = "expected whole numbers with commas between them";
            wrong(fields.path(NAME), problem)
        })
    };
    text.trim().split(',').map(index).collect::<Result<_>>().map(Some)
}

fn has_experts(list: Option<&BTreeSet<u32>>, layer: u32) -> bool {
    list.map_or(layer > 0, |list| list.contains(&layer))
}

/// One KV head that every rank holds; queries go through a narrow vector.
fn step3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let (hidden, heads) = (
        size(fields, "hidden_size", 7168, WIDTH_MAX)?,
        size(fields, "num_attention_heads", 64, HEADS_MAX)?,
    );
    let class = Class {
        layers: 61,
        hidden,
        heads,
        kv_heads: 1,
        head_dim: 256,
        inner: 18432,
        vocab: 128_815,
        tokens: 0,
    };
    let mut dims = class.read(fields)?;
    dims.kv_heads = 1;
    dims.tokens_max = Some(size(fields, "max_position_embedding", 65536, TOKENS_MAX)?);
    let rank = match optional(fields, "share_q_dim", 2048, WIDTH_MAX)? {
        0 => dims.head_dim,
        rank => rank,
    };
    let attention = Attn {
        query_rank: Some(rank.into()),
        reach: Windows::read(fields, dims.layers, None)?.uniform(),
        ..Attn::of(&dims)
    };
    let moe = Moe {
        shared: Some(Dense::new("share_expert", width(fields, "share_expert_dim", 5120)?)),
        shared_beside: true,
        bounds_ranks: true,
        ..Moe::new(
            "moe",
            experts(fields, "moe_num_experts", 48)?,
            width(fields, "moe_intermediate_size", 5120)?,
        )
    };
    let moe = moe.routed(fields, false, ("norm_expert_weight", false))?;
    // The config class's own default: all but the first four and the last.
    let listed = match fields.is_present("moe_layers_enum") {
        true => moe_layers(fields)?,
        false => Some((4..60).collect()),
    };
    let dense = Dense::new("mlp", dims.inner);
    Frame::new(false).build(b, &dims, |layer| {
        let is_moe = has_experts(listed.as_ref(), layer);
        let mlp = if is_moe { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

/// Heads of one kind of layer differ from the others'.
fn step3p5(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = step3p5_dims(fields)?;
    let types = fields.texts("layer_types")?;
    if !types.is_empty() {
        // Checkpoints list their draft layers too; the class cuts the list.
        per_layer(fields, "layer_types", &types, dims.layers)?;
    }
    let window = super::parts::window(fields, None)?;
    let bias = fields.flag("attention_bias", false)?;
    let attention = Attn { qkv_bias: bias, norms: QkNorm::Head, ..Attn::of(&dims) };
    let other = fields.object("attention_other_setting")?;
    let other = match &other {
        None => None,
        Some(other) => {
            let heads = other.required(&["num_attention_heads"], HEADS_MAX)?;
            let kv_heads = other.required(&["num_attention_groups"], HEADS_MAX)?;
            shared_evenly(other, "num_attention_groups", kv_heads, heads)?;
            let dim = other.count("head_dim", HEAD_DIM_MAX)?.unwrap_or(dims.head_dim);
            let kind = other.text("attention_type")?.unwrap_or_default();
            let sizes = Attn { heads, kv_heads, key_dim: dim, value_dim: dim, ..attention.clone() };
            Some((kind, sizes))
        }
    };
    let has_gate = fields.flag("use_head_wise_attn_gate", false)?;
    let moe = step3p5_moe(fields)?;
    let listed = moe_layers(fields)?;
    let limits = fields.value("swiglu_limits").and_then(serde_json::Value::as_array);
    let dense = Dense::new("mlp", dims.inner);
    Frame::new(false).build(b, &dims, |layer| {
        let kind = at(&types, layer);
        let own = other.as_ref().filter(|(other, _)| *other == kind && !types.is_empty());
        let mut attention = own.map_or(&attention, |(_, own)| own).clone();
        let slides = if types.is_empty() { layer.is_multiple_of(2) } else { kind == SLIDING };
        attention.reach = window.filter(|_| slides).map_or(Reach::Full, Reach::Window);
        attention.gate = has_gate.then_some(("g_proj", attention.heads.into()));
        let is_moe = has_experts(listed.as_ref(), layer);
        // A limited activation is another one.
        let index = usize::try_from(layer).unwrap_or(usize::MAX);
        let limit = limits.and_then(|limits| limits.get(index)?.as_f64());
        let fusible = moe.fusible && limit.is_none_or(|limit| limit == 0.0);
        let moe = Moe { fusible, ..moe.clone() };
        let mlp = if is_moe { Mlp::Moe(moe) } else { Mlp::Dense(dense) };
        Ok((attention, mlp))
    })
}

fn step3p5_dims(fields: &Fields<'_>) -> Result<Dims> {
    let class = Class {
        layers: 48,
        hidden: 5120,
        heads: 40,
        kv_heads: 0,
        head_dim: 0,
        inner: 13312,
        vocab: 65536,
        tokens: 0,
    };
    let mut dims = class.read(fields)?;
    dims.kv_heads = size(fields, "num_attention_groups", 8, HEADS_MAX)?;
    shared_evenly(fields, "num_attention_groups", dims.kv_heads, dims.heads)?;
    Ok(dims)
}

fn step3p5_moe(fields: &Fields<'_>) -> Result<Moe> {
    let inner = width(fields, "moe_intermediate_size", 10240)?;
    let chosen = experts(fields, "moe_top_k", 4)?;
    let shared = match fields.count("share_expert_dim", INNER_MAX)? {
        Some(declared) => declared.into(),
        None => inner.saturating_mul(chosen),
    };
    let moe = Moe {
        router_dtype: Some(Dtype::Float32),
        scores: Some("router_bias"),
        shared: Some(Dense::new("share_expert", shared)),
        bounds_ranks: true,
        ..Moe::new("moe", experts(fields, "moe_num_experts", 16)?, inner)
    };
    let is_sigmoid = is_sigmoid(fields, "moe_router_activation", false)?;
    moe.routed(fields, is_sigmoid, ("norm_expert_weight", true))
}

/// Keys wider than values; windowed layers have heads of their own, and sinks.
fn mimo_v2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class {
        layers: 48,
        hidden: 4096,
        heads: 64,
        kv_heads: 4,
        head_dim: 192,
        inner: 16384,
        vocab: 152_576,
        tokens: 131_072,
    };
    let dims = class.read(fields)?;
    let bias = fields.flag("attention_bias", false)?;
    let value_dim = match optional(fields, "v_head_dim", 128, HEAD_DIM_MAX)? {
        0 => dims.head_dim,
        declared => declared,
    };
    let full = Attn { qkv_bias: bias, value_dim, ..Attn::of(&dims) };
    let pattern = fields.counts("hybrid_layer_pattern", 1)?.unwrap_or_default();
    let pattern = per_layer(fields, "hybrid_layer_pattern", &pattern, dims.layers)?;
    let windowed = match pattern.contains(&1) {
        true => mimo_windowed(fields, &full)?,
        false => full.clone(),
    };
    // A single number means no experts at all.
    let sparse = match fields.value("moe_layer_freq") {
        None | Some(serde_json::Value::Number(_)) => None,
        Some(_) => fields.counts("moe_layer_freq", LAYERS_MAX)?,
    };
    if let Some(sparse) = &sparse {
        per_layer(fields, "moe_layer_freq", sparse, dims.layers)?;
    }
    let moe = Moe {
        router_dtype: Some(router_dtype(fields)?),
        scores: Some("gate.e_score_correction_bias"),
        bounds_ranks: true,
        ..Moe::new(
            "mlp",
            experts(fields, "n_routed_experts", 256)?,
            width(fields, "moe_intermediate_size", 2048)?,
        )
    };
    let moe = moe.routed(fields, true, ("norm_topk_prob", true))?;
    let dense = Dense::new("mlp", dims.inner);
    Frame::new(false).build(b, &dims, |layer| {
        let attention = if at(pattern, layer) == 1 { &windowed } else { &full };
        let is_moe = sparse.as_ref().is_some_and(|sparse| at(sparse, layer) > 0);
        let mlp = if is_moe { Mlp::Moe(moe.clone()) } else { Mlp::Dense(dense) };
        Ok((attention.clone(), mlp))
    })
}

fn mimo_windowed(fields: &Fields<'_>, full: &Attn) -> Result<Attn> {
    let heads = fields.required(&["swa_num_attention_heads"], HEADS_MAX)?;
    let kv_heads = fields.required(&["swa_num_key_value_heads"], HEADS_MAX)?;
    shared_evenly(fields, "swa_num_key_value_heads", kv_heads, heads)?;
    let key_dim = fields.required(&["swa_head_dim"], HEAD_DIM_MAX)?;
    let value_dim = fields.count("swa_v_head_dim", HEAD_DIM_MAX)?.unwrap_or(key_dim);
    let window = fields.required(&["sliding_window_size"], TOKENS_MAX)?;
    let has_sinks = fields.flag("add_swa_attention_sink_bias", false)?;
    Ok(Attn {
        heads,
        kv_heads,
        key_dim,
        value_dim,
        reach: Reach::Window(window),
        sinks: has_sinks.then_some("attention_sink_bias"),
        ..full.clone()
    })
}

/// `moe_router_dtype`, by default float32.
fn router_dtype(fields: &Fields<'_>) -> Result<Dtype> {
    const NAME: &str = "moe_router_dtype";
    let Some(name) = fields.text(NAME)? else { return Ok(Dtype::Float32) };
    let found = Dtype::ALL.into_iter().find(|dtype| dtype.name() == name);
    found.ok_or_else(|| wrong(fields.path(NAME), "not the name of a dtype"))
}
