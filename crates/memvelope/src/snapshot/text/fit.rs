//! The answer to "would it fit?" as text.

use super::lines::wrapped;
use crate::snapshot::{Fit, FitSource};
use std::fmt::Write as _;

/// The answer in sentences of at most `width` columns, and what would help, the largest first: `+`
/// is enough by itself, `-` is not, or not for certain.
#[must_use]
pub fn fit_text(fit: &Fit, width: usize) -> String {
    let mut out = String::new();
    let mut say = |indent, sentence: &str| {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{}", wrapped(indent, sentence, width.max(80)));
    };
    match fit {
        Fit::Yes { from, taken_bytes, largest_fit_bytes } => {
            let from = match from {
                FitSource::Cached => "a free block of the allocator's cache",
                FitSource::Free => "free memory of the device",
                FitSource::AfterRelease => {
                    "free memory of the device, after the allocator gave back what it caches (it \
                     does so by itself, and it is slow)"
                }
                FitSource::Pool => "what the pool holds already",
            };
            say(2, &format!("yes: {taken_bytes} would be taken from {from}"));
            say(2, &format!("at most {largest_fit_bytes} would fit"));
        }
        Fit::No { because, needed_bytes, largest_fit_bytes, remedies } => {
            let because = because.strip_prefix("no, ").unwrap_or(because);
            say(2, &format!("no, {because}"));
            say(2, &format!("needed: {needed_bytes}; at most {largest_fit_bytes} would fit"));
            for remedy in remedies {
                // What is not enough says so in its sentence.
                let sign = if remedy.is_enough { '+' } else { '-' };
                say(4, &format!("{sign} {}", remedy.text));
            }
        }
        Fit::Unknown { missing } => say(2, &format!("nobody can tell: {missing}")),
    }
    out
}
