//! Names of kernels and spans, interned once and passed around as small numbers.

use std::collections::HashMap;
use std::sync::Mutex;

/// A name in [`Names`]: stable for the life of the process.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub u32);

impl NameId {
    /// Stands for every name that came after the table was full.
    pub const OTHER: Self = Self(0);
}

/// A bounded table of names. Interning locks; it is done on the drain thread and by `profile`,
/// never in a driver callback.
#[derive(Debug)]
pub struct Names {
    inner: Mutex<NamesInner>,
    limit: usize,
    name_bytes_max: usize,
}

#[derive(Debug, Default)]
struct NamesInner {
    ids: HashMap<Box<str>, NameId>,
    texts: Vec<Box<str>>,
    refused: u64,
}

impl Names {
    /// A table of at most `limit` names of at most `name_bytes_max` bytes each; longer names are
    /// cut at a character boundary.
    #[must_use]
    pub fn new(limit: usize, name_bytes_max: usize) -> Self {
        let inner = NamesInner { texts: vec!["(other names)".into()], ..NamesInner::default() };
        Self { inner: Mutex::new(inner), limit: limit.max(1), name_bytes_max }
    }

    /// The id of `name`, new or known; [`NameId::OTHER`] (and one more in [`Self::refused`]) when
    /// the table is full.
    pub fn intern(&self, name: &str) -> NameId {
        let name = cut(name, self.name_bytes_max);
        let mut inner = self.lock();
        if let Some(id) = inner.ids.get(name) {
            return *id;
        }
        if inner.texts.len() > self.limit {
            inner.refused += 1;
            return NameId::OTHER;
        }
        let id = NameId(u32::try_from(inner.texts.len()).unwrap_or(0));
        inner.texts.push(name.into());
        inner.ids.insert(name.into(), id);
        id
    }

    /// The text of an id; `"(other names)"` for ids this table never gave out.
    #[must_use]
    pub fn text(&self, id: NameId) -> String {
        let inner = self.lock();
        let index = id.0 as usize;
        inner.texts.get(index).unwrap_or(&inner.texts[0]).to_string()
    }

    /// Length at which names are cut, in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.name_bytes_max
    }

    /// How often a name was refused because the table was full.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Bytes of host memory the table holds, its maps' own overhead apart.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        let inner = self.lock();
        let row = std::mem::size_of::<(Box<str>, NameId)>() + std::mem::size_of::<Box<str>>();
        // Each text stands twice: in the map and in the list.
        let texts: usize = inner.texts.iter().map(|text| 2 * text.len() + row).sum();
        texts as u64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, NamesInner> {
        // A panic while holding it leaves the table consistent: text and id are pushed together.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn cut(name: &str, bytes_max: usize) -> &str {
    if name.len() <= bytes_max {
        return name;
    }
    let mut end = bytes_max;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_stable() {
        let names = Names::new(2, 4);
        let a = names.intern("a");
        assert_eq!(names.intern("a"), a);
        assert_eq!(names.text(names.intern("abcdefg")), "abcd");
        assert_eq!(names.intern("c"), NameId::OTHER);
        assert_eq!(names.refused(), 1);
        assert_eq!(names.text(NameId(99)), "(other names)");
    }

    #[test]
    fn names_are_cut_at_a_character() {
        assert_eq!(cut("ääää", 3), "ä");
        assert_eq!(cut("abc", 0), "");
    }
}
