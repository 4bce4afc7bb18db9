//! The cost curve: blocks that a sequence needs, as a function of its length.
//!
//! A base type, so that an engine can compute it and the gate apply it, and neither imports the
//! other. Public as [`crate::units::CostCurve`].

use crate::units::{Blocks, Tokens};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// Terms that a curve has room for: as many as any model in the records of vLLM needs. A lease
/// carries its curve, so that more would cost every admission.
const TERMS_MAX: usize = 4;

/// Most blocks of a term whose layers keep every token.
const UNLIMITED: u32 = u32::MAX;

/// What groups of layers alike take of a sequence of `n` tokens:
/// `count * ceil(min(n, keep_tokens) / block_tokens)` blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTerm {
    /// Tokens a block holds; not zero.
    pub block_tokens: u32,
    /// Tokens of a sequence that take blocks at once: its window and what is in flight.
    /// [`Tokens::MAX`] where every token is kept (absent, when serialised).
    #[serde(default = "all_tokens", skip_serializing_if = "is_all_tokens")]
    pub keep_tokens: Tokens,
    /// Groups of layers that take as much, each blocks of its own.
    pub count: u32,
}

const fn all_tokens() -> Tokens {
    Tokens::MAX
}

// The signature is serde's.
fn is_all_tokens(tokens: &Tokens) -> bool {
    *tokens == Tokens::MAX
}

/// A [`CostTerm`] that counts its end in blocks, since
/// `ceil(min(n, keep) / block) = min(ceil(n / block), ceil(keep / block))`: half as large, and
/// windows that end in the same block are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Term {
    block_tokens: u32,
    most_blocks: u32,
    count: u32,
}

impl Term {
    const UNUSED: Self = Self { block_tokens: 1, most_blocks: 0, count: 0 };

    /// Never overflows: at worst held at 2^64 - 1.
    const fn blocks(self, tokens: u64) -> u64 {
        let blocks = tokens.div_ceil(self.block_tokens as u64);
        let is_ended = self.most_blocks != UNLIMITED && blocks > self.most_blocks as u64;
        let blocks = if is_ended { self.most_blocks as u64 } else { blocks };
        blocks.saturating_mul(self.count as u64)
    }

    /// And whether it takes exactly as much. `None` if a block has no tokens.
    fn of(given: &CostTerm) -> Option<(Self, bool)> {
        let CostTerm { block_tokens, keep_tokens, count } = *given;
        if block_tokens == 0 {
            return None;
        }
        // All tokens there can be take more than 2^32 blocks, however large.
        let most = keep_tokens.0.div_ceil(u64::from(block_tokens));
        let most_blocks = u32::try_from(most).unwrap_or(UNLIMITED);
        let is_exact = most_blocks != UNLIMITED || keep_tokens == Tokens::MAX;
        Some((Self { block_tokens, most_blocks, count }, is_exact))
    }

    const fn is_like(self, other: Self) -> bool {
        self.block_tokens == other.block_tokens && self.most_blocks == other.most_blocks
    }

    /// Those that keep all first, then those that take most; and something to decide by.
    const fn order(self) -> (Reverse<bool>, Reverse<u64>, u32, u32) {
        let most = Reverse(self.most());
        (Reverse(self.is_unlimited()), most, self.block_tokens, self.most_blocks)
    }

    const fn is_unlimited(self) -> bool {
        self.most_blocks == UNLIMITED
    }

    /// Blocks of a sequence that outgrew what is kept.
    const fn most(self) -> u64 {
        self.most_blocks as u64 * self.count as u64
    }
}

/// Blocks that a sequence of `n` tokens needs: what an engine says of a model, and what
/// [`crate::admission`] applies.
///
/// `blocks(0) = 0`, else
/// `blocks(n) = fixed_blocks + Σ count * ceil(min(n, keep_tokens) / block_tokens)` over at most
/// four [`CostTerm`]s: one kind of layers each, those that keep every token, a window, or a chunk.
/// States and whatever else does not depend on the length are in `fixed_blocks`.
///
/// A curve is *plain* where one term keeps every token and stands once:
/// `blocks(n) = fixed_blocks + ceil(n / block_tokens)`. Serialised, a plain curve is
/// `{"block_tokens", "fixed_blocks"}`; any other has `terms`, too, and `is_exact` where it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct CostCurve {
    fixed_blocks: u64,
    /// Those in use first, in the order of [`Term::order`], so that equal curves are equal bits.
    terms: [Term; TERMS_MAX],
    len: u8,
    /// Known beforehand: the hot path of a gate asks for nothing else.
    is_plain: bool,
    is_exact: bool,
    /// Of a plain curve whose block is a power of two, its logarithm: a shift takes a fraction of
    /// the time of a division, and a gate does two for an admission. Else [`NO_SHIFT`].
    shift: u8,
}

/// Divide.
const NO_SHIFT: u8 = u64::BITS as u8;

const fn shift_of(block_tokens: u32) -> u8 {
    if block_tokens.is_power_of_two() { block_tokens.trailing_zeros() as u8 } else { NO_SHIFT }
}

// With all else one cache line.
const _: () = assert!(size_of::<CostCurve>() <= 64);

impl CostCurve {
    /// No sequence fits any budget: a bound where nothing else is known.
    pub const NOTHING_FITS: Self = Self {
        fixed_blocks: u64::MAX,
        terms: [Term::UNUSED; TERMS_MAX],
        len: 0,
        is_plain: false,
        is_exact: false,
        shift: NO_SHIFT,
    };

    /// A plain curve with `block_tokens` tokens a block and `fixed_blocks` blocks of state a
    /// sequence takes whatever its length. `None` if `block_tokens` is zero.
    #[must_use]
    pub const fn new(block_tokens: u32, fixed_blocks: u32) -> Option<Self> {
        if block_tokens == 0 {
            return None;
        }
        let mut terms = [Term::UNUSED; TERMS_MAX];
        terms[0] = Term { block_tokens, most_blocks: UNLIMITED, count: 1 };
        let fixed_blocks = fixed_blocks as u64;
        let shift = shift_of(block_tokens);
        Some(Self { fixed_blocks, terms, len: 1, is_plain: true, is_exact: true, shift })
    }

    /// A curve of `fixed_blocks` that any sequence takes, and `terms` that depend on its length;
    /// equal ones are added up, and those that take nothing left out.
    ///
    /// Where more than four kinds remain, the curve is an upper bound, and [`Self::is_exact`] says
    /// so. Surplus ones that keep less than all, those that take least, count from the first token
    /// on what they ever take; surplus ones that keep all count in the smallest block among them.
    /// It is an upper bound, too, where a term keeps 2^32 - 1 blocks or more but not all: it counts
    /// as if it kept all.
    ///
    /// `None` if a block has no tokens, the counts add up to 2^32 or more, or no sequence takes
    /// anything, which no gate could count.
    #[must_use]
    pub fn from_terms(fixed_blocks: u64, terms: &[CostTerm]) -> Option<Self> {
        let mut kinds: Vec<Term> = Vec::with_capacity(terms.len());
        let (mut is_exact, mut count) = (true, 0u32);
        for given in terms {
            count = count.checked_add(given.count)?;
            let (term, term_is_exact) = Term::of(given)?;
            if term.most_blocks == 0 || term.count == 0 {
                continue;
            }
            is_exact &= term_is_exact;
            match kinds.iter_mut().find(|kind| kind.is_like(term)) {
                // All counts together are 32 bits.
                Some(kind) => kind.count += term.count,
                None => kinds.push(term),
            }
        }
        let mut curve = Self::of_kinds(fixed_blocks, kinds)?;
        curve.is_exact &= is_exact;
        Some(curve)
    }

    fn of_kinds(mut fixed_blocks: u64, mut kinds: Vec<Term>) -> Option<Self> {
        if fixed_blocks == 0 && kinds.is_empty() {
            return None;
        }
        kinds.sort_unstable_by_key(|term| term.order());
        let surplus = kinds.split_off(kinds.len().min(TERMS_MAX));
        for term in &surplus {
            match kinds.last_mut() {
                // Those that keep all come first, so the last one that has room keeps all, too.
                Some(last) if term.is_unlimited() => {
                    last.block_tokens = last.block_tokens.min(term.block_tokens);
                    last.count += term.count;
                }
                _ => fixed_blocks = fixed_blocks.saturating_add(term.most()),
            }
        }
        // Those that others were added to may stand elsewhere now. No two are alike: each has the
        // block of one kind, and all kinds differ.
        kinds.sort_unstable_by_key(|term| term.order());
        let mut terms = [Term::UNUSED; TERMS_MAX];
        for (slot, kind) in terms.iter_mut().zip(&kinds) {
            *slot = *kind;
        }
        let is_plain = matches!(kinds.as_slice(), [Term { most_blocks: UNLIMITED, count: 1, .. }]);
        // At most TERMS_MAX.
        let len = kinds.len() as u8;
        let shift = if is_plain { shift_of(terms[0].block_tokens) } else { NO_SHIFT };
        Some(Self { fixed_blocks, terms, len, is_plain, is_exact: surplus.is_empty(), shift })
    }

    /// The same curve where it is not what a sequence takes, but never below it.
    #[must_use]
    pub const fn as_upper_bound(mut self) -> Self {
        self.is_exact = false;
        self
    }

    /// Whether sequences take exactly so much: no term had to be bounded.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// Whether the curve is `fixed_blocks + ceil(n / block_tokens)`.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Blocks that any sequence takes, however short.
    #[must_use]
    pub const fn fixed_blocks(&self) -> Blocks {
        Blocks(self.fixed_blocks)
    }

    /// What depends on the length, those that keep every token first. Ends within a block are
    /// rounded up to it.
    pub fn terms(&self) -> impl Iterator<Item = CostTerm> {
        self.terms.into_iter().take(self.len.into()).map(|term| CostTerm {
            block_tokens: term.block_tokens,
            keep_tokens: match term.is_unlimited() {
                true => Tokens::MAX,
                false => Tokens(u64::from(term.most_blocks) * u64::from(term.block_tokens)),
            },
            count: term.count,
        })
    }

    /// Tokens a block holds, in a plain curve. Otherwise the tokens of the smallest block of any
    /// term: a sequence takes no more blocks before it grew by so many tokens or reached a multiple
    /// of them. `u32::MAX` where nothing depends on the length.
    #[must_use]
    pub const fn block_tokens(&self) -> u32 {
        let (mut smallest, mut index) = (u32::MAX, 0);
        while index < self.len as usize {
            if self.terms[index].block_tokens < smallest {
                smallest = self.terms[index].block_tokens;
            }
            index += 1;
        }
        smallest
    }

    /// Blocks that a sequence of `tokens` needs. Never less for a longer one, and held at
    /// `u64::MAX`.
    #[inline]
    #[must_use]
    pub const fn blocks(&self, tokens: Tokens) -> Blocks {
        if tokens.0 == 0 {
            return Blocks::ZERO;
        }
        if !self.is_plain {
            return self.blocks_of_terms(tokens.0);
        }
        let blocks = if self.shift < NO_SHIFT {
            // Rounded up; the tokens are not zero, so this does not wrap.
            ((tokens.0 - 1) >> self.shift) + 1
        } else {
            tokens.0.div_ceil(self.terms[0].block_tokens as u64)
        };
        Blocks(blocks.saturating_add(self.fixed_blocks))
    }

    /// Out of line, so that the plain case stays small where it is inlined.
    #[cold]
    #[inline(never)]
    const fn blocks_of_terms(&self, tokens: u64) -> Blocks {
        let (mut blocks, mut index) = (self.fixed_blocks, 0);
        while index < self.len as usize {
            blocks = blocks.saturating_add(self.terms[index].blocks(tokens));
            index += 1;
        }
        Blocks(blocks)
    }

    /// The longest sequence that so many blocks hold: the largest number of tokens whose
    /// [`Self::blocks`] are at most `blocks`. [`Tokens::MAX`] where they hold a sequence of any
    /// length, since nothing more is kept from some length on.
    #[must_use]
    pub const fn tokens(&self, blocks: Blocks) -> Tokens {
        // What is held at the largest number of blocks fits into it.
        if blocks.0 == u64::MAX {
            return Tokens::MAX;
        }
        if self.is_plain {
            let growing = blocks.0.saturating_sub(self.fixed_blocks);
            return Tokens(growing.saturating_mul(self.terms[0].block_tokens as u64));
        }
        if self.blocks(Tokens::MAX).0 <= blocks.0 {
            return Tokens::MAX;
        }
        let (mut fitting, mut beyond) = (0, u64::MAX);
        while beyond - fitting > 1 {
            let middle = fitting + (beyond - fitting) / 2;
            if self.blocks(Tokens(middle)).0 <= blocks.0 {
                fitting = middle;
            } else {
                beyond = middle;
            }
        }
        Tokens(fitting)
    }
}

/// A curve as serialised: of a plain one, the two numbers that say it all.
#[derive(Serialize, Deserialize)]
#[serde(rename = "CostCurve", deny_unknown_fields)]
struct Written {
    block_tokens: u32,
    fixed_blocks: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terms: Option<Vec<CostTerm>>,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    is_exact: bool,
}

const fn yes() -> bool {
    true
}

// The signature is serde's.
fn is_yes(is_exact: &bool) -> bool {
    *is_exact
}

impl From<CostCurve> for Written {
    fn from(curve: CostCurve) -> Self {
        Self {
            block_tokens: curve.block_tokens(),
            fixed_blocks: curve.fixed_blocks,
            terms: (!curve.is_plain).then(|| curve.terms().collect()),
            is_exact: curve.is_exact,
        }
    }
}

impl TryFrom<Written> for CostCurve {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let block_tokens = written.block_tokens;
        let terms = written
            .terms
            .unwrap_or_else(|| vec![CostTerm { block_tokens, keep_tokens: Tokens::MAX, count: 1 }]);
        let curve = Self::from_terms(written.fixed_blocks, &terms)
            .ok_or("a cost curve has blocks of at least one token, and takes some")?;
        if curve.block_tokens() != block_tokens {
            return Err("block_tokens of a cost curve are those of its smallest block");
        }
        Ok(if written.is_exact { curve } else { curve.as_upper_bound() })
    }
}

#[cfg(test)]
mod tests;
