//! Which library asked for an allocation: small numbers for the files that are loaded.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

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

/// Names of the fixed ones.
const FIXED: [&str; 3] = ["(unknown)", "(other libraries)", "(program)"];

/// The names behind [`LibraryId`]s. Bounded: those past the limit are [`LibraryId::OTHER`].
///
/// Lock-free and without allocation, because names are met in driver callbacks.
#[derive(Debug)]
pub struct Libraries {
    places: [Place; Libraries::MAX - FIXED.len()],
}

const WORDS: usize = 6;

/// A name, cut at [`Libraries::NAME_BYTES_MAX`] and filled up with zeroes.
type Packed = [u64; WORDS];

#[derive(Debug)]
struct Place {
    state: AtomicU8,
    name: [AtomicU64; WORDS],
}

const EMPTY: u8 = 0;
/// Somebody writes the name.
const TAKEN: u8 = 1;
const READY: u8 = 2;

/// How often a place that somebody writes is looked at: writing takes a few nanoseconds, unless the
/// thread is suspended in the midst of it, and for that nobody waits.
const LOOKS_MAX: u32 = 1_000;

impl Libraries {
    /// Names that are kept: more than any process of this field loads and allocates from.
    pub const MAX: usize = 256;

    /// Length at which names are cut.
    pub const NAME_BYTES_MAX: usize = WORDS * 8;

    /// The name of one of the three fixed numbers; any other is unknown here.
    #[must_use]
    pub fn fixed_name(id: LibraryId) -> &'static str {
        let [unknown, ..] = FIXED;
        FIXED.get(usize::from(id.0)).copied().unwrap_or(unknown)
    }

    /// Knows the three fixed ones.
    #[must_use]
    pub const fn new() -> Self {
        Self { places: [const { Place::EMPTY }; Self::MAX - FIXED.len()] }
    }

    /// The number of a library by its short name (`libnccl`). [`LibraryId::UNKNOWN`] where another
    /// thread is entering a name and does not come to an end: whether it is this one, nobody can say.
    pub fn intern(&self, name: &str) -> LibraryId {
        let packed = pack(name);
        for (id, place) in (FIXED.len()..).zip(&self.places) {
            match place.is(&packed) {
                Some(true) => return LibraryId(u16::try_from(id).unwrap_or(LibraryId::OTHER.0)),
                Some(false) => {}
                None => return LibraryId::UNKNOWN,
            }
        }
        LibraryId::OTHER
    }

    /// The name of a library.
    #[must_use]
    pub fn name(&self, id: LibraryId) -> String {
        let at = usize::from(id.0);
        let place = at.checked_sub(FIXED.len()).and_then(|at| self.places.get(at));
        let name = match FIXED.get(at) {
            Some(fixed) => Some((*fixed).into()),
            None => place.and_then(Place::text),
        };
        name.unwrap_or_else(|| FIXED[0].into())
    }

    /// Every name, by number.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let is_used = |place: &&Place| place.state.load(Ordering::Acquire) != EMPTY;
        let met = self.places.iter().take_while(is_used);
        let met = met.map(|place| place.text().unwrap_or_else(|| FIXED[0].into()));
        FIXED.into_iter().map(String::from).chain(met).collect()
    }
}

impl Place {
    #[expect(clippy::declare_interior_mutable_const, reason = "what each place begins as")]
    const EMPTY: Self =
        Self { state: AtomicU8::new(EMPTY), name: [const { AtomicU64::new(0) }; WORDS] };

    /// Whether this is the place of the name; an empty one becomes it. `None`: nobody can say.
    fn is(&self, packed: &Packed) -> Option<bool> {
        for _ in 0..LOOKS_MAX {
            match self.state.load(Ordering::Acquire) {
                READY => return Some(self.packed() == *packed),
                EMPTY => {
                    let taken = self.state.compare_exchange(
                        EMPTY,
                        TAKEN,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    );
                    if taken.is_ok() {
                        for (to, word) in self.name.iter().zip(packed) {
                            to.store(*word, Ordering::Relaxed);
                        }
                        self.state.store(READY, Ordering::Release);
                        return Some(true);
                    }
                }
                _ => std::hint::spin_loop(),
            }
        }
        None
    }

    fn packed(&self) -> Packed {
        std::array::from_fn(|at| self.name[at].load(Ordering::Relaxed))
    }

    fn text(&self) -> Option<String> {
        if self.state.load(Ordering::Acquire) != READY {
            return None;
        }
        let bytes: Vec<u8> = self.packed().into_iter().flat_map(u64::to_le_bytes).collect();
        Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
    }
}

fn pack(name: &str) -> Packed {
    let most = name.len().min(Libraries::NAME_BYTES_MAX);
    let cut = (0..=most).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    let mut bytes = [0; Libraries::NAME_BYTES_MAX];
    bytes[..cut].copy_from_slice(&name.as_bytes()[..cut]);
    let mut packed = [0; WORDS];
    for (word, bytes) in packed.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    packed
}

impl Default for Libraries {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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
        let names = libraries.names();
        assert_eq!(names.len(), Libraries::MAX);
        assert_eq!(names[..4], ["(unknown)", "(other libraries)", "(program)", "libnccl"]);
        assert_eq!(libraries.name(LibraryId(u16::MAX)), "(unknown)");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let libraries = Libraries::new();
        let long = "ä".repeat(40);
        let id = libraries.intern(&long);
        assert_eq!(libraries.name(id), "ä".repeat(24));
        assert_eq!(libraries.intern(&"ä".repeat(30)), id);
        assert_eq!(libraries.name(LibraryId(9)), "(unknown)");
    }

    #[test]
    fn threads_that_meet_the_same_names_agree() {
        let libraries = Libraries::new();
        let meet = || (0..200).map(|i| libraries.intern(&format!("lib{}", i % 50)).0).collect();
        let found: Vec<BTreeSet<u16>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(meet)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|ids| *ids == (3..53).collect()), "{found:?}");
        let names: BTreeSet<String> = libraries.names().into_iter().skip(3).collect();
        assert_eq!(names.len(), 50);
    }
}
