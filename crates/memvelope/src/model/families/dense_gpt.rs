//! Older decoders with modules of their own names, mostly with layer norms and a plain MLP.

use super::Family;
use super::dense::{Decoder, LLAMA_NAMES, Mlp, Names, Norm, QkNorm, activation, flag_is};
use super::dense_class::{
    Class, FOREIGN, GPT_KEYS, HeadDim, Inner, KEYS, Keys, KvHeads, divides, sized,
};
use super::limits::{HEADS_MAX, WIDTH_MAX};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::cache::Reach;
use crate::model::hf_config::{Config, wrong};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["ApertusForCausalLM"], model_types: &["apertus"], rule: apertus },
    Family { architectures: &["BloomForCausalLM"], model_types: &["bloom"], rule: bloom },
    Family {
        architectures: &["ChatGLMModel", "ChatGLMForConditionalGeneration"],
        model_types: &["chatglm"],
        rule: chatglm,
    },
    Family { architectures: &["CohereForCausalLM"], model_types: &["cohere"], rule: cohere },
    Family { architectures: &["ExaoneForCausalLM"], model_types: &["exaone"], rule: exaone },
    Family {
        architectures: &["FalconForCausalLM"],
        model_types: &["falcon", "RefinedWeb", "RefinedWebModel"],
        rule: falcon,
    },
    Family { architectures: &["GPT2LMHeadModel"], model_types: &["gpt2", "gpt-sw3"], rule: gpt2 },
    Family { architectures: &["GPTJForCausalLM"], model_types: &["gptj"], rule: gptj },
    Family {
        architectures: &["InternLM2ForCausalLM"],
        model_types: &["internlm2"],
        rule: internlm2,
    },
    Family { architectures: &["NemotronForCausalLM"], model_types: &["nemotron"], rule: nemotron },
    Family { architectures: &["OPTForCausalLM"], model_types: &["opt"], rule: opt },
    Family { architectures: &["OrionForCausalLM"], model_types: &["orion"], rule: orion },
    Family { architectures: &["StableLmForCausalLM"], model_types: &["stablelm"], rule: stablelm },
];

const APERTUS: Class = Class { tokens: 65536, ..sized(4096, 32, 32, 14336, 131_072) };
const BLOOM: Class = Class {
    keys: Keys { hidden: &["n_embed", "hidden_size"], tokens: &["seq_length"], ..GPT_KEYS },
    inner: Inner::Fourfold,
    tied: true,
    ..old(64, 2, 8, 250_880)
};
const CHATGLM: Class = Class {
    keys: Keys {
        layers: &["num_layers", "num_hidden_layers"],
        vocab: &["padded_vocab_size"],
        tokens: &["seq_length"],
        ..KEYS
    },
    head_dim: HeadDim::Ratio,
    kv_heads: KvHeads::Same,
    inner: Inner::Field("ffn_hidden_size", 13696),
    tokens: 2048,
    ..sized(4096, 28, 32, 0, 65024)
};
const COHERE: Class = Class { tokens: 8192, tied: true, ..sized(8192, 40, 64, 22528, 256_000) };
const EXAONE: Class =
    Class { keys: Keys { layers: &["num_layers", "num_hidden_layers"], ..KEYS }, ..FOREIGN };
const FALCON: Class = Class {
    keys: Keys {
        hidden: &["n_embed", "hidden_size"],
        layers: &["num_hidden_layers", "n_layer"],
        heads: &["num_attention_heads", "n_head"],
        ..KEYS
    },
    inner: Inner::Fourfold,
    tokens: 2048,
    tied: true,
    ..old(4544, 32, 71, 65024)
};
const GPT2: Class = Class { tokens: 1024, tied: true, ..gpt(768, 12, 12, 50257) };
const GPTJ: Class = Class { tokens: 2048, ..gpt(4096, 28, 16, 50400) };
const NEMOTRON: Class = Class { tokens: 4096, ..sized(6144, 32, 48, 24576, 256_000) };
const OPT: Class = Class {
    inner: Inner::Field("ffn_dim", 3072),
    tokens: 2048,
    tied: true,
    ..old(768, 12, 12, 50272)
};
const STABLELM: Class = Class {
    head_dim: HeadDim::Ratio,
    kv_heads: KvHeads::Own(32),
    tokens: 4096,
    ..sized(2560, 32, 32, 6912, 50304)
};

/// As many KV heads as query heads, of the size that the hidden size leaves.
const fn old(hidden: u32, layers: u32, heads: u32, vocab: u32) -> Class {
    let class = sized(hidden, layers, heads, 0, vocab);
    Class { head_dim: HeadDim::Ratio, kv_heads: KvHeads::Same, ..class }
}

const fn gpt(hidden: u32, layers: u32, heads: u32, vocab: u32) -> Class {
    let class = old(hidden, layers, heads, vocab);
    Class { keys: GPT_KEYS, inner: Inner::FieldOrFourfold("n_inner"), ..class }
}

/// GPT-2's names.
const GPT_NAMES: Names = Names {
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    layers: "transformer.h",
    attention: "attn",
    qkv: "c_attn",
    out: "c_proj",
    up: "c_fc",
    down: "c_proj",
    norms: &["ln_1", "ln_2"],
    norm: "transformer.ln_f",
    ..LLAMA_NAMES
};

/// Megatron's names, as Bloom and Falcon took them over.
const MEGATRON_NAMES: Names = Names {
    embedding: "transformer.word_embeddings",
    layers: "transformer.h",
    attention: "self_attention",
    qkv: "query_key_value",
    out: "dense",
    up: "dense_h_to_4h",
    down: "dense_4h_to_h",
    norm: "transformer.ln_f",
    ..LLAMA_NAMES
};

fn apertus(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        up: "up_proj",
        norms: &["attention_layernorm", "feedforward_layernorm"],
        ..LLAMA_NAMES
    };
    let fields = &config.text;
    activation(fields, "hidden_act", &["xielu"])?;
    let windows = super::parts::Windows::read(fields, APERTUS.dims(fields)?.layers, None)?;
    let bias = fields.flag("attention_bias", false)? || fields.flag("bias", false)?;
    let decoder = Decoder::new(fields, &APERTUS)?.windows(&windows).biases(
        fields.flag("qkv_bias", bias)?,
        bias,
        fields.flag("mlp_bias", false)?,
    );
    // xIELU has two learned scalars.
    let extra = vec![("mlp.act_fn", Param::whole(2))];
    Decoder { mlp: Mlp::Plain, names: NAMES, qk_norm: QkNorm::PerHead, extra, ..decoder }
        .build(builder);
    Ok(())
}

fn bloom(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names =
        Names { embedding_norm: "transformer.word_embeddings_layernorm", ..MEGATRON_NAMES };
    let decoder = Decoder::classic(&config.text, &BLOOM)?.biases(true, true, true);
    Decoder { names: NAMES, ..decoder }.build(builder);
    builder.has_alibi = true;
    Ok(())
}

fn chatglm(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    if fields.value("vision_config").is_some() {
        let problem = "a vision tower, which this architecture does not serve";
        return Err(wrong(fields.path("vision_config"), problem));
    }
    chatglm_text(config, builder)
}

/// The language model of ChatGLM and GLM-4V.
pub(super) fn chatglm_text(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        embedding: "transformer.embedding",
        layers: "transformer.encoder.layers",
        norms: &["input_layernorm", "post_attention_layernorm"],
        norm: "transformer.encoder.final_layernorm",
        head: "transformer.output_layer",
        ..MEGATRON_NAMES
    };
    let fields = &config.text;
    let mut decoder = Decoder::new(fields, &CHATGLM)?;
    if fields.flag("multi_query_attention", false)? {
        const GROUPS: &str = "multi_query_group_num";
        let groups = fields.count(GROUPS, HEADS_MAX)?.unwrap_or(1);
        decoder.dims.kv_heads = divides(fields, GROUPS, groups, decoder.dims.heads)?;
    }
    let bias = fields.flag("add_bias_linear", false)?;
    let qkv_bias = bias || fields.flag("add_qkv_bias", false)?;
    decoder = decoder.biases(qkv_bias, bias, bias);
    decoder.names = NAMES;
    if !fields.flag("rmsnorm", true)? {
        decoder.norm = Norm::Layer;
    }
    if !fields.flag("post_layer_norm", true)? {
        decoder.names.norm = "";
    }
    decoder.build(builder);
    Ok(())
}

/// Tied, whatever is declared; norms have a weight alone.
fn cohere(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names { norms: &["input_layernorm"], ..LLAMA_NAMES };
    let decoder = Decoder::new(&config.text, &COHERE)?;
    let qk_norm = match config.text.flag("use_qk_norm", false)? {
        true => QkNorm::Divided,
        false => QkNorm::None,
    };
    Decoder { names: NAMES, tied: true, qk_norm, ..decoder }.build(builder);
    Ok(())
}

fn exaone(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        embedding: "transformer.wte",
        layers: "transformer.h",
        attention: "attn.attention",
        out: "out_proj",
        down: "c_proj",
        norms: &["ln_1", "ln_2"],
        norm: "transformer.ln_f",
        ..LLAMA_NAMES
    };
    let fields = &config.text;
    activation(fields, "activation_function", &["silu"])?;
    let bias = fields.flag("attention_bias", false)? || fields.flag("bias", false)?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    let decoder = Decoder::new(fields, &EXAONE)?.biases(bias, bias, mlp_bias);
    Decoder { names: NAMES, ..decoder }.build(builder);
    Ok(())
}

/// Three flags say how many norms a layer has and how many KV heads (`falcon.py`). Its attention is
/// built without the engine's cache options: no window of the model, no other dtype.
fn falcon(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    // Its layers are built without the cache's options (vLLM 0.32 `falcon.py`).
    builder.ignores_kv_dtype = true;
    builder.has_alibi = config.text.flag("alibi", false)?;
    const LN: &str = "num_ln_in_parallel_attn";
    let fields = &config.text;
    let is_old_type = fields.text("model_type")?.is_some_and(|name| name.starts_with("Refined"));
    let mut decoder = Decoder::classic(fields, &FALCON)?;
    // The older class knows the 40B model by its size alone.
    let is_new = fields.flag("new_decoder_architecture", false)?
        || (is_old_type && decoder.dims.hidden == 8192);
    let heads = decoder.dims.heads;
    let kv_heads = match is_new {
        true => {
            let absent = if is_old_type { 1 } else { heads };
            fields.count_of(&["num_kv_heads", "n_head_kv"], HEADS_MAX)?.unwrap_or(absent)
        }
        false if fields.flag("multi_query", true)? => 1,
        false => heads,
    };
    decoder.dims.kv_heads = divides(fields, "num_kv_heads", kv_heads, heads)?;
    let norms = fields.count(LN, 2)?.unwrap_or(if is_new { 2 } else { 1 });
    decoder.names = MEGATRON_NAMES;
    if fields.flag("parallel_attn", !is_old_type)? {
        decoder.names.norms =
            if norms == 2 { &["ln_attn", "ln_mlp"] } else { &["input_layernorm"] };
    }
    let bias = fields.flag("bias", false)?;
    decoder.reaches = vec![Reach::Full];
    decoder.biases(bias, bias, bias).build(builder);
    builder.ignores_kv_dtype = true;
    Ok(())
}

fn gpt2(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    for name in
        ["add_cross_attention", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"]
    {
        flag_is(fields, name, false, "not served by vLLM for this architecture")?;
    }
    let decoder = Decoder::classic(fields, &GPT2)?.biases(true, true, true);
    let positions = u64::from(decoder.dims.tokens_max.unwrap_or(0));
    Decoder { names: GPT_NAMES, positions, ..decoder }.build(builder);
    Ok(())
}

fn gptj(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        qkv: "qkv_proj",
        out: "out_proj",
        up: "fc_in",
        down: "fc_out",
        norms: &["ln_1"],
        ..GPT_NAMES
    };
    let fields = &config.text;
    flag_is(fields, "tie_word_embeddings", false, "not served by vLLM for this architecture")?;
    flag_is(fields, "rotary", true, "not served by vLLM for this architecture")?;
    let decoder = Decoder::classic(fields, &GPTJ)?.biases(false, false, true);
    Decoder { names: NAMES, head_bias: true, ..decoder }.build(builder);
    Ok(())
}

fn internlm2(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const CLASS: Class = Class { head_dim: HeadDim::Ratio, ..FOREIGN };
    const NAMES: Names = Names {
        embedding: "model.tok_embeddings",
        attention: "attention",
        qkv: "wqkv",
        out: "wo",
        mlp: "feed_forward",
        down: "w2",
        norms: &["attention_norm", "ffn_norm"],
        head: "output",
        ..LLAMA_NAMES
    };
    activation(&config.text, "hidden_act", &["silu"])?;
    Decoder { names: NAMES, ..Decoder::new(&config.text, &CLASS)? }.build(builder);
    Ok(())
}

fn nemotron(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names { up: "up_proj", ..LLAMA_NAMES };
    let fields = &config.text;
    let bias = fields.flag("attention_bias", false)? || fields.flag("bias", false)?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    let decoder = Decoder::classic(fields, &NEMOTRON)?.biases(bias, bias, mlp_bias);
    Decoder { names: NAMES, ..decoder }.build(builder);
    Ok(())
}

fn opt(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        embedding: "model.decoder.embed_tokens",
        positions: "model.decoder.embed_positions",
        layers: "model.decoder.layers",
        out: "out_proj",
        mlp: "",
        up: "fc1",
        down: "fc2",
        norms: &["self_attn_layer_norm", "final_layer_norm"],
        norm: "model.decoder.final_layer_norm",
        ..LLAMA_NAMES
    };
    let fields = &config.text;
    let bias = fields.flag("enable_bias", true)?;
    let mut decoder = Decoder::classic(fields, &OPT)?.biases(bias, bias, bias);
    decoder.names = NAMES;
    if !fields.flag("layer_norm_elementwise_affine", true)? {
        decoder.norm = Norm::Bare;
    }
    let is_before = fields.flag("do_layer_norm_before", true)?;
    if !is_before || fields.flag("_remove_final_layer_norm", false)? {
        decoder.names.norm = "";
    }
    // Its position table starts at row 2.
    decoder.positions = u64::from(decoder.dims.tokens_max.unwrap_or(0)).saturating_add(2);
    // The small sibling embeds in fewer dimensions than it computes in.
    let hidden = decoder.dims.hidden;
    let embedded = fields.count("word_embed_proj_dim", WIDTH_MAX)?.unwrap_or(hidden);
    if embedded == hidden {
        decoder.build(builder);
        return Ok(());
    }
    for (name, input, out) in [("project_out", hidden, embedded), ("project_in", embedded, hidden)]
    {
        let projection = Linear::replicated(input.into(), out.into());
        builder.linear(&format!("model.decoder.{name}"), projection);
    }
    decoder.embedded = Some(embedded.into());
    decoder.build(builder);
    Ok(())
}

fn orion(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const CLASS: Class = Class { head_dim: HeadDim::Ratio, ..FOREIGN };
    activation(&config.text, "hidden_act", &["silu"])?;
    Decoder { norm: Norm::Layer, ..Decoder::new(&config.text, &CLASS)? }.build(builder);
    Ok(())
}

fn stablelm(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let decoder = Decoder::new(&config.text, &STABLELM)?;
    let qkv_bias = config.text.flag("use_qkv_bias", false)?;
    Decoder { norm: Norm::Layer, qkv_bias, ..decoder }.build(builder);
    Ok(())
}
