//! Texts that CUPTI names by address, read without trusting the address.
//!
//! A record may be garbage, and a text may be gone with its module by the time its record is looked
//! at. Following such a pointer would end the host; the kernel is asked to copy instead, and answers
//! where nothing is mapped.

#![expect(unsafe_code, reason = "process_vm_readv is foreign, and so are the texts")]

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

/// Reads beyond a page's end fail as a whole, so none goes beyond.
pub(super) const PAGE: usize = 4096;

/// Places that [`copy_all`] copies from; the kernel's own limit (`UIO_MAXIOV`).
pub(super) const PLACES_MAX: usize = 1024;

/// This system does not let a process copy from itself so (an old seccomp profile): then there is
/// nothing left but to trust CUPTI.
static MUST_TRUST: AtomicBool = AtomicBool::new(false);

/// Appends the text at `address`, up to its NUL and at most `bytes_max` bytes, to `out`. `None` if
/// not even its first byte can be read.
pub(super) fn foreign_text(address: u64, bytes_max: usize, out: &mut Vec<u8>) -> Option<()> {
    let mut at = usize::try_from(address).ok()?;
    if MUST_TRUST.load(Ordering::Relaxed) {
        // SAFETY: CUPTI keeps names at least as long as the records that point to them. Nothing past
        // the NUL or `bytes_max` bytes is read.
        out.extend_from_slice(unsafe {
            let length = libc::strnlen(at as *const c_char, bytes_max);
            std::slice::from_raw_parts(at as *const u8, length)
        });
        return Some(());
    }
    let mut chunk = [0_u8; 256];
    while out.len() < bytes_max {
        let room = (PAGE - at % PAGE).min(chunk.len()).min(bytes_max - out.len());
        let read = match copy_from(at, &mut chunk[..room]) {
            Ok(read) => read,
            Err(libc::EFAULT) if !out.is_empty() => return Some(()),
            // What is short for a moment (memory, say) is no reason to trust any address from now on.
            Err(code) if !matches!(code, libc::EPERM | libc::ENOSYS | libc::EACCES) => return None,
            Err(_) => {
                MUST_TRUST.store(true, Ordering::Relaxed);
                out.clear();
                return foreign_text(address, bytes_max, out);
            }
        };
        let bytes = chunk.get(..read).unwrap_or(&chunk);
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            out.extend_from_slice(&bytes[..end]);
            return Some(());
        }
        out.extend_from_slice(bytes);
        at = at.checked_add(read).filter(|_| read > 0)?;
    }
    Some(())
}

/// Copies from our own memory; the error is the system's. By the calling thread's id: once the
/// process's first thread has left, the process's own id has no memory any more.
fn copy_from(at: usize, to: &mut [u8]) -> Result<usize, i32> {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: at as *mut c_void, iov_len: to.len() };
    // SAFETY: `local` is ours to write; `remote` is only an address to the kernel, which reports
    // EFAULT where nothing can be read.
    let read = unsafe {
        libc::process_vm_readv(libc::gettid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    usize::try_from(read)
        .map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EFAULT))
}

/// Copies what stands at these places (an address, and how many bytes) into `to`, one after the
/// other; how many bytes it came to before a place that cannot be read. At most [`PLACES_MAX`].
///
/// What is copied from is the *local* side of a write to ourselves: the kernel reads it as it reads
/// any argument, where for the remote side it looks up and pins a page a place, ten times as slow.
pub(super) fn copy_all(places: impl Iterator<Item = (u64, usize)>, to: &mut [u8]) -> usize {
    let place = |(address, bytes)| libc::iovec { iov_base: address as *mut c_void, iov_len: bytes };
    let from: Vec<_> = places
        .take(PLACES_MAX)
        .filter_map(|(address, bytes)| Some(place((usize::try_from(address).ok()?, bytes))))
        .collect();
    let remote = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // SAFETY: `remote` is ours to write, and no more is written than it is long; `from` are only
    // addresses to the kernel, which stops at one where nothing can be read.
    let copied = unsafe {
        let count = from.len() as libc::c_ulong;
        libc::process_vm_writev(libc::gettid(), from.as_ptr(), count, &raw const remote, 1, 0)
    };
    usize::try_from(copied).unwrap_or(0).min(to.len())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A page of its own between two that are not there.
    pub(in crate::source::cupti) struct Page(*mut c_void);

    impl Page {
        pub(in crate::source::cupti) fn with(bytes: &[u8]) -> Self {
            assert!(bytes.len() <= PAGE);
            let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: an anonymous mapping of ours, of which the middle is made usable.
            unsafe {
                let none = libc::PROT_NONE;
                let base = libc::mmap(std::ptr::null_mut(), 3 * PAGE, none, private, -1, 0);
                assert_ne!(base, libc::MAP_FAILED);
                let page = base.byte_add(PAGE);
                let read_write = libc::PROT_READ | libc::PROT_WRITE;
                assert_eq!(libc::mprotect(page, PAGE, read_write), 0);
                page.cast::<u8>().copy_from(bytes.as_ptr(), bytes.len());
                Self(base)
            }
        }

        pub(in crate::source::cupti) fn address(&self) -> u64 {
            (self.0 as usize + PAGE) as u64
        }
    }

    impl Page {
        /// As good as gone, and yet nobody else's meanwhile.
        pub(in crate::source::cupti) fn hide(&self) {
            // SAFETY: the page that `with` made usable.
            let code = unsafe { libc::mprotect(self.0.byte_add(PAGE), PAGE, libc::PROT_NONE) };
            assert_eq!(code, 0);
        }
    }

    impl Drop for Page {
        fn drop(&mut self) {
            // SAFETY: the mapping that `with` made.
            unsafe { libc::munmap(self.0, 3 * PAGE) };
        }
    }

    #[test]
    fn many_places_are_copied_up_to_one_that_is_not_there() {
        let (page, text) = (Page::with(&[b'y'; PAGE]), c"decode");
        let text = text.as_ptr() as u64;
        let end = page.address() + PAGE as u64 - 2;
        for (places, expect) in [
            (vec![], &b""[..]),
            (vec![(text, 3), (end, 2), (text, 7)], b"decyydecode\0"),
            (vec![(text, 3), (end, 3), (text, 7)], b"decyy"),
            (vec![(1, 3), (text, 7)], b""),
        ] {
            let mut out = vec![0; places.iter().map(|(_, bytes)| bytes).sum()];
            let copied = copy_all(places.into_iter(), &mut out);
            assert_eq!(&out[..copied], expect);
        }
    }

    fn read(address: usize, bytes_max: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        foreign_text(address as u64, bytes_max, &mut out).map(|()| out)
    }

    #[test]
    fn texts_are_read_and_bad_addresses_are_not_followed() {
        let short = c"decode";
        assert_eq!(read(short.as_ptr() as usize, 64), Some(b"decode".to_vec()));
        assert_eq!(read(short.as_ptr() as usize, 3), Some(b"dec".to_vec()));
        // Longer than a page, at every place in it.
        let long = std::ffi::CString::new(vec![b'x'; 10_000]).unwrap();
        for offset in [0, 1, 4095, 4096] {
            let expect = long.as_bytes()[offset..].to_vec();
            assert_eq!(read(long.as_ptr() as usize + offset, 65_536), Some(expect));
        }
        for bad in [1, 0xdead_beef_dead_beef, usize::MAX, usize::MAX - 7] {
            assert_eq!(read(bad, 64), None, "{bad:#x}");
        }
    }

    #[test]
    fn a_text_that_ends_with_its_mapping_is_cut() {
        // The page behind it is kept from other threads: none of them maps anything there.
        let page = Page::with(&[b'y'; PAGE]);
        assert_eq!(read(page.address() as usize + PAGE - 5, 64), Some(vec![b'y'; 5]));
    }
}
