//! Aligned tables and wrapped sentences.

use std::fmt::{Result, Write};

/// Space between columns.
const GAP: usize = 2;

/// A table: names on the left, numbers on the right.
#[derive(Debug)]
pub(super) struct Table {
    indent: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table, so many columns from the left, with these headings.
    pub(super) fn new(indent: usize, headings: &[&str]) -> Self {
        Self { indent, rows: vec![headings.iter().map(|text| (*text).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes it after an empty line, names cut to fit `width`, and how many rows are not in it;
    /// nothing where it has headings alone.
    pub(super) fn write(&self, out: &mut String, width: usize, more: usize) -> Result {
        if self.rows.len() <= 1 {
            return Ok(());
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let longest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let numbers: Vec<usize> = (1..columns).map(longest).collect();
        let taken = numbers.iter().map(|width| width + GAP).sum::<usize>() + self.indent;
        let names = longest(0).min(width.saturating_sub(taken));
        writeln!(out)?;
        for row in &self.rows {
            let name: String = row.first().map_or("", String::as_str).chars().take(names).collect();
            let mut line = format!("{:indent$}{name:<names$}", "", indent = self.indent);
            for (cell, width) in row.iter().skip(1).zip(&numbers) {
                write!(line, "{:GAP$}{cell:>width$}", "")?;
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        if more > 0 {
            writeln!(out, "{:indent$}and {more} more", "", indent = self.indent)?;
        }
        Ok(())
    }
}

/// A sentence in lines of at most `width`, each so many columns from the left, those after the first
/// two more. A word that is longer than a line has one of its own.
pub(super) fn wrapped(indent: usize, sentence: &str, width: usize) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for word in sentence.split_whitespace() {
        let length = word.chars().count();
        let is_first = text.is_empty();
        if is_first || column + 1 + length > width {
            let margin = if is_first { indent } else { indent + 2 };
            text.push_str(if is_first { "" } else { "\n" });
            text.push_str(&" ".repeat(margin));
            column = margin;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_wrapped_and_columns_aligned() {
        let text = wrapped(4, &"twelve chars ".repeat(20), 80);
        assert!(text.lines().all(|line| line.len() <= 80) && text.lines().count() == 4, "{text}");
        assert_eq!(wrapped(2, "one\n  word", 80), "  one word");
        let mut table = Table::new(2, &["pools", "used"]);
        let mut out = String::new();
        table.write(&mut out, 80, 0).unwrap();
        assert_eq!(out, "");
        table.row(["x".repeat(99), "1.0 MiB".into()]);
        table.row(["y".into(), "10.0 MiB".into()]);
        table.write(&mut out, 80, 3).unwrap();
        let lines: Vec<_> = out.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{out}");
        assert!(lines[3].starts_with("  y ") && lines[3].ends_with("  10.0 MiB"), "{out}");
        assert_eq!(lines[4], "  and 3 more");
    }
}
