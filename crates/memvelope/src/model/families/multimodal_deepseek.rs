//! DeepSeek's models that see: VL2 and OCR. Their towers are fixed by the model class; the config
//! only sizes what lies between them and the language model.

use super::Family;
use super::limits::LAYERS_MAX;
use super::multimodal::{Language, Tied, family, language};
use super::vision::{Size, Style, VIT, convolution, encoder, number, plain, times, two_linear};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::Param;

pub(super) static FAMILIES: &[Family] = &[
    family(&["DeepseekVLV2ForCausalLM"], &["deepseek_vl_v2"], vl2),
    family(&["DeepseekOCRForCausalLM"], &["deepseek_ocr"], ocr),
    family(&["DeepseekOCR2ForCausalLM"], &["deepseek_ocr2"], ocr2),
];

const OWN: Language = Language {
    at: "language_config",
    model_type: "deepseek_v2",
    tied: Tied::OuterOrInner,
    scope: "language_model",
};

/// A tower of PyTorch's own matrices, whole on every rank.
const PLAIN: Style = Style {
    layers: "blocks",
    norms: &["norm1", "norm2"],
    attention: "attn",
    qkv: &["qkv"],
    out: "proj",
    attention_divided: false,
    mlp_divided: false,
    quantizable: false,
    ..VIT
};

/// The projector (`MlpProjector` of `deepseek_vl2.py`); returns its output's width.
fn projector(config: &Config<'_>, b: &mut Builder) -> Result<u64> {
    let fields = config.root.object_or_empty("projector_config")?;
    let input = number(&fields, "input_dim", 1152)?;
    let out = number(&fields, "n_embed", 2048)?;
    match fields.text("projector_type")?.unwrap_or("downsample_mlp_gelu") {
        "linear" => plain(b, "projector.layers", input, out, true),
        "downsample_mlp_gelu" => {
            let inner = out.saturating_mul(number(&fields, "mlp_ratio", 1)?);
            let down = number(&fields, "downsample_ratio", 2)?;
            plain(b, "projector.layers.0", times(&[input, down, down]), inner, true);
            let depth = fields.count("depth", LAYERS_MAX)?.unwrap_or(2);
            for layer in 2..depth {
                plain(b, &format!("projector.layers.{}", 2 * (layer - 1)), inner, inner, true);
            }
            plain(b, "projector.layers.last", inner, out, true);
        }
        _ => {
            let problem = "neither linear nor downsample_mlp_gelu, which are all there are";
            return Err(wrong(fields.path("projector_type"), problem));
        }
    }
    Ok(out)
}

/// Only tiles in two dimensions are served.
fn check_tiles(root: &Fields<'_>) -> Result<()> {
    match root.text("tile_tag")? {
        Some("2D") => Ok(()),
        _ => Err(wrong(root.path("tile_tag"), "not 2D, which is all that the engine serves")),
    }
}

/// vLLM 0.32 `deepseek_vl2.py`: timm's `vit_so400m_patch14_siglip_384` whatever the config says,
/// with its pooling; on several ranks its MLPs are divided.
fn vl2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    check_tiles(&config.root)?;
    language(config, b, Language { scope: "language", ..OWN })?;
    let size = Size { layers: 27, width: 1152, inner: 4304, heads: 16, kv_heads: 16, head_dim: 72 };
    let style = Style { mlp_divided: true, ..PLAIN };
    let width = size.width;
    b.scope("vision", |b| {
        b.param("pos_embed", Param::whole(27 * 27 * width));
        convolution(b, "patch_embed.proj", &[width, 3, 14, 14], true);
        encoder(b, &style, &size);
        b.layer_norm("norm", width);
        b.scope("attn_pool", |b| {
            b.param("latent", Param::whole(width));
            plain(b, "q", width, width, true);
            plain(b, "kv", width, 2 * width, true);
            plain(b, "proj", width, width, true);
            b.layer_norm("norm", width);
            let widths = [width, size.inner, width];
            two_linear(b, ["mlp.fc1", "mlp.fc2"], widths, [true, true, false]);
        });
    });
    let out = projector(config, b)?;
    b.param("image_newline", Param::whole(out));
    b.param("view_seperator", Param::whole(out));
    Ok(())
}

/// SAM's base encoder (`deepencoder.py`), whole on every rank; `out` channels at its end.
fn sam(b: &mut Builder, out: u64) {
    let size = Size { layers: 1, width: 768, inner: 3072, heads: 12, kv_heads: 12, head_dim: 64 };
    let style = Style { up: "lin1", down: "lin2", ..PLAIN };
    let width = size.width;
    b.scope("sam_model", |b| {
        b.param("pos_embed", Param::whole(64 * 64 * width));
        convolution(b, "patch_embed.proj", &[width, 3, 16, 16], true);
        for layer in 0..12_u32 {
            b.scope(&format!("blocks.{layer}"), |b| {
                super::vision::block(b, &style, &size);
                // Four layers see the whole image, the others windows of 14.
                let side: u64 = if layer % 3 == 2 { 64 } else { 14 };
                for name in ["attn.rel_pos_h", "attn.rel_pos_w"] {
                    b.param(name, Param::whole((2 * side - 1) * size.head_dim));
                }
            });
        }
        convolution(b, "neck.0", &[256, width, 1, 1], false);
        b.layer_norm("neck.1", 256_u64);
        convolution(b, "neck.2", &[256, 256, 3, 3], false);
        b.layer_norm("neck.3", 256_u64);
        convolution(b, "net_2", &[512, 256, 3, 3], false);
        convolution(b, "net_3", &[out, 512, 3, 3], false);
    });
}

/// vLLM 0.32 `deepseek_ocr.py`: SAM's base encoder before CLIP's large one.
fn ocr(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    check_tiles(&config.root)?;
    language(config, b, OWN)?;
    sam(b, 1024);
    let size = Size { layers: 24, width: 1024, inner: 4096, heads: 16, kv_heads: 16, head_dim: 64 };
    b.scope("vision_model", |b| {
        b.param("embeddings.class_embedding", Param::whole(size.width));
        convolution(b, "embeddings.patch_embedding", &[size.width, 3, 14, 14], false);
        b.table("embeddings.position_embedding", 16_u64 * 16 + 1, size.width);
        b.layer_norm("pre_layrnorm", size.width);
        encoder(b, &Style { layers: "transformer.layers", ..VIT }, &size);
    });
    let out = projector(config, b)?;
    b.param("image_newline", Param::whole(out));
    b.param("view_seperator", Param::whole(out));
    Ok(())
}

/// vLLM 0.32 `deepseek_ocr2.py`: SAM's base encoder before a small Qwen2, whole on every rank
/// (`deepencoder2.py`).
fn ocr2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    const QWEN2: Style = Style {
        layers: "layers",
        norms: &["input_layernorm", "post_attention_layernorm"],
        rms: true,
        qkv: &["q_proj", "k_proj", "v_proj"],
        out: "o_proj",
        out_bias: false,
        up: "gate_up_proj",
        down: "down_proj",
        mlp_bias: false,
        gated: true,
        attention_divided: false,
        mlp_divided: false,
        quantizable: false,
        ..VIT
    };
    check_tiles(&config.root)?;
    language(config, b, OWN)?;
    sam(b, 896);
    let size = Size { layers: 24, width: 896, inner: 4864, heads: 14, kv_heads: 2, head_dim: 64 };
    b.scope("qwen2_model", |b| {
        b.scope("model.model", |b| {
            encoder(b, &QWEN2, &size);
            b.rms_norm("norm", size.width);
        });
        b.table("query_768", 144_u64, size.width);
        b.table("query_1024", 256_u64, size.width);
    });
    let out = projector(config, b)?;
    b.param("view_seperator", Param::whole(out));
    Ok(())
}
