//! Activity buffers: asked of the client, filled with records, and given back.
//!
//! No lock is held while a client's function runs. A buffer being filled belongs to one thread; it
//! is taken out of the table for that time.

#![expect(unsafe_code, reason = "writes into the client's buffers and calls its functions")]

use crate::cupti::faults::{self, Fate};
use crate::cupti::layout::Record;
use crate::cupti::{overhead, returns};
use crate::thread;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `CUpti_BuffersCallbackRequestFunc`.
pub(crate) type Request = unsafe extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
/// `CUpti_BuffersCallbackCompleteFunc`.
pub(crate) type Complete = unsafe extern "C" fn(u64, u32, *mut u8, usize, usize);

/// `CUPTI_ACTIVITY_KIND_OVERHEAD`.
const OVERHEAD: u32 = 17;

static TABLE: Mutex<Table> = Mutex::new(Table { functions: None, open: Vec::new() });
static WRITTEN: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Drops that `cuptiActivityGetNumDroppedRecords` has not told yet.
static DROPPED_UNTOLD: AtomicU64 = AtomicU64::new(0);
static REQUESTED: AtomicU64 = AtomicU64::new(0);
static COMPLETED: AtomicU64 = AtomicU64::new(0);
/// The client promises zeroed buffers (activity attribute 5).
static CLIENT_ZEROES: AtomicBool = AtomicBool::new(false);
/// One buffer per thread (activity attribute 9), or one for all.
static PER_THREAD: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
struct Table {
    functions: Option<(Request, Complete)>,
    open: Vec<Buffer>,
}

/// A buffer of the client's, while it is ours.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Thread it belongs to; 0 is everybody.
    owner: u64,
    at: *mut u8,
    size: usize,
    valid: usize,
    /// Records it may still take.
    room: usize,
    /// Where each record begins.
    starts: Vec<usize>,
}

// SAFETY: the client handed the memory over until it gets it back; only the thread that took the
// buffer out of the table touches it.
unsafe impl Send for Buffer {}

/// What happened to records so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) written: u64,
    pub(crate) dropped: u64,
    pub(crate) requested: u64,
    pub(crate) completed: u64,
}

pub(crate) fn totals() -> Totals {
    Totals {
        written: WRITTEN.load(Ordering::Relaxed),
        dropped: DROPPED.load(Ordering::Relaxed),
        requested: REQUESTED.load(Ordering::Relaxed),
        completed: COMPLETED.load(Ordering::Relaxed),
    }
}

pub(crate) fn take_dropped() -> u64 {
    DROPPED_UNTOLD.swap(0, Ordering::Relaxed)
}

pub(crate) fn set_client_zeroes(on: bool) {
    CLIENT_ZEROES.store(on, Ordering::Relaxed);
}

pub(crate) fn client_zeroes() -> bool {
    CLIENT_ZEROES.load(Ordering::Relaxed)
}

pub(crate) fn set_per_thread(on: bool) {
    PER_THREAD.store(on, Ordering::Relaxed);
}

pub(crate) fn per_thread() -> bool {
    PER_THREAD.load(Ordering::Relaxed)
}

pub(crate) fn register(request: Request, complete: Complete) {
    table().functions = Some((request, complete));
}

pub(crate) fn is_registered() -> bool {
    table().functions.is_some()
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes records into buffers, asking for and giving back buffers as needed. Without registered
/// functions, and inside a client's own callback, records have nowhere to go and are dropped.
pub(crate) fn deliver(mut records: VecDeque<Record>) {
    count_dropped(faults::tamper(&mut records));
    let owner = if per_thread() { thread::number() } else { 0 };
    while !records.is_empty() {
        let (functions, buffer) = {
            let mut table = table();
            let own = table.open.iter().position(|buffer| buffer.owner == owner);
            (table.functions, own.map(|index| table.open.swap_remove(index)))
        };
        let Some((request, complete)) = functions else { return count_dropped(records.len()) };
        let is_new = buffer.is_none();
        let mut buffer = match buffer.or_else(|| ask(request, owner)) {
            Some(buffer) => buffer,
            None => {
                records.pop_front();
                count_dropped(1);
                continue;
            }
        };
        // No request is told of that was made to tell of one, or small buffers would never end it.
        if is_new && records.front().is_some_and(|next| next.kind() != OVERHEAD) {
            records.extend(overhead::buffer_request());
        }
        let before = records.len();
        buffer.fill(&mut records);
        if records.is_empty() {
            table().open.push(buffer);
            return;
        }
        if before == records.len() && buffer.valid == 0 {
            // Too small for even one record: the record is lost, or this would never end.
            records.pop_front();
            count_dropped(1);
        }
        returns::give_back(complete, buffer);
    }
}

/// Gives open buffers back: those with records, or (`forced`) all.
pub(crate) fn flush(forced: bool) {
    let (functions, buffers) = {
        let mut table = table();
        let open = std::mem::take(&mut table.open);
        let (out, keep) = open.into_iter().partition(|buffer| forced || buffer.valid > 0);
        table.open = keep;
        let out: Vec<Buffer> = out;
        (table.functions, out)
    };
    let Some((_, complete)) = functions else { return };
    returns::flushed(complete, buffers);
}

/// Says that no kind is on any more.
pub(crate) fn stopped() {
    if let Some((_, complete)) = table().functions {
        returns::stopped(complete);
    }
}

fn count_dropped(records: usize) {
    DROPPED.fetch_add(records as u64, Ordering::Relaxed);
    DROPPED_UNTOLD.fetch_add(records as u64, Ordering::Relaxed);
}

fn ask(request: Request, owner: u64) -> Option<Buffer> {
    let (mut at, mut size, mut room) = (std::ptr::null_mut(), 0, 0);
    REQUESTED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the client registered this function for exactly this call; the pointers are ours.
    thread::in_client(|| unsafe { request(&raw mut at, &raw mut size, &raw mut room) })?;
    if at.is_null() {
        faults::null_buffer();
    }
    if at.is_null() || size == 0 || !at.cast::<u64>().is_aligned() {
        return None;
    }
    if !client_zeroes() {
        // SAFETY: the client just handed over `size` bytes at `at`.
        unsafe { at.write_bytes(0, size) };
    }
    let room = if room == 0 { usize::MAX } else { room };
    Some(Buffer { owner, at, size, valid: 0, room, starts: Vec::new() })
}

/// Hands a buffer over to the client.
pub(crate) fn hand_over(complete: Complete, buffer: &Buffer) {
    COMPLETED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the client registered this function for exactly this call, and gets back what it
    // handed over; we keep no copy of the pointer.
    let told = thread::in_client(|| unsafe {
        complete(0, 0, buffer.at, buffer.size, buffer.valid);
    });
    debug_assert!(told.is_some(), "records are never delivered inside a client's callback");
}

impl Buffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.valid == 0
    }

    /// Spoils the end of a buffer: garbage from a record's start on, about a quarter of it, so
    /// that no pointer in a record that still looks like one is garbage; or a last record cut.
    pub(crate) fn spoil(&mut self, fate: &Fate) {
        let Some(last) = self.starts.last().copied() else { return };
        if let Some(mut seed) = fate.garbage {
            let from = self.valid / 4 * 3;
            let from = self.starts.iter().copied().find(|start| *start >= from).unwrap_or(last);
            // SAFETY: the client handed over `size` bytes, of which `valid` hold records.
            let tail =
                unsafe { std::slice::from_raw_parts_mut(self.at.add(from), self.valid - from) };
            for chunk in tail.chunks_mut(8) {
                let bytes = faults::draw(&mut seed).to_le_bytes();
                chunk.copy_from_slice(&bytes[..chunk.len()]);
            }
        }
        if fate.truncate {
            self.valid = last + (self.valid - last) / 2;
        }
    }

    fn fill(&mut self, records: &mut VecDeque<Record>) {
        while let Some(record) = records.front() {
            let bytes = record.as_bytes();
            if self.room == 0 || self.size - self.valid < bytes.len() {
                return;
            }
            // SAFETY: the client handed over `size` bytes, of which `valid` are taken; the record
            // fits into the rest, as was just checked.
            unsafe {
                let to = self.at.add(self.valid);
                to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
            self.starts.push(self.valid);
            self.valid += bytes.len();
            self.room -= 1;
            WRITTEN.fetch_add(1, Ordering::Relaxed);
            records.pop_front();
        }
    }
}
