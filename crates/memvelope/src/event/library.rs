//! Which library asked for an allocation: small numbers for the files that are loaded.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A loaded file, by the order in which it was first met. Means the same for the life of the process.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LibraryId(pub u16);

impl LibraryId {
    /// Nobody looked, or the stack could not be read.
    pub const UNKNOWN: Self = Self(0);
    /// Libraries past the limit of [`Libraries`].
    pub const OTHER: Self = Self(1);
    /// The program itself.
    pub const PROGRAM: Self = Self(2);
}

/// The names behind [`LibraryId`]s. Bounded: those past the limit are [`LibraryId::OTHER`].
#[derive(Debug)]
pub struct Libraries {
    names: Mutex<Vec<String>>,
}

impl Libraries {
    /// Names that are kept: more than any process of this field loads and allocates from.
    pub const MAX: usize = 256;

    const FIXED: [&str; 3] = ["(unknown)", "(other libraries)", "(program)"];

    /// The name of one of the three fixed numbers; any other is unknown here.
    #[must_use]
    pub fn fixed_name(id: LibraryId) -> &'static str {
        let [unknown, ..] = Self::FIXED;
        Self::FIXED.get(usize::from(id.0)).copied().unwrap_or(unknown)
    }

    /// Knows the three fixed ones.
    #[must_use]
    pub fn new() -> Self {
        Self { names: Mutex::new(Self::FIXED.map(String::from).to_vec()) }
    }

    /// The number of a library by its short name (`libnccl`). Takes a lock and may allocate: not for
    /// driver callbacks, which look addresses up in a table made beforehand.
    pub fn intern(&self, name: &str) -> LibraryId {
        let mut names = self.lock();
        let known = names.iter().position(|known| known == name);
        let at = known.unwrap_or_else(|| {
            if names.len() >= Self::MAX {
                return LibraryId::OTHER.0.into();
            }
            names.push(name.to_owned());
            names.len() - 1
        });
        LibraryId(u16::try_from(at).unwrap_or(LibraryId::OTHER.0))
    }

    /// The name of a library.
    #[must_use]
    pub fn name(&self, id: LibraryId) -> String {
        let names = self.lock();
        names.get(usize::from(id.0)).cloned().unwrap_or_else(|| Self::fixed_name(id).into())
    }

    /// Every name, by number.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Libraries {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_once_and_bounded() {
        let libraries = Libraries::new();
        let nccl = libraries.intern("libnccl");
        assert_eq!((nccl, libraries.intern("libnccl")), (LibraryId(3), LibraryId(3)));
        assert_eq!(libraries.name(LibraryId::PROGRAM), "(program)");
        for i in 0..2 * Libraries::MAX {
            libraries.intern(&i.to_string());
        }
        assert_eq!(libraries.intern("late"), LibraryId::OTHER);
        assert_eq!(libraries.name(nccl), "libnccl");
    }
}
