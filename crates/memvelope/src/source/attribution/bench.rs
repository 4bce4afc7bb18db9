//! The door of `benches/attribution.rs`. Behind the feature `bench-internals`; nothing here is stable.

#![expect(unsafe_code, reason = "loads libraries that call back, and walks stacks as libgcc does")]

use super::by_stack::PROBE;
use crate::event::LibraryId;
use std::ffi::{CStr, c_int, c_void};
use std::path::Path;

/// From now on [`library_here`] answers, where there is a method.
///
/// # Errors
/// Why there is none.
pub fn start() -> Result<(), String> {
    super::start(true);
    super::unseen().into_iter().next().map_or(Ok(()), Err)
}

/// As driver callbacks ask it.
#[must_use]
pub fn library_here() -> LibraryId {
    super::library_here()
}

/// The name of what [`library_here`] found.
#[must_use]
pub fn name(library: LibraryId) -> String {
    super::LIBRARIES.name(library)
}

/// What a safe look at a stack takes at least: a copy of a few pages of it.
#[must_use]
pub fn copy_of_stack() -> bool {
    PROBE.is_some_and(|probe| probe())
}

/// What `tests/programs/frames.c` calls a link.
#[repr(C)]
struct Link {
    go: extern "C" fn(*const Link) -> c_int,
    next: *const Link,
    depth: c_int,
}

/// Calls `body` from below the libraries at `paths`, the outermost first, with so many frames of each.
///
/// # Panics
/// If one of them cannot be loaded.
pub fn call_below(paths: &[(&Path, usize)], body: &mut dyn FnMut()) {
    struct Inner<'a> {
        link: Link,
        body: &'a mut dyn FnMut(),
    }
    extern "C" fn call(link: *const Link) -> c_int {
        let call = std::panic::AssertUnwindSafe(|| {
            // SAFETY: the innermost link is the first field of the `Inner` below, which nobody else
            // uses meanwhile.
            let inner = unsafe { &mut *link.cast_mut().cast::<Inner<'_>>() };
            (inner.body)();
        });
        c_int::from(std::panic::catch_unwind(call).is_err())
    }
    let end = Link { go: call, next: std::ptr::null(), depth: 0 };
    let mut inner = Inner { link: end, body };
    let mut links: Vec<Box<Link>> = Vec::new();
    let mut next = (&raw mut inner.link).cast_const();
    for (path, depth) in paths.iter().rev() {
        // SAFETY: a library built of frames.c has no initialisers; it is never closed.
        let library = unsafe { libloading::Library::new(path) }.map(Box::new).map(Box::leak);
        let library = library.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // SAFETY: the function has this type in frames.c.
        let go = unsafe { library.get::<extern "C" fn(*const Link) -> c_int>(b"frames_go") };
        let go = *go.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        links.push(Box::new(Link { go, next, depth: *depth as c_int }));
        next = links.last().map_or(next, |link| std::ptr::from_ref(&**link));
    }
    // SAFETY: all links are alive until the outermost call returns.
    let first = unsafe { &*next };
    (first.go)(next);
}

unsafe extern "C" {
    fn _Unwind_Backtrace(
        visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        data: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// The way of programs that are not inside of a driver's callback: libgcc's unwinder, and `dladdr` for
/// each frame, until there is one of the library whose path ends so. How many frames it took.
#[must_use]
pub fn by_libgcc(ending: &str) -> usize {
    struct Search<'a> {
        ending: &'a [u8],
        frames: usize,
    }
    extern "C" fn visit(context: *mut c_void, data: *mut c_void) -> c_int {
        let look = std::panic::AssertUnwindSafe(|| {
            // SAFETY: `data` is the search below.
            let search = unsafe { &mut *data.cast::<Search<'_>>() };
            search.frames += 1;
            // SAFETY: Dl_info is plain data of pointers, for which all zeroes are valid.
            let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
            // SAFETY: libgcc passes its context.
            let address = std::ptr::without_provenance(unsafe { _Unwind_GetIP(context) });
            // SAFETY: it only compares addresses.
            let found = unsafe { libc::dladdr(address, &raw mut info) };
            found != 0
                && !info.dli_fname.is_null()
                // SAFETY: the loader's own text, of a library that has a frame here.
                && unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes().ends_with(search.ending)
        });
        // Anything but 0 ends it.
        c_int::from(std::panic::catch_unwind(look).unwrap_or(true))
    }
    let mut search = Search { ending: ending.as_bytes(), frames: 0 };
    // SAFETY: the search outlives the call.
    unsafe { _Unwind_Backtrace(visit, (&raw mut search).cast()) };
    search.frames
}
