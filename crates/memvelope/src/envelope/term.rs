//! What a line of the equation is.

use super::{Origin, TermName};
use serde::Serialize;

/// One line of the equation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Term {
    /// Which.
    pub name: TermName,
    /// Bytes; `None` is *absent* (nobody could be asked), which is not zero. Signed because
    /// [`TermName::Unaccounted`] is.
    pub bytes: Option<i64>,
    /// Of these, bytes in use now, as far as they were told apart. Over all terms they add up to
    /// total - free; `None` adds nothing.
    pub in_use_bytes: Option<i64>,
    /// Where the number comes from.
    pub origin: Origin,
    /// One sentence on how it came about.
    pub note: String,
}
