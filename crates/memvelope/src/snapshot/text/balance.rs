//! A balance as a table.

use super::lines::wrapped;
use crate::snapshot::{Balance, Line, Origin, TermName};
use crate::units::Bytes;
use std::fmt::{Result, Write};

/// The narrowest that tables are made for.
const WIDTH_MIN: usize = 80;

/// Columns that numbers and origins take, and the least that names have.
const NUMBERS: usize = 2 + 13 + 10 + 14 + 2 + 8;
const NAMES_MIN: usize = 18;

/// Parts stand so far to the right of their term.
const PART_INDENT: usize = 2;

/// Parts of a term that are shown; those with most bytes first.
const PARTS_SHOWN: usize = 8;

/// Terms that every balance has or lacks; the others are terms of a plan.
const TERMS: [TermName; 14] = [
    TermName::Withheld,
    TermName::Weights,
    TermName::Activations,
    TermName::Graphs,
    TermName::Context,
    TermName::Recorder,
    TermName::Libraries,
    TermName::Rounding,
    TermName::AwaitingStream,
    TermName::Cached,
    TermName::OpeningBalance,
    TermName::OtherProcesses,
    TermName::KvCache,
    TermName::Unaccounted,
];

impl Balance {
    /// For people, in at most `width` columns (80 at least): [`Self::table`], how the uncertain lines
    /// came about, and what was noticed, each with what to do about it.
    #[must_use]
    pub fn text(&self, width: usize) -> String {
        let (mut out, width) = (self.table(width), width.max(WIDTH_MIN));
        // Writing into a String cannot fail.
        let _ = write_notes(&mut out, self, width).and(write_findings(&mut out, self, width));
        out
    }

    /// A line a term with its share of what is used, how far off it may be, and where it comes from,
    /// its parts below it; then what is zero and what is absent.
    #[must_use]
    pub fn table(&self, width: usize) -> String {
        let (mut out, width) = (String::new(), width.max(WIDTH_MIN));
        let _ = write_table(&mut out, self, width).and(write_rest(&mut out, self, width));
        out
    }
}

fn write_table(out: &mut String, balance: &Balance, width: usize) -> Result {
    let is_shown = |line: &&Line| line.bytes != 0 || line.term == TermName::Unaccounted;
    let lines: Vec<_> = balance.lines.iter().filter(is_shown).collect();
    let parts = lines.iter().flat_map(|line| shown_parts(line).0);
    let longest = parts.map(|(name, _)| name.chars().count() + PART_INDENT).max().unwrap_or(0);
    let names = longest.clamp(NAMES_MIN, width - NUMBERS);
    let row = |name: &str, bytes: &str, share: &str, error: &str, origin: &str| {
        let text = format!("  {name:<names$}{bytes:>13}{share:>10}{error:>14}  {origin}");
        text.trim_end().to_owned()
    };
    writeln!(out, "{}", row("what for", "bytes", "share", "off by", "origin"))?;
    for line in lines {
        let error = match line.error_bytes {
            Bytes::ZERO => String::new(),
            bytes => format!("\u{b1}{bytes}"),
        };
        let share = line.bytes as f64 * 100.0 / (balance.used_bytes.0 as f64).max(1.0);
        let (bytes, share) = (signed(line.bytes), format!("{share:.1} %"));
        let origin = line.origin.label();
        writeln!(out, "{}", row(line.term.label(), &bytes, &share, &error, origin))?;
        let (parts, more) = shown_parts(line);
        for (name, bytes) in parts.into_iter().chain(more) {
            let name: String = name.chars().take(names - PART_INDENT).collect();
            let name = format!("{:PART_INDENT$}{name}", "");
            writeln!(out, "{}", row(&name, &signed(bytes), "", "", ""))?;
        }
    }
    writeln!(out, "  {}", "-".repeat(names + 23))?;
    writeln!(out, "{}", row("used", &balance.used_bytes.to_string(), "100.0 %", "", ""))
}

/// A name and its bytes.
type Row = (String, i64);

/// The parts of a term, largest first, and the sum of those that are too many.
fn shown_parts(line: &Line) -> (Vec<Row>, Option<Row>) {
    let parts = line.parts.iter().filter(|part| part.bytes != 0);
    let mut parts: Vec<_> = parts.map(|part| (part.name.clone(), part.bytes)).collect();
    // A part that is the whole, under the same name, says nothing new.
    parts.retain(|(name, bytes)| *bytes != line.bytes || name != line.term.label());
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(bytes.unsigned_abs()));
    let more = parts.split_off(parts.len().min(PARTS_SHOWN));
    let sum: i128 = more.iter().map(|(_, bytes)| i128::from(*bytes)).sum();
    let sum = i64::try_from(sum).unwrap_or(i64::MAX);
    let more = (!more.is_empty()).then(|| (format!("{} more", more.len()), sum));
    (parts, more)
}

/// What is zero and what is absent, which is not the same.
fn write_rest(out: &mut String, balance: &Balance, width: usize) -> Result {
    let names =
        |terms: Vec<TermName>| terms.iter().map(|term| term.label()).collect::<Vec<_>>().join(", ");
    let zero = |line: &&Line| line.bytes == 0 && line.term != TermName::Unaccounted;
    let zeros: Vec<_> = balance.lines.iter().filter(zero).map(|line| line.term).collect();
    let absent: Vec<_> = TERMS.into_iter().filter(|term| balance.line(*term).is_none()).collect();
    for (what, terms) in [("nothing of", zeros), ("not known", absent)] {
        if !terms.is_empty() {
            writeln!(out, "{}", wrapped(2, &format!("{what}: {}", names(terms)), width))?;
        }
    }
    if balance.is_torn {
        let text = "memory moved in every try to read the planes together: lines belong to \
                    different moments";
        writeln!(out, "{}", wrapped(2, text, width))?;
    }
    Ok(())
}

fn write_notes(out: &mut String, balance: &Balance, width: usize) -> Result {
    let is_explained = |line: &&Line| {
        !line.note.is_empty()
            && (line.term == TermName::Unaccounted || line.bytes != 0)
            && (line.error_bytes > Bytes::ZERO
                || line.origin == Origin::Assumed
                || matches!(line.term, TermName::Unaccounted | TermName::OpeningBalance))
    };
    for line in balance.lines.iter().filter(is_explained) {
        writeln!(out, "{}", wrapped(2, &format!("{}: {}", line.term.label(), line.note), width))?;
    }
    Ok(())
}

fn write_findings(out: &mut String, balance: &Balance, width: usize) -> Result {
    for finding in &balance.findings {
        writeln!(out, "\n{}", wrapped(2, &format!("! {}", finding.text), width))?;
        writeln!(out, "{}", wrapped(2, &format!("> {}", finding.action), width))?;
    }
    Ok(())
}

fn signed(bytes: i64) -> String {
    let size = Bytes(bytes.unsigned_abs());
    if bytes < 0 { format!("-{size}") } else { size.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Finding, FindingKind, Part};

    fn line(term: TermName, bytes: i64, error: u64) -> Line {
        let note = format!("note of {}", term.label());
        let (error_bytes, origin) = (Bytes(error), Origin::Measured);
        Line { term, bytes, error_bytes, origin, parts: Vec::new(), note }
    }

    fn sample() -> Balance {
        let part = |name: String, bytes| Part { name, bytes };
        let mut libraries = line(TermName::Libraries, 45 << 20, 0);
        libraries.parts = (0..=9).map(|i| part(format!("lib{i}"), i << 20)).collect();
        libraries.parts.push(part("x".repeat(200), 0));
        let long = part(format!("libnccl.so.2 {}", "y".repeat(90)), 64 << 20);
        let mut context = line(TermName::Context, 64 << 20, 2 << 20);
        context.parts = vec![long];
        Balance {
            used_bytes: Bytes(107 << 20),
            lines: vec![
                line(TermName::Weights, 0, 0),
                context,
                libraries,
                line(TermName::Unaccounted, -(2 << 20), 2 << 20),
            ],
            findings: vec![Finding {
                kind: FindingKind::CountedTwice,
                bytes: -(2 << 20),
                text: "2.0 MiB are counted twice".into(),
                action: "report it".into(),
            }],
            ..Balance::default()
        }
    }

    #[test]
    fn a_table_closes_at_every_width_and_absent_is_not_zero() {
        for width in [0, 80, 100, 140] {
            let text = sample().text(width);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width.max(80)), "{text}");
            for part in [
                "unaccounted",
                "-2.0 MiB",
                "\u{b1}2.0 MiB",
                "nothing of: weights",
                "not known: withheld, activations",
                "unaccounted: note of unaccounted",
                "! 2.0 MiB are counted twice",
                "> report it",
                "lib9",
                "1 more",
                "100.0 %",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(!text.contains("lib0") && !text.contains("note of libraries"), "{text}");
        }
    }
}
