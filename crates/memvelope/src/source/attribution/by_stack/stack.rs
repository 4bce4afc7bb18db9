//! The calling thread's stack, read through the kernel: whatever the addresses are, nothing faults.
//!
//! Where a stack ends is not asked: the answer takes locks or a file, and a stack may be one that
//! the program switched to by itself. `process_vm_readv` copies what is there and says how far that
//! goes, in about a microsecond for some pages.

#![expect(unsafe_code, reason = "a system call that copies memory")]

/// What is copied first. The way from a driver callback to who asked takes some kilobytes.
const FIRST_BYTES: usize = 8 << 10;

/// What is copied at most.
const BYTES_MAX: usize = 64 << 10;

const PAGE_BYTES: u64 = 4096;

/// A copy of the stack from one address on upwards.
#[derive(Debug)]
pub(super) struct Stack {
    start: u64,
    /// How much of `words` is copied.
    bytes: usize,
    /// Nothing more is to be had.
    is_whole: bool,
    words: Box<[u64]>,
}

impl Stack {
    /// Empty, with all the room that it will ever need.
    pub(super) fn new() -> Self {
        Self { start: 0, bytes: 0, is_whole: true, words: vec![0; BYTES_MAX / 8].into() }
    }

    /// Begins anew at `start`, the stack pointer.
    pub(super) fn begin(&mut self, start: u64) {
        (self.start, self.bytes) = (start & !7, 0);
        self.is_whole = false;
    }

    /// The word at `address`; `None` if it cannot be read, or is too far away.
    pub(super) fn word(&mut self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        if !at.is_multiple_of(8) || at >= BYTES_MAX {
            return None;
        }
        while at + 8 > self.bytes {
            if self.is_whole {
                return None;
            }
            self.copy_more();
        }
        self.words.get(at / 8).copied()
    }

    /// Copies on, to at least twice what there is.
    fn copy_more(&mut self) {
        let wanted = if self.bytes == 0 { FIRST_BYTES } else { self.bytes * 2 };
        let wanted = wanted.min(BYTES_MAX);
        let (from, room) = (self.start + self.bytes as u64, wanted - self.bytes);
        let copied = copy(from, self.words.get_mut(self.bytes / 8..wanted / 8));
        self.bytes += copied & !7;
        self.is_whole = copied < room || self.bytes >= BYTES_MAX;
    }
}

/// Pages that one call is given.
const PARTS_MAX: usize = BYTES_MAX / PAGE_BYTES as usize + 1;

/// Copies what is at `from` of this process; how many bytes could be. Page by page, since only whole
/// parts are sure to be copied where the next cannot be.
fn copy(from: u64, to: Option<&mut [u64]>) -> usize {
    let Some(to) = to else { return 0 };
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut parts = [empty; PARTS_MAX];
    let (mut at, mut left, mut count) = (from, size_of_val(to) as u64, 0_usize);
    for part in &mut parts {
        let size = left.min(PAGE_BYTES - at % PAGE_BYTES);
        if size == 0 {
            break;
        }
        part.iov_base = std::ptr::without_provenance_mut(at as usize);
        part.iov_len = size as usize;
        let Some(next) = at.checked_add(size) else { break };
        (at, left, count) = (next, left - size, count + 1);
    }
    let room = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: size_of_val(to) };
    // The thread's own number: the process's is that of its first thread, which may be gone.
    // SAFETY: asks for a number.
    let thread = unsafe { libc::gettid() };
    // SAFETY: the kernel writes into `to` alone, at most its size, and reads what it finds mapped.
    let copied = unsafe {
        libc::process_vm_readv(
            thread,
            &raw const room,
            1,
            parts.as_ptr(),
            count as libc::c_ulong,
            0,
        )
    };
    usize::try_from(copied).unwrap_or(0)
}

/// Whether the kernel lets us: containers may forbid the call. The error's number.
pub(super) fn probe() -> Result<(), i32> {
    let word = 0x6d65_6d76_u64;
    let mut to = [0];
    if copy(std::ptr::from_ref(&word) as u64, Some(&mut to)) == 8 && to == [word] {
        return Ok(());
    }
    Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Whether the stack from here on can be copied, as [`Stack`] does first.
#[cfg(feature = "bench-internals")]
pub(super) fn copies() -> bool {
    let mut words = [0_u64; FIRST_BYTES / 8];
    let start = words.as_ptr() as u64;
    copy(start & !7, Some(&mut words)) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages that are there, between such that are not.
    fn mapped(pages: usize) -> (u64, usize) {
        let size = (pages + 1) * PAGE_BYTES as usize;
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping of its own, whose last page is taken away again.
        let start = unsafe {
            let start = libc::mmap(std::ptr::null_mut(), size, access, how, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let last = start.byte_add(pages * PAGE_BYTES as usize);
            assert_eq!(libc::mprotect(last, PAGE_BYTES as usize, libc::PROT_NONE), 0);
            start
        };
        let words = pages * PAGE_BYTES as usize / 8;
        // SAFETY: the pages that are left are the test's.
        let all = unsafe { std::slice::from_raw_parts_mut(start.cast::<u64>(), words) };
        for (i, word) in all.iter_mut().enumerate() {
            *word = i as u64;
        }
        (start as u64, words)
    }

    #[test]
    fn every_word_up_to_the_end_is_read_and_none_beyond() {
        probe().unwrap();
        let mut stack = Stack::new();
        for pages in [1, 2, 3, 8, 20] {
            let (start, words) = mapped(pages);
            for first in [0, 1, 100, 511] {
                let begin = start + 8 * first;
                let reach = (words - first as usize).min(BYTES_MAX / 8);
                stack.begin(begin);
                assert_eq!(
                    stack.word(begin + 8 * (reach as u64 - 1)),
                    Some(first + reach as u64 - 1)
                );
                for i in 0..reach as u64 {
                    assert_eq!(stack.word(begin + 8 * i), Some(first + i));
                }
                assert_eq!(stack.word(begin + 8 * reach as u64), None);
                stack.begin(begin);
                assert_eq!(stack.word(begin + 8 * reach as u64), None, "{pages} {first}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_none() {
        let mut stack = Stack::new();
        assert_eq!(stack.word(0), None, "not begun");
        let local = [7_u64; 4];
        let start = std::ptr::from_ref(&local) as u64;
        stack.begin(start);
        assert_eq!(stack.word(start + 8), Some(7));
        assert_eq!((stack.word(start - 8), stack.word(start + 4)), (None, None));
        assert_eq!((stack.word(start + BYTES_MAX as u64), stack.word(u64::MAX)), (None, None));
        for start in [0, 8, u64::MAX, u64::MAX - 4096] {
            stack.begin(start);
            assert_eq!(stack.word(start & !7), None, "{start:#x}");
        }
    }
}
