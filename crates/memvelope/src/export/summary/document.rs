//! The report of a process: one JSON document, whole in a file, and cut to fit a slot.

use super::Vitals;
use crate::event::DropReason;
use crate::snapshot::Snapshot;
use serde_json::{Map, Value, json};
use std::os::unix::process::parent_id;

/// Version of the document. It changes when a key changes its meaning or goes.
pub const PROCESS_SCHEMA: &str = "memvelope.process/1";

/// Stands for the rows that did not fit; no kernel is called so.
const LEFT_OUT: &str = "(left out)";

/// Room for the row that stands for those left out, and for a count that grew a digit.
const MARGIN_BYTES: usize = 512;

/// Bytes kept of a command line: it may have megabytes, of which a slot would have no room for
/// anything else.
const COMMAND_BYTES_MAX: usize = 4096;

/// Tables of a device that can go row by row, in the order in which they go: what sums and answers
/// need least comes first. Their sums stand beside them.
const DEVICE_TABLES: [&[&str]; 5] = [
    &["framework", "segments"],
    &["fragmentation", "spaces"],
    &["framework", "spaces"],
    &["totals", "pools"],
    &["totals", "libraries"],
];

/// Which process, as it was when the recording began.
#[derive(Debug)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    parent_pid: u32,
    name: String,
    command: Vec<String>,
}

impl Identity {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let read = |path| std::fs::read(path).unwrap_or_default();
        let line = read("/proc/self/cmdline");
        Self {
            pid: std::process::id(),
            parent_pid: parent_id(),
            name: String::from_utf8_lossy(&read("/proc/self/comm")).trim_end().to_owned(),
            command: words_of(&line),
        }
    }
}

/// A command line as `/proc` has it, in words; one that is too long ends with "…".
fn words_of(line: &[u8]) -> Vec<String> {
    let kept = &line[..line.len().min(COMMAND_BYTES_MAX)];
    let kept = kept.strip_suffix(&[0]).unwrap_or(kept);
    let words = kept.split(|byte| *byte == 0);
    let mut words: Vec<_> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    if line.len() > COMMAND_BYTES_MAX {
        words.push("…".into());
    }
    words
}

/// The whole document: a session's report, and whose it is. `report_cpu_ns` is what reporting itself
/// has cost so far.
#[must_use]
pub fn process_document(
    mut report: Value,
    identity: &Identity,
    is_final: bool,
    report_cpu_ns: u64,
) -> Value {
    report["schema"] = json!(PROCESS_SCHEMA);
    report["pid"] = json!(identity.pid);
    report["parent_pid"] = json!(identity.parent_pid);
    report["name"] = json!(identity.name);
    report["command"] = json!(identity.command);
    report["final"] = json!(is_final);
    report["self"]["report_cpu_ns"] = json!(report_cpu_ns);
    report
}

/// The numbers that are told apart from the report.
#[must_use]
pub fn vitals(is_recording: bool, snapshot: &Snapshot) -> Vitals {
    let totals = || snapshot.devices.iter().map(|device| &device.totals);
    let lost = snapshot.dropped.iter().filter(|(reason, _)| *reason != DropReason::TraceSampled);
    Vitals {
        is_recording,
        is_simulated: snapshot.simulated,
        live_bytes: totals().map(|t| (t.device.0, t.vram.live_bytes.0)).collect(),
        allocations: totals().flat_map(|t| t.by_kind).map(|kind| kind.allocated_count).sum(),
        kernels: snapshot.timeline.kernels.iter().map(|kernel| kernel.totals.count).sum(),
        busy_ns: snapshot.timeline.busy.iter().map(|device| device.busy_ns.0).sum(),
        clock_ns: snapshot.time_ns.0,
        lost: lost.map(|(_, count)| count).sum(),
    }
}

/// The document in at most `bytes_max` bytes. What does not fit goes in this order: segments of the
/// framework plane; of the longest tables of the timeline, the last rows (those with least time),
/// which are summed in one row each; then spaces, pools and libraries, the last rows first. Each is
/// counted in `left_out`; the terms of a balance never go.
#[must_use]
pub fn fitting(mut document: Value, bytes_max: usize) -> Vec<u8> {
    loop {
        let text = document.to_string();
        if text.len() <= bytes_max {
            return text.into_bytes();
        }
        let excess = text.len() - bytes_max + MARGIN_BYTES;
        let is_shorter = shorten_device(&mut document, &DEVICE_TABLES[..1], excess)
            || shorten_timeline(&mut document, excess)
            || shorten_device(&mut document, &DEVICE_TABLES[1..], excess);
        if !is_shorter {
            return last_resort(&document);
        }
    }
}

/// Takes about `excess` bytes out of the first of `tables` that has rows; false if none has.
fn shorten_device(document: &mut Value, tables: &[&[&str]], excess: usize) -> bool {
    let Some(devices) = document["snapshot"]["devices"].as_array_mut() else { return false };
    let mut gone = None;
    for path in tables {
        for device in devices.iter_mut() {
            let pointer = format!("/{}", path.join("/"));
            let rows = device.pointer_mut(&pointer).and_then(Value::as_array_mut);
            let Some(rows) = rows.filter(|rows| !rows.is_empty()) else { continue };
            gone = Some((path.join("."), cut(rows, excess, 0).len()));
            break;
        }
        if gone.is_some() {
            break;
        }
    }
    let Some((name, rows)) = gone else { return false };
    let before = document["left_out"][&name].as_u64().unwrap_or(0);
    document["left_out"][name] = json!(before + rows as u64);
    true
}

/// Takes about `excess` bytes out of the longest table that is whole; false if there is none.
fn shorten_timeline(document: &mut Value, excess: usize) -> bool {
    let shortened: Vec<String> =
        document["left_out"].as_object().map_or(Vec::new(), |o| o.keys().cloned().collect());
    let Some(timeline) = document["snapshot"]["timeline"].as_object_mut() else { return false };
    let tables = timeline.iter().filter_map(|(name, table)| Some((name, table.as_array()?)));
    let candidates = tables.filter(|(name, rows)| rows.len() > 1 && !shortened.contains(name));
    let size = |rows: &Vec<Value>| rows.iter().map(|row| row.to_string().len()).sum::<usize>();
    let Some(name) = candidates.max_by_key(|(_, rows)| size(rows)).map(|(n, _)| n.clone()) else {
        return false;
    };
    let Some(rows) = timeline.get_mut(&name).and_then(Value::as_array_mut) else { return false };
    let removed = cut(rows, excess, 1);
    if let Some(sum) = sum_of(&removed) {
        rows.push(sum);
    }
    document["left_out"][name] = json!(removed.len());
    true
}

/// Takes rows from the end until about `excess` bytes are gone or so many are left.
fn cut(rows: &mut Vec<Value>, excess: usize, left: usize) -> Vec<Value> {
    let (mut cut, mut removed) = (0, Vec::new());
    while cut < excess && rows.len() > left {
        let Some(row) = rows.pop() else { break };
        cut += row.to_string().len() + 1;
        removed.push(row);
    }
    removed
}

/// One row for many; `None` where rows have no counts to add up.
fn sum_of(rows: &[Value]) -> Option<Value> {
    let all = |key: &str| rows.iter().map(|row| row[key].as_u64()).collect::<Option<Vec<_>>>();
    let count = all("count")?.into_iter().fold(0, u64::saturating_add);
    let mut sum = Map::new();
    sum.insert("name".into(), json!(LEFT_OUT));
    sum.insert("count".into(), json!(count));
    if let Some(total) = all("total_ns") {
        sum.insert("total_ns".into(), json!(total.into_iter().fold(0, u64::saturating_add)));
    }
    sum.insert("min_ns".into(), json!(all("min_ns").and_then(|all| all.into_iter().min())));
    sum.insert("max_ns".into(), json!(all("max_ns").and_then(|all| all.into_iter().max())));
    Some(sum.into())
}

/// Nothing is left to shorten: who it is, and that it does not fit.
fn last_resort(document: &Value) -> Vec<u8> {
    let kept = ["schema", "simulated", "pid", "parent_pid", "final"];
    let mut short: Map<_, _> =
        kept.iter().map(|key| ((*key).to_owned(), document[*key].clone())).collect();
    short.insert("problem".into(), json!("the report does not fit its slot"));
    Value::from(short).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(kernels: u64, copies: u64) -> Value {
        let row = |i: u64| {
            json!({"name": format!("kernel number {i}"), "count": 2, "total_ns": 1000 - i,
                   "min_ns": 500 - i, "max_ns": 501})
        };
        json!({
            "schema": PROCESS_SCHEMA, "pid": 7, "final": true,
            "snapshot": {"timeline": {
                "kernels": (0..kernels).map(row).collect::<Vec<_>>(),
                "copies": (0..copies).map(|i| json!({"direction": i})).collect::<Vec<_>>(),
            }},
        })
    }

    #[test]
    fn a_command_line_leaves_room_for_the_report() {
        assert_eq!(words_of(b"./a\0b c\0"), ["./a", "b c"]);
        assert_eq!(words_of(b"a\0\0"), ["a", ""]);
        let words = words_of(&[b"./a\0".as_slice(), &[b'x'; 200_000]].concat());
        assert_eq!((words.len(), words[1].len(), words[2].as_str()), (3, 4092, "…"));
    }

    #[test]
    fn what_fits_is_left_alone() {
        let text = fitting(document(100, 3), 1 << 20);
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), document(100, 3));
    }

    #[test]
    fn rows_that_do_not_fit_are_summed_and_counted() {
        for bytes_max in [2_000, 5_000, 9_000] {
            let text = fitting(document(200, 3), bytes_max);
            assert!(text.len() <= bytes_max);
            assert!(text.len() > bytes_max - 2 * MARGIN_BYTES, "{} of {bytes_max}", text.len());
            let short: Value = serde_json::from_slice(&text).unwrap();
            let rows = short["snapshot"]["timeline"]["kernels"].as_array().unwrap();
            let left_out = short["left_out"]["kernels"].as_u64().unwrap();
            assert_eq!(rows.len() as u64 - 1 + left_out, 200);
            let total = |key: &str| rows.iter().map(|row| row[key].as_u64().unwrap()).sum::<u64>();
            assert_eq!(total("count"), 400);
            assert_eq!(total("total_ns"), (0..200).map(|i| 1000 - i).sum::<u64>());
            let last = rows.last().unwrap();
            assert_eq!((&last["name"], &last["min_ns"]), (&json!(LEFT_OUT), &json!(301)));
        }
    }

    #[test]
    fn tables_without_sums_are_cut_and_a_report_that_cannot_fit_says_so() {
        let text = fitting(document(1, 900), 4_000);
        let short: Value = serde_json::from_slice(&text).unwrap();
        assert!(text.len() <= 4_000 && short["left_out"]["copies"].as_u64() > Some(600));
        let text = fitting(document(5, 5), 150);
        let short: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&short["pid"], &short["snapshot"]), (&json!(7), &Value::Null));
        assert!(short["problem"].is_string());
    }

    /// What a balance adds up goes last of all, and is said; the balance itself stays.
    #[test]
    fn planes_are_shortened_in_order_and_the_balance_stays() {
        let row = |i: u64| json!({"bytes": i, "address": 1u64 << 40});
        let rows = |count: u64| (0..count).map(row).collect();
        let planes = |segments, pools| {
            let (segments, pools): (Vec<_>, Vec<_>) = (rows(segments), rows(pools));
            let mut whole = document(40, 0);
            whole["snapshot"]["devices"] = json!([
                {"framework": {"segments": []}},
                {"framework": {"segments": segments, "spaces": []}, "totals": {"pools": pools},
                 "balance": {"lines": [1, 2, 3]}},
            ]);
            whole
        };
        let check = |segments: u64, pools: u64, bytes_max: usize, expect: &[&str]| {
            let text = fitting(planes(segments, pools), bytes_max);
            assert!(text.len() <= bytes_max);
            let short: Value = serde_json::from_slice(&text).unwrap();
            let gone = short["left_out"].as_object().cloned().unwrap_or_default();
            assert!(gone.keys().eq(expect.iter().copied()), "{bytes_max}: {gone:?}");
            assert_eq!(short["snapshot"]["devices"][1]["balance"]["lines"], json!([1, 2, 3]));
            let left = |at: &str| {
                let rows = short.pointer(&format!("/snapshot/devices/1/{at}")).unwrap();
                rows.as_array().unwrap().len() as u64
            };
            let gone = |key: &str| gone.get(key).and_then(Value::as_u64).unwrap_or(0);
            assert_eq!(left("framework/segments") + gone("framework.segments"), segments);
            assert_eq!(left("totals/pools") + gone("totals.pools"), pools);
        };
        check(10, 10, 20_000, &[]);
        check(100, 10, 6_000, &["framework.segments"]);
        check(900, 10, 3_000, &["framework.segments", "kernels"]);
        check(10, 900, 2_000, &["framework.segments", "kernels", "totals.pools"]);
    }
}
