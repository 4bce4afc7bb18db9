//! Scopes, told to CUPTI: each thread has a stack of ids, and calls that are recorded carry the top
//! one.
//!
//! CUPTI ties ids to *recorded* calls only, so the calls that launch work have to be recorded, one
//! record each. That begins with the first scope: a program without scopes pays nothing.

#![expect(unsafe_code, reason = "calls into libcupti")]

use super::decode::EXTERNAL_KIND;
use super::state::STATE;
use crate::event::ScopeId;
use cupti_sys::{Cupti, activity_kind, cbid, result, runtime_cbid};
use std::cell::RefCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Driver calls that put work on the device.
const LAUNCHING: &[u32] = &[
    cbid::LAUNCH_KERNEL,
    cbid::LAUNCH_KERNEL_PTSZ,
    cbid::LAUNCH_KERNEL_EX,
    cbid::LAUNCH_KERNEL_EX_PTSZ,
    cbid::LAUNCH_COOPERATIVE_KERNEL,
    cbid::LAUNCH_COOPERATIVE_KERNEL_PTSZ,
    cbid::GRAPH_LAUNCH,
    cbid::GRAPH_LAUNCH_PTSZ,
    cbid::MEMCPY,
    cbid::MEMCPY_PTDS,
    cbid::MEMCPY_ASYNC,
    cbid::MEMCPY_ASYNC_PTSZ,
    cbid::MEMCPY_HTOD_V2,
    cbid::MEMCPY_HTOD_V2_PTDS,
    cbid::MEMCPY_HTOD_ASYNC_V2,
    cbid::MEMCPY_HTOD_ASYNC_V2_PTSZ,
    cbid::MEMCPY_DTOH_V2,
    cbid::MEMCPY_DTOH_V2_PTDS,
    cbid::MEMCPY_DTOH_ASYNC_V2,
    cbid::MEMCPY_DTOH_ASYNC_V2_PTSZ,
    cbid::MEMCPY_DTOD_V2,
    cbid::MEMCPY_DTOD_V2_PTDS,
    cbid::MEMCPY_DTOD_ASYNC_V2,
    cbid::MEMCPY_DTOD_ASYNC_V2_PTSZ,
    cbid::MEMCPY_2D_V2,
    cbid::MEMCPY_2D_ASYNC_V2,
    cbid::MEMCPY_3D_ASYNC_V2,
    cbid::MEMCPY_PEER,
    cbid::MEMCPY_PEER_ASYNC,
    cbid::MEMCPY_PEER_ASYNC_PTSZ,
    cbid::MEMSET_D8_V2,
    cbid::MEMSET_D32_V2,
    cbid::MEMSET_D8_ASYNC,
    cbid::MEMSET_D8_ASYNC_PTSZ,
    cbid::MEMSET_D16_ASYNC,
    cbid::MEMSET_D16_ASYNC_PTSZ,
    cbid::MEMSET_D32_ASYNC,
    cbid::MEMSET_D32_ASYNC_PTSZ,
];

/// Scopes within scopes that a thread can have; deeper ones count with the one around them.
const DEPTH_MAX: usize = 64;

thread_local! {
    /// What this thread has told CUPTI, innermost last.
    static STACK: RefCell<Vec<ScopeId>> = const { RefCell::new(Vec::new()) };
}

/// Tying work to scopes, for one attachment.
#[derive(Debug)]
pub(super) struct Correlation {
    is_wanted: bool,
    /// Whether it could be switched on, and if not why; set with the first scope.
    begun: OnceLock<Result<(), String>>,
    is_over: AtomicBool,
}

impl Correlation {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self { is_wanted, begun: OnceLock::new(), is_over: AtomicBool::new(false) }
    }

    /// Why work is not tied to scopes, if a scope was opened and it is not.
    pub(super) fn problem(&self) -> Option<String> {
        self.begun.get().and_then(|begun| begun.as_ref().err().cloned())
    }

    /// From now on this thread's launches belong to `scope`. False if that cannot be had.
    pub(super) fn push(&self, cupti: &Cupti, scope: ScopeId) -> bool {
        if !self.is_wanted || self.is_over.load(Ordering::Acquire) {
            return false;
        }
        let begun = self.begun.get_or_init(|| begin(cupti));
        begun.is_ok() && tell(cupti, scope)
    }

    /// The end of a scope that was pushed on this thread. Scopes need not end in the order in which
    /// they began: those opened after it stay.
    pub(super) fn pop(&self, cupti: &Cupti, scope: ScopeId) {
        // A thread whose locals are gone already ends, and its stack with it.
        let after = STACK.try_with(|stack| {
            let mut stack = stack.borrow_mut();
            let at = stack.iter().rposition(|id| *id == scope)?;
            Some(stack.split_off(at))
        });
        let Ok(Some(removed)) = after else { return };
        if self.is_over.load(Ordering::Acquire) {
            return;
        }
        let Ok(pop) = cupti.activity_pop_external_correlation_id else { return };
        for _ in &removed {
            let mut last = 0;
            // SAFETY: CUPTI is attached; it writes one u64.
            unsafe { pop(EXTERNAL_KIND, &raw mut last) };
        }
        for inner in removed.iter().skip(1) {
            tell(cupti, *inner);
        }
    }

    /// CUPTI is somebody else's now: nothing more is told to it.
    pub(super) fn abandon(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Switches off what [`begin`] switched on. Ids that are still on threads' stacks stay there
    /// unused.
    pub(super) fn end(&self, cupti: &Cupti) {
        self.is_over.store(true, Ordering::Release);
        if !matches!(self.begun.get(), Some(Ok(()))) {
            return;
        }
        switch_calls(cupti, 0);
        if let Ok(disable) = cupti.activity_disable {
            // SAFETY: CUPTI is attached and the kind is on.
            unsafe { disable(activity_kind::EXTERNAL_CORRELATION) };
        }
    }
}

fn tell(cupti: &Cupti, scope: ScopeId) -> bool {
    let Ok(push) = cupti.activity_push_external_correlation_id else { return false };
    let has_room = STACK.try_with(|stack| {
        let mut stack = stack.borrow_mut();
        let has_room = stack.len() < DEPTH_MAX;
        if has_room {
            stack.push(scope);
        }
        has_room
    });
    if !matches!(has_room, Ok(true)) {
        return false;
    }
    // SAFETY: CUPTI is attached; the call takes two numbers.
    let code = unsafe { push(EXTERNAL_KIND, scope.0) };
    if code != result::SUCCESS {
        // A thread's own stack cannot be gone: it was there a moment ago.
        let _ = STACK.try_with(|stack| stack.borrow_mut().pop());
    }
    code == result::SUCCESS
}

/// Switches the records on that tie work to scopes.
fn begin(cupti: &Cupti) -> Result<(), String> {
    let needs = "work is not tied to scopes: this takes CUPTI 12.5 or later";
    if cupti.activity_enable_driver_api.is_err()
        || cupti.activity_push_external_correlation_id.is_err()
    {
        return Err(needs.into());
    }
    let Ok(enable) = cupti.activity_enable else { return Err(needs.into()) };
    STATE.expect_scopes();
    let refused = switch_calls(cupti, 1);
    if refused == LAUNCHING.len() {
        return Err("work is not tied to scopes: CUPTI records none of the launching calls".into());
    }
    // SAFETY: CUPTI is attached.
    match unsafe { enable(activity_kind::EXTERNAL_CORRELATION) } {
        result::SUCCESS => Ok(()),
        code => {
            switch_calls(cupti, 0);
            let name = cupti_sys::result_name(code);
            Err(format!("work is not tied to scopes: cuptiActivityEnable returned {code} ({name})"))
        }
    }
}

/// Switches the records of launching calls on (1) or off (0). Returns how many driver functions
/// were refused: an older driver lacks the newest.
fn switch_calls(cupti: &Cupti, on: u8) -> usize {
    let mut refused = 0;
    if let Ok(switch) = cupti.activity_enable_driver_api {
        for id in LAUNCHING {
            // SAFETY: CUPTI is attached; the call takes two numbers.
            refused += usize::from(unsafe { switch(*id, on) } != result::SUCCESS);
        }
    }
    if let Ok(switch) = cupti.activity_enable_runtime_api {
        for (_, id) in runtime_cbid::ALL {
            // SAFETY: as above. What this runtime lacks nobody calls.
            unsafe { switch(*id, on) };
        }
    }
    refused
}
