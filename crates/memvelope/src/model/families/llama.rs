//! Llama and what is built like it: full attention, RMS norms, a gated MLP.

use super::Family;
use super::parts::{AttentionParts, attention_cache, dims, gated_mlp};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::Reach;
use crate::model::hf_config::Config;
use crate::model::weights::module::Param;

pub(super) static FAMILIES: &[Family] = &[
    Family {
        architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
        model_types: &["llama"],
        rule: llama,
    },
    Family { architectures: &["Qwen3ForCausalLM"], model_types: &["qwen3"], rule: qwen3 },
];

fn llama(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = dims(fields, None)?;
    let bias = fields.flag("attention_bias", false)?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    let tied = fields.flag("tie_word_embeddings", false)?;
    decoder(builder, &dims, [bias, bias, mlp_bias], tied, false);
    Ok(())
}

fn qwen3(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let dims = dims(fields, Some(128))?;
    let bias = fields.flag("attention_bias", false)?;
    let tied = fields.flag("tie_word_embeddings", false)?;
    decoder(builder, &dims, [bias, bias, false], tied, true);
    Ok(())
}

/// `biases`: of query, key and value; of the attention's output; of the MLP.
fn decoder(builder: &mut Builder, dims: &Dims, biases: [bool; 3], tied: bool, qk_norm: bool) {
    builder.dims = dims.clone();
    let (hidden, inner) = (u64::from(dims.hidden), u64::from(dims.inner));
    builder.vocabulary("model.embed_tokens", dims.vocab, hidden);
    for layer in 0..dims.layers {
        builder.scope(&format!("model.layers.{layer}"), |b| {
            b.scope("self_attn", |b| {
                let attention = AttentionParts {
                    qkv_bias: biases[0],
                    out_bias: biases[1],
                    ..AttentionParts::of(dims)
                };
                attention.build(b, "o_proj");
                if qk_norm {
                    b.param("q_norm", Param::whole(dims.head_dim.into()));
                    b.param("k_norm", Param::whole(dims.head_dim.into()));
                }
            });
            b.scope("mlp", |b| gated_mlp(b, hidden, inner, biases[2]));
            b.rms_norm("input_layernorm", hidden);
            b.rms_norm("post_attention_layernorm", hidden);
        });
        builder.cache(layer, attention_cache(dims, Reach::Full));
    }
    builder.rms_norm("model.norm", hidden);
    if !tied {
        builder.head("lm_head", dims.vocab, hidden, false);
    }
}
