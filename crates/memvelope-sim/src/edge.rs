//! Reading and writing through the pointers of C callers. The only place that trusts them.

#![expect(unsafe_code, reason = "a C API is made of raw pointers")]

use crate::abi::{Code, Done};
use std::ffi::{CStr, c_char};

/// Writes an out-parameter; a null pointer is an invalid value.
pub(crate) fn put<T>(to: *mut T, value: T) -> Done {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and the C caller guarantees that an out-parameter points to room for one
    // value; unaligned, because nothing in C makes it promise more.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Writes an out-parameter that may be null.
pub(crate) fn put_if<T>(to: *mut T, value: T) {
    let _ = put(to, value);
}

/// Reads an in-parameter; a null pointer is an invalid value.
pub(crate) fn get<T: Copy>(from: *const T) -> Done<T> {
    if from.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and the C caller guarantees that an in-parameter points to one value.
    Ok(unsafe { from.read_unaligned() })
}

/// The text behind a C string.
pub(crate) fn text<'a>(from: *const c_char) -> Done<&'a CStr> {
    if from.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and the C caller guarantees a terminated string that outlives the call.
    Ok(unsafe { CStr::from_ptr(from) })
}

/// Copies `words` with its terminator into `to`, cut to `room` bytes as C APIs do.
pub(crate) fn put_text(to: *mut c_char, room: usize, words: &str) -> Done {
    if to.is_null() || room == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let n = words.len().min(room - 1);
    // SAFETY: the C caller guarantees `room` writable bytes at `to`; n + 1 <= room.
    unsafe {
        std::ptr::copy_nonoverlapping(words.as_ptr(), to.cast::<u8>(), n);
        to.add(n).write(0);
    }
    Ok(())
}

/// Host memory of a copy, to read from.
pub(crate) fn host<'a>(from: *const u8, len: usize) -> Done<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if from.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller of a copy guarantees `len` readable bytes of host memory.
    Ok(unsafe { std::slice::from_raw_parts(from, len) })
}

/// Host memory of a copy, to write to.
pub(crate) fn host_mut<'a>(to: *mut u8, len: usize) -> Done<&'a mut [u8]> {
    if len == 0 {
        return Ok(&mut []);
    }
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller of a copy guarantees `len` writable bytes of host memory; every byte is
    // overwritten before any is read.
    Ok(unsafe { std::slice::from_raw_parts_mut(to, len) })
}
