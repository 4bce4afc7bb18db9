//! A file as words that two processes share.

#![expect(unsafe_code, reason = "mmap, memfd_create, fallocate and clock_gettime are foreign")]

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A shared mapping; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is process-wide and is only ever accessed as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes the file, with every byte allocated, for this user alone.
    pub(super) fn create(path: &Path, bytes: usize) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let outcome = allocate(&file, bytes).and_then(|()| Self::of(&file, bytes));
        if outcome.is_err() {
            // Best effort: the failure itself is what the caller must hear about.
            let _ = std::fs::remove_file(path);
        }
        outcome
    }

    /// Makes a file without a path, of a size that can never change again. Its descriptor is the
    /// way to it (`/proc/PID/fd`), closes on `exec`, and is left open for good: see [`Anonymous`].
    pub(super) fn anonymous(name: &CStr, bytes: usize) -> io::Result<(Self, Anonymous)> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a C string that lives as long as the call.
        let descriptor = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let file = unsafe { File::from_raw_fd(descriptor) };
        allocate(&file, bytes)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: an integer command on a descriptor that is open.
        if unsafe { libc::fcntl(descriptor, libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mapping = Self::of(&file, bytes)?;
        let identity = file.metadata().map(|data| (data.dev(), data.ino()))?;
        Ok((mapping, Anonymous { descriptor: file.into_raw_fd(), identity }))
    }

    /// Maps a file of exactly `bytes`.
    pub(super) fn open(path: &Path, bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let found = file.metadata()?.len();
        // Beyond the end of a file lies SIGBUS.
        if found != bytes as u64 {
            return Err(io::Error::other(format!(
                "not a summary file of this version of memvelope: it has {found} bytes, expected \
                 {bytes}"
            )));
        }
        Self::of(&file, bytes)
    }

    fn of(file: &File, bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: asks for a new mapping anywhere; nothing of ours is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<AtomicU64>())
            .ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { start, words: bytes / size_of::<AtomicU64>() })
    }
}

impl Deref for Mapping {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has so many words, is aligned to a page, lives as long as `self`, and
        // its bytes are allocated in the file. Other processes change them atomically only.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `of` mapped; nobody holds a reference into it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}

/// The descriptor of a file without a path. It is never closed: the program may have closed it and
/// been given the same number for a file of its own, which is then not ours to close.
#[derive(Debug)]
pub(super) struct Anonymous {
    descriptor: RawFd,
    identity: (u64, u64),
}

impl Anonymous {
    /// Whether the descriptor still is that file: programs that close all they have close it, too.
    pub(super) fn is_open(&self) -> bool {
        // SAFETY: all zero is a valid `stat`; the call writes into it and nowhere else.
        let (code, stat) = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            (libc::fstat(self.descriptor, &raw mut stat), stat)
        };
        code == 0 && (stat.st_dev, stat.st_ino) == self.identity
    }
}

fn allocate(file: &File, bytes: usize) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit, which is ours.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) } == 0;
    // Past this limit the kernel does not only refuse, it sends SIGXFSZ.
    if known && limit.rlim_cur < bytes as u64 {
        return Err(io::Error::other(format!(
            "files of this process are limited to {} bytes (RLIMIT_FSIZE), {bytes} are needed",
            limit.rlim_cur
        )));
    }
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as `file` lives.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Now, as nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, which is ours.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0 {
        return 0;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
