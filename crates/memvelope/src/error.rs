//! One variant per operation that can fail: what was attempted, with what, why it failed, and what
//! to do next.

use std::path::PathBuf;

/// Result of this crate's fallible operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. Logged or returned, never both.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No candidate for a library could be opened.
    #[error("loading {library} failed; tried {}\nhint: {hint}", tried_text(.tried))]
    LoadLibrary {
        /// Which library, by its plain name (`libcuda`).
        library: &'static str,
        /// Every candidate and what happened to it, in order.
        tried: Vec<(String, String)>,
        /// What to do next.
        hint: String,
    },
    /// A library lacks a function that the operation needs.
    #[error("{library} has no function {symbol}\nhint: {hint}")]
    MissingSymbol {
        /// Which library.
        library: &'static str,
        /// Which function.
        symbol: &'static str,
        /// What to do next.
        hint: &'static str,
    },
    /// A CUDA driver call returned an error.
    #[error("{call} returned {code} ({name})")]
    DriverCall {
        /// The function.
        call: &'static str,
        /// `CUresult` as a number; unknown codes are kept as they are.
        code: u32,
        /// Its name, or `unknown`.
        name: &'static str,
    },
    /// A CUPTI call returned an error.
    #[error("{call} returned {code} ({name})\nhint: {hint}")]
    CuptiCall {
        /// The function.
        call: &'static str,
        /// `CUptiResult` as a number.
        code: u32,
        /// Its name, or `unknown`.
        name: &'static str,
        /// What to do next.
        hint: String,
    },
    /// An NVML call failed.
    #[error("NVML: {call} failed: {problem}")]
    NvmlCall {
        /// What was asked.
        call: &'static str,
        /// NVML's words.
        problem: String,
    },
    /// A session is already running in this process.
    #[error(
        "a memvelope session is already running in this process (there is one per process)\nhint: use the running session, or stop it first"
    )]
    SessionExists,
    /// A thread of ours could not be started.
    #[error("starting the thread {thread} failed")]
    StartThread {
        /// Its name.
        thread: &'static str,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The drain thread did not finish in time.
    #[error("flushing took longer than {waited_ms} ms; what was recorded until then is kept")]
    FlushTimeout {
        /// How long we waited.
        waited_ms: u64,
    },
    /// A configuration value is unusable.
    #[error("{key}={value} is not usable: expected {expected}")]
    ReadConfig {
        /// The key, e.g. `MEMVELOPE_BUFFER_BYTES`.
        key: String,
        /// The value as given.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// A model description is unusable.
    #[error("model config: field `{field}`: {problem}")]
    ReadModel {
        /// The JSON field, with its path.
        field: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// A model family that this version does not compute exactly.
    #[error(
        "model config: field `{field}` is {found:?}, which this version cannot compute; {}",
        alike(.similar, *.known)
    )]
    UnknownModel {
        /// The JSON field that decided it.
        field: String,
        /// Its value.
        found: String,
        /// Known names that are most like it.
        similar: Vec<&'static str>,
        /// How many are known.
        known: usize,
    },
    /// A local checkpoint is not what its format says.
    #[error("checkpoint {}: `{field}`: {problem}", .path.display())]
    ReadCheckpoint {
        /// The file.
        path: PathBuf,
        /// The tensor and its field, or the part of the file in parentheses.
        field: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// What a caching allocator says of itself does not hold together.
    #[error("allocator snapshot: {place}: {problem}")]
    ReadAllocator {
        /// The segment and the block of it, by number, address and key.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The capacity equation has no room left for a KV cache.
    #[error(
        "nothing is left for the KV cache: total {total_bytes} B, taken by other terms {taken_bytes} B\nhint: {hint}"
    )]
    NoRoom {
        /// Usable total.
        total_bytes: u64,
        /// Sum of all other terms.
        taken_bytes: u64,
        /// What to do next.
        hint: String,
    },
    /// A gate was asked for with arguments that make no sense.
    #[error("gate: {argument}: {problem}")]
    ConfigureGate {
        /// Which argument.
        argument: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// Reading a file failed.
    #[error("reading {} failed", .path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Writing a file failed; nothing stands under its final name.
    #[error("writing {} failed", .path.display())]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// Says a sentence on standard error, after `memvelope: `. What cannot be said is not: the standard
/// library's macro panics when the reader is gone or the disk is full, and from inside the driver's
/// call into us that panic would end the host.
pub fn say(sentence: &dyn std::fmt::Display) {
    use std::io::Write as _;
    // One write, so that sentences of several threads do not mix.
    let line = format!("memvelope: {sentence}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn tried_text(tried: &[(String, String)]) -> String {
    if tried.is_empty() {
        return "nothing (no candidates)".into();
    }
    let lines: Vec<_> = tried.iter().map(|(path, why)| format!("{path} ({why})")).collect();
    lines.join(", ")
}

/// The known names that are most like an unknown one, in words.
fn alike(similar: &[&'static str], known: usize) -> String {
    match similar {
        [] => format!("none of the {known} known architectures is like it"),
        similar => format!("of the {known} known architectures most alike: {}", similar.join(", ")),
    }
}
