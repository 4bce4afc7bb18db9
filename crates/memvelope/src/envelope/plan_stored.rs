//! What the files of a checkpoint hold, as far as a plan is concerned.

use crate::model::Layout;
use crate::model::safetensors::{Checkpoint, Reason};
use crate::units::Bytes;
use std::path::Path;

/// What the files of a checkpoint hold, beside what its config says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many files were read; none where only their index was.
    pub files: usize,
    /// Bytes of all tensors in them.
    pub bytes: Bytes,
    /// Of these (or, negative, beyond these), what the engine does for known reasons not load.
    pub not_loaded: i64,
    /// Those reasons, in words.
    pub reasons: Vec<String>,
}

impl Stored {
    /// Reads the headers of the files in a checkpoint's folder, else the size that their index
    /// states. `None` where there is neither; and what somebody should know who relies on it.
    #[must_use]
    pub fn open(folder: &Path, layout: &Layout) -> (Option<Self>, Option<String>) {
        if !Checkpoint::is_in(folder) {
            return (None, None);
        }
        let error = match Checkpoint::open(folder) {
            Ok(checkpoint) => return (Some(Self::of(&checkpoint, layout)), None),
            Err(error) => error,
        };
        match Checkpoint::indexed_bytes(folder) {
            Ok(Some(bytes)) => {
                let warning = format!("the size that the index states is taken: {error}");
                (Some(Self { bytes, ..Self::default() }), Some(warning))
            }
            _ => (None, Some(format!("the weights are computed from the config alone: {error}"))),
        }
    }

    /// What a checkpoint holds beside what the engine builds.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint, layout: &Layout) -> Self {
        let comparison = checkpoint.compare(layout).ok();
        let reasons = comparison.map(|comparison| comparison.reasons).unwrap_or_default();
        let text = |(reason, bytes): (&Reason, &i64)| {
            let size = Bytes(bytes.unsigned_abs());
            format!("{} {size} of {}", if *bytes > 0 { "without" } else { "with" }, name(*reason))
        };
        Self {
            files: checkpoint.files.len(),
            bytes: checkpoint.bytes,
            not_loaded: reasons.values().fold(0, |sum: i64, bytes| sum.saturating_add(*bytes)),
            reasons: reasons.iter().map(text).collect(),
        }
    }

    /// Bytes that the engine loads from them on one GPU.
    pub(super) fn loaded(&self) -> Bytes {
        Bytes(self.bytes.0.saturating_add_signed(self.not_loaded.saturating_neg()))
    }
}

fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::TiedHead => "a tied head stored twice",
        Reason::MissingHead => "a head that is not stored",
        Reason::DraftLayers => "draft layers",
        Reason::Computed => "tables that are computed",
        Reason::WiderDtype => "a dtype wider than served",
        Reason::VocabularyPadding => "padding of the vocabulary",
    }
}
