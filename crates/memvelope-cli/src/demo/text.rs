//! The report as a person reads it.

use super::report::Report;
use memvelope::event::DropReason;
use memvelope::runtime::Mode;
use memvelope::units::{Bytes, Nanos};
use serde::Serialize;
use std::fmt::{Result, Write};

/// Kernels shown; `report.json` has all.
const KERNELS_SHOWN: usize = 8;

/// Longer kernel names are cut here; `report.json` has them whole.
const NAME_CHARS_SHOWN: usize = 36;

impl Report {
    /// The whole report.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> Result {
        if self.simulated {
            writeln!(out, "SIMULATED: times and bytes come from memvelope's simulated driver.\n")?;
        }
        let gate = if self.gated { "behind the gate" } else { "without a gate" };
        writeln!(
            out,
            "{} requests {gate} on {} ({}): {:.1} s on the device's clock, {:.1} s here",
            self.requests, self.device.name, self.device.uuid, self.virtual_s, self.wall_s
        )?;
        self.write_envelope(out)?;
        self.write_decisions(out)?;
        self.write_memory(out)?;
        self.write_work(out)?;
        self.write_self(out)?;
        writeln!(out, "\nfiles")?;
        let sampled = match self.trace.window_stride {
            0 | 1 => String::new(),
            stride => format!(", one window in {stride} kept"),
        };
        writeln!(
            out,
            "  {}  {}, {} events seen{sampled} (opens in https://ui.perfetto.dev)",
            self.files.trace,
            Bytes(self.trace.bytes),
            self.trace.events_seen
        )?;
        writeln!(out, "  {}", self.files.report)
    }

    fn write_envelope(&self, out: &mut String) -> Result {
        writeln!(out, "\nenvelope")?;
        for line in &self.envelope {
            let share = line.share_percent.map_or(String::new(), |share| format!("{share:.1} %"));
            writeln!(
                out,
                "  {:<16} {:>12} {share:>8}  {:<9} {}",
                line.name.label(),
                line.bytes.map_or("absent".into(), signed),
                word(&line.origin),
                line.note
            )?;
        }
        Ok(())
    }

    fn write_decisions(&self, out: &mut String) -> Result {
        let counts = &self.counts;
        writeln!(out, "\ndecisions")?;
        writeln!(out, "  admitted    {:>10}", counts.admitted)?;
        writeln!(out, "  rejected    {:>10}  (each may come back)", counts.rejected)?;
        for (reason, count) in &counts.rejected_by_reason {
            writeln!(out, "    {reason:<18} {count:>10}")?;
        }
        let share = counts.completed as f64 * 100.0 / self.requests.max(1) as f64;
        writeln!(out, "  completed   {:>10}  ({share:.2} % of all)", counts.completed)?;
        writeln!(out, "  failed      {:>10}  (lost their memory)", counts.failed)?;
        for (reason, count) in &counts.dropped {
            writeln!(out, "  dropped     {count:>10}  ({reason})")?;
        }
        writeln!(out, "  CUDA OOMs   {:>10}", counts.cuda_ooms)?;
        let wait = counts.wait_total_ns / counts.admitted.max(1);
        writeln!(
            out,
            "  at most {} running, {} waiting; wait for admission: mean {}, longest {}",
            counts.running_peak,
            counts.waiting_peak,
            Nanos(wait),
            Nanos(counts.wait_max_ns)
        )
    }

    fn write_memory(&self, out: &mut String) -> Result {
        let against = |bytes: Bytes| {
            bytes.percent_of(self.budget_bytes).map_or(String::new(), |p| format!("{p:.1} %"))
        };
        writeln!(out, "\nKV cache against its budget of {}", self.budget_bytes)?;
        for (name, bytes) in [
            ("handed out at most", self.gate_capacity_bytes),
            ("peak claimed", self.peak_claimed_bytes),
            ("peak held", self.peak_kv_bytes),
        ] {
            writeln!(out, "  {name:<20} {bytes:>12} {:>8}", against(bytes))?;
        }
        writeln!(
            out,
            "  {} tokens of prompts and {} of output in blocks of {}; {} slabs of {} allocated",
            self.counts.prompt_tokens,
            self.counts.output_tokens,
            self.block_bytes,
            self.kv_slabs_allocated,
            self.slab_bytes
        )?;
        match self.peak_vram_bytes {
            Some(peak) => writeln!(out, "  peak of all driver allocations {peak}")?,
            None => writeln!(out, "  peak of all driver allocations absent: none was seen")?,
        }
        match (self.checked.pages, self.checked.recomputed, self.checked.mismatches) {
            (Some(pages), Some(recomputed), Some(wrong)) => writeln!(
                out,
                "  {pages} pages verified on the device, {recomputed} recomputed here, {wrong} wrong"
            ),
            _ => {
                writeln!(out, "  page contents are not checked: simulated kernels compute nothing")
            }
        }
    }

    fn write_work(&self, out: &mut String) -> Result {
        let busy: u64 = self.kernels.iter().map(|kernel| kernel.totals.total_ns.0).sum();
        writeln!(out, "\nkernels, by time ({} names)", self.kernels.len())?;
        for kernel in self.kernels.iter().take(KERNELS_SHOWN) {
            let totals = &kernel.totals;
            let share = totals.total_ns.0 as f64 * 100.0 / busy.max(1) as f64;
            writeln!(
                out,
                "  {:<36} {:>9} x {:>10} = {:>10} {share:>6.1} %",
                cut(&kernel.name),
                totals.count,
                Nanos(totals.total_ns.0 / totals.count.max(1)),
                totals.total_ns
            )?;
        }
        writeln!(out, "\ncopies")?;
        for copy in &self.copies {
            writeln!(
                out,
                "  {:<18} {:>9} x, {:>12}, {:>10}",
                word(&copy.direction),
                copy.totals.count,
                copy.bytes,
                copy.totals.total_ns
            )?;
        }
        writeln!(out, "\nsyncs (host waits)")?;
        for sync in &self.syncs {
            writeln!(
                out,
                "  {:<18} {:>9} x, {:>10}, longest {}",
                word(&sync.kind),
                sync.totals.count,
                sync.totals.total_ns,
                sync.totals.max_ns
            )?;
        }
        Ok(())
    }

    fn write_self(&self, out: &mut String) -> Result {
        let cost = &self.self_cost.cost;
        writeln!(out, "\nour own cost")?;
        writeln!(
            out,
            "  {} of CPU on our threads ({:.2} % of the wall time)",
            Nanos(cost.thread_cpu_ns),
            self.self_cost.thread_cpu_percent,
        )?;
        writeln!(
            out,
            "  {} of host memory, {} records decoded",
            Bytes(cost.host_bytes),
            cost.recorder.records
        )?;
        match &self.mode {
            Mode::Cupti(coverage) => {
                writeln!(out, "  recorded through CUPTI (API version {})", coverage.cupti_version)?;
            }
            Mode::Polling(why) => writeln!(out, "  polling only: {why}")?,
            Mode::Blind(why) => writeln!(out, "  nothing was recorded: {why}")?,
        }
        // Sampling is no loss: totals are exact, and the trace's own line says what it holds.
        for (reason, count) in self.lost.iter().filter(|(r, _)| *r != DropReason::TraceSampled) {
            writeln!(out, "  lost: {count} ({})", word(reason))?;
        }
        for sentence in &self.unseen {
            writeln!(out, "  unseen: {}", sentence.replace('\n', " "))?;
        }
        Ok(())
    }
}

/// A value's name as it is in JSON, with spaces.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name.replace('_', " "),
        _ => "?".into(),
    }
}

fn signed(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", Bytes(bytes.unsigned_abs()))
}

fn cut(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS_SHOWN {
        return name.to_owned();
    }
    name.chars().take(NAME_CHARS_SHOWN - 2).chain("..".chars()).collect()
}
