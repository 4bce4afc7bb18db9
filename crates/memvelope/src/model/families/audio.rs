//! Audio towers: encoders that run once per clip and keep nothing between steps.

use super::limits::{LAYERS_MAX, WIDTH_MAX};
use super::vision::{Size, Style, VIT, convolution, encoder, number, plain, two_linear};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Fields, wrong};
use crate::model::weights::module::{Linear, Param};

/// Whisper's encoder as the engine builds it (`whisper.py`).
pub(super) const WHISPER: Style =
    Style { layers: "layers", norms: &["self_attn_layer_norm", "final_layer_norm"], ..VIT };

/// Whisper's encoder as Hugging Face builds it, whole on every rank.
pub(super) const WHISPER_PLAIN: Style = Style {
    qkv: &["q_proj", "k_proj", "v_proj"],
    no_bias: "k_proj",
    mlp: "",
    attention_divided: false,
    mlp_divided: false,
    quantizable: false,
    ..WHISPER
};

/// Sizes of an encoder, in Whisper's names; the numbers are the config class's defaults of layers,
/// width, inner width and heads.
pub(super) fn whisper_size(fields: &Fields<'_>, defaults: [u32; 4]) -> Result<Size> {
    let names = ["encoder_layers", "d_model", "encoder_ffn_dim", "encoder_attention_heads"];
    Size::read_as(fields, names, defaults)
}

/// Sizes of Whisper's decoder, with the defaults of `WhisperConfig`.
pub(super) fn whisper_decoder_size(fields: &Fields<'_>) -> Result<Size> {
    let names = ["decoder_layers", "d_model", "decoder_ffn_dim", "decoder_attention_heads"];
    Size::read_as(fields, names, [4, 384, 1536, 6])
}

/// The two convolutions, the positions if they are a table, the layers and the last norm.
pub(super) fn whisper_encoder(
    b: &mut Builder,
    fields: &Fields<'_>,
    style: &Style,
    size: &Size,
    [mels, positions]: [u32; 2],
) -> Result<()> {
    let mels = number(fields, "num_mel_bins", mels)?;
    convolution(b, "conv1", &[size.width, mels, 3], true);
    convolution(b, "conv2", &[size.width, size.width, 3], true);
    if positions > 0 {
        b.table("embed_positions", number(fields, "max_source_positions", positions)?, size.width);
    }
    encoder(b, style, size);
    Ok(())
}

/// The encoder of the Qwen3 line (`qwen3_omni_moe_thinker.py`): three two-dimensional convolutions,
/// then Whisper's layers without a scope around the MLP.
pub(super) fn qwen3_audio(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    let style = Style { mlp: "", ..WHISPER };
    let size = whisper_size(fields, [32, 1280, 5120, 20])?;
    let mut mels = number(fields, "num_mel_bins", 128)?;
    let hidden = number(fields, "downsample_hidden_size", 480)?;
    let out = number(fields, "output_dim", 3584)?;
    for (name, input) in [("conv2d1", 1), ("conv2d2", hidden), ("conv2d3", hidden)] {
        convolution(b, name, &[hidden, input, 3, 3], true);
        mels = mels.div_ceil(2);
    }
    plain(b, "conv_out", hidden.saturating_mul(mels), size.width, false);
    encoder(b, &style, &size);
    b.layer_norm("ln_post", size.width);
    plain(b, "proj1", size.width, size.width, true);
    plain(b, "proj2", size.width, out, true);
    Ok(())
}

/// Gemma 4's conformer (`gemma4_mm.py`): Hugging Face's own, whole on every rank; defaults of
/// `Gemma4AudioConfig`. `quantizable`: matrices that the engine replaces by its own.
pub(super) fn gemma4_audio(b: &mut Builder, fields: &Fields<'_>, quantizable: bool) -> Result<u64> {
    let heads = number(fields, "num_attention_heads", 8)?.max(1);
    let width = number(fields, "hidden_size", 1024)?;
    let layers = fields.count("num_hidden_layers", LAYERS_MAX)?.unwrap_or(12);
    let taps = number(fields, "conv_kernel_size", 5)?;
    let out = number(fields, "output_proj_dims", 1536)?;
    let channels = fields.counts("subsampling_conv_channels", WIDTH_MAX)?;
    let channels: Vec<u64> =
        channels.unwrap_or_else(|| vec![128, 32]).into_iter().map(u64::from).collect();
    let &[first, second] = channels.as_slice() else {
        return Err(wrong(fields.path("subsampling_conv_channels"), "expected two numbers"));
    };
    let linear = |b: &mut Builder, name: &str, input: u64, out: u64, bias: bool| {
        let linear = Linear::replicated(input, out).bias(bias);
        b.linear(name, if quantizable { linear } else { linear.plain() });
    };
    b.scope("subsample_conv_projection", |b| {
        for (name, shape) in [("layer0", [first, 1, 3, 3]), ("layer1", [second, first, 3, 3])] {
            convolution(b, &format!("{name}.conv"), &shape, false);
            b.rms_norm(&format!("{name}.norm"), shape[0]);
        }
        // A quarter of the 128 mel bins is left of each channel.
        linear(b, "input_proj_linear", (first / 4).saturating_mul(second), width, false);
    });
    for layer in 0..layers {
        b.scope(&format!("layers.{layer}"), |b| {
            for name in ["feed_forward1", "feed_forward2"] {
                b.scope(name, |b| {
                    linear(b, "ffw_layer_1.linear", width, width.saturating_mul(4), false);
                    linear(b, "ffw_layer_2.linear", width.saturating_mul(4), width, false);
                    b.rms_norm("pre_layer_norm", width);
                    b.rms_norm("post_layer_norm", width);
                });
            }
            b.scope("self_attn", |b| {
                b.param("per_dim_scale", Param::whole(width / heads));
                for name in ["q_proj.linear", "k_proj.linear", "v_proj.linear", "post.linear"] {
                    linear(b, name, width, width, false);
                }
                linear(b, "relative_k_proj", width, width, false);
            });
            b.scope("lconv1d", |b| {
                linear(b, "linear_start.linear", width, width.saturating_mul(2), false);
                linear(b, "linear_end.linear", width, width, false);
                convolution(b, "depthwise_conv1d", &[width, 1, taps], false);
                b.rms_norm("pre_layer_norm", width);
                b.rms_norm("conv_norm", width);
            });
            for name in ["norm_pre_attn", "norm_post_attn", "norm_out"] {
                b.rms_norm(name, width);
            }
        });
    }
    linear(b, "output_proj", width, out, true);
    Ok(out)
}

/// Granite's conformer (`granite_speech.py`): its MLPs are divided, its attention is not.
pub(super) fn conformer(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    let width = number(fields, "hidden_dim", 1024)?;
    let layers = fields.count("num_layers", LAYERS_MAX)?.unwrap_or(10);
    let inner = width.saturating_mul(number(fields, "feedforward_mult", 4)?);
    let dim = number(fields, "dim_head", 128)?;
    let heads = number(fields, "num_heads", 8)?.saturating_mul(dim);
    let positions = number(fields, "max_pos_emb", 512)?.saturating_mul(2).saturating_add(1);
    let taps = number(fields, "conv_kernel_size", 15)?;
    let wide = width.saturating_mul(number(fields, "conv_expansion_factor", 2)?);
    let out = number(fields, "output_dim", 42)?;
    plain(b, "input_linear", number(fields, "input_dim", 160)?, width, true);
    for layer in 0..layers {
        b.scope(&format!("layers.{layer}"), |b| {
            for name in ["ff1", "ff2"] {
                b.scope(name, |b| {
                    b.layer_norm("pre_norm", width);
                    two_linear(b, ["up_proj", "down_proj"], [width, inner, width], [true; 3]);
                });
            }
            b.scope("attn", |b| {
                b.layer_norm("pre_norm", width);
                plain(b, "to_q", width, heads, false);
                plain(b, "to_kv", width, heads.saturating_mul(2), false);
                plain(b, "to_out", heads, width, true);
                b.table("rel_pos_emb", positions, dim);
            });
            b.scope("conv", |b| {
                b.layer_norm("norm", width);
                convolution(b, "up_conv", &[wide.saturating_mul(2), width, 1], true);
                convolution(b, "depth_conv.conv", &[wide, 1, taps], false);
                b.layer_norm("batch_norm", wide);
                convolution(b, "down_conv", &[width, wide, 1], true);
            });
            b.layer_norm("post_norm", width);
        });
    }
    b.linear("out", Linear::column(width, out).bias(true));
    b.linear("out_mid", Linear::row(out, width).bias(true));
    Ok(())
}
