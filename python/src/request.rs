//! What a caller asks for, as the gate is asked.
#![expect(unsafe_code, reason = "one C call: integers of any size, modulo 2^64")]

use crate::convert::{amount, count};
use memvelope::admission::Request;
use memvelope::units::Tokens;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};

/// The arguments as a request. What is no token count at all is passed on as one that the gate
/// refuses, so that it is counted with its reason like every other rejection.
#[inline]
pub(crate) fn request<'a>(
    prompt_tokens: &Bound<'_, PyAny>,
    max_new_tokens: Option<&Bound<'_, PyAny>>,
    pool: Option<&'a str>,
    klass: Option<&'a str>,
    prefix: Option<&Bound<'_, PyAny>>,
) -> PyResult<Request<'a>> {
    let prompt = tokens(prompt_tokens)?;
    let maximum = max_new_tokens.map(tokens).transpose()?;
    let mut request = Request { pool, class: klass, ..Request::new(prompt, maximum) };
    if let Some(prefix) = prefix {
        let (id, tokens) = parse_prefix(prefix)?;
        request = request.with_prefix(id, tokens);
    }
    Ok(request)
}

#[inline]
fn tokens(object: &Bound<'_, PyAny>) -> PyResult<Tokens> {
    Ok(count(object)?.map_or(Tokens::MAX, Tokens))
}

fn parse_prefix(prefix: &Bound<'_, PyAny>) -> PyResult<(u64, Tokens)> {
    let pair = prefix.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
    let Some(pair) = pair else {
        let text = format!("prefix: expected a tuple (id, tokens), not {}", prefix.repr()?);
        return Err(PyTypeError::new_err(text));
    };
    let (id, tokens) = (pair.get_item(0)?, pair.get_item(1)?);
    let id = if let Ok(number) = id.cast::<PyInt>() {
        // SAFETY: `number` is a live int, held by `id`, and the thread is attached, since it is
        // bound. The call takes the low 64 bits and fails for nothing that is an int.
        unsafe { ffi::PyLong_AsUnsignedLongLongMask(number.as_ptr()) }
    } else if let Ok(bytes) = id.cast::<PyBytes>() {
        hashed(bytes.as_bytes())
    } else if let Ok(text) = id.cast::<PyString>() {
        hashed(text.to_str()?.as_bytes())
    } else {
        let found = id.get_type().name()?;
        let text = format!("prefix: its id is an int, bytes or a str, not {found}");
        return Err(PyTypeError::new_err(text));
    };
    Ok((id, Tokens(amount("prefix tokens", "tokens", &tokens)?)))
}

/// FNV-1a with a last mixing: the same in every process and version. Whoever lets strangers choose
/// prefixes gives digests, which cannot be made to collide.
fn hashed(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash =
        bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
