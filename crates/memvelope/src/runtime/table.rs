//! What this copy's session does for clients in other copies of memvelope: the functions of
//! [`crate::source::peers::Functions`].

#![expect(unsafe_code, reason = "other copies pass texts and places by address")]

use super::epoch::Reader;
use super::scope::end_span;
use super::state::Inner;
use super::{Session, session};
use crate::error::Error;
use crate::event::{DeviceIndex, NameId, ScopeId, Tag, TraceContext, replace_tag};
use crate::fork;
use crate::framework::Framework;
use crate::source::cupti::Recorder;
use crate::source::peers::{self, Functions, Teller, Trace, code, document, question};
use crate::units::{Bytes, Nanos};
use std::ffi::{OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Names longer than any that is kept.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Framework planes longer than any that is told.
const LONG_TEXT_BYTES_MAX: usize = 256 << 20;

/// The table.
pub(super) static FUNCTIONS: Functions = Functions {
    size_bytes: size_of::<Functions>() as u32,
    version: 1,
    read,
    flush,
    sample,
    now,
    scope_prepare,
    scope_open,
    scope_enter,
    scope_leave,
    scope_suspend,
    scope_end,
    set_tag,
    write_trace,
    pause,
    resume,
    read_epoch,
    accept_framework,
    note_request,
    answer,
};

/// Runs `body` with the running session; unwinds stop here.
fn guarded(body: impl FnOnce(&Session, &Arc<Inner>) -> u32) -> u32 {
    if fork::in_child() {
        return code::FORKED;
    }
    let call = AssertUnwindSafe(|| {
        let session = session::current();
        let own = session.as_ref().and_then(|session| Some((session, session.own()?)));
        match own {
            Some((session, inner)) if !inner.is_frozen() => body(session, inner),
            _ => code::NO_SESSION,
        }
    });
    catch_unwind(call).unwrap_or(code::PANICKED)
}

/// A text by address; `None` if it makes no sense.
fn text<'a>(at: *const u8, bytes: usize) -> Option<&'a [u8]> {
    if bytes > TEXT_BYTES_MAX { None } else { long_text(at, bytes) }
}

/// The same where there may be a block of text for each of many thousand segments.
fn long_text<'a>(at: *const u8, bytes: usize) -> Option<&'a [u8]> {
    if at.is_null() || bytes > LONG_TEXT_BYTES_MAX {
        return (bytes == 0).then_some(&[]);
    }
    // SAFETY: the other copy passes a text of so many bytes, alive for the time of the call.
    Some(unsafe { std::slice::from_raw_parts(at, bytes) })
}

fn name_of(inner: &Inner, at: *const u8, bytes: usize) -> Option<NameId> {
    Some(inner.names.intern(&String::from_utf8_lossy(text(at, bytes)?)))
}

fn document_of(
    session: &Session,
    inner: &Inner,
    which: u32,
) -> Option<serde_json::Result<Vec<u8>>> {
    Some(match which {
        document::SNAPSHOT => serde_json::to_vec(&session.snapshot()),
        document::REPORT => serde_json::to_vec(&session.report()),
        document::MODE => serde_json::to_vec(&session.mode()),
        document::SELF_COST => serde_json::to_vec(&session.self_cost()),
        document::STATE => serde_json::to_vec(&session.state()),
        document::EPOCHS => serde_json::to_vec(&inner.epochs()),
        _ => return None,
    })
}

extern "C" fn read(which: u32, to: *mut u8, room: usize, bytes: *mut usize) -> u32 {
    guarded(|session, inner| hand_over(document_of(session, inner, which), to, room, bytes))
}

/// Writes a text to where the other copy has room for it.
fn hand_over(
    text: Option<serde_json::Result<Vec<u8>>>,
    to: *mut u8,
    room: usize,
    bytes: *mut usize,
) -> u32 {
    let Some(text) = text.filter(|_| !bytes.is_null()) else { return code::BAD_ARGUMENT };
    let Ok(text) = text else { return code::FAILED };
    // SAFETY: the other copy passes a place for a size.
    unsafe { bytes.write(text.len()) };
    if text.len() > room || to.is_null() {
        return code::TOO_SMALL;
    }
    // SAFETY: there is room for so many bytes, and the text is ours alone.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), to, text.len()) };
    code::OK
}

extern "C" fn read_epoch(device: u32, teller: Option<Teller>, data: *mut c_void) -> u32 {
    guarded(|session, _| {
        let mut read = || {
            let text = peers::told(teller?, data)?;
            serde_json::from_slice::<Framework>(&text).ok()
        };
        let reader: Option<&mut Reader<'_>> = if teller.is_some() { Some(&mut read) } else { None };
        let epoch = session.read_epoch(DeviceIndex(device), reader);
        if epoch.is_some() { code::OK } else { code::FAILED }
    })
}

extern "C" fn accept_framework(at: *const u8, bytes: usize) -> u32 {
    guarded(|session, _| {
        let framework = long_text(at, bytes).map(serde_json::from_slice::<Framework>);
        let Some(Ok(framework)) = framework else { return code::BAD_ARGUMENT };
        session.accept_framework(framework);
        code::OK
    })
}

extern "C" fn note_request(device: u32, bytes: u64) -> u32 {
    guarded(|session, _| {
        session.note_request(DeviceIndex(device), Bytes(bytes));
        code::OK
    })
}

extern "C" fn answer(
    which: u32,
    at: *const u8,
    length: usize,
    to: *mut u8,
    room: usize,
    bytes: *mut usize,
) -> u32 {
    guarded(|session, _| {
        let question = text(at, length);
        hand_over(question.and_then(|text| answer_to(session, which, text)), to, room, bytes)
    })
}

fn answer_to(
    session: &Session,
    which: u32,
    question: &[u8],
) -> Option<serde_json::Result<Vec<u8>>> {
    match which {
        question::WOULD_FIT => {
            let (device, bytes, via) = serde_json::from_slice(question).ok()?;
            Some(serde_json::to_vec(&session.would_fit(device, bytes, via)))
        }
        _ => None,
    }
}

extern "C" fn flush(timeout_ns: u64) -> u32 {
    guarded(|session, _| match session.flush(Duration::from_nanos(timeout_ns)) {
        Ok(()) => code::OK,
        Err(Error::FlushTimeout { .. }) => code::TIMED_OUT,
        Err(_) => code::FAILED,
    })
}

extern "C" fn sample() -> u32 {
    guarded(|session, _| {
        session.sample();
        code::OK
    })
}

extern "C" fn now() -> u64 {
    let mut now = 0;
    guarded(|_, inner| {
        now = inner.now().0;
        code::OK
    });
    now
}

extern "C" fn scope_prepare() -> u32 {
    guarded(|session, _| {
        session.prepare_scopes();
        code::OK
    })
}

extern "C" fn scope_open(name: *const u8, bytes: usize, trace: *const Trace) -> u64 {
    let mut scope = ScopeId::NONE;
    guarded(|_, inner| {
        let Some(name) = name_of(inner, name, bytes) else { return code::BAD_ARGUMENT };
        // SAFETY: null, or a trace that is alive for the time of the call.
        let trace = unsafe { trace.as_ref() }.copied().map(TraceContext::from);
        scope = inner.scopes.open(name, trace);
        code::OK
    });
    scope.0
}

extern "C" fn scope_enter(scope: u64, task: u64) -> u32 {
    guarded(|_, inner| {
        let scope = ScopeId(scope);
        let is_inside = scope.is_some() && Recorder::enter_scope(scope, task, inner.may_call());
        if is_inside { code::OK } else { code::FAILED }
    })
}

extern "C" fn scope_leave(scope: u64, task: u64) -> u32 {
    let leave = |scope| Recorder::leave_scope(scope, task, !session::is_exiting());
    catch_unwind(|| on_thread(scope, leave)).unwrap_or(code::PANICKED)
}

extern "C" fn scope_suspend(scope: u64, task: u64) -> u32 {
    let suspend = |scope| Recorder::suspend_scope(scope, task, !session::is_exiting());
    catch_unwind(|| on_thread(scope, suspend)).unwrap_or(code::PANICKED)
}

/// Also without a session: what this thread is inside of outlives it.
fn on_thread(scope: u64, body: impl FnOnce(ScopeId)) -> u32 {
    if fork::in_child() {
        return code::FORKED;
    }
    if !ScopeId(scope).is_some() {
        return code::BAD_ARGUMENT;
    }
    body(ScopeId(scope));
    code::OK
}

extern "C" fn scope_end(scope: u64, start: u64) -> u32 {
    guarded(|_, inner| {
        let scope = ScopeId(scope);
        if !scope.is_some() {
            return code::BAD_ARGUMENT;
        }
        Recorder::forget_scope(scope);
        end_span(inner, scope, Nanos(start));
        code::OK
    })
}

extern "C" fn set_tag(tag: u32) -> u32 {
    // Needs no session: it is the thread's. An unknown tag, of a later version, is none.
    let set = || {
        let tag = Tag::ALL.get(tag as usize).copied().unwrap_or_default();
        replace_tag(tag) as u32
    };
    catch_unwind(set).unwrap_or(0)
}

extern "C" fn write_trace(
    path: *const u8,
    bytes: usize,
    bytes_max: u64,
    numbers: *mut [u64; 5],
) -> u32 {
    guarded(|session, _| {
        let Some(path) = text(path, bytes).filter(|path| !path.is_empty() && !numbers.is_null())
        else {
            return code::BAD_ARGUMENT;
        };
        match session.write_trace(Path::new(OsStr::from_bytes(path)), bytes_max) {
            Ok(stats) => {
                let found = [
                    stats.events,
                    stats.events_seen,
                    stats.events_left_out,
                    stats.window_stride,
                    stats.bytes,
                ];
                // SAFETY: the other copy passes a place for five numbers.
                unsafe { numbers.write(found) };
                code::OK
            }
            Err(_) => code::FAILED,
        }
    })
}

extern "C" fn pause(why: *const u8, bytes: usize) -> u32 {
    guarded(|session, _| {
        let Some(why) = text(why, bytes) else { return code::BAD_ARGUMENT };
        match session.pause(&String::from_utf8_lossy(why)) {
            Ok(()) => code::OK,
            Err(Error::FlushTimeout { .. }) => code::TIMED_OUT,
            Err(_) => code::FAILED,
        }
    })
}

extern "C" fn resume() -> u32 {
    guarded(|session, _| if session.resume() { code::OK } else { code::FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::{null, null_mut};

    /// Nonsense is answered, not followed. (Without a session everything is `NO_SESSION`; with one:
    /// `runtime/tests.rs` and the tests of two copies.)
    #[test]
    fn nonsense_is_refused() {
        // With another test's session the answers would be others.
        let _turn = crate::runtime::tests::alone();
        for (at, bytes) in [(null(), 5), (null(), usize::MAX), (b"x".as_ptr(), usize::MAX)] {
            assert_eq!(text(at, bytes), None);
        }
        assert_eq!(text(null(), 0), Some(&[][..]));
        assert_eq!(text(b"xy".as_ptr(), 2), Some(&b"xy"[..]));
        let answers = [
            read(document::SNAPSHOT, null_mut(), 0, null_mut()),
            scope_end(0, 0),
            scope_enter(0, 0),
            write_trace(null(), 0, 0, null_mut()),
            accept_framework(null(), 9),
            answer(0, null(), 9, null_mut(), 0, null_mut()),
            pause(null(), 9),
            scope_leave(0, 0),
            scope_suspend(0, 0),
        ];
        let expect = [code::NO_SESSION, code::BAD_ARGUMENT];
        assert!(answers.iter().all(|answer| expect.contains(answer)), "{answers:?}");
        assert_eq!((scope_open(null(), 9, null()), set_tag(u32::MAX)), (0, 0));
        assert_eq!((set_tag(1), set_tag(0)), (0, 1));
    }
}
