//! Whisper: an encoder, and a decoder with a cache of its own tokens and one of the encoder's.

use super::Family;
use super::audio::{WHISPER, whisper_decoder_size, whisper_encoder, whisper_size};
use super::limits::{TOKENS_MAX, VOCAB_MAX};
use super::vision::{Size, Style, attention, mlp};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{Attention, CacheKind, Reach};
use crate::model::hf_config::Config;
use crate::model::weights::module::Linear;

pub(super) static FAMILIES: &[Family] = &[Family {
    architectures: &["WhisperForConditionalGeneration"],
    model_types: &["whisper"],
    rule: whisper,
}];

/// `whisper.py`; defaults of `WhisperConfig`.
fn whisper(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.root;
    let encoder = whisper_size(fields, [4, 384, 1536, 6])?;
    let decoder = whisper_decoder_size(fields)?;
    let vocab = fields.count("vocab_size", VOCAB_MAX)?.unwrap_or(51865);
    let tokens = fields.count("max_target_positions", TOKENS_MAX)?.unwrap_or(448);
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    b.dims = Dims {
        layers: decoder.layers,
        heads: small(decoder.heads),
        kv_heads: small(decoder.heads),
        head_dim: small(decoder.head_dim),
        hidden: small(decoder.width),
        inner: small(decoder.inner),
        vocab,
        tokens_max: Some(tokens),
    };
    b.is_multimodal = true;
    b.is_encoder_decoder = true;
    b.mm_item_tokens_max = Some(fields.count("max_source_positions", TOKENS_MAX)?.unwrap_or(1500));
    b.scope("model.encoder", |b| -> Result<()> {
        whisper_encoder(b, fields, &WHISPER, &encoder, [80, 1500])?;
        b.layer_norm("layer_norm", encoder.width);
        Ok(())
    })?;
    b.scope("model.decoder", |b| {
        // Tied to the output matrix; a plain table, so neither padded nor divided.
        b.table("embed_tokens", vocab, decoder.width);
        b.inventory.tied_heads.push(vocab.into());
        b.table("embed_positions", tokens, decoder.width);
        for layer in 0..decoder.layers {
            b.scope(&format!("layers.{layer}"), |b| decoder_layer(b, &decoder));
        }
        b.layer_norm("layer_norm", decoder.width);
    });
    let attention = Attention {
        heads: small(decoder.heads),
        kv_heads: small(decoder.kv_heads),
        key_dim: small(decoder.head_dim),
        value_dim: small(decoder.head_dim),
        reach: Reach::Full,
        sinks: false,
    };
    for layer in 0..decoder.layers {
        b.cache(layer, CacheKind::Attention(attention));
        b.cache(layer, CacheKind::Cross(attention));
    }
    Ok(())
}

fn decoder_layer(b: &mut Builder, size: &Size) {
    let style: &Style = &WHISPER;
    b.layer_norm("self_attn_layer_norm", size.width);
    b.scope("self_attn", |b| attention(b, style, size));
    b.layer_norm("encoder_attn_layer_norm", size.width);
    b.scope("encoder_attn", |b| {
        let width = size.width;
        b.linear("q_proj", Linear::column(width, width).bias(true));
        b.linear("kv_proj", Linear::merged(width, [width, width]).bias(true));
        b.linear("out_proj", Linear::row(width, width).bias(true));
    });
    b.scope("mlp", |b| mlp(b, style, size));
    b.layer_norm("final_layer_norm", size.width);
}
