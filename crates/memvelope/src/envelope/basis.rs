//! What the equation starts from: what a model computes to, and what is declared or assumed.

use super::equation::signed;
use super::{Declared, Envelope, Term, TermName};
use crate::engine::Vllm;
use crate::error::{Error, Result};
use crate::model::Layout;
use crate::units::{Bytes, CostCurve};

/// What a context takes until it was measured. Bare contexts of data-centre GPUs take 250 to 600
/// MiB; it grows with the modules that are loaded, which the runtime reserve is for.
const CONTEXT_DEFAULT: Bytes = Bytes(512 * Bytes::MIB);
/// Tokens in flight that the default for activations assumes: vLLM's `max_num_batched_tokens` for a
/// server on an 80 GB GPU.
const ACTIVATION_TOKENS: u64 = 8192;
/// Sequences whose logits (four bytes each) the default for activations assumes.
const ACTIVATION_SEQUENCES: u64 = 256;

/// What is computed, declared or assumed about a device before it is asked.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    pub(super) block_bytes: Bytes,
    pub(super) curve: CostCurve,
    pub(super) page_bytes: Bytes,
    /// Bytes of weights, and where they come from.
    pub(super) weights: (i64, String),
    /// Bytes of activations, and why so many.
    pub(super) activations: (i64, String),
    /// Bytes of context, and why so many.
    pub(super) context: (i64, String),
    /// Whether a person declared the context.
    pub(super) is_context_declared: bool,
    pub(super) withheld: Option<i64>,
    /// With their notes; `None`: a share of the device.
    pub(super) runtime_reserve: Option<(i64, String)>,
    pub(super) safety_reserve: Option<(i64, String)>,
    /// [`Declared::keeps_cached`].
    pub(super) keeps_cached: bool,
    /// [`Declared::is_loaded`].
    pub(super) is_loaded: bool,
    /// [`Declared::kv_untagged`].
    pub(super) kv_untagged: i64,
}

/// What is computed at the same time, for the default of the activations.
pub(super) struct Flight {
    tokens: u64,
    sequences: u64,
    ranks: u64,
}

impl Flight {
    const DEFAULT: Self =
        Self { tokens: ACTIVATION_TOKENS, sequences: ACTIVATION_SEQUENCES, ranks: 1 };

    fn of(engine: &Vllm) -> Self {
        let resolved = engine.resolved();
        Self {
            tokens: resolved.max_num_batched_tokens,
            sequences: resolved.max_num_seqs.min(ACTIVATION_SEQUENCES),
            ranks: resolved.tensor_parallel.max(1),
        }
    }
}

pub(super) const COMPUTED: &str = "computed from the model config";
const DECLARED: &str = "as declared";

impl Basis {
    /// Of a model whose every layer keeps every token, on one device.
    pub(super) fn plain(layout: &Layout, declared: &Declared) -> Result<Self> {
        if !layout.is_plain() {
            return Err(Error::ReadModel {
                field: "(document)".into(),
                problem: format!(
                    "the layers of {} keep caches of several kinds, which no constant per token \
                     describes\nhint: plan it for an engine: `memvelope plan`, or \
                     Envelope::plan_engine",
                    layout.architecture
                ),
            });
        }
        let why = |refusal: crate::model::Refusal| Error::ReadModel {
            field: "(document)".into(),
            problem: refusal.reason,
        };
        let weights = layout.weights(1).map_err(why)?.param_bytes;
        let curve = plain_curve(declared.block_tokens)?;
        let block_bytes = layout.block_bytes(declared.block_tokens);
        Ok(Self::new(layout, declared, &Flight::DEFAULT, (weights, block_bytes, curve)))
    }

    /// Of what an engine makes of a model, with the weights of one rank.
    pub(super) fn engine(
        layout: &Layout,
        engine: &Vllm,
        weights: Bytes,
        declared: &Declared,
    ) -> Self {
        let blocks = (weights, engine.bytes_per_block(), engine.cost_curve());
        Self::new(layout, declared, &Flight::of(engine), blocks)
    }

    /// Where nothing is rounded: a block is one token of `per_token` bytes (one byte, where there
    /// are none).
    pub(super) fn tokens(
        layout: &Layout,
        per_token: Bytes,
        ranks: u32,
        weights: Bytes,
        declared: &Declared,
    ) -> Result<Self> {
        let flight = Flight { ranks: u64::from(ranks).max(1), ..Flight::DEFAULT };
        let blocks = (weights, per_token.max(Bytes(1)), plain_curve(1)?);
        Ok(Self::new(layout, declared, &flight, blocks))
    }

    /// Of a plan: its terms are what the device is compared with. What is declared overrules it.
    pub(super) fn planned(plan: &Envelope, declared: &Declared) -> Self {
        let planned = |name| plan.term(name).and_then(|term| Some((term.bytes?, note(term))));
        let or_planned = |bytes: Option<Bytes>, name| as_declared(bytes).or_else(|| planned(name));
        Self {
            block_bytes: plan.block_bytes,
            curve: plan.curve,
            page_bytes: plan.page_bytes,
            weights: planned(TermName::Weights).unwrap_or_default(),
            activations: or_planned(declared.activations, TermName::Activations)
                .unwrap_or_default(),
            context: or_planned(declared.context, TermName::Context)
                .unwrap_or_else(|| assumed_context(declared)),
            is_context_declared: declared.context.is_some(),
            withheld: or_planned(declared.withheld, TermName::Withheld).map(|(bytes, _)| bytes),
            runtime_reserve: or_planned(declared.runtime_reserve, TermName::RuntimeReserve),
            safety_reserve: or_planned(declared.safety_reserve, TermName::SafetyReserve),
            keeps_cached: declared.keeps_cached,
            is_loaded: declared.is_loaded,
            kv_untagged: declared.kv_untagged.map_or(0, signed),
        }
    }

    fn new(
        layout: &Layout,
        declared: &Declared,
        flight: &Flight,
        (weights, block_bytes, curve): (Bytes, Bytes, CostCurve),
    ) -> Self {
        Self {
            block_bytes,
            curve,
            page_bytes: declared.page_bytes,
            weights: (signed(weights), COMPUTED.into()),
            activations: activations(layout, declared, flight),
            context: assumed_context(declared),
            is_context_declared: declared.context.is_some(),
            withheld: declared.withheld.map(signed),
            runtime_reserve: as_declared(declared.runtime_reserve),
            safety_reserve: as_declared(declared.safety_reserve),
            keeps_cached: declared.keeps_cached,
            is_loaded: declared.is_loaded,
            kv_untagged: declared.kv_untagged.map_or(0, signed),
        }
    }
}

fn as_declared(bytes: Option<Bytes>) -> Option<(i64, String)> {
    bytes.map(|bytes| (signed(bytes), DECLARED.to_owned()))
}

fn note(term: &Term) -> String {
    format!("as planned: {}", term.note)
}

/// Blocks of so many tokens, in which every token is kept.
fn plain_curve(block_tokens: u32) -> Result<CostCurve> {
    CostCurve::new(block_tokens, 0).ok_or_else(|| Error::ReadConfig {
        key: "block_tokens".into(),
        value: block_tokens.to_string(),
        expected: "1 or more".into(),
    })
}

fn assumed_context(declared: &Declared) -> (i64, String) {
    as_declared(declared.context).unwrap_or_else(|| {
        (signed(CONTEXT_DEFAULT), "default until the device was asked".to_owned())
    })
}

fn activations(layout: &Layout, declared: &Declared, flight: &Flight) -> (i64, String) {
    if let Some(declared) = as_declared(declared.activations) {
        return declared;
    }
    // Two copies of the residual stream, queries with keys and values, and both MLP inputs live at
    // the same time in the widest place of a layer; all but the stream are split over the ranks.
    let heads = u64::from(layout.heads) + 2 * u64::from(layout.kv_heads);
    let split = heads * u64::from(layout.head_dim) + 2 * u64::from(layout.intermediate_size);
    let width = 2 * u64::from(layout.hidden_size) + split.div_ceil(flight.ranks);
    let flow = Bytes(width).saturating_mul(flight.tokens).saturating_mul(layout.dtype.bytes());
    let logits = Bytes(4 * flight.sequences).saturating_mul(layout.vocab_size.into());
    let Flight { tokens, sequences, .. } = flight;
    let note = format!("default: {tokens} tokens in flight, logits of {sequences} sequences");
    (signed(flow.saturating_add(logits)), note)
}
