//! A function of the client's that the owner calls while it reads an epoch: it tells the framework
//! plane, as JSON.

#![expect(unsafe_code, reason = "texts and places are passed by address between copies")]

use super::code;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// `(data, where to put the text's address, where to put its length)`. The text stays until the next
/// call, or until the call that it was passed to returns. [`code::OK`] if there is one.
pub type Teller = extern "C" fn(*mut c_void, *mut *const u8, *mut usize) -> u32;

/// Framework planes past this are refused: a bug, or another version's.
const TEXT_BYTES_MAX: usize = 256 << 20;

struct Telling<'a> {
    read: &'a mut dyn FnMut() -> Option<Vec<u8>>,
    text: Vec<u8>,
}

extern "C" fn tell(data: *mut c_void, to: *mut *const u8, bytes: *mut usize) -> u32 {
    let call = AssertUnwindSafe(|| {
        // SAFETY: `with` passes its own `Telling`, which outlives the call that calls us, on one
        // thread at a time.
        let Some(telling) = (unsafe { data.cast::<Telling<'_>>().as_mut() }) else {
            return code::BAD_ARGUMENT;
        };
        let Some(text) = (telling.read)().filter(|_| !to.is_null() && !bytes.is_null()) else {
            return code::FAILED;
        };
        telling.text = text;
        // SAFETY: the owner passes a place for an address and one for a size.
        unsafe {
            to.write(telling.text.as_ptr());
            bytes.write(telling.text.len());
        }
        code::OK
    });
    catch_unwind(call).unwrap_or(code::PANICKED)
}

/// Runs `ask` with a function and its data, by which the owner calls `read`.
pub(super) fn with<T>(
    read: Option<&mut dyn FnMut() -> Option<Vec<u8>>>,
    ask: impl FnOnce(Option<Teller>, *mut c_void) -> T,
) -> T {
    let Some(read) = read else { return ask(None, std::ptr::null_mut()) };
    let mut telling = Telling { read, text: Vec::new() };
    let data: *mut Telling<'_> = &raw mut telling;
    ask(Some(tell), data.cast())
}

/// The owner's end: a copy of what the client tells; `None` if it tells nothing.
pub(crate) fn told(teller: Teller, data: *mut c_void) -> Option<Vec<u8>> {
    let (mut text, mut bytes) = (std::ptr::null(), 0);
    if teller(data, &raw mut text, &raw mut bytes) != code::OK
        || text.is_null()
        || bytes > TEXT_BYTES_MAX
    {
        return None;
    }
    // SAFETY: the client says so many bytes lie there, until it is called again.
    Some(unsafe { std::slice::from_raw_parts(text, bytes) }.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives_as_often_as_it_is_asked() {
        let mut texts = vec![Some(b"two".to_vec()), None, Some(Vec::new()), Some(b"one".to_vec())];
        let mut read = || texts.pop().flatten();
        let heard = with(Some(&mut read), |teller, data| {
            [(); 5].map(|()| teller.and_then(|teller| told(teller, data)))
        });
        assert_eq!(
            heard.map(|text| text.map(|text| text.len())),
            [Some(3), Some(0), None, Some(3), None]
        );
        assert!(with(None, |teller, data| teller.is_none() && data.is_null()));
    }

    #[test]
    fn a_reader_that_panics_tells_nothing() {
        let mut read = || -> Option<Vec<u8>> { panic!("the test's") };
        assert_eq!(with(Some(&mut read), |teller, data| told(teller.unwrap(), data)), None);
    }
}
