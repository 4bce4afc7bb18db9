//! The envelope as a table for people.

use super::{Envelope, Term, TermName};
use crate::units::{Blocks, Bytes, Tokens};
use std::fmt;

/// Characters of the bar that stands for the total.
const BAR_WIDTH: usize = 24;

impl fmt::Display for Envelope {
    /// One line a term: sign, name, bytes, share of the total, origin, bar, note.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_simulated(f, self.simulated)?;
        let total = self.term(TermName::Total).and_then(|term| term.bytes).unwrap_or(0);
        writeln!(
            f,
            "  {:<16}{:>13}{:>9}  {:<9} {:<BAR_WIDTH$}  note",
            "term", "bytes", "share", "origin", "of total"
        )?;
        for term in &self.terms {
            write_term(f, term, total)?;
        }
        let Blocks(blocks) = self.kv_capacity_blocks;
        let tokens = self.curve.tokens(self.kv_capacity_blocks);
        write!(f, "  {blocks} blocks of {}", self.block_bytes)?;
        match tokens {
            _ if self.curve.is_plain() => {
                write!(f, " ({} tokens each): {tokens}", self.curve.block_tokens())
            }
            // Blocks that hold more than any length do so because nothing more is kept.
            Tokens::MAX => write!(f, ": a sequence of any length"),
            tokens => write!(f, ": a sequence of at most {tokens}"),
        }
    }
}

/// Numbers of a simulated device say so first.
pub(super) fn write_simulated(f: &mut fmt::Formatter<'_>, simulated: bool) -> fmt::Result {
    if simulated { writeln!(f, "SIMULATED: no GPU was asked") } else { Ok(()) }
}

fn write_term(f: &mut fmt::Formatter<'_>, term: &Term, total: i64) -> fmt::Result {
    let sign = match term.name {
        TermName::Total => ' ',
        TermName::KvCapacity => '=',
        TermName::KvCache | TermName::Unaccounted => '.',
        name if name.is_taken() => '-',
        _ => ' ',
    };
    let (bytes, share, bar) = match term.bytes {
        Some(bytes) => {
            let share = bytes as f64 / (total as f64).max(1.0);
            (signed_text(bytes), format!("{:.1} %", share * 100.0), bar(share, BAR_WIDTH))
        }
        None => ("absent".into(), String::new(), String::new()),
    };
    let origin = if term.bytes.is_some() { term.origin.label() } else { "" };
    writeln!(
        f,
        "{sign} {:<16}{bytes:>13}{share:>9}  {origin:<9} {bar:<BAR_WIDTH$}  {}",
        term.name.label(),
        term.note
    )
}

pub(super) fn signed_text(bytes: i64) -> String {
    let size = Bytes(bytes.unsigned_abs());
    if bytes < 0 { format!("-{size}") } else { size.to_string() }
}

/// A bar for a share of the total; something that is there at all has at least a dot.
pub(super) fn bar(share: f64, width: usize) -> String {
    let cells = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    match cells {
        0 if share > 0.0 => ".".into(),
        _ => "#".repeat(cells),
    }
}
