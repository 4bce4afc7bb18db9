//! Tidy guards the house: rules about the tree that no compiler checks. Each rule is a function
//! from sources to violations, so that each is also tested on something that breaks it.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first thing that is amiss")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};

/// Who may import whom: the arrows of ARCHITECTURE.md. `base` is importable by all.
const BASE: &[&str] = &["units", "error", "config", "event", "curve", "fork", "framework"];
const EDGES: &[(&str, &[&str])] = &[
    ("source", &[]),
    ("ledger", &[]),
    ("timeline", &[]),
    ("snapshot", &["ledger", "timeline"]),
    ("model", &[]),
    ("engine", &["model"]),
    ("envelope", &["snapshot", "model", "engine"]),
    ("admission", &[]),
    // Not built yet; their arrows are fixed all the same.
    ("flight", &["snapshot"]),
    ("triage", &["snapshot"]),
    ("export", &["snapshot"]),
    (
        "runtime",
        &[
            "source",
            "ledger",
            "timeline",
            "snapshot",
            "model",
            "engine",
            "envelope",
            "admission",
            "export",
        ],
    ),
];

/// Where `unsafe` may stand. A trailing slash means the folder.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/cupti-sys/",
    "crates/memvelope/src/source/",
    "crates/memvelope/src/flight/ring.rs",
    // One C call: a gate must know that it is in a forked child, as a session must.
    "crates/memvelope/src/fork.rs",
    "crates/memvelope/src/runtime/session.rs",
    // Texts and places that other copies of memvelope pass by address.
    "crates/memvelope/src/runtime/table.rs",
    // The summary file is mapped; what is in it is accessed as atomics by safe code.
    "crates/memvelope/src/export/summary/map.rs",
    "crates/memvelope-inject/",
    "crates/memvelope-sim/",
    // Tests alone: `fork`, and an allocator that counts.
    "crates/memvelope/tests/gate_alloc.rs",
    "crates/memvelope/tests/gate_fork.rs",
    // Kernel launches and raw driver allocations through cudarc: the demo's workload, not the library.
    "crates/memvelope-cli/src/demo/device.rs",
    // `run` starts a program with the signal mask that it was itself started with, and dies as it did.
    "crates/memvelope-cli/src/run/os.rs",
    "python/src/",
    // Workloads, probes and the collector of the GPU lane: they call CUDA and CUPTI themselves.
    "gpu/src/",
    // Outsiders that load a driver themselves in order to compare it with us.
    "crates/memvelope/tests/",
];

/// Generated, not written by hand.
const GENERATED: &[&str] =
    &["crates/cupti-sys/src/bindings.rs", "Cargo.lock", "docs/snapshot-format.md"];
const LINES_MAX: usize = 600;
const SHIPPED: &[&str] = &[
    "crates/cupti-sys",
    "crates/memvelope",
    "crates/memvelope-inject",
    "crates/memvelope-cli",
    "python",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files of the tree, relative to the root, without build output and hidden folders.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let skipped = name.starts_with('.')
                || name.starts_with("target")
                || ["node_modules", "__pycache__", "_libs", "out", "gpu-bundle", "build", "dist"]
                    .contains(&name.as_str())
                || name.ends_with(".egg-info");
            match entry.file_type().unwrap() {
                kind if skipped && (kind.is_dir() || name.starts_with('.')) => {}
                kind if kind.is_dir() => walk(&path, found),
                _ => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.retain(|path| {
        path.extension().is_some_and(|e| extensions.contains(&e.to_string_lossy().as_ref()))
    });
    let relative = |path: PathBuf| path.strip_prefix(root()).unwrap().to_owned();
    let mut found: Vec<_> = found.into_iter().map(relative).collect();
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn slashed(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}

fn assert_clean(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

// ---------------------------------------------------------------- imports

/// Collects the top-level modules of this crate that a file names, tests left out.
#[derive(Default)]
struct Imports {
    modules: BTreeSet<String>,
}

fn is_cfg_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("cfg") && a.parse_args::<syn::Ident>().is_ok_and(|ident| ident == "test")
    })
}

fn use_roots(tree: &syn::UseTree, after_crate: bool, found: &mut BTreeSet<String>) {
    match tree {
        syn::UseTree::Path(path) if after_crate => drop(found.insert(path.ident.to_string())),
        syn::UseTree::Path(path) if path.ident == "crate" => use_roots(&path.tree, true, found),
        syn::UseTree::Name(name) if after_crate => drop(found.insert(name.ident.to_string())),
        syn::UseTree::Rename(name) if after_crate => drop(found.insert(name.ident.to_string())),
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|item| use_roots(item, after_crate, found));
        }
        _ => {}
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_cfg_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_cfg_test(&item.attrs) {
            use_roots(&item.tree, false, &mut self.modules);
        }
    }
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter();
        if segments.next().is_some_and(|first| first.ident == "crate")
            && let Some(module) = segments.next()
        {
            self.modules.insert(module.ident.to_string());
        }
        visit::visit_path(self, path);
    }
}

/// Violations of the import table by a file of module `module`.
fn import_violations(file: &str, module: &str, source: &str) -> Vec<String> {
    let mut imports = Imports::default();
    imports.visit_file(&syn::parse_file(source).unwrap_or_else(|e| panic!("{file}: {e}")));
    // `crate::Error` and `crate::Result` are re-exports of base.
    let reexported = |name: &str| name.chars().next().is_some_and(char::is_uppercase);
    let allowed: &[&str] = match EDGES.iter().find(|(name, _)| *name == module) {
        Some((_, edges)) => edges,
        None if BASE.contains(&module) => &[],
        None => return vec![format!("{file}: module `{module}` is not in the import table")],
    };
    let is_fine = |name: &&String| {
        *name == module
            || BASE.contains(&name.as_str())
            || reexported(name)
            || allowed.contains(&name.as_str())
    };
    let forbidden = imports.modules.iter().filter(|name| !is_fine(name));
    forbidden.map(|name| format!("{file}: `{module}` may not import `{name}`")).collect()
}

#[test]
fn imports_follow_the_arrows() {
    let prefix = "crates/memvelope/src/";
    let mut violations = Vec::new();
    for path in files(&["rs"]) {
        let file = slashed(&path);
        let Some(rest) = file.strip_prefix(prefix) else { continue };
        let module = rest.split('/').next().unwrap().trim_end_matches(".rs");
        if module != "lib" {
            violations.extend(import_violations(&file, module, &read(&path)));
        }
    }
    assert_clean(violations);
}

#[test]
fn import_rule_catches_what_it_should() {
    let check = |source: &str| import_violations("f.rs", "ledger", source).len();
    assert_eq!(check("use crate::event::Event; use crate::{units::Bytes, error::Error};"), 0);
    assert_eq!(check("use crate::runtime::Session;"), 1);
    assert_eq!(check("use crate::{event::Event, snapshot};"), 1);
    assert_eq!(check("fn f() { crate::admission::x(); }"), 1);
    assert_eq!(check("#[cfg(test)] mod tests { use crate::runtime::Session; }"), 0);
    assert_eq!(import_violations("f.rs", "novel", "").len(), 1);
}

// ---------------------------------------------------------------- unsafe

#[derive(Default)]
struct Unsafe {
    found: usize,
}

impl<'ast> Visit<'ast> for Unsafe {
    fn visit_expr_unsafe(&mut self, node: &'ast syn::ExprUnsafe) {
        self.found += 1;
        visit::visit_expr_unsafe(self, node);
    }
    fn visit_item_impl(&mut self, node: &'ast syn::ItemImpl) {
        self.found += usize::from(node.unsafety.is_some());
        visit::visit_item_impl(self, node);
    }
    fn visit_signature(&mut self, node: &'ast syn::Signature) {
        self.found += usize::from(node.unsafety.is_some());
        visit::visit_signature(self, node);
    }
    fn visit_attribute(&mut self, node: &'ast syn::Attribute) {
        // `#[unsafe(no_mangle)]`, and lint levels that would let unsafe in unseen.
        let text = match &node.meta {
            syn::Meta::List(list) => {
                format!("{}({})", list.path.segments[0].ident, list.tokens)
            }
            other => other.path().segments[0].ident.to_string(),
        };
        self.found += usize::from(text.starts_with("unsafe") || text.contains("unsafe_code"));
    }
}

fn unsafe_count(file: &str, source: &str) -> usize {
    let mut visitor = Unsafe::default();
    visitor.visit_file(&syn::parse_file(source).unwrap_or_else(|e| panic!("{file}: {e}")));
    visitor.found
}

#[test]
fn unsafe_stays_in_quarantine() {
    let mut violations = Vec::new();
    for path in files(&["rs"]) {
        let file = slashed(&path);
        let allowed =
            UNSAFE_ALLOWED.iter().any(|a| file == *a || (a.ends_with('/') && file.starts_with(a)));
        if !allowed && unsafe_count(&file, &read(&path)) > 0 {
            violations.push(format!("{file}: unsafe outside of its quarantine"));
        }
    }
    assert_clean(violations);
}

#[test]
fn unsafe_rule_catches_what_it_should() {
    let check = |source: &str| unsafe_count("f.rs", source);
    assert_eq!(check("fn f() { let s = \"unsafe\"; }"), 0);
    assert_eq!(check("fn f() { unsafe { g() } }"), 1);
    assert_eq!(check("unsafe fn f() {}"), 1);
    assert_eq!(check("unsafe impl Send for S {}"), 1);
    assert_eq!(check("#![allow(unsafe_code)]"), 1);
    assert_eq!(check("#[unsafe(no_mangle)] extern \"C\" fn f() {}"), 1);
}

/// `extern "C"` functions with a body are entered by foreign code: a panic may not leave them.
#[derive(Default)]
struct CEntries {
    bare: Vec<String>,
}

impl CEntries {
    fn judge(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let foreign = signature.abi.as_ref().is_some_and(|abi| {
            abi.name.as_ref().is_none_or(|name| ["C", "system"].contains(&name.value().as_str()))
        });
        let mut contains = Calls::default();
        contains.visit_block(block);
        if foreign && !contains.catches {
            self.bare.push(signature.ident.to_string());
        }
    }
}

#[derive(Default)]
struct Calls {
    catches: bool,
}

impl<'ast> Visit<'ast> for Calls {
    fn visit_ident(&mut self, ident: &'ast syn::Ident) {
        // `guarded` is what wrappers around `catch_unwind` are called in this project.
        self.catches |= ident == "catch_unwind" || ident == "guarded";
    }
}

impl<'ast> Visit<'ast> for CEntries {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_cfg_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.judge(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }
    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.judge(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

fn bare_c_entries(file: &str, source: &str) -> Vec<String> {
    let mut visitor = CEntries::default();
    visitor.visit_file(&syn::parse_file(source).unwrap_or_else(|e| panic!("{file}: {e}")));
    visitor
        .bare
        .into_iter()
        .map(|name| format!("{file}: `{name}` does not catch unwinds"))
        .collect()
}

#[test]
fn every_c_entry_catches_unwinds() {
    let mut violations = Vec::new();
    for path in files(&["rs"]) {
        let file = slashed(&path);
        let ours = ["crates/memvelope/src/", "crates/memvelope-inject/src/", "python/src/"];
        if ours.iter().any(|prefix| file.starts_with(prefix)) {
            violations.extend(bare_c_entries(&file, &read(&path)));
        }
    }
    assert_clean(violations);
}

#[test]
fn c_entry_rule_catches_what_it_should() {
    assert_eq!(bare_c_entries("f.rs", "extern \"C\" fn f() { g(); }").len(), 1);
    assert_eq!(bare_c_entries("f.rs", "extern \"C\" fn f() { catch_unwind(|| g()); }").len(), 0);
    assert_eq!(bare_c_entries("f.rs", "fn f() { g(); }").len(), 0);
}

// ---------------------------------------------------------------- sizes, paths, keys, dependencies

#[test]
fn hand_written_files_are_short() {
    let mut violations = Vec::new();
    for path in files(&["rs", "py", "pyi", "cu", "h", "c", "sh", "toml", "md"]) {
        let file = slashed(&path);
        let lines = read(&path).lines().count();
        if !GENERATED.contains(&file.as_str()) && lines > LINES_MAX {
            violations.push(format!("{file}: {lines} lines, at most {LINES_MAX}"));
        }
    }
    assert_clean(violations);
}

/// Words in backticks that look like a path of this tree: with a slash or a file ending.
fn named_paths(text: &str) -> Vec<String> {
    let endings = [".rs", ".md", ".toml", ".py", ".cu", ".ptx", ".h"];
    let looks_like = |word: &&str| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        let is_path = word.ends_with('/') || endings.iter().any(|ending| word.ends_with(ending));
        plain && is_path && !word.starts_with("..") && !word.starts_with('/')
    };
    text.split('`').skip(1).step_by(2).filter(looks_like).map(str::to_owned).collect()
}

#[test]
fn paths_in_the_documents_exist() {
    let mut violations = Vec::new();
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        for path in named_paths(&read(Path::new(document))) {
            let below_library = root().join("crates/memvelope/src").join(&path);
            if !root().join(&path).exists() && !below_library.exists() {
                violations.push(format!("{document}: `{path}` does not exist"));
            }
        }
    }
    assert_clean(violations);
}

#[test]
fn path_rule_catches_what_it_should() {
    let text = "see `crates/x/y.rs`, `a b`, `fn()`, `cuda/` and `../shared/x.md`";
    assert_eq!(named_paths(text), ["crates/x/y.rs", "cuda/"]);
}

/// Words that are shaped like one of our keys.
fn keys_in(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.split(|c: char| !is_word(c))
        .filter(|word| word.starts_with("MEMVELOPE_") && word.len() > 10 && !word.ends_with('_'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_key_is_in_the_config_table() {
    let known: BTreeSet<_> = memvelope::config::KEYS.iter().map(|key| key.name).collect();
    let mut violations = Vec::new();
    for path in files(&["rs", "py", "sh", "md", "toml"]) {
        let file = slashed(&path);
        // Tests of the misspelt-key warning have to misspell keys.
        if ["tests/tidy.rs", "crates/memvelope/src/config.rs"].contains(&file.as_str()) {
            continue;
        }
        for key in keys_in(&read(&path)) {
            if !known.contains(key.as_str()) && !key.contains("TYPO") {
                violations.push(format!("{file}: {key} is not in config.rs"));
            }
        }
    }
    assert_clean(violations);
}

#[test]
fn no_shipped_crate_depends_on_the_simulator() {
    let mut violations = Vec::new();
    for package in SHIPPED {
        let manifest = read(&Path::new(package).join("Cargo.toml"));
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        if dependencies.contains("memvelope-sim") {
            violations.push(format!("{package}/Cargo.toml depends on memvelope-sim"));
        }
    }
    assert_clean(violations);
}

/// Dependencies of the core crate as an embedder gets them: few, and each known to us.
#[test]
fn the_core_crate_stays_light() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "memvelope", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let packages: BTreeSet<_> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    assert!(packages.len() > 5, "the list was not read: {packages:?}");
    // 33 with proc-macro machinery on the day this was set; a newcomer must be worth it.
    assert!(packages.len() <= 36, "{} packages: {packages:?}", packages.len());
    for heavy in ["tokio", "cudarc", "clap", "regex", "chrono", "rand"] {
        assert!(!packages.contains(heavy), "{heavy} in the core crate's tree");
    }
}

fn host() -> String {
    let output = std::process::Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

/// Our minimum Rust version is not below that of any dependency we ship.
#[test]
fn dependencies_fit_the_minimum_rust_version() {
    let output = std::process::Command::new(env!("CARGO"))
        // This platform's packages only: a fresh machine has not fetched the others'.
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &host()])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let version = |text: &str| {
        let mut parts = text.split('.').flat_map(str::parse::<u32>);
        [(); 3].map(|()| parts.next().unwrap_or(0))
    };
    let packages = metadata["packages"].as_array().unwrap();
    let ours = packages.iter().find(|p| p["name"] == "memvelope").unwrap();
    let ours = version(ours["rust_version"].as_str().unwrap());
    let too_new = packages.iter().filter_map(|p| {
        let needs = p["rust_version"].as_str()?;
        (version(needs) > ours).then(|| format!("{} needs Rust {needs}", p["name"]))
    });
    assert_clean(too_new.collect());
}
