//! MiniMax M3: grouped attention whose later layers look at blocks that an indexer selects.
//!
//! As vLLM 0.32 builds it in `models/minimax_m3`. Such a layer is known by an indexer's cache
//! beside its keys and values.

use super::Family;
use super::limits::{EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, INNER_MAX, TOKENS_MAX};
use super::mla::{Class, Defaults};
use super::parts::{AttentionParts, attention_cache, gated_mlp};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{CacheKind, Indexer, IndexerStorage, Reach};
use crate::model::dtype::Dtype;
use crate::model::hf_config::{Config, Fields, wrong};
use crate::model::weights::module::{Experts, Linear, Param};

pub(super) static FAMILIES: &[Family] = &[Family {
    architectures: &["MiniMaxM3SparseForCausalLM"],
    model_types: &["minimax_m3", "minimax_m3_text", "minimax_m3_vl_text"],
    rule: minimax_m3,
}];

/// vLLM 0.32 `MiniMaxM3TextConfig`.
const M3: Defaults = &[
    ("vocab_size", 200_064),
    ("hidden_size", 6144),
    ("intermediate_size", 3072),
    ("dense_intermediate_size", 12_288),
    ("num_hidden_layers", 60),
    ("num_attention_heads", 64),
    ("num_key_value_heads", 4),
    ("head_dim", 128),
    ("max_position_embeddings", 524_288),
    ("num_local_experts", 128),
    ("n_shared_experts", 1),
];
/// Its lists by layer: three dense layers of full attention, then experts and selection.
const DENSE_LAYERS: u32 = 3;
const LAYERS: u32 = 60;
/// Its indexer's head.
const INDEX_DIM: u32 = 128;

struct M3Model {
    dims: Dims,
    dense_inner: u64,
    experts: u64,
    shared: u64,
    score_bias: bool,
    /// Elements of an indexer's key.
    index_dim: u32,
    index_heads: u32,
}

fn minimax_m3(config: &Config<'_>, b: &mut Builder) -> Result<()> {
    let fields = &config.text;
    let class = Class { fields, defaults: M3 };
    let (model, selected) = M3Model::read(&class)?;
    let layers = model.dims.layers;
    let with_experts = by_layer(fields, "moe_layer_freq", layers)?;
    let hidden = u64::from(model.dims.hidden);
    b.vocabulary("model.embed_tokens", model.dims.vocab, hidden);
    let lists = with_experts.iter().zip(&selected);
    for (layer, (&has_experts, &is_selected)) in (0..layers).zip(lists) {
        b.scope(&format!("model.layers.{layer}"), |b| {
            b.scope("self_attn", |b| model.attention(b, is_selected));
            if is_selected {
                let (head_dim, storage) = (model.index_dim, IndexerStorage::Bfloat16);
                let keys = Indexer { head_dim, storage, tokens_per_state: 1 };
                b.cache(layer, CacheKind::Indexer(keys));
            }
            b.cache(layer, attention_cache(&model.dims, Reach::Full));
            match has_experts {
                true => b.scope("block_sparse_moe", |b| model.moe(b)),
                false => b.scope("mlp", |b| gated_mlp(b, hidden, model.dense_inner, false)),
            }
            b.rms_norm("input_layernorm", hidden);
            b.rms_norm("post_attention_layernorm", hidden);
        });
    }
    b.rms_norm("model.norm", hidden);
    b.head("lm_head", model.dims.vocab, hidden, false);
    b.dims = model.dims;
    Ok(())
}

impl M3Model {
    /// The model, and which layers look at selected blocks.
    fn read(class: &Class<'_>) -> Result<(Self, Vec<bool>)> {
        let fields = class.fields;
        let mut dims = class.dims(&["num_hidden_layers"])?;
        dims.head_dim = class.size(&["head_dim"], HEAD_DIM_MAX)?;
        if !dims.heads.is_multiple_of(dims.kv_heads) {
            let problem =
                format!("{} does not divide the {} query heads", dims.kv_heads, dims.heads);
            return Err(wrong(fields.path("num_key_value_heads"), problem));
        }
        let shared = class.optional("n_shared_experts", EXPERTS_MAX)?.unwrap_or(0);
        let mut model = Self {
            dense_inner: class.size(&["dense_intermediate_size"], INNER_MAX)?.into(),
            experts: class.size(&["num_local_experts"], EXPERTS_MAX)?.into(),
            shared: u64::from(dims.inner).saturating_mul(shared.into()),
            score_bias: fields.flag("use_routing_bias", true)?,
            index_dim: INDEX_DIM,
            index_heads: dims.kv_heads,
            dims,
        };
        let layers = model.dims.layers;
        let Some(sparse) = fields.object("sparse_attention_config")? else {
            return Ok((model, (0..layers).map(|layer| layer >= DENSE_LAYERS).collect()));
        };
        const FREQUENCY: &str = "sparse_attention_freq";
        let listed = sparse.counts(FREQUENCY, TOKENS_MAX)?.unwrap_or_default();
        let is_selected = |layer| at(&listed, layer).is_some_and(|number| number != 0);
        let selected: Vec<bool> = (0..layers).map(is_selected).collect();
        if selected.contains(&true) {
            model.index_dim = sparse.required(&["sparse_index_dim"], HEAD_DIM_MAX)?;
            model.index_heads = sparse.required(&["sparse_num_index_heads"], HEADS_MAX)?;
            if model.index_heads != model.dims.kv_heads {
                let (found, heads) = (model.index_heads, model.dims.kv_heads);
                let problem = format!("{found}; there must be as many as KV heads ({heads})");
                return Err(wrong(sparse.path("sparse_num_index_heads"), problem));
            }
        }
        Ok((model, selected))
    }

    fn attention(&self, b: &mut Builder, is_selected: bool) {
        if is_selected {
            let parts = AttentionParts::of(&self.dims);
            let (heads, kv_heads) = (parts.heads, parts.kv_heads);
            let dim = parts.key_dim;
            let mut qkv = Linear::qkv(parts.hidden, heads, kv_heads, dim, dim);
            // The indexer's queries are divided as KV heads are; its one key is on every rank.
            let index = u64::from(self.index_dim);
            qkv.outs.extend([u64::from(self.index_heads).saturating_mul(index), index]);
            b.linear("qkv_proj", qkv);
            b.linear("o_proj", Linear::row(heads.saturating_mul(dim), parts.hidden));
            b.param("index_q_norm", Param::whole(index));
            b.param("index_k_norm", Param::whole(index));
        } else {
            AttentionParts::of(&self.dims).build(b, "o_proj");
        }
        b.rms_norm("q_norm", self.dims.head_dim);
        b.rms_norm("k_norm", self.dims.head_dim);
    }

    fn moe(&self, b: &mut Builder) {
        let hidden = u64::from(self.dims.hidden);
        b.linear("gate", Linear::replicated(hidden, self.experts).plain().dtype(Dtype::Float32));
        if self.score_bias {
            let bias = Param::whole(self.experts).dtype(Dtype::Float32);
            b.param("e_score_correction_bias", bias);
        }
        if self.shared > 0 {
            b.scope("shared_experts", |b| gated_mlp(b, hidden, self.shared, false));
        }
        let (experts, inner) = (self.experts, u64::from(self.dims.inner));
        // The activation is the model's own.
        b.experts("experts", Experts::gated(experts, hidden, inner).fusible(false));
    }
}

fn at(list: &[u32], layer: u32) -> Option<u32> {
    usize::try_from(layer).ok().and_then(|layer| list.get(layer).copied())
}

/// A list of zeros and ones by layer; absent, it is the class's own, of [`LAYERS`] entries.
fn by_layer(fields: &Fields<'_>, name: &str, layers: u32) -> Result<Vec<bool>> {
    let listed = match fields.counts(name, TOKENS_MAX)? {
        Some(listed) => listed,
        None => (0..LAYERS).map(|layer| u32::from(layer >= DENSE_LAYERS)).collect(),
    };
    let entry = |layer| {
        at(&listed, layer).map(|number| number != 0).ok_or_else(|| {
            let problem = format!("{} entries for {layers} layers", listed.len());
            wrong(fields.path(name), problem)
        })
    };
    (0..layers).map(entry).collect()
}
