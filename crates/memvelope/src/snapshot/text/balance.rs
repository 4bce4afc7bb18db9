//! A balance as a table.

use super::lines::wrapped;
use crate::snapshot::{Balance, Line};
use crate::units::Bytes;
use std::fmt::{Result, Write};

/// Writes one line a term, its parts below it, and what was found with what to do about it.
pub(super) fn write(out: &mut String, balance: &Balance, width: usize) -> Result {
    writeln!(
        out,
        "  {:<18}{:>12}{:>9}{:>13}  origin",
        "what for", "bytes", "share", "off by up to"
    )?;
    for line in &balance.lines {
        write_line(out, balance, line, width)?;
    }
    writeln!(out, "  {:<18}{:>12}{:>9}", "used", balance.used_bytes.to_string(), "100.0 %")?;
    for finding in &balance.findings {
        writeln!(out, "\n{}", wrapped(2, &format!("! {}", finding.text), width))?;
        writeln!(out, "{}", wrapped(4, &finding.action, width))?;
    }
    Ok(())
}

fn write_line(out: &mut String, balance: &Balance, line: &Line, width: usize) -> Result {
    let share = line.bytes as f64 * 100.0 / (balance.used_bytes.0 as f64).max(1.0);
    let error = match line.error_bytes {
        Bytes::ZERO => String::new(),
        bytes => bytes.to_string(),
    };
    let (term, origin) = (line.term.label(), line.origin.label());
    let (bytes, share) = (signed(line.bytes), format!("{share:.1} %"));
    writeln!(out, "  {term:<18}{bytes:>12}{share:>9}{error:>13}  {origin}")?;
    for part in &line.parts {
        let name: String = part.name.chars().take(width.saturating_sub(40)).collect();
        writeln!(out, "    {name:<16}{:>12}", signed(part.bytes))?;
    }
    Ok(())
}

fn signed(bytes: i64) -> String {
    let size = Bytes(bytes.unsigned_abs());
    if bytes < 0 { format!("-{size}") } else { size.to_string() }
}
