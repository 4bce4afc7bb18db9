//! Kernel names as a person reads them.

/// Above this the demangled form of a C++ name only tells what its middle is made of.
const DEMANGLED_BYTES_MAX: usize = 4096;

/// The name demangled (C++, Rust), without the argument list, cut in the middle to `width` columns.
pub(crate) fn shown(name: &str, width: usize) -> String {
    cut(&demangled(name), width)
}

fn demangled(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    if name.starts_with("_Z") {
        let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
        let symbol = cpp_demangle::BorrowedSymbol::new(name.as_bytes());
        if let Some(text) =
            symbol.ok().and_then(|symbol| symbol.demangle_with_options(&options).ok())
            && text.len() <= DEMANGLED_BYTES_MAX
        {
            return text;
        }
    }
    name.to_owned()
}

/// The text with dots for what would steer a terminal: control characters, and those that turn the
/// direction of writing.
pub(crate) fn plain(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '.' } else { c }).collect()
}

/// At most `width` characters of the plain text: begin and end say more than either alone.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let plain: Vec<char> = plain(text).chars().collect();
    if plain.len() <= width {
        return plain.into_iter().collect();
    }
    let kept = width.saturating_sub(1);
    let (head, tail) = (kept.div_ceil(2), kept / 2);
    let (head, tail) = (&plain[..head], &plain[plain.len() - tail..]);
    head.iter().chain(['…'].iter()).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled_and_cut_in_the_middle() {
        for (name, expect) in [
            ("storm", "storm"),
            ("_Z11scaleKernelIfEvPT_i", "scaleKernel<float>"),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            ("_Zbroken", "_Zbroken"),
            ("with\nnewline", "with.newline"),
            ("\u{1b}[31m\u{9b}2J\u{202e}x\u{7f}", ".[31m.2J.x."),
            ("abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmno…wxyz0123456789"),
        ] {
            assert_eq!(shown(name, 30), expect);
        }
        assert_eq!(cut("abcdef", 0), "…");
    }
}
