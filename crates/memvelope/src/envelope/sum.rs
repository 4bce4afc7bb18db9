//! The terms, one after another, and what they leave.

use super::basis::Basis;
use super::equation::signed;
use super::{Envelope, Origin, Term, TermName};
use crate::error::Error;
use crate::units::{Blocks, Bytes};

/// The runtime reserve is one in so many bytes: 2 %.
const RUNTIME_RESERVE_PART: i64 = 50;
/// The safety reserve is one in so many bytes: 1 %.
const SAFETY_RESERVE_PART: i64 = 100;

/// The terms so far.
pub(super) struct Sum<'a> {
    pub(super) basis: &'a Basis,
    pub(super) terms: Vec<Term>,
}

/// What a measurement says about the reserves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reserves {
    /// Of what the runtime reserve is for, bytes in use by now.
    pub(super) spent: i64,
    /// How far off all measured terms may be together.
    pub(super) error: i64,
}

/// A solved equation, whether or not it leaves room.
pub(super) struct Solved {
    pub(super) envelope: Envelope,
    taken: i128,
    hint: String,
}

impl<'a> Sum<'a> {
    pub(super) fn new(basis: &'a Basis) -> Self {
        Self { basis, terms: Vec::with_capacity(TermName::ALL.len()) }
    }

    pub(super) fn push(
        &mut self,
        name: TermName,
        bytes: Option<i64>,
        in_use_bytes: Option<i64>,
        origin: Origin,
        note: impl Into<String>,
    ) {
        self.terms.push(Term { name, bytes, in_use_bytes, origin, note: note.into() });
    }

    /// A term of which nothing is known to be in use.
    pub(super) fn put(
        &mut self,
        name: TermName,
        bytes: i64,
        origin: Origin,
        note: impl Into<String>,
    ) {
        self.push(name, Some(bytes), None, origin, note);
    }

    /// A measured term, in use as a whole.
    pub(super) fn used(&mut self, name: TermName, bytes: i64, note: impl Into<String>) {
        self.push(name, Some(bytes), Some(bytes), Origin::Measured, note);
    }

    pub(super) fn absent(&mut self, name: TermName, note: &str) {
        self.push(name, None, None, Origin::Assumed, note);
    }

    pub(super) fn term_mut(&mut self, name: TermName) -> Option<&mut Term> {
        self.terms.iter_mut().find(|term| term.name == name)
    }

    fn bytes_of(&self, name: TermName) -> Option<i64> {
        self.terms.iter().find(|term| term.name == name).and_then(|term| term.bytes)
    }

    /// What is in use of a term, never below zero.
    pub(super) fn in_use_of(&self, name: TermName) -> i64 {
        let term = self.terms.iter().find(|term| term.name == name);
        term.and_then(|term| term.in_use_bytes).unwrap_or(0).max(0)
    }

    /// What a term takes off the capacity.
    pub(super) fn taken_of(&self, name: TermName) -> i64 {
        self.bytes_of(name).unwrap_or(0).max(0)
    }

    /// Bytes kept away on purpose: `live` ones that were allocated for it, or what the engine was
    /// not given of the device, whichever is more. What `others` use lies in the latter: it was left
    /// to them.
    pub(super) fn withheld(&mut self, live: Option<i64>, others: i64) {
        let wanted = self.basis.withheld.map(|bytes| bytes.saturating_sub(others.max(0)).max(0));
        let (bytes, origin, note) = match (live, wanted) {
            (None, None) => {
                return self.absent(TermName::Withheld, "nothing is known to be withheld");
            }
            (Some(live), wanted) if wanted.is_none_or(|wanted| live >= wanted) => {
                (live, Origin::Measured, "allocated to be kept away from us")
            }
            (_, wanted) => {
                let note = "not given to the engine, less what others use and nobody accounts for";
                (wanted.unwrap_or(0), Origin::Derived, note)
            }
        };
        self.push(TermName::Withheld, Some(bytes), live, origin, note);
    }

    pub(super) fn weights(&mut self, live: Option<i64>) {
        let (computed, why) = &self.basis.weights;
        let (computed, loaded) = (*computed, live.unwrap_or(0));
        let (origin, note) = if loaded >= computed && loaded > 0 {
            (Origin::Measured, "live allocations tagged as weights".into())
        } else {
            let loaded = Bytes(loaded.max(0).unsigned_abs());
            (Origin::Derived, format!("{why}; {loaded} of them loaded"))
        };
        self.push(TermName::Weights, Some(loaded.max(computed)), live, origin, note);
    }

    /// What activations take at most, as far as was seen or assumed.
    pub(super) fn activations(&mut self, live: Option<i64>, peak: i64) {
        let (assumed, note) = self.basis.activations.clone();
        let peak = peak.max(live.unwrap_or(0));
        let (bytes, origin, note) = if peak > assumed {
            (peak, Origin::Measured, "peak of allocations tagged as activations".into())
        } else if peak > 0 {
            let peak = Bytes(peak.unsigned_abs());
            (assumed, Origin::Assumed, format!("{note}; at most {peak} seen so far"))
        } else {
            (assumed, Origin::Assumed, note)
        };
        self.push(TermName::Activations, Some(bytes), live, origin, note);
    }

    /// What is not given to the KV cache although nothing uses it.
    pub(super) fn reserves(&mut self, measured: Reserves) {
        let total = self.bytes_of(TermName::Total).unwrap_or(0);
        let base = total.saturating_sub(self.taken_of(TermName::Withheld)).max(0);
        let (bytes, mut note) = self.basis.runtime_reserve.clone().unwrap_or_else(|| {
            let note = "2 % of total - withheld, for what the runtime will still need";
            (base / RUNTIME_RESERVE_PART, note.into())
        });
        // What came meanwhile (graphs, libraries, modules) has terms of its own by now.
        let spent = measured.spent.clamp(0, bytes.max(0));
        if spent > 0 {
            note = format!("{note}; {} of it in use by now", Bytes(spent.unsigned_abs()));
        }
        self.put(TermName::RuntimeReserve, bytes - spent, Origin::Assumed, note);
        let (bytes, note) = self.basis.safety_reserve.clone().unwrap_or_else(|| {
            let note = "1 % of total - withheld, against surprise";
            (base / SAFETY_RESERVE_PART, note.into())
        });
        if measured.error > bytes {
            let note = format!(
                "raised from {}: what is measured may be off by so much",
                Bytes(bytes.max(0).unsigned_abs())
            );
            self.put(TermName::SafetyReserve, measured.error, Origin::Derived, note);
        } else {
            self.put(TermName::SafetyReserve, bytes, Origin::Assumed, note);
        }
    }

    /// What nobody tagged is presumed to be what the caller says it is: KV cache of
    /// [`super::Declared::kv_untagged`] bytes, and weights that are not seen although
    /// [`super::Declared::is_loaded`]. Those bytes are then not taken a second time, under libraries
    /// or the opening balance. The KV bytes that were found there.
    pub(super) fn presume(&mut self) -> i64 {
        let weights = match self.basis.is_loaded {
            true => self.taken_of(TermName::Weights) - self.in_use_of(TermName::Weights),
            false => 0,
        };
        let kv_found = self.presume_part(self.basis.kv_untagged, "KV cache, as declared");
        self.presume_part(weights, "weights, declared to be loaded");
        kv_found
    }

    fn presume_part(&mut self, wanted: i64, what: &str) -> i64 {
        let mut left = wanted.max(0);
        for name in [TermName::Libraries, TermName::OpeningBalance] {
            let Some(term) = self.term_mut(name) else { continue };
            let part = term.bytes.unwrap_or(0).max(0).min(left);
            if part > 0 {
                left -= part;
                term.bytes = term.bytes.map(|bytes| bytes - part);
                let part = Bytes(part.unsigned_abs());
                term.note = format!("{}; {part} of it are {what}", term.note);
            }
        }
        wanted.max(0) - left
    }

    /// KV bytes in use: tagged ones, and those that were declared and found.
    pub(super) fn kv_cache(&mut self, live: Option<i64>, found: i64, absent: &str) {
        let note = match (live, found) {
            (None, ..=0) => return self.absent(TermName::KvCache, absent),
            (Some(_), ..=0) => "live allocations tagged as KV cache".into(),
            (_, found) => format!("{} of it as declared, untagged", Bytes(found.unsigned_abs())),
        };
        let origin = if found > 0 { Origin::Derived } else { Origin::Measured };
        let bytes = live.unwrap_or(0).saturating_add(found.max(0));
        self.push(TermName::KvCache, Some(bytes), live, origin, note);
    }

    /// Solves for the capacity.
    pub(super) fn solve(mut self) -> Solved {
        let total = self.bytes_of(TermName::Total).unwrap_or(0);
        let named: i128 = self
            .terms
            .iter()
            .filter(|term| term.name.is_taken())
            .filter_map(|term| term.bytes)
            .map(|bytes| i128::from(bytes.max(0)))
            .sum();
        let unaccounted = self.taken_of(TermName::Unaccounted);
        let taken = named + i128::from(unaccounted);
        // At most the total, because nothing that is taken is negative.
        let capacity = u64::try_from(i128::from(total) - taken).unwrap_or(0);
        let blocks = capacity.checked_div(self.basis.block_bytes.0).unwrap_or(0);
        let hint = self.hint();
        let place = self.terms.iter().position(|term| term.name == TermName::KvCache);
        let term = Term {
            name: TermName::KvCapacity,
            bytes: Some(signed(Bytes(capacity))),
            in_use_bytes: None,
            origin: Origin::Derived,
            note: "total - all terms above, and what is unaccounted for".into(),
        };
        self.terms.insert(place.unwrap_or(self.terms.len()), term);
        let envelope = Envelope {
            simulated: false,
            terms: self.terms,
            kv_capacity_bytes: Bytes(capacity),
            kv_capacity_blocks: Blocks(blocks),
            block_bytes: self.basis.block_bytes,
            page_bytes: self.basis.page_bytes,
            curve: self.basis.curve,
        };
        Solved { envelope, taken, hint }
    }

    /// What to do when there is no room.
    fn hint(&self) -> String {
        let taken = self.terms.iter().filter(|term| term.name.is_taken());
        let Some(largest) = taken.max_by_key(|term| term.bytes) else {
            return "declare a larger total".into();
        };
        let (name, bytes) =
            (largest.name.label(), Bytes(largest.bytes.unwrap_or(0).max(0).unsigned_abs()));
        let block = self.basis.block_bytes;
        format!(
            "{name} takes most ({bytes}) and one block needs {block}; use a larger device, a \
             smaller or sharded model, or declare smaller reserves"
        )
    }
}

impl Solved {
    /// The equation, if it leaves at least a block.
    pub(super) fn with_room(self) -> Result<Envelope, Error> {
        if self.envelope.kv_capacity_blocks > Blocks::ZERO {
            return Ok(self.envelope);
        }
        let total = self.envelope.term(TermName::Total).and_then(|term| term.bytes);
        Err(Error::NoRoom {
            total_bytes: total.unwrap_or(0).max(0).unsigned_abs(),
            taken_bytes: u64::try_from(self.taken).unwrap_or(u64::MAX),
            hint: self.hint,
        })
    }
}
