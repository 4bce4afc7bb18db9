//! Calling the copy that has the process.

#![expect(unsafe_code, reason = "another copy's table")]

use super::{FUNCTIONS_FIRST_BYTES, Functions, Owner, RUNNING, SECOND_FORM_BYTES, STARTING, TABLE};
use super::{Trace, code, tags, tell, word};
use crate::event::TraceContext;
use crate::fork;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Why a call to the owner came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) u32);

fn outcome(code: u32) -> Result<(), Refusal> {
    if code == code::OK { Ok(()) } else { Err(Refusal(code)) }
}

/// Documents past this are refused: a bug, or another version's.
const DOCUMENT_BYTES_MAX: usize = 256 << 20;

/// A text that the owner writes: `(to, room, bytes)`.
fn text_of(write: impl Fn(*mut u8, usize, *mut usize) -> u32) -> Result<Vec<u8>, Refusal> {
    let mut text = vec![0_u8; 64 << 10];
    for _ in 0..8 {
        let mut bytes = 0;
        match write(text.as_mut_ptr(), text.len(), &raw mut bytes) {
            code::OK => {
                text.truncate(bytes);
                return Ok(text);
            }
            code::TOO_SMALL if bytes < DOCUMENT_BYTES_MAX => {
                text.resize(bytes.saturating_add(bytes / 4).max(text.len()), 0);
            }
            code => return Err(Refusal(code)),
        }
    }
    Err(Refusal(code::TOO_SMALL))
}

impl Owner {
    /// Its functions; `None` in a copy too old to have any, and in a forked child.
    fn functions(&self) -> Option<&'static Functions> {
        if !self.is_able() || fork::in_child() {
            return None;
        }
        // SAFETY: only `serve` stores here, and only a static of an object that stays loaded.
        let functions = unsafe { self.table.functions.load(Ordering::Acquire).as_ref() }?;
        (functions.size_bytes as usize >= FUNCTIONS_FIRST_BYTES).then_some(functions)
    }

    /// The same where they are of the second form, too. Of a table of the first one nothing past its
    /// size is read.
    fn second_form(&self) -> Option<&'static Functions> {
        self.functions().filter(|it| it.size_bytes as usize >= size_of::<Functions>())
    }

    fn ask(&self, call: impl FnOnce(&Functions) -> u32) -> Result<(), Refusal> {
        outcome(self.functions().map_or(code::NO_SESSION, call))
    }

    /// Whether it still has the process, or is about to.
    pub(crate) fn has_process(&self) -> bool {
        let owner = self.table.owner.load(Ordering::SeqCst);
        owner == word(RUNNING) || owner == word(STARTING)
    }

    /// Whether it serves clients at all, now or once its session has started.
    pub(crate) fn is_able(&self) -> bool {
        self.table.size_bytes as usize >= SECOND_FORM_BYTES
    }

    /// Enters this copy with it, so that it asks for the tags that are in force here.
    pub(crate) fn greet(&self) {
        if self.table.has_tags() {
            tags::stay_loaded();
            self.table.enter(&TABLE);
        }
    }

    /// A document of one moment. It may grow between the two questions that it takes to get it.
    pub(crate) fn read(&self, which: u32) -> Result<Vec<u8>, Refusal> {
        let functions = self.functions().ok_or(Refusal(code::NO_SESSION))?;
        text_of(|to, room, bytes| (functions.read)(which, to, room, bytes))
    }

    /// Reads a device's planes together; false where the owner cannot.
    pub(crate) fn read_epoch(
        &self,
        device: u32,
        read: Option<&mut dyn FnMut() -> Option<Vec<u8>>>,
    ) -> bool {
        let Some(functions) = self.second_form() else { return false };
        tell::with(read, |teller, data| (functions.read_epoch)(device, teller, data)) == code::OK
    }

    pub(crate) fn accept_framework(&self, text: &[u8]) {
        if let Some(functions) = self.second_form() {
            // Without a session there is nobody to tell.
            let _ = (functions.accept_framework)(text.as_ptr(), text.len());
        }
    }

    pub(crate) fn note_request(&self, device: u32, bytes: u64) {
        if let Some(functions) = self.second_form() {
            // Likewise.
            let _ = (functions.note_request)(device, bytes);
        }
    }

    /// The answer to a [`question`].
    pub(crate) fn answer(&self, which: u32, question: &[u8]) -> Result<Vec<u8>, Refusal> {
        let functions = self.second_form().ok_or(Refusal(code::NO_SESSION))?;
        let (at, length) = (question.as_ptr(), question.len());
        text_of(|to, room, bytes| (functions.answer)(which, at, length, to, room, bytes))
    }

    pub(crate) fn flush(&self, timeout: Duration) -> Result<(), Refusal> {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.ask(|functions| (functions.flush)(nanos))
    }

    pub(crate) fn sample(&self) {
        // Without a session there is nobody to ask.
        let _ = self.ask(|functions| (functions.sample)());
    }

    pub(crate) fn now(&self) -> u64 {
        self.functions().map_or(0, |functions| (functions.now)())
    }

    pub(crate) fn scope_prepare(&self) {
        // Without a session there is nothing to prepare.
        let _ = self.ask(|functions| (functions.scope_prepare)());
    }

    /// The id of the scope; 0 where there is none.
    pub(crate) fn scope_open(&self, name: &str, trace: Option<TraceContext>) -> u64 {
        let trace = trace.map(Trace::from);
        let trace = trace.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        self.functions()
            .map_or(0, |functions| (functions.scope_open)(name.as_ptr(), name.len(), trace))
    }

    /// Whether there is something to leave.
    pub(crate) fn scope_enter(&self, scope: u64, task: u64) -> bool {
        self.ask(|functions| (functions.scope_enter)(scope, task)).is_ok()
    }

    pub(crate) fn scope_leave(&self, scope: u64, task: u64) {
        // It cannot be refused.
        let _ = self.ask(|functions| (functions.scope_leave)(scope, task));
    }

    pub(crate) fn scope_suspend(&self, scope: u64, task: u64) {
        // It cannot be refused.
        let _ = self.ask(|functions| (functions.scope_suspend)(scope, task));
    }

    pub(crate) fn scope_end(&self, scope: u64, start: u64) {
        // Without a session there is no trace to be in.
        let _ = self.ask(|functions| (functions.scope_end)(scope, start));
    }

    pub(crate) fn write_trace(&self, path: &Path, bytes_max: u64) -> Result<[u64; 5], Refusal> {
        let path = path.as_os_str().as_bytes();
        let mut numbers = [0; 5];
        self.ask(|functions| {
            (functions.write_trace)(path.as_ptr(), path.len(), bytes_max, &raw mut numbers)
        })?;
        Ok(numbers)
    }

    pub(crate) fn pause(&self, why: &str) -> Result<(), Refusal> {
        self.ask(|functions| (functions.pause)(why.as_ptr(), why.len()))
    }

    pub(crate) fn resume(&self) -> bool {
        self.ask(|functions| (functions.resume)()).is_ok()
    }
}
