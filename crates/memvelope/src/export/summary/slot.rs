//! One process's part of the summary file.

use super::identity::{Process, pid_namespace};
use super::map::monotonic_ns;
use super::{SLOT_WORDS, Summary};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Devices whose live bytes have a word; the ledger knows as many.
const DEVICES_MAX: usize = 64;
/// Bytes kept of a command line.
const COMMAND_BYTES_MAX: usize = 1024;

/// Words of a slot.
mod word {
    use super::{COMMAND_BYTES_MAX, DEVICES_MAX};
    /// The process; 0: free.
    pub(super) const OWNER: usize = 0;
    /// The how-many-th process that took a slot.
    pub(super) const SEQUENCE: usize = 1;
    pub(super) const PID_NAMESPACE: usize = 2;
    pub(super) const PARENT: usize = 3;
    pub(super) const CLAIMED: usize = 4;
    /// Number of the last complete report; 0: none yet. Its half is the number's lowest bit.
    pub(super) const CURRENT: usize = 5;
    pub(super) const UPDATED: usize = 6;
    pub(super) const IS_RECORDING: usize = 7;
    pub(super) const IS_SIMULATED: usize = 8;
    pub(super) const ALLOCATIONS: usize = 9;
    pub(super) const KERNELS: usize = 10;
    pub(super) const BUSY: usize = 11;
    pub(super) const CLOCK: usize = 12;
    pub(super) const LOST: usize = 13;
    /// Bit d: device d was seen.
    pub(super) const DEVICES: usize = 14;
    pub(super) const LIVE: usize = 16;
    pub(super) const COMMAND_BYTES: usize = LIVE + DEVICES_MAX;
    pub(super) const COMMAND: usize = COMMAND_BYTES + 1;
    pub(super) const END: usize = COMMAND + COMMAND_BYTES_MAX / super::super::WORD;
}

/// Where the halves begin: vitals have a page.
const VITALS_WORDS: usize = 512;
const _: () = assert!(word::END <= VITALS_WORDS);
const HALF_WORDS: usize = (SLOT_WORDS - VITALS_WORDS) / 2;

/// Words of a half.
mod half {
    pub(super) const NUMBER: usize = 0;
    pub(super) const BYTES: usize = 1;
    pub(super) const CHECKSUM: usize = 2;
    pub(super) const BODY: usize = 4;
}

/// How often a half is read anew that its owner writes at the same time: it writes at most every
/// few milliseconds, and reading takes microseconds.
const READ_TRIES: u32 = 16;

/// The numbers that are kept apart from the report: read without parsing, by whoever looks on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Whether CUPTI records.
    pub is_recording: bool,
    /// Whether the driver is the simulator.
    pub is_simulated: bool,
    /// Live bytes of the driver's allocations, by device.
    pub live_bytes: Vec<(u32, u64)>,
    /// Allocations so far.
    pub allocations: u64,
    /// Kernels decoded so far.
    pub kernels: u64,
    /// Time the devices were busy so far, added up over devices.
    pub busy_ns: u64,
    /// Now, on the recorder's clock (virtual on the simulator).
    pub clock_ns: u64,
    /// Records and allocations lost so far.
    pub lost: u64,
}

/// A slot that a process has taken.
#[derive(Clone, Debug)]
pub struct Slot {
    summary: Summary,
    index: usize,
    owner: u64,
    sequence: u64,
}

impl Slot {
    /// Longest report that a slot holds.
    pub const REPORT_BYTES_MAX: usize = (HALF_WORDS - half::BODY) * super::WORD;

    pub(super) fn claim(summary: &Summary, index: usize, process: &Process) -> Option<Self> {
        let words = summary.slot(index);
        let owner = process.to_word();
        let taken =
            words[word::OWNER].compare_exchange(0, owner, Ordering::AcqRel, Ordering::Relaxed);
        taken.ok()?;
        let store = |at: usize, value| words[at].store(value, Ordering::Relaxed);
        (word::CURRENT..VITALS_WORDS).for_each(|at| store(at, 0));
        store(word::PID_NAMESPACE, pid_namespace());
        store(word::PARENT, u64::from(process.parent()));
        let now = monotonic_ns();
        store(word::CLAIMED, now);
        store(word::UPDATED, now);
        let command = std::fs::read("/proc/self/cmdline").unwrap_or_default();
        let command = &command[..command.len().min(COMMAND_BYTES_MAX)];
        store(word::COMMAND_BYTES, command.len() as u64);
        put_bytes(&words[word::COMMAND..], command);
        let sequence = summary.next_sequence();
        // Last: a reader leaves a slot alone until it has a number.
        words[word::SEQUENCE].store(sequence, Ordering::Release);
        Some(Self { summary: summary.clone(), index, owner, sequence })
    }

    pub(super) fn taken(summary: &Summary, index: usize) -> Option<Self> {
        let words = summary.slot(index);
        let owner = words[word::OWNER].load(Ordering::Acquire);
        let sequence = words[word::SEQUENCE].load(Ordering::Acquire);
        let slot = Self { summary: summary.clone(), index, owner, sequence };
        (owner != 0).then_some(slot)
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> Process {
        Process::from_word(self.owner)
    }

    /// The how-many-th process of the file, from 1; 0 if it was killed while it took the slot.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The process that started it; 0 where that is not known.
    #[must_use]
    pub fn parent_pid(&self) -> u32 {
        u32::try_from(self.load(word::PARENT)).unwrap_or(0)
    }

    /// Whether its process ids mean the same here: only then can its end be noticed.
    #[must_use]
    pub fn is_in_our_namespace(&self) -> bool {
        self.load(word::PID_NAMESPACE) == pid_namespace()
    }

    /// When it took the slot.
    #[must_use]
    pub fn claimed_ns(&self) -> u64 {
        self.load(word::CLAIMED)
    }

    /// When it last told something.
    #[must_use]
    pub fn updated_ns(&self) -> u64 {
        self.load(word::UPDATED)
    }

    /// Its command line, one string a word, cut after 1024 bytes.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let length = usize::try_from(self.load(word::COMMAND_BYTES)).unwrap_or(usize::MAX);
        let bytes = get_bytes(&self.words()[word::COMMAND..], length.min(COMMAND_BYTES_MAX));
        let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        text.split(|byte| *byte == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
    }

    /// Its numbers as of the last update. Each is whole; they need not be of one moment.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let devices = self.load(word::DEVICES);
        let seen = (0..DEVICES_MAX).filter(|device| devices >> device & 1 == 1);
        Vitals {
            is_recording: self.load(word::IS_RECORDING) != 0,
            is_simulated: self.load(word::IS_SIMULATED) != 0,
            live_bytes: seen.map(|d| (d as u32, self.load(word::LIVE + d))).collect(),
            allocations: self.load(word::ALLOCATIONS),
            kernels: self.load(word::KERNELS),
            busy_ns: self.load(word::BUSY),
            clock_ns: self.load(word::CLOCK),
            lost: self.load(word::LOST),
        }
    }

    /// For the owner: tells the numbers, and that they are of now.
    pub fn tell(&self, vitals: &Vitals) {
        let words = self.words();
        let store = |at: usize, value| words[at].store(value, Ordering::Relaxed);
        let mut devices = 0;
        for (device, bytes) in &vitals.live_bytes {
            let device = *device as usize;
            if device < DEVICES_MAX {
                devices |= 1 << device;
                store(word::LIVE + device, *bytes);
            }
        }
        store(word::DEVICES, devices);
        store(word::IS_RECORDING, u64::from(vitals.is_recording));
        store(word::IS_SIMULATED, u64::from(vitals.is_simulated));
        store(word::ALLOCATIONS, vitals.allocations);
        store(word::KERNELS, vitals.kernels);
        store(word::BUSY, vitals.busy_ns);
        store(word::CLOCK, vitals.clock_ns);
        store(word::LOST, vitals.lost);
        words[word::UPDATED].store(monotonic_ns(), Ordering::Release);
    }

    /// For the owner: replaces the report. False if it is longer than [`Self::REPORT_BYTES_MAX`].
    #[must_use]
    pub fn report(&self, json: &[u8]) -> bool {
        if json.len() > Self::REPORT_BYTES_MAX {
            return false;
        }
        let number = self.load(word::CURRENT) + 1;
        let half = self.half(number);
        // Whoever still reads the report before the last, which stood here, finds it gone.
        half[half::NUMBER].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        put_bytes(&half[half::BODY..], json);
        half[half::BYTES].store(json.len() as u64, Ordering::Relaxed);
        half[half::CHECKSUM].store(checksum(number, json), Ordering::Relaxed);
        half[half::NUMBER].store(number, Ordering::Release);
        self.words()[word::CURRENT].store(number, Ordering::Release);
        true
    }

    /// The last complete report; `None` if there is none yet.
    #[must_use]
    pub fn read(&self) -> Option<Vec<u8>> {
        (0..READ_TRIES).find_map(|_| {
            let number = self.load(word::CURRENT);
            if number == 0 {
                return None;
            }
            let half = self.half(number);
            let is_whole = || half[half::NUMBER].load(Ordering::Acquire) == number;
            let length = usize::try_from(half[half::BYTES].load(Ordering::Relaxed)).ok()?;
            if !is_whole() || length > Self::REPORT_BYTES_MAX {
                return None;
            }
            let json = get_bytes(&half[half::BODY..], length);
            fence(Ordering::Acquire);
            let told = half[half::CHECKSUM].load(Ordering::Relaxed);
            (is_whole() && checksum(number, &json) == told).then_some(json)
        })
    }

    /// Whether the slot still is the process's that this value was made for.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.load(word::OWNER) == self.owner && self.load(word::SEQUENCE) == self.sequence
    }

    /// For the parent: gives the slot of an ended process free.
    pub fn release(self) {
        let words = self.words();
        words[word::SEQUENCE].store(0, Ordering::Relaxed);
        let (owner, free) = (self.owner, 0);
        // Already free is what was wanted.
        let _ =
            words[word::OWNER].compare_exchange(owner, free, Ordering::AcqRel, Ordering::Relaxed);
    }

    fn words(&self) -> &[AtomicU64] {
        self.summary.slot(self.index)
    }

    fn load(&self, at: usize) -> u64 {
        self.words()[at].load(Ordering::Acquire)
    }

    fn half(&self, number: u64) -> &[AtomicU64] {
        let start = VITALS_WORDS + if number.is_multiple_of(2) { 0 } else { HALF_WORDS };
        &self.words()[start..start + HALF_WORDS]
    }
}

fn put_bytes(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        word.store(word_of(chunk), Ordering::Relaxed);
    }
}

fn get_bytes(words: &[AtomicU64], length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    for word in words.iter().take(length.div_ceil(8)) {
        bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn word_of(chunk: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..chunk.len()].copy_from_slice(chunk);
    u64::from_le_bytes(bytes)
}

/// Tells a half that was torn from one that was not; no protection against malice is meant.
fn checksum(number: u64, bytes: &[u8]) -> u64 {
    // FNV-1a's offset and prime, over words instead of bytes, with the high bits brought down.
    let mix = |sum: u64, word: u64| {
        let mixed = (sum ^ word).wrapping_mul(0x0100_0000_01b3);
        mixed ^ mixed >> 29
    };
    let start = mix(mix(0xcbf2_9ce4_8422_2325, number), bytes.len() as u64);
    bytes.chunks(8).map(word_of).fold(start, mix)
}
