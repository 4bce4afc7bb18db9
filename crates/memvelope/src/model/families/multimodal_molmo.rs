//! Molmo: a tower, attention that pools its patches, and a language model of its own kind.

use super::Family;
use super::limits::{HEAD_DIM_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, VOCAB_MAX};
use super::moe_parts::{Attn, Class, Dense, Frame, Mlp, QkNorm, size};
use super::multimodal::{family, prefix_lm};
use super::vision::{Size, Style, VIT, encoder, number, plain};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param};

pub(super) static FAMILIES: &[Family] = &[
    family(&["MolmoForCausalLM"], &["molmo"], molmo),
    family(&["Molmo2ForConditionalGeneration"], &["molmo2"], molmo2),
];

/// Tokens of the embedding that the output matrix does not have (`ADDITIONAL_VOCAB_SIZE`).
const MORE_TOKENS: u32 = 128;

const TOWER: Style = Style {
    layers: "transformer.resblocks",
    norms: &["attention_norm", "ffn_norm"],
    attention: "attention",
    qkv: &["wq", "wk", "wv"],
    out: "wo",
    mlp: "feed_forward",
    up: "w1",
    down: "w2",
    ..VIT
};

/// A flag that the model class reads without a default.
fn declared(fields: &Fields<'_>, name: &str) -> Result<bool> {
    if fields.value(name).is_none() {
        return Err(wrong(fields.path(name), "missing, and it has no default"));
    }
    fields.flag(name, false)
}

fn decoder(b: &mut Builder, dims: &Dims, attention: &Attn, frame: Frame) -> Result<()> {
    b.is_multimodal = true;
    let dense = Dense::new("mlp", dims.inner);
    frame.build(b, dims, |_| Ok((attention.clone(), Mlp::Dense(dense))))
}

/// The pooling and the projector; `widths` of a patch, of the pooling, of the projector, of text.
fn adapter(b: &mut Builder, pool: &Size, [input, inner, out]: [u64; 3]) {
    let (heads, dim) = (pool.heads.saturating_mul(pool.head_dim), pool.head_dim);
    b.scope("image_pooling_2d", |b| {
        b.linear("q_proj", Linear::column(input, heads).bias(true));
        let keys = Linear::qkv(input, 0, pool.kv_heads, dim, dim);
        b.linear("merged_kv", keys.bias(true));
        b.linear("o_proj", Linear::row(heads, pool.width).bias(true));
    });
    b.scope("image_projector", |b| {
        b.linear("merged_linear", Linear::merged(pool.width, [inner, inner]));
        b.linear("down_proj", Linear::row(inner, out));
    });
}

/// vLLM 0.32 `molmo.py`; `intermediate_size` is that of gate and up together. The tower is CLIP's
/// large one whatever the config says.
fn molmo(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.root;
    let mut dims = Class::default().read(fields)?;
    dims.head_dim = dims.hidden / dims.heads;
    dims.inner /= 2;
    dims.vocab = fields.count("embedding_size", VOCAB_MAX)?.unwrap_or(dims.vocab);
    let norms = declared(fields, "attention_layer_norm")?;
    let attention = Attn {
        qkv_bias: declared(fields, "qkv_bias")?,
        norms: if norms { QkNorm::Whole } else { QkNorm::None },
        ..Attn::of(&dims)
    };
    let tied = fields.flag("weight_tying", false)?;
    let frame = Frame { more_rows: MORE_TOKENS.into(), ..Frame::new(tied) };
    decoder(b, &dims, &attention, frame)?;
    let tower =
        Size { layers: 23, width: 1024, inner: 4096, heads: 16, kv_heads: 16, head_dim: 64 };
    b.scope("vision_backbone", |b| {
        // Of the features of two layers.
        let input = 2 * tower.width;
        b.param("pad_embed", Param::whole(2 * input));
        b.scope("image_vit", |b| {
            b.param("class_embedding", Param::whole(tower.width));
            b.param("positional_embedding", Param::whole(577 * tower.width));
            plain(b, "patch_embedding", 588, tower.width, false);
            b.layer_norm("pre_ln", tower.width);
            encoder(b, &TOWER, &tower);
        });
        adapter(b, &tower, [input, dims.inner.into(), dims.hidden.into()]);
    });
    Ok(())
}

/// vLLM 0.32 `molmo2.py`, whose data classes have the defaults.
fn molmo2(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    const TEXT: Class = Class {
        layers: 48,
        hidden: 3584,
        heads: 28,
        kv_heads: 4,
        head_dim: 128,
        inner: 18_944,
        vocab: 152_064,
        tokens: 4096,
    };
    let fields = &config.text;
    let dims = TEXT.read(fields)?;
    let norms = match fields.flag("use_qk_norm", false)? {
        false => QkNorm::None,
        true if fields.text("qk_norm_type")? == Some("qwen3") => QkNorm::Head,
        true => QkNorm::Whole,
    };
    let attention = Attn { qkv_bias: fields.flag("qkv_bias", true)?, norms, ..Attn::of(&dims) };
    let more = fields.count_or("additional_vocab_size", MORE_TOKENS, VOCAB_MAX)?;
    decoder(b, &dims, &attention, Frame { more_rows: more.into(), ..Frame::new(false) })?;
    b.is_prefix_lm = prefix_lm(config, true)?;
    let fields = config.root.object_or_empty("adapter_config")?;
    let heads = number(&fields, "num_attention_heads", 16)?;
    let pool = Size {
        layers: 1,
        width: number(&fields, "hidden_size", 1152)?,
        inner: size(&fields, "intermediate_size", 18_944, INNER_MAX)?.into(),
        heads,
        kv_heads: number(&fields, "num_key_value_heads", 16)?,
        head_dim: size(&fields, "head_dim", 72, HEAD_DIM_MAX)?.into(),
    };
    let out = number(&fields, "text_hidden_size", 3584)?;
    let depths = depths(&fields)?;
    let fields = config.root.object_or_empty("vit_config")?;
    let mut tower = Size::read(&fields, [27, 1152, 4304, 16])?;
    tower.head_dim = size(&fields, "head_dim", 72, HEAD_DIM_MAX)?.into();
    tower.kv_heads = number(&fields, "num_key_value_heads", 16)?;
    let patch = size(&fields, "image_patch_size", 14, TOKENS_MAX)?;
    let positions = number(&fields, "image_num_pos", 577)?;
    // Up to the deepest layer that is looked at.
    let all = i64::from(tower.layers);
    let deepest = depths.iter().map(|&at| if at < 0 { at + all } else { at } + 1).max();
    tower.layers = deepest
        .and_then(|deepest| u32::try_from(deepest.min(all)).ok())
        .filter(|&layers| layers > 0)
        .ok_or_else(|| wrong("adapter_config.vit_layers", "no layers of the tower"))?;
    b.scope("vision_backbone", |b| {
        b.scope("image_vit", |b| {
            b.param("positional_embedding", Param::whole(positions.saturating_mul(tower.width)));
            let patch = u64::from(patch).saturating_pow(2).saturating_mul(3);
            plain(b, "patch_embedding", patch, tower.width, true);
            encoder(b, &Style { qkv: &["merged_qkv"], ..TOWER }, &tower);
        });
        let features = u64::try_from(depths.len()).unwrap_or(u64::MAX);
        let input = tower.width.saturating_mul(features);
        adapter(b, &pool, [input, pool.inner, out]);
    });
    Ok(())
}

/// `vit_layers`, negative ones from the end.
fn depths(fields: &Fields<'_>) -> Result<Vec<i64>> {
    let name = "vit_layers";
    if fields.value(name).is_none() {
        return Ok(vec![-3, -9]);
    }
    let layers = fields.items(name)?.iter().map(|item| item.as_i64());
    let is_layer = |layer: &i64| layer.unsigned_abs() <= LAYERS_MAX.into();
    layers
        .map(|layer| layer.filter(is_layer))
        .collect::<Option<_>>()
        .ok_or_else(|| wrong(fields.path(name), "expected numbers of layers"))
}
