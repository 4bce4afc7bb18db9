//! One trace of all processes: their own, joined line by line.
//!
//! Each process writes Chrome trace JSON with one event a line, times counted from an origin of its
//! own, and process numbers that all processes share. Joined, every process has numbers of its own,
//! and times count from the earliest origin. Lines are patched where they stand, not parsed: traces
//! have hundreds of megabytes.

use anyhow::{Context, Result, anyhow};
use memvelope::export::write_atomically;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Distance between the numbers of two processes: more than a process has devices.
const PIDS_PER_PROCESS: u64 = 1000;

/// Where `otherData` stands: it is the last line, and short.
const TAIL_BYTES: u64 = 64 << 10;

/// Longest line that is looked at: names are cut at a fraction of it.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Kept free for closing the document.
const CLOSING_BYTES: u64 = 64 << 10;

/// A process's trace.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Shown before the names of its rows: `python3 4711`.
    pub(super) label: String,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Joined {
    /// Events in the joined trace.
    pub(super) events: u64,
    /// Events that are not in it for want of room.
    pub(super) left_out: u64,
}

/// How the lines of one process are changed.
struct Patch<'a> {
    pid_offset: u64,
    shift_ns: u64,
    label: &'a str,
}

/// Joins the traces into `path`, at most `bytes_max` long; returns what became of each.
///
/// # Errors
/// The joined trace could not be written, or not even an empty one has room. One that cannot be read
/// is `Err` in its place.
pub(super) fn join(
    sources: &[Source],
    path: &Path,
    simulated: bool,
    bytes_max: u64,
) -> Result<Vec<Result<Joined>>> {
    let tails: Vec<Result<Value>> = sources.iter().map(|source| tail_of(&source.path)).collect();
    let origin_of = |tail: &Value| tail["clock_origin_ns"].as_u64().unwrap_or(0);
    let origin = tails.iter().flatten().map(origin_of).min().unwrap_or(0);
    let room = bytes_max.saturating_sub(CLOSING_BYTES);
    let mut joined = Vec::new();
    write_atomically(path, |out| {
        let mut out = Counting { inner: out, bytes: 0 };
        out.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        let mut is_first = true;
        for (index, (source, tail)) in sources.iter().zip(&tails).enumerate() {
            let Ok(tail) = tail else {
                joined.push(Err(anyhow!("it was not written to its end")));
                continue;
            };
            let patch = Patch {
                pid_offset: (index as u64 + 1).saturating_mul(PIDS_PER_PROCESS),
                shift_ns: origin_of(tail).saturating_sub(origin),
                label: &source.label,
            };
            // What the earlier ones did not use, shared evenly by those to come.
            let left = room.saturating_sub(out.bytes) / (sources.len() - index) as u64;
            let until = out.bytes.saturating_add(left);
            joined.push(append(&source.path, &patch, &mut out, until, &mut is_first)?);
        }
        let sum = |of: fn(&Joined) -> u64| joined.iter().flatten().map(of).sum::<u64>();
        let other = json!({
            "producer": concat!("memvelope ", env!("CARGO_PKG_VERSION")),
            "simulated": simulated,
            "clock_origin_ns": origin,
            "processes": sources.len(),
            "events": sum(|joined| joined.events),
            "events_left_out": sum(|joined| joined.left_out),
        });
        write!(out, "\n],\"otherData\":{other}}}\n")
    })?;
    Ok(joined)
}

struct Counting<'a> {
    inner: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Appends one process's lines up to `until` bytes. Reading errors are the inner result, as they
/// concern one process; writing errors the outer.
fn append(
    path: &Path,
    patch: &Patch<'_>,
    out: &mut Counting<'_>,
    until: u64,
    is_first: &mut bool,
) -> io::Result<Result<Joined>> {
    let mut joined = Joined::default();
    let mut reader = match File::open(path) {
        Ok(file) => BufReader::with_capacity(1 << 18, file),
        Err(error) => return Ok(Err(error.into())),
    };
    let (mut line, mut patched) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(Ok(joined)),
            Ok(_) => {}
            Err(error) => return Ok(Err(error.into())),
        }
        let event = line.strip_suffix(b"\n").unwrap_or(&line);
        let event = event.strip_suffix(b",").unwrap_or(event);
        // The first line and the last are the document's own.
        if !(event.starts_with(b"{\"ph\":") && event.ends_with(b"}")) {
            continue;
        }
        let is_event = !event.starts_with(b"{\"ph\":\"M\"");
        patched.clear();
        patched.extend_from_slice(if *is_first { b"\n" } else { b",\n" });
        if patch.apply(event, &mut patched).is_none() {
            return Ok(Err(anyhow!("a line of it is not an event: {}", shown(event))));
        }
        if out.bytes + patched.len() as u64 > until {
            joined.left_out += u64::from(is_event);
            continue;
        }
        out.write_all(&patched)?;
        *is_first = false;
        joined.events += u64::from(is_event);
    }
}

fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned()
}

/// `otherData` of a whole trace.
fn tail_of(path: &Path) -> Result<Value> {
    let mut file = File::open(path).context("it cannot be read")?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut text = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let (_, tail) = text.rsplit_once("],\"otherData\":").context("it has no end")?;
    let tail = tail.trim_end().strip_suffix('}').context("it has no end")?;
    Ok(serde_json::from_str(tail)?)
}

impl Patch<'_> {
    /// Appends the event with its numbers changed; `None` if it is not one.
    fn apply(&self, event: &[u8], out: &mut Vec<u8>) -> Option<()> {
        if event.starts_with(b"{\"ph\":\"M\",\"name\":\"process_name\"") {
            return self.rename(event, out);
        }
        let mut done = 0;
        for (key, start) in numbers(event) {
            let digits = event[start..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.');
            let end = start + digits.count();
            out.extend_from_slice(&event[done..start]);
            done = end;
            let text = std::str::from_utf8(&event[start..end]).ok()?;
            match key {
                Key::Pid => {
                    let pid = text.parse::<u64>().ok()?;
                    write!(out, "{}", pid.checked_add(self.pid_offset)?).ok()?;
                }
                Key::Time => put_micros(out, nanos(text)?.checked_add(self.shift_ns)?),
            }
        }
        out.extend_from_slice(&event[done..]);
        (done > 0).then_some(())
    }

    /// Puts the process's own name before that of its rows.
    fn rename(&self, event: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut event: Value = serde_json::from_slice(event).ok()?;
        let pid = event["pid"].as_u64()?.checked_add(self.pid_offset)?;
        event["pid"] = json!(pid);
        let name = event["args"]["name"].as_str()?;
        event["args"]["name"] = json!(format!("{}: {name}", self.label));
        serde_json::to_writer(out, &event).ok()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Pid,
    Time,
}

/// Where the values of `pid` and `ts` begin, at the event's own level and outside of texts.
fn numbers(event: &[u8]) -> impl Iterator<Item = (Key, usize)> {
    let (mut at, mut depth) = (0, 0u32);
    std::iter::from_fn(move || {
        while at < event.len() {
            match event[at] {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                b'"' => {
                    let start = at + 1;
                    at = end_of_text(event, start);
                    let value = at + 2;
                    let key = match event.get(start..at) {
                        Some(b"pid") => Some(Key::Pid),
                        Some(b"ts") => Some(Key::Time),
                        _ => None,
                    };
                    let is_key = depth == 1 && event.get(at + 1) == Some(&b':');
                    if let Some(key) = key.filter(|_| is_key) {
                        at = value;
                        return Some((key, value));
                    }
                }
                _ => {}
            }
            at += 1;
        }
        None
    })
}

/// The closing quote of a text that begins at `at`.
fn end_of_text(event: &[u8], mut at: usize) -> usize {
    while at < event.len() && event[at] != b'"' {
        at += if event[at] == b'\\' { 2 } else { 1 };
    }
    at.min(event.len())
}

/// Nanoseconds of microseconds with up to three decimals.
fn nanos(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = format!("{part:0<3}");
    let nanos: u64 = part.get(..3)?.parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(nanos)
}

fn put_micros(out: &mut Vec<u8>, nanos: u64) {
    // Writing into a Vec cannot fail.
    let _ = match nanos % 1000 {
        0 => write!(out, "{}", nanos / 1000),
        part => write!(out, "{}.{part:03}", nanos / 1000),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(event: &str) -> Option<String> {
        let patch = Patch { pid_offset: 2000, shift_ns: 1_500, label: "sh 7" };
        let mut out = Vec::new();
        patch.apply(event.as_bytes(), &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_the_events_own_numbers_change() {
        let event = r#"{"ph":"X","name":"a\"pid\":1,{","cat":"k","pid":100,"tid":7,"ts":2.25,"dur":1,"args":{"pid":3,"ts":4}}"#;
        let expect =
            event.replace("\"pid\":100", "\"pid\":2100").replace("\"ts\":2.25", "\"ts\":3.750");
        assert_eq!(patched(event).unwrap(), expect);
        let expect = r#"{"args":{"name":"sh 7: GPU 0"},"name":"process_name","ph":"M","pid":2100}"#;
        let event = r#"{"ph":"M","name":"process_name","pid":100,"args":{"name":"GPU 0"}}"#;
        let value: Value = serde_json::from_str(&patched(event).unwrap()).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(expect).unwrap());
        for bad in ["{\"ph\":\"X\"}", "{\"ph\":\"X\",\"pid\":\"x\"}", "{\"ph\":\"", ""] {
            assert_eq!(patched(bad), None, "{bad}");
        }
    }

    fn source(place: &Path, name: &str, origin: u64, events: usize) -> Source {
        let mut text = String::from(
            "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n{\"ph\":\"M\",\"name\":\"process_name\",\
             \"pid\":1,\"args\":{\"name\":\"host\"}}",
        );
        for event in 0..events {
            text += &format!(
                ",\n{{\"ph\":\"X\",\"name\":\"k\",\"pid\":100,\"tid\":7,\"ts\":{event}.125,\"dur\":1}}"
            );
        }
        text += &format!("\n],\"otherData\":{{\"clock_origin_ns\":{origin},\"dropped\":{{}}}}}}\n");
        let path = place.join(name);
        std::fs::write(&path, text).unwrap();
        Source { path, label: name.into() }
    }

    #[test]
    fn processes_keep_apart_and_share_a_clock() {
        let place = tempfile::tempdir().unwrap();
        let (early, late) =
            (source(place.path(), "a", 5_000, 3), source(place.path(), "b", 7_000, 2));
        let torn = source(place.path(), "c", 0, 1);
        std::fs::write(&torn.path, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n").unwrap();
        let out = place.path().join("trace.json");
        let joined = join(&[early, late, torn], &out, true, 1 << 20).unwrap();
        assert_eq!(joined[0].as_ref().unwrap(), &Joined { events: 3, left_out: 0 });
        assert_eq!(joined[1].as_ref().unwrap().events, 2);
        assert!(joined[2].is_err());
        let trace: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
        assert_eq!(
            (&trace["otherData"]["simulated"], &trace["otherData"]["events"]),
            (&json!(true), &json!(5))
        );
        let times = |pid: u64| -> Vec<f64> {
            let events = trace["traceEvents"].as_array().unwrap();
            let own = events.iter().filter(|e| e["pid"] == pid && e["ph"] == "X");
            own.map(|event| event["ts"].as_f64().unwrap()).collect()
        };
        assert_eq!((times(1100), times(2100)), (vec![0.125, 1.125, 2.125], vec![2.125, 3.125]));
    }

    #[test]
    fn a_joined_trace_has_a_limit_that_is_shared() {
        let place = tempfile::tempdir().unwrap();
        let sources = [source(place.path(), "a", 0, 10_000), source(place.path(), "b", 0, 10)];
        let out = place.path().join("trace.json");
        let joined = join(&sources, &out, false, CLOSING_BYTES + 20_000).unwrap();
        let first = joined[0].as_ref().unwrap();
        assert!(first.events > 100 && first.left_out == 10_000 - first.events, "{first:?}");
        assert_eq!(joined[1].as_ref().unwrap(), &Joined { events: 10, left_out: 0 });
        assert!(std::fs::metadata(&out).unwrap().len() <= CLOSING_BYTES + 20_000);
        serde_json::from_slice::<Value>(&std::fs::read(&out).unwrap()).unwrap();
    }

    #[test]
    fn nothing_to_join_is_an_empty_trace() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("trace.json");
        assert!(join(&[], &out, false, 1 << 20).unwrap().is_empty());
        let trace: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
        assert_eq!(trace["traceEvents"], json!([]));
    }
}
