//! Division of a module over tensor-parallel ranks, as vLLM's parallel layers do it.

use super::module::{Embedding, EmbeddingSplit, Linear, Split};
use crate::model::cache::groups_over_ranks;
use crate::model::refusal::{Refusal, RefusalRule};

/// vLLM pads the vocabulary of embedding and output matrix to multiples of this
/// (`DEFAULT_VOCAB_PADDING_SIZE`).
const VOCAB_PADDING: u64 = 64;

/// The part of a matrix that one rank holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RankShape {
    /// Widths of the outputs on this rank.
    pub(crate) outs: Vec<u64>,
    /// Inputs on this rank.
    pub(crate) input: u64,
    /// Elements of the bias on this rank, zero without one.
    pub(crate) bias: u64,
}

impl RankShape {
    pub(crate) fn out(&self) -> u64 {
        self.outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out))
    }
}

/// An even share of `amount`.
pub(crate) fn share(name: &str, what: &str, amount: u64, tp: u64) -> Result<u64, Refusal> {
    if amount.is_multiple_of(tp) {
        return Ok(amount / tp);
    }
    let reason = format!("{name}: {what} {amount} does not divide over {tp} ranks");
    Err(Refusal::new(RefusalRule::TensorParallel, reason))
}

pub(crate) fn linear(name: &str, linear: &Linear, tp: u64) -> Result<RankShape, Refusal> {
    let whole =
        |linear: &Linear| linear.outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out));
    let whole_anyway = linear.divided_with.is_some_and(|heads| !heads.is_multiple_of(tp));
    let (outs, input, bias) = match linear.split {
        _ if whole_anyway => (linear.outs.clone(), linear.input, whole(linear)),
        Split::Replicated => (linear.outs.clone(), linear.input, whole(linear)),
        Split::Row => {
            let input = units(name, "input width", linear, linear.input, tp)?;
            (linear.outs.clone(), input, whole(linear))
        }
        Split::Column => {
            let outs: Vec<u64> = linear
                .outs
                .iter()
                .map(|&out| units(name, "output width", linear, out, tp))
                .collect::<Result<_, _>>()?;
            let bias = outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out));
            (outs, linear.input, bias)
        }
        Split::Qkv { heads, kv_heads } => {
            let outs = qkv(name, linear, [heads, kv_heads], tp)?;
            let bias = outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out));
            (outs, linear.input, bias)
        }
        Split::Partly { whole, align } => {
            let outs = partly(name, linear, whole, align, tp)?;
            let bias = outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out));
            (outs, linear.input, bias)
        }
        Split::Groups { groups, at } => {
            let outs = grouped(name, linear, groups, at, tp)?;
            let bias = outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out));
            (outs, linear.input, bias)
        }
    };
    Ok(RankShape { outs, input, bias: if linear.bias { bias } else { 0 } })
}

/// An even share, or where the matrix says so a number of whole units.
fn units(name: &str, what: &str, linear: &Linear, amount: u64, tp: u64) -> Result<u64, Refusal> {
    match linear.unit {
        Some(unit) if unit > 0 => Ok((amount / unit).div_ceil(tp).saturating_mul(unit)),
        _ => share(name, what, amount, tp),
    }
}

/// Query heads are divided. KV heads are divided while there are at least as many as ranks, and
/// replicated otherwise, each on an equal number of ranks.
fn qkv(name: &str, linear: &Linear, heads: [u64; 2], tp: u64) -> Result<Vec<u64>, Refusal> {
    let [heads, kv_heads] = heads;
    share(name, "number of query heads", heads, tp)?;
    let kv_share = kv_heads_on_rank(name, kv_heads, tp)?;
    let part = |out: u64, of: u64, share: u64| out / of.max(1) * share;
    let outs = linear.outs.iter().enumerate().map(|(index, &out)| match index {
        0 => part(out, heads, heads / tp),
        1..4 => part(out, kv_heads, kv_share),
        _ => out,
    });
    Ok(outs.collect())
}

fn partly(
    name: &str,
    linear: &Linear,
    whole: u32,
    align: u64,
    tp: u64,
) -> Result<Vec<u64>, Refusal> {
    let part = |(bit, &out): (u32, &u64)| match whole.unbounded_shr(bit) & 1 == 1 {
        true => Ok(out),
        false => share(name, "output width", out, tp),
    };
    let mut outs: Vec<u64> = (0..).zip(&linear.outs).map(part).collect::<Result<_, _>>()?;
    let sum = outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out));
    let filling = sum.div_ceil(align.max(1)).saturating_mul(align.max(1)).saturating_sub(sum);
    if filling > 0 {
        outs.push(filling);
    }
    Ok(outs)
}

/// vLLM builds one matrix of several outputs while the groups divide, and else, a single group
/// repeated on every rank, one undivided output (`MambaMixer2`): quantised forms with a scale for
/// each output differ.
fn grouped(
    name: &str,
    linear: &Linear,
    groups: u64,
    at: usize,
    tp: u64,
) -> Result<Vec<u64>, Refusal> {
    let total = groups_over_ranks(groups, tp)?;
    let part = |(index, &out): (usize, &u64)| {
        let is_grouped = index == at || index == at.saturating_add(1);
        let whole = if is_grouped { (out / groups.max(1)).saturating_mul(total) } else { out };
        share(name, "output width", whole, tp)
    };
    let outs: Vec<u64> = linear.outs.iter().enumerate().map(part).collect::<Result<_, _>>()?;
    if groups.is_multiple_of(tp) {
        return Ok(outs);
    }
    Ok(vec![outs.iter().fold(0, |sum: u64, &out| sum.saturating_add(out))])
}

/// KV heads that one rank holds: an even share, or one that several ranks hold alike.
///
/// # Errors
/// [`Refusal`] when neither number divides the other.
pub(crate) fn kv_heads_on_rank(name: &str, kv_heads: u64, tp: u64) -> Result<u64, Refusal> {
    if tp >= kv_heads.max(1) {
        share(name, "number of ranks over KV heads:", tp, kv_heads.max(1))?;
        return Ok(1);
    }
    share(name, "number of KV heads", kv_heads, tp)
}

pub(crate) fn embedding_rows(name: &str, embedding: &Embedding, tp: u64) -> Result<u64, Refusal> {
    match embedding.split {
        EmbeddingSplit::Whole => Ok(embedding.rows),
        EmbeddingSplit::Vocabulary => vocabulary_rows(name, embedding.rows, tp),
    }
}

/// Rows of a padded vocabulary on one rank.
pub(crate) fn vocabulary_rows(name: &str, rows: u64, tp: u64) -> Result<u64, Refusal> {
    share(name, "padded vocabulary", rows.next_multiple_of(VOCAB_PADDING), tp)
}
