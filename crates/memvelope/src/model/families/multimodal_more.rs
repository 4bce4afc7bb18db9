//! More models around a language model that look at images.

use super::Family;
use super::multimodal::{LANGUAGE, Language, Tied, family, language, prefix_lm};
use super::vision::{
    self, Size, Style, VIT, WHOLE, convolution, encoder, norm, number, plain, side, times,
    two_linear,
};
use super::vision_query::{blip_tower, multihead, qformer};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    family(&["AriaForConditionalGeneration"], &["aria"], aria),
    family(&["BagelForConditionalGeneration"], &["bagel"], bagel),
    family(&["Blip2ForConditionalGeneration"], &["blip-2"], blip2),
    family(&["Cohere2VisionForConditionalGeneration"], &["cohere2_vision"], cohere2_vision),
    family(
        &["H2OVLChatModel", "InternVLChatModel"],
        &["h2ovl_chat", "internvl_chat"],
        internvl_chat,
    ),
    family(
        &["Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"],
        &["idefics3", "smolvlm"],
        idefics3,
    ),
    family(
        &["InternVLForConditionalGeneration", "InternS1ForConditionalGeneration"],
        &["internvl", "interns1"],
        interns1,
    ),
    family(&["NVLM_D"], &["NVLM_D"], nvlm_d),
    family(&["PaddleOCRVLForConditionalGeneration"], &["paddleocr_vl"], paddleocr),
    family(&["SkyworkR1VChatModel"], &["skywork_chat"], skywork),
];

fn vision_config<'a>(config: &Config<'a>) -> Result<Fields<'a>> {
    config.root.object_or_empty("vision_config")
}

/// Idefics 2's tower (`idefics2_vision_model.py`), in its scope; the numbers are defaults of
/// layers, width, inner width, heads, image and patch. `dropped` last layers are left out.
pub(super) fn idefics2(
    b: &mut Builder,
    fields: &Fields<'_>,
    [layers, width, inner, heads, image, patch]: [u32; 6],
    post_norm: bool,
    dropped: u32,
) -> Result<Size> {
    let mut size = Size::read(fields, [layers, width, inner, heads])?;
    size.layers = size.layers.saturating_sub(dropped);
    let (patch, image) = (side(fields, "patch_size", patch)?, side(fields, "image_size", image)?);
    let channels = number(fields, "num_channels", 3)?;
    b.scope("embeddings", |b| {
        convolution(b, "patch_embedding", &[size.width, channels, patch, patch], true);
        b.table("position_embedding", (image / patch.max(1)).saturating_pow(2), size.width);
    });
    encoder(b, &VIT, &size);
    if post_norm {
        b.layer_norm("post_layernorm", size.width);
    }
    Ok(size)
}

/// `aria.py`: the projector has its own queries, as many as its largest entry.
fn aria(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, Language { model_type: "aria_text", ..LANGUAGE })?;
    let fields = vision_config(config)?;
    let defaults = [12, 1152, 3072, 12, 224, 32];
    let size = b.scope("vision_tower", |b| idefics2(b, &fields, defaults, false, 0))?;
    let queries = match config.root.object("projector_patch_to_query_dict")? {
        None => 256,
        Some(entries) => {
            let mut most = 0;
            for name in entries.names() {
                most = most.max(number(&entries, name, 0)?);
            }
            most
        }
    };
    let dim = size.width;
    b.scope("multi_modal_projector", |b| {
        b.param("query", Param::whole(queries.saturating_mul(dim)));
        b.scope("cross_attn", |b| {
            for name in ["q_proj", "k_proj", "v_proj"] {
                plain(b, name, dim, dim, false);
            }
            multihead(b, "multihead_attn", dim);
            plain(b, "linear", dim, dim, true);
            b.layer_norm("layer_norm", dim);
            b.layer_norm("layer_norm_kv", dim);
        });
        b.layer_norm("layer_norm", dim);
        b.linear("feed_forward.linear_in", Linear::column(dim, width));
        b.linear("feed_forward.linear_out", Linear::row(width, width));
    });
    Ok(())
}

/// `bagel.py`: the understanding side alone.
fn bagel(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side =
        Language { at: "llm_config", model_type: "qwen2", tied: Tied::OuterOrInner, ..LANGUAGE };
    let width = language(config, b, language_side)?;
    b.is_prefix_lm = prefix_lm(config, true)?;
    let side = config.root.count("vit_max_num_patch_per_side", 1 << 15)?.unwrap_or(70);
    b.mm_item_tokens_max = Some(side.saturating_mul(side));
    let fields = config.root.object_or_empty("vit_config")?;
    let size =
        b.scope("vit_model.vision_model", |b| vision::siglip(b, &config.root, &fields, WHOLE))?;
    two_linear(b, ["connector.fc1", "connector.fc2"], [size.width, width, width], [true; 3]);
    Ok(())
}

fn blip2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width =
        language(config, b, Language { model_type: "opt", tied: Tied::OuterOrInner, ..LANGUAGE })?;
    blip_tower(b, &vision_config(config)?)?;
    let size = qformer(b, &config.root.object_or_empty("qformer_config")?)?;
    let queries = number(&config.root, "num_query_tokens", 32)?;
    b.param("query_tokens", Param::whole(queries.saturating_mul(size.width)));
    plain(b, "language_projection", size.width, width, true);
    Ok(())
}

fn cohere2_vision(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "cohere2", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = vision_config(config)?;
    let size =
        b.scope("vision_tower.vision_model", |b| vision::siglip(b, &config.root, &fields, WHOLE))?;
    let factor = number(&config.root, "downsample_factor", 2)?;
    let inner = number(&config.root, "alignment_intermediate_size", 36864)?;
    b.scope("multi_modal_projector", |b| {
        let half = inner / 2;
        let input = times(&[size.width, factor, factor]);
        b.linear("linear_1", Linear::merged(input, [half, half]).bias(true));
        b.linear("linear_2", Linear::row(half, width).bias(true));
    });
    Ok(())
}

fn idefics3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, Language { tied: Tied::Outer(false), ..LANGUAGE })?;
    let fields = vision_config(config)?;
    let defaults = [12, 1152, 3072, 16, 224, 32];
    let size = b.scope("model.vision_model", |b| idefics2(b, &fields, defaults, true, 0))?;
    let scale = number(&config.root, "scale_factor", 2)?;
    let input = times(&[size.width, scale, scale]);
    b.linear("model.connector.modality_projection.proj", Linear::replicated(input, width));
    Ok(())
}

/// `interns1.py`, which serves InternVL's Hugging Face form as well; defaults of
/// `InternVLVisionConfig`.
fn interns1(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "qwen2", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = vision_config(config)?;
    let size = Size::read(&fields, [24, 1024, 4096, 16])?;
    let (patch, image) = (side(&fields, "patch_size", 14)?, side(&fields, "image_size", 448)?);
    let rms = fields.text("norm_type")? == Some("rms_norm");
    let style = Style {
        layers: "encoder.layer",
        norms: &["layernorm_before", "layernorm_after"],
        rms,
        attention: "attention",
        qkv: &["q_proj", "k_proj", "v_proj"],
        out: "projection_layer",
        qkv_bias: fields.flag("attention_bias", false)?,
        scales: &["lambda_1", "lambda_2"],
        attention_divided: false,
        ..VIT
    };
    let qk_norm = fields.flag("use_qk_norm", false)?;
    let mask = fields.flag("use_mask_token", false)?;
    let mean_pooling = fields.flag("use_mean_pooling", true)?;
    let positions = (image / patch.max(1)).saturating_pow(2).saturating_add(1);
    b.scope("vision_tower", |b| {
        b.scope("embeddings", |b| {
            b.param("cls_token", Param::whole(size.width));
            if mask {
                b.param("mask_token", Param::whole(size.width));
            }
            b.param("position_embeddings", Param::whole(positions.saturating_mul(size.width)));
            let shape = [size.width, 3, patch, patch];
            convolution(b, "patch_embeddings.projection", &shape, true);
        });
        encoder(b, &style, &size);
        for layer in 0..if qk_norm { size.layers } else { 0 } {
            for name in ["q_norm", "k_norm"] {
                b.rms_norm(&format!("encoder.layer.{layer}.attention.{name}"), size.width);
            }
        }
        if !mean_pooling {
            b.layer_norm("layernorm", size.width);
        }
    });
    let merged = times(&[size.width, 4]);
    b.layer_norm("multi_modal_projector.layer_norm", merged);
    plain(b, "multi_modal_projector.linear_1", merged, width, true);
    plain(b, "multi_modal_projector.linear_2", width, width, true);
    Ok(())
}

const CHAT: Language =
    Language { at: "llm_config", model_type: "qwen2", tied: Tied::OuterOrInner, ..LANGUAGE };

fn internvl_chat(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, CHAT)?;
    let merged = intern_vit(config, b, &INTERN_VIT)?;
    mlp1(b, [merged, width, width], true);
    Ok(())
}

/// `nvlm_d.py`: seven more heads than the config says, so that they divide.
fn nvlm_d(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, CHAT)?;
    let inner = b.dims.inner.into();
    let merged = intern_vit(config, b, &InternVit { dummy_heads: 7, ..INTERN_VIT })?;
    mlp1(b, [merged, inner, width], false);
    Ok(())
}

fn skywork(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let width = language(config, b, CHAT)?;
    let merged = intern_vit(config, b, &INTERN_VIT)?;
    b.layer_norm("mlp1.0", merged);
    two_linear(b, ["mlp1.1", "mlp1.3"], [merged, width, width], [false, true, true]);
    Ok(())
}

pub(super) fn mlp1(b: &mut Builder, [input, inner, out]: [u64; 3], bias: bool) {
    b.layer_norm("mlp1.0", input);
    plain(b, "mlp1.1", input, inner, bias);
    plain(b, "mlp1.3", inner, out, bias);
}

/// What a config class of InternViT holds where a field is absent.
pub(super) struct InternVit {
    /// Layers, width, inner width, heads.
    pub(super) sizes: [u32; 4],
    pub(super) image: u32,
    pub(super) qkv_bias: bool,
    pub(super) qk_norm: bool,
    /// Heads that the model class adds.
    pub(super) dummy_heads: u64,
}

pub(super) const INTERN_VIT: InternVit = InternVit {
    sizes: [48, 3200, 12800, 25],
    image: 224,
    qkv_bias: false,
    qk_norm: true,
    dummy_heads: 0,
};

/// InternViT (`intern_vit.py`): its attention is whole where the heads do not divide. Returns the
/// width of its shuffled patches.
pub(super) fn intern_vit(
    config: &Config<'_>,
    b: &mut Builder,
    defaults: &InternVit,
) -> Result<u64> {
    let fields = vision_config(config)?;
    let mut size = Size::read(&fields, defaults.sizes)?;
    let layer = match config.root.value("select_layer") {
        None => -1,
        Some(value) => value.as_i64().unwrap_or(i64::MAX),
    };
    let built = if layer < 0 { i64::from(size.layers) + layer } else { layer }.saturating_add(1);
    size.layers =
        u32::try_from(built).ok().filter(|&built| built <= size.layers).ok_or_else(|| {
            wrong("select_layer", format!("{layer}; expected a layer of {}", size.layers))
        })?;
    let (patch, image) =
        (side(&fields, "patch_size", 14)?, side(&fields, "image_size", defaults.image)?);
    let positions = (image / patch.max(1)).saturating_pow(2).saturating_add(1);
    let rms = fields.text("norm_type")? == Some("rms_norm");
    let style = Style {
        norms: &["norm1", "norm2"],
        rms,
        attention: "attn",
        qkv: &["qkv"],
        out: "proj",
        qkv_bias: fields.flag("qkv_bias", defaults.qkv_bias)?,
        scales: &["ls1", "ls2"],
        whole_if_uneven: true,
        ..VIT
    };
    let qk_norm = fields.flag("qk_normalization", defaults.qk_norm)?;
    size.heads = size.heads.saturating_add(defaults.dummy_heads);
    size.kv_heads = size.heads;
    let norm_width = size.heads.saturating_mul(size.head_dim);
    b.scope("vision_model", |b| {
        b.param("embeddings.class_embedding", Param::whole(size.width));
        convolution(b, "embeddings.patch_embedding", &[size.width, 3, patch, patch], true);
        let table = positions.saturating_mul(size.width);
        b.param("embeddings.position_embedding", Param::whole(table));
        encoder(b, &style, &size);
        for layer in 0..if qk_norm { size.layers } else { 0 } {
            for name in ["q_norm", "k_norm"] {
                norm(b, &format!("encoder.layers.{layer}.attn.{name}"), norm_width, true);
            }
        }
    });
    let ratio = config.root.number("downsample_ratio")?.unwrap_or(0.5);
    let factor = shuffle(ratio)?;
    Ok(times(&[size.width, factor, factor]))
}

/// Patches on a side that are shuffled into one: the whole part of 1 / `downsample_ratio`.
pub(super) fn shuffle(ratio: f64) -> Result<u64> {
    let factor = match ratio {
        ratio if ratio > 0.0 && ratio <= 1.0 => (1.0 / ratio).min(64.0),
        _ => return Err(wrong("downsample_ratio", format!("{ratio}; expected one up to 1"))),
    };
    let factor = (1..=64u32).rev().find(|&whole| f64::from(whole) <= factor).unwrap_or(1);
    Ok(factor.into())
}

/// `paddleocr_vl.py`: the text model's fields are the document's own.
fn paddleocr(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let language_side = Language { model_type: "ernie4_5", tied: Tied::Outer(true), ..LANGUAGE };
    let width = language(config, b, language_side)?;
    let fields = vision_config(config)?;
    let size = Size::read(&fields, [27, 1152, 4304, 16])?;
    let (patch, image) = (side(&fields, "patch_size", 14)?, side(&fields, "image_size", 384)?);
    let merge = number(&fields, "spatial_merge_size", 2)?;
    b.scope("visual.vision_model", |b| {
        let shape = [size.width, 3, patch, patch];
        convolution(b, "embeddings.patch_embedding", &shape, true);
        let positions = (image / patch.max(1)).saturating_pow(2);
        b.table("embeddings.position_embedding", positions, size.width);
        encoder(b, &VIT, &size);
        b.layer_norm("post_layernorm", size.width);
    });
    let merged = times(&[size.width, merge, merge]);
    b.layer_norm("mlp_AR.pre_norm", size.width);
    plain(b, "mlp_AR.linear_1", merged, merged, true);
    plain(b, "mlp_AR.linear_2", merged, width, true);
    Ok(())
}
