//! Models around a language model whose config class comes with the checkpoint or with the engine:
//! the sizes that it has no default for must be in the config.

use super::Family;
use super::limits::{LAYERS_MAX, TOKENS_MAX};
use super::multimodal::{LANGUAGE, Language, Tied, family, language};
use super::multimodal_more::{INTERN_VIT, InternVit, intern_vit, mlp1};
use super::vision::{
    self, Depth, Size, Style, VIT, WHOLE, convolution, encoder, llava_tower, number, plain, side,
    siglip, times, two_linear,
};
use super::vision_query::qformer_of;
use super::vision_qwen;
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    family(&["BeeForConditionalGeneration"], &["bee"], |config, b| four_b(config, b, 4)),
    family(&["RForConditionalGeneration"], &["r"], |config, b| four_b(config, b, 1)),
    family(&["Eagle2_5_VLForConditionalGeneration"], &["eagle_2_5_vl"], eagle),
    family(&["GLM4VForCausalLM"], &["glm4v_remote"], glm4v),
    family(&["Granite4VisionForConditionalGeneration"], &["granite4_vision"], granite4),
    family(&["HCXVisionV2ForCausalLM"], &["hyperclovax_vision_v2"], hcx),
    family(&["IsaacForConditionalGeneration"], &["isaac"], isaac),
    family(&["KeyeForConditionalGeneration"], &["Keye"], |config, b| keye(config, b, false)),
    family(&["KeyeVL1_5ForConditionalGeneration"], &["KeyeVL1_5"], |config, b| {
        keye(config, b, true)
    }),
    family(&["Llama_Nemotron_Nano_VL"], &["Llama_Nemotron_Nano_VL"], nemotron),
    family(&["OpenCUAForConditionalGeneration"], &["opencua"], opencua),
    family(&["Ovis"], &["ovis"], ovis),
    family(&["Ovis2_5", "Ovis2_6ForCausalLM", "Ovis2_6_MoeForCausalLM"], &["ovis2_5"], ovis2_5),
    family(&["Phi4ForCausalLMV"], &["phi4-siglip"], phi4),
    family(&["QianfanOCRForConditionalGeneration"], &["qianfan_ocr"], qianfan),
];

/// What vLLM 0.32 sets the language model's own field to: the outer one, if there.
const OWN: Language = Language { tied: Tied::OuterOrInner, ..LANGUAGE };

fn vision_config<'a>(config: &Config<'a>) -> Result<Fields<'a>> {
    config.root.object_or_empty("vision_config")
}

/// SigLIP 2, which takes patches as rows (`siglip2.py`), in its scope.
fn siglip2(b: &mut Builder, fields: &Fields<'_>, size: &Size, post_norm: bool) -> Result<()> {
    let patch = side(fields, "patch_size", 16)?;
    let channels = number(fields, "num_channels", 3)?;
    let positions = number(fields, "num_patches", 256)?;
    b.scope("embeddings", |b| {
        plain(b, "patch_embedding", times(&[channels, patch, patch]), size.width, true);
        b.table("position_embedding", positions, size.width);
    });
    encoder(b, &VIT, size);
    if post_norm {
        b.layer_norm("post_layernorm", size.width);
    }
    Ok(())
}

/// Bee and R-4B (vLLM 0.32 `bee.py`, `rvl.py`): LLaVA-OneVision with a norm before the projector,
/// which is `wide` times as wide as the language model.
fn four_b(config: &Config<'_>, b: &mut Builder, wide: u64) -> Result<()> {
    let width = language(config, b, Language { model_type: "qwen3", ..OWN })?;
    let size = llava_tower(b, &config.root, "siglip_vision_model", -1)?;
    let inner = width.saturating_mul(wide);
    b.layer_norm("multi_modal_projector.pre_norm", size.width);
    plain(b, "multi_modal_projector.linear_1", size.width, inner, true);
    plain(b, "multi_modal_projector.linear_2", inner, width, true);
    b.param("image_newline", Param::whole(width));
    Ok(())
}

/// Eagle 2.5 (`eagle2_5_vl.py`): InternVL's projector after SigLIP.
fn eagle(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, Language { model_type: "qwen2", ..OWN })?;
    let fields = vision_config(config)?;
    let all = vision::siglip_size(&fields)?.layers;
    let layer = config.root.value("select_layer").map_or(Some(-1), serde_json::Value::as_i64);
    let built = layer.map(|at| if at < 0 { i64::from(all) + at } else { at } + 1);
    let layers = built.and_then(|built| u32::try_from(built).ok()).filter(|&built| built <= all);
    let Some(layers) = layers else {
        return Err(wrong("select_layer", format!("expected a layer of {all}")));
    };
    let depth = Depth { layers: Some(layers), post_norm: None };
    let size = b.scope("vision_model.vision_model", |b| siglip(b, &config.root, &fields, depth))?;
    let ratio = config.root.number("downsample_ratio")?.unwrap_or(0.5);
    let factor = super::multimodal_more::shuffle(ratio)?;
    mlp1(b, [times(&[size.width, factor, factor]), width, width], true);
    Ok(())
}

/// GLM-4V (`glm4v.py`): the first one, with EVA's tower.
fn glm4v(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    b.is_multimodal = true;
    super::dense_gpt::chatglm_text(config, b)?;
    let (width, inner) = (u64::from(b.dims.hidden), u64::from(b.dims.inner));
    let fields = vision_config(config)?;
    let names = ["num_hidden_layers", "hidden_size", "intermediate_size", "num_heads"];
    for name in names {
        fields.required(&[name], TOKENS_MAX)?;
    }
    let size = Size::read_as(&fields, names, [63, 1792, 15_360, 16])?;
    let patch = u64::from(fields.required(&["patch_size"], TOKENS_MAX)?);
    let channels = u64::from(fields.required(&["in_channels"], TOKENS_MAX)?);
    let positions = fields.required(&["num_positions"], TOKENS_MAX)?;
    let style = Style {
        layers: "transformer.layers",
        norms: &["input_layernorm", "post_attention_layernorm"],
        attention: "attention",
        qkv: &["query_key_value"],
        out: "dense",
        ..VIT
    };
    b.scope("transformer.vision", |b| {
        b.param("boi", Param::whole(width));
        b.param("eoi", Param::whole(width));
        b.param("patch_embedding.cls_embedding", Param::whole(size.width));
        convolution(b, "patch_embedding.proj", &[size.width, channels, patch, patch], true);
        b.table("patch_embedding.position_embedding", positions, size.width);
        encoder(b, &style, &size);
        b.scope("linear_proj", |b| {
            b.linear("linear_proj", Linear::replicated(width, width));
            b.layer_norm("norm1", width);
            b.linear("merged_proj", Linear::merged(width, [inner, inner]));
            b.linear("dense_4h_to_h", Linear::row(inner, width));
        });
        convolution(b, "conv", &[width, size.width, 2, 2], true);
    });
    Ok(())
}

/// Granite 4 Vision (`granite4_vision.py`): a querying transformer for each layer that is fed to
/// the language model, and four for the parts of the image.
fn granite4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "granite", tied: Tied::Outer(false), ..LANGUAGE };
    let width = language(config, b, own)?;
    let fields = vision_config(config)?;
    let depth = Depth { layers: None, post_norm: Some(false) };
    let size = b.scope("vision_tower.vision_model", |b| siglip(b, &config.root, &fields, depth))?;
    b.param("image_newline", Param::whole(width));
    let rate = config.root.text("downsample_rate")?.unwrap_or_default();
    let sides = rate.split_once('/').and_then(|(query, window)| {
        Some((query.trim().parse::<u32>().ok()?, window.trim().parse::<u32>().ok()?))
    });
    let Some((query, window)) = sides else {
        return Err(wrong("downsample_rate", "expected two numbers, as in 4/8"));
    };
    let layers = config.root.items("deepstack_layer_map")?.len();
    let names = (0..layers).map(|at| format!("layerwise_projectors.{at}"));
    let names = names.chain((0..4).map(|at| format!("spatial_projectors.{at}")));
    for name in names {
        b.scope(&name, |b| {
            for (name, side) in [("query", query), ("image_positions", window)] {
                let positions = u64::from(side).saturating_pow(2);
                b.param(name, Param::whole(positions.saturating_mul(size.width)));
            }
            let former = Size { layers: 1, inner: 3072, ..size };
            qformer_of(b, &former, 1, size.width);
            b.layer_norm("norm", size.width);
            plain(b, "out_linear", size.width, width, true);
        });
    }
    Ok(())
}

/// HyperCLOVA X's second vision model (`hyperclovax_vision_v2.py`): Qwen2.5-VL's tower.
fn hcx(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "hyperclovax", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, own)?;
    let fields = vision_config(config)?;
    b.scope("visual", |b| vision_qwen::qwen2_5(b, &fields))?;
    plain(b, "mm_projector", number(&fields, "out_hidden_size", 3584)?, width, true);
    Ok(())
}

/// Isaac (`isaac.py`); defaults of `PixelShuffleSiglip2VisionConfig`.
fn isaac(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "qwen3", tied: Tied::Outer(false), ..LANGUAGE };
    let width = language(config, b, own)?;
    let fields = vision_config(config)?;
    let size = Size::read(&fields, [12, 768, 3072, 12])?;
    let factor = number(&fields, "pixel_shuffle_scale_factor", 1)?;
    let merged = times(&[size.width, factor, factor]);
    let inner = merged.saturating_mul(4);
    b.scope("vision_embedding", |b| {
        b.scope("transformer", |b| siglip2(b, &fields, &size, true))?;
        let names = ["linear_fc1", "linear_fc2"];
        two_linear(b, names, [merged, inner, width], [true, false, true]);
        Ok(())
    })
}

/// Keye (`keye.py`, `keye_vl1_5.py`): SigLIP with a second table of positions.
fn keye(config: &Config<'_>, b: &mut Builder, norm_after: bool) -> Result<()> {
    let own = Language { model_type: "qwen3", tied: Tied::Outer(false), ..LANGUAGE };
    let width = language(config, b, own)?;
    let fields = vision_config(config)?;
    let size = Size::read(&fields, [12, 768, 3072, 12])?;
    let (patch, image) = (side(&fields, "patch_size", 14)?, side(&fields, "image_size", 224)?);
    let channels = number(&fields, "num_channels", 3)?;
    b.scope("visual.vision_model", |b| {
        let shape = [size.width, channels, patch, patch];
        convolution(b, "embeddings.patch_embedding", &shape, true);
        let positions = (image / patch.max(1)).saturating_pow(2);
        b.table("embeddings.position_embedding", positions, size.width);
        b.table("embeddings.packing_position_embedding", 32_768_u64, size.width);
        encoder(b, &VIT, &size);
        b.layer_norm("post_layernorm", size.width);
    });
    // Four patches are one.
    let merged = size.width.saturating_mul(4);
    b.scope("mlp_AR", |b| {
        b.layer_norm("pre_norm", if norm_after { merged } else { size.width });
        two_linear(b, ["linear_1", "linear_2"], [merged, merged, width], [true; 3]);
    });
    Ok(())
}

/// Llama Nemotron Nano VL (`nemotron_vl.py`), whose tower is code that comes with the checkpoint.
fn nemotron(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { at: "llm_config", ..OWN })?;
    b.weights_unknown("the vision tower is code that comes with the checkpoint");
    Ok(())
}

/// OpenCUA (`opencua.py`): Qwen2.5-VL's tower before Qwen2.
fn opencua(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    language(config, b, Language { model_type: "qwen2", ..OWN })?;
    b.scope("visual", |b| vision_qwen::qwen2_5(b, &vision_config(config)?))
}

/// The indicators among an Ovis model's visual tokens.
const INDICATORS: u64 = 5;
/// As [`INDICATORS`], from 2.5 on.
const INDICATORS_2_5: u64 = 4;

/// What makes visual tokens of a tower's output, and their table.
fn visual_tokens(b: &mut Builder, [input, vocab, indicators]: [u64; 3], width: u64) {
    let tokens = vocab.saturating_sub(indicators);
    plain(b, "visual_tokenizer.head.0", input, tokens, false);
    b.layer_norm("visual_tokenizer.head.1", tokens);
    b.table("vte", vocab, width);
}

/// Ovis 1.6 and 2 (`ovis.py`); defaults of its `BaseVisualTokenizerConfig`.
fn ovis(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { at: "llm_config", model_type: "qwen2", scope: "llm", ..OWN };
    let width = language(config, b, own)?;
    let fields = config.root.object_or_empty("visual_tokenizer_config")?;
    let tower = fields.object_or_empty("backbone_config")?;
    let size = b.scope("visual_tokenizer.backbone", |b| match tower.text("model_type")? {
        Some("aimv2") => aimv2(b, &tower),
        Some("siglip_vision_model") => {
            b.scope("vision_model", |b| siglip(b, &config.root, &tower, WHOLE))
        }
        _ => Err(wrong(tower.path("model_type"), "neither aimv2 nor siglip_vision_model")),
    })?;
    let stride = number(&fields, "hidden_stride", 1)?;
    let vocab = number(&fields, "vocab_size", 16_384)?;
    visual_tokens(b, [times(&[size.width, stride, stride]), vocab, INDICATORS], width);
    Ok(())
}

/// AIMv2 (`aimv2.py`) without the norm at its end; defaults of `Aimv2VisionConfig`.
fn aimv2(b: &mut Builder, fields: &Fields<'_>) -> Result<Size> {
    let size = Size::read(fields, [24, 1024, 2816, 8])?;
    let (patch, image) = (side(fields, "patch_size", 14)?, side(fields, "image_size", 224)?);
    let channels = number(fields, "num_channels", 3)?;
    let bias = fields.flag("mlp_bias", false)?;
    let style = Style {
        layers: "trunk.blocks",
        norms: &["norm_1", "norm_2"],
        rms: true,
        attention: "attn",
        qkv: &["qkv"],
        out: "proj",
        qkv_bias: fields.flag("qkv_bias", false)?,
        out_bias: bias,
        up: "fc13",
        down: "fc2",
        mlp_bias: bias,
        gated: true,
        ..VIT
    };
    let positions = (image / patch.max(1)).saturating_pow(2);
    b.param("preprocessor.pos_embed", Param::whole(positions.saturating_mul(size.width)));
    let shape = [size.width, channels, patch, patch];
    convolution(b, "preprocessor.patchifier.proj", &shape, true);
    b.rms_norm("preprocessor.patchifier.norm", size.width);
    encoder(b, &style, &size);
    Ok(size)
}

/// Ovis 2.5 (`ovis2_5.py`, `siglip2navit.py`).
fn ovis2_5(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { at: "llm_config", model_type: "qwen3", scope: "llm", ..OWN };
    let width = language(config, b, own)?;
    let fields = config.root.object_or_empty("vit_config")?;
    let size = Size::read(&fields, [12, 768, 3072, 12])?;
    let (patch, image) = (side(&fields, "patch_size", 16)?, side(&fields, "image_size", 512)?);
    let channels = number(&fields, "num_channels", 3)?;
    let keeps_positions = fields.flag("preserve_original_pe", true)?;
    let declared = fields.value("num_patches").and_then(serde_json::Value::as_i64).unwrap_or(-1);
    let positions = match u64::try_from(declared) {
        Ok(declared) if declared > 0 => declared,
        _ => (image / patch.max(1)).saturating_pow(2),
    };
    b.scope("visual_tokenizer.vit.vision_model", |b| {
        plain(b, "embeddings.patch_embedding", times(&[channels, patch, patch]), size.width, true);
        if keeps_positions {
            b.table("embeddings.position_embedding", positions, size.width);
        }
        encoder(b, &VIT, &size);
        b.layer_norm("post_layernorm", size.width);
    });
    let stride = number(&fields, "hidden_stride", 1)?;
    let vocab = u64::from(config.root.required(&["visual_vocab_size"], TOKENS_MAX)?);
    visual_tokens(b, [times(&[size.width, stride, stride]), vocab, INDICATORS_2_5], width);
    Ok(())
}

/// Phi-4 with SigLIP 2 (`phi4siglip.py`), cut before its last layer.
fn phi4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "phi3", tied: Tied::Outer(false), ..LANGUAGE };
    let width = language(config, b, own)?;
    let fields = vision_config(config)?;
    let mut size = Size::read(&fields, [12, 768, 3072, 12])?;
    size.layers = size.layers.saturating_sub(1).clamp(1, LAYERS_MAX);
    b.scope("vision_tower.vision_model", |b| siglip2(b, &fields, &size, false))?;
    let input = u64::from(config.root.required(&["mm_hidden_size"], TOKENS_MAX)?);
    b.scope("multi_modal_projector", |b| {
        two_linear(b, ["linear_1", "linear_2"], [input, width, width], [true; 3]);
    });
    Ok(())
}

/// Qianfan-OCR (`qianfan_ocr.py`): InternVL; defaults of `QianfanOCRVisionConfig`.
fn qianfan(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "qwen3", tied: Tied::Outer(false), ..LANGUAGE };
    let width = language(config, b, own)?;
    let defaults = InternVit {
        sizes: [24, 1024, 4096, 16],
        image: 448,
        qkv_bias: true,
        qk_norm: false,
        ..INTERN_VIT
    };
    let merged = intern_vit(config, b, &defaults)?;
    mlp1(b, [merged, width, width], true);
    Ok(())
}
