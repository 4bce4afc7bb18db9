//! Sums over processes: only what adds up. Live bytes of different moments do not.

use memvelope::export::summary::Vitals;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Everything the processes did, added up.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Totals {
    /// Processes that took a slot.
    pub(super) processes: u64,
    pub(super) kernels: Work,
    /// By direction.
    pub(super) copies: BTreeMap<String, Work>,
    pub(super) memsets: Work,
    /// By kind; host time.
    pub(super) syncs: BTreeMap<String, Work>,
    pub(super) allocations: Allocations,
    /// By reason.
    pub(super) lost: BTreeMap<String, u64>,
    #[serde(rename = "self")]
    pub(super) cost: Cost,
    /// Processes without a report: only their kernels and allocations are in the sums.
    pub(super) without_report: u64,
}

/// A count, a sum of time and, where bytes were moved, of those.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Work {
    pub(super) count: u64,
    pub(super) total_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
}

/// Allocations of every kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Allocations {
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) failed: u64,
    pub(super) oom: u64,
}

/// What recording cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Cost {
    pub(super) thread_cpu_ns: u64,
    pub(super) report_cpu_ns: u64,
    pub(super) decode_ns: u64,
}

impl Totals {
    /// Adds a process.
    pub(super) fn add(&mut self, vitals: &Vitals, report: Option<&Value>) {
        self.processes += 1;
        let Some(report) = report.filter(|report| report["snapshot"].is_object()) else {
            self.without_report += 1;
            self.kernels.count = self.kernels.count.saturating_add(vitals.kernels);
            self.allocations.count = self.allocations.count.saturating_add(vitals.allocations);
            return;
        };
        let snapshot = &report["snapshot"];
        let timeline = &snapshot["timeline"];
        rows(&timeline["kernels"]).for_each(|row| self.kernels.add(row));
        self.memsets.add(&timeline["memsets"]);
        for (into, table, label) in
            [(&mut self.copies, "copies", "direction"), (&mut self.syncs, "syncs", "kind")]
        {
            for row in rows(&timeline[table]) {
                into.entry(word(&row[label])).or_default().add(row);
            }
        }
        for kind in rows(&snapshot["devices"]).flat_map(|d| rows(&d["totals"]["by_kind"])) {
            plus(&mut self.allocations.count, &kind["allocated_count"]);
            plus(&mut self.allocations.bytes, &kind["allocated_bytes"]);
            plus(&mut self.allocations.failed, &kind["failed_count"]);
            plus(&mut self.allocations.oom, &kind["oom_count"]);
        }
        for pair in rows(&snapshot["dropped"]) {
            plus(self.lost.entry(word(&pair[0])).or_default(), &pair[1]);
        }
        let cost = &report["self"];
        plus(&mut self.cost.thread_cpu_ns, &cost["thread_cpu_ns"]);
        plus(&mut self.cost.report_cpu_ns, &cost["report_cpu_ns"]);
        plus(&mut self.cost.decode_ns, &cost["recorder"]["decode_ns"]);
    }
}

impl Work {
    fn add(&mut self, row: &Value) {
        plus(&mut self.count, &row["count"]);
        plus(&mut self.total_ns, &row["total_ns"]);
        if let Some(bytes) = row["bytes"].as_u64() {
            self.bytes = Some(self.bytes.unwrap_or(0).saturating_add(bytes));
        }
    }
}

/// The entries of an array; none of anything else.
pub(super) fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn plus(sum: &mut u64, value: &Value) {
    *sum = sum.saturating_add(value.as_u64().unwrap_or(0));
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_owned()
}
