//! `--KEY VALUE` pairs.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The pairs of one command line.
#[derive(Debug)]
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut pairs = BTreeMap::new();
        while let Some(key) = words.next() {
            let key =
                key.strip_prefix("--").with_context(|| format!("expected --KEY, not {key}"))?;
            let value = words.next().with_context(|| format!("--{key} has no value"))?;
            pairs.insert(key.to_owned(), value);
        }
        Ok(Self(pairs))
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(crate) fn number(&self, key: &str, default: u64) -> Result<u64> {
        match self.text(key) {
            None => Ok(default),
            Some(text) => text.parse().with_context(|| format!("--{key} {text} is no number")),
        }
    }

    /// A PTX file of the bundle, or of the checkout.
    pub(crate) fn ptx(&self, file: &str) -> Result<String> {
        let folder = self.text("ptx").map_or_else(|| PathBuf::from("cuda"), PathBuf::from);
        let path = folder.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }
}
