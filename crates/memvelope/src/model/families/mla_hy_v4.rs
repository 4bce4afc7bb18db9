//! Hunyuan V4: sparse latent attention with an output gate and sinks, and hyper-connections.
//!
//! As vLLM 0.32 builds it in `models/hy_v4`.

use super::Family;
use super::limits::{HEADS_MAX, WIDTH_MAX};
use super::mla::{Class, Defaults, Index, Mla, Moe};
use super::parts::gated_mlp;
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Linear, Param, Routing};

pub(super) static FAMILIES: &[Family] =
    &[Family { architectures: &["HYV4ForCausalLM"], model_types: &["hy_v4"], rule: hy_v4 }];

/// vLLM 0.32 `HYV4Config`.
const HY_V4: Defaults = &[
    ("vocab_size", 120_832),
    ("hidden_size", 2816),
    ("intermediate_size", 6912),
    ("moe_intermediate_size", 768),
    ("num_hidden_layers", 34),
    ("num_attention_heads", 32),
    ("num_key_value_heads", 32),
    ("max_position_embeddings", 262_144),
    ("n_routed_experts", 256),
    ("n_shared_experts", 1),
    ("q_lora_rank", 1536),
    ("kv_lora_rank", 512),
    ("qk_nope_head_dim", 192),
    ("qk_rope_head_dim", 64),
    ("v_head_dim", 256),
    ("index_topk", 2048),
    ("index_head_dim", 128),
    ("index_n_heads", 16),
    ("hc_mult", 4),
];

struct HyV4 {
    dims: Dims,
    mla: Mla,
    index: Option<Index>,
    moe: Option<Moe>,
    /// Elements of the output gate a head, if there is one.
    gate: Option<u32>,
    sinks: bool,
    /// Streams of the residual, if there are several.
    streams: Option<u64>,
}

fn hy_v4(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class { fields, defaults: HY_V4 };
    let mut dims = class.dims(&["num_hidden_layers"])?;
    let mla = Mla::read(&class, &dims)?;
    dims.head_dim = mla.key_dim();
    let sparse = sparse_layers(fields, dims.layers)?;
    let dense = layer_list(fields, "mlp_layer_types", dims.layers)?.map_or_else(
        || (0..dims.layers).map(|layer| layer == 0).collect(),
        |list| list.iter().map(|&kind| kind == "dense").collect::<Vec<_>>(),
    );
    let model = HyV4 {
        index: index(&class, &dims)?,
        moe: moe(&class)?,
        gate: gate(fields, &mla)?,
        sinks: fields.flag("learnable_sink", true)?,
        streams: match fields.flag("enable_ihc", true)? {
            true => Some(class.size(&["hc_mult"], HEADS_MAX)?.into()),
            false => None,
        },
        mla,
        dims,
    };
    model.build(b, &sparse, &dense);
    if !fields.flag("tie_word_embeddings", false)? {
        b.head("lm_head", model.dims.vocab, model.dims.hidden, false);
    }
    b.dims = model.dims;
    Ok(())
}

/// A router of sigmoids, with a bias.
fn moe(class: &Class<'_>) -> Result<Option<Moe>> {
    let Some(moe) = Moe::read(class)? else { return Ok(None) };
    // The bias lies beside the router.
    let is_sigmoid = moe.routing.renormalizes;
    let routing = Routing { is_sigmoid, ..moe.routing };
    Ok(Some(Moe { router: Some(Dtype::Float32), routing, ..moe }))
}

impl HyV4 {
    fn build(&self, b: &mut Builder, sparse: &[bool], dense: &[bool]) {
        let hidden = u64::from(self.dims.hidden);
        b.vocabulary("model.embed_tokens", self.dims.vocab, hidden);
        for (layer, (&sparse, &dense)) in (0..).zip(sparse.iter().zip(dense)) {
            b.scope(&format!("model.layers.{layer}"), |b| {
                b.scope("self_attn", |b| self.attention(b, layer, sparse));
                b.rms_norm("input_layernorm", hidden);
                b.scope("mlp", |b| match self.moe.filter(|_| !dense) {
                    Some(moe) => {
                        moe.build(b, hidden);
                        let bias = Param::whole(moe.experts).dtype(Dtype::Float32);
                        b.param("expert_bias", bias);
                    }
                    None => gated_mlp(b, hidden, self.dims.inner.into(), false),
                });
                b.rms_norm("post_attention_layernorm", hidden);
                for part in ["hc_attn_layer.hc_pre", "hc_mlp_layer.hc_pre"] {
                    if let Some(streams) = self.streams {
                        b.scope(part, |b| mixing(b, "hc", hidden, [streams, 2 * streams, 2]));
                    }
                }
            });
        }
        b.rms_norm("model.norm", hidden);
        if let Some(streams) = self.streams {
            b.scope("model.hc_head", |b| mixing(b, "hc_head", hidden, [streams, streams, 1]));
        }
    }

    fn attention(&self, b: &mut Builder, layer: u32, sparse: bool) {
        self.mla.build(b, true);
        if let Some(width) = self.gate {
            let width = u64::from(self.mla.heads).saturating_mul(width.into());
            b.linear("linear_gate", Linear::column(self.mla.hidden, width));
        }
        let index = self.index.as_ref().filter(|_| sparse);
        if self.sinks {
            // Kernels with sinks take them in float32; there are none for dense layers, whose sinks
            // are loaded as the checkpoint has them and left alone.
            let dtype = if index.is_some() { Dtype::Float32 } else { Dtype::Bfloat16 };
            let sinks = Param::divided(self.mla.heads.into()).dtype(dtype);
            b.param("learnable_sink_param", sinks);
        }
        let leads = index.is_some_and(|index| index.leads(layer));
        if let Some(index) = index.filter(|_| leads) {
            index.build(b, self.mla.hidden, self.mla.q_rank.unwrap_or(0).into());
            b.cache(layer, index.cache());
        }
        b.cache(layer, self.mla.sink_cache(index.is_some(), leads, self.sinks));
    }
}

/// A projection of all streams, with a base and scales, in float32: `[streams, outputs, scales]`.
fn mixing(b: &mut Builder, name: &str, hidden: u64, sizes: [u64; 3]) {
    let [streams, outputs, scales] = sizes;
    let input = hidden.saturating_mul(streams);
    let matrix = Linear::replicated(input, outputs).plain().dtype(Dtype::Float32);
    b.linear(&format!("{name}_fn"), matrix);
    b.param(&format!("{name}_base"), Param::whole(outputs).dtype(Dtype::Float32));
    b.param(&format!("{name}_scale"), Param::whole(scales).dtype(Dtype::Float32));
}

/// Width of the output gate a head.
fn gate(fields: &Fields<'_>, mla: &Mla) -> Result<Option<u32>> {
    if !fields.flag("gated_mla", true)? {
        return Ok(None);
    }
    match fields.text("gating_type")?.unwrap_or("elementwise") {
        "headwise" => Ok(Some(1)),
        "elementwise" => Ok(Some(mla.value)),
        other => {
            let found: String = other.chars().take(40).collect();
            let problem = format!("{found:?}; expected \"headwise\" or \"elementwise\"");
            Err(wrong(fields.path("gating_type"), problem))
        }
    }
}

/// The indexer; where `indexer_types` is absent the class has one in layer 0 and every fourth from
/// layer 1.
fn index(class: &Class<'_>, dims: &Dims) -> Result<Option<Index>> {
    let Some(index) = Index::read(class, dims.layers)? else { return Ok(None) };
    class.size(&["q_lora_rank"], WIDTH_MAX)?;
    let shared = match layer_list(class.fields, "indexer_types", dims.layers)? {
        Some(list) => list.iter().map(|&kind| kind == "shared").collect(),
        None => (0..dims.layers).map(|layer| layer % 4 != 1 && layer != 0).collect(),
    };
    Ok(Some(index.sharing(shared)))
}

/// Layers whose attention is sparse: none unless `layer_types` says so.
fn sparse_layers(fields: &Fields<'_>, layers: u32) -> Result<Vec<bool>> {
    const SPARSE: &[&str] =
        &["sparse_attention", "sparse", "indexed_attention", "deepseek_sparse_attention"];
    let list = layer_list(fields, "layer_types", layers)?;
    Ok(match list {
        Some(list) => list.iter().map(|kind| SPARSE.contains(kind)).collect(),
        None => (0..layers).map(|_| false).collect(),
    })
}

/// A list of one word a layer.
fn layer_list<'a>(fields: &Fields<'a>, name: &str, layers: u32) -> Result<Option<Vec<&'a str>>> {
    if fields.value(name).is_none() {
        return Ok(None);
    }
    let list = fields.texts(name)?;
    if u32::try_from(list.len()) == Ok(layers) {
        return Ok(Some(list));
    }
    let problem = format!("{} entries for {layers} layers", list.len());
    Err(wrong(fields.path(name), problem))
}
