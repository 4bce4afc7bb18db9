//! Nemotron's hybrids that see and hear: the RADIO tower and a projector before the language model.

use super::Family;
use super::limits::{TOKENS_MAX, WIDTH_MAX};
use super::multimodal::{LANGUAGE, Language, Tied, family, language};
use super::multimodal_more::shuffle;
use super::vision::{Size, Style, VIT, encoder, number, plain, side, times};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::Param;
use std::collections::BTreeSet;

pub(super) static FAMILIES: &[Family] = &[family(
    &[
        "NemotronH_Nano_VL_V2",
        "NemotronH_Nano_Omni_Reasoning_V3",
        "NemotronH_Super_Omni_Reasoning_V3",
        "NemotronH_Omni_Reasoning_V3",
    ],
    &["NemotronH_Nano_VL_V2"],
    nano_vl,
)];

/// Sizes by the tower's name (vLLM 0.32 `configs/radio.py`): width, layers, heads, inner width.
const TOWERS: &[(&str, [u32; 4])] = &[
    ("vit_small_patch16_224", [384, 12, 6, 1536]),
    ("vit_base_patch16_224", [768, 12, 12, 3072]),
    ("vit_large_patch16_224", [1024, 24, 16, 4096]),
    ("vit_huge_patch16_224", [1280, 32, 16, 5120]),
];

/// vLLM 0.32 `nano_nemotron_vl.py`.
fn nano_vl(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let root = &config.root;
    let at = if root.value("llm_config").is_some() { "llm_config" } else { "text_config" };
    let own = Language { at, model_type: "nemotron_h", tied: Tied::OuterOrInner, ..LANGUAGE };
    let width = language(config, b, own)?;
    let fields = root.object_or_empty("vision_config")?;
    radio(b, &fields)?;
    let tower = u64::from(root.required(&["vit_hidden_size"], WIDTH_MAX)?);
    let inner = u64::from(root.required(&["projector_hidden_size"], WIDTH_MAX)?);
    // Rounded here, cut off in InternVL.
    let ratio = root.number("downsample_ratio")?.unwrap_or(0.5);
    let factor = shuffle(1.0 / (1.0 / ratio.max(1e-6)).round().max(1.0))?;
    let merged = times(&[tower, factor, factor]);
    b.rms_norm("mlp1.0", merged);
    plain(b, "mlp1.1", merged, inner, false);
    plain(b, "mlp1.3", inner, width, false);
    let text = root.object_or_empty(at)?;
    if text.count_or_zero("num_nextn_predict_layers", TOKENS_MAX)? > 0 {
        b.layer_norm("vision_final_layernorm", tower);
    }
    if root.value("sound_config").is_some() {
        b.weights_unknown("sizes of the sound encoder that the config does not say");
    }
    Ok(())
}

/// RADIO (`radio.py`): a class token for each of the towers it learned from, and registers that
/// fill them up to a multiple.
fn radio(b: &mut Builder, fields: &Fields<'_>) -> Result<()> {
    let args = fields.object_or_empty("args")?;
    let name = args.text("model")?.unwrap_or_default();
    let Some((_, [width, layers, heads, inner])) = TOWERS.iter().find(|row| row.0 == name) else {
        return Err(wrong(args.path("model"), "not a tower that the engine knows"));
    };
    let size = Size {
        layers: *layers,
        width: (*width).into(),
        inner: (*inner).into(),
        heads: (*heads).into(),
        kv_heads: (*heads).into(),
        head_dim: (width / heads).into(),
    };
    let teachers = args.objects("teachers")?;
    let names: Vec<Option<&str>> =
        teachers.iter().map(|teacher| teacher.text("name")).collect::<Result<_>>()?;
    let mut tokens = 1;
    if args.flag("cls_token_per_teacher", false)? {
        let unique: BTreeSet<_> = names.into_iter().collect();
        tokens = u64::try_from(unique.len()).unwrap_or(u64::MAX);
    }
    if let Some(multiple) = args.count("register_multiple", TOKENS_MAX)? {
        let multiple = u64::from(multiple);
        tokens = tokens.saturating_add(multiple - tokens % multiple);
    }
    let patch = side(fields, "patch_size", 16)?.max(1);
    let largest = number(&args, "cpe_max_size", 2048)?;
    let positions = ((largest + patch / 2) / patch).saturating_pow(2);
    let frames = number(fields, "video_temporal_patch_size", 1)?;
    let style = Style {
        norms: &["norm1", "norm2"],
        attention: "attn",
        qkv: &["qkv"],
        out: "proj",
        scales: &["ls1", "ls2"],
        whole_if_uneven: true,
        quantizable: false,
        ..VIT
    };
    b.scope("vision_model.model", |b| {
        b.scope("patch_generator", |b| {
            let input = times(&[3, patch, patch]);
            plain(b, "embedder", input, size.width, false);
            if frames > 1 {
                plain(b, "video_embedder", input.saturating_mul(frames), size.width, false);
            }
            b.param("pos_embed", Param::whole(positions.saturating_mul(size.width)));
            b.param("cls_token.token", Param::whole(tokens.saturating_mul(size.width)));
        });
        encoder(b, &style, &size);
    });
    Ok(())
}
