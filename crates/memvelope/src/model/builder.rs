//! What a family's rule makes of a config: caches and modules, collected in order.

use super::cache::{Cache, CacheKind};
use super::weights::Inventory;
use super::weights::module::{
    Embedding, EmbeddingSplit, Experts, Linear, Module, ModuleKind, Param,
};

/// Headline numbers of the language model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dims {
    pub(crate) layers: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) hidden: u32,
    /// Width of the (dense or summed active) MLP between its matrices.
    pub(crate) inner: u32,
    pub(crate) vocab: u32,
    pub(crate) tokens_max: Option<u32>,
}

/// Collects what a rule says. Module names nest by [`Self::scope`].
#[derive(Debug, Default)]
pub(crate) struct Builder {
    prefix: String,
    pub(crate) dims: Dims,
    pub(crate) caches: Vec<Cache>,
    pub(crate) inventory: Inventory,
    /// Layers that read another layer's cache and keep none themselves.
    pub(crate) shared_layers: u32,
    /// The engine runs it with a multimodal processor.
    pub(crate) is_multimodal: bool,
    /// Multimodal positions attend in both directions.
    pub(crate) is_prefix_lm: bool,
    /// Of an architecture without attention (not merely a hybrid whose layers have none).
    pub(crate) is_attention_free: bool,
    /// Tokens of the largest multimodal item, where the engine's processor states it.
    pub(crate) mm_item_tokens_max: Option<u32>,
    /// An encoder-decoder model.
    pub(crate) is_encoder_decoder: bool,
    /// The model class hands no cache options to its layers, so the KV cache dtype is its own.
    pub(crate) ignores_kv_dtype: bool,
    /// Attention logits are capped by a tanh.
    pub(crate) has_soft_cap: bool,
    /// Attention is biased by distance (ALiBi).
    pub(crate) has_alibi: bool,
    /// The model class hands its layers options that Triton's kernel alone has.
    pub(crate) triton_only: bool,
}

impl Builder {
    /// Runs `build` with module names prefixed by `name` and a dot.
    pub(crate) fn scope<R>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.prefix.len();
        self.prefix.push_str(name);
        self.prefix.push('.');
        let result = build(self);
        self.prefix.truncate(outer);
        result
    }

    /// The weights cannot be known from the config, and why; the caches can.
    pub(crate) fn weights_unknown(&mut self, why: &str) {
        self.inventory.unknown.get_or_insert_with(|| why.to_owned());
    }

    fn module(&mut self, name: &str, kind: ModuleKind) {
        // Thousands of them are half of what reading a config takes: no formatter.
        let mut full = String::with_capacity(self.prefix.len() + name.len());
        full.push_str(&self.prefix);
        full.push_str(name);
        let name = full;
        self.inventory.modules.push(Module { name, kind });
    }

    pub(crate) fn linear(&mut self, name: &str, linear: Linear) {
        self.module(name, ModuleKind::Linear(linear));
    }

    pub(crate) fn experts(&mut self, name: &str, experts: Experts) {
        self.module(name, ModuleKind::Experts(experts));
    }

    /// Experts that get at least `least` of the width where several ranks share it.
    pub(crate) fn wide_experts(&mut self, name: &str, experts: Experts, least: u64) {
        self.module(name, ModuleKind::WideExperts(experts, least));
    }

    pub(crate) fn param(&mut self, name: &str, param: Param) {
        self.module(name, ModuleKind::Param(param));
    }

    /// A norm with a weight alone.
    pub(crate) fn rms_norm(&mut self, name: &str, width: impl Into<u64>) {
        self.param(name, Param::whole(width.into()));
    }

    /// A norm with a weight and a bias.
    pub(crate) fn layer_norm(&mut self, name: &str, width: impl Into<u64>) {
        self.param(name, Param::whole(width.into().saturating_mul(2)));
    }

    /// A table of the vocabulary.
    pub(crate) fn vocabulary(&mut self, name: &str, rows: impl Into<u64>, columns: impl Into<u64>) {
        self.embedding(name, rows.into(), columns.into(), EmbeddingSplit::Vocabulary);
    }

    /// A plain table, whole on every rank.
    pub(crate) fn table(&mut self, name: &str, rows: impl Into<u64>, columns: impl Into<u64>) {
        self.embedding(name, rows.into(), columns.into(), EmbeddingSplit::Whole);
    }

    fn embedding(&mut self, name: &str, rows: u64, columns: u64, split: EmbeddingSplit) {
        let embedding = Embedding { rows, columns, split, bias: false, is_head: false };
        self.module(name, ModuleKind::Embedding(embedding));
    }

    /// The output matrix.
    pub(crate) fn head(
        &mut self,
        name: &str,
        rows: impl Into<u64>,
        columns: impl Into<u64>,
        bias: bool,
    ) {
        let split = EmbeddingSplit::Vocabulary;
        let (rows, columns) = (rows.into(), columns.into());
        let embedding = Embedding { rows, columns, split, bias, is_head: true };
        self.module(name, ModuleKind::Embedding(embedding));
    }

    pub(crate) fn cache(&mut self, layer: u32, kind: CacheKind) {
        self.caches.push(Cache { layer, kind });
    }
}
