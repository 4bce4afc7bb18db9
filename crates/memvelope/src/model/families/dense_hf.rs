//! Decoders that vLLM 0.32 runs in transformers' own code (`models/transformers`): listed in its
//! registry, or absent there and known to transformers.
//!
//! It merges queries, keys and values, and gate and up, where it finds them, and divides them over
//! the ranks; other matrices follow the class's plan, or are whole on every rank where it has none.
//! The output matrix is built without a bias.

use super::Family;
use super::dense::{Decoder, LLAMA_NAMES, Mlp, Names, Norm, Packed, QkNorm};
use super::dense_class::{Class, GPT_KEYS, HeadDim, Inner, KvHeads, LLAMA, sized};
use super::parts::Windows;
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields};
use crate::model::weights::module::Param;

pub(super) static FAMILIES: &[Family] = &[
    Family { architectures: &["ArceeForCausalLM"], model_types: &["arcee"], rule: arcee },
    Family { architectures: &["BioGptForCausalLM"], model_types: &["biogpt"], rule: biogpt },
    Family { architectures: &["BitNetForCausalLM"], model_types: &["bitnet"], rule: bitnet },
    Family { architectures: &["CTRLLMHeadModel"], model_types: &["ctrl"], rule: ctrl },
    Family { architectures: &["CwmForCausalLM"], model_types: &["cwm"], rule: cwm },
    Family { architectures: &["GlmForCausalLM"], model_types: &["glm"], rule: glm },
    Family {
        architectures: &["GPTBigCodeForCausalLM"],
        model_types: &["gpt_bigcode"],
        rule: bigcode,
    },
    Family { architectures: &["GPTNeoXForCausalLM"], model_types: &["gpt_neox"], rule: neox },
    Family { architectures: &["HeliumForCausalLM"], model_types: &["helium"], rule: helium },
    Family {
        architectures: &["HunYuanDenseV1ForCausalLM"],
        model_types: &["hunyuan_v1_dense"],
        rule: hunyuan,
    },
    Family { architectures: &["Jais2ForCausalLM"], model_types: &["jais2"], rule: jais },
    Family {
        architectures: &["MinistralForCausalLM"],
        model_types: &["ministral"],
        rule: ministral,
    },
    Family { architectures: &["NanoChatForCausalLM"], model_types: &["nanochat"], rule: nanochat },
    Family { architectures: &["OlmoForCausalLM"], model_types: &["olmo"], rule: olmo },
    Family { architectures: &["Olmo2ForCausalLM"], model_types: &["olmo2"], rule: olmo2 },
    Family {
        architectures: &["PersimmonForCausalLM"],
        model_types: &["persimmon"],
        rule: persimmon,
    },
    Family { architectures: &["PhiForCausalLM"], model_types: &["phi"], rule: phi },
    Family { architectures: &["SeedOssForCausalLM"], model_types: &["seed_oss"], rule: seed },
    Family { architectures: &["SmolLM3ForCausalLM"], model_types: &["smollm3"], rule: smollm },
    Family {
        architectures: &["Starcoder2ForCausalLM"],
        model_types: &["starcoder2"],
        rule: starcoder,
    },
];

const ARCEE: Class = Class { tokens: 4096, ..sized(2560, 32, 32, 18432, 32000) };
const BIOGPT: Class = Class {
    head_dim: HeadDim::Ratio,
    kv_heads: KvHeads::Same,
    tokens: 1024,
    tied: true,
    ..sized(1024, 24, 16, 4096, 42384)
};
const BITNET: Class =
    Class { kv_heads: KvHeads::Own(5), tokens: 2048, ..sized(2560, 30, 20, 6912, 128_256) };
const CTRL: Class = Class {
    keys: GPT_KEYS,
    head_dim: HeadDim::Ratio,
    kv_heads: KvHeads::Same,
    inner: Inner::Field("dff", 8192),
    tokens: 256,
    tied: true,
    ..sized(1280, 48, 16, 0, 246_534)
};
const CWM: Class = Class {
    kv_heads: KvHeads::Own(8),
    head_dim: HeadDim::Own(128),
    tokens: 131_072,
    ..sized(6144, 64, 48, 21504, 128_256)
};
const GLM: Class = Class {
    kv_heads: KvHeads::Own(2),
    head_dim: HeadDim::Own(128),
    tokens: 131_072,
    ..sized(4096, 40, 32, 13696, 151_552)
};
const BIGCODE: Class = Class {
    keys: GPT_KEYS,
    head_dim: HeadDim::Ratio,
    kv_heads: KvHeads::Same,
    inner: Inner::FieldOrFourfold("n_inner"),
    tokens: 1024,
    tied: true,
    ..sized(768, 12, 12, 0, 50257)
};
const NEOX: Class = Class {
    head_dim: HeadDim::Ratio,
    kv_heads: KvHeads::Same,
    tokens: 2048,
    ..sized(6144, 44, 64, 24576, 50432)
};
const HELIUM: Class = Class {
    kv_heads: KvHeads::Own(20),
    head_dim: HeadDim::Own(128),
    tokens: 4096,
    ..sized(2560, 24, 20, 7040, 48000)
};
const HUNYUAN: Class = Class { tokens: 2048, ..sized(4096, 32, 32, 11008, 290_943) };
const JAIS: Class = Class { tokens: 8192, ..sized(3328, 32, 26, 26624, 150_272) };
const MINISTRAL: Class =
    Class { kv_heads: KvHeads::Own(8), tokens: 131_072, ..sized(4096, 32, 32, 14336, 32000) };
const NANOCHAT: Class =
    Class { kv_heads: KvHeads::Own(6), tokens: 2048, ..sized(768, 12, 6, 8192, 50304) };
const OLMO: Class = Class { vocab: 50304, ..LLAMA };
const PERSIMMON: Class = Class {
    head_dim: HeadDim::Ratio,
    kv_heads: KvHeads::Same,
    tokens: 16384,
    ..sized(4096, 36, 64, 16384, 262_144)
};
const PHI: Class = Class { tokens: 2048, ..sized(2048, 24, 32, 8192, 51200) };
const SEED: Class = Class {
    kv_heads: KvHeads::Own(8),
    head_dim: HeadDim::Own(128),
    tokens: 524_288,
    ..sized(4096, 64, 80, 27648, 155_136)
};
const SMOLLM: Class = Class {
    kv_heads: KvHeads::Own(4),
    tokens: 32768,
    tied: true,
    ..sized(2048, 36, 16, 11008, 128_256)
};
const STARCODER: Class = Class {
    kv_heads: KvHeads::Own(2),
    tokens: 4096,
    tied: true,
    ..sized(3072, 30, 24, 12288, 49152)
};

const PLAIN_NAMES: Names = Names { up: "up_proj", ..LLAMA_NAMES };
/// Megatron's names.
const NEOX_NAMES: Names = Names {
    embedding: "model.embed_in",
    attention: "attention",
    qkv: "query_key_value",
    out: "dense",
    up: "dense_h_to_4h",
    down: "dense_4h_to_h",
    norm: "model.final_layer_norm",
    ..LLAMA_NAMES
};

/// `attention_bias` on all matrices of the attention, `mlp_bias` on those of the MLP.
fn biased(fields: &Fields<'_>, class: &Class, default: bool) -> Result<Decoder> {
    let bias = fields.flag("attention_bias", default)?;
    let mlp_bias = fields.flag("mlp_bias", default)?;
    Ok(Decoder::new(fields, class)?.biases(bias, bias, mlp_bias))
}

fn arcee(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let decoder = biased(&config.text, &ARCEE, false)?;
    Decoder { mlp: Mlp::Plain, names: PLAIN_NAMES, ..decoder }.build(builder);
    Ok(())
}

/// Its position table starts at row 2. No plan: only keys and values are found to be alike.
fn biogpt(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        positions: "model.embed_positions",
        qkv: "q_proj",
        out: "out_proj",
        mlp: "",
        up: "fc1",
        down: "fc2",
        norms: &["self_attn_layer_norm", "final_layer_norm"],
        norm: "model.layer_norm",
        ..LLAMA_NAMES
    };
    let decoder = Decoder::classic(&config.text, &BIOGPT)?.biases(true, true, true);
    let positions = u64::from(decoder.dims.tokens_max.unwrap_or(0)).saturating_add(2);
    let (packed, mlp) = (Packed::KeysColumn, Mlp::Replicated);
    Decoder { names: NAMES, positions, packed, mlp, ..decoder }.build(builder);
    Ok(())
}

/// Norms inside attention and MLP, before the last matrix of each.
fn bitnet(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let bias = config.text.flag("attention_bias", false)?;
    let decoder = Decoder::new(&config.text, &BITNET)?.biases(bias, bias, false);
    let dims = &decoder.dims;
    let extra = vec![
        ("self_attn.attn_sub_norm", Param::whole(dims.hidden.into())),
        ("mlp.ffn_sub_norm", Param::whole(dims.inner.into())),
    ];
    Decoder { extra, mlp: Mlp::GatedWholeDown, ..decoder }.build(builder);
    Ok(())
}

/// No plan, and matrices that are not found to be attention: nothing is divided.
fn ctrl(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        embedding: "model.w",
        layers: "model.h",
        attention: "multi_head_attention",
        qkv: "qkv_proj",
        out: "dense",
        mlp: "ffn",
        up: "0",
        down: "2",
        norms: &["layernorm1", "layernorm2"],
        norm: "model.layernorm",
        ..LLAMA_NAMES
    };
    let decoder = Decoder::classic(&config.text, &CTRL)?.biases(true, true, true);
    let packed = Packed::Replicated;
    Decoder { names: NAMES, packed, mlp: Mlp::Replicated, ..decoder }.build(builder);
    Ok(())
}

/// Every fourth layer from the first sees everything.
fn cwm(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let decoder = Decoder::new(fields, &CWM)?;
    let layers = decoder.dims.layers;
    let windows = Windows::read(fields, layers, Some(8192))?;
    let windows = windows.or_types(layers, |layer| !layer.is_multiple_of(4));
    let mlp_bias = fields.flag("mlp_bias", false)?;
    decoder.windows(&windows).biases(false, false, mlp_bias).build(builder);
    Ok(())
}

fn glm(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let qkv_bias = config.text.flag("attention_bias", true)?;
    Decoder { qkv_bias, ..Decoder::new(&config.text, &GLM)? }.build(builder);
    Ok(())
}

/// No plan: only what is found to be attention is divided.
fn bigcode(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        embedding: "model.wte",
        positions: "model.wpe",
        layers: "model.h",
        attention: "attn",
        qkv: "c_attn",
        out: "c_proj",
        up: "c_fc",
        down: "c_proj",
        norms: &["ln_1", "ln_2"],
        norm: "model.ln_f",
        ..LLAMA_NAMES
    };
    let fields = &config.text;
    let mut decoder = Decoder::classic(fields, &BIGCODE)?.biases(true, true, true);
    let is_multi_query = fields.flag("multi_query", true)?;
    decoder.packed = if is_multi_query { Packed::ByHead } else { Packed::Replicated };
    if is_multi_query {
        decoder.dims.kv_heads = 1;
    }
    decoder.positions = u64::from(decoder.dims.tokens_max.unwrap_or(0));
    Decoder { names: NAMES, mlp: Mlp::Replicated, ..decoder }.build(builder);
    Ok(())
}

fn neox(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let bias = config.text.flag("attention_bias", true)?;
    let decoder = Decoder::classic(&config.text, &NEOX)?.biases(bias, bias, true);
    Decoder { names: NEOX_NAMES, packed: Packed::Column, ..decoder }.build(builder);
    Ok(())
}

fn helium(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let decoder = biased(&config.text, &HELIUM, false)?;
    Decoder { out_bias: false, ..decoder }.build(builder);
    Ok(())
}

fn hunyuan(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names { qk_norms: ["query_layernorm", "key_layernorm"], ..LLAMA_NAMES };
    let bias = config.text.flag("attention_bias", false)?;
    let decoder = Decoder::new(&config.text, &HUNYUAN)?.biases(bias, bias, false);
    Decoder { names: NAMES, qk_norm: QkNorm::PerHead, ..decoder }.build(builder);
    Ok(())
}

fn jais(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let decoder = biased(&config.text, &JAIS, true)?;
    Decoder { mlp: Mlp::Plain, norm: Norm::Layer, names: PLAIN_NAMES, ..decoder }.build(builder);
    Ok(())
}

/// All layers have the window where `layer_types` is absent.
fn ministral(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let decoder = Decoder::new(&config.text, &MINISTRAL)?;
    let layers = decoder.dims.layers;
    let windows = Windows::read(&config.text, layers, Some(4096))?;
    let slides = windows.window.is_some();
    decoder.windows(&windows.or_types(layers, |_| slides)).build(builder);
    Ok(())
}

fn nanochat(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names { up: "fc1", down: "fc2", ..LLAMA_NAMES };
    let bias = config.text.flag("attention_bias", false)?;
    let decoder = Decoder::new(&config.text, &NANOCHAT)?.biases(bias, bias, false);
    Decoder { mlp: Mlp::Plain, norm: Norm::Bare, names: NAMES, ..decoder }.build(builder);
    Ok(())
}

fn olmo(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let bias = config.text.flag("attention_bias", false)?;
    let decoder = Decoder::new(&config.text, &OLMO)?.biases(bias, bias, false);
    Decoder { norm: Norm::Bare, ..decoder }.build(builder);
    Ok(())
}

fn olmo2(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names =
        Names { norms: &["post_attention_layernorm", "post_feedforward_layernorm"], ..LLAMA_NAMES };
    let bias = config.text.flag("attention_bias", false)?;
    let decoder = Decoder::new(&config.text, &OLMO)?.biases(bias, bias, false);
    Decoder { names: NAMES, qk_norm: QkNorm::Whole, ..decoder }.build(builder);
    Ok(())
}

/// No plan, and queries, keys and values interleaved by head: nothing is divided.
fn persimmon(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        embedding: "model.embed_tokens",
        attention: "self_attn",
        qk_norms: ["q_layernorm", "k_layernorm"],
        norm: "model.final_layernorm",
        ..NEOX_NAMES
    };
    let decoder = Decoder::classic(&config.text, &PERSIMMON)?.biases(true, true, true);
    let qk_norm = head_norm(&config.text, true)?;
    let mlp = Mlp::Replicated;
    Decoder { names: NAMES, packed: Packed::Replicated, qk_norm, mlp, ..decoder }.build(builder);
    Ok(())
}

fn phi(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        out: "dense",
        qk_norms: ["q_layernorm", "k_layernorm"],
        up: "fc1",
        down: "fc2",
        norms: &["input_layernorm"],
        norm: "model.final_layernorm",
        ..LLAMA_NAMES
    };
    let decoder = Decoder::classic(&config.text, &PHI)?.biases(true, true, true);
    let qk_norm = head_norm(&config.text, false)?;
    Decoder { names: NAMES, qk_norm, ..decoder }.build(builder);
    Ok(())
}

/// `qk_layernorm`: a layer norm of one head's width.
fn head_norm(fields: &Fields<'_>, default: bool) -> Result<QkNorm> {
    let is_on = fields.flag("qk_layernorm", default)?;
    Ok(if is_on { QkNorm::PerHead } else { QkNorm::None })
}

fn seed(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let decoder = Decoder::new(fields, &SEED)?.biases(
        fields.flag("attention_bias", true)?,
        fields.flag("attention_out_bias", false)?,
        fields.flag("mlp_bias", false)?,
    );
    decoder.build(builder);
    Ok(())
}

/// Where windows are on, layers without rotary positions have one: every fourth, or as
/// `no_rope_layers` says.
fn smollm(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let decoder = biased(fields, &SMOLLM, false)?;
    let layers = decoder.dims.layers;
    let mut windows = Windows::read(fields, layers, None)?;
    let is_on = fields.flag("use_sliding_window", false)? && windows.window.is_some();
    let has_rope = fields.counts("no_rope_layers", 1)?;
    let interval = fields.count_or("no_rope_layer_interval", 4, u32::MAX)?.max(1);
    windows = windows.or_types(layers, |layer| {
        let declared = has_rope.as_ref().and_then(|list| list.get(layer as usize));
        is_on && declared.map_or((layer + 1).is_multiple_of(interval), |&rope| rope == 0)
    });
    decoder.windows(&windows).build(builder);
    Ok(())
}

fn starcoder(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names { up: "c_fc", down: "c_proj", ..LLAMA_NAMES };
    let bias = config.text.flag("use_bias", true)?;
    let decoder = Decoder::classic(&config.text, &STARCODER)?.biases(bias, bias, bias);
    Decoder { names: NAMES, ..decoder }.build(builder);
    Ok(())
}
