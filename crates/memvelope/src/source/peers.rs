//! Other copies of memvelope in this process: the injection library beside the Python module, say.
//!
//! CUPTI keeps one pair of buffer callbacks a process, so a copy that attaches second takes away the
//! first one's records. Therefore each copy exports a table, `memvelope_session_v1`
//! ([`crate::export_session_table`]), and a session looks for the tables of the others before it
//! attaches: whoever comes second becomes the client of the first.
//!
//! A copy that is linked into the main program is found if the program exports the symbol
//! (`-rdynamic`, `-Wl,--export-dynamic-symbol=memvelope_session_v1`; with cargo, in `build.rs`:
//! `cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol=memvelope_session_v1`), else not:
//! [`is_findable`].
//!
//! The table's layout is fixed by its version, and fields are only ever appended, each guarded by
//! the size that stands in front. Its functions may be called from any thread, but not from within
//! driver callbacks; they never unwind.

#![expect(unsafe_code, reason = "dlopen and dlsym are foreign, and so is another copy's table")]

mod owner;
mod tags;
mod tell;

pub(crate) use owner::Refusal;
pub use tell::Teller;
pub(crate) use tell::told;

use super::loader;
use crate::event::{self, TraceContext};
use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The name under which a copy's table is found.
const SYMBOL: &CStr = c"memvelope_session_v1";
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
    /// What the session does for clients; null in a copy that has had none, absent in older ones.
    functions: AtomicPtr<Functions>,
    /// The calling thread's tag in this copy, by its place in [`event::Tag::ALL`]. Absent in older copies,
    /// as is the next.
    tag: extern "C" fn() -> u32,
    /// Copies whose tags this one asks for: those that it found when it took the process, and those
    /// that came later and entered themselves.
    others: [AtomicPtr<SessionTable>; OTHERS_MAX],
}

/// Bytes of the first form, without functions.
const FIRST_FORM_BYTES: usize = 16;
/// Bytes of the second form, without tags.
const SECOND_FORM_BYTES: usize = 24;
/// Copies beside the one that records: an injection library, a Python module and one in the
/// program make two.
const OTHERS_MAX: usize = 6;

/// What a session does for the clients in other copies. Every function returns a [`code`] unless
/// said otherwise. Texts are UTF-8 by address and length.
#[repr(C)]
#[derive(Debug)]
pub struct Functions {
    /// Bytes of this table: a field past them is absent.
    pub size_bytes: u32,
    /// Version of the documents ([`document`]).
    pub version: u32,
    /// Writes a [`document`] as JSON of one moment: `(which, to, room, bytes)`. Where it is larger
    /// than the room, only its size is written, and [`code::TOO_SMALL`] returned.
    pub read: extern "C" fn(u32, *mut u8, usize, *mut usize) -> u32,
    /// Waits at most so many nanoseconds until what is complete is decoded.
    pub flush: extern "C" fn(u64) -> u32,
    /// Asks the planes now.
    pub sample: extern "C" fn() -> u32,
    /// The recorder's clock in nanoseconds; 0 without a session.
    pub now: extern "C" fn() -> u64,
    /// Makes ready for scopes, which the first one does otherwise.
    pub scope_prepare: extern "C" fn() -> u32,
    /// Opens a scope: `(name, bytes, trace or null)`. Its id, 0 if refused.
    pub scope_open: extern "C" fn(*const u8, usize, *const Trace) -> u64,
    /// From now on what the calling thread launches belongs to it: `(id, task)`. [`code::OK`] if
    /// there is something to leave. Tasks as in [`crate::runtime::OpenScope::enter`].
    pub scope_enter: extern "C" fn(u64, u64) -> u32,
    /// Ends that: `(id, task)`.
    pub scope_leave: extern "C" fn(u64, u64) -> u32,
    /// The same between two steps of a task, as [`crate::runtime::OpenScope::suspend`].
    pub scope_suspend: extern "C" fn(u64, u64) -> u32,
    /// Ends the scope, with a span of the calling thread: `(id, when it began)`.
    pub scope_end: extern "C" fn(u64, u64) -> u32,
    /// Puts a tag (its place in [`event::Tag::ALL`]) in force on the calling thread; returns the former.
    pub set_tag: extern "C" fn(u32) -> u32,
    /// Writes the trace: `(path, bytes, most bytes of the file, five numbers of TraceStats)`.
    pub write_trace: extern "C" fn(*const u8, usize, u64, *mut [u64; 5]) -> u32,
    /// Leaves CUPTI to others: `(why, bytes)`.
    pub pause: extern "C" fn(*const u8, usize) -> u32,
    /// Ends that. [`code::OK`] where it records again.
    pub resume: extern "C" fn() -> u32,
    /// Reads a device's planes together: `(device, who tells the framework plane or none, its
    /// data)`. Its epoch is then in [`document::EPOCHS`]. The second form of the table begins here.
    pub read_epoch: extern "C" fn(u32, Option<Teller>, *mut c_void) -> u32,
    /// Takes a framework plane as JSON: `(text, bytes)`.
    pub accept_framework: extern "C" fn(*const u8, usize) -> u32,
    /// Notes that so many bytes were asked for: `(device, bytes)`.
    pub note_request: extern "C" fn(u32, u64) -> u32,
    /// Answers a [`question`], JSON to JSON: `(which, text, bytes, to, room, bytes)`; as
    /// [`Self::read`] otherwise.
    pub answer: extern "C" fn(u32, *const u8, usize, *mut u8, usize, *mut usize) -> u32,
}

/// Bytes of a table whose last field is `resume`.
const FUNCTIONS_FIRST_BYTES: usize = std::mem::offset_of!(Functions, read_epoch);

/// A scope's place in a distributed trace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// As in a `traceparent` header, first byte first.
    pub trace_id: [u8; 16],
    /// The caller's span; 0 if only the trace is known.
    pub span_id: u64,
    /// Whether the caller records its own part: 0 or 1.
    pub is_sampled: u64,
}

impl From<TraceContext> for Trace {
    fn from(context: TraceContext) -> Self {
        Self {
            trace_id: context.trace_id.to_be_bytes(),
            span_id: context.span_id,
            is_sampled: u64::from(context.is_sampled),
        }
    }
}

impl From<Trace> for TraceContext {
    fn from(trace: Trace) -> Self {
        Self {
            trace_id: u128::from_be_bytes(trace.trace_id),
            span_id: trace.span_id,
            is_sampled: trace.is_sampled != 0,
        }
    }
}

/// What the functions return.
pub mod code {
    /// Done.
    pub const OK: u32 = 0;
    /// The copy has no session, or one that is ending.
    pub const NO_SESSION: u32 = 1;
    /// This process was forked from the one that records.
    pub const FORKED: u32 = 2;
    /// The document is larger than the room for it.
    pub const TOO_SMALL: u32 = 3;
    /// It took longer than it was given.
    pub const TIMED_OUT: u32 = 4;
    /// It could not be done.
    pub const FAILED: u32 = 5;
    /// An argument makes no sense, or is of a later version.
    pub const BAD_ARGUMENT: u32 = 6;
    /// A bug of ours, caught at the edge.
    pub const PANICKED: u32 = 7;
}

/// What can be read.
pub mod document {
    /// [`crate::snapshot::Snapshot`].
    pub const SNAPSHOT: u32 = 0;
    /// [`crate::runtime::Session::report`].
    pub const REPORT: u32 = 1;
    /// [`crate::runtime::Mode`].
    pub const MODE: u32 = 2;
    /// [`crate::runtime::SelfCost`].
    pub const SELF_COST: u32 = 3;
    /// [`crate::source::cupti::State`].
    pub const STATE: u32 = 4;
    /// The last [`crate::snapshot::Epoch`] of each device, with its index.
    pub const EPOCHS: u32 = 5;
}

/// What can be asked.
pub mod question {
    /// [`crate::runtime::Session::would_fit`]: device, bytes and [`crate::snapshot::Via`].
    pub const WOULD_FIT: u32 = 0;
}

static TABLE: SessionTable = SessionTable {
    size_bytes: size_of::<SessionTable>() as u32,
    version: VERSION,
    owner: AtomicU64::new(0),
    functions: AtomicPtr::new(std::ptr::null_mut()),
    tag: tags::tag_here,
    others: [const { AtomicPtr::new(std::ptr::null_mut()) }; OTHERS_MAX],
};

/// This copy's table.
#[must_use]
pub fn session_table() -> *const SessionTable {
    &raw const TABLE
}

/// Says what this copy's sessions do for clients.
pub(crate) fn serve(functions: &'static Functions) {
    TABLE.functions.store(std::ptr::from_ref(functions).cast_mut(), Ordering::Release);
}

/// Exports this copy's table, once: `memvelope::export_session_table!();`
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

/// Another copy, which has the process.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) path: String,
    table: &'static SessionTable,
}

/// How long a copy waits for another that starts at the same time and may have the process already:
/// it looks for others meanwhile, and calls nothing that hangs.
const RIVAL_MAX: Duration = Duration::from_secs(2);

/// Takes the process for this copy. `Err` is the copy that has it already.
pub(crate) fn claim() -> Result<(), Owner> {
    TABLE.owner.store(word(STARTING), Ordering::SeqCst);
    let deadline = Instant::now() + RIVAL_MAX;
    event::look_elsewhere(tags::tag_elsewhere);
    for (path, peer) in peers() {
        TABLE.enter(peer);
        let is_first = std::ptr::from_ref(peer).addr() < session_table().addr();
        loop {
            match rule(peer.owner.load(Ordering::SeqCst), is_first) {
                Rule::Next => break,
                Rule::Wait if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Rule::Wait | Rule::Yield => {
                    release();
                    return Err(Owner { path, table: peer });
                }
            }
        }
    }
    TABLE.owner.store(word(RUNNING), Ordering::SeqCst);
    Ok(())
}

/// What a copy that has said that it starts does about another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// It is not in the way.
    Next,
    /// It starts too, and may have looked at us before we said so: it has the process then.
    Wait,
    /// It has the process, or goes first.
    Yield,
}

/// Of two that start at once the lower address goes first: the other one yields when it sees it. But
/// only if it sees it; so the first one waits until the other has made up its mind.
fn rule(other: u64, is_first: bool) -> Rule {
    if other == word(RUNNING) || (other == word(STARTING) && is_first) {
        Rule::Yield
    } else if other == word(STARTING) {
        Rule::Wait
    } else {
        Rule::Next
    }
}

/// Gives the process back.
pub(crate) fn release() {
    TABLE.owner.store(0, Ordering::SeqCst);
}

/// Whether other copies can find this one: whether the object that it is in exports its table.
#[must_use]
pub fn is_findable() -> bool {
    // Looked up once: every report says it, and to open some hundred objects each time takes the
    // loader's lock from the host. No initialisation by one thread for others, who would wait.
    static KNOWN: OnceLock<bool> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return *known;
    }
    let found = all_tables().iter().any(|(_, table)| std::ptr::eq(*table, session_table()));
    let _ = KNOWN.set(found);
    found
}

/// The other copy that has the process, if one has.
pub(crate) fn running() -> Option<Owner> {
    let has_process =
        |(_, table): &(String, &SessionTable)| table.owner.load(Ordering::SeqCst) == word(RUNNING);
    peers().into_iter().find(has_process).map(|(path, table)| Owner { path, table })
}

/// The tables of all other copies, with the paths of their objects.
fn peers() -> Vec<(String, &'static SessionTable)> {
    let mut found = all_tables();
    found.retain(|(_, table)| !std::ptr::eq(*table, session_table()));
    found
}

fn all_tables() -> Vec<(String, &'static SessionTable)> {
    let objects = loader::loaded_objects();
    let named = objects.iter().filter_map(|path| Some((path, table_of(Some(path))?)));
    let mut found: Vec<(String, &SessionTable)> =
        named.map(|(path, table)| (path.to_string_lossy().into_owned(), table)).collect();
    // The main program has no path by which it could be opened. A look-up in it also searches what
    // was loaded with it; what it finds there is known already.
    if let Some(table) = table_of(None)
        && !found.iter().any(|(_, known)| std::ptr::eq(*known, table))
    {
        found.push(("the main program".into(), table));
    }
    found
}

/// The table that an object exports; `None` is the main program.
fn table_of(object: Option<&OsStr>) -> Option<&'static SessionTable> {
    let path = object.map(|object| CString::new(object.as_bytes())).transpose().ok()?;
    let name = path.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the path is a C string or null; RTLD_NOLOAD loads nothing and so runs no initialiser.
    let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle is open, the name is a C string.
    let symbol = unsafe { libc::dlsym(handle, SYMBOL.as_ptr()) };
    // dlsym also searches what the object depends on: only its own symbol counts.
    let is_own = |object: &OsStr| loader::path_of(symbol).as_deref() == Some(object);
    if symbol.is_null() || !object.is_none_or(is_own) {
        // SAFETY: gives back the reference taken above; the host's own keeps the object loaded.
        unsafe { libc::dlclose(handle) };
        return None;
    }
    // The reference is kept: a copy whose table we read is never unloaded under us.
    // SAFETY: whoever exports this name promises this type: a copy of memvelope of version 1.
    let get: extern "C" fn() -> *const SessionTable =
        unsafe { std::mem::transmute::<*mut c_void, _>(symbol) };
    let table = get();
    if table.is_null() {
        return None;
    }
    // SAFETY: the table is its object's static, which stays loaded; every form has these two.
    let (size, version) = unsafe { ((*table).size_bytes as usize, (*table).version) };
    // SAFETY: as above. Of a table of the first form nothing past its size is read: see
    // [`Owner::functions`].
    (version == VERSION && size >= FIRST_FORM_BYTES).then(|| unsafe { &*table })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_alone_gets_the_process_and_gives_it_back() {
        assert!(peers().is_empty() && !is_findable(), "the test binary exports no table");
        for _ in 0..2 {
            assert!(claim().is_ok());
            assert_eq!(TABLE.owner.load(Ordering::SeqCst), word(RUNNING));
            release();
            assert_eq!(TABLE.owner.load(Ordering::SeqCst), 0);
        }
    }

    /// Two copies, step by step in every order: one gets the process, never both, and nobody waits
    /// for ever.
    #[test]
    fn of_two_that_start_at_once_one_gets_the_process() {
        #[derive(Clone, Copy, PartialEq)]
        enum At {
            Begin,
            Look,
            Take,
            Owner,
            Client,
        }
        fn step(at: &mut At, words: &mut [u64; 2], own: usize) {
            match at {
                At::Begin => (words[own], *at) = (word(STARTING), At::Look),
                At::Look => match rule(words[1 - own], own == 1) {
                    Rule::Next => *at = At::Take,
                    Rule::Wait => {}
                    Rule::Yield => (words[own], *at) = (0, At::Client),
                },
                At::Take => (words[own], *at) = (word(RUNNING), At::Owner),
                At::Owner | At::Client => {}
            }
        }
        for order in 0..1_u32 << 10 {
            let (mut at, mut words) = ([At::Begin; 2], [0; 2]);
            for turn in 0..10 {
                let own = (order >> turn) as usize & 1;
                step(&mut at[own], &mut words, own);
            }
            // Then both to the end, in turns.
            for turn in 0..12 {
                step(&mut at[turn & 1], &mut words, turn & 1);
            }
            let owners = at.iter().filter(|at| **at == At::Owner).count();
            let clients = at.iter().filter(|at| **at == At::Client).count();
            assert_eq!((owners, clients), (1, 1), "{order:b}");
        }
    }

    #[test]
    fn an_older_copy_has_no_functions() {
        // The first form ends before the functions: what lies there is not a pointer of ours.
        extern "C" fn not_there() -> u32 {
            std::panic::catch_unwind(|| unreachable!()).unwrap_or(0)
        }
        static OLD: SessionTable = SessionTable {
            size_bytes: FIRST_FORM_BYTES as u32,
            version: VERSION,
            owner: AtomicU64::new(0),
            functions: AtomicPtr::new(std::ptr::dangling_mut()),
            tag: not_there,
            others: [const { AtomicPtr::new(std::ptr::null_mut()) }; OTHERS_MAX],
        };
        let owner = Owner { path: "old.so".into(), table: &OLD };
        assert!(!owner.is_able() && !owner.has_process());
        assert_eq!(owner.read(document::SNAPSHOT), Err(Refusal(code::NO_SESSION)));
        assert_eq!(owner.flush(Duration::ZERO), Err(Refusal(code::NO_SESSION)));
        assert_eq!((owner.now(), owner.scope_open("x", None)), (0, 0));
        owner.greet();
        TABLE.enter(&OLD);
        let is_null = |place: &AtomicPtr<SessionTable>| place.load(Ordering::Relaxed).is_null();
        assert!(OLD.others.iter().all(is_null), "nothing is written past its end");
        assert!(TABLE.others.iter().all(is_null), "and nothing called");
    }

    #[test]
    fn a_trace_keeps_the_order_of_its_bytes() {
        let context: TraceContext =
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
        let trace = Trace::from(context);
        assert_eq!(trace.trace_id[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!(TraceContext::from(trace), context);
    }

    #[test]
    fn the_layout_only_grows() {
        assert_eq!(std::mem::offset_of!(SessionTable, functions), FIRST_FORM_BYTES);
        assert_eq!(std::mem::offset_of!(SessionTable, tag), SECOND_FORM_BYTES);
        assert_eq!(size_of::<SessionTable>(), SECOND_FORM_BYTES + 8 * (1 + OTHERS_MAX));
        assert_eq!(FUNCTIONS_FIRST_BYTES, 8 + 14 * 8);
        assert_eq!(size_of::<Functions>(), 8 + 18 * 8);
        assert_eq!(std::mem::offset_of!(Functions, read), 8);
        assert_eq!(std::mem::offset_of!(Functions, resume), 8 + 13 * 8);
    }
}
