//! The parameters of a model as a list of modules, before they are split and quantised.
//!
//! Names are those vLLM gives its modules (`model.layers.0.self_attn.qkv_proj`), because
//! quantisation configs exclude modules by name.

use crate::model::dtype::Dtype;

/// A named piece of a model that holds parameters.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) kind: ModuleKind,
}

#[derive(Clone, Debug)]
pub(crate) enum ModuleKind {
    Linear(Linear),
    Embedding(Embedding),
    Experts(Experts),
    /// Experts whose share of the width is at least so much where several ranks share it.
    WideExperts(Experts, u64),
    Param(Param),
}

/// A matrix, possibly of several outputs side by side, with an optional bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// Widths of the outputs; one matrix of their sum.
    pub(crate) outs: Vec<u64>,
    pub(crate) input: u64,
    pub(crate) split: Split,
    pub(crate) bias: bool,
    /// Whether the engine hands the model's quantisation to this layer at all.
    pub(crate) quantizable: bool,
    /// Stored in this dtype if not the model's.
    pub(crate) dtype: Option<Dtype>,
    /// The divided width is cut into units of so many; what a rank gets is rounded up to whole ones.
    pub(crate) unit: Option<u64>,
    /// Divided only if the ranks divide this number (of heads), whole on every rank otherwise.
    pub(crate) divided_with: Option<u64>,
    /// Computed in float32: stored so where no kernel does that from narrower types.
    pub(crate) single_compute: bool,
    /// Whole on every rank under AWQ and GPTQ, whose kernel takes no narrow share of it.
    pub(crate) whole_for_marlin: bool,
}

/// How a matrix is divided over tensor-parallel ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Whole on every rank.
    Replicated,
    /// Outputs are divided; each must divide.
    Column,
    /// The input is divided; the bias is whole on every rank.
    Row,
    /// Query heads are divided, KV heads are divided or replicated. `outs` are the three widths,
    /// a fourth is divided as KV heads are, and a fifth is whole on every rank.
    Qkv { heads: u64, kv_heads: u64 },
    /// The projections of an SSM: outputs `at` and the next are B and C of so many groups; a
    /// single group is repeated on every rank, all else is divided.
    Groups { groups: u64, at: usize },
    /// Outputs are divided but for those of `whole` (one bit each), which every rank holds; what a
    /// rank gets is filled up with one more output to a multiple of `align`.
    Partly { whole: u32, align: u64 },
}

/// A table of the vocabulary (or of positions), rows padded and divided over the ranks.
#[derive(Clone, Debug)]
pub(crate) struct Embedding {
    pub(crate) rows: u64,
    pub(crate) columns: u64,
    pub(crate) split: EmbeddingSplit,
    pub(crate) bias: bool,
    /// An output matrix (`lm_head`), which a few quantisations cover.
    pub(crate) is_head: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmbeddingSplit {
    /// vLLM's vocabulary tables: padded to a multiple of 64 rows, then divided.
    Vocabulary,
    /// A plain table, whole on every rank (positions, token types).
    Whole,
}

/// The routed experts of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    pub(crate) experts: u64,
    pub(crate) hidden: u64,
    /// Width of one expert between its matrices.
    pub(crate) inner: u64,
    /// Gate and up beside each other, or up alone.
    pub(crate) gated: bool,
    pub(crate) bias: bool,
    /// Of an activation and a routing that Blackwell's kernel for router and experts at once has.
    pub(crate) fusible: bool,
}

impl Experts {
    /// Gate and up beside each other, activated by SiLU, without biases; the router takes a
    /// softmax and normalises the chosen scores.
    pub(crate) const fn gated(experts: u64, hidden: u64, inner: u64) -> Self {
        Self { experts, hidden, inner, gated: true, bias: false, fusible: true }
    }
    pub(crate) fn fusible(mut self, fusible: bool) -> Self {
        self.fusible = fusible;
        self
    }
}

/// How a router chooses experts, as far as kernels that do it themselves tell it apart (vLLM 0.32
/// `fused_moe/config.py`, `get_routing_method_type`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routing {
    /// Scores are sigmoids, else a softmax.
    pub(crate) is_sigmoid: bool,
    /// The chosen scores are normalised.
    pub(crate) renormalizes: bool,
    /// A bias of the scores decides the choice.
    pub(crate) has_bias: bool,
}

impl Routing {
    /// Whether Blackwell's kernel for router and experts at once has it (vLLM 0.32
    /// `experts/trtllm_bf16_moe.py`).
    pub(crate) const fn is_fusible(self) -> bool {
        match self.is_sigmoid {
            true => self.renormalizes || !self.has_bias,
            false => self.renormalizes && !self.has_bias,
        }
    }
}

/// Any other parameter: norms, scales, router biases, convolution kernels.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) elements: u64,
    /// Divided over the ranks (else whole on each).
    pub(crate) divided: bool,
    /// Divided into at most so many parts, which more ranks hold alike (those of KV heads).
    pub(crate) parts_max: Option<u64>,
    /// What a rank gets is rounded up to a multiple of this.
    pub(crate) multiple: u64,
    /// Stored in this dtype if not the model's.
    pub(crate) dtype: Option<Dtype>,
}

impl Linear {
    pub(crate) fn new(split: Split, input: u64, outs: impl Into<Vec<u64>>) -> Self {
        Self {
            outs: outs.into(),
            input,
            split,
            bias: false,
            quantizable: true,
            dtype: None,
            unit: None,
            divided_with: None,
            single_compute: false,
            whole_for_marlin: false,
        }
    }
    pub(crate) fn replicated(input: u64, out: u64) -> Self {
        Self::new(Split::Replicated, input, [out])
    }
    pub(crate) fn column(input: u64, out: u64) -> Self {
        Self::new(Split::Column, input, [out])
    }
    /// Several outputs side by side, each divided (`gate_up_proj`).
    pub(crate) fn merged(input: u64, outs: impl Into<Vec<u64>>) -> Self {
        Self::new(Split::Column, input, outs)
    }
    pub(crate) fn row(input: u64, out: u64) -> Self {
        Self::new(Split::Row, input, [out])
    }
    /// Queries, keys and values side by side.
    pub(crate) fn qkv(input: u64, heads: u64, kv_heads: u64, key_dim: u64, value_dim: u64) -> Self {
        let outs = [
            heads.saturating_mul(key_dim),
            kv_heads.saturating_mul(key_dim),
            kv_heads.saturating_mul(value_dim),
        ];
        Self::new(Split::Qkv { heads, kv_heads }, input, outs)
    }
    pub(crate) fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }
    pub(crate) fn in_units(mut self, unit: Option<u64>) -> Self {
        self.unit = unit;
        self
    }
    pub(crate) fn single_compute(mut self) -> Self {
        self.single_compute = true;
        self
    }
    pub(crate) fn whole_for_marlin(mut self) -> Self {
        self.whole_for_marlin = true;
        self
    }
    /// Never quantised: the engine builds it without the model's quantisation.
    pub(crate) fn plain(mut self) -> Self {
        self.quantizable = false;
        self
    }
    pub(crate) fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }
    /// Whole on every rank where the ranks do not divide `heads`.
    pub(crate) fn divided_with(mut self, heads: u64) -> Self {
        self.divided_with = Some(heads);
        self
    }
}

impl Param {
    /// Whole on every rank, in the model's dtype.
    pub(crate) fn whole(elements: u64) -> Self {
        Self { elements, divided: false, parts_max: None, multiple: 1, dtype: None }
    }
    /// Divided over the ranks, in the model's dtype.
    pub(crate) fn divided(elements: u64) -> Self {
        Self { elements, divided: true, parts_max: None, multiple: 1, dtype: None }
    }
    /// In at most `parts` parts, which more ranks hold alike.
    pub(crate) fn replicated_beyond(mut self, parts: u64) -> Self {
        self.parts_max = Some(parts);
        self
    }
    /// Rounded up to a multiple on every rank.
    pub(crate) fn multiple_of(mut self, multiple: u64) -> Self {
        self.multiple = multiple;
        self
    }
    pub(crate) fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }
}
