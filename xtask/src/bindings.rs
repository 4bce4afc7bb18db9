//! `cargo xtask bindings [--check]`: what the headers say, for `cupti-sys`'s tests to hold its
//! tables against.
//!
//! What to bind is read from those tables, so that nothing is listed twice. Documentation comments
//! stay out: the headers' text is not ours to publish.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};

use crate::pip;

/// Types that `HEAD` declares. Opaque handles are `void *` to our tables, so they must be to the
/// bindings, for types to be equal. A kernel's cache configuration is a bit field of one byte that
/// we do not read, and bit fields would need 500 lines of helpers.
const DECLARED: &[&str] = &[
    "CUcontext",
    "CUstream",
    "CUpti_SubscriberHandle",
    "CUpti_Activity",
    "CUpti_ActivityKernel13__bindgen_ty_1.*",
];

/// Structs whose inside is nobody's business here: without this, one graph node would bring in all
/// kinds of nodes.
const OPAQUE: &str = "CUDA_(KERNEL|MEMCPY|MEMSET|HOST|CHILD|EVENT|EXT_SEM|BATCH|FABRIC).*\
                      |CUexecAffinityParam.*|CUctxCreateParams.*";

/// How the names of the driver's functions begin that the table has.
const DRIVER_FUNCTIONS: &[&str] = &[
    "cuArray",
    "cuCtx",
    "cuDevice",
    "cuExternalMemory",
    "cuGraph",
    "cuIpc",
    "cuKernel",
    "cuLaunch",
    "cuLibrary",
    "cuMem",
    "cuMipmappedArray",
    "cuModule",
    "cuMulticast",
    "cuStream",
];

const HEAD: &str = "\
// Made by `cargo xtask bindings`. Do not edit.
#![allow(
    clippy::all,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rust_2018_idioms,
    unsafe_op_in_unsafe_fn,
    unreachable_pub,
    reason = \"generated: the names and shapes are the C headers'\"
)]

pub type CUcontext = *mut core::ffi::c_void;
pub type CUstream = *mut core::ffi::c_void;
pub type CUpti_SubscriberHandle = *mut core::ffi::c_void;
pub type CUpti_Activity = core::ffi::c_void;
pub type CUpti_ActivityKernel13__bindgen_ty_1 = u8;
";

/// Regenerates the bindings; with `check`, compares them with the committed ones instead.
///
/// # Errors
/// Where a tool cannot be had or fails, or where the committed bindings are stale.
pub(crate) fn bindings(check: bool) -> Result<()> {
    let crate_dir = pip::root().join("crates/cupti-sys/src");
    let wanted = Wanted::read(&crate_dir)?;
    let raw = bindgen(&wanted)?;
    let text = format(&format!("{HEAD}\n{}", without_methods(&wanted.strip_callback_ids(&raw))))?;
    ensure!(
        !text.contains("/*") && !text.contains("///"),
        "a header's comment got into the output"
    );
    let committed = crate_dir.join("bindings.rs");
    pip::settle(check, &committed, &text, "run `cargo xtask bindings` and look at the diff")
}

/// What the tables name.
struct Wanted {
    /// Record structs and enums.
    types: BTreeSet<String>,
    /// CUPTI's functions.
    functions: BTreeSet<String>,
    /// Driver and runtime functions whose callback ids we know.
    callbacks: BTreeSet<String>,
    /// Parameter blocks that we read.
    params: BTreeSet<String>,
}

impl Wanted {
    fn read(crate_dir: &Path) -> Result<Self> {
        let words = |file: &str, prefixes: &[&str]| -> Result<BTreeSet<String>> {
            let path = crate_dir.join(file);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read the table {}", path.display()))?;
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let words =
                code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
            let longer =
                |word: &str, prefix: &str| word.len() > prefix.len() && word.starts_with(prefix);
            let named = words.filter(|word| prefixes.iter().any(|prefix| longer(word, prefix)));
            let found: BTreeSet<String> = named.map(str::to_owned).collect();
            ensure!(!found.is_empty(), "{} names nothing like {prefixes:?}", path.display());
            Ok(found)
        };
        let structs = ["CUpti_", "CUmem", "CUmulticast", "CUgraph", "CUDA_"];
        let mut types = words("layout.rs", &structs)?;
        types.extend(words("numbers.rs", &["CUpti_", "CUptiResul"])?);
        types.insert("CUpti_SubscriberParams".to_owned());
        let named = words("driver.rs", DRIVER_FUNCTIONS)?;
        let (mut params, callbacks): (BTreeSet<_>, BTreeSet<_>) =
            named.into_iter().partition(|name| name.ends_with("_params"));
        // The per-thread-stream twin of a function shares its table; the tests compare the two.
        let twins = callbacks.iter().filter(|name| name.ends_with("_ptsz"));
        params.extend(twins.map(|name| format!("{name}_params")).filter(|name| {
            // Arguments of launches, copies and memsets are never read.
            !["cuLaunch", "cuMemcpy", "cuMemset"].iter().any(|prefix| name.starts_with(prefix))
        }));
        let mut callbacks = callbacks;
        callbacks.extend(words("runtime.rs", &["cuda", "__cuda"])?);
        Ok(Self { types, functions: words("functions.rs", &["cupti"])?, callbacks, params })
    }

    fn allowlist(&self) -> Vec<String> {
        let either = |names: &BTreeSet<String>| {
            names.iter().map(String::as_str).collect::<Vec<_>>().join("|")
        };
        vec![
            "--allowlist-function".to_owned(),
            either(&self.functions),
            "--allowlist-type".to_owned(),
            format!(
                "{}|CUpti_driver_api_trace_cbid_enum|CUpti_runtime_api_trace_cbid_enum",
                either(&self.types)
            ),
            "--allowlist-type".to_owned(),
            either(&self.params),
        ]
    }

    /// bindgen takes an enum whole: of 1,400 callback ids we keep those that the table names.
    fn strip_callback_ids(&self, raw: &str) -> String {
        const IDS: [&str; 2] =
            ["pub const CUPTI_DRIVER_TRACE_CBID_", "pub const CUPTI_RUNTIME_TRACE_CBID_"];
        let mut kept = String::new();
        let mut dropping = false;
        for line in raw.lines() {
            if let Some(rest) = IDS.iter().find_map(|id| line.strip_prefix(id)) {
                dropping =
                    !rest.split(':').next().is_some_and(|name| self.callbacks.contains(name));
            }
            if !dropping {
                kept.push_str(line);
                kept.push('\n');
            }
            // A constant ends with its semicolon, on the next line where the name is long.
            dropping &= !line.ends_with(';');
        }
        kept
    }
}

fn bindgen(wanted: &Wanted) -> Result<String> {
    let program = pip::bindgen()?;
    let wheels = pip::wheels("headers", pip::HEADERS)?;
    // The libclang wheel carries no compiler headers (stddef.h …); the C compiler does.
    let compiler_headers = pip::run(Command::new("cc").arg("-print-file-name=include"))?;
    let mut command = Command::new(program);
    command.env("LIBCLANG_PATH", wheels.join("clang/native"));
    command.arg(pip::root().join("cuda/wrapper.h"));
    // Constants, not Rust enums: a number from a newer library must stay a number.
    command.args(["--no-doc-comments", "--default-enum-style", "consts", "--no-prepend-enum-name"]);
    // One `Result` per symbol. Never `--dynamic-link-require-all`: older libraries lack some.
    command.args(["--dynamic-loading", "Headers", "--use-core", "--formatter", "prettyplease"]);
    command.args([
        "--no-layout-tests",
        "--no-derive-debug",
        "--rust-target",
        "1.88",
        "--rust-edition",
        "2024",
    ]);
    command.args(["--disable-header-comment"]);
    command.args(wanted.allowlist());
    command.args(["--blocklist-type", &DECLARED.join("|"), "--opaque-type", OPAQUE]);
    command.args(["--", "-isystem", &compiler_headers, "-isystem"]);
    command.arg(wheels.join("nvidia/cu13/include"));
    pip::run(&mut command)
}

/// Leaves out the methods of the table of functions: they panic where a symbol is missing, and the
/// tests need the types only.
fn without_methods(text: &str) -> String {
    let mut inside = false;
    let keep = |line: &&str| {
        inside |= *line == "impl Headers {";
        let kept = !inside;
        inside &= *line != "}";
        kept
    };
    text.lines().filter(keep).collect::<Vec<_>>().join("\n")
}

/// Formats as the workspace does, so that `cargo fmt --check` agrees.
fn format(text: &str) -> Result<String> {
    let scratch = pip::cache().join("bindings.rs");
    fs::write(&scratch, text).with_context(|| format!("cannot write {}", scratch.display()))?;
    let rustfmt = env::var_os("RUSTFMT").unwrap_or_else(|| "rustfmt".into());
    pip::run(
        Command::new(rustfmt)
            .args(["--edition", "2024", "--config-path"])
            .arg(pip::root())
            .arg(&scratch),
    )?;
    fs::read_to_string(&scratch).with_context(|| format!("cannot read {}", scratch.display()))
}
