//! What a run found: `report.json`, and the same as text.

use super::Args;
use super::device::Verified;
use super::kv::Geometry;
use super::serve::Counts;
use memvelope::admission::{Reason, Usage};
use memvelope::envelope::{Envelope, Origin, TermName};
use memvelope::event::{AllocKind, DropReason, Tag};
use memvelope::ledger::{DeviceTotals, Findings, Totals};
use memvelope::runtime::{Mode, SelfCost, TraceStats};
use memvelope::snapshot::Snapshot;
use memvelope::source::driver::DeviceInfo;
use memvelope::timeline::{CopyTotals, KernelTotals, MemsetTotals, SyncTotals};
use memvelope::units::{Blocks, Bytes, Nanos};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Everything shown. Top-level names are a contract with whoever reads `report.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(super) simulated: bool,
    pub(super) gated: bool,
    pub(super) requests: u64,
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// Blocks written into, in bytes.
    pub(super) peak_kv_bytes: Bytes,
    pub(super) peak_claimed_bytes: Bytes,
    /// The envelope's bytes for the KV cache.
    pub(super) budget_bytes: Bytes,
    /// What the gate hands out of it: whole slabs.
    pub(super) gate_capacity_bytes: Bytes,
    pub(super) block_bytes: Bytes,
    pub(super) slab_bytes: Bytes,
    pub(super) kv_slabs_allocated: u64,
    pub(super) envelope: Vec<Line>,
    pub(super) device: DeviceInfo,
    /// Highest sum of live driver allocations on the device; `null` where none was seen.
    pub(super) peak_vram_bytes: Option<Bytes>,
    pub(super) vram_by_kind: BTreeMap<&'static str, Totals>,
    pub(super) vram_by_tag: BTreeMap<&'static str, Totals>,
    pub(super) kernels: Vec<KernelTotals>,
    pub(super) copies: Vec<CopyTotals>,
    pub(super) memsets: MemsetTotals,
    pub(super) syncs: Vec<SyncTotals>,
    pub(super) checked: Checked,
    pub(super) findings: Findings,
    /// What the recorder lost, by reason; an absent reason is a loss never seen.
    pub(super) lost: Vec<(DropReason, u64)>,
    pub(super) unseen: Vec<String>,
    pub(super) mode: Mode,
    #[serde(rename = "self")]
    pub(super) self_cost: SelfCostShown,
    pub(super) trace: TraceStats,
    pub(super) files: Files,
    pub(super) wall_s: f64,
    pub(super) virtual_s: f64,
    pub(super) seed: u64,
    pub(super) args: Args,
    pub(super) memvelope_version: &'static str,
}

/// One term of the envelope.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) name: TermName,
    /// `null`: absent, which is not zero.
    pub(super) bytes: Option<i64>,
    pub(super) share_percent: Option<f64>,
    pub(super) origin: Origin,
    pub(super) note: String,
}

/// Whether what kernels read back is what they had written.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    /// Pages verified on the device; `null` on the simulated driver, whose kernels compute nothing.
    pub(super) pages: Option<u64>,
    /// Of those, recomputed on the host as well.
    pub(super) recomputed: Option<u64>,
    pub(super) mismatches: Option<u64>,
}

/// What recording cost.
#[derive(Debug, Serialize)]
pub(super) struct SelfCostShown {
    #[serde(flatten)]
    pub(super) cost: SelfCost,
    /// CPU time of our threads as a share of the run's wall time.
    pub(super) thread_cpu_percent: f64,
}

/// Where the files are.
#[derive(Debug, Serialize)]
pub(super) struct Files {
    pub(super) trace: String,
    pub(super) report: String,
}

/// What a report is made of.
pub(crate) struct Inputs<'a> {
    pub(crate) args: &'a Args,
    pub(crate) info: &'a DeviceInfo,
    pub(crate) requests: u64,
    pub(crate) envelope: &'a Envelope,
    pub(crate) geometry: Geometry,
    pub(crate) capacity: Blocks,
    pub(crate) usage: &'a Usage,
    pub(crate) counts: &'a Counts,
    pub(crate) kv_pages_peak: Blocks,
    pub(crate) kv_slabs: u64,
    pub(crate) verified: Option<Verified>,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) mode: Mode,
    pub(crate) self_cost: SelfCost,
    pub(crate) trace: TraceStats,
    pub(crate) trace_path: &'a Path,
    pub(crate) report_path: &'a Path,
    pub(crate) wall: Duration,
}

impl Report {
    /// Puts a report together.
    pub(crate) fn new(from: Inputs<'_>) -> Self {
        let gated = !from.args.no_gate;
        let block = from.envelope.block_bytes.0;
        // The gate's own peaks where there was one: it is the gate that is on trial.
        let (held, claimed) = if gated {
            (from.usage.held_peak_blocks, from.usage.claimed_peak_blocks)
        } else {
            (from.kv_pages_peak, from.counts.claimed_peak_blocks)
        };
        let seen = from.snapshot.device(from.info.index);
        let totals = seen.filter(|device| !device.allocations_unseen).map(|d| d.totals.clone());
        let peak_vram_bytes = totals.as_ref().map(|totals| totals.vram.peak_bytes);
        let totals = totals.unwrap_or_default();
        let mut counts = from.counts.clone();
        if gated {
            counts.admitted = from.usage.admitted;
            counts.rejected = from.usage.rejected.iter().sum();
            counts.rejected_by_reason = by_reason(from.usage);
        }
        let wall_s = from.wall.as_secs_f64();
        Self {
            simulated: from.snapshot.simulated,
            gated,
            requests: from.requests,
            peak_kv_bytes: Bytes(held.0.saturating_mul(block)),
            peak_claimed_bytes: Bytes(claimed.0.saturating_mul(block)),
            budget_bytes: from.envelope.kv_capacity_bytes,
            gate_capacity_bytes: Bytes(from.capacity.0.saturating_mul(block)),
            block_bytes: from.envelope.block_bytes,
            slab_bytes: Bytes(from.geometry.slab_bytes),
            kv_slabs_allocated: from.kv_slabs,
            envelope: lines(from.envelope),
            device: from.info.clone(),
            peak_vram_bytes,
            vram_by_kind: by_kind(&totals),
            vram_by_tag: by_tag(&totals),
            kernels: from.snapshot.timeline.kernels.clone(),
            copies: from.snapshot.timeline.copies.clone(),
            memsets: from.snapshot.timeline.memsets,
            syncs: from.snapshot.timeline.syncs.clone(),
            checked: Checked {
                pages: from.verified.map(|v| v.pages),
                recomputed: from.verified.map(|v| v.recomputed),
                mismatches: from.verified.map(|v| v.mismatches),
            },
            findings: from.snapshot.findings,
            lost: from.snapshot.dropped.clone(),
            unseen: from.snapshot.unseen.clone(),
            mode: from.mode,
            self_cost: SelfCostShown {
                cost: from.self_cost,
                thread_cpu_percent: from.self_cost.thread_cpu_ns as f64 / 1e7 / wall_s.max(1e-9),
            },
            trace: from.trace,
            files: Files {
                trace: from.trace_path.display().to_string(),
                report: from.report_path.display().to_string(),
            },
            wall_s,
            virtual_s: counts.virtual_ns as f64 / Nanos::SECOND as f64,
            seed: from.args.seed,
            args: from.args.clone(),
            memvelope_version: env!("CARGO_PKG_VERSION"),
            counts,
        }
    }

    /// The report as pretty JSON with a final newline.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

fn by_reason(usage: &Usage) -> BTreeMap<&'static str, u64> {
    let all = Reason::ALL.iter().zip(usage.rejected);
    all.filter(|(_, count)| *count > 0).map(|(reason, n)| (reason.label(), n)).collect()
}

fn lines(envelope: &Envelope) -> Vec<Line> {
    let total = envelope.term(TermName::Total).and_then(|term| term.bytes);
    let share = |bytes: i64| total.filter(|t| *t > 0).map(|t| bytes as f64 * 100.0 / t as f64);
    let line = |term: &memvelope::envelope::Term| Line {
        name: term.name,
        bytes: term.bytes,
        share_percent: term.bytes.and_then(share),
        origin: term.origin,
        note: term.note.clone(),
    };
    envelope.terms.iter().map(line).collect()
}

fn by_kind(totals: &DeviceTotals) -> BTreeMap<&'static str, Totals> {
    let seen = AllocKind::ALL.into_iter().zip(totals.by_kind);
    seen.filter(|(_, t)| *t != Totals::default()).map(|(kind, t)| (kind.label(), t)).collect()
}

fn by_tag(totals: &DeviceTotals) -> BTreeMap<&'static str, Totals> {
    let name = |tag: Tag| match tag {
        Tag::Untagged => "untagged",
        Tag::Weights => "weights",
        Tag::KvCache => "kv_cache",
        Tag::Activations => "activations",
        Tag::Graphs => "graphs",
        Tag::Withheld => "withheld",
    };
    let seen = Tag::ALL.into_iter().zip(totals.by_tag);
    seen.filter(|(_, t)| *t != Totals::default()).map(|(tag, t)| (name(tag), t)).collect()
}
