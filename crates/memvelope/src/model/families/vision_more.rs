//! Vision towers that one line of models has to itself.

use super::limits::HEAD_DIM_MAX;
use super::vision::{Size, Style, VIT, convolution, encoder, number, side, times, two_linear};
use crate::error::Result;
use crate::model::builder::Builder;
use crate::model::hf_config::Fields;
use crate::model::weights::module::{Linear, Param};

/// The three-dimensional MoonViT of Kimi K2.5 and K3 (`kimi_k25_vit.py`) with its projector.
pub(super) struct MoonVit {
    pub(super) size: Size,
    pub(super) bias: bool,
    /// A bias of the patches' convolution.
    pub(super) patch_bias: bool,
    /// A weight alone in the norms.
    pub(super) rms: bool,
    /// The second kind of projector: a norm at its end instead of its beginning, no biases.
    pub(super) projector_v2: bool,
    /// The engine hands the model's quantisation to the tower.
    pub(super) quantizable: bool,
}

impl MoonVit {
    /// Kimi K2.5. The `vt_` fields of its published configs are not fields of the config class
    /// (`Kimi_K25VisionConfig`), so its defaults hold.
    pub(super) fn k25(fields: &Fields<'_>, quantizable: bool) -> Result<Self> {
        Ok(Self {
            size: Size::read(fields, [27, 1152, 4304, 16])?,
            bias: true,
            patch_bias: true,
            rms: false,
            projector_v2: fields.text("mm_projector_type")? == Some("patchmergerv2"),
            quantizable,
        })
    }

    pub(super) fn build(
        &self,
        b: &mut Builder,
        fields: &Fields<'_>,
        text_width: u64,
        projector: &str,
    ) -> Result<()> {
        let patch = side(fields, "patch_size", 14)?;
        let width = self.size.width;
        let style = Style {
            layers: "encoder.blocks",
            norms: &["norm0", "norm1"],
            rms: self.rms,
            attention: "",
            qkv: &["wqkv"],
            out: "wo",
            up: "fc0",
            down: "fc1",
            qkv_bias: self.bias,
            out_bias: self.bias,
            mlp_bias: self.bias,
            whole_if_uneven: true,
            mlp_whole_if_uneven: true,
            quantizable: self.quantizable,
            ..VIT
        };
        // `init_pos_emb_*` of older checkpoints goes before `pos_emb_*`.
        let positions = |dim: &str| -> Result<u64> {
            let newer = number(fields, &format!("pos_emb_{dim}"), 64)?;
            let newer = u32::try_from(newer).unwrap_or(u32::MAX);
            number(fields, &format!("init_pos_emb_{dim}"), newer)
        };
        let positions = positions("height")?.saturating_mul(positions("width")?);
        b.scope("vision_tower", |b| {
            convolution(b, "patch_embed.proj", &[width, 3, patch, patch], self.patch_bias);
            b.param("patch_embed.pos_emb", Param::whole(positions.saturating_mul(width)));
            encoder(b, &style, &self.size);
            super::vision::norm(b, "encoder.final_layernorm", width, self.rms);
        });
        let merge = fields.counts("merge_kernel_size", HEAD_DIM_MAX)?.unwrap_or_else(|| vec![2, 2]);
        let merge: Vec<u64> = merge.into_iter().map(u64::from).collect();
        let merged = width.saturating_mul(times(&merge));
        b.scope(projector, |b| {
            match self.projector_v2 {
                true => b.rms_norm("post_norm", text_width),
                false => b.layer_norm("pre_norm", width),
            }
            let flags = [false, !self.projector_v2, self.quantizable];
            two_linear(b, ["linear_1", "linear_2"], [merged, merged, text_width], flags);
        });
        Ok(())
    }
}

/// Llama 4 (`mllama4.py`), never quantised; defaults of `Llama4VisionConfig`.
pub(super) fn llama4(b: &mut Builder, fields: &Fields<'_>, text_width: u64) -> Result<()> {
    let style = Style {
        layers: "model.layers",
        norms: &["input_layernorm", "post_attention_layernorm"],
        out: "o_proj",
        quantizable: false,
        ..VIT
    };
    let size = Size::read(fields, [34, 768, 5632, 16])?;
    let (patch, image) = (side(fields, "patch_size", 14)?, side(fields, "image_size", 448)?);
    let channels = number(fields, "num_channels", 3)?;
    let inner = number(fields, "projector_input_dim", 4096)?;
    let out = number(fields, "projector_output_dim", 4096)?;
    let bias = fields.flag("multi_modal_projector_bias", false)?;
    b.scope("vision_model", |b| {
        b.param("class_embedding", Param::whole(size.width));
        let positions = (image / patch.max(1)).saturating_pow(2).saturating_add(1);
        b.param("positional_embedding_vlm", Param::whole(positions.saturating_mul(size.width)));
        let patches = Linear::column(times(&[channels, patch, patch]), size.width);
        b.linear("patch_embedding.linear", patches.plain());
        b.layer_norm("layernorm_pre", size.width);
        b.layer_norm("layernorm_post", size.width);
        encoder(b, &style, &size);
        let names = ["vision_adapter.mlp.fc1", "vision_adapter.mlp.fc2"];
        two_linear(b, names, [size.inner, inner, out], [true, bias, false]);
    });
    let vision_out = number(fields, "vision_output_dim", 7680)?;
    let projector = Linear::column(vision_out, text_width).plain();
    b.linear("multi_modal_projector.linear_1", projector);
    Ok(())
}

/// Gemma 4 (`gemma4_mm.py`): Hugging Face's own tower, whole on every rank. Returns whether the
/// engine hands the model's quantisation to towers.
pub(super) fn gemma4(
    b: &mut Builder,
    fields: &Fields<'_>,
    text_width: u64,
    method: Option<&str>,
) -> Result<bool> {
    let mut size = Size::read(fields, [16, 768, 3072, 12])?;
    // The class's own, whatever the number of query heads.
    size.head_dim = number(fields, "head_dim", 64)?;
    size.kv_heads = number(fields, "num_key_value_heads", 12)?;
    let bias = fields.flag("attention_bias", false)?;
    let style = Style {
        norms: &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ],
        rms: true,
        qkv: &["q_proj.linear", "k_proj.linear", "v_proj.linear"],
        out: "o_proj.linear",
        qkv_bias: bias,
        out_bias: bias,
        up: "",
        down: "",
        mlp_bias: false,
        head_norms: &["q_norm", "k_norm"],
        attention_divided: false,
        mlp_divided: false,
        quantizable: gemma4_quantizable(&size, method),
        ..VIT
    };
    let patch = side(fields, "patch_size", 16)?;
    let positions = number(fields, "position_embedding_size", 10240)?;
    b.scope("vision_tower", |b| {
        let table = times(&[2, positions, size.width]);
        b.param("patch_embedder.position_embedding_table", Param::whole(table));
        let quantize = |linear: Linear| if style.quantizable { linear } else { linear.plain() };
        let patches = Linear::replicated(times(&[3, patch, patch]), size.width);
        b.linear("patch_embedder.input_proj", quantize(patches));
        for layer in 0..size.layers {
            b.scope(&format!("encoder.layers.{layer}"), |b| gemma4_layer(b, &style, &size));
        }
    });
    let projection = Linear::replicated(size.width, text_width);
    let projection = if style.quantizable { projection } else { projection.plain() };
    b.linear("embed_vision.embedding_projection", projection);
    Ok(style.quantizable)
}

fn gemma4_layer(b: &mut Builder, style: &Style, size: &Size) {
    for name in style.norms {
        b.rms_norm(name, size.width);
    }
    b.scope(style.attention, |b| super::vision::attention(b, style, size));
    let quantize = |linear: Linear| if style.quantizable { linear } else { linear.plain() };
    b.scope(style.mlp, |b| {
        for name in ["gate_proj.linear", "up_proj.linear"] {
            b.linear(name, quantize(Linear::replicated(size.width, size.inner)));
        }
        b.linear("down_proj.linear", quantize(Linear::replicated(size.inner, size.width)));
    });
}

/// Kernels of most methods need widths of multiples of 64, so the engine leaves the towers alone
/// where they are not.
pub(super) fn gemma4_quantizable(size: &Size, method: Option<&str>) -> bool {
    matches!(method, Some("bitsandbytes" | "torchao" | "compressed-tensors"))
        || size.width.is_multiple_of(64) && size.inner.is_multiple_of(64)
}

/// MiniMax M3 (`minimax_m3/common/vision_tower.py`). Its config object has no class, so nothing
/// has a default.
pub(super) fn minimax_m3(
    b: &mut Builder,
    fields: &Fields<'_>,
    text_width: u64,
    projector_width: Option<u64>,
) -> Result<()> {
    let style = Style { mlp: "", ..VIT };
    for name in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"] {
        fields.required(&[name], u32::MAX)?;
    }
    let size = Size::read(fields, [1, 1, 1, 1])?;
    let patch = u64::from(fields.required(&["patch_size"], HEAD_DIM_MAX)?);
    let compression = fields.object_or_empty("img_token_compression_config")?;
    let merge = number(&compression, "spatial_merge_size", 2)?;
    let frames = number(&compression, "temporal_patch_size", 2)?;
    let channels = number(fields, "num_channels", 3)?;
    let inner = projector_width.unwrap_or(text_width);
    let bias = fields.flag("multimodal_projector_bias", true)?;
    let merge_bias = fields.flag("patch_merge_bias", true)?;
    b.scope("vision_tower", |b| {
        b.scope("vision_model", |b| {
            let shape = [size.width, channels, frames, patch, patch];
            convolution(b, "embeddings.patch_embedding", &shape, false);
            b.layer_norm("pre_layrnorm", size.width);
            encoder(b, &style, &size);
        });
        let names = ["linear_1", "linear_2"];
        b.scope("multi_modal_projector", |b| {
            two_linear(b, names, [size.width, inner, text_width], [true, bias, true]);
        });
        b.scope("patch_merge_mlp", |b| {
            let merged = times(&[text_width, merge, merge]);
            two_linear(b, names, [merged, inner, text_width], [true, merge_bias, true]);
        });
    });
    Ok(())
}
