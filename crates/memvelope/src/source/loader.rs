//! Loading is a value: every candidate that was tried, what happened to it, and what to do.

use serde::Serialize;

/// How the search for one library went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Plain name: `libcuda`, `libcupti`, `libnvidia-ml`.
    pub library: &'static str,
    /// Every candidate in the order tried.
    pub candidates: Vec<Candidate>,
    /// The path that is in use, as the dynamic loader names it.
    pub chosen: Option<String>,
    /// Version as the library itself states it, once it can be asked.
    pub version: Option<String>,
    /// Whether it is memvelope's simulator.
    pub simulated: bool,
    /// Functions of our table that it lacks.
    pub missing_symbols: Vec<&'static str>,
    /// What to do about a failure or a gap; empty when all is well.
    pub hint: String,
}

/// One place that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Path or SONAME.
    pub path: String,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// In use.
    Loaded,
    /// The dynamic loader refused it: its words.
    Failed(String),
    /// Not tried: why.
    Skipped(String),
}
