//! Dense decoders whose layers differ from each other, are passed more than once, or have an
//! attention of another form.

use super::Family;
use super::dense::{Decoder, LLAMA_NAMES, activation};
use super::dense_class::{Class, FOREIGN, HeadDim, Inner, KvHeads, divides, sized};
use super::limits::{HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, WIDTH_MAX};
use super::parts::{attention_cache, gated_mlp};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::cache::Reach;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["DeciLMForCausalLM"], model_types: &["nemotron-nas"], rule: deci },
    Family { architectures: &["HrmTextForCausalLM"], model_types: &["hrm_text"], rule: hrm },
    Family {
        architectures: &["IQuestLoopCoderForCausalLM"],
        model_types: &["iquestloopcoder"],
        rule: loop_coder,
    },
    Family { architectures: &["MiniCPMForCausalLM"], model_types: &["minicpm"], rule: minicpm },
    Family { architectures: &["MiniCPM3ForCausalLM"], model_types: &["minicpm3"], rule: minicpm3 },
];

const RATIO: Class = Class { head_dim: HeadDim::Ratio, ..FOREIGN };

/// Nemotron-NAS: `block_configs` has for each layer its KV heads and the width of its MLP, and
/// leaves out some attentions and MLPs.
fn deci(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const BLOCKS: &str = "block_configs";
    let fields = &config.text;
    let blocks = fields.objects(BLOCKS)?;
    let is_first = |block: &Fields<'_>| block.object("attention").ok().flatten().is_some();
    if !blocks.iter().any(is_first) {
        return Err(wrong(fields.path(BLOCKS), "missing, and no layer can be told without it"));
    }
    // The sizes are read without those that differ by layer.
    let shared = Class { kv_heads: KvHeads::Same, ..FOREIGN };
    let (dims, mlp_widths) = deci_sizes(fields, &shared, &blocks)?;
    let bias = fields.flag("attention_bias", false)? || fields.flag("bias", false)?;
    let qkv_bias = fields.flag("qkv_bias", bias)?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    let hidden = u64::from(dims.dims.hidden);
    builder.vocabulary(LLAMA_NAMES.embedding, dims.dims.vocab, hidden);
    let mut largest = 0;
    let mut first_kv = None;
    for (layer, (block, inner)) in (0..).zip(blocks.iter().zip(mlp_widths)) {
        let kv_heads = deci_kv_heads(fields, block, dims.dims.heads)?;
        let mut decoder = dims.clone().biases(qkv_bias, bias, mlp_bias);
        builder.scope(&format!("model.layers.{layer}"), |b| {
            if let Some(kv_heads) = kv_heads {
                decoder.dims.kv_heads = kv_heads;
                b.scope("self_attn", |b| decoder.attention(b));
                b.rms_norm("input_layernorm", hidden);
                b.cache(layer, decoder.cache(layer));
            }
            if let Some(inner) = inner {
                b.scope("mlp", |b| gated_mlp(b, hidden, inner.into(), mlp_bias));
                b.rms_norm("post_attention_layernorm", hidden);
            }
        });
        largest = largest.max(inner.unwrap_or(0));
        first_kv = first_kv.or(kv_heads);
    }
    builder.rms_norm(LLAMA_NAMES.norm, hidden);
    if !dims.tied {
        builder.head(LLAMA_NAMES.head, dims.dims.vocab, hidden, false);
    }
    builder.dims = dims.dims;
    builder.dims.inner = largest;
    builder.dims.kv_heads = first_kv.unwrap_or(builder.dims.heads);
    Ok(())
}

/// The common sizes, and the width of each layer's MLP.
fn deci_sizes(
    fields: &Fields<'_>,
    class: &Class,
    blocks: &[Fields<'_>],
) -> Result<(Decoder, Vec<Option<u32>>)> {
    let decoder = Decoder::new(fields, &Class { inner: Inner::Fourfold, ..*class })?;
    let layers = decoder.dims.layers;
    if u32::try_from(blocks.len()) != Ok(layers) {
        let problem = format!("{} entries for {layers} layers", blocks.len());
        return Err(wrong(fields.path("block_configs"), problem));
    }
    let widths = blocks.iter().map(|block| deci_width(block, decoder.dims.hidden));
    let widths = widths.collect::<Result<_>>()?;
    Ok((decoder, widths))
}

fn deci_kv_heads(fields: &Fields<'_>, block: &Fields<'_>, heads: u32) -> Result<Option<u32>> {
    const GROUP: &str = "n_heads_in_group";
    let Some(attention) = block.object("attention")? else {
        return Err(wrong(block.path("attention"), "missing"));
    };
    if attention.flag("no_op", false)? {
        return Ok(None);
    }
    let group = attention.required(&[GROUP], HEADS_MAX)?;
    if group > heads {
        let problem = format!("{group}, of {heads} query heads");
        return Err(wrong(attention.path(GROUP), problem));
    }
    divides(fields, "num_attention_heads", heads / group, heads).map(Some)
}

/// `ffn_mult` times two thirds of the hidden size in whole multiples of 256 (`nemotron_nas.py`),
/// or the width itself.
fn deci_width(block: &Fields<'_>, hidden: u32) -> Result<Option<u32>> {
    const MULT: &str = "ffn_mult";
    let Some(ffn) = block.object("ffn")? else {
        return Err(wrong(block.path("ffn"), "missing"));
    };
    if ffn.flag("no_op", false)? {
        return Ok(None);
    }
    activation(&ffn, "hidden_act", &["silu"])?;
    let Some(mult) = ffn.number(MULT)? else {
        return ffn.required(&["intermediate_size"], INNER_MAX).map(Some);
    };
    let width = 2.0 * mult * f64::from(hidden) / 3.0;
    if !(1.0..=f64::from(INNER_MAX)).contains(&width) {
        return Err(wrong(ffn.path(MULT), format!("{mult}; no sensible multiple")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let width = width as u32;
    Ok(Some(width.next_multiple_of(256)))
}

/// Two stacks of layers, each passed several times with a cache of its own for every pass
/// (`hrm_text.py`).
fn hrm(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const CLASS: Class = Class {
        kv_heads: KvHeads::Same,
        head_dim: HeadDim::Own(128),
        tokens: 2048,
        ..sized(1536, 16, 12, 4096, 151_808)
    };
    let fields = &config.text;
    activation(fields, "hidden_act", &["silu"])?;
    let decoder = Decoder::new(fields, &CLASS)?;
    let dims = &decoder.dims;
    let (high, low) = (cycles(fields, "H_cycles", 2)?, cycles(fields, "L_cycles", 3)?);
    // Where it is absent, `num_hidden_layers` counts the layers of a stack, else all passes.
    let declared = fields.count("num_layers_per_stack", LAYERS_MAX)?;
    let in_stack = declared.unwrap_or(dims.layers);
    let passes = high.saturating_mul(low.saturating_add(1));
    let layers = declared.map_or(in_stack.saturating_mul(passes), |_| dims.layers);
    if in_stack.saturating_mul(passes) > LAYERS_MAX {
        let problem = format!("{passes} passes of {in_stack} layers; at most {LAYERS_MAX}");
        return Err(wrong(fields.path("H_cycles"), problem));
    }
    let hidden = u64::from(dims.hidden);
    builder.vocabulary("model.embed_tokens", dims.vocab, hidden);
    let bias = fields.flag("attention_bias", false)?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    let width = u64::from(dims.heads).saturating_mul(dims.head_dim.into());
    for stack in ["L_module", "H_module"] {
        for layer in 0..in_stack {
            builder.scope(&format!("model.{stack}.layers.{layer}"), |b| {
                // Gate, query, key, value.
                let gqkv = Linear::merged(hidden, [width; 4]).bias(bias);
                b.linear("self_attn.gqkv_proj", gqkv);
                b.linear("self_attn.o_proj", Linear::row(width, hidden).bias(bias));
                b.scope("mlp", |b| gated_mlp(b, hidden, dims.inner.into(), mlp_bias));
            });
        }
    }
    for layer in 0..in_stack.saturating_mul(passes) {
        builder.cache(layer, attention_cache(dims, Reach::Full));
    }
    builder.param("model.z_L_init", Param::whole(hidden));
    if !decoder.tied {
        builder.head("lm_head", dims.vocab, hidden, false);
    }
    builder.dims = dims.clone();
    builder.dims.layers = layers;
    Ok(())
}

fn cycles(fields: &Fields<'_>, name: &str, default: u32) -> Result<u32> {
    Ok(fields.count(name, LAYERS_MAX)?.unwrap_or(default))
}

/// All layers are passed `loop_num` times; passes after the first keep a window of their own
/// (`iquest_loopcoder.py`).
fn loop_coder(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    activation(fields, "hidden_act", &["silu"])?;
    let decoder = Decoder::new(fields, &RATIO)?;
    let dims = &decoder.dims;
    let loops = fields.count("loop_num", LAYERS_MAX)?.unwrap_or(2);
    if loops.saturating_mul(dims.layers) > LAYERS_MAX {
        let problem = format!("{loops} passes of {} layers; at most {LAYERS_MAX}", dims.layers);
        return Err(wrong(fields.path("loop_num"), problem));
    }
    let window = fields.count("loop_window_size", TOKENS_MAX)?.unwrap_or(64);
    decoder.build(builder);
    for layer in 0..dims.layers {
        // A gate of every head, of one head's width.
        let gate = Linear::column(dims.head_dim.into(), dims.heads.into()).bias(true);
        builder.linear(&format!("model.gate_projections.{layer}.gate_proj"), gate);
        for pass in 1..loops {
            let layer = pass.saturating_mul(dims.layers).saturating_add(layer);
            builder.cache(layer, attention_cache(dims, Reach::Window(window)));
        }
    }
    builder.caches.sort_by_key(|cache| cache.layer);
    Ok(())
}

fn minicpm(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    no_experts(fields)?;
    activation(fields, "hidden_act", &["silu", "fatrelu"])?;
    Decoder::new(fields, &RATIO)?.build(builder);
    Ok(())
}

fn no_experts(fields: &Fields<'_>) -> Result<()> {
    const NAME: &str = "num_experts";
    match fields.count_or_zero(NAME, u32::MAX)? {
        0 => Ok(()),
        experts => {
            let problem = format!("{experts}; this version computes only the dense form");
            Err(wrong(fields.path(NAME), problem))
        }
    }
}

/// Latent attention by its weights; the cache holds keys and values of every head, the values
/// padded to the keys' size (`minicpm3.py`).
fn minicpm3(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const CLASS: Class = Class {
        kv_heads: KvHeads::Same,
        head_dim: HeadDim::Ratio,
        tokens: 32768,
        tied: true,
        ..sized(2560, 62, 40, 6400, 73448)
    };
    let fields = &config.text;
    no_experts(fields)?;
    activation(fields, "hidden_act", &["silu", "fatrelu"])?;
    let mut decoder = Decoder::new(fields, &CLASS)?;
    let value_dim = fields.count("v_head_dim", HEAD_DIM_MAX)?.unwrap_or(decoder.dims.head_dim);
    let nope = fields.count("qk_nope_head_dim", HEAD_DIM_MAX)?.unwrap_or(64);
    let rope = fields.count("qk_rope_head_dim", HEAD_DIM_MAX)?.unwrap_or(32);
    let lora = u64::from(fields.count("kv_lora_rank", WIDTH_MAX)?.unwrap_or(256));
    let q_lora = match fields.is_present("q_lora_rank") {
        true => fields.required(&["q_lora_rank"], WIDTH_MAX)?,
        false => 768,
    };
    decoder.dims.head_dim = nope.saturating_add(rope);
    let dims = &decoder.dims;
    let (hidden, heads, q_lora) = (dims.hidden.into(), u64::from(dims.heads), u64::from(q_lora));
    let (value, key, nope) = (u64::from(value_dim), u64::from(dims.head_dim), u64::from(nope));
    builder.dims = dims.clone();
    builder.vocabulary("model.embed_tokens", dims.vocab, hidden);
    for layer in 0..dims.layers {
        builder.scope(&format!("model.layers.{layer}"), |b| {
            b.scope("self_attn", |b| {
                b.linear("q_a_proj", Linear::replicated(hidden, q_lora));
                b.rms_norm("q_a_layernorm", q_lora);
                b.linear("q_b_proj", Linear::column(q_lora, heads.saturating_mul(key)));
                let latent = lora.saturating_add(rope.into());
                b.linear("kv_a_proj_with_mqa", Linear::replicated(hidden, latent));
                b.rms_norm("kv_a_layernorm", lora);
                let wide = heads.saturating_mul(nope.saturating_add(value));
                b.linear("kv_b_proj", Linear::column(lora, wide));
                b.linear("o_proj", Linear::row(heads.saturating_mul(value), hidden));
            });
            b.scope("mlp", |b| gated_mlp(b, hidden, dims.inner.into(), false));
            b.rms_norm("input_layernorm", hidden);
            b.rms_norm("post_attention_layernorm", hidden);
        });
        builder.cache(layer, decoder.cache(layer));
    }
    builder.rms_norm("model.norm", hidden);
    if !decoder.tied {
        builder.head("lm_head", dims.vocab, hidden, false);
    }
    Ok(())
}
