//! The table of architectures: full attention in every layer, weights by one formula.
//!
//! A row says how an architecture departs from Llama; nothing here is about a single model.

use super::hf_config::Fields;
use crate::error::{Error, Result};

/// How an architecture is built and how its config spells it.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) model_type: &'static str,
    /// Entries of `architectures` that are this family with a language-model head.
    pub(super) architectures: &'static [&'static str],
    pub(super) keys: Keys,
    pub(super) qkv_bias: Bias,
    pub(super) out_bias: Bias,
    pub(super) mlp_bias: Bias,
    pub(super) mlp: Mlp,
    pub(super) norm: Norm,
    pub(super) norms: Norms,
    pub(super) qk_norm: QkNorm,
    pub(super) kv_heads: KvHeads,
    pub(super) head_dim: HeadDim,
    /// `tie_word_embeddings` where the config does not say.
    pub(super) tied_default: bool,
    /// Learned position rows beside the declared maximum; `None`: positions are not learned.
    pub(super) extra_position_rows: Option<u32>,
    /// A norm directly after the embedding.
    pub(super) embedding_norm: bool,
    /// The output matrix has a bias.
    pub(super) output_bias: bool,
    /// What `sliding_window` means.
    pub(super) window: Window,
    /// Flags that must have this value, or be absent, for the formulas to hold.
    pub(super) fixed: &'static [(&'static str, bool)],
}

/// Names of the size fields; the first that is there counts.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) hidden: &'static [&'static str],
    pub(super) layers: &'static [&'static str],
    pub(super) heads: &'static [&'static str],
    pub(super) inner: Inner,
    pub(super) max_tokens: &'static [&'static str],
}

/// Where the width of the MLP is found.
#[derive(Debug)]
pub(super) enum Inner {
    /// It must be declared.
    Field(&'static str),
    /// It may be; else four times the hidden size.
    FieldOrFourfold(&'static str),
    /// Always four times the hidden size.
    Fourfold,
}

/// Whether a projection has a bias.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bias {
    Never,
    Always,
    /// A flag says so; with its default.
    Flag(&'static str, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mlp {
    /// Gate, up, down.
    Gated,
    /// Up, down.
    Plain,
    /// Up, down, and an activation with parameters (xIELU).
    PlainLearnedActivation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norm {
    /// A weight.
    Rms,
    /// A weight and a bias.
    Layer,
}

/// Norms of a layer, those on queries and keys apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Norms {
    Always(u32),
    /// One or two, as Falcon's three flags say.
    Falcon,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum QkNorm {
    None,
    /// One head wide, shared by the heads.
    PerHead,
    /// As wide as all heads together.
    Whole,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum KvHeads {
    /// Declared; null means as many as query heads, absent too if so here (Hugging Face has a
    /// number of its own for the other families, which is no property of the model at hand).
    Field { absent_is_heads: bool },
    /// As many as query heads.
    Heads,
    /// As Falcon's two flags say.
    Falcon,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum HeadDim {
    /// Declared, else hidden size / heads.
    Field,
    /// Declared; null is hidden size / heads, but absent is this.
    FieldOr(u32),
    /// Hidden size / heads, and a declared value must agree.
    Ratio,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Window {
    /// In force when there is a number.
    Field,
    /// In force when there is a number and `use_sliding_window` is true (default: false).
    Switched,
    /// As `Field`, and absent is 4096 (Hugging Face's default for the family).
    FieldOr4096,
}

const KEYS: Keys = Keys {
    hidden: &["hidden_size"],
    layers: &["num_hidden_layers"],
    heads: &["num_attention_heads"],
    inner: Inner::Field("intermediate_size"),
    max_tokens: &["max_position_embeddings"],
};

const LLAMA: Family = Family {
    model_type: "llama",
    architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    keys: KEYS,
    qkv_bias: Bias::Flag("attention_bias", false),
    out_bias: Bias::Flag("attention_bias", false),
    mlp_bias: Bias::Flag("mlp_bias", false),
    mlp: Mlp::Gated,
    norm: Norm::Rms,
    norms: Norms::Always(2),
    qk_norm: QkNorm::None,
    kv_heads: KvHeads::Field { absent_is_heads: true },
    head_dim: HeadDim::Field,
    tied_default: false,
    extra_position_rows: None,
    embedding_norm: false,
    output_bias: false,
    window: Window::Field,
    fixed: &[("bias", false), ("qkv_bias", false)],
};

/// GPT-2's way: layer norms, biases everywhere, two matrices in the MLP, tied.
const CLASSIC: Family = Family {
    qkv_bias: Bias::Always,
    out_bias: Bias::Always,
    mlp_bias: Bias::Always,
    mlp: Mlp::Plain,
    norm: Norm::Layer,
    kv_heads: KvHeads::Heads,
    head_dim: HeadDim::Ratio,
    tied_default: true,
    fixed: &[],
    ..LLAMA
};

const GPT_KEYS: Keys = Keys {
    hidden: &["n_embd", "hidden_size"],
    layers: &["n_layer", "num_hidden_layers"],
    heads: &["n_head", "num_attention_heads"],
    inner: Inner::FieldOrFourfold("n_inner"),
    max_tokens: &["n_positions", "max_position_embeddings"],
};

/// Every known family. Each was compared with vLLM's own count on at least one model, except those
/// marked; those follow from the published parameter counts.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        model_type: "apertus",
        architectures: &["ApertusForCausalLM"],
        mlp: Mlp::PlainLearnedActivation,
        qk_norm: QkNorm::PerHead,
        fixed: &[("qk_norm", true)],
        ..LLAMA
    },
    Family {
        model_type: "bloom",
        architectures: &["BloomForCausalLM"],
        keys: Keys {
            hidden: &["hidden_size", "n_embed"],
            inner: Inner::Fourfold,
            max_tokens: &["seq_length"],
            ..GPT_KEYS
        },
        embedding_norm: true,
        ..CLASSIC
    },
    Family {
        model_type: "ernie4_5",
        architectures: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"],
        kv_heads: KvHeads::Field { absent_is_heads: false },
        head_dim: HeadDim::FieldOr(128),
        tied_default: true,
        fixed: &[("use_bias", false), ("attention_bias", false), ("mlp_bias", false)],
        ..LLAMA
    },
    Family {
        model_type: "falcon",
        architectures: &["FalconForCausalLM"],
        keys: Keys {
            layers: &["num_hidden_layers", "n_layer"],
            heads: &["num_attention_heads", "n_head"],
            inner: Inner::FieldOrFourfold("ffn_hidden_size"),
            ..KEYS
        },
        qkv_bias: Bias::Flag("bias", false),
        out_bias: Bias::Flag("bias", false),
        mlp_bias: Bias::Flag("bias", false),
        norms: Norms::Falcon,
        kv_heads: KvHeads::Falcon,
        ..CLASSIC
    },
    Family {
        model_type: "gemma",
        architectures: &["GemmaForCausalLM"],
        kv_heads: KvHeads::Field { absent_is_heads: false },
        head_dim: HeadDim::FieldOr(256),
        tied_default: true,
        fixed: &[("tie_word_embeddings", true), ("use_bidirectional_attention", false)],
        ..LLAMA
    },
    Family {
        model_type: "glm4",
        architectures: &["Glm4ForCausalLM"],
        out_bias: Bias::Never,
        mlp_bias: Bias::Never,
        norms: Norms::Always(4),
        kv_heads: KvHeads::Field { absent_is_heads: false },
        head_dim: HeadDim::FieldOr(128),
        ..LLAMA
    },
    // Published: 124,439,808 parameters with the vocabulary of 50,257 unpadded.
    Family {
        model_type: "gpt2",
        architectures: &["GPT2LMHeadModel"],
        keys: GPT_KEYS,
        extra_position_rows: Some(0),
        fixed: &[("add_cross_attention", false)],
        ..CLASSIC
    },
    Family {
        model_type: "gpt_neox",
        architectures: &["GPTNeoXForCausalLM"],
        qkv_bias: Bias::Flag("attention_bias", true),
        out_bias: Bias::Flag("attention_bias", true),
        tied_default: false,
        ..CLASSIC
    },
    Family {
        model_type: "gptj",
        architectures: &["GPTJForCausalLM"],
        keys: GPT_KEYS,
        qkv_bias: Bias::Never,
        out_bias: Bias::Never,
        norms: Norms::Always(1),
        tied_default: false,
        output_bias: true,
        fixed: &[("tie_word_embeddings", false)],
        ..CLASSIC
    },
    Family { model_type: "granite", architectures: &["GraniteForCausalLM"], ..RATIO_LLAMA },
    LLAMA,
    Family {
        model_type: "mimo",
        architectures: &["MiMoForCausalLM"],
        fixed: &[("attention_bias", true)],
        ..QWEN2
    },
    // Built by the same code as Llama.
    Family {
        model_type: "mistral",
        architectures: &["MistralForCausalLM"],
        kv_heads: KvHeads::Field { absent_is_heads: false },
        window: Window::FieldOr4096,
        ..LLAMA
    },
    Family {
        model_type: "nemotron",
        architectures: &["NemotronForCausalLM"],
        mlp: Mlp::Plain,
        norm: Norm::Layer,
        ..LLAMA
    },
    Family {
        model_type: "olmo2",
        architectures: &["Olmo2ForCausalLM"],
        qk_norm: QkNorm::Whole,
        fixed: &[("attention_bias", false)],
        ..RATIO_LLAMA
    },
    Family {
        model_type: "opt",
        architectures: &["OPTForCausalLM"],
        keys: Keys { inner: Inner::Field("ffn_dim"), ..KEYS },
        qkv_bias: Bias::Flag("enable_bias", true),
        out_bias: Bias::Flag("enable_bias", true),
        mlp_bias: Bias::Flag("enable_bias", true),
        // Its position table starts at row 2.
        extra_position_rows: Some(2),
        fixed: &[
            ("do_layer_norm_before", true),
            ("layer_norm_elementwise_affine", true),
            ("_remove_final_layer_norm", false),
        ],
        ..CLASSIC
    },
    Family { model_type: "phi3", architectures: &["Phi3ForCausalLM"], ..LLAMA },
    QWEN2,
    Family {
        model_type: "qwen3",
        architectures: &["Qwen3ForCausalLM"],
        qkv_bias: Bias::Flag("attention_bias", false),
        qk_norm: QkNorm::PerHead,
        head_dim: HeadDim::FieldOr(128),
        ..QWEN2
    },
    Family {
        model_type: "smollm3",
        architectures: &["SmolLM3ForCausalLM"],
        kv_heads: KvHeads::Field { absent_is_heads: false },
        tied_default: true,
        window: Window::Switched,
        ..LLAMA
    },
    Family {
        model_type: "starcoder2",
        architectures: &["Starcoder2ForCausalLM"],
        qkv_bias: Bias::Flag("use_bias", true),
        out_bias: Bias::Flag("use_bias", true),
        mlp_bias: Bias::Flag("use_bias", true),
        kv_heads: KvHeads::Field { absent_is_heads: false },
        ..CLASSIC
    },
];

const RATIO_LLAMA: Family = Family { head_dim: HeadDim::Ratio, ..LLAMA };

const QWEN2: Family = Family {
    model_type: "qwen2",
    architectures: &["Qwen2ForCausalLM"],
    qkv_bias: Bias::Always,
    out_bias: Bias::Never,
    mlp_bias: Bias::Never,
    kv_heads: KvHeads::Field { absent_is_heads: false },
    head_dim: HeadDim::Ratio,
    window: Window::Switched,
    fixed: &[],
    ..LLAMA
};

impl Family {
    /// Finds the family by `model_type`, else by `architectures`; both must be known.
    pub(super) fn of(fields: &Fields<'_>) -> Result<&'static Self> {
        let architectures = fields.texts("architectures")?;
        let unknown = |field: &str, found: &str, known: Vec<&'static str>| {
            // Bounded, whatever the file holds.
            let found = found.chars().take(80).collect();
            Err(Error::UnknownModel { field: field.into(), found, known })
        };
        let type_path = fields.path("model_type");
        let by_type = fields.own_text("model_type")?;
        let family = FAMILIES.iter().find(|family| match by_type {
            Some(model_type) => family.model_type == model_type,
            None => architectures.first().is_some_and(|a| family.architectures.contains(a)),
        });
        let Some(family) = family else {
            return match (by_type, architectures.first()) {
                (Some(found), _) => {
                    unknown(&type_path, found, FAMILIES.iter().map(|f| f.model_type).collect())
                }
                (None, Some(found)) => unknown("architectures", found, all_architectures()),
                (None, None) => {
                    let known = FAMILIES.iter().map(|f| f.model_type).collect();
                    unknown(&type_path, "(absent)", known)
                }
            };
        };
        match (fields.outer_text("model_type")?, architectures.first()) {
            // More than the language model that it wraps.
            (Some(outer), _) if Some(outer) != by_type => unknown(
                "model_type",
                outer,
                FAMILIES.iter().map(|family| family.model_type).collect(),
            ),
            (_, Some(found)) if !family.architectures.contains(found) => {
                unknown("architectures", found, family.architectures.to_vec())
            }
            _ => Ok(family),
        }
    }
}

fn all_architectures() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.architectures.iter().copied()).collect()
}
