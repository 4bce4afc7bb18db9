//! What the VRAM of a recorded process was used for.

use super::table::WIDTH;
use crate::names::plain;
use memvelope::snapshot::Balance;
use memvelope::units::Nanos;
use serde_json::Value;
use std::fmt::{Result, Write};

/// Columns from the left.
const INDENT: usize = 2;

/// Writes the balance at the highest use that was looked at, and the last one where it differs.
pub(super) fn write(out: &mut String, device: &Value) -> Result {
    let read = |key: &str| serde_json::from_value::<Balance>(device[key].clone()).ok();
    let (last, highest) = (read("balance"), read("highest"));
    let higher = highest
        .filter(|highest| last.as_ref().is_none_or(|last| highest.used_bytes > last.used_bytes));
    if let Some(highest) = &higher {
        let last = last.as_ref().map_or(highest.time_ns, |last| last.time_ns);
        let before = Nanos(last.0.saturating_sub(highest.time_ns.0));
        writeln!(out, "\n    the device at its highest use, {before} before the last look:")?;
        write_lines(out, &highest.text(WIDTH - INDENT))?;
    }
    if let Some(last) = &last {
        writeln!(out, "\n    the device when it was last looked at:")?;
        let width = WIDTH - INDENT;
        // What there is to say was said of the more important one.
        let text = if higher.is_some() { last.table(width) } else { last.text(width) };
        write_lines(out, &text)?;
    }
    Ok(())
}

fn write_lines(out: &mut String, text: &str) -> Result {
    for line in text.lines() {
        let line = format!("{:INDENT$}{}", "", plain(line));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
