//! Phi-4 Multimodal: SigLIP and a conformer before the language model.

use super::Family;
use super::limits::{HEADS_MAX, INNER_MAX, LAYERS_MAX, TOKENS_MAX, WIDTH_MAX};
use super::multimodal::{LANGUAGE, Language, Tied, family, language};
use super::vision::{Size, VIT, convolution, encoder, plain};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::{Config, Fields};
use crate::model::weights::module::Param;

pub(super) static FAMILIES: &[Family] = &[family(&["Phi4MMForCausalLM"], &["phi4mm"], phi4mm)];

/// vLLM 0.32 `phi4mm.py`: the tower is SigLIP's large one of 448 pixels without its last layer,
/// whatever the config says.
fn phi4mm(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let own = Language { model_type: "phi3", tied: Tied::Outer(false), scope: "", ..LANGUAGE };
    let width = language(config, b, own)?;
    let size = Size { layers: 26, width: 1152, inner: 4304, heads: 16, kv_heads: 16, head_dim: 72 };
    b.scope("vision_encoder", |b| {
        b.param("glb_GN", Param::whole(size.width));
        b.param("sub_GN", Param::whole(size.width));
        b.scope("img_processor", |b| {
            convolution(b, "embeddings.patch_embedding", &[size.width, 3, 14, 14], true);
            b.table("embeddings.position_embedding", 32_u64 * 32, size.width);
            encoder(b, &VIT, &size);
        });
        plain(b, "img_projection.0", size.width, width, true);
        plain(b, "img_projection.2", width, width, true);
    });
    let processor = config.root.object_or_empty("audio_processor")?;
    let fields = processor.object_or_empty("config")?;
    let layers = config.root.object_or_empty("embd_layer")?;
    let layers = layers.object_or_empty("audio_embd_layer")?;
    let is_known = layers.text("projection_cls")? == Some("mlp")
        && !layers.flag("use_qformer", false)?
        && !layers.flag("use_conv_downsample", false)?
        && layers.count_or("downsample_rate", 1, TOKENS_MAX)? == 1;
    let conformer = Conformer::read(&fields)?;
    let Some(conformer) = conformer.filter(|_| is_known) else {
        b.weights_unknown("a sound encoder of other settings than Phi-4 Multimodal's");
        return Ok(());
    };
    b.scope("embed_tokens_extend", |b| {
        b.scope("encoder", |b| conformer.build(b));
        for name in ["audio_projection", "audio_projection_for_vision"] {
            plain(b, &format!("{name}.0"), conformer.width, width, true);
            plain(b, &format!("{name}.2"), width, width, true);
        }
    });
    Ok(())
}

/// The conformer (`phi4mm_audio.py`), whole on every rank.
struct Conformer {
    width: u64,
    heads: u64,
    inner: u64,
    blocks: u32,
    mels: u64,
    /// Channels of the convolutions before it.
    channels: u64,
    /// Halvings of time and frequency by them.
    halvings: u32,
    /// Distances that have a bias.
    distances: u64,
    pointwise: u64,
    separable: u64,
    taps: u64,
    glu_bias: bool,
}

impl Conformer {
    /// `None` where the settings are of another kind.
    fn read(fields: &Fields<'_>) -> Result<Option<Self>> {
        let reduction = fields.count("time_reduction", TOKENS_MAX)?.unwrap_or(4);
        let bias = fields.object_or_empty("relative_attention_bias_args")?;
        let nemo = fields.object_or_empty("nemo_conv_settings")?;
        let pointwise = fields.count_or("ext_pw_out_channel", 0, WIDTH_MAX)?;
        let is_known = fields.text("input_layer")?.is_none_or(|kind| kind == "nemo_conv")
            && reduction.is_power_of_two()
            && bias.text("type")? == Some("t5")
            && !bias.flag("t5_bias_symmetric", false)?
            && !fields.flag("batch_norm", false)?
            && !fields.flag("linear_glu_in_convm", false)?
            && fields.flag("cnn_layer_norm", false)?
            && fields.count_or("depthwise_multiplier", 1, WIDTH_MAX)? == 1
            && fields.count_or("attention_group_size", 1, HEADS_MAX)? == 1
            && fields.count_or("ext_pw_kernel_size", 1, WIDTH_MAX)? == 1
            && pointwise > 0;
        if !is_known {
            return Ok(None);
        }
        let channels = nemo.count("conv_channels", WIDTH_MAX)?.unwrap_or(256);
        let number = |name: &str, default: u32, max: u32| -> Result<u64> {
            Ok(fields.count(name, max)?.unwrap_or(default).into())
        };
        Ok(Some(Self {
            width: number("attention_dim", 256, WIDTH_MAX)?,
            heads: number("attention_heads", 4, HEADS_MAX)?,
            inner: number("linear_units", 2048, INNER_MAX)?,
            blocks: fields.count("num_blocks", LAYERS_MAX)?.unwrap_or(6),
            mels: number("input_size", 80, WIDTH_MAX)?,
            channels: channels.into(),
            halvings: reduction.trailing_zeros(),
            distances: bias.count("t5_bias_max_distance", TOKENS_MAX)?.unwrap_or(1000).into(),
            pointwise: pointwise.into(),
            separable: number("depthwise_seperable_out_channel", 256, WIDTH_MAX)?,
            taps: number("kernel_size", 3, WIDTH_MAX)?,
            glu_bias: fields.flag("bias_in_glu", true)?,
        }))
    }

    fn build(&self, b: &mut Builder) {
        let Self { width, channels, .. } = *self;
        b.scope("embed", |b| {
            let mut bands = self.mels;
            for stage in 0..self.halvings {
                bands = bands.div_ceil(2);
                convolution(b, &format!("conv.{stage}.depth"), &[channels, 1, 3, 3], true);
                if stage > 0 {
                    let name = format!("conv.{stage}.point");
                    convolution(b, &name, &[channels, channels, 1, 1], true);
                }
            }
            plain(b, "out", channels.saturating_mul(bands), width, true);
        });
        let distances = self.distances.saturating_mul(2);
        b.table("relative_attention_bias_layer.bias_values", distances, self.heads);
        b.param("encoder_embedding", Param::whole(self.mels.saturating_mul(2)));
        for block in 0..self.blocks {
            b.scope(&format!("encoders.{block}"), |b| self.block(b));
        }
    }

    fn block(&self, b: &mut Builder) {
        let Self { width, inner, pointwise, .. } = *self;
        for name in ["feed_forward_in", "feed_forward_out"] {
            b.scope(name, |b| {
                b.layer_norm("layer_norm", width);
                plain(b, "net.0.linear", width, inner.saturating_mul(2), true);
                plain(b, "net.2", inner, width, true);
            });
        }
        for name in ["linear_q", "linear_k", "linear_v", "linear_out"] {
            plain(b, &format!("self_attn.{name}"), width, width, true);
        }
        b.scope("conv", |b| {
            b.layer_norm("layer_norm", width);
            if self.glu_bias {
                b.param("glu.b1", Param::whole(pointwise));
                b.param("glu.b2", Param::whole(pointwise));
            }
            let wide = pointwise.saturating_mul(2);
            convolution(b, "glu.ext_pw_conv_1d", &[wide, width, 1], true);
            convolution(b, "ext_pw_conv_1d", &[width, self.separable, 1], true);
            convolution(b, "dw_sep_conv_1d.dw_conv", &[width, 1, self.taps], true);
            convolution(b, "dw_sep_conv_1d.pw_conv", &[self.separable, width, 1], true);
        });
        b.layer_norm("layer_norm_att", width);
        b.layer_norm("layer_norm", width);
    }
}
