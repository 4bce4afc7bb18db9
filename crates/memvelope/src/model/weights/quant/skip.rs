//! Lists of modules that stay as they are.

use super::effort::Effort;
use super::names::{Naming, projection};
use crate::error::Result;
use crate::model::hf_config::{Fields, wrong};
use std::collections::HashSet;

/// Names of one list; real ones have some hundreds, and each is held against each module.
const NAMES_MAX: usize = 1 << 16;
/// Names that are searched for rather than looked up.
pub(super) const SEARCHED_MAX: usize = 1 << 12;
/// Expressions, which take a hundred times their text once they are compiled.
const EXPRESSIONS_MAX: usize = 1 << 10;

/// Modules by name, as `is_layer_skipped` of vLLM 0.32 (`quant_utils.py`) reads such a list.
#[derive(Clone, Debug, Default)]
pub(super) struct Skip {
    pub(super) names: Vec<String>,
    exact: HashSet<String>,
    of_experts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Exact,
    Substring,
    Suffix,
}

impl Skip {
    pub(super) fn new(names: Vec<String>) -> Self {
        let exact = names.iter().cloned().collect();
        let of_experts = names.iter().filter(|name| name.contains("experts")).cloned().collect();
        Self { names, exact, of_experts }
    }

    /// Reads the list at `field`, absent or null is empty; names become the engine's.
    pub(super) fn read(fields: &Fields<'_>, field: &str, naming: &Naming) -> Result<Self> {
        let names = listed(fields, field)?;
        Ok(Self::new(names.into_iter().map(|name| naming.rename(name)).collect()))
    }

    /// As [`Self::read`], of names that are searched for.
    pub(super) fn searched(fields: &Fields<'_>, field: &str, naming: &Naming) -> Result<Self> {
        let skip = Self::read(fields, field, naming)?;
        if skip.names.len() > SEARCHED_MAX {
            let problem = format!("{} names; at most {SEARCHED_MAX} are read", skip.names.len());
            return Err(wrong(fields.path(field), problem));
        }
        Ok(skip)
    }

    /// Whether the module is in the list.
    ///
    /// # Errors
    /// Says so when some parts of a fused module are and some are not.
    pub(super) fn has(
        &self,
        name: &str,
        naming: Option<&Naming>,
        mode: Mode,
        effort: &Effort,
    ) -> std::result::Result<bool, String> {
        let listed = |name: &str| match mode {
            Mode::Exact => self.exact.contains(name),
            Mode::Substring | Mode::Suffix if !effort.search(self.names.len()) => false,
            Mode::Substring => self.names.iter().any(|listed| name.contains(listed.as_str())),
            Mode::Suffix => self.names.iter().any(|listed| {
                name.strip_suffix(listed.as_str())
                    .is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
        };
        if let Some(naming) = naming.filter(|naming| naming.packed(projection(name)).is_some()) {
            return Ok(listed(name) || all_or_none(name, naming, listed)?);
        }
        if mode == Mode::Exact && name.contains("experts") {
            return Ok(effort.search(self.of_experts.len())
                && self.of_experts.iter().any(|listed| listed.contains(name)));
        }
        Ok(listed(name))
    }
}

/// # Errors
/// Says so when there are more expressions than are compiled.
pub(super) fn few_expressions(fields: &Fields<'_>, field: &str, count: usize) -> Result<()> {
    if count <= EXPRESSIONS_MAX {
        return Ok(());
    }
    let problem = format!("more than {EXPRESSIONS_MAX} expressions");
    Err(wrong(fields.path(field), problem))
}

/// Names of a list that is long for good reasons.
pub(super) fn listed<'a>(fields: &Fields<'a>, field: &str) -> Result<Vec<&'a str>> {
    let names = fields.many_texts(field)?;
    if names.len() > NAMES_MAX {
        let problem = format!("{} names; at most {NAMES_MAX} are read", names.len());
        return Err(wrong(fields.path(field), problem));
    }
    Ok(names)
}

/// Whether all parts of a fused module are listed; some and not others is an error.
pub(super) fn all_or_none(
    name: &str,
    naming: &Naming,
    mut listed: impl FnMut(&str) -> bool,
) -> std::result::Result<bool, String> {
    let parts = naming.parts(name).unwrap_or_default();
    let count = parts.iter().filter(|part| listed(part)).count();
    if count != 0 && count != parts.len() {
        return Err("some of its parts are quantised and some are not".into());
    }
    Ok(count != 0)
}
