//! Decoders that run the same layers several times: one set of weights, a cache for every run.

use super::Family;
use super::limits::{LAYERS_MAX, TOKENS_MAX};
use super::parts::{Windows, attention_cache, dims, gated_mlp};
use super::sliding::{Class, Decoder, HeadDim, KvHeads, tied};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::Reach;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["HrmTextForCausalLM"], model_types: &["hrm_text"], rule: hrm_text },
    Family {
        architectures: &["IQuestLoopCoderForCausalLM"],
        model_types: &["iquestloopcoder"],
        rule: loop_coder,
    },
];

/// vLLM 0.32 `iquest_loopcoder.py`: Llama run `loop_num` times. The first run sees everything, the
/// later ones a window of their own and, through a gate, what the first run kept.
fn loop_coder(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let declared = dims(fields, None)?;
    let head_dim = declared.hidden / declared.heads;
    let dims = Dims { head_dim, ..declared };
    let loops = fields.count("loop_num", LAYERS_MAX)?.unwrap_or(2);
    let runs = runs(fields, "loop_num", [loops, dims.layers])?;
    let window = fields.count("loop_window_size", TOKENS_MAX)?.unwrap_or(64);
    let windows = Windows::read(fields, dims.layers, None)?;
    Decoder::new(dims.clone(), &windows, tied(config, false)?).build(b);
    b.caches.clear();
    for run in 0..runs {
        let reach = if run < dims.layers { windows.uniform() } else { Reach::Window(window) };
        b.cache(run, attention_cache(&dims, reach));
    }
    for layer in 0..dims.layers {
        let gate = Linear::column(head_dim.into(), dims.heads.into()).bias(true);
        b.linear(&format!("model.gate_projections.{layer}.gate_proj"), gate);
    }
    Ok(())
}

/// Layers times their runs.
fn runs(fields: &Fields<'_>, name: &str, factors: [u32; 2]) -> Result<u32> {
    let runs = factors[0].saturating_mul(factors[1]);
    if runs <= LAYERS_MAX {
        return Ok(runs);
    }
    let problem = format!("{runs} runs of layers; at most {LAYERS_MAX} are read");
    Err(wrong(fields.path(name), problem))
}

/// vLLM 0.32 `hrm_text.py`: a low and a high stack of layers. In each of `H_cycles`, the low stack
/// runs `L_cycles` times and the high one once.
fn hrm_text(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    const CLASS: Class = Class {
        layers: 16,
        hidden: 1536,
        inner: 4096,
        heads: 12,
        kv_heads: KvHeads::Heads,
        head_dim: HeadDim::Number(128),
        vocab: 151_808,
        tokens_max: 2048,
    };
    let fields = &config.text;
    let mut dims = CLASS.dims(fields)?;
    dims.kv_heads = dims.heads;
    // Where absent, `num_hidden_layers` is the layers of one stack, else those of all runs.
    let stack = fields.count("num_layers_per_stack", LAYERS_MAX)?.unwrap_or(dims.layers);
    let high = fields.count("H_cycles", LAYERS_MAX)?.unwrap_or(2);
    let low = fields.count("L_cycles", LAYERS_MAX)?.unwrap_or(3);
    dims.layers = runs(fields, "H_cycles", [high.saturating_mul(low + 1), stack])?;
    let biases = [fields.flag("attention_bias", false)?, fields.flag("mlp_bias", false)?];
    let windows = Windows::read(fields, dims.layers, None)?;
    b.dims = dims.clone();
    b.scope("model", |b| {
        b.vocabulary("embed_tokens", dims.vocab, dims.hidden);
        for module in ["L_module", "H_module"] {
            for layer in 0..stack {
                b.scope(&format!("{module}.layers.{layer}"), |b| hrm_layer(b, &dims, biases));
            }
        }
        b.param("z_L_init", Param::whole(dims.hidden.into()));
    });
    if !tied(config, false)? {
        b.head("lm_head", dims.vocab, dims.hidden, false);
    }
    for run in 0..dims.layers {
        b.cache(run, attention_cache(&dims, windows.uniform()));
    }
    Ok(())
}

/// Its norms have no weights.
fn hrm_layer(b: &mut Builder, dims: &Dims, [attention_bias, mlp_bias]: [bool; 2]) {
    let hidden = u64::from(dims.hidden);
    let width = u64::from(dims.heads).saturating_mul(dims.head_dim.into());
    b.scope("self_attn", |b| {
        let gqkv = Linear::merged(hidden, [width; 4]).bias(attention_bias);
        b.linear("gqkv_proj", gqkv);
        b.linear("o_proj", Linear::row(width, hidden).bias(attention_bias));
    });
    b.scope("mlp", |b| gated_mlp(b, hidden, dims.inner.into(), mlp_bias));
}
