//! Balances, fragmentation and answers as texts for people, at most [`COLUMNS`] wide.

use super::{Balance, Fit, FitSource, Fragmentation, Line, SpaceFragmentation, TermName};
use crate::framework::SizeClass;
use crate::units::Bytes;
use std::fmt;

/// Characters of a line: what a terminal beside an editor shows.
const COLUMNS: usize = 100;
/// Characters before the note.
const NOTE_AT: usize = 63;
/// Parts of a line that are shown; the rest is one.
const PARTS_MAX: usize = 12;

impl fmt::Display for Balance {
    /// One line a term: bytes, share of what is used, error bar, origin, how it came about; its parts
    /// below, indented. Terms of zero are named in one line. Findings follow, with what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<16}{:>11}{:>9}{:>14}  {:<8} note",
            "term", "bytes", "share", "error", "origin"
        )?;
        let is_shown = |line: &&Line| {
            line.bytes != 0 || line.error_bytes.0 > 0 || line.term == TermName::Unaccounted
        };
        for line in self.lines.iter().filter(is_shown) {
            write_line(f, line, self.used_bytes)?;
        }
        let zeros = self.lines.iter().filter(|line| !is_shown(line));
        let zeros: Vec<_> = zeros.map(|line| line.term.label()).collect();
        if !zeros.is_empty() {
            let text = format!("{:<16}{:>11}  {}", "(zero)", "0 B", zeros.join(", "));
            write_wrapped(f, "  ", 31, &text)?;
        }
        writeln!(f, "= {:<16}{:>11}{:>9}", "used", self.used_bytes.to_string(), "100.0 %")?;
        for finding in &self.findings {
            let text = format!("{}: {}", finding.kind.label(), finding.text);
            write_wrapped(f, "! ", 2, &text)?;
            write_wrapped(f, "  do: ", 6, &finding.action)?;
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, line: &Line, used: Bytes) -> fmt::Result {
    let share = line.bytes as f64 * 100.0 / (used.0 as f64).max(1.0);
    // -0.0 is nothing, and a share of nothing says nothing.
    let share = if share.abs() < 0.05 { 0.0 } else { share };
    let share = if used.0 == 0 { String::new() } else { format!("{share:.1} %") };
    let error = match line.error_bytes {
        Bytes::ZERO => String::new(),
        error => format!("± {error}"),
    };
    let start = format!(
        "  {:<16}{:>11}{share:>9}{error:>14}  {:<8} ",
        line.term.label(),
        signed(line.bytes),
        line.origin.label(),
    );
    write_wrapped(f, &start, NOTE_AT, &line.note)?;
    let (shown, rest) = line.parts.split_at(line.parts.len().min(PARTS_MAX));
    for part in shown {
        writeln!(f, "    {:>14}  {}", signed(part.bytes), clipped(&part.name))?;
    }
    if !rest.is_empty() {
        let sum = rest.iter().fold(0_i64, |sum, part| sum.saturating_add(part.bytes));
        writeln!(f, "    {:>14}  {} more", signed(sum), rest.len())?;
    }
    Ok(())
}

/// A name of a library is a file's: as long as its maker liked.
fn clipped(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(COLUMNS - 24).collect()
}

pub(super) fn signed(bytes: i64) -> String {
    let size = Bytes(bytes.unsigned_abs());
    if bytes < 0 { format!("-{size}") } else { size.to_string() }
}

/// Writes `start` and the text behind it, later lines indented. A line is only longer than
/// [`COLUMNS`] if a word is.
fn write_wrapped(
    f: &mut fmt::Formatter<'_>,
    start: &str,
    indent: usize,
    text: &str,
) -> fmt::Result {
    let mut line = start.to_owned();
    let mut width = line.chars().count();
    // Of a text that is laid out itself, the spaces stand.
    let mut is_first = true;
    for word in text.split(' ') {
        let length = word.chars().count();
        if !is_first && width + 1 + length > COLUMNS {
            writeln!(f, "{}", line.trim_end())?;
            (line, width) = (" ".repeat(indent), indent);
            is_first = true;
        }
        if !is_first {
            line.push(' ');
            width += 1;
        }
        line.push_str(word);
        width += length;
        is_first = false;
    }
    writeln!(f, "{}", line.trim_end())
}

impl fmt::Display for Fit {
    /// The answer in a sentence; below, what would help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes { from, taken_bytes, largest_fit_bytes } => {
                let from = match from {
                    FitSource::Cached => "a free block of torch's cache",
                    FitSource::Free => "free memory of the device",
                    FitSource::AfterRelease => {
                        "free memory of the device, after torch emptied its cache, which is slow"
                    }
                    FitSource::Pool => "what the memory pool holds",
                };
                let text = format!(
                    "yes: {taken_bytes} from {from} (at most {largest_fit_bytes} would fit)"
                );
                write_wrapped(f, "", 5, &text)
            }
            Self::No { because, largest_fit_bytes, remedies, .. } => {
                write_wrapped(f, "", 4, because)?;
                writeln!(f, "    at most {largest_fit_bytes} would fit")?;
                for remedy in remedies {
                    let sign = if remedy.is_enough { "  + " } else { "  - " };
                    write_wrapped(f, sign, 4, &remedy.text)?;
                }
                Ok(())
            }
            Self::Unknown { missing } => {
                write_wrapped(f, "", 4, &format!("nobody can tell: {missing}"))
            }
        }
    }
}

impl fmt::Display for Fragmentation {
    /// What is free, what one request gets of it, and the same of each space that caches something.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!(
            "{} free or cached, at most {} in one request: {:.1} % external fragmentation",
            self.available_bytes,
            self.largest_fit_bytes,
            self.external * 100.0
        );
        if let Some(internal) = self.internal {
            text += &format!(", {:.1} % internal", internal * 100.0);
        }
        if let Some(share) = self.demand_weighted {
            text += &format!("; {:.1} % of the recent requests would find no room", share * 100.0);
        }
        write_wrapped(f, "", 2, &text)?;
        let mut spaces: Vec<_> =
            self.spaces.iter().filter(|space| space.cached_bytes.0 > 0).collect();
        spaces.sort_by_key(|space| std::cmp::Reverse(space.cached_bytes));
        let (shown, rest) = spaces.split_at(spaces.len().min(PARTS_MAX));
        if !shown.is_empty() {
            writeln!(
                f,
                "  {:>11}{:>12}{:>12}{:>10}  of",
                "cached", "stranded", "largest", "external"
            )?;
        }
        shown.iter().try_for_each(|space| write_space(f, space))?;
        if !rest.is_empty() {
            let cached = rest.iter().map(|space| space.cached_bytes).sum::<Bytes>();
            writeln!(f, "  {:>11}{:>36}{} more", cached.to_string(), "", rest.len())?;
        }
        Ok(())
    }
}

fn write_space(f: &mut fmt::Formatter<'_>, space: &SpaceFragmentation) -> fmt::Result {
    let class = match space.class {
        SizeClass::Small => "small",
        SizeClass::Large => "large",
    };
    let pool = match space.pool {
        (0, 0) => String::new(),
        (a, b) => format!(", private pool ({a}, {b})"),
    };
    writeln!(
        f,
        "  {:>11}{:>12}{:>12}{:>8.1} %  {class} blocks, stream {:#x}{pool}",
        space.cached_bytes.to_string(),
        space.stranded_bytes.to_string(),
        space.largest_fit_bytes.to_string(),
        space.external * 100.0,
        space.stream,
    )
}

#[cfg(test)]
mod tests;
