//! Exported descriptors of this process: which file they were, so that it can be told when they are
//! closed. Without a lock, because exports are noted in callbacks.

#![expect(unsafe_code, reason = "descriptors of the program's are looked at, never owned")]

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// Open exports that are watched; those past it keep their bytes until their number is used again.
const EXPORTS_MAX: usize = 1024;

const FREE: u32 = 0;
const BUSY: u32 = 1;
const KNOWN: u32 = 2;

struct Export {
    state: AtomicU32,
    descriptor: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
}

static EXPORTS: [Export; EXPORTS_MAX] = [const {
    Export {
        state: AtomicU32::new(FREE),
        descriptor: AtomicI32::new(-1),
        device: AtomicU64::new(0),
        inode: AtomicU64::new(0),
    }
}; EXPORTS_MAX];

/// Which file an open descriptor is of: one system call. `None`: it is not open.
fn identity(descriptor: i32) -> Option<(u64, u64)> {
    if descriptor < 0 {
        return None;
    }
    // SAFETY: never dropped, so nothing of the program's is closed; a number that is not open is
    // answered with an error.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    file.metadata().ok().map(|file| (file.dev(), file.ino()))
}

/// Remembers a descriptor that the driver just made.
pub(super) fn note(descriptor: i32) {
    let Some((device, inode)) = identity(descriptor) else { return };
    // A number of which a closed export is still known is that one's no more.
    let known = |export: &&Export| {
        export.state.load(Ordering::Acquire) == KNOWN
            && export.descriptor.load(Ordering::Relaxed) == descriptor
    };
    let again = EXPORTS.iter().filter(known).find(|export| take(export, KNOWN));
    let place = again.or_else(|| EXPORTS.iter().find(|export| take(export, FREE)));
    if let Some(export) = place {
        export.descriptor.store(descriptor, Ordering::Relaxed);
        export.device.store(device, Ordering::Relaxed);
        export.inode.store(inode, Ordering::Relaxed);
        export.state.store(KNOWN, Ordering::Release);
    }
}

/// Whether an open descriptor is one that the driver made for this process. One system call, and only
/// where its number is known.
pub(super) fn is_ours(descriptor: i32) -> bool {
    let known = EXPORTS.iter().find(|export| {
        export.state.load(Ordering::Acquire) == KNOWN
            && export.descriptor.load(Ordering::Relaxed) == descriptor
    });
    known.is_some_and(|export| {
        let file = (export.device.load(Ordering::Relaxed), export.inode.load(Ordering::Relaxed));
        identity(descriptor) == Some(file)
    })
}

fn take(export: &Export, from: u32) -> bool {
    let taken = export.state.compare_exchange(from, BUSY, Ordering::AcqRel, Ordering::Relaxed);
    taken.is_ok()
}

/// Calls `closed` with each exported descriptor that is not open in this process any more, or is
/// another file by now, and forgets it. One system call for each that is watched. A descriptor that
/// was closed and is another one of the driver's device file cannot be told from itself.
pub fn closed_exports(closed: &mut dyn FnMut(i32)) {
    for export in EXPORTS.iter().filter(|export| export.state.load(Ordering::Acquire) == KNOWN) {
        if !take(export, KNOWN) {
            continue;
        }
        let descriptor = export.descriptor.load(Ordering::Relaxed);
        let (device, inode) =
            (export.device.load(Ordering::Relaxed), export.inode.load(Ordering::Relaxed));
        let is_open = identity(descriptor) == Some((device, inode));
        export.state.store(if is_open { KNOWN } else { FREE }, Ordering::Release);
        if !is_open {
            closed(descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, OwnedFd};

    fn closed() -> Vec<i32> {
        let mut all = Vec::new();
        closed_exports(&mut |descriptor| all.push(descriptor));
        all
    }

    #[test]
    fn a_descriptor_is_told_once_when_it_is_closed_or_another_file() {
        let open = || OwnedFd::from(tempfile::tempfile().expect("a file"));
        let (one, two) = (open(), open());
        let (first, second) = (one.as_raw_fd(), two.as_raw_fd());
        note(first);
        note(second);
        note(-1);
        assert!(closed().is_empty());
        assert!(is_ours(first) && is_ours(second) && !is_ours(-1) && !is_ours(i32::MAX));
        drop(one);
        assert!(!is_ours(first));
        assert_eq!(closed(), [first]);
        assert!(closed().is_empty());
        // The same number, another file: as if `dup2` had been called.
        drop(two);
        let other = open();
        if other.as_raw_fd() == second {
            assert_eq!(closed(), [second]);
        } else {
            assert!(closed().contains(&second));
        }
    }
}
