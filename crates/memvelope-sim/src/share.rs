//! Descriptors that stand for shared memory.
//!
//! An export is a pair of connected sockets. One end is the program's descriptor, to be copied and
//! passed on as it likes; the simulator keeps the other. While any copy of the program's end is
//! open in any process the pair is connected, and the kernel tells when the last one is closed.
//! What the descriptor stands for waits in the socket to be read without being taken, so that
//! any process that has a copy can know.

#![expect(unsafe_code, reason = "recv, fcntl and epoll on descriptors")]

use crate::abi::{Code, Done};
use std::collections::HashMap;
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

/// Exports of which a copy is open somewhere. They are watched together, so that asking whether one
/// was closed costs the same however many there are.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    open: HashMap<u64, Export>,
    made: u64,
    watch: Option<OwnedFd>,
}

impl Exports {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Makes an export, and the program's descriptor. Neither end outlives an `exec`, unless the
    /// program has it so.
    pub(crate) fn make(&mut self, ticket: Ticket, device: usize) -> Done<RawFd> {
        let (mut end, theirs) = UnixStream::pair().map_err(|_| Code::OUT_OF_MEMORY)?;
        end.write_all(&ticket.to_bytes()).map_err(|_| Code::UNKNOWN)?;
        let watch = self.watch()?;
        self.made += 1;
        // That the other end is closed is always told.
        let mut event = libc::epoll_event { events: 0, u64: self.made };
        let fd = end.as_raw_fd();
        // SAFETY: two open descriptors, and an event that is read during the call.
        if unsafe { libc::epoll_ctl(watch, libc::EPOLL_CTL_ADD, fd, &raw mut event) } != 0 {
            return Err(Code::OUT_OF_MEMORY);
        }
        self.open.insert(self.made, Export { end, ticket, device });
        Ok(theirs.into_raw_fd())
    }

    fn watch(&mut self) -> Done<RawFd> {
        if let Some(watch) = &self.watch {
            return Ok(watch.as_raw_fd());
        }
        // SAFETY: asks for a new descriptor.
        let watch = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if watch < 0 {
            return Err(Code::OUT_OF_MEMORY);
        }
        // SAFETY: just made, and nobody else knows it.
        self.watch = Some(unsafe { OwnedFd::from_raw_fd(watch) });
        Ok(watch)
    }

    /// Takes out those of which no copy is open any more.
    pub(crate) fn take_closed(&mut self) -> Vec<Export> {
        /// How many are taken out at a time; the rest is there the next time.
        const AT_ONCE: usize = 64;
        let Some(watch) = &self.watch else { return Vec::new() };
        let watch = watch.as_raw_fd();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; AT_ONCE];
        let mut closed = Vec::new();
        loop {
            let room = AT_ONCE as libc::c_int;
            // SAFETY: there is room for so many events, and a timeout of 0 does not wait.
            let found = unsafe { libc::epoll_wait(watch, events.as_mut_ptr(), room, 0) };
            let found = usize::try_from(found).unwrap_or(0);
            for event in &events[..found] {
                let Some(export) = self.open.remove(&{ event.u64 }) else { continue };
                let (fd, none) = (export.end.as_raw_fd(), std::ptr::null_mut());
                // A forked child may have a copy of our end, which would keep it watched.
                // SAFETY: two open descriptors.
                unsafe { libc::epoll_ctl(watch, libc::EPOLL_CTL_DEL, fd, none) };
                closed.push(export);
            }
            if found < AT_ONCE {
                return closed;
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_what_it_is_until_its_last_copy_is_closed() {
        let ticket =
            Ticket { kind: Kind::Pool, process: 7, object: 1 << 50, bytes: 3 << 40, uuid: [9; 16] };
        let mut exports = Exports::default();
        let fd = exports.make(ticket, 2).unwrap();
        let others: Vec<RawFd> = (0..200).map(|_| exports.make(ticket, 0).unwrap()).collect();
        assert_eq!(super::ticket(fd), Ok(ticket));
        assert_eq!(super::ticket(fd), Ok(ticket), "and again");
        let copy = hold(fd).unwrap();
        // SAFETY: this test's own descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        assert!(exports.take_closed().is_empty(), "a copy is open");
        assert_eq!(super::ticket(copy.as_raw_fd()), Ok(ticket));
        drop(copy);
        let closed = exports.take_closed();
        assert_eq!((closed.len(), closed[0].device), (1, 2));
        for fd in others {
            // SAFETY: this test's own descriptor.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        assert_eq!(exports.take_closed().len(), 200);
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
