//! The processes that have memvelope inside.

use super::age_text;
use super::find::Found;
use crate::names::{cut, plain};
use memvelope::units::{Bytes, Nanos};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Version of the list as JSON.
const SCHEMA: &str = "memvelope.processes/1";

/// A device of a process, in a line.
struct Row<'a> {
    found: &'a Found,
    device: u64,
    used: Option<u64>,
    own: Option<u64>,
    unaccounted: Option<i64>,
}

fn rows(all: &[Found]) -> Vec<Row<'_>> {
    let of = |found| {
        let devices = devices(found).map(move |device| Row {
            found,
            device: device["totals"]["device"].as_u64().unwrap_or(0),
            used: used(device),
            own: device["totals"]["vram"]["live_bytes"]
                .as_u64()
                .filter(|_| device["allocations_unseen"] != true),
            unaccounted: unaccounted(device),
        });
        devices.collect::<Vec<_>>()
    };
    all.iter().flat_map(of).collect()
}

fn devices(found: &Found) -> impl Iterator<Item = &Value> {
    found.document["snapshot"]["devices"].as_array().into_iter().flatten()
}

/// By everybody, as the driver told last.
fn used(device: &Value) -> Option<u64> {
    let told = || device["total_bytes"].as_u64()?.checked_sub(device["free_bytes"].as_u64()?);
    device["balance"]["used_bytes"].as_u64().or_else(told)
}

fn unaccounted(device: &Value) -> Option<i64> {
    let mut lines = device["balance"]["lines"].as_array().into_iter().flatten();
    lines.find(|line| line["term"] == "unaccounted")?["bytes"].as_i64()
}

fn command(found: &Found) -> String {
    let words = found.document["command"].as_array().into_iter().flatten();
    let mut words: Vec<_> = words.filter_map(Value::as_str).collect();
    // There is not much room: the program's file says more than its folder.
    if let Some(program) = words.first_mut() {
        *program = program.rsplit('/').next().unwrap_or(program);
    }
    words.join(" ")
}

/// For people: a line a device.
pub(super) fn text(all: &[Found], width: usize) -> String {
    let mut text = format!(
        "{:>8} {:>4} {:>11} {:>11} {:>12} {:>8}  {}\n",
        "PID", "GPU", "used", "allocated", "unaccounted", "told ago", "command"
    );
    let room = width.saturating_sub(62);
    let rest = |found: &Found| {
        let simulated = found.document["simulated"] == true;
        let mark = if simulated { "SIMULATED " } else { "" };
        format!("{mark}{}", cut(&command(found), room.saturating_sub(mark.len())))
    };
    for row in rows(all) {
        let absent = || "absent".to_owned();
        let _ = writeln!(
            text,
            "{:>8} {:>4} {:>11} {:>11} {:>12} {:>8}  {}",
            row.found.pid,
            row.device,
            row.used.map_or_else(absent, |bytes| Bytes(bytes).to_string()),
            row.own.map_or_else(absent, |bytes| Bytes(bytes).to_string()),
            row.unaccounted.map_or_else(absent, signed),
            age_text(row.found.age),
            rest(row.found)
        );
    }
    for found in all.iter().filter(|found| devices(found).next().is_none()) {
        let line = format!("{:>4} {:>11} {:>11} {:>12}", "none", "", "", "");
        let age = age_text(found.age);
        let _ = writeln!(text, "{:>8} {line} {age:>8}  {}", found.pid, rest(found));
    }
    text.push_str(
        "\nused: on the whole device, by everybody; more: memvelope snapshot --pid PID\n",
    );
    text.lines().map(|line| plain(line) + "\n").collect()
}

fn signed(bytes: i64) -> String {
    let size = Bytes(bytes.unsigned_abs());
    if bytes < 0 { format!("-{size}") } else { size.to_string() }
}

/// The list as JSON.
pub(super) fn document(all: &[Found]) -> Value {
    let process = |found: &Found| {
        let device = |device: &Value| {
            json!({
                "device": device["totals"]["device"],
                "uuid": device["uuid"],
                "used_bytes": used(device),
                "live_bytes": device["totals"]["vram"]["live_bytes"],
                "unaccounted_bytes": unaccounted(device),
            })
        };
        json!({
            "pid": found.pid,
            "command": found.document["command"],
            "simulated": found.document["simulated"],
            "final": found.document["final"],
            "age_ns": Nanos::from_duration(found.age),
            "devices": devices(found).map(device).collect::<Vec<_>>(),
        })
    };
    json!({ "schema": SCHEMA, "processes": all.iter().map(process).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn found(pid: u32, devices: Value) -> Found {
        let document = json!({
            "command": ["python3", "serve.py\u{1b}[2J", "--model", "x".repeat(300)],
            "simulated": true, "final": false, "snapshot": {"devices": devices},
        });
        Found { pid, document, age: Duration::from_millis(300) }
    }

    #[test]
    fn a_line_a_device_and_absent_is_not_zero() {
        let lines =
            json!([{"term": "weights", "bytes": 1}, {"term": "unaccounted", "bytes": -2048}]);
        let whole = json!({
            "totals": {"device": 1, "vram": {"live_bytes": 3 << 20}},
            "balance": {"used_bytes": 5 << 20, "lines": lines},
        });
        let unseen = json!({
            "totals": {"device": 2, "vram": {"live_bytes": 0}}, "allocations_unseen": true,
        });
        let all = [found(12, json!([whole, unseen])), found(4_000_000, json!([]))];
        for width in [80, 100, 140] {
            let text = text(&all, width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
            let line = |at: usize| text.lines().nth(at).unwrap().to_owned();
            for part in ["12", "5.0 MiB", "3.0 MiB", "-2.0 KiB", "0.3 s", "SIMULATED", "pyth"] {
                assert!(line(1).contains(part), "{part}: {text}");
            }
            assert_eq!(line(2).matches("absent").count(), 3, "{text}");
            assert!(line(3).contains("4000000 none"), "{text}");
        }
        let json = document(&all);
        assert_eq!(json["processes"][0]["devices"][0]["unaccounted_bytes"], -2048);
        assert_eq!(json["processes"][0]["devices"][1]["used_bytes"], Value::Null);
        assert_eq!(
            (&json["schema"], &json["processes"][1]["pid"]),
            (&json!(SCHEMA), &json!(4_000_000))
        );
    }
}
