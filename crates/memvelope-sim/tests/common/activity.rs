//! A client of the Activity API: buffers that are kept when they come back, and their records.

use super::{cupti, now};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const MEMCPY: u32 = 1;
pub(crate) const MEMSET: u32 = 2;
pub(crate) const KERNEL: u32 = 10;
pub(crate) const SYNC: u32 = 38;
pub(crate) const MEMORY2: u32 = 49;

/// Buffers handed out: size (0 answers with none), how many, and whether they are filled with
/// rubbish first.
pub(crate) static BUFFER_BYTES: AtomicUsize = AtomicUsize::new(4096);
pub(crate) static REQUESTS: AtomicUsize = AtomicUsize::new(0);
pub(crate) static COMPLETED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

pub(crate) extern "C" fn request(buffer: *mut *mut u8, size: *mut usize, records: *mut usize) {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
    let bytes = BUFFER_BYTES.load(Ordering::Relaxed);
    // No lock is held: calling back is allowed.
    now();
    let words = vec![0x5a5a_5a5a_5a5a_5a5a_u64; bytes.div_ceil(8)].leak();
    let at = if bytes == 0 { std::ptr::null_mut() } else { words.as_mut_ptr().cast::<u8>() };
    // SAFETY: out-parameters of the simulator.
    unsafe {
        *buffer = at;
        *size = bytes;
        *records = 0;
    }
}

pub(crate) extern "C" fn complete(
    _context: u64,
    _stream: u32,
    buffer: *mut u8,
    size: usize,
    valid: usize,
) {
    assert!(valid <= size);
    assert_eq!(cupti::cuptiActivityFlushAll(0), 7, "no flush from a buffer callback");
    // SAFETY: the buffer that `request` gave.
    let bytes = unsafe { std::slice::from_raw_parts(buffer, valid) };
    COMPLETED.lock().unwrap().push(bytes.to_vec());
}

pub(crate) fn record(kinds: &[u32]) {
    assert_eq!(cupti::cuptiActivityRegisterCallbacks(request, complete), 0);
    kinds.iter().for_each(|kind| assert_eq!(cupti::cuptiActivityEnable(*kind), 0));
}

/// A record as bytes.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Seen {
    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }
}

/// Flushes, and steps through everything that came back.
pub(crate) fn drain(forced: bool) -> Vec<Seen> {
    assert_eq!(cupti::cuptiActivityFlushAll(u32::from(forced)), 0);
    let mut all = Vec::new();
    for mut buffer in std::mem::take(&mut *COMPLETED.lock().unwrap()) {
        let (start, valid) = (buffer.as_mut_ptr(), buffer.len());
        let mut offsets = Vec::new();
        let mut at = std::ptr::null_mut();
        while cupti::cuptiActivityGetNextRecord(start, valid, &mut at) == 0 {
            offsets.push(at as usize - start as usize);
        }
        assert_eq!(cupti::cuptiActivityGetNextRecord(start, valid, &mut at), 12);
        offsets.push(valid);
        for pair in offsets.windows(2) {
            let bytes = buffer[pair[0]..pair[1]].to_vec();
            let kind = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            all.push(Seen { kind, bytes });
        }
    }
    all
}

/// Records of one kind.
pub(crate) fn of_kind(seen: &[Seen], kind: u32) -> Vec<&Seen> {
    seen.iter().filter(|seen| seen.kind == kind).collect()
}

/// A text that a record points at.
pub(crate) fn text_at(address: u64) -> Option<&'static std::ffi::CStr> {
    let at = address as *const std::ffi::c_char;
    // SAFETY: the simulator's names live as long as the process.
    (address != 0).then(|| unsafe { std::ffi::CStr::from_ptr(at) })
}
