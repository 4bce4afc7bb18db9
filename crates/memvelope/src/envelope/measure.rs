//! A plan beside what was measured: the equation with its assumptions replaced, and how far off
//! they were.

use super::basis::Basis;
use super::equation::measured_terms;
use super::table::{signed_text, write_simulated};
use super::{Declared, Envelope, Origin, Plan, TermName};
use crate::error::{Error, Result};
use crate::snapshot::DeviceSnapshot;
use crate::units::{Blocks, Bytes};
use serde::Serialize;
use std::fmt;

/// A calibrated plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The equation as it was measured. Where nothing is left for the KV cache, its capacity is 0.
    pub envelope: Envelope,
    /// Term by term, in the order of the equation; the capacity and what is unaccounted for are
    /// among them.
    pub deviations: Vec<Deviation>,
    /// Capacity as planned.
    pub planned_blocks: Blocks,
    /// Measured less planned capacity, in bytes: negative where the plan promised too much.
    pub off_by_bytes: i64,
    /// The same in blocks.
    pub off_by_blocks: i64,
}

/// How far a plan was off in one term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deviation {
    /// Which.
    pub term: TermName,
    /// Bytes in the plan; `None`: the plan has no such term.
    pub planned_bytes: Option<i64>,
    /// Bytes that count now; `None`: nobody could tell.
    pub measured_bytes: Option<i64>,
    /// Of these, bytes in use now, as far as they were told apart.
    pub in_use_bytes: Option<i64>,
    /// Measured less planned. What is absent counts as nothing, since it takes nothing off the
    /// capacity: over all terms that are taken, and what is unaccounted for as far as it is
    /// positive, these make up what the capacity is off by (beside the total's), with the sign
    /// turned round.
    pub off_by_bytes: i64,
    /// Where the measured number comes from; Assumed is what could not be measured yet.
    pub origin: Origin,
    /// How it came about.
    pub note: String,
}

impl Envelope {
    /// Compares this plan with a device on which it runs: terms that the plan assumed and the
    /// snapshot knows are replaced as in [`Self::measured`], with the plan's blocks, weights, reserves
    /// and curve. What is declared overrules the plan; its `block_tokens` and `page_bytes` do not
    /// count.
    ///
    /// # Errors
    /// [`crate::Error::NoRoom`] when the driver told no total. That nothing is left is no error.
    pub fn measure(&self, device: &DeviceSnapshot, declared: &Declared) -> Result<Measured> {
        let basis = Basis::planned(self, declared);
        let mut envelope = measured_terms(device, &basis)?.envelope;
        envelope.simulated = self.simulated;
        let deviations = TermName::ALL
            .into_iter()
            .filter(|name| *name != TermName::KvCache)
            .filter_map(|name| deviation(self, &envelope, name))
            .collect();
        let signed = |blocks: Blocks| i64::try_from(blocks.0).unwrap_or(i64::MAX);
        let off_by = difference(capacity(&envelope), capacity(self));
        Ok(Measured {
            planned_blocks: self.kv_capacity_blocks,
            off_by_bytes: off_by,
            off_by_blocks: signed(envelope.kv_capacity_blocks) - signed(self.kv_capacity_blocks),
            envelope,
            deviations,
        })
    }
}

impl Plan {
    /// Compares the plan's equation with a device on which it runs: see [`Envelope::measure`].
    ///
    /// # Errors
    /// As there; [`crate::Error::NoRoom`] also where the plan has no equation (the memory of the KV
    /// cache was declared, or the plan was refused).
    pub fn measure(&self, device: &DeviceSnapshot, declared: &Declared) -> Result<Measured> {
        let Some(equation) = &self.equation else {
            let hint = "the plan has no equation to compare with: plan with a device and its share \
                        rather than with the memory of the KV cache";
            let total_bytes = device.total_bytes.unwrap_or_default().0;
            return Err(Error::NoRoom { total_bytes, taken_bytes: 0, hint: hint.into() });
        };
        equation.measure(device, declared)
    }
}

impl Measured {
    /// Says whether the numbers come from a simulated device; the table and the JSON then say so.
    #[must_use]
    pub fn mark_simulated(mut self, simulated: bool) -> Self {
        self.envelope.simulated = simulated;
        self
    }

    /// The deviation of one term; `None` where neither plan nor measurement has it.
    #[must_use]
    pub fn deviation(&self, term: TermName) -> Option<&Deviation> {
        self.deviations.iter().find(|deviation| deviation.term == term)
    }
}

fn capacity(envelope: &Envelope) -> Option<i64> {
    envelope.term(TermName::KvCapacity).and_then(|term| term.bytes)
}

fn difference(measured: Option<i64>, planned: Option<i64>) -> i64 {
    measured.unwrap_or(0).saturating_sub(planned.unwrap_or(0))
}

/// `None` where neither has the term.
fn deviation(plan: &Envelope, measured: &Envelope, name: TermName) -> Option<Deviation> {
    let planned = plan.term(name).and_then(|term| term.bytes);
    let term = measured.term(name)?;
    if planned.is_none() && term.bytes.is_none() {
        return None;
    }
    Some(Deviation {
        term: name,
        planned_bytes: planned,
        measured_bytes: term.bytes,
        in_use_bytes: term.in_use_bytes,
        off_by_bytes: difference(term.bytes, planned),
        origin: term.origin,
        note: term.note.clone(),
    })
}

impl fmt::Display for Measured {
    /// One line a term: name, planned, measured, difference, origin, note; then the sum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_simulated(f, self.envelope.simulated)?;
        writeln!(
            f,
            "  {:<16}{:>12}{:>12}{:>12}  {:<9} note",
            "term", "planned", "measured", "off by", "origin"
        )?;
        for line in &self.deviations {
            let text = |bytes: Option<i64>| bytes.map_or_else(|| "absent".into(), signed_text);
            writeln!(
                f,
                "  {:<16}{:>12}{:>12}{:>12}  {:<9} {}",
                line.term.label(),
                text(line.planned_bytes),
                text(line.measured_bytes),
                plus(line.off_by_bytes),
                if line.measured_bytes.is_some() { line.origin.label() } else { "" },
                line.note
            )?;
        }
        let Blocks(blocks) = self.envelope.kv_capacity_blocks;
        let off = match self.off_by_blocks {
            0 => "as planned".to_owned(),
            ..0 => format!("{} fewer than planned", self.off_by_blocks.unsigned_abs()),
            more => format!("{more} more than planned"),
        };
        write!(f, "  {blocks} blocks of {}: {off}", Bytes(self.envelope.block_bytes.0))
    }
}

/// With its sign, also where it is positive.
fn plus(bytes: i64) -> String {
    if bytes > 0 { format!("+{}", signed_text(bytes)) } else { signed_text(bytes) }
}
