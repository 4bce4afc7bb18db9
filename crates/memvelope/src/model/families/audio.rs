//! Audio towers: encoders that run once per clip and keep nothing between steps.

use super::vision::{Size, Style, VIT, convolution, encoder, number};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::Fields;

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
