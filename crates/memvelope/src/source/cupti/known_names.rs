//! Names met before, looked at again all at once.
//!
//! A name is read by asking the kernel to copy it ([`foreign_text`]), which costs microseconds. It
//! must be read again for every buffer: once its module was unloaded, another kernel's name may
//! stand at the address. So the texts of the last buffers are kept, and with the first known
//! address in a new buffer all of them are copied again by one call and compared: what stands there
//! now is what would have been read.

use super::foreign_text::{self, PAGE, foreign_text};
use crate::event::{NameId, Names};
use std::collections::BTreeMap;

/// Names kept; as many as one call copies.
const NAMES_MAX: usize = foreign_text::PLACES_MAX;

/// Bytes of text kept, and copied for a buffer: 1,024 names of mangled templates.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// Buffers in which a name did not occur before it is forgotten.
const IDLE_MAX: u8 = 8;

/// Names by address, as of the current buffer.
#[derive(Debug, Default)]
pub(super) struct KnownNames {
    entries: Vec<Entry>,
    index: BTreeMap<u64, usize>,
    /// The entries' texts, one after the other.
    texts: Vec<u8>,
    /// What stands at their addresses now.
    copy: Vec<u8>,
    is_checked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    id: NameId,
    /// Bytes of text, with the NUL unless the name is longer than names may be.
    bytes: usize,
    idle: u8,
}

impl KnownNames {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: BTreeMap::new(),
            texts: Vec::new(),
            copy: Vec::new(),
            is_checked: false,
        }
    }

    /// A new buffer begins: whatever was known may have changed.
    pub(super) fn begin(&mut self) {
        self.is_checked = false;
    }

    /// The id of the name at `address`, 0 for none; `None` where nothing can be read.
    pub(super) fn id(&mut self, names: &Names, address: u64) -> Option<NameId> {
        if address == 0 {
            return Some(names.intern("(unnamed)"));
        }
        if !self.is_checked && self.index.contains_key(&address) {
            self.check();
        }
        let known = self.index.get(&address).and_then(|at| self.entries.get_mut(*at));
        if let Some(entry) = known {
            entry.idle = 0;
            return Some(entry.id);
        }
        let mut text = Vec::new();
        foreign_text(address, names.bytes_max(), &mut text)?;
        let id = names.intern(&String::from_utf8_lossy(&text));
        if text.len() < names.bytes_max() {
            text.push(0);
        }
        self.remember(Entry { address, id, bytes: text.len(), idle: 0 }, &text);
        Some(id)
    }

    fn remember(&mut self, entry: Entry, text: &[u8]) {
        // Where a text without a NUL ended with its mapping, there is nothing behind it to copy.
        let is_at_end = (entry.address as usize).wrapping_add(text.len()) % PAGE == 1;
        let is_full =
            self.entries.len() >= NAMES_MAX || self.texts.len() + text.len() > TEXT_BYTES_MAX;
        if is_at_end || is_full {
            return;
        }
        self.index.insert(entry.address, self.entries.len());
        self.entries.push(entry);
        self.texts.extend_from_slice(text);
    }

    /// Looks at what stands at the known addresses now.
    fn check(&mut self) {
        let mut copy = std::mem::take(&mut self.copy);
        copy.resize(self.texts.len(), 0);
        let places = self.entries.iter().map(|entry| (entry.address, entry.bytes));
        let copied = foreign_text::copy_all(places, &mut copy);
        let mut is_idle = false;
        for entry in &mut self.entries {
            entry.idle += 1;
            is_idle |= entry.idle > IDLE_MAX;
        }
        if is_idle || copied < copy.len() || copy != self.texts {
            self.sort_out(&copy[..copied]);
        }
        (self.copy, self.is_checked) = (copy, true);
    }

    /// Forgets what was idle for long, and what is not the same in `copy`.
    fn sort_out(&mut self, copy: &[u8]) {
        let former = std::mem::take(self);
        let mut at = 0;
        for entry in former.entries {
            let place = at..at + entry.bytes;
            at = place.end;
            // Behind a place that cannot be read nothing was copied: read one by one again.
            let (Some(text), Some(now)) = (former.texts.get(place.clone()), copy.get(place)) else {
                break;
            };
            if text == now && entry.idle <= IDLE_MAX {
                self.remember(entry, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Texts(Vec<Vec<u8>>);

    impl Texts {
        fn address(&self, at: usize) -> u64 {
            self.0[at].as_ptr() as u64
        }
    }

    /// Texts that end far from a page's end.
    fn texts(count: usize) -> Texts {
        let text = |i| format!("kernel{i:04}\0").into_bytes();
        let is_inside = |text: &Vec<u8>| (text.as_ptr() as usize) % PAGE < PAGE - 64;
        let mut all: Vec<_> = (0..2 * count).map(text).collect();
        all.retain(is_inside);
        all.truncate(count);
        assert_eq!(all.len(), count);
        Texts(all)
    }

    #[test]
    fn what_is_known_is_what_stands_there_now() {
        let (mut known, names) = (KnownNames::new(), Names::new(1 << 12, 64));
        let mut texts = texts(500);
        let first: Vec<_> = (0..500).map(|i| known.id(&names, texts.address(i)).unwrap()).collect();
        assert_eq!(known.entries.len(), 500);
        known.begin();
        for (i, id) in first.iter().enumerate() {
            assert_eq!(known.id(&names, texts.address(i)), Some(*id));
        }
        // Another kernel's name stands there now, of another length; the rest is as before.
        texts.0[250][..4].copy_from_slice(b"dot\0");
        known.begin();
        let dot = known.id(&names, texts.address(250)).unwrap();
        assert_eq!((names.text(dot).as_str(), known.entries.len()), ("dot", 500));
        assert_eq!(known.id(&names, texts.address(499)), Some(first[499]));
        assert_eq!(known.id(&names, 0), Some(names.intern("(unnamed)")));
        assert_eq!(known.id(&names, 0xdead_beef_dead_beef), None);
    }

    #[test]
    fn memory_that_is_gone_is_noticed() {
        let (mut known, names) = (KnownNames::new(), Names::new(16, 64));
        let texts = texts(3);
        let gone = foreign_text::tests::Page::with(b"gone\0");
        for address in [texts.address(0), gone.address(), texts.address(1)] {
            assert!(known.id(&names, address).is_some());
        }
        let address = gone.address();
        gone.hide();
        known.begin();
        assert_eq!(known.id(&names, address), None);
        for at in [0, 1, 2] {
            assert!(known.id(&names, texts.address(at)).is_some());
        }
    }

    #[test]
    fn idle_names_make_room_and_room_is_bounded() {
        let (mut known, names) = (KnownNames::new(), Names::new(1 << 12, 64));
        let texts = texts(NAMES_MAX + 10);
        (0..NAMES_MAX + 10).for_each(|i| {
            known.id(&names, texts.address(i));
        });
        assert_eq!(known.entries.len(), NAMES_MAX);
        for _ in 0..=IDLE_MAX {
            known.begin();
            assert!(known.id(&names, texts.address(0)).is_some());
        }
        assert_eq!((known.entries.len(), known.index.len()), (1, 1));
        assert_eq!(known.texts.len(), known.entries[0].bytes);
    }

    #[test]
    fn a_cut_name_and_one_at_the_end_of_its_page() {
        let (mut known, names) = (KnownNames::new(), Names::new(16, 4));
        let texts = texts(1);
        let cut = known.id(&names, texts.address(0)).unwrap();
        assert_eq!((names.text(cut).as_str(), known.entries[0].bytes), ("kern", 4));
        let page = foreign_text::tests::Page::with(&[b'y'; PAGE]);
        let end = page.address() + PAGE as u64 - 3;
        for _ in 0..2 {
            known.begin();
            assert_eq!(known.id(&names, end).map(|id| names.text(id)), Some("yyy".into()));
            assert_eq!(known.id(&names, texts.address(0)), Some(cut));
        }
    }
}
