//! Aligned tables that fit a terminal.

use crate::names;

/// Columns of the whole report.
pub(super) const WIDTH: usize = 100;

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

    /// Adds a row. Its name is shown as a kernel's is, when it is too long.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is nothing but headings.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let numbers: Vec<usize> = (1..columns).map(width).collect();
        let taken = numbers.iter().map(|width| width + GAP).sum::<usize>() + self.indent;
        let names = width(0).min(WIDTH.saturating_sub(taken));
        for row in &self.rows {
            let name = row.first().map_or(String::new(), |name| names::shown(name, names));
            let mut line = format!("{:indent$}{name:<names$}", "", indent = self.indent);
            for (cell, width) in row.iter().skip(1).zip(&numbers) {
                line.push_str(&format!("{:GAP$}{cell:>width$}", ""));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A sentence in lines, each so many columns from the left, those after the first two more. A word
/// that is longer than a line has one of its own.
pub(super) fn wrapped(indent: usize, sentence: &str) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for word in sentence.split_whitespace() {
        let width = word.chars().count();
        let is_first = text.is_empty();
        if is_first || column + 1 + width > WIDTH {
            let margin = if is_first { indent } else { indent + 2 };
            text.push_str(if is_first { "" } else { "\n" });
            text.push_str(&" ".repeat(margin));
            column = margin;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_wrapped_at_words() {
        assert_eq!(wrapped(2, "unseen:  one\nword"), "  unseen: one word");
        let text = wrapped(4, &"twelve chars ".repeat(20));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(lines[1].starts_with("      twelve"), "{text}");
        assert_eq!(wrapped(0, &"x".repeat(150)).lines().count(), 1);
    }

    #[test]
    fn columns_are_aligned_and_long_names_give_way() {
        let mut table = Table::new(2, &["kernels", "count", "total"]);
        assert!(table.is_empty());
        table.row(["short".into(), "1".into(), "10.0 ms".into()]);
        table.row(["x".repeat(300), "1000".into(), "2 ns".into()]);
        let text = table.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() == WIDTH), "{text}");
        assert!(
            lines[1].starts_with("  short ") && lines[1].ends_with("      1  10.0 ms"),
            "{text}"
        );
        assert!(lines[2].contains("x…x"), "{text}");
    }
}
