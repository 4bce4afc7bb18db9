//! Which module of the engine a name of the checkpoint means.
//!
//! Quantisation configs name modules as the Hugging Face implementation does. vLLM renames some
//! (`hf_to_vllm_mapper` of its model classes) and fuses others (`packed_modules_mapping`).

/// How one architecture's names differ.
#[derive(Clone, Copy, Debug)]
struct Names {
    architectures: &'static [&'static str],
    /// Parts of a name, replaced once.
    parts: &'static [(&'static str, &'static str)],
    /// Starts of a name, replaced after that, all that apply, in this order.
    starts: &'static [(&'static str, &'static str)],
}

/// vLLM 0.32, `hf_to_vllm_mapper` of the classes in `model_executor/models`, as far as it renames
/// modules that a quantisation can cover.
const RENAMED: &[Names] = &[
    Names {
        architectures: &[
            "Gemma3ForConditionalGeneration",
            "LlavaForConditionalGeneration",
            "PaliGemmaForConditionalGeneration",
            "Cohere2VisionForConditionalGeneration",
            "InternS1ForConditionalGeneration",
            "InternVLForConditionalGeneration",
            "Lfm2VlForConditionalGeneration",
            "LlavaNextForConditionalGeneration",
            "LlavaNextVideoForConditionalGeneration",
            "LlavaOnevisionForConditionalGeneration",
            "BeeForConditionalGeneration",
            "RForConditionalGeneration",
            "Granite4VisionForConditionalGeneration",
            "Glm4vForConditionalGeneration",
            "Glm4vMoeForConditionalGeneration",
            "GlmOcrForConditionalGeneration",
            "Glm5NextForConditionalGeneration",
            "CohereCompassForConditionalGeneration",
            "InternS1ProForConditionalGeneration",
            "InternS2MobiusForConditionalGeneration",
            "InternS2PreviewForConditionalGeneration",
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration",
            "Qwen3_5ForConditionalGeneration",
            "Qwen3_5MoeForConditionalGeneration",
            "Qwen4ExpForConditionalGeneration",
        ],
        parts: &[],
        starts: &[
            ("model.language_model.", "language_model.model."),
            ("model.visual.", "visual."),
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
            ("lm_head.", "language_model.lm_head."),
        ],
    },
    Names {
        architectures: &[
            "Qwen2VLForConditionalGeneration",
            "Qwen2_5_VLForConditionalGeneration",
            "JinaVLForRanking",
            "Exaone4_5_ForConditionalGeneration",
            "LlavaOnevision2ForConditionalGeneration",
            "OpenPanguVLForConditionalGeneration",
            "Mistral3ForConditionalGeneration",
            "MiMoV2OmniForCausalLM",
            "KeyeForConditionalGeneration",
            "KeyeVL1_5ForConditionalGeneration",
            "PaddleOCRVLForConditionalGeneration",
            "Step3VLForConditionalGeneration",
            "Step3p7ForConditionalGeneration",
            "DotsOCRForCausalLM",
            "Ernie4_5_VLMoeForConditionalGeneration",
            "Phi3VForCausalLM",
        ],
        parts: &[],
        starts: &[
            ("model.language_model.", "language_model.model."),
            ("model.visual.", "visual."),
            ("model.vision_tower.", "vision_tower."),
            ("model.vision_model.", "vision_model."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
            ("lm_head.", "language_model.lm_head."),
            ("model.", "language_model.model."),
        ],
    },
    Names {
        architectures: &[
            "Gemma3nForConditionalGeneration",
            "Gemma4ForConditionalGeneration",
            "Gemma4UnifiedForConditionalGeneration",
        ],
        parts: &[],
        starts: &[
            ("model.vision_tower", "vision_tower"),
            ("model.embed_vision", "embed_vision"),
            ("model.audio_tower.", "audio_tower."),
            ("model.embed_audio.", "embed_audio."),
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
            ("model", "language_model.model"),
        ],
    },
    Names {
        architectures: &[
            "Gemma4ForCausalLM",
            "Qwen4ExpForCausalLM",
            "Qwen3_5ForCausalLM",
            "Qwen3_5MoeForCausalLM",
        ],
        parts: &[],
        starts: &[("model.language_model.", "model.")],
    },
    Names {
        architectures: &["KimiK25ForConditionalGeneration", "KimiK3ForConditionalGeneration"],
        parts: &[],
        starts: &[("language_model.layers.", "language_model.model.layers.")],
    },
    Names {
        architectures: &[
            "NemotronH_Nano_VL_V2",
            "NemotronH_Nano_Omni_Reasoning_V3",
            "NemotronH_Super_Omni_Reasoning_V3",
            "NemotronH_Omni_Reasoning_V3",
        ],
        parts: &[],
        starts: &[("language_model.backbone", "language_model.model")],
    },
    Names {
        architectures: &["NemotronHForCausalLM", "NemotronHPuzzleForCausalLM"],
        parts: &[("A_log", "A"), ("embeddings", "embed_tokens")],
        starts: &[("backbone", "model")],
    },
    Names {
        architectures: &["JambaForCausalLM", "JambaForSequenceClassification"],
        parts: &[(".self_attn.", ".")],
        starts: &[],
    },
    Names {
        architectures: &["GptOssForCausalLM", "OpenAIPrivacyFilterForTokenClassification"],
        parts: &[(".self_attn.", ".attn.")],
        starts: &[],
    },
    Names {
        architectures: &["Lfm2ForCausalLM", "Lfm2MoeForCausalLM"],
        parts: &[(".conv.", ".short_conv.")],
        starts: &[],
    },
    Names {
        architectures: &["FalconH1ForCausalLM"],
        parts: &[("A_log", "A"), ("mamba", "mamba.mamba")],
        starts: &[],
    },
    Names {
        architectures: &["MixtralForCausalLM"],
        parts: &[(".gate_proj.", ".w1."), (".up_proj.", ".w3."), (".down_proj.", ".w2.")],
        starts: &[],
    },
    Names {
        architectures: &["Step3p5ForCausalLM"],
        parts: &[(".share_expert.", ".moe.share_expert.")],
        starts: &[],
    },
    Names {
        architectures: &["BailingMoeV3ForCausalLM"],
        parts: &[(".attention.", ".self_attn.")],
        starts: &[],
    },
    Names {
        architectures: &["DeepseekV4ForCausalLM", "DeepseekV4ForConditionalGeneration"],
        parts: &[(".shared_experts.w2", ".shared_experts.down_proj")],
        starts: &[("layers.", "model.layers."), ("mtp.", "model.mtp.")],
    },
    Names {
        architectures: &["DeepseekVLV2ForCausalLM"],
        parts: &[],
        starts: &[("language.", "language_model.")],
    },
    Names {
        architectures: &[
            "Qwen2_5OmniModel",
            "Qwen2_5OmniForConditionalGeneration",
            "Qwen3OmniMoeForConditionalGeneration",
            "Qwen3ASRForConditionalGeneration",
        ],
        parts: &[],
        starts: &[
            ("thinker.lm_head.", "language_model.lm_head."),
            ("thinker.model.", "language_model.model."),
            ("thinker.", ""),
        ],
    },
    Names {
        architectures: &["MiniMaxM3SparseForConditionalGeneration"],
        parts: &[(".mlp.fc1.", ".fc1."), (".mlp.fc2.", ".fc2.")],
        starts: &[
            ("multi_modal_projector.", "vision_tower.multi_modal_projector."),
            ("patch_merge_mlp.", "vision_tower.patch_merge_mlp."),
        ],
    },
    Names {
        architectures: &["PixtralForConditionalGeneration"],
        parts: &[],
        starts: &[
            ("model.language_model.", "language_model.model."),
            ("model.vision_tower.", "vision_encoder."),
            ("model.multi_modal_projector.", "vision_language_adapter."),
        ],
    },
    Names {
        architectures: &["OPTForCausalLM"],
        parts: &[],
        starts: &[("decoder.", "model.decoder.")],
    },
    Names {
        architectures: &["CohereAsrForConditionalGeneration", "WhisperForConditionalGeneration"],
        parts: &[(".fc1.", ".mlp.fc1."), (".fc2.", ".mlp.fc2.")],
        starts: &[],
    },
];

type Packed = (&'static str, &'static [&'static str]);

/// vLLM 0.32, `packed_modules_mapping`: what most model classes share.
const PACKED: &[Packed] = &[
    ("qkv_proj", &["q_proj", "k_proj", "v_proj"]),
    ("gate_up_proj", &["gate_proj", "up_proj"]),
    ("qkv", &["qkv"]),
    ("fused_qkv_a_proj", &["q_a_proj", "kv_a_proj_with_mqa"]),
    ("in_proj_qkvz", &["in_proj_qkv", "in_proj_z"]),
    ("in_proj_ba", &["in_proj_b", "in_proj_a"]),
    ("in_proj_qkvg", &["q_proj", "k_proj", "v_proj", "g_proj"]),
    ("in_proj_qkvgfab", &["q_proj", "k_proj", "v_proj", "b_proj", "f_a_proj"]),
    ("fused_qkv_a_g_proj", &["q_a_proj", "kv_a_proj_with_mqa", "g_proj"]),
    ("qkvb_proj", &["q_proj", "k_proj", "v_proj", "b_proj"]),
    ("qkvr", &["wq_du", "wk_dv", "wv_dv", "wr_du"]),
    ("fused_wqa_wkv", &["wq_a", "wkv"]),
    ("fused_wkv_wgate", &["wkv", "wgate"]),
    ("w13", &["w1", "w3"]),
    ("kv_proj", &["k_proj", "v_proj"]),
];

/// Where an architecture's mapping differs from [`PACKED`].
const PACKED_ELSEWHERE: &[(&[&str], &[Packed])] = &[
    (
        &["Phi3ForCausalLM", "Plamo3ForCausalLM", "Phi4MMForCausalLM", "MolmoForCausalLM"],
        &[("qkv_proj", &["qkv_proj"]), ("gate_up_proj", &["gate_up_proj"])],
    ),
    (
        &["Glm4vForConditionalGeneration", "GlmOcrForConditionalGeneration"],
        &[("gate_up_proj", &["gate_up_proj"])],
    ),
    (&["MiMoV2ForCausalLM", "MiMoV2FlashForCausalLM"], &[("qkv_proj", &["qkv_proj"])]),
    (&["Param2MoEForCausalLM"], &[("qkv_proj", &["query_key_value"])]),
    (
        &["BertModel", "RobertaModel", "XLMRobertaModel"],
        &[("qkv_proj", &["query", "key", "value"])],
    ),
    (&["ExaoneForCausalLM"], &[("gate_up_proj", &["c_fc_0", "c_fc_1"])]),
    (
        &[
            "InternLM2ForCausalLM",
            "InternLM2ForRewardModel",
            "DeepseekV4ForCausalLM",
            "DeepseekV4ForConditionalGeneration",
        ],
        &[("gate_up_proj", &["w1", "w3"])],
    ),
    (
        &["Qwen3NextForCausalLM"],
        &[("in_proj_qkvz", &["in_proj_qkvz"]), ("in_proj_ba", &["in_proj_ba"])],
    ),
    (&["HYV4ForCausalLM", "HYV4MTPModel"], &[("wk_weights_proj", &["wk", "weights_proj"])]),
    (
        &["Qwen4ExpForCausalLM", "Qwen4ExpForConditionalGeneration"],
        &[
            ("qkv_proj", &["q_proj", "k_proj", "v_proj", "indexer.index_qk_proj"]),
            ("kv_proj", &["key_proj", "value_proj"]),
        ],
    ),
];

/// Experts whose matrices are not `gate_proj`, `up_proj` and `down_proj` in the checkpoint.
const EXPERT_MATRICES: &[(&[&str], [&str; 3])] = &[
    (
        &[
            "MixtralForCausalLM",
            "MiniMaxM2ForCausalLM",
            "MiniMaxM3SparseForConditionalGeneration",
            "MiniMaxM3SparseForCausalLM",
            "GptOssForCausalLM",
            "DeepseekV4ForCausalLM",
            "DeepseekV4ForConditionalGeneration",
            "PhiMoEForCausalLM",
            "Lfm2MoeForCausalLM",
            "JambaForCausalLM",
        ],
        ["w1", "w3", "w2"],
    ),
    (&["NemotronHForCausalLM", "NemotronHPuzzleForCausalLM"], ["up_proj", "up_proj", "down_proj"]),
];

/// The names of one architecture.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Naming {
    renamed: Option<&'static Names>,
    packed: &'static [Packed],
    experts: Option<[&'static str; 3]>,
}

impl Naming {
    pub(super) fn of(architecture: &str) -> Self {
        let packed = PACKED_ELSEWHERE.iter().find(|(of, _)| of.contains(&architecture));
        let experts = EXPERT_MATRICES.iter().find(|(of, _)| of.contains(&architecture));
        Self {
            renamed: RENAMED.iter().find(|names| names.architectures.contains(&architecture)),
            packed: packed.map_or(&[], |(_, packed)| packed),
            experts: experts.map(|(_, experts)| *experts),
        }
    }

    /// The engine's name of a module that the checkpoint calls `name`.
    pub(super) fn rename(&self, name: &str) -> String {
        let mut name = name.to_owned();
        let Some(names) = self.renamed else { return name };
        for (from, to) in names.parts {
            name = name.replacen(from, to, 1);
        }
        for (from, to) in names.starts {
            if let Some(rest) = name.strip_prefix(from) {
                name = format!("{to}{rest}");
            }
        }
        name
    }

    /// What a fused projection consists of.
    pub(super) fn packed(&self, projection: &str) -> Option<&'static [&'static str]> {
        let find = |of: &'static [Packed]| of.iter().find(|(fused, _)| *fused == projection);
        find(self.packed).or_else(|| find(PACKED)).map(|(_, parts)| *parts)
    }

    /// Names of the parts of a fused module, `None` if it is not one.
    pub(super) fn parts(&self, name: &str) -> Option<Vec<String>> {
        let projection = projection(name);
        let parts = self.packed(projection)?;
        Some(parts.iter().map(|part| name.replace(projection, part)).collect())
    }

    /// Names of the first expert's matrices.
    pub(super) fn expert_matrices(&self, experts: &str) -> Vec<String> {
        let matrices = self.experts.unwrap_or(["gate_proj", "up_proj", "down_proj"]);
        matrices.iter().map(|matrix| format!("{experts}.0.{matrix}")).collect()
    }
}

/// The last part of a module's name.
pub(super) fn projection(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
