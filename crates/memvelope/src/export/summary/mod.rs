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

mod identity;
mod map;
mod slot;

pub use identity::Process;
pub use map::monotonic_ns;
pub use slot::{Slot, Vitals};

use crate::error::{Error, Result};
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
pub const FILE_BYTES: usize = HEADER_BYTES + SLOTS * SLOT_BYTES;

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

/// A summary file, mapped.
#[derive(Clone, Debug)]
pub struct Summary {
    words: Arc<map::Mapping>,
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
        for (at, value) in [
            (header::VERSION, VERSION),
            (header::FILE_BYTES, FILE_BYTES as u64),
            (header::SLOTS, SLOTS as u64),
            (header::SLOT_BYTES, SLOT_BYTES as u64),
            (header::TRACE_BYTES_MAX, trace_bytes_max),
        ] {
            words[at].store(value, Ordering::Relaxed);
        }
        // Last: a file without it is one that is still being made.
        words[header::MAGIC].store(MAGIC, Ordering::Release);
        Ok(Self { words: Arc::new(words) })
    }

    /// Maps the file that the parent made.
    ///
    /// # Errors
    /// [`Error::ReadFile`]: it cannot be read, or is of another version of memvelope.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::ReadFile { path: path.to_owned(), source };
        let words = map::Mapping::open(path, FILE_BYTES).map_err(failed)?;
        for (at, what, expected) in [
            (header::MAGIC, "first word", MAGIC),
            (header::VERSION, "layout version", VERSION),
            (header::FILE_BYTES, "size", FILE_BYTES as u64),
            (header::SLOTS, "number of slots", SLOTS as u64),
            (header::SLOT_BYTES, "size of a slot", SLOT_BYTES as u64),
        ] {
            let found = words[at].load(Ordering::Acquire);
            if found != expected {
                return Err(failed(std::io::Error::other(format!(
                    "not a summary file of this version of memvelope: its {what} is {found}, \
                     expected {expected}"
                ))));
            }
        }
        Ok(Self { words: Arc::new(words) })
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
        (0..SLOTS).find_map(|index| Slot::claim(self, index, process))
    }

    /// The number of the next process that takes a slot.
    fn next_sequence(&self) -> u64 {
        self.words[header::CLAIMS].fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The slots that are taken now.
    pub fn taken(&self) -> impl Iterator<Item = Slot> {
        (0..SLOTS).filter_map(|index| Slot::taken(self, index))
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
