//! Filling the equation: from a declared total, or from a device snapshot.

use super::planes::Planes;
use super::{Origin, Term, TermName};
use crate::engine::Vllm;
use crate::error::{Error, Result};
use crate::event::Tag;
use crate::model::Layout;
use crate::snapshot::DeviceSnapshot;
use crate::units::{Blocks, Bytes, CostCurve};
use serde::Serialize;

/// What a context takes until it was measured. Bare contexts of data-centre GPUs take 250 to 600
/// MiB; it grows with the modules that are loaded, which the runtime reserve is for.
const CONTEXT_DEFAULT: Bytes = Bytes(512 * Bytes::MIB);
/// Tokens in flight that the default for activations assumes: vLLM's `max_num_batched_tokens` for a
/// server on an 80 GB GPU.
const ACTIVATION_TOKENS: u64 = 8192;
/// Sequences whose logits (four bytes each) the default for activations assumes.
const ACTIVATION_SEQUENCES: u64 = 256;
/// The runtime reserve is one in so many bytes: 2 %.
const RUNTIME_RESERVE_PART: i64 = 50;
/// The safety reserve is one in so many bytes: 1 %.
const SAFETY_RESERVE_PART: i64 = 100;

/// The capacity equation of one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Envelope {
    /// Whether the device is simulated; see [`Self::mark_simulated`].
    pub simulated: bool,
    /// Terms in the order of the equation.
    pub terms: Vec<Term>,
    /// Bytes for the KV cache.
    pub kv_capacity_bytes: Bytes,
    /// The same in whole blocks.
    pub kv_capacity_blocks: Blocks,
    /// Bytes of a block.
    pub block_bytes: Bytes,
    /// Bytes by which the driver rounds every allocation up.
    pub page_bytes: Bytes,
    /// Blocks of a sequence, as a function of its length.
    pub curve: CostCurve,
}

/// What a person declares; each has a documented default.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Declared {
    /// Tokens a block holds. Default 16, vLLM's usual block.
    pub block_tokens: u32,
    /// Bytes for activations and workspaces, if known better than the default: 8192 tokens in
    /// flight through the widest layer, and the logits of 256 sequences.
    pub activations: Option<Bytes>,
    /// Bytes of context; default: what the device plane says, 512 MiB until it was asked.
    pub context: Option<Bytes>,
    /// Bytes kept away from the engine on purpose: what `--gpu-memory-utilization` leaves.
    pub withheld: Option<Bytes>,
    /// Runtime reserve; default 2 % of total - withheld.
    pub runtime_reserve: Option<Bytes>,
    /// Safety reserve; default 1 % of total - withheld.
    pub safety_reserve: Option<Bytes>,
    /// Bytes by which every KV slab is rounded up by the driver (2 MiB on current GPUs).
    pub page_bytes: Bytes,
}

impl Default for Declared {
    fn default() -> Self {
        Self {
            block_tokens: 16,
            activations: None,
            context: None,
            withheld: None,
            runtime_reserve: None,
            safety_reserve: None,
            page_bytes: Bytes(2 << 20),
        }
    }
}

impl Envelope {
    /// Plans from a declared total, before anything runs: every term Assumed or Derived.
    ///
    /// This is the arithmetic of models whose every layer keeps every token, without any engine's
    /// rounding; [`Self::plan_engine`] plans all others, too.
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`]; [`crate::Error::ReadConfig`] if a block has no tokens;
    /// [`crate::Error::ReadModel`] if the layers keep caches of several kinds.
    pub fn plan(total: Bytes, layout: &Layout, declared: &Declared) -> Result<Self> {
        let flight = Flight::DEFAULT;
        let weights = known_weights(layout)?;
        Self::plan_terms(total, layout, Sum::new(layout, declared)?, weights, &flight)
    }

    /// As [`Self::plan`], in the blocks of an engine: `weights` are those of one rank, and
    /// [`Self::block_bytes`] and [`Self::curve`] are what the engine makes of the model
    /// ([`Vllm::cost_curve`]).
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`].
    pub fn plan_engine(
        total: Bytes,
        layout: &Layout,
        engine: &Vllm,
        weights: Bytes,
        declared: &Declared,
    ) -> Result<Self> {
        let sum = Sum {
            terms: Vec::with_capacity(TermName::ALL.len()),
            declared,
            block_bytes: engine.bytes_per_block(),
            curve: engine.cost_curve(),
        };
        let resolved = engine.resolved();
        let flight = Flight {
            tokens: resolved.max_num_batched_tokens,
            sequences: resolved.max_num_seqs.min(ACTIVATION_SEQUENCES),
            ranks: resolved.tensor_parallel.max(1),
        };
        Self::plan_terms(total, layout, sum, weights, &flight)
    }

    /// As [`Self::plan_engine`] where nothing is rounded: a block is one token of `per_token` bytes
    /// in the layers that keep every token (one byte, where there are none).
    pub(super) fn plan_tokens(
        total: Bytes,
        layout: &Layout,
        per_token: Bytes,
        ranks: u32,
        weights: Bytes,
        declared: &Declared,
    ) -> Result<Self> {
        let declared = Declared { block_tokens: 1, ..*declared };
        let block_bytes = per_token.max(Bytes(1));
        let sum = Sum { block_bytes, ..Sum::of_tokens(&declared)? };
        let flight = Flight { ranks: u64::from(ranks).max(1), ..Flight::DEFAULT };
        Self::plan_terms(total, layout, sum, weights, &flight)
    }

    fn plan_terms(
        total: Bytes,
        layout: &Layout,
        mut sum: Sum<'_>,
        weights: Bytes,
        flight: &Flight,
    ) -> Result<Self> {
        let total = signed(total);
        let declared = sum.declared;
        sum.put(TermName::Total, total, Origin::Assumed, "as declared");
        match declared.withheld {
            Some(bytes) => {
                let note = "not given to the engine (its share of the device)";
                sum.put(TermName::Withheld, signed(bytes), Origin::Derived, note);
            }
            None => sum.absent(TermName::Withheld, "nothing is known to be withheld"),
        }
        sum.put(TermName::Weights, signed(weights), Origin::Derived, COMPUTED);
        let (activations, note) = activations(layout, declared, flight);
        sum.put(TermName::Activations, activations, Origin::Assumed, note);
        sum.absent(TermName::Graphs, "none seen; those captured later need the runtime reserve");
        let (context, note) = assumed_context(declared);
        sum.put(TermName::Context, context, Origin::Assumed, note);
        sum.absent(TermName::Recorder, NO_RECORDER);
        sum.absent(TermName::Libraries, "none seen; later ones need the runtime reserve");
        sum.absent(TermName::OpeningBalance, "nobody was asked about other processes");
        sum.reserves(total.saturating_sub(declared.withheld.map_or(0, signed)));
        sum.absent(TermName::KvCache, "nothing runs yet");
        sum.absent(TermName::Unaccounted, "no device plane to compare with");
        sum.solve()
    }

    /// Fills the equation from a device snapshot (weights loaded, no KV yet, or some): terms that
    /// the snapshot knows are Measured, the rest as in [`Self::plan`]. While less than the computed
    /// weights is loaded, the computed size counts, so that no room is promised that the rest of
    /// the weights will take.
    ///
    /// Where single allocations go unseen, what is in use cannot be told apart. The computed terms
    /// are then taken to be in it as far as it goes, so that nothing is counted twice, and the rest
    /// is unaccounted for, which lowers the capacity.
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`], also when the driver told no total; [`crate::Error::ReadConfig`]
    /// if a block has no tokens.
    pub fn measured(device: &DeviceSnapshot, layout: &Layout, declared: &Declared) -> Result<Self> {
        let Some(total) = device.total_bytes.map(signed) else {
            let hint = "the driver told no total for this device; plan with a declared one".into();
            return Err(Error::NoRoom { total_bytes: 0, taken_bytes: 0, hint });
        };
        let live = |tag: Tag| signed(device.totals.by_tag[tag as usize].live_bytes);
        let mut sum = Sum::new(layout, declared)?;
        let weights = known_weights(layout)?;
        sum.put(TermName::Total, total, Origin::Measured, "as the driver tells");
        let used = device.free_bytes.map(|free| total.saturating_sub(signed(free)));
        let planes = Planes::read(device, declared, used);
        if device.allocations_unseen {
            sum.lumped(&planes, used, layout, weights);
            sum.reserves(total);
            sum.absent(TermName::KvCache, UNSEEN);
            sum.unaccounted(used, device, declared);
            return sum.solve();
        }
        let withheld = live(Tag::Withheld);
        sum.used(TermName::Withheld, withheld, "allocated to be kept away from us");
        sum.weights(live(Tag::Weights), signed(weights));
        sum.activations(device, layout, declared);
        sum.graphs(device);
        sum.context(&planes, device, declared);
        sum.recorder(device);
        sum.used(
            TermName::Libraries,
            unexplained(device),
            "allocations that nobody tagged, and pool reserves",
        );
        sum.others(&planes);
        sum.reserves(total.saturating_sub(withheld));
        sum.used(TermName::KvCache, live(Tag::KvCache), "live allocations tagged as KV cache");
        sum.unaccounted(used, device, declared);
        sum.solve()
    }

    /// The term of that name.
    #[must_use]
    pub fn term(&self, name: TermName) -> Option<&Term> {
        self.terms.iter().find(|term| term.name == name)
    }

    /// Says better where a term comes from.
    pub(super) fn restate(&mut self, name: TermName, origin: Origin, note: impl Into<String>) {
        if let Some(term) = self.terms.iter_mut().find(|term| term.name == name) {
            (term.origin, term.note) = (origin, note.into());
        }
    }

    /// Says whether the numbers come from a simulated device; the table and the JSON then say so.
    #[must_use]
    pub const fn mark_simulated(mut self, simulated: bool) -> Self {
        self.simulated = simulated;
        self
    }
}

const COMPUTED: &str = "computed from the model config";
const NO_RECORDER: &str = "nothing is recorded through CUPTI";
const UNSEEN: &str = "single allocations go unseen";

/// The terms so far.
struct Sum<'a> {
    terms: Vec<Term>,
    declared: &'a Declared,
    block_bytes: Bytes,
    curve: CostCurve,
}

/// What is computed at the same time, for the default of the activations.
struct Flight {
    tokens: u64,
    sequences: u64,
    ranks: u64,
}

impl Flight {
    const DEFAULT: Self =
        Self { tokens: ACTIVATION_TOKENS, sequences: ACTIVATION_SEQUENCES, ranks: 1 };
}

impl<'a> Sum<'a> {
    /// With blocks of the declared tokens, and of no bytes yet.
    fn of_tokens(declared: &'a Declared) -> Result<Self> {
        let curve = CostCurve::new(declared.block_tokens, 0).ok_or_else(|| Error::ReadConfig {
            key: "block_tokens".into(),
            value: declared.block_tokens.to_string(),
            expected: "1 or more".into(),
        })?;
        let terms = Vec::with_capacity(TermName::ALL.len());
        Ok(Self { terms, declared, block_bytes: Bytes::ZERO, curve })
    }

    fn new(layout: &Layout, declared: &'a Declared) -> Result<Self> {
        let sum = Self::of_tokens(declared)?;
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
        Ok(Self { block_bytes: layout.block_bytes(declared.block_tokens), ..sum })
    }

    fn push(
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
    fn put(&mut self, name: TermName, bytes: i64, origin: Origin, note: impl Into<String>) {
        self.push(name, Some(bytes), None, origin, note);
    }

    /// A measured term, in use as a whole.
    fn used(&mut self, name: TermName, bytes: i64, note: impl Into<String>) {
        self.push(name, Some(bytes), Some(bytes), Origin::Measured, note);
    }

    fn absent(&mut self, name: TermName, note: &str) {
        self.push(name, None, None, Origin::Assumed, note);
    }

    fn weights(&mut self, live: i64, computed: i64) {
        let (origin, note) = if live >= computed && live > 0 {
            (Origin::Measured, "live allocations tagged as weights".into())
        } else {
            let loaded = Bytes(live.unsigned_abs());
            (Origin::Derived, format!("{COMPUTED}; {loaded} of them loaded"))
        };
        self.push(TermName::Weights, Some(live.max(computed)), Some(live), origin, note);
    }

    fn activations(&mut self, device: &DeviceSnapshot, layout: &Layout, declared: &Declared) {
        let seen = &device.totals.by_tag[Tag::Activations as usize];
        let peak = signed(seen.peak_bytes).max(signed(seen.live_bytes));
        let (assumed, note) = activations(layout, declared, &Flight::DEFAULT);
        let (bytes, origin, note) = if peak > assumed {
            (peak, Origin::Measured, "peak of allocations tagged as activations".into())
        } else {
            (assumed, Origin::Assumed, note)
        };
        let live = Some(signed(seen.live_bytes));
        self.push(TermName::Activations, Some(bytes), live, origin, note);
    }

    fn graphs(&mut self, device: &DeviceSnapshot) {
        let seen = &device.totals.by_tag[Tag::Graphs as usize];
        if seen.allocated_count == 0 {
            let note = "none seen; those captured later need the runtime reserve";
            self.absent(TermName::Graphs, note);
        } else {
            let note = "live allocations tagged as graphs";
            self.used(TermName::Graphs, signed(seen.live_bytes), note);
        }
    }

    fn context(&mut self, planes: &Planes, device: &DeviceSnapshot, declared: &Declared) {
        let (bytes, in_use, origin, note) = match (planes.context, declared.context) {
            (Some(context), None) => {
                let rounding = rounding_max(device, declared);
                let note =
                    format!("this process beyond the ledger; rounding is in it ({rounding})");
                (context, Some(context), Origin::Derived, note)
            }
            (Some(context), Some(_)) => {
                let in_use = device.free_bytes.map(|_| context);
                (context, in_use, Origin::Assumed, "as declared".into())
            }
            (None, _) => {
                let (context, note) = assumed_context(declared);
                (context, None, Origin::Assumed, note.into())
            }
        };
        self.push(TermName::Context, Some(bytes), in_use, origin, note);
    }

    fn recorder(&mut self, device: &DeviceSnapshot) {
        let Some(bytes) = device.recorder_bytes else {
            return self.absent(TermName::Recorder, NO_RECORDER);
        };
        let most = device.recorder_bytes_max.unwrap_or(bytes);
        let note = format!("CUPTI's own buffers, preallocated; at most {most} when they fill");
        let (bytes, in_use) = (signed(bytes), device.free_bytes.map(|_| signed(bytes)));
        self.push(TermName::Recorder, Some(bytes), in_use, Origin::Derived, note);
    }

    fn others(&mut self, planes: &Planes) {
        match planes.others {
            Some(others) => {
                let (origin, note) = (planes.others_origin, planes.others_note);
                self.push(TermName::OpeningBalance, Some(others), Some(others), origin, note);
            }
            None => self.absent(TermName::OpeningBalance, planes.others_note),
        }
    }

    /// The terms down to the opening balance where no allocation was seen: computed ones, each in
    /// use as far as what this process uses goes.
    fn lumped(&mut self, planes: &Planes, used: Option<i64>, layout: &Layout, weights: Bytes) {
        let own = used.map(|used| used.saturating_sub(planes.others.unwrap_or(0)).max(0));
        let (activations, activations_note) = activations(layout, self.declared, &Flight::DEFAULT);
        let (context, context_note) = assumed_context(self.declared);
        let mut left = own;
        let mut lump = |sum: &mut Self, name, bytes: i64, origin, note: &str| {
            let in_use = left.map(|left| left.min(bytes));
            left = left.zip(in_use).map(|(left, in_use)| left - in_use);
            sum.push(name, Some(bytes), in_use, origin, format!("{note}; {UNSEEN}"));
        };
        self.absent(TermName::Withheld, UNSEEN);
        lump(self, TermName::Weights, signed(weights), Origin::Derived, COMPUTED);
        lump(self, TermName::Activations, activations, Origin::Assumed, &activations_note);
        self.absent(TermName::Graphs, UNSEEN);
        lump(self, TermName::Context, context, Origin::Assumed, context_note);
        match planes.recorder {
            Some(bytes) => {
                lump(self, TermName::Recorder, bytes, Origin::Derived, "CUPTI's own buffers");
            }
            None => self.absent(TermName::Recorder, NO_RECORDER),
        }
        self.absent(TermName::Libraries, UNSEEN);
        self.others(planes);
    }

    fn reserves(&mut self, base: i64) {
        let base = base.max(0);
        for (name, declared, part, default_note) in [
            (
                TermName::RuntimeReserve,
                self.declared.runtime_reserve,
                RUNTIME_RESERVE_PART,
                "2 % of total - withheld, for what the runtime will still need",
            ),
            (
                TermName::SafetyReserve,
                self.declared.safety_reserve,
                SAFETY_RESERVE_PART,
                "1 % of total - withheld, against surprise",
            ),
        ] {
            match declared {
                Some(bytes) => self.put(name, signed(bytes), Origin::Assumed, "as declared"),
                None => self.put(name, base / part, Origin::Assumed, default_note),
            }
        }
    }

    /// What the device plane reports beyond (or, negative, below) the terms in use.
    fn unaccounted(&mut self, used: Option<i64>, device: &DeviceSnapshot, declared: &Declared) {
        let Some(used) = used else {
            return self.absent(TermName::Unaccounted, "the driver told no free memory");
        };
        let known: i128 = self.terms.iter().filter_map(|t| t.in_use_bytes).map(i128::from).sum();
        let rest = i128::from(used) - known;
        let rest = rest.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let note = match rest {
            ..0 => {
                "counted twice somewhere, or freed since: total - free - all that is known".into()
            }
            0 => "all of total - free is explained".into(),
            _ if declared.context.is_some() => {
                let rounding = rounding_max(device, declared);
                format!("total - free - all that is known; rounding is in it ({rounding})")
            }
            _ => "total - free - all that is known".into(),
        };
        self.push(TermName::Unaccounted, Some(rest), Some(rest), Origin::Derived, note);
    }

    /// Solves for the capacity.
    fn solve(mut self) -> Result<Envelope> {
        let bytes_of =
            |name| self.terms.iter().find(|term| term.name == name).and_then(|term| term.bytes);
        let total = bytes_of(TermName::Total).unwrap_or(0);
        let named: i128 = self
            .terms
            .iter()
            .filter(|term| term.name.is_taken())
            .filter_map(|term| term.bytes)
            .map(i128::from)
            .sum();
        let unaccounted = bytes_of(TermName::Unaccounted).unwrap_or(0).max(0);
        let taken = named + i128::from(unaccounted);
        // At most the total, because nothing that is taken is negative.
        let capacity = u64::try_from(i128::from(total) - taken).unwrap_or(0);
        let blocks = capacity.checked_div(self.block_bytes.0).unwrap_or(0);
        if blocks == 0 {
            return Err(Error::NoRoom {
                total_bytes: total.unsigned_abs(),
                taken_bytes: u64::try_from(taken).unwrap_or(u64::MAX),
                hint: self.hint(),
            });
        }
        let place = self.terms.iter().position(|term| term.name == TermName::KvCache);
        let term = Term {
            name: TermName::KvCapacity,
            bytes: Some(signed(Bytes(capacity))),
            in_use_bytes: None,
            origin: Origin::Derived,
            note: "total - all terms above, and what is unaccounted for".into(),
        };
        self.terms.insert(place.unwrap_or(self.terms.len()), term);
        Ok(Envelope {
            simulated: false,
            terms: self.terms,
            kv_capacity_bytes: Bytes(capacity),
            kv_capacity_blocks: Blocks(blocks),
            block_bytes: self.block_bytes,
            page_bytes: self.declared.page_bytes,
            curve: self.curve,
        })
    }

    /// What to do when there is no room.
    fn hint(&self) -> String {
        let taken = self.terms.iter().filter(|term| term.name.is_taken());
        let Some(largest) = taken.max_by_key(|term| term.bytes) else {
            return "declare a larger total".into();
        };
        let (name, bytes) =
            (largest.name.label(), Bytes(largest.bytes.unwrap_or(0).unsigned_abs()));
        let block = self.block_bytes;
        format!(
            "{name} takes most ({bytes}) and one block needs {block}; use a larger device, a \
             smaller or sharded model, or declare smaller reserves"
        )
    }
}

/// Bytes as a term; no device has 2^63.
pub(super) fn signed(bytes: Bytes) -> i64 {
    i64::try_from(bytes.0).unwrap_or(i64::MAX)
}

/// The weights on one device.
fn known_weights(layout: &Layout) -> Result<Bytes> {
    let why = |refusal: crate::model::Refusal| Error::ReadModel {
        field: "(document)".into(),
        problem: refusal.reason,
    };
    Ok(layout.weights(1).map_err(why)?.param_bytes)
}

fn assumed_context(declared: &Declared) -> (i64, &'static str) {
    match declared.context {
        Some(bytes) => (signed(bytes), "as declared"),
        None => (signed(CONTEXT_DEFAULT), "default until the device was asked"),
    }
}

fn activations(layout: &Layout, declared: &Declared, flight: &Flight) -> (i64, String) {
    if let Some(bytes) = declared.activations {
        return (signed(bytes), "as declared".into());
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

/// Ledger bytes that no tag explains.
fn unexplained(device: &DeviceSnapshot) -> i64 {
    let totals = &device.totals;
    let tagged: Bytes = Tag::ALL
        .iter()
        .filter(|&&tag| tag != Tag::Untagged)
        .map(|&tag| totals.by_tag[tag as usize].live_bytes)
        .sum();
    signed(totals.vram.live_bytes.saturating_sub(tagged))
}

/// How much rounding by the driver can be at most, in words.
fn rounding_max(device: &DeviceSnapshot, declared: &Declared) -> String {
    let live = device.totals.vram.live_count;
    let most = Bytes(declared.page_bytes.0.saturating_sub(1)).saturating_mul(live);
    format!("at most {most} for {live} allocations")
}
