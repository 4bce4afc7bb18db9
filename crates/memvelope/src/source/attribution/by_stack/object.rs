//! The loaded object that holds an address, asked of the dynamic loader without its lock.
//!
//! glibc 2.35 and later have `_dl_find_object`, made for unwinders: it may be called in a signal
//! handler, waits for nobody, and knows an object from before its code can run until after it no
//! longer can. An object with a frame on the calling thread's stack stays loaded for as long as the
//! frame is there, so that what is found by a return address may be read in place: its headers,
//! its unwind table, its name. Nothing found is kept beyond the callback.

#![expect(unsafe_code, reason = "reads the loader's structures and the headers of loaded objects")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// `struct dl_find_object` of x86-64, and room for later fields.
#[repr(C)]
struct Found {
    flags: u64,
    map_start: u64,
    map_end: u64,
    link_map: *const LinkMap,
    /// Start of the segment `PT_GNU_EH_FRAME`, or null.
    eh_frame: u64,
    reserved: [u64; 16],
}

/// The public part of `struct link_map`.
#[repr(C)]
struct LinkMap {
    addr: u64,
    name: *const c_char,
}

type FindObject = unsafe extern "C" fn(*const c_void, *mut Found) -> c_int;

/// `_dl_find_object`, once it was looked up.
static FIND_OBJECT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Looks the function up; false where the C library has none. Takes the loader's lock.
pub(super) fn look_up() -> bool {
    // SAFETY: a look-up by name among what is loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()) };
    FIND_OBJECT.store(found, Ordering::Release);
    !found.is_null()
}

/// `Elf64_Ehdr` up to what is needed: where in the header they stand.
mod header {
    pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";
    pub(super) const PHOFF: usize = 32;
    pub(super) const PHENTSIZE: usize = 54;
    pub(super) const PHNUM: usize = 56;
}

/// `Elf64_Phdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;

/// The header page: what a loader maps first, and more than enough for the program headers of any
/// linker.
const HEADER_BYTES: u64 = 4096;

/// Segments that are kept; linkers make two to five.
const SEGMENTS_MAX: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    start: u64,
    /// End of what comes from the file: what follows is zeroes.
    end: u64,
    is_code: bool,
}

/// A loaded object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    start: u64,
    end: u64,
    /// Address of `.eh_frame_hdr`.
    pub(super) table: u64,
    segments: [Segment; SEGMENTS_MAX],
    name: *const c_char,
}

impl Object {
    /// The object that holds the code at `address`; `None` if none does, or if it is not built as
    /// linkers build them.
    pub(super) fn at(address: u64) -> Option<Self> {
        let find = FIND_OBJECT.load(Ordering::Acquire);
        if find.is_null() {
            return None;
        }
        // SAFETY: the function of this name has this type, by glibc's manual.
        let find = unsafe { std::mem::transmute::<*mut c_void, FindObject>(find) };
        let mut found = Found {
            flags: 0,
            map_start: 0,
            map_end: 0,
            link_map: std::ptr::null(),
            eh_frame: 0,
            reserved: [0; 16],
        };
        let pc = std::ptr::without_provenance::<c_void>(usize::try_from(address).ok()?);
        // SAFETY: it compares the address with what is loaded and fills `found`.
        if unsafe { find(pc, &raw mut found) } != 0 || found.link_map.is_null() {
            return None;
        }
        // SAFETY: the address is on the stack, so that the object stays loaded (module's head).
        let map = unsafe { found.link_map.read() };
        let (start, end) = (found.map_start, found.map_end);
        let mut object = Self {
            start,
            end,
            table: found.eh_frame,
            segments: Default::default(),
            name: map.name,
        };
        object.read_segments(map.addr)?;
        object.segment(address).filter(|segment| segment.is_code)?;
        Some(object)
    }

    /// Reads the program headers, which the object's first page holds.
    fn read_segments(&mut self, bias: u64) -> Option<()> {
        if self.end.checked_sub(self.start)? < HEADER_BYTES {
            return None;
        }
        let first: *const u8 = std::ptr::with_exposed_provenance(usize::try_from(self.start).ok()?);
        // SAFETY: the loader maps the first segment, which is readable, at the object's start, and
        // at least a page of it.
        let page = unsafe { std::slice::from_raw_parts(first, HEADER_BYTES as usize) };
        let half = |at: usize| Some(u16::from_le_bytes(*page.get(at..)?.first_chunk()?));
        let offset = u64::from_le_bytes(*page.get(header::PHOFF..)?.first_chunk()?);
        let (size, count) = (half(header::PHENTSIZE)?, half(header::PHNUM)?);
        let is_plain = page.starts_with(&header::MAGIC)
            && usize::from(size) == size_of::<ProgramHeader>()
            && offset.checked_add(u64::from(size) * u64::from(count))? <= HEADER_BYTES;
        if !is_plain {
            return None;
        }
        let mut places = self.segments.iter_mut();
        let mut has_header = false;
        for index in 0..usize::from(count) {
            let at = usize::try_from(offset).ok()? + index * size_of::<ProgramHeader>();
            // SAFETY: it lies within the page, as was just seen; any bytes make one.
            let header: ProgramHeader =
                unsafe { first.add(at).cast::<ProgramHeader>().read_unaligned() };
            if header.kind != PT_LOAD {
                continue;
            }
            let start = bias.wrapping_add(header.vaddr);
            let end = start.checked_add(header.filesz)?;
            if start < self.start || end > self.end {
                return None;
            }
            has_header |= header.offset == 0 && start == self.start;
            *places.next()? = Segment { start, end, is_code: header.flags & PF_X != 0 };
        }
        // Else the page was not the header's.
        has_header.then_some(())
    }

    fn segment(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| (segment.start..segment.end).contains(&address))
    }

    /// Whether its code or data are at `address`.
    pub(super) fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Whether its code is there.
    pub(super) fn has_code(&self, address: u64) -> bool {
        self.segment(address).is_some_and(|segment| segment.is_code)
    }

    /// From `address` to the end of the segment that it is in.
    ///
    /// # Safety
    /// The object has a frame on the calling thread's stack, and what is returned is not used once
    /// it has not. The segment is one that the program does not write to meanwhile.
    pub(super) unsafe fn bytes_from<'a>(&self, address: u64) -> Option<&'a [u8]> {
        let end = self.segment(address)?.end;
        let at: *const u8 = std::ptr::with_exposed_provenance(usize::try_from(address).ok()?);
        let len = usize::try_from(end - address).ok()?;
        // SAFETY: the loader has mapped the segment and keeps it, by the caller's promise. Unwind
        // tables and code are not written to.
        Some(unsafe { std::slice::from_raw_parts(at, len) })
    }

    /// The pointer that stands at `address`, in whatever segment that is.
    ///
    /// # Safety
    /// As for [`Self::bytes_from`], but for being written to.
    pub(super) unsafe fn pointer_at(&self, address: u64) -> Option<u64> {
        let last = address.checked_add(7)?;
        if !address.is_multiple_of(8) || self.segment(address)?.end <= last {
            return None;
        }
        let at: *const u64 = std::ptr::with_exposed_provenance(usize::try_from(address).ok()?);
        // SAFETY: mapped, by the caller's promise, and aligned; another thread may be writing, as the
        // loader does when it resolves a symbol, with one store.
        Some(unsafe { at.read_volatile() })
    }

    /// Where it was loaded from, as the loader has it; empty for the main program.
    ///
    /// # Safety
    /// As for [`Self::bytes_from`].
    pub(super) unsafe fn path<'a>(&self) -> &'a [u8] {
        if self.name.is_null() {
            return &[];
        }
        // SAFETY: the loader owns the text for as long as the object is loaded, by the caller's
        // promise.
        unsafe { CStr::from_ptr(self.name) }.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_by_their_code() {
        assert!(look_up(), "this test needs glibc 2.35 or later");
        let own = Object::at(objects_are_found_by_their_code as *const () as u64).unwrap();
        assert!(own.table != 0 && own.holds(own.table) && !own.has_code(own.table));
        // SAFETY: the test's own object and the C library are not unloaded.
        let (own_path, table) = unsafe { (own.path(), own.bytes_from(own.table)) };
        assert_eq!((own_path, table.unwrap()[0]), (&b""[..], 1), "version 1 of the table");
        let libc = Object::at(libc::getpid as *const () as u64).unwrap();
        // SAFETY: as above.
        let path = String::from_utf8_lossy(unsafe { libc.path() }).into_owned();
        assert!(path.contains("libc.so"), "{path}");
    }

    #[test]
    fn what_is_no_code_of_an_object_is_none() {
        assert!(look_up());
        let on_heap = Box::new(5_u64);
        static DATA: u64 = 5;
        for address in [
            0,
            1,
            u64::MAX,
            std::ptr::from_ref(&*on_heap) as u64,
            std::ptr::from_ref(&address_of_nothing) as u64,
            std::ptr::from_ref(&DATA) as u64,
        ] {
            assert!(Object::at(address).is_none(), "{address:#x}");
        }
    }

    fn address_of_nothing() {}
}
