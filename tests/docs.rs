//! Pages that are made from tables in the code say what the code says.
//! `UPDATE_DOCS=1 cargo test -p memvelope-tests --test docs` rewrites them.

#![allow(clippy::unwrap_used, reason = "helpers of tests abort on purpose, as the tests do")]

use memvelope::config::{KEYS, Key, Reader, Shape};
use std::fmt::Write as _;
use std::path::Path;

fn value_text(key: &Key) -> (String, String) {
    match key.shape {
        Shape::Number { unit, min, max, default } => {
            (format!("{min}..={max} {unit}"), default.to_string())
        }
        Shape::Word(words) => (words.join(", "), words[0].to_owned()),
        Shape::Path => ("absolute path".to_owned(), "(unset)".to_owned()),
    }
}

fn configuration_page() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Made from the table in `crates/memvelope/src/config.rs`; edit it there. An unusable value \
         keeps its default and is reported, and so is an unknown `MEMVELOPE_*` key: a typo must not \
         stop a server, and must not go unseen.\n",
    );
    for (title, reader) in [
        ("Library", Reader::Library),
        ("Injection library", Reader::Inject),
        ("Simulated driver", Reader::Simulator),
        ("Tests", Reader::Tests),
    ] {
        let _ =
            write!(page, "\n## {title}\n\n| key | range | default | what |\n|---|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.reader == reader) {
            let (range, default) = value_text(key);
            let _ = writeln!(page, "| `{}` | {range} | {default} | {} |", key.name, key.doc);
        }
    }
    page
}

#[test]
fn configuration_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = configuration_page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/configuration.md is stale; run with UPDATE_DOCS=1");
}

/// The README's Rust example, compiled and run as it stands there.
mod readme_example {
    include!("readme_example.rs");

    #[test]
    fn the_readmes_rust_example_runs() {
        main().unwrap();
    }
}

#[test]
fn the_readmes_rust_example_is_the_one_that_is_run() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(here.join("../README.md")).unwrap();
    let (_, rest) = readme.split_once("```rust\n").expect("a Rust example");
    let (block, _) = rest.split_once("```").expect("an end of the example");
    let path = here.join("readme_example.rs");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, block).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == block, "tests/readme_example.rs is stale; run with UPDATE_DOCS=1");
}
