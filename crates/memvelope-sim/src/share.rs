//! Descriptors that stand for shared memory.
//!
//! An export is a pair of connected sockets. One end is the program's descriptor, to be copied and
//! passed on as it likes; the simulator keeps the other. While any copy of the program's end is
//! open in any process the pair is connected, and the kernel tells when the last one is closed.
//! What the descriptor stands for waits in the socket to be read without being taken, so that
//! any process that has a copy can know.

#![expect(unsafe_code, reason = "recv, fcntl and poll on descriptors that the program passes")]

use crate::abi::{Code, Done};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory = 1,
    Multicast = 2,
    Pool = 3,
}

/// What is known of shared memory by its descriptor alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) kind: Kind,
    /// The process that made it.
    pub(crate) process: u32,
    /// Its number there.
    pub(crate) object: u64,
    pub(crate) bytes: u64,
    /// The device that it is on.
    pub(crate) uuid: [u8; 16],
}

/// First bytes of a ticket: other sockets are not taken for one.
const MAGIC: u64 = u64::from_le_bytes(*b"memshare");
/// Size of a ticket on the wire.
const TICKET_BYTES: usize = 56;

impl Ticket {
    fn to_bytes(self) -> [u8; TICKET_BYTES] {
        let words = [MAGIC, self.kind as u64, self.process.into(), self.object, self.bytes];
        let mut bytes = [0; TICKET_BYTES];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes[40..].copy_from_slice(&self.uuid);
        bytes
    }

    fn from_bytes(bytes: &[u8; TICKET_BYTES]) -> Option<Self> {
        let mut words = [0; 5];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().ok()?);
        }
        let [magic, kind, process, object, size] = words;
        let kind = [Kind::Memory, Kind::Multicast, Kind::Pool]
            .into_iter()
            .find(|known| *known as u64 == kind && magic == MAGIC)?;
        let uuid = bytes[40..].try_into().ok()?;
        Some(Self { kind, process: u32::try_from(process).ok()?, object, bytes: size, uuid })
    }
}

/// The simulator's end of an export.
#[derive(Debug)]
pub(crate) struct Export {
    end: UnixStream,
    pub(crate) ticket: Ticket,
    /// Index of the device, for the books.
    pub(crate) device: usize,
}

/// Makes an export: our end, and the program's descriptor. Neither outlives an `exec`, unless the
/// program has it so.
pub(crate) fn export(ticket: Ticket, device: usize) -> Done<(Export, RawFd)> {
    let (mut end, theirs) = UnixStream::pair().map_err(|_| Code::OUT_OF_MEMORY)?;
    end.write_all(&ticket.to_bytes()).map_err(|_| Code::UNKNOWN)?;
    Ok((Export { end, ticket, device }, theirs.into_raw_fd()))
}

/// What a descriptor of the program stands for.
pub(crate) fn ticket(fd: RawFd) -> Done<Ticket> {
    let mut bytes = [0; TICKET_BYTES];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: `bytes` has room for what is asked; whatever `fd` is, a peek changes nothing.
    let n = unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), flags) };
    let whole = usize::try_from(n).is_ok_and(|n| n == TICKET_BYTES);
    Ticket::from_bytes(&bytes).filter(|_| whole).ok_or(Code::INVALID_VALUE)
}

/// A copy of a descriptor of the program, so that what it stands for stays.
pub(crate) fn hold(fd: RawFd) -> Done<OwnedFd> {
    // SAFETY: asks for a copy of a descriptor; a number that is none is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: just made, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes out the exports of which no copy is open any more.
pub(crate) fn take_closed(exports: &mut Vec<Export>) -> Vec<Export> {
    let mut polled: Vec<libc::pollfd> = exports
        .iter()
        .map(|export| libc::pollfd { fd: export.end.as_raw_fd(), events: 0, revents: 0 })
        .collect();
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `count` entries, and a timeout of 0 that does not wait.
    let changed = unsafe { libc::poll(polled.as_mut_ptr(), count, 0) };
    if changed <= 0 {
        return Vec::new();
    }
    let closed = libc::POLLHUP | libc::POLLERR;
    let mut states = polled.iter().map(|polled| polled.revents & closed != 0);
    exports.extract_if(.., |_| states.next().unwrap_or(false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_what_it_is_until_its_last_copy_is_closed() {
        let ticket =
            Ticket { kind: Kind::Pool, process: 7, object: 1 << 50, bytes: 3 << 40, uuid: [9; 16] };
        let (export, fd) = export(ticket, 2).unwrap();
        let mut exports = vec![export];
        assert_eq!(super::ticket(fd), Ok(ticket));
        assert_eq!(super::ticket(fd), Ok(ticket), "and again");
        let copy = hold(fd).unwrap();
        // SAFETY: this test's own descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        assert!(take_closed(&mut exports).is_empty(), "a copy is open");
        assert_eq!(super::ticket(copy.as_raw_fd()), Ok(ticket));
        drop(copy);
        assert_eq!(take_closed(&mut exports).len(), 1);
        assert!(exports.is_empty());
    }

    #[test]
    fn other_descriptors_are_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let (_left, right) = UnixStream::pair().unwrap();
        for fd in [file.as_raw_fd(), right.as_raw_fd(), -1, 1 << 20] {
            assert_eq!(super::ticket(fd), Err(Code::INVALID_VALUE), "{fd}");
        }
        assert!(hold(-1).is_err());
    }
}
