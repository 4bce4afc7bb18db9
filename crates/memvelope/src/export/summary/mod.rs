//! The summary file: how recorded processes tell the one that started them what they saw, also
//! when they are killed.
//!
//! A file that both sides map: whoever writes into it needs no further call for the other side to
//! see it, so that `SIGKILL` loses at most what came after the last update. One header, then slots.
//! A process takes a slot by compare-and-swap and keeps in it [`Vitals`] (plain numbers) and its
//! report (JSON) in one of two halves; the other half is the last complete one, which is what is
//! read. The parent gives slots of ended processes free again ([`Slot::release`]).
//!
//! Everything is a 64-bit word that is read and written atomically: no reader can see half a word,
//! and a half that changed while it was read has another number or checksum. All times are
//! nanoseconds of `CLOCK_MONOTONIC`, which processes of one machine share.
//!
//! A session that nobody started for us publishes the same thing in a file without a path
//! ([`Published`]), with one slot: whoever may look into `/proc/PID/fd` finds it there under
//! [`PUBLISHED_NAME`], and it goes with its process. What looks on copies what it reads
//! ([`Summary::copied`]): a foreign file that shrinks under a mapping would be a SIGBUS.

mod document;
mod identity;
mod map;
mod slot;

pub use document::{Identity, PROCESS_SCHEMA, fitting, process_document, vitals};
pub use identity::Process;
pub use map::monotonic_ns;
pub use slot::{Slot, Vitals};

use crate::error::{Error, Result};
use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// "MVSUMMRY" as a number: the first word of the file.
const MAGIC: u64 = u64::from_be_bytes(*b"MVSUMMRY");
/// Changes with every change of the layout; other versions are refused.
const VERSION: u64 = 1;

/// Slots: more than the processes that use one machine's GPUs at a time.
pub const SLOTS: usize = 64;
/// Bytes of a slot: vitals and two halves of 126 KiB, which hold some 500 kernels.
const SLOT_BYTES: usize = 256 << 10;
const HEADER_BYTES: usize = 4096;
/// Bytes of the whole file: 16 MiB and a page.
pub const FILE_BYTES: usize = file_bytes(SLOTS);
/// What a session's own file is called, as `/proc/PID/fd` shows it after `/memfd:`.
pub const PUBLISHED_NAME: &str = "memvelope-summary";

const fn file_bytes(slots: usize) -> usize {
    HEADER_BYTES + slots * SLOT_BYTES
}

const WORD: usize = size_of::<u64>();
const HEADER_WORDS: usize = HEADER_BYTES / WORD;
const SLOT_WORDS: usize = SLOT_BYTES / WORD;

/// Words of the header.
mod header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 1;
    pub(super) const FILE_BYTES: usize = 2;
    pub(super) const SLOTS: usize = 3;
    pub(super) const SLOT_BYTES: usize = 4;
    /// 1 when nobody reads any more.
    pub(super) const IS_CLOSED: usize = 5;
    /// Processes that took a slot so far.
    pub(super) const CLAIMS: usize = 6;
    /// Processes that found none.
    pub(super) const TURNED_AWAY: usize = 7;
    pub(super) const TRACE_BYTES_MAX: usize = 8;
}

/// A summary file.
#[derive(Clone, Debug)]
pub struct Summary {
    words: Arc<Words>,
}

/// The words of a file: shared with other processes, or as they were at a moment.
#[derive(Debug)]
enum Words {
    Mapped(map::Mapping),
    Copied(Box<[AtomicU64]>),
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        match self {
            Self::Mapped(mapping) => mapping,
            Self::Copied(words) => words,
        }
    }
}

/// A file of one slot, without a path, for whoever asks this process.
#[derive(Debug)]
pub struct Published {
    summary: Summary,
    file: map::Anonymous,
}

impl Published {
    /// Makes the file. Its descriptor stays open until the process ends.
    ///
    /// # Errors
    /// [`Error::WriteFile`]: no memory, no descriptor, or a system that has no such files.
    pub fn create() -> Result<Self> {
        const NAME: &std::ffi::CStr = c"memvelope-summary";
        let path = || Path::new("/memfd:").with_file_name(format!("memfd:{PUBLISHED_NAME}"));
        let (words, file) = map::Mapping::anonymous(NAME, file_bytes(1))
            .map_err(|source| Error::WriteFile { path: path(), source })?;
        let summary = Summary { words: Arc::new(Words::Mapped(words)) };
        summary.begin(1, 0);
        Ok(Self { summary, file })
    }

    /// Whether it can still be found: the program may have closed our descriptor.
    #[must_use]
    pub fn is_findable(&self) -> bool {
        self.file.is_open()
    }

    /// The file.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }
}

impl Summary {
    /// Makes the file at `path`, which must not exist, with all its bytes allocated: a disk that
    /// fills up later cannot take them away from whoever has it mapped. `trace_bytes_max` is told
    /// to the processes.
    ///
    /// # Errors
    /// [`Error::WriteFile`]; nothing is left at `path`.
    pub fn create(path: &Path, trace_bytes_max: u64) -> Result<Self> {
        let failed = |source| Error::WriteFile { path: path.to_owned(), source };
        let words = map::Mapping::create(path, FILE_BYTES).map_err(failed)?;
        let summary = Self { words: Arc::new(Words::Mapped(words)) };
        summary.begin(SLOTS, trace_bytes_max);
        Ok(summary)
    }

    fn begin(&self, slots: usize, trace_bytes_max: u64) {
        for (at, value) in [
            (header::VERSION, VERSION),
            (header::FILE_BYTES, file_bytes(slots) as u64),
            (header::SLOTS, slots as u64),
            (header::SLOT_BYTES, SLOT_BYTES as u64),
            (header::TRACE_BYTES_MAX, trace_bytes_max),
        ] {
            self.words[at].store(value, Ordering::Relaxed);
        }
        // Last: a file without it is one that is still being made.
        self.words[header::MAGIC].store(MAGIC, Ordering::Release);
    }

    /// Maps the file that the parent made.
    ///
    /// # Errors
    /// [`Error::ReadFile`]: it cannot be read, or is of another version of memvelope.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::ReadFile { path: path.to_owned(), source };
        let words = map::Mapping::open(path, FILE_BYTES).map_err(failed)?;
        let summary = Self { words: Arc::new(Words::Mapped(words)) };
        summary.check(SLOTS).map_err(failed)?;
        Ok(summary)
    }

    /// What an open file, also one with fewer slots, has in it now. Later changes are not seen.
    ///
    /// # Errors
    /// It cannot be read, or is of another version of memvelope.
    pub fn copied(file: &File) -> std::io::Result<Self> {
        let found = file.metadata()?.len();
        let slots = (1..=SLOTS).find(|slots| file_bytes(*slots) as u64 == found);
        let slots = slots.ok_or_else(|| {
            std::io::Error::other(format!(
                "not a summary file of this version of memvelope: it has {found} bytes"
            ))
        })?;
        let mut bytes = vec![0; file_bytes(slots)];
        file.read_exact_at(&mut bytes, 0)?;
        let words = bytes.chunks_exact(WORD).map(|chunk| {
            let mut word = [0; WORD];
            word.copy_from_slice(chunk);
            AtomicU64::new(u64::from_ne_bytes(word))
        });
        let summary = Self { words: Arc::new(Words::Copied(words.collect())) };
        summary.check(slots)?;
        Ok(summary)
    }

    fn check(&self, slots: usize) -> std::io::Result<()> {
        for (at, what, expected) in [
            (header::MAGIC, "first word", MAGIC),
            (header::VERSION, "layout version", VERSION),
            (header::FILE_BYTES, "size", file_bytes(slots) as u64),
            (header::SLOTS, "number of slots", slots as u64),
            (header::SLOT_BYTES, "size of a slot", SLOT_BYTES as u64),
        ] {
            let found = self.words[at].load(Ordering::Acquire);
            if found != expected {
                return Err(std::io::Error::other(format!(
                    "not a summary file of this version of memvelope: its {what} is {found}, \
                     expected {expected}"
                )));
            }
        }
        Ok(())
    }

    /// How many slots it has.
    fn slots(&self) -> usize {
        (self.words.len() - HEADER_WORDS) / SLOT_WORDS
    }

    /// Takes a free slot for `process`; `None`, and one more in [`Self::turned_away`], if there is
    /// none.
    #[must_use]
    pub fn claim(&self, process: &Process) -> Option<Slot> {
        let slot = self.find_slot(process);
        if slot.is_none() {
            self.words[header::TURNED_AWAY].fetch_add(1, Ordering::AcqRel);
        }
        slot
    }

    /// The same for a process that was turned away before: it then counts no longer as such.
    #[must_use]
    pub fn claim_again(&self, process: &Process) -> Option<Slot> {
        let slot = self.find_slot(process)?;
        self.words[header::TURNED_AWAY].fetch_sub(1, Ordering::AcqRel);
        Some(slot)
    }

    fn find_slot(&self, process: &Process) -> Option<Slot> {
        (0..self.slots()).find_map(|index| Slot::claim(self, index, process))
    }

    /// The number of the next process that takes a slot.
    fn next_sequence(&self) -> u64 {
        self.words[header::CLAIMS].fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The slots that are taken now.
    pub fn taken(&self) -> impl Iterator<Item = Slot> {
        (0..self.slots()).filter_map(|index| Slot::taken(self, index))
    }

    /// Tells the processes that nobody reads any more.
    pub fn close(&self) {
        self.words[header::IS_CLOSED].store(1, Ordering::Release);
    }

    /// Whether [`Self::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.words[header::IS_CLOSED].load(Ordering::Acquire) != 0
    }

    /// Processes that found no free slot, and have none since.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.words[header::TURNED_AWAY].load(Ordering::Acquire)
    }

    /// Limit on the size of a process's trace.
    #[must_use]
    pub fn trace_bytes_max(&self) -> u64 {
        self.words[header::TRACE_BYTES_MAX].load(Ordering::Acquire)
    }

    /// The words of one slot.
    fn slot(&self, index: usize) -> &[AtomicU64] {
        let start = HEADER_WORDS + index * SLOT_WORDS;
        &self.words[start..start + SLOT_WORDS]
    }
}

#[cfg(test)]
mod tests;
