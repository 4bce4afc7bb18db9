//! A snapshot as text for people: device by device what is used and by what, what would fit next,
//! and what was not seen.

mod balance;
mod fit;
mod lines;
#[cfg(test)]
mod story;

pub use fit::fit_text;

use super::{Balance, DeviceSnapshot, HostSnapshot, Snapshot};
use crate::event::{AllocKind, Tag};
use crate::framework::Framework;
use crate::ledger::{DeviceTotals, PoolTotals};
use crate::units::{Bytes, Nanos};
use lines::{Table, wrapped};
use std::fmt::{Result, Write};

/// Pools, libraries and spaces that are shown of each device; those with most bytes first.
const ROWS_SHOWN: usize = 8;

impl Snapshot {
    /// What a person reads: at most `width` columns (80 at least), every number with its unit. Texts
    /// of the process (names of devices and libraries) stand in it as they are.
    #[must_use]
    pub fn text(&self, width: usize) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = self.write(&mut out, width.max(80));
        out
    }

    fn write(&self, out: &mut String, width: usize) -> Result {
        if self.simulated {
            writeln!(out, "\nSIMULATED: no GPU was asked")?;
        }
        if self.devices.is_empty() {
            writeln!(out, "\n  no device was seen")?;
        }
        for device in &self.devices {
            write_device(out, self, device, width)?;
        }
        if let Some(host) = &self.host {
            write_host(out, host, width)?;
        }
        if !self.unseen.is_empty() {
            writeln!(out, "\nnot seen")?;
        }
        for sentence in &self.unseen {
            writeln!(out, "{}", wrapped(2, sentence, width))?;
        }
        Ok(())
    }
}

fn write_device(
    out: &mut String,
    snapshot: &Snapshot,
    device: &DeviceSnapshot,
    width: usize,
) -> Result {
    let uuid = if device.uuid.is_empty() { "" } else { &*format!("  {}", device.uuid) };
    writeln!(out, "\nGPU {}  {}{uuid}", device.totals.device.0, device.name)?;
    write_balance(out, snapshot, device, width)?;
    write_fragmentation(out, device, width)?;
    if let Some(framework) = &device.framework {
        write_framework(out, framework, width)?;
    }
    if device.allocations_unseen {
        let text = "single allocations are not seen here: what is used is not told apart";
        return writeln!(out, "\n{}", wrapped(2, text, width));
    }
    write_pools(out, &device.totals)?;
    write_elsewhere(out, &device.totals)?;
    write_failures(out, &device.totals, width)
}

fn write_balance(
    out: &mut String,
    snapshot: &Snapshot,
    device: &DeviceSnapshot,
    width: usize,
) -> Result {
    let Some(balance) = &device.balance else {
        let text = match (device.total_bytes, device.free_bytes, device.nvml_used_bytes) {
            (Some(total), Some(free), _) => {
                format!("{} of {total} used, {free} free", total.saturating_sub(free))
            }
            (Some(total), None, Some(used)) => format!("{used} of {total} used, as NVML tells"),
            (Some(total), None, None) => {
                format!("{total} in all; how much is used, nobody told yet")
            }
            (None, ..) => "nobody could be asked how much is used".into(),
        };
        return writeln!(out, "{}", wrapped(2, &text, width));
    };
    let total = device.total_bytes.unwrap_or(balance.used_bytes);
    let free = total.saturating_sub(balance.used_bytes);
    writeln!(out, "  {} of {total} used, {free} free", balance.used_bytes)?;
    let age = Nanos(snapshot.time_ns.0.saturating_sub(balance.time_ns.0));
    if age > Nanos(Nanos::SECOND) {
        writeln!(out, "  as of {age} before: no newer reading could be had")?;
    }
    if let Some(reserved) = device.reserved_bytes.filter(|bytes| bytes.0 > 0) {
        writeln!(out, "  beside that, driver and firmware keep {reserved} for themselves")?;
    }
    write!(out, "\n{}", balance.text(width))?;
    write_highest(out, device, balance, width)
}

/// What was used at most, in a line: its terms are in the JSON, and in `memvelope run`'s report.
fn write_highest(
    out: &mut String,
    device: &DeviceSnapshot,
    balance: &Balance,
    width: usize,
) -> Result {
    let Some(highest) = device.highest.as_ref().filter(|h| h.used_bytes > balance.used_bytes)
    else {
        return Ok(());
    };
    let ago = Nanos(balance.time_ns.0.saturating_sub(highest.time_ns.0));
    let text = format!("at most {} were used, {ago} before that", highest.used_bytes);
    writeln!(out, "\n{}", wrapped(2, &text, width))
}

fn write_fragmentation(out: &mut String, device: &DeviceSnapshot, width: usize) -> Result {
    let Some(found) = &device.fragmentation else { return Ok(()) };
    let cached = if device.framework.is_some() { " or cached" } else { "" };
    let (largest, available) = (found.largest_fit_bytes, found.available_bytes);
    let mut text = format!(
        "the next request: at most {largest} fit at once, of {available} that are free{cached} \
         ({} external fragmentation)",
        percent(found.external)
    );
    if let Some(share) = found.demand_weighted {
        text += &match share {
            0.0 => "; it stands in the way of no recent request".to_owned(),
            _ => format!(
                "; {} of the recent requests are larger, though no larger than what is available",
                percent(share)
            ),
        };
    }
    writeln!(out, "\n{}", wrapped(2, &text, width))
}

/// A share in percent, where something is more than nothing.
fn percent(share: f64) -> String {
    match share * 100.0 {
        small if small > 0.0 && small < 0.05 => "less than 0.1 %".into(),
        percent => format!("{percent:.1} %"),
    }
}

fn write_framework(out: &mut String, framework: &Framework, width: usize) -> Result {
    let cached = framework.cached_bytes();
    let releasable = framework.releasable_bytes.min(cached);
    let stranded = cached.saturating_sub(releasable);
    let text = format!(
        "PyTorch's allocator: {} reserved, {} in use; {cached} cached, of which empty_cache() gives \
         {releasable} back and {stranded} are stranded beside blocks in use",
        framework.reserved_bytes, framework.active_bytes
    );
    writeln!(out, "\n{}", wrapped(2, &text, width))?;
    let number = |count: Option<u64>| count.filter(|count| *count > 0);
    for (count, what) in [
        (
            number(framework.alloc_retries),
            "times it emptied its cache because the driver had no more",
        ),
        (number(framework.ooms), "requests failed (out of memory)"),
    ] {
        if let Some(count) = count {
            writeln!(out, "    {count} {what}")?;
        }
    }
    let mut table = Table::new(
        4,
        &["stream, pool, class", "reserved", "in use", "cached", "stranded", "largest free"],
    );
    let mut spaces: Vec<_> = framework.spaces.iter().collect();
    spaces.sort_by_key(|space| std::cmp::Reverse(space.cached_bytes()));
    for space in spaces.iter().take(ROWS_SHOWN) {
        let pool = match space.pool {
            (0, 0) => "default".to_owned(),
            (a, b) => format!("{a}.{b}"),
        };
        let class = format!("{:?}", space.class).to_lowercase();
        table.row([
            format!("{:#x}, {pool}, {class}", space.stream),
            space.reserved_bytes.to_string(),
            space.active_bytes.to_string(),
            space.cached_bytes().to_string(),
            space.stranded_bytes().to_string(),
            space.largest_free_bytes.to_string(),
        ]);
    }
    table.write(out, width, spaces.len().saturating_sub(ROWS_SHOWN))
}

fn write_pools(out: &mut String, totals: &DeviceTotals) -> Result {
    let mut pools: Vec<&PoolTotals> = totals.pools.iter().collect();
    pools.retain(|pool| pool.live_count > 0 || pool.reserved_bytes.is_some_and(|b| b.0 > 0));
    pools.sort_by_key(|pool| std::cmp::Reverse(pool.reserved_bytes));
    let mut table = Table::new(2, &["memory pools", "reserved", "in use", "live"]);
    let shown = |bytes: Option<Bytes>| bytes.map_or("absent".into(), |bytes| bytes.to_string());
    for pool in pools.iter().take(ROWS_SHOWN) {
        let end = if pool.is_destroyed { " (destroyed)" } else { "" };
        // Nobody can be asked what a destroyed one rounds that up to.
        let asked_for = pool.is_destroyed.then(|| pool.by_tag.iter().copied().sum());
        table.row([
            format!("{:#x}{end}", pool.pool),
            shown(pool.reserved_bytes),
            shown(pool.used_bytes.or(asked_for)),
            pool.live_count.to_string(),
        ]);
    }
    if let Some(reserved) = totals.graph_reserved_bytes.filter(|bytes| bytes.0 > 0) {
        let used = shown(totals.graph_used_bytes);
        table.row(["graphs' own".into(), reserved.to_string(), used, "-".into()]);
    }
    table.write(out, usize::MAX, pools.len().saturating_sub(ROWS_SHOWN))
}

/// What the driver handed out that is not, or not for certain, VRAM of this process.
fn write_elsewhere(out: &mut String, totals: &DeviceTotals) -> Result {
    let mut table = Table::new(2, &["beside VRAM", "live", "peak", "count"]);
    for kind in AllocKind::ALL {
        let what = match kind {
            AllocKind::VmmHost => "VMM allocations in host memory",
            AllocKind::PinnedHost => "pinned host memory",
            AllocKind::Registered => "registered host memory",
            AllocKind::Managed => "managed: wherever it was touched last",
            AllocKind::ImportedAddress => "imported by address: the exporter's",
            AllocKind::ImportedHandle => "imported by handle: the exporter's",
            AllocKind::Device
            | AllocKind::Pitch
            | AllocKind::PoolUsed
            | AllocKind::Vmm
            | AllocKind::GraphNode
            | AllocKind::Multicast => continue,
        };
        let Some(sum) = totals.by_kind.get(kind as usize) else { continue };
        if sum.allocated_count > 0 {
            table.row([
                what.into(),
                sum.live_bytes.to_string(),
                sum.peak_bytes.to_string(),
                sum.live_count.to_string(),
            ]);
        }
    }
    table.write(out, usize::MAX, 0)
}

fn write_failures(out: &mut String, totals: &DeviceTotals, width: usize) -> Result {
    let (failed, oom) = (totals.vram.failed_count, totals.vram.oom_count);
    if failed == 0 {
        return Ok(());
    }
    let mut by_tag = Tag::ALL.iter().zip(&totals.by_tag);
    let tagged = by_tag.any(|(tag, sum)| *tag != Tag::Untagged && sum.failed_count > 0);
    let hint = if tagged { "" } else { "; tags would say for what" };
    let text = format!("{failed} allocation calls failed, {oom} of them out of memory{hint}");
    writeln!(out, "\n{}", wrapped(2, &text, width))
}

fn write_host(out: &mut String, host: &HostSnapshot, width: usize) -> Result {
    let limit = host.limit_bytes.map_or("without a limit".into(), |limit| format!("of {limit}"));
    let mut text = format!("the container's RAM: {} {limit}", host.current_bytes);
    if let Some(peak) = host.peak_bytes {
        let _ = write!(text, ", {peak} at most");
    }
    if host.oom_kills > 0 {
        let _ = write!(text, "; {} processes were killed for want of it", host.oom_kills);
    }
    writeln!(out, "\n{}", wrapped(0, &text, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::Space;
    use crate::ledger::Totals;
    use crate::snapshot::{Fragmentation, Line, Origin, TermName};

    fn device() -> DeviceSnapshot {
        let mut totals = DeviceTotals {
            pools: vec![PoolTotals {
                pool: 0xabc,
                reserved_bytes: Some(Bytes(64 << 20)),
                live_count: 3,
                ..PoolTotals::default()
            }],
            graph_reserved_bytes: Some(Bytes(6 << 20)),
            ..DeviceTotals::default()
        };
        let pinned = &mut totals.by_kind[AllocKind::PinnedHost as usize];
        *pinned = Totals { allocated_count: 2, live_bytes: Bytes(7 << 20), ..Totals::default() };
        totals.vram.failed_count = 5;
        let line = Line {
            term: TermName::Unaccounted,
            bytes: 3 << 20,
            error_bytes: Bytes::ZERO,
            origin: Origin::Derived,
            parts: Vec::new(),
            note: String::new(),
        };
        let used = |bytes| Balance { used_bytes: bytes, ..Balance::default() };
        DeviceSnapshot {
            totals,
            uuid: "GPU-7".into(),
            name: "a device".into(),
            total_bytes: Some(Bytes(80 << 30)),
            reserved_bytes: Some(Bytes(600 << 20)),
            framework: Some(Framework {
                reserved_bytes: Bytes(30 << 20),
                active_bytes: Bytes(10 << 20),
                releasable_bytes: Bytes(12 << 20),
                spaces: vec![Space { stream: 7, ..Space::default() }; 20],
                ooms: Some(1),
                ..Framework::default()
            }),
            balance: Some(Balance { lines: vec![line], ..used(Bytes(3 << 20)) }),
            highest: Some(used(Bytes(9 << 20))),
            fragmentation: Some(Fragmentation {
                available_bytes: Bytes(4 << 30),
                largest_fit_bytes: Bytes(1 << 30),
                external: 0.75,
                demand_weighted: Some(0.125),
                ..Fragmentation::default()
            }),
            ..DeviceSnapshot::default()
        }
    }

    fn check(snapshot: &Snapshot, parts: &[&str], absent: &[&str]) {
        for width in [80, 100, 140] {
            let text = snapshot.text(width);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{width}: {text}");
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in parts {
                assert!(flat.contains(part), "{part}: {text}");
            }
            for part in absent {
                assert!(!flat.contains(part), "{part}: {text}");
            }
        }
    }

    #[test]
    fn a_device_is_told_whole() {
        let snapshot = Snapshot {
            simulated: true,
            devices: vec![device()],
            host: Some(HostSnapshot { oom_kills: 2, ..HostSnapshot::default() }),
            unseen: vec!["a word ".repeat(60)],
            ..Snapshot::default()
        };
        check(
            &snapshot,
            &[
                "SIMULATED",
                "GPU 0 a device GPU-7",
                "3.0 MiB of 80.00 GiB used, 80.00 GiB free",
                "driver and firmware keep 600.0 MiB",
                "at most 9.0 MiB were used",
                "at most 1.00 GiB fit at once, of 4.00 GiB that are free or cached (75.0 % ext",
                "12.5 % of the recent requests are larger",
                "30.0 MiB reserved, 10.0 MiB in use; 20.0 MiB cached, of which empty_cache() \
                 gives 12.0 MiB back and 8.0 MiB are stranded",
                "1 requests failed",
                "and 12 more",
                "0xabc 64.0 MiB absent 3",
                "graphs' own 6.0 MiB absent -",
                "pinned host memory 7.0 MiB",
                "5 allocation calls failed, 0 of them out of memory",
                "2 processes were killed",
                "not seen a word",
            ],
            &["managed", "as of"],
        );
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let bare = |total: Option<u64>, used: Option<u64>| Snapshot {
            devices: vec![DeviceSnapshot {
                total_bytes: total.map(Bytes),
                nvml_used_bytes: used.map(Bytes),
                allocations_unseen: true,
                ..DeviceSnapshot::default()
            }],
            ..Snapshot::default()
        };
        let unseen = "single allocations are not seen";
        check(&bare(None, None), &["nobody could be asked", unseen], &["SIMULATED", " 0 B"]);
        check(&bare(Some(5 << 20), None), &["5.0 MiB in all; how much", unseen], &[" 0 B"]);
        check(
            &bare(Some(5 << 20), Some(1 << 20)),
            &["1.0 MiB of 5.0 MiB used, as NVML"],
            &[" 0 B"],
        );
        check(&Snapshot::default(), &["no device was seen"], &["GPU"]);
    }

    #[test]
    fn answers_say_what_would_help() {
        let no = crate::snapshot::Fit::No {
            because: "no, because it is full".into(),
            needed_bytes: Bytes(2 << 20),
            largest_fit_bytes: Bytes(1 << 20),
            remedies: vec![crate::snapshot::Remedy {
                kind: crate::snapshot::RemedyKind::EmptyCache,
                recovers_bytes: Bytes(3 << 20),
                is_enough: true,
                text: "call torch.cuda.empty_cache()".into(),
            }],
        };
        let text = fit_text(&no, 80);
        assert!(text.starts_with("  no, because it is full\n"), "{text}");
        assert!(text.contains("    + call torch.cuda.empty_cache()\n"), "{text}");
    }
}
