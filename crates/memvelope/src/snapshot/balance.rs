//! The balance of a device: what is used, term by term, so that the sum is what the device plane
//! says.
//!
//! weights + KV cache + activations + graphs + withheld + libraries + rounding + awaiting-stream
//! + cached + context + recorder + opening balance + other processes + unaccounted ≡ total − free
//!
//! Every line but [`TermName::Unaccounted`] is counted or measured by itself, with an origin and an
//! error bar; `unaccounted` is what is left, and signed: negative means that something is counted
//! twice. All numbers of a balance are of one epoch: see [`Balance::is_torn`].

use super::{Origin, TermName};
use crate::units::{Bytes, Nanos};
use serde::{Deserialize, Serialize};

/// What is used on a device, and by what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balance {
    /// When the planes were read, on the recorder's clock.
    pub time_ns: Nanos,
    /// Whether driver or allocator moved memory in every try to read the planes together: the lines
    /// then belong to different moments, and each has an error bar of what moved.
    pub is_torn: bool,
    /// total − free, as the device plane says.
    pub used_bytes: Bytes,
    /// The terms, in the order of [`TermName::ALL`]; their bytes add up to `used_bytes` exactly. A
    /// term that is absent has no line, which is not zero.
    pub lines: Vec<Line>,
    /// What somebody should know who relies on it.
    pub findings: Vec<Finding>,
}

/// One term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Which.
    pub term: TermName,
    /// Bytes in use; signed because [`TermName::Unaccounted`] is.
    pub bytes: i64,
    /// How far off that may be, in either direction.
    pub error_bytes: Bytes,
    /// Where the number comes from.
    pub origin: Origin,
    /// What it is made of, where that is told apart (libraries by name, a context by what made it
    /// grow). Parts add up to `bytes`.
    pub parts: Vec<Part>,
    /// One sentence on how it came about.
    pub note: String,
}

/// A part of a term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Of what.
    pub name: String,
    /// Bytes, signed.
    pub bytes: i64,
}

/// Something that a balance noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// Bytes that it is about, signed; 0 where it is not about bytes.
    pub bytes: i64,
    /// What was seen, in a sentence.
    pub text: String,
    /// What to do about it.
    pub action: String,
}

/// Kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// `unaccounted` is negative by more than the error bars: something is counted twice.
    CountedTwice,
    /// `unaccounted` is above a hundredth of what is used, error bars included.
    Unexplained,
    /// `unaccounted` grew from snapshot to snapshot.
    UnexplainedGrows,
    /// Frees of allocations that were never seen.
    UntrackedFrees,
    /// Allocations went unseen, or could not be entered.
    Unseen,
    /// The planes could not be read in one epoch.
    Torn,
    /// The framework plane has bytes that the driver plane never handed out.
    PlanesDisagree,
    /// CUPTI's own memory records tell of other allocations than the callbacks did.
    RecordsDisagree,
    /// Much is cached that no request of the recent ones would fit into.
    Fragmented,
}

impl Balance {
    /// The line of a term; `None` if it is absent.
    #[must_use]
    pub fn line(&self, term: TermName) -> Option<&Line> {
        self.lines.iter().find(|line| line.term == term)
    }

    /// Signed bytes that nothing explains; `None` where the device plane could not be asked.
    #[must_use]
    pub fn unaccounted_bytes(&self) -> Option<i64> {
        self.line(TermName::Unaccounted).map(|line| line.bytes)
    }
}
