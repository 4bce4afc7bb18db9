//! Llama and what vLLM 0.32 builds alike: RMS norms, a gated MLP, the usual names.

use super::Family;
use super::dense::{Decoder, LLAMA_NAMES, Names, QkNorm, activation};
use super::dense_class::Inner;
use super::dense_class::{Class, FOREIGN, HeadDim, KEYS, Keys, KvHeads, LLAMA, sized};
use super::parts::Windows;
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};

pub(super) static FAMILIES: &[Family] = &[
    Family {
        architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
        model_types: &["llama"],
        rule: |config, b| llama(config, b, &LLAMA),
    },
    // Built by the same class; their config classes lie beside their checkpoints.
    Family {
        architectures: &[
            "InternLM3ForCausalLM",
            "IQuestCoderForCausalLM",
            "TeleChat3ForCausalLM",
            "TeleFLMForCausalLM",
            "SolarForCausalLM",
        ],
        model_types: &["internlm3", "iquestcoder", "telechat3", "TeleFLM", "solar"],
        rule: |config, b| llama(config, b, &FOREIGN),
    },
    Family { architectures: &["MistralForCausalLM"], model_types: &["mistral"], rule: mistral },
    Family {
        architectures: &["Ministral3ForCausalLM"],
        model_types: &["ministral3"],
        rule: |config, b| llama(config, b, &MINISTRAL3),
    },
    Family {
        architectures: &["Phi3ForCausalLM"],
        model_types: &["phi3"],
        rule: |config, b| llama(config, b, &PHI3),
    },
    Family {
        architectures: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"],
        model_types: &["ernie4_5"],
        rule: ernie,
    },
    Family { architectures: &["TeleChat2ForCausalLM"], model_types: &["telechat"], rule: telechat },
    Family {
        architectures: &["GraniteForCausalLM"],
        model_types: &["granite"],
        rule: |config, b| granite(config, b, &GRANITE),
    },
    Family {
        architectures: &["GraniteSWAForCausalLM"],
        model_types: &["granite_swa"],
        rule: granite_swa,
    },
    Family {
        architectures: &["HyperCLOVAXForCausalLM"],
        model_types: &["hyperclovax"],
        rule: clova,
    },
    Family { architectures: &["Qwen2ForCausalLM"], model_types: &["qwen2"], rule: qwen2 },
    Family { architectures: &["MiMoForCausalLM"], model_types: &["mimo"], rule: qwen2 },
    Family { architectures: &["Qwen3ForCausalLM"], model_types: &["qwen3"], rule: qwen3 },
    Family { architectures: &["GemmaForCausalLM"], model_types: &["gemma"], rule: gemma },
    Family { architectures: &["Glm4ForCausalLM"], model_types: &["glm4"], rule: glm4 },
    Family { architectures: &["Step1ForCausalLM"], model_types: &["step1"], rule: step1 },
    Family {
        architectures: &["PanguEmbeddedForCausalLM"],
        model_types: &["PanguEmbedded"],
        rule: pangu,
    },
];

const MISTRAL: Class = Class { tokens: 4096 * 32, kv_heads: KvHeads::Own(8), ..wide(14336, 32000) };
const MINISTRAL3: Class = Class {
    layers: 34,
    tokens: 262_144,
    kv_heads: KvHeads::Own(8),
    head_dim: HeadDim::Own(128),
    ..wide(14336, 131_072)
};
const PHI3: Class = Class { tokens: 4096, ..sized(3072, 32, 32, 8192, 32064) };
const ERNIE: Class = Class {
    kv_heads: KvHeads::Own(2),
    head_dim: HeadDim::Own(128),
    tokens: 131_072,
    tied: true,
    ..sized(1024, 18, 16, 3072, 103_424)
};
const GRANITE: Class = Class { tokens: 2048, ..wide(11008, 32000) };
const GRANITE_SWA: Class = Class {
    kv_heads: KvHeads::Own(4),
    tokens: 8192,
    tied: true,
    ..sized(2560, 24, 20, 8192, 100_352)
};
const QWEN2: Class = Class {
    kv_heads: KvHeads::Own(32),
    head_dim: HeadDim::Ratio,
    tokens: 32768,
    ..wide(22016, 151_936)
};
const QWEN3: Class = Class { head_dim: HeadDim::Own(128), ..QWEN2 };
const GEMMA: Class = Class {
    kv_heads: KvHeads::Own(16),
    head_dim: HeadDim::Own(256),
    tokens: 8192,
    tied: true,
    ..sized(3072, 28, 16, 24576, 256_000)
};
const GLM4: Class = Class {
    kv_heads: KvHeads::Own(2),
    head_dim: HeadDim::Own(128),
    tokens: 131_072,
    ..sized(4096, 40, 32, 13696, 151_552)
};
/// Declared as `num_attention_groups`; without, one KV head.
const STEP1: Class = Class {
    keys: Keys { kv_heads: &["num_attention_groups", "num_key_value_heads"], ..KEYS },
    kv_heads: KvHeads::Own(1),
    head_dim: HeadDim::Ratio,
    tied: true,
    ..FOREIGN
};
const TELECHAT: Class = Class {
    keys: Keys {
        layers: &["n_layer", "num_hidden_layers"],
        heads: &["n_head", "num_attention_heads"],
        tokens: &["seq_length", "max_position_embeddings"],
        ..KEYS
    },
    inner: Inner::Field("ffn_hidden_size", 0),
    ..FOREIGN
};

/// The size that many classes took over from Llama.
const fn wide(inner: u32, vocab: u32) -> Class {
    sized(4096, 32, 32, inner, vocab)
}

/// What `LlamaDecoderLayer` reads (`llama.py`).
fn like_llama<'a>(fields: &Fields<'a>, class: &Class, windows: &Windows<'a>) -> Result<Decoder> {
    activation(fields, "hidden_act", &["silu"])?;
    let bias = fields.flag("attention_bias", false)? || fields.flag("bias", false)?;
    let qkv_bias = fields.flag("qkv_bias", bias)?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    let decoder = Decoder::new(fields, class)?.biases(qkv_bias, bias, mlp_bias);
    Ok(decoder.windows(windows))
}

fn plain_windows<'a>(fields: &Fields<'a>, class: &Class) -> Result<Windows<'a>> {
    Windows::read(fields, class.dims(fields)?.layers, None)
}

fn llama(config: &Config<'_>, builder: &mut Builder, class: &Class) -> Result<()> {
    let windows = plain_windows(&config.text, class)?;
    like_llama(&config.text, class, &windows)?.build(builder);
    Ok(())
}

fn mistral(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let windows = Windows::read(fields, MISTRAL.dims(fields)?.layers, Some(4096))?;
    like_llama(fields, &MISTRAL, &windows)?.build(builder);
    Ok(())
}

/// `use_bias` is the class's `attention_bias` and `mlp_bias`; vLLM drops the bias of `o_proj`.
fn ernie(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let windows = plain_windows(&config.text, &ERNIE)?;
    let decoder = like_llama(&config.text, &ERNIE, &windows)?;
    Decoder { out_bias: false, ..decoder }.build(builder);
    Ok(())
}

/// Biases outward only.
fn telechat(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let decoder = Decoder::new(&config.text, &TELECHAT)?;
    Decoder { out_bias: true, down_bias: true, ..decoder }.build(builder);
    Ok(())
}

fn granite(config: &Config<'_>, builder: &mut Builder, class: &Class) -> Result<()> {
    let fields = &config.text;
    let windows = plain_windows(fields, class)?;
    granite_with(fields, class, &windows)?.build(builder);
    Ok(())
}

fn granite_swa(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let layers = GRANITE_SWA.dims(fields)?.layers;
    let windows = Windows::read(fields, layers, Some(128))?;
    let windows = windows.or_types(layers, |layer| !layer.is_multiple_of(4));
    granite_with(fields, &GRANITE_SWA, &windows)?.build(builder);
    Ok(())
}

/// Attention sinks unless it says otherwise, where `layer_types` are known (`granite.py`).
fn granite_with<'a>(fields: &Fields<'a>, class: &Class, windows: &Windows<'a>) -> Result<Decoder> {
    let mut decoder = like_llama(fields, class, windows)?;
    decoder.qkv_bias = decoder.out_bias;
    if fields.flag("attention_sinks", windows.types.is_some())? {
        decoder.add_sinks();
    }
    Ok(decoder)
}

fn clova(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const POST_NORMS: Names = Names {
        norms: &["input_layernorm", "post_attention_layernorm", "post_norm1", "post_norm2"],
        ..LLAMA_NAMES
    };
    let fields = &config.text;
    activation(fields, "hidden_act", &["silu"])?;
    let bias = fields.flag("attention_bias", false)?;
    let decoder = Decoder::new(fields, &LLAMA)?.biases(bias, bias, fields.flag("mlp_bias", false)?);
    let names = if fields.flag("use_post_norm", true)? { POST_NORMS } else { LLAMA_NAMES };
    Decoder { names, ..decoder }.build(builder);
    Ok(())
}

/// Qwen's classes read no entry of `layer_types`: all layers have a window, or none (`qwen2.py`).
fn qwen<'a>(fields: &Fields<'a>, class: &Class) -> Result<Decoder> {
    activation(fields, "hidden_act", &["silu"])?;
    let decoder = Decoder::new(fields, class)?;
    let layers = decoder.dims.layers;
    let windows = Windows::switched(fields, layers)?;
    let types = windows.types.as_deref().unwrap_or_default();
    let is_mixed = types.iter().any(|kind| Some(kind) != types.first());
    if is_mixed && fields.count_or("max_window_layers", 28, u32::MAX)? != layers {
        let problem = "windows in some layers only, which vLLM does not serve for this model";
        return Err(wrong(fields.path("max_window_layers"), problem));
    }
    Ok(Decoder { reaches: vec![windows.uniform()], ..decoder })
}

fn qwen2(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let decoder = qwen(&config.text, &QWEN2)?;
    let qk_norm = match config.text.flag("qk_norm", false)? {
        true => QkNorm::PerHead,
        false => QkNorm::None,
    };
    Decoder { qkv_bias: true, qk_norm, ..decoder }.build(builder);
    Ok(())
}

fn qwen3(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let decoder = qwen(&config.text, &QWEN3)?;
    let qkv_bias = config.text.flag("attention_bias", false)?;
    Decoder { qkv_bias, qk_norm: QkNorm::PerHead, ..decoder }.build(builder);
    Ok(())
}

fn gemma(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    Decoder::new(&config.text, &GEMMA)?.build(builder);
    Ok(())
}

fn glm4(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const NAMES: Names = Names {
        norms: &[
            "input_layernorm",
            "post_attention_layernorm",
            "post_self_attn_layernorm",
            "post_mlp_layernorm",
        ],
        ..LLAMA_NAMES
    };
    let decoder = Decoder::new(&config.text, &GLM4)?;
    let qkv_bias = config.text.flag("attention_bias", true)?;
    Decoder { qkv_bias, names: NAMES, ..decoder }.build(builder);
    Ok(())
}

fn step1(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let bias = fields.flag("attention_bias", false)?;
    let mlp_bias = fields.flag("mlp_bias", false)?;
    Decoder::new(fields, &STEP1)?.biases(bias, bias, mlp_bias).build(builder);
    builder.has_alibi = true;
    // By the root of the distance (vLLM 0.32 `step1.py`).
    builder.triton_only = true;
    Ok(())
}

/// The dense form of openPangu (`openpangu.py`).
fn pangu(config: &Config<'_>, builder: &mut Builder) -> Result<()> {
    const SANDWICH: Names = Names {
        norms: &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_mlp_layernorm",
            "post_mlp_layernorm",
        ],
        ..LLAMA_NAMES
    };
    let fields = &config.text;
    for name in ["kv_lora_rank", "n_routed_experts", "interleaved_sliding_window"] {
        if fields.value(name).is_some() {
            let problem = "there, which this version does not compute for this architecture";
            return Err(wrong(fields.path(name), problem));
        }
    }
    if fields.count_or_zero("param_sink_number", u32::MAX)? > 0 {
        let problem = "sink tokens, which this version does not compute";
        return Err(wrong(fields.path("param_sink_number"), problem));
    }
    let windows = plain_windows(fields, &FOREIGN)?;
    let mut decoder = like_llama(fields, &FOREIGN, &windows)?;
    decoder.reaches = vec![windows.uniform()];
    if fields.flag("sandwich_norm", false)? {
        decoder.names = SANDWICH;
    }
    decoder.build(builder);
    Ok(())
}
