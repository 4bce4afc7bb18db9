//! Pieces that many rules share: attention, MLPs, windows.

use super::limits::{LAYERS_MAX, TOKENS_MAX};
use crate::error::Result;
use crate::model::builder::{Builder, Dims};
use crate::model::cache::{Attention, CacheKind, Reach};
use crate::model::hf_config::{Fields, wrong};
use crate::model::weights::module::Linear;

/// Query, key, value and output projections of plain attention, under the current scope.
pub(super) struct AttentionParts {
    pub(super) hidden: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) key_dim: u64,
    pub(super) value_dim: u64,
    pub(super) qkv_bias: bool,
    pub(super) out_bias: bool,
}

impl AttentionParts {
    /// As the headline sizes say, without biases.
    pub(super) fn of(dims: &Dims) -> Self {
        Self {
            hidden: dims.hidden.into(),
            heads: dims.heads.into(),
            kv_heads: dims.kv_heads.into(),
            key_dim: dims.head_dim.into(),
            value_dim: dims.head_dim.into(),
            qkv_bias: false,
            out_bias: false,
        }
    }

    /// Adds `qkv_proj` and the output projection of the given name.
    pub(super) fn build(&self, b: &mut Builder, output: &str) {
        let qkv = Linear::qkv(self.hidden, self.heads, self.kv_heads, self.key_dim, self.value_dim);
        b.linear("qkv_proj", qkv.bias(self.qkv_bias));
        let width = self.heads.saturating_mul(self.value_dim);
        b.linear(output, Linear::row(width, self.hidden).bias(self.out_bias));
    }
}

/// `gate_up_proj` and `down_proj`, under the current scope.
pub(super) fn gated_mlp(b: &mut Builder, hidden: u64, inner: u64, bias: bool) {
    b.linear("gate_up_proj", Linear::merged(hidden, [inner, inner]).bias(bias));
    b.linear("down_proj", Linear::row(inner, hidden).bias(bias));
}

/// Keys and values of plain attention, as the headline sizes say.
pub(super) fn attention_cache(dims: &Dims, reach: Reach) -> CacheKind {
    CacheKind::Attention(Attention {
        heads: dims.heads,
        kv_heads: dims.kv_heads,
        key_dim: dims.head_dim,
        value_dim: dims.head_dim,
        reach,
        sinks: false,
    })
}

/// `layer_types` of a layer that looks back on everything.
pub(super) const FULL: &str = "full_attention";
/// `layer_types` of a layer that looks back on a window.
pub(super) const SLIDING: &str = "sliding_attention";

/// Where layers look back on a window only: what the config class holds after its defaults.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows<'a> {
    /// `layer_types`, one a layer, declared or derived by the class; `None` if it has none.
    pub(super) types: Option<Vec<&'a str>>,
    /// `sliding_window`.
    pub(super) window: Option<u32>,
}

impl<'a> Windows<'a> {
    /// The fields alone. `default` is the class's `sliding_window` where the field is absent.
    pub(super) fn read(fields: &Fields<'a>, layers: u32, default: Option<u32>) -> Result<Self> {
        let types = layer_types(fields, layers)?;
        Ok(Self { types, window: window(fields, default)? })
    }

    /// As the classes of Qwen read them: no window without `use_sliding_window`, and where
    /// `layer_types` is absent the layers from `max_window_layers` on have one.
    pub(super) fn switched(fields: &Fields<'a>, layers: u32) -> Result<Self> {
        let mut windows = Self::read(fields, layers, Some(4096))?;
        if !fields.flag("use_sliding_window", false)? {
            windows.window = None;
        }
        let first = fields.count_or("max_window_layers", 28, LAYERS_MAX)?;
        let has_window = windows.window.is_some();
        Ok(windows.or_types(layers, |layer| has_window && layer >= first))
    }

    /// Where `layer_types` is absent, the class gives a window to the layers that `slides` names.
    pub(super) fn or_types(mut self, layers: u32, slides: impl Fn(u32) -> bool) -> Self {
        let kind = |layer| if slides(layer) { SLIDING } else { FULL };
        self.types.get_or_insert_with(|| (0..layers).map(kind).collect());
        self
    }

    /// As [`Self::or_types`]: every `interval`th layer sees everything, the others a window.
    pub(super) fn or_every(self, layers: u32, interval: u32) -> Self {
        self.or_types(layers, |layer| !(layer + 1).is_multiple_of(interval))
    }

    /// The window of layers for which the model class names none of its own: vLLM 0.32 takes the
    /// model's (`arg_utils.py`) unless `layer_types` has other kinds than sliding.
    pub(super) fn of_model(&self) -> Option<u32> {
        let all_slide =
            self.types.as_ref().is_none_or(|types| types.iter().all(|&kind| kind == SLIDING));
        self.window.filter(|_| all_slide)
    }

    /// Reach of a layer for a model class that looks at its entry of `layer_types`.
    pub(super) fn by_type(&self, layer: u32) -> Reach {
        let kind = usize::try_from(layer).ok().and_then(|layer| self.types.as_ref()?.get(layer));
        let own = self.window.filter(|_| kind == Some(&SLIDING));
        own.or_else(|| self.of_model()).map_or(Reach::Full, Reach::Window)
    }

    /// Reach of every layer for a model class that does not look at `layer_types`.
    pub(super) fn uniform(&self) -> Reach {
        self.of_model().map_or(Reach::Full, Reach::Window)
    }
}

/// `layer_types`: absent, or one for each layer.
pub(super) fn layer_types<'a>(fields: &Fields<'a>, layers: u32) -> Result<Option<Vec<&'a str>>> {
    const NAME: &str = "layer_types";
    if fields.value(NAME).is_none() {
        return Ok(None);
    }
    let types = fields.texts(NAME)?;
    if u32::try_from(types.len()) != Ok(layers) {
        let problem = format!("{} entries for {layers} layers", types.len());
        return Err(wrong(fields.path(NAME), problem));
    }
    Ok(Some(types))
}

/// `sliding_window`; null is none, and so is 0, which some checkpoints hold.
pub(super) fn window(fields: &Fields<'_>, default: Option<u32>) -> Result<Option<u32>> {
    const NAME: &str = "sliding_window";
    if !fields.is_present(NAME) {
        return Ok(default);
    }
    Ok(Some(fields.count_or_zero(NAME, TOKENS_MAX)?).filter(|&window| window > 0))
}
