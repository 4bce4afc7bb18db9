//! Walks PyTorch's snapshot: dicts and lists of Python, read in place.
//!
//! A million blocks in some tens of milliseconds leaves no time for a reference count, a hash or an
//! allocation each. So dicts are stepped through (`PyDict_Next`), and a key is known by its address:
//! PyTorch uses one string object for all keys of a name, other writers do mostly, and who does not is
//! served by comparing texts.
//!
//! No code of Python's runs during a walk: nothing is called that could (only the types themselves
//! and exact comparisons of strings), so nobody can change what is read, and what is borrowed lives.
#![expect(unsafe_code, reason = "borrowed references: counting them costs as much as the rest")]

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::types::{PyList, PyTuple};
use pyo3::{ffi, prelude::*};
use std::ffi::CStr;
use std::ptr::{self, NonNull};

/// What is not among the names.
const OTHER: u8 = u8::MAX;
/// Keys of a dict whose places are remembered; a block has six.
const HINTS: usize = 16;
/// Items that are on their way from memory while one is read: with none, waiting for the first look
/// at each dict is an eighth of the whole.
const AHEAD: usize = 8;
/// Strings that are known by address; beyond, texts are compared each time.
const LEARNED_MAX: usize = 64;

/// Tells which of some names a string is.
pub(super) struct Names<'py> {
    names: &'static [&'static CStr],
    /// Held, so that no other string can come to lie there.
    learned: Vec<(Bound<'py, PyAny>, u8)>,
    /// What stood at this place last.
    hints: [(*mut ffi::PyObject, u8); HINTS],
}

impl<'py> Names<'py> {
    pub(super) fn new(names: &'static [&'static CStr]) -> Self {
        Self { names, learned: Vec::new(), hints: [(ptr::null_mut(), OTHER); HINTS] }
    }

    #[inline]
    fn number(&mut self, py: Python<'py>, text: *mut ffi::PyObject, place: usize) -> u8 {
        match self.hints.get(place) {
            Some((known, number)) if *known == text => *number,
            _ => self.find(py, text, place),
        }
    }

    fn find(&mut self, py: Python<'py>, text: *mut ffi::PyObject, place: usize) -> u8 {
        let known = self.learned.iter().find(|(known, _)| known.as_ptr() == text);
        if let Some((_, number)) = known {
            let number = *number;
            self.hint(place, text, number);
            return number;
        }
        let number = self.compare(text);
        if self.learned.len() < LEARNED_MAX {
            // SAFETY: `text` is alive, see the callers: borrowed from a container that nobody can
            // change during the walk. The new reference keeps it.
            let held = unsafe { Bound::from_borrowed_ptr(py, text) };
            self.learned.push((held, number));
            self.hint(place, text, number);
        }
        number
    }

    /// Only of strings that are held.
    fn hint(&mut self, place: usize, text: *mut ffi::PyObject, number: u8) {
        if let Some(hint) = self.hints.get_mut(place) {
            *hint = (text, number);
        }
    }

    fn compare(&self, text: *mut ffi::PyObject) -> u8 {
        // SAFETY: `text` is a live object, as in `find`, and the thread is attached.
        if unsafe { ffi::PyUnicode_Check(text) } == 0 {
            return OTHER;
        }
        let is_equal = |name: &&CStr| {
            // SAFETY: `text` is a string, as was just asked, and `name` ends with a zero.
            unsafe { ffi::PyUnicode_CompareWithASCIIString(text, name.as_ptr()) == 0 }
        };
        let at = self.names.iter().position(is_equal);
        at.and_then(|at| u8::try_from(at).ok()).unwrap_or(OTHER)
    }
}

/// A value inside of a container that is being walked: borrowed, for as long as the walk lasts.
#[derive(Clone, Copy)]
pub(super) struct Value<'w, 'py> {
    object: NonNull<ffi::PyObject>,
    py: Python<'py>,
    /// The container is borrowed.
    _walk: std::marker::PhantomData<&'w ()>,
}

impl<'w, 'py> Value<'w, 'py> {
    /// The root of a walk.
    pub(super) fn of(object: &'w Bound<'py, PyAny>) -> Self {
        // SAFETY: a bound object is never null.
        let pointer = unsafe { NonNull::new_unchecked(object.as_ptr()) };
        Self { object: pointer, py: object.py(), _walk: std::marker::PhantomData }
    }

    /// An owned reference.
    pub(super) fn bound(self) -> Bound<'py, PyAny> {
        // SAFETY: alive, because its container is and cannot be changed during the walk.
        unsafe { Bound::from_borrowed_ptr(self.py, self.object.as_ptr()) }
    }

    /// A number from 0 to 2^64 - 1. Of the functions that convert one, those for `size_t` and `long`
    /// are the fast ones: the others copy long numbers byte by byte.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    #[inline]
    pub(super) fn number(self) -> Result<u64, String> {
        // SAFETY: alive as in `bound`, and the thread is attached. No code of Python's runs: the
        // function takes ints alone and never asks for `__index__`.
        let number = unsafe { ffi::PyLong_AsSize_t(self.object.as_ptr()) } as u64;
        if number == u64::MAX { self.checked(number) } else { Ok(number) }
    }

    /// The largest number is also how an error is told.
    #[cold]
    fn checked(self, number: u64) -> Result<u64, String> {
        match PyErr::take(self.py) {
            None => Ok(number),
            Some(error) if error.is_instance_of::<PyOverflowError>(self.py) => {
                Err("is negative or past 2**64".into())
            }
            Some(error) if error.is_instance_of::<PyTypeError>(self.py) => {
                Err(format!("is no int but {}", self.type_name()))
            }
            Some(error) => Err(format!("is not readable: {error}")),
        }
    }

    /// Which of the names it is; `None` if it is none of them.
    #[inline]
    pub(super) fn name(self, names: &mut Names<'py>) -> Option<u8> {
        let number = names.number(self.py, self.object.as_ptr(), 0);
        (number != OTHER).then_some(number)
    }

    /// The values of a dict by their keys' names; `None` where the key is absent, or it is no dict.
    #[inline]
    pub(super) fn fields<const N: usize>(
        self,
        names: &mut Names<'py>,
    ) -> Option<[Option<Value<'w, 'py>>; N]> {
        // SAFETY: alive as in `bound`.
        if unsafe { ffi::PyDict_Check(self.object.as_ptr()) } == 0 {
            return None;
        }
        let mut found = [None; N];
        let (mut position, mut place, mut count) = (0, 0, 0);
        let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a dict, as was just asked, that nobody changes meanwhile; the out-pointers are
        // locals. What comes is borrowed from it.
        while unsafe { ffi::PyDict_Next(self.object.as_ptr(), &mut position, &mut key, &mut value) }
            != 0
        {
            let number = names.number(self.py, key, place);
            if let Some(slot) = found.get_mut(usize::from(number)) {
                *slot = NonNull::new(value).map(|object| Self { object, ..self });
                count += 1;
                if count == N {
                    // A key stands in a dict once.
                    break;
                }
            }
            place += 1;
        }
        Some(found)
    }

    /// The items of a list or tuple; `None` if it is neither.
    pub(super) fn items(self) -> Option<Items<'w, 'py>> {
        // SAFETY: alive as in `bound`.
        let (is_list, is_tuple) = unsafe {
            (
                ffi::PyList_Check(self.object.as_ptr()) != 0,
                ffi::PyTuple_Check(self.object.as_ptr()) != 0,
            )
        };
        let object = self.bound();
        let count = match (is_list, is_tuple) {
            (true, _) => object.cast::<PyList>().map_or(0, PyListMethods::len),
            (_, true) => object.cast::<PyTuple>().map_or(0, PyTupleMethods::len),
            _ => return None,
        };
        Some(Items { of: self, is_list, at: 0, count })
    }

    /// What it is, for an error.
    pub(super) fn type_name(self) -> String {
        self.bound().get_type().name().map_or_else(|_| "something".into(), |name| name.to_string())
    }
}

/// The items of a list or tuple.
pub(super) struct Items<'w, 'py> {
    of: Value<'w, 'py>,
    is_list: bool,
    at: usize,
    count: usize,
}

impl<'w, 'py> Iterator for Items<'w, 'py> {
    type Item = Value<'w, 'py>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.count {
            return None;
        }
        let at = self.at;
        self.at += 1;
        if let Some(later) = self.get(at + AHEAD) {
            prefetch(later.object);
        }
        self.get(at)
    }
}

impl<'w, 'py> Items<'w, 'py> {
    #[inline]
    fn get(&self, at: usize) -> Option<Value<'w, 'py>> {
        if at >= self.count {
            return None;
        }
        let at = ffi::Py_ssize_t::try_from(at).ok()?;
        // SAFETY: a list or tuple as `is_list` says, at least `count` long when the walk began, and
        // nobody changes it meanwhile. The item is borrowed from it; past the end it would be null.
        let object = unsafe {
            if self.is_list {
                ffi::PyList_GetItem(self.of.object.as_ptr(), at)
            } else {
                ffi::PyTuple_GetItem(self.of.object.as_ptr(), at)
            }
        };
        NonNull::new(object).map(|object| Value { object, ..self.of })
    }
}

/// Asks for an object's memory.
#[inline]
fn prefetch(object: NonNull<ffi::PyObject>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that reads nothing; every x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(object.as_ptr().cast_const().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = object;
}
