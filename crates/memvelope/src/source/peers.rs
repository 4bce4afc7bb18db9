//! Other copies of memvelope in this process: the injection library beside the Python module, say.
//!
//! CUPTI keeps one pair of buffer callbacks a process, so a copy that attaches second takes away the
//! first one's records. Therefore each copy that is a shared library exports a table,
//! `memvelope_session_v1` ([`crate::export_session_table`]), and a session looks for the tables of
//! the others before it attaches: whoever comes second leaves CUPTI alone and says who has it.
//!
//! A copy that is linked into the main program exports nothing and is not found.

#![expect(unsafe_code, reason = "dlopen and dlsym are foreign, and so is another copy's table")]

use super::loader;
use std::ffi::{CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The name under which a copy's table is found.
const SYMBOL: &std::ffi::CStr = c"memvelope_session_v1";
const VERSION: u32 = 1;

/// A session is looking for the others.
const STARTING: u64 = 1;
/// A session has CUPTI, or is about to attach to it.
const RUNNING: u64 = 2;

/// What a copy tells the others. Its layout is fixed by its version; fields are only ever appended.
#[repr(C)]
#[derive(Debug)]
pub struct SessionTable {
    size_bytes: u32,
    version: u32,
    /// Process id in the upper half (a forked child inherits its parent's table), state in the
    /// lower; 0 while this copy has no session.
    owner: AtomicU64,
}

static TABLE: SessionTable = SessionTable {
    size_bytes: size_of::<SessionTable>() as u32,
    version: VERSION,
    owner: AtomicU64::new(0),
};

/// This copy's table.
#[must_use]
pub fn session_table() -> *const SessionTable {
    &raw const TABLE
}

/// Exports this copy's table from a shared library, once: `memvelope::export_session_table!();`
#[macro_export]
macro_rules! export_session_table {
    () => {
        /// Where other copies of memvelope in this process find this one.
        #[unsafe(no_mangle)]
        pub extern "C" fn memvelope_session_v1() -> *const $crate::source::peers::SessionTable {
            std::panic::catch_unwind($crate::source::peers::session_table)
                .unwrap_or(std::ptr::null())
        }
    };
}

fn word(state: u64) -> u64 {
    u64::from(std::process::id()) << 32 | state
}

/// Takes the process for this copy. `Err` is the path of the copy that has it already.
pub(crate) fn claim() -> Result<(), String> {
    TABLE.owner.store(word(STARTING), Ordering::SeqCst);
    for (path, peer) in peers() {
        let owner = peer.owner.load(Ordering::SeqCst);
        // Two that start at once see each other: the lower address goes first.
        let is_first = std::ptr::from_ref(peer).addr() < session_table().addr();
        if owner == word(RUNNING) || (owner == word(STARTING) && is_first) {
            release();
            return Err(path);
        }
    }
    TABLE.owner.store(word(RUNNING), Ordering::SeqCst);
    Ok(())
}

/// Gives the process back.
pub(crate) fn release() {
    TABLE.owner.store(0, Ordering::SeqCst);
}

/// The tables of all other copies, with the paths of their objects.
fn peers() -> Vec<(String, &'static SessionTable)> {
    let objects = loader::loaded_objects();
    let found = objects.iter().filter_map(|path| Some((path, table_of(path)?)));
    let others = found.filter(|(_, table)| !std::ptr::eq(*table, session_table()));
    others.map(|(path, table)| (path.to_string_lossy().into_owned(), table)).collect()
}

fn table_of(object: &OsStr) -> Option<&'static SessionTable> {
    let path = CString::new(object.as_bytes()).ok()?;
    // SAFETY: the path is a C string; RTLD_NOLOAD loads nothing and so runs no initialiser.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle is open, the name is a C string.
    let symbol = unsafe { libc::dlsym(handle, SYMBOL.as_ptr()) };
    // dlsym also searches what the object depends on: only its own symbol counts.
    if symbol.is_null() || loader::path_of(symbol).as_deref() != Some(object) {
        // SAFETY: gives back the reference taken above; the host's own keeps the object loaded.
        unsafe { libc::dlclose(handle) };
        return None;
    }
    // The reference is kept: a copy whose table we read is never unloaded under us.
    // SAFETY: whoever exports this name promises this type: a copy of memvelope of version 1.
    let get: extern "C" fn() -> *const SessionTable =
        unsafe { std::mem::transmute::<*mut c_void, _>(symbol) };
    // SAFETY: the function returns null or its object's static, which stays loaded.
    let table = unsafe { get().as_ref() }?;
    let is_known =
        table.version == VERSION && table.size_bytes as usize >= size_of::<SessionTable>();
    is_known.then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_alone_gets_the_process_and_gives_it_back() {
        assert!(peers().is_empty(), "the test binary exports no table");
        for _ in 0..2 {
            assert_eq!(claim(), Ok(()));
            assert_eq!(TABLE.owner.load(Ordering::SeqCst), word(RUNNING));
            release();
            assert_eq!(TABLE.owner.load(Ordering::SeqCst), 0);
        }
    }
}
