//! How many parameters a model has, tensor by tensor, as vLLM 0.32 constructs them on one GPU.

use super::family::{Family, Mlp, Norm, QkNorm};
use super::shape::Shape;

/// vLLM pads the vocabulary of embedding and output matrix to multiples of this
/// (`DEFAULT_VOCAB_PADDING_SIZE`).
const VOCAB_PADDING: u64 = 64;

/// Number of parameters, held at `u64::MAX`; the bounds of [`Shape`] keep it far below.
pub(super) fn parameters(family: &Family, shape: &Shape) -> u64 {
    let layer = attention(family, shape) + mlp(family, shape) + norms(family, shape);
    let all = layer * u128::from(shape.layers) + outside_layers(family, shape);
    u64::try_from(all).unwrap_or(u64::MAX)
}

/// Query, key, value and output projections, with norms on queries and keys.
fn attention(family: &Family, shape: &Shape) -> u128 {
    let hidden = u128::from(shape.hidden_size);
    let head = u128::from(shape.head_dim);
    let (queries, keys) = (u128::from(shape.heads) * head, u128::from(shape.kv_heads) * head);
    let qkv = queries + 2 * keys;
    let bias = when(shape.qkv_bias, qkv) + when(shape.out_bias, hidden);
    let qk_norm = match family.qk_norm {
        QkNorm::None => 0,
        QkNorm::PerHead => 2 * head,
        QkNorm::Whole => queries + keys,
    };
    hidden * qkv + queries * hidden + bias + qk_norm
}

fn mlp(family: &Family, shape: &Shape) -> u128 {
    let (hidden, inner) = (u128::from(shape.hidden_size), u128::from(shape.intermediate_size));
    let inward = match family.mlp {
        Mlp::Gated => 2,
        Mlp::Plain | Mlp::PlainLearnedActivation => 1,
    };
    // xIELU has two learned scalars a layer.
    let activation = when(family.mlp == Mlp::PlainLearnedActivation, 2);
    (inward + 1) * hidden * inner + when(shape.mlp_bias, inward * inner + hidden) + activation
}

fn norms(family: &Family, shape: &Shape) -> u128 {
    u128::from(shape.norms_per_layer) * norm(family, shape)
}

fn norm(family: &Family, shape: &Shape) -> u128 {
    match family.norm {
        Norm::Rms => shape.hidden_size.into(),
        Norm::Layer => 2 * u128::from(shape.hidden_size),
    }
}

/// Embeddings, final norm, output matrix.
fn outside_layers(family: &Family, shape: &Shape) -> u128 {
    let vocab = u64::from(shape.vocab_size).next_multiple_of(VOCAB_PADDING);
    let table = u128::from(vocab) * u128::from(shape.hidden_size);
    table
        + when(!shape.is_tied, table)
        + when(family.output_bias, vocab.into())
        + u128::from(shape.position_rows) * u128::from(shape.hidden_size)
        + norm(family, shape) * (1 + when(family.embedding_norm, 1))
}

const fn when(condition: bool, amount: u128) -> u128 {
    if condition { amount } else { 0 }
}
