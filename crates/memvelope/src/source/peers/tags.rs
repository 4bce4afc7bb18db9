//! Tags of other copies: the copy that records asks those that it knows for the calling thread's tag,
//! so that a tag need not be told before anybody records.

use super::{SessionTable, TABLE, loader, session_table};
use crate::event::{self, Tag};
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::Ordering;

/// The calling thread's tag in this copy.
pub(super) extern "C" fn tag_here() -> u32 {
    std::panic::catch_unwind(|| event::own_tag() as u32).unwrap_or(0)
}

/// The calling thread's tag in another copy. Lock-free: it is asked for in driver callbacks.
pub(super) fn tag_elsewhere() -> Tag {
    for other in &TABLE.others {
        // SAFETY: only tables of copies that stay loaded are entered.
        let Some(other) = (unsafe { other.load(Ordering::Acquire).as_ref() }) else { break };
        let tag = Tag::ALL.get((other.tag)() as usize).copied().unwrap_or_default();
        if tag != Tag::Untagged {
            return tag;
        }
    }
    Tag::Untagged
}

impl SessionTable {
    pub(super) const fn has_tags(&self) -> bool {
        self.size_bytes as usize >= size_of::<Self>()
    }

    /// Enters `other`, once. Past the bound it is not asked, and its tags are not seen.
    pub(super) fn enter(&self, other: &'static Self) {
        if !other.has_tags() {
            return;
        }
        let other = std::ptr::from_ref(other).cast_mut();
        for place in &self.others {
            let null = std::ptr::null_mut();
            match place.compare_exchange(null, other, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(known) if known == other => return,
                Err(_) => {}
            }
        }
    }
}

/// Keeps the object that this copy is in loaded: others call into it from now on.
pub(super) fn stay_loaded() {
    let Some(path) = loader::path_of(session_table().cast()) else { return };
    let Ok(path) = CString::new(path.into_vec()) else { return };
    // The main program, whose path need not be one that can be opened, is never unloaded anyway.
    // SAFETY: the path is a C string; RTLD_NOLOAD loads nothing and so runs no initialiser.
    let _ = unsafe {
        libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE)
    };
}

#[cfg(test)]
mod tests {
    use super::super::{OTHERS_MAX, VERSION};
    use super::*;
    use std::sync::atomic::{AtomicPtr, AtomicU64};

    #[test]
    fn a_copy_is_asked_for_its_tag_once_it_is_entered() {
        extern "C" fn weights() -> u32 {
            std::panic::catch_unwind(|| Tag::Weights as u32).unwrap_or(0)
        }
        extern "C" fn later_version() -> u32 {
            std::panic::catch_unwind(|| u32::MAX).unwrap_or(0)
        }
        fn table(tag: extern "C" fn() -> u32) -> &'static SessionTable {
            Box::leak(Box::new(SessionTable {
                size_bytes: size_of::<SessionTable>() as u32,
                version: VERSION,
                owner: AtomicU64::new(0),
                functions: AtomicPtr::new(std::ptr::null_mut()),
                tag,
                others: [const { AtomicPtr::new(std::ptr::null_mut()) }; OTHERS_MAX],
            }))
        }
        let count = |table: &SessionTable| {
            table.others.iter().filter(|place| !place.load(Ordering::Relaxed).is_null()).count()
        };
        let owner = table(weights);
        let unknown = table(later_version);
        for _ in 0..3 {
            owner.enter(unknown);
        }
        assert_eq!(count(owner), 1, "once");
        for _ in 0..2 * OTHERS_MAX {
            owner.enter(table(weights));
        }
        assert_eq!(count(owner), OTHERS_MAX, "bounded");
        assert_eq!((tag_here(), tag_elsewhere()), (0, Tag::Untagged));
    }
}
